"""Words for people: escaping, shortening, questions, and what is said where.

Rules of the file:
- Standard output carries answers, standard error everything else.
- Whatever was not written by this program passes `safe` or `line` before a terminal shows it.
- Whatever is written, by whomever, passes `Veil` once it is known what is secret.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.core.labels import Json
    from planner.core.redaction import Redactor

_JOINERS = "\u200c\u200d"
"""Invisible, and yet needed: without them Persian, Hindi and family emoji fall apart."""
_PLAIN = str.maketrans({"·": "|", "…": "..."})
"""Our own ornaments, for terminals that have ASCII only."""


def safe(text: str) -> str:
    """The text with every character escaped that moves a cursor, colours, hides or reorders; lines stay lines."""
    return "".join(c if c in "\n\t" or _is_harmless(c) else _escaped(c) for c in text)


def line(text: str, limit: int = 0) -> str:
    """The text as one safe line, cut to `limit` characters if it is longer; 0 leaves it whole."""
    one = "".join(c if _is_harmless(c) else " " if c in "\n\t\r" else _escaped(c) for c in text.strip())
    return one if not limit or len(one) <= limit else f"{one[: limit - 1]}…"


def _is_harmless(character: str) -> bool:
    # What is not printable is control, format, surrogate, private, unassigned, or a space beside U+0020.
    return (
        character.isprintable() or character in _JOINERS or (character.isspace() and "\xa0" <= character < "\u2028")
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def excerpt(value: Json, limit: int = 60) -> str:
    """A JSON value as one short line: text as it is, the rest as JSON."""
    return line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), limit)


def duration(seconds: float) -> str:
    """`0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(at: datetime, now: datetime) -> str:
    """A time as clocks here show it: `17:05:03` today, else `2026-12-04 09:00`."""
    there, here = at.astimezone(), now.astimezone()
    return there.strftime("%H:%M:%S" if there.date() == here.date() else "%Y-%m-%d %H:%M")


def money(cost_usd: float | None) -> str:
    """US dollars as far as they matter; None is said to be unknown."""
    if cost_usd is None:
        return "cost unknown"
    return "$0" if cost_usd == 0 else f"${cost_usd:.4f}" if cost_usd < 0.1 else f"${cost_usd:.2f}"


def size(size_bytes: int) -> str:
    """`812 B`, `3.4 MB`, `1.12 GB`."""
    for unit, factor, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{digits}f} {unit}"
    return f"{size_bytes} B"


def download(done: int, total: int, seconds: float) -> str:
    """How far a download is: `0.42 of 1.12 GB, 38 %, 14.2 MB/s`."""
    rate = f", {size(int(done / seconds))}/s" if seconds >= 1 and done else ""
    return f"{size(done)} of {size(total)}, {100 * done // max(total, 1)} %{rate}"


def columns() -> int:
    """How wide the terminal is; without one, wide enough to cut nothing that matters."""
    return shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 160


# ---- speaking ----------------------------------------------------------------------------------------------


def prepare(*, is_json: bool) -> None:
    """Makes the streams take every character, and an unexpected error end in few words."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    _expect(lambda text: text, is_json=is_json)


def conceal(redactor: Redactor, *, is_json: bool) -> None:
    """Takes secrets out of all that this process says from now on: by itself, by tools, or by libraries."""
    if redactor.marks:
        sys.stdout, sys.stderr = (cast("IO[str]", Veil(stream, redactor)) for stream in (sys.stdout, sys.stderr))
        _expect(redactor.text, is_json=is_json)


class Veil:
    """A stream through which no secret is written."""

    def __init__(self, stream: IO[str], redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        """Writes the text without secrets; says that all of it was written."""
        self._stream.write(self._redactor.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes them one by one."""
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


def _expect(clean: Callable[[str], str], *, is_json: bool) -> None:
    """Has an error that nobody expects end in few words."""

    def unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = clean("".join(traceback.format_exception(kind, error, trace)))
        _give_up(is_json, told, clean(f"{kind.__name__}: {error}"))

    sys.excepthook = unexpected


def put(text: str) -> None:
    """Writes a line of the answer; escaped if a terminal shows it, and unchanged for a file or a pipe."""
    _write(sys.stdout, safe(text) if sys.stdout.isatty() else text)


def put_json(value: object) -> None:
    """Writes one JSON value on one line, in ASCII, which is safe everywhere."""
    _write(sys.stdout, json.dumps(value))


def say(text: str) -> None:
    """Writes a line beside the answer. The caller made it safe."""
    is_unicode = sys.stderr.encoding.lower().startswith("utf")
    _write(sys.stderr, text if is_unicode else text.translate(_PLAIN))


def wrapped(text: str, *, indent: int = 0) -> str:
    """The text broken between words to fit the terminal; for a file or a pipe it stays as it is."""
    if not sys.stderr.isatty():
        return text
    width, later = shutil.get_terminal_size().columns, " " * indent
    return "\n".join(
        textwrap.fill(part, width, subsequent_indent=later, break_long_words=False, break_on_hyphens=False)
        for part in text.splitlines()
    )


def _write(stream: IO[str], text: str) -> None:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:  # a reader that had enough is no reason to stop the work
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report(error: PlannerError, *, is_json: bool) -> None:
    """Says what went wrong and what to do next."""
    if is_json:
        put_json({"type": "Error", "code": error.code, "message": error.message, "hint": error.hint})
        return
    say(wrapped(f"error: [{error.code}] {safe(error.message)}", indent=7))
    if error.hint:
        for text in safe(error.hint).splitlines():
            say(wrapped(f"{'':7}{text}", indent=7))


def _give_up(is_json: bool, trace: str, what: str) -> None:  # noqa: FBT001
    """A fault of this program: the traceback goes to a file, or to the terminal if PLANNER_DEBUG is set."""
    if os.environ.get("PLANNER_DEBUG", "") not in {"", "0"}:
        say(safe(trace))
        where = "The traceback stands above."
    else:
        with tempfile.NamedTemporaryFile(
            "w", prefix="planner-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(trace)
        where = f"Please report it with {file.name}, or set PLANNER_DEBUG=1 to see more."
    if is_json:
        put_json({"type": "Error", "code": "U-499", "message": f"internal error: {what}", "hint": where})
    else:
        say(f"error: [U-499] internal error: {line(what, 300)}\n       {where}")


# ---- asking ------------------------------------------------------------------------------------------------


def is_interactive() -> bool:
    """Whether somebody sits there who sees what is said and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def is_lively() -> bool:
    """Whether standard error is a terminal that may be drawn on, and has the signs for it."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not is_plain and sys.stderr.encoding.lower().startswith("utf")


def agrees(question: str) -> bool:
    """Whether the person at the terminal says yes; nobody, or anything else, is a no."""
    if not is_interactive():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return is_yes(sys.stdin.readline())


def is_yes(answer: str) -> bool:
    """Whether the answer is a plain yes."""
    return answer.strip().lower() in {"y", "yes"}
