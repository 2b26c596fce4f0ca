from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.events import (
    BlockEntered,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseRequested,
    RetryScheduled,
    Steered,
    StepFailed,
    StepInDoubt,
    StepParked,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitStarted,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import ONE_CALL, UNLIMITED, Amount, Budget, Spent
from planner.core.plan import Plan, Step
from planner.core.run import (
    Run,
    StepState,
    account,
    accounts_of,
    callee_at,
    callee_of,
    failures_of,
    falls_back,
    has_ended,
    has_failed,
    held_in,
    holds,
    in_flight,
    is_undecided,
    item_count,
    item_paths,
    last_path,
    may_ask,
    may_retry,
    takes,
)
from planner.core.setup import Parent

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., Event]
Callees: TypeAlias = tuple[Callee, ...]

AT = datetime(2026, 3, 1, tzinfo=UTC)
DOWN = Fault(code="T-2", error_class="unavailable")
LOST = Fault(code="T-1", error_class="missing")
UNKNOWN = Fault(code="A-104", error_class="conflict")
READ = Step(id="s1", use="files.read", args={"path": "a"})
GOAL = Step(id="s1", use="plan.goal", args={"goal": "a part"})


def step(**fields: Any) -> Step:
    return Step.model_validate({"id": "s1", "use": "files.read", "args": {"path": "a"}} | fields)


def called(path: str = "s1", *, held: Amount = ONE_CALL, attempt: int = 1) -> tuple[Event, ...]:
    resolved = (StepResolved(path=path),) if attempt == 1 else ()
    return (*resolved, StepStarted(path=path, attempt=attempt, key="k", held=held))


def failed(fault: Fault = DOWN, path: str = "s1", **more: Any) -> tuple[Event, ...]:
    return (*called(path, **more), StepFailed(path=path, fault=fault))


# what became of a step


@pytest.mark.parametrize(
    ("fault", "retry", "is_retried"),
    [(DOWN, 1, True), (DOWN, 0, False), (LOST, 1, False), (Fault(code="A-109", error_class="limit"), 1, True)],
)
def test_a_failure_that_may_pass_may_be_tried_again(
    fault: Fault, retry: int, is_retried: bool, given: Given, accepted: Accepted
) -> None:
    one = step(on_error={"retry": retry})
    run = given(*accepted(one), *failed(fault))
    assert may_retry(one, run.step("s1")) is is_retried
    assert (has_ended(run, one, "s1"), has_failed(run, one, "s1")) == (not is_retried, not is_retried)
    assert not may_retry(one, given(*accepted(one), StepFailed(path="s1", fault=fault)).step("s1"))


def test_a_person_who_says_that_it_fails_ends_the_retries(given: Given, accepted: Accepted) -> None:
    one = step(on_error={"retry": 3, "then": "ask"})
    state = StepState(status="failed", fault=DOWN, attempt=1, failures=1, answer="fail")
    assert not may_retry(one, state)
    assert may_retry(one, StepState(status="failed", fault=DOWN, attempt=1, failures=1))


def test_a_person_is_asked_about_a_call_that_failed_for_good(given: Given, accepted: Accepted) -> None:
    asks = step(on_error={"then": "ask"})
    run = given(*accepted(asks), *failed())
    assert may_ask(run, asks, "s1")
    assert not has_ended(run, asks, "s1")
    assert not may_ask(given(*accepted(asks), StepFailed(path="s1", fault=LOST)), asks, "s1")
    assert not may_ask(given(*accepted(asks, on_ask="deny"), *failed()), asks, "s1")
    told = (
        HumanAsked(path="s1", question="failed", reason=""),
        HumanAnswered(path="s1", answer="fail", by="ann"),
        StepFailed(path="s1", fault=DOWN),
    )
    run = given(*accepted(asks), *failed(), *told)
    assert not may_ask(run, asks, "s1")
    assert has_failed(run, asks, "s1")


def test_another_call_takes_the_place_of_one_that_failed_for_good(given: Given, accepted: Accepted) -> None:
    one = step(on_error={"retry": 1, "fallback": {"use": "text.upper", "args": {"text": "b"}}})
    run = given(*accepted(one), *failed())
    assert not falls_back(one, "s1", run.step("s1"))
    run = given(*accepted(one), *failed(LOST))
    assert falls_back(one, "s1", run.step("s1"))
    last, path = last_path(run, one, "s1")
    assert (last.use, last.args, path) == ("text.upper", {"text": "b"}, "s1~fallback")
    assert (callee_at(run, path), has_ended(run, one, "s1")) == ("text.upper", False)
    run = given(*accepted(one), *failed(LOST), StepSucceeded(path=path, value=Labelled(value=1)))
    assert (has_ended(run, one, "s1"), has_failed(run, one, "s1")) == (True, False)
    run = given(*accepted(one), *failed(LOST), StepFailed(path=path, fault=DOWN))
    assert has_failed(run, one, "s1")
    assert [(f.path, f.fault) for f in failures_of(run)] == [("s1", DOWN)]


