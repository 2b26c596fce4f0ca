from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.finders import dates, emails, ibans, numbers, urls


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234.50 EUR", [1234.5]),
        ("1.234,50", [1234.5]),
        ("1 234,50 €", [1234.5]),
        ("1'234.5 and 1\u2019234", [1234.5, 1234]),
        ("1\xa0234\u202f567", [1234567]),
        ("12,5", [12.5]),
        ("1,234", [1234]),
        ("1,234kg", [1234]),
        ("0,123", [0.123]),
        ("1.234", [1.234]),
        ("1.234.567", [1234567]),
        ("31.12.2024", [31, 12, 2024]),
        ("1,2,3", [1, 2, 3]),
        ("-1,2,3", [-1, 2, 3]),
        ("-5 a-5 \u22127 5 - 3", [-5, 5, -7, 5, 3]),
        ("x .5 -.5", [0.5, -0.5]),
        ("1e5 and 3E-2", [100000.0, 0.03]),
        ("10 200 300", [10, 200, 300]),
        ("EUR12.50 ($3) 10% 12kg", [12.5, 3, 10, 12]),
        ("3.0", [3.0]),
        ("none", []),
    ],
)
def test_numbers_are_read_in_the_english_and_the_european_way(text: str, found: list[float]) -> None:
    assert numbers(text) == found
    assert [type(n) for n in numbers(text)] == [type(n) for n in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2024-03-12T10:00Z", ["2024-03-12"]),
        ("2024/3/1", ["2024-03-01"]),
        ("31.12.2024 and 1. 2. 2024", ["2024-12-31", "2024-02-01"]),
        ("13/04/2024, 4-13-2024", ["2024-04-13", "2024-04-13"]),
        ("05/05/2024", ["2024-05-05"]),
        ("12 March 2024", ["2024-03-12"]),
        ("3rd of May, 2021", ["2021-05-03"]),
        ("March 12th, 2024", ["2024-03-12"]),
        ("SEPT. 3 2020", ["2020-09-03"]),
        ("12024-03-12 mayor 5, 2020", []),
    ],
)
def test_dates_are_read_in_their_usual_forms(text: str, found: list[str]) -> None:
    assert dates(text) == found


@pytest.mark.parametrize("text", ["03/04/2024", "2024-13-45", "31.02.2024", "30 February 2024"])
def test_a_date_that_does_not_exist_or_could_be_two_is_left_out(text: str) -> None:
    assert dates(text) == []


def test_emails_and_urls_are_found_without_the_punctuation_around_them() -> None:
    assert emails("a@b.de, <x.y+z@q.co.uk>. foo@bar") == ["a@b.de", "x.y+z@q.co.uk"]
    assert urls("see (https://a.b/c). and https://w.org/X_(y), <http://q.de/?a=1&b=2>!") == [
        "https://a.b/c",
        "https://w.org/X_(y)",
        "http://q.de/?a=1&b=2",
    ]


def test_only_account_numbers_with_right_check_digits_are_found() -> None:
    text = "pay DE89 3704 0044 0532 0130 00 EUR 5 or GB82WEST12345698765432, not DE88370400440532013000"
    assert ibans(text) == ["DE89370400440532013000", "GB82WEST12345698765432"]


@given(st.text(alphabet="0123456789.,'- eEx/T@:ADmay\u2009", max_size=60))
def test_no_text_makes_a_finder_fail(text: str) -> None:
    for find in (numbers, dates, emails, urls, ibans):
        find(text)


def test_hostile_text_costs_no_more_time_than_other_text() -> None:
    start = time.process_time()
    for text in ("a" * 300_000, "1," * 150_000, "a@" * 150_000, "1.1" * 100_000, "DE89 " * 60_000):
        for find in (dates, emails, urls, ibans):
            find(text)
    assert time.process_time() - start < 10  # a backtracking search would take hours
