"""The input and the result of the scheduler, and every check of the input.

Owns `Tasks` and `Schedule`; knows no kernel and no estate. Times are integers in any unit, alike for all
fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.errors import Infeasible, InvalidInput

Ints = NDArray[np.int64]
Use = tuple[int, int, int, int]

NO_HORIZON = 1 << 58
"""A horizon later than any completion."""
TIME_MAX = 1 << 58
COST_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Tasks:
    """N tasks that share R renewable resources.

    duration, release, weight: int64[N]; a task starts at or after its release; `weight` is its cost per unit
    of time until it completes. Predecessors end at or before the start:
    `predecessor[predecessor_ptr[i]:predecessor_ptr[i+1]]` are those of task i. Uses, one row each, lie alike
    under `use_ptr`: a use holds `use_units` of `use_resource` during [start + use_offset, start + use_offset
    + use_hold), shorter or longer than the task. A limit of M starts in any W is a resource of capacity M
    with offset 0 and hold W. capacity: int64[R]. Completions after `horizon` cost what one at the horizon
    does.
    """

    duration: Ints
    predecessor_ptr: Ints
    predecessor: Ints
    use_ptr: Ints
    use_resource: Ints
    use_units: Ints
    use_offset: Ints
    use_hold: Ints
    capacity: Ints
    release: Ints
    weight: Ints
    horizon: int = NO_HORIZON

    @property
    def count(self) -> int:
        """Number of tasks."""
        return int(self.duration.size)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each task starts (int64[N]), what that costs, when the last task ends, and the work spent to find
    it.
    """

    start: Ints
    objective: int
    makespan: int
    work: int


def tasks_of(
    duration: Sequence[int],
    predecessors: Sequence[Sequence[int]],
    uses: Sequence[Sequence[Use]],
    capacity: Sequence[int],
    weight: Sequence[int],
    release: Sequence[int] | None = None,
    horizon: int = NO_HORIZON,
) -> Tasks:
    """Tasks from lists: per task its predecessors, and its uses as (resource, units, offset, hold)."""
    rows = np.array([use for task in uses for use in task], np.int64).reshape(-1, 4)
    return Tasks(
        duration=np.array(duration, np.int64),
        predecessor_ptr=_pointers(predecessors),
        predecessor=np.array([task for group in predecessors for task in group], np.int64),
        use_ptr=_pointers(uses),
        use_resource=rows[:, 0].copy(),
        use_units=rows[:, 1].copy(),
        use_offset=rows[:, 2].copy(),
        use_hold=rows[:, 3].copy(),
        capacity=np.array(capacity, np.int64),
        release=np.zeros(len(duration), np.int64) if release is None else np.array(release, np.int64),
        weight=np.array(weight, np.int64),
        horizon=horizon,
    )


def _pointers(groups: Sequence[Sequence[object]]) -> Ints:
    pointers = np.zeros(len(groups) + 1, np.int64)
    np.cumsum([len(group) for group in groups], out=pointers[1:])
    return pointers


def check(tasks: Tasks) -> None:
    """Refuse what is no scheduling problem.

    Raises `InvalidInput` for arrays of the wrong kind, shape or range and for sums that leave 64 bits,
    `Infeasible` for a use of more than there is. Cycles are found where the order is made (`ordering`).
    """
    _check_arrays(tasks)
    _check_pointers("predecessor", tasks.predecessor_ptr, tasks.predecessor.size, tasks.count)
    _check_pointers("use", tasks.use_ptr, tasks.use_resource.size, tasks.count)
    _check_range("predecessor", tasks.predecessor, 0, tasks.count - 1)
    _check_range("use_resource", tasks.use_resource, 0, tasks.capacity.size - 1)
    for name in ("duration", "use_units", "use_hold", "capacity", "release", "weight"):
        _check_range(name, getattr(tasks, name), 0, TIME_MAX)
    _check_range("use_offset", tasks.use_offset, -TIME_MAX, TIME_MAX)
    if tasks.horizon < 0:
        raise _invalid("horizon-negative", "The horizon is negative.", "Give a horizon of 0 or later.")
    _check_capacity(tasks)
    _check_sums(tasks)


def _check_arrays(tasks: Tasks) -> None:
    lengths = {"duration": tasks.count, "release": tasks.count, "weight": tasks.count}
    lengths |= dict.fromkeys(("predecessor_ptr", "use_ptr"), tasks.count + 1)
    lengths |= dict.fromkeys(("use_units", "use_offset", "use_hold"), tasks.use_resource.size)
    lengths |= {"predecessor": tasks.predecessor.size, "use_resource": tasks.use_resource.size}
    lengths |= {"capacity": tasks.capacity.size}
    for name, length in lengths.items():
        array = getattr(tasks, name)
        if array.dtype != np.int64 or array.ndim != 1 or array.size != length:
            raise _invalid(
                "array-shape",
                f"{name} is {array.dtype} of shape {array.shape}; int64 of shape ({length},) is expected.",
                "Convert it with numpy.asarray(..., numpy.int64) and check its length.",
            )


def _check_pointers(name: str, pointers: Ints, size: int, count: int) -> None:
    if pointers[0] != 0 or pointers[count] != size or np.any(np.diff(pointers) < 0):
        raise _invalid(
            "pointers",
            f"{name}_ptr does not run from 0 to {size} without falling.",
            f"Make {name}_ptr the running count of the rows of each task.",
        )


def _check_range(name: str, values: Ints, least: int, most: int) -> None:
    outside = np.flatnonzero((values < least) | (values > most))
    if outside.size:
        index = int(outside[0])
        raise _invalid(
            "out-of-range",
            f"{name}[{index}] is {int(values[index])}; {least} to {most} is allowed.",
            f"Correct {name}.",
        )


def _check_capacity(tasks: Tasks) -> None:
    over = np.flatnonzero((tasks.use_units > tasks.capacity[tasks.use_resource]) & (tasks.use_hold > 0))
    if over.size:
        use = int(over[0])
        task = int(np.searchsorted(tasks.use_ptr, use, side="right")) - 1
        raise Infeasible(
            "schedule-over-capacity",
            f"Task {task} needs {int(tasks.use_units[use])} of resource {int(tasks.use_resource[use])}, "
            f"which has {int(tasks.capacity[tasks.use_resource[use]])}.",
            "Split the task or raise the capacity.",
        )


def latest_end(tasks: Tasks) -> int:
    """A time by which every serial schedule is over, holds included."""
    # Summed as Python integers: a sum that wraps around would pass for a small one.
    parts = (tasks.duration, np.abs(tasks.use_offset), tasks.use_hold)
    return int(tasks.release.max(initial=0)) + sum(sum(part.tolist()) for part in parts)


def _check_sums(tasks: Tasks) -> None:
    end = latest_end(tasks)
    if end > TIME_MAX:
        raise _invalid(
            "time-overflow", "All durations and holds together pass 2^58.", "Use a coarser unit of time."
        )
    if sum(tasks.weight.tolist()) * min(end, tasks.horizon) >= COST_MAX:
        raise _invalid(
            "cost-overflow",
            "Weight times time can pass 2^62.",
            "Scale the weights down or lower the horizon.",
        )


def _invalid(code: str, message: str, hint: str) -> InvalidInput:
    return InvalidInput(f"schedule-{code}", message, hint)
