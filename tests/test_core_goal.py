from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.goal import (
    Named,
    has_branches,
    is_conditional,
    named,
    speaks_of_adding,
    speaks_of_each,
)


def told(goal: str) -> list[str]:
    """What a goal names: a path as `source a.txt`, anything else as `url https://...`."""
    return [f"{item.part if item.kind == 'path' else item.kind} {item.text}" for item in named(goal)]


@pytest.mark.parametrize(
    ("goal", "found"),
    [
        # quotations, and paths with spaces inside them
        (
            "Summarise \"my notes.txt\" and save it to 'short version.md'.",
            ["source my notes.txt", "target short version.md"],
        ),
        ("Copy “Q3 report.docx” to archive/q3.docx", ["source Q3 report.docx", "target archive/q3.docx"]),
        ('Write "hello" to \u2018greeting card.txt\u2019.', ["quote hello", "target greeting card.txt"]),
        ("Ersetze „Straße“ durch «Str.» in adressen.txt", ["quote Straße", "quote Str.", "source adressen.txt"]),
        ("Write `done` to status.txt", ["quote done", "target status.txt"]),
        ('Write "Dear Mr. Smith, it is 5 p.m" to a.txt', ["quote Dear Mr. Smith, it is 5 p.m", "target a.txt"]),
        ("The students' essays and the teachers' notes", []),
        ("Summarise Bob's notes.txt", ["unknown notes.txt"]),
        ('Does a.txt say "it\'s"?', ["unknown a.txt", "quote it's"]),
        # what only looks like a path
        ("Install Python 3.14 and node v1.2, then write the steps to setup.md", ["number 3.14", "target setup.md"]),
        ("Upgrade from 1.2.3 to v2.0.1", ["number 1.2.3"]),
        ("Use e.g. a.txt or i.e. nothing, at 5 p.m.", ["unknown a.txt", "number 5"]),
        ("Compare the U.S. and the U.K. after J.R.R. Tolkien got his Ph.D. there", []),
        ("Look at www.example.com, example.org and shop.example.co.uk", []),
        ("Meet in room 4.a", ["number 4"]),
        ("Explain what os.path does", ["unknown os.path"]),
        ("Read a.txt.Summarise it", ["source a.txt"]),
        # URLs and e-mail addresses
        (
            "Fetch https://example.com/a/b.html, save it to page.html",
            ["url https://example.com/a/b.html", "target page.html"],
        ),
        ("Read https://example.com/r.pdf?x=1&y=2.", ["url https://example.com/r.pdf?x=1&y=2"]),
        ("See “https://a.example/x”, (https://b.example/y)", ["url https://a.example/x", "url https://b.example/y"]),
        ("See \u2018https://a.example/x\u2019", ["url https://a.example/x"]),
        ("Mail ann.lee+x@example.co.uk and bob@localhost", ["email ann.lee+x@example.co.uk"]),
        # where a path stands
        ("Open C:\\Users\\bob\\notes.txt", ["unknown notes.txt"]),
        ("Read /etc/hosts.txt and ~/notes.txt", []),
        ("Use ../shared/data.json and ./local.json", ["unknown ../shared/data.json", "unknown ./local.json"]),
        ("Convert data.parquet to data.csv", ["source data.parquet", "target data.csv"]),
        ("Extract the total from invoice #4411 (invoice-4411.pdf)", ["number 4411", "unknown invoice-4411.pdf"]),
        # lists of files
        (
            "Copy a.txt, b.txt, and c.txt to d.txt and e.txt",
            [*(f"source {x}.txt" for x in "abc"), "target d.txt", "target e.txt"],
        ),
        ("Join a.txt with b.txt and write c.txt", ["source a.txt", "source b.txt", "target c.txt"]),
        # read, written, or whichever it can be
        (
            "Compare old.csv and new.csv and write the differences to diff.txt",
            ["source old.csv", "source new.csv", "target diff.txt"],
        ),
        ("Translate a.txt into b.txt", ["source a.txt", "target b.txt"]),
        ("Rename a.txt to b.txt", ["source a.txt", "target b.txt"]),
        ("Create a file called todo.txt with three items", ["target todo.txt"]),
        ("Count the words in a.txt and save the number in count.txt", ["source a.txt", "target count.txt"]),
        ("Save the number of lines in count.txt", ["target count.txt"]),
        ("Make a list of the names in guests.txt", ["either guests.txt"]),
        ("Write a summary of the events in log.txt", ["either log.txt"]),
        ("Print the first line in a.txt", ["either a.txt"]),
        ("Collect the emails from inbox.txt in emails.txt", ["source inbox.txt", "either emails.txt"]),
        ("Write a reply to letter.txt", ["either letter.txt"]),
        ("Which lines of server.log mention config.yaml?", ["source server.log", "unknown config.yaml"]),
        # what stands beside something is neither
        ("Compare log.txt to reference.txt", ["source log.txt", "unknown reference.txt"]),
        ("Compare the output of run.log to expected.txt", ["source run.log", "unknown expected.txt"]),
        ("Write the result in the same format as sample.csv", ["unknown sample.csv"]),
        ("Write a text according to rules.txt and save it as out.txt", ["unknown rules.txt", "target out.txt"]),
        ("Look into report.txt and summarise it", ["unknown report.txt"]),
        # changed in place
        ("Sort the lines of names.txt", ["edited names.txt"]),
        ("Please remove duplicate lines from names.txt", ["edited names.txt"]),
        ("In style.css, replace red by blue", ["edited style.css"]),
        ('Add a line "x" at the end of notes.txt', ["quote x", "edited notes.txt"]),
        ("Sort the lines of names.txt and tell me the first three", ["source names.txt"]),
        ("Add up the numbers in a.csv", ["either a.csv"]),
        ("Update me on notes.txt", ["unknown notes.txt"]),
        ("Sort a.txt by b.txt", ["source a.txt", "unknown b.txt"]),
        # one file twice
        ("Read a.txt, sort it and write it to a.txt", ["unknown a.txt"]),
        ("What is in a.txt? Does a.txt say so?", ["source a.txt"]),
        # folders
        ("How many files are in the folder notes?", ["folder notes"]),
        ("List the invoices folder and the folder called old-stuff/", ["folder invoices", "folder old-stuff"]),
        ("Find files in the directory src/lib", ["folder src/lib"]),
        ("Move all from inbox/ to this folder", ["folder inbox"]),
        ("Translate every *.txt file in ./texts/ to French", ["folder ./texts"]),
        # numbers
        ("Is 10,000 more than 9.999,5 or -3.5?", ["number 10,000", "number 9.999,5", "number -3.5"]),
        ("Sum 1,250.75 and 2,000 in bills_2024.csv", ["number 1,250.75", "number 2,000", "source bills_2024.csv"]),
        ("The best 3 of 10k", ["number 3"]),
        ("Nothing at all", []),
    ],
)
def test_a_goal_names(goal: str, found: list[str]) -> None:
    assert told(goal) == found


