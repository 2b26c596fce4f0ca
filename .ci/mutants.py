"""Takes away one check after the other, and says which of them no test misses.

`python .ci/mutants.py [FILE...]`: for each condition, each part of one, and each thing that is yielded in the files
that decide what is safe, the tests run once without it. It takes some minutes, and is run by hand.
"""

from __future__ import annotations

import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = tuple(f"planner/core/{name}.py" for name in ("labels", "rules", "policy", "egress", "attest", "gate"))
TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("core_labels", "core_rules", "core_policy", "core_egress", "core_attest", "core_gate", "core_said"),
        *("core_worth", "core_undo", "core_decide_calls", "modes", "cards", "attacks"),
    )
)
LIMIT_S = 120


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """What was taken away, as `line: words`, and the source without it."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        for said, change in changes(node):
            mutant = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(ast.walk(mutant)) if i == number))
            yield f"{getattr(node, 'lineno', 0)}: {said}", ast.unparse(ast.fix_missing_locations(mutant))


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], object]]]:
    """The ways to take a check away from a node."""
    match node:
        case ast.If() | ast.IfExp():
            for value in (True, False):
                yield f"`{ast.unparse(node.test)}` is {value}", lambda n, v=value: setattr(n, "test", ast.Constant(v))
        case ast.comprehension() if node.ifs:
            for index in range(len(node.ifs)):
                yield f"without `if {ast.unparse(node.ifs[index])}`", lambda n, i=index: n.ifs.pop(i)
        case ast.BoolOp():
            for index in range(len(node.values)):
                yield f"without `{ast.unparse(node.values[index])}`", lambda n, i=index: n.values.pop(i)
        case ast.Expr(value=ast.Yield() | ast.YieldFrom()):
            yield f"without `{ast.unparse(node):.60}`", lambda n: setattr(n, "value", ast.YieldFrom(ast.Tuple([])))
        case ast.match_case() if node.guard is not None:
            yield f"without `if {ast.unparse(node.guard)}`", lambda n: setattr(n, "guard", None)
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            other = "max" if name == "min" else "min"
            yield f"{other} for {name}", lambda n, o=other: setattr(n.func, "id", o)
        case _:
            return


def survives(file: str, source: str) -> bool:
    """Whether every test passes with this source in the place of the file."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("planner", "tests", "tools", "prompts", "examples", "docs"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
        for name in ("pyproject.toml", "planner.toml"):
            shutil.copy(ROOT / name, place / name)
        (place / file).write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main(files: tuple[str, ...]) -> int:
    """0 if every check is missed by some test."""
    for file in files:
        source = (ROOT / file).read_text()
        if not survives(file, ast.unparse(ast.parse(source))):
            print(f"{file}: the tests fail as it is")
            return 2
    every = [(file, *mutant) for file in files for mutant in mutants((ROOT / file).read_text())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        alive = list(pool.map(lambda one: survives(one[0], one[2]), every))
    for (file, said, _), is_alive in zip(every, alive, strict=True):
        print(f"{'ALIVE' if is_alive else 'found'}  {file}:{said}")
    print(f"{len(every)} mutants, {sum(alive)} alive")
    return 1 if any(alive) else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or FILES))
