"""How many replicas of each service stand at each site, before any server is chosen.

The mended company keeps every service at two sites or more; the flawed one keeps much at Pangyo alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evac.estate.examples.company import Blueprint
from evac.estate.examples.grounds import CLASS_IDS, LOST_SITE, SITE_IDS
from evac.estate.examples.machines import Machines
from evac.estate.examples.sizes import SCARCE, Sizes
from evac.model.fleet import SERVING, IntColumn

PANGYO: Final = SITE_IDS.index(LOST_SITE)
BANK_SITES: Final = ("anyang", "gasan", "pangyo")
"""The bank is licensed for three of the four sites."""

_SINGLE_AT_PANGYO: Final = (0.15, 0.25, 0.40, 0.50)
_SINGLE_ELSEWHERE: Final = (0.0, 0.03, 0.15, 0.25)
"""Odds by tier that a service of the flawed company stands at one site only."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How a service is spread: over how many sites, at most how many of its replicas at one."""

    sites: int
    most_at_one: int
    only: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What is still to be filled, in units of the scarce resource, per site and class."""

    left: NDArray[np.float64]
    all: NDArray[np.float64]
    servers: IntColumn


def eligible_sites(blueprint: Blueprint) -> tuple[str, ...] | None:
    """Where the service may stand; None is everywhere."""
    return BANK_SITES if blueprint.family == "bank" else None


def site_counts(
    blueprints: tuple[Blueprint, ...], sizes: Sizes, machines: Machines, mended: bool, draw: Generator
) -> IntColumn:
    """Replicas per service and site (S, 4); each row sums to the nominal count of the service."""
    room = _room(blueprints, sizes, machines)
    counts = np.zeros((len(blueprints), len(SITE_IDS)), np.int64)
    jitter = draw.uniform(0.0, 0.08, size=counts.shape)
    odds = draw.uniform(0.0, 1.0, size=(len(blueprints), 2))
    volume = _volume(blueprints, sizes)
    typical = int(np.median(sizes.replicas)) * 2
    for row in np.lexsort((np.arange(len(volume)), -volume)).tolist():
        blueprint = blueprints[row]
        machine = CLASS_IDS.index(blueprint.machine)
        each = volume[row] / float(sizes.replicas[row])
        if mended:
            pattern = _mended(blueprint, sizes, row, odds[row])
        else:
            fits = room.left[PANGYO, machine] >= volume[row]
            pattern = _flawed(blueprint, sizes, row, odds[row], typical, fits)
        counts[row] = _split(blueprint, int(sizes.replicas[row]), pattern, room, machine, jitter[row])
        room.left[:, machine] -= counts[row] * each
    return counts


def _volume(blueprints: tuple[Blueprint, ...], sizes: Sizes) -> NDArray[np.float64]:
    scarce = np.array([SCARCE[b.machine] for b in blueprints])
    return np.asarray((sizes.demand[np.arange(len(scarce)), scarce] * sizes.replicas).astype(np.float64))


def _room(blueprints: tuple[Blueprint, ...], sizes: Sizes, machines: Machines) -> _Room:
    shape = (len(SITE_IDS), len(CLASS_IDS))
    lit = machines.state == SERVING
    flat = machines.site[lit] * shape[1] + machines.machine[lit]
    servers = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    volume, kinds = _volume(blueprints, sizes), np.array([CLASS_IDS.index(b.machine) for b in blueprints])
    wanted = np.bincount(kinds, volume, shape[1])
    left = wanted * servers / servers.sum(axis=0)
    return _Room(left, np.maximum(left, 1.0), servers)


def _mended(blueprint: Blueprint, sizes: Sizes, row: int, odds: NDArray[np.float64]) -> Pattern:
    """Tier 0 keeps its smallest share whatever site is lost; lower tiers start replicas for it."""
    count, base = int(sizes.replicas[row]), sizes.base(row)
    if blueprint.tier == 0:
        least_sites = -(-count // max(1, count - base))
        return Pattern(max(3 if count < 6 else 4, least_sites), max(1, count - base))
    if blueprint.tier == 1:
        return Pattern(3, count * 45 // 100 + 1) if odds[0] < 0.4 else Pattern(2, count * 56 // 100 + 1)
    if blueprint.tier == 2 and odds[0] < 0.25:
        return Pattern(3, count // 2 + 1)
    if blueprint.tier == 2:
        return Pattern(2, max(1, min(count - 1, count * 76 // 100 + 1)))
    return Pattern(2, max(1, min(count - base, count * 60 // 100 + 1)))


def _flawed(
    blueprint: Blueprint, sizes: Sizes, row: int, odds: NDArray[np.float64], typical: int, fits: bool
) -> Pattern:
    """Work tools, login and redistribution stand at Pangyo alone, as published; more by odds, assumed."""
    count = int(sizes.replicas[row])
    if blueprint.component in ("tool", "login") and blueprint.role != "time":
        return Pattern(1, count, PANGYO)
    small = count <= typical or blueprint.tier >= 2
    if odds[0] < _SINGLE_AT_PANGYO[blueprint.tier] and fits and small:
        return Pattern(1, count, PANGYO)
    if odds[0] > 1.0 - _SINGLE_ELSEWHERE[blueprint.tier]:
        return Pattern(1, count)
    wide = blueprint.tier <= 1 and odds[1] < 0.5
    return Pattern(3, count // 2 + 1) if wide else Pattern(2, max(1, count * 70 // 100))


def _split(
    blueprint: Blueprint, count: int, pattern: Pattern, room: _Room, machine: int, jitter: NDArray[np.float64]
) -> IntColumn:
    allowed = eligible_sites(blueprint) or SITE_IDS
    if pattern.only is not None:
        chosen = [pattern.only]
    else:
        emptiness = room.left[:, machine] / room.all[:, machine] + jitter
        ranked = sorted((i for i, s in enumerate(SITE_IDS) if s in allowed), key=lambda i: (-emptiness[i], i))
        chosen = sorted(ranked[: min(max(1, min(pattern.sites, count)), len(ranked))])
    most = [min(pattern.most_at_one, int(room.servers[i, machine])) for i in chosen]
    least = 1 if count >= len(chosen) else 0
    weight = [max(room.left[i, machine], 1e-9 * room.all[i, machine]) for i in chosen]
    result = np.zeros(len(SITE_IDS), np.int64)
    result[chosen] = _whole(count, weight, most, least)
    return result


def _whole(count: int, weight: list[float], most: list[int], least: int) -> list[int]:
    """Whole parts of `count` near the weights, each within [least, most]; caps give way if they must."""
    if sum(most) < count:
        most = [cap + count - sum(most) for cap in most]
    total = sum(weight)
    parts = [min(cap, max(least, int(count * w / total))) for w, cap in zip(weight, most, strict=True)]
    while sum(parts) != count:
        step = 1 if sum(parts) < count else -1
        best = max(
            (i for i in range(len(parts)) if (parts[i] < most[i] if step > 0 else parts[i] > least)),
            key=lambda i: (step * (count * weight[i] / total - parts[i]), -i),
        )
        parts[best] += step
    return parts
