"""The one place that talks to models: litellm for every provider, instructor for typed answers.

Rules of the file:
- litellm takes seconds to import: that happens in a thread, inside the first call or in `warm`.
- One owner of retries, tenacity, here; everything beneath it tries once. Only a fault that may pass by itself
  is tried again, no try starts later than `timeout_s` after the first, and a provider that asks for more than
  `PATIENCE_S` is not waited for: the error says how long it wants.
- What is recorded of an exchange is what was said, never who said it or where: no key, no address.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, ValidationError

from planner.config import Price, provider_keys
from planner.core.events import Usage
from planner.core.labels import Frozen, Json
from planner.core.ledger import Rate
from planner.core.redaction import Redactor
from planner.errors import ModelError, PlannerError
from planner.llm.faults import CUT_OFF, REFUSED, UNREADABLE, Cause, UnavailableError, chain, fault
from planner.llm.model import (
    COMPATIBLE,
    REASKS,
    AnswerError,
    Ask,
    CallError,
    Completion,
    Message,
    Profile,
    T,
    cost_usd,
    joined,
    misfit,
    profile_of,
    provider_of,
)
from planner.llm.schema import grammar, in_words, response_format, unfenced

if TYPE_CHECKING:
    from litellm import ModelResponse
    from openai.types.chat import ChatCompletion
    from tenacity import RetryCallState

HYGIENE = {
    "LITELLM_MODE": "PRODUCTION",  # else it loads a `.env` file of the working directory
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # these: else it fetches files from the network, unasked
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
}
"""What litellm reads from the environment while it is imported."""
FINISHES: Mapping[str, Literal["stop", "length", "refused"]] = {
    "length": "length",
    "content_filter": "refused",
}
PATIENCE_S = 60.0
"""Limits per minute are the longest that are worth waiting for inside a call; those per day are the caller's."""
ANYBODY = "none"
"""Stands for a key at somebody's own server, so that no key of a provider is sent there."""


class Retry(Frozen):
    """How often a fault that may pass is tried in all; `waits=False` is for tests, and tries at once."""

    tries: int = Field(default=4, ge=1)
    waits: bool = True


