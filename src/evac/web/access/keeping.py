"""Logins and rate limits: in the memory of this process, and logins in the store as well, so that they
survive a restart and are valid in every room of the same name.

session/<sha256 of the cookie> {"name", "role", "proof", "rests", "made_ms", "seen_ms", "until_ms"}
code/<sha256 of name and time step>   a code of a second factor that was used, so that no other room takes it

The stored value opens no room: it contains neither the cookie, whose hash is its key, nor the CSRF token,
which is derived from the cookie. A login with a break-glass credential is not stored: it is used together
with the credential. While the store does not answer, logins continue as this process knows them, so that
people can still sign in during an outage.

A cookie contains 256 random bits; only their hash is kept. A login ends after a period without requests,
at its maximum age, and on sign-out. `People` ends it when the person leaves the access file or when the
proof that it was based on changes there. Everything is bounded: the least recently used logins and names
are dropped first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import os
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.model.access import ROLES, Role, Sessions
from evac.model.errors import Conflict, EvacError, LeaseLost
from evac.model.estate import Rate
from evac.model.records import dataclass
from evac.office.logins import ID_LETTERS, PREFIX, kept
from evac.store.port import Compare, Delete, Lease, Put, Store
from evac.web.access.port import Proof, TooMany

LOG: Final = logging.getLogger("evac.access")
NAMES_MOST: Final = 10_000


class Often:
    """A rate limit. now_ms: a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._seen: OrderedDict[str, deque[int]] = OrderedDict()

    def wait_ms(self, name: str, rate: Rate) -> int:
        """Milliseconds until one more is allowed; 0: now."""
        found, now = self._seen.get(name), self._now_ms()
        if found is None:
            return 0
        while found and now - found[0] >= rate.window_ms:
            found.popleft()
        return found[0] + rate.window_ms - now if len(found) >= rate.count else 0

    def note(self, name: str, rate: Rate) -> None:
        """Count one more."""
        found = self._seen.get(name)
        if found is None:
            while len(self._seen) >= NAMES_MOST:
                self._seen.popitem(last=False)
            found = self._seen[name] = deque()
        self._seen.move_to_end(name)
        while len(found) >= rate.count:
            found.popleft()
        found.append(self._now_ms())

    def take_back(self, name: str) -> None:
        """Uncount the last one: it did not happen after all."""
        found = self._seen.get(name)
        if found:
            found.pop()

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)


def neighbourhood(host: str) -> str:
    """What addresses are counted by. For IPv6 it is the customer's network, because single addresses cost
    nothing.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return str(address)


SESSIONS_MOST: Final = 10_000
OF_ONE_MOST: Final = 20
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class ProofShown:
    """What a person presented when the login began."""

    acr: str = ""
    at_ms: int = 0
    """When it was presented, by the wall clock, in ms since 1970."""
    subject: str = ""
    """The subject at the identity provider."""
    session: str = ""
    """The provider's own ID of its login (`sid`)."""


NO_PROOF = ProofShown()


@dataclass(frozen=True, slots=True)
class Login:
    """One login, as shown to those who may end it."""

    id: str
    """The first characters of its key in the store; useless for signing in."""
    name: str
    proof: str
    acr: str
    made_ms: int
    seen_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class LoginRow(Login):
    """A login with what only the identity provider needs."""

    subject: str = ""
    session: str = ""


