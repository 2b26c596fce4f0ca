"""The state of a run, folded from its events; nothing else changes a run.

Rules of the file:
- `evolve(run, event) -> run` is total over legal histories; an illegal event raises and leaves the run as it was.
- What a step may do next is the table of `moves`: which event is legal in which status, and where it leads.
- Times come from the journal (`Recorded.at`); there is no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias, assert_never

from planner.core.correction import corrected_plan, superseded, superseded_by, undo_report, with_inputs
from planner.core.events import (
    FINAL,
    BudgetRefused,
    CancelRequested,
    Event,
    EventReceived,
    HumanAnswered,
    HumanAsked,
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
    StepStarted,
    StepSucceeded,
    UndoBegan,
    UndoRequested,
    Usage,
    WaitEnded,
    WaitStarted,
)
from planner.core.labels import TRUSTED, UNTRUSTED, Labelled
from planner.core.ledger import NOTHING, UNLIMITED, Amount, Budget, Spent, total
from planner.core.moves import StepEvent, moved, resumed
from planner.core.plan import (
    Plan,
    StepPath,
    beside,
    inner_path,
    is_tolerated,
    own_path,
    place_of,
    role_of,
    root_of,
    split_path,
)
from planner.core.run import (
    DONE,
    UNDECIDED,
    Phase,
    Proposal,
    Run,
    StepState,
    StepStatus,
    failures_of,
    falls_back,
    has_failed,
    item_count,
    kept_steps,
)
from planner.errors import JournalError


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
    is_idle = run.status in {"waiting", "paused"} or isinstance(event, RunResumed | RunForked | UndoRequested)
    passed_s = 0.0 if is_idle else (recorded.at - run.at).total_seconds()
    spent = replace(run.spent, seconds=run.spent.seconds + passed_s)
    return _settled(_applied(replace(run, at=recorded.at, run_seq=recorded.run_seq, spent=spent), event), event)


def _settled(run: Run, event: Event) -> Run:
    """With what the event says was used: by models, by a priced tool, by a nested run."""
    usages: tuple[Usage, ...] = getattr(event, "usage", ()) if not isinstance(event, PlanProposed) else (event.usage,)
    used = [Amount(cost_usd=u.cost_usd, tokens=u.input_tokens + u.output_tokens, calls=0) for u in usages]
    if isinstance(event, StepSucceeded | StepFailed):
        used.append(Amount(calls=event.calls))
    if isinstance(event, StepStarted):
        callee = run.started.setup.catalogue.get(callee_at(run, event.path))
        is_same = callee is not None and callee.kind == "plan" and event.attempt > 1  # the nested run goes on
        cost_usd = callee.declaration.cost_usd if callee is not None else 0.0
        used.append(Amount(cost_usd=cost_usd, calls=0 if is_same else 1))
    for amount in used:
        run = _with_used(run, event.path if isinstance(event, StepEvent) else "", amount)
    if isinstance(event, StepInDoubt):
        return _with_lost(run, event.path)
    if isinstance(event, StepSucceeded | StepFailed):
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
    return _released(_with_used(run, path, _open(run, path)), path)


def _open(run: Run, path: StepPath) -> Amount:
    """What a call may yet use: what is held for it, but for its price and that it is a call, which count already."""
    held, callee = run.step(path).held, run.started.setup.catalogue.get(callee_at(run, path))
    price = (callee.declaration.cost_usd or 0.0) if callee is not None else 0.0
    cost_usd = None if held.cost_usd is None else max(0.0, held.cost_usd - price)
    return Amount(cost_usd=cost_usd, tokens=held.tokens, calls=max(0, held.calls - 1))


def holds(run: Run) -> dict[StepPath, Amount]:
    """What the calls that have no outcome may yet use."""
    return {path: _open(run, path) for path, state in run.steps.items() if state.held is not NOTHING}


def held_in(run: Run, name: str, held: Mapping[StepPath, Amount]) -> Amount:
    """The part of `held` that counts towards an account."""
    return total(amount for path, amount in held.items() if not name or name in accounts_of(run, path))


def account(run: Run, name: str) -> tuple[Budget, Spent]:
    """The limits and the use of an account: the whole run's where the name is empty, a step's, or an agent's."""
    if not name:
        return run.started.setup.budget, run.spent
    kind, _, id_ = name.partition(":")
    step = run.plan.step(id_) if run.plan is not None and kind == "step" else None
    budget = (step.budget if step is not None else None) or run.started.setup.agents.get(name, UNLIMITED)
    return budget, run.accounts.get(name, Spent())


