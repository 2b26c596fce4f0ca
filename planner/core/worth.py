"""What the values of a plan will be worth at least: the plan run over labels, before there is any data.

Rules of the file:
- What is said here may be lower than what a run will find, and never higher: in doubt, the lower.
- It follows `values`, `expr` and `attest` step by step; where those raise integrity by looking at data, this
  does so only if every datum would.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.core.attest import attest
from planner.core.catalog import Callee, Catalogue
from planner.core.expr import names, reference
from planner.core.labels import Integrity, Json, Label, Labelled, Path
from planner.core.plan import Plan, Role, Step, StepId, reads, stand_in
from planner.core.reach import known
from planner.core.syntax import Expr, field_name, parse, translated
from planner.errors import PlanError

ITEM = 0
"""The part that stands for every item of a list; no field of a record has a number for its name."""
TESTS = frozenset({"any", "all", "bool", "contains", "startswith", "endswith"})
"""Functions and methods that give true or false, whatever they look at."""


@dataclass(frozen=True, slots=True)
class Worth:
    """The least integrity of a value, and the steps that it comes from.

    `steps` gave or passed on what it was made from; `deciders` only decided that, or how often, it was made. `parts`
    are those that are worth something else.
    """

    integrity: Integrity = Integrity.TRUSTED
    steps: frozenset[StepId] = frozenset()
    deciders: frozenset[StepId] = frozenset()
    parts: Mapping[str | int, Worth] = field(default_factory=dict)

    @property
    def reached(self) -> frozenset[StepId]:
        """Every step that has a share in it."""
        return self.steps | self.deciders

    def overall(self) -> Worth:
        """All parts as one."""
        return joined((replace(self, parts={}), *self.parts.values())) if self.parts else self

    def part(self, path: Path) -> Worth:
        """The part at a path, as far as it is known apart."""
        found = self
        for key in path:
            found = found.parts.get(ITEM if isinstance(key, int) else key, replace(found, parts={}))
        return found

    def under(self, decided: Worth) -> Worth:
        """The value inside a branch or a map that `decided` chose."""
        if decided.integrity is Integrity.TRUSTED:
            return self
        return Worth(
            integrity=min(self.integrity, Integrity.BOUNDED),
            steps=self.steps,
            deciders=self.deciders | decided.steps | decided.deciders,
            parts={key: part.under(decided) for key, part in self.parts.items()},
        )

    def capped(self, most: Integrity) -> Worth:
        """The value, and all its parts, worth that at most."""
        if most is Integrity.TRUSTED:
            return self
        parts = {key: part.capped(most) for key, part in self.parts.items()}
        return replace(self, integrity=min(self.integrity, most), parts=parts)

    def through(self, id_: StepId) -> Worth:
        """The value as the result of one more step."""
        parts = {key: part.through(id_) for key, part in self.parts.items()}
        return replace(self, steps=self.steps | {id_}, parts=parts)


UNKNOWN = Worth(Integrity.UNTRUSTED)


def joined(worths: Iterable[Worth]) -> Worth:
    """What something made from all of these is worth."""
    integrity, steps, deciders = Integrity.TRUSTED, set[StepId](), set[StepId]()
    for worth in worths:
        whole = worth.overall()
        integrity = min(integrity, whole.integrity)
        steps |= whole.steps
        deciders |= whole.deciders
    return Worth(integrity, frozenset(steps), frozenset(deciders))


@dataclass(frozen=True, slots=True)
class Appraised:
    """A call with what each argument that the plan writes is worth at least when it is made."""

    step: StepId
    role: Role
    callee: Callee
    arguments: Mapping[str, Worth]


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a plan's values are worth; `sources` are the steps that bring something in that is not trusted."""

    calls: tuple[Appraised, ...]
    results: Mapping[StepId, Worth]
    sources: Mapping[StepId, Callee]


def appraise(plan: Plan, catalogue: Catalogue, *, said: Integrity = Integrity.TRUSTED) -> Appraisal:
    """What the arguments and results of a plan's calls will be worth at least; its own words are worth `said`."""
    run = _Run(catalogue, said)
    run.steps(plan.steps, {"inputs": Worth(), "attachments": UNKNOWN}, Worth(said))
    return Appraisal(tuple(run.calls), run.results, run.sources)


_Scope = Mapping[str, Worth]


def _absence(id_: StepId) -> str:
    """Where a scope says what decides that the step gives no value; no name is like it."""
    return f"?{id_}"


