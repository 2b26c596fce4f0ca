"""A plan and its certificate as people see them: a Mermaid flowchart, and short lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from planner.core.certificate import Certificate, Change, Flow, Gate
from planner.core.expr import expression_names, names
from planner.core.labels import Json
from planner.core.plan import GIVEN, Plan, Step, StepId, every_step, own_names, reads
from planner.core.policy import Mode

# flowchart --------------------------------------------------------------------------------------------------

MAX_LABEL = 60
"""Characters of a condition or a list in a label."""
STYLES = (
    "classDef effect stroke:#b91c1c,stroke-width:3px",
    "classDef gate stroke:#1d4ed8,stroke-dasharray:6 3",
    "classDef both stroke:#b91c1c,stroke-width:3px,stroke-dasharray:6 3",
)
_PLAIN = frozenset(" _.,=/-")


def mermaid(plan: Plan, certificate: Certificate | None = None) -> str:
    """The plan as a Mermaid flowchart; with its certificate, effects and questions to people are marked.

    Solid arrows are data, dotted ones `after`. Nothing that a plan says can end a label: all but letters, digits and
    a few harmless signs are written as codes.
    """
    told = certificate or Certificate()
    read = names(plan.answer).union(*map(reads, plan.steps))
    given = [name for name in sorted(GIVEN) if name in read or (name == "inputs" and plan.inputs)]
    effects = {change.step for change in told.effects}
    asked = {gate.step for gate in told.gates}
    asked |= {s.id for s in every_step(plan.steps) if s.use is not None and s.use.startswith(("gate.", "human."))}
    lines = ["flowchart TD", *(f"  {style}" for style in STYLES)]
    lines += _nodes(plan.steps, {id_: _class(id_ in effects, id_ in asked) for id_ in effects | asked}, "  ")
    lines += [f'  {name}(["{name}"])' for name in given]
    lines += ['  answer(["answer"])'] if plan.answer is not None else []
    visible = frozenset(step.id for step in plan.steps) | set(given)
    lines += _edges(plan.steps, visible)
    lines += [f"  {_node(name)} --> answer" for name in sorted(names(plan.answer) & visible)]
    return "\n".join(lines) + "\n"


def _class(is_effect: bool, is_asked: bool) -> str:  # noqa: FBT001 - reads as a sentence
    return "both" if is_effect and is_asked else "effect" if is_effect else "gate"


def _node(name: str) -> str:
    """The name of a node; a step may be called `end`, which Mermaid keeps for itself."""
    return name if name in GIVEN else f"n_{name}"


def _nodes(steps: tuple[Step, ...], classes: Mapping[StepId, str], indent: str) -> Iterator[str]:
    for step in steps:
        if not step.is_block:
            mark = f":::{classes[step.id]}" if step.id in classes else ""
            yield f"{indent}{_node(step.id)}[{_label(step)}]{mark}"
            continue
        yield f"{indent}subgraph {_node(step.id)}[{_label(step)}]"
        for branch, held in (("then", step.do), ("else", step.else_)):
            if step.else_:
                yield f'{indent}  subgraph {branch}_{step.id}["{branch}"]'
                yield from _nodes(held, classes, f"{indent}    ")
                yield f"{indent}  end"
            elif held:
                yield from _nodes(held, classes, f"{indent}  ")
        yield f"{indent}end"


def _label(step: Step) -> str:
    """`s4 stock.book for each $s2.items if s2.total > 0`, in quotes."""
    words = [step.id, "" if step.is_block else step.use or "let"]
    if step.is_map:
        words.append(f"for each {_cut(_written(step.for_each))}")
    if step.if_ is not None:
        words.append(f"if {_cut(step.if_)}")
    return f'"{_quoted(" ".join(word for word in words if word))}"'


def _written(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"


def _quoted(text: str) -> str:
    """The text in a form that a quoted label of Mermaid can hold; what cannot be seen is a question mark."""
    one = " ".join(text.split())
    return "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" if c.isprintable() else "?" for c in one)


def _edges(steps: tuple[Step, ...], visible: frozenset[str]) -> Iterator[str]:
    """Arrows from what a step reads, and from what it waits for, as far as there are nodes of that name."""
    for step in steps:
        own = own_names(step)
        for name in sorted(_reads(step) & visible):
            yield f"  {_node(name)} --> {_node(step.id)}"
        for name in sorted(frozenset(step.after) & visible - _reads(step)):
            yield f"  {_node(name)} -.-> {_node(step.id)}"
        for branch in (step.do, step.else_):
            yield from _edges(branch, (visible - own) | {held.id for held in branch})


def _reads(step: Step) -> frozenset[str]:
    """What the step itself reads from around it, its blocks left to themselves."""
    inside = names([dict(step.args), step.let, step.answer]) - {held.id for held in step.inner}
    if step.if_ is not None:
        inside |= expression_names(step.if_)
    if step.on_error.fallback is not None:
        inside |= names(dict(step.on_error.fallback.args or {}))
    return (inside - own_names(step)) | names(step.for_each)


# lines ------------------------------------------------------------------------------------------------------


def told(certificate: Certificate) -> tuple[str, ...]:
    """What a person needs to know of a plan before it runs, in lines of their own; not escaped."""
    lines = [("changes", _change(change)) for change in certificate.effects]
    lines += (
        [("changes", f"takes back what {', '.join(certificate.takes_back)} did")] if certificate.takes_back else []
    )
    lines = lines or [("changes", "nothing")]
    lines += [("asks", _gate(gate)) for gate in certificate.gates]
    lines += [("flows", _flow(flow)) for flow in certificate.flows if flow.is_too_low or flow.is_recipient]
    lines += [("mode", _MODES[certificate.mode])] if certificate.mode in _MODES else []
    lines += [("at most", _most(certificate))] if certificate.calls != 0 or certificate.seconds else []
    lines += [("waits", f"{', '.join(certificate.waits)}: nobody can say how long")] if certificate.waits else []
    lines += [("no path", f"around a failure of {', '.join(certificate.no_path)}")] if certificate.no_path else []
    lines += [("mended", repair.message) for repair in certificate.repairs]
    lines += [("note", text) for text in certificate.advice]
    return tuple(f"{kind:<9}{text}" for kind, text in lines)


_MODES: Mapping[Mode, str] = {
    "explore": "explore: a researcher may look at data of outsiders, and its findings steer nothing unasked",
    "open": "open: planners see data of outsiders, and what they then want is asked, unless it can be taken back",
}


def _change(change: Change) -> str:
    shown = ", ".join(f"{name}={_written(value):.40}" for name, value in change.control.items())
    notes = [f"up to {change.times} times"] if change.times != 1 else []
    notes += ["only if the call before it fails"] if change.role == "fallback" else []
    notes += [] if change.reversible else ["cannot be taken back"]
    return ", ".join([f"{change.step}: {change.effect} {change.callee}({shown})", *notes])


def _gate(gate: Gate) -> str:
    match gate.rules:
        case ("question",):
            return f"{gate.step}: {gate.callee} is a question of the plan"
        case ("on_error",):
            return f"{gate.step}: {gate.reason}"
        case _ if gate.is_certain:
            return f"{gate.step}: {gate.callee} needs approval"
        case _:
            low = " and ".join(rule.removeprefix("control:") for rule in gate.rules)
            return f"{gate.step}: {gate.callee} may need approval, for {low}"


def _flow(flow: Flow) -> str:
    way = " -> ".join([f"{flow.source} {flow.source_callee}", *flow.via, f"{flow.step} {flow.callee}"])
    wanted = f", {flow.least.name.lower()} is wanted" if flow.is_too_low else ""
    how = ", as a choice" if flow.is_choice else ""
    return f"{way}, {flow.argument}: {flow.integrity.name.lower()}{how}{wanted}"


def _most(certificate: Certificate) -> str:
    """`3 calls, 12,400 tokens, $0.02, 8 min by way of s1, s3`."""
    calls, tokens, cost_usd = certificate.calls, certificate.tokens, certificate.cost_usd
    facts = ["calls unknown" if calls is None else "1 call" if calls == 1 else f"{calls:,} calls"]
    facts += ["tokens unknown"] if tokens is None else [f"{tokens:,} tokens"] if tokens else []
    facts += ["cost unknown"] if cost_usd is None else [f"${cost_usd:,.4f}"] if cost_usd or tokens else []
    way = f" by way of {', '.join(certificate.critical_path)}" if len(certificate.critical_path) > 1 else ""
    return ", ".join([*facts, f"{_time(certificate.seconds)}{way}"])


def _time(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    whole = ((hours, "h"), (left, "min"), (rest, "s")) if hours == 0 else ((hours, "h"), (left, "min"))
    return " ".join(f"{number} {unit}" for number, unit in whole if number) or "0 s"
