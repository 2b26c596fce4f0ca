from __future__ import annotations

from typing import Any

import pytest

from planner.agents import AGENTS
from planner.core.catalog import Callee, Catalogue, Declaration
from planner.core.expr import resolve
from planner.core.intrinsics import intrinsics
from planner.core.labels import BOUNDED, UNTRUSTED, Integrity, Json, Labelled
from planner.core.plan import Plan, Step
from planner.core.worth import Appraisal, Worth, appraise, value_worth


def tool(name: str, **declared: Any) -> Callee:
    return Callee(name=name, summary="", declaration=Declaration.model_validate({"effect": "read"} | declared))


CATALOGUE: Catalogue = {
    **{
        callee.name: callee
        for callee in (
            tool("web.fetch"),
            tool("files.list", out="bounded"),
            tool("files.search", out="fields", bounded_fields=("path",)),
            tool("mail.box", out="fields", bounded_fields=("page", "mails.from.address")),
            tool("clock.today", out="trusted"),
            tool("text.upper", effect="pure"),
            tool("mail.send", effect="send"),
        )
    },
    **AGENTS,
    **intrinsics(["user"]),
}
FETCH = {"id": "s1", "use": "web.fetch", "args": {"url": "https://x.example"}}
LIST = {"id": "s1", "use": "files.list", "args": {"folder": "."}}
SEARCH = {"id": "s1", "use": "files.search", "args": {"text": "x"}}


def appraised(*steps: dict[str, Any]) -> Appraisal:
    made = tuple(Step.model_validate(step) for step in steps)
    return appraise(Plan(inputs={"to": "a@x.example"}, steps=made), CATALOGUE)


def arriving(*steps: dict[str, Any]) -> dict[str, str]:
    """The integrity of each argument of the last call."""
    call = appraised(*steps).calls[-1]
    return {name: worth.integrity.name for name, worth in call.arguments.items()}


def sent(*steps: dict[str, Any], **more: Any) -> str:
    """The integrity of `to` in a call after these steps."""
    return arriving(*steps, {"id": "end", "use": "mail.send", **more})["to"]


# constants and results


def test_what_the_plan_itself_says_is_trusted_and_so_are_its_inputs() -> None:
    constants: list[Json] = ["a@x.example", 3, None, ["a", {"b": "c"}], "$5 and $$", "$inputs.to", "to: ${inputs.to}"]
    assert [sent(args={"to": value}) for value in constants] == ["TRUSTED"] * len(constants)


@pytest.mark.parametrize(
    ("use", "integrity"),
    [
        ("web.fetch", "UNTRUSTED"),
        ("files.list", "BOUNDED"),
        ("files.search", "UNTRUSTED"),
        ("clock.today", "TRUSTED"),
        ("text.upper", "TRUSTED"),
        ("agent.writer", "UNTRUSTED"),
        ("agent.extractor", "UNTRUSTED"),
        ("agent.choose", "UNTRUSTED"),
        ("wait.until", "TRUSTED"),
        ("nobody.knows", "UNTRUSTED"),
    ],
)
def test_a_result_is_worth_what_its_callee_declares(use: str, integrity: str) -> None:
    assert sent({"id": "s1", "use": use}, args={"to": "$s1"}) == integrity


@pytest.mark.parametrize("use", ["human.user", "gate.approve", "wait.event"])
def test_what_is_said_from_outside_may_be_said_by_anybody(use: str) -> None:
    found = appraised({"id": "s1", "use": use, "args": {"what": "now?", "name": "paid"}})
    assert found.results["s1"].integrity is Integrity.UNTRUSTED
    assert found.sources["s1"].name == use


def test_a_result_is_worth_less_where_what_was_asked_for_is_not_trusted() -> None:
    assert sent(FETCH, {"id": "s2", "use": "clock.today", "args": {"zone": "$s1"}}, args={"to": "$s2"}) == "BOUNDED"
    assert sent(FETCH, {"id": "s2", "use": "text.upper", "args": {"text": "$s1"}}, args={"to": "$s2"}) == "UNTRUSTED"


