"""The table of events: appended to the head of their run's chain, read back in order.

Rules of the file:
- A function that takes a connection runs on that connection's thread; one that changes something, in a transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime

from planner.core.events import FINAL, Event, Recorded, RunStarted, RunStatus
from planner.errors import JournalError
from planner.journal import chain, requests, runs
from planner.journal.chain import Entry, Verification
from planner.journal.contract import Lease

GOAL_CHARACTERS = 500
"""As much of a goal as a list of runs shows; the whole is in `RunStarted`."""


def append(
    db: sqlite3.Connection,
    lease: Lease,
    expected: int,
    events: Sequence[Event],
    *,
    at: datetime,
    status: RunStatus,
    request: int | None,
) -> tuple[Recorded, ...]:
    """The events as they will be read. Raises `J-105` if `expected` is not the last one."""
    run = runs.owned(db, lease)
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
        if isinstance(event, RunStarted):
            _describe(db, run, event)
    at_us = chain.to_us(at)
    db.execute(
        "UPDATE runs SET events = ?, head = ?, started_us = ?, updated_us = ? WHERE run = ?",
        (expected + len(recorded), head, run.started_us if expected else at_us, at_us, run.run),
    )
    if status != run.status:  # apart, because it is rare and in an index
        db.execute("UPDATE runs SET status = ? WHERE run = ?", (status, run.run))
    if request is not None:
        requests.take(db, run, request, [one.run_seq for one in recorded])
    return tuple(recorded)


def _describe(db: sqlite3.Connection, run: runs.Run, event: RunStarted) -> None:
    """Keeps what a list of runs shows of it."""
    parent = None if event.parent is None else event.parent.run_id
    db.execute("UPDATE runs SET goal = ?, parent = ? WHERE run = ?", (event.goal[:GOAL_CHARACTERS], parent, run.run))


def tail(db: sqlite3.Connection, run_id: str, after: int, *, limit: int) -> tuple[bool, tuple[Recorded, ...]]:
    """Whether the run is over, and its events beyond `after`."""
    run = runs.find(db, run_id)  # before the events: what is over by now gets no more of them
    return run.status in FINAL, tuple(
        _recorded(seq, run_id, entry, chain.unseal(entry, run_id)) for seq, entry in _entries(db, run, after, limit)
    )


def verify(db: sqlite3.Connection, run_id: str) -> Verification:
    """What the chain of the run proves."""
    db.execute("BEGIN")  # the run and its events as of one moment
    try:
        run = runs.find(db, run_id)
        entries = (entry for _, entry in _entries(db, run, 0, -1))
        return chain.verify(run_id, entries, events=run.events, head=run.head)
    finally:
        db.execute("COMMIT")


def stored(db: sqlite3.Connection, run_id: str) -> tuple[Entry, ...]:
    """The events of the run as they are stored."""
    run = runs.find(db, run_id)
    return tuple(entry for _, entry in _entries(db, run, 0, -1))


def _entries(db: sqlite3.Connection, run: runs.Run, after: int, limit: int) -> Iterator[tuple[int, Entry]]:
    """The stored events with their `seq`; the casts let a damaged row fail its check instead of its use."""
    rows = db.execute(
        "SELECT seq, CAST(run_seq AS INTEGER), CAST(at_us AS INTEGER), IFNULL(CAST(type AS TEXT), ''),"
        " CAST(schema AS INTEGER), CAST(salt AS BLOB), CAST(body AS BLOB), CAST(body_hash AS BLOB),"
        " CAST(hash AS BLOB) FROM events WHERE run = ? AND run_seq > ? ORDER BY run_seq LIMIT ?",
        (run.run, after, limit),
    )
    return ((seq, Entry(*columns)) for seq, *columns in rows)


def _recorded(seq: int, run_id: str, entry: Entry, event: Event) -> Recorded:
    return Recorded(
        seq=seq,
        run_id=run_id,
        run_seq=entry.run_seq,
        at=chain.from_us(entry.at_us),
        event=event,
        schema_version=entry.schema,
    )
