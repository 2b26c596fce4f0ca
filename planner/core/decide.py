"""What happens next: `decide(run) -> commands`, by rules alone.

Rules of the file:
- The same run always gives the same commands. `engine` performs those it is not performing already.
- `Record` is a decision that needs no effect: its event is appended, and `decide` is asked again.
- Nothing is in flight that the journal does not know: a call is `StepStarted` first, a question `HumanAsked`.
- Step retries live here, journaled; retries of transport faults live in `llm`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import takewhile
from typing import assert_never

from planner.core import order, values
from planner.core.catalog import Callee, retrieve
from planner.core.check import Problem, Terms, examine
from planner.core.commands import (
    AskHuman,
    AskPlanner,
    AskValidator,
    Call,
    Command,
    Probe,
    Record,
    ScheduleRetry,
    StartTimer,
)
from planner.core.events import (
    Event,
    Fault,
    HumanAsked,
    MapResolved,
    PlanAbandoned,
    PlanAccepted,
    PlanRejected,
    ReviewInconclusive,
    RunFinished,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepSkipped,
    StepSucceeded,
)
from planner.core.expr import Missing, Scope, expression_names, may_miss
from planner.core.labels import Json, Labelled
from planner.core.ledger import calls_left, exceeded
from planner.core.plan import Step, StepPath, item_path, own_names, reads, split_path
from planner.core.policy import attest, judge
from planner.core.review import review
from planner.core.state import Run, StepState, failures_of, has_ended, has_failed, kept_steps, may_retry
from planner.errors import PlanError

LADDER: tuple[tuple[float, bool], ...] = ((0.0, False), (0.6, False), (0.6, True), (0.9, True))
"""The candidates of one revision: temperature, and whether the planner is told the problems of the last ones.
Asked again at temperature 0, a small model repeats its plan; warmer samples and the checker do better."""
ACTIVE_ITEMS = 4
"""Items of one map under way at once."""
BACKOFF_S = 1.0
UNDECIDED = "A-104"
"""Nobody could say whether an effect happened."""
CANDIDATE_FAULTS = frozenset({"M-108", "M-109", "M-110"})
"""Refused, empty or cut off: one more candidate may do better. Anything else a planner's model says is final."""
TRIES = 3
"""How often a call that gave no answer is made again; then a person must look, for something is wrong with it."""


def decide(run: Run) -> tuple[Command, ...]:
    """What to do next; nothing means: wait for what is under way, or for a person."""
    match run.phase:
        case "finished":
            return ()
        case _ if run.is_cancelled:
            finished = Record(RunFinished(status="cancelled", reason="cancelled on request"))
            return () if _in_flight(run) else (finished,)
        case "planning":
            return (_plan(run),)
        case "executing":
            return tuple(_execute(run))
        case "reviewing":
            return (_conclude(run),)
        case _:
            assert_never(run.phase)


def _in_flight(run: Run) -> bool:
    return any(state.status == "started" for state in run.steps.values())


# planning ---------------------------------------------------------------------------------------------------


def _plan(run: Run) -> Command:
    given = run.started.plan
    if run.proposal is not None or given is not None:
        plan = run.proposal.plan if run.proposal else given
        problems: tuple[Problem, ...] = run.proposal.problems if run.proposal else ()
        if given is not None and run.rejected:
            return Record(RunFinished(status="failed", fault=_no_plan(run)))
        if plan is not None:
            examined = examine(plan, _terms(run))
            if examined.certificate is not None:
                return Record(
                    PlanAccepted(revision=run.revision, plan=examined.plan, certificate=examined.certificate)
                )
            problems = examined.problems
        return Record(PlanRejected(revision=run.revision, attempt=run.attempt, problems=problems))
    if run.planner_fault is not None and run.planner_fault.code not in CANDIDATE_FAULTS:
        return Record(RunFinished(status="failed", reason="the planner could not be asked", fault=run.planner_fault))
    if run.attempt >= len(LADDER):
        reason = "no other way was found" if run.failures else "no valid plan"
        return Record(RunFinished(status="failed", reason=reason, fault=run.planner_fault or _no_plan(run)))
    over = exceeded(run.started.setup.budget, run.spent)
    if over:
        return Record(RunFinished(status="over_budget", reason=over))
    temperature, is_told = LADDER[run.attempt]
    if run.revision > 1:  # the coldest answer is the one that failed
        temperature = max(temperature, LADDER[1][0])
    setup = run.started.setup
    offered = retrieve(
        run.started.goal,
        {callee.name: callee for callee in setup.callees},
        limit=setup.offered_callees,
        always=setup.always,
        only_matching=setup.rendering == "grammar",
    )
    return AskPlanner(
        revision=run.revision,
        attempt=run.attempt + 1,
        temperature=temperature,
        callees=offered,
        problems=_once(run.rejected) if is_told else (),
    )


