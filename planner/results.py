"""How runs ended, as their callers read it."""

from __future__ import annotations

from dataclasses import dataclass

from planner.core.events import Fault, Remainder, RunFinished, RunStatus
from planner.core.labels import Json, Label, Labelled
from planner.core.run import Run


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended, or that it waits for a person.

    `cost_usd` is None when the price of a model call is unknown.
    """

    run_id: str
    status: RunStatus
    answer: Labelled
    """What the run gives, each leaf with its label."""
    reason: str
    fault: Fault | None
    degraded: tuple[str, ...]
    undone: tuple[str, ...]
    """The steps that were taken back."""
    left: tuple[Remainder, ...]
    """What should have been taken back but could not be, and why."""
    seconds: float
    """The time in which something was under way."""
    tokens: int
    cost_usd: float | None

    @property
    def value(self) -> Json:
        """The answer without its labels."""
        return self.answer.value

    @property
    def label(self) -> Label:
        """What is known of the answer as a whole: the join of its leaves' labels."""
        return self.answer.overall()

    @property
    def is_ok(self) -> bool:
        """Whether the goal was reached, as far as could be checked."""
        return self.status in {"completed", "unverified"}


def result_of(run: Run) -> Result:
    """What there is to say of a run."""
    finished = run.finished or RunFinished(status=run.status)
    return Result(
        run_id=run.id,
        status=run.status,
        answer=finished.result,
        reason=finished.reason,
        fault=finished.fault,
        degraded=finished.degraded,
        undone=finished.undone,
        left=finished.left,
        seconds=run.spent.seconds,
        tokens=run.spent.tokens,
        cost_usd=None if run.spent.unpriced else run.spent.cost_usd,
    )
