"""The plan's type checker and its pre-flight certificate."""

from __future__ import annotations

from planner.core.labels import Frozen
from planner.core.plan import StepId


class Problem(Frozen):
    """One thing that is wrong with a plan, written so that a model can act on it."""

    code: str
    message: str
    step: StepId | None = None
    choices: tuple[str, ...] = ()


class Repair(Frozen):
    """One change the checker made to a plan; none touches what an effect means."""

    code: str
    message: str
    step: StepId | None = None


class Certificate(Frozen):
    """What a checked plan will do."""

    effects: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()
    advice: tuple[str, ...] = ()
