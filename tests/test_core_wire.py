from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.catalog import Callee, Parameter
from planner.core.check import Problem
from planner.core.events import EVENT, PlanProposed
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan, Step
from planner.core.wire import MAX_HEIGHT, MAX_WIRE_STEPS, Rendering, describe, parse, schema

ORDER = Parameter(name="order", choices=("up", "down"), required=False)
TYPES = ("number", "integer", "boolean", "any", "record", "table", "list[text]", "list[any]", "text", "expression")
READ = Callee(name="files.read", summary="Read", parameters=(Parameter(name="path", type="path"),), result="text")
LIST = Callee(name="files.list", summary="List", parameters=(Parameter(name="folder", type="folder"), ORDER))
MANY = Callee(
    name="x.many",
    summary="All",
    parameters=(
        *(Parameter(name=f"a_{re.sub(r'[^a-z]', '_', type_)}", type=type_) for type_ in TYPES),
        Parameter(name="hidden", required=False, is_offered=False),
    ),
)
NOTHING = Callee(name="x.none", summary="Nothing")
CALLEES = (READ, LIST, MANY, NOTHING)
CATALOGUE = {callee.name: callee for callee in CALLEES}
NAMED = (
    Named(text="my notes.txt", kind="path"),
    Named(text="notes", kind="folder"),
    Named(text=".", kind="folder"),
    Named(text="notes", kind="path"),
    Named(text="5", kind="number"),
)
SUBSET = {"type", "properties", "required", "additionalProperties", "anyOf", "enum", "const", "items"} | {
    *("minItems", "maxItems", "maxLength", "pattern")
}


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema."""
    yield node
    for part in [*node.get("properties", {}).values(), *node.get("anyOf", [])]:
        yield from nodes(part)
    if "items" in node:
        yield from nodes(node["items"])


def rendered(rendering: Rendering, found: tuple[Named, ...] = NAMED) -> Any:
    return schema(rendering, CALLEES, found)


def branch(name: str, found: tuple[Named, ...] = NAMED) -> Any:
    branches = rendered("grammar", found)["properties"]["steps"]["items"]["anyOf"]
    return next(part["properties"] for part in branches if part["properties"]["use"]["const"] == name)


def plan(answer: object) -> Plan:
    read = parse(answer if isinstance(answer, str) else json.dumps(answer), CATALOGUE)
    assert isinstance(read, Plan), read
    return read


def problems(answer: object) -> tuple[Problem, ...]:
    read = parse(answer if isinstance(answer, str) else json.dumps(answer), CATALOGUE)
    assert isinstance(read, tuple), read
    return read


def argument(type_: str, value: Json) -> Json:
    """How a plan's argument of that type is read."""
    name = f"a_{re.sub(r'[^a-z]', '_', type_)}"
    return plan({"steps": [{"use": "x.many", "args": {name: value}}]}).steps[0].args[name]


def condition(text: str) -> str | None:
    return plan({"steps": [{"use": "x.none", "if": text}]}).steps[0].if_


# schemas


@pytest.mark.parametrize("rendering", ["grammar", "strict"])
def test_a_schema_keeps_to_what_every_server_understands(rendering: Rendering) -> None:
    inside = list(nodes(rendered(rendering)))
    assert {key for node in inside for key in node} <= SUBSET
    assert all(node["additionalProperties"] is False for node in inside if node.get("type") == "object")
    assert all(len(set(node["enum"])) == len(node["enum"]) for node in inside if "enum" in node)
    assert json.loads(json.dumps(rendered(rendering))) == rendered(rendering)


