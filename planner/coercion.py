"""The types of the plan language as Python annotations, and how a near miss becomes one.

Rules of the file:
- A value is changed only where it can be read in one way; anything else is refused with what was expected.
- Pure: no files and no clock, so a date must be complete, and "tomorrow" is none.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from itertools import islice
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import is_typeddict  # knows both kinds of `TypedDict`

from planner.core import finders
from planner.core.catalog import ATOMS, is_type
from planner.core.labels import Json


@dataclass(frozen=True)
class Kind:
    """Marks an annotation with its word of the plan language, and coerces what is validated against it."""

    word: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The annotation's own schema behind the coercion."""
        return core_schema.no_info_before_validator_function(lambda v: coerce(self.word, v), handler(source))


FilePath: TypeAlias = Annotated[str, Kind("path")]
FolderPath: TypeAlias = Annotated[str, Kind("folder")]
Url: TypeAlias = Annotated[str, Kind("url")]
Email: TypeAlias = Annotated[str, Kind("email")]
Iban: TypeAlias = Annotated[str, Kind("iban")]
Id: TypeAlias = Annotated[str, Kind("id")]
Span: TypeAlias = Annotated[str, Kind("span")]
Date: TypeAlias = Annotated[str, Kind("date")]
Expression: TypeAlias = Annotated[str, Kind("expression")]
Number: TypeAlias = int | float
Record: TypeAlias = dict[str, Json]
Table: TypeAlias = Annotated[list[dict[str, Json]], Kind("table")]


# annotations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What an annotation means: its word, its choices, and itself with a coercion at every level."""

    word: str
    annotation: Any
    choices: tuple[str, ...] = ()


_PLAIN: dict[object, str] = {str: "text", bool: "boolean", int: "integer", float: "number", dict: "record"}


