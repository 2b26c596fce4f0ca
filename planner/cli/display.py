"""How a run is shown while it happens: as plain lines, or as JSON, one event a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC
from typing import Literal, Protocol, TypeAlias

from planner.cards import Item, asked, card_of
from planner.cli import terminal
from planner.cli.ending import answers, ending, part_of
from planner.cli.progress import Watch, certificate, told, use
from planner.cli.rows import INDENT, Scene, call, named, row, rows
from planner.core import picture
from planner.core.events import (
    BudgetRefused,
    CancelRequested,
    Event,
    EventReceived,
    HumanAnswered,
    HumanAsked,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanRejected,
    Recorded,
    RetryScheduled,
    RunFinished,
    RunForked,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepParked,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    UndoBegan,
    UndoRequested,
    WaitStarted,
)
from planner.core.labels import Json
from planner.core.plan import Step, StepPath
from planner.core.run import Run
from planner.rehearsal import is_rehearsal, is_rehearsed, rehearsed

Form: TypeAlias = Literal["text", "mermaid"]
"""How a plan is given that is not carried out."""


class Display(Protocol):
    """Shows one run. Used as a context, inside which events may come."""

    watch: Watch

    def __enter__(self) -> Display:
        """Begins to show."""
        ...

    def __exit__(self, *_: object) -> None:
        """Leaves the last picture standing."""
        ...

    def observe(self, recorded: Recorded) -> None:
        """Shows what an event changes."""
        ...

    def note(self, text: str) -> None:
        """Says something that is no event; the caller made it safe."""
        ...

    def download(self, done: int, total: int) -> None:
        """Shows how many of how many bytes of a model are here; called from any thread."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Keeps quiet while a person is asked."""
        ...

    def answer(self, run: Run, *, is_planned: bool) -> None:
        """Gives the result, or the plan that would be run."""
        ...


# ---- plain lines -------------------------------------------------------------------------------------------


class Lines:
    """One line for everything worth one, on standard error; the result on standard output."""

    def __init__(self, *, form: Form = "text") -> None:
        self._form = form
        self.watch = Watch()
        self.download = DownloadLines()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def observe(self, recorded: Recorded) -> None:
        """Says the event's line, if it has one."""
        self.watch.observe(recorded)
        assert self.watch.run is not None
        for text in _lines(self.watch, self.watch.run, recorded):
            terminal.say(text)

    def note(self, text: str) -> None:
        """Says it at once."""
        terminal.say(text)

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn, so nothing has to stop."""
        return nullcontext()

    def answer(self, run: Run, *, is_planned: bool) -> None:
        """The result as text, or the plan and its certificate."""
        if is_planned:
            give_plan(self.watch, run, self._form)
            return
        for text in ending(self.watch):
            terminal.say(text)
        give_result(run)


class DownloadLines:
    """Says how far a download is, each tenth once."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._tenth = -1

    def __call__(self, done: int, total: int) -> None:
        """Says it, if there is something new to say."""
        tenth = 10 * done // max(total, 1)
        if tenth != self._tenth:
            self._tenth = tenth
            terminal.say(f"download {terminal.download(done, total, time.monotonic() - self._began)}")


def give_plan(watch: Watch, run: Run, form: Form) -> None:
    """The plan and its certificate on standard output, or the plan as a flowchart."""
    assert run.plan is not None, "only an accepted plan is shown"
    drawn = picture.mermaid(run.plan, run.certificate).splitlines() if form == "mermaid" else planned(run)
    for text in drawn:
        terminal.put(text)
    for text in ending(watch):
        terminal.say(text)


def give_result(run: Run) -> None:
    """The result, if the run has one, on standard output."""
    if run.finished is not None and run.finished.result.value is not None:
        if sys.stdout.isatty():
            terminal.say("")
        terminal.put(pretty(run.finished.result.value))


