"""Access control by an access file: tokens of programs, logins of people, and the rate limits of both.

It says who is making a request, and opens logins for people who proved their identity; the pages are in
`sign_in`. The file is reloaded when it changes. Problems in it are logged, and the previous version stays
in use: a typo must neither lock everyone out in the middle of a fire nor let anyone in.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import HTTPConnection

from evac.app.access import TOKEN_LONGEST, TOKEN_PREFIX, digest_of
from evac.engine.clock import Clock
from evac.engine.runs import signatures
from evac.estate.codecs.access import load_access
from evac.model.access import AccessRules, Grant, Person, Role, Token, least, role_for
from evac.model.errors import EstateError, EvacError, NotAllowed
from evac.model.names import alike
from evac.net.secrets import secret_of
from evac.store.port import Store
from evac.web.access import glass, keeping
from evac.web.access.guarding import is_open
from evac.web.access.passwords import (
    HASH_BEGINS,
    PASSWORD_LEAST,
    PASSWORD_LONGEST,
    Codes,
    Slow,
    fits,
    print_of,
)
from evac.web.access.port import (
    CERTIFICATE,
    RECORDED,
    Actor,
    KeepsLogins,
    Proof,
    TooMany,
    Unauthenticated,
)
from evac.web.access.recording import Recording
from evac.web.problems import REQUEST_ID

if TYPE_CHECKING:
    from fastapi import APIRouter

LOG: Final = logging.getLogger("evac.access")
"""Who signed in, who was refused, and why; never the credentials."""

SPENT_READS_MS: Final = 60_000
"""How long a used-up credential can still read."""
USES_MOST: Final = 10_000
ANSWER_S: Final = 1.0
LOOK_MS: Final = 2_000
"""Minimum time between two checks of the file."""
HASHES_AT_ONCE: Final = 2
"""Anyone can have a password compared, and each comparison takes 19 MiB and 30 ms."""
ADDRESS: Final = "evac_address"
HOPS_MOST: Final = 16
COOKIE: Final = "evac_session"


class People:
    """Access control of a room with an access file. secure: TLS terminates here, so cookies can be marked
    secure. clock: wall and monotonic.
    """

    authenticates = True

    def __init__(self, rules: AccessRules, clock: Clock, *, secure: bool, path: Path | None = None) -> None:
        self.rules, self.clock, self.secure = rules, clock, secure
        self.book = keeping.SessionBook(clock.monotonic_ms)
        self.keep: keeping.SessionKeep | None = None
        self.cookie = f"__Host-{COOKIE}" if secure else COOKIE
        self._path, self._stamp, self._looked_ms = path, _stamp(path), clock.monotonic_ms()
        self._asked, self._false = keeping.Often(clock.monotonic_ms), keeping.Often(clock.monotonic_ms)
        self.slow, self._codes = Slow(clock.monotonic_ms), Codes()
        self.seen = Recording(clock)
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)
        self._prints: dict[str, tuple[tuple[int, ...], str]] = {}
        self.used: OrderedDict[str, int] = OrderedDict()
        """Uses of break-glass credentials that this process made or saw, by key in the store -> when: they
        count even if someone deletes them there.
        """
        self.spent: Callable[[Grant], Awaitable[bool]] | None = None
        """Whether the journal of its run has all uses of a credential, set by the room."""
        self._turn = asyncio.Lock()
        self._tokens, self._names = _by_digest(rules), _names(rules)

    def keep_in(self, store: Store) -> None:
        """From now on, keep logins in the store, so that they survive this process."""
        self.keep = keeping.SessionKeep(store, self.book, self.clock, lambda: self.rules.sessions)

    def routers(self) -> Sequence[APIRouter]:
        from evac.web.access.sign_in import routers

        return routers(self)

    async def who(self, connection: HTTPConnection) -> Actor | None:
        """Who is making a request. Raises Unauthenticated for an invalid token, and TooMany."""
        await self._look_again()
        connection.scope[ADDRESS] = _behind(connection, self.rules.proxies)
        given = connection.headers.get("authorization")
        found = (
            self._by_header(given, address_of(connection))
            if given is not None
            else await self._by_cookie(connection)
        )
        if found is None:
            return None
        if found.grant is not None and await self._is_spent(found.grant):
            raise Unauthenticated(
                f"credential {found.grant.id[:8]} has been used up", "sign a new one", "glass-spent"
            )
        rate = self.rules.limits.requests
        wait_ms = self._asked.wait_ms(found.name, rate)
        if wait_ms:
            often = f"{rate.count:,} requests in {rate.window_ms / 1_000:g} s"
            raise TooMany("too-many-requests", f"{found.name} is sending more than {often}", wait_ms)
        self._asked.note(found.name, rate)
        return replace(found, streams=self.rules.limits.streams)

    async def _is_spent(self, grant: Grant) -> bool:
        """Whether a credential is used up and its person has had a minute to see the result: by its record in
        the store, by this process, or by the journal of its run, which counts from when this process saw it.
        While the store does not answer and none of this is known, it can still read.
        """
        if self.keep is None:
            return False
        key = glass.key_of(grant, grant.uses)
        with contextlib.suppress(EvacError, ValueError, KeyError, TypeError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                last = await glass.recorded(self.keep.store, grant, grant.uses)
            if last is not None:
                self.note_use(key, int(glass.read(last)["at_ms"]))
        if key not in self.used and self.spent is not None and await self.spent(grant):
            self.note_use(key, self.clock.now_ms())
        return key in self.used and self.clock.now_ms() - self.used[key] >= SPENT_READS_MS

    def note_use(self, key: str, at_ms: int) -> None:
        """Remember a use of a break-glass credential."""
        self.used[key] = min(at_ms, self.used.get(key, at_ms))
        while len(self.used) > USES_MOST:
            self.used.popitem(last=False)

    def _by_header(self, given: str, address: str) -> Actor:
        kind, _, text = given.partition(" ")
        text = text.strip()
        if kind.lower() == "bearer" and text.startswith(signatures.PREFIX):
            return self.by_glass(text, address)
        if kind.lower() != "bearer" or not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_LONGEST:
            raise Unauthenticated("this is not a token of this war room", "evac access token NAME", "token")
        token = self._tokens.get(digest_of(text))
        if token is None:
            raise Unauthenticated("this token is unknown here", "evac access token NAME", "token-unknown")
        if token.ends_ms and self.clock.now_ms() >= token.ends_ms:
            raise Unauthenticated(f"token {token.name} has expired", "ask for a new one", "token-ended")
        name = token.of or token.name
        role = least(token.role, self.rules.people[token.of].role) if token.of else token.role
        alive = self._alive(lambda: self._good(token))
        return Actor(name, role, proof="token", alive=alive, program=not token.of)

    def _good(self, token: Token) -> bool:
        """Whether a token is still what the file states; checked during streaming responses."""
        over = bool(token.ends_ms) and self.clock.now_ms() >= token.ends_ms
        return self._tokens.get(token.digest) == token and not over

    async def _by_cookie(self, connection: HTTPConnection) -> Actor | None:
        """The login of a cookie; None without an error if it has ended. Raises TooMany if it is undecided
        whether it has; open pages stay open then.
        """
        value = connection.cookies.get(self.cookie)
        if value is None:
            return None
        try:
            if self.keep is not None:
                await self.keep.confirm(value, address_of(connection))
        except TooMany:
            if is_open(connection.scope["path"]):
                return None
            raise
        touch = not _by_itself(connection)
        found = self.book.find(value, self.rules.sessions, touch=touch)
        if found is not None and found.proof == "certificate" and not self._shows_own(connection, found.name):
            return None
        if found is not None and found.proof == "password" and found.name not in self._prints:
            await self._look_at_password(found.name)
        actor = None if found is None else self._actor_in(found)
        if found is None or actor is None:
            self.book.close(value)
            return None
        if self.keep is not None and touch:
            await self.keep.seen(value, found)

        async def alive() -> bool:
            await self._look_again()
            return await self._stands(value, address_of(connection))

        return replace(actor, csrf=found.csrf, alive=alive)

    def of_certificate(self, connection: HTTPConnection) -> Person | None:
        """The person whose client certificate this connection presented."""
        digest = certificate_of(connection)
        found = (one for one in self.rules.people.values() if digest and one.certificate == digest)
        return next(found, None)

    def by_certificate(self, connection: HTTPConnection, address: str) -> Person:
        """Sign a person in by certificate. Raises Unauthenticated if it does not belong to anyone."""
        person = self.of_certificate(connection)
        if person is None:
            self.seen.refused("sign-in-refused", address, "certificate-unknown", "", "certificate")
            raise Unauthenticated(
                "no person here has this certificate",
                "add its SHA-256 as the person's certificate in the access file",
                "certificate-unknown",
            )
        return person

    def _shows_own(self, connection: HTTPConnection, name: str) -> bool:
        """Whether the login's own certificate was presented with it: a stolen cookie alone is useless."""
        person = self.of_certificate(connection)
        return person is not None and person.name == name

    async def _stands(self, value: str, address: str) -> bool:
        """Whether the login is still valid, during streaming responses; it may have ended here or in
        another room.
        """
        if self.keep is not None and self.book.peek(value) is not None:
            await self.keep.confirm(value, address)
        found = self.book.find(value, self.rules.sessions, touch=False)
        return found is not None and self._actor_in(found) is not None

    def _actor_in(self, session: keeping.Session) -> Actor | None:
        """The caller of a login, with the current role; None if what the login is based on has changed."""
        if session.rests != self._rests(session.proof, session.name):
            return None
        if session.glass:
            return self._granted(session.glass)
        person = self.rules.people.get(session.name)
        if person is None and session.proof != "oidc":
            return None
        shown, role = session.shown, session.role if person is None else person.role
        stale = self.clock.now_ms() - shown.at_ms >= self.rules.sessions.grave_ms
        return Actor(
            session.name, role, proof=session.proof, acr=shown.acr, proven_ms=shown.at_ms, stale=stale
        )

    def _rests(self, proof: Proof, name: str) -> str:
        """A digest of the parts of the file that a login is based on: the password, the key, or the
        provider and who is who there. A person who is not listed has a name that no listed person has.
        """
        told = orjson.dumps(
            (name, self._vouching(proof, name)), default=_as_dict, option=orjson.OPT_SORT_KEYS
        )
        return hashlib.sha256(told).hexdigest()

    def _vouching(self, proof: Proof, name: str) -> object:
        person = self.rules.people.get(name)
        if proof == "oidc":
            known = alike(name) in self._names if person is None else person.subject
            return (self.rules.provider, known)
        if person is None:
            return None
        if proof == "break-glass":
            return person.key
        if proof == "certificate":
            return person.certificate
        return (person.password, person.password_hash, person.totp, self._prints.get(name, ((), ""))[1])

    def _alive(self, stands: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
        """For streaming responses: also reloads the file if no other request does."""

        async def alive() -> bool:
            await self._look_again()
            return stands()

        return alive

    def by_glass(self, text: str, address: str) -> Actor:
        """The person who signed a break-glass credential: can read everything and make one kind of
        request. An invalid one is logged and counts as a wrong attempt; a valid one is accepted however
        many invalid ones there were. Raises Unauthenticated, TooMany.
        """
        try:
            return self._actor_of(text)
        except NotAllowed as error:
            near, rate = _near(address), self.rules.limits.sign_in
            if wait_ms := self._false.wait_ms(near, rate):
                raise TooMany("too-many-tries", "too many invalid credentials", wait_ms) from error
            self._false.note(near, rate)
            self.seen.refused("sign-in-refused", address, error.code, "", "break-glass credential")
            LOG.warning("break-glass from %s refused: %s [%s]", address, error.message, error.code)
            raise Unauthenticated(error.message, error.hint, error.code) from error

    def _granted(self, text: str) -> Actor | None:
        try:
            return self._actor_of(text)
        except NotAllowed:
            return None

    def _actor_of(self, text: str) -> Actor:
        """The caller of a credential. Raises NotAllowed if it is invalid, has expired, or exceeds its
        person's role.
        """
        keys = {one.name: one.key for one in self.rules.people.values() if one.key}
        grant = signatures.read(text, keys)
        signatures.check_time(grant, self.clock.now_ms(), self.rules.glass)
        role, needed = self.rules.people[grant.who].role, role_for(grant.verb)
        if least(role, needed) != needed:
            raise NotAllowed("role", f"{grant.who} is {role}; {grant.verb} needs {needed}", "ask an admin")
        alive = self._alive(lambda: self._granted(text) is not None)
        return Actor(grant.who, "viewer", proof="break-glass", grant=grant, alive=alive)

    async def check_password(self, name: str, password: str, address: str, code: str = "") -> Person:
        """The person with this password, and this code if the file names an authenticator. After several
        wrong attempts, the check is delayed. Raises Unauthenticated, TooMany.
        """
        near, named, rate = _near(address), f"name {name[:200]}", self.rules.limits.sign_in
        await self.slow.turn(near, named, rate)
        self.slow.wrong(near, named)
        person = self.rules.people.get(name)
        right = await self._is_password(person, password)
        if right and person is not None and person.totp:
            right = await self._is_code(person, code)
        if not right or person is None:
            self.seen.refused("sign-in-refused", address, "sign-in-wrong", name[:80], "password")
            LOG.warning("sign-in of %.80r from %s refused: name, password or code", name, address)
            raise Unauthenticated("wrong name, password or code", "try again", "sign-in-wrong")
        self.slow.right(near, named)
        return person

    async def _is_code(self, person: Person, code: str) -> bool:
        try:
            secret = await asyncio.to_thread(secret_of, person.totp)
        except EvacError as error:
            LOG.error("the authenticator of %s cannot be read: %s", person.name, error.message)
            return False
        step = self._codes.step_of(person.name, secret.reveal(), code, self.clock.now_ms())
        return step > 0 and (self.keep is None or await self.keep.is_first(person.name, step))

    async def _is_password(self, person: Person | None, given: str) -> bool:
        """Compare a password. For an unknown person, a dummy is compared, so that the time reveals little."""
        known = person is not None and person.signs_in
        others = (one for one in self.rules.people.values() if one.signs_in)
        read = person if known else next(others, None)
        if read is None or len(given) > PASSWORD_LONGEST:
            return False
        async with self._hashing:
            stored = await self._stored(read)
            same = bool(stored) and await asyncio.to_thread(fits, stored, given)
        return known and same

    async def _stored(self, person: Person) -> str:
        """The hash of a person, or the plain-text secret; empty if it cannot be read."""
        if person.password_hash:
            return person.password_hash
        try:
            secret = (await asyncio.to_thread(secret_of, person.password)).reveal()
        except EvacError as error:
            LOG.error("the password of %s cannot be read: %s [%s]", person.name, error.message, error.code)
            return ""
        if not secret.startswith(HASH_BEGINS) and len(secret) < PASSWORD_LEAST:
            LOG.error(
                "the password of %s is not accepted: it has fewer than %d characters",
                person.name,
                PASSWORD_LEAST,
            )
        return secret

    async def look_at_passwords(self) -> None:
        """Notice passwords whose files have changed, and end the logins that were based on them."""
        for name in list(self._prints):
            await self._look_at_password(name)

    async def _look_at_password(self, name: str) -> None:
        """What a person's logins are based on, if the password is in a file."""
        person = self.rules.people.get(name)
        if person is None or not person.password.startswith("file:"):
            self._prints.pop(name, None)
            return
        stamp = _stamp(Path(person.password.removeprefix("file:")))
        if self._prints.get(name, ((), ""))[0] == stamp:
            return
        try:
            secret = (await asyncio.to_thread(secret_of, person.password)).reveal()
        except EvacError:  # it cannot be read: what it proved before stays proven
            return
        made = await asyncio.to_thread(print_of, secret, name)
        self._prints[name] = (stamp, made)

    async def sign_in(
        self,
        name: str,
        role: Role,
        proof: Proof,
        address: str,
        *,
        most_ms: int | None = None,
        text: str = "",
        shown: keeping.ProofShown | None = None,
    ) -> str:
        """Start a login and return the value of its cookie. text: of a break-glass credential. shown: the
        proof.
        """
        await self._look_at_password(name)
        level = logging.WARNING if text else logging.INFO
        how = f"{proof} {shown.acr}" if shown is not None and shown.acr else proof
        LOG.log(level, "%s signed in as %s by %s from %s", name, role, how, address)
        self.seen.saw("sign-in", who=name, proof=how, address=address, what=f"as {role}")
        rests = self._rests(proof, name)
        value = self.book.open(
            name,
            role,
            proof,
            rests,
            self.rules.sessions,
            most_ms,
            text,
            shown or keeping.ProofShown(at_ms=self.clock.now_ms()),
        )
        if self.keep is not None:
            await self.keep.opened(value)
        return value

    async def logins(self) -> list[keeping.LoginRow]:
        """The stored logins, and those that only this process knows. Raises Unavailable."""
        kept = [] if self.keep is None else [row for _, row in await self.keep.logins()]
        return [
            *kept,
            *(
                row
                for _, row in self.book.rows(self.clock.now_ms())
                if row.id not in {one.id for one in kept}
            ),
        ]

    async def end_logins(self, fits: Callable[[keeping.LoginRow], bool]) -> int:
        """End logins here and in every room, and return how many. Raises Unavailable."""
        keys = {key for key, row in self.book.rows(self.clock.now_ms()) if fits(row)}
        if self.keep is not None:
            keys |= {key for key, row in await self.keep.logins() if fits(row)}
        for key in keys:
            self.book.drop(key)
            if self.keep is not None:
                await self.keep.ended(key)
        return len(keys)

    async def sign_out(self, value: str | None) -> None:
        """End the login of a cookie, if there is one."""
        if value is None:
            return
        if (found := self.book.peek(value)) is not None:
            self.seen.saw("sign-out", who=found.name)
        self.book.close(value)
        if self.keep is not None:
            await self.keep.closed(value)

    async def _look_again(self) -> None:
        """Reload the file if it has changed."""
        now = self.clock.monotonic_ms()
        if self._path is None or now - self._looked_ms < LOOK_MS or self._turn.locked():
            return
        async with self._turn:
            self._looked_ms = now
            await self.look_at_passwords()
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                rules = await asyncio.to_thread(load_access, self._path)
            except EstateError as error:
                said = "; ".join(f"{row.place}: {row.message} [{row.code}]" for row in error.diagnostics[:5])
                LOG.error(
                    "%s is invalid and ignored, the last valid version stays in use: %s",
                    self._path.name,
                    said,
                )
                return
            if (rules.tls, rules.address, rules.hosts) != (
                self.rules.tls,
                self.rules.address,
                self.rules.hosts,
            ):
                LOG.warning("tls, address and hosts of %s take effect at the next start", self._path.name)
            self.rules, self._tokens, self._names = rules, _by_digest(rules), _names(rules)
            self.seen.saw("access-file", what=f"{self._path.name} was reloaded")
            LOG.info("%s was reloaded", self._path.name)


def _as_dict(value: Any) -> Any:
    """Nested mappings as plain dicts, for a digest of their content only."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no digest")


def _near(address: str) -> str:
    return f"at {keeping.neighbourhood(address)}"


def _by_itself(connection: HTTPConnection) -> bool:
    """Whether a page requested an automatic update, by its script or by a stream that it reopened."""
    headers = connection.headers
    stream = headers.get("accept", "").startswith("text/event-stream")
    return connection.scope.get("method") == "GET" and (stream or "hx-request" in headers)


def _names(rules: AccessRules) -> frozenset[str]:
    return frozenset(alike(name) for name in (*rules.people, *rules.tokens))


def _by_digest(rules: AccessRules) -> dict[str, Token]:
    return {token.digest: token for token in rules.tokens.values()}


def _stamp(path: Path | None) -> tuple[int, ...]:
    """What identifies a version of a file; one that cannot be read counts as a different version."""
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def certificate_of(connection: HTTPConnection) -> str:
    """SHA-256 of the certificate that the client presented in the handshake; empty if there was none."""
    return str(connection.scope.get("state", {}).get(CERTIFICATE, ""))


def address_of(connection: HTTPConnection) -> str:
    """The address that a request comes from: the connection's, or the one given by a proxy that the
    access file trusts.
    """
    found: str | None = connection.scope.get(ADDRESS)
    if found is not None:
        return found
    return connection.client.host if connection.client is not None else "?"


def record_in(
    access: KeepsLogins, connection: HTTPConnection, actor: Actor, kind: str, what: str, run: str = ""
) -> None:
    """Record that a person changed or requested something, once per request."""
    connection.scope[RECORDED] = True
    if actor.proven is not None:
        access.seen.saw(
            kind,
            who=actor.name,
            proof=actor.proven.words,
            address=address_of(connection),
            request=str(connection.scope.get(REQUEST_ID, "")),
            what=what.strip(),
            run=run,
        )


def _behind(connection: HTTPConnection, proxies: Sequence[str]) -> str:
    """The last address before the trusted proxies; anyone may have written the ones before it."""
    host = connection.client.host if connection.client is not None else "?"
    if not proxies:
        return host
    networks = [ipaddress.ip_network(one) for one in proxies]
    given = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")[-HOPS_MOST:]
    for hop in reversed([one.strip() for one in given if one.strip()]):
        if not _within(host, networks):
            break
        try:
            host = str(ipaddress.ip_address(hop))
        except ValueError:
            break
    return host


def _within(host: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)
