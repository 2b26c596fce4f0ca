"""Chains of models over real loopback servers: who is asked when others fail, and who is left alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from aiohttp import web
from pydantic import BaseModel

from planner.config import Price
from planner.core.ledger import Rate
from planner.errors import ModelError
from planner.llm import AnswerError, Ask, Chain, Completion, LiteLLMModel, Message, Profile, Retry, ScriptedModel
from planner.llm.chain import Link, most_careful
from planner.llm.model import CallError, Model

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
VIENNA = '{"city": "Vienna"}'
PRICE = Price(input_usd=1, output_usd=10)
STRICT = Profile(rendering="strict", can_judge=True)
PATIENCE_S = 120.0
"""Beyond this a test hangs."""
R = TypeVar("R")
Reply = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


class Town(BaseModel):
    city: str


def says(text: str, finish: str = "stop") -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "id": "a1", "object": "chat.completion", "created": 1, "model": "served",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
            }
        )  # fmt: skip

    return reply


def fails(status: int, message: str = "oops", retry_after: str | None = None) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        headers = {"retry-after": retry_after} if retry_after else None
        return web.json_response({"error": {"message": message}}, status=status, headers=headers)

    return reply


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(PATIENCE_S)
    return web.Response()


@dataclass
class Server:
    """Gives its replies in order, the last one for ever, and counts how often it was asked."""

    replies: tuple[Reply, ...]
    url: str = ""
    asked: int = field(default=0)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.replies[min(self.asked, len(self.replies)) - 1](request)

    def model(self, name: str, **options: Any) -> LiteLLMModel:
        """A model on this server, known as `name`, that tries once."""
        known = {"api_base": f"{self.url}/v1", "profile": STRICT, "retry": Retry(tries=1), "prices": {name: PRICE}}
        return LiteLLMModel("openai/served", name=name, **{**known, **options})


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[Server]:
    server = Server(replies)
    application = web.Application()
    application.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def ask(**more: Any) -> Ask:
    return Ask(role="writer", messages=(Message(role="user", content="Where?"),), **more)


def ran(work: Coroutine[Any, Any, R]) -> R:
    async def within() -> R:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(within())


def talk(
    first: tuple[Reply, ...],
    second: tuple[Reply, ...],
    what: Callable[[Model], Coroutine[Any, Any, R]],
    *,
    options: Mapping[str, Any] | None = None,
) -> tuple[R, int, int]:
    """What comes of asking a chain of two, and how often each was asked; the options are the first one's."""

    async def work() -> tuple[R, int, int]:
        async with serving(*first) as one, serving(*second) as two:
            chain = Chain(one.model("a", **(options or {})), two.model("b"))
            try:
                return await what(chain), one.asked, two.asked
            finally:
                await chain.close()

    return ran(work())


def complete(**more: Any) -> Callable[[Model], Coroutine[Any, Any, Completion]]:
    return lambda model: model.complete(ask(**more))


def failing(typed: bool = False, **more: Any) -> Callable[[Model], Coroutine[Any, Any, ModelError]]:
    async def work(model: Model) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await (model.typed(ask(**more), Town) if typed else model.complete(ask(**more)))
        return caught.value

    return work


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# who is asked -----------------------------------------------------------------------------------------------------


def test_while_the_first_answers_no_other_is_asked() -> None:
    answer, first, second = talk((says("In Vienna."),), (says("In Graz."),), complete())
    assert (answer.text, answer.usage.model, first, second) == ("In Vienna.", "a", 1, 0)


@pytest.mark.parametrize(
    "reply",
    [
        fails(500),
        fails(503),
        fails(429, "slow down"),
        fails(429, "slow down", retry_after="3600"),
        fails(429, "insufficient_quota"),
        fails(402, "pay first"),
        fails(401, "Incorrect API key"),
        fails(404, "no such model any more"),
    ],
    ids=["500", "503", "429", "429-later", "quota", "402", "401", "404"],
)
def test_where_a_model_cannot_be_had_the_next_one_answers(reply: Reply) -> None:
    answer, first, second = talk((reply,), (says("In Vienna."),), complete())
    assert (answer.text, answer.usage.model, first, second) == ("In Vienna.", "b", 1, 1)
    assert answer.usage.input_tokens == 10
    assert answer.usage.cost_usd == pytest.approx(40e-6)


