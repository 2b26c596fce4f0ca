"""Goals as people give them, with the plans and attachments that come along."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Integrity, Plan, Policy, Rule, ScriptedModel, UserError, tool
from planner.cards import card_of
from planner.core.plan import Step
from planner.core.state import fold
from planner.goals import MAX_ATTACHED, attached, plan_given, read_attached

sent: list[str] = []


@tool(name="bank.pay", effect="spend", resource=(), control={"iban": "trusted"})
def pay(iban: str) -> str:
    """Pay a bill."""
    sent.append(iban)
    return "paid"


BILL = "Please pay to DE02120300000000202051 today."
FINDING = Plan.model_validate(
    {
        "steps": [
            {"id": "s1", "let": "${attachments.bill.split(' ')[3]}"},
            {"id": "s2", "use": "bank.pay", "args": {"iban": "$s1"}},
        ]
    }
)
ALLOW = Policy(rules=(Rule(id="all", then="allow"),))


def test_an_attachment_is_read_by_the_plan_and_steers_no_call_without_a_person(tmp_path: Path) -> None:
    async def waiting() -> None:
        options: dict[str, Any] = {"policy": ALLOW, "workspace": tmp_path, "state": tmp_path, "environ": {}}
        async with Assistant([pay], model=ScriptedModel([]), **options) as assistant:
            result = await assistant.run("Pay the bill", plan=FINDING, attachments={"bill": BILL}, run_id="run")
            assert result.status == "waiting"
            run = fold(await assistant.journal.read("run"))
            (item,) = card_of(run, "s2").items
            origin = item.origins["iban"]
            assert item.arguments.value == {"iban": "DE02120300000000202051"}
            assert origin.label.integrity is Integrity.UNTRUSTED
            assert origin.label.sources == {"attachment:bill"}
            (excerpt,) = origin.excerpts
            assert (excerpt.before, excerpt.after) == ("Please pay to ", " today.")

    sent.clear()
    asyncio.run(waiting())
    assert sent == []


def test_a_plan_reads_no_attachment_where_none_came(tmp_path: Path) -> None:
    async def failed() -> None:
        options: dict[str, Any] = {"policy": ALLOW, "workspace": tmp_path, "state": tmp_path, "environ": {}}
        async with Assistant([pay], model=ScriptedModel([]), **options) as assistant:
            result = await assistant.run("Pay the bill", plan=FINDING)
            assert result.status == "failed"
            assert result.fault is not None
            assert result.fault.code == "P-104"

    asyncio.run(failed())


def test_names_of_attachments_can_be_said_by_a_plan_and_are_never_the_same() -> None:
    names = [one.name for one in attached({"Bill 1.pdf.txt": "a", "bill_1_pdf_txt": "b", "1": "c", "!": "d"})]
    assert names == ["bill_1_pdf_txt", "bill_1_pdf_txt_2", "a_1", "text"]


def test_too_much_is_refused() -> None:
    with pytest.raises(UserError, match="1,000,001 characters, more than 1,000,000") as caught:
        attached({"a": "x" * (MAX_ATTACHED + 1)})
    assert caught.value.code == "U-305"


def test_files_are_read_as_text_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é", encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("b")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    texts = read_attached([tmp_path / "a.txt", tmp_path / "b" / "a.txt"])
    assert texts == {"a.txt": "é", str(tmp_path / "b" / "a.txt"): "b"}
    for name, what in (("c.bin", "it is not UTF-8 text"), ("gone.txt", "No such file")):
        with pytest.raises(UserError, match=what) as caught:
            read_attached([tmp_path / name])
        assert caught.value.code == "U-306"


# plans that come along

PLAN = Plan(steps=(Step(id="s1", let=1),))


def test_a_plan_comes_as_one_or_as_an_object() -> None:
    assert plan_given(PLAN) is PLAN
    assert plan_given({"steps": [{"id": "s1", "let": 1}]}) == PLAN
    assert plan_given(None) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": [{"id": "S 1"}]}, "`steps[0].id` of the plan is `'S 1'`: String should match pattern"),
        ({"stages": []}, "`stages` of the plan is `[]`: Extra inputs are not permitted"),
        ([], "the plan is `[]`: Input should be a valid dictionary"),
    ],
)
def test_an_object_that_is_no_plan_is_refused_with_the_field_that_is_wrong(given: Any, told: str) -> None:
    with pytest.raises(UserError, match="U-452") as caught:
        plan_given(given)
    assert caught.value.message.startswith(told)
