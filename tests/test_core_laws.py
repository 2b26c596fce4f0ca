"""Laws of the core, over random plans in a small world that may be late, fail, give no answer, or crash."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.catalog import Callee
from planner.core.correction import with_inputs
from planner.core.decide import decide
from planner.core.events import (
    CancelRequested,
    Event,
    PauseRequested,
    PlanAccepted,
    Recorded,
    RunFinished,
    RunResumed,
    Steered,
    StepResolved,
    StepStarted,
    StepSucceeded,
    UndoRequested,
)
from planner.core.labels import Integrity, Json, Labelled, leaves_of
from planner.core.ledger import Budget
from planner.core.order import Keys, keys, must_keep_order
from planner.core.plan import Plan, Step, own_path, place_in, role_of, root_of
from planner.core.policy import Policy
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.state import callee_at, evolve, fold

Accepted: TypeAlias = Callable[..., tuple[Event, ...]]
Journal: TypeAlias = Callable[..., tuple[Recorded, ...]]
Callees: TypeAlias = tuple[Callee, ...]
Made: TypeAlias = Any
"""The class of worlds, of weathers or of processes, as `conftest` makes them."""

POLICY = Policy(rules=(Rule(id="ask", then="ask", callee="shell.*"), Rule(id="all", then="allow")))
OUTSIDE = "§"
"""As in `conftest`: stands in what an outsider wrote, and nowhere else."""
TAKEN_BACK = ("let", "look", "look", "put", "put", "take", "upper", "ask")
EVERYTHING = (*TAKEN_BACK, "append", "send", "shell", "agent", "gate", "until", "event", "goal")
USES = {
    "look": "store.look",
    "put": "store.put",
    "take": "store.take",
    "upper": "text.upper",
    "ask": "human.user",
    "append": "files.append",
    "send": "mail.send",
    "shell": "shell.run",
    "agent": "agent.writer",
    "gate": "gate.approve",
    "until": "wait.until",
    "event": "wait.event",
    "goal": "plan.goal",
}
laws = settings(max_examples=60, deadline=None, derandomize="CI" in os.environ)
SEEDS = st.integers(0, 2**32)
"""A plan, its weather and its course all follow from a seed: so drawn, they are more mixed than by parts."""


def in_order(_: int) -> int:
    """One thing after another, as the plan says."""
    return 0


# random plans ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Author:
    """Writes plans; a calm one goes on without whatever fails."""

    chance: Random
    kinds: tuple[str, ...] = EVERYTHING
    is_calm: bool = False
    has_budgets: bool = False

    def plan(self) -> Plan:
        steps = self.steps(self.chance.randint(3, 8), "s", [], 2)
        answer = {step["id"]: f"${{{step['id']} ?? null}}" for step in steps if self.is_readable(step)}
        return Plan.model_validate({"inputs": {"x": "a", "y": "b"}, "steps": steps, "answer": answer})

    def steps(self, count: int, prefix: str, around: list[str], depth: int) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            known = [*around, *(step["id"] for step in steps if self.is_readable(step))]
            step = self.step(f"{prefix}{number}", known, depth)
            if steps and self.chance.random() < 0.15:
                step["after"] = [self.chance.choice(steps)["id"]]
            steps.append(step)
        return steps

    @staticmethod
    def is_readable(step: dict[str, Any]) -> bool:
        """Whether its value is the same whenever it ends."""
        return step.get("use") != "wait.until"

    def step(self, id_: str, known: list[str], depth: int) -> dict[str, Any]:
        step: dict[str, Any] = {"id": id_, "on_item_error": "drop"}
        if self.chance.random() < 0.25:
            step["for_each"] = self.chance.choice((["a", "b", "a"], ["$inputs.x", "c"], []))
        known = [*known, *(["item"] if "for_each" in step else [])]
        if self.chance.random() < 0.2:
            step["if"] = self.chance.choice(("1 > 2", *(f"str({name} ?? '') != 'a'" for name in known)))
        if depth and self.chance.random() < 0.25:
            return step | self.block(step, known, depth)
        kind = self.chance.choice(self.kinds)
        if kind == "let":
            step["let"] = self.name(known)
        else:
            step |= {"use": USES[kind], "args": self.args(kind, id_, known)}
        step["on_error"] = self.on_error(id_, kind)
        if not self.is_calm:
            step["on_item_error"] = self.chance.choice(("drop", "fail"))
            step["timeout_s"] = self.chance.choice((None, None, 60.0))
        if self.has_budgets and self.chance.random() < 0.3:
            step["budget"] = {"calls": self.chance.randint(0, 4)}
        return step

    def block(self, step: dict[str, Any], known: list[str], depth: int) -> dict[str, Any]:
        id_ = step["id"]
        block: dict[str, Any] = {"do": self.steps(self.chance.randint(1, 3), f"{id_}_", known, depth - 1)}
        if "if" in step and self.chance.random() < 0.5:
            block["else"] = self.steps(1, f"{id_}_e", known, 0)
        readable = (step["id"] for step in block["do"] if self.is_readable(step))
        block["answer"] = self.chance.choice(["done", *(f"${{{name} ?? 'none'}}" for name in readable)])
        block["on_error"] = {"then": "skip" if self.is_calm else self.chance.choice(("skip", "fail"))}
        if self.has_budgets and self.chance.random() < 0.3:
            block["budget"] = {"calls": self.chance.randint(0, 6)}
        return block

    def name(self, known: list[str]) -> str:
        return self.chance.choice(("a", "b", "c", "$inputs.x", "$inputs.y", *(f"${n}" for n in known if n == "item")))

    def args(self, kind: str, id_: str, known: list[str]) -> dict[str, Json]:
        read = self.chance.choice(("", " $inputs.x", *(f" ${{{name} ?? 'none'}}" for name in known)))
        text = f"{id_}{read}"
        match kind:
            case "look" | "take":
                return {"name": self.name(known)}
            case "put":
                return {"name": self.name(known), "text": text}
            case "append":
                return {"path": self.name(known), "text": text}
            case "send":
                return {"to": f"{self.chance.choice('ab')}@example.com", "text": text}
            case "event":
                return {"name": f"event-{id_}"}
            case "until":
                return {"seconds": self.chance.choice((0, 5, 500))}
            case _:
                words = {"ask": "question", "agent": "task", "gate": "what", "goal": "goal"}
                return {words.get(kind, "text"): text}

    def on_error(self, id_: str, kind: str) -> dict[str, Any]:
        """In a calm plan nothing stands in for an effect: after a crash it may have happened."""
        is_alone = kind == "let" or (self.is_calm and kind in {"put", "take", "append", "send", "shell", "goal"})
        words = ("skip", "skip" if self.is_calm else "fail", "ask", "skip" if is_alone else "fallback")
        then = self.chance.choice(words)
        on_error: dict[str, Any] = {"retry": self.chance.randint(0, 2), "then": then}
        if then == "fallback":
            put = {"use": "store.put", "args": {"name": self.chance.choice("abc"), "text": f"for {id_}"}}
            on_error["fallback"] = self.chance.choice((put, {"use": "text.upper", "args": {"text": id_}}))
        return on_error


def begun(plan: Plan, journal: Journal, accepted: Accepted, every: Callees, **more: Any) -> tuple[Recorded, ...]:
    start, passed = accepted(is_given=True, policy=POLICY, callees=every, **more)
    assert isinstance(passed, PlanAccepted)
    return journal(start.model_copy(update={"plan": plan}), passed.model_copy(update={"plan": plan}))


# what is looked at afterwards --------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call that was made, in all its attempts: its place in the plan, and from when to when."""

    place: tuple[int, ...]
    touches: tuple[Callee, Keys]
    begins: int
    ends: int


