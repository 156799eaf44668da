"""Links and ingress that carry too little for the traffic after a loss, or whose limit is not known.

The peak of a service is divided among the sites that serve in proportion to the replicas that survive there,
evenly if none does. What a service calls at another site crosses the link between the two, at most its own
peak for each call. Sums are exact and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evac.derive.affected import service_graph
from evac.derive.domains import Topology, lost_in, lost_now, site_of_replicas
from evac.derive.pools import replicas_running
from evac.model.estate import Link, Service, Site
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.plan import MEASURES, Congestion, Measure
from evac.model.scenario import Scenario


def congested_after(top: Topology, scenario: Scenario) -> tuple[Congestion, ...]:
    """Of a loss or evacuation of sites; nothing for what comes back. Raises UnknownDomain."""
    if scenario.kind not in ("lose", "evacuate"):
        return ()
    return congested(top, lost_in(top, scenario).sites)


def congested(top: Topology, lost: BoolColumn) -> tuple[Congestion, ...]:
    """Where the traffic after the loss of these sites is too much, or may be; sorted. lost: (sites,)."""
    if not lost.any():
        return ()
    gone = lost | lost_now(top).sites
    return tuple(sorted((*_ingress(top, gone), *_links(top, gone)), key=lambda one: (one.at, one.measure)))


def running_per_site(top: Topology) -> IntColumn:
    """(sites, S) replicas that run; of a service without a known count, one at each of its sites."""

    def work() -> IntColumn:
        estate, replicas = top.estate, replicas_running(top)
        sites, size, site = len(estate.sites), len(estate.services), site_of_replicas(top)
        known = site >= 0
        key = site[known] * size + replicas.service[known]
        found = np.bincount(key, replicas.count[known], sites * size).astype(np.int64).reshape(sites, size)
        counted = np.bincount(estate.replicas.service, estate.replicas.count, size) > 0
        for row in np.flatnonzero(~counted).tolist():
            found[[top.site_index[name] for name in estate.services[row].sites], row] = 1
        return found

    return top.once("running per site", work)


def serves_users(top: Topology, gone: BoolColumn) -> BoolColumn:
    """(sites,) where users may be sent: no witness, and nothing that is lost."""
    return np.array([site.role in ("full", "edge") for site in top.estate.sites], np.bool_) & ~gone


def peaks_of(services: Sequence[Service], measure: Measure) -> list[int | None]:
    """(S,) the peak of each whole service; None: not stated."""
    by_bandwidth = measure == "bandwidth"
    return [s.traffic.mbps if by_bandwidth else s.traffic.connections for s in services]


def limit_of(site: Site, measure: Measure) -> int | None:
    """What the ingress of a site can carry; None: not known."""
    return site.ingress_mbps if measure == "bandwidth" else site.ingress_connections


def _ingress(top: Topology, gone: BoolColumn) -> Iterator[Congestion]:
    estate, serving = top.estate, serves_users(top, gone)
    at = running_per_site(top) * serving[:, None]
    at[np.ix_(serving, at.sum(axis=0) == 0)] = 1
    total = at.sum(axis=0)
    has_users = np.array([s.traffic.kind is not None or bool(s.people) for s in estate.services], np.bool_)
    for measure in MEASURES:
        limits = [limit_of(site, measure) for site in estate.sites]
        if all(limits[site] is None for site in np.flatnonzero(serving).tolist()):
            continue
        peaks = peaks_of(estate.services, measure)
        peak = np.array([one or 0 for one in peaks], object)
        unstated = np.array([one is None for one in peaks], np.bool_)
        comes = np.where(unstated, has_users, peak > 0)
        for site in np.flatnonzero(serving).tolist():
            arriving = _sum(peak * at[site], total)
            through = np.flatnonzero(comes & (at[site] > 0)).tolist()
            if _is_too_much(arriving, limits[site]):
                names = tuple(sorted(estate.services[row].id for row in through))
                yield Congestion((estate.sites[site].id,), measure, arriving, limits[site], names)


def limit_of_link(link: Link, measure: Measure) -> int | None:
    """What a link can carry; None: not known."""
    return link.bandwidth_mbps if measure == "bandwidth" else link.connections


def _links(top: Topology, gone: BoolColumn) -> Iterator[Congestion]:
    estate, index = top.estate, top.site_index
    left = running_per_site(top) * ~gone[:, None]
    there, total = left > 0, left.sum(axis=0)
    for measure in MEASURES:
        if all(limit_of_link(link, measure) is None for link in estate.links):
            continue
        caller, called, peaks = _calls(top, measure)
        hosts = there[:, called]
        count = hosts.sum(axis=0)
        for link in estate.links:
            one, other = (index[name] for name in link.ends)
            parts = []
            for here, far in ((one, other), (other, one)):
                crosses = np.flatnonzero(there[here, caller] & ~hosts[here] & hosts[far])
                rows = caller[crosses]
                parts.append((rows, peaks[rows] * left[here, rows], total[rows] * count[crosses]))
            rows, amounts, shares = (np.concatenate(column) for column in zip(*parts, strict=True))
            load, limit = _sum(amounts, shares), limit_of_link(link, measure)
            if _is_too_much(load, limit):
                names = tuple(sorted({estate.services[row].id for row in rows.tolist()}))
                yield Congestion(link.ends, measure, load, limit, names)


def _calls(top: Topology, measure: Measure) -> tuple[IntColumn, IntColumn, Any]:
    """Hard dependencies of services with a known peak, as caller and callee; and (S,) the peaks."""

    def work() -> tuple[IntColumn, IntColumn, Any]:
        peaks = peaks_of(top.estate.services, measure)
        graph = top.once("graph", lambda: service_graph(top.estate))
        pairs = [(row, other) for row, needs in enumerate(graph.hard) if peaks[row] for other in needs]
        caller, called = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        return caller, called, np.array([one or 0 for one in peaks], object)

    return top.once(("calls between services", measure), work)


def _is_too_much(arriving: int, limit: int | None) -> bool:
    """Whether it is too much, or may be."""
    return arriving > 0 if limit is None else arriving > limit


def _sum(amounts: Any, shares: IntColumn) -> int:
    """The exact sum of amount / share, rounded up. amounts: Python integers; where one is 0, its share counts
    for nothing.
    """
    some = np.flatnonzero(amounts != 0)
    if not len(some):
        return 0
    kinds, kind = np.unique(shares[some], return_inverse=True)
    by_share = np.zeros(len(kinds), object)
    np.add.at(by_share, kind, amounts[some])
    whole = math.lcm(*kinds.tolist())
    rows = zip(by_share.tolist(), kinds.tolist(), strict=True)
    total: int = sum(amount * (whole // share) for amount, share in rows)
    return -(-total // whole)
