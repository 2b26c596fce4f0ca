"""The state of a run, folded from its events; nothing else changes a run.

Rules of the file:
- `evolve(run, event) -> run` is total over legal histories; an illegal event raises and leaves the run as it was.
- What a step may do next is the table `STEP_MOVES`: which event is legal in which status, and where it leads.
- Times come from the journal (`Recorded.at`); there is no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias, assert_never

from planner.core.check import Certificate, Problem
from planner.core.events import (
    FINAL,
    CancelRequested,
    ContentKept,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
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
    RunResumed,
    RunStarted,
    RunStatus,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    Usage,
)
from planner.core.labels import Labelled
from planner.core.ledger import Spent
from planner.core.plan import Plan, Step, StepPath, is_tolerated, reads, split_path
from planner.core.policy import Verdict
from planner.errors import ErrorClass, JournalError

StepStatus: TypeAlias = Literal[
    "new",
    "resolved",  # arguments known, gate passed or to be asked
    "mapped",  # the items of a map known; the items are steps of their own
    "started",
    "interrupted",  # started, and then the process that ran it ended
    "in_doubt",
    "asked",
    "answered",
    "failed",
    "retrying",
    "succeeded",
    "skipped",
]
DONE: frozenset[StepStatus] = frozenset({"succeeded", "skipped", "failed"})

STEP_MOVES: Mapping[tuple[StepStatus, str], StepStatus] = {
    ("new", "StepResolved"): "resolved",
    ("new", "MapResolved"): "mapped",
    ("new", "StepSkipped"): "skipped",
    ("new", "StepSucceeded"): "succeeded",  # a `let`
    ("new", "StepFailed"): "failed",  # its inputs cannot be computed
    ("resolved", "StepStarted"): "started",
    ("resolved", "HumanAsked"): "asked",
    ("resolved", "StepFailed"): "failed",  # denied
    ("resolved", "StepSkipped"): "skipped",  # another item made the map fail
    ("started", "ContentKept"): "started",
    ("started", "StepSucceeded"): "succeeded",
    ("started", "StepFailed"): "failed",
    ("started", "StepInDoubt"): "in_doubt",
    ("started", "RunResumed"): "interrupted",
    ("interrupted", "StepStarted"): "started",
    ("interrupted", "StepInDoubt"): "in_doubt",
    ("interrupted", "RunResumed"): "interrupted",
    ("in_doubt", "StepStarted"): "started",
    ("in_doubt", "StepProbed"): "in_doubt",
    ("in_doubt", "HumanAsked"): "asked",
    ("in_doubt", "StepSucceeded"): "succeeded",
    ("in_doubt", "StepFailed"): "failed",
    ("asked", "HumanAnswered"): "answered",
    ("answered", "StepStarted"): "started",
    ("answered", "StepFailed"): "failed",
    ("answered", "StepSucceeded"): "succeeded",  # it had happened
    ("failed", "RetryScheduled"): "retrying",
    ("retrying", "TimerFired"): "resolved",
}
RETRIABLE: frozenset[ErrorClass] = frozenset({"unavailable", "failed", "limit"})
"""What may go better the next time."""


@dataclass(frozen=True, slots=True)
class StepState:
    """What happened to one step, or to one item of a map."""

    status: StepStatus = "new"
    arguments: Labelled | None = None
    verdict: Verdict | None = None
    items: Labelled | None = None
    attempt: int = 0
    failures: int = 0
    """Attempts that failed without effect; a retry counts these, so that a crash uses up none."""
    doubts: int = 0
    """Attempts of which nobody knew the outcome."""
    key: str = ""
    question: Literal["approve", "happened"] | None = None
    reason: str = ""
    """Why a person is asked."""
    answer: Literal["yes", "no"] | None = None
    probed: bool = False
    value: Labelled | None = None
    fault: Fault | None = None
    cause: Literal["condition", "failure"] | None = None
    due: datetime | None = None
    kept: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen to it, unless a retry is decided."""
        return self.status in DONE


@dataclass(frozen=True, slots=True)
class Proposal:
    """A planner's answer that has not been checked yet."""

    plan: Plan | None
    problems: tuple[Problem, ...]


