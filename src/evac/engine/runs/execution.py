"""Executes one run: the journal, the resulting state, and the running steps.

Persist before acting: the start of a step is durable in the journal, under our lease, before the step has any
effect; its result follows. One task writes and decides; steps run in other tasks. If the execution ends (lost
lease, conflict, crash), steps remain without a result, and the next leader looks at the world before
retrying.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from evac.engine.boots.binding import PowerGate, sent_before
from evac.engine.clock import Clock, RunClock
from evac.engine.pool import Pool
from evac.engine.runs import requests
from evac.engine.runs.admitting import Admission, FreeAdmission, carry_out
from evac.engine.runs.performing import LATE_AGAIN_MS, Outcome, Performer, Terms, Try
from evac.engine.runs.reading import NOTHING, Leading, Recorder, reload
from evac.engine.stores.datasets import HELD
from evac.engine.stores.guards import HOLD_ENDED, HOLD_KEY, SOMEBODY, Permit, read_hold
from evac.model.collector import collect_seldom, collector_at_rest
from evac.model.errors import Conflict, EvacError, LeaseLost, Retryable, RunError, StalePlan, Unavailable
from evac.model.records import dataclass
from evac.run.decide import decide, next_ms, withdraw
from evac.run.patience import LATE, deadline_ms
from evac.run.state import apply, apply_in_parts
from evac.run.values import ENDED, Effect, Event, RunPhase, RunStep
from evac.run.view import RunView
from evac.store.anchors import key_of
from evac.store.journal import Journal
from evac.store.port import Compare, Delete, Entry, Store

BATCH: Final = 256
"""Starts decided at once; their events fit a few segments."""
FLYING_MOST: Final = 65_536
JOINED_MOST: Final = 48
"""Compares and changes of delicate steps per transaction; a few more are added."""
SLEEP_MOST_S: Final = 1.0
READ_AGAIN_S: Final = 0.2
LATE_MS: Final = 1_000
"""Steps under a rate limit begin at most this long after the time in the journal."""
_NO_HOLD: Final = Permit((Compare(HOLD_KEY, 0),))
_EXPECTED: Final = {"start": "running", "observe": "unknown", "undo": "undoing"}


@dataclass(frozen=True, slots=True)
class Hooks:
    """Hooks for outside participants in an execution."""

    heard: Callable[[Sequence[Event]], None] = lambda events: None
    """Receives events once they are durable."""
    boundary: Callable[[int], None] | None = None
    """Called with the number of every boundary between a journal record and an effect."""
    consent: Callable[[RunView, Event], Awaitable[Permit]] | None = None
    """What is written with an approval; raises NotAllowed for one that cannot be accepted."""


class Work(NamedTuple):
    doing: str
    one: Try


class _Asked(NamedTuple):
    """An event of a delicate step to be written, with its permit."""

    event: Event
    permit: Permit
    answer: asyncio.Future[None]
    step: RunStep | None = None
    fits: Callable[[RunView], bool] | None = None
    """Called right before the write."""


class RunExecution:
    """Executes one run until it ends, the lease is lost, or `stop` is called."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        view: RunView,
        leading: Leading,
        terms: Terms,
        clock: Clock,
        *,
        admission: Admission | None = None,
        request_terms: requests.RequestTerms | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.view = view
        self._store, self._leading, self._terms = store, leading, terms
        self._hooks = hooks or Hooks()
        self._reached = 0
        boundary = self._boundary if self._hooks.boundary is not None else _nothing
        self._clock = RunClock(clock, view.last_ms)
        self._recorder = Recorder(journal, leading, boundary)
        gate = PowerGate(self._capacity_of, sent_before(view), terms.authority.check)
        self._switched_on: list[Try] = []
        self._performer = Performer(terms, boundary, gate, self._switched_on.append)
        self._admission: Admission = admission or FreeAdmission()
        self._request_terms = request_terms or requests.RequestTerms()
        self._pool: Pool[Work] = Pool(self._perform, FLYING_MOST, self._fail)
        self._flying: set[str] = set()
        self._results: list[tuple[Work, Outcome]] = []
        self._asked: deque[_Asked] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._look_outside = True
        self._stopping = self._over = False

    def _capacity_of(self, limit: str) -> int:
        return self.view.limits.capacity_of(limit)

    @property
    def journal(self) -> Journal:
        return self._recorder.journal

    def now_ms(self) -> int:
        """The time of this run."""
        return self._clock.now_ms()

    async def run(self) -> RunPhase:
        """The phase in which it ended or stopped. Raises `LeaseLost`, `Conflict`: then nothing more is done
        here, and the next leader continues.
        """
        collect_seldom()
        for prefix in (requests.prefix_of(self.view.spec.run), HOLD_KEY):
            self._spawn(self._listen(prefix))
        try:
            while self.view.phase not in ENDED and not self._stopping:
                if self._failure is not None:
                    raise self._failure
                self._leading.check()
                await self._turn()
            return self.view.phase
        finally:
            await self._end()

    def stop(self) -> None:
        """Nothing new begins; running steps are left to the next leader."""
        self._stopping = True
        self._wake.set()

    def lost(self) -> None:
        """The lease has ended: cancels every running effect at once."""
        self._fail(LeaseLost(self._leading.lease.name))

    async def say(
        self, event: Event, permit: Permit = NOTHING, fits: Callable[[RunView], bool] | None = None
    ) -> None:
        """Writes an event from outside (a new plan, drift, another pace). fits: whether it still matches the
        present state; StalePlan if not. Raises RunError if the state does not allow it.
        """
        await self._ask(event._replace(at_ms=self._clock.now_ms()), permit, None, fits)

    async def _turn(self) -> None:
        """Writes everything that is due now in one transaction, then starts its effects."""
        self._wake.clear()
        batch = [*self._take_switched_on(), *self._take_results()]
        works: list[Work] = []
        kept = self._decide(batch, works)
        if batch:
            await self._write(batch, kept, works)
        starts = [work for work in works if work.doing == "start"]
        self._pool.put((work for work in works if work.doing != "start"), starts)
        idle = not batch and not works and not self._asked
        while self._asked:
            await self._write_asked()
        if self._look_outside:
            await self._read_outside()
        elif idle and not self._results and self.view.phase not in ENDED:
            await self._sleep()

    def _take_switched_on(self) -> list[Event]:
        """Servers switched on since the last write, so that the next leader knows. Nothing waits for it."""
        if not self._switched_on:
            return []
        tries, self._switched_on[:] = self._switched_on.copy(), ()
        view, found = self.view, []
        for one in tries:
            i = view.index.get(one.step.id, -1)
            if i >= 0 and view.phases[i] == "running" and view.attempts[i] == one.attempt:
                found.append(one.step.id)
        now_ms, events = self._clock.now_ms(), []
        for first in range(0, len(found), BATCH):
            event = Event("switched_on", now_ms, data={"steps": found[first : first + BATCH]})
            apply(view, event)
            events.append(event)
        return events

    def _take_results(self) -> list[Event]:
        """Results as events, applied. A person's decision meanwhile overrides a late result."""
        if not self._results:
            return []
        results, self._results = self._results, []
        now_ms, view, events = self._clock.now_ms(), self.view, []
        for (doing, one), (kind, data) in results:
            self._flying.discard(one.step.id)
            i = view.index.get(one.step.id, -1)
            if i < 0 or view.phases[i] != _EXPECTED[doing] or view.attempts[i] != one.attempt:
                if i >= 0:
                    withdraw(view, one.step.id)
                continue
            event = Event(kind, now_ms, one.step.id, one.attempt, data)
            apply(view, event)
            events.append(event)
        return events

    def _decide(self, batch: list[Event], works: list[Work]) -> int:
        """Adds and applies the events that follow; returns the number before the first start."""
        view, now_ms = self.view, self._clock.now_ms()
        room = min(BATCH, FLYING_MOST - len(self._flying))
        while effects := decide(view, now_ms, room):
            if effects[0].kind != "record":
                kept = len(batch)
                self._take_up(effects, now_ms, batch, works)
                return kept
            for effect in effects:
                if effect.event is not None:
                    apply(view, effect.event)
                    batch.append(effect.event)
        return len(batch)

    def _take_up(self, effects: list[Effect], now_ms: int, batch: list[Event], works: list[Work]) -> None:
        view, token, flying = self.view, self._leading.token, self._flying
        patience, concerns = view.spec.patience, self._admission.concerns
        for kind, name, attempt, _, _ in effects:
            i = view.index[name]
            step = view.steps[i]
            if name in flying:
                continue
            if concerns(step):
                flying.add(name)
                self._spawn(carry_out(self, self._admission, kind, step, attempt))
                continue
            if kind == "start":
                data = {"token": token, "epoch": 0, "deadline_ms": deadline_ms(patience, step)}
                batch.append(Event("step_started", now_ms, name, attempt, data))
                apply(view, batch[-1])
            elif kind == "undo":
                told = {"token": token, "who": view.cancel_who, "reason": "rolled back"}
                batch.append(Event("undo_started", now_ms, name, attempt, told))
                apply(view, batch[-1])
            if not step.manual or kind != "start":
                flying.add(name)
                works.append(Work(kind, self.try_of(kind, i, 0)))

    def try_of(self, doing: str, i: int, epoch: int) -> Try:
        """The present try of step i."""
        view = self.view
        step = view.steps[i]
        tries = view.undo.tries.get(i, 1) if doing == "undo" else view.tries[i]
        cycle = doing == "start" and i in view.boots.cycled
        attempt, unseen = view.attempts[i], view.unseen.get(i) == view.attempts[i]
        return Try(step, step.id, attempt, tries, epoch, i in view.undo.unclear, cycle, unseen)

    async def _write(self, batch: list[Event], kept: int, works: list[Work]) -> None:
        """One write. A hold set meanwhile stops the starts and nothing else."""
        permit = _NO_HOLD if kept < len(batch) else NOTHING
        try:
            await self._recorder.append(batch, permit)
        except Conflict as error:
            if error.key != HOLD_KEY:
                raise
            for work in works:
                self._flying.discard(work.one.step.id)
            works.clear()
            if kept:
                await self._recorder.append(batch[:kept])
            self._hooks.heard(batch[:kept])
            self.view = await reload(self._store, self.view)
            self._look_outside = True
            return
        self._hooks.heard(batch)

    async def _write_asked(self) -> None:
        """Writes the events of delicate steps: in one transaction where possible, else one by one."""
        group = self._next_asked()
        if group and group[0].event.kind == "plan_replaced":
            await self._write_plan(group[0])
            return
        if len(group) > 1:
            try:
                await self._write_group(group)
                return
            except Conflict as error:
                if self._is_ours(error.key):
                    raise
        for asked in group:
            try:
                await self._write_group([asked])
            except Conflict as error:
                if self._is_ours(error.key):
                    raise
                if not asked.answer.done():  # the caller may be cancelled meanwhile
                    asked.answer.set_exception(error)

    async def _write_plan(self, asked: _Asked) -> None:
        """Writes another plan. Others run during that long operation, but nothing is applied meanwhile."""
        try:
            after = self.view
            with collector_at_rest():  # one search through all steps would be the longest stop
                for part in apply_in_parts(self.view, asked.event):
                    after = part
                    await asyncio.sleep(0)
            await self._recorder.append((asked.event,), asked.permit)
        except (RunError, Conflict) as error:
            if isinstance(error, Conflict) and self._is_ours(error.key):
                raise
            if not asked.answer.done():
                asked.answer.set_exception(error)
            return
        self.view.become(after)
        if not asked.answer.done():
            asked.answer.set_result(None)
        self._hooks.heard((asked.event,))

    def _next_asked(self) -> list[_Asked]:
        """The first waiting events that fit one transaction and do not touch what another of them has
        read.
        """
        group: list[_Asked] = []
        steps, touched, size = set[str](), set[str](), 0
        read: dict[str, int] = {}
        while self._asked:
            asked = self._asked[0]
            mine = {change.key for change in asked.permit.changes}
            size += len(asked.permit.compares) + len(asked.permit.changes)
            apart = asked.event.step not in steps and not mine & touched and not mine & read.keys()
            for compare in asked.permit.compares:
                same = read.get(compare.key, compare.revision) == compare.revision
                apart = apart and same and compare.key not in touched
            if group and not (apart and asked.event.step and size <= JOINED_MOST):
                break
            self._asked.popleft()
            if self._may_write(asked):
                group.append(asked)
                steps.add(asked.event.step)
                touched |= mine
                read |= {compare.key: compare.revision for compare in asked.permit.compares}
            if not asked.event.step:
                break
        return group

    def _may_write(self, asked: _Asked) -> bool:
        """A journal never holds what the tables forbid."""
        if asked.answer.done():
            return False
        try:
            if asked.fits is not None and not asked.fits(self.view):
                raise StalePlan("plan-stale", f"{self.view.spec.run} changed in the meantime")
            _check_same(self.view, asked.step)
            requests.check_event(self.view, asked.event)
        except (RunError, StalePlan) as error:
            asked.answer.set_exception(error)
            return False
        return True

    async def _write_group(self, group: list[_Asked]) -> None:
        permit = NOTHING
        for asked in group:
            permit = permit | asked.permit
            if asked.event.kind in ("step_started", "undo_started"):
                permit = permit | _NO_HOLD
        events = [asked.event for asked in group]
        await self._recorder.append(events, permit)
        for asked in group:
            apply(self.view, asked.event)
            if not asked.answer.done():
                asked.answer.set_result(None)
        self._hooks.heard(events)

    def _is_ours(self, key: str) -> bool:
        """Whether the conflict is in the journal itself."""
        return key.startswith(key_of(self.journal.stream, 0)[:-12])

    async def _ask(
        self,
        event: Event,
        permit: Permit,
        step: RunStep | None = None,
        fits: Callable[[RunView], bool] | None = None,
    ) -> None:
        if self._over:
            raise _over(self.view)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(event, permit, answer, step, fits))
        self._wake.set()
        await answer

    async def ask(
        self,
        kind: str,
        step: RunStep,
        attempt: int,
        data: dict[str, Any],
        permit: Permit,
        under_way: bool = False,
    ) -> None:
        """Writes an event of a delicate step. under_way: it had begun, so that a new plan keeps it. Raises
        `Conflict` when the permit does not hold, RunError when the plan or the state has changed.
        """
        event = Event(kind, self._clock.now_ms(), step.id, attempt, data)
        await self._ask(event, permit, None if under_way else step)

    def landed(self, step: str) -> None:
        """A delicate step has finished, or its offer is returned."""
        self._flying.discard(step)
        if step in self.view.index:
            withdraw(self.view, step)
        self._wake.set()

    async def perform(self, doing: str, one: Try) -> Outcome:
        if doing == "start":
            return await self._performer.start(one)
        if doing == "undo":
            return await self._performer.undo(one)
        return await self._performer.observe(one)

    async def _perform(self, work: Work) -> None:
        outcome = self._too_late(work) or await self.perform(*work)
        self._results.append((work, outcome))
        self._wake.set()

    def _too_late(self, work: Work) -> Outcome | None:
        """If the store took too long to write a start, its windows would be held from too early: nothing of
        it has begun, so it starts again.
        """
        doing, one = work
        i = self.view.index.get(one.step.id, -1)
        if doing != "start" or not one.step.uses or i < 0:
            return None
        late_ms = self._clock.now_ms() - self.view.started[i]
        if late_ms <= LATE_MS or not any(hold_ms > 0 for _, _, hold_ms in self.view.limits.uses(one.step)):
            return None
        words = f"its start was recorded {late_ms} ms after it was decided"
        return "step_failed", {"code": LATE, "message": words, "again_ms": LATE_AGAIN_MS}

    async def _sleep(self) -> None:
        """Sleeps until something happens or is due."""
        if self._wake.is_set() or self._failure is not None or self._stopping:
            return
        due = next_ms(self.view)
        wait_s = SLEEP_MOST_S if due is None else (due - self._clock.now_ms()) / 1_000
        timer = asyncio.get_running_loop().call_later(max(0.0, min(wait_s, SLEEP_MOST_S)), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _listen(self, prefix: str) -> None:
        """Watches the store for requests."""
        while True:
            with contextlib.suppress(Unavailable):
                async for _ in self._store.watch(prefix):
                    self._look_outside = True
                    self._wake.set()
            await asyncio.sleep(READ_AGAIN_S)

    async def _read_outside(self) -> None:
        """Reads the hold and people's requests. A store that does not answer is asked again soon."""
        self._look_outside = False
        try:
            await self._read_hold(await read_hold(self._store))
            for entry in await self._store.list(requests.prefix_of(self.view.spec.run), limit=BATCH):
                if self.view.phase not in ENDED:
                    await self._ingest(entry)
        except Unavailable:
            asyncio.get_running_loop().call_later(READ_AGAIN_S, self._hinted)

    def _hinted(self) -> None:
        self._look_outside = True
        self._wake.set()

    async def _read_hold(self, told: dict[str, Any] | None) -> None:
        if (told is not None) == bool(self.view.held) or self.view.phase in ENDED:
            return
        kind = "held" if told is not None else "released"
        if told is None:
            told = await read_hold(self._store, HOLD_ENDED) or {"who": SOMEBODY, "reason": ""}
        await self._put(Event(kind, self._clock.now_ms(), data=told), NOTHING)

    async def _ingest(self, entry: Entry) -> None:
        """Turns a request into an event and deletes it, in one transaction."""
        now_ms, verb, who, glass = self._clock.now_ms(), "?", "?", None
        taken = Permit((Compare(entry.key, entry.revision),), (Delete(entry.key),))
        try:
            request = requests.decode(entry.key, entry.value)
            verb, who = request.verb, request.who
            if self._request_terms.learn is not None:
                request = await self._request_terms.learn(self.view.spec.run, request)
            glass = request.glass
            event = requests.event_of(self.view, request, now_ms, self._request_terms)
            await self._put_admitted(event, taken)
        except EvacError as error:
            if isinstance(error, LeaseLost | Unavailable):
                raise
            if isinstance(error, Conflict):
                if self._is_ours(error.key):
                    raise
                self._look_outside = True
                return
            # It waits, and so does whoever asked: a dead leader may hold the store for a moment yet.
            if isinstance(error, Retryable) and (verb == "approve" or error.code == HELD):
                asyncio.get_running_loop().call_later(READ_AGAIN_S, self._hinted)
                return
            await self._put(requests.refused(entry.key, verb, who, error, now_ms, glass), taken)

    async def _put_admitted(self, event: Event, permit: Permit) -> None:
        """Concludes an attested delicate step like an observed one."""
        if event.kind == "approved" and self._hooks.consent is not None:
            permit = permit | await self._hooks.consent(self.view, event)
        i = self.view.index.get(event.step, -1)
        if event.kind != "step_attested" or not self._admission.concerns(self.view.steps[i]):
            await self._put(event, permit)
            return
        step, run = self.view.steps[i], self.view.spec.run
        async with self._admission.enter(run, step, event.attempt, "observe") as admitted:
            await self._put(event, permit | await admitted.conclude(event))

    async def _put(self, event: Event, permit: Permit) -> None:
        await self._recorder.append((event,), permit)
        apply(self.view, event)
        self._hooks.heard((event,))

    def _boundary(self) -> None:
        self._reached += 1
        if self._hooks.boundary is not None:
            self._hooks.boundary(self._reached)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stops every effect; the loop raises the first failure."""
        if self._failure is None:
            self._failure = error
        self._pool.stop()
        for task in self._tasks:
            task.cancel()
        self._wake.set()

    async def _end(self) -> None:
        self._over = True
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(_over(self.view))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._pool.close()


def _check_same(view: RunView, step: RunStep | None) -> None:
    """A step admitted under one plan must not begin under the next, where its id may mean something else."""
    if step is not None and view.steps[view.number(step.id)] is not step:
        raise RunError("step-replaced", f"{step.id} is a different action in the current plan")


def _over(view: RunView) -> RunError:
    return RunError("run-over", f"the run is no longer being executed here; it is {view.phase}")


def _nothing() -> None:
    """Ignores boundaries."""
