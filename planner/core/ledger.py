"""Settle what a run may use, and has used: money, tokens, calls, seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from planner.core.labels import Frozen


class Budget(Frozen):
    """Limits of a run; None is unlimited."""

    cost_usd: float | None = None
    tokens: int | None = None
    calls: int | None = 500
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used; `unpriced` counts model calls whose price is unknown, which is not the same as 0."""

    cost_usd: float = 0.0
    unpriced: int = 0
    tokens: int = 0
    calls: int = 0
    seconds: float = 0.0

    def with_call(self) -> Spent:
        """One more call, counted when it starts, so that calls under way cannot overshoot."""
        return replace(self, calls=self.calls + 1)

    def with_model(self, *, tokens: int, cost_usd: float | None) -> Spent:
        """One more model answer."""
        return replace(
            self,
            tokens=self.tokens + tokens,
            cost_usd=self.cost_usd + (cost_usd or 0.0),
            unpriced=self.unpriced + (cost_usd is None),
        )


def calls_left(budget: Budget, spent: Spent) -> float:
    """How many more calls may start: none where a limit is reached, without limit infinitely many."""
    if exceeded(budget, spent) is not None:
        return 0
    return inf if budget.calls is None else budget.calls - spent.calls


def exceeded(budget: Budget, spent: Spent) -> str | None:
    """Which limit leaves no room for one more call, in words; None when there is room.

    A money limit with an unpriced call counts as exceeded: what cannot be known cannot be allowed.
    """
    if budget.cost_usd is not None:
        if spent.unpriced:
            return f"the limit of {budget.cost_usd} USD cannot be kept: a model call has no known price"
        if spent.cost_usd >= budget.cost_usd:
            return f"{spent.cost_usd:.4f} of {budget.cost_usd} USD are spent"
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        return f"{spent.tokens} of {budget.tokens} tokens are used"
    if budget.calls is not None and spent.calls >= budget.calls:
        return f"{spent.calls} of {budget.calls} calls are made"
    if budget.seconds is not None and spent.seconds >= budget.seconds:
        return f"{spent.seconds:.0f} of {budget.seconds:.0f} seconds are over"
    return None
