from __future__ import annotations

import json
from typing import Any

import pytest

from planner.core import check
from planner.core.catalog import Callee, Catalogue, Declaration, Parameter
from planner.core.certificate import EXCERPT, MAX_FLOWS, RULE_OF_TWO, Certificate, Change, Flow, Gate, certify
from planner.core.check import Terms, examine
from planner.core.intrinsics import intrinsics
from planner.core.labels import Integrity
from planner.core.ledger import Rate
from planner.core.plan import Plan, Step
from planner.core.policy import Policy, Principal
from planner.core.repair import Repair
from planner.core.rules import Rule

POLICY = Policy(
    rules=(
        Rule(id="ask-first", then="ask", callee="shop.*"),
        Rule(id="all", then="allow"),
    )
)


def tool(name: str, *arguments: str, **declared: Any) -> Callee:
    given = {"effect": "read"} | declared
    parameters = tuple(Parameter(name=argument, required=False) for argument in arguments)
    return Callee(name=name, summary="", parameters=parameters, declaration=Declaration.model_validate(given))


CATALOGUE: Catalogue = {
    **{
        callee.name: callee
        for callee in (
            tool("web.fetch", "url", effect="fetch", control={"url": Integrity.BOUNDED}),
            tool("files.list", "folder", out="bounded"),
            tool("files.read", "path", control={"path": Integrity.BOUNDED}),
            tool("files.write", "path", "text", effect="write", control={"path": 1}, undo="put_back", out="bounded"),
            tool("files.wipe", "path", effect="delete", control={"path": Integrity.TRUSTED}),
            tool("shop.order", "item", effect="spend", control={"item": 2}, reversible=True, out="trusted"),
            tool("mail.send", "to", "text", effect="send", recipients=("to",), payload=("text",)),
            tool("mail.read", out="untrusted", secrets=("MAIL_KEY",)),
            tool("crm.find", "name", out="trusted", readers=frozenset({"sales"})),
        )
    },
    **intrinsics(["user"]),
}
FETCH = {"id": "s1", "use": "web.fetch", "args": {"url": "https://x.example"}}
LIST = {"id": "s1", "use": "files.list", "args": {"folder": "."}}
WIPE = {"id": "s2", "use": "files.wipe", "args": {"path": "a.txt"}}


def plan(*steps: dict[str, Any], **more: Any) -> Plan:
    return Plan.model_validate({"steps": steps} | more)


def certified(*steps: dict[str, Any], rates: dict[str, Rate] | None = None, **more: Any) -> Certificate:
    return certify(plan(*steps, **more), CATALOGUE, policy=POLICY, principal=Principal(), rates=rates or {})


# effects


def test_every_effect_is_told_with_what_controls_it_and_whether_it_can_be_taken_back() -> None:
    effects = certified(
        LIST,
        {"id": "s2", "use": "files.write", "args": {"path": "b.txt", "text": "$s1"}},
        {"id": "s3", "use": "mail.send", "args": {"to": "$s1[0]", "text": "$s1"}},
        {"id": "s4", "use": "shop.order", "args": {"item": {"name": "x"}}},
        {"id": "s5", "let": "$s1"},
    ).effects
    assert effects == (
        Change(
            step="s2",
            callee="files.write",
            effect="write",
            control={"path": "b.txt"},
            reversible=True,
            undo="put_back",
        ),
        Change(step="s3", callee="mail.send", effect="send", control={"to": "$s1[0]"}),
        Change(step="s4", callee="shop.order", effect="spend", control={"item": {"name": "x"}}, reversible=True),
    )


def test_an_effect_happens_as_often_as_all_maps_around_it_allow() -> None:
    inner = {"id": "t1", "for_each": "$item", "max_items": 3, **{k: v for k, v in WIPE.items() if k != "id"}}
    effects = certified(
        {"id": "s1", "for_each": ["a", "b"], "do": [inner]}, {**WIPE, "for_each": "$inputs.all"}
    ).effects
    assert [(effect.step, effect.times) for effect in effects] == [("t1", 6), ("s2", 100)]


