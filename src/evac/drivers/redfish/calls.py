"""Sends Redfish requests: one at a time to each controller, few at a time in each management network, each
with its own deadline and a limited response size.

Manages connections, queues and credentials, and returns a code for a response without content. Follows no
redirect. Does not interpret resources.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self

import orjson

from evac.drivers.credentials import CODE as REFUSED
from evac.drivers.credentials import Credential, Credentials, Places, Refused
from evac.drivers.redfish.connection import (
    Broken,
    Closed,
    Connection,
    NotConnected,
    NotSpoken,
    NotTrusted,
    TooLate,
    connect,
)
from evac.drivers.redfish.settings import Access, RedfishTarget, fits, is_busy, is_own_path, message_id
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass
from evac.net.http_calls import Answer

BRACKETS_MOST: Final = 8_192
"""Maximum nesting of a BMC's response."""
CONNECT_S: Final = 3.0
KEPT_S: Final = 2.0
LOG_OUT_S: Final = 5.0
JUDGED_BEFORE_S: Final = 0.5
"""How long before its deadline a conversation reports the meaning of a refusal."""
BUSY_MS: Final = 10_000
AT_ONCE_MOST: Final = 512
"""Concurrent requests of this process, all networks together: more only delays each of them."""
HANDSHAKES_AT_ONCE: Final = 128
IDLE_MOST: Final = 512
CLOSING_TURNS: Final = 100
LATE_S: Final = 0.25
LATE_TRIES: Final = 3
SESSIONS: Final = ("/redfish/v1/SessionService/Sessions", "/redfish/v1/Sessions")
Method = Literal["GET", "POST", "PATCH", "DELETE"]


@dataclass(slots=True)
class _Turn:
    """The current user of one controller, and how many wait."""

    place: Places
    users: int = 0


