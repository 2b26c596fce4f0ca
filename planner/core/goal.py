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
Part: TypeAlias = Literal["source", "target", "edited", "either", "unknown"]


class Named(Frozen):
    """One thing that the goal names.

    `part` is what the wording says of a path: read from, written to, changed in place, read if it is there and
    else written (`either`: "the names in guests.txt"), or unknown. `found` is what the workspace held when the run
    started (None: not looked up); `text` is then the name as it is spelled there.
    """

    text: str
    kind: NamedKind
    part: Part = "unknown"
    found: Literal["file", "folder", "absent"] | None = None

    @property
    def is_written(self) -> bool:
        """Whether the goal wants this file written."""
        is_target = self.part in {"target", "edited"} or (self.part == "either" and self.found == "absent")
        return self.kind == "path" and is_target

    @property
    def is_absent_source(self) -> bool:
        """Whether the goal reads a thing that does not exist; a plan must not make it up."""
        return self.part in {"source", "edited"} and self.found == "absent"

    @property
    def is_perhaps_no_file(self) -> bool:
        """Whether it only looks like a path, as `os.path` or `Node.js` do."""
        return self.kind == "path" and self.part == "unknown" and self.found == "absent"


_QUOTE = re.compile(
    r'"([^"\n]+)"|„([^“”\n]+)[“”]|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`'
    r"|(?<!\w)'([^'\n]+)'(?!\w)|\u2018([^\u2019\n]+)\u2019(?!\w)"
)
_URL = re.compile(r"https?://[^\s\"'<>)\]”\u2019»]+[^\s\"'<>)\].,;:!?”\u2019»]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_EXTENSION = r"\.(?:[A-Za-z]\w{0,4}|geojson|markdown|ndjson|parquet|properties|sqlite3?)"
_PATH = re.compile(rf"(?<![\w@/])(?:\.{{1,2}}/)?(?:[\w-]+(?:[.][\w-]+)*/)*[\w-]+(?:\.[\w-]+)*{_EXTENSION}(?![\w/@])")
_SPACED_PATH = re.compile(r"[\w./-]+(?: [\w./()&+,-]+){1,4}\.(?:[a-z][a-z0-9]{1,4}|[A-Z][A-Z0-9]{1,4})")
_SLASHED = re.compile(r"(?<![\w@/:.])(?:\.{1,2}/)?(?:[\w-]+/)+(?![\w@.])")
_FOLDERS = (
    re.compile(r"(?i)\b(?:folder|directory)\s+(?:called\s+|named\s+)?([\w./-]*\w)"),
    re.compile(r"(?i)\b([\w./-]+)\s+(?:folder|directory)\b"),
)
_LISTED = re.compile(r"[\"'`”]?\s*(?:,|and|or|with|,\s*and)\s+(?:the\s+)?(?:file\s+)?[\"'`“]?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?![\w])")
_NOT_PATHS = re.compile(
    r"(?i)(?:.* )?(?:e\.g|i\.e|a\.m|p\.m|ph\.d|(?-i:[A-Z](?:\.[A-Z])+)|\d+(?:\.\d+)*\.[a-z]"
    r"|www\..+|(?:[\w-]+\.)+(?:com|org|net|io|gov|edu|co)(?:\.\w\w)?)"
)
"""Abbreviations, numbered items such as `4.a`, and hosts."""
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
_BRANCH = re.compile(r"(?i)\b(?:if|unless|in case|otherwise)\b")
_EACH = re.compile(r"(?i)\b(?:each|every|per)\b")
_ADDS = r"append|insert|add(?=\s+[\"'“`]|\s+an?\s|\s+the\s+(?:line|word|text|row|note)\b)"
_CHANGES = re.compile(
    r"(?i)\s*(?:please\s+)?(?:in\s+\S+,?\s+)?(?:replace|change|remove|delete|correct|fix|sort|rename|uppercase|"
    rf"lowercase|capitali[sz]e|deduplicate|{_ADDS}|update(?!\s+(?:me|us)\b)|edit|reformat)\b"
)
_TELLS = re.compile(r"(?i)\b(?:(?:tell|show|give|send)\s+(?:me|us)|let\s+(?:me|us)\s+know)\b")
_INTO = re.compile(rf"(?i)(?<!look )(?<!looking )(?<!dig )(?<!delve )\binto\s+{_FILLER}$")
_BESIDE = re.compile(
    rf"(?i)\b(?:according|similar|identical|equal|relative|refer\w*|respond\w*|such|same\b.*|"
    rf"compar\w+(?:(?!\b(?:write|save|put|store|export|append)\b).)*)\s+(?:to|as)\s+{_FILLER}$"
)
"""What stands beside something else, as in "similar to": nobody reads or writes it for that."""
_REPLY = re.compile(rf"(?i)\b(?:repl(?:y|ies)|responses?|answers?|reactions?)\s+to\s+{_FILLER}$")
_TO = re.compile(rf"(?i)\b(?:to|as|create|write|make|produce|generate|called|named|draft)\s+{_FILLER}$")
_IN = re.compile(rf"(?i)\b(?:in|inside|under)\s+{_FILLER}$")
_STORES = re.compile(
    r"(?i)\b(?:save|put|store|append|insert)s?\b"
    r"|\b(?:write|create|make|generate|produce)s?\b(?!.*\b(?:of|about|on|for|that|which|is|are|how|what)\b)"
)
"""A verb after which `in` says where to: "write a line in", but not "write a summary of the events in"."""
_AROUND = 300
"""How many characters around a path may say what becomes of it: longer than any sentence that can be read so."""
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


def has_branches(goal: str) -> bool:
    """Whether the wording makes what happens depend on what is found."""
    return bool(_BRANCH.search(goal))


def speaks_of_adding(goal: str) -> bool:
    """Whether the wording wants something put to what a file already holds."""
    return bool(re.search(rf"(?i)\b(?:{_ADDS})\b", goal))


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
    yield from (found for found in _places(_PATH, goal, "path") if not _NOT_PATHS.fullmatch(found[2]))
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
    is_path = _PATH.fullmatch(inner) or _SPACED_PATH.fullmatch(inner)
    return "path" if is_path and not _NOT_PATHS.fullmatch(inner) else "quote"


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
    if len(paths) != 1 or paths[0].part == "target" or not _CHANGES.match(goal) or _TELLS.search(goal):
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
    before = _QUOTE.sub("", goal[max(0, start - _AROUND) : start]).rstrip("\"'`“„«\u2018")
    sentence = _PATH.sub("", re.split(r"[.;!?]\s", before)[-1])  # a file called `log.txt` is no word of writing
    rest = re.split(r"[.;!?]\s", goal[end : end + _AROUND])[0]
    is_last = not _PATH.search(rest)
    has_verb = bool(_WRITES.search(sentence))
    if _BESIDE.search(before):
        return "unknown"
    if has_verb and (_REPLY.search(before) or (is_last and _IN.search(before) and not _STORES.search(sentence))):
        return "either"
    if _INTO.search(before) or (has_verb and (_TO.search(before) or (is_last and _IN.search(before)))):
        return "target"
    return "source" if _FROM.search(before) else "unknown"
