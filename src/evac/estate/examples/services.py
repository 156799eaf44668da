"""The services and the stores of the example company, made from blueprints, sizes and needs.

Dependencies form a layered graph with heavy fan-in at the bottom. Hard dependencies point to a lower level
and, unless the flaws are asked for, to the same or a better tier, so nothing can wait for itself. Shape
assumed after the published studies of large microservice fleets: call graphs like trees, heavy-tailed, with
few services that very many share (Luo et al., "Characterizing Microservice Dependency and Performance", SoCC
2021).
"""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.random import Generator

from evac.estate.examples.company import FAMILIES, SHEDDABLE, Blueprint
from evac.estate.examples.grounds import CLASS_IDS, HALLS_PER_SITE, LOST_SITE, SITE_IDS, WITNESS, Machines
from evac.estate.examples.placing import MIXED_CLASSES
from evac.estate.examples.sizes import Sizes, eligible_sites
from evac.model.estate import (
    Backup,
    Dependency,
    NeededTo,
    RecoveryGroup,
    Service,
    Spread,
    Store,
    StoreMember,
    Traffic,
    TrafficKind,
)
from evac.model.fleet import IntColumn
from evac.model.records import dataclass

Needs = dict[str, dict[tuple[str, str], Dependency]]
"""Service id -> (kind, target) -> dependency; a later entry replaces an earlier one."""

SELF_CONTAINED_TOOLS: Final = frozenset(
    {"bastion", "boot-control", "evac", "paging", "secrets", "vpn-gateway", "workforce-login"}
)
"""Tools that in the fixed company do not wait for a store: each replica has a copy."""

_COMMON: Final = (
    "config",
    "discovery",
    "identity-session",
    "sql-proxy",
    "message-bus",
    "cache-proxy",
    "object-storage",
    "feature-flags",
    "id-generator",
    "rate-limiter",
    "key-management",
    "notification-hub",
    "identity-tokens",
    "identity-accounts",
    "job-scheduler",
    "audit-log",
    "thumbnailer",
    "workflow-engine",
    "geo-ip",
    "abuse-filter",
    "content-origin",
    "sms-sender",
    "identity-consent",
    "log-pipeline",
    "trace-pipeline",
)
"""Shared services by popularity: the k-th is drawn with weight 1/k (Zipf)."""

_CROSS_FAMILY: Final = {
    "advertising": "search-query",
    "bank": "pay-authorisation",
    "games": "pay-payment",
    "mail": "identity-profile",
    "maps": "search-query",
    "messenger": "pay-payment",
    "music": "pay-payment",
    "pay": "bank-deposit",
    "ride-hailing": "maps-route",
    "search": "identity-sign-in",
    "identity": "messenger-push",
    "platform": "identity-sign-in",
}
"""A feature of another family that a family depends on; its core is the target."""


_CYCLES: Final[tuple[tuple[str, str, NeededTo], ...]] = (
    ("config", "discovery", "start"),
    ("discovery", "config", "start"),
    ("secrets", "workforce-login", "start"),
    ("workforce-login", "secrets", "start"),
    ("identity-session", "identity-tokens", "serve"),
    ("identity-tokens", "identity-session", "serve"),
)
"""Flaws: (source, target, needed to) of pairs that wait for each other."""
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


def store_id(service: str) -> str:
    """The store that holds the data of a service."""
    return f"{service}-store"


def draw_needs(blueprints: tuple[Blueprint, ...], draw: Generator) -> Needs:
    """The clean graph, before flaws; the same for both companies."""
    by_id = {b.id: b for b in blueprints}
    needs: Needs = {b.id: {} for b in blueprints}
    for blueprint in blueprints:
        _add_own(needs, by_id, blueprint)
        _add_drawn(needs, by_id, blueprint, draw)
    return needs


