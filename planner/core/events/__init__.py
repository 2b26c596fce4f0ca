"""The facts of a run, in the past tense: a closed, versioned union.

Rules of the file:
- An event says what happened, never what to do. State is a fold over events and nothing else.
- A field is never removed or given another meaning, or another default, which journals leave out; a new meaning is
  a new `schema` number with an upcaster.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import Field, TypeAdapter

from planner.core.events.control import (
    AnswerDropped,
    BudgetRefused,
    CancelRequested,
    PauseLifted,
    PauseRequested,
    RunForked,
    Steered,
    UndoBegan,
    UndoRequested,
)
from planner.core.events.people import HumanAnswered, HumanAsked, Question
from planner.core.events.planning import PlanAbandoned, PlanAccepted, PlannerFailed, PlanProposed, PlanRejected
from planner.core.events.run import (
    FINAL,
    SEMANTICS,
    Attachment,
    Final,
    Remainder,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStatus,
)
from planner.core.events.shared import BlobId, Fault, Usage
from planner.core.events.steps import (
    BlockEntered,
    ContentKept,
    MapResolved,
    RetryScheduled,
    StepFailed,
    StepInDoubt,
    StepJudged,
    StepNudged,
    StepParked,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from planner.core.events.waits import EventReceived, TimerFired, WaitEnded, WaitStarted
from planner.core.labels import Frozen

__all__ = [
    "EVENT",
    "FINAL",
    "SEMANTICS",
    "AnswerDropped",
    "Attachment",
    "BlobId",
    "BlockEntered",
    "BudgetRefused",
    "CancelRequested",
    "ContentKept",
    "Event",
    "EventReceived",
    "Fault",
    "Final",
    "HumanAnswered",
    "HumanAsked",
    "MapResolved",
    "PauseLifted",
    "PauseRequested",
    "PlanAbandoned",
    "PlanAccepted",
    "PlanProposed",
    "PlanRejected",
    "PlannerFailed",
    "Question",
    "Recorded",
    "Remainder",
    "RetryScheduled",
    "ReviewFailed",
    "ReviewInconclusive",
    "ReviewPassed",
    "RunFinished",
    "RunForked",
    "RunResumed",
    "RunStarted",
    "RunStatus",
    "Steered",
    "StepFailed",
    "StepInDoubt",
    "StepJudged",
    "StepNudged",
    "StepParked",
    "StepProbed",
    "StepResolved",
    "StepSkipped",
    "StepStarted",
    "StepSucceeded",
    "TimerFired",
    "UndoBegan",
    "UndoRequested",
    "Usage",
    "WaitEnded",
    "WaitStarted",
]

Event: TypeAlias = Annotated[
    RunStarted
    | RunResumed
    | PlanProposed
    | PlannerFailed
    | PlanRejected
    | PlanAccepted
    | PlanAbandoned
    | StepResolved
    | StepJudged
    | MapResolved
    | StepStarted
    | ContentKept
    | StepSucceeded
    | StepFailed
    | StepInDoubt
    | StepProbed
    | StepSkipped
    | RetryScheduled
    | TimerFired
    | HumanAsked
    | HumanAnswered
    | WaitStarted
    | EventReceived
    | WaitEnded
    | BlockEntered
    | StepParked
    | StepNudged
    | ReviewPassed
    | ReviewFailed
    | ReviewInconclusive
    | CancelRequested
    | PauseRequested
    | PauseLifted
    | Steered
    | UndoRequested
    | UndoBegan
    | AnswerDropped
    | BudgetRefused
    | RunForked
    | RunFinished,
    Field(discriminator="type"),
]


EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Recorded(Frozen):
    """An event with its place: `seq` in the store, `run_seq` in the run (from 1), `at` in UTC."""

    seq: int
    run_id: str
    run_seq: int
    at: datetime
    event: Event
    schema_version: int = 1
