"""Which running services a plan may move to other servers, to free capacity, without an outage, and whose
traffic it must move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from evac.derive.affected import sites_left
from evac.derive.domains import Loss, Topology, lost_now
from evac.derive.rows import RowSet
from evac.model.estate import Estate, Service
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Services
from evac.model.scenario import Scenario

_SCENARIOS: Final = ("lose", "evacuate")


def with_movable(
    services: Services, estate: Estate, scenario: Scenario, rows: RowSet, unjudged: Iterable[int]
) -> Services:
    """The same services, with those marked that may move. unjudged: those that a loss may or may not touch.

    Only what the loss certainly does not touch moves, and only if it may run twice for a while and both its
    start and its demand are known. What may be shed is not marked: it makes way as it is.
    """
    declared = [
        scenario.kind in _SCENARIOS
        and service.movable
        and not service.single_run
        and service.start_ms is not None
        and row not in rows.vague.demand
        for row, service in enumerate(estate.services)
    ]
    touched = services.base_lost | services.top_lost | services.sheddable
    touched[list(unjudged)] = True
    return replace(services, movable=np.array(declared, np.bool_) & ~touched)


def traffic_leaves(
    top: Topology, lost: Loss, gone: IntColumn, before: IntColumn, off: IntColumn
) -> BoolColumn:
    """(S,) services whose traffic a step must move after a loss. (K,) replicas: gone: all that do not run;
    before: those of them that did not run before it; off: that are off anyway.
    """
    left_a_site = sites_left(top, gone - before, off) | sent_there(top, lost, sites_left(top, gone, off))
    return moved_by_step(top.estate.services, left_a_site)


def sent_there(top: Topology, lost: Loss, left_a_site: BoolColumn) -> BoolColumn:
    """(S,) services whose users are sent to what is lost; if that is unknown, those with nothing left at some
    site.
    """
    traffic, sites = top.estate.traffic, lost.sites | lost_now(top).sites
    gone = {site.id for site, dead in zip(top.estate.sites, sites, strict=True) if dead}
    found = left_a_site.copy()
    for row, service in enumerate(top.estate.services):
        if service.id in traffic:
            found[row] = not gone.isdisjoint(traffic[service.id])
    return found


def moved_by_step(services: tuple[Service, ...], left_a_site: BoolColumn) -> BoolColumn:
    """(S,) traffic to a site with nothing left must be moved by a step; anycast and `none` move by
    themselves.
    """
    by_step = [service.traffic.kind in ("dns", "load_balancer") for service in services]
    return left_a_site & np.array(by_step, np.bool_)
