"""From the text of a plan to parsed expressions: the grammar, what it refuses, and which names are read.

An expression is a Python expression, cut down to what is pure and ends: literals, arithmetic, comparison,
`and or not`, `x if y else z`, lists, records, sets, comprehensions, f-strings, indexes and slices, and calls of
the functions and methods in `functions`. Four things differ: `record.name` means `record["name"]` (also for
`mail.from`); `true false null` are literals; `a ?? b` gives `b` where `a` is missing, absent or null; and `$name`
is `name`, because models write it. `??` binds tighter than comparison and looser than arithmetic:
`a ?? 0 > b + 1` is `(a ?? 0) > (b + 1)`.

Rules of the file:
- Nothing here sees data. `parse` turns what is wrong with a text into flaws and never raises.
- The text is first put into Python's own grammar (`translated`), then parsed by `ast`, then checked against the
  list of what is allowed (`_CHECKS`). What is not on the list does not exist.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from itertools import chain
from keyword import iskeyword
from typing import Any, NamedTuple, TypeAlias

from planner.core.functions import FUNCTIONS, METHODS, OPERATORS, RANKING, Function, finite
from planner.core.labels import Json
from planner.errors import PlanError

MAX_SOURCE = 10_000
"""The longest expression, in characters: far more than anybody writes, little enough to parse in an instant."""
MAX_DEPTH = 100
"""The deepest nesting that may be allowed: keeps the evaluator far from Python's own limit of 1,000 frames."""

FORMAT = "f\N{MIDDLE DOT}"
"""The function that an f-string becomes. The dot is legal in Python's names but refused in ours."""
_QUOTED = "\N{MIDDLE DOT}"
"""Ends a field name that is a Python keyword, such as the `from` of a mail."""


Literals: TypeAlias = frozenset[tuple[type, Json]]
"""The types and values of an expression's literals."""


class Flaw(NamedTuple):
    """What is wrong with an expression, whatever the data."""

    code: str
    message: str


@dataclass(frozen=True)
class Expr:
    """An expression, parsed once; `body` is None if it could not be."""

    source: str
    body: ast.expr | None = None
    flaws: tuple[Flaw, ...] = ()
    reads: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    """The names read somewhere else than on the left of a `??`."""
    literals: Literals = frozenset()
    depth: int = 0


# from our grammar to Python's -------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<string>(?:[^\W\d]\w*)?(?:'''|\"""|'|"))
      | (?P<word>\$?[^\W\d]\w*)
      | (?P<number>\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?)
      | (?P<space>\s+)
      | (?P<other>\?\?|!=|.)""",
    re.VERBOSE | re.DOTALL,
)
_LITERALS = {"true": "True", "false": "False", "null": "None"}
_REFUSED = {
    "$": "inside an expression names are bare: write `s1`, not `${s1}`; text stands in quotes",
    "|": "`|` is not part of the language: write `or` for a condition, `??` for a default",
    "#": "a comment cannot stand in an expression",
    _QUOTED: f"`{_QUOTED}` cannot stand in a name",
}
_ESCAPES = frozenset("\\'\"nrtxuU")
_CONTROL = {"\n": "\\n", "\r": "\\r", "\0": "\\0"}
_SPEC = re.compile(r"(?:[^{}]?[<>^])?[-+ ]?0?\d{0,3}[,_]?(?:\.\d{1,2})?[deEfFgGs%]?")


def translated(text: str, at: int, *, stops: tuple[str, ...] = ()) -> tuple[str, int]:
    """Python for the expression from `at` to the first stop outside brackets and strings, and where that is.

    Raises `PlanError` for what is no token of the grammar.
    """
    try:
        return _code(text, at, stops)
    except RecursionError:
        raise PlanError("P-210", "f-strings are nested too deeply", error_class="limit") from None


def _code(text: str, at: int, stops: tuple[str, ...]) -> tuple[str, int]:
    pieces: list[str] = []
    depth, last = 0, ""
    while token := _TOKEN.match(text, at):
        piece = token[0]
        if depth == 0 and piece in stops:
            break
        at = token.end()
        depth += (piece in ("(", "[", "{")) - (piece in (")", "]", "}"))
        if depth < 0:
            raise PlanError("P-201", f"`{piece}` closes nothing")
        match token.lastgroup:
            case "string":
                piece, at = _string(text, piece, at)
            case "word":
                piece = _word(piece.removeprefix("$"), last)
            case "number" if text[at : at + 1].isidentifier():
                raise PlanError("P-201", f"a letter follows the number `{piece}`; there are decimal numbers only")
            case "other":
                piece = _sign(piece)
            case _:
                pass
        pieces.append(" " if token.lastgroup == "space" else piece)
        last = last if token.lastgroup == "space" else piece
    return "".join(pieces), at


def _word(word: str, last: str) -> str:
    if last == ".":
        return word + _QUOTED if iskeyword(word) else word
    return _LITERALS.get(word, word)


def field_name(name: str) -> str:
    """The field that an attribute of the parsed expression means."""
    return name.removesuffix(_QUOTED)


def _sign(sign: str) -> str:
    """`??` as `|`, which stands at the wanted place in Python's order of operators."""
    if sign in _REFUSED:
        raise PlanError("P-201", _REFUSED[sign])
    return "|" if sign == "??" else sign


