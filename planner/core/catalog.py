"""What a plan may call: one shape for a tool, an agent, a person, a flow or a remote agent.

Rules of the file:
- A callee is data. How it is performed is known to `engine` and the modules below it, never here.
- Types are words (`text`, `list[path]`), because people, models and error messages all read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Literal, TypeAlias

from pydantic import Field

from planner.core.labels import Frozen, Integrity, Json, Names

CalleeKind: TypeAlias = Literal["tool", "agent", "human", "gate", "wait", "plan", "flow", "remote"]
Effect: TypeAlias = Literal[
    "pure",  # a function of its arguments; touches nothing
    "read",  # looks at something of ours
    "fetch",  # looks at something outside; the request itself is visible there
    "write",  # changes something of ours that can be put back
    "send",
    "spend",
    "delete",
    "account",
    "execute",
]
READING: frozenset[str] = frozenset({"pure", "read", "fetch"})
"""Effects that may be repeated, reordered and retried freely."""

ATOMS: tuple[str, ...] = (
    "any",
    "text",  # any characters
    "path",  # a file of the workspace, relative, with `/`
    "folder",  # a folder of the workspace
    "url",
    "email",
    "iban",
    "id",
    "span",  # characters that must occur verbatim in an input
    "date",  # YYYY-MM-DD
    "number",
    "integer",
    "boolean",
    "record",  # an object
    "table",  # a list of objects with the same keys
    "expression",  # evaluated by the callee, so no data may be interpolated into it
)
TEXTUAL: frozenset[str] = frozenset({"text", "path", "folder", "url", "email", "iban", "id", "span", "date"})

RESERVED: frozenset[str] = frozenset({"agent", "human", "gate", "wait", "plan", "flow", "memory"})
"""Namespaces that a tools folder may not use."""


def item_type(type_: str) -> str | None:
    """`T` for `list[T]`, `record` for `table`, else None."""
    if type_ == "table":
        return "record"
    if type_.startswith("list[") and type_.endswith("]"):
        return type_[5:-1]
    return None


def is_type(type_: str) -> bool:
    """Whether the word is a type of the plan language."""
    item = item_type(type_)
    return type_ in ATOMS or (item is not None and type_ != "table" and is_type(item))


class Parameter(Frozen):
    """One argument of a callee."""

    name: str
    type: str = "text"
    required: bool = True
    default: Json = None
    description: str = ""
    choices: tuple[str, ...] = ()
    is_offered: bool = True
    """Whether a model is shown it; a small one fills in whatever it sees."""


class Declaration(Frozen):
    """What a call does to the world and what it needs to be allowed; see docs/architecture.md, "Safety".

    The default is the most careful reading: unknown effect, everything controlled, nothing trusted.
    """

    effect: Effect = "execute"
    reversible: bool = False
    on_doubt: Literal["idempotent", "probe", "ask"] = "ask"
    """What to do when it is unknown whether the effect happened."""
    undo: str | None = None
    resource: tuple[str, ...] | None = None
    """Key templates such as `file:{path}`; `None` is unknown (conflicts with everything), `()` is nothing."""
    control: Mapping[str, Integrity] = Field(default_factory=dict)
    """The least integrity of each argument that decides what is done, as against what is merely carried."""
    recipients: tuple[str, ...] = ()
    payload: tuple[str, ...] = ()
    public_sink: bool = False
    span_ok: bool = False
    out: Literal["trusted", "bounded", "untrusted", "fields", "typed"] = "untrusted"
    """What the result is worth: `fields` is untrusted but for `bounded_fields`; `typed` is the quarantined
    kind, untrusted but for booleans and for what equals an attested leaf of the arguments."""
    bounded_fields: tuple[str, ...] = ()
    readers: Names | None = None
    """Who may see the result; None: anyone."""
    readers_from: tuple[str, ...] = ()
    """Fields of a record that name who may see it, and `@principal`; what names nobody is for the principal alone."""
    roles: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    timeout_s: float | None = None
    concurrency: int | None = Field(default=None, ge=1)
    """How many calls of it one process makes at once; None: as many as there is room for."""
    cost_usd: float | None = 0.0
    """The price of one call besides models, whether it succeeds or not; None is unknown."""
    max_tokens: int = 0
    """The most tokens that a model writes for one call; 0: no model is asked."""


class Callee(Frozen):
    """A thing that a step may `use`."""

    name: str
    kind: CalleeKind = "tool"
    summary: str
    parameters: tuple[Parameter, ...] = ()
    result: str = "any"
    declaration: Declaration = Declaration()
    converts: bool = False
    """Whether a checker may insert it to turn its one argument's type into its result's."""
    keywords: tuple[str, ...] = ()
    """Further words that a goal may use for it; retrieval reads them, models do not."""
    version: str = ""

    @property
    def is_reading(self) -> bool:
        """Whether a call may be repeated, because it changes nothing."""
        return self.declaration.effect in READING

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name, if there is one."""
        return next((p for p in self.parameters if p.name == name), None)


