from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Record
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    RunFinished,
    RunResumed,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepResolved,
    StepStarted,
    StepSucceeded,
    Usage,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import ONE_CALL, Amount, Budget
from planner.core.plan import Step
from planner.core.run import Run
from planner.core.spending import Affordable, affordable

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Callees: TypeAlias = tuple[Callee, ...]

AGENT = Amount(cost_usd=1.0, tokens=50)


def step(id_: str, use: str = "files.read", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


def resolved(place: str, **arguments: Json) -> StepResolved:
    return StepResolved(path=place, arguments=Labelled(value=arguments))


def made(path: str, held: Amount = ONE_CALL, attempt: int = 1) -> StepStarted:
    return StepStarted(path=path, attempt=attempt, key=f"k-{path}", held=held)


def gave(path: str, *usage: Usage, calls: int = 0) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(), usage=usage, calls=calls)


def wanted(*paths: str, held: Amount = ONE_CALL) -> list[Call]:
    return [Call(path, "files.read", 1, "k", held=held) for path in paths]


def paths(able: Affordable) -> list[str]:
    return [command.path for command in able.commands if isinstance(command, Call)]


def test_calls_are_let_through_in_their_order_as_long_as_there_is_room(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step("s1"), step("s2"), step("s3"), budget=Budget(calls=2)))
    able = affordable(run, [AskHuman("s9"), *wanted("s1", "s2", "s3")])
    assert (paths(able), able.over, able.is_waiting) == (["s1", "s2"], None, True)
    assert able.commands[0] == AskHuman("s9")
    assert affordable(run, []) == Affordable(())


@pytest.mark.parametrize(
    ("budget", "room"),
    [
        (Budget(), 4),
        (Budget(calls=3), 3),
        (Budget(tokens=120), 2),
        (Budget(cost_usd=3.5), 3),
        (Budget(cost_usd=3.5, tokens=60), 1),
    ],
)
def test_what_the_first_ones_may_use_is_taken_from_what_the_next_ones_find(
    budget: Budget, room: int, given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(*(step(f"s{n}") for n in range(1, 5)), budget=budget, is_given=True))
    able = affordable(run, wanted("s1", "s2", "s3", "s4", held=AGENT))
    assert paths(able) == ["s1", "s2", "s3", "s4"][:room]


def test_no_room_beside_what_is_under_way_means_wait_and_none_at_all_means_the_end(
    given: Given, accepted: Accepted
) -> None:
    begun = (*accepted(step("s1"), step("s2"), budget=Budget(tokens=80), is_given=True), resolved("s1"))
    under_way = given(*begun, made("s1", AGENT))
    assert affordable(under_way, wanted("s2", held=AGENT)) == Affordable((), None, is_waiting=True)
    cheap = given(*begun, made("s1", AGENT), gave("s1", Usage(output_tokens=10, cost_usd=0.0)))
    assert paths(affordable(cheap, wanted("s2", held=AGENT))) == ["s2"]
    dear = given(*begun, made("s1", AGENT), gave("s1", Usage(output_tokens=40, cost_usd=0.0)))
    assert affordable(dear, wanted("s2", held=AGENT)) == Affordable(
        (), "40 of 80 tokens are used, and 50 may be needed"
    )


def test_an_agent_that_used_up_its_own_budget_ends_the_run(given: Given, accepted: Accepted, every: Callees) -> None:
    agents = {"agent.writer": Budget(calls=1)}
    steps = (step("s1", "agent.writer"), step("s2", "agent.writer"))
    begun = (*accepted(*steps, callees=every, agents=agents), resolved("s1", task="x"), resolved("s2", task="y"))
    assert paths(Affordable(decide(given(*begun)))) == ["s1"]
    (end,) = decide(given(*begun, made("s1"), gave("s1")))
    assert isinstance(end, Record)
    assert isinstance(end.event, RunFinished)
    assert (end.event.status, end.event.reason) == ("over_budget", "agent.writer: 1 of 1 calls are made")


MAP = step("s1", for_each=[1, 2], budget={"calls": 1}, on_item_error="drop")
ITEMS = (
    MapResolved(path="s1", items=Labelled(value=[1, 2])),
    resolved("s1[0]", path="1"),
    resolved("s1[1]", path="2"),
)


