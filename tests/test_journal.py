"""What every journal promises: a further implementation is one more line in `OPENERS`."""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.catalog import Callee
from planner.core.events import (
    CancelRequested,
    Event,
    RunFinished,
    RunStarted,
    RunStatus,
    StepSucceeded,
    TimerFired,
    UndoRequested,
)
from planner.core.labels import Labelled
from planner.core.ledger import Amount, Budget
from planner.core.policy import Policy, Principal
from planner.core.setup import Parent
from planner.errors import JournalError
from planner.journal import Journal, Lease, SqliteJournal, sqlite

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OPENERS: dict[str, Callable[[Path], Journal]] = {
    "sqlite": lambda folder: SqliteJournal.open(folder / "journal.db"),
}


@pytest.fixture(params=list(OPENERS))
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Journal]:
    return lambda: OPENERS[request.param](tmp_path)


@asynccontextmanager
async def opened(journal: Journal) -> AsyncIterator[Journal]:
    try:
        yield journal
    finally:
        await journal.close()


def check(opener: Callable[[], Journal], test: Callable[[Journal], Awaitable[None]]) -> None:
    """Runs a test on a journal that is closed afterwards."""

    async def run() -> None:
        async with opened(opener()) as journal:
            await test(journal)

    asyncio.run(run())


def started(goal: str = "read the letters", callees: int = 0) -> RunStarted:
    known = tuple(Callee(name=f"files.read{n}", summary="read a file") for n in range(callees))
    setup = {"callees": known, "policy": Policy(), "budget": Budget()}
    return RunStarted.model_validate({"goal": goal, "principal": Principal(), "setup": setup})


def fired(n: int) -> TimerFired:
    return TimerFired(path=f"s{n}")


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(JournalError) as caught:
        yield
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


async def written(journal: Journal, *events: Event, run_id: str = "r1", status: RunStatus = "running") -> Lease:
    lease = await journal.create(run_id, "test")
    await journal.append(lease, 0, events, at=AT, status=status)
    return lease


def test_what_was_appended_is_read_back_in_order(opener: Callable[[], Journal]) -> None:
    events: list[Event] = [
        started(callees=40),
        fired(1),
        StepSucceeded(path="s1", value=Labelled(value={"é": [1, None]})),
    ]

    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        first = await journal.append(lease, 0, events[:1], at=AT)
        rest = await journal.append(lease, 1, events[1:], at=AT + timedelta(seconds=1), durable=False)
        recorded = await journal.read("r1")
        assert recorded == (*first, *rest)
        assert [r.event for r in recorded] == events
        assert [r.run_seq for r in recorded] == [1, 2, 3]
        assert [r.at for r in recorded] == [AT, AT + timedelta(seconds=1), AT + timedelta(seconds=1)]
        assert [r.seq for r in recorded] == sorted({r.seq for r in recorded})

    check(opener, test)


def test_a_run_is_there_after_the_journal_was_closed_and_opened_again(opener: Callable[[], Journal]) -> None:
    async def run() -> None:
        async with opened(opener()) as journal:
            await written(journal, started(), fired(1))
            before = await journal.read("r1")
        async with opened(opener()) as journal:
            assert await journal.read("r1") == before
            assert (await journal.acquire("r1", "next")).token == 2

    asyncio.run(run())


def test_an_appended_event_no_longer_changes_with_the_value_it_was_made_from(
    opener: Callable[[], Journal],
) -> None:
    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        value = {"total": [1]}
        event = StepSucceeded(path="s1", value=Labelled.model_construct(value=value))
        (recorded,) = await journal.append(lease, 0, [event], at=AT)
        value["total"].append(2)
        assert (recorded,) == await journal.read("r1")

    check(opener, test)


