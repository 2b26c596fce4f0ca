"""What the steps of a run can see: the values of earlier steps, and inputs resolved against them.

Rules of the file:
- A value is asked for only when everything it reads has ended; until then the answer is None ("not yet").
- What an untrusted value decided (`if`, `for_each`) lowers the constants inside: an implicit flow is a flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.core.expr import Missing, Scope, evaluate, names, resolve
from planner.core.labels import TRUSTED, UNTRUSTED, Integrity, Json, Label, Labelled, gather, join
from planner.core.plan import Plan, Step, StepId, StepPath, inner_path, is_tolerated, place_in, role_of
from planner.core.run import Run, StepState, has_failed, item_paths, last_path
from planner.errors import PlanError


@dataclass(frozen=True, slots=True)
class View:
    """A run with its plan, and the outcomes already worked out."""

    run: Run
    plan: Plan
    memo: dict[StepPath, Labelled | Missing | None] = field(default_factory=dict)

    def outcome(self, path: StepPath) -> Labelled | Missing | None:
        """What a step gave: a value, a reason why there is none, or None while it has not ended well."""
        if path not in self.run.steps:
            return None
        if path not in self.memo:
            self.memo[path] = _outcome(self.run, self.plan.at(path), path)
        return self.memo[path]


@dataclass(frozen=True, slots=True)
class Frame:
    """The plan itself, or a block under way: the steps in it, and what they can see."""

    steps: tuple[Step, ...]
    place: StepPath = ""
    outer: Frame | None = None
    own: Scope = field(default_factory=dict)
    """The item of the map that the block belongs to."""
    decided_by: Label = TRUSTED
    """The label of what decided that the block runs."""
    not_taken: Label = TRUSTED
    """The label of what decided on the branches around here."""
    ids: frozenset[StepId] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", frozenset(step.id for step in self.steps))

    def lookup(self, view: View, name: str) -> Labelled | Missing | None:
        """What `name` stands for here; None while it is not there yet."""
        if name in self.own:
            return self.own[name]
        if name in self.ids:
            return view.outcome(inner_path(self.place, name))
        if self.outer is not None:
            return replace(self.outer, not_taken=self.not_taken.joined(self.decided_by)).lookup(view, name)
        match name:
            case "inputs":
                return _inputs(view)
            case "attachments":
                return _attachments(view)
            case _:
                return Missing(reason="skipped", label=self.not_taken)


def _inputs(view: View) -> Labelled:
    """The plan's constants; those that somebody else than the principal changed are untrusted."""
    labels = view.run.input_labels
    return gather({name: Labelled(value=v, label=labels.get(name, TRUSTED)) for name, v in view.plan.inputs.items()})


def _attachments(view: View) -> Labelled:
    """What came with the goal: whoever sent it on did not write it."""
    return gather(
        {
            one.name: Labelled(value=one.text, label=UNTRUSTED.from_source(f"attachment:{one.name}"))
            for one in view.run.started.attachments
        }
    )


def inside(frame: Frame, step: Step, path: StepPath, state: StepState, own: Scope) -> Frame:
    """The frame of a block under way; a name of the branch that was not taken reads as skipped."""
    steps = step.do if state.branch == "do" else step.else_
    return Frame(steps=steps, place=path, outer=frame, own=own, decided_by=state.decided_by)


def _outcome(run: Run, step: Step, path: StepPath) -> Labelled | Missing | None:
    state = run.step(path)
    if state.status == "mapped":
        return _map_outcome(run, step, path, state)
    return _ended(run, step, path)


def _ended(run: Run, step: Step, path: StepPath) -> Labelled | Missing | None:
    state = run.step(last_path(run, step, path)[1])
    match state.status:
        case "succeeded":
            return state.value
        case "skipped":
            return Missing(reason="skipped" if state.cause == "condition" else "failed", label=state.decided_by)
        case "failed" if is_tolerated(step, path) and has_failed(run, step, path):
            return Missing(reason="failed", label=lost_to(state))
        case _:
            return None


