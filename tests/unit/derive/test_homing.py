"""What a failback starts at home and stops elsewhere, counted again one replica after the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.random_estates import strange_estate
from evac.derive.domains import Loss, Topology, lost_in, site_of_replicas, topology
from evac.derive.homing import place_name, way_home
from evac.derive.pools import replicas_lost, replicas_running
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, Replicas
from evac.model.scenario import Scenario

Place = tuple[int, int, int]
"""Service, kind and target."""


def moved(seed: int) -> Estate:
    """An estate where some replicas run elsewhere, in addition or not at all, and users of some are sent
    elsewhere.
    """
    estate, draw = strange_estate(seed), np.random.default_rng(seed)
    counts = Counter[Place]()
    targets = {ON_SERVER: len(estate.fleet), ON_POOL: len(estate.pools), AT_SITE: len(estate.sites)}
    kinds = [kind for kind, many in targets.items() if many]
    old = estate.replicas
    rows = zip(old.service.tolist(), old.kind.tolist(), old.target.tolist(), old.count.tolist(), strict=True)
    for service, kind, target, count in rows:
        for _ in range(count + int(draw.integers(0, 2))):
            if (chance := draw.random()) < 0.4:
                other = int(draw.choice(kinds))
                counts[service, other, int(draw.integers(targets[other]))] += 1
            elif chance < 0.9:
                counts[service, kind, target] += 1
    places = sorted(counts)
    columns = np.array(places, np.int64).reshape(-1, 3).T
    now = Replicas(
        columns[0].astype(np.int32),
        columns[1].astype(np.uint8),
        columns[2].astype(np.int32),
        np.array([counts[place] for place in places], np.int64),
    )
    sites = [site.id for site in estate.sites]
    names = [one.id for one in estate.services]
    some = [name for name in names if draw.random() < 0.4]
    sent = {name: (sites[int(draw.integers(len(sites)))],) for name in names if draw.random() < 0.3}
    return replace(estate, home=old, replicas=now, surplus=tuple(some), traffic=sent)


def keys(top: Topology, replicas: Replicas, by_site: bool = False) -> list[Place]:
    found = list[Place]()
    sites = site_of_replicas(top, replicas).tolist()
    rows = zip(replicas.service.tolist(), replicas.kind.tolist(), replicas.target.tolist(), strict=True)
    for (service, kind, target), site in zip(rows, sites, strict=True):
        pool = int(top.estate.fleet.pool[target]) if kind == ON_SERVER else -1
        own = (service, ON_POOL, pool) if pool >= 0 else (service, kind, target)
        found.append((service, AT_SITE, site) if by_site else own)
    return found


def short_of_home(top: Topology, now: Replicas, home: Replicas) -> dict[int, int]:
    short = Counter[Place]()
    at_home = keys(top, home)
    for key, count in zip(at_home, home.count.tolist(), strict=True):
        short[key] += count
    for key, count in zip(keys(top, now), now.count.tolist(), strict=True):
        short[key] -= count
    found = Counter[int]()
    for key in set(at_home):
        found[key[0]] += max(0, short[key])
    return found


def over_at_home(top: Topology, lost: Loss, now: Replicas, home: Replicas) -> list[int]:
    """Of each row of now, replicas in excess of home's number there, or at its site if nothing returns."""
    back = {top.site_index[site.id] for site in top.estate.sites if lost.sites[top.site_index[site.id]]}
    back |= set(top.estate.fleet.site[lost.servers].tolist()) | set(top.pool_site[lost.pools].tolist())
    declared, wanted = Counter[Place](), Counter[Place]()
    for key, wide, count in zip(keys(top, home), keys(top, home, True), home.count.tolist(), strict=True):
        declared[key] += count
        wanted[wide] += 0 if wide[2] in back else count
    rows = list(zip(keys(top, now), keys(top, now, True), now.count.tolist(), strict=True))
    exact = declared.copy()
    for key, wide, count in rows:
        stays = min(count, exact[key])
        exact[key] -= stays
        wanted[wide] -= stays
    found = list[int]()
    for key, wide, count in rows:
        stays = min(count, declared[key])
        declared[key] -= stays
        more = max(0, min(count - stays, wanted[wide]))
        wanted[wide] -= more
        found.append(count - stays - more)
    return found


@pytest.mark.parametrize("seed", range(80))
def test_a_way_home_is_what_counting_each_replica_gives(seed: int) -> None:
    estate = moved(seed)
    top = topology(estate)
    assert estate.home is not None
    for site in estate.sites:
        lost = lost_in(top, Scenario("failback", (site.id,)))
        found, now = way_home(top, lost), replicas_running(top)
        short = short_of_home(top, now, estate.home)
        belongs, there = (
            np.bincount(some.service, replicas_lost(top, lost, replicas=some), len(estate.services))
            for some in (estate.home, now)
        )
        for row in range(len(estate.services)):
            assert found.missing[row] == min(max(0, belongs[row] - there[row]), short[row])
        over, names = over_at_home(top, lost, now, estate.home), keys(top, now)
        here = replicas_lost(top, lost, replicas=now) > 0
        total, running = (
            np.bincount(some.service, some.count, len(estate.services)) for some in (estate.home, now)
        )
        for one in found.leaving:
            left = max(0, int(running[one.service] + found.missing[one.service] - total[one.service]))
            stops = Counter[str]()
            for row, (service, kind, target) in enumerate(names):
                if service == one.service and not here[row] and (count := min(left, over[row])) > 0:
                    left -= count
                    stops[place_name(top, kind, target)] += count
            assert one.places == tuple(sorted(stops.items())), (seed, site.id)
