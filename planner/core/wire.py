"""The plan as models write it: a JSON schema fitted to the model, and the reading of its answer.

Rules of the file:
- Three renderings. `grammar`: a local server enforces everything, one branch per callee with its own argument
  names, paths limited to what the goal names or to references. `strict`: providers with strict schemas; flat, no
  recursion, no optionals, no unions, since providers cap them. `plain`: no schema at all.
- Every argument is written as text and typed later. The checker, never the schema, is the guarantee.
- Keys stand in the order in which a model should think: which step, over what, when, which callee, with what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias, assert_never

from pydantic import ValidationError

from planner.core.catalog import Callee, Parameter, item_type, signature
from planner.core.check import Problem
from planner.core.expr import names
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan, Step

Rendering: TypeAlias = Literal["grammar", "strict", "plain"]

MAX_WIRE_STEPS = 9
"""A brake for small models, which otherwise repeat steps until the answer is cut off."""
MAX_TEXT = 240
MAX_HEIGHT = 100
"""How deep an answer may be nested; events of more than about 190 levels could not be read back."""
_REFERENCE = r"\$(?:s[0-9]+|item)(?:\.[a-z_]+|\[[0-9]+\])*"
_WITH_REFERENCE = r"[A-Za-z0-9_./-]{0,30}\$\{(?:s[0-9]+|item)[^\"{}\\]{0,40}\}[A-Za-z0-9_.-]{0,20}"


def schema(
    rendering: Rendering,
    callees: Sequence[Callee],
    found: Iterable[Named] = (),
    *,
    undoable: Sequence[str] = (),
    may_go_on: bool = False,
) -> Json:
    """The JSON schema for an answer over `callees`; None when the model gets no schema.

    `undoable` are the finished steps that the answer may take back; `may_go_on`: whether it may say what comes then.
    """
    match rendering:
        case "grammar":
            names = tuple(dict.fromkeys(item.text for item in found if item.kind in {"path", "folder"}))
            step: Json = {"anyOf": [_branch(callee, names) for callee in callees]}
            answer: Json = _text()
        case "strict":
            step = _object(
                {
                    "id": {"type": "string"},
                    "for_each": {"type": "string"},
                    "if": {"type": "string"},
                    "use": {"type": "string", "enum": [callee.name for callee in callees]},
                    "args": {
                        "type": "array",
                        "items": _object({"name": {"type": "string"}, "value": {"type": "string"}}),
                    },
                }
            )
            answer = {"type": "string"}
        case "plain":
            return None
        case _:
            assert_never(rendering)
    steps: dict[str, Json] = {"type": "array", "items": step}
    if rendering == "grammar":
        steps |= {"minItems": 1, "maxItems": MAX_WIRE_STEPS}
    taken_back: Json = {"type": "array", "items": {"enum": list(undoable)}}
    before: dict[str, Json] = {"undo": taken_back} if undoable else {}
    after: dict[str, Json] = {"then": {"enum": ["done", "plan"]}} if may_go_on else {}
    return _object({**before, "steps": steps, "answer": answer, **after})


def _object(properties: Mapping[str, Json], *, optional: frozenset[str] = frozenset()) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _text(limit: int = MAX_TEXT) -> Json:
    return {"type": "string", "maxLength": limit}


def _branch(callee: Callee, names: tuple[str, ...]) -> Json:
    """One step that uses `callee`; `for_each` and `if` may be left out."""
    args = {p.name: _argument(p, names) for p in callee.parameters if p.is_offered}
    optional = frozenset(p.name for p in callee.parameters if not p.required)
    return _object(
        {
            "id": {"type": "string", "pattern": r"^s[0-9]{1,2}$"},
            "for_each": {"type": "string", "pattern": rf"^{_REFERENCE}$"},
            "if": _text(120),
            "use": {"const": callee.name},
            "args": _object(args, optional=optional),
        },
        optional=frozenset({"for_each", "if"}),
    )


def _argument(parameter: Parameter, names: tuple[str, ...]) -> Json:
    if parameter.choices:
        return {"enum": list(parameter.choices)}
    if parameter.type in {"path", "folder"} and names:
        if parameter.type == "folder":
            return {
                "anyOf": [
                    {"enum": list(dict.fromkeys([*names, "."]))},
                    {"type": "string", "pattern": f"^{_REFERENCE}$"},
                ]
            }
        reference: Json = {"type": "string", "pattern": f"^(?:{_REFERENCE}|{_WITH_REFERENCE})$"}
        return {"anyOf": [{"enum": list(names)}, reference]}
    if item_type(parameter.type) in {"text", "any"}:
        items: Json = {"type": "array", "items": _text(60), "minItems": 1, "maxItems": 12}
        return {"anyOf": [items, {"type": "string", "pattern": f"^{_REFERENCE}$"}]}
    return _text()


def parse(text: str, catalogue: Mapping[str, Callee]) -> Plan | tuple[Problem, ...]:
    """The plan in a model's answer, in any of the three renderings; else what is wrong with the answer."""
    try:
        answer = _kept(_object_in(text.strip()))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        shown = text.strip()[:60].encode(errors="replace").decode()
        return (Problem(code="P-101", message=f"the answer is not JSON ({reason}): `{shown}`"),)
    raw_steps = answer.get("steps") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(raw_steps, list):
        return (Problem(code="P-102", message='the answer must be an object {"steps": [...], "answer": ...}'),)
    steps: list[Step] = []
    problems: list[Problem] = []
    for index, raw in enumerate(raw_steps, start=1):
        step = _step(raw, index, catalogue)
        if isinstance(step, Problem):
            problems.append(step)
        else:
            steps.append(step)
    if problems:
        return tuple(problems)
    try:
        said = {"answer": answer.get("answer") or None, "undo": answer.get("undo") or ()}
        return Plan.model_validate({"steps": tuple(steps), **said, "then": answer.get("then") or "done"})
    except ValidationError as error:
        return (Problem(code="P-103", message=_brief(error)),)


