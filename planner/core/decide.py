"""What happens next: `decide(run) -> commands`, by rules alone.

Rules of the file:
- The same run always gives the same commands. `engine` performs those it is not performing already.
- `Record` is a decision that needs no effect: its event is appended, and `decide` is asked again.
- Nothing is in flight that the journal does not know: a call is `StepStarted` first, a question `HumanAsked`.
- Step retries live here, journaled; retries of transport faults live in `llm`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import assert_never

from planner.core import undo, values
from planner.core.advance import advance, fault_of
from planner.core.catalog import retrieve, signature
from planner.core.check import Problem, Terms, examine
from planner.core.commands import AskPlanner, AskValidator, Command, Record
from planner.core.correction import stale_steps, undo_report
from planner.core.egress import shown_to
from planner.core.events import (
    BudgetRefused,
    Fault,
    PauseRequested,
    PlanAbandoned,
    PlanAccepted,
    PlanRejected,
    ReviewInconclusive,
    RunFinished,
    StepSkipped,
    UndoBegan,
    WaitEnded,
)
from planner.core.labels import Integrity, Json
from planner.core.ledger import NOTHING, PROMPT_TOKENS, Amount, price, refusal
from planner.core.plan import Plan, StepPath, inner_path, root_of, split_path
from planner.core.review import review
from planner.core.run import (
    Run,
    StepState,
    failures_of,
    in_flight,
    is_undecided,
    item_paths,
    kept_steps,
)
from planner.core.spending import affordable
from planner.errors import PlanError

LADDER: tuple[tuple[float, bool], ...] = ((0.0, False), (0.6, False), (0.6, True), (0.9, True))
"""The candidates of one revision: temperature, and whether the planner is told the problems of the last ones.
Asked again at temperature 0, a small model repeats its plan; warmer samples and the checker do better."""
CANDIDATE_FAULTS = frozenset({"M-108", "M-109", "M-110"})
"""Refused, empty or cut off: one more candidate may do better. Anything else a planner's model says is final."""
PLAN_TOKENS = 1024
"""The most that a planner writes for one candidate."""
VERDICT_TOKENS = 50
"""The most that a validator writes of one criterion."""
TIME_IS_UP = "A-111"
"""The code of a call that was cut short because the run's own time was over."""


def decide(run: Run) -> tuple[Command, ...]:
    """What to do next; nothing means: wait for what is under way, for a person, an event or a time."""
    match run.phase:
        case "finished":
            return ()
        case _ if run.is_cancelled:
            return tuple(undo.cancel(run))
        case _ if run.is_paused:
            return ()
        case "planning":
            planned = _plan(run)
            return (planned, *_pause_behind(run, planned))
        case "executing":
            return tuple(_single(_execute(run)))
        case "reviewing":
            return (_conclude(run),)
        case _:
            assert_never(run.phase)


def _single(commands: Iterator[Command]) -> Iterator[Command]:
    """The commands, where one event of the mailbox goes to one step alone."""
    taken: set[int] = set()
    for command in commands:
        if isinstance(command, Record) and isinstance(command.event, WaitEnded):
            if command.event.received in taken:
                continue
            taken.add(command.event.received)
        yield command


# planning ---------------------------------------------------------------------------------------------------


def _pause_behind(run: Run, planned: Command) -> tuple[Record, ...]:
    """A run that is only to be planned stands still behind its first accepted plan."""
    is_accepted = isinstance(planned, Record) and isinstance(planned.event, PlanAccepted)
    if not is_accepted or not run.started.setup.is_only_planned or run.revision > 1:
        return ()
    return (Record(PauseRequested(by=run.started.principal.name)),)


def _plan(run: Run) -> Command:
    given = run.given
    if run.proposal is not None or given is not None:
        plan = run.proposal.plan if run.proposal else given
        problems: tuple[Problem, ...] = run.proposal.problems if run.proposal else ()
        if given is not None and run.rejected:
            return _end(run, RunFinished(status="failed", fault=_no_plan(run)))
        if plan is not None:
            examined = examine(plan, _terms(run, plan))
            if examined.certificate is not None:
                accepted = PlanAccepted(revision=run.revision, plan=examined.plan, certificate=examined.certificate)
                return _undo_first(run, accepted) or Record(accepted)
            problems = examined.problems
        return Record(PlanRejected(revision=run.revision, attempt=run.attempt, problems=problems))
    if run.planner_fault is not None and run.planner_fault.code not in CANDIDATE_FAULTS:
        reason = "the planner could not be asked"
        return _end(run, RunFinished(status="failed", reason=reason, fault=run.planner_fault))
    if run.attempt >= len(LADDER):
        reason = "no other way was found" if run.failures else "no valid plan"
        return _end(run, RunFinished(status="failed", reason=reason, fault=run.planner_fault or _no_plan(run)))
    over = run.refused or refusal(run.started.setup.budget, run.spent, NOTHING, planning_amount(run))
    if over:
        return _end(run, RunFinished(status="over_budget", reason=over))
    temperature, is_told = LADDER[run.attempt]
    if run.revision > 1:  # the coldest answer is the one that failed
        temperature = max(temperature, LADDER[1][0])
    setup = run.started.setup
    offered = retrieve(
        run.started.goal,
        {name: callee for name, callee in setup.catalogue.items() if setup.offers(callee)},
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
        corrections=len(run.corrections),
    )


