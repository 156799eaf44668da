"""Durations, precedence, tools, components and stores: rules F3, F4, F5, F12 to F15. Clean stops: F25."""

from __future__ import annotations

from collections.abc import Mapping

from evac.model.plan import FROM_LOSS_MS
from evac.model.step_id import FENCE_RUNGS
from evac.steps.kind import Need
from evac.steps.registry import kind_of
from evac.verify.reading import (
    Milestones,
    Reading,
    Timed,
    as_promoted,
    boots_by_hand,
    comes_on_by_itself,
    need_of,
    regular_ticks,
    uses_of,
)


def check_durations(reading: Reading) -> None:
    """F3: every duration is what the instance gives; a manual step takes max(regular, manual)."""
    for timed in reading.steps:
        if not kind_of(timed.step.kind).is_timed:
            continue
        regular = regular_ticks(reading, timed)
        if regular is None:
            reading.complain("F3", timed.step.id, "the estate does not state how long this takes")
            continue
        need = need_of(reading, timed)
        only_by_hand = kind_of(timed.step.kind).boots and boots_by_hand(reading.instance, timed.rows[0][0])
        if timed.step.manual and not only_by_hand:
            if need is None or need.manual is None:
                reading.complain("F15", timed.step.id, "people have no way to do this")
                continue
            regular = max(regular, need.manual)
        _check_uses(reading, timed)
        if timed.end - timed.start != regular:
            reading.complain(
                "F3", timed.step.id, f"takes {timed.end - timed.start} ticks, but should take {regular}"
            )


def _check_uses(reading: Reading, timed: Timed) -> None:
    """F3: a step's stated uses are those of its kind and target, times its count."""
    held: dict[str, int] = {}
    for use in uses_of(reading, timed):
        name = reading.instance.limits[use.limit].id
        held[name] = held.get(name, 0) + use.units * timed.step.count
    if dict(timed.step.uses) != held:
        reading.complain("F3", timed.step.id, "does not state the limits it uses")


def check_precedence(reading: Reading, times: Milestones) -> None:
    """F4 and F12: nothing begins before what it needs, as derived again from the estate."""
    for (service, milestone), steps in sorted(reading.starts.items()):
        ready, why = dependencies_ready(reading, times, service, to_start=True)
        for timed in steps:
            if timed.start < ready:
                reading.complain("F12", timed.step.id, f"starts before {why} is available (tick {ready})")
            if _outlasts_needs(reading, times, timed):
                reading.complain("F12", timed.step.id, "starts after what it needs to start has stopped")
            _boots_before(reading, timed)
        _verified(reading, service, milestone, steps)
    for (service, _), timed in sorted(reading.verifies.items()):
        ready, why = dependencies_ready(reading, times, service)
        if reading.instance.services.base_lost[service] and timed.start < ready:
            reading.complain("F12", timed.step.id, f"verifies before {why} is available (tick {ready})")
    for service, timed in sorted(reading.shifts.items()):
        base = reading.verifies.get((service, "base"))
        if base is None or timed.start < base.end:
            reading.complain("F4", timed.step.id, "traffic moves before the service is verified")


def _outlasts_needs(reading: Reading, times: Milestones, timed: Timed) -> bool:
    """Whether a start of services that need each other to start ends after the first of them has stopped
    where it ran, and begins before they serve again.
    """
    if timed.service not in reading.instance.start_by:
        return False
    until = last_start(reading, times.members, timed.service)
    return timed.end > until and timed.start < times.base_at[timed.service]


def last_start(reading: Reading, members: Mapping[int, tuple[int, ...]], service: int) -> int:
    """When the first service of a cycle stops where it runs."""
    group = members[int(reading.instance.services.component[service])]
    return min(latest_stop(reading, member) for member in group)


def dependencies_ready(
    reading: Reading, times: Milestones, service: int, to_start: bool = False
) -> tuple[int, str]:
    """First tick at which everything holds that a component needs from outside, to serve or only to start,
    and the last of these needs.
    """
    s = reading.instance.services
    hard, stores = (s.hard_start, s.start_stores) if to_start else (s.hard, s.lost_stores)
    ready, why = 0, "nothing"
    for member in times.members[int(s.component[service])]:
        for other in hard[member]:
            if s.component[other] != s.component[member] and times.base_at[other] > ready:
                ready, why = int(times.base_at[other]), f"service {s.id[other]}"
        for store in stores[member]:
            if times.primary_at[store] > ready:
                ready, why = int(times.primary_at[store]), f"store {reading.instance.stores[store].id}"
    return ready, why


