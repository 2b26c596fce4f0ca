"""What a correction makes of a run: which finished steps are no longer right, and what was taken back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from planner.core.catalog import Callee
from planner.core.events import Remainder
from planner.core.labels import Json
from planner.core.order import Keys, keys, must_keep_order
from planner.core.plan import Plan, Step, StepPath, own_path, reads, role_of, root_of
from planner.core.run import Run, StepState


def corrected_plan(run: Run) -> Plan | None:
    """The plan that the corrections so far lead to without a planner; None where one is to be asked."""
    plan = run.plan
    for correction in run.corrections[run.heeded :]:
        if correction.plan is not None:
            plan = correction.plan
        elif plan is None or correction.text or not correction.inputs.keys() <= plan.inputs.keys():
            return None
        else:
            plan = with_inputs(plan, correction.inputs)
    return plan


def with_inputs(plan: Plan, inputs: Mapping[str, Json]) -> Plan:
    """The plan with other constants."""
    return plan.model_copy(update={"inputs": {**plan.inputs, **inputs}})


def superseded(run: Run, new: Plan) -> frozenset[str]:
    """The steps of the run's plan that are no longer right: left out, changed, or made from what changed."""
    old = run.plan or Plan()
    changed = {key for key in old.inputs.keys() | new.inputs.keys() if old.inputs.get(key) != new.inputs.get(key)}
    stale = {step.id for step in old.steps if step not in new.steps or any(reads_input(step, key) for key in changed)}
    return superseded_by(run, stale)


def superseded_by(run: Run, stale: Iterable[str]) -> frozenset[str]:
    """These steps of the run's plan, and all that were made from them, or came after one on the same thing.

    What came after and can neither be taken back nor be done again without harm stays as it is.
    """
    result, calls = set(stale), _calls(run)
    gone = [call for id_ in result for call in calls.get(id_, ())]
    for step in run.plan.steps if run.plan is not None else ():  # a step follows only earlier ones: one pass will do
        own = calls.get(step.id, [])
        is_after = any(must_keep_order(a, b) and _may_go(b[0]) for a in gone for b in own if a not in own)
        if step.id not in result and (is_after or (reads(step) | frozenset(step.after)) & result):
            result.add(step.id)
            gone += own
    return frozenset(result)


def _calls(run: Run) -> dict[str, list[tuple[Callee, Keys]]]:
    """What each step of the plan has called, and what that touches."""
    found: dict[str, list[tuple[Callee, Keys]]] = {}
    for path, state in run.steps.items():
        if run.plan is not None and state.attempt and role_of(path) != "undo":
            callee = run.started.setup.catalogue[run.plan.at(path).use or ""]
            given = state.arguments.value if state.arguments is not None else None
            touched = keys(callee, given if isinstance(given, dict) else {})
            found.setdefault(root_of(path), []).append((callee, touched))
    return found


def _may_go(callee: Callee) -> bool:
    return callee.is_reading or callee.declaration.undo is not None


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
