"""The record of a run: its events, another run made from it, and what is found by comparing it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from planner.assistant import fork_id_of, user_name
from planner.cli import plans, terminal
from planner.cli.display import flat
from planner.cli.exits import EXITS
from planner.cli.options import Options
from planner.cli.records import Record, journal_of, record
from planner.cli.rows import named
from planner.cli.terminal import excerpt, line
from planner.core import difference
from planner.core import replay as replaying
from planner.core.events import Recorded, RunFinished, Steered
from planner.core.labels import Json
from planner.errors import UserError
from planner.runner import forked

BULKY = frozenset({"setup", "plan", "certificate", "callees", "named", "criteria", "usage", "principal"})
"""Fields of which a line only says that they are there; `--json` has them whole."""
SHOWN_CHARACTERS = 60


def events(options: Options) -> int:
    """Every event of a run on a line of its own; with `--follow` also those to come."""
    found = asyncio.run(record(options, options.words[0]))
    for recorded in found.history:
        _put(options, recorded)
    if options.is_following and not isinstance(found.history[-1].event, RunFinished):
        asyncio.run(_follow(options, found))
    return 0


async def _follow(options: Options, found: Record) -> None:
    async with journal_of(options) as journal:
        assert journal is not None, "a run was found in it"
        with suppress(asyncio.CancelledError):  # Ctrl-C
            async for recorded in journal.subscribe(found.run.id, after=len(found.history)):
                _put(options, recorded)


def _put(options: Options, recorded: Recorded) -> None:
    if options.is_json:
        terminal.put_json(flat(recorded))
    else:
        terminal.put(told(recorded))


def told(recorded: Recorded) -> str:
    """`  12  17:05:03.250  StepStarted       s3        attempt=1`."""
    at = recorded.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    fields: dict[str, Json] = recorded.event.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    path = fields.pop("path", "")
    fields.pop("type", None)
    words = [f"{name}=…" if name in BULKY else f"{name}={_field(value)}" for name, value in fields.items()]
    place = named(path) if isinstance(path, str) and path else ""
    return f"{recorded.run_seq:>4}  {at}  {recorded.event.type:<18} {place:<8} {' '.join(words)}".rstrip()


def _field(value: Json) -> str:
    """A field on one line; of a labelled value, the value."""
    is_labelled = isinstance(value, dict) and "value" in value
    return excerpt(value["value"] if is_labelled and isinstance(value, dict) else value, SHOWN_CHARACTERS)


def fork(options: Options) -> int:
    """A new run that begins with the events of another one, and is then gone on with."""
    found = asyncio.run(record(options, options.words[0]))
    at_event = options.at_event if options.at_event is not None else len(found.history)
    inputs = dict(found.run.plan.inputs) if found.run.plan is not None else {}
    changes = plans.changed(options.changes or (), inputs)
    unknown = sorted(changes.keys() - inputs.keys())
    if unknown:
        what = f"the plan of run {found.run.id} has no input `{unknown[0]}`"
        hint = f"It has {', '.join(inputs) or 'none'}."
        raise UserError("U-435", what, hint=hint, choices=tuple(inputs), error_class="missing")

    run_id = asyncio.run(_forked(options, found, at_event, changes))
    if options.is_json:
        terminal.put_json({"type": "RunForked", "run_id": run_id, "origin": found.run.id, "at_event": at_event})
    else:
        terminal.put(f"forked {found.run.id} at event {at_event} as {run_id}")
        terminal.put(f"  to go on: planner runs resume {run_id}")
        terminal.put(f"  to compare: planner runs diff {found.run.id} {run_id}")
    return 0


async def _forked(options: Options, found: Record, at_event: int, changes: dict[str, Json]) -> str:
    fork_id = fork_id_of(found.run.id)
    correction = Steered(by=user_name(), inputs=changes) if changes else None
    async with journal_of(options) as journal:
        assert journal is not None, "a run was found in it"
        now = datetime.now(UTC)
        await forked(journal, found.run.id, at_event, fork_id=fork_id, now=now, correction=correction)
    return fork_id


def diff(options: Options) -> int:
    """Where two runs differ: in goal, plan, steps, result and use."""
    before, after = (asyncio.run(record(options, word)) for word in options.words)
    found = difference.difference(before.run, after.run)
    if options.is_json:
        terminal.put_json({"is_same": found.is_same, **found.model_dump(mode="json", exclude_defaults=True)})
        return 0
    for text in difference.told(found):
        terminal.put(text)
    if found.is_same:
        terminal.say("they wanted, planned, did and gave the same")
    return 0


def replay(options: Options) -> int:
    """Decides a run again from its record; 6 if the rules no longer lead to what is recorded."""
    found = asyncio.run(record(options, options.words[0]))
    divergences = replaying.replayed(found.history)
    if options.is_json:
        lines: list[Json] = [replaying.told(one) for one in divergences]
        terminal.put_json({"run_id": found.run.id, "events": len(found.history), "divergences": lines})
    else:
        for one in divergences:
            terminal.put(line(replaying.told(one)))
        if not divergences:
            terminal.put(
                f"replayed {len(found.history)} events of {found.run.id}: each is as the rules decide it now"
            )
    return EXITS["failed"] if divergences else 0
