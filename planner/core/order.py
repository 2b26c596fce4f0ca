"""The order of effects: which calls must wait for which, by the resources they touch.

Rules of the file:
- Data gives the order of reads. An effect keeps plan order against every other call on the same or an unknown key.
- A key is `kind:name`; `file:docs/**` is `docs` and everything below it. Keys are compared without case and
  Unicode form, since file systems may do so: a false conflict only costs time.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Mapping
from typing import TypeAlias

from planner.core.catalog import Callee
from planner.core.labels import Json

Keys: TypeAlias = frozenset[str] | None
"""The resources a call touches; None: unknown, so perhaps all of them."""

NOTHING: frozenset[str] = frozenset()
HALTS = frozenset({"gate", "wait"})
"""The kinds of callees that hold up the effects behind them."""
_ARGUMENT = re.compile(r"\{(\w+)\}")


def keys(callee: Callee, arguments: Mapping[str, Json]) -> Keys:
    """The keys of a call with these arguments, resolved or not; None if one of them is not known yet."""
    if callee.declaration.effect == "pure":
        return NOTHING
    templates = callee.declaration.resource
    if templates is None:
        return None
    filled = [_filled(callee, template, arguments) for template in templates]
    known = [key for key in filled if key is not None]
    return frozenset(known) if len(known) == len(filled) else None


def _filled(callee: Callee, template: str, arguments: Mapping[str, Json]) -> str | None:
    kind, _, pattern = template.partition(":")
    values: dict[str, str] = {}
    for argument in _ARGUMENT.findall(pattern):
        parameter = callee.parameter(argument)
        value = arguments.get(argument, parameter.default if parameter else None)
        if not isinstance(value, str) or "$" in value:
            return None
        is_place = parameter is not None and parameter.type in {"path", "folder"}
        values[argument] = _normal(value) if is_place else value
        if is_place and values[argument].startswith(("/", "..")):
            return None  # it may lead back into the workspace, under another name
    name = _ARGUMENT.sub(lambda match: values[match[1]], pattern)
    key = f"{kind}:{posixpath.normpath(name) if kind == 'file' else name}"
    return unicodedata.normalize("NFC", key).casefold()


def _normal(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/").strip())


def may_conflict(first: Keys, second: Keys) -> bool:
    """Whether two calls may touch the same thing."""
    if NOTHING in (first, second):
        return False
    if first is None or second is None:
        return True
    return any(_meet(a, b) for a in first for b in second)


def _meet(a: str, b: str) -> bool:
    return a == b or _covers(a, b) or _covers(b, a)


def _covers(wide: str, narrow: str) -> bool:
    return wide.endswith("**") and f"{narrow}/".startswith(wide[:-2])


def must_keep_order(first: tuple[Callee, Keys], second: tuple[Callee, Keys]) -> bool:
    """Whether the later of two calls must wait for the earlier one.

    An approval or a wait stands between the effects before and behind it, whatever they touch.
    """
    (callee_a, keys_a), (callee_b, keys_b) = first, second
    is_halt_a, is_halt_b = callee_a.kind in HALTS, callee_b.kind in HALTS
    if is_halt_a or is_halt_b:
        return (is_halt_a or not callee_a.is_reading) and (is_halt_b or not callee_b.is_reading)
    both_read = callee_a.is_reading and callee_b.is_reading
    is_pure = "pure" in (callee_a.declaration.effect, callee_b.declaration.effect)
    return not both_read and not is_pure and may_conflict(keys_a, keys_b)
