from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.agents import AGENTS
from planner.core.catalog import Callee, Catalogue, Parameter
from planner.core.check import Examined, Terms, examine
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import MAX_STEPS, OnError, Plan, Step
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule
from planner.tools import Toolbox

TOOLS = Toolbox.load(Path(__file__).resolve().parents[1] / "tools").catalogue
SHELL = Callee(name="shell.run", summary="Run", parameters=(Parameter(name="script", type="expression"),))
CATALOGUE: Catalogue = {**TOOLS, **AGENTS, "shell.run": SHELL}
POLICY = Policy(
    rules=(
        Rule(id="no-moves", then="deny", callee="files.move"),
        Rule(id="ask-first", then="ask", effect="fetch"),
        Rule(id="all", then="allow"),
    )
)
SOURCE = Named(text="a.txt", kind="path", part="source", found="file")
TARGET = Named(text="b.txt", kind="path", part="target", found="absent")
FOLDER = Named(text="notes", kind="folder", found="folder")


def step(id_: str, use: str | None, more: dict[str, Any] | None = None, /, **args: Json) -> Step:
    return Step.model_validate({"id": id_, "use": use, "args": args} | (more or {}))


def let(id_: str, value: Json, **more: Any) -> Step:
    return Step.model_validate({"id": id_, "let": value} | more)


READ = step("s1", "files.read", path="a.txt")
LIST = step("s1", "files.list", folder="notes")


def examined(*steps: Step, answer: Json = "Done.", **terms: Any) -> Examined:
    made = Terms(**{"catalogue": CATALOGUE, "policy": POLICY, "principal": Principal(), **terms})
    return examine(Plan(steps=steps, answer=answer), made)


def wrong(*steps: Step, answer: Json = "Done.", **terms: Any) -> list[str]:
    """The problems of a plan, each as `P-104 message`."""
    found = examined(*steps, answer=answer, **terms)
    assert bool(found.problems) is (found.certificate is None)
    return [f"{problem.code} {problem.message}" for problem in found.problems]


def codes(*steps: Step, answer: Json = "Done.", **terms: Any) -> list[str]:
    return [text[:5] for text in wrong(*steps, answer=answer, **terms)]


# steps


def test_a_plan_has_steps_or_an_answer() -> None:
    assert wrong(answer=None) == ["P-105 the plan has no steps and no answer"]
    assert wrong(answer="Vienna.") == []


def test_a_plan_has_no_more_steps_than_can_be_read_back() -> None:
    many = [let(f"s{n}", n) for n in range(1, MAX_STEPS + 1)]
    read: Json = [f"$s{n}" for n in range(1, MAX_STEPS + 1)]
    assert wrong(*many, answer=read) == []
    assert wrong(*many, answer=read, found=(TARGET,)) == ["P-103 the plan has 501 steps, but 500 are the most"]


def test_every_step_has_an_id_of_its_own_that_is_not_inputs() -> None:
    assert wrong(let("s1", 1), let("s1", 2), answer="$s1") == ["P-106 two steps are called `s1`"]
    assert codes(let("inputs", 1), answer="$inputs") == ["P-106"]


def test_a_step_is_a_call_or_a_value() -> None:
    both = step("s1", "files.list", {"let": 1})
    assert codes(both, answer="$s1") == ["P-107"]
    assert wrong(Step(id="s1"), answer="$s1") == ["P-107 step `s1` needs one of `use`, `let` and `do`, and only one"]


def test_an_unknown_callee_is_told_with_those_that_are_like_it() -> None:
    (problem,) = examined(step("s1", "file.read_text", path="a"), answer="$s1").problems
    assert (problem.code, problem.step) == ("P-108", "s1")
    assert problem.choices[0] == "files.read" or "files.read" in problem.choices
    assert len(problem.choices) == 8
    assert all(choice in problem.message for choice in problem.choices)