Catalogue: TypeAlias = Mapping[str, Callee]


def signature(callee: Callee) -> str:
    """One line that a model or a person can read: `files.read(path) -> text: Read a file`."""
    parameters = ", ".join(p.name if p.required else f"{p.name}?" for p in callee.parameters if p.is_offered)
    return f"{callee.name}({parameters}) -> {callee.result}: {callee.summary}"


_WORD = re.compile(r"[a-z0-9]+")
_EMPTY_WORDS = frozenset(
    re.split(
        " ",
        "a an and any are as at be but by do does each every file files for from has have if in into is it its me my "
        "no not of on one or our please text than that the their them then there this to txt was what which with",
    )
)
"""Words that say nothing of what a callee does; counting them would offer a planner any callee for any goal."""


def _terms(text: str) -> list[str]:
    """Lower-case words with plural and verb endings cut, so `files` finds `file`."""
    words = [word for word in _WORD.findall(text.lower()) if word not in _EMPTY_WORDS]
    return [re.sub(r"(ing|ed|es|s|e)$", "", word) if len(word) > 3 else word for word in words]


def retrieve(
    goal: str, catalogue: Catalogue, *, limit: int, always: Iterable[str] = (), only_matching: bool = False
) -> tuple[str, ...]:
    """The callees to offer a planner: those in `always` (in catalogue order), then the best matches.

    Ranked by BM25 (Robertson and Zaragoza 2009, section 3.4; k1 1.2, b 0.75) over name, summary, parameters and
    keywords. At most `limit` names, unless `always` alone has more; `only_matching` leaves out those that score less
    than a quarter of the best. If nothing is left the first ones are given: no planner sees an empty catalogue.
    """
    wanted = set(always)
    offered = [name for name in catalogue if name in wanted]
    rest = [name for name in catalogue if name not in wanted]
    room = max(0, limit - len(offered))
    if only_matching or len(rest) > room:
        scores = _bm25(_terms(goal), {name: _terms(_document(catalogue[name])) for name in rest})
        least = max(scores.values(), default=0.0) / 4 if only_matching else -1.0
        rest = [name for name in rest if scores[name] > least]
        rest = sorted(rest, key=lambda name: -scores[name])[:room]
    return tuple(offered + rest) or tuple(catalogue)[:limit]


def _document(callee: Callee) -> str:
    parts = [callee.name, callee.name, callee.summary, *callee.keywords]
    parts += [f"{p.name} {p.description}" for p in callee.parameters]
    return " ".join(parts)


def _bm25(query: Sequence[str], documents: Mapping[str, Sequence[str]]) -> dict[str, float]:
    k1, b = 1.2, 0.75
    mean = sum(len(d) for d in documents.values()) / max(1, len(documents)) or 1.0
    scores = dict.fromkeys(documents, 0.0)
    for term in dict.fromkeys(query):
        holding = {name: d.count(term) for name, d in documents.items() if term in d}
        rarity = log(1 + (len(documents) - len(holding) + 0.5) / (len(holding) + 0.5))
        for name, count in holding.items():
            scores[name] += rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * len(documents[name]) / mean))
    return scores
