"""Placing what a loss takes: first fit over shapes of servers, a service at a time.

Quick enough for every site and hall, exact in vector capacity and fragmentation up to the rounding
of the shapes; spread by server and by site is kept, spread by rack and feed and conflict groups are
left to `evac plan`. For small losses a sufficient test is enough: each lost replica gets a server
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evac.audit.room import Room, Used, Wants, useful_shapes
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.units import UNBOUNDED
from evac.planning.packing.shapes import Fitted, Shapes, bounds_of, first_fit, splits_of

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """Shapes of servers, what services ask of them, and which of them hold anything (G,).

    used: what the shapes were made of.
    """

    room: Room
    wants: Wants
    useful: BoolColumn
    used: Used


def stock_of(room: Room, wants: Wants, used: Used) -> Stock:
    """What may be placed where."""
    return Stock(room, wants, useful_shapes(room, wants), used)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """What found a place: base and top (S,) replicas; boot_rank (S,): how many dark servers of its
    site are up before the last one a service needs, 0 where it needs none; left: the shapes afterwards."""

    base: IntColumn
    top: IntColumn
    boot_rank: IntColumn
    left: Shapes


def open_packing(stock: Stock, gone: IntColumn, lost_sites: BoolColumn, wanted: IntColumn) -> Shapes:
    """The shapes that a loss leaves and that hold anything; wanted (S,): what will be placed."""
    room = stock.room
    count = np.where(stock.useful, room.count - gone, 0)
    count[lost_sites[room.site]] = 0
    kept = np.flatnonzero(count > 0)
    size, sites = len(kept), len(lost_sites)
    extra = splits_of(wanted, stock.wants.site_cap < UNBOUNDED, sites)

    def grown(column: NDArray[Kind]) -> NDArray[Kind]:
        return np.concatenate([column[kept], np.zeros(extra, column.dtype)])

    free = np.zeros((size + extra, len(room.free)), np.int64)
    free[:size] = room.amounts[kept]
    bounds = bounds_of(room.stage[kept], room.pool[kept], len(room.pool_site))
    return Shapes(
        free=free, servers=grown(count), pool=grown(room.pool), site=grown(room.site),
        stage=grown(room.stage), is_pool=grown(room.is_pool), size=np.array([size, size], np.int64),
        boots=np.zeros(sites, np.int64), bounds=bounds, touched=np.zeros(sites, np.bool_),
    )  # fmt: skip


def pack(shapes: Shapes, wants: Wants, base: IntColumn, top: IntColumn, at_site: IntColumn) -> Placed:
    """Place base replicas (S,) of all services, then top ones, each in the order of `wants`.

    at_site (sites, S): replicas that survive, for the cap per site. The shapes are used up.
    """
    fitted = Fitted(*(np.zeros(len(base), np.int64) for _ in range(3)))
    first_fit(shapes, wants.asking, base, top, at_site.copy(), fitted)
    return Placed(fitted.base, fitted.top, fitted.rank, shapes)
