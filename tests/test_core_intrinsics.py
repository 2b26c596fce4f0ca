from __future__ import annotations

from typing import Any

import pytest

from planner.core.catalog import RESERVED, is_type
from planner.core.intrinsics import ANSWER_TYPES, fitting, human, intrinsics
from planner.core.labels import Json
from planner.errors import PlanError


def test_the_language_asks_each_role_and_has_gates_waits_and_goals() -> None:
    known = intrinsics(("user", "boss"))
    assert list(known) == ["human.user", "human.boss", "gate.approve", "wait.until", "wait.event", "plan.goal"]
    assert all(name == callee.name for name, callee in known.items())
    assert {callee.kind for callee in known.values()} == {"human", "gate", "wait", "plan"}


def test_a_callee_of_the_language_is_declared_as_any_other() -> None:
    for callee in intrinsics(("user",)).values():
        assert callee.name.partition(".")[0] in RESERVED
        assert callee.kind == callee.name.partition(".")[0]
        assert is_type(callee.result)
        assert all(is_type(parameter.type) for parameter in callee.parameters)
        assert set(callee.declaration.control) <= {parameter.name for parameter in callee.parameters}


def test_nothing_but_a_goal_has_an_effect_of_its_own() -> None:
    known = intrinsics(("user",))
    assert [name for name, callee in known.items() if not callee.is_reading] == ["plan.goal"]
    goal = known["plan.goal"].declaration
    assert (goal.on_doubt, goal.undo, goal.reversible) == ("idempotent", "cancel", True)


def test_a_question_offers_the_types_of_answers_that_can_be_read() -> None:
    parameter = human("user").parameter("type")
    assert parameter is not None
    assert (parameter.choices, parameter.default) == (ANSWER_TYPES, "text")
    assert all(is_type(type_) for type_ in ANSWER_TYPES)


@pytest.mark.parametrize(
    ("given", "arguments", "answer"),
    [
        ("yes, do", {}, "yes, do"),
        (7, None, "7"),
        ("x", ["no record"], "x"),
        ("x", {"type": None}, "x"),
        ("7.5", {"type": "number"}, 7.5),
        (7, {"type": "number"}, 7.0),
        ("7", {"type": "integer"}, 7),
        (7.0, {"type": "integer"}, 7),
        ("7.0", {"type": "integer"}, 7),
        (" 12345678901234567890 ", {"type": "integer"}, 12345678901234567890),
        (12345678901234567890, {"type": "integer"}, 12345678901234567890),
        (" Yes ", {"type": "boolean"}, True),
        (False, {"type": "boolean"}, False),
        (" 2026-03-01 ", {"type": "date"}, "2026-03-01"),
        ("a, b;c\n\nd", {"type": "list[text]"}, ["a", "b", "c", "d"]),
        (["a"], {"type": "list[text]"}, ["a"]),
        ('{"a": 1}', {"type": "record"}, {"a": 1}),
        ({"a": 1}, {"type": "record"}, {"a": 1}),
        (" RED ", {"choices": ["red", "blue"]}, "red"),
        ("2", {"choices": [1, 2], "type": "text"}, 2),
        ("x", {"choices": []}, "x"),
    ],
)
def test_an_answer_is_read_as_the_question_wants_it(given: Json, arguments: Json, answer: Json) -> None:
    assert fitting(given, arguments) == answer


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ("soon", {"type": "number"}),
        ("nan", {"type": "number"}),
        ("1e999", {"type": "number"}),
        (True, {"type": "number"}),
        (None, {"type": "number"}),
        (10**400, {"type": "number"}),
        ("7.5", {"type": "integer"}),
        (True, {"type": "integer"}),
        ("perhaps", {"type": "boolean"}),
        ("tomorrow", {"type": "date"}),
        ("[1]", {"type": "record"}),
        ("{", {"type": "record"}),
        ("[" * 100_000, {"type": "record"}),
        ('{"a": %s}' % ("[" * 500 + "]" * 500), {"type": "record"}),
        ('{"a": NaN}', {"type": "record"}),
        ('{"a": [1e999]}', {"type": "record"}),
        ('{"a": "\\ud800"}', {"type": "record"}),
        ({"a": {"\ud800": 1}}, {"type": "record"}),
        ([float("nan")], {"type": "list[text]"}),
        ("x", {"type": "table"}),
        ("green", {"choices": ["red", "blue"]}),
    ],
)
def test_what_is_no_such_answer_is_refused(given: Json, arguments: Any) -> None:
    with pytest.raises(PlanError) as caught:
        fitting(given, arguments)
    assert caught.value.code == "P-304"
    assert f"`{given}` is no" in caught.value.message


def test_a_text_that_is_no_unicode_is_refused_in_words_that_are() -> None:
    with pytest.raises(PlanError) as caught:
        fitting("a\ud800b", {})
    assert (caught.value.code, caught.value.message) == ("P-304", "`a?b` is no text")
