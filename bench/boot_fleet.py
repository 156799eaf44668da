"""A simulated fleet as a process of its own, for the stages of the boot benchmark."""

from __future__ import annotations

import csv
import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import peak_mib

READY_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    address: str
    serial: str


@dataclass(frozen=True, slots=True)
class FleetProcess:
    """about: what its ready line says."""

    about: dict[str, Any]

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.about['admin']}/stats", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def memory_mib(self) -> float:
        """The most memory it had in RAM at any time."""
        return peak_mib(str(self.about["pid"]))

    def cpu_seconds(self) -> float:
        fields = (
            Path(f"/proc/{self.about['pid']}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / TICKS


def servers_of(about: dict[str, Any]) -> list[Server]:
    """As the estate has them that the fleet wrote."""
    with (Path(about["estate"]) / "servers.csv").open(encoding="utf-8", newline="") as file:
        return [Server(row["server"], row["bmc_address"], row["serial"]) for row in csv.DictReader(file)]


@contextmanager
def fleet(folder: Path, servers: int, *options: str) -> Iterator[FleetProcess]:
    """Its estate lies in `folder`/estate. It is ended in any case."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "evac",
        "lab",
        "fleet",
        "--servers",
        str(servers),
        "--port",
        "0",
        "--admin-port",
        "0",
        "--folder",
        str(folder / "state"),
        "-o",
        str(folder / "estate"),
        *options,
    ]
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line:
            words = (folder / "errors").read_text(encoding="utf-8")[-1_000:]
            raise RuntimeError(f"the fleet does not start: {words}")
        yield FleetProcess(json.loads(line))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()