def test_a_run_can_be_created_only_once(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        await journal.create("r1", "test")
        with refused("J-101", "`r1`"):
            await journal.create("r1", "other")

    check(opener, test)


def test_an_unknown_run_is_named_by_every_operation(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = Lease(run_id="nope", token=1, owner="test")
        for operation in (
            journal.acquire("nope", "test"),
            journal.renew(lease),
            journal.append(lease, 0, [fired(1)], at=AT),
            journal.post("nope", CancelRequested(by="ann"), at=AT),
            journal.requests("nope"),
            journal.refuse(lease, 1, "no"),
            journal.wait_for_requests("nope"),
            journal.reserve(lease, "s1", Amount(), {}, at=AT),
            journal.settle(lease, "s1", Amount()),
            journal.read("nope"),
            anext(aiter(journal.subscribe("nope"))),
            journal.put_blob("nope", b""),
            journal.get_blob("nope", "00"),
            journal.verify("nope"),
        ):
            with refused("J-102", "`nope`"):
                await operation

    check(opener, test)


def test_a_live_run_cannot_be_acquired_not_even_by_its_own_process(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        await journal.create("r1", "the first")
        async with opened(opener()) as other:
            for one in (journal, other):
                with refused("J-103", "`the first`", str(os.getpid())):
                    await one.acquire("r1", "the second")

    check(opener, test)


def test_a_released_run_gets_a_larger_token_and_the_old_lease_is_worth_nothing(
    opener: Callable[[], Journal],
) -> None:
    async def test(journal: Journal) -> None:
        old = await written(journal, started())
        await journal.release(old)
        with refused("J-104", "nobody owns it"):
            await journal.append(old, 1, [fired(1)], at=AT)
        new = await journal.acquire("r1", "next")
        assert new.token > old.token
        with refused("J-104", "`test`", "`next`"):
            await journal.append(old, 1, [fired(1)], at=AT)
        with refused("J-104"):
            await journal.renew(old)
        await journal.release(old)  # not its to give
        await journal.renew(new)
        await journal.append(new, 1, [fired(2)], at=AT)
        assert [r.event for r in await journal.read("r1", after=1)] == [fired(2)]

    check(opener, test)


def test_a_closed_journal_has_released_its_runs_and_does_nothing_more(opener: Callable[[], Journal]) -> None:
    async def run() -> None:
        async with opened(opener()) as first:
            lease = await written(first, started())
        await first.close()
        with refused("J-116"):
            await first.read("r1")
        async with opened(opener()) as second:
            assert not (await second.runs())[0].is_live
            with refused("J-104"):
                await second.append(lease, 1, [fired(1)], at=AT)

    asyncio.run(run())


@pytest.mark.parametrize("expected", [0, 2])
def test_a_writer_that_does_not_know_the_last_event_is_refused(opener: Callable[[], Journal], expected: int) -> None:
    async def test(journal: Journal) -> None:
        lease = await written(journal, started())
        with refused("J-105", "has 1 events", f"expected {expected}"):
            await journal.append(lease, expected, [fired(1), fired(2)], at=AT)
        assert len(await journal.read("r1")) == 1

    check(opener, test)


@pytest.mark.parametrize(
    "event",
    [
        StepSucceeded(path="s1", value=Labelled(), seconds=math.nan),
        StepSucceeded(path="s1", value=Labelled(value="\ud800")),
    ],
)
def test_of_events_that_json_cannot_hold_not_even_the_others_are_written(
    opener: Callable[[], Journal], event: Event
) -> None:
    async def test(journal: Journal) -> None:
        lease = await written(journal, started())
        with refused("J-117", "`StepSucceeded`"):
            await journal.append(lease, 1, [fired(1), event], at=AT)
        await journal.append(lease, 1, [fired(2)], at=AT)
        assert [r.event for r in await journal.read("r1", after=1)] == [fired(2)]
        assert (await journal.verify("r1")).first_bad is None

    check(opener, test)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 24))
def test_the_events_up_to_a_point_and_those_after_it_are_all_events(groups: list[int], after: int) -> None:
    async def run(folder: str) -> None:
        async with opened(SqliteJournal.open(Path(folder) / "j.db")) as journal:
            lease, count = await journal.create("r1", "test"), 0
            for group in groups:
                events = [fired(count + n) for n in range(group)]
                count += len(await journal.append(lease, count, events, at=AT, durable=False))
            whole = await journal.read("r1")
            assert len(whole) == count
            assert whole[:after] + await journal.read("r1", after=after) == whole

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


def test_a_subscriber_gets_the_past_then_the_present_and_stops_when_the_run_does(
    opener: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BATCH", 2)

    async def test(journal: Journal) -> None:
        lease = await written(journal, started(), fired(1), fired(2))
        events = aiter(journal.subscribe("r1", after=1))
        seen = [await anext(events), await anext(events)]
        await journal.append(lease, 3, [fired(3)], at=AT)
        await journal.append(lease, 4, [RunFinished(status="completed")], at=AT, status="completed")
        async with asyncio.timeout(30):
            seen += [recorded async for recorded in events]
        assert tuple(seen) == await journal.read("r1", after=1)
        assert [r async for r in journal.subscribe("r1", after=5)] == []

    check(opener, test)


def test_a_subscriber_wakes_at_once_for_an_event_of_its_own_process(
    opener: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "POLL_S", 60)

    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        waiting = asyncio.ensure_future(anext(aiter(journal.subscribe("r1"))))
        await asyncio.sleep(0.05)
        appended = await journal.append(lease, 0, [started()], at=AT)
        assert (await asyncio.wait_for(waiting, 30),) == appended

    check(opener, test)


def test_a_blob_is_kept_once_per_run_and_has_another_id_in_another(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        await journal.create("r1", "test")
        await journal.create("r2", "test")
        data = b"letter " * 1000
        id_ = await journal.put_blob("r1", data)
        assert await journal.put_blob("r1", data) == id_
        assert await journal.get_blob("r1", id_) == data
        assert await journal.put_blob("r2", data) != id_
        assert await journal.get_blob("r1", await journal.put_blob("r1", b"")) == b""
        with refused("J-106", id_, "`r2`"):
            await journal.get_blob("r2", id_)

    check(opener, test)


def test_runs_are_listed_newest_first_with_what_became_of_them(opener: Callable[[], Journal]) -> None:
    later = AT + timedelta(hours=1)

    async def test(journal: Journal) -> None:
        await journal.create("empty", "test")
        await written(journal, started("the first"), run_id="a")
        waiting = await written(journal, started("the second"), fired(1), run_id="b", status="waiting")
        done = await written(
            journal, started("the third"), RunFinished(status="unverified"), run_id="c", status="unverified"
        )
        await journal.release(done)
        third, second, first = await journal.runs()
        assert (third.goal, third.status, third.is_live) == ("the third", "unverified", False)
        assert (first.goal, first.status, first.is_live, first.events) == ("the first", "running", True, 1)
        assert (second.status, second.parent, second.due_at, second.requests) == ("waiting", None, None, 0)
        await journal.append(waiting, 2, [fired(2)], at=later, status="paused")
        assert (await journal.runs())[1].status == "paused"
        await journal.append(waiting, 3, [fired(3)], at=later)
        second = (await journal.runs(limit=2))[1]
        assert (second.status, second.started_at, second.updated_at) == ("running", AT, later)
        assert len(await journal.runs(limit=2)) == 2

    check(opener, test)


def test_the_list_of_runs_goes_on_before_a_run_that_was_shown(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        for n in range(5):
            await written(journal, started(), run_id=f"r{n}")
        shown = await journal.runs(limit=2)
        older = await journal.runs(limit=2, before=shown[-1].run_id)
        assert [run.run_id for run in (*shown, *older)] == ["r4", "r3", "r2", "r1"]
        assert await journal.runs(before="r0") == ()
        with refused("J-102", "`nope`"):
            await journal.runs(before="nope")

    check(opener, test)


def test_goal_and_parent_are_those_of_the_last_start_wherever_it_stands(opener: Callable[[], Journal]) -> None:
    child = started("count the letters").model_copy(update={"parent": Parent(run_id="above", path="s3")})

    async def test(journal: Journal) -> None:
        await written(journal, fired(1), child, fired(2))
        (run,) = await journal.runs()
        assert (run.goal, run.parent, run.events) == ("count the letters", "above", 3)

    check(opener, test)


def test_a_run_that_has_ended_can_be_opened_again(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await written(journal, started(), RunFinished(status="failed"), status="failed")
        await journal.append(lease, 2, [UndoRequested(by="ann")], at=AT)
        assert (await journal.runs())[0].status == "running"
        await journal.append(lease, 3, [fired(1), RunFinished(status="failed")], at=AT, status="failed")
        assert [r.run_seq async for r in journal.subscribe("r1")] == [1, 2, 3, 4, 5]

    check(opener, test)


def test_runs_that_nobody_owns_and_that_can_go_on_are_pending_oldest_first(opener: Callable[[], Journal]) -> None:
    soon = AT + timedelta(minutes=5)
    statuses: dict[str, RunStatus] = {
        "left": "running",
        "paused": "paused",
        "for a time": "waiting",
        "for somebody": "waiting",
        "done": "completed",
        "owned": "running",
    }

    async def test(journal: Journal) -> None:
        leases = {
            run_id: await written(journal, started(), run_id=run_id, status=status)
            for run_id, status in statuses.items()
        }
        await journal.create("empty", "test")
        for run_id in set(statuses) - {"owned"}:
            await journal.release(leases[run_id], due_at=soon if run_id in {"for a time", "paused"} else None)

        async def pending(now: datetime) -> list[str]:
            return [run.run_id for run in await journal.pending(now)]

        assert await pending(AT) == ["left"]
        assert await pending(soon) == ["left", "for a time"]
        assert {run.run_id: run.due_at for run in await journal.pending(soon)} == {"left": None, "for a time": soon}
        for run_id in ("done", "paused", "for somebody", "owned"):
            await journal.post(run_id, CancelRequested(by="ann"), at=AT)
        assert await pending(AT) == ["left", "paused", "for somebody", "done"]
        await journal.acquire("left", "next")
        assert await pending(AT) == ["paused", "for somebody", "done"]

    check(opener, test)


def test_when_the_next_timer_is_due_holds_until_the_run_is_given_back_again(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        await journal.release(await written(journal, started(), status="waiting"), due_at=AT)
        lease = await journal.acquire("r1", "next")
        assert (await journal.runs())[0].due_at == AT
        await journal.release(lease)
        assert (await journal.runs())[0].due_at is None

    check(opener, test)


def test_an_untouched_run_verifies_and_its_head_names_all_of_it(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await journal.create("r1", "test")
        heads = {(await journal.verify("r1")).head}
        for n in range(5):
            await journal.append(lease, n, [fired(n)], at=AT)
            proof = await journal.verify("r1")
            assert (proof.events, proof.erased, proof.first_bad) == (n + 1, 0, None)
            heads.add(proof.head)
        assert len(heads) == 6

    check(opener, test)
