"""Find a certificate: relaxation, weight splitting, rounding to whole numbers, exact evaluation, the best.

`evaluate` gives the bound that a certificate proves, in exact integers. It follows docs/explanation/bound.md
section by section; any non-negative integers give a true bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

import numpy as np

from evac.model.errors import PlanError
from evac.model.instance import Instance
from evac.model.plan import SCALE, CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.model.records import dataclass
from evac.planning.bound import supply
from evac.planning.bound.ascent import Split, ascend, relaxed_split
from evac.planning.bound.facts import Facts, facts_of_lost, whole
from evac.planning.bound.problem import (
    CapacityChoice,
    FloatArray,
    Network,
    Problem,
    capacity_choice,
    network_of,
    plain_prices,
    problem_of,
    supply_choices,
)
from evac.planning.bound.relaxation import Relaxation, Relaxed


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
    net = scaled // certificate.scale - facts.uncounted
    return max(facts.sum_of_heads, net, 0)


def _invalid(what: str) -> PlanError:
    return PlanError("certificate-invalid", f"the certificate contains {what}", "make a new plan: evac plan")


@dataclass(slots=True, eq=False)
class _Total:
    """Remaining cost of each O and u while rows are added. value: the certain part."""

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
                raise _invalid(f"an arc from {first} to {second} that no dependency implies")
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
                raise _invalid(f"a share of {name} in a row where it uses nothing")
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
        sizes = supply.sizes_of(facts, prices)
        weights = self._shares(row.shares, sizes)
        order = supply.by_density(list(weights), weights, sizes)
        waits = supply.waits_of(order, sizes, supply.curve_of(facts, prices), facts.instance.horizon)
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
        capacity = {(self._pool(p), r): price for p, r, price in rows.room}
        number = {name: s for s, name in enumerate(services.id)}
        sites = {name: z for z, name in enumerate(facts.instance.site_names)}
        named = [*((s, "") for s, _, _ in rows.fit), *((s, z) for s, z, _ in rows.site)]
        if any(s not in number or (z and z not in sites) for s, z in named):
            raise _invalid("a service or site that does not exist")
        fit = {(number[s], self._pool(p)): price for s, p, price in rows.fit}
        site = {(number[s], sites[z]): price for s, z, price in rows.site}
        if any(price < 0 for prices in (capacity, fit, site) for price in prices.values()):
            raise _invalid("a price below zero")
        self.value -= sum(price * int(facts.capacity.usable_pool[p, r]) for (p, r), price in capacity.items())
        for (s, p), price in fit.items():
            self._relieve(s, price * int(facts.capacity.new_per_pool[s, p]))
        for (s, z), price in site.items():
            self._relieve(s, price * int(facts.capacity.new_per_site[s, z]))
        for s, price in enumerate(self._least_prices(rows, capacity, fit, site)):
            self._place(s, price)

    def _relieve(self, s: int, amount: int) -> None:
        """A cap on where a service goes costs its full price only if the service is restored."""
        facts = self.facts
        owner = s if facts.lost[s] else len(facts.instance.services) + s
        if not facts.lost[owner]:
            raise _invalid(f"a cap of {facts.instance.services.id[s]}, which runs")
        self.value -= amount
        self.undone[owner] += amount

    def _least_prices(
        self,
        rows: PlacementRows,
        capacity: dict[tuple[int, int], int],
        fit: dict[tuple[int, int], int],
        site: dict[tuple[int, int], int],
    ) -> list[int]:
        """For each service, a replica's cost where it is cheapest; cached for equal rows."""
        for known, prices in self.facts.placed:
            if known is rows:
                return prices
        facts, found = self.facts, []
        for s, demand in enumerate(facts.instance.services.demand.tolist()):
            found.append(
                min(
                    (
                        sum(capacity.get((p, r), 0) * amount for r, amount in enumerate(demand))
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
        """The remaining costs, minimised over the box of every milestone."""
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


@dataclass(frozen=True, slots=True)
class BoundResult:
    """bound, heads: weighted person-ticks below the objective of every plan, with all rows and with
    chains alone; certificate: proves the bound; work: iterations spent; boot_tools: tick before which the
    tools of boots do not serve, in any plan; never: weight of the milestones that no plan can be sure of.
    """

    bound: int
    heads: int
    certificate: Certificate
    work: int
    boot_tools: int = 0
    never: int = 0


def bound(instance: Instance, *, work: int, seed: int = 0, best_objective: int | None = None) -> BoundResult:
    """The certified lower bound on the objective of every plan of an instance.

    work: iterations of the weight splitting, about a millisecond each at 1,200 services, in addition to the
    linear relaxation. If heads alone reach the best objective, there is nothing left to prove. seed has no
    effect: the search is deterministic. best_objective: of the best plan known; without it the result is the
    same, but heads alone are not tried first.
    """
    del seed
    facts, sweep = facts_of_lost(instance)
    tight = best_objective is not None and facts.sum_of_heads >= best_objective
    if tight or not facts.lost_weight:
        return _result(facts, work)
    return _searched(whole(facts, sweep), work)


def _result(facts: Facts, work: int, found: tuple[int, Certificate] | None = None) -> BoundResult:
    value, certificate = found or (facts.sum_of_heads, Certificate())
    instance, boot_tools = facts.instance, facts.heads.waits.get("boot", 0)
    missing, unjudged = facts.lost & (facts.head >= instance.horizon), list(instance.unjudged)
    missing[: len(instance.services)][unjudged] = True
    missing[len(instance.services) :][unjudged] = True
    never = int(facts.weight[missing].sum())
    return BoundResult(value, facts.sum_of_heads, certificate, work, boot_tools, never)


def _searched(facts: Facts, work: int) -> BoundResult:
    network = network_of(facts)
    choices = _capacity_choices(facts, network)
    relaxed = Relaxation(facts, network, choices=choices).solve()
    placement = placement_of(facts, relaxed)
    problem = problem_of(facts, network, supply_choices(facts), choices, _reserve(facts, placement))
    splits = ascend(problem, relaxed, work, relaxed.objective / facts.lost_weight / 2.0)
    found = (facts.sum_of_heads, Certificate())
    for split in (relaxed_split(problem, relaxed), *splits):
        certificate = certificate_of(problem, split, placement)
        value = evaluate(facts, certificate)
        if value > found[0]:
            found = (value, certificate)
    return _result(facts, work, found)


def _capacity_choices(facts: Facts, network: Network) -> tuple[CapacityChoice, ...]:
    """Capacity prices when everything must be placed or pay, and plain ones."""
    guess = Relaxation(facts, network, running=True).solve()
    tables = [guess.capacity, *plain_prices(facts)]
    found: dict[tuple[tuple[tuple[int, int], int], ...], CapacityChoice] = {}
    for choice in (capacity_choice(facts, table) for table in tables):
        if choice is not None:
            found.setdefault(tuple(sorted(choice.prices.items())), choice)
    return tuple(found.values())


def _reserve(facts: Facts, placement: PlacementRows) -> FloatArray:
    """(N,) what the placement takes from each milestone's u, in weight x ticks."""
    services = facts.instance.services
    number = {name: s for s, name in enumerate(services.id)}
    pools = {p.id: k for k, p in enumerate(facts.instance.pools)}
    sites = {name: z for z, name in enumerate(facts.instance.site_names)}
    scale = 2.0**20
    cost = np.zeros((len(services), len(pools)))
    for pool, resource, price in placement.room:
        cost[:, pools[pool]] += services.demand[:, resource] * (price / scale)
    reserve = np.zeros(len(facts))
    for service, pool, price in placement.fit:
        row, column = number[service], pools[pool]
        cost[row, column] += price / scale
        reserve[_owner(facts, row)] -= price / scale * int(facts.capacity.new_per_pool[row, column])
    for service, site, price in placement.site:
        row, z = number[service], sites[site]
        here = [k for k, p in enumerate(facts.instance.pools) if p.site == z]
        cost[row, here] += price / scale
        reserve[_owner(facts, row)] -= price / scale * int(facts.capacity.new_per_site[row, z])
    for s, usable in enumerate(facts.heads.pools):
        if usable:
            least = cost[s, list(usable)].min()
            for i in (s, len(services) + s):
                if facts.lost[i]:
                    reserve[i] += least * int(facts.need[i])
    return reserve


def _owner(facts: Facts, s: int) -> int:
    return s if facts.lost[s] else len(facts.instance.services) + s


_DUST = 1e-4
"""Smaller parts of a milestone's weight stay on its head: they prove nothing and only fill the file."""


def placement_of(facts: Facts, relaxed: Relaxed) -> PlacementRows:
    """Prices of the final placement, rounded down."""
    instance = facts.instance
    pools, services, sites = instance.pools, instance.services.id, instance.site_names
    capacity = [
        (pools[p].id, r, _floor(relaxed.capacity[p, r]))
        for p, r in np.argwhere(relaxed.capacity > 0.0).tolist()
    ]
    fit = [(services[s], pools[p].id, _floor(price)) for (s, p), price in relaxed.fit.items()]
    site = [(services[s], sites[z], _floor(price)) for (s, z), price in relaxed.site.items()]
    return PlacementRows(
        tuple(sorted(row for row in capacity if row[2])),
        tuple(sorted(row for row in fit if row[2])),
        tuple(sorted(row for row in site if row[2])),
    )


def _floor(value: float) -> int:
    """Scaled by SCALE (exact for a float) and rounded down."""
    return max(0, int(value * SCALE))


def certificate_of(problem: Problem, split: Split, placement: PlacementRows) -> Certificate:
    """All multipliers as integers, zero ones left out."""
    return _Rounding(problem, split).certificate(placement)


@dataclass(slots=True, eq=False)
class _Rounding:
    problem: Problem
    split: Split
    flow: FloatArray = field(default_factory=lambda: np.empty(0))
    """(N,) weight of each milestone, including what it receives."""

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
        for number, needed in enumerate(problem.capacity):
            shares = self._shares(len(problem.supply) + number)
            if shares:
                self._pin(shares, needed, arcs)
                prices = sorted((pools[p].id, r, f) for (p, r), f in needed.prices.items())
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

    def _pin(self, shares: dict[int, int], choice: CapacityChoice, arcs: dict[tuple[int, int], int]) -> None:
        """Pinned milestones take their capacity first, at the highest price anyone pays.

        Their outage is 0 because something unsheddable needs them; arcs from it carry the weight. So do those
        that may move but not stop, which need no arcs.
        """
        pinned, sizes = self.problem.network.pinned, choice.sizes
        dearest = max(-(-w // sizes[i]) for i, w in shares.items())
        missing: dict[int, int] = {}
        for j, size in choice.certain.items():
            shares[j] = dearest * size
        for j in pinned:
            if j in sizes:
                shares[j] = dearest * sizes[j]
                missing[j] = shares[j]
        for j in reversed(list(pinned)):
            if missing.get(j, 0):
                i = pinned[j]
                arcs[i, j] = arcs.get((i, j), 0) + missing[j]
                missing[i] = missing.get(i, 0) + missing[j]
