"""A run with every sort of step ends the same way, wherever its process was killed, and repeats no effect.

Processes, signals, files and the journal are real; only the model is scripted. The crashing processes are forked by
this file, started as a program, for a start with all imports costs more than a run.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

import pytest
import yaml

import planner.core.attempts
from planner import Assistant, Card, Plan, Policy, Recorded, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.config import reference
from planner.core.events import (
    CancelRequested,
    Event,
    EventReceived,
    HumanAnswered,
    HumanAsked,
    RunFinished,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
)
from planner.core.run import Run
from planner.core.state import fold
from planner.journal import Lease, Requestable, SqliteJournal
from planner.journal.database import Database
from planner.journal.sqlite import MIGRATIONS
from planner.tools import Toolbox

ROOT = Path(__file__).parent.parent
RUN = "run"
POLICY = Policy(rules=(Rule(id="people", then="ask", callee="world.ring"), Rule(id="all", then="allow")))
ALARM_S = 30
"""No process of these tests lives longer."""
SIDE_BY_SIDE = 3
"""Runs wait for timers and for the disk, so that a few more than there are cores keep them busy."""
End = Literal["end", "cancel", "at once"]
"""What people want of the run: that it ends well, that it is cancelled at its last step, or right after the crash."""


# the world: tools whose effect is one line in a file that the journal does not know, so that no kill halves it -----


def note(context: ToolContext, word: str) -> None:
    with (context.workspace.parent / "notes").open("a") as file:
        file.write(f"{word} {context.key}\n")


def notes(place: Path) -> list[tuple[str, str]]:
    file = place / "notes"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(word, key) for word, _, key in (line.partition(" ") for line in lines)]


def shelved(place: Path) -> list[str]:
    """The things that are on the shelves."""
    on: Counter[str] = Counter()
    for word, _, thing in (word.partition("-") for word, _ in notes(place)):
        on[thing] += {"book": 1, "unbook": -1}.get(word, 0)
    return sorted(on.elements())


def is_booked(shelf: int, thing: str, context: ToolContext) -> bool:
    return thing in shelved(context.workspace.parent)


def unbook(shelf: int, thing: str, context: ToolContext) -> None:
    assert is_booked(shelf, thing, context)
    note(context, f"unbook-{thing}")


@tool(
    name="world.book",
    effect="write",
    control={},
    resource=("shelf:{shelf}",),
    on_doubt="probe",
    probe=is_booked,
    undo=unbook,
)
def book(shelf: int, thing: str, context: ToolContext) -> str:
    """Put a thing on a shelf, which may be looked at."""
    assert not is_booked(shelf, thing, context)
    note(context, f"book-{thing}")
    return thing


def unstamp(text: str, context: ToolContext) -> None:
    note(context, "unstamp")


@tool(name="world.stamp", effect="write", control={}, resource=("world:stamp",), on_doubt="idempotent", undo=unstamp)
def stamp(text: str, context: ToolContext) -> str:
    """Stamp a text; whoever keeps the stamps knows equal keys as one."""
    note(context, "stamp")
    return text


@tool(name="world.send", effect="send", control={}, resource=("world:post",))
def send(text: str, context: ToolContext) -> str:
    """Send a text; nobody can say later whether it was sent."""
    note(context, "send")
    return text


@tool(name="world.ring", effect="send", control={}, resource=("world:bell",))
def ring(text: str, context: ToolContext) -> str:
    """Ring a bell, if a person agrees."""
    note(context, "ring")
    return text


@tool(name="world.flaky", effect="read", resource=())
def flaky(context: ToolContext) -> str:
    """Answer the second time."""
    is_first = not any(word == "flaky" for word, _ in notes(context.workspace.parent))
    note(context, "flaky")
    if is_first:
        raise ToolError("X-1", "not yet", error_class="unavailable")
    return "up"


@tool(name="world.broken", effect="read", resource=())
def broken() -> str:
    """Fail always."""
    raise ToolError("X-2", "broken", error_class="missing")


@tool(name="world.mirror", effect="read", resource=())
def mirror() -> str:
    """Answer in the place of another."""
    return "mirrored"


BOX = Toolbox.load(reference() / "tools", only=["files.*"]).merged(
    Toolbox.of(book, stamp, send, ring, flaky, broken, mirror)
)

PLAN = Plan.model_validate(
    yaml.safe_load("""
