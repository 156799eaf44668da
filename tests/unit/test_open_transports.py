"""A connection that a test leaves open is found by name."""

from __future__ import annotations

import asyncio
from pathlib import Path


def test_a_transport_names_its_test(tmp_path: Path) -> None:
    shown = asyncio.run(_shown(tmp_path / "socket"))
    assert "test_open_transports.py::test_a_transport_names_its_test" in shown


async def _shown(path: Path) -> str:
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    async with server:
        _, writer = await asyncio.open_unix_connection(path)
        shown = repr(writer.transport)
        writer.close()
        await writer.wait_closed()
    return shown
