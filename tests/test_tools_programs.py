"""Programs that tools run, in a real sandbox where this machine has one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planner import Assistant, Plan, Policy, Result, Rule, ToolError
from planner.config import reference
from planner.sandbox import Limits, Probe, probe
from planner.tools import Toolbox, programs, sandboxed

HERE = probe()
needs_sandbox = pytest.mark.skipif(HERE.sandbox is None, reason=HERE.reason)
ALLOW = Policy(rules=(Rule(id="all", then="allow"),))


def called(place: Path, use: str, **args: Any) -> Result:
    async def done() -> Result:
        box = Toolbox.load(reference() / "tools", only=["python.*", "shell.*"])
        plan = Plan.model_validate({"steps": [{"id": "s1", "use": use, "args": args}]})
        async with Assistant(box, policy=ALLOW, workspace=place, state=place / "state", environ={}) as assistant:
            return await assistant.run("Run it", plan=plan)

    return asyncio.run(done())


@needs_sandbox
def test_a_program_reads_its_data_and_the_workspace_and_gives_what_it_prints(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7")
    program = "import json, sys; print(sum(json.load(sys.stdin)) + int(open('a.txt').read()))"
    result = called(tmp_path, "python.run", program=program, data=[1, 2])
    assert result.value == "10\n"
    assert called(tmp_path, "shell.run", argv=["cat", "a.txt", "-"], text="8").value == "78"


@needs_sandbox
@pytest.mark.parametrize(
    "program",
    [
        "open('b.txt', 'w')",
        "open('/etc/passwd').read()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; assert os.environ.get('HOME') != os.path.expanduser('~root'); os.kill(1, 0)",
    ],
)
def test_it_reaches_nothing_else(tmp_path: Path, program: str) -> None:
    result = called(tmp_path, "python.run", program=program)
    assert result.fault is not None
    assert result.fault.code == "T-604"
    assert not (tmp_path / "b.txt").exists()


@needs_sandbox
def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="`false` ended with 1"):
        asyncio.run(sandboxed(["false"], workspace=tmp_path))
    with pytest.raises(ToolError, match="`sleep` used up its time"):
        asyncio.run(sandboxed(["sleep", "60"], workspace=tmp_path, limits=Limits(time_s=0.5)))


def test_without_a_sandbox_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_probed", lambda: Probe(sandbox=None, holds=(), reason="no Landlock"))
    with pytest.raises(ToolError, match="there is no sandbox here: no Landlock") as caught:
        asyncio.run(sandboxed(["true"], workspace=tmp_path))
    assert caught.value.code == "T-601"


def test_programs_are_off_until_they_are_switched_on() -> None:
    names = Assistant.open(environ={}).catalogue.keys()
    assert not {"python.run", "shell.run"} & names
    assert "files.read" in names
