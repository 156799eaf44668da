"""Cold starts, rules F21 to F24: power before boots, every server of a dark domain, required approvals.

The bound on the last server is read from docs/explanation/cold-start.md and the instance alone, in exact
whole numbers; the planner has its own version of the same page.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from evac.model.instance import WHOLE, Instance, LeftOff
from evac.model.reason import OffReason
from evac.model.records import dataclass
from evac.model.step_id import power_step
from evac.steps.registry import kind_of
from evac.verify.bound_capacity import capacity_of
from evac.verify.bound_heads import heads_of
from evac.verify.reading import Milestones, Reading, Timed


def check_power_steps(reading: Reading) -> None:
    """F21: feeds are energised in the order of the estate, and no boot begins before its server is ready."""
    steps = reading.instance.power_steps
    planned = {timed.step.target: timed for timed in reading.of_kind("power")}
    if len(planned) != len(reading.of_kind("power")):
        reading.complain("F21", reading.plan.name, "powers something up twice")
    for target in sorted(planned.keys() - {step.target for step in steps}):
        reading.complain("F21", power_step(target), "the estate has no such step")
    for step in steps:
        timed = planned.get(step.target)
        if timed is None:
            reading.complain("F21", power_step(step.target), "is missing: no step powers it on")
            continue
        before = tuple(power_step(steps[number].target) for number in step.after)
        stated = (timed.start, timed.end, timed.step.manual, timed.step.after)
        if timed.step.id != power_step(step.target) or stated != (step.start, step.end, step.manual, before):
            reading.complain("F21", timed.step.id, "does not match the estate")
    for row, timed in sorted(reading.boots.items()):
        _ready(reading, row, timed)


def _ready(reading: Reading, row: int, timed: Timed) -> None:
    instance = reading.instance
    number = int(instance.rows.boot_kind[row])
    if number < 0:
        return
    kind = instance.boot_kinds[number]
    if timed.start < kind.ready or (kind.by_itself and timed.start != kind.ready):
        reading.complain("F21", timed.step.id, f"begins at tick {timed.start}, but is ready at {kind.ready}")
    if bool(timed.step.parameters.get("by_itself", False)) != kind.by_itself:
        reading.complain("F21", timed.step.id, "is wrong about whether it powers on automatically")
    if kind.by_itself and timed.step.manual:
        reading.complain("F21", timed.step.id, "a server that powers on by itself needs no person for it")
    if kind.by_hand and not timed.step.manual:
        reading.complain("F15", timed.step.id, "has no management controller: only a person can boot it")
    step = int(instance.powered_by[row]) if len(instance.powered_by) else -1
    if step >= 0 and power_step(instance.power_steps[step].target) not in timed.step.after:
        reading.complain("F5", timed.step.id, "`after` does not include the step that powers it")


def check_bring_up(reading: Reading, better: Instance) -> None:
    """F22: every server of a dark domain boots, or is listed with the reason why it stays off.

    The bound on the wave must hold for `better`, in which facts known within bounds have their better ends.
    """
    instance, plan = reading.instance, reading.plan
    rows = instance.brought_up.tolist()
    off = [row for row in rows if row not in reading.boots]
    listed = Counter(name for entry in plan.left_off for name in entry.servers)
    expected = Counter(instance.row_names[row] for row in off)
    expected.update(name for entry in instance.left_off for name in entry.servers)
    for name in sorted((expected - listed).keys())[:50]:
        reading.complain("F22", name, "neither boots nor is listed as left off")
    for name in sorted((listed - expected).keys())[:50]:
        reading.complain("F22", name, "is listed as left off but is not")
    for entry in instance.left_off:
        if not any(_says(stated, entry) for stated in plan.left_off):
            reading.complain("F22", entry.domain, f"does not say why it stays off: {entry.reason}")
    others = [x for x in plan.left_off if not any(_says(x, entry) for entry in instance.left_off)]
    _reasons(reading, others)
    _check_wave(reading, better, [row for row in rows if row in reading.boots])


def _says(stated: LeftOff, true: LeftOff) -> bool:
    """Whether a plan's reason matches; in earlier versions, which have words only, just the servers."""
    return stated == true or (stated.why.kind == "text" and replace(stated, why=true.why) == true)


