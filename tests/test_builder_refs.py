"""References become what the plan language reads, data stays data, and what no plan can say is refused.

The tables hold Python as users write it: `a` and `b` are what two calls gave, `flow` is their builder.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from planner import PlanError, tool
from planner.builder import PlanBuilder, Ref
from planner.core.expr import evaluate, problems, resolve
from planner.core.labels import Json, Labelled


@tool(name="text.count", effect="pure")
def count(text: str) -> int:
    """Count words."""
    return len(text.split())


def result_of(source: str) -> tuple[PlanBuilder, Any]:
    """What the Python in `source` gives, and the builder it was given."""
    flow = PlanBuilder(folder="x")
    known = {"flow": flow, "PlanBuilder": PlanBuilder, "Path": Path, "count": count}
    for name in ("a", "b"):
        known[name] = flow.call("a.b")
    return flow, eval(source, known)


def written(source: str) -> Json:
    """What a plan holds for that Python."""
    flow, value = result_of(source)
    flow.call("a.b", x=value)
    return flow.build().steps[2].args["x"]


# references --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a", "$s1"),
        ("a.items[0].price", "$s1.items[0].price"),
        ("a['the price'][-1]", '$s1["the price"][-1]'),
        ('a["it\'s"]["from"]', '$s1["it\'s"].from'),
        ("a['größe']['__x']['a.b']", '$s1["größe"]["__x"]["a.b"]'),
        ("a['\"']", r'${s1["\""]}'),
        ("a[b]", "${s1[s2]}"),
        ("a[f'{b}_x']", '${s1[f"{s2}_x"]}'),
        ("a[1:]", "${s1[1:]}"),
        ("a[:b:-1]", "${s1[:s2:-1]}"),
        ("(a + b) * 2 - -b", "${(s1 + s2) * 2 - -s2}"),
        ("10 - (a - b)", "${10 - (s1 - s2)}"),
        ("(-a) ** 2 / -(b**2)", "${(-s1) ** 2 / -s2 ** 2}"),
        ("a ** (b**-2) // 3 % b", "${s1 ** (s2 ** (-2)) // 3 % s2}"),
        ("(a + b).x", "${(s1 + s2).x}"),
        ("(a < b) & ((b >= 2) | ~(a != b))", "${s1 < s2 and (s2 >= 2 or not s1 != s2)}"),
        ("(a <= b) == (2 > a)", "${(s1 <= s2) == (s1 < 2)}"),
        ("True & a | None", "${true and s1 or null}"),
        ("'text ' + a", '${"text " + s1}'),
        ("a == ['x', {'k': b}, 1.5, None]", '${s1 == ["x", {"k": s2}, 1.5, null]}'),
        ("a == f'{b}/{{x}}\\n'", '${s1 == f"{s2}/{{x}}\\n"}'),
        (r"a == '\b\f\\b'", r'${s1 == "\x08\x0c\\b"}'),
        ("a.upper().split(', ')[0]", '${s1.upper().split(", ")[0]}'),
        ("(a + b).get('x', default=b)", '${(s1 + s2).get("x", default=s2)}'),
        ("round(a / b, 2) + abs(b)", "${round(s1 / s2, 2) + abs(s2)}"),
        ("f'{a} of ${b}, {a:.2f}'", '${s1} of $$${s2}, ${f"{s1:.2f}"}'),
        ("'{}!'.format(flow.expr('{1: 2} if x else {x: 3}', x=a))", "${{1: 2} if s1 else {s1: 3}}!"),
        ("'%s!' % b + f'{a!s}'", "${s2}!${s1}"),
        ("f' so {a + b}'.upper().strip()", "SO ${s1 + s2}"),
    ],
)
def test_a_reference_is_written_as_the_plan_language_reads_it(source: str, text: str) -> None:
    found = written(source)
    assert (found, problems(found)) == (text, ())


def test_constants_are_data_whatever_they_look_like() -> None:
    class Colour(StrEnum):
        RED = "$red"

    flow = PlanBuilder()
    texts = ["$s1", "${s1}", "$$", "$5 ${", "$inputs.x", Colour.RED]
    flow.call("a.b", texts=texts, **{"$s1": ("$item", 1, 2.5, True, None)})
    args = resolve(dict(flow.build().steps[0].args), {}).value
    assert args == {"texts": texts, "$s1": ["$item", 1, 2.5, True, None]}


def test_inputs_are_data_and_are_read_by_name() -> None:
    flow = PlanBuilder(price="$5", **{"the folder": "$s1"})
    flow.call("a.b", x=flow.input("price"), y=flow.input("the folder"))
    plan = flow.build()
    assert plan.inputs == {"price": "$5", "the folder": "$s1"}
    assert plan.steps[0].args == {"x": "$inputs.price", "y": '$inputs["the folder"]'}


# expressions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names", "expected"),
    [
        ("sum(len(words(t)) for t in a)", "a", "sum(len(words(t)) for t in s1)"),
        ("a ?? b", "a b", "s1 ?? (s1 + 1)"),
        ("$a.a['a'] + \"a\"", "a", "s1.a['a'] + \"a\""),
        ("f'a {a:>3} {{a}} {f\"{b}\"}' + a", "a b", "f'a {s1:>3} {{a}} {f\"{(s1 + 1)}\"}' + s1"),
        ('f\'{ {\'a\': a}[\'a\']:d}\' + f"""-{d}"-"""', "a d", 'f\'{ {\'a\': s1}[\'a\']:d}\' + f"""-{s1.d}"-"""'),
        ("sorted(a, key=lambda x: x.a + b)", "a b", "sorted(s1, key=lambda x: x.a + (s1 + 1))"),
        ("dict(a=a, b = b)", "a b", "dict(a=s1, b = (s1 + 1))"),
        ("a == b and a!=b", "a b", "s1 == (s1 + 1) and s1!=(s1 + 1)"),
        ("len (len) + 1e5 + e5", "len e5", "len (s1) + 1e5 + (-5)"),
        ('\'\\\'a\' + """a"a""" + a', "a", '\'\\\'a\' + """a"a""" + s1'),
        ("{'a': a}['a'] if a in\"a\" else text", "a text", "{'a': s1}['a'] if s1 in\"a\" else \"$s1\""),
        ("f'{f}' + f", "f", "f'{s1.f}' + s1.f"),
        ("a * (c)", "a c", "s1 * ((s1 + 1 if s1 else 2))"),
    ],
)
def test_names_of_an_expression_are_replaced_where_they_are_names(source: str, names: str, expected: str) -> None:
    flow = PlanBuilder()
    s1 = flow.call("a.b")
    choice = flow.expr("x + 1 if x else 2", x=s1)
    known = {"a": s1, "b": s1 + 1, "c": choice, "d": s1.d, "e5": -5, "f": s1.f, "len": s1, "text": "$s1"}
    flow.let(source, **{name: known[name] for name in names.split()})
    assert flow.build().steps[1].let == f"${{{expected}}}"


