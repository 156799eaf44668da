"""Figures of every stage, in-process and warm, at three sizes, with how cost grows.

Run by `python -m bench stages`. Each size runs in a process of its own, so that peak memory is of
that size alone; medians of several runs; the end-to-end time of the command stands beside.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.figures import peak_mib

SIZES = (9_000, 90_000, 900_000)
EVAC = Path(sys.executable).parent / "evac"


Figures = dict[str, float | int | str]


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, float, Any]:
    """(median seconds by the wall, median CPU seconds of this process, last result)."""
    taken, used, result = [], [], None
    for _ in range(times):
        begin, busy = time.perf_counter(), time.process_time()
        result = work()
        taken.append(time.perf_counter() - begin)
        used.append(time.process_time() - busy)
    return statistics.median(taken), statistics.median(used), result


def stage(found: Figures, name: str, work: Callable[[], Any], times: int = 3) -> Any:
    """Time a stage into `found`, by the wall and in CPU seconds; what it gave."""
    found[name], found[f"{name}, CPU"], result = timed(work, times)
    return result


def measure(servers: int, budget_s: int) -> Figures:
    """All figures of one size, in this process."""
    from evac import estate as estates
    from evac.app.warm import warm
    from evac.audit import audit
    from evac.estate.examples import pangyo

    warm()
    times = 1 if servers > 100_000 else 3
    found: Figures = {"servers": servers}
    with tempfile.TemporaryDirectory() as folder:
        made = pangyo(servers=servers)
        estates.write(made, Path(folder) / "e", tables="parquet")
        loaded = stage(found, "load and check", lambda: estates.check(Path(folder) / "e"), times).estate
    audit(pangyo(servers=1000))
    report = stage(found, "audit, every single domain", lambda: audit(loaded), times)
    found["fault domains"] = len(report.rows)
    for name, estate in (("pangyo", loaded), ("mended", pangyo(servers=servers, mended=True))):
        _planned(found, name, estate, budget_s, times)
        _restored(found, name, estate)
    found["peak memory MiB"] = int(peak_mib())
    return found


def _planned(found: Figures, name: str, estate: Any, budget_s: int, times: int) -> None:
    """Plans for the loss of Pangyo, first and final, each verified; the final one simulated."""
    from evac.app.planner.plans import make_plan
    from evac.derive.planning_instance import derive
    from evac.model.scenario import lose
    from evac.planning.simulation.simulate import simulate
    from evac.verify import check

    asked = lose("pangyo")

    def first_and_verified() -> Any:
        # Another object each time: what is kept with an estate in memory is worked out in each run.
        fresh = replace(estate)
        made = make_plan(fresh, asked, budget_ms=0)
        return made, check(fresh, made.plan)

    early, early_verdict = stage(found, f"{name}: first plan, verified", first_and_verified, times)
    plan = stage(
        found, f"{name}: final plan", partial(make_plan, estate, asked, budget_ms=budget_s * 1000), 1
    ).plan
    found[f"{name}: gap %"] = (plan.gap_permille or 0) / 10
    found[f"{name}: gap of first plan %"] = (early.plan.gap_permille or 0) / 10
    found[f"{name}: contention gap %"] = (plan.contention_gap_permille or 0) / 10
    verdict = stage(found, f"{name}: verify", partial(check, estate, plan), times)
    found[f"{name}: violations"] = len(verdict.violations) + len(early_verdict.violations)
    instance = derive(estate, asked)
    stage(found, f"{name}: simulate 1000", partial(simulate, instance, plan, trials=1000), 1)
    if name == "mended":
        found.update(_level_order(instance, plan))


def _restored(found: Figures, name: str, estate: Any) -> None:
    """The cold start of Pangyo: planned with the usual budget, verified, how near to what limits allow."""
    from evac.app.planner.plans import DEFAULT_BUDGET_MS, make_plan
    from evac.model.scenario import Scenario
    from evac.verify import check

    asked = Scenario("restore", ("pangyo",))
    work = partial(make_plan, estate, asked, budget_ms=DEFAULT_BUDGET_MS)
    plan = stage(found, f"{name}: cold start", work, 1).plan
    verdict = stage(found, f"{name}: cold start, verify", partial(check, estate, plan), 1)
    found[f"{name}: cold start, violations"] = len(verdict.violations)
    if plan.wave is not None:
        found[f"{name}: cold start, servers"] = plan.wave.servers
        found[f"{name}: cold start, above the bound of its limits %"] = (
            100 * plan.wave.on_ms / max(1, plan.wave.bound_ms) - 100
        )


def _level_order(instance: Any, plan: Any) -> dict[str, float]:
    """Our outage over that of level-by-level order, both net of what critical chains make unavoidable:
    of everything, and of what both restore, as what is left out pays the horizon."""
    from evac.planning.plan import against_levels, level_order

    level = level_order(instance)
    over = (plan.objective - plan.heads) / max(1, level - plan.heads)
    ours, theirs = against_levels(instance, plan)
    return {
        "mended: share of level order's cost above the heads, %": 100 * over,
        "mended: the same over what both restore, %": 100 * ours / max(1, theirs),
    }


def end_to_end(servers: int) -> dict[str, float]:
    """The commands as a user runs them, in a process each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        estate = f"{folder}/e"
        plan = ["plan", estate, "--lose", "pangyo"]
        commands = {
            "evac --help": ["--help"],
            "evac example": ["example", "pangyo", "-o", estate, "--servers", str(servers), "-q"],
            "evac check": ["check", estate],
            "evac audit": ["audit", estate, "--fail-on", "never"],
            "evac plan --budget 0s": [*plan, "--budget", "0s", "-o", f"{folder}/p.json", "-q"],
            "evac verify": ["verify", f"{folder}/p.json", estate],
        }
        for name, arguments in commands.items():
            found[name], _, _ = timed(
                partial(subprocess.run, [EVAC, *arguments], capture_output=True, check=True), 1
            )
    return found


def main(sizes: tuple[int, ...] = SIZES, budget_s: int = 25) -> None:
    """Print a table of stages by size, with the growth from each size to the next."""
    rows: list[dict[str, Any]] = []
    for servers in sizes:
        command = [sys.executable, "-m", "bench", "measure", str(servers), str(budget_s)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{servers:,} servers: failed\n{done.stderr[-2000:]}")
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print_table(rows)
    for name, seconds in end_to_end(90_000 if 90_000 in sizes else sizes[0]).items():
        print(f"{name:58s} {seconds:10.3f} s end to end")


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a figure, one column a size; growth between sizes of ten times the servers."""
    if not rows:
        return
    names = [name for name in rows[0] if name != "servers"]
    print(f"{'':58s}" + "".join(f"{row['servers']:>14,}" for row in rows) + "   growth")
    for name in names:
        cells = [row.get(name, 0) for row in rows]
        growth = [f"{b / a:.1f}x" for a, b in pairwise(cells) if a]
        print(f"{name:58s}" + "".join(f"{cell:14.3f}" for cell in cells) + "   " + " ".join(growth))
