"""What every model behind the gateway has in common, over two providers' wire formats and a real loopback server."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from aiohttp import web
from pydantic import BaseModel

from planner.config import Price
from planner.errors import ModelError
from planner.llm import (
    FREE,
    AnswerError,
    Ask,
    Completion,
    LiteLLMModel,
    Message,
    Profile,
    Retry,
)

KEY = "sk-test-0123456789abcdef"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
VIENNA = '{"city": "Vienna"}'
STRICT = Profile(rendering="strict", can_judge=True)
AT_ONCE = Retry(waits=False)
R = TypeVar("R")
Reply = Callable[[web.Request], Coroutine[Any, Any, web.Response]]


class Town(BaseModel):
    city: str


@dataclass(frozen=True)
class Wire:
    """A provider's wire format, as far as these tests need it."""

    name: str
    model: str
    unknown: str
    suffix: str
    listed_usd: float
    """What 10 input tokens, 4 of them cached, and 3 output tokens cost by litellm's table."""

    def body(self, text: str, finish: str) -> dict[str, Any]:
        if self.name == "openai":
            message = {"role": "assistant", "content": text}
            return {
                "id": "a1", "object": "chat.completion", "created": 1, "model": "served",
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {
                    "prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                    "prompt_tokens_details": {"cached_tokens": 4},
                },
            }  # fmt: skip
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        return {
            "id": "a1", "type": "message", "role": "assistant", "model": "served", "stop_sequence": None,
            "content": [{"type": "text", "text": text}] if text else [], "stop_reason": reasons[finish],
            "usage": {"input_tokens": 6, "output_tokens": 3, "cache_read_input_tokens": 4},
        }  # fmt: skip

    def says(self, text: str, *, finish: str = "stop") -> Reply:
        async def reply(_: web.Request) -> web.Response:
            return web.json_response(self.body(text, finish))

        return reply

    def fails(self, status: int, message: str, *, retry_after: str | None = None) -> Reply:
        async def reply(_: web.Request) -> web.Response:
            headers = {"retry-after": retry_after} if retry_after else None
            error = {"type": "error", "error": {"type": "some_error", "message": message}}
            return web.json_response(error, status=status, headers=headers)

        return reply

    def schema_in(self, body: dict[str, Any]) -> Any:
        if self.name == "openai":
            return body["response_format"]["json_schema"]["schema"]
        return body["output_format"]["schema"]


OPENAI = Wire("openai", "openai/gpt-4.1", "openai/unheard-of", "/v1", 3.8e-05)
ANTHROPIC = Wire("anthropic", "anthropic/claude-haiku-4-5", "anthropic/unheard-of", "", 2.14e-05)
both = pytest.mark.parametrize("wire", [OPENAI, ANTHROPIC], ids=lambda wire: wire.name)


@dataclass
class Server:
    """Gives its replies in order, the last one for ever, and keeps what it was asked."""

    replies: Sequence[Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await self.replies[min(len(self.bodies), len(self.replies)) - 1](request)


@asynccontextmanager
async def serving(*replies: Reply, port: int = 0) -> AsyncIterator[Server]:
    server = Server(replies)
    application = web.Application()
    application.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def ask(text: str = "Where?", **more: Any) -> Ask:
    return Ask(role="writer", messages=(Message(role="user", content=text),), **more)


def talk(
    wire: Wire, replies: Sequence[Reply], what: Callable[[LiteLLMModel], Coroutine[Any, Any, R]], **options: Any
) -> tuple[R, Server]:
    """The result of `what` with a model on a server that gives `replies`."""

    async def run() -> tuple[R, Server]:
        async with serving(*replies) as server:
            chosen = {"model": wire.model, "api_key": KEY, "profile": STRICT, "retry": AT_ONCE, **options}
            model = LiteLLMModel(api_base=server.url + wire.suffix, **chosen)
            try:
                return await what(model), server
            finally:
                await model.close()

    return asyncio.run(run())


def fault(
    wire: Wire, replies: Sequence[Reply], asked: Ask | None = None, **options: Any
) -> tuple[ModelError, Server]:
    """The error that asking ends with."""

    async def failing(model: LiteLLMModel) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await model.complete(asked or ask())
        return caught.value

    return talk(wire, replies, failing, **options)


@both
def test_a_text_comes_back_with_what_it_used(wire: Wire) -> None:
    answer, server = talk(wire, [wire.says("In Vienna.")], lambda model: model.complete(ask(max_tokens=77)))
    assert (answer.text, answer.finish) == ("In Vienna.", "stop")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (10, 3, 4)
    assert answer.usage.model == wire.model
    assert answer.usage.seconds > 0
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["temperature"]) == (77, 0)


