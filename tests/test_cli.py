"""The command line as a shell sees it, where no model is needed: real processes, real files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner import cli
from planner.cards import Card, Item, Said
from planner.cli import terminal
from planner.cli.exits import EXITS, exit_of
from planner.cli.options import GROUPS, OPTIONS, VERBS, parse
from planner.cli.questions import answer, shown
from planner.core.catalog import Callee
from planner.core.events import RunStatus
from planner.core.labels import BOUNDED, UNTRUSTED, Json, Label, Labelled
from planner.core.provenance import Origin
from planner.errors import JournalError, ModelError, PlanError, PlannerError, PolicyError, ToolError, UserError

HEAVY = {"chromadb", "instructor", "litellm", "openai", "opentelemetry", "pydantic", "rich"}


def environment(tmp_path: Path) -> dict[str, str]:
    """One in which nothing is configured, and nothing of this machine's user is found."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(planner.__file__).parents[1]),
        "PLANNER_STATE": str(tmp_path / "state"),
        "PLANNER_MODEL": "local",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }


def run(tmp_path: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    tmp_path.chmod(0o700)
    return subprocess.run(
        [sys.executable, "-m", "planner", *words],
        env=environment(tmp_path) | options.pop("env", {}),
        cwd=options.pop("cwd", tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# the words


@pytest.mark.parametrize(
    ("line", "verb", "words"),
    [
        (["Sum up notes.txt"], "run", ("Sum up notes.txt",)),
        (["Sum", "up", "--json", "notes.txt"], "run", ("Sum", "up", "notes.txt")),
        (["run", "tools"], "run", ("tools",)),
        (["--model", "runs", "do it"], "run", ("do it",)),
        (["--", "--all", "of it"], "run", ("--all", "of it")),
        (["--", "tools"], "run", ("tools",)),
        (["-"], "run", ("-",)),
        (["runs"], "runs list", ()),
        (["--state", "here", "runs", "show", "2026"], "runs show", ("2026",)),
        (["tools", "search", "word", "count"], "tools search", ("word", "count")),
        (["models", "pull"], "models pull", ()),
    ],
)
def test_the_first_word_picks_the_verb_and_anything_else_is_a_goal(
    line: list[str], verb: str, words: tuple[str, ...]
) -> None:
    options = parse(line)
    assert (options.verb, options.words) == (verb, words)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ([], "U-403", "no goal"),
        (["tool"], "U-401", "`planner tools`"),
        (["docter"], "U-401", "`planner doctor`"),
        (["runs", "shw"], "U-401", "list, show, events, resume"),
        (["goal", "--jsno"], "U-402", "`--json`"),
        (["goal", "--plan-onl"], "U-402", "--plan-only"),
        (["goal", "--on-ask", "never"], "U-402", "prompt"),
        (["runs", "list", "--limit", "few"], "U-402", "few"),
        (["tools", "list", "--yes"], "U-402", "`--yes`"),
        (["runs", "show"], "U-403", "ID"),
        (["init", "a", "b"], "U-403", "`b`"),
    ],
)
def test_wrong_words_are_refused_with_what_was_meant(line: list[str], code: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(line)
    assert refused.value.code == code
    assert said in str(refused.value)


def test_options_stand_before_or_behind_the_verb() -> None:
    before = parse(["--json", "--state", "here", "runs", "list"])
    assert before == parse(["runs", "list", "--json", "--state", "here"])
    assert before.is_json
    assert before.state == Path("here")


def test_every_verb_is_performed_by_a_function_and_declares_known_options() -> None:
    for name, verb in VERBS.items():
        assert callable(cli._performer(name))
        assert set(verb.options) <= set(OPTIONS)
    assert {"runs", "events", "audit", "tools", "models"} == GROUPS


def test_help_names_every_verb_and_exit_code_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from planner.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert shown.stderr == "[]\n"
    for word in [*VERBS, "0 completed or unverified", "130 cancelled"]:
        assert word in shown.stdout


def test_each_verb_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name, verb in VERBS.items():
        with pytest.raises(SystemExit):
            parse([*name.split(), "--help"])
        shown = capsys.readouterr().out
        assert f"planner {name}" in shown
        assert all(option in shown for option in verb.options)


# what a shell is told


def test_every_status_of_a_run_has_an_exit_code() -> None:
    assert set(get_args(RunStatus)) <= set(EXITS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("U-1", ""), 2),
        (PlanError("P-1", ""), 2),
        (PolicyError("A-1", ""), 4),
        (ModelError("M-1", ""), 6),
        (ToolError("T-1", ""), 6),
        (JournalError("J-1", ""), 1),
    ],
)
def test_an_error_before_a_run_has_an_exit_code_by_whose_fault_it_is(error: PlannerError, code: int) -> None:
    assert exit_of(error) == code


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (["--frobnicate", "goal"], 2, "U-402"),
        ([""], 2, "U-302"),
        (["--workspace", "nowhere", "goal"], 2, "U-106"),
        (["--assistant", "nowhere", "goal"], 2, "U-105"),
        (["--on-ask", "prompt", "goal"], 2, "U-411"),
        (["Do something"], 6, "M-151"),
        (["runs", "show", "2026"], 2, "U-420"),
        (["runs", "resume", "2026"], 2, "U-420"),
        (["tools", "show", "files.raed"], 2, "U-430"),
        (["models", "pull"], 6, "M-202"),
        (["models", "pull", "--from", "nothing.gguf"], 6, "M-210"),
        (["models", "remove", "gpt"], 6, "M-201"),
    ],
)
def test_an_error_is_said_in_words_or_as_json_with_its_exit_code(
    tmp_path: Path, words: list[str], exit_code: int, code: str
) -> None:
    told = run(tmp_path, *words, "--json")
    assert told.returncode == exit_code
    error = json.loads(told.stdout)
    assert (error["type"], error["code"]) == ("Error", code)
    assert error.keys() == {"type", "code", "message", "hint"}
    assert told.stderr == ""


