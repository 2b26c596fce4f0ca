from __future__ import annotations

import asyncio
import importlib.util
import py_compile
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from planner.core.labels import Json
from planner.errors import JournalError, ToolError, UserError
from planner.tools import FilePath, Toolbox, ToolContext, ToolInDoubt, folder_hash, tool


class Part(BaseModel):
    name: str
    count: int = 1


def context(secrets: Mapping[str, str] | None = None) -> ToolContext:
    return ToolContext(Path(), "key", lambda _name, _content: None, lambda _name: None, secrets or {})


def call(function: Callable[..., object], /, **arguments: Json) -> Json:
    box = Toolbox.of(function)
    return asyncio.run(box.call(next(iter(box.tools)), arguments, context()))


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, source in files.items():
        (folder / f"{stem}.py").write_text(source)
    return folder


GREET = '''
from planner.tools import tool

@tool(effect="pure")
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"
'''


@tool(effect="read", resource=("file:{path}",), control={"path": "bounded"})
def last_(path: FilePath, count: int = 1, unit: Literal["lines", "words"] = "lines") -> list[str]:
    """The end of a file."""
    return [path] * count + [unit]


# loading a folder


def test_a_folder_gives_the_tools_that_its_files_define(tmp_path: Path) -> None:
    put(
        tmp_path,
        polite=GREET,
        _words="def upper(text: str) -> str:\n  return text.upper()\n",
        loud='''
from planner.tools import tool
from .polite import greet
from ._words import upper

@tool(effect="pure")
def list_(name: str) -> str:
    """Shout at somebody."""
    return upper(greet(name))

also = list_
''',
    )
    box = Toolbox.load(tmp_path)
    assert [*box.tools] == ["loud.list", "polite.greet"]
    assert asyncio.run(box.call("loud.list", {"name": "Bo"}, context())) == "HELLO, BO!"


def test_two_folders_do_not_collide_and_one_is_loaded_once(tmp_path: Path) -> None:
    one = put(tmp_path / "one", polite=GREET)
    two = put(tmp_path / "two", polite=GREET.replace("Hello", "Welcome"))
    results = [
        asyncio.run(Toolbox.load(folder).call("polite.greet", {"name": "Bo"}, context())) for folder in (one, two)
    ]
    assert results == ["Hello, Bo!", "Welcome, Bo!"]
    again = Toolbox.load(one).tools["polite.greet"].function
    assert again is Toolbox.load(one).tools["polite.greet"].function


def test_an_edited_folder_is_loaded_anew(tmp_path: Path) -> None:
    Toolbox.load(put(tmp_path, polite=GREET))
    before = folder_hash(tmp_path)
    put(tmp_path, polite=GREET.replace("Hello", "Salut"))
    assert folder_hash(tmp_path) != before
    assert asyncio.run(Toolbox.load(tmp_path).call("polite.greet", {"name": "Bo"}, context())) == "Salut, Bo!"


