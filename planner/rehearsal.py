"""Runs that change nothing: what only looks is done, and what would change something is told instead of made.

Rules of the file:
- A rehearsal is known by its id, and so are its parts: whoever goes on with one goes on rehearsing.
- What stands in for a result says so in its own words, where its type has words.
- What would look at something that a rehearsed call would have changed is rehearsed too.
- Nobody is asked to allow what is not done, and nobody waits: the clock of a rehearsal jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from planner.cards import Answer, Approver, Card, Said
from planner.core import order
from planner.core.catalog import Callee, item_type
from planner.core.events import EventReceived, Recorded, WaitStarted
from planner.core.labels import Json
from planner.core.plan import StepPath, role_of
from planner.core.run import Run
from planner.core.state import callee_at
from planner.outside import Outside
from planner.tools import Toolbox, ToolContext

PREFIX = "dry-"
WHO = "rehearsal"
"""Who answers and sends events, as the record names it."""


def is_rehearsal(run_id: str) -> bool:
    """Whether the run changes nothing."""
    return run_id.startswith(PREFIX)


def rehearsal_id(run_id: str) -> str:
    """The id with which a new run is a rehearsal."""
    return run_id if is_rehearsal(run_id) else f"{PREFIX}{run_id}"


def is_rehearsed(run: Run, path: StepPath) -> bool:
    """Whether the call at `path` only says what it would do."""
    callee = run.started.setup.catalogue.get(callee_at(run, path))
    return is_rehearsal(run.id) and callee is not None and not callee.is_reading and callee.kind != "plan"


def rehearsed(run: Run) -> Iterator[StepPath]:
    """Where a rehearsal would have changed something, in the order in which it would."""
    begun = sorted((state.begun, path) for path, state in run.steps.items() if state.attempt)
    yield from (path for _, path in begun if is_rehearsed(run, path) and role_of(path) != "undo")


def outside(real: Outside, run: Run) -> Outside:
    """The world of a rehearsal: it can be looked at, and stays as it is."""
    clock = Clock(real.clock, ahead=max(timedelta(), run.at - real.clock()))
    stage = Stage(real.toolbox.tools)
    stage.touched.extend(_keys(run, path) for path in rehearsed(run))

    def observe(recorded: Recorded) -> None:
        clock.observe(recorded)
        if real.observe is not None:
            real.observe(recorded)

    asking = _asking(real.approver)
    return replace(real, toolbox=stage, approver=asking, approver_name=WHO, observe=observe, clock=clock, accounts={})


def _keys(run: Run, path: StepPath) -> order.Keys:
    given = run.step(path).arguments
    arguments = given.value if given is not None and isinstance(given.value, dict) else {}
    return order.keys(run.started.setup.catalogue[callee_at(run, path)], arguments)


# tools ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage(Toolbox):
    """Tools of which those that change something only say what they would give."""

    touched: list[order.Keys] = field(default_factory=list)
    """What the calls so far would have changed."""

    async def call(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> Json:
        """The tool's result, if it only looks at what is as it would be; else what stands in for it."""
        tool = self.tools.get(name)
        if tool is None:
            return await super().call(name, arguments, context)  # which says that there is none
        keys = order.keys(tool.callee, arguments)
        if not tool.callee.is_reading:
            self.touched.append(keys)
        elif tool.callee.declaration.effect == "pure" or not self._is_touched(keys):
            return await super().call(name, arguments, context)
        return stand_in(tool.callee, arguments)

    def _is_touched(self, keys: order.Keys) -> bool:
        return any(order.may_conflict(touched, keys) for touched in self.touched)

    async def probe(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> bool | None:  # noqa: ARG002
        """Nothing has happened, so what is probed has not."""
        return False

    async def undo(self, name: str, arguments: Mapping[str, Json], context: ToolContext) -> None:
        """Nothing has happened, so nothing is to be taken back."""


def stand_in(callee: Callee, arguments: Mapping[str, Json]) -> Json:
    """A value of the callee's result type: for a path the one it was given, for text words that say what it is."""
    given = [arguments.get(parameter.name) for parameter in callee.parameters if parameter.type == callee.result]
    if callee.result in {"path", "folder", "url"}:
        named = [value for value in given if isinstance(value, str)]
        if named:
            return named[-1]  # of `source` and `target`, the target
    return _of_type(callee.result, f"<what {callee.name} would give>")


def _of_type(type_: str, words: str) -> Json:
    match type_:
        case "number" | "integer":
            return 0
        case "boolean":
            return True
        case "record":
            return {}
        case "table":
            return []
        case _:
            item = item_type(type_)
            return [_of_type(item, words)] if item is not None else words


# people and time --------------------------------------------------------------------------------------------


def _asking(real: Approver | None) -> Approver:
    """Allows what is not done; a person is asked only about what would really look outside."""

    async def approve(card: Card) -> Answer:
        is_harmless = card.callee.kind == "gate" or not card.callee.is_reading
        match card.question:
            case "approve" if is_harmless:
                return "yes"
            case "answer":
                return Said(_said(card))
            case "happened":
                return "no"
            case "failed" if real is None:
                return "fail"
            case _:
                return await real(card) if real is not None else "no"

    return approve


def _said(card: Card) -> Json:
    """An answer that fits: the first of the choices, else a value of the wanted type."""
    given = card.arguments.value if isinstance(card.arguments.value, dict) else {}
    choices, wanted = given.get("choices"), str(given.get("type") or "text")
    if isinstance(choices, list) and choices:
        return choices[0]
    if wanted == "date":
        return "2000-01-01"
    return _of_type(wanted, f"<what the {card.role} would answer>")


class Clock:
    """The time of a rehearsal, which is ahead by what it did not wait for."""

    def __init__(self, real: Callable[[], datetime], *, ahead: timedelta) -> None:
        self._real = real
        self._ahead = ahead

    def __call__(self) -> datetime:
        """Now."""
        return self._real() + self._ahead

    def observe(self, recorded: Recorded) -> None:
        """Jumps to the end of a wait that has begun."""
        match recorded.event:
            case WaitStarted(name=None, seconds=seconds, until=until):
                due = until if seconds is None else recorded.at + timedelta(seconds=seconds)
                if due is not None:
                    self._ahead += max(timedelta(), due - self())
            case _:
                pass


def awaited(run: Run) -> Iterator[EventReceived]:
    """The events that a rehearsal waits for, with what they must bring."""
    for state in run.steps.values():
        if state.status == "waiting" and state.wanted is not None:
            name, fields = state.wanted
            yield EventReceived(name=name, data=dict(fields), by=WHO)
