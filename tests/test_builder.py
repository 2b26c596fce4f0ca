"""The builder makes the same plans as YAML, refuses what no plan can say, and its types are those of the tools."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import pytest
import yaml

from planner import Assistant, Plan, PlanError, Result, Step, ToolContext, UserError, tool
from planner.builder import PlanBuilder
from planner.tools import FilePath, FolderPath, Toolbox

MAP = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text()


@tool(name="files.list", effect="read", control={"folder": "bounded", "pattern": "bounded"}, out="bounded")
def list_files(context: ToolContext, folder: FolderPath = ".", pattern: str = "*") -> list[FilePath]:
    """List the files of a folder."""
    return sorted(
        path.relative_to(context.workspace).as_posix() for path in (context.workspace / folder).glob(pattern)
    )


@tool(name="files.read", effect="read", control={"path": "bounded"})
def read(path: FilePath, context: ToolContext) -> str:
    """Read a file."""
    return (context.workspace / path).read_text()


@tool(name="text.count", effect="pure")
def count(text: str) -> int:
    """Count words."""
    return len(text.split())


@tool(name="files.write", effect="write", control={"path": "bounded"}, on_doubt="idempotent")
def write(context: ToolContext, path: FilePath, text: str) -> FilePath:
    """Write a file."""
    (context.workspace / path).write_text(text)
    return path


@tool(name="files.append", effect="write", control={"path": "bounded"}, on_doubt="ask")
def append(path: FilePath, text: str) -> None:
    """Append to a file."""


@tool(name="web.get", effect="fetch", control={"url": "bounded"})
async def get(url: str) -> str:
    """Fetch a page."""
    return url


def from_yaml(text: str) -> Plan:
    return Plan.model_validate(yaml.safe_load(text))


def only_step(flow: PlanBuilder) -> Step:
    (step,) = flow.build().steps
    return step


# the same plans as YAML --------------------------------------------------------------------------------------


def test_the_plan_of_the_documents_is_built_field_by_field() -> None:
    section = MAP.partition("\n## The plan language\n")[2]
    example = re.search(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert example is not None
    flow = PlanBuilder(folder="reports")
    names = flow.call(list_files, folder=flow.input("folder"), pattern="*.txt")
    texts = flow.each(names, lambda item: flow.call(read, path=item, context=flow.context))
    counts = flow.step(on_item_error="drop").each(texts, lambda text: flow.call(count, text=text))
    total = flow.let("sum(n ?? 0 for n in counts)", counts=counts)
    size = flow.expr("len(names)", names=names)
    written = flow.step(if_=total > 100).call(write, path="long.txt", text=f"{total} words in {size} files")
    said = flow.expr("written ?? 'short'", written=written)
    flow.step(after=total, on_error={"retry": 2, "then": "skip"}).call(append, path="log.txt", text=f"{said}")
    built, parsed = flow.build(answer=f"{total} words"), from_yaml(example[1])
    for ours, theirs in zip(built.steps, parsed.steps, strict=True):
        assert ours.model_dump() == theirs.model_dump()
    assert built == parsed


def test_blocks_are_built_as_yaml_nests_them() -> None:
    flow = PlanBuilder(limit=3)
    names = flow.call(list_files)

    def look(name: str, index: int) -> int:
        text = flow.call(read, name, flow.context)
        flow.call(append, path="log.txt", text=f"{index}: {name}")
        return flow.call(count, text=text) + 1

    counts = flow.step(max_items=7, budget={"calls": 30}).each(names, look)
    with flow.step(note="rarely").when((counts[0] > flow.input("limit")) & ~(counts[-1] == 0)) as block:
        flow.call(write, path="long.txt", text="long")
        with flow.when(counts[1] < 5):
            flow.call("human.user", question="sure")
    with flow.otherwise():
        flow.step(id="short").call(write, path="short.txt", text="short")
    plan = flow.build(answer={"counts": counts, "block": block})
    assert plan == from_yaml("""
        inputs: {limit: 3}
        steps:
          - {id: s1, use: files.list}
          - id: s2
            for_each: $s1
            as: name
            max_items: 7
            budget: {calls: 30}
            do:
              - {id: s3, use: files.read, args: {path: $name}}
              - {id: s4, use: files.append, args: {path: log.txt, text: "${name_i}: ${name}"}}
              - {id: s5, use: text.count, args: {text: $s3}}
            answer: ${s5 + 1}
          - id: s6
            if: s2[0] > inputs.limit and not s2[-1] == 0
            note: rarely
            do:
              - {id: s7, use: files.write, args: {path: long.txt, text: long}}
              - {id: s8, if: "s2[1] < 5", do: [{id: s9, use: human.user, args: {question: sure}}]}
            else:
              - {id: short, use: files.write, args: {path: short.txt, text: short}}
        answer: {counts: $s2, block: $s6}
    """)


def test_every_option_of_a_step_is_that_of_the_plan_language() -> None:
    flow = PlanBuilder()
    first = flow.step(id="first").call("wait.until", at="2026-12-24")
    flow.step(
        if_=first == "x",
        after=["first", first],
        on_error={"retry": 1, "fallback": {"use": count, "args": {"text": f"{first}!"}}},
        timeout_s=2.5,
        priority=-1,
        budget={"cost_usd": 0.5, "tokens": 100, "seconds": 3},
        note="why $5",
    ).call(get, url="$x")
    assert flow.build() == from_yaml("""
        steps:
          - {id: first, use: wait.until, args: {at: "2026-12-24"}}
          - id: s1
            if: first == "x"
            after: [first, first]
            on_error: {retry: 1, then: fallback, fallback: {use: text.count, args: {text: "${first}!"}}}
            timeout_s: 2.5
            priority: -1
            budget: {cost_usd: 0.5, tokens: 100, seconds: 3}
            note: why $5
            use: web.get
            args: {url: $$x}
    """)


@pytest.mark.parametrize("fallback", ["text.count", count])
def test_a_fallback_is_named_by_its_name_or_its_function(fallback: Any) -> None:
    flow = PlanBuilder()
    flow.step(on_error={"then": "fallback", "fallback": fallback}).call(get, url="x")
    on_error = only_step(flow).on_error
    assert on_error.fallback is not None
    assert on_error.fallback.use == "text.count"


def test_options_hold_for_every_step_that_is_made_with_them() -> None:
    flow = PlanBuilder()
    patient = flow.step(on_error={"retry": 3})
    patient.call(count, text="a")
    patient.step(note="b").call(count, text="b")
    flow.call(count, text="c")
    assert [(step.on_error.retry, step.note) for step in flow.build().steps] == [(3, ""), (3, "b"), (0, "")]


def test_numbers_go_on_behind_given_ids_and_leave_no_gap_behind_a_map() -> None:
    flow = PlanBuilder()
    flow.step(id="s2").call(count, text="a")
    flow.call(count, text="b")
    flow.each(["x", "y"], lambda word: flow.call(count, text=word))
    flow.call(count, text="c")
    assert [step.id for step in flow.build().steps] == ["s2", "s1", "s3", "s4"]


# maps --------------------------------------------------------------------------------------------------------


def test_a_map_over_one_call_takes_the_options_of_that_call() -> None:
    flow = PlanBuilder()
    names = flow.call(list_files)
    flow.step(priority=2).each(names, lambda name: flow.step(if_=name != "a", timeout_s=1).call(count, text=name))
    assert flow.build() == from_yaml("""
        steps:
          - {id: s1, use: files.list}
          - id: s2
            for_each: $s1
            as: name
            if: name != "a"
            priority: 2
            timeout_s: 1
            use: text.count
            args: {text: $name}
    """)


@pytest.mark.parametrize(
    "do",
    [
        lambda flow: lambda word: flow.step(note="inner").call(count, text=word),
        lambda flow: lambda word: flow.step(id="inner").call(count, text=word),
        lambda flow: lambda word: flow.each(word, lambda part: flow.call(count, text=part)),
        lambda flow: lambda word: flow.call(count, text=word) + 1,
        lambda flow: lambda word: (flow.call(count, text=word), word)[1],
    ],
    ids=["an option twice", "an id", "a map inside", "a value made of it", "another value"],
)
def test_a_map_that_one_step_cannot_say_is_a_block(do: Callable[[PlanBuilder], Callable[[str], Any]]) -> None:
    flow = PlanBuilder()
    flow.step(note="outer").each(["a"], do(flow))
    step = only_step(flow)
    assert (step.use, len(step.do), step.note) == (None, 1, "outer")
    assert step.answer is not None


def test_a_map_without_a_call_computes_a_value_for_each_item() -> None:
    flow = PlanBuilder()
    rows: list[dict[str, int]] = flow.call("table.read", path="a.csv")
    flow.each(rows, lambda row: row["price"] * 2)
    flow.each(rows, lambda row: flow.let({"price": row["price"]}))
    flow.each(rows, lambda row: f"- {row['the price']}")
    _, first, second, third = flow.build().steps
    assert (first.let, second.let, third.let) == (
        "${row.price * 2}",
        {"price": "$row.price"},
        '- ${row["the price"]}',
    )


def test_an_item_is_called_as_the_argument_is_unless_that_would_hide_another() -> None:
    flow = PlanBuilder()
    flow.each(["a"], lambda s1: flow.call(count, text=s1))
    flow.each(["a"], lambda x: flow.each(["b"], lambda y: flow.let(x + y)))

    def twice(x: str) -> list[str]:
        outer = x
        return flow.each(["b"], lambda x: flow.let(outer + x))

    flow.each(["a"], twice)
    flow.each(["a"], lambda _: flow.call(count, text=_))
    flow.each(["a"], lambda Odd: flow.call(count, text=Odd))  # noqa: N803 - what a program may write
    flow.each(["a"], lambda true: flow.call(count, text=true))
    first, second, third, *rest = flow.build().steps
    assert (first.as_, second.as_, second.do[0].as_, second.do[0].let) == ("s1_2", "x", "y", "${x + y}")
    assert (third.as_, third.do[0].as_, third.do[0].let) == ("x", "x_2", "${x + x_2}")
    assert [step.as_ for step in rest] == ["item", "item", "item"]


def test_a_function_of_python_that_tells_no_parameters_gets_the_item() -> None:
    flow = PlanBuilder()
    flow.each(flow.call(list_files), str)
    assert (flow.build().steps[1].let, flow.build().steps[1].as_) == ("${item}", "item")


# what is refused ---------------------------------------------------------------------------------------------


def test_an_empty_block_is_refused() -> None:
    flow = PlanBuilder(n=1)
    with pytest.raises(PlanError, match=r"P-405.*`s1` is empty"), flow.when(flow.input("n") > 0):
        pass


def test_a_plan_that_is_too_long_is_refused() -> None:
    flow = PlanBuilder()
    for _ in range(501):
        flow.call(count, text="a")
    with pytest.raises(PlanError, match="P-103"):
        flow.build()


def test_a_function_that_cannot_be_a_tool_is_refused() -> None:
    def nameless(*texts: str) -> None:
        """Takes anything."""

    with pytest.raises(UserError, match="T-105"):
        PlanBuilder().call(nameless, "a")


def test_a_block_that_was_given_up_is_not_open_any_more() -> None:
    flow = PlanBuilder()
    first = flow.call(count, text="a")
    with pytest.raises(RuntimeError), flow.when(first > 1) as block:
        raise RuntimeError
    flow.call(count, text="b")
    with pytest.raises(PlanError, match=r"P-402.*`s2` is not finished"):
        flow.call(write, path="a", text=block)
    assert [step.use for step in flow.build().steps] == ["text.count", "text.count"]


# types -------------------------------------------------------------------------------------------------------


def test_what_a_call_gives_has_the_type_of_the_tools_result() -> None:
    flow = PlanBuilder()
    names = assert_type(flow.call(list_files, pattern="*"), list[str])
    assert_type(flow.call(read, path=names[0], context=flow.context), str)
    assert_type(flow.call(get, url="x"), str)
    assert_type(flow.each(names, lambda name: flow.call(count, text=name)), list[int])
    assert_type(flow.each(names, lambda name, index: f"{index} {name}"), list[str])
    assert_type(flow.let({"name": names[0]}), dict[str, str])
    assert all(step.use or step.let for step in flow.build().steps)


def test_what_does_not_fit_a_tool_is_an_error_of_the_type_checker() -> None:
    flow = PlanBuilder()
    flow.call(count, text=1)  # type: ignore[call-overload]
    flow.step(note="x").call(write, path="a", text=flow.call(count, text="a"))  # type: ignore[call-overload]
    with pytest.raises(PlanError, match="P-103"):
        flow.step(timeout=1).call(count, text="a")  # type: ignore[call-arg]


# a run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    (place / "a.txt").write_text("one two")
    (place / "b.txt").write_text("three costs $s1")
    return place


def run(plan: Plan, workspace: Path) -> Result:
    async def ran() -> Result:
        tools = Toolbox.of(list_files, read, count, write)
        async with Assistant(tools, workspace=workspace, state=workspace.parent / "state") as assistant:
            return await assistant.run("Count the words", plan=plan)

    return asyncio.run(ran())


def test_a_built_plan_runs(workspace: Path) -> None:
    flow = PlanBuilder(pattern="*.txt")
    names = flow.call(list_files, pattern=flow.input("pattern"))
    texts = flow.each(names, lambda name: flow.call(read, name, flow.context))
    total = flow.let("sum(len(words(t)) for t in texts)", texts=texts)
    long = flow.step(if_=total > 4).call(write, path="long.txt", text=f"{total} words for $5: {texts[1]}")
    result = run(flow.build(answer=f"{total} words in {long}"), workspace)
    assert (result.is_ok, result.value) == (True, "5 words in long.txt"), result
    assert (workspace / "long.txt").read_text() == "5 words for $5: three costs $s1"


def test_a_built_plan_with_blocks_runs(workspace: Path) -> None:
    flow = PlanBuilder(limit=4)

    def size(name: str, index: int) -> str:
        words = flow.call(count, text=flow.call(read, name, flow.context))
        return f"{index}: {words}"

    sizes = flow.each(flow.call(list_files, pattern="*.txt"), size)
    with flow.when(flow.expr("len(sizes)", sizes=sizes) > flow.input("limit")) as written:
        flow.call(write, path="many.txt", text="many")
    with flow.otherwise():
        flow.call(write, path="few.txt", text=f"{sizes}")
    result = run(flow.build(answer={"sizes": sizes, "written": written}), workspace)
    assert (result.is_ok, result.value) == (True, {"sizes": ["0: 2", "1: 3"], "written": "few.txt"}), result
    assert (workspace / "few.txt").read_text() == "0: 2\n1: 3"
