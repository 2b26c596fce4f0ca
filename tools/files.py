"""Files of the workspace: list, read, write, append, search, move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import re2

from planner.errors import ToolError
from planner.tools import FilePath, FolderPath, Json, Table, ToolContext, tool

from . import _workspace as workspace

MAX_HITS = 1_000
MAX_LINE = 300


# looking ------------------------------------------------------------------------------------------------------


@tool(
    effect="read",
    resource=("file:{folder}/**",),
    control={"folder": "bounded", "pattern": "bounded"},
    out="bounded",
    keywords=("directory", "all", "every", "each", "names", "which"),
)
def list_(context: ToolContext, folder: FolderPath = ".", pattern: str = "*") -> list[FilePath]:
    """List the files of a folder.

    Args:
        folder: the folder
        pattern: which names, such as `*.txt`; `**/*.txt` looks in folders below too
        context: the workspace
    """
    place = workspace.found(context.workspace, folder, wanted="folder")
    if workspace.what_is(context.workspace, place) != "folder":
        above = place.parent.as_posix()
        hint = f"Name a folder, such as `{above}`."
        raise ToolError("T-303", f"`{place}` is a file", error_class="invalid", hint=hint, choices=(above,))
    is_wanted = _matcher(pattern)
    files = workspace.walk(context.workspace, place, is_deep="/" in pattern or "**" in pattern)
    return [path for path in files if is_wanted(PurePath(path).relative_to(place).as_posix())]


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path fits a pattern, without regard to case; linear in the path whatever the pattern is."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re2.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern.strip().removeprefix("./") or "*")
    compiled = re2.compile("(?is)" + "".join(words.get(part) or re2.escape(part) for part in parts))
    return lambda path: compiled.fullmatch(path) is not None


@tool(
    effect="read",
    resource=("file:{path}",),
    control={"path": "bounded"},
    readers_from=("@principal",),
    converts=True,
    keywords=("open", "load", "content", "show", "get"),
)
def read(path: FilePath, context: ToolContext) -> str:
    """Read the text of a file."""
    return workspace.read_text(context.workspace, workspace.found(context.workspace, path))


@tool(
    effect="read",
    resource=("file:{folder}", "file:{folder}/**"),
    control={"folder": "bounded"},
    out="fields",
    bounded_fields=("path", "line"),
    readers_from=("@principal",),
    keywords=("find", "grep", "look", "contain", "mention", "occur", "which"),
)
def search(text: str, context: ToolContext, folder: FolderPath = ".") -> Table:
    """Find the lines that contain a text, in all files.

    Args:
        text: what to look for; capitals do not matter
        folder: where to look, folders below included
        context: the workspace
    """
    wanted = text.strip().casefold()
    if not wanted:
        raise ToolError("T-309", "there is no text to search for", error_class="invalid")
    place = workspace.found(context.workspace, folder, wanted="folder")
    is_file = workspace.what_is(context.workspace, place) == "file"
    paths = [place.as_posix()] if is_file else workspace.walk(context.workspace, place, is_deep=True)
    hits: list[dict[str, Json]] = []
    for path in paths:
        hits += _hits(context, PurePath(path), wanted)
        if len(hits) > MAX_HITS:
            what = f"more than {MAX_HITS:,} lines contain `{text:.40}`"
            raise ToolError("T-309", what, error_class="limit", hint="Look for a longer text, or in one folder.")
    return hits


def _hits(context: ToolContext, path: PurePath, wanted: str) -> list[dict[str, Json]]:
    """The lines of one file; none if it is too large or no text."""
    try:
        text = workspace.read_text(context.workspace, path)
    except ToolError:
        return []
    lines = enumerate(text.splitlines(), start=1)
    return [
        {"path": path.as_posix(), "line": number, "text": line.strip()[:MAX_LINE]}
        for number, line in lines
        if wanted in line.casefold()
    ]


# changing -----------------------------------------------------------------------------------------------------


def _undo_write(path: FilePath, text: str, context: ToolContext) -> None:
    _restore(path, context, lambda _: text.encode())


@tool(
    effect="write",
    resource=("file:{path}",),
    control={"path": "bounded"},
    on_doubt="idempotent",
    undo=_undo_write,
    out="bounded",
    keywords=("save", "create", "store", "put", "output", "export", "make"),
)
def write(path: FilePath, text: str, context: ToolContext) -> FilePath:
    """Write text to a file, replacing what it held."""
    place, earlier = _target(path, context)
    content = text.encode()
    context.keep(place.as_posix(), earlier)
    workspace.replace(context.workspace, place, content)
    return place.as_posix()


def _was_appended(path: FilePath, text: str, context: ToolContext) -> bool | None:
    place = workspace.placed(context.workspace, path)
    now = workspace.read(context.workspace, place)
    try:
        earlier = context.kept(place.as_posix())
    except KeyError:
        return False
    if now == earlier:
        return False
    return True if now == _joined(earlier, text) else None


def _undo_append(path: FilePath, text: str, context: ToolContext) -> None:
    _restore(path, context, lambda earlier: _joined(earlier, text))


@tool(
    effect="write",
    resource=("file:{path}",),
    control={"path": "bounded"},
    on_doubt="probe",
    probe=_was_appended,
    undo=_undo_append,
    out="bounded",
    keywords=("add", "insert", "log", "end", "extend"),
)
def append(path: FilePath, text: str, context: ToolContext) -> FilePath:
    """Add text to the end of a file."""
    place, earlier = _target(path, context)
    if earlier and not workspace.encoding(earlier, place).startswith("utf-8"):
        hint = "Read it and write it again, which makes it UTF-8."
        raise ToolError("T-304", f"`{place}` is not UTF-8", error_class="conflict", hint=hint)
    content = _joined(earlier, text)
    context.keep(place.as_posix(), earlier)
    workspace.replace(context.workspace, place, content)
    return place.as_posix()


def _was_moved(source: FilePath, target: FilePath, context: ToolContext) -> bool | None:
    new = workspace.placed(context.workspace, target)
    try:
        workspace.found(context.workspace, source)
    except ToolError:
        return True if workspace.what_is(context.workspace, new) == "file" else None
    return False


def _undo_move(source: FilePath, target: FilePath, context: ToolContext) -> None:
    move(target, source, context)


@tool(
    effect="write",
    resource=("file:{source}", "file:{target}"),
    control={"source": "bounded", "target": "bounded"},
    on_doubt="probe",
    probe=_was_moved,
    undo=_undo_move,
    out="bounded",
    keywords=("rename", "archive", "relocate"),
)
def move(source: FilePath, target: FilePath, context: ToolContext) -> FilePath:
    """Move or rename a file; the new name must be free."""
    old = workspace.found(context.workspace, source)
    new = workspace.placed(context.workspace, target)
    there = workspace.what_is(context.workspace, new)
    if there == "folder":
        inside = (new / old.name).as_posix()
        hint = f"Name the file in it: `{inside}`."
        raise ToolError("T-303", f"`{new}` is a folder", error_class="invalid", hint=hint, choices=(inside,))
    if there:
        raise ToolError("T-307", f"`{new}` exists", error_class="conflict", hint="Choose a name that is free.")
    workspace.rename(context.workspace, old, new)
    return new.as_posix()


def _target(path: str, context: ToolContext) -> tuple[PurePath, bytes | None]:
    """Where to write, and what is there now."""
    place = workspace.placed(context.workspace, path)
    workspace.check_change(context.workspace, place)
    return place, workspace.read(context.workspace, place)


def _joined(earlier: bytes | None, text: str) -> bytes:
    """The content after appending: the text begins on a line of its own."""
    before = earlier or b""
    gap = b"" if not before or before.endswith(b"\n") else b"\n"
    return before + gap + text.encode()


def _restore(path: str, context: ToolContext, written: Callable[[bytes | None], bytes]) -> None:
    """Puts earlier content back, unless the file was changed after it was written."""
    place = workspace.placed(context.workspace, path)
    now = workspace.read(context.workspace, place)
    try:
        earlier = context.kept(place.as_posix())
    except KeyError:
        return  # nothing was begun
    if now == earlier:
        return
    if now != written(earlier):
        what = f"`{place}` was changed after it was written"
        raise ToolError("T-308", what, error_class="conflict", hint="Look at it before putting it back.")
    if earlier is None:
        workspace.remove(context.workspace, place)
    else:
        workspace.replace(context.workspace, place, earlier)
