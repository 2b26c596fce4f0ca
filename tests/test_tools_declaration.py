from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from planner.core.catalog import Declaration
from planner.core.labels import Integrity
from planner.errors import UserError
from planner.tools import FilePath, Number, Toolbox, tool


def declared(function: Callable[..., object]) -> Declaration:
    return next(iter(Toolbox.of(function).catalogue.values())).declaration


def load(folder: Path, source: str) -> Toolbox:
    (folder / "area.py").write_text(source)
    return Toolbox.load(folder)


@tool(effect="read", resource=("file:{path}",), control={"path": "bounded"}, keywords=("tail",), converts=True)
def last_(path: FilePath, count: int = 1, unit: Literal["lines", "words"] = "lines") -> list[str]:
    """The end of a file.

    More about it.

    Args:
        path: which file
        count: how many

    Returns:
        the end
    """
    return [path] * count + [unit]


def test_a_function_becomes_a_callee_as_its_signature_and_docstring_say() -> None:
    callee = Toolbox.of(last_).catalogue["test_tools_declaration.last"]
    assert (callee.kind, callee.summary, callee.result) == ("tool", "The end of a file", "list[text]")
    assert (callee.converts, callee.keywords) == (True, ("tail",))
    assert [(p.name, p.type, p.required, p.default, p.description, p.choices) for p in callee.parameters] == [
        ("path", "path", True, None, "which file", ()),
        ("count", "integer", False, 1, "how many", ()),
        ("unit", "text", False, "lines", "", ("lines", "words")),
    ]


def test_an_argument_that_nothing_is_said_of_is_payload() -> None:
    declaration = declared(last_)
    assert declaration.control == {"path": Integrity.BOUNDED}
    assert declaration.payload == ("count", "unit")
    assert declaration.resource == ("file:{path}",)


def test_a_tool_that_declares_nothing_is_taken_for_the_worst() -> None:
    @tool
    def mystery(a: str, b: int = 0) -> str:
        """Do something."""
        return a * b

    assert declared(mystery) == Declaration(control={"a": Integrity.TRUSTED, "b": Integrity.TRUSTED})
    assert declared(mystery).effect == "execute"


def test_a_pure_tool_touches_no_resource() -> None:
    @tool(effect="pure")
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert declared(double).resource == ()


def test_a_tool_that_can_be_undone_is_reversible() -> None:
    def back(name: str) -> None: ...

    @tool(effect="delete", control={"name": "trusted"}, undo=back)
    def drop(name: str) -> None:
        """Drop it."""

    assert declared(drop).reversible
    assert declared(drop).undo == "back"


def test_the_version_changes_with_the_declaration_only() -> None:
    def versions(effect: Literal["pure", "read"]) -> str:
        @tool(effect=effect)
        def same(n: int) -> int:
            """The same."""
            return n

        return next(iter(Toolbox.of(same).catalogue.values())).version

    assert versions("pure") == versions("pure") != versions("read")


def test_a_function_typed_into_a_console_is_a_tool_too() -> None:
    typed: dict[str, Any] = {"__name__": "console", "tool": tool}
    exec('@tool(effect="pure")\ndef twice(n: int) -> int:\n  """Twice."""\n  return 2 * n\n', typed)
    assert Toolbox.of(typed["twice"]).catalogue["console.twice"].version


def test_a_name_may_be_given() -> None:
    @tool(effect="pure", name="shop.price", summary="The price")
    def p(item: str) -> Number:
        return len(item)

    assert [*Toolbox.of(p).tools] == ["shop.price"]


@pytest.mark.parametrize(
    ("code", "expected", "header", "signature"),
    [
        ("T-103", "reserved", '@tool(effect="pure", name="agent.act")', "f(a: str) -> str"),
        ("T-103", "not `area.action`", '@tool(effect="pure", name="act")', "f(a: str) -> str"),
        ("T-105", "`a` has no annotation", '@tool(effect="pure")', "f(a) -> str"),
        ("T-105", "its result has no annotation", '@tool(effect="pure")', "f(a: str)"),
        ("T-105", "annotation of argument `a`", '@tool(effect="pure")', "f(a: bytes) -> str"),
        ("T-105", "cannot be read", '@tool(effect="pure")', "f(a: 'Nowhere') -> str"),
        ("T-105", "no named argument", '@tool(effect="pure")', "f(*a: str) -> str"),
        ("T-105", "no JSON value", '@tool(effect="pure")', "f(a: str = object()) -> str"),
        ("T-105", "cannot be validated", '@tool(effect="pure")', "f(a: Old) -> str"),
        (
            "T-107",
            "control, recipients or payload names `b`",
            '@tool(effect="pure", payload=("b",))',
            "f(a: str) -> str",
        ),
        ("T-107", "resource names `b`", '@tool(effect="read", resource=("file:{b}",))', "f(a: str) -> str"),
        (
            "T-107",
            "in 2 classes",
            '@tool(effect="send", control={"a": "trusted"}, recipients=("a",))',
            "f(a: str) -> str",
        ),
        ("T-107", "in 0 classes", '@tool(effect="read", payload=())', "f(a: str) -> str"),
        ("T-107", "what controls it", '@tool(effect="write")', "f(a: str) -> str"),
        ("T-107", "what controls it", '@tool(effect="fetch")', "f(a: str) -> str"),
        ("T-108", "no `effect`", "@tool(secrets=('KEY',))", "f(a: str) -> str"),
        ("T-108", "do not agree", '@tool(effect="write", control={}, on_doubt="probe")', "f(a: str) -> str"),
        ("T-108", "do not agree", '@tool(effect="read", out="fields")', "f(a: str) -> str"),
        (
            "T-108",
            "other arguments",
            '@tool(effect="write", control={}, on_doubt="probe", probe=len)',
            "f(a: str) -> str",
        ),
    ],
)
def test_a_misfit_is_refused_with_file_line_function_and_fix(
    tmp_path: Path, code: str, expected: str, header: str, signature: str
) -> None:
    source = (
        "from typing import TypedDict\nfrom planner.tools import tool\nclass Old(TypedDict):\n  x: int\n"
        f'{header}\ndef {signature}:\n  """Do it."""\n'
    )
    if "Old" in signature and sys.version_info >= (3, 12):
        pytest.skip("the standard TypedDict serves from Python 3.12 on")
    with pytest.raises(UserError) as caught:
        load(tmp_path, source)
    assert caught.value.code == code
    assert expected in caught.value.message
    assert f"{tmp_path / 'area.py'}:5" in caught.value.message
    assert caught.value.hint


def test_a_tool_without_a_docstring_is_refused(tmp_path: Path) -> None:
    source = "from planner.tools import tool\n@tool(effect='pure')\ndef f(a: str) -> str:\n  return a\n"
    with pytest.raises(UserError, match="T-106"):
        load(tmp_path, source)
