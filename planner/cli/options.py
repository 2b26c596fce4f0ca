"""A command line in, one typed value out.

Rules of the file:
- Nothing of the runtime is imported, so that help and usage errors come at once.
- The first word that is not an option picks the verb; if it is none, the words are a goal.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from planner.cli.exits import EXITS
from planner.errors import UserError


class Options(argparse.Namespace):
    """What was asked for. Each verb reads the part that it declares; the rest keeps its default."""

    verb: str
    words: tuple[str, ...]
    """The verb's arguments: a goal, an id, a name, ..."""
    workspace: Path | None = None
    assistant: Path | None = None
    state: Path | None = None
    model: str | None = None
    is_json: bool = False
    is_agreed: bool = False
    is_plan_only: bool = False
    is_dry_run: bool = False
    on_ask: Literal["prompt", "wait", "deny"] | None = None
    success: str | None = None
    file: Path | None = None
    limit: int = 20
    plan: Path | None = None
    format: Literal["text", "mermaid"] = "text"
    attached: list[Path] | None = None
    changes: list[str] | None = None
    """Inputs or arguments to change, as `name=value`."""
    vouched: list[str] | None = None
    is_later: bool = False
    is_stuck: bool = False
    is_following: bool = False
    at_event: int | None = None
    anchor: Path | None = None
    to: Path | None = None
    run: str | None = None
    data: str | None = None


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--workspace": {
        "metavar": "DIR",
        "type": Path,
        "help": "the folder whose files tools may touch (default: the working directory)",
    },
    "--assistant": {
        "metavar": "DIR",
        "type": Path,
        "help": "an assistant's folder; to name it is consent to load its code",
    },
    "--state": {
        "metavar": "DIR",
        "type": Path,
        "help": "where runs are kept (default: PLANNER_STATE, else the user's state folder)",
    },
    "--model": {
        "metavar": "M",
        "help": "a model by its litellm name, such as openai/gpt-5-mini, or `local`",
    },
    "--success": {"metavar": "TEXT", "help": "what must hold in the end, in words or as ${expression}"},
    "--plan": {"metavar": "FILE", "type": Path, "help": "a plan of your own, in YAML or JSON; no planner is asked"},
    "--plan-only": {
        "action": "store_true",
        "dest": "is_plan_only",
        "help": "plan, check and show the plan; run nothing",
    },
    "--format": {
        "choices": ("text", "mermaid"),
        "help": "how `--plan-only` shows the plan: as text, or as a Mermaid flowchart",
    },
    "--dry-run": {
        "action": "store_true",
        "dest": "is_dry_run",
        "help": "run it, but change nothing: what only looks is done, the rest is told as `would ...`",
    },
    "--on-ask": {
        "choices": ("prompt", "wait", "deny"),
        "help": "what to do with a call that needs approval (default: prompt on a terminal, else deny in "
        "a new run, and wait in an earlier one)",
    },
    "--yes": {
        "action": "store_true",
        "dest": "is_agreed",
        "help": "agree to downloads, or to erasing; never to effects, and never to code",
    },
    "--json": {
        "action": "store_true",
        "dest": "is_json",
        "help": "for programs: JSON on standard output, one event a line for a run",
    },
    "--from": {"metavar": "FILE", "type": Path, "dest": "file", "help": "copy the weights from this file"},
    "--limit": {"metavar": "N", "type": int, "help": "at most so many (default: 20)"},
    "--stuck": {
        "action": "store_true",
        "dest": "is_stuck",
        "help": "only those that do not go on by themselves, with why and what to do",
    },
    "--later": {
        "action": "store_true",
        "dest": "is_later",
        "help": "only leave it for whoever goes on with the run; do not go on with it here",
    },
    "--follow": {"action": "store_true", "dest": "is_following", "help": "wait for more, until the run has ended"},
    "--attach": {
        "metavar": "FILE",
        "type": Path,
        "action": "append",
        "dest": "attached",
        "help": "a text that an outsider may have written, for the plan to read; may be repeated",
    },
    "--with": {
        "metavar": "NAME=VALUE",
        "action": "append",
        "dest": "changes",
        "help": "another value for an input of the plan, or an argument of the call; may be repeated",
    },
    "--vouch": {
        "metavar": "NAME",
        "action": "append",
        "dest": "vouched",
        "help": "do not ask again in this run because of the value of this argument; may be repeated",
    },
    "--anchor": {"metavar": "FILE", "type": Path, "help": "the file of anchors (default: that of the state folder)"},
    "--to": {"metavar": "DIR", "type": Path, "help": "the folder to write to"},
    "--at": {"metavar": "EVENT", "type": int, "dest": "at_event", "help": "the number of the last event to keep"},
    "--run": {"metavar": "ID", "help": "the run that is told; else every run that waits for the event"},
    "--data": {"metavar": "JSON", "help": "what comes with the event"},
}
VALUED = frozenset(name for name, option in OPTIONS.items() if option.get("action", "append") == "append")
"""The options that take the next word."""


