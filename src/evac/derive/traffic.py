"""What comes through each link and the ingress of each site, if the traffic of services is divided in some
way, and how it is divided today.

A call crosses the link between the site that makes it and the one that answers, at most the caller's own peak
for each call. Sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from evac.derive.affected import service_graph
from evac.derive.arrivals import place_known, serves_users, where_untold, witnesses
from evac.derive.domains import Loss, Topology, lost_now, site_of_replicas
from evac.derive.pools import replicas_lost, replicas_off
from evac.model.estate import Link, Service, Site
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.plan import MEASURES, Measure
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """How the traffic of each service is divided. (sites, S) each."""

    arrives: IntColumn
    """Parts of the traffic of users, of `of_users`."""
    of_users: IntColumn
    calls: IntColumn
    """Parts of the calls to other services, of `of_calls`."""
    of_calls: IntColumn
    hosts: BoolColumn
    """Whether the service may answer calls there."""
    surely: BoolColumn
    """Whether it does, whatever the plan is."""
    fixed: BoolColumn
    """(S,) whether the division is certain."""


def left_per_site(top: Topology, lost: Loss) -> IntColumn:
    """(sites, S) replicas that run and are not lost, counted as in `running_per_site`."""
    gone = np.maximum(replicas_lost(top, lost), replicas_off(top))
    found = _per_site(top, top.estate.replicas.count - gone)
    found[lost.sites] = 0
    return found


def running_now(top: Topology) -> IntColumn:
    """(sites, S) the same for what is already lost."""
    return top.once("running now", lambda: left_per_site(top, lost_now(top)))


def running_per_site(top: Topology) -> IntColumn:
    """(sites, S) replicas that run; of a service without a known count, one at each of its sites; none at a
    witness.
    """
    counts = top.estate.replicas.count
    return top.once("running per site", lambda: _per_site(top, counts - replicas_off(top)))


def _per_site(top: Topology, counts: IntColumn) -> IntColumn:
    estate, size = top.estate, len(top.estate.services)

    def keys() -> tuple[BoolColumn, IntColumn, IntColumn]:
        site, services = site_of_replicas(top), estate.replicas.service
        known, counted = site >= 0, np.zeros(size, np.bool_)
        for placed in (estate.replicas, estate.home or estate.replicas):
            counted[placed.service[placed.count > 0]] = True
        return known, site[known] * size + services[known], np.flatnonzero(~counted)

    known, key, uncounted = top.once("site and service of replicas", keys)
    found = np.bincount(key, counts[known], len(estate.sites) * size).astype(np.int64)
    found = found.reshape(len(estate.sites), size)
    for row in uncounted.tolist():
        found[[top.site_index[name] for name in estate.services[row].sites], row] = 1
    found[witnesses(top)] = 0
    return found


def peaks_of(services: Sequence[Service], measure: Measure) -> list[int | None]:
    """(S,) the peak of each whole service; None: not stated."""
    by_bandwidth = measure == "bandwidth"
    return [s.traffic.mbps if by_bandwidth else s.traffic.connections for s in services]


def states_no_peak(top: Topology, measure: Measure) -> BoolColumn:
    """(S,) services that state no peak although users may be sent to them."""

    def work() -> BoolColumn:
        services = top.estate.services
        rows = zip(peaks_of(services, measure), services, strict=True)
        return np.array([peak is None and _may_have_users(service) for peak, service in rows], np.bool_)

    return top.once(("states no peak", measure), work)


def _may_have_users(service: Service) -> bool:
    """Unless it states `kind: none` or no people, or is external."""
    kind = service.traffic.kind
    return not service.external and kind != "none" and not (kind is None and service.people == 0)


def limit_of(site: Site, measure: Measure) -> int | None:
    """What the ingress of a site can carry; None: not known."""
    return site.ingress_mbps if measure == "bandwidth" else site.ingress_connections


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What comes through the ingress of a site or through a link."""

    at: tuple[str, ...]
    measure: Measure
    limit: int | None
    services: IntColumn
    """Rows of the services whose traffic it is; a service may be named several times."""
    called: IntColumn
    """Rows of the services that they call through a link; the same as `services` for ingress."""
    counts: IntColumn
    """Parts of the traffic of each that come, of `shares`."""
    shares: IntColumn
    peaks: Any
    """The known peak of each. Python integers."""
    unknown: BoolColumn
    """Whether the service of each states no peak."""

    @property
    def exact(self) -> Fraction:
        """What comes of all, as far as peaks are known."""
        return _sum(self.peaks * self.counts, self.shares)

    @property
    def whole(self) -> int:
        """The same, rounded up."""
        return math.ceil(self.exact)

    @property
    def about(self) -> float:
        """The same, as a float."""
        return float(((self.peaks * self.counts).astype(np.float64) / self.shares).sum())

    @property
    def bounds(self) -> tuple[float, float]:
        """The exact sum is in between, ends included. Most comparisons need no more, and this is several
        times faster. Each term is rounded three times and added up once, all by at most 2**-53 of it.
        """
        amounts = self.peaks * self.counts
        some = amounts != 0
        about = float((amounts[some].astype(np.float64) / self.shares[some]).sum())
        error = about * (len(amounts) + 8) * 2.0**-52
        return about - error, about + error

    def is_above(self, limit: int) -> bool:
        """Whether more than that comes, exactly."""
        low, high = self.bounds
        return low > limit or (high > limit and self.exact > limit)

    def is_more_than(self, other: Load) -> bool:
        """Whether more comes than there, exactly."""
        (low, high), (least, most) = self.bounds, other.bounds
        return low > most or (high > least and self.exact > other.exact)

    def of(self, services: BoolColumn) -> Load:
        """What comes of these services, as callers or as those that are called. services: (S,)"""
        rows = services[self.services] | services[self.called]
        return replace(
            self,
            services=self.services[rows],
            called=self.called[rows],
            counts=self.counts[rows],
            shares=self.shares[rows],
            peaks=self.peaks[rows],
            unknown=self.unknown[rows],
        )

    def parts_as_in(self, other: Load, size: int) -> tuple[IntColumn, IntColumn]:
        """(count, share) of each row of another load in this one; 0 of 1 where it has none. size: the number
        of services.
        """
        mine, wanted = (one.services * size + one.called for one in (self, other))
        counts, shares = np.zeros(len(wanted), np.int64), np.ones(len(wanted), np.int64)
        if len(mine):
            order = np.argsort(mine)
            place = order[np.minimum(np.searchsorted(mine[order], wanted), len(mine) - 1)]
            same = mine[place] == wanted
            counts[same], shares[same] = self.counts[place[same]], self.shares[place[same]]
        return counts, shares


