"""What every journal promises, wherever it keeps its runs.

Rules of the file:
- An event counts once `append` has returned, and never changes afterwards.
- One process owns a run at a time. The token of a lease only grows, and a write with an older one is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from planner.core.events import BlobId, Event, Recorded, RunStatus
from planner.core.labels import Frozen
from planner.journal.chain import Verification

LEASE_S = 30
"""How long a lease holds without `renew` where nobody can see if its owner lives: three beats of 10 s."""


class Lease(Frozen):
    """The right to append to a run, until somebody takes it over with a larger `token`."""

    run_id: str
    token: int
    owner: str


class RunSummary(Frozen):
    """What a list of runs shows; `is_live` says that somebody owns the run."""

    run_id: str
    goal: str
    status: RunStatus
    started_at: datetime
    updated_at: datetime
    events: int
    is_live: bool


class Journal(Protocol):
    """Streams of events, one per run. An open journal belongs to one event loop."""

    async def create(self, run_id: str, owner: str) -> Lease:
        """Starts an empty stream and owns it. Raises `J-101` if the run exists."""
        ...

    async def acquire(self, run_id: str, owner: str) -> Lease:
        """Takes over a run that nobody owns. Raises `J-102` if there is none, `J-103` if its owner lives."""
        ...

    async def renew(self, lease: Lease) -> None:
        """Keeps the lease for another `LEASE_S` seconds. Raises `J-104` if it was lost."""
        ...

    async def release(self, lease: Lease) -> None:
        """Gives the run back; a lease that was lost already is left to its new owner."""
        ...

    async def append(
        self, lease: Lease, expected: int, events: Sequence[Event], *, at: datetime, durable: bool = True
    ) -> tuple[Recorded, ...]:
        """All of `events`, or none, after event `expected` of the run; returned as `read` will give them.

        With `durable` they outlive the machine, without it only the process; the next durable append saves
        them too. Whether a cancelled append was written is for `read` to tell. Raises `J-104` if the lease
        was lost, `J-105` if `expected` is not the last `run_seq`, `J-117` for an event that is not JSON.
        """
        ...

    async def read(self, run_id: str, *, after: int = 0) -> tuple[Recorded, ...]:
        """The events beyond `after`. Raises `J-107` for an unreadable event, `J-108` for an erased one."""
        ...

    def subscribe(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """The events beyond `after`, then those to come from any process; ends when the run has finished."""
        ...

    async def put_blob(self, run_id: str, data: bytes) -> BlobId:
        """Keeps `data` durably, once per run; its id is the SHA-256 of the run's salt and the data."""
        ...

    async def get_blob(self, run_id: str, id_: BlobId) -> bytes:
        """The content of a blob. Raises `J-106` if the run has none of that id, `J-109` if it was changed."""
        ...

    async def runs(self, *, limit: int = 50) -> tuple[RunSummary, ...]:
        """The runs that have events, newest first."""
        ...

    async def verify(self, run_id: str) -> Verification:
        """Whether the stored events are those that were written, and where they first differ."""
        ...

    async def close(self) -> None:
        """Releases the leases taken here, and the store; the journal is of no use afterwards."""
        ...
