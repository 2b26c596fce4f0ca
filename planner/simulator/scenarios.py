"""Random scenarios: a plan, what it runs under and how rough its course is, all drawn from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any
from zlib import crc32

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.intrinsics import intrinsics
from planner.core.labels import Integrity, Json
from planner.core.ledger import Budget, Rate
from planner.core.plan import OnError, Plan, Step
from planner.core.policy import Policy
from planner.core.rules import Rule
from planner.core.setup import Setup, Shortage

PLACES = ("a", "b", "c")
EVENTS = ("paid", "sent")
AT, TEXT = Parameter(name="at"), Parameter(name="text")
BOX = ("box:{at}",)
CALLEES = (
    Callee(name="box.read", summary="R", parameters=(AT,), declaration=Declaration(effect="read", resource=BOX)),
    Callee(name="box.list", summary="L", declaration=Declaration(effect="read", resource=("box:**",))),
    Callee(
        name="box.put",
        summary="Put in the place of what is there",
        parameters=(AT, TEXT),
        declaration=Declaration(
            effect="write",
            on_doubt="idempotent",
            undo="restore",
            resource=BOX,
            control={"at": Integrity.BOUNDED},
            payload=("text",),
        ),
    ),
    Callee(
        name="box.add",
        summary="Add to what is there; it can be looked up",
        parameters=(AT, TEXT),
        declaration=Declaration(effect="write", on_doubt="probe", undo="remove", resource=BOX),
    ),
    Callee(
        name="box.stamp",
        summary="Add to what is there; only people can look it up",
        parameters=(AT, TEXT),
        declaration=Declaration(effect="write", undo="remove", resource=BOX, cost_usd=0.01),
    ),
    Callee(
        name="box.note",
        summary="Add to what is there, for good",
        parameters=(AT, TEXT),
        declaration=Declaration(effect="send", on_doubt="probe", resource=BOX),
    ),
    Callee(
        name="mail.send",
        summary="Send",
        parameters=(AT, TEXT),
        declaration=Declaration(effect="send", resource=("mail:{at}",), control={"at": Integrity.TRUSTED}),
    ),
    Callee(name="shell.run", summary="Do anything", parameters=(TEXT,), declaration=Declaration(on_doubt="probe")),
    Callee(name="text.upper", summary="U", parameters=(TEXT,), declaration=Declaration(effect="pure", resource=())),
    Callee(
        name="web.get",
        summary="Fetch",
        parameters=(TEXT,),
        declaration=Declaration(effect="fetch", resource=(), cost_usd=0.005),
    ),
    Callee(
        name="agent.writer",
        kind="agent",
        summary="Write",
        parameters=(TEXT,),
        declaration=Declaration(effect="pure", resource=(), max_tokens=100),
    ),
    *intrinsics(["user"]).values(),
)
"""One callee of each sort: looking, put back, looked up by a probe or by people, lasting, undeclared, priced."""

POLICIES = (
    Policy(rules=(Rule(id="all", then="allow"),)),
    Policy(rules=(Rule(id="ask", then="ask", callee="shell.*"), Rule(id="all", then="allow"))),
    Policy(rules=(Rule(id="ask", then="ask", callee="box.st*"), Rule(id="all", then="allow"))),
)
CALLS = (
    *("box.put", "box.add", "box.add", "box.stamp", "box.note", "box.read", "box.read", "box.list"),
    *("mail.send", "shell.run", "text.upper", "web.get", "agent.writer", "agent.writer", "plan.goal"),
)
RARE = ("human.user", "gate.approve", "wait.until", "wait.event", "wait.event")
ASKING = frozenset({"human.user", "gate.approve", "wait.event"})
"""What may be waited for in vain, where the step has a time limit."""
LASTING = frozenset({"box.note", "mail.send", "shell.run"})
REPEATED = frozenset({"box.put", "plan.goal"})
"""Made again after a crash, so that one that fails in the end may yet have happened, and nothing takes its place."""
TIMELY = frozenset({"wait.until"})
"""Gives the time at which it ended, so nothing reads it that has to be the same in every course."""


@dataclass(frozen=True, slots=True)
class Course:
    """How rough a run goes: the most of each, and how likely something comes in between, at every moment."""

    crashes: int = 0
    pauses: int = 0
    cancels: int = 0
    corrections: int = 0
    refusals: int = 0
    undoing: int = 0
    """Whether what the finished run did is to be taken back."""
    lost: float = 0.0
    """The share of calls whose outcome the process never learns."""
    rough: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one seed gives; in a calm one the end does not depend on the order in which things happen."""

    seed: int
    plan: Plan
    setup: Setup
    course: Course
    is_calm: bool
    """Whether the end is the same in whatever order things happen, and whenever a process ends."""
    is_planned: bool = False
    """Whether a planner is asked for the plan, and for another one where that fails, and a judge in the end."""
    is_sound: bool = False
    """Whether nothing fails and everything can be taken back; then it may be corrected, too."""

    def fate(self, *words: object, of: int) -> int:
        """A number below `of` that is the world's own, whatever happens in which order."""
        text = "/".join(map(str, (self.seed, *words)))
        return crc32(text.encode()) % of


