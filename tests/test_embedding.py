"""Planner inside another program, as `docs/embedding.md` tells it: what is allowed, own plans, and the example."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Card, Plan, Policy, Principal, Result, Rule, Toolbox, UserError, roles, run_sync, tool
from planner.core.labels import Json
from planner.tools import Parameter

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "embedding.md").read_text()
EXAMPLE, DECLARING, _, ANSWERING = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(TOLD,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DONE: list[str] = []


@tool(name="bank.pay", effect="spend", control={"to": "trusted"})
def pay(to: str) -> str:
    """Pay."""
    DONE.append(to)
    return "paid"


@tool(name="web.look", effect="fetch", control={"url": "trusted"})
def look(url: str) -> str:
    """Look at a page."""
    return url


def bare(text: str) -> str:
    """Do whatever this does."""
    DONE.append(text)
    return text


@tool
def marked(text: str) -> str:
    """Do whatever this does."""
    return bare(text)


def ran(tmp_path: Path, use: str, *, plan: Any = None, policy: Policy | None = None, **args: Json) -> Result:
    async def work() -> Result:
        tools = [pay, look, bare, marked]
        state = tmp_path / "state"
        async with Assistant(tools, policy=policy, workspace=tmp_path, state=state, environ={}) as assistant:
            return await assistant.run("Do it", plan=plan or {"steps": [{"id": "s1", "use": use, "args": args}]})

    DONE.clear()
    return run_sync(work())


@pytest.mark.parametrize("use", ["test_embedding.bare", "test_embedding.marked"])
@pytest.mark.parametrize("policy", [None, Policy.by_declaration()], ids=["default", "by declaration"])
def test_a_function_that_declares_nothing_is_asked_for_with_its_arguments_trusted(
    tmp_path: Path, use: str, policy: Policy | None
) -> None:
    result = ran(tmp_path, use, policy=policy, text="rm")
    assert (result.status, DONE) == ("waiting", [])


def test_by_default_what_spends_or_is_seen_outside_is_asked_for(tmp_path: Path) -> None:
    assert ran(tmp_path, "bank.pay", to="ada").status == "waiting"
    assert ran(tmp_path, "web.look", url="https://example.org").status == "waiting"
    assert DONE == []


def test_by_declaration_a_call_in_the_principals_own_words_needs_no_card(tmp_path: Path) -> None:
    assert ran(tmp_path, "web.look", policy=Policy.by_declaration(), url="https://example.org").is_ok
    assert ran(tmp_path, "bank.pay", policy=Policy.by_declaration(), to="ada").is_ok
    assert DONE == ["ada"]


def test_rules_of_ones_own_have_a_version_made_from_them() -> None:
    one, same, other = (Policy(rules=(Rule(id=name, then="allow"),)) for name in ("a", "a", "b"))
    versions = [Assistant([pay], policy=policy, environ={}).policy.version for policy in (one, same, other)]
    assert versions[0] == versions[1] != versions[2]
    assert Assistant([pay], policy=one.model_copy(update={"version": "7"}), environ={}).policy.version == "7"


def test_a_plan_may_come_as_an_object_and_one_that_is_none_begins_no_run(tmp_path: Path) -> None:
    plan = {"steps": [{"id": "s1", "let": "${1 + 1}"}]}
    assert ran(tmp_path, "", plan=plan).value == 2
    with pytest.raises(UserError, match=r"U-452.*`steps\[0\].let_` of the plan"):
        ran(tmp_path, "", plan={"steps": [{"id": "s1", "let_": 1}]})


# the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_example_as_it_stands() -> None:
    assert (ROOT / "examples" / "bank.py").read_text() == EXAMPLE


def test_the_example_runs_without_a_model_and_says_what_the_page_says(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "bank.py")]
    environ = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""}
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    wanted, said = (sorted(text.splitlines()) for text in (TOLD, ran.stdout))  # what is apart may come in any order
    assert said == wanted, "run `python examples/bank.py`, and copy what it says into docs/embedding.md"


def test_a_tool_is_declared_as_the_page_declares_it() -> None:
    async def pay_anybody(**arguments: Json) -> Json:
        return arguments

    names = {"read_mail": pay, "balance": look, "pay": pay_anybody, "Toolbox": Toolbox, "Parameter": Parameter}
    names |= {"Assistant": lambda box: box}
    pages_own = DECLARING.replace('"bank.pay"', '"bank.transfer"')
    exec(compile(pages_own, "<embedding>", "exec"), names)
    callee = names["assistant"].catalogue["bank.transfer"]  # type: ignore[attr-defined]
    assert (callee.declaration.effect, callee.result, len(callee.parameters)) == ("spend", "text", 2)


def test_cards_are_answered_later_as_the_page_answers_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> Result:
        async with Assistant([pay], workspace=tmp_path, state=tmp_path / "state", environ={}) as assistant:
            plan = Plan.model_validate({"steps": [{"id": "s1", "use": "bank.pay", "args": {"to": "ada"}}]})
            body = ANSWERING.replace("assistant.run(goal,", "assistant.run(goal, plan=plan,")
            code = compile(body, "<embedding>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            names: dict[str, Any] = {"assistant": assistant, "Principal": Principal, "goal": "Pay", "plan": plan}
            await eval(code, names)
            result: Result = names["result"]
            return result

    assert asyncio.run(work()).status == "denied"
    assert capsys.readouterr().out.startswith("s1 bank.pay {'to': 'ada'} ")


def test_the_page_names_every_role_with_the_fields_of_its_view() -> None:
    section = PAGE.partition("\n## Roles\n")[2].partition("\n## ")[0]
    for role in roles.TAKEN:
        (row,) = re.findall(rf"^\| `{role}` \| (.*) \|$", section, re.MULTILINE)
        view = getattr(roles, f"{role.capitalize()}View")
        assert set(view.model_fields) <= set(re.findall(r"`(\w+)`", row))


def test_a_card_that_is_left_open_lets_the_run_wait(tmp_path: Path) -> None:
    async def later(card: Card) -> None:
        return None

    async def work() -> Result:
        options: Any = {"workspace": tmp_path, "state": tmp_path / "state", "environ": {}, "approver": later}
        async with Assistant([pay], **options) as assistant:
            return await assistant.run("Pay", plan={"steps": [{"id": "s1", "use": "bank.pay", "args": {"to": "a"}}]})

    assert run_sync(work()).status == "waiting"
