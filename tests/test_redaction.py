"""No secret is kept or shown, whatever tools, models and people do with it. Journal and processes are real."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import planner
from planner import Assistant, Card, Plan, Policy, Recorded, Result, Rule, ScriptedModel, ToolContext, ToolError, tool
from planner.cards import Said
from planner.config import Config, Secrets
from planner.core.events import EventReceived, HumanAnswered, Steered
from planner.core.redaction import NO_SECRETS
from planner.core.replay import replayed
from planner.core.state import fold
from planner.errors import UserError
from planner.journal import Requestable
from planner.telemetry import Telemetry

VALUE = 'hunter"22/ü+x-9'
KEY = "sk-proj-aBcDeFgHiJkLmNoP"
ENVIRON = {"SHOP_KEY": VALUE, "OPENAI_API_KEY": KEY, "UNNAMED": "may be seen"}
MARK = "[secret SHOP_KEY]"
SETTINGS = Config(
    policy=Policy(rules=(Rule(id="people", then="ask", callee="shop.ring"), Rule(id="all", then="allow"))),
    secrets=Secrets(names=("SHOP_KEY",)),
)


# tools that cannot keep a secret ------------------------------------------------------------------------------------


def secret(context: ToolContext) -> str:
    return context.secrets["SHOP_KEY"]


@tool(name="shop.give", effect="read", resource=(), secrets=("SHOP_KEY",))
def give(context: ToolContext) -> str:
    """Give it."""
    return f"the key is {secret(context)}, and {KEY}"


@tool(name="shop.hide", effect="read", resource=(), secrets=("SHOP_KEY",))
def hide(context: ToolContext) -> dict[str, Any]:
    """Give it as a key, deep inside, in a path, and in other forms."""
    raw = secret(context).encode()
    return {
        secret(context): {"deep": [{"path": f"/tmp/{secret(context)}/a.txt"}]},
        "basic": base64.b64encode(b"user:" + raw).decode(),
        "hex": raw.hex(),
        "json": json.dumps({"key": secret(context)}),
    }


@tool(name="shop.halve", effect="read", resource=(), secrets=("SHOP_KEY",))
def halve(context: ToolContext) -> list[str]:
    """Give it in two parts."""
    return [secret(context)[:7], secret(context)[7:]]


@tool(name="shop.refuse", effect="read", resource=(), secrets=("SHOP_KEY",))
def refuse(context: ToolContext) -> str:
    """Refuse with it."""
    raise ToolError("X-1", f"`{secret(context)}` is no key", error_class="missing", choices=(secret(context),))


@tool(name="shop.raise", effect="read", resource=(), secrets=("SHOP_KEY",))
async def raise_(context: ToolContext) -> str:
    """Raise it."""
    raise KeyError(secret(context))


@tool(name="shop.doubt", effect="send", control={}, resource=(), secrets=("SHOP_KEY",))
def doubt(context: ToolContext) -> str:
    """Raise it while something is sent."""
    raise ValueError(secret(context))


@tool(name="shop.keep", effect="write", control={}, resource=(), secrets=("SHOP_KEY",))
def keep(context: ToolContext) -> str:
    """Keep earlier content under a name that is secret."""
    context.keep(secret(context), f"content with {secret(context)}".encode())
    context.keep(secret(context), b"later content")
    kept = context.kept(secret(context))
    assert kept == f"content with {secret(context)}".encode()
    return "kept"


@tool(name="shop.echo", effect="read", resource=())
def echo(text: str, context: ToolContext) -> str:
    """Give what is there, and note it."""
    with (context.workspace / "seen").open("a") as file:
        file.write(f"{text}\n")
    return text


@tool(name="shop.ring", effect="send", control={}, resource=(), payload=("text",))
def ring(text: str) -> str:
    """Ring, if a person agrees."""
    return text


TOOLS = (give, hide, halve, refuse, raise_, doubt, keep, echo, ring)


def step(id_: str, use: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "use": f"shop.{use}", **fields}


def plan_of(*steps: dict[str, Any], answer: Any = None) -> Plan:
    return Plan.model_validate({"steps": steps, "answer": answer or [f"${one['id']} ?? 0" for one in steps]})


# what is kept -------------------------------------------------------------------------------------------------------


FORMS = (
    VALUE,
    KEY,
    json.dumps(VALUE)[1:-1],
    json.dumps(VALUE, ensure_ascii=False)[1:-1],
    base64.b64encode(VALUE.encode()).decode()[:-4],
    base64.b64encode(b"user:" + VALUE.encode()).decode()[8:-4],
    VALUE.encode().hex(),
)


def leaks(said: bytes) -> list[str]:
    return [form for form in FORMS if form.encode() in said]


def cells(place: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in the journal's tables but the content that tools kept: as it is, and unpacked."""
    with sqlite3.connect(place / "journal.db") as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in db.execute(f"SELECT * FROM {table}").fetchall():
                for cell in row:
                    said = cell if isinstance(cell, bytes) else str(cell).encode()
                    yield table, said
                    with suppress(zlib.error):
                        yield table, zlib.decompress(said)
    db.close()


