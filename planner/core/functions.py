"""What expressions may do with plain JSON: operators, functions, methods, and how a value reads as text.

Rules of the file:
- A call made through `perform` gives JSON or raises `PlanError`, and makes nothing longer than `CEILING`.
- A function that only arranges (`SHAPING`, `RANKING`) never looks into an element, which may be opaque.
- There is no clock: dates are text (`2024-05-31`) in and out.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from math import isfinite
from typing import Any, TypeAlias, cast

from planner.core import finders
from planner.core.labels import Json
from planner.errors import PlanError

Function: TypeAlias = Callable[..., Json]
Number: TypeAlias = int | float

CEILING = 2_000_000
"""The most characters or elements that one call makes: twice what an expression holds by default."""
MAX_BITS = 1024
"""The longest integer: as large as the largest float, so that every integer can become one."""

_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class AbsentError(PlanError):
    """Something read is not there; what `a ?? b` gives a default for."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint, error_class="missing")


def perform(name: str, call: Function, /, *args: object, **options: object) -> Json:
    """`call(*args, **options)`, with everything that can go wrong as a `PlanError` that says `name`."""
    try:
        return call(*args, **options)
    except ZeroDivisionError:
        raise PlanError("P-209", f"`{name}` divides by zero", hint="Test the divisor first.") from None
    except OverflowError:
        raise PlanError("P-209", f"`{name}` gives a number or a date that is too large") from None
    except (TypeError, ValueError):
        given = " and ".join(describe(arg) for arg in args) or "nothing"
        raise PlanError("P-208", f"`{name}` cannot work with {given}") from None


def describe(value: object) -> str:
    """A value in a few words, for messages."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case int() | float():
            return f"the number {value}" if abs(value) < 10**40 else "a very large number"
        case str():
            return f"the text `{value if len(value) <= 40 else value[:39] + '…'}`"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "a record"


def text(value: Json) -> str:
    """A value inside text: text as it is, a list of scalars one per line, anything else as compact JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return "\n".join(text(item) for item in value)
    return _COMPACT.encode(value)


def finite(number: Number) -> Number:
    """The number itself, if JSON can hold it and it is not absurdly long."""
    if number.bit_length() > MAX_BITS if isinstance(number, int) else not isfinite(number):
        raise PlanError("P-209", "a number is too large, or not a number at all")
    return number


def distinct(values: Sequence[Json]) -> list[Json]:
    """The values without repetitions, in the order they were first seen."""
    seen: dict[object, Json] = {}
    for value in values:
        seen.setdefault(_key(value), value)
    return [*seen.values()]


def _key(value: Json) -> object:
    match value:
        case dict():
            return dict, frozenset((name, _key(item)) for name, item in value.items())
        case list():
            return list, tuple(_key(item) for item in value)
        case _:
            return value


# what an argument must be -----------------------------------------------------------------------------------


def _unlike(wanted: str, value: Json) -> PlanError:
    return PlanError("P-208", f"expected {wanted}, got {describe(value)}")


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    raise _unlike("text", value)


def _number(value: Json) -> Number:
    if isinstance(value, int | float):
        return value
    raise _unlike("a number", value)


def _whole(value: Json) -> int:
    if isinstance(value, int):
        return value
    raise _unlike("a whole number", value)


def _list(value: Json) -> list[Any]:
    if isinstance(value, list | dict):
        return [*value]
    raise _unlike("a list", value)


def _fits(size: int) -> None:
    if size > CEILING:
        raise PlanError("P-210", f"the result would be longer than {CEILING:,}", error_class="limit")


# operators --------------------------------------------------------------------------------------------------


def _add(left: Json, right: Json) -> Json:
    match left, right:
        case str(), str():
            return left + right
        case list(), list():
            return [*left, *right]
        case (str(), other) | (other, str()):
            raise PlanError("P-208", f"text and {describe(other)} cannot be added", hint='Write f"{a}{b}" or str(b).')
        case _:
            return _number(left) + _number(right)


def _multiply(left: Json, right: Json) -> Json:
    match left, right:
        case (str() | list(), int()):
            _fits(len(left) * right)
            return left * right
        case int(), (str() | list()):
            return _multiply(right, left)
        case _:
            return _number(left) * _number(right)


