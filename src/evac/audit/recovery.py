"""When each service is back after each loss: one chain a service, for all losses at once.

The chain follows what the service waits for: approval, boots, stores, hard dependencies, tools; then
its own starts, checks and the moving of its traffic. Limits shared with others are left out here, so
a chain is the soonest possible time; `schedule` adds the waiting in line for the large losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.audit.closure import Order
from evac.audit.presence import CountTable
from evac.audit.stores import NEVER, FamilyHits
from evac.model.affected import ServiceGraph
from evac.model.estate import Estate, Rate
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.steps import STEP_KINDS, TOOLS_OF_KIND, StepKind

WAITED_KINDS: tuple[StepKind, ...] = ("approve", "boot", "fence", "promote", "shift", "start", "verify")


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Milliseconds per service (S,): start, verify (warm-up included), change, settle; manual: step
    kind -> least time by hand; tools: step kind -> services it cannot do without; tool_closure:
    those services and all they hard-depend on, in component order; boot: slowest boot of a class;
    start_known (S,)."""

    start: IntColumn
    verify: IntColumn
    change: IntColumn
    settle: IntColumn
    manual: dict[StepKind, int]
    tools: dict[StepKind, tuple[int, ...]]
    tool_closure: tuple[int, ...]
    boot: int
    start_known: BoolColumn
    starts: Rate | None


def times_of(estate: Estate, graph: ServiceGraph, order: Order) -> Times:
    """Durations of an estate; unknown ones count as nothing here and are listed elsewhere."""
    services = estate.services
    tools = {kind: _tools_of(estate, graph, kind) for kind in STEP_KINDS}
    return Times(
        start=np.array([s.start_ms or 0 for s in services], np.int64),
        verify=np.array([s.warm_ms + s.verify_ms for s in services], np.int64),
        change=np.array([s.traffic.change_ms for s in services], np.int64),
        settle=np.array([max(s.traffic.settle_ms, s.traffic.ttl_ms or 0) for s in services], np.int64),
        manual={
            kind: estate.limits.manual_ms[kind] for kind in STEP_KINDS if kind in estate.limits.manual_ms
        },
        tools=tools,
        tool_closure=_closure(graph, order, {t for found in tools.values() for t in found}),
        boot=max((c.boot_ms or 0 for c in estate.classes), default=0),
        start_known=np.array([s.start_ms is not None for s in services], np.bool_),
        starts=estate.limits.starts,
    )


def _tools_of(estate: Estate, graph: ServiceGraph, kind: StepKind) -> tuple[int, ...]:
    names = {name for role in TOOLS_OF_KIND[kind] for name in estate.tools.get(role, ())}
    return tuple(sorted(graph.index[name] for name in names))


def _closure(graph: ServiceGraph, order: Order, wanted: set[int]) -> tuple[int, ...]:
    """Components that a set of services needs, what is needed first."""
    seen, work = set(wanted), sorted(wanted)
    while work:
        for other in graph.hard[work.pop()]:
            if other not in seen:
                seen.add(other)
                work.append(other)
    return tuple(sorted({order.component[service] for service in seen}))


@dataclass(frozen=True, slots=True, eq=False)
class Damage:
    """What a chain starts from, by service and loss (S, L): down; starts: replicas to start for
    base; shift: traffic to move; stuck: has no place, or nothing to start from; boots (S, L):
    waits for dark servers."""

    down: BoolColumn
    starts: CountTable
    shift: BoolColumn
    stuck: BoolColumn
    boots: BoolColumn


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """ready (S, L): milliseconds from the loss to base, detection and approval included; 0 where
    nothing is down, NEVER where nothing brings it back. tool_ready: step kind -> (L,) when its
    tools are back, before any way by hand; tools_down: (L,); released: (L,) when steps begin."""

    ready: CountTable
    tool_ready: dict[StepKind, IntColumn]
    tools_down: BoolColumn
    released: IntColumn


def recovery(
    estate: Estate, graph: ServiceGraph, order: Order, times: Times, families: FamilyHits, damage: Damage
) -> Recovery:
    """Chains of all services under all losses."""
    losses = damage.down.shape[1]
    tool_services = sorted({t for found in times.tools.values() for t in found})
    tools_down = np.asarray(damage.down[tool_services].any(axis=0))
    tool_ready = {kind: np.zeros(losses, np.int64) for kind in WAITED_KINDS}
    released = np.full(losses, estate.detection_ms + estate.approval_ms, np.int64)
    some = np.flatnonzero(tools_down).astype(np.int32)
    if len(some):
        part = _Chains(graph, order, times, families, damage, some)
        found = part.tools(estate)
        for kind in WAITED_KINDS:
            tool_ready[kind][some] = found[kind]
        released[some] = part.released
    everything = _Chains(graph, order, times, families, damage, np.arange(losses, dtype=np.int32))
    everything.released = released
    ready = everything.run(range(len(order.members)), tool_ready)
    return Recovery(ready, tool_ready, tools_down, released)


