"""What a plan may use and how long it may take at most: retries, items and what stands in for a failure counted in.

Rules of the file:
- What cannot be bounded is unknown, never 0: a nested run without limits, a price nobody said.
- Time is that of calls and pauses along the critical path. People, events and queues for a free place have none;
  `waits` names the steps that may wait for them. Nor has a probe, nor a pause that the other side asks for.
- A call that gave no answer is made again only as often as the rules do it alone: not what a person wants made again,
  nor what a process that ended had under way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from math import ceil
from operator import add, mul
from typing import TypeAlias, TypeVar

from planner.core.catalog import Callee, Catalogue
from planner.core.expr import names
from planner.core.labels import Json
from planner.core.ledger import Amount, Budget, Rate, estimate, price
from planner.core.order import Keys, keys, must_keep_order
from planner.core.plan import Plan, Role, Step, StepId, reads
from planner.core.reach import Planned, most_items, planned

TOOL_TIMEOUT_S = 60.0
"""What a call of a tool takes at most where nobody says: a page that hardly answers, a large file."""
AGENT_TIMEOUT_S = 120.0
"""The same for an agent: a thousand tokens of a local model on two cores, with room to spare."""
DATA_TOKENS = 8_000
"""What data that is not known before the run adds to what an agent reads: all that a local model can take in."""
ACTIVE_ITEMS = 4
"""Items of one map under way at once."""
BACKOFF_S = 1.0
"""The pause before the first retry; each further one is twice as long."""
JITTER = 1.5
"""By how much a pause may be longer than that."""
TRIES = 3
"""How often a call that gave no answer is made again, and how often a call may end its process; then a person must
look, for something is wrong with it."""

SAID = frozenset({"human", "gate", "wait"})
"""Kinds of callees that nothing performs: they begin with an event and end with one."""
NESTED = frozenset({"plan", "flow"})
"""Kinds of callees that are runs of their own."""
Asked: TypeAlias = Collection[tuple[StepId, Role]]


Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Use:
    """What is used at most; None is unknown."""

    calls: int | None = 0
    tokens: int | None = 0
    cost_usd: float | None = 0.0

    def plus(self, other: Use) -> Use:
        """Both together."""
        return Use(
            calls=_known(add, self.calls, other.calls),
            tokens=_known(add, self.tokens, other.tokens),
            cost_usd=_known(add, self.cost_usd, other.cost_usd),
        )

    def either(self, other: Use) -> Use:
        """The larger of each, where only one of both will be used."""
        return Use(
            calls=_known(max, self.calls, other.calls),
            tokens=_known(max, self.tokens, other.tokens),
            cost_usd=_known(max, self.cost_usd, other.cost_usd),
        )

    def times(self, times: int) -> Use:
        """The same so often."""
        if times == 0:
            return Use()
        return Use(
            calls=_known(mul, self.calls, times),
            tokens=_known(mul, self.tokens, times),
            cost_usd=_known(mul, self.cost_usd, float(times)),
        )

    def within(self, budget: Budget) -> Use:
        """No more than a budget lets through."""
        return Use(
            calls=_least(self.calls, budget.calls),
            tokens=_least(self.tokens, budget.tokens),
            cost_usd=_least(self.cost_usd, budget.cost_usd),
        )


def _known(combine: Callable[[Number, Number], Number], one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else combine(one, other)


def _least(used: Number | None, limit: Number | None) -> Number | None:
    return limit if used is None else used if limit is None else min(used, limit)


Course: TypeAlias = tuple[float, tuple[StepId, ...]]
"""Seconds, and the steps that take them, one after the other."""
_Touches: TypeAlias = list[tuple[Callee, Keys]]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The worst case: what is used, how long it takes and by way of which steps, and which may wait for anybody."""

    use: Use
    seconds: float
    critical_path: tuple[StepId, ...]
    waits: tuple[StepId, ...]


