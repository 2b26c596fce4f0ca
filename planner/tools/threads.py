"""Ordinary functions as awaitables, each in a thread of its own, so that one that hangs holds up no other.

Rules of the file:
- There is no pool: what a pool bounds, a few calls that never end use up, and lookups of hosts with them.
- The threads are daemons: one that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from planner.errors import ToolError

R = TypeVar("R")


async def in_thread(function: Callable[[], R], *, name: str) -> R:
    """What `function` returns or raises, called in a new thread called `name` that sees the caller's context.

    Nothing can stop a thread: where the caller is cancelled the function goes on, and its result is dropped.
    Raises `ToolError` T-209 if there is no room for one more thread; then nothing was called.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    outcome: Future[R] = Future()
    ended = asyncio.Event()

    def run() -> None:
        try:
            outcome.set_result(context.run(function))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the call is awaited
            outcome.set_exception(error)
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        what = f"there is no room for one more thread to call `{name}`: {threading.active_count()} are alive"
        hint = "Calls that hang keep their threads: give whatever they wait for a time limit of its own."
        raise ToolError("T-209", what, hint=hint, error_class="unavailable") from error
    await ended.wait()
    return outcome.result()