@dataclass(slots=True)
class _Run:
    """The plan as it runs over labels."""

    catalogue: Catalogue
    said: Integrity = Integrity.TRUSTED
    calls: list[Appraised] = field(default_factory=list)
    results: dict[StepId, Worth] = field(default_factory=dict)
    sources: dict[StepId, Callee] = field(default_factory=dict)
    absences: dict[StepId, Worth] = field(default_factory=dict)
    """What whatever decides that a step gives no value is worth."""

    def steps(self, steps: tuple[Step, ...], scope: _Scope, decided: Worth) -> _Scope:
        """The scope after these steps, each of which runs only as `decided` says."""
        for step in steps:
            self.results[step.id] = self.step(step, scope, decided)
            scope = {**scope, step.id: self.results[step.id], _absence(step.id): self.absences[step.id]}
        return scope

    def step(self, step: Step, scope: _Scope, decided: Worth) -> Worth:
        items = value_worth(step.for_each, scope).capped(self.said)
        if step.is_map:
            scope = {**scope, step.as_: items.part((ITEM,)), f"{step.as_}_i": items.overall()}
        condition = Worth() if step.if_ is None else _solved(parse(step.if_), scope)
        decided = joined((decided, condition, items))
        before = len(self.calls)
        one = self.value(step, scope, decided).through(step.id)
        given = [worth for call in self.calls[before:] for worth in call.arguments.values()]
        read = [scope.get(key, Worth()) for name in reads(step) for key in (name, _absence(name))]
        held = [self.absences[one.id] for one in step.inner]
        absence = self.absences[step.id] = joined((decided, *given, *read, *held))
        if not step.is_map:
            return one
        if step.on_item_error == "drop" or step.if_ is not None:  # which items are there says something of them
            return Worth(parts={ITEM: joined((one, absence))}).under(absence)
        return Worth(parts={ITEM: one}).under(decided)

    def value(self, step: Step, scope: _Scope, decided: Worth) -> Worth:
        if step.is_block:
            return self.block(step, scope, decided)
        if step.use is None:
            return value_worth(step.let, scope).under(decided).capped(self.said)
        own = self.call(step, "call", scope, decided)
        other = stand_in(step)
        if other is step:
            return own
        failed = joined((decided, *self.calls[-1].arguments.values()))
        return joined((own, self.call(other, "fallback", scope, failed)))

    def block(self, step: Step, scope: _Scope, decided: Worth) -> Worth:
        branches = {**self.steps(step.do, scope, decided), **self.steps(step.else_, scope, decided)}
        if step.answer is None:
            missing = joined(self.absences[held.id] for held in step.inner)
            return joined(self.results[held.id] for held in step.inner).under(joined((decided, missing)))
        whole = value_worth(step.answer, branches).under(decided).capped(self.said)
        absent = joined(branches.get(_absence(name), Worth()) for name in names(step.answer))
        return whole if absent.integrity is Integrity.TRUSTED else joined((whole, absent))

    def call(self, step: Step, role: Role, scope: _Scope, decided: Worth) -> Worth:
        callee = known(self.catalogue, step.use or "")
        given = {name: value_worth(value, scope).under(decided) for name, value in step.args.items()}
        worths = {name: worth.capped(self.said).overall() for name, worth in given.items()}
        self.calls.append(Appraised(step.id, role, callee, worths))
        if is_source(callee):
            self.sources.setdefault(step.id, callee)
        return _result(callee, joined((Worth().under(decided), *worths.values())))


def is_source(callee: Callee) -> bool:
    """Whether its results may be less than trusted whatever it is given."""
    declared = callee.declaration
    is_passing = declared.effect == "pure" and declared.out != "typed"
    return _is_said(callee) or (not is_passing and declared.out != "trusted")


def _is_said(callee: Callee) -> bool:
    """Whether a person or an event gives the result, and so its label; a person may be another than the principal."""
    return callee.kind in {"human", "gate"} or (callee.kind == "wait" and callee.declaration.out == "untrusted")


def _result(callee: Callee, given: Worth) -> Worth:
    if _is_said(callee):
        return replace(given, integrity=Integrity.UNTRUSTED)
    found = attest(callee, Labelled(value={}, label=Label(integrity=given.integrity)), {})
    whole = replace(given, integrity=found.label.integrity)
    # Whether the result will be one record or a list of them is not known; each is read in its own way.
    return _with_fields(whole, [(path, label.integrity) for path, label in found.leaves])


def _with_fields(whole: Worth, fields: Sequence[tuple[Path, Integrity]]) -> Worth:
    """A result of which some fields are worth something else, at whatever depth lists stand."""
    parts: dict[str | int, Worth] = {}
    for name in dict.fromkeys(path[0] for path, _ in fields):
        inner = [(path[1:], integrity) for path, integrity in fields if path[0] == name]
        own = [integrity for path, integrity in inner if not path]
        value = replace(whole, integrity=own[0]) if own else _with_fields(whole, inner)
        parts[name] = value
    return replace(whole, parts={**parts, ITEM: replace(whole, parts=parts)}) if parts else whole


