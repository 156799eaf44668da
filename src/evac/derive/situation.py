"""The estate in its current state: declared by the files, changed by runs, then corrected by observations.

`of` combines them. `moved` is what a run left behind: each kind of step changes a draft by its `after`, in
the order in which the steps ended. `estate_after` does the same for the steps that a plan promises, so that a
plan, its dry run and the next plan agree on the effect of each step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.derive.domains import (
    Loss,
    Topology,
    is_lost,
    loss,
    lost_in,
    lost_now,
    resolve,
    server_row,
    site_of,
    site_of_replicas,
    stays_lost,
    topology,
)
from evac.derive.homing import pool_of_server
from evac.derive.placed import PlaceCounts, PlacedOff, known_places, running_of
from evac.derive.pools import replicas_lost
from evac.derive.sent_users import LEAVES, Sent, per_site, sent_away, sent_to
from evac.derive.serving import Serving
from evac.derive.stores import confirms_by_hand, lag_in, observed, without_primary
from evac.derive.waiting import Inside, of_pools_in_part, on_lost_servers, waiting_in_pools, with_waiting
from evac.model.errors import UnknownDomain
from evac.model.estate import Estate, ReplicationMode, Store, StoreMember
from evac.model.fleet import (
    CONDEMNED,
    DARK,
    ON_SERVER,
    SERVING,
    SPARE,
    BoolColumn,
    Fleet,
    IntColumn,
    Replicas,
    np,
)
from evac.model.observation import Observation, UnitsSeen
from evac.model.plan import Plan, Step
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.model.scenario import Scenario
from evac.model.situation import (
    Away,
    Cause,
    DomainState,
    Draft,
    Effects,
    LostNow,
    Moved,
    Routed,
    Situation,
    StoreAway,
)
from evac.steps.registry import kind_of

NOTHING: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
_ROLES: Final[Mapping[str, ReplicationMode]] = MappingProxyType(
    {"primary": "primary", "sync": "sync", "async": "async", "none": "none"}
)
_GONE: Final = "gone"  # the role of a copy whose store was rebuilt elsewhere


@dataclass(frozen=True, slots=True)
class Done:
    """A completed step. to: sites that it sends users to."""

    step: Step
    at_ms: int = 0
    to: tuple[str, ...] = ()


def of(estate: Estate, seen: Observation) -> Situation:
    """estate: as its files declare it. O(services that moved + servers)."""
    effects = seen.effects or Effects()
    top = topology(estate)
    lost = tuple(one for one in effects.lost if _is_known(top, one.domain))
    gone = tuple(sorted({one.domain for one in lost if one.state != "evacuating"}))
    waits = loss(top, gone).servers
    placed, causes = _placed(top, effects.moved, seen.units, waits)
    left = [one for one in lost if one.domain in gone]
    placed |= waiting_in_pools(top, placed, left, effects.moved)
    sent = sent_to(top, placed, effects.moved, seen)
    replicas = _replicas(top, placed, waits)
    fleet = _fleet(estate.fleet, top, effects.moved, lost, replicas)
    stores = tuple(_by_runs(store, effects.moved) for store in estate.stores)
    surplus = _surplus(top, running_of(top, fleet, placed, waits), causes)
    now, known = estate, seen.effects is not None or _all_seen(top, seen.units)
    if known or placed or sent.sites or stores != estate.stores or fleet is not estate.fleet:
        now = replace(
            estate,
            fleet=fleet,
            replicas=replicas,
            stores=estate.stores if stores == estate.stores else stores,
            home=estate.replicas if known or placed else None,
            lost=gone,
            traffic=MappingProxyType({**sent.sites}),
            surplus=surplus,
            unsure=_unsure(top, surplus, lost, seen),
            sent_away=sent_away(top, sent, effects.moved),
            as_routed=sent.as_routed,
        )
    now = observed(now, seen)
    fires = {one.domain: one for one in lost if one.domain in gone and one.run}
    away = _away(top, now, causes, sent, fires, effects.moved)
    primaries = _stores_away(top, now, seen, effects.moved)
    routed = _routed(now, sent, {one.service for one in away})
    return Situation(
        estate, now, seen.at_ms, lost, away, primaries, seen.rivals, seen.backups, seen.silent, routed
    )


def _is_known(top: Topology, domain: str) -> bool:
    try:
        resolve(top, domain)
    except UnknownDomain:
        return False
    return True


def _placed(
    top: Topology, moved: Sequence[Moved], units: Sequence[UnitsSeen], waits: BoolColumn
) -> tuple[dict[str, dict[str, int]], dict[str, Cause]]:
    """Service -> replicas by place, for each service in a run or an observation, and the source. waits: (V,)
    servers in what is lost.
    """
    names = {service.id for service in top.estate.services}
    placed: dict[str, dict[str, int]] = {}
    causes: dict[str, Cause] = {}
    for one in moved:
        for service, counts in one.placed.items():
            if service in names:
                placed[service] = dict(counts)
                step, at_ms = one.steps.get(service, ("", one.ended_ms))
                causes[service] = Cause("run", one.run, step, at_ms)
    declared = PlaceCounts(top)
    for seen in units:
        if seen.service not in names or seen.site not in top.site_index:
            continue
        there_now = placed[seen.service] if seen.service in placed else declared.of(seen.service)
        there = {place: n for place, n in there_now.items() if declared.site(place) == seen.site}
        if sum(there.values()) != seen.replicas:
            rest = {place: n for place, n in there_now.items() if place not in there}
            last = _on_pool_servers(top, there, waits)
            placed[seen.service] = rest | declared.spread(seen.site, there, seen.replicas, last)
            causes[seen.service] = Cause("observed", seen.driver, at_ms=seen.at_ms)
    return placed, causes


def _on_pool_servers(top: Topology, places: Iterable[str], waits: BoolColumn) -> set[str]:
    """Those of some places that are lost servers of a pool."""
    fleet = top.estate.fleet
    pairs = ((place, server_row(top.estate, place)) for place in places if place not in top.pool_index)
    return {place for place, row in pairs if row >= 0 and fleet.pool[row] >= 0 and waits[row]}


def _all_seen(top: Topology, units: Sequence[UnitsSeen]) -> bool:
    """Whether drivers see each service at each site where the files place it."""
    table = np.stack([top.estate.replicas.service, site_of_replicas(top)], axis=1)
    seen = {(one.service, one.site) for one in units}
    rows = np.unique(table, axis=0).tolist() if seen else []
    return bool(rows) and all(
        site >= 0 and (top.estate.services[service].id, top.estate.sites[site].id) in seen
        for service, site in rows
    )


def _surplus(
    top: Topology, placed: Mapping[str, Mapping[str, int]], causes: Mapping[str, Cause]
) -> tuple[str, ...]:
    """Services that run more replicas than are declared: left by a run that was cut short, or seen where
    none are declared. What is seen at a declared site may be scaled by someone else, and is theirs. placed:
    what runs.
    """
    declared, found = PlaceCounts(top), []
    for service, counts in sorted(placed.items()):
        home = declared.of(service)
        if sum(counts.values()) > sum(home.values()):
            sites = {declared.site(place) for place in home}
            strays = (n and declared.site(place) not in sites for place, n in counts.items())
            if causes[service].source == "run" or any(strays):
                found.append(service)
    return tuple(found)


def _unsure(
    top: Topology, surplus: Sequence[str], lost: Sequence[LostNow], seen: Observation
) -> tuple[str, ...]:
    """Services with a surplus that may not run at a site of home, because that site is being evacuated or
    nothing there answers, and no driver sees the service there.
    """
    if not surplus:
        return ()
    silent = {one.site for one in seen.silent if not one.answers}
    silent |= {one.site for one in seen.members if one.role == "unreachable"}
    leaves = [one.domain for one in lost if one.state == "evacuating"]
    rows = np.flatnonzero(replicas_lost(top, loss(top, [*leaves, *sorted(silent & top.site_index.keys())])))
    sites, runs = (
        site_of_replicas(top)[rows].tolist(),
        {(u.service, u.site) for u in seen.units if u.replicas},
    )
    pairs = zip(top.estate.replicas.service[rows].tolist(), sites, strict=True)
    named = {(top.estate.services[row].id, top.estate.sites[site].id) for row, site in pairs}
    return tuple(sorted({service for service, _ in named - runs} & {*surplus}))


def services_at(estate: Estate, seen: Observation, site: str) -> frozenset[str]:
    """Services with replicas at a site, and those that no one moved. estate: as its files declare it."""
    top = topology(estate)
    nowhere = np.zeros(len(estate.fleet), np.bool_)
    placed, _ = _placed(top, (seen.effects or Effects()).moved, seen.units, nowhere)
    counts = PlaceCounts(top)
    here = {
        name for name, rows in placed.items() if any(n and counts.site(at) == site for at, n in rows.items())
    }
    return frozenset({service.id for service in estate.services} - placed.keys() | here)


def _replicas(top: Topology, placed: Mapping[str, Mapping[str, int]], waits: BoolColumn) -> Replicas:
    """The table of bindings with some services moved; the same object if nothing moved. waits: (V,) servers
    in what is lost.
    """
    old = top.estate.replicas
    if not placed:
        return old
    row_of = {service.id: row for row, service in enumerate(top.estate.services)}
    rows = sorted(row_of[service] for service in placed)
    kept = ~np.isin(old.service, np.array(rows, np.int32))
    found = [
        (row_of[service], place, count)
        for service, counts in placed.items()
        for place, count in counts.items()
        if count > 0
    ]
    places = known_places(top, [place for _, place, _ in found], waits)
    known = [(row, *place, count) for (row, _, count), place in zip(found, places, strict=True) if place]
    new = np.array(known, np.int64).reshape(-1, 4)
    was = np.stack([c.astype(np.int64) for c in (old.service, old.kind, old.target, old.count)], axis=1)
    made = _summed(np.concatenate([was[kept], new]))
    return old if made.same(old) else made


def _summed(table: IntColumn) -> Replicas:
    """Merge rows (service, kind, target, count) into one binding for each of the first three, sorted."""
    unique, inverse = np.unique(table[:, :3], axis=0, return_inverse=True)
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, inverse.reshape(-1), table[:, 3])
    return Replicas(
        unique[:, 0].astype(np.int32), unique[:, 1].astype(np.uint8), unique[:, 2].astype(np.int32), total
    )


def _fleet(
    fleet: Fleet, top: Topology, moved: Sequence[Moved], lost: Sequence[LostNow], replicas: Replicas
) -> Fleet:
    """Servers as the last run left them, and dark in what is lost; those that are on and loaded serve."""
    state = fleet.state.copy()
    switched: dict[str, bool] = {}
    for one in moved:
        switched.update(one.servers)
    if switched:
        names = np.array([name.encode() for name in sorted(switched)], "S")
        rows = np.searchsorted(fleet.name, names)
        for name, row in zip(names, rows.tolist(), strict=True):
            if row < len(fleet) and fleet.name[row] == name and state[row] != CONDEMNED:
                on = switched[bytes(name).decode()]
                state[row] = DARK if not on else SPARE if state[row] == DARK else state[row]
    dark = loss(top, [one.domain for one in lost if one.state == "lost"]).servers
    state[dark & (state != CONDEMNED)] = DARK
    if switched or replicas is not top.estate.replicas:
        carries = np.unique(replicas.target[replicas.kind == ON_SERVER])
        state[carries[np.isin(state[carries], (SERVING, SPARE))]] = SERVING
    return fleet if np.array_equal(state, fleet.state) else replace(fleet, state=state)


def _by_runs(store: Store, moved: Sequence[Moved]) -> Store:
    """Roles as the last run that changed them left them; observations override it."""
    roles = next((dict(one.roles[store.id]) for one in reversed(moved) if store.id in one.roles), None)
    if roles is None:
        return store
    known = {member.at: member for member in store.members}
    made = {at: StoreMember(at, "primary") for at in roles if at not in known and store.rebuilt_from}
    pairs = ((member, roles.get(at, member.mode)) for at, member in (known | made).items())
    members = tuple(_with_role(store, member, role) for member, role in pairs if role != _GONE)
    home = store.home or ("" if store.primary is None else store.primary.at)
    there = any(member.at == home and member.mode == "primary" for member in members)
    return replace(store, members=members, home="" if there else home)


def _with_role(store: Store, member: StoreMember, role: str) -> StoreMember:
    mode = _ROLES.get(role, member.mode)
    if mode == "none":
        return without_primary(member)
    return replace(member, mode=mode, lag_ms=lag_in(store, member, mode))


def _away(
    top: Topology,
    now: Estate,
    causes: Mapping[str, Cause],
    sent: Sent,
    fires: Mapping[str, LostNow],
    moved: Sequence[Moved],
) -> tuple[Away, ...]:
    """Services whose count at some site differs from home, whose users are sent where home has none, or whose
    users a run sent away from a part of home and none sent back. fires: sites that runs left, which explains
    why nothing runs there, whatever moved it earlier. moved: in order; an open run is later.
    """
    turns = {one.run: turn for turn, one in enumerate(moved)}
    home, there, found = PlaceCounts(top), PlaceCounts(topology(now)), []
    for service in sorted({*causes, *sent.sites}):
        declared, placed = per_site(home, service), per_site(there, service)
        present = tuple((site, count) for site, count in placed if site not in now.lost)
        users = sent.sites.get(service, ())
        homes = {site for site, _ in declared}
        if declared != present or service in now.sent_away or not set(users) <= homes:
            cause = causes.get(service) or sent.causes[service]
            for site in sorted({there.site(place) for place in there.of(service)} & fires.keys()):
                if turns.get(fires[site].run, len(turns)) > turns.get(cause.by, -1):
                    cause = Cause("run", fires[site].run, at_ms=fires[site].since_ms)
            in_lost = tuple(row for row in placed if row[0] in now.lost)
            found.append(Away(service, declared, present, users, cause, in_lost))
    return tuple(found)


def _routed(now: Estate, sent: Sent, away: Collection[str]) -> tuple[Routed, ...]:
    """Services at home whose users are not sent to all sites where they run, if a driver says so."""
    there, found = PlaceCounts(topology(now)), []
    for service, users in sent.sites.items():
        if sent.causes[service].source == "observed" and service not in away:
            rest = tuple(site for site, count in per_site(there, service) if count and site not in users)
            found += [Routed(service, users, rest, sent.causes[service])] if rest else []
    return tuple(found)


def _stores_away(
    top: Topology, now: Estate, seen: Observation, moved: Sequence[Moved]
) -> tuple[StoreAway, ...]:
    found = []
    for store in now.stores:
        home = (site_of(top, store.home) or "") if store.home else ""
        primary = "" if store.primary is None else site_of(top, store.primary.at) or ""
        if home and primary != home:
            one = _brought(store, moved)
            cause = Cause("observed", at_ms=seen.at_ms)
            if one is not None:
                step, at_ms = one.steps.get(store.id, ("", one.ended_ms))
                cause = Cause("run", one.run, step, at_ms)
            found.append(StoreAway(store.id, home, primary, cause))
    return tuple(found)


def _brought(store: Store, moved: Sequence[Moved]) -> Moved | None:
    """The run that moved the primary to its site; later runs that left it there do not count."""
    found, there = None, "" if store.primary is None else store.primary.at
    for run in reversed(moved):
        if (roles := dict(run.roles.get(store.id, ()))) and roles.get(there) != "primary":
            break
        found = run if roles else found
    return found


def moved(
    estate: Estate,
    scenario: Scenario,
    done: Iterable[Done],
    *,
    run: str = "",
    began_ms: int = 0,
    ended_ms: int = 0,
    phase: str = "succeeded",
) -> Moved:
    """What a run of some scenario left behind. estate: before it; done: in the order in which steps ended.

    Replicas that a loss took and that were not placed elsewhere stay bound to what is lost, because a restore
    has to start them; shed ones wait there too.
    """
    top, leaves = topology(estate), scenario.kind in LEAVES
    lost, counts = lost_in(top, scenario), PlaceCounts(top)
    inside, steps = Inside(top, lost), dict[str, tuple[str, int]]()
    off, done = PlacedOff(top, counts), tuple(done)
    on = {*scenario.on, *(one.step.target for one in done if kind_of(one.step.kind).boots)}
    draft = Draft(counts.running, inside, lambda place: pool_of_server(top, place), estate.traffic)
    for service in _started_again(top, lost, scenario, done, phase):
        draft.leave(service)
    for one in done:
        kind_of(one.step.kind).after(draft, one.step, one.to)
        steps[one.step.target] = (one.step.id, one.at_ms)
        if kind_of(one.step.kind).replicas > 0:
            draft.servers |= dict.fromkeys(off.servers((place for place, _ in one.step.servers), on), True)
    servers = draft.servers
    if scenario.kind == "restore" and phase in SUCCEEDED:
        servers = _after_restore(estate, lost, scenario, servers)
    off.stay(draft.placed, servers, _at_home(estate) if scenario.kind == "failback" else {})
    if scenario.kind in LEAVES and (scenario.kind == "lose" or phase in SUCCEEDED):
        in_part, waits_at = of_pools_in_part(top, lost), on_lost_servers(top, lost)
        for service, placed in draft.placed.items():
            taken = in_part.get(service, {})
            draft.placed[service] = with_waiting(counts.of(service), placed, inside, taken, waits_at)
    direct = {service.id for service in estate.services if service.traffic.kind == "none"}
    stayed = sorted(draft.placed.keys() - draft.traffic.keys() - direct)
    for service in stayed:  # users of moved services without a shift stay where they were
        sites = {counts.site(place) for place, count in counts.of(service).items() if count}
        draft.traffic[service] = estate.traffic.get(service) or tuple(sorted(sites))
    stores = {store.id: store for store in estate.stores}
    for name in sorted(draft.rebuilt.keys() & stores.keys()):
        there = draft.placed.get(draft.rebuilt[name]) or counts.of(draft.rebuilt[name])
        best = min(there, key=lambda at: (inside(at) == leaves, -there[at], at), default="")
        site, places = counts.site(best), (stores[name].home, *(one.at for one in stores[name].members))
        draft.primaries[name] = next((at for at in places if at and site_of(top, at) == site), site)
    turned = {*draft.primaries, *draft.following} & stores.keys()
    return Moved(
        run,
        scenario.kind,
        scenario.domains,
        began_ms,
        ended_ms,
        phase,
        {
            service: tuple(sorted((place, count) for place, count in places.items() if count))
            for service, places in sorted(draft.placed.items())
        },
        dict(sorted(draft.traffic.items())),
        dict(sorted(servers.items())),
        {name: _roles(top, lost, stores[name], draft, scenario) for name in sorted(turned)},
        {
            name: steps[name]
            for name in sorted(steps)
            if name in stores or name in draft.placed or name in draft.traffic
        },
        stayed=tuple(stayed),
    )


def _at_home(estate: Estate) -> dict[str, int]:
    """Service -> replicas at home. What a failback starts there takes the place of what ran elsewhere, not of
    what waits for another site.
    """
    home = estate.replicas if estate.home is None else estate.home
    counts = np.bincount(home.service, home.count, len(estate.services)).astype(np.int64).tolist()
    return {service.id: count for service, count in zip(estate.services, counts, strict=True)}


def _started_again(
    top: Topology, lost: Loss, scenario: Scenario, done: Sequence[Done], phase: str
) -> list[str]:
    """Services whose replicas in a returning domain only waited there before the run: all of a restore, and
    of a failback to what was left before. If a failback was cut short, those that it began to start.
    """
    is_home = scenario.kind == "failback"
    if not is_home and (scenario.kind != "restore" or not (done or phase in SUCCEEDED)):
        return []
    waits = replicas_lost(top, lost)
    if is_home:
        waits = np.minimum(waits, replicas_lost(top, lost_now(top)))
    names = [
        top.estate.services[row].id for row in np.unique(top.estate.replicas.service[waits > 0]).tolist()
    ]
    begun = {one.step.target for one in done if kind_of(one.step.kind).replicas > 0}
    return [name for name in names if not is_home or phase in SUCCEEDED or name in begun]


def _after_restore(
    estate: Estate, lost: Loss, scenario: Scenario, booted: Mapping[str, bool]
) -> dict[str, bool]:
    """Restored servers that were booted, or seen on, are on. So is a pool that no boot brings up, because no
    class in it states a boot time: the restore counted on it.
    """
    fleet, found = estate.fleet, dict(booted)
    on = {*booted, *scenario.on}
    back = lost.servers & (fleet.state != CONDEMNED)
    timed = np.array([*(one.boot_ms is not None for one in estate.classes), False], np.bool_)
    waits = np.ones(len(estate.pools) + 1, np.bool_)
    waits[fleet.pool[back & ~timed[fleet.server_class]]] = False
    waits[fleet.pool[back & timed[fleet.server_class]]] = True
    rows = np.flatnonzero(back).astype(np.int32)
    names = fleet.server_names(rows)
    seen = np.array([name in on for name in names], np.bool_)
    waits[fleet.pool[rows[seen]]] = True
    waits[-1] = True
    return found | dict(zip(names, (seen | ~waits[fleet.pool[rows]]).tolist(), strict=True))


def _roles(
    top: Topology, lost: Loss, store: Store, draft: Draft, scenario: Scenario
) -> tuple[tuple[str, str], ...]:
    """The candidate is the primary; the old primary follows no one while its domain is lost. In a store that
    only people operate, a copy that follows again confirms commits: people are asked to ensure that.
    """
    follower = "sync" if confirms_by_hand(top, store) else "async"
    primary = draft.primaries.get(store.id, "")
    follows = draft.following.get(store.id, set())
    found = []
    for member in store.members:
        mode: str = member.mode
        if primary and member.at == primary:
            mode = "primary"
        elif store.id in draft.rebuilt and (mode == "primary" or is_lost(top, lost, member.at)):
            mode = _GONE
        elif primary and mode == "primary":
            leaves = scenario.kind in LEAVES and is_lost(top, lost, member.at)
            mode = "none" if leaves else follower if scenario.kind == "failback" else "async"
        elif member.at in follows or (
            scenario.kind == "restore" and mode == "none" and is_lost(top, lost, member.at)
        ):
            mode = follower
        found.append((member.at, mode))
    made = primary and store.id in draft.rebuilt and all(member.at != primary for member in store.members)
    return (*found, (primary, "primary")) if made else tuple(found)


def estate_after(estate: Estate, plan: Plan) -> Estate:
    """The estate after a plan that was made from it: the start of the next plan."""
    return situation_after(estate, plan).estate


def situation_after(estate: Estate, plan: Plan) -> Situation:
    """As `of`, from the steps of a plan instead of those of a run. estate: what the plan was made from."""
    scenario = plan.scenario
    after = moved(estate, scenario, promised(estate, plan))
    back = {*scenario.domains} if scenario.kind not in LEAVES else set()
    state: DomainState = "lost" if scenario.kind == "lose" else "evacuated"
    left = stays_lost(estate.lost, scenario.domains if scenario.kind == "restore" else ())
    gone = [LostNow(domain, "lost") for domain in left if domain not in back]
    if scenario.kind in LEAVES:
        gone += [LostNow(domain, state) for domain in scenario.domains if domain not in estate.lost]
    seen = Observation(0, effects=Effects(tuple(gone), (after,)))
    traffic = {name: sites for name, sites in estate.traffic.items() if name not in after.traffic}
    situation = of(replace(estate, lost=(), home=None, traffic=NOTHING), seen)
    home = estate.replicas if estate.home is None else estate.home
    surplus = {*estate.surplus} - after.placed.keys() | {*situation.estate.surplus}
    sent = {*estate.sent_away} - after.traffic.keys() | {*situation.estate.sent_away}
    turned = after.traffic.keys() - {*after.stayed}
    now = replace(
        situation.estate,
        home=home,
        surplus=tuple(sorted(surplus)),
        unsure=tuple(sorted(surplus & {*estate.unsure, *situation.estate.unsure})),
        traffic=MappingProxyType({**traffic, **situation.estate.traffic}),
        sent_away=tuple(sorted(sent)),
        as_routed=tuple(sorted({*estate.as_routed} - turned)),
    )
    return replace(situation, estate=now)


def promised(estate: Estate, plan: Plan) -> list[Done]:
    """The steps of a plan as completed, in the order in which they end, with the target of each shift."""
    serving = Serving(topology(estate), plan)
    return [
        Done(step, step.end_ms, serving.sites(step.target)[:1] if kind_of(step.kind).moves_traffic else ())
        for step in sorted(plan.steps, key=lambda step: (step.end_ms, step.id))
    ]
