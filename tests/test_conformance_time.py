"""Times far off: a run that waits for weeks costs nothing, and goes on in whatever process comes along afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import planner.core.attempts
from planner import Assistant, Plan, Policy, Principal, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.core.events import HumanAnswered

ROOT = Path(__file__).parent.parent
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
BEGAN = datetime(2026, 11, 20, 9, tzinfo=UTC)
DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)
RUN = "run"


@tool(name="world.busy", effect="read", resource=())
def busy(context: ToolContext) -> str:
    """Ask to be left alone for a week, once."""
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


async def session(place: Path, plan: str, passed_s: float) -> dict[str, Any]:
    """What one process at that time finds and leaves."""
    now = BEGAN + timedelta(seconds=passed_s)
    model = ScriptedModel(lambda _: json.dumps({"steps": NESTED}))
    async with Assistant(
        [busy, put], model=model, policy=POLICY, workspace=place, state=place, environ={}, clock=lambda: now
    ) as assistant:
        if passed_s == 0:
            given = Plan.model_validate({"steps": PLANS[plan]})
            woken = [await assistant.run("Wait", plan=given, run_id=RUN, as_=Principal(name="ada"))]
        else:
            woken = [*await assistant.wake()]
        events = [len(await assistant.journal.read(one.run_id)) for one in await assistant.journal.runs()]
        lines = (place / "lines").read_text().splitlines() if (place / "lines").exists() else []
        statuses = {one.run_id: one.status for one in await assistant.journal.runs()}
    return {"woken": len(woken), "status": statuses[RUN], "events": sum(events), "lines": lines}


def sessions(place: Path, plan: str, times: list[float]) -> list[dict[str, Any]]:
    """What processes of their own at these times found, one after the other."""
    vars(planner.core.attempts)["BACKOFF_S"] = 0.01
    for number, passed_s in enumerate(times):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            try:
                found = asyncio.run(session(place, plan, passed_s))
                (place / f"{number}.json").write_text(json.dumps(found))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return [json.loads((place / f"{number}.json").read_text()) for number in range(len(times))]


def found_by(place: Path, plan: str, *times: timedelta) -> list[dict[str, Any]]:
    """What this file, as a program of its own, printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(place), plan, *(str(t.total_seconds()) for t in times)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
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


def test_a_call_that_asked_to_be_left_alone_for_a_week_is_made_again_after_it(tmp_path: Path) -> None:
    first, *early, last = found_by(tmp_path, "retry", 0 * DAY, MINUTE, 3 * DAY, 11 * DAY)
    assert first["status"] == "waiting"
    for one in early:
        assert one == {**first, "woken": 0}
    assert (last["status"], last["woken"], last["lines"]) == ("unverified", 1, ["at last"])


def test_a_run_waits_for_the_run_inside_it_and_goes_on_after_that(tmp_path: Path) -> None:
    first, *early, last = found_by(tmp_path, "nested", 0 * DAY, MINUTE, 13 * DAY, 14 * DAY + SECOND)
    assert first["status"] == "waiting"
    for one in early:
        assert one == {**first, "woken": 0}
    assert (last["status"], last["lines"]) == ("unverified", ["waited", "waited, and then"])


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
    print(json.dumps(sessions(Path(sys.argv[1]), sys.argv[2], [float(word) for word in sys.argv[3:]])))