# values and expressions -------------------------------------------------------------------------------------


def value_worth(value: Json, scope: _Scope) -> Worth:
    """What a value of the plan is worth where its texts are resolved in this scope."""
    match value:
        case list() if names(value):
            return Worth(parts={ITEM: joined(value_worth(item, scope) for item in value)})
        case dict() if names(value):
            return Worth(parts={name: value_worth(item, scope) for name, item in value.items()})
        case str() if "$" in value:
            return _text(value, scope)
        case _:
            return Worth()


def _text(text: str, scope: _Scope) -> Worth:
    target = reference(text)
    if target is not None:
        return scope.get(target[0], UNKNOWN).part(target[1])
    try:
        expressions, pieces = _pieces(text)
    except PlanError:
        return UNKNOWN
    solved = [_solved(expression, scope) for expression in expressions]
    if len(solved) == 1 and not any(pieces):
        return solved[0]
    # A name outside of `${ }` is read whole. The blank keeps what stood apart from becoming one reference.
    bare = [scope.get(name, UNKNOWN) for name in names(" ".join(pieces))]
    return joined((*solved, *bare))


def _pieces(text: str) -> tuple[list[Expr], list[str]]:
    """The `${expression}`s of a text, and the pieces around them."""
    expressions: list[Expr] = []
    pieces: list[str] = []
    at = 0
    while (mark := _next_mark(text, at)) >= 0:
        _, end = translated(text, mark + 2, stops=("}",))
        expressions.append(parse(text[mark + 2 : end]))
        pieces.append(text[at:mark])
        at = end + 1
    return expressions, [*pieces, text[at:]]


def _next_mark(text: str, at: int) -> int:
    """Where the next `${` begins; `$$` is a dollar sign."""
    while (at := text.find("$", at)) >= 0 and not text.startswith("${", at):
        at += 2 if text.startswith("$$", at) else 1
    return at


def _solved(expr: Expr, scope: _Scope) -> Worth:
    """What an expression gives: a part as it stands, or else the join of all that it may look at."""
    if expr.body is None or expr.flaws:
        return UNKNOWN
    chain = _chain(expr.body)
    if chain is not None:
        return scope.get(chain[0], UNKNOWN).part(chain[1])
    whole = joined(_looked(expr.body, scope, frozenset(), may_miss=False))
    if _is_choice(expr.body):
        return replace(whole, integrity=max(whole.integrity, Integrity.BOUNDED))
    return whole


def _chain(node: ast.AST) -> tuple[str, Path] | None:
    """The name and the path, if all that the expression does is to take a part of something."""
    match node:
        case ast.Name(id=name):
            return name, ()
        case ast.Attribute(value=inner, attr=key):
            found, step = _chain(inner), field_name(key)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() as key)):
            found, step = _chain(inner), key
        case ast.Subscript(value=inner, slice=ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant())):
            return None if (listed := _chain(inner)) is None else (listed[0], (*listed[1], ITEM))
        case _:
            return None
    return None if found is None else (found[0], (*found[1], step))


def _looked(node: ast.AST, scope: _Scope, bound: frozenset[str], *, may_miss: bool) -> Iterator[Worth]:
    """What an expression may look at; left of a `??` what is missing is looked for in all that is around it."""
    chain = _chain(node)
    if chain is not None:
        if chain[0] not in bound:
            yield scope.get(_absence(chain[0]), Worth()) if may_miss else Worth()
            yield scope.get(chain[0], UNKNOWN).part(() if may_miss else chain[1])
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    match node:
        case ast.BinOp(op=ast.BitOr()):
            yield from _looked(node.left, scope, bound, may_miss=True)
            children = [node.right]
        case ast.Call(func=ast.Attribute(value=whole)):
            children = [whole, *node.args, *node.keywords]
        case ast.Call():
            children = [*node.args, *node.keywords]
        case ast.Lambda():
            bound |= {argument.arg for argument in node.args.args}
            children = [node.body]
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for loop in node.generators:
                yield from _looked(loop.iter, scope, bound, may_miss=may_miss)
                bound |= {part.id for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
            tests = [test for loop in node.generators for test in loop.ifs]
            children = [*tests, *(child for child in children if isinstance(child, ast.expr))]
        case _:
            pass
    for child in children:
        yield from _looked(child, scope, bound, may_miss=may_miss)


def _is_choice(node: ast.expr) -> bool:
    """Whether data can only choose what it gives: true or false, or one of its literals."""
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()) | ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=number)):
            return not isinstance(number, bool)  # `-true` is a number that stands nowhere
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(op=ast.BitOr(), left=one, right=other):
            return _is_choice(one) and _is_choice(other)
        case ast.BoolOp(values=values):
            return all(map(_is_choice, values))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in TESTS
        case _:
            return False
