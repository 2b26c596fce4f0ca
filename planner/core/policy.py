"""May this principal make this call with these values?

Rules of the file:
- One gate, asked before every effect. Deny wins; then the first matching rule in order; the default is deny.
- It only judges: what a result is worth is for `attest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from pydantic import Field

from planner.core.catalog import Callee
from planner.core.egress import Objection, leaks
from planner.core.labels import Frozen, Integrity, Labelled, Names
from planner.core.rules import Made, Rule


class Principal(Frozen):
    """On whose behalf a run acts."""

    name: str = "user"
    roles: Names = frozenset({"user"})
    tenant: str = "local"


Then: TypeAlias = Literal["allow", "ask", "deny"]
Mode: TypeAlias = Literal["sealed", "explore", "open"]
"""What planners may see: nothing from outside; as `sealed`, but a researcher of their own; what steps gave."""


class Grant(Frozen):
    """What those who play a role may call, as shell patterns; nothing else, whatever the rules allow."""

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    """With a person's approval."""
    deny: tuple[str, ...] = ()


class Policy(Frozen):
    """The rules in force, with a version that every decision carries."""

    rules: tuple[Rule, ...] = ()
    grants: Mapping[str, Grant] = Field(default_factory=dict)
    """By role. Who plays none of these is bound by the rules alone; who plays several may do what any of them may."""
    version: str = ""
    mode: Mode = "sealed"

    @classmethod
    def by_declaration(cls) -> Policy:
        """Leaves it to what tools declare: allowed is whatever the control and egress checks let pass.

        A call that only the principal's own words steer needs no approval; what executes is asked for, and with it
        every tool that declares nothing.
        """
        return cls(
            rules=(
                Rule(id="delegating", then="allow", callee="plan.goal"),
                Rule(id="executing", then="ask", effect="execute"),
                Rule(id="as-declared", then="allow"),
            )
        )


class Verdict(Frozen):
    """The gate's answer, the rules that gave it, and the policy version they belong to."""

    then: Then
    rules: tuple[str, ...]
    reason: str = ""
    policy_version: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that somebody wants to make. Without `arguments`, at plan time, only the callee is judged."""

    principal: Principal
    callee: Callee
    arguments: Labelled | None = None
    words: str = ""
    """The principal's own: whom they name there may get what is not for everybody."""
    said: Integrity = Integrity.TRUSTED
    """What the words of the plan are worth that wants the call."""
    made: Sequence[Made] = ()
    """The calls of the run before this one."""


def judge(policy: Policy, request: Request) -> Verdict:
    """The gate's verdict. At plan time it foresees a question where an argument might make one necessary."""

    def verdict(then: Then, rules: Iterable[str], reason: str = "") -> Verdict:
        return Verdict(then=then, rules=tuple(rules), reason=reason, policy_version=policy.version)

    principal, callee = request.principal, request.callee
    needed = frozenset(callee.declaration.roles)
    if needed and not needed & principal.roles:
        return verdict("deny", ("declaration:roles",), f"`{callee.name}` is for {_or(sorted(needed))} only")
    granted = _granted(policy, request)
    if granted is not None and granted.then == "deny":
        return granted
    told = [(r, r.holds(principal.roles, callee, request.arguments, request.made)) for r in policy.rules]
    denying = tuple(rule.id for rule, holds in told if rule.then == "deny" and holds)
    if denying:
        return verdict("deny", denying, f"`{callee.name}` is denied by {_or(denying)}")
    open_ = [(rule, holds) for rule, holds in told if rule.then != "deny" and holds is not False]
    rule = next((rule for rule, holds in open_ if holds or rule.then == "ask"), None)
    if rule is None and open_:
        rules = tuple(rule.id for rule, _ in open_)
        return verdict("ask", rules, f"whether {_or(rules)} allows `{callee.name}` depends on its arguments")
    if rule is None:
        return verdict("deny", ("default",), f"no rule allows `{callee.name}` to {_or(sorted(principal.roles))}")
    if rule.then == "ask":
        return verdict("ask", (rule.id,), f"`{rule.id}` wants a person to approve `{callee.name}`")
    if granted is not None:
        return granted
    objections = tuple(_objections(request, policy.mode))
    if objections:
        return verdict("ask", dict.fromkeys([rule.id, *(d.rule for d in objections)]), _told(objections))
    return verdict("allow", (rule.id,))


def _granted(policy: Policy, request: Request) -> Verdict | None:
    """What the roles that the principal plays say against the call; None if nothing. Questions need no grant."""
    name, roles = request.callee.name, sorted(request.principal.roles & policy.grants.keys())
    if not roles or request.callee.kind in {"human", "gate", "wait"}:
        return None

    def by(patterns: Callable[[Grant], tuple[str, ...]]) -> tuple[str, ...]:
        found = [role for role in roles if any(fnmatchcase(name, p) for p in patterns(policy.grants[role]))]
        return tuple(f"role:{role}" for role in found)

    def verdict(then: Then, rules: tuple[str, ...], reason: str) -> Verdict:
        return Verdict(then=then, rules=rules, reason=reason, policy_version=policy.version)

    denied, allowed, asked = by(lambda g: g.deny), by(lambda g: g.allow), by(lambda g: g.ask)
    if denied or not (allowed or asked):
        rules = denied or tuple(f"role:{role}" for role in roles)
        return verdict("deny", rules, f"{_or(roles)} may not call `{name}`")
    return None if allowed else verdict("ask", asked, f"{_or(roles)} may call `{name}` with a person's approval")


def _is_harmless(callee: Callee) -> bool:
    """Whether it only looks at what is ours, or changes what can be put back: then data may steer it in `open`."""
    declared = callee.declaration
    return declared.effect in {"pure", "read"} or (declared.effect == "write" and declared.undo is not None)


def _objections(request: Request, mode: Mode) -> Iterator[Objection]:
    """What about the arguments wants a person to look at them, whatever the rules allow."""
    if request.arguments is None:
        return
    is_free = mode == "open" and _is_harmless(request.callee)
    low = () if is_free else _too_low(request.callee, request.arguments)
    yield from (Objection(f"control:{name}", _why_low(request.callee, low)) for name in low)
    if request.said is Integrity.UNTRUSTED and not (is_free or request.callee.is_reading):
        yield Objection("mode:open", f"a plan whose author saw data of outsiders wants `{request.callee.name}`")
    yield from leaks(request.callee, request.arguments, request.words)


def _told(objections: Sequence[Objection]) -> str:
    return "; ".join(dict.fromkeys(objection.reason for objection in objections))


def _too_low(callee: Callee, arguments: Labelled) -> tuple[str, ...]:
    """The controlling arguments whose integrity is less than declared."""
    given = arguments.value if isinstance(arguments.value, dict) else {}
    return tuple(
        name
        for name, least in callee.declaration.control.items()
        if name in given and arguments.at((name,)).overall().integrity < least
    )


def _why_low(callee: Callee, names: tuple[str, ...]) -> str:
    return f"{_and(names)} of `{callee.name}` came from data that an outsider may have written"


def _or(words: tuple[str, ...] | list[str]) -> str:
    return " or ".join(f"`{word}`" for word in words)


def _and(words: tuple[str, ...]) -> str:
    return " and ".join(f"`{word}`" for word in words)
