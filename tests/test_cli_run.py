"""Runs on the command line: what is shown, asked, stopped and resumed. Models are scripted, all else is real."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import planner
from planner import config
from planner.assistant import DEFAULT_POLICY, Assistant
from planner.cli.conduct import follow
from planner.cli.display import JsonLines, Lines
from planner.cli.progress import Watch
from planner.cli.rows import rows
from planner.cli.tree import Tree, picture
from planner.core.events import Recorded
from planner.llm.model import Ask, Profile, ScriptedModel
from planner.tools import Toolbox

NOISE = "red \x1b[31m text"


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": fields.pop("args", {}), **fields}


LIST = step("s1", "files.list", args={"folder": "."})
READ = step("s2", "files.read", for_each="$s1", args={"path": "$item"})
WRITE = step("s3", "agent.writer", args={"task": "sum up", "text": "$s2"})
SAVE = step("s4", "files.write", args={"path": "sum.txt", "text": "$s3"})
SUM_UP = {"steps": [LIST, READ, WRITE, SAVE], "answer": "$s3"}
FETCH = {"steps": [step("s1", "web.fetch", args={"url": "http://127.0.0.1:9/x"})]}
GOAL = "Sum up all files into sum.txt"
FETCHING = "Tell me what http://127.0.0.1:9/x says"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha\n")
    (folder / "b.txt").write_text("beta\n")
    return folder


# in this process: a scripted model, and the display that is looked at


def scripted(plan: object) -> ScriptedModel:
    def answers(ask: Ask) -> str:
        return json.dumps(plan) if ask.role == "planner" else NOISE

    return ScriptedModel(answers, profile=Profile(rendering="strict"), cost_usd=0.001)


def conduct(files: Path, plan: object, display: Lines | JsonLines | Tree, goal: str = GOAL, **options: Any) -> int:
    settings = config.Config(policy=DEFAULT_POLICY, limits=config.Limits(replans=0, **options.pop("limits", {})))
    success = options.pop("success", None)

    async def work() -> int:
        assistant = Assistant(
            Toolbox.load(config.reference() / "tools"),
            model=scripted(plan),
            workspace=files,
            state=files.parent / "state",
            settings=settings,
            **options,
        )
        run = assistant.run
        return await follow(assistant, display, lambda observe: run(goal, success=success, observe=observe))

    return asyncio.run(work())


ABSENT = {"steps": [step("s1", "files.read", args={"path": "c.txt"})]}


@pytest.mark.parametrize(
    ("plan", "goal", "options", "code", "status"),
    [
        (SUM_UP, GOAL, {}, 0, "completed"),
        (SUM_UP, "Sum up all files", {}, 0, "unverified"),
        (SUM_UP, "Sum up all files", {"success": "${len(answer) > 1000}"}, 3, "rejected"),
        (FETCH, FETCHING, {"on_ask": "deny"}, 4, "denied"),
        (SUM_UP, GOAL, {"limits": {"calls": 1}}, 5, "over_budget"),
        ({"steps": []}, GOAL, {}, 6, "failed"),
        (ABSENT, "Read it", {}, 6, "failed"),
        (FETCH, FETCHING, {"on_ask": "wait"}, 7, "waiting"),
    ],
)
def test_a_run_ends_with_the_exit_code_of_its_status_and_a_last_line_for_programs(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    plan: object,
    goal: str,
    options: dict[str, Any],
    code: int,
    status: str,
) -> None:
    assert conduct(files, plan, JsonLines(), goal, **options) == code
    written = capsys.readouterr()
    *events, last = map(json.loads, written.out.splitlines())
    assert last["status"] == status
    assert last["type"] == ("RunWaiting" if status == "waiting" else "RunFinished")
    assert {"run_id", "seconds", "tokens", "cost_usd"} <= last.keys()
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "RunStarted"
    assert events[0]["goal"] == goal
    if status == "waiting":
        assert last["questions"][0]["use"] == "web.fetch"
    else:
        assert {"result", "reason", "degraded"} <= last.keys()
        assert "RunFinished" not in {event["type"] for event in events}


def test_plain_lines_tell_each_step_without_colours_and_give_only_the_result_on_standard_output(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conduct(files, SUM_UP, Lines()) == 0
    written = capsys.readouterr()
    assert written.out == f"{NOISE}\n"  # not a terminal, so unchanged
    assert "\x1b" not in written.err
    for line in (
        "plan     accepted: 4 steps",
        "         changes  s4: write files.write(path=sum.txt)",
        "s2[1]    started  files.read path=$item  for each of $s1",
        "s3       done     0.0 s",
    ):
        assert line in written.err.splitlines()
    assert "completed · " in written.err
    assert " · $0.0020 · run 2" in written.err


def test_a_rejected_plan_and_a_failed_run_say_why(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conduct(files, ABSENT, Lines(), "Read it")
    told = capsys.readouterr().err
    assert "s1       failed   [T-" in told
    assert "  step `s1` failed" in told
    conduct(files, {"steps": []}, Lines())
    assert "plan     attempt 4 rejected: " in capsys.readouterr().err


# the picture


def drawn(watch: Watch, at: datetime, height: int = 40) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - lives as long
    console.print(picture(watch, at, width=100, height=height, title="the goal"))
    console.file.close()
    return console.export_text()


def events_of(files: Path, plan: object, goal: str = GOAL, **options: Any) -> list[Recorded]:
    seen: list[Recorded] = []

    class Seen(Lines):
        def observe(self, recorded: Recorded) -> None:
            seen.append(recorded)
            super().observe(recorded)

    conduct(files, plan, Seen(), goal, **options)
    return seen


def test_the_picture_follows_the_events(files: Path) -> None:
    events = events_of(files, SUM_UP)
    watch = Watch()
    assert "the goal" in drawn(watch, datetime.now(UTC))
    pictures: list[str] = []
    for recorded in events:
        watch.observe(recorded)
        pictures.append(drawn(watch, recorded.at + timedelta(seconds=2)))
    assert "plan  asking for a plan" in pictures[0]
    planned = next(p for p in pictures if "✓ plan  4 steps" in p)
    assert "changes  s4: write files.write(path=sum.txt)" in planned
    assert "· s3    agent.writer task=sum up text=$s2" in planned
    assert any("files.read path=$item  for each of $s1  1/2" in p for p in pictures)
    writing = next(p for p in pictures if "2/4 steps" in p and "· s4" in p)
    assert "tokens · $0.0010" in writing
    assert "✓ s4    files.write path=sum.txt text=$s3" in pictures[-1]


def test_a_step_that_runs_shows_how_long_it_has_and_one_that_waits_shows_why(files: Path) -> None:
    watch = Watch()
    for recorded in events_of(files, FETCH, FETCHING, on_ask="wait"):
        watch.observe(recorded)
    told = drawn(watch, watch.run.at if watch.run else datetime.now(UTC))
    assert "? s1    web.fetch url=http://127.0.0.1:9/x  waits for a person" in told
    watch = Watch()
    for recorded in events_of(files, SUM_UP):
        watch.observe(recorded)
        if recorded.event.type == "StepStarted" and recorded.event.path == "s3":
            break
    (running,) = [row for row in rows(watch, recorded.at + timedelta(seconds=3)) if row.mark == "running"]
    assert (running.id, running.note) == ("s3", "3.0 s")


def test_a_long_plan_never_scrolls_and_keeps_the_step_in_sight_that_runs(files: Path) -> None:
    steps = [step("s1", "files.read", args={"path": "a.txt"})]
    rest = [{"text": f"$s{n}", "old": f"a{n}", "new": "b"} for n in range(1, 40)]
    steps += [step(f"s{n}", "text.replace", args=args) for n, args in enumerate(rest, start=2)]
    watch = Watch()
    for recorded in events_of(files, {"steps": steps}, "Replace it in a.txt"):
        watch.observe(recorded)
        if recorded.event.type == "StepStarted" and recorded.event.path == "s30":
            break
    lines = drawn(watch, recorded.at, height=20).splitlines()
    assert len(lines) < 20
    assert any("s30 " in line for line in lines)
    assert lines[1].startswith("⋮ ")


def test_what_models_and_tools_wrote_is_escaped_in_the_picture(files: Path) -> None:
    (files / "\x1b[2J.txt").write_text("x")
    steps = [LIST, step("s2", "files.read", args={"path": "\x1b[2Jno.txt"})]
    watch = Watch()
    for recorded in events_of(files, {"steps": steps, "answer": "$s1 $s2"}, "Read it"):
        watch.observe(recorded)
    told = drawn(watch, datetime.now(UTC))
    assert "path=\\x1b[2Jno.txt" in told
    assert "\x1b[2J" not in told


# in a process of its own: signals, a terminal, sudden death

DRIVER = """
import asyncio, json, sys
from planner.cli import main
from planner.llm.model import Profile, ScriptedModel
from planner.llm.pool import Pool

