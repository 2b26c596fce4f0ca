"""A run as people see it: folded from its events, and told in rows and sentences.

Rules of the file:
- A reader of events and nothing else: a live run, and one from the journal, are told by the same code.
- Everything returned is safe to show: what models and tools wrote is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from planner.cli.terminal import duration, excerpt, line, money
from planner.core import picture
from planner.core.events import (
    Fault,
    PlanAbandoned,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    RunFinished,
    RunResumed,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from planner.core.plan import Plan, Step, StepPath, split_path
from planner.core.run import Run, StepState, StepStatus, item_count
from planner.core.setup import Criterion
from planner.core.state import evolve

Mark: TypeAlias = Literal["pending", "running", "done", "failed", "skipped", "asked", "retrying", "doubt"]

MARK_OF: Mapping[StepStatus, Mark] = {
    "new": "pending",
    "resolved": "pending",
    "mapped": "pending",
    "entered": "running",
    "parked": "asked",
    "waiting": "asked",
    "fired": "pending",
    "started": "running",
    "interrupted": "doubt",
    "in_doubt": "doubt",
    "asked": "asked",
    "answered": "pending",
    "failed": "failed",
    "retrying": "retrying",
    "succeeded": "done",
    "skipped": "skipped",
}
CALL_CHARACTERS = 100
NOTE_CHARACTERS = 120


@dataclass(slots=True)
class Watch:
    """What has been seen of a run, with the times that its state does not keep."""

    run: Run | None = None
    since: datetime | None = None
    """When the first event was seen that belongs to this stretch of the run."""
    events: int = 0
    attempts: int = 0
    """Answers of the planner to the present plan."""
    trouble: str = ""
    """Why a planner was asked again."""
    began: dict[StepPath, datetime] = field(default_factory=dict)
    took: dict[StepPath, float] = field(default_factory=dict)

    def observe(self, recorded: Recorded) -> None:
        """Takes in one more event."""
        self.run = evolve(self.run, recorded)
        self.events += 1
        self.since = self.since or recorded.at
        match recorded.event:
            case RunResumed():
                self.since = recorded.at
            case PlanProposed() | PlannerFailed():
                self.attempts += 1
            case PlanRejected(problems=problems):
                self.trouble = problems[0].message if problems else "the answer was no plan"
            case PlanAbandoned(reason=reason):
                self.attempts, self.trouble = 0, reason
            case StepStarted(path=path):
                self.began[path] = recorded.at
            case StepSucceeded(path=path, seconds=seconds) | StepFailed(path=path, seconds=seconds):
                if path in self.began:
                    self.took[path] = seconds or (recorded.at - self.began[path]).total_seconds()
            case _:
                pass

    def elapsed(self, now: datetime) -> float:
        """Seconds that this stretch of the run has taken."""
        return (now - self.since).total_seconds() if self.since else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture: how it stands, which step, what it does, and what there is to say of it."""

    mark: Mark
    id: str
    call: str
    note: str = ""


# ---- rows --------------------------------------------------------------------------------------------------


def rows(watch: Watch, now: datetime) -> tuple[Row, ...]:
    """The plan and its steps as they stand; before there is a plan, the search for one."""
    run = watch.run
    if run is None:
        return ()
    steps = run.plan.steps if run.plan is not None else ()
    told = [_step_row(watch, run, step, now) for step in steps]
    if run.phase == "planning" or run.plan is None:
        return (*told, _planning_row(watch, run))
    return (_plan_row(watch, run, run.plan), *told)


def _planning_row(watch: Watch, run: Run) -> Row:
    which = "a plan" if run.revision == 1 else f"another plan (revision {run.revision})"
    trouble = line(watch.trouble, NOTE_CHARACTERS)
    attempt = f"attempt {watch.attempts + 1}, because {trouble}" if watch.attempts else trouble
    return Row("running" if run.finished is None else "failed", "plan", f"asking for {which}", attempt)


