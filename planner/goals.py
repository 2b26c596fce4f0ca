"""Goals as people give them: their words, what these name in the workspace, and plans that come along."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from planner.core.events import Attachment
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan
from planner.errors import UserError

MAX_GOAL = 20_000
"""Characters; a goal is a sentence or a page, and data belongs in files."""


def goal_text(goal: str) -> str:
    """The goal without blanks around it. Raises `UserError` U-302 or U-303 for one that cannot be one."""
    text = goal.strip()
    if not text:
        raise UserError("U-302", "the goal is empty", hint='Say what is to be done: planner "Summarise notes.txt".')
    if len(text) > MAX_GOAL:
        size = f"{len(text)} characters, more than {MAX_GOAL}"
        raise UserError("U-303", f"the goal has {size}", hint="Put the data into a file of the workspace.")
    return text


MAX_ATTACHED = 1_000_000
"""Characters of all attachments together: they stand in the first event of the run."""


def attached(texts: Mapping[str, str]) -> tuple[Attachment, ...]:
    """The texts as attachments, by names that a plan can say. Raises `UserError` U-305 for too much of them."""
    size = sum(map(len, texts.values()))
    if size > MAX_ATTACHED:
        what = f"the attachments have {size:,} characters, more than {MAX_ATTACHED:,}"
        raise UserError("U-305", what, hint="Put large files into the workspace, and name them in the goal.")
    taken: dict[str, Attachment] = {}
    for source, text in texts.items():
        word = re.sub(r"[^a-z0-9]+", "_", source.casefold()).strip("_") or "text"
        word = word if word[0].isalpha() else f"a_{word}"
        name = next(n for n in chain([word], (f"{word}_{i}" for i in count(2))) if n not in taken)
        taken[name] = Attachment(name=name, text=text, source=source)
    return tuple(taken.values())


def read_attached(paths: Iterable[Path]) -> dict[str, str]:
    """The texts of files by their names. Raises `UserError` U-306 for one that cannot be read as text."""
    texts: dict[str, str] = {}
    for path in paths:
        try:
            texts[path.name if path.name not in texts else str(path)] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            hint = "Attach a text file, or put the file into the workspace and name it in the goal."
            raise UserError("U-306", f"`{path}` cannot be attached: {reason}", hint=hint) from error
    return texts


def plan_given(given: Plan | Mapping[str, Json] | None) -> Plan | None:
    """The plan that came with a goal. Raises `UserError` U-452 for an object that is none."""
    if given is None or isinstance(given, Plan):
        return given
    hint = "The fields of a plan stand in docs/architecture.md, The plan language."
    try:
        return Plan.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        what = f"{f'`{names}` of ' if names else ''}the plan is `{first['input']!r:.60}`: {first['msg']}"
        raise UserError("U-452", what, hint=hint) from error


def looked_up(item: Named, workspace: Path) -> Named:
    """What the goal names, as the workspace holds it: only names are looked at, never content."""
    if item.kind not in {"path", "folder"} or item.text.startswith("/") or ".." in item.text.split("/"):
        return item
    place = workspace
    spelled: list[str] = []
    try:
        for part in (p for p in item.text.split("/") if p not in {"", "."}):
            name = _entry(place, part)
            if name is None:
                return _found(item, "absent", item.text)
            place, spelled = place / name, [*spelled, name]
    except OSError:  # nobody may look there, or no file can have such a name
        return item
    return _found(item, "folder" if place.is_dir() else "file", "/".join(spelled) or ".")


def _found(item: Named, found: Literal["file", "folder", "absent"], text: str) -> Named:
    """The item with what was found; a path that turns out to be a folder is one."""
    kind = "folder" if found == "folder" else ("path" if found == "file" else item.kind)
    return item.model_copy(update={"found": found, "text": text, "kind": kind})


def _entry(folder: Path, name: str) -> str | None:
    """The entry of that name, or the only one that differs in case."""
    if not folder.is_dir():
        return None
    if (folder / name).exists():
        return name
    same = [entry.name for entry in folder.iterdir() if entry.name.casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None
