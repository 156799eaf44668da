"""A server that greets with nonsense: an error for the caller, and no connection left open."""

from __future__ import annotations

import asyncio
import gc

import pytest

from evac.drivers.postgres.link import Member, linked
from evac.model.errors import ActionError

pytestmark = pytest.mark.enable_socket
WITHOUT_A_VERSION = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"
"""Logged in, and ready: the version of the server, which every real one sends between the two, is missing."""
GOODBYE = b"X\0\0\0\x04"


def test_a_greeting_without_a_version_leaves_no_connection_open() -> None:
    async def story() -> bytes:
        left = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(8)
            writer.write(b"N")
            await reader.read(65_536)
            writer.write(WITHOUT_A_VERSION)
            try:
                async with asyncio.timeout(5.0):
                    left.set_result(await reader.read())
            except TimeoutError:
                left.set_result(b"open still")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            member = Member("127.0.0.1", server.sockets[0].getsockname()[1], "postgres", "", "postgres", "")
            with pytest.raises(ActionError) as refused:
                async with linked(member, 5.0):
                    pass
            assert refused.value.code == "postgres-unreadable"
            return bytes(await left)

    assert asyncio.run(story()) == GOODBYE
    gc.collect()
