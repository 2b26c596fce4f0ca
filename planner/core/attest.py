"""What is the result of a call worth?

Rules of the file:
- Labels fall by joining and rise only here and in `expr`, where docs/architecture.md says so.
"""

from __future__ import annotations

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
    leaves_of,
)


def attest(callee: Callee, arguments: Labelled, value: Json, *, path: str = "") -> Labelled:
    """A call's result with its labels, as the callee's declaration says and its arguments allow.

    It names the callee as its source, and the `path` of the step that called it.
    """
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
            leaves = tuple(
                (path, worth(BOUNDED)) for field in declaration.bounded_fields for path in _places(value, field)
            )
            return Labelled(value=value, label=worth(UNTRUSTED), leaves=leaves)
        case "typed":
            return _typed(arguments, Labelled(value=value, label=worth(UNTRUSTED)), worth(BOUNDED))
        case _:
            assert_never(declaration.out)


def _readers(callee: Callee, given: Label) -> frozenset[str] | None:
    return Label(readers=callee.declaration.readers).joined(given).readers


def _places(value: Json, field: str) -> tuple[Path, ...]:
    return (("*", field),) if isinstance(value, list) else ((field,),)


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
