"""Goals over small workspaces, reached by the local default model: `pytest -m live tests/test_live_goals.py -s`.

The measure, not only a test: it prints a line per goal, and per half the share that met its checks and the median
time. It needs the weights (`planner models pull`), about ten minutes, and two idle cores for its times to mean much.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.assistant import Assistant
from planner.core.labels import Labelled
from planner.llm import weights
from planner.results import Result

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "evals" / "goals" / "cases.yaml").read_text(encoding="utf-8")
)
LEAST = 0.75


def is_met(check: dict[str, Any], workspace: Path, result: Result) -> bool:
    """Whether one check holds; every kind of it can fail."""
    if "status" in check:
        return result.status in check["status"]
    if check.get("absent"):
        return not (workspace / check["file"]).exists()
    if "file" in check:
        if not (workspace / check["file"]).is_file():
            return False
        text = (workspace / check["file"]).read_text(encoding="utf-8")
    else:
        text = result.value if isinstance(result.value, str) else json.dumps(result.value)
    return all(
        (
            "regex" not in check or re.search(check["regex"], text) is not None,
            "not_regex" not in check or re.search(check["not_regex"], text) is None,
            "min_words" not in check or len(text.split()) >= check["min_words"],
            "number" not in check or check["number"] in _numbers(text),
            "json" not in check or _has(text, check["json"]),
        )
    )


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]


def _has(text: str, wanted: dict[str, str]) -> bool:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and all(str(found.get(name)).strip() == value for name, value in wanted.items())


@pytest.mark.live
def test_the_local_model_reaches_three_of_four_goals_of_each_half(tmp_path: Path) -> None:
    if weights.find(weights.known()[0].alias) is None:
        pytest.skip("the weights are not on this machine: `planner models pull`")
    met: dict[str, list[bool]] = {}
    seconds: list[float] = []

    async def reach() -> None:
        async with Assistant.open(
            model="local", workspace=tmp_path, state=tmp_path / "state", on_ask="deny"
        ) as first:
            await first.pool.of("planner")  # the server is up before the clock runs
            for case in CASES:
                workspace = tmp_path / case["id"]
                for name, text in {".keep": "", **case["files"]}.items():
                    (workspace / name).parent.mkdir(parents=True, exist_ok=True)
                    (workspace / name).write_text(text, encoding="utf-8")
                first.workspace = workspace
                began = time.monotonic()
                result = await first.run(case["goal"])
                seconds.append(time.monotonic() - began)
                holds = all(is_met(check, workspace, result) for check in case["checks"])
                met.setdefault(case["half"], []).append(holds)
                print(f"{'met ' if holds else 'MISS'} {seconds[-1]:5.1f} s  {result.status:10}  {case['goal']}")

    asyncio.run(reach())
    for half, results in met.items():
        print(f"{half}: {sum(results)} of {len(results)} met")
    print(f"median {statistics.median(seconds):.1f} s a goal")
    for half, results in met.items():
        assert sum(results) >= LEAST * len(results), half


def test_every_kind_of_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the total is 12", encoding="utf-8")
    result = Result("r", "failed", Labelled(value="none"), "", None, (), (), (), 0.0, 0, None)
    failing: list[dict[str, Any]] = [
        {"status": ["completed"]},
        {"file": "a.txt", "absent": True},
        {"file": "b.txt"},
        {"file": "a.txt", "regex": "sum"},
        {"file": "a.txt", "not_regex": "total"},
        {"file": "a.txt", "min_words": 5},
        {"file": "a.txt", "number": 13},
        {"file": "a.txt", "json": {"total": "12"}},
        {"answer": True, "regex": "glacier"},
    ]
    assert [is_met(check, tmp_path, result) for check in failing] == [False] * len(failing)
