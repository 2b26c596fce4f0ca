"""The plan language: a typed dataflow graph that people write in YAML and models write in `wire` form.

Rules of the file:
- A step refers only to earlier steps, so a plan is acyclic by construction and can be checked while it is
  still being written.
- `$path` is a typed reference, `${expr}` an expression, `$$` a dollar sign; `if` is a bare expression.
  Substituted text is never parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import Field

from planner.core.expr import expression_names, names
from planner.core.labels import Frozen, Json

StepId: TypeAlias = str
StepPath: TypeAlias = str
"""Where a call happens: `s4`, or `s4[2]` for the third item of a map."""

MAX_STEPS = 60
MAX_ITEMS = 100


class OnError(Frozen):
    """What to do when a step fails without effect: try again `retry` times, then go on as `then` says."""

    retry: int = Field(default=0, ge=0, le=10)
    then: Literal["fail", "skip"] = "fail"


class Step(Frozen):
    """One node: a call (`use`) or a computed value (`let`), perhaps conditional or once per item."""

    id: StepId = Field(pattern=r"^[a-z][a-z0-9_]*$")
    use: str | None = None
    args: Mapping[str, Json] = Field(default_factory=dict)
    let: Json = None
    if_: str | None = Field(default=None, alias="if")
    for_each: Json = None
    as_: str = Field(default="item", alias="as", pattern=r"^[a-z][a-z0-9_]*$")
    max_items: int = Field(default=MAX_ITEMS, ge=1, le=10_000)
    on_item_error: Literal["fail", "drop"] = "fail"
    after: tuple[StepId, ...] = ()
    on_error: OnError = OnError()
    note: str = ""
    """Why the step is there; for readers only."""

    @property
    def is_map(self) -> bool:
        """Whether the step runs once per item."""
        return self.for_each is not None


class Plan(Frozen):
    """Steps in order, and the answer made from them; without `answer` the last step's value is the answer."""

    inputs: Mapping[str, Json] = Field(default_factory=dict)
    steps: tuple[Step, ...] = Field(default=(), max_length=MAX_STEPS)
    answer: Json = None

    def step(self, id_: StepId) -> Step | None:
        """The step of that id, if there is one."""
        return next((s for s in self.steps if s.id == id_), None)


def own_names(step: Step) -> frozenset[str]:
    """The names that only the items of this map can read."""
    return frozenset({step.as_, f"{step.as_}_i"}) if step.is_map else frozenset()


def reads(step: Step) -> frozenset[str]:
    """Every name that the step's inputs read, its own item names left out."""
    inside = names(dict(step.args)) | names(step.let)
    if step.if_ is not None:
        inside |= expression_names(step.if_)
    return (inside - own_names(step)) | names(step.for_each)


def is_tolerated(step: Step, path: StepPath) -> bool:
    """Whether the plan goes on without this step, or this item of it, when it fails."""
    return step.on_error.then == "skip" or (path != step.id and step.on_item_error == "drop")


def item_path(id_: StepId, index: int) -> StepPath:
    """The path of one item of a map."""
    return f"{id_}[{index}]"


def split_path(path: StepPath) -> tuple[StepId, int | None]:
    """The step id and, for an item of a map, its index."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(0|[1-9]\d*)\])?", path, re.ASCII)
    if match is None:
        raise ValueError(f"`{path}` is not a step path such as `s4` or `s4[2]`")
    return match[1], None if match[2] is None else int(match[2])
