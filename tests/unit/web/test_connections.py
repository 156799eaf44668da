"""Connections over a real socket: nobody holds one for nothing, and whoever waits for an answer may wait."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_socket
import uvicorn

from evac.web.access.port import PROVEN
from evac.web.serving import STEADY, BoundedServer, prompt_protocol

WAIT_S = 0.1
PATIENCE_S = 20.0
WHOLE = b"\r\n\r\nwell"


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, thinks for long, and answers in two parts."""
    while (await receive()).get("more_body", False):
        pass
    await asyncio.sleep(5 * WAIT_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"we", "more_body": True})
    await asyncio.sleep(5 * WAIT_S)
    await send({"type": "http.response.body", "body": b"ll"})


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /again HT", True),
    ],
)
def test_a_request_comes_to_its_end_or_its_connection_does(said: bytes, answered: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(said)
        return await reader.read()  # until the room ends the connection

    assert asyncio.run(told(talk)).endswith(WHOLE) is answered


@pytest.mark.parametrize(
    ("piece", "whole_s", "answered"),
    [(STEADY, 60.0, True), (STEADY, 4 * WAIT_S, False), (1, 60.0, False)],
)
def test_a_body_that_comes_steadily_may_take_its_time_up_to_a_bound(
    piece: int, whole_s: float, answered: bool
) -> None:
    """A piece comes ten times as often as the room looks, for as long as twelve looks."""
    pieces = 120

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (piece * pieces))
        with contextlib.suppress(OSError):
            for _ in range(pieces):
                writer.write(b"x" * piece)
                await writer.drain()
                await asyncio.sleep(WAIT_S / 10)
        with contextlib.suppress(OSError):
            return await reader.read()
        return b""

    assert asyncio.run(told(talk, whole_s)).endswith(WHOLE) is answered


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


async def told(talk: Talk, whole_s: float = 60.0, wait_s: float = WAIT_S) -> bytes:
    """What a room says to that talk."""
    line = socket.create_server(("127.0.0.1", 0))
    protocol = prompt_protocol(wait_s, whole_s)
    server = uvicorn.Server(uvicorn.Config(slow, http=protocol, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server._serve([line]))
    reader, writer = await asyncio.open_connection(*line.getsockname())
    async with asyncio.timeout(PATIENCE_S):
        found = await talk(reader, writer)
    writer.close()
    server.should_exit = True
    await serving
    return found


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 10_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 1_000),
        (b"GET /", b"a" * 10_000),
        (b"", b"\r\n" * 1_000),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", b"a" * 10_000),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a" * 10_000),
    ],
    ids=["one header", "many headers", "address", "nothing", "trailer", "extension"],
)
def test_what_is_no_body_does_not_grow_without_end(begin: bytes, more: bytes) -> None:
    """A parser keeps all of it in memory; the time it takes is no matter here."""
    most = 20_000_000

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        sent = 0
        with contextlib.suppress(ConnectionError):
            writer.write(begin)
            while sent < most and not reader.at_eof():
                writer.write(more)
                await writer.drain()
                sent += len(more)
                await asyncio.sleep(0)
        return b"all of it" if sent >= most else b""

    assert asyncio.run(told(talk, wait_s=30.0)) == b""


def test_a_large_body_in_chunks_is_no_head() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2_000):
            writer.write(b"400\r\n" + b"a" * 1_024 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return await reader.readuntil(b"well")

    assert asyncio.run(told(talk, wait_s=30.0)).endswith(WHOLE)


@pytest.mark.parametrize("begin", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_half_open_connections_keep_nobody_out_of_the_room(begin: bytes) -> None:
    """One address opens many more than there may be; a stream of someone who authenticated goes on."""
    most, go_on = 8, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        if scope["path"] == "/stream":
            scope["state"][PROVEN]()
            await send({"type": "http.response.body", "body": b"we", "more_body": True})
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"ll"})
            return
        await send({"type": "http.response.body", "body": b"well"})

    async def story() -> None:
        line = socket.create_server(("127.0.0.1", 0))
        address = line.getsockname()
        protocol = prompt_protocol()
        config = uvicorn.Config(app, http=protocol, log_level="critical", lifespan="off")
        server = BoundedServer(config, line, most)
        serving = asyncio.create_task(server._serve())
        stream, asking = await asyncio.open_connection(*address)
        asking.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.readuntil(b"we")).startswith(b"HTTP/1.1 200")
        held = [await asyncio.open_connection(*address) for _ in range(3 * most)]
        for _, writer in held:
            writer.write(begin)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(WHOLE)
        assert server.listener is not None
        assert server.listener.report()["open"] <= most
        go_on.set()
        assert await stream.readexactly(2) == b"ll"
        for one in (asking, writer, *(writer for _, writer in held)):
            one.close()
        server.should_exit = True
        await serving

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
