"""Client of etcd's JSON gateway over HTTP: several members, a hard deadline and a size limit per call.

It knows nothing about keys or leases. Its errors say whether a call may have been executed.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from evac.model.errors import InvalidInput, Permanent, StoreError, Unavailable
from evac.net.http_calls import open_session
from evac.net.secrets import resolve
from evac.net.tls import RenewedClient, TlsFiles, trouble_of

ANSWER_MOST_BYTES: Final = 64 << 20
LARGE_BYTES: Final = 512 << 10
AGAIN_S: Final = 0.05
LEAST_S: Final = 0.2
"""With less time left there is no further try: it would time out and hide the previous error."""
AVOID_LEAST_S: Final = 2.0
AVOID_MOST_S: Final = 30.0
LOGIN: Final = "/v3/auth/authenticate"
LOGIN_S: Final = 4.0
"""A login is a bcrypt on the member, slow on a busy processor."""
SILENT_MOST: Final = 3
"""Unanswered calls after which the next one logs in again. A member restored from a snapshot does not refuse
a call with an older token but holds it until its log is as long as before.
"""

GRPC_NOT_FOUND: Final = 5
GRPC_UNAVAILABLE: Final = 14
GRPC_UNAUTHENTICATED: Final = 16
NOT_PROPOSED: Final = ("etcdserver: no leader", "etcdserver: too many requests", "etcdserver: not leader")
"""Refusals before anything was proposed: the call may be sent again."""
FULL_LOGGED_S: Final = 60.0
"""Minimum time between two log lines that etcd is full. Alerts cannot say it: they go through the store."""
COMMON_NAME: Final = b"CommonName of client"
"""The gateway's answer to a client whose certificate has a name in its subject, once etcd has users: it could
not act as that user.
"""

_log = logging.getLogger("evac.store")


class Refused(StoreError):
    """etcd responded and did nothing. `grpc`: the code of its response."""

    def __init__(self, grpc: int, message: str) -> None:
        super().__init__("etcd-refused", f"etcd refused: {message}", "check the log of the etcd member")
        self.grpc = grpc


class NotSent(Unavailable):
    """No member accepted the call: nothing was done. `again`: whether another attempt, or member,
    may help.
    """

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class Full(Unavailable):
    """etcd is above its quota. The transaction that exceeded it gets this answer too, although it was
    executed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.hint = (
            "delete data that other programs wrote, compact and defragment etcd, then: etcdctl alarm disarm"
        )


class AnswerTooLarge(StoreError):
    """A response exceeds the limit; request less at a time."""


def text_key(text: str) -> str:
    return b64encode(text.encode()).decode()


def raw(value: str | None) -> bytes:
    return b64decode(value or "")


