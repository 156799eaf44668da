"""What boots and power steps of a plan become in a run: limits of watts, what each holds, how it is reached.

Pure. The budgets are the planner's: what a feed, hall, rack or site carries now, less the margin, less what
is on without the run. A server holds its watts under each of them from its power-on until it is off.

Boots and power steps as a run executes them, made of what the plan says. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from evac.derive.energising import Energy, energise, still_dark
from evac.derive.limits import LimitTable, PowerTable, less_margin, limits_of, power_table, stated_budgets
from evac.drivers import manual
from evac.drivers.capabilities import BootsServers, SwitchesPower
from evac.drivers.port import Action, Value
from evac.drivers.registry import can
from evac.drivers.spec import FENCE
from evac.model.domain import Topology, lost_in
from evac.model.estate import Endpoint, Estate, Rack
from evac.model.fleet import BMC_NO, SERVING, SPARE, IndexColumn
from evac.model.instance import WHOLE, Use
from evac.model.plan import Plan, Step
from evac.model.step_id import LimitId, power_step
from evac.run.values import KEPT, RunLimit, RunStep
from evac.steps.registry import kind_of

HANDS: Final = "hands"
Uses = tuple[tuple[str, int, int], ...]
"""(limit, units, hold_ms), as a run step has them."""


def boot_endpoint(ends: Iterable[Endpoint]) -> Endpoint | None:
    """Of the endpoints of a site, the one by which its servers are booted: the first by id that is no fence,
    for a fence is the controller of one machine.
    """
    boots = (end for end in ends if can(end.driver, BootsServers) and FENCE not in end.settings)
    return min(boots, key=lambda end: end.id, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Boots:
    """What every boot is bound with. rows: server -> its row in the fleet; budgets: (V, 5) numbers of its
    budgets of power; first: limit -> ticks from the start of a boot to the first use of it by any; dark:
    feeds and racks that the plan gives power to.
    """

    estate: Estate
    tick_ms: int
    rows: Mapping[str, int]
    power: PowerTable
    budgets: IndexColumn
    table: LimitTable
    energy: Energy
    first: Mapping[int, int]
    limits: tuple[RunLimit, ...]
    dark: frozenset[str]

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
        """Everything a boot holds: slots and rates as the planner counts them, and watts until it is off."""
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
        """A hold inside the boot lasts, for the run, from its start; where every use of a limit begins later
        than that, all of them are counted earlier by the same time, which changes nothing.
        """
        limit = self.table.limits[use.limit]
        if use.hold == WHOLE:
            return limit.id, use.units, 0
        ticks = use.offset - self.first[use.limit] + use.hold
        return limit.id, use.units, ticks * self.tick_ms

    def parameters(self, server: str) -> dict[str, Value]:
        """What a driver and a person are told of a server."""
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
        """Whether a driver can boot it: a BMC whose address is known, and somebody who may ask it."""
        row = self.rows[server]
        fleet = self.estate.fleet
        return endpoint is not None and fleet.bmc[row] != BMC_NO and bool(bytes(fleet.bmc_address[row]))

    def lag_ms(self, server: str) -> int:
        """From the power until switches and BMCs of a dark rack answer."""
        rack = self.rack(server)
        if rack is None or not self.dark & {rack.id, *rack.feeds}:
            return 0
        row = int(self.estate.fleet.rack[self.rows[server]])
        return int(self.energy.network[row]) * self.tick_ms

    def is_cold(self, server: str) -> bool:
        """Whether only this plan gives it power, and it is known to stay off then."""
        rack, row = self.rack(server), self.rows[server]
        class_row = int(self.estate.fleet.server_class[row])
        if rack is None or class_row < 0 or self.estate.classes[class_row].power_on != "dark":
            return False
        return rack.id in self.dark or (bool(rack.feeds) and self.dark.issuperset(rack.feeds))

    def power_uses(self, step: Step) -> Uses:
        """What giving power holds: the inrush of what comes on by itself lasts beyond the step."""
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
    """None where the plan boots nothing. Raises UnknownDomain."""
    names = [step.target for step in plan.steps if kind_of(step.kind).boots]
    if not names:
        return None
    estate, fleet = top.estate, top.estate.fleet
    found = np.searchsorted(
        fleet.name, np.array([name.encode() for name in names], fleet.name.dtype)
    ).tolist()
    rows = dict(zip(names, found, strict=True))
    power, table = power_table(top, plan.scenario), limits_of(estate, plan.tick_ms)
    lost = lost_in(top, plan.scenario)
    energy = energise(top, lost, plan.scenario, table, power, plan.tick_ms, set())
    on = np.isin(fleet.state, (SERVING, SPARE)) & fleet.watts_known
    if plan.scenario.kind != "failback":
        on = on & ~lost.servers
    _, seen_on = still_dark(top, lost, plan.scenario)
    on = (on | ((energy.by_itself | seen_on) & fleet.watts_known)).astype(np.bool_)
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
    )


def _power_limits(top: Topology, power: PowerTable, beside: Iterable[int]) -> tuple[RunLimit, ...]:
    """Of every budget that is known: what it carries now, less what is on without the run."""
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
    """Limit -> the least offset of a use of it; classes and places that are alike are asked once."""
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
    """Closes the breaker of a feed from afar, where something answers for it."""
    for endpoint in endpoints:
        if can(endpoint.driver, SwitchesPower):
            told = {key: endpoint.settings[key] for key in ("address", "circuit") if key in endpoint.settings}
            return Action(
                "start", step.target, endpoint.driver, endpoint.at, endpoint.settings, MappingProxyType(told)
            )
    return None


def place_words(parameters: Mapping[str, Value]) -> str:
    """Where a server stands, for a person who walks there."""
    named = (("hall", "network"), ("rack", "rack"), ("position", "position"), ("serial", "serial"))
    return ", ".join(f"{word} {parameters[key]}" for word, key in named if parameters.get(key))


def with_power(boots: Boots | None, step: Step, made: RunStep) -> RunStep:
    """A boot with everything it holds and where it hangs; a power step with the inrush that outlasts it."""
    if boots is None or not kind_of(step.kind).powers:
        return made
    beyond_plan = tuple(use for use in made.uses if LimitId.parse(use[0]).kind == "driver")
    if kind_of(step.kind).gives_power:
        return replace(made, uses=(*boots.power_uses(step), *beyond_plan))
    feeds, server = boots.feeds(step.target), step.target
    rack = boots.rack(server)
    fed = [closing for closing in map(power_step, feeds) if closing not in made.after]
    return replace(
        made,
        uses=(*boots.uses(server, made.manual), *beyond_plan),
        after=(*made.after, *fed),
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
    """Of boots that nothing waits for, those that take longest begin first, in the planned starts of all of
    them: the last one to begin is then the quickest to end.
    """
    waited = {name for step in steps if not kind_of(step.kind).powers for name in step.after}
    free = [step for step in steps if kind_of(step.kind).boots and not step.manual and step.id not in waited]
    slots = sorted(step.start_ms for step in free)
    order = sorted(free, key=lambda step: (-step.duration_ms, step.start_ms, step.id))
    start = {step.id: slot for step, slot in zip(order, slots, strict=True)}
    return [replace(step, start_ms=start[step.id]) if step.id in start else step for step in steps]


def in_time(steps: Sequence[RunStep], limits: Sequence[RunLimit], end_ms: int) -> list[RunStep]:
    """Boots that would end too late for all to be on at `end_ms`, however quickly the others go, begin before
    what was planned earlier: a limit has to carry them and all that take as long or longer until then.
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
    """A step for each feed that has power before the run: done at once, and where a person stands at the gate
    if it trips.
    """
    known = {step.id for step in steps}
    feeds = {feed: step.site for step in steps for feed in step.feeds if power_step(feed) not in known}
    for feed, site in sorted(feeds.items()):
        yield (
            RunStep(power_step(feed), "power", feed, 0, 0, site=site),
            Action("start", feed, manual.NOOP.name, site),
        )
