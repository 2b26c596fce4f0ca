"""A run goes on where its journal ends, whenever its process was killed, and no finished step runs twice.

Processes, signals, files and the journal are real; only the model is scripted. The crashing processes are forked by
this file, started as a program, for a start with all imports costs more than a run.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import pytest

import planner.core.attempts
from planner import Assistant, Card, Plan, Policy, Recorded, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.config import reference
from planner.core.events import Event, Fault, StepInDoubt, StepStarted, StepSucceeded
from planner.core.run import Run
from planner.core.state import fold
from planner.errors import ErrorClass
from planner.journal import Lease, SqliteJournal
from planner.journal.database import Database
from planner.journal.sqlite import MIGRATIONS
from planner.llm.model import Ask
from planner.results import Result
from planner.tools import Toolbox

ROOT = Path(__file__).parent.parent
RUN = "run"
POLICY = Policy(rules=(Rule(id="people", then="ask", callee="world.ring"), Rule(id="all", then="allow")))
ALARM_S = 30
"""No process of these tests lives longer."""


# the world: tools that note each call in a file that the journal does not know ------------------------------------


def note(context: ToolContext, word: str) -> None:
    with (context.workspace.parent / "notes").open("a") as file:
        file.write(f"{word} {context.key}\n")


def notes(place: Path) -> list[list[str]]:
    file = place / "notes"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


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
def broken(text: str, context: ToolContext) -> str:
    """Fail always."""
    note(context, "broken")
    raise ToolError("X-2", f"no {text}", error_class="missing")


BOX = Toolbox.load(reference() / "tools", only=["files.*"]).merged(Toolbox.of(send, ring, flaky, broken))


# the goal: three plans, of which the first fails and the second does not suffice ----------------------------------


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    names = {"for_each": "for_each", "after": "after", "on_error": "on_error", "if_": "if"}
    known = {names[key]: fields.pop(key) for key in [*fields] if key in names}
    return {"id": id_, "use": use, "args": fields} | known


FIRST = [
    step("s1", "files.list", folder="in"),
    step("s2", "files.read", for_each="$s1", path="$item"),
    {"id": "s3", "let": "${join(s2, ' and ')}"},
    step("s4", "files.write", if_="len(s1) == 2", path="a.txt", text="$s3"),
    step("s5", "files.write", if_="len(s1) > 9", path="never.txt", text="x"),
    step("s6", "files.write", for_each="$s1", path="out/${item_i}.txt", text="copy of ${item}"),
    step("s7", "files.append", path="log.txt", text="one"),
    step("s8", "files.append", path="log.txt", text="two ${s5 ?? 'skipped'}"),
    step("s9", "files.move", source="a.txt", target="b.txt"),
    step("s10", "world.flaky", on_error={"retry": 1}),
    step("s11", "world.broken", text="bread", on_error={"then": "skip"}),
    step("s12", "agent.writer", task="sum up", text="${s3}, ${s11 ?? 'nothing'}"),
    step("s13", "agent.extractor", inputs="$s3", fields="name"),
    step("s14", "agent.choose", question="which?", options=["tea", "coffee"], inputs="$s12"),
    step("s15", "world.send", text="hello"),
    step("s16", "world.ring", text="$s14"),
    step("s17", "world.broken", text="${s10} ${s13.name ?? '?'}", after=["s4", "s6", "s8", "s9", "s15", "s16"]),
]
SECOND = [step("s21", "files.write", path="c.txt", text="$s12")]
THIRD = [step("s31", "files.append", path="c.txt", text="more")]
FILES = {
    "b.txt": "Ada and Bob",
    "c.txt": "a short text\nmore",
    "in/x": "Ada",
    "in/y": "Bob",
    "log.txt": "one\ntwo skipped",
    "out/0.txt": "copy of in/x",
    "out/1.txt": "copy of in/y",
}


def scripted(ask: Ask) -> str:
    """The model's answer; what a planner is told decides, so that it may be asked by any process."""
    match ask.role:
        case "planner":
            told = ask.messages[-1].content
            if "not met" in told:
                return json.dumps({"steps": THIRD, "answer": "final: ${s12}"})
            steps = SECOND if "(world.broken)" in told else FIRST
            return json.dumps({"steps": steps, "answer": "draft"})
        case "extractor":
            return json.dumps({"name": "Ada"})
        case "chooser":
            return json.dumps({"option": "tea"})
        case _:
            return "a short text"


# crashing ---------------------------------------------------------------------------------------------------------


