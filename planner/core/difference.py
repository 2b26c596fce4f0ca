"""Where two runs differ: in what they wanted, planned, did and gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from pydantic import Field

from planner.core.events import Fault
from planner.core.labels import Frozen, Json, Labelled
from planner.core.plan import Plan, Step, StepId, StepPath
from planner.core.run import Run, StepState

EXCERPT = 60
"""The most characters of a value on a line; both values of a pair then fit on two lines of a terminal."""
LEAD = 10
"""So many of the characters that both have in common stand before the first that differs."""


class Change(Frozen):
    """A value in the first run, and in the second; None where there is none."""

    before: Json = None
    after: Json = None


class PlanDifference(Frozen):
    """Steps as the plan writes them, by id, those in blocks included; of a changed one, the fields that differ."""

    added: Mapping[StepId, Json] = Field(default_factory=dict)
    removed: Mapping[StepId, Json] = Field(default_factory=dict)
    changed: Mapping[StepId, Mapping[str, Change]] = Field(default_factory=dict)
    order: Change | None = None
    """Of the steps that both have, where they stand in another order."""
    inputs: Change | None = None
    answer: Change | None = None


class PathDifference(Frozen):
    """What became of one step, or one item of a map; None where nothing differs."""

    status: Change | None = None
    arguments: Change | None = None
    value: Change | None = None
    fault: Change | None = None


class Difference(Frozen):
    """Where two runs differ; None or nothing where they do not."""

    goal: Change | None = None
    status: Change | None = None
    plan: PlanDifference | None = None
    steps: Mapping[StepPath, PathDifference] = Field(default_factory=dict)
    result: Change | None = None
    spent: Mapping[str, Change] = Field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether both wanted, planned, did and gave the same, whatever it took."""
        return self == Difference(spent=self.spent)


def difference(before: Run, after: Run) -> Difference:
    """What differs in the second run. Values and arguments are compared, not their labels."""
    paths = {path: _path(before.step(path), after.step(path)) for path in {**before.steps, **after.steps}}
    return Difference(
        goal=_change(before.started.goal, after.started.goal),
        status=_change(before.status, after.status),
        plan=_plan(before.plan or Plan(), after.plan or Plan()),
        steps={path: found for path, found in paths.items() if found is not None},
        result=_change(_result(before), _result(after)),
        spent=_changes(_spent(before), _spent(after)),
    )


def _change(before: Json, after: Json) -> Change | None:
    return None if before == after else Change(before=before, after=after)


def _changes(before: Mapping[str, Json], after: Mapping[str, Json]) -> dict[str, Change]:
    """The fields that differ, in the order of the first; a field that one of them has not is None there."""
    found = {name: _change(before.get(name), after.get(name)) for name in {**before, **after}}
    return {name: change for name, change in found.items() if change is not None}


def _plan(before: Plan, after: Plan) -> PlanDifference | None:
    old = {id_: _shape(step) for id_, step in before.index.items()}
    new = {id_: _shape(step) for id_, step in after.index.items()}
    changed = {id_: _changes(old[id_], new[id_]) for id_ in old if id_ in new}
    found = PlanDifference(
        added={id_: step for id_, step in new.items() if id_ not in old},
        removed={id_: step for id_, step in old.items() if id_ not in new},
        changed={id_: fields for id_, fields in changed.items() if fields},
        order=_change([id_ for id_ in old if id_ in new], [id_ for id_ in new if id_ in old]),
        inputs=_change(dict(before.inputs), dict(after.inputs)),
        answer=_change(before.answer, after.answer),
    )
    return None if found == PlanDifference() else found


def _shape(step: Step) -> dict[str, Json]:
    """The step as a plan writes it, but for its id; of the steps in it only the ids, for each is compared itself."""
    written = step.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"id", "do", "else_"})
    held = {"do": step.do, "else": step.else_}
    return {**written, **{name: [inner.id for inner in steps] for name, steps in held.items() if steps}}


def _path(before: StepState, after: StepState) -> PathDifference | None:
    found = PathDifference(
        status=_change(before.status, after.status),
        arguments=_change(_value(before.arguments), _value(after.arguments)),
        value=_change(_value(before.value), _value(after.value)),
        fault=_change(_fault(before.fault), _fault(after.fault)),
    )
    return None if found == PathDifference() else found


def _value(labelled: Labelled | None) -> Json:
    return None if labelled is None else labelled.value


def _fault(fault: Fault | None) -> Json:
    return None if fault is None else fault.model_dump(mode="json", exclude_defaults=True)


def _result(run: Run) -> Json:
    return None if run.finished is None else run.finished.result.value


def _spent(run: Run) -> dict[str, Json]:
    """What was used; parts of a microsecond or of a millionth of a dollar are left out."""
    return {name: round(used, 6) for name, used in asdict(run.spent).items()}


# telling ------------------------------------------------------------------------------------------------------


def told(found: Difference) -> tuple[str, ...]:
    """A line for each thing that differs, under what it belongs to; values are JSON, so a line stays one."""
    rows = list(_rows(found))
    width = max((len(head) for head, _ in rows), default=0)
    heads = [None, *(head for head, _ in rows)]
    return tuple(
        f"{head if head != last else '':{width}}  {text}" for last, (head, text) in zip(heads, rows, strict=False)
    )


def _rows(found: Difference) -> Iterator[tuple[str, str]]:
    """What a line is about, and what it says."""
    if found.goal is not None:
        yield "goal", _pair(found.goal)
    if found.status is not None:
        yield "status", _pair(found.status)
    if found.plan is not None:
        yield from (("plan", text) for text in _plan_rows(found.plan))
    for path, one in found.steps.items():
        yield from ((path, text) for text in _named({name: getattr(one, name) for name in type(one).model_fields}))
    if found.result is not None:
        yield "result", _pair(found.result)
    yield from (("spent", text) for text in _named(found.spent))


def _plan_rows(found: PlanDifference) -> Iterator[str]:
    yield from (f"+ {id_} {_cut(_text(step))}" for id_, step in found.added.items())
    yield from (f"- {id_} {_cut(_text(step))}" for id_, step in found.removed.items())
    for id_, fields in found.changed.items():
        yield from (f"~ {id_} {text}" for text in _named(fields))
    yield from (
        f"~ {text}" for text in _named({"order": found.order, "inputs": found.inputs, "answer": found.answer})
    )


def _named(changes: Mapping[str, Change | None]) -> Iterable[str]:
    return [f"{name}: {_pair(change)}" for name, change in changes.items() if change is not None]


def _pair(change: Change) -> str:
    """Both values, from just before where they differ if they are long."""
    before, after = _text(change.before), _text(change.after)
    shorter = min(len(before), len(after))
    same = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    start = max(0, same - LEAD) if max(len(before), len(after)) > EXCERPT else 0
    return f"{_cut(before, start)} -> {_cut(after, start)}"


def _cut(text: str, start: int = 0) -> str:
    end = start + EXCERPT
    return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
