"""Starting and skipping steps, and the items of maps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Probe, Record
from planner.core.decide import decide
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    RetryScheduled,
    RunFinished,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    TimerFired,
    WaitStarted,
)
from planner.core.forecast import ACTIVE_ITEMS
from planner.core.labels import BOUNDED, UNTRUSTED, Json, Label, Labelled
from planner.core.plan import Step
from planner.core.policy import Verdict
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]

LOST = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")


def step(id_: str, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": "files.read", "args": {"path": id_}} | fields)


def let(id_: str, value: Json, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "let": value} | fields)


def gave(path: str, value: Json = 1, label: Label = UNTRUSTED) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value, label=label))


def resolved(path: str) -> StepResolved:
    return StepResolved(path=path, verdict=Verdict(then="allow", rules=("all",)))


def recorded(run: Run) -> list[Event]:
    """What is decided, all of which is recorded at once."""
    commands = decide(run)
    events = [command.event for command in commands if isinstance(command, Record)]
    assert len(events) == len(commands), commands
    return events


# starting and skipping ---------------------------------------------------------------------------------------


def test_steps_start_once_all_they_read_or_wait_for_has_ended(given: Given, accepted: Accepted) -> None:
    steps = (step("s1"), step("s2"), let("s3", "${s1 + s2}"), let("s4", 7, after=("s2",)))
    begun = accepted(*steps)
    assert [e.path for e in recorded(given(*begun)) if isinstance(e, StepResolved)] == ["s1", "s2"]
    assert [e.path for e in recorded(given(*begun, gave("s2"))) if isinstance(e, StepSucceeded)] == ["s4"]
    done = recorded(given(*begun, gave("s1"), gave("s2", 2)))
    assert [e.value.value for e in done if isinstance(e, StepSucceeded)] == [3, 7]


def test_a_step_is_skipped_by_its_condition(given: Given, accepted: Accepted) -> None:
    begun = accepted(step("s1"), step("s2", **{"if": "s1 > 3"}))
    assert recorded(given(*begun, gave("s1", 3))) == [StepSkipped(path="s2", cause="condition", decided_by=BOUNDED)]
    (event,) = recorded(given(*begun, gave("s1", 4)))
    assert isinstance(event, StepResolved)


def test_what_untrusted_data_chose_to_run_has_bounded_arguments(given: Given, accepted: Accepted) -> None:
    (event,) = recorded(given(*accepted(step("s1"), step("s2", **{"if": "s1 > 3"})), gave("s1", 4)))
    assert isinstance(event, StepResolved)
    assert event.arguments == Labelled(value={"path": "s2"}, label=BOUNDED)
    (event,) = recorded(given(*accepted(step("s1"), let("s2", 1, **{"if": "s1 > 3"})), gave("s1", 4)))
    assert event == gave("s2", 1, BOUNDED)


@pytest.mark.parametrize("cause", ["condition", "failure"])
def test_a_reader_of_a_missing_value_is_skipped_for_the_same_cause(
    cause: Any, given: Given, accepted: Accepted
) -> None:
    missing = StepSkipped(path="s1", cause=cause)
    for reader in (let("s2", "$s1"), let("s2", 1, **{"if": "s1 > 1"}), let("s2", "$s1", after=("s1",))):
        assert recorded(given(*accepted(step("s1"), reader), missing)) == [StepSkipped(path="s2", cause=cause)]


def test_a_failure_is_not_hidden_behind_a_condition(given: Given, accepted: Accepted) -> None:
    steps = (step("s1"), step("s2"), let("s3", "${s1 + s2}"))
    for first, second in (("s1", "s2"), ("s2", "s1")):
        gone = (StepSkipped(path=first, cause="condition"), StepSkipped(path=second, cause="failure"))
        assert recorded(given(*accepted(*steps), *gone)) == [StepSkipped(path="s3", cause="failure")]


def test_a_default_or_mere_waiting_does_without_the_value(given: Given, accepted: Accepted) -> None:
    begun = accepted(step("s1"), let("s2", "${s1 ?? 'none'}"), let("s3", 3, after=("s1",)))
    done = recorded(given(*begun, StepSkipped(path="s1", cause="failure")))
    assert [e.value.value for e in done if isinstance(e, StepSucceeded)] == ["none", 3]


def test_a_default_waits_for_a_failed_step_that_is_tried_again(given: Given, accepted: Accepted) -> None:
    begun = accepted(step("s1", on_error={"retry": 1, "then": "skip"}), let("s2", "${s1 ?? 'none'}"))
    failed = (
        resolved("s1"),
        StepStarted(path="s1", attempt=1, key="k"),
        StepFailed(path="s1", fault=DOWN, attempt=1),
    )
    assert [type(command).__name__ for command in decide(given(*begun, *failed))] == ["ScheduleRetry"]


def test_an_expression_that_cannot_be_computed_fails_its_step(given: Given, accepted: Accepted) -> None:
    (event,) = recorded(given(*accepted(step("s1"), let("s2", "${s1.total}")), gave("s1", "text")))
    assert isinstance(event, StepFailed)
    assert (event.path, event.fault.code, event.fault.error_class) == ("s2", "P-208", "invalid")


# maps --------------------------------------------------------------------------------------------------------


def items(path: str, *values: Json) -> MapResolved:
    return MapResolved(path=path, items=Labelled(value=list(values)))


def test_the_items_of_a_map_are_worked_out_once_and_bounded_by_its_condition(
    given: Given, accepted: Accepted
) -> None:
    begun = accepted(step("s1"), step("s2", for_each=["a", "b"], **{"if": "s1"}))
    (event,) = recorded(given(*begun, gave("s1", True)))
    assert event == MapResolved(path="s2", items=Labelled(value=["a", "b"], label=BOUNDED))
    skipped = StepSkipped(path="s2", cause="condition", decided_by=UNTRUSTED)
    assert recorded(given(*begun, gave("s1", False))) == [skipped]


def test_a_condition_on_the_item_is_left_to_each_item(given: Given, accepted: Accepted) -> None:
    map_ = let("s1", "${item * 10 + item_i}", for_each=[1, 2, 3], **{"if": "item != 2"})
    assert recorded(given(*accepted(map_))) == [items("s1", 1, 2, 3)]
    done = recorded(given(*accepted(map_), items("s1", 1, 2, 3)))
    assert done == [
        gave("s1[0]", 10, Label()),
        StepSkipped(path="s1[1]", cause="condition"),
        gave("s1[2]", 32, Label()),
    ]


def test_what_outsiders_listed_bounds_the_arguments_of_every_item(given: Given, accepted: Accepted) -> None:
    map_ = step("s1", for_each="$s0", args={"path": "out"})
    listed = MapResolved(path="s1", items=Labelled(value=[1], label=UNTRUSTED))
    (event,) = recorded(given(*accepted(let("s0", [1]), map_), gave("s0", [1]), listed))
    assert isinstance(event, StepResolved)
    assert (event.path, event.arguments) == ("s1[0]", Labelled(value={"path": "out"}, label=BOUNDED))


@pytest.mark.parametrize(
    ("values", "code", "error_class"), [([1, 2, 3], "P-302", "limit"), ({"a": 1}, "P-301", "invalid")]
)
def test_a_map_over_too_much_or_over_no_list_fails(
    values: Json, code: str, error_class: str, given: Given, accepted: Accepted
) -> None:
    map_ = step("s2", for_each="$s1", max_items=2)
    (event,) = recorded(given(*accepted(step("s1"), map_), gave("s1", values)))
    assert isinstance(event, StepFailed)
    assert (event.fault.code, event.fault.error_class) == (code, error_class)


def test_an_item_that_cannot_be_computed_fails_alone(given: Given, accepted: Accepted) -> None:
    map_ = let("s1", "${10 / item}", for_each=[0, 5], on_item_error="drop")
    failed, succeeded = recorded(given(*accepted(map_), items("s1", 0, 5)))
    assert isinstance(failed, StepFailed)
    assert failed.path == "s1[0]"
    assert isinstance(succeeded, StepSucceeded)


def test_a_few_items_are_under_way_at_once_and_the_next_follow_in_order(given: Given, accepted: Accepted) -> None:
    map_ = step("s1", for_each=list(range(9)), args={"path": "$item"})
    run = given(*accepted(map_), items("s1", *range(9)))
    assert [e.path for e in recorded(run) if isinstance(e, StepResolved)] == [f"s1[{i}]" for i in range(ACTIVE_ITEMS)]
    more = recorded(given(*accepted(map_), items("s1", *range(9)), gave("s1[0]"), gave("s1[2]")))
    assert [e.path for e in more if isinstance(e, StepResolved)] == [f"s1[{i}]" for i in (1, 3, 4, 5)]


def test_a_map_over_nothing_gives_an_empty_list(given: Given, accepted: Accepted) -> None:
    run = given(*accepted(step("s1", for_each=[]), let("s2", "${len(s1)}")), items("s1"))
    (event,) = recorded(run)
    assert isinstance(event, StepSucceeded)
    assert event.value.value == 0


def test_no_item_starts_any_more_in_a_map_that_is_lost(given: Given, accepted: Accepted) -> None:
    map_ = step("s1", for_each=[1, 2, 3, 4], args={"path": "$item"}, on_error={"then": "skip"})
    begun = (
        *accepted(map_, let("s2", "${s1 ?? 'none'}")),
        items("s1", 1, 2, 3, 4),
        *(resolved(f"s1[{i}]") for i in range(3)),
        *(StepStarted(path=f"s1[{i}]", attempt=1, key="k") for i in range(2)),
        StepFailed(path="s1[0]", fault=LOST, attempt=1),
    )
    skips = [StepSkipped(path=f"s1[{i}]", cause="failure") for i in (2, 3)]
    assert recorded(given(*begun)) == skips
    assert decide(given(*begun, *skips)) == ()
    (event,) = recorded(given(*begun, *skips, gave("s1[1]")))
    assert isinstance(event, StepSucceeded)
    assert (event.path, event.value.value) == ("s2", "none")


APPROVE = HumanAsked(path="s1[1]", question="approve", reason="")
FAILED = (StepStarted(path="s1[1]", attempt=1, key="k"), StepFailed(path="s1[1]", fault=DOWN))
LATER = datetime(2026, 3, 2, tzinfo=UTC)


def lost_map(accepted: Accepted, *events: Event, **fields: Any) -> tuple[Event, ...]:
    """A map that has lost its first item; the events are those of its second."""
    map_ = step("s1", for_each=[1, 2], on_error={"then": "skip"} | fields.pop("on_error", {}), **fields)
    ready = (items("s1", 1, 2), resolved("s1[0]"), resolved("s1[1]"))
    begun = accepted(map_, let("s2", "${s1 ?? 'none'}"))
    return (*begun, *ready, *events, StepFailed(path="s1[0]", fault=LOST))


def said(answer: Any) -> HumanAnswered:
    return HumanAnswered(path="s1[1]", answer=answer, by="ann")


@pytest.mark.parametrize(
    "events",
    [
        [APPROVE],
        [APPROVE, said("yes")],
        [*FAILED],
        [*FAILED, RetryScheduled(path="s1[1]", attempt=1, due=LATER)],
        [*FAILED, RetryScheduled(path="s1[1]", attempt=1, due=LATER), TimerFired(path="s1[1]")],
    ],
    ids=["asked", "approved", "failed", "to be retried", "ready again"],
)
def test_an_item_that_only_waits_ends_with_its_map(events: list[Event], given: Given, accepted: Accepted) -> None:
    begun = lost_map(accepted, *events, on_error={"retry": 1})
    skip = StepSkipped(path="s1[1]", cause="failure")
    assert recorded(given(*begun)) == [skip]
    run = given(*begun, skip)
    assert run.status == "running"
    assert run.due() is None
    (event,) = recorded(run)
    assert isinstance(event, StepSucceeded)
    assert (event.path, event.value.value) == ("s2", "none")


def test_an_item_that_was_refused_fails_for_that_and_not_for_its_map(given: Given, accepted: Accepted) -> None:
    (event,) = recorded(given(*lost_map(accepted, APPROVE, said("no"))))
    assert isinstance(event, StepFailed)
    assert event.fault.code == "A-103"


def test_a_wait_ends_with_its_map(given: Given, accepted: Accepted, every: tuple[Callee, ...]) -> None:
    map_ = step("s1", use="wait.event", args={"name": "paid"}, for_each=[1, 2], on_error={"then": "skip"})
    wait = WaitStarted(path="s1[1]", name="paid", seconds=60)
    begun = (*accepted(map_, callees=every), items("s1", 1, 2), resolved("s1[1]"), wait)
    skip = StepSkipped(path="s1[1]", cause="failure")
    assert recorded(given(*begun, StepFailed(path="s1[0]", fault=LOST))) == [skip]
    assert given(*begun, StepFailed(path="s1[0]", fault=LOST), skip).due() is None


def test_an_item_in_doubt_is_settled_and_asked_about_in_a_map_that_is_lost(given: Given, accepted: Accepted) -> None:
    append = {"use": "files.append", "args": {"path": "a", "text": "b"}}
    doubt = (FAILED[0], StepInDoubt(path="s1[1]", reason=""))
    begun = lost_map(accepted, *doubt, **append)
    assert decide(given(*begun)) == (Probe("s1[1]", "files.append"),)
    (event,) = recorded(given(*begun, StepProbed(path="s1[1]", happened=False)))
    assert isinstance(event, StepFailed)
    assert event.fault.code == "A-105"
    asked = HumanAsked(path="s1[1]", question="happened", reason="")
    assert decide(given(*begun, StepProbed(path="s1[1]", happened=None), asked)) == (AskHuman("s1[1]"),)
    (event,) = recorded(given(*begun, StepProbed(path="s1[1]", happened=None), asked, said("no")))
    assert isinstance(event, StepFailed)
    assert event.fault.code == "A-105"


def test_a_map_with_a_failed_item_that_ends_the_plan_starts_no_other(given: Given, accepted: Accepted) -> None:
    map_ = step("s1", for_each=[1, 2], args={"path": "$item"})
    run = given(*accepted(map_, is_given=True), items("s1", 1, 2), StepFailed(path="s1[0]", fault=LOST))
    assert recorded(run) == [RunFinished(status="failed", reason="step `s1[0]` failed", fault=LOST)]