def test_a_compiled_file_beside_the_source_is_never_run(tmp_path: Path) -> None:
    planted = put(tmp_path / "elsewhere", polite=GREET.replace("Hello", "Owned")) / "polite.py"
    folder = put(tmp_path / "tools", polite=GREET, _other="")
    compiled = Path(importlib.util.cache_from_source(str(folder / "polite.py")))
    py_compile.compile(str(planted), str(compiled), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    (folder / "evil.pyc").write_bytes(compiled.read_bytes())
    box = Toolbox.load(folder)
    assert asyncio.run(box.call("polite.greet", {"name": "Bo"}, context())) == "Hello, Bo!"
    assert [*box.tools] == ["polite.greet"]
    assert [path.name for path in (folder / "__pycache__").iterdir()] == [compiled.name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\n\nx.nothing\n", "AttributeError"),
        ("x = 1\n\ndef f(:\n", "SyntaxError"),
        ("x = 1\n\nimport no_such_module\n", "ModuleNotFoundError"),
        ("import sys\n\nsys.exit(3)\n", "SystemExit"),
        ("from ._helper import f\n\nf()\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_its_line(tmp_path: Path, source: str, expected: str) -> None:
    put(tmp_path, broken=source, _helper="\n\ndef f(): 1 / 0\n")
    with pytest.raises(UserError, match=rf"T-102.*{expected}") as caught:
        Toolbox.load(tmp_path)
    place = "_helper.py:3" if "_helper" in source else "broken.py:3"
    assert str(tmp_path / place) in caught.value.message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="T-101"):
        Toolbox.load(tmp_path / "none")


def test_only_the_wanted_tools_are_loaded(tmp_path: Path) -> None:
    put(tmp_path, polite=GREET, broken="1 / 0\n")
    assert [*Toolbox.load(tmp_path, only=["polite.*"]).tools] == ["polite.greet"]
    assert [*Toolbox.load(tmp_path, only=["polite.greet"]).tools] == ["polite.greet"]
    assert not Toolbox.load(tmp_path, only=[]).tools
    with pytest.raises(UserError, match="T-109") as caught:
        Toolbox.load(tmp_path, only=["polite.greed"])
    assert caught.value.choices == ("polite.greet",)
    with pytest.raises(UserError, match="T-109"):
        Toolbox.load(tmp_path, only=["nothing.*"])


def test_toolboxes_are_merged_unless_two_tools_have_one_name(tmp_path: Path) -> None:
    polite = Toolbox.load(put(tmp_path / "a", polite=GREET))
    both = polite.merged(Toolbox.of(last_), polite)
    assert [*both.catalogue] == ["polite.greet", "test_tools.last"]
    with pytest.raises(UserError, match="T-104"):
        polite.merged(Toolbox.load(put(tmp_path / "b", polite=GREET)))


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = "import sys, planner.tools; print(*{'aiohttp', 'litellm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_tool_declares_how_many_of_its_calls_are_made_at_once_and_what_each_costs() -> None:
    @tool(effect="read", resource=(), concurrency=4, cost_usd=0.01)
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    declared = Toolbox.of(look_up).catalogue["test_tools.look_up"].declaration
    assert (declared.concurrency, declared.cost_usd) == (4, 0.01)


def test_a_declaration_of_a_value_that_cannot_be_is_refused_with_that_value() -> None:
    @tool(effect="read", resource=(), concurrency=0)
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    with pytest.raises(UserError, match=r"T-108.*`concurrency` is `0`.*greater than or equal to 1"):
        Toolbox.of(look_up)


# calling


def test_arguments_are_coerced_and_results_are_json() -> None:
    @tool(effect="pure")
    def parts(names: list[str], first: Part, times: int = 2) -> list[Part]:
        """Make parts."""
        return [first, *(Part(name=name, count=times) for name in names)]

    assert call(parts, names="a\nb", first={"name": "x"}, times=None) == [
        {"name": "x", "count": 1},
        {"name": "a", "count": 2},
        {"name": "b", "count": 2},
    ]


def test_a_wrong_argument_is_named_with_its_value_and_the_expected_type() -> None:
    with pytest.raises(ToolError) as caught:
        call(last_, path="a.txt", count="x" * 100)
    assert (caught.value.code, caught.value.error_class) == ("T-203", "invalid")
    assert "argument `count` of `test_tools.last` is" in caught.value.message
    assert "expected integer: it is not one number" in caught.value.message
    assert len(caught.value.message) < 200


def test_a_wrong_choice_lists_the_choices() -> None:
    with pytest.raises(ToolError) as caught:
        call(last_, path="a.txt", unit="pages")
    assert caught.value.choices == ("lines", "words")


def test_a_mistake_inside_a_record_says_where() -> None:
    @tool(effect="pure")
    def one(part: Part) -> str:
        """One part."""
        return part.name

    with pytest.raises(ToolError, match="expected record: name: Field required"):
        call(one, part={})


@pytest.mark.parametrize("arguments", [{"path": "a", "pages": 1}, {}, {"count": 3}])
def test_unknown_and_missing_arguments_are_refused(arguments: dict[str, Json]) -> None:
    with pytest.raises(ToolError, match="T-202") as caught:
        call(last_, **arguments)
    assert caught.value.choices == ("path", "count", "unit")


def test_an_unknown_tool_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ToolError, match="T-201") as caught:
        asyncio.run(Toolbox.of(last_).call("test_tool.last", {}, context()))
    assert caught.value.choices == ("test_tools.last",)


def test_functions_run_in_a_thread_and_coroutines_in_the_loop() -> None:
    here = threading.get_ident()

    @tool(effect="pure")
    def threaded() -> bool:
        """Whether it runs in the caller's thread."""
        return threading.get_ident() == here

    @tool(effect="pure")
    async def awaited() -> bool:
        """Whether it runs in the caller's thread."""
        await asyncio.sleep(0)
        return threading.get_ident() == here

    assert (call(threaded), call(awaited)) == (False, True)


def test_more_calls_run_beside_each_other_than_any_pool_has_threads() -> None:
    meeting = threading.Barrier(50, timeout=120)

    @tool(effect="pure")
    def meet() -> int:
        """Wait for the others."""
        return meeting.wait()

    async def all_of_them() -> list[Json]:
        box = Toolbox.of(meet)
        return await asyncio.gather(*(box.call("test_tools.meet", {}, context()) for _ in range(50)))

    assert {*map(str, asyncio.run(all_of_them()))} == {str(index) for index in range(50)}


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), StopIteration(), KeyError("x"), TimeoutError(), SystemExit(3)]
)
def test_an_unexpected_exception_is_a_failure_where_nothing_can_have_changed(error: BaseException) -> None:
    @tool(effect="read")
    def look() -> str:
        """Look."""
        raise error

    with pytest.raises(ToolError, match=type(error).__name__) as caught:
        call(look)
    assert (caught.value.code, caught.value.error_class) == ("T-204", "failed")


