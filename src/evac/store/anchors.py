"""The format of journals, and anchors: journal heads kept elsewhere that the journal must still contain.
Pure.

A hash chain alone reveals changes in the middle. Only an anchor reveals that the end was cut off or
rewritten.

A journal segment is one value: a header line and record lines. hash(segment) is the SHA-256 of the whole
value. Each header contains the hash of the previous segment, so anyone who has a later hash can detect any
change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

from evac.model.errors import Corrupt, StoreError
from evac.model.records import dataclass
from evac.store.port import Entry, Store

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
    """One segment as read. `number`: from 1; `first`: number of its first record, from 1 over the stream;
    `token`: fencing token of its writer; `previous`: hash of the previous segment ("" for the first).
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
        """Number of its last record, or of the last record before it if it has none."""
        return self.first + len(self.records) - 1


@lru_cache(maxsize=1_024)
def prefix_of(stream: str) -> str:
    """The key prefix of a stream. Raises `StoreError` for a name that could clash with another stream."""
    if not stream or "/" in stream or not stream.isprintable() or len(stream.encode()) > MAX_STREAM_BYTES:
        hint = f"use a name without a slash, at most {MAX_STREAM_BYTES} bytes long"
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
    """The segment under a key. Raises `Corrupt` if its content does not match its place."""
    head, *records = value.split(b"\n")
    header = _header(head, stream, number)
    if header["stream"] != stream or header["segment"] != number:
        raise Corrupt(
            f"segment {number} of {stream} claims to be a different segment: it was moved or copied"
        )
    if header["count"] != len(records):
        raise Corrupt(f"segment {number} of {stream} has {len(records)} records, not {header['count']}")
    return Segment(
        stream, number, header["first"], header["token"], header["previous"], hash_of(value), tuple(records)
    )


def check_record(record: bytes) -> int:
    """The size of a record. Raises `StoreError` if it cannot be one line."""
    if b"\n" in record or len(record) >= MAX_BODY_BYTES:
        raise StoreError(
            "journal-record",
            "a record must be a single line of less than 768 KiB",
            "store large values elsewhere",
        )
    return len(record) + 1


def _header(line: bytes, stream: str, number: int) -> dict[str, Any]:
    where = f"{stream}/{number}"
    try:
        header = orjson.loads(line) if len(line) <= MAX_HEADER_BYTES else None
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"the header of segment {where} cannot be read") from error
    if not isinstance(header, dict) or header.keys() != HEADER_FIELDS or header["v"] != FORMAT:
        raise Corrupt(f"the header of segment {where} is not in this format")
    for name, kind in _KINDS:
        if type(header[name]) is not kind:
            raise Corrupt(f"the header of segment {where} contains values of the wrong type")
    return header


PAGE_SEGMENTS: Final = 32


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of a journal at some moment. `records`: total up to and including this segment; `hash`: of the
    segment.
    """

    stream: str
    segment: int
    records: int
    hash: str


ProblemKind = Literal["missing", "changed", "cut-off", "token-fell", "unreadable"]


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """One thing wrong with a journal, at or just before a segment."""

    kind: ProblemKind
    segment: int
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


async def verify_chain(store: Store, stream: str, anchors: Iterable[Anchor] = ()) -> list[ChainProblem]:
    """Every problem of a journal: missing, changed or cut-off segments, a token that fell. Empty: the journal
    is intact. A change of the last segment, or a cut at the end, is only detected with a newer anchor.
    """
    walk = _Walk(stream, {})
    for anchor in anchors:
        if anchor.stream == stream:
            walk.anchors.setdefault(anchor.segment, []).append(anchor)
    prefix, after = prefix_of(stream), ""
    try:
        while page := await store.list(prefix, after, PAGE_SEGMENTS):
            for entry in page:
                walk.visit(entry, entry.key[len(prefix) :])
            after = page[-1].key
    except Corrupt as error:
        walk.problems.append(ChainProblem("unreadable", walk.number + 1, error.message))
        return walk.problems
    walk.finish()
    return walk.problems


@dataclass(slots=True)
class _Walk:
    """One pass over a chain. `hash` and `records`: of the previous segment; `records` is -1 if not known."""

    stream: str
    anchors: dict[int, list[Anchor]]
    number: int = 0
    hash: str = ""
    records: int = 0
    token: int = 0
    problems: list[ChainProblem] = field(default_factory=list)

    def visit(self, entry: Entry, tail: str) -> None:
        if len(tail) != 12 or not tail.isdigit():
            self._add("changed", self.number, f"{entry.key} does not belong to a journal")
            return
        number = int(tail)
        gap = number != self.number + 1
        if gap:
            self._add("missing", self.number + 1, f"segments {self.number + 1} to {number - 1} are missing")
        self.number = number
        try:
            segment = decode(self.stream, number, entry.value)
        except Corrupt as error:
            self._add("changed", number, error.message)
            self.hash, self.records = hash_of(entry.value), -1
        else:
            self._chain(segment, gap)
        for anchor in self.anchors.pop(number, ()):
            if anchor.hash != self.hash or self.records not in (-1, anchor.records):
                self._add("changed", number, f"segment {number} is not the one that was anchored")

    def _chain(self, segment: Segment, gap: bool) -> None:
        if not gap and segment.previous != self.hash:
            self._add(
                "changed",
                segment.number,
                f"segment {segment.number} does not follow from segment {segment.number - 1}",
            )
        if not gap and self.records >= 0 and segment.first != self.records + 1:
            self._add(
                "changed",
                segment.number,
                f"segment {segment.number} begins at record {segment.first}, not {self.records + 1}",
            )
        if segment.token < self.token:
            self._add(
                "token-fell",
                segment.number,
                f"segment {segment.number} was written under token {segment.token}, after {self.token}",
            )
        self.hash, self.records = segment.hash, segment.last
        self.token = max(self.token, segment.token)

    def finish(self) -> None:
        for number in sorted(number for number in self.anchors if number > self.number):
            self._add("cut-off", number, f"segment {number} was anchored; the journal ends at {self.number}")

    def _add(self, kind: ProblemKind, segment: int, message: str) -> None:
        self.problems.append(ChainProblem(kind, segment, message))
