"""What is known of a run at one moment, and what follows from it for a step.

Rules of the file:
- Values only: `state` makes them from events, and nothing else changes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from planner.core.catalog import Callee
from planner.core.check import Certificate, Problem
from planner.core.events import (
    EventReceived,
    Fault,
    Question,
    Remainder,
    RunFinished,
    RunStarted,
    RunStatus,
    Steered,
)
from planner.core.labels import TRUSTED, Json, Label, Labelled
from planner.core.ledger import NOTHING, UNLIMITED, Amount, Budget, Spent, total
from planner.core.plan import (
    Plan,
    Step,
    StepPath,
    beside,
    inner_path,
    is_tolerated,
    item_path,
    own_path,
    place_of,
    reads,
    role_of,
    root_of,
    split_path,
    stand_in,
)
from planner.core.policy import Verdict
from planner.errors import ErrorClass

StepStatus: TypeAlias = Literal[
    "new",
    "resolved",  # arguments known, gate passed or to be asked
    "mapped",  # the items of a map known; the items are steps of their own
    "entered",  # a block began; what it holds are steps of their own
    "started",
    "parked",  # what was called can itself only wait
    "interrupted",  # started, and then the process that ran it ended
    "in_doubt",
    "asked",
    "answered",
    "waiting",  # for a time or an event
    "fired",  # the time came, or the event
    "failed",
    "retrying",
    "succeeded",
    "skipped",
]
DONE: frozenset[StepStatus] = frozenset({"succeeded", "skipped", "failed"})

UNDECIDED = frozenset({"A-104"})
"""Codes of failures after which nobody knows whether the effect happened."""
RETRIABLE: frozenset[ErrorClass] = frozenset({"unavailable", "failed", "limit"})
"""What may go better the next time."""


if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - others take it from here
else:

    def replace(value: object, /, **fields: object) -> object:
        """The value with other fields, as `dataclasses.replace` makes it, but without making each one anew.

        Every event replaces a run and a step of many fields, and that was most of what a fold did.
        """
        changed = object.__new__(type(value))
        vars(changed).update(vars(value), **fields)
        return changed


@dataclass(frozen=True)
class StepState:
    """What happened to one step, or to one item of a map."""

    status: StepStatus = "new"
    arguments: Labelled | None = None
    verdict: Verdict | None = None
    is_stale: bool = False
    """Whether it was judged under other terms than those under which the run goes on."""
    is_weighed: bool = False
    """Whether it was held against limits when it was about to be made; others count it from then on."""
    approved_at: datetime | None = None
    """When a person allowed the call; None: nobody did, or that is used up."""
    items: Labelled | None = None
    branch: Literal["do", "else"] = "do"
    decided_by: Label = TRUSTED
    attempt: int = 0
    begun: int = 0
    """The `run_seq` of its last `StepStarted`."""
    failures: int = 0
    """Attempts that failed without effect; a retry counts these, so that a crash uses up none."""
    doubts: int = 0
    """Attempts of which nobody knew the outcome."""
    is_unsure: bool = False
    """Whether an earlier attempt may have had its effect, and nobody said that it had not."""
    crashes: int = 0
    """Attempts during which the process ended."""
    key: str = ""
    callee: str = ""
    """What is taken back, where the path is that of an undo: the plan may no longer hold the step."""
    held: Amount = NOTHING
    is_cheaper: bool = False
    is_nudged: bool = False
    """Whether what was called could go on before it was known that it had to wait."""
    question: Question | None = None
    asked: int = 0
    """The `run_seq` of the question."""
    binding: str = ""
    """What the call is that was asked about, as `gate.binding` says."""
    reason: str = ""
    """Why a person is asked."""
    answer: Literal["yes", "no", "edit", "endorse", "retry", "skip", "fail", "value", "late"] | None = None
    answered: Labelled | None = None
    """The value that a person gave, or that came with an event."""
    wanted: tuple[str, Mapping[str, Json]] | None = None
    """The name of the event that is waited for, and the fields that its data must have."""
    probed: bool = False
    value: Labelled | None = None
    fault: Fault | None = None
    cause: Literal["condition", "failure", "budget"] | None = None
    due: datetime | None = None
    kept: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen to it, unless a retry is decided."""
        return self.status in DONE


