"""Makespans of PSPLIB instances by constraint programming, one worker: the referee of `bench_psplib`.

    .venv-bench/bin/python bench/cpsat_projects.py SECONDS FILE...

Prints a JSON list, one {"makespan", "cpu_s"} per file; the makespan is null where no schedule was found in
time.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from ortools.sat.python import cp_model


def makespan_of(path: Path, seconds: float) -> int | None:
    """The shortest makespan found within the seconds."""
    numbers = iter([int(word) for word in path.read_text(encoding="ascii").split()])
    count, resources = next(numbers), next(numbers)
    capacity = [next(numbers) for _ in range(resources)]
    model = cp_model.CpModel()
    duration, demand, followers = [], [], []
    for _ in range(count):
        duration.append(next(numbers))
        demand.append([next(numbers) for _ in range(resources)])
        followers.append([next(numbers) - 1 for _ in range(next(numbers))])
    horizon = sum(duration)
    start = [model.new_int_var(0, horizon, "") for _ in range(count)]
    held = [model.new_fixed_size_interval_var(start[i], duration[i], "") for i in range(count)]
    for task, after in enumerate(followers):
        for other in after:
            model.add(start[other] >= start[task] + duration[task])
    for resource in range(resources):
        users = [task for task in range(count) if demand[task][resource] and duration[task]]
        model.add_cumulative(
            [held[t] for t in users], [demand[t][resource] for t in users], capacity[resource]
        )
    model.minimize(start[count - 1])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    done = threading.Event()
    watch = threading.Thread(target=_stop_after, args=(solver, seconds, done))
    watch.start()
    status = solver.solve(model)
    done.set()
    watch.join()
    return round(solver.objective_value) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None


def _stop_after(solver: cp_model.CpSolver, seconds: float, done: threading.Event) -> None:
    """Stop the solver after so much CPU: its own limit is wall time, unfair to it on a busy machine."""
    begin = time.process_time()
    while not done.wait(0.02):
        if time.process_time() - begin > seconds:
            solver.stop_search()


def main() -> None:
    """Solve every file named."""
    answers = []
    for name in sys.argv[2:]:
        begin = time.process_time()
        makespan = makespan_of(Path(name), float(sys.argv[1]))
        answers.append({"makespan": makespan, "cpu_s": round(time.process_time() - begin, 3)})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
