"""What a run may use: held before, settled after, and refused where it cannot be known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import Callee, Declaration
from planner.core.ledger import (
    NOTHING,
    ONE_CALL,
    UNLIMITED,
    Amount,
    Budget,
    Rate,
    Spent,
    estimate,
    narrower,
    price,
    refusal,
    rest,
    share,
    total,
)

AGENT = Callee(name="agent.writer", kind="agent", summary="", declaration=Declaration(effect="read", max_tokens=700))
TOOL = Callee(name="sms.send", summary="", declaration=Declaration(effect="send", cost_usd=0.05))


def test_without_limits_there_is_room_for_anything() -> None:
    assert refusal(UNLIMITED, Spent(calls=9_999, unpriced=3), NOTHING, Amount(cost_usd=None, tokens=10**9)) is None


@pytest.mark.parametrize(
    ("budget", "spent", "held", "wanted", "said"),
    [
        (Budget(calls=3), Spent(calls=3), NOTHING, ONE_CALL, "3 of 3 calls are made"),
        (Budget(calls=3), Spent(calls=1), Amount(calls=2), ONE_CALL, "3 of 3 calls are made"),
        (Budget(tokens=100), Spent(tokens=60), NOTHING, Amount(tokens=41), "60 of 100 tokens are used, and 41"),
        (Budget(tokens=100), Spent(tokens=60), Amount(tokens=1), Amount(tokens=40), "60 of 100 tokens"),
        (Budget(cost_usd=1), Spent(cost_usd=0.9), NOTHING, Amount(cost_usd=0.2), "0.9000 of 1.0 USD are spent"),
        (Budget(cost_usd=1), Spent(), NOTHING, Amount(cost_usd=None), "no known price"),
        (Budget(cost_usd=1), Spent(unpriced=1), NOTHING, Amount(cost_usd=0.1), "no known price"),
        (Budget(cost_usd=1), Spent(cost_usd=1.5), NOTHING, Amount(tokens=5), "1.5000 of 1.0 USD are spent"),
        (Budget(seconds=2), Spent(seconds=2), NOTHING, ONE_CALL, "2 of 2 seconds are over"),
    ],
)
def test_a_call_without_room_is_refused_with_the_figures(
    budget: Budget, spent: Spent, held: Amount, wanted: Amount, said: str
) -> None:
    assert said in (refusal(budget, spent, held, wanted) or "")


@pytest.mark.parametrize(
    ("budget", "spent", "wanted"),
    [
        (Budget(calls=3), Spent(calls=2), ONE_CALL),
        (Budget(tokens=100), Spent(tokens=200), ONE_CALL),  # it needs no tokens
        (Budget(cost_usd=1), Spent(cost_usd=1), Amount(cost_usd=0.0)),  # it costs nothing
        (Budget(cost_usd=0.3), Spent(cost_usd=0.1), Amount(cost_usd=0.2)),  # not lost by rounding
        (Budget(cost_usd=0), Spent(), Amount(tokens=5)),  # a free model, where nothing may be paid
        (Budget(seconds=2), Spent(seconds=1.9), ONE_CALL),
    ],
)
def test_a_call_that_fits_is_not_refused(budget: Budget, spent: Spent, wanted: Amount) -> None:
    assert refusal(budget, spent, NOTHING, wanted) is None


def test_a_tool_costs_what_it_declares() -> None:
    assert estimate(TOOL, {}, None) == Amount(cost_usd=0.05)


def test_an_agent_is_held_at_its_longest_answer_and_all_that_it_reads() -> None:
    amount = estimate(AGENT, {"text": "é"}, Rate(input_usd=1, output_usd=2))
    read = 2_000 + len(b'{"text": "__"}')
    assert amount == Amount(cost_usd=(read + 2 * 700) / 1_000_000, tokens=read + 700)


@pytest.mark.parametrize("rate", [None, Rate(), Rate(input_usd=1), Rate(output_usd=1)])
def test_an_unknown_price_is_not_nothing(rate: Rate | None) -> None:
    assert estimate(AGENT, {}, rate).cost_usd is None
    assert price(rate, 1, 1) is None


def test_a_priced_tool_of_unknown_price_stays_unknown() -> None:
    assert price(Rate(input_usd=1, output_usd=1), 1, 1, besides=None) is None


def test_what_was_used_adds_up_and_an_unknown_price_is_counted() -> None:
    spent = Spent().plus(Amount(cost_usd=0.5, tokens=10)).plus(Amount(cost_usd=None, tokens=5))
    assert spent == Spent(cost_usd=0.5, unpriced=1, tokens=15, calls=2)


def test_amounts_add_up_and_stay_unknown() -> None:
    assert total([ONE_CALL, Amount(cost_usd=1, tokens=2)]) == Amount(cost_usd=1, tokens=2, calls=2)
    assert total([ONE_CALL, Amount(cost_usd=None)]).cost_usd is None
    assert total([]) == NOTHING


def test_the_share_is_that_of_the_tightest_limit() -> None:
    assert share(Budget(calls=10, tokens=100), Spent(calls=1, tokens=90)) == 0.9
    assert share(UNLIMITED, Spent(calls=7)) == 0.0
    assert share(Budget(calls=0), Spent()) == 1.0


def test_the_rest_is_what_neither_is_spent_nor_held() -> None:
    left = rest(Budget(cost_usd=2, tokens=100, calls=10), Spent(cost_usd=0.5, tokens=10, calls=4), Amount(cost_usd=1))
    assert left == Budget(cost_usd=0.5, tokens=90, calls=5)
    assert rest(Budget(seconds=1), Spent(seconds=5), Amount(cost_usd=None)) == Budget(seconds=0)


def test_of_two_budgets_the_narrower_limits_hold() -> None:
    assert narrower(Budget(calls=5, tokens=7), Budget(calls=9, cost_usd=1)) == Budget(calls=5, tokens=7, cost_usd=1)


AMOUNTS = st.builds(Amount, cost_usd=st.floats(0, 5), tokens=st.integers(0, 50), calls=st.integers(1, 3))
BUDGETS = st.builds(Budget, cost_usd=st.floats(0, 9), tokens=st.integers(0, 99), calls=st.integers(0, 9))


@given(BUDGETS, st.lists(AMOUNTS, max_size=12))
def test_calls_started_together_never_overshoot(budget: Budget, wanted: list[Amount]) -> None:
    held = NOTHING
    for amount in wanted:
        if refusal(budget, Spent(), held, amount) is None:
            held = held.plus(amount)
    spent = Spent().plus(held)
    assert spent.calls <= (budget.calls or 0)
    assert spent.tokens <= (budget.tokens or 0)
    assert spent.cost_usd <= (budget.cost_usd or 0) + 1e-6
