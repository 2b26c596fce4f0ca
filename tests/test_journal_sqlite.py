from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from planner.core.catalog import Callee
from planner.core.events import Event, HumanAnswered, RunStarted, StepInDoubt, TimerFired
from planner.core.ledger import Budget
from planner.core.policy import Policy, Principal
from planner.core.redaction import NO_SECRETS, Redactor
from planner.errors import JournalError
from planner.journal import Journal, Lease, SqliteJournal, process

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@asynccontextmanager
async def opened(path: Path, redactor: Redactor = NO_SECRETS) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal.open(path, redactor=redactor)
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


def started(goal: str = "read the letters", callees: int = 0) -> RunStarted:
    known = tuple(Callee(name=f"files.read{n}", summary="read a file") for n in range(callees))
    setup = {"callees": known, "policy": Policy(), "budget": Budget()}
    return RunStarted.model_validate({"goal": goal, "principal": Principal(), "setup": setup})


def fired(n: int) -> TimerFired:
    return TimerFired(path=f"s{n}")


async def written(journal: Journal, *events: Event, run_id: str = "r1") -> Lease:
    lease = await journal.create(run_id, "test")
    await journal.append(lease, 0, events, at=AT)
    return lease


# What is stored


async def make(path: Path, events: int = 5) -> None:
    async with opened(path) as journal:
        await written(journal, started(callees=20), *map(fired, range(1, events)))


def written_in(place: Path) -> bytes:
    return b"".join(file.read_bytes() for file in place.iterdir())


def test_no_secret_is_stored_whoever_brings_it(tmp_path: Path) -> None:
    async def run() -> None:
        redactor = Redactor.of({"SHOP_KEY": "hunter22"})
        async with opened(tmp_path / "j.db", redactor) as journal:
            lease = await written(journal, started())
            (doubt,) = await journal.append(lease, 1, [StepInDoubt(path="s1", reason="hunter22 is wrong")], at=AT)
            assert doubt.event == StepInDoubt(path="s1", reason="[secret SHOP_KEY] is wrong")
            assert (await journal.read("r1"))[1:] == (doubt,)
            said = HumanAnswered(path="s1", answer="value", value="hunter22", by="ann")
            id_ = await journal.post("r1", said, at=AT)
            await journal.refuse(lease, id_, "`hunter22` is no number")
            request = await journal.request(id_)
            assert request.event == said.model_copy(update={"value": "[secret SHOP_KEY]"})
            assert request.problem == "`[secret SHOP_KEY]` is no number"
            assert b"hunter22" not in written_in(tmp_path)
            blob = await journal.put_blob("r1", b"hunter22 stays, for it is to be put back")
            assert (await journal.get_blob("r1", blob)).startswith(b"hunter22")

    asyncio.run(run())


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("DELETE FROM events WHERE run_seq = 5", 5),
        ("DELETE FROM events WHERE run_seq = 3", 3),
        ("UPDATE events SET at_us = at_us + 1 WHERE run_seq = 3", 3),
        ("UPDATE events SET at_us = 'noon' WHERE run_seq = 3", 3),
        ("UPDATE events SET type = x'ff' WHERE run_seq = 3", 3),
        ("UPDATE events SET salt = 7, body = 7 WHERE run_seq = 3", 3),
        ("UPDATE events SET hash = 'lost' WHERE run_seq = 3", 3),
        ("UPDATE runs SET events = 4", 4),
        ("UPDATE runs SET events = 6", 6),
        ("UPDATE runs SET head = zeroblob(32)", 5),
        ("UPDATE runs SET run = 9; UPDATE events SET run = 9", None),
    ],
)
def test_a_changed_file_is_found_out_whatever_its_columns_hold_now(
    tmp_path: Path, change: str, where: int | None
) -> None:
    async def run() -> None:
        await make(tmp_path / "j.db")
        with tampering(tmp_path / "j.db") as db:
            db.executescript(change)
        async with opened(tmp_path / "j.db") as journal:
            assert (await journal.verify("r1")).first_bad == where

    asyncio.run(run())


