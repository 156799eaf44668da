"""`python -m bench serve`: every figure of the war room with its target, on the example pangyo-mended.

--servers N (90,000); --seconds S (20): of the load; --only PART,...: of the parts below; --json FILE: all
figures for programs. The room is the process that `evac serve --listen` starts, on a SQLite store; whoever
asks is another process. Exit status 1 where a target is missed or was not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, Table, parts_of
from bench.serve_day import day
from bench.serve_large import put_large
from bench.serve_leader import leader
from bench.serve_plans import plans
from bench.serve_view import view

SERVERS: Final = 90_000
SECONDS: Final = 20.0
CONNECTIONS: Final = 16
VIEWERS: Final = 200
NOTICES: Final = 40
NOTICE_EVERY_S: Final = 0.25
PAGES: Final = 60
QUESTIONS: Final = 60
LARGE_STEPS: Final = 100_000
LARGE_BEGUN: Final = 1_000
READY_S: Final = 600.0
READS: Final = (
    "/v1/situation",
    "/v1/estate",
    "/v1/services?limit=100",
    "/v1/audit/losses?kind=site",
    "/v1/findings?limit=20",
    "/v1/plans",
    "/v1/runs",
    "/v1/domains?limit=100",
)


@dataclass(frozen=True, slots=True)
class Room:
    """One that serves. store: its address, for whoever writes what is to be seen."""

    port: int
    pid: int
    store: str
    seconds: float

    def get(self, path: str) -> bytes:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """Raises OSError, and RuntimeError where it is refused."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            told = None if body is None else json.dumps(body)
            line.request(method, path, told, {"Content-Type": "application/json"} if told else {})
            answer = line.getresponse()
            found = answer.read()
        finally:
            line.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{method} {path}: {answer.status} {found[:200]!r}")
        return found

    def processor_s(self) -> float:
        """Seconds of processor that the process took so far, without the one that reckons."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def loop_ms(self) -> float:
        """Milliseconds of processor that the thread of the loop took so far."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e6


def reads(room: Room) -> Iterator[Figure]:
    """Kept answers, every second time as 304, over some connections."""
    for path in READS:
        room.get(path)
    before = room.processor_s()
    found = _loaded(room)
    each_us = 1e6 * (room.processor_s() - before) / found["answers"]
    note = f"{CONNECTIONS} connections, {found['failures']} failures"
    rate = found["answers"] / found["seconds"] if not found["failures"] else None
    yield Figure("reads", "API reads a second", rate, "reads/s", 1_500, "at least", note)
    yield Figure("reads_p99", "p99 of these", found["p99_ms"], "ms", 50, "at most")
    yield Figure("reads_processor", "processor of the room for one read", each_us, "µs")


def _loaded(room: Room) -> dict[str, Any]:
    """What the reading program says."""
    command = [sys.executable, "-m", "bench.serve_load", str(room.port), str(room.seconds)]
    done = subprocess.run(
        [*command, str(CONNECTIONS), *READS],
        capture_output=True,
        text=True,
        check=True,
        timeout=room.seconds + 120,
        cwd=Path(__file__).resolve().parents[1],
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def page_now(room: Room) -> Iterator[Figure]:
    """The page Now, made anew each time: something happened since the one before."""

    used = []

    async def asked() -> tuple[list[float], int]:
        took, size = [], 0
        async with _chronicle(room) as tell:
            for number in range(PAGES):
                version = json.loads(room.get("/v1/situation"))["version"]
                await tell(f"page {number}")
                while json.loads(room.get("/v1/situation"))["version"] == version:
                    await asyncio.sleep(0.02)
                began, before = time.perf_counter(), room.loop_ms()
                size = len(room.get("/now"))
                took.append(1e3 * (time.perf_counter() - began))
                used.append(room.loop_ms() - before)
        return took, size

    took, size = asyncio.run(asked())
    yield _p95("now_p95", "page Now, made anew and sent, p95", took, "ms", 50)
    yield _p95("now_processor_p95", "processor of the room for it, p95", used, "ms", 50)
    yield Figure("now_size", "size of the page Now", size / 1e3, "kB", 300, "at most")


def what_if(room: Room) -> Iterator[Figure]:
    """Losses of one domain each, of every kind, in turn."""
    wanted: list[str] = []
    for kind in ("site", "group", "hall", "feed", "rack"):
        rows = json.loads(room.get(f"/v1/domains?kind={kind}&limit=20"))["items"]
        wanted += [row["id"] for row in rows]
    took = []
    for number in range(QUESTIONS):
        began = time.perf_counter()
        room.ask("POST", "/v1/what-if", {"domains": [wanted[number % len(wanted)]]})
        took.append(time.perf_counter() - began)
    yield _p95("what_if_p95", "What if, one loss, p95", took, "s", 1)


def events(room: Room) -> Iterator[Figure]:
    """From just before a notice is written into the journal until each of the viewers has read it."""
    took = asyncio.run(_watched(room))
    whole = len(took) == VIEWERS * NOTICES
    figure = _p95("sse_p95", f"event in the journal to {VIEWERS} viewers, p95", took, "ms", 500)
    if not whole:
        words = f"{len(took)} of {VIEWERS * NOTICES} came"
        figure = Figure(figure.name, figure.what, None, "ms", 500, "at most", words)
    yield figure


def large(room: Room) -> Iterator[Figure]:
    """A run of 100,000 boots is opened, bound and foretold while others read."""
    name = asyncio.run(put_large(room.store, LARGE_STEPS, LARGE_BEGUN))
    opened: list[float] = []

    def show() -> None:
        began = time.perf_counter()
        while not opened and time.perf_counter() - began < READY_S:
            try:
                told = json.loads(room.get(f"/v1/runs/{name}"))
            except RuntimeError:  # not found yet
                told = {}
            if (told.get("forecast") or {}).get("servers") == LARGE_STEPS:
                opened.append(time.perf_counter() - began)
            else:
                time.sleep(0.1)

    shower = threading.Thread(target=show)
    shower.start()
    found = _loaded(room)
    shower.join()
    words = f"a run of {LARGE_STEPS:,} boots is shown, with its forecast"
    yield Figure("large_opened", words, opened[0] if opened else None, "s")
    yield Figure("large_p99", "p99 of API reads meanwhile", found["p99_ms"], "ms")
    yield Figure("large_max", "longest of these", found["max_ms"], "ms")


async def _watched(room: Room) -> list[float]:
    written: dict[str, float] = {}
    took: list[float] = []

    async def view() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", room.port, limit=1 << 20)
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        missing = NOTICES
        while missing and (line := await reader.readline()):
            if line.startswith(b"retry: "):
                opened.release()
            if line.startswith(b"data: ") and b'"words":"seen ' in line:
                took.append(1e3 * (time.perf_counter() - written[json.loads(line[6:])["words"]]))
                missing -= 1
        writer.close()

    opened = asyncio.Semaphore(0)
    viewers = [asyncio.create_task(view()) for _ in range(VIEWERS)]
    try:
        async with asyncio.timeout(120):
            for _ in range(VIEWERS):
                await opened.acquire()
            async with _chronicle(room) as tell:
                for number in range(NOTICES):
                    words = f"seen {number}"
                    written[words] = time.perf_counter()
                    await tell(words)
                    await asyncio.sleep(NOTICE_EVERY_S)
                await asyncio.gather(*viewers)
    except TimeoutError:
        pass  # whoever counts sees what is missing
    finally:
        for one in viewers:
            one.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)
    return took


