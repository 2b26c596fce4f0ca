"""What can be read of a run: what the gate decided, what is asked, and what its steps gave.

Rules of the file:
- Everything follows from the events of the run; nothing here asks the world or changes a thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from planner.cards import Card, asked, card_of
from planner.core.catalog import Callee
from planner.core.events import (
    HumanAnswered,
    PlanAccepted,
    PlanRejected,
    Recorded,
    StepJudged,
    StepResolved,
)
from planner.core.labels import Labelled
from planner.core.plan import Plan, StepPath, beside, every_step, role_of, split_path
from planner.core.policy import Request, Verdict, judge
from planner.core.run import Run
from planner.core.state import callee_at, evolve
from planner.core.values import View

Stage: TypeAlias = Literal["plan", "call", "again", "person"]
"""When a plan is checked; when a call's arguments are known; when it is judged once more; when a person answers."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate, or a person whom it asked, said to one call."""

    path: StepPath
    callee: str
    arguments: Labelled | None
    """With the label of every leaf; None at the stage `plan`, where they are not known."""
    verdict: Verdict
    """`then`, the `rules` that gave it, the `reason`, and the version of the policy."""
    at: datetime
    stage: Stage


def decisions(history: Sequence[Recorded]) -> tuple[Decision, ...]:
    """Everything that was decided about calls, in order, whatever came of it."""
    found: list[Decision] = []
    run: Run | None = None
    for recorded in history:
        before, run = run, evolve(run, recorded)
        found.extend(_decided(before or run, run, recorded))
    return tuple(found)


def _decided(before: Run, run: Run, recorded: Recorded) -> Iterator[Decision]:
    at = recorded.at
    match recorded.event:
        case PlanAccepted(plan=plan):
            yield from (Decision(*parts, at, "plan") for parts in _planned(run, plan))
        case PlanRejected():
            candidate = before.proposal.plan if before.proposal is not None else before.given
            refused = _planned(run, candidate) if candidate is not None else ()
            yield from (Decision(*parts, at, "plan") for parts in refused if parts[-1].then == "deny")
        case StepResolved(path=path, arguments=arguments, verdict=Verdict() as verdict):
            yield Decision(path, callee_at(run, path), arguments, verdict, at, "call")
        case StepJudged(path=path, verdict=verdict):
            yield Decision(path, callee_at(run, path), run.step(path).arguments, verdict, at, "again")
        case HumanAnswered(path=path) as event if before.step(path).question == "approve":
            yield Decision(path, callee_at(run, path), run.step(path).arguments, _said(run, event), at, "person")
        case _:
            return


def _planned(run: Run, plan: Plan) -> Iterator[tuple[StepPath, str, None, Verdict]]:
    """What the gate says to each call of a plan while nothing but the callee is known."""
    setup = run.started.setup
    for path, name in _calls(plan):
        callee: Callee | None = setup.catalogue.get(name)
        if callee is not None:
            yield path, name, None, judge(setup.policy, Request(run.started.principal, callee))


def _calls(plan: Plan) -> Iterator[tuple[StepPath, str]]:
    for step in every_step(plan.steps):
        if step.use is not None:
            yield step.id, step.use
        if step.on_error.fallback is not None:
            yield beside(step.id, "fallback"), step.on_error.fallback.use


def _said(run: Run, event: HumanAnswered) -> Verdict:
    """A person's answer to a card as a verdict."""
    return Verdict(
        then="deny" if event.answer == "no" else "allow",
        rules=(f"person:{event.answer}",),
        reason=f"`{event.by}` answered `{event.answer}`",
        policy_version=run.started.setup.policy.version,
    )


def cards(run: Run) -> tuple[Card, ...]:
    """The open questions, one card for each step that asks."""
    return tuple(card_of(run, path) for path in asked(run))


def values(run: Run) -> Mapping[StepPath, Labelled]:
    """What each finished step of the plan gave, by its path: `s4`, or `s4[2]` for an item of a map."""
    if run.plan is None:
        return {}
    view = View(run, run.plan)
    known = (path for path in run.steps if role_of(path) == "call" and split_path(path)[0] in run.plan.index)
    return {path: given for path in known if isinstance(given := view.outcome(path), Labelled)}