def shape(annotation: object) -> Shape:
    """The shape of an annotation. Raises `TypeError` for one that the plan language has no word for."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind = next((mark for mark in args[1:] if isinstance(mark, Kind)), None)
        inner = Shape(kind.word, args[0]) if kind else shape(args[0])
        return replace(inner, annotation=Annotated[inner.annotation, *args[1:]])
    if annotation in (Any, object, JsonValue, None, NoneType):
        return Shape("any", annotation)
    if origin is Literal and all(isinstance(choice, str) for choice in args):
        return Shape("text", Annotated[annotation, _Choices(args)], choices=args)
    if origin in (Union, UnionType):
        return _union(args)
    if origin is list:
        item = shape(args[0])
        word = "table" if _is_row(args[0]) else f"list[{item.word}]"
        return _marked(word, GenericAlias(list, (item.annotation,)))
    word = "record" if origin is dict or _is_row(annotation) else _PLAIN.get(annotation, "")
    if not word:
        raise TypeError(f"`{annotation}` has no word in the plan language")
    return _marked(word, annotation)


def _marked(word: str, annotation: object, choices: tuple[str, ...] = ()) -> Shape:
    return Shape(word, Annotated[annotation, Kind(word)], choices)


def _union(members: Sequence[Any]) -> Shape:
    real = [member for member in members if member is not NoneType]
    if set(real) == {int, float}:
        inner = _marked("number", Number)
    elif len(real) == 1:
        inner = shape(real[0])
    else:
        raise TypeError(f"`{' | '.join(map(str, members))}` has no single word in the plan language")
    return replace(inner, annotation=inner.annotation | None) if len(real) < len(members) else inner


def _is_row(annotation: object) -> bool:
    """Whether every value of it is a record with the same keys."""
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return is_model or is_typeddict(annotation) or is_dataclass(annotation)


@dataclass(frozen=True)
class _Choices:
    """Finds the choice that is meant, without regard to case."""

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._meant, handler(source))

    def _meant(self, value: object) -> object:
        said = str(value).strip().casefold()
        found = next((word for word in self.words if word.casefold() == said), None)
        if found is None:
            raise ValueError(f"choose one of {', '.join(f'`{word}`' for word in self.words)}")
        return found


def annotation_of(word: str, choices: Sequence[str] = ()) -> Any:  # noqa: ANN401 - annotations have no type
    """The annotation that a word of the plan language stands for. Raises `ValueError` for what is no type."""
    if choices:
        return Literal[tuple(choices)]
    if not is_type(word):
        raise ValueError(f"`{word}` is no type")
    if word in _WORDS:
        return _WORDS[word]
    if word in ATOMS:
        return Annotated[str, Kind(word)]
    return GenericAlias(list, (annotation_of(word.removeprefix("list[").removesuffix("]")),))


_WORDS: dict[str, Any] = {
    "any": Any,
    "text": str,
    "number": Number,
    "integer": int,
    "boolean": bool,
    "record": Record,
    "table": Table,
}


# values -----------------------------------------------------------------------------------------------------


def coerce(word: str, value: object) -> object:
    """The value as the type `word`, as far as it can be read so. Raises `ValueError` saying why not."""
    if word.startswith("list["):
        return _items(value)
    if isinstance(value, list) and len(value) == 1 and word not in {"text", "table", "any"}:
        value = value[0]
    reading = _READINGS.get(word)
    return reading(value) if reading else value


def text(value: object) -> str:
    """A value as text: scalars as JSON writes them, a list of scalars one per line, the rest compact JSON."""
    match value:
        case str():
            return value
        case None:
            raise ValueError("there is no value")
        case list() if all(isinstance(item, str | int | float) for item in value):
            return "\n".join(text(item) for item in value)
        case _:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _items(value: object) -> object:
    match value:
        case list():
            return value
        case str() if value.lstrip().startswith("[") and isinstance(items := _json(value), list):
            return items
        case str():
            return [line for line in value.splitlines() if line.strip()]
        case None:
            raise ValueError("there is no value")
        case _:
            return [value]


def _json(source: str) -> Json:
    """The JSON in a text; None if it is something else."""
    try:
        parsed: Json = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return parsed


_SIGN = r"(?P<sign>[-+\u2212]?)"
_CURRENCY = r"(?:[A-Z]{3}|[€$£¥₹])?"
_BY_POINT = r"\d{1,3}(?P<gap>[,' \u00a0\u202f])\d{3}(?:(?P=gap)\d{3})*(?:\.\d+)?|\d*\.?\d+(?:[eE][-+]?\d+)?|\d+\."
_BY_COMMA = r"\d{1,3}(?P<gap>[.' \u00a0\u202f])\d{3}(?:(?P=gap)\d{3})*(?:,\d+)?|\d+(?:,\d+)?"
_NOTATIONS = tuple(
    (re.compile(rf"{_SIGN}(?P<digits>{digits})"), decimal) for digits, decimal in ((_BY_POINT, "."), (_BY_COMMA, ","))
)
_AMOUNT = re.compile(rf"(?P<before>[-+\u2212]?)\s*{_CURRENCY}\s*(?P<rest>[-+\u2212]?[\d.,].*?)\s*{_CURRENCY}", re.S)


def number(value: object) -> int | float:
    """A number, or text that is one: `1,234.5`, `1.234,5`, `12 EUR`, `-$3`. Raises `ValueError` otherwise.

    `1,234` is read with a thousands separator, as in English; `1.234` with a decimal point.
    """
    match value:
        case bool():
            raise ValueError("a truth value is no number")
        case int() | float() if math.isfinite(value):
            return value
        case str() if len(value) <= 80 and (amount := _AMOUNT.fullmatch(value.strip())):
            for notation, decimal in _NOTATIONS:
                if match := notation.fullmatch(amount["before"] + amount["rest"]):
                    return _read(match, decimal)
    raise ValueError("it is not one number, such as `1234.5`")


def _read(match: re.Match[str], decimal: str) -> int | float:
    """The number in a match of one of the notations."""
    digits = match["digits"].replace(match["gap"] or decimal, "" if match["gap"] else ".").replace(",", ".")
    sign = -1 if match["sign"] in {"-", "\u2212"} else 1
    if digits.isdecimal():
        return sign * int(digits)
    result = sign * float(digits)
    if not math.isfinite(result):
        raise ValueError("it is too large")
    return result


def _integer(value: object) -> int:
    result = number(value)
    if result != int(result):
        raise ValueError("it has a fraction")
    return int(result)


def _date(value: object) -> str:
    """The day as `YYYY-MM-DD`; refuses what is incomplete or could be two days, such as `3/4/2026`."""
    days = set(finders.dates(text(value)))
    if len(days) != 1:
        raise ValueError("write one day as `YYYY-MM-DD`")
    return days.pop()


def _place(value: object) -> object:
    """A path without the quotes and spaces that models put around it."""
    if not isinstance(value, str):
        return value
    name = value.strip().strip("`'\"").strip()
    if not name.isprintable():
        raise ValueError("a path is one line of printable characters")
    return name


def _path(value: object) -> object:
    name = _place(value)
    if not name:
        raise ValueError("a path cannot be empty")
    return name


def _folder(value: object) -> object:
    name = _place(value)
    return "." if name == "" else name


def _url(value: object) -> object:
    if not isinstance(value, str):
        return value
    address = value.strip().strip("<>`'\"")
    if re.fullmatch(r"(?i)[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(/\S*)?", address):
        address = f"https://{address}"
    if not re.fullmatch(r"(?i)https?://[^\s/]+\S*", address):
        raise ValueError("an address looks like `https://example.org/page`")
    return address


def _email(value: object) -> object:
    address = text(value).strip()
    if finders.emails(address) != [address]:
        raise ValueError("an address looks like `name@example.org`")
    return address


def _iban(value: object) -> object:
    iban = re.sub(r"\s", "", text(value)).upper()
    if finders.ibans(iban) != [iban]:
        raise ValueError("its check digits do not fit")
    return iban


def _record(value: object) -> object:
    return _json(value) if isinstance(value, str) else value


def _word(value: object) -> object:
    return value if isinstance(value, bool) or not isinstance(value, int | float) else text(value)


# tables -----------------------------------------------------------------------------------------------------

_IS_NAME = re.compile(r"[-+]?0\d|\+|-?\d{16,}$")
"""Cells of digits that name something: leading zeros, phone numbers, more digits than a float keeps."""


def table(value: object) -> object:
    """Records from a list, one record, JSON text or CSV text. Raises `ValueError` if the text is no table."""
    match value:
        case dict():
            return [value]
        case str() if value.lstrip()[:1] in {"[", "{"}:
            parsed = _json(value)
            return [parsed] if isinstance(parsed, dict) else parsed
        case str():
            return _csv(value.lstrip("\ufeff"))
        case _:
            return value


def _csv(source: str) -> list[dict[str, Json]]:
    """The rows of CSV text with a header, separated by comma, semicolon or tab; numbers as numbers."""
    try:
        separator = max(",;\t", key=lambda mark: _fitness(_grid(source, mark, rows=50)))
        grid = _grid(source, separator)
    except csv.Error as error:
        raise ValueError(f"it is no CSV text ({error})") from None
    if not grid:
        return []
    header, rows = _header(grid[0]), grid[1:]
    if (not rows or len(header) == 1) and any(len(name.split()) > 5 for name in header):
        raise ValueError("it is plain text; a table has a line of column names first")
    for line, row in enumerate(rows, start=2):
        if len(row) > len(header):
            raise ValueError(f"row {line} has {len(row)} cells, but there are {len(header)} column names")
        row.extend([""] * (len(header) - len(row)))
    columns = [_column(cells) for cells in zip(*rows, strict=True)]
    return [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)]


def _grid(source: str, separator: str, *, rows: int | None = None) -> list[list[str]]:
    lines = csv.reader(io.StringIO(source, newline=""), delimiter=separator, skipinitialspace=True)
    cells = ([cell.strip() for cell in line] for line in islice(lines, rows))
    return [line for line in cells if any(line)]


def _fitness(grid: list[list[str]]) -> tuple[bool, bool, int]:
    """How well a separator fits: it splits the header, no row is longer than that, and it makes many columns."""
    columns = len(grid[0]) if grid else 0
    return columns > 1, all(len(row) <= columns for row in grid), columns


def _header(cells: list[str]) -> list[str]:
    """The column names, made unique; an empty one is `column_2`."""
    names: list[str] = []
    for position, cell in enumerate(cells, start=1):
        name = wanted = cell or f"column_{position}"
        repeat = 2
        while name in names:
            name, repeat = f"{wanted}_{repeat}", repeat + 1
        names.append(name)
    return names


def _column(cells: Sequence[str]) -> list[Json]:
    """The cells as numbers if all can be read in one notation, else as text; empty ones are null."""
    filled = [cell for cell in cells if cell]
    if filled and not any(_IS_NAME.match(cell) for cell in filled):
        for notation, decimal in _NOTATIONS:
            if all(notation.fullmatch(cell) for cell in filled):
                return [_read(m, decimal) if (m := notation.fullmatch(cell)) else None for cell in cells]
    return [cell or None for cell in cells]


_READINGS: dict[str, Callable[[object], object]] = {
    "text": text,
    "path": _path,
    "folder": _folder,
    "url": _url,
    "email": _email,
    "iban": _iban,
    "id": _word,
    "span": _word,
    "date": _date,
    "number": number,
    "integer": _integer,
    "record": _record,
    "table": table,
    "expression": _word,
}