class Wire:
    """The connections of one driver."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns: dict[str, _Turn] = {}
        self._networks: dict[str, Places] = {}
        self._all, self._handshakes = Places(AT_ONCE_MOST), Places(HANDSHAKES_AT_ONCE)
        self._idle: dict[tuple[str, int], tuple[Connection, Access, asyncio.TimerHandle]] = {}
        self._open: set[Connection] = set()
        self._busy_until: dict[str, float] = {}
        self._headers: dict[int, tuple[Credential, dict[str, str]]] = {}
        self.credentials = Credentials()
        self.sent = 0

    def talk(self, target: RedfishTarget, ends: float, goes_on: bool = False) -> Talk:
        """An exclusive conversation with one controller. ends: by the loop. goes_on: before all that have not
        started: of many circuits, one is finished before the next is started.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._of_new_loop(loop)
        return Talk(self, target, ends, goes_on)

    def _of_new_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop everything that belongs to a closed loop."""
        self._loop = loop
        self._turns, self._networks, self._busy_until, self._idle = {}, {}, {}, {}
        self._open = set()
        self._all, self._handshakes = Places(AT_ONCE_MOST), Places(HANDSHAKES_AT_ONCE)

    async def close(self) -> None:
        idle, self._idle = self._idle, {}
        if self._loop is asyncio.get_running_loop():
            for _, _, expiry in idle.values():
                expiry.cancel()
            for connection in tuple(self._open):
                connection.abort()
            for _ in range(CLOSING_TURNS):  # aborted connections close in the loop's next turns
                if not self._open:
                    return
                await asyncio.sleep(0)

    def keep(self, target: RedfishTarget, connection: Connection) -> None:
        """Keep a connection for the next conversation with the same controller, which often follows at
        once.
        """
        key = (target.address, id(target.access))
        if len(self._idle) >= IDLE_MOST or key in self._idle:
            connection.close()
            return
        expiry = asyncio.get_running_loop().call_later(KEPT_S, self._expire, key)
        self._idle[key] = (connection, target.access, expiry)

    def _expire(self, key: tuple[str, int]) -> None:
        self._idle.pop(key)[0].close()

    def _kept(self, target: RedfishTarget) -> Connection | None:
        found = self._idle.pop((target.address, id(target.access)), None)
        if found is None:
            return None
        connection, _, expiry = found
        expiry.cancel()
        connection.reused = True
        return connection if connection.usable else None

    def goes_on(self, target: RedfishTarget) -> bool:
        """Whether a recently used connection is open: those are used before others are opened."""
        return (target.address, id(target.access)) in self._idle

    def network(self, target: RedfishTarget) -> Places:
        found = self._networks.get(target.network)
        if found is None:
            found = Places(target.access.requests_at_once)
            self._networks[target.network] = found
        return found

    def turn(self, address: str) -> _Turn:
        found = self._turns.get(address)
        if found is None:
            found = self._turns[address] = _Turn(Places(1))
        found.users += 1
        return found

    def give_back(self, address: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[address]

    def credential(self, access: Access) -> Credential:
        return self.credentials.of(access.user, access.password, access.refusals_at_most)

    def basic(self, credential: Credential) -> dict[str, str]:
        kept = self._headers.get(id(credential))
        if kept is None:
            words = f"{credential.user}:{credential.secret.reveal()}".encode()
            kept = (credential, {"Authorization": f"Basic {b64encode(words).decode('ascii')}"})
            self._headers[id(credential)] = kept
        return kept[1]

    def hold_off(self, address: str, after_ms: int) -> None:
        self._busy_until[address] = asyncio.get_running_loop().time() + after_ms / 1_000

    def check_busy(self, address: str) -> None:
        """Raise `Retryable` while a controller has asked for a pause."""
        if not self._busy_until:
            return
        until = self._busy_until.get(address)
        if until is None:
            return
        left = until - asyncio.get_running_loop().time()
        if left > 0:
            raise Retryable(
                "bmc-busy", f"{address} is busy and asks clients to wait", after_ms=int(left * 1_000) + 1
            )
        del self._busy_until[address]

    async def connection(self, target: RedfishTarget, timeout_s: float) -> Connection:
        """A kept or new connection to a trusted controller. Raises `Permanent`, `Retryable`."""
        kept = self._kept(target)
        if kept is not None:
            return kept
        host, _, port = target.address.rpartition(":")
        host, trust = host.strip("[]"), target.access.trust
        pin = trust.pin_of(target.address)
        connect_s = min(CONNECT_S, timeout_s)
        try:
            if trust.context is None:
                made = await connect(host, int(port), None, "", connect_s, timeout_s)
            else:
                await self._handshakes.take()
                try:
                    made = await connect(host, int(port), trust.context, trust.name, connect_s, timeout_s)
                finally:
                    self._handshakes.give()
        except (NotConnected, NotTrusted) as error:
            _not_connected(error, target.address)
        if made.is_there:
            self._open.add(made)
            made.on_gone = self._open.discard
        if pin is not None and not fits(pin, made.certificate()):
            made.abort()
            raise Permanent("bmc-tls", f"the certificate of {target.address} is not the pinned one")
        return made

    async def send(
        self, target: RedfishTarget, connection: Connection, request: bytes, timeout_s: float
    ) -> Answer:
        """One request. Raises `NoAnswer`, `Untouched`."""
        await self._all.take()
        self.sent += 1
        try:
            return await connection.ask(request, timeout_s)
        except Broken as error:
            _not_answered(error, target.address, connection)
        finally:
            self._all.give()


def packed(
    target: RedfishTarget,
    method: Method,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    last: bool,
) -> bytes:
    """A request as sent over the wire."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {target.address}",
        "Accept: application/json",
        "OData-Version: 4.0",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if last:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


class NoBmcAnswer(Retryable):
    """The request may have arrived; there was no complete response."""


class Starved(NoBmcAnswer):
    """No response in time, but this process was late: nothing is known of the controller."""


class OurselvesLate(Retryable):
    """No connection in time, but this process was late: nothing is known of the controller."""


class Untouched(NoBmcAnswer):
    """A kept connection was closed before any byte of a response."""


def _not_connected(error: NotConnected | NotTrusted, address: str) -> NoReturn:
    """Raise the error, with its code, for a failed connection."""
    if isinstance(error, NotTrusted):
        raise Permanent("bmc-tls", f"{address}: {error}") from error
    if error.late_s > LATE_S:  # if we are late, we cannot tell that the controller is silent
        words = f"this machine is overloaded: it began to query {address} {error.late_s:.1f} s late"
        raise OurselvesLate("bmc-busy", words, after_ms=1_000) from error
    if isinstance(error, NotSpoken):
        raise Retryable("bmc-hanging", f"{address} accepts connections but does not answer") from error
    raise Retryable("bmc-silent", f"{address}: {error}") from error


