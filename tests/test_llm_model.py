"""What is asked of a model, and the scripted one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from pydantic import BaseModel

from planner.config import Price
from planner.core.events import Usage
from planner.errors import ModelError, ToolError
from planner.llm import FREE, AnswerError, Ask, Message, Model, Profile, ScriptedModel, profile_of
from planner.llm.model import cost_usd, provider_of


class Town(BaseModel):
    city: str


def ask(text: str = "Where?", **more: object) -> Ask:
    return Ask.model_validate({"role": "writer", "messages": [{"role": "user", "content": text}], **more})


def test_importing_the_package_imports_no_client_of_any_provider() -> None:
    heavy = "litellm", "instructor", "openai", "anthropic", "tenacity", "httpx", "aiohttp", "vcr"
    code = f"import sys, planner.llm; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_equal_asks_have_equal_keys_whoever_asks_and_in_whatever_case() -> None:
    assert ask().key("m") == ask().key("m") == ask(role="planner", case="c1").key("m")
    first = {"type": "object", "properties": {"a": {}, "b": {}}}
    second = {"properties": {"b": {}, "a": {}}, "type": "object"}
    assert ask(answer_schema=first).key("m") == ask(answer_schema=second).key("m")


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "Where? "}]},
        {"messages": [{"role": "system", "content": "Where?"}]},
        {"answer_schema": {"type": "object"}},
        {"max_tokens": 1025},
        {"temperature": 0.1},
        {"seed": 1},
    ],
)
def test_whatever_changes_the_answer_changes_the_key(more: dict[str, object]) -> None:
    changed = Ask.model_validate({**ask().model_dump(), **more})
    assert changed.key("m") != ask().key("m")
    assert ask().key("m") != ask().key("n")


def test_a_key_does_not_change_from_release_to_release() -> None:
    assert ask().key("m") == "90d4bad543c1db3a5ebb28286300256690b8b717ac7103d5d47aab531f734568"


def test_cached_tokens_cost_what_their_price_says() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=500_000, cached_tokens=400_000)
    assert cost_usd(Price(input_usd=2, output_usd=8, cached_usd=0.5), usage) == pytest.approx(1.2 + 0.2 + 4)
    assert cost_usd(Price(input_usd=2, output_usd=8), usage) == pytest.approx(2 + 4)


def test_tokens_that_nobody_counted_have_no_known_cost_unless_they_are_free() -> None:
    assert cost_usd(Price(input_usd=2, output_usd=8), Usage()) is None
    assert cost_usd(FREE, Usage()) == 0


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("openai/gpt-4.1", "openai"),
        ("gpt-4.1", "openai"),
        ("claude-haiku-4-5", "anthropic"),
        ("groq/openai/gpt-oss-120b", "groq"),
        ("something", ""),
    ],
)
def test_a_model_string_names_its_provider(model: str, provider: str) -> None:
    assert provider_of(model) == provider


def test_a_known_provider_is_trusted_with_schemas_and_judging_and_a_server_is_not() -> None:
    hosted = Profile(rendering="strict", can_judge=True)
    assert profile_of("anthropic/claude-haiku-4-5") == profile_of("gpt-4.1") == hosted
    assert profile_of("azure/ours", api_base="https://ours.example") == hosted
    assert profile_of("openai/qwen", api_base="http://127.0.0.1:8000/v1") == Profile()
    assert profile_of("ollama/qwen") == profile_of("something") == Profile()


def test_a_script_is_followed_in_order_and_remembers_what_was_asked() -> None:
    async def run() -> None:
        model = ScriptedModel(["one", lambda asked: asked.messages[-1].content.upper(), ToolError("T-1", "no")])
        assert (await model.complete(ask())).text == "one"
        assert (await model.complete(ask("two"))).text == "TWO"
        with pytest.raises(ToolError):
            await model.complete(ask("three"))
        assert [asked.messages[-1].content for asked in model.asks] == ["Where?", "two", "three"]
        with pytest.raises(ModelError, match=r"M-140.*3 answers.*`writer`.*`four`"):
            await model.complete(ask("four"))

    asyncio.run(run())


def test_a_script_may_be_one_function_or_one_text() -> None:
    async def run() -> None:
        echo = ScriptedModel(lambda asked: asked.role)
        assert [(await echo.complete(ask())).text for _ in range(3)] == ["writer"] * 3
        once = ScriptedModel("only this")
        assert (await once.complete(ask())).text == "only this"
        with pytest.raises(ModelError, match="M-140"):
            await once.complete(ask())

    asyncio.run(run())


def test_a_scripted_answer_counts_words_and_costs_what_is_given_else_nobody_knows() -> None:
    async def run() -> None:
        answer = await ScriptedModel(["in Vienna"], name="mine").complete(ask("where is it"))
        assert answer.usage == Usage(input_tokens=3, output_tokens=2, model="mine")
        assert answer.usage.cost_usd is None
        priced = await ScriptedModel(["in Vienna"], cost_usd=0.25).complete(ask())
        assert priced.usage.cost_usd == 0.25
        assert isinstance(priced.exchange, list)
        assert len(priced.exchange) == 1

    asyncio.run(run())


def test_a_scripted_model_may_be_slow_and_still_answers_many_at_once() -> None:
    async def run() -> None:
        model = ScriptedModel([f"{n}" for n in range(100)], delay_s=0.2)
        started = time.monotonic()
        answers = await asyncio.gather(*(model.complete(ask()) for _ in range(100)))
        assert [answer.text for answer in answers] == [f"{n}" for n in range(100)]
        assert 0.2 <= time.monotonic() - started < 100 * 0.2 / 2

    asyncio.run(run())


def test_a_typed_scripted_answer_gets_one_correction() -> None:
    async def run() -> None:
        model = ScriptedModel(['{"town": 1}', '```json\n{"city": "Vienna"}\n```'])
        town, tries = await model.typed(ask(), Town)
        assert (town, len(tries)) == (Town(city="Vienna"), 2)
        assert [message.role for message in model.asks[1].messages] == ["user", "assistant", "user"]
        assert "city" in model.asks[1].messages[-1].content
        assert model.asks[0].answer_schema == Town.model_json_schema()

        with pytest.raises(AnswerError, match=r"M-111.*2 times.*`Town`.*city: Field required") as caught:
            await ScriptedModel(lambda _: "{}").typed(ask(), Town)
        assert len(caught.value.completions) == 2

    asyncio.run(run())


def test_the_scripted_model_is_a_model() -> None:
    model: Model = ScriptedModel([])
    asyncio.run(model.close())
    assert model.profile.can_judge


def test_a_message_of_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="role"):
        Message.model_validate({"role": "tool", "content": ""})
