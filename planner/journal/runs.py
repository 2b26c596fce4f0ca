"""The table of runs: who owns each, the head of its chain, and what spares a list of runs from reading events.

Rules of the file:
- A function that takes a connection runs on that connection's thread; one that changes something, in a transaction.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from planner.core.events import RunStatus
from planner.errors import JournalError
from planner.journal import chain
from planner.journal.contract import LEASE_S, Lease, RunSummary
from planner.journal.process import Process, is_alive, this_process

LAST_RUN = 2**63 - 1
"""Beyond every `run`: SQLite's largest integer."""


class Run(NamedTuple):
    """What a writer has to know of a run."""

    run: int
    run_id: str
    salt: bytes
    events: int
    head: bytes
    status: RunStatus
    started_us: int
    token: int
    owner: str | None
    """None: nobody."""


class Claim(NamedTuple):
    """Who owns a run."""

    owner: str | None
    host: str
    pid: int
    start: str
    expires_us: int

    @property
    def is_live(self) -> bool:
        """Whether the owner's process lives, or where nobody can tell, its lease has not run out."""
        if self.owner is None:
            return False
        alive = is_alive(Process(self.host, self.pid, self.start))
        return _now_us() < self.expires_us if alive is None else alive


def find(db: sqlite3.Connection, run_id: str) -> Run:
    """The run. Raises `J-102` if there is none."""
    row = db.execute(
        "SELECT run, run_id, salt, events, head, status, started_us, token, owner FROM runs WHERE run_id = ?",
        (run_id,),
    ).fetchone()
    if row is None:
        raise JournalError(
            "J-102", f"there is no run `{run_id}`", hint="`planner runs` lists them.", error_class="missing"
        )
    return Run(*row)


def owned(db: sqlite3.Connection, lease: Lease) -> Run:
    """The run that `lease` is for. Raises `J-104` if it was lost."""
    run = find(db, lease.run_id)
    if run.token != lease.token or run.owner is None:
        now = f"`{run.owner}` owns it, with token {run.token}" if run.owner else "nobody owns it now"
        raise JournalError(
            "J-104",
            f"`{lease.owner}` lost the run `{run.run_id}`, which it held with token {lease.token}: {now}",
            hint="Stop; `acquire` it again to go on.",
        )
    return run


def create(db: sqlite3.Connection, run_id: str, owner: str) -> Lease:
    """The lease on a new run. Raises `J-101` if it exists."""
    made = db.execute(
        "INSERT OR IGNORE INTO runs VALUES (NULL, ?, ?, 0, ?, 'running', 1, ?, ?, ?, ?, ?, 0, 0, NULL, '', NULL)",
        (run_id, os.urandom(16), chain.START, *_claim(owner)),
    )
    if made.rowcount == 0:
        raise JournalError("J-101", f"the run `{run_id}` exists", hint="Resume it, or choose another id.")
    return Lease(run_id=run_id, token=1, owner=owner)


def acquire(db: sqlite3.Connection, run_id: str, owner: str) -> Lease:
    """A lease with a larger token. Raises `J-103` if the run is live."""
    run = find(db, run_id)
    held = db.execute("SELECT owner, host, pid, start, expires_us FROM runs WHERE run = ?", (run.run,))
    claim = Claim(*held.fetchone())
    if claim.is_live:
        raise JournalError(
            "J-103",
            f"the run `{run_id}` is owned by `{claim.owner}`, process {claim.pid} on `{claim.host}`",
            hint="Wait until it is done, or stop that process and try again.",
        )
    db.execute(
        "UPDATE runs SET token = token + 1, owner = ?, host = ?, pid = ?, start = ?, expires_us = ? WHERE run = ?",
        (*_claim(owner), run.run),
    )
    return Lease(run_id=run_id, token=run.token + 1, owner=owner)


def renew(db: sqlite3.Connection, lease: Lease) -> None:
    """Moves the expiry."""
    db.execute("UPDATE runs SET expires_us = ? WHERE run = ?", (_expiry_us(), owned(db, lease).run))


def release(db: sqlite3.Connection, lease: Lease, due_at: datetime | None) -> None:
    """Keeps the token, so that the next one is larger."""
    due_us = None if due_at is None else chain.to_us(due_at)
    db.execute(
        "UPDATE runs SET owner = NULL, due_us = ? WHERE run_id = ? AND token = ?",
        (due_us, lease.run_id, lease.token),
    )


def abandon(db: sqlite3.Connection, leases: Iterable[Lease]) -> None:
    """Releases without a word on what comes next: whoever looks for runs that can go on is to find out."""
    db.executemany(
        "UPDATE runs SET owner = NULL, due_us = 0 WHERE run_id = ? AND token = ?",
        [(lease.run_id, lease.token) for lease in leases],
    )


_SUMMARY = """
    SELECT run_id, goal, status, started_us, updated_us, events, parent, due_us,
        (SELECT count(*) FROM open_requests WHERE open_requests.run = runs.run),
        owner, host, pid, start, expires_us
    FROM runs
    WHERE events > 0 AND
"""


def newest(db: sqlite3.Connection, *, limit: int, before: str | None) -> tuple[RunSummary, ...]:
    """The runs that have events, newest first, made before the run `before`."""
    bound = find(db, before).run if before is not None else LAST_RUN
    return _summaries(db.execute(_SUMMARY + "run < ? ORDER BY run DESC LIMIT ?", (bound, limit)))


def heads(db: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    """Of every run how many events it has, and the hash of the last one."""
    rows = db.execute("SELECT run_id, events, head FROM runs")
    return {run_id: (events, head.hex()) for run_id, events, head in rows}


def pending(db: sqlite3.Connection, now: datetime) -> tuple[RunSummary, ...]:
    """The runs that nobody owns and that can go on, oldest first; one whose owner was killed may be one."""
    can_go_on = """
        run IN (
            SELECT run FROM unfinished_runs
            WHERE status = 'running' OR status = 'waiting' AND (due_us <= ? OR owner IS NOT NULL)
            UNION SELECT run FROM open_requests
        ) ORDER BY run"""
    found = _summaries(db.execute(_SUMMARY + can_go_on, (chain.to_us(now),)))
    return tuple(summary for summary in found if not summary.is_live)


def _summaries(rows: sqlite3.Cursor) -> tuple[RunSummary, ...]:
    return tuple(
        RunSummary(
            run_id=run_id,
            goal=goal,
            status=status,
            started_at=chain.from_us(started_us),
            updated_at=chain.from_us(updated_us),
            events=events,
            parent=parent,
            due_at=None if due_us is None else chain.from_us(due_us),
            requests=requests,
            is_live=Claim(*claim).is_live,
        )
        for run_id, goal, status, started_us, updated_us, events, parent, due_us, requests, *claim in rows.fetchall()
    )


def _claim(owner: str) -> tuple[str, str, int, str, int]:
    """The columns of a `Claim` for a run that this process owns."""
    return (owner, *this_process(), _expiry_us())


def _expiry_us() -> int:
    return _now_us() + LEASE_S * 1_000_000


def _now_us() -> int:
    return time.time_ns() // 1000
