"""What the plan says about links and ingress that carry too little, computed again one service at a time.

Where each service runs at the end is counted from the steps, and where a shift moves traffic to is chosen
again. All of a service whose places are unknown may arrive wherever it may run. What comes is compared with
what comes today, service by service: only where it may be more does the loss count. With fractions, so that
no rounding is shared with `derive`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from fractions import Fraction
from typing import Any

import numpy as np

from evac.derive.affected import service_graph
from evac.derive.domains import Topology, loss, site_of_replicas
from evac.derive.pools import replicas_running
from evac.derive.tripping import tripped
from evac.model.estate import Estate, Service
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    ON_POOL,
    ON_SERVER,
    SERVING,
    SPARE,
    BoolColumn,
    Fleet,
    IntColumn,
)
from evac.model.plan import MEASURES, Congestion, Measure, Plan
from evac.model.records import dataclass
from evac.model.units import traffic
from evac.steps.registry import kind_of
from evac.verify.needs import with_members
from evac.verify.places import Where
from evac.verify.reading import Violation
from evac.verify.unknown_places import (
    lost_servers,
    may_arrive,
    may_be_taken,
    placed_in_part,
    placed_nowhere,
)

Amounts = defaultdict[int, int]
"""Denominator -> sum of numerators."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where a service runs at the end of the plan, and where its users are sent: site -> parts."""

    runs: Mapping[str, int]
    sent: Mapping[str, int]
    whole: int
    """Number of parts of all its users."""
    untold: bool
    """Whether it is unknown where it runs: all of it may, at each of these sites, or nothing."""
    calls: Mapping[str, Fraction] | None = None
    """From where it calls others, if not from where its users are sent: site -> part."""
    at_most: bool = False
    """Whether fewer users may arrive."""

    def calls_from(self, site: str) -> Fraction:
        if self.calls is not None:
            return self.calls.get(site, Fraction(0))
        return Fraction(self.sent.get(site, 0), self.whole or 1)


_NOWHERE = _End({}, {}, 1, False)


@dataclass(slots=True)
class _Through:
    """What comes through one link or ingress at the end of the plan."""

    limit: int | None
    amounts: Amounts
    services: set[str]
    silent: set[str] = field(default_factory=set)
    """Those of them that state no peak."""
    doubtful: bool = False
    """Whether it is unknown where any of them, or of what they call, runs."""
    more: Fraction = Fraction(0)
    """How much more comes than today, without what states no peak."""
    may_be_more: bool = False
    """Whether a larger part than today comes of a service that states no peak."""

    def add(self, service: Service, measure: Measure, part: Fraction, before: Fraction, untold: bool) -> None:
        """before: the part that is sure to come today."""
        peak, silent = _peak(service, measure) or 0, _is_silent(service, measure)
        self.more += peak * (part - before)
        self.may_be_more |= silent and part > before
        if part:
            self.amounts[part.denominator] += peak * part.numerator
            self.services.add(service.id)
            self.doubtful |= untold
        if part and silent:
            self.silent.add(service.id)


def check_congestion(top: Topology, plan: Plan) -> list[Violation]:
    """F19: the plan names every link and ingress that is too small or may be, and marks every service whose
    traffic comes through one.
    """
    found, wanted = list[Violation](), {(one.at, one.measure): one for one in _congestion(top, plan)}
    said = {(one.at, one.measure): one for one in plan.congestion}
    if list(said) != sorted(said) or len(said) != len(plan.congestion):
        found.append(Violation("F1", plan.name, "its congested links and ingress are not in order"))
    for key in sorted(wanted.keys() | said.keys()):
        if wanted.get(key) != said.get(key):
            where = " - ".join(key[0])
            found.append(Violation("F19", where, _difference(said.get(key), wanted.get(key))))
    through = {name for one in wanted.values() for name in one.services}
    for outcome in plan.outcomes:
        if outcome.congested != (outcome.service in through):
            says = "its traffic may be too much" if outcome.congested else "its traffic gets through"
            comes = "no" if outcome.congested else "a"
            words = (
                f"the plan says that {says}, but it comes through {comes} link or ingress that is too small"
            )
            found.append(Violation("F19", outcome.service, f"{words} or may be{_AGAIN}"))
    return found


_AGAIN = "; make a new plan: evac plan"


