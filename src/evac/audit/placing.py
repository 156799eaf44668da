"""Placing what a loss takes: first fit over shapes of servers, a service at a time.

Quick enough for every site and hall, exact in vector capacity and fragmentation up to the rounding
of the shapes; spread by server and by site is kept, spread by rack and feed and conflict groups are
left to `evac plan`. For small losses a sufficient test is enough: each lost replica gets a server
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from evac.audit.closure import RowNumbers
from evac.audit.room import STAGE_BOOTED, STAGE_DARK, STAGE_EMPTY, STAGE_USED, Room, Wants
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.units import UNBOUNDED

_LOOK_AHEAD: Final = 64
"""Shapes that are looked at first; more only where these are not enough."""

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """What found a place: base and top (S,) replicas; boot_rank (S,): how many dark servers of its
    site are up before the last one a service needs, 0 where it needs none; left: the shapes afterwards."""

    base: IntColumn
    top: IntColumn
    boot_rank: IntColumn
    left: Packing


@dataclass(slots=True, eq=False)
class Packing:
    """Shapes that shrink and split while replicas are placed. `size` entries are in use.

    may (K, entries): whether services of a kind of `wants.kinds` may use what is left of a shape.
    """

    free: IntColumn
    count: IntColumn
    pool: IndexColumn
    site: IndexColumn
    stage: IndexColumn
    is_pool: BoolColumn
    may: BoolColumn
    size: int
    boots: IntColumn


def open_packing(room: Room, wants: Wants, gone: IntColumn, lost_sites: BoolColumn, splits: int) -> Packing:
    """A packing of the shapes that a loss leaves and that hold anything; room for so many splits."""
    count = np.where(wants.useful, room.count - gone, 0)
    count[lost_sites[room.site]] = 0
    kept = np.flatnonzero(count > 0)
    size = len(kept)
    extra = 2 * splits + 2

    def grown(column: NDArray[Kind]) -> NDArray[Kind]:
        return np.concatenate([column[kept], np.zeros(extra, column.dtype)])

    free = np.zeros((len(room.free), size + extra), np.int64)
    free[:, :size] = room.free[:, kept]
    may = np.zeros((len(wants.kinds), size + extra), np.bool_)
    may[:, :size] = wants.kinds[:, room.pool[kept]]
    return Packing(
        free, grown(count), grown(room.pool), grown(room.site), grown(room.stage.astype(np.int8)),
        grown(room.is_pool), may, size, np.zeros(len(lost_sites), np.int64),
    )  # fmt: skip


def pack(packing: Packing, wants: Wants, base: IntColumn, top: IntColumn, at_site: IntColumn) -> Placed:
    """Place base replicas (S,) of all services, then top ones, each in the order of `wants`.

    at_site (sites, S): replicas that survive, for the cap per site. The packing is used up.
    """
    placed, rank, here = _pass(packing, wants, base, at_site)
    more, top_rank, _ = _pass(packing, wants, np.where(placed == base, top, 0), here)
    return Placed(placed, more, np.maximum(rank, top_rank), packing)


def _pass(
    packing: Packing, wants: Wants, counts: IntColumn, at_site: IntColumn
) -> tuple[IntColumn, IntColumn, IntColumn]:
    """Replicas placed, boot ranks, and replicas by site afterwards."""
    placed = np.zeros(len(counts), np.int64)
    rank = np.zeros(len(counts), np.int64)
    here = at_site.copy()
    for service in wants.order[counts[wants.order] > 0].tolist():
        if not wants.known[service]:
            continue
        placed[service], rank[service] = _one_service(packing, wants, service, int(counts[service]), here)
    return placed, rank, here


def _one_service(
    packing: Packing, wants: Wants, service: int, count: int, here: IntColumn
) -> tuple[int, int]:
    fits = _fits(packing, wants, service)
    cap = int(wants.site_cap[service])
    if cap >= UNBOUNDED or not len(fits):
        return _take(packing, wants, service, count, fits, here)
    placed = rank = 0
    for site in np.unique(packing.site[fits]).tolist():
        share = min(count - placed, cap - int(here[site, service]))
        if share > 0:
            chosen = _fits(packing, wants, service) if placed else fits
            chosen = chosen[packing.site[chosen] == site]
            more, up = _take(packing, wants, service, share, chosen, here)
            placed, rank = placed + more, max(rank, up)
    return placed, rank


def _fits(packing: Packing, wants: Wants, service: int) -> RowNumbers:
    """Shapes that hold one more replica, those that are on before those that must be booted."""
    size = packing.size
    mask = packing.may[wants.kind[service], :size].copy()
    for resource, amount in enumerate(wants.demand[service].tolist()):
        if amount:
            mask &= packing.free[resource, :size] >= amount
    found = mask.nonzero()[0]
    return found[packing.stage[found].argsort(kind="stable")]


def _take(
    packing: Packing, wants: Wants, service: int, count: int, shapes: RowNumbers, here: IntColumn
) -> tuple[int, int]:
    """Put up to `count` replicas on servers of these shapes, in their order."""
    if not len(shapes):
        return 0, 0
    demand = wants.demand[service]
    shapes, each, reach = _reach(packing, wants, service, count, shapes)
    whole = int(reach.searchsorted(count, side="right"))
    full = shapes[:whole]
    if whole:
        packing.free[:, full] -= demand[:, None] * each[:whole]
    placed = int(reach[whole - 1]) if whole else 0
    used, last, rest = full, -1, 0
    if placed < count and whole < len(shapes):
        last, rest = int(shapes[whole]), count - placed
        used = shapes[: whole + 1]
    if wants.site_cap[service] < UNBOUNDED:
        sites = packing.site[full]
        here[:, service] += np.bincount(sites, packing.count[full] * each[:whole], len(here)).astype(np.int64)
        if rest:
            here[packing.site[last], service] += rest
    # Shapes come in order of their stage, so the last one tells whether any must be booted.
    late = packing.stage[used[-1]] >= STAGE_BOOTED
    if late:
        dark = full[packing.stage[full] == STAGE_DARK]
        np.add.at(packing.boots, packing.site[dark], packing.count[dark])
        packing.stage[dark] = STAGE_BOOTED
    if rest:
        _split(packing, last, rest, int(each[whole]), demand)
    return placed + rest, _last_boot(packing, used) if late else 0


def _last_boot(packing: Packing, used: RowNumbers) -> int:
    """How many dark servers of its site are up before the last one that is used."""
    booted = used[packing.stage[used] >= STAGE_BOOTED]
    return int(packing.boots[packing.site[booted]].max())


def _reach(
    packing: Packing, wants: Wants, service: int, count: int, shapes: RowNumbers
) -> tuple[RowNumbers, IntColumn, IntColumn]:
    """As many of the shapes as are enough, replicas on each of their servers, and their running sum."""
    for first in (shapes[:_LOOK_AHEAD], shapes):
        each = _per_server(packing, wants, service, first)
        reach = (packing.count[first] * each).cumsum()
        if reach[-1] >= count:
            break
    return first, each, reach


def _per_server(packing: Packing, wants: Wants, service: int, shapes: RowNumbers) -> IntColumn:
    most = np.where(packing.is_pool[shapes], UNBOUNDED, wants.per_server[service])
    if (most == 1).all():
        return most
    fit = np.full(len(shapes), UNBOUNDED, np.int64)
    for resource, amount in enumerate(wants.demand[service].tolist()):
        if amount:
            fit = np.minimum(fit, packing.free[resource, shapes] // amount)
    return np.minimum(most, fit)


def _split(packing: Packing, shape: int, rest: int, each: int, demand: IntColumn) -> None:
    """Some servers of a shape take `each` replicas, at most one takes fewer."""
    full, odd = divmod(rest, each)
    for servers, replicas in ((full, each), (1 if odd else 0, odd)):
        if servers:
            _append(packing, shape, servers, demand * replicas)
            packing.count[shape] -= servers
            if packing.stage[shape] == STAGE_DARK:
                packing.boots[packing.site[shape]] += servers
    if not packing.count[shape]:
        packing.may[:, shape] = False


def _append(packing: Packing, shape: int, servers: int, amounts: IntColumn) -> None:
    new = packing.size
    if new == len(packing.count):
        _grow(packing)
    packing.free[:, new] = packing.free[:, shape] - amounts
    packing.count[new] = servers
    packing.pool[new], packing.site[new] = packing.pool[shape], packing.site[shape]
    packing.is_pool[new] = packing.is_pool[shape]
    packing.may[:, new] = packing.may[:, shape]
    stage = int(packing.stage[shape])
    packing.stage[new] = {STAGE_EMPTY: STAGE_USED, STAGE_DARK: STAGE_BOOTED}.get(stage, stage)
    packing.size += 1


def _grow(packing: Packing) -> None:
    extra = len(packing.count)
    packing.free = np.concatenate([packing.free, np.zeros((len(packing.free), extra), np.int64)], axis=1)
    packing.may = np.concatenate([packing.may, np.zeros((len(packing.may), extra), np.bool_)], axis=1)
    for name in ("count", "pool", "site", "stage", "is_pool"):
        column = getattr(packing, name)
        setattr(packing, name, np.concatenate([column, np.zeros(extra, column.dtype)]))
