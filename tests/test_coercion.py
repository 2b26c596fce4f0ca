from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from planner.coercion import (
    Date,
    Email,
    FilePath,
    FolderPath,
    Iban,
    Id,
    Number,
    Record,
    Table,
    Url,
    number,
    shape,
    table,
    text,
)
from planner.core.labels import Json


class Row(BaseModel):
    name: str


class Typed(TypedDict):
    name: str


@dataclass
class Plain:
    name: str


def read(annotation: Any, value: object) -> object:
    return TypeAdapter[object](shape(annotation).annotation).validate_python(value)


# annotations


@pytest.mark.parametrize(
    ("annotation", "word"),
    [
        (str, "text"),
        (int, "integer"),
        (float, "number"),
        (Number, "number"),
        (bool, "boolean"),
        (dict, "record"),
        (dict[str, int], "record"),
        (Row, "record"),
        (Typed, "record"),
        (Plain, "record"),
        (FilePath, "path"),
        (list[FilePath], "list[path]"),
        (list[list[int]], "list[list[integer]]"),
        (list[dict[str, Json]], "list[record]"),
        (list[Row], "table"),
        (list[Typed], "table"),
        (Table, "table"),
        (str | None, "text"),
        (FolderPath | None, "folder"),
        (Number | None, "number"),
        (Json, "any"),
        (list[Json], "list[any]"),
        (Any, "any"),
        (None, "any"),
        (Literal["a", "b"], "text"),
    ],
)
def test_an_annotation_has_a_word_of_the_plan_language(annotation: Any, word: str) -> None:
    assert shape(annotation).word == word


@pytest.mark.parametrize("annotation", [bytes, set[str], str | int, Literal[1, 2], complex, "nonsense"])
def test_an_annotation_without_a_word_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError):
        shape(annotation)


def test_literals_are_choices_found_without_regard_to_case() -> None:
    found = shape(Literal["sum", "mean"])
    assert found.choices == ("sum", "mean")
    assert read(Literal["sum", "mean"], " Mean ") == "mean"
    with pytest.raises(ValidationError, match="choose one of `sum`, `mean`"):
        read(Literal["sum", "mean"], "median")


# values


@pytest.mark.parametrize(
    ("annotation", "given", "meant"),
    [
        (str, 3, "3"),
        (str, 3.5, "3.5"),
        (str, True, "true"),
        (str, ["a", 2, False], "a\n2\nfalse"),
        (str, {"a": 1, "é": [None]}, '{"a":1,"é":[null]}'),
        (str, [{"a": 1}], '[{"a":1}]'),
        (list[str], "a\n\n  b\r\nc", ["a", "  b", "c"]),
        (list[str], '["a", "b"]', ["a", "b"]),
        (list[str], "[draft] one\ntwo", ["[draft] one", "two"]),
        (list[str], [1, "b", True], ["1", "b", "true"]),
        (list[str], 7, ["7"]),
        (list[int], "1\n2,000\n", [1, 2000]),
        (list[FilePath], "a.txt", ["a.txt"]),
        (float, "1,234.5", 1234.5),
        (Number, "12 EUR", 12),
        (Number, ["12"], 12),
        (int, "3", 3),
        (int, 3.0, 3),
        (int, "3.0", 3),
        (bool, "true", True),
        (bool, [False], False),
        (Record, '{"a": 1}', {"a": 1}),
        (Record, [{"a": 1}], {"a": 1}),
        (Row, '{"name": "x"}', Row(name="x")),
        (Plain, {"name": "x"}, Plain("x")),
        (FilePath, ' "notes/a.txt" ', "notes/a.txt"),
        (FilePath, ["a.txt"], "a.txt"),
        (FolderPath, "", "."),
        (Url, "<https://example.org/a>", "https://example.org/a"),
        (Url, "example.org/a", "https://example.org/a"),
        (Email, " a@example.org", "a@example.org"),
        (Iban, "de89 3704 0044 0532 0130 00", "DE89370400440532013000"),
        (Id, 4711, "4711"),
        (Date, "2026-03-05T10:00:00Z", "2026-03-05"),
        (Date, "5 March 2026", "2026-03-05"),
        (Date, "05.03.2026", "2026-03-05"),
        (Date, "31/12/2026", "2026-12-31"),
        (Json, {"a": [1]}, {"a": [1]}),
        (str | None, None, None),
    ],
)
def test_a_value_that_can_be_read_in_one_way_is_coerced(annotation: Any, given: object, meant: object) -> None:
    found = read(annotation, given)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (str, None),
        (int, 3.5),
        (int, True),
        (int, "many"),
        (float, "1 and 2"),
        (float, "12 kg"),
        (float, "15%"),
        (float, "3k"),
        (float, float("nan")),
        (float, "1e999"),
        (Number, ["1", "2"]),
        (Number, "9" * 5_000),
        (bool, "perhaps"),
        (list[str], None),
        (list[int], "1\ntwo"),
        (Record, "[1]"),
        (FilePath, ""),
        (FilePath, "a\nb"),
        (FilePath, 3),
        (FolderPath, None),
        (Url, "ftp://example.org"),
        (Url, "not an address"),
        (Url, 3),
        (Email, "nobody"),
        (Iban, "DE00370400440532013000"),
        (Date, "3/4/2026"),
        (Date, "tomorrow"),
        (Date, "March 2026"),
        (Date, "2026-02-30"),
        (Date, None),
        (Table, "Dear all, here is what we found in the archive"),
        (Table, "a,b\n1,2,3"),
        (Table, '[{"a": 1}, 2]'),
        (Table, "[1, 2"),
        (Table, 3),
        (Table, "a,b\n" + "x" * 200_000),
    ],
)
def test_a_value_that_cannot_be_read_in_one_way_is_refused(annotation: Any, given: object) -> None:
    with pytest.raises(ValidationError):
        read(annotation, given)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1,234", 1234),
        ("1.234", 1.234),
        ("1.234,5", 1234.5),
        ("1.234.567", 1234567),
        ("300", 300),
        ("12,5", 12.5),
        ("1 234,50", 1234.5),
        ("1'234.5", 1234.5),
        ("-$3", -3),
        ("€ 12.50", 12.5),
        ("USD 1,000", 1000),
        ("\u2212 4", -4),
        (".5", 0.5),
        ("+7", 7),
        ("1e-05", 0.00001),
    ],
)
def test_a_number_is_read_as_people_write_it(source: str, value: float) -> None:
    assert number(source) == value


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**15), 10**15))
def test_a_number_survives_being_text(value: float) -> None:
    assert number(text(value)) == value