NEW = StepState()
"""Nothing has happened to it yet."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A planner's answer that has not been checked yet."""

    plan: Plan | None
    problems: tuple[Problem, ...]
    label: Label = TRUSTED
    """Of all that the planner saw."""


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


@dataclass(frozen=True)
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
    given: Plan | None = None
    """The plan of this revision, where no planner is asked for one."""
    plan: Plan | None = None
    said: Label = TRUSTED
    """Of what the plan itself says: whoever wrote it may have been told what to write by all that they saw."""
    exposed: int = 0
    """How many planners saw what an outsider may have written."""
    certificate: Certificate | None = None
    steps: Mapping[StepPath, StepState] = field(default_factory=dict)
    turns: int = 0
    """How often the planner went on from a plan that did what it was for."""
    failures: tuple[Failure, ...] = ()
    """The failures that ended earlier revisions; a replan is told of them."""
    unmet: tuple[str, ...] = ()
    """The criteria that the last review found failing, or could not decide."""
    review: Literal["passed", "failed", "inconclusive"] | None = None
    spent: Spent = field(default_factory=Spent)
    accounts: Mapping[str, Spent] = field(default_factory=dict)
    """What single agents and steps have used, where they have a budget of their own."""
    refused: str = ""
    """Why an account that several runs share had no room."""
    input_labels: Mapping[str, Label] = field(default_factory=dict)
    """Of the plan's inputs that were changed, by whoever changed them."""
    endorsed: frozenset[tuple[str, str, str]] = frozenset()
    """What people vouched for: callee, argument, and the digest of its value."""
    mailbox: Mapping[int, EventReceived] = field(default_factory=dict)
    """What the run was told and no step took yet, by `run_seq`."""
    corrections: tuple[Steered, ...] = ()
    heeded: int = 0
    """How many of the corrections the accepted plan knows of."""
    is_corrected: bool = False
    """Whether a correction waits for the rest to be planned anew."""
    forked_at: int = 0
    """The `run_seq` up to which the events are those of another run; 0: it is no fork."""
    is_paused: bool = False
    is_cancelled: bool = False
    undoing: tuple[StepPath, ...] = ()
    """What is being taken back, in this order."""
    undone: tuple[StepPath, ...] = ()
    left: tuple[Remainder, ...] = ()
    finished: RunFinished | None = None

    @property
    def status(self) -> RunStatus:
        """The run's status as people see it."""
        if self.finished is not None:
            return self.finished.status
        if self.is_paused:
            return "paused"
        if self.phase != "executing" or in_flight(self):
            return "running"
        held = (path for path, state in self.steps.items() if state.status in HELD)
        # a cancelled run waits no more for what its plan waited for, only for what takes something back
        return "waiting" if any(not self.is_cancelled or role_of(path) == "undo" for path in held) else "running"

    @property
    def words(self) -> str:
        """All that the principal said. The goal of a nested run is none of it: a plan wrote that."""
        goal = self.started.goal if self.started.parent is None else ""
        return "\n".join([goal, *(correction.text for correction in self.corrections)])

    def step(self, path: StepPath) -> StepState:
        """What happened to `path`; a fresh state if nothing did."""
        return self.steps.get(path, NEW)

    def due(self) -> datetime | None:
        """When the next timer fires; None if nothing waits for a time."""
        return min((s.due for s in self.steps.values() if s.due is not None), default=None)


HELD: frozenset[StepStatus] = frozenset({"asked", "waiting", "parked", "retrying"})
"""Waiting for a person, an event, a time, or another run."""


# what became of a step ----------------------------------------------------------------------------------------


def may_retry(step: Step, state: StepState) -> bool:
    """Whether a step or item failed, but not for good."""
    is_transient = state.fault is not None and state.fault.error_class in RETRIABLE
    is_failed = state.status == "failed" and is_transient and state.attempt > 0
    return is_failed and state.answer != "fail" and state.failures <= step.on_error.retry


