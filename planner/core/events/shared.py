"""What several facts say: what a model used, and why something failed."""

from __future__ import annotations

from typing import TypeAlias

from planner.core.labels import Frozen
from planner.errors import ErrorClass

BlobId: TypeAlias = str


class Usage(Frozen):
    """What one model call used; `cost_usd` is None when the price is unknown, never 0 for unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    model: str = ""
    exchange: BlobId | None = None
    """The full request and answer, kept as a blob."""


class Fault(Frozen):
    """Why something failed: a class that rules may read, and a text that only people may."""

    code: str
    error_class: ErrorClass
    message: str = ""
    choices: tuple[str, ...] = ()
    """Valid alternatives taken from the catalogue or the workspace listing."""
    retry_after_s: float | None = None
    """How long the other side asked to be left alone."""
