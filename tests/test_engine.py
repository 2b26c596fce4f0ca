"""How a run is driven: what runs beside what, what is stopped, what is judged. Tools, files and journal are real."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from planner import Card, JournalError, Plan, Policy, Principal, Recorded, Rule, ToolContext, ToolError, tool
from planner.agents import AGENTS
from planner.config import reference
from planner.core.events import Event, RunResumed, RunStarted
from planner.core.ledger import Budget
from planner.core.run import Run
from planner.core.setup import Criterion, Setup
from planner.core.state import fold
from planner.engine import Engine
from planner.errors import ModelError
from planner.journal import Lease, SqliteJournal
from planner.llm.model import Model, ScriptedModel
from planner.outside import Outside
from planner.prompts import load
from planner.tools import Toolbox

T = TypeVar("T")
ALLOW = Policy(rules=(Rule(id="ask", then="ask", callee="desk.ring"), Rule(id="all", then="allow")))
PATIENCE_S = 120.0
"""Beyond this a test hangs."""


# the desk: tools that meet, wait and leave traces -----------------------------------------------------------------


@dataclass
class Place:
    """What the tools of a test share."""

    meeting: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: int = 0
    log: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)


places: dict[Path, Place] = {}


def place_of(context: ToolContext) -> Place:
    return places[context.workspace]


@tool(name="desk.meet", effect="read", resource=())
async def meet(who: str, context: ToolContext) -> str:
    """Wait until two are here."""
    place = place_of(context)
    place.arrived += 1
    if place.arrived == 2:
        place.meeting.set()
    await place.meeting.wait()
    return who


@tool(name="desk.block", effect="write", control={}, resource=("desk:block",))
def block(who: str, context: ToolContext) -> str:
    """Wait in a thread, keep what was there, write."""
    place = place_of(context)
    place.log.append(f"{who} begins")
    assert place.release.wait(PATIENCE_S)
    context.keep("a", None)
    place.log.append(f"{who} writes")
    return who


@tool(name="desk.stare", effect="read", resource=(), timeout_s=0.05)
async def stare(who: str) -> str:
    """Look for longer than allowed."""
    await asyncio.sleep(PATIENCE_S)
    return who


@tool(name="desk.post", effect="send", control={}, resource=("desk:post",), timeout_s=0.05)
async def post(text: str, context: ToolContext) -> str:
    """Post for longer than allowed; nobody can say later whether it was sent."""
    place_of(context).log.append(text)
    await asyncio.sleep(PATIENCE_S)
    return text


@tool(name="desk.stamp", effect="send", control={}, resource=("desk:stamp",), timeout_s=0.2, on_doubt="idempotent")
async def stamp(text: str, context: ToolContext) -> str:
    """Stamp once, however often it is called; the first time it takes too long."""
    place = place_of(context)
    place.log.append(context.key)
    if len(place.log) == 1:
        await asyncio.sleep(PATIENCE_S)
    return text


@tool(name="desk.ring", effect="send", control={}, resource=("desk:bell",))
def ring(text: str, context: ToolContext) -> str:
    """Ring, if a person agrees."""
    place_of(context).log.append(f"ring {text}")
    return text


@tool(name="desk.fail", effect="read", resource=())
async def fail(what: str) -> str:
    """Fail."""
    raise ToolError("X-1", f"no {what} \udcff", error_class="missing")


@tool(name="desk.crash", effect="write", control={}, resource=())
def crash(what: str) -> str:
    """Fail in a way that nobody foresaw."""
    raise ValueError(f"{what} \udcff")


@tool(name="desk.wait", effect="read", resource=())
async def wait(seconds: float) -> str:
    """Wait so long."""
    await asyncio.sleep(seconds)
    return "done"


BOX = Toolbox.load(reference() / "tools", only=["files.*", "text.*"]).merged(
    Toolbox.of(meet, block, stare, post, stamp, ring, fail, crash, wait)
)


# driving ----------------------------------------------------------------------------------------------------------


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    names = {"for_each": "for_each", "after": "after", "on_error": "on_error", "if_": "if"}
    known = {names[key]: fields.pop(key) for key in [*fields] if key in names}
    return {"id": id_, "use": use, "args": fields} | known


@dataclass
class Desk:
    """An engine with its journal, for one run with a plan."""

    journal: SqliteJournal
    lease: Lease
    outside: Outside
    run: Run
    place: Place
    seen: list[Event] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return Engine(self.outside, self.lease, self.run)

    def told(self, recorded: Recorded) -> None:
        self.seen.append(recorded.event)

    def kinds(self, path: str) -> list[str]:
        return [event.type for event in self.seen if getattr(event, "path", None) == path]

    async def again(self, **options: Any) -> Run:
        """The run after a resume by another engine."""
        history = await self.journal.read(self.run.id)
        resumed = RunResumed(owner="me")
        (newest,) = await self.journal.append(self.lease, len(history), [resumed], at=datetime.now(UTC))
        outside = replace(self.outside, **options)
        return await Engine(outside, self.lease, fold([*history, newest])).drive()


@asynccontextmanager
async def desk(
    tmp_path: Path,
    *steps: Mapping[str, Any],
    answer: Any = None,
    model: Model | None = None,
    criteria: tuple[Criterion, ...] = (),
    setup: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Desk]:
    """A run over these steps; without steps a planner is asked."""
    files = tmp_path / "files"
    files.mkdir(exist_ok=True)
    places[files] = place = Place()
    callees = tuple({**BOX.catalogue, **AGENTS}.values())
    pinned = {"callees": callees, "policy": ALLOW, "budget": Budget(), "workspace": str(files), **(setup or {})}
    everything = [f"${one['id']}" for one in steps]  # a step that only looks and that nobody reads is left out
    plan = Plan.model_validate({"steps": steps, "answer": answer or everything}) if steps else None
    started = RunStarted(
        goal="Do it", principal=Principal(), setup=Setup.model_validate(pinned), plan=plan, criteria=criteria
    )
    journal = SqliteJournal.open(tmp_path / "journal.db")
    lease = await journal.create("run", "me")
    (first,) = await journal.append(lease, 0, [started], at=datetime.now(UTC))

    async def played(role: str, *, cheaper: bool = False) -> Model:
        assert model is not None
        return model

    outside = Outside(
        journal=journal,
        toolbox=BOX,
        model=played,
        prompt=lambda name: load(name, [reference()]),
        workspace=files,
        **options,
    )
    made = Desk(journal, lease, outside, fold([first]), place)
    made.outside = replace(outside, observe=outside.observe or made.told)
    try:
        yield made
    finally:
        place.release.set()
        await journal.close()
        del places[files]


def ran(work: Coroutine[Any, Any, T]) -> T:
    async def patient() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(patient())


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits for what threads and tasks do; it looks from a thread of its own."""

    def wait() -> None:
        gives_up_at = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < gives_up_at
            time.sleep(0.002)

    await asyncio.to_thread(wait)


