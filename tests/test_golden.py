"""Runs of earlier versions, kept as files: what the rules led to then, they lead to now.

`python -m tests.test_golden --replay` says what no longer holds. `python -m tests.test_golden --regenerate` runs the
recipes below anew and writes `tests/golden/v<semantics>-<recipe>.jsonl`. That is right after a new recipe, and after
a change of wording or of the certificate. A change of what is done next is not to be hidden that way: it is a new
version in `planner.core.replay.RULES`, with the old rules beside it.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest

from planner import (
    Assistant,
    Card,
    Plan,
    Policy,
    Principal,
    Recorded,
    Rule,
    Said,
    ScriptedModel,
    ToolContext,
    ToolError,
    tool,
)
from planner.cards import Answer
from planner.core.commands import Command, Record
from planner.core.decide import decide
from planner.core.events import SEMANTICS, Event, EventReceived, StepResolved, UndoRequested
from planner.core.replay import RULES, replayed, told
from planner.core.run import Run
from planner.core.state import fold
from planner.journal.contract import Requestable

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
POLICY = Policy(rules=(Rule(id="people", then="ask", callee="world.ring"), Rule(id="all", then="allow")))
ADA = Principal(name="ada")


# the world ---------------------------------------------------------------------------------------------------------


def is_first(context: ToolContext, name: str) -> bool:
    """Whether nobody asked this before in that workspace."""
    mark = context.workspace / name
    is_new = not mark.exists()
    mark.touch()
    return is_new


@tool(name="world.read", effect="read", resource=("world:{name}",))
def read(name: str) -> str:
    """Read what has a name."""
    if name == "lost":
        raise ToolError("X-1", "there is nothing of that name", error_class="missing")
    return f"text of {name}"


@tool(name="world.flaky", effect="read", resource=())
def flaky(context: ToolContext) -> str:
    """Answer the second time."""
    if is_first(context, "flaky"):
        raise ToolError("X-2", "not yet", error_class="unavailable")
    return "up"


def was_posted(text: str) -> bool:
    """Whether a text was posted: it never was, where that is in doubt."""
    return False


@tool(name="world.post", effect="send", control={}, resource=("world:post",), on_doubt="probe", probe=was_posted)
def post(text: str, context: ToolContext) -> str:
    """Post a text; the first time nobody knows what became of it."""
    if is_first(context, "post"):
        raise RuntimeError("the line went dead")
    return text


@tool(name="world.call", effect="send", control={}, resource=("world:phone",))
def call(text: str) -> str:
    """Call somebody; nobody knows what becomes of it."""
    raise RuntimeError("the line went dead")


@tool(name="world.ring", effect="send", control={}, resource=("world:bell",))
def ring(text: str) -> str:
    """Ring a bell, if a person agrees."""
    return text


def erase(text: str, context: ToolContext) -> None:
    """Take a note back."""
    (context.workspace / text).unlink()


@tool(name="world.note", effect="write", control={}, resource=("world:notes",), undo=erase, reversible=True)
def note(text: str, context: ToolContext) -> str:
    """Note a text."""
    (context.workspace / text).write_text(text)
    return text


# the recipes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A goal with what a run for it meets, and what its journal must hold to be worth keeping."""

    goal: str
    steps: Sequence[Mapping[str, Any]] = ()
    """A plan that comes along; else `plans` are the planner's."""
    plans: Sequence[Mapping[str, Any]] = ()
    says: Mapping[str, Answer] = field(default_factory=dict)
    """What a person answers, by path; what is not named stays open."""
    after: Sequence[Requestable] = ()
    """What is said to the run once it can only wait, or has ended."""
    holds: frozenset[str] = frozenset()
    status: str = "unverified"


def step(id_: str, use: str, /, **args: Any) -> dict[str, Any]:
    return {"id": id_, "use": use, "args": args}


