"""How a model is told what shape its answer must have."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from planner.errors import ModelError
from planner.llm.schema import flat, grammar, in_words, response_format, unfenced


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]


class Home(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    favourite: Cat | None = Field(description="the one that is fed first")
    notes: dict[str, str]


class Tree(BaseModel):
    branches: list[Tree]


class Odd(BaseModel):
    properties: Cat
    default: Dog
    const: Literal["$ref"] = "$ref"


def test_references_are_replaced_by_what_they_name() -> None:
    text = json.dumps(flat(Home.model_json_schema()))
    assert "$ref" not in text
    assert "$defs" not in text
    assert '"lives"' in text


def test_alternatives_told_apart_by_a_tag_become_plain_alternatives() -> None:
    schema = json.loads(json.dumps(flat(Home.model_json_schema())))
    pets = schema["properties"]["pets"]["items"]
    assert [part["properties"]["kind"]["const"] for part in pets["anyOf"]] == ["cat", "dog"]
    assert "discriminator" not in json.dumps(schema)


def test_records_are_closed_and_maps_stay_open() -> None:
    schema = json.loads(json.dumps(flat(Home.model_json_schema())))
    assert schema["additionalProperties"] is False
    assert schema["properties"]["notes"]["additionalProperties"] == {"type": "string"}


def test_fields_named_like_keywords_are_fields() -> None:
    schema = json.loads(json.dumps(flat(Odd.model_json_schema())))
    assert schema["properties"]["properties"]["properties"]["lives"]["type"] == "integer"
    assert schema["properties"]["default"]["properties"]["kind"]["const"] == "dog"
    assert schema["properties"]["const"]["default"] == "$ref"


def test_flattening_twice_changes_nothing() -> None:
    once = flat(Home.model_json_schema())
    assert flat(once) == once


def test_a_schema_that_contains_itself_is_refused_with_the_way_round() -> None:
    with pytest.raises(ModelError, match=r"M-130.*Tree -> Tree") as caught:
        flat(Tree.model_json_schema())
    assert caught.value.error_class == "invalid"


def test_a_reference_to_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match=r"M-131.*#/\$defs/Gone"):
        flat({"properties": {"a": {"$ref": "#/$defs/Gone"}}})


def test_strict_is_claimed_only_where_every_field_is_required() -> None:
    def is_strict(schema: object) -> object:
        return json.loads(json.dumps(schema))["json_schema"]["strict"]

    assert is_strict(response_format(Dog.model_json_schema())) is True
    assert is_strict(response_format(Cat.model_json_schema())) is False
    assert is_strict(response_format(Home.model_json_schema())) is False


def test_a_grammar_keeps_the_order_of_fields_and_writes_no_spaces() -> None:
    head, _, schema = grammar(Cat.model_json_schema()).partition("%json ")
    assert head == "%llguidance {}\nstart: "
    assert list(json.loads(schema)["properties"]) == ["kind", "lives"]
    assert json.loads(schema)["x-guidance"] == {
        "whitespace_flexible": False,
        "item_separator": ",",
        "key_separator": ":",
    }


def test_a_schema_in_words_is_whole() -> None:
    assert json.dumps(Tree.model_json_schema()) in in_words(Tree.model_json_schema())


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('Sure!\n```\n{"a": 1}\n```\nAnything else?', '{"a": 1}'),
        ('{"code": "```json\\n1\\n```"}', '{"code": "```json\\n1\\n```"}'),
        ("no JSON here", "no JSON here"),
    ],
)
def test_json_is_taken_out_of_its_fence(text: str, inside: str) -> None:
    assert unfenced(text) == inside
