"""What the runtime asks of a model and what comes back, the `Model` protocol, and a scripted stand-in.

Rules of the file:
- Light: nothing here imports a provider's client, so start-up may import it.
- Whatever a failed call had answered before it failed was paid for: a `CallError` carries it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import BaseModel, Field, ValidationError

from planner.config import Price
from planner.core.events import Usage
from planner.core.labels import Frozen, Json
from planner.core.ledger import Rate
from planner.core.plan import Plan
from planner.errors import ErrorClass, ModelError, PlannerError
from planner.llm.schema import unfenced
from planner.roles import Asked

T = TypeVar("T", bound=BaseModel)

REASKS = 1
"""How often a model is shown what is wrong with its typed answer; a second time seldom helps."""

HOSTED = frozenset({
    "anthropic", "azure", "azure_ai", "bedrock", "cerebras", "cohere", "cohere_chat", "databricks",
    "deepseek", "fireworks_ai", "gemini", "groq", "mistral", "openai", "openrouter", "perplexity",
    "together_ai", "vertex_ai", "xai",
})  # fmt: skip
"""Providers whose models follow a JSON schema sent with the request, and are able to judge."""
COMPATIBLE = frozenset({"custom_openai", "hosted_vllm", "lm_studio", "openai", "openai_like"})
"""Providers that name only a wire format: with `api_base` they can be anybody's server."""
_BARE_NAMES = {"gpt-": "openai", "o1": "openai", "o3": "openai", "o4": "openai", "claude": "anthropic"}


class Message(Frozen):
    """One turn of the talk with a model."""

    role: Literal["system", "user", "assistant"]
    content: str


class Ask(Frozen):
    """What the runtime wants from a model, whichever model that is."""

    role: str
    """Who asks: `planner`, `writer`, `extractor`, ...; for telemetry and cassettes."""
    messages: tuple[Message, ...] = Field(min_length=1)
    answer_schema: Json = None
    """The JSON schema of the answer; None asks for text."""
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = 0.0
    seed: int = 0
    case: str = ""
    asked: Asked | None = Field(default=None, exclude=True, repr=False)
    """What the messages say, as a value, for code that plays the role."""

    def key(self, alias: str) -> str:
        """A hash of what is asked of the model `alias`; the provider's wire format does not enter it."""
        asked = {"alias": alias, **self.model_dump(mode="json", exclude={"role", "case"})}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class Profile(Frozen):
    """What a model can do, and how it is told the schema of an answer.

    `grammar`: as a grammar of the local server; `strict`: as the provider's response format; `plain`: not at
    all, the prompt has to say it.
    """

    rendering: Literal["grammar", "strict", "plain"] = "plain"
    can_judge: bool = False
    context_tokens: int | None = None
    max_output_tokens: int = Field(default=8192, ge=1)


FREE = Price(input_usd=0, output_usd=0, cached_usd=0)
"""What a model of one's own costs."""


def cost_usd(price: Price, usage: Usage) -> float | None:
    """What `usage` costs; None when the provider did not count the tokens of a model that costs money."""
    if price != FREE and not usage.input_tokens + usage.output_tokens:
        return None
    cached_usd = price.input_usd if price.cached_usd is None else price.cached_usd
    fresh_tokens = usage.input_tokens - usage.cached_tokens
    input_usd = fresh_tokens * price.input_usd + usage.cached_tokens * cached_usd
    return (input_usd + usage.output_tokens * price.output_usd) / 1e6


class Completion(Frozen):
    """An answer: its text, why it ended, what it used, and the full exchange for the record."""

    text: str
    plan: Plan | None = Field(default=None, exclude=True, repr=False)
    """The plan itself, where code plays the planner and gave one; a model only ever gives text."""
    finish: Literal["stop", "length", "refused"] = "stop"
    usage: Usage = Usage()
    exchange: Json = None
    """A list of `{"request": ..., "answer": ...}`, one for each time that the model answered.
    Neither keys nor addresses are in it."""


def joined(first: Completion, second: Completion) -> Completion:
    """The second answer, with what both used and said."""
    one, two = first.usage, second.usage
    usage = Usage(
        input_tokens=one.input_tokens + two.input_tokens,
        output_tokens=one.output_tokens + two.output_tokens,
        cached_tokens=one.cached_tokens + two.cached_tokens,
        cost_usd=None if one.cost_usd is None or two.cost_usd is None else one.cost_usd + two.cost_usd,
        seconds=one.seconds + two.seconds,
        model=two.model,
    )
    exchange = [turn for part in (first.exchange, second.exchange) if isinstance(part, list) for turn in part]
    return second.model_copy(update={"usage": usage, "exchange": exchange})


