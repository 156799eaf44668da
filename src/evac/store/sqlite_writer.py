"""The one thread that writes the SQLite file: what waits together is committed together."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evac.model.errors import EvacError, Unavailable
from evac.store.sqlite_file import HostClock, translated
from evac.store.sqlite_turn import Turn

BATCH_MOST: Final = 256
WAITING_MOST: Final = 10_000


@dataclass(slots=True, eq=False)
class Job:
    """One call. abandoned: its caller gave up before it was begun, so it is left out."""

    work: Callable[[Turn], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    abandoned: bool = False


_Outcome = tuple[Job, Any, BaseException | None]


class Writer:
    """Group commit. An answer is given only after the transaction that holds it is on the disk.

    committed: called in the writer's thread with the keys that changed.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        clock: HostClock,
        committed: Callable[[Sequence[str]], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._committed = committed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Turn], Any], deadline_s: float) -> Any:
        """The answer of `work`, durable. Raises `Unavailable` when the disk does not answer in time."""
        if self._queue.qsize() >= WAITING_MOST:
            raise Unavailable(f"{WAITING_MOST} transactions wait for {self._path} already")
        loop = asyncio.get_running_loop()
        job = Job(work, loop, loop.create_future())
        self._queue.put(job)
        try:
            async with asyncio.timeout(deadline_s):
                return await job.answer
        except TimeoutError as error:
            raise Unavailable(f"{self._path} did not answer in {deadline_s:g} s") from error
        finally:
            job.abandoned = True

    def stop(self, timeout_s: float) -> None:
        """Writes what waits, then ends the thread and closes its connection."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        going = True
        while going:
            jobs = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < BATCH_MOST:
                    jobs.append(self._queue.get_nowait())
            going = None not in jobs
            self._write([job for job in jobs if job is not None and not job.abandoned])
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _write(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        touched: Sequence[str] = ()
        try:
            outcomes, touched = self._commit(jobs)
        except sqlite3.Error as error:
            self._roll_back()
            outcomes = [(job, None, translated(self._path, error)) for job in jobs]
        except Exception as error:
            self._roll_back()
            outcomes = [(job, None, error) for job in jobs]
        _deliver(outcomes)
        if touched:
            self._committed(touched)

    def _commit(self, jobs: list[Job]) -> tuple[list[_Outcome], Sequence[str]]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        # The lock may have been long in coming: leases are judged by the time at which it came.
        turn = Turn(connection, self._clock.boot, self._clock.now_ms())
        turn.begin()
        outcomes: list[_Outcome] = []
        for job in jobs:
            try:
                outcomes.append((job, job.work(turn), None))
            except EvacError as error:
                outcomes.append((job, None, error))
        turn.finish()
        connection.execute("COMMIT")
        return outcomes, turn.touched

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _deliver(outcomes: list[_Outcome]) -> None:
    """Wakes each event loop once for all its answers."""
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome[0].loop, []).append(outcome)
    for loop, answers in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_answer, answers)


def _answer(outcomes: list[_Outcome]) -> None:
    for job, result, error in outcomes:
        if job.answer.done():
            continue
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(result)
