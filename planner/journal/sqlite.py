"""The journal in SQLite, for one machine.

Rules of the file:
- All that is known about a run is read from its events; the table `runs` holds its lease, the head of its
  chain, and what spares a list of runs from reading them.
- A function that takes a connection runs on that connection's thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from planner.core.events import (
    FINAL,
    BlobId,
    Event,
    HumanAnswered,
    HumanAsked,
    Recorded,
    RunFinished,
    RunStarted,
    RunStatus,
)
from planner.errors import JournalError
from planner.journal import chain
from planner.journal.chain import Entry, Verification
from planner.journal.contract import LEASE_S, Lease, RunSummary
from planner.journal.database import Database, Migration, transaction
from planner.journal.process import Process, is_alive, this_process

POLL_S = 0.05
"""How often a subscriber looks for events of other processes: below what a person notices."""
BATCH = 500
"""Events that a subscriber reads at a time, so that a long past does not fill the memory."""
GOAL_CHARACTERS = 500
"""As much of a goal as a list of runs shows; the whole is in `RunStarted`."""


class SqliteJournal:
    """The journal in one SQLite file, which any number of processes of one machine may share."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, Lease] = {}
        self._grown: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    @classmethod
    def open(cls, path: Path) -> SqliteJournal:
        """The journal at `path`, made if there is none. Raises `J-110` to `J-115` if that cannot be."""
        return cls(Database(path, MIGRATIONS))

    async def create(self, run_id: str, owner: str) -> Lease:
        """The first lease has token 1."""
        lease = self._held[run_id] = await self._database.write(lambda db: _create(db, run_id, owner))
        return lease

    async def acquire(self, run_id: str, owner: str) -> Lease:
        """At once if the owner's process is gone from this machine, else when its lease has run out."""
        lease = self._held[run_id] = await self._database.write(lambda db: _acquire(db, run_id, owner))
        return lease

    async def renew(self, lease: Lease) -> None:
        """Moves the expiry."""
        await self._database.write(lambda db: _renew(db, lease))

    async def release(self, lease: Lease) -> None:
        """Keeps the token, so that the next one is larger."""
        await self._database.write(lambda db: _release(db, (lease,)))
        if self._held.get(lease.run_id) == lease:
            del self._held[lease.run_id]

    async def append(
        self, lease: Lease, expected: int, events: Sequence[Event], *, at: datetime, durable: bool = True
    ) -> tuple[Recorded, ...]:
        """One transaction; then the subscribers of this process are woken."""
        recorded = await self._database.write(lambda db: _append(db, lease, expected, events, at=at, durable=durable))
        if (grown := self._grown.pop(lease.run_id, None)) is not None:
            grown.set()
        return recorded

    async def read(self, run_id: str, *, after: int = 0) -> tuple[Recorded, ...]:
        """One query."""
        _, recorded = await self._database.read(lambda db: _tail(db, run_id, after, limit=-1))
        return recorded

    async def subscribe(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Reads on when this process appended, and every `POLL_S` for the others."""
        while True:
            grown = self._grown.setdefault(run_id, asyncio.Event())
            is_over, batch = await self._database.read(partial(_tail, run_id=run_id, after=after, limit=BATCH))
            for recorded in batch:
                yield recorded
                after = recorded.run_seq
            if batch:
                continue
            if is_over:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await grown.wait()

    async def put_blob(self, run_id: str, data: bytes) -> BlobId:
        """Stored as zlib."""
        return await self._database.write(lambda db: _put_blob(db, run_id, data))

    async def get_blob(self, run_id: str, id_: BlobId) -> bytes:
        """Checked against its id."""
        return await self._database.read(lambda db: _get_blob(db, run_id, id_))

    async def runs(self, *, limit: int = 50) -> tuple[RunSummary, ...]:
        """Reads as many rows as it returns."""
        return await self._database.read(lambda db: _runs(db, limit))

    async def verify(self, run_id: str) -> Verification:
        """One snapshot, read row by row."""
        return await self._database.read(lambda db: _verify(db, run_id))

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._database.is_closed:
            return
        try:
            await self._database.write(lambda db: _release(db, self._held.values()))
        finally:
            await self._database.close()


def _create_tables(db: sqlite3.Connection) -> None:
    """`run` stands for `run_id` in the tables that grow; `seq` orders the events of all runs."""
    db.execute("""
        CREATE TABLE runs (
            run INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, salt BLOB NOT NULL,
            events INTEGER NOT NULL, head BLOB NOT NULL,
            goal TEXT NOT NULL, status TEXT NOT NULL, asked TEXT NOT NULL,
            started_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,
            token INTEGER NOT NULL, owner TEXT,
            host TEXT NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL, expires_us INTEGER NOT NULL
        )""")
    db.execute("""
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, run_seq INTEGER NOT NULL,
            at_us INTEGER NOT NULL, type TEXT NOT NULL, schema INTEGER NOT NULL,
            salt BLOB, body BLOB, body_hash BLOB, hash BLOB NOT NULL,
            UNIQUE (run, run_seq)
        )""")
    db.execute("""
        CREATE TABLE blobs (
            run INTEGER NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
            UNIQUE (run, id)
        )""")


MIGRATIONS: tuple[Migration, ...] = (_create_tables,)
"""Each brings the file one version further; one may be added, none changed."""


class _Run(NamedTuple):
    """A row of `runs`."""

    run: int
    run_id: str
    salt: bytes
    events: int
    head: bytes
    goal: str
    status: RunStatus
    asked: str  # the steps whose question is open, a JSON list
    started_us: int
    updated_us: int
    token: int
    owner: str | None  # None: nobody
    host: str
    pid: int
    start: str
    expires_us: int

    @property
    def is_live(self) -> bool:
        if self.owner is None:
            return False
        alive = is_alive(Process(self.host, self.pid, self.start))
        return _now_us() < self.expires_us if alive is None else alive


def _now_us() -> int:
    return time.time_ns() // 1000


def _find(db: sqlite3.Connection, run_id: str) -> _Run:
    row = db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise JournalError(
            "J-102", f"there is no run `{run_id}`", hint="`planner runs` lists them.", error_class="missing"
        )
    return _Run(*row)


def _owned(db: sqlite3.Connection, lease: Lease) -> _Run:
    run = _find(db, lease.run_id)
    if run.token != lease.token or run.owner is None:
        now = f"`{run.owner}` owns it, with token {run.token}" if run.owner else "nobody owns it now"
        raise JournalError(
            "J-104",
            f"`{lease.owner}` lost the run `{run.run_id}`, which it held with token {lease.token}: {now}",
            hint="Stop; `acquire` it again to go on.",
        )
    return run


def _claim(owner: str) -> tuple[str, str, int, str, int]:
    """The columns `owner` to `expires_us` of a run that this process owns."""
    return (owner, *this_process(), _expiry_us())


def _expiry_us() -> int:
    return _now_us() + LEASE_S * 1_000_000


def _create(db: sqlite3.Connection, run_id: str, owner: str) -> Lease:
    with transaction(db):
        made = db.execute(
            "INSERT OR IGNORE INTO runs VALUES (NULL, ?, ?, 0, ?, '', 'running', '[]', 0, 0, 1, ?, ?, ?, ?, ?)",
            (run_id, os.urandom(16), chain.START, *_claim(owner)),
        )
    if made.rowcount == 0:
        raise JournalError("J-101", f"the run `{run_id}` exists", hint="Resume it, or choose another id.")
    return Lease(run_id=run_id, token=1, owner=owner)


def _acquire(db: sqlite3.Connection, run_id: str, owner: str) -> Lease:
    with transaction(db):
        run = _find(db, run_id)
        if run.is_live:
            raise JournalError(
                "J-103",
                f"the run `{run_id}` is owned by `{run.owner}`, process {run.pid} on `{run.host}`",
                hint="Wait until it is done, or stop that process and try again.",
            )
        db.execute(
            "UPDATE runs SET token = token + 1, owner = ?, host = ?, pid = ?, start = ?, expires_us = ?"
            " WHERE run = ?",
            (*_claim(owner), run.run),
        )
    return Lease(run_id=run_id, token=run.token + 1, owner=owner)


def _renew(db: sqlite3.Connection, lease: Lease) -> None:
    with transaction(db, durable=False):
        run = _owned(db, lease)
        db.execute("UPDATE runs SET expires_us = ? WHERE run = ?", (_expiry_us(), run.run))


def _release(db: sqlite3.Connection, leases: Iterable[Lease]) -> None:
    with transaction(db, durable=False):
        db.executemany(
            "UPDATE runs SET owner = NULL WHERE run_id = ? AND token = ?",
            [(lease.run_id, lease.token) for lease in leases],
        )


def _runs(db: sqlite3.Connection, limit: int) -> tuple[RunSummary, ...]:
    rows = db.execute("SELECT * FROM runs WHERE events > 0 ORDER BY run DESC LIMIT ?", (limit,))
    return tuple(
        RunSummary(
            run_id=run.run_id,
            goal=run.goal,
            status=run.status,
            started_at=chain.from_us(run.started_us),
            updated_at=chain.from_us(run.updated_us),
            events=run.events,
            is_live=run.is_live,
        )
        for run in map(_Run._make, rows.fetchall())
    )


def _append(
    db: sqlite3.Connection,
    lease: Lease,
    expected: int,
    events: Sequence[Event],
    *,
    at: datetime,
    durable: bool,
) -> tuple[Recorded, ...]:
    with transaction(db, durable=durable):
        run = _owned(db, lease)
        if run.events != expected:
            raise JournalError(
                "J-105",
                f"the run `{run.run_id}` has {run.events} events, but the writer expected {expected}",
                hint="Read the rest, and decide again.",
            )
        head, recorded = run.head, []
        for run_seq, event in enumerate(events, start=expected + 1):
            entry, kept = chain.seal(event, os.urandom(16), previous=head, run_id=run.run_id, run_seq=run_seq, at=at)
            row = db.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (run.run, *entry))
            recorded.append(_recorded(row.lastrowid or 0, run.run_id, entry, kept))
            head = entry.hash
        at_us = chain.to_us(at)
        started_us = run.started_us if expected else at_us
        db.execute(
            "UPDATE runs SET events = ?, head = ?, started_us = ?, updated_us = ?,"
            " goal = ?, status = ?, asked = ? WHERE run = ?",
            (expected + len(recorded), head, started_us, at_us, *_summarise(run, events), run.run),
        )
    return tuple(recorded)


def _summarise(run: _Run, events: Sequence[Event]) -> tuple[str, RunStatus, str]:
    """Goal, status and open questions of the run after `events`."""
    goal, status, asked = run.goal, run.status, set(json.loads(run.asked))
    for event in events:
        match event:
            case RunStarted():
                goal = event.goal[:GOAL_CHARACTERS]
            case HumanAsked():
                asked.add(event.path)
            case HumanAnswered():
                asked.discard(event.path)
            case RunFinished():
                status = event.status
            case _:
                pass
    if status not in FINAL:
        status = "waiting" if asked else "running"
    return goal, status, json.dumps(sorted(asked))


def _recorded(seq: int, run_id: str, entry: Entry, event: Event) -> Recorded:
    return Recorded(
        seq=seq,
        run_id=run_id,
        run_seq=entry.run_seq,
        at=chain.from_us(entry.at_us),
        event=event,
        schema_version=entry.schema,
    )


def _tail(db: sqlite3.Connection, run_id: str, after: int, *, limit: int) -> tuple[bool, tuple[Recorded, ...]]:
    """Whether the run is over, and its events beyond `after`."""
    run = _find(db, run_id)  # before the events: what is over by now gets no more of them
    return run.status in FINAL, tuple(
        _recorded(seq, run_id, entry, chain.unseal(entry, run_id)) for seq, entry in _entries(db, run, after, limit)
    )


def _verify(db: sqlite3.Connection, run_id: str) -> Verification:
    db.execute("BEGIN")  # the run and its events as of one moment
    try:
        run = _find(db, run_id)
        entries = (entry for _, entry in _entries(db, run, 0, -1))
        return chain.verify(run_id, entries, events=run.events, head=run.head)
    finally:
        db.execute("COMMIT")


def _entries(db: sqlite3.Connection, run: _Run, after: int, limit: int) -> Iterator[tuple[int, Entry]]:
    """The stored events with their `seq`; the casts let a damaged row fail its check instead of its use."""
    rows = db.execute(
        "SELECT seq, CAST(run_seq AS INTEGER), CAST(at_us AS INTEGER), CAST(type AS TEXT),"
        " CAST(schema AS INTEGER), CAST(salt AS BLOB), CAST(body AS BLOB), CAST(body_hash AS BLOB),"
        " CAST(hash AS BLOB) FROM events WHERE run = ? AND run_seq > ? ORDER BY run_seq LIMIT ?",
        (run.run, after, limit),
    )
    return ((seq, Entry(*columns)) for seq, *columns in rows)


def _put_blob(db: sqlite3.Connection, run_id: str, data: bytes) -> BlobId:
    run = _find(db, run_id)
    id_ = chain.salted(run.salt, data).hex()
    packed = zlib.compress(data)
    with transaction(db):
        db.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (run.run, id_, packed))
    return id_


def _get_blob(db: sqlite3.Connection, run_id: str, id_: BlobId) -> bytes:
    run = _find(db, run_id)
    row = db.execute("SELECT data FROM blobs WHERE run = ? AND id = ?", (run.run, id_)).fetchone()
    if row is None:
        raise JournalError(
            "J-106",
            f"the run `{run_id}` has no blob `{id_}`",
            hint="It may be erased.",
            error_class="missing",
        )
    with suppress(zlib.error):
        data = zlib.decompress(row[0])
        if chain.salted(run.salt, data).hex() == id_:
            return data
    raise JournalError(
        "J-109",
        f"the blob `{id_}` of run `{run_id}` was changed",
        hint="Put back a copy of the journal.",
        error_class="failed",
    )
