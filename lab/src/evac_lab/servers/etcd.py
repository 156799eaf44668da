"""Real etcd members on given loopback addresses. Timers are etcd's own defaults: 300 ms instead of a second
would only invite elections on a loaded machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evac_lab.process import OneProcess, Process, ServerFailed, find_program, run_once

PACKAGE = "etcd-server"


@dataclass(slots=True)
class EtcdServer(OneProcess):
    """One member. peers: name -> URL of every member, itself included."""

    name: str
    host: str
    client_port: int
    peer_port: int
    folder: Path
    peers: Mapping[str, str]
    prefix: tuple[str, ...] = ()
    fresh: bool = True
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.process = Process(
            f"etcd {self.name}", self._argv(), self.folder / "etcd.log", "", self.prefix, cwd=self.folder
        )

    def _argv(self) -> tuple[str, ...]:
        peer = f"http://{self.host}:{self.peer_port}"
        return (
            find_program("etcd", PACKAGE),
            "--name",
            self.name,
            "--data-dir",
            str(self.folder / "data"),
            "--listen-client-urls",
            self.url,
            "--advertise-client-urls",
            self.url,
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            ",".join(f"{name}={url}" for name, url in self.peers.items()),
            "--initial-cluster-state",
            "new" if self.fresh else "existing",
            "--heartbeat-interval",
            "100",
            "--election-timeout",
            "1000",
            "--auto-compaction-mode",
            "periodic",
            "--auto-compaction-retention",
            "1h",
            "--log-level",
            "warn",
        )

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"http://{self.host}:{self.client_port}"

    def start(self) -> None:
        """Starts it and does not wait: one member alone is never ready. See `wait_for_all`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process.start()

    def answers(self) -> bool:
        """Whether it is part of a quorum now."""
        if self.prefix:
            return self._answers_in_its_namespace()
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.url}/health", timeout=1.0) as answer,
        ):
            return b'"true"' in answer.read(4_096)
        return False

    def _answers_in_its_namespace(self) -> bool:
        argv = (
            *self.prefix,
            find_program("etcdctl", "etcd-client"),
            f"--endpoints={self.url}",
            "--dial-timeout=1s",
            "--command-timeout=1s",
            "endpoint",
            "health",
        )
        with contextlib.suppress(ServerFailed, subprocess.TimeoutExpired):
            return "is healthy" in run_once(argv, timeout_s=3.0)
        return False


def etcd(
    folder: Path,
    host: str,
    client_port: int,
    peer_port: int,
    name: str,
    peers: Mapping[str, str] | None = None,
    *,
    prefix: tuple[str, ...] = (),
    fresh: bool = True,
) -> EtcdServer:
    """A member under `folder`, not started; alone when `peers` is not given."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = dict(peers) if peers else {name: f"http://{host}:{peer_port}"}
    return EtcdServer(name, host, client_port, peer_port, folder, cluster, prefix, fresh)


def wait_for_all(members: Sequence[EtcdServer], timeout_s: float = 20.0) -> None:
    """Waits for every member: one successful write proves only two of three."""
    for member in members:
        member.process.wait_until(member.answers, timeout_s)