def planning_amount(run: Run) -> Amount:
    """What one answer of the planner uses at most: a token for each byte it reads, and what it may write."""
    setup = run.started.setup
    told = sum(len(signature(callee).encode()) for callee in setup.callees) + len(run.started.goal.encode())
    read = 4_000 + told
    tokens = read + PLAN_TOKENS
    if setup.budget.cost_usd is None:
        return Amount(tokens=tokens, calls=0)
    return Amount(cost_usd=price(setup.rates.get("planner"), read, PLAN_TOKENS), tokens=tokens, calls=0)


def judging_amount(run: Run, outcome: Json, criteria: Collection[str]) -> Amount:
    """What judging the outcome by these criteria uses at most, each in an answer of its own."""
    setup, given = run.started.setup, json.dumps(outcome, ensure_ascii=False) + run.started.goal
    texts = [criterion.text for criterion in run.started.criteria if criterion.id in criteria]
    read = sum(PROMPT_TOKENS + len(f"{given}{text}".encode()) for text in texts)
    written = VERDICT_TOKENS * len(texts)
    if setup.budget.cost_usd is None:
        return Amount(tokens=read + written, calls=0)
    return Amount(cost_usd=price(setup.rates.get("validator"), read, written), tokens=read + written, calls=0)


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


def _terms(run: Run, plan: Plan) -> Terms:
    setup = run.started.setup
    is_given = run.given is not None
    return Terms(
        catalogue=setup.catalogue,
        policy=setup.policy,
        principal=run.started.principal,
        goal=run.started.goal,
        found=run.started.named,
        kept=() if is_given else kept_steps(run, stale_steps(run, plan)),
        abandoned=run.plan.steps if run.plan and _is_useless(run, run.plan) and not is_given else (),
        is_lenient=run.attempt >= len(LADDER) or is_given,
        is_given=is_given,
        done=frozenset(step.id for step in kept_steps(run)),
        rates=setup.rates,
        failed=() if is_given else tuple(failure.step for failure in run.failures if not failure.may_pass),
        said=run.proposal.label.integrity if run.proposal is not None else Integrity.TRUSTED,
        attachments=frozenset(one.name for one in run.started.attachments),
        may_go_on=may_go_on(run) and not is_given,
    )


def _is_useless(run: Run, last: Plan) -> bool:
    """Whether the same plan once more could only fail as it did: it was to be the last, and nothing passes."""
    return last.then == "done" and not any(failure.may_pass for failure in run.failures)


def _undo_first(run: Run, accepted: PlanAccepted) -> Record | None:
    """What an accepted plan no longer wants is named before its steps are forgotten."""
    stale = stale_steps(run, accepted.plan)
    paths = tuple(path for path in undo.reversible(run) if root_of(path) in stale)
    return Record(UndoBegan(paths=paths)) if paths else None


# executing --------------------------------------------------------------------------------------------------


def _execute(run: Run) -> Iterator[Command]:
    assert run.plan is not None
    undoing = undo.next_one(run)
    if undoing is not None:
        yield from undoing
        return
    if stranded := undo.stranded(run, is_over=False):
        yield Record(UndoBegan(paths=stranded))
        return
    view = values.View(run, run.plan)
    failure = next(failures_of(run), None)
    is_open = failure is None and not run.is_corrected and not run.refused
    wanted = list(advance(view, values.Frame(steps=run.plan.steps, decided_by=run.said), is_open=is_open))
    able = affordable(run, wanted)
    over = run.refused or able.over
    if able.commands:
        yield from able.commands
    elif in_flight(run) or able.is_waiting:
        return
    elif run.is_corrected:
        yield Record(PlanAbandoned(revision=run.revision + 1, reason="corrected"))
    elif failure is not None and (stranded := undo.stranded(run, is_over=True)):
        yield Record(UndoBegan(paths=stranded))
    elif failure is not None or all(view.outcome(step.id) is not None for step in run.plan.steps):
        yield _settle(view)
    elif over:
        yield from _run_out(run, over)


