"""The facts of a run, in the past tense: a closed, versioned union.

Rules of the file:
- An event says what happened, never what to do. State is a fold over events and nothing else.
- A field is never removed or given another meaning; a new meaning is a new `schema` number with an upcaster.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, TypeAdapter

from planner.core.check import Certificate, Problem
from planner.core.goal import Named
from planner.core.labels import TRUSTED, Frozen, Json, Label, Labelled
from planner.core.ledger import Amount
from planner.core.plan import Plan, StepPath
from planner.core.policy import Principal, Verdict
from planner.core.setup import Criterion, Parent, Setup
from planner.errors import ErrorClass

SEMANTICS = 1
"""The version of `decide`'s rules that new runs start with."""

BlobId: TypeAlias = str
Final: TypeAlias = Literal["completed", "unverified", "rejected", "denied", "failed", "cancelled", "over_budget"]
RunStatus: TypeAlias = Literal["running", "waiting", "paused", Final]
FINAL: frozenset[str] = frozenset(get_args(Final))


class Usage(Frozen):
    """What one model call used; `cost_usd` is None when the price is unknown, never 0 for unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    model: str = ""
    exchange: BlobId | None = None
    """The full request and answer, kept as a blob."""


class Fault(Frozen):
    """Why something failed: a class that rules may read, and a text that only people may."""

    code: str
    error_class: ErrorClass
    message: str = ""
    choices: tuple[str, ...] = ()
    """Valid alternatives taken from the catalogue or the workspace listing."""
    retry_after_s: float | None = None
    """How long the other side asked to be left alone."""


class RunStarted(Frozen):
    """A goal was accepted."""

    type: Literal["RunStarted"] = "RunStarted"
    goal: str
    principal: Principal
    setup: Setup
    named: tuple[Named, ...] = ()
    """What the goal's words name, looked up in the workspace."""
    criteria: tuple[Criterion, ...] = ()
    plan: Plan | None = None
    """A plan that came with the goal; then no planner is asked."""
    parent: Parent | None = None
    semantics: int = SEMANTICS


class RunResumed(Frozen):
    """Another process took over; whatever was under way then has no known outcome."""

    type: Literal["RunResumed"] = "RunResumed"
    owner: str


class PlanProposed(Frozen):
    """A planner answered; `plan` is None when the answer could not be read, and `problems` says why."""

    type: Literal["PlanProposed"] = "PlanProposed"
    revision: int
    attempt: int
    plan: Plan | None
    problems: tuple[Problem, ...] = ()
    usage: Usage = Usage()
    prompt_hash: str = ""


class PlannerFailed(Frozen):
    """No planner answer could be had at all: the model or the way to it failed."""

    type: Literal["PlannerFailed"] = "PlannerFailed"
    revision: int
    attempt: int
    fault: Fault
    usage: tuple[Usage, ...] = ()


class PlanRejected(Frozen):
    """The proposed plan has problems."""

    type: Literal["PlanRejected"] = "PlanRejected"
    revision: int
    attempt: int
    problems: tuple[Problem, ...]


class PlanAccepted(Frozen):
    """A plan passed the check, in the form that repairs gave it."""

    type: Literal["PlanAccepted"] = "PlanAccepted"
    revision: int
    plan: Plan
    certificate: Certificate


class PlanAbandoned(Frozen):
    """The accepted plan cannot reach the goal; finished steps stay, and a planner is asked for the rest."""

    type: Literal["PlanAbandoned"] = "PlanAbandoned"
    revision: int
    """The revision that begins."""
    reason: str


class StepResolved(Frozen):
    """A step's inputs are known: its arguments, or its `let` value, or the items of its map."""

    type: Literal["StepResolved"] = "StepResolved"
    path: StepPath
    arguments: Labelled = Labelled(value={})
    verdict: Verdict | None = None
    """The gate's decision; None where nothing is called."""


class MapResolved(Frozen):
    """The items of a `for_each` are known."""

    type: Literal["MapResolved"] = "MapResolved"
    path: StepPath
    items: Labelled


