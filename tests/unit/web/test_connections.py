"""Connections over a real socket: nobody holds one for nothing, and whoever waits for an answer may wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_socket
import uvicorn

from evac.web.connections import prompt_protocol

WAIT_S = 0.1
PATIENCE_S = 20.0


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
    async def story() -> bytes:
        line = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(slow, http=prompt_protocol(WAIT_S), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([line]))
        reader, writer = await asyncio.open_connection(*line.getsockname())
        writer.write(said)
        async with asyncio.timeout(PATIENCE_S):
            found = await reader.read()  # until the room ends the connection
        writer.close()
        server.should_exit = True
        await serving
        return found

    assert asyncio.run(story()).endswith(b"\r\n\r\nwell") is answered