def test_a_map_has_no_call_in_its_place_but_its_items_have(given: Given, accepted: Accepted) -> None:
    one = step(for_each=[1], on_error={"fallback": "text.upper"})
    run = given(*accepted(one), StepFailed(path="s1", fault=LOST))
    assert not falls_back(one, "s1", run.step("s1"))
    run = given(*accepted(one), MapResolved(path="s1", items=Labelled(value=[1])), *failed(LOST, "s1[0]"))
    assert falls_back(one, "s1[0]", run.step("s1[0]"))


SKIPPED = StepSkipped(path="s1", cause="failure")


def test_nothing_takes_the_place_of_a_call_that_may_have_happened(given: Given, accepted: Accepted) -> None:
    write = step(use="files.write", args={"path": "a", "text": "x"}, on_error={"fallback": "files.append"})
    doubt = StepInDoubt(path="s1", reason="no answer")
    events = (*accepted(write), *called())
    told = given(*events, doubt, StepFailed(path="s1", fault=UNKNOWN))
    again = given(*events, doubt, *called(attempt=2), StepFailed(path="s1", fault=LOST))
    left = given(*events, doubt, *called(attempt=2), StepFailed(path="s1", fault=LOST), SKIPPED)
    assert is_undecided(left.step("s1"))
    for run in (told, again):
        assert is_undecided(run.step("s1"))
        assert not falls_back(write, "s1", run.step("s1"))
    for run in (given(*events, StepFailed(path="s1", fault=LOST)), given(*events, doubt, *called(attempt=2))):
        assert not is_undecided(run.step("s1"))
    look = step(on_error={"fallback": "text.upper"})
    run = given(*accepted(look), *called(), doubt, *called(attempt=2), StepFailed(path="s1", fault=LOST))
    assert falls_back(look, "s1", run.step("s1"))


def test_only_a_resolved_map_has_items(given: Given, accepted: Accepted) -> None:
    map_ = step(for_each=[1, 2, 3])
    run = given(*accepted(map_))
    assert (item_count(run.step("s1")), item_paths(run, "s1")) == (0, [])
    run = given(*accepted(map_), MapResolved(path="s1", items=Labelled(value=[1, 2, 3])))
    assert item_paths(run, "s1") == ["s1[0]", "s1[1]", "s1[2]"]


def test_without_a_plan_nothing_failed(given: Given, started: Started) -> None:
    assert list(failures_of(given(started()))) == []


# the run


