"""Take effects back: one after the other, the last one first, each as durably as it was made.

Rules of the file:
- What takes a call back is a call of its own, at its own path (`s4~undo`), with the same retries, doubt and resume.
- What cannot be taken back, or of which nobody knows whether it happened, is told.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.core import attempts
from planner.core.catalog import Declaration
from planner.core.commands import Command, Record
from planner.core.correction import is_effect, is_lasting, is_unknown, lasting, undo_report
from planner.core.events import Remainder, RunFinished, UndoBegan
from planner.core.plan import Plan, StepPath, beside, place_of, role_of
from planner.core.run import DONE, Run, StepState, StepStatus, callee_of, in_flight, may_retry
from planner.core.values import View

OPEN: frozenset[StepStatus] = frozenset({"interrupted", "in_doubt", "answered"})
"""Where somebody may say whether a call happened, or just said so."""

WAITING: frozenset[StepStatus] = frozenset({"parked", "interrupted"})
"""A nested run in these has not ended."""


def next_one(run: Run) -> Iterator[Command] | None:
    """The commands for the first call that is still to be taken back; None if there is none."""
    for path in run.undoing:
        state = run.step(path)
        if state.status not in DONE or may_retry(attempts.UNDO_STEP, state):
            return attempts.go_on(View(run, run.plan or Plan()), attempts.UNDO_STEP, path, is_open=True)
    return None


def cancel(run: Run) -> Iterator[Command]:
    """No new steps; what is in doubt is found out about, what can be taken back is, and the rest is told."""
    undoing = next_one(run)
    if undoing is not None:
        yield from undoing
    elif in_flight(run):
        return
    elif doubts := [path for path, state in run.steps.items() if _may_be_known(run, path, state)]:
        view = View(run, run.plan or Plan())
        for path in doubts:
            yield from attempts.go_on(view, attempts.UNDO_STEP, path, is_open=False)
    else:
        paths = tuple(reversible(run))
        yield Record(UndoBegan(paths=paths)) if paths else Record(_cancelled(run))


def _cancelled(run: Run) -> RunFinished:
    undone, left = undo_report(run)
    lasts = tuple(
        Remainder(path=path, reason=lasting(state)) for path, state in run.steps.items() if is_lasting(run, path)
    )
    return RunFinished(status="cancelled", reason="cancelled on request", undone=undone, left=(*left, *lasts))


def _may_be_known(run: Run, path: StepPath, state: StepState) -> bool:
    """Whether somebody may say if the call happened; one that can be repeated can be taken back unasked."""
    callee = callee_of(run, path)
    if callee is None or callee.is_reading or role_of(path) == "undo":
        return False
    return state.status in OPEN and is_unknown(state) and callee.declaration.on_doubt != "idempotent"


def reversible(run: Run) -> list[StepPath]:
    """The calls that changed something and say how they are taken back, the last one first."""
    found: list[tuple[int, StepPath]] = []
    for path, state in run.steps.items():
        callee = callee_of(run, path)
        if callee is None or callee.declaration.undo is None or not is_lasting(run, path):
            continue
        if role_of(path) == "call" and is_effect(run, beside(path, "fallback")):
            continue  # a nested run that failed, and what was done in its place is taken back where it would be
        if callee.kind == "plan" or _is_ripe(callee.declaration, state):
            found.append((state.begun, path))
    return [path for _, path in sorted(found, reverse=True)]


def stranded(run: Run, *, is_over: bool) -> tuple[StepPath, ...]:
    """The nested runs that wait for something although nobody waits for them any more.

    They stand in blocks that have ended, or anywhere in a plan that `is_over`; left alone, they would go on some day.
    """
    waiting = [path for path, state in run.steps.items() if state.status in WAITING and role_of(path) != "undo"]
    nested = [path for path in waiting if (callee := callee_of(run, path)) is not None and callee.kind == "plan"]
    gone = {path for path in nested if is_over or _is_behind(run, path)}
    return tuple(path for path in reversible(run) if path in gone) if gone else ()


def _is_behind(run: Run, path: StepPath) -> bool:
    """Whether a block around has ended without it."""
    place = place_of(path)
    while place:
        if run.step(place).is_done:
            return True
        place = place_of(place)
    return False


def _is_ripe(declared: Declaration, state: StepState) -> bool:
    """Whether it is known to have happened, or harmless to take back if it did not."""
    return state.status == "succeeded" or (is_unknown(state) and declared.on_doubt == "idempotent")