def test_a_model_out_of_reach_and_one_that_stays_silent_are_replaced_too() -> None:
    nowhere = {"api_base": f"http://127.0.0.1:{free_port()}/v1"}
    answer, first, _ = talk((hangs,), (says("In Vienna."),), complete(), options=nowhere)
    assert (answer.usage.model, first) == ("b", 0)
    answer, first, _ = talk((hangs,), (says("In Vienna."),), complete(), options={"timeout_s": 0.3})
    assert (answer.usage.model, first) == ("b", 1)


def test_a_model_without_its_key_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    async def work() -> Completion:
        async with serving(says("In Vienna.")) as server:
            chain = Chain(LiteLLMModel("anthropic/claude-haiku-4-5"), server.model("b"))
            try:
                return await chain.complete(ask())
            finally:
                await chain.close()

    assert ran(work()).usage.model == "b"


def test_each_model_tries_again_what_may_pass_before_the_next_is_asked() -> None:
    patient = {"retry": Retry(tries=3, waits=False)}
    answer, first, second = talk(
        (fails(503), fails(503), says("Vienna")), (says("Graz"),), complete(), options=patient
    )
    assert (answer.text, first, second) == ("Vienna", 3, 0)
    answer, first, second = talk((fails(503),), (says("Graz"),), complete(), options=patient)
    assert (answer.text, first, second) == ("Graz", 3, 1)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (fails(400, "no such setting"), "M-112"),
        (fails(400, "rejected by our safety system"), "M-108"),
        (says("I will not.", "content_filter"), "M-108"),
        (says(""), "M-109"),
        (says('{"town": 1}'), "M-111"),
    ],
    ids=["invalid", "rejected", "refused", "empty", "misfit"],
)
def test_what_is_wrong_with_the_question_or_its_answer_is_raised_and_no_other_is_asked(
    reply: Reply, code: str
) -> None:
    error, _, second = talk((reply,), (says(VIENNA),), failing(typed=True))
    assert (error.code, second) == (code, 0)


def test_what_is_too_long_for_one_is_given_to_those_that_may_read_more() -> None:
    long = fails(400, "prompt is too long: 9 tokens > 8 maximum")

    async def work(*windows: int | None) -> tuple[str, list[int]]:
        async with serving(long) as one, serving(long) as two, serving(says("Vienna")) as three:
            servers = (one, two, three)
            pairs = zip(servers, windows, strict=True)
            chain = Chain(*[server.model("x", profile=Profile(context_tokens=window)) for server, window in pairs])
            try:
                said = (await chain.complete(ask())).text
            except ModelError as error:
                said = error.code
            finally:
                await chain.close()
            return said, [server.asked for server in servers]

    assert ran(work(8, 8, 9)) == ("Vienna", [1, 0, 1])
    assert ran(work(8, None, 9)) == ("Vienna", [1, 1, 1])
    assert ran(work(8, 9, 9)) == ("M-103", [1, 1, 0])


@pytest.mark.parametrize("retry", [Retry(), Retry(waits=False)])
def test_a_provider_that_asks_for_more_than_a_minute_is_not_waited_for(retry: Retry) -> None:
    replies = (fails(503, retry_after="0.2"), fails(429, retry_after="61"))
    answer, first, _ = talk(replies, (says("Vienna"),), complete(), options={"retry": retry})
    assert (answer.usage.model, first) == ("b", 2)


# what is counted --------------------------------------------------------------------------------------------------


def test_what_a_model_used_before_it_failed_is_counted_in_the_answer_of_another() -> None:
    cut = says('{"ci', "length")
    answer, first, _ = talk((cut,), (says(VIENNA),), complete(answer_schema=SCHEMA))
    assert (answer.text, first) == (VIENNA, 2)
    assert (answer.usage.model, answer.usage.input_tokens, answer.usage.output_tokens) == ("b", 30, 9)
    assert answer.usage.cost_usd == pytest.approx(3 * 40e-6)
    assert isinstance(answer.exchange, list)
    assert len(answer.exchange) == 3


