"""Plans and values that people bring along: what is read, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli.plans import changed, read
from planner.core.labels import Json
from planner.errors import UserError

PLAN = """\
# a plan of one's own
inputs: {day: 2026-12-04}
steps:
  - {id: s1, use: files.read, args: {path: a.txt}}
  - id: s2
    if: len(s1) > 3
    do:
      - {id: t1, let: $s1}
answer: $s2
"""


def test_a_plan_is_read_from_yaml_and_a_date_in_it_is_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    plan = read(path)
    assert plan.inputs == {"day": "2026-12-04"}
    assert set(plan.index) == {"s1", "s2", "t1"}


def test_a_plan_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"steps": [{"id": "s1", "let": 1}]}')
    assert read(path).steps[0].let == 1


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("steps:\n  - {id: s1, use: [}\n", "U-451", "plan.yaml, line 2: "),
        ("steps:\n  - id: s1\n    let: 1\n    retry: 3\n", "U-452", "line 4, steps[0].retry: there is no such field"),
        ("steps:\n  - {id: S1, let: 1}\n", "U-452", "line 2, steps[0].id: it is lower-case letters"),
        ("steps:\n  - id: s1\n    do:\n      - {use: x}\n", "U-452", "line 4, steps[0].do[0].id: it is missing"),
        ("- {id: s1, let: 1}\n", "U-452", "holds a list, not a plan"),
        ("", "U-452", "holds nothing, not a plan"),
        ("steps: \x07", "U-451", "plan.yaml"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_line(tmp_path: Path, text: str, code: str, said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read(path)
    assert refused.value.code == code
    assert said in refused.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"steps: \xff")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    for name, said in (("none.yaml", "No such file"), ("latin.yaml", "byte 7"), ("large.yaml", "1,000,001 bytes")):
        with pytest.raises(UserError) as refused:
            read(tmp_path / name)
        assert refused.value.code == "U-450"
        assert said in refused.value.message


def test_a_value_is_json_where_it_can_be_and_stays_text_where_the_plan_has_text() -> None:
    given = ["n=3", "items=[1, 2]", "name=Ada = Byron", "zip=01234", "code=7"]
    inputs: dict[str, Json] = {"code": "99", "n": 1}
    assert changed(given, inputs) == {"n": 3, "items": [1, 2], "name": "Ada = Byron", "zip": "01234", "code": "7"}
    with pytest.raises(UserError, match="U-453"):
        changed(["name"], {})
