"""The state of a run, folded from its events; nothing else changes a run.

Rules of the file:
- `evolve(run, event) -> run` is total over legal histories; an illegal event raises and leaves the run as it was.
- What a step may do next is the table of `moves`: which event is legal in which status, and where it leads.
- Times come from the journal (`Recorded.at`); there is no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.core.events import (
    FINAL,
    AnswerDropped,
    BudgetRefused,
    CancelRequested,
    Event,
    EventReceived,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
    UndoBegan,
    UndoRequested,
)
from planner.core.run import Run, account, accounts_of, callee_at, held_in, holds, in_flight, replace
from planner.core.state.control import directed
from planner.core.state.planning import abandoned, planned, reviewed
from planner.core.state.steps import stepped
from planner.core.state.usage import settled
from planner.errors import JournalError

__all__ = ["account", "accounts_of", "callee_at", "evolve", "fold", "held_in", "holds"]


def fold(history: Iterable[Recorded]) -> Run:
    """The run that these events made. Raises `JournalError` if they are not a history."""
    run: Run | None = None
    for recorded in history:
        run = evolve(run, recorded)
    if run is None:
        raise JournalError("J-201", "a run without events has no state", hint="its first event is `RunStarted`")
    return run


def evolve(run: Run | None, recorded: Recorded) -> Run:
    """The run after one more event. Raises `JournalError` if the event is illegal in this state."""
    event = recorded.event
    if run is None:
        if not isinstance(event, RunStarted):
            raise JournalError("J-202", f"a run starts with `RunStarted`, not `{event.type}`")
        return Run(
            id=recorded.run_id,
            started=event,
            began_at=recorded.at,
            at=recorded.at,
            run_seq=recorded.run_seq,
            given=event.plan,
        )
    if run.finished is not None and not isinstance(event, UndoRequested):
        raise JournalError("J-203", f"`{event.type}` after the run finished as `{run.finished.status}`")
    is_held = run.status in {"waiting", "paused"} and not in_flight(run)
    is_idle = is_held or isinstance(event, RunResumed | RunForked | UndoRequested)
    passed_s = 0.0 if is_idle else max(0.0, (recorded.at - run.at).total_seconds())
    spent = run.spent.later(passed_s)
    before = replace(run, at=recorded.at, run_seq=recorded.run_seq, spent=spent)
    return settled(_applied(before, event), event, before=before)


def _applied(run: Run, event: Event) -> Run:
    match event:
        case RunStarted():
            raise JournalError("J-202", "`RunStarted` a second time")
        case PlanProposed() | PlannerFailed() | PlanRejected() | PlanAccepted():
            return planned(run, event)
        case ReviewPassed() | ReviewFailed() | ReviewInconclusive():
            return reviewed(run, event)
        case PlanAbandoned():
            return abandoned(run, event)
        case RunFinished():
            if event.status not in FINAL:
                raise JournalError("J-203", f"`{event.status}` is not a final status")
            return replace(run, phase="finished", finished=event)
        case (
            RunResumed()
            | CancelRequested()
            | PauseRequested()
            | PauseLifted()
            | Steered()
            | UndoRequested()
            | UndoBegan()
            | AnswerDropped()
            | BudgetRefused()
            | EventReceived()
            | RunForked()
        ):
            return directed(run, event)
        case _:
            return stepped(run, event)
