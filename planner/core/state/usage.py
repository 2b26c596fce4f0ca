"""What events say was used, in the run's accounts."""

from __future__ import annotations

from planner.core.events import (
    Event,
    PlanProposed,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
    Usage,
)
from planner.core.ledger import NOTHING, Amount, Spent
from planner.core.moves import StepEvent
from planner.core.plan import (
    StepPath,
)
from planner.core.run import (
    Run,
    accounts_of,
    callee_at,
    replace,
    unsettled,
)


def settled(run: Run, event: Event, *, before: Run) -> Run:
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
        return with_lost(run, event.path)
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


def with_lost(run: Run, path: StepPath) -> Run:
    """With what a model may have used for a call whose outcome is lost: nobody knows, so all that was held.

    What a nested run holds stays held, for it goes on by itself.
    """
    callee = run.started.setup.catalogue.get(callee_at(run, path))
    if callee is None or callee.kind == "plan":
        return run
    return _released(_with_used(run, path, unsettled(run, path)), path)
