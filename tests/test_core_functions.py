from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.expr import evaluate
from planner.core.functions import FUNCTIONS, METHODS, describe, distinct, text
from planner.core.labels import Json
from planner.errors import PlanError

VALUES = [
    ("len('abc') + len([1, 2]) + len({'a': 1})", 6),
    ("sum([1, 2.5, true])", 4.5),
    ("min(3, 1, 2)", 1),
    ("max([1, 3, 2])", 3),
    ("max(['a', 'ccc', 'bb'], key=lambda x: len(x))", "ccc"),
    ("sorted([3, 1, 2])", [1, 2, 3]),
    ("sorted(['b', 'a'], reverse=true)", ["b", "a"]),
    ("sorted({'b': 1, 'a': 2})", ["a", "b"]),
    ("round(2.567, 2)", 2.57),
    ("round(2.6)", 3),
    ("abs(-3)", 3),
    ("any([0, 1])", True),
    ("all([0, 1])", False),
    ("set([3, 1, 3, [1], [1], {'a': 1}, {'a': 1}])", [3, 1, [1], {"a": 1}]),
    ("list({'a': 1})", ["a"]),
    ("dict()", {}),
    ("dict([['a', 1]], b=2)", {"a": 1, "b": 2}),
    ("dict({'a': 1}, name=2)", {"a": 1, "name": 2}),
    ("zip([1, 2], ['a', 'b', 'c'])", [[1, "a"], [2, "b"]]),
    ("enumerate(['a', 'b'], 1)", [[1, "a"], [2, "b"]]),
    ("range(3)", [0, 1, 2]),
    ("range(1, 7, 3)", [1, 4]),
    ("str(3.0) + str(null) + str([1, 'a'])", "3.0null1\na"),
    ("int('12') + int(3.7)", 15),
    ("float('1.5') + float(1)", 2.5),
    ("bool([]) or bool('x')", True),
    ("lower('Ab') + upper('Ab') + trim('  c ')", "abABc"),
    ("split('a b  c')", ["a", "b", "c"]),
    ("split('a,b', ',')", ["a", "b"]),
    ("join(['a', 1, true])", "a, 1, true"),
    ("join([], '-')", ""),
    ("replace('aba', 'a', 'cc')", "ccbcc"),
    ("contains('abc', 'b') and contains([1], 1)", True),
    ("startswith('abc', 'ab')", True),
    ("lines('a\\nb')", ["a", "b"]),
    ("words(' a b ')", ["a", "b"]),
    ("date('due 31.12.2024')", "2024-12-31"),
    ("days_between('2024-02-01', '2024-03-01')", 29),
    ("add_days('2024-01-31', 30)", "2024-03-01"),
    ("[year('2024-05-31'), month('2024-05-31'), day('2024-05-31')]", [2024, 5, 31]),
    ("weekday('2024-05-31')", 4),
    ("emails('a@b.de c@d.de')", ["a@b.de", "c@d.de"]),
    ("email('to a@b.de')", "a@b.de"),
    ("urls('https://a.de')", ["https://a.de"]),
    ("url('https://a.de')", "https://a.de"),
    ("numbers('1, 2.5')", [1, 2.5]),
    ("number('1,234.50 EUR')", 1234.5),
    ("number(7)", 7),
    ("dates('2024-01-02')", ["2024-01-02"]),
    ("ibans('x')", []),
    ("iban('GB82WEST12345698765432')", "GB82WEST12345698765432"),
    ("'Ab'.lower() + 'Ab'.upper() + 'ab c'.title()", "abABAb C"),
    ("' a '.strip() + 'xax'.strip('x')", "aa"),
    ("'a-b'.split('-')", ["a", "b"]),
    ("', '.join(['a', 'b'])", "a, b"),
    ("'aa'.replace('a', 'b')", "bb"),
    ("'ab'.startswith('a') and 'ab'.endswith('b')", True),
    ("'abab'.count('ab') + [1, 1].count(1)", 4),
    ("'abc'.index('c') + [1, 2].index(2)", 3),
    ("{'a': 1}.keys() + {'a': 1}.values()", ["a", 1]),
    ("{'a': 1}.items()", [["a", 1]]),
    ("[{'a': 1}.get('a'), {'a': 1}.get('b'), {'a': 1}.get('b', 2), {'a': 1}.get(name='a')]", [1, None, 2, 1]),
    ("1 + 2 * 3 - 4 / 2", 5.0),
    ("[7 // 2, 7 % 4, 2 ** 10, 2 ** -1, 0 ** 0, (-8) ** 2.0, -2 ** 2]", [3, 3, 1024, 0.5, 1, 64.0, -4]),
    ("['a' + 'b', [1] + [2], 'ab' * 2, 2 * [1], 'a' * -1]", ["ab", [1, 2], "abab", [1, 1], ""]),
    ("1 < 2 <= 2 != 3 >= 3 > 2 == 2.0", True),
    ("'a' in 'abc' and 1 not in [2] and 'k' in {'k': 1}", True),
    ("null is null and true is not null", True),
]
REFUSED = [
    ("1 / 0", "P-209", "divides by zero"),
    ("1 % 0", "P-209", "divides by zero"),
    ("0 ** -1", "P-209", "divides by zero"),
    ("2 ** 5000", "P-209", "too large"),
    ("10.0 ** 400", "P-209", "too large"),
    ("2 ** 1000 * 2 ** 1000", "P-209", "too large"),
    ("1e308 * 10", "P-209", "too large"),
    ("float('nan')", "P-209", "too large, or not a number"),
    ("number('9' * 400)", "P-209", "too large"),
    ("number('9' * 5000)", "P-208", "cannot work with the text"),
    ("add_days('9999-01-01', 9999)", "P-209", "date that is too large"),
    ("range(10 ** 9)", "P-210", "longer than 2,000,000"),
    ("range(10 ** 30)", "P-209", "too large"),
    ("'a' * 10 ** 9", "P-210", "longer than"),
    ("'aaaa'.replace('', 'b' * 900000)", "P-210", "longer than"),
    ("join(range(1000), 'b' * 9000)", "P-210", "longer than"),
    ("(-8) ** 0.5", "P-208", "`**` cannot work with the number -8 and the number 0.5"),
    ("'a' + 1", "P-208", "text and the number 1 cannot be added"),
    ("1 + 'a'", "P-208", "text and the number 1 cannot be added"),
    ("1 + null", "P-208", "expected a number, got null"),
    ("[1] - [1]", "P-208", "expected a number, got a list of 1"),
    ("1 < 'a'", "P-208", "`<` cannot work with the number 1 and the text `a`"),
    ("1 in 'a'", "P-208", "expected text, got the number 1"),
    ("1 in 1", "P-208", "expected a list, got the number 1"),
    ("len(1)", "P-208", "expected a list"),
    ("sum(['a'])", "P-208", "expected a number"),
    ("sum('12')", "P-208", "expected a list, got the text `12`"),
    ("sorted([1, 'a'])", "P-208", "`sorted` cannot work with a list of 2"),
    ("min([])", "P-211", "an empty list"),
    ("round(1.5, 99)", "P-208", "at most 30 digits"),
    ("range('a')", "P-208", "a whole number"),
    ("range(1, 2, 0)", "P-208", "`range` cannot work with"),
    ("dict([[1, 2]])", "P-208", "expected text"),
    ("dict([[1, 2, 3]])", "P-208", "`dict` cannot work with"),
    ("int('a')", "P-208", "`int` cannot work with the text `a`"),
    ("int({})", "P-208", "expected a number, got a record"),
    ("lower(1)", "P-208", "expected text"),
    ("'a'.split('')", "P-208", "`split` cannot work with"),
    ("'abc'.index('x')", "P-211", "the text `x` is not in the text `abc`"),
    ("[].index(1)", "P-211", "the number 1 is not in a list of 0"),
    ("email('nobody')", "P-211", "there is no e-mail address in the text `nobody`"),
    ("date('03/04/2024')", "P-211", "read in one way only"),
    ("abs(1.5 + '" + "x" * 60 + "')", "P-208", "text and the number 1.5"),
]


