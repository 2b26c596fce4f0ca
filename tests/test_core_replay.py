"""What the rules led to, they lead to again; what they would not lead to is found, and said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.attest import attest
from planner.core.catalog import Callee
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
from planner.core.decide import decide
from planner.core.events import (
    CancelRequested,
    ContentKept,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    PlannerFailed,
    PlanProposed,
    Recorded,
    RetryScheduled,
    ReviewFailed,
    ReviewPassed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepProbed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoRequested,
)
from planner.core.gate import CHANGING
from planner.core.intrinsics import intrinsics
from planner.core.labels import Labelled
from planner.core.ledger import Amount
from planner.core.moves import ANSWERS
from planner.core.plan import Plan
from planner.core.policy import Policy
from planner.core.replay import Divergence, replayed, told
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.setup import Criterion
from planner.core.state import callee_at, evolve, fold
from planner.errors import JournalError

Started: TypeAlias = Callable[..., RunStarted]
Journal: TypeAlias = Callable[..., tuple[Recorded, ...]]
Pick: TypeAlias = Callable[[int], int]

ASKING = Policy(rules=(Rule(id="people", then="ask", callee="mail.*"), Rule(id="all", then="allow")))
TEXT = {"text": "$s3"}
UPPER = {"id": "s9", "use": "text.upper", "args": TEXT}
STEPS: list[dict[str, Any]] = [
    {"id": "s1", "use": "files.list", "args": {"folder": "in"}},
    {"id": "s2", "for_each": ["a", "b"], "use": "files.read", "args": {"path": "$item"}, "on_item_error": "drop"},
    {"id": "s3", "let": "${join(s2, ' ')}"},
    {"id": "s4", "if": "len(s2) > 9", "use": "files.wipe", "args": {"folder": "in"}},
    {"id": "s5", "use": "files.append", "args": {"path": "x", "text": "$s3"}, "on_error": {"retry": 2}},
    {"id": "s6", "use": "mail.send", "args": {"to": "a@b.example", "text": "hello"}, "on_error": {"then": "skip"}},
    {"id": "s7", "if": "true", "do": [{"id": "s8", "use": "wait.until", "args": {"seconds": 60}}, UPPER]},
    {"id": "s10", "use": "wait.event", "args": {"name": "paid"}, "timeout_s": 90, "on_error": {"then": "skip"}},
    {"id": "s11", "use": "human.user", "args": {"question": "which?"}, "on_error": {"then": "skip"}},
    {"id": "s12", "use": "gate.approve", "args": {"what": "all of it"}, "on_error": {"then": "skip"}},
    {
        "id": "s13",
        "use": "files.read",
        "args": {"path": "y"},
        "on_error": {"fallback": {"use": "text.upper", "args": TEXT}},
    },
    {"id": "s14", "use": "plan.goal", "args": {"goal": "a part"}, "on_error": {"then": "ask"}},
]
"""A step of each sort."""


def a_plan(*steps: Mapping[str, Any], answer: Any = None) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": answer})


READING = a_plan({"id": "s1", "use": "files.read", "args": {"path": "a"}})
WRITING = a_plan({"id": "s1", "use": "files.append", "args": {"path": "a", "text": "b"}, "on_error": {"retry": 1}})
UNHEARD = PlannerFailed(revision=1, attempt=1, fault=Fault(code="M-110", error_class="failed"))
PAUSED = PauseRequested(by="user")
LOST = Fault(code="A-104", error_class="conflict")


# a life: a run, and a world that answers as it is told to ------------------------------------------------------


@dataclass
class Life:
    """A run from its first event on; all that `decide` wants recorded is appended in one go."""

    history: list[Recorded]
    plan: Plan = READING
    """What the planner proposes."""
    rules: Callable[[Run], tuple[Command, ...]] = decide
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.run = fold(self.history)
        self._record()

    def say(self, *events: Event, after_s: float = 1) -> None:
        """These events, one after the other; and what follows from each."""
        for event in events:
            self._append(event, after_s=after_s)
            self._record()

    def go_on(self) -> None:
        """Everything that is wanted is done, and goes well, until the run has ended or waits for an event."""
        while self.run.finished is None:
            commands = self.rules(self.run)
            if not commands:
                return
            self.answer(commands[0])

    def answer(self, command: Command, *, pick: Pick = lambda _: 0) -> None:
        """What the world makes of one command; with `pick` it may go otherwise than well."""
        for event, after_s in reply(self, command, pick):
            self.say(event, after_s=after_s)

    def _append(self, *events: Event, after_s: float = 0) -> None:
        at = self.history[-1].at + timedelta(seconds=after_s)
        for event in events:
            place = len(self.history) + 1
            one = Recorded(seq=place, run_id=self.run.id, run_seq=place, at=at, event=event)
            self.run = evolve(self.run, one)
            self.history.append(one)

    def _record(self) -> None:
        while events := [command.event for command in self.rules(self.run) if isinstance(command, Record)]:
            self._append(*events)


def reply(life: Life, command: Command, pick: Pick) -> Iterator[tuple[Event, float]]:
    """The events that answer a command, and how many seconds each takes."""
    match command:
        case AskPlanner(revision=revision, attempt=attempt):
            failed = UNHEARD.model_copy(update={"revision": revision, "attempt": attempt})
            proposed = PlanProposed(revision=revision, attempt=attempt, plan=life.plan)
            yield (failed if pick(4) == 3 else proposed), 1
        case Call():
            yield begun(command), 1
            yield outcome(life, command, pick), 1
        case Probe(path=path):
            yield StepProbed(path=path, happened=(True, False, None)[pick(3)]), 1
        case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s, least_s=least_s):
            due = life.history[-1].at + timedelta(seconds=max(delay_s, least_s))
            yield RetryScheduled(path=path, attempt=attempt, due=due), 0
        case StartTimer(path=path, due=due):
            yield TimerFired(path=path), max(0.0, (due - life.history[-1].at).total_seconds())
        case AskHuman():
            path = command.places[0]
            able = sorted(ANSWERS[life.run.step(path).question or "approve"] - CHANGING, reverse=True)
            answer = able[pick(len(able))]
            yield HumanAnswered.model_validate({"path": path, "answer": answer, "by": "user", "value": "tea"}), 1
        case AskValidator(criteria=criteria):
            yield (ReviewFailed(criteria=criteria) if pick(2) else ReviewPassed(criteria=criteria)), 1
        case Record():
            raise AssertionError(f"{command} was to be appended")


def begun(command: Call, **changed: Any) -> StepStarted:
    known = ("path", "attempt", "key", "held", "is_cheaper")
    return StepStarted.model_validate({name: getattr(command, name) for name in known} | changed)


def outcome(life: Life, command: Call, pick: Pick) -> Event:
    """What comes of a call."""
    given_ = life.run.step(command.path).arguments or Labelled(value={})
    callee = life.run.started.setup.catalogue[callee_at(life.run, command.path)]
    fault = Fault(code="T-1", error_class="unavailable" if pick(2) else "missing")
    events: tuple[Event, ...] = (
        StepSucceeded(path=command.path, value=attest(callee, given_, ["x"], path=command.path)),
        StepFailed(path=command.path, fault=fault, attempt=command.attempt),
        StepInDoubt(path=command.path, reason="no answer"),
        RunResumed(owner="the one after a crash"),
        *([StepParked(path=command.path)] if command.callee == "plan.goal" else []),
    )
    return events[pick(len(events))]


@pytest.fixture(scope="session")
def life(journal: Journal, started: Started, callees: tuple[Callee, ...]) -> Callable[..., Life]:
    """A run that has begun; `plan` is the planner's, or with `is_given` came along."""
    known = (*callees, *intrinsics(("user",)).values())

    def made(plan: Plan = READING, *, is_given: bool = True, **more: Any) -> Life:
        given_ = {"callees": known, **({"plan": plan} if is_given else {}), **more}
        return Life(list(journal(started(**given_))), plan=plan)

    return made


