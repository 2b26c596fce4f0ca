"""What a call may use is held on the accounts that runs share, and settled when it is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from planner.core.events import BudgetRefused, Usage
from planner.core.ledger import NOTHING, Amount, refusal
from planner.journal import Lease
from planner.outcomes import used
from planner.outside import Outside

POLL_S = 0.1
"""How often a call that waits for what others hold looks again."""


@asynccontextmanager
async def held(
    outside: Outside, lease: Lease, key: str, amount: Amount
) -> AsyncIterator[list[Usage] | BudgetRefused]:
    """Holds `amount` for a call; what is put into the list is what it used. Or else why there is no room."""
    spent: list[Usage] = []
    if not outside.accounts:
        yield spent
        return
    now = outside.clock()
    limits = {f"{name}/{now:%Y-%m-%d}": budget for name, budget in outside.accounts.items()}
    while (refused := await outside.journal.reserve(lease, key, amount, limits, at=now)) is not None:
        spent_by = await outside.journal.accounts(limits)
        if all(refusal(limits[name], spent_by[name], NOTHING, amount) is None for name in limits):
            await asyncio.sleep(POLL_S)  # others hold what they may not need
            continue
        account, _, reason = refused.partition(": ")
        yield BudgetRefused(account=account, reason=reason)
        return
    try:
        yield spent
    finally:
        await outside.journal.settle(lease, key, used(spent, amount))
