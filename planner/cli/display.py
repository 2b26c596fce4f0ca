"""How a run is shown while it happens: as plain lines, or as JSON, one event a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC
from typing import Protocol

from planner.cli import terminal
from planner.cli.progress import Row, Watch, call, certificate, ending, row, rows, told, use
from planner.core.events import (
    HumanAsked,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanRejected,
    Recorded,
    RetryScheduled,
    RunFinished,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from planner.core.labels import Json
from planner.core.run import Run


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

    def __init__(self) -> None:
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
            give_plan(self.watch, run)
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


def give_plan(watch: Watch, run: Run) -> None:
    """The plan and its certificate on standard output."""
    for text in planned(run):
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
    width = max([len("answer"), *(len(step.id) for step in plan.steps)])
    yield from (f"{step.id:{width}}  {call(step)}" for step in plan.steps)
    if plan.answer is not None:
        yield f"{'answer':{width}}  {terminal.excerpt(plan.answer, 100)}"
    yield from certificate(run)


def _lines(watch: Watch, run: Run, recorded: Recorded) -> Iterator[str]:
    match recorded.event:
        case RunStarted():
            yield f"run      {run.id}"
        case PlannerFailed(fault=fault):
            yield f"plan     not to be had: {told(fault)}"
        case PlanRejected():
            yield f"plan     attempt {watch.attempts} rejected: {terminal.line(watch.trouble, 200)}"
        case PlanAccepted():
            accepted = rows(watch, recorded.at)[0]
            yield " ".join(filter(None, ("plan     accepted:", accepted.call, accepted.note)))
            yield from (f"         {text}" for text in certificate(run))
        case PlanAbandoned(reason=reason):
            yield f"plan     given up: {terminal.line(reason, 200)}"
        case StepStarted(path=path):
            yield f"{path:<8} started  {row(watch, run, path, recorded.at).call}"
        case (
            StepSkipped() | StepInDoubt() | RetryScheduled() | StepSucceeded() | StepFailed() | HumanAsked() as event
        ):
            told_of = row(watch, run, event.path, recorded.at)
            yield f"{event.path:<8} {told_of.mark:<8} {told_of.note or told_of.call}"
        case _:
            return


def _plain(row: Row) -> str:
    return f"{row.id:<8} {row.mark:<8} {row.note or row.call}"


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
        """The last line: `RunFinished`, `RunWaiting`, `RunPlanned` or `RunStopped`, with what the run has cost."""
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
    if run.finished is not None:
        finished = run.finished.model_dump(mode="json", exclude={"status", "result"})
        return {**finished, **spent, "result": run.finished.result.value}
    if is_planned and run.plan is not None and run.certificate is not None:
        plan = run.plan.model_dump(mode="json", by_alias=True)
        return {"type": "RunPlanned", **spent, "plan": plan, "certificate": run.certificate.model_dump(mode="json")}
    if run.status == "running":
        return {"type": "RunStopped", **spent}
    questions: list[Json] = [
        {"path": path, "use": use(run, path), "question": state.question, "reason": state.reason}
        for path, state in run.steps.items()
        if state.status == "asked"
    ]
    return {"type": "RunWaiting", **spent, "questions": questions}
