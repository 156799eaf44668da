"""The effect of each loss on stores: which are lost, and the data loss and recovery time of the best
surviving copy.

Outcomes are kept for pairs (store, loss) in which some part of the store is lost; others are unaffected. The
definitions are those of `model.affected`, evaluated here for all losses at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from evac.audit.impacts.in_doubt import lost_in_part
from evac.audit.impacts.losses import Losses, tripping
from evac.derive.affected import ServiceGraph, lost_members
from evac.derive.domains import Topology, is_lost, lost_now, lost_with, resolve, server_row
from evac.derive.hidden_power import hidden_power
from evac.derive.in_doubt import doubt_now, may_be_lost, racks_at
from evac.derive.objectives import Rpo, rpos
from evac.derive.stores import (
    commits_wait,
    freshest,
    has_majority,
    is_down,
    is_fenced,
    offered_ways,
    people_times,
    rpo_is_open,
    surviving_ways,
)
from evac.model.estate import Store
from evac.model.fleet import BoolColumn, CodeColumn, IndexColumn, IntColumn
from evac.model.objectives import LOSS_CLASSES, accepts
from evac.model.records import dataclass
from evac.steps.kind import Left, PeopleTimes, Way

NEVER: Final = 2**31 - 1
"""Milliseconds that mean 'does not come back' or 'nothing is left'."""
UNKNOWN_MS: Final = -1


FENCE, RELEASE, LOSS = range(3)
"""What the return of a store begins with: a fence of its old primary, an approved plan, or the loss."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A surviving copy from which a lost store can be recovered."""

    at: str
    kind: str
    ready_ms: int
    loss_ms: int | None
    """None if unknown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of one store under one pattern of lost members."""

    lost: bool
    """It accepts no writes: no primary, no majority or no member is left, or its commits wait."""
    ready_ms: int
    """Fence, then the quickest of the freshest copies within the RPO; NEVER without one."""
    fence_ms: int
    """The part of that for the fence."""
    elects: bool
    """Whether it comes back without a fence and without a tool: see `Way.by_itself`."""
    from_loss: bool
    """Whether that begins with the loss: see `Way.from_loss`."""
    has_majority: bool
    """Whether more than half of its votes are left, if it writes only with a majority."""
    loss_ms: int
    """Least data lost by any copy; UNKNOWN_MS, or NEVER if no copy is left."""
    copies: tuple[Copy, ...]
    """What could be promoted or restored."""
    data_members_left: int
    votes_gone: int
    """Lost votes of a quorum."""
    votes: int
    keeps_primary: bool
    """Whether its primary is left and only its commits wait."""
    rpo_is_open: bool
    """Whether it comes back with a loss of data, or maybe one, and the files do not limit it."""
    in_doubt: bool
    """Whether no copy or backup is known to meet the RPO, and one may, because what it lacks is unknown."""

    def exceeds(self, limit_ms: int | None) -> bool:
        """Whether the store is lost, and its best copy lacks more than a limit, or may."""
        if not self.lost or self.loss_ms == NEVER:
            return False
        return not accepts(limit_ms, None if self.loss_ms == UNKNOWN_MS else self.loss_ms)


