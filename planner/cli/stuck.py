"""`planner runs list --stuck`: the runs that do not go on by themselves, with why, and what to do about each."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from planner.cli import terminal
from planner.cli.ending import answers, go_on
from planner.cli.options import Options
from planner.cli.progress import is_planned, told, use
from planner.cli.records import Record, record, summaries
from planner.cli.rows import question, waiting
from planner.cli.terminal import line
from planner.core.labels import Json
from planner.core.plan import StepPath
from planner.core.run import UNDECIDED, Run
from planner.core.state import callee_at
from planner.journal import RunSummary
from planner.rehearsal import is_rehearsal

SETTLED = frozenset({"completed", "unverified", "rejected", "denied", "cancelled"})
"""Ends that somebody was told of, and that leave nothing to do."""
LONG = timedelta(days=1)
"""A run that waits longer than this may have been forgotten."""


class Stuck(NamedTuple):
    """A run, why it does not go on, and the command that helps."""

    summary: RunSummary
    why: str
    command: str


def list_(options: Options) -> int:
    """Those of the newest runs, newest first."""
    found = list(_found(options, datetime.now(UTC)))[: options.limit]
    if options.is_json:
        terminal.put_json([_told(one) for one in found])
        return 0
    if not found:
        terminal.say("no run is stuck")
    for one in found:
        terminal.put(f"{one.summary.run_id}  {line(one.summary.goal, 80)}")
        terminal.put(f"  {one.why}")
        terminal.put(f"  {one.command}")
    return 0


def _told(one: Stuck) -> dict[str, Json]:
    summary = one.summary.model_dump(mode="json")
    return {**summary, "why": one.why, "next": one.command}


def _found(options: Options, now: datetime) -> Iterator[Stuck]:
    for summary in asyncio.run(summaries(options)):
        if (
            summary.is_live
            or is_rehearsal(summary.run_id)
            or summary.status in {"completed", "unverified", "rejected", "denied", "cancelled"}
        ):
            continue
        if summary.parent is not None and summary.status in {"failed", "over_budget"}:
            continue  # the run that it is a part of has to do with that, and is told
        found = asyncio.run(record(options, summary.run_id))
        for why, command in _reasons(found, now):
            yield Stuck(summary, why, command)
            break


def _reasons(found: Record, now: datetime) -> Iterator[tuple[str, str]]:
    """Why the run does not go on, the gravest reason first, each with a command."""
    run, summary = found.run, found.summary
    yield from _ended(run)
    if run.finished is not None:
        return
    yield from _in_doubt(run)
    if is_planned(run) and not summary.requests:
        return  # nobody asked for more than a plan
    if summary.requests:
        yield f"{summary.requests} asked of it, and nobody took it", "planner runs wake"
    if summary.status == "running":
        yield "open: its process ended, and no other goes on with it", f"planner runs resume {run.id}"
    if (due := run.due()) is not None and due < now and not run.is_paused:
        yield f"its time came {terminal.duration((now - due).total_seconds())} ago", "planner runs wake"
    if now - summary.updated_at > LONG:
        yield _forgotten(run, now - summary.updated_at)


def _ended(run: Run) -> Iterator[tuple[str, str]]:
    finished = run.finished
    if finished is None or finished.status not in {"failed", "over_budget"}:
        return
    doubts = [path for path, state in run.steps.items() if state.fault is not None and state.fault.code in UNDECIDED]
    if doubts:
        path = doubts[0]
        yield f"failed: nobody knows whether {path} {use(run, path)} happened", f"planner runs show {run.id}"
    fault = told(finished.fault)
    why = f"{finished.status.replace('_', ' ')}: {' '.join(filter(None, (line(finished.reason), fault)))}"
    if finished.status == "over_budget":
        yield why, f"planner run {shlex.quote(line(run.started.goal, 120))}   (after raising [limits])"
    yield why, f"planner runs show {run.id}"


def _in_doubt(run: Run) -> Iterator[tuple[str, str]]:
    for path, state in run.steps.items():
        if state.status == "asked" and state.question == "happened":
            why = f"in doubt: nobody knows whether {path} {use(run, path)} happened"
            yield why, " | ".join(answers(run, path))
        elif state.status in {"started", "in_doubt", "interrupted"} and _is_effect(run, path):
            yield f"in doubt: {path} {use(run, path)} was under way when its process ended", _resume(run)


def _is_effect(run: Run, path: StepPath) -> bool:
    callee = run.started.setup.catalogue.get(callee_at(run, path))
    return callee is not None and not callee.is_reading and callee.kind != "plan"


def _resume(run: Run) -> str:
    return f"planner runs resume {run.id}"


def _forgotten(run: Run, since: timedelta) -> tuple[str, str]:
    """What a run has waited for, longer than anybody should have to."""
    days = f"{since.days} day{'s' if since.days > 1 else ''}"
    if run.is_paused:
        return f"paused for {days}", _resume(run)
    for path, state in run.steps.items():
        if state.status == "asked":
            asked = question(run, path, run.at)
            return f"for {days}: {path} {use(run, path)} {asked}", answers(run, path)[0]
        if state.status == "waiting":
            return f"for {days}: {path} {use(run, path)} {waiting(state, run.at)}", _next(run, path)
    return f"nothing happened for {days}", f"planner runs show {run.id}"


def _next(run: Run, path: StepPath) -> str:
    return go_on(run, path)
