"""Expressions as text: what they read, how tightly they hold together, and how they stand in other texts.

Rules of the file:
- A term is a bare expression; only `written` and `Marks` put it into a text.
- Data never becomes a reference: what an f-string leaves of a term is a mark with a number that only one builder
  knows, and what looks like a mark of nobody is an error.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner.core.expr import reference
from planner.core.syntax import parse
from planner.errors import PlanError

LOWEST, OR, AND, NOT, COMPARE, SUM, PRODUCT, MINUS, POWER, ATOM = range(10)
"""How tightly an expression holds together; what is looser than its place needs parentheses."""
_ATOMS = (ast.Name, ast.Call, ast.Attribute, ast.Subscript, ast.List, ast.Dict, ast.Set, ast.ListComp)


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """One meaning of a name; in another scope the same text may mean something else."""

    text: str
    scope: object


@dataclass(frozen=True, slots=True)
class Term:
    """A bare expression with the names that it reads; `part` is value and field where it is `value.field`."""

    source: str
    level: int
    reads: frozenset[Name]
    marks: Marks
    part: tuple[Term, str] | None = None

    def within(self, level: int) -> str:
        """The source for a place that needs at least that level."""
        return self.source if self.level >= level else f"({self.source})"

    @property
    def as_field(self) -> str:
        """The source for the braces of an f-string, where two of them would be one character."""
        return f" {self.source}" if self.source.startswith("{") else self.source

    @property
    def written(self) -> str:
        """The text that is exactly this value: `$s1.items[0]`, or `${expr}`."""
        target = reference(f"${self.source}")
        is_path = target is not None and target[0] in {name.text for name in self.reads}
        return f"${self.source}" if is_path else f"${{{self.source}}}"


def joined(source: str, parts: Iterable[Term], marks: Marks, *, level: int = ATOM) -> Term:
    """A term made of others, whose sources stand in `source`."""
    return Term(source, level, frozenset[Name]().union(*(part.reads for part in parts)), marks)


def literal(text: str) -> str:
    """Text as a literal of the expression language, which lacks two of JSON's escapes."""
    other = {"\\b": "\\x08", "\\f": "\\x0c"}
    return re.sub(r"\\[\\bf]", lambda escape: other.get(escape[0], escape[0]), json.dumps(text, ensure_ascii=False))


def formatted(pieces: Iterable[str | Term], marks: Marks) -> Term:
    """An f-string of the expression language, of constant text and terms."""
    inner = ""
    parts = list(pieces)
    for piece in parts:
        if isinstance(piece, str):
            inner += literal(piece)[1:-1].replace("{", "{{").replace("}", "}}")
        else:
            inner += f"{{{piece.as_field}}}"
    return joined(f'f"{inner}"', (part for part in parts if isinstance(part, Term)), marks)


def check_readable(source: str) -> None:
    """Raises `PlanError` if the text is no expression."""
    flaws = parse(source).flaws
    if flaws:
        raise PlanError(*flaws[0])


# terms inside texts ------------------------------------------------------------------------------------------

_HALVES = re.compile("[\ud800-\udfff]")
_MARK = re.compile("\ue000([0-9]{16})\\.([0-9]+)\ue001")


class Marks:
    """The terms that were put into texts, each behind a mark that stands for it until the plan has the text."""

    def __init__(self) -> None:
        self.number = f"{secrets.randbelow(10**16):016}"  # digits, so that a mark survives `upper` and `title`
        self._terms: list[Term] = []

    def mark(self, term: Term) -> str:
        """What stands for the term in a text."""
        self._terms.append(term)
        return f"\ue000{self.number}.{len(self._terms) - 1}\ue001"

    def pieces(self, text: str, where: str) -> list[str | Term]:
        """Constant text and terms in turn. Raises `PlanError` if a mark was cut, or is another builder's."""
        if _HALVES.search(text):
            raise PlanError("P-404", f"{where} holds half a character", hint="Decode it with `errors='replace'`.")
        constant, *marked = _MARK.split(text)
        pieces: list[str | Term] = [constant]
        for number, index, after in zip(marked[0::3], marked[1::3], marked[2::3], strict=True):
            if number != self.number:
                raise PlanError("P-402", f"{where} reads a reference of another builder", hint="Use one builder.")
            pieces += [self._terms[int(index)], after]
        if any(isinstance(piece, str) and self.number in piece for piece in pieces):
            hint = "Put it into an f-string as `{x}`, and change the text around it before, not afterwards."
            raise PlanError("P-403", f"{where} holds what is left of a reference", hint=hint)
        return pieces

    def plain(self, text: str, where: str) -> str:
        """The text itself. Raises `PlanError` if there is a reference in it."""
        if len(self.pieces(text, where)) > 1:
            raise PlanError("P-403", f"{where} cannot hold a reference", hint="Write plain text there.")
        return text