Lives: TypeAlias = Callable[..., Life]


def wanted(life: Life, kind: type[Any]) -> Any:
    """The first command of that kind that the run wants."""
    return next(command for command in decide(life.run) if isinstance(command, kind))


# what the rules led to -------------------------------------------------------------------------------------------


def test_a_run_of_every_sort_of_step_replays(life: Lives) -> None:
    one = life(a_plan(*STEPS), is_given=False, policy=ASKING)
    one.say(EventReceived(name="paid", data={"n": 1}, by="bank"))
    one.go_on()
    assert one.run.status == "unverified"
    assert replayed(one.history) == ()


def test_what_the_rules_want_recorded_may_be_appended_one_by_one(journal: Journal, life: Lives) -> None:
    one = life(a_plan(*STEPS))
    assert len({r.at for r in one.history}) == 1
    assert len(one.history) > 5
    apart = [r.model_copy(update={"at": r.at + timedelta(seconds=r.run_seq)}) for r in one.history]
    assert replayed(one.history) == replayed(apart) == ()
    for length in range(1, len(one.history)):  # a fork may cut a batch
        cut = [*one.history[:length], after(one.history[length - 1], RunResumed(owner="another"))]
        assert replayed(cut) == ()


def after(last: Recorded, event: Event, after_s: float = 1) -> Recorded:
    """The event as the next one."""
    place, at = last.run_seq + 1, last.at + timedelta(seconds=after_s)
    return Recorded(seq=place, run_id=last.run_id, run_seq=place, at=at, event=event)


