"""What a step is, what it can see, and whether its arguments fit: blocks, fallbacks, and steps in steps."""

from __future__ import annotations

import pytest
import yaml

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.check import Terms, examine
from planner.core.intrinsics import intrinsics
from planner.core.kinds import step_type
from planner.core.labels import Integrity
from planner.core.plan import MAX_DEPTH, Plan, Step
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule

PATH = Parameter(name="path", type="path")
TEXT = Parameter(name="text")
CATALOGUE = {
    callee.name: callee
    for callee in (
        Callee(
            name="files.read",
            summary="Read",
            parameters=(PATH,),
            result="text",
            declaration=Declaration(effect="read"),
        ),
        Callee(
            name="files.write",
            summary="Write",
            parameters=(PATH, TEXT),
            result="path",
            declaration=Declaration(effect="write", control={"path": Integrity.BOUNDED}, payload=("text",)),
        ),
        Callee(
            name="files.list",
            summary="List",
            parameters=(),
            result="list[path]",
            declaration=Declaration(effect="read"),
        ),
        Callee(
            name="text.count",
            summary="Count",
            parameters=(TEXT,),
            result="integer",
            declaration=Declaration(effect="pure"),
        ),
        *intrinsics(("user",)).values(),
    )
}
ALLOW = Policy(rules=(Rule(id="all", then="allow"),))


def problems(text: str, *, policy: Policy = ALLOW) -> list[str]:
    plan = Plan.model_validate(yaml.safe_load(text))
    terms = Terms(catalogue=CATALOGUE, policy=policy, principal=Principal(), is_lenient=True)
    return [f"{problem.code} {problem.message}" for problem in examine(plan, terms).problems]


GOOD = """
inputs: {limit: 3}
steps:
  - {id: s1, use: files.list}
  - id: s2
    for_each: $s1
    as: name
    do:
      - {id: t1, use: files.read, args: {path: $name}, on_error: {retry: 1, then: skip}}
      - {id: t2, use: text.count, args: {text: "${t1 ?? ''}"}}
      - id: t3
        if: t2 > inputs.limit
        do: [{id: u1, use: files.write, args: {path: "long/${name_i}.txt", text: $t1}}]
        else: [{id: u2, let: short}]
    answer: {name: $name, size: $t2, what: $t3}
  - {id: s3, use: gate.approve, args: {what: Send it, about: $s2}}
  - id: s4
    use: files.read
    args: {path: a.txt}
    on_error: {then: fallback, fallback: {use: files.read, args: {path: b.txt}}}
  - {id: s5, use: files.write, args: {path: c.txt, text: $s4}, after: [s3]}
answer: "${len(s2)}"
"""


def test_blocks_maps_and_fallbacks_stand_inside_each_other() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("{id: s1, let: 1, do: [{id: t1, let: 2}]}", "P-107 step `s1` needs one of `use`, `let` and `do`"),
        ("{id: s1, let: 1, else: [{id: t1, let: 2}]}", "P-128 step `s1`: `else` belongs to a block"),
        ("{id: s1, do: [{id: t1, let: 2}], else: [{id: t2, let: 2}]}", "P-128 step `s1`: `else` needs an `if`"),
        ("{id: s1, let: 1, answer: 2}", "P-128 step `s1`: `answer` belongs to a block"),
        ("{id: s1, args: {a: 1}, do: [{id: t1, let: 2}]}", "P-128 step `s1`: a block has no `args`"),
        ("{id: s1, on_error: {retry: 1}, do: [{id: t1, let: 2}]}", "P-128 step `s1`: a block is not retried"),
        ("{id: s1, on_error: {then: ask}, do: [{id: t1, let: 2}]}", "P-128 step `s1`: a block asks nobody"),
        ("{id: s1, timeout_s: 2, do: [{id: t1, let: 2}]}", "P-128 step `s1`: a block has no `timeout_s`"),
        (
            "{id: s1, let: 1, on_error: {fallback: files.list}}",
            "P-128 step `s1`: a `let` has nothing to fall back to",
        ),
        ("{id: s1, do: [{id: s1, let: 2}]}", "P-106 two steps are called `s1`"),
        ("{id: s1, do: [{id: inputs, let: 2}]}", "P-106 two steps are called `inputs`"),
        ("{id: s1, do: [{id: t1, let: $t2}, {id: t2, let: 1}]}", "P-104 step `t1` reads `t2`, but no step comes"),
        ("{id: s1, do: [{id: t1, let: $s1}]}", "P-104 step `t1` reads `s1`"),
        ("{id: s1, do: [{id: t1, let: 1}], answer: $t9}", "P-104 the answer of step `s1` reads `t9`"),
        ("{id: s1, do: [{id: t1, let: 1}], answer: '${1 +}'}", "P-109 the answer of step `s1`"),
        ("{id: s1, do: [{id: t1, use: files.nope}]}", "P-108 step `t1` uses `files.nope`"),
        ("{id: s1, use: files.list, on_error: {fallback: files.nope}}", "P-108 step `s1` uses `files.nope`"),
        ("{id: s1, use: files.list, on_error: {fallback: files.read}}", "P-113 step `s1`: `files.read` needs"),
        (
            "{id: s1, use: files.list, on_error: {fallback: {use: files.read, args: {path: $s9}}}}",
            "P-104 step `s1` reads `s9`",
        ),
        (
            "{id: s1, use: files.list, on_error: {fallback: {use: files.read, args: {path: '${'}}}}",
            "P-109 step `s1`",
        ),
    ],
)
def test_what_is_wrong_with_a_step_is_told(step: str, said: str) -> None:
    found = problems(f"steps: [{step}]\nanswer: $s1")
    assert any(problem.startswith(said) for problem in found), found