plan, delay_s, *words = sys.argv[1:]
def answers(ask):
    if plan == "broken":
        raise RuntimeError("out of order")
    return plan if ask.role == "planner" else "a text"
model = ScriptedModel(answers, profile=Profile(rendering="strict"))
async def of(pool, role, *, cheaper=False):
    model._delay_s = float(delay_s) if role == "writer" else 0
    return model
Pool.of = of
sys.exit(main(words))
"""


def command(plan: object, delay_s: float, words: Sequence[str]) -> list[str]:
    text = plan if isinstance(plan, str) else json.dumps(plan)
    return [sys.executable, "-W", "error", "-c", DRIVER, text, str(delay_s), *words]


def environment(files: Path) -> dict[str, str]:
    root = str(Path(planner.__file__).parents[1])
    named = {"PYTHONPATH": root, "PLANNER_STATE": str(files.parent / "state")}
    return os.environ | named | {"TERM": "xterm", "NO_COLOR": "", "PYTHONUTF8": "1"}


def planned(files: Path, plan: object, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL} | options
    return subprocess.run(
        command(plan, 0, words),
        env=environment(files),
        cwd=files,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@contextmanager
def writing(files: Path, delay_s: float = 300) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A run whose third step has begun, and will take long."""
    with subprocess.Popen(
        command(SUM_UP, delay_s, [GOAL]),
        env=environment(files),
        cwd=files,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        seen: list[str] = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("s3 "):
                break
        yield process, seen
        process.kill()


class Provider(BaseHTTPRequestHandler):
    """Speaks the wire format of a hosted model."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps({"steps": [step("s1", "files.read", args={"path": "a.txt"})], "answer": "$s1"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_model_is_named_with_the_reason_and_an_unknown_price_is_null(files: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        provider = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
        words = ["--model", "openai/unheard-of", "--json", "Read a.txt"]
        told = subprocess.run(
            [sys.executable, "-m", "planner", *words],
            env=environment(files) | provider,
            cwd=files,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        server.shutdown()
    said = told.stderr.splitlines()
    assert said == ["model openai/unheard-of because it was named; what it reads leaves this machine"]
    last = json.loads(told.stdout.splitlines()[-1])
    assert (last["result"], last["tokens"], last["cost_usd"]) == ("alpha\n", 15, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_the_run_to_stop(files: Path, number: signal.Signals) -> None:
    with writing(files) as (process, _):
        process.send_signal(number)
        told = process.communicate(timeout=300)[1]
        assert "Ctrl-C again stops at once" in told
        assert "cancelled · " in told
        assert process.returncode == 130


def test_a_second_signal_stops_at_once_and_leaves_a_run_that_can_be_resumed(files: Path) -> None:
    with writing(files) as (process, seen):
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any("Ctrl-C again stops at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=300)[1]  # after the five seconds that a call may take it were cancelled
        assert process.returncode == 130
    run_id = next(line.split()[1] for line in seen if line.startswith("run "))
    assert f"planner runs resume {run_id}" in told
    assert "stopped · " in told
    (listed,) = json.loads(planned(files, SUM_UP, "runs", "--json").stdout)
    assert (listed["run_id"], listed["status"]) == (run_id, "open")


def test_a_killed_run_is_resumed_by_the_beginning_of_its_id_and_repeats_nothing(files: Path) -> None:
    with writing(files) as (process, _):
        process.kill()
        process.wait()
    resumed = planned(files, SUM_UP, "runs", "resume", "20", "--json")
    assert resumed.returncode == 0
    last = json.loads(resumed.stdout.splitlines()[-1])
    assert (last["status"], last["result"]) == ("completed", "a text")
    assert (files / "sum.txt").read_text().strip() == "a text"
    told = json.loads(planned(files, SUM_UP, "runs", "show", last["run_id"], "--json").stdout)
    assert {s["path"]: s["status"] for s in told["steps"]}["s2[1]"] == "succeeded"
    assert told["criteria"] == [{"verdict": "met", "text": "sum.txt is written"}]
    again = planned(files, "no plan", "runs", "resume", last["run_id"], "--json")
    assert json.loads(again.stdout)["result"] == "a text"


def test_a_run_is_shown_with_its_steps_values_criteria_and_costs(files: Path) -> None:
    assert planned(files, SUM_UP, GOAL).returncode == 0
    (listed,) = planned(files, SUM_UP, "runs").stdout.splitlines()
    run_id = listed.split()[0]
    assert listed.endswith(GOAL)
    told = planned(files, SUM_UP, "runs", "show", run_id[:12]).stdout
    for part in (GOAL, "completed · ", "files.list folder=.  0.0 s", '= ["a.txt", "b.txt"]', "s2[1] 0.0 s = beta"):
        assert part in told
    assert "met        sum.txt is written" in told
    assert "tokens · cost unknown" in told
    planned(files, SUM_UP, GOAL)
    ambiguous = planned(files, SUM_UP, "runs", "show", "2")
    assert ambiguous.returncode == 2
    assert "2 runs begin with `2`" in ambiguous.stderr


def test_a_plan_alone_runs_nothing_and_can_be_run_afterwards(files: Path) -> None:
    alone = planned(files, SUM_UP, "--plan-only", GOAL)
    assert alone.returncode == 0
    assert "s4      files.write path=sum.txt text=$s3" in alone.stdout
    assert "changes  s4: write files.write(path=sum.txt)" in alone.stdout
    assert not (files / "sum.txt").exists()
    again = planned(files, SUM_UP, "--plan-only", "--json", GOAL)
    last = json.loads(again.stdout.splitlines()[-1])
    assert (last["type"], last["status"]) == ("RunPlanned", "planned")
    assert [(change["step"], change["effect"]) for change in last["certificate"]["effects"]] == [("s4", "write")]
    assert not (files / "sum.txt").exists()
    assert planned(files, "no plan", "runs", "resume", last["run_id"]).returncode == 0
    assert (files / "sum.txt").exists()
    assert planned(files, {"steps": []}, "--plan-only", GOAL).returncode == 6


def test_a_goal_may_come_from_standard_input(files: Path) -> None:
    told = planned(files, SUM_UP, "-", stdin=None, input=GOAL)
    assert (told.returncode, told.stdout) == (0, "a text\n")


def test_an_unexpected_error_is_said_in_few_words_and_its_traceback_is_kept(files: Path) -> None:
    told = planned(files, "broken", GOAL)
    assert told.returncode == 1
    assert "[U-499] internal error: RuntimeError: out of order" in told.stderr
    assert "Traceback" not in told.stderr
    place = Path(told.stderr.split("report it with ")[1].split(",")[0])
    assert "RuntimeError: out of order" in place.read_text()
    place.unlink()


def test_a_resumed_run_keeps_to_its_assistant_unless_another_is_named(files: Path) -> None:
    waiting = planned(files, FETCH, "--on-ask", "wait", FETCHING)
    assert waiting.returncode == 7
    planned(files, FETCH, "init", "mine")
    cwd = files / "mine"
    resume = command(FETCH, 0, ["runs", "resume", "2", "--on-ask", "deny"])
    refused = subprocess.run(resume, env=environment(files), cwd=cwd, capture_output=True, text=True, check=False)
    assert (refused.returncode, "U-421" in refused.stderr) == (2, True)
    resume += ["--assistant", "."]
    denied = subprocess.run(resume, env=environment(files), cwd=cwd, capture_output=True, text=True, check=False)
    assert denied.returncode == 4
    assert "[A-103]" in denied.stderr


@pytest.mark.parametrize(
    ("typed", "code", "said"), [("y", 4, "[T-5"), ("n", 4, "[A-103]"), ("\x04", 7, "planner runs approve")]
)
def test_a_terminal_shows_the_picture_and_asks_before_a_call_that_needs_approval(
    files: Path, typed: str, code: int, said: str
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(FETCH, 0, [FETCHING]), env=environment(files), cwd=files, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.write(ours, b"y\n")  # typed before the question, so it answers nothing
        os.close(theirs)
        told = until(ours, b"[y/N]")
        time.sleep(0.3)
        assert process.poll() is None, told
        os.write(ours, typed.encode() + (b"" if typed == "\x04" else b"\n"))
        text = (told + until(ours)).decode()
    os.close(ours)
    assert process.returncode == code
    assert "(your own words, or the plan made from them)" in text
    assert said in text
    assert "✓" in text


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
