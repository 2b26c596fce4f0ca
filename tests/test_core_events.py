from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from pydantic import ValidationError

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.certificate import Certificate, Change, Gate
from planner.core.check import Problem
from planner.core.events import (
    EVENT,
    FINAL,
    AnswerDropped,
    BlockEntered,
    BudgetRefused,
    CancelRequested,
    ContentKept,
    Event,
    EventReceived,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    Remainder,
    RetryScheduled,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    RunStatus,
    Steered,
    StepFailed,
    StepInDoubt,
    StepJudged,
    StepNudged,
    StepParked,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoBegan,
    UndoRequested,
    Usage,
    WaitEnded,
    WaitStarted,
)
from planner.core.goal import Named
from planner.core.labels import BOUNDED, UNTRUSTED, Integrity, Labelled
from planner.core.ledger import Amount, Budget, Rate
from planner.core.plan import OnError, Plan, Step
from planner.core.policy import Policy, Principal, Verdict
from planner.core.repair import Repair
from planner.core.rules import Rule
from planner.core.setup import Criterion, Parent, Setup, Shortage

AT = datetime(2026, 3, 1, 12, 30, 0, 250, tzinfo=UTC)
USAGE = Usage(input_tokens=3, output_tokens=4, cached_tokens=1, cost_usd=0.5, seconds=1.5, model="m", exchange="b1")
FAULT = Fault(code="T-302", error_class="missing", message="there is no `ü`", choices=("a", "b"), retry_after_s=1.5)
VALUE = Labelled(
    value={"a": [1, 2.5, None, True, "ü \U0001f600"], "0": {}},
    label=UNTRUSTED,
    leaves=((("a", 0), BOUNDED), (("a", "*"), UNTRUSTED)),
)
PLAN = Plan(
    inputs={"file": "in.csv"},
    steps=(
        Step.model_validate(
            {
                "id": "s1",
                "use": "x.y",
                "args": {"a": ["$inputs.file", {"b": None}]},
                "if": "inputs.file != ''",
                "for_each": [1, 2],
                "as": "row",
                "on_error": OnError(retry=2, then="skip"),
                "note": "why",
            }
        ),
        Step(id="s2", let="${len(s1)}", after=("s1",)),
        Step.model_validate(
            {
                "id": "s3",
                "if": "s2 > 1",
                "do": [{"id": "t1", "use": "x.y", "on_error": {"fallback": {"use": "x.y", "args": {"a": 1}}}}],
                "else": [{"id": "t2", "let": 1, "timeout_s": 5, "priority": 3, "budget": {"calls": 2}}],
                "answer": ["$t1"],
            }
        ),
    ),
    answer={"n": "$s2"},
    undo=("s0",),
)
SETUP = Setup(
    callees=(
        Callee(
            name="x.y",
            summary="s",
            parameters=(Parameter(name="a", type="any", default=[1]),),
            declaration=Declaration(
                effect="send", resource=("x:{a}",), control={"a": Integrity.BOUNDED}, readers=frozenset({"ann"})
            ),
        ),
    ),
    policy=Policy(rules=(Rule(id="r", then="ask", roles=frozenset({"boss"})),), version="v"),
    budget=Budget(cost_usd=1.5, seconds=9),
    agents={"agent.writer": Budget(tokens=9)},
    rates={"agent.writer": Rate(input_usd=1.5)},
    shortage=Shortage(at=0.5, cheaper=True, items=3, partial=True),
    depth=1,
)
EVENTS: tuple[Event, ...] = (
    RunStarted(
        goal="Do it",
        principal=Principal(roles=frozenset({"boss", "clerk"})),
        setup=SETUP,
        named=(Named(text="a.txt", kind="path", part="target", found="absent"),),
        criteria=(Criterion(id="c1", kind="written", text="a.txt"),),
        plan=PLAN,
        parent=Parent(run_id="r0", path="s1[2]/t1"),
    ),
    RunResumed(owner="p2"),
    PlanProposed(revision=1, attempt=1, plan=PLAN, usage=USAGE, prompt_hash="ab"),
    PlanProposed(revision=1, attempt=2, plan=None, problems=(Problem(code="P-101", message="no JSON", step="s1"),)),
    PlannerFailed(revision=1, attempt=3, fault=FAULT, usage=(USAGE, Usage())),
    PlanRejected(revision=1, attempt=2, problems=(Problem(code="P-104", message="m", choices=("$s1",)),)),
    PlanAccepted(
        revision=1,
        plan=PLAN,
        certificate=Certificate(
            effects=(Change(step="s1", callee="x.y", effect="send", control={"a": [1]}),),
            gates=(Gate(step="s1", callee="x.y", rules=("r",), reason="why"),),
            repairs=(Repair(code="R-1", message="m"),),
        ),
    ),
    PlanAbandoned(revision=2, reason="step `s1` failed"),
    StepJudged(path="s1[0]", verdict=Verdict(then="deny", rules=("r",), reason="why")),
    StepResolved(path="s1[0]", arguments=VALUE, verdict=Verdict(then="ask", rules=("r",), reason="why")),
    MapResolved(path="s1", items=Labelled(value=[1, 2])),
    StepStarted(path="s1[0]", attempt=1, key="k"),
    StepStarted(path="s1[1]", attempt=2, key="k", held=Amount(cost_usd=None, tokens=5, calls=3), is_cheaper=True),
    ContentKept(path="s1[0]", name="a.txt", blob=None),
    StepSucceeded(path="s1[0]", value=VALUE, usage=(USAGE,), seconds=0.25),
    StepFailed(path="s1[1]", fault=FAULT, attempt=2, usage=(USAGE,), seconds=3.5),
    StepInDoubt(path="s1[1]", reason="no answer"),
    StepProbed(path="s1[1]", happened=None),
    StepProbed(path="s1[1]", happened=False),
    StepSkipped(path="s2", cause="failure"),
    StepSkipped(path="s2", cause="budget"),
    RetryScheduled(path="s1[1]", attempt=1, due=AT + timedelta(seconds=1.5)),
    TimerFired(path="s1[1]"),
    HumanAsked(path="s1[1]", question="happened", reason="why"),
    HumanAsked(path="s3", question="answer", reason="which?", role="boss", timeout_s=60),
    HumanAnswered(path="s1[1]", answer="no", by="ann"),
    HumanAnswered(path="s3", answer="value", by="ann", value={"a": [None]}, asked=7),
    WaitStarted(path="s4", until=AT),
    WaitStarted(path="s4", seconds=2.5, name="paid", match={"order": 7}),
    EventReceived(name="paid", data={"order": 7}, by="shop"),
    WaitEnded(path="s4", received=9),
    BlockEntered(path="s5[0]/t1", branch="else", decided_by=BOUNDED),
    StepParked(path="s6"),
    StepNudged(path="s6", by="r2"),
    ReviewPassed(criteria=("c1",), usage=(USAGE,)),
    ReviewFailed(criteria=("c1",)),
    ReviewInconclusive(criteria=("c1",)),
    CancelRequested(by="ann"),
    PauseRequested(by="ann"),
    PauseLifted(by="ann"),
    Steered(by="ann", text="in French", inputs={"file": "b"}, plan=PLAN),
    UndoRequested(by="ann"),
    UndoBegan(paths=("s2", "s1[0]")),
    AnswerDropped(usage=(USAGE,)),
    BudgetRefused(account="team", reason="nothing is left"),
    RunForked(origin="r0", at_event=7),
    RunFinished(status="completed", result=VALUE, reason="", degraded=("s1[1]",), fault=FAULT),
    RunFinished(status="cancelled", undone=("s1",), left=(Remainder(path="s2", reason="it cannot be taken back"),)),
)


