"""What every journal promises, wherever it keeps its runs.

Rules of the file:
- An event counts once `append` has returned, and never changes afterwards.
- One process owns a run at a time. The token of a lease only grows, and a write with an older one is refused.
- Who does not own a run asks its owner: a request is the event that the owner shall append.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from pydantic import Field

from planner.core.events import (
    BlobId,
    CancelRequested,
    Event,
    EventReceived,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    Recorded,
    RunStatus,
    Steered,
    StepNudged,
    UndoRequested,
)
from planner.core.labels import Frozen
from planner.core.ledger import Amount, Budget, Spent
from planner.journal.chain import Entry, Verification

LEASE_S = 30
"""How long a lease holds without `renew` where nobody can see if its owner lives: three beats of 10 s."""


Requestable: TypeAlias = (
    HumanAnswered
    | CancelRequested
    | PauseRequested
    | PauseLifted
    | Steered
    | EventReceived
    | UndoRequested
    | StepNudged
)
"""What may be asked of a run by those who do not own it."""


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
    parent: str | None = None
    """The run that this one is a part of."""
    due_at: datetime | None = None
    """When its next timer is due, as its last owner said."""
    requests: int = 0
    """How many are open."""


class Request(Frozen):
    """What somebody asked of a run: open until it is taken or refused."""

    id: int
    run_id: str
    at: datetime
    event: Requestable = Field(discriminator="type")
    run_seq: int | None = None
    """The event of the run that took it."""
    problem: str | None = None
    """Why it was refused."""

    @property
    def is_open(self) -> bool:
        """Whether the owner has still to say what becomes of it."""
        return self.run_seq is None and self.problem is None


class Journal(Protocol):
    """Streams of events, one per run. An open journal belongs to one event loop."""

    async def create(self, run_id: str, owner: str) -> Lease:
        """Starts an empty stream and owns it. Raises `J-101` if the run exists."""
        ...

    async def acquire(self, run_id: str, owner: str) -> Lease:
        """Takes over a run that nobody owns; what it still holds on shared accounts becomes spend.

        Raises `J-102` if there is none, `J-103` if its owner lives.
        """
        ...

    async def renew(self, lease: Lease) -> None:
        """Keeps the lease for another `LEASE_S` seconds. Raises `J-104` if it was lost."""
        ...

    async def release(self, lease: Lease, *, due_at: datetime | None = None) -> None:
        """Gives the run back, and says when its next timer is due; a lease that was lost is left to its new owner."""
        ...

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
        """All of `events`, or none, after event `expected` of the run; returned as `read` will give them.

        `status` is the run's after them. `request` is the one that they answer to: it is taken with the first.
        With `durable` they outlive the machine, without it only the process; the next durable write saves
        them too. Whether a cancelled append was written is for `read` to tell. Raises `J-104` if the lease
        was lost, `J-105` if `expected` is not the last `run_seq`, `J-117` for an event that is not JSON, `J-118`
        if `request` is no open one of the run.
        """
        ...

    async def read(self, run_id: str, *, after: int = 0) -> tuple[Recorded, ...]:
        """The events beyond `after`. Raises `J-107` for an unreadable event, `J-108` for an erased one."""
        ...

    def subscribe(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """The events beyond `after`, then those to come from any process; ends when the run has finished."""
        ...

    async def post(self, run_id: str, event: Requestable, *, at: datetime) -> int:
        """Asks the run's owner, also one to come, to append `event`; the id of the request, which is durable.

        Raises `J-102` if there is no such run, `J-117` for an event that is not JSON.
        """
        ...

    async def requests(self, run_id: str) -> tuple[Request, ...]:
        """The open requests of the run, oldest first."""
        ...

    async def request(self, id_: int) -> Request:
        """One request, also when it was taken or refused. Raises `J-119` if there is none of that id."""
        ...

    async def refuse(self, lease: Lease, request: int, problem: str) -> None:
        """Ends a request without an event. Raises `J-118` if it is no open one of the run."""
        ...

    async def wait_for_requests(self, run_id: str) -> None:
        """Returns when the run has an open request: at once if this process posts it, else within moments."""
        ...

    async def put_blob(self, run_id: str, data: bytes) -> BlobId:
        """Keeps `data` durably, once per run; its id is the SHA-256 of the run's salt and the data."""
        ...

    async def get_blob(self, run_id: str, id_: BlobId) -> bytes:
        """The content of a blob. Raises `J-106` if the run has none of that id, `J-109` if it was changed."""
        ...

    async def runs(self, *, limit: int = 50, before: str | None = None) -> tuple[RunSummary, ...]:
        """The runs that have events, newest first; with `before`, those made before that run."""
        ...

    async def pending(self, now: datetime) -> tuple[RunSummary, ...]:
        """The runs that nobody owns and that can go on, oldest first.

        These are the running ones, the waiting ones whose timer is due, and all that have an open request: also a
        paused one, and one that has ended.
        """
        ...

    async def reserve(
        self, lease: Lease, key: str, amount: Amount, limits: Mapping[str, Budget], *, at: datetime
    ) -> str | None:
        """Holds `amount` for a call of the run, durably, on each account that `limits` names.

        None if all have room. Else the first that has none, and why: `tenant:acme: 3 of 3 calls are made`; then
        nothing has changed. The same `key` again takes the place of its earlier hold.
        """
        ...

    async def settle(self, lease: Lease, key: str, amount: Amount) -> None:
        """What is held under `key` becomes spend of `amount`; without effect where nothing is."""
        ...

    async def accounts(self, names: Collection[str]) -> Mapping[str, Spent]:
        """What was spent on each account, without what is held."""
        ...

    async def verify(self, run_id: str) -> Verification:
        """Whether the stored events are those that were written, and where they first differ."""
        ...

    async def entries(self, run_id: str) -> tuple[Entry, ...]:
        """The events as they are stored, erased ones too. Raises `J-102` if there is no such run."""
        ...

    async def heads(self) -> Mapping[str, tuple[int, str]]:
        """Of every run how many events it has, and the hash of the last one, in hex."""
        ...

    async def erase(self, run_id: str) -> tuple[str, ...]:
        """Erases all that the run, and the runs that are steps of it, hold; gives their ids. The chains still hold.

        Raises `J-102` if there is no such run, `J-103` if one of them is live, `J-124` while the file is in use.
        """
        ...

    async def forks(self, run_id: str) -> tuple[str, ...]:
        """The runs that began with this one's events, and have copies of them."""
        ...

    async def close(self) -> None:
        """Releases the leases taken here, and the store; the journal is of no use afterwards."""
        ...
