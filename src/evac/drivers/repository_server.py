"""Whether the server of a repository accepts connections. Its tool would retry for minutes."""

from __future__ import annotations

import asyncio
from socket import SOCK_STREAM
from typing import Final

from evac.drivers.backups import Stopwatch
from evac.model.errors import Permanent, Retryable

CONNECT_S: Final = 10.0
ATTEMPT_S: Final = 2.0
"""How long to wait for one address of a host if it has another one."""


async def refuse_silent_server(tool: str, host: str, port: int, watch: Stopwatch, wrong: Permanent) -> None:
    """Raise `Retryable` if the server accepts no connection, and `wrong` if `host` cannot be a name."""
    try:
        await _reach(host, port, min(CONNECT_S, max(watch.left_s, 0.1)))
    except ValueError as error:
        raise wrong from error
    except OSError as error:  # also a timeout
        shown = f"[{host}]" if ":" in host else host
        words = f"{tool}: the repository does not answer at {shown}:{port}"
        raise Retryable("backup-silent", words, "start its server") from error


async def _reach(host: str, port: int, limit_s: float) -> None:
    """Connect to one address of the host after the other; the last one gets the rest of the time. Raises
    `OSError`.

    asyncio can try them side by side, but leaves connections open when it is cancelled while it does.
    """
    async with asyncio.timeout(limit_s):
        loop = asyncio.get_running_loop()
        addresses = {str(found[4][0]): None for found in await loop.getaddrinfo(host, port, type=SOCK_STREAM)}
        refused: OSError = OSError("no address")
        last, share_s = next(reversed(addresses), ""), limit_s / max(len(addresses), 1)
        for address in addresses:
            try:
                async with asyncio.timeout(None if address == last else min(ATTEMPT_S, share_s)):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError as error:  # also a timeout
                refused = error
            else:
                writer.transport.abort()
                return
        raise refused