def test_an_expression_may_be_given_texts_lists_and_records_with_references_in_them() -> None:
    assert written("flow.expr('x in y', x=f'{a}/x', y=[b['a'], {'b': {'c': b}}])") == (
        '${f"{s1}/x" in [s2.a, {"b": {"c": s2}}]}'
    )


def test_an_expression_in_an_f_string_may_begin_with_a_brace() -> None:
    flow = PlanBuilder()
    record = flow.expr("{'a': x}", x=flow.call("a.b"))
    flow.let("x + y", x=f"{record}!", y=f"{record['a']:>3}")
    let = flow.build().steps[1].let
    assert isinstance(let, str)
    assert evaluate(let[2:-1], {"s1": Labelled(value=1)}).value == '{"a":1}!  1'


# what no plan can say ----------------------------------------------------------------------------------------


def refusal(source: str) -> PlanError:
    with pytest.raises(PlanError) as raised:
        result_of(source)
    return raised.value


@pytest.mark.parametrize(
    ("source", "instead"),
    [
        ("1 if a > 3 else 2", "flow.when"),
        ("not a", "`~`"),
        ("0 < a < 10", "`&`"),
        ("[*a]", "flow.each"),
        ("', '.join(a)", "flow.each"),
        ("len(a)", "len(x)"),
        ("1 in a", "part in x"),
        ("int(a)", "int(x)"),
        ("float(a)", "float(x)"),
        ("range(a)", "index"),
    ],
)
def test_a_value_that_is_not_there_yet_is_refused_with_what_to_write(source: str, instead: str) -> None:
    error = refusal(source)
    assert (error.code, "s1" in error.message, instead in error.hint) == ("P-401", True, True)


def test_a_reference_has_neither_hash_nor_attributes_of_python() -> None:
    ref: Any = PlanBuilder().call("a.b")
    with pytest.raises(TypeError, match="unhashable"):
        hash(ref)
    with pytest.raises(AttributeError, match=r'\["_x"\]'):
        _ = ref._x
    assert isinstance(ref, Ref)
    assert repr(ref.items[0]).startswith("<Ref $s1.items[0] #")


