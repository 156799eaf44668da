"""Estate + scenario -> Instance: every quantity is rounded once, here.

Units become ticks, tables become rows, and unknown facts are listed and treated as documented in `instance`.
`rows_of` and `limits_of` do the two large parts.

Steps longer than the horizon are cut to one tick more than it, because they cannot end within it either way.
So the work of planner, bound and checker stays in proportion to the horizon, whatever durations an estate
states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from evac.derive.affected import (
    ServiceGraph,
    components,
    counts_by_service,
    hit_by_dependency,
    service_graph,
)
from evac.derive.alternatives import Standing, chosen, counted_on, in_common, without
from evac.derive.before import down_before
from evac.derive.circles import without_circles
from evac.derive.domains import Loss, Topology, lost_in, lost_now, topology
from evac.derive.homing import WayHome, runs_there, way_home, without_surplus
from evac.derive.limits import LimitTable, limits_of
from evac.derive.lost_stores import (
    Waits,
    kept_for_restores,
    lost_stores_of,
    reprotects_of,
    waits_of,
    with_restore_needs,
)
from evac.derive.moving import moved_by_step, traffic_leaves, with_movable
from evac.derive.objectives import audience
from evac.derive.pools import estimated, placement_of, replicas_lost, replicas_off, unjudged
from evac.derive.rows import RowSet, rows_of
from evac.derive.stores import loss_fact
from evac.derive.untimed import rebuild_times, returns_alone, untimed
from evac.model.estate import Estate, Service
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Instance, LostStore, Services, ToolNeed, Use
from evac.model.objectives import rpo_fact
from evac.model.records import dataclass
from evac.model.scenario import Policy, Scenario
from evac.model.units import RESOURCE_WORDS, TICK_MS, UNBOUNDED, ceil_share, floor_share, ticks_up
from evac.steps.registry import PLANNED, START_CYCLE, STATED_KINDS

_DURATIONS: Final = ("start", "verify", "change", "settle", "shed")


def cut_to_horizon(instance: Instance) -> Instance:
    """The same instance with every duration, hold and offset at most one tick above the horizon."""
    most = instance.horizon + 1
    return replace(
        instance,
        services=_cut_services(instance.services, most),
        pools=tuple(
            replace(p, start_uses=_cut_uses(p.start_uses, most), shed_uses=_cut_uses(p.shed_uses, most))
            for p in instance.pools
        ),
        boot_kinds=tuple(
            replace(k, duration=min(k.duration, most), uses=_cut_uses(k.uses, most))
            for k in instance.boot_kinds
        ),
        stores=tuple(_cut_store(store, most) for store in instance.stores),
        tools=_cut_tools(instance.tools, most),
    )


def _cut_services(services: Services, most: int) -> Services:
    columns = {name: np.minimum(getattr(services, name), most) for name in _DURATIONS}
    return replace(services, **columns, shift_uses=tuple(_cut_uses(u, most) for u in services.shift_uses))


def _cut_store(store: LostStore, most: int) -> LostStore:
    found = tuple(
        replace(candidate, duration=min(candidate.duration, most), uses=_cut_uses(candidate.uses, most))
        for candidate in store.candidates
    )
    backup = None if store.backup is None else min(store.backup, most)
    return replace(store, fence=min(store.fence, most), candidates=found, backup=backup)


def _cut_tools(tools: Mapping[str, ToolNeed], most: int) -> dict[str, ToolNeed]:
    return {
        kind: need if need.manual is None else replace(need, manual=min(need.manual, most))
        for kind, need in tools.items()
    }


def _cut_uses(uses: tuple[Use, ...], most: int) -> tuple[Use, ...]:
    if all(use.hold <= most and use.offset <= most for use in uses):
        return uses
    return tuple(replace(use, hold=min(use.hold, most), offset=min(use.offset, most)) for use in uses)


def attests_of(estate: Estate, scenario: Scenario, services: Services, tick_ms: int) -> dict[int, int]:
    """After a restore a person releases what deletes old data by itself, and unseals what starts sealed."""
    if scenario.kind != "restore":
        return {}
    ticks = _ticks_or_none(estate, "attest", tick_ms) or 0
    sealed = {name for group in estate.tool_groups(("unseal",)) for name in group}
    return {
        row: ticks
        for row, service in enumerate(estate.services)
        if (service.purges or service.id in sealed)
        and (
            services.base_starts(row) * services.base_lost[row]
            or services.top_starts(row) * services.top_lost[row]
        )
    }


def _ticks_or_none(estate: Estate, kind: str, tick_ms: int) -> int | None:
    """How long it takes a person; at most one tick above the horizon, which means never. None if the estate
    states no such way.
    """
    most, stated = estate.horizon_ms // tick_ms + 1, estate.limits.manual_ms.get(kind)
    return None if stated is None else min(ticks_up(stated, tick_ms), most)


def derive(
    estate: Estate,
    scenario: Scenario,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    tick_ms: int = TICK_MS,
    top: Topology | None = None,
    rows: RowSet | None = None,
    good: bool = False,
) -> Instance:
    """The planning instance of a scenario. Raises UnknownDomain. top, rows: if made before; `no_rows` if only
    the rest is needed. good: pool losses favour us, and only what all alternatives need is waited for.
    """
    top = top or topology(estate)
    plain = top.once("graph", lambda: service_graph(estate))
    lost, graph = lost_in(top, scenario), in_common(plain) if good else plain
    homing = way_home(top, lost) if scenario.kind == "failback" else None
    unknown, weights, limits = set[str](), policy.tier_weights or estate.tier_weights, limits_in(top, tick_ms)
    rows = rows or rows_of(top, lost, scenario, limits, tick_ms, good)
    stores, store_rows = lost_stores_of(top, lost, policy, limits, tick_ms, scenario, unknown)
    stores, hit = _hits_of_restorable(top, lost, graph, stores, store_rows, homing, good, scenario)
    ways, counted = _lost_choices(estate, graph, hit.base_lost), dict[tuple[int, ...], int]()
    graph = without(graph) if good else graph
    if not good and (graph.has_alternatives or ways):
        doubtful = _open_questions(top, lost, graph, stores, store_rows, hit.waits, scenario)
        standing = _standing(estate, hit, doubtful, policy.passed_over, stores, tick_ms)
        counted, graph, hit = counted_on(graph, standing, ways), *_settled(graph, hit, standing)
    open_questions = _open_questions(top, lost, graph, stores, store_rows, hit.waits, scenario)
    services = _services(top, hit, stores, graph, rows, limits, weights, tick_ms, unknown, open_questions)
    unknown.update(rows.unknown, open_questions.values(), rebuild_times(top, hit.waits.rebuilds).values())
    tools = _tools(estate, graph, services, limits, tick_ms, scenario, counted, open_questions)
    horizon, by_hand = estate.horizon_ms // tick_ms, _ticks_or_none(estate, START_CYCLE, tick_ms)
    grace = ticks_up(scenario.deadline_ms or 0, tick_ms) if scenario.kind == "evacuate" else 0
    services, stuck, broken, start_by = without_circles(services, tools, by_hand, grace, scenario, horizon)
    services = kept_for_restores(services, estate, stores, store_rows)
    instance = Instance(
        tick_ms=tick_ms,
        horizon=horizon,
        grace=horizon if scenario.kind == "failback" else min(grace, horizon),
        tier_weights=weights,
        site_names=tuple(s.id for s in estate.sites),
        services=with_movable(services, estate, scenario, rows, open_questions),
        rows=rows.rows,
        row_names=rows.names,
        present=rows.present,
        pools=rows.pools,
        eligible=rows.eligible,
        limits=limits.limits,
        boot_kinds=rows.boot_kinds,
        power=rows.power,
        stores=stores,
        tools=tools,
        unknown=tuple(sorted(unknown)),
        notes=rows.notes,
        power_steps=rows.power_steps,
        powered_by=rows.powered_by,
        bring_up=rows.bring_up,
        left_off=rows.left_off,
        attests={**broken, **attests_of(estate, scenario, services, tick_ms)},
        reprotects=reprotects_of(top, lost, scenario, stores, tick_ms),
        unjudged={row: path for row, path in open_questions.items() if not hit.never(services)[row]},
        rebuilds=hit.waits.rebuilds,
        vague=rows.vague,
        untimed=untimed(top, services, stores, hit.waits.rebuilds, tools, limits, rows, open_questions),
        estimated=_estimated(top, lost, scenario),
        stuck=stuck,
        start_by=start_by,
        leaving=() if homing is None else homing.leaving,
        evacuated=runs_there(top, lost) if scenario.kind == "evacuate" else frozenset(),
    )
    return cut_to_horizon(instance)


def limits_in(top: Topology, tick_ms: int = TICK_MS) -> LimitTable:
    """The limits of an estate, computed once."""
    return top.once(("limits", tick_ms), lambda: limits_of(top.estate, tick_ms))


def _services(
    top: Topology,
    hit: _Hits,
    stores: tuple[LostStore, ...],
    graph: ServiceGraph,
    rows: RowSet,
    limits: LimitTable,
    weights: tuple[int, ...],
    tick_ms: int,
    unknown: set[str],
    open_questions: Mapping[int, str],
) -> Services:
    same = top.once(
        ("services", weights, tick_ms, hit.counts, graph.picks, graph.has_alternatives),
        lambda: _same(top.estate, graph, limits, weights, tick_ms, hit),
    )
    unknown |= same.unknown
    found = replace(
        same.services,
        surviving=hit.surviving,
        demand=rows.demand,
        base_lost=hit.base_lost,
        top_lost=hit.top_lost,
        shift=hit.shift,
        blocked=hit.blocked,
        verify=same.services.verify + -(-hit.waits.rebuild_ms // tick_ms),
        lost_stores=hit.waits.serve,
        start_stores=hit.waits.start,
        own_return=frozenset(row for row, store in enumerate(stores) if store.elects),
        down_before=hit.down[0],
        short_before=hit.down[1],
    )
    return replace(found, alone=returns_alone(found, stores, (*hit.waits.rebuilds, *open_questions)))


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """What does not depend on the loss: services, except for `_hits`, and their unknown facts."""

    services: Services
    unknown: frozenset[str]


def _same(
    estate: Estate,
    graph: ServiceGraph,
    limits: LimitTable,
    weights: tuple[int, ...],
    tick_ms: int,
    hit: _Hits,
) -> _Same:
    unknown, n, m = set[str](), hit.n, hit.m
    for service, k in zip(estate.services, n, strict=True):
        _note_unknown(service, int(k), unknown)
    tier, felt, degraded = _people(estate, weights, n, m)
    weight = np.array(weights, np.int64)[tier]
    tick, nothing = _ticker(estate, tick_ms), np.zeros(len(n), np.bool_)
    services = Services(
        id=tuple(s.id for s in estate.services),
        tier=tier,
        people=np.array([s.people or 0 for s in estate.services], np.int64),
        n=n,
        m=m,
        surviving=n,
        demand=np.zeros((len(n), 0), np.int64),
        start=tick(lambda s: s.start_ms or 0),
        verify=tick(lambda s: s.warm_ms + s.verify_ms),
        change=tick(lambda s: s.traffic.change_ms),
        settle=tick(lambda s: max(s.traffic.settle_ms, s.traffic.ttl_ms or 0)),
        shed=tick(lambda s: s.shed_ms),
        per_server=np.array([s.spread.per_server for s in estate.services], np.int64),
        rack_cap=_spread_caps(estate, hit.nominal, "per_rack"),
        feed_cap=_spread_caps(estate, hit.nominal, "per_feed"),
        site_cap=_spread_caps(estate, hit.nominal, "per_site"),
        conflict=_conflicts(estate),
        sheddable=np.array([bool(s.sheddable) for s in estate.services], np.bool_),
        movable=nothing,
        base_lost=nothing,
        top_lost=nothing,
        shift=nothing,
        blocked=nothing,
        component=np.array(components(graph.hard), np.int32),
        base_weight=weight * (felt - degraded),
        top_weight=weight * degraded,
        hard=graph.hard,
        hard_start=graph.start_edges,
        soft=graph.soft,
        lost_stores=(),
        start_stores=(),
        shift_uses=tuple(
            limits.shift(s.traffic.kind, ticks_up(s.traffic.change_ms, tick_ms)) for s in estate.services
        ),
    )
    return _Same(services, frozenset(unknown))


@dataclass(frozen=True, slots=True, eq=False)
class _Hits:
    """Effect of a loss on services: counts, milestones that do not hold, stores waited for."""

    n: IntColumn
    m: IntColumn
    surviving: IntColumn
    base_lost: BoolColumn
    top_lost: BoolColumn
    shift: BoolColumn
    blocked: BoolColumn
    for_sure: BoolColumn
    """(S,) those of them that certainly never come back."""
    waits: Waits
    nominal: IntColumn
    """(S,) the counts that shares are of: those of home in a failback, else `n`."""
    down: tuple[frozenset[int], frozenset[int]]
    """Services whose base, and whose top, does not hold before the scenario either."""

    def never(self, services: Services) -> BoolColumn:
        """(S,) services that certainly never come back, also because they wait for themselves."""
        return np.asarray(self.for_sure | (services.blocked & ~self.blocked), np.bool_)

    @property
    def counts(self) -> tuple[bytes, bytes]:
        """The counts that do not depend on what is lost in an estate where nothing moved."""
        return self.n.tobytes(), self.nominal.tobytes()


def _hits(
    top: Topology,
    lost: Loss,
    graph: ServiceGraph,
    stores: tuple[LostStore, ...],
    store_rows: dict[int, int],
    homing: WayHome | None,
    good: bool,
    scenario: Scenario,
) -> _Hits:
    services, replicas = top.estate.services, top.estate.replicas
    if homing is None:
        off = replicas_off(top)
        if scenario.kind == "restore":  # where that site's servers are still dark
            off = np.where(replicas_lost(top, lost) > 0, 0, off)
        before = np.maximum(replicas_lost(top, lost_now(top), good), off)
        gone = np.maximum(replicas_lost(top, lost, good), before)
        n = counts_by_service(replicas, replicas.count, len(services))
        surviving = n - counts_by_service(replicas, gone, len(services))
        ran = n - counts_by_service(replicas, before, len(services))
        n = n if scenario.kind == "evacuate" else without_surplus(top, n, surviving, ran)
        shift = traffic_leaves(top, lost, gone, before, off)
    else:
        n, surviving = homing.total, homing.surviving
        shift = moved_by_step(services, homing.leaves)
    nominal = n if homing is None else homing.home
    counted = top.estate.home is not None and nominal.tobytes()
    m = np.minimum(top.once(("least", counted, homing is None), lambda: _least(services, nominal)), n)
    waits = waits_of(top.estate, graph, stores, store_rows)
    blocked = waits.blocked | lost.external
    without = np.array([bool(d) for d in waits.serve], np.bool_)
    without[list(waits.rebuilds)] = True
    base_lost = hit_by_dependency(graph, (surviving < m) | shift | without | blocked)
    soft_hit = np.array([any(base_lost[j] for j in soft) for soft in graph.soft], np.bool_)
    for row, groups in enumerate(graph.alternatives):
        soft_hit[row] |= any(not group.hard and base_lost[list(group.members)].all() for group in groups)
    top_lost = base_lost | (surviving < n) | soft_hit
    blocked, for_sure = (hit_by_dependency(graph, some) for some in (blocked, waits.for_sure | lost.external))
    down = down_before(top, graph, n, m, good)
    return _Hits(n, m, surviving, base_lost, top_lost, shift, blocked, for_sure, waits, nominal, down)


def _hits_of_restorable(
    top: Topology,
    lost: Loss,
    graph: ServiceGraph,
    stores: tuple[LostStore, ...],
    store_rows: dict[int, int],
    homing: WayHome | None,
    good: bool,
    scenario: Scenario,
) -> tuple[tuple[LostStore, ...], _Hits]:
    """Lost stores with what their restores wait for, and the effect of the loss on services."""

    def hits(some: tuple[LostStore, ...]) -> _Hits:
        return _hits(top, lost, graph, some, store_rows, homing, good, scenario)

    return with_restore_needs(top.estate, graph, stores, store_rows, hits)


def _settled(graph: ServiceGraph, hit: _Hits, standing: Standing) -> tuple[ServiceGraph, _Hits]:
    """Both with each group of alternatives as a need of the chosen one."""
    plain = chosen(graph, standing)
    blocked, for_sure = (hit_by_dependency(plain, some) for some in (hit.blocked, hit.for_sure))
    return plain, replace(hit, blocked=blocked, for_sure=for_sure)


def _standing(
    estate: Estate,
    hit: _Hits,
    doubtful: Mapping[int, str],
    passed_over: tuple[str, ...],
    stores: tuple[LostStore, ...],
    tick_ms: int,
) -> Standing:
    """The input for choosing alternatives."""
    names = {service.id: row for row, service in enumerate(estate.services)}
    doubts = np.zeros(len(names), np.bool_)
    doubts[[*doubtful, *(names[name] for name in passed_over if name in names)]] = True
    starts = hit.base_lost & (hit.surviving < hit.m)
    services = estate.services
    begins = np.array([service.start_ms or 0 for service in services], np.int64) * starts
    checks = np.array([service.warm_ms + service.verify_ms for service in services], np.int64)
    checks += hit.waits.rebuild_ms
    moves = [service.traffic.change_ms + service.traffic.settle_ms for service in services]
    rest = checks + np.array(moves, np.int64) * hit.shift
    firm = np.array([not service.sheddable for service in estate.services], np.bool_)
    soonest = [store.soonest or 0 for store in stores]
    data, first = (
        np.array([max((soonest[d] for d in some), default=0) for some in waits], np.int64) * tick_ms
        for waits in (hit.waits.serve, hit.waits.start)
    )
    return Standing(hit.base_lost, hit.for_sure, doubts, firm, starts, begins, rest, data, first)


def _least(services: tuple[Service, ...], n: IntColumn) -> IntColumn:
    """(S,) smallest counts that serve."""
    shares = ((s.share, int(k)) for s, k in zip(services, n, strict=True))
    return np.array([ceil_share(o.numerator, o.denominator, k) if k else 0 for o, k in shares], np.int64)


def _people(estate: Estate, weights: tuple[int, ...], n: IntColumn, m: IntColumn) -> tuple[IntColumn, ...]:
    last = len(weights) - 1
    tier = np.array([last if s.tier is None else min(s.tier, last) for s in estate.services], np.int64)
    people = audience(estate)
    share = people * (n - m) // np.maximum(n, 1)
    stated = np.array(
        [-1 if s.degraded_people is None else s.degraded_people for s in estate.services], np.int64
    )
    degraded = np.where(stated >= 0, np.minimum(stated, people), share)
    return tier, people, np.asarray(degraded, np.int64)


def _note_unknown(service: Service, replicas: int, unknown: set[str]) -> None:
    if service.external:
        return
    for name, value in (("people", service.people), ("tier", service.tier), ("start", service.start_ms)):
        if value is None:
            unknown.add(f"services/{service.id}/{name}")
    if replicas == 0:
        unknown.add(f"services/{service.id}/replicas")
    for word, amount in zip(RESOURCE_WORDS[:2], service.demand[:2], strict=True):
        if amount is None:
            unknown.add(f"services/{service.id}/demand/{word}")


def _ticker(estate: Estate, tick_ms: int) -> Callable[[Callable[[Service], int]], IntColumn]:
    def column(of: Callable[[Service], int]) -> IntColumn:
        return np.array([ticks_up(of(s), tick_ms) for s in estate.services], np.int64)

    return column


def _spread_caps(estate: Estate, n: IntColumn, name: str) -> IntColumn:
    caps = []
    for service, count in zip(estate.services, n, strict=True):
        share = getattr(service.spread, name)
        caps.append(
            UNBOUNDED if share is None else floor_share(share.numerator, share.denominator, int(count))
        )
    return np.array(caps, np.int64)


def _conflicts(estate: Estate) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    names = sorted({s.conflict_group for s in estate.services if s.conflict_group is not None})
    index = {name: row for row, name in enumerate(names)}
    return np.array(
        [-1 if s.conflict_group is None else index[s.conflict_group] for s in estate.services], np.int32
    )


def _open_questions(
    top: Topology,
    lost: Loss,
    graph: ServiceGraph,
    stores: tuple[LostStore, ...],
    store_rows: dict[int, int],
    waits: Waits,
    scenario: Scenario,
) -> dict[int, str]:
    """Service -> the fact without which its outcome is unknown; none in a failback."""
    if scenario.kind == "failback":
        return {}
    without = np.zeros(len(top.estate.stores), np.bool_)
    without[list(store_rows)] = True
    found = unjudged(top, lost, graph, without, waits.rebuilds, scenario)
    for row, store in enumerate(stores):
        way = store.in_doubt
        if store.rpo_is_open or way is not None:
            fact = rpo_fact(store.id) if way is None else loss_fact(store.id, way.kind)
            users = np.array([row in rows for rows in waits.serve], np.bool_)
            for user in np.flatnonzero(hit_by_dependency(graph, users)).tolist():
                found.setdefault(user, fact)
    return found


def _estimated(top: Topology, lost: Loss, scenario: Scenario) -> tuple[str, ...]:
    """Facts for which a plan uses one end and the bound the other: each service's loss in a pool."""
    flags = estimated(top, lost)
    return tuple(placement_of(top.estate.services[row].id) for row in np.flatnonzero(flags).tolist())