def driven(tmp_path: Path, *steps: Mapping[str, Any], **options: Any) -> tuple[Run, Desk]:
    """The run at its end, which is what the journal says of it."""

    async def work() -> tuple[Run, Desk]:
        async with desk(tmp_path, *steps, **options) as made:
            run = await made.engine.drive()
            assert fold(await made.journal.read("run")) == run
            return run, made

    return ran(work())


# side by side -----------------------------------------------------------------------------------------------------


def test_steps_that_need_only_what_is_there_run_side_by_side(tmp_path: Path) -> None:
    run, _ = driven(
        tmp_path,
        step("s1", "text.lines", text="a\nb"),
        step("s2", "desk.meet", who="${s1[0]}"),
        step("s3", "desk.meet", who="${s1[1]}"),  # s2 waits for s3, so one after the other they would never end
        {"id": "s4", "let": "${s2 + s3}"},
        answer="$s4",
    )
    assert run.finished
    assert run.finished.result.value == "ab"


def test_the_items_of_a_map_run_side_by_side_and_keep_their_order(tmp_path: Path) -> None:
    run, _ = driven(tmp_path, step("s1", "desk.meet", for_each=["a", "b"], who="$item"), answer="$s1")
    assert run.finished
    assert run.finished.result.value == ["a", "b"]


def test_effects_on_one_file_keep_the_order_of_the_plan_under_load(tmp_path: Path) -> None:
    busy = [step(f"r{n}", "desk.wait", seconds=0.001 * n) for n in range(10)]
    writes = [step(f"a{n}", "files.append", path="log.txt", text=f"line {n}") for n in range(15)]
    looks = [step(f"l{n}", "files.read", path="LOG.txt" if n else "log.txt", after=[f"a{n}"]) for n in range(14)]
    mixed = [*busy, *(part for pair in zip(writes, [*looks, {}], strict=True) for part in pair if part)]
    run, _ = driven(
        tmp_path, *mixed, answer={"busy": [f"$r{n}" for n in range(10)], "texts": [f"$l{n}" for n in range(14)]}
    )
    assert (tmp_path / "files" / "log.txt").read_text() == "\n".join(f"line {n}" for n in range(15))
    assert run.finished
    texts = run.finished.result.at(("texts",)).value
    assert isinstance(texts, list)
    assert [str(text).count("line") for text in texts] == [*range(1, 15)]