class CallError(ModelError):
    """A call of a model failed; `completions` is what was answered until then, and used."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        completions: tuple[Completion, ...] = (),
        hint: str = "",
        error_class: ErrorClass | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, error_class=error_class, retry_after_s=retry_after_s)
        self.completions = completions


class AnswerError(CallError):
    """A model answered, but not usably."""

    default_class: ClassVar[ErrorClass] = "failed"


class CassetteMiss(CallError):  # noqa: N818  a miss is the word for it
    """A recording is replayed and has no answer to `ask`; never tried again."""

    def __init__(self, message: str, *, ask: Ask, hint: str = "") -> None:
        super().__init__("M-120", message, hint=hint, error_class="missing")
        self.ask = ask


class Model(Protocol):
    """Something that answers."""

    name: str
    profile: Profile

    async def complete(self, ask: Ask) -> Completion:
        """The model's answer.

        Raises `ModelError`; `AnswerError` where a schema was given and the answer was cut off or refused.
        """
        ...

    async def typed(self, ask: Ask, response_model: type[T]) -> tuple[T, tuple[Completion, ...]]:
        """The answer as a `response_model`, and every completion it took.

        The model is told once what is wrong with an answer that does not fit; then this raises `AnswerError`.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections; the model can be used again, also in another event loop."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A model that knows what it costs before it is asked."""

    async def rate(self) -> Rate:
        """The price per million tokens; what is not known of it is None."""
        ...


def provider_of(model: str) -> str:
    """The provider that a litellm model string names, or `""` when it does not say."""
    provider, slash, _ = model.partition("/")
    if slash:
        return provider
    return next((known for start, known in _BARE_NAMES.items() if model.startswith(start)), "")


def profile_of(model: str, *, api_base: str | None = None) -> Profile:
    """What a model can do when nobody configured it: much for a known provider, little for a server."""
    provider = provider_of(model)
    is_somebodys_server = provider in COMPATIBLE and api_base is not None
    if provider not in HOSTED or is_somebodys_server:
        return Profile()
    return Profile(rendering="strict", can_judge=True)


def misfit(
    name: str, response_model: type[BaseModel], error: ValidationError, tries: Sequence[Completion]
) -> AnswerError:
    """The error for a typed answer that did not fit although the model was told what was wrong."""
    parts = error.errors(include_url=False, include_input=False)
    where = "; ".join(f"{'.'.join(map(str, part['loc'])) or 'answer'}: {part['msg']}" for part in parts[:3])
    return AnswerError(
        "M-111",
        f"model `{name}` answered {len(tries)} times with something that is no `{response_model.__name__}` ({where})",
        hint="Use a stronger model, or a simpler answer.",
        completions=tuple(tries),
    )


Scripted: TypeAlias = str | PlannerError | Callable[[Ask], str]
"""A text to answer with, an error to raise, or a function of what was asked."""


class ScriptedModel:
    """A model that answers from a script, for tests of everything that talks to models.

    Takes answers in order, or one function for all; records what was asked in `asks`. It counts words as
    tokens, and costs `cost_usd` a call (None: unknown).
    """

    def __init__(
        self,
        answers: Sequence[Scripted] | Callable[[Ask], str],
        *,
        name: str = "scripted",
        profile: Profile | None = None,
        cost_usd: float | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.name = name
        self.profile = profile or Profile(rendering="strict", can_judge=True)
        self.asks: list[Ask] = []
        self._answers = (answers,) if isinstance(answers, str) else answers
        self._cost_usd = cost_usd
        self._delay_s = delay_s

    async def complete(self, ask: Ask) -> Completion:
        """The script's next answer. Raises the error that stands in its place, or M-140 at its end."""
        answer = self._next(ask)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if isinstance(answer, PlannerError):
            raise answer
        text = answer if isinstance(answer, str) else answer(ask)
        usage = Usage(
            input_tokens=sum(len(message.content.split()) for message in ask.messages),
            output_tokens=len(text.split()),
            cost_usd=self._cost_usd,
            seconds=self._delay_s,
            model=self.name,
        )
        return Completion(text=text, usage=usage, exchange=[{"request": ask.model_dump(mode="json"), "answer": text}])

    async def typed(self, ask: Ask, response_model: type[T]) -> tuple[T, tuple[Completion, ...]]:
        """The script's next answer as a `response_model`, with one more try when it does not fit."""
        ask = ask.model_copy(update={"answer_schema": response_model.model_json_schema()})
        tries: list[Completion] = []
        while True:
            tries.append(await self.complete(ask))
            text = unfenced(tries[-1].text)
            try:
                return response_model.model_validate_json(text), tuple(tries)
            except ValidationError as error:
                if len(tries) > REASKS:
                    raise misfit(self.name, response_model, error, tries) from error
                said = Message(role="assistant", content=text)
                wrong = Message(role="user", content=f"Correct your JSON, it has these errors:\n{error}")
                ask = ask.model_copy(update={"messages": (*ask.messages, said, wrong)})

    async def rate(self) -> Rate:
        """Nothing for a token where a call has a price, for that does not depend on tokens; else unknown."""
        return Rate() if self._cost_usd is None else Rate(input_usd=0.0, output_usd=0.0)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _next(self, ask: Ask) -> Scripted:
        self.asks.append(ask)
        if callable(self._answers):
            return self._answers
        if len(self.asks) > len(self._answers):
            raise ModelError(
                "M-140",
                f"the script of `{self.name}` has {len(self._answers)} answers, and role `{ask.role}` asked"
                f" for one more: `{ask.messages[-1].content[-200:]}`",
                hint="Add an answer to the script, or find out who asks once too often.",
                error_class="invalid",
            )
        return self._answers[len(self.asks) - 1]
