"""Budgets that run out, pauses, and corrections of a run under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import AskHuman, AskPlanner, AskValidator, Call, Record
from planner.core.decide import TIME_IS_UP, decide
from planner.core.events import (
    BlockEntered,
    BudgetRefused,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlanProposed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    UndoBegan,
    WaitStarted,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import Budget, Rate
from planner.core.plan import Plan, Step
from planner.core.policy import Verdict
from planner.core.run import Run
from planner.core.setup import Criterion

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]
Callees: TypeAlias = tuple[Callee, ...]

LOST = Fault(code="T-1", error_class="missing")
REFUSED = BudgetRefused(account="team", reason="nothing is left")
PARTIAL: dict[str, Any] = {"budget": Budget(calls=1), "shortage": {"partial": True}}


def step(id_: str, use: str = "files.read", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use, "args": {"path": id_}} | fields)


def let(id_: str, value: Json, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "let": value} | fields)


def resolved(place: str, verdict: Verdict | None = None, /, **arguments: Json) -> StepResolved:
    return StepResolved(path=place, arguments=Labelled(value=arguments), verdict=verdict)


def made(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    started = StepStarted(path=place, attempt=1, key=f"k-{place}")
    return resolved(place, **arguments), started, gave(place)


def gave(path: str, value: Json = 1) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value))


def cut(*paths: str) -> list[Event]:
    return [StepSkipped(path=path, cause="budget") for path in paths]


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


# budgets that run out ----------------------------------------------------------------------------------------


def test_a_run_out_of_budget_ends_and_says_what_it_did_without(given: Given, accepted: Accepted) -> None:
    steps = (step("s1", on_error={"then": "skip"}), step("s2"))
    begun = (*accepted(*steps, budget=Budget(calls=1)), *made("s1")[:2], StepFailed(path="s1", fault=LOST))
    end = ended(given(*begun, resolved("s2")))
    assert (end.status, end.reason, end.degraded) == ("over_budget", "1 of 1 calls are made", ("s1",))


def test_an_answer_may_be_made_from_what_is_there(given: Given, accepted: Accepted) -> None:
    steps = (step("s1"), step("s2"), let("s3", "${s2 ?? 'none'}"), step("s4"))
    answer = ["$s1", "${s2 ?? 0}", "${s4 ?? 0}"]
    begun = (*accepted(*steps, answer=answer, **PARTIAL), *made("s1"), resolved("s2"), resolved("s4"))
    skips = cut("s2", "s4", "s3")
    assert recorded(given(*begun)) == skips
    assert recorded(given(*begun, *skips)) == [ReviewInconclusive()]
    end = ended(given(*begun, *skips, ReviewInconclusive()))
    assert (end.status, end.result.value) == ("unverified", [1, 0, 0])
    assert end.degraded == ("s2", "s3", "s4")


def test_items_and_blocks_under_way_are_cut_short_as_well(given: Given, accepted: Accepted) -> None:
    map_ = step("s2", for_each=[1, 2], args={"path": "$item"})
    block = Step.model_validate(
        {
            "id": "s3",
            "if": "1 > 0",
            "do": [
                {"id": "t1", "use": "files.read", "args": {"path": "a"}},
                {"id": "t2", "let": "${t1 ?? 0}"},
                {"id": "t3", "use": "files.read", "args": {"path": "b"}, "after": ["t1"]},
            ],
            "else": [{"id": "t4", "let": 4}],
            "answer": "${t1 ?? 'none'}",
        }
    )
    begun = (
        *accepted(step("s1"), map_, block, **PARTIAL),
        *made("s1"),
        MapResolved(path="s2", items=Labelled(value=[1, 2])),
        BlockEntered(path="s3"),
        resolved("s2[0]"),
        resolved("s3/t1"),
        resolved("s2[1]"),
    )
    skips = cut("s2[0]", "s3/t1", "s2[1]", "s3/t2", "s3/t3")
    assert recorded(given(*begun)) == skips
    assert recorded(given(*begun, *skips)) == [gave("s3", "none")]
    ready = (resolved("s2[0]"), resolved("s2[1]"))
    other = (*begun[:-4], BlockEntered(path="s3", branch="else"), *ready)
    assert recorded(given(*other)) == [gave("s3/t4", 4)]


def test_an_approved_call_is_cut_and_a_question_waited_for(given: Given, accepted: Accepted) -> None:
    ask = Verdict(then="ask", rules=("ask",), reason="why")
    steps = (step("s1"), step("s2", "mail.send"))
    asked = HumanAsked(path="s2", question="approve", reason="why")
    begun = (*accepted(*steps, **PARTIAL), *made("s1"), resolved("s2", ask), asked)
    assert decide(given(*begun)) == (AskHuman("s2"),)
    yes = HumanAnswered(path="s2", answer="yes", by="user")
    assert recorded(given(*begun, yes)) == cut("s2")


def test_what_may_have_happened_is_never_cut(given: Given, accepted: Accepted) -> None:
    doubt = (HumanAsked(path="s1", question="happened", reason=""), HumanAnswered(path="s1", answer="no", by="user"))
    begun = (*accepted(step("s1", "mail.send"), **PARTIAL), *made("s1")[:2])
    assert ended(given(*begun, StepInDoubt(path="s1", reason=""), *doubt)).status == "over_budget"


@pytest.mark.parametrize("partial", [False, True])
def test_an_account_that_others_share_ends_the_run_or_cuts_it_short(
    partial: bool, given: Given, accepted: Accepted
) -> None:
    steps = (step("s1"), let("s2", 2, after=("s1",)))
    begun = (*accepted(*steps, answer="${s1 ?? 'none'}", shortage={"partial": partial}), resolved("s1"), REFUSED)
    if partial:
        skips = cut("s1", "s2")
        assert recorded(given(*begun)) == skips
        assert recorded(given(*begun, *skips)) == [ReviewInconclusive()]
    else:
        assert ended(given(*begun)) == RunFinished(status="over_budget", reason="team: nothing is left")


def test_a_call_in_doubt_is_not_made_again_once_there_is_no_room(given: Given, accepted: Accepted) -> None:
    steps = (step("s1", "files.write", args={"path": "a", "text": "b"}), step("s2"))
    begun = (*accepted(*steps), *made("s1", path="a", text="b")[:2], resolved("s2"))
    for lost in (StepInDoubt(path="s1", reason=""), RunResumed(owner="p2")):
        assert ended(given(*begun, lost, REFUSED)).status == "over_budget"


def test_a_call_that_was_cut_short_because_the_time_is_up_ends_the_run_over_budget(
    given: Given, accepted: Accepted
) -> None:
    fault = Fault(code=TIME_IS_UP, error_class="limit", message="no longer")
    begun = (*accepted(step("s1")), *made("s1")[:2], StepFailed(path="s1", fault=fault, attempt=1))
    end = ended(given(*begun))
    assert (end.status, end.fault) == ("over_budget", fault)


@pytest.mark.parametrize(("rate", "is_asked"), [(Rate(input_usd=1, output_usd=1), True), (None, False)])
def test_a_judge_without_a_known_price_is_not_asked_where_money_is_limited(
    rate: Rate | None, is_asked: bool, given: Given, accepted: Accepted
) -> None:
    wanted = (Criterion(id="c1", kind="text", text="polite"),)
    rates = {"validator": rate} if rate is not None else {}
    limits: dict[str, Any] = {
        "budget": Budget(cost_usd=1),
        "rates": rates,
        "can_judge": True,
        "criteria": wanted,
        "is_given": True,
    }
    commands = decide(given(*accepted(step("s1"), **limits), *made("s1")))
    assert commands == ((AskValidator(("c1",)),) if is_asked else (Record(ReviewInconclusive(criteria=("c1",))),))


def test_what_is_under_way_ends_before_a_refused_run_does(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), step("s2")), resolved("s1"), *made("s2")[:2], REFUSED)
    assert decide(given(*begun)) == ()
    assert ended(given(*begun, gave("s2"))).status == "over_budget"


def test_a_run_that_was_refused_room_asks_neither_a_planner_nor_a_judge(
    given: Given, accepted: Accepted, started: Started
) -> None:
    assert ended(given(started(), REFUSED)) == RunFinished(status="over_budget", reason="team: nothing is left")
    wanted = (Criterion(id="c1", kind="text", text="polite"),)
    begun = (*accepted(step("s1"), criteria=wanted, can_judge=True), *made("s1"))
    assert decide(given(*begun)) == (AskValidator(("c1",)),)
    assert recorded(given(*begun, REFUSED)) == [ReviewInconclusive(criteria=("c1",))]


def test_a_failure_is_told_and_not_that_the_budget_is_used_up_too(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), step("s2"), is_given=True), resolved("s1"), REFUSED)
    end = ended(given(*begun, StepFailed(path="s2", fault=LOST)))
    assert (end.status, end.fault) == ("failed", LOST)


def test_where_money_is_limited_a_planner_needs_a_price(given: Given, started: Started) -> None:
    budget = Budget(cost_usd=0.01)
    assert ended(given(started(budget=budget))).reason == (
        "the limit of 0.01 USD cannot be kept: a call has no known price"
    )
    for price, is_asked in ((1.0, True), (100.0, False)):
        rates = {"planner": Rate(input_usd=price, output_usd=price)}
        (command,) = decide(given(started(budget=budget, rates=rates)))
        assert isinstance(command, AskPlanner) is is_asked


# pauses ------------------------------------------------------------------------------------------------------


def test_a_paused_run_begins_nothing_until_that_is_lifted(given: Given, accepted: Accepted) -> None:
    asked = HumanAsked(path="s2", question="approve", reason="")
    begun = (*accepted(step("s1"), step("s2")), resolved("s1"), resolved("s2"), asked, PauseRequested(by="user"))
    assert decide(given(*begun)) == ()
    yes = HumanAnswered(path="s2", answer="yes", by="user")
    assert decide(given(*begun, yes)) == ()
    run = given(*begun, yes, PauseLifted(by="user"))
    assert [command.path for command in decide(run) if isinstance(command, Call)] == ["s1", "s2"]


def test_a_planner_may_be_paused_too(given: Given, started: Started) -> None:
    assert decide(given(started(), PauseRequested(by="user"))) == ()


def test_a_run_that_is_only_to_be_planned_stands_still_behind_its_plan(given: Given, started: Started) -> None:
    plan = Plan(steps=(step("s1"),), answer="$s1")
    begun = started(plan=plan, is_only_planned=True)
    accept, pause = recorded(given(begun))
    assert isinstance(accept, PlanAccepted)
    assert pause == PauseRequested(by="user")
    assert decide(given(begun, accept, pause)) == ()
    assert len(recorded(given(started(plan=plan)))) == 1
    unread = started(plan=Plan(steps=(step("s1", "files.burn"),)), is_only_planned=True)
    assert len(recorded(given(unread))) == 1


# corrections -------------------------------------------------------------------------------------------------

WORDS = Steered(by="user", text="in French")
CORRECTED = PlanAbandoned(revision=2, reason="corrected")


def test_a_corrected_run_ends_what_is_under_way_and_plans_the_rest_anew(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(step("s1"), step("s2")), *made("s1")[:2], resolved("s2"), WORDS)
    assert decide(given(*begun)) == ()
    begun = (*begun, gave("s1"))
    assert recorded(given(*begun)) == [CORRECTED]
    (ask,) = decide(given(*begun, CORRECTED))
    assert isinstance(ask, AskPlanner)
    assert (ask.revision, ask.attempt, ask.corrections) == (2, 1, 1)


def test_a_correction_waits_for_no_person_event_or_time(given: Given, accepted: Accepted, every: Callees) -> None:
    waits = (resolved("s1"), WaitStarted(path="s1", seconds=9), resolved("s2"))
    asked = HumanAsked(path="s2", question="answer", reason="")
    steps = (step("s1", "wait.until"), step("s2", "human.user"))
    assert recorded(given(*accepted(*steps, callees=every), *waits, asked, WORDS)) == [CORRECTED]


def test_a_correction_comes_before_a_failure_and_before_the_end(given: Given, accepted: Accepted) -> None:
    begun = accepted(step("s1"), is_given=False)
    assert recorded(given(*begun, StepFailed(path="s1", fault=LOST), WORDS)) == [CORRECTED]
    for review in (ReviewPassed(criteria=()), ReviewInconclusive()):
        assert recorded(given(*begun, *made("s1"), review, WORDS)) == [CORRECTED]


def test_a_call_that_did_not_happen_is_left_to_the_corrected_plan(given: Given, accepted: Accepted) -> None:
    doubt = StepInDoubt(path="s1", reason="no answer")
    asked = HumanAsked(path="s1", question="happened", reason="")
    no = HumanAnswered(path="s1", answer="no", by="user")
    for use, told in (("files.read", ()), ("files.append", (StepProbed(path="s1", happened=False),))):
        begun = (*accepted(step("s1", use)), *made("s1")[:2], doubt, *told)
        assert recorded(given(*begun, WORDS)) == [CORRECTED]
    begun = (*accepted(step("s1", "mail.send")), *made("s1")[:2], doubt, asked)
    assert decide(given(*begun, WORDS)) == (AskHuman("s1"),)
    assert recorded(given(*begun, WORDS, no)) == [CORRECTED]


def test_changed_inputs_are_taken_up_without_a_planner(given: Given, accepted: Accepted, every: Callees) -> None:
    put = {"use": "store.put", "args": {"name": "$inputs.x", "text": "x"}}
    steps = (Step.model_validate({"id": "s1", **put}), step("s2"), let("s3", ["$s1", "$s2"]))
    begun = accepted(*steps, answer="$s3", inputs={"x": "a"}, callees=every, is_given=True)
    done = (*made("s1", name="a"), *made("s2", path="s2"))
    begun = (*begun, *done, Steered(by="user", inputs={"x": "b"}), CORRECTED)
    began = UndoBegan(paths=("s1",))
    assert recorded(given(*begun)) == [began]
    (accept,) = recorded(given(*begun, began))
    assert isinstance(accept, PlanAccepted)
    assert (accept.revision, accept.plan.inputs) == (2, {"x": "b"})
    run = given(*begun, began, accept)
    (call,) = decide(run)
    assert isinstance(call, Call)
    assert call.path == "s1~undo"
    undone = (StepStarted(path="s1~undo", attempt=1, key=call.key), gave("s1~undo"))
    (again,) = recorded(given(*begun, began, accept, *undone))
    assert isinstance(again, StepResolved)
    assert (again.path, again.arguments.value) == ("s1", {"name": "b", "text": "x"})


def test_a_plan_for_the_rest_goes_on_where_the_run_is(given: Given, accepted: Accepted) -> None:
    steps = (step("s1"), step("s2"))
    other = Plan(steps=(step("s1"), let("s3", "$s1")), answer="$s3")
    begun = (*accepted(*steps, answer=["$s1", "$s2"], is_given=True), *made("s1"), resolved("s2"))
    begun = (*begun, Steered(by="user", plan=other), CORRECTED)
    (accept,) = recorded(given(*begun))
    assert isinstance(accept, PlanAccepted)
    run = given(*begun, accept)
    assert set(run.steps) == {"s1"}
    assert recorded(run) == [gave("s3", 1)]


def test_a_correction_allows_one_more_plan_after_a_failure(given: Given, accepted: Accepted) -> None:
    failed = StepFailed(path="s1", fault=LOST)
    assert ended(given(*accepted(step("s1"), max_replans=0), failed)).status == "failed"
    plan = Plan(steps=(step("s1", args={"path": "b"}),))
    again = (
        PlanProposed(revision=2, attempt=1, plan=plan),
        PlanAccepted(revision=2, plan=plan, certificate=Certificate()),
    )
    for more in (0, 1):
        begun = (*accepted(step("s1"), max_replans=more), WORDS, CORRECTED, *again, failed)
        (event,) = recorded(given(*begun))
        assert isinstance(event, PlanAbandoned) is bool(more)