def _string(text: str, opening: str, at: int) -> tuple[str, int]:
    """A string literal as Python; an f-string as a call of `FORMAT`, so that every Python reads it alike.

    The arguments of the call are text, value, format, text, value, format, ..., text.
    """
    quote = opening[-3:] if opening.endswith(("'''", '"""')) else opening[-1]
    prefix = opening.removesuffix(quote)
    if iskeyword(prefix):
        literal, at = _string(text, quote, at)
        return f"{prefix} {literal}", at
    if prefix not in ("", "f", "F"):
        raise PlanError("P-201", f"`{prefix}` cannot stand before a text; only `f` can")
    pieces = [quote]
    while not text.startswith(quote, at):
        if at >= len(text):
            raise PlanError("P-201", f"a text that starts with `{opening}` is not closed")
        braces = text[at : at + 2]
        if prefix and braces in ("{{", "}}"):
            piece, at = braces[0], at + 2
        elif prefix and text[at] == "{":
            piece, at = _field(text, at + 1)
            piece = f"{quote},{piece},{quote}"
        else:
            piece, at = _character(text, at)
        pieces.append(piece)
    literal = "".join([*pieces, quote])
    return (f"{FORMAT}({literal})" if prefix else literal), at + len(quote)


def _character(text: str, at: int) -> tuple[str, int]:
    """One character of a literal; an unknown escape is a backslash, as in Python, but without the warning."""
    if text[at] != "\\":
        return _CONTROL.get(text[at], text[at]), at + 1
    if text[at + 1 : at + 2] in _ESCAPES:
        return text[at : at + 2], at + 2
    return "\\\\", at + 1


def _field(text: str, at: int) -> tuple[str, int]:
    """The value and the format of an f-string's field as two arguments."""
    value, end = _code(text, at, ("}", ":"))
    close = text.find("}", end)
    spec = text[end + 1 : close] if end < close else ""
    if close < 0 or not value.strip() or not _SPEC.fullmatch(spec):
        raise PlanError("P-201", f"`{{{shortened(text[at:])}` is not a field such as `{{x}}` or `{{x:.2f}}`")
    return f"({value}),{spec!r}", close + 1


def shortened(source: str) -> str:
    """The source as messages quote it."""
    return source if len(source) <= 80 else source[:79] + "…"


@lru_cache(maxsize=1024)
def parse(source: str) -> Expr:
    """The expression a text writes, with every flaw that can be seen without data."""
    try:
        body = _body(source)
    except PlanError as error:
        return Expr(source, flaws=(flaw(source, error.code, error.message),))
    depth = _depth(body)
    if depth > MAX_DEPTH:
        return Expr(source, flaws=(flaw(source, "P-210", f"nested {depth} deep, above {MAX_DEPTH}"),))
    read = frozenset(_names(body, frozenset(), spared=False))
    return Expr(
        source=source,
        body=body,
        flaws=tuple(dict.fromkeys(flaw(source, code, message) for code, message in _flaws(body))),
        reads=frozenset(name for name, _ in read),
        needs=frozenset(name for name, spared in read if not spared),
        literals=frozenset(_literals(body)),
        depth=depth,
    )


def flaw(source: str, code: str, message: str) -> Flaw:
    """What is wrong with `source`, quoting it."""
    return Flaw(code, f"`{shortened(source)}`: {message}")


