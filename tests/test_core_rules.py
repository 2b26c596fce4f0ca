"""When a rule speaks of a call: by its arguments, and by what was called before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.commands import Call, Record
from planner.core.decide import decide
from planner.core.events import Event, HumanAsked, StepJudged, StepResolved
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Json, Label, Labelled, gather
from planner.core.plan import Plan
from planner.core.policy import Grant, Policy, Principal, Request, Verdict, judge
from planner.core.rules import Made, Rule
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]

ANN = Principal(name="ann", roles=frozenset({"clerk"}))
PAY = Callee(
    name="bank.pay",
    summary="",
    parameters=(Parameter(name="amount", type="number"), Parameter(name="items", type="any", required=False)),
    declaration=Declaration(effect="spend", control={}),
)
ALL = {"id": "all", "then": "allow"}


def policy(*rules: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate({"rules": list(rules), "version": "v1", **more})


def verdict(
    made: Policy, arguments: dict[str, Any] | None = None, label: Label = TRUSTED, before: tuple[Made, ...] = ()
) -> Verdict:
    if arguments is None:
        return judge(made, Request(ANN, PAY, made=before))
    given_ = gather({name: Labelled(value=value, label=label) for name, value in arguments.items()})
    return judge(made, Request(ANN, PAY, given_, made=before))


# conditions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ({"at_most": 50}, 50, True),
        ({"at_most": 50}, 50.01, False),
        ({"at_least": 50}, 50, True),
        ({"at_least": 50}, 49, False),
        ({"above": 50}, 50, False),
        ({"above": 50}, 51, True),
        ({"below": 50}, 50, False),
        ({"below": 50}, "49", True),
        ({"above": 1, "below": 3}, 2, True),
        ({"above": 1, "below": 3}, 3, False),
        ({"matches": "[a-z]+"}, "abc", True),
        ({"matches": "[a-z]+"}, "abc1", False),
        ({"one_of": ["a", 1]}, 1, True),
        ({"one_of": ["a", 1]}, "b", False),
        ({"none_of": ["a"]}, "b", True),
        ({"none_of": ["a"]}, "a", False),
        ({"integrity": "trusted"}, "x", True),
    ],
)
def test_a_rule_holds_where_its_condition_is_met(condition: dict[str, Any], value: Json, holds: bool) -> None:
    for then, otherwise in (("allow", "deny"), ("deny", "allow")):
        rules: list[dict[str, Any]] = [{"id": "when", "then": then, "when": [{"argument": "amount", **condition}]}]
        rules += [] if then == "allow" else [ALL]
        assert verdict(policy(*rules), {"amount": value}).then == (then if holds else otherwise)


@pytest.mark.parametrize("value", ["many", None, True, [], "nan", "1e999", {}])
@pytest.mark.parametrize("condition", [{"at_most": 50}, {"matches": ".*", "above": 0}])
def test_what_cannot_be_told_allows_nothing_and_denies(condition: dict[str, Any], value: Json) -> None:
    when = [{"argument": "amount", **condition}]
    assert verdict(policy({"id": "a", "then": "allow", "when": when}), {"amount": value}).then == "deny"
    assert verdict(policy(ALL, {"id": "d", "then": "deny", "when": when}), {"amount": value}).rules == ("d",)


def test_an_argument_that_is_not_given_cannot_be_told_and_one_there_is_not_is_none_of_the_rules() -> None:
    for argument, then in (("items", "deny"), ("other", "allow")):
        rule = {"id": "d", "then": "deny", "when": [{"argument": argument, "one_of": ["x"]}]}
        assert verdict(policy(ALL, rule), {"amount": 1}).then == then


def test_a_path_means_every_element_for_an_allow_and_any_for_a_deny() -> None:
    when = [{"argument": "items.price", "at_most": 10}]
    allow, deny = {"id": "a", "then": "allow", "when": when}, {"id": "d", "then": "deny", "when": when}
    cheap, dear = [{"price": 1}, {"price": 2}], [{"price": 1}, {"price": 20}]
    assert verdict(policy(allow), {"amount": 1, "items": cheap}).then == "allow"
    assert verdict(policy(allow), {"amount": 1, "items": dear}).then == "deny"
    assert verdict(policy(ALL, deny), {"amount": 1, "items": dear}).then == "deny"
    assert verdict(policy(allow), {"amount": 1, "items": [{"cost": 1}]}).then == "deny"
    assert verdict(policy(allow), {"amount": 1, "items": []}).then == "deny"


def test_a_value_must_be_worth_so_much() -> None:
    rule = {"id": "a", "then": "allow", "when": [{"argument": "amount", "integrity": "bounded"}]}
    assert verdict(policy(rule), {"amount": 1}, BOUNDED).then == "allow"
    assert verdict(policy(rule), {"amount": 1}, UNTRUSTED).then == "deny"


def test_before_the_arguments_are_known_a_condition_neither_denies_nor_allows() -> None:
    when = [{"argument": "amount", "at_most": 50}]
    allow, ask, deny = ({"id": then, "then": then, "when": when} for then in ("allow", "ask", "deny"))
    assert verdict(policy(allow)).then == "ask"
    assert verdict(policy(allow)).reason == "whether `allow` allows `bank.pay` depends on its arguments"
    assert verdict(policy(ask, ALL)).then == "ask"
    assert verdict(policy(deny, ALL)).then == "allow"
    assert verdict(policy(allow, ALL)).rules == ("all",)
    assert verdict(policy(deny)).then == "deny"


@pytest.mark.parametrize(
    "rule",
    [
        {"when": [{"argument": "x"}]},
        {"when": [{"argument": "", "at_most": 1}]},
        {"when": [{"argument": "x", "matches": "("}]},
        {"beyond": {}},
        {"beyond": {"most": 3}},
        {"beyond": {"sum_of": "amount"}},
        {"beyond": {"calls": -1}},
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"id": "r", "then": "deny", **rule})


@drawn(
    st.lists(st.sampled_from(["allow", "ask", "deny"]), max_size=4),
    st.integers(0, 4),
    st.sampled_from([{}, {"when": [{"argument": "amount", "at_most": 5}]}, {"until": ["a.b"]}]),
    st.integers(0, 9),
)
def test_one_more_rule_that_denies_never_allows_more(
    thens: list[str], place: int, more: dict[str, Any], amount: int
) -> None:
    rules = [{"id": f"r{n}", "then": then} for n, then in enumerate(thens)]
    fewer = verdict(policy(*rules), {"amount": amount}).then
    rules.insert(place, {"id": "deny", "then": "deny", **more})
    order = ["deny", "ask", "allow"]
    assert order.index(verdict(policy(*rules), {"amount": amount}).then) <= order.index(fewer)


# what was called before ---------------------------------------------------------------------------------------


def test_a_rule_holds_until_something_else_succeeded() -> None:
    rule = {"id": "first", "then": "deny", "callee": "bank.*", "until": ["customer.verify"]}
    done = Made("customer.verify", "read", {}, is_done=True)
    assert verdict(policy(ALL, rule), {"amount": 1}).rules == ("first",)
    begun = Made("customer.verify", "read", {}, is_done=False)
    assert verdict(policy(ALL, rule), {"amount": 1}, before=(begun,)).then == "deny"
    assert verdict(policy(ALL, rule), {"amount": 1}, before=(done,)).then == "allow"
    assert verdict(policy(ALL, rule)).then == "allow", "while a plan is checked, that is not known"


def paid(amount: Json, callee: str = "bank.pay") -> Made:
    return Made(callee, "spend", {"amount": amount}, is_done=True)


def test_a_rule_holds_beyond_a_number_of_calls() -> None:
    rule = {"id": "few", "then": "ask", "callee": "bank.*", "beyond": {"calls": 2}}
    assert verdict(policy(rule, ALL), {"amount": 1}, before=(paid(1), paid(1, "mail.send"))).then == "allow"
    assert verdict(policy(rule, ALL), {"amount": 1}, before=(paid(1), paid(1))).rules == ("few",)


def test_a_rule_holds_beyond_a_sum() -> None:
    rule = {"id": "sum", "then": "ask", "beyond": {"sum_of": "amount", "most": 100}}
    assert verdict(policy(rule, ALL), {"amount": 60}, before=(paid(40),)).then == "allow"
    assert verdict(policy(rule, ALL), {"amount": 61}, before=(paid(40),)).then == "ask"
    for odd in ("much", None):
        assert verdict(policy(rule, ALL), {"amount": 1}, before=(paid(odd),)).then == "ask"
    nothing = Made("bank.pay", "spend", None, is_done=True)
    assert verdict(policy(rule, ALL), {"amount": 1}, before=(nothing,)).then == "ask"


def test_calls_that_are_admitted_together_do_not_pass_a_limit_together(given: Given, started: Any) -> None:
    rule = {"id": "two", "then": "ask", "callee": "mail.send", "beyond": {"calls": 2}}
    sends = [{"id": f"s{n}", "use": "mail.send", "args": {"to": f"{n}@b.c", "text": "x"}} for n in range(4)]
    events: list[Event] = [started(plan=Plan.model_validate({"steps": sends}), policy=policy(rule, ALL))]
    for _ in range(40):
        recorded = [c.event for c in decide(given(*events)) if isinstance(c, Record)]
        if not recorded:
            break
        events += recorded
    run = given(*events)
    assert len([event for event in events if isinstance(event, StepResolved)]) == 4
    assert len([event for event in events if isinstance(event, StepJudged)]) == 4
    assert {event.path for event in events if isinstance(event, HumanAsked)} == {"s2", "s3"}
    assert {command.path for command in decide(run) if isinstance(command, Call)} == {"s0", "s1"}


def test_a_precondition_is_known_from_the_run(given: Given, started: Any) -> None:
    rule = {"id": "first", "then": "deny", "callee": "mail.send", "until": ["files.read"]}
    steps = [
        {"id": "s1", "use": "files.read", "args": {"path": "a"}},
        {"id": "s2", "use": "mail.send", "args": {"to": "a@b.c", "text": "x"}, "after": ["s1"]},
        {"id": "s3", "use": "mail.send", "args": {"to": "a@b.c", "text": "y"}},
    ]
    plan = Plan.model_validate({"steps": steps})
    events: list[Event] = [started(plan=plan, policy=policy(rule, ALL))]
    events += [c.event for c in decide(given(*events)) if isinstance(c, Record)]
    events += [c.event for c in decide(given(*events)) if isinstance(c, Record)]
    assert {p: s.verdict.then for p, s in given(*events).steps.items() if s.verdict} == {"s1": "allow", "s3": "deny"}


# roles --------------------------------------------------------------------------------------------------------


GRANTS = {
    "clerk": {"allow": ["mail.*", "bank.look"], "ask": ["bank.pay"]},
    "boss": {"allow": ["bank.*"]},
    "guest": {"deny": ["bank.*"], "allow": ["*"]},
}


@pytest.mark.parametrize(
    ("roles", "callee", "then", "rules"),
    [
        ({"clerk"}, "bank.pay", "ask", ("role:clerk",)),
        ({"clerk"}, "bank.look", "allow", ("all",)),
        ({"clerk"}, "files.read", "deny", ("role:clerk",)),
        ({"clerk", "boss"}, "bank.pay", "allow", ("all",)),
        ({"boss", "clerk"}, "files.read", "deny", ("role:boss", "role:clerk")),
        ({"guest", "boss"}, "bank.pay", "deny", ("role:guest",)),
        ({"other"}, "files.read", "allow", ("all",)),
        ({"boss"}, "human.user", "allow", ("all",)),
    ],
)
def test_a_role_may_call_what_it_was_granted_and_no_more(
    roles: set[str], callee: str, then: str, rules: tuple[str, ...]
) -> None:
    fields = {"name": callee, "summary": "", "kind": "human" if callee.startswith("human") else "tool"}
    called = Callee.model_validate({**fields, "declaration": Declaration(effect="read")})
    made = policy(ALL, grants=GRANTS)
    found = judge(made, Request(Principal(name="x", roles=frozenset(roles)), called, Labelled(value={})))
    assert (found.then, found.rules) == (then, rules)


def test_a_grant_allows_nothing_that_the_rules_deny() -> None:
    denied = policy({"id": "no", "then": "deny"}, grants={"clerk": Grant(allow=("*",)).model_dump()})
    assert verdict(denied, {"amount": 1}).rules == ("no",)
    asked = policy({"id": "ask", "then": "ask"}, grants={"clerk": Grant(allow=("*",)).model_dump()})
    assert verdict(asked, {"amount": 1}).rules == ("ask",)


def test_what_a_role_may_not_call_is_denied_though_a_rule_would_ask() -> None:
    asked = policy({"id": "ask", "then": "ask"}, grants={"clerk": Grant(allow=("mail.*",)).model_dump()})
    assert verdict(asked, {"amount": 1}).then == "deny"


def test_only_what_a_rule_waits_for_lifts_it() -> None:
    rule = {"id": "first", "then": "deny", "until": ["customer.verify"]}
    assert verdict(policy(ALL, rule), {"amount": 1}, before=(paid(1, "customer.greet"),)).then == "deny"


def test_a_condition_on_what_a_callee_does_not_take_allows_nothing() -> None:
    rule = {"id": "a", "then": "allow", "when": [{"argument": "other", "none_of": ["x"]}]}
    assert verdict(policy(rule), {"amount": 1}).then == "deny"


def test_a_limit_denies_nothing_while_a_plan_is_checked() -> None:
    rule = {"id": "none", "then": "deny", "beyond": {"calls": 0}}
    assert verdict(policy(rule, ALL)).then == "allow"
    assert verdict(policy(rule, ALL), {"amount": 1}).then == "deny"
