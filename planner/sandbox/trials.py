"""Whether this machine can hold programs in: tried, not assumed."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from planner.errors import ToolError
from planner.sandbox import landlock, seccomp
from planner.sandbox.contract import Limits, Sandbox
from planner.sandbox.linux import LinuxSandbox, interpreter

LIMITS = Limits(time_s=30, memory_bytes=256 * 1024 * 1024, processes=4)
"""Of a trial. A busy machine may need long for it; nobody waits for the clock but where it is tried."""
SHORT = Limits(time_s=0.2)
_TRIAL = Path(__file__).with_name("_trial.py")
_FORKING = "import os, time\nfor _ in range(100):\n    os.fork() or time.sleep(100)\ntime.sleep(100)"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a sandbox enforces on this machine, or why there is none."""

    sandbox: Sandbox | None = None
    holds: tuple[str, ...] = ()
    reason: str = ""


def probe() -> Probe:
    """The sandbox of this machine, if every attempt to get out of it fails. It takes a quarter of a second."""
    reason = _missing()
    if reason:
        return Probe(reason=reason)
    sandbox = LinuxSandbox(machine=platform.machine(), landlock_abi=landlock.abi())
    with ThreadPoolExecutor(1) as pool:  # where it is called, a loop may run already
        try:
            tried = dict(pool.submit(asyncio.run, _tried(sandbox)).result())
        except (ToolError, ValueError) as error:
            return Probe(reason=f"a trial could not be made: {error}")
    leaks = [f"a sandboxed program could {what}" for possible in tried.values() for what in possible]
    if leaks:
        return Probe(reason="; ".join(leaks))
    return Probe(sandbox, holds=tuple(sorted(tried)))


def _missing() -> str:
    """What there must be and is not."""
    if sys.platform != "linux":
        return f"there is a sandbox for Linux only, and this is {platform.system()}"
    if platform.machine() not in seccomp.MACHINES:
        return f"there is a sandbox for {' and '.join(seccomp.MACHINES)} only, and this is {platform.machine()}"
    version = landlock.abi()
    if version < landlock.NEEDED_ABI:
        there = f"version {version}" if version else "none"
        return f"the kernel must have Landlock of version {landlock.NEEDED_ABI} or later, and has {there}"
    return ""


async def _tried(sandbox: Sandbox) -> dict[str, list[str]]:
    """What could be done that is forbidden, by what forbids it. Raises `ToolError` or `ValueError`."""
    python = [str(interpreter()), "-I", "-S"]
    with tempfile.TemporaryDirectory() as folder:
        file, name = tempfile.mkstemp(dir=folder)
        os.close(file)
        told = (name, str(os.getpid()), str(LIMITS.memory_bytes))
        attempted, forked, slept = await asyncio.gather(
            sandbox.run([*python, "-", *told], stdin=_TRIAL.read_bytes(), limits=LIMITS),
            sandbox.run([*python, "-c", _FORKING], limits=LIMITS),
            sandbox.run([*python, "-c", "import time; time.sleep(100)"], limits=SHORT),
        )
    if attempted.exit_code != 0:
        raise ValueError(attempted.stderr.decode(errors="replace")[-300:] or f"it ended with {attempted.exit_code}")
    found: dict[str, list[str]] = json.loads(attempted.stdout)
    found["number of processes"] = [] if forked.reached == "processes" else ["begin more processes than it may"]
    found["time"] = [] if slept.reached == "time" else ["run longer than it may"]
    return found
