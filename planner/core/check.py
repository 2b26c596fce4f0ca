"""The plan's type checker and its pre-flight certificate.

Rules of the file:
- First repairs (`repair`), then problems. A plan without problems gets a certificate; nothing else may run.
- A problem is written for the model that must mend it: it names the step and lists the valid choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from planner.core.catalog import Callee, Catalogue, Declaration
from planner.core.certificate import Certificate, certify
from planner.core.expr import names, problems
from planner.core.forms import Problem, repeated, well_formed
from planner.core.goal import Named
from planner.core.labels import Integrity, Json
from planner.core.ledger import Rate
from planner.core.plan import GIVEN, MAX_STEPS, Plan, Step, StepId, every_step, reads, stand_in
from planner.core.policy import Policy, Principal, Request, judge
from planner.core.repair import Repair, repaired
from planner.core.revision import in_order, is_same_form

LOOKING = frozenset({"tool", "agent"})
"""The kinds of callees that do nothing if nobody reads what they give."""

__all__ = ["Certificate", "Examined", "Problem", "Terms", "examine"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan is checked against; `kept` and `failed` are steps of earlier revisions that did so.

    `abandoned` is the last plan that did not reach the goal. `is_lenient`: what only speaks against a plan, as a
    number of the goal that it does not use, is advice and no problem. `rates` are the models' prices by callee.
    """

    catalogue: Catalogue
    policy: Policy
    principal: Principal
    goal: str = ""
    found: tuple[Named, ...] = ()
    kept: tuple[Step, ...] = ()
    failed: tuple[Step, ...] = ()
    abandoned: tuple[Step, ...] = ()
    done: frozenset[StepId] = frozenset()
    """The finished steps of the last plan."""
    is_lenient: bool = False
    is_given: bool = False
    """Whether a person wrote the plan: then it is not held against the words of the goal."""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    said: Integrity = Integrity.TRUSTED
    """What the plan's own words are worth."""
    attachments: frozenset[str] = frozenset()
    may_go_on: bool = False
    """Whether the planner may see what the plan's steps give, and go on from there."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A plan as repaired, with its certificate, or else its problems."""

    plan: Plan
    certificate: Certificate | None
    problems: tuple[Problem, ...] = ()


def examine(plan: Plan, terms: Terms) -> Examined:
    """The plan after repairs, with a certificate or with what is wrong with it."""
    mended, repairs = repaired(
        plan, terms.catalogue, goal=terms.goal, found=terms.found, kept=terms.kept, is_given=terms.is_given
    )
    found = tuple(_problems(mended, terms))
    if found:
        return Examined(mended, None, found)
    return Examined(mended, _certificate(mended, terms, repairs))


def _problems(plan: Plan, terms: Terms) -> Iterator[Problem]:
    if not plan.steps and plan.answer is None:
        yield Problem(code="P-105", message="the plan has no steps and no answer")
    if len(plan.index) > MAX_STEPS:
        yield Problem(code="P-103", message=f"the plan has {len(plan.index)} steps, but {MAX_STEPS} are the most")
    known: dict[StepId, str] = {"inputs": "record"} | ({"attachments": "record"} if terms.attachments else {})
    yield from repeated(plan)
    yield from well_formed(plan.steps, known, terms.catalogue)
    for step in every_step(plan.steps):
        yield from _allowed(step, terms)
    frozen = {step.id for step in terms.kept}
    for step in plan.steps:
        if step.id not in frozen and any(is_same_form(old, step) for old in terms.failed):
            yield Problem(
                code="P-124",
                message=f"step `{step.id}` failed in this very form before: do it otherwise",
                step=step.id,
            )
    yield from _undone(plan, terms)
    yield from _answer(plan, known)
    if plan.then == "plan" and not terms.may_go_on:
        yield Problem(code="P-130", message="`then: plan` is for planners that may see data: leave it out")
    if not terms.is_given and plan.then == "done":
        yield from _coverage(plan, terms)
        yield from _unused(plan, terms)
    if terms.abandoned and in_order(plan.steps) == in_order(terms.abandoned):
        yield Problem(code="P-126", message="this plan did not reach the goal before: make a different one")
    if not terms.is_lenient:
        yield from (Problem(code="P-127", message=f"{text}: use it") for text in _advice(plan, terms))


def _allowed(step: Step, terms: Terms) -> Iterator[Problem]:
    """The gate has nothing against what the step calls, or what it falls back to."""
    for called in {step.use or "", stand_in(step).use or ""} & terms.catalogue.keys():
        verdict = judge(terms.policy, Request(terms.principal, terms.catalogue[called]))
        if verdict.then == "deny":
            what = f"step `{step.id}` is not allowed: {verdict.reason}"
            yield Problem(code="P-111", message=what, step=step.id)


def _undone(plan: Plan, terms: Terms) -> Iterator[Problem]:
    """Only what is finished can be taken back."""
    done = tuple(sorted(terms.done))
    for id_ in plan.undo:
        if id_ not in terms.done:
            what = f"`undo` names `{id_}`, which is no finished step; finished are: {', '.join(done) or 'none'}"
            yield Problem(code="P-129", message=what, step=id_, choices=done)


