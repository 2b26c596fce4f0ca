"""Planner inside another program: what is allowed by default and by declaration, and plans of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Policy, Result, Rule, UserError, run_sync, tool
from planner.core.labels import Json

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