def _once(rejected: tuple[tuple[Problem, ...], ...]) -> tuple[Problem, ...]:
    """The problems of all candidates so far, each message once, the newest candidate's first."""
    kept = {problem.message: problem for problems in reversed(rejected) for problem in problems}
    return tuple(kept.values())[:6]


def _no_plan(run: Run) -> Fault:
    """Why there is no plan: the failure that a replan was to get around, else the last candidate's problems."""
    if run.failures:
        return run.failures[-1].fault
    absent = ", ".join(f"`{item.text}`" for item in run.started.named if item.is_absent_source)
    if absent:
        return Fault(code="P-125", error_class="missing", message=f"the goal reads {absent}, which does not exist")
    last = run.rejected[-1] if run.rejected else ()
    text = "; ".join(problem.message for problem in last) or "the planner gave no plan"
    code = last[0].code if last else "P-100"
    return Fault(code=code, error_class="invalid", message=text)


def _terms(run: Run) -> Terms:
    setup = run.started.setup
    return Terms(
        catalogue={callee.name: callee for callee in setup.callees},
        policy=setup.policy,
        principal=run.started.principal,
        goal=run.started.goal,
        found=run.started.named,
        kept=kept_steps(run),
        abandoned=run.plan.steps if run.plan and not any(f.may_pass for f in run.failures) else (),
        is_lenient=run.attempt >= len(LADDER) or run.started.plan is not None,
        failed=tuple(failure.step for failure in run.failures if not failure.may_pass),
    )


# executing --------------------------------------------------------------------------------------------------


def _execute(run: Run) -> Iterator[Command]:
    assert run.plan is not None
    view = values.View(run, run.plan)
    over = exceeded(run.started.setup.budget, run.spent)
    failure = next(failures_of(view.run), None)
    is_open = not over and failure is None
    wanted = [command for step in run.plan.steps for command in _advance(view, step, is_open=is_open)]
    commands = _affordable(run, wanted)
    if commands:
        yield from commands
    elif _in_flight(run):
        return
    elif over and failure is None and any(view.outcome(step.id) is None for step in run.plan.steps):
        yield Record(RunFinished(status="over_budget", reason=over))
    else:
        yield _settle(view, is_over=over is not None)


def _affordable(run: Run, commands: list[Command]) -> list[Command]:
    """The commands, with no more calls than the budget has room for."""
    left = calls_left(run.started.setup.budget, run.spent)
    calls = [command for command in commands if isinstance(command, Call)]
    return [command for command in commands if command not in calls or calls.index(command) < left]


def _callee(run: Run, step: Step) -> Callee:
    return next(c for c in run.started.setup.callees if c.name == step.use)


def _advance(view: values.View, step: Step, *, is_open: bool) -> Iterator[Command]:
    """The commands for one step of the plan, and for the items of a map."""
    state = view.run.step(step.id)
    match state.status:
        case "new":
            if is_open:
                yield from _begin(view, step)
        case "mapped":
            yield from _items(view, step, state, is_open=is_open)
        case _:
            yield from _go_on(view, step, step.id, is_open=is_open)


