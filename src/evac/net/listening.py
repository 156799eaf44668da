"""Limits on the connections of an agent or a war room, so that no client that can reach its port can block a
fence, or keep operators out.

A connection is *half-open* until its client has authenticated: at an agent by an order signed with the site's
key, because every agent of a company may have a client certificate; in a war room by a request under a login
or a token. The number of connections is bounded; when another arrives, the oldest half-open one of the
address with the most is closed. At an agent, the head of a request must arrive within `HEAD_S` seconds of the
connection, TLS handshake included; a body within `BODY_S` (`evac.agent.service`).

`Reserve` holds file descriptors back for fences. While they are lent to a fence, no connection is accepted,
so a descriptor leak anywhere in the agent cannot starve a fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from evac.model.records import dataclass

MOST: Final = 256
"""Connections at once. Controllers and witnesses of a hundred sites keep one each."""
LEAST: Final = 8
HEAD_S: Final = 10.0
BACKLOG: Final = 1_024
PAUSE_S: Final = 0.05
CLOSE_S: Final = 1.0
UNREAD_S: Final = 10.0
RESERVED: Final = 32
"""Descriptors for fences: pipes of a program, an event loop, a driver's socket, files in /proc."""
SPARE: Final = 48
"""Descriptors for the rest of the agent: its files, check programs, driver clients."""

_log = logging.getLogger("evac.agent")


def descriptors_open() -> int:
    """Number of descriptors that this process has open; 0 if unknown."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return 0


def connections_most(most: int = MOST) -> int:
    """`most`, or fewer if the descriptor limit would leave too few for a fence. Raises that limit as far as
    allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return max(LEAST, min(most, soft - descriptors_open() - RESERVED - SPARE))


class Unread(logging.Filter):
    """Log filter for an HTTP server: anything that is not a request becomes one line, at most one in
    `UNREAD_S`, so that no client can fill a disk. Our own errors are logged in full.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s, self._said_s, self._count = now_s, -UNREAD_S, 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            return True
        self._count += 1
        if self._now_s() - self._said_s < UNREAD_S:
            return False
        number, self._count, self._said_s = self._count, 0, self._now_s()
        record.exc_info, record.exc_text, record.levelno, record.levelname = None, None, 30, "WARNING"
        record.msg, record.args = (
            "%d connections sent something that is not a valid request; last: %.80r",
            (number, str(error)),
        )
        return True


class Reserve:
    """Descriptors held back. Thread-safe."""

    def __init__(self, count: int = RESERVED) -> None:
        self._count = count
        self._guard = threading.Lock()
        self._held: list[int] = []
        self._users = 0
        self._fill()

    def is_lent(self) -> bool:
        """Whether a fence is using them."""
        return self._users > 0

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Release all of them for use until the last borrower is done."""
        with self._guard:
            self._users += 1
            self._empty()
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                if not self._users:
                    self._fill()

    def close(self) -> None:
        with self._guard:
            self._empty()

    def _fill(self) -> None:
        """Top up the reserve with as many descriptors as can be opened."""
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    def _empty(self) -> None:
        while self._held:
            os.close(self._held.pop())


@dataclass(slots=True, eq=False)
class _Connection:
    """One connection, from the moment it was accepted."""

    address: str
    plain: socket.socket
    opening: asyncio.Task[Any] | None = None
    """Runs until the handshake is complete."""
    line: asyncio.Transport | None = None
    """What the application writes to, once open."""
    head: asyncio.TimerHandle | None = None
    """Closes the connection unless a request arrives first."""
    proven: bool = False

    def end(self) -> None:
        if self.head is not None:
            self.head.cancel()
        if self.line is not None:
            self.line.abort()
        else:
            # Not cancelled: a transport abandoned before its first event keeps its socket for a long time.
            with contextlib.suppress(OSError):
                self.plain.shutdown(socket.SHUT_RDWR)


