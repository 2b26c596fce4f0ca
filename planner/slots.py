"""Places for the calls of many runs: which call may begin next, and which callee is left alone for a while.

Rules of the file:
- Waiting is all that happens to a call for which there is no place; only an open circuit refuses it.
- The next place goes to the highest priority, among equals to the run with the fewest places, then to who came
  first. A call that must not run beside one that waits and goes before it waits as well.
- Calls of one run, callee and priority wait in one lane, and a lane gains a priority for every `AGE_S` in which it
  gets no place. What counts is how long a run waits: else a run with a thousand calls would outgrow a new one.
- So waiting ends. Where priorities differ by `n` at most, a lane that got nothing for `AGE_S * (n + 1)` goes before
  every other that got something since: its next call waits that long, then for one more call of each other lane,
  and for what is under way. The calls of a lane go one after another, but for those that must not run yet.
- Whoever has a place must not wait for another one, as a call that starts a run would: it could be the last.
- Slots belong to one event loop; nothing here is awaited while something is half done.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from typing import ClassVar

from planner.core.circuit import TRIAL_S, Circuit, after, begun, permits
from planner.core.order import Keys, may_conflict
from planner.errors import ErrorClass, ToolError

LIMIT = 64
"""Calls at once where nothing else is said: each may take a thread and a connection."""
AGE_S = 10.0
"""Longer than most calls of tools take, so that priorities decide unless a callee is jammed."""


class CircuitOpenError(ToolError):
    """A callee was not called, because it was unavailable again and again; `retry_after_s` says for how long."""

    default_class: ClassVar[ErrorClass] = "unavailable"


@dataclass(eq=False, slots=True)
class _Lane:
    """Calls of one run, callee and priority that wait, in the order in which they came."""

    run_id: str
    priority: int
    since: float
    """When it got its last place, or began to wait."""
    calls: dict[_Call, None] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Callee:
    name: str
    configured: int | None
    """The smallest limit that the settings name for it."""
    limit: int | None = None
    under_way: int = 0
    lanes: dict[tuple[str, int], _Lane] = field(default_factory=dict)
    """Those that wait, by run and priority."""
    circuit: Circuit = field(default_factory=Circuit)
    trial: _Call | None = None
    """The trial of the open circuit, until it gives its place back."""

    @property
    def has_room(self) -> bool:
        return self.limit is None or self.under_way < self.limit


@dataclass(eq=False, slots=True)
class _Call:
    run_id: str
    callee: _Callee
    keys: Keys
    is_effect: bool
    priority: int
    number: int
    """Of all calls in the order in which they came."""
    lane: _Lane | None = None
    turn: asyncio.Future[None] | None = None
    """Ends its waiting; None: it did not wait."""
    touches: bool = field(init=False)
    """Whether it may have to wait for another one, or that for it: to look at nothing disturbs nobody."""
    is_wide: bool = field(init=False)
    """Whether other keys than its own may mean the same."""

    def __post_init__(self) -> None:
        self.touches = self.is_effect or self.keys is None or bool(self.keys)
        self.is_wide = self.keys is None or any(key.endswith("**") for key in self.keys)

    def meets(self, other: _Call) -> bool:
        """Whether two calls that touch something must not be under way together."""
        if not (self.is_effect or other.is_effect) or self.run_id == other.run_id:
            return False
        if self.is_wide or other.is_wide or self.keys is None or other.keys is None:
            return may_conflict(self.keys, other.keys)
        return not self.keys.isdisjoint(other.keys)  # the same, in a tenth of the time


class Slots:
    """Shared by all runs of an assistant: `async with slots.place(...)` around each call.

    `limit` is how many calls are made at once, `of` how many of each callee that a shell pattern names; of several
    patterns the smallest counts. `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        limit: int = LIMIT,
        *,
        of: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._of = of or {}
        self._clock = clock
        self._numbers = count()
        self._callees: dict[str, _Callee] = {}
        self._waiting: set[_Callee] = set()
        """The callees that calls wait for."""
        self._under_way: set[_Call] = set()
        self._of_run: Counter[str] = Counter()
        """How many places each run has."""
        self._touching: dict[_Call, None] = {}
        """Calls under way that others may have to wait for."""
        self._wanting: dict[_Call, None] = {}
        """Calls that wait and that others may have to wait for."""

    @property
    def under_way(self) -> int:
        """How many calls have a place."""
        return len(self._under_way)

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return sum(len(lane.calls) for callee in self._waiting for lane in callee.lanes.values())

    @asynccontextmanager
    async def place(
        self,
        *,
        run_id: str,
        callee: str,
        keys: Keys,
        is_effect: bool,
        limit: int | None = None,
        priority: int = 0,
    ) -> AsyncIterator[None]:
        """A place for one call, once there is one. What it touches is `keys`, or may be anything (None).

        Calls of different runs that touch the same are not under way together if one of them is an effect; within a
        run the core keeps order. `limit` is what the callee declares. Raises `CircuitOpenError` T-299, also while
        waiting.
        """
        wanted = self._known(callee)
        limits = [one for one in (limit, wanted.configured) if one is not None]
        wanted.limit = min(limits, default=None)
        if (rest_s := self._rest_s(wanted)) is not None:
            raise _refusal(wanted, rest_s)
        call = _Call(run_id, wanted, keys, is_effect, priority, next(self._numbers))
        if wanted.has_room and len(self._under_way) < self._limit and not self._is_barred(call, self._clock()):
            self._begin(call)
        else:
            await self._waited(call)
        try:
            yield
        finally:
            self._end(call)

    # circuits

    def circuit(self, callee: str) -> Circuit:
        """What is known of the callee's failures."""
        return self._known(callee).circuit

    def report(self, callee: str, *, ok: bool | None) -> None:
        """Tells how a call ended, in the words of `circuit.tells`; to be called before its place is given back."""
        known = self._known(callee)
        known.circuit = after(known.circuit, self._clock(), ok=ok)
        if known.circuit.opened_at is None:
            known.trial = None
        if (rest_s := self._rest_s(known)) is not None:
            self._refuse(known, rest_s)

    def _known(self, name: str) -> _Callee:
        if name not in self._callees:
            limits = [limit for pattern, limit in self._of.items() if fnmatchcase(name, pattern)]
            self._callees[name] = _Callee(name, min(limits, default=None))
        return self._callees[name]

    def _rest_s(self, callee: _Callee) -> float | None:
        """How long the callee is left alone; None if it may be called."""
        permitted = permits(callee.circuit, self._clock())
        if permitted is not True:
            return permitted
        # The late failure of another call may have ended the trial in the circuit's eyes, but only there.
        return TRIAL_S if callee.trial is not None else None

    def _refuse(self, callee: _Callee, rest_s: float) -> None:
        """Ends the waiting of all calls of the callee."""
        for call in [call for lane in callee.lanes.values() for call in lane.calls]:
            self._leave(call)
            if call.turn is not None and not call.turn.done():
                call.turn.set_exception(_refusal(callee, rest_s))
        self._fill()

    # waiting

    async def _waited(self, call: _Call) -> None:
        call.turn = asyncio.get_running_loop().create_future()
        way = (call.run_id, call.priority)
        lanes = call.callee.lanes
        call.lane = lanes[way] = lanes.get(way) or _Lane(*way, self._clock())
        call.lane.calls[call] = None
        self._waiting.add(call.callee)
        if call.touches:
            self._wanting[call] = None
        try:
            await call.turn
        except asyncio.CancelledError:
            if call in self._under_way:  # it got its place at the moment when it was cancelled
                self._end(call)
            else:
                self._leave(call)
                self._fill()
            raise

    def _leave(self, call: _Call) -> None:
        """Takes a call out of its lane, if it is still there."""
        lane, callee = call.lane, call.callee
        self._wanting.pop(call, None)
        if lane is None or call not in lane.calls:
            return
        del lane.calls[call]
        if not lane.calls:
            del callee.lanes[lane.run_id, lane.priority]
        if not callee.lanes:
            self._waiting.remove(callee)

    def _fill(self) -> None:
        """Gives the places that are free to those that come first."""
        while self._waiting and len(self._under_way) < self._limit and (call := self._first()) is not None:
            assert call.lane is not None
            assert call.turn is not None
            call.lane.since = self._clock()
            self._leave(call)
            call.turn.set_result(None)
            self._begin(call)

    def _first(self) -> _Call | None:
        """Of the calls that wait, the first that may begin."""
        now = self._clock()
        lanes = [lane for callee in self._waiting if callee.has_room for lane in callee.lanes.values()]
        for lane in sorted(lanes, key=lambda lane: self._rank(next(iter(lane.calls)), now)):
            for call in lane.calls:
                is_gone = call.turn is not None and call.turn.done()  # cancelled, but its task has not run since
                if not is_gone and not self._is_barred(call, now):
                    return call
        return None

    def _rank(self, call: _Call, now: float) -> tuple[int, int, int]:
        """What sorts the calls that wait: the smallest goes first."""
        waited_s = 0.0 if call.lane is None else now - call.lane.since
        return -call.priority - int(waited_s / AGE_S), self._of_run[call.run_id], call.number

    def _is_barred(self, call: _Call, now: float) -> bool:
        """Whether it must wait for one that is under way, or that waits and goes before it."""
        if not call.touches:
            return False
        if any(call.meets(other) for other in self._touching):
            return True
        own = self._rank(call, now)
        return any(call.meets(other) and self._rank(other, now) < own for other in self._wanting)

    # places

    def _begin(self, call: _Call) -> None:
        self._under_way.add(call)
        self._of_run[call.run_id] += 1
        if call.touches:
            self._touching[call] = None
        callee = call.callee
        callee.under_way += 1
        if callee.circuit.opened_at is not None:
            callee.circuit, callee.trial = begun(callee.circuit), call
            self._refuse(callee, TRIAL_S)

    def _end(self, call: _Call) -> None:
        self._under_way.remove(call)
        self._touching.pop(call, None)
        self._of_run[call.run_id] -= 1
        if not self._of_run[call.run_id]:
            del self._of_run[call.run_id]
        callee = call.callee
        callee.under_way -= 1
        if callee.trial is call:
            callee.trial = None
            callee.circuit = after(callee.circuit, self._clock(), ok=None)  # without a report the next one may try
        self._fill()


def _refusal(callee: _Callee, rest_s: float) -> CircuitOpenError:
    return CircuitOpenError(
        "T-299",
        f"`{callee.name}` was not called: it was unavailable {callee.circuit.failures} times in a row",
        hint=f"It may be tried again in {rest_s:.0f} s.",
        retry_after_s=rest_s,
    )
