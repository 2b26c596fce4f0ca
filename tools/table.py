"""Tables: columns, filter, sort, aggregate, group, top, csv. A table is a list of records; CSV text is read as one.

Plain Python, for a cell is any JSON value and a row keeps the fields that it came with; what libraries of tables
make of that was measured (`docs/decisions/008-tables.md`).
"""

from __future__ import annotations

import csv as comma_separated
import io
import operator as compare
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from planner.coercion import number, text
from planner.errors import ToolError
from planner.tools import Json, Number, Record, Table, tool

Rows: TypeAlias = list[dict[str, Json]]
Function: TypeAlias = Literal["sum", "mean", "min", "max", "count"]
Operator: TypeAlias = Literal["=", "!=", ">", ">=", "<", "<=", "contains"]

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": compare.gt,
    ">=": compare.ge,
    "<": compare.lt,
    "<=": compare.le,
}


@tool(effect="pure", keywords=("header", "fields", "names"))
def columns(table: Table) -> list[str]:
    """List the column names of a table."""
    return _names(table)


@tool(
    effect="pure",
    keywords=("csv", "rows", "where", "only", "select", "keep", "more", "less", "than", "above", "below"),
)
def filter_(table: Table, column: str, operator: Operator, value: str) -> Table:
    """Keep the rows whose column =, >, < or contains a value."""
    name = _column(table, column)
    fits = _test(operator, value)
    return [row for row in table if fits(row.get(name))]


@tool(effect="pure", keywords=("order", "rank", "by", "descending", "ascending", "rows"))
def sort(table: Table, column: str, order: Literal["ascending", "descending"] = "ascending") -> Table:
    """Sort the rows by a column."""
    name = _column(table, column)
    known = [row for row in table if row.get(name) is not None]
    unknown = [row for row in table if row.get(name) is None]
    key = _key(row[name] for row in known)
    return sorted(known, key=lambda row: key(row[name]), reverse=order == "descending") + unknown


@tool(
    effect="pure",
    keywords=("csv", "total", "add", "average", "minimum", "maximum", "how", "many", "highest", "lowest"),
)
def aggregate(table: Table, column: str, function: Function = "sum") -> Number:
    """Sum, mean, min, max or count of a column."""
    return _aggregated(table, _column(table, column), function)


@tool(effect="pure", keywords=("csv", "per", "each", "by", "category", "total", "average", "count", "summarize"))
def group(table: Table, by: str, column: str = "", function: Function = "sum") -> Table:
    """Sum, mean, min, max or count of a column per group."""
    key = _column(table, by)
    name = key if function == "count" else _column(table, column or _only_number(table, key))
    groups: dict[str, Rows] = {}
    for row in table:
        groups.setdefault(_plain_text(row.get(key)), []).append(row)
    if name == key:
        return [{key: rows[0].get(key), "count": len(rows)} for rows in groups.values()]
    return [{key: rows[0].get(key), name: _aggregated(rows, name, function)} for rows in groups.values()]


@tool(
    effect="pure",
    keywords=(
        "csv",
        "cheapest",
        "expensive",
        "biggest",
        "longest",
        "shortest",
        "oldest",
        "worst",
        "highest",
        "lowest",
        "largest",
        "smallest",
        "most",
        "least",
        "maximum",
        "best",
        "row",
    ),
)
def top(table: Table, column: str, order: Literal["highest", "lowest"] = "highest") -> Record:
    """The row with the highest or lowest value in a column."""
    name = _column(table, column)
    rows = [row for row in table if row.get(name) is not None]
    if not rows:
        raise ToolError("T-412", f"column `{name}` has no values", error_class="missing")
    key = _key(row[name] for row in rows)
    return (max if order == "highest" else min)(rows, key=lambda row: key(row[name]))


@tool(effect="pure", keywords=("convert", "export", "spreadsheet", "save", "format"))
def csv(table: Table) -> str:
    """Turn a table into CSV text."""
    names = _names(table)
    buffer = io.StringIO(newline="")
    writer = comma_separated.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in table:
        writer.writerow(["" if row.get(name) is None else text(row[name]) for name in names])
    return buffer.getvalue() if names else ""


