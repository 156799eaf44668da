"""One running fleet: its ground, machines, clock, account and counters."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac_lab.fleet.ground import FleetGround, PowerGrid, Shares, code_of, draw, draw_racks
from evac_lab.fleet.machines import Machines


class FleetClock:
    """A speed of 60 makes each second a minute of fleet time."""

    def __init__(self, speed: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.speed = speed
        self._monotonic = monotonic
        self._began = monotonic()
        self._began_wall = datetime.now(UTC).timestamp()

    def now(self) -> int:
        return int((self._monotonic() - self._began) * self.speed * 1_000)

    def seconds_until(self, at_ms: int) -> float:
        """Wall-clock seconds until a fleet time."""
        return max(0.0, at_ms / 1_000 / self.speed - (self._monotonic() - self._began))

    def wall_seconds(self, ms: int) -> float:
        """Wall-clock seconds of a fleet duration."""
        return ms / 1_000 / self.speed

    def words(self, at_ms: int) -> str:
        """A fleet time in Redfish format, as if it were real time."""
        moment = datetime.fromtimestamp(self._began_wall + at_ms / 1_000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Stats:
    """requests: V, per controller; at_once: V, requests pending now; most_at_once: V."""

    servers: int
    requests: npt.NDArray[np.uint32] = field(init=False)
    at_once: npt.NDArray[np.uint16] = field(init=False)
    most_at_once: npt.NDArray[np.uint16] = field(init=False)
    total: int = 0
    circuits: int = 0
    nobody: int = 0
    connections: int = 0
    connections_most: int = 0
    connections_in_all: int = 0
    connections_refused: int = 0
    unauthorized: int = 0
    lockouts: int = 0
    sessions_opened: int = 0
    sessions_refused: int = 0
    sessions_expired: int = 0
    sessions_closed: int = 0
    sessions_most: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requests = np.zeros(self.servers, np.uint32)
        self.at_once = np.zeros(self.servers, np.uint16)
        self.most_at_once = np.zeros(self.servers, np.uint16)

    def begin(self, server: int) -> None:
        """A complete request has arrived; `end` is called when it is answered."""
        self.total += 1
        if server < 0:
            self.circuits += 1
            return
        self.requests[server] += 1
        self.at_once[server] += 1
        if self.at_once[server] > self.most_at_once[server]:
            self.most_at_once[server] = self.at_once[server]

    def end(self, server: int) -> None:
        if server >= 0:
            self.at_once[server] -= 1

    def answered(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


SESSIONS_MOST: Final = 8
SESSION_IDLE_MS: Final = 300_000
LOCKOUT_THRESHOLD: Final = 5
LOCKOUT_MS: Final = 300_000
_HEADERS_KEPT: Final = 1_024


@dataclass(slots=True)
class Session:
    """A login that lasts until closed, or idle for too long."""

    id: str
    token: str
    used_at: int


class Accounts:
    """The account and sessions of all controllers."""

    def __init__(self, user: str, password: str, stats: Stats) -> None:
        self.user, self._password, self._stats = user, password, stats
        self._wrong: dict[int, int] = {}
        self._locked_until: dict[int, int] = {}
        self._sessions: dict[int, dict[str, Session]] = {}
        self._decoded: dict[str, tuple[str, str] | None] = {}
        self._next_id = 1

    def basic(self, server: int, header: str, now: int, changed: bool = False) -> bool:
        """Whether a Basic header is correct. Wrong passwords are counted.

        changed: the password on this controller is unknown to everyone.
        """
        if header not in self._decoded:
            if len(self._decoded) >= _HEADERS_KEPT:
                self._decoded.clear()
            self._decoded[header] = _decoded(header)
        known = self._decoded[header]
        return known is not None and self.login(server, *known, now, changed)

    def login(self, server: int, user: str, password: str, now: int, changed: bool = False) -> bool:
        """Whether user and password are correct and the account is not locked."""
        if user != self.user or now < self._locked_until.get(server, 0):
            return False
        if changed or not hmac.compare_digest(password.encode(), self._password.encode()):
            self._wrong[server] = self._wrong.get(server, 0) + 1
            if self._wrong[server] >= LOCKOUT_THRESHOLD:
                del self._wrong[server]
                self._locked_until[server] = now + LOCKOUT_MS
                self._stats.lockouts += 1
            return False
        self._wrong.pop(server, None)
        return True

    def sessions(self, server: int, now: int) -> dict[str, Session]:
        """Sessions of a controller; expired ones are removed."""
        held = self._sessions.get(server, {})
        for id, session in list(held.items()):
            if now - session.used_at > SESSION_IDLE_MS:
                del held[id]
                self._stats.sessions_expired += 1
        return held

    def open_session(self, server: int, now: int) -> Session | None:
        """A new session; None if the controller has no capacity for another."""
        held = self.sessions(server, now)
        if len(held) >= SESSIONS_MOST:
            self._stats.sessions_refused += 1
            return None
        session = Session(str(self._next_id), secrets.token_hex(16), now)
        self._next_id += 1
        self._sessions.setdefault(server, {})[session.id] = session
        self._stats.sessions_opened += 1
        self._stats.sessions_most = max(self._stats.sessions_most, len(self._sessions[server]))
        return session

    def close_session(self, server: int, id: str) -> None:
        if self._sessions.get(server, {}).pop(id, None) is not None:
            self._stats.sessions_closed += 1

    def by_token(self, server: int, token: str, now: int) -> bool:
        for session in self.sessions(server, now).values():
            if hmac.compare_digest(session.token.encode(), token.encode("latin-1", "replace")):
                session.used_at = now
                return True
        return False

    def forget_sessions(self, server: int) -> None:
        """The controller restarted, or lost power."""
        self._sessions.pop(server, None)

    @property
    def sessions_open(self) -> int:
        return sum(len(held) for held in self._sessions.values())


def _decoded(header: str) -> tuple[str, str] | None:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a fleet. Durations in ms of fleet time; closed: breakers at the start; racks_down: number
    of racks with a dead switch, whose controllers are silent; dying: boot servers, and when.
    """

    speed: float = 1.0
    seed: int = 1
    spread: float = 0.1
    latency_ms: int = 5
    slow_ms: int = 3_000
    busy_ms: int = 20_000
    bmc_boot_ms: int = 30_000
    closed: bool = True
    running: bool = False
    was_running: bool = False
    racks_down: int = 0
    dying: tuple[tuple[str, int], ...] = ()


