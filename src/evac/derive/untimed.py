"""Which services come back at a time that nobody knows, and the fact that is missing.

A plan takes a duration that is not known as nothing, so that the order still says what can be said. When a
service is back it does not say then: neither for what waits for that duration, nor for what waits for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evac.derive.circles import tools_of_base
from evac.derive.domains import Topology
from evac.derive.stores import fence_is_unknown, freshest
from evac.model.estate import Estate
from evac.model.instance import LostStore, Services, ToolNeed
from evac.steps.registry import kind_of


def untimed(
    top: Topology, services: Services, stores: Sequence[LostStore], tools: Mapping[str, ToolNeed]
) -> dict[int, str]:
    """Service -> path of the fact without which nobody knows when it is back; only of those that are down."""
    estate = top.estate
    by_store = {row: path for row, store in enumerate(stores) if (path := _of_store(estate, store))}
    found: dict[int, str] = {}
    for row in range(len(services)):
        path = _own(estate, services, row, by_store) if services.base_lost[row] else ""
        if path:
            found[row] = path
    if not found:
        return found
    users: list[list[int]] = [[] for _ in range(len(services))]
    for row in range(len(services)):
        if services.base_lost[row]:
            waits = {*services.hard[row], *tools_of_base(services, tools, row)}
            for other in sorted(waits):
                users[other].append(row)
    queue = sorted(found)
    for row in queue:
        for user in users[row]:
            if user not in found:
                found[user] = found[row]
                queue.append(user)
    return dict(sorted(found.items()))


def _own(estate: Estate, services: Services, row: int, by_store: Mapping[int, str]) -> str:
    """The fact that is missing for steps of the service, or of stores it waits for; empty for none."""
    service = estate.services[row]
    if services.base_starts(row) and service.start_ms is None:
        return f"services/{service.id}/start"
    traffic = service.traffic
    if services.shift[row] and traffic.ttl_ms is None and not traffic.settle_ms:
        return f"services/{service.id}/traffic/ttl"
    return next((by_store[store] for store in services.lost_stores[row] if store in by_store), "")


def _of_store(estate: Estate, store: LostStore) -> str:
    """The fact that is missing for some way back of a store that a plan may take; empty for none."""
    stated = next(one for one in estate.stores if one.id == store.id)
    if any(way.untimed for way in freshest(store.allowed)):
        return f"stores/{store.id}/lag"
    if store.allowed and fence_is_unknown(stated, store.fence_rung):
        return f"stores/{store.id}/fence"
    for way in store.allowed:
        if way.forced:
            if "force-quorum" not in estate.limits.manual_ms:
                return "limits/manual/force-quorum"
        elif kind_of(way.kind).makes_primary and stated.promote_ms is None:
            return f"stores/{store.id}/promote"
    return ""
