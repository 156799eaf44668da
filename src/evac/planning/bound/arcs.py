"""Legal arcs between milestones and their least delays (section 5, rule R2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from evac.model.instance import Instance
from evac.planning.bound.heads import Heads, by_hand, needs_tools
from evac.planning.bound.room import Needs


def arcs_of(instance: Instance, needs: Needs, heads: Heads) -> dict[tuple[int, int], int]:
    """(milestone, milestone it waits for) -> ticks at least between them."""
    table = _Arcs(instance, needs, heads, {s: members for members in heads.components for s in members})
    for members in heads.components:
        table.add_component(members)
    for s in range(len(instance.services)):
        table.add_top(s)
    for d in range(len(instance.stores)):
        table.add_store(d)
    return table.found


@dataclass(slots=True, eq=False)
class _Arcs:
    instance: Instance
    needs: Needs
    heads: Heads
    members: dict[int, list[int]]
    """Of each service, the members of its component."""
    found: dict[tuple[int, int], int] = field(default_factory=dict)

    def _add(self, i: int, j: int, delay: int) -> None:
        if i != j:
            delay = min(delay, self.instance.horizon)
            self.found[i, j] = max(self.found.get((i, j), 0), delay)

    def _add_tools(self, i: int, kind: str, delay: int) -> None:
        """Arcs to the tools of a kind of step that nobody can do by hand."""
        if needs_tools(self.instance, kind) and not by_hand(self.instance, kind):
            for tool in self.instance.tools[kind].services:
                self._add(i, tool, delay)

    def _outside(self, members: list[int]) -> tuple[list[int], list[int]]:
        """Milestones a lost component waits for, and running bases that it needs."""
        services, inside = self.instance.services, set(members)
        needed = sorted({j for s in members for j in services.hard[s] if j not in inside})
        stores = sorted({d for s in members for d in services.lost_stores[s]})
        first_store = 2 * len(services)
        lost = [j for j in needed if services.base_lost[j]] + [first_store + d for d in stores]
        return lost, [j for j in needed if not services.base_lost[j]]

    def add_component(self, members: list[int]) -> None:
        services, heads = self.instance.services, self.heads
        lost, running = self._outside(members)
        for s in members:
            for j in running:
                self._add(s, j, 0)
            for other in members:
                self._add(s, other, 0)
        if not services.base_lost[members[0]]:
            return
        tail = heads.tail[members[0]]
        starting = [s for s in members if self.needs.base_starts[s] > 0]
        longest = max((heads.base_wave[s] + int(services.start[s]) for s in starting), default=0)
        for s in members:
            for j in lost:
                self._add(s, j, longest + tail)
            if self.needs.base_starts[s] > 0:
                self._add_tools(s, "start", heads.base_wave[s] + int(services.start[s]) + tail)
            self._add_tools(s, "verify", tail)
            if services.shift[s]:
                self._add_tools(s, "shift", int(services.change[s] + services.settle[s]))

    def add_top(self, s: int) -> None:
        services, heads = self.instance.services, self.heads
        top = len(services) + s
        self._add(top, s, 0)
        for j in services.soft[s]:
            self._add(top, j, 0)
        if not services.top_lost[s] or self.needs.top_starts[s] == 0:
            return
        delay = heads.top_wave[s] + int(services.start[s] + services.verify[s])
        if services.base_lost[s]:
            for j in self._outside(self.members[s])[0]:
                self._add(top, j, delay)
        self._add_tools(top, "start", delay)
        self._add_tools(top, "verify", int(services.verify[s]))

    def add_store(self, d: int) -> None:
        store, primary = self.instance.stores[d], 2 * len(self.instance.services) + d
        allowed = store.allowed
        if not allowed:
            return
        least = min(c.duration for c in allowed)
        self._add_tools(primary, "fence", store.fence + least)
        if all(c.kind == "promote" for c in allowed):
            self._add_tools(primary, "promote", least)
