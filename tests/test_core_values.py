from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    MapResolved,
    Steered,
    StepFailed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from planner.core.expr import Missing, MissingValue
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Json, Label, Labelled, gather
from planner.core.plan import Step
from planner.core.run import Run
from planner.core.values import (
    Frame,
    View,
    answer,
    answer_of,
    arguments,
    condition,
    control,
    inside,
    item_names,
    items,
    let,
    lost,
    scope,
    under,
)
from planner.errors import PlanError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

SKIPPED, LOST = Missing(reason="skipped"), Missing(reason="failed")
GONE = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")


def step(id_: str = "s1", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": "files.read", "args": {"path": "a"}} | fields)


def succeeded(path: str, value: Json, label: Label = TRUSTED) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value, label=label))


def view(run: Run) -> View:
    assert run.plan is not None
    return View(run, run.plan)


# outcomes


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (succeeded("s1", 7), Labelled(value=7)),
        (StepSkipped(path="s1", cause="condition"), SKIPPED),
        (StepSkipped(path="s1", cause="failure"), LOST),
        (StepResolved(path="s1"), None),
        (StepFailed(path="s1", fault=GONE), None),
        (None, None),
    ],
)
def test_a_step_gives_a_value_a_reason_for_none_or_nothing_yet(
    event: Event | None, outcome: object, given: Given, accepted: Accepted
) -> None:
    events = (event,) if event else ()
    assert view(given(*accepted(step()), *events)).outcome("s1") == outcome


def test_a_failure_that_the_plan_goes_on_without_is_a_missing_value(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step(on_error={"then": "skip"})), StepFailed(path="s1", fault=GONE))
    assert view(run).outcome("s1") == Missing(reason="failed")


@pytest.mark.parametrize("label", [TRUSTED, BOUNDED, UNTRUSTED])
def test_what_is_missing_is_worth_no_more_than_what_decided_so(
    label: Label, given: Given, accepted: Accepted
) -> None:
    called = StepResolved(path="s1", arguments=Labelled(value={"path": "a"}, label=label))
    run = given(*accepted(step(on_error={"then": "skip"})), called, StepFailed(path="s1", fault=GONE))
    assert view(run).outcome("s1") == Missing(reason="failed", label=label)
    skipped = StepSkipped(path="s1", cause="condition", decided_by=label)
    run = given(*accepted(step(), answer=["$s1"]), skipped)
    assert view(run).outcome("s1") == Missing(reason="skipped", label=label)
    assert answer(view(run)) == Labelled(value=[None], label=label)


def test_a_failure_that_is_tried_again_is_no_outcome_yet(given: Given, accepted: Accepted) -> None:
    begun = (StepResolved(path="s1"), StepStarted(path="s1", attempt=1, key="k"), StepFailed(path="s1", fault=DOWN))
    again = step(on_error={"retry": 1, "then": "skip"})
    assert view(given(*accepted(again), *begun)).outcome("s1") is None
    assert view(given(*accepted(step(on_error={"then": "skip"})), *begun)).outcome("s1") == LOST


def test_a_name_that_is_no_step_of_the_plan_reads_as_skipped(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step()))
    assert scope(view(run), FRAME, frozenset({"s9"})) == {"s9": SKIPPED}


def fell_back(path: str = "s1", *ends: Event) -> tuple[Event, ...]:
    """A call that failed for good, and what came of the one in its place."""
    return (
        StepResolved(path=path),
        StepStarted(path=path, attempt=1, key="k"),
        StepFailed(path=path, fault=GONE),
        *ends,
    )


def test_what_stands_in_for_a_failed_call_gives_the_step_its_value(given: Given, accepted: Accepted) -> None:
    other = step(on_error={"fallback": "text.upper"})
    assert view(given(*accepted(other), *fell_back())).outcome("s1") is None
    run = given(*accepted(other), *fell_back("s1", succeeded("s1~fallback", "b")))
    assert view(run).outcome("s1") == Labelled(value="b")
    run = given(*accepted(other), *fell_back("s1", StepFailed(path="s1~fallback", fault=GONE)))
    assert view(run).outcome("s1") is None
    map_ = step(for_each=[1], on_item_error="drop", on_error={"fallback": "text.upper"})
    begun = (MapResolved(path="s1", items=Labelled(value=[1])), *fell_back("s1[0]"))
    lost_item = StepFailed(path="s1[0]~fallback", fault=GONE)
    assert view(given(*accepted(map_), *begun)).outcome("s1") is None
    assert view(given(*accepted(map_), *begun, lost_item)).outcome("s1") == Labelled(value=[None])


