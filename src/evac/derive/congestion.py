"""Links and ingress that carry too little for the traffic after a loss, or whose limit is not known.

A plan says where each service runs at its end and where it moves traffic: all of a service that it shifts
arrives at one site, the rest is divided in proportion to the replicas. Before there is a plan, only the
division of services that the loss does not touch, or that may run at one site alone, is certain; all of
another may arrive at each site where it may run. What a service calls at another site crosses the link
between the two, at most its own peak for each call. Sums are exact and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evac.derive.affected import service_graph
from evac.derive.domains import Topology, lost_in, lost_now, may_run_at, site_of_replicas
from evac.derive.pools import replicas_running
from evac.derive.serving import Serving
from evac.model.estate import Link, Service, Site
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.plan import MEASURES, Congestion, Measure, Plan
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.steps.registry import kind_of


@dataclass(frozen=True, slots=True, eq=False)
class _Division:
    """How the traffic of each service is divided. (sites, S) each."""

    arrives: IntColumn
    """Parts of the traffic of users."""
    calls: IntColumn
    """Parts of the calls to other services."""
    hosts: BoolColumn
    """Whether the service answers calls there."""
    fixed: BoolColumn
    """(S,) whether the division is certain."""


def congested_by(top: Topology, plan: Plan) -> tuple[Congestion, ...]:
    """Where the traffic at the end of a plan is too much, or may be; sorted. Nothing for what comes back."""
    if plan.scenario.kind not in ("lose", "evacuate") or not _states_a_limit(top):
        return ()
    lost = lost_in(top, plan.scenario).sites
    if not lost.any():
        return ()
    gone = lost | lost_now(top).sites
    return _sorted((*_ingress(top, gone, division := _planned(top, plan, gone)), *_links(top, division)))


def congested(top: Topology, lost: BoolColumn) -> tuple[Congestion, ...]:
    """Where the traffic that is certain to arrive after the loss of these sites is too much, or the limit is
    not known; and where all ingress together is too small for what may run. Sorted. lost: (sites,).
    """
    if not (lost.any() and _states_a_limit(top)):
        return ()
    gone = lost | lost_now(top).sites
    whole = _before_a_plan(top, gone)
    arrives, calls = whole.arrives * whole.fixed, whole.calls * whole.fixed
    sure = replace(whole, arrives=arrives, calls=calls, hosts=whole.hosts & whole.fixed)
    return _sorted((*_ingress(top, gone, sure), *_links(top, sure), *_hopeless(top, gone, whole)))


def maybe_congested(top: Topology, lost: BoolColumn) -> tuple[Congestion, ...]:
    """The same, and where the traffic may be too much: all of each service that has no certain place arrives
    wherever it may run.
    """
    if not (lost.any() and _states_a_limit(top)):
        return ()
    gone = lost | lost_now(top).sites
    most = _before_a_plan(top, gone)
    found = {
        (one.at, one.measure): one
        for some in (_ingress(top, gone, most), _links(top, most), congested(top, lost))
        for one in some
    }
    return _sorted(found.values())


def maybe_congested_after(top: Topology, scenario: Scenario) -> tuple[Congestion, ...]:
    """Of a loss or evacuation of sites; nothing for what comes back. Raises UnknownDomain."""
    if scenario.kind not in ("lose", "evacuate"):
        return ()
    return maybe_congested(top, lost_in(top, scenario).sites)


def _sorted(found: Iterable[Congestion]) -> tuple[Congestion, ...]:
    unique = {(one.at, one.measure): one for one in found}
    return tuple(unique[key] for key in sorted(unique))


def _states_a_limit(top: Topology) -> bool:
    estate = top.estate
    return any(
        any(limit_of(site, measure) is not None for site in estate.sites)
        or any(limit_of_link(link, measure) is not None for link in estate.links)
        for measure in MEASURES
    )


def _planned(top: Topology, plan: Plan, gone: BoolColumn) -> _Division:
    """At the end of a plan."""
    estate, serving = top.estate, Serving(top, plan)
    row_of = {service.id: row for row, service in enumerate(estate.services)}
    runs = running_per_site(top) * ~gone[:, None]
    witness = np.array([site.role == "witness" for site in estate.sites], np.bool_)
    for name in serving.changed & row_of.keys():
        runs[:, row_of[name]] = 0
        for site, count in serving.running(name).items():
            runs[top.site_index[site], row_of[name]] = count
    runs[witness] = 0
    sent = runs.copy()
    for name in sorted({step.target for step in plan.steps if kind_of(step.kind).moves_traffic}):
        if to := [site for site in serving.sites(name) if not witness[top.site_index[site]]][:1]:
            sent[:, row_of[name]] = 0
            sent[top.site_index[to[0]], row_of[name]] = 1
    arrives = _at_serving(top, gone, sent, ~_place_known(top) | runs.any(axis=0))
    return _Division(arrives, sent, runs > 0, np.ones(len(row_of), np.bool_))


def _before_a_plan(top: Topology, gone: BoolColumn) -> _Division:
    """After a loss. Of services without a certain division: 1 wherever all of it may run."""
    estate = top.estate
    left, known = running_per_site(top) * ~gone[:, None], _place_known(top)
    bound = np.bincount(estate.replicas.service, estate.replicas.count, len(estate.services)).astype(np.int64)
    full = np.maximum(bound, running_per_site(top).sum(axis=0))
    lost = {site.id for site, dead in zip(estate.sites, gone.tolist(), strict=True) if dead}
    astray = np.array([not lost.isdisjoint(estate.traffic.get(s.id, ())) for s in estate.services], np.bool_)
    touched = known & ((left.sum(axis=0) < full) | astray)
    sheds = np.array([bool(s.sheddable) for s in estate.services], np.bool_)
    may = left > 0
    may[:, touched] |= (_may_start(top) & ~gone[:, None])[:, touched]
    may[:, ~known] = ~gone[:, None]
    alone = (left > 0).any(axis=0) & (may.sum(axis=0) == 1)
    fixed = known & (alone | ~(touched | sheds))
    runs = np.where(fixed, left, may)
    witness = may & (~serves_users(top, gone) & ~gone)[:, None]
    arrives = _at_serving(top, gone, runs, (left > 0).any(axis=0) | ~known)
    anywhere = ~fixed & witness.any(axis=0)
    arrives[np.ix_(serves_users(top, gone), anywhere)] = 1
    return _Division(arrives, runs, runs > 0, fixed)


def _at_serving(top: Topology, gone: BoolColumn, at: IntColumn, anywhere: BoolColumn) -> IntColumn:
    """(sites, S) parts of the traffic of users. anywhere: (S,) services whose users come in at every site if
    the service runs at none that serves users.
    """
    serving = serves_users(top, gone)
    found = at * serving[:, None]
    found[np.ix_(serving, anywhere & (found.sum(axis=0) == 0))] = 1
    return found


def _place_known(top: Topology) -> BoolColumn:
    """(S,) whether it is known where a service runs, or would run."""
    estate = top.estate
    named = np.array([bool(s.sites) for s in estate.services], np.bool_)
    at = site_of_replicas(top) >= 0
    named[estate.replicas.service[at & (estate.replicas.count > 0)]] = True
    return named


def _may_start(top: Topology) -> BoolColumn:
    """(sites, S) where replicas of a service may be started: there are servers, pools, or capacity of an
    unknown size, and its data may be there.
    """

    def work() -> BoolColumn:
        estate = top.estate
        has = np.zeros(len(estate.sites) + 1, np.bool_)
        has[top.pool_site] = has[estate.fleet.site] = True
        has[:-1] |= [site.role == "full" for site in estate.sites]
        found = np.repeat(has[:-1, None], len(estate.services), axis=1)
        for row, service in enumerate(estate.services):
            allowed = may_run_at(estate, service)
            if allowed is not None:
                found[:, row] &= np.isin([site.id for site in estate.sites], allowed)
        return found

    return top.once("where replicas may start", work)


def running_per_site(top: Topology) -> IntColumn:
    """(sites, S) replicas that run; of a service without a known count, one at each of its sites; none at a
    witness.
    """

    def work() -> IntColumn:
        estate, replicas = top.estate, replicas_running(top)
        sites, size, site = len(estate.sites), len(estate.services), site_of_replicas(top)
        known = site >= 0
        key = site[known] * size + replicas.service[known]
        found = np.bincount(key, replicas.count[known], sites * size).astype(np.int64).reshape(sites, size)
        counted = np.zeros(size, np.bool_)
        for placed in (estate.replicas, estate.home or estate.replicas):
            counted[placed.service[placed.count > 0]] = True
        for row in np.flatnonzero(~counted).tolist():
            found[[top.site_index[name] for name in estate.services[row].sites], row] = 1
        found[[site.role == "witness" for site in estate.sites]] = 0
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


def _ingress(top: Topology, gone: BoolColumn, division: _Division) -> Iterator[Congestion]:
    estate, serving, at = top.estate, serves_users(top, gone), division.arrives
    total = np.where(division.fixed, at.sum(axis=0), 1)
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


def _hopeless(top: Topology, gone: BoolColumn, whole: _Division) -> Iterator[Congestion]:
    """If all ingress together is too small: where an even division is too much, as some division must be."""
    estate, serving = top.estate, np.flatnonzero(serves_users(top, gone)).tolist()
    some: BoolColumn = whole.arrives.sum(axis=0) > 0
    short = set[Measure]()
    for measure in MEASURES:
        limits = [limit_of(estate.sites[site], measure) for site in serving]
        known = [limit for limit in limits if limit is not None]
        peaks = zip(peaks_of(estate.services, measure), some.tolist(), strict=True)
        if len(known) == len(limits) and sum(peak or 0 for peak, comes in peaks if comes) > sum(known):
            short.add(measure)
    if short:
        even = replace(whole, fixed=np.ones(len(some), np.bool_))
        yield from (one for one in _ingress(top, gone, even) if one.measure in short)


def limit_of_link(link: Link, measure: Measure) -> int | None:
    """What a link can carry; None: not known."""
    return link.bandwidth_mbps if measure == "bandwidth" else link.connections


def _links(top: Topology, division: _Division) -> Iterator[Congestion]:
    """Of a call whose ends are not both fixed, all may cross each link that it may cross at all."""
    estate, index, fixed = top.estate, top.site_index, division.fixed
    left, there, total = division.calls, division.calls > 0, division.calls.sum(axis=0)
    for measure in MEASURES:
        if all(limit_of_link(link, measure) is None for link in estate.links):
            continue
        caller, called, peaks = _calls(top, measure)
        hosts, certain = division.hosts[:, called], fixed[caller] & fixed[called]
        count = hosts.sum(axis=0)
        for link in estate.links:
            one, other = (index[name] for name in link.ends)
            parts, may = [], np.zeros(len(caller), np.bool_)
            for here, far in ((one, other), (other, one)):
                may |= there[here, caller] & hosts[far] & ~(fixed[called] & hosts[here])
                crosses = np.flatnonzero(certain & there[here, caller] & ~hosts[here] & hosts[far])
                rows = caller[crosses]
                parts.append((rows, peaks[rows] * left[here, rows], total[rows] * count[crosses]))
            rows = caller[may & ~certain]
            parts.append((rows, peaks[rows], np.ones(len(rows), np.int64)))
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