class LiteLLMModel:
    """Any model that litellm knows how to reach, by its litellm name.

    `name` is what people and recordings call it; `prices` is looked up by it, then by `model`. While `tape`
    is set, requests carry the headers by which recordings are matched.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str = "",
        api_base: str | None = None,
        api_key: str | None = None,
        profile: Profile | None = None,
        prices: Mapping[str, Price] | None = None,
        timeout_s: float = 120.0,
        max_parallel: int = 8,
        retry: Retry | None = None,
        tape: bool = False,
    ) -> None:
        provider = provider_of(model)
        if provider in COMPATIBLE - {"openai"} and api_base is None:
            raise ModelError(
                "M-116",
                f"model `{model}` is on a server of your own, and no address was given",
                hint="Set its `api_base`, for example `http://127.0.0.1:8000/v1`.",
                error_class="invalid",
            )
        if provider in COMPATIBLE and api_base is not None and api_key is None:
            api_key = ANYBODY
        self.name = name or model
        self.profile = profile or profile_of(model, api_base=api_base)
        self.tape = tape
        self._model = model
        self._reach = {"api_base": api_base, "api_key": api_key, "timeout": timeout_s}
        self._key = api_key
        self._price = (prices or {}).get(self.name) or (prices or {}).get(model)
        self._timeout_s = timeout_s
        self._max_parallel = max_parallel
        self._slots = asyncio.Semaphore(max_parallel)
        self._retry = retry or Retry()
        self._is_warm = False

    async def warm(self) -> None:
        """Imports what the first call needs, so that an application can do it beside other work."""
        if not self._is_warm:
            await asyncio.to_thread(_imported)
            self._is_warm = True

    async def complete(self, ask: Ask) -> Completion:
        """The model's answer; a cut-off one for a schema is asked for once more, with twice the room."""
        answer = await self._answered(ask)
        room = min(2 * ask.max_tokens, self.profile.max_output_tokens)
        if ask.answer_schema is not None and answer.finish == "length" and room > ask.max_tokens:
            try:
                longer = await self._answered(ask.model_copy(update={"max_tokens": room}))
            except CallError as error:
                error.completions = (answer, *error.completions)
                raise
            answer = joined(answer, longer)
        return self._usable(ask, answer)

    async def typed(self, ask: Ask, response_model: type[T]) -> tuple[T, tuple[Completion, ...]]:
        """The answer as a `response_model`, made by instructor over `complete`."""
        await self.warm()
        from instructor import Mode, from_litellm
        from instructor.core import InstructorRetryException

        tries: list[Completion] = []
        template = ask.model_copy(update={"answer_schema": response_model.model_json_schema()})
        if self.profile.rendering == "plain":
            template = _with_schema_in_words(template)

        async def answer(*, messages: Sequence[Mapping[str, str]], **_: object) -> ChatCompletion:
            said = tuple(Message.model_validate(turn) for turn in messages)
            tries.append(await self.complete(template.model_copy(update={"messages": said})))
            return _as_openai(unfenced(tries[-1].text))

        client = from_litellm(answer, mode=Mode.JSON_SCHEMA, async_client=True)
        create = cast("Callable[..., Awaitable[object]]", client.create)
        turns = [message.model_dump() for message in template.messages]
        try:
            await create(response_model=response_model, messages=turns, max_retries=REASKS)
            # Parsed once more, because instructor's value is of a subclass and carries the whole answer.
            return response_model.model_validate_json(unfenced(tries[-1].text)), tuple(tries)
        except InstructorRetryException as error:
            problem = self._typed_fault(error, response_model, tries)
        raise problem

    async def rate(self) -> Rate:
        """The price it was given, else the one that litellm lists; looking that up imports litellm."""
        if self._price is not None:
            return Rate(input_usd=self._price.input_usd, output_usd=self._price.output_usd)
        await self.warm()
        return _listed(self._model)

    async def close(self) -> None:
        """Closes litellm's connections, which all models of a process share; the next call opens new ones."""
        if self._is_warm:
            await _closed()
        self._slots = asyncio.Semaphore(self._max_parallel)

    async def _answered(self, ask: Ask) -> Completion:
        await self.warm()
        import tenacity

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_pass_soon),
            stop=tenacity.stop_after_attempt(self._retry.tries) | tenacity.stop_before_delay(self._timeout_s),
            wait=self._wait_s,
            reraise=True,
        )
        return await retrying(self._sent, ask)

    def _wait_s(self, state: RetryCallState) -> float:
        import tenacity

        if not self._retry.waits:
            return 0.0
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, UnavailableError) and error.retry_after_s is not None:
            return error.retry_after_s
        return tenacity.wait_random_exponential(multiplier=0.5, max=20)(state)

    async def _sent(self, ask: Ask) -> Completion:
        import litellm
        import openai

        request = self._request(ask)
        headers = {"x-planner-key": ask.key(self.name), "x-planner-case": ask.case} if self.tape else None
        once = {"max_retries": 0, "num_retries": 0, "drop_params": True, "extra_headers": headers}
        send: Callable[..., Awaitable[object]] = litellm.acompletion
        async with self._slots:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._timeout_s):
                    response = await send(**request, **self._reach, **once)
            except (openai.OpenAIError, TimeoutError) as error:
                problem = fault(error, ask, name=self.name, redactor=self._redactor())
            else:
                assert isinstance(response, litellm.ModelResponse)
                return self._completion(request, response, seconds=time.perf_counter() - started)
        # Raised here and not above, so that it does not drag the provider's exception along, keys and all.
        raise problem

    def _redactor(self) -> Redactor:
        """For keys that a provider might repeat: the one given, and those that litellm takes from the environment."""
        return Redactor.of({**provider_keys(os.environ), "key": self._key or ""})

    def _request(self, ask: Ask) -> dict[str, Json]:
        """What is said to the model; it is recorded, so nothing about who says it or where belongs in it."""
        request: dict[str, Json] = {
            "model": self._model,
            "messages": [message.model_dump() for message in ask.messages],
            "max_tokens": min(ask.max_tokens, self.profile.max_output_tokens),
            "temperature": ask.temperature,
            "seed": ask.seed,
        }
        schema = ask.answer_schema
        if self.profile.rendering == "grammar":
            told: dict[str, Json] = {} if schema is None else {"grammar": grammar(schema)}
            request["extra_body"] = {"cache_prompt": True, **told}
        elif self.profile.rendering == "strict" and schema is not None:
            request["response_format"] = response_format(schema)
        return request

    def _completion(self, request: Mapping[str, Json], response: ModelResponse, *, seconds: float) -> Completion:
        if not response.choices:
            raise self._bad(UNREADABLE)
        choice = response.choices[0]
        extras = choice.message.provider_specific_fields or {}
        refusal = str(extras.get("refusal") or "")
        exchange = {"request": dict(request), "answer": response.model_dump(mode="json")}
        return Completion(
            text=choice.message.content or refusal,
            finish="refused" if refusal else FINISHES.get(choice.finish_reason, "stop"),
            usage=self._usage(response, seconds=seconds),
            exchange=[exchange],
        )

    def _usage(self, response: ModelResponse, *, seconds: float) -> Usage:
        tokens = getattr(response, "usage", None)
        details = getattr(tokens, "prompt_tokens_details", None)
        usage = Usage(
            input_tokens=getattr(tokens, "prompt_tokens", 0) or 0,
            output_tokens=getattr(tokens, "completion_tokens", 0) or 0,
            cached_tokens=getattr(details, "cached_tokens", 0) or 0,
            seconds=seconds,
            model=self.name,
        )
        if self._price is not None:
            return usage.model_copy(update={"cost_usd": cost_usd(self._price, usage)})
        listed_usd = response.hidden_params.get("response_cost")
        # litellm also says 0 where its table has no price.
        return usage.model_copy(update={"cost_usd": listed_usd or None})

    def _usable(self, ask: Ask, answer: Completion) -> Completion:
        is_typed = ask.answer_schema is not None
        match answer.finish:
            case "refused" if is_typed:
                raise self._bad(REFUSED, answer)
            case "length" if is_typed or not answer.text.strip():
                raise self._bad(CUT_OFF, answer)
            case "stop" if not answer.text.strip():
                raise self._bad(UNREADABLE, answer)
            case _:
                return answer

    def _bad(self, cause: Cause, *answers: Completion) -> AnswerError:
        said = f": {answers[0].text[:300]}" if cause is REFUSED else ""
        return AnswerError(
            cause.code,
            f"model `{self.name}` {cause.says}{said}",
            hint=cause.hint,
            error_class=cause.error_class,
            completions=answers,
        )

    def _typed_fault(self, error: BaseException, response_model: type[T], tries: list[Completion]) -> PlannerError:
        for link in chain(error):
            if isinstance(link, CallError):
                link.completions = (*tries, *link.completions)
            if isinstance(link, PlannerError):
                return link
            if isinstance(link, ValidationError):
                return misfit(self.name, response_model, link, tries)
        return self._bad(UNREADABLE, *tries)


