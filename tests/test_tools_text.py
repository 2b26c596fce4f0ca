from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planner.core.labels import Json
from planner.errors import ToolError
from planner.tools import Toolbox, ToolContext

BOX = Toolbox.load(Path(__file__).parent.parent / "tools", only=["text.*"])


def call(name: str, **arguments: Json) -> Any:
    context = ToolContext(Path(), "key", lambda _name, _content: None, lambda _name: None)
    return asyncio.run(BOX.call(f"text.{name}", arguments, context))


def test_all_text_tools_are_pure() -> None:
    assert {callee.declaration.effect for callee in BOX.catalogue.values()} == {"pure"}


def test_lines_leaves_out_empty_ones() -> None:
    assert call("lines", text="a\n\n  b \r\nc") == ["a", "  b ", "c"]


@pytest.mark.parametrize(("what", "number"), [("words", 5), ("lines", 3), ("characters", 22), ("Words", 5)])
def test_count_counts_words_lines_or_characters(what: str, number: int) -> None:
    assert call("count", text="one two\n\nthree, four 5", what=what) == number


def test_count_counts_words_unless_told() -> None:
    assert call("count", text="a b c") == 3
    assert call("count", text="") == 0


@pytest.mark.parametrize(
    ("phrase", "times"),
    [("error", 2), (" ERROR ", 2), ("error:", 1), ("no such", 1), ("$5", 1), ("err", 0), ("(x)", 1)],
)
def test_occurrences_counts_whole_words_without_regard_to_case(phrase: str, times: int) -> None:
    assert call("occurrences", text="Error: no such error; errors cost $5 (x)", phrase=phrase) == times


def test_replace_replaces_every_occurrence() -> None:
    assert call("replace", text="a.b.c", old=".", new="") == "abc"


@pytest.mark.parametrize(
    ("name", "arguments"), [("occurrences", {"phrase": " "}), ("replace", {"old": "", "new": "x"})]
)
def test_an_empty_phrase_is_refused(name: str, arguments: dict[str, Json]) -> None:
    with pytest.raises(ToolError, match="T-401"):
        call(name, text="abc", **arguments)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("email", ["a@example.org"]),
        ("url", ["https://example.org/x"]),
        ("number", ["1234.5", "7"]),
        ("date", ["2026-03-05"]),
        ("iban", ["DE89370400440532013000"]),
    ],
)
def test_find_extracts_what_is_asked_for(kind: str, found: list[str]) -> None:
    texts = {
        "email": "Ask a@example.org, not b@c.",
        "url": "See https://example.org/x.",
        "number": "It is 1,234.5 for 7",
        "date": "On 5 March 2026, or 3/4/2026",
        "iban": "Pay to DE89 3704 0044 0532 0130 00 or DE00 3704 0044 0532 0130 00",
    }
    assert call("find", text=texts[kind], kind=kind) == found


def test_diff_shows_the_lines_that_differ() -> None:
    assert call("diff", old="a\nb\nc", new="a\nB\nc").splitlines() == [
        "--- old",
        "+++ new",
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
    ]
    assert call("diff", old="same", new="same") == ""


def test_texts_too_long_to_compare_are_refused() -> None:
    with pytest.raises(ToolError, match="T-402"):
        call("diff", old="a\n" * 20_000, new="b")
