"""Decide again from the journal: each recorded event must be what the rules wanted, or a legal input from outside.

Rules of the file:
- What the rules decide alone must be recorded as they decide it now. What the world says must answer a command that
  was wanted; one that the world is slow to answer may be wanted no more by then.
- A call is different: it is made only while it is wanted.
- What secrets were taken out of is as it was decided if that is all that differs.
- What stands before a `RunForked` was decided under the id of the run that it was copied from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from planner.core.commands import AskPlanner, AskValidator, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    AnswerDropped,
    BlockEntered,
    BudgetRefused,
    CancelRequested,
    ContentKept,
    Event,
    EventReceived,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    RetryScheduled,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
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
    UndoBegan,
    UndoRequested,
    WaitEnded,
    WaitStarted,
)
from planner.core.ledger import NOTHING
from planner.core.moves import ANSWERS
from planner.core.redaction import conceals
from planner.core.run import Run
from planner.core.state import evolve, fold
from planner.errors import JournalError

Rules: TypeAlias = Callable[[Run], tuple[Command, ...]]
RULES: Mapping[int, Rules] = {1: decide}
"""The rules of each version of the semantics; a version stays as long as runs of it are kept."""

Decided: TypeAlias = (
    PlanRejected
    | PlanAccepted
    | PlanAbandoned
    | StepResolved
    | StepJudged
    | MapResolved
    | StepSkipped
    | HumanAsked
    | WaitStarted
    | WaitEnded
    | BlockEntered
    | UndoBegan
    | RunFinished
)
"""What the rules alone decide."""
Reply: TypeAlias = (
    PlanProposed
    | PlannerFailed
    | StepProbed
    | RetryScheduled
    | TimerFired
    | ReviewPassed
    | ReviewFailed
    | ReviewInconclusive
)
"""What answers a command that is no call."""
Input: TypeAlias = (
    RunStarted
    | RunResumed
    | RunForked
    | CancelRequested
    | PauseRequested
    | PauseLifted
    | Steered
    | UndoRequested
    | EventReceived
    | StepNudged
    | AnswerDropped
    | BudgetRefused
    | ContentKept
)
"""What comes from outside; whether it may come in this state is for `evolve` to say."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """An event that the rules do not lead to, and what they want in its place; nothing means that they wait."""

    run_seq: int
    recorded: Event
    wanted: tuple[Command, ...]


def rules_of(run: Run, *, known: Mapping[int, Rules] = RULES) -> Rules:
    """The rules that the run was started under. Raises `JournalError` J-205 if this version has them no more."""
    version = run.started.semantics
    if version not in known:
        versions = ", ".join(map(str, sorted(known)))
        raise JournalError(
            "J-205",
            f"run `{run.id}` was started under version {version} of the rules, and this program knows {versions}",
            hint="Go on with it in the planner that started it.",
            error_class="failed",
        )
    return known[version]


def replayed(history: Sequence[Recorded], *, known: Mapping[int, Rules] = RULES) -> tuple[Divergence, ...]:
    """Where the rules of the run's version, or those in `known`, no longer lead to what is recorded.

    After a divergence it goes on from what is recorded. Raises `JournalError` if the events are no history.
    """
    run = fold(history[:1])
    rules = rules_of(run, known=known)
    ids = _ids(history)
    found: list[Divergence] = []
    batch: list[Event] = []
    replies: dict[_Key, Command] = {}
    for recorded, id_ in zip(history[1:], ids[1:], strict=True):
        event = recorded.event
        decided = _of(batch, event)
        if decided is None:  # else it was decided together with the one before it
            wanted = rules(replace(run, id=id_))
            batch = [command.event for command in wanted if isinstance(command, Record)]
            replies.update(_awaited(wanted))
            decided = _of(batch, event)
            if decided is None and not _is_legal(run, recorded, wanted, replies):
                found.append(Divergence(recorded.run_seq, event, wanted))
        if decided is not None:
            batch.remove(decided)
        if isinstance(event, RunResumed | RunForked | PlanAbandoned):
            replies.clear()  # whoever was asked is gone, or was asked about another plan
        run = evolve(run, recorded)
    return tuple(found)


def _of(batch: Sequence[Event], event: Event) -> Event | None:
    """Which of those that were decided is recorded as `event`, perhaps without secrets."""
    if event in batch:
        return event
    shown = event.model_dump(mode="json")
    alike = (one for one in batch if one.type == event.type)
    return next((one for one in alike if conceals(shown, one.model_dump(mode="json"))), None)


def _ids(history: Sequence[Recorded]) -> list[str]:
    """For each event the id of the run for which it was decided."""
    result: list[str] = []
    id_ = history[-1].run_id
    for recorded in reversed(history):
        result.append(id_)
        if isinstance(recorded.event, RunForked):
            id_ = recorded.event.origin
    return result[::-1]


# what the world may answer ------------------------------------------------------------------------------------

_Key: TypeAlias = tuple[object, ...]


def _awaited(wanted: tuple[Command, ...]) -> Iterator[tuple[_Key, Command]]:
    """The commands that may be answered later, each under what its answer is known by."""
    for command in wanted:
        match command:
            case AskPlanner():
                yield ("planner", command.revision, command.attempt, command.corrections), command
            case AskValidator():
                yield ("validator",), command
            case Probe():
                yield ("probe", command.path), command
            case ScheduleRetry():
                yield ("retry", command.path, command.attempt), command
            case StartTimer():
                yield ("timer", command.path, command.due), command
            case _:
                pass


def _is_legal(run: Run, recorded: Recorded, wanted: tuple[Command, ...], replies: dict[_Key, Command]) -> bool:
    """Whether the world may say this now."""
    event = recorded.event
    if isinstance(event, Decided | Input):
        return isinstance(event, Input)
    match event:
        case StepStarted():
            return any(isinstance(command, Call) and _is_of(event, command) for command in wanted)
        case HumanAnswered():
            question = run.step(event.path).question
            return question is not None and event.answer in ANSWERS[question]
        case StepSucceeded() | StepFailed() | StepInDoubt() | StepParked():
            state = run.step(event.path)
            return state.status == "started" or (_is_late(event) and state.status == "in_doubt" and not state.answer)
        case _:
            command = replies.pop(_key(run, event), None)
            return command is not None and _fits(event, command, recorded)


def _is_late(event: Event) -> bool:
    """Whether it may be the outcome of a call that was given up; the rules name no attempt when they give up one."""
    return isinstance(event, StepSucceeded) or (isinstance(event, StepFailed) and event.attempt > 0)


def _is_of(event: StepStarted, command: Call) -> bool:
    same = (command.path, command.attempt, command.key, command.is_cheaper)
    is_same = (event.path, event.attempt, event.key, event.is_cheaper) == same
    return is_same and event.held in (command.held, NOTHING)  # nothing where an open circuit refused it


def _key(run: Run, event: Reply) -> _Key:
    """What the answered command is known by."""
    match event:
        case PlanProposed() | PlannerFailed():
            return "planner", event.revision, event.attempt, len(run.corrections)
        case StepProbed():
            return "probe", event.path
        case RetryScheduled():
            return "retry", event.path, event.attempt
        case TimerFired():
            return "timer", event.path, run.step(event.path).due
        case ReviewPassed() | ReviewFailed() | ReviewInconclusive():
            return ("validator",)
        case _:
            assert_never(event)


def _fits(event: Reply, command: Command, recorded: Recorded) -> bool:
    """Whether the answer is one to just this command: no timer early, no criterion that nobody asked about."""
    match event, command:
        case TimerFired(), StartTimer(due=due):
            return recorded.at >= due
        case ReviewFailed() | ReviewInconclusive(), AskValidator(criteria=asked):
            return set(event.criteria) <= set(asked)
        case _:
            return True


# telling ------------------------------------------------------------------------------------------------------


def told(divergence: Divergence) -> str:
    """One line: which event it is, and what the rules want instead."""
    event, wanted = divergence.recorded, divergence.wanted
    near = [c.event for c in wanted if isinstance(c, Record) and _named(c.event) == _named(event)]
    what = f"event {divergence.run_seq}, {_named(event)},"
    if near:
        fields = [name for name in type(event).model_fields if getattr(event, name) != getattr(near[0], name)]
        return f"{what} is recorded with another {' and '.join(f'`{name}`' for name in fields)} than the rules give"
    names = [_named(c.event) if isinstance(c, Record) else _named(c) for c in wanted]
    return f"{what} is recorded, but the rules want {', '.join(names) or 'to wait'}"


def _named(one: Event | Command) -> str:
    path = getattr(one, "path", None)
    return f"`{type(one).__name__}`" + (f" of `{path}`" if path is not None else "")
