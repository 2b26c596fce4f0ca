"""Laws of repairs and of the check, over the callees that every assistant has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.agents import AGENTS
from planner.core import wire
from planner.core.catalog import Catalogue
from planner.core.check import Examined, Terms, examine
from planner.core.events import EVENT, Event, PlanAccepted, PlanProposed, PlanRejected
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan, Step
from planner.core.policy import Policy, Principal
from planner.core.repair import repaired
from planner.core.rules import Rule
from planner.tools import Toolbox

CATALOGUE: Catalogue = {**Toolbox.load(Path(__file__).resolve().parents[1] / "tools").catalogue, **AGENTS}
CALLEES = list(CATALOGUE.values())
POLICY = Policy(rules=(Rule(id="send", then="deny", effect="send"), Rule(id="all", then="allow")))
SOURCE = Named(text="a.txt", kind="path", part="source", found="file")
TARGET = Named(text="b.txt", kind="path", part="target", found="absent")
FOLDER = Named(text="notes", kind="folder", found="folder")
MISSING = Named(text="c.txt", kind="path", part="source", found="absent")
NUMBER, QUOTE = Named(text="5", kind="number"), Named(text="some text", kind="quote")
FOUND = st.sampled_from([(), (SOURCE, TARGET, FOLDER, NUMBER), (TARGET, FOLDER), (MISSING, QUOTE)])
GOALS = st.sampled_from(["", "each of 5", "if so, write it", "Append it"])
laws = settings(
    max_examples=200, deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)


def terms(goal: str = "", found: tuple[Named, ...] = (), kept: tuple[Step, ...] = ()) -> Terms:
    return Terms(CATALOGUE, POLICY, Principal(), goal=goal, found=found, kept=kept, is_lenient=True)


def journaled(event: Event) -> None:
    assert EVENT.validate_json(EVENT.dump_json(event)) == event


# plans full of slips

WORDS: list[Json] = [
    "a.txt",
    "b.txt",
    "notes",
    "B.TXT",
    "./a.txt",
    "5",
    "some text",
    ".",
    "$item",
    "${item} x",
    "$item.name",
    ["a.txt", "b.txt"],
]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Arguments of any type, wrong names, maps over anything, steps that nobody reads."""
    steps: list[Step] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        ids = [s.id for s in steps]
        refs: list[Json] = [
            text.format(id_) for id_ in ids for text in ("${}", "${}", "${{{}}}", "${}.name", "see ${}")
        ]
        values = st.sampled_from([*refs, *refs, *WORDS])
        used = draw(st.sampled_from(CALLEES))
        args: dict[str, Json] = {}
        for parameter in used.parameters:
            if parameter.required or draw(st.booleans()):
                name = draw(st.sampled_from([parameter.name] * 8 + [parameter.name.upper(), "other"]))
                choices: list[Json] = list(parameter.choices)
                args[name] = draw(values | st.sampled_from(choices) if choices else values)
        fields: dict[str, Any] = {
            "id": draw(st.sampled_from([f"s{number}"] * 9 + [f"s{number}_text"])),
            "use": draw(st.sampled_from([used.name] * 8 + [used.name.upper(), used.name.split(".")[1]])),
            "args": args,
            "for_each": draw(st.none() | values),
            "if": draw(st.sampled_from([None, None, "item > 3", "1 > 0", *(f"{id_} == 'a'" for id_ in ids)])),
            "as": draw(st.sampled_from(["item", "item", "x"])),
        }
        if draw(st.integers(0, 9)) == 0:
            fields |= {"use": None, "args": {}, "let": draw(values)}
        steps.append(Step.model_validate(fields))
    answers: list[Json] = [None, "Done.", "It is 42.", f"${steps[-1].id}", f"${steps[-1].id}.name"]
    answers.append([f"${s.id}" for s in steps])
    return Plan(steps=tuple(steps), answer=draw(st.sampled_from(answers)))


@laws
@given(plan=plans(), goal=GOALS, found=FOUND)
def test_what_was_repaired_needs_no_repair_and_has_ids_of_its_own(
    plan: Plan, goal: str, found: tuple[Named, ...]
) -> None:
    once, _ = repaired(plan, CATALOGUE, goal=goal, found=found)
    assert repaired(once, CATALOGUE, goal=goal, found=found) == (once, ())
    assert len({s.id for s in once.steps}) == len(once.steps)


def effects(plan: Plan) -> int:
    return sum(not CATALOGUE[s.use].is_reading for s in plan.steps if s.use)


@laws
@given(plan=plans(), other=plans(), done=st.integers(0, 6), goal=GOALS, found=FOUND)
def test_a_plan_asked_for_again_repeats_no_effect_and_any_other_keeps_what_is_finished(
    plan: Plan, other: Plan, done: int, goal: str, found: tuple[Named, ...]
) -> None:
    first = examine(plan, terms(goal, found))
    if first.certificate is None:
        first = Examined(Plan(), None)
    kept = first.plan.steps[:done]
    for again in (plan, first.plan) if first.certificate else ():
        examined = examine(again, terms(goal, found, kept))
        assert examined.certificate, examined.problems
        assert effects(examined.plan) == effects(first.plan)
    assert examine(other, terms(goal, found, kept)).plan.steps[: len(kept)] == kept