def _add(
    needs: Needs,
    by_id: dict[str, Blueprint],
    source: Blueprint,
    target: str,
    hard: bool = True,
    needed_to: NeededTo = "serve",
) -> None:
    """Adds a dependency on a service if level and tier allow it; hard wins over soft."""
    other = by_id.get(target)
    if other is None or other.id == source.id:
        return
    if hard and (other.level >= source.level or other.tier > source.tier):
        return
    known = needs[source.id].get(("service", target))
    if known is None or (hard and not known.hard):
        needs[source.id]["service", target] = Dependency(target, "service", hard, needed_to)


def _add_store(needs: Needs, source: Blueprint, hard: bool) -> None:
    target = store_id(source.id)
    needs[source.id]["store", target] = Dependency(target, "store", hard)


def _add_own(needs: Needs, by_id: dict[str, Blueprint], source: Blueprint) -> None:
    """Adds what the component of a feature always needs."""
    if source.engine is not None and source.component != "tool":
        _add_store(needs, source, True)
    if source.component == "tool" and source.engine is not None and source.id not in SELF_CONTAINED_TOOLS:
        _add_store(needs, source, False)
    stem = f"{source.family}-{source.feature}"
    family = source.family
    for target, hard, needed_to in _template(source.component, stem, family):
        _add(needs, by_id, source, target, hard, needed_to)


def _template(component: str, stem: str, family: str) -> tuple[tuple[str, bool, NeededTo], ...]:
    """(target, hard, needed to) by component."""
    config: tuple[str, bool, NeededTo] = ("config", True, "start")
    discovery: tuple[str, bool, NeededTo] = ("discovery", True, "start")
    session: tuple[str, bool, NeededTo] = ("identity-session", True, "serve")
    data: tuple[str, bool, NeededTo] = (f"{stem}-data", True, "serve")
    objects: tuple[str, bool, NeededTo] = ("object-storage", True, "serve")
    scheduler: tuple[str, bool, NeededTo] = ("job-scheduler", True, "start")
    templates: dict[str, tuple[tuple[str, bool, NeededTo], ...]] = {
        "tool": (("dns-resolver", True, "serve"), ("time", True, "start")),
        "platform": (config, discovery, ("sql-proxy", False, "serve")),
        "login": (config, discovery, ("sql-proxy", True, "serve")),
        "gateway": (discovery, session, ("rate-limiter", False, "serve")),
        "members": (discovery, session, ("rate-limiter", False, "serve")),
        "data": (config, ("sql-proxy", True, "serve"), ("key-management", False, "serve")),
        "cache": (discovery, ("cache-proxy", True, "serve")),
        "core": (
            data,
            (f"{family}-members", True, "serve"),
            (f"{stem}-cache", False, "serve"),
            (f"{stem}-model", False, "serve"),
            discovery,
        ),
        "worker": (("message-bus", True, "serve"), data, config),
        "api": ((f"{stem}-core", True, "serve"), session, (f"{stem}-worker", False, "serve")),
        "front": (
            (f"{stem}-api", True, "serve"),
            (f"{family}-gateway", True, "serve"),
            ("content-origin", False, "serve"),
        ),
        "batch": (data, objects, scheduler),
        "training": (data, objects, scheduler),
        "analytics": (objects, ("message-bus", True, "serve")),
        "model": (objects, ("message-bus", False, "serve")),
    }
    return templates.get(component, ())


def _add_drawn(needs: Needs, by_id: dict[str, Blueprint], source: Blueprint, draw: Generator) -> None:
    """Adds drawn dependencies: shared services by Zipf, neighbours of the family, another family's core."""
    weight = 1.0 / np.arange(1, len(_COMMON) + 1)
    common = draw.choice(len(_COMMON), size=3, replace=False, p=weight / weight.sum())
    odds = draw.uniform(size=4).tolist()
    neighbour = draw.integers(0, 1 << 30, size=2).tolist()
    if source.level < 2:
        return
    _add(needs, by_id, source, _COMMON[common[0]])
    if odds[0] < 0.4:
        _add(needs, by_id, source, _COMMON[common[1]])
    _add(needs, by_id, source, _COMMON[common[2]], hard=False)
    if source.component in ("api", "worker", "front"):
        cores = [b for b in by_id.values() if b.family == source.family and b.component == "core"]
        if odds[1] < 0.35:
            _add(needs, by_id, source, _popular(cores, int(neighbour[0])).id)
        if odds[2] < 0.5:
            _add(needs, by_id, source, _popular(cores, int(neighbour[1])).id, hard=False)
    if source.component in ("api", "front"):
        _add(needs, by_id, source, f"{_CROSS_FAMILY[source.family]}-core", hard=odds[3] < 0.3)


