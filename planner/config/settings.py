"""What an assistant may be told: `planner.toml` and the environment as one frozen value.

Rules of the file:
- A secret is named in the file and lives in the environment; nothing here ever shows its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from planner.core.labels import Frozen, Names
from planner.core.ledger import Budget
from planner.core.policy import Policy, Principal
from planner.core.redaction import Redactor
from planner.core.setup import Shortage

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
KEY_LEAST = 16
"""Characters of a provider's key: half as many as the shortest that any of the known ones gives out."""
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _chained(said: object) -> object:
    """A name alone is a chain of one."""
    if isinstance(said, str | list | tuple):
        return (said,) if isinstance(said, str) else tuple(said)
    raise PydanticCustomError("chain", "Input should be a name or a list of names")


Chain = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_chained)]
"""Names of models: the next is asked when one is unavailable."""


class Identity(Frozen):
    """Who answers: `[assistant]`."""

    name: str = Field(default="assistant", min_length=1)
    version: str = "0"


class Price(Frozen):
    """US dollars per million tokens; without `cached_usd` cached input costs as much as other input."""

    input_usd: Usd
    output_usd: Usd
    cached_usd: Usd | None = None


class Ability(Frozen):
    """What the operator knows about a model; None leaves it to the runtime's own judgement."""

    rendering: Literal["grammar", "strict", "plain"] | None = None
    can_judge: bool | None = None
    context_tokens: int | None = Field(default=None, gt=0)
    max_output_tokens: int | None = Field(default=None, gt=0)


class Models(Frozen):
    """Which model does what, what it costs and what it can do: `[models]`."""

    default: Chain = ()
    roles: Mapping[str, Chain] = Field(default_factory=dict)
    """Models per role, such as `planner` or `writer`, instead of the default."""
    cheaper: str | None = Field(default=None, min_length=1)
    """The model that plays agents once a run's budget is short."""
    prices: Mapping[str, Price] = Field(default_factory=dict)
    profiles: Mapping[str, Ability] = Field(default_factory=dict)

    def of(self, role: str) -> tuple[str, ...]:
        """The models named for the role, else the default ones; none leaves the choice to the runtime."""
        return self.roles.get(role, self.default)


class Tools(Frozen):
    """Which callees there are and which a planner sees: `[tools]`."""

    builtin: tuple[str, ...] = ()
    """Shell patterns of the reference assistant's tools that this assistant takes over."""
    always: tuple[str, ...] = ()
    """Callees that a planner is always shown."""
    shown: int = Field(default=15, ge=1)
    """How many callees a planner is shown; a larger catalogue is searched for the best ones."""

    def takes(self, name: str) -> bool:
        """Whether a tool of the reference assistant is taken over."""
        return any(fnmatchcase(name, pattern) for pattern in self.builtin)


class Allowance(Frozen):
    """Limits as a file may set them; None is unlimited."""

    cost_usd: Usd | None = None
    tokens: int | None = Field(default=None, gt=0)
    calls: int | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)


def _allowed(said: object) -> object:
    """What is said, if a file may say it."""
    return said if isinstance(said, Budget) else Budget(**Allowance.model_validate(said, strict=True).model_dump())


Account = Annotated[Budget, BeforeValidator(_allowed)]


class Limits(Allowance):
    """What one run may use at most, what several may use together, and how many calls at once: `[limits]`."""

    calls: int | None = Field(default=500, gt=0)
    """By default more than plans for people make, so that only a run that goes astray meets it."""
    replans: int = Field(default=2, ge=0)
    same_call: int = Field(default=10, ge=1)
    """How often a run may make one call with the same arguments in different steps."""
    agents: Mapping[str, Account] = Field(default_factory=dict)
    """What a run's calls of one agent, such as `agent.writer`, may use together."""
    tenant_day: Account = Budget()
    day: Account = Budget()
    """What all runs, or all of one tenant, may use together in one day, by UTC."""
    short: Shortage | None = None
    """What a run does without when its budget is nearly used; None: it goes on and ends at the limit."""
    concurrency: Mapping[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """How many calls of each callee that a shell pattern names are made at once, and of all: `total`."""

    @property
    def is_priced(self) -> bool:
        """Whether money is limited anywhere, so that prices must be known before a call."""
        return any(b.cost_usd is not None for b in (self.budget(), self.tenant_day, self.day, *self.agents.values()))

    def budget(self) -> Budget:
        """The part that the ledger keeps for each run."""
        return Budget.model_validate(self.model_dump(include=set(Budget.model_fields)))


class People(Frozen):
    """Whom a plan may ask: `[people]`."""

    roles: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...] = ("user",)
    members: Mapping[str, Names] = Field(default_factory=dict)
    """What roles people play, by name; whoever is not named plays `user`."""

    def principal(self, named: Principal | None, *, otherwise: str) -> Principal:
        """The one on whose behalf a run acts, with their roles; `otherwise` is who runs this process."""
        given = named or Principal(name=otherwise)
        is_plain = given.roles == Principal().roles and given.name in self.members
        return given.model_copy(update={"roles": self.members[given.name]}) if is_plain else given


class Audit(Frozen):
    """When the heads of all runs are anchored, and in which file: `[audit]`."""

    every: int = Field(default=1_000, gt=0)
    """After so many events."""
    file: str | None = None
    """Better on another disk, or where only additions are possible; None: `anchors.jsonl` in the state folder."""


class Export(Frozen):
    """Where traces and metrics go: `[telemetry]`; without an endpoint they go nowhere."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+")
    """The base address of an OTLP/HTTP receiver."""
    content: bool = False
    """Whether goals, arguments and results go along; else only names, sizes and times do."""


class Secrets(Frozen):
    """Names of environment variables that tools may ask for: `[secrets]`."""

    names: tuple[EnvironmentName, ...] = ()

    def values(self, environ: Mapping[str, str]) -> dict[str, SecretStr]:
        """The named variables that are set. A tool that needs another one says so when it is called."""
        return {name: SecretStr(environ[name]) for name in self.names if name in environ}

    def redactor(self, environ: Mapping[str, str]) -> Redactor:
        """Takes their values out of what is kept or shown, and the keys of model providers."""
        named = {name: value.get_secret_value() for name, value in self.values(environ).items()}
        return Redactor.of(provider_keys(environ) | named)


def provider_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with keys of model providers; what is too short for one, such as `ollama`, stands in for it."""
    return {name: value for name, value in environ.items() if name.endswith("_API_KEY") and len(value) >= KEY_LEAST}


def pinned(policy: Policy) -> Policy:
    """The policy with a version made from its terms: equal terms have equal versions everywhere."""
    terms = policy.model_dump(mode="json", exclude={"version"})
    text = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    return policy.model_copy(update={"version": hashlib.sha256(text.encode()).hexdigest()[:16]})


class Config(Frozen):
    """Everything that `planner.toml` and the environment say."""

    assistant: Identity = Identity()
    models: Models = Models()
    tools: Tools = Tools()
    policy: Annotated[Policy, AfterValidator(pinned)] = Field(default=Policy(), validate_default=True)
    limits: Limits = Limits()
    people: People = People()
    telemetry: Export = Export()
    audit: Audit = Audit()
    secrets: Secrets = Secrets()
