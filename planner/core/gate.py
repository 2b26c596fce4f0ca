"""The one gate as a run meets it: what it says to a call now, and what a person's approval is worth.

Rules of the file:
- A call is judged when its arguments are known, and again before it is made where something that it was judged by is
  another by then: the rules, the callee, the assistant, or a person's approval that grew old.
- An approval is for one call as it was shown: this version of the callee, these arguments with these labels, under
  these rules. It is for one attempt, and for a day at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from planner.core.catalog import Callee
from planner.core.events import StepJudged
from planner.core.labels import Integrity, Json, Label, Labelled, gather
from planner.core.plan import StepPath, place_in, role_of
from planner.core.policy import Request, Verdict, judge
from planner.core.rules import Made
from planner.core.run import Run, StepState, callee_of, is_undecided

APPROVED_S = 86_400.0
"""How long an approval counts: whoever gave it remembers a day later what it was about."""
CHANGING = frozenset({"edit", "endorse"})
"""Answers that change what is judged."""
LEADING_ON = frozenset(
    {("approve", "yes"), ("approve", "edit"), ("approve", "endorse"), ("failed", "retry"), ("happened", "no")}
)
"""Answers after which a call is made."""


def judged(run: Run, callee: Callee, arguments: Labelled, *, path: StepPath) -> Verdict:
    """What the gate says to the call now."""
    policy = run.started.setup.policy
    request = Request(
        run.started.principal,
        callee,
        _endorsed(run, callee, arguments),
        words=run.words,
        said=run.said.integrity,
        made=tuple(_made(run, path)) if any(rule.until or rule.beyond for rule in policy.rules) else (),
    )
    return judge(policy, request)


def _made(run: Run, path: StepPath) -> Iterator[Made]:
    """The calls that count as before the one at `path`: made, about to be made, or to be made first by the plan."""
    for other, state in run.steps.items():
        callee = callee_of(run, other)
        if callee is None or other == path or role_of(other) == "undo" or state.arguments is None:
            continue
        is_over = state.status in {"failed", "skipped"} and not is_undecided(state)
        is_let = state.verdict is not None and state.verdict.then == "deny"
        if not is_over and not is_let and (state.attempt or state.is_weighed or _is_earlier(run, other, path)):
            is_done = state.status == "succeeded"
            yield Made(callee.name, callee.declaration.effect, state.arguments.value, is_done)


def _is_earlier(run: Run, other: StepPath, path: StepPath) -> bool:
    return run.plan is not None and place_in(run.plan, other) < place_in(run.plan, path)


def rejudged(run: Run, path: StepPath) -> StepJudged:
    """What it says now to a call that was judged before; a person who changed the call has allowed it so."""
    state, callee = run.step(path), callee_of(run, path)
    assert callee is not None, "what was judged calls something"
    verdict = judged(run, callee, state.arguments or Labelled(value={}), path=path)
    if verdict.then == "ask" and _is_changed(state):
        verdict = verdict.model_copy(update={"then": "allow", "rules": (*verdict.rules, f"person:{state.answer}")})
    return StepJudged(path=path, verdict=verdict)


def is_due(run: Run, path: StepPath) -> bool:
    """Whether the call must be judged again before anything else happens to it."""
    state = run.step(path)
    is_other = state.is_stale or _is_old(run, state) or _is_changed(state)
    if state.verdict is None or not (is_other or _is_to_be_weighed(run, path, state)):
        return False
    match state.status:
        case "resolved" | "interrupted" | "in_doubt":
            return True
        case "asked":
            return state.question == "approve" and not _is_question(run, path)
        case "answered":
            return (state.question, state.answer) in LEADING_ON and not _is_question(run, path)
        case _:
            return False


def _is_question(run: Run, path: StepPath) -> bool:
    """Whether nothing is called: the step itself is what is asked."""
    callee = callee_of(run, path)
    return callee is not None and callee.kind in {"human", "gate", "wait"}


def _is_to_be_weighed(run: Run, path: StepPath, state: StepState) -> bool:
    """Whether a limit has yet to be held against the calls that were admitted beside this one."""
    callee, roles = callee_of(run, path), run.started.principal.roles
    if state.is_weighed or state.status != "resolved" or callee is None:
        return False
    rules = (rule for rule in run.started.setup.policy.rules if rule.beyond is not None)
    return any(rule.speaks_of(roles, callee.name, callee.declaration.effect) for rule in rules)


def may_repeat(state: StepState) -> bool:
    """Whether a call that was begun may be made once more without anybody being asked."""
    return state.verdict is None or state.verdict.then == "allow" or state.approved_at is not None


def _is_old(run: Run, state: StepState) -> bool:
    return state.approved_at is not None and (run.at - state.approved_at).total_seconds() > APPROVED_S


def _is_changed(state: StepState) -> bool:
    return state.status == "answered" and state.answer in CHANGING


# what an approval is bound to ---------------------------------------------------------------------------------


def binding(run: Run, path: StepPath) -> str:
    """The SHA-256, in hex, of all that an approval is for: the callee's version, arguments, labels, and rules."""
    callee, given = callee_of(run, path), run.step(path).arguments
    assert callee is not None, "only a call is approved"
    parts = [callee.name, callee.version, run.started.setup.policy.version, _text(given)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _text(given: Labelled | None) -> Json:
    return None if given is None else given.model_dump(mode="json")


# values that a person vouched for -----------------------------------------------------------------------------


def endorsed(run: Run, path: StepPath, names: list[str]) -> frozenset[tuple[str, str, str]]:
    """What a person vouches for: these values, as these arguments of this callee, in this run alone."""
    callee, given = callee_of(run, path), run.step(path).arguments
    fields = given.value if given is not None and isinstance(given.value, dict) else {}
    assert callee is not None, "only a call is approved"
    return frozenset((callee.name, name, _digest(fields[name])) for name in names if name in fields)


def _endorsed(run: Run, callee: Callee, arguments: Labelled) -> Labelled:
    """The arguments, where those that a person vouched for are trusted."""
    fields = arguments.value if isinstance(arguments.value, dict) else {}
    if not run.endorsed:
        return arguments
    known = {name for name, value in fields.items() if (callee.name, name, _digest(value)) in run.endorsed}
    parts = {name: arguments.at((name,)) for name in fields}
    return gather({name: _raised(part) if name in known else part for name, part in parts.items()})


def _raised(part: Labelled) -> Labelled:
    def trusted(label: Label) -> Label:
        return label.model_copy(update={"integrity": Integrity.TRUSTED})

    leaves = tuple((path, trusted(label)) for path, label in part.leaves)
    return part.model_copy(update={"label": trusted(part.label), "leaves": leaves})


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
