"""State of a lab: sites, addresses, ports, its folder, and the processes that it started.

Two worlds share one layout. On loopback each site is a /16 of 127/8, which needs no privileges. With network
namespaces each site is a namespace with addresses of 198.18.0.0/15, the unrouted range reserved for
benchmarks (RFC 2544). An offset shifts a whole lab, so that several do not collide.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode

from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac_lab import process as processes
from evac_lab.process import Process, ServerFailed

World = Literal["loopback", "namespaces"]

SITES: Final = ("pangyo", "anyang", "ansan")
"""Initial sites of the primary, the synchronous replica and the asynchronous one."""

HOSTS: Final = {
    "etcd": 2,
    "postgres": 3,
    "redis": 4,
    "dns": 5,
    "haproxy": 6,
    "messenger": 7,
    "agent": 8,
    "controller": 9,
    "receipts": 10,
    "repository": 11,
    "orders": 12,
}
PORTS: Final = {
    "etcd": 2379,
    "peer": 2380,
    "postgres": 5432,
    "redis": 6379,
    "dns": 5353,
    "haproxy": 8080,
    "runtime": 9999,
    "messenger": 8000,
    "agent": 7070,
    "controller": 7071,
    "room": 8400,
    "receipts": 5432,
    "repository": 8432,
    "orders": 3306,
}
HALLS: Final = {
    "hall-1": ("etcd", "postgres", "receipts", "orders", "controller"),
    "hall-2": ("redis", "dns", "haproxy", "agent", "messenger", "repository"),
}
"""What burns together when half of a site does; an agent is with the units that it runs."""

_WITH_TLS: Final = frozenset({"etcd", "agent"})
ZONE: Final = "lab"
SERVICE: Final = "messenger"
SERVICE_NAME: Final = f"{SERVICE}.{ZONE}"
LOOPBACK_OFFSETS: Final = 60
NAMESPACE_OFFSETS: Final = 16


@dataclass(frozen=True, slots=True)
class Site:
    """One site. number: 1, 2, 3. net: address prefix. namespace: "" on loopback."""

    name: str
    number: int
    net: str
    namespace: str = ""

    def host(self, role: str) -> str:
        """Address of a server; every kind has its own, so ports are the same everywhere."""
        return f"{self.net}.{HOSTS[role]}"

    def url(self, role: str) -> str:
        return f"http{'s' if role in _WITH_TLS else ''}://{self.host(role)}:{PORTS[role]}"

    @property
    def member(self) -> str:
        """Its name as a PostgreSQL member. The prefix is needed because Patroni parses `anyang` as `ANY`,
        `ang`.
        """
        return f"dc-{self.name}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """Command prefix to run something inside the site."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. clients: the address of the clients, outside every site. folder: of the running lab, for
    access to its store; "" for addresses only.
    """

    world: World
    offset: int
    sites: tuple[Site, ...]
    clients: str
    folder: str = ""

    def site(self, name: str) -> Site:
        """Raises `InvalidInput` for an unknown name."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InvalidInput("lab-site", f"the lab has no site '{name[:40]}'", f"one of: {', '.join(SITES)}")

    def others(self, name: str) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.name != self.site(name).name)

    def hosts(self, role: str) -> tuple[str, ...]:
        return tuple(site.host(role) for site in self.sites)

    def etcd_urls(self, first: str = "") -> tuple[str, ...]:
        """Client URLs of all members, site `first`'s first."""
        order = sorted(self.sites, key=lambda site: site.name != first)
        return tuple(site.url("etcd") for site in order)


def topology(world: World = "loopback", offset: int = 0, folder: str = "") -> Topology:
    """The lab of a world. Raises `InvalidInput` for an offset out of range."""
    if world == "loopback":
        _check_offset(offset, LOOPBACK_OFFSETS)
        first = 1 if offset == 0 else 10 + 4 * (offset - 1)
        nets = [f"127.{first + number}.0" for number in range(len(SITES))]
        clients = "127.9.0.1" if offset == 0 else f"127.{first + 3}.0.1"
        names = [""] * len(SITES)
    else:
        _check_offset(offset, NAMESPACE_OFFSETS)
        nets = [f"198.18.{16 * offset + number + 1}" for number in range(len(SITES))]
        clients = f"198.18.{16 * offset + 9}.1"
        names = [f"evac{offset}-{name}" for name in SITES]
    sites = tuple(
        Site(name, number + 1, net, namespace)
        for number, (name, net, namespace) in enumerate(zip(SITES, nets, names, strict=True))
    )
    return Topology(world, offset, sites, clients, folder)