def test_a_typed_answer_comes_with_every_completion_of_every_model() -> None:
    (town, tries), first, second = talk(
        (says("no town"), fails(503)), (says("none"), says(VIENNA)), lambda model: model.typed(ask(), Town)
    )
    assert town == Town(city="Vienna")
    assert [answer.usage.model for answer in tries] == ["a", "b", "b"]
    assert (first, second) == (2, 2)


def test_an_answer_that_was_cut_off_is_counted_also_where_the_longer_one_never_came() -> None:
    error, first, _ = talk((says('{"ci', "length"), fails(401)), (fails(401),), failing(answer_schema=SCHEMA))
    assert (error.code, first) == ("M-117", 2)
    assert isinstance(error, CallError)
    assert [answer.usage.output_tokens for answer in error.completions] == [3]


def test_the_error_of_the_last_model_carries_what_the_ones_before_it_used() -> None:
    error, _, _ = talk((says("no town"), fails(503)), (says('{"ci', "length"),), failing(typed=True))
    assert isinstance(error, AnswerError)
    assert error.code == "M-110"
    assert [(answer.usage.model, answer.usage.output_tokens) for answer in error.completions] == [("a", 3), ("b", 6)]


def test_an_error_of_a_model_of_any_make_carries_it_too() -> None:
    denied = ModelError("X-1", "no", hint="Ask somebody else.", error_class="denied")

    async def work() -> tuple[ModelError, ModelError]:
        async with serving(says('{"ci', "length")) as server:
            one, two = server.model("a"), ScriptedModel([denied, denied])
            found = await failing(answer_schema=SCHEMA)(Chain(one, two)), await failing()(Chain(two, one))
            await one.close()
            return found

    carrying, bare = ran(work())
    assert isinstance(carrying, CallError)
    assert (carrying.code, carrying.hint, carrying.error_class) == ("X-1", denied.hint, "denied")
    assert carrying.completions
    assert bare is denied


# where nobody answers ---------------------------------------------------------------------------------------------


def test_where_nobody_can_be_had_the_error_says_why_of_each() -> None:
    error, _, _ = talk((fails(503, "on fire"),), (fails(401, "bad key"),), failing())
    assert (error.code, error.error_class, error.retry_after_s) == ("M-117", "unavailable", None)
    assert "[M-107] model `a` failed at its provider: on fire; [M-101] model `b`" in error.message
    error, _, _ = talk((fails(401),), (fails(402),), failing())
    assert (error.code, error.error_class) == ("M-117", "denied")
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("second", "wait_s"), [(fails(503, retry_after="90"), 90), (fails(401), 120), (fails(503), None)]
)
def test_it_says_when_the_first_of_them_is_back_if_that_is_known(second: Reply, wait_s: float | None) -> None:
    error, _, _ = talk((fails(429, retry_after="120"),), (second,), failing())
    assert (error.code, error.retry_after_s) == ("M-117", wait_s)


def test_the_error_of_a_chain_of_one_is_its_own() -> None:
    async def work() -> ModelError:
        async with serving(fails(503)) as server:
            model = server.model("a")
            error = await failing()(Chain(model))
            await model.close()
            return error

    assert ran(work()).code == "M-107"


# who is left alone ------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


DOWN = ModelError("M-106", "model `a` cannot be reached")


def test_a_model_that_failed_five_times_in_a_row_is_left_alone_and_then_tried_once() -> None:
    clock = Clock()
    first, second = ScriptedModel([DOWN] * 6 + ["Vienna"] * 2, name="a"), ScriptedModel(["Graz"] * 9, name="b")
    chain = Chain(first, second, clock=clock)

    async def work() -> list[tuple[str, int]]:
        found = []
        for passed_s in [0.0] * 6 + [31.0, 1.0, 28.0, 32.0, 0.0]:
            clock.now += passed_s
            found.append(((await chain.complete(ask())).text, len(first.asks)))
        return found

    found = ran(work())
    assert [count for _, count in found] == [1, 2, 3, 4, 5, 5, 6, 6, 6, 7, 8]
    assert [text for text, _ in found] == ["Graz"] * 9 + ["Vienna"] * 2


