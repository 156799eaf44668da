"""How boots and power steps of a plan are bound to a run: power limits, what each step holds, how each server
is reached.

The budgets are the planner's: what a feed, hall, rack or site can carry now, less the margin and less the
load that is on anyway. A server counts its watts against each of them from power-on until it is off.

The run counts an inrush from the start of its step. The server draws it later: after a look, a queue, the
network and a slow controller, so two starts that were apart may coincide. So this module counts the inrush
again at the request that draws power: from before it is sent until it is answered, and then for the length of
the inrush.

A server of unknown power fits no known budget. Where a budget may carry more than the files state, all
servers that draw from it wait until a person approves: one approval for each site.

A request may go out long after its start was written; a second record says that the controller took it. So a
new leader counts every boot that was begun and has neither a result nor that record: the old leader sent it
before its lease ended, and it may still arrive. The boot counts for that time plus the inrush, or less if the
server is seen on earlier. A server that is off during that time may still have been asked, so its watts stay
counted. One that was switched on a moment ago counts for the rest of its inrush.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from types import MappingProxyType
from typing import Final, NamedTuple

from evac.derive.domains import Topology, lost_in
from evac.derive.energising import Energy, energise, on_without_boots, still_dark
from evac.derive.limits import (
    LimitTable,
    PowerTable,
    less_margin,
    limits_of,
    power_table,
    stated_budgets,
)
from evac.drivers import manual
from evac.drivers.capabilities import BootsServers, SwitchesPower
from evac.drivers.port import Action, Value
from evac.drivers.registry import can
from evac.drivers.spec import FENCE
from evac.engine.boots.loads import UnsureLoads, unsure_loads
from evac.model.errors import Retryable
from evac.model.estate import Endpoint, Estate, Rack
from evac.model.fleet import BMC_NO, IndexColumn, np
from evac.model.instance import WHOLE, Use
from evac.model.plan import Plan, Step
from evac.model.records import dataclass
from evac.model.step_id import LimitId, StepId, power_step
from evac.run.boots.events import ARRIVES_MS, MAYBE_SENT
from evac.run.patience import LATE
from evac.run.values import KEPT, RunLimit, RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of

SLACK_S: Final = 0.01
"""Tolerance for clocks and timers."""
UNSURE_S: Final = 30.0
"""How long an unanswered request may still be on its way."""
TURN_S: Final = 10.0
"""How much longer than its inrush a boot waits for its turn before it starts again with its full time."""
LOOK_S: Final = 0.1
"""How often to check whether a request was answered while some are on their way."""


class Before(NamedTuple):
    """A boot of an earlier leader."""

    step: RunStep
    on_for_ms: int = -ARRIVES_MS
    """How long ago its controller took the request at the latest. Negative: how much longer the request may
    still arrive, if it was ever sent.
    """


_Held = list[float]
"""When it ends, a sequence number that breaks ties, and units (0 once no longer counted)."""
_Uses = Sequence[tuple[str, int, int]]


class NoTurn(Retryable):
    """Its turn did not come in time; nothing was sent."""


class PowerGate:
    """capacity: of a limit, now. before: boots that an earlier leader sent, or may have sent, a moment ago.
    check: raises unless this process may still act, because a turn may come long after it was requested.
    First come, first served within a set of feeds.
    """

    def __init__(
        self,
        capacity: Callable[[str], int],
        before: Iterable[Before] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._capacity, self._check = capacity, check
        self._before = list(before)
        self._arrives: dict[str, float] = {}
        self._held: dict[str, list[_Held]] = {}
        self._sums: dict[str, int] = {}
        self._unsure: dict[str, list[tuple[str, _Held]]] = {}
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, step: RunStep) -> AsyncIterator[None]:
        """Waits until the inrush of the step fits, and counts it until it has certainly ended."""
        self._take_over()
        uses = _inrush_of(step)
        if not uses:
            yield
            return
        await self._enter(step.id, uses)
        unsure_s = UNSURE_S  # a request without an answer may still arrive
        try:
            self._check()
            yield
            unsure_s = 0.0
        finally:
            for name, units, _ in uses:
                self._sums[name] -= units
            held = self._over_after(uses, unsure_s)
            if unsure_s:
                self._unsure[step.id] = held

    def seen_on(self, step: RunStep) -> None:
        """Its server is on, so an inrush whose time was uncertain has begun by now. This never extends the
        count: if the request can only have arrived up to a moment ago, the inrush began by then.
        """
        self._take_over()
        unsure = self._unsure.get(step.id)
        if unsure is None:
            return
        ends, now = {name: held[0] for name, held in unsure}, asyncio.get_running_loop().time()
        if all(now + hold / 1_000 + SLACK_S < ends.get(name, 0.0) for name, _, hold in _inrush_of(step)):
            self._forget(step.id)
            self._over_after(_inrush_of(step), 0.0)
        else:
            del self._unsure[step.id]

    def may_arrive(self, step: RunStep) -> bool:
        """Whether a request of an earlier leader may still switch its server on. If so, a server that is off
        proves nothing yet and its watts stay counted.
        """
        self._take_over()
        return asyncio.get_running_loop().time() < self._arrives.get(step.id, 0.0)

    def _take_over(self) -> None:
        for step, on_for_ms in self._before:
            left = [use for use in _inrush_of(step) if use[2] > on_for_ms]
            held = self._over_after(left, -on_for_ms / 1_000)
            if on_for_ms < 0:
                self._unsure[step.id] = held
                self._arrives[step.id] = asyncio.get_running_loop().time() - on_for_ms / 1_000
        self._before.clear()

    async def _enter(self, id: str, uses: _Uses) -> None:
        """Requests capacity. A server has one inrush, whichever of two requests reaches it: once it is
        requested again, the uncertain one is no longer counted. Raises `NoTurn`.
        """
        if id not in self._unsure or self._lacks_s(id, uses) > 0:
            await self._queue(id, uses)
        self._forget(id)
        for name, units, _ in uses:
            self._sums[name] = self._sums.get(name, 0) + units

    async def _queue(self, id: str, uses: _Uses) -> None:
        lock = self._turns.setdefault(tuple(name for name, _, _ in uses), asyncio.Lock())
        most_s = TURN_S + max(hold for _, _, hold in uses) / 1_000
        try:
            async with asyncio.timeout(most_s), lock:
                while (wait_s := self._lacks_s(id, uses)) > 0:
                    await asyncio.sleep(wait_s)
        except TimeoutError as error:
            raise NoTurn(LATE, f"its feeds could not take its inrush for {most_s:.0f} s") from error

    def _lacks_s(self, id: str, uses: _Uses) -> float:
        return max(self._wait_s(id, name, units) for name, units, _ in uses)

    def _own(self, id: str, name: str) -> int:
        return int(sum(held[2] for limit, held in self._unsure.get(id, ()) if limit == name))

    def _forget(self, id: str) -> None:
        for name, held in self._unsure.pop(id, ()):
            self._sums[name] -= int(held[2])
            held[2] = 0

    def _over_after(self, uses: _Uses, more_s: float) -> list[tuple[str, _Held]]:
        """Keeps the count until the inrush that has begun by now, or `more_s` later, ends."""
        now, found = asyncio.get_running_loop().time(), []
        for name, units, hold in uses:
            held: _Held = [now + hold / 1_000 + SLACK_S + more_s, next(self._numbers), units]
            heappush(self._held.setdefault(name, []), held)
            self._sums[name] = self._sums.get(name, 0) + units
            found.append((name, held))
        return found

    def _wait_s(self, id: str, name: str, units: int) -> float:
        """Estimated seconds until a limit may have capacity for one more."""
        now, held = asyncio.get_running_loop().time(), self._held.get(name)
        while held and held[0][0] <= now:
            over = heappop(held)
            self._sums[name] -= int(over[2])
            over[2] = 0
        others = self._sums.get(name, 0) - self._own(id, name)
        if others <= 0 or others + units <= self._capacity(name):
            return 0.0
        return min(LOOK_S, max(held[0][0] - now, 0.001)) if held else LOOK_S


def _inrush_of(step: RunStep) -> list[tuple[str, int, int]]:
    return [use for use in step.uses if use[2] > 0 and LimitId.parse(use[0]).is_inrush]


def sent_before(view: RunView) -> list[Before]:
    """Boots that an earlier leader requested, or may have, from the state that the new leader takes over."""
    return [
        Before(view.steps[i], view.last_ms - at_ms)
        for i, at_ms in sorted(view.boots.inrush_ms.items())
        if view.phases[i] in MAYBE_SENT
    ]


HANDS: Final = "hands"
Uses = tuple[tuple[str, int, int], ...]
"""(limit, units, hold_ms), as a run step has them."""


def boot_endpoint(ends: Iterable[Endpoint]) -> Endpoint | None:
    """The endpoint that boots the servers of a site: the first by id that is no fence, because a fence
    controls a single machine.
    """
    boots = (end for end in ends if can(end.driver, BootsServers) and FENCE not in end.settings)
    return min(boots, key=lambda end: end.id, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Boots:
    """Context for binding every boot."""

    estate: Estate
    tick_ms: int
    rows: Mapping[str, int]
    """Server -> its row in the fleet."""
    power: PowerTable
    budgets: IndexColumn
    """(V, 5): its power budgets by number."""
    table: LimitTable
    energy: Energy
    first: Mapping[int, int]
    """Limit -> ticks from the start of a boot to the earliest use of the limit by any boot."""
    limits: tuple[RunLimit, ...]
    dark: frozenset[str]
    """Feeds and racks that the plan gives power to."""
    loads: UnsureLoads

    def rack(self, server: str) -> Rack | None:
        row = int(self.estate.fleet.rack[self.rows[server]])
        return self.estate.racks[row] if row >= 0 else None

    def feeds(self, server: str) -> tuple[str, ...]:
        rack = self.rack(server)
        return () if rack is None else rack.feeds

    def boot_server(self, server: str) -> str:
        row = int(self.estate.fleet.boot_server[self.rows[server]])
        return self.estate.boot_servers[row].id if row >= 0 else ""

    def uses(self, server: str, by_hand: bool) -> Uses:
        """Everything a boot holds: slots and rates as the planner counts them, and watts until the server is
        off.
        """
        found = [self._use(use) for use in _uses_of(self.estate, self.table, self.rows[server])]
        row = self.rows[server]
        watts = int(self.estate.fleet.watts[row])
        if watts > 0 and not self.energy.by_itself[row]:
            budgets = dict.fromkeys(number for number in self.budgets[row].tolist() if number >= 0)
            found += [(str(LimitId("power", self.power.names[number])), watts, KEPT) for number in budgets]
        if by_hand and HANDS in self.table.index:
            found.append((HANDS, 1, 0))
        return tuple(found)

    def _use(self, use: Use) -> tuple[str, int, int]:
        """In a run, a hold inside the boot counts from the boot's start. Where every use of a limit begins
        later, all are counted earlier by the same time, which changes nothing.
        """
        limit = self.table.limits[use.limit]
        if use.hold == WHOLE:
            return limit.id, use.units, 0
        ticks = use.offset - self.first[use.limit] + use.hold
        return limit.id, use.units, ticks * self.tick_ms

    def parameters(self, server: str) -> dict[str, Value]:
        """Parameters of a server for a driver or an operator."""
        row, rack = self.rows[server], self.rack(server)
        address, serial, position = self.estate.fleet.bmc_of(row)
        class_row = int(self.estate.fleet.server_class[row])
        boot_ms = self.estate.classes[class_row].boot_ms if class_row >= 0 else None
        return {
            "server": server,
            "address": address,
            "serial": serial,
            "position": position,
            "network": (rack.hall or "") if rack is not None else "",
            "rack": rack.id if rack is not None else "",
            "boot_ms": boot_ms or 0,
        }

    def reached_by(self, server: str, endpoint: Endpoint | None) -> bool:
        """Whether a driver can boot it: it has a BMC with a known address and an endpoint that may ask it."""
        row = self.rows[server]
        fleet = self.estate.fleet
        return endpoint is not None and fleet.bmc[row] != BMC_NO and bool(bytes(fleet.bmc_address[row]))

    def lag_ms(self, server: str) -> int:
        """Milliseconds from power-on until the switches and BMCs of a dark rack answer."""
        rack = self.rack(server)
        if rack is None or not self.dark & {rack.id, *rack.feeds}:
            return 0
        row = int(self.estate.fleet.rack[self.rows[server]])
        return int(self.energy.network[row]) * self.tick_ms

    def is_cold(self, server: str) -> bool:
        """Whether only this plan powers it, and it is known to stay off when power returns."""
        rack, row = self.rack(server), self.rows[server]
        class_row = int(self.estate.fleet.server_class[row])
        if rack is None or class_row < 0 or self.estate.classes[class_row].power_on != "dark":
            return False
        return rack.id in self.dark or (bool(rack.feeds) and self.dark.issuperset(rack.feeds))

    def power_uses(self, step: Step) -> Uses:
        """What restoring power holds: the inrush of servers that start by themselves outlasts the step."""
        planned = next((one for one in self.energy.steps if one.target == step.target), None)
        holds = {} if planned is None else {self.table.limits[u.limit].id: u.hold for u in planned.uses}
        length = step.end_ms - step.start_ms
        return tuple(
            (
                limit,
                units,
                0
                if step.manual or holds.get(limit, WHOLE) == WHOLE
                else length + holds[limit] * self.tick_ms,
            )
            for limit, units in step.uses
        )


def boots_of(top: Topology, plan: Plan) -> Boots | None:
    """None if the plan switches nothing on. Raises UnknownDomain."""
    if not any(kind_of(step.kind).powers for step in plan.steps):
        return None
    names = [step.target for step in plan.steps if kind_of(step.kind).boots]
    estate, fleet = top.estate, top.estate.fleet
    found = np.searchsorted(
        fleet.name, np.array([name.encode() for name in names], fleet.name.dtype)
    ).tolist()
    rows = dict(zip(names, found, strict=True))
    power, table = power_table(top, plan.scenario), limits_of(estate, plan.tick_ms)
    lost = lost_in(top, plan.scenario)
    energy = energise(top, lost, plan.scenario, table, power, plan.tick_ms, set())
    _, seen_on = still_dark(top, lost, plan.scenario)
    lit = on_without_boots(top, lost, seen_on, plan.scenario, energy)
    on = lit & fleet.watts_known
    budgets = power.of_servers(fleet.rack, fleet.site)
    beside = power.sums(budgets[on], fleet.watts[on]).tolist()
    return Boots(
        estate,
        plan.tick_ms,
        MappingProxyType(rows),
        power,
        budgets,
        table,
        energy,
        MappingProxyType(_first_offsets(estate, table, found)),
        _power_limits(top, power, beside),
        frozenset(step.target for step in plan.steps if kind_of(step.kind).gives_power),
        unsure_loads(top, power, lit, energy, np.array(found, np.int32)),
    )


def _power_limits(top: Topology, power: PowerTable, beside: Iterable[int]) -> tuple[RunLimit, ...]:
    """For every known budget: what it carries now, less the load that is on without the run."""
    stated, margin = stated_budgets(top), top.estate.limits.power_margin_permille
    return tuple(
        RunLimit(
            str(LimitId("power", name)),
            "slots",
            max(0, watts - on),
            whole=less_margin(stated.get(name, watts), margin),
            beside=on,
        )
        for name, watts, on in zip(power.names, power.watts, beside, strict=True)
    )


def _uses_of(estate: Estate, table: LimitTable, row: int) -> tuple[Use, ...]:
    fleet = estate.fleet
    class_row, rack_row, boot_row = (
        int(column[row]) for column in (fleet.server_class, fleet.rack, fleet.boot_server)
    )
    if class_row < 0:
        return ()
    rack = estate.racks[rack_row] if rack_row >= 0 else None
    boot = estate.boot_servers[boot_row].id if boot_row >= 0 else None
    feeds, hall = ((), None) if rack is None else (rack.feeds, rack.hall)
    if fleet.bmc[row] == BMC_NO:
        hall = None
    return table.boot(estate.classes[class_row], feeds, boot, hall)


def _first_offsets(estate: Estate, table: LimitTable, rows: Iterable[int]) -> dict[int, int]:
    """Limit -> the smallest offset of a use of it; identical classes and places are computed once."""
    fleet = estate.fleet
    columns = (fleet.server_class, fleet.rack, fleet.boot_server)
    chosen = np.array(sorted(set(rows)), np.int64)
    _, one_each = np.unique(
        np.stack([column[chosen] for column in columns], axis=1), axis=0, return_index=True
    )
    first: dict[int, int] = {}
    for row in chosen[one_each].tolist():
        for use in _uses_of(estate, table, row):
            first[use.limit] = min(first.get(use.limit, use.offset), use.offset)
    return first


def circuit_action(endpoints: Iterable[Endpoint], step: Step) -> Action | None:
    """Closes the breaker of a feed remotely, if an endpoint can."""
    for endpoint in endpoints:
        if can(endpoint.driver, SwitchesPower):
            told = {key: endpoint.settings[key] for key in ("address", "circuit") if key in endpoint.settings}
            return Action(
                "start", step.target, endpoint.driver, endpoint.at, endpoint.settings, MappingProxyType(told)
            )
    return None


def place_words(parameters: Mapping[str, Value]) -> str:
    """Where a server is, for a person who walks there."""
    named = (("hall", "network"), ("rack", "rack"), ("position", "position"), ("serial", "serial"))
    return ", ".join(f"{word} {parameters[key]}" for word, key in named if parameters.get(key))


def with_power(boots: Boots | None, step: Step, made: RunStep) -> RunStep:
    """A boot with everything it holds and its feeds; a power step with the inrush that outlasts it."""
    if boots is None or not kind_of(step.kind).powers:
        return made
    beyond_plan = tuple(use for use in made.uses if LimitId.parse(use[0]).kind == "driver")
    if kind_of(step.kind).gives_power:
        after = (*made.after, *boots.loads.of_supply(step.target))
        return replace(made, uses=(*boots.power_uses(step), *beyond_plan), after=after)
    feeds, server = boots.feeds(step.target), step.target
    rack = boots.rack(server)
    fed = [closing for closing in map(power_step, feeds) if closing not in made.after]
    return replace(
        made,
        uses=(*boots.uses(server, made.manual), *beyond_plan),
        after=(*made.after, *fed, *boots.loads.of_server(boots.estate, boots.rows[server])),
        feeds=feeds,
        rack="" if rack is None else rack.id,
        boot_server=boots.boot_server(server),
        lag_ms=boots.lag_ms(server),
        site=made.site or server_site(boots, server),
        cold=boots.is_cold(server),
    )


def server_site(boots: Boots, server: str) -> str:
    row = int(boots.estate.fleet.site[boots.rows[server]])
    return boots.estate.sites[row].id if row >= 0 else ""


def longest_first(steps: Sequence[RunStep]) -> list[RunStep]:
    """Reorders boots that nothing waits for so that the longest begin first, within their planned starts: the
    last one to begin is then the shortest.
    """
    waited = {name for step in steps if not kind_of(step.kind).powers for name in step.after}
    free = [step for step in steps if kind_of(step.kind).boots and not step.manual and step.id not in waited]
    slots = sorted(step.start_ms for step in free)
    order = sorted(free, key=lambda step: (-step.duration_ms, step.start_ms, step.id))
    start = {step.id: slot for step, slot in zip(order, slots, strict=True)}
    return [replace(step, start_ms=start[step.id]) if step.id in start else step for step in steps]


def in_time(steps: Sequence[RunStep], limits: Sequence[RunLimit], end_ms: int) -> list[RunStep]:
    """Moves boots forward that would otherwise end after `end_ms`, however fast the others run: a limit must
    carry them and all boots that take as long or longer.
    """
    capacity = {limit.id: max(1, limit.capacity) for limit in limits if limit.kind == "slots"}
    boots = sorted(
        (step for step in steps if kind_of(step.kind).boots and not step.manual),
        key=lambda step: (-step.duration_ms, step.start_ms, step.id),
    )
    work: dict[str, int] = {}
    latest: dict[tuple[str, int], int] = {}
    for step in boots:
        for name, units, hold in step.uses:
            if name in capacity and hold >= 0:
                work[name] = work.get(name, 0) + units * (hold or step.duration_ms)
                carried_ms = work[name] // capacity[name]
                needs_ms = step.duration_ms + carried_ms if hold else max(step.duration_ms, carried_ms)
                latest[name, step.duration_ms] = end_ms - needs_ms
    start = {
        step.id: min(
            (latest[name, step.duration_ms] for name, _, hold in step.uses if name in capacity and hold >= 0),
            default=step.start_ms,
        )
        for step in boots
    }
    return [
        replace(step, start_ms=max(0, min(step.start_ms, start[step.id]))) if step.id in start else step
        for step in steps
    ]


def fed_already(steps: Sequence[RunStep]) -> Iterator[tuple[RunStep, Action]]:
    """A step for each feed that has power before the run. It is done at once; if the feed trips, a person is
    asked.
    """
    known = {step.id for step in steps}
    feeds = {feed: step.site for step in steps for feed in step.feeds if power_step(feed) not in known}
    for feed, site in sorted(feeds.items()):
        yield (
            RunStep(StepId("power", feed), "power", feed, 0, 0, site=site),
            Action("start", feed, manual.NOOP.name, site),
        )
