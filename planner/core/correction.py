"""What a correction makes of a run: which finished steps are no longer right, and what was taken back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from planner.core.events import Remainder
from planner.core.labels import Json
from planner.core.plan import Plan, Step, StepPath, own_path, reads
from planner.core.run import Run, StepState


def corrected_plan(run: Run) -> Plan | None:
    """The plan that the last correction leads to without a planner; None where one is to be asked."""
    last = run.corrections[-1]
    if last.plan is not None or run.plan is None:
        return last.plan
    is_known = bool(last.inputs) and last.inputs.keys() <= run.plan.inputs.keys()
    return with_inputs(run.plan, last.inputs) if is_known and not last.text else None


def with_inputs(plan: Plan, inputs: Mapping[str, Json]) -> Plan:
    """The plan with other constants."""
    return plan.model_copy(update={"inputs": {**plan.inputs, **inputs}})


def superseded(old: Plan, new: Plan) -> frozenset[str]:
    """The steps of the old plan that are no longer right: left out, changed, or made from what changed."""
    changed = {key for key in old.inputs.keys() | new.inputs.keys() if old.inputs.get(key) != new.inputs.get(key)}
    stale = {step.id for step in old.steps if step not in new.steps or any(reads_input(step, key) for key in changed)}
    return superseded_by(old, stale)


def superseded_by(plan: Plan, stale: Iterable[str]) -> frozenset[str]:
    """These steps of the plan, and all that were made from them."""
    result = set(stale)
    for step in plan.steps:  # a step reads only earlier ones, so one pass is enough
        if (reads(step) | frozenset(step.after)) & result:
            result.add(step.id)
    return frozenset(result)


def reads_input(step: Step, key: str) -> bool:
    """Whether a step may read this input: it names it, or the inputs as a whole."""
    text = step.model_dump_json()
    return re.search(rf"\binputs\b(?!\s*\.)|\binputs\s*\.\s*{re.escape(key)}\b", text) is not None


def undo_report(run: Run) -> tuple[tuple[StepPath, ...], tuple[Remainder, ...]]:
    """What was taken back so far, and what could not be."""
    states = [(own_path(path), run.step(path)) for path in run.undoing]
    done = tuple(path for path, state in states if state.status == "succeeded")
    failed = tuple(Remainder(path=path, reason=_why(state)) for path, state in states if state.status != "succeeded")
    return (*run.undone, *done), (*run.left, *failed)


def _why(state: StepState) -> str:
    return state.fault.message if state.fault is not None else "nobody knows whether it was taken back"
