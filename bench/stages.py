"""Figures of every stage, in-process and warm, at three sizes, with how cost grows.

Run by `python -m bench stages`. Each size runs in a process of its own, so that peak memory is of
that size alone; medians of several runs; the end-to-end time of the command stands beside.
"""

from __future__ import annotations

import json
import resource
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

SIZES = (9_000, 90_000, 900_000)
EVAC = Path(sys.executable).parent / "evac"


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """(median seconds, last result)."""
    taken, result = [], None
    for _ in range(times):
        begin = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken), result


def measure(servers: int, budget_s: int) -> dict[str, float | int | str]:
    """All figures of one size, in this process."""
    from evac import estate as estates
    from evac.app.plans import make_plan
    from evac.app.warm import warm
    from evac.audit import audit
    from evac.estate.example import pangyo
    from evac.model.derive import derive
    from evac.model.scenario import lose
    from evac.planning.simulation.simulate import simulate
    from evac.verify import check

    warm()
    times = 1 if servers > 100_000 else 3
    found: dict[str, float | int | str] = {"servers": servers}
    with tempfile.TemporaryDirectory() as folder:
        made = pangyo(servers=servers)
        estates.write(made, Path(folder) / "e", tables="parquet")
        found["load and check"], result = timed(lambda: estates.check(Path(folder) / "e"), times)
        loaded = result.estate
    audit(pangyo(servers=1000))
    found["audit, every single domain"], report = timed(lambda: audit(loaded), times)
    found["fault domains"] = len(report.rows)
    for name, estate in (("pangyo", loaded), ("mended", pangyo(servers=servers, mended=True))):
        first, early = timed(partial(make_plan, estate, lose("pangyo"), budget_ms=0), times)
        found[f"{name}: first plan"] = first
        final, plan = timed(partial(make_plan, estate, lose("pangyo"), budget_ms=budget_s * 1000), 1)
        found[f"{name}: final plan"] = final
        found[f"{name}: gap %"] = (plan.plan.gap_permille or 0) / 10
        found[f"{name}: gap of first plan %"] = (early.plan.gap_permille or 0) / 10
        found[f"{name}: contention gap %"] = (plan.plan.contention_gap_permille or 0) / 10
        found[f"{name}: verify"], verdict = timed(partial(check, estate, plan.plan), times)
        found[f"{name}: violations"] = len(verdict.violations)
        instance = derive(estate, lose("pangyo"))
        found[f"{name}: simulate 1000"], _ = timed(partial(simulate, instance, plan.plan, trials=1000), 1)
        if name == "mended":
            found |= _level_order(instance, plan.plan)
    changed = replace(loaded, services=(replace(loaded.services[0], people=1), *loaded.services[1:]))
    found["audit again after one change"] = _update(loaded, changed)
    found["peak memory MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


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


def _update(before: Any, after: Any) -> float:
    from evac.audit import audit, update

    state = audit(before)
    taken, _ = timed(lambda: update(state, after))
    return taken


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
            found[name], _ = timed(
                partial(subprocess.run, [EVAC, *arguments], capture_output=True, check=True), 1
            )
    return found


def main(sizes: tuple[int, ...] = SIZES, budget_s: int = 45) -> None:
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
