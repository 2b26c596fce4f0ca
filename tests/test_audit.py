"""What a reader who does not trust the runtime can check: real runs in real files, and ways to tamper with them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, JournalError, Plan, Policy, Rule, ScriptedModel, UserError, tool
from planner.audit import Anchors, anchor, audited, exported, read_anchors
from planner.cli import main
from planner.config import Config
from planner.journal import SqliteJournal, erasing

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALLOW = Policy(rules=(Rule(id="all", then="allow"),))
PLAN = Plan.model_validate(
    {
        "steps": [
            {"id": "s1", "use": "mail.read"},
            {"id": "s2", "let": "${s1.upper()}"},
            {"id": "s3", "use": "mail.send", "args": {"to": "$s2"}, "on_error": {"then": "skip"}},
        ]
    }
)


@tool(name="mail.read", effect="read", resource=(), out="untrusted")
def read() -> str:
    """Read a mail."""
    return "mallory"


@tool(name="mail.send", effect="send", resource=(), control={"to": "trusted"})
def send(to: str) -> str:
    """Send a mail."""
    return "sent"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A state folder with two runs, and an anchor of them."""

    async def made() -> None:
        settings = Config.model_validate({"audit": {"every": 5}})
        options: dict[str, Any] = {"policy": ALLOW, "on_ask": "deny", "environ": {}, "settings": settings}
        assistant = Assistant([read, send], model=ScriptedModel([]), workspace=tmp_path, state=tmp_path, **options)
        async with assistant:
            for run_id in ("one", "two"):
                assert (await assistant.run("Write", plan=PLAN, run_id=run_id)).status == "unverified"
            await anchor(assistant.journal, tmp_path / "kept.jsonl", at=NOW)

    asyncio.run(made())
    return tmp_path


def found(place: Path, *run_ids: str, anchors: str = "kept.jsonl") -> list[str]:
    async def told() -> list[str]:
        journal = SqliteJournal.open(place / "journal.db")
        try:
            result = await audited(journal, run_ids or ("one", "two"), read_anchors(place / anchors))
            return [f"{one.run_id}: {one.what}" for one in result.findings]
        finally:
            await journal.close()

    return asyncio.run(told())


def changed(place: Path, *statements: str) -> None:
    db = sqlite3.connect(place / "journal.db")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


TAMPERED: list[tuple[str, tuple[str, ...]]] = [
    (
        "one: event 3: it, or its place, was changed",
        ("UPDATE events SET at_us = at_us + 1 WHERE run = 1 AND run_seq = 3",),
    ),
    ("one: event 3: it, or its place, was changed", ("UPDATE events SET type = 'X' WHERE run = 1 AND run_seq = 3",)),
    (
        "one: event 3: it, or its place, was changed",
        ("UPDATE events SET body = x'7b7d' WHERE run = 1 AND run_seq = 3",),
    ),
    (
        "one: event 3: it, or its place, was changed",
        ("UPDATE events SET salt = x'00' WHERE run = 1 AND run_seq = 3",),
    ),
    ("one: event 3: it is missing", ("DELETE FROM events WHERE run = 1 AND run_seq = 3",)),
    (
        "one: event 3: it, or its place, was changed",
        (
            "UPDATE events SET run_seq = 99 WHERE run = 1 AND run_seq = 3",
            "UPDATE events SET run_seq = 3 WHERE run = 1 AND run_seq = 4",
            "UPDATE events SET run_seq = 4 WHERE run = 1 AND run_seq = 99",
        ),
    ),
]


def test_what_was_not_touched_holds(place: Path) -> None:
    assert found(place) == []


@pytest.mark.parametrize(("what", "statements"), TAMPERED)
def test_every_change_is_named_with_its_event(place: Path, what: str, statements: tuple[str, ...]) -> None:
    changed(place, *statements)
    assert what in found(place, anchors="none.jsonl")


CUT = (
    "DELETE FROM events WHERE run = 2 AND run_seq > 5",
    "UPDATE runs SET events = 5, head = (SELECT hash FROM events WHERE run = 2 AND run_seq = 5) WHERE run = 2",
)


def test_a_cut_tail_is_found_with_an_anchor_and_with_nothing_else(place: Path) -> None:
    changed(place, *CUT)
    assert found(place, anchors="none.jsonl") == []
    assert ["its tail was cut" in what for what in found(place)] == [True]