class Fleet:
    """All in-memory state of one fleet."""

    def __init__(
        self,
        ground: FleetGround,
        shares: Shares,
        settings: Settings,
        user: str,
        password: str,
        clock: FleetClock | None = None,
    ) -> None:
        self.ground, self.settings = ground, settings
        self.clock = clock or FleetClock(settings.speed)
        self.stats = Stats(len(ground))
        self.grid = PowerGrid(ground, settings.closed)
        drawn = draw(len(ground), shares, settings.seed)
        self.machines = Machines(
            ground, self.grid, drawn, settings.seed, settings.spread, settings.bmc_boot_ms
        )
        self.accounts = Accounts(user, password, self.stats)
        self.first_call: dict[int, int] = {}
        self._strike(settings)
        if settings.running:
            self.machines.start_all(0)
        elif settings.was_running:
            self.machines.was_running()

    def _strike(self, settings: Settings) -> None:
        """Applies what else is broken from the start, or will break."""
        for rack in draw_racks(len(self.ground.racks), settings.racks_down, settings.seed):
            self.machines.fault[self.ground.rack == rack] = code_of("dead")
        for id, at in settings.dying:
            self.machines.boot_server_dies(self.boot_server(id), at)

    def boot_server(self, id: str) -> int:
        """The number of a boot server. Raises `InvalidInput`."""
        ids = self.ground.boot_servers
        if id not in ids:
            raise InvalidInput("fleet-boot-server", f"no such boot server: {id[:80]}", ", ".join(ids[:20]))
        return ids.index(id)

    def now(self) -> int:
        """Fleet time, after processing everything due by now."""
        now = self.clock.now()
        self.machines.advance(now)
        return now

    def uuid_of(self, server: int, what: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"evac/{self.ground.site}/{server}/{what}"))
