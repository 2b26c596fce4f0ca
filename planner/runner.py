"""Drive runs, each under its lease: new ones, those that stopped or wait, and those that are steps of others.

Rules of the file:
- One process owns a run. Whoever does not own it asks; whoever finds it without an owner goes on with it.
- A run that is a step of another tells that one when it has ended.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from planner.core import fork
from planner.core.commands import Call, Record
from planner.core.decide import decide
from planner.core.events import (
    BlobId,
    CancelRequested,
    Event,
    PauseLifted,
    Recorded,
    RunFinished,
    RunResumed,
    RunStarted,
    Steered,
    StepNudged,
    UndoRequested,
)
from planner.core.ledger import NOTHING, Spent, rest
from planner.core.run import Run
from planner.core.setup import Parent
from planner.core.state import evolve, fold
from planner.engine import Engine
from planner.errors import JournalError, PlannerError, UserError
from planner.journal import Journal, Lease, Request, Requestable
from planner.nesting import is_paused_by
from planner.outcomes import child_id
from planner.outside import UNBEGUN, Delegation, Outside

MAX_DEPTH = 3
"""Runs inside runs: a planner that delegates what it was given would not end."""
TAKEN_S = 10.0
"""How long the owner of a run may take over a request; it is busy for milliseconds, unless it hangs."""
POLL_S = 0.05

Observer = Callable[[Recorded], None]
Started = Callable[[Delegation], Awaitable[RunStarted]]
"""The first event of a run for what is delegated."""
Resumed = Callable[[Run, str], RunResumed]
"""With what event an owner goes on with a run: it names what is another by now than when the run was judged."""


class Runner:
    """Runs in one journal, driven by this process."""

    def __init__(
        self,
        journal: Callable[[], Journal],
        outside: Callable[[Run, Observer], Outside],
        *,
        started: Started,
        resumed: Resumed = lambda _, owner: RunResumed(owner=owner),
        telemetry: Observer | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._open = journal
        self._outside = outside
        self._started = started
        self._resumed = resumed
        self._telemetry = telemetry
        self._clock = clock
        self._running: dict[str, Engine] = {}
        self._stopping: dict[str, str] = {}
        """Nested runs that are to be stopped as soon as they begin, and by whom."""

    @property
    def _journal(self) -> Journal:
        return self._open()

    async def begin(
        self,
        started: RunStarted,
        run_id: str,
        observe: Observer | None = None,
        *,
        until: Callable[[Run], bool] | None = None,
    ) -> Run:
        """The new run, as far as it could be taken.

        Raises `JournalError` J-101 if there is one of that id.
        """
        lease = await self._created(run_id)
        async with self._owning(lease) as leaving:
            run = await self._driven(lease, (), started, observe, until=until)
            leaving.append(run)
        return run

    async def _created(self, run_id: str) -> Lease:
        """The lease on a new run, or on one whose process ended before it had a first event."""
        try:
            return await self._journal.create(run_id, owner())
        except JournalError as error:
            if error.code != "J-101" or await self._journal.read(run_id):
                raise
        return await self._journal.acquire(run_id, owner())

    async def go_on(self, run_id: str, observe: Observer | None = None) -> Run:
        """The run, gone on with where its journal ends; what others asked of it is taken first.

        A finished run of which nobody asks anything stays as it is; the run that waits for this one is told. Raises
        `JournalError` if the run is unknown, live in another process, or its record damaged.
        """
        run = await self._gone_on(run_id, observe, is_alone=True)
        if run.finished is not None:
            await self._tell_parent(run)
        return run

    async def _tell_parent(self, run: Run) -> None:
        """Tells the run that waits for this one, if there is one and it has not been told already."""
        parent = run.started.parent
        if parent is not None:
            nudge = StepNudged(path=parent.path, by=run.id)
            if all(request.event != nudge for request in await self._journal.requests(parent.run_id)):
                await self._journal.post(parent.run_id, nudge, at=self._clock())

    async def _gone_on(self, run_id: str, observe: Observer | None = None, *, is_alone: bool = False) -> Run:
        history = await self.history(run_id)
        run = fold(history)
        if run.finished is None or await self._journal.requests(run_id):
            lease = await self._journal.acquire(run_id, owner())
            async with self._owning(lease) as leaving:
                history = await self.history(run_id)  # once more: it may have grown before it was ours
                run = fold(history)
                event = self._resumed(run, lease.owner) if run.finished is None else None
                run = await self._driven(lease, history, event, observe, until=_is_ending if is_alone else None)
                leaving.append(run)
        return run

    async def tell(self, run_id: str, event: Requestable, observe: Observer | None = None) -> Run:
        """Asks something of a run: its owner, or where it has none, this process, which then goes on with it.

        Raises `UserError` U-432 if it is refused, U-433 if the owner does not take it; `JournalError`.
        """
        journal = self._journal
        request = await journal.post(run_id, event, at=self._clock())
        waited_until = asyncio.get_running_loop().time() + TAKEN_S
        while (asked := await journal.request(request)).is_open:
            try:
                run = await self.go_on(run_id, observe)
                asked = await journal.request(request)
                _check(asked)
                return await self._with_parent(run)
            except JournalError as error:
                if error.code != "J-103":
                    raise
            if asyncio.get_running_loop().time() > waited_until:
                what = f"the owner of run `{run_id}` has not taken the request within {TAKEN_S:g} s"
                raise UserError("U-433", what, hint="It stays posted; look again with `planner runs show`.")
            await asyncio.sleep(POLL_S)
        _check(asked)
        return fold(await self.history(run_id))

    async def wake(self, observe: Observer | None = None) -> tuple[Run, ...]:
        """Goes on with every run that can: its process ended, its time came, or somebody asked something of it."""
        woken: dict[str, Run] = {}
        tried: set[str] = set()
        failed: list[PlannerError] = []
        while due := [s.run_id for s in await self._journal.pending(self._clock()) if s.run_id not in tried]:
            for run_id in due:
                tried.add(run_id)
                try:
                    woken[run_id] = await self.go_on(run_id, observe)
                except PlannerError as error:  # one bad run keeps nobody else from going on
                    if error.code != "J-103":
                        failed.append(error)
        if failed and not woken:
            raise failed[0]
        return tuple(woken.values())

    async def stop(self, run_id: str, *, by: str) -> bool:
        """Asks a run that this process drives to stop; False if it drives none of that id."""
        engine = self._running.get(run_id)
        if engine is not None:
            await engine.cancel(by)
        return engine is not None

    async def history(self, run_id: str) -> tuple[Recorded, ...]:
        """The run's events. Raises `JournalError` if they are not those that were written."""
        checked = await self._journal.verify(run_id)
        if checked.problem:
            raise JournalError("J-301", f"the record of run `{run_id}` is damaged: {checked.problem}")
        return await self._journal.read(run_id)

    # runs that are steps of other runs

    async def run(self, parent: Run, command: Call, delegation: Delegation) -> Run:
        """The run of that step, begun or gone on with, until it ended or can only wait."""
        child = child_id(parent, command.key)
        try:
            await self._lift(child, by=parent.id)
            return await self._gone_on(child)
        except JournalError as error:
            if error.code == "J-103":
                return fold(await self.history(child))
            if error.code not in UNBEGUN:
                raise
        return await self.begin(await self._child(parent, command, delegation), child)

    async def undo(self, run_id: str, *, by: str) -> Run:
        """The run, with everything that it did taken back, as far as that can be."""
        run = fold(await self.history(run_id))
        if not run.is_cancelled:
            request: Requestable = UndoRequested(by=by) if run.finished is not None else CancelRequested(by=by)
            await self._journal.post(run_id, request, at=self._clock())
        with suppress_live():
            run = await self._gone_on(run_id)
            if run.finished is not None and not run.is_cancelled:  # it ended before it could be stopped
                await self._journal.post(run_id, UndoRequested(by=by), at=self._clock())
                await self._gone_on(run_id)
        return fold(await self.history(run_id))

    async def cancel(self, run_id: str, *, by: str) -> None:
        """Asks a run that is under way here to stop, or that is about to be."""
        if not await self.stop(run_id, by=by):
            self._stopping[run_id] = by

    async def pause(self, run_id: str, *, by: str) -> None:
        """Has a run that is under way here begin nothing new; one that is about to be looks at `by` itself."""
        if (engine := self._running.get(run_id)) is not None:
            await engine.pause(by)

    async def _lift(self, run_id: str, *, by: str) -> None:
        """Asks a run to go on if it was `by` who paused it; whom somebody else paused, they resume."""
        history = await self.history(run_id)
        if is_paused_by(fold(history), history, by):
            await self._journal.post(run_id, PauseLifted(by=by), at=self._clock())

    async def _is_paused(self, run_id: str) -> bool:
        return fold(await self._journal.read(run_id)).is_paused

    async def _child(self, parent: Run, command: Call, delegation: Delegation) -> RunStarted:
        """Its first event: the parent's rights or fewer, and a budget out of the parent's."""
        own, setup = await self._started(delegation), parent.started.setup
        is_deepest = setup.depth + 1 >= MAX_DEPTH
        callees = tuple(
            callee
            for callee in setup.callees
            if any(fnmatchcase(callee.name, pattern) for pattern in delegation.allow)
            and not (is_deepest and callee.kind == "plan")
            and not (delegation.is_looking and not (callee.is_reading and callee.kind in {"tool", "agent"}))
        )
        fields = {
            "callees": callees,
            "policy": setup.policy.model_copy(update={"mode": "open"}) if delegation.is_looking else setup.policy,
            "budget": command.limits,
            "depth": setup.depth + 1,
            "on_ask": setup.on_ask,
            "agents": {
                name: rest(budget, parent.accounts.get(name, Spent()), NOTHING)
                for name, budget in setup.agents.items()
            },
            "workspace": setup.workspace,
        }
        return own.model_copy(
            update={
                "principal": parent.started.principal,
                "setup": own.setup.model_copy(update=fields),
                "parent": Parent(run_id=parent.id, path=command.path),
                "goal_label": delegation.label,
            }
        )

    async def _with_parent(self, run: Run) -> Run:
        """Goes on with the run that waited for this one."""
        parent = run.started.parent
        if parent is not None and run.finished is not None:
            with suppress_live():
                await self._with_parent(await self.go_on(parent.run_id))
        return run

    # driving

    @asynccontextmanager
    async def _owning(self, lease: Lease) -> AsyncIterator[list[Run]]:
        """Gives the run back with the time at which it wants to go on: at once, where the work on it broke off."""
        last: list[Run] = []
        try:
            yield last
        finally:
            due_at = last[-1].due() if last else self._clock()
            await self._journal.release(lease, due_at=due_at)

    async def _driven(
        self,
        lease: Lease,
        history: Sequence[Recorded],
        event: RunStarted | RunResumed | None,
        observe: Observer | None,
        *,
        until: Callable[[Run], bool] | None = None,
    ) -> Run:
        """The run as far as an engine could take it after `history` and `event`.

        What waits for the run is told before it ends: should this process end then, nobody else would do it.
        """
        told = _observers(observe, self._telemetry)
        for recorded in history:
            if self._telemetry is not None:
                self._telemetry(recorded)
        newest: tuple[Recorded, ...] = ()
        if event is not None:
            newest = await self._first(lease, history, event)
            told(newest[0])
        run = fold([*history, *newest])
        engine = self._running[run.id] = Engine(self._outside(run, told), lease, run)
        try:
            if run.id in self._stopping:
                await engine.cancel(self._stopping.pop(run.id))
            above = run.started.parent
            if above is not None and await self._is_paused(above.run_id):  # perhaps while nobody drove this one
                await engine.pause(above.run_id)
            run = await engine.drive(until)
            if run.is_cancelled and run.finished is None and decide(run):  # asked for as the engine was leaving
                run = await engine.drive(until)
            if until is _is_ending and _is_ending(run):
                await self._tell_parent(run)
                run = await engine.drive()
            return run
        finally:
            del self._running[run.id]

    async def _first(self, lease: Lease, history: Sequence[Recorded], event: Event) -> tuple[Recorded, ...]:
        status = fold(history).status if history else "running"  # to be resumed alone makes nothing of a wait
        return await self._journal.append(lease, len(history), [event], at=self._clock(), status=status)


