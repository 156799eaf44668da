"""`evac plan`'s planner beside the true optimum of small random instances, by kind of instance.

`python -m bench optimum [--instances 30] [--first-seed 0] [--seconds 30] [--kinds boots sheds]`.
Kinds are the one thing that small instances leave to decide (`small_instances.KINDS`), variants of the worked
example, and wild ones. The optima come from
CP-SAT (`bench/cpsat_optimum.py`) in an interpreter that has OR-Tools, by default that of `make
bench-referees`; without one this says so and leaves them out. Level order, the baseline, is priced on the
same instances.

Instances in which capacity is short are printed apart from those in which everything is restored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from bench import small_instances
from bench.wild_instances import wild_instance
from evac.app.planner.plans import DEFAULT_BUDGET_MS, work_in
from evac.model.instance import Instance
from evac.planning.plan import level_order, plan_instance
from tests.unit.planning.instances import random_variant

ROOT = Path(__file__).resolve().parents[1]
KINDS: dict[str, Callable[[int], Instance]] = {
    **{kind: partial(small_instances.small_instance, kind) for kind in small_instances.KINDS},
    "variants": random_variant,
    "wild": wild_instance,
}
WORDS = {"variants": "variants of the worked example", "wild": "wild instances"}


def referee_python() -> str | None:
    """The interpreter that has OR-Tools; None if there is none."""
    named = os.environ.get("EVAC_ORTOOLS_PYTHON", str(ROOT / ".venv-bench/bin/python"))
    if not Path(named).exists():
        return None
    command = [named, "-c", "import ortools.sat.python.cp_model"]
    return named if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def optima(
    python: str, kinds: list[str], instances: int, first_seed: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """By kind: seed, status and objective of each instance."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "optima.json"
        command = [python, str(ROOT / "bench/cpsat_optimum.py"), "--first-seed", str(first_seed)]
        command += ["--seconds", str(seconds), "--instances", str(instances), "--kinds", *kinds]
        subprocess.run([*command, "-o", str(answer)], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[dict[str, Any]]] = json.loads(answer.read_text("utf-8"))
        return {kind: found[kind] for kind in kinds}


def measure(kind: str, table: list[dict[str, Any]], work: int) -> None:
    """Print the mean and worst percentage above the optimum, of the planner and of level order: where the
    plan restores everything, and where capacity is short, so that the rule of tiers costs something.
    """
    ours: dict[str, list[float]] = {"everything restored": [], "capacity short": []}
    levels: dict[str, list[float]] = {part: [] for part in ours}
    seconds = 0.0
    proved = [line for line in table if line["status"] == "optimal" and line["objective"] > 0]
    for line in proved:
        instance = KINDS[kind](line["seed"])
        begin = time.perf_counter()
        plan = plan_instance(instance, work=work, seed=line["seed"])
        seconds += time.perf_counter() - begin
        short = any(outcome.state in ("unplaced", "shed", "degraded") for outcome in plan.outcomes)
        part = "capacity short" if short else "everything restored"
        ours[part].append(100 * plan.objective / line["objective"] - 100)
        levels[part].append(100 * level_order(instance) / line["objective"] - 100)
    print(
        f"{WORDS.get(kind, kind)}: {len(table) - len(proved)} without a proved optimum,"
        f" {seconds / max(1, len(proved)):.2f} s each"
    )
    for part, found in ours.items():
        if found:
            best = sum(share < 0.005 for share in found)
            print(f"  {part}: {len(found)} compared, optimal in {best}")
            for name, shares in (("evac plan", found), ("level order", levels[part])):
                print(
                    f"    {name:<12} mean {mean(shares):7.2f} % above the optimum, worst {max(shares):7.2f} %"
                )


def main(arguments: list[str] | None = None) -> None:
    """Compare on as many instances of each kind as asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench optimum", description=__doc__)
    parser.add_argument("--instances", type=int, default=30, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of CP-SAT for each instance")
    work = work_in(DEFAULT_BUDGET_MS, 0)
    parser.add_argument("--work", type=int, default=work, help="generations, as many as evac plan searches")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args(arguments)
    python = referee_python()
    if python is None:
        print("CP-SAT: left out, no OR-Tools here (make bench-referees, or set EVAC_ORTOOLS_PYTHON)")
        return
    seeds = f"seeds {asked.first_seed} to {asked.first_seed + asked.instances - 1}"
    print(f"Small instances beside CP-SAT, {seeds}, work {asked.work}")
    tables = optima(python, asked.kinds, asked.instances, asked.first_seed, asked.seconds)
    for kind, table in tables.items():
        measure(kind, table, asked.work)
