"""Heavy work in a process of its own: one worker, started when it is first needed, and again if it dies.

The worker never outlives whoever started it, however that one ended: a killed controller leaves nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Apart:
    """One worker process. Functions and what travels must be known to pickle. niceness: how far others go
    before it.
    """

    def __init__(self, niceness: int = 0) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._niceness = niceness

    async def ask(self, work: Callable[..., Answer], *arguments: Any) -> Answer:
        """The answer of `work`, which runs in the worker. Raises BrokenProcessPool if the worker died; the
        next question starts another one.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(self._niceness,)
            )
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the worker, where it runs."""
        return tuple((self._pool._processes or {}) if self._pool is not None else ())

    def close(self) -> None:
        """Ends the worker at once, whatever it is doing. A pool that was shut down knows it no more."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(niceness: int) -> None:
    if niceness:
        os.nice(niceness)
    end_with_parent()


def end_with_parent() -> None:
    """In the worker: ends this process as soon as its parent has ended. Its own end of the queue of questions
    stays open, so that without this it would wait for the next one for ever. An interrupt of a terminal goes
    to both; what it means is the parent's to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()
