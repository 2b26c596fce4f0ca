"""Runs that do not go on by themselves, and runs that are parts of others. Models are scripted, all else is real."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from planner import cli, config
from planner.assistant import Assistant
from planner.core.events import PauseRequested
from planner.core.plan import Plan
from planner.llm.model import Profile, ScriptedModel
from planner.llm.pool import Pool
from planner.results import Result
from planner.tools import Toolbox

FETCH = {"steps": [{"id": "s1", "use": "web.fetch", "args": {"url": "http://127.0.0.1:9/x"}}], "answer": "$s1"}


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": fields.pop("args", {}), **fields}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PLANNER_STATE", str(tmp_path / "state"))
    return folder


def begun(files: Path, *steps: dict[str, Any], ago: timedelta = timedelta(), is_paused: bool = False) -> Result:
    """A run of these steps, which began that long ago."""
    plan = Plan.model_validate({"steps": steps, "answer": [f"${one['id']}" for one in steps]})

    async def work() -> Result:
        assistant = Assistant(
            Toolbox.load(config.reference() / "tools"),
            model=ScriptedModel(lambda _: json.dumps(FETCH), profile=Profile(rendering="strict")),
            workspace=files,
            state=files.parent / "state",
            folder=config.reference(),
            settings=config.load(config.reference(), {}),
            clock=lambda: datetime.now(UTC) - ago,
        )
        async with assistant:
            result = await assistant.run("Do it", plan=plan)
            return await assistant.tell(result.run_id, PauseRequested(by="me")) if is_paused else result

    return asyncio.run(work())


def stuck(capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert cli.main(["runs", "list", "--stuck"]) == 0
    return capsys.readouterr().out.splitlines()


ASKED = step("s1", "human.user", args={"question": "Which?"})


def test_a_run_whose_time_has_come_is_to_be_woken(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = begun(files, step("s1", "wait.until", args={"seconds": 3600}), ago=timedelta(hours=3))
    assert stuck(capsys) == [f"{result.run_id}  Do it", "  its time came 2 h 0 min ago", "  planner runs wake"]
    assert cli.main(["runs", "wake"]) == 0
    assert stuck(capsys) == []


def test_a_question_that_nobody_answered_for_days_is_told_with_the_command(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(files, ASKED)
    assert stuck(capsys) == []
    result = begun(files, ASKED, ago=timedelta(days=2))
    assert stuck(capsys) == [
        f"{result.run_id}  Do it",
        "  for 2 days: s1 human.user asks the user: Which?",
        f"  planner runs answer {result.run_id} s1 TEXT",
    ]


def test_a_run_that_was_paused_and_forgotten_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = begun(files, ASKED, ago=timedelta(days=1, hours=1), is_paused=True)
    assert stuck(capsys)[1:] == ["  paused for 1 day", f"  planner runs resume {result.run_id}"]


def test_an_event_that_did_not_come_for_days_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = step("s1", "wait.event", args={"name": "paid", "match": {"amount": 3}})
    result = begun(files, waiting, ago=timedelta(days=2))
    command = f"  planner events send paid --run {result.run_id} --data '{{\"amount\": 3}}'"
    assert stuck(capsys)[2] == command


# parts


def test_a_question_of_a_part_is_answered_by_way_of_the_whole_and_both_go_on(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = {"goal": "Tell me what http://127.0.0.1:9/x says"}
    part = step("s1", "plan.goal", args=goal, on_error={"then": "skip"})
    write = step("s2", "files.write", args={"path": "a.txt", "text": "${s1 ?? 'nothing'}"}, after=["s1"])
    plan = files.parent / "plan.json"
    plan.write_text(json.dumps({"steps": [part, write], "answer": "$s2"}))
    model = ScriptedModel(lambda _: json.dumps(FETCH), profile=Profile(rendering="strict"))

    async def of(_: Pool, __: str, *, cheaper: bool = False) -> ScriptedModel:
        return model

    monkeypatch.setattr(Pool, "of", of)
    assert cli.main(["run", "--on-ask", "wait", "--plan", str(plan), "Do it"]) == 7
    waiting = capsys.readouterr().err
    run_id = waiting.split("run      ")[1].split()[0]
    assert f"    planner runs show {run_id}." in waiting
    assert cli.main(["runs", "show", run_id]) == 0
    assert f"part       {run_id}." in capsys.readouterr().out
    assert cli.main(["runs", "deny", run_id]) == 0
    said = capsys.readouterr().err
    assert f"denied web.fetch at s1 of {run_id}." in said
    assert f"going on with {run_id}: Do it" in said
    assert (files / "a.txt").read_text().strip() == "nothing"
