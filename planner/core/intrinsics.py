"""The callees that need no tool: questions to people, approvals, waits, and goals of their own.

Rules of the file:
- Nothing performs a question or a wait: it begins with an event, and another event ends it, perhaps weeks later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from math import isfinite

from planner.core.catalog import Callee, Declaration, Parameter
from planner.core.labels import Integrity, Json, Labelled
from planner.errors import PlanError

GATE = Callee(
    name="gate.approve",
    kind="gate",
    summary="Go on only if a person approves",
    parameters=(
        Parameter(name="what", description="what is to be approved"),
        Parameter(name="about", type="any", required=False, description="what the person should look at"),
    ),
    result="boolean",
    declaration=Declaration(effect="pure", out="trusted", resource=()),
    keywords=("approval", "confirm", "checkpoint", "permission", "sign"),
)
UNTIL = Callee(
    name="wait.until",
    kind="wait",
    summary="Wait for a time, or for a number of seconds",
    parameters=(
        Parameter(name="at", required=False, description="a time such as 2026-12-04T09:00Z"),
        Parameter(name="seconds", type="number", required=False),
    ),
    result="text",
    declaration=Declaration(effect="pure", out="trusted", resource=()),
    keywords=("sleep", "delay", "later", "days", "hours", "minutes"),
)
EVENT = Callee(
    name="wait.event",
    kind="wait",
    summary="Wait until somebody says that something happened",
    parameters=(
        Parameter(name="name", description="the event's name"),
        Parameter(name="match", type="record", required=False, description="fields that its data must have"),
    ),
    result="any",
    declaration=Declaration(effect="pure", out="untrusted", resource=()),
    keywords=("event", "signal", "arrives", "webhook", "message"),
)
GOAL = Callee(
    name="plan.goal",
    kind="plan",
    summary="Hand a part of the work to a plan of its own",
    parameters=(
        Parameter(name="goal", description="what is to be reached, in plain words"),
        Parameter(
            name="allow",
            type="list[text]",
            required=False,
            description="the callees it may use, as names or patterns such as files.*",
        ),
    ),
    result="any",
    declaration=Declaration(
        effect="execute",
        control={"goal": Integrity.TRUSTED, "allow": Integrity.TRUSTED},
        on_doubt="idempotent",
        undo="cancel",
        reversible=True,
        out="untrusted",
    ),
    keywords=("delegate", "subgoal", "part"),
)


RESEARCHER = Callee(
    name="agent.researcher",
    kind="plan",
    summary="Find out what a goal needs to know, by looking wherever that leads; it changes nothing",
    parameters=(
        Parameter(name="goal", description="what is to be found out"),
        Parameter(name="about", type="any", required=False, description="a text or value to begin with"),
    ),
    result="any",
    declaration=Declaration(effect="read", payload=("goal", "about"), on_doubt="idempotent", out="untrusted"),
    keywords=("research", "look", "find", "follow", "explore", "investigate"),
)
"""A run of its own whose planner sees data, and may only look."""


def human(role: str) -> Callee:
    """A question to whoever plays `role`."""
    return Callee(
        name=f"human.{role}",
        kind="human",
        summary=f"Ask the {role} for what only they know, and wait for the answer",
        parameters=(
            Parameter(name="question"),
            Parameter(name="type", required=False, default="text", choices=ANSWER_TYPES),
            Parameter(name="choices", type="list[text]", required=False, description="the answers to choose from"),
            Parameter(name="about", type="any", required=False, description="what the person should look at"),
        ),
        result="any",
        declaration=Declaration(effect="pure", out="trusted", resource=()),
        keywords=("ask", "question", "person", "decide", role),
    )


def fitting(given: Json, arguments: Json) -> Json:
    """An answer as the type that the question's `arguments` want. Raises `PlanError` P-304 if it cannot be one."""
    wanted = arguments if isinstance(arguments, dict) else {}
    choices, type_ = wanted.get("choices"), wanted.get("type") or "text"
    if isinstance(choices, list) and choices:
        chosen = [choice for choice in choices if str(choice).casefold() == str(given).strip().casefold()]
        if not chosen:
            raise PlanError("P-304", f"{_shown(given)} is none of {', '.join(map(str, choices))}")
        return chosen[0]
    try:
        value = _READ[str(type_)](given)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what is no JSON, no journal can keep
        Labelled(value=value)  # nor what is nested too deeply
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PlanError("P-304", f"{_shown(given)} is no {type_}") from error
    return value


def _shown(given: Json) -> str:
    """An answer as valid Unicode."""
    return f"`{given}`".encode(errors="replace").decode()


def _number(given: Json) -> Json:
    value = float(given) if isinstance(given, int | float | str) and not isinstance(given, bool) else None
    if value is None or not isfinite(value):
        raise ValueError(given)
    return value


def _integer(given: Json) -> Json:
    if isinstance(given, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", given):
        return int(given)  # every digit of it, which a float may not keep
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    value = _number(given)
    if not isinstance(value, float) or not value.is_integer():
        raise ValueError(given)
    return int(value)


def _boolean(given: Json) -> Json:
    return {"yes": True, "true": True, "no": False, "false": False}[str(given).strip().lower()]


def _date(given: Json) -> Json:
    return date.fromisoformat(str(given).strip()).isoformat()


def _listed(given: Json) -> Json:
    if isinstance(given, list):
        return given
    return [word.strip() for word in re.split(r"[\n,;]", str(given)) if word.strip()]


def _record(given: Json) -> Json:
    value: Json = json.loads(given) if isinstance(given, str) else given
    if not isinstance(value, dict):
        raise TypeError(given)
    return value


_READ: Mapping[str, Callable[[Json], Json]] = {
    "text": lambda given: given if isinstance(given, str) else str(given),
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "date": _date,
    "list[text]": _listed,
    "record": _record,
}
ANSWER_TYPES = tuple(_READ)


def intrinsics(roles: Iterable[str]) -> Mapping[str, Callee]:
    """The callees of the language itself, with one question for each role that people play."""
    callees = (*(human(role) for role in roles), GATE, UNTIL, EVENT, GOAL)
    return {callee.name: callee for callee in callees}
