"""Links and ingress that carry too little for the traffic after a loss, or may, because a limit or a peak is
not stated.

A plan says where each service runs at its end and where it moves traffic: all of a service that it shifts
arrives at one site, the rest is divided in proportion to the replicas. Before there is a plan, only the
division of services that the loss does not touch, or that may run at one site alone, is certain. Of another,
the most arrives at each site that any plan could send there: all of it if a plan may shift, shed or move it,
else its part if everything that is missing starts at that site. Of a service whose places are unknown, or of
which it is unknown whether the loss takes replicas, all may arrive at each site where it may run, whatever
the plan is. What a service calls at another site crosses the link between the two, at most its own peak for
each call. Sums are exact and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evac.derive.affected import counts_by_service, service_graph
from evac.derive.arrivals import may_lose, may_start, place_known, serves_users, where_untold, witnesses
from evac.derive.domains import Loss, Topology, lost_in, lost_now, site_of_replicas
from evac.derive.moving import traffic_leaves
from evac.derive.pools import replicas_lost, replicas_off
from evac.derive.serving import Serving
from evac.model.estate import Link, Service, Site
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.plan import MEASURES, Congestion, Measure, Plan
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.steps.registry import kind_of

_LOSSES = ("lose", "evacuate")


@dataclass(frozen=True, slots=True, eq=False)
class _Division:
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


def congested_by(top: Topology, plan: Plan) -> tuple[Congestion, ...]:
    """Where the traffic at the end of a plan is too much, or may be; sorted. Nothing for what comes back, and
    nothing if no replica is lost, started, stopped or served elsewhere.
    """
    if plan.scenario.kind not in _LOSSES or not _states_a_limit(top):
        return ()
    lost = lost_in(top, plan.scenario)
    acts = any(kind_of(step.kind).replicas or kind_of(step.kind).moves_traffic for step in plan.steps)
    doubtful = may_lose(top, lost, plan.scenario.kind == "lose")
    if not (acts or doubtful.any() or _takes_something(top, lost)):
        return ()
    division = _planned(top, plan, lost, doubtful)
    return _sorted(_too_much(top, _loads(top, lost.sites, division)))


def congested(top: Topology, lost: Loss) -> tuple[Congestion, ...]:
    """Where the traffic that is certain to arrive after a loss is too much, or may be, because a limit or a
    peak is not stated; and where all ingress together is too small for what may run. Sorted. lost: with what
    is already lost.
    """
    return congested_and_maybe(top, lost)[0]


def _certain(
    top: Topology, lost: Loss, whole: _Division, short: frozenset[Measure]
) -> tuple[Congestion, ...]:
    """What every plan names; nothing if the loss takes nothing."""
    if not _takes_something(top, lost):
        return ()
    sure = _too_much(top, _loads(top, lost.sites, _fixed_part(whole)))
    return _sorted((*sure, *_hopeless(top, lost.sites, whole, short)))


def _fixed_part(whole: _Division) -> _Division:
    """Only what is certain."""
    fixed = whole.fixed
    return replace(
        whole,
        arrives=whole.arrives * fixed,
        calls=whole.calls * fixed,
        hosts=whole.hosts & fixed,
        surely=whole.surely & fixed,
    )


def maybe_congested(top: Topology, lost: Loss) -> tuple[Congestion, ...]:
    """The same, and where some plan may send too much. lost: with what is already lost."""
    return congested_and_maybe(top, lost)[1]


def congested_and_maybe(
    top: Topology, lost: Loss
) -> tuple[tuple[Congestion, ...], tuple[Congestion, ...], frozenset[Measure]]:
    """Both, for less than the two of them cost; and in which measures all ingress that is left is too small
    for all that may run: no plan helps.
    """
    nothing = (), (), frozenset[Measure]()
    if not _states_a_limit(top):
        return nothing
    most, changes = _before_a_plan(top, lost)
    if not changes:
        return nothing
    short = _short(top, lost.sites, most)
    found = {(one.at, one.measure): one for one in _too_much(top, _loads(top, lost.sites, most))}
    certain = _certain(top, lost, most, short)
    for one in certain:
        known = found.get((one.at, one.measure))
        if one.is_too_small or known is None or not known.is_too_small:
            found[one.at, one.measure] = one
    return certain, _sorted(found.values()), short


@dataclass(frozen=True, slots=True, eq=False)
class Screened:
    """What is known of losses without a sum for each of them. (L, K) each."""

    at: tuple[tuple[tuple[str, ...], Measure], ...]
    """The K links and ingress."""
    certain: BoolColumn
    """Too much whatever the plan is, or with an unknown limit."""
    possible: BoolColumn
    """What may arrive may be too much; where this is false, every plan fits."""


def screened(top: Topology, taken: IntColumn, hosts: BoolColumn, loose: BoolColumn) -> Screened:
    """For losses below whole sites. taken: (L, S) running replicas that each takes; hosts: (L, S) whether it
    takes all that a service has at some site; loose: (L, S) whether it may take more than that.

    A loss changes no more than the parts of what it takes: t of r replicas move at most t / r of the traffic.
    """
    if not _states_a_limit(top):
        none = np.zeros((len(taken), 0), np.bool_)
        return Screened((), none, none)
    now, size = lost_now(top), taken.shape[1]
    (most, changes), touched = _before_a_plan(top, now), taken > 0
    moves = (touched | loose).astype(np.float64)
    high, low = (list(_loads(top, now.sites, some)) for some in (most, _fixed_part(most)))
    part = np.minimum(taken / np.maximum(running_per_site(top).sum(axis=0), 1), 1.0)
    part = np.where(loose | (touched & (hosts | _may_leave(top))), 1.0, part)
    open_to = may_start(top) & ~now.sites[:, None] & loose.any(axis=0)
    short = _short(top, now.sites, replace(most, arrives=np.maximum(most.arrives, open_to)))
    rises = {}
    for measure in MEASURES:
        rises[False, measure] = _rise_of_users(top, measure, part, measure in short)
        rises[True, measure] = _rise_of_calls(top, most, measure, part, loose | (touched & hosts))
    certain, possible = np.zeros((2, len(taken), len(high)), np.bool_)
    for number, (more, less) in enumerate(zip(high, low, strict=True)):
        limit = 0 if more.limit is None else more.limit
        stays = (less.about - moves @ less.by_service(size, less.parts)) * (1 - _ROUNDING)
        certain[:, number] = stays > limit + _ROUNDING
        if less.unknown.any():
            certain[:, number] |= moves @ less.by_service(size, less.unknown) < less.unknown.sum()
        rise = rises[len(more.at) > 1, more.measure] if _hosts_at_all(top, more.at) else 0.0
        possible[:, number] = (more.about + rise) * (1 + _ROUNDING) > limit - _ROUNDING * (limit > 0)
        possible[:, number] |= bool(more.unknown.any())
    possible |= certain
    idle = ~touched.any(axis=1)
    certain[idle] = False
    possible[idle & ~loose.any(axis=1)] &= changes
    return Screened(tuple((one.at, one.measure) for one in high), certain, possible)


_ROUNDING = 1e-6
"""More than all rounding of a sum of floats."""


def _hosts_at_all(top: Topology, at: tuple[str, ...]) -> bool:
    """Whether services can run at these sites."""
    never = witnesses(top) | lost_now(top).sites
    return not any(never[top.site_index[site]] for site in at)


def _rise_of_users(top: Topology, measure: Measure, part: Any, short: bool) -> Any:
    """(L,) the most by which traffic at any ingress rises; infinite if all of them may be too small. short:
    whether all ingress together is too small.
    """
    peaks = np.array([one or 0 for one in peaks_of(top.estate.services, measure)], np.float64)
    unknown = (part > 0) @ states_no_peak(top, measure).astype(np.int64) > 0
    return part @ peaks + np.where(unknown | short, np.inf, 0.0)


def _rise_of_calls(top: Topology, most: _Division, measure: Measure, part: Any, hosts: BoolColumn) -> Any:
    """(L,) the most by which calls through any link rise: with the caller that moves, and with all that comes
    from where the service that is called may not run, or no longer runs.
    """
    caller, called, peaks = _calls(top, measure)
    size, amount = part.shape[1], peaks[caller].astype(np.float64)
    away = ((most.calls / most.of_calls)[:, caller] * ~most.surely[:, called]).sum(axis=0)
    makes, gets = np.bincount(caller, amount, size), np.bincount(called, amount, size)
    silent = states_no_peak(top, measure)[caller]
    unknown = (part > 0) @ (np.bincount(caller, silent, size) + np.bincount(called, silent, size)) > 0
    rise = part @ makes + (part > 0) @ np.bincount(called, amount * away, size) + hosts @ gets
    return rise + np.where(unknown, np.inf, 0.0)


def maybe_congested_after(top: Topology, scenario: Scenario) -> tuple[Congestion, ...]:
    """Of a loss or an evacuation; nothing for what comes back. Raises UnknownDomain."""
    return maybe_congested(top, lost_in(top, scenario)) if scenario.kind in _LOSSES else ()


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


def _takes_something(top: Topology, lost: Loss) -> bool:
    """Whether a loss takes a whole site or any replica that runs."""
    taken: BoolColumn = replicas_lost(top, lost) > replicas_off(top)
    return bool(lost.sites.any() or taken.any())


def _planned(top: Topology, plan: Plan, lost: Loss, doubtful: BoolColumn) -> _Division:
    """At the end of a plan. doubtful: (S,) services that may lose more replicas than is certain."""
    estate, serving = top.estate, Serving(top, plan)
    row_of = {service.id: row for row, service in enumerate(estate.services)}
    runs, witness = left_per_site(top, lost), witnesses(top)
    untold = doubtful | ~place_known(top)
    may = where_untold(top, lost, runs, untold)
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
    hosts = may | (runs > 0)
    parts = np.where(untold, hosts, sent).astype(np.int64)
    of = np.where(untold, 1, np.broadcast_to(sent.sum(axis=0), sent.shape)).astype(np.int64)
    return _Division(parts, of, parts, of, hosts, (runs > 0) & ~untold, ~untold)


def _before_a_plan(top: Topology, lost: Loss) -> tuple[_Division, bool]:
    """The most that any plan sends to each site after a loss; and whether the loss takes anything or may, or
    a plan has something to start or to move.
    """
    left, doubtful = left_per_site(top, lost), may_lose(top, lost, True)
    untold, stay = doubtful | ~place_known(top), left.sum(axis=0)
    missing = np.maximum(_wanted(top) - stay, 0) * ~untold
    moved, leaves = _leaves_a_site(top, lost), _may_leave(top)
    open_to = may_start(top) & ~lost.sites[:, None]
    starts = open_to & (missing > 0)
    may = (left > 0) | starts | (open_to & _movable(top))
    may |= where_untold(top, lost, left, untold)
    alone = (left > 0).any(axis=0) & (may.sum(axis=0) == 1)
    fixed = ~untold & (alone | ~((missing > 0) | moved | leaves))
    whole = ~fixed & (moved | leaves | untold)
    added = missing * starts * ~fixed
    parts = np.where(whole, may, left + added).astype(np.int64)
    of = np.where(whole, 1, np.maximum(stay + added, 1)).astype(np.int64)
    surely = (left > 0) & (fixed | ~leaves) & ~untold
    changes = bool(missing.any() or moved.any() or doubtful.any() or _takes_something(top, lost))
    return _Division(parts, of, parts, of, may, surely, fixed), changes


def _may_leave(top: Topology) -> BoolColumn:
    """(S,) services that a plan may stop where they run."""
    services = top.estate.services
    return top.once(
        "may leave", lambda: np.array([bool(s.sheddable) or s.movable for s in services], np.bool_)
    )


def _movable(top: Topology) -> BoolColumn:
    """(S,) services that may move although the loss does not touch them."""
    services = top.estate.services
    return top.once("movable", lambda: np.array([s.movable for s in services], np.bool_))


def _wanted(top: Topology) -> IntColumn:
    """(S,) replicas that a plan may want to run: all of now or of home, or where one runs if no number is
    known.
    """

    def work() -> IntColumn:
        estate, size = top.estate, len(top.estate.services)
        tables = (estate.replicas, estate.home or estate.replicas)
        counts = [counts_by_service(table, table.count.astype(np.int64), size) for table in tables]
        return np.asarray(np.maximum.reduce([*counts, running_per_site(top).sum(axis=0)]), np.int64)

    return top.once("wanted replicas", work)


def _leaves_a_site(top: Topology, lost: Loss) -> BoolColumn:
    """(S,) services whose traffic a plan may have to move: away from what is lost, or from a witness."""
    off = replicas_off(top)
    before = np.maximum(replicas_lost(top, lost_now(top)), off)
    gone = np.maximum(replicas_lost(top, lost), before)
    witness = {site.id for site in top.estate.sites if site.role == "witness"}
    sent = top.estate.traffic
    astray = [not witness.isdisjoint(sent.get(service.id, ())) for service in top.estate.services]
    return traffic_leaves(top, lost, gone, before, off) | np.array(astray, np.bool_)


def left_per_site(top: Topology, lost: Loss) -> IntColumn:
    """(sites, S) replicas that run and are not lost, counted as in `running_per_site`."""
    gone = np.maximum(replicas_lost(top, lost), replicas_off(top))
    found = _per_site(top, top.estate.replicas.count - gone)
    found[lost.sites] = 0
    return found


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
class _Load:
    """What comes through the ingress of a site or through a link."""

    at: tuple[str, ...]
    measure: Measure
    limit: int | None
    services: IntColumn
    """Rows of the services whose traffic it is; a service may be named several times."""
    called: IntColumn
    """Rows of the services that they call through a link; the same as `services` for ingress."""
    amounts: Any
    """What comes of each, times its share. Python integers."""
    shares: IntColumn
    unknown: BoolColumn
    """Whether the service of each states no peak."""

    @property
    def whole(self) -> int:
        return _sum(self.amounts, self.shares)

    @property
    def parts(self) -> Any:
        """What comes of each, as floats."""
        return self.amounts.astype(np.float64) / self.shares

    @property
    def about(self) -> float:
        """The whole, as a float."""
        return float(self.parts.sum())

    def by_service(self, size: int, each: Any) -> Any:
        """(S,) the sum of what each service is part of, as the caller or as the one that is called."""
        found = np.bincount(self.services, each, size)
        return found + np.bincount(self.called, each, size) if len(self.at) > 1 else found


def _loads(top: Topology, gone: BoolColumn, division: _Division) -> Iterator[_Load]:
    yield from _ingress(top, gone, division)
    yield from _links(top, division)


def _too_much(top: Topology, loads: Iterable[_Load]) -> Iterator[Congestion]:
    """The loads that are too much, or may be."""
    for one in loads:
        arriving = one.whole
        if arriving > (0 if one.limit is None else one.limit) or one.unknown.any():
            names = tuple(sorted({top.estate.services[row].id for row in one.services.tolist()}))
            unstated = len(np.unique(one.services[one.unknown]))
            yield Congestion(one.at, one.measure, arriving, one.limit, names, unstated)


def _ingress(top: Topology, gone: BoolColumn, division: _Division) -> Iterator[_Load]:
    estate, serving, at = top.estate, serves_users(top, gone), division.arrives
    for measure in MEASURES:
        limits = [limit_of(site, measure) for site in estate.sites]
        if all(limits[site] is None for site in np.flatnonzero(serving).tolist()):
            continue
        peak, comes = _arriving_peaks(top, measure)
        silent = states_no_peak(top, measure)
        for site in np.flatnonzero(serving).tolist():
            rows = np.flatnonzero(comes & (at[site] > 0))
            amounts, shares = peak[rows] * at[site][rows], division.of_users[site][rows]
            name, unknown = (estate.sites[site].id,), silent[rows]
            yield _Load(name, measure, limits[site], rows, rows, amounts, shares, unknown)


def _arriving_peaks(top: Topology, measure: Measure) -> tuple[Any, BoolColumn]:
    """(S,) each: the known peaks, as Python integers; and the services with traffic that arrives."""

    def work() -> tuple[Any, BoolColumn]:
        services, silent = top.estate.services, states_no_peak(top, measure)
        peaks = peaks_of(services, measure)
        peak = np.array([one or 0 for one in peaks], object)
        has_users = np.array([s.traffic.kind is not None or bool(s.people) for s in services], np.bool_)
        unstated = np.array([one is None for one in peaks], np.bool_)
        return peak, np.where(unstated, has_users | silent, peak > 0).astype(np.bool_)

    return top.once(("arriving peaks", measure), work)


def _short(top: Topology, gone: BoolColumn, whole: _Division) -> frozenset[Measure]:
    """In which measures all ingress that is left is too small for all that may run."""
    estate, serving = top.estate, np.flatnonzero(serves_users(top, gone)).tolist()
    some, short = (whole.arrives > 0).sum(axis=0).tolist(), set[Measure]()
    for measure in MEASURES:
        limits = [limit_of(estate.sites[site], measure) for site in serving]
        known = [limit for limit in limits if limit is not None]
        peaks = zip(peaks_of(estate.services, measure), some, strict=True)
        if len(known) == len(limits) and sum(peak or 0 for peak, comes in peaks if comes) > sum(known):
            short.add(measure)
    return frozenset(short)


def _hopeless(
    top: Topology, gone: BoolColumn, whole: _Division, short: frozenset[Measure]
) -> Iterator[Congestion]:
    """Where an even division is too much if all ingress together is too small: some division must be."""
    if short:
        arrives = (whole.arrives > 0).astype(np.int64)
        of_users = np.broadcast_to(arrives.sum(axis=0), arrives.shape)
        even = replace(whole, arrives=arrives, of_users=of_users)
        yield from _too_much(top, (one for one in _ingress(top, gone, even) if one.measure in short))


def limit_of_link(link: Link, measure: Measure) -> int | None:
    """What a link can carry; None: not known."""
    return link.bandwidth_mbps if measure == "bandwidth" else link.connections


def _links(top: Topology, division: _Division) -> Iterator[_Load]:
    """A call crosses links from where the service that is called may not run, to where it may. It is divided
    evenly over the sites where that service runs for certain and the one at the other end.
    """
    estate, index = top.estate, top.site_index
    parts_at, of_at = division.calls, division.of_calls
    for measure in MEASURES:
        if all(limit_of_link(link, measure) is None for link in estate.links):
            continue
        caller, called, peaks = _calls(top, measure)
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
            shares = whole[rows] // (common := np.gcd(cross[rows], whole[rows]))
            amounts = peaks[caller[rows]] * (cross[rows] // common)
            limit, unknown = limit_of_link(link, measure), states_no_peak(top, measure)[caller[rows]]
            ends = caller[rows], called[rows]
            yield _Load(link.ends, measure, limit, *ends, amounts, shares, unknown)


def _calls(top: Topology, measure: Measure) -> tuple[IntColumn, IntColumn, Any]:
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
