"""May this principal make this call with these values?

Rules of the file:
- One gate, asked before every effect. Deny wins; then the first matching rule in order; the default is deny.
- It only judges: what a result is worth is for `attest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from planner.core.catalog import Callee
from planner.core.egress import Objection, leaks
from planner.core.labels import Frozen, Integrity, Labelled, Names


class Principal(Frozen):
    """On whose behalf a run acts."""

    name: str = "user"
    roles: Names = frozenset({"user"})
    tenant: str = "local"


class Rule(Frozen):
    """`then` holds where callee and effect match (shell patterns) and the principal has one of the roles."""

    id: str
    then: Literal["allow", "ask", "deny"]
    callee: str = "*"
    effect: str = "*"
    roles: Names = frozenset({"*"})

    def matches(self, principal: Principal, callee: Callee) -> bool:
        """Whether the rule speaks of this principal and callee."""
        return (
            fnmatchcase(callee.name, self.callee)
            and fnmatchcase(callee.declaration.effect, self.effect)
            and ("*" in self.roles or bool(self.roles & principal.roles))
        )


Mode: TypeAlias = Literal["sealed", "explore", "open"]
"""What planners may see: nothing from outside; as `sealed`, but a researcher of their own; what steps gave."""


class Policy(Frozen):
    """The rules in force, with a version that every decision carries."""

    rules: tuple[Rule, ...] = ()
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

    then: Literal["allow", "ask", "deny"]
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


def judge(policy: Policy, request: Request) -> Verdict:
    """The gate's verdict."""

    def verdict(then: Literal["allow", "ask", "deny"], rules: Iterable[str], reason: str = "") -> Verdict:
        return Verdict(then=then, rules=tuple(rules), reason=reason, policy_version=policy.version)

    principal, callee = request.principal, request.callee
    needed = frozenset(callee.declaration.roles)
    if needed and not needed & principal.roles:
        return verdict("deny", ("declaration:roles",), f"`{callee.name}` is for {_or(sorted(needed))} only")
    matching = [rule for rule in policy.rules if rule.matches(principal, callee)]
    denying = tuple(rule.id for rule in matching if rule.then == "deny")
    if denying:
        return verdict("deny", denying, f"`{callee.name}` is denied by {_or(denying)}")
    if not matching:
        return verdict("deny", ("default",), f"no rule allows `{callee.name}` to {_or(sorted(principal.roles))}")
    rule = matching[0]
    if rule.then == "ask":
        return verdict("ask", (rule.id,), f"`{rule.id}` wants a person to approve `{callee.name}`")
    objections = tuple(_objections(request, policy.mode))
    if objections:
        return verdict("ask", dict.fromkeys([rule.id, *(d.rule for d in objections)]), _told(objections))
    return verdict("allow", (rule.id,))


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