def calls(run: Run, history: list[Recorded]) -> Iterator[Call]:
    """Every call of the plan that was made."""
    assert run.plan is not None
    for path, state in run.steps.items():
        if state.attempt and role_of(path) != "undo":
            events = [r for r in history if getattr(r.event, "path", None) == path]
            begins = next(r.run_seq for r in events if isinstance(r.event, StepStarted))
            callee = run.started.setup.catalogue[callee_at(run, path)]
            value = state.arguments.value if state.arguments is not None else {}
            touches = callee, keys(callee, value if isinstance(value, dict) else {})
            yield Call(place_in(run.plan, own_path(path)), touches, begins, events[-1].run_seq)


def are_in_order(run: Run, history: list[Recorded]) -> bool:
    made = sorted(calls(run, history), key=lambda call: call.place)
    return all(
        one.ends < other.begins
        for one, other in combinations(made, 2)
        if one.place != other.place and must_keep_order(one.touches, other.touches)
    )


def stands(world: Made) -> dict[str, list[tuple[str, str]]]:
    """The effects that last, by what they touch: where they were called, and with what."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path, callee, given_ in world.standing.values():
        for key in keys(callee, given_) or {"anything"}:
            found.setdefault(key, []).append((path, str(given_)))
    return found


def untouched(plan: Plan, history: list[Recorded], inputs: set[str]) -> set[str]:
    """The steps that neither read these inputs nor what was made from them, nor touch what such steps may."""
    free: set[str] = set()
    touched: set[str] = set()
    resolved = [recorded.event for recorded in history if isinstance(recorded.event, StepResolved)]
    for step in plan.steps:
        values = [event.arguments.value for event in resolved if root_of(event.path) == step.id]
        own = {str(value["name"]) for value in values if isinstance(value, dict) and "name" in value}
        text = step.model_dump_json().replace("inputs.", "inputs_")
        bound = {f"inputs_{name}" for name in inputs} | {other.id for other in plan.steps if other.id not in free}
        if set(re.findall(r"\w+", text)) & (bound - {step.id}) or own & touched:
            named = set(re.findall(r'"name":"([^"]*)"', text))
            touched |= own | named | (set("abc") if any("$" in name for name in named) else set())
        else:
            free.add(step.id)
    return free


def crashed(world: Made, process: Made, chance: Random, begins: tuple[Recorded, ...]) -> Made:
    """The last of up to three processes that drove a run, the others having ended anywhere."""
    for _ in range(chance.randint(0, 2)):
        one = process(begins, world, chance.randrange)
        if one.drive(until=chance.randint(0, 60)).finished is None:
            one.append(RunResumed(owner="another process"))
            if chance.random() < 0.3 and not (one.run.is_paused or one.run.is_cancelled):
                one.append(PauseRequested(by="user"))
        begins = tuple(one.history)
    last = process(begins, world, chance.randrange)
    last.drive()
    return last


def ended(one: Made, process: Made, chance: Random) -> Made:
    """The process when the run has ended, or others that took over from it."""
    if chance.random() < 0.5:
        one.drive()
        return one
    one.append(RunResumed(owner="another process"))
    return crashed(one.world, process, chance, tuple(one.history))


# laws --------------------------------------------------------------------------------------------------------


@laws
@given(seed=SEEDS)
def test_any_order_of_completion_and_any_crash_end_as_one_step_after_another_does(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance, calm = Random(seed), weather(seed, is_calm=True)
    begins = begun(Author(chance, is_calm=True).plan(), journal, accepted, every)
    ordered = process(begins, world(calm), in_order)
    expected = ordered.drive()
    for last in (process(begins, world(calm), chance.randrange), crashed(world(calm), process, chance, begins)):
        assert last.drive().finished == expected.finished
        assert stands(last.world) == stands(ordered.world)


@laws
@given(seed=SEEDS)
def test_every_run_ends_with_its_conflicting_calls_in_the_order_of_the_plan_and_none_repeated(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    begins = begun(Author(chance).plan(), journal, accepted, every)
    last = crashed(world(weather(seed)), process, chance, begins)
    assert last.run.status in {"unverified", "failed", "denied"}
    assert are_in_order(last.run, last.history)
    assert last.world.repeated == []
    finished: set[str] = set()
    for recorded in last.history:
        match recorded.event:
            case StepSucceeded(path=path):
                finished.add(path)
            case StepStarted(path=path):
                assert path not in finished
            case _:
                pass


@laws
@given(seed=SEEDS)
def test_a_history_gives_one_run_in_one_piece_in_two_and_through_json(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    begins = begun(Author(chance).plan(), journal, accepted, every)
    last = crashed(world(weather(seed)), process, chance, begins)
    written = [Recorded.model_validate_json(recorded.model_dump_json()) for recorded in last.history]
    assert written == last.history
    assert fold(written) == last.run
    cut = chance.randrange(1, len(written))
    run = fold(written[:cut])
    assert decide(run) == decide(fold(last.history[:cut]))
    for recorded in written[cut:]:
        run = evolve(run, recorded)
    assert run == last.run


@laws
@given(seed=SEEDS)
def test_what_came_from_outside_is_never_called_trusted(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    last = process(begun(Author(chance).plan(), journal, accepted, every), world(weather(seed)), chance.randrange)
    last.drive()
    for recorded in last.history:
        fields = [getattr(recorded.event, name, None) for name in ("arguments", "items", "value", "result")]
        for whole in [each for each in fields if isinstance(each, Labelled)]:
            for _, leaf, label in leaves_of(whole):
                is_outside = isinstance(leaf, str) and OUTSIDE in leaf
                assert not is_outside or label.integrity is Integrity.UNTRUSTED


@laws
@given(seed=SEEDS)
def test_a_cancelled_run_takes_back_what_it_can_the_last_first_and_tells_the_rest(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    begins = begun(Author(chance).plan(), journal, accepted, every)
    one = process(begins, world(weather(seed)), chance.randrange)
    if one.drive(until=chance.randint(1, 80)).finished is not None:
        return
    one.append(CancelRequested(by="user"))
    last = ended(one, process, chance)
    end = last.run.finished
    assert isinstance(end, RunFinished)
    assert end.status == "cancelled"
    assert max(Counter(end.undone).values(), default=1) == 1
    begun_at = {state.key: state.begun for path, state in last.run.steps.items() if role_of(path) != "undo"}
    order = [begun_at[key] for key in dict.fromkeys(last.world.taken_back)]
    assert order == sorted(order, reverse=True)
    standing = {own_path(path): callee for path, callee, _ in last.world.standing.values()}
    assert standing.keys() <= {own_path(remainder.path) for remainder in end.left}
    assert not standing.keys() & set(end.undone)
    for path, callee in standing.items():
        is_known = "succeeded" in {last.run.step(at).status for at in (path, f"{path}~fallback")}
        assert callee.declaration.undo is None or not is_known or last.run.step(f"{path}~undo").status == "failed"


@laws
@given(seed=SEEDS)
def test_a_run_that_was_corrected_and_then_cancelled_tells_of_every_effect_that_lasts(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    begins = begun(Author(chance).plan(), journal, accepted, every)[:1]
    one = process(begins, world(weather(seed)), chance.randrange)
    for _ in range(chance.randint(1, 3)):
        if one.drive(until=chance.randint(1, 50)).finished is not None:
            return
        one.append(Steered(by="user", inputs={chance.choice("xy"): chance.choice("abc")}))
    one.drive(until=chance.randint(0, 50))
    one.append(UndoRequested(by="user") if one.run.finished is not None else CancelRequested(by="user"))
    last = ended(one, process, chance)
    end = last.run.finished
    assert isinstance(end, RunFinished)
    told = Counter(own_path(remainder.path) for remainder in end.left)
    assert Counter(own_path(path) for path, _, _ in last.world.standing.values()) <= told
    assert last.world.repeated == []


@laws
@given(seed=SEEDS)
def test_changed_inputs_keep_what_does_not_depend_on_them_and_end_as_if_they_had_been_so_from_the_start(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance, clear = Random(seed), weather(seed, is_clear=True)
    plan = Author(chance, kinds=TAKEN_BACK, is_calm=True).plan()
    one = process(begun(plan, journal, accepted, every)[:1], world(clear), chance.randrange)
    changed: set[str] = set()
    for _ in range(chance.randint(1, 3)):
        if one.drive(until=chance.randint(1, 60)).finished is not None:
            return
        name = chance.choice("xy")
        changed.add(name)
        plan = with_inputs(plan, {name: chance.choice("abc")})
        one.append(Steered(by="user", inputs=plan.inputs))
    last = ended(one, process, chance)
    places = {r.event.key: r.event.path for r in last.history if isinstance(r.event, StepStarted)}
    taken_back = {root_of(places[key]) for key in last.world.taken_back}
    assert not taken_back & untouched(plan, last.history, changed)
    ordered = process(begun(plan, journal, accepted, every), world(clear), in_order)
    assert last.run.finished is not None
    assert last.run.finished.result.value == ordered.drive().finished.result.value
    assert stands(last.world) == stands(ordered.world)


@laws
@given(seed=SEEDS)
def test_neither_calls_nor_tokens_nor_money_exceed_a_budget_whatever_comes_first(
    seed: int, journal: Journal, accepted: Accepted, every: Callees, weather: Made, world: Made, process: Made
) -> None:
    chance = Random(seed)
    plan = Author(chance, has_budgets=True).plan()
    budget = Budget(calls=chance.randint(0, 9), tokens=chance.choice((None, 3_000, 7_000)))
    agents = {"agent.writer": Budget(calls=chance.randint(0, 3))}
    shortage = {"partial": chance.random() < 0.5, "at": 0.5, "items": 2}
    begins = begun(plan, journal, accepted, every, budget=budget, agents=agents, shortage=shortage)
    last = crashed(world(weather(seed)), process, chance, begins)
    assert budget.calls is not None
    taking_back = sum(isinstance(r.event, StepStarted) and role_of(r.event.path) == "undo" for r in last.history)
    assert max(last.world.calls, last.run.spent.calls - taking_back) <= budget.calls
    assert budget.tokens is None or last.world.tokens <= last.run.spent.tokens <= budget.tokens
    for name, spent in last.run.accounts.items():
        limits = agents.get(name) or last.run.plan.index[name.removeprefix("step:")].budget
        assert limits is not None
        assert spent.calls - taking_back <= (limits.calls or 0)


def test_the_world_knows_every_kind_of_step(every: Callees) -> None:
    known = {callee.name for callee in every}
    assert set(USES.values()) <= known
    assert isinstance(Author(Random(1)).plan().steps[0], Step)
