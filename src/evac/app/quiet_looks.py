"""What drivers are set to, as seen in quiet times.

An open run changes it itself, and its effects are known once it ends: what was seen before a run ended does
not count after it. While a run is open, something is lost, or a site may be lost, nothing is asked: what a
driver is set to is no proof that it happens there, and a value that changes with a failover would make every
plan for it stale. For the same reason a value counts once it was seen twice, for as long as it must last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final, Generic, TypeVar

from evac.engine.clock import Clock
from evac.engine.runs.open_runs import OPEN
from evac.model.errors import NotAllowed
from evac.model.observation import Observation, TrafficSeen, UnitsSeen
from evac.model.situation import Effects
from evac.store.port import Store
from evac.watch.verdict import SiteState

PERIOD_S: Final = 10.0
EACH_S: Final = 0.05
"""At least this much for each endpoint: the leader has other work to do."""
AGAIN_S: Final = 1.0
"""While something else decides what runs where."""
ENDPOINTS_MOST: Final = 5_000
"""Of more, none is asked, because not all of it could be published."""
_TROUBLED: Final = frozenset({"suspect", "isolated", "lost"})
Now = Callable[[], tuple[Observation, Mapping[str, SiteState]]]
"""The last observation, and the verdicts on sites."""
Behind = Callable[[Collection[str]], Awaitable[bool]]
"""Whether a run ended that the last observation does not cover."""
_Seen = TypeVar("_Seen")


_Key = tuple[str, str]


class QuietLooks(Generic[_Seen]):
    """What one kind of question showed last, and after which runs. of: key and value of an answer; lasts_s:
    for how long a value must be the same before it counts.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        behind: Behind,
        of: Callable[[_Seen], tuple[_Key, object]],
        lasts_s: float = 0.0,
    ) -> None:
        self._store, self._clock, self._behind, self._of = store, clock, behind, of
        self._lasts_ms = lasts_s * 1_000
        self._after: frozenset[str] | None = None
        self._seen: dict[_Key, _Seen] = {}
        self._silent: frozenset[_Key] = frozenset()
        self._same: dict[_Key, tuple[object, int]] = {}
        """Key -> its last value, and when that was first seen."""

    async def look(
        self,
        count: int,
        ask: Callable[[], Awaitable[tuple[Iterable[_Seen], Collection[_Key]]]],
        now: Now,
    ) -> float:
        """Asks every driver once, if nothing else is going on. ask: returns what was seen, and the keys for
        which nothing answered; count: how many endpoints that asks. Returns the seconds until the next look.
        Raises Unavailable.
        """
        if not 0 < count <= ENDPOINTS_MOST:
            return PERIOD_S
        if await self._is_busy(now):
            return AGAIN_S
        after = runs_in(now()[0].effects)
        found, silent = await ask()
        if await self._is_busy(now) or runs_in(now()[0].effects) != after:
            return AGAIN_S
        at_ms, counts = self._clock.monotonic_ms(), dict[_Key, _Seen]()
        same: dict[_Key, tuple[object, int]] = {}
        for one in found:
            key, value = self._of(one)
            before, since_ms = self._same.get(key, (None, at_ms))
            again = key in self._same and value == before
            same[key] = (value, since_ms if again else at_ms)
            if again and at_ms - since_ms >= self._lasts_ms:
                counts[key] = one
        self._same, self._after, self._seen = same, after, counts
        self._silent = frozenset(silent) | (same.keys() - counts.keys())
        return max(PERIOD_S, EACH_S * count)

    def kept(self, before: Iterable[_Seen], effects: Effects | None) -> dict[_Key, _Seen]:
        """What counts after these runs, by key. before: what counted earlier and still does after them."""
        found = {self._of(one)[0]: one for one in before}
        if self._after == runs_in(effects):
            found = {key: one for key, one in found.items() if key in self._silent} | self._seen
        return found

    async def _is_busy(self, now: Now) -> bool:
        seen, states = now()
        if (seen.effects or Effects()).lost or not _TROUBLED.isdisjoint(states.values()):
            return True
        if await self._store.list(OPEN, limit=1):
            return True
        try:
            return await self._behind(())
        except NotAllowed:  # what moved last is unknown
            return True


def still_run(before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
    """How many replicas an earlier observation saw, unless a run ended since."""
    return before.units if runs_in(before.effects) == runs_in(effects) else ()


def still_sent(before: Observation, effects: Effects | None) -> tuple[TrafficSeen, ...]:
    """Where an earlier observation saw users sent to, of services that no run which ended since touched."""
    known, now = runs_in(before.effects), runs_in(effects)
    later = [one for one in (effects or Effects()).moved if one.run not in known]
    touched = {service for one in later for service in (*one.placed, *one.traffic)}
    return tuple(one for one in before.traffic if one.service not in touched) if known <= now else ()


def after_runs(seen: Observation, before: Observation, effects: Effects | None) -> Observation:
    """An observation with these effects, and with what an earlier one saw that still counts after them."""
    units, traffic = still_run(before, effects), still_sent(before, effects)
    return replace(seen, units=units, traffic=traffic, effects=effects)


def runs_in(effects: Effects | None) -> frozenset[str]:
    return frozenset(one.run for one in (effects or Effects()).moved)