def _not_answered(error: Broken, address: str, connection: Connection) -> NoReturn:
    """Raise the error, with its code, for a request without a response."""
    if isinstance(error, TooLate):
        if error.late_s > LATE_S:
            words = f"this machine is overloaded: it read the answer of {address} {error.late_s:.1f} s late"
            raise Starved("bmc-busy", words, after_ms=1_000) from error
        raise NoBmcAnswer("bmc-hanging", f"{address}: {error}") from error
    if isinstance(error, Closed):
        kind = Untouched if error.untouched and connection.reused else NoBmcAnswer
        raise kind("bmc-silent", f"{address}: {error}") from error
    raise NoBmcAnswer("bmc-half-dead", f"{address}: {error}") from error


class Talk:
    """One conversation: sequential requests, on one connection if it stays open."""

    def __init__(self, wire: Wire, target: RedfishTarget, ends: float, goes_on: bool = False) -> None:
        self._wire, self.target, self._ends, self._goes_on = wire, target, ends, goes_on
        self._turn: _Turn | None = None
        self._connection: Connection | None = None
        self._token: dict[str, str] | None = None
        self._session_path = ""

    async def __aenter__(self) -> Self:
        """Wait for its turn. Raises `Retryable` if that does not come in time."""
        self._wire.check_busy(self.target.address)
        turn = self._wire.turn(self.target.address)
        network = self._wire.network(self.target)
        try:
            if turn.place.free and network.free:  # no one waits, so take both at once
                await turn.place.take()
                await network.take()
            else:
                async with asyncio.timeout_at(self._ends):
                    await turn.place.take(self._goes_on)
                    try:
                        goes_on = self._goes_on or self._wire.goes_on(self.target)
                        await network.take(goes_on, self.target.weight)
                    except BaseException:
                        turn.place.give()
                        raise
        except BaseException as error:
            self._wire.give_back(self.target.address, turn)
            if isinstance(error, TimeoutError):
                words = f"timed out waiting for a slot in the management network {self.target.network}"
                raise Retryable("bmc-busy", words) from error
            raise
        self._turn = turn
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._session_path:
                await self._log_out()
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                if connection.usable:
                    self._wire.keep(self.target, connection)
                else:
                    connection.close()
            turn, self._turn = self._turn, None
            assert turn is not None
            self._wire.network(self.target).give()
            turn.place.give()
            self._wire.give_back(self.target.address, turn)
        if isinstance(error, Refused):  # does not block other users of this controller or network
            credential = self._wire.credential(self.target.access)
            raise await credential.judged(error, self._ends - JUDGED_BEFORE_S) from error

    async def get(self, path: str, last: bool = False) -> dict[str, Any]:
        """A resource. Raises `Permanent` or `Retryable`, with the code of the problem."""
        answer = await self.ask("GET", path, last=last)
        if answer.status != 200:
            raise refusal(self.target.address, answer)
        return content(self.target.address, answer)

    async def ask(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        last: bool = False,
        etag: str = "",
    ) -> Answer:
        """The response with any status, except those about credentials and load."""
        wire, target = self._wire, self.target
        credential = wire.credential(target.access)
        if not credential.enter_at_once():
            await self._enter(credential)
        verdict: Literal["accepted", "refused", "unknown"] = "unknown"
        try:
            headers = await self._identified(credential)
            if etag:
                headers = {**headers, "If-Match": etag}
            content = None if body is None else orjson.dumps(body)
            answer = await self._send(method, path, headers, content, last)
            verdict = "refused" if answer.status == 401 else "unknown" if answer.status >= 500 else "accepted"
        except _LoginRefused:
            verdict = "refused"
            raise
        finally:
            credential.leave(target.address, verdict)
        self._check_status(answer)
        return answer

    async def _send(
        self, method: Method, path: str, headers: Mapping[str, str], body: bytes | None, last: bool
    ) -> Answer:
        """Retry if certainly nothing was sent, or if sending it twice changes nothing."""
        request = packed(self.target, method, path, headers, body, last)
        for left in reversed(range(LATE_TRIES)):
            try:
                if self._connection is None or not self._connection.usable:
                    self._connection = await self._wire.connection(self.target, self._left())
                connection = self._connection
                answer = await self._wire.send(self.target, connection, request, self._left())
            except OurselvesLate:
                if not left:
                    raise
                await asyncio.sleep(LATE_S)
            except (Untouched, Starved):
                self._connection = None
                if not left or method != "GET":
                    raise
            else:
                connection.reused = True
                if last or not connection.usable:
                    self._connection = None
                    connection.abort()  # the response is complete, and the request said to close
                return answer
        raise AssertionError("the last try returns or raises")

    async def _enter(self, credential: Credential) -> None:
        try:
            async with asyncio.timeout_at(self._ends):
                await credential.enter(self.target.address)
        except TimeoutError as error:
            raise Retryable("bmc-busy", "it is not yet known whether the password is accepted") from error

    def _left(self) -> float:
        """Time limit of one request, in seconds."""
        left = self._ends - asyncio.get_running_loop().time()
        if left <= 0:
            raise Retryable("bmc-hanging", f"there is no time left to query {self.target.address}")
        return min(self.target.access.answer_s, left)

    def _check_status(self, answer: Answer) -> None:
        """Raise the error for refused credentials, and while the controller wants no requests."""
        status, address = answer.status, self.target.address
        if status == 401:
            raise Refused(
                REFUSED, f"{address} rejects the user name or password of {self.target.access.user}"
            )
        if status in (429, 503) or (status >= 400 and is_busy(answer.body)):
            after_ms = answer.after_ms(time.time()) or BUSY_MS
            self._wire.hold_off(address, after_ms)
            raise Retryable("bmc-busy", f"{address} is busy: {message_id(answer.body)}", after_ms=after_ms)

    async def _identified(self, credential: Credential) -> Mapping[str, str]:
        if not self.target.access.session:
            return self._wire.basic(credential)
        if self._token is None:
            self._token = await self._log_in(credential)
        return self._token

    async def _log_in(self, credential: Credential) -> dict[str, str]:
        """Open the only session of this conversation. Some controllers support only the older path."""
        body = orjson.dumps({"UserName": credential.user, "Password": credential.secret.reveal()})
        for path in SESSIONS:
            answer = await self._send("POST", path, {}, body, last=False)
            if answer.status in (404, 405):
                continue
            if answer.status in (400, 401, 403) and not is_busy(answer.body):
                raise _LoginRefused(REFUSED, f"{self.target.address} rejects the login of {credential.user}")
            self._check_status(answer)
            token, where = answer.headers.get("x-auth-token", ""), _path_of(answer)
            is_token = 0 < len(token) <= 4_096 and token.isascii() and token.isprintable()
            if answer.status not in (200, 201) or not is_token:
                raise Retryable(
                    "bmc-half-dead", f"{self.target.address} did not open a session: {answer.status}"
                )
            self._session_path = where
            return {"X-Auth-Token": token}
        raise Permanent(
            "bmc-unsupported", f"{self.target.address} does not support sessions", "set login: basic"
        )

    async def _log_out(self) -> None:
        """Close the session, also after an error; a controller allows about eight."""
        path, self._session_path = self._session_path, ""
        try:
            self._ends = max(self._ends, asyncio.get_running_loop().time() + LOG_OUT_S)
            await self._send("DELETE", path, self._token or {}, None, last=True)
        except (Permanent, Retryable):
            return  # it expires after a period of inactivity


