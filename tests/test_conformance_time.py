"""Times far off: a run that waits for weeks costs nothing, and goes on in whatever process comes along afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import planner.core.attempts
from planner import Assistant, Plan, Policy, Principal, Recorded, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.core.events import Event, HumanAnswered, RetryScheduled, RunFinished, WaitStarted
from planner.journal import Lease, SqliteJournal
from planner.journal.database import Database
from planner.journal.sqlite import MIGRATIONS

ROOT = Path(__file__).parent.parent
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
BEGAN = datetime(2026, 11, 20, 9, tzinfo=UTC)
DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)
RUN = "run"


@tool(name="world.busy", effect="read", resource=())
def busy(context: ToolContext) -> str:
    """Ask to be left alone for a week, once; nobody is left alone for longer than a day."""
    file = context.workspace / "asked"
    if not file.exists():
        file.touch()
        raise ToolError("X-1", "too busy", error_class="limit", retry_after_s=7 * 86_400)
    return "at last"


@tool(name="world.put", effect="write", control={}, resource=())
def put(text: str, context: ToolContext) -> str:
    """Write a line."""
    with (context.workspace / "lines").open("a") as file:
        file.write(f"{text}\n")
    return text


PLANS: dict[str, list[dict[str, Any]]] = {
    "wait": [
        {"id": "s1", "use": "wait.until", "args": {"seconds": 14 * 86_400}},
        {"id": "s2", "use": "world.put", "args": {"text": "after two weeks"}, "after": ["s1"]},
    ],
    "wait a little": [
        {"id": "s1", "use": "wait.until", "args": {"seconds": 30}},
        {"id": "s2", "use": "world.put", "args": {"text": "after a while"}, "after": ["s1"]},
    ],
    "wait for a date": [
        {"id": "s1", "use": "wait.until", "args": {"at": "2026-12-04T09:00Z"}},
        {"id": "s2", "use": "world.put", "args": {"text": "after two weeks"}, "after": ["s1"]},
    ],
    "question": [
        {
            "id": "s1",
            "use": "human.user",
            "args": {"question": "Which?"},
            "timeout_s": 14 * 86_400,
            "on_error": {"then": "skip"},
        },
        {"id": "s2", "use": "world.put", "args": {"text": "${s1 ?? 'nobody said'}"}},
    ],
    "event": [
        {
            "id": "s1",
            "use": "wait.event",
            "args": {"name": "go"},
            "timeout_s": 14 * 86_400,
            "on_error": {"then": "skip"},
        },
        {"id": "s2", "use": "world.put", "args": {"text": "${s1 ?? 'nothing came'}"}},
    ],
    "retry": [
        {"id": "s1", "use": "world.busy", "on_error": {"retry": 1}},
        {"id": "s2", "use": "world.put", "args": {"text": "$s1"}},
    ],
    "nested": [
        {"id": "s1", "use": "plan.goal", "args": {"goal": "Wait a bit", "allow": ["wait.*", "world.*"]}},
        {"id": "s2", "use": "world.put", "args": {"text": "${s1}, and then"}},
    ],
}
NESTED = [
    {"id": "s1", "use": "wait.until", "args": {"seconds": "1209600"}},
    {"id": "s2", "use": "world.put", "args": {"text": "waited"}, "after": ["s1"]},
]


class Doomed(SqliteJournal):
    """The real journal, in a process that is killed once a run inside another one ended, or a short wait began."""

    async def append(self, lease: Lease, expected: int, events: Sequence[Event], **more: Any) -> tuple[Recorded, ...]:
        recorded = await super().append(lease, expected, events, **more)
        is_inner_end = lease.run_id != RUN and any(isinstance(event, RunFinished) for event in events)
        if is_inner_end or any(isinstance(event, WaitStarted) and event.seconds == 30 for event in events):
            os.kill(os.getpid(), signal.SIGKILL)
        return recorded


async def session(place: Path, plan: str, passed_s: float, *, is_doomed: bool = False) -> dict[str, Any]:
    """What one process at that time finds and leaves."""
    now = BEGAN + timedelta(seconds=passed_s)
    model = ScriptedModel(lambda _: json.dumps({"steps": NESTED}))
    async with Assistant(
        [busy, put], model=model, policy=POLICY, workspace=place, state=place, environ={}, clock=lambda: now
    ) as assistant:
        if is_doomed:
            assistant._journal = Doomed(Database(place / "journal.db", MIGRATIONS))
        if passed_s == 0:
            given = Plan.model_validate({"steps": PLANS[plan]})
            woken = [await assistant.run("Wait", plan=given, run_id=RUN, as_=Principal(name="ada"))]
        else:
            woken = [*await assistant.wake()]
        events = [len(await assistant.journal.read(one.run_id)) for one in await assistant.journal.runs()]
        lines = (place / "lines").read_text().splitlines() if (place / "lines").exists() else []
        statuses = {one.run_id: one.status for one in await assistant.journal.runs()}
    return {"woken": len(woken), "status": statuses[RUN], "events": sum(events), "lines": lines}


def sessions(place: Path, plan: str, times: list[str]) -> list[dict[str, Any]]:
    """What processes of their own at these times found, one after the other; one is killed where there is a `!`."""
    vars(planner.core.attempts)["BACKOFF_S"] = 0.01
    for number, time in enumerate(times):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            try:
                found = asyncio.run(session(place, plan, float(time.strip("!")), is_doomed="!" in time))
                (place / f"{number}.json").write_text(json.dumps(found))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == (-signal.SIGKILL if "!" in time else 0)
    files = [place / f"{number}.json" for number in range(len(times))]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def found_by(place: Path, plan: str, *times: timedelta, killed: timedelta | None = None) -> list[dict[str, Any]]:
    """What this file, as a program of its own, printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            __file__,
            str(place),
            plan,
            *(f"{t.total_seconds()}{'!' * (t == killed)}" for t in times),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        ("wait", "after two weeks"),
        ("wait for a date", "after two weeks"),
        ("question", "nobody said"),
        ("event", "nothing came"),
    ],
)
def test_a_run_that_waits_for_two_weeks_goes_on_when_they_are_over_and_not_before(
    tmp_path: Path, plan: str, line: str
) -> None:
    first, *early, last, later = found_by(
        tmp_path, plan, 0 * DAY, MINUTE, 13 * DAY, 14 * DAY - SECOND, 14 * DAY + SECOND, 15 * DAY
    )
    assert first["status"] == "waiting"
    for one in early:  # nothing was done, nothing written
        assert one == {**first, "woken": 0}
    assert (last["status"], last["woken"], last["lines"]) == ("unverified", 1, [line])
    assert later == {**last, "woken": 0}


