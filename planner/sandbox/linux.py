"""The sandbox of Linux: Landlock for files, a filter of system calls for the rest, a supervisor for the limits.

It needs no rights, no helper programs and no namespaces; docs/decisions/014 says why it is made of these parts.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import ErrorClass, ToolError
from planner.sandbox import landlock, seccomp
from planner.sandbox.contract import LIMITS, Limits, Ran, Reached

GRACE_S = 30.0
"""How much later than the time limit a supervisor may tell how its program ended; machines can be busy."""
START_S = 15.0
"""How long a supervisor may take to start: a Python without modules takes 20 ms on an idle machine."""
PATH = "/usr/local/bin:/usr/bin:/bin"
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
)
"""What programs are made of."""
DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")
_LAUNCHER = Path(__file__).with_name("_launcher.py")
_CHUNK = 65_536
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def interpreter() -> Path:
    """The Python that runs this program, as a file that a sandbox can start."""
    return Path(sys.executable).resolve()


@dataclass(frozen=True, slots=True)
class LinuxSandbox:
    """Runs each program under a supervisor of its own."""

    machine: str
    """One of `seccomp.MACHINES`."""
    landlock_abi: int

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
        """How the program ended; see `Sandbox`."""
        try:
            scratch = _scratch()
        except OSError as error:
            raise _failure(f"there is no scratch folder: {error.strerror}") from error
        try:
            order = {
                "argv": list(argv),
                "cwd": str(cwd or scratch),
                "environ": _environment(scratch, environ or {}),
                "machine": self.machine,
                "ruleset": landlock.ruleset(self.landlock_abi).hex(),
                "rules": list(_rules(reads, [scratch, *writes])),
                "filter": seccomp.program(self.machine, may_signal=self.landlock_abi >= landlock.SCOPED_ABI).hex(),
                "rlimits": _rlimits(limits),
                "limits": limits.model_dump(),
            }
            with _Launch(order, stdin) as launch:
                return await launch.ended(limits)
        finally:
            await asyncio.to_thread(clear, scratch)


def _scratch() -> Path:
    """A new folder that nobody else may look into."""
    return Path(tempfile.mkdtemp(prefix="planner-")).resolve()


def _environment(scratch: Path, given: Mapping[str, str]) -> dict[str, str]:
    own = {"PATH": PATH, "HOME": str(scratch), "TMPDIR": str(scratch), "LANG": "C.UTF-8"}
    return {**own, **given}


def _rules(reads: Sequence[Path], writes: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Paths with what may be done there; those of the system that are not on this one are left out."""
    base = Path(sys.base_prefix)
    system = [*map(Path, (*SYSTEM, *DEVICES)), *(base / name for name in ("bin", "lib", "lib64"))]
    for path in [*filter(Path.exists, system), *reads]:
        yield str(path), landlock.READING & (-1 if path.is_dir() else landlock.OF_FILES)
    yield os.devnull, landlock.READ_FILE | landlock.WRITE_FILE
    for path in writes:
        yield str(path), landlock.WRITING & (-1 if path.is_dir() else landlock.OF_FILES)


