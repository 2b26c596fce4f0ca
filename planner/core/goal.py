"""What the words of a goal name: paths, URLs, e-mail addresses, quotations and numbers.

Rules of the file:
- Only the principal's own words are read here, so what is found is trusted.
- Finding is by pattern and errs towards "unknown": a wrong guess about a file's part in a goal would reject good
  plans, while an unknown one only checks less.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from planner.core.labels import Frozen

NamedKind: TypeAlias = Literal["path", "folder", "url", "email", "quote", "number"]
Part: TypeAlias = Literal["source", "target", "edited", "unknown"]


class Named(Frozen):
    """One thing that the goal names.

    `part` is what the wording says of a path: read from, written to, changed in place, or unknown. `found` is what
    the workspace held when the run started (None: not looked up); `text` is then the name as it is spelled there.
    """

    text: str
    kind: NamedKind
    part: Part = "unknown"
    found: Literal["file", "folder", "absent"] | None = None

    @property
    def is_written(self) -> bool:
        """Whether the goal wants this file written."""
        return self.kind == "path" and self.part in {"target", "edited"}

    @property
    def is_absent_source(self) -> bool:
        """Whether the goal reads a thing that does not exist; a plan must not make it up."""
        return self.part in {"source", "edited"} and self.found == "absent"


_QUOTE = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|`([^`\n]+)`|(?<!\w)\'([^\'\n]+)\'(?!\w)')
_URL = re.compile(r"https?://[^\s\"'<>)\]]+[^\s\"'<>)\].,;:!?]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PATH = re.compile(
    r"(?<![\w@/])(?:\.{1,2}/)?(?:[\w-]+(?:[.][\w-]+)*/)*[\w-]+(?:\.[\w-]+)*\.[A-Za-z]\w{0,4}(?![\w/@])"
)
_SLASHED = re.compile(r"(?<![\w@/:.])(?:\.{1,2}/)?(?:[\w-]+/)+(?![\w@.])")
_FOLDERS = (
    re.compile(r"(?i)\b(?:folder|directory)\s+(?:called\s+|named\s+)?([\w./-]*\w)"),
    re.compile(r"(?i)\b([\w./-]+)\s+(?:folder|directory)\b"),
)
_LISTED = re.compile(r"[\"'`”]?\s*(?:,|and|or|with|,\s*and)\s+(?:the\s+)?(?:file\s+)?[\"'`“]?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?![\w])")
_NOT_PATHS = re.compile(r"(?i)^(e\.g|i\.e|a\.m|p\.m|[\w-]+\.(com|org|net|io|gov|edu|co))$")
_NOT_FOLDERS = frozenset(
    re.split(
        " ",
        "the a an this that each every my your our current same new in of and named called it its is for with to "
        "from one any all whole working sub target output input which as on if has contains be by there",
    )
)
_FILLER = r"(?:(?:a|an|the|this|its|my|our|new|existing|text|csv|json|markdown|file|document|named|called)\s+)*"
_WRITES = re.compile(
    r"(?i)\b(write|writes|save|put|store|export|output|append|add|create|make|generate|produce|record|copy|place|"
    r"collect|log|draft|move|rename|convert|render|print|dump|result|answer)\w*\b"
)
_CONDITION = re.compile(r"(?i)\b(?:if|when|whenever|unless|in case|otherwise|only)\b")
_EACH = re.compile(r"(?i)\b(?:each|every|per)\b")
_CHANGES = re.compile(
    r"(?i)\s*(?:please\s+)?(?:in\s+\S+,?\s+)?(?:replace|change|remove|delete|correct|fix|sort|rename|uppercase|"
    r"lowercase|capitali[sz]e|deduplicate|append|add|insert|update|edit|reformat)\b"
)
_TO = re.compile(rf"(?i)\b(?:to|as|create|write|make|produce|generate|called|named|draft)\s+{_FILLER}$")
_IN = re.compile(rf"(?i)\b(?:in|inside|under)\s+{_FILLER}$")
_FROM = re.compile(
    rf"(?i)\b(?:from|of|in|using|between|both|read|open|load|parse|check|compare|sort|search|review|proofread|"
    rf"summari[sz]e|translate|count|extract|sum|analy[sz]e|condense|shorten|rewrite|convert|merge|combine|join|"
    rf"look at|copy|move|rename|every line of|lines of)\s+{_FILLER}$"
)


def named(goal: str) -> tuple[Named, ...]:
    """Everything that `goal` names, in the order of the text, each once."""
    spans: list[tuple[int, int, Named]] = []
    for start, end, text, kind in _candidates(goal):
        if text and not any(start < e and s < end for s, e, _ in spans):
            part: Part = _part(goal, start, end) if kind == "path" else "unknown"
            spans.append((start, end, Named(text=text, kind=kind, part=part)))
    spans.sort(key=lambda span: span[0])
    return _edited(goal, _once(_carried(goal, spans)))


def is_conditional(goal: str) -> bool:
    """Whether the wording leaves open that something happens at all."""
    return bool(_CONDITION.search(goal))


def speaks_of_each(goal: str) -> bool:
    """Whether the wording wants something done once per thing."""
    return bool(_EACH.search(goal))


def _candidates(goal: str) -> Iterator[tuple[int, int, str, NamedKind]]:
    """Every find with its place, the surest kinds first: of two that overlap the first counts."""
    for match in _QUOTE.finditer(goal):
        inner = next(group for group in match.groups() if group is not None)
        yield match.start(), match.end(), inner, _quoted_kind(inner)
    yield from _places(_URL, goal, "url")
    yield from _places(_EMAIL, goal, "email")
    yield from (found for found in _places(_PATH, goal, "path") if not _NOT_PATHS.match(found[2]))
    for pattern in _FOLDERS:
        yield from (f for f in _places(pattern, goal, "folder") if f[2].lower().strip("./") not in _NOT_FOLDERS)
    yield from _places(_SLASHED, goal, "folder")
    yield from _places(_NUMBER, goal, "number")


def _places(pattern: re.Pattern[str], goal: str, kind: NamedKind) -> Iterator[tuple[int, int, str, NamedKind]]:
    """Where `pattern` matches; its group, if it has one, is what is named."""
    for match in pattern.finditer(goal):
        group = pattern.groups
        text = match[group].rstrip("/" if kind == "folder" else ".") if kind != "path" else match[group]
        yield match.start(group), match.end(group), text, kind


def _quoted_kind(inner: str) -> NamedKind:
    if _URL.fullmatch(inner):
        return "url"
    return "path" if _PATH.fullmatch(inner) and not _NOT_PATHS.match(inner) else "quote"


def _carried(goal: str, spans: list[tuple[int, int, Named]]) -> tuple[Named, ...]:
    """The items in order, where `a.txt, b.txt and c.txt` carries the part of the first to the others."""
    result: list[Named] = []
    for index, (start, _, item) in enumerate(spans):
        is_next = index > 0 and bool(_LISTED.fullmatch(goal[spans[index - 1][1] : start]))
        carries = is_next and item.kind == "path" and item.part == "unknown"
        result.append(item.model_copy(update={"part": result[-1].part}) if carries else item)
    return tuple(result)


def _edited(goal: str, found: tuple[Named, ...]) -> tuple[Named, ...]:
    """The items, where the only file of a goal that begins with a word of change is changed in place."""
    paths = [item for item in found if item.kind == "path"]
    if len(paths) != 1 or paths[0].part == "target" or not _CHANGES.match(goal):
        return found
    return tuple(i.model_copy(update={"part": "edited"}) if i.kind == "path" else i for i in found)


def _once(found: tuple[Named, ...]) -> tuple[Named, ...]:
    """Each text once; a file both read and written in the wording counts as unknown."""
    kept: dict[str, Named] = {}
    for item in found:
        earlier = kept.get(item.text)
        if earlier is None:
            kept[item.text] = item
        elif earlier.part != item.part:
            parts = {earlier.part, item.part} - {"unknown"}
            part: Part = parts.pop() if len(parts) == 1 else "unknown"
            kept[item.text] = earlier.model_copy(update={"part": part})
    return tuple(kept.values())


def _part(goal: str, start: int, end: int) -> Part:
    """Whether the wording around a path reads from it or writes to it."""
    before = goal[:start].rstrip("\"'`“")
    sentence = re.split(r"[.;!?]\s", before)[-1]
    verb_before = bool(_WRITES.search(sentence))
    if re.search(rf"(?i)\binto\s+{_FILLER}$", before) or (verb_before and _TO.search(before)):
        return "target"
    rest = re.split(r"[.;!?]\s", goal[end:])[0]
    is_last = not _PATH.search(rest)
    if _IN.search(before) and verb_before and is_last and not _FROM_VERB.search(sentence):
        return "target"
    return "source" if _FROM.search(before) else "unknown"


_FROM_VERB = re.compile(r"(?i)\b(find|search|replace|count|change|number of|how many|fix|correct|look)\b")
