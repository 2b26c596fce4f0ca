"""`planner init DIR`: a folder for an assistant of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from planner import config
from planner.cli import terminal
from planner.cli.options import Options
from planner.cli.terminal import line
from planner.errors import UserError
from planner.tools import Toolbox

SETTINGS = """\
# An assistant is a folder with this file: `planner` uses the one in the working directory.

[assistant]
name = "{name}"
version = "0.1.0"

[models]
# Without `default` the runtime chooses and says why: a provider's key in the environment, a model server on
# this machine, or the local model. Name one here, or one per role, to settle it:
#
#   default = "anthropic/claude-sonnet-4-5"
#   roles = {{ writer = "openai/gpt-5-mini" }}

[tools]
# The tools that come with the runtime and that plans here may use; delete what this assistant does not need.
# The tools of the folder `tools` are always there.
builtin = [
{builtin}
]
# Callees that a planner sees whatever the goal says, and how many it sees in all.
always = []
shown = 15

# What plans may do. A rule that denies wins; else the first rule that matches decides; what none matches is
# denied. An effect is one of pure, read, fetch, write, send, spend, delete, account, execute.

[[policy.rules]]
id = "computing"
then = "allow"
effect = "pure"

[[policy.rules]]
id = "reading"
then = "allow"
effect = "read"

[[policy.rules]]
id = "workspace" # what a file held before is kept, so a write can be undone
then = "allow"
callee = "files.*"
effect = "write"

[[policy.rules]]
id = "everything-else"
then = "ask"

[limits]
calls = 200
replans = 2
# cost_usd = 0.50

# Names of environment variables that tools may ask for; their values never stand here, nor in any record.
# [secrets]
# names = ["SHOP_TOKEN"]
"""

TOOL = '''\
"""Tools of this assistant: plans call each function that is marked with `@tool` as `hello.<function>`."""

from planner.tools import tool


@tool(effect="pure")
def greet(name: str) -> str:
    """Write a greeting for a person."""
    return f"Hello, {name}!"
'''

README = """\
# {name}

An assistant for [planner](https://pypi.org/project/planner-runtime/): a goal in plain words becomes a checked
plan, and the plan runs.

    planner tools list
    planner --plan-only "Greet Ada and write the greeting to hello.txt"
    planner "Greet Ada and write the greeting to hello.txt"

The first time, `planner` asks whether it may load this folder, because its tools are code.

- `planner.toml`: models, tools, what plans may do, limits
- `tools/`: each function marked with `@tool` in `tools/<file>.py` is the tool `<file>.<function>`
- `prompts/`: a file with the name of one of the runtime's prompts takes its place
- `evals/`: goals with checks, to see whether a change made the assistant better
"""

EVALS = """\
One folder per suite: goals and checks that say whether this assistant is good at its work.
"""

IGNORED = """\
__pycache__/
.env
"""


def init(options: Options) -> int:
    """Writes the folder. Raises `UserError` U-440 if there is something in it, U-441 if it cannot be written."""
    (word,) = options.words
    folder = Path(word).expanduser().absolute()
    _check_free(folder)
    written = _files(folder.name)
    try:
        for name, text in written.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"{folder} cannot be written: {error.strerror}"
        raise UserError("U-441", what, hint="Name a folder you may write to.") from error
    if options.is_json:
        terminal.put_json({"folder": str(folder), "files": list(written)})
        return 0
    for name in written:
        terminal.put(f"{line(word)}/{name}")
    terminal.say(f'next: cd {line(word)} && planner "Greet Ada and write the greeting to hello.txt"')
    return 0


def _check_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        what = "is not empty" if folder.is_dir() else "is not a folder"
        raise UserError("U-440", f"{folder} {what}", hint="Name a new folder; nothing was written.")


def _files(name: str) -> dict[str, str]:
    builtin = Toolbox.load(config.reference() / "tools").catalogue
    title = "".join(c if c.isalnum() or c in "-_. " else "-" for c in name) or "assistant"
    return {
        "planner.toml": SETTINGS.format(name=title, builtin=_by_area(builtin)),
        "tools/hello.py": TOOL,
        "prompts/.gitkeep": "",
        "evals/README.md": EVALS,
        "README.md": README.format(name=title),
        ".gitignore": IGNORED,
    }


def _by_area(names: Iterable[str]) -> str:
    areas = groupby(sorted(names), key=lambda name: name.partition(".")[0])
    return "\n".join("  " + " ".join(f'"{name}",' for name in area) for _, area in areas)
