"""The planner in processes of its own: each takes a whole core, and a controller must not miss a heartbeat.

A worker loads the estate once from its files; what travels are roles and plan bytes. They run with less right
to a core than the controller has. After a change of the estate a plan that was made of the same is kept, if
the checker accepts it for the estate as it is now; two scenarios that are made of the same share one plan.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from pathlib import Path
from typing import Any, Final

from evac.app.apart import Apart
from evac.app.planning_desk import Domain, Place, Told
from evac.engine.drawer import Made, digest_of
from evac.engine.standing import Ready, Wanted, Work
from evac.model.basis import may_keep
from evac.model.errors import Corrupt, InvalidInput, PlanError
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy

BUDGET_MS: Final = 5_000
SMALL: Final = 300
"""Servers of an estate up to which a plan is searched for at once, by one worker."""
LANES: Final = 2
NICENESS: Final = 10


def waivers_of(policy: RunPolicy) -> tuple[str, ...]:
    """Stores that may be promoted beyond their rpo: the run asks a person, unless policy allows it."""
    return tuple(sorted(s.store for s in policy.stores.values() if s.async_promotion != "never"))


def lanes_for(servers: int) -> int:
    """Workers of an estate of so many servers, on this machine."""
    return 1 if servers <= SMALL else min(LANES, os.cpu_count() or 1)


class PlanningWorker:
    """A `Planning` of the drawer. Workers are started when they are first needed, and again if they die.

    seen: roles of stores as they are now. servers: of the estate.
    """

    def __init__(
        self, path: Path, as_of: date | None, policy: RunPolicy, budget_ms: int = BUDGET_MS,
        seen: Callable[[], Observation] = lambda: Observation(0), servers: int = 0,
    ) -> None:  # fmt: skip
        self._place = Place(str(path), as_of, waivers_of(policy))
        self._budget_ms, self._seen, self._large = budget_ms, seen, servers > SMALL
        self.lanes = lanes_for(servers)
        self._workers = [Apart(NICENESS) for _ in range(self.lanes)]
        self._made: tuple[Observation | None, dict[str, tuple[str, bool]]] = (None, {})

    async def scenarios(self) -> Sequence[Wanted]:
        from evac.app import planning_desk

        found: tuple[Domain, ...] = await self._ask(0, planning_desk.scenarios, self._seen())
        return [Wanted((one.id,), one.kind, one.people) for one in found]

    async def stand(
        self, lane: int, lost: tuple[str, ...], work: Work, known: Ready | None,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made:  # fmt: skip
        """See `Planning`."""
        from evac.app import planning_desk

        seen = self._seen()
        if self._made[0] is None or self._made[0].members != seen.members:
            self._made = (seen, {})
        made = self._made[1]
        basis: str = await self._ask(lane, planning_desk.basis, seen, lost)
        found = None if work == "search" else await self._kept(lane, lost, seen, basis, known, load, made)
        if found is None:
            ms = 0 if self._large and work == "make" else self._budget_ms
            told: Told = await self._ask(lane, planning_desk.plan, seen, lost, ms)
            found = Made(told.data, told.basis, searched=ms > 0 or told.best)
        made[basis] = (digest_of(found.data), found.searched)
        return found

    async def _kept(
        self, lane: int, lost: tuple[str, ...], seen: Observation, basis: str, known: Ready | None,
        load: Callable[[str], Awaitable[bytes]], made: dict[str, tuple[str, bool]],
    ) -> Made | None:  # fmt: skip
        """A plan that was made of the same: of another loss in this estate, or the one that lies there."""
        with contextlib.suppress(Corrupt):  # another lane has made it and is about to write it
            return await self._kept_whole(lane, lost, seen, basis, known, load, made)
        return None

    async def _kept_whole(
        self, lane: int, lost: tuple[str, ...], seen: Observation, basis: str, known: Ready | None,
        load: Callable[[str], Awaitable[bytes]], made: dict[str, tuple[str, bool]],
    ) -> Made | None:  # fmt: skip
        """Raises Corrupt where the plan is not there, or not whole."""
        from evac.app import planning_desk

        told: Told | None
        if basis in made and (known is None or not may_keep(known.basis, basis)):
            digest, searched = made[basis]
            told = await self._ask(lane, planning_desk.again, seen, lost, await load(digest), False)
            return None if told is None else Made(told.data, told.basis, searched)
        if known is not None and known.plan and may_keep(known.basis, basis):
            told = await self._ask(lane, planning_desk.again, seen, lost, await load(known.plan), True)
            return None if told is None else Made(told.data, told.basis, known.searched, confirmed=True)
        return None

    async def plan(self, observation: Observation, lost: Sequence[str]) -> bytes:
        """Canonical plan bytes for a loss, searched for. Raises PlanError; InvalidInput with the planner's
        own words.
        """
        from evac.app import planning_desk

        found: Told = await self._ask(0, planning_desk.plan, observation, tuple(lost), self._budget_ms)
        return found.data

    async def _ask(self, lane: int, work: Callable[..., Any], *more: Any) -> Any:
        try:
            found = await self._workers[lane].ask(work, self._place, *more)
        except BrokenProcessPool as error:
            raise PlanError("planner-died", "the planning process ended", "it is started again") from error
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
