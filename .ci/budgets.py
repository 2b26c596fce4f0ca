"""The budgets that no linter knows: each is measured, printed, and fails the build beyond its limit.

Run from the root of the project: `python .ci/budgets.py`.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

FILE_LINES = 500
PUBLIC_NAMES = 30
IGNORES_PER_1000_LINES = 1
HELP_CPU_S = 0.4
ROUNDS = 5  # the least of several is the program's own time; the rest is the machine's
HEAVY = ("chromadb", "huggingface_hub", "instructor", "litellm", "openai", "opentelemetry")
BROAD_ALLOWED = ("planner.tools", "planner.engine")  # where a failure becomes an event
SOURCES = ("planner", "tools", "tests", "evals", ".ci")


class Measure(NamedTuple):
    """A budget, what was found, and what goes beyond it."""

    budget: str
    found: str
    beyond: tuple[str, ...] = ()


def sources(root: Path, *folders: str) -> Iterator[tuple[str, str]]:
    """Path, relative and with `/`, and text of every Python file in the folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def file_lines(root: Path) -> Measure:
    """No file is longer than a person reads at once."""
    lengths = {path: text.count("\n") for path, text in sources(root, *SOURCES)}
    longest = max(lengths, key=lambda path: lengths[path], default="none")
    beyond = tuple(f"{path} has {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES)
    found = f"{len(lengths)} files, the longest {longest} with {lengths.get(longest, 0)}"
    return Measure(f"at most {FILE_LINES} lines a file", found, beyond)


def public_names(root: Path) -> Measure:
    """What a user must learn stays small."""
    tree = ast.parse((root / "planner" / "__init__.py").read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    beyond = (f"planner.__all__ has {len(names)} names",) if len(names) > PUBLIC_NAMES else ()
    return Measure(f"at most {PUBLIC_NAMES} public names", str(len(names)), beyond)


def type_ignores(root: Path) -> Measure:
    """The type checker is silenced rarely."""
    texts = dict(sources(root, *SOURCES))
    lines = sum(text.count("\n") for text in texts.values())
    places = [
        f"{path}:{token.start[0]}"
        for path, text in texts.items()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and re.search(r"type:\s*ignore", token.string)
    ]
    beyond = tuple(places) if len(places) * 1000 > lines * IGNORES_PER_1000_LINES else ()
    found = f"{len(places)} in {lines} lines"
    return Measure(f"at most {IGNORES_PER_1000_LINES} `type: ignore` in 1000 lines", found, beyond)


def broad_excepts(root: Path) -> Measure:
    """An unknown error is only caught where it becomes an event, or to be raised again."""
    places = [
        (_module(path), f"{path}:{node.lineno}")
        for path, text in sources(root, "planner", "tools")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _raises_again(node)
    ]
    beyond = tuple(place for module, place in places if _top(module) not in BROAD_ALLOWED)
    return Measure(f"broad `except` only in {' and '.join(BROAD_ALLOWED)}", str(len(places)), beyond)


def _top(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def import_cycles(root: Path) -> Measure:
    """No module needs itself, not even by an import inside a function or for types alone."""
    texts = dict(sources(root, "planner"))
    modules = {_module(path): text for path, text in texts.items()}
    packages = {_module(path) for path in texts if path.endswith("/__init__.py")}
    imports = {
        module: {*_imports(module, text, modules.keys(), is_package=module in packages)} - {module}
        for module, text in modules.items()
    }
    budget = "no import cycle"
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return Measure(budget, "1", (" imports ".join(reversed(error.args[1])),))
    return Measure(budget, f"none among {len(modules)} modules")


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(module: str, text: str, known: Container[str], *, is_package: bool) -> Iterator[str]:
    parts = module.split(".")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            package = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield from (name for name in [inner if inner in known else origin] if name in known)


def start_imports(root: Path) -> Measure:
    """What starts often starts light: nothing heavy is imported by `import planner` or `planner --help`."""
    beyond = []
    programs = {"import planner": "import planner"}
    if _has_cli(root):
        programs["planner --help"] = HELP
    for name, program in programs.items():
        code = f"import sys\n{program}\nprint(*(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
        loaded = _python(root, code).stderr.split()
        beyond += [f"`{name}` imports {module}" for module in sorted(loaded)]
    return Measure(f"no import of {', '.join(HEAVY)} at the start", " and ".join(programs), tuple(beyond))


HELP = """\
from planner.cli import main
sys.argv = ["planner", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def _has_cli(root: Path) -> bool:
    return any((root / "planner" / name).exists() for name in ("cli.py", "cli/__init__.py"))


def help_cpu(root: Path) -> Measure:
    """`planner --help` answers at once."""
    budget = f"`planner --help` in at most {HELP_CPU_S} s of CPU"
    if not _has_cli(root):
        return Measure(budget, "pending: there is no planner.cli yet")
    least = min(_cpu_s(root, f"import sys\n{HELP}") for _ in range(ROUNDS))
    beyond = (f"it took {least:.2f} s",) if least > HELP_CPU_S else ()
    return Measure(budget, f"{least:.2f} s", beyond)


def _cpu_s(root: Path, code: str) -> float:
    before = os.times()
    _python(root, code)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def _python(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True, timeout=60
    )


BUDGETS = (file_lines, public_names, type_ignores, broad_excepts, import_cycles, start_imports, help_cpu)


def main(root: Path) -> int:
    """Prints every measure; 1 if a budget was exceeded."""
    is_beyond = False
    for budget in BUDGETS:
        measure = budget(root)
        print("FAIL" if measure.beyond else "ok  ", f"{measure.budget}: {measure.found}")
        for place in measure.beyond:
            print("     -", place)
        is_beyond = is_beyond or bool(measure.beyond)
    return int(is_beyond)


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