def _boots_before(reading: Reading, timed: Timed) -> None:
    for row, _ in timed.rows:
        if reading.instance.rows.dark[row]:
            boot = reading.boots.get(row)
            if boot is None or boot.end > timed.start:
                name = reading.instance.row_names[row]
                reading.complain("F7", timed.step.id, f"{name} is not up when replicas start on it")


def _verified(reading: Reading, service: int, milestone: str, steps: list[Timed]) -> None:
    verify = reading.verifies.get((service, milestone))
    if verify is None:
        reading.complain("F11", steps[0].step.target, f"{milestone} is started but never verified")
    elif any(timed.end > verify.start for timed in steps):
        reading.complain("F4", verify.step.id, "verifies before all its starts have finished")


def check_components(reading: Reading, times: Milestones) -> None:
    """F13: members of a component start together: each verify waits for all base starts of all members."""
    for members in times.members.values():
        if len(members) < 2:
            continue
        last = max((t.end for m in members for t in reading.starts.get((m, "base"), [])), default=0)
        for member in members:
            verify = reading.verifies.get((member, "base"))
            if verify is not None and verify.start < last:
                reading.complain(
                    "F13", verify.step.id, "verifies before every member of its cycle has started"
                )


def check_stores(reading: Reading) -> None:
    """F14 and F2: one primary per store, allowed by rpo or waived by name, fenced well enough before, and
    backed up before that if the estate requires it.
    """
    waived = set(reading.plan.waivers)
    _check_backups(reading)
    for store, timed in sorted(reading.promotes.items()):
        lost = reading.instance.stores[store]
        candidate = as_promoted(reading, timed)
        if candidate is None or not candidate.allowed:
            reading.complain(
                "F2", timed.step.id, f"{timed.step.candidate or 'nothing'} may not become primary"
            )
        elif candidate.waived and lost.id not in waived:
            reading.complain("F2", timed.step.id, "promotes beyond the RPO, and the plan names no waiver")
        if lost.elects:
            own = -1 if candidate is None else candidate.from_loss
            said = timed.step.parameters.get(FROM_LOSS_MS, -1)
            if said != (own * reading.instance.tick_ms if own >= 0 else -1):
                reading.complain("F3", timed.step.id, "states the wrong time from the loss")
            continue
        fence = reading.fences.get(store)
        if fence is None or fence.end > timed.start:
            reading.complain("F14", timed.step.id, "the old primary is not fenced first")
        elif _rung(fence.step.rung) < _rung(lost.fence_rung):
            reading.complain("F14", fence.step.id, f"the policy requires fence rung {lost.fence_rung}")


def _check_backups(reading: Reading) -> None:
    """One fresh backup for each store that requires it, of the right duration, and the fence waits for it."""
    taken: dict[int, Timed] = {}
    for timed in reading.of_kind("backup"):
        if taken.setdefault(timed.store, timed) is not timed:
            reading.complain("F14", timed.step.id, "takes a second backup")
        elif reading.instance.stores[timed.store].backup != timed.end - timed.start:
            reading.complain(
                "F14", timed.step.id, "takes a different time than the estate states, or is not requested"
            )
    for store, fence in sorted(reading.fences.items()):
        if reading.instance.stores[store].backup is None:
            continue
        before = taken.get(store)
        if before is None:
            reading.complain("F14", fence.step.id, "no fresh backup is taken first")
        elif before.step.id not in fence.step.after or before.end > fence.start:
            reading.complain("F14", fence.step.id, f"does not wait for {before.step.id}")


def _rung(name: str) -> int:
    return FENCE_RUNGS.index(name) if name in FENCE_RUNGS else -1


