"""What shared accounts are charged: every call once, what nobody knows in full, and what was not made not at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

import planner.core.attempts
from planner import Assistant, Plan, Policy, Principal, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.config import Config, Limits
from planner.core.events import PauseLifted, PauseRequested, Steered, UndoRequested
from planner.core.ledger import PROMPT_TOKENS, Budget, Spent
from planner.core.replay import replayed
from planner.core.run import Run
from planner.core.state import fold
from planner.llm.model import Ask, Completion

T = TypeVar("T")
PATIENCE_S = 120.0
"""Beyond this a test hangs."""
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BEGAN_S = time.monotonic()
DAY = "all/2026-11-20"


def calls(context: ToolContext) -> int:
    """How many calls there were, with this one."""
    with (context.workspace / "calls").open("ab") as file:
        file.write(b".")
        return file.tell()


def unput(text: str, context: ToolContext) -> None:
    (context.workspace / text).unlink()


@tool(name="world.put", effect="write", control={}, resource=(), on_doubt="idempotent", undo=unput, cost_usd=1.0)
async def put(text: str, context: ToolContext) -> str:
    """Put a file."""
    (context.workspace / text).touch()
    return text


@tool(name="world.hang", effect="write", control={}, resource=(), on_doubt="idempotent", timeout_s=0.05)
async def hang(context: ToolContext) -> str:
    """Hang, but for the third time."""
    await asyncio.sleep(PATIENCE_S if calls(context) < 3 else 0)
    return "done"


@tool(name="world.nap", effect="read", resource=(), concurrency=1, cost_usd=1.0)
async def nap(seconds: float) -> str:
    """Take a nap."""
    await asyncio.sleep(seconds)
    return "rested"


@tool(name="world.hold", effect="read", resource=(), concurrency=1, cost_usd=1.0)
async def hold(context: ToolContext) -> str:
    """Look once there is a file `go`."""
    while not (context.workspace / "go").exists():  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)
    return "held"


@tool(name="world.down", effect="read", resource=(), cost_usd=1.0)
async def down() -> str:
    """Be unavailable."""
    raise ToolError("X-1", "no", error_class="unavailable")


@tool(name="world.die", effect="read", resource=())
async def die() -> str:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def opened(place: Path, limits: Limits, model: ScriptedModel | None = None) -> Assistant:
    return Assistant(
        [put, hang, nap, hold, down, die],
        settings=Config(policy=POLICY, limits=limits),
        model=model or ScriptedModel([]),
        workspace=place,
        state=place / "state",
        environ={},
        clock=lambda: NOON + timedelta(seconds=time.monotonic() - BEGAN_S),
    )


def after(assistant: Assistant, work: Callable[[Assistant], Coroutine[Any, Any, T]]) -> tuple[T, Run, Spent]:
    """What the work gives, the run `run` then, and what the account of the day was charged."""

    async def done() -> tuple[T, Run, Spent]:
        async with assistant, asyncio.timeout(PATIENCE_S):
            given = await work(assistant)
            run = fold(await assistant.journal.read("run"))
            return given, run, (await assistant.journal.accounts([DAY]))[DAY]

    return asyncio.run(done())


async def seen(assistant: Assistant, kind: str) -> None:
    """Waits until the run has such an event."""
    while "run" not in {one.run_id for one in await assistant.journal.runs()}:  # noqa: ASYNC110 - it is about to be
        await asyncio.sleep(0.01)
    async for recorded in assistant.journal.subscribe("run"):
        if recorded.event.type == kind:
            return


def plan_of(*steps: dict[str, Any], **fields: Any) -> Plan:
    return Plan.model_validate({"steps": [{"id": f"s{n}", **one} for n, one in enumerate(steps, 1)], **fields})


def use(name: str, **fields: Any) -> dict[str, Any]:
    arguments = {"put": {"text": "a"}, "nap": {"seconds": 0.3}}
    return {"use": f"world.{name}", "args": arguments.get(name, {}), **fields}


def test_taking_back_is_charged_but_never_refused(tmp_path: Path) -> None:
    async def work(assistant: Assistant) -> str:
        await assistant.run("Put", plan=plan_of(use("put")), run_id="run")
        assert (tmp_path / "a").exists()
        return (await assistant.tell("run", UndoRequested(by="ann"))).status

    status, _, charged = after(opened(tmp_path, Limits(day=Budget(calls=1))), work)
    assert (status, charged.calls, (tmp_path / "a").exists()) == ("cancelled", 2, False)


def test_a_call_in_doubt_is_made_again_only_while_there_is_room(tmp_path: Path) -> None:
    plan = plan_of(use("hang"))
    found, run, charged = after(
        opened(tmp_path, Limits(day=Budget(calls=2))), lambda a: a.run("Hang", plan=plan, run_id="run")
    )
    assert (found.status, run.spent.calls, charged.calls) == ("over_budget", 2, 2)
    assert (tmp_path / "calls").stat().st_size == 2


def test_a_run_whose_process_was_killed_does_not_ask_for_room_for_ever(tmp_path: Path) -> None:
    limits = Limits(day=Budget(calls=1))
    pid = os.fork()
    if pid == 0:
        asyncio.run(opened(tmp_path, limits).run("Die", plan=plan_of(use("die")), run_id="run"))
    os.waitpid(pid, 0)

    async def work(assistant: Assistant) -> tuple[str, str]:
        other = await assistant.run("Nap", plan=plan_of(use("nap")), run_id="other")
        return other.status, (await assistant.resume("run")).status

    statuses, _, charged = after(opened(tmp_path, limits), work)
    assert (statuses, charged.calls) == (("over_budget", "over_budget"), 1)


def test_what_a_judge_uses_counts_and_without_room_nobody_judges(tmp_path: Path) -> None:
    for number, (most, status, asked) in enumerate([(100_000, "completed", 1), (100, "unverified", 0)]):
        place = tmp_path / str(number)
        place.mkdir()
        model = ScriptedModel(lambda _: '{"is_met": true}', cost_usd=0.0)
        plan = plan_of({"let": "fine"})

        async def work(assistant: Assistant, plan: Plan = plan) -> str:
            return (await assistant.run("Be kind", plan=plan, run_id="run", success="it is kind")).status

        found, run, charged = after(opened(place, Limits(day=Budget(tokens=most)), model), work)
        assert (found, len(model.asks), charged.tokens) == (status, asked, run.spent.tokens)


def test_a_call_that_is_not_made_is_not_charged(tmp_path: Path) -> None:
    plan = plan_of(*(use("hold") for _ in range(3)), answer=["$s1", "$s2", "$s3"])

    async def work(assistant: Assistant) -> str:
        running = asyncio.create_task(assistant.run("Hold", plan=plan, run_id="run"))
        await seen(assistant, "StepStarted")
        await assistant.tell("run", PauseRequested(by="ann"))
        (tmp_path / "go").touch()
        assert (await running).status == "paused"
        return (await assistant.tell("run", PauseLifted(by="ann"))).status

    status, run, charged = after(opened(tmp_path, Limits(day=Budget(cost_usd=10))), work)
    assert (status, run.spent.cost_usd, charged.cost_usd, charged.calls) == ("unverified", 3, 3, 3)


def test_a_call_that_an_open_circuit_refuses_is_not_charged(tmp_path: Path) -> None:
    steps = [use("down", on_error={"then": "skip"}, after=[f"s{n}"] if n else []) for n in range(9)]
    plan = plan_of(*steps, answer="over")

    async def work(assistant: Assistant) -> str:
        found = await assistant.run("Look", plan=plan, run_id="run")
        assert replayed(await assistant.journal.read("run")) == ()
        return found.status

    status, run, charged = after(opened(tmp_path, Limits(day=Budget(cost_usd=100))), work)
    assert (status, run.spent.calls, run.spent.cost_usd) == ("unverified", 5, 5)
    assert (charged.calls, charged.cost_usd) == (5, 5)


def test_a_model_call_that_came_to_no_end_counts_as_all_that_was_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(planner.core.attempts), "BACKOFF_S", 0.01)
    step = {"use": "agent.writer", "args": {"task": "write"}, "timeout_s": 0.05}
    plan = plan_of({**step, "on_error": {"retry": 1, "then": "skip"}}, answer="over")
    model = ScriptedModel(lambda _: "word", cost_usd=0.5, delay_s=1.0)
    _, run, charged = after(
        opened(tmp_path, Limits(day=Budget(tokens=100_000)), model),
        lambda a: a.run("Write", plan=plan, run_id="run"),
    )
    assert run.spent.tokens == charged.tokens > 2 * PROMPT_TOKENS
    assert run.spent.unpriced == charged.unpriced == 2


class Held(ScriptedModel):
    """Answers twice, each time once it is let go."""

    def __init__(self, text: str) -> None:
        super().__init__(lambda _: text, cost_usd=0.0)
        self.asked, self.first, self.second = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def complete(self, ask: Ask) -> Completion:
        go = self.second if self.asked.is_set() else self.first
        self.asked.set()
        await go.wait()
        return await super().complete(ask)


def test_what_a_planner_used_counts_also_where_nobody_waits_for_its_plan_any_more(tmp_path: Path) -> None:
    model = Held(json.dumps({"steps": [{"id": "s1", "let": 1}]}))

    async def work(assistant: Assistant) -> str:
        running = asyncio.create_task(assistant.run("Count", run_id="run", as_=Principal(name="ann")))
        await model.asked.wait()
        await assistant.tell("run", Steered(by="ann", text="to one"))
        model.first.set()
        await seen(assistant, "AnswerDropped")
        model.second.set()
        return (await running).status

    status, run, charged = after(opened(tmp_path, Limits(day=Budget(tokens=100_000)), model), work)
    assert (status, len(model.asks)) == ("unverified", 2)
    assert run.spent.tokens == charged.tokens > 2 * 300


def test_a_call_that_only_looks_lasts_no_longer_than_the_run_may(tmp_path: Path) -> None:
    assistant = Assistant(
        [nap],
        settings=Config(policy=POLICY, limits=Limits(seconds=1)),
        model=ScriptedModel([]),
        workspace=tmp_path,
        state=tmp_path / "state",
        environ={},
    )
    plan = plan_of({"use": "world.nap", "args": {"seconds": PATIENCE_S}})

    async def work() -> tuple[str, str, float]:
        async with assistant:
            found = await assistant.run("Nap", plan=plan)
            assert found.fault is not None
            return found.status, found.fault.code, found.seconds

    status, code, seconds = asyncio.run(work())
    assert (status, code) == ("over_budget", "A-111")
    assert seconds < PATIENCE_S / 4
