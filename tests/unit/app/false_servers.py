"""Servers that are no war room, on loopback: each connection is answered by a small story."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Told = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """number: of the request, from 1. headers: names in small letters."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Heard:
    """What a server was asked so far."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(told: Told, context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Heard]:
    """A server that answers each request by `told`, and closes each connection after one."""
    heard, open_now = Heard(), set[asyncio.Task[None]]()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                asked = await _read(reader, len(heard.asked) + 1)
                heard.asked.append(asked)
                await told(asked, writer)
                await writer.drain()
        finally:
            open_now.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", port, ssl=context)
    port = server.sockets[0].getsockname()[1]
    heard.url = f"http{'s' if context else ''}://127.0.0.1:{port}"
    try:
        yield heard
    finally:
        server.close()
        left = tuple(open_now)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, number: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(number, method, path, headers, body)


def answer(body: object, status: str = "200 OK", media: str = "application/json", more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    return head.encode() + data


def problem(status: int, code: str, kind: str = "error", more: str = "") -> bytes:
    told = {
        "code": code,
        "kind": kind,
        "detail": f"words of {code}",
        "hint": "GET /v1/nothing",
        "status": status,
    }
    return answer(told, f"{status} Told", "application/problem+json", more)


def always(data: bytes) -> Told:
    async def told(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return told
