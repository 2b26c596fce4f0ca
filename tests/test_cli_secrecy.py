"""Whose secrets the command line must not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli.options import parse
from planner.cli.secrecy import redactor_of

SETTINGS = '[secrets]\nnames = ["SHOP_KEY"]\n'
KEY = "sk-proj-aBcDeFgHiJkLmNoP"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_KEY", "hunter22")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_API_KEY", "ollama")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "planner.toml").write_text(SETTINGS)


def shown(*words: str) -> str:
    return redactor_of(parse(words)).text(f"hunter22, {KEY}, ollama")


def test_those_of_the_assistant_that_is_named_or_here_and_the_keys_of_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them = "[secret SHOP_KEY], [secret OPENAI_API_KEY], ollama"
    assert shown("run", "--assistant", "shop", "Buy") == all_of_them
    monkeypatch.chdir(tmp_path / "shop")
    assert shown("runs", "list") == all_of_them


def test_where_an_assistant_cannot_be_read_the_keys_of_providers_alone(tmp_path: Path) -> None:
    keys = "hunter22, [secret OPENAI_API_KEY], ollama"
    assert shown("runs", "list") == keys
    assert shown("run", "--assistant", "nowhere", "Buy") == keys
    (tmp_path / "planner.toml").write_text("[secrets\n")
    assert shown("runs", "list") == keys
