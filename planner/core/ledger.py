"""Reserve and settle what a run may use: money, tokens, calls, seconds.

Rules of the file:
- What a call may use at most is held before it starts and settled when it ended, so that calls under way together
  cannot overshoot a limit.
- An unknown price is unknown, not 0: where money is limited, what cannot be known is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from planner.core.catalog import Callee
from planner.core.labels import Frozen, Json

PROMPT_TOKENS = 2_000
"""What a role's own prompt takes at most, without the data put into it."""


class Budget(Frozen):
    """Limits; None is unlimited. `seconds` counts the time in which something was under way."""

    cost_usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None


class Rate(Frozen):
    """The price of a model in US dollars per million tokens; None is unknown."""

    input_usd: float | None = None
    output_usd: float | None = None


class Amount(Frozen):
    """What a call may use at most, or has used; `cost_usd` is None where the price is unknown."""

    cost_usd: float | None = 0.0
    tokens: int = 0
    calls: int = 1

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        is_known = self.cost_usd is not None and other.cost_usd is not None
        cost_usd = (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if is_known else None
        return Amount(cost_usd=cost_usd, tokens=self.tokens + other.tokens, calls=self.calls + other.calls)


NOTHING = Amount(calls=0)
ONE_CALL = Amount()
UNLIMITED = Budget()


def total(amounts: Iterable[Amount]) -> Amount:
    """All of them together."""
    result = NOTHING
    for amount in amounts:
        result = result.plus(amount)
    return result


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used; `unpriced` counts model calls whose price is unknown, which is not the same as 0."""

    cost_usd: float = 0.0
    unpriced: int = 0
    tokens: int = 0
    calls: int = 0
    seconds: float = 0.0

    def plus(self, amount: Amount) -> Spent:
        """With what one more call or model answer used."""
        return Spent(
            cost_usd=self.cost_usd + (amount.cost_usd or 0.0),
            unpriced=self.unpriced + (amount.cost_usd is None),
            tokens=self.tokens + amount.tokens,
            calls=self.calls + amount.calls,
            seconds=self.seconds,
        )

    def later(self, seconds: float) -> Spent:
        """With so much more time in which something was under way."""
        return Spent(self.cost_usd, self.unpriced, self.tokens, self.calls, self.seconds + seconds)


def estimate(callee: Callee, arguments: Json, rate: Rate | None) -> Amount:
    """What one call uses at most: a tool its price, an agent what it may write and a token for each byte read."""
    declared = callee.declaration
    if not declared.max_tokens:
        return Amount(cost_usd=declared.cost_usd)
    read = PROMPT_TOKENS + len(json.dumps(arguments, ensure_ascii=False).encode())
    return Amount(
        cost_usd=price(rate, read, declared.max_tokens, besides=declared.cost_usd),
        tokens=read + declared.max_tokens,
    )


def price(rate: Rate | None, read: int, written: int, *, besides: float | None = 0.0) -> float | None:
    """The price of so many tokens in US dollars; None where a part of it is unknown."""
    if rate is None or rate.input_usd is None or rate.output_usd is None or besides is None:
        return None
    return besides + (read * rate.input_usd + written * rate.output_usd) / 1_000_000


def refusal(budget: Budget, spent: Spent, held: Amount, wanted: Amount) -> str | None:
    """Why there is no room for `wanted` beside what is spent and `held`, in words; None if there is."""
    both = held.plus(wanted)
    if budget.cost_usd is not None:
        if spent.unpriced or both.cost_usd is None:
            return f"the limit of {budget.cost_usd} USD cannot be kept: a call has no known price"
        is_paid = wanted.cost_usd or (wanted.tokens and 0 < budget.cost_usd <= spent.cost_usd)
        if is_paid and (spent.cost_usd + both.cost_usd > budget.cost_usd + 1e-9 or not wanted.cost_usd):
            return f"{spent.cost_usd:.4f} of {budget.cost_usd} USD are spent, and {both.cost_usd:.4f} may be needed"
    if budget.tokens is not None and wanted.tokens and spent.tokens + both.tokens > budget.tokens:
        return f"{spent.tokens} of {budget.tokens} tokens are used, and {both.tokens} may be needed"
    if budget.calls is not None and spent.calls + both.calls > budget.calls:
        return f"{spent.calls + held.calls} of {budget.calls} calls are made"
    if budget.seconds is not None and spent.seconds >= budget.seconds:
        return f"{spent.seconds:.0f} of {budget.seconds:g} seconds are over"
    return None


def share(budget: Budget, spent: Spent) -> float:
    """The largest part of a limit that is used up, from 0; unlimited is never used up."""
    pairs = (
        (spent.cost_usd, budget.cost_usd),
        (spent.tokens, budget.tokens),
        (spent.calls, budget.calls),
        (spent.seconds, budget.seconds),
    )
    return max((used / limit if limit else 1.0 for used, limit in pairs if limit is not None), default=0.0)


def rest(budget: Budget, spent: Spent, held: Amount) -> Budget:
    """What is left of the limits beside what is spent and held; never below nothing."""

    def left(limit: float | None, used: float) -> float | None:
        return None if limit is None else max(0.0, limit - used)

    tokens = left(budget.tokens, spent.tokens + held.tokens)
    calls = left(budget.calls, spent.calls + held.calls)
    return Budget(
        cost_usd=left(budget.cost_usd, spent.cost_usd + (held.cost_usd or 0.0)),
        tokens=None if tokens is None else int(tokens),
        calls=None if calls is None else int(calls),
        seconds=left(budget.seconds, spent.seconds),
    )


def narrower(first: Budget, second: Budget) -> Budget:
    """The smaller of each limit."""

    def least(a: float | None, b: float | None) -> float | None:
        return b if a is None else a if b is None else min(a, b)

    tokens, calls = least(first.tokens, second.tokens), least(first.calls, second.calls)
    return Budget(
        cost_usd=least(first.cost_usd, second.cost_usd),
        tokens=None if tokens is None else int(tokens),
        calls=None if calls is None else int(calls),
        seconds=least(first.seconds, second.seconds),
    )
