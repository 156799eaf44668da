"""Carries Redfish requests: one at once to each controller, few at once in each management network, each with
a deadline of its own and an answer of bounded size.

Owns connections, turns and credentials, and says in codes what an answer without content means. Follows no
redirect. Judges no resource.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self

import aiohttp
import orjson
from yarl import URL

from evac.actions.credentials import CODE as REFUSED
from evac.actions.credentials import Credential, Credentials
from evac.actions.http_calls import Answer
from evac.actions.redfish_quirks import is_busy, message_id
from evac.actions.redfish_settings import Access, Target, is_own_path
from evac.model.errors import Permanent, Retryable

ANSWER_BYTES_MOST: Final = 262_144
BRACKETS_MOST: Final = 8_192
"""A BMC's answer is neither larger nor more deeply built than this."""
CONNECT_S: Final = 3.0
KEPT_S: Final = 2.0
BUSY_MS: Final = 10_000
AT_ONCE_MOST: Final = 512
"""Requests of this process, all networks together: more only makes each of them late."""
LATE_S: Final = 0.25
LATE_TRIES: Final = 3
SESSIONS: Final = ("/redfish/v1/SessionService/Sessions", "/redfish/v1/Sessions")
Method = Literal["GET", "POST", "PATCH", "DELETE"]


@dataclass(slots=True)
class _Turn:
    """Who talks with one controller now, and how many wait."""

    lock: asyncio.Lock
    users: int = 0


class Wire:
    """The connections of one driver."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns: dict[str, _Turn] = {}
        self._networks: dict[str, asyncio.Semaphore] = {}
        self._all = asyncio.Semaphore(AT_ONCE_MOST)
        self._busy_until: dict[str, float] = {}
        self._headers: dict[int, tuple[Credential, dict[str, str]]] = {}
        self.credentials = Credentials()
        self.sent = 0

    def talk(self, target: Target, ends: float) -> Talk:
        """A conversation with one controller; nobody else talks with it meanwhile. ends: by the loop."""
        self._open()
        return Talk(self, target, ends)

    def _open(self) -> aiohttp.ClientSession:
        """A session of the running loop; what belongs to a loop that is over is left behind."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._turns, self._networks, self._busy_until = {}, {}, {}
            self._all = asyncio.Semaphore(AT_ONCE_MOST)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEPT_S, use_dns_cache=True, ttl_dns_cache=60
                ),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                auto_decompress=False,
                trust_env=False,
            )
            self._loop = loop
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def network(self, target: Target) -> asyncio.Semaphore:
        found = self._networks.get(target.network)
        if found is None:
            found = asyncio.Semaphore(target.access.requests_at_once)
            self._networks[target.network] = found
        return found

    def turn(self, address: str) -> _Turn:
        found = self._turns.get(address)
        if found is None:
            found = self._turns[address] = _Turn(asyncio.Lock())
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
        """Raises `Retryable` while a controller has asked to be left alone."""
        if not self._busy_until:
            return
        until = self._busy_until.get(address)
        if until is None:
            return
        left = until - asyncio.get_running_loop().time()
        if left > 0:
            raise Retryable("bmc-busy", f"{address} asks to be left alone", after_ms=int(left * 1_000) + 1)
        del self._busy_until[address]

    async def send(
        self, target: Target, method: Method, path: str, headers: Mapping[str, str], body: bytes | None,
        timeout_s: float, last: bool,
    ) -> Answer:  # fmt: skip
        """One request. Raises `Retryable` where it was not sent, `NoAnswer` where it may have arrived."""
        wanted = dict(headers)
        if body is not None:
            wanted["Content-Type"] = "application/json"
        if last:
            wanted["Connection"] = "close"
        connect_s = min(CONNECT_S, timeout_s)
        loop = asyncio.get_running_loop()
        async with self._all:
            self.sent += 1
            begun = loop.time()
            try:
                async with (
                    asyncio.timeout(timeout_s),
                    self._open().request(
                        method, URL(target.base + path, encoded=True), data=body, headers=wanted,
                        allow_redirects=False, ssl=_trusted(target),
                        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
                        server_hostname=target.access.trust.name or None,
                    ) as response,
                ):  # fmt: skip
                    return await _read(response, target.address)
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
                if isinstance(error, aiohttp.ConnectionTimeoutError):
                    _check_late(loop.time() - begun - connect_s, target)
                await _failed(error, target, timeout_s)


