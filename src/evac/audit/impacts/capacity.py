"""For every loss, whether what it takes can be placed, and what is short if not.

A small loss inside one site is settled by a sufficient test for thousands of losses at once: every lost
replica gets a server of its own, first in the same site, then anywhere it may run. Losses that the test
cannot settle, and every loss of a whole site, are placed by first fit.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from evac.audit.first_fit import Shapes, own_servers
from evac.audit.impacts.dependencies import RowNumbers, Taken
from evac.audit.impacts.free_capacity import Reserves, open_capacity, pool_quota
from evac.audit.impacts.in_doubt import MayTake, may_take
from evac.audit.impacts.losses import CountTable, Losses, PoolsTaken, Presence
from evac.audit.impacts.placing import Placed, Stock, Supply, open_packing, pack
from evac.derive.pools import part_of
from evac.derive.vague import crowded, may_be_full
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.records import dataclass
from evac.model.units import RESOURCE_WORDS, UNBOUNDED

LARGE_KINDS = ("site", "group", "pair")
"""Losses that are always placed by first fit, and that may require shedding."""


@dataclass(frozen=True, slots=True)
class Short:
    """Shortage after a loss, for services that may run on the same classes of servers."""

    classes: str
    resource: str
    """One of `units.RESOURCE_WORDS`; empty if there is enough in total, but not on any one server."""
    missing: int
    replicas: int
    services: int
    fragmented: bool
    """The latter case."""


@dataclass(frozen=True, slots=True, eq=False)
class Shortfall:
    """A loss that does not fit."""

    unplaced_base: IntColumn
    """(S,) before shedding."""
    unplaced_top: IntColumn
    """(S,) before shedding."""
    after_shedding: IntColumn
    """(S,) base replicas of services that must not be shed, unplaced even with all capacity of those that
    may.
    """
    firm: BoolColumn
    """(S,) must not be shed."""
    by_power: int
    """Base replicas that would fit without power budgets."""
    budgets: tuple[str, ...]
    """The budgets that block servers."""
    shorts: tuple[Short, ...]
    shorts_for_good: tuple[Short, ...]
    labels: tuple[str, ...]

    @property
    def for_good(self) -> IntColumn:
        """(S,) base replicas that cannot be placed whatever is shed for them."""
        return np.where(self.firm, self.after_shedding, self.unplaced_base)

    @property
    def sheds(self) -> bool:
        """Whether shedding frees capacity that is needed."""
        return bool((self.firm & (self.unplaced_base > self.after_shedding)).any())

    def classes_of(self, services: BoolColumn) -> frozenset[str]:
        """Classes of servers that some services may use."""
        return frozenset(self.labels[s] for s in np.flatnonzero(services).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """Whether what each loss takes can be placed."""

    to_place: IntColumn
    """(L,) replicas to place."""
    placed: IntColumn
    """(L,) replicas placed."""
    short: dict[int, Shortfall]
    """Loss -> what is missing."""
    headroom_known: BoolColumn
    """(L, S) whether any known capacity could take a service elsewhere."""
    may_fit: BoolColumn
    """(L, S) whether a service may find capacity of unknown size."""
    crowded: BoolColumn
    """(L, S) whether something of unknown demand is started on servers that a service may also use."""
    reserves: Reserves
    supply: Supply
    pools: PoolsTaken
    may_take: MayTake


@dataclass(frozen=True, slots=True, eq=False)
class _Placement:
    """One loss by first fit. base (S,): replicas of the smallest share to place; at_site (sites, S): replicas
    left at each site; missing_base, missing_top (S,): unplaced.
    """

    base: IntColumn
    at_site: IntColumn
    missing_base: IntColumn
    missing_top: IntColumn


@dataclass(frozen=True, eq=False)
class _Question:
    """Input for one audit. lost (L, S); capped: services with a cap per site; held (sites, budgets): dark
    servers blocked by each budget.
    """

    supply: Supply
    losses: Losses
    lost: CountTable
    pools: PoolsTaken
    doubt: MayTake

    @cached_property
    def capped(self) -> RowNumbers:
        return np.flatnonzero(self.supply.wants.site_cap < UNBOUNDED)

    @cached_property
    def held(self) -> IntColumn:
        found, budgets, sites = self.supply.found, len(self.supply.found.budgets), self.losses.sites.shape[1]
        rows = np.flatnonzero(found.over_power)
        key = self.supply.top.estate.fleet.site[rows].astype(np.int64) * budgets + found.held_by[rows]
        return np.bincount(key, minlength=sites * budgets).reshape(sites, budgets)


def capacity(supply: Supply, losses: Losses, lost: CountTable, taken: Taken, pools: PoolsTaken) -> Capacity:
    """Placement for every loss. lost: (L, S); taken: its non-zero entries."""
    known = _headroom_known(_sites_with_headroom(supply), losses)
    requested = requested_of(taken, known, losses)
    to_place, placed = requested.in_all
    doubt = may_take(supply.top, losses)
    own_servers_fit = settled(supply, losses, requested) & ~doubt.any
    may_fit = _headroom_known(open_capacity(supply.top, supply.headroom, supply.wants), losses)
    may_fit |= (doubt.any | _may_be_full_after(supply, losses, pools))[:, None]
    crowded = _beside_unknown(supply, lost)
    result = Capacity(
        to_place,
        placed.copy(),
        {},
        known,
        may_fit,
        crowded,
        supply.found,
        supply,
        pools,
        doubt,
    )
    question = _Question(supply, losses, lost, pools, doubt)
    for number in np.flatnonzero(~own_servers_fit & (placed > 0)).tolist():
        _place_one(question, result, number)
    return result


def _beside_unknown(supply: Supply, lost: CountTable) -> BoolColumn:
    """(L, S) where something of unknown demand is started on servers that a service may also use."""
    found = np.zeros(lost.shape, np.bool_)
    vague, eligible = np.flatnonzero(~supply.wants.known), supply.wants.eligible.astype(np.float32)
    if len(vague):
        shares = (eligible @ eligible[vague].T > 0).astype(np.float32)
        found |= (lost[:, vague] > 0).astype(np.float32) @ shares.T > 0
    return found


def _asked(presence: Presence, lost: CountTable, known: BoolColumn) -> tuple[IntColumn, IntColumn]:
    """(S,) replicas that one loss takes and that may run elsewhere, and how many of them belong to base."""
    requested = np.where(known, lost, 0).astype(np.int64)
    return requested, np.minimum(np.maximum(presence.m - (presence.n - lost), 0), requested)


def _sites_with_headroom(supply: Supply) -> BoolColumn:
    """(S, sites) whether the demand is known, and a site has capacity that the service may use."""
    headroom, wants = supply.headroom, supply.wants
    found = np.zeros((len(wants.known), len(supply.top.estate.sites)), np.bool_)
    for pool, site in enumerate(headroom.pool_site.tolist()):
        found[:, site] |= wants.eligible[:, pool]
    return np.asarray(found & wants.known[:, None])


def _headroom_known(reach: BoolColumn, losses: Losses) -> BoolColumn:
    """(L, S) whether some surviving site has capacity that the service may use."""
    left = (~losses.sites).astype(np.float32)
    return np.asarray(left @ reach.T.astype(np.float32) > 0)


def _place_one(question: _Question, result: Capacity, number: int) -> None:
    """First fit for one loss, base before the remaining replicas.

    If something cannot be placed: why, and whether shedding would help.
    """
    supply = question.supply
    requested, base = _asked(supply.presence, question.lost[number], result.headroom_known[number])
    at_site = _surviving_at_site(question, number)
    placed = _packed(question, supply.stock, number, base, requested - base, at_site)
    missing_base, missing_top = base - placed.base, requested - base - placed.top
    result.placed[number] = int((placed.base + placed.top).sum())
    if missing_base.any() or missing_top.any():
        free = _free_by_pool(placed.left, supply.wants.eligible.shape[1])
        found = _Placement(base, at_site, missing_base, missing_top)
        result.short[number] = _shortfall(question, number, found, free)


def _shortfall(question: _Question, number: int, found: _Placement, free: IntColumn) -> Shortfall:
    """Why something cannot be placed, and whether shedding would help; free (P, R) of pools."""
    losses, supply, firm = question.losses, question.supply, question.supply.firm
    base, at_site, missing_base = found.base, found.at_site, found.missing_base
    after, by_power = np.where(firm, missing_base, 0), 0
    budgets: tuple[str, ...] = ()
    if after.any() and losses.kinds[number] in LARGE_KINDS:
        firm_base = np.where(firm, base, 0)
        after = (
            firm_base - _packed(question, supply.variant("shed"), number, firm_base, base * 0, at_site).base
        )
        by_power, budgets = _power_gain(question, number, base, missing_base, at_site)
    shorts = _shorts(supply, free, missing_base + found.missing_top)
    for_good = _shorts(supply, free, np.where(firm, after, missing_base))
    return Shortfall(
        missing_base,
        found.missing_top,
        after,
        firm,
        by_power,
        budgets,
        shorts,
        for_good,
        supply.labels,
    )


def taken_by_placing(found: Capacity, losses: Losses, lost: CountTable, number: int) -> IntColumn:
    """(sites, R) capacity of each site used by the replicas that one loss moves, by first fit without
    shedding. lost: (L, S). Unplaced replicas use nothing.
    """
    question, supply = _Question(found.supply, losses, lost, found.pools, found.may_take), found.supply
    sites = losses.sites.shape[1]
    taken = np.zeros((sites, len(RESOURCE_WORDS)), np.int64)
    if not found.placed[number]:
        return taken
    requested, base = _asked(supply.presence, lost[number], found.headroom_known[number])
    gone = supply.stock.headroom.lost_shapes(losses.rows_of(number))
    amounts = _amounts_left(question, supply.stock, number)
    packing = open_packing(supply.stock, gone, losses.sites[number], requested, amounts)
    pools = supply.wants.eligible.shape[1]
    before = _free_by_pool(packing, pools)
    at_site = _surviving_at_site(question, number)
    left = pack(packing, supply.wants, base, requested - base, at_site).left
    np.add.at(taken, supply.headroom.pool_site, before - _free_by_pool(left, pools))
    return taken


def _packed(
    question: _Question, stock: Stock, number: int, base: IntColumn, more: IntColumn, at_site: IntColumn
) -> Placed:
    losses, rows = question.losses, question.losses.rows_of(number)
    rows = np.union1d(rows, question.doubt.rows_of(number)).astype(np.int32)
    # Nothing is left at a site that is lost as a whole, whatever the counts say.
    gone = stock.headroom.lost_shapes(rows[~losses.sites[number][losses.rows.site[rows]]])
    amounts = _amounts_left(question, stock, number)
    packing = open_packing(stock, gone, losses.sites[number], base + more, amounts)
    return pack(packing, stock.wants, base, more, at_site)


def _amounts_left(question: _Question, stock: Stock, number: int) -> IntColumn | None:
    """(G, R) free amounts of each shape if a loss takes or may take part of a pool; None if it takes none. Of
    a pool that it may take part of, nothing is known to be free.
    """
    supply, pools, entries = question.supply, question.pools, question.pools.of_loss(number)
    unsafe = question.doubt.pools_of(number).tolist()
    if not len(entries) and not unsafe:
        return None
    amounts = stock.headroom.amounts.copy()
    for entry in entries:
        pool = int(pools.pool[entry])
        shape = stock.headroom.shape_of_pool.get(supply.top.estate.pools[pool].id)
        if shape is not None:
            running = supply.presence.in_pool[pool]
            kept = np.where(stock.counted, running - part_of(running, pools.share[entry]), 0)
            left = _left_of_pool(supply, pools, entry)
            held = kept @ supply.demand + _on_servers_left(question, stock, number, pool)
            free = 0 if may_be_full(supply.top, pool, left) else left - held
            amounts[shape] = np.maximum(free, 0)
    shapes = stock.headroom.shape_of_pool
    amounts[[shapes[name] for pool in unsafe if (name := supply.top.estate.pools[pool].id) in shapes]] = 0
    return amounts


def _left_of_pool(supply: Supply, pools: PoolsTaken, entry: int) -> IntColumn:
    """(R,) usable part of what a loss leaves of a pool."""
    whole = pool_quota(supply.top, int(pools.pool[entry]))
    left = [int(amount * share) for amount, share in zip(whole, pools.left[entry], strict=True)]
    return np.array(left, np.int64)


def _may_be_full_after(supply: Supply, losses: Losses, pools: PoolsTaken) -> BoolColumn:
    """(L,) losses that leave so little of a pool that what is free of it is unknown."""
    found = np.zeros(len(losses), np.bool_)
    for entry in np.flatnonzero(crowded(supply.top)[1][pools.pool]).tolist():
        if may_be_full(supply.top, int(pools.pool[entry]), _left_of_pool(supply, pools, entry)):
            found[pools.loss[entry]] = True
    return found


def _on_servers_left(question: _Question, stock: Stock, number: int, pool: int) -> IntColumn:
    """(R,) load of replicas on servers of a pool that a loss leaves."""
    losses = question.losses
    lost = np.zeros(losses.rows.count, np.bool_)
    lost[losses.rows_of(number)] = True
    left = (question.supply.top.estate.fleet.pool == pool) & ~lost[losses.rows.of_server]
    return np.asarray(stock.used.servers[left].sum(axis=0), np.int64)


def _surviving_at_site(question: _Question, number: int) -> IntColumn:
    """(sites, S) replicas that a loss leaves at each site; needed only for caps per site."""
    losses, presence, capped = question.losses, question.supply.presence, question.capped
    left = presence.per_site.astype(np.int64)
    if not len(capped):
        return left
    site, whole = int(losses.site[number]), losses.sites[number]
    left[whole] = 0
    if site >= 0:
        # Everything taken was at that one site, and what is off is not counted anywhere.
        left[site] -= 0 if whole[site] else question.lost[number] - presence.off
        return left
    rows = losses.rows_of(number)
    for site in np.unique(losses.rows.site[rows[~whole[losses.rows.site[rows]]]]).tolist():
        here = rows[losses.rows.site[rows] == site]
        left[site, capped] -= presence.counts[np.ix_(here, capped)].sum(axis=0, dtype=np.int64)
    return left


def _power_gain(
    question: _Question, number: int, base: IntColumn, missing: IntColumn, at_site: IntColumn
) -> tuple[int, tuple[str, ...]]:
    """Base replicas that would fit without power budgets, and the budgets that block servers."""
    found = question.supply.found
    if not found.over_power.any():
        return 0, ()
    free = _packed(question, question.supply.variant("power"), number, base, base * 0, at_site)
    gain = int(missing.sum() - (base - free.base).sum())
    names = question.held[~question.losses.sites[number]].sum(axis=0)
    order = np.argsort(-names, kind="stable")[: int((names > 0).sum())]
    return max(0, gain), tuple(found.budgets[int(i)] for i in order)


def _shorts(supply: Supply, free: IntColumn, missing: IntColumn) -> tuple[Short, ...]:
    """What is missing, by the set of pools that services may use; free: (P, R) of pools."""
    wants = supply.wants
    asking = np.flatnonzero(missing > 0)
    if not len(asking):
        return ()
    kind = wants.kind[asking]
    headroom = wants.kinds.astype(np.int64) @ free
    need = np.zeros_like(headroom)
    np.add.at(need, kind, missing[asking, None] * wants.demand[asking])
    replicas = np.bincount(kind, missing[asking], len(need)).astype(np.int64).tolist()
    services = np.bincount(kind, minlength=len(need)).tolist()
    found: dict[tuple[str, str], Short] = {}
    for number, (asked, there) in enumerate(zip(need.tolist(), headroom.tolist(), strict=True)):
        if services[number]:
            label = supply.label_of_kind[number]
            for short in _short_of(label, asked, there, replicas[number], services[number]):
                key = (short.classes, short.resource)
                found[key] = _sum(found[key], short) if key in found else short
    return tuple(found[key] for key in sorted(found))


def _free_by_pool(left: Shapes, pools: int) -> IntColumn:
    """(P, R) total free amounts."""
    size = int(left.size[0])
    amounts = left.free[:size] * left.servers[:size, None]
    resources = amounts.shape[1]
    found = np.zeros(pools * resources, np.int64)
    place = left.pool[:size, None].astype(np.int64) * resources + np.arange(resources)
    np.add.at(found, place.reshape(-1), amounts.reshape(-1))
    return found.reshape(pools, resources)


def _sum(one: Short, other: Short) -> Short:
    return Short(
        one.classes,
        one.resource,
        one.missing + other.missing,
        one.replicas + other.replicas,
        one.services + other.services,
        one.fragmented,
    )


def _short_of(label: str, need: list[int], headroom: list[int], replicas: int, services: int) -> list[Short]:
    """Shortage of services that may use the same servers. need, room (R,): their total demand, and the free
    amounts.
    """
    short = [
        Short(label, word, asked - there, replicas, services, False)
        for word, asked, there in zip(RESOURCE_WORDS, need, headroom, strict=True)
        if asked > there
    ]
    return short or [Short(label, "", 0, replicas, services, True)]


_TESTS: Final = ((False, False), (False, True), (True, False), (True, True))
"""Whether dark servers count, and whether those of other sites do."""


@dataclass(frozen=True, slots=True, eq=False)
class Requested:
    """Pairs that are taken, and how many replicas of each need a place. in_all: for each loss, replicas taken
    (L,) and replicas to place (L,).
    """

    taken: Taken
    count: IntColumn
    in_all: tuple[IntColumn, IntColumn]


def requested_of(taken: Taken, known: BoolColumn, losses: Losses) -> Requested:
    """Replicas that are taken and may run elsewhere; known: (L, S) where any known capacity could take
    them.
    """
    pairs = taken.pairs
    count = taken.count if known.all() else np.where(pairs.of(known), taken.count, 0).astype(np.int64)
    in_all, placed = (np.bincount(pairs.loss, n, len(losses)).astype(np.int64) for n in (taken.count, count))
    return Requested(taken, count, (in_all, placed))


def settled(supply: Supply, losses: Losses, requested: Requested) -> BoolColumn:
    """(L,) losses for which the sufficient test holds."""
    usable = np.diff(supply.headroom.row_start)[losses.row]
    so_far = np.concatenate([np.zeros(1, np.int64), np.cumsum(usable)])
    # (L,) usable servers inside each loss.
    taken = np.asarray(so_far[losses.start[1:]] - so_far[losses.start[:-1]])
    reach = _reach(supply)
    fits = np.zeros(len(losses), np.bool_)
    # Losses inside one site that leave part of it.
    small = (losses.site >= 0) & ~losses.sites.any(axis=1)
    for site, tests in enumerate(reach if len(supply.headroom.count) else ()):
        left = small & (losses.site == site)
        for test in range(len(_TESTS)):
            if left.any():
                found = left & (_slack(requested, left, tests[test], taken) >= 0)
                fits |= found
                left &= ~found
    return fits


def _reach(supply: Supply) -> IntColumn:
    """(sites, tests, S) servers within reach: of the same site, or of all sites for services without a cap
    per site.
    """
    on, dark = supply.fits.on.T, supply.fits.dark.T
    found = np.empty((len(on), len(_TESTS), on.shape[1]), np.int64)
    capped = supply.wants.site_cap < UNBOUNDED
    for test, (more, wide) in enumerate(_TESTS):
        table = on + dark if more else on
        found[:, test] = np.where(capped, table, np.maximum(table, 0).sum(axis=0)) if wide else table
    return found


def _slack(requested: Requested, asked: BoolColumn, reach: IntColumn, taken: IntColumn) -> IntColumn:
    """(L,) slack of some losses, `UNBOUNDED` if nothing is to be placed; services with few choices come
    first.
    """
    slack, rows = np.full(len(taken), UNBOUNDED, np.int64), asked[requested.taken.pairs.loss]
    pairs = requested.taken.pairs.only(rows)
    start = np.searchsorted(pairs.service, np.arange(len(reach) + 1))
    order = np.argsort(reach, kind="stable").astype(np.int32)
    own_servers(order, np.ascontiguousarray(reach), start, pairs.loss, requested.count[rows], -taken, slack)
    return slack