# maps


def mapped(*ends: Event, label: Label = TRUSTED) -> tuple[Event, ...]:
    return (MapResolved(path="s1", items=Labelled(value=[1, 2, 3], label=label)), *ends)


DROPS = step(for_each=[1, 2, 3], on_item_error="drop")
FAILS = step(for_each=[1, 2, 3], on_error={"then": "skip"})
ENDS: tuple[Event, ...] = (
    succeeded("s1[0]", "a", BOUNDED),
    StepFailed(path="s1[1]", fault=GONE),
    StepSkipped(path="s1[2]", cause="condition"),
)


def test_a_map_gives_its_items_in_order_without_the_filtered_and_null_for_the_dropped(
    given: Given, accepted: Accepted
) -> None:
    outcome = view(given(*accepted(DROPS), *mapped(*reversed(ENDS)))).outcome("s1")
    assert isinstance(outcome, Labelled)
    assert outcome.value == ["a", None]
    assert outcome.at((0,)).label == BOUNDED


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_map_has_no_outcome_before_its_last_item_ended(missing: int, given: Given, accepted: Accepted) -> None:
    for map_ in (DROPS, FAILS):
        ends = [end for index, end in enumerate(ENDS) if index != missing]
        assert view(given(*accepted(map_), *mapped(*ends))).outcome("s1") is None


def test_a_map_that_may_lose_no_item_is_lost_with_one(given: Given, accepted: Accepted) -> None:
    gone = view(given(*accepted(FAILS), *mapped(*ENDS))).outcome("s1")
    assert gone == Missing(reason="failed")
    assert view(given(*accepted(step(for_each=[1, 2, 3])), *mapped(*ENDS))).outcome("s1") is None


@pytest.mark.parametrize(("items_", "result"), [(TRUSTED, TRUSTED), (BOUNDED, BOUNDED), (UNTRUSTED, BOUNDED)])
def test_a_list_whose_length_outsiders_chose_is_not_trusted(
    items_: Label, result: Label, given: Given, accepted: Accepted
) -> None:
    skips = [StepSkipped(path=f"s1[{index}]", cause="condition") for index in range(3)]
    assert view(given(*accepted(DROPS), *mapped(*skips, label=items_))).outcome("s1") == Labelled(
        value=[], label=result
    )


def test_items_for_which_there_was_no_room_are_null_beside_those_that_were_filtered(
    given: Given, accepted: Accepted
) -> None:
    cut = StepSkipped(path="s1[1]", cause="budget")
    ends = (succeeded("s1[0]", "a"), cut, StepSkipped(path="s1[2]", cause="condition"))
    for map_ in (DROPS, FAILS, step(for_each=[1, 2, 3])):
        outcome = view(given(*accepted(map_), *mapped(*ends))).outcome("s1")
        assert outcome == Labelled(value=["a", None])
    ends = (succeeded("s1[0]", "a"), cut, StepSkipped(path="s1[2]", cause="failure"))
    assert view(given(*accepted(FAILS), *mapped(*ends))).outcome("s1") == LOST


# scopes and frames

FRAME = Frame(steps=(step(),))


def test_a_scope_holds_values_and_reasons_once_all_have_ended(given: Given, accepted: Accepted) -> None:
    steps = (step(), step("s2"), step("s3"))
    events = (succeeded("s1", 7), StepSkipped(path="s2", cause="condition"))
    seen = view(given(*accepted(*steps, inputs={"x": 1}), *events))
    assert scope(seen, Frame(steps=steps), frozenset({"inputs", "s1", "s2"})) == {
        "inputs": Labelled(value={"x": 1}),
        "s1": Labelled(value=7),
        "s2": SKIPPED,
    }
    assert scope(seen, Frame(steps=steps), frozenset({"s1", "s3"})) is None


def test_an_item_and_its_index_have_names() -> None:
    listed = gather([Labelled(value="a", label=UNTRUSTED), Labelled(value="b")])
    names = item_names(step(for_each="$s0", **{"as": "row"}), listed, 1)
    assert names == {"row": Labelled(value="b"), "row_i": Labelled(value=1)}


