"""The local model as a process of its own, spoken to over HTTP like any provider.

Rules of the file:
- The server listens on loopback only, at a free port, with a random key that no command line ever shows.
- Its crash cannot hurt the caller, and it never outlives its use: a private one ends with the caller, however
  that ends; a shared one ends by `stop` or when nobody has used it for a while.
- The record of a shared server is its right to run: it leaves as soon as its record is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import importlib.util
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import AsyncFileLock
from pydantic import Field, ValidationError

from planner.core.labels import Frozen
from planner.errors import ModelError

READY_S = 120.0
"""Loading takes 2 s from memory; this is for a slow disk (10 MB/s) under load."""
IDLE_S = 600.0
LEAVE_S = 5.0
"""How long a server may take to leave; it needs 0.1 s."""
ANSWER_S = 2.0
CHILD = Path(__file__).with_name("_child.py")
MAGIC = b"GGUF"
NO_MEMORY = ("failed to allocate", "bad_alloc", "MemoryError", "Cannot allocate memory")
NO_MODEL = "failed to load model"


class Endpoint(Frozen):
    """A running server: an OpenAI-compatible API for one model."""

    api_base: str
    api_key: str = Field(repr=False)
    alias: str
    pid: int


def default_runtime() -> Path:
    """The user's folder for what lives as long as processes do; refused later if others may write to it."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "planner" if given else Path(tempfile.gettempdir()) / f"planner-{os.getuid()}"


@asynccontextmanager
async def private_server(path: Path, *, runtime: Path | None = None) -> AsyncIterator[Endpoint]:
    """Serves the weights at `path` inside the `async with`; the server also ends when this process is killed.

    Raises `ModelError`: M-301 no llama.cpp, M-302 CPU not supported, M-303 unreadable weights, M-304 out of
    memory, M-305 died at start, M-306 not ready in time, M-307 others may write to the runtime folder.
    """
    log = _owned(runtime) / f"{path.stem}-{secrets.token_hex(4)}.log"
    try:
        process, endpoint = await _start(path, log=log)
        try:
            yield endpoint
        finally:
            await _end(process)
    finally:
        log.unlink(missing_ok=True)


async def shared_server(path: Path, *, runtime: Path | None = None, idle_s: float = IDLE_S) -> Endpoint:
    """The machine's server of the weights at `path`, started if there is none that answers.

    Whoever waits longer than `idle_s` between two requests asks here again first. Raises what
    `private_server` raises.
    """
    record = _record(path, _owned(runtime))
    async with AsyncFileLock(record.with_suffix(".lock")):
        if endpoint := await asyncio.to_thread(_alive, record):
            os.utime(record)  # counts as use
            return endpoint
        record.unlink(missing_ok=True)
        _, endpoint = await _start(path, log=record.with_suffix(".log"), record=record, idle_s=idle_s)
        return endpoint


async def status(*, runtime: Path | None = None) -> tuple[Endpoint, ...]:
    """The shared servers that answer."""
    found = [await asyncio.to_thread(_alive, record) for record in _records(_owned(runtime))]
    return tuple(endpoint for endpoint in found if endpoint)


async def stop(*, runtime: Path | None = None) -> tuple[Endpoint, ...]:
    """Stops the shared servers, and whatever they are working on, and returns those that ran.

    Raises `ModelError` M-308 if one does not leave.
    """
    stopped: list[Endpoint] = []
    for record in _records(_owned(runtime)):
        async with AsyncFileLock(record.with_suffix(".lock")):
            endpoint = await asyncio.to_thread(_alive, record)
            record.unlink(missing_ok=True)
            if endpoint:
                await asyncio.to_thread(_wait_until_gone, endpoint)
                stopped.append(endpoint)
    return tuple(stopped)


