"""How the example is run: tools, limits, what expires, what undoes, what was rehearsed, links."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from itertools import combinations
from types import MappingProxyType
from typing import Final

from evac.estate.examples.company import Blueprint
from evac.estate.examples.grounds import FULL_SERVERS, LOST_SITE, SITE_IDS, WITNESS
from evac.model.estate import (
    Automation,
    Expiring,
    Hall,
    Limits,
    Link,
    Rate,
    Rehearsal,
    Service,
    SharedFate,
    Site,
)
from evac.model.steps import TOOL_ROLES

MANUAL_MS: Final = MappingProxyType(
    {
        "approve": 1_800_000,
        "attest": 600_000,
        "boot": 600_000,
        "fence": 1_200_000,
        "power": 120_000,
        "promote": 1_800_000,
        "reprotect": 3_600_000,
        "shed": 600_000,
        "shift": 900_000,
        "start": 1_200_000,
        "stop": 600_000,
        "verify": 300_000,
    }
)
"""Least duration of a step done by hand. Assumed; that 32,000 servers were booted by hand is published."""

_FLAWED_INGRESS_PERCENT: Final = {"anyang": 30, "bundang": 15, "gasan": 25, "pangyo": 90}


ALSO_FILLS: Final = MappingProxyType(
    {
        "dhcp": ("boot-control",),
        "images": ("image-registry",),
        "licences": ("inventory",),
        "management-network": ("bastion",),
        "unseal": ("key-management",),
    }
)
"""Roles of a cold start that services fill beside their own work. Assumed."""

MARGIN_PERMILLE: Final = 50
"""Mended, a twentieth of every budget of power stays free. Assumed."""


def tools(blueprints: tuple[Blueprint, ...]) -> Mapping[str, tuple[str, ...]]:
    """Every role of TOOL_ROLES -> the services that fill it."""
    filled = {role: tuple(b.id for b in blueprints if b.role == role) for role in TOOL_ROLES}
    return MappingProxyType(dict(sorted((filled | ALSO_FILLS).items())))


def limits(servers: int, mended: bool) -> Limits:
    """Company-wide limits; those on servers grow with the company, those on people do not."""
    starts = max(120, 1_200 * servers // FULL_SERVERS)
    if mended:
        return Limits(
            6,
            16,
            8,
            max(40, 200 * servers // FULL_SERVERS),
            4,
            Rate(starts, 60_000),
            40,
            MANUAL_MS,
            MARGIN_PERMILLE,
        )
    return Limits(1, 4, 2, max(10, 40 * servers // FULL_SERVERS), 2, Rate(starts // 2, 60_000), 20, MANUAL_MS)


def sites_and_links(services: tuple[Service, ...], mended: bool) -> tuple[tuple[Site, ...], tuple[Link, ...]]:
    """Ingress and links: mended, each can carry everything; unmended, they were bought for a normal day."""
    mbps = sum(s.traffic.mbps or 0 for s in services) * 5 // 4
    connections = sum(s.traffic.connections or 0 for s in services) * 5 // 4
    sites = [
        Site(
            name,
            people=f"{name} facility team",
            ingress_mbps=mbps * _ingress_percent(name, mended) // 100,
            ingress_connections=connections * _ingress_percent(name, mended) // 100,
        )
        for name in SITE_IDS
    ]
    witness = Site(WITNESS, "witness", "network operations", 1_000, 10_000, 20_000)
    links = [
        Link(pair, mbps * (100 if mended else 20) // 100, connections * (100 if mended else 20) // 100)
        for pair in combinations(SITE_IDS, 2)
    ]
    links += [Link((name, WITNESS), 10_000, 100_000) for name in SITE_IDS]
    return tuple(sorted([*sites, witness], key=lambda s: s.id)), tuple(
        sorted(links, key=lambda link: link.ends)
    )


def _ingress_percent(site: str, mended: bool) -> int:
    return 100 if mended else _FLAWED_INGRESS_PERCENT[site]


def expiring(blueprints: tuple[Blueprint, ...], mended: bool, as_of: date) -> tuple[Expiring, ...]:
    """Certificates, keys, licences and signatures. Unmended, one has expired where we must go."""
    gateways = tuple(b.id for b in blueprints if b.component == "gateway")
    late = {"front-certificate": -12, "zone-signature": 3} if not mended else {}
    items = (
        ("front-certificate", "certificate", "anyang", tuple(sorted(("identity-login", *gateways))), 200),
        ("registry-signing-key", "key", "gasan", ("image-registry",), 420),
        ("storage-licence", "licence", "bundang", ("object-storage",), 330),
        ("vpn-authority", "certificate", "anyang", ("vpn-gateway",), 380),
        ("zone-signature", "dnssec", "gasan", ("dns-control",), 180),
    )
    return tuple(
        Expiring(name, kind, as_of + timedelta(days=late.get(name, days)), at, used_by)
        for name, kind, at, used_by, days in items
    )


def automations(blueprints: tuple[Blueprint, ...], mended: bool) -> tuple[Automation, ...]:
    """What would undo a step. Mended, all of it can be paused."""
    fronts = tuple(b.id for b in blueprints if b.component in ("front", "gateway") and b.rank < 3)
    infrastructure = tuple(b.id for b in blueprints if b.component == "infra")
    return (
        Automation("desired-state", "gitops", ("shed", "start"), fronts, mended),
        Automation("host-convergence", "configuration-management", ("stop",), infrastructure, True),
    )


def rehearsals(
    halls: tuple[Hall, ...], groups: tuple[SharedFate, ...], mended: bool, as_of: date
) -> tuple[Rehearsal, ...]:
    """Mended, every site, hall and group was lost on purpose since the last change. Unmended, one hall once.

    That the loss of a whole site had never been rehearsed is published.
    """
    if not mended:
        return (Rehearsal("anyang/hall-1", as_of - timedelta(days=690), "tabletop"),)
    live = [(name, "live") for name in (*SITE_IDS, WITNESS, *(hall.id for hall in halls))]
    simulated = [(group.id, "simulation") for group in groups]
    return tuple(
        Rehearsal(name, as_of - timedelta(days=4 if name == LOST_SITE else 14), kind)
        for name, kind in sorted(live + simulated)
    )