def test_a_tool_that_waits_in_a_thread_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def work() -> Run:
        async with desk(tmp_path, step("s1", "desk.block", who="x"), step("s2", "desk.wait", seconds=0)) as made:
            driving = asyncio.create_task(made.engine.drive())
            await eventually(lambda: "StepSucceeded" in made.kinds("s2"))
            assert made.kinds("s1")[-1] == "StepStarted"
            made.place.release.set()
            return await driving

    assert ran(work()).status == "unverified"


def test_a_run_that_waits_for_a_person_ends_although_its_last_step_was_only_computed(tmp_path: Path) -> None:
    run, _ = driven(
        tmp_path,
        step("s1", "desk.ring", text="x"),
        step("s2", "desk.wait", seconds=0.02),
        {"id": "s3", "let": "${s2}"},
        answer=["$s1", "$s3"],
    )
    assert run.status == "waiting"
    assert run.step("s3").status == "succeeded"


# time limits ------------------------------------------------------------------------------------------------------


def test_a_look_that_takes_too_long_failed_and_may_be_tried_again(tmp_path: Path) -> None:
    run, made = driven(tmp_path, step("s1", "desk.stare", who="x"))
    assert run.status == "failed"
    fault = run.step("s1").fault
    assert fault
    assert (fault.code, fault.error_class) == ("T-298", "unavailable")
    assert made.kinds("s1") == ["StepResolved", "StepStarted", "StepFailed"]


def test_an_effect_that_takes_too_long_is_in_doubt_and_nobody_but_a_person_repeats_it(tmp_path: Path) -> None:
    run, made = driven(tmp_path, step("s1", "desk.post", text="x"))
    assert run.status == "waiting"
    assert run.step("s1").question == "happened"
    assert made.place.log == ["x"]
    run, made = driven(tmp_path / "files", step("s1", "desk.post", text="x"), setup={"on_ask": "deny"})
    assert run.finished
    assert run.finished.fault
    assert (run.status, run.finished.fault.code, made.place.log) == ("failed", "A-104", ["x"])


def test_an_effect_in_doubt_that_may_be_repeated_is_repeated_with_the_same_key(tmp_path: Path) -> None:
    run, made = driven(tmp_path, step("s1", "desk.stamp", text="x"))
    assert run.status == "unverified"
    assert len(made.place.log) >= 2
    assert len(set(made.place.log)) == 1
    assert made.kinds("s1")[:4] == ["StepResolved", "StepStarted", "StepInDoubt", "StepStarted"]


def test_what_a_tool_says_is_kept_even_where_it_is_no_proper_text(tmp_path: Path) -> None:
    run, _ = driven(tmp_path, step("s1", "desk.fail", what="x"))
    fault = run.step("s1").fault
    assert fault
    assert fault.message == "no x ?"
    run, _ = driven(tmp_path / "files", step("s1", "desk.crash", what="x"))
    assert (run.status, run.step("s1").question) == ("waiting", "happened")


# stopping ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_starts_nothing_and_gives_what_is_under_way_some_time_to_end(tmp_path: Path) -> None:
    async def work() -> Run:
        steps = [step("s1", "desk.block", who="x"), step("s2", "files.write", path="a.txt", text="$s1")]
        async with desk(tmp_path, *steps) as made:
            engine = made.engine
            driving = asyncio.create_task(engine.drive())
            await eventually(lambda: bool(made.place.log))
            await engine.cancel("me")
            await engine.cancel("me")
            made.place.release.set()
            return await driving

    run = ran(work())
    assert run.status == "cancelled"
    assert run.step("s1").status == "succeeded"
    assert run.step("s2").status == "new"


def test_an_effect_that_does_not_end_in_that_time_is_in_doubt_and_can_write_nothing_afterwards(
    tmp_path: Path,
) -> None:
    async def work() -> tuple[Run, list[str]]:
        steps = (step("s1", "desk.block", who="x"), step("s2", "desk.wait", seconds=PATIENCE_S))
        async with desk(tmp_path, *steps, grace_s=0.05) as made:
            engine = made.engine
            driving = asyncio.create_task(engine.drive())
            await eventually(lambda: bool(made.place.log))
            began = time.monotonic()
            await engine.cancel("me")
            run = await driving
            assert time.monotonic() - began < PATIENCE_S / 2
            made.place.release.set()
            await eventually(lambda: not any("desk.block" in thread.name for thread in threading.enumerate()))
            await engine.cancel("too late")
            assert fold(await made.journal.read("run")) == run
            return run, made.place.log

    run, log = ran(work())
    assert (run.status, log) == ("cancelled", ["x begins"])
    assert run.finished is not None
    assert [one.path for one in run.finished.left] == ["s1"]  # and the journal says that nobody knows