def brings_more(today: Load, then: Load, changed: BoolColumn) -> bool:
    """Whether more may come through at another time than today. Where a service that states no peak has
    a larger part, it is unknown. changed: (S,) services whose traffic may be divided in another way then; all
    others are the same at both times.
    """
    today, then = today.of(changed), then.of(changed)
    counts, shares = today.parts_as_in(then, len(changed))
    rises = then.counts.astype(object) * shares > counts * then.shares.astype(object)
    return bool(rises[then.unknown].any()) or then.is_more_than(today)


Key = tuple[tuple[str, ...], Measure]


@dataclass(frozen=True, slots=True, eq=False)
class Today:
    """What comes through each link and ingress now."""

    least: Mapping[Key, Load]
    """Without what may go elsewhere: of services whose place is not known, or whose users are not sent to
    where they run.
    """
    most: Mapping[Key, Load]
    """With all that may come: all of a service at each of several sites that its users are sent to."""
    certain: BoolColumn
    """(S,) services for which `most` is certain."""


def today(top: Topology) -> Today:
    """Of an estate, without what is already lost."""

    def work() -> Today:
        now = lost_now(top)
        runs, untold = running_now(top), ~place_known(top)
        hosts = where_untold(top, now, runs, untold) | (runs > 0)
        surely = (runs > 0) & ~untold
        parts = np.where(untold, hosts, runs).astype(np.int64)
        of = np.where(untold, 1, np.maximum(runs.sum(axis=0), 1))
        of = np.broadcast_to(of, parts.shape).astype(np.int64)
        even = Division(parts, of, parts, of, hosts, surely, ~untold)
        most = as_sent(top, now, even, np.ones(len(untold), np.bool_))
        sure = parts * (surely & _sent_to(top, surely))
        least = Division(sure, of, sure, of, surely, surely, ~untold)
        low, high = ({(one.at, one.measure): one for one in loads(top, now.sites, d)} for d in (least, most))
        return Today(low, high, most.fixed)

    return top.once("traffic today", work)


def _sent_to(top: Topology, runs: BoolColumn) -> BoolColumn:
    """(sites, S) where users arrive in proportion to the replicas, or more of them: as far as is known, they
    are sent to all sites where the service runs and to no other, or to this site alone.
    """
    found = np.ones(runs.shape, np.bool_)
    index = top.site_index
    for row, service in enumerate(top.estate.services):
        if service.id in top.estate.traffic:
            sent = {index[name] for name in top.estate.traffic[service.id] if name in index}
            if sent != set(np.flatnonzero(runs[:, row]).tolist()):
                found[:, row] = False
                found[list(sent) if len(sent) == 1 else [], row] = True
    return found


def as_sent(top: Topology, lost: Loss, even: Division, services: BoolColumn) -> Division:
    """The same, but where users are sent to some of the sites of a service, or elsewhere, all of them arrive
    at each of these sites. That is certain if it is one site. services: (S,) the services to change.
    """
    arrives, of_users, calls, of_calls = (
        column.copy() for column in (even.arrives, even.of_users, even.calls, even.of_calls)
    )
    fixed, index, serving = even.fixed.copy(), top.site_index, serves_users(top, lost.sites)
    for row in np.flatnonzero(services).tolist():
        service = top.estate.services[row]
        sites = {index[name] for name in top.estate.traffic.get(service.id, ()) if name in index}
        to = sorted(site for site in sites if serving[site])
        hosts = np.flatnonzero(even.hosts[:, row]).tolist()
        if not to or sites == set(hosts) or (to == hosts and len(to) == 1):
            continue
        only = len(sites) == 1
        if fixed[row]:
            arrives[:, row] = 0
        arrives[to, row] = of_users[to, row] = 1
        answering = [site for site in to if even.hosts[site, row]]
        if only and fixed[row] and answering:
            calls[:, row] = 0
        calls[answering, row] = of_calls[answering, row] = 1
        fixed[row] &= only
    return Division(arrives, of_users, calls, of_calls, even.hosts, even.surely, fixed)


