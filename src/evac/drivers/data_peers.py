"""Whether a peer of a data set can be connected to at all: one round trip, so that a dead site costs little.

A site that is gone never takes the connection; one that does gets the time a real answer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from evac.model.errors import ActionError, Retryable

CONNECT_MS = 250
ANSWER_MS = 1_000
ANOTHER_PRIMARY: Final = "another-primary"
"""The code of a promotion that only waits for another primary to give its role up."""


async def takes_connections(host: str, port: int, wait_s: float = CONNECT_MS / 1_000) -> bool:
    """A connection was made and closed again; it says nothing of what listens there."""
    try:
        async with asyncio.timeout(wait_s):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError):
        return False
    writer.transport.abort()
    return True


def another_primary(address: str) -> Retryable:
    return Retryable(
        ANOTHER_PRIMARY,
        f"{address} answers as a primary that takes writes",
        "demote or fence it first",
        after_ms=100,
    )


def only_others(addresses: Sequence[str], problems: Sequence[str]) -> ActionError | None:
    """The error of a promotion that only other primaries keep back; None where there is more to it."""
    return another_primary(addresses[0]) if addresses and not problems else None
