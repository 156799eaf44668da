"""Which member of etcd is asked: one that failed is avoided for a while, and not longer than it earned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from evac.model.errors import Unavailable
from evac.net.etcd_gateway import AVOID_LEAST_S, Gateway

pytestmark = pytest.mark.enable_socket
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
AT_ONCE = 8


class Member:
    """Takes every call, and answers while `mute` is not set."""

    def __init__(self) -> None:
        self.mute = False
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"{}"):
                self.asked += 1
                if not self.mute:
                    writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def members(count: int) -> AsyncIterator[tuple[list[Member], list[str]]]:
    made = [Member() for _ in range(count)]
    servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in made]
    try:
        yield made, [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    finally:
        for server in servers:
            server.close()


def test_calls_that_fail_together_are_one_failure_of_a_member() -> None:
    asyncio.run(assert_fail_together())


async def assert_fail_together() -> None:
    async with members(1) as ((own,), urls):
        own.mute = True
        gateway = Gateway(urls, attempt_s=0.3)
        deadline = time.monotonic() + 60
        calls = [gateway.call_once("/v3/kv/range", {}, deadline) for _ in range(AT_ONCE)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in found)
        assert own.asked == AT_ONCE
        assert gateway.avoided_s(0) <= AVOID_LEAST_S
        with pytest.raises(Unavailable):
            await gateway.call_once("/v3/kv/range", {}, deadline)
        assert AVOID_LEAST_S < gateway.avoided_s(0) <= 2 * AVOID_LEAST_S, "a second failure is another one"
        await gateway.close()


def test_a_member_that_answers_again_is_preferred_at_once() -> None:
    asyncio.run(assert_answers_again())


async def assert_answers_again() -> None:
    async with members(2) as ((own, other), urls):
        gateway = Gateway(urls, attempt_s=0.3)
        deadline = time.monotonic() + 60
        own.mute = other.mute = True
        for _ in range(4):
            with pytest.raises(Unavailable):
                await gateway.call_once("/v3/kv/range", {}, deadline)
        assert min(gateway.avoided_s(0), gateway.avoided_s(1)) > 0
        own.mute = other.mute = False
        await gateway.call_once("/v3/kv/range", {}, deadline)
        answered = 0 if gateway.avoided_s(0) == 0 else 1
        before = (own, other)[answered].asked
        await gateway.call_once("/v3/kv/range", {}, deadline)
        assert (own, other)[answered].asked == before + 1
        assert gateway.avoided_s(answered) == 0
        await gateway.close()
