"""A plan read against its instance: names become indices, milliseconds ticks; strangers are violations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance, Use
from evac.model.plan import Plan, Step
from evac.model.units import QUANTITY_LIMIT

Ints = NDArray[np.int64]
TIMED_KINDS = frozenset({"fence", "promote", "boot", "start", "verify", "shift", "shed"})


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One broken rule: its number, what it is about, and the words."""

    rule: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Timed:
    """A step in ticks. service, store: index or -1; rows: (row, replicas) pairs."""

    step: Step
    start: int
    end: int
    service: int = -1
    store: int = -1
    rows: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True, eq=False)
class Reading:
    """The steps of a plan by kind, and what could not be read.

    `base_at`, `top_at`, `gone_at` are filled by `milestones`: ticks at which base and top begin to
    hold and at which a shed ends the base (H where it never happens).
    """

    instance: Instance
    plan: Plan
    violations: list[Violation]
    steps: list[Timed] = field(default_factory=list)
    by_kind: dict[str, list[Timed]] = field(default_factory=dict)
    starts: dict[tuple[int, str], list[Timed]] = field(default_factory=dict)
    verifies: dict[tuple[int, str], Timed] = field(default_factory=dict)
    shifts: dict[int, Timed] = field(default_factory=dict)
    sheds: dict[int, list[Timed]] = field(default_factory=dict)
    fences: dict[int, Timed] = field(default_factory=dict)
    promotes: dict[int, Timed] = field(default_factory=dict)
    boots: dict[int, Timed] = field(default_factory=dict)

    def complain(self, rule: str, subject: str, message: str) -> None:
        self.violations.append(Violation(rule, subject, message))

    def of_kind(self, kind: str) -> list[Timed]:
        return self.by_kind.get(kind, [])


def read(instance: Instance, plan: Plan) -> Reading:
    """Index a plan. Every name that the instance does not have is a violation of F2 or F1."""
    reading = Reading(instance, plan, [])
    lookup = _Lookup(instance)
    seen: set[str] = set()
    for step in plan.steps:
        if step.id in seen:
            reading.complain("F1", step.id, "two steps have this id")
        seen.add(step.id)
        timed = _timed(reading, lookup, step)
        if timed is not None:
            reading.steps.append(timed)
            reading.by_kind.setdefault(step.kind, []).append(timed)
            _file(reading, timed)
    return reading


class _Lookup:
    """Names to indices of one instance."""

    def __init__(self, instance: Instance) -> None:
        self.service = {name: row for row, name in enumerate(instance.services.id)}
        self.store = {store.id: row for row, store in enumerate(instance.stores)}
        self._row_names = instance.row_names

    @cached_property
    def row(self) -> dict[str, int]:
        """Of servers and pools; many, and not every plan names one."""
        return {name: row for row, name in enumerate(self._row_names)}


def _timed(reading: Reading, lookup: _Lookup, step: Step) -> Timed | None:
    tick = reading.instance.tick_ms
    if step.start_ms % tick or step.end_ms % tick:
        reading.complain("F1", step.id, f"times are not whole ticks of {tick} ms")
        return None
    start, end = step.start_ms // tick, step.end_ms // tick
    if not 0 <= start <= end <= reading.instance.horizon:
        reading.complain("F1", step.id, "does not lie between 0 and the horizon")
        return None
    if step.count > QUANTITY_LIMIT:
        reading.complain("F3", step.id, "has more actions than can be counted")
        return None
    service = store = -1
    if step.kind in ("start", "verify", "shift", "shed", "stop"):
        service = lookup.service.get(step.target, -1)
        if service < 0:
            reading.complain("F2", step.id, f"no service {step.target}")
            return None
    if step.kind in ("fence", "promote"):
        store = lookup.store.get(step.target, -1)
        if store < 0:
            reading.complain("F2", step.id, f"{step.target} is no store that lost its primary")
            return None
    rows = _rows(reading, lookup, step)
    return None if rows is None else Timed(step, start, end, service, store, rows)