@dataclass(frozen=True, slots=True, eq=False)
class StorePart:
    """One store and the losses that take some part of it."""

    store: Store
    losses: IndexColumn
    which: IndexColumn
    """Outcome that each loss leads to."""
    outcomes: tuple[Outcome, ...]
    lost: BoolColumn
    """Whether it is lost then."""
    maybe: BoolColumn | None
    """(L,) see `StoreHits`; None if nothing is in doubt."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreHits:
    """Pairs (store, loss) in which a member or backup of the store is gone, sorted by both."""

    store: IndexColumn
    loss: IndexColumn
    outcome: IndexColumn
    """Index into `outcomes`."""
    outcomes: tuple[Outcome, ...]
    lost: BoolColumn
    """(L, D)"""
    maybe: BoolColumn
    """(L, D) lost if members are in the lost part of their site, hall or rack."""
    parts: tuple[StorePart, ...]
    """Store by store."""

    def of(self, store: int) -> list[tuple[int, Outcome]]:
        """(loss, outcome) for every loss that takes part of a store."""
        part = self.parts[store]
        which = zip(part.losses.tolist(), part.which.tolist(), strict=True)
        return [(loss, part.outcomes[outcome]) for loss, outcome in which]

    def under(self, number: int) -> list[tuple[int, Outcome]]:
        """(store, outcome) for every store that one loss takes part of."""
        rows = np.flatnonzero(self.loss == number)
        which = zip(self.store[rows].tolist(), self.outcome[rows].tolist(), strict=True)
        return [(store, self.outcomes[outcome]) for store, outcome in which]

    def at(self, store: int, number: int) -> Outcome | None:
        """The outcome of one store under one loss; None if nothing of it is lost."""
        first, last = np.searchsorted(self.store, (store, store + 1))
        place = int(first) + int(np.searchsorted(self.loss[first:last], number))
        if place < last and self.loss[place] == number:
            return self.outcomes[int(self.outcome[place])]
        return None


class _Positions:
    """The losses in which a position (domain path or server name) is gone; each computed once."""

    def __init__(self, top: Topology, losses: Losses) -> None:
        self._top, self._losses = top, losses
        order = np.argsort(losses.row, kind="stable")
        number = np.repeat(np.arange(len(losses)), np.diff(losses.start))
        self._row, self._loss = losses.row[order], number[order]
        self._known: dict[str, BoolColumn] = {}
        self._open: dict[str, BoolColumn] = {}

    def gone(self, at: str) -> BoolColumn:
        found = self._known.get(at)
        if found is None:
            found = self._known[at] = self._find(at)
        return found

    def may_be_gone(self, at: str) -> BoolColumn:
        """(L,) losses that may take a position, because nothing more precise is known of it; in some of them
        it is gone anyway.
        """
        found = self._open.get(at)
        if found is None:
            found = self._open[at] = self._may_find(at)
        return found

    def takes_anything(self) -> BoolColumn:
        """(L,) losses that take some part of a site, or after which some is lost."""
        part, whole = lost_in_part(self._top, self._losses), lost_now(self._top).sites.any()
        return np.asarray(part.touched.any(axis=1) | self._losses.sites.any(axis=1) | whole, np.bool_)

    def _may_find(self, at: str) -> BoolColumn:
        """As `derive.in_doubt.may_be_lost`, for all losses at once, each with what is lost already."""
        top, losses, domain = self._top, self._losses, resolve(self._top, at)
        if domain.kind not in ("site", "hall", "rack", "server"):
            return np.zeros(len(losses), np.bool_)
        site, part = top.site_index[domain.site or at], lost_in_part(top, losses)
        if domain.kind == "site":
            return part.touched[:, site]
        if may_be_lost(top, lost_now(top), doubt_now(top), at):
            return ~losses.sites[:, site]
        halls, feeds = part.halls[:, site], part.feeds[:, site]
        hidden = feeds & hidden_power(top)[site]
        if domain.kind == "hall":
            return np.asarray(hidden | self._within(racks_at(top, domain), site), np.bool_)
        rack = top.rack_index[at] if domain.kind == "rack" else self._rack_of(at)
        if rack < 0:
            racks = np.flatnonzero(top.rack_site == site)
            return np.asarray(halls | hidden | self._losses_of(racks), np.bool_)
        found = halls & (top.rack_hall[rack] < 0) | feeds & (top.rack_feed_count[rack] == 0)
        inside = domain.kind == "rack"
        return np.asarray(found | self._within(racks_at(top, domain), site) if inside else found, np.bool_)

    def _rack_of(self, server: str) -> int:
        return int(self._top.estate.fleet.rack[server_row(self._top.estate, server)])

    def _within(self, racks: BoolColumn, site: int) -> BoolColumn:
        """(L,) losses of some of these racks, or of single servers that are or may be in one."""
        fleet, single = self._top.estate.fleet, self._losses.rows.single
        own = [
            row
            for server, (row, _) in single.items()
            if fleet.site[server] == site and (fleet.rack[server] < 0 or racks[fleet.rack[server]])
        ]
        return self._losses_of(np.r_[np.flatnonzero(racks), np.array(own, np.int64)])

    def _losses_of(self, rows: IntColumn) -> BoolColumn:
        some, found = np.zeros(self._losses.rows.count, np.bool_), np.zeros(len(self._losses), np.bool_)
        some[rows] = True
        found[self._loss[some[self._row]]] = True
        return found

    def _find(self, at: str) -> BoolColumn:
        top, losses = self._top, self._losses
        domain = resolve(top, at)
        if domain.kind == "site":
            return losses.sites[:, top.site_index[at]]
        if domain.kind == "hall":
            return losses.halls[:, top.hall_index[at]]
        if domain.kind in ("rack", "server"):
            rows = losses.rows
            row = top.rack_index[at] if domain.kind == "rack" else rows.of_server[server_row(top.estate, at)]
            return self._losses_with(int(row))
        return self._asked(at, domain.kind == "feed")

    def _losses_with(self, row: int) -> BoolColumn:
        first, last = np.searchsorted(self._row, (row, row + 1))
        gone = np.zeros(len(self._losses), np.bool_)
        gone[self._loss[first:last]] = True
        return gone

    def _asked(self, at: str, is_feed: bool) -> BoolColumn:
        """A feed is lost by itself, with its site and with groups that name it; a group has no position."""
        gone = np.zeros(len(self._losses), np.bool_)
        for number, kind in enumerate(self._losses.kinds):
            if is_feed and kind in ("site", "group", "pair", "feed"):
                gone[number] = is_lost(self._top, lost_with(self._top, self._losses.members[number]), at)
        return gone


def store_hits(top: Topology, losses: Losses) -> StoreHits:
    """Outcomes of every store under every loss; a few patterns for each store, however many losses."""
    positions = _Positions(top, losses)
    limits = tuple(zip(*(rpos(top, of_class) for of_class in LOSS_CLASSES), strict=True))
    stores = zip(top.estate.stores, limits, strict=True)
    parts = [_part(positions, top, losses, store, by_class) for store, by_class in stores]
    lost, maybe = (np.zeros((len(parts), len(losses)), np.bool_) for _ in range(2))
    for number, part in enumerate(parts):
        lost[number, part.losses] = part.lost
        if part.maybe is not None:
            maybe[number] = part.maybe
    for one, more in tripping(top, losses).items():
        for number, store in enumerate(top.estate.stores):
            maybe[number, one] |= is_down(store, lost_members(top, more.lost, store))
    bases = np.cumsum([0, *(len(part.outcomes) for part in parts)]).tolist()
    return StoreHits(
        store=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.losses) for part in parts]),
        loss=_joined([part.losses for part in parts]),
        outcome=_joined([part.which + np.int32(base) for part, base in zip(parts, bases, strict=False)]),
        outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
        lost=np.ascontiguousarray(lost.T),
        maybe=np.ascontiguousarray((maybe & ~lost).T),
        parts=tuple(parts),
    )


def _part(
    positions: _Positions, top: Topology, losses: Losses, store: Store, limits: tuple[Rpo, ...]
) -> StorePart:
    gone = _gone(positions, [m.at for m in store.members] + [b.at for b in store.backups], len(losses))
    numbers = np.flatnonzero(gone.any(axis=0)).astype(np.int32)
    classes, people = losses.classes[numbers], people_times(top.estate)
    inverse, outcomes = _patterns(store, limits, gone[:, numbers], classes, people)
    which = inverse.reshape(-1).astype(np.int32)
    lost = np.array([o.lost for o in outcomes], np.bool_)[which]
    return StorePart(store, numbers, which, outcomes, lost, _maybe_lost(positions, store, gone))


def _patterns(
    store: Store, limits: tuple[Rpo, ...], gone: BoolColumn, classes: IndexColumn, people: PeopleTimes
) -> tuple[IntColumn, tuple[Outcome, ...]]:
    """Which outcome each loss leads to. limits: what may be lost with a loss of each class; classes: of each
    loss.
    """
    if len(set(limits)) == 1:
        patterns, inverse = np.unique(gone, axis=1, return_inverse=True)
        columns = (tuple(column) for column in patterns.T.tolist())
        return inverse, tuple(outcome_of(store, column, people, limits[0]) for column in columns)
    patterns, inverse = np.unique(np.vstack([gone, classes[None, :]]), axis=1, return_inverse=True)
    outcomes = []
    for *lost, number in patterns.T.tolist():
        outcomes.append(outcome_of(store, tuple(bool(one) for one in lost), people, limits[number]))
    return inverse, tuple(outcomes)


def _joined(parts: Sequence[IndexColumn]) -> IndexColumn:
    return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)


def _gone(positions: _Positions, places: list[str], losses: int) -> BoolColumn:
    if not places:
        return np.zeros((0, losses), np.bool_)
    return np.stack([positions.gone(at) for at in places])


def _maybe_lost(positions: _Positions, store: Store, gone: BoolColumn) -> BoolColumn | None:
    """Whether the store would be lost if members were in the lost part of their site, hall or rack; one
    without stated members may be anywhere.
    """
    members = len(store.members)
    if not members:
        return positions.takes_anything()
    open_members = gone[:members].copy()
    for place, member in enumerate(store.members):
        open_members[place] |= positions.may_be_gone(member.at)
    if (open_members == gone[:members]).all():
        return None
    patterns, which = np.unique(open_members, axis=1, return_inverse=True)
    flags = np.array([is_down(store, tuple(column)) for column in patterns.T.tolist()], np.bool_)
    return flags[which.reshape(-1)]


def outcome_of(store: Store, gone: tuple[bool, ...], people: PeopleTimes, rpo: Rpo) -> Outcome:
    """What is left of a store when some of its members, then some of its backups, are gone."""
    members = len(store.members)
    lost = is_down(store, gone[:members])
    ways = surviving_ways(store, gone[:members], people, rpo)
    elects = lost and any(way.by_itself for way in ways)
    left = Left(store, gone[members:], people)
    ways += () if elects else tuple(way for way in offered_ways(left) if isinstance(way, Way))
    copies = tuple(Copy(way.at, way.kind, way.duration_ms or 0, way.loss_ms) for way in ways)
    usable = [w for w in ways if accepts(rpo.limit_ms, w.loss_ms) and not w.only_waived]
    first = freshest(usable)
    unknown = lost and not usable and any(way.loss_ms is None and not way.only_waived for way in ways)
    allowed = [way.duration_ms or 0 for way in first]
    fenced = is_fenced(store, gone[:members]) and not elects
    fence_ms = (store.fence_ms or 0) if fenced else 0
    losses = [UNKNOWN_MS if c.loss_ms is None else c.loss_ms for c in copies]
    known = [value for value in losses if value >= 0]
    least = min(known) if known else (UNKNOWN_MS if losses else NEVER)
    data = [dead for m, dead in zip(store.members, gone, strict=False) if m.mode != "none"]
    return Outcome(
        lost=lost,
        ready_ms=(fence_ms + min(allowed) if allowed else NEVER) if lost else 0,
        fence_ms=fence_ms,
        elects=elects,
        from_loss=elects and all(way.from_loss for way in ways),
        has_majority=not store.quorum or has_majority(store, gone[:members]),
        loss_ms=least if lost else 0,
        copies=copies,
        data_members_left=sum(not dead for dead in data),
        votes_gone=sum(m.votes for m, dead in zip(store.members, gone, strict=False) if dead),
        votes=sum(m.votes for m in store.members),
        keeps_primary=commits_wait(store, gone[:members]),
        rpo_is_open=lost and rpo_is_open(rpo, usable),
        in_doubt=unknown,
    )


@dataclass(frozen=True, slots=True, eq=False)
class FamilyHits:
    """For each needed store family: the losses in which no instance of it is left."""

    names: tuple[str, ...]
    index: dict[str, int]
    losses: tuple[IndexColumn, ...]
    """By family, their numbers, sorted."""
    ready_ms: tuple[IntColumn, ...]
    """By family, when the quickest instance is back."""
    begins: tuple[CodeColumn, ...]
    """By family, what its return begins with: the last of these."""
    open: tuple[BoolColumn, ...]
    """By family, (L,) whether no instance is certainly left, or none is and it is unknown whether what it is
    rebuilt from is left, or whether what it loses is too much.
    """
    rebuild_ms: dict[int, IntColumn]
    """For families rebuilt when no copy is left: by loss, how long that takes after `ready_ms` of their
    source; -1 if a copy is left, or no source comes back.
    """

    def is_rebuilt(self, name: str, number: int) -> bool:
        """Whether a family without a copy is rebuilt after a loss."""
        row = self.index[name]
        place, found = self._place(row, number), self.rebuild_ms.get(row)
        return place is not None and found is not None and bool(found[place] >= 0)

    def rebuilt_ms(self, store: Store, number: int) -> int:
        """When a store that has no copy left after a loss is rebuilt; NEVER if it cannot be, or its source
        does not come back. A part that takes an unknown time counts as 0: services that wait for it have an
        unknown recovery time.
        """
        source = self.index.get(store.rebuilt_from or "")
        if source is None:
            return NEVER
        place, earlier, begins = self._place(source, number), self.rebuild_ms.get(source), 0
        if place is not None:
            begins = int(self.ready_ms[source][place])
            begins += 0 if earlier is None or begins >= NEVER else max(0, int(earlier[place]))
        return min(NEVER, begins + (store.rebuild_ms or 0))

    def _place(self, row: int, number: int) -> int | None:
        """Where a loss is among those of a family."""
        place = int(np.searchsorted(self.losses[row], number))
        return place if place < len(self.losses[row]) and self.losses[row][place] == number else None


def family_hits(graph: ServiceGraph, hits: StoreHits) -> FamilyHits:
    """Families over all losses, from the outcomes of their stores."""
    names = tuple(sorted(graph.family_stores))
    is_open = np.array([o.rpo_is_open for o in hits.outcomes], np.bool_)
    ready_ms = np.array([o.ready_ms for o in hits.outcomes], np.int64)
    begins = np.array([RELEASE + o.from_loss if o.elects else FENCE for o in hits.outcomes], np.int64)
    found = [_family(hits, ready_ms, begins, is_open, graph.family_stores[name]) for name in names]
    losses, ready, first, doubtful = zip(*found, strict=True) if found else ((), (), (), ())
    families = FamilyHits(names, {n: i for i, n in enumerate(names)}, losses, ready, first, doubtful, {})
    _rebuild(graph, hits, families)
    return families


def _rebuild(graph: ServiceGraph, hits: StoreHits, families: FamilyHits) -> None:
    """A family without a copy is ready once its source is back and the rebuild is done. Sources come first;
    families rebuilt from each other never come back.
    """
    best: dict[int, Store] = {}
    for row, name in enumerate(families.names):
        stores = [hits.parts[number].store for number in graph.family_stores[name]]
        made = [store for store in stores if store.rebuilt_from in families.index]
        if made:
            best[row] = min(made, key=lambda store: store.rebuild_ms or 0)
    open_ = dict(best)
    while ready := [row for row, one in open_.items() if families.index[one.rebuilt_from or ""] not in open_]:
        for row in ready:
            store = open_.pop(row)
            source, losses = families.index[store.rebuilt_from or ""], families.losses[row]
            takes = np.full(len(losses), -1, np.int64)
            for place in np.flatnonzero(families.ready_ms[row] >= NEVER).tolist():
                at = int(np.searchsorted(families.losses[source], losses[place]))
                gone = at < len(families.losses[source]) and families.losses[source][at] == losses[place]
                families.open[row][losses[place]] |= families.open[source][losses[place]]
                families.ready_ms[row][place] = families.ready_ms[source][at] if gone else 0
                families.begins[row][place] = families.begins[source][at] if gone else RELEASE
                if families.ready_ms[row][place] >= NEVER:
                    continue
                earlier = families.rebuild_ms.get(source)
                before = max(0, int(earlier[at])) if gone and earlier is not None else 0
                takes[place] = before + (store.rebuild_ms or 0)
            families.rebuild_ms[row] = takes


def _family(
    hits: StoreHits, ready_ms: IntColumn, begins: IntColumn, is_open: BoolColumn, named: tuple[int, ...]
) -> tuple[IndexColumn, IntColumn, CodeColumn, BoolColumn]:
    """The losses that leave no store of a family, when the first is back, what that begins with, and which
    losses may leave none, or one that comes back with a loss that may be too much. A store that
    may come back counts only if no other certainly does; it is then back at once at best.
    """
    stores = list(named)
    gone = np.asarray(hits.lost[:, stores].all(axis=1))
    numbers = np.flatnonzero(gone).astype(np.int32)
    times, back = np.full(len(numbers), NEVER, np.int64), np.zeros(len(numbers), np.bool_)
    in_doubt = np.array([o.in_doubt for o in hits.outcomes], np.bool_)
    first = np.full(len(numbers), FENCE, np.uint8)
    doubtful = np.zeros(len(hits.lost), np.bool_)
    rebuilt = any(hits.parts[store].store.rebuilt_from is not None for store in stores)
    for store in stores:
        own = _ready_at(hits, ready_ms, store, numbers)
        doubtful[numbers] |= np.asarray(_ready_at(hits, is_open, store, numbers), np.bool_)
        sooner = own < times
        first[sooner] = _ready_at(hits, begins, store, numbers)[sooner]
        times = np.minimum(times, own)
    for store in () if rebuilt else stores:
        unsure = np.asarray(_ready_at(hits, in_doubt, store, numbers), np.bool_) & (times >= NEVER)
        doubtful[numbers[unsure]] = True
        back[unsure] = True
    times[back] = 0
    possible = (hits.lost[:, stores] | hits.maybe[:, stores]).all(axis=1)
    return numbers, times, first, np.asarray(possible & ~gone | doubtful)


def _ready_at(hits: StoreHits, values: Any, store: int, numbers: IndexColumn) -> Any:
    """What these outcomes are for one store under some losses. values: by outcome."""
    first, last = np.searchsorted(hits.store, (store, store + 1))
    place = first + np.searchsorted(hits.loss[first:last], numbers)
    return values[hits.outcome[place]] if len(numbers) else values[:0]
