"""The table of blobs: what is large, kept once per run under a hash that tells nothing without the run's salt.

Rules of the file:
- A function that takes a connection runs on that connection's thread; one that changes something, in a transaction.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import suppress

from planner.core.events import BlobId
from planner.errors import JournalError
from planner.journal import chain, runs


def put(db: sqlite3.Connection, run_id: str, data: bytes, packed: bytes) -> BlobId:
    """The id of `data`, whose zlib form is `packed`."""
    run = runs.find(db, run_id)
    id_ = chain.salted(run.salt, data).hex()
    db.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (run.run, id_, packed))
    return id_


def get(db: sqlite3.Connection, run_id: str, id_: BlobId) -> bytes:
    """The content, checked against its id. Raises `J-106` and `J-109`."""
    run = runs.find(db, run_id)
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