def test_what_stands_in_for_a_step_is_an_effect_too() -> None:
    other = {"fallback": {"use": "files.wipe", "args": {"path": "c.txt"}}}
    (effect,) = certified({**LIST, "for_each": ["a", "b"], "on_error": other}).effects
    assert (effect.step, effect.role, effect.callee, effect.times) == ("s1", "fallback", "files.wipe", 2)
    assert effect.control == {"path": "c.txt"}


def test_what_is_taken_back_first_is_told() -> None:
    assert certified(LIST, undo=["s7"]).takes_back == ("s7",)


def test_a_callee_that_nobody_declared_is_taken_for_the_worst() -> None:
    certificate = certified({"id": "s1", "use": "new.tool", "args": {"x": 1}})
    assert certificate.effects == (Change(step="s1", callee="new.tool", effect="execute"),)
    assert certificate.rule_of_two == ("untrusted input", "state change or egress")


def test_long_arguments_are_cut_for_the_plan_has_them() -> None:
    for value in ("x" * 500, ["x" * 500]):
        (effect,) = certified({**WIPE, "args": {"path": value}}).effects
        assert isinstance(effect.control["path"], str)
        assert len(effect.control["path"]) == EXCERPT
        assert effect.control["path"].endswith("x…")


# gates


def test_a_rule_that_asks_is_named_and_so_is_the_argument_that_may_be_worth_too_little() -> None:
    order = {"id": "s2", "use": "shop.order", "args": {"item": "$s1"}}
    certificate = certified(FETCH, order, {**WIPE, "id": "s3", "args": {"path": "$s1"}}, {**WIPE, "id": "s4"})
    assert certificate.gates == (
        Gate(
            step="s2",
            callee="shop.order",
            rules=("ask-first",),
            reason="`ask-first` wants a person to approve `shop.order`",
        ),
        Gate(
            step="s3",
            callee="files.wipe",
            rules=("control:path",),
            reason="`path` of `files.wipe` may come from data that an outsider wrote or picked",
            is_certain=False,
        ),
    )
    assert certificate.waits == ("s2", "s3")


def test_reading_is_asked_for_as_well_where_something_else_says_what_is_read() -> None:
    read = {"id": "s2", "for_each": "$s1", "use": "files.read", "args": {"path": "$item"}}
    assert certified(LIST, read).gates == ()
    (gate,) = certified(FETCH, read).gates
    assert (gate.step, gate.rules, gate.is_certain) == ("s2", ("control:path",), False)


def test_what_the_plan_itself_asks_is_a_gate_and_a_wait_is_none() -> None:
    steps = [{"id": f"s{n}", "use": use} for n, use in enumerate(("human.user", "gate.approve", "wait.event"), 1)]
    certificate = certified(*steps)
    assert [(gate.step, gate.rules, gate.reason) for gate in certificate.gates] == [
        ("s1", ("question",), "the plan asks a person"),
        ("s2", ("question",), "the plan wants an approval"),
    ]
    assert certificate.waits == ("s1", "s2", "s3")


def test_a_person_may_be_asked_what_to_do_about_a_failure() -> None:
    (gate,) = certified({**LIST, "on_error": {"then": "ask"}}).gates
    assert (gate.rules, gate.reason, gate.is_certain) == (
        ("on_error",),
        "if `files.list` fails, a person says what to do",
        False,
    )


def test_the_call_in_the_place_of_another_is_asked_for_by_its_own_rules() -> None:
    other = {"fallback": {"use": "shop.order", "args": {"item": "x"}}}
    (gate,) = certified({**LIST, "on_error": other}).gates
    assert (gate.step, gate.role, gate.rules) == ("s1", "fallback", ("ask-first",))


# flows


def test_a_flow_is_told_from_its_source_to_what_it_steers() -> None:
    certificate = certified(
        FETCH,
        {"id": "s2", "let": "${s1 + 'x'}"},
        {"id": "s3", "let": "unrelated"},
        {"id": "s4", "let": ["$s2", "$s3"]},
        {**WIPE, "id": "s5", "args": {"path": "$s4[0]"}},
    )
    assert certificate.flows == (
        Flow(
            source="s1",
            source_callee="web.fetch",
            via=("s2", "s4"),
            step="s5",
            callee="files.wipe",
            argument="path",
            integrity=Integrity.UNTRUSTED,
            least=Integrity.TRUSTED,
        ),
    )
    assert certificate.flows[0].is_too_low