def forecast(plan: Plan, catalogue: Catalogue, *, rates: Mapping[str, Rate], asked: Asked) -> Forecast:
    """The worst case of a plan; `asked` are the calls that a person may have to approve, `rates` go by callee."""
    terms = _Terms(catalogue, rates, asked, len(json.dumps(dict(plan.inputs), ensure_ascii=False).encode()))
    seconds, path = terms.course(plan.steps)
    waiting = (call.step.id for call in planned(plan.steps, catalogue) if terms.may_wait(call))
    return Forecast(
        use=terms.uses(plan.steps),
        seconds=seconds,
        critical_path=path,
        waits=tuple(dict.fromkeys(waiting)),
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    catalogue: Catalogue
    rates: Mapping[str, Rate]
    asked: Asked
    input_tokens: int
    """What the inputs of the plan add where an agent reads them: a token for each byte."""

    # use

    def uses(self, steps: tuple[Step, ...], times: int = 1) -> Use:
        return reduce(Use.plus, (self.use(step, times) for step in steps), Use())

    def use(self, step: Step, times: int) -> Use:
        """What a step uses where all around it runs so often: a step's budget is for all of that together."""
        times *= most_items(step)
        if step.is_block:
            used = self.uses(step.do, times).either(self.uses(step.else_, times))
        else:
            calls = planned((step,), self.catalogue)
            used = reduce(Use.plus, (self.once(c.callee, c.args).times(times * _attempts(c)) for c in calls), Use())
        return used if step.budget is None else used.within(step.budget)

    def once(self, callee: Callee, args: Mapping[str, Json]) -> Use:
        if callee.kind in SAID:
            return Use()
        if callee.kind in NESTED:
            return Use(calls=None, tokens=None, cost_usd=None)
        rate, read = self.rates.get(callee.name), names(dict(args))
        amount = estimate(callee, dict(args), rate)
        if callee.declaration.max_tokens:
            more = self.input_tokens * ("inputs" in read) + DATA_TOKENS * bool(read - {"inputs"})
            amount = amount.plus(Amount(calls=0, tokens=more, cost_usd=price(rate, more, 0)))
        return Use(calls=amount.calls, tokens=amount.tokens, cost_usd=amount.cost_usd)

    # time

    def course(self, steps: tuple[Step, ...]) -> Course:
        """The longest way through these steps: along data, `after`, and the order of effects."""
        ends: dict[StepId, Course] = {}
        touched: list[tuple[StepId, _Touches]] = []
        for step in steps:
            touches = self.touches(step)
            before = [id_ for id_, theirs in touched if _must_wait(theirs, touches)]
            needed = reads(step) | frozenset(step.after)
            before += [id_ for id_ in ends if id_ in needed]  # in the plan's order, so that ties end alike everywhere
            seconds, path = max((ends[id_] for id_ in before), key=_length, default=(0.0, ()))
            own_seconds, own_path = self.lasts(step)
            ends[step.id] = (seconds + own_seconds, (*path, step.id, *own_path))
            touched.append((step.id, touches))
        return max(ends.values(), key=_length, default=(0.0, ()))

    def lasts(self, step: Step) -> Course:
        """How long a step takes with all its items, and the way through it if it is a block."""
        if step.is_block:
            seconds, path = max(self.course(step.do), self.course(step.else_), key=_length)
        else:
            seconds, path = sum(map(self.call_s, planned((step,), self.catalogue)), 0.0), ()
        return seconds * ceil(most_items(step) / self.width(step)), path

    def call_s(self, call: Planned) -> float:
        """How long a call takes with its retries and the pauses between them; each attempt may be asked for anew."""
        step, callee = call.step, call.callee
        if callee.kind in SAID:
            return call_s(step, callee)
        retry = _retries(call)
        seconds = _attempts(call) * call_s(step, callee) + BACKOFF_S * JITTER * (2.0**retry - 1)
        return seconds + (1 + retry) * (step.timeout_s or 0.0) if (step.id, call.role) in self.asked else seconds

    def width(self, step: Step) -> int:
        """How many items of a map run at once at least: one after the other if they may touch the same thing."""
        touches = self.touches(step)
        if not step.is_map or _must_wait(touches, touches):
            return 1
        return min([ACTIVE_ITEMS, *(c.declaration.concurrency for c, _ in touches if c.declaration.concurrency)])

    def touches(self, step: Step) -> _Touches:
        return [(call.callee, keys(call.callee, call.args)) for call in planned((step,), self.catalogue)]

    def may_wait(self, call: Planned) -> bool:
        """Whether nobody can say how long a call takes: it waits for a person, an event, or a run without a limit."""
        callee, step = call.callee, call.step
        if _is_pause(callee):
            return _pause_s(step) is None
        is_asked = callee.kind in SAID or (step.id, call.role) in self.asked
        is_nested = callee.kind in NESTED and callee.declaration.timeout_s is None
        return step.on_error.then == "ask" or (step.timeout_s is None and (is_asked or is_nested))


def _retries(call: Planned) -> int:
    return call.step.on_error.retry if call.role == "call" else 0


def _attempts(call: Planned) -> int:
    """How often a call is made at most for one item: with its retries, and again where it gave no answer."""
    callee = call.callee
    is_repeated = callee.kind not in NESTED and not callee.is_reading and callee.declaration.on_doubt != "ask"
    return 1 + _retries(call) + (TRIES if is_repeated else 0)


def _must_wait(earlier: _Touches, later: _Touches) -> bool:
    return any(must_keep_order(one, other) for one in earlier for other in later)


def _length(course: Course) -> tuple[float, int]:
    """Of two ways that take as long, the one with more steps says more."""
    return course[0], len(course[1])


def call_s(step: Step, callee: Callee) -> float:
    """How long one call takes at most; 0 where nobody can say."""
    if _is_pause(callee):
        return _pause_s(step) or 0.0
    if callee.kind in SAID:
        return step.timeout_s or 0.0
    limits = [limit for limit in (step.timeout_s, callee.declaration.timeout_s) if limit is not None]
    if callee.kind in NESTED:
        return min(limits, default=0.0)
    return min(limits, default=TOOL_TIMEOUT_S if callee.kind == "tool" else AGENT_TIMEOUT_S)


def _is_pause(callee: Callee) -> bool:
    """Whether it waits for a time, not for somebody: a time limit does not shorten it."""
    return callee.kind == "wait" and callee.parameter("seconds") is not None


def _pause_s(step: Step) -> float | None:
    """The seconds that a step says to wait, if it says them as a number and names no time besides."""
    match step.args:
        case {"seconds": (int() | float()) as seconds, **rest} if rest.get("at") is None:
            return max(0.0, float(seconds))
        case _:
            return None
