"""Questions to people as cards, and answers as the events that the questions want."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from planner.core.catalog import Callee
from planner.core.events import HumanAnswered, Question
from planner.core.intrinsics import fitting
from planner.core.labels import Json, Labelled
from planner.core.plan import StepPath
from planner.core.run import Run
from planner.core.state import callee_at
from planner.errors import PlanError


@dataclass(frozen=True, slots=True)
class Card:
    """A question to a person about one step, with everything needed to answer it."""

    run_id: str
    path: StepPath
    question: Question
    reason: str
    callee: Callee
    arguments: Labelled
    asked: int
    """The event that asks it; an answer to another one does not count."""
    role: str = "user"
    """Who is asked."""
    due_at: datetime | None = None
    """Until when the answer counts."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The words that answer it; none where a value is wanted."""
        match self.question:
            case "approve" | "happened":
                return ("yes", "no")
            case "failed":
                return ("retry", "skip", "fail")
            case _:
                return ()


@dataclass(frozen=True, slots=True)
class Said:
    """A person's answer that is a value, and not one of the card's words."""

    value: Json


Answer: TypeAlias = str | Said | None
Approver: TypeAlias = Callable[[Card], Awaitable[Answer]]
"""Answers a card with one of its words or a value; None leaves it open, and the run waits."""


def answered(card: Card, answer: str | Said, *, by: str) -> HumanAnswered:
    """The event that answers a card. Raises `pydantic.ValidationError` for a word that is no answer."""
    said = {"answer": "value", "value": answer.value} if isinstance(answer, Said) else {"answer": answer}
    return HumanAnswered.model_validate({"path": card.path, "by": by, "asked": card.asked, **said})


def card_of(run: Run, path: StepPath) -> Card:
    """The open question at `path`. Raises `PlanError` P-305 if there is none."""
    state = run.step(path)
    if state.status != "asked" or state.question is None:
        raise PlanError("P-305", f"nothing is asked at `{path}`; open are: {', '.join(asked(run)) or 'no questions'}")
    callee = run.started.setup.catalogue[callee_at(run, path)]
    return Card(
        run_id=run.id,
        path=path,
        question=state.question,
        reason=state.reason,
        callee=callee,
        arguments=state.arguments or Labelled(value={}),
        asked=state.asked,
        role=callee.name.partition(".")[2] if callee.kind == "human" else "user",
        due_at=state.due,
    )


def asked(run: Run) -> tuple[StepPath, ...]:
    """Where the run asks a person."""
    return tuple(path for path, state in run.steps.items() if state.status == "asked")


def fitted(card: Card, event: HumanAnswered) -> HumanAnswered:
    """The answer as the question wants it. Raises `PlanError` P-304 or P-306 if it is none."""
    if event.answer == "value" and not card.answers:
        return event.model_copy(update={"value": fitting(event.value, card.arguments.value)})
    if event.answer not in card.answers:
        words = " or ".join(f"`{word}`" for word in card.answers) or "a value"
        raise PlanError("P-306", f"the question at `{card.path}` is answered by {words}, not `{event.answer}`")
    return event
