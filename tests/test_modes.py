"""What planners may see: nothing from outside, a researcher of their own, or all that steps gave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Integrity, Policy, Result, tool
from planner.core.labels import leaves_of
from planner.core.policy import Mode
from planner.core.run import Run, StepState, callee_at
from planner.core.state import fold
from planner.roles import PlannerView
from planner.tools import Toolbox

ROOT = Path(__file__).parent.parent
sent: list[tuple[str, str]] = []


@tool(name="mail.send", effect="send", resource=(), control={}, recipients=("to",), payload=("text",))
def send(to: str, text: str) -> str:
    """Send a mail."""
    sent.append((to, text))
    return "sent"


Turn = Mapping[str, Any]


class Planner:
    """Says one plan after the other, and keeps what it was shown."""

    def __init__(self, *turns: Turn | Callable[[PlannerView], Turn]) -> None:
        self.turns = list(turns)
        self.views: list[PlannerView] = []

    async def __call__(self, view: PlannerView) -> Any:
        self.views.append(view)
        turn = self.turns[min(len(self.views), len(self.turns)) - 1]
        return turn(view) if callable(turn) else turn


def run(place: Path, planner: Planner, mode: Mode) -> tuple[Result, list[Run]]:
    """The result, and the run with its parts."""

    async def done() -> tuple[Result, list[Run]]:
        box = Toolbox.load(ROOT / "tools", only=["files.*", "text.*"]).merged(Toolbox.of(send))
        policy = Policy.by_declaration().model_copy(update={"mode": mode})
        options: dict[str, Any] = {"roles": {"planner": planner}, "policy": policy, "environ": {}}
        async with Assistant(box, workspace=place / "work", state=place, **options) as assistant:
            result = await assistant.run("Do what stands there", run_id="run")
            ids = [one.run_id for one in await assistant.journal.runs()]
            return result, [fold(await assistant.journal.read(id_)) for id_ in sorted(ids)]

    sent.clear()
    (place / "work").mkdir(exist_ok=True)
    (place / "work" / "SETUP.md").write_text("1. Put `on` into flag.txt.\n2. Mail me@x.test.\n")
    return asyncio.run(done())


def called(made: Run, name: str) -> StepState:
    """The one call of that callee."""
    (state,) = (state for path, state in made.steps.items() if callee_at(made, path) == name)
    return state


READ = {"id": "s1", "use": "files.read", "args": {"path": "SETUP.md"}}
WRITE = {"id": "s2", "use": "files.write", "args": {"path": "flag.txt", "text": "on"}}
MAIL = {"id": "s3", "use": "mail.send", "args": {"to": "me@x.test", "text": "done"}}


def test_an_open_planner_reads_steps_and_follows_them_where_they_can_be_taken_back(tmp_path: Path) -> None:
    planner = Planner({"steps": [READ], "then": "plan"}, {"steps": [WRITE], "answer": "done"})
    result, (made,) = run(tmp_path, planner, "open")
    assert result.status == "unverified"
    assert (tmp_path / "work" / "flag.txt").read_text() == "on"
    first, second = planner.views
    assert first.results == ()
    assert [(one.step, one.callee) for one in second.results] == [("s1", "files.read")]
    assert "Put `on` into flag.txt" in second.results[0].value
    assert (made.exposed, made.turns, made.revision) == (1, 1, 2)
    written = called(made, "files.write").arguments
    assert written is not None
    assert all(label.integrity is Integrity.UNTRUSTED for _, _, label in leaves_of(written))
    assert result.label.integrity is Integrity.UNTRUSTED


def test_everything_else_that_an_exposed_planner_wants_needs_a_person(tmp_path: Path) -> None:
    planner = Planner({"steps": [READ], "then": "plan"}, {"steps": [WRITE, MAIL]})
    result, (made,) = run(tmp_path, planner, "open")
    assert result.status == "waiting"
    assert sent == []
    verdict = called(made, "mail.send").verdict
    assert verdict is not None
    assert set(verdict.rules) == {"as-declared", "mode:open", "recipient:to"}
    assert (tmp_path / "work" / "flag.txt").read_text() == "on"


@pytest.mark.parametrize("mode", ["sealed", "explore"])
def test_a_planner_that_is_not_open_sees_nothing_of_it_and_cannot_ask_to(tmp_path: Path, mode: Mode) -> None:
    planner = Planner({"steps": [READ], "then": "plan"})
    result, (made,) = run(tmp_path, planner, mode)
    assert result.status == "failed"
    assert result.fault is not None
    assert result.fault.code == "P-130"
    assert all(view.results == () and not view.may_go_on for view in planner.views)
    assert made.exposed == 0


def test_an_open_planner_goes_on_only_so_often(tmp_path: Path) -> None:
    counted = Planner(lambda view: {"steps": [numbered(view)], "then": "plan" if view.may_go_on else "done"})
    result, (made,) = run(tmp_path, counted, "open")
    assert result.status == "unverified"
    assert made.turns == made.started.setup.max_turns


def numbered(view: PlannerView) -> Turn:
    count = view.revision
    return {"id": f"s{count}", "use": "files.write", "args": {"path": f"{count}.txt", "text": "x"}}


RESEARCH = {"id": "s1", "use": "agent.researcher", "args": {"goal": "Whom does SETUP.md want mailed?", "about": "hi"}}


def test_a_researcher_looks_wherever_that_leads_and_its_answer_is_an_outsiders(tmp_path: Path) -> None:
    def asked(view: PlannerView) -> Turn:
        if not view.goal.startswith("Whom"):
            return {"steps": [RESEARCH, {**MAIL, "args": {"to": "$s1", "text": "x"}}]}
        if len(view.results) == 1:
            return {"steps": [READ], "then": "plan"}
        return {"steps": [], "answer": "me@x.test"}

    planner = Planner(asked)
    result, (parent, child) = run(tmp_path, planner, "explore")
    assert result.status == "waiting"
    assert sent == []
    assert (parent.exposed, child.exposed) == (0, 2)
    value = parent.step("s1").value
    assert value is not None
    assert (value.value, value.label.integrity) == ("me@x.test", Integrity.UNTRUSTED)
    assert [one.step for one in planner.views[2].results] == ["attachments.about", "s1"]
    assert {callee.declaration.effect for callee in child.started.setup.callees} <= {"pure", "read", "fetch"}
    assert all(callee.kind in {"tool", "agent"} for callee in child.started.setup.callees)


def test_there_is_a_researcher_only_where_one_is_wanted(tmp_path: Path) -> None:
    planner = Planner({"steps": [RESEARCH]})
    result, _ = run(tmp_path, planner, "sealed")
    assert result.status == "failed"
