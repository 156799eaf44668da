"""Placement at 97 % full: the plan that `evac plan` makes, and Meta's Rebalancer on the same problem.

`python -m bench placement [--seed 1] [--seconds 120] [--budget 20] [SIZE...]`. An estate of two sites is
written, read back and planned as a user would do it: one site is lost, and the servers of the other have
nearly enough capacity for all its replicas. The planning instance is then exported to the peer's format.
Rebalancer runs in its own interpreter (Python 3.12 with `rebalancer` and numpy; `make bench-referees`, or
EVAC_REBALANCER_PYTHON); without one it is left out, and this says so.

The estates are synthetic and seeded: servers of eight classes, partly in use (beta-distributed, each resource
by itself), 40 in a rack; services with heavy-tailed replica counts and log-normal, correlated demands; at
most one replica of a service on a server and a tenth of them in a rack; tiers 10, 20, 30 and 40 % of the
services. The weight of a replica is that of its tier. evac starts a service in two steps, half of its
replicas and the rest, each whole or not at all, and never lets a lower tier go first; Rebalancer is free of
both rules.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from evac import estate as estates
from evac.app.planner.plans import make_plan
from evac.derive.planning_instance import derive
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning.warm import warm
from evac.verify import check

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"small": (5_000, 1_600), "middle": (20_000, 6_400), "large": (50_000, 16_000)}
"""Replicas to place, and servers."""
FILL = (0.97, 0.94, 0.82)
"""Demand as a part of what is free: cores, memory, disk."""
CORES = np.array([32, 48, 64, 64, 96, 96, 128, 128])
MEMORY_GIB = CORES * np.array([2, 4, 4, 8, 4, 8, 4, 8])
DISK_GIB = np.array([500, 1000, 1000, 2000, 2000, 4000, 4000, 8000])


def write(folder: Path, replicas: int, servers: int, seed: int) -> None:
    """The files of an estate whose site `north` runs everything, and whose site `south` has the servers."""
    rng = np.random.default_rng(seed)
    rack, services = np.arange(servers) // 40, max(20, replicas // 100)
    free = _free(rng, rng.integers(0, 8, int(rack.max()) + 1)[rack])
    count = _heavy_tailed(rng, services, replicas)
    demand = _demand(rng, count, free)
    tier = rng.choice(4, services, p=(0.1, 0.2, 0.3, 0.4))
    lines = ["evac: 1", "name: placement", "sites: {north: {}, south: {}}", "classes:"]
    lines += ["  any: {cpu: 1 core, memory: 1 GiB, disk: 1 GiB, accelerators: 0}", "services:"]
    for service in range(services):
        cpu, memory, disk = demand[service]
        lines.append(
            f"  s{service:05}: {{tier: {tier[service]}, people: {count[service] * 1000}, share: 50 %,"
            f" start: 30 s, replicas: {count[service]}, spread: {{per_rack: 10 %}},"
            f" demand: {{cpu: {cpu / 1000} cores, memory: {memory} MiB, disk: {disk} GiB, accelerators: 0}}}}"
        )
    (folder / "estate.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    racks = [f"south/r{number:05}," for number in range(int(rack.max()) + 1)]
    (folder / "racks.csv").write_text("\n".join(["rack,hall", *racks]) + "\n", "utf-8")
    rows = ["server,site,rack,class,state,cpu_millicores,memory_mib,disk_gib,accelerators"]
    for server in range(servers):
        cells = ",".join(str(amount) for amount in free[server])
        rows.append(f"v{server:06},south,south/r{rack[server]:05},any,serving,{cells},0")
    rows += [f"n{server:06},north,,any,serving,10000000,10000000,10000000,0" for server in range(servers)]
    (folder / "servers.csv").write_text("\n".join(rows) + "\n", "utf-8")
    service = np.repeat(np.arange(services), count)
    lines = [f"s{one:05},n{place % servers:06},1" for place, one in enumerate(service.tolist())]
    (folder / "replicas.csv").write_text("\n".join(["service,target,count", *lines]) + "\n", "utf-8")


def _free(rng: np.random.Generator, cls: np.ndarray) -> np.ndarray:
    """Free milli-cores, MiB and GiB of servers that are in use by about 45 %."""
    capacity = np.column_stack([CORES * 1000, MEMORY_GIB * 1024, DISK_GIB])[cls]
    in_use = rng.beta(2.0, 2.5, cls.size)[:, None] + rng.normal(0, 0.12, (cls.size, 3))
    return np.maximum(1, capacity * (1 - np.clip(in_use, 0, 1))).astype(np.int64)


def _heavy_tailed(rng: np.random.Generator, services: int, replicas: int) -> np.ndarray:
    raw = np.minimum(rng.pareto(1.2, services) + 0.5, 60)
    count = np.maximum(2, raw / raw.sum() * replicas).astype(np.int64)
    order = np.argsort(-count, kind="stable")
    count[order[: abs(int(replicas - count.sum()))]] += np.sign(replicas - count.sum())
    return count


def _demand(rng: np.random.Generator, count: np.ndarray, free: np.ndarray) -> np.ndarray:
    size = np.exp(rng.normal(0, 0.6, count.size))[:, None]
    shape = size * np.exp(rng.normal(0, 1, (count.size, 3)) * np.array([0.0, 0.35, 0.7]))
    wanted = shape / (shape * count[:, None]).sum(0) * free.sum(0) * np.array(FILL)
    return np.maximum(1, np.minimum(wanted, free.max(0) * 0.5)).astype(np.int64)


def export(instance: Instance, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the placement problem of an instance for the peer; replicas asked for and weight of one, by
    service."""
    s, rows = instance.services, instance.rows
    count = np.maximum(0, s.n - s.surviving)
    weight = np.array(instance.tier_weights, np.int64)[s.tier]
    problem = {"demand": s.demand, "count": count, "weight": weight, "rack_cap": s.rack_cap}
    np.savez(path, free=rows.capacity - rows.used, rack=rows.rack, **problem)
    return count, weight


