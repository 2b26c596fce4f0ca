"""That a history gives one run, in one piece or in two, is a law of its own, in `test_core_laws`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, get_args

import pytest

from planner.core.check import Certificate, Problem
from planner.core.events import (
    CancelRequested,
    ContentKept,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    RetryScheduled,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    Usage,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import Spent
from planner.core.moves import STEP_MOVES, StepEvent
from planner.core.plan import Plan, Step
from planner.core.run import Run, StepState, StepStatus, kept_steps
from planner.core.state import evolve, fold
from planner.errors import JournalError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]

AT = datetime(2026, 3, 1, tzinfo=UTC)
LOST = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")
PLAN = Plan(steps=(Step(id="s1", use="files.read", args={"path": "a"}),))
PASS = Certificate()


def then(run: Run, *events: Event, wait: int = 1) -> Run:
    for event in events:
        at = run.at + timedelta(seconds=wait)
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=at, event=event))
    return run


def refused(run: Run, event: Event) -> str:
    """The code of the refusal; the run is as it was."""
    before = deepcopy(run)
    with pytest.raises(JournalError) as caught:
        then(run, event)
    assert run == before
    return caught.value.code


def value(value: Json = 1) -> Labelled:
    return Labelled(value=value)


# steps -------------------------------------------------------------------------------------------------------

RESOLVED = StepResolved(path="s1", arguments=value({"path": "a"}))
STARTED = StepStarted(path="s1", attempt=1, key="k")
DOUBT = StepInDoubt(path="s1", reason="no answer")
ASKED = HumanAsked(path="s1", question="approve", reason="why")
YES = HumanAnswered(path="s1", answer="yes", by="ann")
FAILED = StepFailed(path="s1", fault=DOWN, attempt=1)
DUE = RetryScheduled(path="s1", attempt=1, due=AT)
SUCCEEDED = StepSucceeded(path="s1", value=value())
HISTORIES: Mapping[StepStatus, tuple[Event, ...]] = {
    "new": (),
    "resolved": (RESOLVED,),
    "mapped": (MapResolved(path="s1", items=value([1])),),
    "started": (RESOLVED, STARTED),
    "interrupted": (RESOLVED, STARTED, RunResumed(owner="p2")),
    "in_doubt": (RESOLVED, STARTED, DOUBT),
    "asked": (RESOLVED, ASKED),
    "answered": (RESOLVED, ASKED, YES),
    "failed": (RESOLVED, STARTED, FAILED),
    "retrying": (RESOLVED, STARTED, FAILED, DUE),
    "succeeded": (SUCCEEDED,),
    "skipped": (StepSkipped(path="s1", cause="condition"),),
}
STEP_EVENTS: tuple[Event, ...] = (
    RESOLVED,
    MapResolved(path="s1", items=value([1])),
    STARTED,
    ContentKept(path="s1", name="a", blob="b"),
    SUCCEEDED,
    FAILED,
    DOUBT,
    StepProbed(path="s1", happened=True),
    StepSkipped(path="s1", cause="condition"),
    DUE,
    TimerFired(path="s1"),
    ASKED,
    YES,
)


def test_every_status_and_every_event_of_a_step_is_tried_here() -> None:
    assert set(HISTORIES) == set(get_args(StepStatus))
    assert {type(event) for event in STEP_EVENTS} == set(get_args(StepEvent))


@pytest.mark.parametrize("event", STEP_EVENTS, ids=lambda event: event.type)
@pytest.mark.parametrize("status", HISTORIES)
def test_a_step_moves_as_the_table_says_or_not_at_all(
    status: StepStatus, event: Event, given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(*PLAN.steps), *HISTORIES[status])
    assert run.step("s1").status == status
    target = STEP_MOVES.get((status, event.type))
    if target is None:
        assert refused(run, event) == "J-204"
    else:
        assert then(run, event).step("s1").status == target


@pytest.mark.parametrize("status", HISTORIES)
def test_another_process_finds_what_was_under_way_interrupted(
    status: StepStatus, given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(*PLAN.steps), *HISTORIES[status])
    resumed = then(run, RunResumed(owner="p3")).step("s1").status
    assert resumed == ("interrupted" if status == "started" else status)


@pytest.mark.parametrize("path", ["s2", "s1[0]", "s1[", "", "inputs"])
def test_an_event_of_no_step_of_the_plan_is_illegal(path: str, given: Given, accepted: Accepted) -> None:
    assert refused(given(*accepted(*PLAN.steps)), StepSkipped(path=path, cause="condition")) == "J-204"


def test_the_items_of_a_map_are_steps_once_they_are_known(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(Step(id="s1", for_each=[1, 2], let="$item")))
    assert refused(run, StepSucceeded(path="s1[0]", value=value())) == "J-204"
    run = then(run, MapResolved(path="s1", items=value([1, 2])), StepSucceeded(path="s1[1]", value=value()))
    assert run.step("s1[1]").status == "succeeded"
    assert run.step("s1[0]") == StepState()
    assert refused(run, StepSucceeded(path="s1[2]", value=value())) == "J-204"


def test_a_step_remembers_what_its_events_say(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps), RESOLVED, STARTED)
    run = then(run, ContentKept(path="s1", name="a", blob="b1"), ContentKept(path="s1", name="b", blob=None))
    assert run.step("s1").kept == {"a": "b1", "b": None}
    assert (run.step("s1").arguments, run.step("s1").attempt, run.step("s1").key) == (RESOLVED.arguments, 1, "k")
    run = then(run, FAILED, DUE)
    assert (run.step("s1").fault, run.step("s1").failures, run.step("s1").due) == (DOWN, 1, AT)
    run = then(run, TimerFired(path="s1"), STARTED, SUCCEEDED)
    assert (run.step("s1").fault, run.step("s1").due, run.step("s1").value) == (None, None, value())
    assert run.step("s1").is_done


@pytest.mark.parametrize(("happened", "answer"), [(True, "yes"), (False, "no"), (None, None)])
def test_a_probe_answers_or_cannot_tell(
    happened: bool | None, answer: str | None, given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(*PLAN.steps), *HISTORIES["in_doubt"], StepProbed(path="s1", happened=happened))
    assert (run.step("s1").probed, run.step("s1").answer) == (True, answer)


def test_an_old_answer_does_not_settle_a_new_doubt(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps), RESOLVED, ASKED, YES, STARTED, DOUBT)
    assert (run.step("s1").answer, run.step("s1").probed, run.step("s1").doubts) == (None, False, 1)
    run = then(run, StepProbed(path="s1", happened=False), STARTED, DOUBT)
    assert (run.step("s1").answer, run.step("s1").probed, run.step("s1").doubts) == (None, False, 2)
    run = then(run, HumanAsked(path="s1", question="happened", reason="who knows"))
    assert (run.step("s1").question, run.step("s1").reason, run.step("s1").answer) == ("happened", "who knows", None)


# runs --------------------------------------------------------------------------------------------------------


def test_no_events_are_no_run() -> None:
    with pytest.raises(JournalError, match="J-201"):
        fold([])


def test_a_run_starts_once_and_first(given: Given, started: Started) -> None:
    with pytest.raises(JournalError, match="J-202"):
        given(RunResumed(owner="p1"))
    assert refused(given(started()), started()) == "J-202"


def test_nothing_happens_after_the_end(given: Given, started: Started) -> None:
    run = given(started(), RunFinished(status="failed"))
    assert (run.status, run.phase) == ("failed", "finished")
    assert refused(run, CancelRequested(by="ann")) == "J-203"


@pytest.mark.parametrize("status", ["running", "waiting"])
def test_a_run_does_not_end_as_running(status: Any, given: Given, started: Started) -> None:
    assert refused(given(started()), RunFinished(status=status)) == "J-203"


def test_a_run_waits_while_a_person_is_asked_and_its_plan_is_carried_out(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps), RESOLVED)
    assert run.status == "running"
    run = then(run, ASKED)
    assert run.status == "waiting"
    assert then(run, YES).status == "running"
    assert then(run, PlanAbandoned(revision=2, reason="why")).status == "running"


def test_a_cancelled_run_goes_on_until_it_has_ended(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps), RESOLVED, STARTED, CancelRequested(by="ann"))
    assert run.is_cancelled
    assert then(run, SUCCEEDED, RunFinished(status="cancelled")).status == "cancelled"


def test_what_was_used_is_counted_from_every_event_that_used_it(given: Given, accepted: Accepted) -> None:
    known = Usage(input_tokens=2, output_tokens=3, cost_usd=0.5)
    run = given(*accepted(*PLAN.steps), RESOLVED, STARTED)
    assert run.spent == Spent(unpriced=1, calls=1, seconds=4)
    run = then(run, StepSucceeded(path="s1", value=value(), usage=(known, known)), wait=10)
    assert run.spent == Spent(cost_usd=1.0, unpriced=1, tokens=10, calls=1, seconds=14)
    run = then(run, ReviewFailed(criteria=("c1",), usage=(known,)))
    assert run.spent.tokens == 15
    run = then(run, PlanAbandoned(revision=2, reason="why"))
    run = then(run, PlannerFailed(revision=2, attempt=1, fault=DOWN, usage=(known, Usage())))
    assert (run.spent.tokens, run.spent.unpriced) == (20, 2)
    assert then(run, PlanProposed(revision=2, attempt=2, plan=PLAN, usage=known)).spent.tokens == 25


# planning ----------------------------------------------------------------------------------------------------

PROPOSED = PlanProposed(revision=1, attempt=1, plan=PLAN)
REJECTED = PlanRejected(revision=1, attempt=1, problems=(Problem(code="P-1", message="no"),))
ACCEPTED = PlanAccepted(revision=1, plan=PLAN, certificate=PASS)
UNREACHED = PlannerFailed(revision=1, attempt=1, fault=DOWN)


def test_a_planner_answers_and_its_plan_is_checked_in_turn(given: Given, started: Started) -> None:
    run = given(started())
    assert {refused(run, event) for event in (REJECTED, ACCEPTED)} == {"J-204"}
    run = then(run, PROPOSED)
    assert {refused(run, event) for event in (PROPOSED, UNREACHED)} == {"J-204"}
    assert then(run, REJECTED).rejected == (REJECTED.problems,)
    assert {refused(then(run, REJECTED), event) for event in (REJECTED, ACCEPTED)} == {"J-204"}
    assert then(run, ACCEPTED).phase == "executing"


def test_a_plan_that_came_with_the_goal_is_checked_once_and_no_planner_asked(given: Given, started: Started) -> None:
    run = given(started(plan=PLAN))
    assert {refused(run, event) for event in (PROPOSED, UNREACHED)} == {"J-204"}
    assert then(run, ACCEPTED).phase == "executing"
    assert refused(then(run, REJECTED), ACCEPTED) == "J-204"


@pytest.mark.parametrize("event", [PROPOSED, UNREACHED])
def test_an_answer_for_another_revision_is_illegal(event: Any, given: Given, started: Started) -> None:
    assert refused(given(started()), event.model_copy(update={"revision": 2})) == "J-204"


@pytest.mark.parametrize("event", [PROPOSED, REJECTED, ACCEPTED, UNREACHED])
def test_nothing_is_planned_while_a_plan_is_carried_out(event: Event, given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps))
    assert refused(run, event) == "J-204"
    assert refused(then(run, ReviewPassed(criteria=())), event) == "J-204"


@pytest.mark.parametrize("event", [RESOLVED, ReviewPassed(criteria=()), PlanAbandoned(revision=2, reason="")])
def test_nothing_is_carried_out_or_given_up_before_there_is_a_plan(
    event: Event, given: Given, started: Started
) -> None:
    assert refused(given(started()), event) == "J-204"


def test_a_planner_that_could_not_be_reached_is_forgotten_once_it_answers(given: Given, started: Started) -> None:
    run = given(started(), UNREACHED)
    assert (run.planner_fault, run.attempt) == (DOWN, 1)
    run = then(run, PROPOSED.model_copy(update={"attempt": 2}))
    assert (run.planner_fault, run.attempt) == (None, 2)
    assert (then(run, ACCEPTED).attempt, then(run, ACCEPTED).proposal) == (0, None)


# reviews -----------------------------------------------------------------------------------------------------


def test_a_review_is_remembered_with_what_it_found_unmet(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps))
    failed = then(run, ReviewFailed(criteria=("c1",)))
    assert (failed.phase, failed.review, failed.unmet) == ("reviewing", "failed", ("c1",))
    unsure = then(run, ReviewInconclusive(criteria=("c2",)))
    assert (unsure.review, unsure.unmet) == ("inconclusive", ("c2",))
    assert refused(unsure, ReviewPassed(criteria=())) == "J-204"


def test_what_a_later_review_passes_is_unmet_no_more(given: Given, accepted: Accepted) -> None:
    run = then(given(*accepted(*PLAN.steps)), ReviewFailed(criteria=("c1",)), PlanAbandoned(revision=2, reason=""))
    assert (run.review, run.unmet) == (None, ("c1",))
    again = {"revision": 2, "plan": PLAN}
    run = then(
        run, PROPOSED.model_copy(update=again), ACCEPTED.model_copy(update=again), ReviewPassed(criteria=("c1",))
    )
    assert (run.review, run.unmet) == ("passed", ())


# replans -----------------------------------------------------------------------------------------------------


def abandoned(run: Run) -> Run:
    return then(run, PlanAbandoned(revision=run.revision + 1, reason="why"))


def continued(run: Run, *fresh: Step) -> Run:
    """The run under a next plan: the kept steps, then fresh ones."""
    plan = Plan(steps=(*kept_steps(run), *fresh))
    revision = run.revision + 1
    proposed = PlanProposed(revision=revision, attempt=1, plan=plan)
    return then(abandoned(run), proposed, PlanAccepted(revision=revision, plan=plan, certificate=PASS))


def test_a_revision_follows_on_the_one_before(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(*PLAN.steps))
    assert refused(run, PlanAbandoned(revision=3, reason="")) == "J-204"
    assert (abandoned(run).revision, abandoned(run).phase) == (2, "planning")


def test_a_replan_keeps_what_succeeded_and_forgets_what_did_not(given: Given, accepted: Accepted) -> None:
    steps = [Step(id=f"s{n}", use="files.append", args={"path": f"{n}", "text": "x"}) for n in (1, 2, 3)]
    run = given(*accepted(*steps), SUCCEEDED, StepFailed(path="s2", fault=LOST))
    run = continued(run, steps[1].model_copy(update={"id": "s4"}))
    assert set(run.steps) == {"s1"}
    assert [(f.path, f.step, f.fault) for f in run.failures] == [("s2", steps[1], LOST)]


def test_a_replan_keeps_what_the_kept_steps_read_or_waited_for(given: Given, accepted: Accepted) -> None:
    skip = {"on_error": {"then": "skip"}}
    steps = [
        Step.model_validate({"id": "s1", "use": "files.read", "args": {"path": "a"}} | skip),
        Step.model_validate({"id": "s2", "if": "1 > 2", "let": 1}),
        Step(id="s3", for_each=[], let="$item"),
        Step(id="s4", let="${s1 ?? 0}", after=("s2", "s3")),
        Step(id="s5", use="files.read", args={"path": "b"}),
        Step.model_validate({"id": "s6", "use": "files.read", "args": {"path": "c"}} | skip),
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
    step = Step.model_validate({"id": "s1", "use": use, "args": {"path": "$item"}, "for_each": [1, 2, 3]} | fields)
    events = (
        MapResolved(path="s1", items=value([1, 2, 3])),
        StepSucceeded(path="s1[0]", value=value()),
        StepFailed(path="s1[1]", fault=LOST),
        StepSkipped(path="s1[2]", cause="condition"),
    )
    return step, events


def test_the_items_of_an_effect_that_succeeded_are_kept_and_the_failed_one_may_run_again(
    given: Given, accepted: Accepted
) -> None:
    step, events = half_done("files.append")
    run = continued(given(*accepted(step), *events))
    assert {path: state.status for path, state in run.steps.items()} == {
        "s1": "mapped",
        "s1[0]": "succeeded",
        "s1[2]": "skipped",
    }


def test_an_item_that_the_plan_went_on_without_stays_lost(given: Given, accepted: Accepted) -> None:
    step, events = half_done("files.read", on_item_error="drop")
    assert continued(given(*accepted(step), *events)).step("s1[1]").status == "failed"


def test_a_map_that_only_looked_and_lost_an_item_is_left_to_the_next_plan(given: Given, accepted: Accepted) -> None:
    step, events = half_done("files.read")
    run = given(*accepted(step), *events)
    assert kept_steps(run) == ()
    assert continued(run, step).steps == {}


def test_a_step_of_the_next_plan_that_only_has_the_id_of_an_old_one_is_new(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(Step(id="s1", for_each=[], let="$item")), MapResolved(path="s1", items=value([])))
    assert continued(run, *PLAN.steps).steps == {}
    run = abandoned(given(*accepted(*PLAN.steps), SUCCEEDED))
    other = Plan(steps=(Step(id="s1", use="files.read", args={"path": "b"}),))
    proposed = PlanProposed(revision=2, attempt=1, plan=other)
    assert then(run, proposed, PlanAccepted(revision=2, plan=other, certificate=PASS)).steps == {}


def test_without_a_plan_no_step_is_kept(given: Given, started: Started) -> None:
    assert kept_steps(given(started())) == ()
