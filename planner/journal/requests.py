"""The table of requests: what other processes ask of a run, until its owner takes it or refuses it.

Rules of the file:
- A request is open until it is taken, together with the event that says so, or refused. It never changes again.
- A function that takes a connection runs on that connection's thread; one that changes something, in a transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

from pydantic import Field, TypeAdapter

from planner.errors import JournalError
from planner.journal import chain, runs
from planner.journal.contract import Lease, Request, Requestable
from planner.journal.database import Database

POLL_S = 0.2
"""How often requests of other processes are looked for: a person who pauses a run waits no longer."""

_REQUESTABLE: TypeAdapter[Requestable] = TypeAdapter(Annotated[Requestable, Field(discriminator="type")])


def post(db: sqlite3.Connection, run_id: str, event: Requestable, at: datetime) -> int:
    """The id of the new request."""
    body, _ = chain.packed(event)
    row = db.execute(
        "INSERT INTO requests VALUES (NULL, ?, ?, ?, NULL, NULL)",
        (runs.find(db, run_id).run, chain.to_us(at), body),
    )
    return row.lastrowid or 0


def opened(db: sqlite3.Connection, run_id: str) -> tuple[Request, ...]:
    """The open ones of the run, oldest first."""
    rows = db.execute(
        "SELECT id, run_id, at_us, body, run_seq, problem FROM open_requests JOIN runs USING (run)"
        " WHERE run = ? ORDER BY id",
        (runs.find(db, run_id).run,),
    )
    return tuple(map(_request, rows.fetchall()))


def one(db: sqlite3.Connection, id_: int) -> Request:
    """The request of that id. Raises `J-119` if there is none."""
    found = db.execute(
        "SELECT id, run_id, at_us, body, run_seq, problem FROM requests JOIN runs USING (run) WHERE id = ?", (id_,)
    )
    if (row := found.fetchone()) is None:
        raise JournalError(
            "J-119",
            f"there is no request `{id_}`",
            hint="`post` gives the id of one; `requests` lists those of a run that are open.",
            error_class="missing",
        )
    return _request(row)


def take(db: sqlite3.Connection, run: runs.Run, id_: int, run_seqs: Sequence[int]) -> None:
    """Marks the request as taken by the first of the events `run_seqs`. Raises `J-118`."""
    if not run_seqs:
        raise JournalError(
            "J-118",
            f"no event was appended that could take the request `{id_}` of run `{run.run_id}`",
            hint="Append the event of the request, or refuse it.",
            error_class="invalid",
        )
    _end(db, run, id_, run_seq=run_seqs[0])


def refuse(db: sqlite3.Connection, lease: Lease, id_: int, problem: str) -> None:
    """Marks the request as refused. Raises `J-118`."""
    _end(db, runs.owned(db, lease), id_, problem=problem)


def _end(
    db: sqlite3.Connection, run: runs.Run, id_: int, *, run_seq: int | None = None, problem: str | None = None
) -> None:
    ended = db.execute(
        "UPDATE requests SET run_seq = ?, problem = ?"
        " WHERE id = ? AND run = ? AND run_seq IS NULL AND problem IS NULL",
        (run_seq, problem, id_, run.run),
    )
    if ended.rowcount == 0:
        raise JournalError(
            "J-118",
            f"`{id_}` is no open request of run `{run.run_id}`",
            hint="It was taken or refused, or is another run's; `requests` lists those that are open.",
        )


def _request(row: tuple[int, str, int, bytes, int | None, str | None]) -> Request:
    id_, run_id, at_us, body, run_seq, problem = row
    event = chain.unpacked(body, _REQUESTABLE, what=f"request {id_} of run `{run_id}`")
    return Request(id=id_, run_id=run_id, at=chain.from_us(at_us), event=event, run_seq=run_seq, problem=problem)


class Watch:
    """Wakes those who wait for requests: at once for one of this process, else by a look that all of them share."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, run_id: str) -> None:
        """Returns when the run has an open request. Raises `J-102` if there is no such run."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(woken)
        try:
            # asked while it waits already, so that no request falls in between
            if not await self._database.read(partial(_is_asked, run_id=run_id)):
                if self._looking is None or self._looking.done():
                    self._looking = asyncio.create_task(self._look())
                await woken
        finally:
            self._waiting[run_id].discard(woken)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
            if not self._waiting and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def ring(self, run_id: str) -> None:
        """Wakes those who wait for requests of the run."""
        for woken in self._waiting.get(run_id, ()):
            if not woken.done():
                woken.set_result(None)

    async def _look(self) -> None:
        version = None
        try:
            while True:
                version, asked = await self._database.read(partial(_asked, known=version))
                for run_id in asked:
                    self.ring(run_id)
                await asyncio.sleep(POLL_S)
        except JournalError as error:
            for woken in [woken for waiting in self._waiting.values() for woken in waiting if not woken.done()]:
                woken.set_exception(error)


def _is_asked(db: sqlite3.Connection, run_id: str) -> bool:
    found = db.execute("SELECT 1 FROM open_requests WHERE run = ?", (runs.find(db, run_id).run,))
    return found.fetchone() is not None


def _asked(db: sqlite3.Connection, known: int | None) -> tuple[int, list[str]]:
    """The version of the file, and unless it is `known` the runs with open requests.

    The version changes with every commit of another connection (https://www.sqlite.org/pragma.html#pragma_data_version).
    """
    (version,) = db.execute("PRAGMA data_version").fetchone()
    if version == known:
        return version, []
    rows = db.execute("SELECT DISTINCT run_id FROM open_requests JOIN runs USING (run)")
    return version, [run_id for (run_id,) in rows.fetchall()]
