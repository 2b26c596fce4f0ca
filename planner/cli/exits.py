"""What a shell is told: one exit code per outcome."""

from __future__ import annotations

from collections.abc import Mapping

from planner.errors import JournalError, ModelError, PlanError, PlannerError, PolicyError, ToolError, UserError

EXITS: Mapping[str, int] = {
    "completed": 0,
    "unverified": 0,
    "planned": 0,
    "internal error": 1,
    "usage": 2,
    "rejected": 3,
    "denied": 4,
    "over_budget": 5,
    "failed": 6,
    "waiting": 7,
    "paused": 7,
    "running": 7,  # it was left open, and can be resumed
    "cancelled": 130,
}
"""By the status of a run, or by what kept it from starting."""


OUT_OF_PLACE = frozenset({"J-103", "J-121", "J-122", "J-123"})
"""What the journal refuses because it was asked for at the wrong time or place, and not because of a fault of its."""


def exit_of(error: PlannerError) -> int:
    """The code for an error that no run has taken in."""
    match error:
        case UserError() | PlanError():
            return EXITS["usage"]
        case JournalError() if error.code in OUT_OF_PLACE:
            return EXITS["usage"]
        case PolicyError():
            return EXITS["denied"]
        case ModelError() | ToolError():
            return EXITS["failed"]
        case _:
            return EXITS["internal error"]
