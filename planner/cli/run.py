"""`planner "goal"`: reach a goal, or only show the plan for it."""

from __future__ import annotations

import asyncio
import sys

from planner.assistant import MAX_GOAL, Assistant
from planner.cli import consent, terminal
from planner.cli.conduct import Observer, display_for, follow, on_ask, opened
from planner.cli.options import Options
from planner.errors import UserError


def run(options: Options) -> int:
    """Reaches the goal in `options.words`; with `--plan-only` or `--dry-run` only its plan is made."""
    goal = _goal(options.words)
    asking = on_ask(options, otherwise="deny")
    is_planning = options.is_plan_only or options.is_dry_run
    display = display_for(options, title=goal, is_planning=is_planning)
    approver = consent.approver(display) if asking == "prompt" else None
    assistant = opened(options, display, asking=asking, approver=approver)

    async def work(observe: Observer) -> None:
        reach = _planned if is_planning else _reached
        await reach(assistant, goal, options.success, observe)

    code = asyncio.run(follow(assistant, display, work, is_planning=is_planning))
    if code == 0 and options.is_dry_run and not options.is_json:
        terminal.say("nothing was run; what a step finds may still change what the later ones do")
    return code


async def _reached(assistant: Assistant, goal: str, success: str | None, observe: Observer) -> None:
    await assistant.run(goal, success=success, observe=observe)


async def _planned(assistant: Assistant, goal: str, success: str | None, observe: Observer) -> None:
    await assistant.plan(goal, success=success, observe=observe)


def _goal(words: tuple[str, ...]) -> str:
    if words != ("-",):
        return " ".join(words)
    if sys.stdin.isatty():
        terminal.say("Write the goal, then press Ctrl-D.")
    try:
        return sys.stdin.buffer.read(4 * MAX_GOAL + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            "U-412", f"the goal on standard input is not UTF-8 text (byte {error.start})", hint="Convert it first."
        ) from error
