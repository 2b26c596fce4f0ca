"""The picture of a run in rows: blocks, stand-ins, waits, questions, and what is taken back. Tools are real."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from planner import config
from planner.assistant import Assistant
from planner.cli.display import Lines
from planner.cli.ending import ending
from planner.cli.progress import Watch
from planner.cli.rows import Row, rows
from planner.cli.tree import picture
from planner.core.plan import Plan
from planner.tools import Toolbox


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": fields.pop("args", {}), **fields}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def watched(files: Path, *steps: dict[str, Any], then: str = "") -> Watch:
    """What is seen of a run of these steps, and of what is asked of it afterwards."""
    display = Lines()
    plan = Plan.model_validate({"steps": steps, "answer": [f"${one['id']}" for one in steps]})

    async def work() -> None:
        tools = Toolbox.load(config.reference() / "tools")
        settings = config.load(config.reference(), {})
        state = files.parent / "state"
        async with Assistant(tools, workspace=files, state=state, settings=settings) as assistant:
            result = await assistant.run("Do it", plan=plan, observe=display.observe)
            if then == "cancel":
                from planner.core.events import CancelRequested

                await assistant.tell(result.run_id, CancelRequested(by="me"), observe=display.observe)

    asyncio.run(work())
    return display.watch


def shown(watch: Watch) -> dict[str, Row]:
    assert watch.run is not None
    return {row.id: row for row in rows(watch, watch.run.at)}


LOOP = {
    "id": "s1",
    "for_each": [1, 2, 3],
    "do": [
        {"id": "t1", "let": "${item * 2}"},
        {
            "id": "t2",
            "if": "t1 > 2",
            "do": [step("u1", "files.append", args={"path": "log.txt", "text": "${t1}"})],
            "else": [{"id": "u2", "let": "$t1"}],
        },
    ],
}


def test_what_a_block_holds_stands_below_it_with_one_row_for_all_its_items(files: Path) -> None:
    told = shown(watched(files, LOOP))
    assert [(row.label, row.mark) for row in told.values()] == [
        ("plan", "done"),
        ("s1", "done"),
        ("  t1", "done"),
        ("  t2", "done"),
        ("    u1", "done"),
        ("    u2", "done"),
    ]
    assert told["s1"].note == "3/3"
    assert told["u1"].note.startswith("2/2")
    assert told["s1"].call == "block  for each of [1, 2, 3]"


def test_a_branch_that_was_not_taken_is_not_shown_and_one_that_is_still_open_is(files: Path) -> None:
    asked = step("s1", "human.user", args={"question": "Go?", "type": "boolean"})
    block = {"id": "s2", "if": "s1", "do": [{"id": "t1", "let": 1}], "else": [{"id": "u1", "let": 2}]}
    told = shown(watched(files, asked, block))
    assert [row.label for row in told.values()][2:] == ["s2", "  t1", "else", "  u1"]
    decided = shown(watched(files, {"id": "s1", "let": "${1 > 2}"}, block))
    assert "t1" not in decided
    assert decided["u1"].mark == "done"


def test_the_call_in_the_place_of_one_that_failed_has_a_row_of_its_own(files: Path) -> None:
    (files / "b.txt").write_text("beta")
    instead = {"use": "files.read", "args": {"path": "b.txt"}}
    told = shown(watched(files, step("s1", "files.read", args={"path": "a.txt"}, on_error={"fallback": instead})))
    assert told["s1"].mark == "failed"
    assert (told["fallback s1"].mark, told["fallback s1"].call) == ("done", "files.read path=b.txt")


def test_waits_and_questions_say_for_what_and_for_whom_and_how_to_go_on(files: Path) -> None:
    watch = watched(
        files,
        step("s1", "wait.event", args={"name": "paid"}, timeout_s=90_000),
        step("s2", "human.user", args={"question": "Which?", "choices": ["red", "dark green"]}),
    )
    told = shown(watch)
    assert told["s1"].note.startswith("waits for event paid, until 20")
    assert told["s2"].note == "asks the user: Which?"
    assert watch.run is not None
    lines = list(ending(watch))
    assert f"    planner events send paid --run {watch.run.id}" in lines
    assert f"    planner runs answer {watch.run.id} s2 'dark green'" in lines
    late = shown(watched(files, step("s1", "wait.until", args={"at": "2999-12-04T09:00Z"})))
    assert late["s1"].note.startswith("waits until 2999-12-04 ")


def test_what_is_taken_back_has_rows_and_a_line_each_in_the_end(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = step("s1", "files.write", args={"path": "a.txt", "text": "alpha"})
    asked = step("s2", "human.user", args={"question": "Which?"})
    watch = watched(files, write, asked, then="cancel")
    told = shown(watch)
    assert (told["undo s1"].mark, told["undo s1"].call) == ("done", "files.write path=a.txt text=alpha")
    assert "  taken back  s1  files.write path=a.txt text=alpha" in list(ending(watch))
    said = capsys.readouterr().err.splitlines()
    assert "run      cancel   by me; what it did is taken back" in said
    assert "undo s1  started  files.write path=a.txt text=alpha" in said


def test_the_picture_draws_every_row(files: Path) -> None:
    from rich.console import Console

    watch = watched(files, LOOP, step("s2", "wait.event", args={"name": "paid"}))
    assert watch.run is not None
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(watch, watch.run.at, width=100, height=40))
    text = console.export_text()
    assert "✓     u1  files.append path=log.txt text=${t1}" in text
    assert "◷ s2      wait.event name=paid" in text
