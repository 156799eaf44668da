"""Logins of people: what a cookie stands for, in the memory of this process; `keeping` has them in the store.

A cookie holds 256 random bits; only their hash is kept here. A login ends when nothing was asked for a while,
after its whole length, and on signing out; `People` ends it when its person leaves the access file, or when
what it was proved with changes there. Bounded: those that were used least recently make room for new ones.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from evac.model.access import Role, Sessions
from evac.web.access.port import Proof

SESSIONS_MOST: Final = 10_000
OF_ONE_MOST: Final = 20
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True)
class Session:
    """rests: a digest of what of the access file it was proved with. until_ms: by the clock of the book,
    whatever its length. glass: the credential that it was opened with, checked at each request. csrf: follows
    from the cookie, so that it need not be kept. revision: of what the store has of it, 0 for nothing;
    saved_ms, confirmed_ms: when that was written and read last.
    """

    name: str
    role: Role
    proof: Proof
    rests: str
    made_ms: int
    seen_ms: int
    until_ms: int
    csrf: str
    glass: str = ""
    revision: int = 0
    saved_ms: int = 0
    confirmed_ms: int = 0


class SessionBook:
    """now_ms: a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self.evicted: list[bytes] = []

    def __len__(self) -> int:
        return len(self._known)

    def open(
        self,
        name: str,
        role: Role,
        proof: Proof,
        rests: str,
        rules: Sessions,
        most_ms: int | None = None,
        glass: str = "",
    ) -> str:
        """A new login; the value of its cookie. most_ms: it ends after so long at the latest."""
        now = self._now_ms()
        length = rules.whole_ms if most_ms is None else min(rules.whole_ms, most_ms)
        mine = [key for key, one in self._known.items() if one.name == name]
        for key in mine[: max(0, len(mine) - OF_ONE_MOST + 1)]:
            if self._known.pop(key).revision:
                self.evicted.append(key)
        while len(self._known) >= SESSIONS_MOST:
            self._known.popitem(last=False)
        value = secrets.token_urlsafe(32)
        self._known[key_of(value)] = Session(
            name, role, proof, rests, now, now, now + length, csrf_of(value), glass
        )
        return value

    def take(self, value: str, session: Session) -> None:
        """A login that the store has."""
        while len(self._known) >= SESSIONS_MOST:
            self._known.popitem(last=False)
        self._known[key_of(value)] = session

    def peek(self, value: str) -> Session | None:
        """As it is here, whether it still stands or not."""
        return self._known.get(key_of(value))

    def find(self, value: str, rules: Sessions, touch: bool = True) -> Session | None:
        """The login of a cookie, if it still stands. touch: something was asked by a person."""
        if not is_value(value):
            return None
        key = key_of(value)
        found = self._known.get(key)
        if found is None:
            return None
        now = self._now_ms()
        if now >= found.until_ms or now - found.seen_ms >= rules.idle_ms:
            del self._known[key]
            return None
        if touch:
            found.seen_ms = now
            self._known.move_to_end(key)
        return found

    def close(self, value: str) -> None:
        """Ends a login; nothing happens where there is none."""
        if is_value(value):
            self._known.pop(key_of(value), None)


def is_value(value: str) -> bool:
    """Whether it may be that of a cookie."""
    return _VALUE.fullmatch(value) is not None


def key_of(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def csrf_of(value: str) -> str:
    """The token that changes carry: nobody who does not know the cookie can work it out."""
    return hashlib.sha256(b"csrf\0" + value.encode()).hexdigest()
