"""What is restored, shed and left out, and what it costs: rules F1, F11, F16 to F19."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.plan import Outcome
from evac.verify.made_room import Ground, Leaving
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
    shed) were taken away; or they could not be back before the horizon, beside all other steps and not before
    a shed has made room where one has to, and it is time that is short. A survivor that was shed is judged
    only where it does not fit as things stand: putting it back elsewhere is no duty.
    """
    s, horizon = reading.instance.services, reading.instance.horizon
    waiting = [
        i
        for i in range(len(s))
        if (s.base_lost[i] and times.base_at[i] >= horizon) or times.base_gone[i] < horizon
    ]
    if not waiting:
        return
    ground = Ground(reading, final)
    unneeded = _may_leave(reading, times)
    nobody = np.zeros(len(s), np.bool_)
    sheddable = s.sheddable & _sheds_can_be(reading, times)
    for service in waiting:
        missing = int(s.m[service]) - ground.standing(service)
        if missing <= 0 or not _could_run(reading, times, service):
            continue
        leaving = Leaving(ground, unneeded & ~_needed_by(reading, service), sheddable, service)
        if not leaving.anything():
            continue
        if (
            times.base_gone[service] < horizon
            and Leaving(ground, nobody, sheddable, service).room()[0] >= missing
        ):
            continue
        most, ready = leaving.room()
        if most >= missing and time_left(reading, times, service, missing, ready):
            reading.complain("F17", s.id[service], "has no room, and lower tiers hold enough of it")


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


def _sheds_can_be(reading: Reading, times: Milestones) -> bool:
    """Whether anything can be shed at all: not where the tools for it are lost and people have no way."""
    need, horizon = reading.instance.tools.get("shed"), reading.instance.horizon
    if need is None or need.manual is not None:
        return True
    return all(times.base_at[tool] < horizon for tool in need.services)


def _needed_by(reading: Reading, service: int) -> NDArray[np.bool_]:
    """(S,) services that one waits for, whatever lies between: by hard dependencies, and by tools without
    which people have no way to bring it or its stores back."""
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
    """Tools without a manual way, of the steps that bring a base back on servers that are on."""
    s, tools = reading.instance.services, reading.instance.tools
    kinds = [
        "verify",
        *(("start",) if s.base_starts(service) else ()),
        *(("shift",) if s.shift[service] else ()),
    ]
    kinds += ["fence", "promote"] if s.lost_stores[service] else []
    needs = [tools[kind] for kind in tools if kind in kinds]
    return [tool for need in needs if need.manual is None for tool in need.services]


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
