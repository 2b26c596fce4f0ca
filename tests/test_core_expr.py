from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.expr import (
    Limits,
    Missing,
    MissingValue,
    Scope,
    evaluate,
    expression_names,
    may_miss,
    names,
    problems,
    reference,
    resolve,
)
from planner.core.labels import TRUSTED, UNTRUSTED, Json, Label, Labelled
from planner.errors import PlanError

SCOPE: Scope = {
    "s1": Labelled(value="hello ${s2} $s2"),
    "s2": Labelled(value={"total": 12, "items": [1, 2, 3], "none": None, "a b": {"from": "x"}}),
    "s3": Labelled(value=[{"name": "a", "price": 3}, {"name": "b", "price": 4.5}]),
    "s4_text": Labelled(value="t"),
    "s8": Missing(reason="failed"),
    "s9": Missing(reason="skipped"),
    "item": Labelled(value="f.txt"),
    "item_i": Labelled(value=2),
    "inputs": Labelled(value={"file": "in.csv"}),
    "invoice": Labelled(value="i"),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def failure(source: Json, *, limits: Limits | None = None) -> PlanError:
    with pytest.raises(PlanError) as caught:
        resolve(source, SCOPE, limits=limits or Limits())
    return caught.value


# templates


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("$s2.items[0]", 1),
        ("$s2.items[-1]", 3),
        ("$s2['a b'].from", "x"),
        ('$s2["a b"]', {"from": "x"}),
        ("$invoice", "i"),
        ("${s2.items}", [1, 2, 3]),
        ("${s2.total + 1}", 13),
        ("${ s2.total > 3 }", True),
        ("Total: $s2.total.", "Total: 12."),
        ("$inputs.file, $item of $item_i; $s4_text", "in.csv, f.txt of 2; t"),
        ("out/${item}.bak", "out/f.txt.bak"),
        ("$s2.items[0]$s2.items[1]", "12"),
        ("it costs $5, $PATH and $HOME stay, so does $invoice, $s1x and $", None),
        ("$$s1 costs $$5 $$", "$s1 costs $5 $"),
        ("$$s1", "$s1"),
        ("$${s1}", "${s1}"),
        ("$$$s2.total", "$12"),
        (
            "${s2.items} and ${s3[0]} ${null} ${true} ${3.0} ${''}",
            '1\n2\n3 and {"name":"a","price":3} null true 3.0 ',
        ),
        ("""a ${f"{s2.total}}}"} b ${'}'}""", "a 12} b }"),
        ("plain {braces} %s", None),
        (["$s2.total", {"k": "${1}", "$s1": 3}], [12, {"k": 1, "$s1": 3}]),
        ({}, {}),
        ([], []),
        (1.5, 1.5),
        (None, None),
    ],
)
def test_a_template_gives_a_typed_value_or_text(template: Json, value: Json) -> None:
    expected = template if value is None and isinstance(template, str) else value
    assert problems(template) == ()
    assert resolve(template, SCOPE).value == expected


@pytest.mark.parametrize(
    "template", ["${", "a ${s1", "${s1)}", "${'a}", "${}", "${foo(1)}", "x ${s1 +} y", "${a | b}"]
)
def test_a_broken_template_is_a_problem_and_an_error(template: str) -> None:
    assert len(problems([{"a": template}])) == 1
    assert failure(template).code in ("P-201", "P-202")


def test_a_reference_is_text_that_is_exactly_a_name_and_a_path() -> None:
    assert reference("$s1.a[0]['x y'].from[-1]") == ("s1", ("a", 0, "x y", "from", -1))
    assert reference("$Total") == ("Total", ())
    others: list[Json] = ["$s1 ", "$5", "$$s1", "${s1}", "$s1.", "s1", 3, None, ["$s1"]]
    for other in others:
        assert reference(other) is None


