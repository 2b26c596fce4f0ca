"""Whether the steps of a plan are well formed: what each is, what it can see, and whether its arguments fit.

Rules of the file:
- A step sees what stands before it, in its own block and in those around it, and the items of the maps around it.
- A problem is written for the model that must mend it: it names the step and lists the valid choices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from planner.core import kinds
from planner.core.catalog import Callee, Catalogue, Parameter
from planner.core.expr import expression_problems, names, problems
from planner.core.labels import Frozen
from planner.core.plan import GIVEN, MAX_DEPTH, Plan, Step, StepId, every_step, opening, own_names, stand_in


class Problem(Frozen):
    """One thing that is wrong with a plan, written so that a model can act on it."""

    code: str
    message: str
    step: StepId | None = None
    choices: tuple[str, ...] = ()


def repeated(plan: Plan) -> Iterator[Problem]:
    """An id names one step of the whole plan."""
    for id_, times in Counter(step.id for step in every_step(plan.steps)).items():
        if times > 1 or id_ in GIVEN:
            yield Problem(code="P-106", message=f"two steps are called `{id_}`", step=id_)


def well_formed(
    steps: tuple[Step, ...], known: dict[StepId, str], catalogue: Catalogue, depth: int = 0
) -> Iterator[Problem]:
    """What is wrong with steps that can see the names in `known`; the types of their values are added to it."""
    for step in steps:
        shaped = list(_shape(step, catalogue, depth))
        yield from shaped
        yield from _reads(step, known)
        if not shaped:
            yield from _mapped(step, known)
            yield from _calls(step, kinds.inside(step, known), catalogue)
            yield from _held(step, kinds.inside(step, known), catalogue, depth)
        known[step.id] = kinds.step_type(step, catalogue, known)


def _shape(step: Step, catalogue: Catalogue, depth: int) -> Iterator[Problem]:
    """A step is a call of a known callee, a `let`, or a block."""
    if [step.use is not None, step.let is not None, step.is_block].count(True) != 1:
        what = f"step `{step.id}` needs one of `use`, `let` and `do`, and only one"
        yield Problem(code="P-107", message=what, step=step.id)
        return
    for name in {step.use, stand_in(step).use}:
        if name is not None and name not in catalogue:
            near = _near(name, catalogue)
            yield Problem(
                code="P-108",
                message=f"step `{step.id}` uses `{name}`, which does not exist; use one of: {', '.join(near)}",
                step=step.id,
                choices=near,
            )
    yield from _block(step, depth)


def _block(step: Step, depth: int) -> Iterator[Problem]:
    """What only a block may have, and what it may not."""
    wrong = [
        (step.else_ and not step.is_block, "`else` belongs to a block: it needs `do`"),
        (step.else_ and step.if_ is None, "`else` needs an `if`"),
        (step.answer is not None and not step.is_block, "`answer` belongs to a block: it needs `do`"),
        (step.is_block and step.args, "a block has no `args`; its steps have"),
        (step.is_block and step.on_error.retry, "a block is not retried as a whole; its steps may be"),
        (step.is_block and step.on_error.then == "ask", "a block asks nobody as a whole; its steps may"),
        (step.is_block and step.timeout_s is not None, "a block has no `timeout_s`; its steps may have one"),
        (step.let is not None and step.on_error.fallback, "a `let` has nothing to fall back to; use `??`"),
        (step.is_block and depth >= MAX_DEPTH, f"blocks stand at most {MAX_DEPTH} deep"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            yield Problem(code="P-128", message=f"step `{step.id}`: {what}", step=step.id)


def _near(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    """Up to eight callees, those sharing letters-only parts with the wrong name first."""
    parts = set(re.findall(r"[a-z]+", name.lower()))
    ranked = sorted(catalogue, key=lambda c: -len(parts & set(re.findall(r"[a-z]+", c))))
    return tuple(ranked[:8])


def _reads(step: Step, known: dict[StepId, str]) -> Iterator[Problem]:
    """Every name read stands before the step, and every template can be parsed."""
    fallback = step.on_error.fallback
    broken = [*problems(dict(step.args)), *problems(step.let), *problems(step.for_each)]
    broken += problems(dict(fallback.args or {})) if fallback is not None else []
    if step.if_ is not None:
        broken += expression_problems(step.if_)
    for text in broken:
        yield Problem(code="P-109", message=f"step `{step.id}`: {text}", step=step.id)
    wanted = opening(step) | (opening(stand_in(step)) - own_names(step)) | set(step.after)
    yield from _unknown(f"step `{step.id}`", wanted, known, step.id)


def _unknown(who: str, wanted: frozenset[str], known: dict[StepId, str], id_: StepId) -> Iterator[Problem]:
    earlier = tuple(f"${name}" for name in known if name not in GIVEN)
    valid = f"only {', '.join(earlier)} come before it" if earlier else "no step comes before it"
    for name in sorted(wanted - known.keys()):
        yield Problem(code="P-104", message=f"{who} reads `{name}`, but {valid}", step=id_, choices=earlier)


def _mapped(step: Step, known: dict[StepId, str]) -> Iterator[Problem]:
    """A map has a list to go over."""
    listed = kinds.value_type(step.for_each, known) if step.is_map else ""
    if listed in {"number", "integer", "boolean", "record"}:
        yield Problem(
            code="P-110",
            message=f"`for_each` of step `{step.id}` needs a list, but `{step.for_each}` is a {listed}",
            step=step.id,
        )


def _calls(step: Step, local: dict[StepId, str], catalogue: Catalogue) -> Iterator[Problem]:
    """The arguments of the call, and of the one in its place."""
    called = [step] if step.use is not None else []
    other = stand_in(step)
    if other is not step:
        called.append(other)
    for one in called:
        yield from _arguments(one, catalogue[one.use or ""], local)


def _held(step: Step, local: dict[StepId, str], catalogue: Catalogue, depth: int) -> Iterator[Problem]:
    """The steps of a block, each branch for itself, and its answer."""
    if not step.is_block:
        return
    seen: dict[StepId, str] = {}
    for branch in (step.do, step.else_):
        within = dict(local)
        yield from well_formed(branch, within, catalogue, depth + 1)
        seen |= within
    for text in problems(step.answer):
        yield Problem(code="P-109", message=f"the answer of step `{step.id}`: {text}", step=step.id)
    yield from _unknown(f"the answer of step `{step.id}`", names(step.answer), seen, step.id)


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