def test_what_only_decides_that_a_step_runs_steers_it_as_well() -> None:
    (flow,) = certified(FETCH, {**WIPE, "if": "'old' in s1"}).flows
    assert (flow.source, flow.via, flow.integrity, flow.is_choice) == ("s1", (), Integrity.BOUNDED, True)
    (flow,) = certified(FETCH, {**WIPE, "if": "'old' in s1", "args": {"path": "$s1"}}).flows
    assert (flow.integrity, flow.is_choice) == (Integrity.UNTRUSTED, False)


def test_the_worst_flows_come_first_then_those_to_recipients_then_those_that_are_as_they_must_be() -> None:
    read = {"id": "s2", "for_each": "$s1", "use": "files.read", "args": {"path": "$item"}}
    send = {"id": "s3", "use": "mail.send", "args": {"to": "$s1[0]", "text": "$s2"}}
    wipe = {**WIPE, "id": "s4", "args": {"path": "$s1[0]"}}
    found = certified(LIST, read, send, wipe).flows
    assert [(flow.step, flow.argument, flow.least, flow.is_too_low) for flow in found] == [
        ("s4", "path", Integrity.TRUSTED, True),
        ("s3", "to", Integrity.BOUNDED, False),
        ("s2", "path", Integrity.BOUNDED, False),
    ]


def test_a_recipient_that_data_wrote_and_what_not_everybody_may_read_are_asked_about() -> None:
    mail = {"id": "s1", "use": "mail.read"}
    send = {"id": "s3", "use": "mail.send", "args": {"to": "$s1", "text": "hello"}}
    (gate,) = certified(mail, send).gates
    assert (gate.rules, gate.is_certain) == (("recipient:to",), False)
    find = {"id": "s2", "use": "crm.find", "args": {"name": "x"}}
    (gate,) = certified(find, {**send, "args": {"to": "eve@x.org", "text": "$s2"}}).gates
    assert (gate.rules, gate.is_certain) == (("egress",), False)
    assert certified(LIST, {**send, "args": {"to": "eve@x.org", "text": "$s1"}}).gates == ()


def test_a_certificate_lists_so_many_flows_as_can_be_kept_and_says_how_many_there_are_more() -> None:
    sources = [{"id": f"a{n}", "use": "files.list"} for n in range(40)]
    sinks = [{**WIPE, "id": f"b{n}", "args": {"path": "".join(f"${{a{k}}}" for k in range(40))}} for n in range(20)]
    certificate = certified(*sources, *sinks)
    assert (len(certificate.flows), certificate.flows_left_out) == (MAX_FLOWS, 20 * 40 - MAX_FLOWS)


# worst case, failures, rule of two


def test_numbers_have_units_and_what_is_unknown_is_none() -> None:
    certificate = certified(LIST, {**FETCH, "id": "s2", "args": {"url": "$s1[0]"}, "on_error": {"retry": 1}})
    assert (certificate.calls, certificate.tokens, certificate.cost_usd) == (3, 0, 0.0)
    assert (certificate.seconds, certificate.critical_path) == (60 + 121.5, ("s1", "s2"))
    nested = certified({"id": "s1", "use": "plan.goal", "args": {"goal": "x"}})
    assert (nested.calls, nested.tokens, nested.cost_usd, nested.waits) == (None, None, None, ("s1",))


@pytest.mark.parametrize(
    ("step", "has_path"),
    [
        (LIST, False),
        ({**LIST, "on_error": {"retry": 1}}, False),
        ({**LIST, "on_error": {"retry": 1, "then": "skip"}}, True),
        ({**LIST, "on_error": {"then": "skip"}}, True),
        ({**LIST, "on_error": {"then": "ask"}}, True),
        ({**LIST, "on_error": {"fallback": {"use": "web.fetch"}}}, True),
        ({**LIST, "for_each": ["a"], "on_item_error": "drop"}, True),
        ({**LIST, "on_item_error": "drop"}, False),
        ({"id": "s1", "use": "human.user", "on_error": {"then": "ask"}}, False),
        ({"id": "s1", "use": "human.user", "on_error": {"then": "skip"}}, True),
        ({"id": "s1", "let": 1}, True),
        ({"id": "s1", "let": "${inputs.a + 1}"}, False),
        ({"id": "s1", "let": 1, "if": "inputs.a > 1"}, False),
        ({"id": "s1", "let": "${inputs.a}", "on_error": {"retry": 3}}, False),
        ({"id": "s1", "let": "${inputs.a}", "on_error": {"then": "skip"}}, True),
    ],
)
def test_steps_that_may_fail_without_a_path_around_them_are_named(step: dict[str, Any], has_path: bool) -> None:
    assert certified(step).no_path == (() if has_path else ("s1",))