def test_the_grammar_has_one_branch_for_each_callee_with_its_own_arguments() -> None:
    steps = rendered("grammar")["properties"]["steps"]
    assert (steps["minItems"], steps["maxItems"]) == (1, MAX_WIRE_STEPS)
    assert [part["properties"]["use"]["const"] for part in steps["items"]["anyOf"]] == list(CATALOGUE)
    assert all(part["required"] == ["id", "use", "args"] for part in steps["items"]["anyOf"])
    args = branch("files.list")["args"]
    assert (list(args["properties"]), args["required"]) == (["folder", "order"], ["folder"])
    assert "hidden" not in branch("x.many")["args"]["properties"]
    assert branch("x.none")["args"]["properties"] == {}


def test_the_keys_stand_in_the_order_in_which_a_model_should_think() -> None:
    assert list(branch("files.read")) == ["id", "for_each", "if", "use", "args"]


def test_under_a_grammar_a_path_is_named_by_the_goal_or_refers_to_a_step() -> None:
    names, reference = branch("files.read")["args"]["properties"]["path"]["anyOf"]
    assert names == {"enum": ["my notes.txt", "notes", "."]}
    allowed = ["$s1", "$item", "$s12.path", "$s1[0]", "out/${item}.txt", "${s1.name}_a.md"]
    assert all(re.search(reference["pattern"], text) for text in allowed)
    refused = ["a.txt", "$x", "$s1 $s2", "${x}", "../${s1}/../../etc/${s2}"]
    assert not any(re.search(reference["pattern"], text) for text in refused)


def test_under_a_grammar_a_folder_may_also_be_the_workspace_itself() -> None:
    names, reference = branch("files.list")["args"]["properties"]["folder"]["anyOf"]
    assert names == {"enum": ["my notes.txt", "notes", "."]}
    assert re.search(reference["pattern"], "$s1")
    other = branch("files.list", NAMED[:1])["args"]["properties"]["folder"]["anyOf"][0]
    assert other == {"enum": ["my notes.txt", "."]}


def test_where_the_goal_names_no_path_any_text_will_do() -> None:
    assert branch("files.read", NAMED[-1:])["args"]["properties"]["path"] == {"type": "string", "maxLength": 240}


def test_under_a_grammar_a_list_is_written_as_one_or_refers_to_a_step() -> None:
    items, reference = branch("x.many")["args"]["properties"]["a_list_text_"]["anyOf"]
    assert items["type"] == "array"
    assert re.search(reference["pattern"], "$s1")


def test_a_choice_is_one_of_its_words() -> None:
    assert branch("files.list")["args"]["properties"]["order"] == {"enum": ["up", "down"]}


def test_the_strict_form_has_no_optional_field_and_no_union() -> None:
    inside = list(nodes(rendered("strict")))
    assert all(list(node["properties"]) == node["required"] for node in inside if "properties" in node)
    assert not any("anyOf" in node for node in inside)
    assert [node["enum"] for node in inside if "enum" in node] == [list(CATALOGUE)]


def test_the_plain_form_has_no_schema() -> None:
    assert rendered("plain") is None


def test_a_planner_reads_one_line_per_callee_without_what_it_is_not_offered() -> None:
    assert describe([READ, LIST]) == "files.read(path) -> text: Read\nfiles.list(folder, order?) -> any: List"
    assert "hidden" not in describe([MANY])


# reading answers

STEP = {"id": "s1", "use": "files.read", "args": {"path": "a.txt"}}
READ_A = Plan(steps=(Step(id="s1", use="files.read", args={"path": "a.txt"}),), answer="$s1")


@pytest.mark.parametrize(
    "text",
    [
        '{"steps":[{"id":"s1","use":"files.read","args":{"path":"a.txt"}}],"answer":"$s1"}',
        '{"steps":[{"id":"s1","for_each":"","if":"","use":"files.read","args":[{"name":"path","value":"a.txt"}]}],'
        '"answer":"$s1"}',
        '{"steps":[{"use":"files.read","args":{"path":"a.txt"},"for_each":null}],"answer":"${s1}"}',
    ],
    ids=["grammar", "strict", "plain"],
)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "```json\n{}\n```",
        "```\n{}```",
        "Sure, {{a}} plan:\n\n{}\n\nIt reads {{a.txt}}. ```sh\nls\n```",
        " \n{}\n",
    ],
)
def test_every_form_is_read_inside_a_fence_or_talk_or_not(text: str, around: str) -> None:
    read = plan(around.format(text))
    assert read.steps == READ_A.steps
    assert read.answer in {"$s1", "${s1}"}


