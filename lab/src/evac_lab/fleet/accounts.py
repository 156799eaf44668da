"""Who may use a management controller: the account, its sessions, and the lock after wrong passwords.

The account is the same on all controllers. Sessions and wrong passwords are kept for the controller where
they were seen: most controllers cost nothing.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from evac_lab.fleet.stats import Stats

SESSIONS_MOST: Final = 8
SESSION_IDLE_MS: Final = 300_000
LOCKOUT_THRESHOLD: Final = 5
LOCKOUT_MS: Final = 300_000
_HEADERS_KEPT: Final = 1_024


@dataclass(slots=True)
class Session:
    """A login that holds until it is closed, or idle for too long."""

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
        """Whether a Basic header is right. Wrong passwords are counted.

        changed: the password on this controller is one that nobody told.
        """
        if header not in self._decoded:
            if len(self._decoded) >= _HEADERS_KEPT:
                self._decoded.clear()
            self._decoded[header] = _decoded(header)
        known = self._decoded[header]
        return known is not None and self.login(server, *known, now, changed)

    def login(self, server: int, user: str, password: str, now: int, changed: bool = False) -> bool:
        """Whether user and password are right and the account is not locked."""
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
        """The sessions of a controller; what was idle for too long is gone."""
        held = self._sessions.get(server, {})
        for id, session in list(held.items()):
            if now - session.used_at > SESSION_IDLE_MS:
                del held[id]
                self._stats.sessions_expired += 1
        return held

    def open_session(self, server: int, now: int) -> Session | None:
        """A new session; None when the controller has no room for another."""
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
