"""A sufficient test for thousands of small losses at once: every lost replica gets a server of its own.

First in the same site, then anywhere it may run; without dark servers, then with them. A test holds for a
loss whose slack is not negative: the least, over its services, of servers within reach less those that the
loss takes and that services with no more choices ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.audit.closure import Taken
from evac.audit.first_fit import own_servers
from evac.audit.losses import Losses
from evac.audit.room import Room
from evac.audit.supply import Supply
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.units import UNBOUNDED

_TESTS: Final = ((False, False), (False, True), (True, False), (True, True))
"""Whether dark servers count, and whether those of other sites do."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Pairs that are taken, and how many replicas of each want a place. in_all: how many replicas each loss
    takes (L,), and how many of them want a place (L,)."""

    taken: Taken
    count: IntColumn
    in_all: tuple[IntColumn, IntColumn]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """fits (L,): losses for which the test holds; boots (L,): and it takes dark servers."""

    fits: BoolColumn
    boots: BoolColumn


def wanted_of(taken: Taken, known: BoolColumn, losses: Losses) -> Wanted:
    """What is taken and may stand elsewhere; known: (L, S) where anything is known that could carry it."""
    pairs = taken.pairs
    count = taken.count if known.all() else np.where(pairs.of(known), taken.count, 0).astype(np.int64)
    in_all, placed = (np.bincount(pairs.loss, n, len(losses)).astype(np.int64) for n in (taken.count, count))
    return Wanted(taken, count, (in_all, placed))


def settled(supply: Supply, losses: Losses, wanted: Wanted) -> Settled:
    """Losses for which the test holds."""
    reach, taken = _reach(supply), _usable_lost(supply.room, losses)
    fits, boots = (np.zeros(len(losses), np.bool_) for _ in range(2))
    # Losses inside one site that leave something of it.
    small = (losses.site >= 0) & ~losses.sites.any(axis=1)
    for site, tests in enumerate(reach if len(supply.room.count) else ()):
        left = small & (losses.site == site)
        for test, (dark, _) in enumerate(_TESTS):
            if left.any():
                found = left & (_slack(wanted, left, tests[test], taken) >= 0)
                fits |= found
                boots[found] = dark
                left &= ~found
    return Settled(fits, boots)


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


def _slack(wanted: Wanted, asked: BoolColumn, reach: IntColumn, taken: IntColumn) -> IntColumn:
    """(L,) slack of some losses, `UNBOUNDED` where nothing is wanted; those with few choices go first."""
    slack, rows = np.full(len(taken), UNBOUNDED, np.int64), asked[wanted.taken.pairs.loss]
    pairs = wanted.taken.pairs.only(rows)
    start = np.searchsorted(pairs.service, np.arange(len(reach) + 1))
    order = np.argsort(reach, kind="stable").astype(np.int32)
    own_servers(order, np.ascontiguousarray(reach), start, pairs.loss, wanted.count[rows], -taken, slack)
    return slack
