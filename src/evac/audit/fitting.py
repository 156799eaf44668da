"""On how many servers of each site one more replica of a service finds room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.audit.first_fit import STAGE_DARK, fitting_servers, holding_servers
from evac.audit.room import Room, Wants
from evac.model.estate import Estate
from evac.model.fleet import ON_SERVER, IntColumn


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


def fits_of(offer: Offer) -> Fits:
    """Linear in services x shapes, and in bindings."""
    room, wants, replicas = offer.room, offer.wants, offer.estate.replicas
    found = Fits(*(np.zeros((len(wants.known), len(offer.estate.sites)), np.int64) for _ in range(2)))
    dark = room.stage == STAGE_DARK
    for table, stage in ((found.on, ~dark), (found.dark, dark)):
        rows = np.flatnonzero(stage & ~room.is_pool)
        if len(rows):
            columns = room.amounts[rows], room.pool[rows], room.site[rows], room.count[rows]
            fitting_servers(wants.asking, *columns, table)
    rows = np.flatnonzero(replicas.kind == ON_SERVER)
    server, service = replicas.target[rows], replicas.service[rows]
    shape, site = room.server_shape[server], offer.estate.fleet.site[server]
    holding_servers(wants.asking, room.amounts, room.pool, service, shape, site, found.on)
    return found
