"""Watches completed actions for drift, such as a proxy reload or zone push that pools the dead site again.

Traffic that drifted is corrected; a store that changed its role by itself is only reported, because moving a
store again needs a person or a verdict. This module owns what is watched and how often; drivers and the event
sink are injected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from evac.drivers.port import Action, Driver, Evidence, Observed, Order, Verb
from evac.drivers.registry import acts
from evac.engine.clock import Clock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.desk import Desk
from evac.engine.runs.open_runs import InHand
from evac.model.errors import ActionError, Conflict, EvacError, NotAllowed, RunError, Unavailable
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.run.values import Event
from evac.run.view import RunView
from evac.steps.registry import kind_of

TRAFFIC: Final[frozenset[Verb]] = frozenset({"drain", "ready", "shift"})
ROLES: Final[frozenset[Verb]] = frozenset({"fence", "promote", "protect", "demote", "rejoin"})

REDONE: Final[frozenset[Verb]] = TRAFFIC | {"protect"}
"""Verbs that are repeated without asking: they move traffic, or restate which replica is synchronous in the
epoch that decided it. Any other changed role of a store is reported, never reverted.
"""

_DUE_MS: Final = attrgetter("due_ms")

SAMPLES: Final = 2
"""How often in a row a thing must look undone: a restarting server gives wrong answers for a moment."""


@dataclass(frozen=True, slots=True)
class Done:
    """A completed action."""

    step: str
    action: Action
    order: Order
    """The order that it was done under, also used to observe it."""
    at_ms: int


@dataclass(frozen=True, slots=True)
class Drift:
    """A completed action that no longer holds."""

    step: str
    action: Action
    evidence: Evidence
    undone: bool
    """Whether evac corrected it."""
    failure: str = ""
    """Why it could not be corrected."""
    times: int = 1
    """How often it has happened; it is reported the first, second, fourth time, and so on."""

    @property
    def words(self) -> str:
        action = self.action
        state = "was corrected" if self.undone else "is not corrected automatically"
        words = f"{action.verb} of {action.target} at {action.at or '-'} was undone elsewhere; it {state}"
        return f"{words}, {self.times} times so far" if self.times > 1 else words


class DriftWatch:
    """Observes completed actions for `span_ms`, each at most every `period_ms`.

    may_act: asked before anything is done again; while false (another leader, a hold), drift is only
    reported. lasts: whether to keep watching an action after its time. rate: observations per second in
    total.
    """

    def __init__(
        self,
        driver_of: Callable[[str], Driver],
        clock: Clock,
        tell: Callable[[Drift], Awaitable[None]],
        may_act: Callable[[Done], Awaitable[bool]],
        *,
        lasts: Callable[[Done], bool] = lambda done: False,
        span_ms: int = 1_800_000,
        period_ms: int = 5_000,
        rate: int = 20,
        most: int = 10_000,
    ) -> None:
        assert rate > 0
        self._driver_of, self._clock, self._tell, self._may_act = driver_of, clock, tell, may_act
        self._lasts = lasts
        self._span_ms, self._period_ms, self._gap_ms = span_ms, period_ms, -(-1_000 // rate)
        self._queue: deque[_Watched] = deque(maxlen=most)

    def add(self, step: str, actions: Sequence[Action], order: Order) -> None:
        """Watches a completed step and stops watching what it replaces."""
        now_ms = self._clock.monotonic_ms()
        for action in actions:
            if acts(action.driver) and _is_watched(action):
                done = Done(step, action, order, now_ms)
                self._forget(done)
                self._queue.append(_Watched(done, now_ms + self._period_ms))

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Observes until cancelled."""
        while True:
            wait_ms = await self.turn()
            await asyncio.sleep(max(wait_ms, self._gap_ms) / 1_000)

    async def turn(self) -> int:
        """Observes what is due next. Returns the time until the next observation is due."""
        now_ms = self._clock.monotonic_ms()
        while self._queue and now_ms - self._queue[0].done.at_ms > self._span_ms:
            over = self._queue.popleft()
            if self._lasts(over.done):
                over.done = replace(over.done, at_ms=now_ms)
                self._queue.append(over)
        if not self._queue:
            return self._period_ms
        watched = min(self._queue, key=_DUE_MS)
        if watched.due_ms > now_ms:
            return watched.due_ms - now_ms
        watched.due_ms = now_ms + self._period_ms
        await self._look(watched)
        return 0

    def _forget(self, new: Done) -> None:
        """Drops what an action replaces: at the same system, or in an older epoch of the same store."""
        kept = [watched for watched in self._queue if not _replaces(new, watched.done)]
        self._queue.clear()
        self._queue.extend(kept)

    async def _look(self, watched: _Watched) -> None:
        done = watched.done
        seen = await self._observe(done)
        if seen.outcome != "absent":
            watched.absent = 0 if seen.outcome == "done" else watched.absent
            watched.told = watched.told and seen.outcome != "done"
            return
        watched.absent += 1
        if watched.absent < SAMPLES:
            return
        if done.action.verb in REDONE and await self._may_act(done):
            await self._put_right(watched, seen)
        elif not watched.told:
            watched.told = True
            await self._say(watched, seen, undone=False)

    async def _observe(self, done: Done) -> Observed:
        """Drivers do not raise for what they find; one that raises counts as having seen nothing."""
        try:
            async with asyncio.timeout(done.order.timeout_s):
                return await self._driver_of(done.action.driver).observe(done.action, done.order)
        except (EvacError, TimeoutError):
            return Observed("unclear")

    async def _put_right(self, watched: _Watched, seen: Observed) -> None:
        done, failure = watched.done, ""
        try:
            async with asyncio.timeout(done.order.timeout_s):
                await self._driver_of(done.action.driver).execute(done.action, done.order)
        except (EvacError, TimeoutError) as error:
            failure = error.message if isinstance(error, EvacError) else "no answer in time"
        watched.absent = 0
        again = bool(failure) and watched.told
        watched.told = bool(failure)
        if not again:
            await self._say(watched, seen, undone=not failure, failure=failure)

    async def _say(self, watched: _Watched, seen: Observed, undone: bool, failure: str = "") -> None:
        """Reports less and less often: something that is undone every minute must not fill the journal."""
        watched.times += 1
        if watched.times & (watched.times - 1) == 0:
            done = watched.done
            await self._tell(Drift(done.step, done.action, seen.evidence, undone, failure, watched.times))


