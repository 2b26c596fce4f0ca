"""What others ask of a run: a further implementation of the journal is one more line in `OPENERS`."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from planner.core.events import (
    CancelRequested,
    EventReceived,
    HumanAnswered,
    PauseLifted,
    PauseRequested,
    Steered,
    StepNudged,
    TimerFired,
    UndoRequested,
)
from planner.errors import JournalError
from planner.journal import Journal, Lease, Request, Requestable, SqliteJournal, requests

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
CANCEL, PAUSE = CancelRequested(by="ann"), PauseRequested(by="ben")
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


def fired(n: int) -> TimerFired:
    return TimerFired(path=f"s{n}")


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(JournalError) as caught:
        yield
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


async def begun(journal: Journal, run_id: str = "r1") -> Lease:
    lease = await journal.create(run_id, "test")
    await journal.append(lease, 0, [fired(0)], at=AT)
    return lease


@pytest.mark.parametrize(
    "event",
    [
        HumanAnswered(path="s1", answer="value", by="ann", value={"total": [1]}, asked=7),
        CANCEL,
        PAUSE,
        PauseLifted(by="ann"),
        Steered(by="ann", text="shorter " * 200),
        EventReceived(name="paid", data={"invoice": 3}),
        UndoRequested(by="ann"),
        StepNudged(path="s1", by="r2"),
    ],
    ids=lambda event: event.type,
)
def test_what_was_asked_is_read_as_it_was_posted(opener: Callable[[], Journal], event: Requestable) -> None:
    async def test(journal: Journal) -> None:
        await begun(journal)
        id_ = await journal.post("r1", event, at=AT)
        (request,) = await journal.requests("r1")
        assert request == Request(id=id_, run_id="r1", at=AT, event=event) == await journal.request(id_)
        assert request.is_open

    check(opener, test)


def test_open_requests_are_those_of_one_run_oldest_first_also_after_a_reopening(
    opener: Callable[[], Journal],
) -> None:
    async def run() -> None:
        async with opened(opener()) as journal:
            await begun(journal)
            await begun(journal, "r2")
            posted = [
                await journal.post("r1", CANCEL, at=AT + timedelta(hours=1)),
                await journal.post("r2", PAUSE, at=AT),
                await journal.post("r1", PAUSE, at=AT),
            ]
        async with opened(opener()) as journal:
            assert [request.id for request in await journal.requests("r1")] == [posted[0], posted[2]]
            assert {run.run_id: run.requests for run in await journal.runs()} == {"r1": 2, "r2": 1}

    asyncio.run(run())


def test_a_request_is_taken_together_with_the_first_event_that_answers_it(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        id_ = await journal.post("r1", CANCEL, at=AT)
        other = await journal.post("r1", PAUSE, at=AT)
        await journal.append(lease, 1, [CANCEL, fired(1)], at=AT, request=id_)
        taken = await journal.request(id_)
        assert (taken.run_seq, taken.problem, taken.is_open) == (2, None, False)
        assert [request.id for request in await journal.requests("r1")] == [other]
        assert (await journal.runs())[0].requests == 1

    check(opener, test)


def test_a_request_is_refused_with_the_reason(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        id_ = await journal.post("r1", PAUSE, at=AT)
        await journal.refuse(lease, id_, "the run has ended")
        ended = await journal.request(id_)
        assert (ended.run_seq, ended.problem, ended.is_open) == (None, "the run has ended", False)
        assert await journal.requests("r1") == ()

    check(opener, test)


def test_only_an_open_request_of_the_run_can_be_taken_or_refused(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        await begun(journal, "r2")
        foreign = await journal.post("r2", CANCEL, at=AT)
        taken, said_no = [await journal.post("r1", CANCEL, at=AT) for _ in range(2)]
        await journal.append(lease, 1, [CANCEL], at=AT, request=taken)
        await journal.refuse(lease, said_no, "no")
        for id_ in (foreign, taken, said_no, 999):
            with refused("J-118", f"`{id_}`", "`r1`"):
                await journal.append(lease, 2, [fired(1)], at=AT, request=id_)
            with refused("J-118", f"`{id_}`", "`r1`"):
                await journal.refuse(lease, id_, "no")
        assert len(await journal.read("r1")) == 2
        assert (await journal.request(taken)).run_seq == 2
        assert (await journal.request(foreign)).is_open

    check(opener, test)


def test_an_append_of_nothing_takes_no_request(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        id_ = await journal.post("r1", CANCEL, at=AT)
        with refused("J-118", f"`{id_}`", "no event"):
            await journal.append(lease, 1, [], at=AT, request=id_)
        assert (await journal.request(id_)).is_open

    check(opener, test)


def test_an_append_that_fails_leaves_its_request_open(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        id_ = await journal.post("r1", CANCEL, at=AT)
        with refused("J-105"):
            await journal.append(lease, 7, [CANCEL], at=AT, request=id_)
        assert (await journal.request(id_)).is_open

    check(opener, test)


def test_who_lost_the_run_refuses_nothing(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        lease = await begun(journal)
        id_ = await journal.post("r1", CANCEL, at=AT)
        await journal.release(lease)
        with refused("J-104", "nobody owns it"):
            await journal.refuse(lease, id_, "no")
        assert (await journal.request(id_)).is_open

    check(opener, test)


def test_an_unknown_request_is_named(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        with refused("J-119", "`7`"):
            await journal.request(7)

    check(opener, test)


@pytest.mark.parametrize("data", [math.nan, "\ud800"])
def test_what_json_cannot_hold_cannot_be_asked(opener: Callable[[], Journal], data: object) -> None:
    async def test(journal: Journal) -> None:
        await begun(journal)
        event = EventReceived.model_construct(name="paid", data=data, by="\ud800")
        with refused("J-117", "`EventReceived`"):
            await journal.post("r1", event, at=AT)
        assert await journal.requests("r1") == ()

    check(opener, test)


# Waiting


def test_an_owner_wakes_at_once_for_a_request_of_its_own_process_and_only_for_its_own(
    opener: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "POLL_S", 60)

    async def test(journal: Journal) -> None:
        for run_id in ("r1", "r2"):
            await begun(journal, run_id)
        first, again, other = [
            asyncio.ensure_future(journal.wait_for_requests(run_id)) for run_id in ("r1", "r1", "r2")
        ]
        await asyncio.sleep(0.05)
        await journal.post("r1", CANCEL, at=AT)
        await asyncio.wait_for(asyncio.gather(first, again), 30)
        assert not other.done()
        await journal.post("r2", CANCEL, at=AT)
        await asyncio.wait_for(other, 30)

    check(opener, test)


def test_waiting_ends_at_once_where_something_was_asked_already(
    opener: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "POLL_S", 60)

    async def test(journal: Journal) -> None:
        await begun(journal)
        await journal.post("r1", CANCEL, at=AT)
        for _ in range(2):
            await asyncio.wait_for(journal.wait_for_requests("r1"), 30)

    check(opener, test)


def test_a_wait_that_was_given_up_leaves_the_others_waiting(opener: Callable[[], Journal]) -> None:
    async def test(journal: Journal) -> None:
        await begun(journal)
        given_up, waiting = [asyncio.ensure_future(journal.wait_for_requests("r1")) for _ in range(2)]
        await asyncio.sleep(0.05)
        given_up.cancel()
        async with opened(opener()) as other:
            await other.post("r1", CANCEL, at=AT)
            await asyncio.wait_for(waiting, 30)
        assert given_up.cancelled()

    check(opener, test)


def test_a_wait_is_no_longer_possible_when_the_journal_is_closed(opener: Callable[[], Journal]) -> None:
    async def run() -> None:
        async with opened(opener()) as journal:
            await begun(journal)
            waiting = asyncio.ensure_future(journal.wait_for_requests("r1"))
            await asyncio.sleep(0.05)
        with refused("J-116"):
            await asyncio.wait_for(waiting, 30)

    asyncio.run(run())


POST = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from planner.core.events import PauseRequested
from planner.journal import SqliteJournal

async def main(path, run_id):
    journal = SqliteJournal.open(Path(path))
    print(await journal.post(run_id, PauseRequested(by="ben"), at=datetime.now(UTC)), flush=True)
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_another_process_needs_no_lease_to_ask_and_the_owner_learns_of_it_soon(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    def post() -> int:
        command = [sys.executable, "-c", POST, str(path), "r1"]
        return int(subprocess.check_output(command, text=True, cwd=Path(__file__).parent.parent, timeout=300))

    async def run() -> None:
        async with opened(SqliteJournal.open(path)) as journal:
            lease = await begun(journal)
            waiting = asyncio.ensure_future(journal.wait_for_requests("r1"))
            posted = await asyncio.to_thread(post)
            await asyncio.wait_for(waiting, 30)
            (request,) = await journal.requests("r1")
            assert (request.id, request.event) == (posted, PAUSE)
            await journal.append(lease, 1, [request.event], at=AT, status="paused", request=posted)
            assert (await journal.request(posted)).run_seq == 2

    asyncio.run(run())
