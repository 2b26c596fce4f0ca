"""Everything beyond the core that an engine needs, and what people are asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from planner.cards import Approver
from planner.core.commands import Call
from planner.core.events import Recorded
from planner.core.labels import TRUSTED, Label
from planner.core.ledger import Budget
from planner.core.redaction import NO_SECRETS, Redactor
from planner.core.run import Run
from planner.journal import Journal
from planner.llm.model import Model
from planner.prompts import Prompt
from planner.slots import Slots
from planner.tools import Toolbox

UNBEGUN = frozenset({"J-102", "J-201"})
"""There is no such run, or its process ended before it had a first event."""
GRACE_S = 5.0
"""How long calls under way may go on after a run was cancelled."""
PATIENCE_S = 60.0
"""A run that only waits for a later time than this is given up until somebody goes on with it."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a nested run is to do, and what it may."""

    goal: str
    allow: tuple[str, ...] = ("*",)
    """Names or patterns of the parent's callees that it may use."""
    is_looking: bool = False
    """Whether it may only look, and in return its planner sees what it finds."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Texts that it begins with."""
    label: Label = TRUSTED
    """Of the goal's words."""


class Nested(Protocol):
    """Runs that are steps of other runs."""

    async def run(self, parent: Run, command: Call, delegation: Delegation) -> Run:
        """The run of that step, begun or gone on with, until it ended or can only wait."""
        ...

    async def undo(self, run_id: str, *, by: str) -> Run:
        """The run, with everything that it did taken back, as far as that can be."""
        ...

    async def cancel(self, run_id: str, *, by: str) -> None:
        """Asks a run that is under way here to stop."""
        ...

    async def pause(self, run_id: str, *, by: str) -> None:
        """Has a run that is under way here begin nothing new, until `run` goes on with it."""
        ...


class Models(Protocol):
    """The models of an assistant by role."""

    def __call__(self, role: str, *, cheaper: bool = False) -> Awaitable[Model]:
        """The model that plays the role; starting a local one may take seconds. Raises `ModelError`."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything beyond the core that an engine needs."""

    journal: Journal
    toolbox: Toolbox
    model: Models
    prompt: Callable[[str], Prompt]
    workspace: Path
    nested: Nested | None = None
    approver: Approver | None = None
    approver_name: str = "approver"
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    redactor: Redactor = NO_SECRETS
    """Takes secrets out of what the run gets to know."""
    accounts: Mapping[str, Budget] = field(default_factory=dict)
    """The limits that several runs share, by day: `tenant:acme` becomes `tenant:acme/2026-11-20`."""
    slots: Slots = field(default_factory=Slots)
    observe: Callable[[Recorded], None] | None = None
    """Is told each event once it counts. What it raises stops the run, which can be resumed."""
    grace_s: float = GRACE_S
    patience_s: float = PATIENCE_S
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
