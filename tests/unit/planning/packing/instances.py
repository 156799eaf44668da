"""Packing problems made from a seed, and a slow checker and optimum that share nothing with the packer."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from evac.planning.place import UNBOUNDED, PackingProblem, Placement


def small_problem(seed: int, *, services: int = 6, servers: int = 12) -> PackingProblem:
    """A small problem in which every rule occurs: pools, spread, groups, present replicas, no room."""
    rng = np.random.default_rng(seed)
    pool = np.sort(rng.integers(0, 3, servers)).astype(np.int32)
    rows = int(rng.integers(0, services + 1))
    return PackingProblem(
        free=rng.integers(0, 40, (servers, 2)),
        rack=np.where(rng.random(servers) < 0.1, -1, np.arange(servers) // 3).astype(np.int32),
        feed=(np.arange(servers) % 2 - (rng.random(servers) < 0.1)).astype(np.int32),
        site=(pool % 2).astype(np.int32),
        pool=pool,
        is_pool=rng.random(servers) < 0.15,
        demand=rng.integers(0, 16, (services, 2)),
        count=rng.integers(0, 7, services),
        max_per_server=rng.integers(1, 3, services),
        rack_cap=_cap(rng, services, 4),
        feed_cap=_cap(rng, services, 8),
        site_cap=_cap(rng, services, 8),
        eligible=rng.random((services, 3)) < 0.8,
        group=np.where(rng.random(services) < 0.4, rng.integers(0, 2, services), -1).astype(np.int32),
        weight=rng.integers(1, 9, services),
        tier=rng.integers(0, 3, services),
        present_service=rng.integers(0, services, rows),
        present_server=rng.integers(0, servers, rows),
        present_count=rng.integers(1, 3, rows),
    )


def _cap(rng: np.random.Generator, services: int, most: int) -> np.ndarray:
    return np.where(rng.random(services) < 0.3, UNBOUNDED, rng.integers(1, most, services))


def tight_problem(seed: int, *, replicas: int, servers: int, fill: float = 0.97) -> PackingProblem:
    """Servers of eight classes, partly in use, and log-normal services that want `fill` of what is free."""
    rng = np.random.default_rng(seed)
    services = max(8, replicas // 60)
    capacity = np.array([[32, 64, 50], [64, 256, 100], [96, 384, 200], [128, 512, 400]]) * 1000
    cls = rng.integers(0, 4, servers)
    in_use = np.clip(rng.beta(2, 2.5, servers)[:, None] + rng.normal(0, 0.1, (servers, 3)), 0, 1)
    free = (capacity[cls] * (1 - in_use)).astype(np.int64)
    count = np.full(services, replicas // services)
    size = np.exp(rng.normal(0, 0.6, services))[:, None] * np.exp(rng.normal(0, 0.4, (services, 3)))
    demand = size / (size * count[:, None]).sum(0) * free.sum(0) * np.array([1.0, 0.95, 0.8]) * fill
    tier = rng.choice(4, services, p=[0.1, 0.2, 0.3, 0.4])
    return PackingProblem(
        free=free,
        rack=(np.arange(servers) // 20).astype(np.int32),
        feed=np.full(servers, -1, dtype=np.int32),
        site=np.full(servers, -1, dtype=np.int32),
        pool=cls.astype(np.int32),
        is_pool=np.zeros(servers, dtype=np.bool_),
        demand=np.minimum(demand, 40_000).astype(np.int64),
        count=count.astype(np.int64),
        max_per_server=np.ones(services, dtype=np.int64),
        rack_cap=np.maximum(1, count // 10).astype(np.int64),
        feed_cap=np.full(services, UNBOUNDED),
        site_cap=np.full(services, UNBOUNDED),
        eligible=np.ones((services, 4), dtype=np.bool_),
        group=np.full(services, -1, dtype=np.int32),
        weight=np.array([8, 4, 2, 1])[tier],
        tier=tier,
    )


def tier_weights(problem: PackingProblem, placed: np.ndarray) -> tuple[int, ...]:
    """Weight placed tier by tier, the highest first."""
    return tuple(
        int((placed * problem.weight)[problem.tier == tier].sum()) for tier in np.unique(problem.tier)
    )


def violations(problem: PackingProblem, rows: np.ndarray) -> list[str]:
    """Every rule that rows (service, server, count) break, in words; present replicas are counted in."""
    found = []
    present = np.column_stack([problem.present_service, problem.present_server, problem.present_count])
    placed = np.zeros(problem.services, dtype=np.int64)
    used = np.zeros_like(problem.free)
    for service, server, count in rows.tolist():
        placed[service] += count
        used[server] += count * problem.demand[service]
        if count < 1:
            found.append(f"row of {count} replicas")
        if not problem.eligible[service, problem.pool[server]]:
            found.append(f"service {service} is not eligible to the pool of server {server}")
    if (placed > problem.count).any():
        found.append("more replicas than wanted")
    over = (used > problem.free) & (used > 0)
    found += [f"server {server} is too full" for server in np.flatnonzero(over.any(axis=1))]
    grown = {(int(s), int(v)) for s, v, _ in rows}
    return found + list(_spread(problem, np.vstack([present, rows]), grown))


def _spread(problem: PackingProblem, rows: np.ndarray, grown: set[tuple[int, int]]) -> Iterator[str]:
    """Caps exceeded where something was placed; what was present already may exceed them by itself."""
    kinds = {
        "server": (np.arange(problem.servers), problem.max_per_server, True),
        "rack": (problem.rack, problem.rack_cap, True),
        "feed": (problem.feed, problem.feed_cap, True),
        "site": (problem.site, problem.site_cap, False),
    }
    for kind, (domain, cap, only_bare) in kinds.items():
        held: dict[tuple[int, int], int] = {}
        touched = set()
        for service, server, count in rows.tolist():
            key = (service, int(domain[server]))
            if key[1] < 0 or (only_bare and problem.is_pool[server]):
                continue
            held[key] = held.get(key, 0) + count
            if (service, server) in grown:
                touched.add(key)
        for key in sorted(touched):
            if held[key] > cap[key[0]]:
                yield f"service {key[0]} has {held[key]} replicas in {kind} {key[1]}, cap {cap[key[0]]}"
    yield from _conflicts(problem, rows, grown)


def _conflicts(problem: PackingProblem, rows: np.ndarray, grown: set[tuple[int, int]]) -> Iterator[str]:
    held: dict[tuple[int, int], int] = {}
    touched = set()
    for service, server, count in rows.tolist():
        group = int(problem.group[service])
        if group >= 0 and not problem.is_pool[server]:
            held[group, server] = held.get((group, server), 0) + count
            if (service, server) in grown:
                touched.add((group, server))
    for key in sorted(touched):
        if held[key] > 1:
            yield f"group {key[0]} has {held[key]} replicas on server {key[1]}"


def rows_of(placement: Placement) -> np.ndarray:
    """The placement as rows (service, server, count)."""
    return np.column_stack([placement.service, placement.server, placement.count]).astype(np.int64)


def best_score(problem: PackingProblem) -> tuple[int, ...]:
    """The best weights tier by tier over all packings, by trying them all: for a handful of cells only."""
    cells = [(s, v) for s in range(problem.services) for v in range(problem.servers)]
    choices = [range(int(min(problem.count[s], 2)) + 1) for s, _ in cells]
    best = tier_weights(problem, np.zeros(problem.services, dtype=np.int64))
    for counts in product(*choices):
        placed = np.zeros(problem.services, dtype=np.int64)
        for (s, _), count in zip(cells, counts, strict=True):
            placed[s] += count
        score = tier_weights(problem, placed)
        if score > best:
            rows = np.array([(s, v, n) for (s, v), n in zip(cells, counts, strict=True) if n])
            if not violations(problem, rows):
                best = score
    return best
