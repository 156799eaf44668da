"""How many replicas of each service its drivers are set to run, as seen in quiet times.

An open run changes these numbers itself, and they are known from its effects once it ends: what was seen
before a run ended does not count after it. While a run is open, something is lost, or a site may be lost,
nothing is asked: what a driver is set to run is no proof that it runs there, and a number that changes with
the load of a failover would make every plan for it stale. For the same reason a number counts once it was
seen twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from evac.app.observing import observe_units, units_endpoints
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock
from evac.engine.runs.open_runs import OPEN
from evac.model.estate import Estate
from evac.model.observation import Observation, UnitsSeen
from evac.model.situation import Effects
from evac.store.port import Lease, Store
from evac.watch.verdict import SiteState

PERIOD_S: Final = 10.0
EACH_S: Final = 0.05
"""At least this much for each endpoint: the leader has other work to do."""
AGAIN_S: Final = 1.0
"""While something else decides what runs where."""
PAIRS_MOST: Final = 5_000
"""Services at sites that can be published; of more, none is asked."""
_TROUBLED: Final = frozenset({"suspect", "isolated", "lost"})
Now = Callable[[], tuple[Observation, Mapping[str, SiteState]]]
"""The last observation, and the verdicts on sites."""
_Counts = Mapping[tuple[str, str], int]


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
        self._silent: frozenset[tuple[str, str]] = frozenset()
        self._before: _Counts = {}

    async def look(self, files: Estate, now: Now, guard: Lease) -> float:
        """Asks every driver once, unless it is no quiet time. Returns the seconds until the next look. Raises
        Unavailable.
        """
        count = len(units_endpoints(files))
        if not 0 < count <= PAIRS_MOST:
            return PERIOD_S
        if await self._is_busy(now):
            return AGAIN_S
        after = runs_in(now()[0].effects)
        seen, silent = await observe_units(files, self._drivers, self._clock.now_ms(), guard.token)
        if await self._is_busy(now) or runs_in(now()[0].effects) != after:
            return AGAIN_S
        counts = {(one.service, one.site): one.replicas for one in seen}
        same = {key for key, many in counts.items() if self._before.get(key) == many}
        self._before = counts
        self._after = after
        self._seen = tuple(one for one in seen if (one.service, one.site) in same)
        self._silent = silent | (counts.keys() - same)
        return max(PERIOD_S, EACH_S * count)

    def known(self, files: Estate, before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
        """What counts after these runs, sorted. before: the last observation.

        A service that is set to run nowhere is left out: it is down now, and what a loss has to bring back is
        where it belongs.
        """
        kept = {(one.service, one.site): one for one in still_run(before, effects)}
        if self._after == runs_in(effects):
            kept = {key: one for key, one in kept.items() if key in self._silent}
            kept |= {(one.service, one.site): one for one in self._seen}
        asked = {(end.subject, end.at) for end in units_endpoints(files)}
        running = {service for (service, _), one in kept.items() if one.replicas}
        return tuple(kept[key] for key in sorted(kept.keys() & asked) if key[0] in running)

    async def _is_busy(self, now: Now) -> bool:
        seen, states = now()
        if (seen.effects or Effects()).lost or not _TROUBLED.isdisjoint(states.values()):
            return True
        return bool(await self._store.list(OPEN, limit=1)) or await self._behind(())


def still_run(before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
    """What an earlier observation saw, unless a run ended since."""
    return before.units if runs_in(before.effects) == runs_in(effects) else ()


def runs_in(effects: Effects | None) -> frozenset[str]:
    return frozenset(one.run for one in (effects or Effects()).moved)