def test_a_run_that_was_taken_back_replays(life: Lives, callees: tuple[Callee, ...]) -> None:
    append = next(c for c in callees if c.name == "files.append")
    undoable = append.model_copy(update={"declaration": append.declaration.model_copy(update={"undo": "restore"})})
    one = life(WRITING, callees=(undoable,))
    one.go_on()
    one.say(UndoRequested(by="user"))
    one.go_on()
    assert one.run.status == "cancelled"
    assert one.run.finished is not None
    assert one.run.finished.undone == ("s1",)
    assert replayed(one.history) == ()


def inputs(run: Run, chance: Random) -> Event:
    """Something that somebody says to the run."""
    said: list[Event] = [RunResumed(owner="another"), EventReceived(name="paid", data={"seq": run.run_seq})]
    if run.is_paused:
        return PauseLifted(by="user")
    if not run.is_cancelled:
        said += [PAUSED, Steered(by="user", text="otherwise")]
        said += [CancelRequested(by="user")] * (chance.random() < 0.1)
    return chance.choice(said)


@settings(max_examples=25, deadline=None, derandomize="CI" in os.environ)
@given(seed=st.integers(0, 2**32))
def test_whatever_the_world_does_a_run_replays(seed: int, life: Lives) -> None:
    chance = Random(seed)
    steps = [step for step in STEPS if chance.random() < 0.7 and step["id"] not in {"s1", "s2", "s3"}]
    one = life(a_plan(*STEPS[:3], *steps), is_given=False, policy=ASKING)
    for _ in range(60):
        commands = decide(one.run)
        if one.run.finished is not None:
            break
        if not commands or chance.random() < 0.1:
            one.say(inputs(one.run, chance))
        else:
            one.answer(chance.choice(commands), pick=chance.randrange)
    assert replayed(one.history) == ()
    written = [Recorded.model_validate_json(recorded.model_dump_json()) for recorded in one.history]
    assert replayed(written) == ()


# what they did not lead to ------------------------------------------------------------------------------------------


def found(life: Life) -> Divergence:
    """The one event that is no one's."""
    (divergence,) = replayed(life.history)
    return divergence


def test_a_decision_that_is_recorded_otherwise_is_a_divergence(life: Lives) -> None:
    one = life(READING)
    last = one.history[-1]
    assert isinstance(last.event, StepResolved)
    assert last.event.verdict is not None
    verdict = last.event.verdict.model_copy(update={"rules": ("another",)})
    event = last.event.model_copy(update={"verdict": verdict})
    (divergence,) = replayed([*one.history[:-1], last.model_copy(update={"event": event})])
    assert divergence == Divergence(last.run_seq, event, (Record(last.event),))
    what = "event 3, `StepResolved` of `s1`, is recorded with another `verdict` than the rules give"
    assert told(divergence) == what


def test_a_decision_that_the_rules_do_not_come_to_is_a_divergence(life: Lives) -> None:
    one = life(READING)
    one.say(StepFailed(path="s1", fault=Fault(code="A-101", error_class="denied")))
    assert found(one).run_seq == 4
    assert told(found(one)) == "event 4, `StepFailed` of `s1`, is recorded, but the rules want `Call` of `s1`"


