"""One run on the command line: opened, shown, asked about, stopped by signals, and turned into an exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeAlias

from planner import config
from planner.assistant import Assistant
from planner.cards import Approver
from planner.cli import consent, terminal
from planner.cli.display import Display, JsonLines, Lines
from planner.cli.exits import EXITS
from planner.cli.options import Options
from planner.core.events import Recorded
from planner.errors import UserError
from planner.outside import GRACE_S

Observer: TypeAlias = Callable[[Recorded], None]
Work: TypeAlias = Callable[[Observer], Coroutine[Any, Any, object]]

LEAVE_S = 2.0
"""How long a tool's thread, which nobody can stop, may hold up the end of a stopped run."""


def state_dir(options: Options) -> Path:
    """Where runs and consents are kept."""
    return config.state_dir(options.state, os.environ)


def display_for(options: Options, *, title: str = "", is_planning: bool = False) -> Display:
    """JSON if asked for, a picture on a terminal, else plain lines."""
    if options.is_json:
        return JsonLines()
    if not terminal.is_lively():
        return Lines(form=options.format)
    from planner.cli.tree import Tree

    return Tree(title=title, is_passing=is_planning and sys.stdout.isatty(), form=options.format)


def on_ask(options: Options, *, otherwise: Literal["wait", "deny"]) -> Literal["prompt", "wait", "deny"]:
    """As chosen; else a prompt where somebody can answer, and `otherwise` where nobody can.

    Raises `UserError` U-411 if a prompt was asked for, and there is no terminal for it.
    """
    if options.on_ask == "prompt" and not terminal.is_interactive():
        raise UserError(
            "U-411", "`--on-ask prompt` needs a terminal to ask on", hint="Use `--on-ask wait` or `--on-ask deny`."
        )
    return options.on_ask or ("prompt" if terminal.is_interactive() else otherwise)


def opened(
    options: Options,
    display: Display | None = None,
    *,
    asking: Literal["prompt", "wait", "deny"] = "deny",
    approver: Approver | None = None,
    workspace: Path | None = None,
) -> Assistant:
    """The assistant that the options name, else the one in the working directory, else the reference one."""
    state = state_dir(options)
    return Assistant.open(
        consent.assistant_folder(options, state),
        model=options.model,
        approver=approver,
        workspace=workspace or config.workspace_dir(options.workspace, here=Path.cwd()),
        state=state,
        on_ask=asking,
        consent=consent.to_download(options, display),
        progress=display.download if display else None,
        is_shared=True,
    )


async def follow(assistant: Assistant, display: Display, work: Work, *, is_planning: bool = False) -> int:
    """Shows the run that `work` observes, until it ends or is stopped; the exit code says how it ended."""
    known: set[str] = set()

    def observe(recorded: Recorded) -> None:
        for why in map(str, assistant.pool.choices.values()):
            if why not in known:
                display.note(terminal.line(why))
                known.add(why)
        display.observe(recorded)

    async with assistant:
        with display:
            working = asyncio.create_task(work(observe))
            with _Brake(assistant, display, working) as brake:
                await asyncio.wait({working})
        if brake.is_used:
            leave_within(LEAVE_S)
        run = display.watch.run
        if not working.cancelled():
            working.result()
        if run is None:
            terminal.say("stopped before a run began")
            return EXITS["cancelled"]
        is_planned = is_planning and run.status in {"running", "paused"} and not working.cancelled()
        display.answer(run, is_planned=is_planned)
        return EXITS["cancelled" if working.cancelled() else "planned" if is_planned else run.status]


class _Brake:
    """What Ctrl-C and SIGTERM do: the first asks the run to stop, the second one does not ask."""

    def __init__(self, assistant: Assistant, display: Display, working: asyncio.Task[object]) -> None:
        self._assistant = assistant
        self._display = display
        self._working = working
        self._asked: asyncio.Task[object] | None = None
        self.is_used = False

    def __enter__(self) -> _Brake:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._pressed)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _pressed(self) -> None:
        self.is_used = True
        run = self._display.watch.run
        if run is not None and self._asked is None:
            self._display.note(f"stopping: calls under way have {GRACE_S:.0f} s; Ctrl-C again stops at once")
            self._asked = asyncio.create_task(self._assistant.cancel(run.id))
        else:
            self._working.cancel()
            leave_within(LEAVE_S)


def leave_within(seconds: float) -> None:
    """Ends this process even if a tool's thread, which nobody can stop, would keep it."""
    timer = threading.Timer(seconds, os._exit, (EXITS["cancelled"],))
    timer.daemon = True
    timer.start()
