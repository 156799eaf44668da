"""Real etcd members on loopback for the tests of the store: started, killed, stopped, started again."""

from __future__ import annotations

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from evac_lab.process import Process
from evac_lab.servers.etcd import FRUGAL, FRUGAL_ENV
from tests.contract.ports import free_port


def etcd_program() -> str | None:
    return shutil.which("etcd")


@dataclass
class Members:
    """A cluster of `count` members in `folder`. scheme: of the clients' side; extra: more arguments."""

    folder: Path
    count: int
    scheme: str = "http"
    extra: tuple[str, ...] = ()
    processes: list[Process] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{self.scheme}://127.0.0.1:{self.ports[2 * i]}" for i in range(self.count))

    def start(self) -> None:
        self.ports = [free_port() for _ in range(2 * self.count)]
        cluster = ",".join(f"m{i}=http://127.0.0.1:{self.ports[2 * i + 1]}" for i in range(self.count))
        for i in range(self.count):
            peer, client = f"http://127.0.0.1:{self.ports[2 * i + 1]}", self.endpoints[i]
            argv = (
                etcd_program() or "etcd",
                "--name",
                f"m{i}",
                "--data-dir",
                str(self.folder / f"m{i}"),
                "--listen-client-urls",
                client,
                "--advertise-client-urls",
                client,
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                cluster,
                "--initial-cluster-state",
                "new",
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--log-level",
                "error",
                *FRUGAL,
                *self.extra,
            )
            process = Process(f"etcd m{i}", argv, self.folder / f"m{i}.log", env=FRUGAL_ENV)
            self.processes.append(process)
            process.start()
        if self.scheme == "http":
            self.wait()

    def wait(self) -> None:
        """Until every member answers a linearizable health check."""
        for i, process in enumerate(self.processes):
            process.wait_until(lambda i=i: self.status(i, "/health").get("health") == "true")

    def status(self, member: int, path: str = "/v3/maintenance/status") -> dict[str, str]:
        data = None if path == "/health" else b"{}"
        try:
            with urllib.request.urlopen(self.endpoints[member] + path, data=data, timeout=1) as response:
                answer: dict[str, str] = json.load(response)
                return answer
        except (OSError, urllib.error.URLError, ValueError):
            return {}

    def leader(self, among: list[int] | None = None) -> int:
        """The index of the member that leads."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for i in among or range(self.count):
                status = self.status(i)
                if status and status.get("leader") == dict(status)["header"]["member_id"]:  # type: ignore[index]
                    return i
            time.sleep(0.05)
        raise AssertionError("no member leads")

    def kill_and_start(self, member: int) -> None:
        self.processes[member].kill()
        self.processes[member].start()

    def hang(self, member: int) -> None:
        self.processes[member].signal(signal.SIGSTOP)

    def go_on(self, member: int) -> None:
        self.processes[member].signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.kill()