class _LoginRefused(Refused):
    """The login refused user or password."""


def _path_of(answer: Answer) -> str:
    """The path of the opened session: of a Location only the path counts, on the same host."""
    where = answer.headers.get("location", "")
    if where.startswith(("http://", "https://")):
        where = "/" + where.split("/", 3)[3] if where.count("/") > 2 else ""
    return where if is_own_path(where) else ""


def content(address: str, answer: Answer) -> dict[str, Any]:
    """The resource in a response. Raises `Retryable` if there is none: the controller is malfunctioning."""
    body = answer.body
    if body.count(b"{") + body.count(b"[") > BRACKETS_MOST:
        raise Retryable("bmc-half-dead", f"{address} sent an answer that is nested too deeply")
    found = answer.values()
    if not found:
        raise Retryable("bmc-half-dead", f"{address} did not answer with a resource")
    return found


def refusal(address: str, answer: Answer) -> Permanent | Retryable:
    """The meaning of an unexpected status."""
    status, words = answer.status, message_id(answer.body)
    if status == 403:
        return Permanent("bmc-not-allowed", f"{address} does not allow it: {words or status}")
    if 300 <= status < 400:
        return Permanent(
            "bmc-unsupported", f"{address} redirects the request ({status}), and evac does not follow"
        )
    if status in (400, 404, 405, 410, 412, 415, 428, 501):
        return Permanent("bmc-unsupported", f"{address} cannot do this: {status} {words}".rstrip())
    return Retryable("bmc-half-dead", f"{address} answers {status} {words}".rstrip())
