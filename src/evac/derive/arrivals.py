"""Where services may run after a loss, as far as the files say."""

from __future__ import annotations

import numpy as np

from evac.derive.domains import Loss, Topology, may_run_at, site_of_replicas
from evac.derive.pools import loose_services, replicas_lost, replicas_running, unplaced
from evac.derive.tripping import tripped
from evac.model.fleet import BoolColumn, IntColumn


def may_lose(top: Topology, lost: Loss, is_loss: bool) -> BoolColumn:
    """(S,) services that may lose more replicas than they certainly lose: it is unknown where these
    are, or they are behind feeds that may trip. is_loss: no feed trips where everything leaves in order.
    """
    runs = replicas_running(top)
    found, more = loose_services(top, lost, runs), tripped(top, lost) if is_loss else None
    if more is not None:
        found |= loose_services(top, more.lost, runs)
        taken = replicas_lost(top, more.lost) > replicas_lost(top, lost)
        found[top.estate.replicas.service[taken]] = True
    return found


def where_untold(top: Topology, lost: Loss, left: IntColumn, untold: BoolColumn) -> BoolColumn:
    """(sites, S) where all of a service may arrive after a loss, if its places are unknown then: where some
    is left, or may be already, or may be started. left: (sites, S) what is left of all.
    """
    found = unplaced(top) | ~_is_named(top)
    found &= serves_users(top, lost.sites)[:, None]
    found |= (left > 0) | (may_start(top) & ~lost.sites[:, None])
    return np.asarray(found & untold, np.bool_)


def place_known(top: Topology) -> BoolColumn:
    """(S,) whether it is known where all of a service runs, or would run."""
    return top.once("place known", lambda: _is_named(top) & ~unplaced(top).any(axis=0))


def _is_named(top: Topology) -> BoolColumn:
    """(S,) whether the files name any place of a service."""

    def work() -> BoolColumn:
        estate = top.estate
        named = np.array([bool(s.sites) for s in estate.services], np.bool_)
        at = site_of_replicas(top) >= 0
        named[estate.replicas.service[at & (estate.replicas.count > 0)]] = True
        return named

    return top.once("place named", work)


def may_start(top: Topology) -> BoolColumn:
    """(sites, S) where replicas of a service may be started: there are servers, pools, or capacity of an
    unknown size, and its data may be there.
    """

    def work() -> BoolColumn:
        estate = top.estate
        has = np.zeros(len(estate.sites) + 1, np.bool_)
        has[top.pool_site] = has[estate.fleet.site] = True
        has[:-1] |= np.array([site.role == "full" for site in estate.sites], np.bool_)
        found = np.repeat(has[:-1, None], len(estate.services), axis=1)
        for row, service in enumerate(estate.services):
            allowed = may_run_at(estate, service)
            if allowed is not None:
                found[:, row] &= np.isin([site.id for site in estate.sites], allowed)
        found[witnesses(top)] = False
        return found

    return top.once("where replicas may start", work)


def witnesses(top: Topology) -> BoolColumn:
    """(sites,) where nothing runs that serves users."""
    return np.array([site.role == "witness" for site in top.estate.sites], np.bool_)


def serves_users(top: Topology, gone: BoolColumn) -> BoolColumn:
    """(sites,) where users may be sent: no witness, and nothing that is lost."""
    return np.array([site.role in ("full", "edge") for site in top.estate.sites], np.bool_) & ~gone
