"""The tables of the file, in the order in which its versions brought them.

Rules of the file:
- A migration brings the file one version further; one may be added, none changed.
- `run` stands for `run_id` in the tables that grow.
- An index of a part of a table has a view of the same words: only a query that says them is served by it.
"""

from __future__ import annotations

import sqlite3


def create(db: sqlite3.Connection) -> None:
    """Version 1: runs, events, blobs. `seq` orders the events of all runs."""
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


def add_requests_and_accounts(db: sqlite3.Connection) -> None:
    """Version 2: a run has a parent and a next timer; what is asked of it; the accounts that runs share."""
    _rebuild_runs(db)
    db.execute("""
        CREATE TABLE requests (
            id INTEGER PRIMARY KEY, run INTEGER NOT NULL, at_us INTEGER NOT NULL, body BLOB NOT NULL,
            run_seq INTEGER, problem TEXT
        )""")
    db.execute("CREATE INDEX requests_open ON requests (run) WHERE run_seq IS NULL AND problem IS NULL")
    db.execute("CREATE VIEW open_requests AS SELECT * FROM requests WHERE run_seq IS NULL AND problem IS NULL")
    # a price is unknown where `cost_usd` is null
    db.execute("""
        CREATE TABLE accounts (
            account TEXT PRIMARY KEY, cost_usd REAL NOT NULL, unpriced INTEGER NOT NULL,
            tokens INTEGER NOT NULL, calls INTEGER NOT NULL
        ) WITHOUT ROWID""")
    db.execute("""
        CREATE TABLE holds (
            run INTEGER NOT NULL, "key" TEXT NOT NULL, account TEXT NOT NULL, at_us INTEGER NOT NULL,
            cost_usd REAL, tokens INTEGER NOT NULL, calls INTEGER NOT NULL,
            PRIMARY KEY (run, "key", account)
        ) WITHOUT ROWID""")
    db.execute("CREATE INDEX holds_of_account ON holds (account)")


def _rebuild_runs(db: sqlite3.Connection) -> None:
    """Without the column `asked`, which the SQLite of an older system could not drop."""
    db.execute("""
        CREATE TABLE newer_runs (
            run INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, salt BLOB NOT NULL,
            events INTEGER NOT NULL, head BLOB NOT NULL, status TEXT NOT NULL,
            token INTEGER NOT NULL, owner TEXT,
            host TEXT NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL, expires_us INTEGER NOT NULL,
            started_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, due_us INTEGER,
            goal TEXT NOT NULL, parent TEXT
        )""")
    db.execute("""
        INSERT INTO newer_runs
        SELECT run, run_id, salt, events, head, status, token, owner, host, pid, start, expires_us,
            started_us, updated_us, NULL, goal, NULL
        FROM runs""")
    db.execute("DROP TABLE runs")
    db.execute("ALTER TABLE newer_runs RENAME TO runs")
    db.execute("CREATE INDEX runs_unfinished ON runs (run) WHERE status IN ('running', 'waiting', 'paused')")
    db.execute("CREATE VIEW unfinished_runs AS SELECT * FROM runs WHERE status IN ('running', 'waiting', 'paused')")