def kept(place: Path) -> list[str]:
    """What the files of the journal, and its tables, hold of secrets beside content that tools kept."""
    found = [form for file in place.glob("journal.db*") for form in leaks(file.read_bytes())]
    rows = [said for _, said in cells(place) if not said.startswith(b"content with")]
    return found + [form for said in rows for form in leaks(said)]


def opened(place: Path, **options: Any) -> Assistant:
    given: dict[str, Any] = {"model": ScriptedModel([]), "settings": SETTINGS, "environ": ENVIRON} | options
    return Assistant(TOOLS, state=place, workspace=place, **given)


def ran(
    place: Path,
    goal: str,
    plan: Plan | None = None,
    *,
    told: Sequence[Requestable] = (),
    success: str | None = None,
    **options: Any,
) -> Result:
    """How the run ended, of which no secret was told or is in the journal, and which its journal leads to again."""
    observed: list[Recorded] = []

    async def work() -> tuple[Result, tuple[Recorded, ...]]:
        async with opened(place, **options) as assistant:
            result = await assistant.run(goal, plan=plan, success=success, run_id="run", observe=observed.append)
            for event in told:
                result = await assistant.tell("run", event, observe=observed.append)
            assert kept(place) == []  # in the log as well, before it is moved into the file
            return result, await assistant.journal.read("run")

    result, history = asyncio.run(work())
    said = [str(result), repr(fold(history)), *map(str, history), *map(str, observed)]
    assert leaks("\n".join(said).encode()) == []
    assert kept(place) == []
    assert replayed(history) == ()
    return result


# tools --------------------------------------------------------------------------------------------------------------


def test_what_a_tool_gives_goes_on_without_its_secret(tmp_path: Path) -> None:
    steps = (step("s1", "give"), step("s2", "echo", args={"text": "$s1"}), step("s3", "hide"))
    result = ran(tmp_path, "Buy", plan_of(*steps, answer=["$s2", "$s3"]))
    assert isinstance(result.value, list)
    said, hidden = result.value
    assert said == f"the key is {MARK}, and [secret OPENAI_API_KEY]"
    assert (tmp_path / "seen").read_text() == f"{said}\n"
    assert isinstance(hidden, dict)
    assert hidden[MARK] == {"deep": [{"path": f"/tmp/{MARK}/a.txt"}]}
    assert (hidden["hex"], json.loads(str(hidden["json"]))) == (MARK, {"key": MARK})


def test_a_secret_in_parts_is_found_where_they_are_put_together(tmp_path: Path) -> None:
    steps = (
        step("s1", "halve"),
        {"id": "s2", "let": "${s1[0] + s1[1]}"},
        step("s3", "echo", args={"text": "a ${s1[0]}${s1[1]} b"}),
        {"id": "s4", "let": "${len(s2)}"},
        {"id": "s5", "for_each": ["${s1[0]}${s1[1]}"], "use": "shop.echo", "args": {"text": "$item"}},
    )
    result = ran(tmp_path, "Buy", plan_of(*steps, answer=["$s2", "$s3", "$s4", "$s5", "${join(s1, '')}"]))
    assert result.value == [MARK, f"a {MARK} b", len(MARK), [MARK], MARK]
    assert sorted((tmp_path / "seen").read_text().splitlines()) == [MARK, f"a {MARK} b"]


@pytest.mark.parametrize(
    ("use", "code", "message"),
    [
        ("refuse", "X-1", f"`{MARK}` is no key"),
        ("raise", "T-204", f"`shop.raise` raised KeyError: '{MARK}'"),
    ],
)
def test_what_a_tool_raises_is_told_without_its_secret(tmp_path: Path, use: str, code: str, message: str) -> None:
    result = ran(tmp_path, "Buy", plan_of(step("s1", use)))
    assert result.fault is not None
    assert (result.status, result.fault.code, result.fault.message) == ("failed", code, message)


def test_neither_a_doubt_nor_the_name_of_what_was_kept_tells_a_secret(tmp_path: Path) -> None:
    steps = (step("s1", "keep"), step("s2", "doubt", after=["s1"]))
    said = HumanAnswered(path="s2", answer="yes", by=VALUE)
    assert ran(tmp_path, "Buy", plan_of(*steps), told=[said]).status == "unverified"
    assert [said for table, said in cells(tmp_path) if table == "blobs" and VALUE.encode() in said]  # to put it back


# models -------------------------------------------------------------------------------------------------------------


