"""Evaluate references, expressions and templates over labelled values.

A text that is exactly `$name.path` or `${expr}` gives a typed value. Inside longer text the value reads as text: a
list of scalars one per line, any other list or record as compact JSON. There `${expr}` is always read, but a bare
`$name.path` only where the runtime itself gave the name (`s1`, `s2_text`, `t1`, `item`, `item_i`, `inputs`,
`attachments`), so that `$5` and `$PATH` stay as they are. `$$` is a dollar sign. A bare expression (`if`) stands
without `${ }`.

Rules of the file:
- One pass: text that was put in is never parsed again.
- `syntax` has the grammar, `functions` what may be called, `watch` how a result gets its label.
- There is one short function for each kind of node; `_RULES` lists them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from pydantic import ValidationError

from planner.core.functions import (
    COMPARISONS,
    FUNCTIONS,
    METHODS,
    OPERATORS,
    SHAPING,
    AbsentError,
    describe,
    distinct,
    perform,
    text,
)
from planner.core.labels import Json, Labelled, Path, gather, join
from planner.core.syntax import (
    FORMAT,
    Expr,
    field_name,
    flaw,
    parse,
    shortened,
    translated,
)
from planner.core.watch import LIMITS, Limits, Missing, MissingValue, Scope, Value, Watch, bare, limit
from planner.errors import PlanError

__all__ = [
    "LIMITS",
    "Limits",
    "Missing",
    "MissingValue",
    "Scope",
    "evaluate",
    "expression_may_miss",
    "expression_names",
    "expression_problems",
    "may_miss",
    "names",
    "problems",
    "reference",
    "resolve",
]


def evaluate(source: str, scope: Scope, *, limits: Limits = LIMITS) -> Labelled:
    """The value of a bare expression, such as an `if`. Raises `PlanError`, for a missing value `MissingValue`."""
    return _solved(parse(source), scope, limits)


def resolve(value: Json, scope: Scope, *, limits: Limits = LIMITS) -> Labelled:
    """Any JSON value with the references and expressions in its texts replaced; every leaf has its own label.

    Raises `PlanError`, for a missing value `MissingValue`.
    """
    return _resolved(value, scope, limits, limits.depth)


def names(value: Json) -> frozenset[str]:
    """The names that the texts of a value read."""
    return _union(expr.reads for expr in _expressions(value))


def expression_names(source: str) -> frozenset[str]:
    """The names that a bare expression reads."""
    return parse(source).reads


def may_miss(value: Json) -> frozenset[str]:
    """The names that the texts of a value read on the left of a `??` only, so that they may be missing."""
    return names(value) - _union(expr.needs for expr in _expressions(value))


def expression_may_miss(source: str) -> frozenset[str]:
    """The names that a bare expression reads on the left of a `??` only."""
    return parse(source).reads - parse(source).needs


def problems(value: Json) -> tuple[str, ...]:
    """What is wrong with the texts of a value whatever the data, in words for a model."""
    return tuple(flaw.message for expr in _expressions(value) for flaw in expr.flaws)


def expression_problems(source: str) -> tuple[str, ...]:
    """What is wrong with a bare expression whatever the data, in words for a model."""
    return tuple(flaw.message for flaw in parse(source).flaws)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


# templates --------------------------------------------------------------------------------------------------

_Template: TypeAlias = tuple[str | Expr, ...]
"""Constant text and expressions in turn. A typed value is a template of one expression and nothing else."""

_STEPS = r"""(?:\.[^\W\d]\w*|\[-?\d+\]|\["[^"\\]*"\]|\['[^'\\]*'\])*"""
_STEP = re.compile(r"""\.(\w+)|\[(-?\d+)\]|\["([^"]*)"\]|\['([^']*)'\]""")
_REFERENCE = re.compile(rf"\$([^\W\d]\w*)({_STEPS})")
_MARK = re.compile(
    rf"\$\$|\$\{{|\$(?P<name>s\d+(?:_\w+)?|t\d+|item(?:_i)?|inputs|attachments)(?!\w)(?P<steps>{_STEPS})", re.ASCII
)


def reference(value: Json) -> tuple[str, Path] | None:
    """The name and the path, if the value is text that is exactly `$name.path`."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else (match[1], _path(match[2]))


def _path(steps: str) -> Path:
    return tuple(
        int(index) if index else name or double or single for name, index, double, single in _STEP.findall(steps)
    )


@lru_cache(maxsize=1024)
def _template(text: str) -> _Template:
    """The parts of a text; text without `$` is one part."""
    target = reference(text)
    if target is not None:
        return (_referring(text[1:], *target),)
    return tuple(_parts(text))


def _parts(text: str) -> Iterator[str | Expr]:
    at = 0
    while mark := _MARK.search(text, at):
        if mark.start() > at:
            yield text[at : mark.start()]
        at = mark.end()
        if mark["name"]:
            yield _referring(mark[0][1:], mark["name"], _path(mark["steps"]))
        elif mark[0] == "$$":
            yield "$"
        else:
            expr, at = _embedded(text, at)
            yield expr
    if at < len(text):
        yield text[at:]


def _embedded(text: str, at: int) -> tuple[Expr, int]:
    """The expression that starts after `${`, and where the text goes on."""
    rest = text[at:]
    try:
        _, end = translated(text, at, stops=("}",))
    except PlanError as error:
        return Expr(rest, flaws=(flaw(f"${{{rest}", error.code, error.message),)), len(text)
    if end == len(text):
        unclosed = flaw(f"${{{rest}", "P-201", "no `}` closes it; write `$$` for a dollar sign")
        return Expr(rest, flaws=(unclosed,)), end
    return parse(text[at:end]), end + 1


def _referring(source: str, name: str, path: Path) -> Expr:
    body: ast.expr = ast.Name(name)
    for step in path:
        body = ast.Subscript(body, ast.Constant(step))
    reads = frozenset({name})
    return Expr(source, body, reads=reads, needs=reads, depth=len(path))


def _expressions(value: Json) -> Iterator[Expr]:
    """Every expression in the texts of a JSON value."""
    rest = [value]
    while rest:
        match rest.pop():
            case str() as text if "$" in text:
                yield from (part for part in _template(text) if isinstance(part, Expr))
            case list() as items:
                rest.extend(items)
            case dict() as fields:
                rest.extend(fields.values())
            case _:
                pass


# values -----------------------------------------------------------------------------------------------------


def _resolved(value: Json, scope: Scope, limits: Limits, depth: int) -> Labelled:
    match value:
        case str() if "$" in value:
            return _filled(_template(value), scope, limits)
        case list() | dict() if depth == 0:
            raise limit(f"the value is nested deeper than {limits.depth}")
        case list():
            return gather([_resolved(item, scope, limits, depth - 1) for item in value])
        case dict():
            return gather({name: _resolved(item, scope, limits, depth - 1) for name, item in value.items()})
        case _:
            return Labelled(value=value)


def _filled(parts: _Template, scope: Scope, limits: Limits) -> Labelled:
    if len(parts) == 1 and isinstance(parts[0], Expr):
        return _solved(parts[0], scope, limits)
    pieces = [_solved(part, scope, limits) if isinstance(part, Expr) else part for part in parts]
    whole = "".join(p if isinstance(p, str) else str(perform("text", text, p.value)) for p in pieces)
    if len(whole) > limits.size:
        raise limit(f"the text would have {len(whole):,} characters, but at most {limits.size:,} are allowed")
    return Labelled(value=whole, label=join(p.overall() for p in pieces if isinstance(p, Labelled)))


def _solved(expr: Expr, scope: Scope, limits: Limits) -> Labelled:
    if expr.body is None or expr.flaws:
        raise PlanError(*expr.flaws[0])
    watch, where = Watch(scope, limits), f"`{shortened(expr.source)}`"
    try:
        if expr.depth > limits.depth:
            raise limit(f"nested {expr.depth} deep, but at most {limits.depth} are allowed")
        return watch.labelled(_value(watch, expr.body, {}), expr.literals)
    except PlanError as error:
        error.message = f"{where}: {error.message}"
        raise
    except (RecursionError, ValidationError):
        raise limit(f"{where}: a value is nested too deeply") from None


_Local: TypeAlias = Mapping[str, Value]
"""The variables of comprehensions and lambdas."""


def _value(watch: Watch, node: ast.expr, local: _Local) -> Value:
    watch.charge()
    return _RULES[type(node)](watch, node, local)


def _constant(_: Watch, node: ast.Constant, _local: _Local) -> Value:
    return node.value


def _name(watch: Watch, node: ast.Name, local: _Local) -> Value:
    return local[node.id] if node.id in local else watch.name(node.id)


def _attribute(watch: Watch, node: ast.Attribute, local: _Local) -> Value:
    return watch.part(_value(watch, node.value, local), field_name(node.attr))


def _subscript(watch: Watch, node: ast.Subscript, local: _Local) -> Value:
    whole = _value(watch, node.value, local)
    if isinstance(node.slice, ast.Slice):
        return _slice(watch, whole, node.slice, local)
    return watch.part(whole, watch.plain(_value(watch, node.slice, local)))


def _slice(watch: Watch, whole: Value, node: ast.Slice, local: _Local) -> Value:
    bounds = [b if b is None else watch.plain(_value(watch, b, local)) for b in (node.lower, node.upper, node.step)]
    inside = bare(whole)
    if not isinstance(inside, list | str):
        raise PlanError("P-208", f"a slice is taken of text or of a list, not of {describe(inside)}")
    sliced = watch.items(whole) if isinstance(inside, list) else watch.plain(whole)
    return watch.made(perform("slice", lambda *bounds: sliced[slice(*bounds)], *bounds))


def _unary(watch: Watch, node: ast.UnaryOp, local: _Local) -> Value:
    operand = _value(watch, node.operand, local)
    if isinstance(node.op, ast.Not):
        return not watch.truth(operand)
    sides = (0, watch.plain(operand)) if isinstance(node.op, ast.USub) else (watch.plain(operand), 0)
    return watch.made(perform("-", OPERATORS[ast.Sub][1], *sides))


def _binary(watch: Watch, node: ast.BinOp, local: _Local) -> Value:
    if isinstance(node.op, ast.BitOr):
        return _default(watch, node, local)
    symbol, operate = OPERATORS[type(node.op)]
    left, right = (watch.plain(_value(watch, side, local)) for side in (node.left, node.right))
    return watch.made(perform(symbol, operate, left, right))


def _default(watch: Watch, node: ast.BinOp, local: _Local) -> Value:
    """`left ?? right`."""
    try:
        value = _value(watch, node.left, local)
        if bare(value) is not None:
            return value
        watch.plain(value)
    except AbsentError:
        pass
    return _value(watch, node.right, local)


def _boolean(watch: Watch, node: ast.BoolOp, local: _Local) -> Value:
    stops_at = isinstance(node.op, ast.Or)
    *first, last = node.values
    for part in first:
        value = _value(watch, part, local)
        if watch.truth(value) == stops_at:
            return value
    return _value(watch, last, local)


def _compare(watch: Watch, node: ast.Compare, local: _Local) -> Value:
    left = watch.plain(_value(watch, node.left, local))
    for op, part in zip(node.ops, node.comparators, strict=True):
        symbol, compare = COMPARISONS[type(op)]
        right = watch.plain(_value(watch, part, local))
        if not perform(symbol, compare, left, right):
            return False
        left = right
    return True


def _choice(watch: Watch, node: ast.IfExp, local: _Local) -> Value:
    return _value(watch, node.body if watch.truth(_value(watch, node.test, local)) else node.orelse, local)


def _list(watch: Watch, node: ast.List | ast.Tuple, local: _Local) -> Value:
    return watch.made([_value(watch, part, local) for part in node.elts])


def _set(watch: Watch, node: ast.Set, local: _Local) -> Value:
    return watch.made(distinct([watch.plain(_value(watch, part, local)) for part in node.elts]))


def _record(watch: Watch, node: ast.Dict, local: _Local) -> Value:
    pairs = zip(node.keys, node.values, strict=True)
    return watch.made({_key(watch, key, local): _value(watch, value, local) for key, value in pairs if key})


def _key(watch: Watch, node: ast.expr, local: _Local) -> str:
    key = watch.plain(_value(watch, node, local))
    if isinstance(key, str):
        return key
    raise PlanError("P-208", f"a field is named by text, not by {describe(key)}", hint="Write `str(x)`.")


def _listed(watch: Watch, node: ast.ListComp | ast.GeneratorExp, local: _Local) -> Value:
    return watch.made([_value(watch, node.elt, row) for row in _rows(watch, node.generators, local)])


def _set_of(watch: Watch, node: ast.SetComp, local: _Local) -> Value:
    rows = _rows(watch, node.generators, local)
    return watch.made(distinct([watch.plain(_value(watch, node.elt, row)) for row in rows]))


def _record_of(watch: Watch, node: ast.DictComp, local: _Local) -> Value:
    rows = _rows(watch, node.generators, local)
    return watch.made({_key(watch, node.key, row): _value(watch, node.value, row) for row in rows})


def _rows(watch: Watch, loops: Sequence[ast.comprehension], local: _Local) -> Iterator[_Local]:
    """The variables of every round of nested loops."""
    if not loops:
        yield local
        return
    for item in watch.items(_value(watch, loops[0].iter, local)):
        row = {**local, **_bound(watch, loops[0].target, item)}
        if all(watch.truth(_value(watch, test, row)) for test in loops[0].ifs):
            yield from _rows(watch, loops[1:], row)


def _bound(watch: Watch, target: ast.expr, item: Value) -> _Local:
    if isinstance(target, ast.Name):
        return {target.id: item}
    assert isinstance(target, ast.Tuple | ast.List)
    parts = watch.items(item)
    if len(parts) != len(target.elts):
        raise PlanError("P-208", f"{len(target.elts)} names cannot take {describe(bare(item))}")
    pairs = zip(target.elts, parts, strict=True)
    return {name: value for name_, part in pairs for name, value in _bound(watch, name_, part).items()}


def _call(watch: Watch, node: ast.Call, local: _Local) -> Value:
    if isinstance(node.func, ast.Attribute):
        return _method(watch, node, node.func, local)
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    if name == FORMAT:
        return _formatted(watch, node, local)
    key = next((word.value for word in node.keywords if isinstance(word.value, ast.Lambda)), None)
    opaque = key is not None or name in SHAPING
    args = [_argument(watch, _value(watch, part, local), opaque=opaque) for part in node.args]
    options = _options(watch, node, local)
    if key is not None:
        options["key"] = _ranking(watch, key, local)
    return watch.made(perform(name, FUNCTIONS[name], *args, **options))


def _argument(watch: Watch, value: Value, *, opaque: bool) -> Value:
    return watch.items(value) if opaque and isinstance(bare(value), list) else watch.plain(value)


def _options(watch: Watch, node: ast.Call, local: _Local) -> dict[str, Any]:
    words = [word for word in node.keywords if not isinstance(word.value, ast.Lambda)]
    return {str(word.arg): watch.plain(_value(watch, word.value, local)) for word in words}


def _ranking(watch: Watch, node: ast.Lambda, local: _Local) -> Callable[[Value], Json]:
    parameter = node.args.args[0].arg
    return lambda item: watch.plain(_value(watch, node.body, {**local, parameter: item}))


def _method(watch: Watch, node: ast.Call, func: ast.Attribute, local: _Local) -> Value:
    whole, name = _value(watch, func.value, local), field_name(func.attr)
    methods = METHODS.get(type(bare(whole)), {})
    if name not in methods:
        known = f"it has {', '.join(methods)}" if methods else "it has none"
        raise PlanError("P-208", f"{describe(bare(whole))} has no method `{name}`; {known}")
    args = [watch.plain(_value(watch, part, local)) for part in node.args]
    options = _options(watch, node, local)
    if name == "get" and args and isinstance(args[0], str) and args[0] in bare(whole):
        return watch.part(whole, args[0])
    return watch.made(perform(name, methods[name], watch.plain(whole), *args, **options))


def _formatted(watch: Watch, node: ast.Call, local: _Local) -> Value:
    """An f-string: text, value, format, text, ..., text."""
    first, *rest = (watch.plain(_value(watch, part, local)) for part in node.args)
    pieces = [first]
    for value, spec, after in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        pieces += [perform("format", format, value, spec) if spec else perform("text", text, value), after]
    return watch.made("".join(pieces))


_RULES: Mapping[type[ast.expr], Callable[[Watch, Any, _Local], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.IfExp: _choice,
    ast.List: _list,
    ast.Tuple: _list,
    ast.Set: _set,
    ast.Dict: _record,
    ast.ListComp: _listed,
    ast.GeneratorExp: _listed,
    ast.SetComp: _set_of,
    ast.DictComp: _record_of,
    ast.Call: _call,
}
