"""What stops a run, or a part of it, and how soon. Tools, threads and journal are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from planner import Assistant, Plan, Policy, Principal, Recorded, Rule, ScriptedModel, ToolContext, tool
from planner.core.replay import replayed
from planner.core.state import fold

T = TypeVar("T")
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
PATIENCE_S = 120.0
"""Beyond this a test hangs."""


@tool(name="desk.wait", effect="write", control={}, resource=("desk:{who}",))
async def wait(who: str, seconds: float) -> str:
    """Wait so long."""
    await asyncio.sleep(seconds)
    return who


@tool(name="desk.cling", effect="write", control={}, resource=("desk:cling",), timeout_s=60.0)
async def cling(context: ToolContext) -> str:
    """Write once there is a file `go`, whoever says to stop."""
    gives_up_at = time.monotonic() + PATIENCE_S
    while not (context.workspace / "go").exists() and time.monotonic() < gives_up_at:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
    (context.workspace / "ended").touch()
    return "written"


@tool(name="desk.cling_on", effect="write", control={}, resource=("desk:cling",), timeout_s=0.05, on_doubt="ask")
async def cling_on(context: ToolContext) -> str:
    """Write once there is a file `go`, whatever the time limit."""
    return await cling(context)


def step(id_: str, use: str, **args: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": args}


def plan(*steps: dict[str, Any]) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": [f"${one['id']}" for one in steps]})


WAITING = plan(step("s1", "desk.wait", who="x", seconds=PATIENCE_S))


def opened(place: Path, **options: Any) -> Assistant:
    given = {"model": ScriptedModel([])} | options
    return Assistant([wait, cling, cling_on], policy=POLICY, workspace=place, state=place, environ={}, **given)


def with_desk(place: Path, work: Callable[[Assistant], Coroutine[Any, Any, T]], **options: Any) -> T:
    async def patient() -> T:
        async with asyncio.timeout(PATIENCE_S), opened(place, **options) as assistant:
            return await work(assistant)

    return asyncio.run(patient())


async def seen(assistant: Assistant, kind: str, run_id: str = "run") -> None:
    """Waits until the run has such an event."""
    while run_id not in {one.run_id for one in await assistant.journal.runs()}:  # noqa: ASYNC110 - it is about to be
        await asyncio.sleep(0.01)
    async for recorded in assistant.journal.subscribe(run_id):
        if recorded.event.type == kind:
            return


# tools that do not stop ---------------------------------------------------------------------------------------------


async def ended(place: Path) -> None:
    """Lets the tool go that does not stop, and waits for its end."""
    (place / "go").touch()
    while not (place / "ended").exists():  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


def test_a_tool_that_does_not_stop_is_left_behind_and_its_answer_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.tools.toolbox.STOPPED_S", 0.1)

    async def work(assistant: Assistant) -> None:
        assistant._runner._outside = lambda run, told: replace(assistant._outside(run, told), grace_s=0.1)
        running = asyncio.create_task(assistant.run("Cling", plan=plan(step("s1", "desk.cling")), run_id="run"))
        await seen(assistant, "StepStarted")
        await assistant.cancel("run")
        result = await running
        assert not (tmp_path / "ended").exists()
        assert (result.status, [one.path for one in result.left]) == ("cancelled", ["s1"])
        before = await assistant.journal.read("run")
        assert "StepInDoubt" in [one.event.type for one in before]
        await ended(tmp_path)
        assert await assistant.journal.read("run") == before

    with_desk(tmp_path, work)


def test_a_time_limit_holds_also_for_a_tool_that_does_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.tools.toolbox.STOPPED_S", 0.1)

    async def work(assistant: Assistant) -> None:
        result = await assistant.run("Cling", plan=plan(step("s1", "desk.cling_on")), run_id="run")
        assert (result.status, (tmp_path / "ended").exists()) == ("waiting", False)
        await ended(tmp_path)
        assert fold(await assistant.journal.read("run")).step("s1").question == "happened"

    with_desk(tmp_path, work)


# times --------------------------------------------------------------------------------------------------------------


def test_a_wait_lasts_until_its_time_although_the_clock_is_set_back_meanwhile(tmp_path: Path) -> None:
    back = timedelta()

    async def work(assistant: Assistant) -> None:
        nonlocal back
        timed = plan(step("s1", "wait.until", seconds=0.3))
        running = asyncio.create_task(assistant.run("Wait", plan=timed, run_id="run"))
        await seen(assistant, "WaitStarted")
        back = timedelta(seconds=0.5)
        assert (await running).status == "unverified"
        history = await assistant.journal.read("run")
        assert replayed(history) == ()
        (begun, fired) = (one.at for one in history if one.event.type in {"WaitStarted", "TimerFired"})
        assert fired - begun >= timedelta(seconds=0.3)

    with_desk(tmp_path, work, clock=lambda: datetime.now(UTC) - back)


# observers that raise -----------------------------------------------------------------------------------------------


def breaking_at(kind: str) -> Callable[[Recorded], None]:
    def observe(recorded: Recorded) -> None:
        if recorded.event.type == kind:
            raise OSError("the pipe is broken")

    return observe


def test_an_observer_that_raises_when_a_run_is_cancelled_stops_it_at_once(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        assistant._runner._outside = lambda run, told: replace(assistant._outside(run, told), grace_s=PATIENCE_S)
        observe = breaking_at("CancelRequested")
        running = asyncio.create_task(assistant.run("Wait", plan=WAITING, run_id="run", observe=observe))
        await seen(assistant, "StepStarted")
        began = time.monotonic()
        with pytest.raises(OSError, match="pipe"):
            await assistant.cancel("run")
        with pytest.raises(OSError, match="pipe"):
            await running
        assert time.monotonic() - began < PATIENCE_S / 4
        assert (await assistant.resume("run")).status == "cancelled"

    with_desk(tmp_path, work)


def test_an_observer_that_raises_while_a_run_is_being_stopped_is_heard(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        two = plan(
            *(step(f"s{n}", "desk.wait", who=f"{n}", seconds=seconds) for n, seconds in ((1, PATIENCE_S), (2, 0.1)))
        )
        started = await assistant._started("Wait", Principal(), success=None, plan=two)
        with pytest.raises(OSError, match="pipe"):
            await assistant._runner.begin(
                started,
                "run",
                breaking_at("StepInDoubt"),
                until=lambda run: run.step("s2").status == "succeeded",
            )
        assert fold(await assistant.journal.read("run")).step("s1").status == "in_doubt"

    with_desk(tmp_path, work)
