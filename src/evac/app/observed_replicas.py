"""How many replicas of each service its drivers are set to run, as seen between runs.

An open run changes these numbers itself, and they are known from its effects once it ends. So nothing is
asked while a run is open, and what was seen before a run ended does not count after it. A site that does not
answer keeps what was last seen there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from evac.app.observing import observe_units, units_endpoints
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock
from evac.engine.runs.open_runs import OPEN
from evac.model.estate import Estate
from evac.model.observation import Observation, UnitsSeen
from evac.model.situation import Effects
from evac.store.port import Lease, Store

PERIOD_S: Final = 10.0
AGAIN_S: Final = 1.0
"""While a run is open, or has just ended."""


class SeenReplicas:
    """What the leader saw last, and after which runs. behind: whether a run ended that the last observation
    does not cover.
    """

    def __init__(
        self,
        store: Store,
        drivers: Drivers,
        clock: Clock,
        behind: Callable[[Collection[str]], Awaitable[bool]],
    ) -> None:
        self._store, self._drivers, self._clock, self._behind = store, drivers, clock, behind
        self._after: frozenset[str] | None = None
        self._seen: tuple[UnitsSeen, ...] = ()

    async def look(self, files: Estate, before: Callable[[], Observation], guard: Lease) -> float:
        """Asks every driver once, unless a run is open. before: the last observation. Returns the seconds
        until the next look. Raises Unavailable.
        """
        if not units_endpoints(files):
            return PERIOD_S
        if await self._moves():
            return AGAIN_S
        after = runs_in(before().effects)
        seen = await observe_units(files, self._drivers, self._clock.now_ms(), guard.token)
        if await self._moves() or runs_in(before().effects) != after:
            return AGAIN_S
        self._after, self._seen = after, seen
        return PERIOD_S

    def known(self, files: Estate, before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
        """What counts after these runs, sorted. before: the last observation."""
        seen = self._seen if self._after == runs_in(effects) else ()
        asked = {(end.subject, end.at) for end in units_endpoints(files)}
        found = {(one.service, one.site): one for one in (*still_run(before, effects), *seen)}
        return tuple(found[key] for key in sorted(found.keys() & asked))

    async def _moves(self) -> bool:
        return bool(await self._store.list(OPEN, limit=1)) or await self._behind(())


def still_run(before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
    """What an earlier observation saw, unless a run ended since."""
    return before.units if runs_in(before.effects) == runs_in(effects) else ()


def runs_in(effects: Effects | None) -> frozenset[str]:
    return frozenset(one.run for one in (effects or Effects()).moved)