def _rows(reading: Reading, lookup: _Lookup, step: Step) -> tuple[tuple[int, int], ...] | None:
    if step.kind == "boot":
        row = lookup.row.get(step.target, -1)
        if row < 0:
            reading.complain("F2", step.id, f"{step.target} is lost, condemned or not evac's to boot")
            return None
        return ((row, 1),)
    if step.kind not in ("start", "shed"):
        return ()
    found = []
    for name, count in step.servers:
        row = lookup.row.get(name, -1)
        if row < 0 or count < 1:
            reading.complain("F2", step.id, f"{name} is lost, condemned or not evac's to place on")
            return None
        found.append((row, count))
    if sum(count for _, count in found) != step.count:
        reading.complain("F3", step.id, f"count {step.count} is not what its servers add up to")
    return tuple(found)


def _file(reading: Reading, timed: Timed) -> None:
    step = timed.step
    single: dict[str, Callable[[], tuple[dict[int, Timed], int]]] = {
        "shift": lambda: (reading.shifts, timed.service),
        "fence": lambda: (reading.fences, timed.store),
        "promote": lambda: (reading.promotes, timed.store),
        "boot": lambda: (reading.boots, timed.rows[0][0]),
    }
    if step.kind in single:
        table, key = single[step.kind]()
        if key in table:
            rule = {"boot": "F7", "shift": "F1"}.get(step.kind, "F14")
            reading.complain(rule, step.id, f"a second {step.kind} of {step.target}")
        table[key] = timed
    elif step.kind == "start":
        reading.starts.setdefault((timed.service, step.milestone), []).append(timed)
    elif step.kind == "shed":
        reading.sheds.setdefault(timed.service, []).append(timed)
    elif step.kind == "verify":
        if (timed.service, step.milestone) in reading.verifies:
            reading.complain("F1", step.id, "a second verify of this milestone")
        reading.verifies[(timed.service, step.milestone)] = timed


def comes_on_by_itself(instance: Instance, row: int) -> bool:
    """Whether a row needs no boot once it has power: nobody and no tool is waited for."""
    kind = int(instance.rows.boot_kind[row])
    return kind >= 0 and instance.boot_kinds[kind].by_itself


def boots_by_hand(instance: Instance, row: int) -> bool:
    """Whether only people can boot a row: what its kind takes and holds is theirs."""
    kind = int(instance.rows.boot_kind[row])
    return kind >= 0 and instance.boot_kinds[kind].by_hand


def uses_of(reading: Reading, timed: Timed) -> tuple[Use, ...]:
    """What one unit action of a step holds, from the instance alone."""
    instance, step = reading.instance, timed.step
    need = instance.tools.get(step.kind)
    manual = need.manual_uses if step.manual and need else ()
    if step.kind == "fence":
        return instance.stores[timed.store].fence_uses + manual
    if step.kind == "promote":
        found = [c for c in instance.stores[timed.store].candidates if c.id == step.candidate]
        return (found[0].uses if found else ()) + manual
    if step.kind == "boot":
        row = timed.rows[0][0]
        kind = int(instance.rows.boot_kind[row])
        own = instance.boot_kinds[kind].uses if kind >= 0 else ()
        return own if boots_by_hand(instance, row) else own + manual
    if step.kind in ("start", "shed") and timed.rows:
        pool = instance.pools[int(instance.rows.pool[timed.rows[0][0]])]
        return (pool.start_uses if step.kind == "start" else pool.shed_uses) + manual
    if step.kind == "shift":
        return instance.services.shift_uses[timed.service] + manual
    return manual


def regular_ticks(reading: Reading, timed: Timed) -> int | None:
    """Duration of a step done with its tools; None where the instance has none for it."""
    instance, s, step = reading.instance, reading.instance.services, timed.step
    if step.kind == "fence":
        return instance.stores[timed.store].fence
    if step.kind == "promote":
        found = [c.duration for c in instance.stores[timed.store].candidates if c.id == step.candidate]
        return found[0] if found else None
    if step.kind == "boot":
        kind = int(instance.rows.boot_kind[timed.rows[0][0]])
        return instance.boot_kinds[kind].duration if kind >= 0 else None
    if step.kind == "shift":
        return int(s.change[timed.service] + s.settle[timed.service])
    column = {"start": s.start, "verify": s.verify, "shed": s.shed}.get(step.kind)
    return None if column is None else int(column[timed.service])
