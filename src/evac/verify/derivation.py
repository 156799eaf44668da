"""Derives limits and power of a plan's instance again, by the checker's own code.

Planner and checker share `derive`: which servers and replicas there are, who is affected, and how long things
take. A wrong limit or power budget would be invisible if the checker took these from there too. So every
limit, what each action holds, power budgets, what a boot draws, when a server can boot, the order of feeds,
after a loss the capacity of pools and what may be lost or full too, what a copy lacks when an evacuated site
goes dark, and which copies lag by an unknown time are derived here from estate and scenario alone, replacing
the results of `derive`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evac.derive.affected import service_graph
from evac.derive.alternatives import first_of_each
from evac.derive.domains import Topology, lost_in, topology
from evac.derive.intervals import bound_instance, good_ends
from evac.model.estate import Estate, Store
from evac.model.fleet import BMC_NO
from evac.model.instance import BootKind, Candidate, Cut, Instance, LeftOff, LostStore, PowerBudget
from evac.model.reason import OffReason
from evac.model.scenario import Policy, Scenario
from evac.model.step_id import limit_id
from evac.steps.force_quorum import ForceQuorum
from evac.steps.registry import kind_of
from evac.verify.limits import Limits
from evac.verify.pools import after_a_loss
from evac.verify.power import Bools, Ints, Power


def derived_again(top: Topology, scenario: Scenario, shared: Instance) -> Instance:
    """The instance from `derive` with the checker's own limits, power, and capacity of pools.

    Linear in servers and racks. Raises UnknownDomain.
    """
    estate, limits = top.estate, Limits(top.estate, shared.tick_ms)
    lost = lost_in(top, scenario)
    power = Power(estate, lost, scenario, limits)
    boots = _Boots(power, shared)
    services, pools = shared.services, shared.pools
    shifts = [limits.shift(s.traffic.kind, s.traffic.change_ms) for s in estate.services]
    hands, starts = limits.hold("hands"), limits.count("starts")
    rows, vague = after_a_loss(top, scenario, shared)
    return replace(
        shared,
        limits=limits.rows,
        services=replace(services, shift_uses=tuple(shifts)),
        pools=tuple(
            replace(
                pool,
                start_uses=limits.count(limit_id("starts", pool.id)) + starts,
                shed_uses=limits.hold(limit_id("sheds", pool.id)),
            )
            for pool in pools
        ),
        stores=tuple(_store(store, estate, scenario, limits, shared.tick_ms) for store in shared.stores),
        tools={kind: replace(need, manual_uses=hands) for kind, need in shared.tools.items()},
        boot_kinds=boots.kinds,
        rows=replace(rows, boot_kind=boots.kind, watts=boots.watts, power=boots.budgets),
        power=power_budgets(power),
        power_steps=tuple(power.steps),
        powered_by=boots.step,
        bring_up=boots.rises,
        left_off=boots.left_off(),
        vague=vague,
        unknown=tuple(sorted({*shared.unknown, *_unstated_lags(estate, scenario, shared)})),
    )


def better_again(
    top: Topology, scenario: Scenario, policy: Policy, shared: Instance, own: Instance
) -> Instance:
    """The instance that a bound must hold for: `own` if everything is known exactly, else one with the better
    ends.

    No budget is below the planned one, and no capacity of a pool is rounded down. Which of several lost
    stores of a family is restored depends on the true values, so none of them holds a limit. What waits for
    one of several services waits for the first.
    """
    estate = top.estate
    better = bound_instance(estate, scenario, policy, shared.tick_ms, shared)
    if better is shared:
        return own
    found = derived_again(topology(good_ends(estate)), scenario, better)
    planned = {budget.id: budget.watts for budget in own.power}
    family = {store.id: store.family for store in estate.stores}
    lost = [family[store.id] for store in found.stores]
    found = replace(
        found,
        rows=replace(found.rows, capacity=better.rows.capacity),
        vague=better.vague,
        power=tuple(replace(b, watts=max(b.watts, planned.get(b.id, 0))) for b in found.power),
        stores=tuple(
            store
            if lost.count(family[store.id]) == 1
            else replace(
                store, fence_uses=(), candidates=tuple(replace(c, uses=()) for c in store.candidates)
            )
            for store in found.stores
        ),
    )
    return first_of_each(service_graph(estate), found)


def _store(store: LostStore, estate: Estate, scenario: Scenario, limits: Limits, tick_ms: int) -> LostStore:
    """The store with what its fence and promotion hold: nothing if a majority or the primary survives."""
    one = next(one for one in estate.stores if one.id == store.id)
    goes_on = scenario.kind in ("lose", "evacuate") and (store.has_majority if one.quorum else store.elects)
    candidates = (
        replace(
            _evacuated(_forced(way, one), store, one, estate, scenario, tick_ms),
            uses=() if way.by_itself else limits.hold(limit_id("promotions", one.engine, way.site)),
        )
        for way in store.candidates
    )
    fence = () if goes_on else limits.hold("fences")
    return replace(store, fence_uses=fence, candidates=tuple(candidates))


def _unstated_lags(estate: Estate, scenario: Scenario, shared: Instance) -> Iterator[str]:
    """The fact that each moving store lacks if a copy that may take over applies writes for an unknown time
    first: also an old primary on its way home, which follows by then.
    """
    stores = {store.id: store for store in estate.stores}
    for lost in shared.stores:
        store = stores[lost.id]
        copies = {one.at: one for one in store.members if not one.detached}
        confirms = any(one.mode == "sync" for one in store.members)
        for way in lost.candidates:
            member = copies.get(way.id)
            if member is None or member.lag_ms is not None or not _is_promoted(way):
                continue
            others = [one.lag_ms for one in store.members if one.mode != "none" and one.at != way.id]
            returns = member.mode == "primary" and scenario.kind == "failback" and not confirms
            if member.mode == "async" or (returns and (not others or None in others)):
                yield f"stores/{store.id}/lag"


def _is_promoted(way: Candidate) -> bool:
    """Whether a copy applies what it received and takes over: not a backup, nor what people force."""
    kind = kind_of(way.kind)
    return kind.makes_primary and not (kind.restores or kind.takes_people)


def _forced(way: Candidate, store: Store) -> Candidate:
    """The member from which people force a new cluster, with what it may lack of the writes that a majority
    confirmed: all of them were the primary's, and no majority is without one that has half of the votes.
    """
    votes = {one.at: one.votes for one in store.members}
    if way.kind != ForceQuorum.name or way.id not in votes:
        return way
    member = next(one for one in store.members if one.at == way.id)
    complete = member.mode == "primary" or member.votes >= sum(votes.values()) - member.votes
    return replace(way, loss_ms=0 if complete else member.lag_ms)


def _evacuated(
    way: Candidate, lost: LostStore, store: Store, estate: Estate, scenario: Scenario, tick_ms: int
) -> Candidate:
    """The copy with what it lacks at best when an evacuated site goes dark before the primary is fenced and
    the copy has received the rest, and with what decides how much it lacks if the fence waits.
    """
    member = next((one for one in store.members if one.at == way.id), None)
    dark_ms = scenario.deadline_ms or 0
    if scenario.kind != "evacuate" or dark_ms >= estate.horizon_ms or member is None:
        return way
    behind = member.mode == "async" and not member.detached and member.lag_ms != 0
    if not behind or kind_of(way.kind).restores:
        return way
    takes = [store.backup_time_ms] if lost.backup is not None else []
    takes += [store.fence_ms] if not store.quorum or not lost.has_majority else []
    lag_ms = member.lag_ms
    if lag_ms is None or None in takes:
        return replace(way, loss_ms=lag_ms, cut=None)
    until_ms = sum(-(-(ms or 0) // tick_ms) for ms in takes) * tick_ms
    loss_ms = max(0, min(lag_ms, lag_ms + until_ms - dark_ms))
    return replace(way, loss_ms=loss_ms, cut=None if way.by_itself else Cut(lag_ms, dark_ms))


def power_budgets(power: Power) -> tuple[PowerBudget, ...]:
    """What each can carry and what is on without a boot; if that is more, it may stay on."""
    fleet, budgets = power.estate.fleet, power.budgets
    on = power.on & fleet.watts_known
    drawn = budgets.draw(power.rack[on], power.site[on], fleet.watts[on])
    columns = budgets.names, np.maximum(budgets.watts, drawn).tolist(), drawn.tolist()
    return tuple(PowerBudget(*budget) for budget in zip(*columns, strict=True))


class _Boots:
    """How each row boots: V entries, with neutral values for pools."""

    def __init__(self, power: Power, shared: Instance) -> None:
        self._power, rows = power, shared.rows
        estate, fleet = power.estate, power.estate.fleet
        bare = np.flatnonzero(rows.fleet_row >= 0)
        server = rows.fleet_row[bare]
        rack, site = power.rack[server], power.site[server]
        self._known = np.array([one.boot_ms is not None for one in estate.classes] + [False], np.bool_)
        self._has_power: Bools = ~power.is_refused[power.rack]
        boots = rows.dark[bare] & self._known[fleet.server_class[server]] & self._has_power[server]
        self.budgets = np.full((len(rows), power.budgets.of(rack[:0], site[:0]).shape[1]), -1, np.int32)
        self.budgets[bare] = power.budgets.of(rack, site)
        self.watts = np.zeros(len(rows), np.int64)
        draws = rows.dark[bare] & fleet.watts_known[server] & ~power.by_itself[server]
        self.watts[bare[draws]] = fleet.watts[server[draws]]
        self.rises: Bools = np.zeros(len(rows), np.bool_)
        self.rises[bare] = power.rises[server] & boots
        self.step = np.full(len(rows), -1, np.int32)
        self.step[bare] = np.where(power.dark[server], power.step_of[rack], -1)
        self.kind = np.full(len(rows), -1, np.int32)
        self.kinds: tuple[BootKind, ...] = ()
        self._number(bare[boots], server[boots])

    def _number(self, rows: NDArray[np.intp], server: NDArray[np.int32]) -> None:
        """Numbers boots that are alike in class, feeds, boot server, management network, and when and how
        they begin.

        The rack decides most of this, so servers are grouped by rack first.
        """
        power, fleet = self._power, self._power.estate.fleet
        columns = (power.rack, fleet.server_class, fleet.boot_server, power.dark, power.by_itself, fleet.bmc)
        same, some = _alike([column[server] for column in columns])
        server = server[some]
        rack, itself = power.rack[server], power.by_itself[server]
        hand = (fleet.bmc[server] == BMC_NO) & ~itself
        network = np.where(itself | hand, 0, power.network[rack])
        ready, least = (
            np.where(power.dark[server], at[rack] + network, 0) for at in (power.power_at, power.least)
        )
        feeds, halls = self._racks()
        kind = fleet.server_class[server], feeds[rack], fleet.boot_server[server], halls[rack]
        number, first = _alike([*kind, ready, least, itself, hand])
        self.kind[rows] = number[same]
        self.kinds = tuple(
            self._kind(int(server[at]), int(ready[at]), int(least[at]), bool(itself[at]), bool(hand[at]))
            for at in first.tolist()
        )

    def _racks(self) -> tuple[Ints, Ints]:
        """(R + 1,) for each rack the number of its feed set, and of its hall if the hall's management network
        is limited.
        """
        power, numbers = self._power, dict[tuple[str, ...], int]()
        halls = {hall.id: row for row, hall in enumerate(power.estate.halls)}
        feeds = [
            numbers.setdefault(rack.feeds, len(numbers)) if rack.feeds else -1 for rack in power.estate.racks
        ]
        managed = [
            halls[rack.hall] if rack.hall and limit_id("bmc", rack.hall) in power.limits.number else -1
            for rack in power.estate.racks
        ]
        return np.array([*feeds, -1], np.int64), np.array([*managed, -1], np.int64)

    def _kind(self, server: int, ready: int, least: int, itself: bool, hand: bool) -> BootKind:
        """A server that comes on by itself holds nothing: its power step does. A manual boot holds what
        people hold.
        """
        power, limits, fleet = self._power, self._power.limits, self._power.estate.fleet
        one = power.estate.classes[fleet.server_class[server]]
        rack = power.estate.racks[fleet.rack[server]] if fleet.rack[server] >= 0 else None
        number = int(fleet.boot_server[server])
        source = power.estate.boot_servers[number] if number >= 0 else None
        feeds, hall = (rack.feeds, rack.hall) if rack is not None else ((), None)
        ticks = limits.ticks(one.boot_ms or 0)
        uses = () if itself else limits.boot(one, feeds, source, None if hand else hall)
        if hand:
            uses += limits.hold("hands")
            ticks = max(ticks, limits.ticks(power.estate.limits.manual_ms.get("boot", 0)))
        return BootKind(f"{one.id}|{'+'.join(feeds)}", ticks, uses, ready, least, itself, hand)

    def left_off(self) -> tuple[LeftOff, ...]:
        """Servers of a restored domain that stay off: in racks without power, or with no known way to
        boot.
        """
        power, estate = self._power, self._power.estate
        unknown = power.rises & self._has_power & ~self._known[estate.fleet.server_class]
        refused = _by_place(power.rack, power.rises & ~self._has_power)
        strange = _by_place(power.site, unknown)
        return (
            *(LeftOff(estate.racks[r].id, power.refused[r], self._names(rows)) for r, rows in refused),
            *(
                LeftOff(estate.sites[s].id, OffReason("no-boot-time"), self._names(rows))
                for s, rows in strange
            ),
        )

    def _names(self, servers: Ints) -> tuple[str, ...]:
        return tuple(self._power.estate.fleet.server_names(servers.astype(np.int32)))


def _by_place(place: Ints, chosen: Bools) -> list[tuple[int, Ints]]:
    """Each place with chosen servers, and their rows, both ascending."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(place[rows], kind="stable")]
    places, first = np.unique(place[rows], return_index=True)
    return list(zip(places.tolist(), np.split(rows, first[1:]), strict=True)) if len(rows) else []


def _alike(columns: list[NDArray[Any]]) -> tuple[Ints, Ints]:
    """Number of each row among the distinct ones, in column order; first row of each number."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        low = int(column.min(initial=0))
        width = int(column.max(initial=0)) - low + 1
        if int(key.max(initial=0)) >= 2**62 // width:
            key = np.unique(key, return_inverse=True)[1].reshape(-1)
        key = key * width + (column.astype(np.int64) - low)
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return number.reshape(-1), first