def test_what_stands_in_a_block_is_seen_in_that_block_alone() -> None:
    found = problems("steps: [{id: s1, do: [{id: t1, let: 1}]}, {id: s2, let: $t1}]\nanswer: $s1 $s2")
    assert found[0].startswith("P-104 step `s2` reads `t1`")


def test_the_branches_of_a_block_do_not_see_each_other_but_its_answer_sees_both() -> None:
    block = "{id: s1, if: 'true', do: [{id: t1, let: 1}], else: [{id: t2, let: $t1}], answer: '$t1'}"
    plan = f"steps: [{block}]\nanswer: $s1"
    assert [problem[:5] for problem in problems(plan)] == ["P-104"]
    assert problems(plan.replace("$t1}]", "2}]").replace("'$t1'", "'${t1 ?? t2}'")) == []


def test_blocks_stand_only_so_deep() -> None:
    step = "{id: x, let: 1}"
    for depth in range(MAX_DEPTH + 1):
        step = f"{{id: s{depth}, do: [{step}]}}"
    found = problems(f"steps: [{step}]")
    assert found == [f"P-128 step `s0`: blocks stand at most {MAX_DEPTH} deep"]


def test_the_gate_is_asked_about_steps_in_blocks_and_about_what_is_fallen_back_to() -> None:
    policy = Policy(rules=(Rule(id="no", then="deny", callee="files.write"), Rule(id="all", then="allow")))
    inner = "steps: [{id: s1, do: [{id: t1, use: files.write, args: {path: a, text: b}}]}]"
    assert [problem[:5] for problem in problems(inner, policy=policy)] == ["P-111"]
    other = "{use: files.write, args: {path: a, text: b}}"
    fallen = f"steps: [{{id: s1, use: files.list, on_error: {{fallback: {other}}}}}]"
    assert [problem[:5] for problem in problems(fallen, policy=policy)] == ["P-111"]


def test_a_gate_and_a_wait_need_no_reader() -> None:
    waiting = "{id: s1, use: wait.until, args: {seconds: 1}}, {id: s2, use: gate.approve, args: {what: Go}}"
    assert problems(f"steps: [{waiting}, {{id: s3, let: 1}}]") == []


def test_only_finished_steps_can_be_taken_back() -> None:
    (problem,) = problems("steps: [{id: s1, let: 1}]\nundo: [s7]")
    assert problem == "P-129 `undo` names `s7`, which is no finished step; finished are: none"


@pytest.mark.parametrize(
    ("answer", "fits"),
    [("$s1", True), ("'${s1}'", True)],
)
def test_a_block_has_the_type_of_its_answer(answer: str, fits: bool) -> None:
    count = "{id: s1, do: [{id: t1, use: text.count, args: {text: a}}], answer: $t1}"
    read = f"{{id: s2, use: text.count, args: {{text: {answer}}}}}"
    assert (problems(f"steps: [{count}, {read}]") == []) is fits


def test_a_block_without_an_answer_gives_what_its_last_step_gives() -> None:
    count = Step(id="t1", use="text.count", args={"text": "a"})
    assert step_type(Step(id="s1", do=(Step(id="t0", let=1), count)), CATALOGUE, {}) == "integer"
    either = Step.model_validate({"id": "s1", "if": "true", "do": [count], "else": [count]})
    assert step_type(either, CATALOGUE, {}) == "any"
    assert step_type(Step(id="s1", for_each="$s0", do=(count,)), CATALOGUE, {"s0": "table"}) == "list[integer]"


def test_a_question_a_wait_and_a_block_with_effects_are_never_left_out() -> None:
    plan = Plan.model_validate(
        yaml.safe_load(
            "steps: [{id: s1, use: gate.approve, args: {what: Go}}, {id: s2, use: wait.until, args: {seconds: 1}},"
            " {id: s3, use: human.user, args: {question: Well}},"
            " {id: s4, do: [{id: t1, use: files.write, args: {path: a, text: b}}]},"
            " {id: s5, use: files.list, on_error: {fallback: {use: files.write, args: {path: a, text: b}}}}]\n"
            "answer: done"
        )
    )
    found = examine(plan, Terms(catalogue=CATALOGUE, policy=ALLOW, principal=Principal(), is_lenient=True))
    assert [step.id for step in found.plan.steps] == ["s1", "s2", "s3", "s4", "s5"]
    assert [problem.step for problem in found.problems] == ["s5"]
