"""An assistant as those who embed it use it: goals, plans, streams, resumes, money, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from planner import (
    Assistant,
    JournalError,
    ModelError,
    Plan,
    Policy,
    Recorded,
    Rule,
    ScriptedModel,
    UserError,
    run_sync,
    tool,
)
from planner.assistant import DEFAULT_POLICY
from planner.config import Ability, Config, Limits, Models, reference
from planner.core.events import RunStarted
from planner.core.state import fold
from planner.goals import MAX_GOAL
from planner.journal import Lease
from planner.llm.choose import choose
from planner.llm.model import Ask, Model, Profile
from planner.llm.pool import Pool
from planner.results import Result
from planner.tools import Toolbox

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0
"""Beyond this a test hangs."""


@tool(name="desk.hold", effect="write", control={}, resource=(), on_doubt="idempotent")
async def hold(seconds: float) -> str:
    """Hold for so long."""
    await asyncio.sleep(seconds)
    return "held"


ALLOW = Policy(rules=(Rule(id="all", then="allow"),))
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


def opened(files: Path, *answers: Any, model: Any = None, **options: Any) -> Assistant:
    """An assistant whose model gives these answers, with its state beside the files."""
    return Assistant(
        options.pop("tools", BOX),
        model=model or ScriptedModel(answers, cost_usd=0.0),
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
    monkeypatch.setattr("planner.llm.pool.choose", partial(choose, servers=()))
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
        with pytest.raises(UserError, match=r"U-301.*await"):
            run_sync(assistant.run("Count the words"))

    after(opened(files), work)


# plans, streams, resumes ------------------------------------------------------------------------------------------


def test_a_plan_can_be_looked_at_before_it_is_carried_out(files: Path) -> None:
    async def work(assistant: Assistant) -> Result:
        run = await assistant.plan("Write a to a.txt")
        assert run.phase == "executing"
        assert run.certificate
        assert [(one.step, one.callee, one.control) for one in run.certificate.effects] == [
            ("s1", "files.write", {"path": "a.txt"})
        ]
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
        stream = assistant.stream("Write", plan=plan_of(step("s1", "desk.hold", seconds=0.5)), run_id="run")
        async for recorded in stream:
            if recorded.event.type == "StepStarted":
                break
        await stream.aclose()
        (left,) = await assistant.journal.runs()
        assert (left.status, left.is_live) == ("running", False)
        return await assistant.resume("run")

    assert after(opened(files, policy=ALLOW), work).value == "held"


def test_a_finished_run_gives_its_result_again_and_gets_no_event(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        first = await assistant.run("Count the words")
        history = await assistant.journal.read(first.run_id)
        assert await assistant.resume(first.run_id) == first
        assert await assistant.journal.read(first.run_id) == history

    after(opened(files, COUNTED), work)


def test_a_run_that_is_live_unknown_or_there_already_is_refused(files: Path) -> None:
    async def work(assistant: Assistant) -> None:
        stream = assistant.stream("x", plan=plan_of(step("s1", "desk.hold", seconds=PATIENCE_S)), run_id="live")
        async for _ in stream:
            break
        with pytest.raises(JournalError, match="J-103"):
            await assistant.resume("live")
        with pytest.raises(JournalError, match="J-101"):
            await assistant.run("x", plan=plan_of(COUNT), run_id="live")
        with pytest.raises(JournalError, match="J-102"):
            await assistant.resume("unknown")
        await stream.aclose()

    after(opened(files, policy=ALLOW), work)


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_damaged_record_is_refused_and_stays_free_for_who_puts_it_right(files: Path, is_finished: bool) -> None:
    def stored(body: bytes) -> bytes:
        """The first event's content until now."""
        with closing(sqlite3.connect(files.parent / "state" / "journal.db")) as db, db:
            (before,) = db.execute("SELECT body FROM events WHERE run_seq = 1").fetchone()
            db.execute("UPDATE events SET body = ? WHERE run_seq = 1", (body,))
        return bytes(before)

    async def work(assistant: Assistant) -> None:
        run = await assistant.plan("Write a to a.txt")
        if is_finished:
            await assistant.resume(run.id)
        body = stored(b"{}")
        for _ in range(2):
            with pytest.raises(JournalError, match="J-301"):
                await assistant.resume(run.id)
        stored(body)
        assert (await assistant.resume(run.id)).status == "completed"

    after(opened(files, planned(WRITE)), work)


