"""The plan language: a typed dataflow graph that people write in YAML and models write in `wire` form.

Rules of the file:
- A step refers only to earlier steps, so a plan is acyclic by construction and can be checked while it is
  still being written.
- `$path` is a typed reference, `${expr}` an expression, `$$` a dollar sign; `if` is a bare expression.
  Substituted text is never parsed again.
- An id names one step of the whole plan, blocks included. A path says where that step runs: `s4`, `s4[2]` for an
  item of a map, `s4[2]/t1` inside a block, and behind `~` what stands in for a call or takes it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from planner.core.expr import expression_names, names
from planner.core.labels import Frozen, Json
from planner.core.ledger import Budget

StepId: TypeAlias = str
StepPath: TypeAlias = str
"""Where a call happens: `s4`, `s4[2]` for the third item of a map, `s4[2]/t1` in a block, `s4~undo`."""
Role: TypeAlias = Literal["call", "fallback", "undo"]
"""What a path stands for: the step's own call, the one in its place, or the one that takes it back."""

GIVEN = frozenset({"inputs", "attachments"})
"""Names that stand for what comes with a plan, and for no step of it."""
MAX_STEPS = 500
"""Steps of a plan, those in blocks included: what one check and one certificate can still be read for."""
MAX_ITEMS = 100
MAX_DEPTH = 5
"""Blocks inside blocks."""


class Fallback(Frozen):
    """What is called in the place of a step that failed; without `args` it gets those of the step."""

    use: str
    args: Mapping[str, Json] | None = None


class OnError(Frozen):
    """What to do when a step fails without effect: try again `retry` times, then go on as `then` says.

    `skip`: go on without its value. `ask`: a person says whether to retry, skip or fail. `fallback`: another callee.
    """

    retry: int = Field(default=0, ge=0, le=10)
    then: Literal["fail", "skip", "ask", "fallback"] = "fail"
    fallback: Fallback | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, given: object) -> object:
        """`then: fallback web.mirror`, and `fallback:` alone, say the same as the long form."""
        if not isinstance(given, dict):
            return given
        fields: dict[str, object] = dict(given)
        match re.fullmatch(r"fallback\s+(\S+)", str(fields.get("then", ""))):
            case re.Match() as match:
                fields |= {"then": "fallback", "fallback": {"use": match[1]}}
            case _ if fields.get("fallback") is not None:
                fields.setdefault("then", "fallback")
        if isinstance(fields.get("fallback"), str):
            fields["fallback"] = {"use": fields["fallback"]}
        return fields

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.then == "fallback") != (self.fallback is not None):
            raise ValueError("`then: fallback` and the callee to fall back to belong together")
        return self


class Step(Frozen):
    """One node: a call (`use`), a computed value (`let`) or a block (`do`), perhaps conditional or once per item."""

    id: StepId = Field(pattern=r"^[a-z][a-z0-9_]*$")
    use: str | None = None
    args: Mapping[str, Json] = Field(default_factory=dict)
    let: Json = None
    do: tuple[Step, ...] = ()
    else_: tuple[Step, ...] = Field(default=(), alias="else")
    answer: Json = None
    """A block's value; without it, that of the last of its steps that has one."""
    if_: str | None = Field(default=None, alias="if")
    for_each: Json = None
    as_: str = Field(default="item", alias="as", pattern=r"^[a-z][a-z0-9_]*$")
    max_items: int = Field(default=MAX_ITEMS, ge=1, le=10_000)
    on_item_error: Literal["fail", "drop"] = "fail"
    after: tuple[StepId, ...] = ()
    on_error: OnError = OnError()
    timeout_s: float | None = Field(default=None, gt=0)
    """How long a call may take, or a wait or a question may last, from its start."""
    priority: int = Field(default=0, ge=-9, le=9)
    """Which of several calls gets the next free place: the larger one."""
    budget: Budget | None = None
    """What the step may use, all its items and attempts together."""
    note: str = ""
    """Why the step is there; for readers only."""

    @property
    def is_map(self) -> bool:
        """Whether the step runs once per item."""
        return self.for_each is not None

    @property
    def is_block(self) -> bool:
        """Whether the step holds steps of its own."""
        return bool(self.do)

    @cached_property
    def sources(self) -> frozenset[str]:
        """See `reads`; kept, for it is asked at every event."""
        return _sources(self, self.on_error.fallback)

    @cached_property
    def needs(self) -> frozenset[str]:
        """See `opening`."""
        if not self.is_block:
            return _sources(self, None)
        deciding = expression_names(self.if_) if self.if_ is not None else frozenset()
        return (deciding - own_names(self)) | names(self.for_each)

    @property
    def inner(self) -> tuple[Step, ...]:
        """The steps of a block, those of both branches."""
        return (*self.do, *self.else_)


