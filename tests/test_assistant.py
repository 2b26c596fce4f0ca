"""An assistant as those who embed it use it: goals, plans, streams, resumes, money, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from inspect import currentframe
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import pytest

from planner import Assistant, JournalError, ModelError, Plan, Recorded, ScriptedModel, UserError, run_sync, tool
from planner.assistant import DEFAULT_POLICY, MAX_GOAL, Result
from planner.config import Config, Limits, Models, reference
from planner.core.events import PlannerFailed, PlanProposed, PlanRejected, RunStarted, StepSucceeded, Usage
from planner.core.state import fold
from planner.llm.model import AnswerError, Ask, Completion, Profile
from planner.tools import Toolbox

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0
"""Beyond this a test hangs."""


@tool(name="desk.hold", effect="write", control={}, resource=(), on_doubt="idempotent")
async def hold(seconds: float) -> str:
    """Hold for so long."""
    await asyncio.sleep(seconds)
    return "held"


BOX = Toolbox.load(reference() / "tools", only=["files.*", "text.*"]).merged(Toolbox.of(hold))


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    known = {key: fields.pop(key) for key in [*fields] if key in {"for_each", "after", "on_error"}}
    return {"id": id_, "use": use, "args": fields} | known


def planned(*steps: dict[str, Any], answer: Any = None) -> str:
    return json.dumps({"steps": steps, "answer": answer})


def plan_of(*steps: dict[str, Any], answer: Any = None) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": answer})


COUNT = step("s1", "text.count", text="a b c")
COUNTED = planned(COUNT, answer="$s1")
WRITE = step("s1", "files.write", path="a.txt", text="a")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def opened(files: Path, *answers: Any, cost_usd: float | None = 0.0, model: Any = None, **options: Any) -> Assistant:
    """An assistant whose model gives these answers, with its state beside the files."""
    return Assistant(
        options.pop("tools", BOX),
        model=model or ScriptedModel(answers, cost_usd=cost_usd),
        workspace=files,
        state=options.pop("state", files.parent / "state"),
        environ={},
        **options,
    )


def ran(work: Coroutine[Any, Any, T]) -> T:
    async def patient() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return run_sync(patient())


def after(assistant: Assistant, work: Callable[[Assistant], Coroutine[Any, Any, T]]) -> T:
    """What the work gives; then the assistant is closed."""

    async def whole() -> T:
        async with assistant:
            return await work(assistant)

    return ran(whole())


def result(files: Path, *answers: Any, goal: str = "Count the words", **options: Any) -> Result:
    return after(opened(files, *answers, **options), lambda a: a.run(goal))


# goals ------------------------------------------------------------------------------------------------------------


def test_a_goal_is_planned_done_and_explained(files: Path) -> None:
    seen: list[Recorded] = []
    model = ScriptedModel([COUNTED], cost_usd=0.25)
    found = after(opened(files, model=model), lambda a: a.run(" Count the words ", observe=seen.append))
    assert (found.status, found.value, found.is_ok, found.fault) == ("unverified", 3, True, None)
    assert (found.cost_usd, found.tokens > 10, found.seconds > 0) == (0.25, True, True)
    started = seen[0].event
    assert isinstance(started, RunStarted)
    assert (started.goal, started.setup.model, started.setup.workspace) == ("Count the words", "scripted", str(files))
    assert [recorded.run_seq for recorded in seen] == [*range(1, len(seen) + 1)]
    assert len(model.asks) == 1


def test_a_plan_of_ones_own_needs_no_model(files: Path) -> None:
    async def work(assistant: Assistant) -> Result:
        return await assistant.run("Write it", plan=plan_of(WRITE))

    assert after(opened(files, model="no/model"), work).status == "unverified"
    assert (files / "a.txt").read_text() == "a"


def test_a_plan_of_ones_own_that_cannot_be_is_refused_and_no_planner_is_asked(files: Path) -> None:
    found = after(opened(files), lambda a: a.run("x", plan=plan_of(step("s1", "no.tool"))))
    assert found.fault
    assert (found.status, found.fault.code) == ("failed", "P-108")


@pytest.mark.parametrize(("goal", "code"), [("", "U-302"), (" \n", "U-302"), ("x" * (MAX_GOAL + 1), "U-303")])
def test_a_goal_that_is_none_begins_no_run(files: Path, goal: str, code: str) -> None:
    async def work(assistant: Assistant) -> None:
        with pytest.raises(UserError, match=code):
            await assistant.run(goal)
        assert await assistant.journal.runs() == ()

    after(opened(files), work)


@pytest.mark.parametrize("goal", [f"Read {'x' * 300}.txt", "Read a\0b.txt", "Read locked/a.txt", "x" * MAX_GOAL])
def test_a_goal_may_name_what_no_file_can_be_called(files: Path, goal: str) -> None:
    (files / "locked").mkdir(mode=0o000)
    assert result(files, COUNTED, COUNTED, COUNTED, COUNTED, goal=goal).status in {"failed", "unverified"}
    (files / "locked").chmod(0o700)


def test_a_workspace_that_is_missing_or_a_file_is_refused(files: Path) -> None:
    (files / "a.txt").touch()
    for place in ("missing", "a.txt"):
        with pytest.raises(UserError, match="U-106"):
            opened(files / place)


def test_without_a_model_no_run_begins(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.llm.choose.SERVERS", ())
    monkeypatch.setattr("planner.llm.weights.find", lambda _: None)
    assistant = Assistant(BOX, workspace=files, state=files.parent / "state", environ={})

    async def work(assistant: Assistant) -> None:
        with pytest.raises(ModelError, match="M-150"):
            await assistant.run("Count the words")
        assert await assistant.journal.runs() == ()

    after(assistant, work)


def test_a_file_that_the_goal_wants_written_must_be_written(files: Path) -> None:
    write = planned(step("s1", "files.write", path="sum.txt", text="3"))
    assert result(files, write, goal="Write 3 to sum.txt").status == "completed"
    empty = planned(step("s1", "files.write", path="sum.txt", text=""))
    assert result(files, *[empty] * 12, goal="Write nothing but an empty text to sum.txt").status != "completed"


@pytest.mark.parametrize(("success", "status"), [("${answer == 3}", "completed"), ("${answer == 4}", "rejected")])
def test_success_may_be_an_expression(files: Path, success: str, status: str) -> None:
    settings = Config(policy=DEFAULT_POLICY, limits=Limits(replans=0))
    assistant = opened(files, COUNTED, settings=settings)
    assert after(assistant, lambda a: a.run("Count the words", success=success)).status == status


@pytest.mark.parametrize(("can_judge", "status"), [(True, "completed"), (False, "unverified")])
def test_text_is_judged_only_by_a_model_that_is_able_to_also_where_the_plan_is_ones_own(
    files: Path, can_judge: bool, status: str
) -> None:
    model = ScriptedModel(['{"is_met": true}'], profile=Profile(can_judge=can_judge))
    assistant = opened(files, model=model)
    found = after(assistant, lambda a: a.run("Count", success="It is three", plan=plan_of(COUNT)))
    assert (found.status, len(model.asks)) == (status, int(can_judge))


def test_run_sync_inside_a_loop_is_an_error_that_says_what_to_do(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        with pytest.raises(UserError, match="U-301.*await"):
            run_sync(assistant.run("Count the words"))

    after(opened(files), work)


# plans, streams, resumes ------------------------------------------------------------------------------------------


def test_a_plan_can_be_looked_at_before_it_is_carried_out(files: Path) -> None:
    async def work(assistant: Assistant) -> Result:
        run = await assistant.plan("Write a to a.txt")
        assert run.phase == "executing"
        assert run.certificate
        assert run.certificate.effects == ("s1: write files.write(path=a.txt)",)
        assert not (files / "a.txt").exists()
        return await assistant.resume(run.id)

    assert after(opened(files, planned(WRITE)), work).status == "completed"
    assert (files / "a.txt").read_text() == "a"


def test_a_stream_gives_every_event_and_ends_with_the_run(files: Path) -> None:
    async def work(assistant: Assistant) -> list[Recorded]:
        seen = [recorded async for recorded in assistant.stream("Count the words")]
        assert tuple(seen) == await assistant.journal.read(seen[0].run_id)
        return seen

    seen = after(opened(files, COUNTED), work)
    assert seen[-1].event.type == "RunFinished"


def test_a_stream_raises_what_the_run_raises(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        with pytest.raises(UserError, match="U-302"):
            _ = [recorded async for recorded in assistant.stream("")]

    after(opened(files), work)


def test_a_stream_that_is_left_stops_the_run_which_can_be_resumed(files: Path) -> None:
    async def work(assistant: Assistant) -> Result:
        stream = assistant.stream("x", plan=plan_of(step("s1", "desk.hold", seconds=0.2)), run_id="run")
        async for recorded in stream:
            if recorded.event.type == "StepStarted":
                break
        await stream.aclose()
        assert not (await assistant.journal.runs())[0].is_live
        return await assistant.resume("run")

    assert after(opened(files, policy=None, tools=BOX), work).status in {"unverified", "waiting"}


def test_a_finished_run_gives_its_result_again_and_asks_nobody(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        first = await assistant.run("Count the words")
        assert await assistant.resume(first.run_id) == first
        assert len(await assistant.journal.read(first.run_id)) == len(fold_types(await assistant.journal.read(first.run_id)))

    after(opened(files, COUNTED), work)


def fold_types(history: tuple[Recorded, ...]) -> list[str]:
    return [recorded.event.type for recorded in history if recorded.event.type != "RunResumed"]


def test_a_run_that_is_live_unknown_or_there_already_is_refused(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        running = asyncio.create_task(assistant.run("x", plan=plan_of(HOLD), run_id="live"))
        while not await assistant.journal.runs():
            await asyncio.sleep(0.01)
        for refused, code in (
            (assistant.resume("live"), "J-103"),
            (assistant.resume("unknown"), "J-102"),
            (assistant.run("x", plan=plan_of(COUNT), run_id="live"), "J-101"),
        ):
            with pytest.raises(JournalError, match=code):
                await refused
        running.cancel()
        await asyncio.wait([running])

    after(opened(files), work)


HOLD = step("s1", "agent.writer", task="x")


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_damaged_record_is_refused_and_stays_free_for_who_puts_it_right(files: Path, is_finished: bool) -> None:
    steps = [WRITE] if is_finished else [step("s1", "desk.ask", who="x")]
    path = files.parent / "state" / "journal.db"

    async def work(assistant: Assistant) -> None:
        run = await assistant.plan("Write a to a.txt")
        if is_finished:
            await assistant.resume(run.id)
        with sqlite3.connect(path) as db:
            (kept,) = db.execute("SELECT body FROM events WHERE run_seq = 1").fetchone()
            db.execute("UPDATE events SET body = ? WHERE run_seq = 1", (b"{}",))
        db.close()
        for _ in range(2):
            with pytest.raises(JournalError, match="J-301"):
                await assistant.resume(run.id)
        with sqlite3.connect(path) as db:
            db.execute("UPDATE events SET body = ? WHERE run_seq = 1", (kept,))
        db.close()
        assert (await assistant.resume(run.id)).status == "completed"

    assert steps
    after(opened(files, planned(WRITE)), work)


def test_a_run_that_somebody_finished_in_between_gets_no_event_after_its_last(files: Path) -> None:
    """Two processes resume one run; the second reads it before the first is done, and owns it afterwards."""

    async def work(assistant: Assistant) -> None:
        run = await assistant.plan("Write a to a.txt")
        other = opened(files, planned(WRITE))
        acquire = assistant.journal.acquire

        async def late(run_id: str, owner: str) -> Any:
            async with other:
                await other.resume(run_id)
            return await acquire(run_id, owner)

        assistant.journal.acquire = late  # type: ignore[method-assign]
        assert (await assistant.resume(run.id)).status == "completed"
        assert fold(await assistant.journal.read(run.id)).status == "completed"

    after(opened(files, planned(WRITE)), work)
