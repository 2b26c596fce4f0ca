"""The journal in SQLite, for one machine.

Rules of the file:
- All that is known about a run is read from its events; the table `runs` holds its lease, the head of its
  chain, and what spares a list of runs from reading them.
- A function that takes a connection runs on that connection's thread.
- Events, requests and reasons are stored without secrets, whoever brings them; blobs as they are.
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from planner.core.events import BlobId, Event, Recorded, RunStatus
from planner.core.ledger import Amount, Budget, Spent
from planner.core.redaction import NO_SECRETS, Redactor
from planner.errors import JournalError
from planner.journal import accounts, blobs, erasing, requests, runs, stream, tables
from planner.journal.chain import Entry, Verification
from planner.journal.contract import Lease, Request, Requestable, RunSummary
from planner.journal.database import Database, Migration

POLL_S = 0.05
"""How often a subscriber looks for events of other processes: below what a person notices."""
BATCH = 500
"""Events that a subscriber reads at a time, so that a long past does not fill the memory."""
MIGRATIONS: tuple[Migration, ...] = (tables.create, tables.add_requests_and_accounts)
"""Each brings the file one version further."""


class SqliteJournal:
    """The journal in one SQLite file, which any number of processes of one machine may share."""

    def __init__(self, database: Database, redactor: Redactor = NO_SECRETS) -> None:
        self._database = database
        self._redactor = redactor
        self._held: dict[str, Lease] = {}
        self._grown: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._watch = requests.Watch(database)

    @classmethod
    def open(cls, path: Path, *, redactor: Redactor = NO_SECRETS) -> SqliteJournal:
        """The journal at `path`, made if there is none. Raises `J-110` to `J-115` if that cannot be."""
        return cls(Database(path, MIGRATIONS), redactor)

    async def create(self, run_id: str, owner: str) -> Lease:
        """The first lease has token 1."""
        return await self._taken(run_id, partial(runs.create, run_id=run_id, owner=owner))

    async def acquire(self, run_id: str, owner: str) -> Lease:
        """At once if the owner's process is gone from this machine, else when its lease has run out."""
        return await self._taken(run_id, partial(_acquire, run_id=run_id, owner=owner))

    async def _taken(self, run_id: str, take: Callable[[sqlite3.Connection], Lease]) -> Lease:
        """The lease. Whoever is cancelled meanwhile does not keep it, though it was written."""
        taking = asyncio.ensure_future(self._database.write(take))
        try:
            lease = self._held[run_id] = await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(JournalError):
                await self.release(await taking)
            raise
        return lease

    async def renew(self, lease: Lease) -> None:
        """Moves the expiry."""
        await self._database.write(partial(runs.renew, lease=lease), durable=False)

    async def release(self, lease: Lease, *, due_at: datetime | None = None) -> None:
        """Keeps the token, so that the next one is larger."""
        await self._database.write(partial(runs.release, lease=lease, due_at=due_at), durable=False)
        if self._held.get(lease.run_id) == lease:
            del self._held[lease.run_id]

    async def append(
        self,
        lease: Lease,
        expected: int,
        events: Sequence[Event],
        *,
        at: datetime,
        durable: bool = True,
        status: RunStatus = "running",
        request: int | None = None,
    ) -> tuple[Recorded, ...]:
        """One transaction; then the subscribers of this process are woken."""
        clean = [self._redactor.clean(event) for event in events]
        work = partial(stream.append, at=at, status=status, request=request)
        recorded = await self._database.write(lambda db: work(db, lease, expected, clean), durable=durable)
        if (grown := self._grown.pop(lease.run_id, None)) is not None:
            grown.set()
        return recorded

    async def read(self, run_id: str, *, after: int = 0) -> tuple[Recorded, ...]:
        """One query."""
        _, recorded = await self._database.read(partial(stream.tail, run_id=run_id, after=after, limit=-1))
        return recorded

    async def subscribe(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Reads on when this process appended, and every `POLL_S` for the others."""
        while True:
            grown = self._grown.setdefault(run_id, asyncio.Event())
            is_over, batch = await self._database.read(partial(stream.tail, run_id=run_id, after=after, limit=BATCH))
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

    async def post(self, run_id: str, event: Requestable, *, at: datetime) -> int:
        """Then those who wait in this process are woken."""
        clean = self._redactor.clean(event)
        id_ = await self._database.write(partial(requests.post, run_id=run_id, event=clean, at=at))
        self._watch.ring(run_id)
        return id_

    async def requests(self, run_id: str) -> tuple[Request, ...]:
        """One query."""
        return await self._database.read(partial(requests.opened, run_id=run_id))

    async def request(self, id_: int) -> Request:
        """One query."""
        return await self._database.read(partial(requests.one, id_=id_))

    async def refuse(self, lease: Lease, request: int, problem: str) -> None:
        """One transaction."""
        clean = self._redactor.text(problem)
        await self._database.write(partial(requests.refuse, lease=lease, id_=request, problem=clean))

    async def wait_for_requests(self, run_id: str) -> None:
        """Looks every `requests.POLL_S` for those of other processes, once for all who wait here."""
        await self._watch.wait(run_id)

    async def put_blob(self, run_id: str, data: bytes) -> BlobId:
        """Stored as zlib, which is made before anybody has to wait for the write."""
        packed = await asyncio.to_thread(zlib.compress, data)
        return await self._database.write(partial(blobs.put, run_id=run_id, data=data, packed=packed))

    async def get_blob(self, run_id: str, id_: BlobId) -> bytes:
        """Checked against its id."""
        return await self._database.read(partial(blobs.get, run_id=run_id, id_=id_))

    async def runs(self, *, limit: int = 50, before: str | None = None) -> tuple[RunSummary, ...]:
        """Reads as many rows as it returns."""
        return await self._database.read(partial(runs.newest, limit=limit, before=before))

    async def pending(self, now: datetime) -> tuple[RunSummary, ...]:
        """Reads the rows of runs that have not ended."""
        return await self._database.read(partial(runs.pending, now=now))

    async def reserve(
        self, lease: Lease, key: str, amount: Amount, limits: Mapping[str, Budget], *, at: datetime
    ) -> str | None:
        """One transaction, which no other process can come in between."""
        work = partial(accounts.reserve, lease=lease, key=key, amount=amount, limits=limits, at=at)
        return await self._database.write(work)

    async def settle(self, lease: Lease, key: str, amount: Amount) -> None:
        """Need not outlive the machine: what is lost is still held, and counts for as much or more."""
        await self._database.write(partial(accounts.settle, lease=lease, key=key, amount=amount), durable=False)

    async def accounts(self, names: Collection[str]) -> Mapping[str, Spent]:
        """One query for each."""
        return await self._database.read(lambda db: {name: accounts.spent(db, name) for name in names})

    async def verify(self, run_id: str) -> Verification:
        """One snapshot, read row by row."""
        return await self._database.read(partial(stream.verify, run_id=run_id))

    async def entries(self, run_id: str) -> tuple[Entry, ...]:
        """As of one moment."""
        return await self._database.read(partial(stream.stored, run_id=run_id))

    async def heads(self) -> Mapping[str, tuple[int, str]]:
        """As of one moment."""
        return await self._database.read(runs.heads)

    async def erase(self, run_id: str) -> tuple[str, ...]:
        """In one transaction; then the file is written anew."""
        erased = await self._database.write(partial(erasing.erase, run_id=run_id))
        await asyncio.to_thread(erasing.scour, self._database.path)
        return erased

    async def forks(self, run_id: str) -> tuple[str, ...]:
        """Of one moment."""
        return await self._database.read(partial(erasing.forks, run_id=run_id))

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._database.is_closed:
            return
        try:
            await self._database.write(partial(runs.abandon, leases=tuple(self._held.values())), durable=False)
        finally:
            await self._database.close()


def _acquire(db: sqlite3.Connection, run_id: str, owner: str) -> Lease:
    lease = runs.acquire(db, run_id, owner)
    accounts.settle_unknown(db, run_id)
    return lease
