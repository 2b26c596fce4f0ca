"""What an event must find to be legal; where it does not, the run stays as it was."""

from __future__ import annotations

from planner.core.events import (
    Event,
)
from planner.core.run import (
    Phase,
    Run,
)
from planner.errors import JournalError


def require(event: Event, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raises `JournalError` J-204 unless it holds."""
    if not holds:
        raise JournalError("J-204", f"`{event.type}` is illegal: {otherwise}")


def expect(run: Run, phase: Phase, event: Event) -> None:
    """Raises `JournalError` J-204 unless the run is in that phase."""
    if run.phase != phase:
        raise JournalError("J-204", f"`{event.type}` is illegal while the run is {run.phase}")
