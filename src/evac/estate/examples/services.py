"""Turns blueprints, sizes and needs of the example into services of the estate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.random import Generator

from evac.estate.examples.company import FAMILIES, SHEDDABLE, Blueprint
from evac.estate.examples.datastores import RPO_MS
from evac.estate.examples.dependencies import Needs
from evac.estate.examples.grounds import CLASS_IDS, SITE_IDS
from evac.estate.examples.layout import eligible_sites
from evac.estate.examples.machines import Machines
from evac.estate.examples.placing import MIXED_CLASSES
from evac.estate.examples.sizes import Sizes
from evac.model.estate import Service, Spread, Traffic, TrafficKind

RTO_MS: Final = (3_600_000, 7_200_000, 21_600_000, 86_400_000)
"""By tier. Assumed."""
PLATFORM_RTO_MS: Final = 1_800_000
"""Tier 0 of the two lowest levels, on which all the rest waits."""

_SECONDS: Final = {
    "infra": (30, 0),
    "tool": (30, 0),
    "platform": (30, 0),
    "login": (30, 10),
    "gateway": (20, 10),
    "members": (40, 10),
    "data": (60, 10),
    "cache": (20, 90),
    "core": (40, 20),
    "worker": (30, 0),
    "model": (90, 60),
    "api": (30, 10),
    "front": (20, 10),
    "batch": (30, 0),
    "analytics": (60, 0),
    "training": (120, 0),
}
"""(start, warm) of one replica. Assumed."""

_RACK_SHARES: Final = (Fraction(1, 10), Fraction(1, 5), Fraction(1, 4), Fraction(1, 3), Fraction(1, 2))
_PAID: Final = {family.id: family.paid for family in FAMILIES}


PURGE: Final = frozenset({"audit-log", "identity-session", "job-scheduler", "message-bus", "object-storage"})
"""Services that delete what has expired by themselves. Assumed."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What all services of one company share."""

    mended: bool
    as_of: date
    spread: tuple[Spread, ...]
    conflicts: frozenset[int]


def spread_rules(
    blueprints: tuple[Blueprint, ...], machines: Machines, mended: bool, huddled: frozenset[int]
) -> tuple[Spread, ...]:
    """Spread per blueprint: the tightest share per rack that leaves room on the smallest site of its class.

    A huddled service (a flaw) has no rule, which is how its replicas came to share a rack.
    """
    cells = np.unique(np.stack((machines.site, machines.machine, machines.rack)), axis=1)
    racks = np.bincount(cells[0] * len(CLASS_IDS) + cells[1], minlength=len(SITE_IDS) * len(CLASS_IDS))
    fewest = racks.reshape(len(SITE_IDS), len(CLASS_IDS)).min(axis=0).tolist()
    per_class = [next((s for s in _RACK_SHARES if s * count >= 3), None) for count in fewest]
    found = []
    for row, blueprint in enumerate(blueprints):
        machine = CLASS_IDS.index(blueprint.machine)
        wide = blueprint.tier <= 1 and blueprint.machine in ("general", "web") and fewest[machine] >= 12
        per_site = Fraction(2, 3) if mended and blueprint.tier == 0 else None
        rule = Spread(1, per_class[machine], Fraction(1, 2) if wide else None, per_site)
        found.append(Spread(1) if row in huddled else rule)
    return tuple(found)


def services(
    blueprints: tuple[Blueprint, ...], sizes: Sizes, needs: Needs, kit: Kit, draw: Generator
) -> tuple[Service, ...]:
    """One service per blueprint, in the same order."""
    luck = draw.uniform(size=(len(blueprints), 2)).tolist()
    return tuple(
        _service(row, blueprint, sizes, needs, kit, (luck[row][0], luck[row][1]))
        for row, blueprint in enumerate(blueprints)
    )


def _service(
    row: int, blueprint: Blueprint, sizes: Sizes, needs: Needs, kit: Kit, luck: tuple[float, float]
) -> Service:
    start, warm = _SECONDS[blueprint.component]
    replicas = int(sizes.replicas[row])
    demand = sizes.demand[row].tolist()
    batch = blueprint.component in SHEDDABLE
    return Service(
        id=blueprint.id,
        family=blueprint.family,
        owner=f"team-{blueprint.family}",
        tier=blueprint.tier,
        people=blueprint.users,
        degraded_people=blueprint.users // 200 if replicas <= 12 else 0,
        paid=_PAID[blueprint.family],
        rto_ms=_rto_ms(blueprint, kit.mended),
        rpo_ms=RPO_MS[blueprint.tier],
        demand=(demand[0], demand[1], demand[2], demand[3]),
        replicas=replicas,
        share=sizes.share[row],
        spread=kit.spread[row],
        conflict_group="heavy-io" if row in kit.conflicts else None,
        eligible_classes=MIXED_CLASSES[blueprint.machine],
        eligible_sites=eligible_sites(blueprint),
        sheddable=batch,
        shed_rehearsed=kit.as_of - timedelta(days=17) if batch and kit.mended else None,
        single_run=blueprint.component == "batch" and blueprint.rank % 6 == 0,
        needs=tuple(needs[blueprint.id][key] for key in sorted(needs[blueprint.id])),
        start_ms=start * 1_000,
        warm_ms=warm * 1_000,
        verify_ms=10_000,
        shed_ms=10_000,
        traffic=_traffic(blueprint, kit.mended, luck),
        purges=blueprint.id in PURGE,
    )


def _rto_ms(blueprint: Blueprint, mended: bool) -> int:
    if not mended and blueprint.id in ("object-storage", "sql-proxy"):
        return RTO_MS[2]
    if blueprint.tier == 0 and blueprint.level <= 1:
        return PLATFORM_RTO_MS
    return RTO_MS[blueprint.tier]


def _traffic(blueprint: Blueprint, mended: bool, luck: tuple[float, float]) -> Traffic:
    """How users reach it; only fronts, gateways, the login and the most used interfaces have any."""
    kind = _traffic_kind(blueprint, luck[0])
    if kind == "none":
        return Traffic("none")
    mbps = max(50, blueprint.users * 2 // 1_000)
    connections = max(1_000, blueprint.users // 10)
    if kind == "load_balancer":
        return Traffic(kind, None, 5_000, 15_000, mbps, connections)
    if kind == "anycast":
        return Traffic(kind, None, 10_000, 30_000, mbps, connections)
    ttl_ms = 60_000 if mended or luck[1] < 0.7 else (21_600_000 if luck[1] < 0.9 else 86_400_000)
    return Traffic(kind, ttl_ms, 10_000, ttl_ms + 30_000, mbps, connections)


def _traffic_kind(blueprint: Blueprint, luck: float) -> TrafficKind:
    if blueprint.component == "gateway":
        return "anycast" if luck < 0.5 else "load_balancer"
    if blueprint.component == "front":
        return "dns" if luck < 0.7 else ("load_balancer" if luck < 0.9 else "anycast")
    if blueprint.id == "identity-login" or (blueprint.component == "api" and blueprint.rank < 3):
        return "dns"
    return "none"