CALM, SOUND = 0.35, 0.15
"""The shares of calm scenarios, and of those among them that are sound."""


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = Random(seed)  # noqa: S311 - it chooses tests, not secrets
    kind = chance.random()
    is_calm, is_sound = kind < CALM, kind < SOUND
    draft = _Draft(chance, is_calm, tuple(use for use in CALLS if use not in LASTING) if is_sound else CALLS)
    steps = draft.steps(chance.choice((2, 3, 3, 4, 5)), (), depth=0)
    inputs: dict[str, Json] = {"x": "x", "at": "a", "all": ["a", "b", "a"]}
    answer: dict[str, Json] = {step.id: f"${{{step.id} ?? null}}" for step in steps if step.use not in TIMELY}
    plan = Plan(inputs=inputs, steps=steps, answer=answer)
    course = _course(chance, is_calm)
    if is_sound:
        course = replace(course, corrections=chance.choice((1, 2)))
    is_planned = not is_calm and chance.random() < 0.15
    setup = _setup(chance, is_calm)
    if is_planned:
        setup = setup.model_copy(update={"can_judge": True, "max_same_calls": chance.choice((1, 10))})
    return Scenario(seed, plan, setup, course, is_calm, is_planned, is_sound)


def _setup(chance: Random, is_calm: bool) -> Setup:  # noqa: FBT001
    policy = chance.choice(POLICIES)
    rates = {"agent.writer": Rate(input_usd=1.0, output_usd=2.0)}
    if is_calm:
        return Setup(callees=CALLEES, policy=policy, budget=Budget(), rates=rates)
    is_limited = chance.random() < 0.4
    return Setup(
        callees=CALLEES,
        policy=policy,
        budget=_budget(chance) if is_limited else Budget(),
        rates=rates,
        on_ask="deny" if chance.random() < 0.1 else "wait",
        agents={"agent.writer": Budget(tokens=5000)} if chance.random() < 0.2 else {},
        shortage=Shortage(at=0.5, cheaper=True, items=1, partial=chance.random() < 0.5) if is_limited else None,
    )


def _budget(chance: Random) -> Budget:
    match chance.randrange(5):
        case 0:
            return Budget(cost_usd=chance.choice((0.005, 0.015, 0.025)))
        case 1:
            return Budget(tokens=chance.choice((1000, 2500, 5000)))
        case 2:
            return Budget(seconds=chance.choice((10, 40)))
        case _:
            return Budget(calls=chance.randint(1, 7))


def _course(chance: Random, is_calm: bool) -> Course:  # noqa: FBT001
    if is_calm:
        return Course(crashes=chance.choice((0, 0, 1, 2)), pauses=chance.choice((0, 0, 1)), rough=0.12)
    kind = chance.randrange(4)
    return Course(
        crashes=chance.choice((0, 1, 2, 3, 5)),
        pauses=chance.choice((0, 0, 1, 2)),
        cancels=int(kind == 0),
        corrections=chance.choice((1, 2, 2)) if kind == 1 else 0,
        refusals=int(chance.random() < 0.1),
        undoing=int(kind == 2),
        lost=chance.choice((0.0, 0.1, 0.3)),
        rough=chance.choice((0.05, 0.12, 0.25)),
    )


