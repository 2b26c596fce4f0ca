"""What an event does to one step: a table of legal moves, and what each event fills in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, assert_never

from planner.core.events import (
    BlockEntered,
    ContentKept,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    Question,
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
    TimerFired,
    WaitEnded,
    WaitStarted,
)
from planner.core.run import StepState, StepStatus, replace
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
    ("entered", "StepSkipped"): "skipped",  # what is around it failed
    ("resolved", "StepJudged"): "resolved",
    ("asked", "StepJudged"): "resolved",  # the question was about another call by now
    ("answered", "StepJudged"): "resolved",
    ("interrupted", "StepJudged"): "interrupted",
    ("in_doubt", "StepJudged"): "in_doubt",
    ("resolved", "StepStarted"): "started",
    ("resolved", "HumanAsked"): "asked",
    ("resolved", "StepFailed"): "failed",  # denied
    ("resolved", "StepSkipped"): "skipped",  # another item made the map fail, or there is no room for it
    ("resolved", "WaitStarted"): "waiting",
    ("waiting", "StepSkipped"): "skipped",  # nobody needs what it waits for any more, as with those below
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
    ("asked", "StepFailed"): "failed",  # nobody waits for the answer any more
    ("asked", "StepSkipped"): "skipped",
    ("answered", "StepStarted"): "started",
    ("answered", "StepFailed"): "failed",
    ("answered", "StepSucceeded"): "succeeded",  # it had happened, or this is the answer
    ("answered", "StepSkipped"): "skipped",  # a person wants to go on without it
    ("failed", "RetryScheduled"): "retrying",
    ("failed", "HumanAsked"): "asked",
    ("failed", "StepSkipped"): "skipped",
    ("retrying", "TimerFired"): "resolved",
    ("retrying", "StepSkipped"): "skipped",
}


def resumed(state: StepState) -> StepState:
    """The state after another process took over: what was under way then has no known outcome."""
    crashes = state.crashes + (state.status == "started")
    return replace(state, status=STEP_MOVES.get((state.status, "RunResumed"), state.status), crashes=crashes)


StepEvent: TypeAlias = (
    StepResolved
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
    | WaitEnded
    | BlockEntered
    | StepParked
    | StepNudged
)


ANSWERS: Mapping[Question, frozenset[str]] = {
    "approve": frozenset({"yes", "no", "edit", "endorse"}),
    "happened": frozenset({"yes", "no"}),
    "failed": frozenset({"retry", "skip", "fail"}),
    "answer": frozenset({"value"}),
}
"""What answers each question: a word that means something else must never pass for a yes."""
QUESTIONS: Mapping[StepStatus, frozenset[Question]] = {
    "resolved": frozenset({"approve", "answer"}),
    "in_doubt": frozenset({"happened"}),
    "failed": frozenset({"failed"}),
}
"""What may be asked in each status."""
CALLED: frozenset[StepStatus] = frozenset({"started", "in_doubt"})
"""Where a call may still give its outcome."""


def moved(state: StepState, event: StepEvent) -> StepState:
    """The state after the event. Raises `JournalError` J-204 if the table has no such move."""
    status = STEP_MOVES.get((state.status, event.type))
    if status is None:
        raise JournalError("J-204", f"`{event.type}` is illegal for step `{event.path}`, which is {state.status}")
    flaw = _flaw(state, event)
    if flaw:
        raise JournalError("J-204", f"`{event.type}` is illegal for step `{event.path}`: {flaw}")
    return _filled(replace(state, status=status), event)


def _flaw(state: StepState, event: StepEvent) -> str:
    """What is wrong with an event that could come in this status; empty if nothing is."""
    match event:
        case RetryScheduled() | WaitStarted() | HumanAsked() if not _is_time(event):
            return "a time needs a zone, and how long something lasts is no less than nothing"
        case HumanAsked() if event.question not in QUESTIONS[state.status]:
            return f"`{event.question}` is no question about a step that is {state.status}"
        case HumanAsked() | RetryScheduled() if state.status == "failed" and not state.attempt:
            return "it was never called, so it cannot be called again"
        case HumanAnswered():
            return _unfit(state, event)
        case StepJudged() if state.status == "asked" and state.question in {"happened", "failed", "answer"}:
            return "what is asked is not whether it may be made"
        case TimerFired() if state.due is None:
            return "it waits for no time"
        case StepFailed() if event.attempt and (state.status not in CALLED or event.attempt != state.attempt):
            return f"attempt {event.attempt} is over"
        case StepFailed() if state.status == "asked" and state.question != "happened":
            return "it is not under way"
        case StepSkipped() if state.status == "asked" and state.question == "happened":
            return "it may have happened"
        case _:
            return ""


def _unfit(state: StepState, event: HumanAnswered) -> str:
    """Why an answer is none to the question that is open; empty if it is one."""
    if state.question is not None and event.answer not in ANSWERS[state.question]:
        return f"`{event.answer}` is no answer to `{state.question}`"
    if event.asked is not None and event.asked != state.asked:
        return "the question is another one by now"
    return "the call is another one by now" if event.binding and event.binding != state.binding else ""


def _is_time(event: RetryScheduled | WaitStarted | HumanAsked) -> bool:
    match event:
        case RetryScheduled():
            return event.due.tzinfo is not None
        case WaitStarted():
            return (event.until is None or event.until.tzinfo is not None) and (event.seconds or 0.0) >= 0
        case _:
            return (event.timeout_s or 0.0) >= 0


def _filled(state: StepState, event: StepEvent) -> StepState:  # noqa: C901, PLR0911, PLR0912 - a case per event kind
    match event:
        case StepResolved():
            return replace(state, arguments=event.arguments, verdict=event.verdict)
        case StepJudged():
            is_said = state.status == "resolved"  # whatever was asked or answered was about another call by now
            due, answer = (None, None) if is_said else (state.due, state.answer)
            return replace(
                state,
                verdict=event.verdict,
                is_stale=False,
                is_weighed=True,
                approved_at=None,
                due=due,
                answer=answer,
            )
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
            return replace(state, value=event.value, fault=None, is_unsure=False)
        case StepFailed():
            label = state.decided_by.joined(event.decided_by)
            return replace(state, fault=event.fault, failures=state.failures + 1, decided_by=label)
        case StepInDoubt():
            return replace(state, probed=False, answer=None, doubts=state.doubts + 1)
        case StepProbed():
            return replace(
                state,
                probed=True,
                answer=_TOLD[event.happened],
                is_unsure=state.is_unsure and event.happened is not False,
            )
        case StepSkipped():
            return replace(state, cause=event.cause, decided_by=event.decided_by, due=None)
        case RetryScheduled():
            return replace(state, due=event.due)
        case TimerFired():
            return replace(state, due=None, answer="late" if state.status == "answered" else state.answer)
        case HumanAsked():
            asked = replace(state, question=event.question, reason=event.reason, binding=event.binding, answer=None)
            return replace(asked, approved_at=None) if event.question == "approve" else asked
        case HumanAnswered():
            is_unsure = state.is_unsure and not (state.question == "happened" and event.answer == "no")
            return replace(state, answer=event.answer, due=None, is_unsure=is_unsure)
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


_TOLD: Mapping[bool | None, Literal["yes", "no"] | None] = {True: "yes", False: "no", None: None}