def _is_ending(run: Run) -> bool:
    """Whether a run that is a step of another one is about to end."""
    return run.started.parent is not None and any(
        isinstance(command, Record) and isinstance(command.event, RunFinished) for command in decide(run)
    )


@contextmanager
def suppress_live() -> Iterator[None]:
    """A run that somebody else drives needs nobody to go on with it."""
    try:
        yield
    except JournalError as error:
        if error.code != "J-103":
            raise


def _check(request: Request) -> None:
    if request.problem is not None:
        raise UserError(
            "U-432",
            f"run `{request.run_id}` refused it: {request.problem}",
            hint="`planner runs show` says what it waits for.",
            error_class="conflict",
        )


def _observers(*observers: Observer | None) -> Observer:
    def told(recorded: Recorded) -> None:
        for observer in observers:
            if observer is not None:
                observer(recorded)

    return told


async def forked(
    journal: Journal,
    run_id: str,
    at_event: int,
    *,
    fork_id: str,
    now: datetime,
    correction: Steered | None = None,
) -> Run:
    """A new run that begins with the events of another one up to `at_event`, and with blobs of its own.

    Nobody drives it yet. Raises `JournalError` J-101 if there is a run `fork_id`, J-121 to J-123 if it cannot fork
    there, J-204 if it cannot take the correction.
    """
    events = fork.forked(await journal.read(run_id), at_event, run_id=fork_id, now=now)
    if correction is not None:
        last = Recorded(seq=0, run_id=fork_id, run_seq=len(events) + 1, at=now, event=correction)
        fold([*events, last])  # refused here, before there is anything of the new run
        events = (*events, last)
    lease = await journal.create(fork_id, owner())
    try:
        run: Run | None = None
        for recorded in events:
            renamed = {id_: await _copied(journal, run_id, id_, fork_id) for id_ in fork.blob_ids(recorded.event)}
            event = fork.with_blobs(recorded.event, renamed)
            run = evolve(run, recorded.model_copy(update={"event": event}))
            await journal.append(
                lease,
                recorded.run_seq - 1,
                [event],
                at=recorded.at,
                durable=recorded is events[-1],
                status=run.status if recorded is events[-1] else "paused",  # nobody wakes half a fork
            )
    finally:
        await journal.release(lease, due_at=run.due() if run is not None else None)
    assert run is not None, "a fork has at least one event"
    return run


async def _copied(journal: Journal, run_id: str, blob: BlobId, fork_id: str) -> BlobId:
    return await journal.put_blob(fork_id, await journal.get_blob(run_id, blob))


def owner() -> str:
    """What this process calls itself as the owner of a run: pid and a random part."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"
