"""Facts of a run's beginning, review and end."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from planner.core.catalog import Callee
from planner.core.events.shared import Fault, Usage
from planner.core.goal import Named
from planner.core.labels import TRUSTED, Frozen, Label, Labelled
from planner.core.plan import Plan, StepPath
from planner.core.policy import Policy, Principal
from planner.core.setup import Criterion, Parent, Setup

SEMANTICS = 1
"""The version of `decide`'s rules that new runs start with."""


Final: TypeAlias = Literal["completed", "unverified", "rejected", "denied", "failed", "cancelled", "over_budget"]


RunStatus: TypeAlias = Literal["running", "waiting", "paused", Final]


FINAL: frozenset[str] = frozenset(get_args(Final))


class Attachment(Frozen):
    """A text that came with a goal, and that an outsider may have written; a plan reads it as `$attachments.name`."""

    name: str
    text: str
    source: str = ""
    """What it was called where it came from."""


class RunStarted(Frozen):
    """A goal was accepted."""

    type: Literal["RunStarted"] = "RunStarted"
    goal: str
    principal: Principal
    setup: Setup
    named: tuple[Named, ...] = ()
    """What the goal's words name, looked up in the workspace."""
    criteria: tuple[Criterion, ...] = ()
    plan: Plan | None = None
    """A plan that came with the goal; then no planner is asked."""
    attachments: tuple[Attachment, ...] = ()
    parent: Parent | None = None
    goal_label: Label = TRUSTED
    """Of the goal's words, where a plan wrote them."""
    semantics: int = SEMANTICS


class RunResumed(Frozen):
    """Another process took over; whatever was under way then has no known outcome."""

    type: Literal["RunResumed"] = "RunResumed"
    owner: str
    policy: Policy | None = None
    """The rules now in force; None: they are the same."""
    callees: tuple[Callee, ...] = ()
    """Those of the run's callees that are others by now."""
    assistant_hash: str | None = None
    """The assistant's content; None: it is the same."""

    @property
    def is_changed(self) -> bool:
        """Whether the run goes on under other terms than those by which its calls were judged."""
        return self.policy is not None or bool(self.callees) or self.assistant_hash is not None


class ReviewPassed(Frozen):
    """Every criterion was decided and holds."""

    type: Literal["ReviewPassed"] = "ReviewPassed"
    criteria: tuple[str, ...]
    usage: tuple[Usage, ...] = ()


class ReviewFailed(Frozen):
    """At least one criterion does not hold."""

    type: Literal["ReviewFailed"] = "ReviewFailed"
    criteria: tuple[str, ...]
    usage: tuple[Usage, ...] = ()


class ReviewInconclusive(Frozen):
    """Nothing failed, but these criteria could not be decided, or there was none."""

    type: Literal["ReviewInconclusive"] = "ReviewInconclusive"
    criteria: tuple[str, ...] = ()
    usage: tuple[Usage, ...] = ()


class Remainder(Frozen):
    """An effect that was not taken back, and why."""

    path: StepPath
    reason: str


class RunFinished(Frozen):
    """The run has its final status."""

    type: Literal["RunFinished"] = "RunFinished"
    status: RunStatus
    result: Labelled = Labelled()
    reason: str = ""
    degraded: tuple[str, ...] = ()
    """What is missing because a part was skipped by failure; empty when nothing is."""
    fault: Fault | None = None
    undone: tuple[StepPath, ...] = ()
    """Effects that were taken back."""
    left: tuple[Remainder, ...] = ()
    """Effects that should have been taken back, but could not be."""
