"""Heads of journals kept for other sites: append only, so no journal is cut off or changed unseen.

A new generation goes on from a copy of the journals, and so leaves the old ones where that copy was taken:
its heads are kept apart, in files of their own.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from evac.engine.agent_memory import append_line
from evac.model.errors import Permanent

MAX_STREAMS: Final = 4_096
MAX_FILE_BYTES: Final = 64 << 20
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
        self._last: dict[str, Head] = {}

    def add(self, stream: str, head: Head, generation: int = 0) -> Head:
        """Keeps a head, durable before this returns; the same head again changes nothing. Raises `Permanent`
        for one that goes backwards, or that is another one at the same place.
        """
        path = self._path(stream, generation)
        if head.segment < 0 or head.records < 0 or not _HASH.fullmatch(head.hash):
            raise Permanent("anchor-wrong", "a head is a segment, a number of records and a hash")
        last = self._newest(path)
        if last == head:
            return head
        if last is not None:
            _refuse_backwards(stream, last, head)
        elif len(list(self._folder.glob("*.jsonl"))) >= MAX_STREAMS:
            raise Permanent("anchor-full", f"the agent keeps heads of {MAX_STREAMS} streams at most")
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            raise Permanent("anchor-full", f"the heads of {stream} fill their file", "archive it by hand")
        append_line(path, orjson.dumps(asdict(head)))
        self._last[path.name] = head
        return head

    def heads(self, stream: str, generation: int = 0) -> list[dict[str, Any]]:
        """The first head and the last ones of a generation, oldest first."""
        path = self._path(stream, generation)
        if not path.exists():
            return []
        found = _read(path)
        kept = found if len(found) <= SHOWN else [found[0], *found[-SHOWN + 1 :]]
        return [asdict(head) for head in kept]

    def _newest(self, path: Path) -> Head | None:
        if path.name not in self._last and path.exists():
            found = _read(path)
            if found:
                self._last[path.name] = found[-1]
        return self._last.get(path.name)

    def _path(self, stream: str, generation: int) -> Path:
        """No name of a stream holds an @, so that none of another generation can be meant."""
        if not _STREAM.fullmatch(stream):
            raise Permanent("anchor-wrong", "the name of a stream holds a character that it may not have")
        return self._folder / (f"{stream}@{generation}.jsonl" if generation else f"{stream}.jsonl")


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
