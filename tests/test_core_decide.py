"""Planning, settling, replanning and stopping; see also `test_core_decide_steps` and `test_core_decide_calls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import AskPlanner, AskValidator, Call, Record
from planner.core.decide import LADDER, decide
from planner.core.events import (
    CancelRequested,
    Event,
    Fault,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunStarted,
    StepFailed,
    StepResolved,
    StepStarted,
    StepSucceeded,
)
from planner.core.goal import Named
from planner.core.labels import UNTRUSTED, Json, Label, Labelled
from planner.core.ledger import Budget
from planner.core.plan import Plan, Step
from planner.core.policy import Policy, Verdict
from planner.core.run import Run
from planner.core.setup import Criterion

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]

READ = Step(id="s1", use="files.read", args={"path": "a"})
PLAN = Plan(steps=(READ,), answer="$s1")
BROKEN = Plan(steps=(READ.model_copy(update={"use": "files.burn"}),), answer="$s1")
LOST = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")
TEXT = Criterion(id="c1", kind="text", text="It is polite")


def step(id_: str, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": "files.read", "args": {"path": id_}} | fields)


def let(id_: str, value: Json, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "let": value} | fields)


def gave(path: str, value: Json = 1, label: Label = UNTRUSTED) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value, label=label))


def resolved(path: str) -> StepResolved:
    return StepResolved(path=path, verdict=Verdict(then="allow", rules=("all",)))


def recorded(run: Run) -> list[Event]:
    """What is decided, all of which is recorded at once."""
    commands = decide(run)
    events = [command.event for command in commands if isinstance(command, Record)]
    assert len(events) == len(commands), commands
    return events


def ended(run: Run) -> RunFinished:
    (event,) = recorded(run)
    assert isinstance(event, RunFinished)
    return event


# planning ----------------------------------------------------------------------------------------------------


def proposed(plan: Plan | None, attempt: int = 1, revision: int = 1) -> PlanProposed:
    return PlanProposed(revision=revision, attempt=attempt, plan=plan)


def test_a_goal_is_given_to_the_planner_with_the_callees_on_offer(
    given: Given, started: Started, callees: tuple[Callee, ...]
) -> None:
    assert decide(given(started())) == (
        AskPlanner(revision=1, attempt=1, temperature=0.0, callees=tuple(callee.name for callee in callees)),
    )
    (ask,) = decide(given(started("Append it", offered_callees=2, always=("mail.send",))))
    assert isinstance(ask, AskPlanner)
    assert ask.callees == ("mail.send", "files.append")


def test_a_good_plan_is_accepted_and_a_bad_one_rejected_for_its_problems(given: Given, started: Started) -> None:
    (event,) = recorded(given(started(), proposed(PLAN)))
    assert isinstance(event, PlanAccepted)
    assert (event.revision, event.plan) == (1, PLAN)
    (event,) = recorded(given(started(), proposed(BROKEN)))
    assert isinstance(event, PlanRejected)
    assert [problem.code for problem in event.problems] == ["P-108"]


def test_an_answer_that_could_not_be_read_is_rejected_for_what_was_wrong_with_it(
    given: Given, started: Started
) -> None:
    (rejected,) = recorded(given(started(), proposed(BROKEN)))
    assert isinstance(rejected, PlanRejected)
    unread = PlanProposed(revision=1, attempt=1, plan=None, problems=rejected.problems)
    assert recorded(given(started(), unread)) == [rejected]


def rejections(count: int, given: Given, started: Started) -> Run:
    """A run whose planner gave so many plans, none of them valid, and each wrong in its own way."""
    events: list[Event] = [started()]
    for attempt in range(1, count + 1):
        broken = PLAN.steps[0].model_copy(update={"use": f"files.burn{attempt}"})
        events.append(proposed(Plan(steps=(broken,), answer="$s1"), attempt))
        events.extend(recorded(given(*events)))
    return given(*events)


def test_the_candidates_get_warmer_and_are_told_what_was_wrong_with_the_others(
    given: Given, started: Started
) -> None:
    asked = [decide(rejections(count, given, started))[0] for count in range(len(LADDER))]
    assert [(a.temperature, bool(a.problems)) for a in asked if isinstance(a, AskPlanner)] == list(LADDER)
    last = asked[-1]
    assert isinstance(last, AskPlanner)
    assert last.attempt == len(LADDER)
    assert ["burn3" in p.message for p in last.problems] == [True, False, False]


def test_a_run_fails_when_no_candidate_is_valid(given: Given, started: Started) -> None:
    end = ended(rejections(len(LADDER), given, started))
    assert (end.status, end.reason) == ("failed", "no valid plan")
    assert end.fault is not None
    assert (end.fault.code, end.fault.error_class) == ("P-108", "invalid")


def test_a_planner_that_gives_nothing_has_given_no_plan(given: Given, started: Started) -> None:
    unread = [
        event
        for attempt in range(1, len(LADDER) + 1)
        for event in (proposed(None, attempt), PlanRejected(revision=1, attempt=attempt, problems=()))
    ]
    end = ended(given(started(), *unread))
    assert end.fault == Fault(code="P-100", error_class="invalid", message="the planner gave no plan")


def test_a_plan_that_came_along_is_used_or_the_run_fails(given: Given, started: Started) -> None:
    (event,) = recorded(given(started(plan=PLAN)))
    assert isinstance(event, PlanAccepted)
    rejected = recorded(given(started(plan=BROKEN)))
    end = ended(given(started(plan=BROKEN), *rejected))
    assert end.status == "failed"
    assert end.fault is not None
    assert end.fault.code == "P-108"


def unreached(code: str, attempt: int = 1) -> PlannerFailed:
    return PlannerFailed(revision=1, attempt=attempt, fault=Fault(code=code, error_class="unavailable"))


def test_a_model_that_refused_once_is_asked_again_and_one_that_is_not_there_is_not(
    given: Given, started: Started
) -> None:
    (ask,) = decide(given(started(), unreached("M-108")))
    assert isinstance(ask, AskPlanner)
    assert ask.attempt == 2
    end = ended(given(started(), unreached("M-101")))
    assert (end.status, end.reason) == ("failed", "the planner could not be asked")
    end = ended(given(started(), *(unreached("M-108", attempt) for attempt in range(1, 5))))
    assert end.fault == unreached("M-108").fault


def test_what_a_goal_lacks_is_said_where_no_plan_was_found(given: Given, started: Started) -> None:
    absent = Named(text="in.csv", kind="path", part="source", found="absent")
    refusals = [PlanRejected(revision=1, attempt=n, problems=()) for n in range(1, 5)]
    pairs = [event for refusal in refusals for event in (proposed(None, refusal.attempt), refusal)]
    end = ended(given(started(named=(absent,)), *pairs))
    assert end.fault is not None
    assert (end.fault.code, end.fault.error_class) == ("P-125", "missing")


def test_no_planner_is_asked_beyond_the_budget(given: Given, started: Started) -> None:
    end = ended(given(started(budget=Budget(tokens=0))))
    assert end.status == "over_budget"
    assert end.reason.startswith("0 of 0 tokens are used, and ")


# settling ----------------------------------------------------------------------------------------------------


def test_a_run_without_criteria_is_unverified_and_gives_the_answer(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), answer="Got $s1"), gave("s1", "x"))
    assert recorded(given(*begun)) == [ReviewInconclusive()]
    end = ended(given(*begun, ReviewInconclusive()))
    assert (end.status, end.result) == ("unverified", Labelled(value="Got x", label=UNTRUSTED))


def test_a_run_is_completed_when_every_criterion_holds(given: Given, accepted: Accepted) -> None:
    wanted = (Criterion(id="c1", kind="expression", text="s1 == 'x'"),)
    begun = (*accepted(step("s1"), answer="Got $s1", criteria=wanted), gave("s1", "x"))
    assert recorded(given(*begun)) == [ReviewPassed(criteria=("c1",))]
    assert ended(given(*begun, ReviewPassed(criteria=("c1",)))).status == "completed"


def test_a_model_that_can_judge_is_asked_what_rules_cannot_decide(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), criteria=(TEXT,), can_judge=True), gave("s1", "x"))
    assert decide(given(*begun)) == (AskValidator(("c1",)),)


def test_beyond_the_budget_no_judge_is_asked(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), criteria=(TEXT,), can_judge=True, budget=Budget(tokens=0)), gave("s1", "x"))
    assert recorded(given(*begun)) == [ReviewInconclusive(criteria=("c1",))]


def test_what_the_plan_went_on_without_is_said(given: Given, accepted: Accepted) -> None:
    skip = step("s1", on_error={"then": "skip"})
    begun = (*accepted(skip, let("s2", "${s1 ?? 0}")), StepFailed(path="s1", fault=LOST), gave("s2", 0))
    end = ended(given(*begun, ReviewInconclusive()))
    assert (end.status, end.degraded) == ("unverified", ("s1",))


def test_an_answer_that_cannot_be_made_asks_for_another_plan(given: Given, accepted: Accepted) -> None:
    skip = step("s1", on_error={"then": "skip"})
    failed = StepFailed(path="s1", fault=LOST)
    (event,) = recorded(given(*accepted(skip, answer="Got $s1"), failed))
    assert event == PlanAbandoned(revision=2, reason="the answer cannot be made")
    end = ended(given(*accepted(skip, answer="Got $s1", is_given=True), failed))
    assert end.fault is not None
    assert (end.status, end.fault.code) == ("failed", "P-205")


# replans -----------------------------------------------------------------------------------------------------


def test_a_step_without_a_path_around_it_asks_for_another_plan_twice(given: Given, accepted: Accepted) -> None:
    events = [*accepted(step("s1")), StepFailed(path="s1", fault=LOST)]
    for revision in (2, 3):
        assert recorded(given(*events)) == [PlanAbandoned(revision=revision, reason="step `s1` failed")]
        plan = Plan(steps=(step("s1", args={"path": f"{revision}"}),))
        events += recorded(given(*events))
        events += [proposed(plan, 1, revision), PlanAccepted(revision=revision, plan=plan, certificate=Certificate())]
        events += [StepFailed(path="s1", fault=LOST)]
    end = ended(given(*events))
    assert (end.status, end.reason, end.fault) == ("failed", "step `s1` failed", LOST)


def test_another_plan_is_drawn_warmer_and_does_nothing_again_that_succeeded(given: Given, accepted: Accepted) -> None:
    append = step("s1", use="files.append", args={"path": "log", "text": "x"})
    events = [*accepted(append, step("s2"), answer="$s2"), gave("s1", None), StepFailed(path="s2", fault=LOST)]
    events += recorded(given(*events))
    (ask,) = decide(given(*events))
    assert isinstance(ask, AskPlanner)
    assert (ask.revision, ask.attempt, ask.temperature) == (2, 1, 0.6)
    other = step("s2", args={"path": "other"})
    events.append(proposed(Plan(steps=(append, other), answer="$s2"), 1, 2))
    (event,) = recorded(given(*events))
    assert isinstance(event, PlanAccepted)
    assert [s.id for s in event.plan.steps] == ["s1", "s3"]
    run = given(*events, event)
    assert [e.path for e in recorded(run) if isinstance(e, StepResolved)] == ["s3"]
    assert run.step("s1").status == "succeeded"


def test_another_plan_may_follow_on_steps_that_went_on_without_a_value(given: Given, accepted: Accepted) -> None:
    steps = (step("s1", on_error={"then": "skip"}), let("s2", "${s1 ?? 'none'}"), step("s3"))
    events = [*accepted(*steps, answer="$s3"), StepFailed(path="s1", fault=LOST), gave("s2", "none")]
    events += [StepFailed(path="s3", fault=LOST), PlanAbandoned(revision=2, reason="step `s3` failed")]
    other = step("s3", args={"path": "${s2}.txt"})
    (event,) = recorded(given(*events, proposed(Plan(steps=(*steps[:2], other), answer="$s3"), 1, 2)))
    assert isinstance(event, PlanAccepted)
    assert [s.id for s in event.plan.steps] == ["s1", "s2", "s4"]


def test_where_no_other_plan_is_found_the_failure_that_asked_for_it_is_told(given: Given, accepted: Accepted) -> None:
    events = [*accepted(step("s1")), StepFailed(path="s1", fault=LOST), PlanAbandoned(revision=2, reason="")]
    for attempt in range(1, len(LADDER) + 1):
        events += [proposed(None, attempt, 2), PlanRejected(revision=2, attempt=attempt, problems=())]
    end = ended(given(*events))
    assert (end.status, end.reason, end.fault) == ("failed", "no other way was found", LOST)


def test_no_plan_can_help_where_the_goal_reads_what_does_not_exist(given: Given, accepted: Accepted) -> None:
    absent = Named(text="s1", kind="path", part="source", found="absent")
    assert ended(given(*accepted(step("s1"), named=(absent,)), StepFailed(path="s1", fault=LOST))).status == "failed"


def test_a_criterion_that_failed_asks_for_another_plan_and_is_rejected_after_the_last(
    given: Given, accepted: Accepted
) -> None:
    begun = (gave("s1", "x"), ReviewFailed(criteria=("c1",)))
    run = given(*accepted(step("s1"), criteria=(TEXT,)), *begun)
    assert recorded(run) == [PlanAbandoned(revision=2, reason="a criterion failed")]
    end = ended(given(*accepted(step("s1"), criteria=(TEXT,), max_replans=0), *begun))
    assert (end.status, end.reason, end.result.value) == ("rejected", "not met: c1", "x")


# stopping ----------------------------------------------------------------------------------------------------


def test_a_cancelled_run_starts_nothing_and_ends_when_nothing_is_under_way(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), step("s2")), resolved("s1"), StepStarted(path="s1", attempt=1, key="k"))
    assert decide(given(*begun, CancelRequested(by="ann"))) == ()
    end = ended(given(*begun, CancelRequested(by="ann"), gave("s1")))
    assert (end.status, end.reason) == ("cancelled", "cancelled on request")


def test_a_run_is_cancelled_while_it_is_planned_too(given: Given, started: Started) -> None:
    assert ended(given(started(), CancelRequested(by="ann"))).status == "cancelled"


def test_after_the_end_there_is_nothing_to_do(given: Given, started: Started) -> None:
    assert decide(given(started(), RunFinished(status="failed"))) == ()


def test_a_failure_stops_what_has_not_begun_and_waits_for_what_has(given: Given, accepted: Accepted) -> None:
    begun = (
        *accepted(step("s1"), step("s2"), step("s3"), let("s4", 1)),
        resolved("s1"),
        StepStarted(path="s1", attempt=1, key="k"),
        resolved("s2"),
        StepFailed(path="s3", fault=LOST),
    )
    assert decide(given(*begun)) == ()
    assert recorded(given(*begun, gave("s1"))) == [PlanAbandoned(revision=2, reason="step `s3` failed")]


def test_a_run_over_its_budget_ends_so_unless_everything_is_done(given: Given, accepted: Accepted) -> None:
    first = (resolved("s1"), StepStarted(path="s1", attempt=1, key="k"), gave("s1"), resolved("s2"))
    begun = (*accepted(step("s1"), step("s2"), budget=Budget(calls=1)), *first)
    assert ended(given(*begun)).status == "over_budget"
    made = StepStarted(path="s2", attempt=1, key="k")
    assert recorded(given(*begun, made, gave("s2"))) == [ReviewInconclusive()]


def test_a_failure_is_told_although_the_budget_is_used_up(given: Given, accepted: Accepted) -> None:
    denied = StepFailed(path="s1", fault=Fault(code="A-103", error_class="denied"))
    assert ended(given(*accepted(step("s1"), budget=Budget(tokens=0)), denied)).status == "denied"


def test_no_more_calls_start_at_once_than_the_budget_has_room_for(given: Given, accepted: Accepted) -> None:
    steps = [step(f"s{n}") for n in range(1, 5)]
    resolved = recorded(given(*accepted(*steps, budget=Budget(calls=2))))
    run = given(*accepted(*steps, budget=Budget(calls=2)), *resolved)
    assert [call.path for call in decide(run) if isinstance(call, Call)] == ["s1", "s2"]


def test_a_plan_without_steps_answers_at_once(given: Given, accepted: Accepted) -> None:
    begun = accepted(answer="Hello")
    assert recorded(given(*begun)) == [ReviewInconclusive()]
    assert ended(given(*begun, ReviewInconclusive())).result.value == "Hello"


def test_a_policy_that_allows_nothing_denies_every_plan(given: Given, started: Started) -> None:
    (event,) = recorded(given(started(policy=Policy()), proposed(PLAN)))
    assert isinstance(event, PlanRejected)
    assert [problem.code for problem in event.problems] == ["P-111"]
