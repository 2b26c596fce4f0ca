"""`planner "goal"`: reach a goal, rehearse it, or only show the plan for it."""

from __future__ import annotations

import asyncio
import sys

from planner.cli import plans, questions, terminal
from planner.cli.conduct import Observer, display_for, follow, on_ask, opened
from planner.cli.options import Options
from planner.cli.secrecy import redactor_of
from planner.errors import UserError
from planner.goals import MAX_GOAL, read_attached


def run(options: Options) -> int:
    """Reaches the goal in `options.words`; `--plan-only` only makes its plan, `--dry-run` changes nothing."""
    goal = _goal(options.words)
    plan = plans.read(options.plan) if options.plan is not None else None
    attachments = read_attached(options.attached or ())
    if options.format == "mermaid" and not options.is_plan_only:
        raise UserError("U-402", "`--format mermaid` draws a plan", hint="Use it together with `--plan-only`.")
    asking = on_ask(options, otherwise="deny")
    display = display_for(options, title=redactor_of(options).text(goal), is_planning=options.is_plan_only)
    approver = questions.approver(display) if asking == "prompt" else None
    assistant = opened(options, display, asking=asking, approver=approver)

    async def work(observe: Observer) -> None:
        begin = assistant.rehearse if options.is_dry_run else assistant.run
        begun = assistant.plan if options.is_plan_only else begin
        await begun(goal, success=options.success, plan=plan, attachments=attachments, observe=observe)

    return asyncio.run(follow(assistant, display, work, is_planning=options.is_plan_only))


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
