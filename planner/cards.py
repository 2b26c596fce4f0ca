"""Questions to people as cards, and answers as the events that the questions want.

Rules of the file:
- A plan's step asks with one card, whatever the number of its items; each of them may be answered apart.
- A card is data: any front end may show it, if it escapes what it shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from planner.core.catalog import Callee
from planner.core.egress import shown_to
from planner.core.events import HumanAnswered, Question
from planner.core.intrinsics import fitting
from planner.core.labels import Json, Labelled
from planner.core.plan import StepPath, map_path, split_path
from planner.core.provenance import Origin, origins
from planner.core.run import Run, item_paths
from planner.core.state import callee_at
from planner.errors import PlanError


@dataclass(frozen=True, slots=True)
class Item:
    """One call, or one question, that a card is about."""

    path: StepPath
    arguments: Labelled
    reason: str
    asked: int
    """The event that asks it; an answer to another one does not count."""
    binding: str = ""
    """The SHA-256 of all that an approval is for: callee version, arguments, labels, rules."""
    due_at: datetime | None = None
    """Until when the answer counts."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Of each argument how far it can be trusted, and where it stands in what earlier steps gave."""


@dataclass(frozen=True, slots=True)
class Card:
    """A question to a person about one step of a plan, with everything needed to answer it."""

    run_id: str
    path: StepPath
    question: Question
    callee: Callee
    items: tuple[Item, ...]
    """What is asked about: the step itself, or each item of its map."""
    role: str = "user"
    """Who is asked."""

    @property
    def item(self) -> Item:
        """What is asked about, or the first of several."""
        return self.items[0]

    @property
    def arguments(self) -> Labelled:
        """The arguments of the call, or of the first of several."""
        return self.item.arguments

    @property
    def reason(self) -> str:
        """Why it is asked."""
        return "; ".join(dict.fromkeys(item.reason for item in self.items))

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


@dataclass(frozen=True, slots=True)
class Edited:
    """The call is allowed with these arguments in the place of its own."""

    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Endorsed:
    """The call is allowed, and nobody is asked again in this run because of these values of these arguments."""

    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Each:
    """A word for each item, by path; those that are not named stay open."""

    answers: Mapping[StepPath, str]


Answer: TypeAlias = str | Said | Edited | Endorsed | Each | None
Approver: TypeAlias = Callable[[Card], Awaitable[Answer]]
"""Answers a card; None leaves it open, and the run waits."""


# from a run ---------------------------------------------------------------------------------------------------


def card_of(run: Run, path: StepPath) -> Card:
    """The open question at `path`: of a step, of one item, or of all items of a map that wait for an approval.

    Raises `PlanError` P-305 if there is none.
    """
    places = (path,) if _is_asked(run, path) else tuple(p for p in item_paths(run, path) if _is_approval(run, p))
    if not places:
        raise PlanError("P-305", f"nothing is asked at `{path}`; open are: {', '.join(asked(run)) or 'no questions'}")
    question = run.step(places[0]).question
    assert question is not None, "what is asked has a question"
    callee = run.started.setup.catalogue[callee_at(run, places[0])]
    return Card(
        run_id=run.id,
        path=path,
        question=question,
        callee=callee,
        items=tuple(_item(run, place) for place in places),
        role=callee.name.partition(".")[2] if callee.kind == "human" else "user",
    )


def asked(run: Run) -> tuple[StepPath, ...]:
    """Where the run asks a person: one place for each card."""
    places = dict.fromkeys(_node(run, path) for path in run.steps if _is_asked(run, path))
    return tuple(places)


def _node(run: Run, path: StepPath) -> StepPath:
    """The map whose items are asked about together, else the place itself."""
    is_item = split_path(path)[1] is not None
    return map_path(path) if is_item and _is_approval(run, path) else path


def _is_asked(run: Run, path: StepPath) -> bool:
    state = run.step(path)
    return state.status == "asked" and state.question is not None


def _is_approval(run: Run, path: StepPath) -> bool:
    return _is_asked(run, path) and run.step(path).question == "approve"


def _item(run: Run, path: StepPath) -> Item:
    state = run.step(path)
    arguments = state.arguments or Labelled(value={})
    reader = run.started.principal.name
    return Item(
        path=path,
        arguments=shown_to(arguments, reader),
        reason=state.reason,
        asked=state.asked,
        binding=state.binding,
        due_at=state.due,
        origins=origins(run, shown_to(arguments, reader)),
    )


# answers ------------------------------------------------------------------------------------------------------


def answered(card: Card, answer: Answer, *, by: str) -> tuple[HumanAnswered, ...]:
    """The events that answer a card, one for each item.

    Raises `PlanError` P-304, P-306 or P-307 for what is no answer to it.
    """
    words = answer.answers if isinstance(answer, Each) else {item.path: answer for item in card.items}
    items = {item.path: item for item in card.items}
    for path in words.keys() - items.keys():
        raise PlanError("P-306", f"`{path}` is no item of the card; it has {', '.join(items)}")
    given = {path: word for path, word in words.items() if word is not None}
    return tuple(fitted(card, _event(card, items[path], word, by)) for path, word in given.items())


def _event(card: Card, item: Item, answer: Answer, by: str) -> HumanAnswered:
    match answer:
        case Said(value=value):
            said: dict[str, object] = {"answer": "value", "value": value}
        case Edited(arguments=arguments):
            said = {"answer": "edit", "value": dict(arguments)}
        case Endorsed(arguments=names):
            said = {"answer": "endorse", "value": list(names)}
        case _:
            said = {"answer": answer}
    about = {"path": item.path, "asked": item.asked, "binding": item.binding, "by": by}
    try:
        return HumanAnswered.model_validate(about | said)
    except ValueError as error:
        what = f"the question at `{item.path}` is not answered by `{answer}`, but by {_words(card)}"
        raise PlanError("P-306", what, choices=card.answers) from error


def _words(card: Card) -> str:
    return " or ".join(f"`{word}`" for word in card.answers) or "a value, as `Said(value)`"


def fitted(card: Card, event: HumanAnswered) -> HumanAnswered:
    """The answer as the question wants it. Raises `PlanError` P-304, P-306 or P-307 if it is none."""
    if event.answer == "value" and not card.answers:
        return event.model_copy(update={"value": fitting(event.value, card.arguments.value)})
    if event.answer in {"edit", "endorse"} and card.question == "approve" and card.callee.kind != "gate":
        _check_names(card, event)
        return event
    if event.answer not in card.answers:
        what = f"the question at `{event.path}` is answered by {_words(card)}, not `{event.answer}`"
        raise PlanError("P-306", what, choices=card.answers)
    return event


def _check_names(card: Card, event: HumanAnswered) -> None:
    """Raises `PlanError` P-307 where what is edited or vouched for is no argument of the call."""
    known = [parameter.name for parameter in card.callee.parameters]
    named = event.value if isinstance(event.value, dict if event.answer == "edit" else list) else None
    if not named:
        what = "new values by argument" if event.answer == "edit" else "the names of arguments"
        raise PlanError("P-307", f"the call at `{event.path}` needs {what}; it has {', '.join(known) or 'none'}")
    for name in named:
        if name not in known:
            raise PlanError("P-307", f"`{card.callee.name}` has no argument `{name}`; it has {', '.join(known)}")
