"""Random legal certificates: whatever they say, what they prove must be true."""

from __future__ import annotations

import numpy as np

from evac.model.instance import Instance
from evac.model.plan import SCALE, CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.planning.bound import supply
from evac.planning.bound.facts import Facts
from evac.verify.bound import proved


def certified(instance: Instance, certificate: Certificate) -> tuple[int, list[tuple[str, str]]]:
    """What the checker proves with a certificate, and what it finds wrong with it."""
    bound, _, complaints = proved(instance, certificate)
    return bound, complaints


class Drawer:
    """Draws certificates for the facts of one instance; the same seed gives the same ones."""

    def __init__(self, facts: Facts, seed: int) -> None:
        self.facts = facts
        self.rng = np.random.default_rng(seed)
        self.size = SCALE * max(1, int(facts.weight.max())) * float(self.rng.choice([0.01, 0.1, 0.5, 1.0]))

    def certificate(self) -> Certificate:
        names = self.facts.name
        arcs = [(names[i], names[j], self._number()) for i, j in self.facts.arcs if self.rng.random() < 0.5]
        supply_rows = [row for _ in range(int(self.rng.integers(0, 4))) if (row := self._supply())]
        rooms = [self._capacity() for _ in range(int(self.rng.integers(0, 3)))]
        return Certificate(SCALE, tuple(sorted(arcs)), tuple(supply_rows), tuple(rooms), self._placement())

    def _number(self, part: float = 1.0) -> int:
        return int(self.size * part * self.rng.random() * self.rng.random())

    def _supply(self) -> SupplyRow | None:
        limits = self.facts.instance.limits
        some = {int(k) for k in self.rng.integers(0, len(limits), int(self.rng.integers(1, 3)))}
        factors = {k: 1 if self.rng.random() < 0.6 else int(self.rng.integers(1, 4)) for k in sorted(some)}
        works = supply.works_of(self.facts, factors)
        if not works or not supply.capacity_of(self.facts, factors):
            return None
        named = sorted((limits[k].id, f) for k, f in factors.items())
        shares = sorted((self.facts.name[i], self._number()) for i in works if self.rng.random() < 0.7)
        return SupplyRow(tuple(named), tuple(shares))

    def _capacity(self) -> CapacityRow:
        facts, pools = self.facts, self.facts.instance.pools
        drawn = {(p, r): int(self.rng.integers(0, 4)) for p in range(len(pools)) for r in range(2)}
        prices = {key: factor for key, factor in drawn.items() if factor}
        sizes = supply.sizes_of(facts, prices)
        free = [i for i in sizes if not facts.fixed[i]]
        if self.rng.random() < 0.5:
            each = self._number(0.0005)
            shares = sorted((facts.name[i], each * sizes[i] // 1_000) for i in free)
        else:
            shares = sorted((facts.name[i], self._number()) for i in free if self.rng.random() < 0.8)
        named = sorted((pools[p].id, r, f) for (p, r), f in prices.items())
        return CapacityRow(tuple(named), tuple(shares))

    def _placement(self) -> PlacementRows:
        facts, instance, horizon = self.facts, self.facts.instance, self.facts.instance.horizon
        services = len(instance.services)
        lost = [s for s in range(services) if facts.lost[s] or facts.lost[services + s]]
        pools, sites, ids = instance.pools, instance.site_names, instance.services.id
        capacity = [
            (p.id, r, self._number(0.001) * horizon) for p in pools for r in range(2) if self._coin(0.3)
        ]
        fit = [(ids[s], p.id, self._number(0.1) * horizon) for s in lost for p in pools if self._coin(0.1)]
        site = [(ids[s], z, self._number(0.1) * horizon) for s in lost for z in sites if self._coin(0.1)]
        return PlacementRows(tuple(sorted(capacity)), tuple(sorted(fit)), tuple(sorted(site)))

    def _coin(self, odds: float) -> bool:
        return bool(self.rng.random() < odds)
