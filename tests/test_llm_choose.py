"""Which model is used, and why."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from planner.errors import ModelError
from planner.llm import Choice, choose
from planner.llm.choose import DEFAULTS, PROBE_S

KEYS = {"OPENAI_API_KEY": "k1", "MISTRAL_API_KEY": "k2"}
NOWHERE = "http://127.0.0.1:9/v1"


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """The base address of a server that gives `answer` to everything, or never answers."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def listing(*names: str) -> bytes:
    body = json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body


async def choice(
    named: str | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    weights: bool = False,
    servers: Sequence[str] = (),
    api_base: str | None = None,
) -> Choice:
    return await choose(
        named,
        environment=environment or {},
        has_weights=lambda: weights,
        servers=servers,
        api_base=api_base,
    )


def test_the_order_is_named_then_variable_then_key_then_server_then_weights() -> None:
    async def run() -> None:
        async with listening(listing("qwen3:8b")) as base:
            everything = {"PLANNER_MODEL": "gemini/g", **KEYS}
            ways = [
                await choice("openai/x", everything, weights=True, servers=[base]),
                await choice(None, everything, weights=True, servers=[base]),
                await choice(None, KEYS, weights=True, servers=[base]),
                await choice(None, {}, weights=True, servers=[base]),
                await choice(None, {}, weights=True),
            ]
        assert [way.model for way in ways] == [
            "openai/x",
            "gemini/g",
            DEFAULTS["OPENAI_API_KEY"],
            "openai/qwen3:8b",
            "local",
        ]
        assert [way.kind for way in ways] == ["hosted", "hosted", "hosted", "server", "local"]
        assert ways[3].api_base == base

    asyncio.run(run())


def test_a_choice_can_be_read_aloud_and_says_when_data_leaves() -> None:
    spoken = str(asyncio.run(choice(None, {"ANTHROPIC_API_KEY": "k"})))
    model = DEFAULTS["ANTHROPIC_API_KEY"]
    assert spoken == f"model {model} because ANTHROPIC_API_KEY is set; what it reads leaves this machine"
    assert "leaves this machine" in asyncio.run(choice("openai/x")).reason
    assert "leaves this machine" in asyncio.run(choice("openai/x", api_base="https://ours.example/v1")).reason
    assert "leaves" not in asyncio.run(choice("openai/x", api_base="http://localhost:8000/v1")).reason
    assert "leaves" not in asyncio.run(choice("ollama/qwen")).reason
    assert "leaves" not in asyncio.run(choice(None, weights=True)).reason


def test_a_named_model_at_an_address_is_a_server() -> None:
    here = asyncio.run(choice("openai/x", api_base="http://127.0.0.1:8000/v1"))
    assert (here.kind, here.api_base) == ("server", "http://127.0.0.1:8000/v1")
    assert asyncio.run(choice("ollama/qwen")).kind == "server"


def test_an_empty_variable_is_not_set() -> None:
    empty = {"PLANNER_MODEL": "", "OPENAI_API_KEY": "", "GEMINI_API_KEY": "k"}
    assert asyncio.run(choice(None, empty)).model == DEFAULTS["GEMINI_API_KEY"]


@pytest.mark.parametrize("name", ["local", "local/small"])
def test_the_local_model_needs_its_weights(name: str) -> None:
    assert asyncio.run(choice(name, KEYS, weights=True)) == Choice(
        model=name, kind="local", reason="it was named; its weights are on this machine"
    )
    for named, environment in ((name, {}), (None, {"PLANNER_MODEL": name})):
        with pytest.raises(ModelError, match=r"M-151.*planner models pull"):
            asyncio.run(choice(named, environment))


def test_no_model_at_all_is_an_error_that_names_the_ways() -> None:
    with pytest.raises(ModelError, match="M-150") as caught:
        asyncio.run(choice(None, {}, servers=[NOWHERE]))
    for way in ("PLANNER_MODEL", "OPENAI_API_KEY", "Ollama", "planner models pull"):
        assert way in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n<html>a web application</html>",
        b'HTTP/1.1 200 OK\r\n\r\n{"data": null}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"name": "x"}]}',
        b'HTTP/1.1 200 OK\r\n\r\n["x"]',
        b"not even HTTP",
        b"",
        listing(),
        listing("nomic-embed-text", "gpt-oss:120b-cloud"),
    ],
)
def test_a_server_that_runs_no_text_model_itself_is_passed_over(answer: bytes) -> None:
    async def run() -> None:
        async with listening(answer) as other, listening(listing("nomic-embed-text", "qwen3")) as base:
            found = await choice(None, {}, servers=[NOWHERE, other, base])
            assert (found.model, found.api_base) == ("openai/qwen3", base)

    asyncio.run(run())


def test_a_server_that_does_not_answer_costs_little_time() -> None:
    async def run() -> None:
        async with listening(None) as silent:
            least = float("inf")
            for _ in range(20):  # a busy machine only ever adds
                started = time.monotonic()
                found = await choice(None, {}, weights=True, servers=[silent, silent, silent])
                assert found.model == "local"
                least = min(least, time.monotonic() - started)
                if least < PROBE_S + 0.3:
                    break
            assert least < PROBE_S + 0.3

    asyncio.run(run())


def test_every_default_model_is_known_with_its_price_and_follows_schemas() -> None:
    from planner.llm.gateway import LiteLLMModel

    asyncio.run(LiteLLMModel("openai/x").warm())
    import litellm

    for model in DEFAULTS.values():
        known = litellm.get_model_info(model)
        assert known["output_cost_per_token"], model
        assert known["supports_response_schema"], model
