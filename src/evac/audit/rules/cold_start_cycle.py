"""EV115: services that need each other to start: from cold, nothing in the circle can go first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import listed
from evac.derive.graph import components
from evac.model.diagnostic import Severity

_MAKER = Maker("cold-start-cycle", "EV115")
Edges = tuple[tuple[int, ...], ...]
"""Services that each service needs, by number."""


def check(context: Context) -> Iterator[Finding]:
    """Error where one loss takes the whole circle down and people have no way to start; else a warning."""
    for members in start_circles(context):
        names = [context.estate.services[s].id for s in members]
        down = context.impacts.down[:, members].all(axis=1)
        losses = context.worst_first(np.flatnonzero(down).tolist())
        by_hand = "start" in context.impacts.times.manual
        severity: Severity = "error" if losses and not by_hand else "warning"
        where = f"; the loss of {listed(context.names(losses))} takes all of them" if losses else ""
        yield _MAKER.make(
            context,
            severity,
            names[0],
            f"{listed(names, 6)} need each other to start, so none can start first{where}",
            "Let one of them start without the others: `needed_to: serve`, a cached copy, or a way by hand.",
            losses=losses,
            chain=(*names, names[0]),
            paths=(f"services/{names[0]}/needs/0", f"services/{names[0]}"),
        )


def start_circles(context: Context) -> list[list[int]]:
    """Services that need each other to start; each in the order of a walk."""
    edges = context.impacts.graph.start_edges
    groups: dict[int, list[int]] = {}
    for service, number in enumerate(components(edges)):
        groups.setdefault(number, []).append(service)
    return circles(groups.values(), edges)


def circles(groups: Iterable[Sequence[int]], edges: Edges) -> list[list[int]]:
    """Components of more than one service, or of one that needs itself; each in the order of a walk."""
    found = [group for group in groups if len(group) > 1 or group[0] in edges[group[0]]]
    return sorted(_walk(group, edges) for group in found)


def _walk(group: Sequence[int], edges: Edges) -> list[int]:
    """Members along their edges from the first, those that a single walk misses at the end."""
    inside, path = set(group), [group[0]]
    while True:
        following = [other for other in edges[path[-1]] if other in inside and other not in path]
        if not following:
            return path + [service for service in group if service not in path]
        path.append(following[0])


RULE = Rule(
    "cold-start-cycle",
    "EV115",
    "A cold-start cycle",
    check,
    per_loss=False,
)