def test_a_call_that_asked_to_be_left_alone_for_a_week_is_made_again_after_a_day(tmp_path: Path) -> None:
    first, *early, last = found_by(tmp_path, "retry", 0 * DAY, MINUTE, DAY - MINUTE, DAY)
    assert first["status"] == "waiting"
    for one in early:
        assert one == {**first, "woken": 0}
    assert (last["status"], last["woken"], last["lines"]) == ("unverified", 1, ["at last"])


@tool(name="world.full", effect="read", resource=())
def full(asked_s: float) -> str:
    """Ask to be left alone for so long."""
    raise ToolError("X-2", "full", error_class="unavailable", retry_after_s=asked_s)


async def _pauses(place: Path, asked_s: float) -> list[timedelta]:
    """The pauses of some calls, which all ask for one of so long."""
    step: dict[str, Any] = {"id": "s1", "for_each": [asked_s] * 4, "on_error": {"retry": 1}}
    steps = [{**step, "use": "world.full", "args": {"asked_s": "$item"}}]
    async with Assistant(
        [full],
        model=ScriptedModel([]),
        policy=POLICY,
        workspace=place,
        state=place,
        environ={},
        clock=lambda: BEGAN,
    ) as assistant:
        await assistant.run("Wait", plan=Plan.model_validate({"steps": steps}), run_id=RUN)
        events = [recorded.event for recorded in await assistant.journal.read(RUN)]
    return [event.due - BEGAN for event in events if isinstance(event, RetryScheduled)]


