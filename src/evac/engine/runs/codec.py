"""Events to record lines of a journal and back: a JSON array `[kind, at_ms, step, attempt, data]` a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from evac.model.errors import Corrupt
from evac.run.values import EVENT_DATA, Event

_FIELDS = 5


def encode(event: Event) -> bytes:
    """One line. Raises Corrupt for data that is no JSON: it must never get into a journal."""
    kind, at_ms, step, attempt, data = event
    try:
        return orjson.dumps((kind, at_ms, step, attempt, data if type(data) is dict else dict(data)))
    except TypeError as error:
        raise Corrupt(f"the data of {kind} cannot be written: {error}") from error


def encode_all(events: Iterable[Event]) -> list[bytes]:
    return [encode(event) for event in events]


def decode_all(records: Sequence[bytes]) -> list[Event]:
    """The events of a segment. Raises Corrupt for a line that is no event."""
    try:
        rows = orjson.loads(b"[" + b",".join(records) + b"]")
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"a record of a journal cannot be read: {error}") from error
    if len(rows) != len(records):
        raise Corrupt("a record of a journal holds more than one event")
    events, make = [], tuple.__new__
    for row in rows:
        if type(row) is list and len(row) == _FIELDS:
            kind, at_ms, step, attempt, data = row
            if (
                type(at_ms) is int
                and type(attempt) is int
                and type(step) is str
                and type(data) is dict
                and type(kind) is str
                and kind in EVENT_DATA
            ):
                events.append(make(Event, row))  # as Event._make, which would only count the fields again
                continue
        raise Corrupt(f"a record of a journal is no event: {str(row)[:80]}")
    return events


def decode(record: bytes) -> Event:
    return decode_all((record,))[0]