def test_erased_content_leaves_the_chain_whole_but_cannot_be_read(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "j.db"
        await make(path)
        with tampering(path) as db:
            db.create_function("sha256", 2, lambda salt, body: hashlib.sha256(salt + body).digest())
            db.execute("UPDATE events SET body_hash = sha256(salt, body), salt = NULL, body = NULL WHERE run_seq = 2")
        async with opened(path) as journal:
            proof = await journal.verify("r1")
            assert (proof.events, proof.erased, proof.first_bad) == (5, 1, None)
            with refused("J-108", "event 2", "`r1`", "`TimerFired`"):
                await journal.read("r1")
            assert len(await journal.read("r1", after=2)) == 3

    asyncio.run(run())


def test_a_verifier_written_from_the_description_alone_agrees(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "j.db"))
    with tampering(tmp_path / "j.db") as db:
        last, count = "0" * 64, 0
        for run_seq, at_us, type_, schema, salt, body, hash_ in db.execute(
            "SELECT run_seq, at_us, type, schema, salt, body, hash FROM events ORDER BY run_seq"
        ):
            header = [last, "r1", run_seq, at_us, type_, schema, hashlib.sha256(salt + body).hexdigest()]
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
            last, count = hashlib.sha256(text.encode()).hexdigest(), count + 1
            assert (run_seq, hash_.hex()) == (count, last)
            assert json.loads(body if body[:1] == b"{" else zlib.decompress(body))["type"] == type_
        assert db.execute("SELECT events, head FROM runs").fetchone() == (count, bytes.fromhex(last))


def test_a_changed_blob_is_not_given_out(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            await journal.create("r1", "test")
            id_ = await journal.put_blob("r1", b"old")
            for data in (zlib.compress(b"new"), b"no zlib"):
                with tampering(tmp_path / "j.db") as db:
                    db.execute("UPDATE blobs SET data = ?", (data,))
                with refused("J-109", id_):
                    await journal.get_blob("r1", id_)

    asyncio.run(run())


def test_a_step_takes_as_much_room_late_in_a_run_as_early(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    async def run() -> list[int]:
        sizes = []
        async with opened(path) as journal:
            lease = await written(journal, started(callees=200))
            with tampering(path) as db:
                for n in range(4):
                    await journal.append(lease, 1 + 400 * n, [fired(0)] * 400, at=AT, durable=False)
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    sizes.append(path.stat().st_size)
        return sizes

    sizes = asyncio.run(run())
    grown = [(after - before) / 400 for before, after in pairwise(sizes)]
    assert max(grown) < 200
    assert max(grown) - min(grown) < 25


# The file


def test_the_file_and_its_folder_belong_to_the_user_alone(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "state" / "j.db"))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "j.db").stat().st_mode) == 0o600


def test_a_newer_file_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    asyncio.run(make(path))
    with tampering(path) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with refused("J-112", "version 99", str(path)):
        SqliteJournal.open(path)
    assert path.read_bytes() == before


def foreign(path: Path) -> None:
    with tampering(path) as db:
        db.execute("CREATE TABLE letters (text)")


@pytest.mark.parametrize(
    ("make_it", "code"),
    [
        (lambda path: path.mkdir(), "J-110"),
        (lambda path: path.parent.rmdir() or path.parent.touch(), "J-110"),
        (lambda path: path.write_bytes(b"Dear Ann, " * 1000), "J-111"),
        (foreign, "J-111"),
    ],
    ids=["a folder", "below a file", "no database", "the database of another program"],
)
def test_what_cannot_be_a_journal_is_refused(tmp_path: Path, make_it: Callable[[Path], object], code: str) -> None:
    path = tmp_path / "state" / "j.db"
    path.parent.mkdir()
    make_it(path)
    with refused(code, str(path)):
        SqliteJournal.open(path)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Nothing is read-only for root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with without_privileges(), refused("J-110", folder, "Permission denied"):
            SqliteJournal.open(Path(folder) / "j.db")


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    asyncio.run(make(path, events=300))
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    async def run() -> None:
        async with opened(path) as journal:
            with refused("J-111", str(path)):
                await journal.read("r1")
            with pytest.raises(JournalError):
                await journal.runs()

    asyncio.run(run())


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            lease = await written(journal, started())
            await journal._database.write(lambda db: db.execute("PRAGMA max_page_count = 14").close())
            count = 1
            with refused("J-113", "no room"):
                while count < 1000:
                    count += len(await journal.append(lease, count, [fired(1)] * 20, at=AT))
            with refused("J-113"):
                await journal.put_blob("r1", os.urandom(100_000))
            await journal._database.write(lambda db: db.execute("PRAGMA max_page_count = 1000000").close())
            assert (await journal.verify("r1")).events == count == len(await journal.read("r1"))
            await journal.append(lease, count, [fired(2)], at=AT)

    asyncio.run(run())