class NoAnswer(Retryable):
    """The request may have arrived; no whole answer came."""


class OurselvesLate(Retryable):
    """No connection in time, but it is this process that was late: nothing is known of the controller."""


def _check_late(late_s: float, target: Target) -> None:
    """Whoever is late himself cannot tell that somebody else is silent. Raises `OurselvesLate`."""
    if late_s > LATE_S:
        words = f"this machine is too slow: it was {late_s:.1f} s late to look at {target.address}"
        raise OurselvesLate("bmc-busy", words, after_ms=1_000)


def _trusted(target: Target) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    trust = target.access.trust
    pin = trust.pin_of(target.address)
    if pin is not None:
        return aiohttp.Fingerprint(pin)
    return True if trust.context is None else trust.context


async def _read(response: aiohttp.ClientResponse, address: str) -> Answer:
    """The whole answer, if it is not too large."""
    length = response.content_length
    if length is not None and length > ANSWER_BYTES_MOST:
        response.close()
        raise NoAnswer("bmc-half-dead", f"{address} answers more than {ANSWER_BYTES_MOST} bytes")
    parts = bytearray()
    async for part in response.content.iter_any():
        parts += part
        if len(parts) > ANSWER_BYTES_MOST:
            response.close()
            raise NoAnswer("bmc-half-dead", f"{address} answers more than {ANSWER_BYTES_MOST} bytes")
    found = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, found, bytes(parts))


async def _failed(error: Exception, target: Target, timeout_s: float) -> NoReturn:
    """What it means that no answer came. Raises."""
    where = target.address
    if isinstance(error, aiohttp.ServerFingerprintMismatch | aiohttp.ClientConnectorCertificateError):
        raise Permanent("bmc-tls", f"the certificate of {where} is not the one that is known") from error
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            raise Permanent("bmc-tls", f"{where} speaks no TLS that can be understood") from error
        if target.access.scheme == "https" and await _takes_connections(where):
            raise Retryable("bmc-hanging", f"{where} takes connections and answers nothing") from error
        raise Retryable("bmc-silent", f"{where} cannot be reached") from error
    if isinstance(error, TimeoutError):
        raise NoAnswer("bmc-hanging", f"{where} did not answer in {timeout_s:.1f} s") from error
    raise NoAnswer("bmc-silent", f"{where} broke off: {type(error).__name__}") from error


async def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