@pytest.mark.parametrize(("source", "value"), VALUES)
def test_a_function_gives_what_it_says(source: str, value: Json) -> None:
    result = evaluate(source, {}).value
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(("source", "code", "part"), REFUSED)
def test_what_cannot_be_done_is_a_plan_error_that_says_why(source: str, code: str, part: str) -> None:
    with pytest.raises(PlanError) as caught:
        evaluate(source, {})
    assert caught.value.code == code
    assert part in str(caught.value)


def test_every_function_and_method_has_an_example() -> None:
    written = " ".join(source for source, _ in VALUES)
    assert not [name for name in FUNCTIONS if f"{name}(" not in written]
    assert not [name for table in METHODS.values() for name in table if f".{name}(" not in written]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a\nb", "a\nb"),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (3.0, "3.0"),
        (["a", 1, None], "a\n1\nnull"),
        ([], ""),
        ([["ä"], 1], '[["ä"],1]'),
        ({"a": [1, {}]}, '{"a":[1,{}]}'),
    ],
)
def test_a_value_reads_as_text(value: Json, written: str) -> None:
    assert text(value) == written


def test_descriptions_of_values_are_short() -> None:
    assert describe("x" * 1000) == f"the text `{'x' * 39}…`"
    assert describe(10**300) == "a very large number"
    assert describe(2.5) == "the number 2.5"


@given(st.lists(st.recursive(st.integers(0, 2) | st.text("ab", max_size=1), st.lists, max_leaves=3)))
def test_distinct_keeps_the_first_of_equal_values(values: list[Json]) -> None:
    found = distinct(values)
    assert all(value in found for value in values)
    assert found == [value for index, value in enumerate(values) if value not in values[:index]]
