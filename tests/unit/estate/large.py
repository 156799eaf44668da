"""A made-up estate of any size, for tests of speed and of round trips; the same one every time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from evac.model.estate import (
    Backup,
    Dependency,
    Estate,
    Feed,
    Hall,
    Limits,
    Link,
    Rack,
    Rate,
    ServerClass,
    Service,
    Site,
    Spread,
    Store,
    StoreMember,
    Traffic,
)
from evac.model.fleet import BMC_YES, ON_SERVER, Fleet, NameColumn, Replicas

SITES = ("anyang", "daejeon", "pangyo", "sejong")


def large_estate(servers: int, replicas: int, services: int, seed: int = 1) -> Estate:
    """`servers` in racks of forty at four sites, `services` with `replicas` bindings on them."""
    random = np.random.default_rng(seed)
    halls = tuple(Hall(f"{site}/h{k}", site, 5_000_000) for site in SITES for k in range(1, 4))
    feeds = tuple(
        Feed(f"{hall.id}/feed-{k}", hall.site, 2_500_000, 3_000_000, 64) for hall in halls for k in ("a", "b")
    )
    racks = _racks(halls, -(-servers // 40))
    return Estate(
        name="large",
        as_of=date(2026, 11, 25),
        sites=tuple(Site(site, ingress_mbps=400_000) for site in SITES),
        halls=halls,
        feeds=feeds,
        racks=racks,
        classes=(
            ServerClass("store", (64_000, 262_144, 40_960, 0), watts=450, boot_ms=480_000),
            ServerClass(
                "web", (32_000, 131_072, 2_048, 0), watts=350, boot_ms=360_000, boot_odds_permille=985
            ),
        ),
        links=(Link(("anyang", "pangyo"), 200_000, 5_000_000),),
        limits=Limits(starts=Rate(3_000, 60_000), manual_ms=MappingProxyType({"start": 1_200_000})),
        services=tuple(_service(row, services) for row in range(services)),
        stores=tuple(_store(row) for row in range(max(1, services // 6))),
        fleet=_fleet(servers, racks, random),
        replicas=_replicas(servers, replicas, services, random),
    )


def _racks(halls: tuple[Hall, ...], count: int) -> tuple[Rack, ...]:
    racks = []
    for row in range(count):
        hall = halls[row % len(halls)]
        racks.append(
            Rack(f"{hall.id}/r{row:05d}", hall.site, hall.id, (f"{hall.id}/feed-a", f"{hall.id}/feed-b"))
        )
    return tuple(sorted(racks, key=lambda rack: rack.id))


def _service(row: int, services: int) -> Service:
    needs = [
        Dependency(f"svc-{other:05d}", "service") for other in sorted({row // 2, row // 3}) if other < row
    ]
    needs.append(Dependency(f"store-{row % max(1, services // 6):05d}", "store"))
    return Service(
        id=f"svc-{row:05d}",
        family=f"family-{row % 12}",
        owner=f"team-{row % 90}",
        tier=row % 4,
        people=1_000 * row,
        degraded_people=100 * row,
        paid=row % 2 == 0,
        rto_ms=1_800_000,
        rpo_ms=0,
        demand=(500, 1_024, 4, 0),
        share=Fraction(3, 5),
        spread=Spread(8, Fraction(1, 10), None, Fraction(2, 3)),
        sheddable=True,
        shed_rehearsed=date(2026, 5, 1),
        needs=tuple(needs),
        start_ms=40_000,
        warm_ms=60_000,
        verify_ms=10_000,
        shed_ms=10_000,
        traffic=Traffic("dns", 60_000, 5_000, 60_000, 8_000, 400_000),
    )


def _store(row: int) -> Store:
    members = (StoreMember("pangyo", "primary"), StoreMember("anyang", "async", 5_000))
    backups = (Backup("sejong", 2_048, 86_400_000, 4_000, date(2026, 10, 1)),)
    return Store(f"store-{row:05d}", f"store-{row:05d}", "postgresql", members, backups, rpo_ms=60_000)


def _fleet(servers: int, racks: tuple[Rack, ...], random: np.random.Generator) -> Fleet:
    rack = (np.arange(servers) // 40).astype(np.int32)
    site_of_rack = np.array([SITES.index(r.site) for r in racks], np.int32)
    kind = random.integers(0, 2, servers).astype(np.int32)
    capacity = np.array([[64_000, 262_144, 40_960, 0], [32_000, 131_072, 2_048, 0]], np.int64)[kind]
    nowhere = np.full(servers, -1, np.int32)
    return Fleet(
        name=np.array([f"srv{row:07d}" for row in range(servers)], "S10"),
        site=site_of_rack[rack],
        rack=rack,
        server_class=kind,
        pool=nowhere,
        boot_server=nowhere,
        state=random.choice(np.array([0, 0, 0, 1, 2], np.uint8), servers),
        capacity=capacity,
        capacity_known=np.ones((servers, 4), np.bool_),
        watts=np.where(kind == 0, 450, 350).astype(np.int64),
        watts_known=np.ones(servers, np.bool_),
        bmc=np.full(servers, BMC_YES, np.uint8),
        bmc_address=_texts(f"10.{k // 62_500}.{k // 250 % 250}.{k % 250 + 1}" for k in range(servers)),
        serial=_texts(f"SN{k:08d}" for k in range(servers)),
        position=_texts(str(k % 40 + 1) for k in range(servers)),
    )


def _texts(texts: Iterable[str]) -> NameColumn:
    return np.array([text.encode() for text in texts])


def _replicas(servers: int, replicas: int, services: int, random: np.random.Generator) -> Replicas:
    keys = np.unique(random.integers(0, services, replicas) * servers + random.integers(0, servers, replicas))
    return Replicas(
        service=(keys // servers).astype(np.int32),
        kind=np.full(len(keys), ON_SERVER, np.uint8),
        target=(keys % servers).astype(np.int32),
        count=random.integers(1, 4, len(keys)).astype(np.int64),
    )
