"""What a call may use is held on the accounts that runs share, and settled when it is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from planner.core.events import BudgetRefused, Usage
from planner.core.ledger import NOTHING, Amount, Budget, refusal
from planner.journal import Lease
from planner.outcomes import used
from planner.outside import Outside

POLL_S = 0.1
"""How often a call that waits for what others hold looks again."""


@dataclass(slots=True)
class Hold:
    """What is held for one call, and what of it counts as used in the end."""

    amount: Amount = NOTHING
    used: Amount = NOTHING
    """Nothing as long as the call was not made."""
    refused: BudgetRefused | None = None
    """Why there is no room for the call."""

    def begin(self) -> None:
        """The call is made: as long as nobody knows what it used, that is all that is held."""
        self.used = self.amount

    def tell(self, usage: Sequence[Usage]) -> None:
        """The call has ended, and used this."""
        self.used = used(usage, self.amount)


@asynccontextmanager
async def held(
    outside: Outside, lease: Lease, key: str, amount: Amount, *, is_due: bool = False
) -> AsyncIterator[Hold]:
    """Holds `amount` for a call while inside. What `is_due`, as taking back is, counts but is never refused."""
    hold = Hold(amount)
    if not outside.accounts:
        yield hold
        return
    now = outside.clock()
    limits = {f"{name}/{now:%Y-%m-%d}": Budget() if is_due else budget for name, budget in outside.accounts.items()}
    while (refused := await outside.journal.reserve(lease, key, amount, limits, at=now)) is not None:
        spent_by = await outside.journal.accounts(limits)
        if any(refusal(limits[name], spent_by[name], NOTHING, amount) is not None for name in limits):
            account, _, reason = refused.partition(": ")
            hold.refused = BudgetRefused(account=account, reason=reason)
            yield hold
            return
        await asyncio.sleep(POLL_S)  # others hold what they may not need
    try:
        yield hold
    finally:
        await outside.journal.settle(lease, key, hold.used)
