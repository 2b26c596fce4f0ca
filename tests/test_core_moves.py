"""That a run moves its steps so, and refuses what is no move, is told in `test_core_state`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import nan
from typing import Any, get_args

import pytest

from planner.core.events import (
    BlockEntered,
    ContentKept,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    Question,
    RetryScheduled,
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
    WaitEnded,
    WaitStarted,
)
from planner.core.labels import BOUNDED, Labelled
from planner.core.ledger import Amount
from planner.core.moves import ANSWERS, QUESTIONS, STEP_MOVES, StepEvent, moved, resumed
from planner.core.policy import Verdict
from planner.core.run import StepState, StepStatus
from planner.errors import JournalError

AT = datetime(2026, 3, 1, tzinfo=UTC)
DOWN = Fault(code="T-2", error_class="unavailable")
GIVEN = Labelled(value={"path": "a"})
EVENTS: tuple[StepEvent, ...] = (
    StepResolved(path="s1", arguments=GIVEN),
    StepJudged(path="s1", verdict=Verdict(then="allow", rules=("r",))),
    MapResolved(path="s1", items=Labelled(value=[1])),
    StepStarted(path="s1", attempt=1, key="k"),
    ContentKept(path="s1", name="a", blob="b"),
    StepSucceeded(path="s1", value=GIVEN),
    StepFailed(path="s1", fault=DOWN),
    StepInDoubt(path="s1", reason="no answer"),
    StepProbed(path="s1", happened=True),
    StepSkipped(path="s1", cause="condition"),
    RetryScheduled(path="s1", attempt=1, due=AT),
    TimerFired(path="s1"),
    HumanAsked(path="s1", question="approve", reason="why"),
    HumanAnswered(path="s1", answer="yes", by="ann"),
    WaitStarted(path="s1", name="paid"),
    WaitEnded(path="s1", received=3),
    BlockEntered(path="s1"),
    StepParked(path="s1"),
    StepNudged(path="s1"),
)
STATUSES: tuple[StepStatus, ...] = get_args(StepStatus)


def state(status: StepStatus, **more: Any) -> StepState:
    """A step in that status, with what steps in it always have."""
    fields: dict[str, Any] = {"attempt": 1, "key": "k"}
    if status in {"asked", "answered"}:
        fields |= {"question": "approve", "asked": 4}
    if status in {"asked", "waiting", "retrying"}:
        fields |= {"due": AT}
    return StepState(status=status, **(fields | more))


def asked(status: StepStatus) -> HumanAsked:
    known: frozenset[Question] = QUESTIONS.get(status, frozenset({"approve"}))
    return HumanAsked(path="s1", question=min(known), reason="why")


def refused(before: StepState, event: StepEvent) -> str:
    with pytest.raises(JournalError, match="J-204") as caught:
        moved(before, event)
    return caught.value.message


def test_every_event_of_a_step_is_tried_here() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(StepEvent))
    known = {type(event).__name__ for event in EVENTS} | {"RunResumed"}
    assert {kind for _, kind in STEP_MOVES} <= known


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
@pytest.mark.parametrize("status", STATUSES)
def test_a_step_moves_as_the_table_says_or_not_at_all(status: StepStatus, event: StepEvent) -> None:
    event = asked(status) if isinstance(event, HumanAsked) else event
    before = state(status, question="happened") if isinstance(event, StepFailed) else state(status)
    target = STEP_MOVES.get((status, event.type))
    if target is None:
        assert refused(before, event) == f"`{event.type}` is illegal for step `s1`, which is {status}"
    else:
        assert moved(before, event).status == target


@pytest.mark.parametrize("status", STATUSES)
def test_another_process_finds_what_was_under_way_interrupted(status: StepStatus) -> None:
    after = resumed(state(status))
    assert after.status == ("interrupted" if status in {"started", "parked"} else status)
    assert after.crashes == (status == "started")


# what the events fill in


def test_a_step_remembers_its_arguments_its_items_and_its_branch() -> None:
    verdict = Verdict(then="allow", rules=("all",))
    after = moved(StepState(), StepResolved(path="s1", arguments=GIVEN, verdict=verdict))
    assert (after.arguments, after.verdict) == (GIVEN, verdict)
    assert moved(StepState(), MapResolved(path="s1", items=GIVEN)).items == GIVEN
    entered = moved(StepState(), BlockEntered(path="s1", branch="else", decided_by=BOUNDED))
    assert (entered.branch, entered.decided_by) == ("else", BOUNDED)


def test_a_call_remembers_its_attempt_its_key_what_it_holds_and_what_it_kept() -> None:
    started = StepStarted(path="s1", attempt=2, key="k", held=Amount(tokens=5), is_cheaper=True)
    after = moved(StepState(status="resolved", answer="yes"), started)
    assert (after.attempt, after.key, after.held, after.is_cheaper) == (2, "k", Amount(tokens=5), True)
    assert after.answer is None
    for name, blob in (("a", "b1"), ("b", None)):
        after = moved(after, ContentKept(path="s1", name=name, blob=blob))
    assert after.kept == {"a": "b1", "b": None}


def test_a_success_clears_the_fault_and_the_doubt_before_it() -> None:
    after = moved(state("started", fault=DOWN, is_unsure=True), StepSucceeded(path="s1", value=GIVEN))
    assert (after.value, after.fault, after.is_unsure) == (GIVEN, None, False)


def test_failures_and_doubts_are_counted() -> None:
    after = moved(state("started", failures=1), StepFailed(path="s1", fault=DOWN, attempt=1))
    assert (after.fault, after.failures) == (DOWN, 2)
    after = moved(state("started", doubts=1, probed=True, answer="no"), StepInDoubt(path="s1", reason=""))
    assert (after.doubts, after.probed, after.answer) == (2, False, None)
    assert moved(state("new"), StepSkipped(path="s1", cause="budget")).cause == "budget"


@pytest.mark.parametrize(
    ("happened", "answer", "is_unsure"), [(True, "yes", True), (False, "no", False), (None, None, True)]
)
def test_a_probe_answers_or_cannot_tell(happened: bool | None, answer: str | None, is_unsure: bool) -> None:
    after = moved(state("in_doubt", is_unsure=True), StepProbed(path="s1", happened=happened))
    assert (after.probed, after.answer, after.is_unsure) == (True, answer, is_unsure)
    assert not moved(state("in_doubt"), StepProbed(path="s1", happened=happened)).is_unsure


@pytest.mark.parametrize(("answer", "is_unsure"), [("yes", True), ("no", False)])
def test_a_person_who_says_that_it_did_not_happen_ends_the_doubt(answer: Any, is_unsure: bool) -> None:
    before = state("asked", question="happened", is_unsure=True)
    assert moved(before, HumanAnswered(path="s1", answer=answer, by="ann")).is_unsure is is_unsure
    approved = state("asked", question="approve", is_unsure=True)
    assert moved(approved, HumanAnswered(path="s1", answer=answer, by="ann")).is_unsure


def test_a_timer_that_fires_for_a_question_is_a_late_answer_and_for_a_pause_is_none() -> None:
    assert moved(state("asked"), TimerFired(path="s1")).answer == "late"
    for status in ("retrying", "waiting"):
        after = moved(state(status, question="approve", answer="yes"), TimerFired(path="s1"))
        assert (after.answer, after.due) == ("yes", None)


def test_a_question_forgets_the_last_answer_and_an_answer_the_time_for_it() -> None:
    after = moved(state("in_doubt", answer="yes"), HumanAsked(path="s1", question="happened", reason="why"))
    assert (after.question, after.reason, after.answer) == ("happened", "why", None)
    after = moved(state("asked"), HumanAnswered(path="s1", answer="no", by="ann"))
    assert (after.answer, after.due) == ("no", None)


def test_a_wait_remembers_what_it_waits_for() -> None:
    event = WaitStarted(path="s1", name="paid", match={"order": 7})
    assert moved(state("resolved"), event).wanted == ("paid", {"order": 7})
    assert moved(state("resolved"), WaitStarted(path="s1", seconds=3)).wanted is None
    assert moved(state("waiting"), WaitEnded(path="s1", received=3)).due is None


def test_a_nudge_that_comes_while_a_nested_run_is_driven_is_remembered_until_it_parks() -> None:
    nudged = moved(state("started"), StepNudged(path="s1"))
    assert (nudged.status, nudged.is_nudged) == ("started", True)
    parked = moved(nudged, StepParked(path="s1"))
    assert (parked.status, parked.is_nudged) == ("interrupted", False)
    assert moved(state("started"), StepParked(path="s1")).status == "parked"
    assert moved(state("parked"), StepNudged(path="s1")).status == "interrupted"


# what is illegal although the table has such a move


@pytest.mark.parametrize("question", get_args(Question))
@pytest.mark.parametrize("status", QUESTIONS)
def test_only_what_is_open_in_a_status_is_asked(status: StepStatus, question: Question) -> None:
    event = HumanAsked(path="s1", question=question, reason="")
    if question in QUESTIONS[status]:
        assert moved(state(status), event).question == question
    else:
        assert refused(state(status), event).endswith(f"`{question}` is no question about a step that is {status}")


@pytest.mark.parametrize("answer", ["yes", "no", "retry", "skip", "fail", "value"])
@pytest.mark.parametrize("question", get_args(Question))
def test_only_words_that_answer_a_question_answer_it(question: Question, answer: Any) -> None:
    event = HumanAnswered(path="s1", answer=answer, by="ann", asked=4)
    before = state("asked", question=question)
    if answer in ANSWERS[question]:
        assert moved(before, event).answer == answer
    else:
        assert refused(before, event).endswith(f"`{answer}` is no answer to `{question}`")


def test_an_answer_to_another_question_is_refused() -> None:
    for place in (3, 5):
        stale = HumanAnswered(path="s1", answer="yes", by="ann", asked=place)
        assert refused(state("asked"), stale).endswith("the question is another one by now")


@pytest.mark.parametrize(
    "event",
    [HumanAsked(path="s1", question="failed", reason=""), RetryScheduled(path="s1", attempt=1, due=AT)],
    ids=lambda event: event.type,
)
def test_what_was_never_called_is_not_called_again(event: StepEvent) -> None:
    assert "it was never called" in refused(state("failed", attempt=0), event)


@pytest.mark.parametrize("status", ["asked", "waiting", "retrying"])
def test_no_timer_fires_where_no_time_was_said(status: StepStatus) -> None:
    assert refused(state(status, due=None), TimerFired(path="s1")).endswith("it waits for no time")


@pytest.mark.parametrize(
    "event",
    [
        RetryScheduled(path="s1", attempt=1, due=AT.replace(tzinfo=None)),
        WaitStarted(path="s1", until=AT.replace(tzinfo=None)),
        WaitStarted(path="s1", seconds=-1),
        WaitStarted(path="s1", seconds=nan),
        HumanAsked(path="s1", question="approve", reason="", timeout_s=-1),
        HumanAsked(path="s1", question="approve", reason="", timeout_s=nan),
    ],
)
def test_a_time_that_is_none_is_refused(event: StepEvent) -> None:
    before = state("failed" if isinstance(event, RetryScheduled) else "resolved")
    assert "a time needs a zone" in refused(before, event)


def test_the_outcome_of_an_attempt_that_is_over_is_refused() -> None:
    for before in (state("started", attempt=2), state("failed"), state("answered")):
        late = StepFailed(path="s1", fault=DOWN, attempt=1)
        with pytest.raises(JournalError, match="J-204"):
            moved(before, late)
    for status in ("started", "in_doubt"):
        assert moved(state(status), StepFailed(path="s1", fault=DOWN, attempt=1)).status == "failed"


def test_only_a_doubt_is_given_up_while_a_person_is_asked() -> None:
    gone: Mapping[Any, bool] = {"approve": False, "failed": False, "answer": False, "happened": True}
    for question, may_fail in gone.items():
        before, event = state("asked", question=question), StepFailed(path="s1", fault=DOWN)
        if may_fail:
            assert moved(before, event).status == "failed"
        else:
            assert refused(before, event).endswith("it is not under way")


def test_what_may_have_happened_is_not_skipped_while_a_person_is_asked() -> None:
    skip = StepSkipped(path="s1", cause="failure")
    assert refused(state("asked", question="happened"), skip).endswith("it may have happened")
    waiting: tuple[StepStatus, ...] = ("asked", "waiting", "retrying")
    assert [moved(state(status), skip).due for status in waiting] == [None] * 3
