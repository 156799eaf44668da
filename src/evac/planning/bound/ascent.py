"""Weight splitting: shares each milestone's weight among everything that makes it late.

The value of a split is exact for every limit and capacity (a greedy computes it), so each step moves weight
to where one more unit is worth most. An average of splits is a split too. Prices of the final placement stay
as the relaxation found them. Kernels use floats with + - * / only, so every machine rounds alike.
"""

from __future__ import annotations

import numpy as np

from evac.model.records import dataclass
from evac.planning.bound.problem import (
    ARC,
    SHARE,
    FlagArray,
    FloatArray,
    IntArray,
    Members,
    Nodes,
    Options,
    Problem,
    Search,
)
from evac.planning.bound.relaxation import Relaxed
from evac.planning.compiled import (
    allocating_inner,
    allocating_kernel,
    allocating_unlocked_kernel,
    fill,
    inner,
    kernel,
)

_PACE = 8.0
_CHUNK = 256
_NEAR = 5e-4
"""The search ends when the value is this close to the ceiling."""

_EVEN = 0.1
"""Part of the first split that goes to all options equally."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Weight on arcs (in the order of the network) and on the members of all rows."""

    arcs: FloatArray
    shares: FloatArray


def ascend(problem: Problem, relaxed: Relaxed, iterations: int, mean_outage: float) -> tuple[Split, ...]:
    """The best split, the average and the last after some iterations, fewer if the ceiling is near: the
    weighted ticks that these rows cannot exceed if everything is placed.

    mean_outage: ticks below which differences in value count in full: half of what a unit of weight costs in
    the relaxation. It, the pace and its decay were tuned on the example companies.
    """

    facts, options, members = problem.facts, problem.options, problem.members
    nodes = Nodes(
        order=np.array(problem.network.order, np.int64),
        weight=facts.weight.astype(np.float64),
        head=np.where(facts.lost, facts.head, 0).astype(np.float64),
        lost=facts.lost,
        reserve=problem.reserve,
        horizon=float(facts.instance.horizon),
    )
    theta = _first_fractions(problem, relaxed)
    flow, best_flow, sum_flow = np.zeros((3, len(theta)))
    search = Search(theta, flow, best_flow, sum_flow, np.zeros(len(members.milestone)))
    mean = max(1.0, mean_outage)
    best, counted, done = -np.inf, 0, 0
    while done < iterations:
        end = min(iterations, done + _CHUNK)
        best, counted = _ascend(
            nodes, options, members, search, done + 1, end + 1, _PACE, mean, best, counted
        )
        done = end
        ceiling = ceiling_of(nodes, options, search.sum_wait / counted)
        average = value_of(nodes, options, members, search.sum_flow / counted)
        if not problem.reserve.any() and max(best, average) >= ceiling * (1.0 - _NEAR):
            break
    flows = (search.best_flow, search.sum_flow / max(1, counted), search.flow)
    return tuple(Split(f[options.arc], f[options.share]) for f in flows)


def relaxed_split(problem: Problem, relaxed: Relaxed) -> Split:
    """The split given by the relaxation's duals."""
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
    """The relaxation's fractions, mixed with a little of everything."""
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


@kernel
def busy_times(
    weight: FloatArray,
    size: FloatArray,
    release: FloatArray,
    arrivals: IntArray,
    speed: float,
    horizon: float,
    heap: IntArray,
    left: FloatArray,
    out: FloatArray,
) -> None:
    """Mean busy ticks of each member of a supply row under the preemptive greedy.

    weight, size, release, out: (n,); arrivals: (n,) members by release; heap, left: (n,) scratch.
    Work after the horizon counts at the horizon.
    """
    count = len(size)
    for k in range(count):
        left[k] = size[k]
        out[k] = 0.0
    ready = 0
    cursor = 0
    clock = 0.0
    while ready > 0 or cursor < count:
        if ready == 0 and release[arrivals[cursor]] > clock:
            clock = release[arrivals[cursor]]
        while cursor < count and release[arrivals[cursor]] <= clock:
            ready = _push(heap, ready, arrivals[cursor], weight, size)
            cursor += 1
        member = heap[0]
        until = clock + left[member] / speed
        done = True
        if cursor < count and release[arrivals[cursor]] < until:
            until = release[arrivals[cursor]]
            done = False
        work = (until - clock) * speed
        if until <= horizon:
            out[member] += work * (clock + until) * 0.5
        elif clock >= horizon:
            out[member] += work * horizon
        else:
            out[member] += (horizon - clock) * speed * (clock + horizon) * 0.5 + (
                until - horizon
            ) * speed * horizon
        left[member] -= work
        clock = until
        if done:
            ready = _pop(heap, ready, weight, size)
    for k in range(count):
        out[k] /= size[k]


@inner
def _before(a: int, b: int, weight: FloatArray, size: FloatArray) -> bool:
    mine = weight[a] * size[b]
    theirs = weight[b] * size[a]
    return mine > theirs or (mine == theirs and a < b)


