"""A sufficient test for thousands of small losses at once: every lost replica gets a server of its own.

First in the same site, then anywhere it may run; without dark servers, then with them. A test holds for a
loss whose slack is not negative: the least, over its services, of servers within reach less those that the
loss takes and that services with no more choices ask for. After a change that moves no reach by more than
d, a slack is at least what it was less 3d, as the order of services moves by 2d at most, and at most what it
was plus d. So only losses whose slack may have come to the other side of nothing are asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from evac.audit.closure import Pairs, Taken
from evac.audit.losses import Losses
from evac.audit.room import Room
from evac.audit.supply import Supply
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.units import UNBOUNDED
from evac.planning.packing.shapes import own_servers

_TESTS: Final = ((False, False), (False, True), (True, False), (True, True))
"""Whether dark servers count, and whether those of other sites do."""

_NEAR: Final = 8
"""A service whose reach moves further is looked at by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Open:
    """Pairs of some losses, and how many replicas of each want a place."""

    pairs: Pairs
    count: IntColumn

    def only(self, losses: BoolColumn) -> Open:
        """Those of some losses."""
        chosen = losses[self.pairs.loss]
        return Open(self.pairs.only(chosen), self.count[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Pairs that are taken, and how many replicas of each want a place. in_all: how many replicas each loss
    takes (L,), and how many of them want a place (L,); by_site: pairs of the small losses of each site."""

    taken: Taken
    count: IntColumn
    in_all: tuple[IntColumn, IntColumn]
    by_site: tuple[Open, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """fits (L,): losses for which the test holds; boots (L,): and it takes dark servers. What it was asked
    of: wanted; reach (sites, tests, S): servers; taken (L,): usable servers inside each loss; low, high
    (L, tests): between which the slack lies."""

    fits: BoolColumn
    boots: BoolColumn
    wanted: Wanted
    reach: IntColumn
    taken: IntColumn
    low: IntColumn
    high: IntColumn


def wanted_of(taken: Taken, known: BoolColumn, losses: Losses) -> Wanted:
    """What is taken and may stand elsewhere; known: (L, S) where anything is known that could carry it."""
    pairs = taken.pairs
    count = taken.count if known.all() else np.where(pairs.of(known), taken.count, 0).astype(np.int64)
    in_all, placed = (np.bincount(pairs.loss, n, len(losses)).astype(np.int64) for n in (taken.count, count))
    site = np.where(_small(losses), losses.site, -1).astype(np.int16)[pairs.loss]
    # By site, and in the order of the pairs within one.
    rows = np.argsort(site, kind="stable")
    edges = np.searchsorted(site[rows], np.arange(losses.sites.shape[1] + 1))
    by_site = tuple(
        Open(Pairs(pairs.service[chosen], pairs.loss[chosen]), count[chosen])
        for chosen in (rows[one:end] for one, end in pairwise(edges.tolist()))
    )
    return Wanted(taken, count, (in_all, placed), by_site)


def settled(supply: Supply, losses: Losses, wanted: Wanted, before: Settled | None) -> Settled:
    """Losses for which the test holds. before: of the same losses, to ask only where it may differ."""
    reach, taken = _reach(supply), _usable_lost(supply.room, losses)
    low, high = _bounds(losses, wanted, reach, taken, before)
    fits, boots = (np.zeros(len(losses), np.bool_) for _ in range(2))
    small = _small(losses)
    for site, tests in enumerate(reach if len(supply.room.count) else ()):
        left = small & (losses.site == site)
        for test, (dark, _) in enumerate(_TESTS):
            asked = left & (low[:, test] < 0) & (high[:, test] >= 0)
            if asked.any():
                slack = _slack(wanted.by_site[site].only(asked), tests[test], taken)
                low[asked, test] = high[asked, test] = slack[asked]
            found = left & (low[:, test] >= 0)
            fits |= found
            boots[found] = dark
            left &= ~found
    return Settled(fits, boots, wanted, reach, taken, low, high)


def _small(losses: Losses) -> BoolColumn:
    """(L,) losses inside one site that leave something of it."""
    return np.asarray((losses.site >= 0) & ~losses.sites.any(axis=1))


def _reach(supply: Supply) -> IntColumn:
    """(sites, tests, S) servers within reach: of the same site, or of all sites for services without a cap
    per site."""
    on, dark = supply.fits.on.T, supply.fits.dark.T
    found = np.empty((len(on), len(_TESTS), on.shape[1]), np.int64)
    capped = supply.wants.site_cap < UNBOUNDED
    for test, (more, wide) in enumerate(_TESTS):
        table = on + dark if more else on
        found[:, test] = np.where(capped, table, np.maximum(table, 0).sum(axis=0)) if wide else table
    return found


def _usable_lost(room: Room, losses: Losses) -> IntColumn:
    """(L,) usable servers inside each loss."""
    so_far = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(room.row_start)[losses.row])])
    return np.asarray(so_far[losses.start[1:]] - so_far[losses.start[:-1]])


def _bounds(
    losses: Losses, wanted: Wanted, reach: IntColumn, taken: IntColumn, before: Settled | None
) -> tuple[IntColumn, IntColumn]:
    """(L, tests) between which the slack of each loss lies."""
    size = len(losses), len(_TESTS)
    if before is None:
        return np.full(size, -UNBOUNDED), np.full(size, UNBOUNDED)
    low, high = before.low.copy(), before.high.copy()
    changed = _asking_other(before.wanted, wanted, len(losses)) | (taken != before.taken)
    low[changed], high[changed] = -UNBOUNDED, UNBOUNDED
    moved = np.abs(reach - before.reach)
    far = moved > _NEAR
    moved[far] = 0
    for site, tests in enumerate(moved.max(axis=2, initial=0)):
        here = losses.site == site
        low[here] -= 3 * tests
        high[here] += tests
    for site, test in np.argwhere(far.any(axis=2)).tolist():
        pairs = wanted.by_site[site].pairs
        lost = pairs.loss[far[site, test][pairs.service]]
        low[lost, test], high[lost, test] = -UNBOUNDED, UNBOUNDED
    return low, high


def _asking_other(before: Wanted, after: Wanted, losses: int) -> BoolColumn:
    """(L,) losses after which something else wants a place: those between the first row of the pairs that
    differs and the last one."""
    found = np.zeros(losses, np.bool_)
    if before is after:
        return found
    columns = [(one.taken.pairs.service, one.taken.pairs.loss, one.count) for one in (before, after)]
    least = min(len(columns[0][0]), len(columns[1][0]))
    first, back = least, least
    for one, other in zip(*columns, strict=True):
        front = one[:least] != other[:least]
        rear = (one[len(one) - least :] != other[len(other) - least :])[::-1]
        first = min(first, int(front.argmax()) if front.any() else least)
        back = min(back, int(rear.argmax()) if rear.any() else least)
    back = min(back, least - first)
    for _, loss, _ in columns:
        found[loss[first : len(loss) - back]] = True
    return found


def _slack(wanted: Open, reach: IntColumn, taken: IntColumn) -> IntColumn:
    """(L,) slack of losses, `UNBOUNDED` where nothing is wanted. Those with the fewest choices go first."""
    pairs, slack = wanted.pairs, np.full(len(taken), UNBOUNDED, np.int64)
    start = np.searchsorted(pairs.service, np.arange(len(reach) + 1))
    order = np.argsort(reach, kind="stable").astype(np.int32)
    own_servers(order, np.ascontiguousarray(reach), start, pairs.loss, wanted.count, -taken, slack)
    return slack
