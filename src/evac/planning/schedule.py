"""The scheduler's public face: tasks, order, renewable resources and weights in, a schedule out.

Everything heavy is imported when `schedule` is first called. The same tasks, work and seed give the same
schedule on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evac.planning.scheduling.tasks import NO_HORIZON, Schedule, Tasks, tasks_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NO_HORIZON", "Schedule", "Tasks", "schedule", "tasks_of", "warm"]


def schedule(tasks: Tasks, *, work: int, seed: int, start_order: NDArray[np.int64] | None = None) -> Schedule:
    """A schedule of low cost: the sum of weight times completion over all tasks.

    `work` is the budget in schedule generations (each task placed once); one is always spent. `start_order`
    (int64[N], a permutation) is an order to begin with: tasks come as early in it as what they wait for
    allows. Raises `InvalidInput` for arrays that describe no problem, cycles included, and `Infeasible` for a
    task that needs more than there is.
    """
    from evac.planning.scheduling.search import search

    return search(tasks, work, seed, start_order)


def warm() -> None:
    """Compile every kernel, or load it from the cache, so that the next call of `schedule` only searches."""
    one_at_a_time = [[(0, 1, 0, 2)]] * 3
    weighted = tasks_of([2, 2, 2], [[], [], [0]], one_at_a_time, [1], weight=[1, 2, 3])
    makespan = tasks_of([2, 2, 2], [[], [], [0, 1]], one_at_a_time, [1], weight=[0, 0, 1])
    for tasks in (weighted, makespan):
        schedule(tasks, work=20, seed=0)
