"""The outermost layer of every request: an id, limits, trusted hosts and origins, the caller, and headers.

Plain ASGI, because every read passes through it. It counts body bytes, but reads only forms under a login. A
repeated read is answered here from the shelf, after the same checks and with the same headers.

A page of another site, open in a browser on this machine, must not reach a room that trusts its machine: a
request with a foreign `Host` is refused (421), and a change is refused unless it comes from the room's own
origin or from a program (no `Origin`, no `Sec-Fetch-Site`). If a cookie identifies the caller, a change must
also carry that login's token.

If the room identifies people, unidentified callers get no further, whether or not the route exists: browsers
are redirected to sign in, all others are refused. Streams end with the login under which they began.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evac.model.errors import EvacError, InvalidInput, NotAllowed
from evac.web.access.guarding import SAFE, SignedOut, is_open, to_sign_in, while_signed_in, with_token
from evac.web.access.people import address_of, record_in
from evac.web.access.port import NEEDED, PROVEN, RECORDED, STATE, Access, Actor, KeepsLogins, TooMany
from evac.web.metrics import Metrics
from evac.web.problems import REQUEST_ID, internal, problem_of
from evac.web.room import READER, Kept, Shelf
from evac.web.setting import WebSetting

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STREAM: Final = "evac_stream"
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{0,5})?")
_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_TLS: Final = (b"strict-transport-security", b"max-age=31536000")


class BodyTooLarge(InvalidInput):
    """A request body above the limit."""

    def __init__(self, most: int) -> None:
        super().__init__("body-too-large", f"the body has more than {most} bytes", "send less")


class Gate:
    """ASGI middleware around the application."""

    def __init__(
        self, app: ASGIApp, access: Access, setting: WebSetting, metrics: Metrics, shelf: Shelf
    ) -> None:
        self._app, self._access, self._setting, self._metrics = app, access, setting, metrics
        self._shelf = shelf
        self._streams: Counter[str] = Counter()
        self._fixed = (*_HEADERS, _TLS) if setting.secure else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there is none here, and none bypasses the checks below
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        number = given.decode() if _ID.match(given) else secrets.token_hex(8)
        scope[REQUEST_ID] = number
        began = time.perf_counter()
        told = _Told()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *self._fixed,
                    (b"x-request-id", number.encode()),
                ]
            await send(message)

        try:
            self._check(scope, headers)
            actor = scope[STATE] = await self._access.who(HTTPConnection(scope))
            bounded = self._bounded(receive, self._most(scope))
            if actor is None and self._access.authenticates and not is_open(scope["path"]):
                await to_sign_in(scope, headers, number)(scope, receive, answer)
                return
            if actor is not None and actor.csrf and scope["method"] not in SAFE:
                bounded = await with_token(scope, headers, actor, bounded)
            self._enter(scope, actor)
            kept = self._kept(scope, actor)
            if kept is not None:
                known = headers.get(b"if-none-match")
                await kept.send(None if known is None else known.decode("latin-1"), answer)
            else:
                await self._app(scope, bounded, while_signed_in(actor, answer))
        except SignedOut:
            pass  # the answer has been ended already
        except ClientDisconnect:
            pass  # the client left while the body was arriving: nothing is wrong here
        except EvacError as error:
            if not told.status:
                await problem_of(error, number)(scope, receive, answer)
        except Exception as error:
            found = await internal(scope, error)
            if not told.status:
                await found(scope, receive, answer)
        finally:
            self._leave(scope)
            if isinstance(self._access, KeepsLogins):
                self._record(self._access, scope, told.status)
            route = scope.get("route")
            path = getattr(route, "path", "") or "other"
            self._metrics.request(scope["method"], path, told.status, time.perf_counter() - began)

    def _enter(self, scope: Scope, actor: Actor | None) -> None:
        """Keeps the connection of anyone who has authenticated, and counts one person's streams. Raises
        TooMany above the limit in the access file.
        """
        prove = scope.get("state", {}).get(PROVEN)
        if actor is not None and prove is not None:
            prove()
        if actor is None or not actor.streams or not scope["path"].endswith("/stream"):
            return
        if self._streams[actor.name] >= actor.streams:
            raise TooMany("too-many-streams", f"{actor.name} already has {actor.streams} open streams", 5_000)
        self._streams[actor.name] += 1
        scope[STREAM] = actor.name

    def _leave(self, scope: Scope) -> None:
        name = scope.pop(STREAM, None)
        if name is not None:
            self._streams[name] -= 1
            if not self._streams[name]:
                del self._streams[name]

    def _record(self, access: KeepsLogins, scope: Scope, status: int) -> None:
        """Records a refusal, or a change that its route did not record itself."""
        actor, connection = scope.get(STATE), HTTPConnection(scope)
        what = f"{scope['method']} {scope['path'][:200]}"
        if status in (401, 403):
            if actor is None and scope["method"] in SAFE:
                return  # a browser without a login that reads: it is sent to sign in
            who = "" if actor is None else actor.name
            access.seen.refused("refused", address_of(connection), f"http-{status}", who, what)
            return
        changed = 0 < status < 400 and scope["method"] not in SAFE and scope.get(NEEDED, READER) != READER
        if changed and actor is not None and RECORDED not in scope:
            record_in(access, connection, actor, "asked", what)

    def _kept(self, scope: Scope, actor: Actor | None) -> Kept | None:
        """The cached response to the same read, for callers who may see it; all others take the normal path
        and are refused there.
        """
        if scope["method"] != "GET" or actor is None or not actor.has(READER):
            return None
        return self._shelf.asked_before(scope)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises EvacError for requests that are refused before anything is read."""
        host = headers.get(b"host", b"").decode("latin-1")
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise InvalidInput("host-twice", "a request must have exactly one host", "send one Host header")
        if self._setting.hosts and _name(host) not in self._setting.hosts:
            raise NotAllowed("host-unknown", "this war room does not use that name", "use its own address")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._setting.header_most:
            raise InvalidInput("header-too-large", "the headers are too long", "send fewer cookies")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most(scope):
            raise BodyTooLarge(self._most(scope))
        if scope["method"] not in SAFE:
            _check_origin(headers, host, self._setting.secure)

    def _most(self, scope: Scope) -> int:
        """Maximum bytes of a body: a plan may be larger than other requests."""
        plan = scope["method"] == "PUT" and scope["path"].startswith("/v1/plans/")
        return self._setting.plan_most if plan else self._setting.body_most

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """Counts incoming bytes; a body without a length has the same limit."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > most:
                    raise BodyTooLarge(most)
            return message

        return bounded


class _Told:
    """Whether the response has begun."""

    status = 0


def _name(host: str) -> str:
    """The host without its port, normalised for comparison; empty for what is not a name and a port. What is
    between them would be a password, and what follows it another host.
    """
    found = _HOST.fullmatch(host)
    return found["name"].strip("[]").lower() if found else ""


def _check_origin(headers: dict[bytes, bytes], host: str, secure: bool) -> None:
    """Raises NotAllowed for a change requested by a page of another site."""
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin", b"").decode("latin-1")
    try:
        scheme, where = urlsplit(origin)[:2]
        foreign = bool(origin) and (where.lower() != host.lower() or (secure and scheme != "https"))
    except ValueError:
        foreign = True
    if foreign or site not in (b"none", b"same-origin"):
        raise NotAllowed(
            "cross-site",
            "another website requested a change",
            "send it from the pages of this war room",
        )
