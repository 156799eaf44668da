"""Finds a certificate: relaxation, weight splitting, rounding, exact evaluation, the best of all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.model.certificate import Certificate, PlacementRows
from evac.model.instance import Instance
from evac.planning.bound.ascent import ascend, relaxed_split
from evac.planning.bound.evaluate import evaluate
from evac.planning.bound.facts import Facts, facts_of_lost, whole
from evac.planning.bound.network import Network, network_of
from evac.planning.bound.problem import FloatArray, problem_of
from evac.planning.bound.relaxation import Relaxation
from evac.planning.bound.rounding import certificate_of, placement_of
from evac.planning.bound.rows import CapacityChoice, capacity_choice, plain_prices, supply_choices


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