def test_a_step_reads_only_what_stands_before_it() -> None:
    (problem,) = examined(READ, step("s2", "text.count", text="${s3} ${s1}"), answer="$s2").problems
    assert problem.message == "step `s2` reads `s3`, but only $s1 come before it"
    assert (problem.code, problem.step, problem.choices) == ("P-104", "s2", ("$s1",))
    assert wrong(step("s1", "text.count", text="$s1"), answer="$s1") == [
        "P-104 step `s1` reads `s1`, but no step comes before it"
    ]
    assert codes(step("s1", "text.count", {"after": ["s9"]}, text="x"), answer="$s1") == ["P-104"]
    assert codes(step("s1", "text.count", {"if": "s9 > 1"}, text="x"), answer="$s1") == ["P-104"]
    assert codes(step("s1", "text.count", {"for_each": "$s9"}, text="$item"), answer="$s1") == ["P-104"]
    assert codes(let("s1", "${s9}"), answer="$s1") == ["P-104"]
    assert codes(let("s1", "$inputs.a"), answer="$s1") == []


def test_an_answer_reads_only_steps() -> None:
    (problem,) = examined(READ, answer="$s1 and ${s4}").problems
    assert problem.message == "the answer reads `s4`, but there is no such step"
    assert problem.choices == ("$s1",)


def test_what_cannot_be_read_is_told_wherever_it_stands() -> None:
    broken = step("s1", "text.count", {"for_each": "${", "if": "1 +"}, text="$item ${'}")
    assert codes(broken, let("s2", "${1 +}"), answer=["$s1", "$s2", "${"])[:5] == ["P-109"] * 5
    assert wrong(let("s1", "${burn(1)}"), answer="$s1")[0].startswith(
        "P-109 step `s1`: `burn(1)`: there is no function"
    )


# arguments


def test_an_argument_has_a_name_that_the_callee_knows_and_none_is_missing() -> None:
    odd = step("s1", "files.write", path="b", words="x", size=1)
    assert wrong(odd) == [
        "P-112 step `s1`: `files.write` has no argument `words`; it has path, text",
        "P-112 step `s1`: `files.write` has no argument `size`; it has path, text",
        "P-113 step `s1`: `files.write` needs the argument `text`",
    ]


def test_an_optional_argument_may_be_null() -> None:
    assert codes(step("s1", "table.sort", table="a", column="a", order=None), answer="$s1") == []
    assert codes(step("s1", "text.find", text="x", kind=None), answer="$s1") == ["P-114"]


def test_a_choice_is_one_of_its_words() -> None:
    (problem,) = examined(step("s1", "text.find", text="x", kind="iba"), answer="$s1").problems
    assert problem.message == "step `s1`: `kind` must be one of email, url, number, date, iban"
    assert problem.choices == ("email", "url", "number", "date", "iban")
    assert codes(let("s1", "url"), step("s2", "text.find", text="x", kind="$s1"), answer="$s2") == []


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        ("number", "about 5", "five"),
        ("boolean", "Yes", "maybe"),
        ("path", "a.txt", " "),
        ("url", "x.example", "a\nb"),
    ],
)
def test_a_constant_text_can_be_of_the_wanted_type(type_: str, good: str, bad: str) -> None:
    one = Callee(name="x.y", summary="", parameters=(Parameter(name="a", type=type_),))
    catalogue = {"x.y": one}
    assert codes(step("s1", "x.y", a=bad), catalogue=catalogue) == ["P-115"]
    expected = [] if type_ != "boolean" else ["P-117"]
    assert codes(step("s1", "x.y", a=good), catalogue=catalogue) == expected


def test_no_data_goes_into_what_a_callee_evaluates() -> None:
    for script in ("rm ${s1}", "$s1"):
        assert codes(READ, step("s2", "shell.run", script=script)) == ["P-116"]
    assert codes(READ, step("s2", "shell.run", script=["$s1"])) == ["P-117"]
    assert codes(step("s1", "shell.run", script="date")) == []


def test_a_value_of_the_wrong_type_is_told_with_both_types() -> None:
    count = step("s1", "dates.today", {"for_each": ["x", "y"]})
    assert wrong(count, step("s2", "web.fetch", url="$s1"), answer="$s2") == [
        "P-117 step `s2`: `url` must be a url, but `$s1` is a list[date]"
    ]
    assert codes(LIST, step("s2", "files.write", path="$s1", text="x")) == ["P-117"], "an effect is not mapped"
    nested = step("s2", "files.read", {"for_each": "$s1"}, path="$s1[0]")
    assert codes(LIST, nested, answer="$s2") == []


