"""The command line: `planner "goal"`, and the verbs around it.

Rules of the package:
- Starting is cheap: a verb's module, and all that it needs, is imported when the verb is performed.
- The answer goes to standard output, everything else to standard error.
- What tools, files and models wrote is escaped before a terminal shows it, and no secret is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from planner.cli import terminal
from planner.cli.exits import EXITS, exit_of
from planner.cli.options import VERBS, Options, parse
from planner.errors import PlannerError


def main(argv: Sequence[str] | None = None) -> int:
    """Performs what the words say, and returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    is_json = "--json" in words
    terminal.prepare(is_json=is_json)
    try:
        options = _understood(words, is_json=is_json)
        return _performer(options.verb)(options)
    except PlannerError as error:
        terminal.report(error, is_json=is_json)
        return exit_of(error)
    except KeyboardInterrupt:
        return EXITS["cancelled"]


def _understood(words: Sequence[str], *, is_json: bool) -> Options:
    """What the words say; from then on nothing secret is said, and be it what is wrong with them."""
    try:
        options = parse(words)
    except PlannerError:
        _conceal(Options(), is_json=is_json)
        raise
    _conceal(options, is_json=is_json)
    return options


def _conceal(options: Options, *, is_json: bool) -> None:
    from planner.cli.secrecy import redactor_of

    terminal.conceal(redactor_of(options), is_json=is_json)


def _performer(verb: str) -> Callable[[Options], int]:
    """The function behind a verb: `run` is `planner.cli.run.run`, and `runs list` is `planner.cli.runs.list_`.

    A verb may stand in another module than that of its group.
    """
    group, _, name = verb.partition(" ")
    module = import_module(f"planner.cli.{VERBS[verb].module or group}")
    performer: Callable[[Options], int] = getattr(module, f"{name}_" if name in {"list", "anchor"} else name or group)
    return performer
