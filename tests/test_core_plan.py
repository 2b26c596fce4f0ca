from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from planner.core.plan import (
    MAX_STEPS,
    Fallback,
    OnError,
    Plan,
    Step,
    beside,
    every_step,
    inner_path,
    is_tolerated,
    item_path,
    map_path,
    opening,
    own_names,
    own_path,
    place_of,
    reads,
    role_of,
    root_of,
    split_path,
    stand_in,
)


def step(**fields: Any) -> Step:
    return Step.model_validate({"id": "s9", **fields})


# steps and plans


def test_a_plan_reads_as_people_write_it_and_survives_json() -> None:
    written = {
        "inputs": {"invoice": "a.pdf"},
        "steps": [
            {"id": "s1", "use": "files.read", "args": {"path": "$inputs.invoice"}, "after": []},
            {"id": "s2", "if": "s1 != ''", "for_each": "${lines(s1)}", "as": "line", "let": "$line"},
        ],
        "answer": {"lines": "$s2"},
    }
    plan = Plan.model_validate(written)
    assert plan.steps[1].if_ == "s1 != ''"
    assert plan.steps[1].as_ == "line"
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert Plan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan


def test_a_step_is_found_by_its_id() -> None:
    plan = Plan(steps=(Step(id="s1", let=1), Step(id="s2", let=2)))
    assert plan.step("s2") == plan.steps[1]
    assert plan.step("s3") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "S1"},
        {"id": "1s"},
        {"id": "s1[0]"},
        {"as": "Item"},
        {"max_items": 0},
        {"on_error": {"retry": 11}},
        {"on_error": {"then": "ignore"}},
        {"unless": "s1"},
    ],
)
def test_a_step_that_says_what_no_step_can_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        step(**fields)


def test_a_plan_has_a_greatest_length() -> None:
    steps = tuple(Step(id=f"s{n}", let=1) for n in range(MAX_STEPS + 1))
    assert len(Plan(steps=steps[1:]).steps) == MAX_STEPS
    with pytest.raises(ValidationError):
        Plan(steps=steps)


def test_an_id_names_one_step_of_the_whole_plan() -> None:
    inner = {"id": "t1", "if": "true", "do": [{"id": "u1", "let": 1}], "else": [{"id": "u2", "let": 2}]}
    plan = Plan.model_validate({"steps": [{"id": "s1", "do": [inner]}, {"id": "s2", "let": 3}]})
    assert [held.id for held in every_step(plan.steps)] == ["s1", "t1", "u1", "u2", "s2"]
    assert set(plan.index) == {"s1", "t1", "u1", "u2", "s2"}
    block = plan.index["t1"]
    assert (block.is_block, [held.id for held in block.inner]) == (True, ["u1", "u2"])
    assert not plan.index["u1"].is_block


@pytest.mark.parametrize(
    ("written", "then", "use"),
    [
        ({}, "fail", None),
        ({"then": "ask"}, "ask", None),
        ({"then": "fallback web.mirror"}, "fallback", "web.mirror"),
        ({"fallback": "web.mirror"}, "fallback", "web.mirror"),
        ({"fallback": {"use": "web.mirror"}, "then": "fallback"}, "fallback", "web.mirror"),
        (OnError(then="skip"), "skip", None),
    ],
)
def test_what_follows_a_failure_may_be_written_in_short(written: Any, then: str, use: str | None) -> None:
    on_error = step(on_error=written).on_error
    assert (on_error.then, on_error.fallback and on_error.fallback.use) == (then, use)


@pytest.mark.parametrize(
    "written", [{"then": "fallback"}, {"then": "skip", "fallback": "web.mirror"}, "skip", ["fallback"]]
)
def test_a_fallback_belongs_to_its_word_and_the_word_to_it(written: Any) -> None:
    with pytest.raises(ValidationError):
        step(on_error=written)


def test_the_call_in_the_place_of_another_has_its_own_arguments_or_those_of_the_step() -> None:
    plain = step(use="web.fetch", args={"url": "u"}, timeout_s=3, priority=2)
    assert stand_in(plain) == plain
    other = plain.model_copy(update={"on_error": OnError.model_validate({"fallback": "web.mirror"})})
    assert stand_in(other) == step(use="web.mirror", args={"url": "u"}, timeout_s=3, priority=2)
    own = plain.model_copy(update={"on_error": OnError(then="fallback", fallback=Fallback(use="a.b", args={"x": 1}))})
    assert stand_in(own).args == {"x": 1}


def test_the_step_at_a_path_is_the_one_that_runs_there() -> None:
    held = {"id": "t1", "use": "web.fetch", "on_error": {"fallback": "web.mirror"}}
    plan = Plan.model_validate({"steps": [{"id": "s1", "for_each": [1], "do": [held]}]})
    assert plan.at("s1[0]/t1").use == "web.fetch"
    assert plan.at("s1[0]/t1~fallback").use == "web.mirror"
    assert plan.at("s1[0]").id == "s1"
    with pytest.raises(KeyError):
        plan.at("s9")
    with pytest.raises(ValueError, match="is not a step path"):
        plan.at("s1[")


def test_a_step_with_items_is_a_map() -> None:
    assert step(for_each=[]).is_map
    assert not step().is_map


