"""When a rule speaks of a call: by its callee, by its arguments, and by what was called before.

Rules of the file:
- What cannot be told yet is None: at plan time nothing is known but the callee.
- Where a call is made, what cannot be told counts against it: it never makes an `allow` hold, and always a `deny`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from operator import ge, gt, le, lt
from typing import Annotated, Literal, Self

import re2
from pydantic import AfterValidator, Field, model_validator

from planner.core.catalog import Callee
from planner.core.labels import Frozen, Integrity, Json, Labelled, Names

_is_whole_match: Callable[[str, str], object] = re2.fullmatch
_compiled: Callable[[str], object] = re2.compile
_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {"at_least": ge, "at_most": le, "above": gt, "below": lt}


def _pattern(text: str) -> str:
    try:
        _compiled(text)
    except re2.error as error:
        raise ValueError(f"it is no regular expression of RE2: {error}") from error
    return text


class Condition(Frozen):
    """What one argument must be; a path such as `items.price` goes through lists, and means each element."""

    argument: str = Field(min_length=1)
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    matches: Annotated[str, AfterValidator(_pattern)] | None = None
    """An RE2 expression for the whole text."""
    one_of: tuple[Json, ...] | None = None
    none_of: tuple[Json, ...] | None = None
    integrity: Literal["untrusted", "bounded", "trusted"] | None = None
    """What it must be worth at least."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set - {"argument"}:
            raise ValueError("a condition says what the argument must be, such as `at_most = 50`")
        return self

    def met(self, callee: Callee, arguments: Labelled) -> list[bool | None]:
        """Of each value whether it is so, None where that cannot be told; nothing if the callee takes no such."""
        name, *rest = self.argument.split(".")
        given = arguments.value if isinstance(arguments.value, dict) else {}
        parameter = callee.parameter(name)
        if name in given:
            return [self._is_met(part) for part in _parts(arguments.at((name,)), rest)] or [None]
        return [] if parameter is None else [None]

    def _is_met(self, part: Labelled | None) -> bool | None:
        if part is None:
            return None
        told = [*self._numbers(part.value), *self._words(part.value)]
        if self.integrity is not None:
            told.append(part.overall().integrity >= Integrity[self.integrity.upper()])
        return False if False in told else None if None in told else True

    def _numbers(self, value: Json) -> Iterator[bool | None]:
        number = _number(value)
        for name, is_so in _BOUNDS.items():
            bound = getattr(self, name)
            if bound is not None:
                yield None if number is None else is_so(number, bound)

    def _words(self, value: Json) -> Iterator[bool | None]:
        if self.matches is not None:
            yield None if not isinstance(value, str) else bool(_is_whole_match(self.matches, value))
        if self.one_of is not None:
            yield value in self.one_of
        if self.none_of is not None:
            yield value not in self.none_of


def _parts(whole: Labelled, path: Sequence[str]) -> Iterator[Labelled | None]:
    """The values at a path, each element of a list by itself; None where there is none."""
    if isinstance(whole.value, list):
        for index in range(len(whole.value)):
            yield from _parts(whole.at((index,)), path)
    elif not path:
        yield whole
    elif isinstance(whole.value, dict) and path[0] in whole.value:
        yield from _parts(whole.at((path[0],)), path[1:])
    else:
        yield None


def _number(value: Json) -> float | None:
    """The value as a number, also one that is written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Made:
    """A call of the run that was made, or is about to be."""

    callee: str
    effect: str
    arguments: Json
    is_done: bool
    """Whether it succeeded."""


class Beyond(Frozen):
    """More calls in a run than `calls`, or a sum of the argument `sum_of` over them that is more than `most`."""

    calls: int | None = Field(default=None, ge=0)
    sum_of: str | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.sum_of is None) != (self.most is None) or (self.calls is None and self.most is None):
            raise ValueError('say `calls = 3`, or `sum_of = "amount"` with `most = 500`')
        return self

    def is_passed(self, before: Sequence[Made], arguments: Labelled) -> bool:
        """Whether one more call with these arguments goes beyond; an amount that is no number does."""
        if self.calls is not None and len(before) >= self.calls:
            return True
        if self.sum_of is None or self.most is None:
            return False
        amounts = [_amount(one, self.sum_of) for one in (*(made.arguments for made in before), arguments.value)]
        return None in amounts or sum(amount for amount in amounts if amount is not None) > self.most


def _amount(arguments: Json, name: str) -> float | None:
    return _number(arguments.get(name)) if isinstance(arguments, dict) else None


class Rule(Frozen):
    """`then` holds where callee and effect match (shell patterns), the principal has a role, and the rest is so."""

    id: str
    then: Literal["allow", "ask", "deny"]
    callee: str = "*"
    effect: str = "*"
    roles: Names = frozenset({"*"})
    when: tuple[Condition, ...] = ()
    """What arguments must be; of several all."""
    until: tuple[str, ...] = ()
    """The rule holds until a call of each of these callees has succeeded in the run."""
    beyond: Beyond | None = None
    """The rule holds for calls beyond a limit."""

    def speaks_of(self, roles: frozenset[str], callee: str, effect: str) -> bool:
        """Whether the rule is about such a call at all."""
        is_its = fnmatchcase(callee, self.callee) and fnmatchcase(effect, self.effect)
        return is_its and ("*" in self.roles or bool(self.roles & roles))

    def holds(
        self, roles: frozenset[str], callee: Callee, arguments: Labelled | None, made: Sequence[Made]
    ) -> bool | None:
        """Whether the rule holds for the call; None where that depends on what is not known yet."""
        if not self.speaks_of(roles, callee.name, callee.declaration.effect):
            return False
        if arguments is None:
            return None if self.when or self.until or self.beyond else True
        if self.until and all(any(m.is_done and fnmatchcase(m.callee, p) for m in made) for p in self.until):
            return False
        its = [one for one in made if self.speaks_of(roles, one.callee, one.effect)]
        if self.beyond is not None and not self.beyond.is_passed(its, arguments):
            return False
        return all(self._met(condition.met(callee, arguments)) for condition in self.when)

    def _met(self, told: list[bool | None]) -> bool:
        """Every value is so, for an `allow`; for the others, some value is, or may be."""
        if self.then == "allow":
            return bool(told) and all(one is True for one in told)
        return any(one is not False for one in told)
