"""Where two runs differ is told by what they wanted, planned, did and gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from planner.core.difference import Change, Difference, difference, told
from planner.core.events import Event, Fault, RunFinished, StepFailed, StepResolved, StepStarted, StepSucceeded
from planner.core.labels import UNTRUSTED, Labelled
from planner.core.plan import Step
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]
Started: TypeAlias = Callable[..., Event]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]


def read(id_: str = "s1", path: str = "a", **more: Any) -> Step:
    return Step.model_validate({"id": id_, "use": "files.read", "args": {"path": path}, **more})


def done(path: str, value: Any, /, **arguments: Any) -> tuple[Event, ...]:
    return (
        StepResolved(path=path, arguments=Labelled(value=arguments)),
        StepStarted(path=path, attempt=1, key=path),
        StepSucceeded(path=path, value=Labelled(value=value)),
    )


def test_runs_that_did_the_same_do_not_differ(given: Given, accepted: Accepted) -> None:
    events = (*accepted(read()), *done("s1", "text"))
    found = difference(given(*events), given(*events))
    assert found == Difference()
    assert found.is_same
    assert told(found) == ()


def test_what_it_took_does_not_make_runs_differ(given: Given, accepted: Accepted) -> None:
    begun, good = (*accepted(read()), *done("s1", "text")[:2]), StepSucceeded(path="s1", value=Labelled(value="text"))
    found = difference(given(*begun, good), given(*begun, good.model_copy(update={"calls": 2})))
    assert found.is_same
    assert found.spent == {"calls": Change(before=1, after=3)}
    assert told(found) == ("spent  calls: 1 -> 3",)


def test_a_run_that_has_not_begun_differs_in_all_that_the_other_did(
    given: Given, started: Started, accepted: Accepted
) -> None:
    new = given(started("Read a"))
    old = given(*accepted(read(), goal="Read b"), *done("s1", [1], path="a"), RunFinished(status="failed"))
    found = difference(new, old)
    assert told(found)[:6] == (
        'goal    "Read a" -> "Read b"',
        'status  "running" -> "failed"',
        'plan    + s1 {"use": "files.read", "args": {"path": "a"}}',
        's1      status: "new" -> "succeeded"',
        '        arguments: null -> {"path": "a"}',
        "        value: null -> [1]",
    )
    assert [line.partition(":")[0].strip() for line in told(found)[6:]] == ["spent   unpriced", "calls", "seconds"]


def test_steps_are_compared_by_id_with_those_in_blocks_for_themselves(given: Given, accepted: Accepted) -> None:
    def block(*inner: Step, **more: Any) -> Step:
        return Step.model_validate({"id": "s2", "if": "true", "do": inner, **more})

    before = given(*accepted(read(), block(read("t1"), read("t2")), read("s3")))
    after = given(
        *accepted(
            read("s3", note="later"), read(), block(read("t1", path="b"), **{"else": [read("t3")]}), answer="$s1"
        )
    )
    plan = difference(before, after).plan
    assert plan is not None
    assert list(plan.added) == ["t3"]
    assert list(plan.removed) == ["t2"]
    assert plan.changed == {
        "s2": {"do": Change(before=["t1", "t2"], after=["t1"]), "else": Change(before=None, after=["t3"])},
        "t1": {"args": Change(before={"path": "a"}, after={"path": "b"})},
        "s3": {"note": Change(before=None, after="later")},
    }
    assert plan.order == Change(before=["s1", "s2", "t1", "s3"], after=["s3", "s1", "s2", "t1"])
    lines = told(difference(before, after))
    assert lines[0] == 'plan  + t3 {"use": "files.read", "args": {"path": "a"}}'
    assert lines[1] == '      - t2 {"use": "files.read", "args": {"path": "a"}}'
    assert '      ~ t1 args: {"path": "a"} -> {"path": "b"}' in lines
    assert lines[-1] == '      ~ answer: null -> "$s1"'


def test_other_inputs_are_told(given: Given, accepted: Accepted) -> None:
    before, after = (given(*accepted(read(), inputs={"name": name})) for name in ("a", "b"))
    assert told(difference(before, after)) == ('plan  ~ inputs: {"name": "a"} -> {"name": "b"}',)


def test_what_became_of_a_step_is_told_without_its_labels(given: Given, accepted: Accepted) -> None:
    begun = (*accepted(read()), *done("s1", "text", path="a")[:2])
    good = StepSucceeded(path="s1", value=Labelled(value="text"))
    assert difference(given(*begun, good), given(*begun, outside(good))).is_same
    failed = StepFailed(path="s1", fault=Fault(code="T-302", error_class="missing", message="no `a`"))
    found = difference(given(*begun, good), given(*begun, failed)).steps["s1"]
    assert found.status == Change(before="succeeded", after="failed")
    assert found.arguments is None
    assert found.value == Change(before="text", after=None)
    assert found.fault == Change(before=None, after={"code": "T-302", "error_class": "missing", "message": "no `a`"})


def outside(event: StepSucceeded) -> StepSucceeded:
    return event.model_copy(update={"value": event.value.model_copy(update={"label": UNTRUSTED})})


def test_a_difference_survives_json(given: Given, started: Started, accepted: Accepted) -> None:
    found = difference(given(started("Read a")), given(*accepted(read()), *done("s1", {"n": [1, None]})))
    assert Difference.model_validate_json(found.model_dump_json()) == found


def test_long_values_are_shown_from_where_they_differ(given: Given, accepted: Accepted) -> None:
    def line(before: str, after: str) -> str:
        runs = (given(*accepted(read()), *done("s1", text)) for text in (before, after))
        (told_,) = told(difference(*runs))
        return told_

    assert line("a" * 100 + "b" * 100, "a" * 100 + "c") == (f's1  value: …{"a" * 10}{"b" * 50}… -> …{"a" * 10}c"')
    assert line("a" * 100, "a" * 100 + "\nb") == f's1  value: …{"a" * 10}" -> …{"a" * 10}\\nb"'
    assert line("a" * 100, "b") == f's1  value: "{"a" * 59}… -> "b"'


def test_the_results_of_finished_runs_are_compared(given: Given, accepted: Accepted) -> None:
    ends = (RunFinished(status="unverified", result=Labelled(value=value)) for value in (1, 2))
    before, after = (given(*accepted(read()), *done("s1", "text"), end) for end in ends)
    assert told(difference(before, after)) == ("result  1 -> 2",)