class _Chains:
    """Chains over some losses, component by component."""

    def __init__(
        self,
        graph: ServiceGraph,
        order: Order,
        times: Times,
        families: FamilyHits,
        damage: Damage,
        numbers: IndexColumn,
    ) -> None:
        self._graph, self._order, self._times = graph, order, times
        self._families = families
        whole = len(numbers) == damage.down.shape[1]
        pick = slice(None) if whole else numbers
        self._down, self._starts = damage.down[:, pick], damage.starts[:, pick]
        self._shift, self._stuck, self._boots = (
            damage.shift[:, pick],
            damage.stuck[:, pick],
            damage.boots[:, pick],
        )
        self._numbers = numbers
        self.released = np.zeros(len(numbers), np.int64)

    def tools(self, estate: Estate) -> dict[StepKind, IntColumn]:
        """When the tools of each kind are back.

        At first none of those that are down comes back; each round finds those that can be brought
        back with what there is, or by hand, and when. What is left after that waits for itself.
        """
        down = {kind: self._any_down(self._times.tools[kind]) for kind in WAITED_KINDS}
        found = {kind: np.where(hit, NEVER, 0).astype(np.int64) for kind, hit in down.items()}
        self.released = self._release(estate, down["approve"])
        for _ in range(len(self._times.tool_closure) + 2):
            ready = self.run(self._times.tool_closure, found)
            fresh = {kind: _latest(ready, self._times.tools[kind]) for kind in WAITED_KINDS}
            if all((fresh[kind] == found[kind]).all() for kind in WAITED_KINDS):
                break
            found = fresh
        return found

    def _any_down(self, services: tuple[int, ...]) -> BoolColumn:
        return np.asarray(self._down[list(services)].any(axis=0))

    def _release(self, estate: Estate, approve: BoolColumn) -> IntColumn:
        """Approval takes as long as by hand once its tools are down, if that is known to take longer.

        People decide, so a decision never waits for a tool; that the tools are lost is a finding.
        """
        usual = estate.detection_ms + estate.approval_ms
        by_hand = estate.detection_ms + max(estate.approval_ms, self._times.manual.get("approve", 0))
        return np.where(approve, by_hand, usual).astype(np.int64)

    def run(self, chosen: range | tuple[int, ...], tool_ready: dict[StepKind, IntColumn]) -> CountTable:
        """(S, losses) ready times of the services of some components."""
        ready = np.zeros(self._down.shape, np.int32)
        for number in chosen:
            members, outside = self._order.members[number], self._order.outside[number]
            hit = self._down[list(members)].any(axis=0)
            if not hit.any():
                continue
            waits = np.where(hit, self.released, 0)
            if outside:
                waits = np.maximum(waits, ready[list(outside)].max(axis=0))
            for service in members:
                waits = np.maximum(waits, self._stores_back(service, tool_ready))
            done = [self._one(service, waits, tool_ready) for service in members]
            together = np.maximum.reduce(done)
            ready[list(members)] = np.where(hit, np.minimum(together, NEVER), 0)
        return ready

    def _stores_back(self, service: int, tool_ready: dict[StepKind, IntColumn]) -> IntColumn:
        back = np.zeros(len(self._numbers), np.int64)
        for name in self._graph.families[service]:
            family = self._families.index.get(name)
            if family is None or not len(self._families.losses[family]):
                continue
            lost, times = self._families.losses[family], self._families.ready_ms[family]
            place = np.searchsorted(lost, self._numbers)
            here = (place < len(lost)) & (lost[np.minimum(place, len(lost) - 1)] == self._numbers)
            own = np.where(here, times[np.minimum(place, len(lost) - 1)], 0)
            begin = self._wait("promote", self._wait("fence", self.released, tool_ready), tool_ready)
            back = np.maximum(back, np.where(here, np.minimum(begin + own, NEVER), 0))
        return back

    def _one(self, service: int, waits: IntColumn, tool_ready: dict[StepKind, IntColumn]) -> IntColumn:
        """Own steps of one service after what it waits for."""
        times = self._times
        starts = self._starts[service]
        needs_start = starts > 0
        begin = np.maximum(waits, self._boot_wait(service, tool_ready))
        started = self._step("start", begin, times.start[service], tool_ready) + self._wave(starts)
        done = np.where(needs_start, started, waits)
        done = self._step("verify", done, times.verify[service], tool_ready)
        moved = self._step("shift", done, times.change[service], tool_ready) + times.settle[service]
        done = np.where(self._shift[service], moved, done)
        return np.where(self._stuck[service], NEVER, done)

    def _wave(self, starts: CountTable) -> IntColumn:
        """Windows of the company's rate of starts that a service fills by itself."""
        rate = self._times.starts
        if rate is None:
            return np.zeros_like(starts, np.int64)
        windows = np.maximum(-(-starts.astype(np.int64) // rate.count) - 1, 0)
        return np.asarray(windows * rate.window_ms, np.int64)

    def _boot_wait(self, service: int, tool_ready: dict[StepKind, IntColumn]) -> IntColumn:
        boots = self._boots[service]
        if not boots.any():
            return np.zeros(len(self._numbers), np.int64)
        up = self._step("boot", self.released, self._times.boot, tool_ready)
        return np.where(boots, up, 0)

    def _step(
        self, kind: StepKind, begin: IntColumn, duration: int, tool_ready: dict[StepKind, IntColumn]
    ) -> IntColumn:
        """End of a step: with its tools as soon as they are back, or by hand at once, whichever is sooner."""
        with_tools = np.maximum(begin, tool_ready[kind]) + duration
        manual = self._times.manual.get(kind)
        if manual is None or not tool_ready[kind].any():
            return np.asarray(np.minimum(with_tools, NEVER), np.int64)
        by_hand = begin + max(int(duration), manual)
        sooner = np.where(tool_ready[kind] > 0, np.minimum(with_tools, by_hand), with_tools)
        return np.asarray(np.minimum(sooner, NEVER), np.int64)

    def _wait(self, kind: StepKind, begin: IntColumn, tool_ready: dict[StepKind, IntColumn]) -> IntColumn:
        return self._step(kind, begin, 0, tool_ready)


def _latest(ready: CountTable, services: tuple[int, ...]) -> IntColumn:
    if not services:
        return np.zeros(ready.shape[1], np.int64)
    return np.asarray(ready[list(services)].max(axis=0), np.int64)
