"""Every loss an audit tries, as rows over racks: what goes at once, and where that is.

All that is bound to a server is known by its rack. What has no rack (servers without one, pools,
replicas of which only the site is known) stands on a row of its own per site, lost with the site.
A server that is tried by itself gets a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from evac.model.domain import Domain, Topology, domains, loss, resolve, resolve_each, server_row
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn

LossKind = Literal["site", "hall", "feed", "rack", "group", "server", "pair"]
PAIR_SEPARATOR: Final = " + "
_NOWHERE: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The finest things that are lost at once: R racks, then one row a site, then servers tried alone.

    site: one index a row; of_server: row of each server of the fleet; of_site: row that stands for
    what is known by its site only; single: server -> (its row, the row it was taken from).
    """

    count: int
    site: IndexColumn
    of_server: IndexColumn
    of_site: IndexColumn
    single: dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """L losses. `start` (L + 1) and `row` are compressed rows: loss l takes row[start[l]:start[l+1]].

    site: the one site a loss touches, -1 if several; sites: (L, sites) lost as a whole; halls: (L,
    halls) lost as a whole; members: the domains that go at once (one, unless the kind is pair).
    """

    ids: tuple[str, ...]
    kinds: tuple[LossKind, ...]
    members: tuple[tuple[str, ...], ...]
    site: IndexColumn
    sites: BoolColumn
    halls: BoolColumn
    start: IntColumn
    row: IndexColumn
    rows: Rows
    index: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, number: int) -> IndexColumn:
        return self.row[self.start[number] : self.start[number + 1]]

    def of_kind(self, *kinds: str) -> IndexColumn:
        """Numbers of the losses of some kinds."""
        return np.flatnonzero(np.isin(np.array(self.kinds, "U6"), kinds)).astype(np.int32)


def rows_of_estate(top: Topology, single: Iterable[str] = ()) -> Rows:
    """Rows of an estate; `single` names servers that are tried alone."""
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


def losses(top: Topology, wanted: Sequence[str] | None = None) -> Losses:
    """Every fault domain above a server, or the ones named. Raises UnknownDomain."""
    chosen = domains(top.estate) if wanted is None else resolve_each(top, wanted)
    rows = rows_of_estate(top, (d.id for d in chosen if d.kind == "server"))
    parts = _Parts(top, rows)
    taken = [parts.of(domain) for domain in chosen]
    return _assemble(top, rows, taken, [(d.id,) for d in chosen], [d.kind for d in chosen])


def pairs(top: Topology) -> Losses:
    """Pairs of domains above racks that neither contain each other nor fail apart.

    Sites, groups and halls are paired with each other. Two feeds are paired where a rack hangs on
    both; a feed with anything else takes no more than the two losses apart.
    """
    estate = top.estate
    large = [d for d in domains(estate) if d.kind in ("site", "group", "hall")]
    found = [
        (a.id, b.id)
        for place, a in enumerate(large)
        for b in large[place + 1 :]
        if not _contains(a, b) and not _contains(b, a)
    ]
    found += sorted({tuple(sorted(r.feeds)) for r in estate.racks if len(r.feeds) == 2})  # type: ignore[misc]
    rows = rows_of_estate(top)
    taken = [_taken(top, rows, pair) for pair in found]
    return _assemble(top, rows, taken, [tuple(pair) for pair in found], ["pair"] * len(found))


def together(top: Topology, wanted: Sequence[str]) -> Losses:
    """One loss: all the named domains at once, like a group that fails together. Raises UnknownDomain."""
    names = tuple(dict.fromkeys(wanted))
    servers = (domain.id for domain in resolve_each(top, names) if domain.kind == "server")
    rows = rows_of_estate(top, servers)
    taken = [_taken_with_servers(top, rows, names)]
    return _assemble(top, rows, taken, [names], ["group"])


def _taken_with_servers(top: Topology, rows: Rows, names: tuple[str, ...]) -> _Taken:
    """As `_taken`, where servers named by themselves have rows of their own."""
    found = _taken(top, rows, names)
    own = [rows.single[server_row(top.estate, n)][0] for n in names if resolve(top, n).kind == "server"]
    taken = np.unique(np.concatenate([found.rows, np.array(own, np.int32)])).astype(np.int32)
    return _Taken(taken, found.sites, found.halls)


def _contains(outer: Domain, inner: Domain) -> bool:
    return outer.kind == "site" and inner.kind != "group" and inner.site == outer.id


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    rows: IndexColumn
    sites: tuple[int, ...]
    halls: tuple[int, ...]


class _Parts:
    """Lookups from a domain to its rows, built once so that thousands of racks cost nothing."""

    def __init__(self, top: Topology, rows: Rows) -> None:
        self._top, self._rows = top, rows
        single_fed = top.rack_feed_count[top.feed_racks] == 1
        feeds, racks = top.feed_rows[single_fed], top.feed_racks[single_fed]
        order = np.lexsort((racks, feeds))
        self._feed, self._feed_rack = feeds[order], racks[order]

    def of(self, domain: Domain) -> _Taken:
        top = self._top
        if domain.kind == "rack":
            return _Taken(self._with_single(np.array([top.rack_index[domain.id]], np.int32)), (), ())
        if domain.kind == "feed":
            return _Taken(self._with_single(self._racks_of_feed(top.feed_index[domain.id])), (), ())
        if domain.kind == "hall":
            hall = top.hall_index[domain.id]
            racks = np.flatnonzero(top.rack_hall == hall).astype(np.int32)
            return _Taken(self._with_single(racks), (), (hall,))
        if domain.kind == "server":
            row = self._rows.single[server_row(top.estate, domain.id)][0]
            return _Taken(np.array([row], np.int32), (), ())
        return _taken(top, self._rows, (domain.id,))

    def _racks_of_feed(self, feed: int) -> IndexColumn:
        first, last = np.searchsorted(self._feed, (feed, feed + 1))
        return np.asarray(self._feed_rack[first:last])

    def _with_single(self, racks: IndexColumn) -> IndexColumn:
        extra = [row for row, origin in self._rows.single.values() if origin in racks]
        return np.concatenate([racks, np.array(extra, np.int32)]) if extra else racks


def _taken(top: Topology, rows: Rows, paths: tuple[str, ...]) -> _Taken:
    """Rows of any mixture of domains, by the general definition of a loss."""
    lost = loss(top, paths)
    gone = np.zeros(rows.count, np.bool_)
    gone[: len(lost.racks)] = lost.racks
    gone[rows.of_site[lost.sites]] = True
    for row, origin in rows.single.values():
        gone[row] = gone[origin]
    return _Taken(
        np.flatnonzero(gone).astype(np.int32),
        tuple(np.flatnonzero(lost.sites).tolist()),
        tuple(np.flatnonzero(lost.halls).tolist()),
    )


def _assemble(
    top: Topology,
    rows: Rows,
    taken: list[_Taken],
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
        index={name: number for number, name in enumerate(ids)},
    )


def _table(columns: int, chosen: list[tuple[int, ...]]) -> BoolColumn:
    table = np.zeros((len(chosen), columns), np.bool_)
    for number, names in enumerate(chosen):
        table[number, list(names)] = True
    return table


def _one_site(top: Topology, rows: Rows, taken: list[_Taken], members: list[tuple[str, ...]]) -> IndexColumn:
    found = np.full(len(taken), _NOWHERE, np.int32)
    for number, part in enumerate(taken):
        touched = set(rows.site[part.rows].tolist()) | set(part.sites)
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
