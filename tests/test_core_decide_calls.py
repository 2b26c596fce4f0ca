"""What a single call goes through: the gate, people, its turn, retries, doubt, and the end of a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.decide import decide
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    RetryScheduled,
    RunFinished,
    RunResumed,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    TimerFired,
)
from planner.core.forecast import TRIES
from planner.core.gate import binding
from planner.core.labels import UNTRUSTED, Json, Label, Labelled
from planner.core.ledger import Budget
from planner.core.plan import Step
from planner.core.policy import Policy, Verdict
from planner.core.rules import Rule
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

AT = datetime(2026, 3, 1, tzinfo=UTC)
ALLOW = Verdict(then="allow", rules=("all",))
ASK = Verdict(then="ask", rules=("ask",), reason="`ask` wants a person")
DENY = Verdict(then="deny", rules=("no",), reason="`no` says no")
DOWN = Fault(code="T-2", error_class="unavailable")
ARGUMENTS: Mapping[str, Json] = {"path": "a", "text": "x"}
SEND = Step(id="s1", use="mail.send", args={"to": "b@c.d", "text": "x"})
WRITE = Step(id="s1", use="files.write", args=ARGUMENTS)
APPEND = Step(id="s1", use="files.append", args=ARGUMENTS)
READ = Step(id="s1", use="files.read", args={"path": "a"})


def resolved(place: str = "s1", verdict: Verdict = ALLOW, arguments: Mapping[str, Json] = ARGUMENTS) -> StepResolved:
    return StepResolved(path=place, arguments=Labelled(value=dict(arguments)), verdict=verdict)


def made(path: str = "s1", attempt: int = 1) -> StepStarted:
    return StepStarted(path=path, attempt=attempt, key="k")


def failed(fault: Fault = DOWN, attempt: int = 0) -> StepFailed:
    return StepFailed(path="s1", fault=fault, attempt=attempt)


def answered(answer: Any) -> HumanAnswered:
    return HumanAnswered(path="s1", answer=answer, by="ann")


DOUBT = StepInDoubt(path="s1", reason="no answer")
RESUMED = RunResumed(owner="p2")
DID_IT = HumanAsked(path="s1", question="happened", reason="")
MAY_IT = HumanAsked(path="s1", question="approve", reason="")
HAPPENED = Record(
    StepSucceeded(
        path="s1", value=Labelled(label=UNTRUSTED.model_copy(update={"sources": frozenset({"s1:files.append"})}))
    )
)


def fault_of(commands: tuple[Command, ...]) -> Fault:
    command = commands[0]
    assert isinstance(command, Record)
    assert isinstance(command.event, StepFailed)
    return command.event.fault


def call(step: Step, attempt: int = 1) -> tuple[Call, ...]:
    assert step.use is not None
    return (Call("s1", step.use, attempt, "k"),)


# the gate ----------------------------------------------------------------------------------------------------


def test_the_gate_judges_a_call_with_the_arguments_it_will_have(given: Given, accepted: Accepted) -> None:
    steps = (Step(id="s1", let="b@c.d"), Step(id="s2", use="mail.send", args={"to": "$s1", "text": "x"}))
    for label, then in ((Label(), "allow"), (UNTRUSTED, "ask")):
        told = StepSucceeded(path="s1", value=Labelled(value="b@c.d", label=label))
        (command,) = decide(given(*accepted(*steps), told))
        assert isinstance(command, Record)
        assert isinstance(command.event, StepResolved)
        assert command.event.verdict is not None
        assert command.event.verdict.then == then


def test_what_is_allowed_is_called(given: Given, accepted: Accepted) -> None:
    (command,) = decide(given(*accepted(SEND), resolved()))
    assert isinstance(command, Call)
    assert (command.path, command.callee, command.attempt) == ("s1", "mail.send", 1)


def test_a_call_has_one_key_for_all_attempts_and_another_in_every_place(given: Given, accepted: Accepted) -> None:
    steps = (SEND, SEND.model_copy(update={"id": "s2", "args": {"to": "e@f.g", "text": "x"}}))
    begun = (*accepted(*steps), resolved(arguments=SEND.args), resolved("s2", arguments=steps[1].args))
    first, second = decide(given(*begun))
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert first.key != second.key
    assert decide(given(*begun)) == (first, second)
    again = (StepStarted(path="s1", attempt=1, key=first.key), DOUBT, DID_IT, answered("no"))
    assert decide(given(*begun, *again))[0] == Call("s1", "mail.send", 2, first.key)


def test_what_is_denied_is_never_called_and_ends_the_run_as_denied(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(SEND), resolved(verdict=DENY))
    fault = fault_of(decide(given(*begun)))
    assert fault == Fault(code="A-101", error_class="denied", message="`no` says no")
    end = RunFinished(status="denied", reason="step `s1` failed", fault=fault)
    assert decide(given(*begun, failed(fault))) == (Record(end),)


# people ------------------------------------------------------------------------------------------------------


def test_what_must_be_asked_is_asked_and_called_once_approved(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(SEND), resolved(verdict=ASK))
    bound = binding(given(*begun), "s1")
    asked = HumanAsked(path="s1", question="approve", reason="`ask` wants a person", binding=bound)
    assert decide(given(*begun)) == (Record(asked),)
    assert decide(given(*begun, asked)) == (AskHuman("s1"),)
    (command,) = decide(given(*begun, asked, answered("yes")))
    assert isinstance(command, Call)
    assert fault_of(decide(given(*begun, asked, answered("no")))).code == "A-103"


def test_where_nobody_is_there_to_ask_the_answer_is_no(given: Given, accepted: Accepted) -> None:
    fault = fault_of(decide(given(*accepted(SEND, on_ask="deny"), resolved(verdict=ASK))))
    assert (fault.code, fault.error_class) == ("A-102", "denied")
    assert fault.message == "`ask` wants a person, and nobody is there to ask"


def test_an_approval_is_for_one_call_so_a_retry_asks_again(given: Given, accepted: Accepted) -> None:
    step = Step.model_validate(SEND.model_dump() | {"on_error": {"retry": 1}})
    approved = (resolved(verdict=ASK), MAY_IT, answered("yes"), made(), failed())
    retried = (RetryScheduled(path="s1", attempt=1, due=AT), TimerFired(path="s1"))
    (command,) = decide(given(*accepted(step), *approved, *retried))
    assert isinstance(command, Record)
    assert isinstance(command.event, HumanAsked)


def test_a_person_is_asked_no_more_for_a_plan_that_has_failed(given: Given, accepted: Accepted) -> None:
    steps = (SEND, READ.model_copy(update={"id": "s2"}))
    lost = StepFailed(path="s2", fault=Fault(code="T-1", error_class="missing"))
    given_up = (Record(PlanAbandoned(revision=2, reason="step `s2` failed")),)
    assert decide(given(*accepted(*steps), resolved(verdict=ASK), MAY_IT, lost)) == given_up
    assert decide(given(*accepted(*steps), resolved(verdict=ASK), MAY_IT, answered("yes"), lost)) == given_up
    assert decide(given(*accepted(*steps), resolved(), made(), DOUBT, DID_IT, lost)) == (AskHuman("s1"),)


# turns -------------------------------------------------------------------------------------------------------


def second(**fields: Any) -> Step:
    return Step.model_validate({"id": "s2"} | fields)


APPEND_AGAIN = second(use="files.append", args=ARGUMENTS)


def paths(commands: tuple[Command, ...]) -> list[str]:
    return [command.path for command in commands if isinstance(command, Call)]


@pytest.mark.parametrize(
    ("first", "later", "together"),
    [
        (APPEND, APPEND_AGAIN, False),
        (READ, APPEND_AGAIN, False),
        (APPEND, second(use="files.read", args={"path": "./A"}), False),
        (APPEND, second(use="files.list", args={"folder": "."}), False),
        (APPEND, second(use="shell.run", args={"text": "x"}), False),
        (APPEND, second(use="files.append", args={"path": "b", "text": "x"}), True),
        (READ, second(use="files.read", args={"path": "a"}), True),
        (APPEND, second(use="text.upper", args={"text": "x"}), True),
    ],
)
def test_a_call_waits_for_earlier_ones_on_the_same_resource(
    first: Step, later: Step, together: bool, given: Given, accepted: Accepted
) -> None:
    begun = (*accepted(first, later), resolved(arguments=first.args), resolved("s2", arguments=later.args))
    assert paths(decide(given(*begun))) == (["s1", "s2"] if together else ["s1"])
    done = (made(), StepSucceeded(path="s1", value=Labelled()))
    assert paths(decide(given(*begun, *done))) == ["s2"]


def test_a_call_waits_while_an_earlier_one_is_asked_for_retried_or_not_resolved(
    given: Given, accepted: Accepted
) -> None:
    waiting = resolved("s2")
    retrying = APPEND.model_copy(update={"on_error": APPEND.on_error.model_copy(update={"retry": 1})})
    reads = Step(id="s1", use="files.append", args={"path": "$s0", "text": "x"})
    assert not paths(decide(given(*accepted(APPEND, APPEND_AGAIN), resolved(verdict=ASK), MAY_IT, waiting)))
    assert not paths(decide(given(*accepted(retrying, APPEND_AGAIN), resolved(), waiting, made(), failed())))
    assert not paths(
        decide(
            given(
                *accepted(READ.model_copy(update={"id": "s0"}), reads, APPEND_AGAIN),
                waiting,
                resolved("s0"),
                made("s0"),
            )
        )
    )


def test_an_approved_call_waits_for_its_turn(given: Given, accepted: Accepted) -> None:
    later = (resolved("s2", ASK), HumanAsked(path="s2", question="approve", reason=""))
    approved = (*later, HumanAnswered(path="s2", answer="yes", by="ann"))
    begun = (*accepted(APPEND, APPEND_AGAIN), resolved(), made(), *approved)
    assert decide(given(*begun)) == ()
    assert paths(decide(given(*begun, StepSucceeded(path="s1", value=Labelled())))) == ["s2"]


MAP = Step.model_validate(
    {
        "id": "s1",
        "use": "files.append",
        "args": {"path": "$item", "text": "x"},
        "for_each": ["a", "b", "a"],
        "on_error": {"retry": 1},
        "on_item_error": "drop",
    }
)
ITEMS = (
    MapResolved(path="s1", items=Labelled(value=["a", "b", "a"])),
    *(resolved(f"s1[{i}]", arguments={"path": path, "text": "x"}) for i, path in enumerate("aba")),
)


def test_the_items_of_a_map_take_turns_on_one_resource(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(MAP), *ITEMS)
    assert paths(decide(given(*begun))) == ["s1[0]", "s1[1]"]
    retried = (made("s1[0]"), StepFailed(path="s1[0]", fault=DOWN, attempt=1))
    assert paths(decide(given(*begun, *retried))) == ["s1[1]"]
    assert paths(decide(given(*begun, made("s1[0]"), StepSucceeded(path="s1[0]", value=Labelled())))) == [
        "s1[1]",
        "s1[2]",
    ]


def test_a_later_step_waits_for_every_item_of_a_map(given: Given, accepted: Accepted) -> None:
    after = second(use="files.append", args=ARGUMENTS)
    begun = (*accepted(MAP, after), *ITEMS, resolved("s2"))
    ended = [e for i in range(3) for e in (made(f"s1[{i}]"), StepSucceeded(path=f"s1[{i}]", value=Labelled()))]
    assert decide(given(*begun, *ended[:-1])) == ()
    assert paths(decide(given(*begun, *ended))) == ["s2"]


# retries -----------------------------------------------------------------------------------------------------


def test_a_failure_that_may_pass_is_tried_again_after_a_while_that_doubles(given: Given, accepted: Accepted) -> None:
    step = Step.model_validate(WRITE.model_dump() | {"on_error": {"retry": 2}})
    events: list[Event] = [*accepted(step), resolved()]
    for attempt, delay_s in ((1, 1.0), (2, 2.0)):
        events += [made(attempt=attempt), failed()]
        assert decide(given(*events)) == (ScheduleRetry("s1", attempt, delay_s),)
        events.append(RetryScheduled(path="s1", attempt=attempt, due=AT))
        assert decide(given(*events)) == (StartTimer("s1", AT),)
        events.append(TimerFired(path="s1"))
        assert decide(given(*events)) == call(WRITE, attempt + 1)
    assert decide(given(*events, made(attempt=3), failed())) == (
        Record(PlanAbandoned(revision=2, reason="step `s1` failed")),
    )


@pytest.mark.parametrize(
    ("error_class", "is_retried"),
    [
        ("unavailable", True),
        ("failed", True),
        ("limit", True),
        ("invalid", False),
        ("missing", False),
        ("denied", False),
        ("conflict", False),
    ],
)
def test_only_what_may_pass_is_tried_again(
    error_class: Any, is_retried: bool, given: Given, accepted: Accepted
) -> None:
    step = Step.model_validate(WRITE.model_dump() | {"on_error": {"retry": 1}})
    fault = Fault(code="T-1", error_class=error_class)
    (command,) = decide(given(*accepted(step), resolved(), made(), failed(fault)))
    assert isinstance(command, ScheduleRetry) is is_retried


def test_inputs_that_cannot_be_computed_are_not_tried_again(given: Given, accepted: Accepted) -> None:
    step = Step.model_validate(WRITE.model_dump() | {"on_error": {"retry": 1}})
    begun = (*accepted(step, is_given=True), StepFailed(path="s1", fault=Fault(code="P-210", error_class="limit")))
    (command,) = decide(given(*begun))
    assert isinstance(command, Record)
    assert isinstance(command.event, RunFinished)


def test_a_crash_uses_up_no_retry(given: Given, accepted: Accepted) -> None:
    step = Step.model_validate(WRITE.model_dump() | {"on_error": {"retry": 1}})
    crashed = (made(), RESUMED, made(attempt=2), RESUMED, made(attempt=3), failed())
    assert decide(given(*accepted(step), resolved(), *crashed)) == (ScheduleRetry("s1", 3, 1.0),)


# doubt -------------------------------------------------------------------------------------------------------


def test_a_call_that_was_interrupted_is_made_again_where_that_does_no_harm(given: Given, accepted: Accepted) -> None:
    for step in (READ, WRITE):
        assert decide(given(*accepted(step), resolved(), made(), RESUMED)) == call(step, 2)
    for step in (APPEND, SEND):
        (command,) = decide(given(*accepted(step), resolved(), made(), RESUMED))
        assert isinstance(command, Record)
        assert isinstance(command.event, StepInDoubt)


def test_an_idempotent_call_in_doubt_is_made_again_with_its_key(given: Given, accepted: Accepted) -> None:
    assert decide(given(*accepted(WRITE), resolved(), made(), DOUBT)) == call(WRITE, 2)


def test_a_probed_call_in_doubt_is_looked_for_and_then_made_again_or_done(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(APPEND), resolved(), made(), DOUBT)
    assert decide(given(*begun)) == (Probe("s1", "files.append"),)
    assert decide(given(*begun, StepProbed(path="s1", happened=False))) == call(APPEND, 2)
    assert decide(given(*begun, StepProbed(path="s1", happened=True))) == (HAPPENED,)


def test_what_no_probe_can_tell_a_person_must(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(APPEND), resolved(), made(), DOUBT, StepProbed(path="s1", happened=None))
    asked = HumanAsked(path="s1", question="happened", reason="`files.append` may or may not have happened")
    assert decide(given(*begun)) == (Record(asked),)
    assert decide(given(*begun, asked)) == (AskHuman("s1"),)
    assert decide(given(*begun, asked, answered("yes"))) == (HAPPENED,)
    assert decide(given(*begun, asked, answered("no"))) == call(APPEND, 2)


def undecided(step: Step, given: Given, accepted: Accepted, *others: Step) -> tuple[tuple[Event, ...], Fault]:
    """A run without a person, after an effect of which nobody knows whether it happened."""
    begun = (*accepted(step, *others, on_ask="deny"), resolved(), made(), DOUBT)
    fault = fault_of(decide(given(*begun)))
    return (*begun, failed(fault)), fault


def test_what_nobody_can_tell_ends_the_run(given: Given, accepted: Accepted) -> None:
    events, fault = undecided(SEND, given, accepted)
    assert (fault.code, fault.error_class) == ("A-104", "conflict")
    assert decide(given(*events)) == (Record(RunFinished(status="failed", reason="step `s1` failed", fault=fault)),)


def test_no_other_plan_is_made_that_might_repeat_an_effect_in_doubt(given: Given, accepted: Accepted) -> None:
    tolerated = SEND.model_copy(update={"on_error": SEND.on_error.model_copy(update={"then": "skip"})})
    for step in (SEND, tolerated):
        other = READ.model_copy(update={"id": "s2"})
        events, _ = undecided(step, given, accepted, other)
        lost = StepFailed(path="s2", fault=Fault(code="T-1", error_class="missing"))
        (command,) = decide(given(*events, lost))
        assert isinstance(command, Record)
        assert isinstance(command.event, RunFinished)


def doubts(count: int) -> list[Event]:
    """So many calls without an answer."""
    return [event for attempt in range(1, count + 1) for event in (made(attempt=attempt), DOUBT)]


def test_a_call_that_never_answers_is_given_up_after_some_tries(given: Given, accepted: Accepted) -> None:
    for step in (WRITE, READ):
        events = (*accepted(step), resolved(), *doubts(TRIES))
        assert decide(given(*events)) == call(step, TRIES + 1)
    (command,) = decide(given(*accepted(WRITE), resolved(), *doubts(TRIES + 1)))
    assert isinstance(command, Record)
    assert isinstance(command.event, HumanAsked)
    assert fault_of(decide(given(*accepted(READ), resolved(), *doubts(TRIES + 1)))).error_class == "unavailable"
    probed = (*doubts(TRIES + 1), StepProbed(path="s1", happened=False))
    fault = fault_of(decide(given(*accepted(APPEND), resolved(), *probed)))
    assert (fault.code, fault.message) == ("A-105", "`files.append` gave no answer, and did not happen")


def test_what_did_not_happen_is_not_made_up_for_in_a_plan_that_has_failed(given: Given, accepted: Accepted) -> None:
    lost = StepFailed(path="s2", fault=Fault(code="T-1", error_class="missing"))
    begun = (*accepted(APPEND, READ.model_copy(update={"id": "s2"})), resolved(), made(), DOUBT, lost)
    for told in ((StepProbed(path="s1", happened=False),), (DID_IT, answered("no"))):
        assert fault_of(decide(given(*begun, *told))).code == "A-105"


def test_an_effect_in_doubt_is_settled_before_a_plan_is_given_up(given: Given, accepted: Accepted) -> None:
    lost = StepFailed(path="s2", fault=Fault(code="T-1", error_class="missing"))
    begun = (*accepted(WRITE, READ.model_copy(update={"id": "s2"})), resolved(), made(), DOUBT, lost)
    assert decide(given(*begun)) == call(WRITE, 2)


def test_nothing_is_called_again_beyond_the_budget(given: Given, accepted: Accepted) -> None:
    for step, happened in ((WRITE, (DOUBT,)), (READ, (RESUMED,))):
        (command,) = decide(given(*accepted(step, budget=Budget(calls=1)), resolved(), made(), *happened))
        assert isinstance(command, Record)
        assert isinstance(command.event, RunFinished)
        assert command.event.status == "over_budget"


def test_a_rule_may_ask_for_every_effect(given: Given, accepted: Accepted) -> None:
    policy = Policy(rules=(Rule(id="ask", then="ask", effect="write"), Rule(id="all", then="allow")))
    for step, then in ((WRITE, "ask"), (READ, "allow")):
        (command,) = decide(given(*accepted(step, policy=policy)))
        assert isinstance(command, Record)
        assert isinstance(command.event, StepResolved)
        assert command.event.verdict is not None
        assert command.event.verdict.then == then
