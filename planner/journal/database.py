"""One SQLite file: made, brought to its version, used on threads of its own, its faults explained.

Rules of the file:
- Every write is a transaction. Those that wait for their turn together share one, and one wait for the disk; if
  that fails, each has one of its own, so that no writer can tell.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeAlias, TypeVar

from planner.errors import ErrorClass, JournalError

BUSY_S = 10.0
"""How long to wait for another process that is writing; a write takes milliseconds."""
GROUP = 100
"""As many writes share a transaction at most: other processes wait about 10 ms for their turn."""
APPLICATION_ID = 0x504C414E
"""Marks the file as ours ("PLAN"), see https://www.sqlite.org/fileformat.html, 1.3.14."""

T = TypeVar("T")
Migration: TypeAlias = Callable[[sqlite3.Connection], None]
_Fault: TypeAlias = tuple[str, str, str, ErrorClass]


@dataclass(slots=True, eq=False)
class _Write(Generic[T]):
    """A change that waits for its turn, and what came of it: `made` holds the result, once that is committed."""

    work: Callable[[sqlite3.Connection], T]
    durable: bool
    ended: asyncio.Future[None]
    made: tuple[T, ...] = ()
    error: BaseException | None = None


class _Attempt:
    """Keeps what is raised inside, to be raised on the thread that waits for it."""

    error: BaseException | None = None

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


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
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._writes: SimpleQueue[_Write[Any] | None] = SimpleQueue()
        self._is_durable: bool | None = None
        # an executor would cost a sixth more CPU for each event
        self._writing = Thread(target=self._serve, name="journal-writer", daemon=True)
        self._writing.start()

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """What `work` returns, once that is committed; a fault of the file becomes a `JournalError`.

        `durable` waits for the disk. `work` may be called twice, the first time without effect. A write that is
        cancelled before its turn is not done.
        """
        self._check()
        write = _Write(work, durable, asyncio.get_running_loop().create_future())
        self._writes.put(write)
        await write.ended
        if write.error is not None:
            with _explained(self.path):
                raise write.error
        return write.made[0]

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, which never waits for a write."""
        self._check()
        with _explained(self.path):
            return await asyncio.get_running_loop().run_in_executor(self._reading, work, self._reader)

    async def close(self) -> None:
        """Closes after the work that waits already."""
        self.is_closed = True
        self._writes.put(None)
        await asyncio.get_running_loop().run_in_executor(self._reading, self._reader.close)
        await asyncio.to_thread(self._writing.join)
        self._reading.shutdown(wait=False)

    def _check(self) -> None:
        if self.is_closed:
            raise JournalError(
                "J-116", f"the journal `{self.path}` is closed", hint="Open it again.", error_class="invalid"
            )

    def _serve(self) -> None:
        """What the writer's thread does until the journal is closed."""
        while group := self._following():
            self._perform([write for write in group if not write.ended.cancelled()])
            del group  # what was written may be large
        self._writer.close()

    def _following(self) -> list[_Write[Any]]:
        """The next write, and those that wait with it; none when the journal is closed."""
        group: list[_Write[Any]] = []
        while not group or (len(group) < GROUP and not self._writes.empty()):
            write = self._writes.get()
            if write is None:
                self._writes.put(None)  # for the next time: it is the last
                break
            group.append(write)
        return group

    def _perform(self, group: Sequence[_Write[Any]]) -> None:
        attempt = _Attempt()
        with attempt:
            self._commit(group)
        if attempt.error is not None and len(group) > 1:
            for write in group:  # whose fault it was shows when each is done alone
                self._perform([write])
            return
        for write in group:
            write.error = attempt.error
            _tell(write.ended)

    def _commit(self, group: Sequence[_Write[Any]]) -> None:
        """Does all of them or none."""
        durable = any(write.durable for write in group)
        if durable is not self._is_durable:
            _synchronize(self._writer, durable=durable)
            self._is_durable = durable
        with transaction(self._writer):
            results = [write.work(self._writer) for write in group]
        for write, result in zip(group, results, strict=True):
            write.made = (result,)


def _tell(ended: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        ended.get_loop().call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _synchronize(db: sqlite3.Connection, *, durable: bool) -> None:
    """Whether a commit waits for the disk (https://www.sqlite.org/pragma.html#pragma_synchronous)."""
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
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
        _synchronize(db, durable=True)
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
