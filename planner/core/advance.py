"""How a plan goes on: steps begin when their inputs are there, maps start their items, blocks what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from planner.core import attempts, values
from planner.core.commands import AskHuman, Command, Record
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    MapResolved,
    StepFailed,
    StepResolved,
    StepSkipped,
    StepSucceeded,
)
from planner.core.expr import Missing, Scope, expression_names, may_miss, names
from planner.core.forecast import ACTIVE_ITEMS
from planner.core.gate import judged
from planner.core.labels import Json, Label, Labelled, join
from planner.core.plan import Step, StepPath, beside, inner_path, map_path, opening, own_names, stand_in
from planner.core.run import StepState, failures_in, falls_back, has_ended, has_failed, item_paths, last_path
from planner.core.values import Frame, View
from planner.errors import PlanError


def advance(view: View, frame: Frame, *, is_open: bool) -> Iterator[Command]:
    """The commands for the steps of the plan, or of a block; nothing new begins unless `is_open`."""
    for step in frame.steps:
        path = inner_path(frame.place, step.id)
        state = view.run.step(path)
        match state.status:
            case "new":
                if is_open:
                    yield from _begin(view, frame, step, path)
            case "mapped":
                yield from _items(view, frame, step, path, is_open=is_open)
            case "succeeded" | "skipped":
                continue
            case _:
                yield from _one(view, frame, step, path, {}, is_open=is_open)


def _begin(view: View, frame: Frame, step: Step, path: StepPath) -> Iterator[Command]:
    """Resolve a step as soon as everything it needs has ended."""
    needed = opening(step)
    seen = values.scope(view, frame, needed | frozenset(step.after))
    if seen is None:
        return
    gone = _gone(step, needed, seen)
    if gone:
        cause: Literal["failure", "condition"] = "failure" if any(m.reason == "failed" for m in gone) else "condition"
        yield Record(
            StepSkipped(path=path, cause=cause, decided_by=join((m.label for m in gone), start=frame.decided_by))
        )
        return
    yield Record(_begun(view, frame, step, path, seen, items=None))


def _begun(view: View, frame: Frame, step: Step, path: StepPath, seen: Scope, *, items: Labelled | None) -> Event:
    """What comes of a step, or of one of the `items` of a map, whose inputs are there."""
    try:
        if step.is_map and items is None:
            return _map(view, frame, step, path, seen)
        return _resolve(view, frame, step, path, seen, items=items)
    except PlanError as error:
        return StepFailed(path=path, fault=fault_of(error), decided_by=_read(seen).joined(frame.decided_by))


def _read(seen: Scope) -> Label:
    """The label of all that an evaluation may have looked at."""
    return join(value.label if isinstance(value, Missing) else value.overall() for value in seen.values())


def fault_of(error: PlanError) -> Fault:
    """What cannot be computed, as events say it."""
    return Fault(code=error.code, error_class=error.error_class, message=error.message)


def _gone(step: Step, needed: frozenset[str], seen: Scope) -> tuple[Missing, ...]:
    """What is missing that the step reads without a default; empty if nothing is."""
    missing = {name: value for name in sorted(needed) if isinstance(value := seen[name], Missing)}
    defaulted = may_miss(_inputs(step)) if missing else frozenset()
    return tuple(value for name, value in missing.items() if name not in defaulted)


def _inputs(step: Step) -> Json:
    condition = [f"${{{step.if_}}}"] if step.if_ else []
    return [dict(step.args), step.let, step.for_each, *condition]


def _map(view: View, frame: Frame, step: Step, path: StepPath, seen: Scope) -> MapResolved | StepSkipped:
    """The items of a map; a condition that reads the item is left to each of them."""
    is_per_item = step.if_ is not None and bool(expression_names(step.if_) & own_names(step))
    condition = None if is_per_item else values.condition(step, seen)
    decided_by = frame.decided_by.joined(values.control(condition, None))
    if condition is not None and not condition.value and not step.else_:
        return StepSkipped(path=path, cause="condition", decided_by=decided_by)
    found = values.items(step, seen)
    assert isinstance(found.value, list)
    if len(found.value) > step.max_items:
        what = f"`for_each` of step `{step.id}` has {len(found.value)} items, but `max_items` is {step.max_items}"
        raise PlanError("P-302", what, error_class="limit")
    return MapResolved(path=path, items=values.under(decided_by, found, said=view.run.said))


def _resolve(
    view: View, frame: Frame, step: Step, path: StepPath, seen: Scope, *, items: Labelled | None
) -> StepResolved | StepSucceeded | StepSkipped | BlockEntered:
    """A call with its arguments, a `let` with its value, or a block with the branch that is taken."""
    condition = values.condition(step, seen)
    is_so = condition is None or bool(condition.value)
    decided_by = frame.decided_by.joined(values.control(condition, items))
    if step.is_block and (is_so or step.else_):
        return BlockEntered(path=path, branch="do" if is_so else "else", decided_by=decided_by)
    if not is_so:
        return StepSkipped(path=path, cause="condition", decided_by=decided_by)
    if step.use is None:
        return StepSucceeded(path=path, value=values.under(decided_by, values.let(step, seen), said=view.run.said))
    return _called(view, step.use, path, values.arguments(step, seen), decided_by=decided_by)


def _called(view: View, callee: str, path: StepPath, given: Labelled, *, decided_by: Label) -> StepResolved:
    """The call, with what the gate says to it."""
    arguments = values.under(decided_by, given, said=view.run.said)
    verdict = judged(view.run, view.run.started.setup.catalogue[callee], arguments, path=path)
    return StepResolved(path=path, arguments=arguments, verdict=verdict)


def _one(view: View, frame: Frame, step: Step, path: StepPath, own: Scope, *, is_open: bool) -> Iterator[Command]:
    """The next commands for a step, or an item of a map, that has begun."""
    state = view.run.step(path)
    if state.status == "entered":
        yield from _block(view, values.inside(frame, step, path, state, own), step, is_open=is_open)
    elif falls_back(step, path, state):
        yield from _fall_back(view, frame, step, path, own, is_open=is_open)
    else:
        yield from attempts.go_on(view, step, path, is_open=is_open)


def _fall_back(
    view: View, frame: Frame, step: Step, path: StepPath, own: Scope, *, is_open: bool
) -> Iterator[Command]:
    """The call in the place of the one that failed, worth no more than what decided that the step runs."""
    last, at = stand_in(step), beside(path, "fallback")
    if view.run.step(at).status != "new":
        yield from attempts.go_on(view, last, at, is_open=is_open)
        return
    deciding = expression_names(step.if_) if step.if_ is not None else frozenset()
    seen = values.scope(view, frame, (opening(last) | deciding) - own.keys()) if is_open else None
    if seen is None or last.use is None:
        return
    items = view.run.step(map_path(path)).items if own else None
    try:
        condition = values.condition(step, {**seen, **own})
        failed = values.lost_to(view.run.step(path))  # whoever chose those arguments may have chosen the failure
        decided_by = frame.decided_by.joined(values.control(condition, items)).joined(failed)
        given = values.arguments(last, {**seen, **own})
        yield Record(_called(view, last.use, at, given, decided_by=decided_by))
    except PlanError as error:
        decided_by = _read({**seen, **own}).joined(frame.decided_by)
        yield Record(StepFailed(path=at, fault=fault_of(error), decided_by=decided_by))


def _block(view: View, frame: Frame, step: Step, *, is_open: bool) -> Iterator[Command]:
    """What a block holds goes on; it ends when all of that has, or when a part failed and nothing is under way."""
    failure = next(failures_in(view.run, frame.place, frame.steps), None)
    commands = list(advance(view, frame, is_open=is_open and failure is None))
    if commands or _is_busy(view, frame.place):
        yield from commands
    elif failure is not None and (dead := _needless(view, frame.place)):
        yield from (Record(StepSkipped(path=path, cause="failure")) for path in dead)
    elif failure is not None:
        last = view.run.step(last_path(view.run, failure.step, failure.path)[1])
        yield Record(StepFailed(path=frame.place, fault=failure.fault, decided_by=values.lost_to(last)))
    elif _is_answerable(view, frame, step):
        try:
            value = values.answer_of(view, frame, step.answer)
            yield Record(StepSucceeded(path=frame.place, value=values.under(frame.decided_by, value)))
        except PlanError as error:
            seen = values.scope(view, frame, names(step.answer)) or {}
            decided_by = _read(seen).joined(frame.decided_by)
            yield Record(StepFailed(path=frame.place, fault=fault_of(error), decided_by=decided_by))


def _is_answerable(view: View, frame: Frame, step: Step) -> bool:
    """Whether everything in a block has ended, and all that its answer reads around it."""
    has_ended_ = all(view.outcome(inner_path(frame.place, held.id)) is not None for held in frame.steps)
    return has_ended_ and values.scope(view, frame, names(step.answer)) is not None


def _is_busy(view: View, place: StepPath) -> bool:
    return any(s.status == "started" and path.startswith(f"{place}/") for path, s in view.run.steps.items())


def _needless(view: View, place: StepPath) -> list[StepPath]:
    """What is open in a block that has failed: for an answer, a time or an event that nobody needs any more."""
    waiting = {"entered", "asked", "waiting", "retrying"}
    return [p for p, state in view.run.steps.items() if state.status in waiting and p.startswith(f"{place}/")]


def _items(view: View, frame: Frame, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """The commands for the items of a map; what a person is asked about them is asked at once."""
    commands = list(_each(view, frame, step, path, is_open=is_open))
    asked = [c for c in commands if isinstance(c, AskHuman) and view.run.step(c.path).question == "approve"]
    if asked:
        yield AskHuman(path, tuple(one.path for one in asked))
    yield from (command for command in commands if command not in asked)


def _each(view: View, frame: Frame, step: Step, path: StepPath, *, is_open: bool) -> Iterator[Command]:
    """Start items in order, a few at once; none any more where one that failed makes the whole map fail."""
    state = view.run.step(path)
    assert state.items is not None
    paths = item_paths(view.run, path)
    is_lost = step.on_item_error == "fail" and any(has_failed(view.run, step, p) for p in paths)
    most = _most(view, step, len(paths))
    is_held = is_open and _is_weighed(view, step, paths)
    active = 0
    for index, item in enumerate(paths):
        own = view.run.step(item)
        if own.status in {"succeeded", "skipped"} or (own.status != "new" and has_ended(view.run, step, item)):
            continue
        is_beyond = index >= most and own.status in {"new", "resolved"}
        if is_open and ((is_lost and _is_idle(own)) or is_beyond):
            yield Record(StepSkipped(path=item, cause="failure" if is_lost else "budget"))
            continue
        active += 1
        if active > ACTIVE_ITEMS and not is_held:
            return
        names = values.item_names(step, state.items, index)
        if own.status != "new":
            may_begin = is_open and not (is_lost and own.status in {"in_doubt", "answered", "entered"})
            may_begin = may_begin and not (is_held and not _is_to_be_asked(own))
            commands = list(_one(view, frame, step, item, names, is_open=may_begin))
            if is_open and is_lost and own.status == "entered" and not commands and not _is_busy(view, item):
                commands = [Record(StepSkipped(path=p, cause="failure")) for p in (*_needless(view, item), item)]
            yield from commands
        elif is_open:
            outer = values.scope(view, frame, opening(step))
            assert outer is not None, "a map is resolved only when what it reads has ended"
            yield Record(_begun(view, frame, step, item, {**outer, **names}, items=state.items))


def _is_weighed(view: View, step: Step, paths: list[StepPath]) -> bool:
    """Whether a person has yet to be asked, or to answer, about an item of the map: then none begins."""
    callee = view.run.started.setup.catalogue.get(step.use or "")
    if callee is None or callee.kind not in {"tool", "agent", "plan"}:
        return False
    is_seen = callee.declaration.effect not in {"pure", "read"}
    return any(_is_to_be_asked(state) or (state.status == "new" and is_seen) for state in map(view.run.step, paths))


def _is_to_be_asked(state: StepState) -> bool:
    """Whether an approval is wanted that nobody gave yet."""
    is_wanted = state.status == "resolved" and state.verdict is not None and state.verdict.then == "ask"
    return is_wanted or (state.status == "asked" and state.question == "approve")


def _is_idle(state: StepState) -> bool:
    """Whether nothing is under way at an item that has not ended: it would begin a call, or only waits."""
    match state.status:
        case "new" | "resolved" | "waiting" | "failed" | "retrying":
            return True
        case "asked":
            return state.question != "happened"
        case "answered":
            return state.question == "approve" and state.answer == "yes"
        case _:
            return False


def _most(view: View, step: Step, count: int) -> int:
    """How many items a map may begin: fewer where it only looks and the budget is short."""
    shortage = view.run.started.setup.shortage
    callee = view.run.started.setup.catalogue.get(step.use or "")
    if shortage is None or shortage.items is None or callee is None or not callee.is_reading:
        return count
    return shortage.items if attempts.is_short(view.run) else count
