"""Blocks, and what takes the place of a failed call; plain steps and maps are in `test_core_decide_steps`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Record
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    Recorded,
    RetryScheduled,
    ReviewInconclusive,
    RunResumed,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitStarted,
)
from planner.core.labels import BOUNDED, TRUSTED, UNTRUSTED, Json, Label, Labelled
from planner.core.ledger import Budget
from planner.core.plan import Step
from planner.core.policy import Policy, Verdict
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.state import evolve

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Callees: TypeAlias = tuple[Callee, ...]

LOST = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")
LATER = datetime(2026, 3, 2, tzinfo=UTC)


def step(id_: str, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": "files.read", "args": {"path": id_}} | fields)


def let(id_: str, value: Json, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "let": value} | fields)


def block(id_: str, *held: Step, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "do": held} | fields)


def gave(path: str, value: Json = 1, label: Label = TRUSTED) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value, label=label))


def items(path: str, *values: Json, label: Label = TRUSTED) -> MapResolved:
    return MapResolved(path=path, items=Labelled(value=list(values), label=label))


def called(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    verdict = Verdict(then="allow", rules=("all",))
    return StepResolved(path=place, arguments=Labelled(value=arguments), verdict=verdict), made(place)


def made(path: str) -> StepStarted:
    return StepStarted(path=path, attempt=1, key="k")


def failed(path: str, fault: Fault = LOST) -> StepFailed:
    return StepFailed(path=path, fault=fault)


def then(run: Run, event: Event) -> Run:
    return evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=run.at, event=event))


def recorded(run: Run) -> list[Event]:
    """What is decided, all of which is recorded at once."""
    commands = decide(run)
    events = [command.event for command in commands if isinstance(command, Record)]
    assert len(events) == len(commands), commands
    return events


def given_up(path: str) -> list[Event]:
    return [PlanAbandoned(revision=2, reason=f"step `{path}` failed")]


# blocks ------------------------------------------------------------------------------------------------------


def test_a_block_begins_when_what_decides_on_it_is_there_and_its_steps_when_theirs_is(
    given: Given, accepted: Accepted
) -> None:
    held = block("s3", let("t1", "$s1"), let("t2", 7), **{"if": "s2 > 1"})
    begun = (*accepted(step("s1"), step("s2"), held), *called("s1"), *called("s2"))
    assert decide(given(*begun)) == ()
    begun = (*begun, gave("s2", 2))
    assert recorded(given(*begun)) == [BlockEntered(path="s3")]
    begun = (*begun, BlockEntered(path="s3"))
    assert recorded(given(*begun)) == [gave("s3/t2", 7)]
    begun = (*begun, gave("s3/t2", 7))
    assert decide(given(*begun)) == ()
    assert recorded(given(*begun, gave("s1", 5))) == [gave("s3/t1", 5)]


@pytest.mark.parametrize(
    ("value", "event"),
    [
        (9, BlockEntered(path="s2")),
        (0, BlockEntered(path="s2", branch="else")),
        (None, StepSkipped(path="s2", cause="condition")),
    ],
)
def test_a_block_takes_one_of_its_branches_or_is_skipped(
    value: int | None, event: Event, given: Given, accepted: Accepted
) -> None:
    other = {"else": [let("t2", 2)]} if value is not None else {}
    held = block("s2", let("t1", 1), **{"if": "(s1 ?? 0) > 1", **other})
    assert recorded(given(*accepted(step("s1"), held), gave("s1", value))) == [event]


def test_a_block_ends_with_its_answer_or_its_last_value(given: Given, accepted: Accepted) -> None:
    cases: tuple[tuple[Json, Json], ...] = (
        (None, 3),
        ("$t1", 2),
        ({"both": ["$t1", "$t2", "$t3"]}, {"both": [2, 3, None]}),
    )
    for answer, value in cases:
        held = block("s1", let("t1", 2), let("t2", 3), let("t3", 4, **{"if": "1 > 2"}), answer=answer)
        begun = (*accepted(held), BlockEntered(path="s1"), gave("s1/t1", 2), gave("s1/t2", 3))
        run = given(*begun, StepSkipped(path="s1/t3", cause="condition"))
        assert recorded(run) == [gave("s1", value)]


def test_a_block_whose_steps_were_all_skipped_has_no_value(given: Given, accepted: Accepted) -> None:
    held = block("s1", let("t1", 1, **{"if": "1 > 2"}))
    begun = (*accepted(held), BlockEntered(path="s1"), StepSkipped(path="s1/t1", cause="condition"))
    assert recorded(given(*begun)) == [gave("s1", None)]


def test_a_block_waits_for_what_only_its_answer_reads(given: Given, accepted: Accepted) -> None:
    held = block("s2", let("t1", 1), answer=["$t1", "$s1"])
    begun = (*accepted(step("s1"), held), *called("s1"), BlockEntered(path="s2"), gave("s2/t1"))
    assert decide(given(*begun)) == ()
    assert recorded(given(*begun, gave("s1", 5))) == [gave("s2", [1, 5])]
    skipped = (*begun[:-4], StepSkipped(path="s1", cause="condition"), *begun[-2:])
    assert recorded(given(*skipped)) == [gave("s2", [1, None])]


def test_a_block_whose_answer_reads_what_failed_fails(given: Given, accepted: Accepted) -> None:
    held = block("s1", step("t1", on_error={"then": "skip"}), answer="${t1 + 1}")
    begun = (*accepted(held), BlockEntered(path="s1"), *called("s1/t1"), failed("s1/t1"))
    (event,) = recorded(given(*begun))
    assert isinstance(event, StepFailed)
    assert (event.path, event.fault.code) == ("s1", "P-205")


def test_what_untrusted_data_chose_is_bounded_all_through_a_block(given: Given, accepted: Accepted) -> None:
    inner = block("t1", step("u1"), let("u2", 1))
    held = block("s2", inner, **{"if": "s1 > 1"})
    begun = (*accepted(step("s1"), held), gave("s1", 2, UNTRUSTED))
    (event,) = recorded(given(*begun))
    assert event == BlockEntered(path="s2", decided_by=BOUNDED)
    begun = (*begun, event)
    (event,) = recorded(given(*begun))
    assert event == BlockEntered(path="s2/t1", decided_by=BOUNDED)
    resolved, value = recorded(given(*begun, event))
    assert isinstance(resolved, StepResolved)
    assert resolved.arguments == Labelled(value={"path": "u1"}, label=BOUNDED)
    assert value == gave("s2/t1/u2", 1, BOUNDED)
    done = (*begun, event, gave("s2/t1/u1"), gave("s2/t1/u2", 1, BOUNDED))
    assert recorded(given(*done)) == [gave("s2/t1", 1, BOUNDED)]


def test_a_map_of_blocks_gives_each_item_a_block_of_its_own(given: Given, accepted: Accepted) -> None:
    held = block("s1", let("t1", "${item * 2}"), let("t2", "${t1 + item_i}"), for_each=[5, 6])
    begun = (*accepted(held, let("s2", "$s1")), items("s1", 5, 6))
    assert recorded(given(*begun)) == [BlockEntered(path="s1[0]"), BlockEntered(path="s1[1]")]
    begun = (*begun, BlockEntered(path="s1[0]"), BlockEntered(path="s1[1]"))
    assert recorded(given(*begun)) == [gave("s1[0]/t1", 10), gave("s1[1]/t1", 12)]
    begun = (*begun, gave("s1[0]/t1", 10), gave("s1[1]/t1", 12))
    assert recorded(given(*begun)) == [gave("s1[0]/t2", 10), gave("s1[1]/t2", 13)]
    begun = (*begun, gave("s1[0]/t2", 10), gave("s1[1]/t2", 13))
    assert recorded(given(*begun)) == [gave("s1[0]", 10), gave("s1[1]", 13)]
    assert recorded(given(*begun, gave("s1[0]", 10), gave("s1[1]", 13))) == [gave("s2", [10, 13])]


def test_a_condition_on_the_item_chooses_the_branch_of_each(given: Given, accepted: Accepted) -> None:
    held = block("s1", let("t1", 1), for_each=[1, 2], **{"if": "item > 1", "else": [let("t2", 2)]})
    entered = [BlockEntered(path="s1[0]", branch="else"), BlockEntered(path="s1[1]")]
    assert recorded(given(*accepted(held), items("s1", 1, 2))) == entered
    whole = block("s1", let("t1", 1), for_each=[1, 2], **{"if": "1 > 2", "else": [let("t2", 2)]})
    assert recorded(given(*accepted(whole))) == [items("s1", 1, 2)]


def test_a_map_inside_a_block_has_a_limit_of_its_own(given: Given, accepted: Accepted) -> None:
    inner = let("t1", "$n", for_each="$item", max_items=2, **{"as": "n"})
    held = block("s1", inner, for_each=[[1, 2], [1, 2, 3]], on_item_error="drop")
    begun = (*accepted(held), items("s1", [1, 2], [1, 2, 3]), BlockEntered(path="s1[0]"), BlockEntered(path="s1[1]"))
    resolved, over = recorded(given(*begun))
    assert resolved == items("s1[0]/t1", 1, 2)
    assert isinstance(over, StepFailed)
    assert (over.path, over.fault.code) == ("s1[1]/t1", "P-302")
    run = given(*begun, resolved, over, gave("s1[0]/t1[0]", 1), gave("s1[0]/t1[1]", 2))
    first, second = recorded(run)
    assert first == gave("s1[0]", [1, 2])
    assert second == StepFailed(path="s1[1]", fault=over.fault)


def test_a_failure_in_a_block_ends_it_once_nothing_there_is_under_way(given: Given, accepted: Accepted) -> None:
    held = block("s1", step("t1"), step("t2"), let("t3", 3), on_error={"then": "skip"})
    begun = (*accepted(held, let("s2", "${s1 ?? 'none'}")), BlockEntered(path="s1"), *called("s1/t1"))
    begun = (*begun, *called("s1/t2"), failed("s1/t2"))
    assert decide(given(*begun)) == ()
    begun = (*begun, gave("s1/t1"))
    assert recorded(given(*begun)) == [failed("s1")]
    assert recorded(given(*begun, failed("s1"))) == [gave("s2", "none")]


def test_what_waits_in_a_block_that_failed_ends_before_it(given: Given, accepted: Accepted, every: Callees) -> None:
    asking = step("u1", use="human.user", args={"question": "Which?"}, timeout_s=60)
    waits = step("t2", use="wait.until", args={"seconds": 60})
    busy = step("t3", on_error={"retry": 1})
    held = block("s1", block("t1", asking), waits, busy, step("t4"), on_error={"then": "skip"})
    begun = (
        *accepted(held, let("s2", 2), callees=every),
        *(BlockEntered(path="s1"), BlockEntered(path="s1/t1")),
        *(StepResolved(path="s1/t1/u1"), HumanAsked(path="s1/t1/u1", question="answer", reason="", timeout_s=60)),
        *(StepResolved(path="s1/t2"), WaitStarted(path="s1/t2", seconds=60)),
        *(*called("s1/t3"), failed("s1/t3", DOWN), RetryScheduled(path="s1/t3", attempt=1, due=LATER)),
        *(*called("s1/t4"), failed("s1/t4"), gave("s2")),
    )
    dead: list[Event] = [StepSkipped(path=f"s1/{path}", cause="failure") for path in ("t1", "t1/u1", "t2", "t3")]
    assert recorded(given(*begun)) == dead
    run = given(*begun, *dead)
    assert (run.status, run.due()) == ("running", None)
    assert recorded(run) == [failed("s1")]


def test_a_block_of_a_map_that_is_lost_begins_nothing_more_and_ends(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    asking = step("t2", use="human.user", args={"question": "Which?"})
    held = block(
        "s1", step("t1"), asking, step("t3", args={"path": "$t1"}), for_each=[1, 2], on_error={"then": "skip"}
    )
    begun = (
        *(*accepted(held, let("s2", "${s1 ?? 'none'}"), callees=every), items("s1", 1, 2)),
        *(BlockEntered(path="s1[0]"), BlockEntered(path="s1[1]"), *called("s1[1]/t1")),
        *(StepResolved(path="s1[1]/t2"), HumanAsked(path="s1[1]/t2", question="answer", reason="")),
        *(*called("s1[0]/t1"), failed("s1[0]/t1"), failed("s1[0]")),
    )
    assert decide(given(*begun)) == ()
    skips: list[Event] = [StepSkipped(path=path, cause="failure") for path in ("s1[1]/t2", "s1[1]")]
    assert recorded(given(*begun, gave("s1[1]/t1"))) == skips
    assert recorded(given(*begun, gave("s1[1]/t1"), *skips)) == [gave("s2", "none")]


def test_what_a_failure_says_of_untrusted_data_bounds_what_comes_instead(given: Given, accepted: Accepted) -> None:
    skip = {"on_error": {"then": "skip"}}
    instead = let("s9", "${s1 ?? 'none'}")
    told = gave("s0", 0, UNTRUSTED)
    for held in (
        let("s1", "${1 / s0}", **skip),
        block("s1", let("t1", "${1 / s0}"), **skip),
        block("s1", let("t1", 1), answer="${1 / s0}", **skip),
        let("s1", "$item", for_each="${1 / s0}", **skip),
    ):
        run = given(*accepted(step("s0"), held, instead), told)
        while not isinstance((event := recorded(run)[0]), StepSucceeded) or event.path != "s9":
            run = then(run, event)
        assert event == gave("s9", "none", BOUNDED)


def test_what_stands_in_and_cannot_be_computed_tells_whose_data_it_was(given: Given, accepted: Accepted) -> None:
    first = step("s1", on_error=fallback(text="${1 / s0}"))
    run = given(*accepted(step("s0"), first), gave("s0", 0, UNTRUSTED), *called("s1"), failed("s1"))
    (event,) = recorded(run)
    assert isinstance(event, StepFailed)
    assert (event.path, event.fault.code, event.decided_by) == ("s1~fallback", "P-209", UNTRUSTED)


def test_a_doubt_in_a_block_that_failed_is_settled_first(given: Given, accepted: Accepted) -> None:
    send = step("t1", use="mail.send", args={"to": "a@b.c", "text": "x"})
    held = block("s1", send, step("t2"), on_error={"then": "skip"})
    asked = HumanAsked(path="s1/t1", question="happened", reason="`mail.send` may or may not have happened")
    begun = (*accepted(held), BlockEntered(path="s1"), *called("s1/t1"), failed("s1/t2"))
    begun = (*begun, StepInDoubt(path="s1/t1", reason=""))
    assert recorded(given(*begun)) == [asked]
    assert decide(given(*begun, asked)) == (AskHuman("s1/t1"),)


def test_a_failure_in_a_block_that_nothing_tolerates_ends_the_plan(given: Given, accepted: Accepted) -> None:
    held = block("s1", block("t1", step("u1")))
    begun = (*accepted(held), BlockEntered(path="s1"), BlockEntered(path="s1/t1"), failed("s1/t1/u1"))
    assert recorded(given(*begun)) == [failed("s1/t1")]
    assert recorded(given(*begun, failed("s1/t1"))) == [failed("s1")]
    assert recorded(given(*begun, failed("s1/t1"), failed("s1"))) == given_up("s1")


def test_nothing_begins_in_a_block_while_the_plan_is_given_up(given: Given, accepted: Accepted) -> None:
    held = block("s1", let("t1", 1), step("t2"))
    assert recorded(given(*accepted(held, step("s2")), BlockEntered(path="s1"), failed("s2"))) == given_up("s2")


def test_a_call_in_a_block_is_made_again_after_a_crash(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(block("s1", step("t1"))), BlockEntered(path="s1"), *called("s1/t1", path="a"))
    (call,) = decide(given(*begun, RunResumed(owner="p2")))
    assert isinstance(call, Call)
    assert (call.path, call.attempt) == ("s1/t1", 2)


# fallbacks ---------------------------------------------------------------------------------------------------


def fallback(use: str = "text.upper", **args: Json) -> dict[str, Any]:
    return {"fallback": {"use": use, "args": args}} if args else {"fallback": use}


def test_another_call_takes_the_place_of_one_that_failed_for_good(given: Given, accepted: Accepted) -> None:
    first = step("s1", on_error={"retry": 1, **fallback(text="$s0")})
    begun = (*accepted(let("s0", "b"), first, let("s2", "$s1")), gave("s0", "b"), *called("s1"), failed("s1"))
    (event,) = recorded(given(*begun))
    assert isinstance(event, StepResolved)
    assert (event.path, event.arguments) == ("s1~fallback", Labelled(value={"text": "b"}))
    begun = (*begun, event)
    (call,) = decide(given(*begun))
    assert isinstance(call, Call)
    assert (call.path, call.callee) == ("s1~fallback", "text.upper")
    begun = (*begun, made("s1~fallback"))
    assert decide(given(*begun)) == ()
    assert recorded(given(*begun, gave("s1~fallback", "B"))) == [gave("s2", "B")]
    assert recorded(given(*begun, failed("s1~fallback", DOWN))) == given_up("s1")


def test_what_takes_the_place_of_a_call_passes_the_gate_itself(given: Given, accepted: Accepted) -> None:
    policy = Policy(rules=(Rule(id="no", then="deny", callee="text.*"), Rule(id="all", then="allow")))
    first = step("s1", on_error=fallback(text="x"))
    begun = (*accepted(first, policy=policy), *called("s1"), failed("s1"))
    (event,) = recorded(given(*begun))
    assert isinstance(event, StepResolved)
    assert event.verdict is not None
    assert event.verdict.then == "deny"
    (denied,) = recorded(given(*begun, event))
    assert isinstance(denied, StepFailed)
    assert (denied.path, denied.fault.code) == ("s1~fallback", "A-101")


def test_without_arguments_of_its_own_it_gets_those_of_the_step(given: Given, accepted: Accepted) -> None:
    first = step("s1", args={"text": "$s0"}, on_error=fallback())
    run = given(*accepted(let("s0", "b"), first), gave("s0", "b"), *called("s1"), failed("s1"))
    (event,) = recorded(run)
    assert isinstance(event, StepResolved)
    assert event.arguments.value == {"text": "b"}


def test_it_waits_for_what_it_reads_and_fails_where_that_is_missing(given: Given, accepted: Accepted) -> None:
    skip = {"then": "skip"}
    first = step("s1", on_error=fallback(text="$s0"))
    begun = (*accepted(step("s0", on_error=skip), first), *called("s0"), *called("s1"), failed("s1"))
    assert decide(given(*begun)) == ()
    (event,) = recorded(given(*begun, failed("s0")))
    assert isinstance(event, StepFailed)
    assert (event.path, event.fault.code) == ("s1~fallback", "P-205")


def test_it_does_not_begin_while_the_plan_is_given_up(given: Given, accepted: Accepted) -> None:
    first = step("s1", on_error=fallback(text="x"))
    assert recorded(given(*accepted(first, step("s2")), *called("s1"), failed("s1"), failed("s2"))) == given_up("s2")


def test_an_item_s_call_is_replaced_for_that_item_alone_and_dropped_where_that_fails(
    given: Given, accepted: Accepted
) -> None:
    map_ = step(
        "s1", for_each=["a", "b"], args={"path": "$item"}, on_item_error="drop", on_error=fallback(text="$item")
    )
    begun = (*accepted(map_, let("s2", "$s1")), items("s1", "a", "b"), *called("s1[0]"), *called("s1[1]"))
    begun = (*begun, failed("s1[0]"), gave("s1[1]", "B"))
    (event,) = recorded(given(*begun))
    assert isinstance(event, StepResolved)
    assert (event.path, event.arguments.value) == ("s1[0]~fallback", {"text": "a"})
    begun = (*begun, event, made("s1[0]~fallback"))
    assert recorded(given(*begun, gave("s1[0]~fallback", "A"))) == [gave("s2", ["A", "B"])]
    assert recorded(given(*begun, failed("s1[0]~fallback"))) == [gave("s2", [None, "B"])]


def test_what_decided_that_a_step_runs_bounds_what_takes_its_place_as_well(given: Given, accepted: Accepted) -> None:
    told = gave("s0", 2, UNTRUSTED)
    guarded = step("s1", on_error=fallback(text="x"), **{"if": "s0 > 1"})
    run = given(*accepted(step("s0"), guarded), told, *called("s1"), failed("s1"))
    (event,) = recorded(run)
    assert isinstance(event, StepResolved)
    assert event.arguments == Labelled(value={"text": "x"}, label=BOUNDED)
    map_ = step("s1", for_each="$s0", on_error=fallback(text="x"))
    listed = (gave("s0", [1], UNTRUSTED), items("s1", 1, label=UNTRUSTED))
    (event,) = recorded(given(*accepted(step("s0"), map_), *listed, *called("s1[0]"), failed("s1[0]")))
    assert isinstance(event, StepResolved)
    assert event.arguments == Labelled(value={"text": "x"}, label=BOUNDED)


def test_a_block_or_a_value_that_failed_is_replaced_too(given: Given, accepted: Accepted) -> None:
    held = block("s1", step("t1"), on_error=fallback(text="x"))
    begun = (*accepted(held), BlockEntered(path="s1"), *called("s1/t1"), failed("s1/t1"), failed("s1"))
    (event,) = recorded(given(*begun))
    assert isinstance(event, StepResolved)
    assert event.path == "s1~fallback"
    begun = (*begun, event, made("s1~fallback"))
    assert recorded(given(*begun, gave("s1~fallback", "X"))) == [ReviewInconclusive()]
    value = let("s1", "${1 / 0}", on_error=fallback(text="x"))
    (event,) = recorded(given(*accepted(value), failed("s1")))
    assert isinstance(event, StepResolved)


def test_a_block_that_untrusted_data_chose_bounds_what_takes_its_place(given: Given, accepted: Accepted) -> None:
    held = block("s1", step("t1"), on_error=fallback(text="x"), **{"if": "s0 > 1", "else": [step("t2")]})
    entered = BlockEntered(path="s1", branch="else", decided_by=BOUNDED)
    run = given(*accepted(step("s0"), held), gave("s0", 0, UNTRUSTED), entered, failed("s1/t2"), failed("s1"))
    (event,) = recorded(run)
    assert isinstance(event, StepResolved)
    assert event.arguments == Labelled(value={"text": "x"}, label=BOUNDED)


# a short budget ----------------------------------------------------------------------------------------------


def test_a_map_that_only_looks_takes_fewer_items_once_the_budget_is_short(given: Given, accepted: Accepted) -> None:
    short: dict[str, Any] = {"budget": Budget(calls=4), "shortage": {"at": 0.5, "items": 2}}
    for use, is_cut in (("files.read", True), ("files.append", False)):
        map_ = step("s2", use=use, for_each=[1, 2, 3], args={"path": "$item", "text": "x"})
        begun = (*accepted(step("s1"), map_, **short), *called("s1"), gave("s1"), items("s2", 1, 2, 3))
        assert not [e for e in recorded(given(*begun)) if isinstance(e, StepSkipped)]
        once = (*called("s2[0]", path="1", text="x"), gave("s2[0]"))
        skips = [e for e in recorded(given(*begun, *once)) if isinstance(e, StepSkipped)]
        assert skips == ([StepSkipped(path="s2[2]", cause="budget")] if is_cut else [])
