"""One run under a seeded schedule with virtual time: what is late, lost, doubled, asked for or cut off, and when.

Rules of the file:
- Only `decide` says what is to be done, and only `evolve` changes the run; what is under way dies with its process.
- What decides the course is drawn from `chance`; without it, one thing happens after another as the plan says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import TypeAlias

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    BudgetRefused,
    CancelRequested,
    ContentKept,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    PauseLifted,
    PauseRequested,
    PlanAccepted,
    Recorded,
    RetryScheduled,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepProbed,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoRequested,
    WaitEnded,
    WaitStarted,
)
from planner.core.labels import Json, Labelled
from planner.core.plan import StepPath, own_path, role_of
from planner.core.policy import Principal
from planner.core.run import UNDECIDED, Run, StepState
from planner.core.state import callee_at, evolve, fold
from planner.errors import JournalError
from planner.simulator.laws import BrokenLawError
from planner.simulator.scenarios import EVENTS, PLACES, Course, Scenario
from planner.simulator.world import Outcome, World

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
MOST_EVENTS = 700
"""More than any of these runs takes with all that may come in between: beyond it a run does not end."""
MOST_TURNS = 5_000
MOST_SENT = 3
"""Events that come before anybody waits for them."""
OWNER = "another process"
PERSON = "someone"
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


class Schedule:
    """Drives one run to its end, in the world and by the chance that it is given."""

    def __init__(self, scenario: Scenario, world: World, chance: Random | None) -> None:
        setup = scenario.setup
        started = RunStarted(goal="simulate", principal=Principal(), setup=setup, plan=scenario.plan)
        accepted = PlanAccepted(revision=1, plan=scenario.plan, certificate=Certificate())
        self.scenario = scenario
        self.world = world
        self.chance = chance
        self.left = scenario.course if chance is not None else Course()
        self.now = BEGAN
        self.crashes = 0
        self.history: list[Recorded] = []
        self.states: list[Run] = []
        self.calls: dict[StepPath, _Underway] = {}
        self._taken: dict[str, int] = {}
        self._late: list[_Told] = []
        self._said: list[HumanAnswered] = []
        self._sent: dict[int, EventReceived] = {}
        self.known: dict[str, str] = {}
        """What the journal says of each key: started, succeeded, in doubt, or the code of its failure."""
        self._halts: dict[StepPath, tuple[int, int]] = {}
        """The approvals and waits that are not over: their revision, and after how many deeds they began."""
        self._commands: tuple[Command, ...] | None = None
        self._append(started)
        if not scenario.course.corrections:  # a corrected plan is checked, so its first form is, too
            self._append(accepted)

    @property
    def run(self) -> Run:
        """The run as it is now."""
        return self.states[-1]

    def drive(self) -> Run:
        """The run when it has ended. Raises `BrokenLawError`."""
        for _ in range(MOST_TURNS):
            if self.run.finished is not None and not self._is_undone_now():
                return self.run
            if self.chance is not None and self.chance.random() < self.left.rough:
                self._disturb(self.chance)
            else:
                self._turn()
        raise BrokenLawError("a run ends", f"it goes on after {MOST_TURNS} turns")

    def _is_undone_now(self) -> bool:
        """Asks for the finished run to be taken back, if that is to come; else there is nothing more to do."""
        assert self.run.finished is not None
        if self._may("undoing") and not self.run.is_cancelled:
            self._take("undoing")
            self._append(UndoRequested(by=PERSON))
            return True
        return False

    def _may(self, what: str) -> bool:
        """Whether one more of these may come."""
        most: int = getattr(self.left, what)
        return self._taken.get(what, 0) < most

    def _take(self, what: str) -> None:
        self._taken[what] = self._taken.get(what, 0) + 1

    # what is journaled

    def wanted(self) -> tuple[Command, ...]:
        """What the core wants done now."""
        if self._commands is None:
            self._commands = decide(self.run)
        return self._commands

    def _append(self, event: Event) -> None:
        """The event counts; that it is legal is a law."""
        refused = self._try(event)
        if refused is not None:
            raise BrokenLawError("a decision is legal", f"`{event.type}` is refused: {refused.message}")

    def _try(self, event: Event) -> JournalError | None:
        """The event counts, unless the core refuses it."""
        place = len(self.history) + 1
        if self.chance is not None:
            self.now += _PAUSES[int(self.chance.random() * len(_PAUSES))]
        recorded = Recorded(seq=place, run_id="r1", run_seq=place, at=self.now, event=event)
        before = self.states[-1] if self.states else None
        try:
            run = evolve(before, recorded)
        except JournalError as error:
            return error
        self.history.append(recorded)
        self.states.append(run)
        self._commands = None
        if place > MOST_EVENTS:
            raise BrokenLawError("a run ends", f"it has more than {MOST_EVENTS} events")
        if before is not None:
            self._watch(before, event)
        return None

    def _watch(self, before: Run, event: Event) -> None:
        """The laws that one event may break."""
        match event:
            case StepStarted():
                self._watch_start(before, event)
            case StepSucceeded(path=path):
                state = before.step(path)
                if state.key and state.key not in self.world.happened:
                    raise BrokenLawError("what is journaled as succeeded happened", f"`{path}` did not happen")
                self._end(path, state.key, "succeeded")
            case StepFailed(path=path):
                self._end(path, before.step(path).key, event.fault.code)
            case StepSkipped(path=path):
                self._end(path, before.step(path).key, "skipped")
            case HumanAsked(path=path, question="approve") | WaitStarted(path=path):
                if self._callee(path).kind in {"gate", "wait"}:
                    self._halts.setdefault(path, (self.run.revision, len(self.world.deeds)))
            case EventReceived():
                self._sent[self.run.run_seq] = event
            case WaitEnded(received=received):
                del self._sent[received]
            case _:
                pass

    def _watch_start(self, before: Run, event: StepStarted) -> None:
        limit_s = before.started.setup.budget.seconds
        if self.known.get(event.key) == "succeeded":
            raise BrokenLawError("a finished call is not made again", f"`{event.path}` begins again")
        self.known[event.key] = "started"
        self._watch_repeated(before, event)
        if before.is_paused:
            raise BrokenLawError("a pause holds", f"`{event.path}` begins while the run is paused")
        if limit_s is not None and before.spent.seconds >= limit_s and role_of(event.path) != "undo":
            raise BrokenLawError("budgets hold", f"`{event.path}` begins after {before.spent.seconds} seconds")

    def _watch_repeated(self, before: Run, event: StepStarted) -> None:
        """What may have happened is neither made again under another key, nor does another call stand in for it."""
        role, own = role_of(event.path), own_path(event.path)
        for key, deed in self.world.standing.items() if role != "undo" else ():
            is_same = deed.path == own and key != event.key and deed.callee != "plan.goal"
            if is_same and (role == "fallback" or self._is_repeated(before, event, key)):
                raise BrokenLawError("an effect happens once", f"`{event.path}` begins, but `{own}` happened")

    def _is_repeated(self, before: Run, event: StepStarted, key: str) -> bool:
        first = next(run.step(event.path) for run in self.states if run.step(event.path).key == key)
        return self.known[key] in UNDECIDED and first.arguments == before.step(event.path).arguments

    def _end(self, path: StepPath, key: str, known: str) -> None:
        if key:
            self.known[key] = known
        if path in self._halts:
            revision, begins = self._halts.pop(path)
            self.world.halted(path, self._callee(path).name, revision=revision, begins=begins)

    # what happens next

    def _turn(self) -> None:
        """One of the things that may happen next does."""
        wanted = self.wanted()
        records = [command.event for command in wanted if isinstance(command, Record)]
        if records and (not self.calls or self._is_prompt()):
            for event in records:
                self._append(event)
            return
        self._require_taken()
        options: list[Option] = [partial(self._go_on, path) for path in self.calls]
        if not records:
            options += [partial(self._obey, command) for command in wanted]
            options += self._given()
        if not options:
            states = {path: state.status for path, state in self.run.steps.items() if not state.is_done}
            raise BrokenLawError("a run never stalls", f"nothing is left to do or to wait for: {states}")
        options[0 if self.chance is None else int(self.chance.random() * len(options))]()

    def _is_prompt(self) -> bool:
        """Whether what follows from the rules comes before news of what is under way."""
        return self.chance is not None and self.chance.random() < 0.85

    def _given(self) -> list[Option]:
        """What comes from outside, asked for or not: events, nudges, and while nothing else may happen, answers."""
        run = self.run
        if run.is_paused:
            return [self._lift, *(partial(self._answer, p) for p, s in run.steps.items() if s.status == "asked")]
        options: list[Option] = []
        for path, state in run.steps.items():
            if state.status == "parked":
                options.append(partial(self._nudge, path))
            elif state.status == "waiting" and state.wanted is not None:
                options.append(partial(self._send, state.wanted[0]))
        return options

    def _require_taken(self) -> None:
        """A step that waits for an event that came has it by the time nothing else follows from the rules.

        Not in a run that begins nothing more, for its waits are over.
        """
        run = self.run
        is_closed = run.is_paused or run.is_cancelled or run.is_corrected or run.undoing or run.refused
        if not self._sent or is_closed or run.phase != "executing":
            return
        if any(isinstance(command, Record) for command in self.wanted()):
            return
        if any(state.status == "failed" for state in run.steps.values()):
            return
        for path, state in run.steps.items():
            for event in self._sent.values() if state.status == "waiting" and state.wanted else ():
                name, fields = state.wanted or ("", {})
                data = event.data if isinstance(event.data, dict) else {}
                if event.name == name and all(data.get(key) == value for key, value in fields.items()):
                    raise BrokenLawError("an event that came is taken", f"`{path}` still waits for `{name}`")

    # commands

    def _obey(self, command: Command) -> None:
        before = self.wanted()
        match command:
            case Call():
                self._start(command)
            case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s):
                due = self.now + timedelta(seconds=delay_s)
                self._append(RetryScheduled(path=path, attempt=attempt, due=due))
            case StartTimer(path=path, due=due):
                self.now = max(self.now, due)
                self._append(TimerFired(path=path))
            case Probe(path=path):
                self._append(StepProbed(path=path, happened=self._truth(path)))
            case AskHuman(path=path):
                self._answer(path)
            case _:
                raise BrokenLawError("a decision is legal", f"{command!r} in a run of a given plan without criteria")
        if self.wanted() == before and self.run.finished is None:
            raise BrokenLawError("a run never stalls", f"{command!r} was done, and is wanted again")

    def _start(self, command: Call) -> None:
        self._append(
            StepStarted(
                path=command.path,
                attempt=command.attempt,
                key=command.key,
                held=command.held,
                is_cheaper=command.is_cheaper,
            )
        )
        self.world.tried.add(command.key)
        self.calls[command.path] = _Underway(command, self.run.step(command.path).begun)

    def _go_on(self, path: StepPath) -> None:
        """A call under way is made, told of, or lost."""
        underway = self.calls[path]
        if self.chance is not None and self.left.lost and self.chance.random() < self.left.lost / 2:
            self._lose(underway)
        elif underway.outcome is None:
            self._make(underway)
        else:
            del self.calls[path]
            self._append(underway.outcome)
            self._keep(underway, is_lost=False)
            self.world.learned(underway.outcome, underway.command.key)

    def _make(self, underway: _Underway) -> None:
        command, state = underway.command, self.run.step(underway.command.path)
        callee, given = self._callee(command.path), state.arguments or Labelled(value={})
        if role_of(command.path) == "undo":
            underway.outcome = self.world.take_back(command, callee, state.kept)
            return
        kept = self.world.keeps(callee, given)
        if kept is not None and kept[0] not in state.kept:
            self._append(ContentKept(path=command.path, name=kept[0], blob=kept[1]))
            return
        underway.outcome = self.world.perform(command, callee, given, revision=self.run.revision)

    def _lose(self, underway: _Underway) -> None:
        """The process gives up waiting: nobody knows, but what the world did it did."""
        path = underway.command.path
        del self.calls[path]
        self._keep(underway, is_lost=True)
        callee = self._callee(path)
        is_free = callee.is_reading and not callee.declaration.max_tokens  # what a model used is told, or in doubt
        if is_free and self.chance is not None and self.chance.random() < 0.5:
            fault = Fault(code="T-298", error_class="unavailable")
            self._append(StepFailed(path=path, fault=fault, attempt=underway.command.attempt))
        else:
            self._append(StepInDoubt(path=path, reason="no answer in time"))

    def _keep(self, underway: _Underway, *, is_lost: bool) -> None:
        """The outcome may come again."""
        if isinstance(underway.outcome, StepSucceeded | StepFailed):
            self._late.append(_Told(underway.outcome, underway.begun, self.run.revision, is_lost))

    def _truth(self, path: StepPath) -> bool | None:
        """What a probe finds; some cannot tell."""
        is_blind = self.scenario.fate(path, "blind", of=5) == 0
        return None if is_blind else self.run.step(path).key in self.world.happened

    def _answer(self, path: StepPath) -> None:
        state = self.run.step(path)
        answered = self._answered(path, state)
        self._append(answered)
        self._said.append(answered)

    def _answered(self, path: StepPath, state: StepState) -> HumanAnswered:
        fate = self.scenario.fate(path, "says", of=6)
        match state.question:
            case "happened":
                word = "yes" if state.key in self.world.happened else "no"
            case "failed":
                others = ("skip", "skip") if self.scenario.is_calm else ("skip", "fail")
                word = "retry" if state.failures < fate else others[fate % 2]
            case "answer":
                word = "value"
            case _:
                is_fatal = self.scenario.is_calm and self.scenario.plan.at(path).on_error.then != "skip"
                word = "no" if fate == 0 and not is_fatal else "yes"
        value: Json = f"of {path}" if word == "value" else None
        fields = {"path": path, "answer": word, "by": PERSON, "value": value, "asked": state.asked}
        return HumanAnswered.model_validate(fields)

    def _callee(self, path: StepPath) -> Callee:
        return self.scenario.setup.catalogue[callee_at(self.run, path)]

    # what comes from outside

    def _lift(self) -> None:
        self._append(PauseLifted(by=PERSON))

    def _nudge(self, path: StepPath) -> None:
        self._append(StepNudged(path=path, by="child"))

    def _send(self, name: str, id_: int = 1) -> None:
        self._append(EventReceived(name=name, data={"id": id_, "name": name}, by="outside"))

    def _disturb(self, chance: Random) -> None:
        """Something comes in between that nobody asked for."""
        options: list[Option] = [self._send_early]
        options += [self._come_again, self._come_again] if self._late else []
        options += [self._answer_again] if self._said else []
        options += [self._crash, self._crash] if self._may("crashes") else []
        options += [self._refuse] if self._may("refusals") and not self.run.refused else []
        if not self.run.is_cancelled:
            options += [self._pause] if self._may("pauses") and not self.run.is_paused else []
            options += [self._cancel] if self._may("cancels") else []
            options += [self._correct] if self._may("corrections") else []
        chance.choice(options)()

    def _crash(self) -> None:
        """The process ends: what is under way happens or not; the next one knows what was journaled."""
        assert self.chance is not None
        self._take("crashes")
        for underway in self.calls.values():
            if underway.outcome is None and self.chance.random() < 0.5:
                self._make(underway)
        self.calls.clear()
        self.crashes += 1
        self._require_same(fold(self.history), self.run)
        self._append(RunResumed(owner=OWNER))

    def _require_same(self, folded: Run, known: Run) -> None:
        if folded != known:
            what = f"at event {known.run_seq} the fold of the journal differs from the state"
            raise BrokenLawError("the journal alone gives the state", what)

    def _pause(self) -> None:
        self._take("pauses")
        self._append(PauseRequested(by=PERSON))

    def _cancel(self) -> None:
        self._take("cancels")
        self._append(CancelRequested(by=PERSON))

    def _refuse(self) -> None:
        self._take("refusals")
        self._append(BudgetRefused(account="day", reason="nothing is left"))

    def _correct(self) -> None:
        assert self.chance is not None
        self._take("corrections")
        inputs: dict[str, Json] = {"x": f"x{self.run.run_seq}", "at": self.chance.choice(PLACES)}
        name = self.chance.choice(("x", "at"))
        self._append(Steered(by=PERSON, inputs={name: inputs[name]}))

    def _send_early(self) -> None:
        assert self.chance is not None
        if len(self._sent) < MOST_SENT:
            other = 1 if self.scenario.is_calm else 99  # in a calm course, events of one name say one thing
            self._send(self.chance.choice((*EVENTS, "noise")), self.chance.choice((1, other)))

    def _come_again(self) -> None:
        """An outcome comes a second time, or after it was given up."""
        assert self.chance is not None
        told = self.chance.choice(self._late)
        state = self.run.step(told.event.path)
        is_same = state.begun == told.begun
        if told.revision != self.run.revision or (isinstance(told.event, StepSucceeded) and not is_same):
            return  # a success says not of which attempt it is
        if self._try(told.event) is not None:
            return
        if not (told.is_lost and is_same):
            what = f"`{told.event.type}` of `{told.event.path}` counts although it is {state.status}"
            raise BrokenLawError("a late duplicate is refused", what)
        self._late.remove(told)
        self._late.append(replace(told, is_lost=False))
        self.world.learned(told.event, state.key)

    def _answer_again(self) -> None:
        """A person answers twice, or a question that is no longer open."""
        assert self.chance is not None
        event = self.chance.choice(self._said)
        if self._try(event) is None:
            raise BrokenLawError("a stale answer is refused", f"{event!r} counts a second time")


_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (0, 0, 1, 1, 2, 5))