BLOCK = Step.model_validate(
    {
        "id": "s2",
        "if": "s1 > 1",
        "for_each": [1, 2],
        "do": [{"id": "t1", "let": "$item"}, {"id": "t2", "let": "$t1"}],
        "else": [{"id": "t3", "let": 0}],
    }
)


def test_a_block_sees_its_branch_and_its_item_and_what_stands_around_it(given: Given, accepted: Accepted) -> None:
    run = given(
        *accepted(step(), BLOCK, inputs={"x": 1}),
        succeeded("s1", 7),
        MapResolved(path="s2", items=Labelled(value=[1, 2])),
        BlockEntered(path="s2[0]", decided_by=BOUNDED),
        BlockEntered(path="s2[1]", branch="else"),
        succeeded("s2[0]/t1", "a"),
    )
    outer = Frame(steps=(step(), BLOCK))
    own = {"item": Labelled(value=1)}
    frame = inside(outer, BLOCK, "s2[0]", run.step("s2[0]"), own)
    assert (frame.place, frame.decided_by) == ("s2[0]", BOUNDED)
    wanted = frozenset({"item", "t1", "s1", "inputs", "t3"})
    assert scope(view(run), frame, wanted) == {
        "item": Labelled(value=1),
        "t1": Labelled(value="a"),
        "s1": Labelled(value=7),
        "inputs": Labelled(value={"x": 1}),
        "t3": Missing(reason="skipped", label=BOUNDED),
    }
    assert scope(view(run), frame, frozenset({"t2"})) is None
    other = inside(outer, BLOCK, "s2[1]", run.step("s2[1]"), {})
    assert [held.id for held in other.steps] == ["t3"]
    assert scope(view(run), other, frozenset({"t1"})) == {"t1": SKIPPED}


def test_a_block_gives_its_answer_or_the_last_value_of_its_branch(given: Given, accepted: Accepted) -> None:
    run = given(
        *accepted(BLOCK.model_copy(update={"for_each": None, "if_": None})),
        BlockEntered(path="s2"),
        succeeded("s2/t1", 3, UNTRUSTED),
        StepSkipped(path="s2/t2", cause="condition"),
    )
    frame = inside(Frame(steps=(BLOCK,)), BLOCK, "s2", run.step("s2"), {})
    assert answer_of(view(run), frame, None) == Labelled(value=3, label=UNTRUSTED)
    assert answer_of(view(run), frame, ["$t1", "$t2"]).value == [3, None]


# inputs


def test_inputs_that_somebody_else_changed_are_untrusted(given: Given, accepted: Accepted) -> None:
    begun = accepted(step(), inputs={"x": 1, "y": 2}, is_given=True)
    for by, label in (("user", TRUSTED), ("bob", UNTRUSTED.from_source("human:bob"))):
        run = given(*begun, Steered(by=by, inputs={"x": 3}))
        seen = scope(view(run), FRAME, frozenset({"inputs"}))
        assert seen is not None
        inputs = seen["inputs"]
        assert isinstance(inputs, Labelled)
        assert (inputs.at(("x",)).label, inputs.at(("y",)).label) == (label, TRUSTED)


def test_arguments_conditions_and_values_are_resolved_with_their_labels() -> None:
    seen = {"s0": Labelled(value={"n": 2, "text": "x"}, label=UNTRUSTED)}
    given_ = arguments(step(args={"path": "$s0.text", "mode": "w"}), seen)
    assert (given_.at(("path",)).label, given_.at(("mode",)).label) == (UNTRUSTED, TRUSTED)
    assert condition(step(**{"if": "s0.n > 1"}), seen) == Labelled(value=True, label=BOUNDED)
    assert condition(step(), seen) is None
    assert let(Step(id="s1", let="${s0.n + 1}"), seen).value == 3


def test_what_decides_that_a_step_runs_is_the_join_of_condition_and_items() -> None:
    mixed = gather([Labelled(value=1), Labelled(value=2, label=BOUNDED)])
    assert control(None, None) == TRUSTED
    assert control(Labelled(value=True, label=UNTRUSTED), mixed) == UNTRUSTED
    assert control(None, mixed) == BOUNDED


@pytest.mark.parametrize(("decider", "integrity"), [(TRUSTED, TRUSTED), (BOUNDED, BOUNDED), (UNTRUSTED, BOUNDED)])
def test_what_untrusted_data_decided_bounds_the_constants_inside(decider: Label, integrity: Label) -> None:
    assert under(decider, Labelled(value="x")).label == integrity
    assert under(decider, Labelled(value="x", label=UNTRUSTED)).label == UNTRUSTED


