"""What the lab remembers between two commands: one folder, one JSON file that is written whole, one lock.

Owns the layout of the folder. A process is remembered with its pid, the moment it started and all that is
needed to start it again, so that any later command finds exactly what an earlier one started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from evac.model.errors import EvacError
from evac_lab import proc_table
from evac_lab.process import Process
from evac_lab.topology import Topology, World, topology

VERSION: Final = 1
STATE_FILE: Final = "lab.json"
_LOCK_FILE: Final = "lock"
_LOCK_SECONDS: Final = 5.0
_TITLED: Final = frozenset({"redis-server", "postgres"})
"""Servers that write over their environment."""


class LabError(EvacError):
    """The lab is not in a state in which that can be done."""


@dataclass(frozen=True, slots=True)
class Running:
    """One process that was started. site: "" for clients and what belongs to no site."""

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
        return proc_table.same(self.pid, self.started)

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

    @property
    def topology(self) -> Topology:
        return topology(self.world, self.offset)

    def of_site(self, site: str) -> tuple[Running, ...]:
        return tuple(running for running in self.processes if running.site == site)

    def with_process(self, running: Running) -> LabState:
        """The new process takes the place of an older one of the same name."""
        rest = tuple(old for old in self.processes if old.name != running.name)
        return replace(self, processes=(*rest, running))

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}


def default_folder() -> Path:
    """`$EVAC_LAB`, or where this user's state belongs. Root's home is closed to the user that PostgreSQL
    runs as, so a lab of root lies where system services keep their state.
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
        """What old primaries had alone, kept before they are rewound."""
        return self.path / "archive"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def certificates(self) -> Path:
        """Of the agents, and of those that ask them."""
        return self.path / "certificates"

    def data(self, site: str, role: str) -> Path:
        return self.path / site / role

    @property
    def mark(self) -> str:
        """The mark of all processes of this lab; a site's name follows it."""
        return f"{self.path}|"

    def read(self) -> LabState | None:
        """What is remembered, or None when there is no lab. Raises `LabError` when it cannot be read."""
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
        """The lab that is up. Raises `LabError` when none is."""
        state = self.read()
        if state is None:
            raise LabError("lab-down", "no lab is up", "evac lab up")
        return state

    def write(self, state: LabState) -> None:
        """Whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        fresh = self.path / f".{STATE_FILE}.new"
        fresh.write_text(json.dumps(state.to_json(), indent=1), encoding="utf-8")
        fresh.replace(self.path / STATE_FILE)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes the lab. Raises `LabError` when another one is at it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK_FILE).open("w") as lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise LabError("lab-busy", "another command is changing the lab", "wait until it ends")
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
    """Pids of everything that lives of the lab, or of one site: what was recorded, its children, and what
    carries the mark (a crash may have come before a pid was written down).
    """
    rows = proc_table.table()
    known: Iterable[Running] = state.processes if state is not None else ()
    roots = {
        running.pid
        for running in known
        if (site is None or running.site == site)
        and (found := rows.get(running.pid)) is not None
        and found.started == running.started
    }
    roots |= proc_table.marked(f"{folder.mark}{site or ''}", rows)
    roots |= proc_table.working_in(folder.path / (site or ""), _TITLED, rows)
    return proc_table.descendants(roots, rows)
