"""What a sandboxed program may use, and that it ends with everything that it started."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from planner.errors import ToolError
from planner.sandbox import Limits, Ran, Sandbox, interpreter, linux, probe, seccomp

ROOT = Path(__file__).resolve().parents[1]
MIB = 1024 * 1024
LONG_S = 300
"""Longer than anything takes here, also on a busy machine."""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    found = probe()
    if found.sandbox is None:
        pytest.skip(f"no sandbox: {found.reason}")
    return found.sandbox


@pytest.fixture
def mark() -> str:
    """A word by which the programs of a test are found among all others."""
    return f"{time.time_ns()}"


def run(sandbox: Sandbox, argv: Sequence[str], **limits: Any) -> Ran:
    return asyncio.run(sandbox.run(argv, limits=Limits(**{"time_s": LONG_S, "cpu_s": LONG_S, **limits})))


def python(sandbox: Sandbox, program: str, *arguments: str, **limits: Any) -> Ran:
    return run(sandbox, [str(interpreter()), "-I", "-S", "-c", textwrap.dedent(program), *arguments], **limits)


def marked(mark: str) -> list[int]:
    """The processes with this word in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


async def ready(mark: str, count: int = 1) -> None:
    """Waits for so many processes with this word."""
    while len(marked(mark)) < count:  # noqa: ASYNC110 - they are other programs
        await asyncio.sleep(0.02)


