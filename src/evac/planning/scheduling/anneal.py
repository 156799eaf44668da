"""Local search over orders: closures move forward, or dependents back, inside a window.

A move takes a target and pulls those of its predecessors that lie in a window of the order to the front of
the window with it, or pushes it to the end with its successors. Only the window and what follows can change,
so a trial resumes from a saved state before the window. Mostly it gives up after the window if the tasks
inside, whose set is the same as before, already cost more than would be accepted. Acceptance is that of
annealing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_kernel, inner
from evac.planning.scheduling.chance import below, mixed
from evac.planning.scheduling.profile import EVER, Profile
from evac.planning.scheduling.saved import Saved, forget_after, last_before, restore, save
from evac.planning.scheduling.serial import Net, cost, generate

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
_BITS = 20
_TRIES = 16
_STRIDE = 64
_LOOKS = 16
_SHORT = 256
_PATIENT_IN = 8


class Goal(NamedTuple):
    """What completions cost, and the graph seen from predecessors."""

    weight: Ints  # [tasks]
    weighted: Ints  # tasks of weight above 0
    head: Ints  # [tasks] earliest completion by the graph alone
    after_ptr: Ints  # [tasks + 1] CSR of the successors
    after: Ints
    horizon: int


class Trial(NamedTuple):
    """The present order and its schedule, a changed copy of both, and scratch space."""

    order: Ints
    finish: Ints
    new_order: Ints
    new_finish: Ints
    place: Ints  # [tasks] where in `order` each task stands
    marked: NDArray[np.bool_]  # [tasks] all false between moves


@allocating_kernel
def improve(
    net: Net,
    goal: Goal,
    profile: Profile,
    floor: Ints,
    saved: Saved,
    start_order: Ints,
    work: int,
    seed: int,
    heat: float,
) -> tuple[Ints, int]:
    """The completions of the best schedule found, and the tasks placed to find it (about `work` at most).

    `heat` is the cost that a trial may add at the start; it falls to 0 with the square of the work left.
    """
    count = start_order.size
    chance = np.array([mixed(np.uint64(seed))])
    trial = Trial(
        start_order.copy(),
        np.zeros(count, np.int64),
        start_order.copy(),
        np.zeros(count, np.int64),
        np.empty(count, np.int64),
        np.zeros(count, np.bool_),
    )
    trial.place[start_order] = np.arange(count)
    restore(saved, 0, profile, floor)
    _advance(net, profile, floor, saved, trial.order, 0, count, count, trial.finish)
    spent = count
    present = cost(goal.weight, goal.weighted, trial.finish, goal.horizon)
    best, best_finish = present, trial.finish.copy()
    barren = 0
    while spent < work and barren < 1000 and count > 1:
        first, last = _move(net, goal, trial, chance)
        if last < 0:
            barren += 1
            continue
        barren = 0
        slack = _slack(chance, heat, work - spent, work)
        # Sometimes a dear window pays for itself in the tail, so one trial in a few is seen through.
        seen_through = count - last <= _SHORT or below(chance, _PATIENT_IN) == 0
        patience = int(EVER) if seen_through else slack
        total, placed = _evaluate(net, goal, profile, floor, saved, trial, first, last, present, patience)
        spent += placed
        if total <= present + slack:
            _accept(saved, trial, first, last)
            present = total
            if present < best:
                best = present
                best_finish[:] = trial.finish
        else:
            trial.new_order[first : last + 1] = trial.order[first : last + 1]
    return best_finish, spent


@inner
def _slack(chance: Words, heat: float, left: int, work: int) -> int:
    """An exponentially spread cost with mean about heat * (left / work)^2; logarithm by halving, so exact
    everywhere.
    """
    part = left / work
    number = below(chance, 1 << _BITS) + 1
    halvings = 0
    while number <= 1 << (_BITS - 1):
        number <<= 1
        halvings += 1
    logarithm = halvings + 2.0 * (1.0 - number / (1 << _BITS))
    return int(heat * part * part * logarithm)


@inner
def _move(net: Net, goal: Goal, trial: Trial, chance: Words) -> tuple[int, int]:
    """Change `new_order` inside a window; the first and last place that differ, or (0, -1) if none does."""
    count = trial.order.size
    for _ in range(_TRIES):
        target = _target(goal, trial, chance)
        at = trial.place[target]
        reach = 1 << below(chance, _bits(count))
        reach += below(chance, reach)
        if below(chance, 4) > 0:
            first, last = max(0, at - reach), at
            _pull(net, trial, first, at)
        else:
            first, last = at, min(count - 1, at + reach)
            _push(goal, trial, at, last)
        while first <= last and trial.new_order[first] == trial.order[first]:
            first += 1
        while last >= first and trial.new_order[last] == trial.order[last]:
            last -= 1
        if first < last:
            return first, last
    return 0, -1


@inner
def _bits(value: int) -> int:
    bits = 1
    while value >> bits:
        bits += 1
    return bits


@inner
def _target(goal: Goal, trial: Trial, chance: Words) -> int:
    """A task to move: mostly a weighted one that waits long for its weight, sometimes any."""
    if goal.weighted.size <= 1 or below(chance, 4) == 0:
        return below(chance, trial.order.size)
    target = int(goal.weighted[below(chance, goal.weighted.size)])
    for _ in range(below(chance, 3)):
        other = int(goal.weighted[below(chance, goal.weighted.size)])
        if _delay_cost(goal, trial, other) > _delay_cost(goal, trial, target):
            target = other
    return target


@inner
def _delay_cost(goal: Goal, trial: Trial, task: int) -> float:
    return float(goal.weight[task]) * float(trial.finish[task] - goal.head[task])


@inner
def _pull(net: Net, trial: Trial, first: int, at: int) -> None:
    """In the window first..at, what the task at `at` waits for, and it, come before all else."""
    target = trial.order[at]
    trial.marked[target] = True
    back = at
    for index in range(at, first - 1, -1):
        task = trial.order[index]
        if trial.marked[task]:
            for arc in range(net.before_ptr[task], net.before_ptr[task + 1]):
                trial.marked[net.before[arc]] = True
        else:
            trial.new_order[back] = task
            back -= 1
    for index in range(at, first - 1, -1):
        task = trial.order[index]
        if trial.marked[task]:
            trial.new_order[back] = task
            back -= 1
            for arc in range(net.before_ptr[task], net.before_ptr[task + 1]):
                if trial.place[net.before[arc]] < first:
                    trial.marked[net.before[arc]] = False
            trial.marked[task] = False


@inner
def _push(goal: Goal, trial: Trial, at: int, last: int) -> None:
    """In the window at..last, the task at `at` and what waits for it come after all else."""
    trial.marked[trial.order[at]] = True
    front = at
    for index in range(at, last + 1):
        task = trial.order[index]
        if trial.marked[task]:
            for arc in range(goal.after_ptr[task], goal.after_ptr[task + 1]):
                trial.marked[goal.after[arc]] = True
        else:
            trial.new_order[front] = task
            front += 1
    for index in range(at, last + 1):
        task = trial.order[index]
        if trial.marked[task]:
            trial.new_order[front] = task
            front += 1
            for arc in range(goal.after_ptr[task], goal.after_ptr[task + 1]):
                if trial.place[goal.after[arc]] > last:
                    trial.marked[goal.after[arc]] = False
            trial.marked[task] = False


@inner
def _evaluate(
    net: Net,
    goal: Goal,
    profile: Profile,
    floor: Ints,
    saved: Saved,
    trial: Trial,
    first: int,
    last: int,
    present: int,
    patience: int,
) -> tuple[int, int]:
    """What `new_order` costs, or what shows early if that adds more than `patience`; and the tasks placed."""
    count = trial.order.size
    for task in range(trial.finish.size):
        trial.new_finish[task] = trial.finish[task]
    mark = last_before(saved, first)
    begin = saved.place[mark]
    restore(saved, mark, profile, floor)
    _advance(net, profile, floor, saved, trial.new_order, begin, first, first, trial.new_finish)
    generate(net, profile, floor, trial.new_order, first, last + 1, trial.new_finish)
    if _unchanged(trial, first, last):
        return present, last + 1 - begin
    # The same tasks as before stand before any later place, so their cost can be compared there too.
    added = 0
    end = last + 1
    while True:
        added += _added(goal, trial, first, end)
        if added > patience or end == count:
            return present + added, end - begin
        first, end = end, min(count, end + max(_STRIDE, count // _LOOKS))
        generate(net, profile, floor, trial.new_order, first, end, trial.new_finish)


@inner
def _unchanged(trial: Trial, first: int, last: int) -> bool:
    """Whether every task in the window ends when it did, so that all else stays as it is."""
    for index in range(first, last + 1):
        task = trial.new_order[index]
        if trial.new_finish[task] != trial.finish[task]:
            return False
    return True


@inner
def _added(goal: Goal, trial: Trial, first: int, end: int) -> int:
    """What the tasks at new_order[first:end] cost more than they did."""
    added = 0
    for index in range(first, end):
        task = trial.new_order[index]
        if goal.weight[task] > 0:
            change = min(trial.new_finish[task], goal.horizon) - min(trial.finish[task], goal.horizon)
            added += goal.weight[task] * change
    return added


@inner
def _advance(
    net: Net,
    profile: Profile,
    floor: Ints,
    saved: Saved,
    order: Ints,
    begin: int,
    end: int,
    fixed: int,
    finish: Ints,
) -> None:
    """Place order[begin:end], saving the state at each mark up to `fixed` that has none."""
    for mark in range(1, saved.place.size):
        place = saved.place[mark]
        if begin < place <= min(end, fixed) and not saved.valid[mark]:
            generate(net, profile, floor, order, begin, place, finish)
            begin = place
            save(saved, mark, profile, floor)
    generate(net, profile, floor, order, begin, end, finish)


@inner
def _accept(saved: Saved, trial: Trial, first: int, last: int) -> None:
    for index in range(first, last + 1):
        task = trial.new_order[index]
        trial.order[index] = task
        trial.place[task] = index
    for task in range(trial.finish.size):
        trial.finish[task] = trial.new_finish[task]
    forget_after(saved, first)
