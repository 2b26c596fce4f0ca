"""One run under a seeded schedule with virtual time: what is late, lost, doubled, asked for or cut off, and when.

Rules of the file:
- Only `decide` says what is to be done, and only `evolve` changes the run; what is under way dies with its process.
- What decides the course is drawn from `chance`; without it, one thing happens after another as the plan says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import TypeAlias

from planner.core.check import Certificate
from planner.core.commands import (
    AskHuman,
    AskPlanner,
    AskValidator,
    Call,
    Command,
    Probe,
    Record,
    ScheduleRetry,
    StartTimer,
)
from planner.core.events import (
    BudgetRefused,
    CancelRequested,
    ContentKept,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    PlanAccepted,
    RetryScheduled,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepProbed,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoRequested,
)
from planner.core.labels import Json, Labelled
from planner.core.plan import StepPath, role_of
from planner.core.policy import Principal
from planner.core.run import Run
from planner.core.setup import Criterion
from planner.simulator.journal import Journal
from planner.simulator.laws import BrokenLawError
from planner.simulator.people import PERSON, answered, judged, probed, proposed, shortened
from planner.simulator.scenarios import EVENTS, PLACES, Course, Scenario
from planner.simulator.world import Outcome, World

MOST_TURNS = 5_000
"""Turns in which an event comes or not, far more than the most events."""
LONGEST_S = 3600.0
"""A pause between attempts; where they do not end, calendars would."""
MOST_UNREAD = 3
"""Events that come before anybody waits for them."""
Option: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class _Underway:
    """A call of this process: begun, then perhaps made, then told of."""

    command: Call
    begun: int
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """An outcome that may come again, or for the first time if it was lost."""

    event: StepSucceeded | StepFailed
    begun: int
    revision: int
    is_lost: bool


def begin(scenario: Scenario) -> tuple[Event, ...]:
    """The events that a run begins with; a plan that may be corrected passes the check as its next form will."""
    plan = None if scenario.is_planned else scenario.plan
    criteria = (Criterion(id="c1", kind="text", text="it is done"),) if scenario.is_planned else ()
    started = RunStarted(goal="simulate", principal=Principal(), setup=scenario.setup, plan=plan, criteria=criteria)
    if scenario.is_planned or scenario.course.corrections:
        return (started,)
    return started, PlanAccepted(revision=1, plan=scenario.plan, certificate=Certificate())


class Schedule:
    """Drives one run to its end, in the world and by the chance that it is given."""

    def __init__(self, scenario: Scenario, chance: Random | None) -> None:
        self.scenario = scenario
        self.world = World(scenario)
        self.journal = Journal(self.world, *begin(scenario))
        self.crashes = 0
        self._chance = chance
        self._course = scenario.course if chance is not None else Course()
        self._taken: dict[str, int] = {}
        self._calls: dict[StepPath, _Underway] = {}
        self._asked: AskPlanner | None = None
        """What a planner is thinking about."""
        self._late: list[_Told] = []
        self._said: list[HumanAnswered] = []

    @property
    def run(self) -> Run:
        """The run as it is now."""
        return self.journal.run

    def drive(self) -> Run:
        """The run when it has ended. Raises `BrokenLawError`."""
        for _ in range(MOST_TURNS):
            if self.run.finished is not None and not self._is_undone_now():
                return self.run
            self._pass_time()
            if self._chance is not None and self._chance.random() < self._course.rough:
                self._disturb(self._chance)
            else:
                self._turn()
        raise BrokenLawError("a run ends", f"it goes on after {MOST_TURNS} turns")

    def _pass_time(self) -> None:
        if self._chance is not None:
            self.journal.now += _PAUSES[int(self._chance.random() * len(_PAUSES))]

    def _is_undone_now(self) -> bool:
        """Asks for the finished run to be taken back, if that is to come; else there is nothing more to do."""
        if self._may("undoing") and not self.run.is_cancelled:
            self._take("undoing")
            self.journal.append(UndoRequested(by=PERSON))
            return True
        return False

    def _may(self, what: str) -> bool:
        """Whether one more of these may come."""
        most: int = getattr(self._course, what)
        return self._taken.get(what, 0) < most

    def _take(self, what: str) -> None:
        self._taken[what] = self._taken.get(what, 0) + 1

    # what happens next

    def _turn(self) -> None:
        """One of the things that may happen next does."""
        records = self.journal.records()
        if records and (not self._calls or self._is_prompt()):
            for event in records:
                self.journal.append(event)
            return
        self.journal.require_taken()
        options: list[Option] = [partial(self._go_on, path) for path in self._calls]
        if not records:
            options += [partial(self._obey, command) for command in self.journal.wanted()]
            options += self._given()
        if not options:
            states = {path: state.status for path, state in self.run.steps.items() if not state.is_done}
            raise BrokenLawError("a run never stalls", f"nothing is left to do or to wait for: {states}")
        options[0 if self._chance is None else int(self._chance.random() * len(options))]()

    def _is_prompt(self) -> bool:
        """Whether what follows from the rules comes before news of what is under way."""
        return self._chance is not None and self._chance.random() < 0.85

    def _given(self) -> list[Option]:
        """What comes from outside: events, nudges, and in a paused run that it goes on, or answers."""
        run = self.run
        if run.is_paused:
            asked = [path for path, state in run.steps.items() if state.status == "asked"]
            return [self._lift, *(partial(self._answer, path) for path in asked if run.phase == "executing")]
        options: list[Option] = []
        for path, state in run.steps.items():
            if state.status == "parked":
                options.append(partial(self._nudge, path))
            elif state.status == "waiting" and state.wanted and not self.journal.is_unread(state.wanted[0]):
                options.append(partial(self._send, state.wanted[0]))
        return options

    # commands

    def _obey(self, command: Command) -> None:
        before = self.journal.wanted()
        match command:
            case Call():
                self._start(command)
            case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s, least_s=least_s):
                due = self.journal.now + timedelta(seconds=max(min(delay_s, LONGEST_S), least_s))
                self.journal.append(RetryScheduled(path=path, attempt=attempt, due=due))
            case StartTimer(path=path, due=due):
                self.journal.now = max(self.journal.now, due)
                self.journal.append(TimerFired(path=path))
            case Probe(path=path):
                self.journal.append(StepProbed(path=path, happened=probed(self.world, self.run, path)))
            case AskHuman():
                self._answer(command.places[0])
            case _:
                self._ask(command)
        is_thinking = self._asked == command
        if self.journal.wanted() == before and self.run.finished is None and not is_thinking:
            raise BrokenLawError("a run never stalls", f"{command!r} was done, and is wanted again")

    def _ask(self, command: AskPlanner | AskValidator | Record) -> None:
        match command:
            case AskPlanner() if self._asked != command:
                self._asked = command  # what comes in between may make its answer worthless
            case AskPlanner():
                self._asked = None
                self.journal.append(proposed(self.scenario, self.run, command))
            case AskValidator():
                self.journal.append(judged(self.scenario, self.run, command))
            case Record():
                raise AssertionError("records are appended together")

    def _start(self, command: Call) -> None:
        path, key, attempt = command.path, command.key, command.attempt
        is_cheaper = command.is_cheaper
        self.journal.append(
            StepStarted(path=path, attempt=attempt, key=key, held=command.held, is_cheaper=is_cheaper)
        )
        self.world.tried.add(key)
        self._calls[path] = _Underway(command, self.run.step(path).begun)

    def _go_on(self, path: StepPath) -> None:
        """A call under way is made, told of, or lost."""
        underway = self._calls[path]
        if self._chance is not None and self._course.lost and self._chance.random() < self._course.lost / 2:
            self._lose(underway, self._chance)
        elif underway.outcome is None:
            self._make(underway)
        else:
            del self._calls[path]
            self.journal.append(underway.outcome)
            self._keep(underway, is_lost=False)
            self.world.learned(underway.outcome, underway.command.key)

    def _make(self, underway: _Underway) -> None:
        command, state = underway.command, self.run.step(underway.command.path)
        callee, given = self.journal.callee(command.path), state.arguments or Labelled(value={})
        if role_of(command.path) == "undo":
            underway.outcome = self.world.take_back(command, callee, state.kept)
            return
        kept = self.world.keeps(callee, given)
        if kept is not None and kept[0] not in state.kept:
            self.journal.append(ContentKept(path=command.path, name=kept[0], blob=kept[1]))
            return
        underway.outcome = self.world.perform(command, callee, given, revision=self.run.revision)

    def _lose(self, underway: _Underway, chance: Random) -> None:
        """The process gives up waiting: nobody knows, but what the world did it did."""
        path = underway.command.path
        del self._calls[path]
        self._keep(underway, is_lost=True)
        callee = self.journal.callee(path)
        is_free = callee.is_reading and not callee.declaration.max_tokens  # what a model used is told, or in doubt
        if is_free and chance.random() < 0.5:
            fault = Fault(code="T-298", error_class="unavailable")
            self.journal.append(StepFailed(path=path, fault=fault, attempt=underway.command.attempt))
        else:
            self.journal.append(StepInDoubt(path=path, reason="no answer in time"))

    def _keep(self, underway: _Underway, *, is_lost: bool) -> None:
        """The outcome may come again."""
        if isinstance(underway.outcome, StepSucceeded | StepFailed):
            self._late.append(_Told(underway.outcome, underway.begun, self.run.revision, is_lost))

    def _answer(self, path: StepPath) -> None:
        said = answered(self.world, self.run, path)
        self.journal.append(said)
        self._said.append(said)

    # what comes from outside

    def _lift(self) -> None:
        self.journal.append(PauseLifted(by=PERSON))

    def _nudge(self, path: StepPath) -> None:
        self.journal.append(StepNudged(path=path, by="child"))

    def _send(self, name: str, id_: int = 1) -> None:
        self.journal.append(EventReceived(name=name, data={"id": id_, "name": name}, by="outside"))

    def _disturb(self, chance: Random) -> None:
        """Something comes in between that nobody asked for."""
        options: list[Callable[[Random], None]] = []
        options += [self._send_early] if len(self.journal.unread) < MOST_UNREAD else []
        options += [self._come_again, self._come_again] if self._late else []
        options += [self._answer_again] if self._said else []
        options += [self._crash, self._crash] if self._may("crashes") else []
        if not self.run.is_cancelled:
            options += [self._pause] if self._may("pauses") and not self.run.is_paused else []
            options += [self._correct] if self._may("corrections") else []
            options += [self._cancel] if self._may("cancels") else []
            options += [self._refuse] if self._may("refusals") else []
        if options:
            chance.choice(options)(chance)

    def _crash(self, chance: Random) -> None:
        """The process ends: what is under way happens or not; the next one knows what was journaled."""
        self._take("crashes")
        for underway in self._calls.values():
            if underway.outcome is None and chance.random() < 0.5:
                self._make(underway)
        self._calls.clear()
        self._asked = None
        self.crashes += 1
        self.journal.require_fold()
        self.journal.append(RunResumed(owner="another process"))

    def _pause(self, _: Random) -> None:
        self._take("pauses")
        self.journal.append(PauseRequested(by=PERSON))

    def _cancel(self, _: Random) -> None:
        self._take("cancels")
        self.journal.append(CancelRequested(by=PERSON))

    def _refuse(self, _: Random) -> None:
        self._take("refusals")
        self.journal.append(BudgetRefused(account="day", reason="nothing is left"))

    def _correct(self, chance: Random) -> None:
        self._take("corrections")
        changes: dict[str, Json] = {"x": f"x{self.run.run_seq}", "at": chance.choice(PLACES)}
        name = chance.choice(("x", "at"))
        text = "otherwise" if self.scenario.is_planned and chance.random() < 0.5 else ""
        plan = None if self.scenario.is_calm or chance.random() < 0.7 else shortened(self.run)
        is_own = plan is not None or text or self.scenario.is_calm  # others' inputs are labelled as theirs
        by = self.run.started.principal.name if is_own else PERSON
        self.journal.append(Steered(by=by, text=text, inputs={name: changes[name]}, plan=plan))
        if self._may("corrections") and chance.random() < 0.5:
            self._correct(chance)  # at once, before anybody can heed the first one

    def _send_early(self, chance: Random) -> None:
        other = 1 if self.scenario.is_calm else 99  # in a calm course, events of one name say one thing
        self._send(chance.choice((*EVENTS, "noise")), chance.choice((1, other)))

    def _come_again(self, chance: Random) -> None:
        """An outcome comes a second time, or after it was given up."""
        told = chance.choice(self._late)
        state = self.run.step(told.event.path)
        is_same = state.begun == told.begun
        if told.revision != self.run.revision or (isinstance(told.event, StepSucceeded) and not is_same):
            return  # a success says not of which attempt it is
        if self.journal.offer(told.event) is not None:
            return
        if not (told.is_lost and is_same):
            what = f"`{told.event.type}` of `{told.event.path}` counts although it is {state.status}"
            raise BrokenLawError("a late duplicate is refused", what)
        self._late.remove(told)
        self._late.append(replace(told, is_lost=False))
        self.world.learned(told.event, state.key)

    def _answer_again(self, chance: Random) -> None:
        """A person answers twice, or a question that is no longer open."""
        said = chance.choice(self._said)
        if self.journal.offer(said) is None:
            raise BrokenLawError("a stale answer is refused", f"{said!r} counts a second time")


_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (0, 0, 1, 1, 2, 5))