def _plan_row(watch: Watch, run: Run, plan: Plan) -> Row:
    count = "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"
    notes = [f"revision {run.revision}"] if run.revision > 1 else []
    notes += [f"at attempt {watch.attempts}"] if watch.attempts > 1 else []
    return Row("done", "plan", count, ", ".join(notes))


def certificate(run: Run) -> Iterator[str]:
    """What the check says of the plan: one line per effect, question, flow to be wary of, and so on."""
    if run.certificate is not None:
        yield from (line(text, CALL_CHARACTERS + 9) for text in picture.told(run.certificate))


def _step_row(watch: Watch, run: Run, step: Step, now: datetime) -> Row:
    state = run.step(step.id)
    if state.status == "mapped":
        return _map_row(watch, run, step, now)
    mark = MARK_OF[state.status]
    return Row(mark, step.id, call(step), _note(watch, run, step.id, state, now))


def row(watch: Watch, run: Run, path: StepPath, now: datetime) -> Row:
    """The row of one call, which may be an item of a map."""
    step = run.plan.step(split_path(path)[0]) if run.plan is not None else None
    state = run.step(path)
    return Row(MARK_OF[state.status], path, call(step) if step else "", _note(watch, run, path, state, now))


def _map_row(watch: Watch, run: Run, step: Step, now: datetime) -> Row:
    """One row for all items: how many are done, and the first that has something to say."""
    total = item_count(run.step(step.id))
    items = {path: state for path, state in run.steps.items() if split_path(path)[0] == step.id and path != step.id}
    marks = {path: MARK_OF[state.status] for path, state in items.items()}
    ended = sum(state.is_done for state in items.values())
    order: tuple[Mark, ...] = ("asked", "doubt", "retrying", "running", "failed")
    mark = next((m for m in order if m in marks.values()), "done" if ended == total else "pending")
    notes = [f"{ended}/{total}"]
    if mark in {"asked", "doubt", "retrying", "failed"}:
        path = next(path for path, m in marks.items() if m == mark)
        notes.append(f"{path}: {_note(watch, run, path, items[path], now)}")
    elif items and mark in {"running", "done"}:
        notes.append(duration(_span(watch, step, now, is_over=ended == total)))
    return Row(mark, step.id, call(step), "  ".join(notes))


def _span(watch: Watch, step: Step, now: datetime, *, is_over: bool) -> float:
    began = {path: at for path, at in watch.began.items() if split_path(path)[0] == step.id}
    if not began:
        return 0.0
    first = min(began.values())
    ends = [(at - first).total_seconds() + watch.took.get(path, 0.0) for path, at in began.items()]
    return max(ends) if is_over else (now - first).total_seconds()


def _note(watch: Watch, run: Run, path: StepPath, state: StepState, now: datetime) -> str:
    match state.status:
        case "started":
            retry = f"  attempt {state.attempt}" if state.attempt > 1 else ""
            return duration((now - watch.began.get(path, now)).total_seconds()) + retry
        case "succeeded":
            return duration(watch.took[path]) if path in watch.took else ""
        case "failed":
            return told(state.fault)
        case "skipped":
            return "not needed" if state.cause == "condition" else "what it reads is missing"
        case "asked":
            return f"waits for a person: {line(state.reason, NOTE_CHARACTERS)}"
        case "retrying":
            left = (state.due - now).total_seconds() if state.due else 0.0
            return f"again in {duration(max(0.0, left))}: {told(state.fault)}"
        case "in_doubt" | "interrupted":
            return "nobody knows whether it happened"
        case _:
            return "not run" if run.finished is not None else ""


def call(step: Step) -> str:
    """What a step does, in the plan's own words: `files.read path=a.txt`."""
    if step.use is None:
        words = f"let {excerpt(step.let)}"
    else:
        words = " ".join([step.use, *(f"{name}={excerpt(value, 40)}" for name, value in step.args.items())])
    each = f"  for each of {excerpt(step.for_each, 30)}" if step.is_map else ""
    condition = f"  if {step.if_}" if step.if_ is not None else ""
    return line(words + each + condition, CALL_CHARACTERS)


