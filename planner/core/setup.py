"""What a run is pinned to when it starts, so that folding its events needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field

from planner.core.catalog import Callee
from planner.core.labels import Frozen
from planner.core.ledger import Budget, Rate
from planner.core.plan import StepPath
from planner.core.policy import Policy


class Criterion(Frozen):
    """One thing that must hold for the run to be `completed`.

    `written`: the file of that name was written, and not with nothing. `expression`: it is true over the steps'
    values and `answer`. `text`: a model that can judge says so.
    """

    id: str
    kind: Literal["written", "expression", "text"]
    text: str
    is_conditional: bool = False
    """Whether the goal leaves open that it happens at all; then not happening leaves it undecided."""


class Shortage(Frozen):
    """What a run does without once the share `at` of a limit is used; nothing said: it ends at the limit."""

    at: float = Field(default=0.8, ge=0, le=1)
    cheaper: bool = False
    """Agents are played by the cheaper model, where one is configured."""
    items: int | None = Field(default=None, ge=1)
    """A map that only looks takes at most so many items."""
    partial: bool = False
    """At the limit, an answer is made from what is there."""


class Setup(Frozen):
    """Everything a run is pinned to, so that folding its events needs nothing else."""

    callees: tuple[Callee, ...]
    always: tuple[str, ...] = ()
    """Callees that a planner is always offered."""
    policy: Policy
    budget: Budget
    max_replans: int = 2
    max_turns: int = 10
    """How often a planner that sees what its steps gave may go on from there."""
    model: str = ""
    assistant_hash: str = ""
    offered_callees: int = 15
    can_judge: bool = False
    on_ask: Literal["prompt", "wait", "deny"] = "wait"
    rendering: Literal["grammar", "strict", "plain"] = "plain"
    workspace: str = ""
    agents: Mapping[str, Budget] = Field(default_factory=dict)
    """What the run's calls of one agent may use together, by the agent's callee name."""
    rates: Mapping[str, Rate] = Field(default_factory=dict)
    """The price of each role's model, for what is held before a call."""
    shortage: Shortage | None = None
    max_same_calls: int = 10
    """How often one callee may be called with the same arguments by different steps."""
    is_only_planned: bool = False
    """Whether the run is paused behind its first accepted plan, until somebody resumes it."""
    depth: int = 0
    """How many runs stand above this one."""

    @cached_property
    def catalogue(self) -> Mapping[str, Callee]:
        """The callees by name."""
        return {callee.name: callee for callee in self.callees}

    def offers(self, callee: Callee) -> bool:
        """Whether a planner may be offered it: a small model under a grammar plans with tools and agents alone."""
        return self.rendering != "grammar" or callee.kind in {"tool", "agent"} or callee.name.startswith("agent.")


class Parent(Frozen):
    """The step of another run that this run is a part of."""

    run_id: str
    path: StepPath
