"""What is asked of runs from the command line: real processes, one of which drives a run while another one asks."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import planner


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": fields.pop("args", {}), **fields}


FIRST = step("s1", "files.write", args={"path": "one.txt", "text": "for ${inputs.who}"})
LONG = step("s2", "wait.until", args={"seconds": 50})
COLOUR = step("s2", "human.user", args={"question": "Which colour?", "choices": ["red", "green"]})
MANY = step("s3", "human.user", args={"question": "How many?", "type": "integer"})
PAID = step("s2", "wait.event", args={"name": "paid", "match": {"amount": 3}})
GATE = step("s3", "gate.approve", args={"what": "Write two.txt?"})
LAST = step("s4", "files.write", args={"path": "two.txt", "text": "$s2"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def environment(files: Path) -> dict[str, str]:
    root = str(Path(planner.__file__).parents[1])
    named = {"PYTHONPATH": root, "PLANNER_STATE": str(files.parent / "state"), "PYTHONUTF8": "1"}
    return os.environ | named | {"TERM": "xterm", "NO_COLOR": ""}


def plan_file(files: Path, *steps: dict[str, Any], **fields: Any) -> str:
    path = files.parent / "plan.yaml"
    answer = [f"${one['id']}" for one in steps]
    path.write_text(yaml.safe_dump({"inputs": {"who": "me"}, "steps": list(steps), "answer": answer} | fields))
    return str(path)


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "planner", *words]


def told(files: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        env=environment(files),
        cwd=files,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def newest(files: Path) -> str:
    run_id: str = json.loads(told(files, "runs", "--json").stdout)[0]["run_id"]
    return run_id


def waiting(files: Path, *steps: dict[str, Any]) -> str:
    """The id of a run that waits, and that nobody drives."""
    began = told(files, "run", "--on-ask", "wait", "--plan", plan_file(files, *steps), "Do it")
    assert began.returncode == 7, began.stderr
    return newest(files)


@contextmanager
def live(
    files: Path, *steps: dict[str, Any], named: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that drives a run, whose second step lasts; and the run's id."""
    with subprocess.Popen(
        command("run", "--on-ask", "wait", *named, "--plan", plan_file(files, *steps), "Do it"),
        env=environment(files),
        cwd=files,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        run_id = ""
        for line in process.stderr:
            run_id = line.split()[1] if line.startswith("run ") else run_id
            if line.startswith("s2 "):
                break
        time.sleep(0.3)
        yield process, run_id
        process.kill()


# plans of one's own


def test_a_plan_of_ones_own_is_shown_as_text_as_a_flowchart_and_as_json(files: Path) -> None:
    plan = plan_file(files, FIRST, COLOUR)
    words = ("run", "--plan", plan, "--plan-only", "Do it")
    text = told(files, *words).stdout.splitlines()
    assert "s1      files.write path=one.txt text=for ${inputs.who}" in text
    assert "changes  s1: write files.write(path=one.txt)" in text
    chart = told(files, *words, "--format", "mermaid").stdout
    assert chart.startswith("flowchart TD\n")
    assert 'n_s1["s1 files.write"]:::effect' in chart
    last = json.loads(told(files, *words, "--json").stdout.splitlines()[-1])
    assert (last["type"], last["plan"]["inputs"]) == ("RunPlanned", {"who": "me"})
    assert last["certificate"]["effects"][0]["callee"] == "files.write"
    assert told(files, "run", "--plan", plan, "--format", "mermaid", "Do it").returncode == 2
    assert not (files / "one.txt").exists()


def test_a_dry_run_tells_what_it_would_do_and_changes_nothing(files: Path) -> None:
    plan = plan_file(files, FIRST, COLOUR, GATE, LAST, answer=["$s2", "$s3", "$s4"])
    dry = told(files, "run", "--dry-run", "--plan", plan, "Do it")
    assert dry.returncode == 0
    assert "s1       would    files.write path=one.txt text=for ${inputs.who}" in dry.stderr
    assert "  would  s4  files.write path=two.txt text=red" in dry.stderr
    assert "  nothing was changed" in dry.stderr
    assert list(files.iterdir()) == []
    assert "dry run: Do it" in told(files, "runs").stdout
    last = json.loads(told(files, "run", "--dry-run", "--json", "--plan", plan, "Do it").stdout.splitlines()[-1])
    assert [one["path"] for one in last["would"]] == ["s1", "s4"]


def test_a_run_that_failed_is_listed_as_stuck_with_why(files: Path) -> None:
    plan = plan_file(files, step("s1", "files.read", args={"path": "none.txt"}))
    assert told(files, "run", "--plan", plan, "Do it").returncode == 6
    run_id = newest(files)
    _, why, command_ = told(files, "runs", "list", "--stuck").stdout.splitlines()
    assert why.startswith("  failed: step `s1` failed [T-302]")
    assert command_ == f"  planner runs show {run_id}"


# while another process drives the run


def test_a_live_run_is_cancelled_by_another_process_which_says_what_was_taken_back(files: Path) -> None:
    with live(files, FIRST, LONG) as (process, run_id):
        assert (files / "one.txt").exists()
        resumed = told(files, "runs", "resume", run_id)
        assert (resumed.returncode, f"planner runs events {run_id} --follow" in resumed.stderr) == (2, True)
        cancelled = told(files, "runs", "cancel", run_id)
        assert process.wait(300) == 130
    assert cancelled.returncode == 0
    assert cancelled.stdout == f"cancelled {run_id}\n"
    assert "taken back  s1  files.write path=one.txt text=for me" in cancelled.stderr
    assert not (files / "one.txt").exists()


HOLDING = """
import time
from planner.tools import ToolContext, tool

@tool(effect="read", resource=())
def hold(context: ToolContext) -> str:
    \"\"\"Look once there is a file `go`.\"\"\"
    while not (context.workspace / "go").exists():
        time.sleep(0.01)
    return "held"
"""


def test_a_live_run_takes_an_answer_from_another_process_and_goes_on(files: Path) -> None:
    assert told(files, "init", "mine").returncode == 0
    (files / "mine" / "tools" / "letters.py").write_text(HOLDING)
    steps = (FIRST, step("s2", "letters.hold"), MANY, {**LAST, "args": {"path": "two.txt", "text": "$s3"}})
    with live(files, *steps, named=("--assistant", "mine")) as (process, run_id):
        answered = told(files, "runs", "answer", run_id, "7", "--json")
        (files / "go").touch()
        assert process.wait(300) == 0
    taken = json.loads(answered.stdout)
    assert (answered.returncode, taken["type"], taken["request"]) == (0, "RequestTaken", "HumanAnswered")
    assert (files / "two.txt").read_text().strip() == "7"


def test_what_a_killed_process_left_open_is_taken_over_by_who_asks(files: Path) -> None:
    with live(files, FIRST, LONG) as (process, run_id):
        process.kill()
        process.wait()
    assert (files / "one.txt").exists()
    cancelled = told(files, "runs", "cancel", run_id)
    assert cancelled.returncode == 0
    assert f"cancelled {run_id}" in cancelled.stderr
    assert "undo s1  done" in cancelled.stderr
    assert not (files / "one.txt").exists()


def test_a_denied_call_is_shown_with_what_the_certificate_says_of_it(files: Path) -> None:
    run_id = waiting(files, FIRST, GATE, {**LAST, "args": {"path": "two.txt", "text": "${s3}"}})
    denied = told(files, "runs", "deny", run_id)
    assert denied.returncode == 4
    assert "asks for your approval: Write two.txt?" in denied.stderr
    assert "  asks     s3: gate.approve is a question of the plan" in denied.stderr
    assert f"denied gate.approve at s3 of {run_id}; the run goes on" in denied.stderr


# while nobody drives it


def test_a_choice_is_checked_before_it_is_posted_and_then_the_run_goes_on_here(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR, LAST)
    refused = told(files, "runs", "answer", run_id, "blue")
    assert (refused.returncode, "`blue` is none of red, green" in refused.stderr) == (2, True)
    answered = told(files, "runs", "answer", run_id, "s2", "RED")
    assert answered.returncode == 0
    assert f"answered human.user at s2 of {run_id} with red; the run goes on" in answered.stderr
    assert (files / "two.txt").read_text().strip() == "red"


def test_where_several_questions_are_open_the_step_must_be_named(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR, MANY, {**LAST, "args": {"path": "two.txt", "text": "${s2} ${s3}"}})
    unclear = told(files, "runs", "answer", run_id, "7")
    assert unclear.returncode == 2
    assert "[U-437]" in unclear.stderr
    assert f"planner runs answer {run_id} s2 red" in unclear.stderr
    assert told(files, "runs", "approve", run_id).returncode == 2
    assert told(files, "runs", "answer", run_id, "s3", "7").returncode == 7


def test_what_waits_is_told_with_a_command_for_each_and_the_command_works(files: Path) -> None:
    run_id = waiting(files, FIRST, PAID, {**LAST, "args": {"path": "two.txt", "text": "${s2.amount}"}})
    shown = told(files, "runs", "show", run_id).stdout
    assert "s2 wait.event waits for event paid" in shown
    line = f"planner events send paid --run {run_id} --data '{{\"amount\": 3}}'"
    assert line in shown
    other = told(files, "events", "send", "paid", "--data", '{"amount": 4}')
    assert (other.returncode, "[U-439]" in other.stderr) == (2, True)
    sent = told(files, "events", "send", "paid", "--data", '{"amount": 3}')
    assert (sent.returncode, f"told {run_id} of paid" in sent.stderr) == (0, True)
    assert (files / "two.txt").read_text().strip() == "3"


def test_a_paused_run_stays_so_until_it_is_resumed(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR, LAST)
    assert told(files, "runs", "pause", run_id).returncode == 0
    assert told(files, "runs", "answer", run_id, "green").returncode == 7
    assert not (files / "two.txt").exists()
    again = told(files, "runs", "pause", run_id)
    assert (again.returncode, "is paused already" in again.stderr) == (2, True)
    assert told(files, "runs", "resume", run_id).returncode == 0
    assert (files / "two.txt").exists()


def test_what_is_left_for_later_is_taken_by_the_next_who_wakes_runs(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR, LAST)
    later = told(files, "runs", "answer", run_id, "red", "--later")
    assert later.stdout.startswith(f"posted for {run_id}")
    stuck = told(files, "runs", "list", "--stuck").stdout.splitlines()
    assert stuck == [f"{run_id}  Do it", "  1 asked of it, and nobody took it", "  planner runs wake"]
    woken = told(files, "runs", "wake")
    assert (woken.returncode, f"going on with {run_id}: Do it" in woken.stderr) == (0, True)
    assert (files / "two.txt").exists()
    assert "nothing to go on with" in told(files, "runs", "wake").stderr


def test_a_plan_that_was_only_made_is_not_woken(files: Path) -> None:
    only = told(files, "run", "--plan-only", "--plan", plan_file(files, FIRST), "Do it")
    assert only.returncode == 0
    woken = told(files, "runs", "wake")
    assert (woken.returncode, "nothing to go on with" in woken.stderr) == (0, True)
    assert "no run is stuck" in told(files, "runs", "list", "--stuck").stderr
    assert not (files / "one.txt").exists()


def test_a_finished_run_is_undone_once_and_what_was_left_says_why(files: Path) -> None:
    plan = plan_file(files, FIRST, step("s2", "files.append", args={"path": "one.txt", "text": "more"}))
    assert told(files, "run", "--plan", plan, "Do it").returncode == 0
    run_id = newest(files)
    (files / "one.txt").write_text("changed by somebody else")
    undone = told(files, "runs", "undo", run_id)
    assert undone.returncode == 6
    assert "  left        s2  files.append path=one.txt text=more: " in undone.stderr
    again = told(files, "runs", "undo", run_id)
    assert (again.returncode, "[U-434]" in again.stderr) == (2, True)
    assert told(files, "runs", "cancel", run_id).returncode == 2


def test_a_correction_of_inputs_takes_back_what_was_made_from_the_old_ones(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR)
    words = told(files, "runs", "steer", run_id, "be", "nice")
    assert (words.returncode, "words are for a planner" in words.stderr) == (2, True)
    unknown = told(files, "runs", "steer", run_id, "--with", "whom=you")
    assert (unknown.returncode, "It has who." in unknown.stderr) == (2, True)
    steered = told(files, "runs", "steer", run_id, "--with", "who=you")
    assert steered.returncode == 7
    assert "run      corrected by " in steered.stderr
    assert (files / "one.txt").read_text().strip() == "for you"
    assert "corrected  by " in told(files, "runs", "show", run_id).stdout


SLOW = """
import time
from planner.tools import tool

@tool(effect="send", control={"to": "trusted"})
def post(to: str, text: str) -> str:
    \"\"\"Send a letter.\"\"\"
    time.sleep(30)
    return to
"""


def test_an_effect_that_was_under_way_when_its_process_was_killed_is_asked_about(files: Path) -> None:
    assert told(files, "init", "mine").returncode == 0
    (files / "mine" / "tools" / "letters.py").write_text(SLOW)
    plan = plan_file(files, step("s1", "letters.post", args={"to": "Ada", "text": "hello"}))
    named = ("--assistant", "mine")
    waits = told(files, "run", "--on-ask", "wait", *named, "--plan", plan, "Do it")
    assert waits.returncode == 7, waits.stderr
    run_id = newest(files)
    with subprocess.Popen(
        command("runs", "approve", run_id, *named),
        env=environment(files),
        cwd=files,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("s1       started") for line in process.stderr)
        process.kill()
    stuck = told(files, "runs", "list", "--stuck", "--json")
    assert json.loads(stuck.stdout)[0]["why"] == "in doubt: s1 letters.post was under way when its process ended"
    resumed = told(files, "runs", "resume", run_id, *named)
    assert resumed.returncode == 7
    assert f"planner runs answer {run_id} s1 yes" in resumed.stderr
    assert "in doubt: nobody knows whether s1 letters.post happened" in told(files, "runs", "list", "--stuck").stdout
    settled = told(files, "runs", "answer", run_id, "yes", *named)
    assert settled.returncode == 0
    undone = told(files, "runs", "undo", run_id, *named)
    assert (undone.returncode, "it cannot be taken back" in undone.stderr) == (6, True)


# records


def test_a_fork_goes_on_by_itself_and_is_compared_with_its_origin(files: Path) -> None:
    origin = waiting(files, FIRST, COLOUR, LAST)
    made = told(files, "runs", "fork", origin, "--with", "who=you", "--json")
    fork = json.loads(made.stdout)["run_id"]
    assert told(files, "runs", "answer", origin, "red").returncode == 0
    assert told(files, "runs", "resume", fork, "--on-ask", "wait").returncode == 7
    assert told(files, "runs", "answer", fork, "green").returncode == 0
    differ = told(files, "runs", "diff", origin, fork)
    assert '"red" -> "green"' in differ.stdout
    assert told(files, "runs", "replay", fork).returncode == 0
    outside = told(files, "runs", "fork", origin, "--at", "999")
    assert (outside.returncode, "[J-121]" in outside.stderr) == (2, True)


def test_the_events_of_a_run_are_lines_and_can_be_followed_to_its_end(files: Path) -> None:
    run_id = waiting(files, FIRST, COLOUR)
    with subprocess.Popen(
        command("runs", "events", run_id, "--follow", "--json"),
        env=environment(files),
        cwd=files,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert told(files, "runs", "answer", run_id, "red").returncode == 0
        seen = [json.loads(line) for line in following.communicate(timeout=300)[0].splitlines()]
    assert [event["run_seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["type"] == "RunFinished"
    lines = told(files, "runs", "events", run_id).stdout.splitlines()
    assert len(lines) == len(seen)
    assert any(line.split()[2:4] == ["StepStarted", "s1"] for line in lines)


# at a terminal


def test_a_terminal_asks_again_until_the_answer_fits(files: Path) -> None:
    missing = step("s2", "files.read", args={"path": "none.txt"}, on_error={"then": "ask"})
    both = {**LAST, "args": {"path": "two.txt", "text": "${s3} ${s2 ?? 'no'}"}}
    plan = plan_file(files, FIRST, missing, MANY, both, answer="$s3")
    answers = {b"whole number): ": [b"x", b"7"], b"[retry/skip/fail] ": [b"maybe", b"skip"]}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("run", "--plan", plan, "Do it"),
        env=environment(files),
        cwd=files,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        while more := _read(ours):
            text += more
            for prompt, typed in answers.items():
                if text.endswith(prompt) and typed:
                    time.sleep(0.2)
                    os.write(ours, typed.pop(0) + b"\n")
    os.close(ours)
    assert process.returncode == 0, text
    assert b"`x` is no integer" in text
    assert b"`maybe` is none of retry, skip, fail" in text
    assert (files / "two.txt").read_text().strip() == "7 no"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # what Linux says at the end
        return b""
