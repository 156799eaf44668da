"""How a service comes to be down: the shortest way along hard dependencies to what is lost itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from evac.audit.context import Context, NoRoom
from evac.audit.impacts import LOST
from evac.audit.stores import NEVER


def chain_to(context: Context, service: int, goal: Callable[[int], bool]) -> tuple[int, ...]:
    """Shortest path of hard dependencies from a service to one that meets a goal; empty without one."""
    graph = context.impacts.graph
    before: dict[int, int] = {service: -1}
    work = deque([service])
    while work:
        node = work.popleft()
        if goal(node):
            path = [node]
            while before[path[-1]] >= 0:
                path.append(before[path[-1]])
            return tuple(reversed(path))
        for other in graph.hard[node]:
            if other not in before:
                before[other] = node
                work.append(other)
    return ()


def why_down(context: Context, service: int, number: int) -> tuple[str, ...]:
    """Chain of names from a service to what the loss takes, with the reason at its end."""
    direct = context.impacts.direct[number]
    path = chain_to(context, service, lambda node: bool(direct[node]))
    names = tuple(context.estate.services[node].id for node in path)
    return (*names, reason(context, path[-1], number)) if path else names


def reason(context: Context, service: int, number: int) -> str:
    """Why a service that is down by itself is down: its replicas, its store or its traffic."""
    impacts, estate = context.impacts, context.estate
    lost, name = int(impacts.lost[number, service]), impacts.losses.ids[number]
    for family in impacts.graph.families[service]:
        row = impacts.families.index.get(family)
        if row is not None and number in impacts.families.losses[row]:
            stores = [estate.stores[d].id for d in impacts.graph.family_stores[family]]
            return f"store {', '.join(stores)} is lost with {name}"
    left = impacts.left(number, service)
    if lost and left < impacts.presence.m[service]:
        if not impacts.presence.counted[service]:
            return f"runs nowhere but in {name}"
        n, m = int(impacts.presence.n[service]), int(impacts.presence.m[service])
        return f"{left} of {n} replicas left, {m} needed"
    return f"its traffic points at {name}"


def why_degraded(context: Context, service: int, number: int) -> tuple[str, ...]:
    """Chain from a service that serves less to why: the replicas it lost, or what it likes to use is down."""
    impacts = context.impacts
    name, lost = context.estate.services[service].id, int(impacts.lost[number, service])
    if lost:
        return (
            name,
            f"{impacts.left(number, service):,} of {int(impacts.presence.n[service]):,} replicas left",
        )
    for other in impacts.graph.soft[service]:
        if impacts.down[number, other]:
            return (name, *why_down(context, other, number))
    return (name,)


def why_lost(context: Context, service: int, number: int) -> tuple[str, ...]:
    """Chain from a service that never comes back to the first that cannot by itself."""
    path = chain_to(context, service, lambda node: bool(_stuck(context, node, number)))
    if not path:
        return why_down(context, service, number)
    return (*(context.estate.services[node].id for node in path), str(_stuck(context, path[-1], number)))


def common_reason(context: Context, service: int, number: int) -> str:
    """The end of that chain in words that are the same for services that are alike."""
    path = chain_to(context, service, lambda node: bool(_stuck(context, node, number)))
    if not path:
        *names, reason = why_down(context, service, number)
        return f"{names[-1]}: {reason}" if names else reason
    end = _stuck(context, path[-1], number)
    if isinstance(end, NoRoom):
        return "there is no room for them"
    return f"{context.estate.services[path[-1]].id}: {end}"


def _stuck(context: Context, service: int, number: int) -> str | NoRoom:
    """Why nothing brings a service back that is lost itself; empty if it is not the one."""
    known = context.stuck_at.get((number, service))
    if known is None:
        impacts = context.impacts
        itself = impacts.direct[number, service] and impacts.fate[number, service] == LOST
        known = context.stuck_at[number, service] = _reason(context, service, number) if itself else ""
    return known


def _reason(context: Context, service: int, number: int) -> str | NoRoom:
    impacts, estate = context.impacts, context.estate
    where = impacts.losses.ids[number]
    for family in impacts.graph.families[service]:
        row = impacts.families.index.get(family)
        if row is None or number not in impacts.families.losses[row]:
            continue
        place = int(impacts.families.losses[row].searchsorted(number))
        if impacts.families.ready_ms[row][place] >= NEVER:
            stores = [estate.stores[d].id for d in impacts.graph.family_stores[family]]
            return f"store {', '.join(stores)} has no copy within its rpo outside {where}"
    short = impacts.capacity.short.get(number)
    if short is not None and short.for_good[service] > 0:
        return NoRoom(int(short.for_good[service]))
    missing = impacts.lost[number, service] and impacts.left(number, service) == 0
    if missing and not impacts.capacity.room_known[number, service]:
        return f"runs nowhere outside {where}, and no room for it is known"
    if impacts.chains.tool_ready["start"][number] >= NEVER and "start" not in impacts.times.manual:
        return "the tools that start replicas are lost with it, and there is no way by hand"
    return ""