def accounts_of(run: Run, path: StepPath) -> tuple[str, ...]:
    """The budgets within the run that a call at `path` counts towards: its agent's, its step's, its blocks'."""
    callee = callee_at(run, path)
    names = [callee] if callee in run.started.setup.agents else []
    place = own_path(path)
    while place and run.plan is not None:
        step = run.plan.step(split_path(place)[0])
        if step is not None and step.budget is not None:
            names.append(f"step:{step.id}")
        place = place_of(place)
    return tuple(names)


def callee_at(run: Run, path: StepPath) -> str:
    """The name of what is called at `path`, or taken back there; empty where nothing is."""
    if run.step(path).callee or run.plan is None:
        return run.step(path).callee
    try:
        return run.plan.at(path).use or ""
    except (KeyError, ValueError):
        return ""


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
    | BudgetRefused
    | EventReceived
    | RunForked
)


def _directed(run: Run, event: Directive) -> Run:  # noqa: C901 - one flat case per event kind
    match event:
        case RunResumed():
            for path in [path for path, state in run.steps.items() if state.status == "started"]:
                run = _with_lost(run, path)
            return replace(run, steps={path: resumed(state) for path, state in run.steps.items()})
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
        case BudgetRefused():
            return replace(run, refused=f"{event.account}: {event.reason}")
        case EventReceived():
            return replace(run, mailbox={**run.mailbox, run.run_seq: event})
        case RunForked():
            return replace(run, steps={p: _own(resumed(s)) for p, s in run.steps.items()}, forked_at=run.run_seq)
        case _:
            assert_never(event)


def _own(state: StepState) -> StepState:
    """In a fork, what has not ended gets a key of the fork's own."""
    return state if state.status in DONE else replace(state, key="", crashes=0, doubts=0)