def test_neither_a_goal_nor_what_a_model_answers_keeps_a_secret(tmp_path: Path) -> None:
    write = {"id": "s1", "use": "agent.writer", "args": {"task": f"Praise {VALUE}"}}
    texts = [json.dumps({"steps": [write], "answer": "$s1"}), f"{VALUE} is fine, and so is {KEY}"]
    model = ScriptedModel(texts)
    result = ran(tmp_path, f"Praise {VALUE} and write it to {KEY}.txt", model=model, success=f"it names {VALUE}")
    assert result.value == f"{MARK} is fine, and so is [secret OPENAI_API_KEY]"
    assert len([said for table, said in cells(tmp_path) if table == "blobs" and b"Praise" in said]) == 2
    assert leaks("\n".join(map(str, model.asks)).encode()) == []


def test_a_plan_whose_steps_are_called_by_a_secret_is_no_way_around(tmp_path: Path) -> None:
    environ = {"SHOP_KEY": "hunter22"}
    steps = [{"id": "hunter22", "use": "shop.echo", "args": {"text": "hunter22"}}]
    steps.append({"id": "s2", "use": "shop.echo", "args": {"text": "$hunter22"}})
    model = ScriptedModel([json.dumps({"steps": steps})] * 4)
    ran(tmp_path, "Buy", model=model, environ=environ)
    assert not [said for _, said in cells(tmp_path) if b"hunter22" in said]


# people -------------------------------------------------------------------------------------------------------------


def test_a_card_shows_no_secret_and_what_people_say_keeps_none(tmp_path: Path) -> None:
    cards: list[Card] = []

    async def approver(card: Card) -> str | Said:
        cards.append(card)
        return "yes" if card.question == "approve" else Said(f"say {VALUE}")

    steps = (
        step("s1", "give"),
        step("s2", "ring", args={"text": f"$s1 {VALUE}"}),
        {"id": "s3", "use": "human.user", "args": {"question": f"Is it {VALUE}?"}},
        step("s4", "halve"),
        step("s5", "ring", args={"text": "${s4[0]}${s4[1]}"}),
    )
    result = ran(tmp_path, "Buy", plan_of(*steps, answer=["$s3", "$s5"]), approver=approver)
    assert result.value == [f"say {MARK}", MARK]
    assert leaks("\n".join(map(str, cards)).encode()) == []
    assert len(cards) == 3


def test_what_is_asked_of_a_run_is_kept_and_refused_without_secrets(tmp_path: Path) -> None:
    ask = {"id": "s1", "use": "human.user", "args": {"question": "How many?", "type": "integer"}}
    wait = {"id": "s2", "use": "wait.event", "args": {"name": "paid"}}

    async def work() -> None:
        async with opened(tmp_path) as assistant:
            plan = plan_of(ask, wait).model_copy(update={"inputs": {"who": "me"}})
            assert (await assistant.run("Buy", plan=plan, run_id="run")).status == "waiting"
            with pytest.raises(UserError, match="no integer") as refused:
                await assistant.tell("run", HumanAnswered(path="s1", answer="value", value=VALUE, by="ann"))
            assert leaks(str(refused.value).encode()) == []
            await assistant.tell("run", Steered(by="ann", inputs={"who": VALUE}))
            await assistant.tell("run", EventReceived(name="paid", data={VALUE: [VALUE]}))
            await assistant.tell("run", HumanAnswered(path="s1", answer="value", value=7, by="ann"))
            fork = await assistant.fork("run", at=6, inputs={"who": KEY})
            assert kept(tmp_path) == []
            assert (await assistant.resume(fork)).status == "waiting"
            assert [r.event.type for r in await assistant.journal.read("run")][-1] == "RunFinished"

    asyncio.run(work())
    assert kept(tmp_path) == []
    assert any(table == "requests" and MARK.encode() in said for table, said in cells(tmp_path))


# what leaves --------------------------------------------------------------------------------------------------------


def test_telemetry_with_content_carries_no_secret_not_even_of_a_run_that_was_recorded_with_one(
    tmp_path: Path,
) -> None:
    async def history() -> tuple[Recorded, ...]:
        settings = SETTINGS.model_copy(update={"secrets": Secrets(names=("SHOP_KEY",))})
        async with opened(tmp_path, settings=settings, environ={"SHOP_KEY": VALUE}) as assistant:
            assistant._redactor = NO_SECRETS  # as before it was known as one
            steps = (step("s1", "give"), step("s2", "echo", args={"text": "$s1"}), step("s3", "refuse"))
            await assistant.run(f"Buy with {VALUE}", plan=plan_of(*steps), run_id="run")
            return await assistant.journal.read("run")

    recorded = asyncio.run(history())
    assert VALUE in str(recorded[0].event.model_dump())
    spans = InMemorySpanExporter()
    redactor = SETTINGS.secrets.redactor(ENVIRON)
    telemetry = Telemetry(spans, InMemoryMetricReader(), name="shop", content=True, redactor=redactor)
    for one in recorded:
        telemetry.observe(one)
    telemetry.close()
    said = "\n".join(span.to_json() for span in spans.get_finished_spans())
    assert MARK in said
    assert leaks(said.encode()) == []


