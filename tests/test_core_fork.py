"""A fork begins with what another run did, and repeats nothing that may have happened there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, get_args

import pytest

from planner.core.commands import Record
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    CancelRequested,
    ContentKept,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    PlanAbandoned,
    PlannerFailed,
    PlanProposed,
    Recorded,
    RetryScheduled,
    ReviewInconclusive,
    RunFinished,
    RunForked,
    Steered,
    StepFailed,
    StepInDoubt,
    StepParked,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    UndoRequested,
    Usage,
)
from planner.core.fork import blob_ids, forked, unknown_effects, with_blobs
from planner.core.intrinsics import GOAL
from planner.core.labels import Labelled
from planner.core.plan import Step
from planner.core.setup import Parent
from planner.core.state import fold
from planner.errors import JournalError

Journal: TypeAlias = Callable[..., tuple[Recorded, ...]]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

READ = Step(id="s1", use="files.read", args={"path": "$inputs.name"})
APPEND = Step(id="s2", use="files.append", args={"path": "log", "text": "$s1"})


def resolved(path: str, /, **arguments: Any) -> StepResolved:
    return StepResolved(path=path, arguments=Labelled(value=arguments))


def started(path: str, attempt: int = 1) -> StepStarted:
    return StepStarted(path=path, attempt=attempt, key=f"key of {path}")


def given(path: str, value: Any = None) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value))


@pytest.fixture
def finished(journal: Journal, accepted: Accepted) -> tuple[Recorded, ...]:
    """A run that read and wrote, and its end."""
    return journal(
        *accepted(READ, APPEND, is_given=True, inputs={"name": "a"}),
        resolved("s1", path="a"),
        started("s1"),
        given("s1", "text of a"),
        resolved("s2", path="log", text="text of a"),
        started("s2"),
        ContentKept(path="s2", name="log", blob="b1"),
        given("s2"),
        ReviewInconclusive(),
        RunFinished(status="unverified"),
    )


def fork(history: tuple[Recorded, ...], at_event: int) -> tuple[Recorded, ...]:
    return forked(history, at_event, run_id="r2", now=history[-1].at + timedelta(days=1))


# what a fork begins with -----------------------------------------------------------------------------------------


def test_a_fork_has_the_events_up_to_its_point_and_says_where_they_came_from(finished: tuple[Recorded, ...]) -> None:
    events = fork(finished, 5)
    assert [recorded.event for recorded in events[:-1]] == [recorded.event for recorded in finished[:5]]
    assert [recorded.at for recorded in events[:-1]] == [recorded.at for recorded in finished[:5]]
    assert {recorded.run_id for recorded in events} == {"r2"}
    assert [recorded.run_seq for recorded in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].event == RunForked(origin="r1", at_event=5)
    assert events[-1].at > finished[-1].at


def test_a_fork_at_the_end_of_a_run_leaves_out_the_end(finished: tuple[Recorded, ...]) -> None:
    events = fork(finished, len(finished))
    assert events[-1].event == RunForked(origin="r1", at_event=len(finished) - 1)
    run = fold(events)
    assert run.id == "r2"
    assert run.finished is None


def test_a_fork_with_other_inputs_keeps_what_does_not_read_them(journal: Journal, accepted: Accepted) -> None:
    other = Step(id="s2", use="files.read", args={"path": "b"})
    history = journal(
        *accepted(READ, other, is_given=True, inputs={"name": "a"}),
        *(resolved("s1", path="a"), started("s1"), given("s1", "text of a")),
        *(resolved("s2", path="b"), started("s2"), given("s2", "text of b")),
        ReviewInconclusive(),
    )
    events = [recorded.event for recorded in fork(history, len(history))]
    events.append(Steered(by="user", inputs={"name": "c"}))
    while (run := fold(journal(*events))).plan is None or run.plan.inputs == {"name": "a"}:
        (command,) = decide(run)
        assert isinstance(command, Record)
        events.append(command.event)
    assert run.step("s1").status == "new"
    assert run.step("s2").status == "succeeded"


def test_a_look_under_way_in_the_origin_is_taken_up_by_the_fork(journal: Journal, accepted: Accepted) -> None:
    history = journal(*accepted(READ, is_given=True, inputs={"name": "a"}), resolved("s1", path="a"), started("s1"))
    run = fold(fork(history, 4))
    assert run.step("s1").status == "interrupted"


def test_a_fork_is_no_part_of_the_run_that_its_origin_is_a_part_of(journal: Journal, accepted: Accepted) -> None:
    first, *rest = accepted(READ, is_given=True, inputs={"name": "a"})
    part = first.model_copy(update={"parent": Parent(run_id="r0", path="s4")})
    start = fork(journal(part, *rest), 2)[0].event
    assert start == first


# what cannot be forked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_event", [-1, 0, 12])
def test_a_run_is_forked_at_one_of_its_events(at_event: int, finished: tuple[Recorded, ...]) -> None:
    with pytest.raises(JournalError, match=f"J-121.*`r1` has no event {at_event} to fork at.*1 to 11"):
        fork(finished, at_event)


@pytest.mark.parametrize(
    "event", [CancelRequested(by="user"), UndoRequested(by="user")], ids=lambda event: event.type
)
def test_a_cancelled_run_is_forked_before_that(
    event: Event, finished: tuple[Recorded, ...], journal: Journal
) -> None:
    length = 10 if isinstance(event, CancelRequested) else 11
    history = journal(*(recorded.event for recorded in finished[:length]), event)
    with pytest.raises(JournalError, match=f"J-122.*cancelled by event {length + 1}.*The last.*is {length}"):
        fork(history, length + 1)
    assert fork(history, length)


DOUBT = StepInDoubt(path="s2", reason="no answer")
ASKED = HumanAsked(path="s2", question="happened", reason="did it?")
LOST = StepFailed(path="s2", fault=Fault(code="A-104", error_class="conflict"))
AGAIN = (DOUBT, started("s2", 2), StepFailed(path="s2", fault=Fault(code="T-2", error_class="unavailable")))
LATER = datetime(2026, 3, 2, tzinfo=UTC)
WHAT_NOW = HumanAsked(path="s2", question="failed", reason="what now?")


@pytest.mark.parametrize(
    "events",
    [
        [],
        [StepParked(path="s2")],
        [DOUBT],
        [DOUBT, ASKED],
        [DOUBT, StepProbed(path="s2", happened=None)],
        [DOUBT, started("s2", 2)],
        [DOUBT, LOST],
        [*AGAIN],
        [*AGAIN, RetryScheduled(path="s2", attempt=2, due=LATER)],
        [*AGAIN, RetryScheduled(path="s2", attempt=2, due=LATER), TimerFired(path="s2")],
        [*AGAIN, WHAT_NOW],
        [*AGAIN, WHAT_NOW, HumanAnswered(path="s2", answer="retry", by="user")],
    ],
    ids=[
        *("under way", "parked", "in doubt", "asked about", "probed in vain", "tried again", "undecided"),
        *("failed later", "to be retried", "ready again", "asked what now", "told to retry"),
    ],
)
def test_an_effect_that_nobody_knows_the_outcome_of_is_not_forked(
    events: list[Event], finished: tuple[Recorded, ...], journal: Journal
) -> None:
    history = journal(*(recorded.event for recorded in finished[:7]), *events)
    what = r"J-123.*event \d+ of run `r1` leaves open what becomes of `s2` \(files.append\)"
    with pytest.raises(JournalError, match=f"{what}.*The last event.*is 6"):
        fork(history, len(history))
    assert fork(history, 6)


@pytest.mark.parametrize(
    "events",
    [
        [StepFailed(path="s2", fault=Fault(code="T-1", error_class="missing"))],
        [DOUBT, StepProbed(path="s2", happened=False)],
        [DOUBT, StepProbed(path="s2", happened=True)],
        [DOUBT, ASKED, HumanAnswered(path="s2", answer="no", by="user")],
        [DOUBT, ASKED, HumanAnswered(path="s2", answer="yes", by="user")],
        [*AGAIN[:2], given("s2")],
        [
            *AGAIN,
            WHAT_NOW,
            HumanAnswered(path="s2", answer="skip", by="user"),
            StepSkipped(path="s2", cause="failure"),
        ],
    ],
    ids=["failed", "probed", "probed as done", "answered", "answered as done", "succeeded later", "given up"],
)
def test_an_effect_whose_outcome_is_known_is_no_hindrance(
    events: list[Event], finished: tuple[Recorded, ...], journal: Journal
) -> None:
    history = journal(*(recorded.event for recorded in finished[:7]), *events)
    assert unknown_effects(fold(history)) == ()
    assert fork(history, len(history))


def test_a_run_of_its_own_that_a_step_is_cannot_be_forked_while_it_goes_on(
    journal: Journal, accepted: Accepted
) -> None:
    step = Step(id="s1", use="plan.goal", args={"goal": "a part"})
    begun = accepted(step, is_given=True, callees=(GOAL,))
    history = journal(*begun, resolved("s1", goal="a part"), started("s1"), StepParked(path="s1"))
    assert unknown_effects(fold(history)) == ("s1",)


def test_a_block_that_failed_with_an_undecided_step_is_named_by_that_step(
    journal: Journal, accepted: Accepted
) -> None:
    block = Step.model_validate({"id": "s1", "do": [APPEND.model_copy(update={"args": {"path": "a", "text": "b"}})]})
    history = journal(
        *accepted(block, is_given=True),
        BlockEntered(path="s1"),
        resolved("s1/s2", path="a", text="b"),
        started("s1/s2"),
        *(event.model_copy(update={"path": "s1/s2"}) for event in (DOUBT, LOST)),
        LOST.model_copy(update={"path": "s1"}),
    )
    assert unknown_effects(fold(history)) == ("s1/s2",)


def test_events_that_are_no_history_have_no_fork(finished: tuple[Recorded, ...]) -> None:
    with pytest.raises(JournalError, match="J-203"):
        fork((*finished, finished[-2]), 3)
    with pytest.raises(JournalError, match="J-202"):
        fork(finished[1:], 3)


# blobs -----------------------------------------------------------------------------------------------------------


def test_every_event_that_names_blobs_tells_them_and_takes_others() -> None:
    fault = Fault(code="T-1", error_class="failed")
    one, two = Usage(exchange="b1", model="m"), Usage(exchange="b2")
    without = Usage(model="n")
    events: tuple[Event, ...] = (
        PlanProposed(revision=1, attempt=1, plan=None, usage=one),
        PlannerFailed(revision=1, attempt=1, fault=fault, usage=(one, without, two)),
        StepSucceeded(path="s1", value=Labelled(), usage=(one, two)),
        StepFailed(path="s1", fault=fault, usage=(two,)),
        ReviewInconclusive(usage=(one,)),
        ContentKept(path="s1", name="a", blob="b1"),
    )
    for event in events:
        ids = blob_ids(event)
        assert ids
        renamed = with_blobs(event, {"b1": "c1", "b2": "c2"})
        assert blob_ids(renamed) == tuple(id_.replace("b", "c") for id_ in ids)
        assert with_blobs(renamed, {"c1": "b1", "c2": "b2"}) == event
        assert with_blobs(event, {}) == event


def test_every_kind_of_event_with_usage_is_known_to_name_blobs() -> None:
    kinds = [kind for kind in get_args(get_args(Event)[0]) if "usage" in kind.model_fields]
    assert len(kinds) >= 7
    for kind in kinds:
        usage: Any = Usage(exchange="b1")
        assert blob_ids(kind.model_construct(usage=usage if kind is PlanProposed else (usage,))) == ("b1",)


def test_an_event_without_blobs_stays_as_it_is(finished: tuple[Recorded, ...]) -> None:
    for event in (
        finished[0].event,
        ContentKept(path="s1", name="a", blob=None),
        PlanAbandoned(revision=2, reason=""),
    ):
        assert blob_ids(event) == ()
        assert with_blobs(event, {"b1": "c1"}) == event
