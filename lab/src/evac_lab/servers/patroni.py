"""Real Patroni members, each with its own PostgreSQL, on the lab's etcd: a baseline for evac, and the target
of its driver.

Each member is pinned to one etcd member: one that picks the member of the burning site hangs for seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals
import urllib.request
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from evac.model.records import dataclass
from evac_lab.process import Process, find_program, give_to, kill_family, run_once, signal_family
from evac_lab.servers.postgres import DEFAULTS, USER, program_folder, remove_segment, shared_segment

PACKAGE = "patroni python3-etcd"


@dataclass(frozen=True, slots=True)
class Timers:
    """In seconds. Patroni requires loop_wait + 2 x retry_timeout <= ttl, and a ttl of at least 20."""

    ttl: int = 30
    loop_wait: int = 10
    retry_timeout: int = 10


SHORTEST = Timers(20, 1, 3)


@dataclass(slots=True)
class PatroniMember:
    """One member. port: of its REST API; postgres_port: of its database."""

    scope: str
    name: str
    host: str
    port: int
    postgres_port: int
    folder: Path
    password: str
    prefix: tuple[str, ...] = ()
    bin: str = field(default_factory=program_folder)
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        argv = (find_program("patroni", PACKAGE), str(self.folder / "patroni.yml"))
        self.process = Process(
            f"patroni {self.name}",
            argv,
            self.folder / "patroni.log",
            USER,
            self.prefix,
            cwd=self.folder,
            env={"PATH": f"{self.bin}:{os.environ.get('PATH', '')}", "LC_ALL": "C"},
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Starts it without waiting: the first member creates the data, the others copy it."""
        self.process.start()

    def status(self) -> dict[str, Any]:
        """The status from its REST API; empty if there is none."""
        if self.prefix:
            return self._status_in_its_namespace()
        try:
            with urllib.request.urlopen(f"{self.url}/patroni", timeout=1.0) as answer:
                found: dict[str, Any] = json.loads(answer.read(65_536))
        except (OSError, ValueError):
            return {}
        return found

    def _status_in_its_namespace(self) -> dict[str, Any]:
        script = (
            f"import urllib.request as u; print(u.urlopen('{self.url}/patroni', timeout=1).read().decode())"
        )
        with contextlib.suppress(Exception):
            found: dict[str, Any] = json.loads(
                run_once((*self.prefix, "python3", "-c", script), timeout_s=3.0)
            )
            return found
        return {}

    def sql(self, statement: str, timeout_s: float = 10.0) -> str:
        """Runs one statement through psql and returns its rows, one per line."""
        argv = (
            *self.prefix,
            f"{self.bin}/psql",
            "-XAtq",
            "-h",
            self.host,
            "-p",
            str(self.postgres_port),
            "-U",
            USER,
            "-d",
            "postgres",
            "-c",
            statement,
        )
        env = {"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "2"}
        return run_once(argv, timeout_s=timeout_s, env=env).strip()

    def wait_for(self, role: str, timeout_s: float = 60.0) -> None:
        """Waits until it runs as `primary`, `replica` or `standby_leader`."""
        names = {role, "master"} if role == "primary" else {role}

        def there() -> bool:
            found = self.status()
            return found.get("role") in names and found.get("state") in ("running", "streaming")

        self.process.wait_until(there, timeout_s, 0.1)

    def postmaster(self) -> int:
        """The pid of its PostgreSQL, which is not a child of Patroni; 0 if none runs."""
        try:
            return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    def kill(self) -> None:
        """Sends SIGKILL to Patroni and its PostgreSQL, as a fire would."""
        segment = shared_segment(self.folder / "data") if self._postgres_is_ours() else 0
        kill_family(self.process.pid)
        if self._postgres_is_ours():
            kill_family(self.postmaster())
        self.process.kill()
        remove_segment(segment)

    def stop(self) -> None:
        """Lets Patroni stop its PostgreSQL cleanly."""
        self.process.stop(15.0)
        if self._postgres_is_ours():
            kill_family(self.postmaster())

    def pause(self) -> None:
        """SIGSTOP to both."""
        signal_family(self.process.pid, signals.SIGSTOP)
        if self._postgres_is_ours():
            signal_family(self.postmaster(), signals.SIGSTOP)

    def resume(self) -> None:
        signal_family(self.process.pid, signals.SIGCONT)
        if self._postgres_is_ours():
            signal_family(self.postmaster(), signals.SIGCONT)

    def _postgres_is_ours(self) -> bool:
        """A pid in a file may belong to another process by now."""
        try:
            argv = (Path("/proc") / str(self.postmaster()) / "cmdline").read_bytes()
        except OSError:
            return False
        return str(self.folder / "data").encode() in argv


def patroni(
    folder: Path,
    host: str,
    port: int,
    postgres_port: int,
    name: str,
    *,
    scope: str,
    etcd: str,
    timers: Timers = SHORTEST,
    synchronous: bool = True,
    follows: tuple[str, int] | None = None,
    password: str = "evac-lab",
    prefix: tuple[str, ...] = (),
) -> PatroniMember:
    """A member under `folder`, not started. etcd: host:port of its own etcd member. follows: host and port of
    another cluster's primary, which makes this a standby cluster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    member = PatroniMember(scope, name, host, port, postgres_port, folder, password, prefix)
    dcs: dict[str, Any] = {
        "ttl": timers.ttl,
        "loop_wait": timers.loop_wait,
        "retry_timeout": timers.retry_timeout,
        "synchronous_mode": synchronous,
        "synchronous_mode_strict": synchronous,
        "maximum_lag_on_failover": 1_048_576,
        "postgresql": {"use_pg_rewind": True},
    }
    if follows is not None:
        methods = {"create_replica_methods": ["basebackup"]}
        dcs["standby_cluster"] = {"host": follows[0], "port": follows[1], **methods}
    # JSON is YAML.
    (folder / "patroni.yml").write_text(json.dumps(_settings(member, etcd, dcs), indent=1))
    (folder / "patroni.yml").chmod(0o600)
    give_to(USER, folder)
    return member


def _settings(member: PatroniMember, etcd: str, dcs: dict[str, Any]) -> dict[str, Any]:
    login = {"username": USER, "password": member.password}
    address, api = f"{member.host}:{member.postgres_port}", f"{member.host}:{member.port}"
    access = (
        "local all all trust",
        "host all all 0.0.0.0/0 scram-sha-256",
        "host replication all 0.0.0.0/0 scram-sha-256",
    )
    parameters = {key: value for key, value in DEFAULTS.items() if key != "hot_standby"}
    return {
        "scope": member.scope,
        "name": member.name,
        "restapi": {"listen": api, "connect_address": api},
        "etcd3": {"host": etcd, "use_proxies": True},
        "bootstrap": {
            "dcs": dcs,
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "listen": address,
            "connect_address": address,
            "data_dir": str(member.folder / "data"),
            "bin_dir": member.bin,
            "pgpass": str(member.folder / "pgpass"),
            "parameters": parameters,
            "authentication": {"superuser": login, "replication": login, "rewind": login},
            "pg_hba": list(access),
        },
        "watchdog": {"mode": "off"},
        "tags": {},
    }


def wait_for_sync(members: Sequence[PatroniMember], standby: str, timeout_s: float = 60.0) -> None:
    """Waits until the primary counts `standby` as synchronous; a cluster is not ready before."""
    query = (
        f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{standby}' "
        "AND sync_state = 'sync'"
    )

    def there() -> bool:
        for member in members:
            if member.status().get("role") in ("primary", "master"):
                with contextlib.suppress(Exception):
                    return member.sql(query, 3.0) == "1"
        return False

    members[0].process.wait_until(there, timeout_s, 0.1)