RECIPES: Mapping[str, Recipe] = {
    "plain": Recipe(
        "Read a and b and put them together",
        plans=[
            {"steps": [step("s1", "world.unknown")]},
            {
                "steps": [
                    {"timeout_s": 9, **step("s1", "world.read", name="a")},
                    step("s2", "world.read", name="b"),
                    {"id": "s3", "let": "${s1 + ', ' + s2}"},
                    {"if": "len(s3) > 99", **step("s4", "world.note", text="long")},
                ],
                "answer": "both: ${s3}",
            },
        ],
        holds=frozenset({"PlanProposed", "PlanRejected", "PlanAccepted", "StepResolved", "StepSkipped"}),
    ),
    "replan": Recipe(
        "Read what is there",
        plans=[
            {
                "steps": [step("s1", "world.read", name="a"), step("s2", "world.read", name="lost")],
                "answer": "${s1} ${s2}",
            },
            {"steps": [step("s3", "world.read", name="b")], "answer": "${s1}, ${s3}"},
        ],
        holds=frozenset({"StepFailed", "PlanAbandoned"}),
    ),
    "map": Recipe(
        "Read them all",
        [
            {"for_each": ["a", "lost", "b"], "on_item_error": "drop", **step("s1", "world.read", name="$item")},
            {"id": "s2", "for_each": "$s1", "let": "${item_i}: ${item ?? 'nothing'}"},
        ],
        holds=frozenset({"MapResolved", "StepFailed"}),
    ),
    "retry": Recipe(
        "Read what is not always there",
        [{"on_error": {"retry": 2}, **step("s1", "world.flaky")}],
        holds=frozenset({"StepFailed", "RetryScheduled", "TimerFired"}),
    ),
    "doubt": Recipe(
        "Tell somebody",
        [step("s1", "world.post", text="hello"), step("s2", "world.call", text="hello")],
        says={"s2": "yes"},
        holds=frozenset({"StepInDoubt", "StepProbed", "HumanAsked", "HumanAnswered"}),
    ),
    "approval": Recipe(
        "Ring, if that is wanted",
        [
            step("s1", "gate.approve", what="any ringing at all"),
            step("s2", "world.ring", text="ding"),
            {"on_error": {"then": "skip"}, **step("s3", "world.ring", text="dong")},
            {"after": ["s3"], **step("s4", "human.user", question="what else?", type="integer")},
        ],
        says={"s1": "yes", "s2": "yes", "s3": "no", "s4": Said("3")},
        holds=frozenset({"HumanAsked", "HumanAnswered", "StepFailed"}),
    ),
    "block": Recipe(
        "Read some of it twice",
        [
            {
                "id": "s1",
                "for_each": ["a", "b"],
                "if": "item != 'b'",
                "do": [
                    step("t1", "world.read", name="$item"),
                    {
                        "id": "t2",
                        "if": "len(t1) > 1",
                        "do": [{"id": "u1", "let": "${t1} twice"}],
                        "else": [{"id": "u2", "let": "too short"}],
                    },
                ],
                "else": [{"id": "t3", "let": "none of ${item}"}],
            }
        ],
        holds=frozenset({"MapResolved", "BlockEntered"}),
    ),
    "wait": Recipe(
        "Wait for the money",
        [
            step("s1", "wait.until", seconds=0.05),
            {"after": ["s1"], **step("s2", "wait.event", name="paid", match={"invoice": 7})},
            {"id": "s3", "let": "${s2.amount}"},
        ],
        after=[EventReceived(name="paid", data={"invoice": 7, "amount": 3}, by="bank")],
        holds=frozenset({"WaitStarted", "TimerFired", "EventReceived", "WaitEnded", "RunResumed"}),
    ),
    "undo": Recipe(
        "Note it, and take it back",
        [step("s1", "world.note", text="one"), step("s2", "world.note", text="two")],
        after=[UndoRequested(by="ada")],
        holds=frozenset({"UndoRequested", "UndoBegan"}),
        status="cancelled",
    ),
}


async def made(recipe: Recipe, place: Path) -> tuple[Recorded, ...]:
    """The journal of a run by this recipe; `place` is an empty folder for it."""

    async def approver(card: Card) -> Answer:
        return recipe.says.get(card.path)

    plans = [Plan.model_validate(plan).model_dump_json(by_alias=True, exclude_defaults=True) for plan in recipe.plans]
    async with Assistant(
        [read, flaky, post, call, ring, note],
        model=ScriptedModel(plans, cost_usd=0.001),
        approver=approver,
        policy=POLICY,
        workspace=place,
        state=place.parent / "state",
        environ={},
    ) as assistant:
        plan = None if recipe.plans else Plan.model_validate({"steps": recipe.steps})
        result = await assistant.run(recipe.goal, as_=ADA, plan=plan)
        for event in recipe.after:
            await assistant.tell(result.run_id, event)
        return await assistant.journal.read(result.run_id)


# files -------------------------------------------------------------------------------------------------------------


def written(history: Sequence[Recorded], place: Path) -> str:
    """A line for each event; the folder of the run stands in it without where it was."""
    lines = (recorded.model_dump_json(by_alias=True) for recorded in history)
    return "".join(f"{line}\n".replace(str(place), place.name) for line in lines)


def kept(name: str) -> list[Recorded]:
    lines = (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Recorded.model_validate_json(line) for line in lines]