@dataclass(slots=True)
class _Watched:
    """One watched action."""

    done: Done
    due_ms: int
    absent: int = 0
    """How often in a row it looked undone."""
    told: bool = False
    """Whether that was reported and still holds."""
    times: int = 0
    """How often it was undone."""


def _is_watched(action: Action) -> bool:
    """Traffic, roles of stores, and feed breakers: one that reopens takes its servers with it."""
    if action.verb == "start":
        return "circuit" in action.parameters or "circuit" in action.settings
    return action.verb in TRAFFIC or action.verb in ROLES


def _replaces(new: Done, old: Done) -> bool:
    """Traffic that a later run moves is no longer watched by an earlier one: a system that was lost then and
    returns must not be set to the earlier decision.
    """
    one, other = new.action, old.action
    if one.target != other.target:
        return False
    if one.verb in TRAFFIC and other.verb in TRAFFIC and new.order.run != old.order.run:
        return True
    if one.verb in ROLES and other.verb in ROLES and old.order.epoch < new.order.epoch:
        return True
    same_kind = one.verb == other.verb or (one.verb in TRAFFIC and other.verb in TRAFFIC)
    same_system = (one.driver, one.at) == (other.driver, other.at)
    return same_kind and same_system and dict(one.settings) == dict(other.settings)


DRIFT_TIMEOUT_S: Final = 10.0


class DoneSteps:
    """Completed steps in one term. runs: the open ones, as they come and go."""

    def __init__(
        self,
        desk: Desk,
        leadership: Leadership,
        runs: Mapping[str, InHand],
        tell: Callable[[Any, str, Mapping[str, Any]], None],
    ) -> None:
        self._desk, self._lead, self._runs, self._tell = desk, leadership, runs, tell
        self._drift = DriftWatch(
            desk.driver,
            desk.clock,
            self._drifted,
            self._may_redo,
            lasts=self._lasts,
            span_ms=desk.drift_ms,
            period_ms=desk.drift_period_ms,
        )

    async def run(self) -> None:
        await self._drift.run()

    def watch(self, run: InHand, step: str, attempt: int) -> None:
        key = f"{run.spec.run}/{step}/again"
        order = Order(
            run.spec.run,
            step,
            attempt,
            self._lead.token,
            run.epochs.get(step, 0),
            "it drifted",
            DRIFT_TIMEOUT_S,
            key,
        )
        if run.execution is not None:
            self._drift.add(step, run.actions_of(run.execution.view, step), order)

    def watch_again(self, run: InHand, view: RunView) -> None:
        """Resumes watching what an earlier leader did recently, and breakers always. Roles of stores are left
        out, because only the leader that decided them knows their epochs.
        """
        since_ms = self._desk.clock.now_ms() - self._desk.drift_ms
        recent = (
            i
            for i, kind in enumerate(kind_of(step.kind) for step in view.steps)
            if view.phases[i] == "succeeded"
            and (kind.gives_power or (kind.moves_traffic and view.ended[i] >= since_ms))
        )
        for i in sorted(recent, key=view.ended.__getitem__):
            self.watch(run, view.steps[i].id, view.attempts[i])

    def _lasts(self, done: Done) -> bool:
        """Breakers are watched as long as their run is open."""
        run = self._runs.get(done.order.run)
        is_breaker = kind_of(StepId.parse(done.step).kind).gives_power
        return is_breaker and run is not None and run.execution is not None

    async def _may_redo(self, done: Done) -> bool:
        """Only while we lead, there is no hold, no guard refuses, and no newer epoch decided otherwise."""
        try:
            self._lead.check()
            windows = self._desk.policies.of(done.order.run).windows
            await self._desk.guards.may_act([(done.action.at, (done.action,))], windows)
            if done.action.verb == "protect":
                epoch = await self._desk.sets.read(done.action.target)
                if not epoch.settled or epoch.number != done.order.epoch:
                    return False
            # The checks took time, and the lease may have ended meanwhile.
            self._lead.check()
        except (ActionError, NotAllowed, Unavailable):
            return False
        return True

    async def _drifted(self, drift: Drift) -> None:
        told = {"step": drift.step, "undone": drift.undone, "failure": drift.failure}
        self._tell("drift", drift.words, told)
        for run in list(self._runs.values()):
            execution = run.execution
            if execution is None or drift.step not in execution.view.index:
                continue
            data = {"evidence": dict(drift.evidence), "undone": drift.undone}
            with contextlib.suppress(RunError, Conflict):
                await execution.say(Event("drift_seen", 0, drift.step, 0, data))
