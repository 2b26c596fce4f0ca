"""What each role is asked: the values that a prompt is made from, and that code playing the role gets.

Rules of the file:
- A view holds what a model's prompt in that role may hold, and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias, TypedDict, TypeVar

from pydantic import field_serializer

from planner.core.catalog import Callee, signature
from planner.core.check import Problem
from planner.core.goal import Named
from planner.core.labels import Frozen, Json
from planner.core.plan import Plan, Step, StepId
from planner.errors import ErrorClass

T = TypeVar("T")
Role: TypeAlias = Literal["planner", "writer", "extractor", "chooser", "validator"]


class FailedStep(Frozen):
    """A step that ended an earlier plan, and the class of its error: never what a tool said."""

    step: StepId
    callee: str
    """`let` for a computed value."""
    error_class: ErrorClass


class StepResult(Frozen):
    """What a finished step gave, or the beginning of it."""

    step: str
    callee: str
    value: str


class PlannerView(Frozen):
    """What a planner is asked: a plan for the goal, over these callees."""

    goal: str
    callees: tuple[Callee, ...]
    named: tuple[Named, ...] = ()
    """Files and folders that the goal names, and whether each exists."""
    attachments: tuple[str, ...] = ()
    """Names of texts that came with the goal; a plan reads them as `$attachments.name`."""
    corrections: tuple[str, ...] = ()
    """What the principal said since, and which inputs are other ones now."""
    undoable: tuple[StepId, ...] = ()
    """Finished steps that the plan may take back."""
    done: tuple[Step, ...] = ()
    """Finished steps of the plan before, which a new plan may read but must not repeat."""
    failures: tuple[FailedStep, ...] = ()
    unmet: tuple[str, ...] = ()
    """Criteria that the outcome so far does not meet, in the principal's words."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with the last answers."""
    may_go_on: bool = False
    """Whether the plan may say `then: plan`: the planner is asked again with what its steps gave."""
    results: tuple[StepResult, ...] = ()
    """What finished steps gave, and attachments: words of outsiders, and there only where planners may see data."""
    revision: int = 1
    attempt: int = 1

    @field_serializer("callees")
    def _signatures(self, callees: tuple[Callee, ...]) -> list[str]:
        """One line each: the run's first event holds them whole."""
        return [signature(callee) for callee in callees]


class WriterView(Frozen):
    """What a writer is asked: a text."""

    task: str
    text: str = ""
    """What to work on; perhaps an outsider's words."""


class ExtractorView(Frozen):
    """What an extractor is asked: the value of each field, as the inputs have it."""

    inputs: str
    """What to look in; perhaps an outsider's words."""
    fields: Mapping[str, str]
    """The wanted type of each: `text`, `number`, `integer`, `boolean`, `email`, `list[text]`, ..."""
    task: str = ""


class ChooserView(Frozen):
    """What a chooser is asked: one of the options."""

    question: str
    options: tuple[str, ...]
    inputs: str
    """What to judge by; perhaps an outsider's words."""


class ValidatorView(Frozen):
    """What a validator is asked: whether the outcome meets the criterion."""

    goal: str
    criterion: str
    outcome: Json
    """The run's answer; perhaps an outsider's words."""


Asked: TypeAlias = PlannerView | WriterView | ExtractorView | ChooserView | ValidatorView

Given: TypeAlias = T | Awaitable[T]


class Roles(TypedDict, total=False):
    """The roles that code plays: `async` functions, or plain ones that answer at once.

    A planner gives a `Plan`, which is taken as it is, or an object or text that is read like a model's answer. An
    extractor gives every field, None where the inputs do not have it.
    """

    planner: Callable[[PlannerView], Given[Plan | Mapping[str, Json] | str]]
    writer: Callable[[WriterView], Given[str]]
    extractor: Callable[[ExtractorView], Given[Mapping[str, Json]]]
    chooser: Callable[[ChooserView], Given[str]]
    validator: Callable[[ValidatorView], Given[bool]]


TAKEN: Mapping[str, tuple[tuple[type, ...], str]] = {
    "planner": ((Plan, Mapping, str), "a `Plan`, an object or a text"),
    "writer": ((str,), "a text"),
    "extractor": ((Mapping,), "an object"),
    "chooser": ((str,), "a text"),
    "validator": ((bool,), "True or False"),
}
"""What each role gives: its Python types, and how an error calls them."""
