"""Laws of certificates: whatever happens in a run was foreseen, over random plans in a world that may fail."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.attest import attest
from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.certificate import Certificate, certify
from planner.core.commands import (
    AskHuman,
    AskPlanner,
    AskValidator,
    Call,
    Command,
    Probe,
    Record,
    ScheduleRetry,
    StartTimer,
)
from planner.core.decide import decide
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    PlanAccepted,
    Recorded,
    RetryScheduled,
    ReviewInconclusive,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepProbed,
    StepStarted,
    StepSucceeded,
    TimerFired,
)
from planner.core.forecast import JITTER, TRIES, call_s
from planner.core.intrinsics import intrinsics
from planner.core.labels import Integrity, Json, Labelled, leaves_of
from planner.core.ledger import Budget
from planner.core.plan import Plan, Role, Step, StepPath, role_of, split_path, stand_in
from planner.core.policy import Policy, Principal
from planner.core.rules import Rule
from planner.core.run import Run
from planner.core.setup import Setup
from planner.core.state import evolve
from planner.core.worth import ITEM, appraise

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
PRINCIPAL = Principal()
POLICY = Policy(rules=(Rule(id="ask", then="ask", callee="spend.*"), Rule(id="all", then="allow")))
laws = settings(max_examples=80, deadline=None, derandomize="CI" in os.environ)

EFFECTS: tuple[Literal["pure", "read", "send"], ...] = ("pure", "read", "send")
OUTS: tuple[Literal["trusted", "bounded", "untrusted", "fields", "typed"], ...] = (
    "trusted",
    "bounded",
    "untrusted",
    "fields",
    "typed",
)
CONTROL = {"a": Integrity.TRUSTED, "b": Integrity.BOUNDED}
PARAMETERS = tuple(Parameter(name=name, type="any", required=False) for name in ("a", "b", "c", "inputs"))


def callee(name: str, **declared: Any) -> Callee:
    given = {"control": CONTROL, "resource": ("thing:{a}",), "bounded_fields": ("path",)} | declared
    return Callee(name=name, summary="", parameters=PARAMETERS, declaration=Declaration.model_validate(given))


TOOLS = (
    *(callee(f"{effect}.{out}", effect=effect, out=out) for effect in EFFECTS for out in OUTS),
    callee("spend.money", effect="spend", out="bounded", resource=None, timeout_s=7),
    callee("put.again", effect="write", on_doubt="idempotent", timeout_s=3),
    callee("put.seen", effect="write", on_doubt="probe", resource=(), timeout_s=4),
    callee("slow.one", effect="read", concurrency=1, timeout_s=9),
)
CALLEES = (*TOOLS, *intrinsics(["user"]).values())
CATALOGUE: Mapping[str, Callee] = {callee.name: callee for callee in CALLEES}
RECORD: Json = {"path": "p", "text": ["t"], "flag": False}
RESULTS: list[Json] = [
    "a",
    "zz\na",
    3,
    None,
    True,
    [],
    ["a", "b"],
    [{"path": "p", "text": "a"}, {"path": "a"}],
    RECORD,
]


# random plans -----------------------------------------------------------------------------------------------

PATTERNS = (
    *("$N", "$N.path", "$N[0]", "$N[-1].path", "$N.text[0]", "x ${N} y", "x ${N.path}", "$$ ${N}$item", "${N}${M}"),
    *("${N == 'a'}", "${not N}", "${'a' if N else 'b'}", "${-true if N else 2}", "${-1 if N else 2}"),
    *("${N ?? M}", "${N.path ?? M}", "${N.zz ?? 'a'}", "${N.path ?? 'a'}", "${N[7] ?? [M]}", "${N and M}"),
    *("${N[0].path}", "${N[0] if M else N}", "${N['path']}", "${N[0:1]}", "${N[len(M)]}", "${N.get('path')}"),
    *("${N.get('zz', M)}", "${N.path.upper()}", "${N.path.startswith('a')}", "${len(N)}", "${contains(N, 'a')}"),
    *("${[x.path for x in N]}", "${[1 for x in N]}", "${[x for x in N if x == M]}", "${[M for x in N]}"),
    *("${sorted(N, key=lambda x: x.path)[0]}", "${any(x == M for x in N)}", "${list(N)[0]}", "${zip(N, M)}"),
    *("${{'p': N.path, 'q': M}}", "${[N, M][0]}", "${[N, M]}", "${f'{N}-{M}'}", "${max(N)}", "${N == M and N}"),
    *("${{x: 1 for x in N}}", "${{N, M}}", "${(N or M).path}", "${'a' in N or not M}", "${N ?? null}"),
)
CONSTANTS: list[Json] = ["a", "b", 3, True, None, [], ["a"], {"path": "a"}, "$5 a"]


@st.composite
def values(draw: st.DrawFn, names: tuple[str, ...], depth: int = 1) -> Json:
    kind = draw(st.sampled_from(["text", "text", "text", "constant", "list", "record"]))
    if kind in {"list", "record"} and depth:
        parts: list[Json] = draw(st.lists(values(names, depth - 1), max_size=2))
        return parts if kind == "list" else dict(zip(("path", "text"), parts, strict=False))
    if kind == "text" and names:
        n, m = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        return draw(st.sampled_from(PATTERNS)).replace("N", n).replace("M", m)
    return draw(st.sampled_from(CONSTANTS))


CONDITIONS = ("N == 'a'", "N", "not N", "true", "N.path ?? M", "N != M")
LISTS: list[Json] = [["a", "b", "c", "a", "b"], [], "a\n\nb", ["$N", "$M"], "$N", "$N", "$N", "$N.path", "${[N, M]}"]
FOUND = st.sampled_from([*(c.name for c in TOOLS), "human.user", "gate.approve"])


@st.composite
def steps(draw: st.DrawFn, names: tuple[str, ...], prefix: str = "s", depth: int = 2) -> tuple[Step, ...]:
    made: list[Step] = []
    for number in range(1, draw(st.integers(1, 4 if depth == 2 else 2)) + 1):
        made.append(draw(one_step(names, f"{prefix}{number}", depth)))
        names = (*names, made[-1].id)
    return tuple(made)


@st.composite
def one_step(draw: st.DrawFn, names: tuple[str, ...], id_: str, depth: int) -> Step:
    fields: dict[str, Any] = {"id": id_}

    def named(text: Json) -> Json:
        n, m = draw(st.sampled_from([*names, "inputs"])), draw(st.sampled_from([*names, "inputs"]))
        match text:
            case str():
                return text.replace("N", n).replace("M", m)
            case list():
                return [named(item) for item in text]
            case _:
                return text

    if draw(st.integers(0, 2)) == 0:
        fields |= {"for_each": named(draw(st.sampled_from(LISTS))), "max_items": draw(st.sampled_from([2, 5, 9]))}
        fields["on_item_error"] = draw(st.sampled_from(["fail", "drop", "drop"]))
        names = (*names, "item", "item_i")
    if draw(st.integers(0, 2)) == 0:
        fields["if"] = named(draw(st.sampled_from(CONDITIONS)))
    kind = draw(st.sampled_from(["call", "call", "call", "let", "block"][: 5 if depth else 4]))
    retry, then = draw(st.sampled_from([0, 0, 1, 2])), draw(st.sampled_from(["skip", "skip", "fail", "ask"]))
    fields["on_error"] = {"retry": retry, "then": then}
    if kind == "let":
        return Step.model_validate(fields | {"let": draw(values(names))})
    if kind == "block":
        fields["do"] = draw(steps(names, f"{id_}a", depth - 1))
        if "if" in fields:
            fields["else"] = draw(st.just(()) | steps(names, f"{id_}b", depth - 1))
        fields["answer"] = draw(
            st.none() | values((*names, *(s.id for s in (*fields["do"], *fields.get("else", ())))))
        )
        return Step.model_validate(fields)
    if draw(st.integers(0, 3)) == 0:
        other = draw(st.none() | arguments(names))
        fields["on_error"] = {"retry": retry, "fallback": {"use": draw(FOUND), "args": other}}
    fields["timeout_s"] = draw(st.sampled_from([None, None, 5]))
    return Step.model_validate(fields | {"use": draw(FOUND), "args": draw(arguments(names))})


def arguments(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Json]]:
    return st.dictionaries(st.sampled_from(["a", "b", "c", "inputs"]), values(names), max_size=3)


PLANS = steps(()).map(lambda made: Plan(inputs={"path": "p", "text": ["t"]}, steps=made))


# a run ------------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """Performs the commands of one run in a time of its own, in which every call may take as long as it may."""

    plan: Plan
    draw: st.DataObject
    is_worst: bool = False
    """Every call gives no answer, or fails, as often as it may be made again, and takes as long as it can."""
    at_s: float = 0.0
    events: list[Event] = field(default_factory=list)
    run: Run | None = None
    ending: dict[StepPath, tuple[float, Event]] = field(default_factory=dict)
    """What is under way: when it ends, and how."""

    def record(self, event: Event) -> None:
        self.events.append(event)
        seq = len(self.events)
        at = BEGAN + timedelta(seconds=self.at_s)
        self.run = evolve(self.run, Recorded(seq=seq, run_id="r1", run_seq=seq, at=at, event=event))

    def drive(self) -> Run:
        setup = Setup(callees=CALLEES, policy=POLICY, budget=Budget(), max_replans=0, max_same_calls=1000)
        self.record(RunStarted(goal="Do it", principal=PRINCIPAL, setup=setup, plan=self.plan))
        self.record(PlanAccepted(revision=1, plan=self.plan, certificate=Certificate()))
        while self.run is not None and self.run.finished is None:
            commands = [command for command in decide(self.run) if self.is_new(command)]
            if commands:
                self.perform(next((c for c in commands if isinstance(c, Record)), commands[0]))
            else:
                path, (self.at_s, event) = min(self.ending.items(), key=lambda entry: entry[1][0])
                del self.ending[path]
                self.record(event)
        assert self.run is not None
        return self.run

    def is_new(self, command: Command) -> bool:
        return isinstance(command, Record | AskValidator | AskPlanner) or command.path not in self.ending

    def perform(self, command: Command) -> None:
        assert self.run is not None
        match command:
            case Record(event=event):
                self.record(event)
            case Call(path=path):
                self.record(StepStarted(path=path, attempt=command.attempt, key=command.key, held=command.held))
                own = self.plan.at(path)
                step = own if role_of(path) == "call" else stand_in(own)
                share = 1.0 if self.is_worst else self.draw.draw(st.sampled_from([0.0, 0.5, 1.0]))
                seconds = call_s(step, CATALOGUE[command.callee]) * share
                self.ending[path] = self.at_s + seconds, self.outcome(command)
            case ScheduleRetry(path=path, attempt=attempt, delay_s=delay_s):
                due = BEGAN + timedelta(seconds=self.at_s + delay_s * JITTER)
                self.record(RetryScheduled(path=path, attempt=attempt, due=due))
            case StartTimer(path=path, due=due):
                self.ending[path] = (due - BEGAN).total_seconds(), TimerFired(path=path)
            case Probe(path=path):
                happened = not self.is_worst and self.draw.draw(st.booleans())
                self.record(StepProbed(path=path, happened=happened))
            case AskHuman():
                self.record(self.answer(command.places[0]))
            case AskValidator():
                self.record(ReviewInconclusive())
            case _:
                raise AssertionError(command)

    def outcome(self, call: Call) -> Event:
        assert self.run is not None
        own, state, declared = self.plan.at(call.path), self.run.step(call.path), CATALOGUE[call.callee].declaration
        if declared.effect == "write" and state.doubts < TRIES and (self.is_worst or self.draw.draw(st.booleans())):
            return StepInDoubt(path=call.path, reason="no answer")
        is_tried_again = role_of(call.path) == "call" and state.failures < own.on_error.retry
        if (self.is_worst and is_tried_again) or self.draw.draw(st.integers(0, 3)) == 0:
            return StepFailed(path=call.path, fault=Fault(code="T-1", error_class="unavailable"))
        given = self.run.step(call.path).arguments
        assert given is not None
        value = self.draw.draw(st.sampled_from(RESULTS))
        return StepSucceeded(path=call.path, value=attest(CATALOGUE[call.callee], given, value, path=call.path))

    def answer(self, path: StepPath) -> Event:
        assert self.run is not None
        by = self.draw.draw(st.sampled_from([PRINCIPAL.name, "somebody"]))
        match self.run.step(path).question:
            case "approve":
                return HumanAnswered(path=path, answer=self.draw.draw(st.sampled_from(["yes", "yes", "no"])), by=by)
            case "failed":
                return HumanAnswered(path=path, answer=self.draw.draw(st.sampled_from(["skip", "fail"])), by=by)
            case _:
                return HumanAnswered(path=path, answer="value", by=by, value=self.draw.draw(st.sampled_from(RESULTS)))


def calls(run: Run) -> Iterator[tuple[StepPath, Step, Role]]:
    """Every place where something was, or was to be, called."""
    assert run.plan is not None
    for path in run.steps:
        yield path, run.plan.at(path), role_of(path)


def certified(plan: Plan) -> Certificate:
    return certify(plan, CATALOGUE, policy=POLICY, principal=PRINCIPAL, rates={})


# laws -------------------------------------------------------------------------------------------------------


@laws
@given(plan=PLANS, data=st.data())
def test_no_argument_and_no_result_is_worth_less_than_was_foreseen(plan: Plan, data: st.DataObject) -> None:
    foreseen = appraise(plan, CATALOGUE)
    arriving = {(call.step, call.role): call.arguments for call in foreseen.calls}
    run = Process(plan, data).drive()
    for path, step, role in calls(run):
        state = run.step(path)
        if state.arguments is not None and isinstance(state.arguments.value, dict):
            for name in state.arguments.value:
                found = state.arguments.at((name,)).overall().integrity
                assert found >= arriving[step.id, role][name].integrity, (path, name)
        if state.value is not None:
            worth = foreseen.results[step.id].part((ITEM,) if split_path(path)[1] is not None else ())
            for leaf, _, label in leaves_of(state.value):
                assert label.integrity >= worth.part(leaf).overall().integrity, (path, leaf)


@laws
@given(plan=PLANS, data=st.data())
def test_whoever_is_asked_and_whatever_steers_a_call_is_in_the_certificate(plan: Plan, data: st.DataObject) -> None:
    certificate = certified(plan)
    gates = {(gate.step, gate.role) for gate in certificate.gates}
    flows = {(flow.step, flow.role, flow.argument) for flow in certificate.flows}
    process = Process(plan, data)
    run = process.drive()
    for event in process.events:
        if isinstance(event, HumanAsked):
            assert (split_path(event.path)[0], role_of(event.path)) in gates
    for path, step, role in calls(run):
        given = run.step(path).arguments or Labelled(value={})
        used = CATALOGUE.get((step if role == "call" else stand_in(step)).use or "")
        written = given.value if isinstance(given.value, dict) else {}
        for name in written.keys() & used.declaration.control.keys() if used is not None else ():
            if given.at((name,)).overall().integrity < Integrity.TRUSTED:
                assert (step.id, role, name) in flows, (path, name)


@laws
@given(plan=PLANS, data=st.data(), is_worst=st.booleans())
def test_no_run_makes_more_calls_than_its_certificate_says(plan: Plan, data: st.DataObject, is_worst: bool) -> None:
    certificate = certified(plan)
    process = Process(plan, data, is_worst)
    run = process.drive()
    assert certificate.calls is not None
    assert run.spent.calls <= certificate.calls
    most = {(change.step, change.role): change.times for change in certificate.effects}
    made = Counter(
        (split_path(event.path)[0], role_of(event.path))
        for event in process.events
        if isinstance(event, StepSucceeded) and run.step(event.path).attempt
    )
    assert all(count <= most[key] for key, count in made.items() if key in most)


@laws
@given(plan=PLANS, data=st.data(), is_worst=st.booleans())
def test_no_run_takes_longer_than_its_certificate_says(plan: Plan, data: st.DataObject, is_worst: bool) -> None:
    certificate = certified(plan)
    process = Process(plan, data, is_worst)
    process.drive()
    assert process.at_s <= certificate.seconds + 1e-6


@laws
@given(plan=PLANS)
def test_a_certificate_survives_its_record(plan: Plan) -> None:
    certificate = certified(plan)
    assert Certificate.model_validate_json(certificate.model_dump_json()) == certificate