def _begin(view: values.View, step: Step) -> Iterator[Command]:
    """Resolve a step as soon as everything it reads has ended."""
    seen = values.scope(view, reads(step) | frozenset(step.after))
    if seen is None:
        return
    gone = _gone(step, seen)
    if gone:
        yield Record(StepSkipped(path=step.id, cause="failure" if "failed" in gone else "condition"))
        return
    yield Record(_begun(view.run, step, step.id, seen, items=None))


def _begun(run: Run, step: Step, path: StepPath, seen: Scope, *, items: Labelled | None) -> Event:
    """What comes of a step, or of one of the `items` of a map, whose inputs are there."""
    try:
        return _map(step, seen) if step.is_map and items is None else _resolve(run, step, path, seen, items=items)
    except PlanError as error:
        return StepFailed(path=path, fault=_fault(error))


def _gone(step: Step, seen: Scope) -> frozenset[str]:
    """Why values are missing that the step reads without a default; empty if none is."""
    needed = reads(step) - may_miss(_inputs(step))
    return frozenset(value.reason for name in needed if isinstance(value := seen[name], Missing))


def _inputs(step: Step) -> Json:
    condition = [f"${{{step.if_}}}"] if step.if_ else []
    return [dict(step.args), step.let, step.for_each, *condition]


def _fault(error: PlanError) -> Fault:
    return Fault(code=error.code, error_class=error.error_class, message=error.message)


def _map(step: Step, seen: Scope) -> MapResolved | StepSkipped:
    """The items of a map; a condition that reads the item is left to each of them."""
    is_per_item = step.if_ is not None and bool(expression_names(step.if_) & own_names(step))
    condition = None if is_per_item else values.condition(step, seen)
    if condition is not None and not condition.value:
        return StepSkipped(path=step.id, cause="condition")
    found = values.items(step, seen)
    assert isinstance(found.value, list)
    if len(found.value) > step.max_items:
        what = f"`for_each` of step `{step.id}` has {len(found.value)} items, but `max_items` is {step.max_items}"
        raise PlanError("P-302", what, error_class="limit")
    return MapResolved(path=step.id, items=values.under(values.control(condition, None), found))


def _resolve(
    run: Run, step: Step, path: StepPath, seen: Scope, *, items: Labelled | None
) -> StepResolved | StepSucceeded | StepSkipped:
    """A call with its arguments, or a `let` with its value, for a step or for one of the `items` of a map."""
    condition = values.condition(step, seen)
    if condition is not None and not condition.value:
        return StepSkipped(path=path, cause="condition")
    decided_by = values.control(condition, items)
    if step.use is None:
        return StepSucceeded(path=path, value=values.under(decided_by, values.let(step, seen)))
    arguments = values.under(decided_by, values.arguments(step, seen))
    verdict = judge(run.started.setup.policy, run.started.principal, _callee(run, step), arguments)
    return StepResolved(path=path, arguments=arguments, verdict=verdict)


def _items(view: values.View, step: Step, state: StepState, *, is_open: bool) -> Iterator[Command]:
    """Start items in order, a few at once; none any more where one that failed makes the whole map fail."""
    outer = values.scope(view, reads(step))
    assert outer is not None, "a map is resolved only when what it reads has ended"
    assert state.items is not None
    paths = values.item_paths(step, state)
    is_lost = step.on_item_error == "fail" and any(has_failed(step, view.run.step(p)) for p in paths)
    active = 0
    for index, path in enumerate(paths):
        item = view.run.step(path)
        if has_ended(step, item):
            continue
        if is_open and is_lost and item.status in {"new", "resolved"}:
            yield Record(StepSkipped(path=path, cause="failure"))
            continue
        active += 1
        if active > ACTIVE_ITEMS:
            return
        if item.status != "new":
            yield from _go_on(view, step, path, is_open=is_open)
        elif is_open:
            seen = values.item_scope(outer, step, state.items, index)
            yield Record(_begun(view.run, step, path, seen, items=state.items))


