"""Work in a task of its own, for whoever goes on after what it raises.

A task group that ends because one of its tasks failed swallows a cancellation that comes meanwhile (CPython
before 3.13, gh-116720). Whoever then catches what the group raises, and begins again, can be ended no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def in_own_task(work: Awaitable[T]) -> T:
    """Awaits work. Cancelled, it cancels the work, waits for its end, and raises that it was cancelled,
    whatever the work raised.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            task.cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, so that nobody is told that it was not
    raise cancelled
