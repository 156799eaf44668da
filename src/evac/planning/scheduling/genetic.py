"""Genetic search over task orders for small makespan problems: children are justified, twins die, stagnation
restarts.

The genotype is an order of tasks; a two-point crossover keeps the outer parts of one parent and fills the
middle in the order of the other (Hartmann, Naval Research Logistics 45, 1998). A child becomes a schedule by
serial generation and double justification, and its order becomes that of the starts of the justified
schedule.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_inner, allocating_kernel, inner
from evac.planning.scheduling.anneal import Goal
from evac.planning.scheduling.chance import below, mixed
from evac.planning.scheduling.packed import Scratch, Side, justify
from evac.planning.scheduling.serial import cost

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
GENERATIONS_EACH = 3
"""Schedule generations per child: forward, backward, forward."""
_SWAPS_PER_MILLE = 20
_RIVALS = 7
_PATIENCE = 60
"""Children per member without a better member before all is started anew."""


class Members(NamedTuple):
    """The population; rows up to `size[0]` are in use."""

    order: Ints  # [members, tasks]
    price: Ints  # [members] what the schedule costs
    mark: Words  # [members] a hash of the schedule: no two members are the same
    size: Ints  # [1]


def members_for(tasks: int, work: int) -> Members:
    """A population that fits the work: large enough not to inbreed, small enough to converge."""
    members = min(2_000, max(24, 3 * isqrt(work // GENERATIONS_EACH)))
    return Members(
        np.zeros((members, tasks), np.int64),
        np.zeros(members, np.int64),
        np.zeros(members, np.uint64),
        np.zeros(1, np.int64),
    )


@allocating_kernel
def evolve(
    forward: Side,
    mirrored: Side,
    goal: Goal,
    members: Members,
    scratch: Scratch,
    first_order: Ints,
    tail: Ints,
    work: int,
    seed: int,
    bound: int,
) -> tuple[Ints, int]:
    """Completions of the best schedule found and the generations spent; stops early if its cost meets
    `bound`.
    """
    chance = np.array([mixed(np.uint64(seed))])
    child = first_order.copy()
    justify(forward, mirrored, scratch, child)
    spent = GENERATIONS_EACH
    best = cost(goal.weight, goal.weighted, scratch.finish, goal.horizon)
    best_finish = scratch.finish.copy()
    latest = -1 - tail
    stale = 0
    members.size[0] = 0
    while spent + GENERATIONS_EACH <= work and best > bound:
        growing = members.size[0] < 2 or (
            members.size[0] < members.price.size and stale < 2 * members.price.size
        )
        if growing:
            _sample(forward, goal, latest, chance, child)
        else:
            _cross(members, chance, child, scratch.order)
            _mutate(forward, chance, child)
        justify(forward, mirrored, scratch, child)
        spent += GENERATIONS_EACH
        price = cost(goal.weight, goal.weighted, scratch.finish, goal.horizon)
        if price < best:
            best = price
            best_finish[:] = scratch.finish
        if _join(members, child, price, scratch.finish, chance):
            stale = 0
        else:
            stale += 1
        if stale > _PATIENCE * members.price.size:
            members.size[0] = 0
            stale = 0
    return best_finish, spent


@allocating_inner
def _sample(side: Side, goal: Goal, latest: Ints, chance: Words, order: Ints) -> None:
    """A random order that prefers tasks that must end early; how strongly is drawn anew each time."""
    waits = np.empty(order.size, np.int64)
    ready = np.empty(order.size, np.int64)
    open_ = 0
    for task in range(order.size):
        waits[task] = side.before_ptr[task + 1] - side.before_ptr[task]
        if waits[task] == 0:
            ready[open_] = task
            open_ += 1
    rivals = below(chance, 3)
    for index in range(order.size):
        pick = below(chance, open_)
        for _ in range(rivals):
            other = below(chance, open_)
            if latest[ready[other]] < latest[ready[pick]]:
                pick = other
        task = ready[pick]
        open_ -= 1
        ready[pick] = ready[open_]
        order[index] = task
        for arc in range(goal.after_ptr[task], goal.after_ptr[task + 1]):
            waits[goal.after[arc]] -= 1
            if waits[goal.after[arc]] == 0:
                ready[open_] = goal.after[arc]
                open_ += 1


@inner
def _better_of_two(members: Members, chance: Words) -> int:
    one, other = below(chance, members.size[0]), below(chance, members.size[0])
    return other if members.price[other] < members.price[one] else one


@inner
def _cross(members: Members, chance: Words, child: Ints, taken: Ints) -> None:
    """Outer parts from one parent, the middle in the order of another."""
    mother, father = _better_of_two(members, chance), _better_of_two(members, chance)
    left, right = below(chance, child.size), below(chance, child.size)
    if left > right:
        left, right = right, left
    taken[:] = 0
    for index in range(left):
        child[index] = members.order[mother, index]
        taken[child[index]] = 1
    at = left
    source = 0
    while at < right:
        task = members.order[father, source]
        source += 1
        if taken[task] == 0:
            taken[task] = 1
            child[at] = task
            at += 1
    for index in range(left, child.size):
        task = members.order[mother, index]
        if taken[task] == 0:
            child[at] = task
            at += 1


@inner
def _mutate(side: Side, chance: Words, child: Ints) -> None:
    """Swap a few neighbours that do not wait for each other."""
    for index in range(child.size - 1):
        if below(chance, 1000) < _SWAPS_PER_MILLE:
            one, other = child[index], child[index + 1]
            apart = True
            for arc in range(side.before_ptr[other], side.before_ptr[other + 1]):
                apart = apart and side.before[arc] != one
            if apart:
                child[index], child[index + 1] = other, one


@inner
def _join(members: Members, child: Ints, price: int, finish: Ints, chance: Words) -> bool:
    """Take the child in, in place of the worst of a few if all rows are full; true if that made things
    better.

    Only a few are looked at so that mediocre members live on for a while: they keep the population varied.
    """
    size = members.size[0]
    full = size == members.price.size
    row = size
    if full:
        row = below(chance, size)
        for _ in range(_RIVALS):
            other = below(chance, size)
            if members.price[other] > members.price[row]:
                row = other
        if price > members.price[row]:
            return False
    mark = np.uint64(0)
    for task in range(finish.size):
        mark = mixed(mark ^ np.uint64(finish[task] + 1))
    for member in range(size):
        if members.mark[member] == mark:
            return False
    better = not full or price < members.price[row]
    if not full:
        members.size[0] += 1
    for index in range(child.size):
        members.order[row, index] = child[index]
    members.price[row] = price
    members.mark[row] = mark
    return better
