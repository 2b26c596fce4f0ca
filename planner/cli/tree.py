"""A run drawn on a terminal while it happens: the plan, a line per step, and what it costs.

Imported only where something is drawn: this module pays for `rich`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from planner.cli import terminal
from planner.cli.display import Form, directed, give_plan, give_result
from planner.cli.ending import ending
from planner.cli.progress import Watch, certificate, costs
from planner.cli.rows import Mark, Row, count, rows
from planner.cli.terminal import duration, line
from planner.core.events import Recorded, RunStatus
from planner.core.run import Run

FRAMES_PER_S = 5
"""Enough to look alive; drawing must not take the cores away from a local model."""
AROUND = 6
"""Lines of the picture beside its rows: the goal, the costs, what is left out, and room for a prompt."""
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

SIGNS: dict[Mark, tuple[str, str]] = {
    "pending": ("·", "dim"),
    "running": ("", "cyan"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("-", "dim"),
    "asked": ("?", "yellow"),
    "waiting": ("◷", "yellow"),
    "retrying": ("↻", "yellow"),
    "doubt": ("!", "yellow"),
}
"""Per mark its sign and its colour. What runs, spins."""

ENDS: dict[RunStatus, Mark] = {
    "completed": "done",
    "unverified": "asked",
    "waiting": "asked",
    "paused": "waiting",
    "running": "asked",
}
"""The mark of a run's end; any other end is a failure."""


class Tree:
    """Draws on standard error; the result goes to standard output when the picture stands still.

    `title` stands there until there is a run. With `is_passing` nothing of the picture stays.
    """

    def __init__(self, *, title: str = "", is_passing: bool = False, form: Form = "text") -> None:
        self._form = form
        self._is_passing = is_passing
        self.watch = Watch()
        self._console = Console(stderr=True, highlight=False)
        self._title = title
        self._download = ""
        self._began = time.monotonic()
        self._ticking: asyncio.Task[None] | None = None
        self._live = self._fresh()

    def __enter__(self) -> Tree:
        self._live.start(refresh=True)
        self._ticking = asyncio.get_running_loop().create_task(self._tick())
        return self

    def __exit__(self, *_: object) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._live.transient = self._is_passing or self.watch.run is None
        self._draw()
        self._live.stop()

    def observe(self, recorded: Recorded) -> None:
        """Takes the event in; the next frame shows it. What others asked of the run stands above the picture."""
        self.watch.observe(recorded)
        for word, text in directed(recorded.event):
            self.note(f"{word} {text}")

    def note(self, text: str) -> None:
        """Stands above the picture from then on."""
        self._console.print(Text(text, style="dim"))

    def download(self, done: int, total: int) -> None:
        """Stands in the picture until there is a run."""
        self._download = f"downloading {terminal.download(done, total, time.monotonic() - self._began)}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Rubs the picture out, and draws it again below whatever was said."""
        self._live.transient = True
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._fresh()
            self._live.start(refresh=True)

    def answer(self, run: Run, *, is_planned: bool) -> None:
        """The last words in the colour of their kind, and the result or the plan."""
        if is_planned:
            give_plan(self.watch, run, self._form)
            return
        sign, colour = SIGNS[ENDS.get(run.status, "failed")]
        headline, *rest = ending(self.watch)
        self._console.print(Text(f"{sign} {headline}", colour))
        for text in rest:
            self._console.print(Text(text), soft_wrap=True)
        give_result(run)

    def _fresh(self) -> Live:
        return Live(console=self._console, auto_refresh=False, get_renderable=self._picture, redirect_stdout=False)

    async def _tick(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(1 / FRAMES_PER_S)
                self._draw()

    def _draw(self) -> None:
        if self._live.is_started:
            self._live.refresh()

    def _picture(self) -> RenderableType:
        title = self._download or self._title
        columns, lines = self._console.size
        return picture(self.watch, datetime.now(UTC), width=columns, height=lines, title=title)


def picture(watch: Watch, now: datetime, *, width: int, height: int, title: str = "") -> RenderableType:
    """The run as it stands at `now`, for a terminal of that size; while it runs, it never scrolls."""
    run = watch.run
    if run is None:
        return _one_line((_spin(now), "cyan"), " ", (line(title, 200), "bold"))
    told, effects = rows(watch, now), tuple(certificate(run))
    id_width = max(len(row.label) for row in told)
    call_width = min(max(len(row.call) for row in told), width * 3 // 5)
    start, end = (0, len(told)) if run.finished else _window(told, max(5, height - len(effects) - AROUND))
    body: list[Text] = []
    for row in told[start:end]:
        body.append(_drawn(row, now, id_width=id_width, call_width=call_width))
        if row.id == "plan":
            body += [_one_line((f"  {'':{id_width}}  {text}", "dim")) for text in effects]
    above = [_one_line((f"⋮ {start} more", "dim"))] if start else []
    below = [_one_line((f"⋮ {len(told) - end} more", "dim"))] if end < len(told) else []
    body = [*above, *body, *below]
    head = _one_line((line(run.started.goal, 200), "bold"))
    if run.finished is not None:
        return Group(head, *body)
    facts = ["paused" if run.is_paused else "", count(run), duration(watch.elapsed(now)), costs(run)]
    return Group(head, *body, _one_line(("  " + " · ".join(fact for fact in facts if fact), "dim")))


def _window(told: Sequence[Row], room: int) -> tuple[int, int]:
    """The part of the rows that fits into `room` and shows where the run is: the last row that is not pending."""
    last = max((i for i, row in enumerate(told) if row.mark != "pending"), default=0)
    end = min(len(told), max(room, last + 2))
    return max(0, end - room), end


def _drawn(row: Row, now: datetime, *, id_width: int, call_width: int) -> Text:
    sign, colour = SIGNS[row.mark]
    faint = "dim" if row.mark in {"pending", "skipped"} else ""
    callee, space, rest = line(row.call, call_width).partition(" ")
    gap = " " * (call_width - len(callee + space + rest) + 2)
    return _one_line(
        (sign or _spin(now), colour),
        f" {row.label:{id_width}}  ",
        (callee, faint),
        (space + rest + gap + row.note, "dim"),
    )


def _one_line(*parts: str | tuple[str, str]) -> Text:
    """A line that the edge of the terminal cuts."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _spin(now: datetime) -> str:
    return SPINNER[int(now.timestamp() * FRAMES_PER_S) % len(SPINNER)]
