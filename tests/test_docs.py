"""What the documents say is so: their commands, examples, links, tables and codes are held against the code."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import pytest
import yaml

import planner
from planner import Assistant, Plan, Result, ScriptedModel, ToolContext, cli
from planner.cli.exits import EXITS
from planner.cli.options import VERBS, Options, parse
from planner.core.catalog import ATOMS, Effect
from planner.core.events import RunStatus
from planner.core.functions import FUNCTIONS
from planner.core.labels import Integrity
from planner.errors import ErrorClass
from planner.tools import Toolbox

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MAP = (ROOT / "docs" / "architecture.md").read_text()
CODES = (ROOT / "docs" / "codes.md").read_text()
BUILD = (ROOT / ".ci" / "run").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SOURCES = [*(ROOT / "planner").rglob("*.py"), *(ROOT / "tools").glob("*.py")]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but the headers."""
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    rules = [index for index, row in enumerate(found) if set("".join(row)) <= set("-|")]
    return [row for index, row in enumerate(found) if index not in rules and index + 1 not in rules]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


async def reached(
    tmp_path: Path, goal: str, *, model: ScriptedModel | None = None, plan: Plan | None = None
) -> Result:
    where = tmp_path / "work"
    async with Assistant.open(model=model, workspace=where, state=tmp_path / "state", environ={}) as assistant:
        return await assistant.run(goal, plan=plan)


# ---- the two commands --------------------------------------------------------------------------------------

RUN, TEST = (
    [part.strip() for part in block.replace("\\\n", " ").split("&&")] for block in blocks(README, "bash")[:2]
)


def built(requirements: str) -> list[str]:
    """How `.ci/run` makes an environment from locked requirements, with the README's folder."""
    inside = BUILD.partition("environment() {")[2].partition("}")[0]
    lines = [line.strip() for line in inside.splitlines() if "-m venv" in line or "pip install" in line]
    words = {'"$python"': "python3", '"$1': '".venv', '"$2"': requirements, '"': ""}
    for old, new in words.items():
        lines = [line.replace(old, new) for line in lines]
    return lines


def test_both_commands_make_their_environment_as_the_build_does() -> None:
    assert RUN[:2] == built("requirements/run.txt")
    assert TEST[:2] == built("requirements/dev.txt")


def test_the_second_command_installs_and_tests_as_the_build_does() -> None:
    stages = dict(re.findall(r'^stage "(.+?)" (.+)$', BUILD, re.MULTILINE))
    assert TEST[2] == f".venv/bin/{stages['install the checkout']}"
    assert TEST[3] == ".venv/bin/python -m pytest"
    assert TEST[3].removeprefix(".venv/bin/") in BUILD


def test_the_first_command_reaches_a_goal_on_the_local_model_without_a_question() -> None:
    options = parse(shlex.split(RUN[4])[1:])
    assert (options.verb, options.model, options.is_agreed) == ("run", "local", True)
    assert options.workspace is not None
    assert (ROOT / options.workspace).is_dir()
    assert RUN[5] == f"cat {options.workspace}/total.txt"


def test_the_first_commands_goal_ends_with_the_right_file(tmp_path: Path) -> None:
    options = parse(shlex.split(RUN[4])[1:])
    shutil.copytree(ROOT / str(options.workspace), tmp_path / "work")
    steps = [
        {"id": "s1", "use": "files.read", "args": {"path": "expenses.csv"}},
        {"id": "s2", "use": "table.aggregate", "args": {"table": "$s1", "column": "amount", "function": "sum"}},
        {"id": "s3", "use": "files.write", "args": {"path": "total.txt", "text": "$s2"}},
    ]
    model = ScriptedModel([json.dumps({"steps": steps, "answer": "$s2"})])
    result = asyncio.run(reached(tmp_path, options.words[0], model=model))
    assert (result.status, result.value) == ("completed", 274.5)
    assert (tmp_path / "work" / "total.txt").read_text() == "274.5"


@pytest.mark.parametrize("block", blocks(README, "bash"))
def test_every_command_is_one_that_a_shell_can_read(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def said() -> Iterator[list[str]]:
    """The words of every command `planner ...` that the README writes in full."""
    inline = re.findall(r"`(planner [^`]+)`", README)
    blocked = [line for block in blocks(README, "bash") for line in re.split(r"&&|\n", block.replace("\\\n", " "))]
    for text in [*inline, *blocked]:
        command = re.fullmatch(r"(?:\w+=\S+ )?(?:\.venv/bin/)?planner (.+)", text.strip(), re.DOTALL)
        if command:
            yield shlex.split(command[1])


def test_every_verb_of_the_readme_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = capsys.readouterr().out
    commands = [*said()]
    assert len(commands) >= 8
    for words in commands:
        options: Options = parse(words)
        assert f"\n  {options.verb}" in told
        assert options.verb != "run" or " " in options.words[0], f"`{words[0]}` is no verb"


# ---- the examples ------------------------------------------------------------------------------------------

EMBEDDING, TOOL = blocks(README, "python")


def test_the_embedding_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLANNER_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    step = {"id": "s1", "use": "main.initials", "args": {"name": "Ada Byron King"}}
    model = ScriptedModel([json.dumps({"steps": [step], "answer": "$s1"})])
    source = EMBEDDING.replace('model="local"', "model=MODEL")
    assert source != EMBEDDING
    exec(compile(source, "<readme>", "exec"), {"__name__": "__main__", "MODEL": model})
    assert capsys.readouterr().out == "unverified ABK\n"


def test_the_tool_of_the_example_registers_and_works(tmp_path: Path) -> None:
    posted: list[bytes] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    name = re.search(r"`desk/(tools/\w+\.py)`", README)
    assert name is not None
    assert cli.main(["init", str(tmp_path / "desk")]) == 0
    (tmp_path / "desk" / name[1]).write_text(TOOL)
    box = Toolbox.load(tmp_path / "desk" / "tools")
    declared = box.catalogue["chat.post"].declaration
    assert (declared.effect, declared.payload) == ("send", ("text",))
    assert declared.control == {"channel": Integrity.TRUSTED}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Channel)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = ToolContext(
        workspace=tmp_path,
        key="k",
        keep=lambda *_: None,
        kept=lambda *_: None,
        secrets={"CHAT_URL": f"http://127.0.0.1:{server.server_port}/"},
    )
    answer = asyncio.run(box.call("chat.post", {"channel": "desk", "text": "hello"}, context))
    server.shutdown()
    server.server_close()
    assert (answer, posted) == (204, [b"#desk hello"])


