"""The ledger of the clients: every try, every acknowledgement, every probe of a database, with its time.

An append-only file of JSON lines that one process writes and anybody reads. Times are seconds since 1970 of
this machine's clock. All figures of a fire are computed from here, by pure functions over records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, Literal

Kind = Literal["try", "ack", "fail", "probe"]
_MOST_LINE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Record:
    """try, ack, fail: of message `id` by `client`, try number `number`, through `address`.

    probe: a write straight to the database of `site`, asked at `begin`; ok when acknowledged at `at`. why:
    the reason of a failure.
    """

    kind: Kind
    at: float
    client: int = -1
    id: str = ""
    number: int = 0
    address: str = ""
    site: str = ""
    begin: float = 0.0
    ok: bool = False
    why: str = ""


class LedgerWriter:
    """Appends records; each is in the file before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)

    def write(self, kind: Kind, at: float, **values: object) -> None:
        self._file.write(json.dumps({"kind": kind, "at": round(at, 6), **values}) + "\n")

    def close(self) -> None:
        self._file.close()


def read_ledger(path: Path, offset: int = 0) -> Iterator[Record]:
    """Records from a position of the file on. A last line that is not whole yet is left out."""
    for line in _lines(path, offset):
        if len(line) <= _MOST_LINE:
            yield Record(**json.loads(line))


def _lines(path: Path, offset: int) -> Iterator[bytes]:
    """Those that are whole by now."""
    if path.exists():
        with path.open("rb") as file:
            file.seek(offset)
            yield from (line for line in file if line.endswith(b"\n"))


class LedgerReader:
    """All records from a position of the file on, each read once: what follows a fire looks often, on the
    machine that burns.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._path, self._offset = path, offset
        self._rows: list[Record] = []

    def read(self) -> list[Record]:
        for line in _lines(self._path, self._offset):
            self._offset += len(line)
            if len(line) <= _MOST_LINE:
                self._rows.append(Record(**json.loads(line)))
        return self._rows


def size(path: Path) -> int:
    """Where the next record will be written; a fire is measured from there on."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What clients noticed of a fire. Seconds since the fire; None: it did not happen. longest_gap: between
    two acknowledgements of all clients.
    """

    first_write_seconds: float | None
    last_client_seconds: float | None
    clients: int
    recovered: int
    acknowledged: int
    failed: int
    longest_gap_seconds: float
    double_primary_seconds: float


def measure(records: Iterable[Record], burnt_at: float, until: float = 0.0) -> Measured:
    """Figures of a fire at `burnt_at`. Only what was tried after the fire counts as a write after it: an
    acknowledgement that was on its way at that moment tells nothing. until: when the last process of the site
    was gone; what was tried before that tells nothing either.
    """
    counts_from = max(burnt_at, until)
    rows = list(records)
    begun: dict[tuple[str, int], float] = {}
    first: dict[int, float] = {}
    acks: list[float] = []
    failed = 0
    clients: set[int] = set()
    for row in rows:
        if row.kind == "try":
            begun[row.id, row.number] = row.at
            clients.add(row.client)
        elif row.kind == "fail":
            failed += row.at >= burnt_at
        elif row.kind == "ack":
            acks.append(row.at)
            if begun.get((row.id, row.number), 0.0) >= counts_from and row.client not in first:
                first[row.client] = row.at - burnt_at
    # The silence that still lasts counts too: until the last thing that was written at all.
    moments = [burnt_at, *(at for at in sorted(acks) if at >= burnt_at)]
    moments.append(max([burnt_at, *(row.at for row in rows)]))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    return Measured(
        round(min(first.values()), 3) if first else None,
        round(max(first.values()), 3) if first and len(first) == len(clients) else None,
        len(clients),
        len(first),
        len(acks),
        failed,
        round(max(gaps, default=0.0), 3),
        round(double_primary_seconds(rows), 3),
    )


def acknowledged(records: Iterable[Record]) -> set[str]:
    """Ids of all messages that were acknowledged."""
    return {row.id for row in records if row.kind == "ack"}


def double_primary_seconds(records: Iterable[Record]) -> float:
    """How long two databases acknowledged writes at overlapping times.

    A database counts as writable from the moment the first of a row of acknowledged probes was asked until
    the last of the row was answered; a probe that failed ends the row. That counts rather too much than too
    little.
    """
    spans = [(begin, end, site) for site, rows in writable_spans(records).items() for begin, end in rows]
    overlaps = []
    for number, (begin, end, site) in enumerate(spans):
        for other_begin, other_end, other in spans[number + 1 :]:
            if other != site and min(end, other_end) > max(begin, other_begin):
                overlaps.append((max(begin, other_begin), min(end, other_end)))
    return _length(overlaps)


def writable_spans(records: Iterable[Record]) -> Mapping[str, list[tuple[float, float]]]:
    """site -> spans in which its database acknowledged every probe."""
    spans: dict[str, list[tuple[float, float]]] = {}
    running: dict[str, bool] = {}
    for row in records:
        if row.kind != "probe":
            continue
        mine = spans.setdefault(row.site, [])
        if row.ok and running.get(row.site):
            mine[-1] = (mine[-1][0], row.at)
        elif row.ok:
            mine.append((row.begin, row.at))
        running[row.site] = row.ok
    return spans


def _length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def as_json(measured: Measured) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(measured)
