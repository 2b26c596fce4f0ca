"""The one folder that tools may touch: names in it are understood forgivingly, and never lead out of it.

Rules of the file:
- A name is resolved once. Then each folder on the way is opened by descriptor without following links, so a link
  put there in between leads nowhere.
- Looking finds a name without regard to case if only one fits; changing takes the name as it is.
- Hidden files and links are not listed. Nothing inside a `.git` folder is changed: it holds programs.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path, PurePath
from typing import Literal

from planner.errors import ErrorClass, ToolError

MAX_BYTES = 5_000_000  # a value of a plan is kept in the journal and may be shown to a model
MAX_FILES = 20_000  # a second or so of looking
MAX_COMPARED = 2_000
MAX_CHOICES = 5
LIKENESS = 0.6  # difflib's own advice for "close"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_CLASSES: dict[int, ErrorClass] = {
    errno.ENOENT: "missing",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ENAMETOOLONG: "invalid",
    errno.ENOTDIR: "conflict",
    errno.EISDIR: "conflict",
    errno.ELOOP: "conflict",
    errno.ENOSPC: "limit",
    errno.EDQUOT: "limit",
    errno.EFBIG: "limit",
}


def found(workspace: Path, name: str, *, wanted: Literal["file", "folder"] = "file") -> PurePath:
    """The existing file or folder that `name` means, relative to the workspace.

    Raises T-301, or T-302 with the nearest names of what is wanted.
    """
    exact = placed(workspace, name)
    if what_is(workspace, exact):
        return exact
    spelled = _spelled(workspace, exact)
    if spelled is None:
        near = _near(workspace, exact, wanted)
        hint = f"Did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else "Name one that exists."
        what = f"there is no `{name}` in the workspace"
        raise ToolError("T-302", what, error_class="missing", hint=hint, choices=near)
    return placed(workspace, str(spelled))


def placed(workspace: Path, name: str) -> PurePath:
    """Where `name` is or would be, relative to the workspace, links resolved. Raises T-301 outside of it."""
    root = workspace.resolve()
    real = Path(os.path.realpath(root / (name or ".")))
    if not real.is_relative_to(root):
        what = f"`{name}` is outside the workspace"
        raise ToolError("T-301", what, error_class="denied", hint="Name it relative to the workspace.")
    return real.relative_to(root)


def what_is(workspace: Path, path: PurePath) -> Literal["file", "folder", "other"] | None:
    """What is at a path; None if there is nothing."""
    try:
        with _explained(path):
            mode = (workspace / path).stat().st_mode
    except ToolError as error:
        if error.error_class in {"missing", "conflict"}:
            return None
        raise
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def read(workspace: Path, path: PurePath) -> bytes | None:
    """The content of a file; None if there is none. Raises T-303 to T-306 for what cannot be read whole."""
    with _explained(path):
        try:
            with _opened(workspace, path.parent) as folder:
                descriptor = os.open(path.name or ".", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError:
            return None
        try:
            _check(workspace, path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise _too_large(path, len(content))
    return content


def read_text(workspace: Path, path: PurePath) -> str:
    """The text of a file. Raises T-302 if it is gone, T-303 to T-306 for what cannot be read as text."""
    content = read(workspace, path)
    if content is None:
        raise ToolError("T-302", f"there is no `{path}` in the workspace", error_class="missing")
    return content.decode(encoding(content, path))


def _check(workspace: Path, path: PurePath, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        inside = tuple(islice(walk(workspace, path), MAX_CHOICES))
        hint = f"Name a file in it, such as {' or '.join(f'`{name}`' for name in inside)}." if inside else ""
        raise ToolError("T-303", f"`{path}` is a folder", error_class="invalid", hint=hint, choices=inside)
    if not stat.S_ISREG(status.st_mode):
        raise ToolError("T-303", f"`{path}` is no regular file", error_class="invalid")
    if status.st_size > MAX_BYTES:
        raise _too_large(path, status.st_size)


def _too_large(path: PurePath, size_bytes: int) -> ToolError:
    what = f"`{path}` has {size_bytes:,} bytes; more than {MAX_BYTES:,} are not handled"
    return ToolError("T-305", what, error_class="limit", hint="Split it, or use a smaller one.")


def encoding(content: bytes, path: PurePath) -> str:
    """How a text file is encoded: by its byte order mark, else UTF-8 if it is that, else Windows-1252.

    Raises T-304 for what is no text: it holds control characters, or bytes that neither encoding has.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        guesses: tuple[str, ...] = ("utf-16",)
    elif re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", content):
        guesses = ()
    else:
        guesses = ("utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8", "cp1252")
    for guess in guesses:
        with suppress(UnicodeDecodeError):
            content.decode(guess)
            return guess
    raise ToolError("T-304", f"`{path}` is not a text file", error_class="invalid", hint="Choose a text file.")


