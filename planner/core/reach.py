"""The calls that a plan can make: where each stands, what is called with what, and how often at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from planner.core.catalog import Callee, Catalogue
from planner.core.labels import Json
from planner.core.plan import Role, Step, stand_in


@dataclass(frozen=True, slots=True)
class Planned:
    """A call of a step, or the one in its place; `around` are the blocks that hold the step, the outermost first."""

    step: Step
    role: Role
    callee: Callee
    around: tuple[Step, ...] = ()

    @property
    def args(self) -> Mapping[str, Json]:
        """The arguments as the plan writes them."""
        return self.step.args

    @property
    def times(self) -> int:
        """How often the call is made at most, retries left out."""
        return prod(most_items(step) for step in (*self.around, self.step))


def planned(steps: tuple[Step, ...], catalogue: Catalogue, around: tuple[Step, ...] = ()) -> Iterator[Planned]:
    """Every call of these steps and of the blocks among them, in order, each before the one in its place."""
    for step in steps:
        if step.use is not None:
            yield Planned(step, "call", known(catalogue, step.use), around)
        other = stand_in(step)
        if other is not step and other.use is not None:
            # What stands in runs where the step does, as often as that.
            placed = other.model_copy(update={"for_each": step.for_each, "max_items": step.max_items})
            yield Planned(placed, "fallback", known(catalogue, other.use), around)
        yield from planned(step.inner, catalogue, (*around, step))


def known(catalogue: Catalogue, name: str) -> Callee:
    """The callee of that name; one that nobody declared is taken for the worst."""
    return catalogue.get(name) or Callee(name=name, summary="")


def most_items(step: Step) -> int:
    """How many items the step has at most: 1 if it is no map, fewer than `max_items` where the plan lists them."""
    match step.for_each:
        case None:
            return 1
        case list() as items:
            return min(len(items), step.max_items)
        case str() as text if "$" not in text:
            return min(sum(bool(line.strip()) for line in text.splitlines()), step.max_items)
        case _:
            return step.max_items
