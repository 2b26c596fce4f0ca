"""Plans and values that people bring along: files in YAML or JSON, and `name=value` on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from planner.core.labels import Json
from planner.core.plan import Plan
from planner.errors import UserError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1_000_000
"""A plan has at most 500 steps; data belongs into files of the workspace."""
FIRST = 3
"""Faults told at once; the others are most often consequences."""


def read(path: Path) -> Plan:
    """The plan in a file, as YAML, of which JSON is a part.

    Raises `UserError` U-450 if the file cannot be read, U-451 if it is no YAML, U-452 if it is no plan.
    """
    text = _text(path)
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        what = error.problem or error.context or "it cannot be read"
        raise UserError("U-451", f"{where}: {what}", hint=_YAML_HINT) from error
    except yaml.YAMLError as error:
        raise UserError("U-451", f"{path}: {error}", hint="Save it as plain text.") from error
    if not isinstance(value, dict):
        what = f"{path} holds {_kind(value)}, not a plan"
        raise UserError("U-452", what, hint="A plan is an object with `steps`, and perhaps `inputs` and `answer`.")
    try:
        return Plan.model_validate(_plain(value))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        told = [_fault(path, root, fault["loc"], fault["msg"]) for fault in faults[:FIRST]]
        more = f" (and {len(faults) - FIRST} more)" if len(faults) > FIRST else ""
        raise UserError("U-452", "; ".join(told) + more, hint=_PLAN_HINT) from error


_YAML_HINT = "Quote texts that begin with a sign or hold a colon; indent with spaces."
_PLAN_HINT = "The fields of a plan stand in docs/architecture.md, The plan language."


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"the plan {path} cannot be read: {error.strerror}"
        raise UserError("U-450", what, hint="Name a file in YAML or JSON.", error_class="missing") from error
    if len(data) > MAX_BYTES:
        raise UserError(
            "U-450", f"the plan {path} has {len(data):,} bytes, more than {MAX_BYTES:,}", hint="Shorten it."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the plan {path} is not UTF-8 text (byte {error.start})"
        raise UserError("U-450", what, hint="Convert it first.") from error


def _plain(value: object) -> Json:
    """The value as JSON: YAML reads dates as dates, and numbers as keys."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _kind(value: object) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else "a single value"


def _fault(path: Path, root: yaml.Node | None, place: tuple[int | str, ...], message: str) -> str:
    """`plan.yaml, line 4, steps[1].retry: Extra inputs are not permitted`."""
    number = 1 if root is None else _line(root, place)
    names = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    what = _WORDS.get(message.partition(" pattern")[0], message.removeprefix("Value error, "))
    return f"{path}, line {number}, {names or 'the plan'}: {what}"


_WORDS: Mapping[str, str] = {
    "Extra inputs are not permitted": "there is no such field",
    "Field required": "it is missing",
    "String should match": "it is lower-case letters, digits and `_`, with a letter first",
}


def _line(node: yaml.Node, place: tuple[int | str, ...]) -> int:
    """The line of what stands at that place, or of the nearest thing around it that is there."""
    import yaml

    number = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                return number
            number, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            number = node.start_mark.line + 1
    return number


def changed(changes: Iterable[str], inputs: Mapping[str, Json]) -> dict[str, Json]:
    """The values of `name=value`: as JSON where they are, else as text; text stays text where the plan has one.

    Raises `UserError` U-453 for what has no name.
    """
    result: dict[str, Json] = {}
    for change in changes:
        name, sign, text = change.partition("=")
        if not sign or not name.strip():
            what = f"`--with {change}` does not say which input gets which value"
            raise UserError("U-453", what, hint="Write it as `--with name=value`.")
        name = name.strip()
        result[name] = text if isinstance(inputs.get(name), str) else _value(text)
    return result


def _value(text: str) -> Json:
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value
