from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from planner.core.labels import Json
from planner.errors import ToolError
from planner.tools import Toolbox, ToolContext

BOX = Toolbox.load(Path(__file__).parent.parent / "tools", only=["lists.*", "math.*", "dates.*"])


def call(name: str, **arguments: Json) -> Any:
    context = ToolContext(Path(), "key", lambda _name, _content: None, lambda _name: None)
    return asyncio.run(BOX.call(name, arguments, context))


# lists


@pytest.mark.parametrize(
    ("items", "ordered"),
    [
        (["b", "C", "a"], ["a", "b", "C"]),
        ([10, 9, 8.5], [8.5, 9, 10]),
        (["10", "9", "1,000"], ["9", "10", "1,000"]),
        ("pear\n\napple\n", ["apple", "pear"]),
        (["10", "x", None, "9"], [None, "10", "9", "x"]),
        ([], []),
    ],
)
def test_sort_puts_numbers_by_size_and_the_rest_by_name(items: Json, ordered: list[Json]) -> None:
    assert call("lists.sort", items=items) == ordered


def test_sort_goes_down_if_asked() -> None:
    assert call("lists.sort", items=[1, 3, 2], order="descending") == [3, 2, 1]


def test_unique_keeps_the_first_of_each() -> None:
    assert call("lists.unique", items=["b", "a", "b", 1, "1", True, None, None, {"x": 1}, {"x": 1}]) == [
        "b",
        "a",
        1,
        "1",
        True,
        None,
        {"x": 1},
    ]
    assert call("lists.unique", items="a\nb\na") == ["a", "b"]


def test_join_puts_a_separator_between_items() -> None:
    assert call("lists.join", items=["a", 1, 2.5]) == "a, 1, 2.5"
    assert call("lists.join", items=["a", "b"], separator="\n") == "a\nb"


def test_count_counts_items() -> None:
    assert call("lists.count", items=["a", None]) == 2
    assert call("lists.count", items="a\n\nb") == 2


# math


@pytest.mark.parametrize(
    ("expression", "value"),
    [("(3 + 4) * 2", 14), ("7 / 2", 3.5), ("2^10", 1024), ("3 \u00d7 4 ÷ 2 =", 6), ("round(2 / 3, 2)", 0.67), (5, 5)],
)
def test_calculate_understands_arithmetic_as_people_write_it(expression: Json, value: float) -> None:
    assert call("math.calculate", expression=expression) == value


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("0.17 * 2450", "416.5"),
        ("0.1 + 0.2", "0.3"),
        ("-1.1 * 3", "-3.3"),
        ("2 / 3", "0.666666666666667"),
        ("1.5 * 10 ** 20", "1.5e+20"),
        ("1234567890123456 + 1", "1234567890123457"),
        ("10 ** 30 + 1", "1000000000000000000000000000001"),
    ],
)
def test_a_result_reads_as_a_person_expects_and_integers_are_exact(expression: str, read: str) -> None:
    assert str(call("math.calculate", expression=expression)) == read


@pytest.mark.parametrize("expression", ["1 / 0", "two + 2", "'a'", "1 < 2", "1,234 * 2", "9**9**9", "", "open('x')"])
def test_what_is_no_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ToolError, match="T-431") as caught:
        call("math.calculate", expression=expression)
    assert caught.value.error_class == "invalid"


# dates


def test_today_is_the_day_in_utc() -> None:
    before = datetime.now(UTC).date().isoformat()
    found = call("dates.today")
    assert before <= found <= datetime.now(UTC).date().isoformat()


@pytest.mark.parametrize(
    ("date", "days", "result"),
    [
        ("2026-02-27", 2, "2026-03-01"),
        ("1 March 2024", -1, "2024-02-29"),
        ("31.12.2026", "1", "2027-01-01"),
        ("2026-03-05T10:00:00Z", 0.0, "2026-03-05"),
    ],
)
def test_days_are_added_to_a_date(date: str, days: Json, result: str) -> None:
    assert call("dates.add", date=date, days=days) == result


def test_days_between_two_dates_are_counted() -> None:
    assert call("dates.days_between", start="2026-01-01", end="March 1, 2026") == 59
    assert call("dates.days_between", start="2026-01-02", end="2026-01-01") == -1


def test_a_date_that_is_ambiguous_or_out_of_reach_is_refused() -> None:
    with pytest.raises(ToolError, match=r"T-203.*YYYY-MM-DD"):
        call("dates.add", date="3/4/2026", days=1)
    for days in (10**7, 10**12):
        with pytest.raises(ToolError, match="T-441"):
            call("dates.add", date="2026-01-01", days=days)
