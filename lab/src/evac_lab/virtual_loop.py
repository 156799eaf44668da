"""An event loop with virtual time and a seeded order: the same seed, the same trace.

Time jumps to the next timer when nothing else is ready. Callbacks that are ready together run in an order
drawn from the seed, and now and then one is postponed to a later turn. There is no input, output, thread or
executor. A simulated process can be stopped (its callbacks wait, its clock continues), resumed, or killed at
any await. Invariant: nothing depends on addresses, hashes or real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")
LATER_PERMILLE: Final = 20
"""How often a ready callback is postponed to the next turn."""

_PROCESS: ContextVar[VirtualProcess | None] = ContextVar("evac.process", default=None)


class Idle(RuntimeError):
    """Everything waits, and nothing will ever happen."""


class VirtualProcess:
    """One simulated process: its tasks, and its own clocks (the port `Clock`).

    offset_ms: of the wall clock; drift_ppm: how much faster its clocks run than the world's. ahead_ms: extra
    clock time for a process that was stopped in the middle of a callback: the rest of the callback runs as
    after the stop. A stopped process does nothing while its clocks continue; a dead one is only unwound, and
    all its requests fail.
    """

    def __init__(self, loop: VirtualLoop, name: str, site: str = "", drift_ppm: int = 0) -> None:
        self.name, self.site, self.drift_ppm = name, site, drift_ppm
        self.alive, self.stopped = True, False
        self.offset_ms = self.ahead_ms = 0
        self._read_at, self._read_ms = -1.0, 0
        self._loop = loop
        self.tasks: list[asyncio.Task[Any]] = []
        self._roots: list[asyncio.Task[Any]] = []
        self.held: list[_Callback] = []
        self._most = 64
        self.context = Context()
        self.context.run(_PROCESS.set, self)
        loop.processes.append(self)

    def now_ms(self) -> int:
        return self.monotonic_ms() + self.offset_ms

    def monotonic_ms(self) -> int:
        now = self._loop.now
        if now != self._read_at:
            now_us = int(now * 1e6 + 0.5)
            self._read_at, self._read_ms = now, (now_us + now_us * self.drift_ppm // 1_000_000) // 1_000
        return self._read_ms + self.ahead_ms

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Starts work as this process; whatever that starts belongs to the process as well."""
        task = self._loop.create_task(work, name=name or self.name, context=self.context)
        self._roots.append(task)
        return task

    def keep(self, task: asyncio.Task[Any]) -> None:
        if len(self.tasks) > self._most:
            self.tasks = [one for one in self.tasks if not one.done()]
            self._most = max(64, 2 * len(self.tasks))
        self.tasks.append(task)

    def stop(self) -> None:
        """Stops it like SIGSTOP."""
        if self.alive and not self.stopped:
            self.stopped = True
            self._loop.stopped += 1

    def resume(self) -> None:
        """Resumes it like SIGCONT."""
        if self.stopped:
            self.stopped, self.ahead_ms = False, 0
            self._loop.stopped -= 1
            held, self.held = self.held, []
            self._loop.ready.extend(held)

    def kill(self) -> None:
        """Kills it like SIGKILL: from now on nothing it does has an effect; its tasks are unwound."""
        self.alive = False
        self.resume()
        for task in self.tasks:
            task.cancel()

    def forget(self) -> None:
        """Drops references to all its work, so that the garbage collector need not find it."""
        self.tasks.clear()
        self._roots.clear()
        self.held.clear()

    @property
    def failure(self) -> BaseException | None:
        """The error of a task spawned in it, unless it was a cancellation."""
        for task in self._roots:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None


class _Task(asyncio.Task[T]):
    """A task with its own hash, so that sets of tasks have the same order in every run. Its number is
    assigned before it is created, because it enters the first set during creation.
    """

    _number: int

    def __hash__(self) -> int:
        return self._number


_Callback = list[Any]
"""[callback, args, context, cancelled, when]. A list, because thousands are created, and creating a list runs
none of our code.
"""


