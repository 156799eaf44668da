"""Calls to the API of a war room: limited in time and size, with distinct errors, retried if safe.

A read is repeated if the connection broke or the room was not ready. A change has an idempotency key, so
repeating it is safe. Redirects are not followed: a token is sent only to the named server, and unencrypted
only to this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets as randomness
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp
import orjson

from evac import __version__
from evac.model.errors import EvacError, InvalidInput, NotAllowed, OutcomeUnknown, error_of
from evac.model.records import dataclass
from evac.net.http_calls import open_session
from evac.net.secrets import Secret
from evac.net.tls import TlsFiles, TlsTrouble, check_encrypted, client_context, trouble_of, why_cut

TRIES: Final = 3
UNREACHABLE: Final = "server-unreachable"
NO_ROOM: Final = (UNREACHABLE, "tls-", "server-answer", "server-redirect", "server-problem", "internal")
"""Codes, or their prefixes, of errors that say nothing about the outcome of an earlier try."""
PAUSE_S: Final = 0.5
WAIT_MOST_S: Final = 20.0
"""Maximum wait for a server that says when to retry."""
ANSWER_MOST: Final = 64 << 20
PROBLEM_MOST: Final = 65_536
WORDS_MOST: Final = 600
AGAIN: Final = "try again, or check the log of the server"
PROBLEM: Final = "application/problem+json"
HINTS: Final = {
    "run-unknown": "evac run list",
    "not-found": "evac --help",
    "incident-unknown": "evac incident list",
    "plan-unknown": "create one with evac plan, and apply its file",
    "what-if-domains": "name 1 to 64 fault domains",
    "not-authenticated": "set EVAC_TOKEN, or --token-file FILE",
    "cursor-unknown": "ask again",
    "request-invalid": "evac COMMAND --help",
    "host-unknown": "use a server name that its certificate contains",
    "tls-authority": "give its CA: --ca FILE",
    "tls-client-missing": "add --client-cert FILE --client-key FILE",
    "tls-client-refused": "use one that the server trusts: --client-cert FILE --client-key FILE",
    "tls-plain": "use http:// if the server does not use TLS",
}
"""Commands to type next, where the server's own hint is for programs."""


@dataclass(frozen=True, slots=True)
class Server:
    """A war room. token: None: send none. ca: trusted instead of this machine's authorities; cert, key:
    client certificate. timeout_s: for one response.
    """

    url: str
    token: Secret | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0
    connect_s: float = 5.0


class Cut(EvacError):
    """The connection broke: the request may have arrived."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete successful response. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """The body as a JSON object. Raises EvacError for anything else."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise strange("the response is not JSON") from error
        if not isinstance(found, dict):
            raise strange("the response is not an object")
        return found


def strange(words: str) -> EvacError:
    return EvacError(
        "server-answer",
        f"the server does not respond like a war room: {words}",
        "check --server, and use the same version of evac here as on the server",
    )


