"""`planner tools`: what plans may call, and what the policy says of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from planner.assistant import Assistant, user_name
from planner.cli import terminal
from planner.cli.conduct import opened
from planner.cli.options import Options
from planner.cli.terminal import excerpt, line
from planner.core.catalog import READING, Callee, Declaration, Parameter, retrieve
from planner.core.labels import Json
from planner.core.policy import Request, Verdict, judge
from planner.errors import UserError

FOUND = 8
"""As many answers to a search as fit into a glance."""


def list_(options: Options) -> int:
    """Every tool and agent."""
    assistant = opened(options)
    return _listed(options, assistant, assistant.catalogue.values())


def search(options: Options) -> int:
    """Those that fit the words best, ranked as a planner would get them."""
    assistant = opened(options)
    catalogue = assistant.catalogue
    names = retrieve(" ".join(options.words), catalogue, limit=min(FOUND, len(catalogue) - 1))
    return _listed(options, assistant, [catalogue[name] for name in names])


def show(options: Options) -> int:
    """One in full. Raises `UserError` U-430 if there is none of that name."""
    (name,) = options.words
    assistant = opened(options)
    callee = assistant.catalogue.get(name)
    if callee is None:
        near = tuple(difflib.get_close_matches(name, assistant.catalogue, n=3, cutoff=0.4))
        hint = f"Did you mean {' or '.join(near)}?" if near else "See `planner tools list`."
        raise UserError("U-430", f"no tool is called `{name}`", hint=hint, choices=near, error_class="missing")
    verdict = _verdict(assistant, callee)
    if options.is_json:
        terminal.put_json({**_told(callee, verdict), "declaration": callee.declaration.model_dump(mode="json")})
    else:
        for text in _shown(callee, verdict):
            terminal.put(text)
    return 0


def _verdict(assistant: Assistant, callee: Callee) -> Verdict:
    """What the policy says of a call by whoever uses the command line, before its arguments are known."""
    principal = assistant.settings.people.principal(None, otherwise=user_name())
    return judge(assistant.policy, Request(principal, callee))


def _listed(options: Options, assistant: Assistant, callees: Iterable[Callee]) -> int:
    judged = [(callee, _verdict(assistant, callee)) for callee in callees]
    if options.is_json:
        terminal.put_json([_told(callee, verdict) for callee, verdict in judged])
        return 0
    width = max(len(callee.name) for callee, _ in judged)
    room = max(20, terminal.columns() - width - 20)
    for callee, verdict in judged:
        effect = callee.declaration.effect
        terminal.put(f"{callee.name:{width}}  {effect:<8} {verdict.then:<6} {line(callee.summary, room)}")
    return 0


def _told(callee: Callee, verdict: Verdict) -> dict[str, Json]:
    return {
        "name": callee.name,
        "kind": callee.kind,
        "summary": callee.summary,
        "effect": callee.declaration.effect,
        "permission": verdict.then,
        "rules": list(verdict.rules),
        "parameters": [parameter.model_dump(mode="json") for parameter in callee.parameters],
        "result": callee.result,
        "version": callee.version,
    }


def _shown(callee: Callee, verdict: Verdict) -> Iterator[str]:
    yield f"{callee.name}: {line(callee.summary)}"
    for parameter in callee.parameters:
        yield f"  {parameter.name:<12} {_parameter(parameter)}"
    yield f"  {'result':<12} {callee.result}"
    yield f"{'permission':<14} {verdict.then}, by {', '.join(verdict.rules)}"
    yield from (f"{name:<14} {text}" for name, text in _declared(callee.declaration))
    if callee.version:
        yield f"{'version':<14} {callee.version}"


def _parameter(parameter: Parameter) -> str:
    choices = f" one of {', '.join(parameter.choices)}" if parameter.choices else ""
    default = "" if parameter.required else f" (default: {excerpt(parameter.default, 40)})"
    about = f": {line(parameter.description)}" if parameter.description else ""
    return f"{parameter.type}{choices}{default}{about}"


def _declared(declaration: Declaration) -> Iterator[tuple[str, str]]:
    undo = ", can be put back" if declaration.reversible and declaration.effect not in READING else ""
    yield "effect", f"{declaration.effect}{undo}"
    if declaration.control:
        least = [f"{name} at least {level.name.lower()}" for name, level in declaration.control.items()]
        yield "controlled by", ", ".join(least)
    yield "gives", f"{declaration.out} values"
    if declaration.resource is None:
        yield "touches", "anything, as far as is known"
    elif declaration.resource:
        yield "touches", ", ".join(declaration.resource)
    if declaration.secrets:
        yield "secrets", ", ".join(declaration.secrets)
