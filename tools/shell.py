"""Shell: run, in a sandbox."""

from __future__ import annotations

from planner.tools import ToolContext, sandboxed, tool


@tool(
    effect="execute",
    resource=(),
    control={"argv": "trusted"},
    on_doubt="idempotent",
    keywords=("command", "program", "execute", "terminal", "bash"),
)
async def run(argv: list[str], context: ToolContext, text: str = "") -> str:
    """Run a command in a sandbox and give its output."""
    return await sandboxed(argv, stdin=text, workspace=context.workspace)
