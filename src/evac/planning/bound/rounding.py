"""From real multipliers to the whole numbers of a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evac.model.certificate import SCALE, CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.planning.bound.ascent import Split
from evac.planning.bound.facts import Facts
from evac.planning.bound.problem import FloatArray, Problem
from evac.planning.bound.relaxation import Relaxed

_DUST = 1e-4
"""A smaller part of a milestone's weight stays on its head: it proves nothing and fills the file."""


def placement_of(facts: Facts, relaxed: Relaxed) -> PlacementRows:
    """Prices of the final placement, rounded down."""
    instance = facts.instance
    pools, services, sites = instance.pools, instance.services.id, instance.site_names
    room = [(pools[p].id, r, _floor(relaxed.room[p, r])) for p, r in np.argwhere(relaxed.room > 0.0).tolist()]
    fit = [(services[s], pools[p].id, _floor(price)) for (s, p), price in relaxed.fit.items()]
    site = [(services[s], sites[z], _floor(price)) for (s, z), price in relaxed.site.items()]
    return PlacementRows(
        tuple(sorted(row for row in room if row[2])),
        tuple(sorted(row for row in fit if row[2])),
        tuple(sorted(row for row in site if row[2])),
    )


def _floor(value: float) -> int:
    """Scaled by SCALE, which is exact for a float, and rounded down."""
    return max(0, int(value * SCALE))


def certificate_of(problem: Problem, split: Split, placement: PlacementRows) -> Certificate:
    """All multipliers as integers, zero ones left out."""
    return _Rounding(problem, split).certificate(placement)


@dataclass(slots=True, eq=False)
class _Rounding:
    problem: Problem
    split: Split
    flow: FloatArray = field(default_factory=lambda: np.empty(0))
    """(N,) weight of each milestone with what it receives."""

    def __post_init__(self) -> None:
        self.flow = self.problem.facts.weight.astype(np.float64)
        targets = np.array([j for _, j, _ in self.problem.network.arcs], np.int64)
        np.add.at(self.flow, targets, self.split.arcs)

    def certificate(self, placement: PlacementRows) -> Certificate:
        problem, names = self.problem, self.problem.facts.name
        arcs = {
            (i, j): _floor(w)
            for (i, j, _), w in zip(problem.network.arcs, self.split.arcs.tolist(), strict=True)
        }
        supply, capacity = [], []
        limits, pools = problem.facts.instance.limits, problem.facts.instance.pools
        for row, choice in enumerate(problem.supply):
            shares = self._shares(row)
            if shares:
                factors = sorted((limits[limit].id, f) for limit, f in choice.factors.items())
                supply.append(SupplyRow(tuple(factors), self._named(shares)))
        for number, room in enumerate(problem.capacity):
            shares = self._shares(len(problem.supply) + number)
            if shares:
                self._pin(shares, room.sizes, arcs)
                prices = sorted((pools[p].id, r, f) for (p, r), f in room.prices.items())
                capacity.append(CapacityRow(tuple(prices), self._named(shares)))
        named = sorted((names[i], names[j], w) for (i, j), w in arcs.items() if w)
        return Certificate(SCALE, tuple(named), tuple(supply), tuple(capacity), placement)

    def _shares(self, row: int) -> dict[int, int]:
        members = self.problem.members
        span = range(int(members.start[row]), int(members.start[row + 1]))
        found: dict[int, int] = {}
        for k in span:
            i, share = int(members.milestone[k]), float(self.split.shares[k])
            if share > _DUST * self.flow[i] and _floor(share):
                found[i] = _floor(share)
        return found

    def _named(self, shares: dict[int, int]) -> tuple[tuple[str, int], ...]:
        names = self.problem.facts.name
        return tuple(sorted((names[i], w) for i, w in shares.items()))

    def _pin(self, shares: dict[int, int], sizes: dict[int, int], arcs: dict[tuple[int, int], int]) -> None:
        """Pinned milestones take their room first, at the highest price anybody pays.

        Their outage is 0 because something unsheddable needs them; arcs from it carry the weight.
        """
        pinned = self.problem.network.pinned
        dearest = max(-(-w // sizes[i]) for i, w in shares.items())
        missing: dict[int, int] = {}
        for j in pinned:
            if j in sizes:
                shares[j] = dearest * sizes[j]
                missing[j] = shares[j]
        for j in reversed(list(pinned)):
            if missing.get(j, 0):
                i = pinned[j]
                arcs[i, j] = arcs.get((i, j), 0) + missing[j]
                missing[i] = missing.get(i, 0) + missing[j]