class ServerCalls:
    """Makes calls; must be closed. pause: waits, for tests."""

    def __init__(
        self,
        server: Server,
        pause: Callable[[float], Any] = asyncio.sleep,
        new_key: Callable[[], str] = lambda: randomness.token_hex(16),
    ) -> None:
        self.server, self._pause, self.new_key = server, pause, new_key
        self._base = checked_url(server)
        files = TlsFiles(server.ca, server.cert, server.key)
        self._context = client_context(files) if self._base.startswith("https:") else None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        return await self._again(lambda: self.once("GET", path, params=params))

    async def change(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        key: str = "",
        params: Mapping[str, Any] | None = None,
        timeout_s: float = 0.0,
        media: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a change. key: the same for all tries; without one the call must be safe to repeat, such as a
        query with a body, and a lost response leaves nothing in doubt. Raises OutcomeUnknown if something
        with a key may have been done and the server can no longer say so.
        """
        sent = {**(headers or {}), **({"Idempotency-Key": key} if key else {}), "Content-Type": media}
        try:
            return await self._again(
                lambda: self.once(method, path, params=params, body=body, headers=sent, timeout_s=timeout_s),
                lasting=bool(key),
            )
        except Cut as error:
            if not key:
                error.hint = "try again: nothing is done twice"
                raise
            raise OutcomeUnknown(
                "server-no-answer",
                f"{error.message}; the request may have been executed",
                f"check first: {_where_to_look(path)}",
            ) from error

    async def _again(self, call: Callable[[], Any], lasting: bool = False) -> Reply:
        """Retry. lasting: after a broken connection the change may have been done; a later try that reaches
        no room says nothing about it, so the break is raised.
        """
        cut: Cut | None = None
        for left in range(TRIES - 1, -1, -1):
            pause_s = PAUSE_S * (TRIES - left) * random.uniform(0.8, 1.2)
            try:
                reply: Reply = await call()
                return reply
            except Cut as error:
                cut = cut or error
                if not left:
                    raise (cut if lasting else error) from error
            except Later as later:
                if not left or later.after_s > WAIT_MOST_S:
                    raise (cut if lasting and cut is not None else later.error) from later
                pause_s = max(PAUSE_S, later.after_s)
            except EvacError as error:
                if cut is None or not error.code.startswith(NO_ROOM):
                    raise
                if not left or error.code != UNREACHABLE:
                    raise (cut if lasting else error) from error
            await self._pause(pause_s)
        raise AssertionError("unreachable")

    async def once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 0.0,
    ) -> Reply:
        """Make one call. Raises Cut, Later, EvacError."""
        whole_s = timeout_s or self.server.timeout_s
        try:
            async with (
                asyncio.timeout(whole_s),
                self.asked(method, path, params, body, headers or {}) as response,
            ):
                return Reply(
                    response.status,
                    {name.lower(): value for name, value in response.headers.items()},
                    await _whole(response, ANSWER_MOST),
                )
        except TimeoutError as error:
            raise Cut(
                "server-timeout", f"{self._base} did not answer within {whole_s:g} s", "try again"
            ) from error

    @contextlib.asynccontextmanager
    async def asked(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: bytes,
        headers: Mapping[str, str],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response whose body is unread; the caller sets its time limit. Raises Cut,
        EvacError.
        """
        session = self._opened()
        token = self.server.token
        proof = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
        sent = {"Accept": "application/json", **proof, **headers}
        plain = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in (params or {}).items()
        }
        try:
            async with session.request(
                method,
                self._base + path,
                params=plain,
                data=body or None,
                headers=sent,
                allow_redirects=False,
            ) as response:
                await self._check(response)
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise
            raise await self._failed(error) from error

    async def _failed(self, error: Exception) -> EvacError:
        """The error for a failed connection: Cut if the request may have arrived."""
        trouble = trouble_of(error)
        if trouble is not None:
            return _tls(self._base, trouble)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return EvacError(
                UNREACHABLE,
                f"{self._base} cannot be reached",
                "check that it is running and listens on this address: evac serve --listen",
            )
        if self._context is not None and isinstance(error, aiohttp.ClientConnectionError):
            parts = urlsplit(self._base)
            trouble = await why_cut(
                parts.hostname or "", parts.port or 443, self._context, self.server.cert is not None
            )
            if trouble is not None:
                return _tls(self._base, trouble)
        return Cut(
            "server-broke-off", f"{self._base} broke the connection: {type(error).__name__}", "try again"
        )

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise EvacError for an unsuccessful response."""
        status = response.status
        if 200 <= status < 300:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise strange("it is compressed, which was not requested")
            return
        if 300 <= status < 400:
            raise EvacError(
                "server-redirect",
                f"{self._base} redirects elsewhere ({status}), which evac does not follow",
                "give the server itself with --server",
            )
        error = await self._problem(response)
        if status in (429, 503):
            text = response.headers.get("Retry-After", "")
            seconds = float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 5.0
            raise Later(error, seconds)
        raise error

    async def _problem(self, response: aiohttp.ClientResponse) -> EvacError:
        status = response.status
        if response.content_type != PROBLEM:
            if status == 401:
                return NotAllowed(
                    "not-authenticated", f"{self._base} requires you to sign in", HINTS["not-authenticated"]
                )
            return strange(f"it returned status {status}")
        told = Reply(status, {}, await _whole(response, PROBLEM_MOST)).document()
        code, words = shown(told.get("code", "")) or "server-problem", shown(told.get("detail", ""))
        # Hints of the API name its paths; here they name the command to type next.
        hint = HINTS.get(code, shown(told.get("hint", "")))
        if code == "run-over":
            hint = _where_to_look(response.url.raw_path)
        if code in ("not-found", "method") and told.get("route") != "known":
            return EvacError(
                "server-version",
                f"{self._base} does not know this request; it may be a different version from {__version__}",
                "use the same evac version as the server",
            )
        if status == 429:
            hint = f"try again in {response.headers.get('Retry-After', 'a few')} s"
        return error_of(
            str(told.get("kind", "")), status, code, words or f"it returned status {status}", hint or AGAIN
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(
                limit=8,
                line=self._context,
                connect_s=self.server.connect_s,
                auto_decompress=False,
                headers={"User-Agent": f"evac/{__version__}", "Accept-Encoding": "identity"},
                max_line_size=16_384,
                max_field_size=16_384,
            )
        return self._session


class Later(Exception):
    """The server asks to retry."""

    def __init__(self, error: EvacError, after_s: float) -> None:
        super().__init__(error.message)
        self.error, self.after_s = error, after_s


def checked_url(server: Server) -> str:
    """The address without its trailing slash. Raises InvalidInput, also if others could read the token."""
    try:
        parts = urlsplit(server.url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        # Without any password or token.
        bare = shown(server.url.rpartition("@")[2].partition("?")[0])[:80]
        raise InvalidInput(
            "server-url",
            f"'{bare}' is not the address of a server",
            "use a value like https://evac.example:8400; tokens go into EVAC_TOKEN or --token-file",
        )
    if parts.scheme == "http":
        if server.token is not None or server.cert is not None:
            check_encrypted(server.url)
        if server.cert is not None or server.ca is not None:
            raise InvalidInput("server-plain", "certificates can only be used with https://", "use https://")
    return server.url.rstrip("/")


def _tls(base: str, trouble: TlsTrouble) -> EvacError:
    """A refused client certificate becomes NotAllowed; other TLS errors keep their reason."""
    kind = NotAllowed if trouble.code.startswith("tls-client") else EvacError
    return kind(trouble.code, f"{base}: {shown(trouble.words)}", HINTS.get(trouble.code, trouble.hint))


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts = bytearray()
    async for part in response.content.iter_chunked(65_536):
        parts += part
        if len(parts) > most:
            raise EvacError(
                "server-answer-large",
                f"a response larger than {most:,} bytes was not read",
                "check --server: a war room does not send that much",
            )
    return bytes(parts)


def _where_to_look(path: str) -> str:
    """The command that shows whether a change was done."""
    parts = path.removeprefix("/v1/").split("/")
    name = shown(unquote(parts[1])) if len(parts) > 1 else ""
    if parts[0] == "hold":
        return "evac status"
    if parts[0] == "incidents":
        return f"evac incident timeline {name} --all"
    return f"evac run show {name}" if name else "evac run list"


def shown(words: object) -> str:
    """Text of a server, safe to print: no control characters, limited length."""
    text = "".join(one if one.isprintable() else " " for one in str(words)[:WORDS_MOST])
    return " ".join(text.split())
