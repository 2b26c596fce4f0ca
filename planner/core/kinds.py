"""The types of a plan's values: what each step gives, what fits where, and which callees lead from one to another.

Rules of the file:
- Types are words (see `catalog`); `any` fits everywhere, and what is unknown is `any`.
- A tool coerces at its edge (text to table, lines or number); only path -> text needs a step of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from planner.core.catalog import TEXTUAL, Callee, Catalogue, item_type
from planner.core.expr import reference
from planner.core.labels import Json, Path
from planner.core.plan import Step, StepId

Types: TypeAlias = Mapping[StepId, str]
Fit: TypeAlias = Literal["fits", "each", "content", "contents", "no"]
"""`each`: once per item. `content`, `contents`: the text of that file, or of those files, is meant."""


def step_type(step: Step, catalogue: Catalogue, types: Types) -> str:
    """The type of a step's value."""
    if step.is_block:
        one = _block_type(step, catalogue, inside(step, types))
    elif step.use is None:
        one = value_type(step.let, types)
    else:
        callee = catalogue.get(step.use)
        one = callee.result if callee else "any"
    return f"list[{one}]" if step.is_map else one


def inside(step: Step, types: Types) -> dict[StepId, str]:
    """What can be seen inside a step: the names around it, and those of its items."""
    if not step.is_map:
        return dict(types)
    item = item_type(value_type(step.for_each, types)) or "any"
    return {**types, step.as_: item, f"{step.as_}_i": "integer"}


def _block_type(step: Step, catalogue: Catalogue, types: dict[StepId, str]) -> str:
    """The type of a block's answer; `any` where its branches differ, or may give nothing."""
    for held in step.inner:
        types[held.id] = step_type(held, catalogue, types)
    if step.answer is not None:
        return value_type(step.answer, types)
    return "any" if step.else_ else types[step.do[-1].id]


def value_type(value: Json, types: Types) -> str:
    """The type of an argument as written: a reference has its target's type, `${...}` is `any`."""
    match value:
        case str():
            target = reference(value)
            if target is not None:
                return part_type(types.get(target[0], "any"), target[1])
            return "any" if value.startswith("${") and value.endswith("}") else "text"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case dict():
            return "record"
        case list():
            inner = {value_type(item, types) for item in value}
            return f"list[{inner.pop()}]" if len(inner) == 1 else "list[any]"
        case _:
            return "any"


def part_type(type_: str, path: Path) -> str:
    """The type of the part of a value at `path`."""
    for part in path:
        inner = item_type(type_)
        if isinstance(part, int) and inner is not None:
            type_ = inner
        else:
            return "any"
    return type_


def fit(wanted: str, given: str, callee: Callee) -> Fit:
    """How a value of type `given` can serve an argument of type `wanted` of `callee`."""
    if "any" in (wanted, given) or wanted == given:
        return "fits"
    if given in {"path", "list[path]"}:
        return _path_fit(wanted, given, callee)
    listed = item_type(given)
    if listed is not None:
        return _list_fit(wanted, listed, callee)
    if wanted == "table":
        return "fits" if given in {"text", "record"} else "no"
    if item_type(wanted) is not None:
        return "fits" if given in TEXTUAL else "no"
    if wanted in {"number", "integer"}:
        return "fits" if given in {"number", "integer", "text"} else "no"
    if wanted == "boolean":
        return "no"
    return "fits" if wanted in TEXTUAL or given in TEXTUAL else "no"


def _path_fit(wanted: str, given: str, callee: Callee) -> Fit:
    if wanted in {"path", "folder"}:
        return "fits" if given == "path" else "each"
    if given == "list[path]" and item_type(wanted) in {"any", *TEXTUAL}:
        return "fits"  # the names themselves are what is listed, joined or counted
    if callee.is_reading and wanted in {"text", "table", "list[text]", "list[any]", "record", "number"}:
        return "content" if given == "path" else "contents"
    return "fits" if wanted in TEXTUAL or item_type(wanted) in TEXTUAL else "no"


def _list_fit(wanted: str, listed: str, callee: Callee) -> Fit:
    wanted_item = item_type(wanted)
    if wanted_item is not None:
        if "any" in (wanted_item, listed) or wanted_item == listed:
            return "fits"
        return "fits" if wanted_item in TEXTUAL or listed in TEXTUAL else "no"
    if wanted == "text":
        return "fits"  # one line per item
    is_item = listed in {"any", wanted} or wanted in {"number", "integer"}
    return "each" if callee.is_reading and is_item and fit(wanted, listed, callee) == "fits" else "no"


def lister(catalogue: Catalogue) -> Callee | None:
    """The callee that lists the files of a folder, and needs to know nothing else."""
    listing = (c for c in catalogue.values() if c.result == "list[path]" and c.parameters)
    return next(
        (c for c in listing if c.parameters[0].type == "folder" and not any(p.required for p in c.parameters[1:])),
        None,
    )


def reader(catalogue: Catalogue) -> Callee | None:
    """The callee that gives the text of a file, and may be inserted for that."""
    return next((c for c in catalogue.values() if c.converts and [p.type for p in c.parameters] == ["path"]), None)


def writer(catalogue: Catalogue) -> Callee | None:
    """The callee that replaces a file's text."""
    safe = (c for c in catalogue.values() if c.declaration.on_doubt == "idempotent")
    wanted = ("write", ["path", "text"])
    return next((c for c in safe if (c.declaration.effect, [p.type for p in c.parameters]) == wanted), None)


def is_finder(callee: Callee) -> bool:
    """Whether it copies named facts out of what it is given."""
    takes = {p.name for p in callee.parameters}
    return callee.kind == "agent" and callee.result == "record" and takes >= {"inputs", "fields", "task"}