class Crash(NamedTuple):
    """The process kills itself just before or after this event of the run is committed, or after its own so many."""

    moment: Literal["before", "after", "own"]
    event: int


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Doomed(SqliteJournal):
    """The real journal, in a process that may not live to write to it."""

    crash: Crash | None = None

    async def append(
        self, lease: Lease, expected: int, events: Sequence[Event], *, at: datetime, **more: Any
    ) -> tuple[Recorded, ...]:
        if self.crash and self.crash.moment == "before" and expected < self.crash.event <= expected + len(events):
            killed()
        return await super().append(lease, expected, events, at=at, **more)


class Desk(Assistant):
    """An assistant at a place on disk, in a process that may crash."""

    def __init__(self, place: Path, *, crash: Crash | None = None, **options: Any) -> None:
        super().__init__(
            BOX,
            model=ScriptedModel(scripted),
            policy=POLICY,
            workspace=place / "files",
            state=place / "state",
            environ={},
            **options,
        )
        self.crash = crash
        self.seen = 0
        self._journal = Doomed(Database(place / "state" / "journal.db", MIGRATIONS))
        self._journal.crash = crash

    def observe(self, recorded: Recorded) -> None:
        self.seen += 1
        if self.crash in {("after", recorded.run_seq), ("own", self.seen)}:
            killed()


def truthful(place: Path) -> Callable[[Card], Any]:
    """A person who agrees to everything, and has looked whether it happened."""

    async def approver(card: Card) -> Literal["yes", "no"]:
        if card.question == "approve":
            return "yes"
        happened = any(f"world.{word}" == card.callee.name for word, _ in notes(place))
        return "yes" if happened else "no"

    return approver


async def whole(place: Path, crash: Crash | None) -> None:
    """The run as somebody starts it, and goes on with it when a person is there."""
    async with Desk(place, crash=crash) as desk:
        result = await desk.run("Tidy the desk", success="${'final' in answer}", run_id=RUN, observe=desk.observe)
        assert result.status == "waiting", result
    await rest(place, crash)


async def rest(place: Path, crash: Crash | None) -> None:
    async with Desk(place, crash=crash, approver=truthful(place)) as desk:
        result = await desk.resume(RUN, observe=desk.observe)
        history = await desk.journal.read(RUN)
        (place / "outcome").write_text(json.dumps(outcome(place, result, history)))


def outcome(place: Path, result: Result, history: Sequence[Recorded]) -> dict[str, Any]:
    """What the run came to, and what was done more often than the journal can explain."""
    files = place / "files"
    events = [recorded.event for recorded in history]
    started = Counter(event.key for event in events if isinstance(event, StepStarted))
    noted = Counter(key for _, key in notes(place))
    return {
        "status": result.status,
        "code": result.fault.code if result.fault else "",
        "value": result.value,
        "files": {str(file.relative_to(files)): file.read_text() for file in files.rglob("*") if is_shown(file)},
        "sent": sorted(word for word, _ in notes(place) if word in {"send", "ring"}),
        "twice": [key for key in noted if noted[key] > started[key]] + restarted(events),
        "doubted": sorted(event.path for event in events if isinstance(event, StepInDoubt)),
        "types": [event.type for event in events],
    }


def is_shown(file: Path) -> bool:
    """Whether it is a file for people; a killed process may leave the hidden beginning of one."""
    return file.is_file() and not file.name.startswith(".")


def restarted(events: Sequence[Event]) -> list[str]:
    """The paths that were started again although they had succeeded."""
    finished: set[str] = set()
    again = []
    for event in events:
        match event:
            case StepSucceeded():
                finished.add(event.path)
            case StepStarted() if event.path in finished:
                again.append(event.path)
            case _:
                pass
    return again


STRICT = Plan.model_validate(
    {
        "steps": [
            step("s1", "files.write", path="a.txt", text="a"),
            step("s2", "world.send", text="hello", after=["s1"]),
            step("s3", "files.append", path="log.txt", text="sent", after=["s2"]),
        ],
        "answer": "done",
    }
)


async def strict(place: Path, crash: Crash | None) -> None:
    """A run where nobody can be asked what happened."""
    async with Desk(place, crash=crash, on_ask="deny") as desk:
        await desk.run("Tell them", plan=STRICT, run_id=RUN, observe=desk.observe)
    await rest(place, crash)


Work: TypeAlias = Callable[[Path, Crash | None], Coroutine[Any, Any, None]]
WORKS: dict[str, Work] = {"whole": whole, "strict": strict}
EFFECTS = {"PlanProposed", "ContentKept", "StepSucceeded", "StepFailed", "HumanAnswered"}
"""What follows something that happened outside the journal, which a crash in between forgets."""


