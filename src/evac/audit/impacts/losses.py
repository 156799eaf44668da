"""Every loss an audit tries, as rows over racks: what is lost at once, and where it is.

Everything bound to a server has the row of its rack. Anything without a rack (servers without one, pools,
replicas with only a known site) has a row of its own for each site, lost with the site. A server tried by
itself gets a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from evac.derive.domains import (
    Domain,
    Topology,
    domains,
    is_within,
    loss,
    lost_now,
    lost_with,
    resolve,
    resolve_each,
    server_row,
)
from evac.derive.hidden_power import pools_with_servers, unplaced_servers
from evac.derive.objectives import OF_KIND, loss_class
from evac.derive.pools import part_of, replicas_off, replicas_running, share_of_pool
from evac.derive.tripping import Tripped, tripped
from evac.model.estate import Estate
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    ON_POOL,
    ON_SERVER,
    BoolColumn,
    IndexColumn,
    IntColumn,
    Replicas,
)
from evac.model.objectives import LOSS_CLASSES
from evac.model.records import dataclass
from evac.model.units import ceil_share

LossKind = Literal["site", "hall", "feed", "rack", "group", "server", "pair", "provider"]
PAIR_SEPARATOR: Final = " + "
_NOWHERE: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The smallest units that are lost at once: racks, then one row for each site, then single servers."""

    count: int
    site: IndexColumn
    """(R,) index of the site of each row."""
    of_server: IndexColumn
    """(servers,) row of each server of the fleet."""
    of_site: IndexColumn
    """(sites,) row of things known by their site only."""
    single: dict[int, tuple[int, int]]
    """Server -> (its row, the row it was taken from)."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """L losses, as compressed rows: loss l takes `row[start[l]:start[l + 1]]`."""

    ids: tuple[str, ...]
    kinds: tuple[LossKind, ...]
    members: tuple[tuple[str, ...], ...]
    """The domains lost at once: one, unless the kind is pair."""
    site: IndexColumn
    """(L,) the only site that a loss affects, -1 if several."""
    sites: BoolColumn
    """(L, sites) lost as a whole."""
    halls: BoolColumn
    """(L, halls) lost as a whole."""
    start: IntColumn
    row: IndexColumn
    rows: Rows
    external: BoolColumn
    """(L, S) services whose provider is lost, also before the loss."""
    classes: IndexColumn
    """(L,) indices into `LOSS_CLASSES`: the class of each loss."""
    index: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, number: int) -> IndexColumn:
        return self.row[self.start[number] : self.start[number + 1]]

    def of_kind(self, *kinds: str) -> IndexColumn:
        """Numbers of the losses of some kinds."""
        return np.flatnonzero(np.isin(np.array(self.kinds, "U8"), kinds)).astype(np.int32)


def rows_of_estate(top: Topology, single: Iterable[str] = ()) -> Rows:
    """Rows of an estate; `single` names servers that are tried by themselves."""
    estate = top.estate
    racks, sites = len(estate.racks), len(estate.sites)
    of_site = racks + np.arange(sites, dtype=np.int32)
    fleet = estate.fleet
    of_server = np.where(fleet.rack >= 0, fleet.rack, racks + fleet.site).astype(np.int32)
    taken: dict[int, tuple[int, int]] = {}
    for name in sorted(set(single)):
        server = server_row(estate, name)
        taken[server] = (racks + sites + len(taken), int(of_server[server]))
        of_server[server] = taken[server][0]
    site = np.concatenate([top.rack_site, np.arange(sites, dtype=np.int32), fleet.site[list(taken)]]).astype(
        np.int32
    )
    return Rows(len(site), site, of_server, of_site, taken)


def losses(top: Topology, requested: Sequence[str] | None = None) -> Losses:
    """Every fault domain above a server, or the named ones. Raises UnknownDomain."""
    chosen = domains(top.estate) if requested is None else resolve_each(top, requested)
    rows = rows_of_estate(top, (d.id for d in chosen if d.kind == "server"))
    parts = _Parts(top, rows)
    taken = [parts.of(domain) for domain in chosen]
    return _assemble(top, rows, taken, [(d.id,) for d in chosen], [d.kind for d in chosen])


def pairs(top: Topology) -> Losses:
    """Pairs of domains above racks, except pairs equal to their two losses taken separately.

    Sites, groups and halls are paired with each other. Two feeds are paired if a rack is on both; a feed with
    anything else takes no more than the two losses separately.
    """
    estate = top.estate
    large = [d.id for d in domains(estate) if d.kind in ("site", "group", "hall")]
    alone = {name: loss(top, (name,)) for name in large}
    found = [
        (a, b)
        for place, a in enumerate(large)
        for b in large[place + 1 :]
        if not is_within(top, alone[a], b) and not is_within(top, alone[b], a)
    ]
    found += sorted({tuple(sorted(r.feeds)) for r in estate.racks if len(r.feeds) == 2})  # type: ignore[misc]
    rows = rows_of_estate(top)
    taken = [_lost_rows(top, rows, pair) for pair in found]
    return _assemble(top, rows, taken, [tuple(pair) for pair in found], ["pair"] * len(found))


def together(top: Topology, requested: Sequence[str]) -> Losses:
    """One loss of all the named domains at once, like a shared-fate group. Raises UnknownDomain."""
    names = tuple(dict.fromkeys(requested))
    servers = (domain.id for domain in resolve_each(top, names) if domain.kind == "server")
    rows = rows_of_estate(top, servers)
    taken = [_lost_rows_with_servers(top, rows, names)]
    return _assemble(top, rows, taken, [names], ["group"])


def _lost_rows_with_servers(top: Topology, rows: Rows, names: tuple[str, ...]) -> _LostRows:
    """As `_taken`, with rows of their own for servers named individually."""
    found = _lost_rows(top, rows, names)
    own = [rows.single[server_row(top.estate, n)][0] for n in names if resolve(top, n).kind == "server"]
    taken = np.unique(np.concatenate([found.rows, np.array(own, np.int32)])).astype(np.int32)
    return _LostRows(taken, found.sites, found.halls, found.external)


@dataclass(frozen=True, slots=True, eq=False)
class _LostRows:
    rows: IndexColumn
    sites: tuple[int, ...]
    halls: tuple[int, ...]
    external: tuple[int, ...] = ()


class _Parts:
    """Lookups from a domain to its rows, built once so that thousands of racks are cheap."""

    def __init__(self, top: Topology, rows: Rows) -> None:
        self._top, self._rows = top, rows
        left = ~lost_now(top).feeds[top.feed_rows]
        count = np.bincount(top.feed_racks[left], minlength=len(top.estate.racks))
        last = left & (count[top.feed_racks] == 1)
        feeds, racks = top.feed_rows[last], top.feed_racks[last]
        order = np.lexsort((racks, feeds))
        self._feed, self._feed_rack = feeds[order], racks[order]

    def of(self, domain: Domain) -> _LostRows:
        top = self._top
        if domain.kind == "rack":
            return _LostRows(self._with_single(np.array([top.rack_index[domain.id]], np.int32)), (), ())
        if domain.kind == "feed":
            feed = top.feed_index[domain.id]
            first, last = np.searchsorted(self._feed, (feed, feed + 1))
            return _LostRows(self._with_single(self._feed_rack[first:last]), (), ())
        if domain.kind == "hall":
            hall = top.hall_index[domain.id]
            racks = np.flatnonzero(top.rack_hall == hall).astype(np.int32)
            return _LostRows(self._with_single(racks), (), (hall,))
        if domain.kind == "server":
            row = self._rows.single[server_row(top.estate, domain.id)][0]
            return _LostRows(np.array([row], np.int32), (), ())
        return _lost_rows(top, self._rows, (domain.id,))

    def _with_single(self, racks: IndexColumn) -> IndexColumn:
        extra = [row for row, origin in self._rows.single.values() if origin in racks]
        return np.concatenate([racks, np.array(extra, np.int32)]) if extra else racks


def _lost_rows(top: Topology, rows: Rows, paths: tuple[str, ...]) -> _LostRows:
    """Rows of any mixture of domains, by the general definition of a loss: also racks that are lost because
    their other feeds are lost already.
    """
    lost, whole = loss(top, paths), lost_with(top, paths)
    gone = np.zeros(rows.count, np.bool_)
    gone[: len(lost.racks)] = lost.racks | whole.racks & ~lost_now(top).racks
    gone[rows.of_site[lost.sites]] = True
    for row, origin in rows.single.values():
        gone[row] = gone[origin]
    return _LostRows(
        np.flatnonzero(gone).astype(np.int32),
        tuple(np.flatnonzero(lost.sites).tolist()),
        tuple(np.flatnonzero(lost.halls).tolist()),
        tuple(np.flatnonzero(lost.external).tolist()),
    )


def _assemble(
    top: Topology,
    rows: Rows,
    taken: list[_LostRows],
    members: list[tuple[str, ...]],
    kinds: Sequence[LossKind],
) -> Losses:
    sites = _table(len(top.estate.sites), [t.sites for t in taken])
    halls = _table(len(top.estate.halls), [t.halls for t in taken])
    start = np.zeros(len(taken) + 1, np.int64)
    np.cumsum([len(t.rows) for t in taken], out=start[1:])
    row = np.concatenate([t.rows for t in taken]) if taken else np.empty(0, np.int32)
    ids = tuple(PAIR_SEPARATOR.join(names) for names in members)
    return Losses(
        ids=ids,
        kinds=tuple(kinds),
        members=tuple(members),
        site=_one_site(top, rows, taken, members),
        sites=sites,
        halls=halls,
        start=start,
        row=row.astype(np.int32),
        rows=rows,
        external=_table(len(top.estate.services), [t.external for t in taken]) | lost_now(top).external,
        classes=_classes(top, sites, kinds, members),
        index={name: number for number, name in enumerate(ids)},
    )


def _classes(
    top: Topology, sites: BoolColumn, kinds: Sequence[LossKind], members: Sequence[tuple[str, ...]]
) -> IndexColumn:
    several, found = sites.sum(axis=1).tolist(), []
    for count, kind, names in zip(several, kinds, members, strict=True):
        if count:
            found.append("region" if count > 1 else "site")
        else:
            found.append(loss_class(top, names) if kind == "pair" or len(names) > 1 else OF_KIND[kind])
    return np.array([LOSS_CLASSES.index(one) for one in found], np.int32)


def _table(columns: int, chosen: list[tuple[int, ...]]) -> BoolColumn:
    table = np.zeros((len(chosen), columns), np.bool_)
    for number, names in enumerate(chosen):
        table[number, list(names)] = True
    return table


def _one_site(
    top: Topology, rows: Rows, taken: list[_LostRows], members: list[tuple[str, ...]]
) -> IndexColumn:
    found = np.full(len(taken), _NOWHERE, np.int32)
    for number, part in enumerate(taken):
        touched = set(rows.site[part.rows].tolist()) | set(part.sites)
        touched |= set(top.hall_site[list(part.halls)].tolist())
        if not touched:
            touched = {_site_index(top, name) for name in members[number]}
        if len(touched) == 1:
            found[number] = touched.pop()
    return found


def _site_index(top: Topology, name: str) -> int:
    site = resolve(top, name).site
    return top.site_index[site] if site is not None else _NOWHERE


def site_names(estate: Estate) -> tuple[str, ...]:
    """Ids of the sites by index."""
    return tuple(site.id for site in estate.sites)


CountTable = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """How many replicas run where."""

    counts: CountTable
    """(rows, S) replicas."""
    per_site: CountTable
    """(sites, S) replicas."""
    n: IntColumn
    """(S,) total replicas."""
    off: CountTable
    """(S,) those of them that do not run, because their server is off: every loss takes them too."""
    m: IntColumn
    """(S,) smallest count that serves."""
    counted: BoolColumn
    """(S,) whether n is known."""
    loose: BoolColumn
    """(sites, S) runs there, only the site is known or a pool whose servers are unknown."""
    rack_unknown: BoolColumn
    """(sites, S) runs there on a server without a rack, or in a pool with such a server."""
    hall_unknown: BoolColumn
    """(sites, S) runs there in a rack whose hall is unknown, or in a pool with servers in one."""
    feeds_unknown: BoolColumn
    """(sites, S) the same for racks that name no feeds."""
    in_pool: CountTable
    """(pools, S) replicas in pools whose servers are known."""


def presence(top: Topology, rows: Rows) -> Presence:
    """Replica counts of an estate; linear in bindings and in rows x services."""
    estate = top.estate
    replicas, named = replicas_running(top), estate.services
    off = np.bincount(replicas.service, replicas_off(top), len(named)).astype(np.int32)
    key = _row_of_binding(top, rows, replicas).astype(np.int64) * len(named) + replicas.service
    weights = replicas.count.astype(np.float64)
    counts = np.bincount(key, weights, rows.count * len(named)).astype(np.int32)
    counts = counts.reshape(rows.count, len(named))
    counted = np.asarray(counts.sum(axis=0) + off > 0)
    for number, service in enumerate(named):
        if not counted[number]:
            for site in service.sites:
                counts[rows.of_site[top.site_index[site]], number] = 1
    per_site = np.zeros((len(estate.sites), len(named)), np.int32)
    for number in range(len(estate.sites)):
        per_site[number] = counts[rows.site == number].sum(axis=0)
    n = per_site.sum(axis=0).astype(np.int64) + off
    m = np.array(
        [
            ceil_share(s.share.numerator, s.share.denominator, int(k)) if k else 0
            for s, k in zip(named, n, strict=True)
        ],
        np.int64,
    )
    m[~counted] = np.minimum(n, 1)[~counted]
    loose, in_pool = _loose(top, rows, replicas, counts, counted)
    rack, hall, feeds = (_on_servers(top, replicas, some) for some in _vague_servers(top))
    return Presence(counts, per_site, n, off, m, counted, loose, rack, hall, feeds, in_pool)


def _row_of_binding(top: Topology, rows: Rows, replicas: Replicas) -> IntColumn:
    row = np.zeros(len(replicas), np.int64)
    lookups = ((ON_SERVER, rows.of_server), (ON_POOL, rows.of_site[top.pool_site]), (AT_SITE, rows.of_site))
    for kind, lookup in lookups:
        here = replicas.kind == kind
        row[here] = lookup[replicas.target[here]]
    return row


def _loose(
    top: Topology, rows: Rows, replicas: Replicas, counts: CountTable, counted: BoolColumn
) -> tuple[BoolColumn, CountTable]:
    """Replicas known by their site only. Pools whose member servers are known are kept apart."""
    estate = top.estate
    shape = (len(estate.pools), counts.shape[1])
    in_pool, loose = np.zeros(shape, np.int32), np.zeros((len(estate.sites), shape[1]), np.bool_)
    on_pool = np.flatnonzero((replicas.kind == ON_POOL) & (replicas.count > 0))
    pool, service = replicas.target[on_pool], replicas.service[on_pool]
    apart = pools_with_servers(top)[pool]
    in_pool[pool[apart], service[apart]] = replicas.count[on_pool[apart]]
    loose[top.pool_site[pool[~apart]], service[~apart]] = True
    at_site = replicas.kind == AT_SITE
    loose[replicas.target[at_site], replicas.service[at_site]] = True
    loose |= (counts[rows.of_site] > 0) & ~counted[None, :]
    return loose, in_pool


def _vague_servers(top: Topology) -> tuple[BoolColumn, BoolColumn, BoolColumn]:
    """(V,) each: servers without a rack; those in a rack without a hall; those in one that names no feeds."""
    racked, without = top.estate.fleet.rack >= 0, unplaced_servers(top)
    return without["rack"], without["hall"] & racked, without["feed"] & racked


def _on_servers(top: Topology, replicas: Replicas, servers: BoolColumn) -> BoolColumn:
    """(sites, S) services with replicas on some of these servers, or in a pool that has some of them."""
    fleet, found = top.estate.fleet, np.zeros((len(top.estate.sites), len(top.estate.services)), np.bool_)
    in_pool = np.zeros(len(top.estate.pools), np.bool_)
    in_pool[fleet.pool[servers & (fleet.pool >= 0) & (fleet.state != CONDEMNED)]] = True
    places = ((ON_SERVER, servers, fleet.site), (ON_POOL, in_pool, top.pool_site))
    for kind, some, site in places:
        here = np.flatnonzero((replicas.kind == kind) & (replicas.count > 0))
        here = here[some[replicas.target[here]]]
        found[site[replicas.target[here]], replicas.service[here]] = True
    return found


@dataclass(frozen=True, slots=True, eq=False)
class PoolsTaken:
    """What losses below a site take of pools whose servers are known: one entry for each pair (loss, pool),
    sorted.

    share: of the replicas; left: (R,) shares of each resource that are left.
    """

    loss: IndexColumn
    pool: IndexColumn
    share: tuple[Fraction, ...]
    left: tuple[tuple[Fraction, ...], ...]

    def of_loss(self, number: int) -> range:
        first, last = np.searchsorted(self.loss, (number, number + 1)).tolist()
        return range(first, last)


def pools_taken(top: Topology, losses: Losses) -> PoolsTaken:
    """Pairs of losses and pools that lose some of their servers, at sites not lost as a whole."""
    fleet, rows, count = top.estate.fleet, losses.rows, len(top.estate.pools)
    members = np.flatnonzero((fleet.pool >= 0) & (fleet.state != CONDEMNED))
    holds = np.unique(rows.of_server[members].astype(np.int64) * max(1, count) + fleet.pool[members])
    if not len(holds):
        empty = np.empty(0, np.int32)
        return PoolsTaken(empty, empty, (), ())
    row_of, pool_of = np.divmod(holds, count)
    first, last = (np.searchsorted(row_of, losses.row, side) for side in ("left", "right"))
    each = last - first
    number = np.repeat(np.repeat(np.arange(len(losses)), np.diff(losses.start)), each)
    place = np.arange(int(each.sum())) - np.repeat(np.cumsum(each) - each, each) + np.repeat(first, each)
    pairs = np.unique(number * count + pool_of[place])
    loss, pool = np.divmod(pairs, count)
    below = ~losses.sites[loss, top.pool_site[pool]]
    shares, left = [], []
    for one, which in zip(loss[below].tolist(), pool[below].tolist(), strict=True):
        gone = np.zeros(rows.count, np.bool_)
        gone[losses.rows_of(one)] = True
        share, rest = share_of_pool(top, gone[rows.of_server], which)
        shares.append(share)
        left.append(rest)
    return PoolsTaken(loss[below].astype(np.int32), pool[below].astype(np.int32), tuple(shares), tuple(left))


def lost_counts(found: Presence, losses: Losses, pools: PoolsTaken) -> CountTable:
    """(L, S) replicas each loss takes of those that run."""
    lost = np.zeros((len(losses), found.counts.shape[1]), np.int32)
    sizes = np.diff(losses.start)
    one = np.flatnonzero(sizes == 1)
    lost[one] = found.counts[losses.row[losses.start[one]]]
    for number in np.flatnonzero(sizes > 1):
        lost[number] = found.counts[losses.rows_of(int(number))].sum(axis=0)
    for number, pool, share in zip(pools.loss.tolist(), pools.pool.tolist(), pools.share, strict=True):
        lost[number] += part_of(found.in_pool[pool], share).astype(np.int32)
    return lost


def endpoints_lost(
    top: Topology, found: Presence, losses: Losses, lost: CountTable, pools: PoolsTaken
) -> BoolColumn:
    """(L, S) whether a service loses all it had at some site, so that its traffic must move."""
    gone = np.zeros(lost.shape, np.bool_)
    single = np.flatnonzero(losses.site >= 0)
    gone[single] = (lost[single] > 0) & (lost[single] == found.per_site[losses.site[single]])
    for number in np.flatnonzero(losses.site < 0):
        rows = losses.rows_of(int(number))
        for site in np.unique(losses.rows.site[rows]):
            here = found.counts[rows[losses.rows.site[rows] == site]].sum(axis=0)
            for entry in pools.of_loss(int(number)):
                if top.pool_site[pools.pool[entry]] == site:
                    here = here + part_of(found.in_pool[pools.pool[entry]], pools.share[entry])
            gone[number] |= (here > 0) & (here == found.per_site[site])
    return gone


def tripping(top: Topology, losses: Losses) -> Mapping[int, Tripped]:
    """Loss -> what it may take by overloading feeds, for those that overload any."""

    def work() -> dict[int, Tripped]:
        several = (top.rack_feed_count > 1).any()
        some = losses.of_kind("feed", "group", "pair").tolist() if several else []
        found = ((number, tripped(top, lost_with(top, losses.members[number]))) for number in some)
        return {number: more for number, more in found if more is not None}

    return top.once(("tripping", losses.members), work)
