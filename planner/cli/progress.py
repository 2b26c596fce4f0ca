"""A run as people see it: folded from its events, and told in sentences.

Rules of the file:
- A reader of events and nothing else: a live run, and one from the journal, are told by the same code.
- Everything returned is safe to show: what models and tools wrote is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from planner.cli.terminal import excerpt, line, money
from planner.core import picture
from planner.core.events import (
    Fault,
    PlanAbandoned,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
    RunResumed,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from planner.core.labels import Json
from planner.core.plan import StepPath
from planner.core.run import Run
from planner.core.setup import Criterion
from planner.core.state import callee_at, evolve
from planner.rehearsal import is_rehearsal

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


# ---- sentences ---------------------------------------------------------------------------------------------


def costs(run: Run) -> str:
    """`1,234 tokens · $0.0012`; nothing where no model was asked."""
    spent = run.spent
    if not spent.tokens and not spent.unpriced:
        return ""
    return f"{spent.tokens:,} tokens · {money(None if spent.unpriced else spent.cost_usd)}"


def status(run: Run) -> str:
    """The run's status in words; one that nobody runs at the moment is planned or stopped."""
    said = _status(run)
    return f"dry run, {said}" if is_rehearsal(run.id) else said


def _status(run: Run) -> str:
    if is_planned(run):
        return "planned"
    if run.status == "running":
        return "stopped"
    return run.status.replace("_", " ")


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


def is_planned(run: Run) -> bool:
    """Whether the run was only to have a plan, of which nothing was carried out yet."""
    return run.plan is not None and not run.steps and run.is_paused


def use(run: Run, path: StepPath) -> str:
    """What is called at that path, or taken back there; `let` where nothing is."""
    return line(callee_at(run, path)) or "let"


def called(name: str, args: Mapping[str, Json]) -> str:
    """A call as a line: `files.read path=a.txt`."""
    return line(" ".join([name, *(f"{key}={excerpt(value, 40)}" for key, value in args.items())]), CALL_CHARACTERS)


def told(fault: Fault | None, limit: int = NOTE_CHARACTERS) -> str:
    """A fault as one line."""
    return "" if fault is None else line(f"[{fault.code}] {fault.message}", limit)


def certificate(run: Run) -> Iterator[str]:
    """What the check says of the plan: one line per effect, question, flow to be wary of, and so on."""
    if run.certificate is not None:
        yield from (line(text, CALL_CHARACTERS + 9) for text in picture.told(run.certificate))