def forked(work: Work, place: Path, crash: Crash | None = None) -> int:
    """Does the work in a process of its own; its exit code, or the signal that ended it, negative."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(ALARM_S)
        try:
            asyncio.run(work(place, crash))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def made(place: Path) -> Path:
    (place / "files" / "in").mkdir(parents=True)
    (place / "files" / "in" / "x").write_text("Ada")
    (place / "files" / "in" / "y").write_text("Bob")
    return place


def crashes(base: Path, work: Work) -> Iterator[dict[str, Any]]:
    """The outcome of the run without a crash, then the outcome after each possible crash."""
    place = made(base / "none")
    assert forked(work, place) == 0
    smooth = json.loads((place / "outcome").read_text())
    yield smooth
    count = len(smooth["types"])
    points = [Crash("after", event) for event in range(1, count + 1)]
    points += [Crash("before", event) for event in range(2, count + 1) if smooth["types"][event - 1] in EFFECTS]
    for point in points:
        place = made(base / f"{point.moment}{point.event}")
        assert forked(work, place, point) == -signal.SIGKILL, point
        assert forked(rest, place) == 0, point
        yield {**json.loads((place / "outcome").read_text()), "crash": point}
        shutil.rmtree(place)


def often(base: Path) -> Iterator[dict[str, Any]]:
    """The outcome of one run whose processes live for 20 events each."""
    place, kills = made(base / "often"), 0
    while forked(rest if kills else whole, place, Crash("own", 20)) == -signal.SIGKILL:
        kills += 1
    yield {**json.loads((place / "outcome").read_text()), "kills": kills}


def outcomes(work: str) -> list[dict[str, Any]]:
    """What this file printed as a program of its own."""
    memory = Path("/dev/shm")  # a power cut is not tested, so no disk is needed
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", __file__, work, folder],
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


END = {"status": "completed", "code": "", "value": "final: a short text", "files": FILES, "sent": ["ring", "send"]}


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end_and_repeats_nothing() -> None:
    found = outcomes("whole")
    assert [other for other in found if not {**END, "twice": []}.items() <= other.items()] == []
    print(f"{len(found) - 1} crash points in {len(found[0]['types'])} events")
    doubted = {path for other in found for path in other["doubted"]}
    assert {"s7", "s9", "s15", "s16"} <= doubted  # appended, moved, sent, rung: each was in doubt once


def test_where_nobody_can_be_asked_a_run_killed_while_it_sent_something_fails_rather_than_sends_it_twice() -> None:
    smooth, *crashed = outcomes("strict")
    for other in (smooth, *crashed):
        in_doubt = "s2" in other["doubted"]
        assert other["sent"] in ([[], ["send"]] if in_doubt else [["send"]])
        assert (other["status"], other["code"]) == (("failed", "A-104") if in_doubt else ("unverified", ""))
        assert other["twice"] == []
    assert {len(other["sent"]) for other in crashed if "s2" in other["doubted"]} == {0, 1}


def test_a_run_whose_process_is_killed_again_and_again_comes_to_the_same_end() -> None:
    (found,) = outcomes("often")
    assert {**END, "twice": []}.items() <= found.items()
    assert found["kills"] >= 3


# every tool, every failure ------------------------------------------------------------------------------------------

SALES = [{"item": "tea", "price": 3}, {"item": "ink", "price": 5}, {"item": "tea", "price": 4}]
IBAN = "DE89370400440532013000"
TEXT = f"Ada <ada@example.org> paid 12.50 on 2026-03-01 from {IBAN}"
CALLS: list[tuple[str, dict[str, Any], Any]] = [
    ("files.list", {"folder": "in"}, ["in/x", "in/y"]),
    ("files.read", {"path": "in/x"}, "Ada"),
    ("files.search", {"text": "bob"}, [{"path": "in/y", "line": 1, "text": "Bob"}]),
    ("files.write", {"path": "new/a.txt", "text": "a"}, "new/a.txt"),
    ("files.append", {"path": "in/x", "text": "more"}, "in/x"),
    ("files.move", {"source": "in/x", "target": "z"}, "z"),
    ("text.lines", {"text": "a\n\nb"}, ["a", "b"]),
    ("text.count", {"text": "a b\nc"}, 3),
    ("text.occurrences", {"text": "tea and TEA", "phrase": "tea"}, 2),
    ("text.filter", {"text": "tea\nink", "phrase": "ink"}, "ink"),
    ("text.replace", {"text": "tea", "old": "t", "new": "s"}, "sea"),
    ("text.find", {"text": TEXT, "kind": "email"}, ["ada@example.org"]),
    ("text.diff", {"old": "a", "new": "b"}, "--- old\n+++ new\n@@ -1 +1 @@\n-a\n+b"),
    ("lists.sort", {"items": [3, 1, 2]}, [1, 2, 3]),
    ("lists.unique", {"items": ["a", "b", "a"]}, ["a", "b"]),
    ("lists.join", {"items": ["a", "b"]}, "a, b"),
    ("lists.count", {"items": ["a", "b"]}, 2),
    ("math.calculate", {"expression": "(3 + 4) * 2"}, 14),
    ("dates.today", {}, ...),
    ("dates.add", {"date": "2026-03-01", "days": 30}, "2026-03-31"),
    ("dates.days_between", {"start": "2026-03-01", "end": "2026-03-31"}, 30),
    ("table.columns", {"table": SALES}, ["item", "price"]),
    ("table.filter", {"table": SALES, "column": "price", "operator": ">", "value": "4"}, SALES[1:2]),
    ("table.sort", {"table": SALES, "column": "price"}, [SALES[0], SALES[2], SALES[1]]),
    ("table.aggregate", {"table": SALES, "column": "price"}, 12),
    ("table.group", {"table": SALES, "by": "item", "column": "price"}, [{"item": "tea", "price": 7}, SALES[1]]),
    ("table.top", {"table": SALES, "column": "price"}, SALES[1]),
    ("table.csv", {"table": SALES[:1]}, "item,price\ntea,3\n"),
    ("agent.writer", {"task": "sum up"}, "a short text"),
    ("agent.extractor", {"inputs": "Ada wrote", "fields": "name"}, {"name": "Ada"}),
    ("agent.choose", {"question": "which?", "options": ["tea", "ink"], "inputs": "hot"}, "tea"),
]
CLASSES = get_args(ErrorClass)


@tool(name="world.fails", effect="read", resource=())
def fails(kind: str) -> str:
    """Fail in this way."""
    raise ToolError("X-3", "as told", error_class=cast("ErrorClass", kind), choices=("a", "b"))


EVERYTHING = Toolbox.load(reference() / "tools").merged(Toolbox.of(fails))


def reopened(place: Path, steps: Sequence[dict[str, Any]]) -> tuple[Run, Result, Result]:
    """The run as it was observed, which the journal gives again, with its result then and after a resume."""
    options: dict[str, Any] = {
        "workspace": place / "files",
        "state": place / "state",
        "policy": POLICY,
        "environ": {},
    }
    seen: list[Recorded] = []

    async def work() -> tuple[Result, Result]:
        async with Assistant(EVERYTHING, model=ScriptedModel(scripted), **options) as first:
            plan = Plan.model_validate({"steps": steps})
            result = await first.run("Do it", plan=plan, run_id=RUN, observe=seen.append)
        async with Assistant(EVERYTHING, model=ScriptedModel([]), **options) as second:
            assert await second.journal.read(RUN) == tuple(seen)
            return result, await second.resume(RUN)

    result, again = asyncio.run(work())
    return fold(seen), result, again


@pytest.mark.parametrize(("callee", "arguments", "value"), CALLS, ids=[call[0] for call in CALLS])
def test_every_callee_runs_and_its_run_is_the_same_when_the_journal_is_opened_again(
    tmp_path: Path, callee: str, arguments: dict[str, Any], value: Any
) -> None:
    run, result, again = reopened(made(tmp_path), [step("s1", callee, **arguments)])
    assert run.step("s1").status == "succeeded"
    assert (result.status, result.fault) == ("unverified", None)
    assert result.value == value or value is ...
    assert again == result


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("then", ["fail", "skip"])
def test_every_class_of_error_ends_a_run_or_a_step_and_is_the_same_when_the_journal_is_opened_again(
    tmp_path: Path, kind: ErrorClass, then: str
) -> None:
    failing = step("s1", "world.fails", kind=kind, on_error={"then": then})
    run, result, again = reopened(made(tmp_path), [failing, {"id": "s2", "let": "${s1 ?? 'none'}"}])
    assert again == result
    fault = run.step("s1").fault
    assert fault == Fault(code="X-3", error_class=kind, message="as told", choices=("a", "b"))
    if then == "skip":
        assert (result.status, result.value, result.degraded) == ("unverified", "none", ("s1",))
    else:
        assert (result.status, result.fault) == ("denied" if kind == "denied" else "failed", fault)


def test_the_table_above_has_every_callee_of_the_reference_assistant(tmp_path: Path) -> None:
    catalogue = Assistant.open(workspace=tmp_path, state=tmp_path, environ={}).catalogue
    called = {name for name, callee in catalogue.items() if callee.kind in {"tool", "agent"}}
    assert called == {"web.fetch", *(callee for callee, _, _ in CALLS)}


if __name__ == "__main__":
    vars(planner.core.attempts)["BACKOFF_S"] = 0.01
    folder = Path(sys.argv[2])
    ends = often(folder) if sys.argv[1] == "often" else crashes(folder, WORKS[sys.argv[1]])
    print(json.dumps([*ends]))
    sys.exit()
