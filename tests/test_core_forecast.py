from __future__ import annotations

from typing import Any

import pytest

from planner.core.catalog import Callee, Catalogue, Declaration, Parameter
from planner.core.forecast import DATA_TOKENS, TRIES, Forecast, Use, forecast
from planner.core.intrinsics import intrinsics
from planner.core.labels import Json
from planner.core.ledger import PROMPT_TOKENS, Rate
from planner.core.plan import Plan, Role, Step
from planner.core.reach import most_items, planned

AGENT = Callee(
    name="agent.writer", kind="agent", summary="", declaration=Declaration(effect="read", resource=(), max_tokens=700)
)
PATH = (Parameter(name="path", type="path"),)


def tool(name: str, **declared: Any) -> Callee:
    given = {"effect": "read", "resource": ("file:{path}",)} | declared
    return Callee(name=name, summary="", parameters=PATH, declaration=Declaration.model_validate(given))


CATALOGUE: Catalogue = {
    **{
        callee.name: callee
        for callee in (
            AGENT,
            tool("files.read"),
            tool("files.write", effect="write"),
            tool("shop.price", timeout_s=5, cost_usd=0.5),
            tool("shop.ask", cost_usd=None, resource=()),
            tool("shop.order", effect="write", on_doubt="idempotent", timeout_s=5, cost_usd=0.5),
            tool("shop.note", effect="write", on_doubt="probe"),
            tool("one.by_one", concurrency=1),
            tool("two.by_two", concurrency=2),
        )
    },
    **intrinsics(["user"]),
}
RATE = {"agent.writer": Rate(input_usd=1.0, output_usd=2.0)}
READ = {"id": "s1", "use": "files.read", "args": {"path": "a.txt"}}


def forecasted(*steps: dict[str, Any], asked: set[tuple[str, Role]] | None = None, **plan: Any) -> Forecast:
    made = Plan.model_validate({"steps": steps} | plan)
    return forecast(made, CATALOGUE, rates=RATE, asked=asked or set())


def step(id_: str, use: str, /, **more: Any) -> dict[str, Any]:
    return {"id": id_, "use": use} | more


# how often


@pytest.mark.parametrize(
    ("items", "most"),
    [
        (None, 1),
        (["a", "b"], 2),
        ([], 0),
        (["$s1", "b"], 2),
        (list(range(9)), 7),
        ("a\n\n b\n", 2),
        ("$s1", 7),
        ("${s1.names}", 7),
        ({"a": 1}, 7),
    ],
)
def test_a_map_has_no_more_items_than_the_plan_lists_or_allows(items: Json, most: int) -> None:
    assert most_items(Step(id="s1", for_each=items, max_items=7)) == most


def test_every_call_of_a_plan_is_found_with_how_often_it_is_made() -> None:
    inner = step("t1", "files.read", for_each="$item", as_="line", max_items=3, on_error={"fallback": "shop.price"})
    block = {
        "id": "s1",
        "for_each": ["a", "b"],
        "do": [inner],
        "else": [{"id": "t2", "let": 1}, step("t3", "new.one")],
    }
    found = planned(Plan.model_validate({"steps": [block]}).steps, CATALOGUE)
    assert [(call.step.id, call.role, call.callee.name, call.times) for call in found] == [
        ("t1", "call", "files.read", 6),
        ("t1", "fallback", "shop.price", 6),
        ("t3", "call", "new.one", 2),
    ]


# what is used


def test_what_is_never_called_uses_nothing() -> None:
    asking = [step("s1", "human.user"), step("s2", "gate.approve"), step("s3", "wait.event"), {"id": "s4", "let": 1}]
    assert forecasted(*asking).use == Use(calls=0, tokens=0, cost_usd=0.0)
    assert forecasted().use == Use()


def test_retries_items_and_what_stands_in_are_counted() -> None:
    retried = step("s1", "shop.price", on_error={"retry": 2})
    assert forecasted(retried).use == Use(calls=3, tokens=0, cost_usd=1.5)
    assert forecasted({**retried, "for_each": ["a", "b"]}).use.calls == 6
    assert forecasted({**retried, "for_each": []}).use == Use()
    other = {"fallback": {"use": "files.read"}, "retry": 1}
    assert forecasted(step("s1", "shop.price", on_error=other)).use == Use(calls=3, tokens=0, cost_usd=1.0)


