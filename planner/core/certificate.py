"""The certificate of a plan: what it will do, who will be asked, what may steer it, and what it takes at most.

Rules of the file:
- It is for people and for programs: every fact has a field, every number its unit in its name.
- It says what may happen, worst case: a run does no more than that, and often less.
- A record of it holds only what is not as usual, for it stands in the journal beside the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, SerializerFunctionWrapHandler, model_serializer

from planner.core.catalog import Catalogue, Effect
from planner.core.egress import LEAST
from planner.core.expr import expression_names, names
from planner.core.forecast import SAID, Asked, forecast
from planner.core.labels import Frozen, Integrity, Json
from planner.core.ledger import Rate
from planner.core.plan import Plan, Role, Step, StepId, every_step
from planner.core.policy import Mode, Policy, Principal, Request, judge
from planner.core.reach import Planned, known, planned
from planner.core.repair import Repair
from planner.core.worth import Appraisal, Appraised, Worth, appraise

MAX_FLOWS = 500
"""Flows that a certificate lists, the worst first: more than anybody reads, few enough for the journal."""
EXCERPT = 200
"""The most characters of a controlling argument: the plan, which stands beside it, has all of them."""


def _read(given: object) -> object:
    return Integrity[given.upper()] if isinstance(given, str) and given.upper() in Integrity.__members__ else given


Word = Annotated[Integrity, BeforeValidator(_read), PlainSerializer(lambda integrity: integrity.name.lower())]
"""An integrity that is written as a word: `untrusted`, `bounded`, `trusted`."""


class Brief(Frozen):
    """A value whose record leaves out what is as usual."""

    @model_serializer(mode="wrap")
    def _brief(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = type(self).model_fields
        told: dict[str, Any] = dump(self)
        is_default = {n: getattr(self, n) == usual[n].get_default(call_default_factory=True) for n in told}
        return {name: value for name, value in told.items() if not is_default[name]}


class Change(Brief):
    """A call that does more than look."""

    step: StepId
    callee: str
    role: Role = "call"
    effect: Effect
    control: Mapping[str, Json] = Field(default_factory=dict)
    """The arguments that decide what is done and who gets it, as the plan writes them; long ones are cut."""
    times: int = 1
    """How often at most, retries left out: a call that failed had no effect."""
    reversible: bool = False
    undo: str = ""
    """How it is taken back, as the tool calls it; empty although it is reversible: by other means than a run's."""


class Gate(Brief):
    """A call before or after which a person is asked."""

    step: StepId
    callee: str
    role: Role = "call"
    rules: tuple[str, ...]
    """Rules of the policy; `control:<argument>`; `question` where the plan itself asks; `on_error`."""
    reason: str
    is_certain: bool = True
    """False: it depends on what a run finds whether anybody is asked."""


class Flow(Brief):
    """A way from a step whose result is not trusted to an argument that decides what is done, or who gets it."""

    source: StepId
    source_callee: str
    via: tuple[StepId, ...] = ()
    """The steps between, in the order of the plan."""
    step: StepId
    callee: str
    role: Role = "call"
    argument: str
    integrity: Word
    """What the argument is worth at least when it arrives."""
    least: Word
    """What it must be worth for the call to be made unasked."""
    is_recipient: bool = False
    """Whether it decides who gets what the call carries."""
    is_choice: bool = False
    """Whether the source only decided that, or how often, the step runs."""

    @property
    def is_too_low(self) -> bool:
        """Whether the argument may be worth less than it must."""
        return self.integrity < self.least


Power: TypeAlias = Literal["untrusted input", "sensitive data", "state change or egress"]
RULE_OF_TWO = (
    "the plan combines untrusted input, sensitive data, and a state change or egress: "
    "what it reads may have it give away what it knows"
)


class Certificate(Brief):
    """What a checked plan will do; its numbers are what it takes at most, None is unknown."""

    effects: tuple[Change, ...] = ()
    takes_back: tuple[StepId, ...] = ()
    """Steps of the plan before it whose effects are taken back first."""
    gates: tuple[Gate, ...] = ()
    flows: tuple[Flow, ...] = ()
    """The worst first."""
    flows_left_out: int = 0
    calls: int | None = 0
    tokens: int | None = 0
    """Where data that is not known before the run is read, it is taken for `forecast.DATA_TOKENS` a call."""
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    """Along `critical_path`; without what `waits` names."""
    critical_path: tuple[StepId, ...] = ()
    waits: tuple[StepId, ...] = ()
    """Steps whose end nobody can bound: they wait for people, for events, or for runs without a limit."""
    no_path: tuple[StepId, ...] = ()
    """Steps that may fail, and then the plan with them."""
    rule_of_two: tuple[Power, ...] = ()
    """What the plan combines; all three are more than data of outsiders should meet."""
    mode: Mode = "sealed"
    """What planners may see of data, by the policy."""
    repairs: tuple[Repair, ...] = ()
    advice: tuple[str, ...] = ()


