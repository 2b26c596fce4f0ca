"""Rehearsals: what only looks is done, and nothing is changed. Tools, journal and files are real."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planner import config
from planner.assistant import Assistant
from planner.core.events import Recorded
from planner.core.plan import Plan
from planner.core.state import fold
from planner.rehearsal import is_rehearsal, rehearsed
from planner.results import Result
from planner.tools import Toolbox


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": fields.pop("args", {}), **fields}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha\n")
    return folder


def opened(files: Path, **options: Any) -> Assistant:
    tools = Toolbox.load(config.reference() / "tools")
    settings = config.load(config.reference(), {})
    return Assistant(tools, workspace=files, state=files.parent / "state", settings=settings, **options)


def rehearse(files: Path, *steps: dict[str, Any], **options: Any) -> tuple[Result, list[Recorded]]:
    seen: list[Recorded] = []
    answer = [f"${one['id']}" for one in steps]
    plan = Plan.model_validate({"steps": steps, "answer": answer})

    async def work() -> Result:
        async with opened(files, **options) as assistant:
            return await assistant.rehearse("Do it", plan=plan, observe=seen.append)

    return asyncio.run(work()), seen


def test_what_changes_something_is_told_and_not_done(files: Path) -> None:
    result, seen = rehearse(files, step("s1", "files.write", args={"path": "b.txt", "text": "beta"}))
    run = fold(seen)
    assert (result.status, result.value) == ("unverified", ["b.txt"])
    assert not (files / "b.txt").exists()
    assert is_rehearsal(run.id)
    assert list(rehearsed(run)) == ["s1"]


def test_what_only_looks_is_done_unless_a_rehearsed_call_would_have_changed_it(files: Path) -> None:
    result, _ = rehearse(
        files,
        step("s1", "files.read", args={"path": "a.txt"}),
        step("s2", "files.append", args={"path": "a.txt", "text": "more"}),
        step("s3", "files.read", args={"path": "a.txt"}),
        step("s4", "files.list", args={"folder": "."}),
        step("s5", "text.count", args={"text": "$s1"}),
    )
    assert result.value == ["alpha\n", "a.txt", "<what files.read would give>", ["<what files.list would give>"], 1]
    assert (files / "a.txt").read_text() == "alpha\n"


def test_nobody_is_asked_and_nobody_waits(files: Path) -> None:
    result, _ = rehearse(
        files,
        step("s1", "human.user", args={"question": "Which?", "choices": ["red", "green"]}),
        step("s2", "human.user", args={"question": "How many?", "type": "integer"}),
        step("s3", "gate.approve", args={"what": "Go on?"}),
        step("s4", "wait.until", args={"seconds": 100_000}),
        step("s5", "wait.event", args={"name": "paid", "match": {"amount": 3}}),
    )
    assert result.status == "unverified"
    red, number, approved, _, paid = result.value if isinstance(result.value, list) else []
    assert (red, number, approved, paid) == ("red", 0, True, {"amount": 3})


def test_what_would_really_look_outside_is_denied_where_nobody_is_there_to_allow_it(files: Path) -> None:
    result, _ = rehearse(files, step("s1", "web.fetch", args={"url": "http://127.0.0.1:9/x"}))
    assert result.status == "denied"


def test_a_rehearsal_stays_one_when_it_is_gone_on_with_undone_or_forked(files: Path) -> None:
    write = step("s1", "files.write", args={"path": "b.txt", "text": "beta"})

    async def work() -> tuple[str, str]:
        async with opened(files) as assistant:
            plan = Plan.model_validate({"steps": [write]})
            result = await assistant.rehearse("Do it", plan=plan)
            fork_id = await assistant.fork(result.run_id, at=2)
            return fork_id, (await assistant.resume(fork_id)).status

    fork_id, status = asyncio.run(work())
    assert (is_rehearsal(fork_id), status) == (True, "unverified")
    assert not (files / "b.txt").exists()
