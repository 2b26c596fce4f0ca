"""The laws that are looked at when a run has ended."""

from __future__ import annotations

from itertools import combinations

from planner.core.events import PlanAccepted, Recorded, RunFinished
from planner.core.labels import Json
from planner.core.plan import own_path, place_in
from planner.core.run import Run
from planner.core.state import evolve
from planner.simulator.journal import Journal
from planner.simulator.laws import BrokenLawError
from planner.simulator.schedule import Schedule
from planner.simulator.world import REVERSIBLE, Deed, World, meets

THROUGH_JSON = 16
"""One of so many seeds reads its journal from JSON before it is folded again: that takes longer than the run."""


def check_end(schedule: Schedule) -> None:
    """Raises `BrokenLawError` for a law that the whole run broke."""
    _check_order(schedule)
    _check_journaled(schedule.world, schedule.journal)
    _check_fold(schedule)
    finished = schedule.run.finished
    assert finished is not None, "the schedule drove the run to its end"
    if finished.status == "cancelled":
        _check_cancelled(schedule.world, finished)
    _check_corrected(schedule)


def _check_order(schedule: Schedule) -> None:
    """Of two deeds on one thing the plan's first one happened first; a halt stands between all effects."""
    accepted = (recorded.event for recorded in schedule.journal.history)
    plans = {event.revision: event.plan for event in accepted if isinstance(event, PlanAccepted)}
    for a, b in combinations(schedule.world.deeds, 2):
        if a.revision != b.revision or not _conflict(a, b):
            continue
        place_a, place_b = (place_in(plans[deed.revision], own_path(deed.path)) for deed in (a, b))
        first, second = (a, b) if place_a <= place_b else (b, a)
        if place_a != place_b and first.ends >= second.begins:
            what = f"`{second.path}` ({second.callee}) came before `{first.path}` ({first.callee})"
            raise BrokenLawError("effects keep the order of the plan", what)


def _conflict(a: Deed, b: Deed) -> bool:
    is_halt = not a.key or not b.key
    is_change = (a.is_change and b.is_change) if is_halt else (a.is_change or b.is_change)
    return is_change and meets(a.touches, b.touches)


def _check_journaled(world: World, journal: Journal) -> None:
    """The journal knows of everything that happened, at least as something that nobody knows."""
    paths = {deed.key: deed.path for deed in world.deeds if deed.key and deed.is_change}
    is_child = {deed.key: deed.callee == "plan.goal" for deed in world.deeds}
    for key in world.happened & journal.known.keys():
        known = journal.known[key]
        own = key.removesuffix("-undo")
        if own not in paths or is_child[own]:
            continue
        if known not in {"succeeded", "started", "in doubt"}:
            what = f"`{paths[own]}` ({key[-5:]}) happened, but the journal says {known}"
            raise BrokenLawError("what happened is journaled", what)


def _check_fold(schedule: Schedule) -> None:
    run: Run | None = None
    history = schedule.journal.history
    if schedule.scenario.seed % THROUGH_JSON == 0:
        history = [Recorded.model_validate_json(recorded.model_dump_json()) for recorded in history]
        if history != schedule.journal.history:
            raise BrokenLawError("the journal alone gives the state", "an event reads differently from JSON")
    for recorded, known in zip(history, schedule.journal.states, strict=True):
        run = evolve(run, recorded)
        if run != known:
            what = f"at event {recorded.run_seq} the fold of the journal differs from the state"
            raise BrokenLawError("the journal alone gives the state", what)


def _check_cancelled(world: World, finished: RunFinished) -> None:
    """What stands is told to be left; what was taken back is told to be undone, or left where nobody knows."""
    left = {own_path(remainder.path) for remainder in finished.left}
    undone = {own_path(path) for path in finished.undone}
    standing = {own_path(deed.path): deed.callee for deed in world.standing.values()}
    for path, callee in standing.items():
        if path not in left:
            what = f"`{path}` ({callee}) stands, but only {sorted(left)} are told to be left"
            raise BrokenLawError("a cancelled run tells what is left", what)
        if path in undone - left and path not in world.reversed:
            raise BrokenLawError("a cancelled run tells what is left", f"`{path}` stands, and is told to be undone")
    for path in world.reversed:
        if path not in left | undone:
            raise BrokenLawError("a cancelled run tells what is left", f"`{path}` was taken back, and nobody says so")
    is_whole = not any(deed.callee in REVERSIBLE for deed in world.standing.values())
    if is_whole and any(world.boxes.values()):
        raise BrokenLawError("what can be taken back is", f"the boxes hold {world.boxes}, not what they began with")


def _check_corrected(schedule: Schedule) -> None:
    """An outcome is that of the inputs as they were last corrected."""
    run = schedule.run
    corrected: dict[str, Json] = {}
    for correction in run.corrections:
        corrected |= {**(correction.plan.inputs if correction.plan is not None else {}), **correction.inputs}
    is_outcome = run.finished is not None and run.finished.status in {"completed", "unverified"}
    inputs = run.plan.inputs if run.plan is not None else {}
    if is_outcome and any(inputs[key] != value for key, value in corrected.items()):
        raise BrokenLawError("a correction counts", f"the plan ended with {inputs}, corrected to {corrected}")


def check_same(schedule: Schedule, expected: Schedule) -> None:
    """Raises `BrokenLawError` if the end is not that of the plan step by step, with the inputs as last corrected."""
    if schedule.run.finished != expected.run.finished:
        what = f"it ends with {schedule.run.finished!r}, in order with {expected.run.finished!r}"
        raise BrokenLawError("any course gives one end", what)
    here, there = schedule.world.told(), expected.world.told()
    if here != there:
        raise BrokenLawError("any course gives one end", f"the world is {here}, in order {there}")