def check_tools(reading: Reading, times: Milestones) -> None:
    """F15: a step waits until every affected tool of its kind serves, or people do it.

    In an evacuation the site and its tools still run until the grace has passed.
    """
    for timed in reading.steps:
        need = need_of(reading, timed)
        if need is None or timed.step.manual or 0 < reading.instance.grace >= timed.end:
            continue
        if kind_of(timed.step.kind).boots and comes_on_by_itself(reading.instance, timed.rows[0][0]):
            continue
        late = [tool for tool in need.services if times.base_at[tool] > timed.start]
        if late:
            name = reading.instance.services.id[late[0]]
            reading.complain("F15", timed.step.id, f"needs {name}, which is not back yet")


def check_after(reading: Reading, times: Milestones) -> None:
    """F5: `after` names steps that end in time, has no cycle, and implies every precedence."""
    by_id = {timed.step.id: timed for timed in reading.steps}
    known = by_id.keys() | {step.id for step in reading.plan.steps}
    for timed in reading.steps:
        for name in timed.step.after:
            if name not in known:
                reading.complain("F5", timed.step.id, f"`after` names an unknown step: {name}")
            elif name in by_id and by_id[name].end > timed.start:
                reading.complain("F5", timed.step.id, f"begins before {name} has finished")
    gates, reached = _reached_gates(reading, by_id)
    for timed in reading.steps:
        for name in sorted(_direct_needs(reading, timed)):
            if name not in timed.step.after:
                reading.complain("F5", timed.step.id, f"`after` does not include {name}, which it waits for")
        for name in sorted(_gate_needs(reading, times, timed)):
            if not reached.get(timed.step.id, 0) >> gates[name] & 1:
                reading.complain("F5", timed.step.id, f"`after` does not imply {name}, which it waits for")


def _direct_needs(reading: Reading, timed: Timed) -> set[str]:
    """Boots of a start and starts of a verify: few, so listed individually."""
    needs = kind_of(timed.step.kind).needs
    if Need.BOOTS in needs:
        return {reading.boots[row].step.id for row, _ in timed.rows if row in reading.boots}
    if Need.STARTS in needs:
        return {t.step.id for t in reading.starts.get((timed.service, timed.step.milestone), [])}
    return set()


def _gate_needs(reading: Reading, times: Milestones, timed: Timed) -> set[str]:
    """Steps that end a milestone this step waits for: implied through any chain of `after`."""
    found: set[str] = set()
    s = reading.instance.services
    needs = kind_of(timed.step.kind).needs
    if needs & {Need.DEPENDENCIES, Need.START_DEPENDENCIES} and s.base_lost[timed.service]:
        to_serve = Need.DEPENDENCIES in needs
        hard, stores = (s.hard, s.lost_stores) if to_serve else (s.hard_start, s.start_stores)
        for member in times.members[int(s.component[timed.service])]:
            for other in hard[member]:
                if s.component[other] != s.component[member] and s.base_lost[other]:
                    found |= _ends_base(reading, times, other)
            found |= {reading.promotes[d].step.id for d in stores[member] if d in reading.promotes}
    if kind_of(timed.step.kind).restores:
        for other in reading.instance.stores[timed.store].needs:
            found |= _ends_base(reading, times, other)
    if Need.FENCE in needs and timed.store in reading.fences:
        found.add(reading.fences[timed.store].step.id)
    if Need.VERIFY in needs and (timed.service, "base") in reading.verifies:
        found.add(reading.verifies[(timed.service, "base")].step.id)
    if Need.SERVING in needs and s.base_lost[timed.service]:
        moved = reading.shifts.get(timed.service) or reading.verifies.get((timed.service, "base"))
        if moved is not None and timed.start < latest_stop(reading, timed.service):
            found.add(moved.step.id)
    return found


def _ends_base(reading: Reading, times: Milestones, service: int) -> set[str]:
    """The steps that end the base of a service and of the members of its cycle."""
    found = set()
    for member in times.members[int(reading.instance.services.component[service])]:
        last = reading.shifts.get(member) or reading.verifies.get((member, "base"))
        if last is not None:
            found.add(last.step.id)
    return found


def _reached_gates(reading: Reading, by_id: dict[str, Timed]) -> tuple[dict[str, int], dict[str, int]]:
    """For each step the gates (fence, promote, verify, shift) before it, as a bit set."""
    gates = {t.step.id: bit for bit, t in enumerate(t for t in reading.steps if kind_of(t.step.kind).is_gate)}
    reached: dict[str, int] = {}
    for timed in sorted(reading.steps, key=lambda t: (t.start, t.end)):
        bits = 0
        for name in timed.step.after:
            if name in gates:
                bits |= 1 << gates[name]
            bits |= reached.get(name, 0)
        reached[timed.step.id] = bits
    return gates, _settle(reading, gates, reached, by_id)


