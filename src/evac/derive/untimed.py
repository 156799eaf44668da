"""Which services come back at an unknown time, and the missing fact.

A plan treats an unknown duration as zero, so that its order is still useful. The time when a service is back
is then unknown for everything that waits for that duration, directly or through others, or for promotions,
fences or staff that are occupied for that long.

Also: which services come back before anyone acts, because everything they wait for happens by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from evac.derive.circles import tool_needs
from evac.derive.domains import Topology
from evac.derive.limits import LimitTable
from evac.derive.rows import RowSet
from evac.derive.stores import fence_is_unknown, freshest, people_times
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import WHOLE, Instance, Limit, LostStore, Services, ToolNeed
from evac.model.objectives import lag_fact
from evac.model.plan import Outcome
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED
from evac.steps.registry import kind_of


def untimed(
    top: Topology,
    services: Services,
    stores: Sequence[LostStore],
    rebuilds: Mapping[int, Sequence[tuple[str, str]]],
    tools: Mapping[str, ToolNeed],
    limits: LimitTable,
    rows: RowSet,
    open_questions: Mapping[int, str],
) -> dict[int, str]:
    """Service -> path of the fact without which its recovery time is unknown; only for services that are
    down. open_questions: service -> fact without which it cannot be judged: if it is a tool, people may have
    to do its steps.
    """
    estate = top.estate
    by_store = {row: path for row, store in enumerate(stores) if (path := _of_store(estate, store))}
    by_store |= _in_line(stores, by_store, limits.limits)
    down = np.flatnonzero(services.base_lost).tolist()
    found = {row: path for row in down if (path := _own(estate, services, row, by_store))}
    found = rebuild_times(top, rebuilds) | found
    if not (found or open_questions):
        return found
    needs = {row: tool_needs(services, tools, row) for row in down}
    doubtful = {
        row: open_questions[tool]
        for row in down
        for need in needs[row]
        if need.manual is not None
        for tool in (*need.services, *need.doubtful)
        if tool in open_questions
    }
    found = doubtful | found
    by_hand = {row for row in down if any(_is_in_hands(need) for need in needs[row])}
    held = min(by_hand & found.keys(), default=None)
    if held is not None and _most_by_hand(estate, services, tools, rows) > _people(tools, limits.limits):
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
    """Service -> ticks from the loss until it serves, for those that come back by themselves, independent of
    detection and approval.

    stores: ticks that each such store takes; checks: ticks of each service's check. Both may be rows of many
    trials; default: the instance's values.
    """
    s, found = instance.services, dict[int, Any]()
    own: Any = _own_returns(instance.stores) if stores is None else stores
    takes: Any = s.verify if checks is None else checks
    for rows in _lost_members(s) if s.alone else ():
        if s.alone.issuperset(rows):
            begins = [found[other] for row in rows for other in s.hard[row] if other in found]
            begins += [own[store] for row in rows for store in s.lost_stores[row]]
            begin = reduce(np.maximum, begins, np.int64(0))
            found |= dict.fromkeys(rows, reduce(np.maximum, [begin + takes[row] for row in rows]))
    return found


def people_before(instance: Instance, lead_ms: int, worst: Open | None = None) -> int:
    """User-milliseconds without service from a loss until a plan begins, excluding tiers without weight. A
    service that comes back by itself may do so sooner, completely if nothing that it lacks waits for the
    plan. worst: services that count as if they did not.
    """
    s, alone = instance.services, from_loss(instance)
    base, top = np.where(s.base_lost, lead_ms, 0), np.where(s.top_lost, lead_ms, 0)
    for row, ticks in alone.items():
        soft = [other for other in s.soft[row] if s.base_lost[other]]
        base[row] = min(lead_ms, int(ticks) * instance.tick_ms)
        if not s.top_starts(row) and alone.keys() >= set(soft):
            latest = max(int(alone[other]) for other in (row, *soft))
            top[row] = min(lead_ms, latest * instance.tick_ms)
    if worst is not None:
        base[worst.base], top[worst.base | worst.top] = lead_ms, lead_ms
    tier = np.maximum(1, np.array(instance.tier_weights, np.int64))[s.tier].astype(object)
    return int((s.base_weight // tier * base + s.top_weight // tier * top).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Open:
    """(S,) each. base: services whose outage is unknown. top: services that serve, but may lack replicas for
    an unknown time.
    """

    base: BoolColumn
    top: BoolColumn

    def __bool__(self) -> bool:
        return bool(self.base.any() or self.top.any())

    def at_most(
        self, base: IntColumn, top: IntColumn, most_base: IntColumn, most_top: IntColumn
    ) -> tuple[IntColumn, IntColumn]:
        """(S,) ticks without base and without top, where what is unknown turns out worst: `most_*` ticks."""
        worst_base = np.where(self.base, np.maximum(base, most_base), base)
        return worst_base, np.where(self.base | self.top, np.maximum(top, most_top), top)


def open_outages(services: Services, outcomes: Iterable[Outcome]) -> Open:
    """The services whose outage depends on something unknown, by their outcomes."""
    rows = {name: row for row, name in enumerate(services.id)}
    found = Open(np.zeros(len(services), np.bool_), np.zeros(len(services), np.bool_))
    for one in outcomes:
        if one.service in rows:
            found.base[rows[one.service]] = one.state == "unknown" or one.is_untimed
            found.top[rows[one.service]] = one.is_half_judged
    return found


def returns_alone(services: Services, stores: Sequence[LostStore], acted_on: Iterable[int]) -> frozenset[int]:
    """Services that come back without people, and so without a tool: they lost only stores that come back by
    themselves from the loss on, and so did their dependencies. acted_on: services for which someone rebuilds
    a store, or whose losses are unknown.
    """
    own, acted_on = _own_returns(stores), set(acted_on)
    found = set[int]()
    for rows in _lost_members(services) if own else ():
        waits = {other for row in rows for other in services.hard[row] if services.base_lost[other]}
        lost = {store for row in rows for store in services.lost_stores[row]}
        acts = any(services.shift[row] or services.blocked[row] or services.base_starts(row) for row in rows)
        if not (acts or acted_on.intersection(rows)) and waits <= found.union(rows) and lost <= own.keys():
            found.update(rows)
    return frozenset(found)


def _own_returns(stores: Sequence[LostStore]) -> dict[int, int]:
    """Ticks from the loss on of stores that come back by themselves."""
    ways = {row: way.from_loss for row, store in enumerate(stores) for way in store.allowed[:1]}
    return {row: ticks for row, ticks in ways.items() if ticks >= 0}


def _lost_members(services: Services) -> list[list[int]]:
    """Services that are down, by component, dependencies first."""
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(services.base_lost).tolist():
        members.setdefault(int(services.component[row]), []).append(row)
    return [rows for _, rows in sorted(members.items())]


def rebuild_times(top: Topology, rebuilds: Mapping[int, Sequence[tuple[str, str]]]) -> dict[int, str]:
    """Service -> path of the unknown duration of a rebuild that it waits for."""
    if not rebuilds:
        return {}
    open_ = {store.id for store in top.estate.stores if store.rebuild_ms is None}
    return {
        row: f"stores/{made[0]}/rebuild"
        for row, pairs in rebuilds.items()
        if (made := [name for name, _ in pairs if name in open_])
    }


def _is_in_hands(need: ToolNeed) -> bool:
    """Whether people may have to do the step, and only a limited number of them at once."""
    return bool(need.services) and _is_stated(need)


def _people(tools: Mapping[str, ToolNeed], limits: Sequence[Limit]) -> int:
    """How many steps people can do by hand at once."""
    uses = {use for need in tools.values() for use in need.manual_uses}
    return min((limits[use.limit].capacity // use.units for use in uses), default=UNBOUNDED)


def _most_by_hand(estate: Estate, services: Services, tools: Mapping[str, ToolNeed], rows: RowSet) -> int:
    """How many steps people could have in hand at once, at most: as if they did every boot and start, every
    check and change of traffic, every fence, promotion and repair of a copy, and whatever may stop or move.
    """
    touched = services.base_lost | services.top_lost | services.shift
    found = int((services.n - services.surviving).clip(0).sum()) + 4 * int(touched.sum())
    found += int(rows.rows.dark.sum()) + len(rows.power_steps)
    found += sum(3 + len(store.members) for store in estate.stores)
    may_go = np.array([bool(service.movable) for service in estate.services], np.bool_)
    if any(_is_stated(need) and kind_of(kind).frees_capacity for kind, need in tools.items()):
        may_go |= services.sheddable
    return found + 2 * int(services.surviving[may_go].sum())


def _is_stated(need: ToolNeed) -> bool:
    """Whether people can do the step, and only a limited number of them at once."""
    return need.manual is not None and bool(need.manual_uses)


def _in_line(
    stores: Sequence[LostStore], by_store: Mapping[int, str], limits: Sequence[Limit]
) -> dict[int, str]:
    """The fact that other stores lack: they may have to wait until a step of unknown length releases a
    limit.
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
    """The missing fact for steps of the service, or of stores it waits for; empty for none."""
    service = estate.services[row]
    if services.base_starts(row) and service.start_ms is None:
        return f"services/{service.id}/start"
    traffic = service.traffic
    if services.shift[row] and traffic.ttl_ms is None and not traffic.settle_ms:
        return f"services/{service.id}/traffic/ttl"
    return next((by_store[store] for store in services.lost_stores[row] if store in by_store), "")


def _of_store(estate: Estate, store: LostStore) -> str:
    """The missing fact for some way of a store that a plan may use; empty for none."""
    stated = next(one for one in estate.stores if one.id == store.id)
    if any(way.untimed for way in freshest(store.allowed)):
        return lag_fact(store.id)
    if store.allowed and fence_is_unknown(stated, store.fence_rung):
        return f"stores/{store.id}/fence"
    if store.allowed and store.backup is not None and stated.backup_time_ms is None:
        return f"stores/{store.id}/backup_time"
    people, kinds = people_times(estate), (kind_of(way.kind) for way in store.allowed)
    return next((kind.way_fact(stated) for kind in kinds if kind.way_ms(stated, people) is None), "")
