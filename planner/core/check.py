"""The plan's type checker and its pre-flight certificate.

Rules of the file:
- First repairs (`repair`), then problems. A plan without problems gets a certificate; nothing else may run.
- A problem is written for the model that must mend it: it names the step and lists the valid choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from planner.core import kinds
from planner.core.catalog import Callee, Catalogue, Declaration, Parameter, item_type
from planner.core.expr import expression_problems, names, problems
from planner.core.goal import Named
from planner.core.labels import Frozen, Json
from planner.core.plan import MAX_STEPS, Plan, Step, StepId, reads
from planner.core.policy import Policy, Principal, judge
from planner.core.repair import Repair, repaired
from planner.core.revision import in_order, is_same_form


class Problem(Frozen):
    """One thing that is wrong with a plan, written so that a model can act on it."""

    code: str
    message: str
    step: StepId | None = None
    choices: tuple[str, ...] = ()


class Certificate(Frozen):
    """What a checked plan will do."""

    effects: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan is checked against; `kept` and `failed` are steps of earlier revisions that did so.

    `abandoned` is the last plan that did not reach the goal. `is_lenient`: what only speaks against a plan, as a
    number of the goal that it does not use, is advice and no problem.
    """

    catalogue: Catalogue
    policy: Policy
    principal: Principal
    goal: str = ""
    found: tuple[Named, ...] = ()
    kept: tuple[Step, ...] = ()
    failed: tuple[Step, ...] = ()
    abandoned: tuple[Step, ...] = ()
    is_lenient: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """A plan as repaired, with its certificate, or else its problems."""

    plan: Plan
    certificate: Certificate | None
    problems: tuple[Problem, ...] = ()


def examine(plan: Plan, terms: Terms) -> Examined:
    """The plan after repairs, with a certificate or with what is wrong with it."""
    mended, repairs = repaired(plan, terms.catalogue, goal=terms.goal, found=terms.found, kept=terms.kept)
    found = tuple(_problems(mended, terms))
    if found:
        return Examined(mended, None, found)
    return Examined(mended, _certificate(mended, terms, repairs))


def _problems(plan: Plan, terms: Terms) -> Iterator[Problem]:
    if not plan.steps and plan.answer is None:
        yield Problem(code="P-105", message="the plan has no steps and no answer")
    if len(plan.steps) > MAX_STEPS:
        yield Problem(code="P-103", message=f"the plan has {len(plan.steps)} steps, but {MAX_STEPS} are the most")
    known: dict[StepId, str] = {"inputs": "record"}
    frozen = {step.id for step in terms.kept}
    for step in plan.steps:
        if step.id in known:
            yield Problem(code="P-106", message=f"two steps are called `{step.id}`", step=step.id)
        shaped = list(_shape(step, terms.catalogue))
        yield from shaped
        yield from _reads(step, known)
        if not shaped:
            yield from _types(step, terms, known)
        if step.id not in frozen and any(is_same_form(old, step) for old in terms.failed):
            yield Problem(
                code="P-124",
                message=f"step `{step.id}` failed in this very form before: do it otherwise",
                step=step.id,
            )
        known[step.id] = kinds.step_type(step, terms.catalogue, known)
    yield from _answer(plan, known)
    yield from _coverage(plan, terms)
    yield from _unused(plan, terms)
    if terms.abandoned and in_order(plan.steps) == in_order(terms.abandoned):
        yield Problem(code="P-126", message="this plan did not reach the goal before: make a different one")
    if not terms.is_lenient:
        yield from (Problem(code="P-127", message=f"{text}: use it") for text in _advice(plan, terms))


def _shape(step: Step, catalogue: Catalogue) -> Iterator[Problem]:
    """A step is either a call of a known callee or a `let`."""
    if (step.use is None) == (step.let is None):
        yield Problem(code="P-107", message=f"step `{step.id}` needs either `use` or `let`, not both", step=step.id)
    elif step.use is not None and step.use not in catalogue:
        near = _near(step.use, catalogue)
        yield Problem(
            code="P-108",
            message=f"step `{step.id}` uses `{step.use}`, which does not exist; use one of: {', '.join(near)}",
            step=step.id,
            choices=near,
        )