def test_the_time_after_a_cancellation_is_not_prolonged_by_what_happens_in_it(tmp_path: Path) -> None:
    async def work() -> Run:
        steps = [
            step("s0", "desk.block", who="x"),
            *(step(f"s{n}", "desk.wait", seconds=0.2 * n) for n in range(1, 8)),
        ]
        async with desk(tmp_path, *steps, grace_s=0.3) as made:
            engine = made.engine
            driving = asyncio.create_task(engine.drive())
            await eventually(lambda: bool(made.place.log) and made.kinds("s7")[-1:] == ["StepStarted"])
            await engine.cancel("me")
            return await driving

    run = ran(work())
    assert run.step("s7").status == "in_doubt"


async def agree(_: Card) -> Literal["yes"]:
    return "yes"


def test_a_run_whose_task_is_cancelled_can_be_resumed(tmp_path: Path) -> None:
    async def work() -> tuple[Run, list[str]]:
        async with desk(tmp_path, step("s1", "desk.stamp", text="x"), step("s2", "desk.post", text="y")) as made:
            driving = asyncio.create_task(made.engine.drive())
            await eventually(lambda: len(made.place.log) == 2)
            driving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await driving
            assert "StepInDoubt" in made.kinds("s1")
            assert "StepInDoubt" in made.kinds("s2")
            return await made.again(approver=agree), made.place.log

    run, log = ran(work())
    assert run.status == "unverified"
    assert sorted(word for word in log if word == "y") == ["y"]


def test_a_lost_lease_stops_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.engine.RENEW_S", 0.02)

    async def work() -> None:
        async with desk(tmp_path, step("s1", "desk.wait", seconds=PATIENCE_S)) as made:
            driving = asyncio.create_task(made.engine.drive())
            await eventually(lambda: made.kinds("s1")[-1:] == ["StepStarted"])
            await made.journal.release(made.lease)
            await made.journal.acquire("run", "another")
            with pytest.raises(JournalError, match="J-104"):
                await driving

    ran(work())


def test_an_observer_that_raises_stops_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    def observe(recorded: Recorded) -> None:
        if recorded.event.type == "StepResolved":
            raise OSError("the pipe is broken")

    async def work() -> Run:
        async with desk(tmp_path, step("s1", "desk.meet", for_each=["a", "b"], who="$item"), observe=observe) as made:
            with pytest.raises(OSError, match="pipe"):
                await made.engine.drive()
            return await made.again(observe=None)

    assert ran(work()).status == "unverified"


# models -----------------------------------------------------------------------------------------------------------

JUDGED = (Criterion(id="c1", kind="text", text="It is short"), Criterion(id="c2", kind="text", text="It rhymes"))
NO = '{"is_met": false}'
YES = '{"is_met": true}'
GONE = ModelError("M-106", "not there")


@pytest.mark.parametrize(
    ("answers", "status", "unmet"),
    [
        ([YES, YES], "completed", ()),
        ([YES, NO], "rejected", ("c2",)),
        ([NO, GONE], "rejected", ("c1",)),
        ([GONE, YES], "unverified", ("c1",)),
        ([YES, "garbage", "garbage"], "unverified", ("c2",)),
    ],
)
def test_a_judge_decides_criterion_by_criterion(
    tmp_path: Path, answers: list[str | ModelError], status: str, unmet: tuple[str, ...]
) -> None:
    model = ScriptedModel(answers, cost_usd=0.5)
    run, _ = driven(tmp_path, {"id": "s1", "let": "x"}, model=model, criteria=JUDGED, setup={"can_judge": True})
    assert (run.status, run.unmet) == (status, unmet)
    assert run.spent.cost_usd == 0.5 * sum(isinstance(answer, str) for answer in answers)


def test_no_call_is_started_beyond_the_budget(tmp_path: Path) -> None:
    steps = [step("s1", "desk.wait", seconds=0.01), *(step(f"s{n}", "desk.wait", seconds=0) for n in range(2, 9))]
    run, made = driven(tmp_path, *steps, setup={"budget": Budget(calls=3)})
    assert run.status == "over_budget"
    assert [event.type for event in made.seen].count("StepStarted") == 3
