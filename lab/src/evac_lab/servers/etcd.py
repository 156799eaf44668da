"""Real etcd members on given loopback addresses. Timers are etcd's defaults: 300 ms instead of a second would
only cause elections on a loaded machine. With TLS files a member accepts no one without a certificate.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Final

from evac.model.records import dataclass
from evac.net.etcd_gateway import Gateway, text_key
from evac.net.tls import RenewedClient, TlsFiles
from evac_lab.process import OneProcess, Process, ServerFailed, find_program, run_once

PACKAGE = "etcd-server"
FRUGAL: Final = ("--unsafe-no-fsync",)
FRUGAL_ENV: Final = {"GOMAXPROCS": "1"}


ROOT = "root"


@dataclass
class EtcdServer(OneProcess):
    """One member. peers: name -> URL of every member, including itself. tls: for clients and peers; None:
    plain. frugal: uses a third less CPU time, on one core and without fsync; what it has written then
    survives the end of its process, and no power loss.
    """

    name: str
    host: str
    client_port: int
    peer_port: int
    folder: Path
    peers: Mapping[str, str]
    prefix: tuple[str, ...] = ()
    fresh: bool = True
    tls: TlsFiles | None = None
    frugal: bool = False
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        argv, log = self._argv(), self.folder / "etcd.log"
        env = FRUGAL_ENV if self.frugal else {}
        self.process = Process(f"etcd {self.name}", argv, log, "", self.prefix, cwd=self.folder, env=env)

    def _argv(self) -> tuple[str, ...]:
        peer = f"{self._scheme}://{self.host}:{self.peer_port}"
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
            *(FRUGAL if self.frugal else ()),
            *self._lock(),
        )

    def _lock(self) -> tuple[str, ...]:
        if self.tls is None:
            return ()
        ca, cert, key = str(self.tls.ca), str(self.tls.cert), str(self.tls.key)
        return (
            *("--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"),
            *("--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca),
            "--peer-client-cert-auth",
            # Passwords here are 32 random bytes: slow hashing gains nothing.
            *("--bcrypt-cost", "4"),
        )

    @property
    def _scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"{self._scheme}://{self.host}:{self.client_port}"

    @cached_property
    def _line(self) -> RenewedClient | None:
        """The TLS context for asking this member: its own certificate."""
        return None if self.tls is None else RenewedClient(self.tls)

    def start(self) -> None:
        """Starts it without waiting: one member alone is never ready. See `wait_for_all`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process.start()

    def answers(self) -> bool:
        """Whether it is part of a quorum now."""
        if self.prefix:
            return self._answers_in_its_namespace()
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(
                f"{self.url}/health", timeout=1.0, context=None if self._line is None else self._line.now()
            ) as answer,
        ):
            return b'"true"' in answer.read(4_096)
        return False

    def _answers_in_its_namespace(self) -> bool:
        argv = (
            *self.prefix,
            find_program("etcdctl", "etcd-client"),
            f"--endpoints={self.url}",
            *(() if self.tls is None else (f"--cacert={self.tls.ca}", f"--cert={self.tls.cert}")),
            *(() if self.tls is None else (f"--key={self.tls.key}",)),
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
    tls: TlsFiles | None = None,
    frugal: bool = False,
) -> EtcdServer:
    """A member under `folder`, not started; alone if `peers` is not given."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = dict(peers) if peers else {name: f"http{'' if tls is None else 's'}://{host}:{peer_port}"}
    return EtcdServer(name, host, client_port, peer_port, folder, cluster, prefix, fresh, tls, frugal)


def wait_for_all(members: Sequence[EtcdServer], timeout_s: float = 20.0) -> None:
    """Waits for every member: one successful write proves only two of three."""
    for member in members:
        member.process.wait_until(member.answers, timeout_s)


async def add_users(gateway: Gateway, root: str, users: Mapping[str, tuple[str, str]]) -> None:
    """Requires a password from now on. root: password of the administrator. users: name -> its password, and
    the prefix of the only keys that it may read and write.
    """
    await gateway.call("/v3/auth/user/add", {"name": ROOT, "password": root})
    await gateway.call("/v3/auth/user/grant", {"user": ROOT, "role": ROOT})
    for name, (password, prefix) in users.items():
        await add_user(gateway, name, password, prefix)
    await gateway.call("/v3/auth/enable", {})


async def add_user(
    gateway: Gateway, name: str, password: str, prefix: str, access: str = "READWRITE"
) -> None:
    """Adds a user, and a role of the same name for the keys below a prefix. access: or READ."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    keys = {"permType": access, "key": text_key(prefix), "range_end": text_key(end)}
    await gateway.call("/v3/auth/role/add", {"name": name})
    await gateway.call("/v3/auth/role/grant", {"name": name, "perm": keys})
    await gateway.call("/v3/auth/user/add", {"name": name, "password": password})
    await gateway.call("/v3/auth/user/grant", {"user": name, "role": name})
