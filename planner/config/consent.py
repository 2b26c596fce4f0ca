"""Whether somebody agreed that a folder's code is loaded, once for each content of the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from planner.config.folders import FILE
from planner.errors import UserError

CONTENT = ("tools", "prompts")
"""The folders that, with `planner.toml`, decide what an assistant does."""


def content_hash(folder: Path) -> str:
    """The SHA-256 over names and bytes of everything that decides what the assistant in `folder` does.

    Bytecode caches are left out, so whoever loads the tools must compile their sources. Raises `UserError`
    U-107 for anything but real files and folders: what a link points to can change without the hash.
    """
    digest = hashlib.sha256()
    for path in _content(folder):
        name = os.fsencode(path.relative_to(folder).as_posix())
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError("U-101", f"{path} cannot be read: {error.strerror}") from error
        digest.update(b"%d:%b%d:%b" % (len(name), name, len(data), data))
    return digest.hexdigest()


def _content(folder: Path) -> Iterator[Path]:
    roots = [folder / name for name in (FILE, *CONTENT)]
    inside = sorted(path for root in roots for path in root.rglob("*"))
    for path in (*roots, *inside):
        if "__pycache__" in path.relative_to(folder).parts:
            continue
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise UserError(
                "U-107",
                f"{path} is neither a file nor a folder, so nobody can agree to what it holds",
                hint="Put a copy of the file in its place.",
            )
        if path.is_file():
            yield path


def has_consent(state: Path, content: str) -> bool:
    """Whether somebody agreed to load the folder with this content hash.

    A list that other users of the machine could have written counts for nothing.
    """
    try:
        with _consents(state).open("rb") as file:
            is_private = not os.fstat(file.fileno()).st_mode & 0o022
            return is_private and content.encode() in file.read().split()
    except OSError:
        return False


def give_consent(state: Path, content: str) -> None:
    """Notes that somebody agreed, in a file that only this user can read or write. U-108 if it cannot."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(_consents(state), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            if os.fstat(descriptor).st_mode & 0o022:
                file.truncate(0)
            os.fchmod(descriptor, 0o600)
            file.write(content.encode() + b"\n")
    except OSError as error:
        raise UserError(
            "U-108",
            f"the consent cannot be noted in {_consents(state)}: {error.strerror}",
            hint="Name a folder you can write to with `--state` or PLANNER_STATE.",
        ) from error


def _consents(state: Path) -> Path:
    return state / "consents"
