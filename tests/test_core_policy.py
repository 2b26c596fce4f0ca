from __future__ import annotations

from typing import Any

import pytest

from planner.core.catalog import Callee, Declaration
from planner.core.intrinsics import GOAL
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Integrity, Label, Labelled, gather
from planner.core.policy import Policy, Principal, Request, judge
from planner.core.rules import Rule

ANN = Principal(name="ann", roles=frozenset({"clerk"}))
ALLOW = Rule(id="all", then="allow")


def callee(name: str = "files.write", **declared: Any) -> Callee:
    return Callee(name=name, summary="", declaration=Declaration.model_validate({"effect": "write"} | declared))


def policy(*rules: Rule) -> Policy:
    return Policy(rules=rules, version="v7")


# the gate


def test_what_no_rule_speaks_of_is_denied() -> None:
    verdict = judge(policy(), Request(ANN, callee()))
    assert (verdict.then, verdict.rules, verdict.policy_version) == ("deny", ("default",), "v7")
    assert verdict.reason == "no rule allows `files.write` to `clerk`"


def test_a_deny_wins_wherever_it_stands() -> None:
    denies = (Rule(id="no1", then="deny", callee="files.*"), Rule(id="no2", then="deny", effect="write"))
    verdict = judge(policy(ALLOW, *denies), Request(ANN, callee()))
    assert (verdict.then, verdict.rules) == ("deny", ("no1", "no2"))
    assert verdict.reason == "`files.write` is denied by `no1` or `no2`"


def test_of_the_other_rules_the_first_that_matches_decides() -> None:
    ask = Rule(id="ask", then="ask", effect="write")
    assert judge(policy(ask, ALLOW), Request(ANN, callee())).then == "ask"
    assert judge(policy(ALLOW, ask), Request(ANN, callee())).then == "allow"
    assert judge(policy(ask, ALLOW), Request(ANN, callee(effect="read"))).rules == ("all",)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({}, True),
        ({"callee": "files.*"}, True),
        ({"callee": "Files.*"}, False),
        ({"callee": "*.read"}, False),
        ({"effect": "[rw]*"}, True),
        ({"effect": "read"}, False),
        ({"roles": ["clerk", "boss"]}, True),
        ({"roles": ["boss"]}, False),
        ({"roles": []}, False),
    ],
)
def test_a_rule_matches_by_callee_effect_and_role(rule: dict[str, Any], matches: bool) -> None:
    assert Rule.model_validate({"id": "r", "then": "allow"} | rule).holds(ANN.roles, callee(), None, ()) is matches


def test_a_callee_for_other_roles_is_denied_whatever_the_rules_say() -> None:
    verdict = judge(policy(ALLOW), Request(ANN, callee(roles=("boss", "admin"))))
    assert (verdict.then, verdict.rules) == ("deny", ("declaration:roles",))
    assert verdict.reason == "`files.write` is for `admin` or `boss` only"
    assert judge(policy(ALLOW), Request(ANN, callee(roles=("boss", "clerk")))).then == "allow"


CONTROLLED = callee(control={"path": Integrity.BOUNDED, "mode": Integrity.TRUSTED})


@pytest.mark.parametrize(
    ("path", "mode", "low"),
    [
        (BOUNDED, TRUSTED, ()),
        (TRUSTED, TRUSTED, ()),
        (UNTRUSTED, TRUSTED, ("path",)),
        (BOUNDED, BOUNDED, ("mode",)),
        (UNTRUSTED, UNTRUSTED, ("path", "mode")),
    ],
)
def test_a_controlling_argument_of_too_little_integrity_needs_a_person(
    path: Label, mode: Label, low: tuple[str, ...]
) -> None:
    parts = {"path": path, "mode": mode, "text": UNTRUSTED}
    arguments = gather({name: Labelled(value="x", label=label) for name, label in parts.items()})
    verdict = judge(policy(ALLOW), Request(ANN, CONTROLLED, arguments))
    assert verdict.then == ("ask" if low else "allow")
    assert verdict.rules == ("all", *(f"control:{name}" for name in low))


