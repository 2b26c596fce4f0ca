"""Whoever does not drive a run asks its owner, from another process: soon taken, once, or refused with a reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from planner import Assistant, Card, JournalError, Plan, Policy, Rule, ScriptedModel, ToolContext, UserError, tool
from planner.assistant import user_name
from planner.core.events import (
    CancelRequested,
    EventReceived,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    Steered,
)
from planner.core.run import Run
from planner.core.state import fold
from planner.journal import Journal, Requestable, SqliteJournal

ROOT = Path(__file__).parent.parent
POLICY = Policy(rules=(Rule(id="all", then="allow"),))
SOON_S = 1.0
"""In which the owner takes a request, where it is not kept waiting for the processor."""
PATIENCE_S = 120.0
"""Beyond this a test hangs."""
PLAN = Plan.model_validate(
    {
        "inputs": {"word": "first"},
        "steps": [
            {"id": "a", "use": "gate.approve", "args": {"what": "it"}},
            {"id": "b", "use": "human.user", "args": {"question": "How many?", "type": "integer"}},
            {"id": "c", "use": "wait.event", "args": {"name": "go", "match": {"n": 1}}},
            {"id": "d", "use": "world.put", "args": {"text": "${inputs.word} ${b} ${c.n}"}, "after": ["a"]},
        ],
        "answer": "$d",
    }
)


def unput(text: str, context: ToolContext) -> None:
    (context.workspace / "lines").unlink()


@tool(name="world.put", effect="write", control={}, resource=("lines",), undo=unput)
def put(text: str, context: ToolContext) -> str:
    """Write a line."""
    with (context.workspace / "lines").open("a") as file:
        file.write(f"{text}\n")
    return text


def opened(place: Path, **options: Any) -> Assistant:
    return Assistant(
        [put], model=ScriptedModel([]), policy=POLICY, workspace=place, state=place, environ={}, **options
    )


async def never(card: Card) -> str:
    """A person who is asked and says nothing, so that the run stays live."""
    await asyncio.Event().wait()
    return "yes"


async def own(place: Path, names: list[str]) -> None:
    """Drives runs, in a process of its own, until it is told to stop."""
    async with opened(place, approver=never) as owner:
        await asyncio.gather(*(owner.run("Do it", plan=PLAN, run_id=name) for name in names))


@contextmanager
def owned(place: Path, *names: str) -> Iterator[None]:
    """While another process drives these runs."""
    command = [sys.executable, "-W", "error", __file__, str(place), *names]
    owner = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        asyncio.run(_until_asked(place, names))
        yield
    finally:
        owner.kill()
        owner.wait()


async def _until_asked(place: Path, names: tuple[str, ...]) -> None:
    async with reading(place) as journal, asyncio.timeout(PATIENCE_S):
        while {one.run_id for one in await journal.runs() if one.events >= 7} != set(names):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def reading(place: Path) -> AsyncIterator[Journal]:
    journal = SqliteJournal.open(place / "journal.db")
    try:
        yield journal
    finally:
        await journal.close()


async def state(place: Path, name: str) -> Run:
    async with reading(place) as journal:
        return fold(await journal.read(name))


async def posted(place: Path, name: str, event: Requestable) -> tuple[float, str | None]:
    """In which time the owner took the request, or refused it with that reason."""
    async with reading(place) as journal, asyncio.timeout(PATIENCE_S):
        began = time.monotonic()
        id_ = await journal.post(name, event, at=datetime.now(UTC))
        while (asked := await journal.request(id_)).is_open:  # noqa: ASYNC110 - nothing here could tell
            await asyncio.sleep(0.01)
        taken = [r.event.type for r in await journal.read(name) if r.run_seq == asked.run_seq]
        assert taken == ([event.type] if asked.problem is None else [])
        return time.monotonic() - began, asked.problem


async def reached(place: Path, name: str, holds: Callable[[Run], bool]) -> Run:
    """The run once that holds of it."""
    async with reading(place) as journal, asyncio.timeout(PATIENCE_S):
        while not holds(run := fold(await journal.read(name))):  # noqa: ASYNC110 - nothing here could tell
            await asyncio.sleep(0.01)
        return run


def asked_at(run: Run, path: str) -> int:
    return run.step(path).asked


def answer(path: str, word: Any, **more: Any) -> HumanAnswered:
    return HumanAnswered.model_validate({"path": path, "answer": word, "by": "ada", **more})


def lines(place: Path) -> list[str]:
    file = place / "lines"
    return file.read_text().splitlines() if file.exists() else []


# while the run is live ----------------------------------------------------------------------------------------------


def test_what_another_process_asks_of_a_live_run_is_taken_at_once_and_once(tmp_path: Path) -> None:
    names = ("approve", "deny", "answer", "pause", "steer", "cancel", "event")
    wanted: dict[str, Requestable] = {
        "approve": answer("a", "yes"),
        "deny": answer("a", "no"),
        "answer": answer("b", "value", value=7),
        "pause": PauseRequested(by="ada"),
        "steer": Steered(by="ada", inputs={"word": "second"}),
        "cancel": CancelRequested(by="ada"),
        "event": EventReceived(name="go", data={"n": 1}, by="ada"),
    }
    ends: dict[str, Callable[[Run], bool]] = {
        "approve": lambda run: run.step("a").status == "succeeded",
        "deny": lambda run: run.status == "denied",
        "answer": lambda run: run.step("b").status == "succeeded",
        "pause": lambda run: run.status == "paused",
        "steer": lambda run: run.revision == 2,
        "cancel": lambda run: run.status == "cancelled",
        "event": lambda run: [event.name for event in run.mailbox.values()] == ["go"],  # taken: the approval is first
    }
    with owned(tmp_path, *names):
        times = {name: asyncio.run(posted(tmp_path, name, event)) for name, event in wanted.items()}
        runs = {name: asyncio.run(reached(tmp_path, name, wanting)) for name, wanting in ends.items()}
    print({name: f"{seconds * 1000:.0f} ms" for name, (seconds, _) in times.items()})
    assert {name: problem for name, (_, problem) in times.items()} == dict.fromkeys(names)
    assert median(seconds for seconds, _ in times.values()) < SOON_S
    assert max(seconds for seconds, _ in times.values()) < 5 * SOON_S
    assert all(ends[name](run) for name, run in runs.items())


def test_a_run_that_is_asked_for_everything_in_turn_does_its_work_once_and_as_corrected(tmp_path: Path) -> None:
    times: list[float] = []
    with owned(tmp_path, "run"):
        run = asyncio.run(state(tmp_path, "run"))
        old_a, old_b = asked_at(run, "a"), asked_at(run, "b")
        requests: list[tuple[Requestable, str]] = [
            (PauseLifted(by="ada"), "not paused"),
            (answer("b", "value", value="many"), "no integer"),
            (answer("b", "yes"), "answered by a value"),
            (answer("x", "yes"), "nothing is asked"),
            (answer("a", "yes", asked=old_a - 1), "another one"),
            (EventReceived(name="go", data={"n": 2}), ""),
            (Steered(by=user_name(), text="do it otherwise"), "a plan, inputs"),
            (Steered(by="ada", inputs={"word": "second"}), ""),
            (answer("b", "value", value="7", asked=old_b), ""),  # what it asks has not changed
            (answer("b", "value", value="8"), "nothing is asked"),
            (EventReceived(name="go", data={"n": 1}), ""),
            (answer("a", "yes"), ""),
        ]
        for event, problem in requests:
            seconds, said = asyncio.run(posted(tmp_path, "run", event))
            times.append(seconds)
            assert (said is None) == (not problem), (event, said)
            assert problem in (said or ""), event
            time.sleep(0.1)  # the owner goes on meanwhile
        asyncio.run(reached(tmp_path, "run", lambda run: run.finished is not None))
        _, said = asyncio.run(posted_after(tmp_path, CancelRequested(by="ada")))
    run = asyncio.run(state(tmp_path, "run"))
    assert (run.status, lines(tmp_path)) == ("unverified", ["second 7 1"])
    assert median(times) < SOON_S
    assert max(times) < 5 * SOON_S
    assert said is not None
    assert "finished" in said


async def posted_after(place: Path, event: Requestable) -> tuple[None, str | None]:
    """What is said to somebody who asks something of a run that has finished."""
    async with opened(place) as other:
        with pytest.raises(UserError) as refused:
            await other.tell("run", event)
    assert refused.value.code == "U-432"
    return None, refused.value.message


# while nobody drives it ---------------------------------------------------------------------------------------------


async def waiting(place: Path, name: str) -> None:
    async with opened(place) as first:
        assert (await first.run("Do it", plan=PLAN, run_id=name)).status == "waiting"


def test_what_was_asked_while_nobody_drove_the_run_is_taken_by_whoever_does_so_next(tmp_path: Path) -> None:
    async def asked() -> None:
        await waiting(tmp_path, "run")
        async with reading(tmp_path) as journal:
            for event in (
                PauseRequested(by="ada"),
                answer("a", "yes"),
                EventReceived(name="go", data={"n": 1}),
                Steered(by="ada", inputs={"word": "second"}),
            ):
                await journal.post("run", event, at=datetime.now(UTC))
        async with opened(tmp_path) as next_one:
            assert [result.status for result in await next_one.wake()] == ["paused"]
            assert await next_one.wake() == ()  # it is paused, and nobody asks anything more
            assert (await next_one.resume("run")).status == "waiting"
            run = fold(await next_one.journal.read("run"))
            assert run.plan is not None
            assert run.plan.inputs["word"] == "second"
            open_ = [path for path in ("a", "b") if run.step(path).status == "asked"]
            for path in open_:
                last = await next_one.tell("run", answer(path, *(["yes"] if path == "a" else ["value"]), value=7))
        assert (last.status, lines(tmp_path)) == ("unverified", ["second 7 1"])

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('{"a": "\\ud800"}', "no record"),
        ('{"a": NaN}', "no record"),
        (f'{{"a": {"[" * 500}{"]" * 500}}}', "no record"),
        (f'{{"a": {"[" * 220}{"]" * 220}}}', "cannot be kept as JSON"),
        (f'{{"a": {"[" * 199}{"]" * 199}}}', "cannot be kept as JSON"),  # the step's value, not the answer itself
    ],
)
def test_an_answer_that_no_journal_can_keep_is_refused_and_the_next_one_counts(
    tmp_path: Path, value: str, problem: str
) -> None:
    plan = Plan.model_validate(
        {"steps": [{"id": "h", "use": "human.user", "args": {"question": "What?", "type": "record"}}], "answer": "$h"}
    )

    async def asked() -> None:
        async with opened(tmp_path) as assistant:
            assert (await assistant.run("Ask", plan=plan, run_id="run")).status == "waiting"
            with pytest.raises(UserError, match=problem) as refused:
                await assistant.tell("run", answer("h", "value", value=value))
            assert refused.value.code == "U-432"
            result = await assistant.tell("run", answer("h", "value", value='{"a": 1}'))
            assert (result.status, result.value) == ("unverified", {"a": 1})

    asyncio.run(asked())


# several who tell at the same time ----------------------------------------------------------------------------------


def at_once(place: Path, *jobs: Callable[[Path], Coroutine[Any, Any, Any]]) -> list[Any]:
    """What each job says, in a process of its own, begun at the same moment."""
    ready, go = os.pipe()
    pids = []
    for number, job in enumerate(jobs):
        pid = os.fork()
        if pid == 0:
            signal.alarm(120)
            try:
                os.close(go)
                os.read(ready, 1)
                (place / f"said{number}").write_text(json.dumps(asyncio.run(job(place))))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    os.close(go)  # all read the end of the pipe now
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(ready)
    assert codes == [0] * len(jobs)
    return [json.loads((place / f"said{number}").read_text()) for number in range(len(jobs))]


def telling(name: str, event: Requestable) -> Callable[[Path], Coroutine[Any, Any, str]]:
    async def job(place: Path) -> str:
        async with opened(place) as other:
            try:
                return (await other.tell(name, event)).status
            except (UserError, JournalError) as error:
                return error.code

    return job


def race(base: Path, number: int) -> dict[str, Any]:
    place = base / str(number)
    place.mkdir()
    asyncio.run(waiting(place, "run"))
    first = at_once(
        place,
        telling("run", answer("a", "yes")),
        telling("run", answer("a", "yes")),
        telling("run", EventReceived(name="go", data={"n": 1})),
    )
    last = at_once(place, *(telling("run", answer("b", "value", value=value)) for value in (7, 7, 8)))
    run = asyncio.run(state(place, "run"))
    return {"first": first, "last": last, "status": run.status, "lines": lines(place)}


def test_of_processes_that_answer_at_the_same_time_one_is_heard_and_the_others_are_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path), "race"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for found in json.loads(done.stdout):
        assert sorted(found["first"][:2])[0] == "U-432", found
        assert {*found["first"]} <= {"U-432", "waiting", "running"}, found
        assert found["first"][2] != "U-432", found
        assert sorted(found["last"])[:2] == ["U-432", "U-432"], found
        assert found["status"] == "unverified", found
        assert found["lines"] in (["first 7 1"], ["first 8 1"]), found


if __name__ == "__main__":
    if sys.argv[2] == "race":
        print(json.dumps([race(Path(sys.argv[1]), number) for number in range(10)]))
    else:
        asyncio.run(own(Path(sys.argv[1]), sys.argv[2:]))