class _Handle(_Callback):
    """A callback that may be cancelled."""

    __slots__ = ()

    def cancel(self) -> None:
        self[3] = True

    def cancelled(self) -> bool:
        return bool(self[3])

    def when(self) -> float:
        return float(self[4])


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. turns: callbacks run so far; now: its time in s. An error in a callback ends the run."""

    get_debug: Any = bool
    """Every future asks for it; constant, to avoid a call."""

    def __init__(self, seed: int, later_permille: int = LATER_PERMILLE) -> None:
        super().__init__()
        self.random = Random(seed)
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.ready: list[_Callback] = []
        self.processes: list[VirtualProcess] = []
        self.turns = 0
        self.stopped = 0
        self.now = 0.0
        self._draw = self.random.random
        self._later = later_permille / 1_000
        self._timers: list[tuple[float, int, _Callback]] = []
        self._numbers = 0
        self._plots: list[tuple[int, int, Callable[[], None]]] = []
        self._errors: list[BaseException] = []
        self._of_nobody: list[asyncio.Task[Any]] = []
        self.world = Context()
        """The context of everything outside a process: servers, networks, clients."""

    def time(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1e3 + 1e-6)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        """Futures and tasks pass a context and do not keep the returned handle."""
        if context is not None:
            self.ready.append(bare := [callback, args, context, False, 0.0])
            return bare  # type: ignore[return-value]
        self.ready.append(handle := _Handle((callback, args, copy_context(), False, 0.0)))
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        handle = _Handle((callback, args, copy_context() if context is None else context, False, when))
        self._numbers += 1
        heappush(self._timers, (when, self._numbers, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        when = self.now + delay if delay > 0.0 else self.now
        handle = _Handle((callback, args, copy_context() if context is None else context, False, when))
        self._numbers += 1
        heappush(self._timers, (when, self._numbers, handle))
        return handle

    def in_world(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Something that happens whether or not its requester is still alive."""
        self._numbers += 1
        heappush(self._timers, (self.now + delay_s, self._numbers, [callback, args, self.world, False, 0.0]))

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        self._numbers += 1
        task: _Task[T] = _Task.__new__(_Task)
        task._number = self._numbers
        task.__init__(coro, loop=self, name=name or "", context=context)  # type: ignore[misc]
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is not None:
            process.keep(task)
        else:
            self._of_nobody.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        raise RuntimeError("a simulation has no threads")

    def __del__(self) -> None:
        """Nothing has to be closed, so a loop that never ran may be dropped."""

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing must be woken."""

    def _process_events(self, event_list: Any) -> None:
        """There is no input or output."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._errors.append(error if error is not None else RuntimeError(context.get("message")))

    def _run_once(self) -> None:
        """Runs turn after turn until the loop is to stop: in each, every callback that is ready, in a seeded
        order.
        """
        plots = self._plots
        while True:
            while plots and self.turns >= plots[0][0]:
                heappop(plots)[2]()
            if self.ready:
                batch, self.ready = self.ready, []
            else:
                batch = self._due()
            if len(batch) > 1:
                self._mix(batch)
            self.turns += len(batch)
            if self.stopped:
                batch = list(self._awake(batch))
            for callback, args, context, cancelled, _ in batch:
                if cancelled:
                    continue
                try:
                    context.run(callback, *args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self._errors.append(error)
            if self._errors:
                first, self._errors = self._errors[0], []
                raise first
            if self._stopping:  # type: ignore[attr-defined]
                return

    def _due(self) -> list[_Callback]:
        """Jumps to the next timer and returns everything due then."""
        timers = self._timers
        while timers:
            at, _, first = heappop(timers)
            if not first[3]:
                break
        else:
            if self._stopping:  # type: ignore[attr-defined]
                return []
            raise Idle("nothing is scheduled, so nothing will ever happen")
        when = self.now
        if at > when:
            when = self.now = at
        found = [first]
        while timers and timers[0][0] <= when:
            handle = heappop(timers)[2]
            if not handle[3]:
                found.append(handle)
        return found

    def _mix(self, batch: list[_Callback]) -> None:
        random, later = self._draw, self._later
        for i in range(len(batch) - 1, 0, -1):
            j = int(random() * (i + 1))
            batch[i], batch[j] = batch[j], batch[i]
        if later and random() < later * len(batch):
            self.ready.append(batch.pop())

    def _awake(self, batch: list[_Callback]) -> Iterator[_Callback]:
        """Callbacks of processes that are not stopped; others wait until resumption."""
        for handle in batch:
            process = handle[2].get(_PROCESS)
            if process is not None and process.stopped:
                process.held.append(handle)
            else:
                yield handle

    def fail(self, error: BaseException) -> None:
        """Ends the whole run with this error, whatever the running code does with errors."""
        self._errors.append(error)

    def at_turn(self, turn: int, act: Callable[[], None]) -> None:
        """Acts as soon as a number of callbacks have run: at an await, regardless of time."""
        self._numbers += 1
        heappush(self._plots, (turn, self._numbers, act))

    def unwind(self) -> None:
        """Ends all remaining tasks, so that nothing of this story reaches the next."""
        asyncio.events._set_running_loop(self)
        try:
            for process in self.processes:
                process.kill()
            for _ in range(50):
                left = [task for task in self._all_tasks() if not task.done()]
                if not left:
                    break
                for task in left:
                    task.cancel()
                for _ in range(20):
                    if self.ready:
                        self._run_quietly()
        finally:
            asyncio.events._set_running_loop(None)
            self._timers.clear()
            self.ready.clear()
            self._plots.clear()
            self._of_nobody.clear()
            for process in self.processes:
                process.forget()

    def _all_tasks(self) -> Iterator[asyncio.Task[Any]]:
        for process in self.processes:
            yield from process.tasks
        yield from self._of_nobody

    def _run_quietly(self) -> None:
        """One turn without error reports: what is being unwound no longer matters."""
        batch, self.ready = self.ready, []
        for handle in batch:
            if not handle[3]:
                with contextlib.suppress(Exception):
                    handle[2].run(handle[0], *handle[1])


def run(loop: VirtualLoop, main: Coroutine[Any, Any, T]) -> T:
    """Runs one story on its loop, and closes the loop. Raises the first error of any callback.

    Cycles are collected between stories only: the timing of a collection is not part of a story.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.unwind()
        loop.close()
        if collecting:
            gc.enable()
