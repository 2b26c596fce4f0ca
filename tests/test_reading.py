"""What callers read of a run: every decision, the open cards, the values of steps, all with their labels."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from planner import Assistant, Card, JournalError, Plan, PlanError, Policy, Principal, Rule, Said, run_sync, tool
from planner.cards import Each, Edited
from planner.core.events import HumanAnswered, Recorded, RunFinished
from planner.core.labels import Integrity, Json
from planner.reading import Decision, decisions

T = TypeVar("T")
ATTACK = "mallory"
INBOX = [{"from": "ada", "text": "12"}, {"from": ATTACK, "text": "900"}]
PAID: list[tuple[str, float]] = []


@tool(name="mail.list", effect="read", resource=(), out="fields", bounded_fields=("from",))
def list_mails() -> list[dict[str, str]]:
    """List the mails."""
    return INBOX


@tool(name="mail.down", effect="read", resource=())
def down() -> str:
    """Look where nothing is."""
    raise LookupError("no mail")


@tool(name="bank.pay", effect="spend", control={"to": "trusted", "amount": "trusted"}, payload=("subject",))
def pay(to: str, amount: float, subject: str = "") -> str:
    """Pay."""
    PAID.append((to, amount))
    return "paid"


@tool(name="bank.close", effect="delete", control={}, roles=("owner",))
def close() -> None:
    """Close the account."""


def assistant(tmp_path: Path, **options: Any) -> Assistant:
    PAID.clear()
    options.setdefault("policy", Policy.by_declaration())
    return Assistant(
        [list_mails, down, pay, close], workspace=tmp_path, state=tmp_path / "state", environ={}, **options
    )


def after(made: Assistant, work: Callable[[Assistant], Coroutine[Any, Any, T]]) -> T:
    async def whole() -> T:
        async with made:
            return await work(made)

    return run_sync(whole())


def plan_of(*steps: dict[str, Any], answer: Json = None) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": answer})


def told(found: Sequence[Decision]) -> list[tuple[str, str, str, str]]:
    return [(one.stage, one.path, one.callee, one.verdict.then) for one in found]


def step(id_: str, use: str, **args: Json) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": args}


LIST = step("s1", "mail.list")
OWN = step("s2", "bank.pay", to="ada", amount=12)
LURED = step("s2", "bank.pay", to="$s1[1].from", amount=12, subject="$s1[1].text")


def decided(made: Assistant, *steps: dict[str, Any], **options: Any) -> tuple[Decision, ...]:
    async def work(made: Assistant) -> tuple[Decision, ...]:
        return await made.decisions((await made.run("Pay Ada", plan=plan_of(*steps), **options)).run_id)

    return after(made, work)


# decisions --------------------------------------------------------------------------------------------------------


def test_what_was_decided_is_told_in_order_with_arguments_labels_and_rules(tmp_path: Path) -> None:
    found = decided(assistant(tmp_path), LIST, OWN)
    assert told(found) == [
        ("plan", "s1", "mail.list", "allow"),
        ("plan", "s2", "bank.pay", "allow"),
        ("call", "s1", "mail.list", "allow"),
        ("call", "s2", "bank.pay", "allow"),
    ]
    paid = found[-1]
    assert found[0].arguments is None
    assert paid.arguments is not None
    assert paid.arguments.value == {"to": "ada", "amount": 12}
    assert paid.arguments.overall().integrity is Integrity.TRUSTED
    assert (paid.verdict.rules, paid.verdict.policy_version != "") == (("as-declared",), True)
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert PAID == [("ada", 12)]


def test_a_call_that_data_steers_is_asked_for_and_what_a_person_says_is_a_decision_too(tmp_path: Path) -> None:
    async def no(card: Card) -> str:
        return "no"

    *_, asked, said = decided(assistant(tmp_path, approver=no), LIST, LURED, as_=Principal(name="ada"))
    assert told([asked, said]) == [("call", "s2", "bank.pay", "ask"), ("person", "s2", "bank.pay", "deny")]
    assert asked.verdict.rules == ("as-declared", "control:to")
    assert asked.arguments is not None
    assert asked.arguments.at(("to",)).label.integrity is Integrity.BOUNDED
    assert asked.arguments.at(("subject",)).label.integrity is Integrity.UNTRUSTED
    assert asked.arguments.at(("to",)).label.sources == {"s1:mail.list"}
    assert (said.verdict.rules, said.verdict.reason) == (("person:no",), "`ada` answered `no`")
    assert PAID == []


def test_what_a_rule_denies_is_decided_when_the_plan_is_checked(tmp_path: Path) -> None:
    deny = Policy(rules=(Rule(id="no-spending", then="deny", effect="spend"), Rule(id="else", then="allow")))
    found = decided(assistant(tmp_path, policy=deny), LIST, OWN)
    assert told(found) == [("plan", "s2", "bank.pay", "deny")]
    assert found[0].verdict.rules == ("no-spending",)


def test_what_a_declaration_denies_is_told_as_well(tmp_path: Path) -> None:
    (denied,) = decided(assistant(tmp_path), step("s1", "bank.close"))
    assert (denied.verdict.then, denied.verdict.rules) == ("deny", ("declaration:roles",))


def test_a_call_in_the_place_of_another_is_told_by_its_own_path(tmp_path: Path) -> None:
    first = step("s1", "mail.down") | {"on_error": {"then": "fallback mail.list"}}
    found = decided(assistant(tmp_path), first)
    assert told(found) == [
        ("plan", "s1", "mail.down", "allow"),
        ("plan", "s1~fallback", "mail.list", "allow"),
        ("call", "s1", "mail.down", "allow"),
        ("call", "s1~fallback", "mail.list", "allow"),
    ]


def test_a_plan_that_calls_what_there_is_not_has_no_decisions(tmp_path: Path) -> None:
    assert decided(assistant(tmp_path), step("s1", "mail.burn")) == ()


def test_a_call_that_is_judged_again_under_other_rules_is_told_again(tmp_path: Path) -> None:
    async def begin(made: Assistant) -> str:
        return (await made.run("Pay Ada", plan=plan_of(LIST, LURED))).run_id

    async def end(made: Assistant) -> tuple[Decision, ...]:
        await made.resume(run_id)
        return await made.decisions(run_id)

    run_id = after(assistant(tmp_path), begin)
    deny = Policy(rules=(Rule(id="closed", then="deny", callee="bank.*"), Rule(id="else", then="allow")))
    *_, again = after(assistant(tmp_path, policy=deny), end)
    assert told([again]) == [("again", "s2", "bank.pay", "deny")]
    assert again.arguments is not None
    assert again.verdict.rules == ("closed",)


# cards and answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "status", "paid"), [("yes", "unverified", [(ATTACK, 12)]), ("no", "denied", [])])
def test_an_open_card_is_read_and_answered_by_its_path(
    tmp_path: Path, word: str, status: str, paid: list[tuple[str, float]]
) -> None:
    async def work(made: Assistant) -> None:
        waiting = await made.run("Pay Ada", plan=plan_of(LIST, LURED))
        assert waiting.status == "waiting"
        (card,) = await made.cards(waiting.run_id)
        assert (card.path, card.callee.name, card.question) == ("s2", "bank.pay", "approve")
        assert card.arguments.at(("subject",)).label.integrity is Integrity.UNTRUSTED
        done = await made.answer(waiting.run_id, card.path, word, by="ada")
        assert (done.status, await made.cards(waiting.run_id)) == (status, ())
        events = [r.event for r in await made.events(waiting.run_id)]
        (said,) = (event for event in events if isinstance(event, HumanAnswered))
        assert (said.by, said.answer, isinstance(events[-1], RunFinished)) == ("ada", word, True)

    after(assistant(tmp_path), work)
    assert paid == PAID


def test_a_question_for_a_value_is_answered_with_one(tmp_path: Path) -> None:
    question = step("s1", "human.user", question="How much?", type="integer")

    async def work(made: Assistant) -> Json:
        run_id = (await made.run("Ask me", plan=plan_of(question))).run_id
        with pytest.raises(PlanError, match="P-304"):
            await made.answer(run_id, "s1", Said("much"))
        with pytest.raises(PlanError, match="P-306"):
            await made.answer(run_id, "s1", "yes")
        with pytest.raises(PlanError, match=r"P-306.*`perhaps`, but by a value, as `Said\(value\)`"):
            await made.answer(run_id, "s1", "perhaps")
        return (await made.answer(run_id, "s1", Said("12"))).value

    assert after(assistant(tmp_path), work) == 12


def test_what_is_not_asked_cannot_be_answered(tmp_path: Path) -> None:
    async def work(made: Assistant) -> None:
        run_id = (await made.run("List", plan=plan_of(LIST))).run_id
        with pytest.raises(PlanError, match="P-305"):
            await made.answer(run_id, "s1", "yes")
        with pytest.raises(JournalError, match="J-102"):
            await made.cards("no-such-run")

    after(assistant(tmp_path), work)


def test_a_word_that_is_no_answer_is_refused_with_the_ones_that_are(tmp_path: Path) -> None:
    async def work(made: Assistant) -> None:
        run_id = (await made.run("Pay Ada", plan=plan_of(LIST, LURED))).run_id
        with pytest.raises(PlanError, match=r"P-306.*not answered by `ok`, but by `yes` or `no`"):
            await made.answer(run_id, "s2", "ok")

    after(assistant(tmp_path), work)


def test_the_calls_of_a_map_are_one_card_and_answered_each_by_its_path(tmp_path: Path) -> None:
    each = step("s2", "bank.pay", to="$item.from", amount=12) | {"for_each": "$s1", "on_item_error": "drop"}

    async def work(made: Assistant) -> None:
        run_id = (await made.run("Pay all", plan=plan_of(LIST, each))).run_id
        (card,) = await made.cards(run_id)
        assert [item.path for item in card.items] == ["s2[0]", "s2[1]"]
        assert (await made.answer(run_id, card.path, Each({}))).status == "waiting"
        done = await made.answer(run_id, card.path, Each({"s2[0]": "yes", "s2[1]": "no"}))
        assert (done.status, done.value) == ("unverified", ["paid", None])
        people = [one for one in await made.decisions(run_id) if one.stage == "person"]
        assert {one.path: one.verdict.then for one in people} == {"s2[0]": "allow", "s2[1]": "deny"}

    after(assistant(tmp_path), work)
    assert PAID == [("ada", 12)]


def test_a_call_that_a_person_edits_is_judged_again_and_made_with_the_new_arguments(tmp_path: Path) -> None:
    async def work(made: Assistant) -> None:
        run_id = (await made.run("Pay Ada", plan=plan_of(LIST, LURED))).run_id
        await made.answer(run_id, "s2", Edited({"to": "ada"}), by="ada")
        *_, said, again = await made.decisions(run_id)
        assert (told([said, again])[0][::3], again.stage) == (("person", "allow"), "again")
        assert (said.verdict.rules, again.verdict.then) == (("person:edit",), "allow")
        assert again.arguments is not None
        assert again.arguments.at(("to",)).value == "ada"

    after(assistant(tmp_path), work)
    assert PAID == [("ada", 12)]


# values -----------------------------------------------------------------------------------------------------------


def test_the_values_of_steps_and_items_and_the_answer_have_a_label_for_every_leaf(tmp_path: Path) -> None:
    each = {"id": "s2", "for_each": "$s1", "let": "$item.from"}

    async def work(made: Assistant) -> Mapping[str, Any]:
        result = await made.run("List", plan=plan_of(LIST, each, answer={"who": "$s2[0]", "what": "$s1[0].text"}))
        assert result.value == {"who": "ada", "what": "12"}
        assert result.label.integrity is Integrity.UNTRUSTED
        assert result.answer.at(("who",)).label.integrity is Integrity.BOUNDED
        assert result.answer.at(("what",)).label.integrity is Integrity.UNTRUSTED
        return await made.values(result.run_id)

    found = after(assistant(tmp_path), work)
    assert {path: one.value for path, one in found.items()} == {
        "s1": INBOX,
        "s2": ["ada", ATTACK],
        "s2[0]": "ada",
        "s2[1]": ATTACK,
    }
    assert found["s1"].at((0, "from")).label.integrity is Integrity.BOUNDED


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    async def work(made: Assistant) -> tuple[tuple[Recorded, ...], ...]:
        run_id = (await made.run("Pay Ada", plan=plan_of(LIST, LURED))).run_id
        before = await made.events(run_id)
        assert decisions(before) == await made.decisions(run_id)
        await made.cards(run_id)
        await made.values(run_id)
        return before, await made.events(run_id)

    before, now = after(assistant(tmp_path), work)
    assert before == now


def test_a_run_without_a_plan_has_no_values(tmp_path: Path) -> None:
    async def work(made: Assistant) -> Mapping[str, Any]:
        return await made.values((await made.run("List", plan=plan_of(step("s1", "mail.burn")))).run_id)

    assert after(assistant(tmp_path), work) == {}
