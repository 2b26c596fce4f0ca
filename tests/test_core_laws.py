"""Laws of the core, over random plans in a small world that may be late, fail, give no answer, or crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import combinations
from posixpath import normpath
from random import Random
from typing import NamedTuple, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    Recorded,
    RetryScheduled,
    RunResumed,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepStarted,
    StepSucceeded,
    TimerFired,
)
from planner.core.labels import Integrity, Json, Labelled, leaves_of
from planner.core.order import Keys, keys, must_keep_order
from planner.core.plan import Step, item_path, split_path
from planner.core.policy import Policy, Rule, attest
from planner.core.run import Run
from planner.core.state import evolve, fold

Pick: TypeAlias = Callable[[int], int]
"""Which of so many things happens next."""
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Journal: TypeAlias = Callable[..., tuple[Recorded, ...]]
Callees: TypeAlias = tuple[Callee, ...]

POLICY = Policy(rules=(Rule(id="ask", then="ask", callee="shell.*"), Rule(id="all", then="allow")))
KINDS = ("let", "read", "read", "list", "write", "append", "append", "wipe", "shell", "upper")
OUTSIDE = "§"
"""Stands in every file, and nowhere else, so that whatever came from a file can be told by it."""
FILES = ("a", "b", "d/x", "d/y", "d/sub/z")
PLACES = ("a", "A", "./a", "b", "d/x", "D/../d/x", "d/sub/z", "${'a'}", "$$a")
ACTIONS = 2_000
"""More than any of these plans takes: beyond it a run is stuck."""
laws = settings(max_examples=80, deadline=None, derandomize="CI" in os.environ)


def in_order(_: int) -> int:
    """One thing after another, as the plan says."""
    return 0


# the world ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weather:
    """Which calls fail how often, give no answer at first (did they happen?), or are refused by a person."""

    failing: Mapping[str, int] = field(default_factory=dict)
    silent: Mapping[str, bool] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    probes: bool = True


class World:
    """Files, and what calls do to them; it outlives the process that makes the calls."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.files = dict.fromkeys(FILES, OUTSIDE)
        self.happened: set[str] = set()
        self.failures: dict[str, int] = {}
        self.silenced: set[str] = set()

    def perform(self, callee: Callee, given: Labelled, path: str, key: str) -> Event:
        """Makes the call, and says what there is to record."""
        if self.failures.get(path, 0) < self.weather.failing.get(path, 0):
            return StepFailed(path=path, fault=Fault(code="T-1", error_class="unavailable"))
        is_silent = path in self.weather.silent and path not in self.silenced
        self.silenced.add(path)
        if is_silent and not self.weather.silent[path]:
            return StepInDoubt(path=path, reason="no answer")
        assert isinstance(given.value, dict)
        is_repeatable = callee.is_reading or callee.declaration.on_doubt == "idempotent"
        assert is_repeatable or key not in self.happened, f"`{path}` happens twice"
        value = self._change(callee.name, {name: str(value) for name, value in given.value.items()}, path)
        self.happened.add(key)
        if is_silent:
            return StepInDoubt(path=path, reason="no answer")
        return StepSucceeded(path=path, value=attest(callee, given, value))

    def _change(self, callee: str, given: Mapping[str, str], path: str) -> Json:
        name = normpath(given.get("path", given.get("folder", ""))).casefold()
        below = sorted(n for n in self.files if name in (".", n) or n.startswith(f"{name}/"))
        match callee:
            case "files.read":
                return self.files.get(name, "")
            case "files.list":
                return " ".join(f"{n}={self.files[n]}" for n in below)
            case "text.upper":
                return given["text"].upper()
            case "files.write":
                self.files[name] = given["text"]
            case "files.append":
                self.files[name] = f"{self.files.get(name, '')}+{given['text']}"
            case "files.wipe":
                self.files.update(dict.fromkeys(below, f"{OUTSIDE}wiped by {path}"))
            case _:
                self.files.update({n: f"{text}!{path}" for n, text in self.files.items()})
        return None


class Made(NamedTuple):
    """A call that was made, in all its attempts: its place in the plan, and from when to when."""

    place: tuple[int, int]
    touches: tuple[Callee, Keys]
    begins: int
    ends: int


