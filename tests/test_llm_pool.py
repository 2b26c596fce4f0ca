"""Which models play a role, what they cost, and what is started or asked for only when it is needed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from planner.config import Ability, Models, Price
from planner.core.ledger import Rate
from planner.errors import ModelError
from planner.llm import Ask, Chain, LiteLLMModel, Message, ScriptedModel
from planner.llm.pool import Pool
from planner.llm.weights import QWEN_CODER

CLAUDE, GPT = "anthropic/claude-haiku-4-5", "openai/gpt-4.1"
MINE = Price(input_usd=3, output_usd=9)
ROOT = Path(__file__).parent.parent
R = TypeVar("R")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are kept: an empty folder, and the real one is out of sight."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def stored(cache: Path) -> None:
    """A file of the right name and size stands for the weights; it takes no room, and no server can read it."""
    program = "from planner.llm import weights; print(weights.default_cache())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(cache)
    folder.mkdir(parents=True)
    with (folder / f"{QWEN_CODER.alias}.gguf").open("wb") as file:
        file.truncate(QWEN_CODER.size_bytes)


@asynccontextmanager
async def provider(status: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A server in the place of all providers: Anthropic's part answers with this status, OpenAI's with a town."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if "messages" in request.path:
            return web.json_response({"error": {"message": "no"}}, status=status)
        message = {"role": "assistant", "content": "Vienna"}
        answer = {"id": "a1", "object": "chat.completion", "created": 1, "model": "served"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({**answer, "choices": choices, "usage": {"prompt_tokens": 10, "total_tokens": 10}})

    application = web.Application()
    application.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setenv("OPENAI_API_BASE", f"{url}/v1")
        monkeypatch.setenv("ANTHROPIC_API_BASE", url)
        for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.setenv(key, "sk-test-0123456789abcdef")
        yield
    finally:
        await runner.cleanup()


def ran(work: Coroutine[Any, Any, R]) -> R:
    async def within() -> R:
        async with asyncio.timeout(300):
            return await work

    return asyncio.run(within())


def asked(pool: Pool, monkeypatch: pytest.MonkeyPatch, *, status: int = 401, times: int = 1) -> list[str]:
    """Which model answers the writer, so many times."""

    async def work() -> list[str]:
        async with provider(status, monkeypatch):
            try:
                return [(await (await pool.of("writer")).complete(ASK)).usage.model for _ in range(times)]
            finally:
                await pool.close()

    return ran(work())


ASK = Ask(role="writer", messages=(Message(role="user", content="Where?"),))


# chains -----------------------------------------------------------------------------------------------------------


def test_the_next_model_of_a_role_answers_where_the_first_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Models(default=("openai/gpt-4o",), roles={"writer": (CLAUDE, GPT)}), environ={})
    assert asked(pool, monkeypatch) == [GPT]


def test_a_local_model_that_cannot_be_started_is_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache)
    pool = Pool(Models(default=("local", GPT)), environ={})
    assert asked(pool, monkeypatch, times=2) == [GPT, GPT]
    assert [*pool.choices] == [GPT]


def test_a_local_model_is_not_started_before_it_is_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache)
    pool = Pool(Models(default=(GPT, "local")), environ={})
    assert asked(pool, monkeypatch) == [GPT]
    assert [*pool.choices] == [GPT]


@pytest.mark.parametrize(("environ", "expected"), [({}, 1), ({"PLANNER_OFFLINE": "1"}, 0)])
def test_a_download_for_a_chain_is_offered_once_where_one_is_allowed(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: int
) -> None:
    offers: list[str] = []

    def consent(offer: str) -> bool:
        offers.append(offer)
        return False

    pool = Pool(Models(default=("local", GPT)), environ=environ, consent=consent)
    assert asked(pool, monkeypatch, times=3) == [GPT] * 3
    assert len(offers) == expected


def test_a_chain_of_which_no_model_can_be_had_says_why_of_each() -> None:
    pool = Pool(Models(default=("local", "hosted_vllm/qwen")), environ={})
    with pytest.raises(ModelError, match=r"M-117.*\[M-151\] model `local` .*\[M-116\]") as caught:
        ran(pool.of("writer"))
    assert caught.value.error_class == "missing"


def test_a_chain_is_as_careful_as_its_models_and_known_before_they_are_started(cache: Path) -> None:
    stored(cache)
    settings = Models(
        default=(GPT, "local"),
        roles={"validator": (GPT, CLAUDE), "chooser": (GPT, CLAUDE)},
        profiles={CLAUDE: Ability(max_output_tokens=77)},
    )

    async def work() -> None:
        pool = Pool(settings, environ={})
        mixed, alike = await pool.of("writer"), await pool.of("validator")
        assert (mixed.name, mixed.profile.rendering, mixed.profile.can_judge) == (GPT, "plain", False)
        assert (mixed.profile.context_tokens, mixed.profile.max_output_tokens) == (8192, 2048)
        assert (alike.profile.rendering, alike.profile.can_judge) == ("strict", True)
        assert alike.profile.max_output_tokens == 77
        assert await pool.of("chooser") is alike
        assert [*pool.choices] == [GPT]
        await pool.close()
        assert await pool.of("chooser") is not alike
        await pool.close()

    ran(work())


def test_the_local_model_of_a_chain_is_called_by_its_whole_name() -> None:
    async def work() -> str:
        pool = Pool(Models(default=("local", "local/other", GPT)), environ={})
        model = await pool.of("writer")
        await pool.close()
        return model.name

    assert ran(work()) == f"local/{QWEN_CODER.alias}"


def test_a_name_that_is_said_twice_is_one_model() -> None:
    async def work() -> bool:
        pool = Pool(Models(default=(GPT, GPT)), environ={})
        model = await pool.of("writer")
        await pool.close()
        return isinstance(model, LiteLLMModel)

    assert ran(work())


# a cheaper one ----------------------------------------------------------------------------------------------------


def test_a_cheaper_model_plays_any_role_where_one_is_configured() -> None:
    async def names(settings: Models, **options: Any) -> list[str]:
        pool = Pool(settings, environ={}, **options)
        found = [(await pool.of("writer", cheaper=cheaper)).name for cheaper in (False, True)]
        await pool.close()
        return found

    assert ran(names(Models(default=(CLAUDE,), cheaper=GPT))) == [CLAUDE, GPT]
    assert ran(names(Models(default=(CLAUDE,)))) == [CLAUDE, CLAUDE]
    assert ran(names(Models(cheaper=GPT), named=CLAUDE)) == [CLAUDE, CLAUDE]
    assert ran(names(Models(cheaper=GPT), named=ScriptedModel([]))) == ["scripted", "scripted"]


# prices -----------------------------------------------------------------------------------------------------------


def rates(settings: Models, *roles: str, environ: Mapping[str, str] | None = None, **options: Any) -> list[Rate]:
    async def work() -> list[Rate]:
        pool = Pool(settings, environ=environ or {}, **options)
        found = await pool.rates(roles)
        assert not pool.choices
        await pool.close()
        return [found[role] for role in roles]

    return ran(work())


def test_the_price_of_a_role_is_its_own_else_the_listed_one_else_unknown() -> None:
    roles = {
        "own": ("openai/mine",),
        "listed": (GPT,),
        "bare": ("claude-haiku-4-5",),
        "unknown": ("openai/unheard-of",),
        "of another provider": ("groq/gpt-4.1",),
        "free or not": ("ollama/llama3",),
        "wrong": ("hosted_vllm/qwen",),
    }
    settings = Models(roles=roles, prices={"openai/mine": MINE})
    listed, bare = Rate(input_usd=2, output_usd=8), Rate(input_usd=1, output_usd=5)
    assert rates(settings, *roles) == [Rate(input_usd=3, output_usd=9), listed, bare, *[Rate()] * 4]
    assert rates(Models(), "planner", environ={"PLANNER_MODEL": GPT}) == [listed]
    assert rates(settings, "own", named=GPT) == [listed]


def test_a_chain_costs_the_most_that_one_of_it_does() -> None:
    settings = Models(
        roles={"both": (CLAUDE, "openai/mine"), "one": ("openai/mine", "openai/unheard-of")},
        prices={"openai/mine": Price(input_usd=0.5, output_usd=9)},
    )
    assert rates(settings, "both", "one") == [Rate(input_usd=1, output_usd=9), Rate()]


def test_a_local_model_costs_nothing_unless_somebody_says_so_or_it_is_not_there(cache: Path) -> None:
    settings = Models(default=("local",), roles={"chained": ("local", "openai/mine")}, prices={"openai/mine": MINE})
    assert rates(settings, "planner", "chained") == [Rate(), Rate()]
    stored(cache)
    assert rates(settings, "planner", "chained") == [Rate(input_usd=0, output_usd=0), Rate(input_usd=3, output_usd=9)]
    priced = Models(default=("local",), prices={f"local/{QWEN_CODER.alias}": MINE})
    assert rates(priced, "planner") == [Rate(input_usd=3, output_usd=9)]


def test_a_model_that_was_given_says_itself_what_it_costs() -> None:
    class Plain:
        name = "plain"
        profile = ScriptedModel([]).profile
        complete = typed = close = ScriptedModel.complete

    free, none = Rate(input_usd=0, output_usd=0), Rate()
    assert rates(Models(), "planner", "writer", named=ScriptedModel([], cost_usd=0.5)) == [free, free]
    assert rates(Models(), "planner", named=ScriptedModel([])) == [none]
    assert rates(Models(), "planner", named=Plain()) == [none]
    given = Chain(LiteLLMModel(GPT), ScriptedModel([], cost_usd=0.0))
    assert rates(Models(), "planner", named=given) == [Rate(input_usd=2, output_usd=8)]


def test_the_price_of_a_local_model_is_known_without_anything_heavy(cache: Path) -> None:
    stored(cache)
    program = (
        "import asyncio, sys\n"
        "from planner.config import Models\n"
        "from planner.llm.pool import Pool\n"
        "rates = asyncio.run(Pool(Models(default=('local',)), environ={}).rates(['planner']))\n"
        "print(rates['planner'].input_usd, sorted({'litellm', 'openai', 'tenacity', 'instructor'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["0.0", "[]\n"]