def test_a_run_waits_for_people_events_times_and_other_runs_unless_something_is_under_way(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    other = step(id="s2")
    waits = {
        "human.user": HumanAsked(path="s1", question="answer", reason=""),
        "wait.event": WaitStarted(path="s1", name="paid"),
    }
    for use, event in waits.items():
        begun = (*accepted(Step(id="s1", use=use), other, callees=every), StepResolved(path="s1"), event)
        assert given(*begun).status == "waiting"
        assert given(*begun, *called("s2")).status == "running"
    begun = (*accepted(GOAL, other, callees=every), *called(), StepParked(path="s1"))
    assert given(*begun).status == "waiting"
    assert not in_flight(given(*begun))
    assert given(*begun, PauseRequested(by="ann")).status == "paused"


def test_the_next_timer_is_the_earliest(given: Given, accepted: Accepted, every: Callees) -> None:
    wait = Step(id="s2", use="wait.until", args={"seconds": 5})
    again = step(on_error={"retry": 1})
    begun = accepted(again, wait, callees=every)
    assert given(*begun).due() is None
    late, soon = AT + timedelta(days=1), AT + timedelta(hours=1)
    waiting = (StepResolved(path="s2"), WaitStarted(path="s2", until=late))
    assert given(*begun, *waiting).due() == late
    assert given(*begun, *waiting, *failed(), RetryScheduled(path="s1", attempt=1, due=soon)).due() == soon


# what is called


def test_the_callee_at_a_path_is_that_of_its_step_or_nothing(
    given: Given, started: Started, accepted: Accepted
) -> None:
    run = given(*accepted(READ, Step(id="s2", let=1)))
    assert [callee_at(run, path) for path in ("s1", "s1[3]")] == ["files.read", "files.read"]
    assert [callee_at(run, path) for path in ("s2", "s9", "")] == ["", "", ""]
    callee = callee_of(run, "s1")
    assert callee is not None
    assert (callee.name, callee_of(run, "s2")) == ("files.read", None)
    assert callee_at(given(started()), "s1") == ""


@pytest.mark.parametrize(
    ("name", "data", "is_taken"),
    [
        ("paid", {"order": 7, "by": "ann"}, True),
        ("paid", {"order": 8}, False),
        ("paid", {}, False),
        ("paid", [7], False),
        ("sent", {"order": 7}, False),
    ],
)
def test_a_waiting_step_takes_the_event_it_named_with_the_fields_it_wants(
    name: str, data: Json, is_taken: bool
) -> None:
    event = EventReceived(name=name, data=data)
    assert takes(StepState(status="waiting", wanted=("paid", {"order": 7})), event) is is_taken
    assert not takes(StepState(status="waiting"), event)


def test_a_field_that_is_to_be_null_must_be_there() -> None:
    wants = StepState(status="waiting", wanted=("paid", {"by": None}))
    assert takes(wants, EventReceived(name="paid", data={"by": None}))
    assert not takes(wants, EventReceived(name="paid", data={}))
    assert takes(StepState(status="waiting", wanted=("paid", {})), EventReceived(name="paid"))


# budgets


BLOCKS = Step.model_validate(
    {
        "id": "s1",
        "for_each": [1],
        "budget": {"calls": 9},
        "do": [
            {"id": "t1", "use": "agent.writer", "args": {"task": "x"}, "budget": {"calls": 3}},
            {"id": "t2", "use": "agent.writer", "args": {"task": "y"}},
        ],
    }
)


def test_a_call_counts_towards_its_agent_its_step_and_the_blocks_around(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    agents = {"agent.writer": Budget(calls=5)}
    run = given(
        *accepted(BLOCKS, callees=every, agents=agents, budget=Budget(calls=20)),
        MapResolved(path="s1", items=Labelled(value=[1])),
        BlockEntered(path="s1[0]"),
        *called("s1[0]/t1"),
    )
    assert accounts_of(run, "s1[0]/t1") == ("agent.writer", "step:t1", "step:s1")
    assert accounts_of(run, "s1[0]/t2") == ("agent.writer", "step:s1")
    assert account(run, "") == (Budget(calls=20), run.spent)
    used = Spent(calls=1)
    assert account(run, "agent.writer") == (Budget(calls=5), used)
    assert account(run, "step:t1") == (Budget(calls=3), used)
    assert account(run, "step:s1") == (Budget(calls=9), used)
    assert account(run, "step:s9") == (UNLIMITED, Spent())


def test_before_there_is_a_plan_a_call_counts_towards_the_run_alone(given: Given, started: Started) -> None:
    run = given(started())
    assert (accounts_of(run, "s1"), account(run, "step:s1")) == ((), (UNLIMITED, Spent()))


def test_what_calls_under_way_may_yet_use_is_held_for_their_accounts(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    writer = Step(id="s1", use="agent.writer", args={"task": "x"}, budget=Budget(calls=2))
    fetch = Step(id="s2", use="web.fetch", args={"url": "http://h"})
    run = given(
        *accepted(writer, fetch, callees=every),
        *called("s1", held=Amount(cost_usd=2.0, tokens=100)),
        *called("s2", held=Amount(cost_usd=0.5)),
    )
    held = holds(run)
    assert held == {
        "s1": Amount(cost_usd=2.0, tokens=100, calls=0),
        "s2": Amount(cost_usd=0.0, calls=0),
    }
    assert held_in(run, "", held) == Amount(cost_usd=2.0, tokens=100, calls=0)
    assert held_in(run, "step:s1", held) == held["s1"]
    assert held_in(run, "step:s2", held) == Amount(calls=0)
    ended = StepSucceeded(path="s2", value=Labelled())
    assert set(holds(given(*accepted(fetch, callees=every), *called("s2"), ended))) == set()


def test_a_nested_run_holds_its_part_until_it_has_ended(given: Given, accepted: Accepted, every: Callees) -> None:
    part = Amount(cost_usd=None, tokens=50, calls=4)
    begun = (*accepted(GOAL, callees=every), *called(held=part), StepParked(path="s1"))
    assert holds(given(*begun)) == {"s1": Amount(cost_usd=None, tokens=50, calls=3)}
    assert holds(given(*begun[:-1], StepFailed(path="s1", fault=LOST))) == {}


def test_a_skipped_step_neither_failed_nor_holds_anything(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ), StepSkipped(path="s1", cause="condition"))
    assert (has_ended(run, READ, "s1"), has_failed(run, READ, "s1"), holds(run)) == (True, False, {})
    assert run.plan == Plan(steps=(READ,))


# words ------------------------------------------------------------------------------------------------------------


def test_the_principal_said_the_goal_and_the_corrections_but_not_what_a_plan_handed_on(
    given: Given, started: Started
) -> None:
    said = Steered(by="user", text="and to ann@x.org")
    assert given(started(goal="Send it"), said).words == "Send it\nand to ann@x.org"
    handed = started(goal="Send it to eve@x.org").model_copy(update={"parent": Parent(run_id="r0", path="s1")})
    assert "eve@x.org" not in given(handed, said).words
