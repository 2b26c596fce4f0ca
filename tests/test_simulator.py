"""Every law of the core holds for every seed, and a core with a broken rule is found out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from planner.core import attempts, correction, moves, spending, state, undo
from planner.core import run as run_module
from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.commands import Call, Command, Record
from planner.core.correction import superseded, with_inputs
from planner.core.decide import decide
from planner.core.events import (
    CancelRequested,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    PlanAbandoned,
    ReviewInconclusive,
    Steered,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepParked,
    StepProbed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoBegan,
)
from planner.core.intrinsics import GOAL
from planner.core.labels import Json, Labelled
from planner.core.ledger import Amount, Budget
from planner.core.plan import OnError, Plan, Step, StepPath
from planner.core.policy import Verdict
from planner.core.run import Run, StepState, kept_steps
from planner.core.state import control, planning, usage
from planner.simulator import Outcome, journal, simulate, simulate_many
from planner.simulator.__main__ import main
from planner.simulator.scenarios import scenario

Events: TypeAlias = tuple[Event, ...]
SEEDS = 10_000 if "CI" in os.environ else 1_500
FOUND_WITHIN = 2_000


def test_every_law_holds_for_every_seed() -> None:
    outcomes = simulate_many(range(SEEDS), processes=2)
    assert [outcome.seed for outcome in outcomes] == list(range(SEEDS))
    assert [one.divergence.message for one in outcomes if one.divergence is not None] == []
    assert {"unverified", "completed", "failed", "cancelled", "over_budget", "denied"} <= {o.status for o in outcomes}
    assert sum(outcome.crashes for outcome in outcomes) > SEEDS // 4


def test_a_seed_gives_the_same_course_again() -> None:
    assert [simulate(seed) for seed in range(40)] == [simulate(seed) for seed in range(40)]
    assert scenario(7) == scenario(7)


def test_the_scenarios_hold_everything_that_a_plan_can_say() -> None:
    plans = [scenario(seed).plan for seed in range(400)]
    steps = [step for plan in plans for step in plan.index.values()]
    assert {step.use for step in steps} > {"plan.goal", "gate.approve", "human.user", "wait.until", "wait.event"}
    assert {step.on_error.then for step in steps} == {"fail", "skip", "ask", "fallback"}
    assert any(step.is_map and step.is_block and step.else_ for step in steps)
    assert any(held.is_block for step in steps for held in step.inner)
    assert any(step.on_item_error == "drop" and step.is_map for step in steps)
    assert any(step.budget is not None for step in steps)
    assert any(step.timeout_s is not None for step in steps)


# a broken rule is found ---------------------------------------------------------------------------------------


def found(law: str, *, first: int = 0) -> Outcome:
    """The first seed from `first` on that shows the law broken."""
    for outcome in map(simulate, range(first, first + FOUND_WITHIN)):
        if outcome.divergence is not None and outcome.divergence.law == law:
            return outcome
    raise AssertionError(f"no seed of {FOUND_WITHIN} shows it")


def test_a_divergence_is_told_with_its_seed_its_plan_and_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "is_turn", lambda *_: True)
    outcome = found("effects keep the order of the plan")
    assert outcome.divergence is not None
    told, plan, last, *events = outcome.divergence.message.splitlines()
    assert told.startswith(f"seed {outcome.seed}: effects keep the order of the plan: ")
    assert plan.startswith('plan: {"inputs":')
    assert last == f"the last of {outcome.events} events:"
    assert "RunFinished" in events[-1]


def test_it_is_found_that_a_finished_step_runs_again_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(of: StepState) -> StepState:
        return replace(of, status="interrupted") if of.status == "succeeded" and of.attempt else moves.resumed(of)

    monkeypatch.setattr(control, "resumed", again)
    found("a finished call is not made again")


def test_it_is_found_that_an_effect_in_doubt_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(run: Run, step: Step, path: StepPath, *, is_open: bool) -> Command:
        return attempts.call(run, step, path)

    monkeypatch.setattr(attempts, "resolve_doubt", call)
    found("an effect happens once")


def test_it_is_found_that_effects_are_taken_back_first_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    last_first = undo.reversible
    monkeypatch.setattr(undo, "reversible", lambda run: last_first(run)[::-1])
    found("effects are taken back in reverse order")


def test_it_is_found_that_a_late_duplicate_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    legal = {**moves.STEP_MOVES, ("succeeded", "StepSucceeded"): "succeeded"}
    monkeypatch.setattr(moves, "STEP_MOVES", legal)
    found("a late duplicate is refused")


def test_it_is_found_that_a_failure_of_another_attempt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    flaw = moves._flaw
    monkeypatch.setattr(moves, "_flaw", lambda of, event: "" if isinstance(event, StepFailed) else flaw(of, event))
    found("a late duplicate is refused")


def test_it_is_found_that_a_stale_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    flaw = moves._flaw
    monkeypatch.setattr(moves, "_flaw", lambda of, event: "" if isinstance(event, HumanAnswered) else flaw(of, event))
    found("a stale answer is refused")


def test_it_is_found_that_what_calls_may_use_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "holds", lambda _: {})
    found("budgets hold")


def test_it_is_found_that_what_a_lost_call_may_have_used_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (control, usage):
        monkeypatch.setattr(module, "with_lost", lambda run, _: run)
    found("budgets hold")


def test_it_is_found_that_an_event_that_came_early_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    directed = control.directed

    def forget(run: Run, event: control.Directive) -> Run:
        is_early = isinstance(event, EventReceived) and not any(s.status == "waiting" for s in run.steps.values())
        return run if is_early else directed(run, event)

    monkeypatch.setattr(state, "directed", forget)
    found("an event that came is taken")


def test_it_is_found_that_a_retry_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_after_failure", lambda *_: iter(()))
    found("a run never stalls")


def test_it_is_found_that_a_failure_is_retried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attempts, run_module):
        monkeypatch.setattr(module, "may_retry", lambda _, of: of.status == "failed" and of.attempt > 0)
    found("a run ends")


def test_it_is_found_that_a_pause_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "decide", lambda run: decide(replace(run, is_paused=False)))
    found("a pause holds")


def test_it_is_found_that_a_correction_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_alone(run: Run) -> Plan | None:
        return correction.corrected_by(run.plan, run.corrections[-1], is_given=run.started.plan is not None)

    for module in (control, planning):
        monkeypatch.setattr(module, "corrected_plan", last_alone)
    found("a correction counts")


def test_it_is_found_that_a_cancelled_run_does_not_tell_what_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    is_lasting = correction.is_lasting
    known = {"succeeded"}
    monkeypatch.setattr(
        undo, "is_lasting", lambda run, path: run.step(path).status in known and is_lasting(run, path)
    )
    found("a cancelled run tells what is left")


def test_it_is_found_that_a_call_stands_in_for_what_may_have_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "is_undecided", lambda _: False)
    found("an effect happens once", first=3_500)  # a rare course: one seed in some thousands


# the command --------------------------------------------------------------------------------------------------


def test_the_command_tells_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "20", "--first", "100"]) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(r"20 seeds, \d+ events, \d+ crashes, 0 divergences, \d+\.\d s\n", line)


def test_the_command_tells_the_first_divergences_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spending, "refusal", lambda *_: None)
    assert main(["--seeds", "400"]) == 1
    first, *rest = capsys.readouterr().out.split("\n\n")
    assert "0 divergences" not in first
    assert 0 < len(rest) <= 3
    assert all(": budgets hold: " in told for told in rest)


# what the simulator found in the core -------------------------------------------------------------------------


def test_a_nudge_counts_while_a_planner_is_asked(given: Callable[..., Run], accepted: Callable[..., Events]) -> None:
    begun = accepted(Step(id="s1", use="plan.goal", args={"goal": "part"}), callees=(GOAL,))
    parked = (StepResolved(path="s1"), StepStarted(path="s1", attempt=1, key="k"), StepParked(path="s1"))
    asked = (Steered(by="user", text="otherwise"), PlanAbandoned(revision=2, reason="corrected"))
    run = given(*begun, *parked, *asked, StepNudged(path="s1"))
    assert (run.phase, run.step("s1").status) == ("planning", "interrupted")


def test_a_cancelled_run_takes_back_what_it_did_while_its_outcome_is_reviewed(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    put = Callee(name="put", summary="Put", declaration=Declaration(effect="write", undo="restore", resource=()))
    begun = accepted(Step(id="s1", use="put"), callees=(put,))
    done = (*called("s1"), StepSucceeded(path="s1", value=Labelled()), ReviewInconclusive())
    cancelled = given(*begun, *done, CancelRequested(by="ann"))
    (began,) = decide(cancelled)
    assert began == Record(UndoBegan(paths=("s1",)))
    (call,) = decide(given(*begun, *done, CancelRequested(by="ann"), UndoBegan(paths=("s1",))))
    assert isinstance(call, Call)
    undoing = given(
        *begun,
        *done,
        CancelRequested(by="ann"),
        UndoBegan(paths=("s1",)),
        StepStarted(path=call.path, attempt=1, key=call.key),
    )
    assert undoing.step("s1~undo").status == "started"


def test_a_nested_run_is_given_what_is_left_but_for_its_own_call(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    budget = Budget(calls=3)
    begun = accepted(Step(id="s1", use="plan.goal", args={"goal": "part"}), callees=(GOAL,), budget=budget)
    allowed = Verdict(then="allow", rules=("all",))
    resolved = StepResolved(path="s1", arguments=Labelled(value={"goal": "part"}), verdict=allowed)
    (call,) = decide(given(*begun, resolved))
    assert isinstance(call, Call)
    assert (call.limits.calls, call.held.calls) == (2, 3)
    started = StepStarted(path="s1", attempt=1, key=call.key, held=call.held)
    (again,) = decide(given(*begun, resolved, started, StepParked(path="s1"), StepNudged(path="s1")))
    assert isinstance(again, Call)
    assert (again.held, again.limits.calls) == (call.held, 2)


def test_a_nested_run_of_which_only_a_person_knows_counts_for_all_that_it_was_given(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    begun = accepted(Step(id="s1", use="plan.goal", args={"goal": "part"}), callees=(GOAL,))
    started = StepStarted(path="s1", attempt=1, key="k", held=Amount(calls=3))
    doubt = (StepInDoubt(path="s1", reason="lost"), HumanAsked(path="s1", question="happened", reason="lost"))
    known = (HumanAnswered(path="s1", answer="yes", by="ann"), StepSucceeded(path="s1", value=Labelled()))
    assert given(*begun, StepResolved(path="s1"), started, *doubt).spent.calls == 1
    assert given(*begun, StepResolved(path="s1"), started, *doubt, *known).spent.calls == 3


def test_a_step_of_which_nobody_knows_stays_in_every_later_plan(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    skipped = OnError(then="skip")
    begun = accepted(Step(id="s1", use="shell.run", args={"text": "x"}, on_error=skipped), Step(id="s2", let="x"))
    doubt = StepFailed(path="s1", fault=Fault(code="A-104", error_class="conflict"))
    run = given(*begun, *called("s1"), StepInDoubt(path="s1", reason="lost"), doubt)
    assert [step.id for step in kept_steps(run)] == ["s1"]


def test_a_call_that_did_not_happen_is_made_by_the_corrected_plan(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    for answered in (
        (HumanAsked(path="s1", question="happened", reason="lost"), HumanAnswered(path="s1", answer="no", by="ann")),
        (StepProbed(path="s1", happened=False),),
    ):
        begun = accepted(Step(id="s1", use="shell.run", args={"text": "x"}), inputs={"x": "x"}, is_given=True)
        doubt = (*called("s1", text="x"), StepInDoubt(path="s1", reason="lost"))
        corrected = (*begun, *doubt, Steered(by="user", inputs={"x": "y"}), *answered)
        (abandoned,) = recorded(given(*corrected))
        assert isinstance(abandoned, PlanAbandoned)
        (plan,) = recorded(given(*corrected, abandoned))
        (call,) = decide(given(*corrected, abandoned, plan))
        assert isinstance(call, Call)
        assert (call.path, call.key, call.attempt) == ("s1", "s1", 2)


def recorded(run: Run) -> Events:
    return tuple(command.event for command in decide(run) if isinstance(command, Record))


def test_what_came_after_what_is_done_anew_on_the_same_thing_is_done_anew_too(
    given: Callable[..., Run], accepted: Callable[..., Events]
) -> None:
    put = Callee(
        name="put",
        summary="Put",
        parameters=(Parameter(name="at"),),
        declaration=Declaration(effect="write", undo="restore", resource=("box:{at}",)),
    )
    steps = (
        Step(id="s1", use="put", args={"at": "$inputs.at"}),
        *(box(n, at) for n, at in (("s2", "b"), ("s3", "c"))),
    )
    begun = accepted(*steps, inputs={"at": "a"}, callees=(put,), is_given=True)
    done = [
        event
        for id_, at in (("s1", "a"), ("s2", "b"), ("s3", "c"))
        for event in (*called(id_, at=at), StepSucceeded(path=id_, value=Labelled()))
    ]
    run = given(*begun, *done)
    assert run.plan is not None
    assert superseded(run, with_inputs(run.plan, {"at": "b"})) == {"s1", "s2"}


def box(id_: str, at: str) -> Step:
    return Step(id=id_, use="put", args={"at": at})


def called(path: StepPath, **arguments: Json) -> Events:
    return StepResolved(path=path, arguments=Labelled(value=arguments)), StepStarted(path=path, attempt=1, key=path)
