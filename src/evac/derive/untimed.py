"""Which services come back at a time that nobody knows, and the fact that is missing.

A plan takes a duration that is not known as nothing, so that the order still says what can be said. When a
service is back it does not say then: neither for what waits for that duration, nor for what waits for that,
nor for what waits for promotions, fences or hands that are held for that long.

And which come back before anybody acts, because all that they wait for happens by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from evac.derive.circles import tool_needs
from evac.derive.domains import Topology
from evac.derive.stores import commits_wait_ms, fence_is_unknown, freshest, missing_time, people_take
from evac.model.estate import Estate
from evac.model.fleet import IntColumn
from evac.model.instance import WHOLE, Instance, Limit, LostStore, Services, ToolNeed


def untimed(
    top: Topology,
    services: Services,
    stores: Sequence[LostStore],
    rebuilds: Mapping[int, Sequence[tuple[str, str]]],
    tools: Mapping[str, ToolNeed],
    limits: Sequence[Limit],
) -> dict[int, str]:
    """Service -> path of the fact without which nobody knows when it is back; only of those that are down."""
    estate = top.estate
    by_store = {row: path for row, store in enumerate(stores) if (path := _of_store(estate, store))}
    by_store |= _in_line(stores, by_store, limits)
    down = np.flatnonzero(services.base_lost).tolist()
    found = {row: path for row in down if (path := _own(estate, services, row, by_store))}
    found = rebuild_times(top, rebuilds) | found
    if not found:
        return found
    needs = {row: tool_needs(services, tools, row) for row in down}
    by_hand = {row for row in down if any(_is_in_hands(need) for need in needs[row])}
    held = min(by_hand & found.keys(), default=None)
    if held is not None:
        found |= {row: found[held] for row in sorted(by_hand) if row not in found}
    users: list[list[int]] = [[] for _ in range(len(services))]
    for row in down:
        waits = {*services.hard[row], *(tool for need in needs[row] for tool in need.services)}
        for other in sorted(waits):
            users[other].append(row)
    queue = sorted(found)
    for row in queue:
        for user in users[row]:
            if user not in found:
                found[user] = found[row]
                queue.append(user)
    return dict(sorted(found.items()))


def from_loss(
    instance: Instance,
    stores: Mapping[int, IntColumn] | None = None,
    checks: Mapping[int, IntColumn] | None = None,
) -> dict[int, IntColumn]:
    """Service -> ticks from the loss until it serves, of those that wait for nobody: they lost only stores
    that come back by themselves, and what they need did so too. Detection and approval delay none of it.

    stores: ticks that each such store takes; checks: that a check of each service takes. Both may be rows of
    many trials; left out, what the instance says.
    """
    s = instance.services
    own: dict[int, Any] = {
        row: way.from_loss for row, store in enumerate(instance.stores) for way in store.allowed[:1]
    }
    own = {row: (stores or own)[row] for row, ticks in own.items() if ticks >= 0}
    if not own:
        return {}
    takes: Any = s.verify if checks is None else checks
    acted_on = {*instance.rebuilds, *instance.stuck, *instance.attests, *instance.unjudged}
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(s.base_lost).tolist():
        members.setdefault(int(s.component[row]), []).append(row)
    found: dict[int, Any] = {}
    for _, rows in sorted(members.items()):
        waits = {other for row in rows for other in s.hard[row] if s.base_lost[other]}.difference(rows)
        lost = {store for row in rows for store in s.lost_stores[row]}
        acts = any(s.shift[row] or s.blocked[row] or s.base_starts(row) for row in rows)
        if acts or acted_on.intersection(rows) or not (waits <= found.keys() and lost <= own.keys()):
            continue
        begins = [*(found[other] for other in waits), *(own[store] for store in lost)]
        begin = reduce(np.maximum, begins, np.int64(0))
        found |= dict.fromkeys(rows, reduce(np.maximum, [begin + takes[row] for row in rows]))
    return found


def rebuild_times(top: Topology, rebuilds: Mapping[int, Sequence[tuple[str, str]]]) -> dict[int, str]:
    """Service -> path of the time of a rebuild that it waits for, where nobody knows it."""
    if not rebuilds:
        return {}
    open_ = {store.id for store in top.estate.stores if store.rebuild_ms is None}
    return {
        row: f"stores/{made[0]}/rebuild"
        for row, pairs in rebuilds.items()
        if (made := [name for name, _ in pairs if name in open_])
    }


def _is_in_hands(need: ToolNeed) -> bool:
    """Whether people may do the step, and only so many of them at once."""
    return bool(need.services and need.manual is not None and need.manual_uses)


def _in_line(
    stores: Sequence[LostStore], by_store: Mapping[int, str], limits: Sequence[Limit]
) -> dict[int, str]:
    """The fact that is missing for other stores: they may have to wait until a step of unknown length gives
    back a limit that it holds.
    """
    lines: dict[int, list[int]] = {}
    for row, store in enumerate(stores):
        uses = (*store.fence_uses, *(use for way in store.allowed for use in way.uses))
        for limit in sorted({use.limit for use in uses if use.hold == WHOLE}):
            lines.setdefault(limit, []).append(row)
    found: dict[int, str] = {}
    for limit, rows in sorted(lines.items()):
        first = next((row for row in rows if row in by_store), None)
        if first is not None and len(rows) > limits[limit].capacity:
            found |= {row: by_store[first] for row in rows if row not in by_store and row not in found}
    return found


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
    if store.allowed and store.backup is not None and stated.backup_time_ms is None:
        return f"stores/{store.id}/backup_time"
    by_hand = people_take(estate)
    takes_ms = {"promote": stated.promote_ms, "restore": stated.promote_ms, "elect": 0} | by_hand
    takes_ms["unprotect"] = commits_wait_ms(stated, by_hand)
    open_ = (way.kind for way in store.allowed if takes_ms[way.kind] is None)
    return next((missing_time(stated, kind) for kind in open_), "")
