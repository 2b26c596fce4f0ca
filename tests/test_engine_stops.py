"""What stops a run, or a part of it, and how soon. Tools, threads and journal are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from planner import Assistant, Plan, Policy, Principal, Recorded, Rule, ScriptedModel, tool
from planner.core.replay import replayed
from planner.core.state import fold

T = TypeVar("T")
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
PATIENCE_S = 20.0
"""Beyond this a test hangs."""


@tool(name="desk.wait", effect="write", control={}, resource=("desk:{who}",))
async def wait(who: str, seconds: float) -> str:
    """Wait so long."""
    await asyncio.sleep(seconds)
    return who


def step(id_: str, use: str, **args: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": args}


def plan(*steps: dict[str, Any]) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": [f"${one['id']}" for one in steps]})


WAITING = plan(step("s1", "desk.wait", who="x", seconds=PATIENCE_S))


def opened(place: Path, **options: Any) -> Assistant:
    given = {"model": ScriptedModel([])} | options
    return Assistant([wait], policy=POLICY, workspace=place, state=place, environ={}, **given)


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
        observe = breaking_at("CancelRequested")
        running = asyncio.create_task(assistant.run("Wait", plan=WAITING, run_id="run", observe=observe))
        await seen(assistant, "StepStarted")
        began = time.monotonic()
        with pytest.raises(OSError, match="pipe"):
            await assistant.cancel("run")
        with pytest.raises(OSError, match="pipe"):
            await running
        assert time.monotonic() - began < 1
        assert (await assistant.resume("run")).status == "cancelled"

    with_desk(tmp_path, work)


def test_an_observer_that_raises_while_a_run_is_being_stopped_is_heard(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        two = plan(*(step(f"s{n}", "desk.wait", who=f"{n}", seconds=seconds) for n, seconds in ((1, 10), (2, 0.1))))
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