def kind(event: Event) -> str:
    return event.type


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_an_event_survives_json(event: Event) -> None:
    assert EVENT.validate_json(EVENT.dump_json(event)) == event
    recorded = Recorded(seq=7, run_id="r1", run_seq=3, at=AT, event=event)
    assert Recorded.model_validate_json(recorded.model_dump_json()) == recorded


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_equal_events_have_equal_json(event: Event) -> None:
    again = EVENT.validate_json(EVENT.dump_json(event))
    assert EVENT.dump_json(again) == EVENT.dump_json(event)


def test_every_kind_of_event_is_tried_here() -> None:
    union, _ = get_args(Event)
    assert {type(event) for event in EVENTS} == set(get_args(union))


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_an_event_is_called_as_its_class_is(event: Event) -> None:
    assert event.type == type(event).__name__


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "StepExploded", "path": "s1"}',
        '{"path": "s1"}',
        '{"type": "TimerFired", "path": "s1", "extra": 1}',
        '{"type": "StepProbed", "path": "s1"}',
        '{"type": "HumanAnswered", "path": "s1", "answer": "maybe", "by": "ann"}',
    ],
)
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate_json(text)


def test_a_time_keeps_its_moment_and_its_zone() -> None:
    due = AT.astimezone(timezone(timedelta(hours=2)))
    event = EVENT.validate_json(EVENT.dump_json(RetryScheduled(path="s1", attempt=1, due=due)))
    assert isinstance(event, RetryScheduled)
    assert event.due == AT
    assert event.due.utcoffset() == timedelta(hours=2)


def test_a_run_is_final_unless_it_runs_waits_or_is_paused() -> None:
    assert set(get_args(RunStatus)) - FINAL == {"running", "waiting", "paused"}
