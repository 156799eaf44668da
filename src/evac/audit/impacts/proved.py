"""What is proved about losses that were not planned.

L losses, S services; P pairs of them in which replicas are lost.

A plan may place and order steps in any way, so a verdict is kept only if an inequality proves it for every
order. For a service s that loses w of its replicas, in a loss that takes T replicas of all services together:

- placed: T + servers that fit s in racks and on feeds at its cap + w x (most of them in one rack)
  <= servers that are on, survive, and fit s without running it; T of services that may use the same servers.
  Each replica placed earlier uses at most one server, and the w of s fill at most one rack each. Or a pool
  has enough free for everything that may run there.
- unaffected, degraded: nothing of a higher tier than s is unplaced, so no plan has a reason to stop s; or s
  must not be shed; or a service that must not be shed, and is not down, needs it.
- recovers: s is placed, everything that it needs comes back, its soft dependencies are available, and even if
  every step waits for all others at the limits they share, the last one ends before the horizon.
- lost: nothing restores it whatever is done for it alone: its store has no copy, its provider is lost, or
  replicas that serve > sum over servers of min(most per server, (capacity - what must not be shed) / demand).
- shed: only a plan decides that.

Anything else is not proved. A time is the earliest possible one, so it proves only that something is late.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from evac.audit.first_fit import STAGE_DARK
from evac.audit.impacts.dependencies import Bits, any_of, packed, pairs_of, spread_table, unpacked
from evac.audit.impacts.free_capacity import Used, pool_quota, used_amounts
from evac.audit.impacts.hits import Down, Ground, Wiring
from evac.audit.impacts.recovery import Damage, Recovery
from evac.audit.impacts.stores import NEVER
from evac.derive.domains import may_run_at
from evac.derive.vague import knows_servers
from evac.model.fleet import CONDEMNED, ON_SERVER, SERVING, BoolColumn, IntColumn, pools_of
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED, floor_share


@dataclass(frozen=True, slots=True, eq=False)
class Doubts:
    """What is not proved, (L, S)."""

    stays: BoolColumn
    """Not proved: no plan stops a service that is up."""
    returns: BoolColumn
    """Not proved: every plan fully restores a service that is down."""


def doubts(
    ground: Ground, wiring: Wiring, hit: Down, damage: Damage, chains: Recovery, gone: BoolColumn
) -> Doubts:
    """gone (L, S): services that are lost, or that depend on an unknown fact."""
    size = ground.lost.shape
    unplaced = ~placed(ground)
    taken = ground.taken.pairs
    without = taken.only(unplaced).marked(*size)
    down = hit.down.marked(*size)
    stops = _may_be_shed(ground, wiring, hit, without)
    base = (without & damage.pairs.only(damage.starts > 0).marked(*size)) | (stops & down)
    base |= down & ~_ends_in_time(ground, wiring, damage, chains)[:, None]
    base = spread_table(wiring.order, base, wiring.graph, hit.bits) & down
    return Doubts(stops & ~down, base | (down & (without | _without_soft(wiring, base | gone | stops))))


def placed(ground: Ground) -> BoolColumn:
    """(P,) for pairs in which replicas are lost, whether every plan places all of them."""
    taken = ground.taken
    if not len(taken.pairs):
        return np.zeros(0, np.bool_)
    within_site = _sites_within_cap(ground)
    return _on_servers(ground, within_site) | _in_pools(ground, within_site)


def _sites_within_cap(ground: Ground) -> BoolColumn:
    """(P, sites) surviving sites where the service keeps its cap even with everything that is lost."""
    pairs, count = ground.taken.pairs, ground.taken.count
    found, cap = ~ground.losses.sites[pairs.loss], ground.capacity.supply.wants.site_cap[pairs.service]
    capped = np.flatnonzero(cap < ground.presence.n[pairs.service])
    there = ground.presence.per_site[:, pairs.service[capped]].T
    found[capped] &= there + count[capped, None] <= cap[capped, None]
    return found


def _on_servers(ground: Ground, sites: BoolColumn) -> BoolColumn:
    """(P,) placed on servers of their own; sites (P, sites): that may be used."""
    supply, pairs, count = ground.capacity.supply, ground.taken.pairs, ground.taken.count
    wants, losses = supply.wants, len(ground.losses)
    reach = (np.maximum(supply.fits.on, 0)[pairs.service] * sites).sum(axis=1)
    kinds, mine = len(wants.kinds), wants.kind[pairs.service]
    by_kind = np.bincount(pairs.loss.astype(np.int64) * kinds + mine, count, losses * kinds)
    shared = (wants.kinds.astype(np.float32) @ wants.kinds.T.astype(np.float32) > 0) | np.eye(
        kinds, dtype=np.bool_
    )
    rivals = (by_kind.reshape(losses, kinds) @ shared.astype(np.float64))[pairs.loss, mine]
    lost = (_usable_lost(ground) @ wants.kinds.T.astype(np.float64))[pairs.loss, mine]
    needed = rivals + lost + _closed_by_racks(ground) + _closed_by_feeds(ground)
    needed[_somewhere(ground)[pairs.service]] = UNBOUNDED
    return np.asarray(wants.known[pairs.service] & (reach >= needed + _foes(ground)[pairs.service]))


def _somewhere(ground: Ground) -> BoolColumn:
    """(S,) services with a cap per rack or feed, and with a replica whose rack is unknown: it may count in
    any of them.
    """
    estate, n = ground.top.estate, ground.presence.n
    known = ground.presence.counts[: len(estate.racks)].sum(axis=0)
    capped = [
        min(_cap(one.spread.per_rack, count), _cap(one.spread.per_feed, count)) < count
        for one, count in zip(estate.services, n.tolist(), strict=True)
    ]
    return np.asarray(np.array(capped, np.bool_) & (known < n))


def _usable_lost(ground: Ground) -> IntColumn:
    """(L, pools) usable servers that a loss takes, beyond the sites that it takes as a whole."""
    losses, headroom = ground.losses, ground.capacity.supply.headroom
    pools, shape = len(headroom.pool_site), headroom.server_shape
    usable = np.flatnonzero(shape >= 0)
    key = losses.rows.of_server[usable].astype(np.int64) * pools + headroom.pool[shape[usable]]
    by_row = np.bincount(key, minlength=losses.rows.count * pools).reshape(losses.rows.count, pools)
    found = np.zeros((len(losses), pools), np.int64)
    for number in range(len(losses)):
        rows = losses.rows_of(number)
        found[number] = by_row[rows[~losses.sites[number][losses.rows.site[rows]]]].sum(axis=0)
    return found


def _closed_by_racks(ground: Ground) -> IntColumn:
    """(P,) servers that fit a service, in racks that have, or may get, as many of its replicas as allowed."""
    pairs, count, racks = ground.taken.pairs, ground.taken.count, len(ground.top.estate.racks)
    closed = np.zeros(len(pairs), np.int64)
    edges = np.searchsorted(pairs.service, np.arange(len(ground.presence.n) + 1)).tolist()
    on_rack = _RackFits(ground)
    for row, service in enumerate(ground.top.estate.services):
        n, here = int(ground.presence.n[row]), slice(edges[row], edges[row + 1])
        cap = _cap(service.spread.per_rack, n)
        if cap >= n or edges[row] == edges[row + 1] or not racks:
            continue
        held, fits = ground.presence.counts[:racks, row], on_rack.of(row)
        full = held >= cap
        near = np.sort(held[~full])
        may_close = len(near) - np.searchsorted(near, cap - count[here])
        closed[here] = fits[full].sum() + np.minimum(may_close, count[here]) * fits.max(initial=0)
    return closed


class _RackFits:
    """Servers that are on and fit one replica, by rack."""

    def __init__(self, ground: Ground) -> None:
        supply, fleet = ground.capacity.supply, ground.top.estate.fleet
        self._headroom, self._wants, self._racks = supply.headroom, supply.wants, len(ground.top.estate.racks)
        shape = self._headroom.server_shape
        servers = np.flatnonzero((shape >= 0) & (fleet.rack >= 0))
        servers = servers[np.argsort(fleet.rack[servers], kind="stable")]
        self._shape = shape[servers]
        self._rack, self._first = np.unique(fleet.rack[servers], return_index=True)

    def of(self, service: int) -> IntColumn:
        """(racks,)"""
        headroom, wants = self._headroom, self._wants
        fits = (headroom.amounts >= wants.demand[service]).all(axis=1) & (headroom.stage != STAGE_DARK)
        fits &= wants.eligible[service][headroom.pool] & ~headroom.is_pool
        found = np.zeros(self._racks, np.int64)
        if len(self._rack):
            found[self._rack] = np.add.reduceat(fits[self._shape].view(np.int8), self._first, dtype=np.int64)
        return found


def _closed_by_feeds(ground: Ground) -> IntColumn:
    """(P,) servers on feeds on which the lost replicas would exceed the service's cap."""
    pairs, top, n = ground.taken.pairs, ground.top, ground.presence.n
    services, racks, feeds = top.estate.services, len(top.estate.racks), len(top.estate.feeds)
    caps = [_cap(service.spread.per_feed, int(count)) for service, count in zip(services, n, strict=True)]
    cap, closed = np.array(caps, np.int64), np.zeros(len(pairs), np.int64)
    rows = np.flatnonzero(cap[pairs.service] < n[pairs.service])
    if not (len(rows) and feeds):
        return closed
    feeds_racks = np.zeros((feeds, racks), np.float64)  # exact below 2**53, and many times faster
    np.add.at(feeds_racks, (top.feed_rows, top.feed_racks), 1)
    servers = feeds_racks @ np.diff(ground.capacity.supply.headroom.row_start)[:racks].astype(np.float64)
    width = int(ground.taken.count.max()) + 1
    kinds, which = np.unique(
        pairs.service[rows].astype(np.int64) * width + ground.taken.count[rows], return_inverse=True
    )
    service, count = np.divmod(kinds, width)
    capped, column = np.unique(service, return_inverse=True)
    on_feed = feeds_racks @ ground.presence.counts[:racks, capped].astype(np.float64)
    closed[rows] = (servers @ (on_feed[:, column] + count > cap[service]))[which]
    return closed