def _popular(cores: list[Blueprint], number: int) -> Blueprint:
    """Rank k with odds falling as 1/(k+1): a log-uniform pick out of `number`."""
    fraction = number / float(1 << 30)
    return cores[min(len(cores) - 1, int((len(cores) + 1) ** fraction) - 1)] if cores[1:] else cores[0]


def add_flaws(needs: Needs, blueprints: tuple[Blueprint, ...], draw: Generator) -> None:
    """The flaws of the graph, in place: tier inversions, cycles, tools that wait for what they repair."""
    by_id = {b.id: b for b in blueprints}
    for b in blueprints:
        if b.component == "tool" and b.level:
            _make_tool_heavy(needs, by_id, b)
    _invert_tiers(needs, blueprints, draw)
    for source, target, needed_to in _CYCLES:
        needs[source]["service", target] = Dependency(target, "service", True, needed_to)


def _make_tool_heavy(needs: Needs, by_id: dict[str, Blueprint], tool: Blueprint) -> None:
    """In the flawed company, tools wait for their store and for the platform that they repair."""
    if tool.engine is not None:
        _add_store(needs, tool, True)
    _add(needs, by_id, tool, "config", needed_to="start")
    _add(needs, by_id, tool, "sql-proxy")
    if tool.id not in ("workforce-login", "secrets", "evac"):
        needs[tool.id]["service", "workforce-login"] = Dependency("workforce-login", "service", True, "serve")


def _invert_tiers(needs: Needs, blueprints: tuple[Blueprint, ...], draw: Generator) -> None:
    """One in forty services of tier 0 or 1 hard-depends on a service of a lower tier."""
    low = [b for b in blueprints if b.tier == 2 and b.level == 1]
    better = [b for b in blueprints if b.tier <= 1 and b.level >= 2]
    for index in draw.choice(len(better), size=max(2, len(better) // 40), replace=False).tolist():
        target = low[index % len(low)].id
        needs[better[index].id]["service", target] = Dependency(target, "service", True, "serve")


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The draws for one store, the same for both companies."""

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
    """One store per blueprint with an engine, sorted by id; `counts` (S, 4): replicas of its service per
    site.
    """
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
    """Sites for the copies: those with most of the service first, then the other eligible ones."""
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
    """Groups of the stores that exist at this scale; groups of fewer than two are left out."""
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
"""Tier 0 of the two lowest levels, which everything else depends on."""

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
    """What all services of a company share."""

    mended: bool
    as_of: date
    spread: tuple[Spread, ...]
    conflicts: frozenset[int]


def spread_rules(
    blueprints: tuple[Blueprint, ...], machines: Machines, mended: bool, huddled: frozenset[int]
) -> tuple[Spread, ...]:
    """Spread per blueprint: the tightest share per rack that still fits the smallest site of its class.

    A huddled service (a flaw) has no rule, which is why its replicas share a rack.
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
    needs_store = any(need.kind == "store" and need.hard for need in needs[blueprint.id].values())
    return Service(
        id=blueprint.id,
        family=blueprint.family,
        owner=f"team-{blueprint.family}",
        tier=blueprint.tier,
        people=blueprint.users,
        degraded_people=blueprint.users // 200 if replicas <= 12 else 0,
        paid=_PAID[blueprint.family],
        rto_ms=_rto_ms(blueprint, kit.mended),
        rpo_ms=RPO_MS[blueprint.tier] if needs_store else None,
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
    """How users reach it; only fronts, gateways, the login and the most used interfaces have traffic."""
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
