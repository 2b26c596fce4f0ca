"""The plan and its steps in rows: how each stands, what it does, and what there is to say of it.

Rules of the file:
- One row a step, however often it runs: the items of a map, and a step inside of one, are told together.
- Everything returned is safe to show: what models and tools wrote is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from planner.cli.progress import CALL_CHARACTERS, NOTE_CHARACTERS, Watch, called, told
from planner.cli.terminal import duration, excerpt, line, moment
from planner.core.events import Question
from planner.core.plan import (
    Plan,
    Step,
    StepPath,
    beside,
    inner_path,
    item_path,
    own_path,
    role_of,
    split_path,
)
from planner.core.run import Run, StepState, StepStatus, item_count, item_paths
from planner.core.state import callee_at
from planner.rehearsal import is_rehearsed

Mark: TypeAlias = Literal["pending", "running", "done", "failed", "skipped", "asked", "waiting", "retrying", "doubt"]

MARK_OF: Mapping[StepStatus, Mark] = {
    "new": "pending",
    "resolved": "pending",
    "mapped": "pending",
    "entered": "running",
    "parked": "waiting",
    "waiting": "waiting",
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
URGENCY: tuple[Mark, ...] = ("asked", "doubt", "retrying", "running", "waiting", "failed")
"""Of several calls of one step, the first of these marks is the row's."""
ASKING: Mapping[Question, str] = {
    "approve": "waits for a person",
    "happened": "a person must say whether it happened",
    "failed": "a person must say what now",
    "answer": "asks",
}
INDENT = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture: how it stands, which step, what it does, and what there is to say of it."""

    mark: Mark
    id: str
    call: str
    note: str = ""
    depth: int = 0
    """How many blocks are around it."""

    @property
    def label(self) -> str:
        """The id, set in by the blocks around it."""
        return " " * (INDENT * self.depth) + self.id


@dataclass(frozen=True, slots=True)
class Scene:
    """A run at one moment, with what has been seen of it."""

    watch: Watch
    run: Run
    now: datetime


def rows(watch: Watch, now: datetime) -> tuple[Row, ...]:
    """The plan and its steps as they stand; before there is a plan, the search for one; last what is taken back."""
    run = watch.run
    if run is None:
        return ()
    scene = Scene(watch, run, now)
    steps = run.plan.steps if run.plan is not None else ()
    told_of = [*_walk(scene, steps, ("",), depth=0), *(row(scene, path) for path in run.undoing)]
    if run.phase == "planning" or run.plan is None:
        return (*told_of, _planning_row(watch, run))
    return (_plan_row(watch, run, run.plan), *told_of)


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


def _walk(scene: Scene, steps: Sequence[Step], places: Sequence[StepPath], *, depth: int) -> Iterator[Row]:
    """A row for each of the steps, which run in the blocks at `places`; below a block those that it holds."""
    run = scene.run
    for step in steps:
        owns = [inner_path(place, step.id) for place in places]
        paths = [path for own in owns for path in (item_paths(run, own) if _is_open_map(run, own) else [own])]
        yield _step_row(scene, step, owns, paths, depth=depth)
        stand_ins = [beside(path, "fallback") for path in paths]
        yield from (row(scene, path, depth=depth) for path in stand_ins if path in run.steps)
        begun = [path for path in paths if _has_begun(run.step(path))]
        is_undecided = len(begun) < len(paths) or not paths
        for branch, held in (("do", step.do), ("else", step.else_)):
            inside = [path for path in begun if run.step(path).branch == branch]
            if held and branch == "else" and is_undecided:
                yield Row("pending", "else", "", depth=depth)
            if inside or is_undecided:
                yield from _walk(scene, held, inside, depth=depth + 1)


def _is_open_map(run: Run, path: StepPath) -> bool:
    return run.step(path).items is not None


def _has_begun(state: StepState) -> bool:
    return state.status not in {"new", "skipped"}


def _step_row(scene: Scene, step: Step, owns: Sequence[StepPath], paths: Sequence[StepPath], *, depth: int) -> Row:
    """The row of a step that runs at `paths`, which are the items of the maps at `owns` if it is one."""
    run = scene.run
    if paths == owns and len(owns) <= 1:
        path = owns[0] if owns else step.id
        return Row(MARK_OF[run.step(path).status], step.id, call(step), note(scene, path), depth)
    states = {path: run.step(path) for path in paths}
    marks = {path: MARK_OF[state.status] for path, state in states.items()}
    ended = sum(state.is_done for state in states.values())
    is_over = ended == len(paths)
    mark: Mark = next((m for m in URGENCY if m in marks.values()), "done" if is_over else "pending")
    notes = [f"{ended}/{len(paths)}"]
    if mark in {"asked", "doubt", "retrying", "failed", "waiting"}:
        path = next(path for path, m in marks.items() if m == mark)
        notes.append(f"{path}: {note(scene, path)}")
    elif mark in {"running", "done"} and any(state.attempt for state in states.values()):
        notes.append(duration(_span(scene, paths, is_over=is_over)))
    return Row(mark, step.id, call(step), "  ".join(notes), depth)


def _span(scene: Scene, paths: Sequence[StepPath], *, is_over: bool) -> float:
    """The seconds from the first start of these calls to the last end, or to now."""
    watch = scene.watch
    began = {path: watch.began[path] for path in paths if path in watch.began}
    if not began:
        return 0.0
    first = min(began.values())
    ends = [(at - first).total_seconds() + watch.took.get(path, 0.0) for path, at in began.items()]
    return max(ends) if is_over else (scene.now - first).total_seconds()


def row(scene: Scene, path: StepPath, *, depth: int = 0) -> Row:
    """The row of one call: a step, an item of a map, what is called in a step's place, or what takes it back."""
    mark = MARK_OF[scene.run.step(path).status]
    return Row(mark, named(path), call_at(scene.run, path), note(scene, path), depth)


