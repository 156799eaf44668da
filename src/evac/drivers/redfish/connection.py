"""One HTTP/1.1 connection to a management controller, for one request at a time: thin, bounded, and strict.

Written for tens of thousands of controllers from one process. It believes nothing: what is no plain answer
of bounded size, or comes too late, ends the connection. Knows nothing of Redfish, users or turns.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from evac.net.http_calls import Answer

HEAD_BYTES_MOST: Final = 32_768
HEADERS_MOST: Final = 100
BODY_BYTES_MOST: Final = 262_144
SHUTDOWN_S: Final = 1.0
_CHUNK_LINE_MOST: Final = 1_024
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")


class NotConnected(Exception):
    """No connection: nothing was sent. late_s: how much later than its deadline this was noticed."""

    def __init__(self, words: str, late_s: float = 0.0) -> None:
        super().__init__(words)
        self.late_s = late_s


class NotSpoken(NotConnected):
    """It takes connections, and no TLS comes about in time."""


class NotTrusted(Exception):
    """It speaks TLS, and is not the one that is known."""


class Broken(Exception):
    """The request may have arrived; the answer is none, or none that can be understood."""


class TooLate(Broken):
    """No whole answer in time. late_s: how much later than its deadline this was noticed."""

    def __init__(self, words: str, late_s: float = 0.0) -> None:
        super().__init__(words)
        self.late_s = late_s


class Closed(Broken):
    """The other end closed. untouched: not a byte of an answer had come."""

    def __init__(self, untouched: bool) -> None:
        super().__init__("it closed the connection")
        self.untouched = untouched


@dataclass(slots=True)
class _Head:
    """length: of the body; -1 in chunks, -2 until the end of the connection."""

    status: int
    headers: Mapping[str, str]
    length: int
    stays_open: bool


class Connection(asyncio.Protocol):
    """A connection that was made by `connect`."""

    __slots__ = (
        "_answer",
        "_buffer",
        "_gone",
        "_head",
        "_loop",
        "_touched",
        "_transport",
        "on_gone",
        "reused",
        "stays_open",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._gone = self._touched = False
        self.stays_open = self.reused = False
        self.on_gone: Callable[[Connection], None] = lambda connection: None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        transport = self._transport
        return self.stays_open and not self._gone and transport is not None and not transport.is_closing()

    @property
    def is_there(self) -> bool:
        return not self._gone

    def certificate(self) -> bytes | None:
        """Of the other end, as DER."""
        assert self._transport is not None
        found = self._transport.get_extra_info("ssl_object")
        return None if found is None else found.getpeercert(binary_form=True)

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """Sends one request whole and waits for its answer. Raises `Broken`."""
        assert self._transport is not None
        if self._gone:
            raise Closed(untouched=True)
        self._answer, self._head = self._loop.create_future(), None
        self._touched = self.stays_open = False
        self._buffer.clear()
        deadline = self._loop.call_later(timeout_s, self._late, self._loop.time() + timeout_s)
        try:
            self._transport.write(request)
            return await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            deadline.cancel()
            self._answer = None

    def abort(self) -> None:
        self.stays_open = False
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self.stays_open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # nobody asked for anything
            return
        self._touched = True
        self._buffer += data
        try:
            found = self._parsed(ended=False)
        except Broken as error:
            self._fail(error)
            return
        if found is not None:
            self._answer.set_result(found)

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._ended()
        self.on_gone(self)

    def _ended(self) -> None:
        """Only a body without a length may end like this."""
        if self._answer is None or self._answer.done():
            return
        try:
            found = self._parsed(ended=True)
        except Broken as error:
            self._fail(error)
            return
        if found is None:
            self._fail(Closed(untouched=not self._touched))
        else:
            self._answer.set_result(found)

    def _late(self, deadline: float) -> None:
        self._fail(TooLate("it takes connections and does not answer in time", self._loop.time() - deadline))

    def _fail(self, error: Broken) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()

    def _parsed(self, ended: bool) -> Answer | None:
        """The answer, once it is whole."""
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_BYTES_MOST:
                    raise Broken("its headers never end")
                return None
            head = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if head.status >= 200:  # those below only announce the answer
                self._head = head
        head = self._head
        body = _body(self._buffer, head, ended)
        if body is None:
            return None
        self.stays_open = head.stays_open and head.length != -2 and not ended
        return Answer(head.status, head.headers, body)


def parse_head(data: bytes) -> _Head:
    """Status line and headers. Raises `Broken`."""
    if len(data) > HEAD_BYTES_MOST:
        raise Broken("its headers are too long")
    first, *lines = data.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or len(lines) > HEADERS_MOST:
        raise Broken("it does not speak HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise Broken("a header cannot be understood")
        key, words = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if key in headers and key in ("content-length", "transfer-encoding") and headers[key] != words:
            raise Broken("it tells two lengths")
        headers[key] = words
    code = int(status[2])
    stays = status[1] == b"1" and headers.get("connection", "").lower() != "close"
    return _Head(code, headers, _length(code, headers), stays)


def _length(status: int, headers: Mapping[str, str]) -> int:
    coding, told = headers.get("transfer-encoding", ""), headers.get("content-length")
    if status in (204, 304):
        return 0
    if coding:
        if coding.lower() != "chunked" or told is not None:
            raise Broken("its length cannot be understood")
        return -1
    if told is None:
        return -2
    if not (told.isascii() and told.isdigit() and len(told) < 10):
        raise Broken("its length cannot be understood")
    if int(told) > BODY_BYTES_MOST:
        raise Broken(f"its answer is longer than {BODY_BYTES_MOST} bytes")
    return int(told)


def _body(buffer: bytearray, head: _Head, ended: bool) -> bytes | None:
    """None while it is not whole."""
    if head.length == -1:
        return _unchunked(buffer)
    if head.length == -2:
        if len(buffer) > BODY_BYTES_MOST:
            raise Broken(f"its answer is longer than {BODY_BYTES_MOST} bytes")
        return bytes(buffer) if ended else None
    if len(buffer) > head.length:
        raise Broken("it says more than it was asked")
    return bytes(buffer) if len(buffer) == head.length else None


def _unchunked(buffer: bytearray) -> bytes | None:
    if len(buffer) > 2 * BODY_BYTES_MOST:
        raise Broken(f"its answer is longer than {BODY_BYTES_MOST} bytes")
    parts: list[bytes] = []
    at = total = 0
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            if len(buffer) - at > _CHUNK_LINE_MOST:
                raise Broken("a chunk cannot be understood")
            return None
        size = _SIZE.fullmatch(bytes(buffer[at:end]).partition(b";")[0].strip())
        if size is None:
            raise Broken("a chunk cannot be understood")
        length = int(size[0], 16)
        total += length
        if total > BODY_BYTES_MOST:
            raise Broken(f"its answer is longer than {BODY_BYTES_MOST} bytes")
        at = end + 2
        if not length:
            return b"".join(parts) if buffer.find(b"\r\n", at) >= 0 else None
        if len(buffer) < at + length + 2:
            return None
        parts.append(bytes(buffer[at : at + length]))
        at += length + 2


async def connect(
    host: str, port: int, trust: ssl.SSLContext | None, name: str, connect_s: float, speak_s: float
) -> Connection:
    """A connection, encrypted where `trust` is given. Raises `NotConnected`, `NotTrusted`."""
    loop = asyncio.get_running_loop()
    if trust is None and is_ipv4(host):
        return await _plain(loop, host, port, connect_s)
    link = await _reached(loop, host, port, connect_s)
    began = loop.time()
    try:
        if trust is None:
            _, made = await loop.create_connection(lambda: Connection(loop), sock=link)
            return made
        _, made = await loop.create_connection(
            lambda: Connection(loop),
            sock=link,
            ssl=trust,
            server_hostname=name or host,
            ssl_handshake_timeout=speak_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        return made
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(f"its certificate is not believed: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotTrusted("it speaks no TLS that can be understood") from error
    except (OSError, TimeoutError) as error:
        link.close()
        late = loop.time() - began - speak_s
        if late >= 0:
            raise NotSpoken("no TLS came about in time", late) from error
        raise NotConnected("it closed the connection") from error
    except BaseException:
        link.close()
        raise


async def _plain(loop: asyncio.AbstractEventLoop, host: str, port: int, connect_s: float) -> Connection:
    """Without a socket object of our own: half the work, which counts for tens of thousands."""
    began = loop.time()
    try:
        async with asyncio.timeout(connect_s):
            _, made = await loop.create_connection(lambda: Connection(loop), host, port)
        return made
    except (OSError, TimeoutError) as error:
        raise _unreached(error, loop.time() - began - connect_s) from error


async def _reached(loop: asyncio.AbstractEventLoop, host: str, port: int, connect_s: float) -> socket.socket:
    began = loop.time()
    link: socket.socket | None = None
    try:
        async with asyncio.timeout(connect_s):
            family, address = await _resolved(loop, host, port)
            link = socket.socket(family, socket.SOCK_STREAM)
            link.setblocking(False)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(link, address)
            return link
    except (OSError, TimeoutError) as error:
        if link is not None:
            link.close()
        raise _unreached(error, loop.time() - began - connect_s) from error
    except BaseException:
        if link is not None:
            link.close()
        raise


def _unreached(error: OSError | TimeoutError, late_s: float) -> NotConnected:
    return NotConnected("it cannot be reached", late_s if isinstance(error, TimeoutError) else 0.0)


def is_ipv4(host: str) -> bool:
    return host.replace(".", "").isdigit()


async def _resolved(
    loop: asyncio.AbstractEventLoop, host: str, port: int
) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    if is_ipv4(host):
        return socket.AF_INET, (host, port)
    if ":" in host:
        return socket.AF_INET6, (host, port, 0, 0)
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    return family, cast("tuple[str, int]", address)