class Gateway:
    """Members in order of preference. attempt_s: time limit per member; deadline_s: for a whole call.

    A failed member is avoided for a while, twice as long each time, and then preferred again; one that
    answers is preferred again at once. Concurrent calls that fail together count as one failure.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        user: str = "",
        password: str = "",
        tls: tuple[str, str, str] = ("", "", ""),
        attempt_s: float = 1.0,
        deadline_s: float = 5.0,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.deadline_s = deadline_s
        self._attempt_s = attempt_s
        self._user, self._password = user, password
        authority, certificate, key = (Path(one) if one else None for one in tls)
        self._line = RenewedClient(TlsFiles(authority, certificate, key if certificate else None))
        self._token = ""
        self._silent = 0
        """Consecutive calls without an answer in time."""
        self._full_s = -math.inf
        """When it last logged that etcd is full."""
        self._entering = asyncio.Lock()
        self._avoid_until = [0.0] * len(self.endpoints)
        self._avoid_s = [0.0] * len(self.endpoints)
        self._failed_at = [0.0] * len(self.endpoints)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def avoided_s(self, member: int) -> float:
        """How much longer a member is avoided; 0 if it is not."""
        return max(0.0, self._avoid_until[member] - time.monotonic())

    async def call(self, path: str, body: Mapping[str, Any], deadline: float | None = None) -> dict[str, Any]:
        """For calls that may be executed twice (reads, keepalives): tries members until one answers.

        deadline: on the monotonic clock. Raises `Unavailable`, `Refused`, `AnswerTooLarge`.
        """
        deadline = deadline or time.monotonic() + self.deadline_s
        while True:
            try:
                return await self.call_once(path, body, deadline)
            except Full:
                raise
            except Unavailable as failure:
                again = not isinstance(failure, NotSent) or failure.again
                if not again or time.monotonic() + AGAIN_S + LEAST_S >= deadline or self._closed:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def call_once(self, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Tries one member after another only while it is certain that none of them accepted the call.

        Raises `NotSent` if none did before the deadline, `Unavailable` if one may have, `Refused`.
        """
        while True:
            member, began = self._pick(), time.monotonic()
            try:
                answer = await self.ask(member, path, body, deadline)
            except NotSent as failure:
                if not failure.again:
                    raise
                self._avoid(member, began)
                if time.monotonic() + AGAIN_S + LEAST_S >= deadline or self._closed:
                    raise
                await asyncio.sleep(AGAIN_S)
            except Full as full:
                if began - self._full_s >= FULL_LOGGED_S:
                    self._full_s = began
                    _log.error("nothing can be written: %s; %s", full.message, full.hint)
                raise
            except Unavailable:
                self._avoid(member, began)
                raise
            else:
                self._avoid_s[member] = self._avoid_until[member] = 0.0
                return answer

    async def stream(self, path: str, body: Mapping[str, Any], idle_s: float) -> AsyncGenerator[bytes, None]:
        """Pieces of an endless response as they arrive, b"" after `idle_s` without one. Raises
        `Unavailable`.
        """
        member, began = self._pick(), time.monotonic()
        try:
            async with asyncio.timeout(self._attempt_s):
                response = await self._post(self.endpoints[member] + path, orjson.dumps(body))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._avoid(member, began)
            raise Unavailable(f"{self.endpoints[member]} does not answer") from error
        try:
            while True:
                piece = await self._piece(response, idle_s, member)
                if piece is None:
                    return
                yield piece
        finally:
            response.close()

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
            # The transports end in the next turns of the loop; only then are all sockets closed.
            await asyncio.sleep(0.01)

    async def _piece(self, response: aiohttp.ClientResponse, idle_s: float, member: int) -> bytes | None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(idle_s):
                return await response.content.readany() or None
        except TimeoutError:
            return b""
        except (aiohttp.ClientError, OSError) as error:
            self._avoid(member, began)
            raise Unavailable(f"{self.endpoints[member]} broke the connection") from error

    async def ask(self, member: int, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Asks only the member at this index. Raises `NotSent`, `Unavailable`, `Refused`."""
        if self._user and not self._token:
            await self._enter(member, deadline, "")
        token = self._token
        try:
            return await self._send(member, path, body, deadline)
        except Refused as refused:
            if refused.grpc != GRPC_UNAUTHENTICATED or not self._user:
                raise
        await self._enter(member, deadline, token)
        return await self._send(member, path, body, deadline)

    async def _enter(self, member: int, deadline: float, refused: str) -> None:
        """A token other than the refused one. All callers share one login, because each costs etcd a
        bcrypt.
        """
        try:
            async with asyncio.timeout(max(0.01, deadline - time.monotonic())), self._entering:
                if not self._token or self._token == refused:
                    await self._log_in(member, deadline)
        except TimeoutError as error:
            raise NotSent(f"{self.endpoints[member]} did not log in {self._user} in time") from error

    async def _log_in(self, member: int, deadline: float) -> None:
        try:
            secret = resolve(self._password)
        except Permanent as error:
            words = f"cannot read the password of etcd: {error.message}"
            raise StoreError("store-secret", words, error.hint) from error
        body = {"name": self._user, "password": secret.reveal()}
        self._token = ""
        try:
            answer = await self._send(member, LOGIN, body, deadline)
        except Unavailable as error:
            raise NotSent(error.message) from error
        self._token = str(answer.get("token", ""))

    async def _send(self, member: int, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        endpoint = self.endpoints[member]
        attempt_s = self._attempt_s if path != LOGIN else max(self._attempt_s, LOGIN_S)
        patience = max(0.01, min(attempt_s, deadline - time.monotonic()))
        try:
            async with (
                asyncio.timeout(patience),
                await self._post(endpoint + path, _content(body)) as response,
            ):
                status, content = response.status, await _bounded(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _told(NotSent, endpoint, "cannot be reached", error) from error
        except TimeoutError as error:
            self._silent += 1
            if self._silent >= SILENT_MOST:
                self._token, self._silent = "", 0
            raise Unavailable(f"{endpoint} did not answer within {patience:.1f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _told(
                Unavailable, endpoint, f"broke the connection: {type(error).__name__}", error
            ) from error
        self._silent = 0
        return _answer(endpoint, status, content)

    async def _post(self, url: str, content: bytes | io.BytesIO) -> aiohttp.ClientResponse:
        """Sends a call. Renewed TLS files apply to new connections; the old ones close when idle."""
        if self._closed:
            raise NotSent("the store is closed", again=False)
        if self._session is None:
            self._session = open_session(connect_s=self._attempt_s * 0.8)
        line = self._context() if url.startswith("https:") else True
        headers = {"Authorization": self._token} if self._token else {}
        return await self._session.post(url, data=content, headers=headers, ssl=line)

    def _context(self) -> ssl.SSLContext:
        try:
            return self._line.now()
        except InvalidInput as error:
            raise StoreError(
                "store-tls",
                f"the TLS files of etcd cannot be used: {error.message}",
                "check ca, cert and key",
            ) from error

    def _pick(self) -> int:
        """The first member that is not avoided; else the one whose avoidance ends first."""
        now = time.monotonic()
        for member, until in enumerate(self._avoid_until):
            if until <= now:
                return member
        return min(range(len(self.endpoints)), key=self._avoid_until.__getitem__)

    def _avoid(self, member: int, began: float) -> None:
        """began: when the failed call was sent; one sent before the last failure counts as part of it."""
        if began <= self._failed_at[member]:
            return
        self._failed_at[member] = time.monotonic()
        self._avoid_s[member] = min(AVOID_MOST_S, max(AVOID_LEAST_S, self._avoid_s[member] * 2))
        self._avoid_until[member] = time.monotonic() + self._avoid_s[member]


def _told(kind: type[Unavailable], endpoint: str, words: str, error: Exception) -> Unavailable:
    """The error of a member; for TLS, what is wrong and what to do."""
    trouble = trouble_of(error)
    made = kind(f"{endpoint} {words}" if trouble is None else f"{endpoint}: {trouble.words}")
    made.hint = made.hint if trouble is None else trouble.hint
    return made


def _content(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """The body as sent; a large one as a file, sent in pieces between other work."""
    content = orjson.dumps(body)
    return content if len(content) < LARGE_BYTES else io.BytesIO(content)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises `AnswerTooLarge` above the limit."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > ANSWER_MOST_BYTES:
            response.close()
            raise AnswerTooLarge(
                "etcd-answer", f"a response from etcd is larger than {ANSWER_MOST_BYTES} bytes"
            )
        pieces.append(piece)
    return b"".join(pieces)


def _answer(endpoint: str, status: int, content: bytes) -> dict[str, Any]:
    """The response as a value; raises what an error means."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if status == 400 and content.startswith(COMMON_NAME):
            words = f"{endpoint} rejects our certificate, because its subject has a common name"
            hint = "create one with subject alternative names only, such as: openssl req -subj /O=evac"
            raise StoreError("store-common-name", words, hint) from error
        raise Unavailable(f"{endpoint} did not return JSON (HTTP {status})") from error
    if not isinstance(answer, dict):
        raise Unavailable(f"{endpoint} returned a response of the wrong type")
    failed = answer.get("error")
    if status == 200 and failed is None:
        return answer
    if isinstance(failed, dict):  # of a stream
        answer, failed = failed, failed.get("message")
    message = str(answer.get("message") or failed or f"HTTP {status}")[:300]
    code = answer.get("code", answer.get("grpc_code", 2))
    code = code if isinstance(code, int) else 2
    if any(words in message for words in NOT_PROPOSED):
        raise NotSent(f"{endpoint}: {message}")
    if "database space exceeded" in message:
        raise Full(f"{endpoint}: {message}")
    if "auth store is old" in message:
        code = GRPC_UNAUTHENTICATED
    if code in (1, 2, 4, 10, 13, GRPC_UNAVAILABLE, 15):
        raise Unavailable(f"{endpoint}: {message}")
    raise Refused(code, message)
