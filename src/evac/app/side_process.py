"""For processes beside a controller: they end when it does, and some act only while it leads."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from evac.engine.lead.leadership import LEADER
from evac.store.port import Store

Leads = Callable[[], Awaitable[bool]]
"""Whether the controller that started a process leads now."""


LINE_MOST: Final = 4_096


async def parent_ends(
    then: Callable[[], Awaitable[None]], hear: Callable[[bytes], None] = lambda line: None
) -> None:
    """Waits for the end of standard input, where it is a pipe or what stands for one; then does `then`. hear:
    gets the last whole line of what comes in meanwhile.
    """
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    left = b""
    while came := await reader.read(LINE_MOST):
        *whole, left = (left + came).split(b"\n")
        left = left[-LINE_MOST:]
        if whole:
            hear(whole[-1])
    await then()


async def until_ended(*works: Coroutine[Any, Any, Any]) -> None:
    """All of this side by side, until one of it ends, SIGTERM or SIGINT comes, or the parent has ended; the
    rest is cancelled then, and waited for. Raises what ended it.
    """
    stop = asyncio.Event()

    async def ended() -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(work) for work in (*works, parent_ends(ended), stop.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def led_by_parent(store: Store, site: str, parent: int) -> Leads:
    """Whether the controller of a site, which runs in the process `parent`, leads now."""
    prefix = f"{site}/{parent}/"

    async def leads() -> bool:
        lease = await store.holder(LEADER)
        return lease is not None and lease.owner.startswith(prefix)

    return leads