def _step(raw: Json, index: int, catalogue: Mapping[str, Callee]) -> Step | Problem:
    if not isinstance(raw, dict):
        return Problem(code="P-102", message=f"step {index} must be an object, not `{raw!r:.40}`")
    fields: dict[str, Json] = {key: value for key, value in raw.items() if value not in (None, "")}
    fields.setdefault("id", f"s{index}")
    args = fields.get("args", {})
    if isinstance(args, list):
        args = {str(a["name"]): a.get("value") for a in args if isinstance(a, dict) and "name" in a}
    if isinstance(args, dict):
        callee = catalogue.get(str(fields.get("use")))
        fields["args"] = {name: _typed(_plain_reference(value), callee, name) for name, value in args.items()}
    if isinstance(fields.get("if"), str):
        fields["if"] = _bare(str(fields["if"]))
    try:
        return Step.model_validate(fields)
    except ValidationError as error:
        return Problem(code="P-103", message=f"step {index}: {_brief(error)}", step=str(fields["id"]))


def _plain_reference(value: Json) -> Json:
    """`${s1}` as `$s1`: the same value, but of a known type."""
    reference = r"\s*\$\{\s*([a-z_]\w*(?:\.[a-z_]\w*|\[\d+\])*)\s*\}\s*"
    match = re.fullmatch(reference, value) if isinstance(value, str) and names(value) else None
    return f"${match[1]}" if match else value


def _typed(value: Json, callee: Callee | None, name: str) -> Json:
    """An argument written as text, as the type its parameter has."""
    parameter = callee.parameter(name) if callee else None
    if not isinstance(value, str) or parameter is None:
        return value
    text = value.strip()
    match parameter.type:
        case "number" | "integer" if re.fullmatch(r"-?[0-9]{1,15}", text):
            return int(text)
        case "number" if re.fullmatch(r"-?[0-9]{0,15}\.[0-9]{1,15}", text):
            return float(text)
        case "boolean" if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        case "any" | "record" | "table" if text[:1] in {"{", "["}:
            return _json_or_text(value)
        case type_ if type_.startswith("list[") and text.startswith("["):
            return _json_or_text(value)
        case _:
            return value


def _json_or_text(value: str) -> Json:
    try:
        return _kept(json.loads(value))
    except (ValueError, RecursionError):
        return value


def _kept(value: Json) -> Json:
    """The value, if the journal can hold it. Raises `ValueError` for `NaN`, half of a character, or a deep nest."""
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if _height(value) > MAX_HEIGHT:
        raise ValueError(f"nested deeper than {MAX_HEIGHT}")
    return value


def _height(value: Json) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_height, inside), default=0)


def _object_in(text: str) -> Json:
    """The first object in a text that has steps, be it in a Markdown fence or amid talk. Raises `ValueError`."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        with suppress(ValueError, RecursionError):
            found: dict[str, Json] = decoder.raw_decode(text, match.start())[0]
            if "steps" in found:
                return found
    first: Json = decoder.raw_decode(text, max(0, text.find("{")))[0]
    return first


def _bare(condition: str) -> str:
    """A condition without the marks that belong to text: `${s1 > 3}` and `${s1} > 3` both mean `s1 > 3`."""
    one = re.fullmatch(r"\s*\$\{([^{}]*)\}\s*", condition)
    bare = one[1] if one else re.sub(r"\$\{([^{}]*)\}", r"(\1)", condition)
    whole = re.fullmatch(r"\s*\$\{(.*)\}\s*", bare, re.DOTALL)
    return whole[1] if whole else bare


def _brief(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"`{place}`: {first['msg']}"


def describe(callees: Iterable[Callee]) -> str:
    """The catalogue as a planner reads it: one line per callee."""
    return "\n".join(signature(callee) for callee in callees)
