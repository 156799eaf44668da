"""Packing under spread and tiers at 97 % full: ours, plain first-fit-decreasing, and Meta's Rebalancer.

`python -m bench.bench_packing [small|middle|large]...`; FULL=1 does all sizes and both sets of weights.
EVAC_REBALANCER_PYTHON names a Python 3.12 in which `rebalancer` and numpy are installed; without it
that referee is left out. The instances are synthetic and seeded: servers of eight classes on four sites,
partly in use (beta-distributed, each resource by itself), 40 in a rack of one class; services with
heavy-tailed replica counts and log-normal, correlated demands of four resources; at most one replica of a
service on a server and a tenth of them in a rack; tiers 10, 20, 30 and 40 % of the services.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evac.planning.place import UNBOUNDED, PackingProblem, fluid_bound, place

SIZES = {"small": (20_000, 6_400), "middle": (50_000, 16_000), "large": (200_000, 64_000)}
WORK = {"small": 300, "middle": 700, "large": 2_200}
TIER_WEIGHTS = {"steep": (1000, 100, 10, 1), "policy": (8, 4, 2, 1)}
FILL = (0.97, 0.94, 0.82, 0.68)
REFEREE_SECONDS = 120


def synthetic(
    replicas: int, servers: int, *, weights: tuple[int, ...] = TIER_WEIGHTS["policy"], seed: int = 1
) -> PackingProblem:
    """A packing problem whose services want FILL of all free room, resource by resource."""
    rng = np.random.default_rng(seed)
    rack = (np.arange(servers) // 40).astype(np.int32)
    racks, services = int(rack.max()) + 1, max(20, replicas // 100)
    cls = rng.integers(0, 8, racks)[rack]
    site = (rack * 4 // racks).astype(np.int32)
    count = _heavy_tailed(rng, services, replicas)
    free = _free(rng, cls)
    tier = rng.choice(4, services, p=(0.1, 0.2, 0.3, 0.4))
    return PackingProblem(
        free=free,
        rack=rack,
        feed=np.full(servers, -1, dtype=np.int32),
        site=site,
        pool=(site * 8 + cls).astype(np.int32),
        is_pool=np.zeros(servers, dtype=np.bool_),
        demand=_demand(rng, count, free),
        count=count,
        max_per_server=np.ones(services, dtype=np.int64),
        rack_cap=np.maximum(1, count // 10),
        feed_cap=np.full(services, UNBOUNDED),
        site_cap=np.full(services, UNBOUNDED),
        eligible=np.ones((services, 32), dtype=np.bool_),
        group=np.full(services, -1, dtype=np.int32),
        weight=np.array(weights, dtype=np.int64)[tier],
        tier=tier.astype(np.int64),
    )


def _free(rng: np.random.Generator, cls: np.ndarray) -> np.ndarray:
    """Free milli-cores, MiB, GB and Mbit/s of servers that are in use by about 45 %."""
    cores = np.array([32, 48, 64, 64, 96, 96, 128, 128])
    memory = cores * np.array([2, 4, 4, 8, 4, 8, 4, 8]) * 1024
    disk = np.array([500, 1000, 1000, 2000, 2000, 4000, 4000, 8000])
    network = np.array([10, 10, 25, 25, 25, 25, 50, 50]) * 1000
    capacity = np.column_stack([cores * 1000, memory, disk, network])[cls]
    in_use = rng.beta(2.0, 2.5, cls.size)[:, None] + rng.normal(0, 0.12, (cls.size, 4))
    return (capacity * (1 - np.clip(in_use, 0, 1))).astype(np.int64)


def _heavy_tailed(rng: np.random.Generator, services: int, replicas: int) -> np.ndarray:
    raw = np.minimum(rng.pareto(1.2, services) + 0.5, 60)
    count = np.maximum(2, raw / raw.sum() * replicas).astype(np.int64)
    order = np.argsort(-count, kind="stable")
    count[order[: abs(int(replicas - count.sum()))]] += np.sign(replicas - count.sum())
    return count


def _demand(rng: np.random.Generator, count: np.ndarray, free: np.ndarray) -> np.ndarray:
    size = np.exp(rng.normal(0, 0.6, count.size))[:, None]
    shape = size * np.exp(rng.normal(0, 1, (count.size, 4)) * np.array([0.0, 0.35, 0.7, 0.7]))
    wanted = shape / (shape * count[:, None]).sum(0) * free.sum(0) * np.array(FILL)
    return np.maximum(1, np.minimum(wanted, free.max(0) * 0.5)).astype(np.int64)


def scripted_first_fit(problem: PackingProblem) -> np.ndarray:
    """Placed (S) by what people script: tier by tier, largest first, each on the first servers that fit."""
    free, placed = problem.free.copy(), np.zeros(problem.services, dtype=np.int64)
    size = (problem.demand / problem.free.sum(axis=0)).sum(axis=1)
    for service in np.lexsort((-size, problem.tier)):
        fits = np.flatnonzero((free >= problem.demand[service]).all(axis=1))
        # Servers stand in the order of their racks: the number within the rack is what its cap is about.
        rack = problem.rack[fits]
        within = np.arange(fits.size) - np.searchsorted(rack, rack)
        chosen = fits[within < problem.rack_cap[service]][: problem.count[service]]
        free[chosen] -= problem.demand[service]
        placed[service] = chosen.size
    return placed


def referee(problem: PackingProblem, python: str) -> tuple[np.ndarray, float, float]:
    """Placed (S), wall and CPU seconds of Meta's Rebalancer in its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        names = ("free", "rack", "demand", "count", "weight", "rack_cap")
        np.savez(question, **{name: getattr(problem, name) for name in names})
        program = Path(__file__).with_name("rebalancer_referee.py")
        command = [python, str(program), str(question), str(answer), str(REFEREE_SECONDS)]
        subprocess.run(command, check=True, capture_output=True, timeout=20 * REFEREE_SECONDS)
        found = np.load(answer)
        wall, cpu = found["seconds"].tolist()
        return found["placed"], wall, cpu


