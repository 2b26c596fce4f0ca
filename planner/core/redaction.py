"""Secrets taken out of whatever is kept or shown: one function over texts, JSON and events.

Rules of the file:
- A secret is known by its value, also where it is encoded, and `[secret NAME]` takes its place.
- Where nothing is found the very same value comes back; where there are no secrets nothing is looked at.
- What a secret was made into otherwise (reversed, hashed, spread over several values) cannot be known by it; what is
  put together from its parts later is found then.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin
from urllib.parse import quote, quote_plus

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from planner.core.labels import Json

T = TypeVar("T")

LEAST = 6
"""Characters of a secret: a shorter value stands in too many texts that have nothing to do with it."""
LONG_LINE = 16
"""Characters of one line of a secret of several lines, such as a private key, that is known by itself."""
_MARK = re.compile(r"\[secret \w+\]")


@dataclass(frozen=True)
class Redactor:
    """Takes secrets out; its representation shows none of them."""

    marks: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By each form that a secret may have, the longest first, what takes its place."""
    needles: tuple[bytes, ...] = field(default=(), repr=False)
    """The forms as they stand in JSON."""
    pattern: re.Pattern[str] = field(default=re.compile(r"(?!)"), repr=False)
    """Finds forms, and what took their place, which is left alone."""

    @classmethod
    def of(cls, secrets: Mapping[str, str]) -> Redactor:
        """For secrets by name. Values of fewer than `LEAST` characters are left alone."""
        found = {form: f"[secret {name}]" for name, value in secrets.items() for form in _forms(value.strip())}
        marks = {form: found[form] for form in sorted(found, key=len, reverse=True)}
        wanted = "|".join(map(re.escape, [*dict.fromkeys(marks.values()), *marks]))
        return cls(marks, tuple(map(_in_json, marks)), re.compile(wanted)) if marks else NO_SECRETS

    def text(self, said: str) -> str:
        """The text without secrets."""
        if not any(form in said for form in self.marks):
            return said
        return self.pattern.sub(lambda found: self.marks.get(found[0], found[0]), said)

    def clean(self, value: T) -> T:
        """The event, or the JSON value, without secrets in its texts and keys, or in place of a number."""
        if not self.marks or not self._is_suspect(value):
            return value
        return cast("T", self._walked(value, is_json=True))

    def _is_suspect(self, value: object) -> bool:
        try:
            said = to_json(value)
        except ValueError:  # it is no JSON, and whoever keeps it will say so
            return True
        return any(needle in said for needle in self.needles)

    def _walked(self, value: object, *, is_json: bool) -> object:
        match value:
            case str():
                return self.text(value)
            case BaseModel():
                return self._model(value)
            case Mapping():
                return {
                    self._walked(key, is_json=False): self._walked(v, is_json=is_json) for key, v in value.items()
                }
            case list() | tuple() | frozenset():
                return type(value)(self._walked(item, is_json=is_json) for item in value)
            case int() | float() if is_json and not isinstance(value, bool):
                return self.marks.get(str(value), value)
            case _:
                return value

    def _model(self, value: BaseModel) -> BaseModel:
        cleaned = {name: self._field(getattr(value, name), info) for name, info in type(value).model_fields.items()}
        changed = {name: part for name, part in cleaned.items() if part != getattr(value, name)}
        return value.model_copy(update=changed) if changed else value

    def _field(self, value: object, info: FieldInfo) -> object:
        if _is_closed(info.annotation):
            return value
        if isinstance(value, str) and any(getattr(rule, "pattern", None) for rule in info.metadata):
            return _as_identifier(self.text(value))
        return self._walked(value, is_json=Json in (info.annotation, *get_args(info.annotation)))


NO_SECRETS = Redactor()


def conceals(shown: Json, whole: Json) -> bool:
    """Whether `shown` is what `whole` may have become when secrets were taken out of it."""
    match shown, whole:
        case str(), str():
            return re.fullmatch(".+".join(map(re.escape, _MARK.split(shown))), whole, re.DOTALL) is not None
        case str(), int() | float():
            return _MARK.fullmatch(shown) is not None
        case list(), list():
            return len(shown) == len(whole) and all(map(conceals, shown, whole))
        case dict(), dict():
            return conceals([*shown, *shown.values()], [*whole, *whole.values()])
        case _:
            return shown == whole


def _is_closed(annotation: Any) -> bool:  # noqa: ANN401 - an annotation may be anything
    """Whether only words of the language stand there, of which none tells a secret."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        return all(part is type(None) or _is_closed(part) for part in get_args(annotation))
    return origin is Literal


def _as_identifier(text: str) -> str:
    """The text with `secret_name` instead of `[secret NAME]`, for what must be the name of a step or an item."""
    return _MARK.sub(lambda found: found[0][1:-1].lower().replace(" ", "_"), text)


def _in_json(form: str) -> bytes:
    """The form as pydantic writes it, and one that it would not write as nothing else is written."""
    return json.dumps(form, ensure_ascii=False)[1:-1].encode(errors="surrogatepass")


def _forms(value: str) -> Iterator[str]:
    """What a secret looks like: as it is, escaped, quoted and encoded."""
    if len(value) < LEAST:
        return
    raw = value.encode(errors="surrogateescape")
    escaped = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1])
    quoted = (quote(raw, safe=""), quote(raw), quote_plus(raw))
    yield from (value, html.escape(value), *escaped, *quoted, raw.hex(), raw.hex().upper())
    yield from (re.sub(r"%..", lambda found: found[0].lower(), text) for text in quoted)
    yield from (text for text in map(str.strip, value.splitlines()) if len(text) >= LONG_LINE and text[0] != "-")
    for text in _in_base64(raw):
        yield from (text, text.translate(str.maketrans("+/", "-_")))


def _in_base64(raw: bytes) -> Iterator[str]:
    """With its padding, and behind whatever else was encoded with it: three characters stand for three bytes."""
    yield base64.b64encode(raw).decode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        yield encoded[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]  # without what its neighbours have a part in