def _lost_choices(estate: Estate, graph: ServiceGraph, down: BoolColumn) -> tuple[tuple[int, ...], ...]:
    """Groups of interchangeable tools that are lost entirely."""
    groups = [tuple(graph.index[name] for name in group) for group in estate.tool_groups(estate.tools)]
    return tuple(group for group in groups if len(group) > 1 and down[list(group)].all())


def _tools(
    estate: Estate,
    graph: ServiceGraph,
    services: Services,
    limits: LimitTable,
    tick_ms: int,
    scenario: Scenario,
    counted: Mapping[tuple[int, ...], int],
    open_questions: Mapping[int, str],
) -> dict[str, ToolNeed]:
    """In a move that the site outlasts, every tool works until it has moved. counted: which of several lost
    tools is waited for; nothing waits for other groups. open_questions: services that cannot be judged.
    """
    found, lost = dict[str, ToolNeed](), set(np.flatnonzero(services.base_lost).tolist())
    unsure = lost | open_questions.keys()
    for kind in sorted(STATED_KINDS):
        roles = () if scenario.is_outlasted(estate.horizon_ms) else PLANNED[kind].tools
        groups = [tuple(graph.index[name] for name in group) for group in estate.tool_groups(roles)]
        needed = {counted.get(group, -1) if len(group) > 1 else group[0] for group in groups}
        affected = tuple(sorted(lost.intersection(needed)))
        manual = estate.limits.manual_ms.get(kind)
        ticks = None if manual is None else ticks_up(manual, tick_ms)
        doubtful = {tool for group in groups if unsure.issuperset(group) for tool in group} - lost
        found[kind] = ToolNeed(kind, affected, ticks, limits.hands, tuple(sorted(doubtful)))
    return found
