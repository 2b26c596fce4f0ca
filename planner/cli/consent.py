"""What a person must agree to before anything begins: another folder's code, a download.

Rules of the file:
- No answer is a no.
- `--yes` agrees to downloads and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from planner import config
from planner.cli import terminal
from planner.cli.display import Display
from planner.cli.options import Options
from planner.cli.terminal import line
from planner.errors import UserError

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