def test_a_block_catches_what_fails_in_it() -> None:
    held = {"id": "t1", "use": "files.list"}
    assert certified({"id": "s1", "do": [held]}).no_path == ("t1",)
    assert certified({"id": "s1", "do": [held], "on_error": {"retry": 2}}).no_path == ("t1",), "a block runs once"
    assert certified({"id": "s1", "do": [held], "on_error": {"then": "skip"}}).no_path == ()
    assert certified({"id": "s1", "for_each": ["a"], "do": [held], "on_item_error": "drop"}).no_path == ()
    assert certified({"id": "s1", "if": "inputs.a", "do": [held]}).no_path == ("s1", "t1")


@pytest.mark.parametrize(
    ("uses", "powers"),
    [
        (("files.list",), ()),
        (("mail.read",), ("untrusted input", "sensitive data")),
        (("crm.find",), ("sensitive data",)),
        (("web.fetch",), ("untrusted input", "state change or egress")),
        (("crm.find", "mail.send"), ("untrusted input", "sensitive data", "state change or egress")),
        (("crm.find", "files.write"), ("sensitive data", "state change or egress")),
        (("human.user", "gate.approve", "shop.order"), ("state change or egress",)),
        (("wait.event",), ("untrusted input",)),
    ],
)
def test_it_is_told_what_the_plan_combines_and_all_three_are_warned_of(
    uses: tuple[str, ...], powers: tuple[str, ...]
) -> None:
    certificate = certified(*({"id": f"s{n}", "use": use} for n, use in enumerate(uses)))
    assert certificate.rule_of_two == powers
    assert certificate.advice == ((RULE_OF_TWO,) if len(powers) == 3 else ())


# records


def test_a_record_of_it_holds_only_what_is_not_as_usual() -> None:
    assert Certificate().model_dump_json() == "{}"
    recorded = json.loads(certified(FETCH, {**WIPE, "args": {"path": "$s1"}}).model_dump_json())
    assert recorded["effects"] == [
        {"step": "s2", "callee": "files.wipe", "effect": "delete", "control": {"path": "$s1"}}
    ]
    (flow,) = recorded["flows"]
    assert flow == {
        "source": "s1",
        "source_callee": "web.fetch",
        "step": "s2",
        "callee": "files.wipe",
        "argument": "path",
        "integrity": "untrusted",
        "least": "trusted",
    }
    assert "cost_usd" not in recorded


def test_it_comes_back_from_its_record_as_it_was() -> None:
    repair = Repair(code="R-101", message="m", step="s1")
    full = certified(FETCH, {**WIPE, "if": "s1 == 'a'"}, {"id": "s3", "use": "plan.goal", "args": {"goal": "$s1"}})
    full = full.model_copy(update={"repairs": (repair,), "advice": ("a",)})
    assert Certificate.model_validate_json(full.model_dump_json()) == full
    assert Certificate.model_validate(full.model_dump()) == full
    assert json.loads(full.model_dump_json())["cost_usd"] is None


# in the check


def test_a_checked_plan_gets_its_certificate_with_its_repairs_advice_and_prices() -> None:
    assert check.Certificate is Certificate
    agent = Callee(
        name="agent.writer", kind="agent", summary="", declaration=Declaration(effect="read", max_tokens=9)
    )
    terms = Terms(
        catalogue={**CATALOGUE, "agent.writer": agent},
        policy=POLICY,
        principal=Principal(),
        rates={"agent.writer": Rate(input_usd=1, output_usd=1)},
    )
    found = examine(Plan(steps=(Step(id="s1", use="Agent.Writer"),), answer="$s1"), terms)
    assert found.certificate is not None
    assert [repair.code for repair in found.certificate.repairs] == ["R-101"]
    assert found.certificate.cost_usd == pytest.approx(0.002011)