def _require(event: Event, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise JournalError("J-204", f"`{event.type}` is illegal: {otherwise}")


def _steered(run: Run, event: Steered) -> Run:
    _require(event, not run.is_cancelled, "the run is cancelled")
    is_given = run.started.plan is not None
    is_enough = event.plan is not None or bool(event.inputs) or not is_given
    _require(event, is_enough, "a run of a given plan is corrected by a plan or by inputs")
    corrections = (*run.corrections, event)
    if run.phase != "planning":
        return replace(run, corrections=corrections, is_corrected=True)
    given = event.plan or (run.given and with_inputs(run.given, event.inputs))
    heeded = len(corrections)
    return replace(run, corrections=corrections, heeded=heeded, given=given, proposal=None, rejected=(), attempt=0)


def _undoing(run: Run, event: UndoBegan) -> Run:
    """What is to be taken back gets a state of its own, for the plan may soon no longer hold the step."""
    undone, left = undo_report(run)
    steps = dict(run.steps)
    for path in event.paths:
        state = run.step(path)
        _require(event, state.attempt > 0, f"`{path}` was never called")
        key = f"{state.key}-undo"
        callee = callee_at(run, path)
        steps[beside(path, "undo")] = StepState(
            status="resolved", arguments=state.arguments, key=key, callee=callee, kept=state.kept
        )
    undoing = tuple(beside(path, "undo") for path in event.paths)
    return replace(run, steps=steps, undoing=undoing, undone=undone, left=left)


def _stepped(run: Run, event: StepEvent) -> Run:
    if not run.is_cancelled:  # what a cancelled run did is found out about and taken back, whatever it was doing
        _expect(run, "executing", event)
    if event.path not in run.steps and not _is_place(run, event.path):
        raise JournalError("J-204", f"`{event.type}` of `{event.path}`, which is no step of the plan")
    step = moved(run.step(event.path), event)
    mailbox = run.mailbox
    match event:
        case WaitEnded():
            received = mailbox.get(event.received)
            if received is None:
                raise JournalError("J-204", f"`{event.type}` of event {event.received}, which is not there")
            label = UNTRUSTED.from_source(f"event:{received.name}")
            step = replace(step, answered=Labelled(value=received.data, label=label))
            mailbox = {seq: one for seq, one in mailbox.items() if seq != event.received}
        case WaitStarted():
            due = run.at + timedelta(seconds=event.seconds) if event.seconds is not None else event.until
            step = replace(step, due=due)
        case HumanAsked():
            due = run.at + timedelta(seconds=event.timeout_s) if event.timeout_s is not None else None
            step = replace(step, due=due, asked=run.run_seq)
        case HumanAnswered():
            is_other = event.asked is not None and event.asked != run.step(event.path).asked
            _require(event, not is_other, f"the question at `{event.path}` is another one by now")
            step = replace(step, answered=_said(run, event))
        case StepStarted():
            step = replace(step, begun=run.run_seq)
        case StepFailed() if event.attempt:
            of = run.step(event.path)
            is_its = event.attempt == of.attempt and of.status in {"started", "in_doubt"}
            _require(event, is_its, f"attempt {event.attempt} of `{event.path}` is over")
        case _:
            pass
    return replace(run, steps={**run.steps, event.path: step}, mailbox=mailbox)


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
            return replace(
                run,
                phase="executing",
                plan=event.plan,
                certificate=event.certificate,
                steps=_kept(run, event.plan),
                proposal=None,
                given=None,
                rejected=(),
                attempt=0,
            )
        case _:
            assert_never(event)


def _kept(run: Run, plan: Plan) -> dict[StepPath, StepState]:
    """What stays of the last revision; the item that ended it may run again."""
    undoing = {path: state for path, state in run.steps.items() if path in run.undoing}
    if run.plan is None:
        return undoing
    if run.given is not None:
        stale = superseded(run, plan)
        staying = {p: s for p, s in run.steps.items() if role_of(p) != "undo" and root_of(p) not in stale}
        return {path: state for path, state in staying.items() if _is_settled(run, path, state)} | undoing
    kept = {step.id: step for step in kept_steps(run, superseded_by(run, plan.undo)) if step in plan.steps}
    return {
        path: state
        for path, state in run.steps.items()
        if root_of(path) in kept and role_of(path) != "undo" and (state.status in STAYING or _is_lost(run, path))
    } | undoing


STAYING: frozenset[StepStatus] = frozenset({"succeeded", "mapped", "skipped", "entered"})


def _is_settled(run: Run, path: StepPath, state: StepState) -> bool:
    """Whether a failure stays one: the plan went on without the step, or nobody knows whether it happened."""
    is_undecided = state.fault is not None and state.fault.code in UNDECIDED
    return state.status != "failed" or is_undecided or _is_lost(run, path)


def _is_lost(run: Run, path: StepPath) -> bool:
    """Whether the plan went on without it, because it failed."""
    assert run.plan is not None
    step = run.plan.at(path)
    return has_failed(run, step, path) and is_tolerated(run.plan.index[step.id], own_path(path))


def _abandoned(run: Run, event: PlanAbandoned) -> Run:
    if run.phase not in {"executing", "reviewing"} or event.revision != run.revision + 1:
        raise JournalError("J-204", f"`{event.type}` of revision {event.revision} is illegal while {run.phase}")
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
        heeded=len(run.corrections),
    )


def _reviewed(run: Run, event: ReviewPassed | ReviewFailed | ReviewInconclusive) -> Run:
    _expect(run, "executing", event)
    match event:
        case ReviewPassed():
            return replace(run, phase="reviewing", review="passed", unmet=())
        case ReviewFailed():
            return replace(run, phase="reviewing", review="failed", unmet=event.criteria)
        case ReviewInconclusive():
            return replace(run, phase="reviewing", review="inconclusive", unmet=event.criteria)
        case _:
            assert_never(event)
