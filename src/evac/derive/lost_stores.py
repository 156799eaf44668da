"""Lost stores of a scenario in integers: how each is fenced, and the ways it can come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import numpy as np

from evac.derive.affected import ServiceGraph, families_without_instance, reachable
from evac.derive.affected import lost_members as members_lost
from evac.derive.domains import Loss, Topology, is_lost, loss, lost_now, site_of, sites_of
from evac.derive.limits import LimitTable
from evac.derive.objectives import Rpo, loss_class, rpos
from evac.derive.stores import (
    commits_wait,
    fence_is_unknown,
    has_majority,
    is_fenced,
    kept_up_to,
    loss_fact,
    offered_ways,
    people_times,
    promotion,
    rpo_is_open,
    store_is_lost,
    surviving_ways,
)
from evac.model.estate import Estate, Store
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Candidate, LostStore, Reprotect, Services
from evac.model.objectives import accepts, lag_fact, rpo_fact
from evac.model.records import dataclass
from evac.model.scenario import Policy, Scenario
from evac.model.units import UNBOUNDED, ticks_up
from evac.steps.fence import Fence
from evac.steps.kind import Left, Unstated, Way
from evac.steps.registry import kind_of

_LEAVES: Final = ("lose", "evacuate")
_ORDERLY: Final = ("evacuate", "failback")


def lost_stores_of(
    top: Topology,
    lost: Loss,
    policy: Policy,
    limits: LimitTable,
    tick_ms: int,
    scenario: Scenario,
    unknown: set[str],
) -> tuple[tuple[LostStore, ...], dict[int, int]]:
    """Stores that lose their primary or their majority, and the row of each by its number in the estate: -1
    for other stores, and for those without a way back that are rebuilt from others.
    """
    found: list[LostStore] = []
    rows: dict[int, int] = {}
    limits_of = rpos(top, loss_class(top, scenario.domains))
    moving: list[tuple[Rpo, bool]] = []
    for row, (store, rpo) in enumerate(zip(top.estate.stores, limits_of, strict=True)):
        if not _moves(top, lost, store, scenario):
            continue
        candidates = _candidates(top, lost, store, rpo, policy, limits, tick_ms, scenario, unknown)
        if store.rebuilt_from is not None and not any(way.allowed for way in candidates):
            rows[row] = -1
            continue
        rows[row] = len(found)
        rung = store.fence_rung if scenario.kind in ("lose", "restore") else "demote"
        gone = _out_of_reach(top, lost, store)
        fenced = scenario.kind not in _LEAVES or (is_fenced(store, gone) and store_is_lost(store, gone))
        if fenced and fence_is_unknown(store, rung):
            unknown.add(f"stores/{store.id}/fence")
        by_itself = any(way.by_itself for way in candidates)
        first = scenario.kind in _ORDERLY and store.backup_before_move and not by_itself
        if first and store.backup_time_ms is None:
            unknown.add(f"stores/{store.id}/backup_time")
        moving.append((rpo, store.id in policy.waivers or store.id in dict(scenario.moments)))
        found.append(
            LostStore(
                id=store.id,
                fence=ticks_up(store.fence_ms or 0, tick_ms) if fenced else 0,
                fence_rung=rung if fenced else "none",
                fence_uses=limits.fence if fenced else (),
                has_majority=not store.quorum or has_majority(store, gone),
                candidates=candidates,
                backup=ticks_up(store.backup_time_ms or 0, tick_ms) if first else None,
                limited_by=rpo.whose,
                limit_ms=0 if rpo.is_open else rpo.limit_ms,
                waivable=store.id in policy.waivers,
            )
        )
        doubt = found[-1].in_doubt
        if doubt is not None and scenario.kind != "failback":
            unknown.add(loss_fact(store.id, doubt.kind))
    by_hand = top.estate.limits.manual_ms.get(Fence.name, 0) if top.estate.tool_groups(Fence.tools) else 0
    latest_ms = _last_writes_ms(found, ticks_up(by_hand, tick_ms), tick_ms)
    for number, (rpo, accepted) in enumerate(moving):
        if not rpo_is_open(rpo, _at_latest(found[number], latest_ms)):
            continue
        if accepted:
            found[number] = replace(found[number], waives_rpo=found[number].waivable)
            continue
        found[number] = replace(found[number], rpo_is_open=True, limit_ms=rpo.limit_ms)
        if scenario.kind != "failback":
            unknown.add(rpo_fact(found[number].id))
    return tuple(found), rows


def _last_writes_ms(stores: Iterable[LostStore], by_hand: int, tick_ms: int) -> int:
    """When the last of the primaries that move stops taking writes, if each waits for all others. by_hand:
    ticks of a fence without tools.
    """
    ticks = backups = 0
    for store in stores:
        promotion = max((way.duration for way in store.candidates), default=0)
        ticks += max(store.fence, by_hand) if store.is_fenced else promotion
        backups = max(backups, store.backup or 0)
    return (ticks + backups) * tick_ms


def _at_latest(store: LostStore, until_ms: int) -> tuple[Candidate, ...]:
    """The allowed ways of a store, with what they lose if writes go on until a moment."""
    return tuple(store.at(way, until_ms) for way in store.candidates if way.allowed)


def _moves(top: Topology, lost: Loss, store: Store, scenario: Scenario) -> bool:
    """Whether the primary must move: it is lost or, in a failback, known to be elsewhere. According to the
    files alone, a failback is planned as if everything had left.
    """
    if scenario.kind != "failback":
        gone = _out_of_reach(top, lost, store)
        waits = scenario.kind == "lose" and commits_wait(store, gone)
        return store_is_lost(store, gone) or (waits and _takes_confirming(top, store, scenario))
    if not store.home or store.primary is None:
        return top.estate.home is None and store_is_lost(store, members_lost(top, lost, store))
    return is_lost(top, lost, store.home) and not is_lost(top, lost, store.primary.at)


def _lives_elsewhere(top: Topology, lost: Loss, store: Store, scenario: Scenario) -> bool:
    """Whether a failback moves a primary that is known to be away from home, and that lives."""
    if scenario.kind != "failback" or not store.home or store.primary is None:
        return False
    return not (is_lost(top, lost, store.primary.at) or is_lost(top, lost_now(top), store.primary.at))


def _takes_confirming(top: Topology, store: Store, scenario: Scenario) -> bool:
    """Whether this loss takes a copy that confirms commits. What an earlier loss took was handled then."""
    new = loss(top, scenario.domains)
    return any(m.mode == "sync" and is_lost(top, new, m.at) for m in store.members)


def _out_of_reach(top: Topology, lost: Loss, store: Store) -> tuple[bool, ...]:
    """For each member, whether it is lost by this or was lost before."""
    before = members_lost(top, lost_now(top), store)
    return tuple(now or then for now, then in zip(members_lost(top, lost, store), before, strict=True))


def _candidates(
    top: Topology,
    lost: Loss,
    store: Store,
    rpo: Rpo,
    policy: Policy,
    limits: LimitTable,
    tick_ms: int,
    scenario: Scenario,
    unknown: set[str],
) -> tuple[Candidate, ...]:
    """Copies first, then other ways such as backups; places are unique and sorted within each kind. If the
    members elect a primary by themselves, that is the only way; if a restore point is requested, only
    backups are: a copy contains what was written after it. On the way home only a copy that follows takes
    over: a backup lacks what the living primary has.
    """
    moment_s = dict(scenario.moments).get(store.id)
    named, chosen = store.id in policy.waivers, moment_s is not None
    found: dict[tuple[str, str], Candidate] = {}
    copies = tuple(_copies(top, lost, store, rpo, scenario, tick_ms)) if moment_s is None else ()
    alone = any(way.by_itself for way in copies) or _lives_elsewhere(top, lost, store, scenario)
    others = () if alone else tuple(_others(top, lost, store, unknown))
    if moment_s is not None:
        loss_ms = max(0, scenario.asked_s - moment_s) * 1_000
        others = tuple(replace(way, loss_ms=loss_ms) for way in others if kind_of(way.kind).restores)
    for way in (*copies, *others):
        within = accepts(rpo.limit_ms, way.loss_ms) and not way.only_waived
        accepted = within and not rpo_is_open(rpo, (way,))
        site = site_of(top, way.at) or ""
        if store.data_in is not None and site not in sites_of(top.estate, store.data_in):
            continue
        if way.duration_ms is None:
            unknown.add(kind_of(way.kind).way_fact(store))
        if way.untimed:
            unknown.add(lag_fact(store.id))
        ticks = ticks_up(way.duration_ms or 0, tick_ms)
        own = way.from_loss and scenario.kind == "lose"
        candidate = Candidate(
            id=way.at,
            site=site,
            kind=way.kind,
            duration=max(0, ticks - top.estate.lead.ms // tick_ms) if own else ticks,
            uses=() if way.by_itself else limits.promotion(store.engine, site),
            loss_ms=way.loss_ms,
            allowed=within or named or chosen,
            waived=(named and not accepted) or (chosen and not within),
            by_itself=way.by_itself,
            from_loss=ticks if own else -1,
            forced=way.only_waived,
            confirms=way.confirms,
            untimed=way.untimed,
            cut=way.cut,
        )
        found.setdefault((way.kind, way.at), candidate)
    return tuple(found[key] for key in sorted(found))


def _copies(
    top: Topology, lost: Loss, store: Store, rpo: Rpo, scenario: Scenario, tick_ms: int
) -> Iterator[Way]:
    """Ways back by members with data: the survivors of a loss; all within reach once power is back; home in a
    failback.

    Nothing is lost if the old primary still writes (failback, and an evacuation whose deadline leaves time
    to fence it and to send the rest) or itself comes back.
    """
    if scenario.kind in _LEAVES:
        gone = _out_of_reach(top, lost, store)
        detached = {member.at for member in store.members if member.detached}
        fenced, dark_ms = is_fenced(store, gone), _goes_dark_ms(top, scenario)
        for way in surviving_ways(store, gone, people_times(top.estate), rpo):
            if scenario.kind == "evacuate" and way.at not in detached:
                backup = store.backup_before_move and not way.by_itself
                yield kept_up_to(store, way, fenced, backup, dark_ms, tick_ms)
            else:
                yield way
        return
    home = scenario.kind == "failback"
    writes = home and (not store.home or _lives_elsewhere(top, lost, store, scenario))
    for member, dead in zip(store.members, members_lost(top, lost, store), strict=True):
        reached = dead or not is_lost(top, lost_now(top), member.at)
        wanted = member.at == (store.home or member.at) and dead if home else reached
        if member.mode != "none" and wanted:
            yield promotion(store, member, loses=not writes, follows=home)


def _goes_dark_ms(top: Topology, scenario: Scenario) -> int | None:
    """When an evacuated site goes dark; None if the plan ends before."""
    return None if scenario.is_outlasted(top.estate.horizon_ms) else scenario.deadline_ms or 0


def _others(top: Topology, lost: Loss, store: Store, unknown: set[str]) -> Iterator[Way]:
    """Ways outside the loss that need no member; facts that one lacks are added to `unknown`."""
    gone = tuple(is_lost(top, lost, one.at) or is_lost(top, lost_now(top), one.at) for one in store.backups)
    left = Left(store, gone, people_times(top.estate))
    for way in offered_ways(left):
        if isinstance(way, Unstated):
            unknown.add(way.fact)
        else:
            yield way


def reprotects_of(
    top: Topology, lost: Loss, scenario: Scenario, stores: tuple[LostStore, ...], tick_ms: int
) -> tuple[Reprotect, ...]:
    """Copies of a restored domain that are behind a primary elsewhere: one that follows no one; any of a
    store that left its home, because they followed another primary; of a lost store, all but the promoted
    one.
    """
    if scenario.kind != "restore":
        return ()
    most = top.estate.horizon_ms // tick_ms + 1
    ticks = min(ticks_up(top.estate.limits.manual_ms.get("reprotect", 0), tick_ms), most)
    rows = {store.id: row for row, store in enumerate(stores)}
    found = []
    for store in top.estate.stores:
        gone = members_lost(top, lost, store)
        for member, dead in zip(store.members, gone, strict=True):
            alone = member.left or member.detached or (store.home == member.at and member.mode != "primary")
            moved = bool(store.home) or store.id in rows
            if dead and (alone or (moved and member.mode not in ("none", "primary"))):
                found.append(Reprotect(store.id, member.at, rows.get(store.id, -1), ticks))
    return tuple(sorted(found, key=lambda r: (r.store, r.member)))


@dataclass(frozen=True, slots=True, eq=False)
class Waits:
    """Lost stores that services wait for."""

    serve: tuple[tuple[int, ...], ...]
    """Lost stores each service waits for, one for each family: the instance that can be back first."""
    start: tuple[tuple[int, ...], ...]
    """Those of them that it needs to start."""
    blocked: BoolColumn
    """Its store never returns."""
    for_sure: BoolColumn
    """The same, and it is not in doubt whether the RPO allows what its store loses."""
    rebuilds: dict[int, tuple[tuple[str, str], ...]]
    """Service -> stores that it rebuilds, and their sources."""
    rebuild_ms: IntColumn
    """(S,) how long that takes: the longest of several, which run concurrently."""


def waits_of(
    estate: Estate, graph: ServiceGraph, stores: tuple[LostStore, ...], store_rows: dict[int, int]
) -> Waits:
    """What services wait for. A rebuilt store waits for its source: a chain of rebuilds takes their sum."""
    lost = np.zeros(max((max(d) for d in graph.family_stores.values()), default=-1) + 1, np.bool_)
    lost[list(store_rows)] = True
    gone = families_without_instance(graph, lost)
    chosen = {family: _first_back(estate, graph.family_stores[family], stores, store_rows) for family in gone}
    chains: dict[str, list[int]] = {}
    roots: dict[str, int] = {}
    for family in sorted(gone):
        name, chain = family, list[int]()
        while name in gone and chosen[name] not in chain and store_rows[chosen[name]] < 0:
            chain.append(chosen[name])
            name = estate.stores[chosen[name]].rebuilt_from or ""
        chains[family] = chain
        if name in gone:
            roots[family] = store_rows[chosen[name]]
    never = {family for family, k in roots.items() if k < 0 or not stores[k].allowed}
    sure = {family for family in never if roots[family] < 0 or stores[roots[family]].in_doubt is None}
    serve, start = (
        tuple(tuple(sorted({roots[f] for f in names if roots.get(f, -1) >= 0})) for names in families)
        for families in (graph.families, graph.start_families)
    )
    blocked, for_sure = (
        np.array([not some.isdisjoint(names) for names in graph.families], np.bool_) for some in (never, sure)
    )
    rebuilds: dict[int, tuple[tuple[str, str], ...]] = {}
    rebuild_ms = np.zeros(len(serve), np.int64)
    for service, names in enumerate(graph.rebuilt):
        for chain in (chains[name] for name in names if chains.get(name)):
            made = [estate.stores[row] for row in reversed(chain)]
            pairs = {one.id: (one.id, one.rebuilt_from or "") for one in made}
            rebuilds[service] = tuple(dict.fromkeys((*rebuilds.get(service, ()), *pairs.values())))
            rebuild_ms[service] = max(rebuild_ms[service], sum(one.rebuild_ms or 0 for one in made))
    return Waits(serve, start, blocked, for_sure, rebuilds, rebuild_ms)


def _first_back(
    estate: Estate, members: tuple[int, ...], stores: tuple[LostStore, ...], store_rows: dict[int, int]
) -> int:
    """Of the stores of a family that are all lost, the one that can be back first: one with a copy, else a
    rebuilt one, else one that may have a copy, else the first.
    """

    def key(row: int) -> tuple[int, int, str]:
        number = store_rows[row]
        return (1, estate.stores[row].rebuild_ms or 0, "") if number < 0 else _store_key(stores[number])

    return min(members, key=key)


def _store_key(store: LostStore) -> tuple[int, int, str]:
    quickest = min((c.duration for c in store.allowed), default=UNBOUNDED)
    rank = 0 if store.allowed else 3 if store.in_doubt is None else 2
    return rank, store.fence + quickest, store.id


class Hit(Protocol):
    """Effect of a loss on services: (S,) those whose base does not hold, and those that never come back."""

    @property
    def base_lost(self) -> BoolColumn: ...
    @property
    def blocked(self) -> BoolColumn: ...
    @property
    def waits(self) -> Waits: ...


Found = TypeVar("Found", bound=Hit)


def with_restore_needs(
    estate: Estate,
    graph: ServiceGraph,
    stores: tuple[LostStore, ...],
    store_rows: dict[int, int],
    hits: Callable[[tuple[LostStore, ...]], Found],
) -> tuple[tuple[LostStore, ...], Found]:
    """Add the services that each restore waits for, and return the stores with the resulting effect of the
    loss. A store with a live copy is not restored, nor is one whose restore would wait for itself, directly
    or through a tool. Each store that this blocks may block another, so it is repeated.
    """
    names, hit, every = {s.id: row for row, s in enumerate(estate.services)}, hits(stores), graph.every
    policies = {number: estate.stores[row].backup_policy for row, number in store_rows.items() if number >= 0}
    wanted = {
        number: [names[name] for name in policy.restore_needs]
        for number, policy in policies.items()
        if policy is not None and any(kind_of(c.kind).restores for c in stores[number].allowed)
    }
    tools = [names[name] for group in estate.tool_groups(estate.tools) for name in group if len(group) == 1]
    for _ in stores if any(wanted.values()) else ():
        found = list(stores)
        for number, services in wanted.items():
            needs = tuple(row for row in services if hit.base_lost[row])
            behind = _behind(every, hit, (*needs, *tools)) if needs else set[int]()
            copies = any(not kind_of(c.kind).restores for c in stores[number].allowed)
            waits_for_itself = any(number in hit.waits.serve[row] for row in behind)
            never = any(hit.blocked[row] for row in needs)
            if needs and (copies or waits_for_itself or never):
                found[number] = _without_restores(found[number])
            found[number] = replace(found[number], needs=() if copies else needs)
        if tuple(found) == stores:
            break
        stores = tuple(found)
        hit = hits(stores)
    return stores, hit


def kept_for_restores(
    services: Services, estate: Estate, stores: tuple[LostStore, ...], store_rows: dict[int, int]
) -> Services:
    """The same services, except that those needed to restore a lost store cannot be shed."""
    policies = (
        estate.stores[row].backup_policy
        for row, number in store_rows.items()
        if number >= 0 and any(kind_of(c.kind).restores for c in stores[number].allowed)
    )
    wanted = {name for policy in policies if policy is not None for name in policy.restore_needs}
    if not wanted:
        return services
    kept = np.array([service.id in wanted for service in estate.services], np.bool_)
    return replace(services, sheddable=services.sheddable & ~kept)


def _behind(graph: ServiceGraph, hit: Hit, first: Iterable[int]) -> set[int]:
    """Lost services among some, and all their hard dependencies."""
    return {
        row
        for row, reached in enumerate(reachable(graph.hard, list(first)))
        if reached and hit.base_lost[row]
    }


def _without_restores(store: LostStore) -> LostStore:
    ways = tuple(replace(c, allowed=c.allowed and not kind_of(c.kind).restores) for c in store.candidates)
    return replace(store, candidates=ways)
