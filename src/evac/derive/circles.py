"""Services whose steps can never start, because what they wait for waits for them.

For a need to serve, the dependency's base holds no later than that of its user; for a need to start, or for a
tool, it holds before the first step. So of services that wait for each other, none comes back if one of these
waits is of the second kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from evac.derive.affected import components, reachable
from evac.model.fleet import BoolColumn
from evac.model.instance import Instance, Services, Stuck, ToolNeed
from evac.model.scenario import Scenario
from evac.steps.registry import base_kinds

Edges = Sequence[Sequence[int]]


def tools_of_base(services: Services, tools: Mapping[str, ToolNeed], service: int) -> tuple[int, ...]:
    """Tools without a manual way that the base of a service needs wherever it is placed."""
    needs = tool_needs(services, tools, service)
    return tuple(sorted({tool for need in needs if need.manual is None for tool in need.services}))


def doubtful_tools(services: Services, tools: Mapping[str, ToolNeed], service: int) -> frozenset[int]:
    """The same of tools that run as far as is known, but cannot be judged."""
    needs = tool_needs(services, tools, service)
    return frozenset(tool for need in needs if need.manual is None for tool in need.doubtful)


def doubted_with(instance: Instance) -> list[list[int]]:
    """For each service, those that are down and whose base waits for its base, also as a tool that cannot be
    judged: in doubt with it. Empty lists if every fact is known.
    """
    users: list[list[int]] = [[] for _ in range(len(instance.services))]
    s = instance.services
    for service in np.flatnonzero(s.base_lost).tolist() if instance.vague or instance.unjudged else ():
        tools = {
            *tools_of_base(s, instance.tools, service),
            *doubtful_tools(s, instance.tools, service),
        }
        for other in tools.union(s.hard[service]):
            users[other].append(service)
    return users


def unjudged_tool(instance: Instance, kind: str) -> str:
    """Path of the fact without which the tools of a kind of step cannot be judged; empty if they can."""
    need = instance.tools.get(kind)
    tools = () if need is None else (*need.services, *need.doubtful)
    return next((instance.unjudged[tool] for tool in tools if tool in instance.unjudged), "")


def tool_needs(services: Services, tools: Mapping[str, ToolNeed], service: int) -> tuple[ToolNeed, ...]:
    """What the steps of a service's base need wherever it is placed; none if it comes back by itself."""
    if service in services.alone:
        return ()
    kinds = base_kinds(
        starts=services.base_starts(service) > 0,
        shifts=bool(services.shift[service]),
        stores=_moves_a_store(services, service),
    )
    return tuple(tools[kind.name] for kind in kinds if kind.name in tools)


def _moves_a_store(services: Services, service: int) -> bool:
    """Whether a store that it waits for is fenced and promoted, and does not come back by itself."""
    return not services.own_return.issuperset(services.lost_stores[service])


def start_circles(hard: Edges, start: Edges, starting: Sequence[bool]) -> dict[int, tuple[int, ...]]:
    """Service -> all services in its cycle, if one of them needs another one to start. starting: (S,)
    services that have to start: running ones wait for nothing.
    """
    component = components(hard)
    members: dict[int, list[int]] = {}
    for service, own in enumerate(component):
        members.setdefault(own, []).append(service)
    circular = {
        component[service]
        for service, needed in enumerate(start)
        if starting[service] and any(component[other] == component[service] for other in needed)
    }
    return {service: tuple(members[own]) for own in sorted(circular) for service in members[own]}