class Verb(NamedTuple):
    """Something the command line can do; `arguments` as usage lines write them."""

    arguments: str
    summary: str
    options: tuple[str, ...]
    module: str = ""
    """Where it is done, if not in the module of its group."""


_PLACES = ("--assistant", "--state", "--json")
_GOING = ("--assistant", "--state", "--model", "--on-ask", "--yes", "--json")
_ASKING = ("--later", *_GOING)
VERBS: Mapping[str, Verb] = {
    "run": Verb(
        "GOAL...",
        "reach a goal; the word `run` may be left out",
        (
            "--workspace",
            *("--assistant", "--state", "--model", "--success", "--attach", "--plan"),
            *("--plan-only", "--format", "--dry-run", "--on-ask", "--yes", "--json"),
        ),
    ),
    "runs list": Verb("", "the runs so far, newest first", ("--stuck", "--state", "--limit", "--json")),
    "runs show": Verb("ID", "one run: its plan, steps, criteria and costs", ("--state", "--json")),
    "runs events": Verb("ID", "everything that happened in a run", ("--follow", "--state", "--json"), "history"),
    "runs resume": Verb("ID", "go on with a run that was stopped or paused, or that waits", _ASKING, "requests"),
    "runs wake": Verb("", "go on with all runs that can", _GOING, "requests"),
    "runs pause": Verb("ID", "let a run start nothing new for now", _ASKING, "requests"),
    "runs cancel": Verb("ID", "stop a run, and take back what it did", _ASKING, "requests"),
    "runs undo": Verb("ID", "take back what a finished run did", _ASKING, "requests"),
    "runs steer": Verb(
        "ID [TEXT...]",
        "correct a run: in words, with other inputs, or with another plan",
        ("--with", "--plan", *_ASKING),
        "requests",
    ),
    "runs approve": Verb(
        "ID [STEP]", "allow a call that a run asks for", ("--with", "--vouch", *_ASKING), "requests"
    ),
    "runs deny": Verb("ID [STEP]", "refuse a call that a run asks for", _ASKING, "requests"),
    "runs answer": Verb("ID [STEP] VALUE", "answer any other question of a run", _ASKING, "requests"),
    "runs fork": Verb(
        "ID",
        "begin a new run with the first events of another one",
        ("--at", "--with", "--state", "--json"),
        "history",
    ),
    "runs diff": Verb("ID OTHER", "where two runs differ", ("--state", "--json"), "history"),
    "runs replay": Verb("ID", "decide a run again from its record, and compare", ("--state", "--json"), "history"),
    "events send": Verb(
        "NAME", "tell runs that something happened for which they wait", ("--run", "--data", *_ASKING), "requests"
    ),
    "audit verify": Verb("[RUN...]", "is the record as it was written?", ("--anchor", "--state", "--json")),
    "audit anchor": Verb("", "note how far every run is, to be kept elsewhere", ("--anchor", "--state")),
    "audit export": Verb("[RUN...]", "the record, with a script that checks it", ("--to", "--anchor", "--state")),
    "audit erase": Verb("RUN", "erase what a run holds, for good; its chain still holds", ("--state", "--yes")),
    "audit explain": Verb("RUN STEP", "why a step did what it did", ("--state", "--json")),
    "tools list": Verb("", "what plans may call, and whether you may", _PLACES),
    "tools show": Verb("NAME", "one tool or agent in full", _PLACES),
    "tools search": Verb("WORD...", "the tools and agents that fit best", _PLACES),
    "models list": Verb("", "the local models, and what is here of them", ("--json",)),
    "models pull": Verb("[ALIAS]", "download a local model", ("--from", "--yes", "--json")),
    "models remove": Verb("ALIAS", "delete a local model", ("--json",)),
    "models stop": Verb("", "stop the server of the local model", ("--json",)),
    "doctor": Verb(
        "", "is everything there that is needed?", ("--assistant", "--state", "--model", "--workspace", "--json")
    ),
    "init": Verb("DIR", "make a folder for an assistant of your own", ("--json",)),
}
GROUPS = frozenset(name.partition(" ")[0] for name in VERBS if " " in name)
"""Verbs of two words; the second is `list` if it is left out."""

_NEAR = 0.8
"""How alike two words must be for the one to pass as a misspelt other (`difflib.SequenceMatcher.ratio`)."""


def parse(argv: Sequence[str]) -> Options:
    """What the words ask for. Prints help and raises `SystemExit` if they ask for that.

    Raises `UserError` U-401 for an unknown verb, U-402 for a wrong option, U-403 for missing or extra words.
    """
    positions = tuple(_positions(argv))
    verb, used = _verb(argv, positions)
    words = tuple(argv[i] for i in positions[used:])
    end = argv.index("--") if "--" in argv else len(argv)
    given = [word for i, word in enumerate(argv[:end]) if i not in positions]
    parser = _Parser(verb, is_whole=not positions)
    options, unknown = parser.parse_known_args(given, Options(verb=verb, words=words))
    if unknown:
        raise _unknown(verb, unknown[0])
    _check_words(verb, words)
    return options


