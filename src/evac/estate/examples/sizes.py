"""Sizes of the example's services: replicas, demand per replica, smallest share that serves, replicas per
site.

All are drawn from a seeded generator and assumed. The distributions follow publications on large fleets:
sizes are heavy-tailed (Tirmazi et al., "Borg: the Next Generation", EuroSys 2020), so replica counts are
lognormal; popularity falls with rank as a Zipf law. The fixed company keeps every service at two sites or
more; the flawed one keeps much at Pangyo only.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evac.estate.examples.company import SHEDDABLE, Blueprint
from evac.estate.examples.grounds import CLASS_IDS, CLASSES, LOST_SITE, SITE_IDS, Machines
from evac.model.fleet import SERVING, IntColumn
from evac.model.records import dataclass
from evac.model.units import ceil_share

REPLICAS_OF_90000: Final = 200_000
FILL_PERMILLE: Final = {"general": 890, "gpu": 850, "memory": 880, "storage": 880, "web": 925}
"""For the scarce resource of a class, on its serving servers, at peak."""

SCARCE: Final = {"general": 0, "gpu": 3, "memory": 1, "storage": 2, "web": 0}
"""Which resource of units.RESOURCES is scarce on a class."""

_SIGMA: Final = 1.15
_WEIGHT: Final = {
    "infra": 2.5,
    "tool": 0.12,
    "platform": 1.0,
    "login": 2.0,
    "gateway": 2.2,
    "members": 1.0,
    "data": 1.0,
    "cache": 1.2,
    "core": 1.5,
    "worker": 0.8,
    "model": 1.0,
    "api": 1.6,
    "front": 1.3,
    "batch": 1.3,
    "analytics": 1.3,
    "training": 1.5,
}
_LADDER: Final = (1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2)
_GPU_LADDER: Final = (1 / 8, 1 / 4, 1 / 2)
"""Replica sizes as fractions of a server: people buy and partition machines so that fractions fill them."""
_SMALL_ODDS: Final = (0.30, 0.25, 0.20, 0.15, 0.06, 0.04)
_LARGE_ODDS: Final = (0.02, 0.03, 0.05, 0.10, 0.25, 0.55)
_GRAIN: Final = (250, 512, 16, 1)
"""Demands are multiples of these, in base units."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """One row per blueprint: nominal replicas, demand (S, R), share as a Fraction each."""

    replicas: IntColumn
    demand: IntColumn
    share: tuple[Fraction, ...]

    def base(self, row: int) -> int:
        """Smallest number of replicas that serves."""
        return ceil_share(self.share[row].numerator, self.share[row].denominator, int(self.replicas[row]))


def draw_sizes(blueprints: tuple[Blueprint, ...], machines: Machines, draw: Generator) -> Sizes:
    """Sizes for these blueprints on that fleet: scaled from REPLICAS_OF_90000, filled to FILL_PERMILLE."""
    servers = len(machines.rack)
    serving = [
        int(((machines.machine == c) & (machines.state == SERVING)).sum()) for c in range(len(CLASS_IDS))
    ]
    noise = draw.lognormal(0.0, _SIGMA, size=len(blueprints))
    rank = np.array([max(0, b.rank) for b in blueprints], np.float64)
    weight = np.array([_WEIGHT[b.component] for b in blueprints])
    popularity = np.asarray(weight * noise / np.sqrt(1.0 + rank))
    luck = draw.uniform(size=len(blueprints))
    ratios = draw.uniform(0.5, 0.95, size=(len(blueprints), 3))
    share = tuple(_share(b, draw) for b in blueprints)
    replicas = np.zeros(len(blueprints), np.int64)
    demand = np.zeros((len(blueprints), 4), np.int64)
    totals = _class_totals(round(servers * REPLICAS_OF_90000 / 90_000), serving)
    for index, name in enumerate(CLASS_IDS):
        rows = np.array([i for i, b in enumerate(blueprints) if b.machine == name], np.int64)
        least = np.array([3 if blueprints[i].tier == 0 else 2 for i in rows], np.int64)
        replicas[rows] = _counts(popularity[rows], least, totals[index], _most(serving[index]))
        demand[rows] = _demands(index, replicas[rows], luck[rows], ratios[rows], serving[index])
    return Sizes(replicas, demand, share)


def _share(blueprint: Blueprint, draw: Generator) -> Fraction:
    """Smallest share that serves. Higher tiers are built with more spare capacity; batch work can wait."""
    pick = int(draw.integers(0, 4))
    if blueprint.component in SHEDDABLE:
        return (Fraction(1, 4), Fraction(1, 4), Fraction(1, 3), Fraction(1, 3))[pick]
    if blueprint.tier == 0 and blueprint.family == "bank":
        return Fraction(1, 2)
    if blueprint.component == "cache":
        return (Fraction(1, 2), Fraction(1, 2), Fraction(1, 2), Fraction(3, 5))[pick]
    if blueprint.tier == 0:
        return (Fraction(1, 2), Fraction(3, 5), Fraction(3, 5), Fraction(3, 5))[pick]
    if blueprint.machine in ("gpu", "storage") or blueprint.component == "members":
        return (Fraction(3, 5), Fraction(3, 5), Fraction(2, 3), Fraction(2, 3))[pick]
    if blueprint.tier == 1:
        return (Fraction(2, 3), Fraction(7, 10), Fraction(7, 10), Fraction(3, 4))[pick]
    return (Fraction(7, 10), Fraction(3, 4), Fraction(3, 4), Fraction(4, 5))[pick]


def _most(serving: int) -> int:
    """Most replicas of one service: a sixth of its class, less if the class is a handful of racks."""
    return serving // 6 if serving >= 1_000 else max(4, serving // 12)


def _class_totals(replicas: int, serving: list[int]) -> list[int]:
    totals = [replicas * count // sum(serving) for count in serving]
    totals[0] += replicas - sum(totals)
    return totals


def _counts(weight: NDArray[np.float64], least: IntColumn, total: int, most: int) -> IntColumn:
    """Whole numbers in [least, most] proportional to weight that sum to `total`."""
    low, high = 0.0, float(total) / float(weight.min())
    for _ in range(80):
        middle = (low + high) / 2
        if np.clip(weight * middle, least, most).sum() < total:
            low = middle
        else:
            high = middle
    exact = np.clip(weight * high, least, most)
    counts = np.floor(exact).astype(np.int64)
    order = np.lexsort((np.arange(len(counts)), -(exact - counts)))
    missing = total - int(counts.sum())
    for step in range(abs(missing)):
        counts[order[step % len(order)]] += 1 if missing > 0 else -1
    return counts


def _demands(
    index: int, replicas: IntColumn, luck: NDArray[np.float64], ratios: NDArray[np.float64], serving: int
) -> IntColumn:
    """Demand vectors: the scarce resource fills the class as wanted, the others stay below it."""
    capacity = np.array(CLASSES[index].capacity, np.int64)
    name = CLASS_IDS[index]
    scarce = SCARCE[name]
    share = _fractions(
        luck,
        replicas,
        # full servers' worth of replicas; few servers are harder to fill than many
        serving * FILL_PERMILLE[name] / 1_000.0 * (1.0 - min(0.25, 1.5 / float(np.sqrt(serving)))),
        scarce == 3,
    )
    demand = np.zeros((len(replicas), 4), np.int64)
    demand[:, scarce] = _grained(share * capacity[scarce], scarce)
    for position, resource in enumerate(r for r in range(4) if r != scarce):
        if capacity[resource]:
            slack = 4.0 if resource == 2 else 1.0
            demand[:, resource] = _grained(share * ratios[:, position] * capacity[resource] / slack, resource)
    return demand


def _grained(amount: NDArray[np.float64], resource: int) -> IntColumn:
    grain = _GRAIN[resource]
    return np.asarray(np.maximum(grain, amount.astype(np.int64) // grain * grain))


def _fractions(
    luck: NDArray[np.float64], replicas: IntColumn, wanted: float, whole: bool
) -> NDArray[np.float64]:
    """A fraction of a server for each service, so that all replicas together fill about `wanted` servers.

    Odds shift between small and large fractions; the shift is found by bisection with each service's draw
    fixed, so that the sum is monotone.
    """
    ladder = np.array(_GPU_LADDER if whole else _LADDER)
    small = np.array(_SMALL_ODDS).reshape(len(ladder), -1).sum(axis=1)
    large = np.array(_LARGE_ODDS).reshape(len(ladder), -1).sum(axis=1)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        odds = np.cumsum((1.0 - middle) * small + middle * large)
        parts = ladder[np.searchsorted(odds[:-1], luck)]
        if float((parts * replicas).sum()) < wanted:
            low = middle
        else:
            high = middle
    odds = np.cumsum((1.0 - low) * small + low * large)
    return np.asarray(ladder[np.searchsorted(odds[:-1], luck)])


PANGYO: Final = SITE_IDS.index(LOST_SITE)
BANK_SITES: Final = ("anyang", "gasan", "pangyo")
"""The bank is licensed for three of the four sites."""

_SINGLE_AT_PANGYO: Final = (0.15, 0.25, 0.40, 0.50)
_SINGLE_ELSEWHERE: Final = (0.0, 0.03, 0.15, 0.25)
"""Probability by tier that a service of the flawed company runs at one site only."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How a service is spread: over how many sites, and most replicas at one."""

    sites: int
    most_at_one: int
    only: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What remains to fill, in units of the scarce resource, per site and class."""

    left: NDArray[np.float64]
    all: NDArray[np.float64]
    servers: IntColumn


def eligible_sites(blueprint: Blueprint) -> tuple[str, ...] | None:
    """Where the service may run; None: everywhere."""
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
    """Tier 0 keeps its smallest share whatever site is lost; lower tiers start replicas after a loss."""
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
    """Work tools, login and redistribution run at Pangyo alone, as published; others by assumed odds."""
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
    """Whole parts of `count` close to the weights, each within [least, most]; caps yield if they must."""
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
