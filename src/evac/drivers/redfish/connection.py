"""One HTTP/1.1 connection to a management controller, for one request at a time: small, limited and strict.

Written for tens of thousands of controllers from one process. It trusts nothing: a response that is not plain
and of limited size, or comes too late, ends the connection. Independent of Redfish, users and queues.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from evac.net.http_calls import Answer

HEAD_BYTES_MOST: Final = 32_768
BODY_BYTES_MOST: Final = 262_144
SHUTDOWN_S: Final = 1.0


class NotConnected(Exception):
    """No connection: nothing was sent. late_s: how long after its deadline this was noticed."""

    def __init__(self, words: str, late_s: float = 0.0) -> None:
        super().__init__(words)
        self.late_s = late_s


class NotSpoken(NotConnected):
    """It accepts connections, but completes no TLS handshake in time."""


class NotTrusted(Exception):
    """It speaks TLS, but is not the pinned server."""


class Broken(Exception):
    """The request may have arrived; the response is missing or invalid."""


class TooLate(Broken):
    """No complete response in time. late_s: how long after its deadline this was noticed."""

    def __init__(self, words: str, late_s: float = 0.0) -> None:
        super().__init__(words)
        self.late_s = late_s


class Closed(Broken):
    """The other end closed. untouched: before any byte of a response."""

    def __init__(self, untouched: bool) -> None:
        super().__init__("it closed the connection")
        self.untouched = untouched


class Reading:
    """Parses one response as its bytes arrive. httptools handles HTTP; this adds limits, and refuses some of
    what HTTP allows: content codings, protocol upgrades, anything after the response.
    """

    __slots__ = ("_body", "_body_bytes", "_head", "_headers", "_parser", "_whole", "bytes_read", "stays_open")

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head = self._whole = False
        self.bytes_read = 0
        self.stays_open = False
        """Whether another request can follow the answer."""

    def feed(self, data: bytes) -> Answer | None:
        """The response, once complete. Raises `Broken`, and must not be called again after that."""
        if not self.bytes_read and not data.startswith(b"H"):
            raise Broken("it does not speak HTTP")
        try:
            if not self._head:
                head, data = (
                    data[: HEAD_BYTES_MOST - self.bytes_read],
                    data[HEAD_BYTES_MOST - self.bytes_read :],
                )
                self.bytes_read += len(head)
                self._parser.feed_data(head)
                if self.bytes_read >= HEAD_BYTES_MOST and not self._head:
                    raise Broken("its headers never end")
            if data:
                self.bytes_read += len(data)
                self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            ours = error.__context__
            raise ours if isinstance(ours, Broken) else Broken("it does not speak HTTP") from error
        if self._whole:
            return self._answer()
        if self.bytes_read > HEAD_BYTES_MOST + 2 * BODY_BYTES_MOST:  # chunks with almost no content
            raise _too_long()
        return None

    def end(self) -> Answer | None:
        """The response, if its body ends with the connection. Never raises."""
        open_ended = self._head and not {"content-length", "transfer-encoding"} & self._headers.keys()
        return self._answer() if open_ended else None

    def _answer(self) -> Answer:
        status = self._parser.get_status_code()
        del self._parser  # breaks a reference cycle for the garbage collector
        return Answer(status, self._headers, b"".join(self._body))

    def on_message_begin(self) -> None:
        if self._whole:
            raise Broken("it sent more than was requested")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head:  # after the last chunk
            return
        key, words = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if key == "transfer-encoding" and (key in self._headers or words.lower() != "chunked"):
            raise Broken("its length is not valid")
        self._headers[key] = words

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.0", "1.1") or not 100 <= status < 600 or status == 101:
            raise Broken("it does not speak HTTP")
        if status < 200:  # informational responses
            self._headers.clear()
            return
        if int(self._headers.get("content-length", "0")) > BODY_BYTES_MOST:
            raise _too_long()
        self._head = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MOST:
            raise _too_long()
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._whole = self._head
        self.stays_open = self._whole and self._parser.should_keep_alive()


def _too_long() -> Broken:
    return Broken(f"its answer is longer than {BODY_BYTES_MOST} bytes")


class Connection(asyncio.Protocol):
    """A connection made by `connect`."""

    __slots__ = (
        "_answer",
        "_gone",
        "_loop",
        "_reading",
        "_transport",
        "on_gone",
        "reused",
        "stays_open",
    )

    _reading: Reading

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._gone = False
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
        """The other end's certificate, as DER."""
        assert self._transport is not None
        found = self._transport.get_extra_info("ssl_object")
        return None if found is None else found.getpeercert(binary_form=True)

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """Send one complete request and wait for its response. Raises `Broken`."""
        assert self._transport is not None
        if self._gone:
            raise Closed(untouched=True)
        self._answer, self._reading = self._loop.create_future(), Reading()
        self.stays_open = False
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
            self.abort()  # unsolicited data
            return
        try:
            found = self._reading.feed(data)
        except Broken as error:
            self._fail(error)
            return
        if found is not None:
            self.stays_open = self._reading.stays_open
            self._answer.set_result(found)

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._ended()
        self.on_gone(self)

    def _ended(self) -> None:
        if self._answer is None or self._answer.done():
            return
        found = self._reading.end()
        if found is None:
            self._fail(Closed(untouched=not self._reading.bytes_read))
        else:
            self._answer.set_result(found)

    def _late(self, deadline: float) -> None:
        self._fail(
            TooLate("it accepts connections but does not answer in time", self._loop.time() - deadline)
        )

    def _fail(self, error: Broken) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()


async def connect(
    host: str, port: int, trust: ssl.SSLContext | None, name: str, connect_s: float, speak_s: float
) -> Connection:
    """A connection, encrypted if `trust` is given. Raises `NotConnected`, `NotTrusted`."""
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
        raise NotTrusted(f"its certificate is not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotTrusted("its TLS handshake was not understood") from error
    except (OSError, TimeoutError) as error:
        link.close()
        late = loop.time() - began - speak_s
        if late >= 0:
            raise NotSpoken("the TLS handshake did not finish in time", late) from error
        raise NotConnected("it closed the connection") from error
    except BaseException:
        link.close()
        raise


async def _plain(loop: asyncio.AbstractEventLoop, host: str, port: int, connect_s: float) -> Connection:
    """Without a socket object of our own: half the work, which matters for tens of thousands."""
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