# the names of an expression -----------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<quote>'''|\"""|'|")
      | (?P<word>\$?[^\W\d]\w*)
      | (?P<number>\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NO_NAME = re.compile(r"""\s*(?:\(|=(?!=))|['"]""")
"""What follows a word that names a function, an option, or the kind of a text."""


def expression(source: str, terms: Mapping[str, Term], marks: Marks) -> Term:
    """The expression with its free names replaced by these terms.

    Raises `PlanError` for what is no expression, for names without a term and terms without a name, and where a
    variable of the expression itself would hide what a term reads.
    """
    bare = marks.plain(source, "an expression").strip()
    check_readable(bare)
    parsed = parse(bare)
    given = ", ".join(f"`{name}`" for name in terms) or "none"
    for name in sorted(parsed.reads ^ set(terms)):
        what = "reads" if name in parsed.reads else "does not read"
        hint = f"Name each value that it reads: `{name}=...`; given are: {given}."
        raise PlanError("P-406", f"the expression `{bare:.80}` {what} `{name}`", hint=hint)
    reads = {name.text for term in terms.values() for name in term.reads}
    for variable in sorted(_variables(parsed.body) & (reads | set(terms))):
        what = f"the variable `{variable}` of the expression `{bare:.80}` hides a value of that name"
        raise PlanError("P-406", what, hint="Call the variable otherwise.")
    level = ATOM if isinstance(parsed.body, _ATOMS) else LOWEST
    return joined(_code(bare, 0, terms, stops="")[0], terms.values(), marks, level=level)


def _variables(body: ast.expr | None) -> frozenset[str]:
    """The variables of an expression's loops and lambdas."""
    nodes = list(ast.walk(body)) if body else []
    targets = [part for node in nodes if isinstance(node, ast.comprehension) for part in ast.walk(node.target)]
    names = {part.id for part in targets if isinstance(part, ast.Name)}
    return frozenset(names | {node.arg for node in nodes if isinstance(node, ast.arg)})


def _code(source: str, at: int, terms: Mapping[str, Term], *, stops: str) -> tuple[str, int]:
    """What stands from `at` to the first stop outside of brackets, and where that is."""
    done, depth, last = "", 0, ""
    while (token := _TOKEN.match(source, at)) and not (depth == 0 and token[0] in stops):
        piece, at = token[0], token.end()
        depth += (piece in "([{") - (piece in ")]}")
        if token["quote"]:
            piece, at = _quoted(source, piece, at, terms if last in ("f", "F") and done[-1] == last else None)
        elif token["word"] and last != "." and not _NO_NAME.match(source, at):
            term = terms.get(piece.removeprefix("$"))
            piece = term.within(ATOM) if term else piece
        done += piece
        last = last if piece.isspace() else piece
    return done, at


def _quoted(source: str, quote: str, at: int, terms: Mapping[str, Term] | None) -> tuple[str, int]:
    """A text behind its opening quote; with `terms` it is an f-string, whose fields are expressions."""
    done = quote
    while not source.startswith(quote, at):
        if terms is not None and source[at] == "{" and source[at + 1] != "{":
            value, at = _code(source, at + 1, terms, stops=":}")
            close = source.index("}", at)
            piece, at = f"{{{value}{source[at:close]}}}", close + 1
        else:
            is_pair = source[at] == "\\" or source[at : at + 2] in ("{{", "}}")
            piece = source[at : at + 1 + is_pair]
            at += len(piece)
        done += piece
    return done + quote, at + len(quote)
