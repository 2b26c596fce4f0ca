"""Callees that fail, as those see it who want a place: real tasks of asyncio, and a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.circuit import FAILURES, FIRST_REST_S, TRIAL_S, Circuit
from planner.errors import ToolError
from planner.slots import CircuitOpenError, Slots


class World:
    """Calls that keep their places until they are ended."""

    def __init__(self, limit: int = 64, **options: Any) -> None:
        self.now = 0.0
        self.slots = Slots(limit, clock=lambda: self.now, **options)
        self.under_way: dict[asyncio.Task[None], asyncio.Event] = {}

    async def come(self, run_id: str, callee: str = "web.fetch", **more: Any) -> asyncio.Task[None]:
        """A call that has just asked for a place; it is under way if it got one."""
        over = asyncio.Event()

        async def work() -> None:
            place = self.slots.place(run_id=run_id, callee=callee, keys=frozenset(), is_effect=False, **more)
            async with place:
                self.under_way[task] = over
                try:
                    await over.wait()
                finally:
                    del self.under_way[task]

        task = asyncio.create_task(work())
        await settled()
        return task

    async def end(self, task: asyncio.Task[None]) -> None:
        self.under_way[task].set()
        await settled()

    async def fail(self, times: int = FAILURES) -> None:
        """Calls that find the callee unavailable."""
        for _ in range(times):
            call = await self.come("r0")
            self.slots.report("web.fetch", ok=False)
            await self.end(call)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def ran(work: Callable[[World], Awaitable[None]], limit: int = 64, **options: Any) -> None:
    """Does the work, and sees to it that nothing is left over."""

    async def whole() -> None:
        async with asyncio.timeout(120):
            world = World(limit, **options)
            await work(world)
            while world.under_way:
                await world.end(next(iter(world.under_way)))
            assert (world.slots.under_way, world.slots.waiting) == (0, 0)

    asyncio.run(whole())


def refusal(call: asyncio.Task[Any]) -> CircuitOpenError:
    error = call.exception()
    assert isinstance(error, CircuitOpenError)
    return error


def test_a_callee_that_is_unavailable_again_and_again_is_left_alone_for_a_while() -> None:
    async def work(world: World) -> None:
        await world.fail(FAILURES - 1)
        assert await world.come("r1") in world.under_way
        await world.fail(1)
        world.now = 10
        error = refusal(await world.come("r1"))
        assert (error.code, error.error_class, error.retry_after_s) == ("T-299", "unavailable", FIRST_REST_S - 10)
        assert isinstance(error, ToolError)
        assert error.message == "`web.fetch` was not called: it was unavailable 5 times in a row"
        assert error.hint == "It may be tried again in 20 s."
        assert await world.come("r1", "files.read") in world.under_way
        assert world.slots.circuit("web.fetch").failures == FAILURES
        assert world.slots.circuit("files.read") == Circuit()

    ran(work)


def test_calls_that_wait_for_a_callee_are_refused_when_its_circuit_opens() -> None:
    async def work(world: World) -> None:
        await world.fail(FAILURES - 1)
        await world.come("r1")
        waiting = [await world.come(run_id, priority=n) for n, run_id in enumerate(("r1", "r2", "r2"))]
        leaving = await world.come("r3")
        leaving.cancel()
        world.slots.report("web.fetch", ok=False)
        await settled()
        assert [refusal(call).retry_after_s for call in waiting] == [FIRST_REST_S] * 3
        assert leaving.cancelled()

    ran(work, of={"web.*": 1})


def test_a_call_that_waited_for_one_that_is_refused_begins() -> None:
    async def work(world: World) -> None:
        await world.fail(FAILURES - 1)
        await world.come("r1")
        key = frozenset({"file:a"})

        async def begun(callee: str, run_id: str, *, is_effect: bool, priority: int) -> bool:
            place = world.slots.place(run_id=run_id, callee=callee, keys=key, is_effect=is_effect, priority=priority)
            async with place:
                return True

        write = asyncio.create_task(begun("web.fetch", "r2", is_effect=True, priority=1))
        await settled()
        read = asyncio.create_task(begun("files.read", "r3", is_effect=False, priority=0))
        await settled()
        assert not read.done()
        world.slots.report("web.fetch", ok=False)
        assert await read
        assert refusal(write).code == "T-299"

    ran(work, of={"web.*": 1})


def test_after_the_rest_one_call_is_made_on_trial_and_the_others_are_refused_until_it_succeeded() -> None:
    async def work(world: World) -> None:
        await world.fail()
        world.now = FIRST_REST_S
        busy = await world.come("r1", "files.read")
        trial, other = await world.come("r1"), await world.come("r2")
        assert not trial.done()
        await world.end(busy)
        assert [*world.under_way] == [trial]
        assert refusal(other).retry_after_s == TRIAL_S
        assert refusal(await world.come("r3")).retry_after_s == TRIAL_S
        world.slots.report("web.fetch", ok=True)
        await world.end(trial)
        assert await world.come("r3") in world.under_way

    ran(work, limit=1)


def test_a_trial_that_fails_doubles_the_rest_and_one_that_tells_nothing_leaves_its_turn() -> None:
    async def work(world: World) -> None:
        await world.fail()
        world.now = FIRST_REST_S
        silent = await world.come("r1")
        silent.cancel()
        await settled()
        trial = await world.come("r2")
        assert trial in world.under_way
        world.slots.report("web.fetch", ok=False)
        await world.end(trial)
        assert refusal(await world.come("r3")).retry_after_s == 2 * FIRST_REST_S

    ran(work)


def test_there_is_no_second_trial_while_the_first_is_under_way_whatever_earlier_calls_report() -> None:
    async def work(world: World) -> None:
        await world.fail()
        world.now = FIRST_REST_S
        trial = await world.come("r1")
        world.slots.report("web.fetch", ok=False)  # by a call from before
        world.now += 10 * FIRST_REST_S
        assert refusal(await world.come("r2")).retry_after_s == TRIAL_S
        world.slots.report("web.fetch", ok=True)  # and by another one
        assert await world.come("r2") in world.under_way
        await world.end(trial)

    ran(work)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["comes", "comes", "fails", "fails", "succeeds", "is cancelled", "time passes"]),
            st.integers(0, 100),
        ),
        max_size=50,
    )
)
def test_however_calls_end_an_open_circuit_has_one_trial_at_a_time_and_none_while_it_rests(
    actions: list[tuple[str, int]],
) -> None:
    async def work(world: World) -> None:
        await world.fail(FAILURES - 1)
        trials: set[asyncio.Task[None]] = set()
        for index, (action, number) in enumerate(actions):
            circuit = world.slots.circuit("web.fetch")
            calls = list(world.under_way)
            if action == "time passes":
                world.now += number
            elif action == "comes":
                call = await world.come(f"r{index}")
                if call in world.under_way and circuit.opened_at is not None:
                    assert world.now >= circuit.opened_at + circuit.rest_s
                    assert not trials & world.under_way.keys()
                    trials.add(call)
                elif call.done():
                    assert (refusal(call).retry_after_s or 0) > 0
            elif calls:
                call = calls[number % len(calls)]
                if action == "is cancelled":
                    call.cancel()
                else:
                    world.slots.report("web.fetch", ok=action == "succeeds")
                    world.under_way[call].set()
                await settled()
            if world.slots.circuit("web.fetch") == Circuit():
                trials.clear()

    ran(work, of={"web.*": 3})
