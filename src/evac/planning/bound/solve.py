"""Finds a certificate: relaxation, weight splitting, rounding to whole numbers, exact evaluation, the
best."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evac.model.certificate import SCALE, CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.model.instance import Instance
from evac.planning.bound.ascent import Split, ascend, relaxed_split
from evac.planning.bound.evaluate import evaluate
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


@dataclass(frozen=True, slots=True)
class BoundResult:
    """bound, heads: weighted person-ticks below the objective of every plan, with all rows and with
    chains alone; certificate: proves the bound; work: iterations spent; boot_tools: tick before which the
    tools of boots do not serve, in any plan."""

    bound: int
    heads: int
    certificate: Certificate
    work: int
    boot_tools: int = 0


def bound(instance: Instance, *, work: int, seed: int = 0, best_objective: int | None = None) -> BoundResult:
    """The certified lower bound on the objective of every plan of an instance.

    work: iterations of the weight splitting, about a millisecond each at 1,200 services; the linear
    relaxation before it comes on top. Where heads alone reach the best objective, nothing is left to be
    proved. seed changes nothing: the search draws no numbers.
    best_objective: of the best plan known; left out, the same is found, and heads alone are not asked first.
    """
    del seed
    facts, sweep = facts_of_lost(instance)
    tight = best_objective is not None and facts.sum_of_heads >= best_objective
    if tight or not facts.lost_weight:
        return _result(facts, work)
    return _searched(whole(facts, sweep), work)


def _result(facts: Facts, work: int, found: tuple[int, Certificate] | None = None) -> BoundResult:
    value, certificate = found or (facts.sum_of_heads, Certificate())
    return BoundResult(value, facts.sum_of_heads, certificate, work, facts.heads.waits.get("boot", 0))


def _searched(facts: Facts, work: int) -> BoundResult:
    network = network_of(facts)
    choices = _capacity_choices(facts, network)
    relaxed = Relaxation(facts, network, choices=choices).solve()
    placement = placement_of(facts, relaxed)
    problem = problem_of(facts, network, supply_choices(facts), choices, _reserve(facts, placement))
    ascended = ascend(problem, relaxed, work, relaxed.objective / facts.lost_weight / 2.0)
    found = (facts.sum_of_heads, Certificate())
    for split in (relaxed_split(problem, relaxed), *ascended.splits):
        certificate = certificate_of(problem, split, placement)
        value = evaluate(facts, certificate)
        if value > found[0]:
            found = (value, certificate)
    return _result(facts, work, found)


def _capacity_choices(facts: Facts, network: Network) -> tuple[CapacityChoice, ...]:
    """Prices that room has when everything must find a place or pay, and plain ones."""
    guess = Relaxation(facts, network, running=True).solve()
    tables = [guess.room, *plain_prices(facts)]
    found: dict[tuple[tuple[tuple[int, int], int], ...], CapacityChoice] = {}
    for choice in (capacity_choice(facts, table) for table in tables):
        if choice is not None:
            found.setdefault(tuple(sorted(choice.prices.items())), choice)
    return tuple(found.values())


def _reserve(facts: Facts, placement: PlacementRows) -> FloatArray:
    """(N,) what the placement takes from the u of each milestone, in weight x ticks."""
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
        reserve[_owner(facts, row)] -= price / scale * int(facts.room.new_per_pool[row, column])
    for service, site, price in placement.site:
        row, z = number[service], sites[site]
        here = [k for k, p in enumerate(facts.instance.pools) if p.site == z]
        cost[row, here] += price / scale
        reserve[_owner(facts, row)] -= price / scale * int(facts.room.new_per_site[row, z])
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
