"""A plan that continues another: finished steps stay, what is asked for again stands for them, ids go on counting."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from planner.core.expr import expression_names, names
from planner.core.labels import Json
from planner.core.plan import Step, StepId, own_names


def next_id(taken: Collection[StepId]) -> StepId:
    """The id that goes on counting where these end."""
    counted = (re.match(r"s([0-9]{1,9})(?![0-9])", id_) for id_ in taken)
    return f"s{max((int(match[1]) for match in counted if match), default=0) + 1}"


def is_same_call(old: Step, new: Step) -> bool:
    """Whether two steps do the same with the same, whatever they are called and whatever follows a failure."""
    compared = {"use", "args", "let", "if_", "for_each", "as_"}
    return old.model_dump(include=compared) == new.model_dump(include=compared)


def is_same_form(old: Step, new: Step) -> bool:
    """Whether two steps are the same but for their names, and so would fail alike."""
    ignored = {"id", "note", "after"}
    return old.model_dump(exclude=ignored) == new.model_dump(exclude=ignored)


def in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps under ids by their places, so that plans that differ in ids alone compare equal."""
    renamed = {step.id: f"s{place}" for place, step in enumerate(steps, start=1)}
    return tuple(reading(s, renamed).model_copy(update={"id": renamed[s.id], "note": ""}) for s in steps)


def reading(step: Step, renamed: Mapping[StepId, StepId]) -> Step:
    """The step, where what it reads is called otherwise."""
    inside = {old: new for old, new in renamed.items() if old not in own_names(step)}
    return step.model_copy(
        update={
            "args": {name: with_names(value, inside) for name, value in step.args.items()},
            "let": with_names(step.let, inside),
            "for_each": with_names(step.for_each, renamed),
            "if_": step.if_ and _text(step.if_, inside, expression_names),
            "after": tuple(renamed.get(id_, id_) for id_ in step.after),
        }
    )


def with_names(value: Json, renamed: Mapping[str, str]) -> Json:
    """The value with other names in its references and expressions."""
    match value:
        case str() if "$" in value:
            return _text(value, renamed, names)
        case list():
            return [with_names(item, renamed) for item in value]
        case dict():
            return {key: with_names(item, renamed) for key, item in value.items()}
        case _:
            return value


def _text(text: str, renamed: Mapping[str, str], read: Callable[[str], frozenset[str]]) -> str:
    """The text with other names wherever it reads them.

    A word may as well be part of a literal, a field, or the variable of a loop. So each is tried: it is a name
    that is read if another one in its place would be read.
    """
    wanted = read(text) & renamed.keys()
    for match in reversed(list(re.finditer(r"(?<![\w.])[a-z_]\w*", text)) if wanted else []):
        before, after, other = text[: match.start()], text[match.end() :], f"{match[0]}_renamed"
        if match[0] in wanted and other in read(before + other + after):
            text = before + renamed[match[0]] + after
    return text