def test_what_may_be_made_again_after_no_answer_is_counted_as_often() -> None:
    assert forecasted(step("s1", "shop.order")).use == Use(calls=4, tokens=0, cost_usd=2.0)
    retried = step("s1", "shop.note", for_each=["a", "b"], on_error={"retry": 2})
    assert forecasted(retried).use.calls == 2 * (1 + 2 + TRIES)
    assert forecasted(step("s1", "shop.price", on_error={"fallback": {"use": "shop.note"}})).use.calls == 1 + 4
    assert forecasted(step("s1", "files.write")).use.calls == 1, "nobody but a person makes it again"


def test_an_agent_reads_its_prompt_what_is_written_and_data_it_does_not_know_yet() -> None:
    constant = forecasted(step("s1", "agent.writer", args={"task": "x"})).use
    written = len(b'{"task": "x"}')
    assert constant.tokens == PROMPT_TOKENS + written + 700
    assert constant.cost_usd == pytest.approx((PROMPT_TOKENS + written + 2 * 700) / 1e6)
    more = len('{"a": "ä"}'.encode())
    known = forecasted(step("s1", "agent.writer", args={"task": "$inputs.a"}), inputs={"a": "ä"}).use
    assert known.tokens == PROMPT_TOKENS + len(b'{"task": "$inputs.a"}') + more + 700
    unknown = forecasted(READ, step("s2", "agent.writer", args={"task": "$s1"})).use
    assert unknown.tokens == PROMPT_TOKENS + len(b'{"task": "$s1"}') + DATA_TOKENS + 700
    assert unknown.cost_usd == pytest.approx((unknown.tokens - 700 + 2 * 700) / 1e6)


def test_of_two_branches_the_dearer_one_counts() -> None:
    dear = [step("t1", "shop.price"), step("t2", "shop.price")]
    cheap = [step(f"u{n}", "files.read") for n in range(3)]
    block = {"id": "s1", "if": "true", "do": dear, "else": cheap}
    assert forecasted(block).use == Use(calls=3, tokens=0, cost_usd=1.0)


def test_what_is_unknown_stays_unknown() -> None:
    assert forecasted(READ, step("s2", "shop.ask")).use == Use(calls=2, tokens=0, cost_usd=None)
    made = forecast(
        Plan.model_validate({"steps": [step("s1", "agent.writer")]}), CATALOGUE, rates={}, asked=frozenset()
    )
    assert made.use.cost_usd is None
    assert made.use.tokens
    nested = step("s1", "plan.goal", args={"goal": "x"})
    assert forecasted(nested, READ | {"id": "s2"}).use == Use(calls=None, tokens=None, cost_usd=None)
    either = {"id": "s1", "if": "true", "do": [nested | {"id": "t1"}], "else": [READ | {"id": "t2"}]}
    assert forecasted({**either, "for_each": ["a", "b"]}).use == Use(calls=None, tokens=None, cost_usd=None)


def test_a_budget_bounds_its_step_wherever_and_as_often_as_that_runs() -> None:
    budget = {"calls": 5, "tokens": 100, "cost_usd": 0.25}
    assert forecasted(step("s1", "plan.goal", budget=budget)).use == Use(calls=5, tokens=100, cost_usd=0.25)
    inner = step("t1", "shop.price", budget={"calls": 3})
    mapped = {"id": "s1", "for_each": "$inputs.a", "do": [inner, step("t2", "files.read")], "max_items": 10}
    assert forecasted(mapped).use == Use(calls=13, tokens=0, cost_usd=5.0)
    assert forecasted({**mapped, "budget": {"calls": 4}}).use.calls == 4


# how long


def test_a_call_takes_its_limit_or_else_what_is_usual() -> None:
    assert forecasted(READ).seconds == 60
    assert forecasted(step("s1", "agent.writer")).seconds == 120
    assert forecasted(step("s1", "shop.price")).seconds == 5
    assert forecasted(step("s1", "shop.price", timeout_s=2)).seconds == 2
    assert forecasted(step("s1", "shop.price", timeout_s=9)).seconds == 5, "the declaration's limit holds too"
    assert forecasted({"id": "s1", "let": 1}).seconds == 0


def test_retries_take_their_pauses_too_and_what_stands_in_comes_last() -> None:
    retried = step("s1", "shop.price", on_error={"retry": 3})
    assert forecasted(retried).seconds == 4 * 5 + 1.5 * (1 + 2 + 4)
    other = {"retry": 1, "fallback": {"use": "files.read"}}
    assert forecasted(step("s1", "shop.price", on_error=other)).seconds == 2 * 5 + 1.5 + 60


