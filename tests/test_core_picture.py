from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.certificate import Certificate, Change, Flow, Gate
from planner.core.labels import Integrity
from planner.core.picture import mermaid, told
from planner.core.plan import Plan
from planner.core.repair import Repair


def drawn(*steps: dict[str, Any], certificate: Certificate | None = None, **plan: Any) -> list[str]:
    """The lines of the picture behind the styles, without indent."""
    lines = mermaid(Plan.model_validate({"steps": steps} | plan), certificate).splitlines()
    assert lines[0] == "flowchart TD"
    return [line.strip() for line in lines if "classDef" not in line][1:]


# flowchart


def test_steps_are_nodes_and_what_they_read_and_wait_for_are_arrows() -> None:
    assert drawn(
        {"id": "s1", "use": "files.read", "args": {"path": "$inputs.path"}},
        {"id": "s2", "let": "${s1 + s1}"},
        {"id": "end", "use": "files.write", "args": {"text": "$s2"}, "after": ["s1", "s2"]},
        inputs={"path": "a.txt"},
        answer="$end",
    ) == [
        'n_s1["s1 files.read"]',
        'n_s2["s2 let"]',
        'n_end["end files.write"]',
        'inputs(["inputs"])',
        'answer(["answer"])',
        "inputs --> n_s1",
        "n_s1 --> n_s2",
        "n_s2 --> n_end",
        "n_s1 -.-> n_end",
        "n_end --> answer",
    ]


def test_conditions_and_maps_stand_in_the_label() -> None:
    steps: list[dict[str, Any]] = [
        {"id": "s1", "use": "a.b", "for_each": ["x", 1], "if": "item == 'x'"},
        {
            "id": "s2",
            "use": "a.b",
            "if": f"s1 == '{'y' * 90}'",
            "on_error": {"fallback": {"use": "c", "args": {"d": "$s1"}}},
        },
    ]
    first, second, arrow = drawn(*steps)
    assert first == 'n_s1["s1 a.b for each #91;#34;x#34;, 1#93; if item == #39;x#39;"]'
    assert second.endswith(f'if s1 == #39;{"y" * 52}#8230;"]')
    assert arrow == "n_s1 --> n_s2"


def test_blocks_are_boxes_with_their_branches_in_them() -> None:
    held = {"id": "t1", "use": "a.b", "args": {"x": "$item", "y": "$s1"}}
    block = {"id": "s2", "for_each": "$s1", "if": "item > 1", "do": [held], "answer": "${t1}${s1}"}
    assert drawn({"id": "s1", "let": [1]}, block) == [
        'n_s1["s1 let"]',
        'subgraph n_s2["s2 for each #36;s1 if item #62; 1"]',
        'n_t1["t1 a.b"]',
        "end",
        "n_s1 --> n_s2",
        "n_s1 --> n_t1",
    ]
    assert drawn({**block, "for_each": None, "else": [{"id": "t2", "let": 2}]})[:8] == [
        'subgraph n_s2["s2 if item #62; 1"]',
        'subgraph then_s2["then"]',
        'n_t1["t1 a.b"]',
        "end",
        'subgraph else_s2["else"]',
        'n_t2["t2 let"]',
        "end",
        "end",
    ]


def test_a_step_that_is_called_like_an_item_is_not_taken_for_it() -> None:
    lines = drawn(
        {"id": "item", "let": [1]},
        {"id": "s1", "for_each": [2], "do": [{"id": "t1", "let": "$item"}, {"id": "t2", "let": "$t1"}]},
    )
    assert [line for line in lines if "-->" in line] == ["n_t1 --> n_t2"]


def test_effects_and_questions_are_marked() -> None:
    steps = [{"id": f"s{n}", "use": use} for n, use in enumerate(("a.b", "a.c", "a.d", "human.user", "gate.approve"))]
    certificate = Certificate(
        effects=(Change(step="s0", callee="a.b", effect="write"), Change(step="s1", callee="a.c", effect="send")),
        gates=(Gate(step="s1", callee="a.c", rules=("r",), reason="x"),),
    )
    marks = [line.partition(":::")[2] for line in drawn(*steps, certificate=certificate)]
    assert marks == ["effect", "both", "", "gate", "gate"]
    assert "classDef effect" in mermaid(Plan())


LABEL = re.compile(r'"[^"\[\](){}<>`|\\\n]*"')
LINE = re.compile(
    r"flowchart TD|classDef [a-z]+ [a-z0-9#:, -]+|end|inputs\(\[LABEL\]\)|answer\(\[LABEL\]\)"
    r"|subgraph \w+\[LABEL\]|\w+\[LABEL\](:::(effect|gate|both))?|\w+ (-->|-\.->) \w+"
)
HOSTILE = st.sampled_from(
    [
        '"]; click n_s1 "javascript:alert(1)"',
        "%%{init: {}}%%",
        "end",
        "\n  n_x --> n_y",
        "`md`",
        "#quot;",
        "\u202e\x00\ud800",
    ]
)