def _difference(said: Congestion | None, wanted: Congestion | None) -> str:
    """What the plan says of one link or ingress, and what is true."""
    if wanted is None:
        says = said.words if said is not None else ""
        return f"the plan says: {says}; but all that arrives fits{_AGAIN}"
    fits = "its limit is not known"
    if wanted.limit is not None:
        fits = f"{traffic(wanted.measure, wanted.limit)} fits"
    true = f"{wanted.arriving_words} arrives and {fits}"
    if wanted.unstated:
        true += f" ({wanted.unstated_words})"
    if said is None:
        return f"the plan says that the traffic fits, but {true}{_AGAIN}"
    if (said.arriving, said.limit, said.unstated) != (wanted.arriving, wanted.limit, wanted.unstated):
        return f"the plan says: {said.words}; but {true}{_AGAIN}"
    if said.at_most != wanted.at_most:
        true = "less may arrive" if wanted.at_most else "all of it is certain to arrive"
        return f"the plan says: {said.words}; but {true}{_AGAIN}"
    return f"the plan names other services than those whose traffic arrives{_AGAIN}"


def _congestion(top: Topology, plan: Plan) -> list[Congestion]:
    estate = top.estate
    if plan.scenario.kind not in ("lose", "evacuate"):
        return []
    names = with_members(estate, {*plan.scenario.domains, *estate.lost})
    already = with_members(estate, set(estate.lost))
    sites = {site.id for site in estate.sites if site.role != "witness"}
    left = left_after(top, names)
    doubtful = _may_lose(top, plan, names, left)
    survive = _running(top, sites - names, left)
    before = _running(top, sites - already, left_after(top, already))
    pairs = zip(survive, before, strict=True)
    changed = {row for row, (end, now) in enumerate(pairs) if end != now} | doubtful
    row_of = {service.id: row for row, service in enumerate(estate.services)}
    for step in plan.steps:
        kind = kind_of(step.kind)
        if step.target in row_of and (kind.moves_traffic or (kind.replicas and step.servers)):
            changed.add(row_of[step.target])
    if not changed:
        return []
    ends, today = _at_the_end(top, plan, sites - names, survive, doubtful), _today(top, before)
    for row in set(range(len(ends))) - changed:
        ends[row] = _as_directed(estate, estate.services[row], ends[row], sites - names)
    found = list[Congestion]()
    for measure in MEASURES:
        found += _ingress(top, ends, today, changed, sites - names, measure)
        found += _links(top, ends, today, changed, measure)
    return sorted(found, key=lambda one: (one.at, one.measure))


def _today(top: Topology, running: list[dict[str, int]]) -> list[_End]:
    """Where each service runs now, and where its users surely arrive; nowhere if its place is unknown."""
    estate, found = top.estate, list[_End]()
    unknown, sites = {*placed_in_part(estate), *placed_nowhere(top)}, {site.id for site in estate.sites}
    for row, runs in enumerate(running):
        directed = sites.intersection(estate.traffic.get(estate.services[row].id, runs))
        known = directed == runs.keys() or len(directed) == 1
        sent = {site: count for site, count in runs.items() if known and site in directed}
        end = _End(runs, sent, sum(runs.values()), False)
        found.append(_NOWHERE if row in unknown else end)
    return found


def _as_directed(estate: Estate, service: Service, end: _End, left: set[str]) -> _End:
    """Of a service that nothing changes: its users stay where they are sent today, all of them at each of
    several such sites. left: sites where users may arrive.
    """
    directed = {site.id for site in estate.sites}.intersection(estate.traffic.get(service.id, ()))
    to, places = directed & left, set(end.runs)
    if not to or directed == places or (to == places and len(to) == 1):
        return end
    kept, alone = (end.sent if end.untold else {}), len(directed) == 1
    answering = to & places
    others = {} if alone and answering and not end.untold else end.sent
    calls = {site: Fraction(count, end.whole or 1) for site, count in others.items()}
    calls |= dict.fromkeys(answering, Fraction(1))
    return _End(end.runs, {**kept, **dict.fromkeys(to, 1)}, 1, end.untold, calls, not alone)


def _may_lose(top: Topology, plan: Plan, names: set[str], left: IntColumn) -> set[int]:
    """Services that may keep fewer than these replicas after the loss of these domains."""
    found = may_be_taken(top, names)
    more = tripped(top, loss(top, names)) if plan.scenario.kind == "lose" else None
    if more is not None:
        wider = names.union(more.feeds)
        found |= may_be_taken(top, wider)
        found.update(top.estate.replicas.service[left_after(top, wider) < left].tolist())
    return found


