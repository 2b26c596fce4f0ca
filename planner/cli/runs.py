"""`planner runs list` and `planner runs show`: what the journal knows of runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from planner.cli import stuck, terminal
from planner.cli.display import answered, correction, outcome, pretty, waits
from planner.cli.ending import ending, reversals
from planner.cli.options import Options
from planner.cli.progress import Watch, certificate, costs, criteria
from planner.cli.records import Record, record, summaries
from planner.cli.rows import Row, Scene, below, call, row, rows
from planner.cli.terminal import excerpt, line, moment, money
from planner.core.events import HumanAnswered
from planner.core.labels import Json
from planner.core.ledger import Budget, Spent
from planner.core.plan import every_step
from planner.core.run import Run
from planner.journal import RunSummary
from planner.rehearsal import is_rehearsal


def list_(options: Options) -> int:
    """One line per run, newest first; with `--stuck` those that do not go on by themselves, and what to do."""
    if options.is_stuck:
        return stuck.list_(options)
    found = asyncio.run(summaries(options, limit=options.limit))
    if options.is_json:
        terminal.put_json([{**summary.model_dump(mode="json"), "status": _status(summary)} for summary in found])
        return 0
    if not found:
        terminal.say('no runs yet; the first one: planner "Summarise notes.txt into summary.txt"')
    width = max((len(summary.run_id) for summary in found), default=0)
    room = max(20, terminal.columns() - width - 33)
    for summary in found:
        at = summary.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
        part = "part: " if summary.parent is not None else "dry run: " if is_rehearsal(summary.run_id) else ""
        terminal.put(f"{summary.run_id:<{width}}  {_status(summary):<12} {at}  {line(part + summary.goal, room)}")
    return 0


def _status(summary: RunSummary) -> str:
    """The status as people see it: a run that nobody runs is `open`, and can be resumed."""
    is_open = summary.status == "running" and not summary.is_live
    return "open" if is_open else summary.status


def show(options: Options) -> int:
    """One run in full."""
    found = asyncio.run(record(options, options.words[0]))
    watch = found.watch()
    if options.is_json:
        terminal.put_json(_told(found, watch))
    else:
        for text in _shown(found, watch):
            terminal.put(text)
    return 0


# ---- one run -----------------------------------------------------------------------------------------------


def _shown(found: Record, watch: Watch) -> Iterator[str]:
    run = found.run
    headline, *rest = ending(watch)
    yield line(run.started.goal)
    yield _live(found, headline)
    yield from rest
    yield ""
    told = rows(watch, run.at)
    width = max((len(one.label) for one in told), default=5)
    for one in told:
        yield from _with_value(Scene(watch, run, run.at), one, max(width, 5))
        if one.id == "plan":
            yield from (f"{'':9}{text}" for text in certificate(run))
    yield ""
    yield from (f"{verdict:<10} {text}" for verdict, text in criteria(run))
    yield from (f"{name:<10} {text}" for name, text in _facts(found))
    yield f"{watch.events} events, {costs(run) or 'no model was asked'}"
    if run.finished is not None and run.finished.result.value is not None:
        yield f"\n{pretty(run.finished.result.value)}"


def _live(found: Record, headline: str) -> str:
    """The headline; a run that some process drives is running, whatever its last event says."""
    return headline.replace("stopped", "running", 1) if found.summary.is_live else headline


def _facts(found: Record) -> Iterator[tuple[str, str]]:
    """What there is to say of the run as a whole, beside its steps."""
    run = found.run
    if run.started.parent is not None:
        yield "part of", f"{run.started.parent.run_id}, step {run.started.parent.path}"
    for part in found.parts:
        yield "part", f"{part.run_id}  {_status(part)}  {line(part.goal, 80)}"
    for steered in run.corrections:
        yield "corrected", correction(steered)
    for recorded in found.history:
        if isinstance(recorded.event, HumanAnswered):
            yield "answered", f"{recorded.event.path}: {answered(recorded.event)}"
    if run.finished is None:
        yield from (("undone", text.strip()) for text in reversals(run))
        if (due := run.due()) is not None:
            yield "next", f"its next time is {moment(due, run.at)}"
    if found.summary.requests:
        yield "asked", f"{found.summary.requests} not taken yet; planner runs wake"
    yield "used", ", ".join(used(run.started.setup.budget, run.spent))


def used(budget: Budget, spent: Spent) -> Iterator[str]:
    """What was used, beside its limit where there is one: `12 of 200 calls`."""
    yield f"{spent.calls}{_of(budget.calls)} calls"
    yield f"{spent.tokens:,}{_of(budget.tokens)} tokens"
    cost = money(None if spent.unpriced else spent.cost_usd)
    yield f"{cost}{'' if budget.cost_usd is None else f' of {money(budget.cost_usd)}'}"
    yield f"{terminal.duration(spent.seconds)}{'' if budget.seconds is None else f' of {budget.seconds:g} s'}"


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit:,}"


def _with_value(scene: Scene, told: Row, width: int) -> Iterator[str]:
    """A row as text, with the beginning of what the step gave, and its calls below it where they are several."""
    run = scene.run
    yield f"{told.mark:<8} {told.label:<{width}} {told.call}".rstrip() + (f"  {told.note}" if told.note else "")
    value = run.step(told.id).value
    if value is not None:
        yield f"{'':{9 + width}} = {excerpt(value.value, 100)}"
    step = run.plan.step(told.id) if run.plan is not None else None
    for path in below(run, step) if step is not None else ():
        item = row(scene, path)
        given = run.step(path).value
        shown = f" = {excerpt(given.value, 80)}" if given is not None else ""
        yield f"{item.mark:<8} {item.id:<{width}} {item.note}{shown}".rstrip()


def _told(found: Record, watch: Watch) -> dict[str, Json]:
    run, setup = found.run, found.run.started.setup
    steps: list[Json] = []
    for step in every_step(run.plan.steps) if run.plan is not None else ():
        steps.extend(_step(run, watch, path, call(step)) for path in [step.id, *below(run, step)])
    steps.extend(_step(run, watch, path, row(Scene(watch, run, run.at), path).call) for path in run.undoing)
    return {
        **{name: value for name, value in outcome(run).items() if name != "type"},
        **(waits(run) if run.finished is None else {}),
        "goal": run.started.goal,
        "began_at": run.began_at.isoformat(),
        "at": run.at.isoformat(),
        "due_at": None if (due := run.due()) is None else due.isoformat(),
        "events": watch.events,
        "is_live": found.summary.is_live,
        "requests": found.summary.requests,
        "parent": run.started.parent.model_dump(mode="json") if run.started.parent else None,
        "parts": [{"run_id": part.run_id, "status": part.status, "goal": part.goal} for part in found.parts],
        "model": setup.model,
        "workspace": setup.workspace,
        "assistant_hash": setup.assistant_hash,
        "budget": setup.budget.model_dump(mode="json"),
        "calls": run.spent.calls,
        "plan": run.plan.model_dump(mode="json", by_alias=True) if run.plan else None,
        "certificate": run.certificate.model_dump(mode="json") if run.certificate else None,
        "steps": steps,
        "corrections": [steered.model_dump(mode="json", exclude={"plan"}) for steered in run.corrections],
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
