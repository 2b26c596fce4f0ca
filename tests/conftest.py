"""What the tests of the core share: a catalogue, runs made from events, and a world in which they can run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, settings

from planner.core.attest import attest
from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.check import Certificate
from planner.core.commands import AskHuman, AskPlanner, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    PauseLifted,
    PlanAccepted,
    PlanProposed,
    Question,
    Recorded,
    RetryScheduled,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepProbed,
    StepStarted,
    StepSucceeded,
    TimerFired,
    Usage,
)
from planner.core.intrinsics import intrinsics
from planner.core.labels import Integrity, Json, Labelled
from planner.core.ledger import Budget
from planner.core.order import keys, may_conflict
from planner.core.plan import Plan, Step, role_of
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule
from planner.core.run import Run, StepState
from planner.core.setup import Setup
from planner.core.state import callee_at, evolve, fold

settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # how long an example takes says more of the machine than of the code

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
ALLOW = Policy(rules=(Rule(id="all", then="allow"),), version="v1")
PATH, FOLDER, TEXT = (
    Parameter(name="path", type="path"),
    Parameter(name="folder", type="folder"),
    Parameter(name="text"),
)
CALLEES = (
    Callee(
        name="files.read",
        summary="Read",
        parameters=(PATH,),
        declaration=Declaration(effect="read", resource=("file:{path}",)),
    ),
    Callee(
        name="files.list",
        summary="List",
        parameters=(FOLDER,),
        declaration=Declaration(effect="read", resource=("file:{folder}/**",)),
    ),
    Callee(
        name="files.write",
        summary="Write",
        parameters=(PATH, TEXT),
        declaration=Declaration(
            effect="write",
            on_doubt="idempotent",
            resource=("file:{path}",),
            control={"path": Integrity.BOUNDED},
            payload=("text",),
        ),
    ),
    Callee(
        name="files.append",
        summary="Append",
        parameters=(PATH, TEXT),
        declaration=Declaration(effect="write", on_doubt="probe", resource=("file:{path}",), payload=("text",)),
    ),
    Callee(
        name="files.wipe",
        summary="Empty",
        parameters=(FOLDER,),
        declaration=Declaration(effect="delete", on_doubt="idempotent", resource=("file:{folder}/**",)),
    ),
    Callee(
        name="mail.send",
        summary="Send",
        parameters=(Parameter(name="to", type="email"), TEXT),
        declaration=Declaration(effect="send", resource=("mail:{to}",), control={"to": Integrity.TRUSTED}),
    ),
    Callee(name="shell.run", summary="Run", parameters=(TEXT,)),
    Callee(name="text.upper", summary="Upper case", parameters=(TEXT,), declaration=Declaration(effect="pure")),
)
"""One callee of each sort: reads, an idempotent and a probed write, an unknown effect, a pure function."""
EVERY = (
    *CALLEES,
    *intrinsics(("user", "boss")).values(),
    Callee(
        name="store.put",
        summary="Put",
        parameters=(Parameter(name="name"), TEXT),
        declaration=Declaration(
            effect="write", on_doubt="idempotent", undo="store.remove", resource=("store:{name}",), reversible=True
        ),
    ),
    Callee(
        name="store.take",
        summary="Take",
        parameters=(Parameter(name="name"),),
        declaration=Declaration(effect="write", undo="store.give", resource=("store:{name}",), reversible=True),
    ),
    Callee(
        name="store.look",
        summary="Look",
        parameters=(Parameter(name="name"),),
        declaration=Declaration(effect="read", resource=("store:{name}",)),
    ),
    Callee(
        name="agent.writer",
        kind="agent",
        summary="Write",
        parameters=(Parameter(name="task"),),
        declaration=Declaration(effect="pure", max_tokens=100, out="untrusted"),
    ),
    Callee(
        name="web.fetch",
        summary="Fetch",
        parameters=(Parameter(name="url", type="url"),),
        declaration=Declaration(effect="fetch", cost_usd=0.5, resource=("url:{url}",), timeout_s=30),
    ),
)
"""These, what can be taken back, an agent, a priced call, and the callees of the language itself."""


@pytest.fixture(scope="session")
def callees() -> tuple[Callee, ...]:
    return CALLEES


@pytest.fixture(scope="session")
def every() -> tuple[Callee, ...]:
    return EVERY


@pytest.fixture(scope="session")
def journal() -> Callable[..., tuple[Recorded, ...]]:
    """Events one second apart, as the record of one run."""

    def made(*events: Event) -> tuple[Recorded, ...]:
        return tuple(
            Recorded(seq=n, run_id="r1", run_seq=n, at=BEGAN + timedelta(seconds=n - 1), event=event)
            for n, event in enumerate(events, start=1)
        )

    return made


@pytest.fixture(scope="session")
def given(journal: Callable[..., tuple[Recorded, ...]]) -> Callable[..., Run]:
    """The run that these events made."""

    def folded(*events: Event) -> Run:
        return fold(journal(*events))

    return folded


@pytest.fixture(scope="session")
def started() -> Callable[..., RunStarted]:
    """A goal accepted; what is said more goes into the setup, or into the event where that has such a field."""

    def made(goal: str = "Do it", **more: object) -> RunStarted:
        own = {name: more.pop(name) for name in ("plan", "criteria", "named", "principal") if name in more}
        setup = {"callees": CALLEES, "policy": ALLOW, "budget": Budget()} | more
        fields = {"goal": goal, "principal": Principal(), "setup": Setup.model_validate(setup)} | own
        return RunStarted.model_validate(fields)

    return made


@pytest.fixture(scope="session")
def accepted(started: Callable[..., RunStarted]) -> Callable[..., tuple[Event, ...]]:
    """A run whose plan has these steps and was accepted: a planner's, or with `is_given` one that came along."""

    def made(
        *steps: Step, answer: object = None, is_given: bool = False, inputs: object = None, **more: object
    ) -> tuple[Event, ...]:
        plan = Plan.model_validate({"steps": steps, "answer": answer, "inputs": inputs or {}})
        passed = PlanAccepted(revision=1, plan=plan, certificate=Certificate())
        if is_given:
            return started(plan=plan, **more), passed
        return started(**more), PlanProposed(revision=1, attempt=1, plan=plan), passed

    return made


