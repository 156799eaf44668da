"""Builds the example company, flawed as in October 2022 or fixed, and describes it in a few counts.

The source of each number is a fact by path, `published: ...` or `assumed: ...`. One fact per entry covers
everything below it, so the list stays readable at any scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from itertools import combinations
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from evac.estate.examples.company import Blueprint, catalogue, service_target
from evac.estate.examples.grounds import (
    FULL_SERVERS,
    LOST_SITE,
    SITE_IDS,
    WITNESS,
    boot_servers,
    classes,
    fleet_of,
    groups,
    lay_out,
    stand_up,
    with_budgets,
)
from evac.estate.examples.placing import Wanted, place
from evac.estate.examples.services import (
    Kit,
    Needs,
    add_flaws,
    draw_needs,
    draw_stores,
    recovery_groups,
    services,
    spread_rules,
)
from evac.estate.examples.sizes import Sizes, draw_sizes, site_counts
from evac.model.errors import InvalidInput
from evac.model.estate import (
    Automation,
    Estate,
    Expiring,
    Fact,
    Hall,
    Limits,
    Link,
    Rate,
    Rehearsal,
    Service,
    SharedFate,
    Site,
)
from evac.model.fleet import ON_SERVER, SERVER_STATES, SERVING, IntColumn
from evac.model.step_id import TOOL_ROLES


def describe(estate: Estate) -> tuple[str, ...]:
    """Lines of counts: sites and fault domains, servers by state, services, replicas, stores, tools."""
    domains = sum(map(len, (estate.sites, estate.halls, estate.feeds, estate.racks, estate.groups)))
    families = {service.family for service in estate.services}
    counted = (
        (len(estate.sites), "sites"),
        (len(estate.halls), "halls"),
        (len(estate.feeds), "feeds"),
        (len(estate.racks), "racks"),
        (len(estate.groups), "shared fates"),
    )
    sites, witnesses = _sites_of(estate, "full"), _sites_of(estate, "witness")
    replicas, needs = int(estate.replicas.count.sum()), sum(len(service.needs) for service in estate.services)
    holds = [{m.at.split("/")[0] for m in store.members if m.mode != "none"} for store in estate.stores]
    inside = sum(len(at) == 1 for at in holds)
    return (
        f"{estate.name}: {len(estate.fleet):,} servers at {sites} sites; sites that only vote: {witnesses}",
        *_site_lines(estate),
        f"{domains:,} fault domains: " + ", ".join(f"{count:,} {word}" for count, word in counted),
        f"{len(estate.services):,} services in {len(families)} families, {replicas:,} replicas,"
        f" {needs:,} dependencies",
        f"{len(estate.stores):,} stores, {inside:,} of them with no copy outside one site",
        f"{_single_site(estate):,} services run at one site only",
        f"{len(estate.tools)} recovery tools named, {len(estate.rehearsals)} losses rehearsed",
    )


def _sites_of(estate: Estate, role: str) -> int:
    return sum(site.role == role for site in estate.sites)


def _site_lines(estate: Estate) -> list[str]:
    lines = []
    for index, site in enumerate(estate.sites):
        states = np.bincount(estate.fleet.state[estate.fleet.site == index], minlength=len(SERVER_STATES))
        if states.sum():
            parts = ", ".join(
                f"{count:,} {word}" for count, word in zip(states, SERVER_STATES, strict=True) if count
            )
            lines.append(f"  {site.id}: {int(states.sum()):,} servers ({parts})")
    return lines


def _single_site(estate: Estate) -> int:
    bound = estate.replicas.kind == ON_SERVER
    pairs = np.unique(
        np.stack((estate.replicas.service[bound], estate.fleet.site[estate.replicas.target[bound]])), axis=1
    )
    return int((np.bincount(pairs[0]) == 1).sum())


_PRESS: Final = "published: reports on the Kakao outage of 15 October 2022"
_CURE: Final = "assumed: the cure"
_ONE_BY_ONE: Final = {
    "approval": "assumed",
    "detection": "assumed",
    "limits": (
        "assumed; that servers had to be booted by hand is published, how long it takes per server is not"
    ),
    "racks": "assumed: at most 40 servers in a rack, one class each",
    "replicas": "assumed: 200,000 per 90,000 servers",
}
_CHAT_PEOPLE: Final = "services/messenger-chat-front/people"


def facts(
    estate: Estate, blueprints: tuple[Blueprint, ...], mended: bool, observed: date
) -> tuple[Fact, ...]:
    """Facts for every entry of the estate, sorted by path; `observed` is the date they bear."""
    found = dict(_ONE_BY_ONE)
    found["servers"] = _server_source(len(estate.fleet), mended)
    for section, ids, source in _sections(estate, mended):
        found |= {f"{section}/{name}": source for name in ids}
    found |= {f"tools/{role}": _tool_source(role, mended) for role in estate.tools}
    found |= {f"services/{b.id}": _service_source(b) for b in blueprints}
    lost = "32,000 servers" if len(estate.fleet) == FULL_SERVERS else "32,000 servers, scaled here"
    found[f"sites/{LOST_SITE}"] = f"{_PRESS}: the site that was lost, {lost}; its budgets are assumed"
    if any(b.id == "messenger-chat-front" for b in blueprints):
        found[_CHAT_PEOPLE] = "published: about 47 million users of the messenger"
    return tuple(Fact(path, source, observed) for path, source in sorted(found.items()))


def _sections(estate: Estate, mended: bool) -> tuple[tuple[str, Iterable[object], str], ...]:
    rehearsed = _CURE if mended else f"{_PRESS}: the loss of a whole site had never been rehearsed"
    stored = (
        _CURE
        if mended
        else "assumed: drawn at random; reports say that some data had no copy elsewhere, but not which data"
    )
    return (
        ("automations", _ids(estate.automations), "assumed"),
        ("boot_servers", _ids(estate.boot_servers), "assumed: one per hall, slots in proportion to servers"),
        ("classes", _ids(estate.classes), "assumed: typical machines of their kind"),
        ("expiring", _ids(estate.expiring), "assumed"),
        ("feeds", _ids(estate.feeds), "assumed: two per row of racks, one rack in twenty on a single feed"),
        ("groups", _ids(estate.groups), "assumed; that the fire began among the batteries is published"),
        ("halls", _ids(estate.halls), "assumed: four per site"),
        ("links", range(len(estate.links)), "assumed"),
        ("recovery_groups", _ids(estate.recovery_groups), "assumed"),
        ("rehearsals", range(len(estate.rehearsals)), rehearsed),
        ("sites", _ids(estate.sites), "assumed: name and size; that there were four sites is published"),
        ("stores", _ids(estate.stores), stored),
    )


def _ids(entries: Iterable[object]) -> list[str]:
    return [str(getattr(entry, "id")) for entry in entries]  # noqa: B009


def _server_source(servers: int, mended: bool) -> str:
    text = f"assumed: {servers:,} in all; Pangyo holds 32,000 (published) of every 90,000 (assumed)"
    if mended:
        return text
    return text + "; published: spare capacity elsewhere was too small, and people booted Pangyo by hand"


def _tool_source(role: str, mended: bool) -> str:
    if mended:
        return _CURE
    if role == "deploy":
        return f"{_PRESS}: the system that redistributes servers was redundant only within the lost building"
    if role == "evac":
        return "assumed: this program did not exist then"
    if role == "time":
        return "assumed"
    return f"{_PRESS}: work and operations tools had no copy elsewhere; the list of tools is assumed"


def _service_source(blueprint: Blueprint) -> str:
    part = blueprint.component
    return (
        f"assumed: {part} of {blueprint.family}; replicas and demand drawn (lognormal), people by Zipf rank"
    )


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
"""Minimum duration of a manual step. Assumed; that 32,000 servers were booted by hand is published."""

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
"""Roles of a cold start that services fill next to their own work. Assumed."""

MARGIN_PERMILLE: Final = 50
"""When fixed, a twentieth of every power budget stays free. Assumed."""


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
    """Ingress and links. When fixed, each can carry everything; otherwise they are sized for a normal day."""
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
    """Certificates, keys, licences and signatures. In the flawed company, one that recovery needs has
    expired.
    """
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
    """Automation that would undo a step. When fixed, all of it can be paused."""
    fronts = tuple(b.id for b in blueprints if b.component in ("front", "gateway") and b.rank < 3)
    infrastructure = tuple(b.id for b in blueprints if b.component == "infra")
    return (
        Automation("desired-state", "gitops", ("shed", "start"), fronts, mended),
        Automation("host-convergence", "configuration-management", ("stop",), infrastructure, True),
    )


def rehearsals(
    halls: tuple[Hall, ...], groups: tuple[SharedFate, ...], mended: bool, as_of: date
) -> tuple[Rehearsal, ...]:
    """When fixed, every site, hall and group was lost on purpose since the last change; otherwise one hall,
    once.

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


