"""Lists: sort, unique, join, count. A text is read as the list of its lines."""

from __future__ import annotations

from typing import Literal

from planner.coercion import number, text
from planner.tools import Json, tool


@tool(effect="pure", keywords=("order", "alphabetical", "alphabetically", "lines", "rank", "ascending", "descending"))
def sort(items: list[Json], order: Literal["ascending", "descending"] = "ascending") -> list[Json]:
    """Sort items: numbers by size, other items by name."""
    is_down = order == "descending"
    try:
        return sorted(items, key=number, reverse=is_down)
    except ValueError:
        return sorted(items, key=_name, reverse=is_down)


def _name(item: Json) -> str:
    return "" if item is None else text(item).casefold()


@tool(effect="pure", keywords=("duplicates", "distinct", "remove", "deduplicate", "different", "once", "lines"))
def unique(items: list[Json]) -> list[Json]:
    """Drop repeated items, keeping the first of each."""
    seen: dict[str, Json] = {}
    for item in items:
        seen.setdefault(f"{type(item).__name__} {text(item) if item is not None else ''}", item)
    return list(seen.values())


@tool(effect="pure", keywords=("combine", "concatenate", "merge", "together", "comma", "line"))
def join(items: list[str], separator: str = ", ") -> str:
    """Join items into one text with a separator between them."""
    return separator.join(items)


@tool(effect="pure", keywords=("how", "many", "number", "length", "files", "items"))
def count(items: list[Json]) -> int:
    """Count the items of a list."""
    return len(items)
