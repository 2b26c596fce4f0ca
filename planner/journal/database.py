"""One SQLite file: made, brought to its version, used on threads of its own, its faults explained."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from planner.errors import ErrorClass, JournalError

BUSY_S = 10.0
"""How long to wait for another process that is writing; a write takes milliseconds."""
APPLICATION_ID = 0x504C414E
"""Marks the file as ours ("PLAN"), see https://www.sqlite.org/fileformat.html, 1.3.14."""

T = TypeVar("T")
Migration: TypeAlias = Callable[[sqlite3.Connection], None]
_Fault: TypeAlias = tuple[str, str, str, ErrorClass]


class Database:
    """A connection that writes and one that reads, each on its own thread: no disk stops the event loop."""

    def __init__(self, path: Path, migrations: Sequence[Migration]) -> None:
        """Opens the file, or makes it. Raises `J-110` to `J-115` if that cannot be."""
        self.path = path.absolute()
        self.is_closed = False
        with _explained(self.path), ExitStack() as opened:
            _make(self.path)
            self._writer = opened.enter_context(closing(_connect(self.path)))
            _prepare(self._writer, self.path, migrations)
            self._reader = opened.enter_context(closing(_connect(self.path)))
            self._reader.execute("PRAGMA query_only=ON")
            opened.pop_all()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="journal-writer")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns; a fault of the file becomes a `JournalError`."""
        return await self._run(self._writing, partial(work, self._writer))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, which never waits for a write."""
        return await self._run(self._reading, partial(work, self._reader))

    async def close(self) -> None:
        """Closes after the work that waits already."""
        self.is_closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reading, self._reader.close)
        await loop.run_in_executor(self._writing, self._writer.close)
        self._reading.shutdown(wait=False)
        self._writing.shutdown(wait=False)

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self.is_closed:
            raise JournalError(
                "J-116", f"the journal `{self.path}` is closed", hint="Open it again.", error_class="invalid"
            )
        with _explained(self.path):
            return await asyncio.get_running_loop().run_in_executor(thread, work)


@contextmanager
def transaction(db: sqlite3.Connection, *, durable: bool = True) -> Iterator[None]:
    """All or nothing; `durable` waits for the disk (https://www.sqlite.org/pragma.html#pragma_synchronous)."""
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _make(path: Path) -> None:
    """Makes a file that only its user may read, which SQLite alone would not."""
    if path.is_dir():
        raise JournalError(
            "J-110", f"`{path}` is a folder, not a journal", hint="Name a file in it.", error_class="invalid"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # one that exists is not even opened: closing it would drop the locks that SQLite holds on it in this
    # process (https://www.sqlite.org/howtocorrupt.html, 2.2)
    with suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    # a damaged text is to fail the check of its chain, not the query
    db.text_factory = partial(str, encoding="utf-8", errors="replace")
    return db


def _prepare(db: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Brings the file to the version that `migrations` lead to, or leaves it as it was."""
    is_new = _number(db, "SELECT count(*) FROM sqlite_master") == 0
    if not is_new and _number(db, "PRAGMA application_id") != APPLICATION_ID:
        raise JournalError(
            "J-111",
            f"`{path}` is a database of another program",
            hint="Name another file.",
            error_class="invalid",
        )
    version, known = _number(db, "PRAGMA user_version"), len(migrations)
    if version > known:
        raise JournalError(
            "J-112",
            f"the journal `{path}` has version {version}, and this planner reads up to {known}",
            hint="Use the newer planner that wrote it, or name another file.",
            error_class="invalid",
        )
    _use_wal(db)
    db.execute("PRAGMA fullfsync=ON")  # without it macOS leaves what it acknowledged in the drive's cache
    if version < known:
        with transaction(db):
            # read again: another process may have been first
            for migrate in migrations[_number(db, "PRAGMA user_version") :]:
                migrate(db)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={known}")


def _use_wal(db: sqlite3.Connection) -> None:
    """Switches to a write-ahead log; SQLite itself does not wait when two processes do so at once."""
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


_REFUSED: _Fault = ("J-110", "cannot be opened for writing", "Name a file where you may write.", "unavailable")
_DAMAGED: _Fault = ("J-111", "is damaged or no journal", "Put back a copy, or name another file.", "failed")
_FULL: _Fault = ("J-113", "has no room on its disk", "Free some; nothing is half written.", "limit")
_BUSY: _Fault = ("J-114", f"was kept by another process for {BUSY_S:.0f} s", "Try again.", "unavailable")
_FAILED: _Fault = ("J-115", "failed", "Look at its disk; what was acknowledged is there.", "failed")
_FAULTS: Mapping[int, _Fault] = {
    sqlite3.SQLITE_CANTOPEN: _REFUSED,
    sqlite3.SQLITE_READONLY: _REFUSED,
    sqlite3.SQLITE_PERM: _REFUSED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_BUSY: _BUSY,
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say about the file into a `JournalError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        result = error.sqlite_errorcode if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_CANTOPEN
        # the low byte is the kind of fault, the rest its detail (https://www.sqlite.org/rescode.html)
        code, problem, hint, error_class = _FAULTS.get(result & 0xFF, _FAILED)
        raise JournalError(
            code, f"the journal `{path}` {problem}: {error}", hint=hint, error_class=error_class
        ) from error