def told(fault: Fault | None, limit: int = NOTE_CHARACTERS) -> str:
    """A fault as one line."""
    return "" if fault is None else line(f"[{fault.code}] {fault.message}", limit)


# ---- sentences ---------------------------------------------------------------------------------------------


def count(run: Run) -> str:
    """`3/5 steps`, or nothing before there is a plan."""
    if run.plan is None or not run.plan.steps:
        return ""
    done = sum(_has_ended(run, step) for step in run.plan.steps)
    return f"{done}/{len(run.plan.steps)} steps"


def _has_ended(run: Run, step: Step) -> bool:
    state = run.step(step.id)
    if state.status != "mapped":
        return state.is_done
    items = [s for path, s in run.steps.items() if split_path(path)[0] == step.id and path != step.id]
    return sum(item.is_done for item in items) == item_count(state)


def costs(run: Run) -> str:
    """`1,234 tokens · $0.0012`; nothing where no model was asked."""
    spent = run.spent
    if not spent.tokens and not spent.unpriced:
        return ""
    return f"{spent.tokens:,} tokens · {money(None if spent.unpriced else spent.cost_usd)}"


def status(run: Run) -> str:
    """The run's status in words; one that nobody runs at the moment is planned or stopped."""
    if run.status == "running":
        return "planned" if run.plan is not None and not run.steps else "stopped"
    return run.status.replace("_", " ")


def ending(watch: Watch) -> Iterator[str]:
    """How a run ended, or why it has not: a headline, then what there is to add."""
    run = watch.run
    if run is None:
        return
    facts = [status(run), duration(watch.elapsed(run.at)), costs(run), f"run {run.id}"]
    yield " · ".join(fact for fact in facts if fact)
    if run.finished is not None:
        yield from _why(run, run.finished)
    for path, state in run.steps.items():
        if run.finished is None and state.status == "asked":
            yield f"  {path} {use(run, path)} waits for a person: {line(state.reason)}"
    if run.finished is None:
        yield f"  {'to answer' if run.status == 'waiting' else 'to go on'}: planner runs resume {run.id}"


def _why(run: Run, finished: RunFinished) -> Iterator[str]:
    if finished.status not in {"completed", "unverified"} and finished.reason:
        yield f"  {line(finished.reason)}"
    if finished.fault is not None:
        yield f"  {told(finished.fault, 600)}"
        if finished.fault.choices:
            yield f"  valid: {line(', '.join(finished.fault.choices), NOTE_CHARACTERS)}"
    if finished.status in {"unverified", "rejected"}:
        yield from (f"  {verdict}: {text}" for verdict, text in criteria(run) if verdict != "met")
    if finished.status == "unverified" and not run.started.criteria:
        yield "  nothing failed, and no criterion said when the goal is met; --success TEXT adds one"
    if finished.degraded:
        yield f"  went on without {', '.join(finished.degraded)}, which failed"


def criteria(run: Run) -> Iterator[tuple[str, str]]:
    """Each criterion of the run with what is known of it: met, not met, undecided or open."""
    for criterion in run.started.criteria:
        if run.review is None:
            verdict = "open"
        elif criterion.id not in run.unmet:
            verdict = "met" if run.review != "failed" else "open"
        else:
            verdict = "not met" if run.review == "failed" else "undecided"
        yield verdict, _worded(criterion)


def _worded(criterion: Criterion) -> str:
    match criterion.kind:
        case "written":
            return f"{line(criterion.text)} is written"
        case "expression":
            return f"{line(criterion.text)} holds"
        case "text":
            return line(criterion.text)


def use(run: Run, path: StepPath) -> str:
    """What the step of that path calls."""
    step = run.plan.step(split_path(path)[0]) if run.plan is not None else None
    return line(step.use) if step is not None and step.use is not None else "let"
