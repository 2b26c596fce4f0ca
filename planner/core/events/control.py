"""Facts of a run as a whole that come from outside its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from planner.core.events.shared import Usage
from planner.core.labels import Frozen, Json
from planner.core.plan import Plan, StepPath


class CancelRequested(Frozen):
    """Somebody asked for the run to stop."""

    type: Literal["CancelRequested"] = "CancelRequested"
    by: str


class PauseRequested(Frozen):
    """Somebody wants nothing new to start for now."""

    type: Literal["PauseRequested"] = "PauseRequested"
    by: str


class PauseLifted(Frozen):
    """Somebody wants the run to go on."""

    type: Literal["PauseLifted"] = "PauseLifted"
    by: str


class Steered(Frozen):
    """Somebody corrected the run: in words, with changed inputs, or with a plan for the rest."""

    type: Literal["Steered"] = "Steered"
    by: str
    text: str = ""
    inputs: Mapping[str, Json] = Field(default_factory=dict)
    plan: Plan | None = None


class UndoRequested(Frozen):
    """Somebody wants what a finished run did to be taken back."""

    type: Literal["UndoRequested"] = "UndoRequested"
    by: str


class UndoBegan(Frozen):
    """These calls are taken back, one after the other, before anything else happens."""

    type: Literal["UndoBegan"] = "UndoBegan"
    paths: tuple[StepPath, ...]


class AnswerDropped(Frozen):
    """A model answered what nobody waits for any more: only what that used counts."""

    type: Literal["AnswerDropped"] = "AnswerDropped"
    usage: tuple[Usage, ...] = ()


class BudgetRefused(Frozen):
    """An account that several runs share has no room for a call."""

    type: Literal["BudgetRefused"] = "BudgetRefused"
    account: str
    reason: str


class RunForked(Frozen):
    """The events before this one are copies of another run's; what happens from here on is this run's own."""

    type: Literal["RunForked"] = "RunForked"
    origin: str
    at_event: int