async def _start(
    path: Path, *, log: Path, record: Path | None = None, idle_s: float = IDLE_S
) -> tuple[Process, Endpoint]:
    """The process that was started and what it serves; with a `record` it has detached and is already gone."""
    _check(path)
    order = {
        "path": str(path),
        "alias": path.stem,
        "api_key": secrets.token_urlsafe(24),
        "threads": _cores(),
        "record": str(record) if record else None,
        "idle_s": idle_s,
    }
    with log.open("wb") as errors:
        # By its path and with -P: no folder of the user's can stand in for a module. In a session of its own:
        # a Ctrl-C is for the caller, who may still need the model to end well.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(CHILD), stdin=PIPE, stdout=PIPE, stderr=errors, start_new_session=True
        )
    assert process.stdin
    assert process.stdout
    ready = b""
    try:
        async with asyncio.timeout(READY_S):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            ready = await process.stdout.readline()
            if record:
                await process.wait()
    except TimeoutError:
        raise ModelError(
            "M-306",
            f"The server of `{path.stem}` was not ready after {READY_S:.0f} s.",
            hint="Is the machine busy, or the disk slow? Try again, or use a hosted model.",
        ) from None
    finally:
        if record or not ready:
            await _end(process)
    if not ready:
        raise _died(path, code=process.returncode or 0, log=log)
    return process, Endpoint.model_validate_json(ready)


async def _end(process: Process) -> None:
    assert process.stdin
    process.stdin.close()
    try:
        async with asyncio.timeout(LEAVE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _owned(runtime: Path | None) -> Path:
    folder = runtime or default_runtime()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise ModelError(
            "M-307",
            f"Others may write to `{folder}`, so the keys in it cannot be trusted.",
            hint="Make it yours with mode 0700, or set XDG_RUNTIME_DIR to a folder that is.",
            error_class="denied",
        )
    return folder


def _check(path: Path) -> None:
    if not importlib.util.find_spec("xllamacpp"):
        raise ModelError(
            "M-301",
            "The local model needs llama.cpp: the package `xllamacpp` is not installed.",
            hint="Install it with `pip install xllamacpp`, or use a hosted model.",
            error_class="missing",
        )
    try:
        with path.open("rb") as file:
            problem = "" if file.read(len(MAGIC)) == MAGIC else "it is not a GGUF file"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise _unreadable(path, problem)


def _unreadable(path: Path, problem: str) -> ModelError:
    return ModelError(
        "M-303",
        f"The weights at `{path}` cannot be read: {problem}.",
        hint="Get them with `planner models pull`.",
        error_class="invalid",
    )


def _died(path: Path, *, code: int, log: Path) -> ModelError:
    """Why a server that never became ready ended, as far as its exit code and its log tell."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = "\n".join(text.splitlines()[-12:])
    killed_by = -code if code < 0 else code - 128
    if killed_by == signal.SIGILL:
        return ModelError(
            "M-302",
            "This CPU lacks instructions that the installed llama.cpp needs.",
            hint="Build `xllamacpp` from source on this machine, or use a hosted model.",
        )
    if killed_by == signal.SIGKILL or any(sign in text for sign in NO_MEMORY):
        need = path.stat().st_size * 2 / 1e9
        return ModelError(
            "M-304",
            f"There is not enough memory for `{path.stem}`, which needs about {need:.1f} GB.\n{lines}",
            hint="Close something, or use a hosted model.",
            error_class="limit",
        )
    if NO_MODEL in text:
        return _unreadable(path, f"llama.cpp says\n{lines}\n")
    return ModelError("M-305", f"The server of `{path.stem}` ended with code {code} at its start.\n{lines}")


def _cores() -> int:
    """The physical cores that this process may use: more threads than that only wait for each other."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_text(Path(topology.format(cpu))) or str(cpu) for cpu in os.sched_getaffinity(0)}
    share, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    limit = int(share) // int(period) if share.isdigit() else len(cores)
    return max(1, min(len(cores), limit))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _record(path: Path, folder: Path) -> Path:
    """Where the server of the weights at `path` is written down; two files of one name are two models."""
    return folder / f"{path.stem}-{hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]}.json"


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _alive(record: Path) -> Endpoint | None:
    try:
        endpoint = Endpoint.model_validate_json(record.read_bytes())
    except (OSError, ValidationError):
        return None
    return endpoint if _answers(endpoint) else None


def _answers(endpoint: Endpoint) -> bool:
    """Whether this very server still listens there; a silent one counts as busy, not as dead."""
    where = urlsplit(endpoint.api_base)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {endpoint.api_key}"})
        answer = connection.getresponse()
        return answer.status == http.client.OK and f'"id":"{endpoint.alias}"'.encode() in answer.read()
    except TimeoutError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_until_gone(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + LEAVE_S
    while _answers(endpoint):
        if time.monotonic() > deadline:
            raise ModelError(
                "M-308",
                f"The server of `{endpoint.alias}` did not leave within {LEAVE_S:.0f} s.",
                hint=f"End it with `kill -9 {endpoint.pid}`.",
            )
        time.sleep(0.05)
