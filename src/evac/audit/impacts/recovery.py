"""When each service is back after each loss: one chain for each service, for all losses at once.

The chain follows what the service waits for: approval, boots, stores, hard dependencies, tools; then its own
starts, checks and traffic moves. Limits shared with others, and servers that may have to be booted first, are
left out, so a chain is a lower bound.

Each pair (service, loss) that is down has one row; few are. Rows are computed depth by depth: dependencies
have lower depths.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from evac.audit.impacts.dependencies import Order, Pairs, RowNumbers, outside_of
from evac.audit.impacts.stores import FENCE, LOSS, NEVER, RELEASE, FamilyHits
from evac.derive.affected import Alternatives, ServiceGraph
from evac.model.estate import Estate, Rate
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.records import dataclass
from evac.steps.registry import PLANNED, START_CYCLE, STATED_KINDS

WAITED_KINDS: Final = tuple(name for name in STATED_KINDS if PLANNED[name].is_audited)
"""Kinds of steps whose tools chains wait for."""
_UNTOUCHED = -1
"""Row of services that are not down: the time there is always zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Milliseconds by service (S,): start, verify (including warm-up), change, settle; manual: step kind ->
    least time by hand; start_cycle: time to break a start cycle, None if people have no way; tools: step kind
    -> groups of services, of which it needs one each; tool_closure: those services and all their hard
    dependencies, in component order.
    """

    start: IntColumn
    verify: IntColumn
    change: IntColumn
    settle: IntColumn
    manual: dict[str, int]
    start_cycle: int | None
    tools: dict[str, tuple[tuple[int, ...], ...]]
    tool_closure: tuple[int, ...]
    starts: Rate | None


def times_of(estate: Estate, graph: ServiceGraph, order: Order) -> Times:
    """Durations of an estate; unknown ones count as zero here and are listed elsewhere."""
    services = estate.services
    tools = {kind: _tools_of(estate, graph, kind) for kind in STATED_KINDS}
    every = {tool for groups in tools.values() for group in groups for tool in group}
    return Times(
        start=np.array([s.start_ms or 0 for s in services], np.int64),
        verify=np.array([s.warm_ms + s.verify_ms for s in services], np.int64),
        change=np.array([s.traffic.change_ms for s in services], np.int64),
        settle=np.array([max(s.traffic.settle_ms, s.traffic.ttl_ms or 0) for s in services], np.int64),
        manual={
            kind: estate.limits.manual_ms[kind] for kind in STATED_KINDS if kind in estate.limits.manual_ms
        },
        start_cycle=estate.limits.manual_ms.get(START_CYCLE),
        tools=tools,
        tool_closure=_closure(graph, order, every),
        starts=estate.limits.starts,
    )


def _tools_of(estate: Estate, graph: ServiceGraph, kind: str) -> tuple[tuple[int, ...], ...]:
    groups = estate.tool_groups(PLANNED[kind].tools)
    return tuple(tuple(graph.index[name] for name in group) for group in groups)


def _closure(graph: ServiceGraph, order: Order, requested: set[int]) -> tuple[int, ...]:
    """Components that a set of services needs, dependencies first."""
    seen, work = set(requested), sorted(requested)
    while work:
        for other in graph.hard[work.pop()]:
            if other not in seen:
                seen.add(other)
                work.append(other)
    return tuple(sorted({order.component[service] for service in seen}))


@dataclass(frozen=True, slots=True, eq=False)
class Damage:
    """What chains start from, one row for each pair that is down."""

    pairs: Pairs
    losses: int
    """Number of losses."""
    starts: IntColumn
    """Replicas to start for base."""
    shift: BoolColumn
    """Whether traffic must move."""
    stuck: BoolColumn
    """Cannot be placed, or has nothing to start from."""
    circle: BoolColumn
    """Part of a start cycle that people must break first."""
    by_loss: RowNumbers
    """Rows in order of their loss."""
    edges: RowNumbers
    """Start of each loss in that order."""

    def rows_of(self, loss: int) -> RowNumbers:
        """Rows of one loss, sorted by service."""
        return self.by_loss[self.edges[loss] : self.edges[loss + 1]]


def by_loss_of(loss: IndexColumn, losses: int) -> tuple[RowNumbers, RowNumbers]:
    """Rows in order of their loss, and the start of each loss."""
    order = np.argsort(loss, kind="stable")
    return order, np.searchsorted(loss[order], np.arange(losses + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """When everything is back, by chains alone."""

    ready: IntColumn
    """For each row of the damage: milliseconds from the loss to base, including detection and approval; NEVER
    if nothing restores it.
    """
    alone: BoolColumn
    """For each row of the damage: comes back without people, and so without a tool."""
    tool_ready: dict[str, IntColumn]
    """Step kind -> (L,) when its tools are back, before any manual way."""
    tools_down: BoolColumn
    """(L,) whether any tool is down."""
    released: IntColumn
    """(L,) when steps begin."""


def recovery(estate: Estate, times: Times, chains: Chains, damage: Damage) -> Recovery:
    """Chains of all services under all losses. chains: of the pairs of the damage."""
    every_tool = sorted({t for found in times.tools.values() for group in found for t in group})
    rows = {tool: np.flatnonzero(damage.pairs.service == tool) for tool in every_tool}
    never = np.full(len(damage.pairs), NEVER, np.int64)
    tool_ready = _all_there(times, damage, rows, never)
    tools_down = np.zeros(damage.losses, np.bool_)
    tools_down[damage.pairs.loss[np.isin(damage.pairs.service, every_tool)]] = True
    released = _release(estate, times, tool_ready["approve"] > 0)
    walk = _Walk(chains, times, damage)
    if tools_down.any():
        tool_ready = _tools_back(walk, rows, tool_ready, released)
    ready, alone = walk.run(chains.depths, tool_ready, released)
    return Recovery(ready, alone, tool_ready, tools_down, released)


def _release(estate: Estate, times: Times, approve: BoolColumn) -> IntColumn:
    """Approval takes as long as by hand if its tools are down and that is known to take longer.

    People decide, so a decision never waits for a tool; that the tools are lost is a finding.
    """
    lead = estate.lead
    by_hand = lead.detection_ms + max(lead.approval_ms, times.manual.get("approve", 0))
    return np.where(approve, by_hand, lead.ms).astype(np.int64)


def _all_there(
    times: Times, damage: Damage, rows: dict[int, RowNumbers], ready: IntColumn
) -> dict[str, IntColumn]:
    """Step kind -> (L,) when one tool of each group is available. ready: by row of the damage."""
    at: dict[int, IntColumn] = {}
    for tool, hit in rows.items():
        at[tool] = np.zeros(damage.losses, np.int64)
        at[tool][damage.pairs.loss[hit]] = ready[hit]
    nothing = np.zeros(damage.losses, np.int64)
    return {
        kind: np.maximum.reduce(
            [nothing, *(np.minimum.reduce([at[tool] for tool in group]) for group in times.tools[kind])]
        )
        for kind in WAITED_KINDS
    }


def _tools_back(
    walk: _Walk,
    rows: dict[int, RowNumbers],
    found: dict[str, IntColumn],
    released: IntColumn,
) -> dict[str, IntColumn]:
    """When the tools of each kind are back.

    Initially none that is down comes back; each round finds those that can be restored with available tools,
    or by hand, and when. The remaining ones wait for each other.
    """
    damage, depths = walk.damage, walk.chains.of_components(walk.times.tool_closure)
    for _ in range(len(walk.times.tool_closure) + 2):
        ready, _ = walk.run(depths, found, released)
        fresh = _all_there(walk.times, damage, rows, ready)
        if all((fresh[kind] == found[kind]).all() for kind in WAITED_KINDS):
            break
        found = fresh
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Depth:
    """Rows of the damage whose components depend on lower depths only.

    rows: of the damage, by unit (a component under a loss); first: each unit's first entry in rows; loss: of
    each unit; unit: of each row. needed: rows that units wait for, as (unit, row of the damage) with the
    first entry of each waiting unit.
    """

    rows: RowNumbers
    unit: RowNumbers
    first: RowNumbers
    loss: IndexColumn
    waiting: RowNumbers
    needed: RowNumbers
    needed_first: RowNumbers
    to_start: BoolColumn
    """For each entry of needed, whether it is needed to start."""
    choices: _Choices


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """Alternatives that units of a depth need one of: an entry for each unit and group."""

    unit: RowNumbers
    to_start: BoolColumn
    rows: RowNumbers
    """Rows of the damage, group by group."""
    first: RowNumbers
    """Start of each group in rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Components as columns: of each service (S,); depth of each; outside[start[c]:start[c + 1]]: services
    that component c needs.
    """

    component: IntColumn
    depth: IntColumn
    start: IntColumn
    outside: IntColumn
    to_start: BoolColumn
    """For each entry of outside, whether it is needed to start."""
    choices: dict[int, tuple[Alternatives, ...]]
    """Component -> its choices; it needs one service of each."""


def levels_of(order: Order, graph: ServiceGraph) -> Levels:
    """Components of hard dependencies, each deeper than everything it needs. order: of all needs of the
    graph, including alternatives.
    """
    outsides, starts = outside_of(graph, order) if graph.has_alternatives else (order.outside, order.to_start)
    start = np.zeros(len(outsides) + 1, np.int64)
    np.cumsum([len(found) for found in outsides], out=start[1:])
    outside = np.array([service for found in outsides for service in found], np.int64)
    to_start = np.array(
        [
            service in needed
            for found, needed in zip(outsides, map(frozenset, starts), strict=True)
            for service in found
        ],
        np.bool_,
    )
    choices: dict[int, tuple[Alternatives, ...]] = {}
    for service, group in graph.choices:
        own = order.component[service]
        if all(order.component[member] != own for member in group.members):
            choices[own] = (*choices.get(own, ()), group)
    return Levels(np.array(order.component, np.int64), _depths(order), start, outside, to_start, choices)


class Chains:
    """Dependencies among all pairs that are down, depth by depth."""

    def __init__(
        self, graph: ServiceGraph, levels: Levels, families: FamilyHits, pairs: Pairs, losses: int
    ) -> None:
        self._levels, self._pairs, self._losses = levels, pairs, losses
        self._component = levels.component[pairs.service]
        self._depth = levels.depth[self._component]
        self._key = pairs.service.astype(np.int64) * losses + pairs.loss
        self.stores = [self._stores(graph.families, families, first) for first in (FENCE, RELEASE, LOSS)]
        self.start_stores = [
            self._stores(graph.start_families, families, first) for first in (FENCE, RELEASE, LOSS)
        ]
        self.rebuild_ms = self._rebuilds(graph.rebuilt, families)
        self.depths = self._split(np.arange(len(pairs)))

    def of_components(self, requested: tuple[int, ...]) -> list[_Depth]:
        """The depths with some components only."""
        return self._split(np.flatnonzero(np.isin(self._component, requested)))

    def _split(self, rows: RowNumbers) -> list[_Depth]:
        order = np.lexsort((self._pairs.loss[rows], self._component[rows], self._depth[rows]))
        rows = rows[order]
        edges = np.flatnonzero(np.diff(self._depth[rows])) + 1
        return [self._one_depth(part) for part in np.split(rows, edges) if len(part)]

    def _one_depth(self, rows: RowNumbers) -> _Depth:
        unit_key = self._component[rows] * self._losses + self._pairs.loss[rows]
        starts = np.r_[True, unit_key[1:] != unit_key[:-1]]
        first = np.flatnonzero(starts)
        loss = self._pairs.loss[rows[first]]
        levels, component = self._levels, self._component[rows[first]]
        lengths = levels.start[component + 1] - levels.start[component]
        before = np.cumsum(lengths) - lengths
        place = np.arange(int(lengths.sum())) + np.repeat(levels.start[component] - before, lengths)
        waiting = np.flatnonzero(lengths)
        needed = self._row_of(levels.outside[place], np.repeat(loss, lengths))
        to_start, unit = levels.to_start[place], np.cumsum(starts) - 1
        choices = self._choices(component, loss)
        return _Depth(rows, unit, first, loss, waiting, needed, before[waiting], to_start, choices)

    def _choices(self, component: IntColumn, loss: IndexColumn) -> _Choices:
        """Alternatives that units need; component, loss: of each."""
        known = self._levels.choices
        found = [
            (unit, group)
            for unit, own in enumerate(component.tolist() if known else ())
            for group in known.get(own, ())
        ]
        sizes = np.array([len(group.members) for _, group in found], np.int64)
        members = np.array([member for _, group in found for member in group.members], np.int64)
        units = np.array([unit for unit, _ in found], np.int64)
        rows = self._row_of(members, np.repeat(loss[units], sizes)) if found else members
        to_start = np.array([group.to_start for _, group in found], np.bool_)
        return _Choices(units, to_start, rows, np.cumsum(sizes) - sizes)

    def _row_of(self, service: IntColumn, loss: IndexColumn) -> RowNumbers:
        """Rows of some pairs; the zero row for those that are not down."""
        requested = service * self._losses + loss
        place = np.searchsorted(self._key, requested)
        found = self._key[np.minimum(place, len(self._key) - 1)] == requested
        return np.where(found, place, _UNTOUCHED)

    def _rebuilds(self, rebuilt: tuple[tuple[str, ...], ...], families: FamilyHits) -> IntColumn:
        """How long each pair takes to rebuild stores once everything it needs is there."""
        longest = np.zeros(len(self._key) + 1, np.int64)
        for service, names in enumerate(rebuilt):
            for family in (families.index[name] for name in names if name in families.index):
                losses = families.losses[family]
                rows = self._row_of(np.full(len(losses), service, np.int64), losses)
                np.maximum.at(longest, rows, families.rebuild_ms[family])
        return longest[:-1]

    def _stores(
        self, needed: tuple[tuple[str, ...], ...], families: FamilyHits, first: int
    ) -> tuple[IntColumn, BoolColumn]:
        """For each pair, time until the last needed store is back whose return begins with one thing, and
        whether any such store is lost. needed: families by service.
        """
        longest = np.zeros(len(self._key) + 1, np.int64)
        found = [
            (service, family)
            for service, names in enumerate(needed)
            for name in names
            if (family := families.index.get(name)) is not None and len(families.losses[family])
        ]
        if found:
            chosen = [families.begins[family] == first for _, family in found]
            each = np.array([int(some.sum()) for some in chosen], np.int64)
            service = np.repeat(np.array([service for service, _ in found], np.int64), each)
            lost = np.concatenate(
                [families.losses[family][some] for (_, family), some in zip(found, chosen, strict=True)]
            )
            rows = self._row_of(service, lost)
            ready = np.concatenate(
                [families.ready_ms[family][some] for (_, family), some in zip(found, chosen, strict=True)]
            )
            np.maximum.at(longest, rows, ready + 1)
        longest = longest[:-1]
        return np.maximum(longest - 1, 0), longest > 0


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """Computes chains with given durations, starting from a damage. chains: of the pairs of the damage."""

    chains: Chains
    times: Times
    damage: Damage

    def run(
        self, depths: list[_Depth], tool_ready: dict[str, IntColumn], released: IntColumn
    ) -> tuple[IntColumn, BoolColumn]:
        """Ready times of the rows of some depths, 0 for all others; and which rows wait for no one."""
        chains, damage = self.chains, self.damage
        ready, alone = np.zeros(len(damage.pairs) + 1, np.int64), np.ones(len(damage.pairs) + 1, np.bool_)
        acts = (damage.starts > 0) | damage.shift | damage.circle | damage.stuck | (chains.rebuild_ms > 0)
        acts = acts | chains.stores[FENCE][1] | chains.stores[RELEASE][1]
        fenced = self._step("fence", released, 0, tool_ready, None)
        begin = self._step("promote", fenced, 0, tool_ready, None)
        for depth in depths:
            loss = self.damage.pairs.loss[depth.rows]
            after = begin[loss], released[loss], np.zeros(len(loss), np.int64)
            serves = self._there(depth, ready[depth.needed], after, chains.stores)
            needed = np.where(depth.to_start, ready[depth.needed], 0)
            starts = self._there(depth, needed, after, chains.start_stores)
            self._await_choices(depth.choices, ready, serves, starts)
            nobody = _waits_for_nobody(depth, acts[depth.rows], alone)
            alone[depth.rows] = nobody[depth.unit]
            serves = np.where(nobody, serves, np.maximum(serves, released[depth.loss]))
            starts = np.maximum(starts, released[depth.loss])
            done = self._own(depth, starts[depth.unit], serves[depth.unit], tool_ready, nobody[depth.unit])
            together = np.minimum(np.maximum.reduceat(done, depth.first), NEVER)
            ready[depth.rows] = together[depth.unit]
        return ready[:-1], alone[:-1]

    def _await_choices(
        self, choices: _Choices, ready: IntColumn, serves: IntColumn, starts: IntColumn
    ) -> None:
        """Of each group of alternatives, wait for the first that is ready."""
        if len(choices.unit):
            first = np.minimum.reduceat(ready[choices.rows], choices.first)
            np.maximum.at(serves, choices.unit, first)
            np.maximum.at(starts, choices.unit[choices.to_start], first[choices.to_start])

    def _there(
        self,
        depth: _Depth,
        needed: IntColumn,
        after: tuple[IntColumn, ...],
        stores: list[tuple[IntColumn, BoolColumn]],
    ) -> IntColumn:
        """When everything that each unit waits for is ready: outside dependencies and stores, each kind of
        store after the event that its return begins with.
        """
        waits = np.zeros(len(depth.loss), np.int64)
        if len(depth.waiting):
            latest = np.maximum.reduceat(needed, depth.needed_first)
            waits[depth.waiting] = np.maximum(waits[depth.waiting], latest)
        for begin, (store, has_store) in zip(after, stores, strict=True):
            back = np.minimum(begin + store[depth.rows], NEVER)
            back = np.where(has_store[depth.rows], back, 0)
            waits = np.maximum(waits, np.maximum.reduceat(back, depth.first))
        return waits

    def _own(
        self,
        depth: _Depth,
        startable: IntColumn,
        waits: IntColumn,
        tool_ready: dict[str, IntColumn],
        nobody: BoolColumn,
    ) -> IntColumn:
        """Steps of each service itself: starts after what its component needs to start, the check after all
        starts of the component and all dependencies; nobody: by row, whether it serves without a check.
        """
        times, damage, rows = self.times, self.damage, depth.rows
        service, loss, starts = damage.pairs.service[rows], damage.pairs.loss[rows], damage.starts[rows]
        begin = np.where(damage.circle[rows], startable + (times.start_cycle or 0), startable)
        started = self._step("start", begin, times.start[service], tool_ready, loss) + self._wave(starts)
        together = np.maximum.reduceat(np.where(starts > 0, started, 0), depth.first)
        done = np.minimum(np.maximum(together[depth.unit], waits), NEVER)
        check = times.verify[service] + self.chains.rebuild_ms[rows]
        done = np.where(nobody, done + check, self._step("verify", done, check, tool_ready, loss))
        moved = self._step("shift", done, times.change[service], tool_ready, loss) + times.settle[service]
        done = np.where(damage.shift[rows], moved, done)
        return np.where(damage.stuck[rows], NEVER, done)

    def _wave(self, starts: IntColumn) -> IntColumn:
        """Windows of the company-wide start rate that a service fills by itself."""
        rate = self.times.starts
        if rate is None:
            return np.zeros_like(starts)
        windows = np.maximum(-(-starts // rate.count) - 1, 0)
        return np.asarray(windows * rate.window_ms, np.int64)

    def _step(
        self,
        kind: str,
        begin: IntColumn,
        duration: int | IntColumn,
        tool_ready: dict[str, IntColumn],
        loss: IndexColumn | None,
    ) -> IntColumn:
        """End of a step: once its tools are back, or by hand at once, whichever is sooner.

        loss: of each entry; None if there is one entry for each loss.
        """
        tools = tool_ready[kind] if loss is None else tool_ready[kind][loss]
        with_tools = np.maximum(begin, tools) + duration
        manual = self.times.manual.get(kind)
        if manual is None:
            return np.asarray(np.minimum(with_tools, NEVER), np.int64)
        by_hand = begin + np.maximum(duration, manual)
        sooner = np.where(tools > 0, np.minimum(with_tools, by_hand), with_tools)
        return np.asarray(np.minimum(sooner, NEVER), np.int64)


def _waits_for_nobody(depth: _Depth, acts: BoolColumn, alone: BoolColumn) -> BoolColumn:
    """(units,) whether everything that a unit waits for happens by itself, as `untimed.returns_alone` decides
    for one loss. acts: by row of the depth, whether someone acts for it; alone: by row of the damage, lower
    depths.
    """
    found = ~np.logical_or.reduceat(acts, depth.first)
    if len(depth.waiting):
        found[depth.waiting] &= np.logical_and.reduceat(alone[depth.needed], depth.needed_first)
    if len(depth.choices.unit):
        any_alone = np.logical_or.reduceat(alone[depth.choices.rows], depth.choices.first)
        np.logical_and.at(found, depth.choices.unit, any_alone)
    return np.asarray(found)


def _depths(order: Order) -> IntColumn:
    """(components,) one more than the greatest depth among a component's dependencies."""
    found = [0] * len(order.members)
    for number, outside in enumerate(order.outside):
        if outside:
            found[number] = 1 + max(found[order.component[s]] for s in outside)
    return np.array(found, np.int64)
