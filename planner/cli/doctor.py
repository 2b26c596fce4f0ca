"""`planner doctor`: whether everything is there that a run needs, and what to do where it is not.

Rules of the file:
- Looking changes nothing: no run is made, nothing is downloaded, no server is started, no key is sent anywhere.
- A check that cannot be made is a warning; what would keep every run from starting is a failure.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from planner import config
from planner.assistant import Assistant
from planner.cli import terminal
from planner.cli.conduct import state_dir
from planner.cli.exits import EXITS
from planner.cli.options import Options
from planner.cli.terminal import safe, size
from planner.errors import PlannerError
from planner.journal import SqliteJournal
from planner.journal.sqlite import MIGRATIONS
from planner.llm import choose, local, weights
from planner.sandbox import probe

PACKAGES = ("pydantic", "litellm", "instructor", "xllamacpp", "jinja2", "chromadb", "opentelemetry-sdk")
NEEDED_FREE_BYTES = 200_000_000
"""Less than this on the disk of the state folder, and a busy week of runs may not fit."""


class Check(NamedTuple):
    """One thing that was looked at; `hint` says what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    hint: str = ""


def doctor(options: Options) -> int:
    """One line per check; the exit code is 1 if any failed."""
    checks = []
    for check in _checks(options):
        checks.append(check)
        if not options.is_json:
            terminal.put(f"{check.state:<5} {check.name:<10} {safe(check.text)}")
            if check.hint:
                terminal.put(f"{'':16} {safe(check.hint)}")
    failed = any(check.state == "fail" for check in checks)
    if options.is_json:
        terminal.put_json({"ok": not failed, "checks": [check._asdict() for check in checks]})
    return EXITS["internal error"] if failed else 0


def _checks(options: Options) -> Iterator[Check]:
    yield _python()
    yield _platform()
    yield _packages()
    yield _sandbox()
    state = state_dir(options)
    yield _state(state)
    yield _journal(state)
    yield from _assistant(options, state)
    yield _weights()
    yield _server()
    yield _disk(state)


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def _platform() -> Check:
    text = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() in {"Linux", "Darwin"}:
        return Check("platform", "ok", text)
    return Check("platform", "warn", text, "Tested on Linux and macOS only; Windows is untested.")


def _packages() -> Check:
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, number in found.items() if number is None]
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    if missing:
        return Check("packages", "fail", text, f"Install {', '.join(missing)}, or planner-runtime again.")
    return Check("packages", "ok", text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sandbox() -> Check:
    found = probe()
    if found.sandbox is not None:
        return Check("sandbox", "ok", f"holds {', '.join(found.holds)}")
    return Check("sandbox", "warn", found.reason, "Without it no program is run; everything else works.")


def _state(state: Path) -> Check:
    place = next(path for path in (state, *state.parents) if path.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Check("state", "ok", str(state) if place == state else f"{state}, made with the first run")
    return Check("state", "fail", f"{place} cannot be written to", "Name another folder: `--state` or PLANNER_STATE.")


def _journal(state: Path) -> Check:
    path = state / "journal.db"
    if not path.exists():
        return Check("journal", "ok", "none yet, made with the first run")
    try:
        count = asyncio.run(_runs(path))
    except PlannerError as error:
        return _failed("journal", error)
    return Check("journal", "ok", f"opens, version {len(MIGRATIONS)}, {count} runs")


async def _runs(path: Path) -> str:
    journal, most = SqliteJournal.open(path), 1000
    try:
        count = len(await journal.runs(limit=most))
    finally:
        await journal.close()
    return str(count) if count < most else f"{most} or more"


def _failed(name: str, error: PlannerError) -> Check:
    return Check(name, "fail", f"[{error.code}] {error.message}", error.hint)


# ---- the assistant -----------------------------------------------------------------------------------------


def _assistant(options: Options, state: Path) -> Iterator[Check]:
    """The assistant, and what its settings lead to. One that nobody agreed to is not loaded."""
    settings = None
    try:
        found = config.find_assistant(options.assistant, here=Path.cwd())
        content = config.content_hash(found.folder)
        settings = config.load(found.folder, os.environ)
        if found.needs_consent and not config.has_consent(state, content):
            hint = "Run a goal here to be asked, or name it: `--assistant .`."
            yield Check("assistant", "warn", f"{found.folder} was not agreed to, so it is not loaded", hint)
        else:
            assistant = Assistant.open(found.folder, state=state, workspace=options.workspace)
            yield Check("assistant", "ok", f"{settings.assistant.name} in {found.folder}, content {content[:12]}")
            yield _tools(assistant)
    except PlannerError as error:
        yield _failed("assistant", error)
    yield _model(options, settings or config.Config())
    endpoint = settings.telemetry.endpoint if settings else None
    yield Check("telemetry", "ok", f"on, to {endpoint}" if endpoint else "off")


def _tools(assistant: Assistant) -> Check:
    callees = assistant.catalogue.values()
    running = [callee.name for callee in callees if callee.declaration.effect == "execute"]
    text = f"{len(callees)} callees, none of them in a sandbox"
    if running:
        return Check("tools", "warn", text, f"These run whatever they want in this process: {', '.join(running)}.")
    return Check("tools", "ok", f"{text}, and none that needs one")


def _model(options: Options, settings: config.Config) -> Check:
    default = weights.known()[0].alias
    try:
        choice = asyncio.run(
            choose(
                options.model or next(iter(settings.models.default), None),
                environment=os.environ,
                has_weights=lambda: weights.find(default) is not None,
            )
        )
    except PlannerError as error:
        return _failed("model", error)
    return Check("model", "ok", f"{choice.model}, because {choice.reason}")


def _weights() -> Check:
    here = [stored for stored in weights.listing() if stored.path is not None]
    if here:
        text = ", ".join(
            f"{stored.weights.alias}, {size(stored.weights.size_bytes)} as it should be" for stored in here
        )
        return Check("weights", "ok", text)
    known = weights.known()[0]
    parts = sum(stored.part_bytes for stored in weights.listing())
    text = f"{size(parts)} of {size(known.size_bytes)}" if parts else "none on this machine"
    return Check("weights", "warn", text, "Without a hosted model: `planner models pull`.")


def _server() -> Check:
    try:
        running = asyncio.run(local.status())
    except PlannerError as error:
        return _failed("server", error)
    text = ", ".join(f"{endpoint.alias} runs as process {endpoint.pid}" for endpoint in running)
    return Check("server", "ok", text or "not running; it starts when the local model is needed")


def _disk(state: Path) -> Check:
    free = {place: shutil.disk_usage(_existing(place)).free for place in (state, weights.default_cache())}
    text = ", ".join(f"{size(count)} free for {place}" for place, count in free.items())
    is_here = any(stored.path for stored in weights.listing())
    room = 0 if is_here else weights.known()[0].size_bytes * 11 // 10
    if free[state] < NEEDED_FREE_BYTES or free[weights.default_cache()] < room:
        return Check("disk", "warn", text, "Make room, or name other folders.")
    return Check("disk", "ok", text)


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.exists())