def _cap(share: object, n: int) -> int:
    return UNBOUNDED if share is None else floor_share(share.numerator, share.denominator, n)  # type: ignore[attr-defined]


def _foes(ground: Ground) -> IntColumn:
    """(S,) replicas of other services that a service must share no server with."""
    groups = [service.conflict_group for service in ground.top.estate.services]
    n, sums = ground.presence.n, dict[str, int]()
    for group, count in zip(groups, n.tolist(), strict=True):
        if group is not None:
            sums[group] = sums.get(group, 0) + count
    found = [
        sums[group] - count if group is not None else 0
        for group, count in zip(groups, n.tolist(), strict=True)
    ]
    return np.array(found, np.int64)


def _in_pools(ground: Ground, sites: BoolColumn) -> BoolColumn:
    """(P,) placed in one pool with capacity for everything that may run there."""
    supply, pairs = ground.capacity.supply, ground.taken.pairs
    headroom, wants = supply.headroom, supply.wants
    found = np.zeros(len(pairs), np.bool_)
    lost = ground.lost.astype(np.float64)
    unknown = lost[:, ~wants.known].sum(axis=1) > 0
    partly = ground.replicas.pools
    for name, shape in headroom.shape_of_pool.items():
        column = int(headroom.pool[shape])
        mine = wants.eligible[:, column]
        needed = lost[:, mine] @ wants.demand[mine].astype(np.float64)
        fits = (needed <= headroom.amounts[shape]).all(axis=1) & ~unknown
        fits[partly.loss[partly.pool == ground.top.pool_index[name]]] = False
        found |= mine[pairs.service] & fits[pairs.loss] & sites[:, int(headroom.pool_site[column])]
    return np.asarray(found & wants.known[pairs.service])