def _go_on(view: values.View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """The next command for a call whose arguments are known."""
    run = view.run
    state = run.step(path)
    match state.status:
        case "resolved":
            yield from _admit(view, step, path, is_open=is_open)
        case "asked" if is_open or state.question == "happened":
            yield AskHuman(path)
        case "answered":
            yield from _answered(view, step, path, is_open=is_open)
        case "interrupted":
            if _callee(run, step).is_reading or _callee(run, step).declaration.on_doubt == "idempotent":
                yield _call(run, step, path)
            else:
                yield Record(StepInDoubt(path=path, reason="the process that made the call ended"))
        case "in_doubt":
            yield _resolve_doubt(run, step, path, is_open=is_open)
        case "failed" if may_retry(step, state):
            yield ScheduleRetry(path, state.attempt, BACKOFF_S * 2 ** (state.failures - 1))
        case "retrying" if state.due is not None:
            yield StartTimer(path, state.due)
        case _:
            return


def _admit(view: values.View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """What the gate said decides: call, ask a person, or fail."""
    state = view.run.step(path)
    verdict = state.verdict
    assert verdict is not None, "a resolved call has a verdict"
    if verdict.then == "deny":
        yield Record(_denied(path, "A-101", verdict.reason))
    elif not is_open:
        return
    elif verdict.then == "ask" and view.run.started.setup.on_ask == "deny":
        yield Record(_denied(path, "A-102", f"{verdict.reason}, and nobody is there to ask"))
    elif verdict.then == "ask":
        yield Record(HumanAsked(path=path, question="approve", reason=verdict.reason))
    elif _is_turn(view, step, path):
        yield _call(view.run, step, path)


def _denied(path: StepPath, code: str, reason: str) -> StepFailed:
    return StepFailed(path=path, fault=Fault(code=code, error_class="denied", message=reason))


def _answered(view: values.View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    state = view.run.step(path)
    match state.question, state.answer:
        case "approve", "no":
            yield Record(_denied(path, "A-103", "a person denied it"))
        case "approve", _:
            if is_open and _is_turn(view, step, path):
                yield _call(view.run, step, path)
        case "happened", "yes":
            yield _happened(view.run, step, path)
        case _ if is_open:
            yield _call(view.run, step, path)
        case _:
            yield Record(_without_effect(path, _callee(view.run, step)))


def _happened(run: Run, step: Step, path: StepPath) -> Record:
    """The effect took place, but what the call gave is lost."""
    given = run.step(path).arguments or Labelled(value={})
    return Record(StepSucceeded(path=path, value=attest(_callee(run, step), given, None)))


def _without_effect(path: StepPath, callee: Callee) -> StepFailed:
    reason = f"`{callee.name}` gave no answer, and did not happen"
    return StepFailed(path=path, fault=Fault(code="A-105", error_class="unavailable", message=reason))


def _resolve_doubt(run: Run, step: Step, path: StepPath, *, is_open: bool) -> Command:
    """In doubt, an effect is never simply repeated: its declaration says how to find out."""
    state = run.step(path)
    callee = _callee(run, step)
    match callee.declaration.on_doubt, "no" if callee.is_reading else state.answer:
        case _, "yes":
            return _happened(run, step, path)
        case _, "no" if state.doubts > TRIES or not is_open:
            return Record(_without_effect(path, callee))
        case ("idempotent", _) | (_, "no") if state.doubts <= TRIES:
            return _call(run, step, path)
        case "probe", _ if not state.probed:
            return Probe(path, callee.name)
    if run.started.setup.on_ask == "deny":
        reason = f"nobody could say whether `{callee.name}` happened"
        return Record(StepFailed(path=path, fault=Fault(code=UNDECIDED, error_class="conflict", message=reason)))
    reason = f"`{callee.name}` may or may not have happened"
    return Record(HumanAsked(path=path, question="happened", reason=reason))


def _call(run: Run, step: Step, path: StepPath) -> Call:
    state = run.step(path)
    key = state.key or hashlib.sha256(f"{run.id}\n{run.revision}\n{path}".encode()).hexdigest()[:32]
    assert step.use is not None
    return Call(path, step.use, state.attempt + 1, key)


def _is_turn(view: values.View, step: Step, path: StepPath) -> bool:
    """Whether every earlier call on the same resource has ended."""
    run = view.run
    mine = (_callee(run, step), order.keys(_callee(run, step), _arguments(run, step, path)))
    id_, index = split_path(path)
    for earlier in takewhile(lambda step: step.id != id_, view.plan.steps):
        if earlier.use is None or _has_ended(view, earlier):
            continue
        callee = _callee(run, earlier)
        if order.must_keep_order((callee, order.keys(callee, _arguments(run, earlier, earlier.id))), mine):
            return False
    for before in range(index or 0):
        sibling = item_path(id_, before)
        theirs = (mine[0], order.keys(mine[0], _arguments(run, step, sibling)))
        if not has_ended(step, run.step(sibling)) and order.must_keep_order(theirs, mine):
            return False
    return True


def _has_ended(view: values.View, step: Step) -> bool:
    state = view.run.step(step.id)
    return view.outcome(step.id) is not None if state.status == "mapped" else has_ended(step, state)


def _arguments(run: Run, step: Step, path: StepPath) -> dict[str, Json]:
    """The call's arguments as far as they are known: resolved, or as the plan writes them."""
    resolved = run.step(path).arguments
    if resolved is not None and isinstance(resolved.value, dict):
        return resolved.value
    return dict(step.args)


# settling ---------------------------------------------------------------------------------------------------


def _settle(view: values.View, *, is_over: bool) -> Command:
    """Nothing is under way any more: replan, fail, or look at the outcome."""
    failure = next(failures_of(view.run), None)
    if failure is not None:
        return _give_up(view.run, failure.fault, reason=f"step `{failure.path}` failed")
    try:
        decided = review(view)
    except PlanError as error:
        return _give_up(view.run, _fault(error), reason="the answer cannot be made")
    if isinstance(decided, tuple):
        return Record(ReviewInconclusive(criteria=decided)) if is_over else AskValidator(decided)
    return Record(decided)


def _give_up(run: Run, fault: Fault, *, reason: str) -> Record:
    """Another revision where a planner may still find a way, else the end."""
    if fault.error_class == "denied":
        return Record(RunFinished(status="denied", reason=reason, fault=fault))
    is_hopeless = fault.error_class == "missing" and _lacks_input(run)
    if is_hopeless or not _may_replan(run):
        return Record(RunFinished(status="failed", reason=reason, fault=fault))
    return Record(PlanAbandoned(revision=run.revision + 1, reason=reason))


def _lacks_input(run: Run) -> bool:
    """Whether the goal reads something that does not exist: no other plan can help, and none may make it up."""
    return any(item.is_absent_source for item in run.started.named)


def _may_replan(run: Run) -> bool:
    """Whether another plan may be tried; never with an effect in doubt, for that plan might repeat it."""
    in_doubt = any(s.fault is not None and s.fault.code == UNDECIDED for s in run.steps.values())
    return run.started.plan is None and run.revision <= run.started.setup.max_replans and not in_doubt


def _conclude(run: Run) -> Record:
    assert run.plan is not None
    view = values.View(run, run.plan)
    degraded = values.lost(view)
    result = values.answer(view)
    match run.review:
        case "passed":
            return Record(RunFinished(status="completed", result=result, degraded=degraded))
        case "inconclusive":
            return Record(RunFinished(status="unverified", result=result, degraded=degraded))
        case _ if _may_replan(run):
            return Record(PlanAbandoned(revision=run.revision + 1, reason="a criterion failed"))
        case _:
            unmet = ", ".join(run.unmet)
            return Record(
                RunFinished(status="rejected", reason=f"not met: {unmet}", result=result, degraded=degraded)
            )
