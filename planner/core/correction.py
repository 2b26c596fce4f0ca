"""What a correction makes of a run: which finished steps are no longer right, and what was or is to be taken back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from planner.core import order
from planner.core.catalog import Callee
from planner.core.events import Remainder, Steered
from planner.core.expr import names, resolve
from planner.core.labels import Json, Labelled
from planner.core.plan import (
    Plan,
    Step,
    StepId,
    StepPath,
    is_tolerated,
    own_path,
    reads,
    role_of,
    root_of,
    split_path,
)
from planner.core.reach import planned
from planner.core.run import (
    Run,
    StepState,
    StepStatus,
    callee_of,
    has_ended,
    has_failed,
    is_taken_back,
    is_undecided,
    kept_steps,
    last_path,
)
from planner.errors import PlanError

# plans ------------------------------------------------------------------------------------------------------


def corrected_plan(run: Run) -> Plan | None:
    """The plan that the newest corrections lead to without a planner; None where one is to be asked."""
    plan = run.plan
    for correction in run.corrections[run.heeded :]:
        plan = corrected_by(plan, correction, is_given=run.started.plan is not None)
    return plan


def corrected_by(plan: Plan | None, correction: Steered, *, is_given: bool) -> Plan | None:
    """The plan after one correction; None where a planner is to be asked, which is told all of them."""
    base = plan if correction.plan is None else correction.plan
    if base is None or (correction.text and correction.plan is None and not is_given):
        return None
    is_known = correction.plan is not None or correction.inputs.keys() <= base.inputs.keys()
    return with_inputs(base, correction.inputs) if is_known else None


def with_inputs(plan: Plan, inputs: Mapping[str, Json]) -> Plan:
    """The plan with other constants."""
    return plan.model_copy(update={"inputs": {**plan.inputs, **inputs}})


def stale_steps(run: Run, plan: Plan) -> frozenset[StepId]:
    """The steps of the accepted plan that `plan`, which is to follow it, takes back or does anew."""
    if run.plan is None:
        return frozenset()
    if run.given is not None:
        return superseded(run, plan)
    told = {key for correction in run.corrections[run.heeded :] for key in correction.inputs}
    changed = {step.id for step in run.plan.steps if any(reads_input(step, key) for key in told)}
    return superseded_by(run, {*plan.undo, *changed, *_orphans(run)})


def _orphans(run: Run) -> frozenset[StepId]:
    """The steps with a nested run that has not ended, and that no later plan will begin with."""
    nested = {path for path in run.steps if (callee := callee_of(run, path)) is not None and callee.kind == "plan"}
    open_ = {root_of(path) for path in nested if run.step(path).status in {"parked", "interrupted"}}
    return frozenset(open_) - {step.id for step in kept_steps(run)}


def superseded(run: Run, new: Plan) -> frozenset[StepId]:
    """The steps of the accepted plan that are no longer right: left out, changed, or made from what changed."""
    old = run.plan or Plan()
    changed = {key for key in old.inputs.keys() | new.inputs.keys() if old.inputs.get(key) != new.inputs.get(key)}
    stale = {step.id for step in old.steps if step not in new.steps or any(reads_input(step, key) for key in changed)}
    return _closed(run, stale, new)


def superseded_by(run: Run, stale: Iterable[StepId]) -> frozenset[StepId]:
    """These steps of the accepted plan, those that are being taken back, and all that were made from them."""
    return _closed(run, stale, Plan())


Calls: TypeAlias = list[tuple[Callee, order.Keys]]


def _closed(run: Run, stale: Iterable[StepId], new: Plan) -> frozenset[StepId]:
    """The stale steps of the accepted plan with all that were made from them.

    Made from an effect is also what looked at the same thing later, and what changed it later and can be taken back.
    So are they, in the new plan, behind a call that will be made again: they come after it.
    """
    old = run.plan.steps if run.plan is not None else ()
    undoing = (path for path, state in run.steps.items() if state.status == "succeeded" and is_taken_back(run, path))
    result = {*stale, *map(root_of, undoing)}
    made, size = _made(run), -1
    had = {id_: _effects(calls) for id_, calls in made.items()}
    while len(result) > size:
        size = len(result)
        _spread(old, result, made, had)
        again = [step for step in new.steps if step.id in result or step not in old]
        coming = {step.id: _planned(run, step, new.inputs) for step in again}
        _spread(new.steps, result, made, coming)
    return frozenset(result) & {step.id for step in old}


def _spread(
    steps: tuple[Step, ...], stale: set[StepId], made: Mapping[StepId, Calls], changes: Mapping[StepId, Calls]
) -> None:
    """Adds to the stale steps those that read or waited for one, or touched later what one changes."""
    changed: Calls = []
    for step in steps:  # a step follows only earlier ones: one pass will do
        own = made.get(step.id, [])
        is_after = any(_may_go(call[0]) and order.must_keep_order(change, call) for change in changed for call in own)
        if is_after or (reads(step) | frozenset(step.after)) & stale:
            stale.add(step.id)
        changed += changes.get(step.id, []) if step.id in stale or step.id not in made else []


def _effects(calls: Calls) -> Calls:
    return [call for call in calls if not call[0].is_reading]


def _planned(run: Run, step: Step, inputs: Mapping[str, Json]) -> Calls:
    """The calls that a step may make, with what they touch as far as the plan and its inputs say."""
    calls = planned((step,), run.started.setup.catalogue)
    return [(one.callee, _may_touch(one.callee, one.args, inputs)) for one in calls]


def _may_touch(callee: Callee, args: Mapping[str, Json], inputs: Mapping[str, Json]) -> order.Keys:
    """What a call touches; where that is not known yet, anything of the kinds that it can touch."""
    seen = {"inputs": Labelled(value=dict(inputs))}
    given = {name: value for name, value in args.items() if names(value) <= seen.keys()}
    try:
        touched = order.keys(callee, {**args, **{name: resolve(value, seen).value for name, value in given.items()}})
    except PlanError:  # the step will fail, and touch nothing; that is for it to say
        touched = None
    templates = callee.declaration.resource
    if touched is not None or templates is None:
        return touched
    return frozenset(f"{template.partition(':')[0].casefold()}:**" for template in templates)


def _made(run: Run) -> Mapping[StepId, Calls]:
    """The calls of each step that had, or may have had, their effect, or gave what they looked at."""
    found: dict[StepId, Calls] = {}
    for path, state in run.steps.items():
        callee = callee_of(run, path)
        is_seen = state.status == "succeeded" and bool(state.attempt)
        if callee is not None and role_of(path) != "undo" and (is_seen or is_effect(run, path)):
            given = state.arguments.value if state.arguments is not None else None
            touched = order.keys(callee, given if isinstance(given, dict) else {})
            found.setdefault(root_of(path), []).append((callee, touched))
    return found


def _may_go(callee: Callee) -> bool:
    return callee.is_reading or callee.declaration.undo is not None


def kept_states(run: Run, plan: Plan) -> dict[StepPath, StepState]:
    """What stays of the last revision; what failed for good without a path around it may run again."""
    undoing = {path: state for path, state in run.steps.items() if path in run.undoing}
    if run.plan is None:
        return undoing
    stale, is_given = stale_steps(run, plan), run.given is not None
    steps = run.plan.steps if is_given else kept_steps(run, stale)
    staying = {step.id for step in steps if step in plan.steps} - stale
    return {
        path: state
        for path, state in run.steps.items()
        if root_of(path) in staying and role_of(path) != "undo" and _stays(run, path, is_given=is_given)
    } | undoing


GOING_ON: frozenset[StepStatus] = frozenset({"mapped", "entered", "parked", "interrupted"})
"""What a next plan takes up where it is, besides what has ended."""


def _stays(run: Run, path: StepPath, *, is_given: bool) -> bool:
    """Whether the next plan finds the call, or the one in its place, as it is."""
    assert run.plan is not None
    if is_taken_back(run, path):
        return False
    own = own_path(path)
    step = run.plan.index[split_path(own)[0]]
    if has_failed(run, step, own):
        return is_tolerated(step, own) or is_undecided(run.step(last_path(run, step, own)[1]))
    return is_given or run.step(own).status in GOING_ON or has_ended(run, step, own)


def forgotten(run: Run, kept: Mapping[StepPath, StepState]) -> tuple[Remainder, ...]:
    """The effects that the next plan knows nothing of, and that nobody takes back."""
    return tuple(
        Remainder(path=path, reason=lasting(state))
        for path, state in run.steps.items()
        if path not in kept and is_lasting(run, path)
    )


def reads_input(step: Step, key: str) -> bool:
    """Whether a step may read this input: it names it, or the inputs as a whole."""
    text = step.model_dump_json()
    return re.search(rf"\binputs\b(?!\s*\.)|\binputs\s*\.\s*{re.escape(key)}\b", text) is not None


# effects ----------------------------------------------------------------------------------------------------


def is_effect(run: Run, path: StepPath) -> bool:
    """Whether a call changed something, or may have; in a fork, not what happened in the run that it is a fork of."""
    state, callee = run.step(path), callee_of(run, path)
    if callee is None or callee.is_reading or role_of(path) == "undo" or state.begun <= run.forked_at:
        return False
    may_be_part = callee.kind == "plan"  # also of one that failed, something may have happened
    is_denied = state.answer == "no" and (state.status == "in_doubt" or state.question == "happened")
    return state.status == "succeeded" or (is_unknown(state) and not is_denied) or may_be_part


def is_unknown(state: StepState) -> bool:
    """Whether nobody knows if the call had its effect."""
    is_asked = state.question == "happened" and state.status in {"asked", "answered"}
    is_open = state.status in {"interrupted", "in_doubt"}
    return is_asked or is_open or state.is_unsure or is_undecided(state)


def is_lasting(run: Run, path: StepPath) -> bool:
    """Whether a call has, or may have, an effect that nobody takes back."""
    return is_effect(run, path) and not is_taken_back(run, path)


def lasting(state: StepState) -> str:
    """Why an effect lasts, in words."""
    return "it cannot be taken back" if state.status == "succeeded" else "nobody knows whether it happened"


def undo_report(run: Run) -> tuple[tuple[StepPath, ...], tuple[Remainder, ...]]:
    """What was taken back so far, and what could not be."""
    states = [(own_path(path), run.step(path)) for path in run.undoing]
    done = tuple(path for path, state in states if state.status == "succeeded")
    failed = tuple(Remainder(path=path, reason=_why(state)) for path, state in states if state.status != "succeeded")
    return (*run.undone, *done), (*run.left, *failed)


def _why(state: StepState) -> str:
    return state.fault.message if state.fault is not None else "nobody knows whether it was taken back"