def _may_be_shed(ground: Ground, wiring: Wiring, hit: Down, without: BoolColumn) -> BoolColumn:
    """(L, S) services that a plan may stop to free capacity. without: those not certainly placed."""
    services, tiers = ground.top.estate.services, ground.capacity.supply.tiers
    sheddable = np.array([service.sheddable for service in services], np.bool_)
    kinds, kind = np.unique(_classes_asked(ground), axis=0, return_inverse=True)
    highest = np.full((len(without), len(kinds)), 2**31, np.int64)
    loss, asking = np.nonzero(without)
    np.minimum.at(highest, (loss, kind.reshape(-1)[asking]), tiers[asking])
    shared = _classes_held(ground).astype(np.float32) @ kinds.T.astype(np.float32) > 0
    risk = np.zeros(without.shape, np.bool_)
    for number in range(len(kinds)):
        risk |= shared[None, :, number] & (tiers[None, :] > highest[:, number, None])
    risk &= sheddable[None, :]
    if not risk.any():
        return risk
    kept = unpacked(_held_up(wiring, hit, sheddable, len(ground.losses)), len(ground.losses))
    risk[kept.loss, kept.service] = False
    return risk


def _classes_asked(ground: Ground) -> BoolColumn:
    """(S, classes + 1) classes of servers that a service may use; the last one is all others."""
    estate = ground.top.estate
    found = np.ones((len(estate.services), len(estate.classes) + 1), np.bool_)
    for row, service in enumerate(estate.services):
        if service.eligible_classes is not None:
            found[row, :-1] = [one.id in service.eligible_classes for one in estate.classes]
    return found


