"""HTML as text that a person or a model can read: the title, the text by blocks, and where links lead.

Rules of the file:
- Reading takes time linear in the page whatever it holds: every pattern matches to the end of the page at worst,
  and none goes back. (The parser of the standard library takes time quadratic in some hostile pages.)
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import urljoin

_UNSEEN = "script|style|noscript|template|svg|iframe"
_TOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    rf"|<(?P<unseen>{_UNSEEN})\b(?![^>]*+(?<=/)>)(?:.*?</(?P=unseen)\b[^>]*+(?:>|\Z)|.*+)"
    r"|<(?P<end>/?)(?P<name>[a-z][a-z0-9]*+)"
    r"(?P<attributes>(?:[^>\"']++|\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z))*+)(?:>|\Z)"
    r"|<[!?/][^>]*+(?:>|\Z)"
    r"|(?P<text>(?:[^<]++|<(?![a-z!?/]))++|<)",
    re.IGNORECASE | re.DOTALL,
)
_HREF = re.compile(r"(?<![\w-])href\s*+=\s*+(?:\"([^\"]*+)\"?|'([^']*+)'?|([^\s>]++))", re.IGNORECASE)
_LINE = re.compile(
    "address|article|aside|blockquote|body|br|caption|d[dlt]|details|div|fieldset|figcaption|figure|footer|form|h[1-6]"
    "|header|hr|li|main|nav|ol|option|p|pre|section|summary|table|tbody|tfoot|thead|title|tr|ul"
)
_CELL = re.compile("td|th")
_ABSURD = re.compile("&#[0-9]{8,}+;?")  # no character has such a number


def readable(source: str, address: str) -> str:
    """The text of a page; a link is followed by its address in parentheses, and cells of a table by a tab."""
    text = "".join(_pieces(source, address))
    lines = (re.sub(r"[^\S\t\n]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _pieces(source: str, address: str) -> Iterator[str]:
    link, label = "", ""
    for token in _TOKEN.finditer(source):
        name = (token["name"] or "").lower()
        if token["text"]:
            piece = re.sub(r"\s+", " ", html.unescape(_ABSURD.sub("\ufffd", token["text"])))
            label += piece if link else ""
            yield piece
        elif name == "a":
            if link and link != label.strip():
                yield f" ({link})"
            link, label = ("" if token["end"] else _target(token["attributes"], address)), ""
        elif _LINE.fullmatch(name):
            yield "\n"
        elif _CELL.fullmatch(name):
            yield "\t" if token["end"] else ""


def _target(attributes: str, address: str) -> str:
    """Where a link leads, if that is another page."""
    match = _HREF.search(attributes)
    href = html.unescape(_ABSURD.sub("", next(filter(None, match.groups()), ""))).strip() if match else ""
    if not href or href.startswith("#"):
        return ""
    try:
        target = urljoin(address, href)
    except ValueError:
        return ""
    return target if target.startswith(("http://", "https://")) else ""
