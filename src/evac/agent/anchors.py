"""Heads of journals kept for other sites: append only, so no journal is cut off or changed unseen.

A new generation goes on from a copy of the journals, and so leaves the old ones where that copy was taken:
its heads are kept apart, in files of their own.

A head proves all records before it, and yet older heads are worth something beside it: whoever leads could
write a journal anew from some record on and leave heads of that. So a file never fills, and never forgets all
of the past: the newest heads are kept as they come, and of older ones some of every part of the journal, the
first among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from evac.agent.memory import append_line, write_lines
from evac.model.errors import Permanent

MAX_STREAMS: Final = 4_096
NEWEST: Final = 4_096
"""Heads of a stream that are all kept."""
OLDER: Final = 4_096
"""Heads before them that are kept at the most."""
LINES_MOST: Final = NEWEST + OLDER + 4_096
"""A file of more is thinned out."""
SHOWN: Final = 1_000
_STREAM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a stream: its last segment, how many records there are up to it, and its hash."""

    segment: int
    records: int
    hash: str


class Anchors:
    """One file a stream, one line a head."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, tuple[Head, int]] = {}
        """Of a file: its newest head, and how many there are."""

    def add(self, stream: str, head: Head, generation: int = 0) -> Head:
        """Keeps a head, durable before this returns; the same head again changes nothing. Raises `Permanent`
        for one that goes backwards, or that is another one at the same place.
        """
        path = self._path(stream, generation)
        if head.segment < 0 or head.records < 0 or not _HASH.fullmatch(head.hash):
            raise Permanent("anchor-wrong", "a head is a segment, a number of records and a hash")
        last, count = self._newest(path)
        if last == head:
            return head
        if last is not None:
            _refuse_backwards(stream, last, head)
        elif len(list(self._folder.glob("*.jsonl"))) >= MAX_STREAMS:
            raise Permanent(
                "anchor-full",
                f"the agent keeps heads of {MAX_STREAMS:,} journals and takes no other",
                "take files of journals that are over out of the folder anchors of its state",
            )
        if count >= LINES_MOST:
            count = self._thin(path)
        append_line(path, orjson.dumps(asdict(head)))
        self._last[path.name] = head, count + 1
        return head

    def _thin(self, path: Path) -> int:
        """How many are left."""
        kept = thinned(_read(path))
        write_lines(path, [orjson.dumps(asdict(head)) for head in kept])
        return len(kept)

    def heads(self, stream: str, generation: int = 0) -> list[dict[str, Any]]:
        """Heads of a generation, oldest first: the first one, some of each time, and the last ones."""
        path = self._path(stream, generation)
        if not path.exists():
            return []
        return [asdict(head) for head in _sample(_read(path))]

    def _newest(self, path: Path) -> tuple[Head | None, int]:
        if path.name not in self._last and path.exists():
            found = _read(path)
            if found:
                self._last[path.name] = found[-1], len(found)
        return self._last.get(path.name, (None, 0))

    def _path(self, stream: str, generation: int) -> Path:
        """No name of a stream holds an @, so that none of another generation can be meant."""
        if not _STREAM.fullmatch(stream):
            raise Permanent("anchor-wrong", "the name of a stream holds a character that it may not have")
        return self._folder / (f"{stream}@{generation}.jsonl" if generation else f"{stream}.jsonl")


def thinned(heads: Sequence[Head]) -> list[Head]:
    """Those that are kept, the first one among them, however many there were."""
    older, newest = heads[:-NEWEST], heads[-NEWEST:]
    if len(older) <= OLDER:
        return list(heads)
    first = older[0].segment
    span = older[-1].segment - first + 1
    parts: dict[int, Head] = {}
    for head in older:
        parts.setdefault((head.segment - first) * OLDER // span, head)
    return [*parts.values(), *newest]


def _sample(heads: Sequence[Head]) -> list[Head]:
    """As many as one answer holds."""
    if len(heads) <= SHOWN:
        return list(heads)
    half = SHOWN // 2
    older = heads[:-half]
    return [*older[:: -(-len(older) // half)], *heads[-half:]]


def _refuse_backwards(stream: str, last: Head, head: Head) -> None:
    if head.segment < last.segment or head.records < last.records:
        raise Permanent(
            "anchor-backwards",
            f"the head of {stream} was at segment {last.segment} with {last.records} records; "
            f"{head.segment} with {head.records} is before it",
            "somebody cut the journal off: evac run verify",
        )
    if head.segment == last.segment:
        raise Permanent(
            "anchor-changed",
            f"segment {head.segment} of {stream} had another hash",
            "somebody changed the journal: evac run verify",
        )


def _read(path: Path) -> list[Head]:
    """Every whole line. A line torn by a crash was never answered, so it counts for nothing."""
    found: list[Head] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            values = orjson.loads(line) if line else None
            if values is not None:
                found.append(Head(int(values["segment"]), int(values["records"]), str(values["hash"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return found
