"""The accounts that several runs share: a further implementation of the journal is one more line in `OPENERS`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.core.events import TimerFired
from planner.core.ledger import Amount, Budget, Spent
from planner.errors import JournalError
from planner.journal import Journal, Lease, SqliteJournal

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ACME, DAY = "tenant:acme", "tenant:acme/2026-11-20"
OPENERS: dict[str, Callable[[Path], Journal]] = {
    "sqlite": lambda folder: SqliteJournal.open(folder / "journal.db"),
}


@pytest.fixture(params=list(OPENERS))
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Journal]:
    return lambda: OPENERS[request.param](tmp_path)


@asynccontextmanager
async def opened(journal: Journal) -> AsyncIterator[Journal]:
    try:
        yield journal
    finally:
        await journal.close()


def check(opener: Callable[[], Journal], test: Callable[[Journal], Awaitable[None]]) -> None:
    """Runs a test on a journal that is closed afterwards."""

    async def run() -> None:
        async with opened(opener()) as journal:
            await test(journal)

    asyncio.run(run())


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(JournalError) as caught:
        yield
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


async def reserve(journal: Journal, lease: Lease, key: str, amount: Amount, **limits: Budget) -> str | None:
    """On the accounts `a`, `b`, ..."""
    return await journal.reserve(lease, key, amount, limits, at=AT)


async def spent(journal: Journal, account: str) -> Spent:
    return (await journal.accounts([account]))[account]


def test_what_is_held_counts_until_it_is_settled_as_what_was_used(opener: Callable[[], Journal]) -> None:
    limits = {ACME: Budget(tokens=100)}

    async def test(journal: Journal) -> None:
        first, second = [await journal.create(run_id, "test") for run_id in ("r1", "r2")]
        assert await journal.reserve(first, "s1", Amount(tokens=80), limits, at=AT) is None
        assert await journal.accounts([ACME]) == {ACME: Spent()}
        reason = await journal.reserve(second, "s1", Amount(tokens=30), limits, at=AT)
        assert reason == f"{ACME}: 0 of 100 tokens are used, and 110 may be needed"
        await journal.settle(first, "s1", Amount(tokens=60, cost_usd=0.5))
        assert await spent(journal, ACME) == Spent(cost_usd=0.5, tokens=60, calls=1)
        assert await journal.reserve(second, "s1", Amount(tokens=30), limits, at=AT) is None
        await journal.settle(second, "s1", Amount(tokens=7))
        assert await spent(journal, ACME) == Spent(cost_usd=0.5, tokens=67, calls=2)

    check(opener, test)


def test_an_amount_is_held_on_all_accounts_or_on_none(opener: Callable[[], Journal]) -> None:
    limits = {ACME: Budget(calls=5), DAY: Budget(calls=1)}

    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        assert await journal.reserve(lease, "s1", Amount(), limits, at=AT) is None
        assert await journal.reserve(lease, "s2", Amount(), limits, at=AT) == f"{DAY}: 1 of 1 calls are made"
        await journal.settle(lease, "s2", Amount())
        await journal.settle(lease, "s1", Amount())
        assert await journal.accounts([ACME, DAY, "unused"]) == {
            ACME: Spent(calls=1),
            DAY: Spent(calls=1),
            "unused": Spent(),
        }

    check(opener, test)


def test_reserving_again_replaces_the_hold_and_a_refusal_leaves_it(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        ten = Budget(tokens=10)
        assert await reserve(journal, lease, "s1", Amount(tokens=8), a=ten, b=ten) is None
        assert await reserve(journal, lease, "s1", Amount(tokens=10), a=ten) is None  # no more on `b`
        assert await reserve(journal, lease, "s2", Amount(tokens=10), b=ten) is None
        assert await reserve(journal, lease, "s1", Amount(tokens=11), a=ten) is not None
        assert await reserve(journal, lease, "s3", Amount(tokens=1), a=ten) is not None
        await journal.settle(lease, "s1", Amount(tokens=9))
        assert (await spent(journal, "a")).tokens == 9
        assert (await spent(journal, "b")).tokens == 0

    check(opener, test)


def test_the_same_key_of_two_runs_is_two_holds(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        first, second = [await journal.create(run_id, "test") for run_id in ("r1", "r2")]
        for lease in (first, second):
            assert await reserve(journal, lease, "s1", Amount(), a=Budget(calls=2)) is None
        await journal.settle(first, "s1", Amount())
        assert (await spent(journal, "a")).calls == 1
        assert await reserve(journal, first, "s2", Amount(), a=Budget(calls=2)) is not None

    check(opener, test)


def test_what_is_held_under_no_such_key_is_settled_without_effect(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        assert await reserve(journal, lease, "s1", Amount(), a=Budget(calls=1)) is None
        await journal.settle(lease, "s2", Amount(calls=4))
        await journal.settle(lease, "s1", Amount())
        await journal.settle(lease, "s1", Amount())
        assert (await spent(journal, "a")).calls == 1

    check(opener, test)


def test_a_price_that_nobody_knows_closes_an_account_with_a_limit_in_money(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        free, limited = Budget(), Budget(cost_usd=1)
        assert await reserve(journal, lease, "s1", Amount(cost_usd=None), a=free) is None
        refusal = await reserve(journal, lease, "s2", Amount(cost_usd=0.1), a=limited)
        assert refusal is not None
        assert "no known price" in refusal
        await journal.settle(lease, "s1", Amount(cost_usd=None, tokens=3))
        assert await spent(journal, "a") == Spent(unpriced=1, tokens=3, calls=1)
        assert await reserve(journal, lease, "s2", Amount(cost_usd=0.1), a=limited) == refusal

    check(opener, test)


def test_what_a_lost_owner_held_is_spent_as_held_for_nobody_knows_what_it_used(
    opener: Callable[[], Journal],
) -> None:
    async def test(journal: Journal) -> None:
        old = await journal.create("r1", "test")
        other = await journal.create("r2", "test")
        for lease in (old, other):
            assert await reserve(journal, lease, "s1", Amount(cost_usd=None, tokens=5), a=Budget()) is None
            assert await reserve(journal, lease, "s2", Amount(cost_usd=2, tokens=7), a=Budget()) is None
        await journal.release(old)
        assert await spent(journal, "a") == Spent()
        new = await journal.acquire("r1", "next")
        assert await spent(journal, "a") == Spent(cost_usd=2, unpriced=1, tokens=12, calls=2)
        await journal.settle(new, "s1", Amount())
        assert (await spent(journal, "a")).calls == 2
        for operation in (journal.settle(old, "s1", Amount()), reserve(journal, old, "s3", Amount(), a=Budget())):
            with refused("J-104", "`next`"):
                await operation

    check(opener, test)


def test_an_account_outlives_the_journal_that_was_closed(opener: Callable[[], Journal]) -> None:
    async def run() -> None:
        async with opened(opener()) as journal:
            lease = await journal.create("r1", "test")
            assert await reserve(journal, lease, "s1", Amount(cost_usd=1.25), a=Budget()) is None
            await journal.settle(lease, "s1", Amount(cost_usd=0.75))
            assert await reserve(journal, lease, "s2", Amount(), a=Budget(calls=2)) is None
        async with opened(opener()) as journal:
            assert await spent(journal, "a") == Spent(cost_usd=0.75, calls=1)
            lease = await journal.create("r2", "test")
            assert await reserve(journal, lease, "s1", Amount(), a=Budget(calls=2)) is not None  # `s2` is still held

    asyncio.run(run())


SPEND = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from planner.core.ledger import Amount, Budget
from planner.journal import SqliteJournal

LIMITS = {"all": Budget(calls=60, tokens=1000), "money": Budget(cost_usd=5.0)}

async def main(path, run_id):
    journal = SqliteJournal.open(Path(path))
    lease = await journal.create(run_id, "the child")
    print("ready", flush=True)
    sys.stdin.readline()

    async def call(n):
        held = Amount(cost_usd=0.1, tokens=20)
        reason = await journal.reserve(lease, f"s{n}", held, LIMITS, at=datetime.now(UTC))
        if reason is None and n % 5:  # each fifth is under way when the process ends
            await journal.settle(lease, f"s{n}", Amount(cost_usd=0.05, tokens=10 + n % 10))
        return reason is None

    granted = 0
    for n in range(0, 60, 3):
        granted += sum(await asyncio.gather(*(call(n + k) for k in range(3))))
    print(granted, flush=True)
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_that_call_at_once_never_use_more_than_the_limit_of_all(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SPEND, str(path), f"r{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for n in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    granted = 0
    for child in children:
        with child:
            assert child.stdout is not None
            granted += int(child.stdout.read())
            assert child.wait(300) == 0

    async def run() -> None:
        async with opened(SqliteJournal.open(path)) as journal:
            for n in range(4):
                await journal.acquire(f"r{n}", "test")  # what was under way counts as held
            used = await spent(journal, "all")
            assert used.calls == granted <= 60
            assert used.tokens <= 1000
            assert used.tokens > 1000 - 20 or used.calls == 60  # and what was left, nobody could have used
            assert (await spent(journal, "money")).cost_usd <= 5.0 + 1e-9

    asyncio.run(run())


def test_many_runs_of_one_process_never_use_more_than_the_limit_of_all(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        leases = [await journal.create(f"r{n}", "test") for n in range(30)]
        for lease in leases:
            await journal.append(lease, 0, [TimerFired(path="s1")], at=AT, durable=False)
        reasons = await asyncio.gather(
            *(reserve(journal, lease, "s1", Amount(), a=Budget(calls=7)) for lease in leases)
        )
        assert reasons.count(None) == 7
        assert set(reasons) == {None, "a: 7 of 7 calls are made"}

    check(opener, test)
