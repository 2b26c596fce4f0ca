"""`planner.toml` read, and what is wrong with it said.

Rules of the file:
- The environment is an argument, so a test or an embedder can give its own.
- A wrong setting is refused with its file, line and key. Nothing is ignored and nothing is guessed.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from planner.config.folders import FILE
from planner.config.settings import Config, Export, Limits
from planner.core.catalog import Effect
from planner.core.policy import Policy
from planner.errors import UserError

Key: TypeAlias = tuple[str | int, ...]
"""Where a setting stands: table names, keys and indexes."""


def load(folder: Path, environ: Mapping[str, str]) -> Config:
    """The settings of the assistant in `folder`.

    Raises `UserError` U-101 for a file that cannot be read, U-102 for one that is not TOML, and U-103 with
    one line per wrong setting.
    """
    path = folder / FILE
    text = _read(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError("U-102", f"{path} is not TOML: {error}", hint="Correct that line.") from error
    # By way of JSON, where strictness still lets a list be a tuple; a date becomes its text.
    document = json.dumps(table, default=str)
    try:
        config = Config.model_validate_json(document, strict=True)
    except ValidationError as error:
        problems = [(problem["loc"], _explained(problem)) for problem in error.errors(include_url=False)]
        raise _refused(path, text, problems) from None
    if problems := [*_policy_problems(config.policy, table), *_limit_problems(config.limits)]:
        raise _refused(path, text, problems)
    return _with_environment(config, environ)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError("U-101", f"{path} cannot be read: {reason}", error_class="missing") from error


def _with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """The environment speaks for the machine and wins over the file, which may have come from elsewhere."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        endpoint = None
    else:
        endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or config.telemetry.endpoint
    try:
        export = Export(endpoint=endpoint, content=config.telemetry.content)
    except ValidationError:
        raise UserError(
            "U-104",
            f"OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint!r}, but should be an address such as http://host:4318",
            hint="Correct the variable or unset it.",
        ) from None
    return config.model_copy(update={"telemetry": export})


def _policy_problems(policy: Policy, table: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """What the types cannot say: a rule that never matches or cannot be told apart protects nobody."""
    if "version" in table.get("policy", {}):
        yield ("policy", "version"), "`policy.version` is made from the rules; remove it"
    seen = Counter[str]()
    for index, rule in enumerate(policy.rules):
        seen[rule.id] += 1
        if seen[rule.id] > 1:
            yield ("policy", "rules", index, "id"), f"`policy.rules` has two rules with the id `{rule.id}`"
        if not any(fnmatchcase(effect, rule.effect) for effect in get_args(Effect)):
            text = f"`{rule.effect}` of rule `{rule.id}` matches no effect"
            yield ("policy", "rules", index, "effect"), text + _choices(rule.effect, get_args(Effect))


def _limit_problems(limits: Limits) -> Iterator[tuple[Key, str]]:
    """A limit of what can be no callee limits nothing."""
    for name in limits.agents:
        if not name.startswith("agent."):
            yield ("limits", "agents", name), f"`{name}` is no agent; did you mean `agent.{name}`?"
    for pattern in limits.concurrency:
        if pattern != "total" and not set(pattern) & set(".*?["):
            yield ("limits", "concurrency", pattern), f"`{pattern}` matches no callee; did you mean `{pattern}.*`?"


# ---- saying what is wrong ----------------------------------------------------------------------------------


def _refused(path: Path, text: str, problems: Sequence[tuple[Key, str]]) -> UserError:
    lines = _lines(text, [key for key, _ in problems])
    told = sorted(zip(lines, (problem for _, problem in problems), strict=True))
    return UserError("U-103", "\n".join(f"{path}:{line}: {problem}" for line, problem in told))


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explained(problem: ErrorDetails) -> str:
    key, kind, message = problem["loc"], problem["type"], problem["msg"]
    name = f"`{_dotted(key)}`"
    if kind == "extra_forbidden":
        return f"{name} is not a setting" + _choices(str(key[-1]), _settings(key[:-1]))
    if kind == "missing":
        return f"{name} is missing"
    expected = message.replace("Input should be", "it should be").replace("an object", "a table")
    # A person may have put the secret itself where its name belongs.
    given = "wrong" if key[0] == "secrets" else _short(problem["input"])
    return f"{name} is {given}: {expected[0].lower()}{expected[1:]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _choices(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"


def _settings(key: Key) -> list[str]:
    """The settings of the table at `key`."""
    kind: Any = Config
    for part in key:
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[part].annotation if is_model else _inside(kind)
    return sorted(next(part for part in (kind, *get_args(kind)) if hasattr(part, "model_fields")).model_fields)


def _inside(kind: Any) -> Any:  # noqa: ANN401 - an annotation may be anything
    """What a tuple or a mapping holds."""
    return next(part for part in reversed(get_args(kind)) if part is not ...)


def _lines(text: str, keys: Sequence[Key]) -> list[int]:
    """The line on which each setting begins; for one that is not there, its nearest table.

    `tomllib` keeps no lines, so the real parser reads ever longer beginnings of the file: a setting begins
    on the line after the last readable beginning that lacks it. Slow and exact, and only for errors.
    """
    whole = tomllib.loads(text)
    wanted = [_longest(whole, key) for key in keys]
    found: dict[Key, int] = {(): 1}
    lines, start = text.split("\n"), 1
    for end in range(1, len(lines) + 1):
        table = _beginning("\n".join(lines[:end]))
        if table is None:
            continue  # in the middle of a value
        found.update({key: start for key in wanted if key not in found and _longest(table, key) == key})
        start = end + 1
    return [found[key] for key in wanted]


def _beginning(text: str) -> dict[str, Any] | None:
    for closing in ("", "\n]"):  # the second for a list over several lines
        try:
            return tomllib.loads(text + closing)
        except tomllib.TOMLDecodeError:
            continue
    return None


def _longest(table: Mapping[str, Any], key: Key) -> Key:
    """The longest beginning of `key` that the table holds."""
    value: Any = table
    for depth, part in enumerate(key):
        match value, part:
            case dict(), str() if part in value:
                value = value[part]
            case list(), int() if part < len(value):
                value = value[part]
            case _:
                return key[:depth]
    return key
