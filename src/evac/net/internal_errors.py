"""Contains internal errors of evac to the part that they concern.

A part that fails unexpectedly pauses, reports it, and starts again; everything else that a leader does
continues. Otherwise one run that no controller can execute would end one controller after the other, and with
them the watch, all other runs and the standby plans. A lost lease, an unavailable store and a change by
someone else are expected: they end the term as usual.

Reports say where it happened, but never with which values: one may be a secret.

Also runs work in a task of its own, for callers that continue after its errors.

A task group that ends because one of its tasks failed swallows a cancellation that arrives meanwhile (CPython
before 3.13, gh-116720). A caller that catches the group's error and starts again could then never be
cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any, Final, TypeVar

from evac.model.errors import EvacError

T = TypeVar("T")


async def in_own_task(work: Awaitable[T]) -> T:
    """Awaits work. If cancelled, cancels the work, waits for its end, and raises the cancellation, whatever
    the work raised.
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


INTERNAL: Final = "internal-error"
PAUSE_S: Final = 1.0
PAUSE_MOST_S: Final = 60.0
"""Pauses grow from the first to the second, and start over after a success as long as the longest."""

Say = Callable[[str, Mapping[str, Any]], None]
_log = logging.getLogger(__name__)


def internal(error: Exception) -> EvacError:
    """The message that users see for an internal error."""
    kind, place = type(error).__name__, "nowhere"
    if frames := traceback.extract_tb(error.__traceback__):
        path = PurePath(frames[-1].filename)
        place = f"{'/'.join(path.parts[-2:])}:{frames[-1].lineno}"
    _log.debug("an internal error", exc_info=error)
    words = f"internal error ({kind} at {place})"
    return EvacError(INTERNAL, words, "report it, with what evac serve prints under EVAC_DEBUG=1")


def foreseen(error: Exception, what: str, say: Say) -> EvacError:
    """The error as reported to the caller. An internal error is also passed to `say`."""
    if isinstance(error, EvacError):
        return error
    told = internal(error)
    say(f"{what}: {told.message}", {"code": INTERNAL, "what": what})
    return told


def is_mistake(error: Exception) -> bool:
    """Whether it is unexpected. For a group: whether all errors in it are."""
    if isinstance(error, ExceptionGroup):
        return all(is_mistake(one) for one in error.exceptions)
    return not isinstance(error, EvacError)


async def enduring(what: str, work: Callable[[], Awaitable[None]], say: Say) -> None:
    """Runs the work until it ends, restarting after each internal error. Raises any other error."""
    loop, pause_s, told = asyncio.get_running_loop(), PAUSE_S, ""
    while True:
        began_s = loop.time()
        try:
            await in_own_task(work())
            return
        except Exception as error:
            if not is_mistake(error):
                raise
            if loop.time() - began_s > PAUSE_MOST_S:
                pause_s = PAUSE_S
            words = f"{what}: {internal(error).message}; it is being restarted, and everything else continues"
        if words != told:
            say(words, {"code": INTERNAL, "what": what})
            told = words
        await asyncio.sleep(pause_s)
        pause_s = min(PAUSE_MOST_S, pause_s * 2)
