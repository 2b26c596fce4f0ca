"""What stands in a program for the values of a plan: references that pose as values, and expressions over them.

Rules of the file:
- For a type checker a `Ref` is a value of the type that the call promises; at run time it is a `Term`.
- Whatever would need the value itself raises P-401 and says what to write instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from planner.builder.terms import (
    AND,
    ATOM,
    COMPARE,
    MINUS,
    NOT,
    OR,
    POWER,
    PRODUCT,
    SUM,
    Marks,
    Term,
    check_readable,
    formatted,
    joined,
    literal,
)
from planner.core.functions import METHODS
from planner.core.labels import Json
from planner.errors import PlanError


def _refused(what: str, hint: str) -> Callable[..., Any]:
    def refuse(self: Ref, *_: object) -> NoReturn:
        there = f"`{self.__term__.written}` has no value before the plan runs, so Python cannot {what}"
        raise PlanError("P-401", there, hint=hint)

    return refuse


def _binary(symbol: str, level: int, *, is_reversed: bool = False) -> Callable[[Ref, object], Any]:
    """An operator; of two of one level the left one comes first, and comparisons and powers do not chain."""
    left_level = level + (level in (COMPARE, POWER))

    def operate(self: Ref, other: object) -> Any:  # noqa: ANN401 - poses as a value
        marks = self.__term__.marks
        sides = [self.__term__, term_of(other, marks)]
        left, right = reversed(sides) if is_reversed else sides
        source = f"{left.within(left_level)} {symbol} {right.within(level + 1)}"
        return Ref(joined(source, sides, marks, level=level))

    return operate


def _prefix(symbol: str, level: int) -> Callable[[Ref], Any]:
    def operate(self: Ref) -> Any:  # noqa: ANN401 - poses as a value
        own = self.__term__
        return Ref(joined(f"{symbol}{own.within(level)}", [own], own.marks, level=level))

    return operate


def _function(name: str) -> Callable[..., Any]:
    def call(self: Ref, *given: object) -> Any:  # noqa: ANN401 - poses as a value
        own = self.__term__
        parts = [own, *(term_of(value, own.marks) for value in given)]
        return Ref(joined(f"{name}({', '.join(part.source for part in parts)})", parts, own.marks))

    return call


class Ref:  # noqa: PLW1641 - not hashable: `==` makes an expression, so a set could not tell two of them apart
    """What a step will give, or an expression over such values; it poses as the value itself.

    Fields, items, operators and the methods of the expression language make longer references and expressions;
    `&`, `|` and `~` are its `and`, `or` and `not`. In an f-string it becomes `${...}`; alone it keeps its type.
    """

    __slots__ = ("__term__",)
    __term__: Term

    def __init__(self, term: Term) -> None:
        self.__term__ = term

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - poses as a value
        if name.startswith("_"):  # Python itself asks for such names, to find out what an object can do
            raise AttributeError(f'there is no attribute `{name}`; a field of that name is read by `["{name}"]`')
        return self[name]

    def __getitem__(self, key: object) -> Any:  # noqa: ANN401 - poses as a value
        own, whole = self.__term__, self.__term__.within(ATOM)
        if isinstance(key, slice):
            bounds = [key.start, key.stop, *([] if key.step is None else [key.step])]
            parts = [None if bound is None else term_of(bound, own.marks) for bound in bounds]
            inside = ":".join(part.source if part else "" for part in parts)
            return Ref(joined(f"{whole}[{inside}]", [own, *filter(None, parts)], own.marks))
        if isinstance(key, str) and key.isascii() and key.isidentifier() and not key.startswith("__"):
            return Ref(Term(f"{whole}.{key}", ATOM, own.reads, own.marks, part=(own, str(key))))
        index = term_of(key, own.marks)
        return Ref(joined(f"{whole}[{index.source}]", [own, index], own.marks))

    def __call__(self, *given: object, **named: object) -> Any:  # noqa: ANN401 - poses as a value
        """The result of the method that this is. Raises `PlanError` if it is none."""
        own = self.__term__
        known = dict.fromkeys(method for table in METHODS.values() for method in table)
        if own.part is None or own.part[1] not in known:
            hint = f"Its methods are {', '.join(known)}; its functions are called in `flow.expr`."
            raise PlanError("P-202", f"`{own.source}` is no method of the expression language", hint=hint)
        owner, method = own.part
        positional = [term_of(value, own.marks) for value in given]
        options = {name: term_of(value, own.marks) for name, value in named.items()}
        words = [part.source for part in positional] + [f"{name}={part.source}" for name, part in options.items()]
        source = f"{owner.within(ATOM)}.{method}({', '.join(words)})"
        return Ref(joined(source, [owner, *positional, *options.values()], own.marks))

    def __format__(self, spec: str) -> str:
        own = self.__term__
        if not spec:
            return own.marks.mark(own)
        source = f'f"{{{own.as_field}:{spec}}}"'
        check_readable(source)
        return own.marks.mark(joined(source, [own], own.marks))

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"<Ref {self.__term__.written} #{self.__term__.marks.number}>"

    __round__ = _function("round")
    __abs__ = _function("abs")
    __add__ = _binary("+", SUM)
    __radd__ = _binary("+", SUM, is_reversed=True)
    __sub__ = _binary("-", SUM)
    __rsub__ = _binary("-", SUM, is_reversed=True)
    __mul__ = _binary("*", PRODUCT)
    __rmul__ = _binary("*", PRODUCT, is_reversed=True)
    __truediv__ = _binary("/", PRODUCT)
    __rtruediv__ = _binary("/", PRODUCT, is_reversed=True)
    __floordiv__ = _binary("//", PRODUCT)
    __rfloordiv__ = _binary("//", PRODUCT, is_reversed=True)
    __mod__ = _binary("%", PRODUCT)
    __rmod__ = _binary("%", PRODUCT, is_reversed=True)
    __pow__ = _binary("**", POWER)
    __rpow__ = _binary("**", POWER, is_reversed=True)
    __and__ = _binary("and", AND)
    __rand__ = _binary("and", AND, is_reversed=True)
    __or__ = _binary("or", OR)
    __ror__ = _binary("or", OR, is_reversed=True)
    __eq__ = _binary("==", COMPARE)
    __ne__ = _binary("!=", COMPARE)
    __lt__ = _binary("<", COMPARE)
    __le__ = _binary("<=", COMPARE)
    __gt__ = _binary(">", COMPARE)
    __ge__ = _binary(">=", COMPARE)
    __neg__ = _prefix("-", MINUS)
    __invert__ = _prefix("not ", NOT)

    __bool__ = _refused(
        "decide by it", "Write `with flow.when(...)` or `flow.step(if_=...)`, and `&`, `|`, `~` for and, or, not."
    )
    __iter__ = _refused("go through it", 'Write `flow.each(x, ...)`, or `flow.expr("sum(x)", x=...)`.')
    __len__ = _refused("count it", 'Write `flow.expr("len(x)", x=...)`.')
    __contains__ = _refused("look into it", 'Write `flow.expr("part in x", part=..., x=...)`.')
    __int__ = _refused("make a number of it", 'Write `flow.expr("int(x)", x=...)`.')
    __index__ = _refused("count by it", "Write it as an index of another reference, or in `flow.expr`.")
    __float__ = _refused("make a number of it", 'Write `flow.expr("float(x)", x=...)`.')


def term_of(value: object, marks: Marks) -> Term:
    """A reference, or a constant with references in it, as an expression. Raises `PlanError` for anything else."""
    match value:
        case Ref():
            return value.__term__
        case None | bool() | int() | float():
            source = json.dumps(scalar(value))
            return Term(source, MINUS if source.startswith("-") else ATOM, frozenset(), marks)
        case str():
            pieces = marks.pieces(str(value), "an expression")
            return formatted(pieces, marks) if len(pieces) > 1 else joined(literal(str(value)), [], marks)
        case list() | tuple():
            parts = [term_of(item, marks) for item in value]
            return joined(f"[{', '.join(part.source for part in parts)}]", parts, marks)
        case Mapping():
            keys = [literal(marks.plain(str(key), "the name of a field")) for key in value]
            parts = [term_of(item, marks) for item in value.values()]
            pairs = ", ".join(f"{key}: {part.source}" for key, part in zip(keys, parts, strict=True))
            return joined(f"{{{pairs}}}", parts, marks)
        case _:
            raise no_constant(value, "an expression")


def scalar(value: float | None) -> Json:
    """A plain value, also of an enumeration's member. Raises `PlanError` for a number that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PlanError("P-404", f"`{value}` is no number of JSON", hint="Write None where there is no number.")
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else float(value)


def no_constant(value: object, where: str) -> PlanError:
    """The error for what is neither JSON nor a reference."""
    hint = "Give text, numbers, True, False, None, lists and dicts of these, or what the builder gave."
    return PlanError("P-404", f"{where} cannot hold `{value!r:.60}`, a {type(value).__name__}", hint=hint)