def _timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    placed = run()
    return placed, time.perf_counter() - wall, time.process_time() - cpu


def _line(problem: PackingProblem, bound: int, name: str, found: tuple[np.ndarray, float, float]) -> None:
    placed, wall, cpu = found
    weight = int((placed * problem.weight).sum())
    tiers = [placed[problem.tier == t].sum() / problem.count[problem.tier == t].sum() for t in range(4)]
    shares = " ".join(f"{100 * share:6.2f}" for share in tiers)
    print(
        f"  {name:<30} {int(placed.sum()):>8,} placed  {100 * weight / bound:8.4f} % of the bound"
        f"  tiers {shares} %  {wall:7.2f} s ({cpu:.2f} s CPU)",
        flush=True,
    )


def measure(size: str, weights: str) -> None:
    """All methods on one instance."""
    problem = synthetic(*SIZES[size], weights=TIER_WEIGHTS[weights])
    started = time.perf_counter()
    bound = fluid_bound(problem, groups=32).weight
    whole = int((problem.weight * problem.count).sum())
    print(
        f"{int(problem.count.sum()):,} replicas of {problem.services:,} services on"
        f" {problem.servers:,} servers, tier weights {TIER_WEIGHTS[weights]};"
        f" fluid bound {100 * bound / whole:.3f} % of all weight"
        f" ({time.perf_counter() - started:.1f} s)"
    )
    _line(problem, bound, "first-fit-decreasing, scripted", _timed(lambda: scripted_first_fit(problem)))
    _line(problem, bound, "evac, built", _timed(lambda: place(problem).placed))
    work = WORK[size]
    _line(problem, bound, f"evac, improved (work {work})", _timed(lambda: place(problem, work=work).placed))
    python = os.environ.get("EVAC_REBALANCER_PYTHON")
    if not python:
        print("  Rebalancer: left out, EVAC_REBALANCER_PYTHON names no interpreter that has it")
    elif size == "large":
        print("  Rebalancer: left out, this size would take it hours")
    else:
        _line(problem, bound, "Rebalancer, tuned", referee(problem, python))


def main(sizes: list[str] | None = None) -> None:
    """Measure the sizes named; by default all, with the steep weights (FULL=1: both)."""
    place(synthetic(400, 128), work=1)
    weights = list(TIER_WEIGHTS) if os.environ.get("FULL") else ["steep"]
    for size in sizes or list(SIZES):
        for name in weights:
            measure(size, name)


if __name__ == "__main__":
    main(sys.argv[1:])
