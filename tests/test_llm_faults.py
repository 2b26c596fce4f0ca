"""What a provider's exception comes down to, in pure form and through the real clients."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from planner.core.redaction import NO_SECRETS, Redactor
from planner.errors import ModelError
from planner.llm.faults import UnavailableError, cause_of, chain, fault, redacted
from planner.llm.gateway import LiteLLMModel, Retry
from planner.llm.model import Ask, CassetteMiss, Message

ASK = Ask(role="planner", messages=(Message(role="user", content="Where?"),))
KEY = "sk-test-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"
both = pytest.mark.parametrize("name", ["openai/gpt-4.1", "anthropic/claude-haiku-4-5"])


def fault_of(model: LiteLLMModel) -> ModelError:
    """The error that asking ends with."""

    async def run() -> ModelError:
        with pytest.raises(ModelError) as caught:
            await model.complete(ASK)
        await model.close()
        return caught.value

    return asyncio.run(run())


def reaching(name: str) -> LiteLLMModel:
    """A model at an address where nobody listens."""
    return LiteLLMModel(name, api_base=NOWHERE, api_key=KEY, retry=Retry(waits=False))


def refused(status: int, headers: dict[str, str]) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/")
    return httpx.HTTPStatusError(
        "no", request=request, response=httpx.Response(status, headers=headers, request=request)
    )


def wrapped(inner: Exception, outer: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


def test_the_cause_beneath_decides_and_not_the_class_on_top() -> None:
    outer = RuntimeError("Connection error.")
    assert cause_of(tuple(chain(wrapped(ConnectionRefusedError(111, "no"), outer)))).code == "M-106"
    assert cause_of(tuple(chain(wrapped(TimeoutError(), outer)))).code == "M-105"
    assert cause_of(tuple(chain(wrapped(ImportError("No module named 'boto3'"), outer)))).code == "M-114"
    assert cause_of(tuple(chain(wrapped(refused(402, {}), outer)))).code == "M-113"
    assert cause_of(tuple(chain(wrapped(KeyError("choices"), outer)))).code == "M-109"


def test_a_chain_that_runs_in_a_circle_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(chain(first)) == [first, second]


@pytest.mark.parametrize(("wish", "least", "most"), [("7", 7, 7), ("0.5", 0.5, 0.5), ("-3", 0, 0), ("date", 25, 31)])
def test_a_wish_to_wait_is_read_as_number_or_date(wish: str, least: float, most: float) -> None:
    if wish == "date":
        wish = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    error = fault(refused(429, {"retry-after": wish}), ASK, name="m", redactor=NO_SECRETS)
    assert isinstance(error, UnavailableError)
    assert error.retry_after_s is not None
    assert least <= error.retry_after_s <= most


@pytest.mark.parametrize("wish", ["1e9", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wish_to_wait_counts_for_a_day_at_most(wish: str) -> None:
    assert fault(refused(429, {"retry-after": wish}), ASK, name="m", redactor=NO_SECRETS).retry_after_s == 86_400


@pytest.mark.parametrize("wish", ["soon", "", "nan", "inf", "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_a_wish_to_wait_that_cannot_be_read_is_none(wish: str) -> None:
    error = fault(refused(429, {"retry-after": wish}), ASK, name="m", redactor=NO_SECRETS)
    assert isinstance(error, UnavailableError)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    "text",
    [
        "the key S3cretWithoutForm is wrong",
        "Incorrect API key provided: sk-proj-abc***xyz",
        "Authorization: Bearer abcdefgh",
        "https://host/v1?key=abcdefgh&alt=json",
        "API key not valid: AIzaSyAbcdefghijk",
    ],
)
def test_a_key_of_any_look_is_taken_out(text: str) -> None:
    clean = redacted(text, Redactor.of({"OWN": "S3cretWithoutForm", "NONE": ""}))
    assert "[key]" in clean or "[secret OWN]" in clean
    assert not any(part in clean for part in ("S3cret", "abc", "Abcdef"))


def test_words_stay_as_they_are() -> None:
    text = "the key is wrong, and none of the task-specific keys is set"
    assert redacted(text, Redactor.of({"OWN": "none"})) == text


def test_a_long_story_is_cut_after_the_keys_are_taken_out() -> None:
    error = fault(
        ValueError("x" * 290 + "S3cretWithoutForm" + "y" * 500),
        ASK,
        name="m",
        redactor=Redactor.of({"OWN": "S3cretWithoutForm"}),
    )
    assert "S3cret" not in error.message
    assert len(error.message) < 400


@both
def test_a_server_that_is_not_there_is_said_to_be_out_of_reach(name: str) -> None:
    error = fault_of(reaching(name))
    assert (error.code, error.error_class) == ("M-106", "unavailable")
    assert "cannot be reached" in error.message


@both
def test_a_request_that_no_recording_answers_is_a_miss(name: str, tmp_path: Path) -> None:
    vcr = pytest.importorskip("vcr")
    with vcr.use_cassette(str(tmp_path / "empty.yaml"), record_mode="none"):
        error = fault_of(reaching(name))
    assert isinstance(error, CassetteMiss)
    assert (error.ask, error.code, error.error_class) == (ASK, "M-120", "missing")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("openai/gpt-4.1", "M-101"),
        ("anthropic/claude-haiku-4-5", "M-101"),
        ("gemini/gemini-flash-latest", "M-101"),
        ("no-such-provider/x", "M-102"),
    ],
)
def test_what_is_missing_before_a_request_is_sent_is_named_too(
    name: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert fault_of(LiteLLMModel(name)).code == code


@pytest.mark.parametrize("name", ["hosted_vllm/qwen", "lm_studio/qwen"])
def test_a_model_on_ones_own_server_needs_its_address(name: str) -> None:
    with pytest.raises(ModelError, match=r"M-116.*api_base"):
        LiteLLMModel(name)
