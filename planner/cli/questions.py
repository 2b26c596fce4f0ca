"""Questions to the person at the terminal: shown as cards, answered by what is typed.

Rules of the file:
- No answer is a no, or leaves the question open. What was typed before a question appeared does not answer it.
- An answer that does not fit is asked for again, with what would.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from planner.cards import Answer, Approver, Card, Each, Edited, Endorsed, Item, Said
from planner.cli import plans, terminal
from planner.cli.display import Display
from planner.cli.terminal import excerpt, line
from planner.core import picture
from planner.core.catalog import Effect
from planner.core.certificate import Certificate
from planner.core.intrinsics import fitting
from planner.core.labels import Integrity, Json, Label
from planner.core.plan import split_path
from planner.core.run import Run
from planner.errors import PlanError

SHOWN_CHARACTERS = 300
"""Of each argument on a card; how long it is stands beside it."""
EFFECTS: Mapping[Effect, str] = {
    "pure": "computes, and touches nothing",
    "read": "looks at something of yours",
    "fetch": "looks at something outside, which sees the request",
    "write": "changes something of yours",
    "send": "sends something to others",
    "spend": "spends money",
    "delete": "deletes something",
    "account": "changes accounts or rights",
    "execute": "may do anything this process may",
}
ASKED_AS: Mapping[str, str] = {
    "approve": "Allow it (? for more)? [y/N] ",
    "happened": "Did it happen? [y/n] ",
    "failed": "What now? [retry/skip/fail] ",
}


# ---- cards -------------------------------------------------------------------------------------------------


def shown(card: Card) -> Iterator[str]:
    """The card as lines: what would be called, with what, where each argument is from, and why it is asked."""
    yield ""
    if card.callee.kind in {"human", "gate"}:
        yield from _question(card)
        return
    declared = card.callee.declaration
    undo = "" if card.callee.is_reading else "; can be put back" if _is_reversible(card) else "; cannot be put back"
    count = f", {len(card.items)} times" if len(card.items) > 1 else ""
    yield f"{card.path}  {line(card.callee.name)}{count}: {line(card.callee.summary)}"
    names = [name for item in card.items for name in _given(item)]
    width = max([len("effect"), *map(len, names)])
    yield f"  {'effect':{width}}  {declared.effect}: {EFFECTS[declared.effect]}{undo}"
    for item in card.items:
        if count:
            yield f"  {item.path}"
        for name, value in _given(item).items():
            yield f"  {line(name):{width}}  {_value(value)}"
            yield from (f"  {'':{width}}  ({text})" for text in _told(item, name))
    yield f"  {'why':{width}}  {line(card.reason)}"


def _given(item: Item) -> Mapping[str, Json]:
    return item.arguments.value if isinstance(item.arguments.value, dict) else {}


def _told(item: Item, name: str) -> Iterator[str]:
    """Who may have chosen an argument, and where it stands in what earlier steps gave."""
    yield origin(item.arguments.at((name,)).overall())
    if item.arguments.at((name,)).overall().integrity < Integrity.TRUSTED:
        for excerpt_ in item.origins[name].excerpts:
            around = f"{excerpt_.before}[{excerpt_.value}]{excerpt_.after}"
            yield f"{excerpt_.step}, {line(excerpt_.callee)} gave: {line(around, SHOWN_CHARACTERS)}"


def _is_reversible(card: Card) -> bool:
    declared = card.callee.declaration
    return declared.reversible or declared.undo is not None


def _question(card: Card) -> Iterator[str]:
    """What the plan itself asks, and what the person should look at."""
    given = card.arguments.value if isinstance(card.arguments.value, dict) else {}
    asked = "asks for your approval" if card.callee.kind == "gate" else f"asks the {line(card.role)}"
    yield f"{card.path}  {asked}: {line(card.reason)}"
    if given.get("about") is not None:
        yield f"  about  {_value(given['about'])}"
        yield f"         ({origin(card.arguments.at(('about',)).overall())})"
    if card.question == "answer":
        yield f"  wants  {expected(card)}"


def expected(card: Card) -> str:
    """What fits as an answer that is a value: one of the choices, or a type."""
    given = card.arguments.value if isinstance(card.arguments.value, dict) else {}
    choices = given.get("choices")
    if isinstance(choices, list) and choices:
        return "one of " + ", ".join(line(str(choice)) for choice in choices)
    return _WANTED.get(str(given.get("type") or "text"), "text")


_WANTED: Mapping[str, str] = {
    "text": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "yes or no",
    "date": "a date such as 2026-12-04",
    "list[text]": "a list, with commas between",
    "record": "an object in JSON",
}


def _value(value: Json) -> str:
    text = excerpt(value, SHOWN_CHARACTERS)
    whole = excerpt(value, 0)
    return text if text == whole else f"{text} ({len(whole):,} characters)"


def origin(label: Label) -> str:
    """Who may have chosen the characters of a value."""
    word = {
        Integrity.TRUSTED: "your own words, or the plan made from them",
        Integrity.BOUNDED: "chosen among known values",
        Integrity.UNTRUSTED: "an outsider may have written it",
    }[label.integrity]
    sources = ", ".join(line(source) for source in sorted(label.sources))
    return f"{word}; from {sources}" if sources else word


def certified(run: Run, card: Card) -> Iterator[str]:
    """What the certificate says of the step that asks."""
    certificate, step = run.certificate, split_path(card.path)[0]
    if certificate is None:
        return
    part = Certificate(
        effects=tuple(change for change in certificate.effects if change.step == step),
        gates=tuple(gate for gate in certificate.gates if gate.step == step),
        flows=tuple(flow for flow in certificate.flows if flow.step == step),
    )
    yield from (f"  {line(text)}" for text in picture.told(part) if not text.endswith(" nothing"))


# ---- answers -----------------------------------------------------------------------------------------------


def approver(display: Display) -> Approver:
    """Shows cards on the terminal, one at a time; the end of input leaves a question open."""
    turn = asyncio.Lock()

    async def approve(card: Card) -> Answer:
        async with turn:
            with display.paused():
                for text in shown(card):
                    terminal.say(text)
                try:
                    return await _answered(card)
                except asyncio.CancelledError:  # somebody else has answered, or the run stops
                    terminal.say("")
                    raise

    return approve


async def deny(card: Card) -> Answer:
    """What `--on-ask deny` says: no to a call, and fail where one failed. What nobody else can know stays open."""
    match card.question:
        case "approve":
            return "no"
        case "failed":
            return "fail"
        case _:
            return None


async def _answered(card: Card) -> Answer:
    while True:
        sys.stderr.write(ASKED_AS.get(card.question) or f"Your answer ({expected(card)}): ")
        sys.stderr.flush()
        typed = await _typed()
        try:
            return answer(card, typed)
        except PlanError as error:
            terminal.say(line(error.message))


def answer(card: Card, typed: str | None) -> Answer:
    """What was typed as an answer: to allow takes a yes, what happened a yes or a no; None leaves it open.

    Raises `PlanError` P-304 or P-306 for what is no answer and should be asked for again.
    """
    word = "" if typed is None else typed.strip()
    if typed is None:
        return None
    if card.question == "answer":
        if not word:
            raise PlanError("P-304", f"An answer is wanted: {expected(card)}. Ctrl-D leaves the question open.")
        return Said(fitting(word, card.arguments.value))
    if card.question == "failed":
        found = [one for one in card.answers if word and one.startswith(word.lower())]
        if len(found) != 1:
            raise PlanError(
                "P-306", f"`{word}` is none of {', '.join(card.answers)}. Ctrl-D leaves the question open."
            )
        return found[0]
    if card.question == "approve" and card.callee.kind != "gate":
        return _approval(card, word)
    if terminal.is_yes(word):
        return "yes"
    return "no" if card.question == "approve" or word.lower() in {"n", "no"} else None


def _approval(card: Card, word: str) -> Answer:
    """Yes or no to a call, to some of several, or to another one than was shown."""
    first, _, rest = word.partition(" ")
    if terminal.is_yes(word):
        return "yes"
    if "=" in first:
        return Edited(edited(card, [word]))
    if first.lower() in {"v", "vouch"} and rest:
        return Endorsed(tuple(rest.replace(",", " ").split()))
    if word == "?":
        raise PlanError("P-306", HELP if len(card.items) == 1 else f"{HELP} `0 2` allows these items alone.")
    if len(card.items) > 1 and re.fullmatch(r"[0-9]+([ ,]+[0-9]+)*", word):
        chosen = {int(number) for number in re.findall(r"[0-9]+", word)}
        return Each({item.path: "yes" if split_path(item.path)[1] in chosen else "no" for item in card.items})
    return "no"


HELP = (
    "`y` allows it, and anything else denies it; `v NAME` allows it and asks no more because of that value in this "
    "run; `NAME=VALUE` allows it with another value."
)


def edited(card: Card, changes: Iterable[str]) -> dict[str, Json]:
    """The arguments that a person gives in the place of those that are asked about."""
    given = card.arguments.value if isinstance(card.arguments.value, dict) else {}
    return plans.changed(changes, given)


async def _typed() -> str | None:
    """The next line at the terminal; None at its end. Waiting for it stops nothing else, and can be cancelled."""
    import termios  # not everywhere, and needed only to ask

    loop = asyncio.get_running_loop()
    file = sys.stdin.fileno()
    ready = asyncio.Event()
    termios.tcflush(file, termios.TCIFLUSH)
    loop.add_reader(file, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file)
    data = os.read(file, 4096)
    return data.decode(errors="replace") if data else None
