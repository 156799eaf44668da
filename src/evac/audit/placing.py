"""Placing what a loss takes: first fit over shapes of servers, a service at a time.

Quick enough for every site and hall, exact in vector capacity and fragmentation up to the rounding
of the shapes; spread by server and by site is kept, spread by rack and feed and conflict groups are
left to `evac plan`. For small losses a sufficient test is enough: each lost replica gets a server
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.audit.first_fit import (
    STAGES,
    Fitted,
    Shapes,
    blocks_of,
    first_fit,
    open_shapes,
    splits_of,
)
from evac.audit.room import Room, Used, Wants, useful_shapes
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.units import UNBOUNDED

_NO_DEMAND: Final = np.iinfo(np.int64).max


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
    room, wants, sites = stock.room, stock.wants, len(lost_sites)
    left = np.where(stock.useful & ~lost_sites[room.site], room.count - gone, 0)
    entries = len(left) + splits_of(wanted, wants.site_cap < UNBOUNDED, sites)
    resources, blocks = len(room.free), blocks_of(entries)
    shapes = Shapes(
        free=np.empty((entries, resources), np.int64),
        servers=np.empty(entries, np.int64),
        pool=np.empty(entries, np.int32),
        site=np.empty(entries, np.int32),
        stage=np.empty(entries, np.int32),
        is_pool=np.empty(entries, np.bool_),
        size=np.zeros(2, np.int64),
        boots=np.zeros(sites, np.int64),
        bounds=np.zeros((STAGES, len(room.pool_site), 2), np.int64),
        refused=np.full((len(wants.kinds), sites + 1, resources), _NO_DEMAND),
        most=np.zeros((blocks, resources), np.int64),
        loose=np.zeros(blocks, np.bool_),
    )
    open_shapes(shapes, left, room.amounts, room.pool, room.site, room.stage, room.is_pool)
    return shapes


def pack(shapes: Shapes, wants: Wants, base: IntColumn, top: IntColumn, at_site: IntColumn) -> Placed:
    """Place base replicas (S,) of all services, then top ones, each in the order of `wants`.

    at_site (sites, S): replicas that survive, for the cap per site. The shapes are used up.
    """
    fitted = Fitted(*(np.zeros(len(base), np.int64) for _ in range(3)))
    first_fit(shapes, wants.asking, base, top, at_site.copy(), fitted)
    return Placed(fitted.base, fitted.top, fitted.rank, shapes)