steps:
  - {id: s1, use: world.flaky, on_error: {retry: 1}}
  - {id: s2, for_each: [tea, ink, pen, cup], use: world.book, args: {shelf: "${item_i % 2}", thing: $item}}
  - {id: s3, use: gate.approve, args: {what: "${len(s2)} things were booked"}}
  - {id: s4, use: world.ring, args: {text: $s1}, after: [s3]}
  - {id: s5, use: wait.until, args: {seconds: 0.2}, after: [s4]}
  - {id: s6, use: wait.event, args: {name: go, match: {for: us}}, after: [s3]}
  - id: s7
    if: len(s2) > 9
    do: [{id: t1, use: world.send, args: {text: many}}]
    else:
      - {id: t2, use: files.write, args: {path: few.txt, text: "${len(s2)} things"}}
      - {id: t3, use: world.stamp, args: {text: $t2}}
  - {id: s8, use: world.broken, on_error: {then: fallback world.mirror}}
  - {id: s9, use: plan.goal, args: {goal: Write a report, allow: ["files.*"]}, after: [s7]}
  - {id: s10, use: world.send, args: {text: $s8}, after: [s9]}
  - {id: s11, use: wait.event, args: {name: end}, after: [s5, s6, s10]}
  - {id: s12, use: files.append, args: {path: log.txt, text: "${s6.for} ${s8}"}, after: [s11]}
answer: "${len(s2)} things, ${s9}"
""")
)
NESTED = {"steps": [{"id": "s1", "use": "files.write", "args": {"path": "report.txt", "text": "a report"}}]}
BOOKED = {"book-tea": 1, "book-ink": 1, "book-pen": 1, "book-cup": 1}
TAKEN_BACK = {"unbook-tea": 1, "unbook-ink": 1, "unbook-pen": 1, "unbook-cup": 1}
ENDS: dict[str, dict[str, Any]] = {
    "end": {
        "status": "completed",
        "value": "4 things, report.txt",
        "files": {"few.txt": "4 things", "log.txt": "us mirrored", "report.txt": "a report"},
        "shelves": ["cup", "ink", "pen", "tea"],
        "once": {**BOOKED, "ring": 1, "send": 1},
        "keys": {"stamp": 1},
        "undone": [],
        "left": [],
    },
    "cancel": {
        "status": "cancelled",
        "value": None,
        "files": {},
        "shelves": [],
        "once": {**BOOKED, **TAKEN_BACK, "ring": 1, "send": 1},
        "keys": {"stamp": 1, "unstamp": 1},
        "undone": ["s2[0]", "s2[1]", "s2[2]", "s2[3]", "s7/t2", "s7/t3", "s9"],
        "left": ["s10", "s4"],
    },
}


# crashing ---------------------------------------------------------------------------------------------------------


class Crash(NamedTuple):
    """A process kills itself just before or after this event of the run, or of the run inside it, is committed."""

    moment: Literal["before", "after"]
    is_nested: bool
    event: int


class Doomed(SqliteJournal):
    """The real journal, in a process that may not live to write to it."""

    crash: Crash | None = None

    async def append(
        self, lease: Lease, expected: int, events: Sequence[Event], *, at: datetime, **more: Any
    ) -> tuple[Recorded, ...]:
        crash = self.crash
        is_it = crash is not None and crash.is_nested == (lease.run_id != RUN)
        is_now = is_it and crash is not None and expected < crash.event <= expected + len(events)
        if is_now and crash is not None and crash.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        recorded = await super().append(lease, expected, events, at=at, **more)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)
        return recorded


def opened(place: Path, crash: Crash | None = None) -> Doomed:
    journal = Doomed(Database(place / "state" / "journal.db", MIGRATIONS))
    journal.crash = crash
    return journal


def approver(place: Path) -> Callable[[Card], Any]:
    """Agrees to calls, leaves what the plan asks to somebody else, and has looked whether a call happened."""

    async def asked(card: Card) -> str | None:
        if card.callee.kind == "gate":
            return None
        if card.question == "approve":
            return "yes"
        return "yes" if any(f"world.{word}" == card.callee.name for word, _ in notes(place)) else "no"

    return asked


def desk(place: Path, crash: Crash | None) -> Assistant:
    assistant = Assistant(
        BOX,
        model=ScriptedModel(lambda _: json.dumps(NESTED)),
        policy=POLICY,
        approver=approver(place),
        workspace=place / "files",
        state=place / "state",
        environ={},
    )
    assistant._journal = opened(place, crash)
    return assistant


async def drive(place: Path, crash: Crash | None, end: End) -> None:
    """What somebody does who wants the run to go on: begin it, or wake whatever can."""
    async with desk(place, crash) as assistant:
        if not any(one.run_id == RUN for one in await assistant.journal.runs()):
            await assistant.run("Tidy up", plan=PLAN, run_id=RUN, success="${'4' in answer}")
        else:
            await assistant.wake()


async def person(place: Path, crash: Crash | None, end: End) -> None:
    """What somebody does in a process that never drives the run: say what it waits for, once."""
    journal = opened(place)
    history = await journal.read(RUN)
    run, said = fold(history), {one.event.model_dump_json() for one in history}
    open_ = {one.event.model_dump_json() for one in await journal.requests(RUN)}
    for event in wanted(run, end):
        if event.model_dump_json() not in said | open_:
            await journal.post(RUN, event, at=datetime.now(UTC))
    await journal.close()
    if run.finished is not None and not open_:
        raise SystemExit(3)


def wanted(run: Run, end: End) -> list[Requestable]:
    events: list[Requestable] = []
    if end == "at once":
        return [CancelRequested(by="ada")] if run.finished is None else []
    if run.step("s3").status == "asked":
        events.append(EventReceived(name="go", data={"for": "others"}, by="ada"))
        events.append(EventReceived(name="go", data={"for": "us"}, by="ada"))
        events.append(HumanAnswered(path="s3", answer="yes", by="ada", asked=run.step("s3").asked))
    if run.step("s11").status == "waiting" and run.step("s10").status == "succeeded":
        events.append(CancelRequested(by="ada") if end == "cancel" else EventReceived(name="end", by="ada"))
    return events


def forked(work: Callable[[Path, Crash | None, End], Coroutine[Any, Any, None]], *given: Any) -> int:
    """Does the work in a process of its own; its exit code, or the signal that ended it, negative."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(ALARM_S)
        try:
            asyncio.run(work(*given))
            os._exit(0)
        except SystemExit as ended:
            os._exit(int(str(ended.code)))
        finally:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended(place: Path, crash: Crash | None, end: End) -> dict[str, Any]:
    """What the run comes to, in as many processes as it takes; one of them is killed."""
    (place / "files").mkdir(parents=True)
    killed = 0
    for _ in range(12):
        code = forked(drive, place, None if killed else crash, end)
        killed += code == -signal.SIGKILL
        if code not in {0, -signal.SIGKILL}:
            return {"problem": f"a process ended with {code}"}
        wish: End = "end" if end == "at once" and not killed else end
        if (code == 0 or wish == "at once") and forked(person, place, None, wish) == 3:
            return {**asyncio.run(outcome(place)), "killed": killed}
    return {"problem": "the run came to no end", "journal": asyncio.run(outcome(place)).get("types")}


