"""`planner.toml` and the environment become one frozen value; an assistant's folders are found here.

Rules of the file:
- The environment and the working directory are arguments, so a test or an embedder can give its own.
- A wrong setting is refused with its file, line and key. Nothing is ignored and nothing is guessed.
- A secret is named in the file and lives in the environment; no message here ever shows its value.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from planner.core.catalog import Effect
from planner.core.labels import Frozen
from planner.core.ledger import Budget
from planner.core.policy import Policy
from planner.core.setup import Shortage
from planner.errors import UserError

FILE = "planner.toml"
CONTENT = ("tools", "prompts")
"""The folders that, with `planner.toml`, decide what an assistant does."""

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Key: TypeAlias = tuple[str | int, ...]
"""Where a setting stands: table names, keys and indexes."""


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


def pinned(policy: Policy) -> Policy:
    """The policy with a version made from its rules: equal rules have equal versions everywhere."""
    rules = [rule.model_dump(mode="json") for rule in policy.rules]
    text = json.dumps(rules, sort_keys=True, separators=(",", ":"))
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
    secrets: Secrets = Secrets()


# ---- reading -----------------------------------------------------------------------------------------------


def load(folder: Path, environ: Mapping[str, str]) -> Config:
    """The settings of the assistant in `folder`.

    Raises `UserError` U-101 for a file that cannot be read, U-102 for one that is not TOML, and U-103 with
    one line per wrong setting.
    """
    path = folder / FILE
    text = _read(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError("U-102", f"{path} is not TOML: {error}", hint="Correct that line.") from error
    # By way of JSON, where strictness still lets a list be a tuple; a date becomes its text.
    document = json.dumps(table, default=str)
    try:
        config = Config.model_validate_json(document, strict=True)
    except ValidationError as error:
        problems = [(problem["loc"], _explained(problem)) for problem in error.errors(include_url=False)]
        raise _refused(path, text, problems) from None
    if problems := [*_policy_problems(config.policy, table), *_limit_problems(config.limits)]:
        raise _refused(path, text, problems)
    return _with_environment(config, environ)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError("U-101", f"{path} cannot be read: {reason}", error_class="missing") from error


def _with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """The environment speaks for the machine and wins over the file, which may have come from elsewhere."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        endpoint = None
    else:
        endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or config.telemetry.endpoint
    try:
        export = Export(endpoint=endpoint, content=config.telemetry.content)
    except ValidationError:
        raise UserError(
            "U-104",
            f"OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint!r}, but should be an address such as http://host:4318",
            hint="Correct the variable or unset it.",
        ) from None
    return config.model_copy(update={"telemetry": export})