class _Watched(asyncio.Protocol):
    """Forwards to an aiohttp protocol and reports when its connection opens and closes."""

    def __init__(self, inner: asyncio.Protocol, connection: _Connection, over: Callable[[_Connection], None]):
        self._inner, self._connection, self._over = inner, connection, over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.line = cast("asyncio.Transport", transport)  # no subclass of it in uvloop
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(self._connection)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class Listener:
    """Accepts connections for one `web.Server`, all in one event loop."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        reserve: Reserve,
        most: int,
        head_s: float = HEAD_S,
        near: Callable[[str], str] = str,
    ) -> None:
        """near: what addresses are counted by."""
        self._make, self._context, self._reserve = make, context, reserve
        self._most, self._head_s, self._near = most, head_s, near
        self._sockets: list[socket.socket] = []
        self._handshakes: set[asyncio.Task[Any]] = set()
        self._connections: dict[_Connection, None] = {}
        self._half: dict[str, dict[_Connection, None]] = {}
        """Half-open ones by address, oldest first."""

    async def start(self, host: str, port: int) -> None:
        """Listen at every address of the host. Raises `OSError` if the port is in use."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            self.take(socket.create_server(address, family=family, backlog=BACKLOG))

    def take(self, listening: socket.socket) -> None:
        """Accept at a socket that listens already."""
        listening.setblocking(False)
        self._sockets.append(listening)
        self._listen(listening)

    def stop(self) -> None:
        """Stop accepting."""
        sockets, self._sockets = self._sockets, []
        for listening in sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    async def close(self) -> None:
        """Stop accepting and close half-open connections; the server closes the others."""
        self.stop()
        for one in list(self._connections):
            if not one.proven:
                one.end()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=CLOSE_S)
        await asyncio.sleep(0)  # closed connections release their descriptors in the loop's next turn

    def asked(self, line: asyncio.BaseTransport | None) -> None:
        """Record that a whole request head arrived on this connection."""
        one = self._of(line)
        if one is not None and one.head is not None:
            one.head.cancel()
            one.head = None

    def proven(self, line: asyncio.BaseTransport | None) -> None:
        """Record that the client on this connection has authenticated."""
        one = self._of(line)
        if one is not None:
            one.proven = True
            self._counted_no_more(one)

    def report(self) -> dict[str, int]:
        half = sum(map(len, self._half.values()))
        return {"open": len(self._connections), "half_open": half, "most": self._most}

    def _of(self, line: asyncio.BaseTransport | None) -> _Connection | None:
        return next((one for one in self._connections if one.line is line), None) if line else None

    def _listen(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _rest(self, listening: socket.socket) -> None:
        """Pause accepting for a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(PAUSE_S, self._listen, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept connections. Never ends on an error: without a descriptor for one more, it closes a
        half-open one.
        """
        if self._reserve.is_lent():
            self._rest(listening)
            return
        try:
            plain, address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            self._make_room()
            self._rest(listening)
            return
        try:
            plain.setblocking(False)
            self._admit(plain, self._near(str(address[0])))
        except Exception:  # an error with one connection must not stop accepting
            _log.exception("a connection was rejected")
            plain.close()

    def _admit(self, plain: socket.socket, address: str) -> None:
        if len(self._connections) >= self._most and not self._make_room():
            plain.close()
            return
        one = _Connection(address, plain)
        self._enter(one)
        one.opening = asyncio.create_task(self._open(one))
        self._handshakes.add(one.opening)
        one.opening.add_done_callback(lambda task: self._opened(one, task))
        one.head = asyncio.get_running_loop().call_later(self._head_s, one.end)

    def _enter(self, one: _Connection) -> None:
        self._connections[one] = None
        self._half.setdefault(one.address, {})[one] = None

    def _counted_no_more(self, one: _Connection) -> None:
        """It is not half-open any more."""
        here = self._half.get(one.address, {})
        here.pop(one, None)
        if not here:
            self._half.pop(one.address, None)

    async def _open(self, one: _Connection) -> None:
        handshake = {} if self._context is None else {"ssl_handshake_timeout": self._head_s}
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: _Watched(self._make(), one, self._over), one.plain, ssl=self._context, **handshake
        )

    def _opened(self, one: _Connection, task: asyncio.Task[Any]) -> None:
        """Finish opening. A handshake that failed or was abandoned leaves nothing behind."""
        one.opening = None
        self._handshakes.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._over(one)

    def _over(self, one: _Connection) -> None:
        if one.head is not None:
            one.head.cancel()
        self._connections.pop(one, None)
        self._counted_no_more(one)

    def _make_room(self) -> bool:
        """Close the oldest half-open connection of the address with the most. False if there is none."""
        if not self._half:
            return False
        most = max(self._half.values(), key=len)
        victim = next(iter(most))
        self._over(victim)
        victim.end()
        return True