LEAST_SERVERS: Final = 1_000
MOST_SERVERS: Final = 1_000_000
DEFAULT_AS_OF: Final = date(2026, 11, 1)
DEFAULT_SEED: Final = 20_221_015


def pangyo(
    *,
    servers: int = FULL_SERVERS,
    seed: int = DEFAULT_SEED,
    mended: bool = False,
    as_of: date = DEFAULT_AS_OF,
) -> Estate:
    """A company like the one of October 2022, or the same company after the fixes.

    Same arguments, same estate. `servers`: 1,000 to 1,000,000, of which Pangyo has 32 in 90;
    services, their sizes and the servers are the same in both companies. Raises InvalidInput
    for a size out of range.
    """
    if not LEAST_SERVERS <= servers <= MOST_SERVERS:
        raise InvalidInput(
            "example-size",
            f"the example has no company of {servers:,} servers",
            f"ask for {LEAST_SERVERS:,} to {MOST_SERVERS:,} servers",
        )
    ground = lay_out(servers)
    machines = stand_up(ground)
    blueprints = catalogue(service_target(servers))
    sizes = draw_sizes(blueprints, machines, _draw(seed, 1))
    counts = site_counts(blueprints, sizes, machines, mended, _draw(seed, 2))
    needs = _needs(blueprints, mended, seed)
    # Three stores with heavy disk use that must not share a server.
    heavy = [row for row, b in enumerate(blueprints) if b.component == "data" and b.rank == 0]
    conflicts = frozenset(heavy[:3])
    huddled = frozenset() if mended else _huddled(blueprints, sizes, counts)
    spread = spread_rules(blueprints, machines, mended, huddled)
    replicas = place(ground, machines, Wanted(blueprints, sizes, counts, spread, conflicts, huddled))
    # Spare and reserve servers that had to take replicas are serving.
    state = machines.state.copy()
    state[replicas.target] = SERVING
    machines = replace(machines, state=state)
    found = services(blueprints, sizes, needs, Kit(mended, as_of, spread, conflicts), _draw(seed, 4))
    stores = draw_stores(blueprints, counts, mended, as_of, _draw(seed, 5))
    fleet = fleet_of(ground, machines, mended)
    bare_sites, links = sites_and_links(found, mended)
    grounded = with_budgets(ground, fleet, bare_sites, mended)
    fates = groups(mended)
    estate = Estate(
        name="pangyo-mended" if mended else "pangyo",
        as_of=as_of,
        changed=as_of - timedelta(days=31),
        detection_ms=60_000 if mended else 600_000,
        approval_ms=300_000 if mended else 1_800_000,
        sites=grounded.sites,
        halls=grounded.halls,
        feeds=grounded.feeds,
        racks=grounded.racks,
        groups=fates,
        classes=classes(mended),
        boot_servers=boot_servers(servers),
        links=links,
        services=found,
        stores=stores,
        recovery_groups=recovery_groups(stores),
        tools=tools(blueprints),
        limits=limits(servers, mended),
        expiring=expiring(blueprints, mended, as_of),
        automations=automations(blueprints, mended),
        rehearsals=rehearsals(grounded.halls, fates, mended, as_of),
        fleet=fleet,
        replicas=replicas,
    )
    return replace(estate, facts=facts(estate, blueprints, mended, as_of - timedelta(days=30)))


def _draw(seed: int, part: int) -> Generator:
    """A random stream per part, so that fixing one part leaves the draws of the others unchanged."""
    return Generator(PCG64(SeedSequence([seed, part])))


def _needs(blueprints: tuple[Blueprint, ...], mended: bool, seed: int) -> Needs:
    needs = draw_needs(blueprints, _draw(seed, 3))
    if not mended:
        add_flaws(needs, blueprints, _draw(seed, 6))
    return needs


def _huddled(blueprints: tuple[Blueprint, ...], sizes: Sizes, counts: IntColumn) -> frozenset[int]:
    """A flaw: one in four small services that run at one site only also share a single rack."""
    rows = [
        row
        for row, b in enumerate(blueprints)
        if b.level >= 2 and int(sizes.replicas[row]) <= 16 and int((counts[row] > 0).sum()) == 1
    ]
    return frozenset(rows[::4])