def test_the_names_of_files_are_a_list_like_any_other() -> None:
    assert codes(LIST, step("s2", "lists.count", items="$s1"), answer="$s2", found=(FOLDER,)) == []


def test_a_map_needs_a_list() -> None:
    top = step("s1", "table.top", table="a,b", column="b")
    each = step("s2", "text.count", {"for_each": "$s1"}, text="${item.name}")
    assert wrong(top, each, answer="$s2") == ["P-110 `for_each` of step `s2` needs a list, but `$s1` is a record"]


def test_a_callee_that_the_policy_denies_is_not_allowed() -> None:
    (problem,) = examined(step("s1", "files.move", source="a", target="b")).problems
    assert (problem.code, problem.step) == ("P-111", "s1")
    assert "no-moves" in problem.message


# what the goal names


def test_a_file_that_the_goal_names_is_used_as_a_file() -> None:
    assert wrong(let("s1", "x"), answer="$s1", found=(SOURCE,)) == [
        "P-120 the goal names the file `a.txt`, but no step uses it: read it"
    ]
    assert "write it" in wrong(answer="x", found=(TARGET,))[0]
    assert codes(step("s1", "text.count", text="see a.txt"), answer="$s1", found=(SOURCE,)) == ["P-120"]


@pytest.mark.parametrize("path", ["a.txt", "./A.TXT", "sub/a.txt", "${'sub'}/a.txt"])
def test_a_file_is_the_same_however_it_is_written(path: str) -> None:
    assert codes(step("s1", "files.read", path=path), answer="$s1", found=(SOURCE,)) == []


def test_a_folder_that_is_there_is_used_or_something_in_it() -> None:
    assert wrong(answer="x", found=(FOLDER,)) == ["P-120 the goal names the folder `notes`, but no step uses it"]
    assert codes(answer="x", found=(FOLDER.model_copy(update={"found": "absent"}),)) == []
    assert codes(LIST, answer="$s1", found=(FOLDER,)) == []
    assert codes(step("s1", "files.read", path="notes/a.txt"), answer="$s1", found=(FOLDER,)) == []


def test_what_only_looks_like_a_file_needs_to_be_said_only() -> None:
    module = Named(text="os.path", kind="path", found="absent")
    explain = step("s1", "agent.writer", task="Explain os.path")
    assert codes(explain, answer="$s1", found=(module,)) == []
    assert codes(explain, answer="$s1", found=(module.model_copy(update={"found": "file"}),)) == ["P-120"]
    assert codes(answer="x", found=(module,)) == ["P-120"]


def test_a_url_an_address_and_a_quotation_occur_somewhere() -> None:
    url, mail = Named(text="https://x.example/y", kind="url"), Named(text="a@b.example", kind="email")
    quote = Named(text="Hello  World", kind="quote")
    assert codes(answer="x", found=(url, mail, quote)) == ["P-120"] * 3
    steps = (
        step("s1", "web.fetch", {"if": "'a@b.example' != ''"}, url="https://x.example/y"),
        let("s2", {"a": ["hello\nworld"]}),
    )
    assert codes(*steps, answer=["$s1", "$s2"], found=(url, mail, quote)) == []


def test_what_stands_in_a_plans_inputs_is_said_too() -> None:
    plan = Plan(inputs={"to": "a@b.example"}, steps=(let("s1", "$inputs.to"),), answer="$s1")
    found = (Named(text="a@b.example", kind="email"),)
    assert examine(plan, Terms(catalogue=CATALOGUE, policy=POLICY, principal=Principal(), found=found)).problems == ()


def test_a_file_that_does_not_exist_is_not_made_up() -> None:
    missing = SOURCE.model_copy(update={"found": "absent"})
    made_up = step("s1", "files.write", path="a.txt", text="x")
    (problem,) = examined(made_up, found=(missing,)).problems
    assert (problem.code, problem.step) == ("P-121", "s1")
    assert codes(READ, step("s2", "files.write", path="a.txt", text="$s1"), found=(missing,)) == []