def certify(
    plan: Plan,
    catalogue: Catalogue,
    *,
    policy: Policy,
    principal: Principal,
    rates: Mapping[str, Rate],
    said: Integrity = Integrity.TRUSTED,
    repairs: tuple[Repair, ...] = (),
    advice: tuple[str, ...] = (),
) -> Certificate:
    """The certificate of a plan without problems; `rates` are prices by callee, `said` what its words are worth."""
    calls = tuple(planned(plan.steps, catalogue))
    appraisal = appraise(plan, catalogue, said=said)
    approvals = tuple(_approvals(appraisal, policy, principal))
    flows, left_out = _flows(plan, appraisal)
    worst = forecast(plan, catalogue, rates=rates, asked=_asked(approvals))
    powers = tuple(_powers(calls, appraisal))
    return Certificate(
        effects=tuple(_change(call) for call in calls if not call.callee.is_reading),
        takes_back=plan.undo,
        gates=(*approvals, *_on_error(calls)),
        flows=flows,
        flows_left_out=left_out,
        calls=worst.use.calls,
        tokens=worst.use.tokens,
        cost_usd=None if worst.use.cost_usd is None else round(worst.use.cost_usd, 6),
        seconds=worst.seconds,
        critical_path=worst.critical_path,
        waits=worst.waits,
        no_path=tuple(_no_path(plan.steps, catalogue)),
        rule_of_two=powers,
        mode=policy.mode,
        repairs=repairs,
        advice=(*advice, RULE_OF_TWO) if len(powers) == 3 else advice,
    )


# effects ----------------------------------------------------------------------------------------------------


def _change(call: Planned) -> Change:
    declared = call.callee.declaration
    deciding = {*declared.control, *declared.recipients}
    return Change(
        step=call.step.id,
        callee=call.callee.name,
        role=call.role,
        effect=declared.effect,
        control={name: _excerpt(value) for name, value in call.args.items() if name in deciding},
        times=call.times,
        reversible=declared.reversible or declared.undo is not None,
        undo=declared.undo or "",
    )


def _excerpt(value: Json) -> Json:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"


# gates ------------------------------------------------------------------------------------------------------


def _approvals(appraisal: Appraisal, policy: Policy, principal: Principal) -> Iterator[Gate]:
    """The questions before a call: by a rule, for what steers it, or because the plan asks."""
    for call in appraisal.calls:
        verdict = judge(policy, Request(principal, call.callee))
        low = [name for name, worth, least in _controlled(call) if worth.integrity < least]
        if call.callee.kind in {"human", "gate"}:
            what = "the plan wants an approval" if call.callee.kind == "gate" else "the plan asks a person"
            yield _gate(call, ("question",), what)
        elif call.callee.kind == "wait":
            continue
        elif verdict.then == "ask":
            yield _gate(call, verdict.rules, verdict.reason)
        elif low:
            named = " and ".join(f"`{name}`" for name in low)
            reason = f"{named} of `{call.callee.name}` may come from data that an outsider wrote or picked"
            yield _gate(call, tuple(_rule(call, name) for name in low), reason, is_certain=False)
        elif _may_leak(call, appraisal):
            reason = f"`{call.callee.name}` may carry what not everybody may read"
            yield _gate(call, ("egress",), reason, is_certain=False)


def _rule(call: Appraised, argument: str) -> str:
    return f"{'recipient' if _is_recipient(call, argument) else 'control'}:{argument}"


def _may_leak(call: Appraised, appraisal: Appraisal) -> bool:
    """Whether others may get what it carries, and a step of the plan gives what only some may read."""
    declared = call.callee.declaration
    declarations = [one.callee.declaration for one in appraisal.calls]
    is_private = any(one.readers is not None or one.readers_from for one in declarations)
    return is_private and bool(declared.recipients or declared.public_sink)


