"""Whether a peer of a data set can be connected to at all: one round trip, so that a dead site costs little.

A site that is gone never takes the connection; one that does gets the time a real answer takes.
"""

from __future__ import annotations

import asyncio

CONNECT_MS = 250
ANSWER_MS = 1_000


async def takes_connections(host: str, port: int, wait_s: float = CONNECT_MS / 1_000) -> bool:
    """A connection was made and closed again; it says nothing of what listens there."""
    try:
        async with asyncio.timeout(wait_s):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError):
        return False
    writer.transport.abort()
    return True
