"""What an event does to one step: a table of legal moves, and what each event fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, assert_never

from planner.core.events import (
    BlockEntered,
    ContentKept,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    RetryScheduled,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    WaitEnded,
    WaitStarted,
)
from planner.core.run import StepState, StepStatus
from planner.errors import JournalError

STEP_MOVES: Mapping[tuple[StepStatus, str], StepStatus] = {
    ("new", "StepResolved"): "resolved",
    ("new", "MapResolved"): "mapped",
    ("new", "StepSkipped"): "skipped",
    ("new", "StepSucceeded"): "succeeded",  # a `let`
    ("new", "StepFailed"): "failed",  # its inputs cannot be computed
    ("new", "BlockEntered"): "entered",
    ("entered", "StepSucceeded"): "succeeded",
    ("entered", "StepFailed"): "failed",
    ("resolved", "StepStarted"): "started",
    ("resolved", "HumanAsked"): "asked",
    ("resolved", "StepFailed"): "failed",  # denied
    ("resolved", "StepSkipped"): "skipped",  # another item made the map fail, or there is no room for it
    ("resolved", "WaitStarted"): "waiting",
    ("waiting", "TimerFired"): "fired",
    ("waiting", "WaitEnded"): "fired",
    ("fired", "StepSucceeded"): "succeeded",
    ("fired", "StepFailed"): "failed",  # the time was over first
    ("started", "ContentKept"): "started",
    ("started", "StepSucceeded"): "succeeded",
    ("started", "StepFailed"): "failed",
    ("started", "StepInDoubt"): "in_doubt",
    ("started", "StepParked"): "parked",
    ("started", "StepNudged"): "started",  # what was called ended before anybody knew that it had to wait
    ("started", "RunResumed"): "interrupted",
    ("parked", "StepNudged"): "interrupted",
    ("parked", "RunResumed"): "interrupted",
    ("interrupted", "StepStarted"): "started",
    ("interrupted", "StepInDoubt"): "in_doubt",
    ("interrupted", "StepFailed"): "failed",  # it ended its process again and again
    ("interrupted", "RunResumed"): "interrupted",
    ("in_doubt", "StepStarted"): "started",
    ("in_doubt", "StepProbed"): "in_doubt",
    ("in_doubt", "HumanAsked"): "asked",
    ("in_doubt", "StepSucceeded"): "succeeded",
    ("in_doubt", "StepFailed"): "failed",
    ("asked", "HumanAnswered"): "answered",
    ("asked", "TimerFired"): "answered",  # too late
    ("answered", "StepStarted"): "started",
    ("answered", "StepFailed"): "failed",
    ("answered", "StepSucceeded"): "succeeded",  # it had happened, or this is the answer
    ("answered", "StepSkipped"): "skipped",  # a person wants to go on without it
    ("failed", "RetryScheduled"): "retrying",
    ("failed", "HumanAsked"): "asked",
    ("retrying", "TimerFired"): "resolved",
}


def resumed(state: StepState) -> StepState:
    """The state after another process took over: what was under way then has no known outcome."""
    crashes = state.crashes + (state.status == "started")
    return replace(state, status=STEP_MOVES.get((state.status, "RunResumed"), state.status), crashes=crashes)


StepEvent: TypeAlias = (
    StepResolved
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
    | WaitEnded
    | BlockEntered
    | StepParked
    | StepNudged
)


def moved(state: StepState, event: StepEvent) -> StepState:
    """The state after the event. Raises `JournalError` J-204 if the table has no such move."""
    status = STEP_MOVES.get((state.status, event.type))
    if status is None:
        raise JournalError("J-204", f"`{event.type}` is illegal for step `{event.path}`, which is {state.status}")
    return _filled(replace(state, status=status), event)


def _filled(state: StepState, event: StepEvent) -> StepState:  # noqa: C901, PLR0911, PLR0912 - a case per event kind
    match event:
        case StepResolved():
            return replace(state, arguments=event.arguments, verdict=event.verdict)
        case MapResolved():
            return replace(state, items=event.items)
        case BlockEntered():
            return replace(state, branch=event.branch, decided_by=event.decided_by)
        case StepStarted():
            is_cheaper = event.is_cheaper
            return replace(
                state, attempt=event.attempt, key=event.key, held=event.held, is_cheaper=is_cheaper, answer=None
            )
        case ContentKept():
            return replace(state, kept={**state.kept, event.name: event.blob})
        case StepSucceeded():
            return replace(state, value=event.value, fault=None)
        case StepFailed():
            return replace(state, fault=event.fault, failures=state.failures + 1)
        case StepInDoubt():
            return replace(state, probed=False, answer=None, doubts=state.doubts + 1)
        case StepProbed():
            return replace(state, probed=True, answer=_ANSWERS[event.happened])
        case StepSkipped():
            return replace(state, cause=event.cause)
        case RetryScheduled():
            return replace(state, due=event.due)
        case TimerFired():
            return replace(state, due=None, answer="late" if state.question is not None else state.answer)
        case HumanAsked():
            return replace(state, question=event.question, reason=event.reason, answer=None)
        case HumanAnswered():
            return replace(state, answer=event.answer, due=None)
        case WaitStarted():
            return replace(state, wanted=None if event.name is None else (event.name, event.match))
        case WaitEnded():
            return replace(state, due=None)
        case StepParked():
            return replace(state, status="interrupted", is_nudged=False) if state.is_nudged else state
        case StepNudged():
            return replace(state, is_nudged=state.status == "started")
        case _:
            assert_never(event)


_ANSWERS: Mapping[bool | None, Literal["yes", "no"] | None] = {True: "yes", False: "no", None: None}
