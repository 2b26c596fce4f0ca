"""What is appended to a run, together with what, and what is refused. The journal is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from planner import JournalError, Plan, Policy, Principal, Recorded, Rule, tool
from planner.core.catalog import Callee
from planner.core.commands import Call
from planner.core.events import (
    CancelRequested,
    Event,
    PauseLifted,
    PauseRequested,
    RunFinished,
    RunStarted,
    StepResolved,
    StepStarted,
    StepSucceeded,
)
from planner.core.labels import Labelled
from planner.core.ledger import Budget
from planner.core.run import Run
from planner.core.setup import Setup
from planner.core.state import fold
from planner.journal import Lease, SqliteJournal
from planner.outcomes import started
from planner.outside import Outside
from planner.recorder import Recorder, always, never
from planner.tools import Toolbox

T = TypeVar("T")
PLAN = Plan.model_validate(
    {
        "steps": [
            {"id": "s1", "use": "desk.look", "args": {"at": "a"}},
            {"id": "s2", "use": "desk.look", "args": {"at": "b"}},
            {"id": "s3", "use": "desk.look", "args": {"at": "$s1"}},
        ],
        "answer": ["$s2", "$s3"],
    }
)


@tool(name="desk.look", effect="read", resource=())
async def look(at: str) -> str:
    """Look at something."""
    return at


CALLEES: tuple[Callee, ...] = tuple(Toolbox.of(look).catalogue.values())


class Counted(SqliteJournal):
    """The real journal, which also remembers what was appended together, and may hold less than it was given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.appended: list[list[str]] = []
        self.holds: Callable[[Event], Event] = lambda event: event

    async def append(
        self, lease: Lease, expected: int, events: Sequence[Event], *, at: datetime, **more: Any
    ) -> tuple[Recorded, ...]:
        recorded = await super().append(lease, expected, [*map(self.holds, events)], at=at, **more)
        self.appended.append([f"{event.type} {getattr(event, 'path', '')}".strip() for event in events])
        return recorded


@dataclass
class Desk:
    journal: Counted
    recorder: Recorder
    seen: list[str] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return self.recorder.run

    def starts(self) -> list[StepStarted]:
        return [started(command) for command in self.recorder.wanted(self.run) if isinstance(command, Call)]


@asynccontextmanager
async def desk(place: Path, observe: Callable[[Recorded], None] | None = None) -> AsyncIterator[Desk]:
    journal = Counted.open(place / "journal.db")
    assert isinstance(journal, Counted)
    policy = Policy(rules=(Rule(id="all", then="allow"),))
    setup = Setup(callees=CALLEES, policy=policy, budget=Budget(), workspace=str(place))
    lease = await journal.create("run", "me")
    event = RunStarted(goal="Look", principal=Principal(), setup=setup, plan=PLAN)
    (first,) = await journal.append(lease, 0, [event], at=datetime.now(UTC))
    outside = Outside(
        journal=journal, toolbox=Toolbox.of(look), model=no_model, prompt=no_prompt, workspace=place, observe=observe
    )
    made = Desk(journal, Recorder(outside, lease, fold([first])))
    if observe is None:
        made.recorder._outside = replace(outside, observe=lambda one: made.seen.append(one.event.type))
    journal.appended.clear()
    try:
        yield made
        await made.recorder.settle()
        assert fold(await journal.read("run")) == made.run
    finally:
        await journal.close()


async def no_model(role: str, *, cheaper: bool = False) -> Any:
    raise AssertionError(role)


def no_prompt(name: str) -> Any:
    raise AssertionError(name)


def ran(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 120))


