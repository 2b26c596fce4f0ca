"""`planner runs`: what the journal knows of earlier runs, and going on with one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from planner import config
from planner.cards import Answer, Card
from planner.cli import consent, terminal
from planner.cli.conduct import Observer, display_for, follow, on_ask, opened, state_dir
from planner.cli.display import outcome, pretty
from planner.cli.options import Options
from planner.cli.progress import Row, Watch, call, certificate, costs, criteria, ending, row, rows
from planner.cli.terminal import excerpt, line
from planner.core.events import Recorded
from planner.core.labels import Json
from planner.core.plan import split_path
from planner.core.run import Run
from planner.errors import UserError
from planner.journal import Journal, RunSummary, SqliteJournal

MANY = 100_000
"""As many runs as are searched for the beginning of an id."""


def list_(options: Options) -> int:
    """One line per run, newest first."""
    found = asyncio.run(_summaries(options, limit=options.limit))
    if options.is_json:
        terminal.put_json([{**summary.model_dump(mode="json"), "status": _status(summary)} for summary in found])
        return 0
    if not found:
        terminal.say('no runs yet; the first one: planner "Summarise notes.txt into summary.txt"')
    room = max(20, terminal.columns() - 56)
    for summary in found:
        at = summary.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
        terminal.put(f"{summary.run_id:<23} {_status(summary):<12} {at}  {line(summary.goal, room)}")
    return 0


def _status(summary: RunSummary) -> str:
    """The status as people see it: a run that nobody runs is `open`, and can be resumed."""
    is_open = summary.status == "running" and not summary.is_live
    return "open" if is_open else summary.status


def show(options: Options) -> int:
    """One run in full."""
    (wanted,) = options.words
    history = asyncio.run(_history(options, wanted))
    watch = Watch()
    for recorded in history:
        watch.observe(recorded)
    assert watch.run is not None, "a run that is listed has events"
    if options.is_json:
        terminal.put_json(_told(watch.run, watch))
    else:
        for text in _shown(watch.run, watch):
            terminal.put(text)
    return 0


def resume(options: Options) -> int:
    """Goes on with a run; a finished one gives its result again."""
    (wanted,) = options.words
    asking = on_ask(options, otherwise="wait")
    history = asyncio.run(_history(options, wanted))
    run_id = history[0].run_id
    display = display_for(options)
    for recorded in history:
        display.watch.observe(recorded)
    run = display.watch.run
    assert run is not None, "a run that is listed has events"
    if run.finished is None:
        _check_assistant(options, run)
    approvers = {"prompt": consent.approver(display), "deny": _deny, "wait": None}
    workspace = Path(run.started.setup.workspace)
    assistant = opened(options, display, asking=asking, approver=approvers[asking], workspace=workspace)

    async def work(observe: Observer) -> None:
        await assistant.resume(run_id, observe=observe)

    return asyncio.run(follow(assistant, display, work))


async def _deny(_: Card) -> Answer:
    return "no"


def _check_assistant(options: Options, run: Run) -> None:
    """A run goes on with the assistant it began with, unless another one is named. Raises `UserError` U-421."""
    folder = config.find_assistant(options.assistant, here=Path.cwd()).folder
    if config.content_hash(folder) == run.started.setup.assistant_hash:
        return
    if options.assistant is None:
        raise UserError(
            "U-421",
            f"run {run.id} began with another assistant than the one in {folder} as it is now",
            hint=f"Go to the folder it began in, or name the assistant to go on with: `--assistant {folder}`.",
            error_class="conflict",
        )
    terminal.say(f"run {run.id} began with another content of the assistant; going on with {line(str(folder))}")


# ---- the journal -------------------------------------------------------------------------------------------


def _journal(options: Options) -> Journal | None:
    """The journal in the state folder; None if there is none, because looking must not make one."""
    path = state_dir(options) / "journal.db"
    return SqliteJournal.open(path) if path.exists() else None


async def _summaries(options: Options, *, limit: int) -> tuple[RunSummary, ...]:
    journal = _journal(options)
    if journal is None:
        return ()
    try:
        return await journal.runs(limit=limit)
    finally:
        await journal.close()


async def _history(options: Options, wanted: str) -> tuple[Recorded, ...]:
    """The events of the run whose id is `wanted`, or alone begins with it. Raises `UserError` U-420."""
    journal = _journal(options)
    if journal is None:
        raise _no_run(options, wanted, ())
    try:
        ids = [summary.run_id for summary in await journal.runs(limit=MANY)]
        near = tuple(id_ for id_ in ids if id_.startswith(wanted))
        if wanted not in ids and len(near) != 1:
            raise _no_run(options, wanted, near)
        return await journal.read(wanted if wanted in ids else near[0])
    finally:
        await journal.close()


def _no_run(options: Options, wanted: str, near: tuple[str, ...]) -> UserError:
    if near:
        what = f"{len(near)} runs begin with `{wanted}`"
        return UserError("U-420", what, hint=f"Write more of it: {', '.join(near[:5])}.", choices=near[:5])
    where = state_dir(options)
    return UserError(
        "U-420", f"there is no run `{wanted}` in {where}", hint="`planner runs` lists them.", error_class="missing"
    )


# ---- one run -----------------------------------------------------------------------------------------------


def _shown(run: Run, watch: Watch) -> Iterator[str]:
    headline, *rest = ending(watch)
    yield line(run.started.goal)
    yield headline
    yield from rest
    yield ""
    for told in rows(watch, run.at):
        yield from _with_value(run, watch, told)
        if told.id == "plan":
            yield from (f"         {text}" for text in certificate(run))
    yield ""
    yield from (f"{verdict:<10} {text}" for verdict, text in criteria(run))
    yield f"{watch.events} events, {costs(run) or 'no model was asked'}"
    if run.finished is not None and run.finished.result.value is not None:
        yield f"\n{pretty(run.finished.result.value)}"


def _with_value(run: Run, watch: Watch, told: Row) -> Iterator[str]:
    """A row as text, with the beginning of what the step gave, and the items of a map below it."""
    yield f"{told.mark:<8} {told.id:<5} {told.call}" + (f"  {told.note}" if told.note else "")
    value = run.step(told.id).value
    if value is not None:
        yield f"{'':14} = {excerpt(value.value, 100)}"
    for path in run.steps:
        if path != told.id and split_path(path)[0] == told.id:
            item = row(watch, run, path, run.at)
            given = run.step(path).value
            shown = f" = {excerpt(given.value, 80)}" if given is not None else ""
            yield f"{item.mark:<8} {path:<5} {item.note}{shown}"


def _told(run: Run, watch: Watch) -> dict[str, Json]:
    steps: list[Json] = []
    for step in run.plan.steps if run.plan is not None else ():
        paths = [step.id, *(p for p in run.steps if p != step.id and split_path(p)[0] == step.id)]
        steps.extend(_step(run, watch, path, call(step)) for path in paths)
    setup = run.started.setup
    return {
        **{name: value for name, value in outcome(run).items() if name not in {"type", "questions"}},
        "goal": run.started.goal,
        "began_at": run.began_at.isoformat(),
        "at": run.at.isoformat(),
        "events": watch.events,
        "model": setup.model,
        "workspace": setup.workspace,
        "assistant_hash": setup.assistant_hash,
        "plan": run.plan.model_dump(mode="json", by_alias=True) if run.plan else None,
        "certificate": run.certificate.model_dump(mode="json") if run.certificate else None,
        "steps": steps,
        "criteria": [{"verdict": verdict, "text": text} for verdict, text in criteria(run)],
    }


def _step(run: Run, watch: Watch, path: str, called: str) -> Json:
    state = run.step(path)
    return {
        "path": path,
        "call": called,
        "status": state.status,
        "seconds": watch.took.get(path),
        "value": state.value.model_dump(mode="json") if state.value else None,
        "fault": state.fault.model_dump(mode="json") if state.fault else None,
    }
