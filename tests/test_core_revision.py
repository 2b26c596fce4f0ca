from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.expr import names
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan, Step, reads
from planner.core.repair import repaired
from planner.core.revision import in_order, is_same_call, is_same_form, next_id, reading, with_names

OTHER = {"s1": "s9", "s2": "s8", "read": "s7", "s1_text": "s10"}


@pytest.mark.parametrize(
    ("value", "renamed"),
    [
        ("$s1", "$s9"),
        ("$s1.s1[0]", "$s9.s1[0]"),
        ("$read.x", "$s7.x"),
        ("a $s1 b $s1.x, $$s1 ${s1} $5 s1", "a $s9 b $s9.x, $$s1 ${s9} $5 s1"),
        ("Hello $read ${read}", "Hello $read ${s7}"),
        ("${s1_text} $s1_text", "${s10} $s10"),
        ("${[s1.x for s1 in s2]}", "${[s1.x for s1 in s8]}"),
        ("${ {'s1': s1, 'b': {s2}} } of $s1", "${ {'s1': s9, 'b': {s8}} } of $s9"),
        ("${f'{s1} s1 {{s1}} {s2:.2f}'}", "${f'{s9} s1 {{s1}} {s8:.2f}'}"),
        ("${dict(s1=s1)}", "${dict(s1=s9)}"),
        ("${'s1' in s1 and s1.s1 ?? s2['s1']}", "${'s1' in s9 and s9.s1 ?? s8['s1']}"),
        ("${sorted(s2, key=lambda s1: s1.a)}", "${sorted(s8, key=lambda s1: s1.a)}"),
        ("${'}' + s1}", "${'}' + s9}"),
        ("${s1", "${s1"),
        ("${s3}", "${s3}"),
        (["$s1", {"s1": "$s2"}, 5], ["$s9", {"s1": "$s8"}, 5]),
        ("s1", "s1"),
        (None, None),
    ],
)
def test_a_name_is_changed_where_it_is_read_and_nowhere_else(value: Json, renamed: Json) -> None:
    assert with_names(value, OTHER) == renamed


def test_a_step_reads_other_names_in_every_field() -> None:
    step = Step.model_validate(
        {
            "id": "s5",
            "use": "x.y",
            "args": {"a": "$s1", "s1": "$s2"},
            "for_each": "$s1",
            "as": "s2",
            "if": "{'a': s1}['a'] == s2 and 's1' != $s1",
            "after": ["s1", "s2", "s3"],
        }
    )
    moved = reading(step, OTHER)
    assert moved.args == {"a": "$s9", "s1": "$s2"}, "inside the map `s2` is its item"
    assert moved.for_each == "$s9"
    assert moved.if_ == "{'a': s9}['a'] == s2 and 's1' != $s9"
    assert moved.after == ("s9", "s8", "s3")
    assert (moved.id, moved.use) == ("s5", "x.y")
    assert reading(Step(id="s5", let="${s1 + 1}"), OTHER) == Step(id="s5", let="${s9 + 1}")


TEXTS = st.lists(
    st.sampled_from(
        [
            "$s1",
            "$s2.a",
            "${s1}",
            "${[x for x in s2 if x != s1]}",
            "${s1 ?? {'s2': 1}}",
            "$$s1",
            " s1 ",
            "'",
            "$s3[0]",
        ]
    ),
    max_size=4,
).map(" ".join)


@given(TEXTS)
def test_what_reads_some_names_reads_the_others_afterwards_and_the_same_on_the_way_back(text: str) -> None:
    other = {"s1": "s9", "s2": "s8"}
    moved = with_names(text, other)
    assert names(moved) == frozenset(other.get(name, name) for name in names(text))
    assert with_names(moved, {new: old for old, new in other.items()}) == text


def test_ids_go_on_counting() -> None:
    assert next_id([]) == "s1"
    assert next_id(["s1", "s4_text", "read", "s2"]) == "s5"
    assert next_id(["summary9", "s" + "9" * 5000]) == "s1"


def test_a_call_is_the_same_whatever_it_is_called_and_follows_a_failure() -> None:
    old = Step(id="s1", use="x.y", args={"a": 1})
    again = Step.model_validate(
        {**old.model_dump(), "id": "s7", "note": "n", "on_error": {"retry": 2}, "max_items": 9}
    )
    assert is_same_call(old, again)
    assert not is_same_form(old, again), "it would not fail alike"
    assert is_same_form(old, Step(id="s7", use="x.y", args={"a": 1}, after=("s3",), note="n"))
    for change in ({"use": "x.z"}, {"args": {"a": 2}}, {"if_": "s1"}, {"for_each": [1]}, {"let": 1}, {"as_": "x"}):
        assert not is_same_call(old, old.model_copy(update=change))
        assert not is_same_form(old, old.model_copy(update=change))


def test_plans_that_differ_in_ids_alone_compare_equal() -> None:
    plan = (
        Step(id="a", let=1, note="one"),
        Step.model_validate({"id": "b", "let": "${a + 1}", "if": "a", "after": ["a"]}),
    )
    other = (Step(id="s4", let=1), Step.model_validate({"id": "s6", "let": "${s4 + 1}", "if": "s4", "after": ["s4"]}))
    assert in_order(plan) == in_order(other)
    assert [step.id for step in in_order(plan)] == ["s1", "s2"]
    assert reads(in_order(plan)[1]) == {"s1"}
    assert in_order(plan) != in_order(plan[:1])


