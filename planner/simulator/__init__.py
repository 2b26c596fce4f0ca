"""Try the core against a world that is late, loses, repeats and crashes: one seed is one plan, world and schedule."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from random import Random

from planner.core.correction import with_inputs
from planner.core.events import RunStatus
from planner.errors import PlannerError
from planner.simulator.checks import check_end, check_same
from planner.simulator.laws import BrokenLawError, Law, told
from planner.simulator.scenarios import scenario
from planner.simulator.schedule import Schedule

__all__ = ["Divergence", "Outcome", "simulate", "simulate_many"]

CHUNK = 50
"""Seeds that a process is given at once."""
FAULTS = (
    PlannerError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a mistake in the core raises."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A law that does not hold, with the seed, the plan and the last events in words."""

    law: Law
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    status: RunStatus
    events: int
    crashes: int
    divergence: Divergence | None = None


def simulate(seed: int) -> Outcome:
    """Runs the scenario of a seed, and says which law broke, if one did."""
    drawn = scenario(seed)
    schedule = Schedule(drawn, Random(seed + 1))  # noqa: S311 - it chooses tests, not secrets
    broken = _broken(schedule, None)
    if drawn.is_calm and broken is None and not schedule.world.is_seen_again():
        inputs = {key: value for one in schedule.run.corrections for key, value in one.inputs.items()}
        in_order = replace(drawn, plan=with_inputs(drawn.plan, inputs))
        expected = Schedule(in_order, None)
        broken = _broken(expected, None) or _broken(schedule, expected)
    return broken or _outcome(schedule)


def simulate_many(seeds: Iterable[int], *, processes: int = 1) -> tuple[Outcome, ...]:
    """What became of each seed, in their order."""
    if processes == 1:
        return tuple(map(simulate, seeds))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return tuple(pool.map(simulate, seeds, chunksize=CHUNK))


def _broken(schedule: Schedule, expected: Schedule | None) -> Outcome | None:
    """What is wrong with a course, or with its end as against the one in order."""
    try:
        if expected is not None:
            check_same(schedule, expected)
        else:
            schedule.drive()
            check_end(schedule)
    except BrokenLawError as error:
        return _outcome(schedule, error.law, error.what)
    except FAULTS as error:
        return _outcome(schedule, "the core does not fail", f"{type(error).__name__}: {error}")
    return None


def _outcome(schedule: Schedule, law: Law | None = None, what: str = "") -> Outcome:
    run, history = schedule.run, schedule.journal.history
    divergence = None
    if law is not None:
        plan = schedule.scenario.plan.model_dump_json(exclude_defaults=True, by_alias=True)
        divergence = Divergence(law, told(schedule.scenario.seed, plan, history, f"{law}: {what}"))
    return Outcome(schedule.scenario.seed, run.status, len(history), schedule.crashes, divergence)
