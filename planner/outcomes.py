"""What became of a call, as the events of its run say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.core.attest import attest
from planner.core.catalog import Callee
from planner.core.circuit import tells
from planner.core.commands import Call
from planner.core.decide import TIME_IS_UP
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    MapResolved,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    StepFailed,
    StepInDoubt,
    StepParked,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    Usage,
)
from planner.core.labels import Labelled
from planner.core.ledger import NOTHING, Amount, rest
from planner.core.plan import role_of
from planner.core.run import Run
from planner.core.state import callee_at
from planner.errors import PlannerError


def started(command: Call) -> StepStarted:
    """The intent of a call."""
    return StepStarted(
        path=command.path,
        attempt=command.attempt,
        key=command.key,
        held=command.held,
        is_cheaper=command.is_cheaper,
    )


def child_id(run: Run, key: str) -> str:
    """The id of the nested run that a step with that key is: equal for all attempts, and for taking it back."""
    return f"{run.id}.{key[:8]}"


def ended(child: Run, command: Call, callee: Callee, given: Labelled) -> StepSucceeded | StepFailed | StepParked:
    """What a nested run is for the step that it is: what it gives is worth no more than the callee declares."""
    if child.finished is None:
        return StepParked(path=command.path)
    cost_usd = None if child.spent.unpriced else child.spent.cost_usd
    usage = (Usage(output_tokens=child.spent.tokens, cost_usd=cost_usd, model=f"run {child.id}"),)
    calls = child.spent.calls
    is_undo = role_of(command.path) == "undo"
    if is_undo and child.status == "cancelled" and not child.finished.left:
        return StepSucceeded(path=command.path, value=Labelled())
    if not is_undo and child.status in {"completed", "unverified"}:
        result, told = child.finished.result, attest(callee, given, child.finished.result.value, path=command.path)
        value = Labelled(value=result.value, label=told.overall().joined(result.overall()))
        return StepSucceeded(path=command.path, value=value, usage=usage, calls=calls)
    left = ", ".join(f"{one.path}: {one.reason}" for one in child.finished.left)
    what = f"run {child.id} ended as {child.status}: {child.finished.reason or left}"
    fault = Fault(code="A-110", error_class="denied" if child.status == "denied" else "invalid", message=what)
    return StepFailed(path=command.path, fault=fault, attempt=command.attempt, usage=usage, calls=calls)


def used(usage: Sequence[Usage], held: Amount) -> Amount:
    """What a call used: what models say, else its price; unknown where the price of one answer is."""
    if not usage and not held.tokens:
        return held
    costs = [one.cost_usd for one in usage]
    known = sum(cost for cost in costs if cost is not None)
    tokens = sum(one.input_tokens + one.output_tokens for one in usage)
    return Amount(cost_usd=None if None in costs else known, tokens=tokens, calls=held.calls)


def fault_of(error: PlannerError) -> Fault:
    """What went wrong: a class that rules may read, and a text that only people may."""
    return Fault(
        code=error.code,
        error_class=error.error_class,
        message=words(error.message),
        choices=error.choices,
        retry_after_s=error.retry_after_s,
    )


def words(said: object) -> str:
    """What an error says, as text that the journal can hold: the name of a file may be no valid Unicode."""
    return str(said).encode(errors="replace").decode()


def time_s(run: Run, command: Call, callee: Callee) -> float | None:
    """How long the call may take; the run's own limit cuts none short that changes something."""
    left_s = rest(run.started.setup.budget, run.spent, NOTHING).seconds if callee.is_reading else None
    return min((limit for limit in (command.timeout_s, left_s) if limit is not None), default=None)


def late(command: Call, callee: Callee, limit_s: float | None) -> StepFailed | StepInDoubt:
    """A call that did not end in its time: what only looks has failed, of an effect nobody knows.

    What a model used for it nobody knows either, so that all that was held counts.
    """
    what = f"`{callee.name}` did not end within {limit_s} s"
    if not callee.is_reading:
        return StepInDoubt(path=command.path, reason=what, is_late=True)
    fault = Fault(code="T-298", error_class="unavailable", message=what)
    if limit_s != command.timeout_s:
        message = f"`{callee.name}` was cut short: the run may take no longer"
        fault = Fault(code=TIME_IS_UP, error_class="limit", message=message)
    held = command.held
    usage = (Usage(output_tokens=held.tokens, cost_usd=held.cost_usd),) if held.tokens else ()
    return StepFailed(path=command.path, fault=fault, attempt=command.attempt, usage=usage)


def reviewed(
    opinions: Mapping[str, bool | None], usage: tuple[Usage, ...]
) -> ReviewPassed | ReviewFailed | ReviewInconclusive:
    """What comes of what is held of each criterion: that it is met or not, or None where nobody could say."""
    unmet = tuple(id_ for id_, is_met in opinions.items() if is_met is False)
    unknown = tuple(id_ for id_, is_met in opinions.items() if is_met is None)
    if unmet:
        return ReviewFailed(criteria=unmet, usage=usage)
    if unknown:
        return ReviewInconclusive(criteria=unknown, usage=usage)
    return ReviewPassed(criteria=tuple(opinions), usage=usage)


def is_up(outcome: StepSucceeded | StepFailed | StepInDoubt | StepParked) -> bool | None:
    """Whether an outcome says that the other side is there; None if it says nothing of that."""
    match outcome:
        case StepSucceeded():
            return True
        case StepFailed():
            return tells(outcome.fault.error_class)
        case StepInDoubt(is_late=True):
            return False
        case _:
            return None


def is_vital(run: Run, event: Event) -> bool:
    """Whether losing the event in a power cut could repeat or lose an effect; those of reads could not."""
    match event:
        case StepResolved() | MapResolved() | StepSkipped() | BlockEntered():
            return False
        case StepStarted() | StepSucceeded() | StepFailed():
            callee = run.started.setup.catalogue.get(callee_at(run, event.path))
            return callee is not None and not callee.is_reading
        case _:
            return True