@dataclass(slots=True)
class _Draft:
    """A plan being written; in calm ones whatever fails is gone around."""

    chance: Random
    is_calm: bool
    calls: tuple[str, ...]
    written: int = 0

    def steps(self, count: int, seen: tuple[str, ...], *, depth: int, item: str = "") -> tuple[Step, ...]:
        """So many steps that may read those in `seen`, and each other."""
        result: list[Step] = []
        for _ in range(count):
            step = self._step(seen, depth, item)
            result.append(step)
            if step.use not in TIMELY:
                seen = (*seen, step.id)
        return tuple(result)

    def _step(self, seen: tuple[str, ...], depth: int, item: str) -> Step:
        chance = self.chance
        self.written += 1
        id_ = f"s{self.written}"
        fields: dict[str, Any] = {"id": id_}
        if chance.random() < 0.2:
            fields["if_"] = self._condition(seen, item)
        if seen and chance.random() < 0.12:
            fields["after"] = (chance.choice(seen),)
        kind = chance.random()
        if kind < 0.06:
            return Step(**fields, let=self._text(id_, seen, item), on_error=OnError(then="skip"))
        is_block = depth < 2 and kind < 0.18
        use = "" if is_block else chance.choice(RARE if kind > 0.88 else self.calls)
        if (is_block or (use in self.calls and use != "box.list")) and chance.random() < 0.25:
            fields |= self._map(seen, is_inner=bool(item))
            item = "item"
        on_error = OnError.model_validate(self._on_error(use))
        if not self.is_calm and chance.random() < 0.08:
            fields["budget"] = Budget(calls=chance.randint(1, 3))
        if not is_block:
            args = self._args(use, id_, seen, item)
            return Step(**fields, use=use, args=args, on_error=on_error, timeout_s=self._limit_s(use))
        fields["do"] = self.steps(chance.randint(1, 2), seen, depth=depth + 1, item=item)
        if "if_" in fields and chance.random() < 0.5:
            fields["else_"] = self.steps(1, seen, depth=depth + 1, item=item)
        held = [step.id for step in (*fields["do"], *fields.get("else_", ())) if step.use not in TIMELY]
        return Step(**fields, on_error=on_error, answer=[f"${{{name} ?? null}}" for name in held])

    def _map(self, seen: tuple[str, ...], *, is_inner: bool) -> dict[str, Any]:
        """What makes a step a map; one inside another is short, else a plan would make hundreds of calls."""
        chance = self.chance
        lists: list[Json] = [["a", "b"], ["b"], ["c", "C"]]
        if not is_inner:
            lists += [["c", "a", "C"], "$inputs.all", ["a", "b", "c", "a", "b"]]
        if seen and not is_inner:
            lists.append(f"${{split(str({chance.choice(seen)} ?? ''), ' ')}}")
        fields = {"for_each": chance.choice(lists), "on_item_error": "drop"}
        if not self.is_calm:
            fields["on_item_error"] = chance.choice(("drop", "fail"))
            fields["max_items"] = chance.choice((3, 100, 100))
        return fields

    def _condition(self, seen: tuple[str, ...], item: str) -> str:
        wanted = ["1 > 2", "inputs.x == 'x'"]
        if seen:
            name = self.chance.choice(seen)
            wanted += [f"'s1' in str({name} ?? '')", f"{name} != 'x'"]
        if item:
            wanted.append(f"{item} != 'b'")
        return self.chance.choice(wanted)

    def _text(self, id_: str, seen: tuple[str, ...], item: str) -> str:
        wanted = [id_, f"{id_} $inputs.x", *(f"{id_} ${{{name} ?? 'none'}}" for name in seen[-3:])]
        if seen:
            wanted.append(f"{id_} ${{{self.chance.choice(seen)}}}")
        if item:
            wanted.append(f"{id_} ${item}")
        return self.chance.choice(wanted)

    def _args(self, use: str, id_: str, seen: tuple[str, ...], item: str) -> dict[str, Json]:
        chance = self.chance
        match use:
            case "box.list":
                return {}
            case "human.user":
                return {"question": f"{id_}?"}
            case "gate.approve":
                return {"what": id_}
            case "wait.until":
                return {"seconds": chance.choice((0, 5, 600))} if chance.random() < 0.8 else {"at": "2026-03-01"}
            case "wait.event":
                match: Json = {"id": 1} if chance.random() < 0.3 else {}
                return {"name": chance.choice(EVENTS), "match": match}
            case "plan.goal":
                return {"goal": self._text(id_, seen, item)}
            case _:
                at = [*PLACES, "$inputs.at"] if not item else ["$item", "$item", "a"]
                aim: dict[str, Json] = {"at": chance.choice(at)} if use in AIMED else {}
                return aim if use == "box.read" else aim | {"text": self._text(id_, seen, item)}

    def _limit_s(self, use: str) -> float | None:
        return 30.0 if use in ASKING and not self.is_calm and self.chance.random() < 0.3 else None

    def _on_error(self, use: str) -> dict[str, Any]:
        chance = self.chance
        retry = chance.choice((0, 0, 1, 2))
        then = chance.choice(("skip", "skip", "ask", "fallback") if self.is_calm else THEN)
        if not use or use in RARE or (self.is_calm and use in REPEATED):
            then = "skip" if self.is_calm or then in {"ask", "fallback"} else then
        if not use:
            return {"then": then}
        if then != "fallback":
            return {"retry": retry, "then": then}
        other = chance.choice(("text.upper", "box.note", "box.add", "box.put"))
        args = {"text": "instead"} | ({"at": chance.choice(PLACES)} if other in AIMED else {})
        return {"retry": retry, "then": then, "fallback": {"use": other, "args": args}}


AIMED = frozenset(callee.name for callee in CALLEES if callee.parameter("at") is not None) - {"wait.until"}
THEN = ("fail", "skip", "skip", "ask", "fallback")
