"""What became of a call: what it says of the other side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from planner import Assistant, Plan, Policy, Rule, ScriptedModel, ToolContext, tool
from planner.core.circuit import FAILURES
from planner.core.events import Event, Fault, StepFailed, StepInDoubt, StepParked, StepSucceeded
from planner.core.labels import Labelled
from planner.outcomes import is_up

POLICY = Policy(rules=(Rule(id="all", then="allow"),))


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (StepSucceeded(path="s1", value=Labelled()), True),
        (StepFailed(path="s1", fault=Fault(code="T-1", error_class="unavailable")), False),
        (StepFailed(path="s1", fault=Fault(code="T-1", error_class="missing")), None),
        (StepInDoubt(path="s1", reason="no answer in time", is_late=True), False),
        (StepInDoubt(path="s1", reason="the tool raised something"), None),
        (StepParked(path="s1"), None),
    ],
    ids=["succeeded", "unavailable", "missing", "late", "in doubt", "parked"],
)
def test_the_other_side_is_there_if_it_answers_and_is_not_if_it_is_silent(
    outcome: StepSucceeded | StepFailed | StepInDoubt | StepParked, says: bool | None
) -> None:
    assert is_up(outcome) is says


@tool(name="world.hang", effect="send", control={}, resource=(), on_doubt="idempotent", timeout_s=0.02)
async def hang(number: int, context: ToolContext) -> None:
    """Send a number to where nobody answers."""
    with (context.workspace / "sent").open("a") as file:
        file.write(f"{number}\n")
    await asyncio.sleep(30)


@tool(name="world.look", effect="fetch", control={}, resource=(), timeout_s=0.02)
async def look(number: int, context: ToolContext) -> None:
    """Look where nobody answers."""
    with (context.workspace / "sent").open("a") as file:
        file.write(f"{number}\n")
    await asyncio.sleep(30)


@pytest.mark.parametrize("use", ["world.hang", "world.look"])
def test_who_does_not_answer_is_left_alone_whatever_is_asked_of_it(use: str, tmp_path: Path) -> None:
    steps = [
        {
            "id": f"s{n}",
            "use": use,
            "args": {"number": n},
            "on_error": {"then": "skip"},
            "after": [f"s{n - 1}"][: n - 1],
        }
        for n in range(1, 9)
    ]
    plan = Plan.model_validate({"steps": steps, "answer": "done"})

    async def events() -> list[Event]:
        async with Assistant(
            [hang, look],
            model=ScriptedModel([]),
            policy=POLICY,
            on_ask="deny",
            workspace=tmp_path,
            state=tmp_path,
            environ={},
        ) as assistant:
            result = await assistant.run("Send them all", plan=plan)
            return [recorded.event for recorded in await assistant.journal.read(result.run_id)]

    faults = [event.fault.code for event in asyncio.run(events()) if isinstance(event, StepFailed)]
    assert len((tmp_path / "sent").read_text().splitlines()) == FAILURES
    assert faults[-1] == "T-299"
