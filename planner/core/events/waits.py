"""Facts of waiting, for a time or for an event from outside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from planner.core.labels import Frozen, Json
from planner.core.plan import StepPath


class TimerFired(Frozen):
    """The time for which a step waited has come."""

    type: Literal["TimerFired"] = "TimerFired"
    path: StepPath


class WaitStarted(Frozen):
    """A step waits for a time, or for an event from outside; `seconds` count from here."""

    type: Literal["WaitStarted"] = "WaitStarted"
    path: StepPath
    until: datetime | None = None
    seconds: float | None = None
    name: str | None = None
    """Of the event; None: the step waits for the time alone."""
    match: Mapping[str, Json] = Field(default_factory=dict)
    """Fields that the event's data must have."""


class EventReceived(Frozen):
    """Somebody told the run that something happened; the first step that waits for it takes it."""

    type: Literal["EventReceived"] = "EventReceived"
    name: str
    data: Json = None
    by: str = ""


class WaitEnded(Frozen):
    """A waiting step took an event."""

    type: Literal["WaitEnded"] = "WaitEnded"
    path: StepPath
    received: int
    """The `run_seq` of the event."""
