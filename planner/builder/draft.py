"""The plan under way: blocks that are open, names that can be read in them, and values as a plan holds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from planner.builder.refs import Ref, no_constant, scalar
from planner.builder.terms import ATOM, Marks, Name, Term
from planner.core.catalog import Callee
from planner.core.labels import Json
from planner.core.plan import Step, StepId
from planner.core.syntax import parse
from planner.errors import PlanError
from planner.tools.declaration import registered


@dataclass(eq=False)
class Scope:
    """The plan, or one branch of a block: its steps so far, and the names that begin in it."""

    what: str
    steps: list[Step] = field(default_factory=list)
    names: dict[str, Name] = field(default_factory=dict)


class Draft:
    """What all parts of one builder share."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.scopes = [Scope("the plan")]
        self.inputs: dict[str, Json] = {}
        self._callees: dict[Callable[..., object], Callee] = {}
        self.explicit: set[StepId] = set()
        self._own = set(self.scopes)
        self._under_way: set[StepId] = set()
        self._ids: set[str] = {"inputs"}
        self._item_names: set[str] = set()
        self._number = 0

    @property
    def here(self) -> Scope:
        """The innermost block that is open."""
        return self.scopes[-1]

    def ref(self, name: str) -> Any:  # noqa: ANN401 - poses as a value
        """A reference to a name that begins in the innermost block."""
        found = self.here.names.setdefault(name, Name(name, self.here))
        return Ref(Term(name, ATOM, frozenset({found}), self.marks))

    @contextmanager
    def inside(self, scope: Scope, id_: StepId) -> Iterator[None]:
        """What is made meanwhile belongs to that branch of the block; a block that was given up stays unfinished."""
        self._own.add(scope)
        self.scopes.append(scope)
        self._under_way.add(id_)
        try:
            yield
        finally:
            self.scopes.pop()
        self._under_way.discard(id_)

    # names

    def new_id(self, wanted: StepId | None = None) -> StepId:
        """The id of the next step. Raises `PlanError` for one that is taken, or that no expression can read."""
        taken = self._ids | self._item_names
        if wanted is None:
            self._number += 1
            while f"s{self._number}" in taken:
                self._number += 1
            wanted = f"s{self._number}"
        elif wanted in taken:
            raise PlanError("P-106", f"two steps, or a step and an item, are called `{wanted}`", hint="Rename one.")
        elif not _is_name(wanted):
            hint = "Use lower-case letters, digits and `_`, and no word of the expression language."
            raise PlanError("P-103", f"a step cannot be called `{wanted}`", hint=hint)
        else:
            self.explicit.add(wanted)
        self._ids.add(wanted)
        return wanted

    def give_back(self, id_: StepId, number: int) -> None:
        """The id of a step that became a part of another; counting goes on behind `number`."""
        self._ids.discard(id_)
        self._number = number

    def callee(self, function: Callable[..., object]) -> Callee:
        """The function as plans call it. Raises `UserError` if it cannot be a tool."""
        if function not in self._callees:
            self._callees[function] = registered(function).callee
        return self._callees[function]

    @property
    def number(self) -> int:
        """The last number given to a step."""
        return self._number

    def item_name(self, wanted: str) -> str:
        """A name for the items of a map that hides no other: the wanted one where that can be, else one like it."""
        taken = self._ids.union(*(scope.names for scope in self.scopes))
        stem = name = wanted if _is_name(wanted) else "item"
        number = 1
        while {name, f"{name}_i"} & taken:
            number += 1
            name = f"{stem}_{number}"
        self._item_names |= {name, f"{name}_i"}
        return name

    def seen(self, term: Term, where: str) -> Term:
        """The term itself. Raises `PlanError` if it reads what cannot be read in the innermost block."""
        for name in sorted(term.reads, key=lambda name: name.text):
            if name.scope not in self._own:
                raise PlanError(
                    "P-402", f"{where} reads `{term.written}` of another builder", hint="Use one builder."
                )
            if isinstance(name.scope, Scope) and name.scope not in self.scopes:
                what = f"{where} reads `{term.written}`, but `{name.text}` is known only in {name.scope.what}"
                hint = "Read what the block itself gives: the result of `each`, or the target of `with ... as`."
                raise PlanError("P-402", what, hint=hint)
            if name.text in self._under_way:
                what = f"{where} reads `{term.written}`, but the block `{name.text}` is not finished there"
                raise PlanError("P-402", what, hint="Read the steps inside of it.")
        return term

    # values

    def json(self, value: object, where: str, *, is_plain: bool = False) -> Json:
        """A value as a plan holds it; a plain one is data through and through. Raises `PlanError`."""
        match value:
            case Ref() if not is_plain:
                return self.seen(value.__term__, where).written
            case str():
                return self.marks.plain(str(value), where) if is_plain else self._template(str(value), where)
            case None | bool() | int() | float():
                return scalar(value)
            case list() | tuple():
                return [self.json(item, where, is_plain=is_plain) for item in value]
            case Mapping():
                keys = [self.marks.plain(str(key), f"the name of a field in {where}") for key in value]
                parts = [self.json(part, where, is_plain=is_plain) for part in value.values()]
                return dict(zip(keys, parts, strict=True))
            case _:
                raise no_constant(value, where)

    def _template(self, text: str, where: str) -> str:
        return "".join(
            piece.replace("$", "$$") if isinstance(piece, str) else f"${{{self.seen(piece, where).source}}}"
            for piece in self.marks.pieces(text, where)
        )

    def earlier(self, value: object, where: str) -> list[StepId]:
        """The ids that a reference, an id, or a list of these names. Raises `PlanError` for what is no step here."""
        if isinstance(value, list | tuple):
            return [id_ for part in value for id_ in self.earlier(part, where)]
        if isinstance(value, Ref):
            found = {name.text for name in self.seen(value.__term__, where).reads}
        else:
            found = {str(value)}
        open_ = {name for scope in self.scopes for name in scope.names} - self._under_way
        known = tuple(sorted((open_ & self._ids) - {"inputs"}))
        for name in found.difference(known):
            hint = f"Before it come: {', '.join(known) or 'no steps'}."
            raise PlanError("P-104", f"{where} names `{name}`, which is no step before it", hint=hint, choices=known)
        return sorted(found)

    def condition(self, value: object, where: str) -> str:
        """A bare expression. Raises `PlanError` for a constant: then Python has computed it, and not the plan."""
        if not isinstance(value, Ref):
            hint = "Compare what calls gave: `total > 100`, or `flow.expr(...)` for `is`, `in`, `not` and functions."
            raise PlanError("P-404", f"{where} is `{value!r:.60}`, which no step decides", hint=hint)
        return self.seen(value.__term__, where).source


def _is_name(text: str) -> bool:
    """Whether a step or an item may be called so, and an expression can read it."""
    return re.fullmatch("[a-z][a-z0-9_]*", text) is not None and parse(text).reads == {text}
