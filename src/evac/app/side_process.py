"""Processes of a controller: they end when it does, some act only while it leads, and some are restarted.

A page must never cost a leader its lease, so the war room is a separate process, restarted when it ends; the
controller neither waits for it nor depends on it. Heavy work has one worker, started on first use and again
if it dies. None outlives its parent, however that ended: standard input is a pipe from the parent. Also here:
the limit of open files, and how long a thread may hold the interpreter while the event loop waits.
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

from evac.app.own_python import OWN_PYTHON, workers_start_safely
from evac.engine.lead.leadership import LEADER
from evac.model import extras
from evac.model.errors import EvacError
from evac.store.port import Store, owner_in

MODULE: Final = "evac.web.serving"
EXPORT: Final = "evac.app.status_export"
NOTICES: Final = "evac.office.notices.process"
TRACES: Final = "evac.app.tracing"
LIBRARIES: Final = ("fast_sugiyama", "fastapi", "joserfc", "multipart", "prometheus_client", "uvicorn")
FIRST_S: Final = 0.5
MOST_S: Final = 30.0
WELL_S: Final = 60.0
"""A process that ran for this long ran well: its next start is not delayed."""
STOP_S: Final = 8.0
LINE_S: Final = 1.0
NEITHER: Final = "neither"


def controller_line(leads: bool, neither: str) -> bytes:
    """Status line of a controller for its war room. neither: why it can neither lead nor follow."""
    state = "leads" if leads else NEITHER if neither else "follows"
    return orjson.dumps({"state": state, "why": neither})


def check_libraries() -> None:
    """Raise InvalidInput, with the one command to type, if the extra `serve` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise extras.needs("serve", "evac serve")


async def keep(
    arguments: Sequence[str],
    tell: Callable[[str], None],
    program: Sequence[str] = OWN_PYTHON,
    module: str = MODULE,
    name: str = "the war room",
    handed: Sequence[int] = (),
    line: Callable[[], bytes] | None = None,
) -> None:
    """Run the process forever, with growing pauses between restarts; end it when cancelled.

    arguments: of the module; tell: is called with its name and a message when it ended; handed: descriptors
    of open files that it may also use; line: sent to its standard input every second, which needs neither
    store nor disk.
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
    program: Sequence[str],
    module: str,
    arguments: Sequence[str],
    handed: Sequence[int],
    line: Callable[[], bytes] | None,
) -> int:
    """Run the process once; return its exit code."""
    process = await asyncio.create_subprocess_exec(
        *program,
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
    """Send lines without waiting for the reader, who finds the newest one later."""
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
    """One worker process. Functions and data must be picklable. niceness: how far it yields to others."""

    def __init__(self, niceness: int = 0) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._niceness = niceness

    async def ask(self, work: Callable[..., Answer], *arguments: Any) -> Answer:
        """Run `work` in the worker. Raises BrokenProcessPool if the worker died; the next call starts
        another.
        """
        with workers_start_safely():
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(self._niceness,)
                )
        pool = self._pool
        try:
            with workers_start_safely():
                answer = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
            return await answer
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the worker, if it runs."""
        return tuple((self._pool._processes or {}) if self._pool is not None else ())

    def close(self) -> None:
        """End the worker at once, whatever it is doing; a pool that was shut down no longer knows it."""
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
    """In the worker: end this process as soon as its parent has ended. It holds its own end of the queue open
    and would otherwise wait forever for the next question. A terminal's interrupt reaches both processes; the
    parent handles it.
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
"""A tenth of Python's default. The event loop waits this long after every response while a plan is checked,
so a few round trips took tens of milliseconds; no thread was measurably slower.
"""


def give_way() -> None:
    """Make threads that check, bind, replay or forecast yield to the event loop after `SWITCH_S`."""
    sys.setswitchinterval(SWITCH_S)


def raise_limit() -> int:
    """Raise the limit of open files as far as the machine allows; return it."""
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
    """Wait for the end of standard input, if it is a pipe or equivalent; then call `then`. hear: receives the
    last whole line that arrived meanwhile.
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
    """Run all of these concurrently until one ends, SIGTERM or SIGINT arrives, or the parent ends; then
    cancel the others and wait for them. Raises the error that ended it.
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
    """Run a side process; return its exit code. An evac error is printed as one line."""
    try:
        asyncio.run(work())
    except EvacError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 1
    return 0


def led_by_parent(store: Store, site: str, parent: int) -> Leads:
    """Whether the controller of a site, running in process `parent`, leads now."""

    async def leads() -> bool:
        lease = await store.holder(LEADER)
        owner = None if lease is None else owner_in(lease.owner)
        return owner is not None and (owner.site, owner.process) == (site, parent)

    return leads
