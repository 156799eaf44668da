"""From a problem to a packing: first-fit in order, then prices where not everything found room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.planning.packing import kernels, prices, repair
from evac.planning.packing.prices import FloatArray, Market
from evac.planning.packing.problem import Int32Array, Int64Array, PackingProblem, Placement
from evac.planning.packing.state import CHECKS, State, copy_state, new_state

LEARNERS: Final = 2000
"""Servers on which prices are learned before any replica is placed."""
MANY: Final = 16_000
"""From so many servers on half of the learners are enough: prices are learned while they are filled, too."""
LESSONS: Final = 20
PLENTY: Final = 1 << 40
WORK_UNIT: Final = 1_000_000
"""Tests of one service against one server in a unit of work: about 5 to 10 ms."""


@dataclass(slots=True, eq=False)
class Packing:
    """A packing in the making: the state, what is left to place (S), and the ranks of the tiers (S)."""

    problem: PackingProblem
    state: State
    left: Int64Array
    rank: Int64Array

    def placed(self) -> Int64Array:
        """Replicas placed of each service."""
        return self.problem.count - self.left

    def score(self) -> tuple[int, ...]:
        """Weight placed, tier by tier, the highest tier first: what packings are compared by."""
        weights = np.zeros(int(self.rank.max(initial=0)) + 1, dtype=np.int64)
        np.add.at(weights, self.rank, self.placed() * self.problem.weight)
        return tuple(int(w) for w in weights)


def open_packing(problem: PackingProblem) -> Packing:
    """An empty packing in which only the present replicas stand."""
    entries = int(np.minimum(problem.count, problem.servers).sum()) + problem.present_service.size + 1
    state = new_state(problem, entries=entries + problem.services, log_rows=problem.servers + 1)
    at = state.position_of[problem.present_server].astype(np.int64)
    kernels.put_present(state, problem.present_service, at, problem.present_count)
    kernels.refresh_all(state)
    rank = np.unique(problem.tier, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return Packing(problem, state, problem.count.astype(np.int64).copy(), rank)


def copy_packing(packing: Packing) -> Packing:
    """A copy that can be changed without touching the original."""
    return Packing(packing.problem, copy_state(packing.state), packing.left.copy(), packing.rank)


def service_size(problem: PackingProblem) -> FloatArray:
    """Size (S) of a replica: its share of all free room, summed over resources by how scarce each is."""
    total = np.maximum(problem.free, 0).sum(axis=0).astype(np.float64)
    total = np.maximum(total, 1.0)
    scarcity = (problem.demand * problem.count[:, None]).sum(axis=0) / total
    size = (problem.demand / total * scarcity).sum(axis=1)
    mean = float((size * problem.count).sum()) / max(1, int(problem.count.sum()))
    return np.asarray(size / mean if mean > 0 else np.ones_like(size), dtype=np.float64)


def first_fit_order(problem: PackingProblem) -> Int64Array:
    """Tier by tier, larger replicas first, ties by number."""
    return np.lexsort((-service_size(problem), problem.tier)).astype(np.int64)


def first_fit(packing: Packing, order: Int64Array) -> None:
    """Place what is left, service by service in `order`, each on the first servers that take it."""
    pools = np.arange(packing.problem.pools, dtype=np.int64)
    packing.left[:] = kernels.first_fit(packing.state, order, packing.left, pools)


def fill_by_prices(packing: Packing, seed: int) -> Market:
    """Fill an empty packing server by server at prices learned beforehand; pools by first-fit before.

    Leaves the market, whose prices further work on the packing goes on with.
    """
    problem, state = packing.problem, packing.state
    _fill_self_scheduling(packing)
    size = service_size(problem)
    market = prices.new_market(state, problem.weight, packing.rank, size, packing.left, seed)
    np.minimum(market.price, market.worth, out=market.price)
    servers = bare_positions(state)
    _learn(packing, market, servers)
    prices.shuffle(servers, market.random)
    prices.fill_all(state, market, servers, packing.left.copy(), 1.0, 0.01, False)
    return market


def _fill_self_scheduling(packing: Packing) -> None:
    state = packing.state
    pools = np.unique(state.block_pool[state.block_is_pool]).astype(np.int64)
    if pools.size:
        order = first_fit_order(packing.problem)
        packing.left[:] = kernels.first_fit(state, order, packing.left, pools)


def _learn(packing: Packing, market: Market, servers: Int64Array) -> None:
    """Learn prices from a sample of servers that take what they like, as if there were plenty of all."""
    trial = market._replace(left=np.full_like(packing.left, PLENTY))
    wanted = np.maximum(packing.left, 0)
    for lesson in range(LESSONS):
        prices.shuffle(servers, market.random)
        sample = servers[: LEARNERS if servers.size < MANY else LEARNERS // 2]
        share = sample.size / max(1, servers.size)
        rate = 0.1 / (1.0 + lesson / 3.0)
        prices.fill_all(packing.state, trial, sample, wanted, share, rate, True)


def bare_positions(state: State) -> Int64Array:
    """Positions that evac places on itself, in order."""
    return np.flatnonzero(~state.block_is_pool[state.block_of]).astype(np.int64)


def settle_tiers(packing: Packing, checks: int) -> None:
    """First-fit for what is left, then let lower replicas give way to higher ones, then first-fit again."""
    problem = packing.problem
    kernels.refresh_all(packing.state)
    order = np.lexsort((-problem.weight, packing.rank)).astype(np.int64)
    first_fit(packing, order)
    if packing.left.any():
        won = repair.displace_all(
            packing.state, order, packing.left, packing.placed(), packing.rank, problem.weight, checks
        )
        if won:
            first_fit(packing, order)


def checks_of(packing: Packing) -> int:
    """Tests of a service against a server made so far."""
    return int(packing.state.meta[CHECKS])


def to_placement(packing: Packing, work: int) -> Placement:
    """What was placed as sorted rows."""
    state = packing.state
    service, position, count = standing_rows(state, fixed=False)
    server = state.server_at[position]
    rows = np.lexsort((server, service))
    return Placement(service[rows], server[rows], count[rows], packing.placed(), work)


def standing_rows(state: State, *, fixed: bool) -> tuple[Int32Array, Int64Array, Int64Array]:
    """Rows (service, position, count) of what was placed, or of what was present (fixed)."""
    owner = np.full(state.entry_next.size, -1, dtype=np.int64)
    entry, position = state.head.astype(np.int64), np.arange(state.head.size, dtype=np.int64)
    while entry.size:
        position, entry = position[entry >= 0], entry[entry >= 0]
        owner[entry] = position
        entry = state.entry_next[entry].astype(np.int64)
    rows = np.flatnonzero((owner >= 0) & (state.entry_fixed == fixed))
    return state.entry_service[rows], owner[rows], state.entry_count[rows]
