"""May this principal make this call with these values? One gate, asked before every effect.

Rules of the file:
- Deny wins, the default is deny, and every decision names the rules that made it.
"""

from __future__ import annotations

from typing import Literal

from planner.core.catalog import Callee
from planner.core.labels import Frozen, Labelled, Names


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


class Policy(Frozen):
    """The rules in force, with a version that every decision carries."""

    rules: tuple[Rule, ...] = ()
    version: str = ""


class Request(Frozen):
    """A call that somebody wants to make."""

    principal: Principal
    callee: Callee
    arguments: Labelled
    """A record of the resolved arguments; the value is None at plan time, when they are not known yet."""


class Verdict(Frozen):
    """The gate's answer, the rules that gave it, and the policy version they belong to."""

    then: Literal["allow", "ask", "deny"]
    rules: tuple[str, ...]
    reason: str = ""
    policy_version: str = ""
