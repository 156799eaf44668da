"""The effect of a loss on self-scheduling pools, and services for which it is unknown.

A pool loses the share of its servers that a loss takes, and a proportional share of its replicas, rounded
against us, because it is unknown which replica ran on which server. If the servers of a pool are unknown, or
only the site of a replica is known, a loss below the site cannot be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from evac.derive.affected import ServiceGraph, hit_by_dependency, lost_members
from evac.derive.domains import Loss, Topology, is_lost, lost_now, topology
from evac.derive.hidden_power import hidden_power
from evac.derive.in_doubt import in_doubt, may_be_lost, sites_in_part
from evac.derive.stores import is_down, store_is_lost
from evac.derive.tripping import tripped
from evac.model.estate import Estate, Vector
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    DARK,
    ON_POOL,
    ON_SERVER,
    SERVING,
    SPARE,
    BoolColumn,
    CodeColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    Replicas,
    np,
)
from evac.model.reason import PLACEMENT
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.units import RESOURCE_COUNT, RESOURCE_WORDS, UNBOUNDED

_WIDE = 2**31


@dataclass(frozen=True, slots=True)
class PoolShare:
    """The share of a pool that a loss takes: of each resource; of servers if sizes are unknown."""

    of_resource: tuple[Fraction, ...]

    @property
    def worst(self) -> Fraction:
        return max(self.of_resource)

    @property
    def least(self) -> Fraction:
        return min(self.of_resource)


def pool_members(top: Topology) -> Mapping[int, IntColumn]:
    """Pool -> rows of its servers that run something now, for pools that have any: those that are on, and not
    in what is lost or was left.
    """
    return top.once("pool members", lambda: _by_pool(top, _is_on(top) & ~lost_now(top).servers))


def _home_members(top: Topology) -> Mapping[int, IntColumn]:
    """Pool -> rows of its servers that run something now or did before they were lost or left."""

    def work() -> Mapping[int, IntColumn]:
        return _by_pool(top, _is_on(top) | (lost_now(top).servers & (top.estate.fleet.state != CONDEMNED)))

    return top.once("home members", work)


def _is_on(top: Topology) -> BoolColumn:
    return np.isin(top.estate.fleet.state, (SERVING, SPARE))


def _by_pool(top: Topology, servers: BoolColumn) -> dict[int, IntColumn]:
    """Pool -> rows of those of some servers that it owns."""
    pool = top.estate.fleet.pool
    rows = np.flatnonzero(servers & (pool >= 0))
    return {int(one): rows[pool[rows] == one] for one in np.unique(pool[rows])}


def member_sizes(top: Topology, members: IntColumn) -> IntColumn:
    """(members, columns) the weight of each server of a pool: in every resource for which all sizes are known
    and some are not zero; equal weights if there is no such resource.
    """
    fleet = top.estate.fleet
    known = fleet.capacity_known[members].all(axis=0) & fleet.capacity[members].any(axis=0)
    columns = [fleet.capacity[members, resource] for resource in np.flatnonzero(known)]
    return np.stack(columns or [np.ones(len(members), np.int64)], axis=1)


def pool_shares(top: Topology, lost: Loss) -> dict[int, PoolShare]:
    """Pool -> its lost share, for pools that lose some but not all of their servers: of what runs in a pool
    now. Nothing of that runs on servers that are lost already, or were left.
    """
    return _shares(top, lost, pool_members(top))


def _shares(top: Topology, lost: Loss, members_of: Mapping[int, IntColumn]) -> dict[int, PoolShare]:
    return {
        pool: _share_of(top, members, lost.servers)
        for pool, members in members_of.items()
        if not lost.pools[pool] and lost.servers[members].any()
    }


def lost_of_pool(top: Topology, lost: Loss, pool: int, amounts: Sequence[int]) -> list[int]:
    """(R,) how much of these amounts of a pool is lost: the share of its servers, rounded up."""
    members = _home_members(top).get(pool)
    if lost.pools[pool] or members is None:
        return list(amounts) if lost.pools[pool] else [0] * len(amounts)
    shares = _lost_part(top.estate.fleet, members, lost.servers)
    return [capacity_part(one, share, up=True) for one, share in zip(amounts, shares, strict=True)]


def pools_in_part(top: Topology, domains: Loss) -> list[int]:
    """Pools with some but not all of their servers in some domains, also if these are lost already."""
    return list(_shares(top, domains, _home_members(top)))


def _share_of(top: Topology, members: IntColumn, gone: BoolColumn) -> PoolShare:
    sizes, lost = member_sizes(top, members), gone[members]
    whole, part = sizes.sum(axis=0).tolist(), sizes[lost].sum(axis=0).tolist()
    return PoolShare(tuple(Fraction(a, b) for a, b in zip(part, whole, strict=True)))


def _lost_part(fleet: Fleet, rows: IntColumn, gone: BoolColumn) -> tuple[Fraction, ...]:
    """(R,) lost share of each resource of the servers at some rows; of their number if sizes are unknown.
    gone: (V,)
    """
    lost, found = gone[rows], []
    if not lost.any():
        return (Fraction(0),) * RESOURCE_COUNT
    for resource in range(RESOURCE_COUNT):
        sizes = fleet.capacity[rows, resource]
        if not fleet.capacity_known[rows, resource].all() or not sizes.any():
            sizes = np.ones(len(rows), np.int64)
        found.append(Fraction(int(sizes[lost].sum()), int(sizes.sum())))
    return tuple(found)


def share_of_pool(top: Topology, gone: BoolColumn, pool: int) -> tuple[Fraction, tuple[Fraction, ...]]:
    """(worst-case share of lost replicas, (R,) shares of its resources that are left); gone: (V,) lost
    servers, some of them owned by the pool.
    """
    fleet = top.estate.fleet
    mine = (fleet.pool == pool) & (fleet.state != CONDEMNED)
    if gone[mine].all():
        return Fraction(1), (Fraction(0),) * RESOURCE_COUNT
    members = pool_members(top).get(pool, np.zeros(0, np.int64))
    share = _share_of(top, members, gone).worst if gone[members].any() else Fraction(0)
    return share, tuple(1 - one for one in _lost_part(fleet, members, gone))


def part_of(counts: IntColumn, share: Fraction, up: bool = True) -> IntColumn:
    """(N,) the share of each count, rounded up or down."""
    exact = counts.astype(object) if share.denominator >= _WIDE else counts.astype(np.int64)
    above = share.denominator - 1 if up else 0
    return np.asarray((exact * share.numerator + above) // share.denominator, np.int64)


def replicas_lost(
    top: Topology, lost: Loss, good: bool = False, replicas: Replicas | None = None
) -> IntColumn:
    """(K,) lost replicas of each binding: all with their server, pool or site; in a pool that loses some of
    its servers, its share. good: the minimum, rounded in our favour; replicas: instead of those of the
    estate.
    """
    replicas = top.estate.replicas if replicas is None else replicas
    return _replicas_lost(lost, replicas, pool_shares(top, lost), good)


def home_replicas_in(top: Topology, domains: Loss, home: Replicas) -> IntColumn:
    """(K,) replicas of each binding at home in some domains, whether these are lost already or not."""
    return _replicas_lost(domains, home, _shares(top, domains, _home_members(top)), good=False)


def _replicas_lost(lost: Loss, replicas: Replicas, shares: Mapping[int, PoolShare], good: bool) -> IntColumn:
    gone = np.zeros(len(replicas), np.bool_)
    for kind, mask in ((ON_SERVER, lost.servers), (ON_POOL, lost.pools), (AT_SITE, lost.sites)):
        rows = replicas.kind == kind
        gone[rows] = mask[replicas.target[rows]]
    found = np.where(gone, replicas.count, 0).astype(np.int64)
    for pool, share in shares.items():
        rows = (replicas.kind == ON_POOL) & (replicas.target == pool)
        found[rows] = part_of(replicas.count[rows], share.least if good else share.worst, up=not good)
    return found


def replicas_off(top: Topology) -> IntColumn:
    """(K,) replicas of each binding that do not run, because their server, or every known server of their
    pool, is dark or condemned.
    """

    def work() -> IntColumn:
        replicas = top.estate.replicas
        off = places_off(top, top.estate.fleet, replicas.kind, replicas.target)
        return np.where(off, replicas.count, 0).astype(np.int64)

    return top.once("replicas off", work)


def places_off(top: Topology, fleet: Fleet, kind: CodeColumn, target: IndexColumn) -> BoolColumn:
    """(K,) places where nothing runs, because their server, or every known server of the pool, is dark or
    condemned. fleet: the servers of the estate, in a state that may differ from its own.
    """
    off: BoolColumn = kind == ON_SERVER
    pools: BoolColumn = kind == ON_POOL
    off[off] = np.isin(fleet.state[target[off]], (DARK, CONDEMNED))
    if pools.any():
        count = len(top.estate.pools)
        now = pools_now_off(top) if fleet is top.estate.fleet else pools_off(fleet, count)
        off[pools] = now[target[pools]]
    return off


def pools_now_off(top: Topology) -> BoolColumn:
    """(P,) pools of an estate that are off."""
    return top.once("pools off", lambda: pools_off(top.estate.fleet, len(top.estate.pools)))


def pools_off(fleet: Fleet, count: int) -> BoolColumn:
    """(count,) pools whose known servers are all dark or condemned; not those without known servers."""
    known = fleet.pool >= 0
    on = known & np.isin(fleet.state, (SERVING, SPARE))
    had, left = (np.bincount(fleet.pool[some], minlength=count) for some in (known, on))
    return np.asarray((had > 0) & (left == 0), np.bool_)


def replicas_running(top: Topology) -> Replicas:
    """The bindings of an estate with the replicas that run: none on a server that is off."""

    def work() -> Replicas:
        replicas, off = top.estate.replicas, replicas_off(top)
        if not off.any():
            return replicas
        return replace(replicas, count=(replicas.count - off).astype(replicas.count.dtype))

    return top.once("replicas running", work)


def estimated(top: Topology, lost: Loss) -> BoolColumn:
    """(S,) services with replicas in a pool that loses some of its servers."""
    replicas = top.estate.replicas
    flags = np.zeros(len(top.estate.services), np.bool_)
    shares = list(pool_shares(top, lost))
    flags[replicas.service[(replicas.kind == ON_POOL) & np.isin(replicas.target, shares)]] = True
    return flags


def unplaced(top: Topology) -> BoolColumn:
    """(sites, S) where services may run if the files do not place all their replicas: at their `sites`,
    anywhere if they state none.
    """

    def work() -> BoolColumn:
        estate = top.estate
        home = estate.replicas if estate.home is None else estate.home
        placed = np.bincount(home.service, home.count, len(estate.services)).astype(np.int64)
        wanted = np.array([1 if s.replicas is None else s.replicas for s in estate.services], np.int64)
        found = np.zeros((len(estate.sites), len(estate.services)), np.bool_)
        for row in np.flatnonzero(placed < wanted).tolist():
            service = estate.services[row]
            if not service.external:
                found[[top.site_index[site] for site in service.sites] or slice(None), row] = True
        return found

    return top.once("unplaced", work)


def loose_services(top: Topology, lost: Loss, replicas: Replicas) -> BoolColumn:
    """(S,) services whose replicas a loss may or may not take, because it is unknown in which part of a site
    they, their server or a server of their pool are; or because it is unknown where any of them runs.
    replicas: those that it can take; where nothing runs, a loss takes nothing.
    """
    estate = top.estate
    (some, _), doubt = sites_in_part(top, lost, hidden_power(top)), in_doubt(top, lost)
    flags = np.zeros(len(estate.services), np.bool_)
    for kind, open_ones in ((AT_SITE, some), (ON_POOL, doubt.pools), (ON_SERVER, doubt.servers)):
        here = (replicas.kind == kind) & (replicas.count > 0)
        flags[replicas.service[here][open_ones[replicas.target[here]]]] = True
    flags |= unplaced(top)[some | lost.sites].any(axis=0)
    return flags


def loose_stores(top: Topology, lost: Loss, is_loss: bool) -> BoolColumn:
    """(D,) stores that accept writes as far as is known, and would not if members were in the lost part of
    their site, hall or rack. is_loss: commits wait for a lost copy, but not for one that leaves in order or
    comes back.
    """
    judge = is_down if is_loss else store_is_lost
    doubt = in_doubt(top, lost)
    flags = np.zeros(len(top.estate.stores), np.bool_)
    for row, store in enumerate(top.estate.stores):
        gone = lost_members(top, lost, store)
        maybe = tuple(
            dead or may_be_lost(top, lost, doubt, member.at)
            for member, dead in zip(store.members, gone, strict=True)
        )
        flags[row] = maybe != gone and judge(store, maybe) and not judge(store, gone)
        if not store.members:  # it may be anywhere
            flags[row] = bool(doubt.sites.any() or lost.sites.any())
    return flags


def unjudged(
    top: Topology,
    lost: Loss,
    graph: ServiceGraph,
    without_store: BoolColumn,
    rebuilds: Mapping[int, tuple[tuple[str, str], ...]],
    scenario: Scenario,
) -> dict[int, str]:
    """Service -> path of the fact without which the effect of a loss is unknown. without_store: (D,) lost
    stores. rebuilds: service -> (store, its source) of what it rebuilds. What is off counts only where it is
    restored.
    """
    estate, is_loss = top.estate, scenario.kind == "lose"
    replicas = estate.replicas if scenario.kind == "restore" else replicas_running(top)
    causes: list[tuple[str, BoolColumn]] = []
    for row in np.flatnonzero(loose_services(top, lost, replicas)).tolist():
        causes.append((placement_of(estate.services[row].id), _only(row, len(estate.services))))
    loose = loose_stores(top, lost, is_loss)
    for family, stores in graph.family_stores.items():
        gone = without_store[list(stores)] | loose[list(stores)]
        doubtful = [d for d in stores if loose[d]]
        if doubtful and gone.all():
            users = np.array([family in names for names in graph.families], np.bool_)
            users[[row for row, pairs in rebuilds.items() if any(family == of for _, of in pairs)]] = True
            causes.append((f"stores/{estate.stores[doubtful[0]].id}/{PLACEMENT}", users))
    more = tripped(top, lost) if is_loss else None
    if more is not None:
        causes.append((more.fact, _taken_by(top, lost, more.lost, graph, without_store | loose, rebuilds)))
    found: dict[int, str] = {}
    for path, direct in causes:
        for row in np.flatnonzero(direct).tolist():
            found.setdefault(row, path)
    for path, direct in causes:
        for row in np.flatnonzero(hit_by_dependency(graph, direct)).tolist():
            found.setdefault(row, path)
    return found


def _taken_by(
    top: Topology,
    lost: Loss,
    more: Loss,
    graph: ServiceGraph,
    without_store: BoolColumn,
    rebuilds: Mapping[int, tuple[tuple[str, str], ...]],
) -> BoolColumn:
    """(S,) services that lose replicas or the last store of a family if `more` is lost instead of `lost`.
    without_store: (D,) stores that are lost anyway, or may be.
    """
    flags, replicas = loose_services(top, more, replicas_running(top)), top.estate.replicas
    flags[replicas.service[replicas_lost(top, more) > replicas_lost(top, lost)]] = True
    down = np.array([is_down(store, lost_members(top, more, store)) for store in top.estate.stores], np.bool_)
    for family, stores in graph.family_stores.items():
        rows = list(stores)
        if (down & ~without_store)[rows].any() and (down | without_store)[rows].all():
            flags[[row for row, names in enumerate(graph.families) if family in names]] = True
            flags[[row for row, pairs in rebuilds.items() if any(family == of for _, of in pairs)]] = True
    return flags


def placement_of(service: str) -> str:
    """The path of the fact where the replicas of a service run."""
    return f"services/{service}/{PLACEMENT}"


def _only(row: int, count: int) -> BoolColumn:
    flags = np.zeros(count, np.bool_)
    flags[row] = True
    return flags


def capacity_part(whole: int, share: Fraction, up: bool) -> int:
    """A share of a capacity; all of it if it is unlimited."""
    if whole == UNBOUNDED:
        return whole if share else 0
    return -(-whole * share.numerator // share.denominator) if up else int(whole * share)


def server_parts(sizes: IntColumn, known: BoolColumn, live: BoolColumn, whole: int) -> IntColumn:
    """(V,) each server's share of its pool, rounded down."""
    if whole == UNBOUNDED:
        return np.full(len(sizes), UNBOUNDED, np.int64)
    weight = np.where(live, sizes if known[live].all() else 1, 0)
    return np.asarray(whole * weight // max(1, int(weight.sum())), np.int64)


def unknown_servers(top: Topology, lost: Loss, pools: list[int]) -> set[str]:
    """Pools of a dark site without known servers: their capacity counts from the start."""
    named = set(np.unique(top.estate.fleet.pool).tolist())
    return {f"pools/{top.estate.pools[p].id}/servers" for p in pools if lost.pools[p] and p not in named}


def pool_capacities(
    top: Topology,
    lost: Loss,
    scenario: Scenario,
    chosen: IndexColumn,
    bring_up: BoolColumn,
    pool_rows: list[int],
    good: bool,
    unknown: set[str],
) -> tuple[list[list[int]], IntColumn]:
    """(capacity of each pool without its dark servers, capacity of each chosen server): dark servers
    contribute by their size, or equally if sizes are unknown. A pool that loses some of its servers keeps the
    rest; in a failback, the lost part. A pool without a server that is on, or comes on in a restore, has
    none.
    """
    fleet, found = top.estate.fleet, []
    capacity = np.where(fleet.capacity_known[chosen], fleet.capacity[chosen], 0)
    rising = np.zeros(len(fleet), np.bool_)
    rising[chosen[bring_up]] = True
    on = _on_for(top, lost, scenario, rising)
    for number in pool_rows:
        live = (fleet.pool == number) & on
        if (fleet.pool == number).any() and not live.any():
            found.append([0] * RESOURCE_COUNT)
            continue
        part = _pool_capacity(top, number, live, unknown)
        if scenario.kind != "restore":
            all_of_it = (Fraction(1),) * RESOURCE_COUNT
            taken = all_of_it if lost.pools[number] else _lost_part(fleet, np.flatnonzero(live), lost.servers)
            left = taken if scenario.kind == "failback" else tuple(1 - share for share in taken)
            part = [capacity_part(whole, share, good) for whole, share in zip(part, left, strict=True)]
        found.append(part)
        mine = np.flatnonzero((fleet.pool[chosen] == number) & bring_up)
        if not len(mine):
            continue
        alone = not (live & ~rising).any()
        for resource, whole in enumerate(part):
            parts = server_parts(fleet.capacity[:, resource], fleet.capacity_known[:, resource], live, whole)
            capacity[mine, resource] = parts[chosen[mine]]
            if alone or whole != UNBOUNDED:
                part[resource] = 0 if alone else whole - int(capacity[mine, resource].sum())
    return found, capacity


def _on_for(top: Topology, lost: Loss, scenario: Scenario, rising: BoolColumn) -> BoolColumn:
    """(V,) servers that a pool has in a scenario: those that are on, without what is lost already; in a
    failback, also of the domains that it returns to. In a restore those that rise, or, in a pool where none
    does, all that were lost in its domains: no step of a plan says how these come back.
    """
    fleet, gone = top.estate.fleet, lost_now(top).servers
    if scenario.kind == "failback":
        return _is_on(top) & (lost.servers | ~gone)
    found = _is_on(top) & ~gone
    if scenario.kind == "restore":
        counted_on = lost.servers & (fleet.state != CONDEMNED) & ~np.isin(fleet.pool, fleet.pool[rising])
        found |= rising | counted_on
    return found


def _pool_capacity(top: Topology, row: int, live: BoolColumn, unknown: set[str]) -> list[int]:
    """Totals of a pool times its quota; unlimited if unknown. As `pool_totals`."""
    estate, pool = top.estate, top.estate.pools[row]
    capacity = []
    for resource, total in enumerate(pool_totals(top, row, live)):
        if total is None:
            if any(s.demand[resource] for s in estate.services):
                unknown.add(f"pools/{pool.id}/{RESOURCE_WORDS[resource]}")
            capacity.append(UNBOUNDED)
        else:
            capacity.append(total * pool.quota_permille // 1000)
    return capacity


def pool_totals(top: Topology, row: int, live: BoolColumn) -> list[int | None]:
    """(R,) totals of a pool without what is lost already; None if unknown. If none is stated, from its
    servers in `live` (V,): those that are or will be on. A stated one includes the servers that were lost or
    left.
    """
    fleet = top.estate.fleet
    gone = lost_now(top).servers & (fleet.pool == row) & (fleet.state != CONDEMNED) & ~live
    lost = _lost_part(fleet, np.flatnonzero(gone | live), gone)
    found: list[int | None] = []
    for resource, total in enumerate(top.estate.pools[row].capacity):
        if total is not None:
            found.append(capacity_part(total, 1 - lost[resource], up=False))
        elif live.any() and fleet.capacity_known[live, resource].all():
            found.append(int(fleet.capacity[live, resource].sum()))
        else:
            found.append(None)
    return found


def without_lost(estate: Estate) -> Estate:
    """A current estate without what is lost: nothing there can be lost again, it provides no capacity, and
    like at a witness, no users arrive. It still says what is lost, because that leaves in doubt what may be
    there. The same object if nothing is lost.
    """
    if not estate.lost:
        return estate
    top = topology(estate)
    gone, old = lost_now(top), estate.replicas
    state = estate.fleet.state.copy()
    state[gone.servers] = CONDEMNED
    left = old.count - replicas_lost(top, gone)
    kept, nothing = left > 0, (0, 0, 0, 0)
    return replace(
        estate,
        fleet=replace(estate.fleet, state=state),
        replicas=Replicas(old.service[kept], old.kind[kept], old.target[kept], left[kept]),
        sites=tuple(
            replace(site, role="witness") if dead else site
            for site, dead in zip(estate.sites, gone.sites.tolist(), strict=True)
        ),
        pools=tuple(
            replace(pool, capacity=nothing if dead else _stated_left(top, row))
            for row, (pool, dead) in enumerate(zip(estate.pools, gone.pools.tolist(), strict=True))
        ),
        stores=tuple(
            replace(
                store,
                members=tuple(member for member in store.members if not is_lost(top, gone, member.at)),
                backups=tuple(backup for backup in store.backups if not is_lost(top, gone, backup.at)),
            )
            for store in estate.stores
        ),
        home=old if estate.home is None else estate.home,
    )


def _stated_left(top: Topology, row: int) -> Vector:
    """(R,) stated totals of a pool without what is lost; None if none is stated."""
    totals = pool_totals(top, row, (top.estate.fleet.pool == row) & _is_on(top) & ~lost_now(top).servers)
    cpu, memory, disk, accelerators = (
        None if stated is None else left
        for stated, left in zip(top.estate.pools[row].capacity, totals, strict=True)
    )
    return cpu, memory, disk, accelerators