def test_an_unexpected_exception_of_an_effect_leaves_it_in_doubt() -> None:
    @tool(effect="send", control={})
    async def send(text: str) -> None:
        """Send it."""
        raise ConnectionResetError(f"lost after {text}")

    with pytest.raises(ToolInDoubt, match="lost after x") as caught:
        call(send, text="x")
    assert not isinstance(caught.value, ToolError)


@pytest.mark.parametrize("error", [ToolError("T-999", "not now"), JournalError("J-999", "disk full")])
def test_what_a_tool_raises_on_purpose_passes(error: Exception) -> None:
    @tool(effect="write", control={})
    def write() -> None:
        """Write."""
        raise error

    with pytest.raises(type(error)) as caught:
        call(write)
    assert caught.value is error


@pytest.mark.parametrize("result", [float("nan"), {"a": float("inf")}, "\ud800", object(), {1, 2}])
def test_a_result_that_is_no_json_is_a_failure(result: object) -> None:
    @tool(effect="pure")
    def odd() -> Json:
        """Something odd."""
        return cast(Json, result)

    with pytest.raises(ToolError, match="T-204"):
        call(odd)


def test_a_result_of_another_type_than_declared_is_a_failure() -> None:
    @tool(effect="pure")
    def odd() -> list[int]:
        """Something odd."""
        return cast(list[int], ["x"])

    with pytest.raises(ToolError, match="T-204"):
        call(odd)


def test_a_tool_sees_its_declared_secrets_and_no_others() -> None:
    @tool(effect="read", secrets=("KEY",))
    def peek(context: ToolContext) -> list[str]:
        """The secrets."""
        return [f"{name}={value}" for name, value in context.secrets.items()]

    box = Toolbox.of(peek)
    assert not box.catalogue["test_tools.peek"].parameters
    given = context({"KEY": "1", "OTHER": "2"})
    assert asyncio.run(box.call("test_tools.peek", {}, given)) == ["KEY=1"]
    with pytest.raises(ToolError, match="needs the secret `KEY`"):
        asyncio.run(box.call("test_tools.peek", {}, context()))


# after a call


def test_a_probe_answers_yes_no_or_cannot_tell() -> None:
    def happened(answer: str, context: ToolContext) -> bool | None:
        assert context.key == "key"
        if answer == "error":
            raise RuntimeError
        return {"yes": True, "no": False}.get(answer)

    @tool(effect="send", control={}, on_doubt="probe", probe=happened)
    def send(answer: str) -> None:
        """Send."""

    box = Toolbox.of(send, last_)
    answers = [
        asyncio.run(box.probe("test_tools.send", {"answer": answer}, context()))
        for answer in ("yes", "no", "other", "error")
    ]
    assert answers == [True, False, None, None]
    assert asyncio.run(box.probe("test_tools.last", {"path": "a"}, context())) is None


def test_an_effect_is_undone_by_its_own_function() -> None:
    done: list[str] = []

    def back(name: str) -> None:
        done.remove(name)

    @tool(effect="write", control={"name": "bounded"}, undo=back)
    def book(name: str) -> None:
        """Book it."""
        done.append(name)

    box = Toolbox.of(book, last_)
    asyncio.run(box.call("test_tools.book", {"name": "x"}, context()))
    asyncio.run(box.undo("test_tools.book", {"name": "x"}, context()))
    assert done == []
    with pytest.raises(ToolInDoubt):
        asyncio.run(box.undo("test_tools.book", {"name": "x"}, context()))
    with pytest.raises(ToolError, match="cannot be undone"):
        asyncio.run(box.undo("test_tools.last", {"path": "x"}, context()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["path", "count", "unit", "x"]), json_values))
def test_whatever_the_arguments_are_a_call_gives_json_or_a_tool_error(arguments: dict[str, Json]) -> None:
    count = arguments.get("count")
    if isinstance(count, int | float) and abs(count) > 1_000:
        return
    try:
        result = call(last_, **arguments)
    except ToolError:
        return
    assert isinstance(result, list)