def _rlimits(limits: Limits) -> dict[str, tuple[int, int]]:
    """The limits that the kernel keeps, for each process: at the first it gets a signal, at the second it ends."""
    most = {"RLIMIT_AS": limits.memory_bytes, "RLIMIT_FSIZE": limits.file_bytes, "RLIMIT_NOFILE": limits.open_files}
    both = {name: (limit, limit) for name, limit in {**most, "RLIMIT_CORE": 0}.items()}
    return {**both, "RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1)}


class _Launch:
    """One program under its supervisor, and what leads to them. Leaving it ends both."""

    def __init__(self, order: Mapping[str, Any], stdin: bytes) -> None:
        self._argv: list[str] = order["argv"]
        self._report, report = os.pipe()
        lifeline, wanted = os.pipe()
        self._lifeline: int | None = wanted
        os.set_blocking(self._report, False)
        told = json.dumps({**order, "report": report, "lifeline": lifeline}).encode()
        self._order, self._stdin = _sealed("order", told), _sealed("stdin", stdin)
        self._passed = (self._order, report, lifeline)
        self._open = [*self._passed, self._stdin]
        self._is_full = False

    def __enter__(self) -> _Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._let_go()
        os.close(self._report)

    def _let_go(self) -> None:
        """Closes what only the supervisor needs; the second time it does nothing."""
        while self._open:
            os.close(self._open.pop())

    def _stop(self) -> None:
        """Has the supervisor end the program; the second time it does nothing."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    async def ended(self, limits: Limits) -> Ran:
        """How the program ended. Raises `ToolError` T-602 or T-603."""
        process = await self._started()
        patience_s = limits.time_s + GRACE_S
        try:
            async with asyncio.timeout(patience_s):
                stdout, stderr = await self._watched(process, limits.output_bytes)
        except TimeoutError as error:
            raise _failure(f"its supervisor did not answer within {patience_s:g} s") from error
        finally:
            await self._over(process)
        told = self._told()
        if "exit_code" not in told:
            raise _problem(self._argv[0], told.get("problem"))
        reached: Reached | None = "output" if self._is_full else told["reached"]
        used = {name: told[name] for name in ("exit_code", "wall_s", "cpu_s")}
        return Ran(stdout=stdout, stderr=stderr, reached=reached, **used)

    async def _started(self) -> Process:
        try:
            async with asyncio.timeout(START_S):  # a loop that ends cancels parts of this that it then waits for
                return await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(_LAUNCHER), str(self._order)),
                    stdin=self._stdin,
                    stdout=PIPE,
                    stderr=PIPE,
                    pass_fds=self._passed,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
        except TimeoutError as error:
            raise _failure(f"its supervisor did not start within {START_S:g} s") from error
        except OSError as error:
            raise _failure(f"`{sys.executable}` does not start: {error.strerror}") from error
        finally:
            self._let_go()

    async def _watched(self, process: Process, most: int) -> list[bytes]:
        """The output and the errors of the program, each up to `most` bytes, once its supervisor has ended."""
        streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        said = await asyncio.gather(*(self._read(stream, most) for stream in streams))
        await process.wait()
        return said

    async def _read(self, stream: asyncio.StreamReader, most: int) -> bytes:
        """The beginning of what comes. The rest is taken, too: nobody waits to be rid of it."""
        content = b""
        while chunk := await stream.read(_CHUNK):
            if len(content) + len(chunk) > most:
                self._is_full = True
                self._stop()
            content += chunk[: most - len(content)]
        return content

    async def _over(self, process: Process) -> None:
        """Sees to it that nothing is left. Without its supervisor, the kernel ends a program."""
        self._stop()
        if process.returncode is None:
            await self._drained(process)
        if process.returncode is None:
            process.kill()
            await self._drained(process)

    async def _drained(self, process: Process) -> None:
        """Waits until everything has ended, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._watched(process, 0)

    def _told(self) -> dict[str, Any]:
        """What the supervisor told before it ended."""
        with suppress(BlockingIOError):
            return dict(json.loads(os.read(self._report, _CHUNK) or "{}"))
        return {}


def _sealed(name: str, content: bytes) -> int:
    """A file in memory that holds `content`, to be read from its beginning and not to be changed."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(file, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


def _problem(program: str, told: Mapping[str, Any] | None) -> ToolError:
    """What the launcher could not do, as an error."""
    if told is None:
        return _failure("its supervisor ended without a word")
    if told["step"] != "start":
        return _failure(f"{told['step']}: {told['text']}")
    classes: dict[int, ErrorClass] = {errno.ENOENT: "missing", errno.EACCES: "denied", errno.EPERM: "denied"}
    what = f"`{program}` cannot be started: {told['text']}"
    hint = f"Only the system's programs can; a name without `/` is looked for in {PATH}."
    return ToolError("T-603", what, hint=hint, error_class=classes.get(told["errno"], "failed"))


def _failure(what: str) -> ToolError:
    hint = "See `planner doctor`."
    return ToolError("T-602", f"the sandbox could not be set up: {what}", hint=hint, error_class="unavailable")


def clear(folder: Path) -> None:
    """Removes a folder whatever a program made of it: too deep for recursion, or closed to its owner.

    Nothing may run any more that could put a link in the place of a folder.
    """
    here = os.open(folder, _FOLDER)
    left = [_emptied(here)]
    while left[0]:
        if left[-1]:
            os.chmod(left[-1][-1], 0o700, dir_fd=here)
            here = _moved(here, left[-1][-1])
            left.append(_emptied(here))
        else:
            left.pop()
            here = _moved(here, "..")
            os.rmdir(left[-1].pop(), dir_fd=here)
    os.close(here)
    folder.rmdir()


def _emptied(here: int) -> list[str]:
    """The folders in an open folder; everything else in it is removed."""
    with os.scandir(here) as found:
        entries = list(found)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=here)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _moved(here: int, name: str) -> int:
    """Another open folder instead of this one."""
    there = os.open(name, _FOLDER, dir_fd=here)
    os.close(here)
    return there