class Talk:
    """One conversation: requests one after the other, on one connection where it is kept."""

    def __init__(self, wire: Wire, target: Target, ends: float) -> None:
        self._wire, self.target, self._ends = wire, target, ends
        self._turn: _Turn | None = None
        self._token: dict[str, str] | None = None
        self._session_path = ""

    async def __aenter__(self) -> Self:
        """Waits for its turn. Raises `Retryable` when it does not come in time."""
        self._wire.check_busy(self.target.address)
        turn = self._wire.turn(self.target.address)
        network = self._wire.network(self.target)
        try:
            if turn.lock.locked() or network.locked():
                async with asyncio.timeout_at(self._ends):
                    await turn.lock.acquire()
                    try:
                        await network.acquire()
                    except BaseException:
                        turn.lock.release()
                        raise
            else:  # nobody waits: both are had at once
                await turn.lock.acquire()
                await network.acquire()
        except BaseException as error:
            self._wire.give_back(self.target.address, turn)
            if isinstance(error, TimeoutError):
                words = f"no turn came in the management network {self.target.network}"
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
            turn, self._turn = self._turn, None
            assert turn is not None
            self._wire.network(self.target).release()
            turn.lock.release()
            self._wire.give_back(self.target.address, turn)

    async def get(self, path: str, last: bool = False) -> dict[str, Any]:
        """A resource. Raises `Permanent` or `Retryable`, with a code that says what is wrong."""
        answer = await self.ask("GET", path, last=last)
        if answer.status != 200:
            raise refusal(self.target.address, answer)
        return content(self.target.address, answer)

    async def ask(
        self, method: Method, path: str, body: Mapping[str, Any] | None = None, *, last: bool = False,
        etag: str = "",
    ) -> Answer:  # fmt: skip
        """The answer, whatever its status, but for those that are about who asks, and when."""
        wire, target = self._wire, self.target
        credential = wire.credential(target.access)
        await self._enter(credential)
        verdict: Literal["accepted", "refused", "unknown"] = "unknown"
        try:
            headers = await self._identified(credential)
            if etag:
                headers = {**headers, "If-Match": etag}
            packed = None if body is None else orjson.dumps(body)
            answer = await self._send(method, path, headers, packed, last)
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
        """Tries again where nothing was sent because this process was late."""
        for _ in range(LATE_TRIES - 1):
            try:
                return await self._wire.send(self.target, method, path, headers, body, self._left(), last)
            except OurselvesLate:
                await asyncio.sleep(LATE_S)
        return await self._wire.send(self.target, method, path, headers, body, self._left(), last)

    async def _enter(self, credential: Credential) -> None:
        try:
            async with asyncio.timeout_at(self._ends):
                await credential.enter(self.target.address)
        except TimeoutError as error:
            raise Retryable("bmc-busy", "nobody knows yet whether the password is accepted") from error

    def _left(self) -> float:
        """Seconds that one request may take."""
        left = self._ends - asyncio.get_running_loop().time()
        if left <= 0:
            raise Retryable("bmc-hanging", f"no time is left to ask {self.target.address}")
        return min(self.target.access.answer_s, left)

    def _check_status(self, answer: Answer) -> None:
        """Raises for refused credentials, and while the controller wants no requests."""
        status, address = answer.status, self.target.address
        if status == 401:
            raise Permanent(REFUSED, f"{address} refuses user or password of {self.target.access.user}")
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
        """Opens the one session of this conversation. Some controllers know only the older path."""
        body = orjson.dumps({"UserName": credential.user, "Password": credential.secret.reveal()})
        for path in SESSIONS:
            answer = await self._wire.send(self.target, "POST", path, {}, body, self._left(), last=False)
            if answer.status in (404, 405):
                continue
            if answer.status in (400, 401, 403) and not is_busy(answer.body):
                raise _LoginRefused(REFUSED, f"{self.target.address} refuses the login of {credential.user}")
            self._check_status(answer)
            token, where = answer.headers.get("x-auth-token", ""), _path_of(answer)
            if answer.status not in (200, 201) or not _is_token(token):
                raise Retryable("bmc-half-dead", f"{self.target.address} opens no session: {answer.status}")
            self._session_path = where
            return {"X-Auth-Token": token}
        raise Permanent("bmc-unsupported", f"{self.target.address} knows no sessions", "set login: basic")

    async def _log_out(self) -> None:
        """Closes the session, also after an error; a controller has room for about eight."""
        path, self._session_path = self._session_path, ""
        try:
            timeout_s = min(self.target.access.answer_s, 5.0)
            await self._wire.send(self.target, "DELETE", path, self._token or {}, None, timeout_s, last=True)
        except (Permanent, Retryable):
            return  # it ends by itself when it is idle for long enough


class _LoginRefused(Permanent):
    """The login said no to user or password."""


def _path_of(answer: Answer) -> str:
    """Where the session is that was opened: of a Location only the path counts, on the same host."""
    where = answer.headers.get("location", "")
    if where.startswith(("http://", "https://")):
        where = "/" + where.split("/", 3)[3] if where.count("/") > 2 else ""
    return where if is_own_path(where) else ""


def _is_token(token: str) -> bool:
    return 0 < len(token) <= 4_096 and token.isascii() and token.isprintable()


def content(address: str, answer: Answer) -> dict[str, Any]:
    """The resource in an answer. Raises `Retryable` where there is none: the controller is half dead."""
    body = answer.body
    if body.count(b"{") + body.count(b"[") > BRACKETS_MOST:
        raise Retryable("bmc-half-dead", f"{address} answers something that is built too deeply")
    found = answer.values()
    if not found:
        raise Retryable("bmc-half-dead", f"{address} answers no resource")
    return found


def refusal(address: str, answer: Answer) -> Permanent | Retryable:
    """What a status means that is not the wanted one."""
    status, words = answer.status, message_id(answer.body)
    if status == 403:
        return Permanent("bmc-not-allowed", f"{address} does not allow it: {words or status}")
    if 300 <= status < 400:
        return Permanent("bmc-unsupported", f"{address} sends the request elsewhere ({status}): not followed")
    if status in (400, 404, 405, 410, 412, 415, 428, 501):
        return Permanent("bmc-unsupported", f"{address} cannot do this: {status} {words}".rstrip())
    return Retryable("bmc-half-dead", f"{address} answers {status} {words}".rstrip())
