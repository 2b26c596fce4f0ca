"""Erasing what runs hold, so that the chain still proves that it happened, and nothing more.

Rules of the file:
- What is erased is in no file of the journal afterwards: not in a free page, and not in the log.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from planner.core.events import RunForked
from planner.errors import JournalError
from planner.journal import chain, runs
from planner.journal.chain import Entry

BUSY_S = 30.0
"""How long others may keep the file before it is given up for now."""


def erase(db: sqlite3.Connection, run_id: str) -> tuple[str, ...]:
    """The runs of which nothing but the chain is left: this one, and those that are steps of it.

    Raises `JournalError` J-102 if there is none, J-103 if one of them is live.
    """
    erased = _tree(db, run_id)
    for one in erased:
        runs.release(db, runs.acquire(db, one, "erasing"), None)  # whoever owned it has lost it
        run = runs.find(db, one).run
        rows = db.execute("SELECT seq, salt, body FROM events WHERE run = ? AND body IS NOT NULL", (run,)).fetchall()
        db.executemany(
            "UPDATE events SET salt = NULL, body = NULL, body_hash = ? WHERE seq = ?",
            ((chain.salted(salt, body), seq) for seq, salt, body in rows),
        )
        db.execute("DELETE FROM blobs WHERE run = ?", (run,))
        db.execute("DELETE FROM requests WHERE run = ?", (run,))
        db.execute("UPDATE runs SET goal = '', due_us = NULL WHERE run = ?", (run,))
    return erased


def _tree(db: sqlite3.Connection, run_id: str) -> tuple[str, ...]:
    found = [runs.find(db, run_id).run_id]
    for one in found:
        found += [name for (name,) in db.execute("SELECT run_id FROM runs WHERE parent = ?", (one,))]
    return tuple(found)


def forks(db: sqlite3.Connection, run_id: str) -> tuple[str, ...]:
    """The runs that began with this one's events, and have copies of them."""
    rows = db.execute(
        "SELECT r.run_id, e.run_seq, e.at_us, e.type, e.schema, e.salt, e.body, e.body_hash, e.hash"
        " FROM events e JOIN runs r USING (run) WHERE e.type = 'RunForked' AND e.body IS NOT NULL"
    )
    told = ((name, chain.unseal(Entry(*entry), name)) for name, *entry in rows)
    return tuple(name for name, event in told if isinstance(event, RunForked) and event.origin == run_id)


def scour(path: Path) -> None:
    """Writes the file anew without what was erased. Raises `JournalError` J-124 while others keep it busy."""
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as db:
        try:
            db.execute("VACUUM")
            (is_busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            is_busy = 1
    if is_busy:
        raise JournalError(
            "J-124",
            f"{path} is in use, so what was erased may still be in it",
            hint="Stop what uses the journal, and erase the run again.",
            error_class="unavailable",
        )
