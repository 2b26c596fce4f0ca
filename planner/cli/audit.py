"""`planner audit`: is the record as it was written, an export to check elsewhere, and why something happened."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from planner.audit import Audited, anchor, audited, exported, read_anchors
from planner.cli import terminal
from planner.cli.conduct import state_dir
from planner.cli.exits import EXITS
from planner.cli.options import Options
from planner.cli.progress import told, use
from planner.cli.questions import origin
from planner.cli.records import MANY, Record, journal_of, record
from planner.cli.terminal import excerpt, line
from planner.core.labels import Json, Label, Labelled
from planner.core.plan import StepPath
from planner.core.provenance import origins
from planner.core.run import Run
from planner.errors import UserError
from planner.journal import Journal
from planner.reading import Decision, decisions


def verify(options: Options) -> int:
    """Checks the chains of all runs, or of those named, and that all that was anchored is still there."""
    found = asyncio.run(_verified(options))
    if options.is_json:
        terminal.put_json(found.model_dump(mode="json"))
    else:
        for finding in found.findings:
            where = f"run {finding.run_id}, " if finding.run_id else ""
            terminal.put(f"BAD  {where}{line(finding.what)}")
        gone = f", of which {found.erased} lost their content" if found.erased else ""
        against = f" against {found.anchors} anchors" if found.anchors else ""
        terminal.put(
            f"checked {found.runs} runs with {found.events} events{gone}{against}: {len(found.findings)} bad"
        )
    return EXITS["failed"] if found.findings else 0


async def _verified(options: Options) -> Audited:
    anchors = read_anchors(_anchor_file(options))
    if options.anchor is not None and not anchors:
        what = f"there are no anchors in {options.anchor}"
        raise UserError("U-461", what, hint="Name a file that `planner audit anchor` wrote.", error_class="missing")
    async with journal_of(options) as journal:
        if journal is None:
            return Audited(runs=0, events=0, erased=0, anchors=0)
        return await audited(journal, await _chosen(journal, options.words), anchors)


async def _chosen(journal: Journal, words: tuple[str, ...]) -> tuple[str, ...]:
    """The runs whose ids begin with these words; all, where none is given. Raises `UserError` U-420."""
    known = tuple(reversed([one.run_id for one in await journal.runs(limit=MANY)]))
    for word in words:
        if not any(run_id.startswith(word) for run_id in known):
            what = f"there is no run `{word}`"
            raise UserError("U-420", what, hint="`planner runs` lists them.", error_class="missing")
    return tuple(run_id for run_id in known if not words or any(run_id.startswith(word) for word in words))


def _anchor_file(options: Options) -> Path:
    return options.anchor or state_dir(options) / "anchors.jsonl"


def anchor_(options: Options) -> int:
    """Notes how far every run is, in a file whose lines are chained."""

    async def noted() -> int:
        async with journal_of(options) as journal:
            if journal is None:
                return 0
            return len((await anchor(journal, _anchor_file(options), at=datetime.now(UTC))).heads)

    count = asyncio.run(noted())
    terminal.put(f"anchored {count} runs in {_anchor_file(options)}")
    return 0


def export(options: Options) -> int:
    """Writes the events with all that is needed to check them, and a script that does that by itself."""
    if options.to is None:
        raise UserError("U-403", "no folder was given", hint="Write `planner audit export --to DIR`.")
    folder = options.to

    async def written() -> int:
        async with journal_of(options) as journal:
            if journal is None:
                return 0
            anchors = read_anchors(_anchor_file(options))
            return await exported(journal, await _chosen(journal, options.words), folder, anchors)

    count = asyncio.run(written())
    script = shlex.quote(str(folder / "verify.py"))
    terminal.put(f"exported {count} events to {folder}\n  to check them, anywhere: python {script}")
    return 0


def erase(options: Options) -> int:
    """Erases what a run holds; that it happened, and when, can still be verified."""
    found = asyncio.run(_summary(options, options.words[0]))
    if not options.is_agreed and not terminal.agrees(f"Erase all that run {found} holds, for good?"):
        terminal.say("nothing was erased; `--yes` agrees to it")
        return EXITS["denied"]

    async def erased() -> tuple[tuple[str, ...], tuple[str, ...]]:
        async with journal_of(options) as journal:
            assert journal is not None, "a run was found in it"
            copies = await journal.forks(found)
            return await journal.erase(found), copies

    runs, copies = asyncio.run(erased())
    terminal.put(f"erased what {', '.join(runs)} held; the chain still holds")
    for copy in copies:
        terminal.put(f"  {copy} began with its events, and has copies: planner audit erase {copy}")
    return 0


async def _summary(options: Options, wanted: str) -> str:
    async with journal_of(options) as journal:
        known = await _chosen(journal, (wanted,)) if journal is not None else ()
    exact = [run_id for run_id in known if run_id == wanted] or [run_id for run_id in known if "." not in run_id]
    if len(exact) != 1:
        what = f"{len(exact)} runs begin with `{wanted}`" if exact else f"there is no run `{wanted}`"
        raise UserError("U-420", what, hint="`planner runs` lists them.", choices=tuple(exact[:5]))
    return exact[0]


# why something happened ---------------------------------------------------------------------------------------


def explain(options: Options) -> int:
    """What a step was called with, where that came from, who allowed it, and what became of it."""
    wanted, path = options.words
    found = asyncio.run(record(options, wanted))
    if path not in found.run.steps:
        known = tuple(found.run.steps)
        what = f"run {found.run.id} has no step `{path}`"
        raise UserError("U-462", what, hint=f"It has {', '.join(known) or 'none'}.", choices=known)
    if options.is_json:
        terminal.put_json(_as_json(found, path))
    else:
        for text in _explained(found, path):
            terminal.put(text)
    return 0


def _explained(found: Record, path: StepPath) -> Iterator[str]:
    run, state = found.run, found.run.step(path)
    yield f"{path}  {use(run, path)}"
    yield from _arguments(run, path)
    for decision in _decided(found, path):
        by, why = ", ".join(decision.verdict.rules), decision.verdict.reason
        yield f"  {decision.stage:8} {decision.verdict.then} by {line(by)}{f': {line(why)}' if why else ''}"
    value = state.value
    gave = f": {excerpt(value.value, 80)} ({origin(value.overall())})" if value is not None else ""
    yield f"  became   {state.status}{gave}{f': {told(state.fault)}' if state.fault else ''}"
    for cause in _causes(run, path):
        yield f"because of {cause}  {use(run, cause)}"
        yield from _arguments(run, cause)


def _arguments(run: Run, path: StepPath) -> Iterator[str]:
    given = run.step(path).arguments or Labelled(value={})
    for name, one in origins(run, given).items():
        yield f"  {line(name):8} {excerpt(given.at((name,)).value, 80)} ({origin(one.label)})"
        for text in one.excerpts:
            around = f"{text.before}[{text.value}]{text.after}"
            yield f"  {'':8} {text.step}, {line(text.callee)} gave: {line(around, 120)}"


def _decided(found: Record, path: StepPath) -> list[Decision]:
    return [decision for decision in decisions(found.history) if decision.path == path]


def _causes(run: Run, path: StepPath) -> tuple[StepPath, ...]:
    """The steps that had a share in what the step was called with, the nearest first."""
    causes: dict[StepPath, None] = {}
    wanted = [path]
    while wanted:
        given = run.step(wanted.pop(0)).arguments
        label = given.overall() if given is not None else Label()
        for source in sorted(label.sources):
            cause = source.partition(":")[0]
            if cause in run.steps and cause != path and cause not in causes:
                causes[cause] = None
                wanted.append(cause)
    return tuple(causes)


def _as_json(found: Record, path: StepPath) -> dict[str, Json]:
    run, state = found.run, found.run.step(path)

    def arguments(at: StepPath) -> dict[str, Json]:
        given = run.step(at).arguments or Labelled(value={})
        told: dict[str, Json] = {n: one.model_dump(mode="json") for n, one in origins(run, given).items()}
        return {"path": at, "callee": use(run, at), "arguments": given.value, "origins": told}

    return {
        **arguments(path),
        "decisions": [
            {"stage": one.stage, "at": one.at.isoformat(), **one.verdict.model_dump(mode="json")}
            for one in _decided(found, path)
        ],
        "status": state.status,
        "value": state.value.model_dump(mode="json") if state.value is not None else None,
        "fault": state.fault.model_dump(mode="json") if state.fault is not None else None,
        "because_of": [arguments(cause) for cause in _causes(run, path)],
    }
