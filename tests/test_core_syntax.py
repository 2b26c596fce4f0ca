from __future__ import annotations

import ast
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core import expr
from planner.core.expr import evaluate, expression_may_miss, expression_names, expression_problems
from planner.core.labels import Json, Labelled
from planner.core.syntax import _CHECKS, _PLAIN, parse
from planner.errors import PlanError

SCOPE = {"a": Labelled(value=5), "r": Labelled(value={"from": "x", "in": {"is": 1}, "none": None})}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("a ?? 0 > 3 + 1", True),
        ("r.none ?? 1 + 1", 2),
        ("r.nope ?? r.none ?? 3", 3),
        ("'a ?? b'", "a ?? b"),
        ("f'{r.nope ?? 1}{{}}??'", "1{}??"),
        ("""f"{r["from"]} {f'{a}'} {'}'}" """, "x 5 }"),
        ("f'''{a:.2f}|{a:>4}|{'b':^3}|{1234:,}'''", "5.00|   5| b |1,234"),
        ("f'{[1, 2]} {null} {{a}}'", "1\n2 null {a}"),
        ("f''", ""),
        ("r.from + str(r.in.is)", "x1"),
        ("[true, false, null]", [True, False, None]),
        ("$a + $r.in.is", 6),
        ("'\\d\\1\\N{x}' + '\\n\\x41\\u00e9'", "\\d\\1\\N{x}\nAé"),
        ("'one\ntwo'", "one\ntwo"),
        ("'''it's'''", "it's"),
        ("a\n  + 1", 6),
        (" [x\n for x in [1]] ", [1]),
        ("(a, 1)", [5, 1]),
        ("1_000 + 1.5e3 + .5", 2500.5),
        ("[y for x in [[1, 2], [3]] for y in x if y > 1]", [2, 3]),
        ("{k: v for k, [v, w] in [['a', [1, 2]]]}", {"a": 1}),
        ("{len(x) for x in ['a', 'b', 'cc']}", [1, 2]),
        ("sum(x for x in [1, 2] if x != 1)", 2),
        ("a is not null", True),
        ("not a", False),
        ("1 if'a'in'abc'else'x'", 1),
        ("+a - -a", 10),
    ],
)
def test_the_grammar_reads(source: str, value: Json) -> None:
    assert expression_problems(source) == ()
    assert evaluate(source, SCOPE).value == value


@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("", "P-201", "not an expression"),
        ("1 +", "P-201", "not an expression: invalid syntax"),
        ("a = 1", "P-201", "not an expression"),
        ("x := 3", "P-201", "not an expression"),
        ("import os", "P-201", "not an expression"),
        ("a)", "P-201", "`)` closes nothing"),
        ("f'{a) + (a}'", "P-201", "`)` closes nothing"),
        ("(a", "P-201", "not an expression"),
        ("'a", "P-201", "a text that starts with `'` is not closed"),
        ("'a\\", "P-201", "is not closed"),
        ("a | b", "P-201", "write `or`"),
        ("a # b", "P-201", "a comment"),
        ("${a}", "P-201", "names are bare"),
        ("a\N{MIDDLE DOT}", "P-201", "cannot stand in a name"),
        ("b'x'", "P-201", "only `f` can"),
        ("1if a else 2", "P-201", "a letter follows the number `1`"),
        ("0x10", "P-201", "decimal numbers only"),
        ("f'{a!r}'", "P-201", "not an expression"),
        ("f'{}'", "P-201", "not a field"),
        ("f'{a:{a}}'", "P-201", "not a field"),
        ("f'{a:9999d}'", "P-201", "not a field"),
        ("f'{a", "P-201", "not a field"),
        ("'\\x4'", "P-201", "not an expression"),
        ("a\0", "P-201", "not"),
        ("'\ud800'", "P-201", "encoded"),
        ("foo(a)", "P-202", "there is no function `foo`; there are len, sum"),
        ("a.foo()", "P-202", "there is no method `foo`; there are lower, upper"),
        ("add_days(a)", "P-202", "`add_days` is called as `add_days(day, days)`"),
        ("split()", "P-202", "`split(text, separator?)`"),
        ("len(**a)", "P-202", "`len` is called as"),
        ("a.count()", "P-202", "`count(whole, part)`"),
        ("lower(a, key=lambda x: x)", "P-202", "`lower` is called as"),
        ("a[0](1)", "P-203", "only functions and methods can be called"),
        ("sorted(a, key=len)", "P-203", "`key` of `sorted` is a lambda"),
        ("lambda x: x", "P-203", "`lambda` can stand only as `key=` of max, min, sorted"),
        ("dict(key=lambda x: x)", "P-203", "`lambda` can stand only"),
        ("sorted(a, key=lambda x, y: x)", "P-203", "takes one parameter"),
        ("sorted(a, key=lambda x=1: x)", "P-203", "takes one parameter"),
        ("sorted(a, key=lambda *x: x)", "P-203", "takes one parameter"),
        ("(x := 3)", "P-203", "`:=` is not part"),
        ("[*a]", "P-203", "`*` is not part"),
        ("[await a for x in a]", "P-203", "`await` is not part"),
        ("[x async for x in a]", "P-203", "a loop reads"),
        ("[x for x.y in a]", "P-203", "a loop reads"),
        ("{**a}", "P-203", "write `dict(a, name=value)`"),
        ("a & 1", "P-203", "operators on bits"),
        ("~a", "P-203", "write `not`"),
        ("a is 1", "P-203", "write `==`"),
        ("a[1, 2]", "P-203", "write `x[1][2]`"),
        ("a.__class__", "P-203", "names that begin with `__`"),
        ("__builtins__", "P-203", "names that begin with `__`"),
        ("...", "P-203", "a literal is text, a number"),
        ("'\\ud800'", "P-203", "a literal is text"),
        ("1e999", "P-209", "too large"),
        ("9" * 400, "P-209", "too large"),
        ("a" * 10_001, "P-210", "longer than 10,000 characters"),
        ("[" * 150 + "]" * 150, "P-210", "nested"),
        ("1+" * 200 + "1", "P-210", "nested 201 deep"),
        ("1+" * 4_900 + "1", "P-210", "nested"),
        ("-" * 9_000 + "1", "P-210", "nested too deeply"),
        ("f'{" * 3_000, "P-210", "nested too deeply"),
    ],
)
def test_what_is_not_in_the_grammar_is_a_problem_that_names_the_way_out(source: str, code: str, part: str) -> None:
    found = expression_problems(source)
    assert any(part in message for message in found), found
    with pytest.raises(PlanError) as caught:
        evaluate(source, SCOPE)
    assert caught.value.code == code