def _run_out(run: Run, over: str) -> Iterator[Command]:
    """A limit is reached: an answer from what is there, if that is wanted, else the end."""
    assert run.plan is not None
    shortage = run.started.setup.shortage
    open_ = [path for path in _open_paths(run) if shortage is not None and shortage.partial]
    for path in open_:
        yield Record(StepSkipped(path=path, cause="budget"))
    if open_:
        return
    if stranded := undo.stranded(run, is_over=True):  # what was refused is to be known when they are taken back
        yield Record(UndoBegan(paths=stranded) if run.refused else BudgetRefused(account="run", reason=over))
    else:
        lost = values.lost(values.View(run, run.plan))
        yield _end(run, RunFinished(status="over_budget", reason=over, degraded=lost))


def _open_paths(run: Run) -> list[StepPath]:
    """What has not begun, or only knows its arguments, or waits to be made; never what may have happened."""
    assert run.plan is not None
    places = [step.id for step in run.plan.steps]
    for path, state in run.steps.items():
        places += item_paths(run, path)
        if state.status == "entered":
            block = run.plan.index[split_path(path)[0]]
            held = block.do if state.branch == "do" else block.else_
            places += [inner_path(path, step.id) for step in held]
    ready = [path for path, state in run.steps.items() if _is_ready(state)]
    return [*ready, *(path for path in places if run.step(path).status == "new")]


def _is_ready(state: StepState) -> bool:
    is_approved = state.status == "answered" and state.question in {"approve", "failed"} and state.answer != "late"
    return state.status == "resolved" or is_approved


# settling ---------------------------------------------------------------------------------------------------


def _settle(view: values.View) -> Command:
    """Nothing is under way any more: replan, fail, or look at the outcome."""
    failure = next(failures_of(view.run), None)
    if failure is not None:
        return _give_up(view.run, failure.fault, reason=f"step `{failure.path}` failed")
    if view.plan.then == "plan":
        return Record(PlanAbandoned(revision=view.run.revision + 1, reason="it goes on", is_next=True))
    try:
        decided = review(view)
    except PlanError as error:
        return _give_up(view.run, fault_of(error), reason="the answer cannot be made")
    if isinstance(decided, tuple):
        run = view.run
        wanted = judging_amount(run, values.answer(view).value, decided)
        if run.refused or refusal(run.started.setup.budget, run.spent, NOTHING, wanted):
            return Record(ReviewInconclusive(criteria=decided))
        return AskValidator(decided, revision=view.run.revision, corrections=len(view.run.corrections))
    return Record(decided)


def _give_up(run: Run, fault: Fault, *, reason: str) -> Record:
    """Another revision where a planner may still find a way, else the end."""
    if fault.error_class == "denied":
        return _end(run, RunFinished(status="denied", reason=reason, fault=fault))
    if fault.code == TIME_IS_UP:
        return _end(run, RunFinished(status="over_budget", reason=reason, fault=fault))
    is_hopeless = fault.error_class == "missing" and _lacks_input(run)
    if is_hopeless or not _may_replan(run):
        return _end(run, RunFinished(status="failed", reason=reason, fault=fault))
    return Record(PlanAbandoned(revision=run.revision + 1, reason=reason))


def _end(run: Run, end: RunFinished) -> Record:
    """The end, with what should have been taken back on the way to it, and could not be."""
    return Record(end.model_copy(update={"left": undo_report(run)[1]}))


def _lacks_input(run: Run) -> bool:
    """Whether the goal reads something that does not exist: no other plan can help, and none may make it up."""
    return any(item.is_absent_source for item in run.started.named)


def may_go_on(run: Run) -> bool:
    """Whether the planner may see what the steps gave, and plan on from there."""
    return run.started.setup.policy.mode == "open" and run.turns < run.started.setup.max_turns


def _may_replan(run: Run) -> bool:
    """Whether another plan may be tried; never with an effect in doubt, for that plan might repeat it."""
    in_doubt = any(is_undecided(state) for state in run.steps.values())
    replans = run.started.setup.max_replans + len(run.corrections)
    is_planned = run.started.plan is None and not any(correction.plan for correction in run.corrections)
    return is_planned and run.revision - run.turns <= replans and not in_doubt


def _conclude(run: Run) -> Record:
    assert run.plan is not None
    if run.is_corrected:
        return Record(PlanAbandoned(revision=run.revision + 1, reason="corrected"))
    view = values.View(run, run.plan)
    degraded = values.lost(view)
    result = values.answer(view)
    if run.started.parent is None:  # else a plan gets it, and no person
        result = shown_to(result, run.started.principal.name)
    match run.review:
        case "passed":
            return _end(run, RunFinished(status="completed", result=result, degraded=degraded))
        case "inconclusive":
            return _end(run, RunFinished(status="unverified", result=result, degraded=degraded))
        case _ if _may_replan(run):
            return Record(PlanAbandoned(revision=run.revision + 1, reason="a criterion failed"))
        case _:
            unmet = ", ".join(run.unmet)
            end = RunFinished(status="rejected", reason=f"not met: {unmet}", result=result, degraded=degraded)
            return _end(run, end)
