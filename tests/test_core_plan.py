from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from planner.core.plan import (
    MAX_STEPS,
    Plan,
    Step,
    is_tolerated,
    item_path,
    own_names,
    reads,
    split_path,
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
    ],
)
def test_a_step_reads_every_name_but_those_of_its_own_items(fields: dict[str, Any], names: set[str]) -> None:
    assert reads(step(**fields)) == names


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


@pytest.mark.parametrize(
    "path", ["", "[0]", "s1[", "s1[]", "s1[x]", "s1[-1]", "s1[01]", "s1[0][1]", "s1[0]x", "s1[²]"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not a step path such as `s4`"):
        split_path(path)