@both
def test_the_exchange_is_recorded_whole_but_without_key_and_address(wire: Wire) -> None:
    answer, server = talk(wire, [wire.says("In Vienna.")], lambda model: model.complete(ask()))
    recorded = json.dumps(answer.exchange)
    assert "Where?" in recorded
    assert "In Vienna." in recorded
    assert KEY not in recorded
    assert server.url not in recorded
    assert KEY in server.headers[0].get("x-api-key", "") + server.headers[0].get("authorization", "")


@both
def test_a_schema_goes_to_the_provider_as_its_response_format(wire: Wire) -> None:
    asked = ask(answer_schema=SCHEMA)
    answer, server = talk(wire, [wire.says(VIENNA)], lambda model: model.complete(asked))
    assert json.loads(answer.text) == {"city": "Vienna"}
    assert wire.schema_in(server.bodies[0]) == SCHEMA


@both
def test_a_typed_answer_is_one_of_the_model_asked_for(wire: Wire) -> None:
    (town, tries), server = talk(wire, [wire.says(VIENNA)], lambda model: model.typed(ask(), Town))
    assert town == Town(city="Vienna")
    assert [answer.text for answer in tries] == [VIENNA]
    assert wire.schema_in(server.bodies[0])["required"] == ["city"]


@both
def test_a_typed_answer_that_does_not_fit_is_asked_for_once_more(wire: Wire) -> None:
    replies = [wire.says('{"town": 1}'), wire.says(VIENNA)]
    (town, tries), server = talk(wire, replies, lambda model: model.typed(ask(), Town))
    assert town == Town(city="Vienna")
    assert [answer.usage.input_tokens for answer in tries] == [10, 10]
    assert "city" in json.dumps(server.bodies[1]["messages"][-1])


@both
def test_a_typed_answer_that_never_fits_is_an_error_that_says_what_it_used(wire: Wire) -> None:
    async def failing(model: LiteLLMModel) -> AnswerError:
        with pytest.raises(AnswerError, match=r"M-111.*`Town`.*city: Field required") as caught:
            await model.typed(ask(), Town)
        return caught.value

    error, server = talk(wire, [wire.says('{"town": 1}')], failing)
    assert len(server.bodies) == len(error.completions) == 2


@both
def test_a_fault_during_a_typed_answer_keeps_its_own_name(wire: Wire) -> None:
    async def failing(model: LiteLLMModel) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await model.typed(ask(), Town)
        return caught.value

    error, _ = talk(wire, [wire.fails(401, "no")], failing)
    assert error.code == "M-101"
    cut, server = talk(wire, [wire.says("no town"), wire.says('{"ci', finish="length")], failing)
    assert cut.code == "M-110"
    assert isinstance(cut, AnswerError)
    assert [answer.usage.input_tokens for answer in cut.completions] == [10, 20]
    assert len(server.bodies) == 3


@both
def test_the_cost_is_the_listed_price_and_unknown_not_nothing_where_none_is_listed(wire: Wire) -> None:
    answer, _ = talk(wire, [wire.says("Vienna")], lambda model: model.complete(ask()))
    assert answer.usage.cost_usd == pytest.approx(wire.listed_usd)
    answer, _ = talk(wire, [wire.says("Vienna")], lambda model: model.complete(ask()), model=wire.unknown)
    assert answer.usage.cost_usd is None


@both
def test_ones_own_price_comes_before_the_listed_one(wire: Wire) -> None:
    prices = {wire.model: Price(input_usd=100, output_usd=1000, cached_usd=10)}
    answer, _ = talk(wire, [wire.says("Vienna")], lambda model: model.complete(ask()), prices=prices)
    assert answer.usage.cost_usd == pytest.approx((6 * 100 + 4 * 10 + 3 * 1000) / 1e6)
    free, _ = talk(wire, [wire.says("Vienna")], lambda model: model.complete(ask()), prices={wire.model: FREE})
    assert free.usage.cost_usd == 0


@both
@pytest.mark.parametrize(
    ("status", "said", "code", "error_class"),
    [
        (401, "Incorrect API key", "M-101", "denied"),
        (403, "no access to this", "M-101", "denied"),
        (404, "no such model", "M-102", "missing"),
        (400, "prompt is too long: 9 tokens > 8 maximum", "M-103", "limit"),
        (400, "This model's maximum context length is 8 tokens", "M-103", "limit"),
        (400, "rejected by our safety system", "M-108", "denied"),
        (400, "no such setting", "M-112", "invalid"),
        (422, "no such setting", "M-112", "invalid"),
        (429, "insufficient_quota", "M-113", "limit"),
    ],
)
def test_a_fault_that_stays_is_named_by_its_cause_and_not_tried_again(
    wire: Wire, status: int, said: str, code: str, error_class: str
) -> None:
    error, server = fault(wire, [wire.fails(status, said)])
    assert (error.code, error.error_class) == (code, error_class)
    assert f"`{wire.model}`" in error.message
    assert said in error.message
    assert error.hint
    assert len(server.bodies) == 1