def _settle(
    reading: Reading, gates: dict[str, int], reached: dict[str, int], by_id: dict[str, Timed]
) -> dict[str, int]:
    """Zero-length steps at one tick may be in any order: repeats until nothing changes; then cycles show."""
    zero = [t for t in reading.steps if any(n in by_id and by_id[n].start >= t.start for n in t.step.after)]
    for _ in range(len(zero) + 1):
        changed = False
        for timed in zero:
            bits = reached[timed.step.id]
            for name in timed.step.after:
                bits |= reached.get(name, 0) | (1 << gates[name] if name in gates else 0)
            changed = changed or bits != reached[timed.step.id]
            reached[timed.step.id] = bits
        if not changed:
            break
    for timed in zero:
        if timed.step.id in gates and reached[timed.step.id] >> gates[timed.step.id] & 1:
            reading.complain("F5", timed.step.id, "waits for itself")
    return reached


def latest_stop(reading: Reading, service: int) -> int:
    """When a service that has not moved is stopped: just before its site goes dark."""
    return max(0, reading.instance.grace - int(reading.instance.services.shed[service]))


def check_stops(reading: Reading, times: Milestones) -> None:
    """F25: what an evacuation leaves is stopped once, and not before its replacement serves or its site goes
    dark; a service back home is stopped elsewhere once all of it serves at home; nothing else is stopped.
    """
    if reading.plan.scenario.kind == "failback":
        _check_stops_away(reading, times)
        return
    s = reading.instance.services
    stands = reading.instance.evacuated
    stopped: set[int] = set()
    for timed in reading.of_kind("stop"):
        service, name = timed.service, timed.step.id
        if service not in stands:
            reading.complain("F25", name, "stops something that is not being evacuated")
            continue
        if service in stopped:
            reading.complain("F25", name, f"a second stop of {timed.step.target}")
        stopped.add(service)
        if timed.end - timed.start != s.shed[service]:
            took = timed.end - timed.start
            reading.complain("F25", name, f"takes {took} ticks, must take {int(s.shed[service])}")
        if timed.start < min(int(times.base_at[service]), latest_stop(reading, service)):
            reading.complain(
                "F25", name, "stops something that is still serving before its replacement serves"
            )
    for service in sorted(stands):
        if service not in stopped and not _has_no_time(reading, times, service):
            reading.complain("F25", s.id[service], "runs at an evacuated site, and no step stops it")


def _has_no_time(reading: Reading, times: Milestones, service: int) -> bool:
    """Whether a stop takes longer than the site still runs, and its tools come back too late for it."""
    instance, length = reading.instance, int(reading.instance.services.shed[service])
    need = instance.tools.get(kind_of("stop").like)
    if need is None or 0 < instance.grace >= length:
        return False
    return max((int(times.base_at[tool]) for tool in need.services), default=0) + length >= instance.horizon


def _check_stops_away(reading: Reading, times: Milestones) -> None:
    """For a failback: the surplus replicas, in the places where home has no use for them."""
    instance, s = reading.instance, reading.instance.services
    wanted = {one.service: one.places for one in instance.leaving}
    stopped: set[int] = set()
    for timed in reading.of_kind("stop"):
        service, name, length = timed.service, timed.step.id, timed.end - timed.start
        if timed.step.servers != wanted.get(service) or service in stopped:
            reading.complain("F25", name, "stops something that belongs there")
            continue
        stopped.add(service)
        if length != s.shed[service]:
            reading.complain("F25", name, f"takes {length} ticks, must take {int(s.shed[service])}")
        if timed.start < times.top_at[service]:
            reading.complain(
                "F25", name, "stops replicas away from home before the whole service serves at home"
            )
    for service in wanted:
        over = int(times.top_at[service]) + int(s.shed[service]) >= instance.horizon
        if service not in stopped and not over:
            reading.complain("F25", s.id[service], "also runs elsewhere, and no step stops it there")
