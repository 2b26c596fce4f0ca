"""What a plan says is worth what its author saw, and what came with the goal is an outsider's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from planner.core.certificate import certify
from planner.core.commands import Record
from planner.core.decide import decide
from planner.core.events import (
    Attachment,
    Event,
    MapResolved,
    PlanAccepted,
    PlanProposed,
    PlanRejected,
    StepResolved,
    StepSucceeded,
)
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Integrity, Json, Label, leaves_of
from planner.core.plan import Plan
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.values import View, answer

Given: TypeAlias = Callable[..., Run]
Started: TypeAlias = Callable[..., Any]

OPEN = Policy(rules=(Rule(id="all", then="allow"),))
WEB = UNTRUSTED.from_source("s0:web.fetch")


def planned(given: Given, started: Started, label: Label, *steps: Mapping[str, Any], answer: Json = None) -> Run:
    """A run whose planner saw what has this label, with its plan accepted."""
    plan = Plan.model_validate({"steps": steps, "answer": answer})
    proposed = PlanProposed(revision=1, attempt=1, plan=plan, label=label)
    run = given(started(policy=OPEN), proposed)
    (command,) = decide(run)
    assert isinstance(command, Record)
    assert isinstance(command.event, PlanAccepted), command.event
    return given(started(policy=OPEN), proposed, command.event)


def decided(run: Run) -> list[Event]:
    return [command.event for command in decide(run) if isinstance(command, Record)]


SEND = {"id": "s1", "use": "mail.send", "args": {"to": "a@b.c", "text": "x"}}


@pytest.mark.parametrize(("label", "then", "exposed"), [(TRUSTED, "allow", 0), (BOUNDED, "ask", 0), (WEB, "ask", 1)])
def test_the_constants_of_a_plan_are_worth_what_its_planner_saw(
    given: Given, started: Started, label: Label, then: str, exposed: int
) -> None:
    run = planned(given, started, label, SEND)
    (resolved,) = decided(run)
    assert isinstance(resolved, StepResolved)
    assert resolved.verdict is not None
    assert resolved.verdict.then == then
    assert resolved.arguments.overall() == label
    assert run.exposed == exposed


def test_so_are_the_items_of_a_map(given: Given, started: Started) -> None:
    each = {"id": "s1", "for_each": ["a", "b"], "use": "text.upper", "args": {"text": "$item"}}
    run = planned(given, started, WEB, each, answer="said")
    (mapped,) = decided(run)
    assert isinstance(mapped, MapResolved)
    assert all(label == WEB for _, _, label in leaves_of(mapped.items))


def test_so_is_a_computed_value_and_so_is_the_answer(given: Given, started: Started) -> None:
    run = planned(given, started, WEB, {"id": "s1", "let": "${1 + 1}"}, answer="$s1")
    (computed,) = decided(run)
    assert isinstance(computed, StepSucceeded)
    assert computed.value.label == WEB
    plan = Plan.model_validate({"steps": [], "answer": "said"})
    assert answer(View(replace(run, plan=plan), plan)).label == WEB


def test_the_certificate_foresees_what_an_exposed_plan_will_be_asked(given: Given, started: Started) -> None:
    for label, gates in ((TRUSTED, 0), (WEB, 1)):
        certificate = planned(given, started, label, SEND).certificate
        assert certificate is not None
        assert len(certificate.gates) == gates


def test_a_block_and_its_answer_are_foreseen_as_well(callees: Any) -> None:
    catalogue = {callee.name: callee for callee in callees}
    inner = {"id": "t1", "use": "text.upper", "args": {"text": "x"}}
    block = {"id": "s1", "if": "true", "do": [inner], "answer": "a@b.c"}
    send = {"id": "s2", "use": "mail.send", "args": {"to": "$s1", "text": "x"}}
    plan = Plan.model_validate({"steps": [block, send]})
    for said, gates in ((Integrity.TRUSTED, 0), (Integrity.UNTRUSTED, 1)):
        made = certify(plan, catalogue, policy=OPEN, principal=Principal(), rates={}, said=said)
        assert len(made.gates) == gates


def test_an_attachment_is_a_text_of_an_outsider(given: Given, started: Started) -> None:
    send = {"id": "s1", "use": "mail.send", "args": {"to": "$attachments.bill", "text": "x"}}
    plan = Plan.model_validate({"steps": [send]})
    start = started(plan=plan, policy=OPEN)
    with_bill = start.model_copy(update={"attachments": (Attachment(name="bill", text="a@b.c"),)})
    (command,) = decide(given(with_bill))
    assert isinstance(command, Record)
    assert isinstance(command.event, PlanAccepted)
    assert [gate.rules for gate in command.event.certificate.gates] == [("control:to",)]
    (resolved,) = decided(given(with_bill, command.event))
    assert isinstance(resolved, StepResolved)
    assert resolved.arguments.at(("to",)).label == UNTRUSTED.from_source("attachment:bill")


@pytest.mark.parametrize("id_", ["inputs", "attachments"])
def test_no_step_takes_the_name_of_what_comes_with_a_plan(given: Given, started: Started, id_: str) -> None:
    plan = Plan.model_validate({"steps": [{"id": id_, "let": 1}], "answer": f"${id_}"})
    (command,) = decide(given(started(plan=plan, policy=OPEN)))
    assert isinstance(command, Record)
    assert isinstance(command.event, PlanRejected)
    assert [problem.code for problem in command.event.problems] == ["P-106"]