def replace(workspace: Path, path: PurePath, content: bytes) -> None:
    """Writes a file as a whole, or leaves everything as it was; creates the folders above it."""
    check_change(workspace, path)
    temporary = f".{secrets.token_hex(8)}.tmp"
    with _explained(path), _opened(workspace, path.parent, create=True) as folder:
        mode = _mode(path, folder)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if mode is not None:
                    os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
        with suppress(OSError):  # it is done; some file systems cannot do more
            os.fsync(folder)


def _mode(path: PurePath, folder: int) -> int | None:
    """The permissions of the file that is there; None if there is none. Raises `PermissionError` if read-only."""
    try:
        mode = stat.S_IMODE(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None
    if not mode & 0o222:
        raise PermissionError(errno.EACCES, "is read-only")
    return mode


def remove(workspace: Path, path: PurePath) -> None:
    """Removes a file."""
    check_change(workspace, path)
    with _explained(path), _opened(workspace, path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)


def rename(workspace: Path, source: PurePath, target: PurePath) -> None:
    """Moves a file to a name that is free; creates the folders above it."""
    check_change(workspace, source)
    check_change(workspace, target)
    with (
        _explained(source),
        _opened(workspace, source.parent) as old,
        _opened(workspace, target.parent, create=True) as new,
    ):
        os.rename(source.name, target.name, src_dir_fd=old, dst_dir_fd=new)


def check_change(workspace: Path, path: PurePath) -> None:
    """Raises T-301 or T-303 for a name that no file may be written to."""
    if ".git" in (part.casefold() for part in path.parts):
        raise ToolError("T-301", f"`{path}` belongs to git, which may run it", error_class="denied")
    if what_is(workspace, path) == "folder":
        hint = "Name a file in it."
        raise ToolError("T-303", f"`{path}` is a folder", error_class="invalid", hint=hint)


def walk(workspace: Path, folder: PurePath, *, is_deep: bool = False) -> Iterator[str]:
    """The regular files of a folder in order of their names, relative to the workspace; `is_deep`: and below.

    Raises T-305 beyond `MAX_FILES`.
    """
    count = 0
    with _explained(folder), _opened(workspace, folder) as top:
        for place, folders, files, descriptor in os.fwalk(".", dir_fd=top):
            folders[:] = sorted(name for name in folders if is_deep and _is_shown(name))
            for name in sorted(filter(_is_shown, files)):
                if stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    count += 1
                    yield (folder / place / name).as_posix()
            if count > MAX_FILES:
                what = f"`{folder}` holds more than {MAX_FILES:,} files"
                raise ToolError("T-305", what, error_class="limit", hint="Name a folder below it.")


def _is_shown(name: str) -> bool:
    """Whether a name is listed: not hidden, and one line of proper characters."""
    return not name.startswith(".") and name.isprintable()


@contextmanager
def _opened(workspace: Path, folder: PurePath, *, create: bool = False) -> Iterator[int]:
    """A descriptor of a folder, reached step by step without following links."""
    descriptor = os.open(workspace.resolve(), _FOLDER)
    try:
        for part in folder.parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: PurePath) -> Iterator[None]:
    """Turns an error of the operating system into one that names the path."""
    try:
        yield
    except OSError as error:
        error_class = _CLASSES.get(error.errno or 0, "failed")
        raise ToolError("T-306", f"`{path}`: {error.strerror}", error_class=error_class) from error


def _spelled(workspace: Path, wanted: PurePath) -> PurePath | None:
    """The existing path that differs from `wanted` only in case; None if there is none, or more than one."""
    here = PurePath()
    for part in wanted.parts:
        if what_is(workspace, here / part):
            here /= part
            continue
        if what_is(workspace, here) != "folder":
            return None
        with _explained(here):
            names = [other.name for other in (workspace / here).iterdir()]
        alike = [name for name in names if _folded(name) == _folded(part)]
        if len(alike) != 1:
            return None
        here /= alike[0]
    return here


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _near(workspace: Path, name: PurePath, wanted: Literal["file", "folder"]) -> tuple[str, ...]:
    """The files or folders whose names are most like `name`."""

    def likeness(path: str) -> float:
        pairs = ((str(name), path), (name.name, PurePath(path).name))
        return max(SequenceMatcher(None, a.casefold(), b.casefold()).ratio() for a, b in pairs)

    names = list(islice(walk(workspace, PurePath(), is_deep=True), MAX_COMPARED))
    if wanted == "folder":
        names = [*dict.fromkeys(PurePath(path).parent.as_posix() for path in names)]
    scored = [(likeness(path), path) for path in names]
    scored.sort(key=lambda pair: -pair[0])
    return tuple(path for score, path in scored if score >= LIKENESS)[:MAX_CHOICES]
