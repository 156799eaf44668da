"""What an agent must not forget: small files; a crash leaves the old one or the new one whole.

Heads of journals are kept for other sites: append only, so that no journal is cut off or changed unseen.

A new generation goes on from a copy of the journals, and so leaves the old ones where that copy was taken:
its heads are kept apart, in files of their own.

A head proves all records before it, and yet older heads are worth something beside it: whoever leads could
write a journal anew from some record on and leave heads of that. So a file never fills, and never forgets all
of the past: the newest heads are kept as they come, and of older ones some of every part of the journal, the
first among them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson

from evac.model.errors import Corrupt, Permanent
from evac.model.generation import GENERATION_MOST, SUPERSEDED, generation_of

MAX_FILE_BYTES: Final = 4 << 20
OPENER_MOST: Final = 64


@cache
def boot_id() -> str:
    """Changes with every start of the machine: clocks and pids of another boot mean nothing. Read once: a
    fence must not depend on whether one more file can be opened.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_ms() -> int:
    """Milliseconds since the machine started, sleep included; no one can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Replaces the file, durable before this returns."""
    _write(path, orjson.dumps(values, option=orjson.OPT_SORT_KEYS))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Replaces a file of lines likewise."""
    _write(path, b"".join(line + b"\n" for line in lines))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb", opener=_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_folder(path.parent)


def read_values(path: Path) -> dict[str, Any]:
    """What was written last; empty without a file. Raises `Corrupt`: guessing would forget a fence."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"{path.name} of the agent cannot be read") from error
    if not isinstance(values, dict):
        raise Corrupt(f"{path.name} of the agent contains something else")
    return values


def append_line(path: Path, line: bytes) -> None:
    """Adds a line, durable before this returns. A torn last line of an earlier crash is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "ab+", opener=_private) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        _sync_folder(path.parent)


class TokenLedger:
    """The highest fencing token this agent has obeyed and the newest generation it was told of: on disk
    before either is heeded. opener: who opened that generation; empty if only its tokens were seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = read_values(path)
        self.highest = int(kept.get("token", 0))
        self.generation = max(int(kept.get("generation", 0)), generation_of(self.highest))
        self.opener = str(kept.get("opener", ""))

    def obey(self, token: int) -> None:
        """Raises `Permanent` for a token lower than any before, or none at all."""
        if generation_of(token) > GENERATION_MOST:
            raise Permanent("order-wrong", f"{token} is not a token that a store issues")
        self.refuse(token)
        if token > self.highest:
            newer = generation_of(token) > self.generation
            self._keep(token, max(self.generation, generation_of(token)), "" if newer else self.opener)

    def refuse(self, token: int) -> None:
        """Raises `Permanent` for a token that is lower than any before, or none at all; remembers nothing."""
        self.refuse_older(generation_of(max(token, 0)))
        if token < max(1, self.highest):
            raise Permanent(
                "stale-token",
                f"the agent has already seen token {self.highest}; {token} is from an older leader",
                "stop: another controller leads",
            )

    def heed(self, generation: int, opener: str) -> None:
        """Remembers a newer generation. The first who opens one keeps it: two never share a number here."""
        if not 0 <= generation <= GENERATION_MOST or len(opener) > OPENER_MOST:
            raise Permanent("generation-wrong", f"a generation must be a number up to {GENERATION_MOST:,}")
        unnamed = generation == self.generation > 0 and not self.opener
        if generation > self.generation or (unnamed and opener):
            self._keep(self.highest, generation, opener)

    def refuse_older(self, generation: int) -> None:
        """Raises `Permanent` for whatever comes from a generation before the newest."""
        if generation < self.generation:
            raise Permanent(
                SUPERSEDED,
                f"the agent follows generation {self.generation}; {generation} is older",
                "stop: a controller of a newer generation acts",
            )

    def _keep(self, token: int, generation: int, opener: str) -> None:
        values = {"token": token, "generation": generation, "opener": opener}
        write_values(self._path, {name: value for name, value in values.items() if value})
        self.highest, self.generation, self.opener = token, generation, opener


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
            raise Permanent("anchor-wrong", "a head must have a segment, a number of records and a hash")
        last, count = self._newest(path)
        if last == head:
            return head
        if last is not None:
            _refuse_backwards(stream, last, head)
        elif len(list(self._folder.glob("*.jsonl"))) >= MAX_STREAMS:
            raise Permanent(
                "anchor-full",
                f"the agent already stores heads of {MAX_STREAMS:,} journals and accepts no more",
                "remove the files of closed journals from the folder anchors in its state folder",
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
            raise Permanent("anchor-wrong", "the name of a stream contains a character that is not allowed")
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
            f"{head.segment} with {head.records} is older",
            "someone truncated the journal: evac run verify",
        )
    if head.segment == last.segment:
        raise Permanent(
            "anchor-changed",
            f"segment {head.segment} of {stream} had a different hash",
            "someone changed the journal: evac run verify",
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
