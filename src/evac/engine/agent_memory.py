"""What an agent must not forget: small files; a crash leaves the old one or the new one whole."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import orjson

from evac.model.errors import Corrupt, Permanent

MAX_FILE_BYTES: Final = 4 << 20


def boot_id() -> str:
    """Changes with every start of the machine: clocks and pids of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_ms() -> int:
    """Milliseconds since the machine started, sleep included; nobody can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Replaces the file, durable before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb", opener=_private) as file:
        file.write(orjson.dumps(values, option=orjson.OPT_SORT_KEYS))
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
    """The highest fencing token this agent has obeyed: remembered on disk before it is obeyed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.highest = int(read_values(path).get("token", 0))

    def obey(self, token: int) -> None:
        """Raises `Permanent` for a token lower than any before, or none at all."""
        if token < max(1, self.highest):
            raise Permanent(
                "stale-token",
                f"the agent has obeyed the token {self.highest}; {token} is of an older leader",
                "stop: another controller leads",
            )
        if token > self.highest:
            write_values(self._path, {"token": token})
            self.highest = token


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
