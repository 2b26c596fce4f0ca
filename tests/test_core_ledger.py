from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.ledger import Budget, Spent, calls_left, exceeded

UNLIMITED = Budget(calls=None)


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (Budget(cost_usd=1), Spent(cost_usd=0.99), None),
        (Budget(cost_usd=1), Spent(cost_usd=1.0), "1.0000 of 1.0 USD are spent"),
        (
            Budget(cost_usd=1),
            Spent(unpriced=1),
            "the limit of 1.0 USD cannot be kept: a model call has no known price",
        ),
        (Budget(tokens=10), Spent(tokens=9), None),
        (Budget(tokens=10), Spent(tokens=10), "10 of 10 tokens are used"),
        (Budget(calls=3), Spent(calls=2), None),
        (Budget(calls=3), Spent(calls=3), "3 of 3 calls are made"),
        (Budget(seconds=60), Spent(seconds=59.9), None),
        (Budget(seconds=60), Spent(seconds=60.4), "60 of 60 seconds are over"),
        (UNLIMITED, Spent(cost_usd=9, unpriced=9, tokens=9, calls=9999, seconds=9e9), None),
    ],
)
def test_a_limit_that_is_reached_is_said_in_words(budget: Budget, spent: Spent, words: str | None) -> None:
    assert exceeded(budget, spent) == words


def test_a_run_has_room_for_500_calls_unless_told_otherwise() -> None:
    assert calls_left(Budget(), Spent(calls=1)) == 499


def test_no_call_is_left_once_any_limit_is_reached() -> None:
    assert calls_left(Budget(tokens=1), Spent(tokens=1)) == 0
    assert calls_left(UNLIMITED, Spent(calls=10**6)) == inf


def test_an_unknown_price_is_counted_as_unknown_and_not_as_nothing() -> None:
    spent = Spent().with_model(tokens=5, cost_usd=None).with_model(tokens=7, cost_usd=0.25).with_call()
    assert spent == Spent(cost_usd=0.25, unpriced=1, tokens=12, calls=1)


@given(st.integers(0, 5), st.lists(st.booleans(), max_size=9))
def test_what_was_exceeded_stays_exceeded(limit: int, calls: list[bool]) -> None:
    budget, spent, was_over = Budget(calls=limit, tokens=limit), Spent(), False
    for is_call in calls:
        spent = spent.with_call() if is_call else spent.with_model(tokens=1, cost_usd=None)
        assert exceeded(budget, spent) is not None or not was_over
        assert (calls_left(budget, spent) > 0) is (exceeded(budget, spent) is None)
        was_over = exceeded(budget, spent) is not None
