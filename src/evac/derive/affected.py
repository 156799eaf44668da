"""The effect of a loss on services and stores, before anything is planned.

Pure derivations from the estate: lost and surviving replicas, lost stores, and who is affected through hard
and soft dependencies. Used by planning (through `derive`) and by the audit.

The small directed graphs over integers are walked iteratively, so that a chain of any length is safe, and in
the order of ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evac.derive.domains import Loss, Topology, is_lost, site_of_replicas
from evac.derive.stores import store_is_lost
from evac.model.estate import Estate, Service, Store
from evac.model.fleet import BoolColumn, IntColumn, Replicas, np
from evac.model.records import dataclass


def components(edges: Sequence[Sequence[int]]) -> list[int]:
    """Strongly connected component of each node (Tarjan 1972).

    `edges[i]` are the successors of i. Components are numbered so that every edge between two components goes
    from a higher number to a lower one: dependencies have lower numbers.
    """
    count = len(edges)
    order, low, found = [-1] * count, [0] * count, [-1] * count
    stack: list[int] = []
    clock = done = 0
    for root in range(count):
        if order[root] >= 0:
            continue
        order[root] = low[root] = clock
        clock += 1
        stack.append(root)
        work = [(root, iter(edges[root]))]
        while work:
            node, following = work[-1]
            for other in following:
                if order[other] < 0:
                    order[other] = low[other] = clock
                    clock += 1
                    stack.append(other)
                    work.append((other, iter(edges[other])))
                    break
                # Nodes with a component are no longer on the stack.
                if found[other] < 0 and order[other] < low[node]:
                    low[node] = order[other]
            else:
                work.pop()
                if low[node] == order[node]:
                    while found[node] < 0:
                        found[stack.pop()] = done
                    done += 1
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
    return found


def reachable(edges: Sequence[Sequence[int]], starts: Sequence[int]) -> list[bool]:
    """Nodes reachable from any of `starts`, including these."""
    seen = [False] * len(edges)
    work = list(starts)
    for node in work:
        seen[node] = True
    while work:
        for other in edges[work.pop()]:
            if not seen[other]:
                seen[other] = True
                work.append(other)
    return seen


@dataclass(frozen=True, slots=True)
class Alternatives:
    """A choice between services, by index, preferred one first; any one is enough."""

    members: tuple[int, ...]
    hard: bool
    to_start: bool


@dataclass(frozen=True, slots=True, eq=False)
class ServiceGraph:
    """Dependencies by index.

    hard, soft: services that a service needs; families: store families it hard-needs; start_edges,
    start_families: those hard ones needed to start; family_stores: family -> indices of its stores;
    alternatives: the choices of each service, contained in none of the others; picks: for each group, the one
    that became a plain need (`derive.alternatives`); rebuilt: families that can be rebuilt and that the
    service waits for itself, not through a hard dependency.
    """

    hard: tuple[tuple[int, ...], ...]
    soft: tuple[tuple[int, ...], ...]
    start_edges: tuple[tuple[int, ...], ...]
    families: tuple[tuple[str, ...], ...]
    start_families: tuple[tuple[str, ...], ...]
    family_stores: dict[str, tuple[int, ...]]
    index: dict[str, int]
    alternatives: tuple[tuple[Alternatives, ...], ...] = ()
    picks: tuple[tuple[int, ...], ...] = ()
    rebuilt: tuple[tuple[str, ...], ...] = ()

    @property
    def has_alternatives(self) -> bool:
        return any(self.alternatives)

    @property
    def choices(self) -> tuple[tuple[int, Alternatives], ...]:
        """(service, group) of each hard need of alternatives."""
        return tuple(
            (row, group) for row, some in enumerate(self.alternatives) for group in some if group.hard
        )

    def lacking(self, service: int, down: Sequence[bool] | BoolColumn) -> tuple[int, ...]:
        """What a service hard-needs that is down; a group of alternatives counts if all of them are."""
        groups = (group.members for group in self.alternatives[service] if group.hard)
        gone = (members for members in groups if all(down[member] for member in members))
        return (
            *(other for other in self.hard[service] if down[other]),
            *(member for members in gone for member in members),
        )

    @property
    def every(self) -> ServiceGraph:
        """The graph in which each alternative is a need of its own."""
        if not self.has_alternatives:
            return self
        hard, start = ([set(edges) for edges in rows] for rows in (self.hard, self.start_edges))
        for row, group in self.choices:
            hard[row].update(group.members)
            start[row].update(group.members if group.to_start else ())
        whole, first = (tuple(tuple(sorted(edges)) for edges in rows) for rows in (hard, start))
        return replace(self, hard=whole, start_edges=first)


def service_graph(estate: Estate) -> ServiceGraph:
    """The dependency graph of an estate; linear in edges."""
    index = {s.id: row for row, s in enumerate(estate.services)}
    edges = [_edges(service, index) for service in estate.services]
    by_family: dict[str, tuple[int, ...]] = {}
    for row, store in enumerate(estate.stores):
        by_family[store.family] = (*by_family.get(store.family, ()), row)
    hard, soft, start, families, to_start = zip(*edges, strict=True) if edges else ((), (), (), (), ())
    alternatives = tuple(_alternatives(service, index) for service in estate.services)
    rebuilt = _rebuilt({store.family for store in estate.stores if store.rebuilt_from}, hard, families)
    return ServiceGraph(
        hard, soft, start, families, to_start, by_family, index, alternatives, rebuilt=rebuilt
    )


def _rebuilt(
    names: set[str], hard: tuple[tuple[int, ...], ...], families: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], ...]:
    """See `ServiceGraph`: whatever needs a service that waits for a rebuild does not wait for it again."""
    found: list[tuple[str, ...]] = [()] * len(hard)
    component = components(hard) if names else []
    dependents: list[list[int]] = [[] for _ in hard]
    for service, needs in enumerate(hard):
        for other in needs:
            dependents[other].append(service)
    for name in sorted(names):
        users = [service for service, needed in enumerate(families) if name in needed]
        waits = reachable(dependents, users)
        for service in users:
            if not any(waits[other] and component[other] != component[service] for other in hard[service]):
                found[service] = (*found[service], name)
    return tuple(found)


def _alternatives(service: Service, index: dict[str, int]) -> tuple[Alternatives, ...]:
    """The service's choices, without those that a plain need of it already settles."""
    plain = {d.target for d in service.needs if d.kind == "service" and d.hard and not d.any_of}
    return tuple(
        Alternatives(tuple(index[name] for name in d.any_of), d.hard, d.hard and d.needed_to == "start")
        for d in service.needs
        if d.any_of and (plain.isdisjoint(d.any_of) or d.needed_to == "start")
    )


