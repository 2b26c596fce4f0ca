"""Which model to use when nobody, or somebody, said so; the reason can always be read aloud.

Rules of the file:
- The order: named > `PLANNER_MODEL` > a provider's key > a server on this machine > local weights.
- A reason says so when what the model reads leaves this machine.
- The environment is an argument; the only thing looked at here is who listens on loopback.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from planner.core.labels import Frozen
from planner.errors import ModelError
from planner.llm.model import provider_of

LOCAL = "local"
VARIABLE = "PLANNER_MODEL"
DEFAULTS: Mapping[str, str] = {
    "OPENAI_API_KEY": "openai/gpt-5.4-mini",
    "ANTHROPIC_API_KEY": "anthropic/claude-haiku-4-5",
    "GEMINI_API_KEY": "gemini/gemini-flash-latest",
    "MISTRAL_API_KEY": "mistral/mistral-large-latest",
    "GROQ_API_KEY": "groq/openai/gpt-oss-120b",
    "XAI_API_KEY": "xai/grok-4.20",
    "DEEPSEEK_API_KEY": "deepseek/deepseek-flash",
}
"""For each provider's key a model that plans well at a moderate price; the first key that is set wins."""
SERVERS = ("http://127.0.0.1:11434/v1", "http://127.0.0.1:8000/v1", "http://127.0.0.1:1234/v1")
"""Where Ollama, vLLM and LM Studio listen when nobody configured them."""
PROBE_S = 0.2
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
ON_LOOPBACK = frozenset({"llamafile", "ollama", "ollama_chat"})
"""Providers that are servers on this machine unless an address says otherwise."""

Kind = Literal["hosted", "server", "local"]
LEAVES = "what it reads leaves this machine"


class Choice(Frozen):
    """A model, where it is, and why this one."""

    model: str
    """A litellm name, or `local` or `local/<alias>` for weights on this machine."""
    kind: Kind
    reason: str
    api_base: str | None = None

    def __str__(self) -> str:
        return f"model {self.model} because {self.reason}"


async def choose(
    named: str | None = None,
    *,
    environment: Mapping[str, str],
    has_weights: Callable[[], bool],
    api_base: str | None = None,
    servers: Sequence[str] = SERVERS,
) -> Choice:
    """The model to use; `api_base` belongs to `named`.

    Raises `ModelError` M-150 when there is none, and M-151 when `local` is named without weights.
    """
    if named:
        return _named(named, "it was named", has_weights=has_weights, api_base=api_base)
    if variable := environment.get(VARIABLE):
        return _named(variable, f"{VARIABLE} names it", has_weights=has_weights)
    for key, model in DEFAULTS.items():
        if environment.get(key):
            return Choice(model=model, kind="hosted", reason=f"{key} is set; {LEAVES}")
    for base, models in zip(servers, await asyncio.gather(*map(_models_at, servers)), strict=True):
        if models:
            reason = f"the server at {base} on this machine offers it"
            return Choice(model=f"openai/{models[0]}", kind="server", reason=reason, api_base=base)
    if has_weights():
        return Choice(model=LOCAL, kind="local", reason="its weights are on this machine")
    raise ModelError(
        "M-150",
        "no model was found",
        hint=(
            f"Name one with {VARIABLE}, set a provider's key ({', '.join(DEFAULTS)}), start a server such as"
            " Ollama, or get the local model with `planner models pull`."
        ),
        error_class="missing",
    )


def _named(model: str, why: str, *, has_weights: Callable[[], bool], api_base: str | None = None) -> Choice:
    if model == LOCAL or model.startswith(f"{LOCAL}/"):
        if not has_weights():
            raise ModelError(
                "M-151",
                f"model `{model}` is not on this machine",
                hint="Get it with `planner models pull`, or name another model.",
                error_class="missing",
            )
        return Choice(model=model, kind="local", reason=f"{why}; its weights are on this machine")
    is_here = urlsplit(api_base).hostname in LOOPBACK if api_base else provider_of(model) in ON_LOOPBACK
    return Choice(
        model=model,
        kind="server" if api_base or is_here else "hosted",
        reason=f"{why}; {'its server is on this machine' if is_here else LEAVES}",
        api_base=api_base,
    )


async def _models_at(base: str) -> tuple[str, ...]:
    """The text models that a server runs itself; none when nobody, or somebody else, listens there."""
    try:
        async with asyncio.timeout(PROBE_S):
            listing = json.loads(await _fetched(f"{base}/models"))
            names = [str(model["id"]) for model in listing["data"]]
    except (OSError, ValueError, TypeError, KeyError):
        return ()
    # Ollama also lists models that it only passes on to a service elsewhere.
    return tuple(name for name in names if "embed" not in name.lower() and not name.endswith("cloud"))


async def _fetched(url: str) -> bytes:
    """The body at a loopback address; asked in HTTP/1.0, so that it comes in one piece."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\n")[0]:
            raise ValueError("not a listing of models")
        return body
    finally:
        writer.close()
