"""Serial schedule generation for any size: each task of an order starts at the first time that all its uses
allow.

A use may begin before or after its task and last shorter or longer; resources are step functions (`profile`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import kernel, njit
from evac.planning.scheduling.profile import EVER, Profile, earliest, hold

Ints = NDArray[np.int64]


class Net(NamedTuple):
    """The tasks as the kernels see them; uses that can never bind are left out."""

    duration: Ints  # [tasks]
    release: Ints  # [tasks]
    before_ptr: Ints  # [tasks + 1] CSR of the predecessors
    before: Ints
    use_ptr: Ints  # [tasks + 1] CSR of the uses
    resource: Ints
    units: Ints
    offset: Ints
    hold: Ints
    capacity: Ints  # [resources]
    kind: Ints  # [uses] uses with equal resource, units and hold have one kind


@njit(cache=True, inline="always")
def _fits_from(net: Net, profile: Profile, floor: Ints, use: int, start: int) -> int:
    """The first time at or after `start` at which the use alone can begin."""
    kind = net.kind[use]
    first = max(start, floor[kind])
    resource = net.resource[use]
    found: int = earliest(profile, resource, first, net.hold[use], net.capacity[resource] - net.units[use])
    if start <= floor[kind]:
        floor[kind] = found
    return found


@njit(cache=True, inline="always")
def start_from(net: Net, profile: Profile, floor: Ints, task: int, start: int) -> int:
    """The first time at or after `start` at which all uses of the task fit together."""
    first = net.use_ptr[task]
    uses = net.use_ptr[task + 1] - first
    agreed = 0
    at = 0
    while agreed < uses:
        use = first + at
        offset = net.offset[use]
        found = _fits_from(net, profile, floor, use, start + offset) - offset
        if found > start:
            start = found
            agreed = 1
        else:
            agreed += 1
        at = at + 1 if at + 1 < uses else 0
    return start


@njit(cache=True, inline="always")
def place(net: Net, profile: Profile, task: int, start: int) -> None:
    """Take what the task uses when it starts at `start`."""
    for use in range(net.use_ptr[task], net.use_ptr[task + 1]):
        begin = start + net.offset[use]
        hold(profile, net.resource[use], begin, begin + net.hold[use], net.units[use])


@kernel
def generate(
    net: Net, profile: Profile, floor: Ints, order: Ints, first: int, last: int, finish: Ints
) -> None:
    """Place `order[first:last]`, each task as early as it fits, after all that stands before."""
    for index in range(first, last):
        task = order[index]
        start = net.release[task]
        for arc in range(net.before_ptr[task], net.before_ptr[task + 1]):
            start = max(start, finish[net.before[arc]])
        start = start_from(net, profile, floor, task, start)
        place(net, profile, task, start)
        finish[task] = start + net.duration[task]


@kernel
def cost(weight: Ints, weighted: Ints, finish: Ints, horizon: int) -> int:
    """Sum of weight times completion, completion counted up to the horizon."""
    total = 0
    for index in range(weighted.size):
        task = weighted[index]
        total += weight[task] * min(finish[task], horizon)
    return total


__all__ = ["EVER", "Net", "Profile", "cost", "generate", "place", "start_from"]
