from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from planner.tools.threads import in_thread

ROOT = Path(__file__).parent.parent
WHO: ContextVar[str] = ContextVar("WHO")


def script(source: str) -> subprocess.CompletedProcess[str]:
    """What a Python of its own says and how it ends, within half a minute."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=300, env=environ, check=False
    )


def test_a_function_runs_in_a_thread_of_its_own_that_sees_the_callers_context() -> None:
    def look() -> tuple[str, str, bool, int]:
        thread = threading.current_thread()
        seen = WHO.get()
        WHO.set("changed")
        return seen, thread.name, thread.daemon, threading.get_ident()

    async def both() -> list[tuple[str, str, bool, int]]:
        WHO.set("me")
        found = [await in_thread(look, name="area.act") for _ in range(2)]
        assert WHO.get() == "me"
        return found

    here = threading.get_ident()
    for seen, name, is_daemon, ident in asyncio.run(both()):
        assert (seen, name, is_daemon) == ("me", "area.act", True)
        assert ident != here


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_function_raises_is_raised_where_it_is_awaited(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def awaited() -> BaseException:
        with pytest.raises(type(error)) as caught:
            await in_thread(fail, name="x")
        return caught.value

    assert asyncio.run(awaited()) is error


def test_the_end_of_an_iterator_does_not_end_the_caller_silently() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(in_thread(lambda: next(iter(())), name="x"))


@pytest.mark.parametrize("is_loop_closed", [True, False])
def test_a_cancelled_call_leaves_its_thread_to_end_by_itself(is_loop_closed: bool) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go_on.wait(120)
        done.set()
        return "too late"

    async def cancelled() -> None:
        call = asyncio.create_task(in_thread(work, name="x"))
        assert await asyncio.to_thread(begun.wait, 120)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        if not is_loop_closed:
            go_on.set()
            assert await asyncio.to_thread(done.wait, 120)
            await asyncio.sleep(0.01)

    asyncio.run(cancelled())
    assert done.is_set() is not is_loop_closed
    go_on.set()
    assert done.wait(120)
    for thread in [thread for thread in threading.enumerate() if thread.name == "x"]:
        thread.join(120)


def test_a_hundred_calls_that_hang_hold_up_neither_the_loop_nor_other_calls_nor_the_end_of_the_process() -> None:
    done = script(
        """
import asyncio, json, socket, threading, time
from pathlib import Path
from planner.tools import Toolbox, ToolContext, tool

@tool(effect="read", resource=())
def hang() -> str:
    "Hang."
    threading.Event().wait()

@tool(effect="read", resource=())
def add(a: int, b: int) -> int:
    "Add."
    return a + b

async def main():
    context = ToolContext(Path(), "key", lambda *_: None, lambda _: None)
    box = Toolbox.of(hang, add)
    calls = [asyncio.create_task(box.call("main.hang", {}, context)) for _ in range(100)]
    while threading.active_count() <= 100:
        await asyncio.sleep(0.01)
    turns, further = [], []
    for _ in range(20):
        began = time.perf_counter()
        await asyncio.sleep(0)
        turns.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert await box.call("main.add", {"a": 1, "b": 2}, context) == 3
        further.append(time.perf_counter() - began)
    await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert not any(call.done() for call in calls)
    print(json.dumps([min(turns), min(further)]))

asyncio.run(main())
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    turn_s, further_s = json.loads(done.stdout)
    assert turn_s < 0.05
    assert further_s < 0.05


def test_a_call_that_no_thread_can_be_had_for_is_refused_before_anything_happens() -> None:
    done = script("""
import asyncio, threading
from planner.errors import ToolError
from planner.tools.threads import in_thread

threading.stack_size(1 << 47)  # more than there is to address
try:
    asyncio.run(in_thread(lambda: print("called"), name="area.act"))
except ToolError as error:
    print(error.code, error.error_class, "area.act" in error.message)
""")
    assert done.stdout == "T-209 unavailable True\n", done.stderr
