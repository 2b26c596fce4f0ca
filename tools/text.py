"""Plain text: lines, count, occurrences, filter, replace, find, diff."""

from __future__ import annotations

import difflib
import re
from typing import Literal

from planner.core import finders
from planner.errors import ToolError
from planner.tools import tool

MAX_COMPARED = 20_000  # lines; comparing takes about a second for as many


@tool(effect="pure", keywords=("split", "rows", "list"))
def lines(text: str) -> list[str]:
    """Split text into its lines, empty ones left out."""
    return [line for line in text.splitlines() if line.strip()]


@tool(effect="pure", keywords=("how", "many", "number", "length", "long"))
def count(text: str, what: Literal["words", "lines", "characters"] = "words") -> int:
    """Count the words, lines or characters of a text."""
    if what == "characters":
        return len(text)
    return len(text.splitlines() if what == "lines" else text.split())


@tool(effect="pure", keywords=("how", "many", "often", "times", "count", "word", "appear", "frequency"))
def occurrences(text: str, phrase: str) -> int:
    """Count how often a word or phrase occurs in a text."""
    words = re.escape(phrase.strip())
    if not words:
        raise ToolError("T-401", "there is no phrase to count", error_class="invalid")
    start = r"\b" if phrase.strip()[0].isalnum() else ""
    end = r"\b" if phrase.strip()[-1].isalnum() else ""
    return len(re.findall(f"{start}{words}{end}", text, re.IGNORECASE))


@tool(effect="pure", keywords=("lines", "every", "only", "containing", "with", "mention", "select", "copy", "grep"))
def filter_(text: str, phrase: str) -> str:
    """Keep the lines that contain a word or phrase."""
    wanted = phrase.strip().casefold()
    if not wanted:
        raise ToolError("T-401", "there is no phrase to look for", error_class="invalid")
    return "\n".join(line for line in text.splitlines() if wanted in line.casefold())


@tool(effect="pure", keywords=("substitute", "swap", "change", "rename", "edit", "remove"))
def replace(text: str, old: str, new: str) -> str:
    """Replace every occurrence of one phrase in a text."""
    if not old:
        raise ToolError("T-401", "there is no phrase to replace", error_class="invalid")
    return text.replace(old, new)


@tool(effect="pure", keywords=("extract", "mail", "address", "link", "amount", "day", "account", "collect"))
def find(text: str, kind: Literal["email", "url", "number", "date", "iban"]) -> list[str]:
    """Extract all emails, URLs, numbers, dates or IBANs of a text."""
    match kind:
        case "email":
            return finders.emails(text)
        case "url":
            return finders.urls(text)
        case "number":
            return [str(number) for number in finders.numbers(text)]
        case "date":
            return finders.dates(text)
        case "iban":
            return finders.ibans(text)


@tool(effect="pure", keywords=("compare", "difference", "changes", "changed", "versions"))
def diff(old: str, new: str) -> str:
    """Show the lines in which two texts differ."""
    before, after = old.splitlines(), new.splitlines()
    if len(before) + len(after) > MAX_COMPARED:
        what = f"more than {MAX_COMPARED:,} lines are too many to compare"
        raise ToolError("T-402", what, error_class="limit", hint="Compare parts.")
    return "\n".join(difflib.unified_diff(before, after, "old", "new", lineterm=""))