def may_ask(run: Run, step: Step, path: StepPath) -> bool:
    """Whether a person is still to say what to do about a failed call."""
    state = run.step(path)
    is_call = step.use is not None and state.attempt > 0 and role_of(path) == "call"
    is_asking = step.on_error.then == "ask" and state.answer != "fail" and run.started.setup.on_ask != "deny"
    return state.status == "failed" and is_asking and is_call and not may_retry(step, state)


def is_undecided(state: StepState) -> bool:
    """Whether a call failed, or was given up, and yet nobody knows whether its effect happened."""
    is_lost = state.fault is not None and state.fault.code in UNDECIDED
    return (state.status == "failed" and is_lost) or (state.status in {"failed", "skipped"} and state.is_unsure)


def falls_back(step: Step, path: StepPath, state: StepState) -> bool:
    """Whether another call takes the place of one that failed for good; never of one that may have happened."""
    is_one = step.on_error.fallback is not None and role_of(path) == "call"
    is_whole_map = step.is_map and split_path(path)[1] is None
    is_last = state.status == "failed" and not may_retry(step, state)
    return is_last and is_one and not is_undecided(state) and not is_whole_map


def last_path(run: Run, step: Step, path: StepPath) -> tuple[Step, StepPath]:
    """The call whose outcome counts for `path`: its own, or the one in its place."""
    return (stand_in(step), beside(path, "fallback")) if falls_back(step, path, run.step(path)) else (step, path)


def has_ended(run: Run, step: Step, path: StepPath) -> bool:
    """Whether nothing more will happen to a step or item."""
    step, path = last_path(run, step, path)
    state = run.step(path)
    return state.status in DONE and not may_retry(step, state) and not may_ask(run, step, path)


def has_failed(run: Run, step: Step, path: StepPath) -> bool:
    """Whether a step or item failed for good."""
    step, path = last_path(run, step, path)
    return run.step(path).status == "failed" and has_ended(run, step, path)


def failures_in(run: Run, place: StepPath, steps: tuple[Step, ...]) -> Iterator[Failure]:
    """The failures that these steps, of the plan itself or of the block at `place`, have no path around."""
    for step in steps:
        own = inner_path(place, step.id)
        items = item_paths(run, own) if step.is_map else ()
        for path in (own, *items):
            if run.step(path).fault is None:
                continue  # as it is with almost all, in almost every state
            last = run.step(last_path(run, step, path)[1])
            if last.fault is not None and has_failed(run, step, path) and not is_tolerated(step, path):
                yield Failure(path=path, step=step, fault=last.fault)


def failures_of(run: Run) -> Iterator[Failure]:
    """The failures that the plan had no path around."""
    return failures_in(run, "", run.plan.steps if run.plan is not None else ())


def is_carried_out(run: Run) -> bool:
    """Whether nothing of the plan is left to do."""
    steps = run.plan.steps if run.plan is not None else ()
    return all(_is_over(run, step, step.id) for step in steps) and next(failures_of(run), None) is None


def _is_over(run: Run, step: Step, path: StepPath) -> bool:
    if run.step(path).status == "mapped":
        return all(has_ended(run, step, item) for item in item_paths(run, path))
    return has_ended(run, step, path)


def item_count(state: StepState) -> int:
    """How many items a resolved map has."""
    return len(state.items.value) if state.items is not None and isinstance(state.items.value, list) else 0


def item_paths(run: Run, path: StepPath) -> list[StepPath]:
    """The paths of the items of the map at `path`, in order; none if it is no resolved map."""
    return [item_path(path, index) for index in range(item_count(run.step(path)))]


def in_flight(run: Run) -> bool:
    """Whether a call is under way."""
    return any(state.status == "started" for state in run.steps.values())


def is_taken_back(run: Run, path: StepPath) -> bool:
    """Whether this very call is being taken back, or was as far as that could be; a later one there is another."""
    key = run.step(path).key
    return bool(key) and run.step(undo_path(path)).key == undo_key(key)


def undo_path(path: StepPath) -> StepPath:
    """Where a call is taken back: a step has one such place, for its own call or the one in its place."""
    return beside(own_path(path), "undo")


def undo_key(key: str) -> str:
    """The idempotency key of what takes back the call with this one."""
    return f"{key}-undo"