def test_a_fence_inside_a_text_is_no_fence() -> None:
    text = "Run this:\n```json\n{}\n```\n"
    assert plan({"steps": [{"id": "s1", "let": text}], "answer": "$s1"}).steps[0].let == text


@pytest.mark.parametrize(
    ("type_", "written", "value"),
    [
        ("number", "5", 5),
        ("number", " -2.50 ", -2.5),
        ("number", ".5", 0.5),
        ("number", "1,000", "1,000"),
        ("number", "9" * 5000, "9" * 5000),
        ("number", "$s1", "$s1"),
        ("integer", "30", 30),
        ("integer", "2.5", "2.5"),
        ("boolean", "True", True),
        ("boolean", "no", "no"),
        ("any", '{"a": 1}', {"a": 1}),
        ("any", "[1,", "[1,"),
        ("any", "[NaN]", "[NaN]"),
        ("any", '["\\ud800"]', '["\\ud800"]'),
        ("any", "[" * 500 + "]" * 500, "[" * 500 + "]" * 500),
        ("any", "5", "5"),
        ("record", '{"total": "$s1"}', {"total": "$s1"}),
        ("table", '[{"a": 1}]', [{"a": 1}]),
        ("list[text]", '["$s1", "b"]', ["$s1", "b"]),
        ("list[text]", "a, b", "a, b"),
        ("list[any]", "[1, 2]", [1, 2]),
        ("list[any]", [1, 2], [1, 2]),
        ("text", "[1]", "[1]"),
        ("text", 5, 5),
        ("expression", "5", "5"),
        ("text", "${s1}", "$s1"),
        ("text", " ${ s1.items[0].from } ", "$s1.items[0].from"),
        ("text", "${s1} and ${s2}", "${s1} and ${s2}"),
        ("any", "${true}", "${true}"),
        ("any", "${len(s1)}", "${len(s1)}"),
    ],
)
def test_an_argument_written_as_text_gets_the_type_of_its_parameter(type_: str, written: Json, value: Json) -> None:
    read = argument(type_, written)
    assert read == value
    assert type(read) is type(value)


def test_an_argument_of_an_unknown_callee_or_name_stays_as_it_is() -> None:
    step = plan({"steps": [{"use": "x.y", "args": {"a": "5"}}, {"use": "x.many", "args": {"b": "5"}}]}).steps
    assert [dict(s.args) for s in step] == [{"a": "5"}, {"b": "5"}]


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("s1 > 3", "s1 > 3"),
        ("${s1 > 3}", "s1 > 3"),
        ("${s1} > 3", "(s1) > 3"),
        ("${s1} > ${s2}", "(s1) > (s2)"),
        ("${ 'a' in {'a': s1} }", " 'a' in {'a': s1} "),
        ("$s1 > 3", "$s1 > 3"),
        ("'A$AP' in s1", "'A$AP' in s1"),
    ],
)
def test_a_condition_is_read_without_the_marks_of_text(written: str, bare: str) -> None:
    assert condition(written) == bare


def test_a_step_without_an_id_gets_one_by_its_place() -> None:
    assert [s.id for s in plan({"steps": [{"use": "x.none"}, {"use": "x.none"}]}).steps] == ["s1", "s2"]


