from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import Callee, Declaration
from planner.core.egress import leaks, shown_to
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Json, Label, Labelled, gather
from planner.core.policy import Policy, Principal, Request, judge
from planner.core.rules import Rule

ANN = Principal(name="ann")
OPEN = Policy(rules=(Rule(id="all", then="allow"),))
SEND = Callee(
    name="mail.send",
    summary="",
    declaration=Declaration(effect="send", recipients=("to",), payload=("text",)),
)
POST = Callee(
    name="web.post",
    summary="",
    declaration=Declaration(effect="send", public_sink=True, payload=("text",)),
)
PRIVATE = Label(readers=frozenset({"ann", "bob@x.org"}))


def found(callee: Callee, words: str = "", **arguments: Labelled) -> list[str]:
    return [leak.rule for leak in leaks(callee, gather(arguments), words)]


def said(value: Json, label: Label = TRUSTED) -> Labelled:
    return Labelled(value=value, label=label)


@pytest.mark.parametrize(("label", "rules"), [(TRUSTED, []), (BOUNDED, []), (UNTRUSTED, ["recipient:to"])])
def test_a_recipient_whom_an_outsider_may_have_written_gets_nothing_unasked(label: Label, rules: list[str]) -> None:
    assert found(SEND, to=said("eve@x.org", label), text=said("hello")) == rules
    assert found(SEND, to=gather([said("ann@x.org"), said("eve@x.org", label)]), text=said("hello")) == rules


@pytest.mark.parametrize(
    ("to", "label", "words", "is_fit"),
    [
        ("bob@x.org", BOUNDED, "", True),  # a reader
        ("eve@x.org", TRUSTED, "Send it to Eve", False),
        ("eve@x.org", TRUSTED, "Send it to EVE@x.org, please.", True),
        ("eve@x.org", TRUSTED, "eve@x.org", True),
        ("eve@x.org", BOUNDED, "Send it to eve@x.org", False),  # named by the principal, but chosen by data
        ("eve@x.org", TRUSTED, "Send it to steve@x.org", False),
        ("eve@x.org", TRUSTED, "Send it to eve@x.org.evil.net", False),
        ("eve", TRUSTED, "Send it to eve-lyn", False),
        ("", TRUSTED, "", False),
    ],
)
def test_what_only_some_may_read_goes_to_them_or_to_whom_the_principal_named(
    to: str, label: Label, words: str, is_fit: bool
) -> None:
    rules = found(SEND, words, to=said(to, label), text=said("the salary", PRIVATE))
    assert rules == ([] if is_fit else ["egress:to"])
    assert found(SEND, words, to=said(to, label), text=said("good morning")) == []


def test_what_anybody_can_see_carries_only_what_is_for_anybody() -> None:
    assert found(POST, text=said("good morning")) == []
    assert found(POST, text=said("the salary", PRIVATE)) == ["egress:public"]
    address = POST.model_copy(update={"declaration": Declaration(effect="fetch", public_sink=True)})
    assert found(address, url=said("https://x.org/?salary=7", PRIVATE)) == ["egress:public"]  # an address tells, too


def test_what_nobody_may_read_goes_to_nobody() -> None:
    nobody = gather([said("a", PRIVATE), said("b", Label(readers=frozenset({"eve"})))])
    (leak,) = leaks(SEND, gather({"to": said("bob@x.org"), "text": nobody}), "")
    assert leak.reason == "`mail.send` carries what nobody alone may read"


@pytest.mark.parametrize("arguments", [said(None), gather({"text": said("the salary", PRIVATE)})])
def test_without_a_recipient_there_is_nothing_to_ask(arguments: Labelled) -> None:
    assert list(leaks(SEND, arguments, "")) == []


def test_the_gate_asks_for_each_leak_and_names_its_rules() -> None:
    arguments = gather({"to": said("eve@x.org", UNTRUSTED), "text": said("the salary", PRIVATE)})
    verdict = judge(OPEN, Request(ANN, SEND, arguments))
    assert (verdict.then, verdict.rules) == ("ask", ("all", "recipient:to"))
    named = gather({"to": said("eve@x.org"), "text": said("the salary", PRIVATE)})
    assert judge(OPEN, Request(ANN, SEND, named)).rules == ("all", "egress:to")
    assert judge(OPEN, Request(ANN, SEND, named, words="Tell eve@x.org the salary")).then == "allow"


def test_an_argument_that_is_too_low_and_one_that_leaks_are_told_together() -> None:
    declared: dict[str, Any] = {"effect": "send", "recipients": ("to",), "control": {"account": 2}}
    callee = SEND.model_copy(update={"declaration": Declaration.model_validate(declared)})
    verdict = judge(OPEN, Request(ANN, callee, gather({"to": said("eve", UNTRUSTED), "account": said("7", BOUNDED)})))
    assert verdict.rules == ("all", "control:account", "recipient:to")
    assert verdict.reason.count("; ") == 1


@given(st.text(), st.text(min_size=1).filter(lambda name: name not in {"ann", "bob@x.org"}))
def test_a_recipient_counts_as_named_only_where_it_stands_in_the_words(words: str, name: str) -> None:
    if found(SEND, words, to=said(name), text=said("x", PRIVATE)) == []:
        assert name.lower() in words.lower()


# what people are shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (said("x"), "x"),
        (said("x", PRIVATE), "x"),
        (said("x", Label(readers=frozenset({"bob"}))), "[only for `bob`]"),
        (said({}, Label(readers=frozenset())), "[only for nobody]"),
        (gather({"a": said(1), "b": said(2, Label(readers=frozenset({"bob"})))}), {"a": 1, "b": "[only for `bob`]"}),
        (gather([said(1, Label(readers=frozenset({"bob"}))), said(2)]), ["[only for `bob`]", 2]),
    ],
)
def test_who_may_not_see_a_value_is_told_whom_it_is_for(value: Labelled, shown: Json) -> None:
    assert shown_to(value, "ann").value == shown


def test_what_is_carried_where_nobody_sees_it_needs_no_reader() -> None:
    quiet = Callee(name="notes.keep", summary="", declaration=Declaration(effect="write", payload=("text",)))
    assert found(quiet, text=said("x", PRIVATE)) == []
