"""What the next plan of a run begins with that a planner made after a failure; see also `test_core_correction`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.correction import (
    stale_steps,
)
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlanProposed,
    Recorded,
    RunStarted,
    StepFailed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    UndoBegan,
)
from planner.core.labels import Json, Labelled
from planner.core.plan import Plan, Step
from planner.core.run import Run, kept_steps
from planner.core.state import evolve

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]
Callees: TypeAlias = tuple[Callee, ...]

LOST = Fault(code="T-1", error_class="missing")
PASS = Certificate()


def then(run: Run, *events: Event) -> Run:
    for event in events:
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=run.at, event=event))
    return run


def value(value: Json = 1) -> Labelled:
    return Labelled(value=value)


def step(id_: str, use: str = "files.read", args: dict[str, Json] | None = None, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use, "args": args or {"path": id_}} | fields)


def put(id_: str, name: Json, **fields: Any) -> Step:
    return step(id_, "store.put", {"name": name, "text": "x"}, **fields)


def called(path: str, key: str = "", **arguments: Json) -> tuple[Event, ...]:
    """A call under way."""
    resolved = StepResolved(path=path, arguments=Labelled(value=arguments))
    return resolved, StepStarted(path=path, attempt=1, key=key or f"k-{path}")


def made(path: str, key: str = "", **arguments: Json) -> tuple[Event, ...]:
    """A call that succeeded."""
    return (*called(path, key, **arguments), StepSucceeded(path=path, value=value()))


def abandoned(run: Run, reason: str = "why") -> Run:
    return then(run, PlanAbandoned(revision=run.revision + 1, reason=reason))


def passed(run: Run, plan: Plan) -> Run:
    return then(run, PlanAccepted(revision=run.revision, plan=plan, certificate=PASS))


def continued(run: Run, *fresh: Step) -> Run:
    """The run under a planner's next plan: the kept steps, then fresh ones."""
    plan = Plan(steps=(*kept_steps(run), *fresh))
    run = abandoned(run)
    return passed(then(run, PlanProposed(revision=run.revision, attempt=1, plan=plan)), plan)


# replans -----------------------------------------------------------------------------------------------------


def test_a_replan_keeps_what_succeeded_and_forgets_what_did_not(given: Given, accepted: Accepted) -> None:
    steps = [step(f"s{n}", "files.append", {"path": f"{n}", "text": "x"}) for n in (1, 2, 3)]
    run = given(*accepted(*steps), StepSucceeded(path="s1", value=value()), StepFailed(path="s2", fault=LOST))
    run = continued(run, steps[1].model_copy(update={"id": "s4"}))
    assert set(run.steps) == {"s1"}
    assert [(f.path, f.step, f.fault) for f in run.failures] == [("s2", steps[1], LOST)]


def test_a_replan_keeps_what_the_kept_steps_read_or_waited_for(given: Given, accepted: Accepted) -> None:
    skip = {"then": "skip"}
    steps = [
        step("s1", on_error=skip),
        Step.model_validate({"id": "s2", "if": "1 > 2", "let": 1}),
        Step(id="s3", for_each=[], let="$item"),
        Step(id="s4", let="${s1 ?? 0}", after=("s2", "s3")),
        step("s5"),
        step("s6", on_error=skip),
    ]
    run = given(
        *accepted(*steps),
        StepFailed(path="s1", fault=LOST),
        StepSkipped(path="s2", cause="condition"),
        MapResolved(path="s3", items=value([])),
        StepSucceeded(path="s4", value=value(0)),
        StepFailed(path="s5", fault=LOST),
        StepFailed(path="s6", fault=LOST),
    )
    assert [step.id for step in kept_steps(run)] == ["s1", "s2", "s3", "s4"]
    assert {p: s.status for p, s in continued(run).steps.items()} == {
        "s1": "failed",
        "s2": "skipped",
        "s3": "mapped",
        "s4": "succeeded",
    }
    assert [failure.path for failure in abandoned(run).failures] == ["s5"]


def half_done(use: str, **fields: object) -> tuple[Step, tuple[Event, ...]]:
    """A map over three items, of which one succeeded, one failed and one was filtered out."""
    map_ = step("s1", use, {"path": "$item"}, for_each=[1, 2, 3], **fields)
    events = (
        MapResolved(path="s1", items=value([1, 2, 3])),
        StepSucceeded(path="s1[0]", value=value()),
        StepFailed(path="s1[1]", fault=LOST),
        StepSkipped(path="s1[2]", cause="condition"),
    )
    return map_, events


