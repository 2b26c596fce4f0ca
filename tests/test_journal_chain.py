from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.events import Event, StepSucceeded, TimerFired
from planner.core.labels import Labelled
from planner.errors import JournalError
from planner.journal.chain import (
    PACK_BYTES,
    SCHEMA,
    START,
    Entry,
    Verification,
    from_us,
    salted,
    seal,
    to_us,
    unseal,
    verify,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))
LONG = StepSucceeded(path="s9", value=Labelled(value="letter " * 1000))


def sealed(*events: Event, run_id: str = "r1") -> list[Entry]:
    entries: list[Entry] = []
    for run_seq, event in enumerate(events, start=1):
        previous = entries[-1].hash if entries else START
        salt = bytes([run_seq]) * 16
        at = AT + timedelta(seconds=run_seq)
        entries.append(seal(event, salt, previous=previous, run_id=run_id, run_seq=run_seq, at=at)[0])
    return entries


FIVE = sealed(*(TimerFired(path=f"s{n}") for n in range(4)), LONG)


def verified(entries: list[Entry]) -> Verification:
    """What is found in `entries` where the run says that it holds `FIVE`."""
    return verify("r1", entries, events=5, head=FIVE[-1].hash)


def erased(entry: Entry) -> Entry:
    assert entry.salt is not None
    assert entry.body is not None
    return entry._replace(salt=None, body=None, body_hash=salted(entry.salt, entry.body))


def test_an_untouched_chain_holds() -> None:
    assert verified(FIVE) == Verification(run_id="r1", events=5, erased=0, head=FIVE[-1].hash.hex())
    assert verify("r1", [], events=0, head=START).first_bad is None


@given(st.integers(0, 4), st.sampled_from(Entry._fields), st.data())
def test_one_changed_byte_is_found_in_whatever_column_it_is(index: int, column: str, data: st.DataObject) -> None:
    old = getattr(FIVE[index], column)
    new: object
    if old is None:
        new = data.draw(st.binary(min_size=1))
    elif isinstance(old, int):
        new = old ^ (1 << data.draw(st.integers(0, 50)))
    else:
        stored = bytearray(old.encode() if isinstance(old, str) else old)
        stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
        new = stored.decode(errors="replace") if isinstance(old, str) else bytes(stored)
    entries = FIVE.copy()
    entries[index] = Entry(**{**FIVE[index]._asdict(), column: new})
    proof = verified(entries)
    assert (proof.first_bad, proof.events) == (index + 1, index)
    assert proof.problem


@given(st.permutations(range(5)), st.integers(0, 5))
def test_a_dropped_or_moved_event_is_found_where_the_order_first_differs(order: list[int], length: int) -> None:
    order = order[:length]
    first = next((n for n in range(5) if order[n : n + 1] != [n]), None)
    kept = [FIVE[n] for n in order]
    renumbered = [entry._replace(run_seq=n) for n, entry in enumerate(kept, start=1)]
    expected = None if first is None else first + 1
    assert verified(kept).first_bad == expected
    assert verified(renumbered).first_bad == expected


def test_an_event_that_was_added_or_written_anew_at_the_end_is_found() -> None:
    longer = sealed(*(TimerFired(path=f"s{n}") for n in range(4)), LONG, LONG)
    assert longer[:5] == FIVE
    assert verified(longer).first_bad == 6
    other_end = sealed(*(TimerFired(path=f"s{n}") for n in range(5)))
    assert verified(other_end).first_bad == 5


def test_an_event_of_another_run_does_not_fit() -> None:
    (foreign,) = sealed(TimerFired(path="s0"), run_id="r2")
    assert verify("r1", [foreign], events=1, head=foreign.hash).first_bad == 1


@given(st.sets(st.integers(0, 4)))
def test_erased_content_leaves_the_chain_whole(gone: set[int]) -> None:
    proof = verified([erased(entry) if n in gone else entry for n, entry in enumerate(FIVE)])
    assert (proof.first_bad, proof.events, proof.erased) == (None, 5, len(gone))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry._replace(salt=None),
        lambda entry: entry._replace(body=None),
        lambda entry: entry._replace(salt=None, body=None),
        lambda entry: entry._replace(body_hash=salted(entry.salt, entry.body)),
        lambda entry: erased(entry)._replace(body_hash=bytes(32)),
    ],
)
def test_content_that_is_half_erased_was_changed(change: Callable[[Entry], Entry]) -> None:
    assert verified([change(FIVE[0]), *FIVE[1:]]).first_bad == 1


def test_a_long_body_is_compressed_and_a_short_one_is_not() -> None:
    short, long = FIVE[0].body, FIVE[4].body
    assert short is not None
    assert short.startswith(b"{")
    assert long is not None
    assert len(long) < PACK_BYTES < len(zlib.decompress(long))
    assert unseal(FIVE[4], "r1") == LONG


@given(st.timedeltas(timedelta(days=-50_000), timedelta(days=50_000)), st.sampled_from([UTC, INDIA]))
def test_a_time_is_kept_to_the_microsecond_and_given_back_in_utc(since: timedelta, zone: timezone) -> None:
    at = (AT + since).astimezone(zone)
    assert from_us(to_us(at)) == at
    assert from_us(to_us(at)).tzinfo is UTC


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_us(AT.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        (FIVE[2]._replace(schema=SCHEMA + 1), "J-107", f"schema {SCHEMA + 1}"),
        (FIVE[2]._replace(body=b'{"type":"MoonRose"}'), "J-107", "MoonRose"),
        (FIVE[2]._replace(body=b'{"type":"TimerFired","path":7}'), "J-107", "`TimerFired.path`"),
        (FIVE[2]._replace(body=b"no zlib"), "J-107", "cannot be read"),
        (erased(FIVE[2]), "J-108", "was erased"),
    ],
)
def test_an_event_that_cannot_be_read_is_named_with_the_reason(entry: Entry, code: str, words: str) -> None:
    with pytest.raises(JournalError) as caught:
        unseal(entry, "r1")
    assert caught.value.code == code
    for word in ("event 3", "`r1`", "`TimerFired`", words):
        assert word in caught.value.message