@both
@pytest.mark.parametrize(("status", "code"), [(429, "M-104"), (500, "M-107"), (503, "M-107"), (529, "M-107")])
def test_a_fault_that_may_pass_is_tried_again_by_us_alone(wire: Wire, status: int, code: str) -> None:
    answer, server = talk(
        wire, [wire.fails(status, "oops"), wire.says("Vienna")], lambda model: model.complete(ask())
    )
    assert answer.text == "Vienna"
    assert len(server.bodies) == 2
    error, server = fault(wire, [wire.fails(status, "oops")], retry=Retry(tries=3, waits=False))
    assert (error.code, error.error_class) == (code, "unavailable")
    assert len(server.bodies) == 3


def test_a_fault_that_may_pass_is_waited_for() -> None:
    replies = [OPENAI.fails(500, "oops"), OPENAI.says("Vienna")]
    answer, _ = talk(OPENAI, replies, lambda model: model.complete(ask()), retry=Retry())
    assert answer.text == "Vienna"


@both
def test_a_provider_that_says_how_long_to_wait_is_obeyed(wire: Wire) -> None:
    replies = [wire.fails(429, "slow down", retry_after="0.4"), wire.says("Vienna")]
    started = time.monotonic()
    answer, _ = talk(wire, replies, lambda model: model.complete(ask()), retry=Retry())
    assert answer.text == "Vienna"
    assert time.monotonic() - started >= 0.4


@both
def test_a_wait_longer_than_the_time_limit_is_not_begun(wire: Wire) -> None:
    error, server = fault(wire, [wire.fails(429, "slow down", retry_after="3600")], retry=Retry())
    assert error.code == "M-104"
    assert getattr(error, "retry_after_s", None) == 3600
    assert len(server.bodies) == 1


@both
def test_a_silent_provider_is_given_up_when_the_time_is_over(wire: Wire) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    started = time.monotonic()
    error, server = fault(wire, [silent], timeout_s=0.3)
    assert (error.code, error.error_class) == ("M-105", "unavailable")
    assert time.monotonic() - started < 30
    assert len(server.bodies) == 1


@both
def test_an_answer_for_a_schema_that_is_cut_off_gets_twice_the_room_once(wire: Wire) -> None:
    replies = [wire.says('{"ci', finish="length"), wire.says(VIENNA)]
    asked = ask(answer_schema=SCHEMA, max_tokens=50)
    answer, server = talk(wire, replies, lambda model: model.complete(asked))
    assert answer.text == VIENNA
    assert [body["max_tokens"] for body in server.bodies] == [50, 100]
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (20, 6, 8)
    assert answer.usage.cost_usd == pytest.approx(2 * wire.listed_usd)
    assert isinstance(answer.exchange, list)
    assert len(answer.exchange) == 2


@both
def test_an_answer_that_stays_cut_off_is_an_error_that_says_what_it_used(wire: Wire) -> None:
    replies = [wire.says('{"ci', finish="length")]
    error, server = fault(wire, replies, ask(answer_schema=SCHEMA, max_tokens=50))
    assert (error.code, error.error_class) == ("M-110", "limit")
    assert isinstance(error, AnswerError)
    assert [answer.usage.output_tokens for answer in error.completions] == [6]
    tight = Profile(rendering="strict", max_output_tokens=50)
    _, server = fault(wire, replies, ask(answer_schema=SCHEMA, max_tokens=80), profile=tight)
    assert [body["max_tokens"] for body in server.bodies] == [50]


@both
def test_a_text_that_is_cut_off_says_so_and_stays(wire: Wire) -> None:
    replies = [wire.says("In Vi", finish="length")]
    answer, server = talk(wire, replies, lambda model: model.complete(ask(max_tokens=5)))
    assert (answer.text, answer.finish, len(server.bodies)) == ("In Vi", "length", 1)


@both
def test_an_empty_answer_is_an_error(wire: Wire) -> None:
    error, _ = fault(wire, [wire.says("")])
    assert (error.code, error.error_class) == ("M-109", "failed")
    error, _ = fault(wire, [wire.says("", finish="length")])
    assert error.code == "M-110"


@both
@pytest.mark.parametrize("body", ["<html>", "{}", '{"id": "x", "choices": [], "content": []}'])
def test_an_answer_that_is_none_is_an_error_and_not_tried_again(wire: Wire, body: str) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    error, server = fault(wire, [nonsense])
    assert error.code == "M-109"
    assert len(server.bodies) == 1