def _body(source: str) -> ast.expr:
    if len(source) > MAX_SOURCE:
        raise PlanError("P-210", f"longer than {MAX_SOURCE:,} characters", error_class="limit")
    python, _ = translated(source.strip(), 0)
    try:
        return _parsed(python).body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "not text that can be encoded"
        raise PlanError("P-201", f"is not an expression: {reason}") from None
    except (RecursionError, MemoryError):
        raise PlanError("P-210", "is nested too deeply", error_class="limit") from None


def _parsed(python: str) -> ast.Expression:
    """The tree. CPython counts its depth per process, and miscounts when another thread parses at that moment."""
    try:
        return ast.parse(python, mode="eval")
    except SystemError:  # pragma: no cover - https://github.com/python/cpython/issues/106905 comes as it likes
        return ast.parse(python, mode="eval")


def _depth(body: ast.expr) -> int:
    depth = 0
    level: list[ast.AST] = [body]
    while level:
        depth += 1
        children = (child for node in level for child in ast.iter_child_nodes(node))
        level = [child for child in children if isinstance(child, _PARTS)]
    return depth


# what the grammar refuses -----------------------------------------------------------------------------------

_PARTS = (ast.expr, ast.comprehension, ast.keyword, ast.arguments)
_PLAIN = (
    *(ast.BoolOp, ast.IfExp, ast.Slice, ast.List, ast.Tuple, ast.Set),
    *(ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp),
)


def _flaws(body: ast.expr) -> Iterator[Flaw]:
    keys = {key for node in ast.walk(body) if isinstance(node, ast.Call) for key in _ranking_keys(node)}
    for node in ast.walk(body):
        if isinstance(node, ast.Lambda) and node not in keys:
            yield Flaw("P-203", f"`lambda` can stand only as `key=` of {', '.join(sorted(RANKING))}")
        elif isinstance(node, ast.expr | ast.comprehension) and not isinstance(node, _PLAIN):
            yield from _CHECKS.get(type(node), _foreign)(node)


def _ranking_keys(node: ast.Call) -> list[ast.expr]:
    ranks = isinstance(node.func, ast.Name) and node.func.id in RANKING
    return [keyword.value for keyword in node.keywords if ranks and keyword.arg == "key"]


def _foreign(node: ast.AST) -> Iterator[Flaw]:
    name = {ast.NamedExpr: ":=", ast.Starred: "*"}.get(type(node), type(node).__name__.lower())
    yield Flaw("P-203", f"`{name}` is not part of the expression language")


def _constant(node: ast.Constant) -> Iterator[Flaw]:
    match node.value:
        case bool() | None:
            pass
        case int() | float() as number:
            try:
                finite(number)
            except PlanError as error:
                yield Flaw(error.code, error.message)
        case str() as text if not re.search(r"[\ud800-\udfff]", text):
            pass
        case _:
            yield Flaw("P-203", "a literal is text, a number, true, false or null")


def _name(node: ast.Name | ast.Attribute) -> Iterator[Flaw]:
    name = node.id if isinstance(node, ast.Name) else node.attr
    if name.startswith("__"):
        yield Flaw("P-203", f"`{name}`: names that begin with `__` are not part of the language")


def _binary(node: ast.BinOp) -> Iterator[Flaw]:
    if type(node.op) not in OPERATORS and not isinstance(node.op, ast.BitOr):
        yield Flaw("P-203", "operators on bits are not part of the language: write `and`, `or`, `not`")


def _unary(node: ast.UnaryOp) -> Iterator[Flaw]:
    if isinstance(node.op, ast.Invert):
        yield Flaw("P-203", "`~` is not part of the language: write `not`")


def _compare(node: ast.Compare) -> Iterator[Flaw]:
    for op, right in zip(node.ops, node.comparators, strict=True):
        is_single = isinstance(right, ast.Constant) and isinstance(right.value, bool | None)
        if isinstance(op, ast.Is | ast.IsNot) and not is_single:
            yield Flaw("P-203", "`is` compares with null, true or false only: write `==`")


def _subscript(node: ast.Subscript) -> Iterator[Flaw]:
    if isinstance(node.slice, ast.Tuple):
        yield Flaw("P-203", "an index is one value or one slice: write `x[1][2]`, not `x[1, 2]`")