class _chronicle:
    """Writes notices into the journal of watching, as a leader does."""

    def __init__(self, room: Room) -> None:
        from evac.store.opening import open_store

        self._store = open_store(room.store)

    async def __aenter__(self) -> Callable[[str], Any]:
        from evac.engine.lead.watch_journal import STREAM, Notice, encode
        from evac.store.journal import Journal, head_of

        anchor = await head_of(self._store, STREAM)
        make = Journal.create if anchor is None else Journal.open
        journal = await make(self._store, STREAM, None)

        async def tell(words: str) -> None:
            await journal.append([encode(Notice("run", int(time.time() * 1e3), "", words))], None)

        return tell

    async def __aexit__(self, *of: object) -> None:
        await self._store.close()


def _p95(name: str, what: str, samples: Sequence[float], unit: str, target: float) -> Figure:
    ordered = sorted(samples)
    value = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)] if ordered else None
    return Figure(name, what, value, unit, target, "at most", f"{len(ordered)} samples", tuple(ordered))


PARTS: Mapping[str, tuple[str, Callable[[Room], Iterator[Figure]]]] = {
    "reads": ("Reads of the API, as fast as one other process asks", reads),
    "now": ("The page Now", page_now),
    "view": ("The page Now in Chromium", lambda room: view(room.port)),
    "what-if": ("What if", what_if),
    "events": ("Server-sent events", events),
    "large": ("A large run", large),
}


ALONE: Mapping[str, tuple[str, Callable[[int], Iterator[Figure]]]] = {
    "plans": ("Standing plans of every fault domain above a rack", plans),
    "leader": ("The leader is killed", leader),
    "day": ("A day of the controller", day),
}
"""Parts that need no room: how many servers is all they are told."""


@contextmanager
def served(servers: int, seconds: float) -> Iterator[Room]:
    """A room on a new store and a new estate. Raises RuntimeError where it does not become ready."""
    import socket

    with tempfile.TemporaryDirectory(prefix="evac-bench-") as folder:
        estate, store = f"{folder}/estate", f"sqlite:{folder}/room.sqlite"
        words = ["example", "pangyo-mended", "-o", estate, "--servers", str(servers), "-q"]
        subprocess.run([sys.executable, "-m", "evac", *words], check=True, timeout=READY_S)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "evac.web.serving", estate, "--store", store]
        process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdin=subprocess.PIPE)
        try:
            room = Room(port, process.pid, store, seconds)
            _until_ready(room, process)
            yield room
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it ends with its parent
            process.wait(60)


def _until_ready(room: Room, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the room ended with {process.returncode}")
        try:
            room.get("/readyz")
        except (OSError, RuntimeError, http.client.HTTPException):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the room was not ready in {READY_S:g} s")


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench serve", description="Figures of the war room.")
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--only", default=",".join((*PARTS, *ALONE)))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    table = Table(f"The war room: {given.servers:,} servers")
    table.open()
    asked = parts_of(given.only, (*PARTS, *ALONE), parser)
    if any(part in PARTS for part in asked):
        with served(given.servers, given.seconds) as room:
            for part in (part for part in asked if part in PARTS):
                _add(table, PARTS[part][0], PARTS[part][1](room))
    for part in (part for part in asked if part not in PARTS):
        _add(table, ALONE[part][0], ALONE[part][1](given.servers))
    return table.close(given.json)


def _add(table: Table, title: str, figures: Iterator[Figure]) -> None:
    table.section(title)
    for figure in figures:
        table.add(figure)
