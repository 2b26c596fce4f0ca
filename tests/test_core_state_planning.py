"""How a run gets its plan, and how its outcome is reviewed; the rest is in `test_core_state`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate, Problem
from planner.core.events import (
    CancelRequested,
    Event,
    Fault,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunResumed,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from planner.core.labels import Json, Labelled
from planner.core.plan import Plan, Step
from planner.core.run import Run
from planner.core.state import evolve
from planner.errors import JournalError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]
Callees: TypeAlias = tuple[Callee, ...]

DOWN = Fault(code="T-2", error_class="unavailable")
READ = Step(id="s1", use="files.read", args={"path": "a"})
PLAN = Plan(steps=(READ,))
PASS = Certificate()


def then(run: Run, *events: Event, wait: float = 1) -> Run:
    for event in events:
        at = run.at + timedelta(seconds=wait)
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=at, event=event))
    return run


def refused(run: Run, event: Event) -> JournalError:
    """The refusal; the run is as it was."""
    before = deepcopy(run)
    with pytest.raises(JournalError) as caught:
        then(run, event)
    assert run == before
    return caught.value


def value(value: Json = 1) -> Labelled:
    return Labelled(value=value)


def step(use: str, id_: str = "s1", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


RESOLVED = StepResolved(path="s1", arguments=value({"path": "a"}))
STARTED = StepStarted(path="s1", attempt=1, key="k")
DOUBT = StepInDoubt(path="s1", reason="no answer")
FAILED = StepFailed(path="s1", fault=DOWN, attempt=1)
SUCCEEDED = StepSucceeded(path="s1", value=value())
RESUMED = RunResumed(owner="p2")
CANCEL = CancelRequested(by="ann")


# planning ----------------------------------------------------------------------------------------------------

PROPOSED = PlanProposed(revision=1, attempt=1, plan=PLAN)
REJECTED = PlanRejected(revision=1, attempt=1, problems=(Problem(code="P-1", message="no"),))
ACCEPTED = PlanAccepted(revision=1, plan=PLAN, certificate=PASS)
UNREACHED = PlannerFailed(revision=1, attempt=1, fault=DOWN)


def codes(run: Run, *events: Event) -> set[str]:
    return {refused(run, event).code for event in events}


def test_a_planner_answers_and_its_plan_is_checked_in_turn(given: Given, started: Started) -> None:
    run = given(started())
    assert codes(run, REJECTED, ACCEPTED) == {"J-204"}
    run = then(run, PROPOSED)
    assert codes(run, PROPOSED, UNREACHED) == {"J-204"}
    assert then(run, REJECTED).rejected == (REJECTED.problems,)
    assert codes(then(run, REJECTED), REJECTED, ACCEPTED) == {"J-204"}
    assert then(run, ACCEPTED).phase == "executing"


def test_a_plan_that_came_with_the_goal_is_checked_once_and_no_planner_asked(given: Given, started: Started) -> None:
    run = given(started(plan=PLAN))
    assert codes(run, PROPOSED, UNREACHED) == {"J-204"}
    assert then(run, ACCEPTED).phase == "executing"
    assert codes(then(run, REJECTED), ACCEPTED) == {"J-204"}


@pytest.mark.parametrize("event", [PROPOSED, UNREACHED])
def test_an_answer_for_another_revision_is_illegal(event: Any, given: Given, started: Started) -> None:
    assert codes(given(started()), event.model_copy(update={"revision": 2})) == {"J-204"}


@pytest.mark.parametrize("event", [PROPOSED, REJECTED, ACCEPTED, UNREACHED])
def test_nothing_is_planned_while_a_plan_is_carried_out(event: Event, given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ))
    assert codes(run, event) == {"J-204"}
    assert codes(then(run, SUCCEEDED, ReviewPassed(criteria=())), event) == {"J-204"}


@pytest.mark.parametrize("event", [RESOLVED, ReviewPassed(criteria=()), PlanAbandoned(revision=2, reason="")])
def test_nothing_is_carried_out_or_given_up_before_there_is_a_plan(
    event: Event, given: Given, started: Started
) -> None:
    assert codes(given(started()), event) == {"J-204"}


def test_a_planner_that_could_not_be_reached_is_forgotten_once_it_answers(given: Given, started: Started) -> None:
    run = given(started(), UNREACHED)
    assert (run.planner_fault, run.attempt) == (DOWN, 1)
    run = then(run, PROPOSED.model_copy(update={"attempt": 2}))
    assert (run.planner_fault, run.attempt) == (None, 2)
    assert (then(run, ACCEPTED).attempt, then(run, ACCEPTED).proposal) == (0, None)


# reviews -----------------------------------------------------------------------------------------------------


def test_a_review_is_remembered_with_what_it_found_unmet(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ), SUCCEEDED)
    failed = then(run, ReviewFailed(criteria=("c1",)))
    assert (failed.phase, failed.review, failed.unmet) == ("reviewing", "failed", ("c1",))
    unsure = then(run, ReviewInconclusive(criteria=("c2",)))
    assert (unsure.review, unsure.unmet) == ("inconclusive", ("c2",))
    assert codes(unsure, ReviewPassed(criteria=())) == {"J-204"}


MAP = step("files.read", for_each=[1, 2], on_item_error="drop")


@pytest.mark.parametrize(
    ("held", "events", "is_over"),
    [
        (READ, (), False),
        (READ, (RESOLVED, STARTED), False),
        (READ, (RESOLVED, STARTED, FAILED), False),
        (READ, (StepSkipped(path="s1", cause="condition"),), True),
        (step("files.read", on_error={"then": "skip"}), (RESOLVED, STARTED, FAILED), True),
        (step("files.read", on_error={"retry": 1, "then": "skip"}), (RESOLVED, STARTED, FAILED), False),
        (MAP, (MapResolved(path="s1", items=value([1, 2])),), False),
        (
            MAP,
            (
                MapResolved(path="s1", items=value([1, 2])),
                StepSucceeded(path="s1[0]", value=value()),
                StepFailed(path="s1[1]", fault=DOWN),
            ),
            True,
        ),
    ],
)
def test_only_what_was_carried_out_is_reviewed(
    held: Step, events: tuple[Event, ...], is_over: bool, given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(held), *events)
    for review in (ReviewPassed(criteria=()), ReviewFailed(criteria=()), ReviewInconclusive()):
        if is_over:
            assert then(run, review).phase == "reviewing"
        else:
            assert refused(run, review).message.endswith("the plan has not been carried out")


def test_what_a_later_review_passes_is_unmet_no_more(given: Given, accepted: Accepted) -> None:
    done = (SUCCEEDED, ReviewFailed(criteria=("c1",)))
    run = then(given(*accepted(READ)), *done, PlanAbandoned(revision=2, reason=""))
    assert (run.review, run.unmet) == (None, ("c1",))
    again = {"revision": 2, "plan": PLAN}
    run = then(
        run, PROPOSED.model_copy(update=again), ACCEPTED.model_copy(update=again), ReviewPassed(criteria=("c1",))
    )
    assert (run.review, run.unmet) == ("passed", ())


def test_a_revision_follows_on_the_one_before(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ))
    assert codes(run, PlanAbandoned(revision=3, reason="")) == {"J-204"}
    run = then(run, PlanAbandoned(revision=2, reason="why"))
    assert (run.revision, run.phase) == (2, "planning")
