"""Server-sent events of a war room, read until they end; after a cut they go on behind the last number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from evac.control.server_calls import Cut, Later, ServerCalls, strange
from evac.model.errors import EvacError

MEDIA: Final = "text/event-stream"
SILENCE_S: Final = 45.0
"""A room shows every 15 s that the line is alive."""
AGAIN_S: Final = 1.0
AGAIN_MOST_S: Final = 15.0
CUTS_MOST: Final = 8
"""In a row, without a message between; then it is told."""
MESSAGE_MOST: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """number: of the journal; 0 where the message has none."""

    number: int
    name: str
    data: Any


async def messages(calls: ServerCalls, path: str, after: int = 0) -> AsyncIterator[Message]:
    """Every message of a stream with a greater number, each once; ends after `end`. Raises EvacError, for a
    connection that cannot be had again too.
    """
    last, cuts = after, 0
    while True:
        try:
            async for message in _connection(calls, path, last):
                cuts = 0
                if message.number and message.number <= last:
                    continue
                last = max(last, message.number)
                yield message
                if message.name == "end":
                    return
        except Later as later:
            if cuts >= CUTS_MOST:
                raise later.error from later
        except EvacError as error:
            if cuts >= CUTS_MOST or not (isinstance(error, Cut) or error.code == "server-unreachable"):
                raise
        cuts += 1
        await asyncio.sleep(min(AGAIN_MOST_S, AGAIN_S * cuts))


async def _connection(calls: ServerCalls, path: str, last: int) -> AsyncIterator[Message]:
    headers = {"Accept": MEDIA, "Cache-Control": "no-store"}
    if last:
        headers["Last-Event-ID"] = str(last)
    async with AsyncExitStack() as held:
        response = await _begun(calls, path, headers, held)
        parser = Parser()
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    part = await response.content.readany()
            except TimeoutError as error:
                raise Cut(
                    "server-timeout", f"the stream was silent for {SILENCE_S:g} s", "try again"
                ) from error
            if not part:
                return
            for message in parser.feed(part):
                yield message


async def _begun(
    calls: ServerCalls, path: str, headers: dict[str, str], held: AsyncExitStack
) -> aiohttp.ClientResponse:
    """The stream whose head came within the time of any answer. Raises EvacError."""
    head_s = calls.server.timeout_s
    try:
        async with asyncio.timeout(head_s):
            response = await held.enter_async_context(calls.asked("GET", path, None, b"", headers))
    except TimeoutError as error:
        raise Cut("server-timeout", f"the stream did not begin in {head_s:g} s", "try again") from error
    if response.content_type != MEDIA:
        raise strange("a stream is none")
    return response


class Parser:
    """Bytes in, messages out (HTML Living Standard, 9.2.6). Raises EvacError for what no room sends."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}
        self._held = 0

    def feed(self, part: bytes) -> list[Message]:
        lines = (self._rest + part).split(b"\n")
        self._rest = lines.pop()
        found = [message for line in lines if (message := self._line(line.removesuffix(b"\r"))) is not None]
        if self._held + len(self._rest) > MESSAGE_MOST:
            raise strange("a message without end")
        return found

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._done()
        if line.startswith(b":"):
            return None
        name, _, value = line.decode("utf-8", "replace").partition(":")
        self._fields.setdefault(name, []).append(value.removeprefix(" "))
        self._held += len(line)
        return None

    def _done(self) -> Message | None:
        fields, self._fields, self._held = self._fields, {}, 0
        if "data" not in fields:
            return None
        number = fields.get("id", ["0"])[-1]
        if not (number.isascii() and number.isdigit()) or len(number) > 16:
            raise strange("a message has no number")
        try:
            data = orjson.loads("\n".join(fields["data"]))
        except orjson.JSONDecodeError as error:
            raise strange("a message is not JSON") from error
        return Message(int(number), fields.get("event", ["message"])[-1], data)
