"""What is the result of a call worth?

Rules of the file:
- Labels fall by joining and rise only here and in `expr`, where docs/architecture.md says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from planner.core.catalog import Callee
from planner.core.labels import (
    BOUNDED,
    TRUSTED,
    UNTRUSTED,
    Integrity,
    Json,
    Label,
    Labelled,
    Path,
    gather,
    leaves_of,
)


def attest(callee: Callee, arguments: Labelled, value: Json, *, path: str = "", principal: str = "") -> Labelled:
    """A call's result with its labels, as the callee's declaration says and its arguments allow.

    It names the callee as its source, and the `path` of the step that called it. `principal` is the name of whoever
    the call was made for.
    """
    result = _worth(callee, arguments, value, path)
    named = tuple(tuple(field.split(".")) for field in callee.declaration.readers_from)
    return _read_by(result, named, principal) if named else result


def _worth(callee: Callee, arguments: Labelled, value: Json, path: str) -> Labelled:
    given = arguments.overall()
    declaration = callee.declaration
    if declaration.effect == "pure" and declaration.out != "typed":
        return Labelled(value=value, label=given)
    ceiling = Integrity.TRUSTED if given.integrity is Integrity.TRUSTED else Integrity.BOUNDED
    name = f"{path}:{callee.name}" if path else callee.name
    source = Label(sources=given.sources | {name}, readers=_readers(callee, given))

    def worth(least: Label) -> Label:
        return source.joined(least).capped(ceiling)

    match declaration.out:
        case "trusted":
            return Labelled(value=value, label=worth(TRUSTED))
        case "bounded":
            return Labelled(value=value, label=worth(BOUNDED))
        case "untrusted":
            return Labelled(value=value, label=worth(UNTRUSTED))
        case "fields":
            fields = (field.split(".") for field in declaration.bounded_fields)
            leaves = tuple((place, worth(BOUNDED)) for field in fields for place in _places(value, field))
            return Labelled(value=value, label=worth(UNTRUSTED), leaves=leaves)
        case "typed":
            return _typed(arguments, Labelled(value=value, label=worth(UNTRUSTED)), worth(BOUNDED))
        case _:
            assert_never(declaration.out)


def _readers(callee: Callee, given: Label) -> frozenset[str] | None:
    return Label(readers=callee.declaration.readers).joined(given).readers


def _places(value: Json, field: Sequence[str]) -> Iterator[Path]:
    """Where a field stands in a result: below every element of every list on the way."""
    if isinstance(value, list):
        inside = dict.fromkeys(place for item in value for place in _places(item, field)) or [tuple(field)]
        yield from (("*", *place) for place in inside)
    elif not field:
        yield ()
    else:
        under = value.get(field[0]) if isinstance(value, dict) else None
        yield from ((field[0], *place) for place in _places(under, field[1:]))


PRINCIPAL = "@principal"


def _read_by(part: Labelled, named: tuple[tuple[str, ...], ...], principal: str) -> Labelled:
    """The result, each of its records for those alone whom its own fields name."""
    match part.value:
        case list() as items if items:
            return gather([_read_by(part.at((index,)), named, principal) for index in range(len(items))])
        case dict() as record:
            own = [field[0] for field in named if len(field) == 1]
            part = part.joined(Label(readers=_names(record, own, principal))) if own else part
            inner = {name: tuple(f[1:] for f in named if len(f) > 1 and f[0] == name) for name in record}
            if not any(inner.values()):
                return part
            parts = {name: part.at((name,)) for name in record}
            return gather({n: _read_by(one, inner[n], principal) if inner[n] else one for n, one in parts.items()})
        case _:
            return part.joined(Label(readers=frozenset({principal})))


def _names(record: Mapping[str, Json], fields: Sequence[str], principal: str) -> frozenset[str]:
    """Whom a record names; nobody but the principal where its fields name none."""
    named = [principal] if PRINCIPAL in fields else []
    for value in (record.get(field) for field in fields):
        named += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    return frozenset(named or [principal])


def _typed(arguments: Labelled, result: Labelled, raised: Label) -> Labelled:
    """A quarantined result: of finite type, or equal to an attested leaf it was made from, it is bounded."""
    attested = {
        (type(leaf), leaf)
        for path, leaf, label in leaves_of(arguments)
        if path[:1] in {("inputs",), ("options",)} and label.integrity >= Integrity.BOUNDED and leaf is not None
    }
    leaves = tuple(
        (path, raised)
        for path, leaf, _ in leaves_of(result)
        if isinstance(leaf, bool) or (type(leaf), leaf) in attested
    )
    return result.model_copy(update={"leaves": leaves})
