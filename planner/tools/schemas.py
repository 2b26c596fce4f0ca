"""The JSON schema of a function's arguments, as the parameters of a tool.

Rules of the file:
- A schema is read for the types that the plan language has words for; what it says beyond that, such as ranges,
  is for the tool itself to check.
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.core.catalog import Parameter
from planner.core.labels import Json

_FORMATS = {"email": "email", "uri": "url", "date": "date"}
_PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "object": "record"}


def parameters(schema: Mapping[str, Json]) -> tuple[Parameter, ...]:
    """The properties of an object's schema, in their order; what it does not require may be left out."""
    properties, required = schema.get("properties"), schema.get("required")
    named = properties if isinstance(properties, dict) else {}
    needed = required if isinstance(required, list) else []
    return tuple(_parameter(name, field, required=name in needed) for name, field in named.items())


def _parameter(name: str, field: Json, *, required: bool) -> Parameter:
    said = _core(field)
    return Parameter(
        name=name,
        type=_word(said),
        required=required,
        default=_of(field, "default"),
        description=str(_of(field, "description") or ""),
        choices=_choices(said),
    )


def _of(field: Json, key: str) -> Json:
    return field.get(key) if isinstance(field, dict) else None


def _core(field: Json) -> Json:
    """What the field is where it is not null: of `anyOf` the one alternative that is left."""
    either = _of(field, "anyOf") or _of(field, "oneOf")
    rest = [one for one in either if _of(one, "type") != "null"] if isinstance(either, list) else []
    return rest[0] if len(rest) == 1 else field


def _choices(field: Json) -> tuple[str, ...]:
    options = _of(field, "enum")
    is_closed = isinstance(options, list) and options and all(isinstance(one, str) for one in options)
    return tuple(map(str, options)) if is_closed and isinstance(options, list) else ()


def _word(field: Json) -> str:
    """The type of the plan language; `any` where it has no word for what the schema says."""
    said, form = _of(field, "type"), _of(field, "format")
    types = [one for one in said if one != "null"] if isinstance(said, list) else [said]
    match types:
        case ["string"]:
            return _FORMATS.get(str(form), "text")
        case ["array"]:
            return f"list[{_word(_core(_of(field, 'items')))}]"
        case [str() as one]:
            return _PLAIN.get(one, "any")
        case _:
            return "any"