def without_circles(
    services: Services,
    tools: Mapping[str, ToolNeed],
    broken_by: int | None = None,
    grace: int = 0,
    scenario: Scenario | None = None,
    horizon: int = 0,
) -> tuple[Services, dict[int, Stuck], dict[int, int], dict[int, int]]:
    """(services, those that wait for themselves, those that a person frees, those that start while all of
    their cycle still runs elsewhere): a service that waits for itself is blocked together with all that wait
    for it.

    broken_by: ticks in which people break a start cycle, None if they cannot; its members then wait for that,
    and need each other only to serve. grace: ticks in which tools of a site being left still work: what needs
    them is then not certainly lost, and none of our plans uses that. scenario: of an orderly move, in
    which starts find what they need where it still runs.
    """
    starting = [
        bool(lost) and services.base_starts(s) > 0 for s, lost in enumerate(services.base_lost.tolist())
    ]
    circles = start_circles(services.hard, services.hard_start, starting)
    freed: dict[int, int] = {}
    if circles and broken_by is not None:
        freed = {service: broken_by for service in circles if starting[service]}
        services, circles = _serving_only(services, circles), {}
    runs = _runs_until(services, scenario, min(grace, horizon), horizon) if circles else []
    until = {service: min(runs[one] for one in circles[service]) for service in circles}
    start_by = {service: ticks for service, ticks in until.items() if ticks > 0}
    if start_by:
        services = _serving_only(services, {service: circles[service] for service in start_by})
        circles = {service: members for service, members in circles.items() if service not in start_by}
    names = services.id
    stuck = {
        service: Stuck("start-cycle", tuple(names[other] for other in members))
        for service, members in circles.items()
    }
    stuck.update(_tool_circles(services, tools))
    for_sure = {
        service: why
        for service, why in stuck.items()
        if any(_is_strict(services, tools, names.index(one), why, grace) for one in why.services)
    }
    if for_sure:
        blocked = services.blocked | _waiting_for(services, tools, for_sure)
        services = replace(services, blocked=blocked)
    return services, stuck, freed, start_by


def _runs_until(services: Services, scenario: Scenario | None, grace: int, horizon: int) -> list[int]:
    """(S,) ticks until which each service runs where it leaves, whatever a plan does; 0 if it does not run,
    or does not leave in an orderly way.
    """
    if scenario is None or scenario.kind not in ("evacuate", "failback"):
        return [0] * len(services)
    last = np.maximum(0, grace - services.shed) if scenario.kind == "evacuate" else horizon
    found = np.where(services.base_lost, last, horizon)
    found[sorted(services.down_before)] = 0
    return [int(ticks) for ticks in found]


def _serving_only(services: Services, circles: Mapping[int, Sequence[int]]) -> Services:
    """The same, where members of some cycles need each other only to serve."""
    start = tuple(
        tuple(other for other in needed if other not in circles.get(service, ()))
        for service, needed in enumerate(services.hard_start)
    )
    return replace(services, hard_start=start)


def _is_strict(
    services: Services, tools: Mapping[str, ToolNeed], service: int, why: Stuck, grace: int
) -> bool:
    """Whether a step of a service that waits for its own cycle certainly starts before its base holds: if all
    steps take no time, they could share one tick.
    """
    inside = {services.id.index(one) for one in why.services}
    shift = int(services.change[service] + services.settle[service]) if services.shift[service] else 0
    check = int(services.verify[service]) + shift
    start = int(services.start[service]) + check if services.base_starts(service) else 0
    if why.kind == "start-cycle":
        return start > 0 and bool(inside.intersection(services.hard_start[service]))
    moves = check if _moves_a_store(services, service) else 0
    lasts = {"start": start, "verify": check, "shift": shift, "fence": moves, "promote": moves}
    needs = (tools[kind] for kind, ticks in lasts.items() if ticks > 0 and kind in tools)
    return grace == 0 and any(n.manual is None and inside.intersection(n.services) for n in needs)


def never_planned(instance: Instance) -> BoolColumn:
    """(S,) services that no plan of ours restores: they wait for themselves, or for one that does."""
    s = instance.services
    return np.asarray(s.blocked | _waiting_for(s, instance.tools, instance.stuck), np.bool_)


def _waits(services: Services, tools: Mapping[str, ToolNeed]) -> list[tuple[int, ...]]:
    """For each lost service, what its base waits for: lost services that it requires, and tools."""
    return [
        (
            *(other for other in services.hard[service] if services.base_lost[other]),
            *tools_of_base(services, tools, service),
        )
        if services.base_lost[service]
        else ()
        for service in range(len(services))
    ]


def _tool_circles(services: Services, tools: Mapping[str, ToolNeed]) -> dict[int, Stuck]:
    """Services that wait for a tool needed by their own recovery steps."""
    if not any(need.services and need.manual is None for need in tools.values()):
        return {}
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
    if not stuck:
        return np.zeros(len(services), np.bool_)
    users: list[list[int]] = [[] for _ in range(len(services))]
    for service, needed in enumerate(_waits(services, tools)):
        for other in needed:
            users[other].append(service)
    return np.array(reachable(users, sorted(stuck)), np.bool_)
