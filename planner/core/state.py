"""The state of a run, folded from its events; nothing else changes a run.

Rules of the file:
- `evolve(run, event) -> run` is total over legal histories; an illegal event raises and leaves the run as it was.
- What a step may do next is the table of `moves`: which event is legal in which status, and where it leads.
- Times come from the journal (`Recorded.at`); there is no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from planner.core.correction import corrected_by, corrected_plan, forgotten, kept_states, undo_report
from planner.core.events import (
    FINAL,
    AnswerDropped,
    BlockEntered,
    BudgetRefused,
    CancelRequested,
    Event,
    EventReceived,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    PauseLifted,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    Steered,
    StepFailed,
    StepInDoubt,
    StepNudged,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoBegan,
    UndoRequested,
    Usage,
    WaitEnded,
    WaitStarted,
)
from planner.core.labels import TRUSTED, UNTRUSTED, Labelled
from planner.core.ledger import NOTHING, Amount, Spent
from planner.core.moves import StepEvent, moved, resumed
from planner.core.plan import (
    StepPath,
    beside,
    inner_path,
    own_path,
    place_of,
    role_of,
    split_path,
)
from planner.core.run import (
    Phase,
    Proposal,
    Run,
    StepState,
    account,
    accounts_of,
    callee_at,
    callee_of,
    failures_of,
    falls_back,
    held_in,
    holds,
    in_flight,
    is_carried_out,
    is_taken_back,
    item_count,
    replace,
    takes,
    undo_key,
    undo_path,
    unsettled,
)
from planner.errors import JournalError

__all__ = ["account", "accounts_of", "callee_at", "evolve", "fold", "held_in", "holds"]


def fold(history: Iterable[Recorded]) -> Run:
    """The run that these events made. Raises `JournalError` if they are not a history."""
    run: Run | None = None
    for recorded in history:
        run = evolve(run, recorded)
    if run is None:
        raise JournalError("J-201", "a run without events has no state", hint="its first event is `RunStarted`")
    return run


def evolve(run: Run | None, recorded: Recorded) -> Run:
    """The run after one more event. Raises `JournalError` if the event is illegal in this state."""
    event = recorded.event
    if run is None:
        if not isinstance(event, RunStarted):
            raise JournalError("J-202", f"a run starts with `RunStarted`, not `{event.type}`")
        return Run(
            id=recorded.run_id,
            started=event,
            began_at=recorded.at,
            at=recorded.at,
            run_seq=recorded.run_seq,
            given=event.plan,
        )
    if run.finished is not None and not isinstance(event, UndoRequested):
        raise JournalError("J-203", f"`{event.type}` after the run finished as `{run.finished.status}`")
    is_held = run.status in {"waiting", "paused"} and not in_flight(run)
    is_idle = is_held or isinstance(event, RunResumed | RunForked | UndoRequested)
    passed_s = 0.0 if is_idle else max(0.0, (recorded.at - run.at).total_seconds())
    spent = run.spent.later(passed_s)
    before = replace(run, at=recorded.at, run_seq=recorded.run_seq, spent=spent)
    return _settled(_applied(before, event), event, before=before)


def _settled(run: Run, event: Event, *, before: Run) -> Run:
    """With what the event says was used: by models, by a priced tool, by a nested run."""
    usages: tuple[Usage, ...] = getattr(event, "usage", ()) if not isinstance(event, PlanProposed) else (event.usage,)
    used = [Amount(cost_usd=u.cost_usd, tokens=u.input_tokens + u.output_tokens, calls=0) for u in usages]
    if isinstance(event, StepSucceeded | StepFailed):
        used.append(Amount(calls=event.calls))
    if isinstance(event, StepStarted) and event.held.calls:  # else it was refused before it was made
        callee = run.started.setup.catalogue.get(callee_at(run, event.path))
        is_same = callee is not None and callee.kind == "plan" and event.attempt > 1  # the nested run goes on
        cost_usd = callee.declaration.cost_usd if callee is not None else 0.0
        used.append(Amount(cost_usd=cost_usd, calls=0 if is_same else 1))
    for amount in used:
        run = _with_used(run, event.path if isinstance(event, StepEvent) else "", amount)
    if isinstance(event, StepInDoubt):
        return _with_lost(run, event.path)
    if isinstance(event, StepSucceeded | StepFailed):
        was = before.step(event.path)
        is_told = was.status == "started" or was.held is NOTHING or bool(event.calls or event.usage)
        run = run if is_told else _with_used(run, event.path, unsettled(run, event.path))
        return _released(run, event.path)
    return run


def _with_used(run: Run, path: StepPath, amount: Amount) -> Run:
    """With what was used for a call, or at no `path` for the run itself."""
    names = accounts_of(run, path) if path else ()
    accounts = {name: run.accounts.get(name, Spent()).plus(amount) for name in names}
    return replace(run, spent=run.spent.plus(amount), accounts={**run.accounts, **accounts})


def _released(run: Run, path: StepPath) -> Run:
    return replace(run, steps={**run.steps, path: replace(run.step(path), held=NOTHING)})


def _with_lost(run: Run, path: StepPath) -> Run:
    """With what a model may have used for a call whose outcome is lost: nobody knows, so all that was held.

    What a nested run holds stays held, for it goes on by itself.
    """
    callee = run.started.setup.catalogue.get(callee_at(run, path))
    if callee is None or callee.kind == "plan":
        return run
    return _released(_with_used(run, path, unsettled(run, path)), path)


def _applied(run: Run, event: Event) -> Run:
    match event:
        case RunStarted():
            raise JournalError("J-202", "`RunStarted` a second time")
        case PlanProposed() | PlannerFailed() | PlanRejected() | PlanAccepted():
            return _planning(run, event)
        case ReviewPassed() | ReviewFailed() | ReviewInconclusive():
            return _reviewed(run, event)
        case PlanAbandoned():
            return _abandoned(run, event)
        case RunFinished():
            if event.status not in FINAL:
                raise JournalError("J-203", f"`{event.status}` is not a final status")
            return replace(run, phase="finished", finished=event)
        case (
            RunResumed()
            | CancelRequested()
            | PauseRequested()
            | PauseLifted()
            | Steered()
            | UndoRequested()
            | UndoBegan()
            | AnswerDropped()
            | BudgetRefused()
            | EventReceived()
            | RunForked()
        ):
            return _directed(run, event)
        case _:
            return _stepped(run, event)


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


def _directed(run: Run, event: Directive) -> Run:  # noqa: C901, PLR0911 - one flat case per event kind
    match event:
        case RunResumed():
            for path in [path for path, state in run.steps.items() if state.status == "started"]:
                run = _with_lost(run, path)
            return _interrupted(run)
        case CancelRequested():
            return replace(run, is_cancelled=True, is_paused=False)
        case PauseRequested():
            _require(event, not run.is_paused and not run.is_cancelled, "the run is paused or cancelled already")
            return replace(run, is_paused=True)
        case PauseLifted():
            _require(event, run.is_paused, "the run is not paused")
            return replace(run, is_paused=False)
        case Steered():
            return _steered(run, event)
        case UndoRequested():
            _require(event, run.finished is not None, "the run has not finished; it can be cancelled")
            _require(event, not run.is_cancelled, "what the run did was taken back already")
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
    begun = {path for path, state in run.steps.items() if state.status == "started" and _is_effect(run, path)}
    steps = {p: replace(resumed(s), is_unsure=s.is_unsure or p in begun) for p, s in run.steps.items()}
    return replace(run, steps=steps)


def _own(state: StepState) -> StepState:
    """In a fork, what may yet be called gets a key of the fork's own."""
    return state if state.status in {"succeeded", "skipped"} else replace(state, key="", crashes=0, doubts=0)


