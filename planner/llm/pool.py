"""The models of an assistant: one per role, chosen by the settings, reached or started when first needed.

Rules of the file:
- Nothing is downloaded without consent, and a library that was given none raises instead.
- A command line shares one local server per machine; an embedded assistant has a child of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from planner import config
from planner.errors import ModelError
from planner.llm import weights
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
    """Models by role. `named` (a name or a ready `Model`) goes before all settings; `close` lets go of all."""

    def __init__(
        self,
        settings: config.Models,
        *,
        named: str | Model | None = None,
        environ: Mapping[str, str],
        consent: Consent | None = None,
        progress: Callable[[int, int], None] | None = None,
        is_shared: bool = False,
    ) -> None:
        self._settings = settings
        self._named = named
        self._environ = environ
        self._consent = consent
        self._progress = progress
        self._is_shared = is_shared
        self._models: dict[str, Model] = {}
        self._resources = AsyncExitStack()
        self._turn = asyncio.Lock()
        self.choices: dict[str, Choice] = {}
        """Why each model that is in use was chosen, by the name that was asked for."""

    async def of(self, role: str) -> Model:
        """The model that plays `role`. Raises `ModelError` if there is none, or it cannot be started."""
        if self._named is not None and not isinstance(self._named, str):
            return self._named
        wanted = self._named or self._settings.of(role) or ""
        async with self._turn:
            if wanted not in self._models:
                model = self._models[wanted] = await self._reached(wanted)
                self._resources.push_async_callback(model.close)
            return self._models[wanted]

    async def close(self) -> None:
        """Close the models and end what was started for them, also where closing one of them fails."""
        self._models = {}
        await self._resources.aclose()

    async def _reached(self, wanted: str) -> Model:
        choice = await self._chosen(wanted)
        self.choices[wanted] = choice
        if choice.kind == "local":
            return await self._local(choice.model.partition("/")[2] or weights.known()[0].alias)
        return LiteLLMModel(
            choice.model,
            api_base=choice.api_base,
            profile=self._profile(choice.model, profile_of(choice.model, api_base=choice.api_base)),
            prices=self._settings.prices,
        )

    async def _chosen(self, wanted: str) -> Choice:
        async def attempt() -> Choice:
            return await choose(
                wanted or None,
                environment=self._environ,
                has_weights=lambda: weights.find(weights.known()[0].alias) is not None,
            )

        try:
            return await attempt()
        except ModelError as error:
            if error.code not in {"M-150", "M-151"} or self._consent is None:
                raise
            alias = wanted.partition("/")[2] if wanted.startswith(f"{LOCAL}/") else weights.known()[0].alias
            await asyncio.to_thread(self._pull, alias, self._consent)
            return await attempt()

    def _pull(self, alias: str, consent: Consent) -> None:
        is_offline = self._environ.get("PLANNER_OFFLINE", "") not in {"", "0"}
        weights.pull(alias, consent=consent, progress=self._progress or _silent, offline=is_offline)

    async def _local(self, alias: str) -> Model:
        path = weights.find(alias)
        assert path is not None, "a local model is chosen only when its weights are there"
        if self._is_shared:
            endpoint = await shared_server(path)
        else:
            endpoint = await self._resources.enter_async_context(private_server(path))
        return LiteLLMModel(
            f"openai/{endpoint.alias}",
            name=f"{LOCAL}/{alias}",
            api_base=endpoint.api_base,
            api_key=endpoint.api_key,
            profile=self._profile(f"{LOCAL}/{alias}", LOCAL_PROFILE),
            timeout_s=LOCAL_TIMEOUT_S,
            prices={f"{LOCAL}/{alias}": FREE, **self._settings.prices},
        )

    def _profile(self, name: str, known: Profile) -> Profile:
        """What is known of the model, with what the operator says of it instead."""
        said = self._settings.profiles.get(name)
        return known if said is None else known.model_copy(update=said.model_dump(exclude_none=True))


def _silent(done_bytes: int, total_bytes: int) -> None:
    """Say nothing."""
