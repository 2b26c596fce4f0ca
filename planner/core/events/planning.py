"""Facts of plans: proposed, refused, accepted, given up."""

from __future__ import annotations

from typing import Literal

from planner.core.check import Certificate, Problem
from planner.core.events.shared import Fault, Usage
from planner.core.labels import TRUSTED, Frozen, Label
from planner.core.plan import Plan


class PlanProposed(Frozen):
    """A planner answered; `plan` is None when the answer could not be read, and `problems` says why."""

    type: Literal["PlanProposed"] = "PlanProposed"
    revision: int
    attempt: int
    plan: Plan | None
    problems: tuple[Problem, ...] = ()
    usage: Usage = Usage()
    prompt_hash: str = ""
    label: Label = TRUSTED
    """Of all that the planner saw, and so of every constant of its plan."""


class PlannerFailed(Frozen):
    """No planner answer could be had at all: the model or the way to it failed."""

    type: Literal["PlannerFailed"] = "PlannerFailed"
    revision: int
    attempt: int
    fault: Fault
    usage: tuple[Usage, ...] = ()


class PlanRejected(Frozen):
    """The proposed plan has problems."""

    type: Literal["PlanRejected"] = "PlanRejected"
    revision: int
    attempt: int
    problems: tuple[Problem, ...]


class PlanAccepted(Frozen):
    """A plan passed the check, in the form that repairs gave it."""

    type: Literal["PlanAccepted"] = "PlanAccepted"
    revision: int
    plan: Plan
    certificate: Certificate


class PlanAbandoned(Frozen):
    """The accepted plan cannot reach the goal; finished steps stay, and a planner is asked for the rest."""

    type: Literal["PlanAbandoned"] = "PlanAbandoned"
    revision: int
    """The revision that begins."""
    reason: str
    is_next: bool = False
    """Whether the plan did what it was for, and the planner goes on from there."""
