"""Repairs a plan midway through a run: replicas meant for servers that did not come up start elsewhere.

Nothing else changes: completed steps and the order stay, and every other step keeps its id and servers. Each
replica moves to a server that is up (or soon will be) and has capacity, preferably of the same class and
site. Replicas that fit nowhere are left out and reported. Deterministic; O(moved replicas x servers) in
numpy, and free if nothing failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import field, replace

import numpy as np

from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Instance
from evac.model.plan import Plan, Step
from evac.model.records import dataclass
from evac.model.step_id import StepId, boot_step
from evac.steps.places import Places
from evac.steps.registry import kind_of

_FAR = np.int64(2**40)


@dataclass(frozen=True, slots=True)
class Repaired:
    """plan: the repaired one. moved: replicas at a new place; left_out: (service, replicas)."""

    plan: Plan
    moved: int
    left_out: tuple[tuple[str, int], ...]


def repair(instance: Instance, plan: Plan, failed: Collection[str], begun: Collection[str]) -> Repaired:
    """failed: servers that do not come up; begun: ids of completed or running steps, which are kept.

    instance: of the plan's estate and scenario.
    """
    board = _Board(instance, plan, frozenset(failed), frozenset(begun))
    steps: list[Step] = []
    dropped = {boot_step(name) for name in failed} - set(begun)
    for step in plan.steps:
        if step.id in dropped:
            continue
        if (
            kind_of(step.kind).replicas <= 0
            or step.id in begun
            or not any(n in board.failed for n, _ in step.servers)
        ):
            steps.append(_without(step, dropped))
            continue
        steps += board.moved(_without(step, dropped))
    changed = tuple(_waiting_for(step, board) for step in steps)
    ordered = tuple(sorted(changed, key=lambda s: (s.start_ms, s.end_ms, s.id)))
    left = tuple(sorted(board.left_out.items()))
    return Repaired(replace(plan, steps=ordered), board.count, left)


def _without(step: Step, dropped: Collection[str]) -> Step:
    after = tuple(name for name in step.after if name not in dropped)
    return step if after == step.after else replace(step, after=after)


def _waiting_for(step: Step, board: _Board) -> Step:
    """Removes waits for starts that were left out, and replaces waits for split starts by their parts."""
    if not board.parts:
        return step
    after: list[str] = []
    for name in step.after:
        after += board.parts.get(name, (name,))
    found = tuple(sorted(set(after)))
    return step if found == step.after else replace(step, after=found)


@dataclass(slots=True, eq=False)
class _Board:
    """Capacity after the whole plan is done, and the replicas of each moved service. Capacity freed by a shed
    that has not begun belongs only to the steps that wait for it.
    """

    instance: Instance
    plan: Plan
    failed: frozenset[str]
    begun: frozenset[str]
    count: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    row_of: Mapping[str, int] = field(init=False)
    service_of: Mapping[str, int] = field(init=False)
    pool_of: Mapping[str, int] = field(init=False)
    alive: BoolColumn = field(init=False)
    up_ms: IntColumn = field(init=False)
    free: IntColumn = field(init=False)
    standing: dict[int, IntColumn] = field(default_factory=dict)
    taken: dict[int, set[int]] = field(default_factory=dict)
    ids: set[str] = field(init=False)
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        instance, rows = self.instance, self.instance.rows
        self.row_of = {name: row for row, name in enumerate(instance.row_names)}
        self.service_of = {name: row for row, name in enumerate(instance.services.id)}
        self.pool_of = {pool.id: row for row, pool in enumerate(instance.pools)}
        self.ids = {step.id for step in self.plan.steps}
        self.up_ms = np.where(rows.dark, _FAR, 0).astype(np.int64)
        for step in self.plan.steps:
            if kind_of(step.kind).boots and step.target in self.row_of:
                self.up_ms[self.row_of[step.target]] = step.end_ms
        self.alive = self.up_ms < _FAR
        self.alive[[self.row_of[name] for name in self.failed if name in self.row_of]] = False
        self.free = rows.capacity - rows.used
        self.places = Places(instance)
        sure = [s for s in self.plan.steps if kind_of(s.kind).replicas > 0 or s.id in self.begun]
        for service, row, count in self._changes(sure):
            self.free[row] -= instance.services.demand[service] * count

    def _changes(self, steps: Collection[Step]) -> Iterator[tuple[int, int, int]]:
        """(service, row, replicas more) of starts and sheds."""
        for step in steps:
            if sign := kind_of(step.kind).replicas:
                service = self.service_of[step.target]
                for name, count in step.servers:
                    row = self.row_of.get(name, -1)
                    if row >= 0:
                        yield service, row, sign * count

    def _placed(self, service: int) -> IntColumn:
        """(V,) replicas of a service when the plan is done, except those on failed servers."""
        found = self.standing.get(service)
        if found is None:
            found = self.standing[service] = np.zeros(len(self.instance.rows), np.int64)
            present = self.instance.present
            mine = present.service == service
            np.add.at(found, present.row[mine], present.count[mine])
            name = self.instance.services.id[service]
            for _, row, more in self._changes([s for s in self.plan.steps if s.target == name]):
                found[row] += more
            found[~self.alive & ~self.instance.rows.is_pool] = 0
        return found

    def moved(self, step: Step) -> list[Step]:
        """The step with new servers, and steps for replicas that had to go to other pools."""
        service = self.service_of[step.target]
        kept = {name: count for name, count in step.servers if name not in self.failed}
        lost = sum(count for name, count in step.servers if name in self.failed)
        others: dict[str, dict[str, int]] = {}
        for _ in range(lost):
            row = self._place(service, self.pool_of[step.pool])
            if row < 0:
                self.left_out[step.target] = self.left_out.get(step.target, 0) + 1
                continue
            self.count += 1
            pool = self.instance.pools[int(self.instance.rows.pool[row])].id
            into = kept if pool == step.pool else others.setdefault(pool, {})
            name = self.instance.row_names[row]
            into[name] = into.get(name, 0) + 1
        made = [self._with(step, step.id, step.pool, kept)] if kept else []
        made += [
            self._with(step, self._free_id(step.id), pool, placed) for pool, placed in sorted(others.items())
        ]
        if [one.id for one in made] != [step.id]:
            self.parts[step.id] = tuple(one.id for one in made)
        return made

    def _free_id(self, like: str) -> str:
        """The next ordinal of the same service and milestone."""
        id = StepId.parse(like)
        id = id.of_batch((id.batch or 0) + 1)
        while str(id) in self.ids:
            id = id.of_batch((id.batch or 0) + 1)
        self.ids.add(str(id))
        return str(id)

    def _with(self, step: Step, id: str, pool: str, placed: Mapping[str, int]) -> Step:
        """The same start on other servers: after their boots, and not before they are up."""
        boots = {boot_step(name) for name in placed} & self.ids
        other = tuple(name for name in step.after if not kind_of(StepId.parse(name).kind).boots)
        up_ms = max((int(self.up_ms[self.row_of[name]]) for name in placed), default=0)
        late = max(0, up_ms - step.start_ms)
        made = replace(
            step,
            id=id,
            pool=pool,
            servers=tuple(sorted(placed.items())),
            count=sum(placed.values()),
            after=tuple(sorted({*other, *boots})),
            start_ms=step.start_ms + late,
            end_ms=step.end_ms + late,
        )
        held: dict[str, int] = {}
        for use in self.places.uses(made):
            limit = self.instance.limits[use.limit].id
            held[limit] = held.get(limit, 0) + use.units * made.count
        return replace(made, uses=tuple(sorted(held.items())))

    def _place(self, service: int, near: int) -> int:
        """The row for one more replica: in the same pool first, then the first to be up, then the one with
        most capacity; -1 if none.
        """
        s, rows = self.instance.services, self.instance.rows
        need, placed = s.demand[service], self._placed(service)
        fits = self.alive & self.instance.eligible[service][rows.pool] & (self.free >= need).all(axis=1)
        fits &= rows.is_pool | (placed < s.per_server[service])
        fits &= self._within(rows.rack, placed, int(s.rack_cap[service]), bare=True)
        fits &= self._within(rows.feed_group, placed, int(s.feed_cap[service]), bare=True)
        fits &= self._within(rows.site, placed, int(s.site_cap[service]), bare=False)
        group = int(s.conflict[service])
        if group >= 0:
            fits[list(self._in_conflict(group))] = False
        found = np.flatnonzero(fits)
        if not len(found):
            return -1
        far = (rows.pool[found] != near).astype(np.int64)
        capacity = self.free[found].min(axis=1)
        row = int(found[np.lexsort((found, -capacity, self.up_ms[found], far))[0]])
        self.free[row] -= need
        placed[row] += 1
        if group >= 0:
            self._in_conflict(group).add(row)
        return row

    def _within(self, place: IntColumn | np.ndarray, placed: IntColumn, cap: int, bare: bool) -> BoolColumn:
        """(V,) rows whose rack, feeds or site allow one more of the service."""
        known = place >= 0
        counted = known & ~self.instance.rows.is_pool if bare else known
        sums = np.bincount(place[counted], placed[counted], int(place.max(initial=0)) + 1)
        inside = np.ones(len(place), np.bool_)
        inside[counted] = sums[place[counted]] < cap
        return inside

    def _in_conflict(self, group: int) -> set[int]:
        """Bare rows with a service of a conflict group."""
        found = self.taken.get(group)
        if found is None:
            found = self.taken[group] = set()
            for service in np.flatnonzero(self.instance.services.conflict == group).tolist():
                found |= set(
                    np.flatnonzero((self._placed(service) > 0) & ~self.instance.rows.is_pool).tolist()
                )
        return found
