"""Which method for which tasks: good orders to begin with, then the search that suits size and objective."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.model.errors import InvalidInput
from evac.planning.scheduling import genetic, packed
from evac.planning.scheduling.anneal import Goal, improve
from evac.planning.scheduling.density import by_density
from evac.planning.scheduling.net import net_of, successors
from evac.planning.scheduling.ordering import closed, heads, tails, topological
from evac.planning.scheduling.profile import EVER, Profile, clear, empty
from evac.planning.scheduling.saved import no_states
from evac.planning.scheduling.serial import Net, cost, generate
from evac.planning.scheduling.tasks import Schedule, Tasks, check

Ints = NDArray[np.int64]
_HEAT_SHARES = (16, 300)
"""A trial may at first add the mean cost of a weighted task over a share: half their number, within these
limits.

Measured on random problems of 40 to 20,000 tasks: few tasks need heat to leave a bad order at all, many need
calm.
"""
_HOT_SHARE = 2
_FEW = 40


class Problem(NamedTuple):
    """What every method reads."""

    net: Net
    goal: Goal
    topological: Ints


class Found(NamedTuple):
    """Completions found, and the schedule generations spent."""

    finish: Ints
    work: int


def search(tasks: Tasks, work: int, seed: int, start_order: Ints | None) -> Schedule:
    """See `evac.planning.schedule.schedule`."""
    check(tasks)
    if work < 1:
        raise InvalidInput("schedule-work", f"The work is {work}.", "Allow at least one schedule generation.")
    problem = _problem(tasks)
    first = _checked(start_order, tasks.count)
    found = _find(problem, work, seed, first) if tasks.count else Found(np.zeros(0, np.int64), 1)
    goal = problem.goal
    return Schedule(
        start=found.finish - tasks.duration,
        objective=int(cost(goal.weight, goal.weighted, found.finish, goal.horizon)),
        makespan=int(found.finish.max(initial=0)),
        work=found.work,
    )


def _problem(tasks: Tasks) -> Problem:
    net = net_of(tasks)
    after_ptr, after = successors(net)
    order = topological(net, after_ptr, after)
    weighted = np.flatnonzero(tasks.weight).astype(np.int64)
    weight = np.ascontiguousarray(tasks.weight)
    goal = Goal(weight, weighted, heads(net, order), after_ptr, after, tasks.horizon)
    return Problem(net, goal, order)


def _checked(start_order: Ints | None, count: int) -> Ints | None:
    if start_order is None:
        return None
    if start_order.shape != (count,) or not np.array_equal(np.sort(start_order), np.arange(count)):
        raise InvalidInput(
            "schedule-start-order",
            f"start_order does not name each of the {count} tasks once.",
            "Give a permutation of 0 to N-1, or none.",
        )
    return start_order.astype(np.int64)


def _find(problem: Problem, work: int, seed: int, start_order: Ints | None) -> Found:
    orders = _first_orders(problem, start_order)[:work]
    found = [_generated(problem, order) for order in orders]
    prices = [_price(problem, finish) for finish in found]
    best = int(np.argmin(prices))
    left = work - len(orders)
    if left < genetic.GENERATIONS_EACH or prices[best] == _price(problem, problem.goal.head):
        return Found(found[best], len(orders))
    if problem.goal.weighted.size == 1 and packed.packable(problem.net):
        finish, spent = _evolved(problem, orders[best], left, seed)
    else:
        finish, spent = _annealed(problem, orders[best], prices[best], left, seed)
    better = finish if _price(problem, finish) < prices[best] else found[best]
    return Found(better, len(orders) + spent)


def _price(problem: Problem, finish: Ints) -> int:
    goal = problem.goal
    return int(cost(goal.weight, goal.weighted, finish, goal.horizon))


def _first_orders(problem: Problem, start_order: Ints | None) -> list[Ints]:
    """Orders to begin with: the caller's, densest closures first, earliest due first."""
    net, goal, order = problem
    tail = tails(net, order)
    latest = order[np.argsort(-(tail + net.duration)[order], kind="stable")]
    dense = by_density(net, goal.after_ptr, goal.after, order, goal.weight)
    wanted = [np.concatenate([dense, latest]), latest]
    if goal.weighted.size <= 1:
        wanted.reverse()
    if start_order is not None:
        wanted.insert(0, start_order)
    return [closed(net, each, -goal.head) for each in wanted]


def _generated(problem: Problem, order: Ints) -> Ints:
    net = problem.net
    profile, floor = _blank(net)
    finish = np.zeros(order.size, np.int64)
    generate(net, profile, floor, order, 0, order.size, finish)
    return finish


def _blank(net: Net) -> tuple[Profile, Ints]:
    """An empty profile with room for every use, and the floors of its kinds of use."""
    profile = empty(np.bincount(net.resource, minlength=net.capacity.size))
    clear(profile)
    return profile, np.full(int(net.kind.max(initial=-1)) + 1, -EVER, np.int64)


def _annealed(problem: Problem, order: Ints, price: int, work: int, seed: int) -> Found:
    """The better of a short hot run, worth it for few tasks only, and a long cool one."""
    net, goal, _ = problem
    count = order.size
    profile, floor = _blank(net)
    hot = work // 4 if count <= _FEW else 0
    weighted = max(1, goal.weighted.size)
    cool_share = min(_HEAT_SHARES[1], max(_HEAT_SHARES[0], weighted // 2))
    runs = [(_HOT_SHARE, hot), (cool_share, work - hot)] if hot else [(cool_share, work)]
    finishes, spent = [], 0
    for share, part in runs:
        saved = no_states(profile, floor, count)
        heat = price / (share * weighted)
        finish, placed = improve(net, goal, profile, floor, saved, order, part * count, seed, heat)
        finishes.append(finish)
        spent += placed
    return Found(min(finishes, key=lambda finish: _price(problem, finish)), -(-spent // count))


def _evolved(problem: Problem, order: Ints, work: int, seed: int) -> Found:
    net, goal, topological_order = problem
    forward, mirrored = packed.sides(net, goal)
    members = genetic.members_for(order.size, work)
    tail = tails(net, topological_order)
    bound = _price(problem, goal.head)
    finish, spent = genetic.evolve(
        forward, mirrored, goal, members, packed.scratch_for(net), order, tail, work, seed, bound
    )
    return Found(finish, spent)
