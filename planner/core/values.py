"""What the steps of a run can see: the values of earlier steps, and inputs resolved against them.

Rules of the file:
- A value is asked for only when everything it reads has ended; until then the answer is None ("not yet").
- What an untrusted value decided (`if`, `for_each`) lowers the constants inside: an implicit flow is a flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.core.expr import Missing, Scope, evaluate, names, resolve
from planner.core.labels import TRUSTED, Integrity, Json, Label, Labelled, gather
from planner.core.plan import Plan, Step, StepId, StepPath, is_tolerated, item_path
from planner.core.state import Run, StepState, has_failed
from planner.errors import PlanError


@dataclass(frozen=True, slots=True)
class View:
    """A run with its plan, and the outcomes already worked out."""

    run: Run
    plan: Plan
    memo: dict[StepId, Labelled | Missing | None] = field(default_factory=dict)

    def outcome(self, id_: StepId) -> Labelled | Missing | None:
        """What a step gave: a value, a reason why there is none, or None while it has not ended well."""
        if id_ not in self.memo:
            step = self.plan.step(id_)
            self.memo[id_] = _outcome(self.run, step) if step else None
        return self.memo[id_]


def _outcome(run: Run, step: Step) -> Labelled | Missing | None:
    state = run.step(step.id)
    if state.status == "mapped":
        return _map_outcome(run, step, state)
    return _ended(run, step, step.id)


def _ended(run: Run, step: Step, path: StepPath) -> Labelled | Missing | None:
    state = run.step(path)
    match state.status:
        case "succeeded":
            return state.value
        case "skipped":
            return Missing(reason="skipped" if state.cause == "condition" else "failed")
        case "failed" if is_tolerated(step, path) and has_failed(step, state):
            return Missing(reason="failed")
        case _:
            return None


def _map_outcome(run: Run, step: Step, state: StepState) -> Labelled | Missing | None:
    """The list of the items' values: filtered items left out, dropped ones null."""
    ended = [_ended(run, step, path) for path in item_paths(step, state)]
    if None in ended:
        return None
    lost = Missing(reason="failed")
    if lost in ended and step.on_item_error == "fail":
        return lost
    parts = [Labelled() if part == lost else part for part in ended]
    values = gather([part for part in parts if isinstance(part, Labelled)])
    return under(control(None, state.items), values)


def item_paths(step: Step, state: StepState) -> list[StepPath]:
    """The paths of a resolved map's items, in order."""
    return [item_path(step.id, index) for index in range(item_count(state))]


def item_count(state: StepState) -> int:
    """How many items a resolved map has."""
    return len(state.items.value) if state.items is not None and isinstance(state.items.value, list) else 0


def scope(view: View, wanted: frozenset[str]) -> Scope | None:
    """The names in `wanted` with their values; None while one of them is not there yet."""
    result: dict[str, Labelled | Missing] = {}
    for name in wanted:
        if name == "inputs":
            result[name] = Labelled(value=dict(view.plan.inputs))
            continue
        outcome = view.outcome(name)
        if outcome is None:
            return None
        result[name] = outcome
    return result


def item_scope(outer: Scope, step: Step, items: Labelled, index: int) -> Scope:
    """The scope inside one item of a map."""
    position = Labelled(value=index, label=items.label)
    return {**outer, step.as_: items.at((index,)), f"{step.as_}_i": position}


def control(condition: Labelled | None, items: Labelled | None) -> Label:
    """The label of what decided that a step runs."""
    label = TRUSTED
    for decider in (condition, items):
        if decider is not None:
            label = label.joined(decider.overall())
    return label


def under(decided_by: Label, value: Labelled) -> Labelled:
    """A value as it is worth inside a branch or map that `decided_by` chose."""
    if decided_by.integrity is Integrity.TRUSTED:
        return value
    return value.capped(Integrity.BOUNDED)


def condition(step: Step, scope_: Scope) -> Labelled | None:
    """The value of the step's `if`; None where it has none."""
    return None if step.if_ is None else evaluate(step.if_, scope_)


def arguments(step: Step, scope_: Scope) -> Labelled:
    """The step's arguments with the label of every leaf."""
    return resolve(dict(step.args), scope_)


def answer(view: View) -> Labelled:
    """The plan's answer. A step skipped by its condition reads as null; one lost by failure is an error.

    Raises `PlanError` for a value that is missing without a default.
    """
    plan = view.plan
    if plan.answer is None:
        last = next((v for v in map(view.outcome, reversed([s.id for s in plan.steps])) if _is_value(v)), None)
        return last if isinstance(last, Labelled) else Labelled()
    seen: dict[str, Labelled | Missing] = dict(scope(view, names(plan.answer)) or {})
    for name, value in seen.items():
        if isinstance(value, Missing) and value.reason == "skipped":
            seen[name] = Labelled(value=None)
    return resolve(plan.answer, seen)


def _is_value(outcome: Labelled | Missing | None) -> bool:
    return isinstance(outcome, Labelled)


def lost(view: View) -> tuple[str, ...]:
    """The steps and items that are missing because they failed and the plan went on without them."""
    result = [step.id for step in view.plan.steps if view.outcome(step.id) == Missing(reason="failed")]
    for step in view.plan.steps:
        if step.id not in result:
            paths = item_paths(step, view.run.step(step.id))
            result += [path for path in paths if view.run.step(path).status == "failed"]
    return tuple(result)


def let(step: Step, scope_: Scope) -> Labelled:
    """The value that a `let` step computes."""
    return resolve(step.let, scope_)


def items(step: Step, scope_: Scope) -> Labelled:
    """The items of a `for_each`: a list as it is, text by its non-empty lines. Raises `PlanError` otherwise."""
    value = resolve(step.for_each, scope_)
    if isinstance(value.value, list):
        return value
    if isinstance(value.value, str):
        lines: list[Json] = [line for line in value.value.splitlines() if line.strip()]
        return Labelled(value=lines, label=value.overall())
    kind = type(value.value).__name__
    raise PlanError("P-301", f"`for_each` of step `{step.id}` needs a list, but `{step.for_each}` is a {kind}")