def starter(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def until(is_so: Callable[[], object]) -> None:
    """Waits for something that happens on its own."""
    deadline = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- limits ------------------------------------------------------------------------------------------------

BOMBS = {
    "forks": "import os\nwhile True:\n    os.fork()",
    "patient forks": """
        import os, time
        while True:
            try:
                os.fork() or time.sleep(1000)
            except OSError:
                pass
    """,
    "forks of forks": """
        import os, time
        if os.fork():
            time.sleep(1000)
        while True:
            if os.fork():
                os._exit(0)
            os.fork()
    """,
    "threads": """
        import threading, time
        threading.stack_size(32768)
        while True:
            threading.Thread(target=time.sleep, args=(1000,)).start()
    """,
    "programs": """
        import subprocess, sys
        while True:
            subprocess.Popen(["sleep", sys.argv[1]])
    """,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_program_that_multiplies_is_ended_with_all_of_its_processes(bomb: str, sandbox: Sandbox, mark: str) -> None:
    ran = python(sandbox, BOMBS[bomb], mark, processes=20)
    assert ran.reached == "processes"
    assert marked(mark) == []


def test_a_process_too_many_never_runs(sandbox: Sandbox) -> None:
    program = """
        import os, sys, time
        os.write(1, b"x")
        while True:
            if not os.fork():
                os.write(1, b"x")
    """
    ran = python(sandbox, program, processes=16)
    assert ran.reached == "processes"
    assert len(ran.stdout) <= 16


def test_processes_that_ended_leave_room_for_others(sandbox: Sandbox) -> None:
    ran = run(
        sandbox, ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do true | true; done; echo done"], processes=4
    )
    assert (ran.stdout, ran.reached) == (b"done\n", None)
    threads = """
        import threading
        for _ in range(500):
            thread = threading.Thread(target=print, args=("x",))
            thread.start()
            thread.join()
    """
    assert len(python(sandbox, threads, processes=8).stdout) == 1_000
    alone = python(sandbox, "print('alone')", processes=1)
    assert (alone.stdout, alone.reached) == (b"alone\n", None)
    assert python(sandbox, "import os, time; os.fork(); time.sleep(1000)", processes=1).reached == "processes"


def test_a_process_gets_no_more_memory_than_it_may_have(sandbox: Sandbox) -> None:
    ran = python(sandbox, "print(len(bytearray(200_000_000)))", memory_bytes=128 * MIB)
    assert ran.exit_code == 1
    assert b"MemoryError" in ran.stderr


def test_processes_share_the_memory_that_they_may_have(sandbox: Sandbox) -> None:
    program = """
        import os, time
        for _ in range(8):
            if not os.fork():
                kept = bytearray(os.urandom(1)) * 60_000_000
                time.sleep(1000)
        time.sleep(1000)
    """
    assert python(sandbox, program, memory_bytes=128 * MIB).reached == "memory"


def test_a_program_that_spins_is_ended_by_its_own_time(sandbox: Sandbox) -> None:
    ran = python(sandbox, "while True: pass", cpu_s=1)
    assert ran.reached == "cpu"
    assert ran.cpu_s < 3


def test_processes_share_the_time_that_they_may_have(sandbox: Sandbox) -> None:
    program = """
        import os, time
        while True:
            if not os.fork():
                end = time.process_time() + 0.3
                while time.process_time() < end:
                    pass
                os._exit(0)
            os.wait()
    """
    assert python(sandbox, program, cpu_s=1).reached == "cpu"


def test_a_program_that_waits_is_ended_by_the_clock(sandbox: Sandbox, mark: str) -> None:
    program = """
        import signal, time
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
    """
    ran = python(sandbox, program, mark, time_s=0.5)
    assert (ran.reached, ran.exit_code) == ("time", -9)
    assert ran.wall_s >= 0.5
    assert marked(mark) == []


@pytest.mark.parametrize("stream", [1, 2])
def test_a_flood_of_output_is_cut_and_its_source_ended(stream: int, sandbox: Sandbox) -> None:
    ran = run(sandbox, ["sh", "-c", f"yes >&{stream}"], output_bytes=100_000)
    said = (ran.stdout, ran.stderr)
    assert ran.reached == "output"
    assert said[stream - 1] == b"y\n" * 50_000
    exact = python(sandbox, "print('x' * 999)", output_bytes=1_000)
    assert (len(exact.stdout), exact.reached) == (1_000, None)


def test_files_and_their_number_are_limited(sandbox: Sandbox) -> None:
    program = """
        import os
        try:
            with open("large", "wb") as file:
                for _ in range(100):
                    file.write(bytes(100_000))
        except OSError as error:
            print(error.strerror, os.path.getsize("large"))
        try:
            kept = [open("large") for _ in range(100)]
        except OSError as error:
            print(error.strerror)
    """
    ran = python(sandbox, program, file_bytes=1_000_000, open_files=32)
    assert ran.stdout == b"File too large 1000000\nToo many open files\n", ran.stderr


@pytest.mark.parametrize(
    "wrong", [{"time_s": 0}, {"memory_bytes": 1}, {"processes": 0}, {"network": True}, {"speed": 1}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Limits(**wrong)


# ---- nothing is left ---------------------------------------------------------------------------------------

LEFT = {
    "in the background": 'subprocess.Popen(["sleep", sys.argv[1]])',
    "without its parent": "os.fork() or (os.fork() and os._exit(0)) or time.sleep(1000)",
    "deaf": "os.fork() or (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(1000))",
    "stopped": "os.fork() or os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("how", LEFT)
def test_what_a_program_leaves_running_ends_with_it(how: str, sandbox: Sandbox, mark: str) -> None:
    program = f"import os, signal, subprocess, sys, time\n{LEFT[how]}\nprint('done', flush=True)\nos._exit(0)"
    ran = python(sandbox, program, mark)
    assert (ran.exit_code, ran.stdout, ran.reached) == (0, b"done\n", None)
    assert marked(mark) == []


def test_whatever_a_program_makes_of_its_folder_is_removed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = """
        import os
        for n in range(100):
            os.mkdir(f"closed{n}", 0)
        os.symlink("/", "link")
        os.mkfifo("pipe")
        for n in range(1100):  # deeper than Python recurses
            os.mkdir("deep")
            os.chdir("deep")
        print("done")
    """
    assert python(sandbox, program).stdout == b"done\n"
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_call_ends_its_program_at_once(sandbox: Sandbox, mark: str) -> None:
    async def cancelled() -> None:
        running = asyncio.create_task(sandbox.run(["sleep", mark], limits=Limits(time_s=LONG_S)))
        await ready(mark)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert marked(mark) == []

    asyncio.run(cancelled())


def test_calls_that_are_under_way_when_everything_ends_leave_nothing(sandbox: Sandbox, mark: str) -> None:
    async def forgetful() -> None:
        kept = [asyncio.create_task(sandbox.run(["sleep", mark])) for _ in range(4)]
        await ready(mark)
        assert kept

    asyncio.run(forgetful())
    assert marked(mark) == []


RUNTIME = """
import asyncio, sys
from planner.sandbox import Limits, probe
sandbox = probe().sandbox
program = f"sleep {sys.argv[1]} & sleep {sys.argv[1]}"
asyncio.run(sandbox.run(["sh", "-c", program], limits=Limits(time_s=1000)))
"""


def test_a_program_ends_when_the_runtime_is_killed(sandbox: Sandbox, mark: str) -> None:
    runtime = [sys.executable, "-c", RUNTIME, mark]
    with subprocess.Popen(runtime, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        until(lambda: len(marked(mark)) >= 4)  # the runtime, the shell and both of its children
        process.kill()
        process.wait()
        until(lambda: not marked(mark))


def test_a_program_ends_when_its_supervisor_is_killed(sandbox: Sandbox, mark: str) -> None:
    async def orphaned() -> None:
        program = ["sh", "-c", f"sleep {mark} & sleep {mark}"]
        running = asyncio.create_task(sandbox.run(program, limits=Limits(time_s=LONG_S)))
        await ready(mark, 3)
        os.kill(starter(min(marked(mark))), signal.SIGKILL)
        with pytest.raises(ToolError) as caught:
            await running
        assert (caught.value.code, caught.value.error_class) == ("T-602", "unavailable")
        until(lambda: not marked(mark))

    asyncio.run(orphaned())


def test_a_supervisor_that_does_not_answer_is_ended(
    sandbox: Sandbox, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "GRACE_S", 0.5)

    async def silent() -> None:
        running = asyncio.create_task(sandbox.run(["sleep", mark], limits=Limits(time_s=5)))
        await ready(mark)
        os.kill(starter(marked(mark)[0]), signal.SIGSTOP)
        with pytest.raises(ToolError, match="did not answer"):
            await running
        until(lambda: not marked(mark))

    asyncio.run(silent())


def test_many_programs_at_once_leave_no_files_open(sandbox: Sandbox) -> None:
    async def many() -> list[Ran]:
        return list(await asyncio.gather(*(sandbox.run(["echo", str(n)]) for n in range(20))))

    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [ran.stdout for ran in asyncio.run(many())] == [f"{n}\n".encode() for n in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# ---- the filter --------------------------------------------------------------------------------------------


def test_the_filter_of_each_machine_fits_and_names_no_call_twice() -> None:
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    for column, machine in enumerate(seccomp.MACHINES):
        assert len(seccomp.program(machine, may_signal=False)) // 8 <= 4096
        numbers = [number for number, _ in seccomp._rulings(column, may_signal=False)]
        assert len(numbers) == len(set(numbers))
        assert max(numbers) <= seccomp.NEWEST