def test_the_items_of_an_effect_that_succeeded_are_kept_and_the_failed_one_may_run_again(
    given: Given, accepted: Accepted
) -> None:
    map_, events = half_done("files.append")
    run = continued(given(*accepted(map_), *events))
    assert {path: state.status for path, state in run.steps.items()} == {
        "s1": "mapped",
        "s1[0]": "succeeded",
        "s1[2]": "skipped",
    }


def test_an_item_that_the_plan_went_on_without_stays_lost(given: Given, accepted: Accepted) -> None:
    map_, events = half_done("files.read", on_item_error="drop")
    assert continued(given(*accepted(map_), *events)).step("s1[1]").status == "failed"


def test_a_map_that_only_looked_and_lost_an_item_is_left_to_the_next_plan(given: Given, accepted: Accepted) -> None:
    map_, events = half_done("files.read")
    run = given(*accepted(map_), *events)
    assert kept_steps(run) == ()
    assert continued(run, map_).steps == {}


def test_a_step_of_the_next_plan_that_only_has_the_id_of_an_old_one_is_new(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(Step(id="s1", for_each=[], let="$item")), MapResolved(path="s1", items=value([])))
    assert continued(run, step("s1")).steps == {}
    run = abandoned(given(*accepted(step("s1")), StepSucceeded(path="s1", value=value())))
    other = Plan(steps=(step("s1", args={"path": "b"}),))
    proposed = PlanProposed(revision=2, attempt=1, plan=other)
    assert passed(then(run, proposed), other).steps == {}


def test_without_a_plan_no_step_is_kept(given: Given, started: Started) -> None:
    assert kept_steps(given(started())) == ()
    assert stale_steps(given(started()), Plan()) == frozenset()


def test_a_call_whose_place_another_took_is_kept_with_that_one(given: Given, accepted: Accepted) -> None:
    first = step("s1", on_error={"fallback": "text.upper"})
    later = Step(id="s2", let="$s1")
    events = (*called("s1"), StepFailed(path="s1", fault=LOST), StepSucceeded(path="s1~fallback", value=value()))
    run = given(*accepted(first, later, step("s3")), *events, StepSucceeded(path="s2", value=value()))
    again = continued(then(run, StepFailed(path="s3", fault=LOST)), step("s4"))
    assert set(again.steps) == {"s1", "s1~fallback", "s2"}
    lost = given(*accepted(first, step("s3")), *events[:-1], StepFailed(path="s1~fallback", fault=LOST))
    assert continued(lost, step("s4")).steps == {}


BLOCK = Step.model_validate(
    {
        "id": "s1",
        "do": [
            {"id": "t1", "use": "store.put", "args": {"name": "a", "text": "x"}},
            {"id": "t2", "use": "files.read", "args": {"path": "b"}},
        ],
    }
)


def test_of_a_block_that_failed_what_succeeded_is_kept(given: Given, accepted: Accepted, every: Callees) -> None:
    events = (BlockEntered(path="s1"), *made("s1/t1"), StepFailed(path="s1/t2", fault=LOST))
    run = given(*accepted(BLOCK, callees=every), *events, StepFailed(path="s1", fault=LOST))
    assert [held.id for held in kept_steps(run)] == ["s1"]
    assert set(continued(run).steps) == {"s1/t1"}
    run = given(*accepted(BLOCK, callees=every), *events)
    assert {path: state.status for path, state in continued(run).steps.items()} == {
        "s1": "entered",
        "s1/t1": "succeeded",
    }


def test_a_planner_may_want_finished_steps_taken_back_with_what_was_made_from_them(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = (put("s1", "a"), Step(id="s2", let="$s1"), put("s3", "c"), step("s4"))
    done = (*made("s1", name="a"), StepSucceeded(path="s2", value=value()), *made("s3", name="c"))
    run = given(*accepted(*steps, callees=every), *done, StepFailed(path="s4", fault=LOST))
    plan = Plan(steps=(steps[2],), undo=("s1",))
    run = then(abandoned(run), PlanProposed(revision=2, attempt=1, plan=plan))
    assert stale_steps(run, plan) == {"s1", "s2"}
    run = passed(then(run, UndoBegan(paths=("s1",))), plan)
    assert set(run.steps) == {"s3", "s1~undo"}
