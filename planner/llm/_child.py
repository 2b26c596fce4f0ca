"""The process that serves a local model: run as a script by `planner.llm.local`, never imported.

It takes one line of JSON from standard input, loads the model, tells in one line on standard output where it
listens, and ends by itself: a private server when its input closes, a shared one when its record is gone or
nothing has happened for a while. Standard error, which is a log file, gets everything else.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

CONTEXT_TOKENS = 8192
"""Costs 28 KiB a token: 230 MB for the default model."""
SLOTS = 1
"""Requests in parallel. Slots do not share a prefix while it is in use: on two cores four requests with the
same 700-token prefix took 4 s on one slot, and 37 s on four, of which three read it anew. Once all had read
it, four slots were a quarter faster."""
PROMPT_CACHE_MIB = 512
"""What is kept of earlier prompts, so that going back to one does not mean to read it again."""
LOOK_S = 0.5
"""How often a shared server looks whether its record is still there."""


def main() -> None:
    """Serves what the order on standard input says; does not return."""
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    record = Path(order["record"]) if order["record"] else None
    if record:
        _detach(record)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints belongs into the log
    server = _server(order)
    endpoint = json.dumps(
        {
            "api_base": f"{server.listening_address}/v1",
            "api_key": order["api_key"],
            "alias": order["alias"],
            "pid": os.getpid(),
        }
    )
    with answer:
        answer.write(f"{endpoint}\n")  # fails if nobody waits any more, and then nobody needs the server
    if record:
        _publish(record, endpoint)
        Thread(target=_leave_without, args=(record, endpoint), daemon=True).start()
        _serve_until_idle(server, record, idle_s=order["idle_s"])
    sys.stdin.read()
    os._exit(0)


def _detach(record: Path) -> None:
    """Goes on in a process that outlives its starter; the one that was started waits until that one serves.

    The starter thereby learns how a start ended, and nobody is left with a child to bury.
    """
    child = os.fork()
    if not child:
        return
    while not record.exists():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
        time.sleep(0.02)
    os._exit(0)


def _server(order: dict[str, Any]) -> Any:  # noqa: ANN401  # the library has no types
    import xllamacpp  # not before the fork: what it loads for a GPU does not survive one

    params = xllamacpp.CommonParams()
    params.model.path = order["path"]
    params.model_alias = {order["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["api_key"]]
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = SLOTS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = order["threads"]
    params.cpuparams_batch.n_threads = order["threads"]
    params.endpoint_metrics = True  # read in here, to know when nothing happens
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 2  # warnings and errors
    return xllamacpp.Server(params)


def _publish(record: Path, endpoint: str) -> None:
    draft = record.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(endpoint)
    draft.replace(record)


def _leave_without(record: Path, endpoint: str) -> None:
    try:
        while record.read_text() == endpoint:
            time.sleep(LOOK_S)
    finally:
        os._exit(0)


def _serve_until_idle(server: Any, record: Path, *, idle_s: float) -> None:  # noqa: ANN401
    seen, since = _activity(server, record), time.monotonic()
    while True:
        time.sleep(idle_s / 60)
        now = _activity(server, record)
        if now != seen or not _is_quiet(now):
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= idle_s:
            _leave_if_still(server, record, seen)


def _activity(server: Any, record: Path) -> tuple[str, int]:  # noqa: ANN401
    """Changes whenever the server works, and whenever somebody is given its address."""
    return server.handle_metrics(), record.stat().st_mtime_ns


def _is_quiet(activity: tuple[str, int]) -> bool:
    return "requests_processing 0\n" in activity[0]


def _leave_if_still(server: Any, record: Path, seen: tuple[str, int]) -> None:  # noqa: ANN401
    with record.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody is given the address while this is held
        if _activity(server, record) == seen:
            record.unlink()
            os._exit(0)


if __name__ == "__main__":
    main()