class Process:
    """Performs the commands of one run in the order that `pick` draws, until it ends or is stopped."""

    def __init__(self, history: tuple[Recorded, ...], world: World, pick: Pick) -> None:
        self.history = list(history)
        self.run = fold(history)
        self.actions = 0
        self._world = world
        self._pick = pick
        self._outcomes: dict[str, Event] = {}

    def drive(self, *, until: int = ACTIONS) -> Run:
        while self.run.finished is None and self.actions < until:
            self.actions += 1
            options = list(self._options())
            assert options, f"stuck: {self.run.steps}"
            options[self._pick(len(options))]()
        assert until < ACTIONS or self.run.finished, "it never ends"
        return self.run

    def append(self, event: Event, *, wait: timedelta = timedelta(seconds=1)) -> None:
        last = self.history[-1]
        place = last.run_seq + 1
        self.history.append(Recorded(seq=place, run_id=last.run_id, run_seq=place, at=last.at + wait, event=event))
        self.run = evolve(self.run, self.history[-1])

    def calls(self) -> Iterator[Made]:
        """Every call that was made so far."""
        assert self.run.plan is not None
        ids = [step.id for step in self.run.plan.steps]
        for path, state in self.run.steps.items():
            if state.attempt:
                events = [r for r in self.history if getattr(r.event, "path", None) == path]
                begins = next(r.run_seq for r in events if isinstance(r.event, StepStarted))
                assert state.arguments is not None
                assert isinstance(state.arguments.value, dict)
                callee, (id_, index) = self._callee(path), split_path(path)
                touches = callee, keys(callee, state.arguments.value)
                yield Made((ids.index(id_), index or 0), touches, begins, events[-1].run_seq)

    def _options(self) -> Iterator[Callable[[], None]]:
        """Everything that may happen next: calls under way go on, then what was decided."""
        for path, state in self.run.steps.items():
            if state.status == "started":
                yield partial(self._go_on, path)
        for command in decide(self.run):
            yield partial(self._obey, command)

    def _go_on(self, path: str) -> None:
        """A call happens, or the outcome of one that happened is recorded."""
        if path in self._outcomes:
            outcome = self._outcomes.pop(path)
            failed = isinstance(outcome, StepFailed)
            self._world.failures[path] = self._world.failures.get(path, 0) + failed
            self.append(outcome)
        else:
            state = self.run.step(path)
            assert state.arguments is not None
            self._outcomes[path] = self._world.perform(self._callee(path), state.arguments, path, state.key)

    def _callee(self, path: str) -> Callee:
        assert self.run.plan is not None
        step = self.run.plan.step(split_path(path)[0])
        return next(c for c in self.run.started.setup.callees if step is not None and c.name == step.use)

    def _obey(self, command: Command) -> None:
        match command:
            case Record(event):
                self.append(event)
            case Call(path=path, attempt=attempt, key=key):
                self.append(StepStarted(path=path, attempt=attempt, key=key))
            case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s):
                due = self.history[-1].at + timedelta(seconds=delay_s)
                self.append(RetryScheduled(path=path, attempt=attempt, due=due))
            case StartTimer(path=path, due=due):
                self.append(TimerFired(path=path), wait=max(due - self.history[-1].at, timedelta(seconds=1)))
            case Probe(path=path):
                truth = self.run.step(path).key in self._world.happened
                self.append(StepProbed(path=path, happened=truth if self._world.weather.probes else None))
            case AskHuman(path=path):
                state = self.run.step(path)
                asked_to_allow = state.question == "approve"
                yes = path not in self._world.weather.refused if asked_to_allow else state.key in self._world.happened
                self.append(HumanAnswered(path=path, answer="yes" if yes else "no", by="someone"))
            case _:
                raise AssertionError(f"{command} in a run with a given plan and no criteria")


# random plans ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A plan, and the weather in which it runs."""

    steps: tuple[Step, ...]
    weather: Weather

    @property
    def answer(self) -> dict[str, str]:
        return {step.id: f"${{{step.id} ?? null}}" for step in self.steps}


def a_case(chance: Random, *, is_calm: bool) -> Case:
    """Three to twelve steps; in calm weather the plan goes on without whatever fails."""
    steps: list[Step] = []
    for number in range(1, chance.randint(3, 12) + 1):
        steps.append(a_step(chance, f"s{number}", steps, is_calm=is_calm))
    paths = [step.id for step in steps if step.use and not step.is_map]
    for step in steps:
        if step.is_map and (step.on_item_error == "drop" or not is_calm):
            paths += [item_path(step.id, index) for index in range(3)]
    weather = Weather(
        failing={path: chance.randint(1, 3) for path in paths if chance.random() < 0.3},
        silent={path: chance.random() < 0.5 for path in paths if chance.random() < 0.2},
        refused=frozenset(path for path in paths if chance.random() < 0.2),
        probes=chance.random() < 0.7,
    )
    return Case(tuple(steps), weather)


def a_step(chance: Random, id_: str, earlier: list[Step], *, is_calm: bool) -> Step:
    kind = chance.choice(KINDS)
    if kind == "let":
        return Step(id=id_, let=chance.choice(FILES))
    lets = [f"${step.id}" for step in earlier if step.use is None]
    is_map = kind in {"read", "write", "append"} and chance.random() < 0.3
    args: dict[str, Json] = {}
    if kind in {"read", "write", "append"}:
        args["path"] = "$item" if is_map else chance.choice([*PLACES, *lets])
    if kind in {"list", "wipe"}:
        args["folder"] = chance.choice(["d", "d/", "d/sub", "."])
    if kind in {"write", "append", "shell", "upper"}:
        args["text"] = chance.choice([id_, *(f"{id_} ${{{step.id} ?? 'none'}}" for step in earlier)])
    conditions = [text for s in earlier for text in (f"'!' in ({s.id} ?? '')", f"{s.id} != 'x'")]
    then = "skip" if is_calm else chance.choice(["skip", "fail"])
    return Step.model_validate(
        {
            "id": id_,
            "use": {"shell": "shell.run", "upper": "text.upper"}.get(kind, f"files.{kind}"),
            "args": args,
            "if": chance.choice(["1 > 2", *conditions]) if chance.random() < 0.25 else None,
            "for_each": ["a", chance.choice(FILES), "A"] if is_map else None,
            "on_item_error": chance.choice(["drop", "fail"]),
            "after": [chance.choice(earlier).id] if earlier and chance.random() < 0.2 else [],
            "on_error": {"retry": chance.randint(0, 2), "then": then},
        }
    )


