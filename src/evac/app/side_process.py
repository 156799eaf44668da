"""Processes beside a controller: they end when it does, some act only while it leads, and some are started
again.

A page must never cost a leader its lease, so the war room is a process of its own, started again when it
ends. The controller does not wait for it and lives without it. Heavy work has one worker, started when it
is first needed, and again if it dies. None outlives the process that started it, however that one ended:
its parent's pipe is its standard input. Also here: how many files this process may have open, and how long
a thread keeps the interpreter while the loop waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import multiprocessing
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

import orjson

from evac.engine.lead.leadership import LEADER
from evac.model import extras
from evac.model.errors import EvacError
from evac.store.port import Store

MODULE: Final = "evac.web.serving"
EXPORT: Final = "evac.app.status_export"
NOTICES: Final = "evac.office.notices.process"
TRACES: Final = "evac.app.tracing"
LIBRARIES: Final = ("fast_sugiyama", "fastapi", "joserfc", "multipart", "prometheus_client", "uvicorn")
FIRST_S: Final = 0.5
MOST_S: Final = 30.0
WELL_S: Final = 60.0
"""Whatever ran for so long ran well: the next start is not held back."""
STOP_S: Final = 8.0
LINE_S: Final = 1.0
NEITHER: Final = "neither"


def controller_line(leads: bool, neither: str) -> bytes:
    """What a controller says of itself to the room beside it. neither: why it can neither lead nor follow."""
    state = "leads" if leads else NEITHER if neither else "follows"
    return orjson.dumps({"state": state, "why": neither})


def check_libraries() -> None:
    """Raises InvalidInput with the one command to type, where the extra `serve` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise extras.needs("serve", "evac serve")


async def keep(
    arguments: Sequence[str],
    tell: Callable[[str], None],
    program: str = sys.executable,
    module: str = MODULE,
    name: str = "the war room",
    handed: Sequence[int] = (),
    line: Callable[[], bytes] | None = None,
) -> None:
    """Runs the process for ever, with a growing pause between ends; ends it when cancelled.

    arguments: of the module; tell: is told in words, by that name, when it ended; handed: numbers of open
    files that it may use as well; line: what it gets every second through its standard input, which needs
    neither store nor disk.
    """
    pause_s = FIRST_S
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            code = await _once(program, module, arguments, handed, line)
        except OSError as error:
            code = error.errno or -1
        if loop.time() - began >= WELL_S:
            pause_s = FIRST_S
        tell(f"{name} ended with {code}; it starts again in {pause_s:g} s")
        await asyncio.sleep(pause_s)
        pause_s = min(MOST_S, pause_s * 2)


async def _once(
    program: str,
    module: str,
    arguments: Sequence[str],
    handed: Sequence[int],
    line: Callable[[], bytes] | None,
) -> int:
    """One life of the process; its exit code."""
    process = await asyncio.create_subprocess_exec(
        program,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
        pass_fds=handed,
    )
    telling = None if line is None else asyncio.create_task(_tell_lines(process.stdin, line))
    try:
        return await process.wait()
    finally:
        if telling is not None:
            telling.cancel()
        if process.returncode is None:
            await _end(process)


async def _tell_lines(pipe: asyncio.StreamWriter | None, line: Callable[[], bytes]) -> None:
    """Whoever does not read is not waited for, and finds the newest line later."""
    while pipe is not None and not pipe.is_closing():
        if not pipe.transport.get_write_buffer_size() and (words := line()):
            pipe.write(words + b"\n")
        await asyncio.sleep(LINE_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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


def end_of(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Runs the whole of a side process; its exit code. An error of evac is one line for people."""
    try:
        asyncio.run(work())
    except EvacError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 1
    return 0


def led_by_parent(store: Store, site: str, parent: int) -> Leads:
    """Whether the controller of a site, which runs in the process `parent`, leads now."""
    prefix = f"{site}/{parent}/"

    async def leads() -> bool:
        lease = await store.holder(LEADER)
        return lease is not None and lease.owner.startswith(prefix)

    return leads
