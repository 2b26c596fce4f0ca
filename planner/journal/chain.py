"""How an event is stored so that nobody can change, drop, move or add one without being noticed.

Rules of the file:
- Pure: salts and times arrive as arguments.
- A stored event is never rewritten; only its content may be erased, leaving `body_hash` for `salt` and `body`.

The chain, so that a run can be checked without this code. The `hash` of an event is the SHA-256 of the
canonical JSON (RFC 8785) of the array

    [hash of the event before, run_id, run_seq, at_us, type, schema, body_hash]

where both hashes are lower-case hex and the one before the first event is 64 zeros; `run_seq` counts from 1,
`at_us` is microseconds since 1970 UTC, and `body_hash` is the SHA-256 of `salt` followed by `body`, both as
they are stored; it is stored itself only once they are erased. The head of a run is the hash of its last event.
A body is JSON if it starts with `{`, else the zlib form of JSON. A field that is as it is by default is left out.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from planner.core.events import EVENT, Event
from planner.core.labels import Frozen
from planner.errors import JournalError

SCHEMA = 1
"""The newest `schema` of events that this version reads, and the one it writes."""
PACK_BYTES = 512
"""Bodies beyond this are compressed; below it zlib saves little."""
START = bytes(32)
"""What stands for the hash before the first event."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class Entry(NamedTuple):
    """An event as it is stored."""

    run_seq: int
    at_us: int
    type: str
    schema: int
    salt: bytes | None
    body: bytes | None
    body_hash: bytes | None
    """None as long as there are salt and body."""
    hash: bytes


class Verification(Frozen):
    """What the chain of a run proves: its first `events` events are as they were written."""

    run_id: str
    events: int
    erased: int
    """How many of these lost their content; that they happened, and when, still holds."""
    head: str
    """The hash of the last event that holds, in hex; kept elsewhere, it shows later if any was cut off."""
    first_bad: int | None = None
    """The `run_seq` of the first event that was changed, dropped, moved or added; None: every event holds."""
    problem: str = ""


def to_us(at: datetime) -> int:
    """Microseconds since 1970 UTC. Raises `TypeError` for a time without a zone."""
    return (at - EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    """The time in UTC."""
    return EPOCH + timedelta(microseconds=at_us)


def salted(salt: bytes, content: bytes) -> bytes:
    """The SHA-256 of both, which tells nothing about the content once the salt is gone."""
    digest = hashlib.sha256(salt)
    digest.update(content)
    return digest.digest()


def seal(
    event: Event, salt: bytes, *, previous: bytes, run_id: str, run_seq: int, at: datetime
) -> tuple[Entry, Event]:
    """The link after `previous`, and the event as every reader will see it; `salt` is fresh randomness.

    A run that goes on with that event does what it would do after a resume. Raises `J-117` if JSON cannot
    hold it.
    """
    body, event = packed(event)
    header = (run_seq, to_us(at), event.type, SCHEMA)
    link = _link(previous, run_id, header, salted(salt, body))
    return Entry(*header, salt, body, None, link), event


def packed(event: Event) -> tuple[bytes, Event]:
    """The body of an event, and the event that it stands for. Raises `J-117` if JSON cannot hold it."""
    try:
        body = _text(event)
        kept = EVENT.validate_json(body)
    except ValueError as error:  # Pydantic's errors of both directions are
        raise JournalError(
            "J-117",
            f"`{event.type}` cannot be kept as JSON: {_reason(error)}",
            hint="Its texts must be valid Unicode, its numbers finite.",
            error_class="invalid",
        ) from error
    return zlib.compress(body) if len(body) > PACK_BYTES else body, kept


def _text(event: Event) -> bytes:
    """The event as JSON: its type, and the fields that are not as they are by default."""
    fields = EVENT.dump_json(event, by_alias=True, exclude_defaults=True)
    comma = b"," if len(fields) > len(b"{}") else b""
    return b'{"type":"%b"%b%b' % (event.type.encode(), comma, fields[1:])


def unseal(entry: Entry, run_id: str) -> Event:
    """The event that was sealed. Raises `J-108` if its content was erased, `J-107` if it cannot be read."""
    what = f"event {entry.run_seq} of run `{run_id}`, `{entry.type}`,"
    if entry.schema > SCHEMA:
        raise JournalError(
            "J-107",
            f"{what} has schema {entry.schema}, and this version reads up to {SCHEMA}",
            hint="Use the newer planner that wrote it.",
            error_class="failed",
        )
    if entry.body is None:
        raise JournalError(
            "J-108",
            f"{what} was erased",
            hint="The run can be verified, but no longer be read or resumed.",
            error_class="missing",
        )
    return unpacked(entry.body, EVENT, what=what)


def unpacked(body: bytes, kind: TypeAdapter[T], *, what: str) -> T:
    """What stands in a body. Raises `J-107` in the name of `what` if that is nothing of this kind."""
    try:
        return kind.validate_json(body if body.startswith(b"{") else zlib.decompress(body))
    except (ValueError, zlib.error) as error:
        raise JournalError(
            "J-107",
            f"{what} cannot be read: {_reason(error)}",
            hint="A newer planner wrote it, or it was changed.",
            error_class="failed",
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong and where, without the content itself."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
    return str(error)


def verify(run_id: str, entries: Iterable[Entry], *, events: int, head: bytes) -> Verification:
    """Whether `entries` are the chain of `events` links that ends in `head`, and where they first are not."""
    last, count, erased, problem = START, 0, 0, ""
    for entry in entries:
        problem = "it was added" if count == events else _problem(entry, count + 1, last, run_id)
        if not problem and count == events - 1 and entry.hash != head:
            problem = "the head of the run is another"
        if problem:
            break
        last, count, erased = entry.hash, count + 1, erased + (entry.body is None)
    if not problem and count < events:
        problem = "it is missing"
    return Verification(
        run_id=run_id,
        events=count,
        erased=erased,
        head=last.hex(),
        first_bad=count + 1 if problem else None,
        problem=problem,
    )


def _problem(entry: Entry, run_seq: int, previous: bytes, run_id: str) -> str:
    """What is wrong with `entry` as number `run_seq` after `previous`; empty if nothing is."""
    if entry.run_seq != run_seq:
        return "it is missing"
    match entry.salt, entry.body, entry.body_hash:
        case bytes(salt), bytes(body), None:
            body_hash = salted(salt, body)
        case None, None, bytes(body_hash):
            pass
        case _:
            return "its content was changed"
    header = (entry.run_seq, entry.at_us, entry.type, entry.schema)
    is_linked = _link(previous, run_id, header, body_hash) == entry.hash
    return "" if is_linked else "it, or its place, was changed"


def _link(previous: bytes, run_id: str, header: tuple[int, int, str, int], body_hash: bytes) -> bytes:
    run_seq, at_us, type_, schema = header
    # put together by hand, because a JSON encoder takes longer than the hash; it lends its rules for texts
    text = (
        f'["{previous.hex()}",{encode_basestring(run_id)},{run_seq},{at_us},'
        f'{encode_basestring(type_)},{schema},"{body_hash.hex()}"]'
    )
    return hashlib.sha256(text.encode()).digest()
