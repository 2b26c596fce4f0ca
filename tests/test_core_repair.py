"""What is mended and what is left alone; the laws of mending are in `test_core_repair_laws`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planner.core.catalog import Callee, Catalogue, Declaration, Parameter
from planner.core.expr import may_miss
from planner.core.goal import Named
from planner.core.labels import Json
from planner.core.plan import Plan, Step
from planner.core.repair import repaired


def callee(spelled: str, effect: str = "pure", **more: Any) -> Callee:
    """A callee from a line such as `files.read(path: path) -> text`; `?` marks what may be left out."""
    match = re.fullmatch(r"([\w.]+)\((.*)\) -> (\S+)", spelled)
    assert match
    parameters = []
    for part in filter(None, match[2].split(", ")):
        name, _, type_ = part.partition(": ")
        choices = tuple(type_.split("|")) if "|" in type_ else ()
        kind = "text" if choices else type_
        parameters.append(Parameter(name=name.rstrip("?"), type=kind, required="?" not in name, choices=choices))
    declared = Declaration.model_validate({"effect": effect, "on_doubt": more.pop("on_doubt", "ask")})
    fields = {"name": match[1], "summary": "", "parameters": tuple(parameters), "result": match[3]}
    return Callee.model_validate({**fields, "declaration": declared, **more})


CALLEES = (
    callee("files.list(folder?: folder, pattern?: text) -> list[path]", "read"),
    callee("files.read(path: path) -> text", "read", converts=True),
    callee("files.write(path: path, text: text) -> path", "write", on_doubt="idempotent"),
    callee("files.append(path: path, text: text) -> path", "write", on_doubt="probe"),
    callee("mail.send(to: email, text: text) -> any", "send"),
    callee("text.lines(text: text) -> list[text]"),
    callee("text.count(text: text) -> integer"),
    callee("text.diff(old: text, new: text) -> text"),
    callee("lists.join(items: list[text]) -> text"),
    callee("table.top(table: table, column: text) -> record"),
    callee("math.half(number: number) -> number"),
    callee("agent.writer(task: text, text?: text) -> text", "read", kind="agent"),
    callee("agent.extractor(inputs: text, fields: any, task?: text) -> record", "read", kind="agent"),
    callee("lists.sort(items: list[any], order?: ascending|descending) -> list[any]"),
)
CATALOGUE: Catalogue = {c.name: c for c in CALLEES}
SOURCE = Named(text="a.txt", kind="path", part="source", found="file")
TARGET = Named(text="b.txt", kind="path", part="target", found="absent")
FOLDER = Named(text="notes", kind="folder", found="folder")


def step(id_: str, use: str | None = None, /, *, more: Json = None, **args: Json) -> Step:
    fields = {"id": id_, "use": use, "args": args} | (more if isinstance(more, dict) else {})
    return Step.model_validate(fields)


def told(plan: Plan) -> list[str]:
    """A plan on a few lines: `s2 = files.read(path=$item) for $s1 if s1`."""
    lines = []
    for s in plan.steps:
        inside = ", ".join(f"{name}={value}" for name, value in s.args.items())
        line = f"{s.id} = {s.use}({inside})" if s.use else f"{s.id} = {s.let}"
        line += f" for {'' if s.as_ == 'item' else s.as_ + ' in '}{s.for_each}" if s.is_map else ""
        lines.append(line + (f" if {s.if_}" if s.if_ else ""))
    return [*lines, f"answer {plan.answer}"]


def mended(*steps: Step, answer: Json = None, catalogue: Catalogue = CATALOGUE, **terms: Any) -> list[str]:
    """The plan as repaired, each line of `told` but for the answer if it stayed, after the codes of the repairs."""
    plan, repairs = repaired(Plan(steps=steps, answer=answer), catalogue, **terms)
    lines = told(plan)
    return [" ".join(r.code for r in repairs), *(lines[:-1] if plan.answer == answer else lines)]


READ = step("s1", "files.read", path="a.txt")
LIST = step("s1", "files.list", folder="notes")
TOP = step("s1", "table.top", table="a,b", column="b")

# names


@pytest.mark.parametrize("written", ["Files.Read", "read", "READ", "files.read"])
def test_a_callee_may_be_called_by_the_one_name_that_it_can_be(written: str) -> None:
    assert mended(step("s1", written, path="a.txt"))[1:] == ["s1 = files.read(path=a.txt)"]


def test_a_name_that_may_mean_two_callees_or_none_is_left() -> None:
    twice = {**CATALOGUE, "web.read": CATALOGUE["files.read"].model_copy(update={"name": "web.read"})}
    assert mended(step("s1", "read", path="a.txt"), catalogue=twice) == ["", "s1 = read(path=a.txt)"]
    assert mended(step("s1", "files.burn", path="a.txt")) == ["", "s1 = files.burn(path=a.txt)"]


def test_arguments_get_the_names_that_the_callee_has_for_them() -> None:
    assert mended(step("s1", "files.write", Path="b", TEXT="x")) == ["R-102", "s1 = files.write(path=b, text=x)"]
    assert mended(step("s1", "files.write", path="b", content="x")) == ["R-102", "s1 = files.write(path=b, text=x)"]


def test_an_argument_is_not_renamed_where_it_may_mean_two_or_would_replace_another() -> None:
    two = step("s1", "files.write", file="b", content="x")
    assert mended(two) == ["", told(Plan(steps=(two,)))[0]]
    optional = step("s1", "agent.writer", task="x", context="y")
    assert mended(optional) == ["", told(Plan(steps=(optional,)))[0]]
    both = step("s1", "files.write", path="b", Path="c", text="x")
    assert mended(both) == ["", told(Plan(steps=(both,)))[0]]
    assert mended(step("s1", "files.write", PATH="b", Path="c", text="x")) == [
        "R-102",
        "s1 = files.write(path=b, Path=c, text=x)",
    ]


def test_paths_and_choices_are_spelled_as_the_workspace_and_the_callee_do() -> None:
    assert mended(step("s1", "files.read", path=" ./A.TXT"), found=(SOURCE,)) == [
        "R-103",
        "s1 = files.read(path=a.txt)",
    ]
    assert mended(step("s1", "lists.sort", items="$x", order="Ascending"))[0] == "R-103"
    assert mended(step("s1", "lists.sort", items="$x", order=5))[0] == ""


def test_a_path_that_may_be_two_is_left() -> None:
    twins = (SOURCE, SOURCE.model_copy(update={"text": "A.txt"}))
    assert mended(step("s1", "files.read", path="a.TXT"), found=twins)[0] == ""


# files and folders


def test_a_file_given_as_a_folder_is_the_list_of_it_under_the_same_condition() -> None:
    listing = step("s2", "files.list", folder="a.txt", more={"if": "s1 > 1", "after": ["s1"]})
    plan, repairs = repaired(Plan(steps=(step("s1", "dates.today"), listing)), CATALOGUE, found=(SOURCE,))
    assert [r.code for r in repairs] == ["R-104"]
    assert plan.steps[1] == listing.model_copy(update={"use": None, "args": {}, "let": ["a.txt"]})


def test_a_folder_given_as_a_file_is_each_file_in_it() -> None:
    reading = step("s1", "files.read", path="notes", more={"if": "1 > 2"})
    assert mended(reading, found=(FOLDER,)) == [
        "R-105",
        "s1_files = files.list(folder=notes) if 1 > 2",
        "s1 = files.read(path=$item) for $s1_files if 1 > 2",
    ]


def test_a_folder_is_no_list_of_files_for_an_effect_inside_a_map_or_without_a_lister() -> None:
    assert mended(step("s1", "files.append", path="notes", text="x"), found=(FOLDER,))[0] == ""
    assert mended(step("s1", "files.read", path="notes", more={"for_each": ["x"]}), found=(FOLDER,))[0] == ""
    blind = {name: c for name, c in CATALOGUE.items() if name != "files.list"}
    assert mended(step("s1", "files.read", path="notes"), found=(FOLDER,), catalogue=blind)[0] == ""


# maps


def test_inside_its_own_map_the_list_means_the_item_unless_the_item_is_used_as_well() -> None:
    assert mended(LIST, step("s2", "files.read", path="$s1", more={"for_each": "$s1"}), found=(FOLDER,)) == [
        "R-106",
        "s1 = files.list(folder=notes)",
        "s2 = files.read(path=$item) for $s1",
    ]
    lines = step("s1", "text.lines", text="x")
    knowing = step("s2", "agent.writer", task="Place $item", text="$s1", more={"for_each": "$s1"})
    assert mended(lines, knowing)[0] == ""
    joined = step("s2", "lists.join", items="$s1", more={"for_each": "$s1"})
    assert mended(lines, joined)[0] == "", "the callee wants the whole list"
    lost = step("s2", "x.y", items="$s1", more={"for_each": "$s1"})
    assert mended(lines, lost)[0] == "", "nobody knows what the callee wants"


def test_a_map_over_one_value_is_a_single_call() -> None:
    half = step("s2", "math.half", number="$item", more={"for_each": "$s1"})
    assert mended(step("s1", "math.half", number=4), half)[::2] == ["R-107", "s2 = math.half(number=$s1)"]
    value = Step.model_validate({"id": "s2", "let": "$item", "for_each": 5})
    assert mended(value) == ["R-107", "s2 = 5"]


def test_a_map_over_a_text_goes_by_lines_unless_its_item_is_not_used_or_would_be_split_anyway() -> None:
    count = step("s2", "text.count", text="$item", more={"for_each": "$s1"})
    assert mended(READ, count)[0] == ""
    given = step("s2", "text.count", text="${upper(item)}", more={"for_each": "$s1"})
    assert mended(READ, given)[0] == ""
    computed = Step.model_validate({"id": "s2", "let": "${upper(item)}", "for_each": "$s1"})
    assert mended(READ, computed)[0] == ""
    chosen = step("s2", "agent.writer", task="x", more={"for_each": "$s1", "if": "'x' in item"})
    assert mended(READ, chosen)[0] == ""
    assert mended(READ, step("s2", "agent.writer", task="x", more={"for_each": "$s1"}))[0] == "R-107 R-114"
    lines = step("s2", "text.lines", text="$item", more={"for_each": "$s1"})
    assert mended(READ, lines)[::2] == ["R-107", "s2 = text.lines(text=$s1)"]


def test_a_map_over_one_value_that_uses_parts_of_its_item_is_left_to_the_check() -> None:
    part = step("s2", "agent.writer", task="${item.name}", more={"for_each": "$s1"})
    assert mended(TOP, part)[0] == ""


def test_an_item_without_a_map_is_each_of_the_newest_list_that_fits() -> None:
    lines = step("s2", "text.lines", text="x")
    assert mended(LIST, lines, step("s3", "text.count", text="$item"), found=(FOLDER,))[::3] == [
        "R-108",
        "s3 = text.count(text=$item) for $s2",
    ]
    assert mended(LIST, lines, step("s3", "files.read", path="$item"), found=(FOLDER,))[-1].endswith("for $s1")
    assert mended(LIST, lines, step("s3", "math.half", number="$item"), found=(FOLDER,))[-1].endswith("for $s2")
    assert mended(LIST, step("s2", "x.y", number="$item"), found=(FOLDER,))[-1].endswith("for $s1")


def test_an_item_without_any_list_is_left() -> None:
    assert mended(step("s1", "text.count", text="$item"))[0] == ""
    named = Step(id="item", let="x")
    assert mended(named, step("s2", "text.count", text="$item"))[0] == "", "it is a step"


def test_a_list_made_item_by_item_means_its_item_at_the_same_place() -> None:
    read = step("s2", "files.read", path="$item", more={"for_each": "$s1"})
    write = step("s3", "files.append", path="$item", text="$s2", more={"for_each": "$s1"})
    assert mended(LIST, read, write, found=(FOLDER,))[::3] == [
        "R-109",
        "s3 = files.append(path=$item, text=${s2[item_i]}) for $s1",
    ]


def test_a_list_of_another_length_or_origin_or_that_is_wanted_whole_is_left() -> None:
    some = step("s2", "files.read", path="$item", more={"for_each": "$s1", "if": "'x' in item"})
    write = step("s3", "files.append", path="$item", text="$s2", more={"for_each": "$s1"})
    assert mended(LIST, some, write, found=(FOLDER,))[0] == "", "it leaves items out"
    other = step("s2", "files.list", folder="other")
    assert mended(LIST, other, write, found=(FOLDER,))[0] == ""
    inside = step("s3", "files.append", path="$item", text="$s2[0]", more={"for_each": "$s1"})
    assert mended(LIST, step("s2", "text.lines", text="x"), inside, found=(FOLDER,))[0] == ""
    read = step("s2", "files.read", path="$item", more={"for_each": "$s1"})
    whole = step("s3", "lists.join", items="$s2", more={"for_each": "$s1"})
    assert mended(LIST, read, whole, found=(FOLDER,))[0] == ""
    itself = step("s2", "text.count", text="$item", more={"for_each": "$s2"})
    assert mended(LIST, itself, found=(FOLDER,))[0] == "", "a map over itself ends nowhere"


def test_a_map_that_writes_one_file_again_and_again_writes_once() -> None:
    lines = step("s1", "text.lines", text="x")
    chosen = step("s2", "files.write", path="b.txt", text="- ${item}", more={"for_each": "$s1", "if": "'x' in item"})
    assert mended(lines, chosen) == [
        "R-116",
        "s1 = text.lines(text=x)",
        "s2_text = - ${item} for $s1 if 'x' in item",
        "s2 = files.write(path=b.txt, text=$s2_text)",
    ]


def test_a_condition_that_does_not_speak_of_the_item_stays_on_the_write() -> None:
    lines = step("s1", "text.lines", text="x")
    write = step("s2", "files.write", path="b.txt", text="$item", more={"for_each": "$s1", "if": "len(s1) > 2"})
    assert mended(lines, write)[2:] == [
        "s2_text = $item for $s1",
        "s2 = files.write(path=b.txt, text=$s2_text) if len(s1) > 2",
    ]


def test_a_map_that_writes_each_item_elsewhere_or_always_the_same_or_adds_is_left() -> None:
    lines = step("s1", "text.lines", text="x")
    for use, path, text in [
        ("files.write", "${item_i}.txt", "$item"),
        ("files.write", "b.txt", "always"),
        ("files.append", "b.txt", "$item"),
    ]:
        assert mended(lines, step("s2", use, path=path, text=text, more={"for_each": "$s1"}))[0] == ""


# types


def test_a_list_where_one_value_is_read_is_a_map_but_never_for_an_effect() -> None:
    assert mended(LIST, step("s2", "files.read", path="$s1"), found=(FOLDER,))[::2] == [
        "R-110",
        "s2 = files.read(path=$item) for $s1",
    ]
    assert mended(LIST, step("s2", "files.append", path="$s1", text="x"), found=(FOLDER,))[0] == ""


def test_two_lists_made_from_one_another_go_together_in_the_map() -> None:
    read = step("s2", "files.read", path="$s1")
    catalogue = {**CATALOGUE, "x.same": callee("x.same(a: path, b: number) -> boolean")}
    count = step("s3", "text.count", text="$item", more={"for_each": "$s2"})
    both = step("s4", "x.same", a="$s1", b="$s3")
    assert mended(LIST, read, count, both, found=(FOLDER,), catalogue=catalogue)[-1] == (
        "s4 = x.same(a=$item, b=${s3[item_i]}) for $s1"
    )


def test_a_path_where_its_text_is_meant_is_read_first() -> None:
    assert mended(step("s1", "text.count", text="a.txt"), found=(SOURCE,)) == [
        "R-111",
        "s1_text = files.read(path=a.txt)",
        "s1 = text.count(text=$s1_text)",
    ]
    write = step("s1", "files.write", path="c.txt", text="x")
    assert mended(write, step("s2", "text.count", text="$s1"))[2:] == [
        "s2_text = files.read(path=$s1)",
        "s2 = text.count(text=$s2_text)",
    ]
    assert mended(step("s1", "lists.sort", items="a.txt"), found=(SOURCE,))[0] == "R-111"


def test_a_path_that_an_effect_carries_or_the_plan_will_write_or_that_is_only_mentioned_is_no_text() -> None:
    assert mended(step("s1", "mail.send", to="a@b.example", text="a.txt"), found=(SOURCE,))[0] == ""
    assert mended(step("s1", "text.count", text="b.txt"), found=(TARGET,))[0] == "R-112"
    mention = Named(text="os.path", kind="path", found="absent")
    assert mended(step("s1", "text.count", text="os.path"), found=(mention,))[0] == ""
    missing = SOURCE.model_copy(update={"found": "absent"})
    assert mended(step("s1", "text.count", text="a.txt"), found=(missing,))[0] == "R-111", "reading it will fail"
    blind = {name: c for name, c in CATALOGUE.items() if name != "files.read"}
    assert mended(step("s1", "text.count", text="a.txt"), found=(SOURCE,), catalogue=blind)[0] == ""


def test_a_list_of_paths_is_read_file_by_file() -> None:
    plan = (LIST, step("s2", "text.count", text="$s1"))
    assert mended(*plan, goal="Count the words in notes", found=(FOLDER,))[2:] == [
        "s2_text = files.read(path=$item) for $s1",
        "s2 = text.count(text=$s2_text)",
    ]
    assert mended(*plan, goal="Count the words of each file", found=(FOLDER,))[-1] == (
        "s2 = text.count(text=$item) for $s2_text"
    )
    assert mended(LIST, step("s2", "math.half", number="$s1"), found=(FOLDER,))[-1] == (
        "s2 = math.half(number=$item) for $s2_number"
    )


def test_inside_a_map_the_file_of_the_item_is_read() -> None:
    count = step("s2", "text.count", text="$f", more={"for_each": "$s1", "as": "f", "if": "'x' in f"})
    assert mended(LIST, count, found=(FOLDER,))[2:] == [
        "s2_text = files.read(path=$f) for f in $s1",
        "s2 = text.count(text=${s2_text[f_i]}) for f in $s1 if 'x' in f",
    ]


def test_what_is_read_first_is_read_under_the_same_condition() -> None:
    count = step("s1", "text.count", text="a.txt", more={"if": "1 > 2"})
    assert mended(count, found=(SOURCE,))[1] == "s1_text = files.read(path=a.txt) if 1 > 2"


def test_a_step_of_the_checker_has_an_id_that_is_free_and_valid() -> None:
    taken = Step(id="s2_text", let="x")
    assert mended(
        READ, step("s2", "text.count", text="a.txt"), taken, answer=["$s1", "$s2", "$s2_text"], found=(SOURCE,)
    )[2].startswith("s2_text_2 = ")
    odd = {**CATALOGUE, "x.y": callee("x.y(Größe-1: text) -> text")}
    named = step("s1", "x.y", **{"Größe-1": "a.txt"})
    assert mended(named, found=(SOURCE,), catalogue=odd)[1] == "s1_gr_e_1 = files.read(path=a.txt)"


# unknown fields


def test_a_field_that_nobody_can_know_is_looked_up_if_it_is_not_there() -> None:
    write = step("s2", "files.write", path="b.txt", text="$s1.name")
    assert mended(TOP, write, answer="$s1.name", goal="Cost $5?") == [
        "R-115",
        "s1 = table.top(table=a,b, column=b)",
        "s1_name = agent.extractor(inputs=$s1, fields=name, task=Cost $$5?) if 'name' not in s1",
        "s2 = files.write(path=b.txt, text=${s1.name ?? s1_name.name ?? s1.name})",
        "answer ${s1.name ?? s1_name.name ?? None}",
    ]
    plan, _ = repaired(Plan(steps=(TOP, write)), CATALOGUE)
    assert may_miss(plan.steps[-1].args["text"]) == {"s1_name"}, "nothing is written if there is no record"


def test_a_field_may_have_any_name() -> None:
    assert mended(TOP, answer="$s1['it is']")[2:] == [
        "s1_it_is = agent.extractor(inputs=$s1, fields=it is, task=) if 'it is' not in s1",
        "answer ${s1['it is'] ?? s1_it_is['it is'] ?? None}",
    ]
    own = Step(id="s1_name", let="x")
    assert mended(TOP, own, answer=["$s1_name"], goal="")[0] == "R-114"
    assert "s1_name_2" in mended(TOP, step("s2", "text.count", text="$s1.name"), own, answer=["$s2", "$s1_name"])[2]


def test_a_field_that_is_known_or_has_a_default_or_a_deeper_part_is_left() -> None:
    extract = step("s1", "agent.extractor", inputs="x", fields="name")
    assert mended(extract, answer="$s1.name")[0] == ""
    assert mended(Step(id="s1", let={"name": 1}), answer="$s1.name")[0] == ""
    assert mended(step("s1", "text.count", text="x"), answer="$s1.name")[0] == ""
    for answer in ("${s1.name ?? 0}", "$s1.name.first", "$s1[0]"):
        assert mended(TOP, answer=answer)[0] == ""
    assert mended(TOP, answer=["$s1", "$s9.name"])[0] == ""
    assert mended(step("s2", "text.count", text="$s9.name"))[0] == ""
    each = step("s1", "table.top", table="$item", column="b", more={"for_each": ["a", "b"]})
    assert mended(each, answer="$s1.name")[0] == ""
    blind = {name: c for name, c in CATALOGUE.items() if name != "agent.extractor"}
    assert mended(TOP, answer="$s1.name", catalogue=blind)[0] == ""


# what the goal asks for


def test_a_write_that_was_forgotten_is_added_with_the_outcome() -> None:
    assert mended(READ, answer="Got ${s1}", found=(SOURCE, TARGET))[::2] == [
        "R-112",
        "s2 = files.write(path=b.txt, text=Got ${s1})",
    ]
    assert mended(READ, answer="Done.", found=(SOURCE, TARGET))[-1] == "s2 = files.write(path=b.txt, text=$s1)"


def test_nothing_is_written_where_the_plan_has_an_effect_or_nothing_or_two_files_are_wanted() -> None:
    sent = step("s2", "mail.send", to="a@b.example", text="$s1")
    other = TARGET.model_copy(update={"text": "c.txt"})
    blind = {name: c for name, c in CATALOGUE.items() if name != "files.write"}
    assert mended(READ, sent, answer="$s1", found=(SOURCE, TARGET))[0] == ""
    assert mended(answer="Done.", found=(TARGET,))[0] == ""
    assert mended(READ, answer="$s1", found=(SOURCE, TARGET, other))[0] == ""
    assert mended(READ, answer="$s1", found=(SOURCE,))[0] == ""
    assert mended(READ, answer="$s1", found=(SOURCE, TARGET), catalogue=blind)[0] == ""


@pytest.mark.parametrize(
    ("goal", "found", "is_written"),
    [
        ('Append "milk" to b.txt', "file", False),
        ('Append "milk" to b.txt', "absent", True),
        ("Write it to b.txt", "file", True),
    ],
)
def test_what_a_file_holds_is_not_replaced_where_something_is_to_be_added(
    goal: str, found: str, is_written: bool
) -> None:
    target = TARGET.model_copy(update={"found": found})
    assert (mended(READ, answer="$s1", goal=goal, found=(SOURCE, target))[0] == "R-112") is is_written


def test_what_is_wanted_in_one_case_only_is_not_written_in_every_case() -> None:
    terms: dict[str, Any] = {"goal": "If a.txt is long, write x to b.txt", "found": (SOURCE, TARGET)}
    count = step("s2", "text.count", text="$s1")
    write = step("s3", "agent.writer", task="x", more={"if": "s2 > 3"})
    edit = step("s4", "agent.writer", task="Shorten ${s3}")
    assert mended(READ, count, answer="$s2", **terms)[0] == ""
    assert mended(READ, count, write, edit, answer="$s4", **terms)[0] == "R-112"
    assert mended(READ, count, answer="${'x' if s2 > 3 else 'y'}", **terms)[0] == "R-112"
    assert mended(READ, count, write, answer="${s3 ?? s2}", **terms)[0] == "", "there is always such an answer"
    assert mended(READ, step("s2", "table.top", table="$s1", column="a"), answer="$s2.x", **terms)[0] == "R-115"


def test_an_answer_that_says_nothing_of_what_was_computed_gives_it() -> None:
    assert mended(READ, answer="Done.", found=(SOURCE,))[::2] == ["R-113", "answer $s1"]
    write = step("s2", "files.write", path="b.txt", text="$s1")
    assert mended(READ, write, answer="Done.")[0] == ""
    assert mended(READ, write, answer="It has 42 lines.")[::3] == ["R-113", "answer $s1"]
    assert mended(step("s1", "mail.send", to="a@b.example", text="x"), answer="Sent 42.")[0] == ""


@pytest.mark.parametrize("answer", ["The top 3 are in notes-2024.txt.", "10000 or 10,000", "On 2024-05-01"])
def test_an_answer_may_say_the_numbers_of_the_goal(answer: str) -> None:
    goal = "Write the top 3 of 10,000 of 2024-05-01 to notes-2024.txt"
    assert mended(step("s1", "mail.send", to="a@b.example", text="x"), answer=answer, goal=goal)[0] == ""


def test_no_answer_is_an_answer() -> None:
    first = step("s2", "agent.writer", task="x", more={"if": "'a' in s1"})
    second = step("s3", "agent.writer", task="${s2 ?? 'y'}")
    assert mended(READ, first, second)[0] == ""


def test_a_step_that_only_looks_and_that_nobody_reads_is_left_out_unless_it_is_about_the_goal() -> None:
    idle = step("s2", "text.count", text="${s3}")
    assert mended(READ, step("s3", "files.list"), idle, answer="$s1") == [
        "R-114 R-114",
        "s1 = files.read(path=a.txt)",
    ]
    phrase, number = Named(text="red", kind="quote"), Named(text="3", kind="number")
    for found, args in [((phrase,), {"text": "a red one"}), ((number,), {"text": "3 things"})]:
        assert mended(READ, step("s2", "text.count", **args), answer="$s1", found=found)[0] == ""
    assert mended(READ, step("s2", "files.list", folder="notes/"), answer="$s1", found=(FOLDER,))[0] == ""
    waited = step("s2", "files.list")
    assert mended(waited, step("s3", "files.read", path="a", more={"after": ["s2"]}), answer="$s3")[0] == ""
    assert mended(READ, Step(id="s2", let=5), answer="$s1")[0] == "R-114"
