"""For processes that a controller starts beside itself: they end when it does."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable


async def parent_ends(then: Callable[[], Awaitable[None]]) -> None:
    """Waits for the end of standard input, where it is a pipe or what stands for one; then does `then`."""
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(1_024):
        pass
    await then()