def _reasons(reading: Reading, entries: list[LeftOff]) -> None:
    """Servers left off for power have an insufficient budget; all others, no time."""
    instance = reading.instance
    left = {budget.id: budget.watts - budget.on_watts for budget in instance.power}
    for row in reading.boots:
        for number in set(instance.rows.power[row].tolist()) - {-1}:
            left[instance.power[number].id] -= int(instance.rows.watts[row])
    index = {name: row for row, name in enumerate(instance.row_names)} if entries else {}
    for entry in entries:
        for name in entry.servers:
            row = index.get(name, -1)
            budgets = [] if row < 0 else [n for n in instance.rows.power[row].tolist() if n >= 0]
            short = [
                instance.power[n].id for n in budgets if left[instance.power[n].id] < instance.rows.watts[row]
            ]
            true = [OffReason("not-enough-power", budget) for budget in short] or [OffReason("late")]
            if entry.why not in true and entry.why.kind != "text":
                reading.complain("F22", name, f"stays off, but not because of {entry.reason}")
                break


def _check_wave(reading: Reading, better: Instance, rows: list[int]) -> None:
    """F22: how many come up, when the last is on, and a valid bound."""
    plan, tick = reading.plan, reading.instance.tick_ms
    if plan.wave is None:
        if rows:
            reading.complain("F22", plan.name, "does not say when all servers are on")
        return
    last = max((reading.boots[row].end for row in rows), default=0)
    if (plan.wave.servers, plan.wave.on_ms) != (len(rows), last * tick):
        reading.complain(
            "F22", plan.name, f"{len(rows)} servers are on after {last} ticks, but the plan says otherwise"
        )
    back = 0
    need = better.tools.get("boot")
    if need is not None and need.services:
        heads = heads_of(better, capacity_of(better))
        back = max(heads.base[service] for service in need.services)
    names = {reading.instance.row_names[row] for row in rows}
    same = [row for row, name in enumerate(better.row_names) if name in names and better.rows.dark[row]]
    proved = min(latest_bound(better, same, back), last)
    if plan.wave.bound_ms > proved * tick:
        reading.complain("F22", plan.name, f"no order beats {proved} ticks, it says {plan.wave.bound_ms} ms")


def check_people(reading: Reading, times: Milestones) -> None:
    """F23: what a person must free starts only then. F24: exactly the copies that are behind get a step to
    follow again.
    """
    instance = reading.instance
    names = {instance.services.id[service] for service in instance.attests}
    for one in reading.of_kind("attest"):
        if one.step.target not in names:
            reading.complain("F23", one.step.id, "releases something that needs no release")
    freed = {timed.step.target: timed for timed in reading.of_kind("attest")}
    for service, ticks in sorted(instance.attests.items()):
        name = instance.services.id[service]
        starts = [t for mile in ("base", "top") for t in reading.starts.get((service, mile), [])]
        timed = freed.get(name)
        if timed is None or not timed.step.manual or timed.end - timed.start < ticks:
            if starts:
                reading.complain("F23", name, "starts before a person has released it")
            continue
        for start in starts:
            if start.start < timed.end or timed.step.id not in start.step.after:
                reading.complain("F23", start.step.id, f"does not wait for {timed.step.id}")
    _check_copies(reading, times)


def _check_copies(reading: Reading, times: Milestones) -> None:
    instance = reading.instance
    planned = {(timed.step.target, timed.step.candidate): timed for timed in reading.of_kind("reprotect")}
    powered = max((step.end for step in instance.power_steps), default=0)
    behind: set[tuple[str, str]] = set()
    for copy in instance.reprotects:
        since = powered
        promote = None
        if copy.lost >= 0:
            promote = reading.promotes.get(copy.lost)
            if promote is None:
                continue
            if promote.step.candidate == copy.member and not kind_of(promote.step.kind).restores:
                continue
            since = max(since, promote.end)
        behind.add((copy.store, copy.member))
        timed = planned.get((copy.store, copy.member))
        if timed is None:
            if since + copy.ticks <= instance.horizon:
                reading.complain("F24", copy.store, f"no step reattaches the replica at {copy.member}")
        elif timed.start < since or timed.end - timed.start < copy.ticks:
            reading.complain(
                "F24", timed.step.id, "begins before the primary is available, or takes too little time"
            )
        elif promote is not None and promote.step.id not in timed.step.after:
            reading.complain("F24", timed.step.id, f"does not wait for {promote.step.id}")
    for one in reading.of_kind("reprotect"):
        key = one.step.target, one.step.candidate
        if key not in behind:
            reading.complain("F24", one.step.id, f"reattaches {one.step.candidate}, which is not behind")
        elif one is not planned[key]:
            reading.complain("F24", one.step.id, f"reattaches {one.step.candidate} a second time")