# plans without mistakes

CONSTANTS: dict[str, list[Json]] = {
    "text": ["some text", "x"],
    "path": ["x.txt"],
    "folder": ["notes", "."],
    "any": ["name"],
    "number": [4],
    "integer": [7],
    "date": ["2024-05-01"],
    "url": ["https://x.example/y"],
    "table": ["a,b"],
    "expression": ["1 + 1"],
    "list[text]": [["a", "b"]],
    "list[any]": [[1]],
}


@st.composite
def faultless(draw: st.DrawFn) -> Plan:
    """Every argument has its type, every map is meant, everything is read."""
    steps: list[Step] = []
    types: dict[str, str] = {}
    for number in range(1, draw(st.integers(1, 7)) + 1):
        used = draw(st.sampled_from(CALLEES))
        first = used.parameters[0] if used.parameters else None
        lists = [id_ for id_, type_ in types.items() if first and type_ == f"list[{first.type}]"]
        over = draw(st.sampled_from([None, *lists])) if used.name != "files.write" else None
        args: dict[str, Json] = {}
        for parameter in used.parameters:
            fitting: list[Json] = [f"${id_}" for id_, type_ in types.items() if type_ == parameter.type]
            constants = CONSTANTS[parameter.type] + ([] if parameter.type == "expression" else fitting)
            args[parameter.name] = draw(st.sampled_from(list(parameter.choices) or constants))
        if over is not None and first:
            args[first.name] = "$item"
        fields: dict[str, Any] = {"id": f"s{number}", "use": used.name, "args": args}
        fields["if"] = draw(st.sampled_from([None, None, *(f"{id_} != 'x'" for id_ in types)]))
        steps.append(Step.model_validate(fields | {"for_each": None if over is None else f"${over}"}))
        types[f"s{number}"] = used.result if over is None else f"list[{used.result}]"
    return Plan(steps=tuple(steps), answer={s.id: f"${{{s.id} ?? null}}" for s in steps})


@laws
@given(plan=faultless())
def test_a_plan_without_mistakes_comes_back_as_it_was_with_a_certificate(plan: Plan) -> None:
    examined = examine(plan, terms(found=(FOLDER.model_copy(update={"found": "absent"}), NUMBER)))
    assert examined.plan == plan
    assert examined.certificate, examined.problems
    assert examined.certificate.repairs == ()
    assert len(examined.certificate.effects) == effects(plan)


# whatever a model writes

ODD = st.sampled_from(
    ["$s1", "${", "$s1['a b']", '$s2["it\'s"]', "$s1.größe", "${[x for x in s1]}", "$inputs.a", "$$", '["$s1"]']
)
KEYS = st.sampled_from(["steps", "id", "use", "args", "let", "if", "for_each", "as", "after", "path", "text"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
STEPS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["s1", "s2", "s1_text", "s1_name", "inputs", "item", "s" + "9" * 5000]) | JSON,
        "use": st.sampled_from([*CATALOGUE, "read", "x.y"]) | JSON,
        "args": st.dictionaries(st.sampled_from([p.name for c in CALLEES for p in c.parameters]), ODD | JSON) | JSON,
        "for_each": ODD | JSON,
        "if": st.sampled_from(["s1 > 3", "'x' in item", "${s1} > ${s2}", "s1 =", "${"]) | JSON,
        "let": ODD | JSON,
        "as": st.sampled_from(["s1", "x"]) | JSON,
        "after": st.just(["s1"]) | JSON,
    },
)


@laws
@given(
    answer=st.fixed_dictionaries({"steps": st.lists(STEPS | JSON, max_size=5), "answer": ODD | JSON}),
    kept=plans(),
    goal=GOALS,
    found=FOUND,
)
def test_whatever_json_a_model_writes_ends_in_a_certificate_or_in_problems(
    answer: Json, kept: Plan, goal: str, found: tuple[Named, ...]
) -> None:
    read = wire.parse(json.dumps(answer), CATALOGUE)
    if isinstance(read, tuple):
        assert read
        journaled(PlanProposed(revision=1, attempt=1, plan=None, problems=read))
        return
    journaled(PlanProposed(revision=1, attempt=1, plan=read))
    for finished in ((), kept.steps[:2]):
        examined = examine(read, terms(goal, found, finished))
        assert bool(examined.problems) is (examined.certificate is None)
        if examined.certificate is None:
            journaled(PlanRejected(revision=1, attempt=1, problems=examined.problems))
        else:
            journaled(PlanAccepted(revision=1, plan=examined.plan, certificate=examined.certificate))