@pytest.mark.parametrize(
    ("read", "integrity"),
    [
        ("$s1.page", "BOUNDED"),
        ("$s1.mails[0].from.address", "BOUNDED"),
        ("$s1[0].mails[2].from[1].address", "BOUNDED"),
        ("$s1.mails[0].from.name", "UNTRUSTED"),
        ("$s1.mails", "UNTRUSTED"),
        ("$s1.rest", "UNTRUSTED"),
    ],
)
def test_such_a_field_may_stand_deeper_and_below_lists(read: str, integrity: str) -> None:
    assert sent({"id": "s1", "use": "mail.box"}, args={"to": read}) == integrity


def test_fields_that_a_service_attests_are_worth_more_than_the_rest() -> None:
    each = {"for_each": "$s1", "args": {"to": "$item.path", "text": "$item.text"}}
    assert sent(SEARCH, args={"to": "$s1[0].path"}) == "BOUNDED"
    assert sent(SEARCH, args={"to": "$s1.path"}) == "BOUNDED"
    assert sent(SEARCH, args={"to": "to ${s1[-1].path}!"}) == "BOUNDED"
    assert sent(SEARCH, args={"to": "$s1[0].text"}) == "UNTRUSTED"
    assert arriving(SEARCH, {"id": "s2", "use": "mail.send", **each}) == {"to": "BOUNDED", "text": "UNTRUSTED"}


def test_a_record_keeps_what_each_of_its_fields_is_worth() -> None:
    made = {"id": "s2", "let": {"name": "$inputs.to", "page": "$s1", "both": ["$s1", "x"]}}
    found = [sent(FETCH, made, args={"to": f"$s2{path}"}) for path in (".name", ".page", ".both[0]", "", ".absent")]
    assert found == ["TRUSTED", "UNTRUSTED", "UNTRUSTED", "UNTRUSTED", "TRUSTED"]


# branches, maps and blocks


def test_what_untrusted_data_decides_on_is_at_most_bounded() -> None:
    constant = {"args": {"to": "a@x.example"}}
    assert sent(FETCH, **constant) == "TRUSTED"
    assert sent(FETCH, **constant, **{"if": "'yes' in s1"}) == "BOUNDED"
    assert sent(FETCH, **constant, for_each="$s1") == "BOUNDED"
    assert sent(FETCH, **constant, for_each=["a", "b"]) == "TRUSTED"
    assert sent(FETCH, {"id": "s2", "let": "x", "if": "s1 == 'a'"}, args={"to": "$s2"}) == "BOUNDED"


def test_a_block_passes_on_what_decided_on_it() -> None:
    held = {"id": "t1", "use": "clock.today"}
    block = {"id": "s2", "if": "s1 == 'a'", "do": [held], "else": [{"id": "t2", "let": "$s1"}]}
    assert sent(FETCH, {**block, "answer": "x"}, args={"to": "$s2"}) == "BOUNDED"
    assert sent(FETCH, {**block, "answer": "${t2 ?? t1}"}, args={"to": "$s2"}) == "UNTRUSTED"
    assert sent(FETCH, block, args={"to": "$s2"}) == "UNTRUSTED", "without an answer it may be either branch's"
    inner = appraised(
        FETCH, {"id": "s2", "if": "s1 == 'a'", "do": [{"id": "t1", "use": "mail.send", "args": {"a": 1}}]}
    )
    assert inner.calls[-1].arguments["a"].deciders == {"s1"}


def test_an_item_can_be_told_from_the_list_and_is_worth_what_the_list_is() -> None:
    each = {"id": "s2", "for_each": "$s1", "as": "file", "do": [{"id": "t1", "use": "mail.send", "args": {}}]}
    named = {**each, "do": [{"id": "t1", "use": "mail.send", "args": {"to": "$file", "at": "$file_i", "x": "$item"}}]}
    assert arriving(LIST, named) == {"to": "BOUNDED", "at": "BOUNDED", "x": "UNTRUSTED"}


def test_what_stands_in_is_looked_at_too() -> None:
    other = {"fallback": {"use": "web.fetch", "args": {"url": "$s1"}}}
    found = appraised(LIST, {"id": "s2", "use": "clock.today", "on_error": other})
    assert [(call.step, call.role, call.callee.name) for call in found.calls][1:] == [
        ("s2", "call", "clock.today"),
        ("s2", "fallback", "web.fetch"),
    ]
    assert found.results["s2"].overall().integrity is Integrity.UNTRUSTED
    assert found.sources["s2"].name == "web.fetch"