def test_the_names_of_a_value_are_those_its_texts_read() -> None:
    value: Json = [
        "$s1.x",
        {"k": "Total $s2 ${x + sum(y for y in z)} $foo $5 $$s7"},
        3,
        "${a ?? b}",
        "${(c ?? 1) + c}",
    ]
    assert names(value) == {"s1", "s2", "x", "z", "a", "b", "c"}
    assert may_miss(value) == {"a"}
    assert names("${broken") == frozenset()


@given(JSON)
def test_text_that_was_put_in_is_never_parsed_again(value: Json) -> None:
    scope = {"s1": Labelled(value=value), "s2": Labelled(value="${s1} $s1 $$")}
    assert resolve("$s1", scope).value == value
    assert resolve("${s1}", scope).value == value
    assert resolve("<${s2}>", scope).value == "<${s1} $s1 $$>"
    assert resolve({"a": ["${s2}"]}, scope).value == {"a": ["${s1} $s1 $$"]}


@given(JSON)
def test_a_value_without_a_dollar_resolves_to_itself(value: Json) -> None:
    if "$" not in str(value):
        assert resolve(value, {}) == Labelled(value=value)


# missing values and wrong reads


def test_a_missing_value_without_a_default_is_an_error_that_says_why() -> None:
    with pytest.raises(MissingValue) as caught:
        evaluate("len(s9)", SCOPE)
    assert (caught.value.name, caught.value.reason, caught.value.code) == ("s9", "skipped", "P-205")
    assert caught.value.message == "`len(s9)`: `s9` has no value: it was skipped"
    assert "`??`" in caught.value.hint
    assert "it failed" in str(failure("text $s8.x"))


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("s9 ?? 1", 1),
        ("s9.a[0].b ?? 1", 1),
        ("len(s9) + 1 ?? 2", 2),
        ("s9 ?? s8 ?? 3", 3),
        ("s2.total ?? s9", 12),
        ("s2.nope ?? 1", 1),
        ("s2.none ?? 1", 1),
        ("s2.none.x ?? 1", 1),
        ("s2.items[7] ?? 1", 1),
        ("[x.nope ?? x.price for x in s3]", [3, 4.5]),
        ("email(s1) ?? 'nobody'", "nobody"),
        ("max([]) ?? 0", 0),
        ("'a'[3] ?? ''", ""),
        ("s2.get('nope', 4) + s2.get('total')", 16),
        ("true or s9", True),
        ("false and s9", False),
        ("1 if true else s9", 1),
        ("1 > 2 > s9", False),
    ],
)
def test_a_default_stands_in_for_what_is_not_there(source: str, value: Json) -> None:
    assert evaluate(source, SCOPE).value == value


@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("nope", "P-204", "there is no `nope` here, there is `inputs`"),
        ("s2.nope", "P-206", "there is no field `nope`; there are `total`, `items`, `none`, `a b`"),
        ("{}.x", "P-206", "there are none"),
        ("s2.none.x", "P-206", "null has no `x`"),
        ("s2.items[3]", "P-207", "there is no index 3 in a list of 3"),
        ("s1[99]", "P-207", "there is no index 99 in the text"),
        ("s3.name", "P-208", "`[x.name for x in ...]`"),
        ("item.txt", "P-208", "write `${name}.txt`"),
        ("s2.total.x", "P-208", "the text `x` is no index of the number 12"),
        ("s2[0]", "P-208", "the number 0 is no index of a record"),
        ("s2[:1]", "P-208", "a slice is taken of text or of a list"),
        ("s3['a':]", "P-208", "`slice` cannot work with"),
        ("[x for x in s1]", "P-208", "Take `lines(x)` or `words(x)`."),
        ("[x for x in 3]", "P-208", "expected a list, got the number 3"),
        ("[a for a, b in s2.items]", "P-208", "expected a list"),
        ("[a for a, b in [s2.items]]", "P-208", "2 names cannot take a list of 3"),
        ("{1: 2}", "P-208", "a field is named by text"),
        ("s3.keys()", "P-208", "a list of 2 has no method `keys`; it has count, index"),
        ("s2.total.lower()", "P-208", "it has none"),
        ("s2.get([])", "P-208", "expected text"),
        ("f'{s3:.2f}'", "P-208", "`format` cannot work with"),
        ("-s1", "P-208", "expected a number"),
        ("s9.x", "P-205", "was skipped"),
    ],
)
def test_a_wrong_read_names_the_way_out(source: str, code: str, part: str) -> None:
    error = failure(f"${{{source}}}")
    assert error.code == code
    assert part in str(error)
    assert str(error).startswith(f"[{code}] `{source}`: ")


