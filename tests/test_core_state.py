"""That a history gives one run, in one piece or in two, is a law of its own, in `test_core_laws`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.events import (
    AnswerDropped,
    BlockEntered,
    BudgetRefused,
    CancelRequested,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlannerFailed,
    PlanProposed,
    Recorded,
    ReviewFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoBegan,
    UndoRequested,
    Usage,
    WaitEnded,
    WaitStarted,
)
from planner.core.labels import TRUSTED, UNTRUSTED, Json, Labelled
from planner.core.ledger import NOTHING, Amount, Spent
from planner.core.plan import Plan, Step
from planner.core.policy import Principal
from planner.core.run import Run, StepState
from planner.core.state import evolve, fold
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


# places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["s2", "s1[0]", "s1[", "", "inputs", "s1~undo", "s1~fallback", "s2~fallback", "s1/s1"]
)
def test_an_event_of_no_step_of_the_plan_is_illegal(path: str, given: Given, accepted: Accepted) -> None:
    error = refused(given(*accepted(READ)), StepSkipped(path=path, cause="condition"))
    assert (error.code, error.message) == ("J-204", f"`StepSkipped` of `{path}`, which is no step of the plan")


def test_the_items_of_a_map_are_steps_once_they_are_known(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(Step(id="s1", for_each=[1, 2], let="$item")))
    assert refused(run, StepSucceeded(path="s1[0]", value=value())).code == "J-204"
    run = then(run, MapResolved(path="s1", items=value([1, 2])), StepSucceeded(path="s1[1]", value=value()))
    assert run.step("s1[1]").status == "succeeded"
    assert run.step("s1[0]") == StepState()
    assert refused(run, StepSucceeded(path="s1[2]", value=value())).code == "J-204"


BLOCK = Step.model_validate(
    {"id": "s1", "if": "1 > 0", "do": [{"id": "t1", "let": 1}], "else": [{"id": "t2", "let": 2}], "for_each": [1]}
)


def test_what_a_block_holds_are_steps_once_that_branch_was_taken(given: Given, accepted: Accepted) -> None:
    run = then(given(*accepted(BLOCK)), MapResolved(path="s1", items=value([1])))
    for path in ("s1[0]/t1", "s1[1]/t1", "t1"):
        assert refused(run, StepSucceeded(path=path, value=value())).code == "J-204"
    for branch, own, other in (("do", "t1", "t2"), ("else", "t2", "t1")):
        entered = then(run, BlockEntered.model_validate({"path": "s1[0]", "branch": branch}))
        assert then(entered, StepSucceeded(path=f"s1[0]/{own}", value=value())).step(f"s1[0]/{own}").is_done
        assert refused(entered, StepSucceeded(path=f"s1[0]/{other}", value=value())).code == "J-204"


def test_the_call_in_the_place_of_another_is_a_step_once_that_one_failed_for_good(
    given: Given, accepted: Accepted
) -> None:
    other = READ.model_copy(update={"on_error": READ.on_error.model_validate({"retry": 1, "fallback": "text.upper"})})
    resolved = StepResolved(path="s1~fallback")
    run = given(*accepted(other), RESOLVED, STARTED)
    assert refused(run, resolved).code == "J-204"
    assert refused(then(run, FAILED), resolved).code == "J-204"
    lost = then(run, StepFailed(path="s1", fault=Fault(code="T-1", error_class="missing")))
    assert then(lost, resolved).step("s1~fallback").status == "resolved"


@pytest.mark.parametrize(
    ("held", "event"),
    [
        (READ, MapResolved(path="s1", items=value([1]))),
        (READ, BlockEntered(path="s1")),
        (READ, WaitStarted(path="s1", name="paid")),
        (Step(id="s1", let=1), StepResolved(path="s1")),
        (BLOCK, StepResolved(path="s1")),
        (BLOCK, BlockEntered(path="s1")),
        (step("files.read", for_each=[1]), StepResolved(path="s1")),
    ],
)
def test_a_step_only_does_what_steps_of_its_kind_do(
    held: Step, event: Event, given: Given, accepted: Accepted
) -> None:
    assert refused(given(*accepted(held)), event).message.endswith("`s1` is another kind of step")


def test_only_a_question_is_answered_with_a_value(given: Given, accepted: Accepted, every: Callees) -> None:
    asked = HumanAsked(path="s1", question="answer", reason="which?")
    for use, is_question in (("human.user", True), ("gate.approve", False), ("files.write", False)):
        run = given(*accepted(step(use), callees=every), StepResolved(path="s1"))
        if is_question:
            assert then(run, asked).step("s1").question == "answer"
        else:
            assert refused(run, asked).message.endswith("another kind of step")


# runs --------------------------------------------------------------------------------------------------------


def test_no_events_are_no_run() -> None:
    with pytest.raises(JournalError, match="J-201"):
        fold([])


def test_a_run_starts_once_and_first(given: Given, started: Started) -> None:
    with pytest.raises(JournalError, match="J-202"):
        given(RESUMED)
    assert refused(given(started()), started()).code == "J-202"


def test_nothing_happens_after_the_end_but_that_it_is_taken_back(given: Given, started: Started) -> None:
    run = given(started(), RunFinished(status="failed"))
    assert (run.status, run.phase) == ("failed", "finished")
    assert refused(run, CANCEL).code == "J-203"
    again = then(run, UndoRequested(by="ann"))
    assert (again.phase, again.is_cancelled, again.finished, again.spent.seconds) == ("executing", True, None, 1)
    assert refused(then(again, RunFinished(status="cancelled")), UndoRequested(by="ann")).code == "J-204"
    assert refused(given(started()), UndoRequested(by="ann")).code == "J-204"


@pytest.mark.parametrize("status", ["running", "waiting", "paused"])
def test_a_run_does_not_end_as_running(status: Any, given: Given, started: Started) -> None:
    assert refused(given(started()), RunFinished(status=status)).code == "J-203"


def test_a_run_waits_while_a_person_is_asked_and_its_plan_is_carried_out(given: Given, accepted: Accepted) -> None:
    asked = HumanAsked(path="s1", question="approve", reason="why")
    run = given(*accepted(READ), RESOLVED)
    assert run.status == "running"
    run = then(run, asked)
    assert run.status == "waiting"
    assert then(run, HumanAnswered(path="s1", answer="yes", by="ann")).status == "running"
    assert then(run, PlanAbandoned(revision=2, reason="why")).status == "running"


def test_a_run_is_paused_once_and_goes_on_when_that_is_lifted_or_it_is_cancelled(
    given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(READ))
    assert refused(run, PauseLifted(by="ann")).code == "J-204"
    paused = then(run, PauseRequested(by="ann"))
    assert (paused.status, refused(paused, PauseRequested(by="bob")).code) == ("paused", "J-204")
    assert then(paused, PauseLifted(by="ann")).status == "running"
    cancelled = then(paused, CANCEL)
    assert (cancelled.is_paused, cancelled.is_cancelled) == (False, True)
    assert refused(cancelled, PauseRequested(by="ann")).code == "J-204"


def test_a_cancelled_run_goes_on_until_it_has_ended(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ), RESOLVED, STARTED, CANCEL)
    assert run.is_cancelled
    assert then(run, SUCCEEDED, RunFinished(status="cancelled")).status == "cancelled"


def test_what_a_run_is_told_and_what_it_may_not_use_are_remembered(given: Given, started: Started) -> None:
    paid = EventReceived(name="paid", data={"order": 7})
    run = given(started(), paid, BudgetRefused(account="team", reason="nothing is left"))
    assert (run.mailbox, run.refused) == ({2: paid}, "team: nothing is left")


def test_an_answer_that_nobody_waits_for_is_paid_for_and_changes_nothing_else(
    given: Given, accepted: Accepted
) -> None:
    run = given(*accepted(READ))
    after = then(run, AnswerDropped(usage=(Usage(input_tokens=3, output_tokens=4, cost_usd=0.5),)))
    assert (after.spent.tokens, after.spent.cost_usd, after.steps) == (7, 0.5, run.steps)


def test_a_call_that_was_refused_before_it_was_made_counts_for_nothing(given: Given, accepted: Accepted) -> None:
    refused = STARTED.model_copy(update={"held": NOTHING})
    run = given(*accepted(READ), RESOLVED, refused, FAILED)
    assert (run.spent.calls, run.step("s1").attempt) == (0, 1)


# time and use ------------------------------------------------------------------------------------------------


def test_only_time_in_which_something_goes_on_counts(given: Given, accepted: Accepted) -> None:
    asked = HumanAsked(path="s1", question="approve", reason="why")
    run = given(*accepted(READ, READ.model_copy(update={"id": "s2"})), RESOLVED, asked)
    assert run.spent.seconds == 4
    assert then(run, HumanAnswered(path="s1", answer="yes", by="ann"), wait=100).spent.seconds == 4
    paused = then(run, PauseRequested(by="ann"))
    assert then(paused, PauseLifted(by="ann"), wait=100).spent.seconds == 4
    for event in (RESUMED, RunForked(origin="r0", at_event=4)):
        assert then(given(*accepted(READ)), event, wait=100).spent.seconds == 2


def test_a_call_under_way_counts_also_while_its_run_is_paused(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(READ), RESOLVED, STARTED, PauseRequested(by="ann"))
    assert then(run, SUCCEEDED, wait=100).spent.seconds == 105


def test_a_clock_that_goes_back_gives_no_time_back(given: Given, accepted: Accepted) -> None:
    assert then(given(*accepted(READ)), RESOLVED, wait=-100).spent.seconds == 2


def test_what_was_used_is_counted_from_every_event_that_used_it(given: Given, accepted: Accepted) -> None:
    known = Usage(input_tokens=2, output_tokens=3, cost_usd=0.5)
    run = given(*accepted(READ), RESOLVED, STARTED)
    assert run.spent == Spent(unpriced=1, calls=1, seconds=4)
    run = then(run, StepSucceeded(path="s1", value=value(), usage=(known, known), calls=3), wait=10)
    assert run.spent == Spent(cost_usd=1.0, unpriced=1, tokens=10, calls=4, seconds=14)
    run = then(run, ReviewFailed(criteria=("c1",), usage=(known,)))
    assert run.spent.tokens == 15
    run = then(run, PlanAbandoned(revision=2, reason="why"))
    run = then(run, PlannerFailed(revision=2, attempt=1, fault=DOWN, usage=(known, Usage())))
    assert (run.spent.tokens, run.spent.unpriced) == (20, 2)
    assert then(run, PlanProposed(revision=2, attempt=2, plan=PLAN, usage=known)).spent.tokens == 25


def held(cost_usd: float | None, tokens: int = 0, calls: int = 1) -> StepStarted:
    return StepStarted(path="s1", attempt=1, key="k", held=Amount(cost_usd=cost_usd, tokens=tokens, calls=calls))


def test_a_priced_call_is_paid_when_it_is_made(given: Given, accepted: Accepted, every: Callees) -> None:
    fetch = step("web.fetch", budget={"calls": 3})
    run = given(*accepted(fetch, is_given=True, callees=every), StepResolved(path="s1"), held(0.5))
    assert (run.spent.cost_usd, run.spent.calls) == (0.5, 1)
    assert run.accounts["step:s1"] == Spent(cost_usd=0.5, calls=1)
    again = then(run, DOUBT, StepStarted(path="s1", attempt=2, key="k"))
    assert (again.spent.cost_usd, again.accounts["step:s1"].calls) == (1.0, 2)


@pytest.mark.parametrize("event", [DOUBT, RESUMED], ids=lambda event: event.type)
def test_what_a_model_may_have_used_for_a_call_without_an_answer_is_taken_for_used(
    event: Event, given: Given, accepted: Accepted, every: Callees
) -> None:
    writer = step("agent.writer", budget={"tokens": 500})
    run = given(*accepted(writer, is_given=True, callees=every), StepResolved(path="s1"), held(2.0, 100), event)
    assert (run.spent.cost_usd, run.spent.tokens, run.spent.calls) == (2.0, 100, 1)
    assert run.accounts["step:s1"] == Spent(cost_usd=2.0, tokens=100, calls=1)
    assert run.step("s1").held == Amount(calls=0)
    unpriced = given(*accepted(writer, is_given=True, callees=every), StepResolved(path="s1"), held(None, 100), event)
    assert unpriced.spent.unpriced == 1


def test_a_nested_run_keeps_what_it_holds_and_counts_as_one_call_however_often_it_is_gone_on_with(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    events = (*accepted(step("plan.goal"), is_given=True, callees=every), StepResolved(path="s1"), held(2.0, 100, 5))
    for event in (DOUBT, RESUMED):
        run = given(*events, event)
        assert (run.step("s1").held, run.spent.tokens) == (Amount(cost_usd=2.0, tokens=100, calls=5), 0)
        again = then(run, StepStarted(path="s1", attempt=2, key="k", held=Amount(calls=4)))
        assert again.spent.calls == 1
        assert then(again, StepSucceeded(path="s1", value=value(), calls=3)).spent.calls == 4


# questions and waits -----------------------------------------------------------------------------------------


def test_an_answer_is_worth_what_the_principal_s_word_is_or_less(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    asked = (StepResolved(path="s1"), HumanAsked(path="s1", question="answer", reason="which?", timeout_s=10))
    run = given(*accepted(step("human.user"), callees=every, principal=Principal(name="ann")), *asked)
    assert run.step("s1").asked == run.run_seq
    assert run.step("s1").due == run.at + timedelta(seconds=10)
    for by, label in (("ann", TRUSTED), ("bob", UNTRUSTED)):
        said = then(run, HumanAnswered(path="s1", answer="value", value=7, by=by, asked=run.run_seq))
        assert said.step("s1").answered == Labelled(value=7, label=label.from_source(f"human:{by}"))


def test_a_wait_ends_with_an_event_that_fits_and_takes_it_away(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    waiting = (StepResolved(path="s1"), WaitStarted(path="s1", name="paid", match={"order": 7}))
    run = given(*accepted(step("wait.event"), callees=every), *waiting)
    assert run.step("s1").due is None
    run = then(run, EventReceived(name="paid", data={"order": 8}), EventReceived(name="paid", data={"order": 7}))
    other, fitting = run.mailbox
    for received in (other, 99):
        assert refused(run, WaitEnded(path="s1", received=received)).message.endswith("which is not waited for")
    ended = then(run, WaitEnded(path="s1", received=fitting))
    assert list(ended.mailbox) == [other]
    label = UNTRUSTED.from_source("event:paid")
    assert ended.step("s1").answered == Labelled(value={"order": 7}, label=label)


def test_a_wait_for_a_time_takes_no_event(given: Given, accepted: Accepted, every: Callees) -> None:
    waiting = (StepResolved(path="s1"), WaitStarted(path="s1", seconds=5), EventReceived(name=""))
    run = given(*accepted(step("wait.until"), callees=every), *waiting)
    assert refused(run, WaitEnded(path="s1", received=run.run_seq)).code == "J-204"
    assert then(run, TimerFired(path="s1")).step("s1").status == "fired"


def test_whoever_waits_for_ages_waits_until_calendars_still_go(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    for seconds in (1e18, float("inf")):
        waiting = (StepResolved(path="s1"), WaitStarted(path="s1", seconds=seconds))
        due = given(*accepted(step("wait.until"), callees=every), *waiting).step("s1").due
        assert due is not None
        assert due.year == 2126
    until = datetime(2030, 1, 1, tzinfo=UTC)
    waiting = (StepResolved(path="s1"), WaitStarted(path="s1", until=until))
    assert given(*accepted(step("wait.until"), callees=every), *waiting).step("s1").due == until


# doubt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "is_unsure"), [("files.write", True), ("files.read", False), ("plan.goal", False), ("shell.run", True)]
)
def test_an_effect_without_an_answer_may_have_happened_until_it_succeeds(
    use: str, is_unsure: bool, given: Given, accepted: Accepted, every: Callees
) -> None:
    for event in (DOUBT, RESUMED):
        run = given(*accepted(step(use), callees=every), StepResolved(path="s1"), STARTED, event)
        assert run.step("s1").is_unsure is is_unsure
        if event is RESUMED:
            assert run.step("s1").status == "interrupted"
        else:
            assert not then(run, SUCCEEDED).step("s1").is_unsure


def test_a_fork_calls_under_keys_of_its_own_and_takes_nothing_back_that_another_run_did(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    forked = RunForked(origin="r0", at_event=9)
    run = given(*accepted(READ), RESOLVED, STARTED, FAILED, forked)
    assert (run.step("s1").key, run.step("s1").status, run.forked_at) == ("", "failed", 7)
    assert then(given(*accepted(READ), RESOLVED, STARTED), forked).step("s1").status == "interrupted"
    done = (StepResolved(path="s1"), STARTED, SUCCEEDED)
    undone = given(*accepted(step("store.put"), callees=every), *done, UndoBegan(paths=("s1",)), forked)
    assert (set(undone.steps), undone.undoing, undone.step("s1").key) == ({"s1"}, (), "k")