def test_an_empty_answer_is_none() -> None:
    assert plan({"steps": [STEP], "answer": ""}).answer is None
    assert plan({"steps": [STEP]}).answer is None


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ("", "P-101", "not JSON"),
        ("I cannot do that.", "P-101", "`I cannot do that.`"),
        ('{"steps": [{"id": "s1"', "P-101", "not JSON"),
        ('{"steps": [{"let": NaN}]}', "P-101", "not JSON"),
        ('{"steps": [{"let": 1e999}]}', "P-101", "not JSON"),
        ('{"steps": [{"let": "\\ud800"}]}', "P-101", "not JSON"),
        ("\ud800", "P-101", "`?`"),
        ('{"steps": [{"let": ' + "9" * 5000 + "}]}", "P-101", "limit"),
        ('{"steps": ' + "[" * MAX_HEIGHT + "]" * MAX_HEIGHT + "}", "P-101", f"deeper than {MAX_HEIGHT}"),
        ("[" * 100_000, "P-101", "not JSON"),
        ('{"a":' * 1_000, "P-101", "not JSON"),
        ("[1, 2]", "P-102", "an object"),
        ('{"answer": "x"}', "P-102", '{"steps": [...]'),
        ({"steps": {}}, "P-102", '{"steps": [...]'),
        ({"steps": [STEP, "read a.txt"]}, "P-102", "step 2"),
        ({"steps": [{**STEP, "id": "Step 1"}]}, "P-103", "step 1: `id`"),
        ({"steps": [{**STEP, "tool": "x"}]}, "P-103", "step 1: `tool`"),
        ({"steps": [{**STEP, "args": "path=a.txt"}]}, "P-103", "step 1: `args`"),
        ({"steps": [{**STEP, "if": {"a": 1}}]}, "P-103", "step 1: `if`"),
        ({"steps": [STEP] * 501}, "P-103", "500"),
    ],
)
def test_what_is_no_plan_is_told_with_the_step(answer: object, code: str, told: str) -> None:
    (problem,) = problems(answer)
    assert problem.code == code
    assert told in problem.message
    assert len(problem.message) < 300


def test_every_bad_step_is_told() -> None:
    found = problems({"steps": [{**STEP, "id": 1}, 5, {**STEP, "id": "B"}]})
    assert [problem.message[:6] for problem in found] == ["step 1", "step 2", "step 3"]


def test_arguments_as_a_list_of_pairs_leave_out_what_is_no_pair() -> None:
    step = {"use": "x.y", "args": [{"name": "a", "value": 1}, {"name": "b"}, {"value": 1}, "c"]}
    assert dict(plan({"steps": [step]}).steps[0].args) == {"a": 1, "b": None}


# laws

WORDS = st.sampled_from(
    ["steps", "answer", "id", "use", "args", "name", "value", "if", "for_each", "s1", "x.many", "${"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(answer=JSON | st.fixed_dictionaries({"steps": st.lists(JSON, max_size=4), "answer": JSON}))
def test_any_json_is_a_plan_that_can_be_journaled_or_problems(answer: object) -> None:
    read = parse(json.dumps(answer), CATALOGUE)
    if isinstance(read, Plan):
        proposed = PlanProposed(revision=1, attempt=1, plan=read)
    else:
        assert read
        proposed = PlanProposed(revision=1, attempt=1, plan=None, problems=read)
    assert EVENT.validate_json(EVENT.dump_json(proposed)) == proposed


@given(st.text(st.sampled_from('{}[]":,` \\$s1ab')) | st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse(text, CATALOGUE)


def test_a_correction_may_take_finished_steps_back_and_only_those() -> None:
    renderings: tuple[Rendering, ...] = ("grammar", "strict")
    for rendering in renderings:
        made = schema(rendering, CALLEES, undoable=("s2", "s4"))
        assert isinstance(made, dict)
        properties = made["properties"]
        assert isinstance(properties, dict)
        assert properties["undo"] == {"type": "array", "items": {"enum": ["s2", "s4"]}}
        assert "undo" in str(made["required"])
    plan = parse('{"undo": ["s2"], "steps": [{"id": "s5", "use": "files.read", "args": {"path": "a"}}]}', {})
    assert isinstance(plan, Plan)
    assert plan.undo == ("s2",)
