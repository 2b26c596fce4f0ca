"""`planner.toml` and the environment become one frozen value; an assistant's folders are found here."""

from __future__ import annotations

from planner.config.consent import content_hash, give_consent, has_consent
from planner.config.folders import FILE, Located, find_assistant, reference, state_dir, workspace_dir
from planner.config.reading import load
from planner.config.settings import (
    Ability,
    Config,
    Export,
    Limits,
    Models,
    Price,
    Secrets,
    pinned,
    provider_keys,
)

__all__ = [
    "FILE",
    "Ability",
    "Config",
    "Export",
    "Limits",
    "Located",
    "Models",
    "Price",
    "Secrets",
    "content_hash",
    "find_assistant",
    "give_consent",
    "has_consent",
    "load",
    "pinned",
    "provider_keys",
    "reference",
    "state_dir",
    "workspace_dir",
]
