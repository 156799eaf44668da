"""How long a number of starts takes at the least, over all pools a service may use (section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from evac.model.instance import WHOLE, Instance, Use
from evac.planning.bound.room import NEVER


def hold_of(use: Use, duration: int) -> int:
    """Ticks a use lasts in a step of a duration."""
    return duration if use.hold == WHOLE else use.hold


@dataclass(slots=True, eq=False)
class Waves:
    """Waves by (pools, ticks of a start), each combination worked out once."""

    instance: Instance
    _paces: dict[tuple[tuple[int, ...], int], tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def wave(self, pools: tuple[int, ...], start: int, count: int) -> int:
        """Ticks from the first to the last of `count` starts at the least."""
        if count <= 0 or not pools:
            return 0
        longest = 0
        for batch, hold in self.paces(pools, start):
            if batch == 0:
                return NEVER
            longest = max(longest, hold * (-(-count // batch) - 1))
        return longest

    def paces(self, pools: tuple[int, ...], start: int) -> tuple[tuple[int, int], ...]:
        """(starts at most in any `hold` ticks, hold) of each limit or combination."""
        key = (pools, start)
        if key not in self._paces:
            uses = [
                [u for u in self.instance.pools[p].start_uses if u.units > 0 and hold_of(u, start) > 0]
                for p in pools
            ]
            self._paces[key] = (*self._shared(uses, start), *self._chosen(uses, start))
        return self._paces[key]

    def _shared(self, uses: list[list[Use]], start: int) -> Iterable[tuple[int, int]]:
        """Limits that a start in each pool holds."""
        common = set.intersection(*({u.limit for u in some} for some in uses))
        for limit in sorted(common):
            held = [u for some in uses for u in some if u.limit == limit]
            batch = self.instance.limits[limit].capacity // min(u.units for u in held)
            yield batch, min(hold_of(u, start) for u in held)

    def _chosen(self, uses: list[list[Use]], start: int) -> Iterable[tuple[int, int]]:
        """One limit a pool, the tightest: what all of them together let through."""
        if not all(uses):
            return
        limits = self.instance.limits
        batches: dict[int, int] = {}
        holds = []
        for some in uses:
            use = min(some, key=lambda u: (limits[u.limit].capacity // u.units, u.limit))
            batch = limits[use.limit].capacity // use.units
            batches[use.limit] = max(batches.get(use.limit, 0), batch)
            holds.append(hold_of(use, start))
        yield sum(batches.values()), min(holds)
