"""What is restored, shed and left out, and what it costs: rules F1, F11, F16 to F19."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.plan import Outcome
from evac.verify.milestones import Milestones, outages
from evac.verify.reading import Reading
from evac.verify.room import Final, free_room
from evac.verify.time_left import time_left

Ints = NDArray[np.int64]


def check_counts(reading: Reading, times: Milestones) -> None:
    """F11: a base that holds has all its starts, a top that holds too; nothing is started in vain."""
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
        if s.blocked[service] and holds["base"]:
            reading.complain("F12", s.id[service], "needs a store that never returns")


def check_sheds(reading: Reading, times: Milestones, final: Final) -> None:
    """F16 and F18: only what may be shed, only what had to be, and nothing others stand on."""
    instance, s = reading.instance, reading.instance.services
    if not reading.sheds:
        return
    free = free_room(instance, final, reading)
    started_on = _started_services(reading, final)
    for service, steps in sorted(reading.sheds.items()):
        name = s.id[service]
        if not s.sheddable[service]:
            reading.complain("F16", name, "is shed and policy does not allow it")
        if times.base_gone[service] < instance.horizon:
            _check_dependents(reading, times, service)
        for timed in steps:
            for row, _ in timed.rows:
                if (s.demand[service] <= free[row]).all():
                    reading.complain("F16", name, f"could have stayed on {instance.row_names[row]}")
            helped = {s.id[other] for row, _ in timed.rows for other in started_on.get(row, ())}
            higher = {other for other in helped if s.tier[s.id.index(other)] < s.tier[service]}
            if not timed.step.for_services or not set(timed.step.for_services) <= higher:
                reading.complain("F16", timed.step.id, "does not name higher-tier starts it makes room for")


def _started_services(reading: Reading, final: Final) -> dict[int, list[int]]:
    """Services started on each row that something is shed from."""
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


def check_tiers(reading: Reading, times: Milestones, final: Final) -> None:
    """F17: nothing stays below base for lack of room that strictly lower tiers hold.

    Read as: where a lower tier that neither it nor anybody alive needs keeps or gets anything the service
    could use, the missing replicas would not fit even if all of it (what the plan started, and what may be
    shed) were taken away; or they could not be back before the horizon beside all other steps, and it is
    time that is short. A survivor that was shed is judged only where it does not fit as things stand:
    putting it back elsewhere is no duty.
    """
    s, horizon = reading.instance.services, reading.instance.horizon
    waiting = [
        i
        for i in range(len(s))
        if (s.base_lost[i] and times.base_at[i] >= horizon) or times.base_gone[i] < horizon
    ]
    if not waiting:
        return
    free = free_room(reading.instance, final, reading)
    unneeded = _may_leave(reading, times)
    nobody = np.zeros(len(s), np.bool_)
    for service in waiting:
        missing = int(s.m[service]) - _standing(final, service)
        if missing <= 0 or not _could_run(reading, times, service):
            continue
        leaving = unneeded & ~_needed_by(reading, service)
        if not _lower_stands(reading, final, leaving, service):
            continue
        if (
            times.base_gone[service] < horizon
            and _would_fit(reading, final, free, nobody, service)[0] >= missing
        ):
            continue
        most, fit = _would_fit(reading, final, free, leaving, service)
        if most >= missing and time_left(reading, times, service, missing, _pools_on(reading, fit)):
            reading.complain("F17", s.id[service], "has no room, and lower tiers hold enough of it")


def _standing(final: Final, service: int) -> int:
    return int(final.count[final.service == service].sum())


def _could_run(reading: Reading, times: Milestones, service: int) -> bool:
    """Whether all it needs is there: otherwise it is not room that keeps it down."""
    s, horizon = reading.instance.services, reading.instance.horizon
    if s.blocked[service]:
        return False
    group = times.members[int(s.component[service])]
    needs = {other for member in group for other in s.hard[member]} - {service}
    return all(times.base_at[o] < horizon and times.base_gone[o] >= horizon for o in needs)


def _may_leave(reading: Reading, times: Milestones) -> NDArray[np.bool_]:
    """(S,) services that nobody alive hard-depends on."""
    s, horizon = reading.instance.services, reading.instance.horizon
    may = np.ones(len(s), np.bool_)
    for other in range(len(s)):
        if times.base_at[other] < horizon and times.base_gone[other] >= horizon:
            may[list(s.hard[other])] = False
    return may


def _needed_by(reading: Reading, service: int) -> NDArray[np.bool_]:
    """(S,) services that one hard-depends on, whatever lies between."""
    s = reading.instance.services
    found, queue = np.zeros(len(s), np.bool_), [service]
    while queue:
        for other in s.hard[queue.pop()]:
            if not found[other]:
                found[other] = True
                queue.append(other)
    return found


def _makes_way(reading: Reading, final: Final, leaving: NDArray[np.bool_], service: int) -> Ints:
    """Replicas of each final binding that lower tiers keep or get, and that could make way."""
    s = reading.instance.services
    lower = (s.tier[final.service] > s.tier[service]) & leaving[final.service]
    return np.where(lower, np.where(s.sheddable[final.service], final.count, final.started), 0)


def _lower_stands(reading: Reading, final: Final, leaving: NDArray[np.bool_], service: int) -> bool:
    """Whether a lower tier keeps or gets anything where this service may run."""
    instance = reading.instance
    here = instance.eligible[service][instance.rows.pool[final.row]]
    return bool((here & (_makes_way(reading, final, leaving, service) > 0)).any())


def _pools_on(reading: Reading, fit: Ints) -> dict[int, int]:
    """Pools in which something fits: number -> first tick at which such a row is on."""
    rows = reading.instance.rows
    on = np.zeros(len(rows), np.int64)
    for row, timed in reading.boots.items():
        on[row] = timed.end
    here = fit > 0
    return {int(pool): int(on[here & (rows.pool == pool)].min()) for pool in np.unique(rows.pool[here])}


def _would_fit(
    reading: Reading, final: Final, free: Ints, leaving: NDArray[np.bool_], service: int
) -> tuple[int, Ints]:
    """Replicas that would fit if lower tiers made way: an upper count, by rows, racks and sites, and (V,) on
    each row alone."""
    instance, s, rows = reading.instance, reading.instance.services, reading.instance.rows
    count = _makes_way(reading, final, leaving, service)
    taken = np.flatnonzero(count > 0)
    room = free.copy()
    np.add.at(room, final.row[taken], s.demand[final.service[taken]] * count[taken, None])
    room[~instance.eligible[service][rows.pool]] = -1
    demand = s.demand[service]
    needs = np.flatnonzero(demand)
    fit = (room[:, needs] // demand[needs]).min(axis=1) if len(needs) else np.full(len(rows), 2**31)
    mine = np.zeros(len(rows), np.int64)
    np.add.at(mine, final.row[final.service == service], final.count[final.service == service])
    fit = np.where(rows.is_pool, fit, np.minimum(fit, s.per_server[service] - mine))
    alone = fit = np.maximum(fit, 0)
    for place, cap in ((rows.rack, s.rack_cap), (rows.feed_group, s.feed_cap)):
        fit = _capped(fit, mine, np.where(rows.is_pool, -1, place), int(cap[service]))
    return int(_capped(fit, mine, rows.site, int(s.site_cap[service])).sum()), alone


def _capped(fit: Ints, mine: Ints, place: NDArray[np.int32], cap: int) -> Ints:
    """`fit` scaled so that no place gets more than its cap leaves; keeps the sum exact per place."""
    known = place >= 0
    if not known.any():
        return fit
    width = int(place.max()) + 1
    total = np.bincount(place[known], fit[known], width).astype(np.int64)
    have = np.bincount(place[known], mine[known], width).astype(np.int64)
    room = np.clip(cap - have, 0, total)
    first = np.zeros(width, np.int64) - 1
    order = np.flatnonzero(known)[::-1]
    first[place[order]] = order
    capped = np.where(known, 0, fit)
    used = first >= 0
    capped[first[used]] = room[used]
    return np.asarray(capped, np.int64)


def check_outcomes(reading: Reading, times: Milestones) -> int:
    """F1 and F19: every affected service once, its times and outages as the steps give; returns Z."""
    s, plan, tick = reading.instance.services, reading.plan, reading.instance.tick_ms
    base, top = outages(reading, times)
    said = {o.service: o for o in plan.outcomes}
    if len(said) != len(plan.outcomes):
        reading.complain("F1", plan.name, "a service has two outcomes")
    for service in range(len(s)):
        outcome = said.pop(s.id[service], None)
        affected = s.base_lost[service] or s.top_lost[service] or service in reading.sheds
        if affected and outcome is None:
            reading.complain("F1", s.id[service], "is affected and has no outcome")
        elif outcome is not None:
            _check_outcome(
                reading, times, service, outcome, int(base[service]) * tick, int(top[service]) * tick
            )
    for name in sorted(said):
        reading.complain("F1", name, "has an outcome and is no service of the estate")
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
    if outcome.state != _state(reading, times, service):
        reading.complain("F1", name, f"ends {_state(reading, times, service)}, the plan says {outcome.state}")


def _state(reading: Reading, times: Milestones, service: int) -> str:
    horizon = reading.instance.horizon
    if times.base_gone[service] < horizon:
        return "shed"
    if times.base_at[service] >= horizon:
        return "unplaced"
    full = times.top_at[service] < horizon and times.top_gone[service] >= horizon
    return "restored" if full else "degraded"
