"""What a cancelled run does; what lasts and what is an effect is told in `test_core_correction`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    CancelRequested,
    ContentKept,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlanProposed,
    Recorded,
    Remainder,
    ReviewInconclusive,
    RunFinished,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoBegan,
    UndoRequested,
)
from planner.core.labels import Json, Labelled
from planner.core.ledger import ONE_CALL, Budget
from planner.core.plan import Plan, Step
from planner.core.run import Run
from planner.core.state import evolve
from planner.core.undo import reversible
from planner.errors import JournalError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Started: TypeAlias = Callable[..., RunStarted]
Callees: TypeAlias = tuple[Callee, ...]

LOST = Fault(code="T-1", error_class="missing")
DOWN = Fault(code="T-2", error_class="unavailable")
CANCEL = CancelRequested(by="ann")
RESUMED = RunResumed(owner="p2")


def then(run: Run, *events: Event) -> Run:
    for event in events:
        run = evolve(run, Recorded(seq=0, run_id=run.id, run_seq=run.run_seq + 1, at=run.at, event=event))
    return run


def step(id_: str, use: str = "store.put", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


def called(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    resolved = StepResolved(path=place, arguments=Labelled(value=arguments))
    return resolved, StepStarted(path=place, attempt=1, key=f"k-{place}")


def gave(path: str) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled())


def made(place: str, /, **arguments: Json) -> tuple[Event, ...]:
    return (*called(place, **arguments), gave(place))


def undone(*paths: str) -> list[Event]:
    """All that happens while these are taken back."""
    pairs = [(StepStarted(path=f"{p}~undo", attempt=1, key=f"k-{p}-undo"), gave(f"{p}~undo")) for p in paths]
    return [event for pair in pairs for event in pair]


def all_undone(run: Run) -> Run:
    """The run when every call that it makes now has succeeded."""
    while isinstance(call := the(decide(run)), Call):
        run = then(run, StepStarted(path=call.path, attempt=call.attempt, key=call.key), gave(call.path))
    return run


def the(commands: tuple[Command, ...]) -> Command:
    (command,) = commands
    return command


def ended(run: Run) -> RunFinished:
    command = the(decide(run))
    assert isinstance(command, Record)
    assert isinstance(command.event, RunFinished)
    return command.event


def refused(run: Run, event: Event) -> str:
    with pytest.raises(JournalError, match="J-204") as caught:
        then(run, event)
    return caught.value.message


THREE = (
    step("s1", args={"name": "a", "text": "x"}),
    step("s2", "mail.send", args={"to": "a@b.c", "text": "x"}),
    step("s3", args={"name": "b", "text": "x"}),
)


def three(given: Given, accepted: Accepted, every: Callees) -> Run:
    done = [event for step in THREE for event in made(step.id, **step.args)]
    return given(*accepted(*THREE, callees=every), *done)


# taking back -------------------------------------------------------------------------------------------------


def test_effects_are_taken_back_one_by_one_and_the_last_one_first(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    run = then(three(given, accepted, every), CANCEL)
    began = UndoBegan(paths=("s3", "s1"))
    assert the(decide(run)) == Record(began)
    run = then(run, began)
    assert run.step("s3~undo").arguments == run.step("s3").arguments
    assert the(decide(run)) == Call("s3~undo", "store.put", 1, "k-s3-undo", held=ONE_CALL)
    started, over = undone("s3")
    assert decide(then(run, started)) == ()
    run = then(run, started, over)
    assert the(decide(run)) == Call("s1~undo", "store.put", 1, "k-s1-undo", held=ONE_CALL)
    end = ended(then(run, *undone("s1")))
    assert (end.status, end.undone) == ("cancelled", ("s3", "s1"))
    assert end.left == (Remainder(path="s2", reason="it cannot be taken back"),)


def test_what_was_kept_before_an_effect_is_there_when_it_is_taken_back(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    kept = ContentKept(path="s1", name="a", blob="b1")
    run = given(*accepted(step("s1"), callees=every), *called("s1"), kept, gave("s1"), CANCEL)
    assert then(run, UndoBegan(paths=("s1",))).step("s1~undo").kept == {"a": "b1"}


def test_effects_of_items_blocks_and_what_stood_in_are_taken_back_too(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    block = {"id": "s1", "for_each": [1], "do": [{"id": "t1", "use": "store.put"}]}
    other = step("s2", "files.read", on_error={"fallback": "store.put"})
    run = given(
        *accepted(Step.model_validate(block), other, callees=every),
        MapResolved(path="s1", items=Labelled(value=[1])),
        BlockEntered(path="s1[0]"),
        *made("s1[0]/t1"),
        *called("s2"),
        StepFailed(path="s2", fault=LOST),
        *made("s2~fallback"),
        CANCEL,
    )
    began = UndoBegan(paths=("s2~fallback", "s1[0]/t1"))
    assert the(decide(run)) == Record(began)
    (call,) = decide(then(run, began))
    assert isinstance(call, Call)
    assert (call.path, call.callee, call.key) == ("s2~undo", "store.put", "k-s2~fallback-undo")
    end = ended(all_undone(then(run, began)))
    assert (end.undone, end.left) == (("s2", "s1[0]/t1"), ())


def test_a_run_that_did_nothing_just_ends(given: Given, accepted: Accepted, started: Started) -> None:
    assert ended(given(started(), CANCEL)) == RunFinished(status="cancelled", reason="cancelled on request")
    read = (*called("s1"), gave("s1"))
    assert ended(given(*accepted(step("s1", "files.read")), *read, CANCEL)).left == ()


def test_what_is_under_way_ends_before_anything_is_taken_back(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    begun = (*accepted(step("s1"), step("s2"), callees=every), *made("s1"), *called("s2"), CANCEL)
    assert decide(given(*begun)) == ()
    assert the(decide(given(*begun, gave("s2")))) == Record(UndoBegan(paths=("s2", "s1")))
    assert the(decide(given(*begun, StepFailed(path="s2", fault=DOWN)))) == Record(UndoBegan(paths=("s1",)))


def test_a_run_is_cancelled_also_while_a_planner_is_asked_or_its_outcome_reviewed_or_it_is_paused(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    done = three(given, accepted, every)
    lost = then(done, PlanAbandoned(revision=2, reason="why"))
    reviewed = then(done, ReviewInconclusive())
    paused = then(done, PauseRequested(by="ann"))
    assert decide(paused) == ()
    for before in (lost, reviewed, paused):
        run = then(before, CANCEL)
        began = UndoBegan(paths=("s3", "s1"))
        assert the(decide(run)) == Record(began)
        assert ended(then(run, began, *undone("s3", "s1"))).undone == ("s3", "s1")


def test_a_finished_run_can_be_taken_back_once(given: Given, accepted: Accepted, every: Callees) -> None:
    run = then(three(given, accepted, every), RunFinished(status="completed"), UndoRequested(by="ann"))
    began = UndoBegan(paths=("s3", "s1"))
    assert the(decide(run)) == Record(began)
    run = then(run, began, *undone("s3", "s1"))
    run = then(run, ended(run))
    assert run.status == "cancelled"
    assert refused(run, UndoRequested(by="ann")).endswith("taken back already")


def test_taking_back_goes_beyond_every_budget(given: Given, accepted: Accepted, every: Callees) -> None:
    budget = Budget(calls=1, tokens=0, cost_usd=0.0, seconds=0.0)
    run = given(*accepted(step("s1"), callees=every, budget=budget), *made("s1"), CANCEL)
    assert isinstance(the(decide(then(run, UndoBegan(paths=("s1",))))), Call)


# when that fails ---------------------------------------------------------------------------------------------


def undoing(given: Given, accepted: Accepted, every: Callees, *events: Event, use: str = "store.take") -> Run:
    """A run that was cancelled while it takes back its only effect."""
    began = (CANCEL, UndoBegan(paths=("s1",)), StepStarted(path="s1~undo", attempt=1, key="k-s1-undo"))
    return given(*accepted(step("s1", use), callees=every), *made("s1"), *began, *events)


def test_taking_back_is_tried_again_and_given_up_with_the_reason(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    down = StepFailed(path="s1~undo", fault=DOWN)
    assert the(decide(undoing(given, accepted, every, down))) == ScheduleRetry("s1~undo", 1, 1.0)
    gone = StepFailed(path="s1~undo", fault=LOST.model_copy(update={"message": "it is gone"}))
    end = ended(undoing(given, accepted, every, gone))
    assert (end.undone, end.left) == ((), (Remainder(path="s1", reason="it is gone"),))


def test_taking_back_that_gives_no_answer_is_found_out_about_without_asking_anybody(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    doubt = StepInDoubt(path="s1~undo", reason="no answer")
    command = the(decide(undoing(given, accepted, every, doubt)))
    assert isinstance(command, Record)
    assert isinstance(command.event, StepFailed)
    assert command.event.fault.code == "A-104"
    end = ended(undoing(given, accepted, every, doubt, command.event))
    assert end.left == (Remainder(path="s1", reason="nobody could say whether `store.take` happened"),)
    again = the(decide(undoing(given, accepted, every, doubt, use="store.put")))
    assert isinstance(again, Call)
    assert again.attempt == 2


def test_a_question_about_taking_back_is_dropped_when_the_run_is_cancelled(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    first = step("s1", "store.take", args={"name": "$inputs.x"})
    begun = accepted(first, callees=every, inputs={"x": 1}, is_given=True)
    run = then(given(*begun, *made("s1")), Steered(by="ann", inputs={"x": 2}), PlanAbandoned(revision=2, reason=""))
    assert run.given is not None
    accept = PlanAccepted(revision=2, plan=run.given, certificate=Certificate())
    doubt = StepInDoubt(path="s1~undo", reason="no answer")
    run = then(run, UndoBegan(paths=("s1",)), accept, undone("s1")[0], doubt)
    (asks,) = decide(run)
    assert isinstance(asks, Record)
    assert isinstance(asks.event, HumanAsked)
    run = then(run, asks.event)
    assert decide(run) == (AskHuman("s1~undo"),)
    command = the(decide(then(run, CANCEL)))
    assert isinstance(command, Record)
    assert isinstance(command.event, StepFailed)
    end = ended(then(run, CANCEL, command.event))
    assert [one.path for one in end.left] == ["s1"]


def test_taking_back_survives_the_end_of_its_process(given: Given, accepted: Accepted, every: Callees) -> None:
    again = the(decide(undoing(given, accepted, every, RESUMED, use="store.put")))
    assert isinstance(again, Call)
    assert (again.path, again.attempt, again.key) == ("s1~undo", 2, "k-s1-undo")


# doubt -------------------------------------------------------------------------------------------------------

DOUBT = StepInDoubt(path="s1", reason="no answer")
ASKED = HumanAsked(path="s1", question="happened", reason="")


def test_what_may_have_happened_is_found_out_about_before_anything_is_taken_back(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    probed = tuple(
        c.model_copy(update={"declaration": c.declaration.model_copy(update={"on_doubt": "probe"})})
        if c.name == "store.take"
        else c
        for c in every
    )
    begun = (*accepted(step("s1", "store.take"), callees=probed), *called("s1"), DOUBT, CANCEL)
    assert the(decide(given(*begun))) == Probe("s1", "store.take")
    yes = given(*begun, StepProbed(path="s1", happened=True))
    succeeded = the(decide(yes))
    assert isinstance(succeeded, Record)
    assert the(decide(then(yes, succeeded.event))) == Record(UndoBegan(paths=("s1",)))
    no = given(*begun, StepProbed(path="s1", happened=False))
    failed = the(decide(no))
    assert isinstance(failed, Record)
    assert isinstance(failed.event, StepFailed)
    assert failed.event.fault.code == "A-105"
    assert ended(then(no, failed.event)) == RunFinished(status="cancelled", reason="cancelled on request")


@pytest.mark.parametrize(
    ("events", "is_known"),
    [
        ((DOUBT, ASKED), False),
        ((DOUBT, ASKED, HumanAnswered(path="s1", answer="yes", by="ann")), True),
        ((DOUBT, ASKED, HumanAnswered(path="s1", answer="no", by="ann")), True),
        ((RESUMED,), True),
    ],
)
def test_nobody_is_asked_any_more_but_an_answer_that_is_there_counts(
    events: tuple[Event, ...], is_known: bool, given: Given, accepted: Accepted, every: Callees
) -> None:
    run = given(*accepted(step("s1", "mail.send"), callees=every), *called("s1"), *events, CANCEL)
    command = the(decide(run))
    assert isinstance(command, Record)
    assert isinstance(command.event, RunFinished) is not is_known
    if not is_known:
        assert ended(run).left == (Remainder(path="s1", reason="nobody knows whether it happened"),)


def test_what_harmlessly_can_be_taken_back_is_although_nobody_knows_whether_it_happened(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    for doubt in ((DOUBT,), (RESUMED,), (DOUBT, ASKED)):
        run = given(*accepted(step("s1"), callees=every), *called("s1"), *doubt, CANCEL)
        assert the(decide(run)) == Record(UndoBegan(paths=("s1",)))
    again = (DOUBT, StepStarted(path="s1", attempt=2, key="k-s1"), StepFailed(path="s1", fault=DOWN))
    run = given(*accepted(step("s1"), callees=every), *called("s1"), *again, CANCEL)
    assert the(decide(run)) == Record(UndoBegan(paths=("s1",)))


def test_what_may_or_may_not_be_taken_back_is_left_and_told(given: Given, accepted: Accepted, every: Callees) -> None:
    run = given(*accepted(step("s1", "store.take"), callees=every), *called("s1"), DOUBT, ASKED, CANCEL)
    assert reversible(run) == []
    assert ended(run).left == (Remainder(path="s1", reason="nobody knows whether it happened"),)


# corrections -------------------------------------------------------------------------------------------------


def test_a_cancelled_run_tells_also_what_a_correction_left(given: Given, accepted: Accepted, every: Callees) -> None:
    sent = step("s1", "mail.send", args={"to": "$inputs.x", "text": "x"})
    begun = accepted(sent, step("s2", args={"name": "$inputs.x"}), callees=every, inputs={"x": 1}, is_given=True)
    run = then(given(*begun, *made("s1"), *made("s2", name=1)), Steered(by="ann", inputs={"x": 2}))
    run = then(run, PlanAbandoned(revision=2, reason=""))
    assert run.given is not None
    accept = PlanAccepted(revision=2, plan=run.given, certificate=Certificate())
    run = then(run, UndoBegan(paths=("s2",)), accept, *undone("s2"))
    first = (StepResolved(path="s1"), StepStarted(path="s1", attempt=1, key="new"), gave("s1"))
    second = (StepResolved(path="s2"), StepStarted(path="s2", attempt=1, key="new2"), gave("s2"))
    run = then(run, *first, *second, CANCEL)
    began = UndoBegan(paths=("s2",))
    assert the(decide(run)) == Record(began)
    end = ended(then(run, began, StepStarted(path="s2~undo", attempt=1, key="new2-undo"), gave("s2~undo")))
    assert end.undone == ("s2", "s2")
    assert end.left == (Remainder(path="s1", reason="it cannot be taken back"),) * 2


def test_a_run_that_ends_well_tells_what_a_correction_left(given: Given, accepted: Accepted, every: Callees) -> None:
    sent = step("s1", "mail.send", args={"to": "$inputs.x", "text": "x"})
    begun = accepted(sent, callees=every, inputs={"x": 1}, is_given=True)
    run = then(given(*begun, *made("s1")), Steered(by="ann", inputs={"x": 2}), PlanAbandoned(revision=2, reason=""))
    assert run.given is not None
    run = then(run, PlanAccepted(revision=2, plan=run.given, certificate=Certificate()))
    end = ended(then(run, *made("s1"), ReviewInconclusive()))
    assert (end.status, end.left) == ("unverified", (Remainder(path="s1", reason="it cannot be taken back"),))


def test_a_planner_s_plan_takes_back_first_what_it_does_without(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    run = then(three(given, accepted, every), PlanAbandoned(revision=2, reason=""))
    plan = Plan(steps=THREE[:2], answer="done", undo=("s3",))
    run = then(run, PlanProposed(revision=2, attempt=1, plan=plan))
    assert the(decide(run)) == Record(UndoBegan(paths=("s3",)))
    run = then(run, UndoBegan(paths=("s3",)))
    accept = the(decide(run))
    assert isinstance(accept, Record)
    assert isinstance(accept.event, PlanAccepted)
    run = then(run, accept.event)
    assert isinstance(the(decide(run)), Call)
    assert the(decide(then(run, *undone("s3")))) == Record(ReviewInconclusive())


def test_a_correction_that_comes_before_the_last_one_took_anything_back_adds_to_that(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    steps = [step(id_, "store.put", args={"name": f"$inputs.{id_}", "text": "x"}) for id_ in ("s1", "s2", "s3")]
    begun = accepted(*steps, callees=every, inputs=dict.fromkeys(("s1", "s2", "s3"), 1), is_given=True)
    run = given(*begun, *made("s1"), *made("s2"), *made("s3"))
    run = then(run, Steered(by="ann", inputs={"s3": 2}), PlanAbandoned(revision=2, reason="corrected"))
    assert the(decide(run)) == Record(UndoBegan(paths=("s3",)))
    run = then(run, UndoBegan(paths=("s3",)), Steered(by="ann", inputs={"s1": 2}))
    assert the(decide(run)) == Record(UndoBegan(paths=("s2", "s1")))
    run = then(run, UndoBegan(paths=("s2", "s1")))
    assert (run.undoing, run.undone, run.left) == (("s3~undo", "s2~undo", "s1~undo"), (), ())


# what is illegal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (("s9",), "was not called, or is taken back already"),
        (("s1", "s1"), "it names a step twice"),
        (("s2",), "cannot be taken back"),
    ],
)
def test_only_what_can_be_taken_back_is(
    paths: tuple[str, ...], reason: str, given: Given, accepted: Accepted, every: Callees
) -> None:
    assert refused(three(given, accepted, every), UndoBegan(paths=paths)).endswith(reason)


def test_nothing_is_taken_back_twice_or_while_it_is_under_way(
    given: Given, accepted: Accepted, every: Callees
) -> None:
    run = then(three(given, accepted, every), CANCEL, UndoBegan(paths=("s3",)))
    assert refused(run, UndoBegan(paths=("s1",))).endswith("something is being taken back already")
    run = then(run, *undone("s3"))
    assert reversible(run) == ["s1"]
    for path in ("s3", "s3~undo"):
        assert "is taken back already" in refused(run, UndoBegan(paths=(path,)))
    under_way = given(*accepted(step("s1"), callees=every), *called("s1"))
    assert "was not called" in refused(under_way, UndoBegan(paths=("s1",)))