def test_a_map_takes_a_list_as_it_is_and_a_text_by_its_lines() -> None:
    listed = Labelled(value=["a", " "], label=BOUNDED)
    assert items(step(for_each="$s0"), {"s0": listed}) == listed
    text = Labelled(value="a\n\n  \nb\n", label=UNTRUSTED)
    assert items(step(for_each="$s0"), {"s0": text}) == Labelled(value=["a", "b"], label=UNTRUSTED)


@pytest.mark.parametrize("value", [{"a": 1}, 3, True, None])
def test_a_map_takes_nothing_else(value: Json) -> None:
    with pytest.raises(PlanError, match=r"P-301.*`for_each` of step `s1` needs a list, but `\$s0` is a"):
        items(step(for_each="$s0"), {"s0": Labelled(value=value)})


# the answer


def test_without_an_answer_the_last_value_is_the_answer(given: Given, accepted: Accepted) -> None:
    steps = (step(), step("s2"), step("s3"))
    events = (succeeded("s1", 1), succeeded("s2", 2), StepSkipped(path="s3", cause="condition"))
    assert answer(view(given(*accepted(*steps), *events))).value == 2
    assert answer(view(given(*accepted(*steps)))) == Labelled()
    assert answer(view(given(*accepted()))) == Labelled()


def test_an_answer_keeps_the_label_of_every_leaf(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step(), answer={"said": "$s1", "by": "us"}), succeeded("s1", "x", UNTRUSTED))
    whole = answer(view(run))
    assert whole.value == {"said": "x", "by": "us"}
    assert (whole.at(("said",)).label, whole.at(("by",)).label) == (UNTRUSTED, TRUSTED)


def test_in_an_answer_a_step_skipped_by_its_condition_reads_as_null(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step(), answer=["$s1", "${s1 ?? 'none'}"]), StepSkipped(path="s1", cause="condition"))
    assert answer(view(run)).value == [None, "none"]


def test_an_answer_without_a_default_for_what_failed_is_an_error(given: Given, accepted: Accepted) -> None:
    lost_step = StepSkipped(path="s1", cause="failure")
    assert answer(view(given(*accepted(step(), answer="${s1 ?? 'none'}"), lost_step))).value == "none"
    with pytest.raises(MissingValue, match="`s1` has no value: it failed"):
        answer(view(given(*accepted(step(), answer="Got $s1"), lost_step)))


def test_what_was_lost_is_named_by_step_or_by_item(given: Given, accepted: Accepted) -> None:
    steps = (
        DROPS,
        step("s2", on_error={"then": "skip"}),
        step("s3"),
        step("s4"),
        step("s5", for_each=[1], on_error={"then": "skip"}),
    )
    events = (
        *mapped(*ENDS),
        StepFailed(path="s2", fault=GONE),
        StepSkipped(path="s3", cause="failure"),
        StepSkipped(path="s4", cause="condition"),
        MapResolved(path="s5", items=Labelled(value=[1])),
        StepFailed(path="s5[0]", fault=GONE),
    )
    assert lost(view(given(*accepted(*steps), *events))) == ("s1[1]", "s2", "s3", "s5")


def test_what_was_lost_in_a_block_is_named_by_its_place_and_what_was_cheaper_too(
    given: Given, accepted: Accepted, every: tuple[Callee, ...]
) -> None:
    held = {"id": "t1", "use": "text.upper", "args": {"text": "a"}}
    block = {"id": "s1", "on_error": {"then": "skip"}, "do": [held]}
    other = step("s2", on_error={"fallback": "text.upper"})
    writer = Step(id="s3", use="agent.writer", args={"task": "x"})
    run = given(
        *accepted(Step.model_validate(block), other, writer, callees=every),
        BlockEntered(path="s1"),
        StepFailed(path="s1/t1", fault=GONE),
        StepFailed(path="s1", fault=GONE),
        *fell_back("s2", StepResolved(path="s2~fallback"), StepSkipped(path="s2~fallback", cause="budget")),
        StepResolved(path="s3"),
        StepStarted(path="s3", attempt=1, key="k", is_cheaper=True),
        succeeded("s3", "x"),
    )
    assert lost(view(run)) == ("s1", "s1/t1", "s2", "s3 (by a cheaper model)")