def test_a_run_that_is_gone_is_found_with_an_anchor(place: Path) -> None:
    changed(place, "DELETE FROM events WHERE run = 2", "DELETE FROM runs WHERE run = 2")
    assert found(place, "one", anchors="none.jsonl") == []
    assert len(found(place, "one")) == 1


def test_a_run_that_was_written_anew_is_found_with_an_anchor(place: Path) -> None:
    changed(
        place,
        "UPDATE events SET hash = zeroblob(32) WHERE run = 2 AND run_seq = (SELECT events FROM runs WHERE run = 2)",
    )
    changed(place, "UPDATE runs SET head = zeroblob(32) WHERE run = 2")
    assert any("is another than" in what for what in found(place))


def test_an_anchor_that_was_changed_is_found(place: Path) -> None:
    file = place / "kept.jsonl"
    file.write_text(file.read_text().replace("2026-03-01", "2026-03-02"))
    assert found(place) == [": anchor 1 was changed"]


def test_anchors_are_written_as_events_happen_and_are_chained(place: Path) -> None:
    anchors = read_anchors(place / "anchors.jsonl")
    assert len(anchors) >= 2
    assert found(place, anchors="anchors.jsonl") == []
    lines = (place / "anchors.jsonl").read_text().splitlines()
    (place / "anchors.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert found(place, anchors="anchors.jsonl") == [": anchor 1 was changed"]


def test_what_is_no_file_of_anchors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no")
    with pytest.raises(UserError, match="is no file of anchors") as caught:
        read_anchors(tmp_path / "a")
    assert caught.value.code == "U-461"


def test_an_observer_without_events_has_nothing_to_wait_for(tmp_path: Path) -> None:
    def none() -> SqliteJournal:
        raise AssertionError("nothing is anchored")

    asyncio.run(Anchors(none, tmp_path / "a", every=1).close())


# an export ----------------------------------------------------------------------------------------------------


def checked(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(folder / "verify.py")], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


@pytest.fixture
def folder(place: Path) -> Path:
    async def written() -> None:
        journal = SqliteJournal.open(place / "journal.db")
        await exported(journal, ("one", "two", "gone"), place / "out", read_anchors(place / "kept.jsonl"))
        await journal.close()

    asyncio.run(written())
    return place / "out"


def test_an_export_is_checked_without_this_package(folder: Path) -> None:
    assert checked(folder) == (0, "every event holds")


def edit(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def done(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        change(lines)
        (folder / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    return done


def cut(folder: Path) -> None:
    edit(lambda lines: lines.pop())(folder)
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    runs[-1] |= {"events": last["run_seq"], "head": last["hash"]}
    (folder / "runs.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in runs))


@pytest.mark.parametrize(
    ("tamper", "what"),
    [
        (edit(lambda lines: lines[2].update(type="X")), "event 3 of run one, or its place, was changed"),
        (edit(lambda lines: lines[2].update(salt="00")), "event 3 of run one, or its place, was changed"),
        (edit(lambda lines: lines.pop(2)), "event 3 of run one is missing"),
        (edit(lambda lines: lines.insert(2, lines.pop(3))), "event 3 of run one is missing"),
        (edit(lambda lines: lines.pop()), "of run two is missing"),
        (edit(lambda lines: lines.append({**lines[-1], "run_seq": lines[-1]["run_seq"] + 1})), "was added"),
        (cut, "its tail was cut"),
    ],
)
def test_its_script_names_what_was_tampered_with(folder: Path, tamper: Callable[[Path], None], what: str) -> None:
    tamper(folder)
    code, told = checked(folder)
    assert code == 1
    assert what in told.splitlines()[0] or what in told


def test_content_that_was_erased_leaves_the_chain_whole(folder: Path) -> None:

    def erase(lines: list[dict[str, Any]]) -> None:

        one = lines[2]
        digest = hashlib.sha256(bytes.fromhex(one["salt"]) + base64.b64decode(one["body"])).hexdigest()
        one |= {"salt": None, "body": None, "body_hash": digest}

    edit(erase)(folder)
    assert checked(folder)[0] == 0


# erasing ------------------------------------------------------------------------------------------------------

MARK = "mallory"


def bytes_of(place: Path) -> bytes:
    """All that the files of the journal hold, with what is packed in them unpacked."""
    whole = b"".join(path.read_bytes() for path in place.glob("journal.db*"))
    db = sqlite3.connect(place / "journal.db")
    bodies = [body for (body,) in db.execute("SELECT body FROM events WHERE body IS NOT NULL")]
    db.close()
    return whole + b"".join(body if body.startswith(b"{") else zlib.decompress(body) for body in bodies)


def test_what_was_erased_is_in_no_file_of_the_journal_and_its_chain_holds(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--state", str(place))
    assert bytes_of(place).count(MARK.encode()) > 1
    for run_id in ("one", "two"):
        assert said(capsys, "audit", "erase", run_id, "--yes", *state)[0] == 0
    assert MARK.encode() not in bytes_of(place)
    assert MARK.upper().encode() not in bytes_of(place)
    assert b"Write" not in bytes_of(place)
    assert found(place) == []
    code, out = said(capsys, "audit", "verify", "--anchor", str(place / "kept.jsonl"), *state)
    assert code == 0
    assert "lost their content" in out
    assert main(["runs", "show", "one", *state]) != 0
    assert "J-108" in capsys.readouterr().err


def test_copies_in_forks_are_named_and_nested_runs_go_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(place, "UPDATE runs SET parent = 'one' WHERE run_id = 'two'")

    async def fork() -> str:
        options: dict[str, Any] = {"policy": ALLOW, "environ": {}, "model": ScriptedModel([])}
        async with Assistant([read, send], workspace=place, state=place, **options) as assistant:
            return await assistant.fork("one", at=4)

    copy = asyncio.run(fork())
    code, out = said(capsys, "audit", "erase", "one", "--yes", "--state", str(place))
    assert code == 0
    assert out.startswith("erased what one, two held")
    assert f"{copy} began with its events" in out


def test_a_run_that_is_live_or_nobody_agreed_to_erase_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def live() -> None:
        journal = SqliteJournal.open(place / "journal.db")
        await journal.acquire("one", "me")
        with pytest.raises(JournalError, match="J-103"):
            await journal.erase("one")
        await journal.close()

    asyncio.run(live())
    assert main(["audit", "erase", "one", "--state", str(place)]) == 4
    assert "nothing was erased" in capsys.readouterr().err
    assert MARK.encode() in bytes_of(place)


def test_a_journal_that_is_in_use_says_that_it_may_still_hold_what_was_erased(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "BUSY_S", 0.05)
    other = sqlite3.connect(place / "journal.db")
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(JournalError, match="is in use") as caught:
        erasing.scour(place / "journal.db")
    assert caught.value.code == "J-124"
    other.close()


# the command line ---------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    return code, capsys.readouterr().out


def test_the_command_line_verifies_anchors_exports_and_explains(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    state = ("--state", str(place))
    code, out = said(capsys, "audit", "verify", *state)
    assert code == 0
    assert out.startswith("checked 2 runs with ")
    assert said(capsys, "audit", "anchor", "--anchor", "mine.jsonl", *state)[1].startswith("anchored 2 runs in")
    assert said(capsys, "audit", "export", "one", "--to", "away", *state)[0] == 0
    assert checked(place / "away")[0] == 1, "the anchors speak of the other run, too"
    code, out = said(capsys, "audit", "explain", "one", "s3", *state)
    assert code == 0
    assert "call     ask by all, control:to" in out
    assert "because of s1  mail.read" in out
    assert "[A-102]" in out
    told = json.loads(said(capsys, "audit", "explain", "one", "s3", "--json", *state)[1])
    assert told["because_of"][0]["path"] == "s1"
    assert [one["stage"] for one in told["decisions"]] == ["plan", "call"]
    changed(place, TAMPERED[0][1][0])
    code, out = said(capsys, "audit", "verify", *state)
    assert code != 0
    assert "BAD  run one, event 3" in out
    assert json.loads(said(capsys, "audit", "verify", "two", "--json", *state)[1])["runs"] == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("verify", "three"), "U-420"),
        (("verify", "--anchor", "nowhere.jsonl"), "U-461"),
        (("export",), "U-403"),
        (("explain", "one", "s9"), "U-462"),
        (("erase", "three", "--yes"), "U-420"),
        (("erase", "o", "--yes"), ""),
    ],
)
def test_what_cannot_be_is_said_with_what_could(
    place: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str
) -> None:
    assert main(["audit", *words, "--state", str(place)]) == (2 if code else 0)
    assert code in capsys.readouterr().err


def test_where_there_is_no_record_nothing_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("verify",), ("anchor",), ("export", "--to", str(tmp_path / "x"))):
        assert said(capsys, "audit", *words, "--state", str(tmp_path / "none"))[0] == 0
