"""A sufficient test for thousands of small losses at once: every lost replica gets a server of its own.

First in the same site, then anywhere it may run; without dark servers, then with them. A test holds for a
loss whose slack is not negative: the least, over its services, of servers within reach less those that the
loss takes and that services with no more choices ask for. After a change that moves no reach by more than
d, a slack is at least what it was less 3d, as the order of services moves by 2d at most, and at most what it
was plus d. So only losses whose slack may have come to the other side of nothing are asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
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
class Wanted:
    """Pairs that are taken, and how many replicas of each want a place. in_all: how many replicas each loss
    takes (L,), and how many of them want a place (L,)."""

    taken: Taken
    count: IntColumn
    in_all: tuple[IntColumn, IntColumn]


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
    return Wanted(taken, count, (in_all, placed))


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
                slack = _slack(wanted, asked, tests[test], taken)
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
    pairs = wanted.taken.pairs
    for site, test in np.argwhere(far.any(axis=2)).tolist():
        lost = pairs.loss[far[site, test][pairs.service]]
        lost = lost[losses.site[lost] == site]
        low[lost, test], high[lost, test] = -UNBOUNDED, UNBOUNDED
    return low, high


def _asking_other(before: Wanted, after: Wanted, losses: int) -> BoolColumn:
    """(L,) losses after which another number of replicas of some service is taken, or wants a place."""
    found = np.zeros(losses, np.bool_)
    if before is after:
        return found
    old, new = before.taken.pairs, after.taken.pairs
    first, last, end = _differing(old, new, before.count, after.count)
    # Pairs are sorted, so what stands in both is found by its place.
    was = old.service[first:last].astype(np.int64) * losses + old.loss[first:last]
    now = new.service[first:end].astype(np.int64) * losses + new.loss[first:end]
    place = np.searchsorted(was, now)
    known = np.append(was, -1)[place] == now
    known[known] = before.count[first:last][place[known]] == after.count[first:end][known]
    gone = np.ones(len(was), np.bool_)
    gone[place[known]] = False
    found[old.loss[first:last][gone]] = True
    found[new.loss[first:end][~known]] = True
    return found


def _differing(old: Pairs, new: Pairs, count: IntColumn, other: IntColumn) -> tuple[int, int, int]:
    """From which row pairs and counts differ, and up to which row of each."""
    least = min(len(old), len(new))
    first = back = least
    for one, more in ((old.service, new.service), (old.loss, new.loss), (count, other)):
        front = one[:least] != more[:least]
        rear = (one[len(one) - least :] != more[len(more) - least :])[::-1]
        first = min(first, int(front.argmax()) if front.any() else least)
        back = min(back, int(rear.argmax()) if rear.any() else least)
    back = min(back, least - first)
    return first, len(old) - back, len(new) - back


def _slack(wanted: Wanted, asked: BoolColumn, reach: IntColumn, taken: IntColumn) -> IntColumn:
    """(L,) slack of some losses, `UNBOUNDED` where nothing is wanted; those with few choices go first."""
    slack, rows = np.full(len(taken), UNBOUNDED, np.int64), asked[wanted.taken.pairs.loss]
    pairs = wanted.taken.pairs.only(rows)
    start = np.searchsorted(pairs.service, np.arange(len(reach) + 1))
    order = np.argsort(reach, kind="stable").astype(np.int32)
    own_servers(order, np.ascontiguousarray(reach), start, pairs.loss, wanted.count[rows], -taken, slack)
    return slack
