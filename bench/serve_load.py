"""A program that reads from a war room as fast as it answers, over some connections, each one question at a
time.

`python -m bench.serve_load PORT SECONDS CONNECTIONS PATH...` prints JSON: answers, failures, seconds,
latencies in milliseconds (p50, p95, p99, max). Every second question of a path names the tag that the last
answer had. It runs beside the server, in a process of its own, and says how much processor it took itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

HOST: Final = "127.0.0.1"
OPEN_S: Final = 30.0


class Reader(asyncio.Protocol):
    """One connection: asks, waits for the whole answer, asks again."""

    def __init__(self, paths: Sequence[str], first: int, until: float, took: list[float]) -> None:
        self._paths, self._number, self._until, self._took = paths, first, until, took
        self._tags: dict[str, bytes] = {}
        self._data = b""
        self._missing = -1
        self._asked_s = 0.0
        self.failed = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._number += 1
        self._path = self._paths[self._number % len(self._paths)]
        tag = self._tags.get(self._path) if self._number // len(self._paths) % 2 else None
        known = b"If-None-Match: " + tag + b"\r\n" if tag else b""
        head = f"GET {self._path} HTTP/1.1\r\nHost: {HOST}\r\n".encode()
        self._asked_s = time.perf_counter()
        self._transport.write(head + known + b"\r\n")

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._data += data
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self._missing = self._length(head) - len(rest)
        if self._missing <= 0:
            self._answered()

    def _length(self, head: bytes) -> int:
        status = head[9:12]
        if status not in (b"200", b"304"):
            self.failed += 1
        fields = dict(line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
        self._tags[self._path] = fields.get(b"etag", b"")
        return 0 if status == b"304" else int(fields.get(b"content-length", b"0"))

    def _answered(self) -> None:
        now = time.perf_counter()
        self._took.append(now - self._asked_s)
        self._data, self._missing = b"", -1
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self.failed += 1
        if not self.over.done():
            self.over.set_result(None)


async def load(port: int, seconds: float, connections: int, paths: Sequence[str]) -> dict[str, Any]:
    """Reads for so long. Raises OSError where nobody listens, TimeoutError where answers stop."""
    loop, took, began = asyncio.get_running_loop(), list[float](), time.perf_counter()
    until = began + seconds
    readers: list[Reader] = []
    for number in range(connections):
        _, reader = await loop.create_connection(
            lambda first=number: Reader(paths, first, until, took),  # type: ignore[misc]
            HOST,
            port,
        )
        readers.append(reader)
    async with asyncio.timeout(seconds + OPEN_S):
        await asyncio.gather(*(reader.over for reader in readers))
    lasted = time.perf_counter() - began
    took.sort()
    shown = {f"p{p}_ms": 1e3 * took[min(len(took) - 1, len(took) * p // 100)] for p in (50, 95, 99)}
    return {
        "answers": len(took),
        "failures": sum(reader.failed for reader in readers),
        "seconds": lasted,
        "processor_s": time.process_time(),
        "max_ms": 1e3 * took[-1],
        **shown,
    }


def main(arguments: Sequence[str]) -> int:
    port, seconds, connections, *paths = arguments
    asked = load(int(port), float(seconds), int(connections), paths)
    try:
        import uvloop
    except ImportError:
        print(json.dumps(asyncio.run(asked)))
    else:
        print(json.dumps(uvloop.run(asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
