"""A large catalogue as providers see it: within every limit of the table in docs/decisions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from planner.core.catalog import Callee, Parameter
from planner.core.goal import Named
from planner.core.wire import MAX_WIRE_STEPS, parse, schema
from planner.llm.gateway import LiteLLMModel
from planner.llm.model import Ask, Message

DECISION = Path(__file__).resolve().parents[1] / "docs" / "decisions" / "007-limits-of-strict-schemas.md"
Node: TypeAlias = dict[str, Any]

CATALOGUE = tuple(
    Callee(
        name=f"warehouse_{area}.{action}_of_the_{area}",
        summary=f"Do {action} with the {area}",
        parameters=(
            Parameter(name="path", type="path"),
            Parameter(name="text", required=False),
            Parameter(name="order", choices=("ascending", "descending"), required=False),
        ),
    )
    for area in ("orders", "customers", "invoices", "suppliers", "shelves", "returns")
    for action in ("list", "read", "search", "count", "sort", "filter", "join", "compare", "write", "move")
)
STRICT: Node = json.loads(json.dumps(schema("strict", CATALOGUE)))
NAMED = (Named(text="orders.csv", kind="path"),)
GRAMMAR: Node = json.loads(json.dumps(schema("grammar", CATALOGUE, NAMED)))


def nodes(node: Any, level: int = 1) -> Iterator[tuple[Node, int]]:
    """Every schema inside a schema with its level; records and lists are levels, names of fields are no keywords."""
    yield node, level
    below = level + (node.get("type") in {"object", "array"})
    for part in [*node.get("properties", {}).values(), *node.get("anyOf", [])]:
        yield from nodes(part, below)
    if "items" in node:
        yield from nodes(node["items"], below)


def told() -> list[Node]:
    return [node for node, _ in nodes(STRICT)]


def enums() -> list[list[str]]:
    return [node["enum"] for node in told() if "enum" in node]


def sent() -> Mapping[str, Any]:
    ask = Ask(
        role="planner", messages=(Message(role="user", content="?"),), answer_schema=schema("strict", CATALOGUE)
    )
    return LiteLLMModel("anthropic/claude-haiku-4-5")._request(ask)


GEMINI = frozenset(
    {"type", "properties", "required", "additionalProperties", "enum", "items", "minItems", "maxItems"}
)

MEASURES: Mapping[str, Callable[[], int]] = {
    "properties": lambda: sum(len(node.get("properties", {})) for node in told()),
    "levels of nesting": lambda: max(
        level for node, level in nodes(STRICT) if node.get("type") in {"object", "array"}
    ),
    "characters of names and values": lambda: (
        sum(len(name) for node in told() for name in node.get("properties", {}))
        + sum(len(value) for values in enums() for value in values)
    ),
    "enum values": lambda: sum(map(len, enums())),
    "characters of an enum of more than 250 values": lambda: max(
        (sum(map(len, values)) for values in enums() if len(values) > 250), default=0
    ),
    "strict tools": lambda: len(sent().get("tools", ())),
    "optional parameters": lambda: sum(
        len(node.get("properties", {})) - len(node.get("required", ())) for node in told()
    ),
    "parameters with a union": lambda: sum("anyOf" in node or isinstance(node.get("type"), list) for node in told()),
    "keywords outside its subset": lambda: len({key for node in told() for key in node} - GEMINI),
}
"""How each thing that the table counts is counted here."""


def limits() -> list[tuple[str, str, int]]:
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| ([\d,]+) \|$", DECISION.read_text(), re.MULTILINE)
    return [(provider, counted, int(most.replace(",", ""))) for provider, counted, most in rows]


def test_the_catalogue_is_a_large_one_and_the_table_was_found() -> None:
    assert len({callee.name for callee in CATALOGUE}) == 60
    assert {counted for _, counted, _ in limits()} == set(MEASURES)


@pytest.mark.parametrize(("provider", "counted", "most"), limits())
def test_sixty_callees_are_within_every_limit_of_a_strict_schema(provider: str, counted: str, most: int) -> None:
    assert MEASURES[counted]() <= most


def test_the_strict_form_is_sent_as_strict_and_names_every_callee() -> None:
    assert sent()["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": STRICT, "strict": True},
    }
    assert enums() == [[callee.name for callee in CATALOGUE]]


def test_the_strict_form_grows_by_nothing_but_the_names() -> None:
    one = json.dumps(schema("strict", CATALOGUE[:1]))
    assert one == json.dumps(STRICT).replace(json.dumps(enums()[0]), json.dumps([CATALOGUE[0].name]))


def test_the_grammar_has_one_branch_for_each_callee_and_leaves_no_text_unbounded() -> None:
    inside = [node for node, _ in nodes(GRAMMAR)]
    (steps,) = [node for node in inside if node.get("type") == "array"]
    assert steps["maxItems"] == MAX_WIRE_STEPS
    assert [b["properties"]["use"]["const"] for b in steps["items"]["anyOf"]] == [c.name for c in CATALOGUE]
    assert all("maxLength" in node or "pattern" in node for node in inside if node.get("type") == "string")
    assert "$ref" not in json.dumps(GRAMMAR)


def test_the_grammar_itself_is_beyond_what_providers_take() -> None:
    most = {counted: most for _, counted, most in limits()}
    inside = [node for node, _ in nodes(GRAMMAR)]
    optional = sum(len(node.get("properties", {})) - len(node.get("required", ())) for node in inside)
    assert sum("anyOf" in node for node in inside) > most["parameters with a union"]
    assert optional > most["optional parameters"]


def test_an_answer_in_the_strict_form_is_read_like_any_other() -> None:
    name = CATALOGUE[0].name
    step = {"id": "s1", "for_each": "", "if": "", "use": name, "args": [{"name": "path", "value": "a.txt"}]}
    plan = parse(json.dumps({"steps": [step], "answer": ""}), {callee.name: callee for callee in CATALOGUE})
    assert not isinstance(plan, tuple)
    assert (plan.steps[0].use, plan.steps[0].args, plan.answer) == (name, {"path": "a.txt"}, None)