def _check_offset(offset: int, most: int) -> None:
    if not 0 <= offset < most:
        raise InvalidInput("lab-offset", f"no such lab: {offset}", f"one of 0 to {most - 1}")


OPERATOR: Final = "operator"
"""Operators who inspect the lab from outside."""
VERSION: Final = 2
STATE_FILE: Final = "lab.json"
_LOCK_FILE: Final = "lock"
_LOCK_SECONDS: Final = 5.0
_TITLED: Final = frozenset({"redis-server", "postgres"})
"""Servers that overwrite their environment."""


class LabError(EvacError):
    """The lab's present state does not allow that."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started process. site: "" for clients and processes outside the sites."""

    site: str
    role: str
    pid: int
    started: int
    argv: tuple[str, ...]
    log: str
    user: str = ""
    prefix: tuple[str, ...] = ()
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.site}/{self.role}" if self.site else self.role

    @property
    def alive(self) -> bool:
        return processes.same(self.pid, self.started)

    def again(self) -> Process:
        """The same process, not started."""
        cwd = Path(self.cwd) if self.cwd else None
        return Process(self.name, self.argv, Path(self.log), self.user, self.prefix, cwd, self.env)


@dataclass(frozen=True, slots=True)
class LabState:
    """Everything a later command must know. delay_ms: one way, between any two sites (namespaces only)."""

    world: World
    offset: int
    made_at: float
    phase: str = "starting"
    delay_ms: float = 0.0
    processes: tuple[Running, ...] = ()
    cut: tuple[str, ...] = ()
    burnt: Mapping[str, float] = field(default_factory=dict)
    folder: str = ""

    @property
    def topology(self) -> Topology:
        return topology(self.world, self.offset, self.folder)

    def of_site(self, site: str) -> tuple[Running, ...]:
        return tuple(running for running in self.processes if running.site == site)

    def with_process(self, running: Running) -> LabState:
        """The new process replaces an older one of the same name."""
        rest = tuple(old for old in self.processes if old.name != running.name)
        return replace(self, processes=(*rest, running))

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}


