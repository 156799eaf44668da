"""The scheduler at the size of a real loss: seconds for one schedule, and what each way to order costs.

Run by `python -m bench.bench_scheduling`. Weighted mean seconds until a service is back; "level by level" is
how runbooks order, "own weight" sorts services by their own users.
"""

from __future__ import annotations

import time

import numpy as np

from bench.synthetic_recovery import recovery
from evac.planning.schedule import Tasks, schedule, warm

CASES = ((300, 3_000, 200), (2_000, 20_000, 100), (2_000, 200_000, 10))


def mean_seconds(tasks: Tasks, work: int, order: np.ndarray | None = None) -> tuple[float, float]:
    """(weighted mean completion, CPU seconds) of one call."""
    begin = time.process_time()
    found = schedule(tasks, work=work, seed=1, start_order=order)
    return found.objective / int(tasks.weight.sum()), time.process_time() - begin


def main() -> None:
    """Print a table."""
    warm()
    print("services   boots    by level  own weight  pushed down  with work     (work)   one schedule, CPU s")
    for services, boots, work in CASES:
        tasks, levels = recovery(services, boots, seed=1)
        by_level, _ = mean_seconds(tasks, 1, np.argsort(levels, kind="stable"))
        own, _ = mean_seconds(tasks, 1, np.argsort(-tasks.weight, kind="stable"))
        pushed, seconds = mean_seconds(tasks, 1)
        searched, taken = mean_seconds(tasks, work)
        print(
            f"{services:8d} {boots:7d} {by_level:11.1f} {own:11.1f} {pushed:12.1f} {searched:10.1f} "
            f"{work:6d} in {taken:5.1f} s {seconds:10.3f} (reading and ordering the tasks included)"
        )


if __name__ == "__main__":
    main()
