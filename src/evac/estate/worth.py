"""How many verdicts depend on facts that no one stated.

A verdict is what the audit says of one service and the loss of one site. A missing fact counts for it if the
loss affects the service, directly or through what it needs, and the fact is about something on the way. Reads
the Estate only: nothing is audited, so the numbers are upper bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Literal

from evac.derive.affected import ServiceGraph, components, service_graph
from evac.derive.domains import Topology, may_run_at, site_of, site_of_replicas, topology
from evac.model.errors import UnknownDomain
from evac.model.estate import Estate, Store
from evac.model.fleet import np
from evac.model.records import dataclass

Reach = Literal["service", "users", "store", "site", "pool", "links", "servers", "none"]
"""What a missing fact is about, and so which verdicts depend on it.

`service`: those of a service and of all that need it; `users`: those of a service only; `store`: those of
all that need the store; `site`, `pool`: those of services that may be moved there; `links`: those of
services that call another site; `servers`: all, in proportion to the servers; `none`: no verdict on the
loss of a site.
"""

_Bits = list[int]
"""One number for each service; bit n stands for the loss of site n."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Missing facts of one kind: of what, by their ids; of `servers`, how many of how many.

    step: 0 if a verdict needs them first, as where a service runs; 1 if next, as what it needs; 2 for others.
    """

    reach: Reach
    names: Collection[str]
    count: int
    of: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """What all kinds of facts share. `own`: rows of the services that are judged."""

    estate: Estate
    top: Topology
    graph: ServiceGraph
    order: tuple[tuple[int, ...], ...]
    full: Mapping[str, int]
    hosts: _Bits
    """The sites where each service runs, as far as this is known."""
    hit: _Bits
    """The losses that affect each service, directly or through what it needs."""
    own: tuple[int, ...]


def verdicts_of(estate: Estate, kinds: Mapping[str, Missing]) -> dict[str, int]:
    """Kind of fact -> how many verdicts depend on the missing facts of this kind, and on none of an earlier
    step: how long a start takes settles nothing while it is unknown where a service runs.
    """
    return worth_of(estate, kinds)[0]


def worth_of(
    estate: Estate, kinds: Mapping[str, Missing]
) -> tuple[dict[str, int], dict[str, frozenset[str]]]:
    """Those numbers, and kind of fact -> the names of services and stores on which at least one of these
    verdicts depends; all names of facts of other things.
    """
    ground = _ground(estate)
    found: dict[str, int] = {}
    names: dict[str, frozenset[str]] = {}
    earlier = [0] * len(estate.services)
    for step in sorted({missing.step for missing in kinds.values()}):
        later, without = list(earlier), _without(ground, earlier)
        for kind, missing in kinds.items():
            if missing.step != step:
                continue
            bits = _bits(ground, missing)
            count = sum((bits[row] & ~earlier[row]).bit_count() for row in ground.own)
            found[kind] = count
            names[kind] = _that_count(ground, missing, earlier, without)
            if missing.reach == "servers":
                found[kind] = count * missing.count // max(1, missing.of)
            else:
                later = list(map(or_, later, bits))
        earlier = later
    return found, names


def _without(ground: _Ground, earlier: _Bits) -> _Bits:
    """The losses for which a service, or one that needs it, has a verdict that depends on no earlier step."""
    everywhere = (1 << len(ground.full)) - 1
    found = [0] * len(earlier)
    for row in ground.own:
        found[row] = everywhere & ~earlier[row]
    for members in reversed(ground.order):
        whole = reduce(or_, (found[row] for row in members), 0)
        for row in members:
            found[row] = whole
            for needed in ground.graph.hard[row]:
                found[needed] |= whole
    return found


def _that_count(ground: _Ground, missing: Missing, earlier: _Bits, without: _Bits) -> frozenset[str]:
    """The names on which a verdict depends that does not depend on an earlier step."""
    services = ground.estate.services
    match missing.reach:
        case "service":
            rows = [row for row in range(len(services)) if ground.hit[row] & without[row]]
        case "users":
            rows = [row for row in ground.own if ground.hit[row] & ~earlier[row]]
        case "store":
            rows = [row for row in range(len(services)) if ground.hit[row] & without[row]]
            families = {family for row in rows for family in ground.graph.families[row]}
            return frozenset(
                one.id for one in ground.estate.stores if one.family in families and one.id in missing.names
            )
        case _:
            return frozenset(missing.names)
    return frozenset(services[row].id for row in rows if services[row].id in missing.names)


def crossed_pairs(estate: Estate) -> tuple[tuple[str, str], ...]:
    """Pairs of sites without a stated bandwidth between which a service calls what does not run at its own
    site, sorted.
    """
    ground = _ground(estate)
    names = list(ground.full)
    found = {pair for row in ground.own for pair in _crossed(ground, row)}
    return tuple(sorted(((names[one], names[other])) for one, other in found))


def _ground(estate: Estate) -> _Ground:
    top = topology(estate)
    graph = service_graph(estate).every
    full = {site.id: n for n, site in enumerate(s for s in estate.sites if s.role == "full")}
    own = tuple(row for row, service in enumerate(estate.services) if not service.external)
    hosts = _hosts(estate, top, full)
    everywhere = (1 << len(full)) - 1
    direct = [0] * len(estate.services)
    for row in own:
        direct[row] = hosts[row] or everywhere
    at = {
        family: reduce(or_, (_store_sites(top, estate.stores[n], full, everywhere) for n in stores), 0)
        for family, stores in graph.family_stores.items()
    }
    for row, families in enumerate(graph.families):
        direct[row] |= reduce(or_, (at.get(family, 0) for family in families), 0)
    order = _order(graph)
    return _Ground(estate, top, graph, order, full, hosts, _spread(graph, order, direct), own)


def _hosts(estate: Estate, top: Topology, full: Mapping[str, int]) -> _Bits:
    bit = np.array([full.get(site.id, -1) for site in estate.sites] or [-1], np.int64)
    found = [reduce(or_, (1 << full[s] for s in one.sites if s in full), 0) for one in estate.services]
    at = site_of_replicas(top)
    known = at >= 0
    keys = np.unique(estate.replicas.service[known].astype(np.int64) * len(bit) + at[known])
    for key in keys.tolist():
        row, site = divmod(key, len(bit))
        found[row] |= 1 << int(bit[site]) if bit[site] >= 0 else 0
    return found


def _store_sites(top: Topology, store: Store, full: Mapping[str, int], everywhere: int) -> int:
    """The sites of the copies of a store; all if it is unknown where a copy is."""
    try:
        sites = {site_of(top, member.at) for member in store.members}
    except UnknownDomain:
        return everywhere
    if not sites or None in sites:
        return everywhere
    return reduce(or_, (1 << full[site] for site in sites if site is not None and site in full), 0)


def _order(graph: ServiceGraph) -> tuple[tuple[int, ...], ...]:
    """Services that need each other, together; what they need comes first."""
    component = components(graph.hard)
    members: list[list[int]] = [[] for _ in range(max(component, default=-1) + 1)]
    for row, number in enumerate(component):
        members[number].append(row)
    return tuple(map(tuple, members))


def _spread(graph: ServiceGraph, order: Iterable[tuple[int, ...]], bits: _Bits) -> _Bits:
    """Adds to each service what holds for all that it needs, directly or through others."""
    found = list(bits)
    for members in order:
        needed = {other for row in members for other in graph.hard[row]}
        whole = reduce(or_, (found[row] for row in needed.union(members)), 0)
        for row in members:
            found[row] = whole
    return found


def _bits(ground: _Ground, missing: Missing) -> _Bits:
    """The verdicts that depend on the missing facts of one kind."""
    names, hit, graph = missing.names, ground.hit, ground.graph
    services = ground.estate.services
    rows = range(len(services))
    match missing.reach:
        case "none":
            return [0 for _ in rows]
        case "servers":
            return hit
        case "users":
            return [hit[row] if services[row].id in names else 0 for row in rows]
        case "service":
            return _spread(
                graph, ground.order, [hit[row] if services[row].id in names else 0 for row in rows]
            )
        case "store":
            families = {store.family for store in ground.estate.stores if store.id in names}
            needed = [hit[row] if not families.isdisjoint(graph.families[row]) else 0 for row in rows]
            return _spread(graph, ground.order, needed)
        case "site":
            return [_moved(ground, row, names) for row in rows]
        case "pool":
            sites = {pool.site for pool in ground.estate.pools if pool.id in names}
            return [_moved(ground, row, sites) for row in rows]
        case "links":
            return [hit[row] if any(True for _ in _crossed(ground, row)) else 0 for row in rows]


def _moved(ground: _Ground, row: int, sites: Collection[str]) -> int:
    """The losses after which a service may be moved to one of these sites."""
    allowed = may_run_at(ground.estate, ground.estate.services[row])
    found = 0
    for site in sites:
        if site in ground.full and (allowed is None or site in allowed):
            found |= ground.hit[row] & ~(1 << ground.full[site])
    return found


def _crossed(ground: _Ground, row: int) -> Iterable[tuple[int, int]]:
    """Pairs of sites between which a service calls others and whose bandwidth is not stated."""
    stated = _stated(ground)
    for other in ground.graph.hard[row]:
        there = ground.hosts[other]
        for here in _sites(ground.hosts[row] & ~there if there else 0):
            for far in _sites(there):
                pair = (min(here, far), max(here, far))
                if pair not in stated:
                    yield pair


def _stated(ground: _Ground) -> frozenset[tuple[int, int]]:
    def work() -> frozenset[tuple[int, int]]:
        return frozenset(
            (min(ends), max(ends))
            for link in ground.estate.links
            if link.bandwidth_mbps is not None and all(end in ground.full for end in link.ends)
            for ends in [[ground.full[end] for end in link.ends]]
        )

    return ground.top.once("pairs of sites with a stated bandwidth", work)


def _sites(bits: int) -> Iterable[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
