"""What is down, or short of replicas, even before a scenario begins."""

from __future__ import annotations

from evac.derive.affected import (
    ServiceGraph,
    counts_by_service,
    families_without_instance,
    hit_by_dependency,
    stores_lost,
)
from evac.derive.domains import Topology, lost_now
from evac.derive.moving import moved_by_step, sent_there
from evac.derive.pools import replicas_lost, replicas_off
from evac.model.fleet import IntColumn, np


def down_before(
    top: Topology, graph: ServiceGraph, n: IntColumn, m: IntColumn, good: bool = False
) -> tuple[frozenset[int], frozenset[int]]:
    """Services whose base, and whose top, does not hold now. n, m: (S,) replicas for full service, and
    the least that serve. good: pool losses favour us.
    """
    services, replicas, now = top.estate.services, top.estate.replicas, lost_now(top)
    off = np.maximum(replicas_lost(top, now, good), replicas_off(top))
    runs = counts_by_service(replicas, replicas.count - off, len(services))
    gone = families_without_instance(graph, stores_lost(top, now))
    without = np.array([not gone.isdisjoint(needed) for needed in graph.families], np.bool_)
    nobody = np.zeros(len(services), np.bool_)
    misled = moved_by_step(services, sent_there(top, now, nobody))
    base = hit_by_dependency(graph, (runs < m) | now.external | without | misled)
    short = np.flatnonzero(base | (runs < n))
    return frozenset(np.flatnonzero(base).tolist()), frozenset(short.tolist())
