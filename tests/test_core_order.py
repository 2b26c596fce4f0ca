"""That runs keep this order is a law of its own, in `test_core_laws`."""

from __future__ import annotations

import pytest

from planner.core.catalog import Callee, CalleeKind, Declaration, Effect, Parameter
from planner.core.labels import Json
from planner.core.order import Keys, keys, may_conflict, must_keep_order


def callee(*resource: str, effect: Effect = "write", is_unknown: bool = False) -> Callee:
    return Callee(
        name="x.y",
        summary="",
        parameters=(
            Parameter(name="path", type="path"),
            Parameter(name="folder", type="folder", required=False, default="."),
            Parameter(name="id", type="id", required=False),
        ),
        declaration=Declaration(effect=effect, resource=None if is_unknown else resource),
    )


# keys


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a.txt", "file:a.txt"),
        ("./d//../A.TXT ", "file:a.txt"),
        ("d\\b.txt", "file:d/b.txt"),
        ("cafe\u0301.txt", "file:caf\u00e9.txt"),
        ("{folder}", "file:{folder}"),
    ],
)
def test_two_ways_to_write_a_path_give_one_key(path: str, key: str) -> None:
    assert keys(callee("file:{path}"), {"path": path}) == frozenset({key})


@pytest.mark.parametrize(
    "value", ["$s1", "${'a' + '.txt'}", "a$$b", "d/${item}", None, 3, ["a"], "/a.txt", "../d/a.txt", ".."]
)
def test_a_path_that_is_not_known_for_certain_is_an_unknown_key(value: Json) -> None:
    assert keys(callee("file:{path}"), {"path": value}) is None


def test_a_key_takes_the_default_of_an_argument_that_is_left_out() -> None:
    assert keys(callee("file:{folder}/**"), {}) == frozenset({"file:**"})
    assert keys(callee("file:{folder}/**"), {"folder": "d/"}) == frozenset({"file:d/**"})
    assert keys(callee("order:{id}"), {}) is None
    assert keys(callee("order:{name}"), {}) is None


def test_only_paths_are_normalised() -> None:
    assert keys(callee("url:{id}"), {"id": "http://h/../x"}) == frozenset({"url:http://h/../x"})


def test_a_callee_with_several_resources_has_a_key_for_each() -> None:
    both = callee("file:{path}", "order:{id}")
    assert keys(both, {"path": "a", "id": "7"}) == frozenset({"file:a", "order:7"})
    assert keys(both, {"path": "a", "id": "$s1"}) is None


def test_a_callee_may_touch_anything_or_nothing() -> None:
    assert keys(callee(is_unknown=True), {}) is None
    assert keys(callee(), {}) == frozenset()
    assert keys(callee(effect="pure", is_unknown=True), {}) == frozenset()


# conflicts


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        ({"file:a"}, {"file:a"}, True),
        ({"file:a"}, {"file:b"}, False),
        ({"file:d/**"}, {"file:d/x/y"}, True),
        ({"file:d/**"}, {"file:d"}, True),
        ({"file:d/**"}, {"file:dx"}, False),
        ({"file:d/**"}, {"file:d/x/**"}, True),
        ({"file:**"}, {"file:a"}, True),
        ({"file:**"}, {"order:a"}, False),
        ({"file:b", "order:1"}, {"file:a", "order:1"}, True),
        (set(), {"file:a"}, False),
        (None, {"file:a"}, True),
        (None, set(), False),
        (None, None, True),
    ],
)
def test_two_calls_conflict_where_they_may_touch_the_same(
    first: set[str] | None, second: set[str] | None, conflict: bool
) -> None:
    one, other = (None if names is None else frozenset(names) for names in (first, second))
    assert may_conflict(one, other) is conflict
    assert may_conflict(other, one) is conflict


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("read", "read", False),
        ("read", "fetch", False),
        ("read", "write", True),
        ("write", "read", True),
        ("write", "send", True),
        ("pure", "write", False),
        ("execute", "pure", False),
    ],
)
def test_an_effect_keeps_its_place_among_reads_and_effects_on_the_same(
    first: Effect, second: Effect, kept: bool
) -> None:
    same: Keys = frozenset({"file:a"})
    assert must_keep_order((callee(effect=first), same), (callee(effect=second), same)) is kept
    assert not must_keep_order((callee(effect=first), same), (callee(effect=second), frozenset({"file:b"})))


@pytest.mark.parametrize("kind", ["gate", "wait"])
def test_an_approval_or_a_wait_stands_between_the_effects_around_it_whatever_they_touch(kind: CalleeKind) -> None:
    halt = callee(effect="pure").model_copy(update={"kind": kind}), frozenset[str]()
    kept: dict[Effect, bool] = {"write": True, "send": True, "read": False, "pure": False}
    for effect, is_kept in kept.items():
        other = callee("file:{path}", effect=effect), frozenset({"file:a"})
        assert must_keep_order(halt, other) is is_kept
        assert must_keep_order(other, halt) is is_kept
    assert must_keep_order(halt, halt)


def test_a_question_to_a_person_holds_up_nothing() -> None:
    ask = callee(effect="pure").model_copy(update={"kind": "human"}), frozenset[str]()
    assert not must_keep_order(ask, (callee("file:{path}"), frozenset({"file:a"})))