def test_an_error_quotes_the_start_of_a_long_expression_and_the_names_there_are() -> None:
    error = failure("${" + "1 + " * 30 + "nope}")
    assert str(error).startswith("[P-204] `1 + 1 + 1 + 1")
    assert "1 +…`: " in str(error)
    assert error.choices == tuple(sorted(SCOPE))


# evaluation


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("sum(x.price for x in s3)", 7.5),
        ("max(s3, key=lambda x: x.price).name", "b"),
        ("[x.name for x in sorted(s3, key=lambda x: x.price, reverse=true)]", ["b", "a"]),
        ("min(s3[0], s3[1], key=lambda x: -x.price).name", "b"),
        ("[i for i, x in enumerate(s3) if x.price > 4]", [1]),
        ("[y.name + str(n) for n, y in zip([1, 2], s3)]", ["a1", "b2"]),
        ("{x.name: x for x in s3}.b.price", 4.5),
        ("[k for k in s2]", ["total", "items", "none", "a b"]),
        ("s2.items[1:] + s2.items[:-2] + s2.items[::-1]", [2, 3, 1, 3, 2, 1]),
        ("s1[:5] + s1[0]", "helloh"),
        ("[x for x in [s2.items, []] if x]", [[1, 2, 3]]),
        ("s2.items and 'some' or 'none'", "some"),
        ("s3 and s3[0].name", "a"),
        ("s2.items.count(1) + s2.items.index(3)", 3),
        ("[x * y for x in [1, 2] for y in [x, 10]]", [1, 10, 4, 20]),
        ("[[x for x in [x, x + 1]] for x in [1]]", [[1, 2]]),
        ("list(s3)[0].name + list(s2)[0]", "atotal"),
        ("f'{s2.items} {s3[0].price:05.1f}'", "1\n2\n3 003.0"),
        ("{s2.total, 12, 1}", [12, 1]),
        ("{'x': s2.total, 'y': s3[0]}", {"x": 12, "y": {"name": "a", "price": 3}}),
        ("len(s3)", 2),
        ("not s2.none", True),
        ("[x for x in s2.items for y in s2.items if y > 2 if x > 1]", [2, 3]),
    ],
)
def test_an_expression_reads_what_is_in_scope(source: str, value: Json) -> None:
    assert evaluate(source, SCOPE).value == value


BOMBS = [
    "9 ** 9 ** 9",
    "2 ** 1000 ** 2",
    "[[[[1 for a in range(99)] for b in range(99)] for c in range(99)] for d in range(99)]",
    "[1 for a in range(10 ** 6) for b in []]",
    "sum(a for a in range(10 ** 6))",
    "['x' * 10 ** 6 for a in range(10 ** 4)]",
    "['x' * 10 ** 5] * 10 ** 5",
    "'x' * 10 ** 5 * 10 ** 5",
    "[len(data) for a in range(10 ** 4)]",
    "[sorted(range(10 ** 5)) for a in range(10 ** 4)]",
    "[list(data) for a in range(10 ** 4)]",
    "[data + data for a in range(10 ** 4)]",
    "[text.upper().count('A') for a in range(10 ** 4)]",
    "[numbers(text) for a in range(10 ** 4)]",
    "[x for a in range(10 ** 4) for x in data]",
    "str([text] * 1000)",
    "join([text, text, text], text)",
    "{a: text for a in words('a ' * 9999)}",
    "text.replace('a', text)",
    "f'{data}{data}{data}{data}'",
    "round(10 ** 300, -30) * 10 ** 30",
    "[[y, y] for y in " * 24 + "[data]" + "]" * 24,
]


