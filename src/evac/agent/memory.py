"""State that an agent must not lose, in small files. After a crash, the old or the new file is complete.

Heads of journals are kept for other sites, append-only, so that no journal can be truncated or changed
unnoticed. A new generation continues from a copy of the journals and so diverges from the old ones; its heads
are in files of their own.

A head proves all records before it, but older heads add evidence: a leader could rewrite a journal from some
record on and leave new heads. So a file never fills up and never drops the whole past: it keeps all of the
newest heads, a sample of older ones from every part of the journal, and the first one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson

from evac.drivers.parameters import lower_token
from evac.model.errors import Corrupt, Permanent
from evac.model.generation import GENERATION_MOST, SUPERSEDED, generation_of
from evac.model.records import dataclass

MAX_FILE_BYTES: Final = 4 << 20
OPENER_MOST: Final = 64


@cache
def boot_id() -> str:
    """Boot ID: changes at every boot, which invalidates clocks and pids. Read once, because a fence must not
    depend on opening another file.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_ms() -> int:
    """Milliseconds since boot, including sleep, on a clock that cannot be set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Replace the file; durable on return."""
    _write(path, orjson.dumps(values, option=orjson.OPT_SORT_KEYS))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Replace a file of lines; durable on return."""
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
    """What was last written; empty without a file. Raises `Corrupt`, because guessing could lose a fence."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"{path.name} of the agent cannot be read") from error
    if not isinstance(values, dict):
        raise Corrupt(f"{path.name} of the agent does not contain a JSON object")
    return values


def append_line(path: Path, line: bytes) -> None:
    """Append a line; durable on return. First terminates a line torn by an earlier crash."""
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
    """The highest fencing token that this agent obeyed and the newest generation it knows, both on disk
    before they take effect. opener: who opened that generation; empty if only its tokens were seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = read_values(path)
        self.highest = int(kept.get("token", 0))
        self.generation = max(int(kept.get("generation", 0)), generation_of(self.highest))
        self.opener = str(kept.get("opener", ""))

    def obey(self, token: int) -> None:
        """Record a token. Raises `Permanent` if it is missing or lower than an earlier one."""
        if generation_of(token) > GENERATION_MOST:
            raise Permanent("order-wrong", f"{token} is not a token that a store issues")
        self.refuse(token)
        if token > self.highest:
            newer = generation_of(token) > self.generation
            self._keep(token, max(self.generation, generation_of(token)), "" if newer else self.opener)

    def refuse(self, token: int) -> None:
        """Raise `Permanent` if a token is missing or lower than an earlier one; records nothing."""
        self.refuse_older(generation_of(max(token, 0)))
        if token < max(1, self.highest):
            raise lower_token("the agent", self.highest, token)

    def heed(self, generation: int, opener: str) -> None:
        """Record a newer generation. The first to open a generation owns it: no two share a number."""
        if not 0 <= generation <= GENERATION_MOST or len(opener) > OPENER_MOST:
            raise Permanent("generation-wrong", f"a generation must be a number up to {GENERATION_MOST:,}")
        unnamed = generation == self.generation > 0 and not self.opener
        if generation > self.generation or (unnamed and opener):
            self._keep(self.highest, generation, opener)

    def refuse_older(self, generation: int) -> None:
        """Raise `Permanent` for anything from a generation before the newest."""
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
"""Newest heads of a stream, all of which are kept."""
OLDER: Final = 4_096
"""Maximum number of older heads kept."""
LINES_MOST: Final = NEWEST + OLDER + 4_096
"""A file with more lines is thinned out."""
SHOWN: Final = 1_000
_STREAM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a stream: its last segment, the number of records up to it, and its hash."""

    segment: int
    records: int
    hash: str


class Anchors:
    """Heads, one file a stream and one line a head."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, tuple[Head, int]] = {}
        """File -> its newest head and its number of heads."""

    def add(self, stream: str, head: Head, generation: int = 0) -> Head:
        """Keep a head; durable on return. The same head again changes nothing. Raises `Permanent` for a head
        that goes backwards or differs at the same position.
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
                "remove the files of closed journals from the folder `anchors` in its state folder",
            )
        if count >= LINES_MOST:
            count = self._thin(path)
        append_line(path, orjson.dumps(asdict(head)))
        self._last[path.name] = head, count + 1
        return head

    def _thin(self, path: Path) -> int:
        """Thin out the file; return how many heads are left."""
        kept = thinned(_read(path))
        write_lines(path, [orjson.dumps(asdict(head)) for head in kept])
        return len(kept)

    def heads(self, stream: str, generation: int = 0) -> list[dict[str, Any]]:
        """Heads of a generation, oldest first: the first one, a sample of each period, and the newest."""
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
        """Path of a stream's file. Stream names contain no @, so generations cannot collide."""
        if not _STREAM.fullmatch(stream):
            raise Permanent("anchor-wrong", "the name of a stream contains a character that is not allowed")
        return self._folder / (f"{stream}@{generation}.jsonl" if generation else f"{stream}.jsonl")


def thinned(heads: Sequence[Head]) -> list[Head]:
    """The heads to keep, which include the first, however many there were."""
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
    """As many heads as fit in one response."""
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
            "someone truncated the journal; check it: evac run verify",
        )
    if head.segment == last.segment:
        raise Permanent(
            "anchor-changed",
            f"segment {head.segment} of {stream} had a different hash",
            "someone changed the journal; check it: evac run verify",
        )


def _read(path: Path) -> list[Head]:
    """Every complete line. A line torn by a crash was never acknowledged, so it is dropped."""
    found: list[Head] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            values = orjson.loads(line) if line else None
            if values is not None:
                found.append(Head(int(values["segment"]), int(values["records"]), str(values["hash"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return found
