"""A call judged again before it is made, and what an approval is worth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from planner.core import gate
from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry
from planner.core.decide import decide
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    Recorded,
    RetryScheduled,
    RunResumed,
    StepFailed,
    StepInDoubt,
    StepJudged,
    StepProbed,
    StepResolved,
    StepStarted,
    TimerFired,
)
from planner.core.gate import APPROVED_S, binding
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Json, Label, Labelled, gather
from planner.core.moves import moved
from planner.core.plan import OnError, Step
from planner.core.policy import Policy, Verdict
from planner.core.rules import Rule
from planner.core.run import Run, StepState, replace
from planner.core.state import evolve
from planner.errors import JournalError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

OPEN = Policy(rules=(Rule(id="all", then="allow"),), version="v1")
ASKING = Policy(rules=(Rule(id="ask", then="ask"),), version="v2")
CLOSED = Policy(rules=(Rule(id="no", then="deny"),), version="v3")
ALLOWED = Verdict(then="allow", rules=("all",), policy_version="v1")
SEND = Step(id="s1", use="mail.send", args={"to": "b@c.d", "text": "x"})
WRITE = Step(id="s1", use="files.write", args={"path": "a", "text": "x"})
READ = Step(id="s1", use="files.read", args={"path": "a"})
LOW = "`to` of `mail.send` came from data that an outsider may have written"


def resolved(verdict: Verdict = ALLOWED, **arguments: Labelled) -> StepResolved:
    given_ = arguments or {"to": Labelled(value="b@c.d"), "text": Labelled(value="x")}
    return StepResolved(path="s1", arguments=gather(given_), verdict=verdict)


def path_and_text(verdict: Verdict = ALLOWED) -> StepResolved:
    return resolved(verdict, path=Labelled(value="a"), text=Labelled(value="x"))


def only(run: Run) -> Command:
    (command,) = decide(run)
    return command


def recorded(run: Run) -> Event:
    command = only(run)
    assert isinstance(command, Record)
    return command.event


def later(run: Run, event: Event, *, seconds: float = 0.0) -> Run:
    at = run.at + timedelta(seconds=seconds)
    return evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=at, event=event))


def said(run: Run, answer: str, value: Json = None, *, by: str = "user") -> Run:
    fields = {"path": "s1", "answer": answer, "by": by, "value": value, "asked": run.step("s1").asked}
    return later(run, HumanAnswered.model_validate(fields | {"binding": run.step("s1").binding}))


def asking(given: Given, accepted: Accepted, step: Step = SEND, to: Label = UNTRUSTED) -> Run:
    """A run that asks whether to send to whom an outsider may have named."""
    verdict = Verdict(then="ask", rules=("all", "control:to"), reason=LOW, policy_version="v1")
    begun = given(*accepted(step, policy=OPEN), resolved(verdict, to=Labelled(value="e@v.il", label=to), text=TEXT))
    return later(begun, recorded(begun))


TEXT = Labelled(value="x")


# the terms of a run that goes on -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "then"), [(OPEN.model_copy(update={"version": "v9"}), "allow"), (ASKING, "ask"), (CLOSED, "deny")]
)
def test_a_call_is_judged_again_by_the_rules_under_which_the_run_goes_on(
    given: Given, accepted: Accepted, policy: Policy, then: str
) -> None:
    run = given(*accepted(SEND, policy=OPEN), resolved(), RunResumed(owner="p2", policy=policy))
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert (judged.verdict.then, judged.verdict.policy_version) == (then, policy.version)
    after = only(later(run, judged))
    match then:
        case "allow":
            assert isinstance(after, Call)
        case "ask":
            assert isinstance(after, Record)
            assert isinstance(after.event, HumanAsked)
        case _:
            assert isinstance(after, Record)
            assert isinstance(after.event, StepFailed)
            assert after.event.fault.code == "A-101"


def test_a_run_that_goes_on_under_the_same_terms_judges_nothing_again(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(SEND, policy=OPEN), resolved(), RunResumed(owner="p2"))
    assert isinstance(only(run), Call)


def test_a_callee_that_is_another_by_now_is_judged_by_its_new_declaration(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(WRITE, policy=OPEN), path_and_text())
    newer = run.started.setup.catalogue["files.write"].model_copy(update={"version": "2"})
    declared = newer.declaration.model_copy(update={"roles": ("boss",)})
    run = later(run, RunResumed(owner="p2", callees=(newer.model_copy(update={"declaration": declared}),)))
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.rules == ("declaration:roles",)


def test_a_callee_that_the_run_did_not_have_is_not_added_to_it(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(SEND, policy=OPEN), resolved())
    other = run.started.setup.catalogue["mail.send"].model_copy(update={"name": "mail.wipe"})
    names = run.started.setup.catalogue.keys()
    assert later(run, RunResumed(owner="p2", callees=(other,))).started.setup.catalogue.keys() == names


def test_an_approval_does_not_outlive_the_terms_under_which_it_was_given(given: Given, accepted: Accepted) -> None:
    run = later(said(asking(given, accepted), "yes"), RunResumed(owner="p2", assistant_hash="other"))
    run = later(run, recorded(run))
    again = recorded(run)
    assert isinstance(again, HumanAsked)
    assert again.question == "approve"


def test_a_question_about_a_call_as_it_was_is_withdrawn_and_asked_anew(given: Given, accepted: Accepted) -> None:
    run = asking(given, accepted)
    old = run.step("s1").binding
    run = later(run, RunResumed(owner="p2", policy=ASKING))
    run = later(run, recorded(run))
    asked = recorded(run)
    assert isinstance(asked, HumanAsked)
    assert asked.binding != old
    with pytest.raises(JournalError, match="the call is another one by now"):
        later(later(run, asked), HumanAnswered(path="s1", answer="yes", by="user", binding=old))


def test_a_question_what_happened_is_not_withdrawn(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(SEND, policy=OPEN), resolved(), StepStarted(path="s1", attempt=1, key="k"))
    run = given(*begun, StepInDoubt(path="s1", reason="lost"))
    run = later(later(run, recorded(run)), RunResumed(owner="p2", policy=CLOSED))
    assert only(run) == AskHuman("s1")
    with pytest.raises(JournalError, match="what is asked is not whether it may be made"):
        later(run, StepJudged(path="s1", verdict=ALLOWED))


def test_a_no_holds_whatever_changed(given: Given, accepted: Accepted) -> None:
    run = later(said(asking(given, accepted), "no"), RunResumed(owner="p2", policy=OPEN, assistant_hash="other"))
    failed = recorded(run)
    assert isinstance(failed, StepFailed)
    assert failed.fault.code == "A-103"


def test_an_effect_that_was_begun_is_not_repeated_against_the_rules_of_now(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(WRITE, policy=OPEN), path_and_text(), StepStarted(path="s1", attempt=1, key="k"))
    assert isinstance(only(given(*begun, RunResumed(owner="p2"))), Call)
    run = given(*begun, RunResumed(owner="p2", policy=CLOSED))
    run = later(run, recorded(run))
    doubt = recorded(run)
    assert isinstance(doubt, StepInDoubt)
    asked = recorded(later(run, doubt))
    assert isinstance(asked, HumanAsked)
    assert asked.question == "happened"


def test_a_look_that_was_begun_is_not_repeated_against_the_rules_of_now(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(READ, policy=OPEN), resolved(ALLOWED, path=TEXT), StepStarted(path="s1", attempt=1, key="k"))
    run = given(*begun, RunResumed(owner="p2", policy=CLOSED))
    failed = recorded(later(run, recorded(run)))
    assert isinstance(failed, StepFailed)
    assert failed.fault.error_class == "denied"


def test_an_effect_that_did_not_happen_is_not_made_against_the_rules_of_now(given: Given, accepted: Accepted) -> None:
    append = Step(id="s1", use="files.append", args={"path": "a", "text": "x"})
    begun = (*accepted(append, policy=OPEN), path_and_text(), StepStarted(path="s1", attempt=1, key="k"))
    run = given(*begun, StepInDoubt(path="s1", reason="lost"))
    assert only(run) == Probe("s1", "files.append")
    run = later(run, StepProbed(path="s1", happened=False))
    assert isinstance(only(run), Call)
    run = later(run, RunResumed(owner="p2", policy=CLOSED))
    failed = recorded(later(run, recorded(run)))
    assert isinstance(failed, StepFailed)
    assert failed.fault.code == "A-105"


def test_a_wish_to_try_again_is_judged_again_too(given: Given, accepted: Accepted) -> None:
    asking_ = Step(id="s1", use="files.write", args={"path": "a", "text": "x"}, on_error=OnError(then="ask"))
    fault = Fault(code="T-1", error_class="missing")
    run = given(
        *accepted(asking_, policy=OPEN),
        path_and_text(),
        StepStarted(path="s1", attempt=1, key="k"),
        StepFailed(path="s1", fault=fault, attempt=1),
    )
    run = said(later(run, recorded(run)), "retry")
    assert isinstance(only(run), Call)
    run = later(run, RunResumed(owner="p2", policy=CLOSED))
    failed = recorded(later(run, recorded(run)))
    assert isinstance(failed, StepFailed)
    assert failed.fault.code == "A-101"


def test_a_call_that_failed_is_judged_again_when_it_is_tried_again(given: Given, accepted: Accepted) -> None:
    step = Step(id="s1", use="files.write", args={"path": "a", "text": "x"}, on_error=OnError(retry=1))
    run = given(
        *accepted(step, policy=OPEN),
        path_and_text(),
        StepStarted(path="s1", attempt=1, key="k"),
        StepFailed(path="s1", fault=Fault(code="T-1", error_class="unavailable"), attempt=1),
        RunResumed(owner="p2", policy=CLOSED),
    )
    assert isinstance(only(run), ScheduleRetry)
    run = later(later(run, RetryScheduled(path="s1", attempt=1, due=run.at)), TimerFired(path="s1"))
    assert isinstance(recorded(run), StepJudged)


def test_what_waits_for_a_person_by_itself_is_not_asked_anew(
    given: Given, accepted: Accepted, every: tuple[Callee, ...]
) -> None:
    approval = Step(id="s1", use="gate.approve", args={"what": "it"})
    run = given(*accepted(approval, policy=OPEN, callees=every), resolved(ALLOWED, what=TEXT))
    run = later(later(run, recorded(run)), RunResumed(owner="p2", policy=ASKING))
    assert only(run) == AskHuman("s1")
    assert not isinstance(recorded(said(run, "yes")), StepJudged)


# approvals ---------------------------------------------------------------------------------------------------


def test_an_approval_grows_old_before_the_call_is_made(given: Given, accepted: Accepted) -> None:
    run = said(asking(given, accepted), "yes")
    assert isinstance(only(run), Call)
    still = later(run, RunResumed(owner="p2"), seconds=APPROVED_S)
    assert isinstance(only(still), Call)
    old = later(run, RunResumed(owner="p2"), seconds=APPROVED_S + 1)
    assert isinstance(recorded(old), StepJudged)
    assert isinstance(recorded(later(old, recorded(old))), HumanAsked)


def test_an_approved_call_that_may_be_repeated_is_repeated_by_the_next_process(
    given: Given, accepted: Accepted
) -> None:
    verdict = Verdict(then="ask", rules=("ask",), reason="why", policy_version="v1")
    begun = given(*accepted(WRITE, policy=OPEN), path_and_text(verdict))
    run = said(later(begun, recorded(begun)), "yes")
    run = later(later(run, StepStarted(path="s1", attempt=1, key="k")), RunResumed(owner="p2"))
    assert isinstance(only(run), Call)


def test_an_approval_is_bound_to_callee_arguments_labels_and_rules(given: Given, accepted: Accepted) -> None:
    def bound(policy: Policy = OPEN, version: str = "", to: str = "a", label: Label = TRUSTED) -> str:
        run = given(*accepted(SEND, policy=policy), resolved(to=Labelled(value=to, label=label)))
        callee = run.started.setup.catalogue["mail.send"].model_copy(update={"version": version})
        return binding(later(run, RunResumed(owner="p2", callees=(callee,))), "s1")

    others = {bound(policy=ASKING), bound(version="2"), bound(to="b"), bound(label=BOUNDED)}
    assert len({bound(), *others}) == 5
    assert bound() == bound()


@drawn(st.sampled_from(["yes", "edit", "endorse"]), st.text(min_size=1, max_size=5))
def test_an_answer_to_another_call_does_not_count(answer: str, other: str) -> None:
    state = StepState(status="asked", question="approve", asked=3, binding="b" * 64)
    event = HumanAnswered.model_validate({"path": "s1", "answer": answer, "by": "user", "binding": other})
    with pytest.raises(JournalError, match="the call is another one by now"):
        moved(state, event)


def test_an_edited_call_is_judged_again_with_what_the_person_wrote_and_made_so(
    given: Given, accepted: Accepted
) -> None:
    run = said(asking(given, accepted), "edit", {"to": "boss@c.d"})
    arguments = run.step("s1").arguments
    assert arguments is not None
    assert arguments.value == {"to": "boss@c.d", "text": "x"}
    assert arguments.at(("to",)).label == TRUSTED.from_source("human:user")
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.then == "allow"
    assert isinstance(only(later(run, judged)), Call)


def test_what_a_person_edits_is_still_denied_where_a_rule_denies_it(given: Given, accepted: Accepted) -> None:
    run = said(later(asking(given, accepted), RunResumed(owner="p2")), "edit", {"to": "boss@c.d"})
    run = later(run, RunResumed(owner="p3", policy=CLOSED))
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.then == "deny"


def test_an_edit_by_another_person_is_allowed_by_them_though_it_is_not_trusted(
    given: Given, accepted: Accepted
) -> None:
    run = said(asking(given, accepted), "edit", {"to": "boss@c.d"}, by="bob")
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.then == "allow"
    assert judged.verdict.rules == ("all", "control:to", "person:edit")


def test_a_value_that_a_person_vouched_for_is_asked_about_no_more_in_this_run(
    given: Given, accepted: Accepted
) -> None:
    evil = Labelled(value="e@v.il", label=UNTRUSTED)
    run = said(asking(given, accepted), "endorse", ["to"])
    assert {(callee, name) for callee, name, _ in run.endorsed} == {("mail.send", "to")}
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.rules == ("all",)

    send, write = (run.started.setup.catalogue[name] for name in ("mail.send", "files.write"))
    assert gate.judged(run, send, gather({"to": evil, "text": TEXT}), path="s9").then == "allow"
    assert gate.judged(run, send, gather({"to": Labelled(value="o@v.il", label=UNTRUSTED)}), path="s9").then == "ask"
    assert gate.judged(run, write, gather({"path": evil}), path="s9").then == "ask"


def test_vouching_for_nothing_known_is_an_approval_of_this_call_alone(given: Given, accepted: Accepted) -> None:
    run = said(asking(given, accepted), "endorse", ["nobody"])
    assert run.endorsed == frozenset()
    judged = recorded(run)
    assert isinstance(judged, StepJudged)
    assert judged.verdict.rules[-1] == "person:endorse"


@pytest.mark.parametrize(("answer", "value"), [("edit", "x"), ("endorse", {"to": 1}), ("endorse", "to")])
def test_an_edit_names_arguments_and_so_does_vouching(
    given: Given, accepted: Accepted, answer: str, value: Any
) -> None:
    run = asking(given, accepted)
    with pytest.raises(JournalError, match="arguments by name"):
        said(run, answer, value)


@pytest.mark.parametrize("answer", ["edit", "endorse"])
def test_a_gate_of_the_plan_is_answered_with_yes_or_no(
    given: Given, accepted: Accepted, every: tuple[Callee, ...], answer: str
) -> None:
    approval = Step(id="s1", use="gate.approve", args={"what": "it"})
    run = given(*accepted(approval, policy=OPEN, callees=every), resolved(ALLOWED, what=TEXT))
    with pytest.raises(JournalError, match="another kind of step"):
        said(later(run, recorded(run)), answer, {})


# limits over the calls of a run ------------------------------------------------------------------------------

ONCE = Policy.model_validate(
    {
        "rules": [
            {"id": "once", "then": "ask", "callee": "mail.send", "beyond": {"calls": 1}},
            {"id": "first", "then": "deny", "callee": "files.write", "until": ["mail.send"]},
            {"id": "all", "then": "allow"},
        ]
    }
)
GIVEN = gather({"to": Labelled(value="b@c.d"), "text": TEXT})
SENDS = tuple(Step(id=f"s{n}", use="mail.send", args={"to": "b@c.d", "text": "x"}) for n in (1, 2, 3))
FAILED = Fault(code="T-1", error_class="invalid")


@pytest.mark.parametrize(
    ("path", "other", "then"),
    [
        ("s2", StepState(status="resolved", arguments=GIVEN, verdict=ALLOWED), "ask"),  # the plan makes it first
        ("s2", StepState(status="new"), "allow"),
        ("s2", StepState(status="failed", arguments=GIVEN, verdict=ALLOWED, attempt=1, fault=FAILED), "allow"),
        ("s2", StepState(status="skipped", arguments=GIVEN, verdict=ALLOWED), "allow"),
        (
            "s2",
            StepState(status="failed", arguments=GIVEN, attempt=1, fault=Fault(code="A-104", error_class="conflict")),
            "ask",
        ),
        ("s2", StepState(status="resolved", arguments=GIVEN, verdict=Verdict(then="deny", rules=("x",))), "allow"),
    ],
)
def test_a_call_counts_towards_a_limit_unless_it_is_over_without_effect(
    given: Given, accepted: Accepted, path: str, other: StepState, then: str
) -> None:
    run = replace(given(*accepted(*SENDS, policy=ONCE)), steps={"s1": other})
    send = run.started.setup.catalogue["mail.send"]
    assert gate.judged(run, send, GIVEN, path=path).then == then


@pytest.mark.parametrize(
    ("later_one", "then"),
    [
        (StepState(status="resolved", arguments=GIVEN, verdict=ALLOWED), "allow"),
        (StepState(status="started", arguments=GIVEN, verdict=ALLOWED, attempt=1), "ask"),
        (StepState(status="resolved", arguments=GIVEN, verdict=ALLOWED, is_weighed=True), "ask"),
    ],
)
def test_a_later_call_counts_once_it_was_let_through(
    given: Given, accepted: Accepted, later_one: StepState, then: str
) -> None:
    own = StepState(status="resolved", arguments=GIVEN, verdict=ALLOWED, attempt=1)
    run = replace(given(*accepted(*SENDS, policy=ONCE)), steps={"s1": own, "s2": later_one})
    send = run.started.setup.catalogue["mail.send"]
    assert gate.judged(run, send, GIVEN, path="s1").then == then


def test_what_takes_a_call_back_is_no_call_of_its_own(given: Given, accepted: Accepted) -> None:
    undone = StepState(status="succeeded", arguments=GIVEN, attempt=1, callee="mail.send")
    run = replace(given(*accepted(*SENDS, policy=ONCE)), steps={"s1~undo": undone})
    assert gate.judged(run, run.started.setup.catalogue["mail.send"], GIVEN, path="s2").then == "allow"


@pytest.mark.parametrize(("status", "then"), [("succeeded", "allow"), ("started", "deny")])
def test_a_precondition_is_met_by_a_call_that_succeeded(
    given: Given, accepted: Accepted, status: Any, then: str
) -> None:
    only_until = ONCE.model_copy(update={"rules": ONCE.rules[1:]})
    done = StepState(status=status, arguments=GIVEN, verdict=ALLOWED, attempt=1)
    run = replace(given(*accepted(*SENDS, policy=only_until)), steps={"s1": done})
    write = run.started.setup.catalogue["files.write"]
    assert gate.judged(run, write, gather({"path": TEXT}), path="s2").then == then
