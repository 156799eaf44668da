"""The planner in processes of its own: each takes a whole core, and a controller must not miss a heartbeat.

A worker loads the estate once from its files; what travels are roles and plan bytes. They run with less right
to a core than the controller has. A worker has every plan judged by the checker before it hands it over, so
that what lies ready can be carried out: the loop of a leader waits for no verdict. After a change of the
estate a plan that was made of the same is kept, if the checker accepts it for the estate as it is now; two
scenarios that are made of the same share one plan. For a site that burns while no plan of it lies ready there
is one worker more, with the right of a controller: it is open before it is needed, also where another
controller leads, and searches for nothing. The checker is not asked where it was given all that
before: what this process saw accepted, it knows by digest. After a new start it knows nothing, and asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
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
from evac.model.run_policy import RunPolicy

BUDGET_MS: Final = 5_000
SMALL: Final = 300
"""Servers of an estate up to which one worker makes all plans."""
LANES: Final = 2
OPEN_S: Final = 1.0
"""How often it is looked whether the worker for what is wanted at once knows what was seen last."""
NICENESS: Final = 5


def waivers_of(policy: RunPolicy) -> tuple[str, ...]:
    """Stores that may be promoted beyond their rpo: the run asks a person, unless policy allows it."""
    return tuple(sorted(s.store for s in policy.stores.values() if s.async_promotion != "never"))


def lanes_for(servers: int) -> int:
    """Workers of an estate of so many servers, on this machine."""
    return 1 if servers <= SMALL else min(LANES, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Lying:
    """A plan of one basis that the checker accepted. whole, body: see `Told`."""

    digest: str
    searched: bool
    whole: str
    body: str = ""


@dataclass(slots=True)
class _Known:
    """What was found out of the estate as it was observed: takes of scenarios, the basis of what takes the
    same, and a plan of each basis."""

    seen: Observation
    takes: dict[tuple[str, ...], str] = field(default_factory=dict)
    bases: dict[str, Based] = field(default_factory=dict)
    made: dict[str, _Lying] = field(default_factory=dict)


class PlanningWorker:
    """A `Planning` of the drawer. Workers are started when they are first needed, and again if they die.

    seen: roles of stores as they are now. servers: of the estate.
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
        """Another estate from now on; what was found out of the one before is forgotten, but for what its
        rows said and what its plans were made of: both name all that they hold for.
        """
        self._place = replace(self._place, path=str(path))
        self._known = _Known(self._seen())

    def _now(self) -> _Known:
        """What is known of the estate as it is now."""
        seen = self._seen()
        if self._known.seen.facts != seen.facts:
            self._known = _Known(seen)
        return self._known

    async def stay_open(self) -> None:
        """Keeps the worker for what is wanted at once open, with the estate as it is now, until cancelled."""
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
        """See `Planning`. The other workers read the estate meanwhile; what keeps one of them from that, it
        says when it is asked for a plan.
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
        """A plan that was made or accepted; again: it is the one that lay there."""
        lying = _Lying(digest_of(told.data), searched, told.whole, told.body)
        now.made[str(based.basis)] = self._stood[lost] = lying
        return Made(told.data, told.basis, searched, confirmed=again)

    async def _basis(self, lane: int, lost: tuple[str, ...], now: _Known) -> Based:
        """Of a loss; of losses that take the same it is worked out once."""
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
        """The plan that lies there, where it was made of the same and the checker accepts it, and whether the
        checker does not: a plan that cannot be judged is refused.
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
        """The plan of another loss in this estate that is made of the same."""
        lies = now.made.get(str(based.basis))
        if lies is None or (work == "search" and not lies.searched):
            return None
        with contextlib.suppress(Corrupt):  # another lane has made it and is about to write it
            told = await self._again(lane, lost, now, lies.whole, await load(lies.digest))
            if told is not None:
                return self._lay(lost, now, based, told, lies.searched)
        return None

    async def _still(
        self, lane: int, lost: tuple[str, ...], now: _Known, based: Based, digest: str, data: bytes
    ) -> Told | None:
        """The plan that lies there; None if the checker refuses it. Not asked where it accepted it for all
        that it is now.
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
        """Canonical plan bytes for a loss, searched for. Raises PlanError; InvalidInput with the planner's
        own words.
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
        """Of the workers that run."""
        return tuple(pid for worker in self._workers for pid in worker.pids)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
