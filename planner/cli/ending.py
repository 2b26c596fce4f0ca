"""How a run ended, or what it waits for: sentences, each with the command that goes on from there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from planner.cards import asked, card_of
from planner.cli.progress import NOTE_CHARACTERS, Watch, called, costs, criteria, status, told, use
from planner.cli.rows import call_at, question, waiting
from planner.cli.terminal import duration, line
from planner.core.events import RunFinished
from planner.core.labels import Json
from planner.core.plan import StepPath, beside
from planner.core.run import Run
from planner.core.state import callee_at
from planner.rehearsal import is_rehearsal, rehearsed

MANY = 5
"""Choices that get a command each."""


def ending(watch: Watch) -> Iterator[str]:
    """A headline, then what there is to add."""
    run = watch.run
    if run is None:
        return
    facts = [status(run), duration(watch.elapsed(run.at)), costs(run), f"run {run.id}"]
    yield " · ".join(fact for fact in facts if fact)
    if is_rehearsal(run.id):
        yield from _rehearsed(run)
    if run.finished is not None:
        yield from _why(run, run.finished)
    else:
        yield from openings(run)


def _rehearsed(run: Run) -> Iterator[str]:
    """What a dry run would have done, with the arguments it would have been done with."""
    paths = list(rehearsed(run))
    width = max(map(len, paths), default=0)
    for path in paths:
        given = run.step(path).arguments
        arguments = given.value if given is not None and isinstance(given.value, dict) else {}
        yield f"  would  {path:{width}}  {called(use(run, path), arguments)}"
    parts = [path for path, state in run.steps.items() if state.key and is_part(run, path)]
    yield from (f"  would  {path}  what its part would: planner runs show {part_of(run, path)}" for path in parts)
    yield "  nothing was changed" if paths or parts else "  nothing would be changed"


def openings(run: Run) -> Iterator[str]:
    """What an unfinished run waits for, each with a command to paste."""
    cards = [card_of(run, path) for path in asked(run)]
    for card in cards:
        count = f" ({len(card.items)} items)" if len(card.items) > 1 else ""
        yield f"  {card.path} {use(run, card.path)}{count} {question(run, card.item.path, run.at)}"
        yield from (f"    {command}" for command in answers(run, card.path))
    found = bool(cards)
    for path, state in run.steps.items():
        match state.status:
            case "waiting":
                yield f"  {path} {use(run, path)} {waiting(state, run.at)}"
                yield f"    {go_on(run, path)}"
            case "parked":
                part = part_of(run, path)
                yield f"  {path} {use(run, path)} waits for its part"
                yield f"    planner runs show {part}"
            case _:
                continue
        found = True
    if cards and not run.is_paused:
        yield f"  to be asked at a terminal: planner runs resume {run.id}"
    elif run.is_paused or not found or run.status == "running":
        yield f"  to go on: planner runs resume {run.id}"


def is_part(run: Run, path: StepPath) -> bool:
    """Whether the step at `path` is a run of its own."""
    callee = run.started.setup.catalogue.get(callee_at(run, path))
    return callee is not None and callee.kind == "plan"


def part_of(run: Run, path: StepPath) -> str:
    """The id of the run that the step at `path` is."""
    return f"{run.id}.{run.step(path).key[:8]}"


def go_on(run: Run, path: StepPath) -> str:
    """The command for a step that waits: for its event, or once its time has come."""
    state = run.step(path)
    if state.wanted is None:
        return "planner runs wake   (from then on)"
    name, fields = state.wanted
    data = f" --data {shlex.quote(_json(dict(fields)))}" if fields else ""
    return f"planner events send {shlex.quote(line(name))} --run {run.id}{data}"


def _json(value: Json) -> str:
    return line(json.dumps(value, ensure_ascii=True))


def answers(run: Run, path: StepPath) -> tuple[str, ...]:
    """The commands that answer the question at `path`."""
    at = f"{run.id} {shlex.quote(path)}"
    match card_of(run, path).question:
        case "approve":
            return (f"planner runs approve {at}", f"planner runs deny {at}")
        case "happened":
            return (f"planner runs answer {at} yes", f"planner runs answer {at} no")
        case "failed":
            return tuple(f"planner runs answer {at} {word}" for word in ("retry", "skip", "fail"))
        case _:
            return tuple(f"planner runs answer {at} {value}" for value in _values(run, path))


def _values(run: Run, path: StepPath) -> tuple[str, ...]:
    """What a question of the plan wants as its answer: its choices, or its type in capitals."""
    state = run.step(path)
    given = state.arguments.value if state.arguments is not None and isinstance(state.arguments.value, dict) else {}
    choices = given.get("choices")
    if isinstance(choices, list) and 0 < len(choices) <= MANY:
        return tuple(shlex.quote(line(str(choice))) for choice in choices)
    return ("CHOICE" if choices else _PLACES.get(str(given.get("type")), "TEXT"),)


_PLACES = {"number": "NUMBER", "integer": "NUMBER", "boolean": "yes", "date": "DATE", "record": "JSON"}


def _why(run: Run, finished: RunFinished) -> Iterator[str]:
    if finished.status not in {"completed", "unverified", "cancelled"} and finished.reason:
        yield f"  {line(finished.reason)}"
    if finished.fault is not None:
        yield f"  {told(finished.fault, 600)}"
        if finished.fault.choices:
            yield f"  valid: {line(', '.join(finished.fault.choices), NOTE_CHARACTERS)}"
    if finished.status in {"unverified", "rejected"}:
        yield from (f"  {verdict}: {text}" for verdict, text in criteria(run) if verdict != "met")
    if finished.status == "unverified" and not run.started.criteria:
        yield "  nothing failed, and no criterion said when the goal is met; --success TEXT adds one"
    if finished.degraded:
        yield f"  went on without {', '.join(finished.degraded)}, which failed"
    yield from reversals(run)


def reversals(run: Run) -> Iterator[str]:
    """What was taken back, and what was left and why: one line each."""
    finished = run.finished
    undone, left = (finished.undone, finished.left) if finished is not None else (run.undone, run.left)
    width = max((len(path) for path in (*undone, *(one.path for one in left))), default=0)
    yield from (f"  taken back  {path:{width}}  {_deed(run, path)}" for path in undone)
    yield from (f"  left        {one.path:{width}}  {_deed(run, one.path)}: {line(one.reason)}" for one in left)


def _deed(run: Run, path: StepPath) -> str:
    """The call that was to be taken back, as far as it is still known."""
    undo = beside(path, "undo")
    return call_at(run, undo if undo in run.steps else path)
