"""An agent runtime: a planner model turns a goal into a checked plan, and the plan runs durably.

The names below are the public interface, with the types of arguments in `planner.tools` and the views of roles in
`planner.roles`. Each is imported when it is first used, so that `import planner` and `planner --help` come at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.assistant import Assistant, run_sync
    from planner.builder import PlanBuilder
    from planner.cards import Approver, Card, Said
    from planner.core.events import Recorded
    from planner.core.labels import Integrity, Label, Labelled
    from planner.core.plan import Plan, Step
    from planner.core.policy import Policy, Principal
    from planner.core.rules import Rule
    from planner.errors import (
        JournalError,
        ModelError,
        PlanError,
        PlannerError,
        PolicyError,
        ToolError,
        UserError,
    )
    from planner.llm.model import ScriptedModel
    from planner.reading import Decision
    from planner.results import Result
    from planner.tools import Toolbox, ToolContext, tool

__all__ = [
    "Approver",
    "Assistant",
    "Card",
    "Decision",
    "Integrity",
    "JournalError",
    "Label",
    "Labelled",
    "ModelError",
    "Plan",
    "PlanBuilder",
    "PlanError",
    "PlannerError",
    "Policy",
    "PolicyError",
    "Principal",
    "Recorded",
    "Result",
    "Rule",
    "Said",
    "ScriptedModel",
    "Step",
    "ToolContext",
    "ToolError",
    "Toolbox",
    "UserError",
    "run_sync",
    "tool",
]

_HOMES = {
    "planner.assistant": ("Assistant", "run_sync"),
    "planner.core.events": ("Recorded",),
    "planner.core.labels": ("Integrity", "Label", "Labelled"),
    "planner.core.plan": ("Plan", "Step"),
    "planner.core.policy": ("Policy", "Principal"),
    "planner.core.rules": ("Rule",),
    "planner.builder": ("PlanBuilder",),
    "planner.cards": ("Approver", "Card", "Said"),
    "planner.errors": (
        "JournalError",
        "ModelError",
        "PlanError",
        "PlannerError",
        "PolicyError",
        "ToolError",
        "UserError",
    ),
    "planner.llm.model": ("ScriptedModel",),
    "planner.reading": ("Decision",),
    "planner.results": ("Result",),
    "planner.tools": ("ToolContext", "Toolbox", "tool"),
}

if not TYPE_CHECKING:  # a type checker is to know these names and no others

    def __getattr__(name: str) -> object:
        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
