"""Choose, for each service with alternatives, the one that it relies on after a loss.

A service that needs one of several others is up while any of them is. Planner and checker know plain needs
only, so one of each group is chosen to become a plain need: one that is up if there is any, else the one that
can be back first. Of those that are up, one that cannot be stopped is preferred, so that shedding may take
the others. A bound must hold for every choice, so it is proved without these needs, except for what all
alternatives of a group need, and for the earliest time at which any of them can be back, which every choice
waits for.

Back first is computed as in Knuth's generalisation of Dijkstra's algorithm (1977): services in the order of
the earliest time at which all their needs are met. The remaining ones come back together if they need each
other only to serve.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evac.derive.affected import Alternatives, ServiceGraph
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Candidate, Instance, LostStore
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """State of services after a loss, (S,) each."""

    down: BoolColumn
    """Their base does not hold."""
    blocked: BoolColumn
    """They never come back because of their own needs."""
    doubtful: BoolColumn
    """Their outcome is unknown, or a plan found that they do not come back."""
    firm: BoolColumn
    """They must not be shed."""
    starts: BoolColumn
    """They have replicas to start."""
    start_ms: IntColumn
    """How long that takes; 0 if there is nothing to start."""
    rest_ms: IntColumn
    """How long the check and the traffic move take."""
    data_ms: IntColumn
    """When the lost stores that they need accept writes; 0 if they need none."""
    start_data_ms: IntColumn
    """The same for stores that they need to start."""


def chosen(graph: ServiceGraph, standing: Standing) -> ServiceGraph:
    """The graph in which each group of alternatives becomes a need of the chosen one."""
    if not graph.has_alternatives:
        return graph
    when = _back(graph, standing)
    picks = tuple(
        tuple(_pick(group.members, when, standing) for group in groups) for groups in graph.alternatives
    )
    hard, start, soft = (list(edges) for edges in (graph.hard, graph.start_edges, graph.soft))
    for service, groups in enumerate(graph.alternatives):
        for group, pick in zip(groups, picks[service], strict=True):
            for edges, belongs in ((hard, group.hard), (soft, not group.hard), (start, group.to_start)):
                if belongs:
                    edges[service] = tuple(sorted({*edges[service], pick}))
    plain = without(graph)
    return replace(plain, hard=tuple(hard), start_edges=tuple(start), soft=tuple(soft), picks=picks)


def counted_on(
    graph: ServiceGraph, standing: Standing, groups: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], int]:
    """Each group of interchangeable services -> the one relied on. graph: with choices."""
    when = _back(graph, standing) if groups else ()
    return {group: _pick(group, when, standing) for group in groups}


def first_of_each(graph: ServiceGraph, instance: Instance) -> Instance:
    """The instance in which a service whose alternatives are all down waits for the earliest of them: for a
    store that comes back by itself, if none can be back sooner whatever a plan does.
    """
    s, added = instance.services, list[LostStore]()
    lost, first = list(s.lost_stores), list(s.start_stores)
    when = _soonest(graph, instance) if graph.has_alternatives else []
    for service, group in graph.choices:
        at = min(when[member] for member in group.members)
        judged = not instance.unjudged.keys() & set(group.members)
        if not (at and judged and s.base_lost[service]):
            continue
        row = len(instance.stores) + len(added)
        way = Candidate("", "", "elect", at, (), 0, True, by_itself=True)
        added.append(LostStore(f"first for {s.id[service]}, {len(added)}", 0, "none", (), (way,)))
        lost[service] += (row,)
        first[service] += (row,) if group.to_start else ()
    if not added:
        return instance
    services = replace(s, lost_stores=tuple(lost), start_stores=tuple(first))
    return replace(instance, services=services, stores=(*instance.stores, *added))


def _soonest(graph: ServiceGraph, instance: Instance) -> list[int]:
    """(S,) ticks before which no plan has a service back, ignoring limits, capacity and tools; 0 if it is up.
    Raised from below, so that it is valid after each pass; a chain takes at most as many passes as services.
    """
    s, horizon = instance.services, instance.horizon
    stores = [horizon if store.soonest is None else store.soonest for store in instance.stores]
    groups = [[group for group in some if group.hard] for some in graph.alternatives]
    at, before = [0] * len(s), [-1] * len(s)
    for _ in range(len(s)):
        if at == before:
            break
        before = list(at)
        for service in np.flatnonzero(s.base_lost).tolist():
            apart = [other for other in s.hard[service] if s.component[other] != s.component[service]]
            chosen_at = [(min(at[m] for m in group.members), group.to_start) for group in groups[service]]
            begin = [at[other] for other in apart if other in s.hard_start[service]]
            begin += [stores[d] for d in s.start_stores[service]]
            begin += [tick for tick, to_start in chosen_at if to_start]
            serves = [at[other] for other in apart] + [stores[d] for d in s.lost_stores[service]]
            serves += [tick for tick, _ in chosen_at]
            if s.base_starts(service):
                serves.append(max(begin, default=0) + int(s.start[service]))
            rest = int(s.verify[service]) + int(s.change[service] + s.settle[service]) * bool(
                s.shift[service]
            )
            found = horizon if s.blocked[service] else min(horizon, max(serves, default=0) + rest)
            at[service] = max(at[service], found)
    return at


def without(graph: ServiceGraph) -> ServiceGraph:
    """The graph without any need of alternatives."""
    return replace(graph, alternatives=tuple(() for _ in graph.alternatives))


def in_common(graph: ServiceGraph) -> ServiceGraph:
    """The graph in which a service that needs one of several also needs what all of them require: services
    and store families, by chains of any length. Edges that would close a cycle are omitted.
    """
    hard, families = list(graph.hard), list(graph.families)
    for service, group in graph.choices:
        closures = [_closure(graph, member) for member in group.members]
        services = frozenset.intersection(*closures)
        stores = frozenset.intersection(
            *(frozenset(name for one in closure for name in graph.families[one]) for closure in closures)
        )
        if not any(service in closure for closure in closures):
            hard[service] = tuple(sorted({*hard[service], *services}))
            families[service] = tuple(sorted({*families[service], *stores}))
    return replace(graph, hard=tuple(hard), families=tuple(families))


def _closure(graph: ServiceGraph, first: int) -> frozenset[int]:
    """A service and all its hard dependencies, without alternatives."""
    seen, work = {first}, [first]
    while work:
        fresh = set(graph.hard[work.pop()]) - seen
        seen |= fresh
        work += fresh
    return frozenset(seen)


def _pick(members: tuple[int, ...], when: Sequence[int | None], standing: Standing) -> int:
    """Prefer one that is up and cannot be shed, then any that is up, then the one back first; as listed among
    equals.
    """

    def rank(place: int) -> tuple[bool, bool, bool, int, bool, int]:
        member = members[place]
        at, doubtful = when[member], bool(standing.doubtful[member])
        down, firm = bool(standing.down[member]), bool(standing.firm[member])
        return (at is None, down, doubtful, at or 0, not firm, place)

    return members[min(range(len(members)), key=rank)]


def _back(graph: ServiceGraph, standing: Standing) -> list[int | None]:
    """(S,) approximate time when each service can be available: 0 if it is up; None if it never is."""
    down = standing.down
    when: list[int | None] = [None if lost else 0 for lost in down.tolist()]
    users: list[list[int]] = [[] for _ in graph.hard]
    remaining = set(np.flatnonzero(down & ~standing.blocked).tolist())
    for service in remaining:
        for other in _named(graph, service):
            users[other].append(service)
    queue: list[tuple[int, int]] = []
    fresh = sorted(remaining)
    while fresh:
        for service in fresh:
            at = _ready(graph, standing, when, service)
            if at is not None:
                heapq.heappush(queue, (at, service))
        while queue:
            at, service = heapq.heappop(queue)
            if when[service] is None:
                when[service] = at
                remaining.discard(service)
                for user in users[service]:
                    ready = _ready(graph, standing, when, user) if when[user] is None else None
                    if ready is not None:
                        heapq.heappush(queue, (ready, user))
        fresh = sorted(_together(graph, standing, when, remaining))
        latest = max((at for at in when if at is not None), default=0)
        latest = max(latest, max((int(standing.data_ms[service]) for service in fresh), default=0))
        for service in fresh:
            when[service] = latest + int(standing.start_ms[service] + standing.rest_ms[service])
        remaining.difference_update(fresh)
        fresh = sorted({user for service in fresh for user in users[service] if when[user] is None})
    return when


def _named(graph: ServiceGraph, service: int) -> set[int]:
    """Everything that a service hard-needs, including alternatives."""
    groups = (group.members for group in graph.alternatives[service] if group.hard)
    return {*graph.hard[service], *(member for members in groups for member in members)}


def _ready(graph: ServiceGraph, standing: Standing, when: Sequence[int | None], service: int) -> int | None:
    """When a service can be back with what is available; None while something is missing."""
    needs = [(when[other], other in graph.start_edges[service]) for other in graph.hard[service]]
    for group in graph.alternatives[service]:
        if group.hard:
            there = [at for member in _counted(group, standing) if (at := when[member]) is not None]
            needs.append((min(there, default=None), group.to_start))
    known = [(at, to_start) for at, to_start in needs if at is not None]
    if len(known) < len(needs):
        return None
    begin = max((at for at, to_start in known if to_start), default=0)
    begin = max(begin, int(standing.start_data_ms[service]))
    serves = max((at for at, _ in known), default=0)
    serves = max(serves, int(standing.data_ms[service]))
    return max(begin + int(standing.start_ms[service]), serves) + int(standing.rest_ms[service])


def _counted(group: Alternatives, standing: Standing) -> list[int]:
    """The members that are not in doubt; all of them if each is."""
    return [member for member in group.members if not standing.doubtful[member]] or list(group.members)


def _together(
    graph: ServiceGraph, standing: Standing, when: Sequence[int | None], remaining: set[int]
) -> set[int]:
    """The largest set of services that need only each other and what is available, and only what is available
    to start.
    """
    found = set(remaining)

    def there(service: int, other: int, to_start: bool) -> bool:
        waits = to_start and bool(standing.starts[service])
        return when[other] is not None or (other in found and not waits)

    def holds(service: int) -> bool:
        return all(
            there(service, other, other in graph.start_edges[service]) for other in graph.hard[service]
        ) and all(
            any(there(service, member, group.to_start) for member in _counted(group, standing))
            for group in graph.alternatives[service]
            if group.hard
        )

    while gone := {service for service in found if not holds(service)}:
        found -= gone
    return found
