"""Links and ingress that carry too little for the traffic after a loss, or may, because a limit or a peak is
not stated.

A plan says where each service runs at its end and where it moves traffic: all of a service that it shifts
arrives at one site, the rest is divided in proportion to the replicas. Users of a service that neither the
loss nor the plan touches stay where they are sent today. Before there is a plan, only the
division of services that the loss does not touch, or that may run at one site alone, is certain. Of another,
the most arrives at each site that any plan could send there: all of it if a plan may shift, shed or move it,
else its part if everything that is missing starts at that site. Of a service whose places are unknown, or of
which it is unknown whether the loss takes replicas, all may arrive at each site where it may run, whatever
the plan is. Only links and ingress through which more may come than today count for a loss: what is too small
without it is a finding about today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evac.derive.affected import counts_by_service
from evac.derive.arrivals import may_lose, may_start, place_known, serves_users, where_untold, witnesses
from evac.derive.domains import Loss, Topology, lost_in, lost_now
from evac.derive.moving import traffic_leaves
from evac.derive.pools import replicas_lost, replicas_off
from evac.derive.serving import Serving
from evac.derive.traffic import (
    Division,
    Key,
    Load,
    arriving_peaks,
    as_sent,
    brings_more,
    calls_between,
    ingress,
    left_per_site,
    limit_of,
    limit_of_link,
    loads,
    peaks_of,
    running_now,
    running_per_site,
    states_no_peak,
    today,
)
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.plan import MEASURES, Congestion, Measure, Plan
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.steps.registry import kind_of

_LOSSES = ("lose", "evacuate")


def congested_by(top: Topology, plan: Plan) -> tuple[Congestion, ...]:
    """Where the traffic at the end of a plan is too much, or may be, and may be more than today; sorted.
    Nothing for what comes back.
    """
    if plan.scenario.kind not in _LOSSES or not _states_a_limit(top):
        return ()
    lost = lost_in(top, plan.scenario)
    doubtful = may_lose(top, lost, plan.scenario.kind == "lose")
    division, changed = _planned(top, plan, lost, doubtful)
    if not changed.any():
        return ()
    return _sorted(_too_much(top, lost, division, changed))


def congested_today(top: Topology) -> tuple[Congestion, ...]:
    """Where the traffic is too much now, or may be, because a limit, a peak, a place or how users are divided
    is unknown. Sorted.
    """
    if not _states_a_limit(top):
        return ()
    now = today(top)
    return _sorted(_named(top, one, now.certain) for one in now.most.values() if _is_too_much(one))


def congested(top: Topology, lost: Loss) -> tuple[Congestion, ...]:
    """Where the traffic that is certain to arrive after a loss is too much, or may be, because a limit or a
    peak is not stated, and is more than today; and where all ingress together is too small for what may run.
    Sorted. lost: with what is already lost.
    """
    return congested_and_maybe(top, lost)[0]


def maybe_congested(top: Topology, lost: Loss) -> tuple[Congestion, ...]:
    """The same, and where some plan may send too much. lost: with what is already lost."""
    return congested_and_maybe(top, lost)[1]


def congested_and_maybe(
    top: Topology, lost: Loss
) -> tuple[tuple[Congestion, ...], tuple[Congestion, ...], frozenset[Measure]]:
    """Both, for less than the two of them cost; and in which measures some ingress is too small for more than
    comes today, whatever the plan is.
    """
    nothing = (), (), frozenset[Measure]()
    if not _states_a_limit(top):
        return nothing
    before = _before_a_plan(top, lost)
    if not before.changed.any():
        return nothing
    most = before.division
    short = _short(top, lost.sites, most) and _too_small_at_all(top, lost.sites, most)
    every = _too_much(top, lost, most, before.changed)
    found = {(one.at, one.measure): one for one in every}
    certain = _certain(top, lost, before, short)
    for one in certain:
        known = found.get((one.at, one.measure))
        if one.is_too_small or known is None or not known.is_too_small:
            found[one.at, one.measure] = one
    return certain, _sorted(found.values()), short


def _certain(top: Topology, lost: Loss, before: _Before, short: frozenset[Measure]) -> tuple[Congestion, ...]:
    """What every plan names; nothing if the loss takes nothing."""
    if not _takes_something(top, lost):
        return ()
    sure = _too_much(top, lost, _fixed_part(before.division), before.changed, sure=True)
    return _sorted((*sure, *_hopeless(top, lost.sites, before.division, short)))


def _fixed_part(whole: Division) -> Division:
    """Only what is certain."""
    fixed = whole.fixed
    return replace(
        whole,
        arrives=whole.arrives * fixed,
        calls=whole.calls * fixed,
        hosts=whole.hosts & fixed,
        surely=whole.surely & fixed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Screened:
    """What is known of losses without a sum for each of them."""

    at: tuple[Key, ...]
    """The K links and ingress."""
    possible: BoolColumn
    """(L, K) what may arrive may be too much, and more than today; where this is false, every plan fits."""


def screened(top: Topology, taken: IntColumn, hosts: BoolColumn, loose: BoolColumn) -> Screened:
    """For losses below whole sites. taken: (L, S) running replicas that each takes; hosts: (L, S) whether it
    takes all that a service has at some site; loose: (L, S) whether it may take more than that.

    A loss changes no more than the parts of what it takes: t of r replicas move at most t / r of the traffic.
    More comes only where a service that it takes may run, or one that a plan may start, stop or move.
    """
    if not _states_a_limit(top):
        return Screened((), np.zeros((len(taken), 0), np.bool_))
    now, touched = lost_now(top), taken > 0
    before = _before_a_plan(top, now, acts=True)
    most = before.division
    part = np.minimum(taken / np.maximum(running_per_site(top).sum(axis=0), 1), 1.0)
    part = np.where(loose | (touched & (hosts | _may_leave(top))), 1.0, part)
    anywhere = where_untold(top, now, running_per_site(top), np.ones(len(top.estate.services), np.bool_))
    open_to = anywhere & loose.any(axis=0)
    most = replace(most, arrives=np.maximum(most.arrives, open_to))
    short = _short(top, now.sites, most)
    none_fits = _too_small_at_all(top, now.sites, most) if short else short
    rises = {}
    for measure in MEASURES:
        rises[False, measure] = _rise_of_users(top, measure, part, measure in short)
        rises[True, measure] = _rise_of_calls(top, before.division, measure, part, loose | (touched & hosts))
    high = list(loads(top, now.sites, before.division))
    possible, gets = np.zeros((2, len(taken), len(high)), np.bool_)
    for number, load in enumerate(high):
        limit, is_link = 0 if load.limit is None else load.limit, len(load.at) > 1
        rise = rises[is_link, load.measure] if _hosts_at_all(top, load.at) else 0.0
        possible[:, number] = (load.about + rise) * (1 + _ROUNDING) > limit - _ROUNDING * (limit > 0)
        possible[:, number] |= bool(load.unknown.any())
        moved = brings_more(today(top).least[load.at, load.measure], load, before.changed)
        moved |= not is_link and load.measure in none_fits
        through = _may_come_through(top, load, before.division.hosts | anywhere)
        gets[:, number] = (touched | loose) @ through.astype(np.int64) > 0
        gets[:, number] |= moved & (before.is_changed | touched.any(axis=1) | loose.any(axis=1))
    return Screened(tuple((one.at, one.measure) for one in high), possible & gets)


_ROUNDING = 1e-6
"""More than all rounding of a sum of floats."""


def _hosts_at_all(top: Topology, at: tuple[str, ...]) -> bool:
    """Whether services can run at these sites."""
    never = witnesses(top) | lost_now(top).sites
    return not any(never[top.site_index[site]] for site in at)


def _may_come_through(top: Topology, load: Load, may_run: BoolColumn) -> BoolColumn:
    """(S,) services whose traffic, or whose callers' traffic, may come through these sites after a loss.
    may_run: (sites, S)
    """
    found = np.zeros(len(top.estate.services), np.bool_)
    if not _hosts_at_all(top, load.at):
        return found
    if len(load.at) == 1:
        _, comes = arriving_peaks(top, load.measure)
        return np.asarray(comes & may_run[top.site_index[load.at[0]]], np.bool_)
    caller, called, _ = calls_between(top, load.measure)
    one, other = (may_run[top.site_index[name]] for name in load.at)
    crosses = (one[caller] & other[called]) | (other[caller] & one[called])
    found[caller[crosses]] = found[called[crosses]] = True
    return found


def _rise_of_users(top: Topology, measure: Measure, part: Any, short: bool) -> Any:
    """(L,) the most by which traffic at any ingress rises; infinite if all of them may be too small. short:
    whether all ingress together is too small.
    """
    peaks = np.array([one or 0 for one in peaks_of(top.estate.services, measure)], np.float64)
    unknown = (part > 0) @ states_no_peak(top, measure).astype(np.int64) > 0
    return part @ peaks + np.where(unknown | short, np.inf, 0.0)


def _rise_of_calls(top: Topology, most: Division, measure: Measure, part: Any, hosts: BoolColumn) -> Any:
    """(L,) the most by which calls through any link rise: with the caller that moves, and with all that comes
    from where the service that is called may not run, or no longer runs.
    """
    caller, called, peaks = calls_between(top, measure)
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


def _planned(top: Topology, plan: Plan, lost: Loss, doubtful: BoolColumn) -> tuple[Division, BoolColumn]:
    """At the end of a plan; and (S,) services that are not divided as they are today, or may not be.
    doubtful: (S,) services that may lose more replicas than is certain.
    """
    estate, serving = top.estate, Serving(top, plan)
    row_of = {service.id: row for row, service in enumerate(estate.services)}
    runs, witness = left_per_site(top, lost), witnesses(top)
    changed = doubtful | (runs != running_now(top)).any(axis=0)
    untold = doubtful | ~place_known(top)
    may = where_untold(top, lost, runs, untold)
    for name in serving.changed & row_of.keys():
        runs[:, row_of[name]] = 0
        changed[row_of[name]] = True
        for site, count in serving.running(name).items():
            runs[top.site_index[site], row_of[name]] = count
    runs[witness] = 0
    sent = runs.copy()
    for name in sorted({step.target for step in plan.steps if kind_of(step.kind).moves_traffic}):
        changed[row_of[name]] = True
        if to := [site for site in serving.sites(name) if not witness[top.site_index[site]]][:1]:
            sent[:, row_of[name]] = 0
            sent[top.site_index[to[0]], row_of[name]] = 1
    hosts = may | (runs > 0)
    parts = np.where(untold, hosts, sent).astype(np.int64)
    of = np.where(untold, 1, np.broadcast_to(sent.sum(axis=0), sent.shape)).astype(np.int64)
    even = Division(parts, of, parts, of, hosts, (runs > 0) & ~untold, ~untold)
    return as_sent(top, lost, even, ~changed), changed


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """What is known before there is a plan."""

    division: Division
    """The most that any plan sends to each site."""
    changed: BoolColumn
    """(S,) services that may not be divided as they are today."""
    is_changed: bool
    """Whether any of these is not only one that a plan for others may stop or move."""


def _before_a_plan(top: Topology, lost: Loss, acts: bool = False) -> _Before:
    """After a loss. acts: whether a plan starts something anyway, after a loss that is not known yet: then no
    division is certain, and all users may also arrive where they are sent today. Only such a plan sheds or
    moves what is not touched.
    """
    left, doubtful = left_per_site(top, lost), may_lose(top, lost, True)
    untold, stay = doubtful | ~place_known(top), left.sum(axis=0)
    missing = np.maximum(_wanted(top) - stay, 0) * ~untold
    moved = _leaves_a_site(top, lost)
    touched = doubtful | moved | (missing > 0) | (left != running_now(top)).any(axis=0)
    starts_some = acts or bool(missing.any() or doubtful.any())
    leaves, movable = (starts_some & some for some in (_may_leave(top), _movable(top)))
    open_to = may_start(top) & ~lost.sites[:, None]
    starts = open_to & (missing > 0)
    may = (left > 0) | starts | (open_to & movable)
    may |= where_untold(top, lost, left, untold)
    alone = (left > 0).any(axis=0) & (may.sum(axis=0) == 1)
    fixed = ~untold & (alone | ~((missing > 0) | moved | leaves))
    whole = ~fixed & (moved | leaves | untold)
    added = missing * starts * ~fixed
    parts = np.where(whole, may, left + added).astype(np.int64)
    of = np.where(whole, 1, np.maximum(stay + added, 1)).astype(np.int64)
    surely = (left > 0) & (fixed | ~leaves) & ~untold
    even, changed = Division(parts, of, parts, of, may, surely, fixed & (not acts)), touched | leaves
    return _Before(as_sent(top, lost, even, ~changed | acts), changed, bool(touched.any()))


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


def _short(top: Topology, gone: BoolColumn, whole: Division) -> frozenset[Measure]:
    """In which measures all ingress that is left is too small for all that may run."""
    return _above(top, gone, whole, {})


def _too_small_at_all(top: Topology, gone: BoolColumn, whole: Division) -> frozenset[Measure]:
    """In which of them some ingress is too small for more than comes today, whatever the plan is."""
    comes = {key: load.whole for key, load in today(top).least.items() if len(key[0]) == 1}
    return _above(top, gone, whole, comes)


def _above(top: Topology, gone: BoolColumn, whole: Division, fits: Mapping[Key, int]) -> frozenset[Measure]:
    """Measures in which more comes than the limits of all ingress that is left, or what fits there if that is
    more.
    """
    estate, serving = top.estate, np.flatnonzero(serves_users(top, gone)).tolist()
    some, short = (whole.arrives > 0).sum(axis=0).tolist(), set[Measure]()
    for measure in MEASURES:
        limits = [(limit_of(site, measure), site.id) for site in (estate.sites[row] for row in serving)]
        known = [max(limit, fits.get(((at,), measure), 0)) for limit, at in limits if limit is not None]
        peaks = zip(peaks_of(estate.services, measure), some, strict=True)
        if len(known) == len(limits) and sum(peak or 0 for peak, comes in peaks if comes) > sum(known):
            short.add(measure)
    return frozenset(short)


def _hopeless(
    top: Topology, gone: BoolColumn, whole: Division, short: frozenset[Measure]
) -> Iterator[Congestion]:
    """Where an even division is too much if all ingress together is too small: some division must be."""
    if short:
        arrives = (whole.arrives > 0).astype(np.int64)
        of_users = np.broadcast_to(arrives.sum(axis=0), arrives.shape)
        even = replace(whole, arrives=arrives, of_users=of_users)
        for one in ingress(top, gone, even):
            if one.measure in short and _is_too_much(one):
                yield _named(top, one, np.ones_like(even.fixed))


def _is_too_much(load: Load) -> bool:
    """Whether it is above the limit, or may be."""
    return bool(load.unknown.any()) or load.is_above(0 if load.limit is None else load.limit)


def _too_much(
    top: Topology, lost: Loss, division: Division, changed: BoolColumn, sure: bool = False
) -> Iterator[Congestion]:
    """Where what comes is too much, or may be, and may be more than today; sure: and is certain to be more.
    changed: (S,) services that are not divided as they are today.
    """
    for one in loads(top, lost.sites, division):
        if _is_too_much(one):
            now = today(top).most if sure else today(top).least
            if brings_more(now[one.at, one.measure], one, changed):
                yield _named(top, one, division.fixed)


def _named(top: Topology, load: Load, certain: BoolColumn) -> Congestion:
    """certain: (S,) services whose division is known."""
    names = tuple(sorted({top.estate.services[row].id for row in load.services.tolist()}))
    unstated = len(np.unique(load.services[load.unknown]))
    at_most = not (certain[load.services] & certain[load.called]).all()
    return Congestion(load.at, load.measure, load.whole, load.limit, names, unstated, at_most)