@pytest.mark.parametrize(("asked_s", "pause"), [(600.0, 600 * SECOND), (1e15, DAY)])
def test_a_pause_that_was_asked_for_is_not_cut_short_by_chance_and_ends_some_day(
    asked_s: float, pause: timedelta, tmp_path: Path
) -> None:
    assert asyncio.run(_pauses(tmp_path, asked_s)) == [pause] * 4


def test_a_run_waits_for_the_run_inside_it_and_goes_on_after_that(tmp_path: Path) -> None:
    first, *early, last = found_by(tmp_path, "nested", 0 * DAY, MINUTE, 13 * DAY, 14 * DAY + SECOND)
    assert first["status"] == "waiting"
    for one in early:
        assert one == {**first, "woken": 0}
    assert (last["status"], last["lines"]) == ("unverified", ["waited", "waited, and then"])


def test_a_run_is_told_that_the_one_inside_it_has_ended_also_by_a_process_that_is_killed_then(tmp_path: Path) -> None:
    at = 14 * DAY + SECOND
    first, last = found_by(tmp_path, "nested", 0 * DAY, at, 15 * DAY, killed=at)
    assert first["status"] == "waiting"
    assert (last["status"], last["lines"]) == ("unverified", ["waited", "waited, and then"])


def test_a_run_whose_process_is_killed_while_it_waits_is_woken_when_its_time_has_come(tmp_path: Path) -> None:
    (last,) = found_by(tmp_path, "wait a little", 0 * DAY, MINUTE, killed=0 * DAY)
    assert (last["status"], last["lines"]) == ("unverified", ["after a while"])


def test_a_run_that_is_broken_off_while_it_waits_is_woken_when_somebody_looks_again(tmp_path: Path) -> None:
    async def broken_off() -> None:
        begun = asyncio.Event()
        now = datetime.now(UTC)
        async with Assistant(
            [busy, put], model=ScriptedModel([]), policy=POLICY, workspace=tmp_path, state=tmp_path, environ={}
        ) as assistant:
            given = Plan.model_validate({"steps": PLANS["wait a little"]})
            work = assistant.run("Wait", plan=given, run_id=RUN, observe=lambda one: _tell_wait(one, begun))
            running = asyncio.create_task(work)
            await begun.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            (pending,) = await assistant.journal.pending(datetime.now(UTC))
            assert pending.due_at is not None
            assert now <= pending.due_at <= datetime.now(UTC)

    asyncio.run(broken_off())
    (last,) = found_by(tmp_path, "wait a little", 365 * DAY)
    assert (last["status"], last["lines"]) == ("unverified", ["after a while"])


def _tell_wait(recorded: Recorded, begun: asyncio.Event) -> None:
    if isinstance(recorded.event, WaitStarted):
        begun.set()


async def _answered(place: Path) -> dict[str, Any]:
    now = BEGAN + 13 * DAY
    async with Assistant(
        [busy, put],
        model=ScriptedModel([]),
        policy=POLICY,
        workspace=place,
        state=place,
        environ={},
        clock=lambda: now,
    ) as assistant:
        result = await assistant.tell(RUN, HumanAnswered(path="s1", answer="value", value="that one", by="ada"))
        return {"status": result.status, "lines": (place / "lines").read_text().splitlines()}


def test_an_answer_on_the_thirteenth_day_counts_and_the_time_limit_does_not_any_more(tmp_path: Path) -> None:
    found_by(tmp_path, "question", 0 * DAY)
    assert asyncio.run(_answered(tmp_path)) == {"status": "unverified", "lines": ["that one"]}
    (after,) = found_by(tmp_path, "question", 15 * DAY)
    assert (after["woken"], after["lines"]) == (0, ["that one"])


if __name__ == "__main__":
    print(json.dumps(sessions(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])))