# a small world, for laws over random plans -------------------------------------------------------------------

OUTSIDE = "§"
"""Stands in what an outsider wrote, and nowhere else, so that whatever was made from it can be told by it."""
ACTIONS = 4_000
"""More than any of these plans takes: beyond it a run does not end."""
Pick: TypeAlias = Callable[[int], int]
"""Which of so many things happens next."""


@dataclass(frozen=True)
class Weather:
    """How calls go and what people say; each place has its own, whatever the course of events.

    Calm: nothing fails that the plan has no path around. Clear: nothing fails, and everybody agrees.
    """

    seed: int
    is_calm: bool = False
    is_clear: bool = False

    def chance(self, path: str, what: str) -> float:
        return Random(f"{self.seed} {path} {what}").random()

    def fault(self, path: str, failures: int) -> Fault | None:
        is_bad = self.chance(path, "fails") < 0.3 and not (self.is_calm and "~" in path)
        if self.is_clear or not is_bad or failures > 2 * self.chance(path, "how often"):
            return None
        is_for_good = self.chance(path, "for good") < 0.3
        return Fault(code="T-1", error_class="missing" if is_for_good else "unavailable")

    def is_silent(self, path: str) -> bool:
        return not self.is_clear and self.chance(path, "silent") < 0.15

    def answer(self, path: str, question: Question, *, happened: bool) -> HumanAnswered:
        drawn = self.chance(path, question)
        words: Mapping[Question, str] = {
            "approve": "yes" if drawn < 0.8 or self.is_clear or self.is_calm else "no",
            "happened": "yes" if happened else "no",
            "failed": "skip" if drawn < 0.6 or self.is_calm else "fail",
            "answer": "value",
        }
        fields = {"path": path, "answer": words[question], "by": "user", "value": f"said at {path}"}
        return HumanAnswered.model_validate(fields)


