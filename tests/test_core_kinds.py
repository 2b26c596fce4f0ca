from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import ATOMS, Callee, Declaration, Parameter, item_type
from planner.core.kinds import fit, is_finder, lister, part_type, reader, step_type, value_type, writer
from planner.core.labels import Json, Path
from planner.core.plan import Step

LOOKS = Callee(name="x.looks", summary="Look", result="record", declaration=Declaration(effect="read"))
ACTS = Callee(name="x.acts", summary="Act", result="path", declaration=Declaration(effect="write"))
CATALOGUE = {callee.name: callee for callee in (LOOKS, ACTS)}
TYPES = {"s1": "list[path]", "s2": "table", "s3": "text", "s4": "record", "s5": "list[list[text]]"}


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("$s1", "list[path]"),
        ("$s1[0]", "path"),
        ("$s1[-1]", "path"),
        ("$s2[0]", "record"),
        ("$s2[0].name", "any"),
        ("$s5[0][1]", "text"),
        ("$s3[0]", "any"),
        ("$s4.total", "any"),
        ("$s9", "any"),
        ("${len(s1)}", "any"),
        ("see ${s1}", "text"),
        ("a.txt", "text"),
        (True, "boolean"),
        (3, "integer"),
        (2.5, "number"),
        ({"a": "$s1"}, "record"),
        (["$s3", "b"], "list[text]"),
        (["$s3", 1], "list[any]"),
        ([], "list[any]"),
        (None, "any"),
    ],
)
def test_a_value_has_the_type_of_what_it_refers_to_or_is_written_as(value: Json, type_: str) -> None:
    assert value_type(value, TYPES) == type_


def test_the_part_of_a_value_is_known_as_far_as_lists_go() -> None:
    path: Path = (0, 1)
    assert part_type("list[list[date]]", path) == "date"
    assert part_type("list[record]", (0, "name", 0)) == "any"
    assert part_type("text", ()) == "text"


@pytest.mark.parametrize(
    ("step", "type_"),
    [
        (Step(id="s9", use="x.looks"), "record"),
        (Step(id="s9", use="x.looks", for_each="$s1"), "list[record]"),
        (Step(id="s9", use="x.burns"), "any"),
        (Step(id="s9", let="$s1[0]"), "path"),
        (Step(id="s9", let=5, for_each="$s1"), "list[integer]"),
    ],
)
def test_a_step_gives_what_its_callee_or_value_does_and_a_map_a_list_of_it(step: Step, type_: str) -> None:
    assert step_type(step, CATALOGUE, TYPES) == type_


@pytest.mark.parametrize(
    ("wanted", "given", "looking", "acting"),
    [
        # a tool coerces at its edge
        ("text", "record", "fits", "fits"),
        ("table", "text", "fits", "fits"),
        ("table", "number", "no", "no"),
        ("list[text]", "text", "fits", "fits"),
        ("list[text]", "number", "no", "no"),
        ("number", "text", "fits", "fits"),
        ("integer", "number", "fits", "fits"),
        ("number", "boolean", "no", "no"),
        ("boolean", "text", "no", "no"),
        ("record", "text", "fits", "fits"),
        ("record", "number", "no", "no"),
        ("date", "integer", "fits", "fits"),
        ("expression", "record", "no", "no"),
        # a path is itself, or stands for its text where something is read
        ("path", "path", "fits", "fits"),
        ("folder", "path", "fits", "fits"),
        ("path", "list[path]", "each", "each"),
        ("text", "path", "content", "fits"),
        ("text", "list[path]", "contents", "fits"),
        ("table", "path", "content", "no"),
        ("number", "path", "content", "no"),
        ("list[any]", "path", "content", "no"),
        ("list[text]", "path", "content", "fits"),
        ("list[path]", "path", "fits", "fits"),
        ("boolean", "path", "no", "no"),
        # the names of files are a list like any other
        ("list[any]", "list[path]", "fits", "fits"),
        ("list[text]", "list[path]", "fits", "fits"),
        ("list[path]", "list[path]", "fits", "fits"),
        ("list[number]", "list[path]", "no", "no"),
        # lists: one line per item, item by item, or done once per item
        ("text", "list[number]", "fits", "fits"),
        ("list[text]", "list[number]", "fits", "fits"),
        ("list[number]", "list[any]", "fits", "fits"),
        ("list[number]", "list[boolean]", "no", "no"),
        ("table", "list[record]", "fits", "fits"),
        ("record", "table", "each", "no"),
        ("url", "list[url]", "each", "no"),
        ("url", "list[any]", "each", "no"),
        ("url", "list[text]", "no", "no"),
        ("number", "list[text]", "each", "no"),
        ("number", "list[boolean]", "no", "no"),
        ("number", "list[list[path]]", "no", "no"),
    ],
)
def test_a_value_serves_an_argument(wanted: str, given: str, looking: str, acting: str) -> None:
    assert fit(wanted, given, LOOKS) == looking
    assert fit(wanted, given, ACTS) == acting


