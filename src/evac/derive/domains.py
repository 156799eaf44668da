"""Fault domains: which exist, what a path names, and what is lost with them.

The containment tree is site > hall > rack > server. Feeds and shared-fate groups cut across it: a rack is
lost with its hall, with its site, or when every one of its feeds is lost. A provider is a domain of its own:
it contains only the external services that it provides. Data may be at the sites that a service or a store
names, directly or through regions and groups.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import field
from typing import Any, Final, Literal, TypeVar, get_args

from evac.model.errors import UnknownDomain
from evac.model.estate import PROVIDER_PREFIX, Estate, Service, SharedFate
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    ON_POOL,
    ON_SERVER,
    BoolColumn,
    IndexColumn,
    IntColumn,
    Replicas,
    np,
)
from evac.model.records import dataclass
from evac.model.scenario import Scenario

Kept = TypeVar("Kept")
DomainKind = Literal["site", "hall", "feed", "rack", "group", "server", "provider"]
UNKNOWN_MOST: Final = 10
"""Maximum number of unknown domain names in one message."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One thing that fails as a unit. `site` is None for a group across sites, and for a provider."""

    id: str
    kind: DomainKind
    site: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What is lost, as masks over the tuples and columns of the estate.

    sites, halls, feeds, racks, pools: one bool an entry; servers: one bool a row. A pool is lost with its
    site, or with all of its servers; for partial losses see `derive.pools`. external: (S,) services whose
    provider is lost.
    """

    domains: tuple[str, ...]
    sites: BoolColumn
    halls: BoolColumn
    feeds: BoolColumn
    racks: BoolColumn
    pools: BoolColumn
    servers: BoolColumn
    external: BoolColumn


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """The containment tree as index columns, built once for an estate; `once` caches other derived values.

    rack_site, rack_hall (-1 unknown): one index a rack; feed_rows, feed_racks: pairs (feed, rack);
    rack_feed_count: feeds a rack lists; hall_site, feed_site, pool_site: one index an entry; provided:
    provider -> numbers of the services it provides.
    """

    estate: Estate
    site_index: dict[str, int]
    hall_index: dict[str, int]
    feed_index: dict[str, int]
    rack_index: dict[str, int]
    group_index: dict[str, int]
    pool_index: dict[str, int]
    rack_site: IndexColumn
    rack_hall: IndexColumn
    feed_rows: IndexColumn
    feed_racks: IndexColumn
    rack_feed_count: IndexColumn
    hall_site: IndexColumn
    feed_site: IndexColumn
    pool_site: IndexColumn
    provided: dict[str, tuple[int, ...]]
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, name: Hashable, work: Callable[[], Kept]) -> Kept:
        """The result of `work`, which depends only on the estate: computed once. Must not be modified."""
        if name not in self.kept:
            self.kept[name] = work()
        found: Kept = self.kept[name]
        return found


def _index(ids: Iterable[str]) -> dict[str, int]:
    return {name: row for row, name in enumerate(ids)}


def _column(values: Iterable[int]) -> IndexColumn:
    return np.fromiter(values, np.int32)


def topology(estate: Estate) -> Topology:
    """Index columns of the tree; linear in racks."""
    site_index = _index(s.id for s in estate.sites)
    hall_index = _index(h.id for h in estate.halls)
    feed_index = _index(f.id for f in estate.feeds)
    pairs = [(feed_index[f], row) for row, rack in enumerate(estate.racks) for f in rack.feeds]
    return Topology(
        estate=estate,
        site_index=site_index,
        hall_index=hall_index,
        feed_index=feed_index,
        rack_index=_index(r.id for r in estate.racks),
        group_index=_index(g.id for g in estate.groups),
        pool_index=_index(p.id for p in estate.pools),
        rack_site=_column(site_index[r.site] for r in estate.racks),
        rack_hall=_column(hall_index[r.hall] if r.hall else -1 for r in estate.racks),
        feed_rows=_column(f for f, _ in pairs),
        feed_racks=_column(r for _, r in pairs),
        rack_feed_count=_column(len(r.feeds) for r in estate.racks),
        hall_site=_column(site_index[h.site] for h in estate.halls),
        feed_site=_column(site_index[f.site] for f in estate.feeds),
        pool_site=_column(site_index[p.site] for p in estate.pools),
        provided=_provided(estate),
    )


def _provided(estate: Estate) -> dict[str, tuple[int, ...]]:
    """Providers that are described or provide anything, sorted, with the numbers of their services."""
    found: dict[str, tuple[int, ...]] = {provider.id: () for provider in estate.providers}
    for row, service in enumerate(estate.services):
        if service.external:
            found[service.provided_by] = (*found.get(service.provided_by, ()), row)
    return dict(sorted(found.items()))


def domains(estate: Estate) -> tuple[Domain, ...]:
    """Every fault domain above a server: sites, groups, providers, halls, feeds, racks, each sorted by id."""
    return (
        *(Domain(s.id, "site", s.id) for s in estate.sites),
        *(Domain(g.id, "group", _group_site(g)) for g in estate.groups),
        *(Domain(PROVIDER_PREFIX + name, "provider", None) for name in _provided(estate)),
        *(Domain(h.id, "hall", h.site) for h in estate.halls),
        *(Domain(f.id, "feed", f.site) for f in estate.feeds),
        *(Domain(r.id, "rack", r.site) for r in estate.racks),
    )


def _group_site(group: SharedFate) -> str | None:
    sites = {m.split("/", 1)[0] for m in group.members if not m.startswith(PROVIDER_PREFIX)}
    return sites.pop() if len(sites) == 1 else None


def resolve(top: Topology, path: str) -> Domain:
    """The domain a path names: a site, hall, feed, rack, group, provider, or a server by its name.

    Raises UnknownDomain with similar names.
    """
    estate = top.estate
    if path in top.site_index:
        return Domain(path, "site", path)
    if path in top.group_index:
        return Domain(path, "group", _group_site(estate.groups[top.group_index[path]]))
    if path in top.hall_index:
        return Domain(path, "hall", estate.halls[top.hall_index[path]].site)
    if path in top.feed_index:
        return Domain(path, "feed", estate.feeds[top.feed_index[path]].site)
    if path in top.rack_index:
        return Domain(path, "rack", estate.racks[top.rack_index[path]].site)
    if path.startswith(PROVIDER_PREFIX) and path.removeprefix(PROVIDER_PREFIX) in top.provided:
        return Domain(path, "provider", None)
    row = server_row(estate, path)
    if row >= 0:
        return Domain(path, "server", estate.sites[int(estate.fleet.site[row])].id)
    raise UnknownDomain("unknown-domain", f"the estate has no fault domain '{path[:200]}'", _near(top, path))


def resolve_each(top: Topology, paths: Iterable[str]) -> tuple[Domain, ...]:
    """The domains that paths name, without duplicates. Raises UnknownDomain with all unknown paths."""
    found: list[Domain] = []
    unknown: dict[str, UnknownDomain] = {}
    for path in dict.fromkeys(paths):
        try:
            found.append(resolve(top, path))
        except UnknownDomain as error:
            unknown[path] = error
    if len(unknown) == 1:
        raise next(iter(unknown.values()))
    if unknown:
        told = ", ".join(f"'{path[:200]}'" for path in list(unknown)[:UNKNOWN_MOST])
        more = f" and {len(unknown) - UNKNOWN_MOST} more" if len(unknown) > UNKNOWN_MOST else ""
        hints = "; ".join(dict.fromkeys(error.hint for error in list(unknown.values())[:UNKNOWN_MOST]))
        raise UnknownDomain("unknown-domain", f"no fault domains {told}{more} in the estate", hints)
    return tuple(found)


def _near(top: Topology, path: str) -> str:
    known = [
        *top.site_index,
        *top.group_index,
        *(PROVIDER_PREFIX + name for name in top.provided),
        *top.hall_index,
        *top.feed_index,
        *list(top.rack_index)[:2000],
    ]
    near = difflib.get_close_matches(path[:200], known, 3)
    if path in top.provided:
        near = [PROVIDER_PREFIX + path]
    if near:
        return f"did you mean {' or '.join(near)}?"
    sites = ", ".join(list(top.site_index)[:20])
    return f"sites are: {sites}" if sites else "the estate has no sites yet: add one under sites:"


def server_row(estate: Estate, name: str) -> int:
    """Row of a server in the fleet by its name (or a path that ends in it); -1 if there is none."""
    key = np.bytes_(name.rsplit("/", 1)[-1].encode())
    row = int(np.searchsorted(estate.fleet.name, key))
    return row if row < len(estate.fleet) and estate.fleet.name[row] == key else -1


def loss(top: Topology, paths: Iterable[str]) -> Loss:
    """Everything that is lost when the named domains are lost at once.

    Raises UnknownDomain for an unknown path.
    """
    estate = top.estate
    wanted = tuple(sorted(set(paths)))
    resolve_each(top, wanted)
    named: dict[str, set[str]] = {kind: set() for kind in get_args(DomainKind)}
    for path in wanted:
        _collect(top, path, named, frozenset())
    sites = _mask(top.site_index, named["site"])
    halls = _mask(top.hall_index, named["hall"]) | _gather(sites, top.hall_site)
    feeds = _mask(top.feed_index, named["feed"]) | _gather(sites, top.feed_site)
    racks = (
        _mask(top.rack_index, named["rack"]) | _gather(sites, top.rack_site) | _gather(halls, top.rack_hall)
    )
    racks |= racks_without_feed(top, feeds)
    servers = _gather(racks, estate.fleet.rack) | _gather(sites, estate.fleet.site)
    for name in named["server"]:
        servers[server_row(estate, name)] = True
    pools = _gather(sites, top.pool_site) | _pools_without_server(top, servers)
    external = np.zeros(len(estate.services), np.bool_)
    for name in named["provider"]:
        external[list(top.provided[name.removeprefix(PROVIDER_PREFIX)])] = True
    return Loss(wanted, sites, halls, feeds, racks, pools, servers, external)


def lost_now(top: Topology) -> Loss:
    """What is currently lost or left in an observed estate; nothing in a declared one."""
    return top.once("lost now", lambda: loss(top, top.estate.lost))


def lost_with(top: Topology, paths: Iterable[str]) -> Loss:
    """Everything that is lost once the named domains are lost too. Raises UnknownDomain."""
    return loss(top, {*paths, *top.estate.lost})


def lost_in(top: Topology, scenario: Scenario) -> Loss:
    """The subject of a scenario: the domains that come back, or what is lost with its domains and with
    everything already lost. Raises UnknownDomain.
    """
    leaves = scenario.kind in ("lose", "evacuate")
    return lost_with(top, scenario.domains) if leaves else loss(top, scenario.domains)


def _collect(top: Topology, path: str, named: dict[str, set[str]], seen: frozenset[str]) -> None:
    domain = resolve(top, path)
    if domain.kind != "group":
        named[domain.kind].add(path)
        return
    if path in seen:
        return
    for member in top.estate.groups[top.group_index[path]].members:
        _collect(top, member, named, seen | {path})


def _mask(index: dict[str, int], names: set[str]) -> BoolColumn:
    mask = np.zeros(len(index), np.bool_)
    mask[[index[name] for name in names]] = True
    return mask


def _gather(mask: BoolColumn, rows: IndexColumn) -> BoolColumn:
    """mask[rows], False if the row is unknown (-1)."""
    if not len(mask):
        return np.zeros(len(rows), np.bool_)
    return mask[rows] & (rows >= 0)


def _pools_without_server(top: Topology, servers: BoolColumn) -> BoolColumn:
    """(P,) pools whose known servers are all lost, not counting condemned ones."""
    fleet = top.estate.fleet
    mine = (fleet.pool >= 0) & (fleet.state != CONDEMNED)
    had = np.bincount(fleet.pool[mine], minlength=len(top.pool_site))
    gone = np.bincount(fleet.pool[mine & servers], minlength=len(top.pool_site))
    return np.asarray((had > 0) & (gone == had), np.bool_)


def racks_without_feed(top: Topology, feeds: BoolColumn) -> BoolColumn:
    """(racks,) racks whose feeds are all lost."""
    dead = np.bincount(top.feed_racks[feeds[top.feed_rows]], minlength=len(top.rack_feed_count))
    return np.asarray((top.rack_feed_count > 0) & (dead >= top.rack_feed_count), np.bool_)


def is_lost(top: Topology, lost: Loss, at: str) -> bool:
    """Whether something at a domain path or a server name is lost with `lost`.

    Something stated to be in a hall is lost with it; at a site only, with the site only. A group has no
    position. Raises UnknownDomain.
    """
    domain = resolve(top, at)
    masks = {
        "site": (lost.sites, top.site_index),
        "hall": (lost.halls, top.hall_index),
        "feed": (lost.feeds, top.feed_index),
        "rack": (lost.racks, top.rack_index),
    }
    if domain.kind in masks:
        mask, index = masks[domain.kind]
        return bool(mask[index[domain.id]])
    if domain.kind == "server":
        return bool(lost.servers[server_row(top.estate, at)])
    if domain.kind != "provider":
        return False
    provided = list(top.provided[domain.id.removeprefix(PROVIDER_PREFIX)])
    return domain.id in lost.domains or bool(provided and lost.external[provided].all())


def site_of(top: Topology, at: str) -> str | None:
    """The site of a domain path or server name. Raises UnknownDomain."""
    return resolve(top, at).site


def site_of_replicas(top: Topology, replicas: Replicas | None = None) -> IntColumn:
    """(K,) the site of each binding of replicas, by default those of now; -1 if unknown."""
    estate, replicas = top.estate, top.estate.replicas if replicas is None else replicas
    site = np.full(len(replicas), -1, np.int64)
    for kind, lookup in ((ON_SERVER, estate.fleet.site), (ON_POOL, top.pool_site)):
        rows = replicas.kind == kind
        site[rows] = lookup[replicas.target[rows]]
    rows = replicas.kind == AT_SITE
    site[rows] = replicas.target[rows]
    return site


def halls_of_endpoints(top: Topology) -> dict[str, str]:
    """Endpoint -> the hall of what it reaches, if known: as in the files, or for a store the hall of its only
    member at that site.
    """
    estate = top.estate
    if not estate.halls:
        return {}
    members: dict[tuple[str, str], list[str]] = {}
    for store in estate.stores:
        for member in store.members:
            members.setdefault((store.id, site_of(top, member.at) or ""), []).append(member.at)
    found: dict[str, str] = {}
    for end in estate.endpoints:
        places = members.get((end.subject, end.at), [])
        hall = end.hall or (_hall_at(top, places[0]) if len(places) == 1 else None)
        if hall:
            found[end.id] = hall
    return found


def _hall_at(top: Topology, at: str) -> str | None:
    domain = resolve(top, at)
    if domain.kind == "hall":
        return domain.id
    rack = top.rack_index.get(at, -1)
    if domain.kind == "server":
        rack = int(top.estate.fleet.rack[server_row(top.estate, at)])
    return top.estate.racks[rack].hall if rack >= 0 else None


def can_be_lost(top: Topology, domain: str) -> bool:
    """Whether a domain is not within what is already lost."""
    gone = lost_now(top)
    return not gone.domains or not is_within(top, gone, domain)


def stays_lost(marked: Iterable[str], restored: Iterable[str]) -> tuple[str, ...]:
    """Of the domains marked as lost, those that are still lost once some are restored with all inside them,
    as their paths say.
    """
    back = tuple(restored)
    inside = tuple(f"{domain}/" for domain in back)
    return tuple(domain for domain in marked if domain not in back and not domain.startswith(inside))


def lost_around(top: Topology, returning: Iterable[str], left: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Domain that is to return -> the domains with which it, or a part of it, stays lost, for those that do:
    a rack in a lost site, a site with a lost hall, a rack whose feeds are all lost. left: what stays lost.
    Raises UnknownDomain.
    """
    gone = loss(top, left)
    held = [domain for domain in returning if left and _holds(top, gone, domain)]
    alone = {one: loss(top, (one,)) for one in left} if held else {}
    around = {
        domain: tuple(one for one, lost in alone.items() if _holds(top, lost, domain)) for domain in held
    }
    return {domain: others or left for domain, others in around.items()}


