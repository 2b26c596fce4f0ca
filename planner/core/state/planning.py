"""Plans that come and go, and what a review says of their outcome."""

from __future__ import annotations

from typing import assert_never

from planner.core.correction import corrected_plan, forgotten, kept_states
from planner.core.events import (
    PlanAbandoned,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    ReviewFailed,
    ReviewInconclusive,
    ReviewPassed,
)
from planner.core.labels import TRUSTED, Integrity
from planner.core.run import (
    Proposal,
    Run,
    failures_of,
    in_flight,
    is_carried_out,
    replace,
)
from planner.core.state.legal import expect, require
from planner.errors import JournalError


def planned(run: Run, event: PlanProposed | PlannerFailed | PlanRejected | PlanAccepted) -> Run:
    """The run after a planner or the check spoke."""
    expect(run, "planning", event)
    is_answer = isinstance(event, PlanProposed | PlannerFailed)
    is_unchecked = run.proposal is not None or (run.given is not None and not run.rejected)
    if is_answer == is_unchecked or event.revision != run.revision:
        known = "a plan is still to be checked" if is_unchecked else "there is no plan to check"
        raise JournalError(
            "J-204", f"`{event.type}` of revision {event.revision}, but {known} in revision {run.revision}"
        )
    match event:
        case PlanProposed():
            proposal = Proposal(plan=event.plan, problems=event.problems, label=event.label)
            exposed = run.exposed + (event.label.integrity is Integrity.UNTRUSTED)
            return replace(run, proposal=proposal, attempt=event.attempt, planner_fault=None, exposed=exposed)
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
                said=run.proposal.label if run.proposal is not None else TRUSTED,
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


def abandoned(run: Run, event: PlanAbandoned) -> Run:
    """The run as it plans what is left anew."""
    if run.phase not in {"executing", "reviewing"} or event.revision != run.revision + 1:
        raise JournalError("J-204", f"`{event.type}` of revision {event.revision} is illegal while {run.phase}")
    require(event, not in_flight(run), "a call is under way")
    failures = (*run.failures, *failures_of(run))
    given = corrected_plan(run) if run.is_corrected else None
    return replace(
        run,
        phase="planning",
        revision=event.revision,
        turns=run.turns + event.is_next,
        failures=failures,
        review=None,
        given=given,
        is_corrected=False,
    )


def reviewed(run: Run, event: ReviewPassed | ReviewFailed | ReviewInconclusive) -> Run:
    """The run after its outcome was looked at."""
    expect(run, "executing", event)
    require(event, is_carried_out(run), "the plan has not been carried out")
    match event:
        case ReviewPassed():
            return replace(run, phase="reviewing", review="passed", unmet=())
        case ReviewFailed():
            return replace(run, phase="reviewing", review="failed", unmet=event.criteria)
        case ReviewInconclusive():
            return replace(run, phase="reviewing", review="inconclusive", unmet=event.criteria)
        case _:
            assert_never(event)
