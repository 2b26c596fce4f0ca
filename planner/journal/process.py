"""Which process is this, and does that other one still live?

A pid alone does not tell, because pids are used again; together with the moment the process started it does.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process, so that it can be told from every other, also after it is gone."""

    host: str
    pid: int
    start: str
    """When it started, in the words of its system; empty if that could not be told."""


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    try:
        return Process(_host(), pid, _start(pid))
    except (OSError, subprocess.SubprocessError):
        return Process(_host(), pid, "")


def is_alive(process: Process) -> bool | None:
    """Whether it still runs; None if nobody can tell from here."""
    if not process.start or process.host != _host():
        return None
    try:
        return _start(process.pid) == process.start
    except (OSError, subprocess.SubprocessError):
        return None


def _host() -> str:
    """The machine and, on Linux, the pid namespace: in another container the same pid is another process."""
    name = os.uname().nodename
    try:
        return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return name


def _start(pid: int) -> str:
    """When the process started, empty if there is none; a zombie has ended, only nobody has asked how yet."""
    return _start_in_proc(pid) if Path("/proc/self/stat").exists() else _start_by_ps(pid)


def _start_in_proc(pid: int) -> str:
    """From field 22 of `stat`, in ticks since the boot that `boot_id` names (`man 5 proc`)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # field 2, the name in parentheses, may itself hold spaces and parentheses
    state, *fields = stat.rpartition(")")[2].split()
    if state in {"Z", "X"}:
        return ""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()} {fields[18]}"


def _start_by_ps(pid: int) -> str:
    shown = subprocess.run(  # noqa: S603 (a constant program, and a number)
        ["/bin/ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)],
        env={"LC_ALL": "C", "TZ": "UTC"},  # two processes must read the same words
        capture_output=True,
        text=True,
        timeout=5,
        check=False,
    ).stdout.strip()
    state, _, start = shown.partition(" ")
    return "" if state.startswith("Z") else start.strip()