def _holds(top: Topology, gone: Loss, domain: str) -> bool:
    """Whether a loss takes a domain, or servers, racks, halls or pools of it."""
    if is_within(top, gone, domain):
        return True
    mine = loss(top, (domain,))
    pairs = (
        (gone.sites, mine.sites),
        (gone.halls, mine.halls),
        (gone.racks, mine.racks),
        (gone.pools, mine.pools),
        (gone.servers, mine.servers),
    )
    return any(bool((one & other).any()) for one, other in pairs)


def is_within(top: Topology, gone: Loss, domain: str) -> bool:
    """Whether a loss takes all of a domain. A group is lost once all its members are."""
    if resolve(top, domain).kind == "group":
        group = top.estate.groups[top.group_index[domain]]
        return all(is_within(top, gone, member) for member in group.members)
    return is_lost(top, gone, domain)


def sites_of(estate: Estate, names: Iterable[str]) -> tuple[str, ...]:
    """The named sites and those in named regions and groups, sorted. Groups may be nested."""
    groups, sites = {group.id: group.members for group in estate.groups}, {site.id for site in estate.sites}
    found, work = set[str](), list(names)
    work += [site.id for site in estate.sites if site.region in work]
    while work:
        name = work.pop()
        if name not in found:
            found.add(name)
            work += groups.get(name, ())
    return tuple(sorted(found & sites))


def may_run_at(estate: Estate, service: Service) -> tuple[str, ...] | None:
    """The sites where a service may run, by `eligible_sites` and by where its data may be; None for all."""
    if service.data_in is None:
        return service.eligible_sites
    found = sites_of(estate, service.data_in)
    return found if service.eligible_sites is None else tuple(s for s in found if s in service.eligible_sites)