@dataclass(frozen=True, slots=True)
class Held:
    """What one kind of boot holds of one limit, and the number of such boots."""

    ready: int
    ticks: int
    units: int
    offset: int
    hold: int
    count: int
    by_hand: bool

    @property
    def ahead(self) -> int:
        """First tick at which the hold may begin."""
        return self.ready + self.offset

    @property
    def tail(self) -> int:
        """Ticks from the end of the hold to the end of the boot; negative if the hold outlasts it."""
        return self.ticks - self.offset - self.hold


def latest_bound(instance: Instance, rows: list[int], back: int) -> int:
    """Tick before which no order has these rows on; `back`: tick before which boot tools do not serve."""
    counts = Counter(int(instance.rows.boot_kind[row]) for row in rows)
    spare = _by_hand(instance, back)
    best = _longest(instance, counts, back, spare)
    held: dict[int, list[Held]] = {}
    for number, count in sorted(counts.items()):
        kind = instance.boot_kinds[number]
        for use in kind.uses:
            hold = kind.duration if use.hold == WHOLE else use.hold
            if use.units > 0 and hold > 0:
                line = Held(kind.ready_least, kind.duration, use.units, use.offset, hold, count, kind.by_hand)
                held.setdefault(use.limit, []).append(line)
    for limit, lines in held.items():
        best = max(best, _of_limit(instance.limits[limit].capacity, lines, back, spare))
    return best


def _by_hand(instance: Instance, back: int) -> int:
    """Boots that people can begin before the tools are back."""
    need = instance.tools.get("boot")
    if need is None or not need.services or need.manual is None:
        return 0
    hands = [instance.limits[use.limit].capacity // use.units for use in need.manual_uses]
    return min(hands) * -(-back // max(need.manual, 1)) if hands else sum(instance.bring_up.tolist())


def _longest(instance: Instance, counts: Counter[int], back: int, spare: int) -> int:
    """The longest single boot; with late tools, among those that people cannot all begin in time."""
    kinds = [(instance.boot_kinds[number], count) for number, count in counts.items()]
    best = max((kind.ready_least + kind.duration for kind, _ in kinds), default=0)
    for kind, count in sorted(kinds, key=lambda pair: -pair[0].duration):
        if kind.by_itself or kind.by_hand:
            continue
        if count > spare:
            return max(best, back + kind.duration)
        spare -= count
    return best


def _of_limit(capacity: int, lines: list[Held], back: int, spare: int) -> int:
    best = 0
    for early in {line.ahead for line in lines}:
        for late in {line.tail for line in lines}:
            some = [line for line in lines if line.ahead >= early and line.tail >= late]
            if some:
                best = max(best, _of_set(capacity, some, some))
                waiting = [replace(line, ready=max(line.ready, back)) for line in some if not line.by_hand]
                if back > 0 and waiting:
                    best = max(best, _of_set(capacity, waiting, _without(waiting, spare)))
    return best


def _without(lines: list[Held], spare: int) -> list[Held]:
    """The remaining boots after removing the `spare` largest."""
    found = []
    for line in sorted(lines, key=lambda x: -(x.units * x.hold)):
        taken = min(spare, line.count)
        spare -= taken
        if line.count > taken:
            found.append(replace(line, count=line.count - taken))
    return found


def _of_set(capacity: int, whole: list[Held], counted: list[Held]) -> int:
    """Area and count bound of the counted boots, with the whole set's best start, length and tail."""
    if not counted:
        return 0
    slots = capacity // min(line.units for line in whole)
    if slots == 0:
        return 2**40
    ahead = min(line.ahead for line in whole)
    area = sum(line.units * line.hold * line.count for line in counted)
    waves = -(-sum(line.count for line in counted) // slots) - 1
    by_area = ahead + min(line.tail for line in whole) - (-area // capacity)
    by_count = ahead + waves * min(line.hold for line in whole) + min(x.ticks - x.offset for x in whole)
    return max(by_area, by_count)
