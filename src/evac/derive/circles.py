"""Services whose steps can never begin, because what they wait for waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from evac.derive.affected import components, reachable
from evac.model.fleet import BoolColumn
from evac.model.instance import Services, Stuck, ToolNeed
from evac.steps.registry import base_kinds


def tools_of_base(services: Services, tools: Mapping[str, ToolNeed], service: int) -> tuple[int, ...]:
    """Tools without a manual way that the base of a service needs wherever it is placed."""
    kinds = base_kinds(
        starts=services.base_starts(service) > 0,
        shifts=bool(services.shift[service]),
        stores=bool(services.lost_stores[service]),
    )
    needs = [tools[kind.name] for kind in kinds if kind.name in tools]
    return tuple(sorted({tool for need in needs if need.manual is None for tool in need.services}))


def without_circles(services: Services, tools: Mapping[str, ToolNeed]) -> tuple[Services, dict[int, Stuck]]:
    """The same services, where those that wait for themselves are blocked, with all that wait for them."""
    stuck = _needs_themselves(services, tools)
    if not stuck:
        return services, stuck
    return replace(services, blocked=services.blocked | _waiting_for(services, tools, stuck)), stuck


def _waits(services: Services, tools: Mapping[str, ToolNeed]) -> list[tuple[int, ...]]:
    """Of each lost service what its base waits for: lost services that it cannot do without, and tools."""
    return [
        (
            *(other for other in services.hard[service] if services.base_lost[other]),
            *tools_of_base(services, tools, service),
        )
        if services.base_lost[service]
        else ()
        for service in range(len(services))
    ]


def _needs_themselves(services: Services, tools: Mapping[str, ToolNeed]) -> dict[int, Stuck]:
    """Services that wait for themselves, because a tool of their steps waits for them."""
    waits = _waits(services, tools)
    component = components(waits)
    members: dict[int, list[int]] = {}
    circular = set()
    for service, own in enumerate(component):
        members.setdefault(own, []).append(service)
        if waits[service] and any(component[t] == own for t in tools_of_base(services, tools, service)):
            circular.add(own)
    return {
        service: Stuck("tool-cycle", tuple(services.id[other] for other in members[own]))
        for own in sorted(circular)
        for service in members[own]
    }


def _waiting_for(services: Services, tools: Mapping[str, ToolNeed], stuck: Mapping[int, Stuck]) -> BoolColumn:
    """(S,) services that are stuck, or wait for one that is."""
    users: list[list[int]] = [[] for _ in range(len(services))]
    for service, needed in enumerate(_waits(services, tools)):
        for other in needed:
            users[other].append(service)
    return np.array(reachable(users, sorted(stuck)), np.bool_)
