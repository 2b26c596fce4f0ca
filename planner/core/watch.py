"""Watch one evaluation: what it has looked at, which gives its result a label, and what it may still use.

Rules of the file:
- A result is labelled by what its evaluation looked at, not by what it could have read: `s4[0].price` looks at
  that leaf only. Going through a list looks at the elements used; if none was, at the whole list.
- What is passed on whole, with nothing looked at, keeps the label of every leaf.
- There is one raise (docs/architecture.md, "Safety"): a boolean, or a scalar that equals a literal of the
  expression or a leaf looked at that is at least `BOUNDED`, is at least `BOUNDED`. Sources and readers stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from pydantic import Field

from planner.core.functions import CEILING, AbsentError, describe, finite
from planner.core.labels import TRUSTED, Frozen, Integrity, Json, Label, Labelled, Path, join
from planner.core.syntax import MAX_DEPTH, Literals
from planner.errors import PlanError

Reason: TypeAlias = Literal["skipped", "failed"]


class Missing(Frozen):
    """Stands in a scope for a step that gave no value; `label` is that of what decided so."""

    reason: Reason
    label: Label = TRUSTED


Scope: TypeAlias = Mapping[str, Labelled | Missing]


class MissingValue(AbsentError):  # noqa: N818 - it names a state of the run, not a mistake
    """The value of a step that gave none is read without a default."""

    def __init__(self, name: str, reason: Reason) -> None:
        why = "was skipped" if reason == "skipped" else "failed"
        super().__init__("P-205", f"`{name}` has no value: it {why}", hint="Give a default with `??`.")
        self.name = name
        self.reason = reason


class Limits(Frozen):
    """What one evaluation may use, so that every one ends soon."""

    steps: int = Field(default=20_000, gt=0)
    """One for every node evaluated, 100 elements or 10,000 characters gone through, 1,000 characters made."""
    size: int = Field(default=1_000_000, gt=0, le=CEILING)
    """Characters and elements in all of any value that is made."""
    depth: int = Field(default=50, gt=0, le=MAX_DEPTH)


LIMITS = Limits()


def limit(message: str) -> PlanError:
    """The error for a limit that was reached."""
    return PlanError("P-210", message, error_class="limit")


Value: TypeAlias = Any
"""JSON, any part of which may be a `Part`."""
_Entry: TypeAlias = tuple[int, Path, Label]
"""A pattern of leaves with its place among all of them, for the last one that matches wins."""


class Part:
    """A part of a value in scope, not looked at yet, with the labels inside it."""

    __slots__ = ("_children", "_entries", "_heads", "_weight", "is_touched", "label", "parent", "value")

    def __init__(self, value: Value, label: Label, entries: Iterable[_Entry], parent: Part | None = None) -> None:
        self.value = value
        self.label = label
        self.is_touched = False
        self._entries: list[_Entry] = []
        for entry in entries:
            if entry[1]:
                self._entries.append(entry)
            else:
                self.label, self._entries = entry[2], []
        self.parent = parent
        self._children: dict[str | int, Part] = {}
        self._heads: dict[str | int, list[_Entry]] | None = None
        self._weight: tuple[int, int] | None = None

    def child(self, key: str | int) -> Part:
        """The part at a key or at an index from the start."""
        if key not in self._children:
            self._children[key] = Part(self.value[key], self.label, self._under(key), self)
        return self._children[key]

    def _under(self, key: str | int) -> list[_Entry]:
        if not self._entries:
            return []
        if self._heads is None:
            self._heads = {}
            for place, path, label in self._entries:
                self._heads.setdefault(path[0], []).append((place, path[1:], label))
        found = self._heads.get(key, [])
        if isinstance(key, int) and "*" in self._heads:  # a field called `*` is no pattern
            return sorted(found + self._heads["*"], key=itemgetter(0))
        return found

    def labels(self) -> Iterator[Label]:
        """Every label in the part."""
        yield self.label
        yield from (label for _, _, label in self._entries)

    def labelled(self) -> Labelled:
        """The part with the label of every leaf; not validated again, because it was."""
        leaves = tuple((path, label) for _, path, label in self._entries)
        return Labelled.model_construct(value=self.value, label=self.label, leaves=leaves)

    def touch(self) -> None:
        """Marks the part and everything around it as looked at since it was last gone through."""
        part: Part | None = self
        while part is not None:
            part.is_touched = True
            part = part.parent

    def weight(self) -> tuple[int, int]:
        """How many elements and characters the part has in all."""
        if self._weight is None:
            self._weight = weight(self.value)
        return self._weight

    def vouches_for(self, type_: type, value: Json) -> bool:
        """Whether a leaf that is at least `BOUNDED` has this type and value."""
        rest = [self]
        while rest:
            part = rest.pop()
            if all(label.integrity < Integrity.BOUNDED for label in part.labels()):
                continue
            match part.value:
                case list() as items:
                    rest.extend(map(part.child, range(len(items))))
                case dict() as fields:
                    rest.extend(map(part.child, fields))
                case leaf:
                    if type(leaf) is type_ and leaf == value:
                        return True
        return False


def bare(value: Value) -> Value:
    """The value, of which only kind and shape may be used: to see more is to look."""
    return value.value if isinstance(value, Part) else value


def weight(value: Value, *, most: int | None = None) -> tuple[int, int]:
    """How many elements and characters a value has in all. Raises `PlanError` above `most` together."""
    elements = characters = 0
    rest = [value]
    while rest:
        match rest.pop():
            case str() as whole:
                characters += len(whole)
            case list() as items:
                elements += len(items)
                rest.extend(items)
            case dict() as fields:
                elements += len(fields)
                characters += sum(map(len, fields))
                rest.extend(fields.values())
            case Part() as part:
                elements, characters = map(sum, zip((elements, characters), part.weight(), strict=True))
            case _:
                pass
        if most is not None and elements + characters > most:
            raise limit(f"a value is larger than {most:,} characters and elements")
    return elements, characters


class Watch:
    """The account of one evaluation."""

    def __init__(self, scope: Scope, limits: Limits) -> None:
        self._scope = scope
        self._limits = limits
        self._steps = limits.steps
        self._named: dict[str, Part] = {}
        self._looked: dict[int, Part] = {}
        self._walked: list[Part] = []

    def charge(self, steps: int = 1) -> None:
        """Uses up steps. Raises `PlanError` when there are none left."""
        self._steps -= steps
        if self._steps < 0:
            raise limit(f"the expression takes more than {self._limits.steps:,} steps")

    def name(self, name: str) -> Part:
        """The value of a name; to name it is not yet to look at it."""
        if name not in self._named:
            found = self._scope.get(name)
            if isinstance(found, Missing):
                absent = Part(None, found.label, ())
                self._looked[id(absent)] = absent  # that it is missing decides what comes instead
                raise MissingValue(name, found.reason)
            if found is None:
                known = tuple(sorted(self._scope))
                listed = ", ".join(f"`{each}`" for each in known) or "nothing"
                raise PlanError("P-204", f"there is no `{name}` here, there is {listed}", choices=known)
            entries = ((place, *leaf) for place, leaf in enumerate(found.leaves))
            self._named[name] = Part(found.value, found.label, entries)
        return self._named[name]

    def part(self, whole: Value, key: Json) -> Value:
        """A field of a record, an element of a list, a character of a text."""
        inside = bare(whole)
        match inside, key:
            case dict(), str() if key in inside:
                at: str | int = key
            case ((list() | str()), int()) if -len(inside) <= key < len(inside):
                at = key % len(inside)
            case _:
                self.plain(whole)
                raise _no_part(inside, key)
        if isinstance(inside, str):
            return self.plain(whole)[at]
        return whole.child(at) if isinstance(whole, Part) else whole[at]

    def items(self, value: Value) -> list[Value]:
        """What a loop goes through: the elements of a list, or the names of a record's fields."""
        match bare(value):
            case list() as items:
                if not isinstance(value, Part):
                    return items
                self._walk(value)
                return [value.child(index) for index in range(len(items))]
            case dict():
                return [*self.plain(value)]
            case other:
                hint = "Take `lines(x)` or `words(x)`." if isinstance(other, str) else ""
                raise PlanError("P-208", f"expected a list, got {describe(other)}", hint=hint)

    def truth(self, value: Value) -> bool:
        """Whether a condition holds; of a list or a record, whether it has anything in it."""
        if isinstance(value, Part):
            looks = self._walk if isinstance(value.value, list | dict) else self._look
            looks(value)
        return bool(bare(value))

    def plain(self, value: Value) -> Value:
        """The value as JSON, all of it looked at."""
        match value:
            case Part():
                self._look(value)
                return finite(value.value) if isinstance(value.value, float) else value.value
            case list():
                self.charge(len(value) // 100)
                return [self.plain(item) for item in value]
            case dict():
                self.charge(len(value) // 100)
                return {name: self.plain(item) for name, item in value.items()}
            case _:
                return value

    def made(self, value: Value) -> Value:
        """A new value, if it keeps to the limits."""
        if isinstance(value, str | list | dict):
            elements, characters = weight(value, most=self._limits.size)
            self.charge(elements // 100 + characters // 1_000)
        elif isinstance(value, int | float):
            finite(value)
        return value

    def labelled(self, value: Value, literals: Literals) -> Labelled:
        """The final value with its label."""
        if isinstance(value, Part) and not self._looked and not self._walked:
            return value.labelled()
        result = self.plain(value)
        for part in self._walked:
            if not part.is_touched:
                self._look(part)
        label = join({id(each): each for part in self._looked.values() for each in part.labels()}.values())
        if label.integrity < Integrity.BOUNDED and self._is_chosen(result, literals):
            label = label.model_copy(update={"integrity": Integrity.BOUNDED})
        return Labelled(value=result, label=label)

    def _look(self, part: Part) -> None:
        elements, characters = part.weight()
        self.charge(elements // 100 + characters // 10_000)
        self._looked[id(part)] = part
        part.touch()

    def _walk(self, part: Part) -> None:
        self.charge(len(part.value) // 10)
        self._walked.append(part)
        part.is_touched = False

    def _is_chosen(self, result: Json, literals: Literals) -> bool:
        """Whether the data could only choose among values that were there, not write a new one."""
        if isinstance(result, bool):
            return True
        if isinstance(result, list | dict):
            return False
        kind = type(result)
        return (kind, result) in literals or any(p.vouches_for(kind, result) for p in self._looked.values())


def _no_part(whole: Json, key: Json) -> PlanError:
    match whole, key:
        case dict(), str():
            fields = ", ".join(f"`{name}`" for name in list(whole)[:20]) or "none"
            return AbsentError("P-206", f"there is no field `{key}`; there are {fields}")
        case ((list() | str()), int()):
            return AbsentError("P-207", f"there is no index {key} in {describe(whole)}")
        case None, (str() | int()):
            return AbsentError("P-206", f"null has no `{key}`", hint="Give a default with `??`.")
        case list(), str():
            hint = f"Take one element, or `[x.{key} for x in ...]`."
            return PlanError("P-208", f"a list has no field `{key}`", hint=hint)
        case str(), str():
            hint = f"Where `.{key}` is meant as text, write `${{name}}.{key}`."
            return PlanError("P-208", f"{describe(whole)} has no field `{key}`", hint=hint)
        case _:
            return PlanError("P-208", f"{describe(key)} is no index of {describe(whole)}")