def test_what_follows_by_rules_alone_is_appended_with_what_it_follows_from(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            assert await made.recorder.append()
            assert made.journal.appended == [["PlanAccepted", "StepResolved s1", "StepResolved s2"]]
            assert made.seen == ["PlanAccepted", "StepResolved", "StepResolved"]
            assert await made.recorder.append()  # nothing follows any more
            assert len(made.journal.appended) == 1

    ran(work())


def test_what_waits_together_is_appended_together_and_each_is_told_its_own(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            first, second = made.starts()
            illegal = PauseLifted(by="ada")
            told = await asyncio.gather(
                made.recorder.append(first),
                made.recorder.append(illegal),
                made.recorder.append(StepSucceeded(path="s1", value=Labelled(value="a"))),
                made.recorder.append(PauseRequested(by="ada"), provided=never),
                made.recorder.append(second, provided=lambda run: run.step("s1").status == "succeeded"),
                return_exceptions=True,
            )
            assert [one for one in told if not isinstance(one, JournalError)] == [True, True, False, True]
            assert isinstance(told[1], JournalError)
            assert told[1].code == "J-204"
            together = ["StepStarted s1", "StepSucceeded s1", "StepStarted s2", "StepResolved s3"]
            assert made.journal.appended[1:] == [together]

    ran(work())


def test_an_event_that_is_illegal_leaves_out_those_that_were_to_come_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            with pytest.raises(JournalError, match="J-204"):
                await made.recorder.append(PauseRequested(by="ada"), PauseLifted(by="ada"), PauseLifted(by="ada"))
            assert made.run.status == "running"
            assert len(made.journal.appended) == 1

    ran(work())


def test_an_event_that_is_no_json_fails_whoever_appends_it_and_nobody_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            await made.recorder.append(*made.starts())
            bad, good = Labelled(value={"a": "\ud800"}), Labelled(value="b")
            told = await asyncio.gather(
                made.recorder.append(StepSucceeded(path="s1", value=bad)),
                made.recorder.append(PauseRequested(by="ada"), provided=never),
                made.recorder.append(StepSucceeded(path="s2", value=good)),
                made.recorder.append(StepSucceeded(path="s1", value=good)),  # legal as the first one is none
                return_exceptions=True,
            )
            assert [*told[1:]] == [False, True, True]
            assert isinstance(told[0], JournalError)
            assert told[0].code == "J-117"
            made.recorder.check()
            assert made.journal.appended[2:] == [["StepSucceeded s2", "StepSucceeded s1", "StepResolved s3"]]

    ran(work())


def test_a_request_that_is_no_json_fails_alone_and_stays_open(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            number = await made.journal.post("run", PauseRequested(by="ada"), at=datetime.now(UTC))
            bad = made.recorder.append(PauseRequested(by="\ud800"), request=number)
            told = await asyncio.gather(bad, made.recorder.append(*made.starts()), return_exceptions=True)
            assert isinstance(told[0], JournalError)
            assert told[1] is True
            assert (await made.journal.request(number)).is_open
            assert made.run.status == "running"

    ran(work())


def test_what_takes_a_request_comes_first_in_its_transaction(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            first, second = made.starts()
            number = await made.journal.post("run", CancelRequested(by="ada"), at=datetime.now(UTC))
            await asyncio.gather(
                made.recorder.append(first),
                made.recorder.append(CancelRequested(by="ada"), request=number),
                made.recorder.append(StepSucceeded(path="s1", value=Labelled(value="a"))),
                made.recorder.append(second, provided=lambda run: not run.is_cancelled),
            )
            assert made.journal.appended[1:] == [
                ["StepStarted s1"],
                ["CancelRequested", "StepSucceeded s1", "RunFinished"],
            ]
            taken = await made.journal.request(number)
            assert taken.run_seq == 6

    ran(work())


def test_where_it_is_to_stop_nothing_follows(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            made.recorder.until = lambda run: run.plan is not None
            await made.recorder.append()
            assert made.journal.appended == [["PlanAccepted"]]
            made.recorder.until = always
            await made.recorder.append(PauseRequested(by="ada"))
            assert made.journal.appended[1:] == [["PauseRequested"]]

    ran(work())


def test_whoever_is_cancelled_leaves_the_append_to_end_by_itself(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            task = asyncio.create_task(made.recorder.append(*made.starts()[:1]))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await made.recorder.settle()
            assert made.run.step("s1").status == "started"

    ran(work())


def test_the_state_is_what_a_resume_would_read_also_where_the_journal_holds_less(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            await made.recorder.append(*made.starts())
            made.journal.holds = lambda event: event.model_copy(update={"value": Labelled(value="less")})
            await made.recorder.append(StepSucceeded(path="s2", value=Labelled(value="more")))
            assert made.run.step("s2").value == Labelled(value="less")

    ran(work())


def test_all_that_waited_are_told_when_the_journal_takes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            made.recorder._lease = made.recorder._lease.model_copy(update={"token": 0})  # another has a newer one
            told = await asyncio.gather(*map(made.recorder.append, made.starts()), return_exceptions=True)
            assert [one.code for one in told if isinstance(one, JournalError)] == ["J-104", "J-104"]
            assert made.run.step("s1").status == "resolved"
            with pytest.raises(JournalError, match="J-104"):
                made.recorder.check()

    ran(work())


def test_what_an_observer_raises_reaches_whoever_appended_and_the_event_counts(tmp_path: Path) -> None:
    def observe(recorded: Recorded) -> None:
        if isinstance(recorded.event, StepResolved):
            raise ZeroDivisionError

    async def work() -> None:
        async with desk(tmp_path, observe) as made:
            with pytest.raises(ZeroDivisionError):
                await made.recorder.append()
            assert made.run.step("s2").status == "resolved"
            assert made.recorder.changed.is_set()
            with pytest.raises(ZeroDivisionError):  # and whoever drives the run
                made.recorder.check()

    ran(work())


def test_a_run_that_ended_says_so_in_the_status_of_its_row(tmp_path: Path) -> None:
    async def work() -> None:
        async with desk(tmp_path) as made:
            await made.recorder.append()
            await made.recorder.append(CancelRequested(by="ada"))
            assert isinstance(made.run.finished, RunFinished)
            (summary,) = await made.journal.runs()
            assert summary.status == "cancelled"

    ran(work())