def _near(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    """Up to eight callees, those sharing letters-only parts with the wrong name first."""
    parts = set(re.findall(r"[a-z]+", name.lower()))
    ranked = sorted(catalogue, key=lambda c: -len(parts & set(re.findall(r"[a-z]+", c))))
    return tuple(ranked[:8])


def _reads(step: Step, known: dict[StepId, str]) -> Iterator[Problem]:
    """Every name read stands before the step, and every template can be parsed."""
    broken = [*problems(dict(step.args)), *problems(step.let), *problems(step.for_each)]
    if step.if_ is not None:
        broken += expression_problems(step.if_)
    for text in broken:
        yield Problem(code="P-109", message=f"step `{step.id}`: {text}", step=step.id)
    for name in sorted(reads(step) | set(step.after)):
        if name not in known:
            earlier = tuple(f"${id_}" for id_ in known if id_ != "inputs")
            valid = f"only {', '.join(earlier)} come before it" if earlier else "no step comes before it"
            yield Problem(
                code="P-104",
                message=f"step `{step.id}` reads `{name}`, but {valid}",
                step=step.id,
                choices=earlier,
            )


def _types(step: Step, terms: Terms, known: dict[StepId, str]) -> Iterator[Problem]:
    if step.use is None:
        return
    callee = terms.catalogue[step.use]
    local = dict(known)
    if step.is_map:
        listed = kinds.value_type(step.for_each, known)
        local[step.as_] = item_type(listed) or "any"
        local[f"{step.as_}_i"] = "integer"
        if listed in {"number", "integer", "boolean", "record"}:
            yield Problem(
                code="P-110",
                message=f"`for_each` of step `{step.id}` needs a list, but `{step.for_each}` is a {listed}",
                step=step.id,
            )
    yield from _arguments(step, callee, local)
    verdict = judge(terms.policy, terms.principal, callee, None)
    if verdict.then == "deny":
        yield Problem(code="P-111", message=f"step `{step.id}` is not allowed: {verdict.reason}", step=step.id)


def _arguments(step: Step, callee: Callee, known: dict[StepId, str]) -> Iterator[Problem]:
    valid = tuple(p.name for p in callee.parameters)
    for name in step.args:
        if callee.parameter(name) is None:
            yield Problem(
                code="P-112",
                message=f"step `{step.id}`: `{callee.name}` has no argument `{name}`; it has {', '.join(valid)}",
                step=step.id,
                choices=valid,
            )
    for parameter in callee.parameters:
        if parameter.name in step.args:
            is_left_out = step.args[parameter.name] is None and not parameter.required
            yield from () if is_left_out else _argument(step, callee, parameter, known)
        elif parameter.required:
            yield Problem(
                code="P-113",
                message=f"step `{step.id}`: `{callee.name}` needs the argument `{parameter.name}`",
                step=step.id,
            )


def _argument(step: Step, callee: Callee, parameter: Parameter, known: dict[StepId, str]) -> Iterator[Problem]:
    value = step.args[parameter.name]
    given = kinds.value_type(value, known)
    is_constant = not names(value)
    if parameter.choices and is_constant and value not in parameter.choices:
        yield Problem(
            code="P-114",
            message=f"step `{step.id}`: `{parameter.name}` must be one of {', '.join(parameter.choices)}",
            step=step.id,
            choices=parameter.choices,
        )
    elif is_constant and isinstance(value, str) and not _reads_as(value, parameter.type):
        yield Problem(
            code="P-115",
            message=f"step `{step.id}`: `{parameter.name}` must be a {parameter.type}, not the text `{value:.40}`",
            step=step.id,
        )
    elif parameter.type == "expression" and not is_constant and isinstance(value, str) and "$" in value:
        yield Problem(
            code="P-116",
            message=f"step `{step.id}`: write data into an expression as `${{...}}` in another argument or `let`",
            step=step.id,
        )
    elif kinds.fit(parameter.type, given, callee) in {"no", "each"}:
        wanted = f"`{parameter.name}` must be a {parameter.type}"
        yield Problem(
            code="P-117", message=f"step `{step.id}`: {wanted}, but `{value!s:.80}` is a {given}", step=step.id
        )


def _reads_as(text: str, type_: str) -> bool:
    """Whether a constant text can be that type at all."""
    match type_:
        case "number" | "integer":
            return bool(re.search(r"\d", text))
        case "boolean":
            return text.strip().lower() in {"true", "false", "yes", "no"}
        case "path" | "folder" | "url":
            return bool(text.strip()) and "\n" not in text
        case _:
            return True


def _answer(plan: Plan, known: dict[StepId, str]) -> Iterator[Problem]:
    for text in problems(plan.answer):
        yield Problem(code="P-109", message=f"the answer: {text}")
    for name in sorted(names(plan.answer)):
        if name not in known:
            steps = tuple(f"${id_}" for id_ in known if id_ != "inputs")
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
    return _plain(" ".join(_strings([*said, plan.answer])))


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
        only_looks = step.use is None or (callee is not None and callee.is_reading)
        if only_looks and step.id not in read | kept and step.id != last:
            yield Problem(
                code="P-123",
                message=f"nothing uses the result of step `{step.id}`: a later step must use `${step.id}`",
                step=step.id,
            )


def _certificate(plan: Plan, terms: Terms, repairs: tuple[Repair, ...]) -> Certificate:
    effects: list[str] = []
    gates: list[str] = []
    for step in plan.steps:
        callee = terms.catalogue.get(step.use or "")
        if callee is None:
            continue
        if not callee.is_reading:
            shown = ", ".join(f"{k}={v!s:.40}" for k, v in step.args.items() if k in callee.declaration.control)
            times = " for each item" if step.is_map else ""
            effects.append(f"{step.id}: {callee.declaration.effect} {callee.name}({shown}){times}")
        if judge(terms.policy, terms.principal, callee, None).then == "ask":
            gates.append(f"{step.id}: {callee.name} needs approval")
    advice = tuple(_advice(plan, terms))
    return Certificate(effects=tuple(effects), gates=tuple(gates), repairs=repairs, advice=advice)


def _advice(plan: Plan, terms: Terms) -> Iterator[str]:
    """What speaks against the plan without proving it wrong."""
    texts = _texts(plan)
    for item in terms.found:
        if item.kind == "number" and item.text not in texts and item.text.replace(",", "") not in texts:
            yield f"the goal's number {item.text} occurs in no argument"