def test_the_plan_of_the_language_reference_runs(tmp_path: Path) -> None:
    (plan,) = (Plan.model_validate(yaml.safe_load(text)) for text in blocks(MAP, "yaml"))
    (tmp_path / "work" / "reports").mkdir(parents=True)
    (tmp_path / "work" / "reports" / "a.txt").write_text("one two three")
    (tmp_path / "work" / "reports" / "b.txt").write_text("word " * 100)

    result = asyncio.run(reached(tmp_path, "Count the words", plan=plan))
    assert (result.status, result.value) == ("unverified", "103 words")
    assert (tmp_path / "work" / "long.txt").read_text() == "103 words in 2 files"
    assert (tmp_path / "work" / "log.txt").read_text() == "long.txt"


# ---- tables and codes --------------------------------------------------------------------------------------


def in_code() -> set[str]:
    return {code for path in SOURCES for code in re.findall(r'"([A-Z]-\d{3})"', path.read_text())}


def in_docs() -> set[str]:
    """The codes in the tables of the check and of all codes; `U-101` to `U-108` are eight."""
    found: set[str] = set()
    for first, *_ in rows(CODES):
        for letter, low, _, high in re.findall(r"`([A-Z])-(\d+)`(?: to `([A-Z])-(\d+)`)?", first):
            found |= {f"{letter}-{number}" for number in range(int(low), int(high or low) + 1)}
    return found


def test_every_code_is_documented() -> None:
    assert sorted(in_code() - in_docs()) == []


def test_no_code_is_documented_that_is_not_there() -> None:
    assert sorted(in_docs() - in_code()) == []


def test_the_module_map_is_that_of_the_import_rules() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    told = [set(quoted(first)) for first, *_ in rows(section(MAP, "Modules and layers"))]
    there = [
        {name for name in re.findall(r"\w+", layer) if any((ROOT / folder).glob(f"{name}*"))}
        for contract, folder in zip(contracts[:2], ("planner", "planner/core"), strict=True)
        for layer in contract["layers"]
    ]
    assert told == [layer for layer in there if layer]


def test_statuses_and_exit_codes_are_those_of_the_code() -> None:
    told = {quoted(row[0])[0]: int(row[-1]) for row in rows(section(MAP, "Validation and statuses"))}
    assert told == {status: EXITS[status] for status in get_args(RunStatus)}
    codes = [int(code) for code, _ in rows(section(README, "Exit codes"))]
    assert codes == sorted(set(EXITS.values()))


def test_words_of_the_language_are_those_of_the_code() -> None:
    functions = MAP.partition("<!-- functions -->")[2].partition("<!-- /functions -->")[0]
    assert quoted(functions) == sorted(FUNCTIONS)
    language = section(MAP, "The plan language")
    assert {f"`{word}`" for word in ATOMS} <= set(re.findall(r"`\w+`", language.partition("**Types**")[2]))
    safety = (ROOT / "docs" / "safety.md").read_text()
    assert {f"`{effect}`" for effect in get_args(Effect)} <= set(re.findall(r"`\w+`", safety))
    classes = section(MAP, "Outcomes and doubt")
    assert {f"`{word}`" for word in get_args(ErrorClass)} <= set(re.findall(r"`\w+`", classes))


def test_every_section_that_code_cites_is_there() -> None:
    cited = {name for path in SOURCES for name in re.findall(r'architecture\.md, "([^"]+)"', path.read_text())}
    assert cited
    assert cited <= set(re.findall(r"^## (.+)$", MAP, re.MULTILINE))


def test_the_map_stays_short() -> None:
    assert MAP.count("\n") <= 600


def test_every_test_that_the_threat_model_names_is_there() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    known = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15
    assert named <= known


# ---- links and names ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_every_decision_has_a_number_of_its_own_and_the_form_of_one() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:03}-")
        assert text.startswith(f"# {number:03} ")
        assert all(f"**{part}" in text for part in ("Question.", "Decision.", "What it costs."))


def test_the_public_names_are_there_and_type_checkers_see_the_same_ones() -> None:
    tree = ast.parse((ROOT / "planner" / "__init__.py").read_text())
    shown = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert set(planner.__all__) <= set(shown)
    assert all(getattr(planner, name) is not None for name in planner.__all__)
    assert set(planner.__all__) <= set(dir(planner))
    with pytest.raises(AttributeError, match="`planner` has no attribute `Assistent`"):
        _ = getattr(planner, "Assistent")  # noqa: B009  a type checker would refuse it otherwise


def test_every_verb_is_told_somewhere_in_the_documents() -> None:
    text = " ".join(page.read_text() for page in PAGES)
    groups = {verb.partition(" ")[0] for verb in VERBS}
    assert {group for group in groups if not re.search(rf"planner {group}\b", text)} <= {"run"}