async def outcome(place: Path) -> dict[str, Any]:
    """What the run came to, and what was done more often than the journal can explain."""
    journal, files = opened(place), place / "files"
    summaries = await journal.runs()
    histories = {one.run_id: await journal.read(one.run_id) for one in summaries}
    problems = [f"{one.run_id}: {(await journal.verify(one.run_id)).problem}" for one in summaries]
    open_ = [one.run_id for one in await journal.pending(datetime.now(UTC))]
    await journal.close()
    run = fold(histories[RUN])
    finished = run.finished or RunFinished(status=run.status)
    events = [recorded.event for history in histories.values() for recorded in history]
    noted = Counter(word for word, _ in notes(place))
    repeatable = {"stamp", "unstamp", "flaky"}
    return {
        "status": finished.status,
        "value": finished.result.value,
        "reason": finished.reason,
        "files": {str(file.relative_to(files)): file.read_text() for file in files.rglob("*") if is_shown(file)},
        "shelves": shelved(place),
        "once": {word: count for word, count in noted.items() if word not in repeatable},
        "keys": dict(Counter(word for word, _ in set(notes(place)) if word in repeatable - {"flaky"})),
        "undone": sorted(finished.undone),
        "left": sorted(one.path for one in finished.left),
        "twice": [path for history in histories.values() for path in restarted(history)],
        "broken": [problem for problem in problems if not problem.endswith(": ")],
        "open": open_,
        "doubted": sorted({e.path for e in events if isinstance(e, StepInDoubt)}),
        "asked": sorted({e.path for e in events if isinstance(e, HumanAsked) and e.question == "happened"}),
        "types": [recorded.event.type for recorded in histories[RUN]],
        "nested": [recorded.event.type for id_, history in histories.items() if id_ != RUN for recorded in history],
    }


def is_shown(file: Path) -> bool:
    """Whether it is a file for people; a killed process may leave the hidden beginning of one."""
    return file.is_file() and not file.name.startswith(".")


def restarted(history: Sequence[Recorded]) -> list[str]:
    """The paths that were started again although they had succeeded."""
    finished: set[str] = set()
    again = []
    for event in (recorded.event for recorded in history):
        match event:
            case StepSucceeded():
                finished.add(event.path)
            case StepStarted() if event.path in finished:
                again.append(event.path)
            case _:
                pass
    return again


