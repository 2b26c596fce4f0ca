"""Processes that drive many runs are killed at random: no run is lost, no event is written twice, no effect repeated.

The workers are forked by this file, started as a program; they are killed for 6 s, and in CI for 30 s.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planner import Assistant, Card, Plan, Policy, Recorded, Rule, ScriptedModel, ToolContext, tool
from planner.core.events import FINAL, StepStarted, StepSucceeded
from planner.core.state import fold
from planner.journal import SqliteJournal
from planner.tools import Toolbox

ROOT = Path(__file__).parent.parent
RUNS = [f"run{number:02}" for number in range(12)]
WORKERS = 3
WAKING = 4
"""A worker wakes runs in so many tasks, so that all of them go on side by side."""
POLICY = Policy(rules=(Rule(id="people", then="ask", callee="world.ring"), Rule(id="all", then="allow")))
PAUSE_S = 0.2
ROUNDS_PER_S = 1.2
"""What keeps the runs busy until the killing ends."""
REST_S = 240
"""In so much time, all runs end that nobody kills any more."""


# the world --------------------------------------------------------------------------------------------------------


def note(context: ToolContext, text: str) -> str:
    with (context.workspace / "notes").open("a") as file:
        file.write(f"{text} {context.key}\n")
    return text


def notes(place: Path) -> dict[str, list[str]]:
    """The keys under which each effect happened, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    file = place / "notes"
    for line in file.read_text().splitlines() if file.exists() else []:
        text, _, key = line.partition(" ")
        found[text].append(key)
    return found


@tool(name="world.put", effect="write", control={}, resource=("put:{text}",), on_doubt="idempotent")
def put(text: str, context: ToolContext) -> str:
    """Put a text somewhere, once for each key."""
    return note(context, text)


def was_booked(text: str, context: ToolContext) -> bool:
    return text in notes(context.workspace)


@tool(name="world.book", effect="write", control={}, resource=("book",), on_doubt="probe", probe=was_booked)
def book(text: str, context: ToolContext) -> str:
    """Write into a book where anybody may look."""
    return note(context, text)


@tool(name="world.send", effect="send", control={}, resource=("post",))
def send(text: str, context: ToolContext) -> str:
    """Send a text; nobody can say later whether it was sent."""
    return note(context, text)


@tool(name="world.ring", effect="send", control={}, resource=("bell",))
def ring(text: str, context: ToolContext) -> str:
    """Ring a bell, if a person agrees."""
    return note(context, text)


def plan_of(run: str, rounds: int) -> Plan:
    """Waits and effects in turn, and at the end a run inside the run."""
    steps: list[dict[str, Any]] = [
        {
            "id": "s0",
            "for_each": [f"{run}-put{number}" for number in range(6)],
            "use": "world.put",
            "args": {"text": "$item"},
        }
    ]
    for number in range(rounds):
        last = steps[-1]["id"]
        callee = ("book", "send", "ring")[number % 3]
        use = {"use": f"world.{callee}", "args": {"text": f"{run}-{callee}{number}"}}
        steps.append({"id": f"w{number}", "use": "wait.until", "args": {"seconds": PAUSE_S}, "after": [last]})
        steps.append({"id": f"e{number}", **use, "after": [f"w{number}"]})
    goal = {"goal": f"Send the last word of {run}", "allow": ["world.send"]}
    steps.append({"id": "last", "use": "plan.goal", "args": goal, "after": [steps[-1]["id"]]})
    return Plan.model_validate({"steps": steps, "answer": f"{run} is done"})


def planned(text: str) -> str:
    """The planner's answer to a goal of a run inside a run."""
    run = next(name for name in RUNS if name in text)
    return json.dumps({"steps": [{"id": "s1", "use": "world.send", "args": {"text": f"{run}-last"}}]})


def effects_of(run: str, rounds: int) -> list[str]:
    puts = [f"{run}-put{number}" for number in range(6)]
    return [*puts, *(f"{run}-{('book', 'send', 'ring')[n % 3]}{n}" for n in range(rounds)), f"{run}-last"]


# processes --------------------------------------------------------------------------------------------------------


def assistant(place: Path) -> Assistant:
    async def truthful(card: Card) -> str:
        given = card.arguments.value
        assert isinstance(given, dict)
        return "yes" if card.question == "approve" or given["text"] in notes(place) else "no"

    return Assistant(
        Toolbox.of(put, book, send, ring),
        model=ScriptedModel(lambda ask: planned(ask.messages[-1].content)),
        policy=POLICY,
        approver=truthful,
        workspace=place,
        state=place / "state",
        environ={},
    )


