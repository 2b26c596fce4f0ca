"""Who gets what leaves with a call, and may they read it?

Rules of the file:
- Nothing goes unasked to a recipient whom an outsider may have written.
- What is carried goes to those who may read it, and to whom the principal named in words of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from planner.core.catalog import Callee
from planner.core.labels import Integrity, Json, Label, Labelled, gather, join, leaves_of

WITHHELD = "[only for {}]"
"""What stands in the place of a value for those who may not see it."""
LEAST = Integrity.BOUNDED
"""What a recipient must be worth at least: an outsider may have picked one of ours, but not added one."""


class Objection(NamedTuple):
    """Why a person is to be asked."""

    rule: str
    reason: str


def leaks(callee: Callee, arguments: Labelled, words: str) -> Iterator[Objection]:
    """What speaks against a call whose arguments are known; `words` are what the principal said."""
    declared = callee.declaration
    given = arguments.value if isinstance(arguments.value, dict) else {}
    carried = given.keys() if declared.public_sink else given.keys() & set(declared.payload)
    readers = join(arguments.at((name,)).overall() for name in carried).readers
    for name in declared.recipients:
        for _, recipient, label in leaves_of(arguments.at((name,))) if name in given else ():
            if label.integrity < LEAST:
                yield Objection(f"recipient:{name}", f"an outsider may have written `{name}` of `{callee.name}`")
            elif not _may_read(recipient, label, readers, words):
                what = f"`{callee.name}` carries what {_or(readers)} alone may read"
                yield Objection(f"egress:{name}", what)
    if declared.public_sink and readers is not None:
        yield Objection("egress:public", f"`{callee.name}` would show to anybody what {_or(readers)} alone may read")


def _may_read(recipient: Json, label: Label, readers: frozenset[str] | None, words: str) -> bool:
    if readers is None or recipient in readers:
        return True
    is_own = label.integrity is Integrity.TRUSTED and isinstance(recipient, str)
    return is_own and _is_said(str(recipient), words)


def _is_said(text: str, words: str) -> bool:
    """Whether the text stands in the words as a whole, and not as a part of a longer name or address."""
    around = r"[\w.@+-]"
    found = re.search(rf"(?<!{around}){re.escape(text)}(?!{around}*[\w@+-])", words, re.IGNORECASE)
    return bool(text) and found is not None


def shown_to(whole: Labelled, reader: str) -> Labelled:
    """The value as the reader may see it: a leaf that is not for them is replaced by whom it is for."""
    if all(label.readers is None or reader in label.readers for label in (whole.label, *dict(whole.leaves).values())):
        return whole
    match whole.value:
        case dict() as fields if fields:
            return gather({name: shown_to(whole.at((name,)), reader) for name in fields})
        case list() as items if items:
            return gather([shown_to(whole.at((index,)), reader) for index in range(len(items))])
        case _:
            label = whole.overall()
            return Labelled(value=WITHHELD.format(_or(label.readers)), label=label)


def _or(readers: frozenset[str] | None) -> str:
    return " or ".join(f"`{name}`" for name in sorted(readers or ())) or "nobody"