def test_every_problem_of_an_expression_is_told_once() -> None:
    found = expression_problems("foo(a) + foo(b) + a.bar() + ~c")
    assert len(found) == 3
    assert all(message.startswith("`foo(a) + foo(b) + a.bar() + ~c`: ") for message in found)


@pytest.mark.parametrize(
    ("source", "reads", "spared"),
    [
        ("a.b[c] + len(d)", "a c d", ""),
        ("[x + y for x in a if x > z for y in x]", "a z", ""),
        ("[x for x in x]", "x", ""),
        ("[x for x in a if b if (c ?? x)]", "a b c", "c"),
        ("{k: v for k, v in a.items()}", "a", ""),
        ("sorted(a, key=lambda x: x.b + c)", "a c", ""),
        ("f'{a} {b:.2f} c'", "a b", ""),
        ("sum(sum)", "sum", ""),
        ("a ?? b", "a b", "a"),
        ("a ?? b ?? c", "a b c", "a b"),
        ("(a.b + len(c)) ?? d", "a c d", "a c"),
        ("(a ?? 1) + a", "a", ""),
        ("[x ?? a for x in b]", "a b", ""),
        ("true or null", "", ""),
        ("a +", "", ""),
    ],
)
def test_the_names_read_are_those_that_are_free(source: str, reads: str, spared: str) -> None:
    assert expression_names(source) == frozenset(reads.split())
    assert expression_may_miss(source) == frozenset(spared.split())


def test_deep_nesting_is_read_in_an_instant() -> None:
    start = time.process_time()
    assert expression_names("[[y, y] for y in " * 40 + "[a]" + "]" * 40) == {"a"}
    assert time.process_time() - start < 1  # of CPU; milliseconds where nothing else runs


def test_every_node_that_the_grammar_allows_has_a_meaning() -> None:
    meant = set(expr._RULES) | {ast.Slice, ast.Lambda, ast.comprehension}
    assert {*_CHECKS, *_PLAIN} == meant


NAMES = st.sampled_from(
    ["s1", "s2.x", "r.from", ".x", "x", "1", "2.5", "9**9", "'a'", "true", "0", "e9", "…", "·", "é"]
)
WORDS = st.sampled_from(
    ["lambda", "for", "in", "if", "else", "not", "is", "await", "key=", "sorted", "range(", "len"]
)
BRACKETS = st.sampled_from(["[", "]", "(", ")", "{", "}", "'", '"', "'''", "f'", 'f"', "{{", "}}", ":.2f}", "[-1]"])
SIGNS = st.sampled_from(["??", "**", "//", "==", ":=", "${"]) | st.sampled_from("|+-*!,:.;`@#$\\\n\t\0")


@settings(max_examples=400, deadline=None)
@given(st.lists(NAMES | WORDS | BRACKETS | SIGNS | st.text(max_size=3), max_size=14), st.sampled_from(["", " "]))
def test_no_text_makes_anything_but_a_plan_error(pieces: list[str], between: str) -> None:
    source = between.join(pieces)
    scope = {"s1": Labelled(value=[1, {"x": "a"}]), "x": Labelled(value="t"), **SCOPE}
    with suppress(PlanError):
        evaluate(source, scope)
    with suppress(PlanError):
        expr.resolve([source, f"t {source}"], scope)
    assert bool(expression_problems(source)) == bool(parse(source).flaws)
    assert expr.names(source) >= expr.may_miss(source)
    assert all(code.startswith("P-2") for code, _ in parse(source).flaws)
