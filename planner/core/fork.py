"""What a run begins with that goes on from an event of another one.

Rules of the file:
- A fork repeats nothing that the origin may still be doing, or may have done without knowing.
- A fork stands alone: what was under way in the origin is not its own, nor is the run that the origin is a part of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from planner.core.events import (
    BlobId,
    ContentKept,
    Event,
    PlanProposed,
    Recorded,
    RunFinished,
    RunForked,
    RunStarted,
    Usage,
)
from planner.core.plan import StepPath
from planner.core.run import Run, StepState, is_undecided
from planner.core.state import callee_at, evolve, fold
from planner.errors import JournalError


def forked(history: Sequence[Recorded], at_event: int, *, run_id: str, now: datetime) -> tuple[Recorded, ...]:
    """The events of run `run_id`, which goes on from event `at_event` of the run that `history` is.

    Copies keep their time, and get their `seq` from the store. An end at that point is left out. Raises
    `JournalError`: J-121 if there is no such event, J-122 if the run was cancelled by then, J-123 if an effect was
    under way or in doubt, or may have happened in an earlier attempt.
    """
    origin = fold(history)
    if not 1 <= at_event <= len(history):
        what = f"run `{origin.id}` has no event {at_event} to fork at"
        raise JournalError("J-121", what, hint=f"Its events are 1 to {len(history)}.", error_class="invalid")
    copied = list(history[:at_event])
    if isinstance(copied[-1].event, RunFinished):
        copied.pop()
    _check(fold(copied), copied, at_event)
    copies = [recorded.model_copy(update={"seq": 0, "run_id": run_id}) for recorded in copied]
    started = copies[0].event
    assert isinstance(started, RunStarted), "a history that folds begins with it"
    copies[0] = copies[0].model_copy(update={"event": started.model_copy(update={"parent": None})})
    event = RunForked(origin=origin.id, at_event=len(copies))
    return (*copies, Recorded(seq=0, run_id=run_id, run_seq=len(copies) + 1, at=now, event=event))


def _check(run: Run, copied: Sequence[Recorded], at_event: int) -> None:
    if run.is_cancelled:
        what = f"run `{run.id}` was cancelled by event {at_event}, and so a fork would be"
        raise JournalError("J-122", what, hint=_hint(copied), error_class="invalid")
    unknown = ", ".join(f"`{path}` ({callee_at(run, path)})" for path in unknown_effects(run))
    if unknown:
        what = f"event {at_event} of run `{run.id}` leaves open what becomes of {unknown}, which a fork might repeat"
        raise JournalError("J-123", what, hint=_hint(copied))


def _hint(copied: Sequence[Recorded]) -> str:
    """The last event before that a run can be forked at; the first one always is."""
    run: Run | None = None
    latest = 1
    for recorded in copied:
        run = evolve(run, recorded)
        if not run.is_cancelled and not unknown_effects(run):
            latest = recorded.run_seq
    return f"The last event to fork at before that is {latest}."


def unknown_effects(run: Run) -> tuple[StepPath, ...]:
    """The calls that change something, and are under way or may have happened without anybody knowing."""
    effects = {callee.name for callee in run.started.setup.callees if not callee.is_reading}
    found = (path for path, state in run.steps.items() if _is_unknown(state))
    return tuple(path for path in found if callee_at(run, path) in effects)


def _is_unknown(state: StepState) -> bool:
    match state.status:
        case "succeeded" | "skipped":
            return False
        case "started" | "parked" | "interrupted":
            return True
        case "in_doubt":
            return state.answer is None  # else a probe has told
        case "asked" if state.question == "happened":
            return True
        case "answered" if state.question == "happened" and state.answer == "yes":
            return False
        case _:  # the fork would make it under another key, so what an earlier attempt did counts too
            return state.is_unsure or is_undecided(state)


# blobs --------------------------------------------------------------------------------------------------------


def blob_ids(event: Event) -> tuple[BlobId, ...]:
    """The blobs that the event names; each run keeps its own, under ids of its own."""
    if isinstance(event, ContentKept):
        return (event.blob,) if event.blob is not None else ()
    return tuple(usage.exchange for usage in _usages(event) if usage.exchange is not None)


def with_blobs(event: Event, renamed: Mapping[BlobId, BlobId]) -> Event:
    """The event with other ids for its blobs; one that is not in `renamed` stays."""
    if isinstance(event, ContentKept):
        return event.model_copy(update={"blob": _renamed(event.blob, renamed)})
    if not blob_ids(event):
        return event
    usages = tuple(
        usage.model_copy(update={"exchange": _renamed(usage.exchange, renamed)}) for usage in _usages(event)
    )
    return event.model_copy(update={"usage": usages[0] if isinstance(event, PlanProposed) else usages})


def _renamed(id_: BlobId | None, renamed: Mapping[BlobId, BlobId]) -> BlobId | None:
    return None if id_ is None else renamed.get(id_, id_)


def _usages(event: Event) -> tuple[Usage, ...]:
    """What the event says that models used."""
    if isinstance(event, PlanProposed):
        return (event.usage,)
    usages: tuple[Usage, ...] = getattr(event, "usage", ())
    return usages