def _classes_held(ground: Ground) -> BoolColumn:
    """(S, classes + 1) classes of the servers that a service runs on; the last one is all others."""
    estate = ground.top.estate
    replicas, found = estate.replicas, np.zeros((len(estate.services), len(estate.classes) + 1), np.bool_)
    on_server = (replicas.kind == ON_SERVER) & (pools_of(replicas, estate.fleet) < 0)
    found[replicas.service[~on_server], -1] = True
    found[replicas.service[on_server], estate.fleet.server_class[replicas.target[on_server]]] = True
    return found


def _held_up(wiring: Wiring, hit: Down, sheddable: BoolColumn, losses: int) -> Bits:
    """Losses in which a service that must not be shed, and is not down, needs another service."""
    every = (1 << losses) - 1
    own = [0 if sheddable[row] else every & ~down for row, down in enumerate(hit.bits)]
    found = [0] * len(own)
    order = wiring.order
    for members, outside in zip(reversed(order.members), reversed(order.outside), strict=True):
        joined = 0
        for service in members:
            joined |= found[service] | own[service]
        for service in (*outside, *(members if len(members) > 1 else ())):
            found[service] |= joined
    return found


def _without_soft(wiring: Wiring, missing: BoolColumn) -> BoolColumn:
    """(L, S) services whose soft dependencies may be missing. missing: what may be missing."""
    bits = packed((pairs_of(missing),), missing.shape[1], len(missing))
    found = any_of(wiring.graph.soft, bits)
    for service, groups in enumerate(wiring.graph.alternatives):
        for group in groups:
            if not group.hard:
                every = -1
                for member in group.members:
                    every &= bits[member]
                found[service] |= every
    return unpacked(found, len(missing)).marked(*missing.shape)


def _ends_in_time(ground: Ground, wiring: Wiring, damage: Damage, chains: Recovery) -> BoolColumn:
    """(L,) whether every step ends before the horizon if each one waits for all others at every limit that
    they share; if tools are down or people are few, one at a time.
    """
    estate, times, pairs, losses = ground.top.estate, wiring.times, damage.pairs, len(ground.losses)
    limits, taken = estate.limits, ground.taken
    known = chains.ready < NEVER
    last = np.zeros(losses, np.int64)
    np.maximum.at(last, pairs.loss[known], chains.ready[known])
    waits = np.zeros(losses, np.float64)
    rates = [rate for rate in (times.starts, *(pool.starts for pool in estate.pools)) if rate is not None]
    for rate in rates:
        waits += 2 * rate.window_ms / rate.count * np.bincount(taken.pairs.loss, taken.count, losses)
    change = np.where(damage.shift, times.change[pairs.service], 0)
    if limits.traffic_changes_at_once:
        waits += 2 * np.bincount(pairs.loss, change, losses) / limits.traffic_changes_at_once
    hits = wiring.stores
    each = np.array([o.ready_ms if o.lost and o.ready_ms < NEVER else 0 for o in hits.outcomes], np.float64)
    waits += 2 * np.bincount(hits.loss, each[hits.outcome] if len(each) else None, losses)
    own = times.start + times.verify + times.change + times.settle + sum(times.manual.values())
    serial = np.bincount(pairs.loss, own[pairs.service] * np.maximum(1, damage.starts), losses)
    waits += np.where(chains.tools_down | bool(limits.hands_at_once), serial, 0)
    return np.asarray(last + waits <= estate.horizon_ms)


