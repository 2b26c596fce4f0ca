"""Going on with a run in this process: with the assistant it began with, shown and asked about like a new one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from planner import config
from planner.cards import Approver
from planner.cli import questions, terminal
from planner.cli.conduct import Observer, display_for, follow, on_ask, opened
from planner.cli.display import Display
from planner.cli.options import Options
from planner.cli.records import Record, record
from planner.cli.terminal import line
from planner.core.events import Recorded
from planner.core.run import Run
from planner.errors import JournalError, UserError
from planner.journal import Request


def carry_on(
    options: Options, found: Record, *, said: str = "", request: Request | None = None, is_resumed: bool = True
) -> int:
    """Goes on with a run, and with the run that it is a part of once it has ended; the exit code is the last one's.

    `said` is said once `request` was taken. `is_resumed`: a pause is lifted. Raises `UserError` U-421, U-432.
    """
    run = found.run
    if run.finished is None or request is not None:
        check_assistant(options, run)
    display = display_for(options)
    for recorded in found.history:
        display.watch.observe(recorded)
    asking = on_ask(options, otherwise="wait")
    approvers: dict[str, Approver | None] = {
        "prompt": questions.approver(display),
        "deny": questions.deny,
        "wait": None,
    }
    workspace = Path(run.started.setup.workspace)
    assistant = opened(options, display, asking=asking, approver=approvers[asking], workspace=workspace)

    async def work(observe: Observer) -> None:
        telling = _telling(observe, display, said, request)
        go_on = assistant.resume if is_resumed else assistant.go_on
        await go_on(run.id, observe=telling)
        if request is not None:
            _check(await assistant.journal.request(request.id))

    code = asyncio.run(follow(assistant, display, work))
    return _parent(options, display, code)


def _telling(observe: Observer, display: Display, said: str, request: Request | None) -> Observer:
    """Says what was asked for just before the event that took it is shown."""
    waiting = [said] if said and request is not None else []

    def told(recorded: Recorded) -> None:
        if waiting and request is not None and recorded.event.type == request.event.type:
            display.note(waiting.pop())
        observe(recorded)

    return told


def _check(request: Request) -> None:
    if request.problem is not None:
        what = f"run {request.run_id} refused it: {request.problem}"
        hint = f"`planner runs show {request.run_id}` says what it waits for."
        raise UserError("U-432", what, hint=hint, error_class="conflict")


def _parent(options: Options, display: Display, code: int) -> int:
    """Goes on with the run that waits for this one, unless somebody else does."""
    run = display.watch.run
    if run is None or run.finished is None or run.started.parent is None:
        return code
    parent = asyncio.run(record(options, run.started.parent.run_id))
    if parent.summary.is_live or parent.run.finished is not None:
        return code
    terminal.say(f"going on with {parent.run.id}: {line(parent.run.started.goal, 80)}")
    try:
        return carry_on(options, parent, is_resumed=False)
    except JournalError as error:
        if error.code != "J-103":
            raise
        return code


def check_assistant(options: Options, run: Run) -> None:
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