@pytest.mark.parametrize("source", BOMBS)
def test_no_expression_takes_long_or_grows_large(source: str) -> None:
    scope = {"data": Labelled(value=list(range(100_000))), "text": Labelled(value="a" * 500_000)}
    start = time.process_time()
    with pytest.raises(PlanError) as caught:
        evaluate(source, scope)
    assert caught.value.code in ("P-209", "P-210")
    assert time.process_time() - start < 20  # of CPU; half a second at most where nothing else runs


def test_limits_can_be_set_lower() -> None:
    low = Limits(steps=5, size=10, depth=3)
    assert evaluate("1 + 2", {}, limits=low).value == 3
    for source in ("[1, 2, 3, 4, 5]", "'a' * 11", "[[[[1]]]]"):
        with pytest.raises(PlanError) as caught:
            evaluate(source, {}, limits=low)
        assert (caught.value.code, caught.value.error_class) == ("P-210", "limit")
    assert failure([[[["x"]]]], limits=low).code == "P-210"
    assert failure("abcdefghij ${1}", limits=low).code == "P-210"
    assert failure("$s2" + ".a" * 9, limits=low).code == "P-210"


def test_a_value_nested_deeper_than_json_may_be_is_an_error() -> None:
    deep: Json = 1
    for _ in range(250):
        deep = [deep]
    scope = {"s1": Labelled(value=deep)}
    assert evaluate("s1", scope).value == deep
    with pytest.raises(PlanError, match="nested too deeply"):
        evaluate("[[[[[[[[s1]]]]]]]]", scope)


def test_no_number_that_json_cannot_hold_comes_out() -> None:
    scope = {"s1": Labelled(value=float("inf")), "s2": Labelled(value=10**400)}
    for source in ("s1 + 1", "s2 * 2", "[s1]", "s1 / s2", "f'{s2 * s2}'"):
        with pytest.raises(PlanError) as caught:
            evaluate(source, scope)
        assert caught.value.code == "P-209"


@pytest.mark.parametrize("source", ["s2.total > 0", "s3[0].price", "len(s1) + 1"])
def test_a_simple_expression_is_fast(source: str) -> None:
    evaluate(source, SCOPE)
    rounds = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(20):
            evaluate(source, SCOPE)
        rounds.append((time.process_time() - start) / 20)
    assert min(rounds) < 200e-6  # about 15 us where nothing else runs


# labels of templates; those of expressions are in test_core_watch.py


def label(source: str) -> Label:
    return UNTRUSTED.from_source(source)


def test_each_leaf_of_a_resolved_value_keeps_its_own_label() -> None:
    scope = {"a": Labelled(value=1, label=label("a")), "b": Labelled(value=2, label=label("b"))}
    result = resolve({"x": "$a", "y": ["${b}", "text"], "z": "<${a}, ${b}>", "w": "${b > 1}"}, scope)
    assert result.value == {"x": 1, "y": [2, "text"], "z": "<1, 2>", "w": True}
    assert result.at(("x",)).label == label("a")
    assert result.at(("y", 0)).label == label("b")
    assert result.at(("y", 1)).label == TRUSTED
    assert result.at(("z",)).label == label("a").joined(label("b"))


@given(JSON, st.sampled_from(["s1", "[s1, s1]", "str(s1)", "s1 == s1", "s1 ?? 1", "{'a': s1}"]))
@settings(deadline=None)
def test_evaluation_is_deterministic(value: Json, source: str) -> None:
    scope = {"s1": Labelled(value=value, label=label("s1"))}
    assert evaluate(source, scope) == evaluate(source, scope)
    assert expression_names(source) == {"s1"}
