"""The models of an assistant: one or a chain per role, chosen by the settings, reached or started when first needed.

Rules of the file:
- A model that was named for this assistant goes before all settings, also where those name a cheaper one: who
  says `local` wants nothing to leave the machine.
- Nothing is downloaded without consent, and a library that was given none raises instead.
- A command line shares one local server per machine; an embedded assistant has a child of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from types import MappingProxyType

from planner import config
from planner.core.ledger import Rate
from planner.errors import ModelError
from planner.llm import weights
from planner.llm.chain import Chain, Link, dearest, rate_of
from planner.llm.choose import LOCAL, Choice, choose
from planner.llm.gateway import LiteLLMModel
from planner.llm.local import private_server, shared_server
from planner.llm.model import FREE, Model, Profile, profile_of

Consent = Callable[[str], bool]
"""Is asked before a download, with what it is, how large, and where it comes from."""

LOCAL_PROFILE = Profile(rendering="grammar", can_judge=False, context_tokens=8192, max_output_tokens=2048)
"""A small model writes valid plans under a grammar, and is no judge: 3 of 5 bad outputs passed it."""

LOCAL_TIMEOUT_S = 900.0
"""Two cores that others keep busy too can take minutes over the first prompt: 1,100 tokens at 5 to 70 a second."""


class Pool:
    """Models by role. `played` goes before `named` (a name or a ready `Model`), and that before all settings.

    `close` lets go of all.
    """

    def __init__(
        self,
        settings: config.Models,
        *,
        named: str | Model | None = None,
        played: Mapping[str, Model] = MappingProxyType({}),
        environ: Mapping[str, str],
        consent: Consent | None = None,
        progress: Callable[[int, int], None] | None = None,
        is_shared: bool = False,
    ) -> None:
        self._settings = settings
        self._named = named
        self.played = played
        """The roles that need no model, for code plays them."""
        self._environ = environ
        self._consent = consent
        self._progress = progress
        self._is_shared = is_shared
        self._models: dict[str, Model] = {}
        self._links: dict[str, Link] = {}
        self._chains: dict[tuple[str, ...], Chain] = {}
        self._found: dict[str, Choice] = {}
        self._offered: set[str] = set()
        """Whose download was agreed to, or not, while they were to answer in a chain."""
        self._resources = AsyncExitStack()
        self._turn = asyncio.Lock()
        self.choices: dict[str, Choice] = {}
        """Why each model that is in use was chosen, by the name that was asked for."""

    async def of(self, role: str, *, cheaper: bool = False) -> Model:
        """The model that plays `role`, or the one that is configured as `cheaper` than those of the roles.

        Raises `ModelError` if there is none, or it cannot be started; of a chain, if that is so for all.
        """
        if role in self.played:
            return self.played[role]
        if not (self._named is None or isinstance(self._named, str)):
            return self._named
        names = self._names(role, cheaper=cheaper)
        if len(names) == 1:
            return await self._model(names[0])
        if names not in self._chains:
            self._chains[names] = Chain(*map(self._link, names))
        await self._chains[names].ready()
        return self._chains[names]

    async def rates(self, roles: Iterable[str]) -> Mapping[str, Rate]:
        """What the models of each role cost at most; unknown where the price of one of them is.

        Nothing is reached, started or downloaded for it; litellm, which knows most prices, may be imported.
        """
        wanted = tuple(roles)
        free = {role: await rate_of(self.played[role]) for role in wanted if role in self.played}
        if not (self._named is None or isinstance(self._named, str)):
            return dict.fromkeys(wanted, await rate_of(self._named)) | free
        chains = {role: self._names(role) for role in wanted if role not in free}
        known = {name: await self._rate(name) for name in dict.fromkeys(chain.from_iterable(chains.values()))}
        return {role: dearest([known[name] for name in names]) for role, names in chains.items()} | free

    async def close(self) -> None:
        """Close the models and end what was started for them, also where closing one of them fails."""
        self._models, self._links, self._chains, self._found = {}, {}, {}, {}
        await self._resources.aclose()

    def _names(self, role: str, *, cheaper: bool = False) -> tuple[str, ...]:
        """What plays the role, in the order in which it is asked; an empty name leaves the choice to the runtime."""
        if isinstance(self._named, str) and self._named:
            return (self._named,)
        if cheaper and self._settings.cheaper:
            return (self._settings.cheaper,)
        return tuple(dict.fromkeys(self._settings.of(role))) or ("",)

    def _link(self, name: str) -> Link:
        """The one link to the model of that name: what is known of its failures holds in all chains."""
        if name not in self._links:
            profile = LOCAL_PROFILE if _is_local(name) else profile_of(name)
            said = _local_name(name) if _is_local(name) else name
            self._links[name] = Link(said, self._profile(said, profile), partial(self._linked, name))
        return self._links[name]

    async def _linked(self, name: str) -> Model:
        """The model as a link of chains, for which a download is offered only once: it is asked for at every call."""
        try:
            return await self._model(name)
        finally:
            self._offered.add(name)

    async def _model(self, name: str) -> Model:
        async with self._turn:
            if name not in self._models:
                model = self._models[name] = await self._reached(name)
                self._resources.push_async_callback(model.close)
            return self._models[name]

    async def _reached(self, wanted: str) -> Model:
        choice = await self._chosen(wanted)
        model = await self._local(choice) if choice.kind == "local" else self._remote(choice)
        self.choices[wanted] = self._found[wanted] = choice
        return model

    def _remote(self, choice: Choice) -> LiteLLMModel:
        return LiteLLMModel(
            choice.model,
            api_base=choice.api_base,
            profile=self._profile(choice.model, profile_of(choice.model, api_base=choice.api_base)),
            prices=self._settings.prices,
        )

    async def _rate(self, name: str) -> Rate:
        try:
            choice = self._found.get(name) or await self._choice(name)
            if choice.kind != "local":
                return await self._remote(choice).rate()
        except ModelError:  # there is none, or its settings are wrong, which is said when it is asked
            return Rate()
        price = self._settings.prices.get(_local_name(choice.model), FREE)
        return Rate(input_usd=price.input_usd, output_usd=price.output_usd)

    async def _chosen(self, wanted: str) -> Choice:
        """What the name means, after a download if it takes one and somebody agrees."""
        try:
            return await self._choice(wanted)
        except ModelError as error:
            if error.code not in {"M-150", "M-151"} or self._consent is None or wanted in self._offered:
                raise
            await asyncio.to_thread(self._pull, _alias(wanted), self._consent)
            return await self._choice(wanted)

    async def _choice(self, wanted: str) -> Choice:
        return await choose(
            wanted or None,
            environment=self._environ,
            has_weights=lambda: weights.find(weights.known()[0].alias) is not None,
        )

    def _pull(self, alias: str, consent: Consent) -> None:
        is_offline = self._environ.get("PLANNER_OFFLINE", "") not in {"", "0"}
        weights.pull(alias, consent=consent, progress=self._progress or _silent, offline=is_offline)

    async def _local(self, choice: Choice) -> Model:
        name = _local_name(choice.model)
        path = weights.find(_alias(choice.model))
        assert path is not None, "a local model is chosen only when its weights are there"
        if self._is_shared:
            endpoint = await shared_server(path)
        else:
            endpoint = await self._resources.enter_async_context(private_server(path))
        return LiteLLMModel(
            f"openai/{endpoint.alias}",
            name=name,
            api_base=endpoint.api_base,
            api_key=endpoint.api_key,
            profile=self._profile(name, LOCAL_PROFILE),
            timeout_s=LOCAL_TIMEOUT_S,
            prices={name: FREE, **self._settings.prices},
        )

    def _profile(self, name: str, known: Profile) -> Profile:
        """What is known of the model, with what the operator says of it instead."""
        said = self._settings.profiles.get(name)
        return known if said is None else known.model_copy(update=said.model_dump(exclude_none=True))


def _is_local(name: str) -> bool:
    return name.partition("/")[0] == LOCAL


def _alias(name: str) -> str:
    """The weights that a local model's name means: the default ones if it says no others."""
    said = name.partition("/")[2] if _is_local(name) else ""
    return said or weights.known()[0].alias


def _local_name(name: str) -> str:
    return f"{LOCAL}/{_alias(name)}"


def _silent(done_bytes: int, total_bytes: int) -> None:
    """Say nothing."""