def test_an_end_that_comes_while_a_call_is_under_way_is_a_divergence(life: Lives) -> None:
    one = life(READING)
    one.say(begun(wanted(one, Call)))
    one.say(RunFinished(status="failed"))
    assert told(found(one)) == "event 5, `RunFinished`, is recorded, but the rules want to wait"


@pytest.mark.parametrize(
    "changed",
    [{"attempt": 2}, {"key": "another"}, {"held": Amount(tokens=9)}, {"is_cheaper": True}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_call_is_made_as_it_was_wanted(changed: dict[str, Any], life: Lives) -> None:
    one = life(READING)
    one.say(begun(wanted(one, Call), **changed))
    assert isinstance(found(one).recorded, StepStarted)


def test_a_call_is_made_only_while_it_is_wanted(life: Lives) -> None:
    one = life(READING)
    call = wanted(one, Call)
    one.say(PAUSED, begun(call))
    assert found(one).wanted == ()


@pytest.mark.parametrize(
    ("event", "is_legal"),
    [
        (StepSucceeded(path="s1", value=Labelled(value="late")), True),
        (StepFailed(path="s1", fault=LOST, attempt=1), True),
        (StepFailed(path="s1", fault=LOST), False),
    ],
    ids=["success", "failure", "given up"],
)
def test_a_call_in_doubt_may_end_late_but_is_not_given_up_at_will(event: Event, is_legal: bool, life: Lives) -> None:
    one = life(WRITING)
    one.say(begun(wanted(one, Call)), StepInDoubt(path="s1", reason="no answer"), event)
    assert (replayed(one.history) == ()) is is_legal


def test_what_a_probe_told_is_not_overruled_by_a_late_outcome(life: Lives) -> None:
    one = life(WRITING)
    one.say(begun(wanted(one, Call)), StepInDoubt(path="s1", reason="no answer"))
    one.say(StepProbed(path="s1", happened=False), StepSucceeded(path="s1", value=Labelled(value="late")))
    assert isinstance(found(one).recorded, StepSucceeded)


def test_a_value_that_nothing_gave_is_a_divergence(life: Lives) -> None:
    one = life(READING)
    early = [*one.history[:2], after(one.history[1], StepSucceeded(path="s1", value=Labelled(value="made up")))]
    (divergence,) = replayed(early)
    assert isinstance(divergence.wanted[0], Record)


def test_a_planner_may_answer_while_the_run_is_paused(life: Lives) -> None:
    one = life(is_given=False)
    one.say(PAUSED, PlanProposed(revision=1, attempt=1, plan=READING), PauseLifted(by="user"))
    one.go_on()
    assert replayed(one.history) == ()


@pytest.mark.parametrize(
    "events",
    [[UNHEARD], [PAUSED, Steered(by="user", text="otherwise")], [PAUSED, RunResumed(owner="another")]],
    ids=["answered already", "asked for something else by now", "asked by a process that ended"],
)
def test_the_planner_answers_once_and_only_what_it_was_asked(events: list[Event], life: Lives) -> None:
    one = life(is_given=False)
    one.say(*events, UNHEARD)
    assert found(one).run_seq == len(events) + 2


def test_a_tool_is_probed_only_where_somebody_wanted_to_know(life: Lives) -> None:
    one = life(WRITING, policy=ASKING)
    one.say(begun(wanted(one, Call)), PAUSED, StepInDoubt(path="s1", reason="no answer"))
    one.say(StepProbed(path="s1", happened=False))
    assert isinstance(found(one).recorded, StepProbed)


def test_a_retry_is_one_of_the_attempt_that_failed(life: Lives) -> None:
    one = life(WRITING)
    one.say(begun(wanted(one, Call)), StepFailed(path="s1", fault=Fault(code="T-1", error_class="unavailable")))
    one.say(RetryScheduled(path="s1", attempt=2, due=one.run.at))
    assert isinstance(found(one).recorded, RetryScheduled)


def test_a_timer_fires_when_its_time_has_come_and_not_before(life: Lives) -> None:
    plan = a_plan({"id": "s1", "use": "wait.until", "args": {"seconds": 60}})
    one = life(plan)
    one.say(PAUSED, after_s=59)
    one.say(TimerFired(path="s1"), PauseLifted(by="user"))
    assert replayed(one.history) == ()
    one = life(plan)
    one.say(TimerFired(path="s1"), after_s=59)
    assert isinstance(found(one).recorded, TimerFired)


def test_a_question_is_answered_by_its_own_words(life: Lives) -> None:
    plan = a_plan({"id": "s1", "use": "gate.approve", "args": {"what": "this"}})
    one = life(plan)
    one.say(PAUSED, HumanAnswered(path="s1", answer="yes", by="user"), PauseLifted(by="user"))
    assert replayed(one.history) == ()
    one = life(plan)
    with pytest.raises(JournalError, match="no answer to `approve`"):
        one.say(HumanAnswered(path="s1", answer="value", by="user", value=1))


def test_a_judge_speaks_of_the_criteria_that_it_was_asked_about(life: Lives) -> None:
    criteria = (Criterion(id="c1", kind="text", text="short"), Criterion(id="c2", kind="expression", text="true"))
    for said, is_asked in (("c1", True), ("c2", False)):
        one = life(READING, criteria=criteria, can_judge=True, max_replans=0)
        one.answer(wanted(one, Call))
        assert wanted(one, AskValidator).criteria == ("c1",)
        one.say(ReviewFailed(criteria=(said,)))
        assert (replayed(one.history) == ()) is is_asked


def test_what_comes_from_outside_is_legal_whenever_it_can_come(life: Lives) -> None:
    plan = a_plan({"id": "s1", "use": "plan.goal", "args": {"goal": "a part"}})
    one = life(plan)
    one.say(begun(wanted(one, Call)), ContentKept(path="s1", name="a", blob=None), StepParked(path="s1"))
    one.say(StepNudged(path="s1"), EventReceived(name="paid"), Steered(by="user", plan=READING))
    assert replayed(one.history) == ()


def test_after_a_divergence_it_goes_on_from_what_is_recorded(life: Lives) -> None:
    one = life(WRITING)
    one.say(begun(wanted(one, Call), key="another"), StepInDoubt(path="s1", reason="no answer"))
    one.go_on()
    assert one.run.status == "unverified"
    assert found(one).run_seq == 4


def test_events_that_are_no_history_are_refused(life: Lives) -> None:
    one = life(READING)
    with pytest.raises(JournalError, match="J-204"):
        replayed([*one.history, after(one.history[-1], StepProbed(path="s1", happened=None))])
    with pytest.raises(JournalError, match="J-201"):
        replayed([])


# versions and forks ----------------------------------------------------------------------------------------------


def test_the_version_of_a_run_says_which_rules_hold(life: Lives, journal: Journal, started: Started) -> None:
    def hasty(run: Run) -> tuple[Command, ...]:
        return (Record(RunFinished(status="failed", reason="in haste")),) if run.phase == "planning" else ()

    first = started(plan=READING).model_copy(update={"semantics": 2})
    one = Life(list(journal(first)), rules=hasty)
    assert replayed(one.history, known={1: decide, 2: hasty}) == ()
    assert len(replayed(one.history, known={2: decide})) == 1
    with pytest.raises(JournalError, match=r"J-205.*version 2 of the rules, and this program knows 1"):
        replayed(one.history)


def test_a_fork_of_a_fork_replays_each_part_under_the_run_that_decided_it(life: Lives) -> None:
    one = life(a_plan(*({"id": f"s{n}", "use": "files.read", "args": {"path": f"{n}"}} for n in (1, 2, 3))))
    one.answer(wanted(one, Call))
    for origin, id_ in (("r1", "r2"), ("r2", "r3")):
        copies = [recorded.model_copy(update={"run_id": id_}) for recorded in one.history]
        last = copies[-1]
        one = Life([*copies, after(last, RunForked(origin=origin, at_event=last.run_seq))])
        one.answer(wanted(one, Call))
    assert len({r.event.key for r in one.history if isinstance(r.event, StepStarted)}) == 3
    assert replayed(one.history) == ()
    alone = [r for r in one.history if not isinstance(r.event, RunForked)]
    again = [r.model_copy(update={"run_seq": n}) for n, r in enumerate(alone, start=1)]
    assert {type(d.recorded) for d in replayed(again)} == {StepStarted}
