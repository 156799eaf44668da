"""Who may use a management controller: accounts, sessions, and the lock after wrong passwords.

One account is there from the start, the same on all controllers. Others that a client makes are kept for the
controller where they were made, and only while they are there: most controllers cost nothing.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evac_lab.fleet.stats import Stats

SESSIONS_MOST: Final = 8
SESSION_IDLE_MS: Final = 300_000
ACCOUNTS_MOST: Final = 16
LOCKOUT_THRESHOLD: Final = 5
LOCKOUT_MS: Final = 300_000
PRIVILEGES: Final = MappingProxyType(
    {
        "Administrator": (
            "Login",
            "ConfigureManager",
            "ConfigureUsers",
            "ConfigureComponents",
            "ConfigureSelf",
        ),
        "Operator": ("Login", "ConfigureComponents", "ConfigureSelf"),
        "ReadOnly": ("Login", "ConfigureSelf"),
    }
)
_HEADERS_KEPT: Final = 1_024


@dataclass(slots=True)
class Account:
    """version: counts changes, so that an ETag changes with the password."""

    id: str
    user: str
    password: str
    role: str = "Administrator"
    enabled: bool = True
    must_change: bool = False
    wrong: int = 0
    locked_until: int = -1
    version: int = 0

    def may(self, privilege: str) -> bool:
        return privilege in PRIVILEGES[self.role]


@dataclass(slots=True)
class Session:
    id: str
    token: str
    account: Account
    used_at: int


class Accounts:
    """The accounts and sessions of all controllers."""

    def __init__(self, user: str, password: str, stats: Stats) -> None:
        self.user, self._password, self._stats = user, password, stats
        self._first = Account("1", user, password)
        self._of: dict[int, dict[str, Account]] = {}
        self._sessions: dict[int, dict[str, Session]] = {}
        self._decoded: dict[str, tuple[str, str] | None] = {}
        self._next_id = 1

    def of(self, server: int) -> dict[str, Account]:
        """The accounts of a controller by id; only to read."""
        return self._of.get(server) or {"1": self._first}

    def own(self, server: int) -> dict[str, Account]:
        """The same, to change."""
        if server not in self._of:
            self._of[server] = {"1": Account("1", self.user, self._password)}
        return self._of[server]

    def basic(self, server: int, header: str, now: int, changed: bool = False) -> Account | None:
        """The account of a Basic header, or None. Wrong passwords are counted.

        changed: the password on this controller is one that nobody told.
        """
        known = self._decode(header)
        return None if known is None else self.login(server, *known, now, changed)

    def _decode(self, header: str) -> tuple[str, str] | None:
        if header not in self._decoded:
            if len(self._decoded) >= _HEADERS_KEPT:
                self._decoded.clear()
            self._decoded[header] = _decoded(header)
        return self._decoded[header]

    def login(self, server: int, user: str, password: str, now: int, changed: bool = False) -> Account | None:
        """The account, if user and password are right and it is not locked."""
        account = next((one for one in self.of(server).values() if one.user == user), None)
        if account is None or not account.enabled:
            return None
        if now < account.locked_until:
            return None
        if changed or not hmac.compare_digest(password.encode(), account.password.encode()):
            self._is_wrong(self.own(server)[account.id], now)
            return None
        if account.wrong:
            account.wrong = 0
        return account

    def _is_wrong(self, account: Account, now: int) -> None:
        account.wrong += 1
        if account.wrong >= LOCKOUT_THRESHOLD:
            account.wrong, account.locked_until = 0, now + LOCKOUT_MS
            self._stats.lockouts += 1

    def sessions(self, server: int, now: int) -> dict[str, Session]:
        """The sessions of a controller; what was idle for too long is gone."""
        held = self._sessions.get(server)
        if not held:
            return {}
        for id, session in list(held.items()):
            if now - session.used_at > SESSION_IDLE_MS:
                del held[id]
                self._stats.sessions_expired += 1
        return held

    def open_session(self, server: int, account: Account, now: int) -> Session | None:
        """A new session; None when the controller has no room for another."""
        held = self.sessions(server, now)
        if len(held) >= SESSIONS_MOST:
            self._stats.sessions_refused += 1
            return None
        session = Session(str(self._next_id), _token(), account, now)
        self._next_id += 1
        self._sessions.setdefault(server, {})[session.id] = session
        self._stats.sessions_opened += 1
        self._stats.sessions_most = max(self._stats.sessions_most, len(self._sessions[server]))
        return session

    def close_session(self, server: int, id: str) -> None:
        if self._sessions.get(server, {}).pop(id, None) is not None:
            self._stats.sessions_closed += 1

    def by_token(self, server: int, token: str, now: int) -> Account | None:
        for session in self.sessions(server, now).values():
            if hmac.compare_digest(session.token.encode(), token.encode("latin-1", "replace")):
                session.used_at = now
                return self.of(server).get(session.account.id)
        return None

    def forget_sessions(self, server: int) -> None:
        """The controller restarted, or lost power."""
        self._sessions.pop(server, None)

    @property
    def sessions_open(self) -> int:
        return sum(len(held) for held in self._sessions.values())

    @property
    def locked(self) -> int:
        """Controllers with an account that was locked at least once."""
        return sum(any(one.locked_until >= 0 for one in held.values()) for held in self._of.values())


def _decoded(header: str) -> tuple[str, str] | None:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def _token() -> str:
    """A token of 128 random bits."""
    return secrets.token_hex(16)