def test_a_file_that_the_goal_wants_written_is_written() -> None:
    read = step("s1", "files.read", path="b.txt")
    other = step("s2", "files.append", path="c.txt", text="$s1")
    assert wrong(read, other, found=(TARGET,)) == ["P-122 no step writes `b.txt`, which the goal asks for"]
    assert codes(read, step("s2", "files.append", path="b.txt", text="$s1"), found=(TARGET,)) == []


def test_a_file_may_be_written_by_way_of_a_list() -> None:
    targets = (TARGET, TARGET.model_copy(update={"text": "c.txt"}))
    each = step("s2", "files.append", {"for_each": ["b.txt", "c.txt"]}, path="$item", text="x")
    assert codes(each, found=targets) == []
    named = (let("s1", ["b.txt", "c.txt"]), step("s2", "files.append", {"for_each": "$s1"}, path="$item", text="x"))
    assert codes(*named, found=targets) == []
    listed = step("s3", "files.append", path="d.txt", text="$s1")
    assert codes(named[0], listed, found=targets) == ["P-122", "P-122"], "only its name is written"


def test_a_number_of_the_goal_is_used() -> None:
    found = tuple(Named(text=text, kind="number") for text in ("30", "2,000", "7"))
    later = step("s1", "dates.add", date="2024-01-15", days=30)
    plan = (later, step("s2", "text.count", {"for_each": [2000]}, text="${s1} $item"))
    assert wrong(*plan, answer="$s2", found=found) == ["P-127 the goal's number 7 occurs in no argument: use it"]
    certificate = examined(*plan, answer="$s2", found=found, is_lenient=True).certificate
    assert certificate
    assert certificate.advice == ("the goal's number 7 occurs in no argument",)


# the whole plan


def test_a_step_that_only_looks_is_read() -> None:
    other = step("s2", "text.count", text="x")
    assert wrong(READ, other, answer="$s2", found=(SOURCE,)) == [
        "P-123 nothing uses the result of step `s1`: a later step must use `$s1`"
    ]
    assert codes(READ, other, answer=None, found=(SOURCE,)) == ["P-123"], "the last one gives the answer"
    assert codes(READ, answer=None, found=(SOURCE,)) == []
    assert codes(READ, other, answer="$s2", found=(SOURCE,), kept=(READ,)) == []
    assert codes(READ, step("s2", "files.append", {"after": ["s1"]}, path="c", text="x"), found=(SOURCE,)) == []


def test_a_step_that_failed_does_not_come_back_in_the_same_form() -> None:
    assert wrong(READ, answer="$s1", failed=(READ.model_copy(update={"id": "s4"}),)) == [
        "P-124 step `s1` failed in this very form before: do it otherwise"
    ]
    skipping = READ.model_copy(update={"on_error": OnError(then="skip")})
    assert codes(skipping, answer="$s1", failed=(READ,)) == []
    assert codes(READ, answer="$s1", failed=(READ,), kept=(READ,)) == []


def test_a_plan_that_did_not_reach_the_goal_does_not_come_back() -> None:
    again = (READ.model_copy(update={"id": "s7"}), step("s8", "text.count", text="$s7"))
    before = (READ, step("s2", "text.count", text="$s1"))
    assert wrong(*again, answer="$s8", abandoned=before) == [
        "P-126 this plan did not reach the goal before: make a different one"
    ]
    assert codes(*again, answer="$s8", abandoned=before[:1]) == []


def test_a_certificate_tells_effects_gates_and_repairs() -> None:
    steps = (
        step("s1", "web.fetch", url="https://x.example"),
        let("s2", "${len(s1)}"),
        step("s3", "Files.Append", {"for_each": ["a", "b"]}, path="$item", text="$s1"),
        step("s4", "files.write", path="c.txt", text="${s2}"),
    )
    found = examined(*steps)
    assert found.certificate
    assert [(one.step, one.callee, one.times) for one in found.certificate.effects] == [
        ("s3", "files.append", 2),
        ("s4", "files.write", 1),
    ]
    assert [(gate.step, gate.callee) for gate in found.certificate.gates][:1] == [("s1", "web.fetch")]
    assert [repair.code for repair in found.certificate.repairs] == ["R-101"]
    assert found.plan.steps[2].use == "files.append"