class Alone:
    """Whether a service would fit if nothing else were started, and everything that may be stopped were."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._known: dict[int, tuple[IntColumn, IntColumn]] = {}

    @cached_property
    def _free(self) -> IntColumn:
        """(servers, R) capacity, or load if higher, minus what must not be shed; unknown counts as plenty."""
        top, fleet = self._ground.top, self._ground.top.estate.fleet
        firm = np.array([not service.sheddable for service in top.estate.services], np.bool_)
        kept = used_amounts(top, self._ground.capacity.supply.demand, firm).servers
        return (
            np.where(fleet.capacity_known, np.maximum(fleet.capacity, self._used.servers), UNBOUNDED) - kept
        )

    @cached_property
    def _used(self) -> Used:
        return used_amounts(self._ground.top, self._ground.capacity.supply.demand)

    def fits(self, service: int, loss: int, replicas: int) -> bool:
        """Whether this many replicas may be placed."""
        if service not in self._known:
            self._known[service] = self._places(service)
        rows, pools = self._known[service]
        losses = self._ground.losses
        left = rows.sum() - rows[losses.rows_of(loss)].sum()
        return bool(left + pools[~losses.sites[loss][self._ground.top.pool_site]].sum() >= replicas)

    def _most(self, pool: int) -> IntColumn:
        """(R,) maximum total of a pool: above its quota if its load is."""
        quota = np.array(pool_quota(self._ground.top, pool), np.int64)
        return np.asarray(np.maximum(quota, self._used.pools[pool]), np.int64)

    def _places(self, service: int) -> tuple[IntColumn, IntColumn]:
        """Maximum replicas by row of the losses, and by pool."""
        top, losses = self._ground.top, self._ground.losses
        estate, fleet, wanted = top.estate, top.estate.fleet, top.estate.services[service]
        names = may_run_at(estate, wanted)
        allowed = np.array(
            [site.role == "full" and (names is None or site.id in names) for site in estate.sites], np.bool_
        )
        mine, pooled = estate.replicas.service == service, pools_of(estate.replicas, fleet) >= 0
        pools = (mine & pooled).any()
        servers = (mine & ~pooled & (estate.replicas.kind == ON_SERVER)).any()
        demand = self._ground.capacity.supply.demand[service]
        asked = np.flatnonzero(demand > 0)
        fit = allowed[fleet.site] & (fleet.pool < 0) & (fleet.state != CONDEMNED) & (servers | ~pools)
        fit &= fleet.capacity_known[:, 0] & fleet.capacity_known[:, 1]
        if not knows_servers(top):
            fit &= fleet.state != SERVING
        if wanted.eligible_classes is not None:
            index = {one.id: number for number, one in enumerate(estate.classes)}
            fit &= np.isin(
                fleet.server_class, [index[name] for name in wanted.eligible_classes if name in index]
            )
        chosen = np.flatnonzero(fit)
        most = np.full(len(chosen), wanted.spread.per_server, np.int64)
        for resource in asked:
            most = np.minimum(most, np.maximum(self._free[chosen, resource], 0) // demand[resource])
        rows = np.bincount(losses.rows.of_server[chosen], most, losses.rows.count).astype(np.int64)
        in_pools = [
            min([UNBOUNDED, *(int(self._most(number)[r]) // int(demand[r]) for r in asked)])
            if allowed[top.site_index[pool.site]] and (pools or not servers)
            else 0
            for number, pool in enumerate(estate.pools)
        ]
        return rows, np.array(in_pools, np.int64)