def _power(left: Json, right: Json) -> Json:
    base, exponent = _number(left), _number(right)
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        if abs(base) > 1 and base.bit_length() * exponent > 2 * MAX_BITS:
            raise OverflowError
    elif base < 0 and exponent != int(exponent):
        raise ValueError("a root of a negative number is complex")
    return cast("Number", base**exponent)


def _numeric(calculate: Callable[[Any, Any], Number]) -> Function:
    return lambda left, right: calculate(_number(left), _number(right))


def _holds(whole: Json, part: Json) -> bool:
    if isinstance(whole, str):
        return _text(part) in whole
    return part in _list(whole)


OPERATORS: Mapping[type[ast.operator], tuple[str, Function]] = {
    ast.Add: ("+", _add),
    ast.Sub: ("-", _numeric(operator.sub)),
    ast.Mult: ("*", _multiply),
    ast.Div: ("/", _numeric(operator.truediv)),
    ast.FloorDiv: ("//", _numeric(operator.floordiv)),
    ast.Mod: ("%", _numeric(operator.mod)),
    ast.Pow: ("**", _power),
}
COMPARISONS: Mapping[type[ast.cmpop], tuple[str, Function]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Is: ("is", operator.is_),
    ast.IsNot: ("is not", operator.is_not),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.In: ("in", lambda part, whole: _holds(whole, part)),
    ast.NotIn: ("not in", lambda part, whole: not _holds(whole, part)),
}


# numbers and lists ------------------------------------------------------------------------------------------


def _length(value: Json) -> Json:
    return len(value if isinstance(value, str) else _list(value))


def _sum(values: Json) -> Json:
    return sum(_number(value) for value in _list(values))


def _sorted(values: Json, key: Callable[[Any], Any] | None = None, reverse: Json = False) -> Json:
    return sorted(_list(values), key=key, reverse=bool(reverse))


def _extreme(choose: Callable[..., Json]) -> Function:
    def extreme(values: Json, *more: Json, key: Callable[[Any], Any] | None = None) -> Json:
        candidates = [values, *more] if more else _list(values)
        if not candidates:
            raise AbsentError("P-211", "an empty list has no least and no greatest value")
        return choose(candidates, key=key)

    return extreme


def _round(number: Json, digits: Json = None) -> Json:
    if digits is None:
        return round(_number(number))
    if abs(_whole(digits)) > 30:
        raise PlanError("P-208", f"expected at most 30 digits, got {describe(digits)}")
    return round(_number(number), _whole(digits))


def _range(start: Json, stop: Json = None, step: Json = 1) -> Json:
    first, last = (0, start) if stop is None else (start, stop)
    numbers = range(_whole(first), _whole(last), _whole(step))
    _fits(len(numbers))
    return [*numbers]


def _zip(*lists: Json) -> Json:
    return [[*row] for row in zip(*map(_list, lists), strict=False)]


def _enumerate(values: Json, start: Json = 0) -> Json:
    return [[number, value] for number, value in enumerate(_list(values), _whole(start))]


def _dict(pairs: Json = None, /, **fields: Json) -> Json:
    start = pairs if isinstance(pairs, dict) else {_text(k): v for k, v in map(_list, _list(pairs or []))}
    return {**start, **fields}


def _int(value: Json) -> Json:
    return int(value) if isinstance(value, str) else int(_number(value))


def _float(value: Json) -> Json:
    return float(value) if isinstance(value, str) else float(_number(value))


def _count(whole: Json, part: Json) -> Json:
    return whole.count(_text(part)) if isinstance(whole, str) else _list(whole).count(part)


def _index(whole: Json, part: Json) -> Json:
    if not _holds(whole, part):
        raise AbsentError("P-211", f"{describe(part)} is not in {describe(whole)}")
    return whole.index(_text(part)) if isinstance(whole, str) else _list(whole).index(part)


# text -------------------------------------------------------------------------------------------------------


def _strip(text: Json, characters: Json = None) -> Json:
    return _text(text).strip(None if characters is None else _text(characters))


def _split(text: Json, separator: Json = None) -> Json:
    return [*_text(text).split(None if separator is None else _text(separator))]


def _join(values: Json, separator: Json = ", ") -> Json:
    parts = [text(value) for value in _list(values)]
    _fits(sum(map(len, parts)) + len(parts) * len(_text(separator)))
    return _text(separator).join(parts)