def test_a_run_that_another_process_finishes_before_it_is_ours_gets_no_event_after_its_last(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(assistant: Assistant) -> None:
        run = await assistant.plan("Write a to a.txt")
        acquire = assistant.journal.acquire

        async def late(run_id: str, owner: str) -> Lease:
            async with opened(files) as other:
                await other.resume(run_id)
            return await acquire(run_id, owner)

        monkeypatch.setattr(assistant.journal, "acquire", late)
        assert (await assistant.resume(run.id)).status == "completed"
        assert fold(await assistant.journal.read(run.id)).status == "completed"

    after(opened(files, planned(WRITE)), work)


def test_an_observer_that_fails_at_once_leaves_the_run_to_others(files: Path) -> None:
    def observe(_: Recorded) -> None:
        raise OSError("the pipe is broken")

    async def work(assistant: Assistant) -> Result:
        with pytest.raises(OSError, match="pipe"):
            await assistant.run("Count the words", run_id="run", observe=observe)
        return await assistant.resume("run")

    assert after(opened(files, COUNTED), work).value == 3


def test_a_cancelled_run_ends_as_cancelled_and_its_journal_can_be_read(files: Path) -> None:
    async def work(assistant: Assistant) -> Result:
        stream = assistant.stream("x", plan=plan_of(step("s1", "files.write", path="a.txt", text="a"), HOLD))
        async for recorded in stream:
            if recorded.event.type == "RunStarted":
                await assistant.cancel(recorded.run_id)
                with pytest.raises(JournalError, match="J-102"):
                    await assistant.cancel("unknown")
        return await assistant.resume(recorded.run_id)

    assert after(opened(files, policy=ALLOW), work).status == "cancelled"


HOLD = step("s2", "desk.hold", seconds=0.01)


def test_a_page_that_was_fetched_is_in_the_journal_when_it_is_opened_again(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web_only = Toolbox.load(reference() / "tools", only=["web.*"])
    http = f"{web_only.tools['web.fetch'].function.__module__.rpartition('.')[0]}._http"

    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html><body><p>A page</p></body></html>", content_type="text/html")

    async def work(assistant: Assistant) -> Result:
        runner = web.ServerRunner(web.Server(page))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        plan = plan_of(step("s1", "web.fetch", url=f"http://127.0.0.1:{runner.addresses[0][1]}/"))
        refused = await assistant.run("Fetch it", plan=plan)
        assert (refused.status, refused.fault and refused.fault.error_class) == ("denied", "denied")
        download = import_module(http).download
        monkeypatch.setattr(f"{http}.download", partial(download, allowed=lambda *_: True))
        found = await assistant.run("Fetch it", plan=plan)
        await runner.cleanup()
        return found

    found = after(opened(files, tools=web_only, policy=ALLOW), work)
    assert found.value == "A page"
    assert after(opened(files, tools=web_only, policy=ALLOW), lambda a: a.resume(found.run_id)) == found


# side by side -----------------------------------------------------------------------------------------------------


def test_several_runs_of_one_assistant_go_on_at_once(files: Path) -> None:
    def answer(ask: Ask) -> str:
        name = ask.messages[-1].content.partition("Goal: Write ")[2].split()[0]
        return planned(step("s1", "files.write", path=f"{name}.txt", text=name), answer="$s1")

    async def work(assistant: Assistant) -> list[Result]:
        return await asyncio.gather(*(assistant.run(f"Write {name} down") for name in "abcdefgh"))

    found = after(opened(files, model=ScriptedModel(answer)), work)
    assert [one.value for one in found] == [f"{name}.txt" for name in "abcdefgh"]
    assert len({one.run_id for one in found}) == 8


def test_two_assistants_of_one_process_share_nothing_but_the_state_they_both_name(files: Path) -> None:
    other = files.parent / "other"
    other.mkdir()

    async def work(first: Assistant) -> None:
        model = ScriptedModel([planned(step("s1", "desk.hold", seconds=0), answer="$s1")])
        settings = Config(policy=ALLOW)
        async with opened(other, model=model, tools=Toolbox.of(hold), settings=settings) as second:
            one, two = await asyncio.gather(first.run("Count the words"), second.run("Hold on"))
            assert (one.value, two.value) == (3, "held")
            assert "files.read" not in second.catalogue
            assert await second.journal.runs() == await first.journal.runs()
            assert await second.resume(one.run_id) == one

    after(opened(files, COUNTED), work)


def test_roles_may_have_models_of_their_own_and_each_choice_has_a_reason() -> None:
    able = {"openai/a": Ability(can_judge=False)}
    settings = Models(default=("openai/a",), roles={"writer": ("groq/b",)}, profiles=able)

    async def work() -> None:
        pool = Pool(settings, environ={})
        planner, writer = [await pool.of(role) for role in ("planner", "writer")]
        assert (planner.name, planner.profile.can_judge) == ("openai/a", False)
        assert (writer.name, writer.profile.can_judge) == ("groq/b", True)
        assert "leaves this machine" in str(pool.choices["groq/b"])
        await pool.close()

    ran(work())


@pytest.mark.parametrize(
    ("offline", "answer", "code"), [("", None, "M-151"), ("0", False, "M-202"), ("1", True, "M-203")]
)
def test_nothing_is_downloaded_without_consent_or_where_that_is_forbidden(
    monkeypatch: pytest.MonkeyPatch, offline: str, answer: bool | None, code: str
) -> None:
    monkeypatch.setattr("planner.llm.weights.find", lambda *_, **__: None)
    consent = None if answer is None else lambda _: answer
    pool = Pool(Models(), named="local", environ={"PLANNER_OFFLINE": offline}, consent=consent)
    with pytest.raises(ModelError, match=code):
        ran(pool.of("planner"))


class Sticky(ScriptedModel):
    """A model that cannot be closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1
        raise OSError("stuck")


def test_all_models_are_closed_also_where_closing_one_fails() -> None:
    models = {"a": Sticky([]), "b": Sticky([])}

    class Given(Pool):
        async def _reached(self, wanted: str) -> Model:
            return models[wanted]

    async def work() -> None:
        pool = Given(Models(default=("a",), roles={"writer": ("b",)}), environ={})
        found = [await pool.of(role) for role in ("planner", "writer", "planner")]
        assert found == [models["a"], models["b"], models["a"]]
        for _ in range(2):
            with suppress(OSError):
                await pool.close()

    ran(work())
    assert [model.closed for model in models.values()] == [1, 1]


# how it is built --------------------------------------------------------------------------------------------------


def test_to_import_it_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import planner; planner.Assistant; planner.run_sync"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "planner" in imported
    assert not imported & {"litellm", "chromadb", "opentelemetry", "instructor", "openai", "polars"}
