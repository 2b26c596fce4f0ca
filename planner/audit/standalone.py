"""Checks an exported record of runs with nothing but Python's standard library.

    python verify.py [FOLDER]

FOLDER (default: this one) holds `events.jsonl`, a line for each event, `runs.jsonl`, a line for each run, and
perhaps `anchors.jsonl`. Each event is chained to the one before: its `hash` is the SHA-256 of the canonical JSON (RFC
8785) of

    [hash of the event before, run, run_seq, at_us, type, schema, body_hash]

where hashes are lower-case hex, the one before the first is 64 zeros, `at_us` is microseconds since 1970 UTC, and
`body_hash` is the SHA-256 of the bytes of `salt` followed by those of `body`. An event whose content was erased has a
`body_hash` instead. The head of a run is the hash of its last event. A line of anchors holds heads as they were at
some moment, and the `hash` of itself: the SHA-256 of the canonical JSON of [hash of the line before, at, heads].
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = "0" * 64


def digest(parts: list[Any]) -> str:
    """The SHA-256 of a list as canonical JSON: no blanks, keys in order, only what must be escaped is."""
    text = json.dumps(parts, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; none if there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def body_hash(event: dict[str, Any]) -> str:
    """The hash of an event's content, or the one that was kept of it."""
    if event.get("body") is None:
        return str(event["body_hash"])
    return hashlib.sha256(bytes.fromhex(event["salt"]) + base64.b64decode(event["body"])).hexdigest()


def chain_problems(run: dict[str, Any], events: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the events of a run: the first that is, for nothing after it proves anything."""
    previous = START
    for number, event in enumerate(events, start=1):
        header = [event["run_seq"], event["at_us"], event["type"], event["schema"]]
        if event["run_seq"] != number:
            yield f"event {number} of run {run['run']} is missing"
            return
        if number > run["events"]:
            yield f"event {number} of run {run['run']} was added"
            return
        if digest([previous, event["run"], *header, body_hash(event)]) != event["hash"]:
            yield f"event {number} of run {run['run']}, or its place, was changed"
            return
        previous = event["hash"]
    if len(events) < run["events"]:
        yield f"event {len(events) + 1} of run {run['run']} is missing"
    elif previous != run["head"]:
        yield f"the head of run {run['run']} is another"


def anchor_problems(anchors: list[dict[str, Any]], hashes: dict[str, list[str]]) -> Iterator[str]:
    """What was anchored and is not there any more; `hashes` are those of each run's events."""
    previous = START
    for number, anchor in enumerate(anchors, start=1):
        if digest([previous, anchor["at"], anchor["heads"]]) != anchor["hash"]:
            yield f"anchor {number} was changed"
            return
        previous = anchor["hash"]
        for run, (count, head) in anchor["heads"].items():
            known = hashes.get(run, [])
            if len(known) < count:
                yield f"run {run} had {count} events at {anchor['at']}, and has {len(known)}: its tail was cut"
            elif count and known[count - 1] != head:
                yield f"event {count} of run {run} is another than at {anchor['at']}"


def problems(folder: Path) -> Iterator[str]:
    """Everything that is wrong with an export."""
    events: dict[str, list[dict[str, Any]]] = {}
    for event in lines(folder / "events.jsonl"):
        events.setdefault(event["run"], []).append(event)
    for run in lines(folder / "runs.jsonl"):
        yield from chain_problems(run, events.get(run["run"], []))
    hashes = {run: [event["hash"] for event in theirs] for run, theirs in events.items()}
    yield from anchor_problems(lines(folder / "anchors.jsonl"), hashes)


if __name__ == "__main__":
    found = list(dict.fromkeys(problems(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))))
    sys.stdout.write("\n".join([*found, "" if found else "every event holds\n"]))
    sys.exit(1 if found else 0)