def test_a_step_that_used_up_its_own_budget_fails_and_the_plan_goes_on_if_it_may(
    given: Given, accepted: Accepted
) -> None:
    begun = (*accepted(MAP, step("s2")), *ITEMS)
    assert paths(Affordable(decide(given(*begun)))) == ["s1[0]"]
    (failed, next_) = decide(given(*begun, made("s1[0]"), gave("s1[0]")))
    fault = Fault(code="A-109", error_class="limit", message="s1: 1 of 1 calls are made")
    assert failed == Record(StepFailed(path="s1[1]", fault=fault))
    assert isinstance(next_, Record)


def test_a_block_has_a_budget_for_all_that_it_holds(given: Given, accepted: Accepted) -> None:
    held = [{"id": f"t{n}", "use": "files.read", "args": {"path": "a"}} for n in (1, 2)]
    block = Step.model_validate({"id": "s1", "budget": {"calls": 1}, "do": held})
    begun = (*accepted(block), BlockEntered(path="s1"), resolved("s1/t1", path="a"), resolved("s1/t2", path="a"))
    (failed,) = decide(given(*begun, made("s1/t1"), gave("s1/t1")))
    fault = Fault(code="A-109", error_class="limit", message="s1: 1 of 1 calls are made")
    assert failed == Record(StepFailed(path="s1/t2", fault=fault))
    events = (*begun, made("s1/t1"), gave("s1/t1"), StepFailed(path="s1/t2", fault=fault))
    (gone,) = decide(given(*events))
    assert gone == Record(StepFailed(path="s1", fault=fault))
    (end,) = decide(given(*events, StepFailed(path="s1", fault=fault)))
    assert end == Record(PlanAbandoned(revision=2, reason="step `s1` failed"))


@pytest.mark.parametrize(
    "doubt",
    [
        (RunResumed(owner="p2"),),
        (StepInDoubt(path="s1", reason=""),),
    ],
    ids=["crash", "silence"],
)
def test_a_call_that_may_have_happened_is_not_said_to_have_failed_for_want_of_room(
    doubt: tuple[Event, ...], given: Given, accepted: Accepted
) -> None:
    write = step("s1", "files.write", budget={"calls": 1})
    (end,) = decide(given(*accepted(write), resolved("s1", path="a"), made("s1"), *doubt))
    assert isinstance(end, Record)
    assert isinstance(end.event, RunFinished)
    assert (end.event.status, end.event.reason) == ("over_budget", "step:s1: 1 of 1 calls are made")


def test_a_call_that_a_person_says_did_not_happen_ends_the_run_where_there_is_no_room_for_it(
    given: Given, accepted: Accepted
) -> None:
    send = step("s1", "mail.send", budget={"calls": 1})
    doubt = StepInDoubt(path="s1", reason="")
    asked = HumanAsked(path="s1", question="happened", reason="")
    told = HumanAnswered(path="s1", answer="no", by="ann")
    (end,) = decide(given(*accepted(send), resolved("s1"), made("s1"), doubt, asked, told))
    assert isinstance(end, Record)
    assert isinstance(end.event, RunFinished)


def test_a_nested_run_that_goes_on_finds_what_it_holds(given: Given, accepted: Accepted, every: Callees) -> None:
    goal = step("s1", "plan.goal", budget={"calls": 3})
    begun = (*accepted(goal, step("s2"), callees=every, budget=Budget(calls=4)), resolved("s1", goal="x"))
    (first, _) = decide(given(*begun))
    assert isinstance(first, Call)
    assert (first.limits.calls, first.held.calls) == (2, 3)
    parked = (*begun, made("s1", first.held), StepParked(path="s1"), resolved("s2", path="a"))
    assert [c.path for c in decide(given(*parked)) if isinstance(c, Call)] == []
    free = [e for e in parked if not (isinstance(e, StepResolved) and e.path == "s2")]
    again = decide(given(*free, StepNudged(path="s1"), resolved("s2", path="a")))
    assert [c.path for c in again if isinstance(c, Call)] == ["s1"]
    (call, *_) = again
    assert isinstance(call, Call)
    assert (call.attempt, call.limits.calls) == (2, 2)
    done = (*parked, StepNudged(path="s1"), made("s1", call.held, 2), gave("s1", calls=2))
    assert given(*done).spent.calls == 3