class StepStarted(Frozen):
    """A call is about to be made; committed durably before an effect."""

    type: Literal["StepStarted"] = "StepStarted"
    path: StepPath
    attempt: int
    key: str
    """The idempotency key: equal for all attempts of one step of one revision."""
    held: Amount = Amount()
    """What the call may use at most, until its outcome is known."""
    is_cheaper: bool = False
    """Whether the cheaper model plays the agent, because the budget is short."""


class ContentKept(Frozen):
    """What a call is about to overwrite was kept, so that it can be probed and undone."""

    type: Literal["ContentKept"] = "ContentKept"
    path: StepPath
    name: str
    blob: BlobId | None
    """None: there was nothing before."""


class StepSucceeded(Frozen):
    """A call returned, or a `let` was computed."""

    type: Literal["StepSucceeded"] = "StepSucceeded"
    path: StepPath
    value: Labelled
    usage: tuple[Usage, ...] = ()
    seconds: float = 0.0
    calls: int = 0
    """Calls of a nested run."""


class StepFailed(Frozen):
    """A call had no effect: it failed before, or the gate or a person refused it."""

    type: Literal["StepFailed"] = "StepFailed"
    path: StepPath
    fault: Fault
    attempt: int = 0
    usage: tuple[Usage, ...] = ()
    seconds: float = 0.0
    calls: int = 0
    decided_by: Label = TRUSTED
    """The label of what could not be computed."""


class StepInDoubt(Frozen):
    """Nobody knows whether the effect happened; `is_late` where that is because no answer came in time."""

    type: Literal["StepInDoubt"] = "StepInDoubt"
    path: StepPath
    reason: str
    is_late: bool = False


class StepProbed(Frozen):
    """A tool was asked whether an effect in doubt happened; None: it cannot tell."""

    type: Literal["StepProbed"] = "StepProbed"
    path: StepPath
    happened: bool | None


class StepSkipped(Frozen):
    """A step will not run: its condition was false, what it reads is missing, or there is no room for it."""

    type: Literal["StepSkipped"] = "StepSkipped"
    path: StepPath
    cause: Literal["condition", "failure", "budget"]
    decided_by: Label = TRUSTED
    """The label of what decided it."""


class RetryScheduled(Frozen):
    """A failed step will be tried again at `due`."""

    type: Literal["RetryScheduled"] = "RetryScheduled"
    path: StepPath
    attempt: int
    due: datetime


class TimerFired(Frozen):
    """The time for which a step waited has come."""

    type: Literal["TimerFired"] = "TimerFired"
    path: StepPath


Question: TypeAlias = Literal["approve", "happened", "failed", "answer"]
"""May this call be made? Did the effect in doubt take place? What now, that it failed? What a step wants to know."""


class HumanAsked(Frozen):
    """A person must decide before a step may go on."""

    type: Literal["HumanAsked"] = "HumanAsked"
    path: StepPath
    question: Question
    reason: str
    role: str = "user"
    """Who is asked."""
    timeout_s: float | None = None
    """After so long without an answer the step fails."""


class HumanAnswered(Frozen):
    """A person, or the setting that stands for one, decided."""

    type: Literal["HumanAnswered"] = "HumanAnswered"
    path: StepPath
    answer: Literal["yes", "no", "retry", "skip", "fail", "value"]
    """`yes` and `no` to `approve` and `happened`; `retry`, `skip` and `fail` to `failed`; else `value`."""
    by: str
    value: Json = None
    asked: int | None = None
    """The `run_seq` of the question, where the answer is to no other one."""


class WaitStarted(Frozen):
    """A step waits for a time, or for an event from outside; `seconds` count from here."""

    type: Literal["WaitStarted"] = "WaitStarted"
    path: StepPath
    until: datetime | None = None
    seconds: float | None = None
    name: str | None = None
    """Of the event; None: the step waits for the time alone."""
    match: Mapping[str, Json] = Field(default_factory=dict)
    """Fields that the event's data must have."""


class EventReceived(Frozen):
    """Somebody told the run that something happened; the first step that waits for it takes it."""

    type: Literal["EventReceived"] = "EventReceived"
    name: str
    data: Json = None
    by: str = ""


