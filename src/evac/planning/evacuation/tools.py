"""Recovery tools that need themselves: found before planning, and named."""

from __future__ import annotations

import numpy as np

from evac.derive.graph import components
from evac.model.errors import Infeasible
from evac.model.instance import Instance
from evac.planning.evacuation.lowering import static_kinds


def _edges(instance: Instance) -> list[list[int]]:
    """Per lost service: lost services it hard-depends on, and tools it cannot do without."""
    s = instance.services
    edges: list[list[int]] = [[] for _ in range(len(s))]
    for service in np.flatnonzero(s.base_lost).tolist():
        edges[service] = [j for j in s.hard[service] if s.base_lost[j]] + _tool_edges(instance, service)
    return edges


def _tool_edges(instance: Instance, service: int) -> list[int]:
    needs = [instance.tools.get(kind) for kind in static_kinds(instance, service)]
    return sorted(
        {tool for need in needs if need is not None and need.manual is None for tool in need.services}
    )


def refuse_self_reference(instance: Instance) -> None:
    """Raise Infeasible where a tool waits for itself and people have no way without it."""
    edges = _edges(instance)
    found = components(edges)
    for service in range(len(edges)):
        for tool in _tool_edges(instance, service) if edges[service] else []:
            if found[tool] == found[service]:
                _refuse(instance, edges, tool, service)


def _refuse(instance: Instance, edges: list[list[int]], tool: int, service: int) -> None:
    names = instance.services.id
    chain = " -> ".join(names[k] for k in _path(edges, tool, service))
    raise Infeasible(
        "tool-self-reference",
        f"to bring {names[service]} back takes {names[tool]}, which waits for it: {chain} -> {names[tool]}",
        "give people a way without the tool (limits.manual), or a copy of it elsewhere; then: evac audit",
    )


def _path(edges: list[list[int]], start: int, end: int) -> list[int]:
    """A shortest way along edges, both ends included."""
    before = {start: start}
    queue = [start]
    for node in queue:
        for other in edges[node]:
            if other not in before:
                before[other] = node
                queue.append(other)
    path = [end]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]
