"""The journal as the verbs of `planner runs` read it: runs found by the beginning of their ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from planner.cli.conduct import state_dir
from planner.cli.options import Options
from planner.cli.progress import Watch
from planner.cli.secrecy import redactor_of
from planner.core.events import Recorded
from planner.core.run import Run
from planner.core.state import fold
from planner.errors import UserError
from planner.journal import Journal, RunSummary, SqliteJournal

MANY = 100_000
"""As many runs as are searched for the beginning of an id."""


@dataclass(frozen=True, slots=True)
class Record:
    """A run as the journal has it."""

    summary: RunSummary
    history: tuple[Recorded, ...]
    run: Run
    parts: tuple[RunSummary, ...] = ()
    """The runs that are steps of it."""

    def watch(self) -> Watch:
        """What is seen of the run by looking at all its events."""
        watch = Watch()
        for recorded in self.history:
            watch.observe(recorded)
        return watch


@asynccontextmanager
async def journal_of(options: Options) -> AsyncIterator[Journal | None]:
    """The journal in the state folder; None if there is none, because looking must not make one."""
    path = state_dir(options) / "journal.db"
    if not path.exists():
        yield None
        return
    journal: Journal = SqliteJournal.open(path, redactor=redactor_of(options))
    try:
        yield journal
    finally:
        await journal.close()


async def summaries(options: Options, *, limit: int = MANY) -> tuple[RunSummary, ...]:
    """The newest runs, newest first."""
    async with journal_of(options) as journal:
        return await journal.runs(limit=limit) if journal is not None else ()


async def record(options: Options, wanted: str) -> Record:
    """The run whose id is `wanted`, or begins with it as no other run's does. Raises `UserError` U-420."""
    async with journal_of(options) as journal:
        if journal is None:
            raise _no_run(options, wanted, ())
        known = await journal.runs(limit=MANY)
        summary = _found(options, wanted, known)
        history = await journal.read(summary.run_id)
        parts = tuple(one for one in known if one.parent == summary.run_id)
        return Record(summary, history, fold(history), parts)


def _found(options: Options, wanted: str, known: Sequence[RunSummary]) -> RunSummary:
    near = [one for one in known if one.run_id.startswith(wanted)]
    exact = [one for one in near if one.run_id == wanted]
    whole = [one for one in near if one.parent is None]  # a run's parts begin with its id, and are not meant
    for found in (exact, near, whole):
        if len(found) == 1:
            return found[0]
    raise _no_run(options, wanted, tuple(one.run_id for one in near))


def _no_run(options: Options, wanted: str, near: tuple[str, ...]) -> UserError:
    if near:
        what = f"{len(near)} runs begin with `{wanted}`"
        return UserError("U-420", what, hint=f"Write more of it: {', '.join(near[:5])}.", choices=near[:5])
    where = state_dir(options)
    return UserError(
        "U-420", f"there is no run `{wanted}` in {where}", hint="`planner runs` lists them.", error_class="missing"
    )
