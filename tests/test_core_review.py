from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from planner.core.events import (
    Event,
    MapResolved,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from planner.core.goal import Named
from planner.core.labels import Json, Labelled
from planner.core.plan import Step
from planner.core.review import Decided, criteria, review
from planner.core.run import Run
from planner.core.setup import Criterion
from planner.core.values import View
from planner.errors import PlanError

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

WRITE = Step(id="s1", use="files.write", args={"path": "out.txt", "text": "x"})
COUNT = Step(id="s2", let=3)
WRITTEN = Criterion(id="c1", kind="written", text="out.txt")
COUNTED = Criterion(id="c2", kind="expression", text="s2 == 3 and 'done' in answer")
POLITE = Criterion(id="c3", kind="text", text="It is polite")


def called(place: str, **arguments: Json) -> tuple[Event, ...]:
    """A call that succeeded."""
    return (
        StepResolved(path=place, arguments=Labelled(value=arguments)),
        StepStarted(path=place, attempt=1, key="k"),
        StepSucceeded(path=place, value=Labelled()),
    )


ENDED = (*called("s1", path="out.txt", text="x"), StepSucceeded(path="s2", value=Labelled(value=3)))


def reviewed(run: Run) -> Decided | tuple[str, ...]:
    assert run.plan is not None
    return review(View(run, run.plan))


# criteria


def test_each_file_to_be_written_and_the_caller_s_own_words_are_criteria() -> None:
    found = (
        Named(text="in.csv", kind="path", part="source"),
        Named(text="out.txt", kind="path", part="target"),
        Named(text="list.txt", kind="path", part="edited"),
        Named(text="out", kind="folder", part="target"),
    )
    wanted = criteria("Write it", found, " It is polite ")
    assert [(c.id, c.kind, c.text) for c in wanted] == [
        ("c1", "written", "out.txt"),
        ("c2", "written", "list.txt"),
        ("c3", "text", "It is polite"),
    ]


def test_a_criterion_in_braces_is_an_expression() -> None:
    assert criteria("Count", (), "${s1 > 3}") == (Criterion(id="c1", kind="expression", text="s1 > 3"),)


@pytest.mark.parametrize("success", [None, ""])
def test_without_a_file_or_a_word_there_is_no_criterion(success: str | None) -> None:
    assert criteria("Count", (), success) == ()


def test_a_goal_that_leaves_it_open_makes_its_files_conditional() -> None:
    found = (Named(text="out.txt", kind="path", part="target"),)
    assert criteria("If it rains, write out.txt", found, None)[0].is_conditional
    assert not criteria("Write out.txt", found, None)[0].is_conditional


# reviews


@pytest.mark.parametrize(
    ("wanted", "answer", "can_judge", "decided"),
    [
        ((WRITTEN, COUNTED), "done", False, ReviewPassed(criteria=("c1", "c2"))),
        ((WRITTEN, COUNTED), "no", False, ReviewFailed(criteria=("c2",))),
        ((WRITTEN, COUNTED, POLITE), "no", True, ReviewFailed(criteria=("c2",))),
        ((WRITTEN, POLITE), "done", False, ReviewInconclusive(criteria=("c3",))),
        ((WRITTEN, POLITE), "done", True, ("c3",)),
        ((), "done", True, ReviewInconclusive()),
    ],
)
def test_rules_decide_what_they_can_and_leave_words_to_a_judge(
    wanted: tuple[Criterion, ...],
    answer: str,
    can_judge: bool,
    decided: object,
    given: Given,
    accepted: Accepted,
) -> None:
    begun = accepted(WRITE, COUNT, answer=answer, criteria=wanted, can_judge=can_judge)
    assert reviewed(given(*begun, *ENDED)) == decided


def test_a_judge_is_not_asked_where_its_word_could_not_decide(given: Given, accepted: Accepted) -> None:
    perhaps = WRITTEN.model_copy(update={"is_conditional": True})
    begun = accepted(WRITE, COUNT, answer="done", criteria=(perhaps, POLITE), can_judge=True)
    run = given(*begun, *called("s1", path="out.txt", text=""), ENDED[-1])
    assert reviewed(run) == ReviewInconclusive(criteria=("c1", "c3"))


@pytest.mark.parametrize("expression", ["s9 == 3", "s2 +", "answer.x.y"])
def test_a_criterion_that_cannot_be_evaluated_is_an_error(expression: str, given: Given, accepted: Accepted) -> None:
    wanted = (Criterion(id="c1", kind="expression", text=expression),)
    with pytest.raises(PlanError):
        reviewed(given(*accepted(WRITE, COUNT, answer="done", criteria=wanted), *ENDED))


# files


@pytest.mark.parametrize(
    ("use", "arguments", "verdict"),
    [
        ("files.write", {"path": "out.txt", "text": "x"}, True),
        ("files.write", {"path": "./d/../OUT.txt", "text": "x"}, True),
        ("files.write", {"path": "out.txt", "text": ""}, False),
        ("files.write", {"path": "out.txt", "text": []}, False),
        ("files.write", {"path": "out.txt"}, False),
        ("files.write", {"path": "other.txt", "text": "out.txt!"}, False),
        ("files.write", {"path": ["out.txt"], "text": "x"}, False),
        ("files.read", {"path": "out.txt"}, False),
        ("files.wipe", {"folder": "out.txt"}, True),
    ],
)
def test_a_file_is_written_by_an_effect_that_names_it_and_carries_something(
    use: str, arguments: dict[str, Any], verdict: bool, given: Given, accepted: Accepted
) -> None:
    begun = accepted(Step(id="s1", use=use, args=arguments), answer="done", criteria=(WRITTEN,))
    expected = {
        True: ReviewPassed(criteria=("c1",)),
        False: ReviewFailed(criteria=("c1",)),
    }
    assert reviewed(given(*begun, *called("s1", **arguments))) == expected[verdict]


def test_of_several_writes_one_with_content_is_enough(given: Given, accepted: Accepted) -> None:
    begun = accepted(WRITE, WRITE.model_copy(update={"id": "s2"}), answer="done", criteria=(WRITTEN,))
    first, second = called("s1", path="out.txt", text="x"), called("s2", path="out.txt", text="")
    assert reviewed(given(*begun, *first, *second)) == ReviewPassed(criteria=("c1",))
    assert reviewed(given(*begun, *second, *first)) == ReviewPassed(criteria=("c1",))


def test_an_item_of_a_map_may_have_written_the_file(given: Given, accepted: Accepted) -> None:
    map_ = Step(id="s1", use="files.write", args={"path": "$item", "text": "x"}, for_each=["out.txt"])
    events = (MapResolved(path="s1", items=Labelled(value=["out.txt"])), *called("s1[0]", path="out.txt", text="x"))
    assert reviewed(given(*accepted(map_, answer="done", criteria=(WRITTEN,)), *events)) == ReviewPassed(
        criteria=("c1",)
    )


def test_a_file_that_was_not_written_is_undecided_where_the_goal_left_it_open(
    given: Given, accepted: Accepted
) -> None:
    maybe = WRITTEN.model_copy(update={"is_conditional": True})
    skipped = StepSkipped(path="s1", cause="condition")
    assert reviewed(given(*accepted(WRITE, answer="-", criteria=(maybe,)), skipped)) == ReviewInconclusive(
        criteria=("c1",)
    )
    assert reviewed(given(*accepted(WRITE, answer="-", criteria=(WRITTEN,)), skipped)) == ReviewFailed(
        criteria=("c1",)
    )
