"""May this principal make this call with these values, and what is its result worth?

Rules of the file:
- One gate, asked before every effect. Deny wins; then the first matching rule in order; the default is deny.
- Labels fall by joining and rise only here (`attest`) and in `expr`, where docs/architecture.md says so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, assert_never

from planner.core.catalog import Callee
from planner.core.egress import leaks
from planner.core.labels import (
    BOUNDED,
    TRUSTED,
    UNTRUSTED,
    Frozen,
    Integrity,
    Json,
    Label,
    Labelled,
    Names,
    Path,
    leaves_of,
)


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


class Policy(Frozen):
    """The rules in force, with a version that every decision carries."""

    rules: tuple[Rule, ...] = ()
    version: str = ""


class Verdict(Frozen):
    """The gate's answer, the rules that gave it, and the policy version they belong to."""

    then: Literal["allow", "ask", "deny"]
    rules: tuple[str, ...]
    reason: str = ""
    policy_version: str = ""


def judge(
    policy: Policy, principal: Principal, callee: Callee, arguments: Labelled | None, *, words: str = ""
) -> Verdict:
    """The gate's verdict; without `arguments` (at plan time) only what is known of the callee is judged.

    `words` are the principal's own: whom they name there may get what is not for everybody.
    """

    def verdict(then: Literal["allow", "ask", "deny"], rules: tuple[str, ...], reason: str = "") -> Verdict:
        return Verdict(then=then, rules=rules, reason=reason, policy_version=policy.version)

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
    low = _too_low(callee, arguments)
    leaking = tuple(leaks(callee, arguments, words)) if arguments is not None else ()
    if low or leaking:
        rules = dict.fromkeys([rule.id, *(f"control:{name}" for name in low), *(leak.rule for leak in leaking)])
        reasons = dict.fromkeys([*([_why_low(callee, low)] if low else []), *(leak.reason for leak in leaking)])
        return verdict("ask", tuple(rules), "; ".join(reasons))
    return verdict("allow", (rule.id,))


def _too_low(callee: Callee, arguments: Labelled | None) -> tuple[str, ...]:
    """The controlling arguments whose integrity is less than declared."""
    if arguments is None or not isinstance(arguments.value, dict):
        return ()
    return tuple(
        name
        for name, least in callee.declaration.control.items()
        if name in arguments.value and arguments.at((name,)).overall().integrity < least
    )


def _why_low(callee: Callee, names: tuple[str, ...]) -> str:
    return f"{_and(names)} of `{callee.name}` came from data that an outsider may have written"


def _or(words: tuple[str, ...] | list[str]) -> str:
    return " or ".join(f"`{word}`" for word in words)


def _and(words: tuple[str, ...]) -> str:
    return " and ".join(f"`{word}`" for word in words)


def attest(callee: Callee, arguments: Labelled, value: Json) -> Labelled:
    """A call's result with its labels, as the callee's declaration says and its arguments allow."""
    given = arguments.overall()
    declaration = callee.declaration
    if declaration.effect == "pure" and declaration.out != "typed":
        return Labelled(value=value, label=given)
    ceiling = Integrity.TRUSTED if given.integrity is Integrity.TRUSTED else Integrity.BOUNDED
    source = Label(sources=given.sources | {callee.name}, readers=_readers(callee, given))

    def worth(least: Label) -> Label:
        return source.joined(least).capped(ceiling)

    match declaration.out:
        case "trusted":
            return Labelled(value=value, label=worth(TRUSTED))
        case "bounded":
            return Labelled(value=value, label=worth(BOUNDED))
        case "untrusted":
            return Labelled(value=value, label=worth(UNTRUSTED))
        case "fields":
            leaves = tuple(
                (path, worth(BOUNDED)) for field in declaration.bounded_fields for path in _places(value, field)
            )
            return Labelled(value=value, label=worth(UNTRUSTED), leaves=leaves)
        case "typed":
            return _typed(arguments, Labelled(value=value, label=worth(UNTRUSTED)), worth(BOUNDED))
        case _:
            assert_never(declaration.out)


def _readers(callee: Callee, given: Label) -> frozenset[str] | None:
    return Label(readers=callee.declaration.readers).joined(given).readers


def _places(value: Json, field: str) -> tuple[Path, ...]:
    return (("*", field),) if isinstance(value, list) else ((field,),)


def _typed(arguments: Labelled, result: Labelled, raised: Label) -> Labelled:
    """A quarantined result: of finite type, or equal to an attested leaf it was made from, it is bounded."""
    attested = {
        (type(leaf), leaf)
        for path, leaf, label in leaves_of(arguments)
        if path[:1] in {("inputs",), ("options",)} and label.integrity >= Integrity.BOUNDED and leaf is not None
    }
    leaves = tuple(
        (path, raised)
        for path, leaf, _ in leaves_of(result)
        if isinstance(leaf, bool) or (type(leaf), leaf) in attested
    )
    return result.model_copy(update={"leaves": leaves})
