"""Limit the rate at which evac reads and writes, also between a program and a file or another program."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from evac.drivers.parameters import whole
from evac.drivers.port import Value
from evac.drivers.programs import Ended
from evac.model.errors import ActionError

UPLOAD: Final = "upload_kib"
DOWNLOAD: Final = "download_kib"
KIB: Final = 1_024
PIECE_BYTES: Final = 65_536
ASK_MS: Final = 200
"""How often a transfer that waits for a program looks whether it was stopped."""


def limit(settings: Mapping[str, Value], key: str) -> int:
    """A limit in KiB/s; 0 if there is none. Raises `Permanent`."""
    return whole(settings, key, 0)


class Pace:
    """At most the smallest of these limits, in KiB/s, in any period, plus one piece; 0 is no limit.

    At the end of its context, and once stopped, whatever passes through it ends with an OSError.
    """

    def __init__(self, *limits: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = min((one for one in limits if one), default=0) * KIB
        self._clock = clock
        self._free_s = clock()
        """When the next piece may pass. A pause is not made up for."""
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()

    def due_s(self, size: int) -> float:
        """Seconds to wait after a piece of this size."""
        if not self._bytes_per_s:
            return 0.0
        now = self._clock()
        self._free_s = max(self._free_s, now) + size / self._bytes_per_s
        return self._free_s - now

    def passed(self, size: int) -> None:
        """Wait until the next piece may pass. Raises OSError once stopped."""
        if self._stopped.wait(self.due_s(size)) or self._stopped.is_set():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


async def apart(work: Callable[[], Any]) -> Any:
    """The result of a blocking function in a thread of its own: at a limited rate it takes hours, and all
    other work that blocks shares the few threads of asyncio.
    """
    thread = ThreadPoolExecutor(1, "evac-transfer")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)


async def passed_on(work: Callable[[int], Awaitable[Ended]], target: int, pace: Pace) -> Ended:
    """Run a program that writes to an open file, and pass that on to another one, `target`. Raises the errors
    of `work`, and OSError if `target` takes nothing more, which ends the program.
    """
    reads, writes = os.pipe()
    moving = asyncio.ensure_future(apart(lambda: _moved(reads, target, pace)))
    try:
        try:
            ended = await work(writes)
        finally:
            os.close(writes)
    except BaseException as error:
        pace.stop()
        problem = await _problem(moving, pace)
        if isinstance(error, ActionError) and problem is not None and problem.errno != errno.ECANCELED:
            raise problem from error  # it is why the program could not write
        raise
    if (problem := await _problem(moving, pace)) is not None:
        raise problem
    return ended


async def _problem(moving: asyncio.Future[None], pace: Pace) -> OSError | None:
    """Why it ended, if something was wrong. Waits also if this task is cancelled: it uses open files."""
    try:
        await asyncio.shield(moving)
    except OSError as error:
        return error
    except asyncio.CancelledError:
        pace.stop()
        with contextlib.suppress(OSError):
            await moving
        raise
    return None


def _moved(reads: int, target: int, pace: Pace) -> None:
    """Pass everything on, up to its end. Closes `reads`, so that no one writes in vain."""
    try:
        os.set_blocking(target, False)
        while part := os.read(_ready(reads, select.POLLIN, pace), PIECE_BYTES):
            left = memoryview(part)
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(_ready(target, select.POLLOUT, pace), left) :]
            pace.passed(len(part))
    finally:
        os.close(reads)


def _ready(file: int, what: int, pace: Pace) -> int:
    """The open file, once it can be read or written. Raises OSError once stopped."""
    asked = select.poll()
    asked.register(file, what)
    while not asked.poll(ASK_MS):
        pace.passed(0)
    return file