def begun(case: Case, journal: Journal, accepted: Accepted) -> tuple[Recorded, ...]:
    return journal(*accepted(*case.steps, answer=case.answer, is_given=True, policy=POLICY))


def reference(case: Case, journal: Journal, accepted: Accepted) -> tuple[Run, World]:
    """What comes of running the steps one by one in the order of the plan."""
    world = World(case.weather)
    return Process(begun(case, journal, accepted), world, in_order).drive(), world


# laws --------------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32)
"""A plan, its weather and its course all follow from a seed: so drawn, they are more mixed than by parts."""


def crashed(world: World, chance: Random, begins: tuple[Recorded, ...]) -> Process:
    """The last of up to three processes that drove a run, the others having ended anywhere."""
    for _ in range(chance.randint(0, 2)):
        process = Process(begins, world, chance.randrange)
        if process.drive(until=chance.randint(0, 60)).finished is None:
            process.append(RunResumed(owner="another process"))
        begins = tuple(process.history)
    process = Process(begins, world, chance.randrange)
    process.drive()
    return process


@laws
@given(seed=SEEDS)
def test_any_order_of_completion_ends_as_one_step_after_another_does(
    seed: int, journal: Journal, accepted: Accepted
) -> None:
    chance = Random(seed)
    case = a_case(chance, is_calm=True)
    expected, ordered = reference(case, journal, accepted)
    world = World(case.weather)
    run = Process(begun(case, journal, accepted), world, chance.randrange).drive()
    assert world.files == ordered.files
    assert run.finished == expected.finished


@laws
@given(seed=SEEDS)
def test_a_run_that_crashed_anywhere_ends_as_if_it_had_not(seed: int, journal: Journal, accepted: Accepted) -> None:
    chance = Random(seed)
    case = a_case(chance, is_calm=True)
    expected, ordered = reference(case, journal, accepted)
    world = World(case.weather)
    run = crashed(world, chance, begun(case, journal, accepted)).run
    assert world.files == ordered.files
    assert run.finished == expected.finished


@laws
@given(seed=SEEDS)
def test_every_run_ends_with_its_conflicting_calls_in_the_order_of_the_plan_and_none_repeated(
    seed: int, journal: Journal, accepted: Accepted
) -> None:
    chance = Random(seed)
    case = a_case(chance, is_calm=False)
    process = crashed(World(case.weather), chance, begun(case, journal, accepted))
    assert process.run.status in {"unverified", "failed", "denied"}
    for earlier, later in combinations(sorted(process.calls(), key=lambda call: call.place), 2):
        if must_keep_order(earlier.touches, later.touches):
            assert earlier.ends < later.begins
    finished: set[str] = set()
    for recorded in process.history:
        match recorded.event:
            case StepSucceeded(path=path):
                finished.add(path)
            case StepStarted(path=path):
                assert path not in finished
            case _:
                pass


@laws
@given(seed=SEEDS)
def test_a_history_gives_one_run_in_one_piece_in_two_and_through_json(
    seed: int, journal: Journal, accepted: Accepted
) -> None:
    chance = Random(seed)
    case = a_case(chance, is_calm=False)
    process = crashed(World(case.weather), chance, begun(case, journal, accepted))
    written = [Recorded.model_validate_json(recorded.model_dump_json()) for recorded in process.history]
    assert written == process.history
    assert fold(written) == process.run
    cut = chance.randrange(1, len(written))
    run = fold(written[:cut])
    for recorded in written[cut:]:
        run = evolve(run, recorded)
    assert run == process.run
    assert decide(fold(written[:cut])) == decide(fold(written[:cut]))


@laws
@given(seed=SEEDS)
def test_what_came_from_outside_is_never_called_trusted(seed: int, journal: Journal, accepted: Accepted) -> None:
    chance = Random(seed)
    case = a_case(chance, is_calm=False)
    process = Process(begun(case, journal, accepted), World(case.weather), chance.randrange)
    process.drive()
    for recorded in process.history:
        fields = [getattr(recorded.event, name, None) for name in ("arguments", "items", "value", "result")]
        for whole in [each for each in fields if isinstance(each, Labelled)]:
            for _, leaf, label in leaves_of(whole):
                is_outside = isinstance(leaf, str) and OUTSIDE in leaf
                assert not is_outside or label.integrity is Integrity.UNTRUSTED