# a plan after finished steps

PATH, TEXT = Parameter(name="path", type="path"), Parameter(name="text")
CATALOGUE = {
    c.name: c
    for c in (
        Callee(
            name="f.list", summary="", parameters=(PATH.model_copy(update={"type": "folder"}),), result="list[path]"
        ),
        Callee(name="f.read", summary="", parameters=(PATH,), result="text", converts=True),
        Callee(name="f.append", summary="", parameters=(PATH, TEXT), result="path"),
        Callee(name="t.count", summary="", parameters=(TEXT,), result="integer"),
    )
}
CATALOGUE = {
    name: c.model_copy(update={"declaration": Declaration(effect="write" if name == "f.append" else "read")})
    for name, c in CATALOGUE.items()
}
NAMED = (Named(text="a.txt", kind="path", found="file"), Named(text="d", kind="folder", found="folder"))


def step(id_: str, use: str, more: dict[str, Any] | None = None, /, **args: Json) -> Step:
    return Step.model_validate({"id": id_, "use": use, "args": args} | (more or {}))


READ = step("s1", "f.read", path="a.txt")
APPEND = step("s2", "f.append", path="b.txt", text="${s1}!")


def continued(*steps: Step, kept: tuple[Step, ...] = (READ, APPEND), answer: Json = None) -> Plan:
    return repaired(Plan(steps=steps, answer=answer), CATALOGUE, found=NAMED, kept=kept)[0]


def test_what_is_finished_is_not_done_again() -> None:
    assert continued(READ, APPEND, answer="$s1") == Plan(steps=(READ, APPEND), answer="$s1")
    other = (step("s7", "f.read", path="a.txt"), step("s8", "f.append", path="b.txt", text="${s7}!"))
    assert continued(*other, answer="${s7} ${s8}") == Plan(steps=(READ, APPEND), answer="${s1} ${s2}")


def test_what_is_finished_is_not_done_again_for_being_written_with_a_slip_or_with_other_care() -> None:
    slips = (
        step("s1", "read", Path="A.TXT"),
        step("s2", "F.Append", {"on_error": {"retry": 2}}, path="b.txt", text="${s1}!"),
    )
    assert continued(*slips, answer="$s1") == Plan(steps=(READ, APPEND), answer="$s1")


def test_what_the_checker_added_is_not_done_again_either() -> None:
    count = step("s2", "t.count", text="a.txt")
    first = continued(step("s1", "f.list", path="d"), count, kept=(), answer=["$s1", "$s2"])
    assert [s.id for s in first.steps] == ["s1", "s2_text", "s2"]
    again = continued(count, step("s3", "t.count", text="more"), kept=first.steps[1:], answer="$s3")
    assert again == Plan(steps=(*first.steps[1:], step("s4", "t.count", text="more")), answer="$s4")
    listed = step("s1", "f.read", path="d")
    both = continued(listed, kept=(), answer="$s1").steps
    assert [s.id for s in both] == ["s1_files", "s1"]
    assert continued(listed, kept=both, answer="$s1").steps == both


def test_an_effect_that_is_wanted_twice_is_done_once_more() -> None:
    twice = (APPEND, step("s3", "f.append", path="b.txt", text="${s1}!"))
    again = step("s4", "f.append", path="b.txt", text="${s1}!")
    assert continued(READ, *twice, answer="$s3") == Plan(steps=(READ, APPEND, again), answer="$s4")


def test_new_steps_get_new_ids_and_what_reads_them_follows() -> None:
    fresh = (
        step("s1", "t.count", text="x"),
        step("s2", "t.count", {"if": "s1 > 1 and 's1' != ''", "after": ["s1"]}, text="${[x for x in [s1]]} $s1"),
    )
    plan = continued(*fresh, answer={"a": "$s2", "b": "${ {'s1': s1} }"})
    assert plan.steps[2:] == (
        step("s3", "t.count", text="x"),
        step("s4", "t.count", {"if": "s3 > 1 and 's1' != ''", "after": ["s3"]}, text="${[x for x in [s3]]} $s3"),
    )
    assert plan.answer == {"a": "$s4", "b": "${ {'s1': s3} }"}


def test_a_new_step_may_read_a_finished_one_without_asking_for_it_again() -> None:
    plan = continued(step("s3", "t.count", text="$s1"), answer="$s3")
    assert plan == Plan(steps=(READ, APPEND, step("s4", "t.count", text="$s1")), answer="$s4")


def test_without_an_answer_the_value_of_the_plans_own_last_step_is_the_answer() -> None:
    plan = continued(step("s1", "t.count", text="x"), step("s2", "f.read", path="a.txt"))
    assert [s.id for s in plan.steps] == ["s1", "s2"]
    assert plan.answer == "$s1"


def test_an_item_without_a_map_is_of_a_list_that_the_plan_itself_asks_for() -> None:
    listing, other = step("s1", "f.list", path="d"), step("s2", "f.list", path="e")
    plan = continued(listing, step("s2", "f.read", path="$item"), kept=(listing, other), answer="$s2")
    assert plan.steps[-1] == step("s3", "f.read", {"for_each": "$s1"}, path="$item")
    alone = continued(step("s2", "f.read", path="$item"), kept=(listing,), answer="$s2")
    assert alone.steps[-1].for_each is None
