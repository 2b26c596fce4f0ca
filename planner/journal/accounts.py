"""The tables of accounts and holds: what several runs, of any process, may use together.

Rules of the file:
- What a call may use at most is held before it is made. A hold ends as spend: of what was used where that is known,
  else of all that was held.
- A function that takes a connection runs on that connection's thread; one that changes something, in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime

from planner.core.ledger import Amount, Budget, Spent, refusal, total
from planner.journal import chain, runs
from planner.journal.contract import Lease


def reserve(
    db: sqlite3.Connection, lease: Lease, key: str, *, amount: Amount, limits: Mapping[str, Budget], at: datetime
) -> str | None:
    """Holds `amount` on every account; or on none, and says which has no room for it."""
    run = runs.owned(db, lease).run
    for account, budget in limits.items():
        reason = refusal(budget, spent(db, account), _held(db, account, besides=(run, key)), amount)
        if reason is not None:
            _settle_lost(db)
            return f"{account}: {reason}"
    _drop(db, run, key)
    held = (chain.to_us(at), amount.cost_usd, amount.tokens, amount.calls)
    db.executemany("INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?)", [(run, key, name, *held) for name in limits])
    return None


def settle(db: sqlite3.Connection, lease: Lease, key: str, amount: Amount) -> None:
    """What is held under `key` becomes spend of `amount`."""
    run = runs.owned(db, lease).run
    held = db.execute('SELECT account FROM holds WHERE run = ? AND "key" = ?', (run, key)).fetchall()
    _spend(db, [(account, amount) for (account,) in held])
    _drop(db, run, key)


def settle_unknown(db: sqlite3.Connection, run_id: str) -> None:
    """All that the run holds becomes spend: whoever held it is gone, and nobody knows what was used of it."""
    _settle_all(db, runs.find(db, run_id).run)


def _settle_lost(db: sqlite3.Connection) -> None:
    """The same for every run whose owner is gone: else all others would wait for what it held."""
    holding = db.execute(
        "SELECT DISTINCT runs.run, owner, host, pid, start, expires_us FROM holds JOIN runs USING (run)"
    )
    for run, *claim in holding.fetchall():
        if not runs.Claim(*claim).is_live:
            _settle_all(db, run)


def _settle_all(db: sqlite3.Connection, run: int) -> None:
    held = db.execute("SELECT account, cost_usd, tokens, calls FROM holds WHERE run = ?", (run,)).fetchall()
    _spend(db, [(account, _amount(*columns)) for account, *columns in held])
    db.execute("DELETE FROM holds WHERE run = ?", (run,))


def spent(db: sqlite3.Connection, account: str) -> Spent:
    """What was used; of an account that nobody used, nothing."""
    row = db.execute(
        "SELECT cost_usd, unpriced, tokens, calls FROM accounts WHERE account = ?", (account,)
    ).fetchone()
    if row is None:
        return Spent()
    cost_usd, unpriced, tokens, calls = row
    return Spent(cost_usd=cost_usd, unpriced=unpriced, tokens=tokens, calls=calls)


def _held(db: sqlite3.Connection, account: str, *, besides: tuple[int, str]) -> Amount:
    """What calls under way may still use, but for one of them."""
    rows = db.execute(
        'SELECT cost_usd, tokens, calls FROM holds WHERE account = ? AND NOT (run = ? AND "key" = ?)',
        (account, *besides),
    )
    return total(_amount(*columns) for columns in rows)


def _spend(db: sqlite3.Connection, amounts: Iterable[tuple[str, Amount]]) -> None:
    for account, amount in amounts:
        now = spent(db, account).plus(amount)
        db.execute(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)",
            (account, now.cost_usd, now.unpriced, now.tokens, now.calls),
        )


def _drop(db: sqlite3.Connection, run: int, key: str) -> None:
    db.execute('DELETE FROM holds WHERE run = ? AND "key" = ?', (run, key))


def _amount(cost_usd: float | None, tokens: int, calls: int) -> Amount:
    return Amount(cost_usd=cost_usd, tokens=tokens, calls=calls)
