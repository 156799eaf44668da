"""What an agent must not forget: small files; a crash leaves the old one or the new one whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
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
    """Milliseconds since the machine started, sleep included; nobody can set this clock."""
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
        raise Corrupt(f"{path.name} of the agent holds something else")
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
    before either is heeded. opener: who opened that generation; empty where only its tokens were seen.
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
            raise Permanent("order-wrong", f"no store gives out the token {token}")
        self.refuse_older(generation_of(max(token, 0)))
        if token < max(1, self.highest):
            raise Permanent(
                "stale-token",
                f"the agent has obeyed the token {self.highest}; {token} is of an older leader",
                "stop: another controller leads",
            )
        if token > self.highest:
            newer = generation_of(token) > self.generation
            self._keep(token, max(self.generation, generation_of(token)), "" if newer else self.opener)

    def heed(self, generation: int, opener: str) -> None:
        """Remembers a newer generation. The first who opens one keeps it: two never share a number here."""
        if not 0 <= generation <= GENERATION_MOST or len(opener) > OPENER_MOST:
            raise Permanent("generation-wrong", f"a generation is a number up to {GENERATION_MOST:,}")
        unnamed = generation == self.generation > 0 and not self.opener
        if generation > self.generation or (unnamed and opener):
            self._keep(self.highest, generation, opener)

    def refuse_older(self, generation: int) -> None:
        """Raises `Permanent` for whatever comes from a generation before the newest."""
        if generation < self.generation:
            raise Permanent(
                SUPERSEDED,
                f"the agent obeys generation {self.generation}; {generation} is an older one",
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
