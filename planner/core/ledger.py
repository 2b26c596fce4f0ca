"""Reserve and settle what a run may use: money, tokens, calls, seconds."""

from __future__ import annotations

from planner.core.labels import Frozen


class Budget(Frozen):
    """Limits of a run; None is unlimited."""

    cost_usd: float | None = None
    tokens: int | None = None
    calls: int | None = 500
    seconds: float | None = None