def test_an_error_in_words_says_what_to_do_next_and_goes_to_standard_error(tmp_path: Path) -> None:
    told = run(tmp_path, "tool")
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.splitlines() == [
        "error: [U-401] `tool` is no verb; did you mean `planner tools`?",
        '       If it is a goal: planner run "tool".',
    ]


def test_an_unreadable_planner_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "planner.toml").write_text('[assistant]\nname = "mine"\n\n[limits]\ncalls = "many"\n')
    told = run(tmp_path, "goal", "--assistant", ".")
    assert told.returncode == 2
    assert "planner.toml:5: `limits.calls` is 'many'" in told.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-m", "planner", "tools", "list"],
        env=environment(tmp_path),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(writing)
        assert process.communicate(timeout=300)[1] == ""
    assert process.returncode == 0


# tools, models, doctor


def test_tools_are_listed_with_what_the_policy_says_of_them(tmp_path: Path) -> None:
    told = {tool["name"]: tool for tool in json.loads(run(tmp_path, "tools", "list", "--json").stdout)}
    assert told["files.read"]["permission"] == "allow"
    assert told["web.fetch"]["permission"] == "ask"
    assert told["agent.writer"]["kind"] == "agent"
    lines = run(tmp_path, "tools").stdout.splitlines()
    assert len(lines) == len(told)
    assert any(line.split()[:3] == ["files.write", "write", "allow"] for line in lines)


def test_a_search_gives_the_best_first_and_one_tool_is_shown_in_full(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "tools", "search", "fetch", "a", "web", "page", "--json").stdout)
    assert found[0]["name"] == "web.fetch"
    shown = run(tmp_path, "tools", "show", "files.write").stdout
    assert "write, can be put back" in shown
    assert "path at least bounded" in shown
    assert "allow, by workspace" in shown


def test_local_models_are_listed_with_what_is_here_of_them(tmp_path: Path) -> None:
    (model,) = json.loads(run(tmp_path, "models", "--json").stdout)
    assert model["path"] is None
    assert model["size_bytes"] > 10**9
    assert "not here" in run(tmp_path, "models").stdout
    assert run(tmp_path, "models", "stop").stdout == "nothing was running\n"


