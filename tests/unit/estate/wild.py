"""Estates of any shape that the model allows, for properties that must hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from evac.estate.format.checks import REPLICAS_MAX
from evac.model import estate as m
from evac.model.backup_policy import BackupPolicy, ProofAges
from evac.model.fleet import AT_SITE, BMC_YES, ON_POOL, ON_SERVER, Fleet, NameColumn, Replicas, no_names
from evac.model.step_id import FENCE_RUNGS, TOOL_ROLES
from evac.model.units import QUANTITY_LIMIT
from evac.steps.registry import STATED_KINDS

AMOUNTS = st.one_of(st.none(), st.integers(0, 2_000_000), st.integers(0, QUANTITY_LIMIT))
STATED = st.one_of(st.integers(0, 200_000), st.integers(0, QUANTITY_LIMIT))
DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1))
MAYBE_DAY = st.none() | DAYS
SCHEDULES = st.sampled_from([None, "15 1 * * *", "*/5 * * * *", "0 3 1-7 * SUN"])
FLAGS = st.sampled_from([None, True, False])
SHARES = st.fractions(Fraction(1, 10_000), 1, max_denominator=10_000)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["no", "unknown", "", "2026-01-01", "1e5", "a: b", "# x", "~", "- x", "\u200b\U0001f525\x07\x85"]
    ),
).filter(lambda text: all(not "\ud800" <= char <= "\udfff" for char in text))
IDS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True),
    st.sampled_from(
        [
            "no",
            "on",
            "unknown",
            "null",
            "1",
            "2026-01-01",
            "1e5",
            "0x1f",
            "a:b",
            "x@y",
            "판교",
            "true",
            "1_0",
            "3.5",
        ]
    ),
)
VECTORS = st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
RATES = st.none() | st.builds(
    m.Rate, st.integers(1, 10**6), st.sampled_from([1_000, 60_000, 3_600_000, 86_400_000, 90_000, 7])
)
PERMILLE = st.integers(0, 1_000)
ROWS_MOST, COUNT_MOST = 3, 50
"""Of replicas of one service."""


def _some(draw: Any, names: tuple[str, ...], least: int = 0) -> tuple[str, ...]:
    if not names:
        return ()
    return tuple(sorted(draw(st.sets(st.sampled_from(names), min_size=least, max_size=3))))


def _ids(draw: Any, prefix: str, most: int = 3) -> tuple[str, ...]:
    return tuple(sorted({f"{prefix}{name}" for name in draw(st.sets(IDS, max_size=most))}))


@st.composite
def estates(draw: Any) -> m.Estate:
    """An estate whose names exist, whose tuples are sorted and whose columns fit."""
    sites = _sites(draw)
    names = tuple(site.id for site in sites)
    halls = tuple(
        m.Hall(i, i.split("/")[0], draw(AMOUNTS), draw(AMOUNTS), draw(AMOUNTS), draw(STATED))
        for i in _ids(draw, f"{names[0]}/h-")
    )
    feeds = tuple(
        m.Feed(i, i.split("/")[0], draw(AMOUNTS), draw(AMOUNTS), draw(AMOUNTS), draw(STATED))
        for i in _ids(draw, f"{names[-1]}/f-")
    )
    racks = _racks(draw, names, halls, feeds)
    classes = tuple(_class(draw, i) for i in _ids(draw, "c-"))
    boots = tuple(
        m.BootServer(i, draw(st.sampled_from([None, *names])), draw(AMOUNTS), draw(AMOUNTS), draw(RATES))
        for i in _ids(draw, "b-")
    )
    pools = tuple(
        m.Pool(i, draw(st.sampled_from(names)), draw(VECTORS), draw(PERMILLE), draw(RATES))
        for i in _ids(draw, "p-")
    )
    fleet = _fleet(draw, names, racks, classes, pools, boots)
    services = _services(draw, names, classes)
    domains = (*names, *(h.id for h in halls), *(f.id for f in feeds), *(r.id for r in racks))
    servers = tuple(fleet.server_name(k) for k in range(len(fleet)))
    holding = _holding(sites, domains, fleet)
    stores = tuple(_store(draw, i, (*domains, *servers), holding) for i in _ids(draw, "d-"))
    data_sets = tuple(_data_set(draw, i, domains, services) for i in _ids(draw, "x-"))
    service_ids, store_ids = tuple(s.id for s in services), tuple(s.id for s in stores)
    replicas = _replicas(draw, services, fleet, pools, sites)
    weights = tuple(draw(st.lists(st.integers(0, 1_000), min_size=1, max_size=5)))
    services = tuple(_reckonable(service, max(weights)) for service in services)
    return m.Estate(
        name=draw(TEXTS),
        as_of=draw(MAYBE_DAY),
        changed=draw(MAYBE_DAY),
        horizon_ms=draw(st.integers(1_000, 366 * 86_400_000)),
        detection_ms=draw(STATED),
        approval_ms=draw(STATED),
        tier_weights=weights,
        sites=sites,
        halls=halls,
        feeds=feeds,
        racks=racks,
        groups=tuple(m.SharedFate(i, draw(TEXTS), _some(draw, domains)) for i in _ids(draw, "g-")),
        classes=classes,
        boot_servers=boots,
        pools=pools,
        links=_links(draw, names),
        services=services,
        stores=stores,
        data_sets=data_sets,
        recovery_groups=tuple(
            m.RecoveryGroup(i, _some(draw, store_ids), draw(STATED)) for i in _ids(draw, "r-")
        ),
        tools=MappingProxyType(
            {role: _some(draw, service_ids) for role in sorted(draw(st.sets(st.sampled_from(TOOL_ROLES))))}
        ),
        limits=_limits(draw),
        expiring=_expiring(draw, domains, service_ids),
        automations=_automations(draw, service_ids),
        rehearsals=_rehearsals(draw, domains),
        fleet=fleet,
        replicas=replicas,
    )


def _holding(sites: tuple[m.Site, ...], domains: tuple[str, ...], fleet: Fleet) -> tuple[str, ...]:
    """Domains and servers where data may be: not at sites that only vote."""
    voting = {site.id for site in sites if site.role == "witness"}
    servers = (k for k in range(len(fleet)) if sites[int(fleet.site[k])].id not in voting)
    return (
        *(domain for domain in domains if domain.split("/")[0] not in voting),
        *(fleet.server_name(k) for k in servers),
    )


def _sites(draw: Any) -> tuple[m.Site, ...]:
    return tuple(
        m.Site(
            i,
            draw(st.sampled_from(["full", "witness", "edge"])),
            draw(st.none() | TEXTS),
            draw(AMOUNTS),
            draw(AMOUNTS),
            draw(AMOUNTS),
            phone=draw(st.none() | TEXTS),
        )
        for i in sorted(draw(st.sets(IDS, min_size=1, max_size=4)))
    )


def _limits(draw: Any) -> m.Limits:
    amounts = [draw(AMOUNTS) for _ in range(5)]
    manual = {kind: draw(STATED) for kind in sorted(draw(st.sets(st.sampled_from(STATED_KINDS))))}
    rates, last, margin = draw(RATES), draw(AMOUNTS), draw(PERMILLE)
    return m.Limits(*amounts, rates, last, MappingProxyType(manual), margin)


def _expiring(draw: Any, domains: tuple[str, ...], services: tuple[str, ...]) -> tuple[m.Expiring, ...]:
    places = st.sampled_from([None, *domains])
    return tuple(
        m.Expiring(i, draw(TEXTS), draw(MAYBE_DAY), draw(places), _some(draw, services))
        for i in _ids(draw, "e-")
    )


def _automations(draw: Any, services: tuple[str, ...]) -> tuple[m.Automation, ...]:
    return tuple(
        m.Automation(i, draw(TEXTS), _some(draw, STATED_KINDS), _some(draw, services), draw(FLAGS))
        for i in _ids(draw, "u-")
    )


def _rehearsals(draw: Any, domains: tuple[str, ...]) -> tuple[m.Rehearsal, ...]:
    count = draw(st.integers(0, 2))
    found = (m.Rehearsal(draw(st.sampled_from(domains)), draw(DAYS), "live") for _ in range(count))
    return tuple(sorted(found, key=lambda r: (r.domain, r.done.isoformat())))


def _racks(
    draw: Any, sites: tuple[str, ...], halls: tuple[m.Hall, ...], feeds: tuple[m.Feed, ...]
) -> tuple[m.Rack, ...]:
    prefix = draw(st.sampled_from([sites[0], *(hall.id for hall in halls)]))
    feed_ids = tuple(feed.id for feed in feeds)
    hall_ids = (None, *(hall.id for hall in halls))
    many = draw(st.booleans())
    ids = tuple(f"{prefix}/r-{k:03d}" for k in range(60)) if many else _ids(draw, f"{prefix}/r-")
    return tuple(
        m.Rack(i, i.split("/")[0], draw(st.sampled_from(hall_ids)), _some(draw, feed_ids), draw(AMOUNTS))
        for i in ids
    )


def _class(draw: Any, name: str) -> m.ServerClass:
    return m.ServerClass(
        name,
        draw(VECTORS),
        draw(AMOUNTS),
        draw(AMOUNTS),
        draw(st.none() | PERMILLE),
        draw(AMOUNTS),
        draw(STATED),
        draw(AMOUNTS),
        draw(STATED),
        draw(STATED),
        draw(st.sampled_from([None, "on", "dark", "last"])),
    )


def _links(draw: Any, sites: tuple[str, ...]) -> tuple[m.Link, ...]:
    pairs = [(a, b) for a in sites for b in sites if a < b and draw(st.booleans())]
    return tuple(m.Link(pair, draw(AMOUNTS), draw(AMOUNTS)) for pair in pairs)


def _services(draw: Any, sites: tuple[str, ...], classes: tuple[m.ServerClass, ...]) -> tuple[m.Service, ...]:
    ids = _ids(draw, "s-", 5)
    class_ids = tuple(c.id for c in classes)
    found = []
    for name in ids:
        others = [i for i in ids if i != name]
        targets = draw(st.lists(st.sampled_from(others), max_size=3, unique=True)) if others else []
        needs = tuple(
            m.Dependency(t, "service", draw(st.booleans()), draw(st.sampled_from(["start", "serve"])))
            for t in targets
        )
        spread = m.Spread(
            draw(st.integers(1, 9)),
            draw(st.none() | SHARES),
            draw(st.none() | SHARES),
            draw(st.none() | SHARES),
        )
        traffic = m.Traffic(
            draw(st.sampled_from([None, "dns", "anycast", "load_balancer", "none"])),
            draw(AMOUNTS),
            draw(STATED),
            draw(STATED),
            draw(AMOUNTS),
            draw(AMOUNTS),
        )
        movable = draw(st.booleans())  # such a service runs twice for a while
        found.append(
            m.Service(
                name,
                draw(TEXTS),
                draw(st.none() | TEXTS),
                draw(st.none() | st.integers(0, 100)),
                draw(AMOUNTS),
                draw(AMOUNTS),
                draw(FLAGS),
                draw(AMOUNTS),
                draw(AMOUNTS),
                draw(VECTORS),
                draw(st.none() | st.integers(0, REPLICAS_MAX)),
                draw(SHARES),
                _some(draw, sites),
                spread,
                draw(st.none() | TEXTS),
                draw(st.none() | st.just(_some(draw, class_ids))),
                draw(st.none() | st.just(_some(draw, sites))),
                draw(FLAGS),
                movable,
                draw(MAYBE_DAY),
                not movable and draw(st.booleans()),
                needs,
                draw(AMOUNTS),
                draw(STATED),
                draw(STATED),
                draw(STATED),
                traffic,
                draw(st.booleans()),
                draw(st.none() | TEXTS),
                owner_phone=draw(st.none() | TEXTS),
            )
        )
    return tuple(found)


def _reckonable(service: m.Service, weight: int) -> m.Service:
    """With amounts that together stay within what is counted in; beyond it an estate is refused."""
    count = max(service.replicas or 0, ROWS_MOST * COUNT_MOST)
    demand = tuple(
        None if amount is None else min(amount, QUANTITY_LIMIT // count) for amount in service.demand
    )
    people = None if service.people is None else min(service.people, QUANTITY_LIMIT // max(weight, 1))
    return replace(service, demand=demand, people=people)


def _store(draw: Any, name: str, places: tuple[str, ...], holding: tuple[str, ...]) -> m.Store:
    """places: for its backups; holding: those where it may have a member with data, so no witness sites."""
    spots = draw(st.lists(st.sampled_from(holding), max_size=3)) if holding else []
    modes = ["primary", "sync", "async", "none"]
    members = tuple(
        m.StoreMember(at, modes[min(k, 3)], draw(AMOUNTS), draw(st.integers(0, 9)))
        for k, at in enumerate(spots)
    )
    backups = tuple(
        m.Backup(
            at,
            draw(AMOUNTS),
            draw(AMOUNTS),
            draw(AMOUNTS),
            draw(MAYBE_DAY),
            draw(st.none() | st.integers(0, 5)),
            system=draw(st.none() | TEXTS),
            deletable=draw(FLAGS),
            schedule=draw(SCHEDULES),
            credentials_changed=draw(MAYBE_DAY),
        )
        for at in draw(st.lists(st.sampled_from(places), max_size=2, unique=True))
    )
    return m.Store(
        name,
        draw(st.sampled_from([name, "family"])),
        draw(TEXTS),
        members,
        backups,
        draw(st.booleans()),
        draw(FLAGS),
        draw(AMOUNTS),
        draw(STATED),
        draw(AMOUNTS),
        draw(st.sampled_from(FENCE_RUNGS)),
        backup_policy=_policy(draw, places),
    )


def _data_set(draw: Any, name: str, places: tuple[str, ...], services: tuple[m.Service, ...]) -> m.DataSet:
    backups = tuple(
        m.Backup(at, age_ms=draw(AMOUNTS)) for at in draw(st.sets(st.sampled_from(places), max_size=2))
    )
    at = draw(st.sampled_from([None, *places]))
    used_by = _some(draw, tuple(service.id for service in services))
    return m.DataSet(name, draw(TEXTS), at, used_by, draw(AMOUNTS), backups, _policy(draw, places))


def _policy(draw: Any, places: tuple[str, ...]) -> BackupPolicy | None:
    if draw(st.booleans()):
        return None
    copies = draw(st.integers(1, 9))
    return BackupPolicy(
        copies,
        draw(st.integers(1, copies)),
        draw(st.integers(0, copies - 1)),
        draw(st.integers(0, copies - 1)),
        draw(AMOUNTS),
        draw(AMOUNTS),
        draw(st.integers(0, 5)),
        draw(STATED),
        draw(SCHEDULES),
        draw(SCHEDULES),
        draw(st.integers(1, 30)),
        draw(SCHEDULES),
        keys_at=tuple(sorted(draw(st.sets(st.sampled_from(places), max_size=2)))),
        waived=draw(st.none() | TEXTS),
        keep_count=draw(st.none() | st.integers(1, 100_000)),
        proof_ages=ProofAges(*(draw(AMOUNTS) for _ in range(5))),
    )


def _fleet(
    draw: Any,
    sites: tuple[str, ...],
    racks: tuple[m.Rack, ...],
    classes: tuple[m.ServerClass, ...],
    pools: tuple[m.Pool, ...],
    boots: tuple[m.BootServer, ...],
) -> Fleet:
    names = sorted({f"v-{name}" for name in draw(st.sets(IDS, max_size=6))})
    names.sort(key=str.encode)
    count = len(names)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))

    def index(size: int) -> Any:
        return random.integers(-1, size, count).astype(np.int32)

    rack, pool = index(len(racks)), index(len(pools))
    site = random.integers(0, len(sites), count).astype(np.int32)
    for row in range(count):
        if rack[row] >= 0:
            site[row] = sites.index(racks[rack[row]].site)
        if pool[row] >= 0 and pools[pool[row]].site != sites[site[row]]:
            pool[row] = -1
    known = random.integers(0, 2, (count, 4)).astype(np.bool_)
    watts_known = random.integers(0, 2, count).astype(np.bool_)
    width = max((len(name.encode()) for name in names), default=1)
    address = _known(random, [f"10.0.{row}.7:8443" if row % 2 else f"[fd00::{row}]" for row in range(count)])
    return Fleet(
        name=np.array([name.encode() for name in names], f"S{width}"),
        site=site,
        rack=rack,
        server_class=index(len(classes)),
        pool=pool,
        boot_server=index(len(boots)),
        state=random.integers(0, 4, count).astype(np.uint8),
        capacity=np.where(known, random.integers(0, 10**6, (count, 4)), 0).astype(np.int64),
        capacity_known=known,
        watts=np.where(watts_known, random.integers(0, 900, count), 0).astype(np.int64),
        watts_known=watts_known,
        bmc=np.where(address != b"", BMC_YES, random.integers(0, 3, count)).astype(np.uint8),
        bmc_address=address,
        serial=_known(random, [f"SN {row}/{row * row}" for row in range(count)]),
        position=_known(random, [f"u{row}" for row in range(count)]),
    )


def _known(random: np.random.Generator, names: list[str]) -> NameColumn:
    """The names, some of them unknown."""
    if not names or random.integers(0, 3) == 0:
        return no_names(len(names))
    kept = random.integers(0, 2, len(names)).astype(np.bool_)
    kept[0] = True
    column = np.where(kept, np.array([name.encode() for name in names]), b"")
    return column.astype(f"S{max(len(name) for name in column.tolist())}")


def _replicas(
    draw: Any,
    services: tuple[m.Service, ...],
    fleet: Fleet,
    pools: tuple[m.Pool, ...],
    sites: tuple[m.Site, ...],
) -> Replicas:
    targets = [(AT_SITE, k) for k in range(len(sites))] + [(ON_POOL, k) for k in range(len(pools))]
    if draw(st.booleans()):
        targets += [(ON_SERVER, k) for k in range(len(fleet))]
    rows = sorted(
        {
            (s, *draw(st.sampled_from(targets)))
            for s in range(len(services))
            for _ in range(draw(st.integers(0, ROWS_MOST)))
        }
    )
    counts = [draw(st.integers(1, COUNT_MOST)) for _ in rows]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Replicas(
        columns[:, 0].astype(np.int32),
        columns[:, 1].astype(np.uint8),
        columns[:, 2].astype(np.int32),
        np.array(counts, np.int64),
    )
