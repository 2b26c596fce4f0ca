"""Tools made at run time: functions without annotations, told by parameters or by a JSON schema."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from planner.core.catalog import Parameter
from planner.core.labels import Integrity, Json
from planner.errors import ToolError, UserError
from planner.tools import Email, Toolbox, ToolContext, tool
from planner.tools.schemas import parameters


def echo(**arguments: Any) -> Any:
    return arguments


def call(box: Toolbox, name: str, **arguments: Json) -> Json:
    context = ToolContext(workspace=Path(), key="k", keep=lambda *_: None, kept=lambda _: None)
    return asyncio.run(box.call(name, arguments, context))


TO, TEXT = Parameter(name="to", type="email"), Parameter(name="text", required=False)
SEND: dict[str, Any] = {"summary": "Send", "effect": "send", "control": {}, "recipients": ("to",)}


# declaring ------------------------------------------------------------------------------------------------------


def test_a_function_without_annotations_becomes_a_tool_that_checks_its_arguments() -> None:
    box = Toolbox().declare("mail.send", echo, parameters=(TO, TEXT), **SEND)
    callee = box.catalogue["mail.send"]
    assert (callee.parameters, callee.result, callee.summary) == ((TO, TEXT), "any", "Send")
    assert (callee.declaration.recipients, callee.declaration.payload) == (("to",), ("text",))
    assert call(box, "mail.send", to=" ada@example.org", text=5) == {"to": "ada@example.org", "text": "5"}
    for code, arguments in {"T-202": {"text": "x"}, "T-203": {"to": "ada"}}.items():
        with pytest.raises(ToolError, match=code):
            call(box, "mail.send", **arguments)


def test_what_is_left_out_is_not_passed_on_unless_it_has_a_default() -> None:
    count = Parameter(name="count", type="integer", required=False, default=3)
    box = Toolbox().declare("mail.list", echo, parameters=(TEXT, count), summary="List", effect="read")
    assert call(box, "mail.list") == {"count": 3}
    assert call(box, "mail.list", text=None, count=None) == {"count": 3}


def test_it_may_be_async_a_method_a_partial_or_an_object() -> None:
    class Desk:
        async def __call__(self, **arguments: Any) -> Any:
            return ["object", arguments["n"]]

        async def method(self, n: int) -> Any:
            return ["method", n]

    async def work(mark: str, **arguments: Any) -> Any:
        return [mark, arguments["n"]]

    box, n = Toolbox(), (Parameter(name="n", type="integer"),)
    functions: dict[str, Callable[..., object]] = {
        "object": Desk(),
        "method": Desk().method,
        "partial": partial(work, "partial"),
        "max": max,
    }
    for name, function in functions.items():
        box = box.declare(f"desk.{name}", function, parameters=n, result="any", summary="Do", effect="read")
    for name in ("object", "method", "partial"):
        assert call(box, f"desk.{name}", n="4") == [name, 4]
    with pytest.raises(ToolError, match="T-204"):
        call(box, "desk.max", n=4)
    assert len({callee.version for callee in box.catalogue.values()}) == 4


def test_a_result_of_a_type_is_checked_and_a_model_becomes_json() -> None:
    class Row(BaseModel):
        name: str

    box = Toolbox().declare("a.rows", lambda: [Row(name="x")], parameters=(), summary="Give", effect="read")
    assert call(box, "a.rows") == [{"name": "x"}]
    box = box.declare("a.number", lambda: "much", parameters=(), result="number", summary="Give", effect="read")
    with pytest.raises(ToolError, match="T-204"):
        call(box, "a.number")


def test_a_function_that_declares_nothing_is_taken_for_the_worst() -> None:
    box = Toolbox().declare("my.function", echo, parameters=(TO, TEXT), summary="Do")
    declared = box.catalogue["my.function"].declaration
    assert (declared.effect, declared.out) == ("execute", "untrusted")
    assert declared.control == {"to": Integrity.TRUSTED, "text": Integrity.TRUSTED}


def test_a_toolbox_stays_as_it_was_and_takes_no_two_tools_of_one_name() -> None:
    empty = Toolbox()
    box = empty.declare("a.b", echo, parameters=(), summary="Do", effect="read")
    assert (len(empty.tools), len(box.tools)) == (0, 1)
    with pytest.raises(UserError, match="T-104"):
        box.declare("a.b", echo, parameters=(), summary="Do", effect="read")


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [
        ("send", {}, "T-103"),
        ("agent.send", {}, "T-103"),
        ("mail.send", {"parameters": (Parameter(name="to", type="address"),)}, "T-105"),
        ("mail.send", {"result": "list[address]"}, "T-105"),
        ("mail.send", {"summary": ""}, "T-106"),
        ("mail.send", {"recipients": ("who",)}, "T-107"),
        ("mail.send", {"effect": "sending"}, "T-108"),
        ("mail.send", {"undo": print}, "T-108"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_its_name_and_place(name: str, said: Any, code: str) -> None:
    given: dict[str, Any] = {"parameters": (TO, TEXT), **SEND, **said}
    with pytest.raises(UserError, match=rf"{code}.*tool `{name}` \(.*test_tools_schemas.py:\d+\)"):
        Toolbox().declare(name, echo, **given)


def test_companions_of_a_function_may_take_any_arguments_as_well() -> None:
    taken: list[Any] = []

    def undo(**arguments: Any) -> None:
        taken.append(arguments)

    box = Toolbox().declare("mail.send", echo, parameters=(TO, TEXT), undo=undo, **SEND)
    assert box.catalogue["mail.send"].declaration.undo == "undo"
    context = ToolContext(workspace=Path(), key="k", keep=lambda *_: None, kept=lambda _: None)
    asyncio.run(box.undo("mail.send", {"to": "a@b.example"}, context))
    assert taken == [{"to": "a@b.example"}]


def test_a_signature_set_at_run_time_counts_for_a_marked_function() -> None:
    def send(**arguments: Any) -> Any:
        return arguments

    wanted = inspect.Parameter("to", inspect.Parameter.KEYWORD_ONLY, annotation=Email)
    setattr(send, "__signature__", inspect.Signature([wanted]))  # noqa: B010 - functions have no such field
    send.__annotations__ = {"to": Email, "return": dict[str, str]}
    marked = tool(name="mail.send", effect="send", control={}, recipients=("to",), summary="Send")(send)
    box = Toolbox.of(marked)
    assert box.catalogue["mail.send"].parameters == (TO,)
    assert call(box, "mail.send", to="a@b.example") == {"to": "a@b.example"}


# schemas --------------------------------------------------------------------------------------------------------


def test_the_schema_of_a_model_is_read_for_types_defaults_and_descriptions() -> None:
    schema: dict[str, Json] = {
        "type": "object",
        "properties": {
            "to": {"type": "string", "format": "email", "description": "Who gets it"},
            "cc": {"type": "array", "items": {"type": "string", "format": "email"}, "default": []},
            "amount": {"type": "number"},
            "count": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "kind": {"enum": ["a", "b"], "type": "string"},
            "level": {"enum": [1, 2], "type": "integer"},
            "flag": {"type": ["boolean", "null"]},
            "more": {"type": "object"},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "day": {"type": "string", "format": "date"},
            "page": {"type": "string", "format": "uri"},
            "rows": {"type": "array"},
            "free": True,
        },
        "required": ["to", "amount", "kind"],
    }
    read = {p.name: p for p in parameters(schema)}
    assert {name: p.type for name, p in read.items()} == {
        "to": "email",
        "cc": "list[email]",
        "amount": "number",
        "count": "integer",
        "kind": "text",
        "level": "integer",
        "flag": "boolean",
        "more": "record",
        "either": "any",
        "day": "date",
        "page": "url",
        "rows": "list[any]",
        "free": "any",
    }
    assert [name for name, p in read.items() if p.required] == ["to", "amount", "kind"]
    assert (read["to"].description, read["cc"].default, read["kind"].choices) == ("Who gets it", [], ("a", "b"))
    assert read["level"].choices == ()


def test_a_schema_that_pydantic_makes_can_be_given_as_it_is() -> None:
    class Payment(BaseModel):
        to: str
        amount: float
        kind: Literal["once", "monthly"] = "once"
        note: str | None = None

    box = Toolbox().declare("bank.pay", echo, parameters=Payment.model_json_schema(), summary="Pay", effect="read")
    assert call(box, "bank.pay", to="ada", amount="12.5") == {"to": "ada", "amount": 12.5, "kind": "once"}
    with pytest.raises(ToolError, match="T-203"):
        call(box, "bank.pay", to="ada", amount=1, kind="daily")


@pytest.mark.parametrize("schema", [{}, {"properties": None, "required": None}, {"type": "object"}])
def test_a_schema_without_properties_has_no_parameters(schema: dict[str, Json]) -> None:
    assert parameters(schema) == ()
