"""A plan that continues another: finished steps stay, what is asked for again stands for them, ids go on counting."""

from __future__ import annotations

import re

from planner.core.labels import Json
from planner.core.plan import Plan, Step


def continued(plan: Plan, kept: tuple[Step, ...]) -> tuple[tuple[Step, ...], Json]:
    """The kept steps, then the new plan's other steps under new ids, and its answer.

    A new step that is a kept one again stands for it: what is finished is not done twice.
    """
    renamed: dict[str, str] = {}
    free = list(kept)
    fresh: list[Step] = []
    last = max((int(m[1]) for s in (*kept, *plan.steps) if (m := re.match(r"s(\d+)", s.id))), default=0)
    for step in plan.steps:
        moved = _with_names(step, renamed)
        same = next((old for old in free if is_same_call(old, moved)), None)
        if same is not None:
            free.remove(same)
            renamed[step.id] = same.id
            continue
        last += 1
        renamed[step.id] = f"s{last}"
        fresh.append(moved.model_copy(update={"id": f"s{last}"}))
    return (*kept, *fresh), _rename(plan.answer, renamed)


def is_same_call(old: Step, new: Step) -> bool:
    """Whether two steps do the same with the same, whatever they are called."""
    ignored = {"id", "note", "after"}
    return old.model_dump(exclude=ignored) == new.model_dump(exclude=ignored)


def in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps under ids by their places, so that plans that differ in ids alone compare equal."""
    renamed = {step.id: f"s{place}" for place, step in enumerate(steps, start=1)}
    return tuple(_with_names(s, renamed).model_copy(update={"id": renamed[s.id], "note": ""}) for s in steps)


def _with_names(step: Step, renamed: dict[str, str]) -> Step:
    condition = _rename(f"${{{step.if_}}}", renamed) if step.if_ else None
    return step.model_copy(
        update={
            "args": {name: _rename(value, renamed) for name, value in step.args.items()},
            "let": _rename(step.let, renamed),
            "for_each": _rename(step.for_each, renamed),
            "if_": str(condition)[2:-1] if condition else None,
            "after": tuple(renamed.get(id_, id_) for id_ in step.after),
        }
    )


def _rename(value: Json, renamed: dict[str, str]) -> Json:
    """The value with step names changed inside its references and expressions."""
    match value:
        case str() if "$" in value:
            pattern = r"\$\{[^{}]*\}|\$[a-z_][a-z0-9_]*"
            return re.sub(pattern, lambda m: _renamed_words(m[0], renamed), value)
        case list():
            return [_rename(item, renamed) for item in value]
        case dict():
            return {key: _rename(item, renamed) for key, item in value.items()}
        case _:
            return value


def _renamed_words(text: str, renamed: dict[str, str]) -> str:
    return re.sub(r"(?<![\w.'\"])[a-z_][a-z0-9_]*", lambda m: renamed.get(m[0], m[0]), text)