def test_the_doctor_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    told = run(tmp_path, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert told.returncode == 1
    assert checks["model"]["state"] == "fail"
    assert "planner models pull" in checks["model"]["hint"]
    assert checks["weights"]["state"] == "warn"
    assert {checks[name]["state"] for name in ("python", "packages", "state", "journal", "assistant")} == {"ok"}
    assert not (tmp_path / "state").exists()
    healthy = run(tmp_path, "doctor", "--model", "openai/gpt-5-mini")
    assert healthy.returncode == 0
    assert "ok    model" in healthy.stdout


def test_the_doctor_finds_a_damaged_journal(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.db").write_bytes(b"no database at all" * 100)
    checks = json.loads(run(tmp_path, "doctor", "--model", "openai/gpt-5-mini", "--json").stdout)["checks"]
    (journal,) = [check for check in checks if check["name"] == "journal"]
    assert journal["state"] == "fail"
    assert "J-111" in journal["text"]


def test_looking_for_runs_makes_no_journal(tmp_path: Path) -> None:
    told = run(tmp_path, "runs")
    assert (told.returncode, told.stdout) == (0, "")
    assert "no runs yet" in told.stderr
    assert not (tmp_path / "state").exists()


# an assistant of one's own


def test_init_makes_an_assistant_that_loads_and_never_writes_over_anything(tmp_path: Path) -> None:
    made = run(tmp_path, "init", "mine")
    assert made.returncode == 0
    assert "mine/tools/hello.py" in made.stdout
    tools = json.loads(run(tmp_path, "tools", "--assistant", "mine", "--json").stdout)
    names = {tool["name"] for tool in tools}
    assert {"hello.greet", "files.read", "table.sort"} <= names
    again = run(tmp_path, "init", "mine")
    assert again.returncode == 2
    assert "U-440" in again.stderr


def test_a_found_assistant_is_loaded_only_when_somebody_agrees_and_asked_for_once(tmp_path: Path) -> None:
    run(tmp_path, "init", "mine")
    here = tmp_path / "mine"
    refused = run(tmp_path, "tools", cwd=here)
    assert refused.returncode == 2
    assert "U-410" in refused.stderr
    assert "`--assistant .`" in refused.stderr
    assert run(tmp_path, "tools", "--yes", cwd=here).returncode == 2
    assert "Load it? [y/N]" in at_terminal(tmp_path, "n", "tools", cwd=here)
    agreed = at_terminal(tmp_path, "y", "tools", cwd=here)
    assert "hello.py" in agreed
    assert "hello.greet" in agreed
    assert "hello.greet" in run(tmp_path, "tools", cwd=here).stdout


def at_terminal(tmp_path: Path, typed: str, *words: str, cwd: Path) -> str:
    """What a terminal shows of the command, where `typed` answers its question."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "planner", *words],
        env=environment(tmp_path) | {"TERM": "dumb"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = until(ours, b"[y/N]")
        os.write(ours, typed.encode() + b"\n")
        shown += until(ours)
    os.close(ours)
    return shown.decode()


def until(terminal: int, wanted: bytes | None = None) -> bytes:
    """What the terminal shows until `wanted` stands there, or the other side has left."""
    told = b""
    while wanted is None or wanted not in told:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # what Linux says at the end
            break
        if not more:
            break
        told += more
    return told


# cards


def card(**fields: Any) -> Card:
    labels = {"to": Label(sources=frozenset({"goal"})), "text": UNTRUSTED.from_source("files.read"), "at": BOUNDED}
    value: Json = {"to": "a@b.org", "text": "long \x1b[31m" * 100, "at": "noon"}
    arguments = Labelled(value=value, leaves=tuple(((name,), label) for name, label in labels.items()))
    callee = Callee(name="mail.send", summary="Send a mail")
    item: dict[str, Any] = {"path": "s3", "arguments": arguments, "reason": "`mail` wants a person", "asked": 1}
    item |= {name: fields.pop(name) for name in fields.keys() & item.keys()}
    origins = {name: Origin(label=item["arguments"].at((name,)).overall()) for name in item["arguments"].value}
    given: dict[str, Any] = {"question": "approve", "run_id": "r", "path": "s3", "callee": callee}
    return Card(**(given | {"items": (Item(**item, origins=origins),)} | fields))


def test_a_card_shows_what_would_be_done_with_what_and_where_each_argument_is_from() -> None:
    text = "\n".join(shown(card()))
    assert "\x1b" not in text
    for part in (
        "s3  mail.send: Send a mail",
        "execute: may do anything this process may; cannot be put back",
        "to      a@b.org",
        "(your own words, or the plan made from them; from goal)",
        "… (1,300 characters)",
        "(an outsider may have written it; from files.read)",
        "(chosen among known values)",
        "why     `mail` wants a person",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("typed", "approved", "happened"),
    [("y\n", "yes", "yes"), ("YES\n", "yes", "yes"), ("n\n", "no", "no"), ("\n", "no", None), (None, None, None)],
)
def test_only_a_plain_yes_allows_a_call_and_no_input_leaves_it_open(
    typed: str | None, approved: str | None, happened: str | None
) -> None:
    assert answer(card(), typed) == approved
    assert answer(card(question="happened"), typed) == happened


def test_what_is_typed_as_an_answer_must_fit_the_question() -> None:
    assert answer(card(question="failed"), "ret\n") == "retry"
    assert answer(card(question="failed"), None) is None
    value: Json = {"question": "How many?", "type": "integer"}
    asked = card(question="answer", arguments=Labelled(value=value))
    assert answer(asked, " 7\n") == Said(7)
    for question, typed in ((asked, "x"), (asked, "\n"), (card(question="failed"), "maybe")):
        with pytest.raises(PlanError):
            answer(question, typed)


# words for people


@given(st.text())
def test_nothing_that_moves_a_cursor_or_reorders_reaches_a_terminal(text: str) -> None:
    for told in (terminal.safe(text), terminal.line(text)):
        assert not set(told) & {chr(c) for c in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))}
    assert "\n" not in terminal.line(text)


def test_ordinary_words_of_any_language_stay_as_they_are() -> None:
    for text in ("a\u00a0b", "naïve café", "\u0645\u06cc\u200c\u062e\u0648", "👩\u200d👧", "日本語\n二行目"):
        assert terminal.safe(text) == text
    assert terminal.safe("\x1b[31m\u202egpj.exe\x9b") == "\\x1b[31m\\u202egpj.exe\\x9b"


def test_amounts_are_said_as_far_as_they_matter() -> None:
    assert [terminal.duration(s) for s in (0.04, 9.96, 200, 7500)] == ["0.0 s", "10 s", "3 min 20 s", "2 h 5 min"]
    assert [terminal.money(c) for c in (None, 0.0, 0.00123, 1.5)] == ["cost unknown", "$0", "$0.0012", "$1.50"]
    assert [terminal.size(b) for b in (812, 3_400_000, 1_117_320_768)] == ["812 B", "3.4 MB", "1.12 GB"]
    assert terminal.download(420_000_000, 1_117_320_768, 30) == "420.0 MB of 1.12 GB, 37 %, 14.0 MB/s"
    assert terminal.line("a very long line", 6) == "a ver…"
