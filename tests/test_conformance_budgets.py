"""A fan-out of fifty calls exceeds no limit at any event: of calls, money or tokens, of one run or of several."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import planner.core.attempts
from planner import Assistant, Plan, Policy, Recorded, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.config import Config, Limits
from planner.core.events import StepFailed, StepInDoubt, StepStarted, StepSucceeded
from planner.core.ledger import Budget
from planner.journal import SqliteJournal
from planner.results import Result

ROOT = Path(__file__).parent.parent
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
UNITS, WIDTH, PROCESSES = 10, 50, 3
DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)


def note(context: ToolContext) -> int:
    """How many calls there were, with this one."""
    with (context.workspace / "calls").open("ab") as file:
        file.write(b".")
        return file.tell()


@tool(name="world.look", effect="read", resource=())
async def look(number: int, context: ToolContext) -> int:
    """Look at something; every third call fails, and every seventh may be tried again."""
    made = note(context)
    await asyncio.sleep(0.005 * (number % 4))
    if made % 3 == 0:
        raise ToolError("X-1", "no", error_class="failed" if made % 7 else "missing")
    return number


@tool(name="world.buy", effect="spend", control={}, resource=("thing:{number}",), cost_usd=1.0)
async def buy(number: int, context: ToolContext) -> int:
    """Buy something for a dollar, which is gone also if it fails."""
    return await look(number, context)


def fan(use: str, *, is_map: bool, **arguments: Any) -> Plan:
    """Fifty calls at once: as the items of one map, or as steps of their own."""
    common = {"use": use, "on_error": {"retry": 2, "then": "skip"}}
    if is_map:
        items = {"for_each": [*range(WIDTH)], "on_item_error": "drop", "args": arguments or {"number": "$item"}}
        return Plan.model_validate({"steps": [{"id": "s", **items, **common}]})
    steps = [{"id": f"s{n}", "args": arguments or {"number": n}, **common} for n in range(WIDTH)]
    return Plan.model_validate({"steps": steps, "answer": [f"${{s{n} ?? 0}}" for n in range(WIDTH)]})


def made(place: Path) -> int:
    file = place / "calls"
    return file.stat().st_size if file.exists() else 0


def opened(place: Path, limits: Limits, **options: Any) -> Assistant:
    settings = Config(policy=POLICY, limits=limits)
    options = {"model": ScriptedModel(lambda _: "word " * 1000, cost_usd=0.0)} | options
    return Assistant([look, buy], settings=settings, workspace=place, state=place / "state", environ={}, **options)


def carried_out(place: Path, plan: Plan, limits: Limits) -> tuple[Result, list[Recorded]]:
    events: list[Recorded] = []

    async def work() -> Result:
        async with opened(place, limits) as assistant:
            return await assistant.run("Look around", plan=plan, observe=events.append)

    return asyncio.run(work()), events


def most_tokens(events: Sequence[Recorded]) -> tuple[int, int]:
    """The most that was used and held at any event, and what was used in the end."""
    used, most, held = 0, 0, dict[str, int]()
    for event in (recorded.event for recorded in events):
        match event:
            case StepStarted():
                held[event.path] = event.held.tokens
            case StepSucceeded() | StepFailed():
                held.pop(event.path, None)
                used += sum(one.input_tokens + one.output_tokens for one in event.usage)
            case StepInDoubt():
                used += held.pop(event.path, 0)
            case _:
                pass
        most = max(most, used + sum(held.values()))
    return most, used


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(planner.core.attempts), "BACKOFF_S", 0.01)


@pytest.mark.parametrize("is_map", [True, False], ids=["map", "steps"])
@pytest.mark.parametrize(
    ("use", "limits"),
    [("world.look", Limits(calls=UNITS)), ("world.buy", Limits(cost_usd=UNITS)), ("world.buy", Limits(calls=UNITS))],
    ids=["calls", "money", "calls of effects"],
)
def test_fifty_calls_of_which_some_fail_and_some_are_tried_again_keep_a_limit_of_ten(
    tmp_path: Path, use: str, limits: Limits, is_map: bool
) -> None:
    result, events = carried_out(tmp_path, fan(use, is_map=is_map), limits)
    assert result.status == "over_budget"
    started = [recorded for recorded in events if isinstance(recorded.event, StepStarted)]
    assert (len(started), made(tmp_path)) == (UNITS, UNITS)
    assert any(isinstance(recorded.event, StepFailed) for recorded in events)
    assert result.cost_usd == (UNITS if use == "world.buy" else 0)


@pytest.mark.parametrize("is_map", [True, False], ids=["map", "steps"])
def test_fifty_agents_at_once_use_and_hold_no_more_tokens_than_there_are(tmp_path: Path, is_map: bool) -> None:
    plan = fan("agent.writer", is_map=is_map, task="say much")
    result, events = carried_out(tmp_path, plan, Limits(tokens=30_000))
    started = [recorded.event for recorded in events if isinstance(recorded.event, StepStarted)]
    assert result.status == "over_budget"
    assert 30_000 // (UNITS + 2) <= max(event.held.tokens for event in started) <= 30_000 // UNITS
    most, used = most_tokens(events)
    assert UNITS < len(started) < WIDTH
    assert result.tokens == used <= most <= 30_000


# several processes ------------------------------------------------------------------------------------------------


async def one_of_several(place: Path, limits: Limits, number: int) -> None:
    use = "world.look" if limits.tenant_day.calls else "world.buy"
    ahead = DAY - datetime.now(UTC)  # all see the same day, and a pause between two attempts ends
    async with opened(place, limits, clock=lambda: datetime.now(UTC) + ahead) as assistant:
        plan = fan(use, is_map=bool(number % 2))
        result = await assistant.run("Look around", plan=plan, run_id=f"run{number}")
        assert result.status == "over_budget", result
        assert f"tenant:local/{DAY:%Y-%m-%d}" in result.reason, result


def together(place: Path, limits: Limits) -> dict[str, Any]:
    """How often was called, and what was spent, by three processes that share one account."""
    vars(planner.core.attempts)["BACKOFF_S"] = 0.01
    pids = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            try:
                asyncio.run(one_of_several(place, limits, number))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return {"codes": codes, "made": made(place), **asyncio.run(spent(place))}


async def spent(place: Path) -> dict[str, Any]:
    journal = SqliteJournal.open(place / "state" / "journal.db")
    name = f"tenant:local/{DAY:%Y-%m-%d}"
    of_all = (await journal.accounts([name]))[name]
    own = [r.event for n in range(PROCESSES) for r in await journal.read(f"run{n}")]
    await journal.close()
    started = sum(isinstance(event, StepStarted) for event in own)
    return {"calls": of_all.calls, "cost_usd": of_all.cost_usd, "started": started}


@pytest.mark.parametrize("limit", ["calls", "cost_usd"])
def test_three_processes_together_keep_the_limit_of_the_account_that_they_share(tmp_path: Path, limit: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path), limit],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["codes"] == [0] * PROCESSES
    assert (found["made"], found["started"], found["calls"]) == (UNITS, UNITS, UNITS)
    assert found["cost_usd"] == (UNITS if limit == "cost_usd" else 0)


if __name__ == "__main__":
    account = Budget(calls=UNITS) if sys.argv[2] == "calls" else Budget(cost_usd=UNITS)
    print(json.dumps(together(Path(sys.argv[1]), Limits(tenant_day=account))))
