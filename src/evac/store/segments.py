"""The format of a journal: a segment is one value, a header line and record lines. Pure; knows no store.

hash(segment) is the SHA-256 of the whole value. Each header names the hash of the segment before, so that
a change anywhere is seen by whoever holds a later hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from evac.model.errors import Corrupt, StoreError

FORMAT: Final = 1
MAX_RECORDS: Final = 256
MAX_BODY_BYTES: Final = 768 * 1024
MAX_HEADER_BYTES: Final = 2_048
MAX_STREAM_BYTES: Final = 200
_KINDS: Final = (
    ("segment", int),
    ("first", int),
    ("count", int),
    ("token", int),
    ("stream", str),
    ("previous", str),
)
HEADER_FIELDS: Final = frozenset({"v", "stream", "segment", "first", "count", "token", "previous"})


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as read. number: from 1; first: number of its first record, from 1 over the stream;
    token: fencing token of its writer; previous: hash of the segment before ("" for the first).
    """

    stream: str
    number: int
    first: int
    token: int
    previous: str
    hash: str
    records: tuple[bytes, ...]

    @property
    def last(self) -> int:
        """Number of its last record; of the last one before it where it has none."""
        return self.first + len(self.records) - 1


@lru_cache(maxsize=1_024)
def prefix_of(stream: str) -> str:
    """The prefix of a stream's keys. Raises `StoreError` for a name that would mix with another stream."""
    if not stream or "/" in stream or not stream.isprintable() or len(stream.encode()) > MAX_STREAM_BYTES:
        hint = f"use a name without a slash, of {MAX_STREAM_BYTES} bytes at most"
        raise StoreError("journal-stream", f"{stream[:80]!r} cannot name a journal", hint)
    return f"journal/{stream}/"


def key_of(stream: str, number: int) -> str:
    return f"{prefix_of(stream)}{number:012d}"


def hash_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def encode(
    stream: str, number: int, first: int, token: int, previous: str, records: Sequence[bytes]
) -> bytes:
    """The value of a segment."""
    header = {
        "v": FORMAT,
        "stream": stream,
        "segment": number,
        "first": first,
        "count": len(records),
        "token": token,
        "previous": previous,
    }
    return b"\n".join((orjson.dumps(header), *records))


def decode(stream: str, number: int, value: bytes) -> Segment:
    """The segment under a key. Raises `Corrupt` when it does not say what its place says."""
    head, *records = value.split(b"\n")
    header = _header(head, stream, number)
    if header["stream"] != stream or header["segment"] != number:
        raise Corrupt(f"segment {number} of {stream} says it is another: it was moved or copied")
    if header["count"] != len(records):
        raise Corrupt(f"segment {number} of {stream} has {len(records)} records, not {header['count']}")
    return Segment(
        stream, number, header["first"], header["token"], header["previous"], hash_of(value), tuple(records)
    )


def check_record(record: bytes) -> int:
    """The size a record takes. Raises `StoreError` for one that cannot be a line."""
    if b"\n" in record or len(record) >= MAX_BODY_BYTES:
        raise StoreError(
            "journal-record", "a record is one line of less than 768 KiB", "keep large values elsewhere"
        )
    return len(record) + 1


def _header(line: bytes, stream: str, number: int) -> dict[str, Any]:
    where = f"{stream}/{number}"
    try:
        header = orjson.loads(line) if len(line) <= MAX_HEADER_BYTES else None
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"the header of segment {where} cannot be read") from error
    if not isinstance(header, dict) or header.keys() != HEADER_FIELDS or header["v"] != FORMAT:
        raise Corrupt(f"the header of segment {where} is not one of this format")
    for name, kind in _KINDS:
        if type(header[name]) is not kind:
            raise Corrupt(f"the header of segment {where} holds values of the wrong kind")
    return header