def _map_outcome(run: Run, step: Step, path: StepPath, state: StepState) -> Labelled | Missing | None:
    """The list of the items' values: filtered items left out, dropped ones null."""
    ended = [_ended(run, step, item) for item in item_paths(run, path)]
    if None in ended:
        return None
    missing = [part for part in ended if isinstance(part, Missing)]
    decided_by = join((part.label for part in missing), start=control(None, state.items))
    is_lost = any(part.reason == "failed" for part in missing)
    if is_lost and step.on_item_error == "fail" and not _is_cut(run, step, path):
        return Missing(reason="failed", label=decided_by)
    dropped = Labelled(label=decided_by)
    parts = [dropped if isinstance(part, Missing) and part.reason == "failed" else part for part in ended]
    return under(decided_by, gather([part for part in parts if isinstance(part, Labelled)]))


def lost_to(state: StepState) -> Label:
    """The label of what made a call fail: whoever chose its arguments may have chosen that."""
    given = TRUSTED if state.arguments is None else state.arguments.overall()
    return state.decided_by.joined(given)


def _is_cut(run: Run, step: Step, path: StepPath) -> bool:
    """Whether items are missing only because there was no room for them."""
    lasts = (run.step(last_path(run, step, item)[1]) for item in item_paths(run, path))
    return all(last.status == "succeeded" or last.cause in {"budget", "condition"} for last in lasts)


def scope(view: View, frame: Frame, wanted: frozenset[str]) -> Scope | None:
    """The names in `wanted` with their values; None while one of them is not there yet."""
    result: dict[str, Labelled | Missing] = {}
    for name in wanted:
        found = frame.lookup(view, name)
        if found is None:
            return None
        result[name] = found
    return result


def item_names(step: Step, items: Labelled, index: int) -> Mapping[str, Labelled | Missing]:
    """What only one item of a map can see: the item and its index."""
    position = Labelled(value=index, label=items.label)
    return {step.as_: items.at((index,)), f"{step.as_}_i": position}


def control(condition: Labelled | None, items: Labelled | None) -> Label:
    """The label of what decided that a step runs."""
    label = TRUSTED
    for decider in (condition, items):
        if decider is not None:
            label = label.joined(decider.overall())
    return label


def under(decided_by: Label, value: Labelled, *, said: Label = TRUSTED) -> Labelled:
    """A value as it is worth inside a branch or map that `decided_by` chose, of a plan whose words are `said`."""
    value = value if said == TRUSTED else value.joined(said)
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
    """The plan's answer. Raises `PlanError` for a value that is missing without a default."""
    return answer_of(view, Frame(steps=view.plan.steps), view.plan.answer)


def answer_of(view: View, frame: Frame, wanted: Json) -> Labelled:
    """What a plan or a block gives. A step skipped by its condition reads as null; one lost by failure is an error.

    Raises `PlanError` for a value that is missing without a default.
    """
    if wanted is None:
        given = (view.outcome(inner_path(frame.place, step.id)) for step in reversed(frame.steps))
        return next((value for value in given if isinstance(value, Labelled)), Labelled())
    seen: dict[str, Labelled | Missing] = dict(scope(view, frame, names(wanted)) or {})
    for name, value in seen.items():
        if isinstance(value, Missing) and value.reason == "skipped":
            seen[name] = Labelled(value=None, label=value.label)
    return under(TRUSTED, resolve(wanted, seen), said=view.run.said)


def lost(view: View) -> tuple[str, ...]:
    """What is missing because it failed or there was no room for it, and what a cheaper model made."""
    paths = sorted(view.run.steps, key=lambda path: place_in(view.plan, path))
    missing = [path for path in paths if _is_missing(view.run, view.plan, path)]
    whole = [path for path in missing if not any(path != other and path.startswith(f"{other}[") for other in missing)]
    cheaper = [f"{path} (by a cheaper model)" for path in paths if view.run.step(path).is_cheaper]
    return (*whole, *cheaper)


def _is_missing(run: Run, plan: Plan, path: StepPath) -> bool:
    if role_of(path) != "call":
        return False
    if run.step(path).status == "mapped":
        found = _outcome(run, plan.at(path), path)
        return isinstance(found, Missing) and found.reason == "failed"
    step = plan.at(path)
    last = run.step(last_path(run, step, path)[1])
    return last.cause in {"failure", "budget"} or has_failed(run, step, path)


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
