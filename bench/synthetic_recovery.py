"""A made-up recovery for the scheduler alone: services in six levels, boots behind racks, feeds and an image
server.

Deterministic by seed. Sizes and weights are Pareto distributed, as popularity is; most services lean on a few
platforms, chosen by rank.
"""

from __future__ import annotations

import numpy as np

from evac.planning.schedule import Tasks, tasks_of

LEVELS = 6
FEEDS = 12
RACKS = 1_332
FEED_BOOTS, RACK_BOOTS, IMAGE_COPIES, STARTS = 64, 4, 599, 200
Row = tuple[int, int, int, int]


def recovery(services: int, boots: int, seed: int) -> tuple[Tasks, list[int]]:
    """The tasks, and the dependency level of each; about `boots` + 2 * `services` tasks, times in seconds."""
    chance = np.random.default_rng(seed)
    level_of = np.sort(chance.integers(0, LEVELS, services))
    size = chance.pareto(1.2, services) + 0.2
    boots_of = np.maximum(1, np.round(size / size.sum() * boots).astype(int))
    people = np.minimum(chance.pareto(1.0, services) * 1_000, 4e7).astype(int)
    duration: list[int] = []
    before: list[list[int]] = []
    uses: list[list[Row]] = []
    weight: list[int] = []
    levels: list[int] = []

    def add(seconds: int, after: list[int], holds: list[Row], cost: int, level: int) -> int:
        duration.append(seconds)
        before.append(after)
        uses.append(holds)
        weight.append(cost)
        levels.append(level)
        return len(duration) - 1

    served: list[int] = []
    for service in range(services):
        level = int(level_of[service])
        boot_seconds = int(chance.integers(240, 420))
        booted = []
        for rack in chance.integers(0, RACKS, boots_of[service]).tolist():
            whole = [(resource, 1, 0, boot_seconds) for resource in (1 + FEEDS + rack, 1 + rack % FEEDS)]
            booted.append(add(boot_seconds, [], [*whole, (0, 1, 60, 60)], 0, level))
        leans_on = [served[other] for other in _platforms(chance, level_of, service)]
        start = add(
            int(chance.integers(20, 90)), booted + leans_on, [(1 + FEEDS + RACKS, 1, 0, 30)], 0, level
        )
        served.append(add(int(chance.integers(30, 60)), [start], [], int(people[service]), level))
    capacity = [IMAGE_COPIES] + [FEED_BOOTS] * FEEDS + [RACK_BOOTS] * RACKS + [STARTS]
    return tasks_of(duration, before, uses, capacity, weight), levels


def _platforms(chance: np.random.Generator, level_of: np.ndarray, service: int) -> list[int]:
    below = int(np.searchsorted(level_of, level_of[service]))
    if below == 0:
        return []
    popularity = 1 / (1 + np.arange(below))
    wanted = min(below, int(chance.integers(1, 5)))
    chosen: list[int] = chance.choice(below, wanted, replace=False, p=popularity / popularity.sum()).tolist()
    return chosen
