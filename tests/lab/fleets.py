"""A simulated fleet as a process of its own, for tests that talk to it as any client would."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evac_lab.fleet.ground import address_of

_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A fleet that answers. about: its ready line."""

    process: subprocess.Popen[bytes]
    about: dict[str, Any]
    folder: Path

    @property
    def password(self) -> str:
        return Path(self.about["password"].removeprefix("file:")).read_text(encoding="utf-8")

    def url(self, server: int = 0) -> str:
        return f"{self.about['scheme']}://{address_of(server)}:{self.about['port']}"

    @property
    def circuits(self) -> str:
        return f"{self.about['scheme']}://{self.about['circuits']}:{self.about['port']}"

    def admin(self, path: str, body: object = None, method: str = "") -> dict[str, Any]:
        """Asks the admin interface; a body makes it a POST unless told otherwise."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.about['admin']}/{path}", data, method=method or None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def wait_until(self, state: str, count: int, within_s: float = 10.0) -> None:
        """Until so many servers are `on`, `up`, ..."""
        deadline = time.monotonic() + within_s
        while (found := self.admin("stats")["servers"][state]) != count:
            assert time.monotonic() < deadline, f"{found} servers are {state}, not {count}"
            time.sleep(0.05)


def command(folder: Path, *options: str) -> list[str]:
    evac = (sys.executable, "-m", "evac", "lab", "fleet", "--folder", str(folder / "state"))
    return [*evac, "--port", "0", "--admin-port", "0", *options]


def start(folder: Path, *options: str) -> Running:
    """Starts a fleet and waits for its ready line."""
    env = {**os.environ, "EVAC_DEBUG": "1"}
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(command(folder, *options), stdout=subprocess.PIPE, stderr=errors, env=env)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _READY_SECONDS)
    line = process.stdout.readline() if ready else b""
    if not line:
        process.kill()
        process.wait(10)
        process.stdout.close()
        raise AssertionError((folder / "errors").read_text(encoding="utf-8")[-2_000:])
    return Running(process, json.loads(line), folder)


def end(fleet: Running, number: int = signal.SIGTERM) -> int:
    """Ends it as a person would; returns its exit code."""
    assert fleet.process.stdout is not None
    if fleet.process.poll() is None:
        fleet.process.send_signal(number)
    try:
        return fleet.process.wait(10)
    finally:
        fleet.process.kill()
        fleet.process.wait(10)
        fleet.process.stdout.close()


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Running]:
    """A fleet for a while. It must end well, and say nothing of mistakes."""
    fleet = start(folder, *options)
    try:
        yield fleet
    finally:
        code = end(fleet)
    assert code == 0
    assert "Traceback" not in (folder / "errors").read_text(encoding="utf-8")