@inner
def _push(heap: IntArray, ready: int, member: int, weight: FloatArray, size: FloatArray) -> int:
    child = ready
    while child > 0:
        parent = (child - 1) // 2
        if not _before(member, heap[parent], weight, size):
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = member
    return ready + 1


@inner
def _pop(heap: IntArray, ready: int, weight: FloatArray, size: FloatArray) -> int:
    ready -= 1
    member = heap[ready]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= ready:
            break
        if child + 1 < ready and _before(heap[child + 1], heap[child], weight, size):
            child += 1
        if not _before(heap[child], member, weight, size):
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = member
    return ready


@allocating_kernel
def capacity_waits(
    weight: FloatArray,
    size: FloatArray,
    first: float,
    gain_tick: FloatArray,
    gain: FloatArray,
    horizon: float,
    out: FloatArray,
) -> None:
    """Mean ticks each member of a capacity row waits for capacity, laid end to end by weight per size."""
    ratio = np.empty(len(size))
    for member in range(len(size)):
        ratio[member] = -(weight[member] / size[member])
    order = np.argsort(ratio, kind="mergesort")
    capacity = first
    tick = 0.0
    event = 0
    for place in range(len(order)):
        member = order[place]
        left = size[member]
        total = 0.0
        while left > 0.0:
            if tick >= horizon:
                total += left * horizon
                left = 0.0
            elif capacity > 0.0:
                taken = min(left, capacity)
                total += taken * tick
                left -= taken
                capacity -= taken
            elif event < len(gain):
                tick = gain_tick[event]
                capacity += gain[event]
                event += 1
            else:
                tick = horizon
        out[member] = total / size[member]


@inner
def spread_flows(
    nodes: Nodes,
    options: Options,
    theta: FloatArray,
    flow: FloatArray,
    received: FloatArray,
    short: FlagArray,
) -> None:
    """Splits the weight of every milestone among its options, dependents first."""
    start, kind, target, worth = options.start, options.kind, options.target, options.worth
    for i in range(len(nodes.weight)):
        received[i] = nodes.weight[i]
    for place in range(len(nodes.order) - 1, -1, -1):
        i = nodes.order[place]
        total = received[i]
        others = 0.0
        owed = 0.0
        for o in range(start[i] + 1, start[i + 1]):
            others += theta[o]
            owed += theta[o] * worth[o]
        scale = 1.0
        short[i] = 0
        if nodes.lost[i]:
            left = nodes.horizon - nodes.head[i]
            capacity = left * total - nodes.reserve[i]
            price = total * (owed + left * others)
            if capacity <= 0.0:
                short[i] = 1
                scale = 0.0
            elif price > capacity:
                scale = capacity / price
        flow[start[i]] = total * (1.0 - scale * others)
        for o in range(start[i] + 1, start[i + 1]):
            flow[o] = total * scale * theta[o]
            if kind[o] == ARC:
                received[target[o]] += flow[o]


@inner
def weigh_options(
    nodes: Nodes,
    options: Options,
    theta: FloatArray,
    wait: FloatArray,
    short: FlagArray,
    value: FloatArray,
    gain: FloatArray,
) -> None:
    """Value of one more unit of weight on each option (gain) and at each milestone (value)."""
    start, kind, target, worth = options.start, options.kind, options.target, options.worth
    for place in range(len(nodes.order)):
        i = nodes.order[place]
        own = nodes.head[i] if nodes.lost[i] else 0.0
        if short[i] == 1:
            own = nodes.horizon
        gain[start[i]] = own
        others = 0.0
        owed = 0.0
        total = 0.0
        for o in range(start[i] + 1, start[i + 1]):
            least = 0.0 if short[i] == 1 else worth[o]
            gain[o] = least + (value[target[o]] if kind[o] == ARC else wait[target[o]])
            others += theta[o]
            owed += theta[o] * worth[o]
            total += theta[o] * gain[o]
        if short[i] == 1:
            value[i] = nodes.horizon
            continue
        scale = 1.0
        if nodes.lost[i]:
            left = nodes.horizon - nodes.head[i]
            price = owed + left * others
            if price > left:
                scale = left / price
        value[i] = own * (1.0 - scale * others) + scale * total


@inner
def dual_value(nodes: Nodes, options: Options, wait: FloatArray, flow: FloatArray) -> float:
    """Objective of the split, less what the placement certainly adds."""
    start, kind, target, worth = options.start, options.kind, options.target, options.worth
    total: float = 0.0
    for i in range(len(nodes.head)):
        owed = nodes.reserve[i]
        for o in range(start[i] + 1, start[i + 1]):
            total += flow[o] * worth[o]
            owed += flow[o] * worth[o]
            if kind[o] == SHARE:
                total += flow[o] * wait[target[o]]
        if nodes.lost[i]:
            own = flow[start[i]]
            total += own * nodes.head[i]
            slack = (nodes.horizon - nodes.head[i]) * own - owed
            if slack < 0.0:
                total += slack
    return total