def _replace(text: Json, old: Json, new: Json) -> Json:
    whole, before, after = _text(text), _text(old), _text(new)
    _fits(len(whole) + whole.count(before) * max(0, len(after) - len(before)))
    return whole.replace(before, after)


def _startswith(text: Json, prefix: Json) -> Json:
    return _text(text).startswith(_text(prefix))


def _endswith(text: Json, suffix: Json) -> Json:
    return _text(text).endswith(_text(suffix))


def _textual(change: Callable[[str], str]) -> Function:
    return lambda text: change(_text(text))


# finders and dates ------------------------------------------------------------------------------------------


def _found(find: Callable[[str], Sequence[Json]]) -> Function:
    return lambda text: [finite(one) if isinstance(one, int | float) else one for one in find(_text(text))]


def _first(kind: str, find: Callable[[str], Sequence[Json]]) -> Function:
    def first(text: Json) -> Json:
        if kind == "number" and isinstance(text, int | float):
            return text
        found = _list(_found(find)(text))
        if not found:
            raise AbsentError("P-211", f"there is no {kind} in {describe(text)}", hint="Give a default with `??`.")
        return cast("Json", found[0])

    return first


_date = _first("date that can be read in one way only", finders.dates)


def _day(value: Json) -> date:
    return date.fromisoformat(_text(_date(value)))


def _days_between(start: Json, end: Json) -> Json:
    return (_day(end) - _day(start)).days


def _add_days(day: Json, days: Json) -> Json:
    return (_day(day) + timedelta(days=_whole(days))).isoformat()


def _of_day(part: Callable[[date], int]) -> Function:
    return lambda day: part(_day(day))


FUNCTIONS: Mapping[str, Function] = {
    "len": _length,
    "sum": _sum,
    "min": _extreme(min),
    "max": _extreme(max),
    "sorted": _sorted,
    "round": _round,
    "abs": lambda number: abs(_number(number)),
    "any": lambda values: any(_list(values)),
    "all": lambda values: all(_list(values)),
    "set": lambda values: distinct(_list(values)),
    "list": _list,
    "dict": _dict,
    "zip": _zip,
    "enumerate": _enumerate,
    "range": _range,
    "str": text,
    "int": _int,
    "float": _float,
    "bool": operator.truth,
    "lower": _textual(str.lower),
    "upper": _textual(str.upper),
    "trim": _textual(str.strip),
    "split": _split,
    "join": _join,
    "replace": _replace,
    "contains": _holds,
    "startswith": _startswith,
    "lines": lambda text: [*_text(text).splitlines()],
    "words": lambda text: [*_text(text).split()],
    "date": _date,
    "days_between": _days_between,
    "add_days": _add_days,
    "year": _of_day(lambda day: day.year),
    "month": _of_day(lambda day: day.month),
    "day": _of_day(lambda day: day.day),
    "weekday": _of_day(date.weekday),  # Monday is 0, as in Python
    "emails": _found(finders.emails),
    "urls": _found(finders.urls),
    "numbers": _found(finders.numbers),
    "dates": _found(finders.dates),
    "ibans": _found(finders.ibans),
    "email": _first("e-mail address", finders.emails),
    "url": _first("URL", finders.urls),
    "number": _first("number", finders.numbers),
    "iban": _first("IBAN", finders.ibans),
}
SHAPING = frozenset({"list", "zip", "enumerate"})
"""Functions that only arrange the elements of lists."""
RANKING = frozenset({"sorted", "min", "max"})
"""Functions that take `key=lambda x: ...`; with it they look at the keys only."""

METHODS: Mapping[type, Mapping[str, Function]] = {
    str: {
        "lower": _textual(str.lower),
        "upper": _textual(str.upper),
        "title": _textual(str.title),
        "strip": _strip,
        "split": _split,
        "join": lambda separator, values: _join(values, separator),
        "replace": _replace,
        "startswith": _startswith,
        "endswith": _endswith,
        "count": _count,
        "index": _index,
    },
    list: {"count": _count, "index": _index},
    dict: {
        "keys": lambda record: [*record],
        "values": lambda record: [*record.values()],
        "items": lambda record: [[name, value] for name, value in record.items()],
        "get": lambda record, name, default=None: record.get(_text(name), default),
    },
}