def _policy_problems(policy: Policy, table: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """What the types cannot say: a rule that never matches or cannot be told apart protects nobody."""
    if "version" in table.get("policy", {}):
        yield ("policy", "version"), "`policy.version` is made from the rules; remove it"
    seen = Counter[str]()
    for index, rule in enumerate(policy.rules):
        seen[rule.id] += 1
        if seen[rule.id] > 1:
            yield ("policy", "rules", index, "id"), f"`policy.rules` has two rules with the id `{rule.id}`"
        if not any(fnmatchcase(effect, rule.effect) for effect in get_args(Effect)):
            text = f"`{rule.effect}` of rule `{rule.id}` matches no effect"
            yield ("policy", "rules", index, "effect"), text + _choices(rule.effect, get_args(Effect))


def _limit_problems(limits: Limits) -> Iterator[tuple[Key, str]]:
    """A limit of what can be no callee limits nothing."""
    for name in limits.agents:
        if not name.startswith("agent."):
            yield ("limits", "agents", name), f"`{name}` is no agent; did you mean `agent.{name}`?"
    for pattern in limits.concurrency:
        if pattern != "total" and not set(pattern) & set(".*?["):
            yield ("limits", "concurrency", pattern), f"`{pattern}` matches no callee; did you mean `{pattern}.*`?"


# ---- saying what is wrong ----------------------------------------------------------------------------------


def _refused(path: Path, text: str, problems: Sequence[tuple[Key, str]]) -> UserError:
    lines = _lines(text, [key for key, _ in problems])
    told = sorted(zip(lines, (problem for _, problem in problems), strict=True))
    return UserError("U-103", "\n".join(f"{path}:{line}: {problem}" for line, problem in told))


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explained(problem: ErrorDetails) -> str:
    key, kind, message = problem["loc"], problem["type"], problem["msg"]
    name = f"`{_dotted(key)}`"
    if kind == "extra_forbidden":
        return f"{name} is not a setting" + _choices(str(key[-1]), _settings(key[:-1]))
    if kind == "missing":
        return f"{name} is missing"
    expected = message.replace("Input should be", "it should be").replace("an object", "a table")
    # A person may have put the secret itself where its name belongs.
    given = "wrong" if key[0] == "secrets" else _short(problem["input"])
    return f"{name} is {given}: {expected[0].lower()}{expected[1:]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _choices(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"


def _settings(key: Key) -> list[str]:
    """The settings of the table at `key`."""
    kind: Any = Config
    for part in key:
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[part].annotation if is_model else _inside(kind)
    return sorted(next(part for part in (kind, *get_args(kind)) if hasattr(part, "model_fields")).model_fields)


def _inside(kind: Any) -> Any:  # noqa: ANN401 - an annotation may be anything
    """What a tuple or a mapping holds."""
    return next(part for part in reversed(get_args(kind)) if part is not ...)


def _lines(text: str, keys: Sequence[Key]) -> list[int]:
    """The line on which each setting begins; for one that is not there, its nearest table.

    `tomllib` keeps no lines, so the real parser reads ever longer beginnings of the file: a setting begins
    on the line after the last readable beginning that lacks it. Slow and exact, and only for errors.
    """
    whole = tomllib.loads(text)
    wanted = [_longest(whole, key) for key in keys]
    found: dict[Key, int] = {(): 1}
    lines, start = text.split("\n"), 1
    for end in range(1, len(lines) + 1):
        table = _beginning("\n".join(lines[:end]))
        if table is None:
            continue  # in the middle of a value
        found.update({key: start for key in wanted if key not in found and _longest(table, key) == key})
        start = end + 1
    return [found[key] for key in wanted]


def _beginning(text: str) -> dict[str, Any] | None:
    for closing in ("", "\n]"):  # the second for a list over several lines
        try:
            return tomllib.loads(text + closing)
        except tomllib.TOMLDecodeError:
            continue
    return None


def _longest(table: Mapping[str, Any], key: Key) -> Key:
    """The longest beginning of `key` that the table holds."""
    value: Any = table
    for depth, part in enumerate(key):
        match value, part:
            case dict(), str() if part in value:
                value = value[part]
            case list(), int() if part < len(value):
                value = value[part]
            case _:
                return key[:depth]
    return key


# ---- folders -----------------------------------------------------------------------------------------------


class Located(Frozen):
    """An assistant's folder and how it was found."""

    folder: Path
    how: Literal["named", "here", "reference"]

    @property
    def needs_consent(self) -> bool:
        """Whether a person must agree before its code is loaded: being in a folder is not asking for it."""
        return self.how == "here"


def find_assistant(named: Path | None, *, here: Path) -> Located:
    """The assistant that was named, else the one in the working directory, else the reference one.

    No parent of the working directory is looked at. Raises `UserError` U-105 if the named folder is none.
    """
    if named is not None:
        folder = named.expanduser().resolve()
        if not (folder / FILE).is_file():
            raise UserError(
                "U-105",
                f"{folder} is not an assistant: it has no {FILE}",
                hint="Name the folder that holds the file, or make one with `planner init`.",
                error_class="missing",
            )
        return Located(folder=folder, how="named")
    if (here / FILE).is_file() and here.resolve() != reference():
        return Located(folder=here.resolve(), how="here")
    return Located(folder=reference(), how="reference")


def reference() -> Path:
    """The folder of the reference assistant: inside an installed package, or the root of a checkout."""
    package = Path(__file__).resolve().parent
    bundled = package / "_assistant"
    return bundled if bundled.is_dir() else package.parent


def state_dir(named: Path | None, environ: Mapping[str, str]) -> Path:
    """Where runs and consents are kept: as named, else `PLANNER_STATE`, else the user's state directory."""
    chosen = named or environ.get("PLANNER_STATE")
    return Path(chosen or platformdirs.user_state_path("planner", appauthor=False)).expanduser().resolve()


def workspace_dir(named: Path | None, *, here: Path) -> Path:
    """The folder whose files tools may touch: as named, else the working directory. U-106 if it is none."""
    folder = (named or here).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(
            "U-106",
            f"the workspace {folder} is not a folder",
            hint="Make it, or name another one with `--workspace`.",
            error_class="missing",
        )
    return folder


# ---- consent -----------------------------------------------------------------------------------------------


def content_hash(folder: Path) -> str:
    """The SHA-256 over names and bytes of everything that decides what the assistant in `folder` does.

    Bytecode caches are left out, so whoever loads the tools must compile their sources. Raises `UserError`
    U-107 for anything but real files and folders: what a link points to can change without the hash.
    """
    digest = hashlib.sha256()
    for path in _content(folder):
        name = os.fsencode(path.relative_to(folder).as_posix())
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError("U-101", f"{path} cannot be read: {error.strerror}") from error
        digest.update(b"%d:%b%d:%b" % (len(name), name, len(data), data))
    return digest.hexdigest()


def _content(folder: Path) -> Iterator[Path]:
    roots = [folder / name for name in (FILE, *CONTENT)]
    inside = sorted(path for root in roots for path in root.rglob("*"))
    for path in (*roots, *inside):
        if "__pycache__" in path.relative_to(folder).parts:
            continue
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise UserError(
                "U-107",
                f"{path} is neither a file nor a folder, so nobody can agree to what it holds",
                hint="Put a copy of the file in its place.",
            )
        if path.is_file():
            yield path


def has_consent(state: Path, content: str) -> bool:
    """Whether somebody agreed to load the folder with this content hash.

    A list that other users of the machine could have written counts for nothing.
    """
    try:
        with _consents(state).open("rb") as file:
            is_private = not os.fstat(file.fileno()).st_mode & 0o022
            return is_private and content.encode() in file.read().split()
    except OSError:
        return False


def give_consent(state: Path, content: str) -> None:
    """Notes that somebody agreed, in a file that only this user can read or write. U-108 if it cannot."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(_consents(state), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            if os.fstat(descriptor).st_mode & 0o022:
                file.truncate(0)
            os.fchmod(descriptor, 0o600)
            file.write(content.encode() + b"\n")
    except OSError as error:
        raise UserError(
            "U-108",
            f"the consent cannot be noted in {_consents(state)}: {error.strerror}",
            hint="Name a folder you can write to with `--state` or PLANNER_STATE.",
        ) from error


def _consents(state: Path) -> Path:
    return state / "consents"
