"""How many replicas of each service stand where, and how many each loss takes.

A service that no replica table mentions stands where its declaration says, with a number that is
not known: only the loss of all its sites can be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.audit.losses import Losses, Rows
from evac.model.domain import Topology
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, BoolColumn, IntColumn, Replicas
from evac.model.units import ceil_share

CountTable = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """counts: (rows, S) replicas; per_site: (sites, S); n: (S,) replicas in all; m: (S,) smallest
    count that serves; counted: (S,) whether n is known; loose: (sites, S) stands there, in no known
    part of the site; pooled: (pools, S) stands on a pool whose servers are known."""

    counts: CountTable
    per_site: CountTable
    n: IntColumn
    m: IntColumn
    counted: BoolColumn
    loose: BoolColumn
    pooled: BoolColumn


def presence(top: Topology, rows: Rows) -> Presence:
    """Replica counts of an estate; linear in bindings and in rows x services."""
    estate = top.estate
    replicas, named = estate.replicas, estate.services
    key = _row_of_binding(top, rows, replicas).astype(np.int64) * len(named) + replicas.service
    weights = replicas.count.astype(np.float64)
    counts = np.bincount(key, weights, rows.count * len(named)).astype(np.int32)
    counts = counts.reshape(rows.count, len(named))
    counted = np.asarray(counts.sum(axis=0) > 0)
    for number, service in enumerate(named):
        if not counted[number]:
            for site in service.sites:
                counts[rows.of_site[top.site_index[site]], number] = 1
    per_site = np.zeros((len(estate.sites), len(named)), np.int32)
    for number in range(len(estate.sites)):
        per_site[number] = counts[rows.site == number].sum(axis=0)
    n = per_site.sum(axis=0).astype(np.int64)
    m = np.array(
        [
            ceil_share(s.share.numerator, s.share.denominator, int(k)) if k else 0
            for s, k in zip(named, n, strict=True)
        ],
        np.int64,
    )
    m[~counted] = np.minimum(n, 1)[~counted]
    loose, pooled = _loose(top, rows, replicas, counts, counted)
    return Presence(counts, per_site, n, m, counted, loose, pooled)


def _row_of_binding(top: Topology, rows: Rows, replicas: Replicas) -> IntColumn:
    row = np.zeros(len(replicas), np.int64)
    lookups = ((ON_SERVER, rows.of_server), (ON_POOL, rows.of_site[top.pool_site]), (AT_SITE, rows.of_site))
    for kind, lookup in lookups:
        here = replicas.kind == kind
        row[here] = lookup[replicas.target[here]]
    return row


def _loose(
    top: Topology, rows: Rows, replicas: Replicas, counts: CountTable, counted: BoolColumn
) -> tuple[BoolColumn, BoolColumn]:
    """What is known by its site only. Pools whose member servers are known are kept apart."""
    estate = top.estate
    shape = (len(estate.pools), counts.shape[1])
    pooled, loose = np.zeros(shape, np.bool_), np.zeros((len(estate.sites), shape[1]), np.bool_)
    members = estate.fleet.pool[estate.fleet.pool >= 0]
    with_servers = np.bincount(members, minlength=shape[0]) > 0
    on_pool = np.flatnonzero(replicas.kind == ON_POOL)
    pool, service = replicas.target[on_pool], replicas.service[on_pool]
    apart = with_servers[pool]
    pooled[pool[apart], service[apart]] = True
    loose[top.pool_site[pool[~apart]], service[~apart]] = True
    at_site = replicas.kind == AT_SITE
    loose[replicas.target[at_site], replicas.service[at_site]] = True
    rackless = np.flatnonzero(replicas.kind == ON_SERVER)
    rackless = rackless[estate.fleet.rack[replicas.target[rackless]] < 0]
    loose[estate.fleet.site[replicas.target[rackless]], replicas.service[rackless]] = True
    loose |= (counts[rows.of_site] > 0) & ~counted[None, :]
    return loose, pooled


def lost_counts(found: Presence, losses: Losses) -> CountTable:
    """(L, S) replicas each loss takes."""
    lost = np.zeros((len(losses), found.counts.shape[1]), np.int32)
    sizes = np.diff(losses.start)
    one = np.flatnonzero(sizes == 1)
    lost[one] = found.counts[losses.row[losses.start[one]]]
    for number in np.flatnonzero(sizes > 1):
        lost[number] = found.counts[losses.rows_of(int(number))].sum(axis=0)
    return lost


def endpoints_lost(found: Presence, losses: Losses, lost: CountTable) -> BoolColumn:
    """(L, S) whether a service loses all it had at some site: its traffic must go elsewhere."""
    gone = np.zeros(lost.shape, np.bool_)
    single = np.flatnonzero(losses.site >= 0)
    gone[single] = (lost[single] > 0) & (lost[single] == found.per_site[losses.site[single]])
    for number in np.flatnonzero(losses.site < 0):
        rows = losses.rows_of(int(number))
        for site in np.unique(losses.rows.site[rows]):
            here = found.counts[rows[losses.rows.site[rows] == site]].sum(axis=0)
            gone[number] |= (here > 0) & (here == found.per_site[site])
    return gone


def unjudged(top: Topology, found: Presence, losses: Losses) -> BoolColumn:
    """(L, S) what a loss below a site may or may not take, because only the site is known."""
    open_question = np.zeros((len(losses), found.n.shape[0]), np.bool_)
    below = ~losses.sites.any(axis=1)
    single = np.flatnonzero((losses.site >= 0) & below)
    open_question[single] = found.loose[losses.site[single]]
    for number in np.flatnonzero(losses.site < 0):
        rows = losses.rows_of(int(number))
        partly = np.setdiff1d(np.unique(losses.rows.site[rows]), np.flatnonzero(losses.sites[number]))
        if len(partly):
            open_question[number] = found.loose[partly].any(axis=0)
    if found.pooled.any():
        _judge_pools(top, found, losses, open_question)
    return open_question


def _judge_pools(top: Topology, found: Presence, losses: Losses, open_question: BoolColumn) -> None:
    """A pool that loses some of its servers decides for itself what stops: not known beforehand."""
    fleet = top.estate.fleet
    members = np.flatnonzero(fleet.pool >= 0)
    holds = np.zeros((losses.rows.count, len(top.estate.pools)), np.bool_)
    holds[losses.rows.of_server[members], fleet.pool[members]] = True
    for number in range(len(losses)):
        pools = holds[losses.rows_of(number)].any(axis=0)
        pools &= ~losses.sites[number][top.pool_site]
        if pools.any():
            open_question[number] |= found.pooled[pools].any(axis=0)
