"""What becomes of a step that is a run of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from planner.core.catalog import Callee
from planner.core.commands import Call
from planner.core.events import Fault, PauseRequested, Recorded, StepFailed, StepParked, StepSucceeded
from planner.core.intrinsics import RESEARCHER
from planner.core.labels import Labelled
from planner.core.plan import StepPath, role_of
from planner.core.run import Run, StepStatus, callee_of
from planner.errors import JournalError, ModelError, UserError
from planner.outcomes import child_id, ended, fault_of
from planner.outside import UNBEGUN, Delegation, Nested

BEGUN: frozenset[StepStatus] = frozenset({"started", "parked", "interrupted"})
"""A nested run whose step is in one of these may be under way, or go on some day."""


def under_way(run: Run) -> Mapping[StepPath, str]:
    """The nested runs that have begun and not ended, each by the step that it is."""
    return {
        path: child_id(run, state.key)
        for path, state in run.steps.items()
        if state.status in BEGUN and (callee := callee_of(run, path)) is not None and callee.kind == "plan"
    }


def is_paused_by(run: Run, history: Sequence[Recorded], by: str) -> bool:
    """Whether it was `by` who paused the run last, and nobody lifted that."""
    last = next((one.event.by for one in reversed(history) if isinstance(one.event, PauseRequested)), None)
    return run.is_paused and last == by


def delegation(callee: Callee, given: Labelled) -> Delegation:
    """What the call hands over. Its plan is worth what the goal is worth, whoever let it be delegated."""
    arguments = given.value if isinstance(given.value, dict) else {}
    goal, allow, about = str(arguments["goal"]), arguments.get("allow"), arguments.get("about")
    label = given.at(("goal",)).overall()
    if callee.name != RESEARCHER.name:
        names = tuple(map(str, allow)) if isinstance(allow, list) else ("*",)
        return Delegation(goal, names, label=label)
    text = about if isinstance(about, str) else json.dumps(about, ensure_ascii=False)
    return Delegation(goal, is_looking=True, about={} if about is None else {"about": text}, label=label)


async def outcome(
    nested: Nested | None, run: Run, command: Call, callee: Callee
) -> StepSucceeded | StepFailed | StepParked:
    """The step's outcome once its run has ended or can only wait; of one that takes back, once that is done."""
    path = command.path
    given = run.step(path).arguments or Labelled(value={})
    if nested is None:
        fault = Fault(code="T-208", error_class="invalid", message="this engine runs no nested goals")
        return StepFailed(path=path, fault=fault, attempt=command.attempt)
    try:
        if role_of(path) == "undo":
            child = await nested.undo(child_id(run, command.key), by=run.id)
        else:
            child = await nested.run(run, command, delegation(callee, given))
    except JournalError as error:
        if role_of(path) == "undo" and error.code in UNBEGUN:
            return StepSucceeded(path=path, value=Labelled())  # there is nothing to take back
        if error.code != "J-301":
            raise
        fault = fault_of(error)  # its record is damaged, which is no reason for this run to stop
    except (UserError, ModelError) as error:  # it cannot even begin
        fault = fault_of(error)
    else:
        return ended(child, command, callee, given)
    return StepFailed(path=path, fault=fault, attempt=command.attempt)
