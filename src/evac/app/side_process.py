"""For processes beside a controller: they end when it does, and some act only while it leads.

How many files and connections this process may have open.

How long a thread keeps the interpreter while the loop of its process waits for it.

Heavy work in a process of its own: one worker, started when it is first needed, and again if it dies.

The worker never outlives whoever started it, however that one ended: a killed controller leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

from evac.engine.lead.leadership import LEADER
from evac.store.port import Store

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


SWITCH_S: Final = 0.000_5
"""A tenth of Python's own. A loop that talks with other systems waits for it once after every answer, so
that a few round trips took it tens of milliseconds while a plan was judged; no thread was measurably slower.
"""


def give_way() -> None:
    """From now on threads that judge, bind, replay or forecast give way to the loop after `SWITCH_S`."""
    sys.setswitchinterval(SWITCH_S)


def raise_limit() -> int:
    """As many as the machine lets it; the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft


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