_Edges = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[str, ...], tuple[str, ...]]


def _edges(service: Service, index: dict[str, int]) -> _Edges:
    """What one service needs, see `ServiceGraph`."""
    edges = [d for d in service.needs if d.kind == "service" and not d.any_of]
    stores = [d for d in service.needs if d.kind == "store" and d.hard]
    return (
        tuple(sorted({index[d.target] for d in edges if d.hard})),
        tuple(sorted({index[d.target] for d in edges if not d.hard})),
        tuple(sorted({index[d.target] for d in edges if d.hard and d.needed_to == "start"})),
        tuple(sorted({d.target for d in stores})),
        tuple(sorted({d.target for d in stores if d.needed_to == "start"})),
    )


def counts_by_service(replicas: Replicas, counts: IntColumn, services: int) -> IntColumn:
    """(S,) the sum of (K,) counts over the bindings of each service."""
    return np.bincount(replicas.service, counts.astype(np.float64), services).astype(np.int64)


def sites_left(top: Topology, gone: IntColumn, off: IntColumn | int = 0) -> BoolColumn:
    """(S,) services that lose every replica they have at some site. gone: (K,) lost replicas; off: (K,) those
    that do not run anyway.
    """
    estate = top.estate
    replicas, site = estate.replicas, site_of_replicas(top)
    width = max(1, len(estate.sites))
    key = replicas.service.astype(np.int64) * width + site
    size = len(estate.services) * width
    known = site >= 0
    before = np.bincount(key[known], (replicas.count - off)[known], size)
    after = np.bincount(key[known], (replicas.count - np.maximum(gone, off))[known], size)
    left = (before > 0) & (after == 0)
    return np.asarray(left.reshape(len(estate.services), width).any(axis=1), np.bool_)


def lost_members(top: Topology, lost: Loss, store: Store) -> tuple[bool, ...]:
    """Whether each member of a store is lost, in the order of `store.members`."""
    return tuple(is_lost(top, lost, member.at) for member in store.members)


def stores_lost(top: Topology, lost: Loss) -> BoolColumn:
    """(D,) which stores lose their primary, their majority or every member."""
    flags = [store_is_lost(store, lost_members(top, lost, store)) for store in top.estate.stores]
    return np.array(flags, np.bool_)


def families_without_instance(graph: ServiceGraph, lost: BoolColumn) -> frozenset[str]:
    """Store families without any instance left."""
    return frozenset(f for f, stores in graph.family_stores.items() if all(bool(lost[d]) for d in stores))


def hit_by_dependency(graph: ServiceGraph, down: BoolColumn) -> BoolColumn:
    """(S,) services that are down, or that transitively hard-depend on one that is, or on alternatives that
    all are.
    """
    dependents: list[list[int]] = [[] for _ in graph.hard]
    for service, needs in enumerate(graph.hard):
        for other in needs:
            dependents[other].append(service)
    found = reachable(dependents, np.flatnonzero(down).tolist())
    groups = [(service, group.members) for service, group in graph.choices]
    while more := [s for s, members in groups if not found[s] and all(found[m] for m in members)]:
        found = reachable(dependents, [*more, *(service for service, hit in enumerate(found) if hit)])
    return np.array(found, np.bool_)
