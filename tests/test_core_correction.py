"""What the next plan of a run begins with, after a failure or a correction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.correction import (
    corrected_plan,
    is_effect,
    is_lasting,
    lasting,
    reads_input,
    stale_steps,
    superseded,
    superseded_by,
    undo_report,
)
from planner.core.events import (
    CancelRequested,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlanProposed,
    Recorded,
    Remainder,
    ReviewPassed,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepParked,
    StepProbed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoBegan,
)
from planner.core.labels import TRUSTED, Integrity, Json, Labelled
from planner.core.plan import Plan, Step
from planner.core.run import Run, StepState, is_taken_back, kept_steps
from planner.core.state import evolve
from planner.errors import JournalError

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


def refused(run: Run, event: Event) -> str:
    with pytest.raises(JournalError, match="J-204") as caught:
        then(run, event)
    return caught.value.message


def value(value: Json = 1) -> Labelled:
    return Labelled(value=value)


def step(id_: str, use: str = "files.read", args: dict[str, Json] | None = None, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use, "args": args or {"path": id_}} | fields)


def put(id_: str, name: Json, **fields: Any) -> Step:
    return step(id_, "store.put", {"name": name, "text": "x"}, **fields)


def called(path: str, key: str = "", /, **arguments: Json) -> tuple[Event, ...]:
    """A call under way."""
    resolved = StepResolved(path=path, arguments=Labelled(value=arguments))
    return resolved, StepStarted(path=path, attempt=1, key=key or f"k-{path}")


def made(path: str, key: str = "", /, **arguments: Json) -> tuple[Event, ...]:
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


def corrected(run: Run, **correction: Any) -> Run:
    """The run after a correction that needs no planner, and after what is taken back for it."""
    run = abandoned(then(run, Steered(by="user", **correction)), "corrected")
    assert run.given is not None
    return run


# corrections -------------------------------------------------------------------------------------------------

INPUTS = {"x": 1, "y": 1}


def steerable(given: Given, accepted: Accepted, every: Callees, *steps: Step, **more: Any) -> Run:
    return given(*accepted(*steps, inputs=INPUTS, callees=every, is_given=True, **more))


def test_corrections_of_inputs_add_up_until_a_plan_takes_them_up(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    run = steerable(given, accepted, every, step("s1"))
    run = then(run, Steered(by="user", inputs={"x": 2}), Steered(by="user", inputs={"y": 3}))
    plan = corrected_plan(run)
    assert plan is not None
    assert (plan.inputs, run.is_corrected) == ({"x": 2, "y": 3}, True)
    run = abandoned(run)
    assert (run.given, run.is_corrected) == (plan, False)
    run = then(run, Steered(by="user", inputs={"x": 4}))
    assert run.given is not None
    assert run.given.inputs == {"x": 4, "y": 3}
    run = then(passed(run, run.given), Steered(by="user", inputs={"y": 5}))
    again = corrected_plan(run)
    assert again is not None
    assert again.inputs == {"x": 4, "y": 5}


def test_a_plan_takes_the_place_of_the_one_before_with_the_inputs_that_come_along(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    run = steerable(given, accepted, every, step("s1"))
    other = Plan(steps=(step("s2"),), inputs={"z": 1})
    run = then(run, Steered(by="user", inputs={"x": 2}), Steered(by="user", plan=other, inputs={"z": 2}))
    assert corrected_plan(run) == other.model_copy(update={"inputs": {"z": 2}})


def test_words_or_unknown_inputs_are_for_the_planner(given: Given, accepted: Accepted, every: Callees) -> None:
    run = given(*accepted(step("s1"), inputs=INPUTS, callees=every))
    for correction in ({"text": "in French"}, {"inputs": {"z": 1}}, {"inputs": {"x": 2}, "text": "in French"}):
        steered = then(run, Steered.model_validate({"by": "user", **correction}))
        assert corrected_plan(steered) is None
        assert corrected_plan(then(steered, Steered(by="user", inputs={"x": 3}))) is None
        assert abandoned(steered).given is None
        plan = Plan(steps=(step("s2"),))
        assert corrected_plan(then(steered, Steered(by="user", plan=plan))) == plan


def test_a_correction_while_a_planner_is_asked_asks_it_anew(given: Given, started: Started) -> None:
    run = then(given(started()), PlanProposed(revision=1, attempt=1, plan=None), Steered(by="user", text="in French"))
    assert (run.proposal, run.attempt, run.given, len(run.corrections)) == (None, 0, None, 1)
    plan = Plan(steps=(step("s1"),))
    run = then(run, Steered(by="user", plan=plan))
    assert run.given == plan
    assert then(run, Steered(by="user", text="no, you do it")).given is None


def test_a_run_of_a_given_plan_is_corrected_by_a_plan_or_by_inputs_that_it_has(
    given: Given, started: Started, accepted: Accepted, every: Callees
) -> None:
    executing = steerable(given, accepted, every, step("s1"))
    planning = given(started(plan=Plan(steps=(step("s1"),), inputs=INPUTS)))
    for run in (executing, planning):
        assert refused(run, Steered(by="user", text="in French")).startswith("`Steered` is illegal: it takes a plan")
        assert refused(run, Steered(by="user", inputs={"z": 1})).endswith("has no such input")
        assert refused(run, Steered(by="user")).startswith("`Steered` is illegal: it takes")
        then(run, Steered(by="user", text="why", inputs={"x": 2}))
    assert refused(then(executing, CancelRequested(by="user")), Steered(by="user", inputs={"x": 2})).endswith(
        "cancelled"
    )
    assert refused(given(started()), Steered(by="user")).startswith("`Steered` is illegal")


def test_of_anybody_else_only_inputs_count(given: Given, accepted: Accepted, every: Callees) -> None:
    run = given(*accepted(step("s1"), inputs=INPUTS, callees=every))
    for correction in ({"text": "in French"}, {"plan": Plan(steps=(step("s2"),))}):
        event = Steered.model_validate({"by": "bob", **correction})
        assert refused(run, event).endswith("only the principal's words and plans count")
    assert then(run, Steered(by="bob", inputs={"x": 2})).input_labels["x"].integrity is Integrity.UNTRUSTED
    assert then(run, Steered(by="user", inputs={"x": 2})).input_labels == {"x": TRUSTED}


def test_a_correction_while_an_outcome_is_reviewed_waits_for_the_review(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step("s1")), StepSucceeded(path="s1", value=value()), ReviewPassed(criteria=()))
    assert then(run, Steered(by="user", text="in French")).is_corrected


@pytest.mark.parametrize(
    ("args", "is_read"),
    [
        ({"path": "$inputs.x"}, True),
        ({"path": "${inputs . x + 1}"}, True),
        ({"path": "$inputs"}, True),
        ({"path": "${inputs['x']}"}, True),
        ({"path": "$inputs.xy"}, False),
        ({"path": "$inputs.y"}, False),
        ({"path": "x"}, False),
    ],
)
def test_a_step_reads_an_input_that_it_names_or_all_of_them(args: dict[str, Json], is_read: bool) -> None:
    assert reads_input(step("s1", args=args), "x") is is_read


def test_a_changed_input_supersedes_what_read_it_and_what_was_made_from_that(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = (
        put("s1", "$inputs.x"),
        put("s2", "$inputs.y"),
        Step(id="s3", let="$s1"),
        put("s4", "d", after=["s3"]),
        Step(id="s5", let="$s2"),
    )
    run = steerable(given, accepted, every, *steps)
    assert run.plan is not None
    other = run.plan.model_copy(update={"inputs": {"x": 2, "y": 1}})
    assert superseded(run, other) == {"s1", "s3", "s4"}
    assert superseded(run, run.plan) == frozenset()
    assert superseded(run, run.plan.model_copy(update={"inputs": {"x": 1}})) == {"s2", "s5"}
    left_out = run.plan.model_copy(update={"steps": steps[:1]})
    assert superseded(run, left_out) == {"s2", "s3", "s4", "s5"}


def test_what_looked_at_or_changed_the_same_thing_after_a_superseded_effect_is_superseded_too(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    look = step("s2", "store.look", {"name": "a"})
    run = given(
        *accepted(
            put("s1", "a"),
            look,
            put("s3", "a"),
            step("s4", "store.look", {"name": "b"}),
            step("s5", "mail.send", {"to": "a@b.c", "text": "x"}),
            put("s6", "b"),
            put("s7", "a"),
            callees=every,
        ),
        *made("s1", name="a"),
        *made("s2", name="a"),
        *made("s3", name="a"),
        *made("s4", name="b"),
        *made("s5", to="a@b.c"),
        *made("s6", name="b"),
        *called("s7", name="a"),
        StepFailed(path="s7", fault=LOST),
    )
    assert superseded_by(run, {"s1"}) == {"s1", "s2", "s3"}
    assert superseded_by(run, {"s2"}) == {"s2"}
    assert superseded_by(run, ()) == frozenset()


def test_what_an_effect_will_touch_when_it_is_done_anew_supersedes_what_did_so_already(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = (put("s1", "$inputs.x"), step("s2", "store.look", {"name": "b"}), put("s3", "c"), step("s4"))
    done = (*made("s1", name="a"), *made("s2", name="b"), *made("s3", name="c"), *made("s4", path="s4"))
    run = then(steerable(given, accepted, every, *steps), *done)
    assert run.plan is not None
    for name, stale in (("b", {"s2"}), ("c", {"s3"}), ("d", set()), (7, {"s2", "s3"}), ({"y": 1}, {"s2", "s3"})):
        other = run.plan.model_copy(update={"inputs": {"x": name, "y": 1}})
        assert superseded(run, other) == {"s1", *stale}
    inserted = run.plan.model_copy(update={"steps": (steps[0], put("s5", "$inputs.x.z"), *steps[1:])})
    assert superseded(run, inserted) == {"s2", "s3"}
    looked = put("s1", "a"), step("s2", "store.look", {"name": "$inputs.x"}), put("s3", "b"), put("s4", "c")
    done = (*made("s1", name="a"), *made("s2", name="a"), *made("s3", name="b"), *made("s4", name="c"))
    later = then(steerable(given, accepted, every, *looked), *done)
    assert later.plan is not None
    assert superseded(later, later.plan.model_copy(update={"inputs": {"x": "b", "y": 1}})) == {"s2", "s3"}
    behind = run.plan.model_copy(update={"steps": (*steps, put("s5", "b"))})
    assert superseded(run, behind) == frozenset()
    anything = run.plan.model_copy(update={"steps": (step("s5", "shell.run", {"text": "x"}), *steps)})
    assert superseded(run, anything) == {"s1", "s2", "s3", "s4"}


def test_what_cannot_be_taken_back_stays_after_what_anything_may_have_changed(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    shell, mail = step("s1", "shell.run", {"text": "x"}), step("s2", "mail.send", {"to": "a@b.c", "text": "x"})
    run = given(
        *accepted(shell, mail, put("s3", "a"), callees=every), *made("s1"), *made("s2"), *made("s3", name="a")
    )
    assert superseded_by(run, {"s1"}) == {"s1", "s3"}


def test_a_correction_keeps_what_it_does_not_touch_as_it_is(given: Given, accepted: Accepted, every: Callees) -> None:
    asks = step("s3", "human.user", {"question": "which?"})
    skip = step("s4", on_error={"then": "skip"})
    steps = (put("s1", "$inputs.x"), put("s2", "b"), asks, skip, step("s5"), Step(id="s6", let="${s4 ?? 0}"))
    run = then(
        steerable(given, accepted, every, *steps),
        *made("s1", name="a"),
        *made("s2", name="b"),
        StepResolved(path="s3"),
        HumanAsked(path="s3", question="answer", reason="which?"),
        StepFailed(path="s4", fault=LOST),
        StepSucceeded(path="s6", value=value(0)),
        StepFailed(path="s5", fault=LOST),
    )
    run = corrected(run, inputs={"x": "c"})
    assert run.given is not None
    assert stale_steps(run, run.given) == {"s1"}
    run = passed(then(run, UndoBegan(paths=("s1",))), run.given)
    assert {path: state.status for path, state in run.steps.items()} == {
        "s1~undo": "resolved",
        "s2": "succeeded",
        "s3": "asked",
        "s4": "failed",
        "s6": "succeeded",
    }


def test_what_is_being_taken_back_is_done_anew_by_whatever_plan_follows(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    first, later = put("s1", "$inputs.x"), Step(id="s2", let="$s1")
    begun = steerable(given, accepted, every, first, later)
    run = corrected(then(begun, *made("s1", name="a"), StepSucceeded(path="s2", value=value())), inputs={"x": 2})
    run = then(run, UndoBegan(paths=("s1",)))
    assert is_taken_back(run, "s1")
    run = then(run, Steered(by="user", inputs={"x": 1}))
    assert run.given == begun.plan
    assert run.given is not None
    assert stale_steps(run, run.given) == {"s1", "s2"}
    run = passed(run, run.given)
    assert set(run.steps) == {"s1~undo"}
    again = then(run, *made("s1", "k2", name="a"))
    assert not is_taken_back(again, "s1")
    assert stale_steps(again, Plan(steps=(first, later), inputs=INPUTS)) == frozenset()


def test_a_failure_of_which_nobody_knows_whether_it_happened_is_not_simply_done_again(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    sent = step("s1", "mail.send", {"to": "a@b.c", "text": "x"})
    unknown = StepFailed(path="s1", fault=Fault(code="A-104", error_class="conflict"))
    doubt = StepInDoubt(path="s1", reason="")
    run = then(steerable(given, accepted, every, sent, step("s2")), *called("s1"), doubt, unknown)
    run = corrected(run, inputs={"x": 2})
    assert run.given is not None
    assert passed(run, run.given).step("s1").status == "failed"


def test_effects_that_the_next_plan_knows_nothing_of_are_remembered(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    sent = step("s1", "mail.send", {"to": "$inputs.x", "text": "x"})
    run = then(steerable(given, accepted, every, sent, put("s2", "$inputs.x")), *made("s1"), *made("s2", name="a"))
    run = corrected(run, inputs={"x": 2})
    assert run.given is not None
    run = passed(then(run, UndoBegan(paths=("s2",))), run.given)
    assert run.left == (Remainder(path="s1", reason="it cannot be taken back"),)


def test_a_nested_run_that_waits_is_no_part_of_a_plan_that_a_planner_makes_anew(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    goal = step("s1", "plan.goal", {"goal": "a part"})
    parked = (*called("s1"), StepParked(path="s1"))
    run = given(*accepted(goal, step("s2"), callees=every), *parked, StepFailed(path="s2", fault=LOST))
    plan = Plan(steps=(step("s3"),))
    run = then(abandoned(run), PlanProposed(revision=2, attempt=1, plan=plan))
    assert stale_steps(run, plan) == {"s1"}
    assert set(passed(then(run, UndoBegan(paths=("s1",))), plan).steps) == {"s1~undo"}


def test_a_map_of_nested_runs_that_is_kept_keeps_those_that_wait(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    goals = step("s1", "plan.goal", {"goal": "$item"}, for_each=["a", "b"])
    events = (MapResolved(path="s1", items=value(["a", "b"])), *made("s1[0]"), *called("s1[1]"))
    run = given(*accepted(goals, step("s2"), callees=every), *events, StepParked(path="s1[1]"))
    run = then(run, StepFailed(path="s2", fault=LOST))
    assert stale_steps(run, Plan(steps=(goals,))) == frozenset()
    assert continued(run).step("s1[1]").status == "parked"


def test_inputs_told_to_a_planner_supersede_what_read_them(given: Given, accepted: Accepted, every: Callees) -> None:
    steps = (put("s1", "$inputs.x"), put("s2", "$inputs.y"))
    run = given(*accepted(*steps, inputs=INPUTS, callees=every), *made("s1", name="a"), *made("s2", name="b"))
    run = abandoned(then(run, Steered(by="user", inputs={"x": 2}, text="in French")))
    assert run.given is None
    assert stale_steps(run, Plan(steps=steps)) == {"s1"}


# effects -----------------------------------------------------------------------------------------------------

DOUBT = StepInDoubt(path="s1", reason="no answer")
WHO_KNOWS = HumanAsked(path="s1", question="happened", reason="")


@pytest.mark.parametrize(
    ("use", "events", "is_one"),
    [
        ("files.write", (*made("s1"),), True),
        ("files.read", (*made("s1"),), False),
        ("files.write", (StepSucceeded(path="s1", value=value()),), False),
        ("files.write", (*called("s1"), StepFailed(path="s1", fault=LOST)), False),
        ("files.write", (*called("s1"), DOUBT), True),
        ("files.write", (*called("s1"), RunResumed(owner="p2")), True),
        ("mail.send", (*called("s1"), DOUBT, WHO_KNOWS), True),
        ("files.append", (*called("s1"), DOUBT, StepProbed(path="s1", happened=True)), True),
        ("files.append", (*called("s1"), DOUBT, StepProbed(path="s1", happened=False)), False),
        ("mail.send", (*called("s1"), DOUBT, WHO_KNOWS, HumanAnswered(path="s1", answer="no", by="user")), False),
        (
            "files.write",
            (*called("s1"), DOUBT, StepStarted(path="s1", attempt=2, key="k"), StepFailed(path="s1", fault=LOST)),
            True,
        ),
        ("plan.goal", (*called("s1"), StepFailed(path="s1", fault=LOST)), True),
        ("plan.goal", (*called("s1"), StepParked(path="s1")), True),
        ("files.write", (*made("s1"), RunForked(origin="r0", at_event=1)), False),
    ],
)
def test_an_effect_is_what_happened_or_may_have(
    use: str, events: tuple[Event, ...], is_one: bool, given: Given, accepted: Accepted, every: Callees
) -> None:
    run = given(*accepted(step("s1", use), callees=every), *events)
    assert is_effect(run, "s1") is is_one
    assert is_lasting(run, "s1") is is_one


def test_what_lasts_is_told_with_the_reason() -> None:
    assert lasting(StepState(status="succeeded")) == "it cannot be taken back"
    assert lasting(StepState(status="in_doubt")) == "nobody knows whether it happened"


def test_a_report_says_what_was_taken_back_and_what_could_not_be(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = [put(f"s{n}", f"{n}") for n in (1, 2, 3)]
    effects = [event for n in (1, 2, 3) for event in made(f"s{n}", name=f"{n}")]
    run = given(*accepted(*steps, callees=every), *effects, CancelRequested(by="user"))
    run = then(run, UndoBegan(paths=("s3", "s2", "s1")))
    fault = Fault(code="T-9", error_class="conflict", message="it was changed since")
    started = [StepStarted(path=f"s{n}~undo", attempt=1, key=f"k-s{n}-undo") for n in (3, 2, 1)]
    assert not is_lasting(run, "s1")
    run = then(
        run,
        started[0],
        StepSucceeded(path="s3~undo", value=Labelled()),
        started[1],
        StepFailed(path="s2~undo", fault=fault),
        started[2],
    )
    left = (
        Remainder(path="s2", reason="it was changed since"),
        Remainder(path="s1", reason="nobody knows whether it was taken back"),
    )
    assert undo_report(run) == (("s3",), left)
    assert not is_effect(run, "s3~undo")