def test_one_untrusted_leaf_makes_a_controlling_argument_too_low() -> None:
    path = gather([Labelled(value="a"), Labelled(value="b", label=UNTRUSTED)])
    verdict = judge(policy(ALLOW), Request(ANN, CONTROLLED, gather({"path": path})))
    assert verdict.reason == "`path` of `files.write` came from data that an outsider may have written"


@pytest.mark.parametrize("arguments", [None, Labelled(value=None), Labelled(value={}, label=UNTRUSTED)])
def test_where_no_argument_is_given_none_is_too_low(arguments: Labelled | None) -> None:
    assert judge(policy(ALLOW), Request(ANN, CONTROLLED, arguments)).then == "allow"


def test_a_rule_that_asks_or_denies_is_not_softened_by_trusted_arguments() -> None:
    trusted = gather({"path": Labelled(value="a"), "mode": Labelled(value="w")})
    assert judge(policy(Rule(id="ask", then="ask")), Request(ANN, CONTROLLED, trusted)).then == "ask"
    assert judge(policy(Rule(id="no", then="deny")), Request(ANN, CONTROLLED, trusted)).then == "deny"


@pytest.mark.parametrize("effect", ["pure", "read", "fetch", "write", "send", "spend", "delete", "account"])
def test_by_declaration_whatever_its_effect_a_call_that_only_the_principal_steers_is_allowed(effect: Any) -> None:
    do = callee("bank.do", effect=effect, control={"to": Integrity.TRUSTED})
    own, lured = gather({"to": Labelled(value="a")}), gather({"to": Labelled(value="a", label=BOUNDED)})
    assert judge(Policy.by_declaration(), Request(ANN, do, own)).then == "allow"
    assert judge(Policy.by_declaration(), Request(ANN, do, lured)).then == "ask"


def test_by_declaration_what_executes_or_declares_nothing_is_asked_for_and_a_goal_may_be_delegated() -> None:
    undeclared = Callee(name="my.function", summary="Do anything")
    assert judge(Policy.by_declaration(), Request(ANN, undeclared)).rules == ("executing",)
    assert judge(Policy.by_declaration(), Request(ANN, undeclared)).then == "ask"
    assert judge(Policy.by_declaration(), Request(ANN, GOAL)).then == "allow"


# modes


@pytest.mark.parametrize(
    ("declared", "is_free"),
    [
        ({"effect": "read"}, True),
        ({"effect": "pure"}, True),
        ({"effect": "write", "undo": "unwrite"}, True),
        ({"effect": "write"}, False),
        ({"effect": "send", "undo": "unsend"}, False),
        ({"effect": "spend"}, False),
    ],
)
def test_in_open_mode_data_steers_what_only_looks_or_can_be_put_back(declared: dict[str, Any], is_free: bool) -> None:
    called = callee(control={"path": Integrity.TRUSTED}, **declared)
    request = Request(ANN, called, Labelled(value={"path": "a"}, label=UNTRUSTED), said=Integrity.UNTRUSTED)
    assert judge(policy(ALLOW).model_copy(update={"mode": "open"}), request).then == ("allow" if is_free else "ask")
    assert judge(policy(ALLOW), request).then == "ask"


@pytest.mark.parametrize(
    ("effect", "said", "rules"),
    [
        ("send", Integrity.UNTRUSTED, ("all", "mode:open")),
        ("send", Integrity.BOUNDED, ("all",)),
        ("fetch", Integrity.UNTRUSTED, ("all",)),
    ],
)
def test_an_exposed_plan_is_asked_for_every_effect_that_leaves_a_mark(
    effect: str, said: Integrity, rules: tuple[str, ...]
) -> None:
    request = Request(ANN, callee(effect=effect, control={}), Labelled(value={}), said=said)
    assert judge(policy(ALLOW).model_copy(update={"mode": "open"}), request).rules == rules
