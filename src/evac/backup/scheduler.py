"""The leader's scheduler: runs the jobs of the timetable, with limited concurrency, and reports missed ones.

Jobs wait during a hold, an open run and maintenance of their sites; afterwards each missed job runs once.
Each copy, and each data set, has one job at a time. Jobs that are due earlier go first; at the same moment,
the data set that has waited longest. A jump of the wall clock makes a new timetable.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.backup.known import MAKING, Known
from evac.backup.schedule import RANK, Entry
from evac.engine.clock import Clock
from evac.model.backup import BackupEvent
from evac.model.errors import Conflict, EvacError, LeaseLost, LockHeld, Unavailable
from evac.model.records import dataclass
from evac.store.port import Lease

AT_ONCE: Final = 4
LOOK_S: Final = 5.0
"""How often to check what blocks a waiting job."""
IDLE_S: Final = 30.0
JUMP_MS: Final = 60_000
"""A difference from the monotonic clock above this is a jump of the wall clock."""
RETRY_MS: Final = 60_000
RETRY_MOST_MS: Final = 3_600_000
LATE_MS: Final = 60_000

Blocked = Callable[[frozenset[str]], Awaitable[tuple[str, str]]]
"""Sites of a job -> why nothing may start there now: a code and a message; empty if it may."""
Say = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class _Waiting:
    """A due line of the timetable. since_ms: the first missed moment."""

    entry: Entry
    due_ms: int
    missed: int = 0
    code: str = ""
    words: str = ""

    def order(self, served: Mapping[str, int]) -> tuple[int, int, int, int, str, str]:
        entry = self.entry
        last = served.get(entry.data_set, 0)
        return self.due_ms, RANK[entry.job], entry.after, last, entry.data_set, entry.copy


@dataclass(slots=True)
class Scheduler:
    """Scheduler of a controller. `chore` runs while it leads, and starts again in each term."""

    timetable: Callable[[], Sequence[Entry]]
    """For the current estate."""
    worker: Worker
    evidence: Evidence
    clock: Clock
    blocked: Blocked
    say: Say = lambda words, data: None
    at_once: int = AT_ONCE
    latest_ms: int = field(default=0, init=False)
    """The longest delay of a job that nothing blocked."""
    _queue: list[tuple[int, int, Entry]] = field(default_factory=list, init=False)
    _waiting: dict[tuple[str, str, str], _Waiting] = field(default_factory=dict, init=False)
    _running: dict[asyncio.Task[None], _Waiting] = field(default_factory=dict, init=False)
    _served: dict[str, int] = field(default_factory=dict, init=False)
    _table: Sequence[Entry] = field(default=(), init=False)
    _offset_ms: int = field(default=0, init=False)

    async def chore(self, guard: Lease) -> None:
        """Run until cancelled; then running jobs are cancelled too, and clean up. Raises what ends a term:
        LeaseLost, Unavailable.
        """
        del guard  # the term ends with it
        try:
            await self._begin()
            while True:
                await self._turn()
        finally:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._running.clear()
            self._waiting.clear()

    async def _begin(self) -> None:
        """Make the timetable, and find what was missed while no one led."""
        now_ms = self.clock.now_ms()
        self._offset_ms = now_ms - self.clock.monotonic_ms()
        self._table = self.timetable()
        known = await self.evidence.all_known() if self._table else {}
        self._queue, table = [], {_key(entry): entry for entry in self._table}
        for key, waiting in list(self._waiting.items()):
            if key not in table:
                del self._waiting[key]
            else:
                waiting.entry, waiting.due_ms = table[key], min(waiting.due_ms, now_ms)
        for number, entry in enumerate(self._table):
            last_ms = _last_ms(entry, known.get(entry.data_set), now_ms)
            missed = 0 if last_ms is None else entry.moments_between(last_ms, now_ms)
            if last_ms is None and entry.job == "list":
                self._waiting[_key(entry)] = _Waiting(entry, now_ms)
            elif missed:
                waiting = _Waiting(entry, entry.last_before(now_ms), missed - 1)
                waiting.code, waiting.words = "not-running", "no controller was leading"
                self._waiting.setdefault(_key(entry), waiting)
            heapq.heappush(self._queue, (entry.next_after(now_ms), number, entry))

    async def _turn(self) -> None:
        now_ms = self.clock.now_ms()
        jumped_ms = now_ms - self.clock.monotonic_ms() - self._offset_ms
        if abs(jumped_ms) > JUMP_MS:
            self.say(
                f"the clock jumped by {jumped_ms // 1_000} s; the backup schedule starts over",
                {"code": "clock-jumped", "jumped_ms": jumped_ms},
            )
            await self._begin()
        elif self.timetable() is not self._table:
            await self._begin()
        self._collect_due(now_ms)
        await self._start()
        until_s = IDLE_S if not self._queue else max(0.0, (self._queue[0][0] - self.clock.now_ms()) / 1_000)
        pause_s = min(until_s, LOOK_S if self._waiting else IDLE_S)
        if self._running:
            done, _ = await asyncio.wait(self._running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._ended(task)
        else:
            await asyncio.sleep(pause_s)

    def _collect_due(self, now_ms: int) -> None:
        while self._queue and self._queue[0][0] <= now_ms:
            due_ms, number, entry = heapq.heappop(self._queue)
            before = self._waiting.get(_key(entry))
            if before is not None:
                before.missed += 1
                before.due_ms = max(before.due_ms, due_ms) if before.code else before.due_ms
            elif not any(_key(one.entry) == _key(entry) for one in self._running.values()):
                self._waiting[_key(entry)] = _Waiting(entry, due_ms)
            heapq.heappush(self._queue, (entry.next_after(now_ms), number, entry))

    async def _start(self) -> None:
        """Start every job that may start. One check of what blocks serves all jobs of the same sites."""
        if not self._waiting:
            return
        busy = {name for one in self._running.values() for name in _claims(one.entry)}
        looked: dict[frozenset[str], tuple[str, str]] = {}
        for waiting in sorted(self._waiting.values(), key=lambda one: one.order(self._served)):
            if len(self._running) >= self.at_once:
                break
            claims = _claims(waiting.entry)
            if waiting.due_ms > self.clock.now_ms() or not busy.isdisjoint(claims):
                continue
            sites = _sites(waiting.entry)
            if sites not in looked:
                looked[sites] = await self.blocked(sites)
            if looked[sites][0]:
                waiting.code, waiting.words = looked[sites]
                continue
            busy |= claims
            self._served[waiting.entry.data_set] = self.clock.now_ms()
            del self._waiting[_key(waiting.entry)]
            task = asyncio.create_task(
                self._run(waiting), name=f"backup {waiting.entry.job} {waiting.entry.copy}"
            )
            self._running[task] = waiting

    async def _run(self, waiting: _Waiting) -> None:
        entry, now_ms = waiting.entry, self.clock.now_ms()
        if not waiting.code:
            self.latest_ms = max(self.latest_ms, now_ms - waiting.due_ms)
        known = await self.evidence.known(entry.data_set)
        last = known.run(entry.copy, entry.job)
        if waiting.missed and entry.job != "list":
            await self._tell_missed(waiting, now_ms)
        if last is not None and not last.failures and waiting.due_ms <= last.at_ms <= now_ms:
            return  # it was done in the meantime
        task = entry.task(waiting.due_ms, known)
        try:
            event = await self.worker.do(task)
        except LockHeld:
            event = None
        now = await self.evidence.known(entry.data_set)
        for alarm in now.alarms:
            if alarm not in known.alarms:
                data = {"code": alarm.code, "data_set": alarm.data_set, "copy": alarm.copy}
                self.say(f"{alarm.data_set} at {alarm.copy}: {alarm.words}", data)
        self._again(waiting, task, event, 0 if last is None else last.failures)

    def _again(self, waiting: _Waiting, task: Task, event: BackupEvent | None, failures: int) -> None:
        """Retry a failed job with growing delays, until its next scheduled moment."""
        now_ms, entry = self.clock.now_ms(), waiting.entry
        if event is not None:
            if event.outcome == "done":
                return
            if event.detail and waiting.code != "retry":
                self.say(
                    f"{task.job} of {task.data_set} at {task.copy} failed: {event.detail}",
                    {
                        "code": "backup-failed",
                        "data_set": task.data_set,
                        "copy": task.copy,
                        "why": event.code,
                    },
                )
        pause_ms = min(RETRY_MOST_MS, RETRY_MS << min(failures, 10))
        if now_ms + pause_ms < entry.next_after(now_ms):
            self._waiting[_key(entry)] = _Waiting(
                entry, now_ms + pause_ms, code="retry", words="it failed earlier"
            )

    async def _tell_missed(self, waiting: _Waiting, now_ms: int) -> None:
        entry = waiting.entry
        windows = "window" if waiting.missed == 1 else "windows"
        why = waiting.words or "the previous job took too long"
        words = f"{waiting.missed} {windows} of {entry.job} missed: {why}"
        await self.evidence.add(
            BackupEvent(
                "missed",
                now_ms,
                entry.data_set,
                entry.copy,
                outcome="failed",
                tool=entry.endpoint.driver,
                code=waiting.code or "too-slow",
                detail=words,
            )
        )
        data = {"code": "backup-missed", "data_set": entry.data_set, "copy": entry.copy}
        self.say(f"{entry.data_set} at {entry.copy}: {words}", data)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Handle the end of a job: its error is reported and affects no other job; an error of the store ends
        the term.
        """
        waiting = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost) and error.name.startswith("backup/"):
            error = None  # another process may be doing it; the next scheduled moment retries
        if isinstance(error, (Unavailable, LeaseLost)):
            raise error
        if error is not None and not isinstance(error, (EvacError, Conflict)):
            raise error
        if error is not None:
            entry = waiting.entry
            self.say(
                f"{entry.job} of {entry.data_set} at {entry.copy} failed: {error}",
                {"code": "backup-failed", "data_set": entry.data_set, "copy": entry.copy},
            )


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.data_set, entry.copy, entry.job


def _claims(entry: Entry) -> set[str]:
    """What no other job may work on meanwhile."""
    origin = set() if entry.origin is None else {f"endpoint {entry.origin.id}"}
    return {f"data {entry.data_set}", f"endpoint {entry.endpoint.id}", *origin}


def _sites(entry: Entry) -> frozenset[str]:
    return frozenset({entry.endpoint.at} if entry.origin is None else {entry.endpoint.at, entry.origin.at})


def _last_ms(entry: Entry, known: Known | None, now_ms: int) -> int | None:
    """When this line last ran; None if unknown. A time ahead of our clock does not count."""
    if known is None:
        return None
    last, seen = known.run(entry.copy, entry.job), known.seen(entry.copy)
    moments = [] if last is None else [last.at_ms]
    if seen is not None and seen.taken_at_ms is not None and entry.job in MAKING:
        moments.append(seen.taken_at_ms)
    return max((one for one in moments if one <= now_ms + JUMP_MS), default=None)
