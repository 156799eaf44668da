"""Weight splitting: each milestone's weight is shared among all that makes it late.

What a split is worth is known exactly for every limit and every room (a greedy), so each step moves
weight to where one more unit is worth most. An average of splits is a split too. Prices of the final
placement stay as the relaxation found them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.planning.bound.problem import FloatArray, Problem
from evac.planning.bound.relaxation import Relaxed

_PACE = 8.0
_CHUNK = 256
_NEAR = 5e-4
"""The search ends when the ceiling is this near."""

_EVEN = 0.1
"""Part of the first split that goes to every option alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Weight on arcs (in the order of the network) and on the members of all rows."""

    arcs: FloatArray
    shares: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Ascended:
    """splits: best, average, last. iterations: run; ceiling: weighted ticks that these rows cannot beat
    where everything finds a place."""

    splits: tuple[Split, ...]
    iterations: int
    ceiling: float


def ascend(problem: Problem, relaxed: Relaxed, iterations: int, mean_outage: float) -> Ascended:
    """Splits after some iterations, fewer where the ceiling is near.

    mean_outage: ticks below which differences of worth count in full: half of what a unit of weight costs in
    the relaxation. It, the pace and how that slows down were tried on the example companies.
    """
    from evac.planning.bound import kernels

    facts, options, members = problem.facts, problem.options, problem.members
    order = np.array(problem.network.order, np.int64)
    weight, horizon = facts.weight.astype(np.float64), float(facts.instance.horizon)
    head = np.where(facts.lost, facts.head, 0).astype(np.float64)
    nodes = (head, facts.lost, problem.reserve, horizon)
    graph = (options.start, options.kind, options.target, options.worth)
    rows = (
        members.start,
        members.speed,
        members.size,
        members.release,
        members.arrivals,
        members.first,
        members.gain_start,
        members.gain_tick,
        members.gain,
    )
    theta = _first_fractions(problem, relaxed)
    flow, best_flow, sum_flow = (np.zeros(len(theta)) for _ in range(3))
    sum_wait = np.zeros(len(members.milestone))
    best, counted, done, ceiling = -np.inf, 0, 0, np.inf
    while done < iterations:
        some = min(_CHUNK, iterations - done)
        best, counted = kernels.ascend(
            some,
            done + 1,
            _PACE,
            max(1.0, mean_outage),
            best,
            counted,
            order,
            weight,
            *nodes,
            *graph,
            *rows,
            theta,
            flow,
            best_flow,
            sum_flow,
            sum_wait,
        )
        done += some
        ceiling = kernels.ceiling_of(order, weight, head, facts.lost, *graph, sum_wait / counted)
        average = kernels.value_of(*nodes, *graph, *rows, sum_flow / counted)
        if not problem.reserve.any() and max(best, average) >= ceiling * (1.0 - _NEAR):
            break
    flows = (best_flow, sum_flow / max(1, counted), flow)
    splits = tuple(Split(f[options.arc], f[options.share]) for f in flows)
    return Ascended(splits, done, float(ceiling))


def relaxed_split(problem: Problem, relaxed: Relaxed) -> Split:
    """The split that the duals of the relaxation are."""
    shares = np.zeros(len(problem.members.milestone))
    for place, (row, i) in enumerate(_rows_of_members(problem)):
        number = row - len(problem.supply)
        if 0 <= number < len(relaxed.shares):
            shares[place] = relaxed.shares[number].get(i, 0.0)
    return Split(relaxed.arcs, shares)


def _rows_of_members(problem: Problem) -> list[tuple[int, int]]:
    start, milestone = problem.members.start.tolist(), problem.members.milestone.tolist()
    return [(row, milestone[k]) for row in range(len(start) - 1) for k in range(start[row], start[row + 1])]


def _first_fractions(problem: Problem, relaxed: Relaxed) -> FloatArray:
    """Fractions of the relaxation's split, mixed with a little of everything."""
    options, split = problem.options, relaxed_split(problem, relaxed)
    flow = np.zeros(len(options.kind))
    flow[options.arc], flow[options.share] = split.arcs, split.shares
    received = problem.facts.weight.astype(np.float64)
    np.add.at(received, np.array([j for _, j, _ in problem.network.arcs], np.int64), split.arcs)
    for i, (a, b) in enumerate(zip(options.start[:-1].tolist(), options.start[1:].tolist(), strict=True)):
        flow[a] = max(0.0, received[i] - flow[a + 1 : b].sum())
        total = flow[a:b].sum()
        even = np.full(b - a, 1.0 / (b - a))
        flow[a:b] = (1.0 - _EVEN) * flow[a:b] / total + _EVEN * even if total > 0.0 else even
    return flow