WORDS = (
    'a the of in to and Write Sort read a.txt "b c.txt" notes/ folder 1,000 https://x.example/y a@b.example . , ? '
    "\u2018x\u2019"
)


@given(st.lists(st.sampled_from(WORDS.split(" ")) | st.text(max_size=4), max_size=25).map(" ".join))
def test_everything_named_stands_in_the_goal_and_is_named_once(goal: str) -> None:
    found = named(goal)
    assert len({item.text for item in found}) == len(found)
    assert all(item.text and item.text in goal for item in found)
    assert all(item.part == "unknown" for item in found if item.kind != "path")
    assert named(goal) == found


def test_a_long_goal_is_read_at_once() -> None:
    goal = "write x of a.txt and b.txt to c.txt " * 500
    assert len(named(goal)) == 3


@pytest.mark.parametrize(
    ("part", "found", "is_written", "is_absent_source"),
    [
        ("target", None, True, False),
        ("target", "absent", True, False),
        ("edited", "file", True, False),
        ("edited", "absent", True, True),
        ("source", "file", False, False),
        ("source", "absent", False, True),
        ("source", None, False, False),
        ("either", "file", False, False),
        ("either", "absent", True, False),
        ("either", None, False, False),
        ("unknown", "absent", False, False),
    ],
)
def test_what_is_there_decides_what_the_wording_leaves_open(
    part: str, found: str | None, is_written: bool, is_absent_source: bool
) -> None:
    item = Named.model_validate({"text": "a.txt", "kind": "path", "part": part, "found": found})
    assert (item.is_written, item.is_absent_source) == (is_written, is_absent_source)
    assert item.is_perhaps_no_file == (part == "unknown")


def test_only_a_path_is_written() -> None:
    assert not Named(text="notes", kind="folder", part="target").is_written
    assert not Named(text="notes", kind="folder", found="absent").is_perhaps_no_file


@pytest.mark.parametrize(
    ("goal", "is_open", "branches"),
    [
        ("If a.txt mentions fire, write b.txt", True, True),
        ("Write ok to b.txt, otherwise nothing", True, True),
        ("Delete it unless it is new", True, True),
        ("Tell me when it is done", True, False),
        ("Save only the name in b.txt", True, False),
        ("Give the modified lifetime", False, False),
    ],
)
def test_a_goal_may_leave_open_whether_something_happens(goal: str, is_open: bool, branches: bool) -> None:
    assert is_conditional(goal) is is_open
    assert has_branches(goal) is branches


@pytest.mark.parametrize(
    ("goal", "adds"),
    [
        ('Append "milk" to shopping.txt', True),
        ("If so, append it to log.txt", True),
        ('Add "milk" to shopping.txt', True),
        ("Add a line to shopping.txt", True),
        ("Add up the amounts in a.csv", False),
        ("Add the amounts in a.csv", False),
        ("Write the added value to b.txt", False),
    ],
)
def test_a_goal_may_want_something_added_to_what_is_there(goal: str, adds: bool) -> None:
    assert speaks_of_adding(goal) is adds


def test_a_goal_may_speak_of_each_thing() -> None:
    assert all(map(speaks_of_each, ["Translate every file", "sum per region", "Each of them"]))
    assert not any(map(speaks_of_each, ["Teach them", "Everything", "Paper"]))
