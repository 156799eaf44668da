"""Power-on order: in which order feeds are energised, by whom, and when what depends on them is ready.

A feed whose servers stay dark until told to boot is simply closed. Servers that power on by themselves draw
their inrush all at once: if feed, hall, site or rack cannot carry that, the outlets of their racks are opened
first and switched on rack by rack. A rack that trips its feed even alone is refused. The order is fixed here,
equally for planner and checker: the feed first that powers most servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType

from evac.derive.domains import Loss, Topology
from evac.derive.limits import LimitTable, PowerTable
from evac.model.errors import UnknownDomain
from evac.model.fleet import CONDEMNED, SERVING, SPARE, BoolColumn, IndexColumn, IntColumn, np
from evac.model.instance import WHOLE, PowerStep, Use
from evac.model.reason import OffReason
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.step_id import limit_id
from evac.model.units import ticks_up


@dataclass(frozen=True, slots=True, eq=False)
class Energy:
    """power_at: (R + 1,) tick at which each rack has power (the last: servers without a known rack);
    power_least: a lower bound for any order; step_of: (R + 1,) number of the step that powers it, else -1;
    network: (R + 1,) ticks from then until BMCs respond; by_itself: (V,) servers that power on with their
    rack; refused: rack -> why it stays without power.
    """

    steps: tuple[PowerStep, ...]
    power_at: IntColumn
    power_least: IntColumn
    network: IntColumn
    by_itself: BoolColumn
    step_of: IndexColumn
    refused: Mapping[int, OffReason] = field(default_factory=lambda: MappingProxyType({}))


def energise(
    top: Topology,
    lost: Loss,
    scenario: Scenario,
    limits: LimitTable,
    power: PowerTable,
    tick_ms: int,
    unknown: set[str],
) -> Energy:
    """Power steps of a restored domain; nothing to do in any other scenario."""
    racks, servers = len(top.estate.racks), len(top.estate.fleet)
    zero = np.zeros(racks + 1, np.int64)
    lost, on = still_dark(top, lost, scenario)
    if scenario.kind != "restore" or not lost.servers.any():
        return Energy((), zero, zero, zero, np.zeros(servers, np.bool_), np.full(racks + 1, -1, np.int32))
    return _Energising(top, lost, on, limits, power, tick_ms, unknown).run()


def still_dark(top: Topology, lost: Loss, scenario: Scenario) -> tuple[Loss, BoolColumn]:
    """What of a restored domain has no power yet, and (V,) which of its servers were seen on.

    A server that is on shows that its rack has power; it shows that a feed has power only if the rack has no
    other. Raises UnknownDomain for a name that is not a server.
    """
    fleet, racks = top.estate.fleet, top.estate.racks
    on = np.zeros(len(fleet), np.bool_)
    if scenario.kind != "restore" or not scenario.on:
        return lost, on
    names = np.array([name.encode() for name in scenario.on], "S")
    rows = np.minimum(np.searchsorted(fleet.name, names), max(0, len(fleet) - 1))
    strangers = np.flatnonzero(fleet.name[rows] != names) if len(fleet) else np.arange(len(names))
    if len(strangers):
        name = scenario.on[int(strangers[0])]
        raise UnknownDomain(
            "unknown-server", f"'{name[:200]}' is not a server of the estate", "evac observe --power"
        )
    on[rows] = True
    on &= lost.servers & (fleet.state != CONDEMNED)
    lit = np.zeros(len(racks) + 1, np.bool_)
    lit[fleet.rack[on]] = True
    feeds = np.zeros(len(top.estate.feeds), np.bool_)
    feeds[dark_feeds(top, lost)] = True
    only = lit[:-1] & (top.rack_feed_count == 1)
    feeds[top.feed_rows[only[top.feed_racks]]] = False
    return replace(lost, servers=lost.servers & ~on, racks=lost.racks & ~lit[:-1], feeds=feeds), on


def dark_feeds(top: Topology, lost: Loss) -> list[int]:
    """Feeds without power: those that are lost, and those whose racks are all lost."""
    count = len(top.estate.feeds)
    behind = np.bincount(top.feed_rows, minlength=count)
    dark = np.bincount(top.feed_rows[lost.racks[top.feed_racks]], minlength=count)
    found: list[int] = np.flatnonzero((behind > 0) & ((dark == behind) | lost.feeds)).tolist()
    return found


def on_without_boots(
    top: Topology, lost: Loss, seen_on: BoolColumn, scenario: Scenario, energy: Energy
) -> BoolColumn:
    """(V,) servers that are on although no plan boots them, some of them only once their rack has power.

    seen_on: servers of the restored domain that were seen on.
    """
    on = np.isin(top.estate.fleet.state, (SERVING, SPARE))
    if scenario.kind != "failback":
        on = on & ~lost.servers
    return np.asarray(on | energy.by_itself | seen_on, np.bool_)


class _Energising:
    """Closes one feed after the other, and tracks what is then on."""

    def __init__(
        self,
        top: Topology,
        lost: Loss,
        seen_on: BoolColumn,
        limits: LimitTable,
        power: PowerTable,
        tick_ms: int,
        unknown: set[str],
    ) -> None:
        self.top, self.limits, self.power, self.tick_ms = top, limits, power, tick_ms
        self.estate = top.estate
        self.horizon = self.estate.horizon_ms // tick_ms
        self.clock = _Clock(limits, self.horizon)
        fleet, count = self.estate.fleet, len(self.estate.racks)
        self.feeds = dark_feeds(top, lost)
        self.racks_of = {f: top.feed_racks[top.feed_rows == f] for f in self.feeds}
        self.live = np.zeros(count, np.bool_)
        self.live[top.feed_racks[~np.isin(top.feed_rows, self.feeds)]] = True
        self.waiting = lost.racks & ~self.live & (top.rack_feed_count > 0)
        self.by_itself = self._by_itself(lost, unknown)
        rises = lost.servers & (fleet.state != CONDEMNED)
        self.size = self._per_rack(rises.astype(np.int64))[:count]
        self.watts = self._per_rack(np.where(self.by_itself & fleet.watts_known, fleet.watts, 0))
        self._inrush_of_racks()
        on = (np.isin(fleet.state, (SERVING, SPARE)) & ~lost.servers | seen_on) & fleet.watts_known
        index = power.of_servers(fleet.rack, fleet.site)
        self.load = power.sums(index[on], fleet.watts[on])
        self.budget = np.array(power.watts, np.int64)
        self.power_at = np.zeros(count + 1, np.int64)
        self.step_of = np.full(count + 1, -1, np.int32)
        self.steps: list[PowerStep] = []
        self.refused: dict[int, OffReason] = {}
        self.lost = lost
        self.manual = self._manual(unknown)

    def _manual(self, unknown: set[str]) -> int:
        stated = self.estate.limits.manual_ms.get("power")
        by_hand = [f for f in self.feeds if not self._has_circuit(f)]
        if stated is None and by_hand:
            unknown.add("limits/manual/power")
        return self._ticks(stated or 0)

    def _ticks(self, duration_ms: int) -> int:
        """Ticks, at most one above the horizon, which means never."""
        return min(ticks_up(duration_ms, self.tick_ms), self.horizon + 1)

    def _has_circuit(self, feed: int) -> bool:
        name = self.estate.feeds[feed].id
        return any(endpoint.subject == name for endpoint in self.estate.endpoints)

    def _by_itself(self, lost: Loss, unknown: set[str]) -> BoolColumn:
        """(V,) servers that power on with their rack: always, or because they were on before."""
        fleet, classes = self.estate.fleet, self.estate.classes
        powered_anew = np.r_[self.waiting, False]
        here = lost.servers & (fleet.state != CONDEMNED) & powered_anew[fleet.rack]
        policy = np.array([{"on": 2, "last": 1}.get(c.power_on or "", 0) for c in classes] + [0], np.int64)
        for row in np.unique(fleet.server_class[here]).tolist():
            if row >= 0 and classes[row].power_on is None and classes[row].boot_ms is not None:
                unknown.add(f"classes/{classes[row].id}/power_on")
        was_on = np.isin(fleet.state, (SERVING, SPARE))
        mine = policy[fleet.server_class]
        return np.asarray(here & ((mine == 2) | ((mine == 1) & was_on)), np.bool_)

    def _per_rack(self, values: IntColumn) -> IntColumn:
        rack, count = self.estate.fleet.rack, len(self.estate.racks)
        found = np.bincount(np.where(rack >= 0, rack, count), values, count + 1)
        return np.asarray(found[:count], np.int64)

    def _inrush_of_racks(self) -> None:
        """(R,) watts that a rack draws at once, and for how many ticks, where its servers power on."""
        fleet, classes = self.estate.fleet, self.estate.classes
        hold = np.array([self._ticks(c.inrush_ms) for c in classes] + [0], np.int64)
        watts = np.array([c.inrush_watts or 0 for c in classes] + [0], np.int64) * (hold > 0)
        rows = np.flatnonzero(self.by_itself)
        self.inrush = self._per_rack(np.where(self.by_itself, watts[fleet.server_class], 0))
        self.hold = np.zeros(len(self.estate.racks), np.int64)
        np.maximum.at(self.hold, fleet.rack[rows], hold[fleet.server_class[rows]])

    def run(self) -> Energy:
        left = list(self.feeds)
        while left:
            gain = self._gain()
            feed = min(left, key=lambda f: (-gain[f], self.estate.feeds[f].id))
            left.remove(feed)
            self._close(feed)
        for rack in np.flatnonzero(self.waiting).tolist():
            self.refused.setdefault(rack, OffReason("power-late"))
        self._without_feeds()
        return Energy(
            tuple(self.steps),
            self.power_at,
            self._least(),
            self._network(),
            self.by_itself & self._has_power(),
            self.step_of,
            MappingProxyType(self.refused),
        )

    def _gain(self) -> list[float]:
        """(feeds,) number of servers that each would power."""
        racks, feeds = self.top.feed_racks, self.top.feed_rows
        size = np.where(self.waiting, self.size, 0)[racks]
        found: list[float] = np.bincount(feeds, size, len(self.estate.feeds)).tolist()
        return found

    def _new(self, feed: int) -> IndexColumn:
        """Racks that get their power from a feed."""
        racks = self.racks_of[feed]
        return np.asarray(racks[self.waiting[racks]], np.int32)

    def _close(self, feed: int) -> None:
        """Close a whole feed; if it could not carry what powers on, rack by rack."""
        new = self._new(feed)
        rising = new[(self.watts[new] > 0) | (self.inrush[new] > 0)]
        whole = self._breaks(rising) is None
        name = self.estate.feeds[feed].id
        at_once = new if whole else new[~np.isin(new, rising)]
        number = self._step(name, self._has_circuit(feed), self.estate.feeds[feed].close_ms, at_once, ())
        if number is None or whole:
            return
        for rack in rising.tolist():
            alone = np.array([rack], np.int32)
            why = self._breaks(alone)
            if why is not None:
                self.refused[rack] = why
                self.waiting[rack] = False
            else:
                self._step(self.estate.racks[rack].id, False, 0, alone, (number,))

    def _breaks(self, racks: IndexColumn) -> OffReason | None:
        """The budget that these racks exceed when they power on together; None if none is."""
        if not len(racks):
            return None
        load = self.load + self.power.sums(self.power.of_rack[racks], self.watts[racks])
        for number in np.flatnonzero(load > self.budget)[:1].tolist():
            name, limit = self.power.names[number], int(self.budget[number])
            return OffReason("above-power-budget", name, int(load[number]), limit)
        for feed, watts in self._inrush_by_feed(racks).items():
            row = self.limits.index.get(limit_id("inrush", feed))
            if row is not None and watts > self.limits.limits[row].capacity:
                return OffReason("above-inrush-limit", feed, watts, self.limits.limits[row].capacity)
        return None

    def _inrush_by_feed(self, racks: IndexColumn) -> dict[str, int]:
        found: dict[str, int] = {}
        for rack in racks.tolist():
            for feed in self.estate.racks[rack].feeds:
                found[feed] = found.get(feed, 0) + int(self.inrush[rack])
        return {feed: watts for feed, watts in sorted(found.items()) if watts}

    def _step(
        self, target: str, circuit: bool, close_ms: int, racks: IndexColumn, after: tuple[int, ...]
    ) -> int | None:
        """Schedule one step and power its racks; None if it would end after the horizon."""
        length = self._ticks(close_ms) if circuit else self.manual
        uses = () if circuit else self.limits.hands
        hold = int(self.hold[racks].max(initial=0))
        for feed, watts in self._inrush_by_feed(racks).items():
            uses += self.limits.inrush((feed,), watts, length, hold)
        since = max((self.steps[number].end for number in after), default=0)
        start = self.clock.take(uses, length, since)
        if start is None:
            return None
        self.steps.append(PowerStep(target, start, start + length, uses, not circuit, after))
        self.power_at[racks] = start + length
        self.step_of[racks] = len(self.steps) - 1
        self.waiting[racks] = False
        self.load += self.power.sums(self.power.of_rack[racks], self.watts[racks])
        return len(self.steps) - 1

    def _without_feeds(self) -> None:
        """If the feed of a rack is unknown, it has power once all the steps of the site are done."""
        site_of = {feed.id: feed.site for feed in self.estate.feeds}
        site_of |= {rack.id: rack.site for rack in self.estate.racks}
        last: dict[str, int] = {}
        for step in self.steps:
            last[site_of[step.target]] = max(last.get(site_of[step.target], 0), step.end)
        loose = self.lost.racks & (self.top.rack_feed_count == 0)
        for rack in np.flatnonzero(loose).tolist():
            self.power_at[rack] = last.get(self.estate.racks[rack].site, 0)
        self.power_at[-1] = max(last.values(), default=0)

    def _least(self) -> IntColumn:
        """(R + 1,) earliest time when a rack can have power: the quickest of its feeds is closed first."""
        found = np.zeros(len(self.power_at), np.int64)
        length = {
            f: self._ticks(self.estate.feeds[f].close_ms) if self._has_circuit(f) else self.manual
            for f in self.feeds
        }
        dark = self.lost.racks & ~self.live & (self.top.rack_feed_count > 0)
        quickest = np.full(len(self.estate.racks), 2**40, np.int64)
        for feed in self.feeds:
            np.minimum.at(quickest, self.racks_of[feed], length[feed])
        found[:-1] = np.where(dark & (quickest < 2**40), quickest, 0)
        return np.minimum(found, self.power_at)

    def _network(self) -> IntColumn:
        """(R + 1,) ticks from power until the switches and BMCs of a rack respond."""
        up = {hall.id: self._ticks(hall.network_up_ms) for hall in self.estate.halls}
        dark = self.lost.racks & ~self.live
        found = [
            up.get(rack.hall or "", 0) if here else 0
            for rack, here in zip(self.estate.racks, dark.tolist(), strict=True)
        ]
        return np.array([*found, 0], np.int64)

    def _has_power(self) -> BoolColumn:
        """(V,) servers whose rack is not refused power."""
        gone = np.zeros(len(self.estate.racks) + 1, np.bool_)
        gone[list(self.refused)] = True
        return ~gone[self.estate.fleet.rack]


class _Clock:
    """What power steps use of staff and inrush: by limit, changes in order of their tick, each with the tick
    of the next.
    """

    def __init__(self, limits: LimitTable, horizon: int) -> None:
        self.limits, self.horizon = limits, horizon
        self.changes: dict[int, dict[int, int]] = {}
        self.held: dict[int, list[tuple[int, int, int]]] = {}

    def take(self, uses: tuple[Use, ...], length: int, since: int) -> int | None:
        """First tick from `since` on at which everything fits, which is reserved from then on; None:
        never.
        """
        start, tried = since, -1
        while start != tried:
            tried = start
            for use in uses:
                start = max(start, self._pushed(use, length, start))
            if start + length > self.horizon:
                return None
        for use in uses:
            changes = self.changes.setdefault(use.limit, {})
            for tick, units in zip(_window(use, length, start), (use.units, -use.units), strict=True):
                changes[tick] = changes.get(tick, 0) + units
            ticks = sorted(changes)
            self.held[use.limit] = [
                (tick, changes[tick], until)
                for tick, until in zip(ticks, [*ticks[1:], ticks[-1]], strict=True)
            ]
        return start

    def _pushed(self, use: Use, length: int, start: int) -> int:
        """The earliest start of a step that one use allows."""
        capacity = self.limits.limits[use.limit].capacity - use.units
        if capacity < 0:
            return self.horizon + 1
        begin, end = _window(use, length, start)
        found, held = start, 0
        for tick, units, until in self.held.get(use.limit, ()):
            if tick >= end:
                break
            held += units
            if held > capacity and until > begin:
                found = until - use.offset
        return found


def _window(use: Use, length: int, start: int) -> tuple[int, int]:
    begin = start + use.offset
    return begin, begin + (length if use.hold == WHOLE else use.hold)
