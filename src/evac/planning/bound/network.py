"""The acyclic part of the arcs, and what runs but cannot be shed because others need it.

The search for a certificate works on a graph without cycles: in each cycle of arcs (members of one
component serve together) all members wait for one representative. Leaving arcs out is legal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from evac.derive.graph import components
from evac.planning.bound.facts import Facts


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """arcs: (i, j, ticks) sorted, without cycles; order: milestones, what is needed first.

    pinned: running base that cannot be shed -> who pins it, nearest to an unsheddable one first.
    """

    arcs: tuple[tuple[int, int, int], ...]
    order: tuple[int, ...]
    pinned: dict[int, int]


def network_of(facts: Facts) -> Network:
    """Arcs that a search may put weight on. Linear in arcs."""
    edges: list[list[int]] = [[] for _ in range(len(facts))]
    for i, j in facts.arcs:
        edges[i].append(j)
    circle = components([sorted(some) for some in edges])
    first: dict[int, int] = {}
    for i, c in enumerate(circle):
        first.setdefault(c, i)
    kept = []
    for (i, j), delay in sorted(facts.arcs.items()):
        inside = circle[i] == circle[j]
        if facts.fixed[i] or (inside and (delay > 0 or j != first[circle[i]])):
            continue
        if not _idle(facts, i, j):
            kept.append((i, j, delay))
    order = sorted(range(len(facts)), key=lambda i: (circle[i], i != first[circle[i]], i))
    return Network(tuple(kept), tuple(order), _pinned(facts))


def _idle(facts: Facts, i: int, j: int) -> bool:
    """An arc between milestones whose outage is known beforehand tells nothing."""
    return bool(facts.fixed[j]) or int(facts.head[i]) >= facts.instance.horizon


def _pinned(facts: Facts) -> dict[int, int]:
    """Running sheddable bases that something unsheddable hard-needs, directly or through others."""
    services = facts.instance.services
    queue = deque(s for s in range(len(services)) if facts.fixed[s])
    found: dict[int, int] = {}
    while queue:
        i = queue.popleft()
        for j in services.hard[i]:
            if not facts.fixed[j] and not facts.lost[j] and j not in found:
                found[j] = i
                queue.append(j)
    return found