def default_folder() -> Path:
    """`$EVAC_LAB`, or this user's state folder. Root's home is closed to PostgreSQL's user, so root's labs
    are kept with the state of system services.
    """
    if given := os.environ.get("EVAC_LAB"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/evac/lab")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "evac" / "lab"


@dataclass(frozen=True, slots=True)
class LabFolder:
    """The folder of one lab."""

    path: Path

    @property
    def estate(self) -> Path:
        return self.path / "estate"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def fires(self) -> Path:
        return self.path / "fires"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def archive(self) -> Path:
        """What only old primaries had, archived before they are rewound."""
        return self.path / "archive"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def certificates(self) -> Path:
        """Of the agents and their clients."""
        return self.path / "certificates"

    @property
    def store(self) -> Path:
        """The store's URL, for commands: `--store "$(cat LAB/store)"`."""
        return self.path / "store"

    def data(self, site: str, role: str) -> Path:
        return self.path / site / role

    @property
    def mark(self) -> str:
        """The mark of all processes of this lab, followed by a site's name."""
        return f"{self.path}|"

    def read(self) -> LabState | None:
        """The stored state, or None without a lab. Raises `LabError` if unreadable."""
        try:
            data = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LabError(
                "lab-state", f"{self.path / STATE_FILE} cannot be read: {error}", "evac lab down"
            ) from error
        return _state(data)

    def need(self) -> LabState:
        """The running lab. Raises `LabError` if there is none."""
        state = self.read()
        if state is None:
            raise LabError("lab-down", "no lab is up", "evac lab up")
        return state

    def write(self, state: LabState) -> None:
        """Written atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        fresh = self.path / f".{STATE_FILE}.new"
        fresh.write_text(json.dumps(state.to_json(), indent=1), encoding="utf-8")
        fresh.replace(self.path / STATE_FILE)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes the lab. Raises `LabError` if another one is running."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK_FILE).open("w") as lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise LabError("lab-busy", "another command is changing the lab", "wait for it to finish")
                time.sleep(0.05)
            yield


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _state(data: dict[str, Any]) -> LabState:
    if data.pop("version", None) != VERSION:
        raise LabError("lab-state", "the lab was made by another version of evac", "evac lab down")
    rows = data.pop("processes")
    processes = tuple(
        Running(**{**row, "argv": tuple(row["argv"]), "prefix": tuple(row["prefix"])}) for row in rows
    )
    cut = tuple(data.pop("cut"))
    return LabState(**data, processes=processes, cut=cut)


def living(state: LabState | None, folder: LabFolder, site: str | None = None) -> set[int]:
    """Pids of everything alive in the lab, or at one site: recorded processes, their children, and marked
    ones (a crash may have come before a pid was written down).
    """
    rows = processes.table()
    known: Iterable[Running] = state.processes if state is not None else ()
    roots = {
        running.pid
        for running in known
        if (site is None or running.site == site)
        and (found := rows.get(running.pid)) is not None
        and found.started == running.started
    }
    roots |= processes.marked(f"{folder.mark}{site or ''}", rows)
    roots |= processes.working_in(folder.path / (site or ""), _TITLED, rows)
    return processes.descendants(roots, rows)


Progress = Callable[[float, str], None]
"""(share done, words)."""


class Starter:
    """Starts processes, from several threads at once, and records each in the state immediately.

    Ends no process: the starter of the lab may be gone long before.
    """

    def __init__(self, folder: LabFolder, state: LabState, progress: Progress, steps: int = 0) -> None:
        self.folder = folder
        self._state = state
        self._progress = progress
        self._steps = max(1, steps)
        self._done = 0
        self._lock = threading.Lock()
        self._started: list[Process] = []

    @property
    def state(self) -> LabState:
        with self._lock:
            return self._state

    def change(self, **values: object) -> None:
        """Changes and saves the state."""
        with self._lock:
            self._state = replace(self._state, **values)  # type: ignore[arg-type]
            self.folder.write(self._state)

    def launch(self, site: str, role: str, process: Process) -> Process:
        """Starts and records a process without waiting until it is ready."""
        process.env = {**process.env, processes.MARK: f"{self.folder.mark}{site}"}
        process.start()
        running = Running(
            site,
            role,
            process.pid,
            processes.started(process.pid),
            process.argv,
            str(process.log),
            process.user,
            process.prefix,
            str(process.cwd or ""),
            dict(process.env),
        )
        with self._lock:
            self._started.append(process)
            self._state = self._state.with_process(running)
            self.folder.write(self._state)
        return process

    def wait(
        self, process: Process, ready: Callable[[], bool], timeout_s: float = 20.0, words: str = ""
    ) -> None:
        """Waits until it is ready. Raises `ServerFailed` with the end of its log."""
        process.wait_until(ready, timeout_s)
        self.tell(words or process.name)

    def tell(self, words: str) -> None:
        """Reports one more completed step."""
        with self._lock:
            self._done += 1
            share = min(1.0, self._done / self._steps)
        self._progress(share, words)

    def let_go(self) -> None:
        """From here on they are no longer our children to wait for; they outlive this command."""
        for process in self._started:
            if process.popen is not None and process.popen.returncode is None:
                process.popen.returncode = 0
        self._started.clear()

    def check(self) -> None:
        """Raises `ServerFailed` for the first process that ended unexpectedly."""
        for process in self._started:
            if not process.alive:
                raise ServerFailed("server-failed", f"{process.name} ended: {process.last_lines()}")


def takes_connections(host: str, port: int, timeout_s: float = 0.5) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def answers(url: str, timeout_s: float = 0.5, line: ssl.SSLContext | None = None) -> bool:
    """Whether a URL answers with 200. line: of https."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=line) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, ValueError):
        return False


def wait_for(ready: Callable[[], bool], timeout_s: float, what: str, pause_s: float = 0.05) -> None:
    """Waits for something that no single process provides. Raises `LabError` on timeout."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(
                "lab-slow", f"{what} took more than {timeout_s:g} s", "see the logs in the lab's folder"
            )
        time.sleep(pause_s)


STORE_USER: Final = "evac"
"""The controllers' etcd user: may access only the keys below `evac/`."""


def store_url(topology: Topology, first: str = "") -> str:
    """The store of the lab's controllers, site `first`'s member first: with the certificate of that site, or
    of an operator, and sealed.
    """
    folder = LabFolder(Path(topology.folder))
    shown = folder.certificates / f"store-{first or OPERATOR}"
    options = {
        "ca": str(folder.certificates / "ca.pem"),
        "cert": f"{shown}.pem",
        "key": f"{shown}.key",
        "user": STORE_USER,
        "password": f"file:{folder.secrets / 'etcd'}",
        "seal": f"file:{folder.secrets / 'store-seal'}",
    }
    return f"etcd:{','.join(topology.etcd_urls(first))}?{urlencode(options, safe='/:')}"
