"""Facts of steps and their calls."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from planner.core.events.shared import BlobId, Fault, Usage
from planner.core.labels import TRUSTED, Frozen, Label, Labelled
from planner.core.ledger import Amount
from planner.core.plan import StepPath
from planner.core.policy import Verdict


class StepResolved(Frozen):
    """A step's inputs are known: its arguments, or its `let` value, or the items of its map."""

    type: Literal["StepResolved"] = "StepResolved"
    path: StepPath
    arguments: Labelled = Labelled(value={})
    verdict: Verdict | None = None
    """The gate's decision; None where nothing is called."""


class StepJudged(Frozen):
    """The gate was asked again about a call that has not been made, or may be made again."""

    type: Literal["StepJudged"] = "StepJudged"
    path: StepPath
    verdict: Verdict


class MapResolved(Frozen):
    """The items of a `for_each` are known."""

    type: Literal["MapResolved"] = "MapResolved"
    path: StepPath
    items: Labelled


class BlockEntered(Frozen):
    """A step that holds steps of its own began, with one of its branches."""

    type: Literal["BlockEntered"] = "BlockEntered"
    path: StepPath
    branch: Literal["do", "else"] = "do"
    decided_by: Label = TRUSTED
    """The label of what decided that the block runs, those around it included."""


class StepStarted(Frozen):
    """A call is about to be made; committed durably before an effect."""

    type: Literal["StepStarted"] = "StepStarted"
    path: StepPath
    attempt: int
    key: str
    """The idempotency key: equal for all attempts of one step of one revision."""
    held: Amount = Amount()
    """What the call may use at most, until its outcome is known."""
    is_cheaper: bool = False
    """Whether the cheaper model plays the agent, because the budget is short."""


class ContentKept(Frozen):
    """What a call is about to overwrite was kept, so that it can be probed and undone."""

    type: Literal["ContentKept"] = "ContentKept"
    path: StepPath
    name: str
    blob: BlobId | None
    """None: there was nothing before."""


class StepSucceeded(Frozen):
    """A call returned, or a `let` was computed."""

    type: Literal["StepSucceeded"] = "StepSucceeded"
    path: StepPath
    value: Labelled
    usage: tuple[Usage, ...] = ()
    seconds: float = 0.0
    calls: int = 0
    """Calls of a nested run."""


class StepFailed(Frozen):
    """A call had no effect: it failed before, or the gate or a person refused it."""

    type: Literal["StepFailed"] = "StepFailed"
    path: StepPath
    fault: Fault
    attempt: int = 0
    usage: tuple[Usage, ...] = ()
    seconds: float = 0.0
    calls: int = 0
    decided_by: Label = TRUSTED
    """The label of what could not be computed."""


class StepInDoubt(Frozen):
    """Nobody knows whether the effect happened; `is_late` where that is because no answer came in time."""

    type: Literal["StepInDoubt"] = "StepInDoubt"
    path: StepPath
    reason: str
    is_late: bool = False


class StepProbed(Frozen):
    """A tool was asked whether an effect in doubt happened; None: it cannot tell."""

    type: Literal["StepProbed"] = "StepProbed"
    path: StepPath
    happened: bool | None


class StepSkipped(Frozen):
    """A step will not run: its condition was false, what it reads is missing, or there is no room for it."""

    type: Literal["StepSkipped"] = "StepSkipped"
    path: StepPath
    cause: Literal["condition", "failure", "budget"]
    decided_by: Label = TRUSTED
    """The label of what decided it."""


class RetryScheduled(Frozen):
    """A failed step will be tried again at `due`."""

    type: Literal["RetryScheduled"] = "RetryScheduled"
    path: StepPath
    attempt: int
    due: datetime


class StepParked(Frozen):
    """What a step called can itself only wait."""

    type: Literal["StepParked"] = "StepParked"
    path: StepPath


class StepNudged(Frozen):
    """What a parked step called can go on, or has ended."""

    type: Literal["StepNudged"] = "StepNudged"
    path: StepPath
    by: str = ""