# what a step reads


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"args": {"a": "$s1.x", "b": ["${s2 + s3}"], "c": "s4"}}, {"s1", "s2", "s3"}),
        ({"let": "$inputs.x"}, {"inputs"}),
        ({"if": "s1 > 1 and s2"}, {"s1", "s2"}),
        ({"for_each": "$s1", "args": {"x": "$item ${item_i} $s2"}}, {"s1", "s2"}),
        ({"for_each": "$s1", "as": "row", "let": "$row", "if": "row_i > item"}, {"s1", "item"}),
        ({"for_each": "$item", "let": "$item"}, {"item"}),
        ({"args": {"a": "$item"}}, {"item"}),
        ({"after": ["s1"], "let": 1}, set()),
        ({"use": "a.b", "on_error": {"fallback": {"use": "c.d", "args": {"x": "$s1"}}}}, {"s1"}),
        ({"use": "a.b", "on_error": {"fallback": "c.d"}}, set()),
        ({"do": [{"id": "t1", "let": "$s1", "after": ["s2"]}, {"id": "t2", "let": "$t1"}]}, {"s1", "s2"}),
        ({"do": [{"id": "t1", "let": 1}], "answer": ["$t1", "$s3"]}, {"s3"}),
        ({"if": "s1 > 1", "do": [{"id": "t1", "let": "$item"}], "for_each": "$s2"}, {"s1", "s2"}),
        ({"do": [{"id": "t1", "let": "$t2"}], "else": [{"id": "t2", "let": "$s1"}]}, {"s1"}),
    ],
)
def test_a_step_reads_every_name_but_those_of_its_own_items(fields: dict[str, Any], names: set[str]) -> None:
    assert reads(step(**fields)) == names


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"use": "a.b", "args": {"x": "$s1"}, "if": "s2"}, {"s1", "s2"}),
        ({"use": "a.b", "on_error": {"fallback": {"use": "c.d", "args": {"x": "$s1"}}}}, set()),
        ({"if": "s1 > 1", "do": [{"id": "t1", "let": "$s2"}], "for_each": "$s3", "answer": "$s4"}, {"s1", "s3"}),
        ({"if": "item > s1", "do": [{"id": "t1", "let": 1}], "for_each": "$s3"}, {"s1", "s3"}),
        ({"do": [{"id": "t1", "let": "$s2"}]}, set()),
    ],
)
def test_a_step_begins_with_all_it_reads_and_a_block_with_what_decides_on_it(
    fields: dict[str, Any], names: set[str]
) -> None:
    assert opening(step(**fields)) == names


def test_only_the_items_of_a_map_have_names_of_their_own() -> None:
    assert own_names(step(for_each=[1], **{"as": "row"})) == {"row", "row_i"}
    assert own_names(step()) == frozenset()


# failing


@pytest.mark.parametrize(
    ("fields", "whole", "item"),
    [
        ({}, False, False),
        ({"on_error": {"then": "skip"}}, True, True),
        ({"on_item_error": "drop"}, False, True),
    ],
)
def test_a_plan_goes_on_without_what_it_may_skip_or_drop(fields: dict[str, Any], whole: bool, item: bool) -> None:
    assert is_tolerated(step(**fields), "s9") is whole
    assert is_tolerated(step(**fields), "s9[0]") is item


# paths


@pytest.mark.parametrize("index", [0, 7, 10, 999])
def test_the_path_of_an_item_names_its_step_and_place(index: int) -> None:
    assert split_path(item_path("s4", index)) == ("s4", index)


def test_the_path_of_a_step_is_its_id() -> None:
    assert split_path("s4") == ("s4", None)
    assert inner_path("", "s4") == "s4"


@pytest.mark.parametrize(
    ("path", "split", "root", "place", "role", "own", "of_map"),
    [
        ("s4", ("s4", None), "s4", "", "call", "s4", "s4"),
        ("s4[2]", ("s4", 2), "s4", "", "call", "s4[2]", "s4"),
        ("s4[2]/t1", ("t1", None), "s4", "s4[2]", "call", "s4[2]/t1", "s4[2]/t1"),
        ("s4/t1[0]", ("t1", 0), "s4", "s4", "call", "s4/t1[0]", "s4/t1"),
        ("s4[2]/t1[0]/u1", ("u1", None), "s4", "s4[2]/t1[0]", "call", "s4[2]/t1[0]/u1", "s4[2]/t1[0]/u1"),
        ("s4~fallback", ("s4", None), "s4", "", "fallback", "s4", "s4"),
        ("s4[2]/t1[0]~undo", ("t1", 0), "s4", "s4[2]", "undo", "s4[2]/t1[0]", "s4[2]/t1"),
    ],
)
def test_a_path_tells_where_a_step_runs_and_what_for(
    path: str, split: object, root: str, place: str, role: str, own: str, of_map: str
) -> None:
    assert (split_path(path), root_of(path), place_of(path), role_of(path)) == (split, root, place, role)
    assert (own_path(path), map_path(path)) == (own, of_map)


def test_paths_are_made_as_they_are_read() -> None:
    path = beside(inner_path(item_path("s4", 2), "t1"), "undo")
    assert path == "s4[2]/t1~undo"
    assert (place_of(path), role_of(path), own_path(path)) == ("s4[2]", "undo", "s4[2]/t1")


@pytest.mark.parametrize(
    "path",
    ["", "[0]", "s1[", "s1[]", "s1[x]", "s1[-1]", "s1[01]", "s1[0][1]", "s1[0]x", "s1[²]", "s1/", "s1~", "s1~redo"],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not a step path such as `s4`"):
        split_path(path)