def test_where_all_are_left_alone_the_error_says_for_how_long() -> None:
    clock = Clock()
    one, two = ScriptedModel([DOWN] * 5, name="a"), ScriptedModel([DOWN] * 5, name="b")
    chain = Chain(one, two, clock=clock)

    async def work() -> ModelError:
        for _ in range(5):
            await failing()(chain)
        clock.now += 10.0
        return await failing()(chain)

    error = ran(work())
    assert (error.code, error.error_class, error.retry_after_s) == ("M-117", "unavailable", 20.0)
    assert "[M-118] model `a` failed 5 times in a row, and is left alone for 20 s more" in error.message
    assert (len(one.asks), len(two.asks)) == (5, 5)


def test_what_is_known_of_a_model_holds_in_all_chains_that_share_its_link() -> None:
    first = ScriptedModel([DOWN] * 5, name="a")
    link, spare = Link.to(first), ScriptedModel(["Graz"] * 9)

    async def work() -> list[str]:
        chains = [Chain(link, spare), Chain(link, spare)]
        return [(await chains[n % 2].complete(ask())).text for n in range(7)]

    assert ran(work()) == ["Graz"] * 7
    assert len(first.asks) == 5


def test_a_model_that_answers_something_else_is_not_left_alone() -> None:
    refusal = AnswerError("M-108", "model `a` refuses to answer", error_class="denied")
    first = ScriptedModel([DOWN, refusal] * 6, name="a")

    async def work() -> int:
        chain = Chain(first, ScriptedModel(["Graz"] * 6))
        for _ in range(6):
            await chain.complete(ask())
            await failing()(chain)
        return len(first.asks)

    assert ran(work()) == 12


def test_a_trial_that_is_cancelled_leaves_room_for_the_next() -> None:
    clock = Clock()

    async def work() -> str:
        waiting = asyncio.Event()

        async def waits(request: web.Request) -> web.StreamResponse:
            waiting.set()
            return await hangs(request)

        async with serving(*[fails(503)] * 5, waits, says("Vienna")) as server:
            chain = Chain(server.model("a"), ScriptedModel(["Graz"] * 6), clock=clock)
            for _ in range(5):
                await chain.complete(ask())
            clock.now += 30.0
            trial = asyncio.create_task(chain.complete(ask()))
            await waiting.wait()
            assert (await chain.complete(ask())).text == "Graz"  # one trial at a time
            trial.cancel()
            await asyncio.gather(trial, return_exceptions=True)
            answer = await chain.complete(ask())
            await chain.close()
            return answer.text

    assert ran(work()) == "Vienna"


# what a chain is --------------------------------------------------------------------------------------------------


def test_a_chain_can_do_what_all_of_its_models_can() -> None:
    strict = Profile(rendering="strict", can_judge=True, context_tokens=100, max_output_tokens=20)
    local = Profile(rendering="grammar", max_output_tokens=10)
    assert most_careful([strict, local]) == Profile(rendering="plain", context_tokens=100, max_output_tokens=10)
    assert most_careful([strict, strict]) == strict
    chain = Chain(ScriptedModel([], name="a", profile=strict), ScriptedModel([], name="b"))
    assert (chain.name, chain.profile.rendering, chain.profile.can_judge) == ("a", "strict", True)


def test_a_chain_costs_what_its_dearest_model_does() -> None:
    def priced(**prices: float) -> LiteLLMModel:
        return LiteLLMModel("openai/x", prices={"openai/x": Price.model_validate(prices)})

    one, two = priced(input_usd=1, output_usd=5), priced(input_usd=2, output_usd=4)
    assert ran(Chain(one, two).rate()) == Rate(input_usd=2, output_usd=5)
    assert ran(Chain(one, ScriptedModel([])).rate()) == Rate()
    assert ran(Chain(one, ScriptedModel([], cost_usd=0.5)).rate()) == Rate(input_usd=1, output_usd=5)


class Sticky(ScriptedModel):
    closed = 0

    async def close(self) -> None:
        self.closed += 1
        raise OSError("stuck")


def test_all_models_of_a_chain_are_closed_also_where_closing_one_fails() -> None:
    models = [Sticky(["Vienna"]), Sticky([])]

    async def work() -> None:
        chain = Chain(*models)
        await chain.complete(ask())
        with pytest.raises(OSError, match="stuck"):
            await chain.close()

    ran(work())
    assert [model.closed for model in models] == [1, 1]
