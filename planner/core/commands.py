"""What the core asks of the world: each command is performed once, by `engine`, and answered by events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from planner.core.check import Problem
from planner.core.events import Event
from planner.core.ledger import ONE_CALL, UNLIMITED, Amount, Budget
from planner.core.plan import StepPath


@dataclass(frozen=True, slots=True)
class AskPlanner:
    """Ask for a plan over these callees; `problems` are those of the last candidates."""

    revision: int
    attempt: int
    temperature: float
    callees: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    corrections: int = 0
    """How often the run was corrected so far; an answer to an older state of things does not count."""


@dataclass(frozen=True, slots=True)
class Call:
    """Call `callee`: `StepStarted` first, then the effect, then its outcome."""

    path: StepPath
    callee: str
    attempt: int
    key: str
    held: Amount = ONE_CALL
    is_cheaper: bool = False
    limits: Budget = UNLIMITED
    """What a nested run may use."""
    timeout_s: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the tool whether an effect in doubt happened."""

    path: StepPath
    callee: str


@dataclass(frozen=True, slots=True)
class AskHuman:
    """Put an open question to a person, if there is a way to one; about the `items` of a map all at once."""

    path: StepPath
    items: tuple[StepPath, ...] = ()

    @property
    def places(self) -> tuple[StepPath, ...]:
        """Where an answer is wanted."""
        return self.items or (self.path,)


@dataclass(frozen=True, slots=True)
class ScheduleRetry:
    """Draw a due time about `delay_s` seconds from now, and no less than `least_s`."""

    path: StepPath
    attempt: int
    delay_s: float
    least_s: float = 0.0
    """What the other side asked for."""


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Append `TimerFired` when `due` has come."""

    path: StepPath
    due: datetime


@dataclass(frozen=True, slots=True)
class AskValidator:
    """Ask a model that can judge about these criteria, as the run stands."""

    criteria: tuple[str, ...]
    revision: int = 1
    corrections: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """Append an event that follows from the rules alone."""

    event: Event


Command: TypeAlias = AskPlanner | Call | Probe | AskHuman | ScheduleRetry | StartTimer | AskValidator | Record