def _gate(call: Appraised, rules: tuple[str, ...], reason: str, *, is_certain: bool = True) -> Gate:
    return Gate(
        step=call.step, callee=call.callee.name, role=call.role, rules=rules, reason=reason, is_certain=is_certain
    )


def _asked(approvals: Iterable[Gate]) -> Asked:
    return {(gate.step, gate.role) for gate in approvals if gate.rules != ("question",)}


def _on_error(calls: Iterable[Planned]) -> Iterator[Gate]:
    """The questions what to do about a call that failed."""
    for call in calls:
        if call.step.on_error.then == "ask":
            yield Gate(
                step=call.step.id,
                callee=call.callee.name,
                rules=("on_error",),
                reason=f"if `{call.callee.name}` fails, a person says what to do",
                is_certain=False,
            )


# flows ------------------------------------------------------------------------------------------------------


def _controlled(call: Appraised) -> Iterator[tuple[str, Worth, Integrity]]:
    """The arguments that decide what is done or who gets it: what they are worth, and must be worth."""
    declared = call.callee.declaration
    for name, worth in call.arguments.items():
        if name in declared.control or name in declared.recipients:
            yield name, worth, declared.control.get(name, LEAST)


def _flows(plan: Plan, appraisal: Appraisal) -> tuple[tuple[Flow, ...], int]:
    """The flows to list, and how many more there are."""
    places = {step.id: place for place, step in enumerate(every_step(plan.steps))}
    found = [
        (call, name, worth, least, source)
        for call in appraisal.calls
        for name, worth, least in _controlled(call)
        for source in sorted(worth.reached & appraisal.sources.keys(), key=places.__getitem__)
    ]
    found.sort(key=lambda flow: (flow[2].integrity >= flow[3], not _is_recipient(flow[0], flow[1])))
    reached = {id_: result.overall().reached for id_, result in appraisal.results.items()}
    flows = tuple(
        Flow(
            source=source,
            source_callee=appraisal.sources[source].name,
            via=tuple(
                sorted((id_ for id_ in worth.reached - {source} if source in reached[id_]), key=places.__getitem__)
            ),
            step=call.step,
            callee=call.callee.name,
            role=call.role,
            argument=name,
            integrity=worth.integrity,
            least=least,
            is_recipient=_is_recipient(call, name),
            is_choice=source not in worth.steps,
        )
        for call, name, worth, least, source in found[:MAX_FLOWS]
    )
    return flows, len(found) - len(flows)


def _is_recipient(call: Appraised, argument: str) -> bool:
    return argument in call.callee.declaration.recipients


# the rest ---------------------------------------------------------------------------------------------------


def _powers(calls: Iterable[Planned], appraisal: Appraisal) -> Iterator[Power]:
    declared = [call.callee.declaration for call in calls]
    said = {id_ for id_, callee in appraisal.sources.items() if callee.kind in {"human", "gate"}}
    brought = (appraisal.results[id_].overall().integrity for id_ in appraisal.sources.keys() - said)
    if Integrity.UNTRUSTED in brought:
        yield "untrusted input"
    if any(d.readers is not None or d.readers_from or d.secrets for d in declared):
        yield "sensitive data"
    if any(d.effect not in {"pure", "read"} or d.public_sink or d.recipients for d in declared):
        yield "state change or egress"


def _no_path(steps: tuple[Step, ...], catalogue: Catalogue, *, is_caught: bool = False) -> Iterator[StepId]:
    """The steps whose failure nothing catches, neither their own `on_error` nor that of a block around them."""
    for step in steps:
        is_own = is_caught or _catches(step, catalogue)
        if not is_own and _may_fail(step):
            yield step.id
        yield from _no_path(step.inner, catalogue, is_caught=is_own)


def _catches(step: Step, catalogue: Catalogue) -> bool:
    """Whether there is a way on when it fails for good; only what is performed is asked about."""
    is_performed = step.use is not None and known(catalogue, step.use).kind not in SAID
    if is_performed and step.on_error.then == "ask":
        return True
    return step.on_error.then in {"skip", "fallback"} or (step.is_map and step.on_item_error == "drop")


def _may_fail(step: Step) -> bool:
    """Whether it calls something, or computes with what a run finds."""
    condition = expression_names(step.if_) if step.if_ is not None else frozenset()
    return step.use is not None or bool(condition | names([step.let, step.for_each, step.answer]))