ANY_TYPE = st.recursive(st.sampled_from(ATOMS), lambda inner: inner.map("list[{}]".format), max_leaves=2)


@given(wanted=ANY_TYPE, given_=ANY_TYPE)
def test_every_type_fits_itself_and_any_and_effects_are_never_mapped_by_guess(wanted: str, given_: str) -> None:
    assert fit(wanted, wanted, ACTS) == fit(wanted, "any", ACTS) == fit("any", given_, LOOKS) == "fits"
    assert fit(wanted, given_, ACTS) not in {"content", "contents"}
    if fit(wanted, given_, LOOKS) == "each":
        assert fit(wanted, item_type(given_) or "", LOOKS) == "fits"


def callee(name: str, *types: str, result: str = "text", effect: str = "read", **more: object) -> Callee:
    parameters = tuple(
        Parameter(name=f"p{n}", type=type_.removesuffix("?"), required="?" not in type_)
        for n, type_ in enumerate(types)
    )
    declared = {"effect": effect, "on_doubt": more.pop("on_doubt", "ask")}
    fields = {"name": name, "summary": "", "parameters": parameters, "result": result, "declaration": declared}
    return Callee.model_validate(fields | more)


def test_a_callee_is_found_by_its_types_alone() -> None:
    listing = callee("a.b", "folder?", "text?", result="list[path]")
    reading = callee("c.d", "path", converts=True)
    writing = callee("e.f", "path", "text", effect="write", on_doubt="idempotent")
    others = [
        callee("x.1", result="list[path]"),
        callee("x.2", "folder", "text", result="list[path]"),
        callee("x.3", "text", result="list[path]"),
        callee("x.4", "path"),
        callee("x.5", "path", "text", converts=True),
        callee("x.6", "path", "text", effect="write", on_doubt="probe"),
        callee("x.7", "path", "text", "text?", effect="write", on_doubt="idempotent"),
        callee("x.8", "path", "text", effect="send", on_doubt="idempotent"),
    ]
    everything = {c.name: c for c in (*others, listing, reading, writing)}
    assert (lister(everything), reader(everything), writer(everything)) == (listing, reading, writing)
    rest = {c.name: c for c in others}
    assert (lister(rest), reader(rest), writer(rest)) == (None, None, None)


def test_a_finder_is_an_agent_that_copies_named_fields_out_of_its_inputs() -> None:
    named = [Parameter(name=name) for name in ("inputs", "fields", "task")]
    finder = Callee(name="agent.x", kind="agent", summary="", parameters=tuple(named), result="record")
    assert is_finder(finder)
    assert not is_finder(finder.model_copy(update={"kind": "tool"}))
    assert not is_finder(finder.model_copy(update={"result": "text"}))
    assert not is_finder(finder.model_copy(update={"parameters": tuple(named[:2])}))