def _only_number(table: Rows, key: str) -> str:
    """The one column of numbers beside `key`, which needs no naming."""
    names = [n for n in _names(table) if n != key and any(_number(row.get(n)) is not None for row in table)]
    if len(names) != 1:
        what = f"groups by `{key}` need a column to calculate with"
        raise ToolError("T-413", what, hint="Give `column`.", error_class="invalid")
    return names[0]


def _names(table: Rows) -> list[str]:
    """The names of all columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in table for name in row))


def _column(table: Rows, wanted: str) -> str:
    """The column that is meant: by its name, else without regard to case, spaces and underscores."""
    names = _names(table)
    if wanted in names:
        return wanted
    alike = [name for name in names if _plain(name) == _plain(wanted)]
    if len(alike) != 1:
        shown = ", ".join(f"`{name}`" for name in names[:20]) or "none"
        what = f"there is no column `{wanted}`; there are {shown}"
        raise ToolError("T-411", what, error_class="missing")  # names of columns are data, so they are no choices
    return alike[0]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _test(operator: Operator, value: str) -> Callable[[Json], bool]:
    """The comparison of a cell with `value`; texts are compared without regard to case."""
    wanted, amount = value.strip().casefold(), _number(value)
    match operator:
        case "=":
            return lambda cell: _is_equal(cell, wanted, amount)
        case "!=":
            return lambda cell: not _is_equal(cell, wanted, amount)
        case "contains":
            return lambda cell: wanted in _plain_text(cell)
        case _:
            return lambda cell: _is_in_order(_ORDER[operator], cell, wanted, amount)


def _is_equal(cell: Json, wanted: str, amount: Number | None) -> bool:
    """Whether a cell is the value; `007` is not `7`, for a cell of text is no number."""
    if isinstance(cell, int | float) and not isinstance(cell, bool) and amount is not None:
        return cell == amount
    return _plain_text(cell) == wanted


def _is_in_order(holds: Callable[[Any, Any], bool], cell: Json, wanted: str, amount: Number | None) -> bool:
    """Whether the order holds, of numbers if the value is one; an empty cell is in no order."""
    if cell is None:
        return False
    if amount is None:
        return holds(_plain_text(cell), wanted)
    number_ = _number(cell)
    return number_ is not None and holds(number_, amount)


def _plain_text(cell: Json) -> str:
    return "" if cell is None else text(cell).strip().casefold()


def _number(value: Json) -> Number | None:
    """The number that a cell holds or writes; None if it is none."""
    try:
        return number(value)
    except ValueError:
        return None


def _key(cells: Iterable[Json]) -> Callable[[Json], tuple[Number, str]]:
    """The order of a column: as numbers if all its cells are, else as texts without regard to case."""
    if all(_number(cell) is not None for cell in cells):
        return lambda cell: (number(cell), "")
    return lambda cell: (0, _plain_text(cell))


def _aggregated(rows: Rows, name: str, function: Function) -> Number:
    cells = [row[name] for row in rows if row.get(name) is not None]
    if function == "count":
        return len(cells)
    numbers = [_number(cell) for cell in cells]
    known = [n for n in numbers if n is not None]
    if len(known) < len(cells):
        example = cells[numbers.index(None)]
        what = f"column `{name}` holds `{text(example):.40}`, which is no number"
        raise ToolError("T-413", what, error_class="invalid", hint="Choose a column of numbers, or `count`.")
    if not known and function != "sum":
        raise ToolError("T-412", f"column `{name}` has no values", error_class="missing")
    match function:
        case "sum":
            return _total(known)
        case "mean":
            return _neat(Decimal(repr(_total(known))) / len(known))
        case "min":
            return min(known)
        case "max":
            return max(known)


def _total(numbers: Iterable[Number]) -> Number:
    """The sum, exact for the decimal digits that are written: 0.1 and 0.2 are 0.3."""
    return _neat(sum((Decimal(repr(n)) for n in numbers), Decimal(0)))


def _neat(value: Decimal) -> Number:
    return int(value) if value == value.to_integral_value() else float(value)
