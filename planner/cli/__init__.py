"""The command line: `planner "goal"`, and the verbs around it.

Rules of the package:
- Starting is cheap: a verb's module, and all that it needs, is imported when the verb is performed.
- The answer goes to standard output, everything else to standard error.
- What tools, files and models wrote is escaped before a terminal shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from planner.cli import terminal
from planner.cli.exits import EXITS, exit_of
from planner.cli.options import parse
from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.cli.options import Options


def main(argv: Sequence[str] | None = None) -> int:
    """Performs what the words say, and returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    is_json = "--json" in words
    terminal.prepare(is_json=is_json)
    try:
        options = parse(words)
        return _performer(options.verb)(options)
    except PlannerError as error:
        terminal.report(error, is_json=is_json)
        return exit_of(error)
    except KeyboardInterrupt:
        return EXITS["cancelled"]


def _performer(verb: str) -> Callable[[Options], int]:
    """The function behind a verb; every import here is one that only this verb pays for."""
    group, _, name = verb.partition(" ")
    match group:
        case "run":
            from planner.cli import run

            return run.run
        case "runs":
            from planner.cli import runs

            return {"list": runs.list_, "show": runs.show, "resume": runs.resume}[name]
        case "tools":
            from planner.cli import tools

            return {"list": tools.list_, "show": tools.show, "search": tools.search}[name]
        case "models":
            from planner.cli import models

            performers = {"list": models.list_, "pull": models.pull, "remove": models.remove, "stop": models.stop}
            return performers[name]
        case "doctor":
            from planner.cli import doctor

            return doctor.doctor
        case _:
            from planner.cli import init

            return init.init
