"""On how many servers of each site one more replica of a service finds room, and the same after a change.

Every server counts for itself, so what a change takes away and adds is counted, and all else is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.audit.closure import RowNumbers
from evac.audit.room import Room, Wants, bindings_of
from evac.model.estate import Estate
from evac.model.fleet import ON_SERVER, BoolColumn, IndexColumn, IntColumn
from evac.planning.packing.alike import alike
from evac.planning.packing.shapes import STAGE_DARK, Asking, fitting_servers, holding_servers


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """(S, sites) servers that could take one replica, on and dark; those that hold the service already are
    taken off the first."""

    on: IntColumn
    dark: IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What an estate has, and what its services ask for."""

    estate: Estate
    room: Room
    wants: Wants


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """Some shapes of servers: free (G, R), pool, site, servers of each, and whether they are dark (G,)."""

    free: IntColumn
    pool: IndexColumn
    site: IndexColumn
    servers: IntColumn
    dark: BoolColumn


def fits_of(offer: Offer) -> Fits:
    """Linear in services x shapes, and in bindings."""
    return _fits(offer, np.arange(len(offer.wants.known), dtype=np.int32))


def fits_again(before: Fits, old: Offer, new: Offer, services: IndexColumn) -> Fits:
    """The same after a change. services, sorted: those that stand elsewhere; all others stand as before."""
    if not np.array_equal(old.wants.kinds, new.wants.kinds) or old.room.pool_names != new.room.pool_names:
        return fits_of(new)
    differs = (old.wants.demand != new.wants.demand).any(axis=1) | (old.wants.kind != new.wants.kind)
    if not len(services) and not differs.any() and old.room.same(new.room):
        return before
    found = Fits(before.on.copy(), before.dark.copy())
    shapes, servers = _shapes_changed(old.room, new.room)
    _add_shapes(new.wants.asking, shapes, found)
    for offer, sign in ((old, 1), (new, -1)):
        rows = _bindings_on(offer, servers, services)
        found.on[:] += sign * _held(offer, offer.wants.asking, rows, len(before.on))
    other = np.flatnonzero(differs).astype(np.int32)
    if len(other):
        again = _fits(new, other)
        found.on[other], found.dark[other] = again.on, again.dark
    return found


def _fits(offer: Offer, chosen: IndexColumn) -> Fits:
    """The rows of some services, sorted."""
    room, wants, sites = offer.room, offer.wants, len(offer.estate.sites)
    every = len(chosen) == len(wants.known)
    asking = wants.asking if every else _asking_of(wants, chosen)
    found = Fits(*(np.zeros((len(chosen), sites), np.int64) for _ in range(2)))
    bare = np.flatnonzero(~room.is_pool)
    _add_shapes(asking, _picked(room, bare, room.count[bare]), found)
    rows = np.arange(len(offer.estate.replicas)) if every else bindings_of(offer.estate.replicas, chosen)
    found.on[:] -= _held(
        offer, asking, rows[offer.estate.replicas.kind[rows] == ON_SERVER], len(chosen), chosen
    )
    return found


def _asking_of(wants: Wants, chosen: IndexColumn) -> Asking:
    return Asking(
        wants.demand[chosen],
        wants.known[chosen],
        wants.per_server[chosen],
        wants.site_cap[chosen],
        wants.kinds,
        wants.kind[chosen],
        np.arange(len(chosen), dtype=np.int32),
    )


def _picked(room: Room, rows: RowNumbers, servers: IntColumn) -> _Shapes:
    dark = room.stage[rows] == STAGE_DARK
    return _Shapes(room.amounts[rows], room.pool[rows], room.site[rows], servers, dark)


def _add_shapes(asking: Asking, shapes: _Shapes, found: Fits) -> None:
    """Counts servers of some shapes, less than none where they are gone."""
    for table, chosen in ((found.on, ~shapes.dark), (found.dark, shapes.dark)):
        if chosen.any():
            columns = shapes.free[chosen], shapes.pool[chosen], shapes.site[chosen], shapes.servers[chosen]
            fitting_servers(asking, *columns, table)


def _held(
    offer: Offer, asking: Asking, rows: RowNumbers, services: int, chosen: IndexColumn | None = None
) -> IntColumn:
    """(S, sites) servers that fit one more but hold the service already, by some bindings on servers. chosen:
    the services that `asking` is about, all if None."""
    replicas, fleet, room = offer.estate.replicas, offer.estate.fleet, offer.room
    found, server = np.zeros((services, len(offer.estate.sites)), np.int64), replicas.target[rows]
    service = replicas.service[rows]
    if chosen is not None and len(chosen) < len(offer.wants.known):
        service = np.searchsorted(chosen, service).astype(np.int32)
    holding_servers(
        asking, room.amounts, room.pool, service, room.server_shape[server], fleet.site[server], found
    )
    return -found


def _bindings_on(offer: Offer, servers: BoolColumn, services: IndexColumn) -> RowNumbers:
    """Rows of bindings on some servers, and of those of some services that are on servers."""
    replicas = offer.estate.replicas
    rows = bindings_of(replicas, services)
    own: RowNumbers = rows[replicas.kind[rows] == ON_SERVER]
    if not servers.any():
        return own
    # Targets of other kinds number something else, so that they may lie beyond the servers.
    here: BoolColumn = servers.take(replicas.target, mode="clip")
    here &= replicas.kind == ON_SERVER
    here[own] = True
    return np.flatnonzero(here)


def _shapes_changed(old: Room, new: Room) -> tuple[_Shapes, BoolColumn]:
    """Shapes of bare servers of which there are more or fewer, by how many, and (servers,) those that are of
    another shape. Of rooms with the same pools."""
    bare = [np.flatnonzero(~room.is_pool) for room in (old, new)]
    table = np.concatenate(
        [
            np.column_stack([room.stage[rows], room.pool[rows], room.amounts[rows]]).astype(np.int64)
            for room, rows in zip((old, new), bare, strict=True)
        ]
    )
    first, group = alike(table, len(table)) or (np.empty(0, np.int32), np.empty(0, np.int32))
    of_old, of_new = group[: len(bare[0])], group[len(bare[0]) :]
    more = np.zeros(len(first), np.int64)
    np.add.at(more, of_new, new.count[bare[1]])
    np.subtract.at(more, of_old, old.count[bare[0]])
    # What is in no shape stands behind all of them.
    before = np.append(of_old, np.int32(-1))[old.server_shape]
    after = np.append(of_new, np.int32(-1))[new.server_shape]
    changed = np.flatnonzero(more)
    at = first[changed]
    site = np.concatenate([old.site[bare[0]], new.site[bare[1]]])[at]
    stage, pool, free = table[at, 0], table[at, 1].astype(np.int32), np.ascontiguousarray(table[at, 2:])
    return _Shapes(free, pool, site, more[changed], stage == STAGE_DARK), before != after
