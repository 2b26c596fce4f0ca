"""Whether an outcome meets its criteria, as far as rules alone can tell.

Rules of the file:
- A criterion is passed, failed, or undecided; only a model that can judge may decide what is undecided here.
- A review is a quality gate, never a security boundary.
"""

from __future__ import annotations

import posixpath
from typing import TypeAlias

from planner.core import values
from planner.core.events import ReviewFailed, ReviewInconclusive, ReviewPassed
from planner.core.expr import evaluate, expression_names
from planner.core.goal import Named, is_conditional
from planner.core.labels import Labelled
from planner.core.plan import role_of
from planner.core.setup import Criterion
from planner.core.state import callee_at

Decided: TypeAlias = ReviewPassed | ReviewFailed | ReviewInconclusive


def criteria(goal: str, found: tuple[Named, ...], success: str | None) -> tuple[Criterion, ...]:
    """The criteria of a run: each file that the goal wants written, and the caller's own.

    `success` in the form `${...}` is an expression over the step values and `answer`; anything else is text.
    """
    result = [
        Criterion(id=f"c{i}", kind="written", text=item.text, is_conditional=is_conditional(goal))
        for i, item in enumerate((n for n in found if n.is_written), start=1)
    ]
    if success:
        inner = success.strip()
        id_ = f"c{len(result) + 1}"
        if inner.startswith("${") and inner.endswith("}"):
            result.append(Criterion(id=id_, kind="expression", text=inner[2:-1]))
        else:
            result.append(Criterion(id=id_, kind="text", text=inner))
    return tuple(result)


def review(view: values.View) -> Decided | tuple[str, ...]:
    """What the rules decide, or the ids of the criteria that are left to a judge.

    Raises `PlanError` if the answer or a criterion's expression cannot be evaluated.
    """
    answer = values.answer(view)
    wanted = view.run.started.criteria
    verdicts = {criterion.id: _decided(view, criterion, answer) for criterion in wanted}
    failed = tuple(id_ for id_, verdict in verdicts.items() if verdict is False)
    undecided = tuple(id_ for id_, verdict in verdicts.items() if verdict is None)
    if failed:
        return ReviewFailed(criteria=failed)
    is_for_judge = all(c.kind == "text" for c in wanted if c.id in undecided)
    if undecided and is_for_judge and view.run.started.setup.can_judge:
        return undecided
    if undecided or not wanted:
        return ReviewInconclusive(criteria=undecided)
    return ReviewPassed(criteria=tuple(verdicts))


def _decided(view: values.View, criterion: Criterion, answer: Labelled) -> bool | None:
    match criterion.kind:
        case "written":
            return _was_written(view, criterion.text) or (None if criterion.is_conditional else False)
        case "expression":
            frame = values.Frame(steps=view.plan.steps)
            seen = dict(values.scope(view, frame, expression_names(criterion.text) - {"answer"}) or {})
            return bool(evaluate(criterion.text, {**seen, "answer": answer}).value)
        case _:
            return None


def _was_written(view: values.View, name: str) -> bool:
    """Whether a step wrote the file, and not with nothing: an empty text is what a missing input leaves."""
    for path, state in view.run.steps.items():
        if state.status != "succeeded" or state.arguments is None or role_of(path) == "undo":
            continue
        callee = view.run.started.setup.catalogue[callee_at(view.run, path)]
        given = state.arguments.value if isinstance(state.arguments.value, dict) else {}
        if callee.is_reading or not any(_is_same(given.get(p.name), name) for p in callee.parameters):
            continue
        payload = [given.get(p) for p in callee.declaration.payload]
        if not payload or any(value not in (None, "", [], {}) for value in payload):
            return True
    return False


def _is_same(value: object, name: str) -> bool:
    return isinstance(value, str) and posixpath.normpath(value).casefold() == posixpath.normpath(name).casefold()
