"""A pause holds for the runs inside a run as well, and so does its end. Tools and journal are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from planner import Assistant, Plan, Policy, Rule, ScriptedModel, ToolContext, tool
from planner.core.events import CancelRequested, HumanAnswered, PauseLifted, PauseRequested
from planner.core.replay import replayed
from planner.core.run import Run
from planner.core.state import fold

T = TypeVar("T")
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
PATIENCE_S = 120.0
"""Beyond this a test hangs."""


@tool(name="desk.put", effect="write", control={}, resource=("desk:{text}",), on_doubt="idempotent")
async def put(text: str, context: ToolContext) -> str:
    """Write a line once there is a file `go <text>`."""
    note(context.workspace, f"{text} begins")
    while not (context.workspace / f"go {text}").exists():  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)
    note(context.workspace, text)
    return text


@tool(name="desk.think", effect="pure")
async def think(text: str, context: ToolContext) -> str:
    """Write a line, which is known to be no effect, once there is a file."""
    return await put(text, context)


def note(place: Path, text: str) -> None:
    with (place / "lines").open("a") as file:
        file.write(f"{text}\n")


def lines(place: Path) -> list[str]:
    file = place / "lines"
    return file.read_text().splitlines() if file.exists() else []


async def line(place: Path, text: str) -> None:
    while text not in lines(place):  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)


def go(place: Path, *texts: str) -> None:
    for text in texts:
        (place / f"go {text}").touch()


GOAL = {"id": "s1", "use": "plan.goal", "args": {"goal": "Do a part", "allow": ["desk.*", "human.*", "plan.*"]}}
OTHER = {"id": "s2", "use": "desk.think", "args": {"text": "other"}}
PUTS = [
    {"id": "s1", "use": "desk.put", "args": {"text": "a"}},
    {"id": "s2", "use": "desk.put", "args": {"text": "b"}, "after": ["s1"]},
]
ASKS = [
    {"id": "s1", "use": "human.user", "args": {"question": "What?"}},
    {"id": "s2", "use": "desk.put", "args": {"text": "b"}, "after": ["s1"]},
]
DEEP = [GOAL]


def with_desk(place: Path, work: Callable[[Assistant], Coroutine[Any, Any, T]], *parts: list[dict[str, Any]]) -> T:
    async def patient() -> T:
        model = ScriptedModel([json.dumps({"steps": part}) for part in parts])
        async with (
            asyncio.timeout(PATIENCE_S),
            Assistant(
                [put, think], model=model, policy=POLICY, workspace=place, state=place, environ={}
            ) as assistant,
        ):
            done = await work(assistant)
            for one in await assistant.journal.runs():
                assert replayed(await assistant.journal.read(one.run_id)) == ()
            return done

    return asyncio.run(patient())


def begun(assistant: Assistant, *steps: dict[str, Any]) -> asyncio.Task[Any]:
    plan = Plan.model_validate({"steps": steps, "answer": [f"${one['id']}" for one in steps]})
    return asyncio.create_task(assistant.run("Do it", plan=plan, run_id="run"))


async def states(assistant: Assistant) -> list[str]:
    """The status of each run, the outermost first."""
    return [one.status for one in sorted(await assistant.journal.runs(), key=lambda one: len(one.run_id))]


async def paused(assistant: Assistant, count: int) -> None:
    while await states(assistant) != ["paused"] * count:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)


async def child(assistant: Assistant) -> Run:
    (found,) = [one.run_id for one in await assistant.journal.runs() if one.run_id != "run"]
    return fold(await assistant.journal.read(found))


@pytest.mark.parametrize("parts", [(PUTS,), (DEEP, PUTS)])
def test_while_a_run_is_paused_nothing_begins_in_the_runs_inside_it(
    tmp_path: Path, parts: tuple[list[dict[str, Any]], ...]
) -> None:
    async def work(assistant: Assistant) -> None:
        running = begun(assistant, GOAL)
        await line(tmp_path, "a begins")
        await assistant.tell("run", PauseRequested(by="ada"))
        await paused(assistant, len(parts) + 1)
        go(tmp_path, "a", "b")
        assert (await running).status == "paused"
        assert lines(tmp_path) == ["a begins", "a"]
        assert await assistant.wake() == ()
        assert (await assistant.resume("run")).status == "unverified"
        assert lines(tmp_path) == ["a begins", "a", "b begins", "b"]
        assert await states(assistant) == ["unverified"] * (len(parts) + 1)

    with_desk(tmp_path, work, *parts)


def test_a_pause_that_is_lifted_while_the_run_is_live_lets_the_inner_run_go_on(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        running = begun(assistant, {**GOAL, "budget": {"calls": 9}}, OTHER)  # and leaves room for another one
        await line(tmp_path, "a begins")
        await line(tmp_path, "other begins")
        await assistant.tell("run", PauseRequested(by="ada"))
        await paused(assistant, 2)
        go(tmp_path, "a", "b")
        while fold(await assistant.journal.read("run")).step("s1").status != "parked":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await assistant.tell("run", PauseLifted(by="ada"))
        await line(tmp_path, "b")
        assert "other" not in lines(tmp_path)
        go(tmp_path, "other")
        assert (await running).status == "unverified"

    with_desk(tmp_path, work, PUTS)


def test_a_pause_that_is_lifted_before_the_inner_run_stopped_lets_it_go_on(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        running = begun(assistant, GOAL)
        await line(tmp_path, "a begins")
        await assistant.tell("run", PauseRequested(by="ada"))
        await paused(assistant, 2)
        await assistant.tell("run", PauseLifted(by="ada"))
        go(tmp_path, "a", "b")
        assert (await running).status == "unverified"

    with_desk(tmp_path, work, PUTS)


def test_a_process_that_ends_behind_the_end_of_a_pause_leaves_no_inner_run_paused(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        running, journal = begun(assistant, GOAL), assistant.journal
        await line(tmp_path, "a begins")
        await assistant.tell("run", PauseRequested(by="ada"))
        await paused(assistant, 2)
        go(tmp_path, "a", "b")
        assert (await running).status == "paused"
        lease, now = await journal.acquire("run", "another"), datetime.now(UTC)
        lifted = PauseLifted(by="ada")
        await journal.append(lease, len(await journal.read("run")), [lifted], at=now, status="waiting")
        await journal.release(lease, due_at=now)
        assert [one.status for one in await assistant.wake()] == ["unverified"]
        assert await states(assistant) == ["unverified", "unverified"]

    with_desk(tmp_path, work, PUTS)


def test_an_inner_run_that_somebody_paused_stays_so_until_somebody_resumes_it(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        running = begun(assistant, GOAL)
        await line(tmp_path, "a begins")
        inner = (await child(assistant)).id
        await assistant.tell(inner, PauseRequested(by="ada"))
        await assistant.tell("run", PauseRequested(by="ada"))
        go(tmp_path, "a", "b")
        assert (await running).status == "paused"
        assert (await assistant.resume("run")).status == "waiting"
        assert await states(assistant) == ["waiting", "paused"]
        assert (await assistant.resume(inner)).status == "unverified"
        assert await states(assistant) == ["unverified", "unverified"]

    with_desk(tmp_path, work, PUTS)


def test_an_answer_to_an_inner_run_of_a_paused_one_begins_nothing_until_that_is_resumed(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        assert (await begun(assistant, GOAL)).status == "waiting"
        await assistant.tell("run", PauseRequested(by="ada"))
        go(tmp_path, "b")
        inner = (await child(assistant)).id
        said = HumanAnswered(path="s1", answer="value", value="this", by="ada")
        assert (await assistant.tell(inner, said)).status == "paused"
        assert lines(tmp_path) == []
        assert (await assistant.resume("run")).status == "unverified"
        assert lines(tmp_path) == ["b begins", "b"]

    with_desk(tmp_path, work, ASKS)


def test_a_run_that_is_cancelled_while_it_is_paused_cancels_the_run_inside_it(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> None:
        assert (await begun(assistant, GOAL)).status == "waiting"
        await assistant.tell("run", PauseRequested(by="ada"))
        assert (await assistant.tell("run", CancelRequested(by="ada"))).status == "cancelled"
        assert await states(assistant) == ["cancelled", "cancelled"]

    with_desk(tmp_path, work, ASKS)
