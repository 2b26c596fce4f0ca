"""Questions, waits, nested runs, calls that go wrong; the gate, retries and doubt are in `test_core_decide_calls`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Command, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    CancelRequested,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    RetryScheduled,
    RunFinished,
    RunResumed,
    StepFailed,
    StepInDoubt,
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
from planner.core.forecast import TRIES
from planner.core.gate import binding
from planner.core.labels import TRUSTED, UNTRUSTED, Json, Labelled
from planner.core.ledger import ONE_CALL, UNLIMITED, Amount, Budget, Rate
from planner.core.plan import Step
from planner.core.policy import Principal, Verdict
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Callees: TypeAlias = tuple[Callee, ...]

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
DOWN = Fault(code="T-2", error_class="unavailable")
LOST = Fault(code="T-1", error_class="missing")
RESUMED = RunResumed(owner="p2")
DOUBT = StepInDoubt(path="s1", reason="no answer")


def step(use: str, id_: str = "s1", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


def resolved(place: str = "s1", verdict: Verdict | None = None, /, **arguments: Json) -> StepResolved:
    return StepResolved(path=place, arguments=Labelled(value=arguments), verdict=verdict)


def made(path: str = "s1", attempt: int = 1, held: Amount = ONE_CALL) -> StepStarted:
    return StepStarted(path=path, attempt=attempt, key="k", held=held)


def succeeded(path: str = "s1", value: Json = 1) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value))


def failed(fault: Fault = DOWN, path: str = "s1") -> StepFailed:
    return StepFailed(path=path, fault=fault)


def the_event(run: Run) -> Event:
    (command,) = decide(run)
    assert isinstance(command, Record)
    return command.event


def the_fault(run: Run) -> Fault:
    event = the_event(run)
    assert isinstance(event, StepFailed)
    return event.fault


def the_call(run: Run) -> Call:
    (command,) = decide(run)
    assert isinstance(command, Call)
    return command


def calls(commands: tuple[Command, ...]) -> list[str]:
    return [command.path for command in commands if isinstance(command, Call)]


# questions ---------------------------------------------------------------------------------------------------


def test_a_step_asks_whoever_plays_the_role_and_takes_the_answer_for_its_value(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    ask = step("human.boss", args={"question": "How much?"}, timeout_s=60)
    begun = (*accepted(ask, callees=every, principal=Principal(name="ann")), resolved(question="How much?"))
    asked = HumanAsked(path="s1", question="answer", reason="How much?", role="boss", timeout_s=60)
    assert the_event(given(*begun)) == asked
    run = given(*begun, asked)
    assert decide(run) == (AskHuman("s1"), StartTimer("s1", run.step("s1").due or BEGAN))
    said = HumanAnswered(path="s1", answer="value", value=7, by="ann")
    told = the_event(given(*begun, asked, said))
    assert told == StepSucceeded(path="s1", value=Labelled(value=7, label=TRUSTED.from_source("human:ann")))


def test_a_question_without_words_asks_nothing_in_particular(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    event = the_event(given(*accepted(step("human.user"), callees=every), StepResolved(path="s1")))
    assert event == HumanAsked(path="s1", question="answer", reason="")
    odd = StepResolved(path="s1", arguments=Labelled(value=["no record"]))
    assert the_event(given(*accepted(step("human.user"), callees=every), odd)) == event


def test_a_gate_opens_when_a_person_approves(given: Given, accepted: Accepted, every: Callees) -> None:
    begun = (*accepted(step("gate.approve", args={"what": "the plan"}), callees=every), resolved(what="the plan"))
    asked = HumanAsked(path="s1", question="approve", reason="the plan")
    assert the_event(given(*begun)) == asked
    yes = the_event(given(*begun, asked, HumanAnswered(path="s1", answer="yes", by="bob")))
    assert yes == StepSucceeded(path="s1", value=Labelled(value=True, label=UNTRUSTED.from_source("human:bob")))
    no = the_fault(given(*begun, asked, HumanAnswered(path="s1", answer="no", by="bob")))
    assert (no.code, no.error_class) == ("A-103", "denied")


@pytest.mark.parametrize("use", ["human.user", "gate.approve"])
def test_where_nobody_is_there_to_ask_a_question_is_denied(
    use: str, given: Given, accepted: Accepted, every: Callees
) -> None:
    fault = the_fault(given(*accepted(step(use), callees=every, on_ask="deny"), resolved()))
    assert (fault.code, fault.message) == ("A-102", f"`{use}` asks a person, and nobody is there to ask")


@pytest.mark.parametrize("use", ["human.user", "gate.approve", "mail.send"])
def test_an_answer_that_comes_too_late_does_not_count(
    use: str, given: Given, accepted: Accepted, every: Callees
) -> None:
    question: Any = "answer" if use == "human.user" else "approve"
    asked = HumanAsked(path="s1", question=question, reason="", timeout_s=5)
    begun = (*accepted(step(use, on_error={"retry": 3}), callees=every, is_given=True), resolved(), asked)
    fault = the_fault(given(*begun, TimerFired(path="s1")))
    assert (fault.code, fault.error_class, fault.message) == ("A-106", "unavailable", "nobody answered in time")
    (end,) = decide(given(*begun, TimerFired(path="s1"), failed(fault)))
    assert isinstance(end, Record)
    assert isinstance(end.event, RunFinished)


def test_a_question_that_has_time_is_asked_anew_when_the_call_is_tried_again(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    ask = Verdict(then="ask", rules=("ask",), reason="why")
    once = (HumanAsked(path="s1", question="approve", reason="why"), HumanAnswered(path="s1", answer="yes", by="ann"))
    again = (RetryScheduled(path="s1", attempt=1, due=BEGAN), TimerFired(path="s1"))
    begun = (*accepted(step("mail.send", timeout_s=9, on_error={"retry": 1}), callees=every), resolved("s1", ask))
    asking = given(*begun)
    bound = binding(asking, "s1")
    assert the_event(asking) == HumanAsked(path="s1", question="approve", reason="why", timeout_s=9, binding=bound)
    assert isinstance(the_event(given(*begun, *once, made(), failed(), *again)), HumanAsked)


# what a person says about a failure -------------------------------------------------------------------------


def asking(given: Given, accepted: Accepted, *events: Event, retry: int = 0) -> Run:
    one = step("files.read", args={"path": "a"}, on_error={"then": "ask", "retry": retry})
    return given(*accepted(one, Step(id="s2", let="${s1 ?? 0}")), resolved(path="s1"), made(), failed(), *events)


WHAT_NOW = HumanAsked(
    path="s1", question="failed", reason="`files.read` failed (T-2, unavailable); retry, skip or fail?"
)


def test_a_person_says_whether_to_try_again_to_go_on_without_or_to_fail(given: Given, accepted: Accepted) -> None:
    assert decide(asking(given, accepted, retry=1)) == (ScheduleRetry("s1", 1, 1.0),)
    assert the_event(asking(given, accepted)) == WHAT_NOW
    assert decide(asking(given, accepted, WHAT_NOW)) == (AskHuman("s1"),)

    def said(answer: Any) -> Run:
        return asking(given, accepted, WHAT_NOW, HumanAnswered(path="s1", answer=answer, by="ann"))

    assert the_call(said("retry")).attempt == 2
    assert the_event(said("skip")) == StepSkipped(path="s1", cause="failure")
    assert the_event(said("fail")) == failed()
    gone = asking(given, accepted, WHAT_NOW, HumanAnswered(path="s1", answer="fail", by="ann"), failed())
    assert the_event(gone) == PlanAbandoned(revision=2, reason="step `s1` failed")


def test_a_person_is_asked_again_when_the_call_fails_again(given: Given, accepted: Accepted) -> None:
    again = (WHAT_NOW, HumanAnswered(path="s1", answer="retry", by="ann"), made(attempt=2), failed())
    assert the_event(asking(given, accepted, *again)) == WHAT_NOW


def test_a_pause_is_no_shorter_than_the_other_side_asked_for_and_no_longer_than_a_day(
    given: Given, accepted: Accepted
) -> None:
    one = step("files.read", args={"path": "a"}, on_error={"retry": 2})
    wishes = [(30.0, 30.0), (0.1, 0.1), (None, 0.0), (1e15, 86_400.0), (float("inf"), 86_400.0), (-1.0, 0.0)]
    for asked_s, least_s in (*wishes, (float("nan"), 86_400.0)):
        busy = Fault(code="T-2", error_class="limit", retry_after_s=asked_s)
        wanted = ScheduleRetry("s1", 1, 1.0, least_s=least_s)
        assert decide(given(*accepted(one), resolved(), made(), failed(busy))) == (wanted,)


# waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wait"),
    [
        ({"seconds": 5}, WaitStarted(path="s1", seconds=5)),
        ({"seconds": "2.5"}, WaitStarted(path="s1", seconds=2.5)),
        ({"seconds": -3}, WaitStarted(path="s1", seconds=0)),
        ({"at": "2026-12-04T09:00Z"}, WaitStarted(path="s1", until=datetime(2026, 12, 4, 9, tzinfo=UTC))),
        ({"at": "2026-12-04"}, WaitStarted(path="s1", until=datetime(2026, 12, 4, tzinfo=UTC))),
        ({"at": "2001-01-01", "seconds": 5}, WaitStarted(path="s1", until=datetime(2001, 1, 1, tzinfo=UTC))),
    ],
)
def test_a_wait_lasts_until_a_time_or_for_seconds(
    arguments: dict[str, Json], wait: WaitStarted, given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("wait.until", args=arguments), callees=every), resolved(**arguments))
    assert the_event(given(*begun)) == wait
    run = given(*begun, wait)
    assert decide(run) == (StartTimer("s1", run.step("s1").due or BEGAN),)
    fired = given(*begun, wait, TimerFired(path="s1"))
    assert the_event(fired) == StepSucceeded(path="s1", value=Labelled(value=fired.at.isoformat()))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"at": "tomorrow"}, {"seconds": "soon"}, {"seconds": "nan"}, {"seconds": "1e999"}, {"seconds": [5]}],
)
def test_a_wait_for_no_time_fails(
    arguments: dict[str, Json], given: Given, accepted: Accepted, every: Callees
) -> None:
    fault = the_fault(given(*accepted(step("wait.until"), callees=every), resolved(**arguments)))
    assert (fault.code, fault.error_class) == ("P-303", "invalid")
    assert "needs `at`, a time such as" in fault.message


def test_a_wait_for_an_event_takes_the_oldest_that_fits(given: Given, accepted: Accepted, every: Callees) -> None:
    arguments: dict[str, Json] = {"name": "paid", "match": {"order": 7}}
    begun = (*accepted(step("wait.event", args=arguments, timeout_s=60), callees=every), resolved(**arguments))
    wait = WaitStarted(path="s1", seconds=60, name="paid", match={"order": 7})
    assert the_event(given(*begun)) == wait
    run = given(*begun, wait)
    assert decide(run) == (StartTimer("s1", run.step("s1").due or BEGAN),)
    posts = [EventReceived(name="paid", data={"order": n, "n": i}) for i, n in enumerate((8, 7, 7))]
    run = given(*begun, *posts[:2], wait, posts[2])
    assert the_event(run) == WaitEnded(path="s1", received=6)
    ended = given(*begun, *posts[:2], wait, posts[2], WaitEnded(path="s1", received=6))
    label = UNTRUSTED.from_source("event:paid")
    assert the_event(ended) == StepSucceeded(path="s1", value=Labelled(value={"order": 7, "n": 1}, label=label))
    late = the_fault(given(*begun, wait, TimerFired(path="s1")))
    assert (late.code, late.message) == ("A-106", "no event `paid` came in time")


def test_a_wait_for_an_event_may_last_for_ever_and_want_nothing_of_it(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("wait.event"), callees=every), resolved(name="paid", match="no record"))
    wait = WaitStarted(path="s1", name="paid")
    assert the_event(given(*begun)) == wait
    assert decide(given(*begun, wait)) == ()
    assert the_event(given(*begun, wait, EventReceived(name="paid"))) == WaitEnded(path="s1", received=6)


def test_two_waits_for_one_event_take_one_each(given: Given, accepted: Accepted, every: Callees) -> None:
    steps = (step("wait.event"), step("wait.event", "s2"))
    waits = [event for p in ("s1", "s2") for event in (resolved(p, name="paid"), WaitStarted(path=p, name="paid"))]
    begun = (*accepted(*steps, callees=every), *waits, EventReceived(name="paid", data=1))
    assert the_event(given(*begun)) == WaitEnded(path="s1", received=8)
    taken = (*begun, WaitEnded(path="s1", received=8), succeeded())
    assert decide(given(*taken)) == ()
    assert the_event(given(*taken, EventReceived(name="paid", data=2))) == WaitEnded(path="s2", received=11)


def test_nothing_is_waited_for_in_a_plan_that_has_failed(given: Given, accepted: Accepted, every: Callees) -> None:
    begun = (*accepted(step("wait.until"), step("files.read", "s2"), callees=every), resolved(seconds=9))
    wait = WaitStarted(path="s1", seconds=9)
    given_up = PlanAbandoned(revision=2, reason="step `s2` failed")
    assert the_event(given(*begun, wait, failed(LOST, "s2"))) == given_up


def test_effects_stay_before_or_behind_a_wait_or_an_approval_and_reads_do_not(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    for use in ("gate.approve", "wait.until"):
        steps = (step("files.append"), step(use, "s2"), step("files.append", "s3"), step("files.read", "s4"))
        ready = [resolved(f"s{n}", path=f"{n}", text="x", seconds=1) for n in (1, 2, 3, 4)]
        begun = (*accepted(*steps, callees=every), *ready)
        assert calls(decide(given(*begun))) == ["s1", "s4"]
        later = decide(given(*begun, made(), succeeded()))
        assert calls(later) == ["s4"]
        assert [type(c.event).__name__ for c in later if isinstance(c, Record)] in (["HumanAsked"], ["WaitStarted"])
        assert calls(decide(given(*begun, made(), succeeded(), StepSkipped(path="s2", cause="budget")))) == [
            "s3",
            "s4",
        ]


# nested runs -------------------------------------------------------------------------------------------------

GOAL = step("plan.goal", args={"goal": "a part"})


def test_a_nested_run_may_use_what_is_left_but_for_its_own_call(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    budget = Budget(calls=5, tokens=100, cost_usd=2.0, seconds=60)
    call = the_call(given(*accepted(GOAL, callees=every, budget=budget, is_given=True), resolved(goal="a part")))
    assert call.limits == Budget(calls=4, tokens=100, cost_usd=2.0, seconds=58)
    assert call.held == Amount(cost_usd=2.0, tokens=100, calls=5)
    free = the_call(given(*accepted(GOAL, callees=every), resolved(goal="a part")))
    assert (free.limits, free.held) == (UNLIMITED, ONE_CALL)


def test_a_nested_run_keeps_to_the_budget_of_every_block_around_it(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    block = Step.model_validate(
        {
            "id": "s1",
            "budget": {"calls": 6},
            "do": [
                {"id": "t1", "use": "files.read", "args": {"path": "a"}},
                {"id": "t2", "use": "plan.goal", "args": {"goal": "x"}, "budget": {"tokens": 9}},
            ],
        }
    )
    begun = (*accepted(block, callees=every, budget=Budget(calls=50)), BlockEntered(path="s1"), resolved("s1/t1"))
    begun = (*begun, made("s1/t1"), succeeded("s1/t1"), resolved("s1/t2", goal="x"))
    assert the_call(given(*begun)).limits == Budget(calls=4, tokens=9)


def test_a_second_nested_run_waits_until_the_first_gives_back_what_it_holds(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = (GOAL, step("plan.goal", "s2", after=[], args={"goal": "another"}))
    pure = [c.model_copy(update={"declaration": c.declaration.model_copy(update={"resource": ()})}) for c in every]
    begun = (
        *accepted(*steps, callees=tuple(pure), budget=Budget(calls=9)),
        resolved(goal="x"),
        resolved("s2", goal="y"),
    )
    first = the_call(given(*begun))
    parked = (made(held=first.held), StepParked(path="s1"))
    assert (first.path, first.held.calls) == ("s1", 9)
    assert decide(given(*begun, *parked)) == ()
    again = decide(given(*begun, *parked, StepNudged(path="s1")))
    assert calls(again) == ["s1"]
    used = StepSucceeded(path="s1", value=Labelled(), calls=3)
    assert the_call(given(*begun, made(held=first.held), used)).limits.calls == 4


def test_a_nested_run_is_gone_on_with_however_often_its_process_ends(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    crashes = [event for n in range(1, 9) for event in (made(attempt=n), RESUMED)]
    run = given(*accepted(GOAL, callees=every), resolved(goal="x"), *crashes)
    assert the_call(run).attempt == 9


# calls that go wrong -----------------------------------------------------------------------------------------


CRASHES = [event for attempt in range(1, TRIES + 1) for event in (made(attempt=attempt), RESUMED)]
DID_IT = HumanAsked(path="s1", question="happened", reason="did it?")


def test_a_call_that_ends_its_process_again_and_again_is_made_no_more(given: Given, accepted: Accepted) -> None:
    read = (*accepted(step("files.read")), resolved(path="s1"))
    assert the_call(given(*read, *CRASHES[:-2])).attempt == TRIES
    fault = the_fault(given(*read, *CRASHES))
    assert (fault.code, fault.error_class) == ("A-107", "conflict")
    assert fault.message == f"the process ended {TRIES} times while it called `files.read`"


def test_an_effect_that_ends_its_process_again_and_again_is_asked_about_and_made_no_more(
    given: Given, accepted: Accepted
) -> None:
    for use in ("files.write", "files.append", "mail.send"):
        begun = (*accepted(step(use, on_error={"retry": 3}), is_given=True), resolved(path="s1"), *CRASHES)
        assert isinstance(the_event(given(*begun)), StepInDoubt)
        unknown = (*begun, DOUBT, *([StepProbed(path="s1", happened=None)] if use == "files.append" else []))
        asked = the_event(given(*unknown))
        assert isinstance(asked, HumanAsked)
        assert asked.question == "happened"
        no = (*unknown, DID_IT, HumanAnswered(path="s1", answer="no", by="ann"))
        assert the_fault(given(*no)).code == "A-107"
        assert isinstance(the_event(given(*no, the_event(given(*no)))), RunFinished)
        yes = the_event(given(*unknown, DID_IT, HumanAnswered(path="s1", answer="yes", by="ann")))
        assert isinstance(yes, StepSucceeded)
    begun = (*accepted(step("files.append")), resolved(path="s1"), *CRASHES, DOUBT)
    assert the_fault(given(*begun, StepProbed(path="s1", happened=False))).code == "A-107"
    assert isinstance(the_event(given(*begun, StepProbed(path="s1", happened=True))), StepSucceeded)
    alone = (*accepted(step("files.write"), on_ask="deny"), resolved(path="s1"), *CRASHES, DOUBT)
    assert the_fault(given(*alone)).code == "A-104"


def test_a_planner_that_goes_round_in_circles_is_stopped(given: Given, accepted: Accepted) -> None:
    steps = [step("files.read", f"s{n}", args={"path": "a"}) for n in range(1, 5)]
    same = [e for n in (1, 2, 3) for e in (resolved(f"s{n}", path="a"), made(f"s{n}"), succeeded(f"s{n}"))]
    begun = (*same, resolved("s4", path="a"))
    fault = the_fault(given(*accepted(*steps, max_same_calls=3), *begun))
    assert (fault.code, fault.error_class) == ("A-108", "conflict")
    assert fault.message == "`files.read` was called with the same arguments by 3 steps"
    assert the_call(given(*accepted(*steps, max_same_calls=4), *begun)).path == "s4"
    assert the_call(given(*accepted(*steps, max_same_calls=3, is_given=True), *begun)).path == "s4"
    other = (*same, resolved("s4", path="b"))
    assert the_call(given(*accepted(*steps, max_same_calls=3), *other)).path == "s4"


def test_the_items_of_a_map_may_all_call_the_same(given: Given, accepted: Accepted) -> None:
    map_ = step("files.read", for_each=[1, 2, 3], args={"path": "a"})
    items = [e for n in range(2) for e in (resolved(f"s1[{n}]", path="a"), made(f"s1[{n}]"), succeeded(f"s1[{n}]"))]
    begun = (MapResolved(path="s1", items=Labelled(value=[1, 2, 3])), *items, resolved("s1[2]", path="a"))
    assert the_call(given(*accepted(map_, max_same_calls=1), *begun)).path == "s1[2]"


def test_a_call_has_the_shorter_of_two_time_limits_and_its_step_s_priority(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    for timeout_s, limit_s in ((9.0, 9.0), (90.0, 30.0), (None, 30.0)):
        fetch = step("web.fetch", timeout_s=timeout_s, priority=3)
        call = the_call(given(*accepted(fetch, callees=every), resolved(url="http://h")))
        assert (call.timeout_s, call.priority) == (limit_s, 3)
    assert the_call(given(*accepted(step("files.read")), resolved(path="a"))).timeout_s is None


def test_an_agent_is_played_by_the_cheaper_model_once_the_budget_is_short(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    setup: dict[str, Any] = {"callees": every, "rates": {"agent.writer": Rate(input_usd=1.0, output_usd=1.0)}}
    steps = (step("files.read"), step("agent.writer", "s2", args={"task": "x"}))
    begun = (resolved(path="a"), made(), succeeded(), resolved("s2", task="x"))
    for cheaper, calls_, is_cheaper in ((True, 2, True), (True, 9, False), (False, 2, False)):
        more = setup | {"budget": Budget(calls=calls_), "shortage": {"at": 0.5, "cheaper": cheaper}}
        call = the_call(given(*accepted(*steps, **more), *begun))
        assert call.is_cheaper is is_cheaper
        assert call.held.tokens > 2_000
        assert call.held.cost_usd == pytest.approx(call.held.tokens / 1_000_000)
    assert not the_call(given(*accepted(*steps, **setup), *begun)).is_cheaper


# doubt where a run is cancelled ------------------------------------------------------------------------------


def test_a_cancelled_run_waits_for_nobody_to_say_what_happened(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("mail.send"), callees=every), resolved(to="a@b.c"), made(), DOUBT)
    fault = the_fault(given(*begun, CancelRequested(by="ann")))
    assert (fault.code, fault.message) == ("A-104", "nobody could say whether `mail.send` happened")
