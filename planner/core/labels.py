"""How far a value can be trusted, where it came from, and who may read it.

Rules of the file:
- A label only ever falls by joining; raising one happens at the few places that `policy` names.
- Labels hold per leaf and stand beside the value, so they survive JSON, the journal and a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer

Json: TypeAlias = JsonValue
Path: TypeAlias = tuple[str | int, ...]
"""Steps into a JSON value: keys and indexes; in a pattern `*` stands for every index of a list."""


class Frozen(BaseModel):
    """The shape of every value here: immutable, and closed against unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other fields, and without what was kept of properties that follow from them."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Integrity(IntEnum):
    """Who may have chosen the characters of a value."""

    UNTRUSTED = 0
    """An outsider may have written them."""
    BOUNDED = 1
    """An outsider may have picked among legitimate values, but cannot have added one."""
    TRUSTED = 2
    """The principal's own words, a plan made from trusted input, or the operator."""


def _sorted(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


Names = Annotated[frozenset[str], PlainSerializer(_sorted)]
Readers = Annotated[frozenset[str] | None, PlainSerializer(_sorted)]


class Label(Frozen):
    """What is known about a leaf: its integrity, its `sources`, and its `readers` (`None`: anyone)."""

    integrity: Integrity = Integrity.TRUSTED
    sources: Names = frozenset()
    readers: Readers = None

    def joined(self, other: Label) -> Label:
        """The label of something made from both: least integrity, all sources, common readers."""
        if self == other:
            return self
        if self.readers is None or other.readers is None:
            common = other.readers if self.readers is None else self.readers
        else:
            common = self.readers & other.readers
        return Label(
            integrity=min(self.integrity, other.integrity),
            sources=self.sources | other.sources,
            readers=common,
        )

    def capped(self, ceiling: Integrity) -> Label:
        """This label with at most `ceiling` integrity."""
        return self if self.integrity <= ceiling else self.model_copy(update={"integrity": ceiling})

    def from_source(self, source: str) -> Label:
        """This label with one more source."""
        return self.model_copy(update={"sources": self.sources | {source}})


TRUSTED = Label()
BOUNDED = Label(integrity=Integrity.BOUNDED)
UNTRUSTED = Label(integrity=Integrity.UNTRUSTED)


def join(labels: Iterable[Label], *, start: Label = TRUSTED) -> Label:
    """The join of all `labels`; of none: `start`, the neutral element."""
    result = start
    for label in labels:
        result = result.joined(label)
    return result


class Labelled(Frozen):
    """A JSON value with the label of every leaf.

    `label` holds for each leaf that no entry of `leaves` names; the last matching pattern wins.
    """

    value: Json = None
    label: Label = TRUSTED
    leaves: tuple[tuple[Path, Label], ...] = Field(default=())

    def overall(self) -> Label:
        """The join over the whole value."""
        return join((label for _, label in self.leaves), start=self.label)

    def capped(self, ceiling: Integrity) -> Labelled:
        """The same value with every leaf at most at `ceiling`."""
        leaves = tuple((path, label.capped(ceiling)) for path, label in self.leaves)
        return self.model_copy(update={"label": self.label.capped(ceiling), "leaves": leaves})

    def joined(self, other: Label) -> Labelled:
        """The same value with every leaf joined with that label."""
        leaves = tuple((path, label.joined(other)) for path, label in self.leaves)
        return self.model_copy(update={"label": self.label.joined(other), "leaves": leaves})

    def at(self, path: Path) -> Labelled:
        """The part at `path`, with its labels. Raises `KeyError` if there is none."""
        value = descend(self.value, path)
        label = self.label
        inside: list[tuple[Path, Label]] = []
        for pattern, leaf in self.leaves:
            head = pattern[: len(path)]
            if not _matches(head, path[: len(head)]):
                continue
            if len(pattern) <= len(path):
                label, inside = leaf, []
            else:
                inside.append((pattern[len(path) :], leaf))
        return Labelled(value=value, label=label, leaves=tuple(inside))


def descend(value: Json, path: Path) -> Json:
    """The part of `value` at `path`. Raises `KeyError` naming the first part that is not there."""
    for part in path:
        match value, part:
            case dict(), str() if part in value:
                value = value[part]
            case list(), int() if 0 <= part < len(value):
                value = value[part]
            case _:
                raise KeyError(part)
    return value


def _matches(pattern: Path, path: Path) -> bool:
    """A key `*` of a record stands for itself only, else whoever may choose keys could relabel their neighbours."""
    return len(pattern) == len(path) and all(
        wanted == given or (wanted == "*" and isinstance(given, int))
        for wanted, given in zip(pattern, path, strict=True)
    )


def gather(parts: Mapping[str, Labelled] | list[Labelled]) -> Labelled:
    """A dict or list of labelled values as one labelled value that keeps each leaf's label."""
    items: list[tuple[str | int, Labelled]] = (
        list(parts.items()) if isinstance(parts, Mapping) else list(enumerate(parts))
    )
    leaves: list[tuple[Path, Label]] = []
    for key, part in items:
        leaves.append(((key,), part.label))
        leaves.extend(((key, *path), label) for path, label in part.leaves)
    if len({label for _, label in leaves}) == 1:
        label, leaves = leaves[0][1], []
    else:
        label = TRUSTED
    value: Json = (
        {str(key): part.value for key, part in items}
        if isinstance(parts, Mapping)
        else [part.value for _, part in items]
    )
    return Labelled(value=value, label=label, leaves=tuple(leaves))


def leaves_of(whole: Labelled) -> list[tuple[Path, Json, Label]]:
    """Every leaf of the value (neither dict nor list) with its path and label."""
    result: list[tuple[Path, Json, Label]] = []

    def walk(part: Labelled, path: Path) -> None:
        match part.value:
            case dict() as fields:
                for key in fields:
                    walk(part.at((key,)), (*path, key))
            case list() as items:
                for index in range(len(items)):
                    walk(part.at((index,)), (*path, index))
            case leaf:
                result.append((path, leaf, part.label))

    walk(whole, ())
    return result
