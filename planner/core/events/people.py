"""Facts of questions to people."""

from __future__ import annotations

from typing import Literal, TypeAlias

from planner.core.labels import Frozen, Json
from planner.core.plan import StepPath

Question: TypeAlias = Literal["approve", "happened", "failed", "answer"]
"""May this call be made? Did the effect in doubt take place? What now, that it failed? What a step wants to know."""


class HumanAsked(Frozen):
    """A person must decide before a step may go on."""

    type: Literal["HumanAsked"] = "HumanAsked"
    path: StepPath
    question: Question
    reason: str
    role: str = "user"
    """Who is asked."""
    timeout_s: float | None = None
    """After so long without an answer the step fails."""
    binding: str = ""
    """Of a call: what an approval is bound to, as `gate.binding` says."""


class HumanAnswered(Frozen):
    """A person, or the setting that stands for one, decided."""

    type: Literal["HumanAnswered"] = "HumanAnswered"
    path: StepPath
    answer: Literal["yes", "no", "edit", "endorse", "retry", "skip", "fail", "value"]
    """`yes` and `no` to `approve` and `happened`; `edit` and `endorse` to `approve`; `retry`, `skip` and `fail` to
    `failed`; else `value`."""
    by: str
    value: Json = None
    """The answer itself; of `edit` the arguments that are others now, of `endorse` the names of those vouched for."""
    asked: int | None = None
    """The `run_seq` of the question, where the answer is to no other one."""
    binding: str = ""
    """That of the question, where the answer is to no other call."""