def _with_schema_in_words(ask: Ask) -> Ask:
    """`ask` with the schema at its end, for a model that takes no other; its turns still alternate."""
    *earlier, last = ask.messages
    told = last.model_copy(update={"content": f"{last.content}\n\n{in_words(ask.answer_schema)}"})
    return ask.model_copy(update={"messages": (*earlier, told)})


def _as_openai(text: str) -> ChatCompletion:
    from openai.types.chat import ChatCompletion

    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return ChatCompletion.model_validate(
        {"id": "", "created": 0, "model": "", "object": "chat.completion", "choices": [choice]}
    )


def _may_pass_soon(error: BaseException) -> bool:
    """Whether it is worth to try again within this call."""
    return isinstance(error, UnavailableError) and (error.retry_after_s or 0.0) <= PATIENCE_S


def _listed(model: str) -> Rate:
    """The price of the model by litellm's table, in which 0 stands for unknown too."""
    import litellm

    table: Mapping[str, Mapping[str, Any]] = litellm.model_cost
    provider, bare = provider_of(model), model.partition("/")[2]
    entry = table.get(model) or table.get(bare) or {}
    if model not in table and not str(entry.get("litellm_provider", "")).startswith(provider):
        return Rate()  # another provider's model of that name
    per_token = [entry.get(f"{side}_cost_per_token") for side in ("input", "output")]
    input_usd, output_usd = [round(usd * 1e6, 9) if usd else None for usd in per_token]
    return Rate(input_usd=input_usd, output_usd=output_usd)


def _imported() -> None:
    for name, value in HYGIENE.items():
        os.environ.setdefault(name, value)
    import litellm
    import openai.resources
    import tenacity  # noqa: F401

    assert openai.resources  # else the client imports them on the first call, while everything waits
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    logging.getLogger("instructor").setLevel(logging.CRITICAL)


async def _closed() -> None:
    import litellm
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    close: Callable[[], Awaitable[None]] = close_litellm_async_clients
    forget: Callable[[], None] = litellm.in_memory_llm_clients_cache.flush_cache
    await close()
    forget()