def regenerate() -> Iterator[str]:
    """Writes every file anew, and says what there is in it."""
    GOLDEN.mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        with TemporaryDirectory() as folder:
            place = Path(folder).resolve() / "workspace"
            place.mkdir()
            history = asyncio.run(made(recipe, place))
            file = GOLDEN / f"v{SEMANTICS}-{name}.jsonl"
            file.write_text(written(history, place), encoding="utf-8")
        yield f"{file.name}: {len(history)} events, {fold(history).status}"


def diverging() -> Iterator[str]:
    """What the rules no longer lead to, a line each."""
    for name in NAMES:
        yield from (f"{name}: {told(divergence)}" for divergence in replayed(kept(name)))


NAMES = sorted(file.stem for file in GOLDEN.glob("*.jsonl"))


# tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_journal_replays(name: str) -> None:
    history = kept(name)
    assert [told(divergence) for divergence in replayed(history)] == []
    assert fold(history).finished is not None


@pytest.mark.parametrize("name", RECIPES)
def test_a_journal_is_kept_of_each_recipe_and_shows_what_it_is_there_for(name: str) -> None:
    history = kept(f"v{SEMANTICS}-{name}")
    kinds = {recorded.event.type for recorded in history}
    assert RECIPES[name].holds <= kinds
    assert fold(history).status == RECIPES[name].status


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_made_now_replays(name: str, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    place.mkdir()
    history = asyncio.run(made(RECIPES[name], place))
    assert [told(divergence) for divergence in replayed(history)] == []
    assert fold(history).status == RECIPES[name].status
    assert RECIPES[name].holds <= {recorded.event.type for recorded in history}


def test_a_file_names_the_version_of_its_rules_and_there_are_some_of_each() -> None:
    versions = {name: fold(kept(name)).started.semantics for name in NAMES}
    assert {name: f"v{version}" for name, version in versions.items()} == {n: n.partition("-")[0] for n in NAMES}
    assert set(versions.values()) == set(RULES)


def test_no_file_knows_where_it_was_made() -> None:
    for name in NAMES:
        assert fold(kept(name)).started.setup.workspace == "workspace"
        assert re.search(r'"/\w', (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8")) is None


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_rules_do_not_depend_on_the_order_in_which_sets_are_gone_through(seed: str) -> None:
    command = [sys.executable, "-m", "tests.test_golden", "--replay"]
    environ = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environ, text=True, capture_output=True, timeout=300)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


# changed rules -----------------------------------------------------------------------------------------------------


def lenient(event: Event) -> Event:
    """A gate that forgets to ask."""
    if isinstance(event, StepResolved) and event.verdict is not None:
        return event.model_copy(update={"verdict": event.verdict.model_copy(update={"then": "allow"})})
    return event


def changed(of: Callable[[Command], Command | None]) -> Callable[[Run], tuple[Command, ...]]:
    """The rules, but for these commands."""

    def rules(run: Run) -> tuple[Command, ...]:
        return tuple(c for command in decide(run) if (c := of(command)) is not None)

    return rules


def without(kind: str) -> Callable[[Command], Command | None]:
    """Rules that never come to this."""

    def kept_(command: Command) -> Command | None:
        what = command.event if isinstance(command, Record) else command
        return None if type(what).__name__ == kind else command

    return kept_


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("approval", lambda c: Record(lenient(c.event)) if isinstance(c, Record) else c),
        ("retry", without("ScheduleRetry")),
        ("retry", without("StartTimer")),
        ("doubt", without("Probe")),
        ("doubt", lambda c: replace(c, attempt=c.attempt - 1) if hasattr(c, "attempt") else c),
        ("replan", without("PlanAbandoned")),
        ("plain", without("PlanRejected")),
        ("plain", lambda c: replace(c, is_cheaper=True) if hasattr(c, "is_cheaper") else c),
        ("block", without("BlockEntered")),
        ("wait", without("WaitEnded")),
        ("undo", without("UndoBegan")),
        ("map", without("MapResolved")),
    ],
)
def test_changed_rules_are_noticed(name: str, of: Callable[[Command], Command | None]) -> None:
    history = kept(f"v{SEMANTICS}-{name}")
    assert replayed(history, known={SEMANTICS: changed(of)})


def test_every_kind_of_event_that_a_recipe_waits_for_exists() -> None:
    kinds = {kind.__name__ for kind in get_args(get_args(Event)[0])}
    assert all(recipe.holds <= kinds for recipe in RECIPES.values())


if __name__ == "__main__":
    told_ = {"--regenerate": regenerate, "--replay": diverging}.get(" ".join(sys.argv[1:]))
    if told_ is None:
        sys.exit("usage: python -m tests.test_golden --regenerate | --replay")
    lines = list(told_())
    print(*lines, sep="\n", end="\n" if lines else "")
    sys.exit(bool(lines) and told_ is diverging)
