"""Python: run, in a sandbox."""

from __future__ import annotations

import json

from planner.tools import Json, ToolContext, interpreter, sandboxed, tool


@tool(
    effect="execute",
    resource=(),
    control={"program": "trusted"},
    on_doubt="idempotent",
    keywords=("script", "code", "program", "compute", "calculate", "simulate"),
)
async def run(program: str, context: ToolContext, data: Json = None) -> str:
    """Run a Python program in a sandbox and give what it prints."""
    argv = [str(interpreter()), "-I", "-c", program]
    return await sandboxed(argv, stdin=json.dumps(data), workspace=context.workspace)
