"""The bound that a certificate proves, in exact integers.

Follows docs/explanation/bound.md section by section. Any non-negative integers give a true bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from evac.model.certificate import CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.model.errors import PlanError
from evac.planning.bound import capacity, supply
from evac.planning.bound.facts import Facts


def evaluate(facts: Facts, certificate: Certificate) -> int:
    """Weighted person-ticks no plan can get below. Raises PlanError for a row that is not legal."""
    total = _Total(facts, certificate.scale)
    total.add_arcs(certificate.arcs)
    for supply_row in certificate.supply:
        total.add_supply(supply_row)
    for capacity_row in certificate.capacity:
        total.add_capacity(capacity_row)
    total.add_placement(certificate.placement)
    scaled = total.close()
    net = scaled // certificate.scale - facts.instance.grace * facts.lost_weight
    return max(facts.sum_of_heads, net, 0)


def _invalid(what: str) -> PlanError:
    return PlanError("certificate-invalid", f"the certificate names {what}", "make the plan anew: evac plan")


@dataclass(slots=True, eq=False)
class _Total:
    """Left-over cost of each O and u while rows are added. value: the part that is sure."""

    facts: Facts
    scale: int
    value: int = 0
    outage: list[int] = field(default_factory=list)
    undone: list[int] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise _invalid("a scale below 1")
        self.outage = [self.scale * w for w in self.facts.weight.tolist()]
        self.undone = [0] * len(self.facts)
        self.number = {name: i for i, name in enumerate(self.facts.name)}

    def _milestone(self, name: str) -> int:
        if name not in self.number:
            raise _invalid(f"the milestone {name}, which does not exist")
        return self.number[name]

    def add_arcs(self, arcs: Iterable[tuple[str, str, int]]) -> None:
        for first, second, multiplier in arcs:
            pair = self._milestone(first), self._milestone(second)
            delay = self.facts.arcs.get(pair)
            if delay is None or multiplier < 0:
                raise _invalid(f"an arc from {first} to {second} that no dependency gives")
            self.value += multiplier * delay
            self.outage[pair[0]] -= multiplier
            self.outage[pair[1]] += multiplier
            if self.facts.lost[pair[0]]:
                self.undone[pair[0]] -= multiplier * delay

    def _shares(self, shares: Iterable[tuple[str, int]], legal: Iterable[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        allowed = set(legal)
        for name, weight in shares:
            milestone = self._milestone(name)
            if milestone not in allowed or milestone in found or weight < 0:
                raise _invalid(f"a share of {name} in a row where it takes nothing")
            found[milestone] = weight
        return found

    def add_supply(self, row: SupplyRow) -> None:
        facts = self.facts
        index = {limit.id: number for number, limit in enumerate(facts.instance.limits)}
        if any(name not in index or factor < 0 for name, factor in row.limits):
            raise _invalid("a limit that does not exist")
        factors = {index[name]: factor for name, factor in row.limits}
        works = supply.works_of(facts, factors)
        weights = self._shares(row.shares, works)
        speed = supply.capacity_of(facts, factors)
        if weights and speed == 0:
            raise _invalid("limits that allow nothing")
        order = [(milestone, works[milestone]) for milestone in weights]
        busy = supply.busy_times(order, weights, speed, facts.instance.horizon)
        for milestone, work in order:
            weight = weights[milestone]
            lead = weight * work.lead // (2 * work.amount)
            self.value += weight * busy[milestone] // (2 * speed * work.amount) + lead
            self.outage[milestone] -= weight
            self.undone[milestone] -= lead

    def add_capacity(self, row: CapacityRow) -> None:
        facts = self.facts
        prices = {(self._pool(p), r): f for p, r, f in row.prices}
        if any(f < 0 for f in prices.values()):
            raise _invalid("a price below zero")
        sizes = capacity.sizes_of(facts, prices)
        legal = (i for i in sizes if not (facts.fixed[i]))
        weights = self._shares(row.shares, legal)
        order = capacity.by_density(list(weights), weights, sizes)
        waits = capacity.waits_of(order, sizes, capacity.curve_of(facts, prices), facts.instance.horizon)
        for milestone, weight in weights.items():
            lead = weight * int(facts.lead[milestone])
            self.value += weight * waits[milestone] // sizes[milestone] + lead
            self.outage[milestone] -= weight
            self.undone[milestone] -= lead

    def _pool(self, name: str) -> int:
        for number, pool in enumerate(self.facts.instance.pools):
            if pool.id == name:
                return number
        raise _invalid(f"the pool {name}, which does not exist")

    def add_placement(self, rows: PlacementRows) -> None:
        facts, services = self.facts, self.facts.instance.services
        room = {(self._pool(p), r): price for p, r, price in rows.room}
        number = {name: s for s, name in enumerate(services.id)}
        sites = {name: z for z, name in enumerate(facts.instance.site_names)}
        named = [*((s, "") for s, _, _ in rows.fit), *((s, z) for s, z, _ in rows.site)]
        if any(s not in number or (z and z not in sites) for s, z in named):
            raise _invalid("a service or site that does not exist")
        fit = {(number[s], self._pool(p)): price for s, p, price in rows.fit}
        site = {(number[s], sites[z]): price for s, z, price in rows.site}
        if any(price < 0 for prices in (room, fit, site) for price in prices.values()):
            raise _invalid("a price below zero")
        self.value -= sum(price * int(facts.room.usable_pool[p, r]) for (p, r), price in room.items())
        for (s, p), price in fit.items():
            self._relieve(s, price * int(facts.room.new_per_pool[s, p]))
        for (s, z), price in site.items():
            self._relieve(s, price * int(facts.room.new_per_site[s, z]))
        for s, price in enumerate(self._least_prices(rows, room, fit, site)):
            self._place(s, price)

    def _relieve(self, s: int, amount: int) -> None:
        """A cap on where a service goes costs as much only if it is restored."""
        facts = self.facts
        owner = s if facts.lost[s] else len(facts.instance.services) + s
        if not facts.lost[owner]:
            raise _invalid(f"a cap of {facts.instance.services.id[s]}, which runs")
        self.value -= amount
        self.undone[owner] += amount

    def _least_prices(
        self,
        rows: PlacementRows,
        room: dict[tuple[int, int], int],
        fit: dict[tuple[int, int], int],
        site: dict[tuple[int, int], int],
    ) -> list[int]:
        """Of each service, of a replica where that is cheapest; worked out once for the same rows."""
        for known, prices in self.facts.placed:
            if known is rows:
                return prices
        facts, found = self.facts, []
        for s, demand in enumerate(facts.instance.services.demand.tolist()):
            found.append(
                min(
                    (
                        sum(room.get((p, r), 0) * amount for r, amount in enumerate(demand))
                        + fit.get((s, p), 0)
                        + site.get((s, facts.instance.pools[p].site), 0)
                        for p in facts.heads.pools[s]
                    ),
                    default=0,
                )
            )
        facts.placed.append((rows, found))
        return found

    def _place(self, s: int, price: int) -> None:
        facts = self.facts
        for milestone in (s, len(facts.instance.services) + s):
            if facts.lost[milestone]:
                worth = price * int(facts.need[milestone])
                self.value += worth
                self.undone[milestone] -= worth

    def close(self) -> int:
        """What is left over, at its least over the box of every milestone."""
        horizon, facts = self.facts.instance.horizon, self.facts
        for i, (left, undone) in enumerate(zip(self.outage, self.undone, strict=True)):
            head = int(facts.head[i])
            if not facts.lost[i]:
                self.value += 0 if facts.fixed[i] else min(0, left) * horizon
            elif head >= horizon:
                self.value += left * horizon + undone
            else:
                own = max(0, left)
                self.value += own * head + min(0, left) * horizon
                self.value += min(0, undone + own * (horizon - head))
        return self.value
