"""`planner models`: the local models, their weights, and the server that runs one."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from planner.cli import consent, terminal
from planner.cli.display import DownloadLines
from planner.cli.options import Options
from planner.cli.terminal import line, size
from planner.core.labels import Json
from planner.llm import local, weights


def list_(options: Options) -> int:
    """What there is, what of it is here, and what runs."""
    serving = {endpoint.alias: endpoint.pid for endpoint in asyncio.run(local.status())}
    told: list[Json] = []
    for stored in weights.listing():
        known = stored.weights
        if stored.path is not None:
            here = f"here, {line(str(stored.path))}"
        else:
            here = f"{size(stored.part_bytes)} of it here" if stored.part_bytes else "not here: planner models pull"
        runs = f"; runs as process {serving[known.alias]}" if known.alias in serving else ""
        told.append(
            {
                "alias": known.alias,
                "title": known.title,
                "licence": known.licence,
                "size_bytes": known.size_bytes,
                "path": str(stored.path) if stored.path else None,
                "part_bytes": stored.part_bytes,
                "pid": serving.get(known.alias),
            }
        )
        if not options.is_json:
            terminal.put(f"{known.alias}  {known.title}, {size(known.size_bytes)}, {known.licence}; {here}{runs}")
    if options.is_json:
        terminal.put_json(told)
    return 0


def pull(options: Options) -> int:
    """Downloads one, or copies it from a file; an interrupted download goes on where it was."""
    alias = options.words[0] if options.words else weights.known()[0].alias
    path = weights.pull(
        alias,
        consent=consent.to_download(options) or (lambda _: False),
        progress=_Meter() if terminal.is_lively() and not options.is_json else DownloadLines(),
        offline=os.environ.get("PLANNER_OFFLINE", "") not in {"", "0"},
        file=options.file,
    )
    if options.is_json:
        terminal.put_json({"alias": alias, "path": str(path)})
    else:
        terminal.put(f"{alias} is here: {path}")
    return 0


class _Meter:
    """One line that is written over and over."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r\x1b[2K{terminal.download(done, total, time.monotonic() - self._began)}{end}")
        sys.stderr.flush()


def remove(options: Options) -> int:
    """Deletes the weights, whole or in part."""
    (alias,) = options.words
    freed = weights.remove(alias)
    if options.is_json:
        terminal.put_json({"alias": alias, "freed_bytes": freed})
    else:
        terminal.put(f"{alias} is gone; {size(freed)} are free" if freed else f"nothing of {alias} was here")
    return 0


def stop(options: Options) -> int:
    """Stops the shared server, whoever uses it."""
    stopped = asyncio.run(local.stop())
    if options.is_json:
        terminal.put_json([{"alias": endpoint.alias, "pid": endpoint.pid} for endpoint in stopped])
        return 0
    for endpoint in stopped:
        terminal.put(f"{endpoint.alias} is stopped (process {endpoint.pid})")
    if not stopped:
        terminal.put("nothing was running")
    return 0