async def begin(place: Path, rounds: int) -> None:
    """Starts all runs, and is killed once each of them has begun."""
    async with assistant(place) as starter:
        begun: set[str] = set()

        def observe(recorded: Recorded) -> None:
            begun.add(recorded.run_id)
            if begun == set(RUNS):
                os.kill(os.getpid(), signal.SIGKILL)

        await asyncio.gather(
            *(starter.run(f"Do {run}", plan=plan_of(run, rounds), run_id=run, observe=observe) for run in RUNS)
        )


async def work(place: Path, rounds: int) -> None:
    """Goes on with whatever can, until all runs have ended."""
    async with assistant(place) as worker:
        while any(one.status not in FINAL for one in await worker.journal.runs(limit=100)):
            await asyncio.gather(*(worker.wake() for _ in range(WAKING)))
            await asyncio.sleep(0.02)


def forked(job: Callable[[Path, int], Coroutine[Any, Any, None]], place: Path, rounds: int) -> int:
    """The id of a process of its own that does the job."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(600)
        try:
            asyncio.run(job(place, rounds))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return pid


def killing(place: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Kills and replaces workers for so long, lets the runs end, and says what became of them."""
    dice, rounds = random.Random(seed), 3 + round(seconds * ROUNDS_PER_S)
    os.waitpid(forked(begin, place, rounds), 0)
    workers, kills, broken = [forked(work, place, rounds) for _ in range(WORKERS)], 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(dice.uniform(0.05, 0.4))
        victim = workers.pop(dice.randrange(WORKERS))
        os.kill(victim, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1])
        kills += ended == -signal.SIGKILL
        broken += ended > 0
        workers.append(forked(work, place, rounds))
    in_time = sum(one["status"] in FINAL for one in asyncio.run(states(place)))
    give_up = time.monotonic() + REST_S
    for pid in workers:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.05)
            if time.monotonic() > give_up:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
    noted = notes(place)
    wanted = [text for run in RUNS for text in effects_of(run, rounds)]
    return {
        "kills": kills,
        "broken": broken,
        "in_time": in_time,
        "effects": len(wanted),
        "states": asyncio.run(states(place)),
        "missing": [text for text in wanted if text not in noted],
        "twice": [text for text, keys in noted.items() if len(keys) > 1 and "-put" not in text],
        "two_keys": [text for text, keys in noted.items() if len(set(keys)) > 1],
    }


async def states(place: Path) -> list[dict[str, Any]]:
    journal = SqliteJournal.open(place / "state" / "journal.db")
    found = []
    for one in await journal.runs(limit=100):
        checked, history = await journal.verify(one.run_id), await journal.read(one.run_id)
        done = Counter(r.event.path for r in history if isinstance(r.event, StepSucceeded))
        seen: set[str] = set()
        again = []
        for event in (recorded.event for recorded in history):
            again += [event.path] if isinstance(event, StepStarted) and event.path in seen else []
            seen |= {event.path} if isinstance(event, StepSucceeded) else set()
        finished = fold(history).finished
        found.append(
            {
                "run": one.run_id,
                "status": one.status,
                "value": finished.result.value if finished else None,
                "fault": finished.fault.message if finished and finished.fault else "",
                "problem": checked.problem,
                "twice": [path for path, count in done.items() if count > 1] + again,
                "events": len(history),
            }
        )
    await journal.close()
    return found


def test_runs_whose_workers_are_killed_at_random_are_neither_lost_nor_repeated(
    record_property: Callable[[str, object], None],
) -> None:
    memory = Path("/dev/shm")  # a power cut is not tested, so no disk is needed
    seconds = 30 if os.environ.get("CI") else 6
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", __file__, folder, str(seconds), str(random.randrange(10**6))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=seconds + REST_S + 60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    states = found.pop("states")
    print(found, sum(one["events"] for one in states), "events")
    record_property("kills", found["kills"])
    assert found["kills"] >= seconds
    assert found["broken"] == 0
    assert {one["run"]: one["value"] for one in states if "." not in one["run"]} == {r: f"{r} is done" for r in RUNS}
    assert [one for one in states if one["status"] != "unverified" or one["problem"] or one["twice"]] == []
    assert (found["missing"], found["twice"], found["two_keys"]) == ([], [], [])


if __name__ == "__main__":
    gc.freeze()  # a forked process then copies fewer pages
    print(json.dumps(killing(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
