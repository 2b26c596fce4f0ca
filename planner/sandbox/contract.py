"""What a sandbox promises: a program runs with limits, touches what it was given, and leaves nothing running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from pydantic import Field

from planner.core.labels import Frozen

Reached: TypeAlias = Literal["time", "cpu", "memory", "processes", "output"]
"""A limit that ended a program and everything it had started."""


class Limits(Frozen):
    """How much a program and all that it starts may use together, unless it says otherwise."""

    time_s: float = Field(default=30.0, gt=0, le=3_600, allow_inf_nan=False)
    """By the clock."""
    cpu_s: int = Field(default=30, ge=1)
    memory_bytes: int = Field(default=512 * 1024 * 1024, ge=32 * 1024 * 1024)
    """Also the most address space of each process. An interpreter needs 32 MiB to start."""
    processes: int = Field(default=64, ge=1)
    """Processes and threads at one time."""
    open_files: int = Field(default=256, ge=8)
    """Of each process."""
    file_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Of each file."""
    output_bytes: int = Field(default=1_000_000, ge=0)
    """Of standard output, and of standard error."""
    network: Literal[False] = False
    """There is none, and no limit can give one."""


LIMITS = Limits()
"""Enough for a calculation or a filter over files; a caller that knows more says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended; nothing that it started is left."""

    exit_code: int
    """As in `subprocess`: -9 stands for signal 9."""
    stdout: bytes
    stderr: bytes
    reached: Reached | None
    """The limit that ended it. `cpu_s` and `wall_s` are what it and all that it started used."""
    wall_s: float
    cpu_s: float


class Sandbox(Protocol):
    """A way to run programs that cannot do more than they were given."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: Limits = LIMITS,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Ran:
        """How the program ended. A cancelled call ends it at once.

        It may read the system's programs and what stands in `reads`, and write in `writes` and in a scratch
        folder that is its home, its `TMPDIR` and, without `cwd`, its working folder, and is gone afterwards. Its
        environment is `environ` and what programs need everywhere. Raises `ToolError` T-602 if the sandbox could
        not be set up, T-603 if the program could not be started.
        """
        ...