class WaitEnded(Frozen):
    """A waiting step took an event."""

    type: Literal["WaitEnded"] = "WaitEnded"
    path: StepPath
    received: int
    """The `run_seq` of the event."""


class BlockEntered(Frozen):
    """A step that holds steps of its own began, with one of its branches."""

    type: Literal["BlockEntered"] = "BlockEntered"
    path: StepPath
    branch: Literal["do", "else"] = "do"
    decided_by: Label = TRUSTED
    """The label of what decided that the block runs, those around it included."""


class StepParked(Frozen):
    """What a step called can itself only wait."""

    type: Literal["StepParked"] = "StepParked"
    path: StepPath


class StepNudged(Frozen):
    """What a parked step called can go on, or has ended."""

    type: Literal["StepNudged"] = "StepNudged"
    path: StepPath
    by: str = ""


class ReviewPassed(Frozen):
    """Every criterion was decided and holds."""

    type: Literal["ReviewPassed"] = "ReviewPassed"
    criteria: tuple[str, ...]
    usage: tuple[Usage, ...] = ()


class ReviewFailed(Frozen):
    """At least one criterion does not hold."""

    type: Literal["ReviewFailed"] = "ReviewFailed"
    criteria: tuple[str, ...]
    usage: tuple[Usage, ...] = ()


class ReviewInconclusive(Frozen):
    """Nothing failed, but these criteria could not be decided, or there was none."""

    type: Literal["ReviewInconclusive"] = "ReviewInconclusive"
    criteria: tuple[str, ...] = ()
    usage: tuple[Usage, ...] = ()


class CancelRequested(Frozen):
    """Somebody asked for the run to stop."""

    type: Literal["CancelRequested"] = "CancelRequested"
    by: str


class PauseRequested(Frozen):
    """Somebody wants nothing new to start for now."""

    type: Literal["PauseRequested"] = "PauseRequested"
    by: str


class PauseLifted(Frozen):
    """Somebody wants the run to go on."""

    type: Literal["PauseLifted"] = "PauseLifted"
    by: str


class Steered(Frozen):
    """Somebody corrected the run: in words, with changed inputs, or with a plan for the rest."""

    type: Literal["Steered"] = "Steered"
    by: str
    text: str = ""
    inputs: Mapping[str, Json] = Field(default_factory=dict)
    plan: Plan | None = None


class UndoRequested(Frozen):
    """Somebody wants what a finished run did to be taken back."""

    type: Literal["UndoRequested"] = "UndoRequested"
    by: str


class UndoBegan(Frozen):
    """These calls are taken back, one after the other, before anything else happens."""

    type: Literal["UndoBegan"] = "UndoBegan"
    paths: tuple[StepPath, ...]


class AnswerDropped(Frozen):
    """A model answered what nobody waits for any more: only what that used counts."""

    type: Literal["AnswerDropped"] = "AnswerDropped"
    usage: tuple[Usage, ...] = ()


class BudgetRefused(Frozen):
    """An account that several runs share has no room for a call."""

    type: Literal["BudgetRefused"] = "BudgetRefused"
    account: str
    reason: str


class Remainder(Frozen):
    """An effect that was not taken back, and why."""

    path: StepPath
    reason: str


class RunForked(Frozen):
    """The events before this one are copies of another run's; what happens from here on is this run's own."""

    type: Literal["RunForked"] = "RunForked"
    origin: str
    at_event: int


class RunFinished(Frozen):
    """The run has its final status."""

    type: Literal["RunFinished"] = "RunFinished"
    status: RunStatus
    result: Labelled = Labelled()
    reason: str = ""
    degraded: tuple[str, ...] = ()
    """What is missing because a part was skipped by failure; empty when nothing is."""
    fault: Fault | None = None
    undone: tuple[StepPath, ...] = ()
    """Effects that were taken back."""
    left: tuple[Remainder, ...] = ()
    """Effects that should have been taken back, but could not be."""


Event: TypeAlias = Annotated[
    RunStarted
    | RunResumed
    | PlanProposed
    | PlannerFailed
    | PlanRejected
    | PlanAccepted
    | PlanAbandoned
    | StepResolved
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