def takes(state: StepState, event: EventReceived) -> bool:
    """Whether a waiting step waits for this event."""
    if state.wanted is None:
        return False
    name, fields = state.wanted
    data = event.data if isinstance(event.data, dict) else {}
    return event.name == name and all(key in data and data[key] == value for key, value in fields.items())


def callee_at(run: Run, path: StepPath) -> str:
    """The name of what is called at `path`, or taken back there; empty where nothing is."""
    if run.step(path).callee or run.plan is None:
        return run.step(path).callee
    try:
        return run.plan.at(path).use or ""
    except (KeyError, ValueError):
        return ""


def callee_of(run: Run, path: StepPath) -> Callee | None:
    """What is called at `path`, or taken back there; None where nothing is."""
    return run.started.setup.catalogue.get(callee_at(run, path))


def is_effect(run: Run, path: StepPath) -> bool:
    """Whether the call at `path` may change something, and no run of its own tells what became of it."""
    callee = callee_of(run, path)
    return callee is not None and not callee.is_reading and callee.kind != "plan"


# budgets ------------------------------------------------------------------------------------------------------


def accounts_of(run: Run, path: StepPath) -> tuple[str, ...]:
    """The budgets within the run that a call at `path` counts towards: its agent's, its step's, its blocks'."""
    callee = callee_at(run, path)
    names = [callee] if callee in run.started.setup.agents else []
    place = own_path(path)
    while place and run.plan is not None:
        step = run.plan.step(split_path(place)[0])
        if step is not None and step.budget is not None:
            names.append(f"step:{step.id}")
        place = place_of(place)
    return tuple(names)


def account(run: Run, name: str) -> tuple[Budget, Spent]:
    """The limits and the use of an account: the whole run's where the name is empty, a step's, or an agent's."""
    if not name:
        return run.started.setup.budget, run.spent
    kind, _, id_ = name.partition(":")
    step = run.plan.step(id_) if run.plan is not None and kind == "step" else None
    budget = (step.budget if step is not None else None) or run.started.setup.agents.get(name, UNLIMITED)
    return budget, run.accounts.get(name, Spent())


def unsettled(run: Run, path: StepPath) -> Amount:
    """What a call may yet use: what is held for it, but for its price and that it is a call, which count already."""
    held, callee = run.step(path).held, callee_of(run, path)
    price = (callee.declaration.cost_usd or 0.0) if callee is not None else 0.0
    cost_usd = None if held.cost_usd is None else max(0.0, held.cost_usd - price)
    return Amount(cost_usd=cost_usd, tokens=held.tokens, calls=max(0, held.calls - 1))


def holds(run: Run) -> dict[StepPath, Amount]:
    """What the calls that have no outcome may yet use."""
    return {path: unsettled(run, path) for path, state in run.steps.items() if state.held is not NOTHING}


def held_in(run: Run, name: str, held: Mapping[StepPath, Amount]) -> Amount:
    """The part of `held` that counts towards an account."""
    return total(amount for path, amount in held.items() if not name or name in accounts_of(run, path))


# plans --------------------------------------------------------------------------------------------------------


def _is_done(state: StepState) -> bool:
    return state.status == "succeeded" or is_undecided(state)


def kept_steps(run: Run, undone: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """The steps that every later plan of the run begins with, but for those that are `undone`.

    They are those that succeeded, in whole or for some items, those of which nobody knows whether they happened, and
    those that these read or waited for. A map that only looks and lost an item is left out: nothing is lost by doing
    it otherwise.
    """
    if run.plan is None:
        return ()
    effects = {callee.name for callee in run.started.setup.callees if not callee.is_reading}
    broken = {f.step.id for f in failures_of(run) if f.step.use not in effects and not f.step.is_block}
    done = {root_of(p) for p, s in run.steps.items() if _is_done(s) and role_of(p) != "undo"}
    kept = done - broken - undone
    for step in reversed(run.plan.steps):  # a step reads only earlier ones, so one pass is enough
        if step.id in kept:
            kept |= reads(step) | frozenset(step.after)
    return tuple(step for step in run.plan.steps if step.id in kept)
