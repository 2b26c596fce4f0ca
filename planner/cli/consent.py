"""What a person must agree to: another folder's code, a download, a call.

Rules of the file:
- No answer is a no. What was typed before a question appeared does not answer it.
- `--yes` agrees to downloads and to nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

from planner import config
from planner.cards import Answer, Approver, Card
from planner.cli import terminal
from planner.cli.display import Display
from planner.cli.options import Options
from planner.cli.terminal import excerpt, line
from planner.core.catalog import Effect
from planner.core.labels import Integrity, Json, Label
from planner.errors import UserError

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


# ---- code --------------------------------------------------------------------------------------------------


def assistant_folder(options: Options, state: Path) -> Path:
    """The folder of the assistant to use. One that was merely found is agreed to once for each content.

    Raises `UserError` U-410 if nobody agrees.
    """
    found = config.find_assistant(options.assistant, here=Path.cwd())
    if not found.needs_consent:
        return found.folder
    content = config.content_hash(found.folder)
    if config.has_consent(state, content):
        return found.folder
    if not options.is_json and terminal.is_interactive():
        for text in _offer(found.folder, content):
            terminal.say(text)
        if terminal.agrees("Load it?"):
            config.give_consent(state, content)
            return found.folder
    raise UserError(
        "U-410",
        f"nobody agreed to load the assistant in {found.folder}, which would run its code",
        hint="Name it to agree: `--assistant .`; or work from another folder.",
        error_class="denied",
    )


def _offer(folder: Path, content: str) -> Iterator[str]:
    tools = sorted(path.name for path in (folder / "tools").glob("*.py"))
    yield f"This folder holds an assistant of its own: {line(str(folder))}"
    yield f"To use it runs its code: {line(', '.join(tools), 200) or 'no tools'}"
    yield f"You are asked once for this content ({content[:12]})."


# ---- downloads ---------------------------------------------------------------------------------------------


def to_download(options: Options, display: Display | None = None) -> Callable[[str], bool] | None:
    """Answers for downloads: yes with `--yes`, else the person at the terminal; None where nobody could agree."""
    if options.is_agreed:
        return lambda offer: _said(offer, display)
    if options.is_json or not terminal.is_interactive():
        return None
    return lambda offer: _asked(offer, display)


def _said(offer: str, display: Display | None) -> bool:
    for text in offer.splitlines():
        (display.note if display else terminal.say)(line(text))
    return True


def _asked(offer: str, display: Display | None) -> bool:
    with display.paused() if display else nullcontext():
        terminal.say(terminal.wrapped(terminal.safe(offer)))
        return terminal.agrees("Download it?")


# ---- calls -------------------------------------------------------------------------------------------------


def approver(display: Display) -> Approver:
    """Shows cards on the terminal, one at a time; the end of input leaves a question open."""
    turn = asyncio.Lock()

    async def approve(card: Card) -> Answer:
        async with turn:
            with display.paused():
                for text in shown(card):
                    terminal.say(text)
                sys.stderr.write("Allow it? [y/N] " if card.question == "approve" else "Did it happen? [y/n] ")
                sys.stderr.flush()
                return answer(card, await _typed())

    return approve


def shown(card: Card) -> Iterator[str]:
    """The card as lines: what would be called, with what, where each argument is from, and why it is asked."""
    declared = card.callee.declaration
    undo = "" if card.callee.is_reading else "; can be put back" if declared.reversible else "; cannot be put back"
    yield ""
    yield f"{card.path}  {line(card.callee.name)}: {line(card.callee.summary)}"
    given = card.arguments.value if isinstance(card.arguments.value, dict) else {}
    width = max([len("effect"), *map(len, given)])
    yield f"  {'effect':{width}}  {declared.effect}: {EFFECTS[declared.effect]}{undo}"
    for name, value in given.items():
        yield f"  {line(name):{width}}  {_value(value)}"
        yield f"  {'':{width}}  ({origin(card.arguments.at((name,)).overall())})"
    yield f"  {'why':{width}}  {line(card.reason)}"


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


def answer(card: Card, typed: str | None) -> Answer:
    """What was typed as an answer. To allow takes a yes; whether a thing happened takes a yes or a no."""
    if typed is None:
        return None
    if terminal.is_yes(typed):
        return "yes"
    if card.question == "approve" or typed.strip().lower() in {"n", "no"}:
        return "no"
    return None


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
