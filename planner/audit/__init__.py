"""What a reader who does not trust this runtime can check: chains, anchors, and an export that needs none of it.

Rules of the file:
- The journal proves that a run's events are as they were written; that none was cut off at the end, only an anchor
  proves that was kept elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from planner.audit import standalone
from planner.core.events import Recorded
from planner.core.labels import Frozen, Json
from planner.errors import JournalError, UserError
from planner.journal import Journal
from planner.journal.chain import Entry


class Anchor(Frozen):
    """How far every run was at a moment; each is chained to the one before."""

    at: str
    """UTC, as ISO 8601 writes it."""
    heads: Mapping[str, tuple[int, str]]
    """Of each run how many events it had, and the hash of the last, in hex."""
    hash: str


class Finding(Frozen):
    """One thing that is wrong with the record."""

    run_id: str
    what: str


class Audited(Frozen):
    """What was checked, and what is wrong."""

    runs: int
    events: int
    erased: int
    anchors: int
    findings: tuple[Finding, ...] = ()


# anchors ------------------------------------------------------------------------------------------------------


async def anchor(journal: Journal, path: Path, *, at: datetime) -> Anchor:
    """A new line at the end of the file, chained to the last. Raises `UserError` U-461 if that is no anchor."""
    known = read_anchors(path)
    heads = dict(sorted((await journal.heads()).items()))
    moment = at.astimezone(UTC).isoformat()
    told: dict[str, Json] = {run_id: list(head) for run_id, head in heads.items()}
    previous = known[-1].hash if known else standalone.START
    made = Anchor(at=moment, heads=heads, hash=standalone.digest([previous, moment, told]))
    await asyncio.to_thread(_added, path, f"{made.model_dump_json()}\n")
    return made


def _added(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


class Anchors:
    """An observer of runs that anchors them whenever so many events have happened."""

    def __init__(self, journal: Callable[[], Journal], path: Path, *, every: int) -> None:
        self._journal = journal
        self._path = path
        self._every = every
        self._seen = 0
        self._last: asyncio.Task[Anchor] | None = None

    def observe(self, recorded: Recorded) -> None:
        """Counts the event."""
        self._seen += 1
        if self._seen >= self._every and (self._last is None or self._last.done()):
            self._seen = 0
            self._last = asyncio.create_task(anchor(self._journal(), self._path, at=recorded.at))

    async def close(self) -> None:
        """Waits for an anchor that is being written."""
        if self._last is not None:
            await self._last


def read_anchors(path: Path) -> tuple[Anchor, ...]:
    """The anchors of a file; none if there is no file. Raises `UserError` U-461 for a line that is none."""
    if not path.exists():
        return ()
    try:
        return tuple(Anchor.model_validate_json(line) for line in path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        what = f"{path} is no file of anchors: {str(error).splitlines()[0]}"
        raise UserError("U-461", what, hint="Name a file that `planner audit anchor` wrote.") from error


# checking -----------------------------------------------------------------------------------------------------


async def audited(journal: Journal, run_ids: Iterable[str], anchors: tuple[Anchor, ...] = ()) -> Audited:
    """Whether the runs are as they were written, and whether all that was anchored is still there."""
    findings: list[Finding] = []
    events = erased = runs = 0
    for run_id in run_ids:
        checked = await journal.verify(run_id)
        runs, events, erased = runs + 1, events + checked.events, erased + checked.erased
        if checked.first_bad is not None:
            findings.append(Finding(run_id=run_id, what=f"event {checked.first_bad}: {checked.problem}"))
    hashes: dict[str, list[str]] = {}
    for run_id in dict.fromkeys(run_id for one in anchors for run_id in one.heads):
        try:
            hashes[run_id] = [entry.hash.hex() for entry in await journal.entries(run_id)]
        except JournalError:  # it is gone, which the anchor says
            hashes[run_id] = []
    told = standalone.anchor_problems([json.loads(one.model_dump_json()) for one in anchors], hashes)
    findings += [Finding(run_id="", what=what) for what in dict.fromkeys(told)]
    return Audited(runs=runs, events=events, erased=erased, anchors=len(anchors), findings=tuple(findings))


# an export ----------------------------------------------------------------------------------------------------


async def exported(journal: Journal, run_ids: Iterable[str], folder: Path, anchors: tuple[Anchor, ...] = ()) -> int:
    """How many events were written to the folder, with all that is needed to check them, and what checks them."""
    heads = await journal.heads()
    chosen = {run_id: await journal.entries(run_id) for run_id in run_ids if run_id in heads}
    events = [_line(run_id, entry) for run_id, entries in chosen.items() for entry in entries]
    runs = [{"run": run_id, "events": heads[run_id][0], "head": heads[run_id][1]} for run_id in chosen]
    files = {
        "events.jsonl": "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in events),
        "runs.jsonl": "".join(f"{json.dumps(one)}\n" for one in runs),
        "anchors.jsonl": "".join(f"{one.model_dump_json()}\n" for one in anchors),
        "verify.py": inspect.getsource(standalone),
    }
    await asyncio.to_thread(_written, folder, files)
    return len(events)


def _written(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")


def _line(run_id: str, entry: Entry) -> dict[str, Json]:
    def coded(data: bytes | None) -> str | None:
        return None if data is None else data.hex()

    return {
        "run": run_id,
        "run_seq": entry.run_seq,
        "at_us": entry.at_us,
        "type": entry.type,
        "schema": entry.schema,
        "salt": coded(entry.salt),
        "body": None if entry.body is None else base64.b64encode(entry.body).decode(),
        "body_hash": coded(entry.body_hash),
        "hash": entry.hash.hex(),
    }