class World:
    """What calls do to it; it outlives the processes that make them."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.standing: dict[str, tuple[str, Callee, dict[str, Json]]] = {}
        """The effects that happened and were not taken back, the first one first: path, callee, arguments by key."""
        self.taken_back: list[str] = []
        """The keys of those that were."""
        self.repeated: list[str] = []
        """Where an effect that may happen once happened again."""
        self.calls = 0
        self.tokens = 0
        self.failures: Counter[str] = Counter()
        self._silenced: set[str] = set()
        self._parts: dict[str, int] = {}
        """What each nested run has used, in calls."""

    def perform(self, run: Run, path: str, most: int) -> Event:
        """Makes the call, and says what there is to record; a nested run may make at most so many itself."""
        state, callee = run.step(path), run.started.setup.catalogue[callee_at(run, path)]
        if callee.kind == "plan" and role_of(path) == "call":
            return self._nested(state, callee, path, most)
        self.calls += role_of(path) != "undo"
        fault = self.weather.fault(path, self.failures[path])
        if fault is not None:
            return StepFailed(path=path, fault=fault, attempt=state.attempt)
        is_silent = self.weather.is_silent(path) and path not in self._silenced
        self._silenced.add(path)
        value = None
        if not is_silent or self.weather.chance(path, "happens") < 0.5:
            value = self._change(callee, state, path)
        return StepInDoubt(path=path, reason="no answer") if is_silent else _ended(state, callee, path, value)

    def _nested(self, state: StepState, callee: Callee, path: str, most: int) -> Event:
        """A run that uses some calls of its own, and perhaps waits; it is one however often it is called."""
        if state.key not in self._parts:
            used = int(most * self.weather.chance(path, "uses"))
            self.calls += 1 + used
            self._parts[state.key] = used
            if self.weather.chance(path, "waits") < 0.5:
                return StepParked(path=path)
        self._change(callee, state, path)
        return _ended(state, callee, path, None).model_copy(update={"calls": self._parts[state.key]})

    def _change(self, callee: Callee, state: StepState, path: str) -> Json:
        given = arguments_of(state)
        if role_of(path) == "undo":
            key = state.key.removesuffix("-undo")
            self.taken_back.append(key)
            self.standing.pop(key, None)
        elif not callee.is_reading:
            is_known = state.key in self.standing
            if is_known and callee.declaration.on_doubt != "idempotent":
                self.repeated.append(path)
            self.standing.setdefault(state.key, (path, callee, given))
        elif callee.declaration.effect == "pure":
            self.tokens += 40 * (callee.kind == "agent")
            return f"{given.get('text', given.get('task'))}"
        else:
            touched = keys(callee, given)
            seen = [at for at, other, args in self.standing.values() if may_conflict(touched, keys(other, args))]
            return f"{OUTSIDE}{' '.join(seen)}"
        return None


def arguments_of(state: StepState) -> dict[str, Json]:
    value = state.arguments.value if state.arguments is not None else None
    return value if isinstance(value, dict) else {}


def _ended(state: StepState, callee: Callee, path: str, value: Json) -> StepSucceeded:
    usage = (Usage(output_tokens=40, cost_usd=0.25),) if callee.kind == "agent" else ()
    labelled = attest(callee, state.arguments or Labelled(value={}), value, path=path)
    return StepSucceeded(path=path, value=labelled, usage=usage)


class Process:
    """Performs the commands of one run in the order that `pick` draws, until it ends or is stopped."""

    def __init__(self, history: Sequence[Recorded], world: World, pick: Pick) -> None:
        self.history = list(history)
        self.run = fold(history)
        self.world = world
        self._pick = pick
        self._outcomes: dict[str, Event] = {}
        self._limits: dict[str, int] = {}

    def drive(self, *, until: int = ACTIONS) -> Run:
        actions = 0
        while self.run.finished is None and actions < until:
            actions += 1
            options = list(self._options())
            assert options, f"stuck: {self.run.steps}"
            options[self._pick(len(options))]()
        assert until < ACTIONS or self.run.finished, "it never ends"
        return self.run

    def append(self, *events: Event, wait: timedelta = timedelta(seconds=1)) -> None:
        for event in events:
            last = self.history[-1]
            place = last.run_seq + 1
            recorded = Recorded(seq=place, run_id=last.run_id, run_seq=place, at=last.at + wait, event=event)
            self.run = evolve(self.run, recorded)
            self.history.append(recorded)

    def _options(self) -> Iterator[Callable[[], None]]:
        """Everything that may happen next: calls under way go on, decisions are obeyed, others do their part."""
        for path, state in self.run.steps.items():
            if state.status == "started":
                yield partial(self._go_on, path)
        commands = decide(self.run)
        assert commands == decide(self.run)
        events = [command.event for command in commands if isinstance(command, Record)]
        if events:
            yield partial(self.append, *events)
        yield from (partial(self._obey, command) for command in commands if not isinstance(command, Record))
        if self.run.is_paused:
            yield partial(self.append, PauseLifted(by="user"))
        for path, state in self.run.steps.items():
            if state.status == "parked":
                yield partial(self.append, StepNudged(path=path))
            name = state.wanted[0] if state.status == "waiting" and state.wanted is not None else None
            if name is not None and not any(post.name == name for post in self.run.mailbox.values()):
                yield partial(self.append, EventReceived(name=name, data=f"of {name}"))

    def _go_on(self, path: str) -> None:
        """A call happens, or the outcome of one that happened is recorded."""
        if path in self._outcomes:
            outcome = self._outcomes.pop(path)
            self.world.failures[path] += isinstance(outcome, StepFailed)
            self.append(outcome)
        else:
            self._outcomes[path] = self.world.perform(self.run, path, self._limits.get(path, 3))

    def _obey(self, command: Command) -> None:
        match command:
            case Call(path=path, attempt=attempt, key=key):
                most = command.limits.calls
                self._limits[path] = 3 if most is None else most
                self.append(StepStarted(path=path, attempt=attempt, key=key, held=command.held))
            case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s, least_s=least_s):
                due = self.history[-1].at + timedelta(seconds=max(delay_s, least_s))
                self.append(RetryScheduled(path=path, attempt=attempt, due=due))
            case StartTimer(path=path, due=due):
                self.append(TimerFired(path=path), wait=max(due - self.history[-1].at, timedelta(seconds=1)))
            case Probe(path=path):
                self.append(StepProbed(path=path, happened=self._happened(path)))
            case AskHuman():
                path = command.places[0]
                question = self.run.step(path).question
                assert question is not None
                self.append(self.world.weather.answer(path, question, happened=self._happened(path)))
            case AskPlanner(revision=revision, attempt=attempt):
                self.append(PlanProposed(revision=revision, attempt=attempt, plan=None))
            case _:
                raise AssertionError(f"{command} in a run without criteria")

    def _happened(self, path: str) -> bool:
        key = self.run.step(path).key
        is_undo = role_of(path) == "undo"
        return (key.removesuffix("-undo") not in self.world.standing) if is_undo else key in self.world.standing


@pytest.fixture(scope="session")
def weather() -> type[Weather]:
    return Weather


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World


@pytest.fixture(scope="session")
def process() -> type[Process]:
    return Process