def placed_by(instance: Instance, plan: Plan) -> np.ndarray:
    """Replicas that the steps of a plan start, by service."""
    number = {name: row for row, name in enumerate(instance.services.id)}
    placed = np.zeros(len(number), np.int64)
    for step in plan.steps:
        if step.kind == "start":
            placed[number[step.target]] += sum(count for _, count in step.servers)
    return placed


def referee_python() -> str | None:
    """The interpreter that has Rebalancer; None if there is none."""
    named = os.environ.get("EVAC_REBALANCER_PYTHON", str(ROOT / ".venv-rebalancer/bin/python"))
    if not Path(named).exists():
        return None
    done = subprocess.run([named, "-c", "import numpy, rebalancer"], capture_output=True, check=False)
    return named if done.returncode == 0 else None


def referee(python: str, question: Path, seconds: int) -> tuple[np.ndarray, float, float]:
    """Placed by service, and seconds by the wall and of CPU, of Rebalancer in its own interpreter."""
    answer, program = question.with_name("answer.npz"), ROOT / "bench/rebalancer_referee.py"
    command = [python, str(program), str(question), str(answer), str(seconds)]
    subprocess.run(command, check=True, capture_output=True, timeout=20 * seconds + 600)
    found = np.load(answer)
    wall, cpu = found["seconds"].tolist()
    return found["placed"], wall, cpu


def _planned(estate: Estate, instance: Instance, budget_s: int) -> tuple[np.ndarray, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(estate, lose("north"), budget_ms=budget_s * 1000).plan
    took = time.perf_counter() - wall, time.process_time() - cpu
    if violations := check(estate, plan).violations:
        print(f"  the checker refuses the plan: {violations[0]}")
    return placed_by(instance, plan), *took


def measure(size: str, seed: int, seconds: int, budget_s: int) -> dict[str, float]:
    """All methods on one estate; seconds of CPU by method."""
    replicas, servers = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), replicas, servers, seed)
        estate = estates.load(Path(folder))
        instance, question = derive(estate, lose("north")), Path(folder) / "problem.npz"
        count, weight = export(instance, question)
        whole, spent = int((count * weight).sum()), {}
        shape = f"{int(count.sum()):,} replicas of {len(count):,} services on {len(instance.rows):,} servers"
        print(shape, flush=True)

        def line(name: str, found: tuple[np.ndarray, float, float]) -> None:
            placed, wall, spent[name] = found
            share = 100 * int((placed * weight).sum()) / whole
            tiers = [instance.services.tier == tier for tier in range(4)]
            parts = " ".join(f"{100 * placed[t].sum() / max(1, count[t].sum()):6.2f}" for t in tiers)
            took = f"{wall:8.2f} s ({spent[name]:.2f} s CPU)"
            print(f"  {name:<24} {share:7.3f} % of the weight, tiers {parts} %, {took}", flush=True)

        line("evac plan, first plan", _planned(estate, instance, 0))
        line(f"evac plan, {budget_s} s", _planned(estate, instance, budget_s))
        python = referee_python()
        if python is None:
            print("  Rebalancer: left out, not installed (make bench-referees or EVAC_REBALANCER_PYTHON)")
            return spent
        try:
            line("Rebalancer, tuned", referee(python, question, seconds))
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"  Rebalancer: failed, {error}")
        return spent


def main(arguments: list[str] | None = None) -> None:
    """Measure the sizes named, by default all, and print how the CPU seconds grow."""
    parser = argparse.ArgumentParser(prog="python -m bench placement", description=__doc__)
    parser.add_argument("sizes", nargs="*", choices=[[], *SIZES], default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=120, help="of Rebalancer's local search")
    parser.add_argument("--budget", type=int, default=20, help="seconds of the second plan")
    asked = parser.parse_args(arguments)
    warm()
    sizes = asked.sizes or list(SIZES)
    spent = [measure(size, asked.seed, asked.seconds, asked.budget) for size in sizes]
    for name in spent[0] if len(spent) > 1 else ():
        figures = [found[name] for found in spent if name in found]
        growth = " ".join(f"{after / before:.1f}x" for before, after in pairwise(figures) if before)
        print(f"growth of CPU seconds, {name}: {growth}")
