"""What happens to a run as a whole: taken over, paused, corrected, cancelled, taken back."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from planner.core.correction import corrected_by, corrected_plan, undo_report
from planner.core.events import (
    AnswerDropped,
    BudgetRefused,
    CancelRequested,
    EventReceived,
    PauseLifted,
    PauseRequested,
    RunForked,
    RunResumed,
    Steered,
    UndoBegan,
    UndoRequested,
)
from planner.core.labels import TRUSTED, UNTRUSTED
from planner.core.moves import resumed
from planner.core.plan import (
    StepPath,
    beside,
    own_path,
    role_of,
)
from planner.core.run import (
    Run,
    StepState,
    callee_at,
    callee_of,
    is_effect,
    is_taken_back,
    replace,
    undo_key,
    undo_path,
)
from planner.core.state.legal import require
from planner.core.state.usage import with_lost

Directive: TypeAlias = (
    RunResumed
    | CancelRequested
    | PauseRequested
    | PauseLifted
    | Steered
    | UndoRequested
    | UndoBegan
    | AnswerDropped
    | BudgetRefused
    | EventReceived
    | RunForked
)


def directed(run: Run, event: Directive) -> Run:  # noqa: C901, PLR0911 - one flat case per event kind
    """The run after something happened to it as a whole."""
    match event:
        case RunResumed():
            for path in [path for path, state in run.steps.items() if state.status == "started"]:
                run = with_lost(run, path)
            return _under_present_terms(_interrupted(run), event)
        case CancelRequested():
            return replace(run, is_cancelled=True, is_paused=False)
        case PauseRequested():
            require(event, not run.is_paused and not run.is_cancelled, "the run is paused or cancelled already")
            return replace(run, is_paused=True)
        case PauseLifted():
            require(event, run.is_paused, "the run is not paused")
            return replace(run, is_paused=False)
        case Steered():
            return _steered(run, event)
        case UndoRequested():
            require(event, run.finished is not None, "the run has not finished; it can be cancelled")
            require(event, not run.is_cancelled, "what the run did was taken back already")
            return replace(run, phase="executing", finished=None, is_cancelled=True)
        case UndoBegan():
            return _undoing(run, event)
        case AnswerDropped():
            return run
        case BudgetRefused():
            return replace(run, refused=f"{event.account}: {event.reason}")
        case EventReceived():
            return replace(run, mailbox={**run.mailbox, run.run_seq: event})
        case RunForked():
            own = {p: _own(resumed(s)) for p, s in run.steps.items() if role_of(p) != "undo"}
            return replace(run, steps=own, undoing=(), undone=(), left=(), forked_at=run.run_seq)
        case _:
            assert_never(event)


def _interrupted(run: Run) -> Run:
    """The run in another process: what was under way has no known outcome."""
    begun = {path for path, state in run.steps.items() if state.status == "started" and is_effect(run, path)}
    steps = {p: replace(resumed(s), is_unsure=s.is_unsure or p in begun) for p, s in run.steps.items()}
    return replace(run, steps=steps)


def _under_present_terms(run: Run, event: RunResumed) -> Run:
    """The run by the rules, and with the callees, that there are now; what it may call never grows."""
    if not event.is_changed:
        return run
    setup, newer = run.started.setup, {callee.name: callee for callee in event.callees}
    fields = {
        "policy": event.policy or setup.policy,
        "callees": tuple(newer.get(callee.name, callee) for callee in setup.callees),
        "assistant_hash": setup.assistant_hash if event.assistant_hash is None else event.assistant_hash,
    }
    started = run.started.model_copy(update={"setup": setup.model_copy(update=fields)})
    steps = {p: replace(s, is_stale=s.verdict is not None) for p, s in run.steps.items()}
    return replace(run, started=started, steps=steps)


def _own(state: StepState) -> StepState:
    """In a fork, what may yet be called gets a key of the fork's own."""
    return state if state.status in {"succeeded", "skipped"} else replace(state, key="", crashes=0, doubts=0)


def _steered(run: Run, event: Steered) -> Run:
    require(event, not run.is_cancelled, "the run is cancelled")
    is_given = run.started.plan is not None
    is_own = event.by == run.started.principal.name
    require(event, is_own or not (event.text or event.plan), "only the principal's words and plans count")
    is_enough = event.plan is not None or bool(event.inputs) or (bool(event.text) and not is_given)
    require(event, is_enough, "it takes a plan, inputs, or where a planner made the plan, words")
    label = TRUSTED if is_own else UNTRUSTED.from_source(f"human:{event.by}")
    run = replace(run, input_labels={**run.input_labels, **dict.fromkeys(event.inputs, label)})
    corrections = (*run.corrections, event)
    if run.phase != "planning":
        corrected = replace(run, corrections=corrections, is_corrected=True)
        is_lost = is_given and corrected_plan(corrected) is None
    else:
        given = corrected_by(run.given, event, is_given=is_given)
        corrected = replace(run, corrections=corrections, given=given, proposal=None, rejected=(), attempt=0)
        is_lost = is_given and given is None
    require(event, not is_lost, "the plan came with the goal, and has no such input")
    return corrected


def _undoing(run: Run, event: UndoBegan) -> Run:
    """What is to be taken back gets a state of its own, for the plan may soon no longer hold the step."""
    pending = tuple(path for path in run.undoing if not run.step(path).is_done)
    require(event, not pending or run.phase == "planning", "something is being taken back already")
    undoing = tuple(undo_path(path) for path in event.paths)
    require(event, len(set(undoing)) == len(undoing), "it names a step twice")
    undone, left = undo_report(replace(run, undoing=tuple(path for path in run.undoing if path not in pending)))
    if pending:  # another correction came before these were taken back: the last one made is still the first
        undoing = tuple(sorted((*undoing, *pending), key=lambda path: -_begun_at(run, path)))
    steps = dict(run.steps)
    for path in event.paths:
        state, callee = run.step(path), callee_of(run, path)
        is_call = bool(state.attempt) and role_of(path) != "undo" and state.status != "started"
        require(event, is_call and not is_taken_back(run, path), f"`{path}` was not called, or is taken back already")
        is_known = callee is not None and callee.declaration.undo is not None
        require(event, is_known, f"what was called at `{path}` cannot be taken back")
        steps[undo_path(path)] = StepState(
            status="resolved",
            arguments=state.arguments,
            key=undo_key(state.key),
            callee=callee_at(run, path),
            kept=state.kept,
        )
    return replace(run, steps=steps, undoing=undoing, undone=undone, left=left)


def _begun_at(run: Run, path: StepPath) -> int:
    """When the call that is taken back at `path` began, or the one in its place."""
    return max(run.step(own).begun for own in (own_path(path), beside(own_path(path), "fallback")))
