"""Requests as a new user makes them: for probes, which ask whether a system is alive.

An error of the network is raised as it is, for the witness knows which of them mean silence.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import Final

import aiohttp

MAX_ANSWER_BYTES: Final = 65_536
PROXY_STATUS: Final = frozenset({502, 503, 504})


class Prober:
    """A fresh connection for each request; no cookies, no proxies, no redirects."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, url: str, line: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        """Status and the first part of the body. line: of https, None: as this machine believes."""
        try:
            async with self._opened().get(
                url, allow_redirects=False, ssl=True if line is None else line
            ) as response:
                return response.status, await response.content.read(MAX_ANSWER_BYTES)
        except aiohttp.ClientSSLError:
            raise  # an expired certificate is no loss of a site: the witness takes it as unknown
        except aiohttp.ClientConnectionError as error:
            if url.startswith("https:") and not isinstance(error, aiohttp.ClientConnectorError):
                # A peer that does not believe our certificate hangs up like this: no loss of its site either.
                raise aiohttp.ServerDisconnectedError(f"{url}: the connection ended") from error
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ConnectionResetError(errno.ECONNRESET, f"{url}: the connection ended") from error
        except aiohttp.ClientPayloadError as error:
            raise ConnectionResetError(errno.ECONNRESET, f"{url}: the answer ended early") from error

    async def problem(self, url: str, line: ssl.SSLContext | None = None) -> str:
        """Why an answer does not show that the application lives; empty if it does. A proxy that answers for
        a dead application (502, 503, 504) shows nothing of it.
        """
        status, _ = await self.get(url, line)
        if status < 500:
            return ""
        return f"{url}: {'a proxy' if status in PROXY_STATUS else 'the application'} answers {status}"

    def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
            self._loop = loop
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
