"""When to leave a callee or a model alone that failed again and again, and when to try it once more.

Rules of the file:
- Closed, every call is let through. Too many failures in a row open the circuit: no call is let through for a
  while. Then it is half open: one call is let through on trial, and its outcome closes or opens the circuit.
- `permits` is asked before a call, `begun` notes that it was made, and `after` what came of it.
- Times are seconds of one clock that never goes back. After Nygard, Release It!, 2nd edition, 2018, chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import ErrorClass

FAILURES = 5
"""In a row. The pattern leaves the number open: fewer are an accident, and each may stand for several tries."""
FIRST_REST_S = 30.0
"""About what a service takes to start again; a guess, and the doubling corrects it."""
LONGEST_REST_S = 600.0
"""Doubling ends here, so that a callee that is back is found within ten minutes."""
TRIAL_S = 5.0
"""What is said to those who ask while a trial is under way: a guess at when it ends."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of one callee: closed at first."""

    failures: int = 0
    """In a row."""
    opened_at: float | None = None
    """When it opened last; None: it is closed."""
    rest_s: float = 0.0
    """How long nothing is let through from then on."""
    is_trying: bool = False
    """Whether a trial is under way."""


def permits(circuit: Circuit, now: float) -> Literal[True] | float:
    """True if a call may be made; with an open circuit it is the trial. Else the seconds until it is worth asking.

    These are true as a condition too, so compare: `permits(circuit, now) is True`.
    """
    if circuit.opened_at is None:
        return True
    if circuit.is_trying:
        return TRIAL_S
    rest_s = circuit.opened_at + circuit.rest_s - now
    return True if rest_s <= 0 else rest_s


def begun(circuit: Circuit) -> Circuit:
    """The circuit once a call was made that it permitted."""
    return circuit if circuit.opened_at is None else replace(circuit, is_trying=True)


def after(circuit: Circuit, now: float, *, ok: bool | None) -> Circuit:
    """The circuit once the outcome of a call is known; `ok` is None where it says nothing about the callee.

    An open circuit that tries nothing is left as it is by the late failure of a call from before.
    """
    if ok is None:
        return replace(circuit, is_trying=False)
    if ok:
        return Circuit()
    failures = circuit.failures + 1
    if circuit.opened_at is None:
        is_open = failures >= FAILURES
        return Circuit(failures, opened_at=now, rest_s=FIRST_REST_S) if is_open else Circuit(failures)
    if not circuit.is_trying:
        return circuit
    return Circuit(failures, opened_at=now, rest_s=min(2 * circuit.rest_s, LONGEST_REST_S))


def tells(error_class: ErrorClass | None) -> bool | None:
    """What an outcome says about the callee, as `after` takes it; None stands for a call without an error.

    A callee that refuses is there, but so may be one that was never asked: nothing is said about it.
    """
    if error_class is None:
        return True
    return False if error_class == "unavailable" else None