def _is_effect(run: Run, path: StepPath) -> bool:
    """Whether the call at `path` may change something, and no run of its own tells what became of it."""
    callee = callee_of(run, path)
    return callee is not None and not callee.is_reading and callee.kind != "plan"


def _require(event: Event, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise JournalError("J-204", f"`{event.type}` is illegal: {otherwise}")


def _steered(run: Run, event: Steered) -> Run:
    _require(event, not run.is_cancelled, "the run is cancelled")
    is_given = run.started.plan is not None
    is_own = event.by == run.started.principal.name
    _require(event, is_own or not (event.text or event.plan), "only the principal's words and plans count")
    is_enough = event.plan is not None or bool(event.inputs) or (bool(event.text) and not is_given)
    _require(event, is_enough, "it takes a plan, inputs, or where a planner made the plan, words")
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
    _require(event, not is_lost, "the plan came with the goal, and has no such input")
    return corrected


def _undoing(run: Run, event: UndoBegan) -> Run:
    """What is to be taken back gets a state of its own, for the plan may soon no longer hold the step."""
    pending = tuple(path for path in run.undoing if not run.step(path).is_done)
    _require(event, not pending or run.phase == "planning", "something is being taken back already")
    undoing = tuple(undo_path(path) for path in event.paths)
    _require(event, len(set(undoing)) == len(undoing), "it names a step twice")
    undone, left = undo_report(replace(run, undoing=tuple(path for path in run.undoing if path not in pending)))
    if pending:  # another correction came before these were taken back: the last one made is still the first
        undoing = tuple(sorted((*undoing, *pending), key=lambda path: -_begun_at(run, path)))
    steps = dict(run.steps)
    for path in event.paths:
        state, callee = run.step(path), callee_of(run, path)
        is_call = bool(state.attempt) and role_of(path) != "undo" and state.status != "started"
        _require(
            event, is_call and not is_taken_back(run, path), f"`{path}` was not called, or is taken back already"
        )
        is_known = callee is not None and callee.declaration.undo is not None
        _require(event, is_known, f"what was called at `{path}` cannot be taken back")
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


def _aimed(run: Run, event: StepEvent) -> StepEvent:
    """The event; a nudge goes to the call that is being taken back, where that is what waits."""
    if isinstance(event, StepNudged) and run.step(event.path).status not in {"started", "parked"}:
        return event.model_copy(update={"path": undo_path(event.path)})
    return event


def _stepped(run: Run, event: StepEvent) -> Run:
    if not run.is_cancelled and not isinstance(event, StepNudged):
        # what a cancelled run did is taken back whatever it was doing, and a nudge does not come a second time
        _expect(run, "executing", event)
    event = _aimed(run, event)
    if event.path not in run.steps and not _is_place(run, event.path):
        raise JournalError("J-204", f"`{event.type}` of `{event.path}`, which is no step of the plan")
    _require(event, _is_of_kind(run, event), f"`{event.path}` is another kind of step")
    step = moved(run.step(event.path), event)
    mailbox = run.mailbox
    match event:
        case WaitEnded():
            received = mailbox.get(event.received)
            if received is None or not takes(run.step(event.path), received):
                raise JournalError("J-204", f"`{event.type}` of event {event.received}, which is not waited for")
            label = UNTRUSTED.from_source(f"event:{received.name}")
            step = replace(step, answered=Labelled(value=received.data, label=label))
            mailbox = {seq: one for seq, one in mailbox.items() if seq != event.received}
        case WaitStarted():
            step = replace(step, due=_later(run, event.seconds) if event.seconds is not None else event.until)
        case HumanAsked():
            step = replace(step, due=_later(run, event.timeout_s), asked=run.run_seq)
        case HumanAnswered():
            step = replace(step, answered=_said(run, event))
        case StepStarted():
            step = replace(step, begun=run.run_seq)
        case StepInDoubt():
            step = replace(step, is_unsure=step.is_unsure or _is_effect(run, event.path))
        case _:
            pass
    return replace(run, steps={**run.steps, event.path: step}, mailbox=mailbox)


LONGEST_S = 100 * 365.25 * 86_400
"""A hundred years: whoever waits longer waits for ever, and calendars end."""


def _later(run: Run, seconds: float | None) -> datetime | None:
    return None if seconds is None else run.at + timedelta(seconds=min(seconds, LONGEST_S))


def _is_of_kind(run: Run, event: StepEvent) -> bool:
    """Whether the step at that place is one that such an event can happen to."""
    if run.plan is None or role_of(event.path) == "undo":
        return True
    step, callee = run.plan.at(event.path), callee_of(run, event.path)
    is_map = step.is_map and split_path(event.path)[1] is None
    kind = callee.kind if callee is not None and not is_map else ""
    match event:
        case MapResolved():
            return is_map
        case BlockEntered():
            return step.is_block and not is_map
        case StepResolved():
            return bool(kind)
        case WaitStarted():
            return kind == "wait"
        case HumanAsked(question="answer"):
            return kind == "human"
        case _:
            return True


def _said(run: Run, event: HumanAnswered) -> Labelled:
    """A person's answer: the principal's own words are trusted, those of anybody else are not."""
    is_own = event.by == run.started.principal.name
    label = TRUSTED if is_own else UNTRUSTED
    return Labelled(value=event.value, label=label.from_source(f"human:{event.by}"))


def _expect(run: Run, phase: Phase, event: Event) -> None:
    if run.phase != phase:
        raise JournalError("J-204", f"`{event.type}` is illegal while the run is {run.phase}")


def _is_place(run: Run, path: StepPath) -> bool:
    """Whether the plan has this step, this map this item, or this block this branch."""
    try:
        id_, index = split_path(path)
        place, role = place_of(path), role_of(path)
    except ValueError:
        return False
    if run.plan is None or role == "undo":
        return False
    if role == "fallback":
        own = own_path(path)
        return id_ in run.plan.index and falls_back(run.plan.index[id_], own, run.step(own))
    if index is not None:
        return index < item_count(run.step(inner_path(place, id_)))
    if not place:
        return any(step.id == id_ for step in run.plan.steps)
    around, state = run.plan.step(split_path(place)[0]), run.step(place)
    held = (around.do if state.branch == "do" else around.else_) if around is not None else ()
    return state.status == "entered" and any(step.id == id_ for step in held)


def _planning(run: Run, event: PlanProposed | PlannerFailed | PlanRejected | PlanAccepted) -> Run:
    _expect(run, "planning", event)
    is_answer = isinstance(event, PlanProposed | PlannerFailed)
    is_unchecked = run.proposal is not None or (run.given is not None and not run.rejected)
    if is_answer == is_unchecked or event.revision != run.revision:
        known = "a plan is still to be checked" if is_unchecked else "there is no plan to check"
        raise JournalError(
            "J-204", f"`{event.type}` of revision {event.revision}, but {known} in revision {run.revision}"
        )
    match event:
        case PlanProposed():
            proposal = Proposal(plan=event.plan, problems=event.problems)
            return replace(run, proposal=proposal, attempt=event.attempt, planner_fault=None)
        case PlannerFailed():
            return replace(run, planner_fault=event.fault, attempt=event.attempt)
        case PlanRejected():
            return replace(run, proposal=None, rejected=(*run.rejected, event.problems))
        case PlanAccepted():
            kept = kept_states(run, event.plan)
            return replace(
                run,
                phase="executing",
                plan=event.plan,
                certificate=event.certificate,
                steps=kept,
                left=(*run.left, *forgotten(run, kept)),
                heeded=len(run.corrections),
                proposal=None,
                given=None,
                rejected=(),
                attempt=0,
            )
        case _:
            assert_never(event)


def _abandoned(run: Run, event: PlanAbandoned) -> Run:
    if run.phase not in {"executing", "reviewing"} or event.revision != run.revision + 1:
        raise JournalError("J-204", f"`{event.type}` of revision {event.revision} is illegal while {run.phase}")
    _require(event, not in_flight(run), "a call is under way")
    failures = (*run.failures, *failures_of(run))
    given = corrected_plan(run) if run.is_corrected else None
    return replace(
        run,
        phase="planning",
        revision=event.revision,
        failures=failures,
        review=None,
        given=given,
        is_corrected=False,
    )


def _reviewed(run: Run, event: ReviewPassed | ReviewFailed | ReviewInconclusive) -> Run:
    _expect(run, "executing", event)
    _require(event, is_carried_out(run), "the plan has not been carried out")
    match event:
        case ReviewPassed():
            return replace(run, phase="reviewing", review="passed", unmet=())
        case ReviewFailed():
            return replace(run, phase="reviewing", review="failed", unmet=event.criteria)
        case ReviewInconclusive():
            return replace(run, phase="reviewing", review="inconclusive", unmet=event.criteria)
        case _:
            assert_never(event)
