"""What must hold of every run, and how a breach of it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from planner.core.events import Recorded

LAST = 14
"""How many events tell enough of what went wrong."""
Law: TypeAlias = Literal[
    "a decision is legal",
    "an effect happens once",
    "a finished call is not made again",
    "what is journaled as succeeded happened",
    "what happened is journaled",
    "effects keep the order of the plan",
    "effects are taken back in reverse order",
    "budgets hold",
    "a run never stalls",
    "an event that came is taken",
    "a pause holds",
    "a correction counts",
    "a run ends",
    "any course gives one end",
    "a cancelled run tells what is left",
    "what can be taken back is",
    "a late duplicate is refused",
    "a stale answer is refused",
    "the journal alone gives the state",
    "the core does not fail",
]


class BrokenLawError(Exception):
    """A law does not hold: which one, and in what."""

    def __init__(self, law: Law, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law: Law = law
        self.what = what


def told(seed: int, plan: str, history: Sequence[Recorded], what: str) -> str:
    """A breach in words, with all that is needed to see it again."""
    lines = [f"seed {seed}: {what}", f"plan: {plan}", f"the last of {len(history)} events:"]
    for recorded in history[-LAST:]:
        body = recorded.event.model_dump_json(exclude_defaults=True, by_alias=True)
        lines.append(f"  {recorded.run_seq:4} {recorded.event.type} {body:.200}")
    return "\n".join(lines)