@inner
def shift_shares(start: IntArray, theta: FloatArray, gain: FloatArray, step: float, mean: float) -> None:
    """Moves the split of every milestone towards its better options.

    mean: ticks below which differences count in full, above it they count in proportion.
    """
    for i in range(len(start) - 1):
        best = gain[start[i]]
        for o in range(start[i] + 1, start[i + 1]):
            best = max(best, gain[o])
        scale = max(best, mean)
        total = 0.0
        for o in range(start[i], start[i + 1]):
            theta[o] = max(theta[o] * max(0.5, 1.0 + step * (gain[o] - best) / scale), 1e-9)
            total += theta[o]
        for o in range(start[i], start[i + 1]):
            theta[o] /= total


@allocating_inner
def price_rows(
    members: Members, horizon: float, weight: FloatArray, wait: FloatArray, heap: IntArray, left: FloatArray
) -> None:
    """Waits of all members of all rows, given their weights. A row with speed 0 is a capacity row."""
    for row in range(len(members.speed)):
        a, b = members.start[row], members.start[row + 1]
        if members.speed[row] > 0.0:
            busy_times(
                weight[a:b],
                members.size[a:b],
                members.release[a:b],
                members.arrivals[a:b],
                members.speed[row],
                horizon,
                heap[a:b],
                left[a:b],
                wait[a:b],
            )
        else:
            e, f = members.gain_start[row], members.gain_start[row + 1]
            gain_tick, gain = members.gain_tick[e:f], members.gain[e:f]
            capacity_waits(
                weight[a:b], members.size[a:b], members.first[row], gain_tick, gain, horizon, wait[a:b]
            )


@allocating_unlocked_kernel
def _ascend(
    nodes: Nodes,
    options: Options,
    members: Members,
    search: Search,
    begin: int,
    end: int,
    pace: float,
    mean: float,
    best: float,
    counted: int,
) -> tuple[float, int]:
    """Runs iterations `begin` to `end`; returns (best value, iterations averaged).

    The arrays of `search` change in place. counted: iterations already in its sums, which restart
    whenever the number of the iteration is a power of two.
    """
    milestones, choices, count = len(nodes.weight), len(search.theta), len(members.size)
    received, short = np.zeros(milestones), np.zeros(milestones, np.int8)
    value, worthwhile = np.zeros(milestones), np.zeros(choices)
    shares, wait = np.zeros(count), np.zeros(count)
    heap, left = np.zeros(count, np.int64), np.zeros(count)
    theta, flow = search.theta, search.flow
    for k in range(begin, end):
        spread_flows(nodes, options, theta, flow, received, short)
        for o in range(choices):
            if options.kind[o] == SHARE:
                shares[options.target[o]] = flow[o]
        price_rows(members, nodes.horizon, shares, wait, heap, left)
        now = dual_value(nodes, options, wait, flow)
        if now > best:
            best = now
            search.best_flow[:] = flow
        if k & (k - 1) == 0:
            counted = 0
            fill(search.sum_flow, 0.0)
            fill(search.sum_wait, 0.0)
        counted += 1
        for o in range(choices):
            search.sum_flow[o] += flow[o]
        for member in range(count):
            search.sum_wait[member] += wait[member]
        weigh_options(nodes, options, theta, wait, short, value, worthwhile)
        shift_shares(options.start, theta, worthwhile, pace / (1.0 + k / 30.0), mean)
    return best, counted


@allocating_kernel
def value_of(nodes: Nodes, options: Options, members: Members, flow: FloatArray) -> float:
    """Objective of given flows, less what the placement certainly adds."""
    count = len(members.size)
    shares, wait = np.zeros(count), np.zeros(count)
    for o in range(len(flow)):
        if options.kind[o] == SHARE:
            shares[options.target[o]] = flow[o]
    price_rows(members, nodes.horizon, shares, wait, np.zeros(count, np.int64), np.zeros(count))
    return dual_value(nodes, options, wait, flow)


@allocating_kernel
def ceiling_of(nodes: Nodes, options: Options, wait: FloatArray) -> float:
    """An upper limit for all splits if nothing must stay unplaced: given waits pushed along the arcs.

    wait: of each member, an average over splits, which no split of these rows can exceed.
    """
    outage = np.zeros(len(nodes.weight))
    total = 0.0
    for place in range(len(nodes.order)):
        i = nodes.order[place]
        outage[i] = nodes.head[i] if nodes.lost[i] else 0.0
        for o in range(options.start[i] + 1, options.start[i + 1]):
            target = options.target[o]
            after = outage[target] if options.kind[o] == ARC else wait[target]
            outage[i] = max(outage[i], after + options.worth[o])
        total += nodes.weight[i] * outage[i]
    return total