def pretty(value: Json) -> str:
    """A result as people read it: text as it is, the rest as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def planned(run: Run) -> Iterator[str]:
    """A plan and its certificate in full."""
    plan = run.plan
    assert plan is not None, "only an accepted plan is shown"
    written = list(_written(plan.steps, 0))
    width = max([len("answer"), *(len(label) for label, _ in written)])
    if plan.inputs:
        yield f"{'inputs':{width}}  {terminal.excerpt(dict(plan.inputs), 100)}"
    yield from (f"{label:{width}}  {text}".rstrip() for label, text in written)
    if plan.answer is not None:
        yield f"{'answer':{width}}  {terminal.excerpt(plan.answer, 100)}"
    yield from certificate(run)


def _written(steps: Sequence[Step], depth: int) -> Iterator[tuple[str, str]]:
    """Each step with its blocks around it, as the plan writes it."""
    indent = " " * (INDENT * depth)
    for step in steps:
        yield f"{indent}{step.id}", call(step)
        yield from _written(step.do, depth + 1)
        if step.else_:
            yield f"{indent}else", ""
            yield from _written(step.else_, depth + 1)


def _lines(watch: Watch, run: Run, recorded: Recorded) -> Iterator[str]:
    scene = Scene(watch, run, recorded.at)
    match recorded.event:
        case RunStarted():
            yield f"run      {run.id}"
        case PlannerFailed(fault=fault):
            yield f"plan     not to be had: {told(fault)}"
        case PlanRejected():
            which = f"attempt {watch.attempts} " if watch.attempts else ""
            yield f"plan     {which}rejected: {terminal.line(watch.trouble, 200)}"
        case PlanAccepted():
            accepted = rows(watch, recorded.at)[0]
            yield " ".join(filter(None, ("plan     accepted:", accepted.call, accepted.note)))
            yield from (f"         {text}" for text in certificate(run))
        case PlanAbandoned(reason=reason):
            yield f"plan     given up: {terminal.line(reason, 200)}"
        case StepStarted(path=path):
            yield _line(named(path), "would" if is_rehearsed(run, path) else "started", row(scene, path).call)
        case StepSucceeded(path=path) if is_rehearsed(run, path):
            return  # it was said what it would do
        case HumanAnswered(path=path):
            yield _line(named(path), "answered", answered(recorded.event))
        case (
            StepSkipped()
            | StepInDoubt()
            | RetryScheduled()
            | StepSucceeded()
            | StepFailed()
            | HumanAsked()
            | WaitStarted()
            | StepParked() as event
        ):
            told_of = row(scene, event.path)
            yield _line(told_of.id, told_of.mark, told_of.note or told_of.call)
        case event:
            yield from (_line("run", *words) for words in directed(event))


def _line(label: str, mark: str, text: str) -> str:
    return f"{label:<8} {mark:<8} {text}".rstrip()


def answered(event: HumanAnswered) -> str:
    """What a person said, and who it was."""
    what = terminal.excerpt(event.value, 80) if event.answer == "value" else event.answer
    return f"{what}, by {terminal.line(event.by)}"


def directed(event: Event) -> Iterator[tuple[str, str]]:
    """What somebody asked of the run as a whole, as a word and what there is to say of it."""
    match event:
        case PauseRequested(by=by):
            yield "paused", f"by {terminal.line(by)}; what is under way ends first"
        case PauseLifted(by=by):
            yield "goes on", f"by {terminal.line(by)}"
        case CancelRequested(by=by):
            yield "cancel", f"by {terminal.line(by)}; what it did is taken back"
        case UndoRequested(by=by):
            yield "undo", f"asked for by {terminal.line(by)}"
        case UndoBegan(paths=paths):
            yield "undo", f"takes back {', '.join(paths)}"
        case Steered():
            yield "corrected", correction(event)
        case EventReceived(name=name, by=by):
            yield "event", terminal.line(name) + (f", from {terminal.line(by)}" if by else "")
        case BudgetRefused(account=account, reason=reason):
            yield "no room", f"{terminal.line(account)}: {terminal.line(reason)}"
        case RunForked(origin=origin, at_event=at_event):
            yield "forked", f"from {origin} at event {at_event}"
        case _:
            return


def correction(event: Steered) -> str:
    """A correction as a line: its words, the inputs it changes, and whether it brings a plan."""
    parts = [terminal.line(event.text, 100)] if event.text else []
    parts += [f"{terminal.line(name)}={terminal.excerpt(value, 40)}" for name, value in event.inputs.items()]
    parts += ["with another plan"] if event.plan is not None else []
    return f"by {terminal.line(event.by)}: {'; '.join(parts)}"


# ---- JSON --------------------------------------------------------------------------------------------------


class JsonLines:
    """Every event as one line of JSON on standard output; what is no event goes to standard error."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.download = DownloadLines()
        self._last: Recorded | None = None

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def observe(self, recorded: Recorded) -> None:
        """Writes the event; the last one waits for `answer`, which adds the costs."""
        self.watch.observe(recorded)
        self._last = recorded
        if not isinstance(recorded.event, RunFinished):
            terminal.put_json(flat(recorded))

    def note(self, text: str) -> None:
        """Says it beside the events."""
        terminal.say(text)

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn, so nothing has to stop."""
        return nullcontext()

    def answer(self, run: Run, *, is_planned: bool) -> None:
        """The last line, with what the run has cost: `RunFinished`, `RunWaiting`, `RunPlanned` or `RunStopped`."""
        place = _place(self._last) if self._last is not None else {"run_id": run.id}
        terminal.put_json({**place, **outcome(run, is_planned=is_planned)})


def flat(recorded: Recorded) -> dict[str, Json]:
    """An event and its place in one object."""
    return {**_place(recorded), **recorded.event.model_dump(mode="json", by_alias=True)}


def _place(recorded: Recorded) -> dict[str, Json]:
    at = recorded.at.astimezone(UTC).isoformat()
    schema = recorded.schema_version
    return {"seq": recorded.seq, "run_id": recorded.run_id, "run_seq": recorded.run_seq, "at": at, "schema": schema}


def outcome(run: Run, *, is_planned: bool = False) -> dict[str, Json]:
    """Where a run stands, for programs; a price that nobody knows is null."""
    spent: dict[str, Json] = {
        "run_id": run.id,
        "status": "planned" if is_planned else run.status,
        "seconds": round(run.spent.seconds, 3),
        "tokens": run.spent.tokens,
        "cost_usd": None if run.spent.unpriced else run.spent.cost_usd,
    }
    if is_rehearsal(run.id):
        spent["would"] = [
            {"path": path, "use": use(run, path), "arguments": _given(run, path)} for path in rehearsed(run)
        ]
    if run.finished is not None:
        finished = run.finished.model_dump(mode="json", exclude={"status", "result"})
        return {**finished, **spent, "result": run.finished.result.value}
    if is_planned and run.plan is not None and run.certificate is not None:
        plan = run.plan.model_dump(mode="json", by_alias=True)
        return {"type": "RunPlanned", **spent, "plan": plan, "certificate": run.certificate.model_dump(mode="json")}
    if run.status == "running":
        return {"type": "RunStopped", **spent}
    return {"type": "RunWaiting", **spent, **waits(run)}


def _given(run: Run, path: StepPath) -> Json:
    arguments = run.step(path).arguments
    return None if arguments is None else arguments.value


def _item(item: Item) -> dict[str, Json]:
    """What a card asks about, with where each argument came from."""
    return {
        "path": item.path,
        "arguments": item.arguments.value,
        "origins": {name: origin.model_dump(mode="json") for name, origin in item.origins.items()},
        "binding": item.binding,
        "until": item.due_at.isoformat() if item.due_at else None,
    }


def waits(run: Run) -> dict[str, Json]:
    """What an unfinished run waits for: questions with the commands that answer them, times and events, its parts."""
    steps = run.steps if run.finished is None else {}
    cards = [card_of(run, path) for path in asked(run)] if steps else []
    waiting = {path: state for path, state in steps.items() if state.status == "waiting"}
    return {
        "questions": [
            {
                "path": card.path,
                "use": use(run, card.path),
                "question": card.question,
                "reason": card.reason,
                "items": [_item(item) for item in card.items],
                "commands": list(answers(run, card.path)),
            }
            for card in cards
        ],
        "waits": [
            {
                "path": path,
                "until": state.due.isoformat() if state.due else None,
                "event": state.wanted[0] if state.wanted else None,
                "match": dict(state.wanted[1]) if state.wanted else {},
            }
            for path, state in waiting.items()
        ],
        "parts": [part_of(run, path) for path, state in steps.items() if state.status == "parked"],
    }
