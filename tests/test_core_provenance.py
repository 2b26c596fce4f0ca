"""Where a value came from, in the words around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner.core.events import Attachment, StepResolved, StepStarted, StepSucceeded
from planner.core.labels import TRUSTED, UNTRUSTED, Json, Label, Labelled, gather
from planner.core.plan import Step
from planner.core.provenance import AROUND, Origin, origins
from planner.core.run import Run

READ = Step(id="s1", use="files.read", args={"path": "a"})
FROM = UNTRUSTED.from_source("s1:files.read")


@pytest.fixture
def read(given: Callable[..., Run], accepted: Any) -> Callable[[Json], Run]:
    """A run in which a file was read."""

    def made(value: Json) -> Run:
        return given(
            *accepted(READ),
            StepResolved(path="s1", arguments=Labelled(value={"path": "a"})),
            StepStarted(path="s1", attempt=1, key="k"),
            StepSucceeded(path="s1", value=Labelled(value=value, label=FROM)),
        )

    return made


def of(run: Run, value: Json, label: Label = FROM) -> Origin:
    return origins(run, gather({"to": Labelled(value=value, label=label)}))["to"]


def test_a_value_is_shown_with_what_stands_around_it(read: Callable[[Json], Run]) -> None:
    (found,) = of(read(f"{'x' * 200} to bob, {'y' * 200}"), "bob").excerpts
    assert (found.step, found.callee, found.value) == ("s1", "files.read", "bob")
    assert found.before == ("x" * 200 + " to ")[-AROUND:]
    assert found.after == (", " + "y" * 200)[:AROUND]


def test_it_is_found_in_any_leaf_and_numbers_too(read: Callable[[Json], Run]) -> None:
    run = read([{"name": "ann"}, {"name": "bob", "age": 7}])
    assert [e.value for e in of(run, ["bob", 7]).excerpts] == ["bob", "7"]


def test_what_stands_nowhere_has_a_label_alone(read: Callable[[Json], Run]) -> None:
    for value in ("eve", "", None, True):
        assert of(read("bob"), value).excerpts == ()


@pytest.mark.parametrize("source", ["files.read", "s9:files.read", "attachment:gone", "human:ann"])
def test_a_source_that_gave_nothing_here_is_passed_over(read: Callable[[Json], Run], source: str) -> None:
    assert of(read("bob"), "bob", TRUSTED.from_source(source)).excerpts == ()


def test_an_attachment_is_a_source_too(read: Callable[[Json], Run]) -> None:
    run = read("x")
    started = run.started.model_copy(update={"attachments": (Attachment(name="bill", text="pay bob"),)})
    (found,) = of(replace(run, started=started), "bob", UNTRUSTED.from_source("attachment:bill")).excerpts
    assert (found.step, found.callee, found.before) == ("attachment", "bill", "pay ")


def test_what_others_alone_may_read_is_not_shown_around_a_value(read: Callable[[Json], Run]) -> None:
    label = FROM.joined(Label(readers=frozenset({"bob"})))
    assert of(read("bob"), "bob", label) == Origin(label=label)


def test_where_nothing_is_given_nothing_is_told(read: Callable[[Json], Run]) -> None:
    assert origins(read("bob"), Labelled(value=None)) == {}