def test_no_representation_of_what_tools_get_shows_a_secret(tmp_path: Path) -> None:
    context = ToolContext(tmp_path, "key", lambda *_: None, lambda _: None, {"SHOP_KEY": VALUE})
    assert leaks(repr(context).encode()) == []


# the command line ---------------------------------------------------------------------------------------------------


LEAKY = """
import logging, os, sys, warnings
from planner.tools import ToolContext, tool

@tool(effect="read", resource=(), secrets=("SHOP_KEY",))
def tell(context: ToolContext) -> str:
    \"\"\"Tell it in every way.\"\"\"
    key = context.secrets["SHOP_KEY"]
    print("printed", key)
    print("printed beside", key, file=sys.stderr)
    logging.getLogger("shop").warning("logged %s", key)
    sys.stderr.writelines([f"written {key}\\n"])
    return f"given {key}"
"""


def told(place: Path, *words: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    root = str(Path(planner.__file__).parents[1])
    named = {"PYTHONPATH": root, "PLANNER_STATE": str(place / "state"), "PYTHONUTF8": "1", "TMPDIR": str(place)}
    return subprocess.run(
        [sys.executable, "-m", "planner", *words],
        env={**os.environ, **named, **ENVIRON},
        cwd=place / folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an assistant in it, `mine`, and a plan."""
    assert told(tmp_path, "init", "mine").returncode == 0
    settings = tmp_path / "mine" / "planner.toml"
    with settings.open("a") as file:
        file.write('\n[secrets]\nnames = ["SHOP_KEY"]\n')
    (tmp_path / "mine" / "tools" / "shop.py").write_text(LEAKY)
    ask = {"id": "s2", "use": "human.user", "args": {"question": "Which?"}, "after": ["s1"]}
    plan = plan_of(step("s1", "tell"), ask, step("s3", "tell", after=["s2"])).model_dump(mode="json", by_alias=True)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    return tmp_path


def test_the_command_line_says_no_secret_in_any_form_and_keeps_none(shop: Path) -> None:
    named = ("--assistant", "mine")
    runs = [
        told(shop, "run", *options, *named, "--on-ask", "wait", "--plan", "plan.yaml", f"Buy with {VALUE}")
        for options in ((), ("--json",))
    ]
    assert [one.returncode for one in runs] == [7, 7], runs[0].stderr
    for word in ("printed", "printed beside", "logged", "written"):
        assert f"{word} {MARK}" in runs[0].stdout + runs[0].stderr
    newest = json.loads(told(shop, "runs", "--json").stdout)[0]["run_id"]
    verbs = (("show",), ("show", "--json"), ("events",), ("events", "--json"))
    shown = [told(shop, "runs", *words, newest) for words in verbs] + [told(shop, "runs")]
    answered = told(shop, "runs", "answer", newest, f"it is {VALUE}", *named)
    assert (answered.returncode, f"it is {MARK}" in answered.stderr) == (0, True), answered.stderr
    wrong = told(shop, "runs", "answer", newest, f"it is {VALUE}", *named)
    unknown = told(shop, "runs", "show", f"x{VALUE}", folder="mine")
    assert (wrong.returncode, unknown.returncode, f"`x{MARK}`" in unknown.stderr) == (2, 2, True)
    mistyped = told(shop, "runs", "show", f"--{VALUE}", folder="mine")
    assert (mistyped.returncode, f"`--{MARK}`" in mistyped.stderr) == (2, True)
    for one in (*runs, *shown, answered, wrong, unknown, mistyped):
        assert leaks((one.stdout + one.stderr).encode()) == []
    assert all(MARK in one.stdout for one in shown)
    assert kept(shop / "state") == []


BROKEN = """
import sys
from planner.cli import main, run
def broken(options):
    raise RuntimeError("no way with " + options.words[0])
run.run = broken
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_traceback_names_no_secret(shop: Path, debug: str, options: tuple[str, ...]) -> None:
    root = str(Path(planner.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, "run", *options, "--assistant", "mine", f"Buy {VALUE} {KEY}"],
        env={**os.environ, **ENVIRON, "PYTHONPATH": root, "PLANNER_DEBUG": debug, "TMPDIR": str(shop)},
        cwd=shop,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode, f"no way with Buy {MARK}" in said) == (1, True), said
    files = [file.read_text() for file in shop.glob("planner-*.txt")]
    assert len(files) == (0 if debug else 1)
    assert all(MARK in text for text in files)
    assert leaks("\n".join([said, *files]).encode()) == []
