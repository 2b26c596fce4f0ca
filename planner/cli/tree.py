"""A run drawn on a terminal while it happens: the plan, a line per step, and what it costs.

Imported only where something is drawn: this module pays for `rich`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from planner.cli import terminal
from planner.cli.display import give
from planner.cli.progress import Mark, Row, Watch, certificate, costs, count, rows
from planner.cli.terminal import duration, line
from planner.core.events import Recorded
from planner.core.state import Run

FRAMES_PER_S = 5
"""Enough to look alive; drawing must not take the cores away from a local model."""
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SPINNER = "|/-\\"

SIGNS: dict[Mark, tuple[str, str, str]] = {
    "pending": ("·", ".", "dim"),
    "running": ("", "", "cyan"),
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
    "asked": ("?", "?", "yellow"),
    "retrying": ("↻", "~", "yellow"),
    "doubt": ("!", "!", "yellow"),
}
"""Per mark: its sign, the sign where the terminal has ASCII only, and its colour. What runs, spins."""


class Tree:
    """Draws on standard error; the result goes to standard output when the picture stands still."""

    def __init__(self, *, title: str = "") -> None:
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
        self._live.transient = self.watch.run is None
        self._draw()
        self._live.stop()

    def observe(self, recorded: Recorded) -> None:
        """Takes the event in; the next frame shows it."""
        self.watch.observe(recorded)

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
        """The last words, and the result or the plan."""
        give(self.watch, run, is_planned=is_planned)

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
        return picture(self.watch, datetime.now(UTC), title=title, is_ascii=not _is_unicode(self._console))


def picture(watch: Watch, now: datetime, *, title: str = "", is_ascii: bool = False) -> RenderableType:
    """The run as it stands at `now`."""
    run = watch.run
    if run is None:
        return Text.assemble((_spin(now, is_ascii=is_ascii), "cyan"), " ", (line(title, 100), "bold"), ("  …", "dim"))
    table = Table.grid(padding=(0, 1), expand=False)
    for width in (1, None, None):
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    told = rows(watch, now)
    for row in told:
        sign, colour = _sign(row, now, is_ascii=is_ascii)
        table.add_row(Text(sign, colour), Text(row.id, "bold" if row.id == "plan" else ""), _called(row), row.note)
        if row.id == "plan":
            for text in certificate(run):
                table.add_row("", "", Text(text, "dim"), "")
    facts = [count(run), duration(watch.elapsed(now)), costs(run)]
    foot = Text("  " + " · ".join(fact for fact in facts if fact), "dim")
    return Group(Text(line(run.started.goal, 200), "bold", no_wrap=True, overflow="ellipsis"), table, foot)


def _called(row: Row) -> Text:
    """The callee stands out from its arguments."""
    name, space, rest = row.call.partition(" ")
    if row.id == "plan":
        return Text(row.call)
    return Text.assemble((name, "dim" if row.mark in {"pending", "skipped"} else ""), (space + rest, "dim"))


def _sign(row: Row, now: datetime, *, is_ascii: bool) -> tuple[str, str]:
    sign, plain, colour = SIGNS[row.mark]
    return (plain if is_ascii else sign) or _spin(now, is_ascii=is_ascii), colour


def _spin(now: datetime, *, is_ascii: bool) -> str:
    frames = PLAIN_SPINNER if is_ascii else SPINNER
    return frames[int(now.timestamp() * FRAMES_PER_S) % len(frames)]


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
