"""What is shipped, what may import what, and the budgets: the rules themselves are tested to bite."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def locked(name: str) -> dict[str, str]:
    return {normal(m[1]): m[2] for m in re.finditer(r"^([A-Za-z0-9._-]+)==(\S+)", lock(name), re.MULTILINE)}


def loaded_by(program: str, **environ: str) -> set[str]:
    code = f"import sys\n{program}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environ},
        check=True,
        capture_output=True,
        text=True,
    )
    return {module.split(".")[0] for module in done.stdout.split()}


# ---- what is shipped ---------------------------------------------------------------------------------------


def test_the_locks_hold_every_dependency_and_nothing_but_hashes_and_names() -> None:
    wanted = {normal(re.split(r"[<>=\[; ]", spec)[0]) for spec in PROJECT["project"]["dependencies"]}
    tools = {normal(re.split(r"[<>=\[; ]", spec)[0]) for spec in PROJECT["dependency-groups"]["dev"]}
    assert wanted <= locked("run").keys()
    assert tools <= locked("dev").keys()
    assert locked("run").items() <= locked("dev").items()
    line = r"[A-Za-z0-9._-]+==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    for name in ("run", "dev"):
        assert not [text for text in lock(name).splitlines() if not re.fullmatch(line, text)]


def test_the_reference_assistant_goes_into_the_wheel_and_its_version_is_the_projects() -> None:
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"planner.toml", "tools", "prompts"} <= shipped.keys()
    assert all(target.startswith("planner/_assistant/") for target in shipped.values())
    content = tomllib.loads((ROOT / "planner.toml").read_text())
    assert content["assistant"]["version"] == PROJECT["project"]["version"]


def test_the_licence_is_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_script_of_the_build_is_a_script() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_settings_prompts_and_idle_telemetry_load_nothing_heavy() -> None:
    program = (
        "from planner import config, prompts, telemetry\n"
        "assert telemetry.Telemetry.open(config.load(config.reference(), {}).telemetry, name='x') is None"
    )
    assert not loaded_by(program) & {"opentelemetry", "litellm", "chromadb", "instructor", "openai"}


# ---- what may import what ----------------------------------------------------------------------------------

PLANTED = {
    "planner/errors.py": "import planner.config",
    "planner/core/labels.py": "def late():\n    from planner.core import plan",
    "planner/core/plan.py": "import random",
    "planner/config.py": "import litellm, chromadb, opentelemetry.trace, jinja2, vcr, sqlite3",
    "planner/stray.py": "",
}


@pytest.fixture(scope="module")
def violated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the import rules say of a tree where each of them is broken once."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "planner", tree / "planner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name, text in PLANTED.items():
        with (tree / name).open("a") as file:
            file.write(f"\n{text}\n")
    linter = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run(
        [sys.executable, "-c", linter],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("contract", [c["name"] for c in PROJECT["tool"]["importlinter"]["contracts"]])
def test_every_import_rule_bites(violated: str, contract: str) -> None:
    assert re.search(rf"^{re.escape(contract)} BROKEN", violated, re.MULTILINE), violated


def test_a_module_without_a_place_is_refused(violated: str) -> None:
    assert "- planner.stray" in violated


# ---- budgets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def budgets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("budgets", ROOT / ".ci" / "budgets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(folder: Path, **texts: str) -> Path:
    for name, text in {"planner/__init__": "", **texts}.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("budget", "texts", "place"),
    [
        ("file_lines", {"tools/long": "x = 1\n" * 501}, "tools/long.py has 501 lines"),
        ("public_names", {"planner/__init__": f"__all__ = {[f'n{i}' for i in range(31)]}"}, "31 names"),
        ("type_ignores", {"planner/a": "x = 1  # type: ignore[misc]\n"}, "planner/a.py:1"),
        ("broad_excepts", {"planner/a": "try:\n    pass\nexcept (OSError, Exception):\n    pass"}, "planner/a.py:3"),
        ("broad_excepts", {"tools/a": "try:\n    pass\nexcept:\n    pass"}, "tools/a.py:3"),
        (
            "import_cycles",
            {
                "planner/a": "def f():\n    from planner.b import g",
                "planner/b/__init__": "from planner.b import c",
                "planner/b/c": "import planner.a",
            },
            "planner.a imports planner.b",
        ),
        ("start_imports", {"planner/__init__": "import opentelemetry"}, "`import planner` imports opentelemetry"),
        (
            "start_imports",
            {"planner/cli": "def main():\n    import opentelemetry"},
            "`planner --help` imports opentelemetry",
        ),
        (
            "help_cpu",
            {"planner/cli": "import time\ndef main():\n    while time.process_time() < 0.5: pass"},
            "it took 0.",
        ),
    ],
)
def test_every_budget_bites(
    budgets: ModuleType, tmp_path: Path, budget: str, texts: dict[str, str], place: str
) -> None:
    assert place in " ".join(getattr(budgets, budget)(tree(tmp_path, **texts)).beyond)


def test_what_is_within_the_budgets_is_left_alone(
    budgets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = tree(
        tmp_path,
        **{
            "planner/a": 's = "# type: ignore"\ntry:\n    pass\nexcept Exception as e:\n    raise OSError from e',
            "planner/engine": "from planner import a\ntry:\n    pass\nexcept Exception:\n    pass",
            "planner/tools/box": "try:\n    pass\nexcept Exception:\n    pass",
            "planner/cli": "def main():\n    raise SystemExit(0)",
            "tests/long": "x = 1\n" * 500,
        },
    )
    assert budgets.main(fine) == 0
    assert "FAIL" not in capsys.readouterr().out
    (fine / "tests" / "long.py").write_text("x = 1\n" * 501)
    assert budgets.main(fine) == 1
    assert "FAIL at most 500 lines a file" in capsys.readouterr().out