def _positions(argv: Sequence[str]) -> Iterator[int]:
    """Where the words stand that are neither options nor their values."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            yield from range(index + 1, len(argv))
            return
        if word == "-" or not word.startswith("-"):
            yield index
        index += 2 if word in VALUED else 1


def _verb(argv: Sequence[str], positions: Sequence[int]) -> tuple[str, int]:
    """The verb, and how many words name it: none if they are a goal."""
    if not positions or "--" in argv[: positions[0]]:
        return "run", 0
    first, *rest = (argv[i] for i in positions)
    if first in VERBS:
        return first, 1
    if first in GROUPS:
        known = [name.partition(" ")[2] for name in VERBS if name.startswith(f"{first} ")]
        second = rest[0] if rest else "list"
        if f"{first} {second}" in VERBS:
            return f"{first} {second}", 1 + bool(rest)
        if not rest:
            raise UserError(
                "U-403", f"`planner {first}` needs one of {', '.join(known)}", hint="See `planner --help`."
            )
        raise UserError(
            "U-401",
            f"`planner {first}` knows {', '.join(known)}, not `{second}`",
            hint=f'If it is a goal: planner run "{first} {second} ...".',
            choices=tuple(known),
        )
    near = difflib.get_close_matches(first, {*VERBS, *GROUPS}, n=1, cutoff=_NEAR)
    if near:
        raise UserError(
            "U-401",
            f"`{first}` is no verb; did you mean `planner {near[0]}`?",
            hint=f'If it is a goal: planner run "{first}".',
            choices=tuple(near),
        )
    return "run", 0


def _check_words(verb: str, words: tuple[str, ...]) -> None:
    arguments = VERBS[verb].arguments
    wanted = arguments.split()
    needed = [word for word in wanted if not word.startswith("[")]
    if len(words) < len(needed):
        what = "no goal was given" if verb == "run" else f"`planner {verb}` needs {' and '.join(needed).strip('.')}"
        example = 'planner "Summarise notes.txt into summary.txt"' if verb == "run" else f"planner {verb} {arguments}"
        raise UserError("U-403", what, hint=f"Write {example}, or see `planner --help`.")
    if "..." not in arguments and len(words) > len(wanted):
        extra = words[len(wanted)]
        raise UserError("U-403", f"`planner {verb}` has no use for `{extra}`", hint=f"See `planner {verb} --help`.")


def _unknown(verb: str, option: str) -> UserError:
    name = option.partition("=")[0]
    known = VERBS[verb].options
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else f"It knows {', '.join(known)}."
    if verb == "run":
        hint += " A goal that begins with a dash stands behind `--`."
    return UserError("U-402", f"`planner {verb}` has no option `{name}`", hint=hint, choices=known)


# ---- help --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Reads the options of one verb; `is_whole` makes its help that of the whole command."""

    def __init__(self, verb: str, *, is_whole: bool) -> None:
        arguments, summary, names, _ = VERBS[verb]
        usage = (
            "planner [options] GOAL\n       planner VERB ..." if is_whole else f"planner {verb} [options] {arguments}"
        )
        super().__init__(
            usage=usage.rstrip(),
            description=_INTRODUCTION if is_whole else f"{summary[0].upper()}{summary[1:]}.",
            epilog=_epilog() if is_whole else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        for name in names:
            self.add_argument(name, **OPTIONS[name])
        if is_whole:
            self.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` U-402 instead of printing and exiting: the caller knows who listens."""
        raise UserError("U-402", message.removeprefix("argument "), hint="See `planner --help`.")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            parser.exit(0, f"planner {version('planner-runtime')}\n")
        except PackageNotFoundError:
            parser.exit(0, "planner, not installed\n")


_INTRODUCTION = """\
A goal in plain words becomes a plan, the plan is checked, and then it runs.

  planner "Summarise notes.txt into summary.txt"
  planner --plan-only "Count the words of every file in docs"
  cat goal.txt | planner --json -
"""


def _epilog() -> str:
    titles = {name: f"{name} {verb.arguments}".rstrip() for name, verb in VERBS.items()}
    width = max(map(len, titles.values())) + 2
    verbs = "\n".join(f"  {titles[name]:{width}}{verb.summary}" for name, verb in VERBS.items())
    codes: dict[int, list[str]] = {}
    for outcome, code in EXITS.items():
        if outcome not in {"planned", "running"}:
            codes.setdefault(code, []).append(outcome.replace("_", " "))
    exits = ", ".join(f"{code} {' or '.join(outcomes)}" for code, outcomes in codes.items())
    return f"verbs:\n{verbs}\n\nexit codes: {exits}"