INTENTS = {"StepStarted", "ContentKept"}
OUTCOMES = {"ContentKept", "StepSucceeded"}


def places(types: list[str], wanted_types: set[str]) -> list[int]:
    return [at for at, type_ in enumerate(types, start=1) if type_ in wanted_types]


def points(smooth: dict[str, Any], end: End) -> list[Crash]:
    """Before and after every event; those before the cancellation are the same in the run that ends well."""
    first, inner = 1, 1
    if end == "cancel":
        first = smooth["types"].index("CancelRequested") + 1
        inner = smooth["nested"].index("UndoRequested") + 1
    if end == "at once":  # where something is under way, or nobody but the journal knows that it was
        after = [Crash("after", is_nested=False, event=at) for at in places(smooth["types"], INTENTS)]
        before = [Crash("before", is_nested=False, event=at) for at in places(smooth["types"], OUTCOMES)]
        inside = [Crash("after", is_nested=True, event=at) for at in range(1, len(smooth["nested"]) + 1)]
        return [*after, *before, *inside, Crash("before", is_nested=True, event=1)]
    mine = [(False, event) for event in range(first, len(smooth["types"]) + 1)]
    nested = [(True, event) for event in range(inner, len(smooth["nested"]) + 1)]
    return [Crash(moment, *event) for event in mine + nested for moment in ("before", "after")]


def everywhere(base: Path, end: End) -> list[dict[str, Any]]:
    """The outcome of the run without a crash, then the outcome after each possible crash."""
    smooth = ended(base / "none", None, end)
    if "problem" in smooth:
        return [smooth]
    wanted_points = points(smooth, end)
    workers = [os.fork() or crashes(base, wanted_points, end, one) for one in range(SIDE_BY_SIDE)]
    for pid in workers:
        os.waitpid(pid, 0)
    found = [outcome for one in range(SIDE_BY_SIDE) for outcome in json.loads((base / f"{one}.json").read_text())]
    return [smooth, *found]


def crashes(base: Path, wanted_points: list[Crash], end: End, one: int) -> int:
    """What one of the processes side by side does; it does not come back."""
    found = []
    for point in wanted_points[one::SIDE_BY_SIDE]:
        place = base / f"{point.moment}{point.event}{point.is_nested}"
        found.append({**ended(place, point, end), "crash": point})
        shutil.rmtree(place)
    (base / f"{one}.json").write_text(json.dumps(found))
    os._exit(0)


def outcomes(end: End) -> list[dict[str, Any]]:
    """What this file printed as a program of its own."""
    memory = Path("/dev/shm")  # a power cut is not tested, so no disk is needed
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", __file__, str(get_args(End).index(end)), folder],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("end", ["end", "cancel"])
def test_a_run_with_every_sort_of_step_ends_the_same_wherever_it_was_killed(
    end: End, record_property: Callable[[str, object], None]
) -> None:
    smooth, *crashed = outcomes(end)
    clean = {**ENDS[end], "twice": [], "broken": [], "open": []}
    assert {**smooth, **clean} == smooth
    assert len(smooth["types"]) >= 20
    assert [other for other in crashed if not clean.items() <= other.items()] == []
    spared = [other for other in crashed if not other["killed"]]  # where two events came in one append
    assert len(spared) <= len(crashed) // 50
    inside = len(smooth["nested"])
    tried = len(crashed) - len(spared)
    print(f"{tried} crash points in {len(smooth['types'])} events and {inside} of the run inside it ({end})")
    record_property("crash_points", tried)
    if end == "end":  # rung and sent: each was in doubt once, and asked about
        assert {"s4", "s10"} <= {path for other in crashed for path in other["asked"]}
        assert {"s2[0]", "s4", "s10", "s12"} <= {path for other in crashed for path in other["doubted"]}


def test_a_run_that_is_cancelled_after_its_process_was_killed_anywhere_takes_back_what_it_did() -> None:
    _, *crashed = outcomes("at once")
    clean = {"status": "cancelled", "files": {}, "shelves": [], "twice": [], "broken": [], "open": [], "killed": 1}
    assert [other for other in crashed if not clean.items() <= other.items()] == []
    for other in crashed:
        assert max({**other["once"], **other["keys"]}.values(), default=1) == 1, other
        assert set(other["left"]) <= {"s4", "s10"}, other
    print(f"{len(crashed)} crash points, each with a cancellation")


if __name__ == "__main__":
    vars(planner.core.attempts)["BACKOFF_S"] = 0.01
    gc.freeze()  # a forked process then copies fewer pages
    print(json.dumps(everywhere(Path(sys.argv[2]), get_args(End)[int(sys.argv[1])])))
    sys.exit()
