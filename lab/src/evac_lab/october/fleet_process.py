"""The fleet of the story as a process of its own, and what its admin interface tells."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from evac_lab.process import ServerFailed

READY_S: Final = 120.0
STOP_S: Final = 10.0
_ANSWER_S: Final = 30.0
_ANSWER_BYTES: Final = 32_000_000
_LINE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Fleet:
    """How a running fleet is reached. password: a reference. admin: its URL, on loopback."""

    port: int
    user: str
    password: str
    admin: str

    def ask(self, path: str) -> Mapping[str, Any]:
        """What the admin interface answers. Raises OSError, ValueError."""
        with urllib.request.urlopen(f"{self.admin}/{path}", timeout=_ANSWER_S) as answer:
            return cast(Mapping[str, Any], json.loads(answer.read(_ANSWER_BYTES)))

    def limit(self, domain: str, watts: int) -> None:
        """What utility or cooling give a site, hall, feed or rack now. Raises OSError."""
        body = json.dumps({"power_watts": watts}).encode()
        request = urllib.request.Request(f"{self.admin}/budget/{domain}", body, method="PUT")
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            answer.read(_LINE_BYTES)


@contextmanager
def serving(estate: Path, site: str, folder: Path, seed: int, speed: int) -> Iterator[Fleet]:
    """A fleet of the servers of a site, without power, as long as the block lasts. Raises ServerFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable,
        "-m",
        "evac",
        "lab",
        "fleet",
        "--estate",
        str(estate),
        "--site",
        site,
        "--seed",
        str(seed),
        "--speed",
        str(speed),
        "--latency",
        "0",
        "--at-start",
        "open",
        "--quiet",
        "--port",
        "0",
        "--admin-port",
        "0",
        "--folder",
        str(folder),
    ]
    with (folder / "fleet.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            yield _ready(process.stdout, folder / "fleet.log")
        finally:
            _end(process)


def _ready(out: IO[bytes], log: Path) -> Fleet:
    """Waits for the ready line: the first one."""
    until = time.monotonic() + READY_S
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        left = until - time.monotonic()
        if left <= 0 or not select.select([out], [], [], left)[0]:
            raise ServerFailed("fleet-silent", f"the fleet is not ready after {READY_S:g} s", f"see {log}")
        part = out.read1(4_096)  # type: ignore[attr-defined]
        if not part:
            words = log.read_text("utf-8", "replace").strip().splitlines()
            raise ServerFailed(
                "fleet-failed", f"the fleet ended: {words[-1] if words else 'no words'}", f"see {log}"
            )
        line += part
    about = json.loads(line)
    return Fleet(int(about["port"]), str(about["user"]), str(about["password"]), str(about["admin"]))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