# Several processes

CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from planner.core.events import RunFinished, TimerFired
from planner.journal import SqliteJournal

async def main(path, run_id, count):
    journal = SqliteJournal.open(Path(path))
    lease = await journal.create(run_id, "the child")
    for n in range(int(count)):
        is_last = n == int(count) - 1
        event = RunFinished(status="completed") if is_last else TimerFired(path=f"s{n}")
        status = "completed" if is_last else "running"
        await journal.append(lease, n, [event], at=datetime.now(UTC), status=status)
        print(n + 1, flush=True)
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""


def child(path: Path, run_id: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), run_id, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def test_nothing_acknowledged_is_lost_when_the_owner_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with child(path, "r1", 1_000_000) as owner:
        assert owner.stdout is not None
        acknowledged = 0
        while acknowledged < 50:
            acknowledged = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, owner.stdout.read().split())])

        async def run() -> None:  # the child is not waited for yet: a zombie owns nothing
            async with opened(path) as journal:
                lease = await journal.acquire("r1", "the parent")
                assert lease.token == 2
                recorded = await journal.read("r1")
                assert len(recorded) - acknowledged in {0, 1}
                assert [r.event for r in recorded] == [fired(n) for n in range(len(recorded))]
                assert (await journal.verify("r1")).events == len(recorded)
                with refused("J-104", "`the parent`"):
                    old = Lease(run_id="r1", token=1, owner="the child")
                    await journal.append(old, len(recorded), [fired(0)], at=AT)

        asyncio.run(run())


def test_processes_share_one_file_from_its_making_on_and_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.db"
    children = [child(path, f"r{n}", 20) for n in range(3)]

    async def run() -> None:
        async with opened(path) as journal:
            for one in children:
                assert one.stdout is not None
                await asyncio.to_thread(one.stdout.readline)  # its first event is there
            seen = [recorded async for recorded in journal.subscribe("r0")]
            assert [r.run_seq for r in seen] == list(range(1, 21))

    asyncio.run(asyncio.wait_for(run(), 300))
    for one in children:
        with one:
            assert one.wait(300) == 0

    async def verify() -> None:
        async with opened(path) as journal:
            assert {r.run_id: (r.status, r.is_live) for r in await journal.runs()} == {
                f"r{n}": ("completed", False) for n in range(3)
            }
            proofs = [await journal.verify(f"r{n}") for n in range(3)]
            assert [(p.events, p.first_bad) for p in proofs] == [(20, None)] * 3

    asyncio.run(verify())


@pytest.mark.parametrize(
    ("change", "is_live"),
    [
        ("pid = 1", False),  # another process has the pid
        ("pid = 4194305", False),  # beyond every pid
        ("start = ''", True),  # nobody can tell: the lease decides
        ("start = '', expires_us = 0", False),
        ("host = 'elsewhere'", True),
        ("host = 'elsewhere', expires_us = 0", False),
    ],
)
def test_a_lease_lives_with_its_process_and_where_that_is_unseen_until_it_runs_out(
    tmp_path: Path, change: str, is_live: bool
) -> None:
    async def run() -> None:
        async with opened(tmp_path / "j.db") as journal:
            lease = await written(journal, started())
            with tampering(tmp_path / "j.db") as db:
                db.execute(f"UPDATE runs SET {change}")
            assert (await journal.runs())[0].is_live is is_live
            await journal.renew(lease)
            if "expires_us" in change:
                assert (await journal.runs())[0].is_live
            elif not is_live:
                assert (await journal.acquire("r1", "next")).token == 2

    asyncio.run(run())


@pytest.mark.parametrize("look", [process._start, process._start_by_ps])
def test_a_process_is_known_by_its_start_until_it_ends(look: Callable[[int], str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert look(other.pid) == look(other.pid) != ""
        other.kill()
        while look(other.pid):  # a zombie by now, and gone for us
            time.sleep(0.01)
    assert look(other.pid) == ""