Phase: TypeAlias = Literal["planning", "executing", "reviewing", "finished"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that ended a revision, with the step as it was planned."""

    path: StepPath
    step: Step
    fault: Fault

    @property
    def may_pass(self) -> bool:
        """Whether the same call may well succeed later."""
        return self.fault.error_class in {"unavailable", "limit"}


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that is known of a run."""

    id: str
    started: RunStarted
    began_at: datetime
    at: datetime
    run_seq: int = 1
    phase: Phase = "planning"
    revision: int = 1
    attempt: int = 0
    """Planner answers of this revision so far."""
    proposal: Proposal | None = None
    rejected: tuple[tuple[Problem, ...], ...] = ()
    planner_fault: Fault | None = None
    plan: Plan | None = None
    certificate: Certificate | None = None
    steps: Mapping[StepPath, StepState] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    """The failures that ended earlier revisions; a replan is told of them."""
    unmet: tuple[str, ...] = ()
    """The criteria that the last review found failing, or could not decide."""
    review: Literal["passed", "failed", "inconclusive"] | None = None
    spent: Spent = field(default_factory=Spent)
    is_cancelled: bool = False
    finished: RunFinished | None = None

    @property
    def status(self) -> RunStatus:
        """The run's status as people see it."""
        if self.finished is not None:
            return self.finished.status
        is_asking = self.phase == "executing" and any(s.status == "asked" for s in self.steps.values())
        return "waiting" if is_asking else "running"

    def step(self, path: StepPath) -> StepState:
        """What happened to `path`; a fresh state if nothing did."""
        return self.steps.get(path, StepState())


def may_retry(step: Step, state: StepState) -> bool:
    """Whether a step or item failed, but not for good."""
    is_transient = state.fault is not None and state.fault.error_class in RETRIABLE
    return state.status == "failed" and is_transient and state.attempt > 0 and state.failures <= step.on_error.retry


def has_failed(step: Step, state: StepState) -> bool:
    """Whether a step or item failed for good."""
    return state.status == "failed" and not may_retry(step, state)


def has_ended(step: Step, state: StepState) -> bool:
    """Whether nothing more will happen to a step or item."""
    return state.status in DONE and not may_retry(step, state)


def failures_of(run: Run) -> Iterator[Failure]:
    """The failures that the plan had no path around."""
    steps = {step.id: step for step in run.plan.steps} if run.plan is not None else {}
    for path, state in run.steps.items():
        step = steps[split_path(path)[0]]
        if state.fault is not None and has_failed(step, state) and not is_tolerated(step, path):
            yield Failure(path=path, step=step, fault=state.fault)


def kept_steps(run: Run) -> tuple[Step, ...]:
    """The steps that every later plan of the run begins with.

    They are those that succeeded, in whole or for some items, and those that these read or waited for. A map that
    only looks and lost an item is left out: nothing is lost by doing it otherwise.
    """
    if run.plan is None:
        return ()
    effects = {callee.name for callee in run.started.setup.callees if not callee.is_reading}
    broken = {failure.step.id for failure in failures_of(run) if failure.step.use not in effects}
    kept = {split_path(path)[0] for path, state in run.steps.items() if state.status == "succeeded"} - broken
    for step in reversed(run.plan.steps):  # a step reads only earlier ones, so one pass is enough
        if step.id in kept:
            kept |= reads(step) | frozenset(step.after)
    return tuple(step for step in run.plan.steps if step.id in kept)


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
        return Run(id=recorded.run_id, started=event, began_at=recorded.at, at=recorded.at, run_seq=recorded.run_seq)
    if run.finished is not None:
        raise JournalError("J-203", f"`{event.type}` after the run finished as `{run.finished.status}`")
    spent = replace(run.spent, seconds=(recorded.at - run.began_at).total_seconds())
    moved = _apply(replace(run, at=recorded.at, run_seq=recorded.run_seq, spent=spent), event)
    usages: tuple[Usage, ...] = getattr(event, "usage", ()) if not isinstance(event, PlanProposed) else (event.usage,)
    for usage in usages:
        tokens = usage.input_tokens + usage.output_tokens
        moved = replace(moved, spent=moved.spent.with_model(tokens=tokens, cost_usd=usage.cost_usd))
    return moved


def _apply(run: Run, event: Event) -> Run:
    match event:
        case RunStarted():
            raise JournalError("J-202", "`RunStarted` a second time")
        case PlanProposed() | PlannerFailed() | PlanRejected() | PlanAccepted():
            return _planning(run, event)
        case ReviewPassed() | ReviewFailed() | ReviewInconclusive():
            return _reviewed(run, event)
        case PlanAbandoned():
            return _abandoned(run, event)
        case RunResumed():
            return replace(run, steps={path: _resumed(state) for path, state in run.steps.items()})
        case CancelRequested():
            return replace(run, is_cancelled=True)
        case RunFinished():
            if event.status not in FINAL:
                raise JournalError("J-203", f"`{event.status}` is not a final status")
            return replace(run, phase="finished", finished=event)
        case _:
            _expect(run, "executing", event)
            if event.path not in run.steps and not _is_place(run, event.path):
                raise JournalError("J-204", f"`{event.type}` of `{event.path}`, which is no step of the plan")
            before = run.step(event.path)
            moved = _moved(before, event)
            spent = run.spent.with_call() if isinstance(event, StepStarted) else run.spent
            return replace(run, steps={**run.steps, event.path: moved}, spent=spent)


def _expect(run: Run, phase: Phase, event: Event) -> None:
    if run.phase != phase:
        raise JournalError("J-204", f"`{event.type}` is illegal while the run is {run.phase}")


def _is_place(run: Run, path: StepPath) -> bool:
    """Whether the plan has this step, or this map this item."""
    try:
        id_, index = split_path(path)
    except ValueError:
        return False
    if index is None:
        return run.plan is not None and run.plan.step(id_) is not None
    items = run.step(id_).items
    return items is not None and isinstance(items.value, list) and index < len(items.value)


def _planning(run: Run, event: PlanProposed | PlannerFailed | PlanRejected | PlanAccepted) -> Run:
    _expect(run, "planning", event)
    is_answer = isinstance(event, PlanProposed | PlannerFailed)
    is_unchecked = run.proposal is not None or (run.started.plan is not None and not run.rejected)
    if is_answer == is_unchecked or event.revision != run.revision:
        known = "a plan is still to be checked" if is_unchecked else "there is no plan to check"
        raise JournalError(
            "J-204", f"`{event.type}` of revision {event.revision}, but {known} in revision {run.revision}"
        )
    match event:
        case PlanProposed():
            proposal = Proposal(plan=event.plan, problems=event.problems)
            return replace(run, proposal=proposal, attempt=event.attempt, planner_fault=None)
        case PlannerFailed():
            return replace(run, planner_fault=event.fault, attempt=event.attempt)
        case PlanRejected():
            return replace(run, proposal=None, rejected=(*run.rejected, event.problems))
        case PlanAccepted():
            return replace(
                run,
                phase="executing",
                plan=event.plan,
                certificate=event.certificate,
                steps=_kept(run, event.plan),
                proposal=None,
                rejected=(),
                attempt=0,
            )
        case _:
            assert_never(event)


def _kept(run: Run, plan: Plan) -> dict[StepPath, StepState]:
    """What ended in the steps that are kept; the item that ended the last revision may run again."""
    kept = {step.id: step for step in kept_steps(run) if step in plan.steps}
    return {
        path: state
        for path, state in run.steps.items()
        if (step := kept.get(split_path(path)[0])) is not None
        and (state.status in {"succeeded", "mapped", "skipped"} or _is_lost(step, path, state))
    }


def _is_lost(step: Step, path: StepPath, state: StepState) -> bool:
    """Whether the plan went on without it, because it failed."""
    return has_failed(step, state) and is_tolerated(step, path)


def _abandoned(run: Run, event: PlanAbandoned) -> Run:
    if run.phase not in {"executing", "reviewing"} or event.revision != run.revision + 1:
        raise JournalError("J-204", f"`{event.type}` of revision {event.revision} is illegal while {run.phase}")
    failures = (*run.failures, *failures_of(run))
    return replace(run, phase="planning", revision=event.revision, failures=failures, review=None)


def _reviewed(run: Run, event: ReviewPassed | ReviewFailed | ReviewInconclusive) -> Run:
    _expect(run, "executing", event)
    match event:
        case ReviewPassed():
            return replace(run, phase="reviewing", review="passed", unmet=())
        case ReviewFailed():
            return replace(run, phase="reviewing", review="failed", unmet=event.criteria)
        case ReviewInconclusive():
            return replace(run, phase="reviewing", review="inconclusive", unmet=event.criteria)
        case _:
            assert_never(event)


def _resumed(state: StepState) -> StepState:
    return replace(state, status=STEP_MOVES.get((state.status, "RunResumed"), state.status))


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
)


def _moved(state: StepState, event: StepEvent) -> StepState:
    status = STEP_MOVES.get((state.status, event.type))
    if status is None:
        raise JournalError("J-204", f"`{event.type}` is illegal for step `{event.path}`, which is {state.status}")
    return _filled(replace(state, status=status), event)


def _filled(state: StepState, event: StepEvent) -> StepState:  # noqa: C901, PLR0911 - one flat case per event kind
    match event:
        case StepResolved():
            return replace(state, arguments=event.arguments, verdict=event.verdict)
        case MapResolved():
            return replace(state, items=event.items)
        case StepStarted():
            return replace(state, attempt=event.attempt, key=event.key)
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
            return replace(state, due=None)
        case HumanAsked():
            return replace(state, question=event.question, reason=event.reason, answer=None)
        case HumanAnswered():
            return replace(state, answer=event.answer)
        case _:
            assert_never(event)


_ANSWERS: Mapping[bool | None, Literal["yes", "no"] | None] = {True: "yes", False: "no", None: None}