def _dict(node: ast.Dict) -> Iterator[Flaw]:
    if None in node.keys:
        yield Flaw("P-203", "`**` cannot stand in a record: write `dict(a, name=value)`")


def _lambda(node: ast.Lambda) -> Iterator[Flaw]:
    if len(node.args.args) != 1 or ast.unparse(node.args) != node.args.args[0].arg:
        yield Flaw("P-203", "a `lambda` takes one parameter, as in `key=lambda x: x.price`")


def _comprehension(node: ast.comprehension) -> Iterator[Flaw]:
    if node.is_async or not _is_target(node.target):
        yield Flaw("P-203", "a loop reads `for x in list` or `for x, y in list`")


def _is_target(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(_is_target, node.elts))
    return isinstance(node, ast.Name)


def _call(node: ast.Call) -> Iterator[Flaw]:
    match node.func:
        case ast.Name(id=name) if name == FORMAT:
            return
        case ast.Name(id=name):
            calls, given = [FUNCTIONS[name]] if name in FUNCTIONS else [], len(node.args)
        case ast.Attribute(attr=name):
            calls, given = [table[name] for table in METHODS.values() if name in table], len(node.args) + 1
        case _:
            yield Flaw("P-203", "only functions and methods can be called")
            return
    if not calls:
        yield Flaw("P-202", _unknown(name, is_method=isinstance(node.func, ast.Attribute)))
    elif not any(_takes(call, given, node.keywords) for call in calls):
        yield Flaw("P-202", f"`{name}` is called as {' or '.join(_usage(name, call) for call in calls)}")
    elif any(not isinstance(key, ast.Lambda) for key in _ranking_keys(node)):
        yield Flaw("P-203", f"`key` of `{name}` is a lambda, such as `key=lambda x: x.price`")


def _unknown(name: str, *, is_method: bool) -> str:
    if is_method:
        known = dict.fromkeys(method for table in METHODS.values() for method in table)
        return f"there is no method `{name}`; there are {', '.join(known)}"
    return f"there is no function `{name}`; there are {', '.join(FUNCTIONS)}"


def _takes(call: Function, given: int, keywords: list[ast.keyword]) -> bool:
    try:
        signature(call).bind(*range(given), **{str(keyword.arg): None for keyword in keywords})
    except TypeError:
        return False
    return None not in [keyword.arg for keyword in keywords]


def _usage(name: str, call: Function) -> str:
    parameters = signature(call).parameters.values()
    return f"`{name}({', '.join(p.name if p.default is p.empty else f'{p.name}?' for p in parameters)})`"


_CHECKS: Mapping[type[ast.AST], Callable[[Any], Iterator[Flaw]]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _name,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.Subscript: _subscript,
    ast.Dict: _dict,
    ast.Lambda: _lambda,
    ast.comprehension: _comprehension,
    ast.Call: _call,
}


# what an expression reads -----------------------------------------------------------------------------------


def _names(node: ast.AST, bound: frozenset[str], *, spared: bool) -> Iterator[tuple[str, bool]]:
    """Every free name, with whether it stands on the left of a `??`."""
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    match node:
        case ast.Name(id=name) if name not in bound:
            yield name, spared
        case ast.BinOp(op=ast.BitOr()):
            yield from _names(node.left, bound, spared=True)
            children = [node.right]
        case ast.Call(func=ast.Name()):
            children = [*node.args, *node.keywords]
        case ast.Lambda():
            bound |= {argument.arg for argument in node.args.args}
            children = [node.body]
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for loop in node.generators:
                yield from _names(loop.iter, bound, spared=spared)
                bound |= {part.id for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
            tests = (test for loop in node.generators for test in loop.ifs)
            children = chain(tests, (child for child in children if isinstance(child, ast.expr)))
        case _:
            pass
    for child in children:
        yield from _names(child, bound, spared=spared)


def _literals(body: ast.expr) -> Iterator[tuple[type, Any]]:
    """The type and value of every literal; the constant pieces of an f-string are none."""
    pieces = {piece for node in ast.walk(body) for piece in _format_pieces(node)}
    for node in ast.walk(body):
        match node:
            case ast.Constant(value=value) if node not in pieces:
                yield type(value), value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                yield type(number), -number
            case _:
                pass


def _format_pieces(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == FORMAT:
        return [part for index, part in enumerate(node.args) if index % 3 != 1]
    return []
