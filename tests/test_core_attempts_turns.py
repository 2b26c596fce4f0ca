"""Which call waits for which; see also `test_core_order` and `test_core_decide_calls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from planner.core.commands import Call, Command, Record
from planner.core.decide import decide
from planner.core.events import (
    BlockEntered,
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    MapResolved,
    StepFailed,
    StepResolved,
    StepStarted,
    StepSucceeded,
)
from planner.core.gate import binding
from planner.core.labels import Json, Labelled
from planner.core.plan import Step
from planner.core.policy import Policy, Verdict
from planner.core.rules import Rule
from planner.core.run import Run

Given: TypeAlias = Callable[..., Run]
Accepted: TypeAlias = Callable[..., tuple[Event, ...]]

LOST = Fault(code="T-1", error_class="missing")


def step(use: str, id_: str = "s1", **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "use": use} | fields)


def resolved(place: str = "s1", verdict: Verdict | None = None, /, **arguments: Json) -> StepResolved:
    return StepResolved(path=place, arguments=Labelled(value=arguments), verdict=verdict)


def made(path: str = "s1") -> StepStarted:
    return StepStarted(path=path, attempt=1, key="k")


def succeeded(path: str = "s1", value: Json = 1) -> StepSucceeded:
    return StepSucceeded(path=path, value=Labelled(value=value))


def failed(fault: Fault, path: str = "s1") -> StepFailed:
    return StepFailed(path=path, fault=fault)


def calls(commands: tuple[Command, ...]) -> list[str]:
    return [command.path for command in commands if isinstance(command, Call)]


FALLS_BACK = step(
    "files.read",
    args={"path": "a"},
    on_error={"fallback": {"use": "files.append", "args": {"path": "b", "text": "x"}}},
)


def test_a_call_waits_for_what_may_yet_take_the_place_of_an_earlier_one(given: Given, accepted: Accepted) -> None:
    later = step("files.append", "s2", args={"path": "b", "text": "y"})
    begun = (*accepted(FALLS_BACK, later), resolved(path="a"), resolved("s2", path="b", text="y"))
    assert calls(decide(given(*begun))) == ["s1"]
    assert calls(decide(given(*begun, made(), succeeded()))) == ["s2"]
    instead = (made(), failed(LOST), resolved("s1~fallback", path="b", text="x"))
    assert calls(decide(given(*begun, *instead))) == ["s1~fallback"]
    assert calls(decide(given(*begun, *instead, made("s1~fallback"), succeeded("s1~fallback")))) == ["s2"]


def test_what_takes_the_place_of_a_call_waits_for_its_own_turn(given: Given, accepted: Accepted) -> None:
    first = step("files.append", "s0", args={"path": "b", "text": "y"})
    begun = (*accepted(first, FALLS_BACK), resolved("s0", path="b", text="y"), made("s0"), resolved(path="a"))
    instead = (made(), failed(LOST), resolved("s1~fallback", path="b", text="x"))
    assert decide(given(*begun, *instead)) == ()
    assert calls(decide(given(*begun, *instead, succeeded("s0")))) == ["s1~fallback"]


BLOCK = Step.model_validate(
    {
        "id": "s1",
        "if": "1 > 0",
        "do": [{"id": "t1", "use": "files.append", "args": {"path": "a", "text": "x"}}],
        "else": [{"id": "t2", "use": "files.append", "args": {"path": "b", "text": "x"}}],
        "on_error": {"fallback": {"use": "files.append", "args": {"path": "c", "text": "x"}}},
    }
)


def test_a_call_waits_for_what_a_block_before_it_may_call(given: Given, accepted: Accepted) -> None:
    for path, waits in (("a", (True, True, False)), ("b", (True, False, False)), ("c", (True, True, True))):
        later = step("files.append", "s2", args={"path": path, "text": "y"})
        begun = (*accepted(BLOCK, later), resolved("s2", path=path, text="y"))
        entered = (*begun, BlockEntered(path="s1"))
        lost = (*entered, failed(LOST, "s1/t1"), failed(LOST))
        found = [("s2" not in calls(decide(given(*events)))) for events in (begun, entered, lost)]
        assert found == list(waits)


def test_a_call_waits_for_what_may_take_the_place_of_a_value(given: Given, accepted: Accepted) -> None:
    instead = {"use": "files.append", "args": {"path": "b", "text": "x"}}
    value = Step.model_validate({"id": "s1", "let": "${s0 / 0}", "on_error": {"fallback": instead}})
    later = step("files.append", "s2", args={"path": "b", "text": "y"})
    reads = step("files.read", "s0", args={"path": "a"})
    begun = (*accepted(reads, value, later), resolved("s0", path="a"), resolved("s2", path="b", text="y"))
    assert calls(decide(given(*begun))) == ["s0"]
    assert calls(decide(given(*begun, made("s0"), succeeded("s0"), succeeded()))) == ["s2"]


def test_the_items_of_a_map_of_blocks_take_turns(given: Given, accepted: Accepted) -> None:
    append = {"use": "files.append", "args": {"path": "$item", "text": "x"}}
    block = Step.model_validate(
        {
            "id": "s1",
            "for_each": ["a", "b", "a"],
            "do": [{"id": "t1", **append}, {"id": "t2", "for_each": [1, 2], "as": "n", **append}],
        }
    )
    begun = (
        *accepted(block),
        MapResolved(path="s1", items=Labelled(value=["a", "b", "a"])),
        *(BlockEntered(path=f"s1[{n}]") for n in range(3)),
        *(resolved(f"s1[{n}]/t1", path=path, text="x") for n, path in enumerate("aba")),
        *(MapResolved(path=f"s1[{n}]/t2", items=Labelled(value=[1, 2])) for n in range(3)),
        *(resolved(f"s1[{n}]/t2[{i}]", path=p, text="x") for n, p in enumerate("aba") for i in range(2)),
    )
    assert calls(decide(given(*begun))) == ["s1[0]/t1", "s1[1]/t1"]
    done = [event for path in ("s1[0]/t1", "s1[0]/t2[0]") for event in (made(path), succeeded(path))]
    assert calls(decide(given(*begun, *done))) == ["s1[0]/t2[1]", "s1[1]/t1"]
    done += [made("s1[0]/t2[1]"), succeeded("s1[0]/t2[1]")]
    assert calls(decide(given(*begun, *done))) == ["s1[1]/t1", "s1[2]/t1"]


def test_an_allowed_call_that_a_rule_wants_approved_waits_for_its_turn_after_that(
    given: Given, accepted: Accepted
) -> None:
    policy = Policy(rules=(Rule(id="ask", then="ask", effect="write"), Rule(id="all", then="allow")))
    steps = [step("files.append", f"s{n}", args={"path": "a", "text": "x"}) for n in (1, 2)]
    ask = Verdict(then="ask", rules=("ask",), reason="why")
    begun = (*accepted(*steps, policy=policy), *(resolved(s.id, ask, path="a", text="x") for s in steps))
    asked = [
        HumanAsked(path=s.id, question="approve", reason="why", binding=binding(given(*begun), s.id)) for s in steps
    ]
    yes = [HumanAnswered(path=s.id, answer="yes", by="ann") for s in steps]
    assert decide(given(*begun)) == tuple(Record(event) for event in asked)
    assert calls(decide(given(*begun, *asked, *yes))) == ["s1"]