def test_what_may_be_made_again_after_no_answer_takes_as_much_longer() -> None:
    assert forecasted(step("s1", "shop.order")).seconds == (1 + TRIES) * 5
    retried = step("s1", "shop.order", on_error={"retry": 2}, timeout_s=2)
    assert forecasted(retried).seconds == (1 + 2 + TRIES) * 2 + 1.5 * (1 + 2)
    assert forecasted(retried, asked={("s1", "call")}).seconds == (1 + 2 + TRIES) * 2 + 1.5 * (1 + 2) + (1 + 2) * 2
    other = step("s1", "shop.price", on_error={"fallback": {"use": "shop.order"}})
    assert forecasted(other).seconds == 5 + (1 + TRIES) * 5


def test_steps_take_their_time_at_once_unless_one_waits_for_the_other() -> None:
    other = READ | {"id": "s2"}
    assert forecasted(READ, other).seconds == 60
    assert forecasted(READ, other | {"after": ["s1"]}).seconds == 120
    assert forecasted(READ, step("s2", "agent.writer", args={"text": "$s1"})).seconds == 180
    assert forecasted(READ, step("s2", "shop.price"), {"id": "s3", "let": "${s1}${s2}"}).critical_path == ("s1", "s3")


def test_effects_on_one_resource_come_one_after_the_other() -> None:
    write = step("s2", "files.write", args={"path": "a.txt"})
    assert forecasted(READ, write).critical_path == ("s1", "s2")
    assert forecasted(READ, write | {"args": {"path": "b.txt"}}).seconds == 60
    assert forecasted(READ, write | {"args": {"path": "$inputs.path"}}).seconds == 120
    inside = {"id": "s2", "if": "true", "do": [write | {"id": "t1"}, step("t2", "shop.price", args={"path": "c"})]}
    assert forecasted(READ, inside).critical_path == ("s1", "s2", "t1")
    gate = step("s2", "gate.approve")
    assert forecasted(write | {"id": "s1"}, gate, write | {"id": "s3", "args": {"path": "b"}}).seconds == 120


def test_items_run_a_few_at_once_if_they_cannot_meet() -> None:
    each = {"for_each": "$inputs.a", "max_items": 10}
    assert forecasted(READ | each).seconds == 3 * 60
    assert forecasted(step("s1", "one.by_one", **each)).seconds == 10 * 60
    assert forecasted(step("s1", "two.by_two", **each)).seconds == 5 * 60
    assert forecasted(step("s1", "files.write", args={"path": "$item"}, **each)).seconds == 10 * 60
    held = [READ | {"id": "t1"}, step("t2", "agent.writer", args={"text": "$t1"})]
    block = forecasted({"id": "s1", "do": held, **each})
    assert (block.seconds, block.critical_path) == (3 * 180, ("s1", "t1", "t2"))


def test_the_longer_branch_counts() -> None:
    block = {"id": "s1", "if": "true", "do": [READ | {"id": "t1"}], "else": [step("u1", "agent.writer")]}
    assert forecasted(block).critical_path == ("s1", "u1")


# who is waited for


def test_steps_that_wait_for_people_and_events_are_named_unless_they_have_a_limit() -> None:
    for use in ("human.user", "gate.approve", "wait.event"):
        assert forecasted(step("s1", use)).waits == ("s1",)
        limited = forecasted(step("s1", use, timeout_s=30))
        assert (limited.waits, limited.seconds) == ((), 30)


def test_a_wait_lasts_as_long_as_the_plan_says_where_it_says_so() -> None:
    def until(**args: Json) -> tuple[tuple[str, ...], float]:
        found = forecasted(step("s1", "wait.until", args=args, timeout_s=3))
        return found.waits, found.seconds

    assert until(seconds=90) == ((), 90)
    assert until(seconds=90, at="2026-12-04T09:00Z")[0] == ("s1",)
    assert until(seconds="$inputs.a")[0] == ("s1",)
    assert until(seconds=-1) == ((), 0)


def test_a_call_that_may_be_asked_for_waits_for_the_answer() -> None:
    write = step("s1", "files.write")
    assert forecasted(write, asked={("s1", "call")}).waits == ("s1",)
    limited = forecasted(write | {"timeout_s": 10, "on_error": {"retry": 1}}, asked={("s1", "call")})
    assert (limited.waits, limited.seconds) == ((), 2 * (10 + 10) + 1.5)
    other = step("s1", "shop.price", on_error={"fallback": {"use": "files.write"}})
    assert forecasted(other, asked={("s1", "fallback")}).waits == ("s1",)
    assert forecasted(READ | {"on_error": {"then": "ask"}, "timeout_s": 3}).waits == ("s1",)


def test_a_run_within_the_run_is_waited_for_unless_it_has_a_limit() -> None:
    assert forecasted(step("s1", "plan.goal")).waits == ("s1",)
    limited = forecasted(step("s1", "plan.goal", timeout_s=600))
    assert (limited.waits, limited.seconds) == ((), 600)
