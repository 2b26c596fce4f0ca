"""What happens to one step, where its place in the plan and the table of moves allow it."""

from __future__ import annotations

from datetime import datetime, timedelta

from planner.core.events import (
    BlockEntered,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    StepInDoubt,
    StepNudged,
    StepResolved,
    StepStarted,
    WaitEnded,
    WaitStarted,
)
from planner.core.gate import CHANGING, endorsed
from planner.core.labels import TRUSTED, UNTRUSTED, Json, Labelled, gather
from planner.core.moves import StepEvent, moved
from planner.core.plan import (
    StepPath,
    inner_path,
    own_path,
    place_of,
    role_of,
    split_path,
)
from planner.core.run import (
    Run,
    StepState,
    callee_of,
    falls_back,
    is_effect,
    item_count,
    replace,
    takes,
    undo_path,
)
from planner.core.state.legal import expect, require
from planner.errors import JournalError


def _aimed(run: Run, event: StepEvent) -> StepEvent:
    """The event; a nudge goes to the call that is being taken back, where that is what waits."""
    if isinstance(event, StepNudged) and run.step(event.path).status not in {"started", "parked"}:
        return event.model_copy(update={"path": undo_path(event.path)})
    return event


def stepped(run: Run, event: StepEvent) -> Run:
    """The run after something happened to one of its steps."""
    if not run.is_cancelled and not isinstance(event, StepNudged):
        # what a cancelled run did is taken back whatever it was doing, and a nudge does not come a second time
        expect(run, "executing", event)
    event = _aimed(run, event)
    if event.path not in run.steps and not _is_place(run, event.path):
        raise JournalError("J-204", f"`{event.type}` of `{event.path}`, which is no step of the plan")
    require(event, _is_of_kind(run, event), f"`{event.path}` is another kind of step")
    step = moved(run.step(event.path), event)
    mailbox = run.mailbox
    match event:
        case WaitEnded():
            received = mailbox.get(event.received)
            if received is None or not takes(run.step(event.path), received):
                raise JournalError("J-204", f"`{event.type}` of event {event.received}, which is not waited for")
            label = UNTRUSTED.from_source(f"event:{received.name}")
            step = replace(step, answered=Labelled(value=received.data, label=label))
            mailbox = {seq: one for seq, one in mailbox.items() if seq != event.received}
        case WaitStarted():
            step = replace(step, due=_later(run, event.seconds) if event.seconds is not None else event.until)
        case HumanAsked():
            step = replace(step, due=_later(run, event.timeout_s), asked=run.run_seq)
        case HumanAnswered():
            step, run = _answered(run, replace(step, answered=_said(run, event)), event)
        case StepStarted():
            step = replace(step, begun=run.run_seq)
        case StepInDoubt():
            step = replace(step, is_unsure=step.is_unsure or is_effect(run, event.path))
        case _:
            pass
    return replace(run, steps={**run.steps, event.path: step}, mailbox=mailbox)


def _answered(run: Run, step: StepState, event: HumanAnswered) -> tuple[StepState, Run]:
    """The step with an approval, and with what the person changed about the call or vouched for."""
    if step.question != "approve" or event.answer not in {"yes", *CHANGING}:
        return step, run
    step, value = replace(step, approved_at=run.at), event.value
    match event.answer:
        case "edit":
            require(event, isinstance(value, dict), "what is edited are arguments by name")
            given = step.arguments or Labelled(value={})
            said = step.answered or Labelled()
            names = dict.fromkeys([*(given.value if isinstance(given.value, dict) else ()), *_names(value)])
            parts = {name: (said if name in _names(value) else given).at((name,)) for name in names}
            return replace(step, arguments=gather(parts)), run
        case "endorse":
            require(event, isinstance(value, list), "what is vouched for are arguments by name")
            known = endorsed(run, event.path, _names(value))
            waiting = {p: s for p, s in run.steps.items() if s.status in {"resolved", "asked"} and p != event.path}
            stale = {p: replace(s, is_stale=s.verdict is not None) for p, s in waiting.items()}
            return step, replace(run, endorsed=run.endorsed | known, steps={**run.steps, **stale})
        case _:
            return step, run


def _names(value: Json) -> list[str]:
    return [str(name) for name in value] if isinstance(value, dict | list) else []


LONGEST_S = 100 * 365.25 * 86_400
"""A hundred years: whoever waits longer waits for ever, and calendars end."""


def _later(run: Run, seconds: float | None) -> datetime | None:
    return None if seconds is None else run.at + timedelta(seconds=min(seconds, LONGEST_S))


def _is_of_kind(run: Run, event: StepEvent) -> bool:
    """Whether the step at that place is one that such an event can happen to."""
    if run.plan is None or role_of(event.path) == "undo":
        return True
    step, callee = run.plan.at(event.path), callee_of(run, event.path)
    is_map = step.is_map and split_path(event.path)[1] is None
    kind = callee.kind if callee is not None and not is_map else ""
    match event:
        case MapResolved():
            return is_map
        case BlockEntered():
            return step.is_block and not is_map
        case StepResolved():
            return bool(kind)
        case WaitStarted():
            return kind == "wait"
        case HumanAsked(question="answer"):
            return kind == "human"
        case HumanAnswered(answer="edit" | "endorse"):
            return kind != "gate"
        case _:
            return True


def _said(run: Run, event: HumanAnswered) -> Labelled:
    """A person's answer: the principal's own words are trusted, those of anybody else are not."""
    is_own = event.by == run.started.principal.name
    label = TRUSTED if is_own else UNTRUSTED
    return Labelled(value=event.value, label=label.from_source(f"human:{event.by}"))


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