def named(path: StepPath) -> str:
    """The path as people read it: `undo s4` for `s4~undo`."""
    role = role_of(path)
    return path if role == "call" else f"{role} {own_path(path)}"


def call_at(run: Run, path: StepPath) -> str:
    """What the step at `path` does: in the plan's words, or with the arguments that are known."""
    state = run.step(path)
    if role_of(path) != "call" and state.arguments is not None and isinstance(state.arguments.value, dict):
        return called(callee_at(run, path), state.arguments.value)
    try:
        return call(run.plan.at(path)) if run.plan is not None else ""
    except (KeyError, ValueError):
        return line(callee_at(run, path))


def note(scene: Scene, path: StepPath) -> str:
    """What there is to say of the call at `path`."""
    watch, run, now = scene.watch, scene.run, scene.now
    state = run.step(path)
    match state.status:
        case "started":
            retry = f"  attempt {state.attempt}" if state.attempt > 1 else ""
            return duration((now - watch.began.get(path, now)).total_seconds()) + retry
        case "succeeded":
            took = duration(watch.took[path]) if path in watch.took else ""
            return "not done" if is_rehearsed(run, path) else took
        case "failed":
            return told(state.fault, NOTE_CHARACTERS)
        case "skipped":
            return _skipped(state)
        case "asked" | "waiting" | "parked":
            return _held(run, path, now)
        case "retrying":
            left = (state.due - now).total_seconds() if state.due else 0.0
            return f"again in {duration(max(0.0, left))}: {told(state.fault, NOTE_CHARACTERS)}"
        case "in_doubt" | "interrupted":
            return "nobody knows whether it happened"
        case _:
            return "not run" if run.finished is not None and state.status in {"new", "resolved"} else ""


def _held(run: Run, path: StepPath, now: datetime) -> str:
    """What a step waits for."""
    state = run.step(path)
    match state.status:
        case "asked":
            return question(run, path, now)
        case "waiting":
            return waiting(state, now)
        case _:
            return f"its part waits, run {run.id}.{state.key[:8]}"


def _skipped(state: StepState) -> str:
    match state.cause:
        case "condition":
            return "not needed"
        case "budget":
            return "left out, for the budget is used up"
        case _:
            return "what it reads is missing" if state.fault is None else f"left out: {told(state.fault)}"


def question(run: Run, path: StepPath, now: datetime) -> str:
    """What is asked of whom, and until when the answer counts."""
    state = run.step(path)
    assert state.question is not None, "it is asked"
    asking = ASKING[state.question]
    if state.question == "answer":
        asking = f"asks the {line(callee_at(run, path).partition('.')[2])}"
    until = f", until {moment(state.due, now)}" if state.due is not None else ""
    return f"{asking}: {line(state.reason, NOTE_CHARACTERS)}{until}"


def waiting(state: StepState, now: datetime) -> str:
    """`waits until 14:05`, `waits for event paid, until 14:05`."""
    until = f"until {moment(state.due, now)}" if state.due is not None else ""
    if state.wanted is None:
        return f"waits {until}"
    name, fields = state.wanted
    match_ = f" with {excerpt(dict(fields), 60)}" if fields else ""
    return f"waits for event {line(name)}{match_}" + (f", {until}" if until else "")


def call(step: Step) -> str:
    """What a step does, in the plan's own words: `files.read path=a.txt`."""
    if step.is_block:
        words = "block"
    elif step.use is None:
        words = f"let {excerpt(step.let)}"
    else:
        words = called(step.use, step.args)
    each = f"  for each of {excerpt(step.for_each, 30)}" if step.is_map else ""
    condition = f"  if {step.if_}" if step.if_ is not None else ""
    return line(words + each + condition, CALL_CHARACTERS)


# ---- counting ----------------------------------------------------------------------------------------------


def count(run: Run) -> str:
    """`3/5 steps`, or nothing before there is a plan."""
    if run.plan is None or not run.plan.steps:
        return ""
    done = sum(_has_ended(run, step) for step in run.plan.steps)
    return f"{done}/{len(run.plan.steps)} steps"


def _has_ended(run: Run, step: Step) -> bool:
    state = run.step(step.id)
    if state.items is None:
        return state.is_done
    return all(run.step(item_path(step.id, index)).is_done for index in range(item_count(state)))


def below(run: Run, step: Step) -> list[StepPath]:
    """Where a step runs beside its own id: the items of its map, in all blocks, and what stands in for it."""
    return [path for path in run.steps if path != step.id and _is_of(path, step)]


def _is_of(path: StepPath, step: Step) -> bool:
    return split_path(path)[0] == step.id and role_of(path) != "undo"
