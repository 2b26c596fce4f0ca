"""The law of histories: any event, at any moment, is either taken or refused, and what is decided is always taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeAlias, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import Record
from planner.core.decide import decide
from planner.core.events import (
    EVENT,
    CancelRequested,
    Event,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    Recorded,
    ReviewInconclusive,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
    UndoBegan,
    UndoRequested,
)
from planner.core.plan import Plan
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.setup import Setup
from planner.core.state import evolve, fold
from planner.core.undo import reversible
from planner.errors import JournalError

Started: TypeAlias = Callable[..., RunStarted]
Journal: TypeAlias = Callable[..., tuple[Recorded, ...]]
Callees: TypeAlias = tuple[Callee, ...]
Made: TypeAlias = Any
"""The class of worlds, of weathers or of processes, as `conftest` makes them."""

AT = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = Policy(rules=(Rule(id="ask", then="ask", callee="shell.*"), Rule(id="all", then="allow")))
PLAN = Plan.model_validate(
    {
        "inputs": {"x": "a"},
        "steps": [
            {"id": "s1", "use": "store.put", "args": {"name": "$inputs.x", "text": "x"}},
            {
                "id": "s2",
                "for_each": ["a", "b"],
                "on_item_error": "drop",
                "do": [
                    {
                        "id": "t1",
                        "use": "store.look",
                        "args": {"name": "$item"},
                        "on_error": {"retry": 1, "then": "ask"},
                    },
                    {"id": "t2", "use": "plan.goal", "args": {"goal": "$t1"}, "on_error": {"then": "skip"}},
                    {"id": "t3", "for_each": [1, 2], "use": "store.take", "args": {"name": "c"}},
                ],
                "answer": "${t1 ?? 'none'}",
            },
            {"id": "s3", "if": "s1 == null", "do": [{"id": "t4", "let": 1}], "else": [{"id": "t5", "let": 2}]},
            {"id": "s4", "use": "human.user", "args": {"question": "which?"}, "timeout_s": 60},
            {"id": "s5", "use": "gate.approve", "args": {"what": "$s4"}, "on_error": {"then": "skip"}},
            {"id": "s6", "use": "wait.event", "args": {"name": "paid", "match": {}}, "on_error": {"then": "skip"}},
            {"id": "s7", "use": "wait.until", "args": {"seconds": 9}},
            {
                "id": "s8",
                "use": "mail.send",
                "args": {"to": "a@b.c", "text": "x"},
                "on_error": {"retry": 1, "fallback": {"use": "store.put", "args": {"name": "b", "text": "y"}}},
            },
            {"id": "s9", "use": "shell.run", "args": {"text": "x"}, "on_error": {"then": "skip"}},
            {"id": "s10", "use": "agent.writer", "args": {"task": "${s9 ?? 0}"}, "budget": {"calls": 3}},
            {
                "id": "s11",
                "let": "${[s10, s3, s2]}",
                "on_error": {"fallback": {"use": "text.upper", "args": {"text": "x"}}},
            },
        ],
        "answer": ["${s2 ?? null}", "${s11 ?? null}"],
    }
)
OTHER = Plan.model_validate(
    {"inputs": {"x": "b"}, "steps": [PLAN.steps[0], {"id": "s12", "let": "$s1"}], "undo": ["s2"]}
)
KINDS: tuple[type[Event], ...] = get_args(get_args(Event)[0])
laws = settings(max_examples=60, deadline=None, derandomize="CI" in os.environ)
SEEDS = st.integers(0, 2**32)


# random events -----------------------------------------------------------------------------------------------

LABELLED: tuple[Any, ...] = ({}, {"value": 1}, {"value": [1, "a"]}, {"value": {"name": "a", "seconds": "nan"}})
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "answer": ("yes", "no", "retry", "skip", "fail", "value"),
    "arguments": LABELLED,
    "asked": (None, 0, 5, 20),
    "attempt": (0, 1, 2, 7),
    "blob": (None, "b1"),
    "branch": ("do", "else"),
    "by": ("user", "bob"),
    "calls": (0, 3),
    "cause": ("condition", "failure", "budget"),
    "data": (None, {"order": 7}),
    "due": (AT, AT.replace(tzinfo=None)),
    "fault": tuple({"code": code, "error_class": e} for code in ("T-1", "A-104") for e in ("unavailable", "denied")),
    "happened": (True, False, None),
    "inputs": ({}, {"x": "c"}, {"z": 1}),
    "items": LABELLED,
    "key": ("k", "k2"),
    "match": ({}, {"order": 7}),
    "name": ("paid", "sent", "", None),
    "paths": ((), ("s1",), ("s8", "s1"), ("s1", "s1"), ("s1~undo",), ("nowhere",)),
    "plan": (PLAN, OTHER, None),
    "question": ("approve", "happened", "failed", "answer"),
    "received": (0, 5, 12),
    "revision": (1, 2, 3),
    "seconds": (None, 0.0, 5.0, -1.0, float("nan"), float("inf")),
    "status": ("completed", "failed", "running", "paused"),
    "text": ("", "in French"),
    "timeout_s": (None, 5.0, -1.0, float("inf")),
    "until": (None, AT, AT.replace(tzinfo=None)),
    "value": LABELLED,
    "verdict": (None, {"then": "allow", "rules": ()}, {"then": "ask", "rules": ()}, {"then": "deny", "rules": ()}),
}
"""What the fields of events may be; of others what they are by default."""
FIXED: Mapping[str, Any] = {
    "account": "team",
    "at_event": 1,
    "certificate": Certificate(),
    "criteria": ("c1",),
    "goal": "Do it",
    "origin": "r0",
    "owner": "p9",
    "principal": Principal(),
    "problems": (),
    "reason": "",
}


def may_be_none(kind: type[Any], name: str) -> bool:
    return "None" in str(kind.model_fields[name].annotation)


def an_event(chance: Random, kind: type[Any], run: Run) -> Event:
    """An event of that kind, about any place there is, or none."""
    fields: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if name == "path":
            places = [*run.steps, *PLAN.index, "s2[0]", "s2[1]/t3[1]", "s3/t4", "s8~fallback", "s1~undo", "s9[", "x"]
            fields[name] = chance.choice(places)
        elif name == "setup":
            fields[name] = run.started.setup
        elif name in FIXED and field.is_required():
            fields[name] = FIXED[name]
        elif name in CHOICES and (field.is_required() or chance.random() < 0.6):
            fields[name] = chance.choice([one for one in CHOICES[name] if one is not None or may_be_none(kind, name)])
    return EVENT.validate_python({"type": kind.__name__, **fields})


def test_every_kind_of_event_can_be_made(started: Started) -> None:
    run = fold([Recorded(seq=1, run_id="r1", run_seq=1, at=AT, event=started(plan=PLAN))])
    for kind in KINDS:
        assert isinstance(an_event(Random(1), kind, run), kind)


# random moments ----------------------------------------------------------------------------------------------


def a_moment(chance: Random, begins: tuple[Recorded, ...], world: Made, process: Made) -> Run:
    """A run somewhere on its way, perhaps corrected, paused, resumed, forked, cancelled, or taken back."""
    one = process(begins, world, chance.randrange)
    for _ in range(chance.randint(1, 3)):
        one.drive(until=chance.randint(0, 60))
        turns: list[Event] = [
            Steered(by="user", inputs={"x": chance.choice("abc")}),
            Steered(by="user", plan=OTHER),
            PauseRequested(by="user"),
            RunResumed(owner="p2"),
            RunForked(origin="r0", at_event=1),
            CancelRequested(by="user"),
            UndoRequested(by="user"),
            PlanAbandoned(revision=one.run.revision + 1, reason="why"),
            ReviewInconclusive(),
            UndoBegan(paths=tuple(reversible(one.run))),
        ]
        with suppress(JournalError):
            one.append(chance.choice(turns))
        one = process(one.history, world, chance.randrange)
    run: Run = one.run
    return run


def after(run: Run, *events: Event) -> Run:
    for event in events:
        at = run.at + timedelta(seconds=1)
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=at, event=event))
    return run


def decided(run: Run) -> tuple[Event, ...]:
    return tuple(command.event for command in decide(run) if isinstance(command, Record))


# the law -----------------------------------------------------------------------------------------------------


@laws
@given(seed=SEEDS)
def test_any_event_is_taken_or_refused_with_the_run_as_it_was_and_what_is_decided_then_is_taken(
    seed: int, journal: Journal, started: Started, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    setup: dict[str, Any] = {"callees": every, "policy": POLICY, "on_ask": chance.choice(("wait", "deny"))}
    if chance.random() < 0.3:
        setup |= {"budget": {"calls": chance.randint(0, 9)}, "shortage": {"partial": chance.random() < 0.5}}
    start = started(plan=PLAN, **setup)
    begins: list[Event] = [start]
    if chance.random() < 0.9:
        begins.append(PlanAccepted(revision=1, plan=PLAN, certificate=Certificate()))
    run = a_moment(chance, journal(*begins), world(weather(seed)), process)
    before, taken = deepcopy(run), 0
    for kind in KINDS:
        event = an_event(chance, kind, run)
        try:
            other = after(run, event)
        except JournalError:
            continue
        finally:
            assert run == before
        taken += 1
        after(other, *decided(other))
    after(run, *decided(run))
    assert taken or run.finished is not None


def test_a_run_is_not_made_by_any_other_event_than_its_first(started: Started) -> None:
    run = fold([Recorded(seq=1, run_id="r1", run_seq=1, at=AT, event=started(plan=PLAN))])
    for kind in KINDS:
        event = an_event(Random(2), kind, run)
        recorded = Recorded(seq=1, run_id="r1", run_seq=1, at=AT, event=event)
        if isinstance(event, RunStarted):
            assert evolve(None, recorded).started == event
        else:
            with pytest.raises(JournalError, match="J-202"):
                evolve(None, recorded)


def test_a_setup_pins_what_a_run_needs(started: Started) -> None:
    assert isinstance(started().setup, Setup)
