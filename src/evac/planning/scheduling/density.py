"""Which weighted task is worth the most per unit of work, weights pushed down to what their tasks wait for.

For one machine the best order under precedence takes closures of highest weight over work first (Sidney,
Operations Research 23, 1975). The densities of that decomposition are the isotonic regression of weight over
work on the graph: no task denser than what it waits for. They are found here by passing weight along single
arcs until the two ends agree, a coordinate ascent whose sweeps cost one look at each arc. It converges fast
only if no task of little work stands between much work, so tasks that serve one successor alone are first
folded into it. Floats are added, multiplied and divided only: the result is the same on every machine.
"""

from __future__ import annotations

from math import fsum

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_kernel
from evac.planning.scheduling.serial import Net

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ARC_LOOKS = 20_000_000
SWEEPS_MOST = 300


def by_density(net: Net, after_ptr: Ints, after: Ints, topological: Ints, weight: Ints) -> Ints:
    """The weighted tasks, densest first, equal ones in topological order."""
    target, work = _folded(topological, after_ptr, after, weight, work_of(net))
    arcs_ptr, arcs = _condensed(net, target)
    nodes = topological[target[topological] == topological]
    sweeps = max(1, min(SWEEPS_MOST, ARC_LOOKS // max(1, arcs.size)))
    density = _densities(arcs_ptr, arcs, nodes, weight, work, sweeps)
    weighted = topological[weight[topological] > 0]
    return weighted[np.argsort(-density[weighted], kind="stable")]


def work_of(net: Net) -> Floats:
    """Work of each task: its share of each resource times how binding the resource is; never 0."""
    share = net.units * (net.hold.astype(np.float64) / net.capacity[net.resource])
    load = np.bincount(net.resource, weights=share, minlength=net.capacity.size)
    users = np.bincount(net.resource, minlength=net.capacity.size)
    binding = load / max(load.max(initial=0.0), 1e-300)
    # The price of a resource counts who waits for it, else a thousand racks would outweigh the feed above
    # them.
    price = users * binding * binding * binding
    task = np.repeat(np.arange(net.duration.size), np.diff(net.use_ptr))
    work = np.bincount(task, weights=share * price[net.resource], minlength=net.duration.size)
    # Summed exactly: how numpy groups a sum may differ between machines.
    mean = fsum(work.tolist()) / max(1, work.size)
    return np.asarray(work + max(1e-9 * mean, 1e-300))


@allocating_kernel
def _folded(
    topological: Ints, after_ptr: Ints, after: Ints, weight: Ints, work: Floats
) -> tuple[Ints, Floats]:
    """Per task the one it is folded into (itself if none), and the work of all folded into it."""
    target = np.arange(topological.size)
    total = work.copy()
    for index in range(topological.size - 1, -1, -1):
        task = topological[index]
        if weight[task] == 0 and after_ptr[task + 1] - after_ptr[task] == 1:
            target[task] = target[after[after_ptr[task]]]
            total[target[task]] += work[task]
    return target, total


def _condensed(net: Net, target: Ints) -> tuple[Ints, Ints]:
    """CSR of the predecessors between folded tasks, each arc once."""
    count = target.size
    task = target[np.repeat(np.arange(count), np.diff(net.before_ptr))]
    other = target[net.before]
    crossing = task != other
    keys = np.unique(task[crossing] * count + other[crossing])
    pointers = np.searchsorted(keys, np.arange(count + 1) * count).astype(np.int64)
    return pointers, keys % max(1, count)


@allocating_kernel
def _densities(
    before_ptr: Ints, before: Ints, nodes: Ints, weight: Ints, work: Floats, sweeps: int
) -> Floats:
    """Density of each node after `sweeps` passes over the arcs, dependents first; `nodes` is topological."""
    held = weight.astype(np.float64)
    passed = np.zeros(before.size, np.float64)
    for _ in range(sweeps):
        for index in range(nodes.size - 1, -1, -1):
            task = nodes[index]
            for arc in range(before_ptr[task], before_ptr[task + 1]):
                other = before[arc]
                excess = held[task] * work[other] - held[other] * work[task]
                amount = max(excess / (work[task] + work[other]), -passed[arc])
                passed[arc] += amount
                held[task] -= amount
                held[other] += amount
    return held / work
