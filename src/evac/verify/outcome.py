"""What is restored, shed and left out, and what it costs: rules F1, F11, F16 to F19."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance, Use
from evac.model.plan import Outcome
from evac.model.records import dataclass
from evac.model.step_id import MOVED
from evac.model.units import RESOURCE_WORDS, UNBOUNDED
from evac.verify.capacity import NEVER, Displaced, EndState, FinalPlacement, Ready, free_capacity, holdings
from evac.verify.doubt import in_doubt
from evac.verify.order import dependencies_ready, last_start
from evac.verify.reading import Milestones, Reading, Timed, outages

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_counts(reading: Reading, times: Milestones) -> None:
    """F11: a base or top that holds has all its starts; nothing is started in vain."""
    s, horizon = reading.instance.services, reading.instance.horizon
    for service in range(len(s)):
        wanted = {"base": s.base_starts(service), "top": s.top_starts(service)}
        holds = {"base": times.base_at[service] < horizon, "top": times.top_at[service] < horizon}
        for milestone, count in wanted.items():
            lost = s.base_lost[service] if milestone == "base" else s.top_lost[service]
            done = sum(t.step.count for t in reading.starts.get((service, milestone), []))
            if lost and holds[milestone] and done < count:
                reading.complain("F11", s.id[service], f"{milestone} has {done} of {count} starts it needs")
            if done > count:
                reading.complain("F11", s.id[service], f"{milestone} has {done} starts and needs {count}")
        _check_moved(reading, times, service)
        if s.blocked[service] and holds["base"]:
            reading.complain("F12", s.id[service], "needs something that never comes back")


def _check_moved(reading: Reading, times: Milestones, service: int) -> None:
    """F11: what starts again elsewhere was shed, runs at a site where the service ran, and restores
    something.
    """
    instance, s = reading.instance, reading.instance.services
    steps = reading.starts.get((service, MOVED), [])
    if not steps:
        return
    done = sum(timed.step.count for timed in steps)
    shed = sum(timed.step.count for timed in reading.sheds.get(service, ()))
    spare = int(s.surviving[service] - s.m[service])
    needed = shed if shed <= spare else shed - spare
    if s.base_lost[service] or not needed <= done <= shed:
        words = f"restarts {done} of {shed} shed replicas, which restores nothing"
        reading.complain("F11", s.id[service], words)
    home = set(instance.rows.site[instance.present.row[instance.present.service == service]].tolist()) - {-1}
    for timed in steps:
        if any(int(instance.rows.site[row]) not in home for row, _ in timed.rows):
            reading.complain("F10", timed.step.id, "starts again at a site that its users are not sent to")


def check_sheds(reading: Reading, times: Milestones, final: FinalPlacement) -> None:
    """F16 and F18: only sheddable replicas are shed, only as needed, and nothing that others depend on."""
    instance, s = reading.instance, reading.instance.services
    if not reading.sheds:
        return
    free = free_capacity(instance, final, reading)
    started_on = _started_services(reading, final)
    for service, steps in sorted(reading.sheds.items()):
        name = s.id[service]
        if s.movable[service]:
            _check_moves(reading, service, steps)
        elif not s.sheddable[service]:
            reading.complain("F16", name, "is shed, but the policy does not allow it")
        since = instance.horizon if s.base_lost[service] else times.base_since[service]
        if min(times.base_gone[service], since) < instance.horizon:
            _check_dependents(reading, times, service)
        for timed in steps:
            for row, _ in timed.rows:
                if (s.demand[service] <= free[row]).all():
                    reading.complain("F16", name, f"could have stayed on {instance.row_names[row]}")
            helped = {s.id[other] for row, _ in timed.rows for other in started_on.get(row, ())}
            higher = {other for other in helped if s.tier[s.id.index(other)] < s.tier[service]}
            if not timed.step.for_services or not set(timed.step.for_services) <= higher:
                reading.complain(
                    "F16", timed.step.id, "does not name the higher-tier starts that it frees capacity for"
                )


def _check_moves(reading: Reading, service: int, steps: Sequence[Timed]) -> None:
    """F16: what may move but not be shed stops only once as many replicas are verified elsewhere, and its
    stops say that they wait for that.
    """
    name, verify = reading.instance.services.id[service], reading.verifies.get((service, MOVED))
    started = sum(timed.step.count for timed in reading.starts.get((service, MOVED), ()))
    stopped = sum(timed.step.count for timed in steps)
    if verify is None or started != stopped:
        words = f"stops {stopped} replicas, but {started if verify else 0} are verified elsewhere"
        reading.complain("F16", name, words)
        return
    for timed in steps:
        if timed.start < verify.end or verify.step.id not in timed.step.after:
            reading.complain("F16", timed.step.id, "does not wait until its replacement is verified")


def _started_services(reading: Reading, final: FinalPlacement) -> dict[int, list[int]]:
    """Services started on each row that loses replicas to a shed."""
    found: dict[int, list[int]] = {}
    shed = {row for steps in reading.sheds.values() for timed in steps for row, _ in timed.rows}
    new = (final.started > 0) & np.isin(final.row, np.fromiter(shed, np.int64))
    for service, row in zip(final.service[new].tolist(), final.row[new].tolist(), strict=True):
        found.setdefault(row, []).append(service)
    return found


def _check_dependents(reading: Reading, times: Milestones, service: int) -> None:
    s, horizon = reading.instance.services, reading.instance.horizon
    for other in range(len(s)):
        if service in s.hard[other] and times.base_at[other] < horizon and times.base_gone[other] >= horizon:
            reading.complain("F18", s.id[service], f"is shed while {s.id[other]} needs it")


def check_tiers(reading: Reading, times: Milestones, final: FinalPlacement) -> None:
    """F17: nothing stays below base for lack of capacity that strictly lower tiers hold.

    Read as: if a lower tier that neither it nor any live service needs keeps or gets anything the service
    could use, then the missing replicas would not fit even without all of that (what the plan started, and
    what may be shed); or time is short: alongside all other steps, and after any required shed, they could
    not be back before the horizon. A survivor that was shed is judged only if it does not fit at the end:
    moving it elsewhere is not required.
    """
    s, horizon = reading.instance.services, reading.instance.horizon
    waiting = [
        i
        for i in range(len(s))
        if (s.base_lost[i] and times.base_at[i] >= horizon) or times.base_gone[i] < horizon
    ]
    if not waiting:
        return
    end_state = EndState(reading, final)
    unneeded = _may_leave(reading, times)
    nobody = np.zeros(len(s), np.bool_)
    sheddable = s.sheddable & _sheds_can_be(reading, times)
    for service in waiting:
        missing = int(s.m[service]) - end_state.standing(service)
        if missing <= 0 or not _could_run(reading, times, service):
            continue
        displaced = Displaced(end_state, unneeded & ~_needed_by(reading, service), sheddable, service)
        if not displaced.anything():
            continue
        if (
            times.base_gone[service] < horizon
            and Displaced(end_state, nobody, sheddable, service).capacity()[0] >= missing
        ):
            continue
        most, ready = displaced.capacity()
        if most >= missing and time_left(reading, times, service, missing, ready):
            reading.complain("F17", s.id[service], "has no capacity, but lower tiers hold enough")


def _could_run(reading: Reading, times: Milestones, service: int) -> bool:
    """Whether everything it needs is there; otherwise capacity is not what keeps it down."""
    s, horizon = reading.instance.services, reading.instance.horizon
    if s.blocked[service]:
        return False
    group = times.members[int(s.component[service])]
    needs = {other for member in group for other in s.hard[member]} - {service}
    return all(times.base_at[o] < horizon and times.base_gone[o] >= horizon for o in needs)


def _may_leave(reading: Reading, times: Milestones) -> NDArray[np.bool_]:
    """(S,) services that no live service hard-depends on; what may move but not be shed stays."""
    s, horizon = reading.instance.services, reading.instance.horizon
    may = ~s.movable
    for other in range(len(s)):
        if times.base_at[other] < horizon and times.base_gone[other] >= horizon:
            may[list(s.hard[other])] = False
    return may


def _sheds_can_be(reading: Reading, times: Milestones) -> bool:
    """Whether anything can be shed: not if the tools for it are lost and people have no way."""
    need, horizon = reading.instance.tools.get("shed"), reading.instance.horizon
    if need is None or need.manual is not None:
        return True
    return all(times.base_at[tool] < horizon for tool in need.services)


def _needed_by(reading: Reading, service: int) -> NDArray[np.bool_]:
    """(S,) services that one waits for, directly or not: by hard dependencies, and by tools without a manual
    way that restore it or its stores.
    """
    s = reading.instance.services
    found, queue = np.zeros(len(s), np.bool_), [service]
    while queue:
        at = queue.pop()
        for other in (*s.hard[at], *(_tools_of(reading, at) if s.base_lost[at] else ())):
            if not found[other]:
                found[other] = True
                queue.append(other)
    return found


def _tools_of(reading: Reading, service: int) -> list[int]:
    """Tools without a manual way, for steps that restore a base on servers that are on."""
    s, tools = reading.instance.services, reading.instance.tools
    if service in s.alone:
        return []
    kinds = [
        "verify",
        *(("start",) if s.base_starts(service) else ()),
        *(("shift",) if s.shift[service] else ()),
    ]
    moved = any(not reading.instance.stores[store].elects for store in s.lost_stores[service])
    kinds += ["fence", "promote"] if moved else []
    needs = [tools[kind] for kind in tools if kind in kinds]
    return [tool for need in needs if need.manual is None for tool in need.services]


def check_reasons(reading: Reading, times: Milestones) -> None:
    """F1: if a plan says that no capacity is left for a service, no plan has any; and the missing amount it
    states for that service and others is right.
    """
    rows = {name: row for row, name in enumerate(reading.instance.services.id)}
    for outcome in reading.plan.outcomes:
        service, why = rows.get(outcome.service), outcome.why
        if service is None or why is None:
            continue
        if why.kind == "no-capacity" and _may_fit(reading.instance, service, bool(why.supply)):
            reading.complain("F1", outcome.service, "may have capacity, but the plan says none is left")
        if (why.resource or why.missing) and _missing(reading, times, service, why.resource) != why.missing:
            reading.complain(
                "F1", outcome.service, "the plan states the wrong amount of missing capacity for it"
            )


def _missing(reading: Reading, times: Milestones, service: int, resource: str) -> int:
    """How much of a resource is missing for a service and all that serves of its tier and above, on the
    servers that they may use, after stopping all that may be stopped; -1 for an invalid or unknown resource.
    """
    s, rows, instance = reading.instance.services, reading.instance.rows, reading.instance
    if resource not in RESOURCE_WORDS or instance.vague:
        return -1
    column, own = RESOURCE_WORDS.index(resource), set(np.flatnonzero(instance.eligible[service]).tolist())
    there = [
        int(rows.capacity[row, column])
        if rows.pool[row] in own and (not rows.dark[row] or rows.boot_kind[row] >= 0)
        else 0
        for row in range(len(rows))
    ]
    present = instance.present
    for other, row, count in zip(present.service, present.row, present.count, strict=True):
        if not s.loose[other]:
            there[row] = max(0, there[row] - int(s.demand[other, column]) * int(count))
    wanted = sum(
        s.base_starts(other) * int(s.demand[other, column])
        for other in range(len(s))
        if other == service
        or (
            s.base_lost[other]
            and times.base_at[other] < instance.horizon
            and s.tier[other] <= s.tier[service]
            and own.issuperset(np.flatnonzero(instance.eligible[other]).tolist())
        )
    )
    return wanted - sum(there)


def _without_power(instance: Instance, most: dict[int, int]) -> set[int]:
    """Dark rows that the supply with the least left of each cannot carry next to rows with more capacity.
    most: replicas of a service by row.
    """
    rows, left = instance.rows, [max(0, supply.watts - supply.on_watts) for supply in instance.power]
    by_supply: dict[int, list[int]] = {}
    for row in most:
        mine = [supply for supply in rows.power[row].tolist() if supply >= 0]
        if rows.dark[row] and rows.watts[row] > 0 and mine:
            by_supply.setdefault(min(mine, key=left.__getitem__), []).append(row)
    off = set[int]()
    for supply, there in by_supply.items():
        ordered = sorted(
            (row for row in there if rows.watts[row] <= left[supply]), key=lambda row: -most[row]
        )
        count = left[supply] // min(int(rows.watts[row]) for row in there)
        off |= set(there).difference(ordered[:count])
    return off


def _may_fit(instance: Instance, service: int, by_power: bool) -> bool:
    """Whether the missing replicas may fit once everything is shed that a plan placing the service may shed,
    within the caps of racks and sites, and of feed groups and sites. by_power: on servers that there is
    power for.
    """
    s, rows, present = instance.services, instance.rows, instance.present
    chain = {service}
    while more := {other for member in chain for other in s.hard[member]} - chain:
        chain |= more
    capacity = rows.capacity.copy()
    own = np.zeros(len(rows), np.int64)
    for victim, row, count in zip(present.service, present.row, present.count, strict=True):
        if victim == service:
            own[row] += count
        tight = s.sheddable[victim] and victim in chain and s.surviving[victim] <= s.m[victim]
        if tight or not s.loose[victim]:
            capacity[row] -= count * s.demand[victim]
    missing = int(s.m[service] - s.surviving[service])
    each: dict[int, int] = {}
    for row in range(len(rows)):
        if (rows.dark[row] and rows.boot_kind[row] < 0) or not instance.eligible[service, rows.pool[row]]:
            continue
        pool = bool(rows.is_pool[row])
        most = UNBOUNDED if pool else max(0, int(s.per_server[service] - own[row]))
        for amount, free in zip(s.demand[service].tolist(), capacity[row].tolist(), strict=True):
            most = min(most, max(0, free) // amount) if amount else most
        each[row] = min(most, missing)
    fits: dict[tuple[int, int, int], int] = {}  # (site, rack, group of feeds) of rows; a pool has neither
    off = _without_power(instance, {row: most for row, most in each.items() if most}) if by_power else set()
    for row in each.keys() - off:
        inside = (-1, -1) if rows.is_pool[row] else (int(rows.rack[row]), int(rows.feed_group[row]))
        place = (int(rows.site[row]), *inside)
        fits[place] = fits.get(place, 0) + each[row]
    for level, column, cap in ((1, rows.rack, s.rack_cap), (2, rows.feed_group, s.feed_cap)):
        cells: dict[tuple[int, int], int] = {}
        for place, most in fits.items():
            cell = (place[0], place[level])
            cells[cell] = cells.get(cell, 0) + most
        total = 0
        for site in {site for site, _ in cells}:
            there = sum(
                most
                if of < 0
                else min(most, max(0, int(cap[service] - own[(column == of) & ~rows.is_pool].sum())))
                for (at, of), most in cells.items()
                if at == site
            )
            total += min(there, max(0, int(s.site_cap[service] - own[rows.site == site].sum())))
        if total < missing:
            return False
    return True


def check_outcomes(reading: Reading, times: Milestones) -> int:
    """F1 and F19: every affected service once, its times and outages as the steps give; returns Z."""
    s, plan, tick = reading.instance.services, reading.plan, reading.instance.tick_ms
    base, top = outages(reading, times)
    doubt = in_doubt(reading)
    said = {o.service: o for o in plan.outcomes}
    if len(said) != len(plan.outcomes):
        reading.complain("F1", plan.name, "a service has two outcomes")
    for service in range(len(s)):
        outcome = said.pop(s.id[service], None)
        affected = s.base_lost[service] or s.top_lost[service] or service in reading.sheds
        affected = affected or service in reading.instance.unjudged or bool(doubt[1][service])
        affected = affected or base[service] > 0 or top[service] > 0
        if affected and outcome is None:
            reading.complain("F1", s.id[service], "is affected but has no outcome")
        elif outcome is not None:
            _check_outcome(
                reading, times, service, outcome, int(base[service]) * tick, int(top[service]) * tick
            )
            state = _state(reading, times, service, doubt)
            if outcome.state != state:
                reading.complain("F1", s.id[service], f"ends {state}, the plan says {outcome.state}")
    for name in sorted(said):
        reading.complain("F1", name, "has an outcome but is not a service of the estate")
    z = int((s.base_weight.astype(object) * base + s.top_weight.astype(object) * top).sum())
    if z != plan.objective:
        reading.complain("F19", plan.name, f"objective is {z}, the plan says {plan.objective}")
    return z


def _check_outcome(
    reading: Reading, times: Milestones, service: int, outcome: Outcome, base_ms: int, top_ms: int
) -> None:
    tick, horizon = reading.instance.tick_ms, reading.instance.horizon
    name = reading.instance.services.id[service]
    if (outcome.base_outage_ms, outcome.top_outage_ms) != (base_ms, top_ms):
        words = f"outages are {base_ms} and {top_ms} ms"
        reading.complain(
            "F19", name, f"{words}, the plan says {outcome.base_outage_ms}, {outcome.top_outage_ms}"
        )
    holds = times.base_at[service] < horizon
    wanted = int(times.base_at[service]) * tick if holds else None
    if outcome.base_ms != wanted:
        reading.complain("F19", name, f"base holds at {wanted} ms, the plan says {outcome.base_ms}")


def _state(reading: Reading, times: Milestones, service: int, doubt: tuple[Bools, Bools]) -> str:
    horizon = reading.instance.horizon
    if service in reading.instance.unjudged:
        return "unknown"
    if times.base_gone[service] < horizon and not reading.instance.services.blocked[service]:
        return "shed"
    if times.base_at[service] >= horizon:
        return "unplaced"
    base, top = doubt
    if base[service]:
        return "unknown"
    full = times.top_at[service] < horizon and times.top_gone[service] >= horizon and not top[service]
    return "restored" if full else "degraded"


@dataclass(frozen=True, slots=True)
class Action:
    """What one unit action would hold, from tick `start` to `end`."""

    start: int
    end: int
    uses: tuple[Use, ...]


class Slots:
    """Units of each limit held per tick by the steps of a plan, except some; `take` adds to them."""

    def __init__(self, reading: Reading, without: frozenset[str] = frozenset()) -> None:
        self._instance = reading.instance
        self._holdings = holdings(reading, without)
        self._held: dict[int, Ints] = {}

    def look(
        self, times: Milestones, kind: str, uses: tuple[Use, ...], regular: int, since: int
    ) -> Action | None:
        """The earliest action of a kind from `since` on within the limits, with tools or by hand, whichever
        ends first; None if it would end after the horizon.
        """
        found = None
        for ready, length, held in self._ways(times, kind, uses, regular, since):
            start = self._earliest(held, length, ready)
            if start + length <= self._instance.horizon and (found is None or start + length < found.end):
                found = Action(start, start + length, held)
        return found

    def take(self, action: Action, count: int = 1) -> int:
        """Holds up to `count` such actions at one tick; returns how many fit."""
        length = action.end - action.start
        taken = min([count, *(self._capacity(use, length, action.start) for use in action.uses)])
        for use in action.uses:
            begin, stop = _hold(use, length, action.start)
            self._column(use.limit)[begin:stop] += taken * use.units
        return taken

    def _ways(
        self, times: Milestones, kind: str, uses: tuple[Use, ...], regular: int, since: int
    ) -> list[tuple[int, int, tuple[Use, ...]]]:
        """(first tick, ticks, uses) with tools and by hand."""
        need = self._instance.tools.get(kind)
        tools = 0 if need is None else max((int(times.base_at[tool]) for tool in need.services), default=0)
        found = [(max(since, tools), regular, uses)] if tools < self._instance.horizon else []
        if tools and need is not None and need.manual is not None:
            found.append((since, max(regular, need.manual), uses + need.manual_uses))
        return found

    def _earliest(self, uses: Sequence[Use], length: int, since: int) -> int:
        """First tick from `since` on at which one action fits; beyond H if none."""
        at, tried = since, -1
        while at != tried and at <= self._instance.horizon:
            tried = at
            for use in uses:
                begin, stop = _hold(use, length, at)
                capacity = self._instance.limits[use.limit].capacity - use.units
                clash = np.flatnonzero(self._column(use.limit)[begin:stop] > capacity)
                if len(clash):
                    at += int(clash[-1]) + 1
        return at

    def _capacity(self, use: Use, length: int, at: int) -> int:
        begin, stop = _hold(use, length, at)
        busiest = int(self._column(use.limit)[begin:stop].max(initial=0))
        return (self._instance.limits[use.limit].capacity - busiest) // use.units if use.units else 2**40

    def _column(self, limit: int) -> Ints:
        """(ticks,) units of a limit that are held."""
        if limit not in self._held:
            _, begin, end, units = self._holdings[self._holdings[:, 0] == limit].T
            change = np.zeros(max(self._instance.horizon, int(end.max(initial=0))) + 2, np.int64)
            np.add.at(change, begin, units)
            np.add.at(change, end, -units)
            self._held[limit] = np.cumsum(change)
        return self._held[limit]


def _hold(use: Use, length: int, start: int) -> tuple[int, int]:
    begin = start + use.offset
    return begin, begin + (length if use.hold == WHOLE else use.hold)


def _pools_ready(slots: Slots, reading: Reading, times: Milestones, rows: Ready) -> dict[int, int]:
    """Pool -> first tick at which one of its servers is on and any required shed could have ended."""
    found: dict[int, int] = {}
    ends: dict[tuple[int, int], int] = {}
    columns = (column.tolist() for column in (rows.pool, rows.on, rows.done, rows.due))
    for pool, on, done, due in zip(*columns, strict=True):
        at = done
        if due < done:
            if (pool, due) not in ends:
                uses = reading.instance.pools[pool].shed_uses
                shed = slots.look(times, "shed", uses, due, 0)
                ends[pool, due] = NEVER if shed is None else shed.end
            at = min(done, ends[pool, due])
        found[pool] = min(found.get(pool, NEVER), max(on, at))
    return found


def _sheds_over(reading: Reading, times: Milestones, rows: Ready, count: int) -> int:
    """When that many further sheds could be over, each as early as limits allow alongside all steps that are
    not made for what makes way.
    """
    if not count:
        return 0
    slots, over = Slots(reading, rows.idle_steps(reading)), 0
    of_pool = {pool: int(rows.due[rows.pool == pool].min()) for pool in np.unique(rows.pool).tolist()}
    while count > 0:
        sheds = (
            slots.look(times, "shed", reading.instance.pools[pool].shed_uses, due, 0)
            for pool, due in of_pool.items()
            if due < NEVER
        )
        first = min((shed for shed in sheds if shed is not None), key=lambda a: a.end, default=None)
        if first is None:
            return NEVER
        count, over = count - slots.take(first, count), first.end
    return over


def time_left(reading: Reading, times: Milestones, service: int, missing: int, ready_rows: Ready) -> bool:
    """Whether a service that lacks `missing` replicas could still be back before the horizon, ignoring
    capacity.

    ready_rows: rows where it would fit. If a shed must free the capacity, nothing starts before one could
    have ended, and the last start follows the last of as many as it takes at least. Starts, then verify and
    shift, follow what the service waits for, each as early as tools, hands and limits allow alongside all
    other steps; those sheds need not wait for steps made for what makes way.
    """
    instance, s = reading.instance, reading.instance.services
    members = times.members[int(s.component[service])]
    freed = max(instance.attests.get(member, 0) for member in members)
    ready = max(dependencies_ready(reading, times, service, to_start=True)[0], freed)
    slots, last, wanted = Slots(reading), ready, missing
    pools = _pools_ready(slots, reading, times, ready_rows)
    while missing > 0:
        starts = (
            slots.look(times, "start", instance.pools[pool].start_uses, int(s.start[service]), max(ready, on))
            for pool, on in sorted(pools.items())
        )
        first = min((start for start in starts if start is not None), key=lambda a: a.end, default=None)
        if first is None:
            return False
        missing, last = missing - slots.take(first, missing), max(last, first.end)
    if service in instance.start_by and last > last_start(reading, times.members, service):
        return False
    freed = _sheds_over(reading, times, ready_rows, ready_rows.sheds(s.demand[service], wanted))
    last = max(last, freed + int(s.start[service]), dependencies_ready(reading, times, service)[0])
    rest: list[tuple[str, tuple[Use, ...], int]] = [("verify", (), int(s.verify[service]))]
    if s.shift[service]:
        rest.append(("shift", s.shift_uses[service], int(s.change[service] + s.settle[service])))
    for kind, uses, regular in rest:
        step = slots.look(times, kind, uses, regular, last)
        if step is None:
            return False
        slots.take(step)
        last = step.end
    return last < instance.horizon
