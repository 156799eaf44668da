"""Bounded HTTP: single calls with a deadline and a size limit, and requests like those of a new user.

No redirects, no proxies. `Caller` does not judge responses. `Prober` raises network errors unchanged, because
the witness knows which of them mean silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from evac.model.errors import Permanent
from evac.model.records import dataclass
from evac.net.tls import TlsTrouble, trouble_of

if TYPE_CHECKING:  # it takes a fifth of a second to load: a command that calls nobody does without
    import aiohttp

PROBE_MOST_BYTES: Final = 65_536
PROXY_STATUS: Final = frozenset({502, 503, 504})


class Prober:
    """A fresh connection for each request; no cookies, no proxies, no redirects."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, url: str, line: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        """Status and the first part of the body. line: for https; None: this machine's trust."""
        import aiohttp

        try:
            async with (
                _session_for(url, self._opened, limit=0, dns_cache=False) as session,
                session.get(url, allow_redirects=False, ssl=True if line is None else line) as response,
            ):
                return response.status, await response.content.read(PROBE_MOST_BYTES)
        except aiohttp.ClientSSLError:
            raise  # an expired certificate is not a loss of a site: the witness takes it as unknown
        except aiohttp.ClientConnectionError as error:
            if url.startswith("https:") and not isinstance(error, aiohttp.ClientConnectorError):
                # A peer that does not trust our certificate hangs up like this: also no loss of its site.
                raise aiohttp.ServerDisconnectedError(f"{url}: the connection ended") from error
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ConnectionResetError(errno.ECONNRESET, f"{url}: the connection ended") from error
        except aiohttp.ClientPayloadError as error:
            raise ConnectionResetError(errno.ECONNRESET, f"{url}: the response ended early") from error

    async def problem(self, url: str, line: ssl.SSLContext | None = None) -> str:
        """Why a response does not show that the application works; empty if it does. A proxy that answers for
        a dead application (502, 503, 504) shows nothing about it.
        """
        status, _ = await self.get(url, line)
        if status < 500:
            return ""
        return f"{url}: {'a proxy' if status in PROXY_STATUS else 'the application'} answers {status}"

    async def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._session = open_session(limit=0, force_close=True, dns_cache=False)
            self._loop = loop
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


MAX_ANSWER_BYTES: Final = 262_144
MAX_WAIT_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. `headers`: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def values(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def after_ms(self, now_s: float) -> int:
        """Of `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); 0 if there is none."""
        return retry_after_ms(self.headers.get("retry-after", ""), now_s)


def retry_after_ms(stated: str, now_s: float) -> int:
    """The delay that `Retry-After` requests, in seconds or as a date; 0 if none."""
    words = stated.strip()
    if words.isascii() and words.isdigit():
        return min(int(words[:9]) * 1_000, MAX_WAIT_MS)
    try:
        at_s = email.utils.parsedate_to_datetime(words).timestamp()
    except (ValueError, OverflowError):
        return 0
    return max(0, min(int((at_s - now_s) * 1_000), MAX_WAIT_MS))


class NotReached(Exception):
    """No connection: the request was not sent. `trouble`: if TLS is the reason."""

    def __init__(self, words: str, trouble: TlsTrouble | None = None) -> None:
        super().__init__(words)
        self.trouble = trouble


class NotAnswered(Exception):
    """The request may have arrived; no complete response came in time. trouble: the TLS problem, if there is
    one.
    """

    def __init__(self, words: str, trouble: TlsTrouble | None = None) -> None:
        super().__init__(words)
        self.trouble = trouble


def open_session(
    *,
    limit: int = 64,
    per_host: int = 0,
    force_close: bool = False,
    dns_cache: bool = True,
    line: ssl.SSLContext | None = None,
    connect_s: float | None = None,
    total_s: float | None = None,
    **more: Any,
) -> aiohttp.ClientSession:
    """A session without cookies and without proxies from the environment. limit, per_host: concurrent
    connections, 0: unlimited. line: for https; None: this machine's trust. more: passed to
    `aiohttp.ClientSession`.
    """
    import aiohttp

    connector = aiohttp.TCPConnector(
        limit=limit,
        limit_per_host=per_host,
        force_close=force_close,
        use_dns_cache=dns_cache,
        ssl=True if line is None else line,
    )
    timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s)
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=jar, trust_env=False, **more
    )


@contextlib.asynccontextmanager
async def _session_for(
    url: str, shared: Callable[[], Awaitable[aiohttp.ClientSession]], **more: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """The shared session. A TLS connection gets its own session, which closes it at once: left to a shared
    session, it would send its close message after the event loop has ended. more: of `open_session`.
    """
    if not url.startswith("https:"):
        yield await shared()
        return
    async with open_session(**more) as session:
        yield session


class Caller:
    """Makes HTTP calls, each on its own connection: a kept one may already be dead, and then it is unknown
    whether the request arrived.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        line: ssl.SSLContext | None = None,
    ) -> Answer:
        """line: for https; None: this machine's trust. Raises `NotReached` or `NotAnswered`, and `Permanent`
        for an invalid URL.
        """
        import aiohttp

        check_url(url)
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                return await self._call(method, url, body, headers or {}, line)
        except aiohttp.ClientConnectorError as error:
            trouble = trouble_of(error)
            words = f": {trouble.words}" if trouble else " cannot be reached"
            raise NotReached(_shown(url) + words, trouble) from error
        except TimeoutError as error:
            raise NotAnswered(f"{_shown(url)} did not answer within {timeout_s:.1f} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            trouble = trouble_of(error)
            words = trouble.words if trouble else type(error).__name__
            raise NotAnswered(f"{_shown(url)} broke the connection: {words}", trouble) from error

    async def _call(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], line: ssl.SSLContext | None
    ) -> Answer:
        async with (
            _session_for(url, self._opened, per_host=16) as session,
            session.request(
                method,
                url,
                data=body or None,
                headers=headers,
                allow_redirects=False,
                ssl=True if line is None else line,
            ) as response,
        ):
            parts = bytearray()
            async for part in response.content.iter_chunked(65_536):
                parts += part
                if len(parts) > MAX_ANSWER_BYTES:
                    raise NotAnswered(f"{_shown(url)} returned more than {MAX_ANSWER_BYTES} bytes")
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, bytes(parts))

    async def _opened(self) -> aiohttp.ClientSession:
        """A session of the running loop; one of an ended loop cannot be used any more."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            await self.close()
            self._session = open_session(per_host=16, force_close=True)
            self._loop = loop
        return self._session

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def check_url(url: str) -> None:
    """Raises `Permanent` unless it is an absolute http or https URL without a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
        parts = urlsplit("")
    if not good:
        raise Permanent("setting-wrong", "a URL must start with http:// or https:// and contain a host")
    if parts.username or parts.password:
        raise Permanent(
            "setting-wrong", "a URL must not contain a password", "give the password by reference"
        )


def _shown(url: str) -> str:
    """A URL without its query, which may contain secrets."""
    return url.partition("?")[0]