# tables


def test_csv_text_is_a_table_whatever_separates_its_cells() -> None:
    rows = [{"name": "Anna", "age": 31}, {"name": "Bo", "age": 7}]
    for separator in ",;\t":
        assert table(f"name{separator}age\nAnna{separator}31\n\nBo{separator}7\n") == rows


def test_a_column_is_numbers_only_if_all_its_cells_are_in_one_notation() -> None:
    source = "\ufeffid;phone;price;note;none\n007;+4930;1.234;x;\n010;+4931;12,5;3;\n"
    assert table(source) == [
        {"id": "007", "phone": "+4930", "price": 1234, "note": "x", "none": None},
        {"id": "010", "phone": "+4931", "price": 12.5, "note": "3", "none": None},
    ]
    assert table("a;b\n1.200,50;1\n300;2") == [{"a": 1200.5, "b": 1}, {"a": 300, "b": 2}]
    assert table('a,b\n"1,234",4111111111111111\n"5",') == [
        {"a": 1234, "b": "4111111111111111"},
        {"a": 5, "b": None},
    ]


def test_column_names_are_made_unique_and_short_rows_are_filled() -> None:
    assert table("a,,a\n1\n") == [{"a": 1, "column_2": None, "a_2": None}]


def test_a_table_of_one_column_and_an_empty_one_are_tables() -> None:
    assert table("name\nAnna\nBo") == [{"name": "Anna"}, {"name": "Bo"}]
    assert table("") == []
    assert table("a,b\n") == []


def test_records_and_json_text_are_tables() -> None:
    assert table({"a": 1}) == table('{"a": 1}') == table('[{"a": 1}]') == [{"a": 1}]


def test_quoted_cells_may_hold_separators_and_line_breaks() -> None:
    assert table('a,b\n"x, y","two\nlines"') == [{"a": "x, y", "b": "two\nlines"}]


cells = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5))
def test_reading_what_a_table_writes_gives_the_same_table(grid: list[list[str]]) -> None:
    def written(rows: list[dict[str, Json]]) -> str:
        buffer = io.StringIO()
        names = list(rows[0])
        csv.writer(buffer).writerows(
            [names, *(["" if row[n] is None else text(row[n]) for n in names] for row in rows)]
        )
        return buffer.getvalue()

    source = io.StringIO()
    csv.writer(source).writerows([["a", "b", "c"], *grid])
    once = table(source.getvalue())
    assert isinstance(once, list)
    if once:
        assert table(written(once)) == once


@given(st.text())
def test_any_text_is_a_table_or_is_refused(source: str) -> None:
    try:
        TypeAdapter(Table).validate_python(source)
    except ValidationError:
        return
