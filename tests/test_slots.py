"""Real tasks of asyncio; only the clock is turned by hand, where waiting for it would take minutes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.order import Keys, may_conflict
from planner.slots import AGE_S, CircuitOpenError, Slots

T = TypeVar("T")
NOTHING: Keys = frozenset()
FILE: Keys = frozenset({"file:a.txt"})


class Clock:
    """Says what it was set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Call:
    """A call that has its place until it is let go."""

    run_id: str
    task: asyncio.Task[None]
    order: list[Call]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def has_begun(self) -> bool:
        return self in self.order

    async def end(self) -> None:
        self.over.set()
        await self.task


class Calls:
    """Calls of runs that share slots, in the order in which they began."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[Call] = []

    async def come(
        self, run_id: str, callee: str = "web.fetch", keys: Keys = NOTHING, *, is_effect: bool = False, **more: Any
    ) -> Call:
        """A call that has just asked for a place, and may have got it."""
        made: list[Call] = []

        async def work() -> None:
            place = self.slots.place(run_id=run_id, callee=callee, keys=keys, is_effect=is_effect, **more)
            async with place:
                self.order.append(made[0])
                await made[0].over.wait()

        made.append(Call(run_id, asyncio.create_task(work()), self.order))
        await settled()
        return made[0]

    async def next(self) -> Call:
        """The call that begins when the one ends that has been under way for longest."""
        known = len(self.order)
        under_way = next(call for call in self.order if not call.over.is_set())
        await under_way.end()
        await settled()
        return self.order[known]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def ran(work: Coroutine[Any, Any, T]) -> T:
    async def within_reason() -> T:
        async with asyncio.timeout(120):
            return await work

    return asyncio.run(within_reason())


def is_pristine(slots: Slots) -> bool:
    """Whether no call has left anything behind."""
    held = (slots._waiting, slots._under_way, slots._of_run, slots._touching, slots._wanting)
    lanes = [callee.lanes or callee.under_way or callee.trial for callee in slots._callees.values()]
    return not any(held) and not any(lanes) and (slots.under_way, slots.waiting) == (0, 0)


# how many ---------------------------------------------------------------------------------------------------


def test_no_more_calls_are_under_way_than_there_are_places_and_all_get_one() -> None:
    async def work() -> None:
        slots, most, done = Slots(3), 0, 0

        async def one(index: int) -> None:
            nonlocal most, done
            async with slots.place(run_id=f"r{index % 4}", callee="a.b", keys=NOTHING, is_effect=False):
                most = max(most, slots.under_way)
                await asyncio.sleep(0)
            done += 1

        await asyncio.gather(*(one(index) for index in range(50)))
        assert (most, done) == (3, 50)
        assert is_pristine(slots)

    ran(work())


@pytest.mark.parametrize(
    ("declared", "of", "expected"),
    [
        (2, {}, 2),
        (None, {"web.*": 3}, 3),
        (2, {"web.*": 3}, 2),
        (4, {"web.*": 3, "*": 5}, 3),
        (None, {"files.*": 1}, 5),
    ],
)
def test_a_callee_has_the_smallest_of_the_limits_that_are_declared_or_set_for_it(
    declared: int | None, of: dict[str, int], expected: int
) -> None:
    async def work() -> None:
        calls = Calls(Slots(of=of))
        for _ in range(5):
            await calls.come("r1", limit=declared)
        assert len(calls.order) == expected
        other = await calls.come("r1", "text.count")
        assert other.has_begun()
        await emptied(calls)
        assert len(calls.order) == 6

    ran(work())


# whose turn it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [0.0, 1.0])
def test_a_new_run_gets_a_place_at_once_however_many_calls_of_another_wait_and_however_long(step_s: float) -> None:
    async def work() -> None:
        clock = Clock()
        calls = Calls(Slots(2, clock=clock))
        crowd = [await calls.come("crowd") for _ in range(1_000)]
        for _ in range(100):
            clock.now += step_s
            await calls.next()
        single = await calls.come("single")
        assert not single.has_begun()
        clock.now += step_s
        assert await calls.next() is single
        await emptied(calls)
        assert [call for call in calls.order if call.run_id == "crowd"] == crowd

    ran(work())


def test_runs_that_all_want_more_get_equally_much() -> None:
    async def work() -> None:
        calls = Calls(Slots(6))
        for run_id, wanted in (("a", 40), ("b", 20), ("c", 10)):
            for _ in range(wanted):
                await calls.come(run_id)
        for _ in range(24):
            await calls.next()
        under_way = Counter(call.run_id for call in calls.order if not call.over.is_set())
        assert under_way == {"a": 2, "b": 2, "c": 2}
        await emptied(calls)

    ran(work())


async def emptied(calls: Calls) -> None:
    """Lets everything end."""
    while any(not call.over.is_set() for call in calls.order):
        await next(call for call in calls.order if not call.over.is_set()).end()
        await settled()
    assert is_pristine(calls.slots)


def test_a_higher_priority_overtakes_and_equals_go_in_the_order_in_which_they_came() -> None:
    async def work() -> None:
        calls = Calls(Slots(1))
        await calls.come("r0")
        came = [await calls.come(f"r{index}", priority=priority) for index, priority in enumerate((0, 3, 0, 9, 3), 1)]
        order = [await calls.next() for _ in came]
        assert order == [came[3], came[1], came[4], came[0], came[2]]
        await emptied(calls)

    ran(work())


def test_a_call_of_the_lowest_priority_waits_a_bounded_time_behind_a_stream_of_the_highest() -> None:
    async def work() -> None:
        clock = Clock()
        calls = Calls(Slots(1, clock=clock))
        await calls.come("r0", priority=9)
        low = await calls.come("low", priority=-9)
        for index in range(1_000):
            await calls.come(f"r{index}", priority=9)
            clock.now += 1
            if await calls.next() is low:
                break
        assert AGE_S * 18 <= clock.now <= AGE_S * 19 + 1
        await emptied(calls)

    ran(work())


def test_a_run_that_has_many_places_is_not_passed_over_for_ever() -> None:
    async def work() -> None:
        clock = Clock()
        calls = Calls(Slots(64, of={"web.*": 1}, clock=clock))
        for _ in range(10):
            await calls.come("rich", "agent.writer")
        await calls.come("r0")
        waiting = await calls.come("rich")
        for index in range(100):
            await calls.come(f"r{index}")
            clock.now += 1
            web = next(call for call in calls.order if call.run_id != "rich" and not call.over.is_set())
            await web.end()
            await settled()
            if waiting.has_begun():
                break
        assert clock.now == AGE_S
        await emptied(calls)

    ran(work())


# what they touch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "may_run_together"),
    [
        (("r1", FILE, True), ("r2", FILE, True), False),
        (("r1", FILE, True), ("r2", FILE, False), False),
        (("r1", FILE, False), ("r2", FILE, True), False),
        (("r1", FILE, False), ("r2", FILE, False), True),
        (("r1", FILE, True), ("r1", FILE, True), True),
        (("r1", FILE, True), ("r2", frozenset({"file:b.txt"}), True), True),
        (("r1", FILE, True), ("r2", frozenset({"file:**"}), False), False),
        (("r1", frozenset({"file:d/**"}), True), ("r2", frozenset({"file:d/x", "order:1"}), True), False),
        (("r1", FILE, True), ("r2", None, False), False),
        (("r1", None, False), ("r2", None, False), True),
        (("r1", None, True), ("r2", NOTHING, False), True),
        (("r1", None, True), ("r2", NOTHING, True), True),
    ],
)
def test_an_effect_and_a_call_of_another_run_on_the_same_are_never_under_way_together(
    first: tuple[str, Keys, bool], second: tuple[str, Keys, bool], may_run_together: bool
) -> None:
    async def work() -> None:
        calls = Calls(Slots())
        one, other = [
            await calls.come(run_id, f"a.{index}", keys, is_effect=is_effect)
            for index, (run_id, keys, is_effect) in enumerate((first, second))
        ]
        assert (one.has_begun(), other.has_begun()) == (True, may_run_together)
        await one.end()
        await settled()
        assert other.has_begun()
        await emptied(calls)

    ran(work())


def test_two_runs_that_write_one_file_never_overlap() -> None:
    async def work() -> None:
        slots, writing, turns = Slots(), 0, 0

        async def write(run_id: str) -> None:
            nonlocal writing, turns
            async with slots.place(run_id=run_id, callee="files.write", keys=FILE, is_effect=True):
                assert writing == 0
                writing += 1
                await asyncio.sleep(0.0001)
                writing -= 1
                turns += 1

        async def run(run_id: str) -> None:
            for _ in range(50):  # one after another, as the core orders them within a run
                await write(run_id)

        await asyncio.gather(run("r1"), run("r2"))
        assert turns == 100
        assert is_pristine(slots)

    ran(work())


def test_a_write_is_not_kept_waiting_by_reads_that_came_after_it_and_reads_of_other_things_pass() -> None:
    async def work() -> None:
        calls = Calls(Slots())
        early = await calls.come("r1", "files.read", FILE)
        write = await calls.come("r2", "files.write", FILE, is_effect=True)
        late = await calls.come("r3", "files.read", FILE)
        other = await calls.come("r3", "files.read", frozenset({"file:b.txt"}))
        urgent = await calls.come("r4", "files.read", FILE, priority=1)
        begun = [call.has_begun() for call in (early, write, late, other, urgent)]
        assert begun == [True, False, False, True, True]
        await early.end()
        await urgent.end()
        await settled()
        assert (write.has_begun(), late.has_begun()) == (True, False)
        await emptied(calls)

    ran(work())


# cancelling -------------------------------------------------------------------------------------------------


async def dropped(call: Call) -> None:
    call.task.cancel()
    with suppress(asyncio.CancelledError):
        await call.task
    call.over.set()


def test_a_call_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    async def work() -> None:
        calls = Calls(Slots(1))
        first = await calls.come("r1", keys=FILE, is_effect=True)
        waiting = [await calls.come("r2", keys=FILE) for _ in range(3)]
        await dropped(waiting[0])
        await dropped(waiting[2])
        assert calls.slots.waiting == 1
        await first.end()
        await settled()
        assert waiting[1].has_begun()
        assert not waiting[0].has_begun()
        await dropped(waiting[1])
        assert is_pristine(calls.slots)

    ran(work())


def test_a_call_that_is_cancelled_lets_those_begin_that_waited_for_it() -> None:
    async def work() -> None:
        calls = Calls(Slots())
        await calls.come("r1", "files.read", FILE)
        write = await calls.come("r2", "files.write", FILE, is_effect=True)
        late = await calls.come("r3", "files.read", FILE)
        assert not late.has_begun()
        await dropped(write)
        await settled()
        assert late.has_begun()
        await emptied(calls)

    ran(work())


def test_a_place_that_was_given_to_a_call_at_the_moment_of_its_end_goes_to_the_next() -> None:
    async def work() -> None:
        calls = Calls(Slots(1))
        first, second, third = [await calls.come(f"r{index}") for index in range(3)]
        first.over.set()
        for _ in range(5):
            if calls.slots.waiting == 2:
                await asyncio.sleep(0)
        assert not second.has_begun()  # it has its place, but does not know yet
        await dropped(second)
        await settled()
        assert third.has_begun()
        await emptied(calls)

    ran(work())


def test_a_call_that_was_cancelled_but_has_not_ended_yet_is_given_nothing() -> None:
    async def work() -> None:
        calls = Calls(Slots(1))
        first, second, third = [await calls.come(f"r{index}") for index in range(3)]
        first.over.set()
        second.task.cancel()
        await settled()
        assert (second.has_begun(), third.has_begun()) == (False, True)
        second.over.set()
        await emptied(calls)

    ran(work())


# laws -------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from([None, NOTHING, FILE, frozenset({"file:**"}), frozenset({"file:b", "mail:x"})])
WANTED = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from(["a.a", "a.b", "b.a"]),
        KEYS,
        st.booleans(),
        st.integers(-9, 9),
        st.sampled_from(["succeeds", "fails", "is cancelled", "says nothing", "is long"]),
        st.integers(0, 6),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(WANTED, st.integers(1, 5))
def test_whatever_comes_limits_and_conflicts_hold_everybody_gets_an_answer_and_nothing_is_left(
    wanted: list[tuple[str, str, Keys, bool, int, str, int]], limit: int
) -> None:
    clock = Clock()
    slots = Slots(limit, of={"a.*": 2}, clock=clock)
    under_way: dict[int, tuple[str, str, Keys, bool]] = {}

    async def one(index: int) -> None:
        run_id, callee, keys, is_effect, priority, how, turns = wanted[index]
        place = slots.place(run_id=run_id, callee=callee, keys=keys, is_effect=is_effect, priority=priority)
        async with place:
            for other_run, _, other_keys, is_other_effect in under_way.values():
                if (is_effect or is_other_effect) and run_id != other_run and (is_effect or keys != NOTHING):
                    touches = is_other_effect or other_keys != NOTHING
                    assert not (touches and may_conflict(keys, other_keys))
            under_way[index] = (run_id, callee, keys, is_effect)
            callees = Counter(call[1] for call in under_way.values())
            assert len(under_way) <= limit
            assert all(callees[name] <= 2 for name in ("a.a", "a.b"))
            try:
                for _ in range(turns * (5 if how == "is long" else 1)):
                    clock.now += 3
                    await asyncio.sleep(0)
            finally:
                del under_way[index]
            slots.report(callee, ok={"succeeds": True, "fails": False}.get(how))

    async def work() -> None:
        tasks = [asyncio.create_task(one(index)) for index in range(len(wanted))]
        for index, task in enumerate(tasks):
            if wanted[index][5] == "is cancelled":
                for _ in range(wanted[index][6]):
                    await asyncio.sleep(0)
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            assert error is None or isinstance(error, CircuitOpenError | asyncio.CancelledError)
        assert is_pristine(slots)

    ran(work())


# cost -------------------------------------------------------------------------------------------------------


def test_a_place_that_nobody_contends_for_costs_less_than_fifty_microseconds_also_beside_many_calls() -> None:
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 50


COST = """
import asyncio, contextlib, time
from planner.slots import Slots

async def work():
    slots, rounds = Slots(), []
    async with contextlib.AsyncExitStack() as others:
        for index in range(63):
            keys = frozenset({f"file:reports/{index}.txt"})
            place = slots.place(run_id=f"r{index}", callee="files.write", keys=keys, is_effect=True)
            await others.enter_async_context(place)
        for _ in range(30):
            began = time.process_time()
            for _ in range(100):
                async with slots.place(run_id="r", callee="files.write", keys=frozenset({"file:a"}), is_effect=True):
                    pass
            rounds.append((time.process_time() - began) / 100)
    print(1e6 * min(rounds))

asyncio.run(work())
"""
"""In a process of its own: measuring coverage takes several times as long as what it measures."""
