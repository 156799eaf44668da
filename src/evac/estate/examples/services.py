"""The services and the stores of the example company, made from blueprints, sizes and needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.random import Generator

from evac.estate.examples.company import FAMILIES, SHEDDABLE, Blueprint
from evac.estate.examples.dependencies import Needs, store_id
from evac.estate.examples.grounds import CLASS_IDS, HALLS_PER_SITE, LOST_SITE, SITE_IDS, WITNESS, Machines
from evac.estate.examples.placing import MIXED_CLASSES
from evac.estate.examples.sizes import Sizes, eligible_sites
from evac.model.estate import Backup, RecoveryGroup, Service, Spread, Store, StoreMember, Traffic, TrafficKind
from evac.model.fleet import IntColumn

RPO_MS: Final = (0, 60_000, 300_000, 86_400_000)
"""Data loss allowed, by tier."""

QUORUM_ENGINES: Final = frozenset({"etcd", "kafka"})
_LAG_PER_TIER_MS: Final = (3_000, 20_000, 90_000, 600_000)
_GROUPS: Final = (
    ("chat-history", ("messenger-chat-data", "messenger-friends-data", "messenger-group-chat-data"), 5_000),
    (
        "money",
        (
            "bank-deposit-data",
            "bank-ledger-data",
            "bank-transfer-data",
            "pay-authorisation-data",
            "pay-ledger-data",
            "pay-payment-data",
            "pay-wallet-data",
        ),
        0,
    ),
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn for one store, the same for both companies."""

    halls: tuple[int, int, int]
    promote_ms: int
    fence_ms: int
    lag_ms: int
    size_gib: int
    luck: float

    def hall(self, site: str, number: int) -> str:
        return f"{site}/hall-{self.halls[number % 3] + 1}"

    def other_hall(self, site: str) -> str:
        return f"{site}/hall-{(self.halls[0] + 1) % HALLS_PER_SITE + 1}"


def draw_stores(
    blueprints: tuple[Blueprint, ...], counts: IntColumn, mended: bool, as_of: date, draw: Generator
) -> tuple[Store, ...]:
    """One store per blueprint with an engine, sorted by id; `counts` says where its service stands (S, 4)."""
    found = []
    for row, blueprint in enumerate(blueprints):
        drawn = _draw_one(blueprint, draw)
        if blueprint.engine is None:
            continue
        sites = _sites(blueprint, counts[row])
        make = _mended_store if mended else _flawed_store
        found.append(make(blueprint, sites, drawn, as_of))
    return tuple(sorted(found, key=lambda store: store.id))


def _draw_one(blueprint: Blueprint, draw: Generator) -> _Drawn:
    halls = draw.integers(0, HALLS_PER_SITE, size=3).tolist()
    seconds = draw.integers(0, 30, size=2).tolist()
    stretch = float(draw.uniform(0.4, 1.0))
    size = int(min(60_000.0, 400.0 * float(draw.lognormal(0.0, 1.4))))
    return _Drawn(
        (halls[0], halls[1], halls[2]),
        20_000 + 1_000 * seconds[0],
        10_000 + 1_000 * (seconds[1] // 3),
        int(_LAG_PER_TIER_MS[blueprint.tier] * stretch),
        max(10, size),
        float(draw.uniform()),
    )


def _sites(blueprint: Blueprint, counts: IntColumn) -> list[str]:
    """Sites for the copies: where most of the service stands first, then the other eligible ones."""
    allowed = eligible_sites(blueprint) or SITE_IDS
    order = np.lexsort((np.arange(len(SITE_IDS)), -counts)).tolist()
    return [SITE_IDS[i] for i in order if SITE_IDS[i] in allowed]


def _mended_store(blueprint: Blueprint, sites: list[str], drawn: _Drawn, as_of: date) -> Store:
    """Three votes in three domains; tier 0 and quorums have a synchronous copy at another site."""
    first, second, third = sites[:3]
    quorum = blueprint.engine in QUORUM_ENGINES
    members = [StoreMember(drawn.hall(first, 0), "primary", 0)]
    if quorum:
        members += [StoreMember(drawn.hall(s, 1 + n), "sync", 0) for n, s in enumerate((second, third))]
    elif blueprint.tier == 0:
        members.append(StoreMember(drawn.hall(second, 1), "sync", 0))
        members.append(StoreMember(drawn.hall(third, 2), "async", drawn.lag_ms))
    else:
        members.append(StoreMember(drawn.hall(second, 1), "async", drawn.lag_ms))
        members.append(StoreMember(WITNESS, "none"))
    backups = (
        Backup(third, drawn.size_gib, 6 * 3_600_000, 20_000, as_of - timedelta(days=12)),
        Backup(second, drawn.size_gib, 24 * 3_600_000, 10_000, as_of - timedelta(days=20)),
    )
    return _store(blueprint, tuple(members), backups, drawn, quorum, True)


def _flawed_store(blueprint: Blueprint, sites: list[str], drawn: _Drawn, as_of: date) -> Store:
    """Copies inside one building, lag above what may be lost, majorities in one site, untested backups."""
    quorum = blueprint.engine in QUORUM_ENGINES
    inside = blueprint.component in ("tool", "login") or drawn.luck < 0.4
    first = LOST_SITE if blueprint.component in ("tool", "login", "infra") else sites[0]
    other = next(s for s in sites if s != first)
    members = [StoreMember(drawn.hall(first, 0), "primary", 0)]
    if blueprint.id == "message-bus":
        members += [StoreMember(drawn.other_hall(first), "sync", 0)]
        members += [StoreMember(f"{other}/hall-{n}", "sync", 0) for n in (1, 2)]
    elif quorum:
        members.append(StoreMember(drawn.other_hall(first), "sync", 0))
        last = f"{first}/hall-4" if inside else drawn.hall(other, 1)
        members.append(StoreMember(last, "sync", 0))
    elif inside:
        members.append(StoreMember(drawn.other_hall(first), "sync", 0))
    else:
        lag = drawn.lag_ms if drawn.luck > 0.7 else max(drawn.lag_ms * 30, 600_000)
        members.append(StoreMember(drawn.hall(other, 1), "async", lag))
    backups: tuple[Backup, ...] = ()
    if drawn.luck > 0.2 and blueprint.component != "tool":
        tested = as_of - timedelta(days=700) if drawn.luck > 0.6 else None
        backups = (Backup(first if inside else other, drawn.size_gib, 24 * 3_600_000, 4_000, tested),)
    return _store(blueprint, tuple(members), backups, drawn, quorum, drawn.luck > 0.5)


def _store(
    blueprint: Blueprint,
    members: tuple[StoreMember, ...],
    backups: tuple[Backup, ...],
    drawn: _Drawn,
    quorum: bool,
    automatic: bool,
) -> Store:
    name = store_id(blueprint.id)
    return Store(
        id=name,
        family=name,
        engine=blueprint.engine or "",
        members=members,
        backups=backups,
        quorum=quorum,
        automatic=automatic,
        rpo_ms=RPO_MS[blueprint.tier],
        fence_ms=drawn.fence_ms,
        promote_ms=drawn.promote_ms,
        sync_timeout_ms=0,
    )


def recovery_groups(stores: tuple[Store, ...]) -> tuple[RecoveryGroup, ...]:
    """Groups of the stores that exist at this scale; a group of fewer than two says nothing."""
    known = {store.id for store in stores}
    found = []
    for name, services, tolerance_ms in _GROUPS:
        present = tuple(sorted(store_id(s) for s in services if store_id(s) in known))
        if len(present) > 1:
            found.append(RecoveryGroup(name, present, tolerance_ms))
    return tuple(found)


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