# where it comes from


def test_it_is_known_which_steps_a_value_comes_from_and_which_only_decided_on_it() -> None:
    found = appraised(
        FETCH,
        {"id": "s2", "use": "files.list"},
        {"id": "s3", "let": "${s1 + 'x'}"},
        {"id": "s4", "let": "$s3", "if": "len(s2) > 3"},
    )
    assert found.results["s4"].steps == {"s1", "s3", "s4"}
    assert found.results["s4"].deciders == {"s2"}
    assert set(found.sources) == {"s1", "s2"}


# expressions


LEAVES = {"u": Worth(Integrity.UNTRUSTED), "b": Worth(Integrity.BOUNDED)}


def scope() -> dict[str, Worth]:
    return {
        "u": Worth(Integrity.UNTRUSTED),
        "b": Worth(Integrity.BOUNDED),
        "r": value_worth({"p": "$b", "q": "$u"}, LEAVES),
    }


@pytest.mark.parametrize(
    ("text", "integrity"),
    [
        ("$r.p", "BOUNDED"),
        ("${r.p}", "BOUNDED"),
        ("${r['p']}", "BOUNDED"),
        ("${r.p + 'x'}", "BOUNDED"),
        ("${r.p.upper()}", "BOUNDED"),
        ("${upper(r.p)}", "BOUNDED"),
        ("${r.q}", "UNTRUSTED"),
        ("${r}", "UNTRUSTED"),
        ("${r.get('p')}", "UNTRUSTED"),
        ("${r[b]}", "UNTRUSTED"),
        ("${b[u]}", "UNTRUSTED"),
        ("${b[0:1]}", "BOUNDED"),
        ("${r.p ?? b}", "UNTRUSTED"),
        ("${b ?? r.p}", "BOUNDED"),
        ("${u == 'a'}", "BOUNDED"),
        ("${not u}", "BOUNDED"),
        ("${u > 1 and u < 3}", "BOUNDED"),
        ("${u and u < 3}", "UNTRUSTED"),
        ("${'a' if u else 'b'}", "BOUNDED"),
        ("${'a' if u else u}", "UNTRUSTED"),
        ("${-1 if u else 2}", "BOUNDED"),
        ("${-true if u else 2}", "UNTRUSTED"),
        ("${any(x == 1 for x in u)}", "BOUNDED"),
        ("${u.startswith('a')}", "BOUNDED"),
        ("${u.upper()}", "UNTRUSTED"),
        ("${[x.p for x in b]}", "BOUNDED"),
        ("${[u for x in b]}", "UNTRUSTED"),
        ("${[x for x in b if x == u]}", "UNTRUSTED"),
        ("${{x: 1 for x in u}}", "UNTRUSTED"),
        ("${sorted(b, key=lambda u: u.p)}", "BOUNDED"),
        ("${sorted(b, key=lambda x: u)}", "UNTRUSTED"),
        ("${absent}", "UNTRUSTED"),
        ("${len('a')}", "TRUSTED"),
        ("${true}", "TRUSTED"),
        ("${u == 1}${b}", "BOUNDED"),
        ("$item ${b}", "UNTRUSTED"),
        ("$$ ${b}", "BOUNDED"),
        ("$u is no name in a text, $5 neither, ${b}", "BOUNDED"),
        ("${1 +} ${b}", "UNTRUSTED"),
        ("${'}", "UNTRUSTED"),
        ('$s1["${\'"] x', "UNTRUSTED"),
    ],
)
def test_an_expression_is_worth_what_it_may_look_at(text: str, integrity: str) -> None:
    assert value_worth(text, scope()).overall().integrity.name == integrity


@pytest.mark.parametrize("text", ["${r.zz ?? b}", "${-true if u else 2}", "${r.zz ?? [b]}"])
def test_what_is_looked_for_in_vain_counts_as_much_as_in_a_run(text: str) -> None:
    record = Labelled(value={"q": "x"}, label=UNTRUSTED)
    found = resolve(text, {"r": record, "u": record, "b": Labelled(value=["y"], label=BOUNDED)})
    assert found.overall().integrity >= value_worth(text, scope()).overall().integrity