def left_after(top: Topology, names: Collection[str]) -> IntColumn:
    """(K,) replicas of each binding that run and are in none of these domains. Of a pool that loses some of
    its servers, its largest lost share of any resource is gone, rounded up.
    """
    estate, fleet = top.estate, top.estate.fleet
    replicas, running = estate.replicas, replicas_running(top).count.astype(np.int64)
    gone, sites = lost_servers(estate, names), _flags([site.id in names for site in estate.sites])
    part = {row: Fraction(int(pool.site in names)) for row, pool in enumerate(estate.pools)}
    for pool in np.unique(fleet.pool[gone & (fleet.pool >= 0)]).tolist():
        if not part[pool]:
            part[pool] = _lost_share(fleet, np.flatnonzero(fleet.pool == pool), gone)
    lost = np.zeros(len(replicas), np.bool_)
    for kind, mask in ((ON_SERVER, gone), (AT_SITE, sites)):
        here = replicas.kind == kind
        lost[here] = mask[replicas.target[here]]
    left = np.where(lost, 0, running)
    for pool, share in part.items():
        if share:
            here = (replicas.kind == ON_POOL) & (replicas.target == pool)
            counts = replicas.count[here].tolist()
            left[here] = np.minimum(running[here], [count - math.ceil(count * share) for count in counts])
    return left


def _lost_share(fleet: Fleet, mine: IntColumn, gone: BoolColumn) -> Fraction:
    """The largest lost share of any resource of a pool; of its servers if their sizes are unknown."""
    if gone[mine[fleet.state[mine] != CONDEMNED]].all():
        return Fraction(1)
    on = mine[np.isin(fleet.state[mine], (SERVING, SPARE))]
    sizes = fleet.capacity[on][:, fleet.capacity_known[on].all(axis=0)]
    sums = [(int(sizes[gone[on], k].sum()), int(sizes[:, k].sum())) for k in range(sizes.shape[1])]
    shares = [Fraction(lost, whole) for lost, whole in sums if whole]
    return max(shares or [Fraction(int(gone[on].sum()), max(1, len(on)))])


def _flags(values: list[bool]) -> BoolColumn:
    return np.array(values, np.bool_)


def _running(top: Topology, sites: Iterable[str], counted: IntColumn) -> list[dict[str, int]]:
    """For each service, its replicas at these sites; one each where it runs if no number is known. counted:
    (K,) of each binding.
    """
    estate, replicas, left = top.estate, top.estate.replicas, set(sites)
    found = [dict[str, int]() for _ in estate.services]
    pairs = np.stack((replicas.service.astype(np.int64), site_of_replicas(top)), axis=1)
    kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.zeros(len(kinds), np.int64)
    np.add.at(counts, kind.reshape(-1), counted)
    for (service, site), count in zip(kinds.tolist(), counts.tolist(), strict=True):
        if count and site >= 0 and estate.sites[site].id in left:
            found[service][estate.sites[site].id] = count
    known = _counted(estate)
    for row, service in enumerate(estate.services):
        if row not in known:
            found[row] = dict.fromkeys(left.intersection(service.sites), 1)
    return found


def _at_the_end(
    top: Topology, plan: Plan, left: set[str], survive: list[dict[str, int]], doubtful: set[int]
) -> list[_End]:
    """Of each service: what survives, what the steps start and stop, and the target of its shift. left: sites
    where users may arrive; doubtful: services of which the loss may take more.
    """
    estate, where = top.estate, Where(top.estate)
    running, sent = [dict(some) for some in survive], [dict[str, int]() for _ in estate.services]
    row_of = {service.id: row for row, service in enumerate(estate.services)}
    changes = defaultdict[tuple[int, str], int](int)
    shifts = set[int]()
    for step in plan.steps:
        kind, row = kind_of(step.kind), row_of.get(step.target, -1)
        if row >= 0 and kind.moves_traffic:
            shifts.add(row)
        for place, count in step.servers if row >= 0 and kind.replicas else ():
            changes[row, where.site(place)] += kind.replicas * count
    for row in {row for row, _ in changes} - _counted(estate):
        running[row] = {}
    for (row, site), count in changes.items():
        if site in left:
            running[row][site] = running[row].get(site, 0) + count
    running = [{site: count for site, count in some.items() if count > 0} for some in running]
    for row in shifts:
        if running[row]:
            sent[row] = {_target(top, plan, where, row, running[row]): 1}
    lost = {site.id for site in estate.sites} - left
    in_part = {*placed_in_part(estate), *placed_nowhere(top)}
    to = [users or runs for runs, users in zip(running, sent, strict=True)]
    rows = zip(running, to, strict=True)
    ends = [_End(runs, users, sum(users.values()), False) for runs, users in rows]
    for row in in_part | doubtful:
        places = may_arrive(estate, estate.services[row], lost, row in in_part)
        anywhere = dict.fromkeys(places.union(running[row], survive[row]), 1)
        ends[row] = _End(anywhere, anywhere, 1, True)
    return ends


