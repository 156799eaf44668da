"""How much weight any packing can place at most: the fluid relaxation, proved in integers.

Servers of one pool with about equal room become a group whose room is one heap; replicas may be split;
what binds on single servers and racks becomes a ceiling per service and group. HiGHS finds prices of
the groups' resources; the bound is then computed from the prices alone, in exact integers, by weak
duality: for every price >= 0, what all services could earn beyond what their room costs, plus the price
of all room, is at least the weight of any packing. A solver's tolerance can make the bound weaker, never
wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from evac.planning.compiled import allocating_kernel
from evac.planning.packing.construct import open_packing
from evac.planning.packing.kernels import domain_room, fit_count, server_room
from evac.planning.packing.prices import FloatArray
from evac.planning.packing.problem import Int64Array, PackingProblem, check_problem
from evac.planning.packing.state import State

GROUPS_MAX: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class FluidBound:
    """weight: no packing places more. price (G, R) of group room over `scale`; group (V) of each server."""

    weight: int
    price: Int64Array
    scale: int
    group: Int64Array


def fluid_bound(problem: PackingProblem, *, groups: int = GROUPS_MAX) -> FluidBound:
    """Upper bound on the weight of any packing of `problem`; about `groups` groups of servers.

    More groups make it sharper and slower: 64 groups x 2,000 services take a few seconds. Raises
    InvalidInput (code packing-input).
    """
    check_problem(problem)
    group = _group_servers(problem, groups)
    size = int(group.max(initial=-1)) + 1
    room = np.zeros((size, problem.resources), dtype=np.int64)
    np.add.at(room, group, np.maximum(problem.free, 0))
    ceiling = _ceilings(problem, group, size)
    price = _prices(problem, room, ceiling)
    scale = _scale(problem)
    exact = np.floor(np.maximum(price, 0.0) * scale).astype(np.int64)
    return FluidBound(_dual_value(problem, room, ceiling, exact, scale), exact, scale, group)


def _group_servers(problem: PackingProblem, groups: int) -> Int64Array:
    """Group (V): each pool cut into equal parts by the scarcest share of room, groups spread by pool size."""
    total = np.maximum(1, np.maximum(problem.free, 0).sum(axis=0))
    share = (problem.free / total).min(axis=1)
    group = np.zeros(problem.servers, dtype=np.int64)
    used = np.unique(problem.pool)
    first = 0
    for pool in used:
        rows = np.flatnonzero(problem.pool == pool)
        rows = rows[np.argsort(share[rows], kind="stable")]
        parts = max(1, min(rows.size, groups * rows.size // max(1, problem.servers)))
        for number, part in enumerate(np.array_split(rows, parts)):
            group[part] = first + number
        first += parts
    return group


def _ceilings(problem: PackingProblem, group: Int64Array, size: int) -> Int64Array:
    """Most replicas (S, G) that single servers and racks of a group could hold, were each alone."""
    packing = open_packing(problem)
    state = packing.state
    return np.asarray(_sum_ceilings(state, group[state.server_at], size, problem.count.astype(np.int64)))


@allocating_kernel
def _sum_ceilings(state: State, group: Int64Array, size: int, count: Int64Array) -> Int64Array:
    services = state.demand.shape[0]
    ceiling = np.zeros((services, size), dtype=np.int64)
    in_block = np.zeros(size, dtype=np.int64)
    for service in range(services):
        for block in range(state.block_start.shape[0] - 1):
            most = min(domain_room(state, service, block), count[service])
            if most == 0:
                continue
            first, stop = state.block_start[block], state.block_start[block + 1]
            for position in range(first, stop):
                room = min(most, server_room(state, service, position, block))
                if room > 0:
                    in_block[group[position]] += fit_count(state, service, position, room)
            for position in range(first, stop):
                held = in_block[group[position]]
                in_block[group[position]] = 0
                ceiling[service, group[position]] += min(held, most)
    return ceiling


def _prices(problem: PackingProblem, room: Int64Array, ceiling: Int64Array) -> FloatArray:
    """Dual prices (G, R) of group room, per base unit, from the aggregated linear program."""
    import highspy

    services, groups = np.nonzero((ceiling > 0) & (problem.weight > 0)[:, None])
    if services.size == 0:
        return np.zeros(room.shape)
    unit = np.maximum(1.0, problem.demand.mean(axis=0))
    solver: Any = _new_solver(highspy)
    solver.setOptionValue("threads", 1)
    solver.passModel(_program(highspy, problem, room / unit, ceiling, services, groups, unit))
    solver.run()
    dual = np.asarray(solver.getSolution().row_dual[: room.size]).reshape(room.shape)
    return np.asarray(np.abs(dual) / unit, dtype=np.float64)


def _new_solver(highspy: Any) -> Any:
    """A solver that never writes to the terminal: `Highs()` prints a banner before it can be silenced."""
    solver = highspy._Highs()
    solver.setOptionValue("output_flag", False)
    return solver


def _program(
    highspy: Any,
    problem: PackingProblem,
    room: FloatArray,
    ceiling: Int64Array,
    services: Int64Array,
    groups: Int64Array,
    unit: FloatArray,
) -> Any:
    """Rows: room of each group and resource, then the count of each service; a column per pair that fits."""
    resources, columns = room.shape[1], services.size
    rows = room.size + problem.services
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = columns, rows
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_ = problem.weight[services].astype(np.float64)
    program.col_lower_ = np.zeros(columns)
    program.col_upper_ = ceiling[services, groups].astype(np.float64)
    program.row_lower_ = np.full(rows, -highspy.kHighsInf)
    program.row_upper_ = np.concatenate([room.ravel(), problem.count.astype(np.float64)])
    index = np.empty((columns, resources + 1), dtype=np.int32)
    index[:, :resources] = groups[:, None] * resources + np.arange(resources)
    index[:, resources] = room.size + services
    value = np.ones((columns, resources + 1))
    value[:, :resources] = problem.demand[services] / unit
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = np.arange(columns + 1, dtype=np.int32) * (resources + 1)
    program.a_matrix_.index_ = index.ravel()
    program.a_matrix_.value_ = value.ravel()
    return program


def _scale(problem: PackingProblem) -> int:
    """A power of two fine enough for the smallest price, and small enough for int64 products."""
    demand = int(problem.demand.max(initial=1)) or 1
    weight = int(problem.weight.max(initial=1)) or 1
    digits = 61 - max(1, weight).bit_length() - max(1, problem.resources).bit_length()
    return int(1 << max(0, min(digits, 30 + demand.bit_length())))


def _dual_value(
    problem: PackingProblem, room: Int64Array, ceiling: Int64Array, price: Int64Array, scale: int
) -> int:
    """Weak duality in exact integers: price of all room, plus what each service earns at best beyond it."""
    total = sum(int(p) * int(c) for p, c in zip(price.ravel(), room.ravel(), strict=True))
    for service in range(problem.services):
        total += _earned(problem, ceiling[service], price, service, scale)
    return total // scale


def _earned(problem: PackingProblem, ceiling: Int64Array, price: Int64Array, service: int, scale: int) -> int:
    """Most that one service earns over the price of its room: its best groups first, up to its count."""
    worth = int(problem.weight[service]) * scale
    demand = [int(d) for d in problem.demand[service]]
    left, earned = int(problem.count[service]), 0
    gains = sorted(
        (
            (worth - sum(int(p) * d for p, d in zip(price[g], demand, strict=True)), int(g))
            for g in np.flatnonzero(ceiling)
        ),
        reverse=True,
    )
    for gain, group in gains:
        if gain <= 0 or left <= 0:
            break
        held = min(left, int(ceiling[group]))
        earned += gain * held
        left -= held
    return earned
