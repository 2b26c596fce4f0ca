from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.core.events import StepResolved, StepStarted, StepSucceeded, TimerFired
from planner.core.labels import Labelled
from planner.core.ledger import Amount, Budget
from planner.errors import JournalError
from planner.journal import SqliteJournal, chain
from planner.journal.database import GROUP, Database
from planner.journal.sqlite import MIGRATIONS

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal.open(path)
    try:
        yield journal
    finally:
        await journal.close()


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(JournalError) as caught:
        yield
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


def fired(n: int) -> TimerFired:
    return TimerFired(path=f"s{n}")


@asynccontextmanager
async def busy_writer(journal: SqliteJournal) -> AsyncIterator[None]:
    """What is written inside waits together, until the block is left."""
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(db: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(300)

    busy = asyncio.ensure_future(journal._database.write(wait))
    await begun.wait()
    yield
    await asyncio.sleep(0)  # those that were begun are in the queue by now
    go.set()
    await busy


# Writes that wait together


def test_appends_of_several_runs_that_wait_together_share_one_wait_for_the_disk(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            leases = [await journal.create(f"r{n}", "test") for n in range(20)]
            said: list[str] = []
            async with busy_writer(journal):
                appends = [
                    asyncio.ensure_future(journal.append(lease, 0, [fired(1), fired(2)], at=AT, durable=n == 13))
                    for n, lease in enumerate(leases)
                ]
                journal._database._writer.set_trace_callback(said.append)
            recorded = await asyncio.gather(*appends)
            assert said.count("COMMIT") == 2  # of what kept the writer busy, and of all of these
            assert [len(events) for events in recorded] == [2] * 20
            for lease, events in zip(leases, recorded, strict=True):
                assert await journal.read(lease.run_id) == events
                assert (await journal.verify(lease.run_id)).first_bad is None

    asyncio.run(run())


def test_of_writes_that_wait_together_only_the_wrong_ones_fail(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            leases = [await journal.create(f"r{n}", "test") for n in range(4)]
            async with busy_writer(journal):
                writes = [
                    asyncio.ensure_future(write)
                    for write in (
                        journal.append(leases[0], 0, [fired(1)], at=AT),
                        journal.append(leases[1], 7, [fired(1)], at=AT),
                        journal.append(leases[2], 0, [fired(1)], at=AT.replace(tzinfo=None)),
                        journal.create("r0", "test"),
                        journal.append(leases[0], 1, [fired(2)], at=AT),
                        journal.put_blob("r3", b"letter"),
                    )
                ]
                await asyncio.sleep(0.05)  # a blob is packed before it is in the queue
            first, expected, zone, known, second, blob = await asyncio.gather(*writes, return_exceptions=True)
            assert isinstance(expected, JournalError)
            assert expected.code == "J-105"
            assert isinstance(known, JournalError)
            assert known.code == "J-101"
            assert isinstance(zone, TypeError)
            assert isinstance(first, tuple)
            assert isinstance(second, tuple)
            assert await journal.read("r0") == (*first, *second)
            assert isinstance(blob, str)
            assert await journal.get_blob("r3", blob) == b"letter"
            assert await journal.read("r1") == await journal.read("r2") == ()

    asyncio.run(run())


def test_more_than_one_group_of_writes_keeps_its_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            lease = await journal.create("r1", "test")
            count = 2 * GROUP + 5
            async with busy_writer(journal):
                appends = [
                    asyncio.ensure_future(journal.append(lease, n, [fired(n)], at=AT, durable=False))
                    for n in range(count)
                ]
            await asyncio.gather(*appends)
            assert [r.event for r in await journal.read("r1")] == [fired(n) for n in range(count)]

    asyncio.run(run())


def test_what_waits_when_the_journal_is_closed_is_still_written(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    async def run() -> None:
        journal = SqliteJournal.open(path)
        lease = await journal.create("r1", "test")
        appends = [asyncio.ensure_future(journal.append(lease, n, [fired(n)], at=AT)) for n in range(3)]
        await asyncio.sleep(0)
        await journal.close()
        assert [len(recorded) for recorded in await asyncio.gather(*appends)] == [1, 1, 1]
        assert not [
            thread for thread in threading.enumerate() if thread.name == "journal-writer" and thread.is_alive()
        ]

    asyncio.run(run())


def test_an_append_that_is_cancelled_before_its_turn_is_not_written(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            lease = await journal.create("r1", "test")
            async with busy_writer(journal):
                first, second = [
                    asyncio.ensure_future(journal.append(lease, 0, [fired(n)], at=AT, durable=False)) for n in (1, 2)
                ]
                await asyncio.sleep(0)
                first.cancel()
            await second
            assert first.cancelled()
            assert [r.event for r in await journal.read("r1")] == [fired(2)]

    asyncio.run(run())


def test_a_write_that_waits_for_the_disk_is_durable_also_after_one_that_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            lease = await journal.create("r1", "test")
            levels = []
            for n, durable in enumerate([False, True, True, False, True]):
                await journal.append(lease, n, [fired(n)], at=AT, durable=durable)
                levels.append(await journal._database.write(level, durable=durable))
            assert levels == [1, 2, 2, 1, 2]  # NORMAL is 1, FULL is 2

    def level(db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA synchronous").fetchone()[0])

    asyncio.run(run())


UNCLOSED = """
import asyncio, sys
from pathlib import Path
from planner.journal import SqliteJournal

async def main(path):
    journal = SqliteJournal.open(Path(path))
    await journal.create("r1", "the child")
    print("made", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_journal_that_was_never_closed_does_not_keep_its_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED, str(tmp_path / "j.db")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\n", "")

    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            assert (await journal.acquire("r1", "test")).token == 2

    asyncio.run(run())


# Older files


def at_version_1(path: Path) -> None:
    """A file as the first version left it: a run that ended, one that waits for a person, and a blob."""

    async def fill(database: Database) -> None:
        await database.write(_fill)
        await database.close()

    async def run() -> None:
        await fill(Database(path, MIGRATIONS[:1]))

    asyncio.run(run())


def _fill(db: sqlite3.Connection) -> None:
    for run, status in enumerate(["completed", "waiting"], start=1):
        head = chain.START
        for run_seq in (1, 2, 3):
            salt = os.urandom(16)
            entry, _ = chain.seal(fired(run_seq), salt, previous=head, run_id=f"r{run}", run_seq=run_seq, at=AT)
            db.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (run, *entry))
            head = entry.hash
        columns = (
            run,
            f"r{run}",
            b"salt",
            3,
            head,
            f"goal {run}",
            status,
            '["s1"]',
            chain.to_us(AT),
            chain.to_us(AT),
        )
        db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 4, NULL, 'h', 1, 's', 0)", columns)
    id_ = chain.salted(b"salt", b"letter").hex()
    db.execute("INSERT INTO blobs VALUES (1, ?, ?)", (id_, zlib.compress(b"letter")))


def test_an_older_file_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    at_version_1(path)

    async def run() -> None:
        async with opened(path) as journal:
            newest, oldest = await journal.runs()
            assert (newest.run_id, newest.goal, newest.status) == ("r2", "goal 2", "waiting")
            assert (oldest.run_id, oldest.goal, oldest.status) == ("r1", "goal 1", "completed")
            assert (newest.parent, newest.due_at, newest.requests, newest.is_live) == (None, None, 0, False)
            for run_id in ("r1", "r2"):
                assert (await journal.verify(run_id)).first_bad is None
                assert [r.event for r in await journal.read(run_id)] == [fired(n) for n in (1, 2, 3)]
            assert await journal.get_blob("r1", chain.salted(b"salt", b"letter").hex()) == b"letter"
            lease = await journal.acquire("r2", "test")
            assert lease.token == 5
            await journal.append(lease, 3, [fired(4)], at=AT)
            assert await journal.reserve(lease, "s1", Amount(), {"a": Budget(calls=1)}, at=AT) is None
            with refused("J-101", "`r1`"):
                await journal.create("r1", "test")

    asyncio.run(run())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with refused("J-112", "version 2"):
        Database(path, MIGRATIONS[:1])


def test_an_old_file_and_a_new_one_have_the_same_tables(tmp_path: Path) -> None:
    at_version_1(tmp_path / "old.db")

    async def run() -> None:
        for name in ("old.db", "new.db"):
            async with opened(tmp_path / name):
                pass

    asyncio.run(run())
    schemas: list[list[object]] = []
    for name in ("old.db", "new.db"):
        with closing(sqlite3.connect(tmp_path / name)) as db:
            schemas.append(db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall())
    assert schemas[0] == schemas[1]


# What must stay small


def test_a_step_of_three_events_takes_less_than_a_thousand_bytes(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    assert grown(path, 200) / 200 < 1000


def grown(path: Path, steps: int) -> int:
    """The bytes that so many steps add to the file."""

    async def run() -> int:
        async with opened(path) as journal:
            lease = await journal.create("r1", "test")
            before, count = size(), 0
            for n in range(steps):
                for event in (
                    StepResolved(path=f"s{n}", arguments=Labelled(value={"path": "a.txt"})),
                    StepStarted(path=f"s{n}", attempt=1, key="0123456789abcdef" * 2),
                    StepSucceeded(path=f"s{n}", value=Labelled(value="ok"), seconds=0.01),
                ):
                    count += len(await journal.append(lease, count, [event], at=AT, durable=False))
            return size() - before

    def size() -> int:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    return asyncio.run(run())


def plan_of(db: sqlite3.Connection, query: str) -> str:
    return " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT run FROM unfinished_runs WHERE status = 'running'", "runs_unfinished"),
        ("SELECT run FROM open_requests", "requests_open"),
        ("SELECT count(*) FROM open_requests WHERE run = 1", "requests_open"),
    ],
)
def test_what_is_asked_often_is_found_without_reading_what_has_ended(tmp_path: Path, query: str, index: str) -> None:
    async def run() -> str:
        async with opened(tmp_path / "j.db") as journal:
            return await journal._database.read(lambda db: plan_of(db, query))

    assert index in asyncio.run(run())
