"""Programs that tools run: in the sandbox, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from planner.errors import ToolError
from planner.sandbox import LIMITS, Limits, Probe, probe

SHOWN_BYTES = 2_000
"""Of what a program says went wrong."""


@lru_cache(maxsize=1)
def _probed() -> Probe:
    return probe()


async def sandboxed(argv: Sequence[str], *, stdin: str = "", workspace: Path, limits: Limits = LIMITS) -> str:
    """What the program prints. It may read the workspace, writes to a scratch folder alone, and has no network.

    Raises `ToolError` T-601 where nothing here could hold it, T-602 or T-603 if it cannot be started, T-604 if it
    failed or reached a limit.
    """
    found = await asyncio.to_thread(_probed)
    if found.sandbox is None:
        hint = "`planner doctor` says what is missing; without a sandbox no program is run."
        raise ToolError("T-601", f"there is no sandbox here: {found.reason}", error_class="unavailable", hint=hint)
    ran = await found.sandbox.run(argv, stdin=stdin.encode(), limits=limits, reads=[workspace], cwd=workspace)
    if ran.reached is not None:
        raise ToolError("T-604", f"`{argv[0]}` used up its {ran.reached}", error_class="limit")
    if ran.exit_code != 0:
        said = ran.stderr[-SHOWN_BYTES:].decode(errors="replace").strip()
        raise ToolError("T-604", f"`{argv[0]}` ended with {ran.exit_code}: {said}", error_class="failed")
    return ran.stdout.decode(errors="replace")
