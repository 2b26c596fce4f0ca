"""The state of a run that is driven here, and the one way to change it: an event is appended before it counts.

Rules of the file:
- It counts without secrets, so that no later step sees one, and a resume sees what the run saw.
- What waits together is appended together, in the order in which it came, and with it whatever follows by rules
  alone: one wait for the disk, and no crash in between.
- An event that is illegal by then, or is no JSON, is refused before it can reach the journal, and holds up none of
  the others.
- The state never lags behind the journal: whoever is cancelled leaves the append to end by itself.
- What fails for a whole group is kept for whoever drives the run: those that waited may be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from planner.core.commands import Command, Record
from planner.core.decide import decide
from planner.core.events import Event, Recorded
from planner.core.plan import StepPath
from planner.core.redaction import Redactor
from planner.core.run import Run
from planner.core.state import evolve
from planner.errors import JournalError
from planner.journal import Lease
from planner.journal.chain import packed
from planner.outcomes import is_vital
from planner.outside import Outside

NO_JSON = "J-117"
"""The journal cannot keep an event."""


@dataclass(eq=False, slots=True)
class _Entry:
    """Events that wait to be appended, all of them or none."""

    events: Sequence[Event]
    provided: Callable[[Run], bool]
    request: int | None
    is_appended: bool = False
    error: JournalError | None = None


@dataclass(slots=True)
class _Trial:
    """What the run would be, and the events that would make it so."""

    run: Run
    at: datetime
    redactor: Redactor
    events: list[Event] = field(default_factory=list)
    is_durable: bool = False

    def take(self, events: Sequence[Event]) -> None:
        """Goes on by all of these events, or raises `JournalError` and goes on by none."""
        run, is_durable = self.run, self.is_durable
        clean = [self.redactor.clean(event) for event in events]
        for event in clean:
            is_durable = is_durable or is_vital(run, event)
            run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=self.at, event=event))
        self.run, self.is_durable = run, is_durable
        self.events += clean


def _is_refused(error: Exception) -> bool:
    """Whether the journal was given what it cannot keep, which says nothing of the journal itself."""
    return isinstance(error, JournalError) and error.code == NO_JSON


def _is_no_json(entry: _Entry) -> bool:
    """Whether the journal cannot keep an event of the entry, which is then told so."""
    try:
        for event in entry.events if entry.is_appended else ():
            packed(event)
    except JournalError as error:
        entry.is_appended, entry.error = False, error
    return entry.error is not None and _is_refused(entry.error)


def never(_run: Run) -> bool:
    """Holds of no run."""
    return False


def always(_run: Run) -> bool:
    """Holds of every run."""
    return True


class Recorder:
    """A run under its lease."""

    def __init__(self, outside: Outside, lease: Lease, run: Run) -> None:
        self.run = run
        self.changed = asyncio.Event()
        """Is set with every change."""
        self.until: Callable[[Run], bool] = never
        """Once it holds, what follows by rules alone is left for later."""
        self.failure: Exception | None = None
        """What keeps the run from going on here: the journal took nothing, or an observer raised."""
        self._outside = outside
        self._lease = lease
        self._decided: list[tuple[Run, tuple[Command, ...]]] = []
        """The last two states that were decided on, and what was: the run's own, and the one it may have next."""
        self._turn = asyncio.Lock()
        self._group: list[_Entry] | None = None
        """The last of those that wait for their turn; None where none does."""
        self._writing: asyncio.Task[None] | None = None
        """What appends that group, or the one before."""

    def wanted(self, run: Run) -> tuple[Command, ...]:
        """What `decide` says, which is asked once for each state: calls that start together all look at it."""
        for known, commands in self._decided:
            if known is run:
                return commands
        self._decided = [(run, decide(run)), *self._decided[:1]]
        return self._decided[0][1]

    async def append(
        self, *events: Event, provided: Callable[[Run], bool] | None = None, request: int | None = None
    ) -> bool:
        """Append and evolve; False if `provided` no longer holds by then, so that nothing was appended.

        Without events, only what follows from the state is appended. Raises `JournalError`, also of an event that
        is illegal by then.
        """
        entry = _Entry(events, provided or always, request)
        if self._group is None or request is not None:  # a request is taken by the first event of its group
            self._group = [entry]
            self._writing = asyncio.create_task(self._write(self._group))
        else:
            self._group.append(entry)
        assert self._writing is not None
        await asyncio.shield(self._writing)
        if entry.error is not None:
            raise entry.error
        return entry.is_appended

    def check(self) -> None:
        """Raises what keeps the run from going on here, whoever was told of it."""
        if self.failure is not None:
            raise self.failure

    async def settle(self) -> None:
        """Return when nothing is being appended any more."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self, group: list[_Entry]) -> None:
        async with self._turn:
            if self._group is group:
                self._group = None
            try:
                await self._take_sound(group)
            except Exception as error:
                if not _is_refused(error):
                    self.failure = error
                    self.changed.set()
                raise

    async def _take_sound(self, group: Sequence[_Entry]) -> None:
        """Of the group, what is JSON. Raises `JournalError` J-117 if what follows from it is none."""
        try:
            await self._take(group)
        except JournalError as error:
            kept = [entry for entry in group if not _is_no_json(entry)] if _is_refused(error) else group
            if len(kept) == len(group):
                raise
            await self._take(kept)

    async def _take(self, group: Sequence[_Entry]) -> None:
        trial = _Trial(self.run, self._outside.clock(), self._outside.redactor)
        for entry in group:
            entry.is_appended, entry.error = False, None
            try:
                if entry.provided(trial.run):
                    trial.take(entry.events)
                    entry.is_appended = True
            except JournalError as error:
                entry.error = error
        while following := self._following(trial.run):
            trial.take(following)
        if trial.events:
            await self._append(trial, next((entry.request for entry in group if entry.is_appended), None))

    def _following(self, run: Run) -> list[Event]:
        """What `decide` has recorded of this state."""
        if self.until(run):
            return []
        return [command.event for command in self.wanted(run) if isinstance(command, Record)]

    async def _append(self, trial: _Trial, request: int | None) -> None:
        recorded = await self._outside.journal.append(
            self._lease,
            self.run.run_seq,
            trial.events,
            at=trial.at,
            durable=trial.is_durable,
            status=trial.run.status,
            request=request,
        )
        if [one.event for one in recorded] == trial.events:
            self.run = trial.run
        else:  # a resume will read what the journal holds
            for one in recorded:
                self.run = evolve(self.run, one)
        if self._outside.observe is not None:
            for one in recorded:
                self._outside.observe(one)
        self.changed.set()


def may_be_cancelled(run: Run) -> bool:
    """Whether the run can still be asked to stop."""
    return run.finished is None and not run.is_cancelled


def may_be_paused(run: Run) -> bool:
    """Whether the run can be told to begin nothing new."""
    return run.finished is None and not run.is_paused and not run.is_cancelled


def may_be_nudged(run: Run, *, path: StepPath) -> bool:
    """Whether the call at `path` waits for what it called."""
    return run.finished is None and run.step(path).status in {"started", "parked"}


def is_unfinished(run: Run) -> bool:
    """Whether the run has not ended."""
    return run.finished is None


def has_room(run: Run) -> bool:
    """Whether no account has refused the run before."""
    return run.finished is None and not run.refused
