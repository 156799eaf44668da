"""The scheduler on PSPLIB: mean gap to the best known makespan, beside OR-Tools CP-SAT at equal CPU time.

Run by `python -m bench psplib`. One instance in ten, or all with FULL=1; two seconds of one thread each. The
scheduler's budget is work, so its rate on each instance is measured first, and the seconds it really took are
printed. The instances and best known values lie in `../shared/data/rcpsp`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

from evac.planning.schedule import Tasks, schedule
from evac.testing.psplib import project_of

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "rcpsp"
REFEREE = ROOT / ".venv-bench" / "bin" / "python"
FAMILIES = {"J30": "J30.csv", "J60": "J60_1.csv"}
TARGETS_PERCENT = {"J30": 0.05, "J60": 0.3}
SECONDS = 2.0
TRIAL_WORK = 2_000
UPPER_BOUND_COLUMN = 7


def best_known(family: str) -> dict[int, int]:
    """Best known makespan of each instance of the family."""
    # The tables are not UTF-8: their references hold dashes of an older code page.
    lines = (DATA / FAMILIES[family]).read_text(encoding="latin-1").splitlines()
    rows = [line.split(";") for line in lines]
    return {int(row[0]): int(row[UPPER_BOUND_COLUMN]) for row in rows if row[0].isdigit()}


def instance_path(family: str, number: int) -> Path:
    """The file of one instance."""
    return DATA / "instances" / f"{family}_{number}.txt"


def work_in(tasks: Tasks, seconds: float) -> int:
    """The schedule generations that take this many seconds of CPU here, found by a short trial."""
    begin = time.process_time()
    done = schedule(tasks, work=TRIAL_WORK, seed=0).work
    taken = max(time.process_time() - begin, 1e-4)
    return max(TRIAL_WORK, int(seconds * done / taken))


def gaps_of(family: str, numbers: list[int], seconds: float) -> tuple[list[float], list[float]]:
    """(gap in per cent, CPU seconds) of each instance."""
    best, gaps, taken = best_known(family), [], []
    for number in numbers:
        tasks = project_of(instance_path(family, number).read_text(encoding="ascii"))
        work = work_in(tasks, seconds)
        begin = time.process_time()
        found = schedule(tasks, work=work, seed=1)
        taken.append(time.process_time() - begin)
        gaps.append(100 * (found.objective - best[number]) / best[number])
    return gaps, taken


def referee_gaps(family: str, numbers: list[int], seconds: float) -> tuple[list[float], list[float]] | str:
    """The same by CP-SAT with one worker, or why not."""
    if not REFEREE.exists():
        return "CP-SAT: not installed here (make bench-referees)"
    paths = [str(instance_path(family, number)) for number in numbers]
    script = Path(__file__).with_name("cpsat_projects.py")
    done = subprocess.run(
        [REFEREE, script, str(seconds), *paths], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"CP-SAT: could not run\n{done.stderr[-500:]}"
    best = best_known(family)
    answers = json.loads(done.stdout)
    gaps = [
        100 * (answer["makespan"] - best[number]) / best[number]
        for number, answer in zip(numbers, answers, strict=True)
        if answer["makespan"] is not None
    ]
    return gaps, [answer["cpu_s"] for answer in answers]


def line(name: str, numbers: list[int], gaps: list[float], taken: list[float]) -> str:
    """One row of the table; an instance without a schedule is counted, not averaged."""
    at_best = sum(1 for gap in gaps if gap <= 0)
    missing = f", {len(numbers) - len(gaps)} without a schedule" if len(gaps) < len(numbers) else ""
    mean = statistics.fmean(gaps) if gaps else float("nan")
    return (
        f"  {name:8s} mean gap {mean:6.3f} %   at best known {at_best:3d} of {len(numbers)}{missing}   "
        f"CPU {statistics.fmean(taken):5.2f} s an instance (most {max(taken):.2f})"
    )


def main(seconds: float = SECONDS) -> None:
    """Print the table for both families."""
    if not DATA.is_dir():
        print("PSPLIB: the instances in ../shared/data/rcpsp are not on this machine; skipped")
        return
    step = 1 if os.environ.get("FULL") else 10
    for family in FAMILIES:
        numbers = list(range(1, 481, step))
        warm_up = project_of(instance_path(family, 1).read_text(encoding="ascii"))
        schedule(warm_up, work=100, seed=0)
        print(f"PSPLIB {family}, {len(numbers)} instances, {seconds:g} s each, one thread")
        gaps, taken = gaps_of(family, numbers, seconds)
        print(line("evac", numbers, gaps, taken) + f"   target {TARGETS_PERCENT[family]} %")
        answer = referee_gaps(family, numbers, seconds)
        print(f"  {answer}" if isinstance(answer, str) else line("CP-SAT", numbers, *answer))


if __name__ == "__main__":
    main()