def loads(top: Topology, gone: BoolColumn, division: Division) -> Iterator[Load]:
    yield from ingress(top, gone, division)
    yield from _links(top, division)


def ingress(top: Topology, gone: BoolColumn, division: Division) -> Iterator[Load]:
    estate, serving, at = top.estate, serves_users(top, gone), division.arrives
    for measure in MEASURES:
        limits = [limit_of(site, measure) for site in estate.sites]
        if all(limits[site] is None for site in np.flatnonzero(serving).tolist()):
            continue
        peak, comes = arriving_peaks(top, measure)
        silent = states_no_peak(top, measure)
        for site in np.flatnonzero(serving).tolist():
            rows = np.flatnonzero(comes & (at[site] > 0))
            counts, shares = at[site][rows], division.of_users[site][rows]
            name, unknown = (estate.sites[site].id,), silent[rows]
            yield Load(name, measure, limits[site], rows, rows, counts, shares, peak[rows], unknown)


def arriving_peaks(top: Topology, measure: Measure) -> tuple[Any, BoolColumn]:
    """(S,) each: the known peaks, as Python integers; and the services with traffic that arrives."""

    def work() -> tuple[Any, BoolColumn]:
        services, silent = top.estate.services, states_no_peak(top, measure)
        peaks = peaks_of(services, measure)
        peak = np.array([one or 0 for one in peaks], object)
        has_users = np.array([s.traffic.kind is not None or bool(s.people) for s in services], np.bool_)
        unstated = np.array([one is None for one in peaks], np.bool_)
        return peak, np.where(unstated, has_users | silent, peak > 0).astype(np.bool_)

    return top.once(("arriving peaks", measure), work)


def limit_of_link(link: Link, measure: Measure) -> int | None:
    """What a link can carry; None: not known."""
    return link.bandwidth_mbps if measure == "bandwidth" else link.connections


def _links(top: Topology, division: Division) -> Iterator[Load]:
    """A call crosses links from where the service that is called may not run, to where it may. It is divided
    evenly over the sites where that service runs for certain and the one at the other end.
    """
    estate, index = top.estate, top.site_index
    parts_at, of_at = division.calls, division.of_calls
    for measure in MEASURES:
        if all(limit_of_link(link, measure) is None for link in estate.links):
            continue
        caller, called, peaks = calls_between(top, measure)
        hosts, surely = division.hosts[:, called], division.surely[:, called]
        count = surely.sum(axis=0)
        for link in estate.links:
            one, other = (index[name] for name in link.ends)
            (left, of_left), (right, of_right) = (
                (
                    np.where(hosts[far] & ~surely[here], parts_at[here, caller], 0),
                    of_at[here, caller] * np.where(hosts[far], count + ~surely[far], 1),
                )
                for here, far in ((one, other), (other, one))
            )
            whole = of_left * of_right
            cross = np.minimum(left * of_right + right * of_left, whole)
            rows = np.flatnonzero(cross)
            common, calling = np.gcd(cross[rows], whole[rows]), caller[rows]
            parts = cross[rows] // common, whole[rows] // common
            limit, unknown = limit_of_link(link, measure), states_no_peak(top, measure)[calling]
            yield Load(link.ends, measure, limit, calling, called[rows], *parts, peaks[calling], unknown)


def calls_between(top: Topology, measure: Measure) -> tuple[IntColumn, IntColumn, Any]:
    """Hard dependencies of services with traffic, as caller and callee; and (S,) the known peaks."""

    def work() -> tuple[IntColumn, IntColumn, Any]:
        peaks = peaks_of(top.estate.services, measure)
        graph = top.once("graph", lambda: service_graph(top.estate))
        silent = states_no_peak(top, measure).tolist()
        pairs = [
            (row, other)
            for row, needs in enumerate(graph.hard)
            if peaks[row] or silent[row]
            for other in needs
        ]
        caller, called = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        return caller, called, np.array([one or 0 for one in peaks], object)

    return top.once(("calls between services", measure), work)


def _sum(amounts: Any, shares: IntColumn) -> Fraction:
    """The exact sum of amount / share. amounts: Python integers; where one is 0, its share counts for
    nothing.
    """
    some = np.flatnonzero(amounts != 0)
    if not len(some):
        return Fraction(0)
    kinds, kind = np.unique(shares[some], return_inverse=True)
    by_share = np.zeros(len(kinds), object)
    np.add.at(by_share, kind, amounts[some])
    whole = math.lcm(*kinds.tolist())
    rows = zip(by_share.tolist(), kinds.tolist(), strict=True)
    return Fraction(sum(amount * (whole // share) for amount, share in rows), whole)