@given(text=HOSTILE | st.text(max_size=30), use=HOSTILE | st.text(min_size=1, max_size=30))
def test_nothing_that_a_plan_says_breaks_out_of_a_label(text: str, use: str) -> None:
    plan = Plan.model_validate(
        {
            "steps": [
                {"id": "s1", "use": use, "args": {"a": text}, "for_each": text, "if": text, "note": text},
                {"id": "s2", "if": text, "do": [{"id": "t1", "let": text}]},
            ],
            "answer": text,
        }
    )
    for line in mermaid(plan).splitlines():
        bare = LABEL.sub("LABEL", line.strip())
        assert LINE.fullmatch(bare), line
        assert '"' not in bare
        assert line.isprintable()


# lines


def test_a_plan_that_changes_nothing_says_so() -> None:
    assert told(Certificate()) == ("changes  nothing",)


def test_effects_are_told_with_what_there_is_to_be_wary_of() -> None:
    assert told(
        Certificate(
            effects=(
                Change(step="s1", callee="files.write", effect="write", control={"path": "a.txt"}, reversible=True),
                Change(step="s2", callee="mail.send", effect="send", control={"to": [1]}, times=6, role="fallback"),
            ),
            takes_back=("s7", "s8"),
        )
    ) == (
        "changes  s1: write files.write(path=a.txt)",
        "changes  s2: send mail.send(to=[1]), up to 6 times, only if the call before it fails, cannot be taken back",
        "changes  takes back what s7, s8 did",
    )


def test_questions_are_told_with_their_reason() -> None:
    assert told(
        Certificate(
            gates=(
                Gate(step="s1", callee="a.b", rules=("r",), reason="x"),
                Gate(step="s2", callee="a.b", rules=("control:to", "control:cc"), reason="x", is_certain=False),
                Gate(step="s3", callee="human.user", rules=("question",), reason="x"),
                Gate(step="s4", callee="a.b", rules=("on_error",), reason="if `a.b` fails, ...", is_certain=False),
            )
        )
    )[1:] == (
        "asks     s1: a.b needs approval",
        "asks     s2: a.b may need approval, for to and cc",
        "asks     s3: human.user is a question of the plan",
        "asks     s4: if `a.b` fails, ...",
    )


def test_only_flows_to_be_wary_of_are_told() -> None:
    flow = Flow(
        source="s1",
        source_callee="web.fetch",
        via=("s2",),
        step="s3",
        callee="mail.send",
        argument="to",
        integrity=Integrity.BOUNDED,
        least=Integrity.TRUSTED,
    )
    fine = flow.model_copy(update={"least": Integrity.BOUNDED})
    to_whom = flow.model_copy(update={"least": Integrity.BOUNDED, "is_recipient": True, "via": (), "is_choice": True})
    assert told(Certificate(flows=(flow, to_whom, fine)))[1:] == (
        "flows    s1 web.fetch -> s2 -> s3 mail.send, to: bounded, trusted is wanted",
        "flows    s1 web.fetch -> s3 mail.send, to: bounded, as a choice",
    )


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"calls": 1, "seconds": 41.4, "critical_path": ("s1",)}, "1 call, 41 s"),
        (
            {"calls": 3, "tokens": 12_400, "cost_usd": 0.02, "seconds": 200},
            "3 calls, 12,400 tokens, $0.0200, 3 min 20 s",
        ),
        ({"calls": 2, "cost_usd": 1.5, "seconds": 7500}, "2 calls, $1.5000, 2 h 5 min"),
        ({"calls": None, "tokens": None, "cost_usd": None}, "calls unknown, tokens unknown, cost unknown, 0 s"),
        ({"seconds": 60, "critical_path": ("s1", "s2")}, "0 calls, 1 min by way of s1, s2"),
    ],
)
def test_the_worst_case_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert told(Certificate.model_validate(fields))[1:] == (f"at most  {line}",)


def test_waits_missing_paths_repairs_and_advice_have_a_line_each() -> None:
    certificate = Certificate(
        waits=("s1", "s2"), no_path=("s3",), repairs=(Repair(code="R-101", message="m"),), advice=("a", "b")
    )
    assert told(certificate)[1:] == (
        "waits    s1, s2: nobody can say how long",
        "no path  around a failure of s3",
        "mended   m",
        "note     a",
        "note     b",
    )