@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("PlanBuilder().call('a.b', x=[a])", "P-402", "another builder"),
        ("PlanBuilder().call('a.b', x=f'{a}')", "P-402", "another builder"),
        ("flow.call('a.b', x=f'{a}'[:-2])", "P-403", "argument `x` of `a.b`"),
        ("flow.call('a.b', x=f'{[a]}')", "P-403", "left of a reference"),
        ("flow.call('a.b', x={f'{a}': 1})", "P-403", "name of a field"),
        ("flow.step(note=f'{a}').call('a.b')", "P-403", "`note` of step `s3`"),
        ("flow.let(f'{a} + 1')", "P-403", "an expression"),
        ("PlanBuilder(x=a)", "P-404", "input `x`"),
        ("flow.call('a.b', x=Path('a'))", "P-404", "PosixPath"),
        ("a + Path('a')", "P-404", "an expression"),
        ("flow.call('a.b', x=float('nan'))", "P-404", "nan"),
        (r"flow.call('a.b', x='\ud83d')", "P-404", "argument `x` of `a.b` holds half a character"),
        ("flow.let(None)", "P-404", "null"),
        ("flow.each(None, str)", "P-404", "null"),
        ("flow.step(if_=a is None).call('a.b')", "P-404", "`if_` of step `s3` is `False`"),
        ("flow.when('s1 > 1').__enter__()", "P-404", "condition"),
        ("flow.step(if_=a).when(b).__enter__()", "P-405", "two conditions"),
        ("flow.otherwise().__enter__()", "P-405", "no `when`"),
        ("flow.each(['a'], lambda word: None)", "P-405", "does nothing"),
        ("flow.each(['a'], lambda word: flow.build())", "P-405", "still open"),
        ("flow.let('len(x) + y', x=a)", "P-406", "reads `y`"),
        ("flow.let('len(x)', x=a, y=a)", "P-406", "does not read `y`"),
        ("flow.let('[x for x in x]', x=a)", "P-406", "variable `x`"),
        ("flow.let('[x for s1 in [1]]', x=a)", "P-406", "variable `s1`"),
        ("flow.let('sorted(x, key=lambda s1: x)', x=a)", "P-406", "variable `s1`"),
        ("flow.call(count, txt='a')", "P-407", "missing a required argument: 'text'"),
        ("flow.call(count, 'a', 'b')", "P-407", "too many"),
        ("flow.call('a.b', 'a')", "P-407", "without names"),
        ("flow.let('1 +')", "P-201", "not an expression"),
        ("f'{a:x:y}'", "P-201", "field"),
        ("a.splitlines()", "P-202", "`s1.splitlines`"),
        ("a()", "P-202", "`s1`"),
        ("flow.input('file')", "P-204", "`file`"),
        ("flow.step(id='s1').call('a.b')", "P-106", "`s1`"),
        ("flow.step(id='true').call('a.b')", "P-103", "`true`"),
        ("flow.step(id='A').call('a.b')", "P-103", "`A`"),
        ("flow.step(timeout_s=-1).call('a.b')", "P-103", "`timeout_s`"),
        ("flow.step(on_error={'retry': 11}).call('a.b')", "P-103", "`on_error.retry`"),
        ("flow.step(after='s9').call('a.b')", "P-104", "`s9`"),
        ("flow.step(after=flow.input('folder')).call('a.b')", "P-104", "`inputs`"),
    ],
)
def test_what_no_plan_can_say_is_refused(source: str, code: str, part: str) -> None:
    error = refusal(source)
    assert (error.code, part in error.message) == (code, True), error
    assert error.hint or code < "P-400"


def test_a_step_inside_of_a_map_is_not_read_outside_of_it() -> None:
    flow = PlanBuilder()
    inside: list[Any] = []

    def look(word: str) -> int:
        inside.extend([word, flow.call(count, text=word)])
        return 1

    flow.each(["a"], look)
    with pytest.raises(PlanError, match=r"P-402.*`\$word`, but `word` is known only in the map `s1`"):
        flow.call(count, text=inside[0])
    with pytest.raises(PlanError, match=r"P-402.*the answer reads `\$s2`"):
        flow.build(answer=inside[1])


def test_a_branch_reads_neither_the_other_branch_nor_its_own_block() -> None:
    flow = PlanBuilder(n=1)
    with flow.when(flow.input("n") > 0) as block:
        inner = flow.call(count, text="a")
        with pytest.raises(PlanError, match=r"P-402.*`s1` is not finished"):
            flow.call(count, text=f"{block}")
    with flow.otherwise():
        with pytest.raises(PlanError, match=r"P-402.*known only in the block `s1`"):
            flow.call(count, text=f"{inner}")
        with pytest.raises(PlanError, match=r"P-402.*`s1` is not finished"):
            flow.let([block])
        flow.call(count, text="b")
    assert flow.build(answer=block).answer == "$s1"
