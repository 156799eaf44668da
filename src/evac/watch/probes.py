"""Probes: one question each to a real system, and what its answer says.

Every probe is `async () -> Seen`, bounded in time by the witness and in size here. A connection alone is
never an answer: a stopped process and a host with a dead disk still accept one. A proxy that answers for a
dead application (502, 503, 504) is not an answer of the application either.

An error of the network is raised as it is, for the witness knows which of them mean silence.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
import dns.asyncquery
import dns.message
import dns.rcode
import orjson

from evac.watch.values import EvidenceKind, Opinion, Seen

Ask = Callable[[], Awaitable[Seen]]

MAX_ANSWER_BYTES: Final = 65_536
PROXY_STATUS: Final = frozenset({502, 503, 504})


def probe_session() -> aiohttp.ClientSession:
    """A session for probes: a fresh connection for each, as a new user makes one; no cookies, no proxies.

    The caller closes it.
    """
    connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


Line = Callable[[str], ssl.SSLContext | None]
"""What an address is spoken to with; None: as this machine believes."""


def http(
    session: aiohttp.ClientSession,
    url: str,
    kind: EvidenceKind = "user",
    text: str = "",
    line: Line = lambda url: None,
) -> Ask:
    """A request as a user makes it. Any answer of the application counts, below 500 and with `text` in it."""

    async def ask() -> Seen:
        began = time.monotonic()
        status, body = await _fetch(session, url, line(url))
        if status >= 500:
            who = "a proxy" if status in PROXY_STATUS else "the application"
            return _seen(kind, "down", began, f"{url}: {who} answers {status}")
        if text and text.encode() not in body:
            return _seen(kind, "down", began, f"{url}: the answer lacks what it should say")
        return _seen(kind, "up", began)

    return ask


def agent(session: aiohttp.ClientSession, url: str, line: Line = lambda url: None) -> Ask:
    """The site's agent answers a request, with any status below 500. A certificate that is not believed, on
    either side, says nothing of its site.
    """
    return http(session, url, "agent", line=line)


def etcd_member(session: aiohttp.ClientSession, client_url: str) -> Ask:
    """The site's member of the store answers for itself.

    It asks the member alone (`serializable`): a member that waits for an election is alive, and a site must
    not look dead because another one burnt.
    """
    url = client_url.rstrip("/") + "/health?serializable=true"

    async def ask() -> Seen:
        began = time.monotonic()
        _, body = await _fetch(session, url)
        try:
            alive = "health" in orjson.loads(body)
        except (orjson.JSONDecodeError, TypeError):
            alive = False
        return _seen("member", "up" if alive else "down", began, "" if alive else f"{url}: no health in it")

    return ask


def database(answers: Callable[[], Awaitable[bool]], name: str) -> Ask:
    """A database answers a query. answers: asks it through whatever client its driver has; False or a
    network error is no answer.
    """

    async def ask() -> Seen:
        began = time.monotonic()
        answered = await answers()
        return _seen("data", "up" if answered else "down", began, "" if answered else f"{name}: no answer")

    return ask


def redis_ping(host: str, port: int) -> Ask:
    """PING in the raw protocol. A demand for a password or `LOADING` is an answer of the server as well."""

    async def ask() -> Seen:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER_BYTES)
        try:
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
        answered = line.startswith((b"+PONG", b"-NOAUTH", b"-LOADING", b"-BUSY", b"-MASTERDOWN"))
        detail = "" if answered else f"redis {host}:{port}: no PONG"
        return _seen("data", "up" if answered else "down", began, detail)

    return ask


def name_server(host: str, port: int, name: str, kind: EvidenceKind = "user") -> Ask:
    """An authoritative server answers for `name`. A refusal is an answer that its zone is not there."""

    async def ask() -> Seen:
        began = time.monotonic()
        query = dns.message.make_query(name, "SOA")
        answer = await dns.asyncquery.udp(query, host, port=port, ignore_unexpected=True, ignore_errors=True)
        code = answer.rcode()
        good = code in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        detail = "" if good else f"dns {host}: {dns.rcode.to_text(code)}"
        return _seen(kind, "up" if good else "down", began, detail)

    return ask


async def _fetch(
    session: aiohttp.ClientSession, url: str, line: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """Status and the first part of the body. Redirects are answers and are not followed."""
    try:
        async with session.get(url, allow_redirects=False, ssl=True if line is None else line) as response:
            return response.status, await response.content.read(MAX_ANSWER_BYTES)
    except aiohttp.ClientSSLError:
        raise  # an expired certificate is no loss of a site: the witness takes it as unknown
    except aiohttp.ClientConnectionError as error:
        if url.startswith("https:") and not isinstance(error, aiohttp.ClientConnectorError):
            # So hangs up who does not believe our certificate, and that is no loss of its site either.
            raise aiohttp.ServerDisconnectedError(f"{url}: the connection ended") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConnectionResetError(errno.ECONNRESET, f"{url}: the connection ended") from error
    except aiohttp.ClientPayloadError as error:
        raise ConnectionResetError(errno.ECONNRESET, f"{url}: the answer ended early") from error


def _seen(kind: EvidenceKind, opinion: Opinion, began: float, detail: str = "") -> Seen:
    return Seen(kind, opinion, int((time.monotonic() - began) * 1_000), detail)
