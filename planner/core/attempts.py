"""The life of one call whose arguments are known: admitted, made, asked about, tried again, found out about.

Rules of the file:
- An effect in doubt is never simply repeated: its declaration says how to find out.
- A question or a wait is not performed: an event begins it, and another one ends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from math import isfinite

from planner.core import gate, order
from planner.core.catalog import Callee
from planner.core.commands import AskHuman, Call, Command, Probe, Record, ScheduleRetry, StartTimer
from planner.core.events import (
    Fault,
    HumanAsked,
    StepFailed,
    StepInDoubt,
    StepSkipped,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from planner.core.forecast import BACKOFF_S, TRIES
from planner.core.labels import TRUSTED, Json, Label, Labelled
from planner.core.ledger import NOTHING, Amount, Budget, estimate, narrower, rest, share
from planner.core.plan import (
    OnError,
    Step,
    StepPath,
    beside,
    inner_path,
    item_path,
    own_path,
    place_of,
    role_of,
    split_path,
    stand_in,
)
from planner.core.policy import Verdict
from planner.core.provenance import labelled
from planner.core.run import (
    Run,
    StepState,
    has_ended,
    item_paths,
    last_path,
    may_ask,
    may_retry,
    takes,
)
from planner.core.state import account, accounts_of, callee_at, held_in, holds
from planner.core.values import View

LONGEST_REST_S = 86_400.0
"""A day: the most that a `Retry-After` counts for, as it does in `llm`."""
UNDO_STEP = Step(id="undo", on_error=OnError(retry=3))
"""What takes an effect back is tried again like a step that says so."""


def callee_of(run: Run, path: StepPath) -> Callee:
    """What is called at `path`."""
    return run.started.setup.catalogue[callee_at(run, path)]


def go_on(view: View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """The next command for a call whose arguments are known; no new call unless `is_open`."""
    if is_open and gate.is_due(view.run, path):
        yield Record(gate.rejudged(view.run, path))
    else:
        yield from _next(view, step, path, is_open=is_open)


def _next(view: View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    run, state = view.run, view.run.step(path)
    match state.status:
        case "resolved":
            yield from _admit(view, step, path, is_open=is_open)
        case "asked" if is_open or state.question == "happened":
            yield from _asked(run, path, state)
        case "answered" | "in_doubt" if not is_open and _is_put_off(run, path):
            return
        case "answered":
            yield from _answered(view, step, path, is_open=is_open)
        case "waiting" if is_open:
            yield from _waiting(run, path, state)
        case "fired":
            yield Record(_fired(run, path, state))
        case "interrupted" if is_open or not _is_nested(run, path):
            yield _interrupted(run, step, path)
        case "in_doubt":
            yield resolve_doubt(run, step, path, is_open=is_open)
        case "failed" | "retrying" if is_open:
            yield from _after_failure(run, step, path, state)
        case _:
            return


def _is_put_off(run: Run, path: StepPath) -> bool:
    """Whether a call is known not to have happened, so that the corrected plan may make it."""
    state = run.step(path)
    is_looking = state.status == "in_doubt" and callee_of(run, path).is_reading
    is_known = state.answer == "no" and (state.status == "in_doubt" or state.question == "happened")
    return run.is_corrected and not run.is_cancelled and (is_looking or is_known)


def _after_failure(run: Run, step: Step, path: StepPath, state: StepState) -> Iterator[Command]:
    """A pause and another attempt, or a question what to do."""
    if state.status == "retrying" and state.due is not None:
        yield StartTimer(path, state.due)
    elif may_retry(step, state):
        yield ScheduleRetry(path, state.attempt, BACKOFF_S * 2 ** (state.failures - 1), least_s=_asked_s(state))
    elif may_ask(run, step, path):
        yield _ask_what_now(run, path, state)


def _asked_s(state: StepState) -> float:
    """How long the other side asked to be left alone; it may say anything, but it is asked again within a day."""
    asked_s = state.fault.retry_after_s if state.fault is not None else None
    return max(0.0, min(LONGEST_REST_S, asked_s or 0.0))


def _admit(view: View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """What the gate said decides: call, ask a person, or fail."""
    run, state = view.run, view.run.step(path)
    if state.verdict is not None and state.verdict.then == "deny":
        yield Record(denied(path, "A-101", state.verdict.reason))
    elif not is_open:
        return
    elif callee_of(run, path).kind in {"human", "gate", "wait"}:
        if is_turn(view, step, path):
            yield Record(_begun(run, step, path, state))
    elif state.verdict is not None and state.verdict.then == "ask":
        if run.started.setup.on_ask == "deny":
            yield Record(denied(path, "A-102", f"{state.verdict.reason}, and nobody is there to ask"))
        else:
            yield Record(_approval(run, step, path, state.verdict))
    elif is_turn(view, step, path):
        yield _call_or_runaway(view, step, path)


def _approval(run: Run, step: Step, path: StepPath, verdict: Verdict) -> HumanAsked:
    return HumanAsked(
        path=path,
        question="approve",
        reason=verdict.reason,
        timeout_s=step.timeout_s,
        binding=gate.binding(run, path),
    )


def denied(path: StepPath, code: str, reason: str) -> StepFailed:
    """The gate or a person refused the call."""
    return StepFailed(path=path, fault=Fault(code=code, error_class="denied", message=reason))


# questions and waits ------------------------------------------------------------------------------------------


def _given(state: StepState, name: str, otherwise: Json = None) -> Json:
    value = state.arguments.value if state.arguments is not None else None
    found = value.get(name) if isinstance(value, dict) else None
    return otherwise if found is None else found


def _begun(run: Run, step: Step, path: StepPath, state: StepState) -> HumanAsked | WaitStarted | StepFailed:
    """The event with which a question or a wait begins."""
    callee = callee_of(run, path)
    if callee.kind == "wait":
        return _wait(callee, step, path, state)
    if run.started.setup.on_ask == "deny":
        return denied(path, "A-102", f"`{callee.name}` asks a person, and nobody is there to ask")
    question, role = ("approve", "user") if callee.kind == "gate" else ("answer", callee.name.partition(".")[2])
    what = str(_given(state, "what" if callee.kind == "gate" else "question", ""))
    return HumanAsked.model_validate(
        {"path": path, "question": question, "reason": what, "role": role, "timeout_s": step.timeout_s}
    )


def _wait(callee: Callee, step: Step, path: StepPath, state: StepState) -> WaitStarted | StepFailed:
    if callee.name == "wait.event":
        match = _given(state, "match", {})
        fields = match if isinstance(match, dict) else {}
        return WaitStarted(path=path, seconds=step.timeout_s, name=str(_given(state, "name", "")), match=fields)
    seconds, at = _given(state, "seconds"), _given(state, "at")
    try:
        if isinstance(seconds, int | float | str) and at is None and isfinite(float(seconds)):
            return WaitStarted(path=path, seconds=max(0.0, float(seconds)))
        until = datetime.fromisoformat(str(at))
        return WaitStarted(path=path, until=until.replace(tzinfo=UTC) if until.tzinfo is None else until)
    except (ValueError, OverflowError):
        wanted = "`at`, a time such as 2026-12-04T09:00Z, or `seconds`"
        what = f"`{callee.name}` needs {wanted}; it got {at!r} and {seconds!r}"
        return StepFailed(path=path, fault=Fault(code="P-303", error_class="invalid", message=what))


def _waiting(run: Run, path: StepPath, state: StepState) -> Iterator[Command]:
    """The oldest event that fits, if there is one; else the timer, if there is one."""
    received = next((seq for seq, event in run.mailbox.items() if takes(state, event)), None)
    if received is not None:
        yield Record(WaitEnded(path=path, received=received))
    elif state.due is not None:
        yield StartTimer(path, state.due)


def _fired(run: Run, path: StepPath, state: StepState) -> StepSucceeded | StepFailed:
    """A wait that ended: with an event, with its time, or too late."""
    if state.answered is not None:
        return StepSucceeded(path=path, value=state.answered)
    if state.wanted is None:
        return StepSucceeded(path=path, value=Labelled(value=run.at.isoformat()))
    return _late(path, f"no event `{state.wanted[0]}` came in time")


def _late(path: StepPath, what: str) -> StepFailed:
    return StepFailed(path=path, fault=Fault(code="A-106", error_class="unavailable", message=what))


def _asked(run: Run, path: StepPath, state: StepState) -> Iterator[Command]:
    """Until somebody answers, or the time for it is over; a cancelled run waits for nobody."""
    if run.is_cancelled:
        yield Record(_unknown(run, path))
        return
    yield AskHuman(path)
    if state.due is not None:
        yield StartTimer(path, state.due)


def _ask_what_now(run: Run, path: StepPath, state: StepState) -> Record:
    fault = state.fault
    assert fault is not None, "a failed call has a fault"
    what = f"`{callee_of(run, path).name}` failed ({fault.code}, {fault.error_class}); retry, skip or fail?"
    return Record(HumanAsked(path=path, question="failed", reason=what))


def _answered(view: View, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    run, state = view.run, view.run.step(path)
    callee = callee_of(run, path)
    match state.question, state.answer:
        case _, "late":
            yield Record(_late(path, "nobody answered in time"))
        case "approve", "no":
            yield Record(denied(path, "A-103", "a person denied it"))
        case "approve", _ if callee.kind == "gate":
            yield Record(StepSucceeded(path=path, value=Labelled(value=True, label=_said(state))))
        case "answer", _:
            yield Record(StepSucceeded(path=path, value=state.answered or Labelled()))
        case "happened", "yes":
            yield _happened(run, path)
        case "happened", _ if not is_open or _is_poison(callee, state):
            yield Record(_without_effect(path, callee, state))
        case "failed", "skip":
            yield Record(StepSkipped(path=path, cause="failure"))
        case "failed", "fail" if state.fault is not None:
            yield Record(StepFailed(path=path, fault=state.fault))
        case _:
            if is_open and is_turn(view, step, path):
                yield call(run, step, path)


def _said(state: StepState) -> Label:
    return state.answered.label if state.answered is not None else TRUSTED


# doubt --------------------------------------------------------------------------------------------------------


def _is_nested(run: Run, path: StepPath) -> bool:
    """Whether the call is a run of its own, which need not go on for its outcome to be known."""
    return role_of(path) == "call" and callee_of(run, path).kind == "plan"


def _interrupted(run: Run, step: Step, path: StepPath) -> Command:
    """The process that made the call ended: again, if that is harmless and did not end it time and again."""
    callee, state = callee_of(run, path), run.step(path)
    is_repeatable = callee.is_reading or callee.declaration.on_doubt == "idempotent"
    may_repeat = gate.may_repeat(state)
    if is_repeatable and may_repeat and not _is_poison(callee, state):
        return call(run, step, path)
    if callee.is_reading:
        return Record(_poisoned(path, callee, state) if may_repeat else _no_more(path, state))
    return Record(StepInDoubt(path=path, reason="the process that made the call ended"))


def _is_poison(callee: Callee, state: StepState) -> bool:
    """Whether a call ended its process as often as it may; a nested run goes on by itself, and ends nothing."""
    return state.crashes >= TRIES and callee.kind != "plan"


def _poisoned(path: StepPath, callee: Callee, state: StepState) -> StepFailed:
    what = f"the process ended {state.crashes} times while it called `{callee.name}`"
    return StepFailed(path=path, fault=Fault(code="A-107", error_class="conflict", message=what))


def _no_more(path: StepPath, state: StepState) -> StepFailed:
    """What only looked is not made again without a person, whom nobody asks in the middle of a call."""
    return denied(path, "A-101", state.verdict.reason if state.verdict is not None else "")


def _happened(run: Run, path: StepPath) -> Record:
    """The effect took place, but what the call gave is lost."""
    return Record(StepSucceeded(path=path, value=labelled(run, path, callee_of(run, path), None)))


def _without_effect(path: StepPath, callee: Callee, state: StepState) -> StepFailed:
    if _is_poison(callee, state):
        return _poisoned(path, callee, state)
    reason = f"`{callee.name}` gave no answer, and did not happen"
    return StepFailed(path=path, fault=Fault(code="A-105", error_class="unavailable", message=reason))


def _unknown(run: Run, path: StepPath) -> StepFailed:
    reason = f"nobody could say whether `{callee_of(run, path).name}` happened"
    return StepFailed(path=path, fault=Fault(code="A-104", error_class="conflict", message=reason))


def resolve_doubt(run: Run, step: Step, path: StepPath, *, is_open: bool) -> Command:
    """How to find out whether an effect happened, or what follows once that is known."""
    state, callee = run.step(path), callee_of(run, path)
    may_repeat = gate.may_repeat(state)
    match callee.declaration.on_doubt, "no" if callee.is_reading else state.answer:
        case _, "yes":
            return _happened(run, path)
        case _, "no" if state.doubts > TRIES or not is_open or not may_repeat or _is_poison(callee, state):
            return Record(_without_effect(path, callee, state))
        case ("idempotent", _) | (_, "no") if may_repeat and state.doubts <= TRIES and not _is_poison(callee, state):
            return call(run, step, path)
        case "probe", _ if not state.probed:
            return Probe(path, callee.name)
    if run.started.setup.on_ask == "deny" or run.is_cancelled:
        return Record(_unknown(run, path))
    reason = f"`{callee.name}` may or may not have happened"
    return Record(HumanAsked(path=path, question="happened", reason=reason))


# calling ------------------------------------------------------------------------------------------------------


def _call_or_runaway(view: View, step: Step, path: StepPath) -> Command:
    """The call, unless that many steps of a planner made it before: then something goes round in circles."""
    run, state = view.run, view.run.step(path)
    most, name = run.started.setup.max_same_calls, callee_at(run, path)
    if len(run.steps) > most and role_of(path) == "call" and run.started.plan is None:
        same = {
            split_path(other)[0]
            for other, theirs in run.steps.items()
            if theirs.attempt and theirs.arguments == state.arguments and callee_at(run, other) == name
        }
        if len(same - {step.id}) >= most:
            what = f"`{name}` was called with the same arguments by {len(same)} steps"
            return Record(StepFailed(path=path, fault=Fault(code="A-108", error_class="conflict", message=what)))
    return call(run, step, path)


def call(run: Run, step: Step, path: StepPath) -> Call:
    """The call, with what it may use at most and how long it may take."""
    state, callee = run.step(path), callee_of(run, path)
    own = state.key or hashlib.sha256(f"{run.id}\n{run.revision}\n{path}".encode()).hexdigest()[:32]
    setup, given = run.started.setup, state.arguments.value if state.arguments is not None else {}
    limits = [t for t in (step.timeout_s, callee.declaration.timeout_s) if t is not None]
    budget = _budget(run, path) if callee.kind == "plan" else Budget()
    held = estimate(callee, given, setup.rates.get(callee.name)) if callee.kind != "plan" else _nested(state, budget)
    return Call(
        path,
        callee.name,
        state.attempt + 1,
        own,
        held=held,
        is_cheaper=_is_cheaper(run, callee),
        limits=budget,
        timeout_s=min(limits, default=None),
        priority=step.priority,
    )


def _is_cheaper(run: Run, callee: Callee) -> bool:
    """Whether an agent is played by the cheaper model, because the budget is short."""
    shortage = run.started.setup.shortage
    return callee.kind == "agent" and shortage is not None and shortage.cheaper and is_short(run)


def is_short(run: Run) -> bool:
    """Whether so much of the budget is used that the run does without some things."""
    shortage = run.started.setup.shortage
    return shortage is not None and share(run.started.setup.budget, run.spent) >= shortage.at


def _budget(run: Run, path: StepPath) -> Budget:
    """What a nested run may use: what is left of every budget that it counts towards, but for its own call."""
    held = {other: amount for other, amount in holds(run).items() if other != path}
    budget = Budget()
    for name in ("", *accounts_of(run, path)):
        limit, spent = account(run, name)
        budget = narrower(budget, rest(limit, spent, held_in(run, name, held)))
    own = 0 if run.step(path).attempt else 1
    return budget if budget.calls is None else budget.model_copy(update={"calls": max(0, budget.calls - own)})


def _nested(state: StepState, budget: Budget) -> Amount:
    """What a nested run may use; one that goes on keeps what it was given."""
    if state.held is not NOTHING:
        return state.held
    return Amount(cost_usd=budget.cost_usd or 0.0, tokens=budget.tokens or 0, calls=1 + (budget.calls or 0))


# order --------------------------------------------------------------------------------------------------------


def is_turn(view: View, step: Step, path: StepPath) -> bool:
    """Whether every earlier call on the same resource has ended: of the plan, the blocks around, and the maps."""
    if role_of(path) == "undo":
        return True  # effects are taken back one after the other
    callee = callee_of(view.run, path)
    mine = (callee, order.keys(callee, _arguments(view.run, step, path)))
    is_free = _looks(callee)
    at = own_path(path)
    while at:
        earlier = ((one, place) for one, place in _earlier(view, at) if not (is_free and _only_looks(view.run, one)))
        if any(_is_before(view, one, place, mine) for one, place in earlier):
            return False
        at = place_of(at)
    return True


def _looks(callee: Callee) -> bool:
    """Whether the order among such calls does not matter."""
    return callee.is_reading and callee.kind not in order.HALTS


def _only_looks(run: Run, step: Step) -> bool:
    """Whether that is all that a step does; asked for each earlier step of each call, so it must be quick."""
    callee = run.started.setup.catalogue.get(step.use or "")
    return callee is not None and step.on_error.fallback is None and _looks(callee)


def _earlier(view: View, path: StepPath) -> Iterator[tuple[Step, StepPath]]:
    """What stands before `path` in its plan or block, and the items before it in its map."""
    place, (id_, index) = place_of(path), split_path(path)
    around = view.plan.step(split_path(place)[0]) if place else None
    steps = _branch(view.run, around, place) if around is not None else view.plan.steps
    yield from ((step, inner_path(place, step.id)) for step in takewhile(lambda one: one.id != id_, steps))
    yield from ((view.plan.index[id_], item_path(inner_path(place, id_), i)) for i in range(index or 0))


def _branch(run: Run, block: Step, place: StepPath) -> tuple[Step, ...]:
    return block.do if run.step(place).branch == "do" else block.else_


def _is_before(view: View, step: Step, path: StepPath, mine: tuple[Callee, order.Keys]) -> bool:
    """Whether something at `path` has not ended that this call must wait for."""
    run, state = view.run, view.run.step(path)
    if state.status in {"succeeded", "skipped"}:
        return False
    if state.status == "mapped":
        return any(_is_before(view, step, item, mine) for item in item_paths(run, path))
    if step.is_block and state.status != "failed":
        held = _branch(run, step, path) if state.status == "entered" else step.inner
        if any(_is_before(view, one, inner_path(path, one.id), mine) for one in held):
            return True
    return not has_ended(run, step, path) and any(order.must_keep_order(c, mine) for c in _to_come(run, step, path))


def _to_come(run: Run, step: Step, path: StepPath) -> Iterator[tuple[Callee, order.Keys]]:
    """What a step that has not ended may touch: by its own call, if it is one, and by that which it falls back to."""
    last, at = last_path(run, step, path)
    calls = [(last, at)]
    if at == path and step.on_error.fallback is not None:
        calls.append((stand_in(step), beside(path, "fallback")))
    for one, place in calls:
        if one.use is not None:
            callee = run.started.setup.catalogue[one.use]
            yield callee, order.keys(callee, _arguments(run, one, place))


def _arguments(run: Run, step: Step, path: StepPath) -> dict[str, Json]:
    """The call's arguments as far as they are known: resolved, or as the plan writes them."""
    resolved = run.step(path).arguments
    if resolved is not None and isinstance(resolved.value, dict):
        return resolved.value
    return dict(step.args)