@dataclass(slots=True)
class Session:
    """One login. rests: a digest of the parts of the access file that it was proven with. until_ms: by
    the clock of the book, at most its maximum age. glass: the credential that it was opened with, checked
    at each request. csrf: derived from the cookie, so it need not be stored. revision: of its entry in
    the store, 0 for none; saved_ms, confirmed_ms: when that entry was last written and read.
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
    shown: ProofShown = NO_PROOF


class SessionBook:
    """The logins that this process knows. now_ms: a clock that never goes back."""

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
        shown: ProofShown = NO_PROOF,
    ) -> str:
        """Start a login and return the value of its cookie. most_ms: its maximum age."""
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
            name, role, proof, rests, now, now, now + length, csrf_of(value), glass, shown=shown
        )
        return value

    def take(self, value: str, session: Session) -> None:
        """Add a login that was read from the store."""
        while len(self._known) >= SESSIONS_MOST:
            self._known.popitem(last=False)
        self._known[key_of(value)] = session

    def peek(self, value: str) -> Session | None:
        """The login as it is here, whether or not it is still valid."""
        return self._known.get(key_of(value))

    def find(self, value: str, rules: Sessions, touch: bool = True) -> Session | None:
        """The login of a cookie, if it is still valid. touch: a person made the request."""
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

    def drop(self, key: bytes) -> None:
        """End the login with this key."""
        self._known.pop(key, None)

    def rows(self, wall_ms: int) -> list[tuple[bytes, LoginRow]]:
        """The logins that this process knows, with their keys. wall_ms: now, by the wall clock."""
        ahead = wall_ms - self._now_ms()
        return [
            (
                key,
                LoginRow(
                    key.hex()[:ID_LETTERS],
                    one.name,
                    one.proof,
                    one.shown.acr,
                    one.made_ms + ahead,
                    one.seen_ms + ahead,
                    one.until_ms + ahead,
                    one.shown.subject,
                    one.shown.session,
                ),
            )
            for key, one in self._known.items()
        ]

    def close(self, value: str) -> None:
        """End a login; does nothing if there is none."""
        if is_value(value):
            self._known.pop(key_of(value), None)


def is_value(value: str) -> bool:
    """Whether this can be the value of a cookie."""
    return _VALUE.fullmatch(value) is not None


def key_of(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def csrf_of(value: str) -> str:
    """The token that changes must carry. No one can compute it without knowing the cookie."""
    return hashlib.sha256(b"csrf\0" + value.encode()).hexdigest()


CODES: Final = "code/"
CONFIRM_MS: Final = 5_000
"""Minimum time between two questions to the store whether a login was ended elsewhere."""
SEEN_MS: Final = 60_000
"""Minimum time between two writes to the store that a login is in use."""
ANSWER_S: Final = 1.0
HOUR_MS: Final = 3_600_000
UNKNOWN_MOST: Final = 10_000
LOOKS_A_SECOND: Final = 20
"""From one address, for unknown cookies: made-up cookies must not slow down anyone else."""
LOOKS_AT_ONCE: Final = 256
_LOOKS: Final = Rate(LOOKS_A_SECOND, 1_000)


class SessionKeep:
    """The logins of one room. rules: as the access file is now."""

    def __init__(self, store: Store, book: SessionBook, clock: Clock, rules: Callable[[], Sessions]) -> None:
        self.store, self._book, self._clock, self._rules = store, book, clock, rules
        self._lease: tuple[int, Lease] | None = None
        self._unknown: OrderedDict[bytes, int] = OrderedDict()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._looks = Often(clock.monotonic_ms)
        self._looking: dict[bytes, asyncio.Task[None]] = {}

    async def opened(self, value: str) -> None:
        """Store a new login. If the store does not answer, only this process knows it."""
        for key in self._book.evicted[:]:
            self._book.evicted.remove(key)
            await self._drop(key)
        session = self._book.peek(value)
        if session is not None and not session.glass:
            await self._save(value, session)

    async def closed(self, value: str) -> None:
        """End a login for good. What a store that did not answer still has of it is ignored."""
        if is_value(value):
            await self.ended(key_of(value))

    async def seen(self, value: str, session: Session) -> None:
        """Record that a person made a request; written to the store only now and then."""
        if session.revision and self._clock.monotonic_ms() - session.saved_ms >= SEEN_MS:
            await self._save(value, session)

    async def confirm(self, value: str, address: str) -> None:
        """Read a login that this process does not know from the store, and end one that ended elsewhere.
        Raises TooMany if the store may not be asked about an unknown one right now: its state is then
        undecided.
        """
        if not is_value(value):
            return
        now, known = self._clock.monotonic_ms(), self._book.peek(value)
        if known is None:
            await self._look(value, address, now)
        elif known.revision and now - known.confirmed_ms >= CONFIRM_MS:
            known.confirmed_ms = now
            with contextlib.suppress(EvacError, TimeoutError):
                found = await self._read(key_of(value))
                if found is None:
                    self._forget(key_of(value))
                else:
                    known.revision = found[1]

    async def _look(self, value: str, address: str, now: int) -> None:
        """Simultaneous requests of one login share one read. A client that disconnects does not cancel it."""
        key = key_of(value)
        looking = self._looking.get(key)
        if looking is None:
            if now - self._unknown.get(key, now - CONFIRM_MS) < CONFIRM_MS:
                return
            self._count(address)
            looking = asyncio.create_task(self._restore(value, key, now), name="look for a login")
            self._looking[key] = looking
            looking.add_done_callback(lambda _: self._looking.pop(key, None))
        await asyncio.shield(looking)

    def _count(self, address: str) -> None:
        """Count one more read for this address. Raises TooMany if that exceeds the limit."""
        near = neighbourhood(address)
        wait_ms = self._looks.wait_ms(near, _LOOKS)
        if wait_ms or len(self._looking) >= LOOKS_AT_ONCE:
            raise TooMany("too-many-logins", "too many logins are being checked at once", wait_ms or 1_000)
        self._looks.note(near, _LOOKS)

    async def _restore(self, value: str, key: bytes, now: int) -> None:
        self._unknown[key] = now
        while len(self._unknown) > UNKNOWN_MOST:
            self._unknown.popitem(last=False)
        if key in self._ended:
            await self._drop(key)
            return
        with contextlib.suppress(EvacError, TimeoutError):
            found = await self._read(key)
            session = None if found is None else self._session(value, *found, now)
            if session is not None and self._book.peek(value) is None and key not in self._ended:
                self._book.take(value, session)
                self._unknown.pop(key, None)

    def _session(self, value: str, told: Any, revision: int, now: int) -> Session | None:
        """The stored login, converted to the clock of this process; None if there is none or it has
        ended. The writer's clock may differ, so a login never lasts longer than it may from now.
        """
        try:
            wall = self._clock.now_ms()
            left = min(int(told["until_ms"]) - wall, self._rules().whole_ms)
            idle = max(0, wall - int(told["seen_ms"]))
            if left <= 0 or idle >= self._rules().idle_ms or told["role"] not in ROLES:
                return None
            if told["proof"] not in ("password", "oidc", "certificate"):
                return None
            return Session(
                str(told["name"]),
                told["role"],
                told["proof"],
                str(told["rests"]),
                now,
                now - idle,
                now + left,
                csrf_of(value),
                "",
                revision,
                now,
                now,
                ProofShown(
                    str(told.get("acr", "")),
                    int(told.get("proven_ms", told["made_ms"])),
                    str(told.get("subject", "")),
                    str(told.get("session", "")),
                ),
            )
        except (KeyError, TypeError, ValueError):
            return None

    async def _read(self, key: bytes) -> tuple[Any, int] | None:
        async with asyncio.timeout(ANSWER_S):
            entry = await self.store.get(_name(key))
        if entry is None:
            return None
        try:
            return orjson.loads(entry.value), entry.revision
        except orjson.JSONDecodeError:
            return None

    async def _save(self, value: str, session: Session) -> None:
        """Write only over the previous entry, so that a login that was ended elsewhere is not revived."""
        now, wall = self._clock.monotonic_ms(), self._clock.now_ms()
        session.saved_ms = now
        told = {
            "name": session.name,
            "role": session.role,
            "proof": session.proof,
            "rests": session.rests,
            "made_ms": wall - (now - session.made_ms),
            "seen_ms": wall - (now - session.seen_ms),
            "until_ms": wall + (session.until_ms - now),
            "acr": session.shown.acr,
            "proven_ms": session.shown.at_ms,
            "subject": session.shown.subject,
            "session": session.shown.session,
        }
        name = _name(key_of(value))
        with contextlib.suppress(EvacError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                try:
                    session.revision = await self._put(name, session.revision, orjson.dumps(told))
                except Conflict:
                    session.confirmed_ms = (
                        0  # another room wrote, or it was ended: the next request finds out
                    )
                else:
                    session.confirmed_ms = now

    async def _drop(self, key: bytes) -> None:
        with contextlib.suppress(EvacError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self.store.transact((), (Delete(_name(key)),))

    async def _put(self, key: str, before: int, value: bytes) -> int:
        """Write over revision `before`, under a new lease if the store lost that of this hour. Raises
        EvacError.
        """
        try:
            put = Put(key, value, await self._term())
            return await self.store.transact((Compare(key, before),), (put,))
        except LeaseLost:
            self._lease = None
            put = Put(key, value, await self._term())
            return await self.store.transact((Compare(key, before),), (put,))

    async def _term(self) -> Lease:
        """A lease that is never renewed and ends after every login of this hour, so that the store
        forgets them.
        """
        hour = self._clock.monotonic_ms() // HOUR_MS
        if self._lease is None or self._lease[0] != hour:
            name = f"{PREFIX}{os.urandom(8).hex()}"
            lease = await self.store.acquire(name, name, self._rules().whole_ms + 2 * HOUR_MS)
            self._lease = (hour, lease)
        return self._lease[1]

    async def is_first(self, name: str, step: int) -> bool:
        """Whether no room has taken this code of a second factor before; True while the store does not
        answer or refuses the record.
        """
        key = CODES + hashlib.sha256(f"{step}\0{name}".encode()).hexdigest()
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._put(key, 0, b"{}")
        except Conflict:
            return False
        except (EvacError, TimeoutError) as error:
            LOG.warning("another war room may accept the same code from %.80r: %r", name, error)
        return True

    async def logins(self) -> list[tuple[bytes, LoginRow]]:
        """All stored logins. Raises Unavailable."""
        rows = await kept(self.store)
        return [(bytes.fromhex(key.removeprefix(PREFIX)), LoginRow(**row)) for key, row in rows]

    async def ended(self, key: bytes) -> None:
        """End the login with this key, here and in every room."""
        self._forget(key)
        await self._drop(key)

    def _forget(self, key: bytes) -> None:
        """Drops it here for good, even if someone restores its entry in the store."""
        self._ended[key] = None
        while len(self._ended) > UNKNOWN_MOST:
            self._ended.popitem(last=False)
        self._book.drop(key)


def _name(key: bytes) -> str:
    return PREFIX + key.hex()