@both
def test_a_refusal_is_an_answer_in_text_and_an_error_where_a_schema_was_asked_for(wire: Wire) -> None:
    replies = [wire.says("I will not.", finish="content_filter")]
    answer, _ = talk(wire, replies, lambda model: model.complete(ask()))
    assert (answer.text, answer.finish) == ("I will not.", "refused")
    error, _ = fault(wire, replies, ask(answer_schema=SCHEMA))
    assert (error.code, error.error_class) == ("M-108", "denied")


@both
def test_a_key_that_a_provider_repeats_is_in_no_error_and_no_traceback(wire: Wire) -> None:
    other = "sk-live-abcdefghijklmnop"
    error, _ = fault(wire, [wire.fails(401, f"Incorrect API key provided: {KEY}, nor is {other}")])
    shown = "".join(traceback.format_exception(error)) + repr(error.args)
    assert KEY not in shown
    assert other not in shown
    assert error.__context__ is None


@both
def test_requests_carry_the_key_of_their_recording_only_while_there_is_a_tape(wire: Wire) -> None:
    async def twice(model: LiteLLMModel) -> Completion:
        await model.complete(ask(case="c1"))
        model.tape = True
        return await model.complete(ask(case="c1"))

    _, server = talk(wire, [wire.says("Vienna")], twice, name="planner-model")
    assert "x-planner-key" not in server.headers[0]
    assert server.headers[1]["x-planner-key"] == ask().key("planner-model")
    assert server.headers[1]["x-planner-case"] == "c1"


@both
def test_a_model_works_in_several_event_loops_when_closed_in_between(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}{wire.suffix}"
    model = LiteLLMModel(wire.model, api_base=base, api_key=KEY, max_parallel=1)

    async def run() -> list[str]:
        async with serving(wire.says("Vienna"), port=port):
            answers = await asyncio.gather(*(model.complete(ask()) for _ in range(3)))
            await model.close()
            answers.append(await model.complete(ask()))
            await model.close()
            return [answer.text for answer in answers]

    for _ in range(3):
        assert asyncio.run(run()) == ["Vienna"] * 4


@both
def test_no_more_requests_are_under_way_than_allowed(wire: Wire) -> None:
    most = running = 0

    async def counted(request: web.Request) -> web.Response:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1
        return await wire.says("Vienna")(request)

    async def many(model: LiteLLMModel) -> list[Completion]:
        return await asyncio.gather(*(model.complete(ask()) for _ in range(6)))

    talk(wire, [counted], many, max_parallel=2)
    assert most == 2


def test_the_local_server_gets_a_schema_as_a_compact_grammar_and_keeps_the_prompt() -> None:
    local = {"model": "openai/local", "profile": Profile(rendering="grammar")}
    reply = OPENAI.says('{"city":"Vienna"}')
    _, server = talk(OPENAI, [reply], lambda model: model.typed(ask(), Town), **local)
    (body,) = server.bodies
    schema = body["grammar"].partition("%json ")[2]
    assert json.loads(schema)["properties"]["city"]["type"] == "string"
    assert body["cache_prompt"] is True
    assert "response_format" not in body
    _, server = talk(OPENAI, [reply], lambda model: model.complete(ask()), **local)
    assert server.bodies[0]["cache_prompt"] is True
    assert "grammar" not in server.bodies[0]


def test_a_plain_model_is_told_the_schema_of_a_typed_answer_in_words_and_may_fence_it() -> None:
    (town, _), server = talk(
        OPENAI,
        [OPENAI.says('Here:\n```json\n{"city": "Vienna"}\n```')],
        lambda model: model.typed(ask(), Town),
        profile=Profile(rendering="plain"),
    )
    assert town == Town(city="Vienna")
    (body,) = server.bodies
    assert "response_format" not in body
    (message,) = body["messages"]
    assert message["content"].startswith("Where?\n\nAnswer with JSON only")
    assert '"city"' in message["content"]


def test_a_provider_that_sets_its_refusal_apart_has_it_read() -> None:
    async def refusal(_: web.Request) -> web.Response:
        body = OPENAI.body("", "stop")
        body["choices"][0]["message"] |= {"content": None, "refusal": "I cannot help with that."}
        return web.json_response(body)

    answer, _ = talk(OPENAI, [refusal], lambda model: model.complete(ask()))
    assert (answer.text, answer.finish) == ("I cannot help with that.", "refused")


def test_the_key_of_a_provider_never_goes_to_somebodys_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answer, server = talk(
        OPENAI, [OPENAI.says("Vienna")], lambda model: model.complete(ask()), model="openai/own", api_key=None
    )
    assert answer.text == "Vienna"
    assert KEY not in json.dumps(server.headers)