def _counted(estate: Estate) -> set[int]:
    """Services with replicas that are bound to a place, now or at home."""
    tables = [estate.replicas] if estate.home is None else [estate.replicas, estate.home]
    return {service for table in tables for service in table.service[table.count > 0].tolist()}


def _target(top: Topology, plan: Plan, where: Where, row: int, running: Mapping[str, int]) -> str:
    """Where the primary of its data will be, if it runs there; else where most replicas are; then by name."""
    estate, made = top.estate, {one.store: where.site(one.candidate) for one in plan.stores if one.candidate}
    families = {d.target for d in estate.services[row].needs if d.kind == "store" and d.hard}
    data = {
        made.get(store.id) or ("" if store.primary is None else where.site(store.primary.at))
        for store in estate.stores
        if store.family in families
    }
    return min(running, key=lambda site: (site not in data, -running[site], site))


def _ingress(
    top: Topology,
    ends: list[_End],
    today: list[_End],
    changed: set[int],
    sites: set[str],
    measure: Measure,
) -> list[Congestion]:
    """sites: where users may arrive."""
    estate = top.estate
    limits = {
        site.id: site.ingress_mbps if measure == "bandwidth" else site.ingress_connections
        for site in estate.sites
        if site.id in sites
    }
    if all(limit is None for limit in limits.values()):
        return []
    found = {(site,): _Through(limit, Amounts(int), set()) for site, limit in limits.items()}
    for row, (service, end, now) in enumerate(zip(estate.services, ends, today, strict=True)):
        peak = _peak(service, measure)
        comes = service.traffic.kind is not None or bool(service.people) if peak is None else peak > 0
        if not (comes or _is_silent(service, measure)):
            continue
        for site in sites & (end.sent.keys() | now.sent.keys()):
            part = Fraction(end.sent.get(site, 0), end.whole or 1)
            before = Fraction(now.sent.get(site, 0), now.whole or 1) if row in changed else part
            found[site,].add(service, measure, part, before, end.untold or end.at_most)
    return _too_much(found, measure)


def _links(
    top: Topology, ends_of: list[_End], today: list[_End], changed: set[int], measure: Measure
) -> list[Congestion]:
    estate = top.estate
    limits = {
        link.ends: link.bandwidth_mbps if measure == "bandwidth" else link.connections
        for link in estate.links
    }
    if all(limit is None for limit in limits.values()):
        return []
    found = {ends: _Through(limit, Amounts(int), set()) for ends, limit in limits.items()}
    graph = service_graph(estate)
    for row, service in enumerate(estate.services):
        peak = _peak(service, measure)
        for needed in graph.hard[row] if peak or _is_silent(service, measure) else ():
            doubtful, moved = (
                ends_of[row].untold or ends_of[row].at_most or ends_of[needed].untold,
                row in changed or needed in changed,
            )
            for ends, through in found.items():
                part = _crossing(ends_of[row], ends_of[needed], ends)
                before = _crossing(today[row], today[needed], ends) if moved else part
                if part or before:
                    through.add(service, measure, part, before, doubtful)
    return _too_much(found, measure)


def _crossing(caller: _End, called: _End, ends: tuple[str, str]) -> Fraction:
    """The part of its own traffic that a service sends through a link to one that it calls: from where that
    one does not run, or may not, to where it does, or may; all of it at most.
    """
    hosts, parts = called.runs.keys(), list[Fraction]()
    for here, far in (ends, ends[::-1]):
        if far in hosts and (called.untold or here not in hosts) and caller.calls_from(here):
            among = 1 if called.untold else len(hosts)
            parts.append(caller.calls_from(here) / among)
    return min(sum(parts, Fraction(0)), Fraction(1)) if parts else Fraction(0)


def _too_much(found: Mapping[Any, _Through], measure: Measure) -> list[Congestion]:
    """What is above its limit, or not known to be below it, and more than today."""
    rows = list[Congestion]()
    for at, one in found.items():
        load, names = _rounded(one.amounts), tuple(sorted(one.services))
        too_much = one.silent or load > (one.limit or 0)
        if too_much and (one.more > 0 or one.may_be_more):
            rows.append(Congestion(at, measure, load, one.limit, names, len(one.silent), one.doubtful))
    return rows


def _is_silent(service: Service, measure: Measure) -> bool:
    """Whether it states no peak although users may be sent to it."""
    if _peak(service, measure) is not None or service.external:
        return False
    how = service.traffic.kind
    return service.people != 0 if how is None else how != "none"


def _peak(service: Service, measure: Measure) -> int | None:
    return service.traffic.mbps if measure == "bandwidth" else service.traffic.connections


def _rounded(amounts: Mapping[int, int]) -> int:
    return math.ceil(sum((Fraction(amount, share) for share, amount in amounts.items()), Fraction(0)))