class Plan(Frozen):
    """Steps in order, and the answer made from them; without `answer` the last step's value is the answer."""

    inputs: Mapping[str, Json] = Field(default_factory=dict)
    steps: tuple[Step, ...] = Field(default=(), max_length=MAX_STEPS)
    answer: Json = None
    undo: tuple[StepId, ...] = ()
    """Finished steps of the plan before this one whose effects are to be taken back."""
    then: Literal["done", "plan"] = "done"
    """What comes after the last step: the end, or, where planners may see data, a plan for what is left."""

    @cached_property
    def index(self) -> Mapping[StepId, Step]:
        """Every step by its id, those in blocks included."""
        return {step.id: step for step in every_step(self.steps)}

    def step(self, id_: StepId) -> Step | None:
        """The step of that id, if there is one."""
        return self.index.get(id_)

    def at(self, path: StepPath) -> Step:
        """The step as it runs at `path`. Raises `KeyError` or `ValueError` if none does."""
        step = self.index[split_path(path)[0]]
        return stand_in(step) if role_of(path) == "fallback" else step


def every_step(steps: tuple[Step, ...]) -> Iterator[Step]:
    """The steps and those of their blocks, each block before what it holds."""
    for step in steps:
        yield step
        yield from every_step(step.inner)


def own_names(step: Step) -> frozenset[str]:
    """The names that only the items of this map can read."""
    return frozenset({step.as_, f"{step.as_}_i"}) if step.is_map else frozenset()


def reads(step: Step) -> frozenset[str]:
    """Every name that the step's inputs read from around it; its own item names and inner steps are left out."""
    return step.sources


def opening(step: Step) -> frozenset[str]:
    """The names without which a step cannot begin: a block needs what decides on it, anything else all it reads."""
    return step.needs


def _sources(step: Step, fallback: Fallback | None) -> frozenset[str]:
    inside = names(dict(step.args)) | names(step.let) | names(step.answer)
    if step.if_ is not None:
        inside |= expression_names(step.if_)
    if fallback is not None:
        inside |= names(dict(fallback.args or {}))
    for held in step.inner:
        inside |= reads(held) | frozenset(held.after)
    return (inside - own_names(step) - {held.id for held in step.inner}) | names(step.for_each)


def stand_in(step: Step) -> Step:
    """The call in the place of one that failed for good; one that has none stands for itself."""
    fallback = step.on_error.fallback
    if fallback is None:
        return step
    args = step.args if fallback.args is None else fallback.args
    return Step(id=step.id, use=fallback.use, args=args, timeout_s=step.timeout_s, priority=step.priority)


def is_tolerated(step: Step, path: StepPath) -> bool:
    """Whether the plan goes on without this step, or this item of it, when it fails."""
    return step.on_error.then == "skip" or (split_path(path)[1] is not None and step.on_item_error == "drop")


# paths ------------------------------------------------------------------------------------------------------

_PATH = re.compile(r"(?:(.*)/)?([^\[\]/~]+)(?:\[(0|[1-9][0-9]*)\])?(?:~(fallback|undo))?", re.DOTALL)


@lru_cache(maxsize=4096)
def _matched(path: StepPath) -> re.Match[str]:
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"`{path}` is not a step path such as `s4`, `s4[2]` or `s4[2]/t1`")
    return match


def split_path(path: StepPath) -> tuple[StepId, int | None]:
    """The id of the step that runs there and, for an item of a map, its index."""
    match = _matched(path)
    return match[2], None if match[3] is None else int(match[3])


def root_of(path: StepPath) -> StepId:
    """The id of the step of the plan itself that this belongs to."""
    return split_path(path.partition("/")[0])[0]


def place_of(path: StepPath) -> StepPath:
    """The path of the block around it; empty for a step of the plan itself."""
    return _matched(path)[1] or ""


def role_of(path: StepPath) -> Role:
    """What the path stands for."""
    match _matched(path)[4]:
        case "fallback":
            return "fallback"
        case "undo":
            return "undo"
        case _:
            return "call"


def own_path(path: StepPath) -> StepPath:
    """The path of the call that this one stands in for, or takes back."""
    return path.partition("~")[0]


def beside(path: StepPath, role: Role) -> StepPath:
    """The path of the call in the place of the one at `path`, or of the one that takes it back."""
    return f"{path}~{role}"


def item_path(path: StepPath, index: int) -> StepPath:
    """The path of one item of the map at `path`."""
    return f"{path}[{index}]"


def inner_path(place: StepPath, id_: StepId) -> StepPath:
    """The path of a step inside the block at `place`, which is empty for the plan itself."""
    return f"{place}/{id_}" if place else id_


def map_path(path: StepPath) -> StepPath:
    """The path of the map that an item belongs to; of anything else, the path itself."""
    own = own_path(path)
    return own[: own.rindex("[")] if own.endswith("]") else own


def place_in(plan: Plan, path: StepPath) -> tuple[int, ...]:
    """Where a path stands in its plan: the place of each step on the way, and its item."""
    places = {id_: place for place, id_ in enumerate(plan.index)}
    ways = (split_path(part) for part in path.split("/"))
    return tuple(number for id_, index in ways for number in (places.get(id_, -1), -1 if index is None else index))
