"""The planner in separate processes: each uses a whole core, and a controller must not miss a heartbeat.

A worker loads the estate once from its files; only roles and plan bytes are exchanged. Workers run at a lower
priority than the controller. A worker has every plan checked before it returns it, so that a leader can run a
standby plan at once. After a change of the estate a plan with the same inputs is kept if the checker accepts
it for the current estate; scenarios with the same inputs share one plan.

For a site that burns before its plan is ready there is one extra worker with the priority of a controller. It
is opened in advance, also in controllers that do not lead, and does no searching. The checker is not called
again for inputs that this process, by their digest, has seen accepted; after a restart it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from evac.app.planner.desk import Based, Domain, Place, Told
from evac.app.side_process import Apart
from evac.derive.basis import RowsSaid, may_keep
from evac.engine.plans.library import Made, digest_of
from evac.engine.plans.queue import Ready, WantedPlan, Work
from evac.model.errors import Corrupt, EvacError, InvalidInput, PlanError, UnsafePlan
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy

BUDGET_MS: Final = 5_000
SMALL: Final = 300
"""Up to this many servers, one worker makes all plans of an estate."""
LANES: Final = 2
OPEN_S: Final = 1.0
"""How often to check that the worker for urgent plans knows the latest observation."""
NICENESS: Final = 5


def waivers_of(policy: RunPolicy) -> tuple[str, ...]:
    """Stores that may be promoted beyond their RPO: the run asks a person, unless policy allows it."""
    return tuple(sorted(s.store for s in policy.stores.values() if s.async_promotion != "never"))


def lanes_for(servers: int) -> int:
    """Number of workers on this machine for an estate with this many servers."""
    return 1 if servers <= SMALL else min(LANES, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Lying:
    """An accepted plan of one basis. whole, body: see `Told`."""

    digest: str
    searched: bool
    whole: str
    body: str = ""


@dataclass(slots=True)
class _Known:
    """Results for the observed estate: what scenarios take, the basis of each set of equal ones, and a plan
    of each basis.
    """

    seen: Observation
    takes: dict[tuple[str, ...], str] = field(default_factory=dict)
    bases: dict[str, Based] = field(default_factory=dict)
    made: dict[str, _Lying] = field(default_factory=dict)


class PlanningWorker:
    """A `Planning` for the plan library. Workers are started on first use, and again if they die.

    seen: current roles of stores. servers: of the estate.
    """

    def __init__(
        self,
        path: Path,
        as_of: date | None,
        policy: RunPolicy,
        budget_ms: int = BUDGET_MS,
        seen: Callable[[], Observation] = lambda: Observation(0),
        servers: int = 0,
    ) -> None:
        self._place = Place(str(path), as_of, waivers_of(policy))
        self._budget_ms, self._seen = budget_ms, seen
        self.lanes = lanes_for(servers)
        self._workers = [*(Apart(NICENESS) for _ in range(self.lanes)), Apart()]
        self._known = _Known(Observation(0))
        self._rows: dict[str, RowsSaid] = {}
        self._stood: dict[tuple[str, ...], _Lying] = {}
        self._opening: list[asyncio.Future[Any]] = []

    def take(self, path: Path, servers: int) -> None:
        """Switch to another estate. Results of the previous one are dropped, except rows and plan inputs,
        which name everything they depend on.
        """
        self._place = replace(self._place, path=str(path))
        self._known = _Known(self._seen())

    def _now(self) -> _Known:
        """Results for the current estate."""
        seen = self._seen()
        if self._known.seen.facts != seen.facts:
            self._known = _Known(seen)
        return self._known

    async def stay_open(self) -> None:
        """Keep the worker for urgent plans open with the current estate, until cancelled."""
        from evac.app.planner import desk

        opened: Observation | None = None
        while True:
            seen = self._seen()
            if opened is None or opened.facts != seen.facts or not self._workers[self.lanes].pids:
                with contextlib.suppress(EvacError):
                    await self._ask(self.lanes, desk.opened, seen)
                    opened = seen
            await asyncio.sleep(OPEN_S)

    async def scenarios(self) -> Sequence[WantedPlan]:
        """See `Planning`. The other workers read the estate meanwhile and report errors when asked for a
        plan.
        """
        from evac.app.planner import desk

        now = self._now()
        self._opening = [
            asyncio.ensure_future(self._ask(lane, desk.opened, now.seen)) for lane in range(1, self.lanes)
        ]
        for opening in self._opening:
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        found: tuple[Domain, ...] = await self._ask(0, desk.scenarios, now.seen)
        now.takes = {one.lost: one.takes for one in found}
        self._rows = {takes: self._rows[takes] for takes in now.takes.values() if takes in self._rows}
        self._stood = {lost: lying for lost, lying in self._stood.items() if lost in now.takes}
        return [WantedPlan(one.lost, one.kind, one.people, one.takes) for one in found]

    async def stand(
        self,
        lane: int,
        lost: tuple[str, ...],
        work: Work,
        known: Ready | None,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made:
        """See `Planning`."""
        from evac.app.planner import desk

        now = self._now()
        based = await self._basis(lane, lost, now)
        found, refused = None, False
        if work != "search" and known is not None and known.plan:
            found, refused = await self._lies_there(lane, lost, now, based, known, load)
        if found is None:
            found = await self._shared(lane, lost, work, now, based, load)
        if found is not None:
            return found
        ms = 0 if work in ("now", "make") else self._budget_ms
        try:
            told: Told = await self._ask(lane, desk.plan, now.seen, lost, ms)
        except EvacError as error:
            if refused:
                raise UnsafePlan(error.code, error.message, error.hint) from error
            raise
        return self._lay(lost, now, based, told, ms > 0 or told.best)

    def _lay(
        self,
        lost: tuple[str, ...],
        now: _Known,
        based: Based,
        told: Told,
        searched: bool,
        again: bool = False,
    ) -> Made:
        """Store a plan that was made or accepted; again: it is the existing one."""
        lying = _Lying(digest_of(told.data), searched, told.whole, told.body)
        now.made[str(based.basis)] = self._stood[lost] = lying
        return Made(told.data, told.basis, searched, confirmed=again)

    async def _basis(self, lane: int, lost: tuple[str, ...], now: _Known) -> Based:
        """The basis of a loss, computed once for losses that take the same things."""
        from evac.app.planner import desk

        takes = now.takes.get(lost)
        if takes is not None and takes in now.bases:
            return now.bases[takes]
        rows = None if takes is None else self._rows.get(takes)
        based: Based = await self._ask(lane, desk.basis, now.seen, lost, rows)
        if takes is not None:
            now.bases[takes], self._rows[takes] = based, based.rows
        return based

    async def _lies_there(
        self,
        lane: int,
        lost: tuple[str, ...],
        now: _Known,
        based: Based,
        known: Ready,
        load: Callable[[str], Awaitable[bytes]],
    ) -> tuple[Made | None, bool]:
        """The existing plan, if it has the same inputs and the checker accepts it, and whether the checker
        refuses it: a plan that cannot be checked is refused.
        """
        if not may_keep(known.basis, str(based.basis)):
            return None, False
        try:
            told = await self._still(lane, lost, now, based, known.plan, await load(known.plan))
        except Corrupt:
            return None, True
        except InvalidInput:
            told = None
        if told is None:
            return None, True
        return self._lay(lost, now, based, told, known.searched, again=True), False

    async def _shared(
        self,
        lane: int,
        lost: tuple[str, ...],
        work: Work,
        now: _Known,
        based: Based,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made | None:
        """The plan of another loss in this estate with the same inputs."""
        lies = now.made.get(str(based.basis))
        if lies is None or (work == "search" and not lies.searched):
            return None
        with contextlib.suppress(Corrupt):  # another lane has made it and is writing it
            told = await self._again(lane, lost, now, lies.whole, await load(lies.digest))
            if told is not None:
                return self._lay(lost, now, based, told, lies.searched)
        return None

    async def _still(
        self, lane: int, lost: tuple[str, ...], now: _Known, based: Based, digest: str, data: bytes
    ) -> Told | None:
        """The existing plan; None if the checker refuses it. Not checked if it was already accepted for all
        its current inputs.
        """
        from evac.app.planner import desk

        stood = self._stood.get(lost)
        told: Told | None = None
        if stood is not None and stood.digest == digest and stood.whole == based.basis.whole:
            told = await self._again(lane, lost, now, stood.whole, data)
        if told is None:
            lies = now.made.get(str(based.basis))
            accepted = lies.body if lies is not None and lies.whole == based.basis.whole else ""
            told = await self._ask(lane, desk.still, now.seen, lost, data, accepted)
        return told

    async def _again(
        self, lane: int, lost: tuple[str, ...], now: _Known, whole: str, data: bytes
    ) -> Told | None:
        from evac.app.planner import desk

        told: Told | None = await self._ask(lane, desk.again, now.seen, lost, data, whole)
        return told

    async def plan(self, observation: Observation, lost: Sequence[str]) -> bytes:
        """Search a plan for a loss; return its canonical bytes. Raises PlanError; InvalidInput with the
        planner's message.
        """
        from evac.app.planner import desk

        found: Told = await self._ask(0, desk.plan, observation, tuple(lost), self._budget_ms)
        return found.data

    async def _ask(self, lane: int, work: Callable[..., Any], *more: Any) -> Any:
        try:
            found = await self._workers[lane].ask(work, self._place, *more)
        except BrokenProcessPool as error:
            raise PlanError(
                "planner-died", "the planning process ended unexpectedly", "it is started again"
            ) from error
        if isinstance(found, tuple) and found and isinstance(found[0], str):
            raise InvalidInput(*found)
        return found

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return tuple(pid for worker in self._workers for pid in worker.pids)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
