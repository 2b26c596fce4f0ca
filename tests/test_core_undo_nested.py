"""Nested runs are taken back with the run that they are a part of; see also `test_core_undo`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import AskHuman, Call, Command, Record
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    BudgetRefused,
    CancelRequested,
    Event,
    Fault,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlanProposed,
    Recorded,
    RunFinished,
    RunResumed,
    StepFailed,
    StepNudged,
    StepParked,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoBegan,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import ONE_CALL, Budget
from planner.core.plan import Plan, Step
from planner.core.run import Run
from planner.core.state import evolve
from planner.errors import JournalError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Callees: TypeAlias = tuple[Callee, ...]

LOST = Fault(code="T-1", error_class="missing")
CANCEL = CancelRequested(by="ann")
RESUMED = RunResumed(owner="p2")


def then(run: Run, *events: Event) -> Run:
    for event in events:
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=run.at, event=event))
    return run


def step(id_: str, use: str = "store.put", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


def called(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    resolved = StepResolved(path=place, arguments=Labelled(value=arguments))
    return resolved, StepStarted(path=place, attempt=1, key=f"k-{place}")


def gave(path: str) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled())


def made(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    return (*called(place, **arguments), gave(place))


def undone(*paths: str) -> list[Event]:
    """All that happens while these are taken back."""
    pairs = [(StepStarted(path=f"{p}~undo", attempt=1, key=f"k-{p}-undo"), gave(f"{p}~undo")) for p in paths]
    return [event for pair in pairs for event in pair]


def all_undone(run: Run) -> Run:
    """The run when every call that it makes now has succeeded."""
    while isinstance(call := the(decide(run)), Call):
        run = then(run, StepStarted(path=call.path, attempt=call.attempt, key=call.key), gave(call.path))
    return run


def the(commands: tuple[Command, ...]) -> Command:
    (command,) = commands
    return command


def ended(run: Run) -> RunFinished:
    command = the(decide(run))
    assert isinstance(command, Record)
    assert isinstance(command.event, RunFinished)
    return command.event


def refused(run: Run, event: Event) -> str:
    with pytest.raises(JournalError, match="J-204") as caught:
        then(run, event)
    return caught.value.message


def test_a_nested_run_takes_back_its_part_whatever_became_of_it(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    for events in ((StepParked(path="s1"),), (gave("s1"),), (StepFailed(path="s1", fault=LOST),), (RESUMED,)):
        run = given(*accepted(step("s1", "plan.goal"), callees=every), *called("s1"), *events, CANCEL)
        began = UndoBegan(paths=("s1",))
        assert the(decide(run)) == Record(began)
        (call,) = decide(then(run, began))
        assert isinstance(call, Call)
        assert (call.path, call.callee, call.held) == ("s1~undo", "plan.goal", ONE_CALL)


def test_a_nested_run_that_takes_its_time_to_take_back_may_park(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("s1", "plan.goal"), callees=every), *made("s1"), CANCEL, UndoBegan(paths=("s1",)))
    run = given(*begun, undone("s1")[0], StepParked(path="s1~undo"))
    assert decide(run) == ()
    again = the(decide(then(run, StepNudged(path="s1~undo"))))
    assert isinstance(again, Call)
    assert again.path == "s1~undo"


def test_of_a_nested_run_that_failed_and_what_took_its_place_the_latter_is_taken_back(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    goal = step("s1", "plan.goal", on_error={"fallback": "store.put"})
    failed = (*called("s1"), StepFailed(path="s1", fault=LOST))
    run = given(*accepted(goal, callees=every), *failed, *made("s1~fallback"), CANCEL)
    assert the(decide(run)) == Record(UndoBegan(paths=("s1~fallback",)))
    end = ended(all_undone(then(run, UndoBegan(paths=("s1~fallback",)))))
    assert (end.undone, [one.path for one in end.left]) == (("s1",), ["s1"])


PARKED = (*called("s1"), StepParked(path="s1"))
READS = step("s2", "files.read", args={"path": "a"})


@pytest.mark.parametrize("nudge", [(), (StepNudged(path="s1"),), (RESUMED,)])
def test_a_nested_run_that_waits_is_taken_back_when_the_plan_fails(
    nudge: tuple[Event, ...], given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = accepted(step("s1", "plan.goal"), READS, callees=every, is_given=True, budget=Budget(calls=1))
    run = given(*begun, *PARKED, StepFailed(path="s2", fault=LOST), *nudge)
    began = UndoBegan(paths=("s1",))
    assert the(decide(run)) == Record(began)
    run = all_undone(then(run, began))
    end = ended(run)
    assert (end.status, end.fault, end.left) == ("failed", LOST, ())
    assert refused(run, began).endswith("is taken back already")


def test_a_nested_run_that_waits_is_taken_back_when_the_block_around_it_has_ended(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    inner = {"id": "u1", "use": "plan.goal", "args": {"goal": "x"}}
    held = [{"id": "t1", "do": [inner]}, {"id": "t2", "use": "files.read", "args": {"path": "a"}}]
    block = Step.model_validate({"id": "s1", "do": held, "on_error": {"then": "skip"}})
    asks = step("s2", "human.user", args={"question": "which?"})
    run = given(
        *accepted(block, asks, callees=every),
        BlockEntered(path="s1"),
        BlockEntered(path="s1/t1"),
        *called("s1/t1/u1"),
        StepParked(path="s1/t1/u1"),
        StepResolved(path="s1/t2"),
        StepResolved(path="s2"),
        HumanAsked(path="s2", question="answer", reason="which?"),
    )
    assert decide(run) == (AskHuman("s2"),)
    run = then(run, StepFailed(path="s1/t2", fault=LOST), StepFailed(path="s1", fault=LOST))
    assert the(decide(run)) == Record(UndoBegan(paths=("s1/t1/u1",)))
    run = then(run, UndoBegan(paths=("s1/t1/u1",)), *undone("s1/t1/u1"))
    assert decide(run) == (AskHuman("s2"),)
    assert decide(then(run, StepNudged(path="s1/t1/u1"))) == (AskHuman("s2"),)


def test_a_nested_run_that_waits_is_taken_back_when_the_budget_is_used_up(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = (step("s1", "plan.goal", budget={"calls": 1}), step("s2", "text.upper", args={"text": "x"}))
    run = given(*accepted(*steps, callees=every, budget=Budget(calls=1)), *PARKED, StepResolved(path="s2"))
    over = BudgetRefused(account="run", reason="1 of 1 calls are made")
    assert the(decide(run)) == Record(over)
    run = then(run, over)
    assert the(decide(run)) == Record(UndoBegan(paths=("s1",)))
    end = ended(then(run, UndoBegan(paths=("s1",)), *undone("s1")))
    assert (end.status, end.reason) == ("over_budget", "run: 1 of 1 calls are made")


def test_of_a_map_of_nested_runs_only_the_one_that_was_taken_back_runs_again(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    goals = step("s1", "plan.goal", for_each=["a", "b"], args={"goal": "$item"})
    listed = MapResolved(path="s1", items=Labelled(value=["a", "b"]))
    waiting = (*called("s1[1]"), StepParked(path="s1[1]"))
    run = given(*accepted(goals, READS, callees=every), listed, *made("s1[0]"), *waiting)
    run = then(run, StepFailed(path="s2", fault=LOST))
    assert the(decide(run)) == Record(UndoBegan(paths=("s1[1]",)))
    run = then(run, UndoBegan(paths=("s1[1]",)), *undone("s1[1]"))
    again = Plan(steps=(goals,))
    run = then(run, PlanAbandoned(revision=2, reason=""), PlanProposed(revision=2, attempt=1, plan=again))
    run = then(run, PlanAccepted(revision=2, plan=again, certificate=Certificate()))
    assert set(run.steps) == {"s1", "s1[0]", "s1[1]~undo"}


@pytest.mark.parametrize("path", ["s1", "s1~undo"])
def test_a_nudge_goes_to_what_is_being_taken_back(
    path: str, given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("s1", "plan.goal"), callees=every), *made("s1"), CANCEL, UndoBegan(paths=("s1",)))
    run = given(*begun, undone("s1")[0], StepParked(path="s1~undo"))
    assert then(run, StepNudged(path=path)).step("s1~undo").status == "interrupted"
    assert "which is no step of the plan" in refused(given(*begun[:-2]), StepNudged(path="s1"))