def _answer(plan: Plan, known: dict[StepId, str]) -> Iterator[Problem]:
    for text in problems(plan.answer):
        yield Problem(code="P-109", message=f"the answer: {text}")
    for name in sorted(names(plan.answer)):
        if name not in known:
            steps = tuple(f"${id_}" for id_ in known if id_ not in GIVEN)
            yield Problem(
                code="P-104", message=f"the answer reads `{name}`, but there is no such step", choices=steps
            )


def _coverage(plan: Plan, terms: Terms) -> Iterator[Problem]:
    """What the goal names occurs in the plan: a path as a path, anything else somewhere."""
    places = list(_places(plan, terms.catalogue))
    texts = _texts(plan)
    for item in terms.found:
        is_said = _plain(item.text) in texts
        match item.kind:
            case "path" | "folder" if not (item.is_perhaps_no_file and is_said):
                yield from _covered(item, places)
            case "url" | "email" | "quote" if not is_said:
                yield Problem(code="P-120", message=f"the goal names `{item.text}`, but no argument contains it")
            case _:
                continue


def _covered(item: Named, places: list[tuple[Step, Callee, str]]) -> Iterator[Problem]:
    using = [(step, callee) for step, callee, text in places if _same_place(item.text, text)]
    if item.is_absent_source and any(not c.is_reading for _, c in using) and not using[0][1].is_reading:
        yield Problem(
            code="P-121",
            message=f"`{item.text}` does not exist and the goal reads it: it must not be made up",
            step=using[0][0].id,
        )
    elif not using and item.kind == "path":
        role = "write it" if item.is_written else "read it"
        yield Problem(code="P-120", message=f"the goal names the file `{item.text}`, but no step uses it: {role}")
    elif not using and item.found == "folder":
        yield Problem(code="P-120", message=f"the goal names the folder `{item.text}`, but no step uses it")
    elif item.is_written and all(callee.is_reading for _, callee in using):
        yield Problem(code="P-122", message=f"no step writes `{item.text}`, which the goal asks for")


_LET = Callee(name="let", summary="a computed value", declaration=Declaration(effect="pure"))


def _places(plan: Plan, catalogue: Catalogue) -> Iterator[tuple[Step, Callee, str]]:
    """Every constant that stands where a callee takes a path or folder, itself or by way of a `let` or `for_each`."""
    constants: dict[str, frozenset[str]] = {}
    for step in plan.steps:
        callee = catalogue.get(step.use or "")
        local = {**constants, step.as_: _reached(step.for_each, constants)} if step.is_map else constants
        constants[step.id] = _reached(step.let, local)
        for text in _strings([step.let, step.for_each]):
            yield step, _LET, text
        for parameter in callee.parameters if callee else ():
            if callee and parameter.type in {"path", "folder", "list[path]"}:
                value = step.args.get(parameter.name, parameter.default)
                yield from ((step, callee, text) for text in _reached(value, local))


def _reached(value: Json, constants: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The constants in a value, and those that its names stand for."""
    return frozenset(_strings([value])).union(*(constants.get(name, ()) for name in names(value)))


def _texts(plan: Plan) -> str:
    """Everything that the plan says."""
    said = [[dict(step.args), step.if_, step.let, step.for_each] for step in plan.steps]
    return _plain(" ".join(_strings([*said, plan.answer, dict(plan.inputs)])))


def _strings(values: Iterable[Json]) -> Iterator[str]:
    for value in values:
        match value:
            case str():
                yield value
            case int() | float() if not isinstance(value, bool):
                yield str(value)
            case list():
                yield from _strings(value)
            case dict():
                yield from _strings(value.values())
            case _:
                continue


def _same_place(named: str, written: str) -> bool:
    a, b = (re.sub(r"^\./|/+$", "", text.strip().casefold()) for text in (named, written))
    return a == b or b.startswith(f"{a}/") or b.endswith(f"/{a}")


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).casefold()


def _unused(plan: Plan, terms: Terms) -> Iterator[Problem]:
    """A step that only looks, and whose value nobody reads, is a mistake: what reads it was forgotten."""
    read = set(names(plan.answer)).union(*(reads(step) | set(step.after) for step in plan.steps))
    last = plan.steps[-1].id if plan.steps and plan.answer is None else None
    kept = {step.id for step in terms.kept}
    for step in plan.steps:
        callee = terms.catalogue.get(step.use or "")
        only_looks = step.let is not None or (callee is not None and callee.is_reading and callee.kind in LOOKING)
        if only_looks and step.id not in read | kept and step.id != last:
            yield Problem(
                code="P-123",
                message=f"nothing uses the result of step `{step.id}`: a later step must use `${step.id}`",
                step=step.id,
            )


def _certificate(plan: Plan, terms: Terms, repairs: tuple[Repair, ...]) -> Certificate:
    return certify(
        plan,
        terms.catalogue,
        policy=terms.policy,
        principal=terms.principal,
        rates=terms.rates,
        said=terms.said,
        repairs=repairs,
        advice=tuple(_advice(plan, terms)),
    )


def _advice(plan: Plan, terms: Terms) -> Iterator[str]:
    """What speaks against the plan without proving it wrong."""
    texts = _texts(plan)
    for item in terms.found:
        if item.kind == "number" and item.text not in texts and item.text.replace(",", "") not in texts:
            yield f"the goal's number {item.text} occurs in no argument"
