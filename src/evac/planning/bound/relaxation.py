"""The linear relaxation of chains, capacity and final placement, solved once by HiGHS.

It gives prices of capacity and an initial split of weight. Its results are not trusted: duals are rounded to
integers, and only their exact evaluation counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from evac.model.records import dataclass
from evac.planning.bound.facts import Facts
from evac.planning.bound.problem import CapacityChoice, FloatTable, Network
from evac.planning.bound.supply import waits_of

_INFINITE = float("inf")
_ITERATIONS = 200_000
_MOST_GROUPS = 50
"""More pools than this are priced in groups of similar ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """Duals in units of weight (arcs, shares) or of weight x ticks (prices).

    objective: weighted ticks; arcs: multipliers in the order of the network; capacity (P, R);
    fit, site: (service, pool or site) -> price; shares: of each capacity choice, milestone -> weight;
    undone (N): the u of each lost milestone.
    """

    objective: float
    arcs: FloatTable
    capacity: FloatTable
    fit: dict[tuple[int, int], float]
    site: dict[tuple[int, int], float]
    shares: tuple[dict[int, float], ...]
    outage: FloatTable
    undone: FloatTable


@dataclass(slots=True, eq=False)
class _Builder:
    """Rows of a linear programme, one coefficient at a time, and the meaning of its columns."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def column(self, lower: float, upper: float, cost: float = 0.0) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.cost.append(cost)
        return len(self.cost) - 1

    def row(self, at_least: float, *terms: tuple[int, float]) -> int:
        for column, value in terms:
            if value != 0.0:
                self.index.append(column)
                self.value.append(value)
        self.starts.append(len(self.index))
        self.row_lower.append(at_least)
        return len(self.row_lower) - 1


@dataclass(slots=True, eq=False)
class Relaxation:
    """One linear programme. Outages are in horizons, costs in shares of the lost weight.

    running: running milestones may also give up capacity, at their weight for the whole horizon. That
    programme is no bound, but its prices show the value of capacity.
    """

    facts: Facts
    network: Network
    running: bool = False
    choices: tuple[CapacityChoice, ...] = ()
    build: _Builder = field(default_factory=_Builder)
    outage: list[int] = field(default_factory=list)
    undone: dict[int, int] = field(default_factory=dict)
    arc_rows: list[int] = field(default_factory=list)
    capacity_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    fit_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    site_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    cut_rows: list[tuple[int, int, list[int]]] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    """Price group of each pool."""
    capacity: FloatTable = field(default_factory=lambda: np.ones((1, 1)))
    """(groups, R) usable capacity in units of the largest."""
    unit: FloatTable = field(default_factory=lambda: np.ones(1))
    whole: float = 1.0
    lost: list[bool] = field(default_factory=list)
    fixed: list[bool] = field(default_factory=list)
    head: list[int] = field(default_factory=list)
    need: list[int] = field(default_factory=list)
    lead: list[int] = field(default_factory=list)
    """Columns of the facts, read individually."""

    def __post_init__(self) -> None:
        for name in ("lost", "fixed", "head", "need", "lead"):
            setattr(self, name, getattr(self.facts, name).tolist())

    def solve(self) -> Relaxed:
        """Builds and solves it."""
        self.whole = float(max(1, int(self.facts.weight.sum())))
        self._group_pools()
        self._milestones()
        self._arcs()
        self._placement()
        for number, choice in enumerate(self.choices):
            self._cut(number, choice, list(choice.sizes))
        solution, duals, objective = _solve(self.build)
        for _ in range(3 if self.choices else 0):
            if not self._separate(solution):
                break
            solution, duals, objective = _solve(self.build)
        return self._read(solution, duals, objective)

    def _group_pools(self) -> None:
        pools, usable = self.facts.instance.pools, self.facts.capacity.usable_pool
        count = min(len(pools), _MOST_GROUPS)
        order = sorted(range(len(pools)), key=lambda p: (pools[p].site, p))
        self.group = [0] * len(pools)
        for place, p in enumerate(order):
            self.group[p] = place * count // len(pools)
        capacity = np.zeros((count, usable.shape[1]))
        np.add.at(capacity, self.group, usable.astype(np.float64))
        self.unit = np.maximum(1.0, capacity.max(axis=0, initial=0.0))
        self.capacity = capacity / self.unit

    def _sheds(self, i: int) -> bool:
        """Whether a running milestone gives up its capacity in this programme."""
        return self.running and not (self.lost[i] or self.fixed[i] or i in self.network.pinned)

    def _milestones(self) -> None:
        facts, horizon = self.facts, self.facts.instance.horizon
        for i, weight in enumerate(facts.weight.tolist()):
            head = self.head[i] / horizon if self.lost[i] else 0.0
            known = self.fixed[i] or i in self.network.pinned
            self.outage.append(self.build.column(head, 0.0 if known else 1.0, weight / self.whole))
            if (self.lost[i] and head < 1.0) or self._sheds(i):
                self.undone[i] = self.build.column(0.0, 1.0)
                self.build.row(head, (self.outage[i], 1.0), (self.undone[i], head - 1.0))

    def _arcs(self) -> None:
        horizon = self.facts.instance.horizon
        for i, j, delay in self.network.arcs:
            terms = [(self.outage[i], 1.0), (self.outage[j], -1.0)]
            if delay and i in self.undone:
                terms.append((self.undone[i], delay / horizon))
            self.arc_rows.append(self.build.row(delay / horizon, *terms))

    def _placement(self) -> None:
        """Columns: replicas of a service in a group of pools, in shares of what it needs."""
        services, need = self.facts.instance.services, self.need
        inside: dict[tuple[int, int], list[tuple[int, float]]] = {}
        unit, capacity, pools = self.unit.tolist(), self.capacity.tolist(), self.facts.heads.pools
        groups_of = {some: sorted({self.group[p] for p in some}) for some in set(pools)}
        for s, demand in enumerate(services.demand.tolist()):
            milestones = [i for i in (s, len(services) + s) if self._placed(i)]
            total = sum(need[i] for i in milestones)
            if not total or not pools[s]:
                continue
            columns = {g: self.build.column(0.0, 1.0) for g in groups_of[pools[s]]}
            undone = [(self.undone[i], need[i] / total) for i in milestones if i in self.undone]
            self.build.row(1.0, *((c, 1.0) for c in columns.values()), *undone)
            self._caps(s, total, columns)
            taken = [(r, -total * amount / unit[r]) for r, amount in enumerate(demand) if amount]
            for g, column in columns.items():
                for r, part in taken:
                    inside.setdefault((g, r), []).append((column, part))
        for (g, r), terms in sorted(inside.items()):
            whole = 0.0
            for _, part in terms:
                whole += part
            if -whole > capacity[g][r]:
                self.capacity_rows[g, r] = self.build.row(-capacity[g][r], *terms)

    def _placed(self, i: int) -> bool:
        """Whether a milestone takes capacity in the end, certainly or unless it is not restored."""
        if self.need[i] == 0:
            return False
        if self.lost[i]:
            return self.head[i] < self.facts.instance.horizon
        return self.running

    def _caps(self, s: int, total: int, columns: dict[int, int]) -> None:
        facts, services = self.facts, self.facts.instance.services
        owner = s if self.lost[s] else len(services) + s
        if not self.lost[owner]:
            return
        undone = self.undone.get(owner)
        most: dict[int, int] = dict.fromkeys(columns, 0)
        sites: dict[int, set[int]] = {}
        fits = facts.capacity.new_per_pool[s].tolist()
        for p in facts.heads.pools[s]:
            most[self.group[p]] += fits[p]
            sites.setdefault(facts.instance.pools[p].site, set()).add(self.group[p])
        for g, column in columns.items():
            if most[g] < total:
                self.fit_rows[s, g] = self._cap(most[g] / total, [column], undone)
        shared = {g for a, b in itertools.combinations(sites.values(), 2) for g in a & b}
        for z, groups in sites.items():
            least = int(facts.capacity.new_per_site[s, z])
            if least < min(total, sum(most[g] for g in groups)) and not groups & shared:
                self.site_rows[s, z] = self._cap(least / total, [columns[g] for g in sorted(groups)], undone)

    def _cap(self, most: float, columns: list[int], undone: int | None) -> int:
        terms = [(c, -1.0) for c in columns]
        return self.build.row(-most, *terms, *([] if undone is None else [(undone, -most)]))

    def _cut(self, number: int, choice: CapacityChoice, members: list[int]) -> None:
        """Rule R4 for a set of milestones, in shares of all sizes."""
        horizon = self.facts.instance.horizon
        whole = float(sum(choice.sizes[i] for i in members))
        total = sum(waits_of(members, choice.sizes, choice.curve, horizon).values())
        at_least = total / whole / horizon
        terms = []
        for i in members:
            size = choice.sizes[i] / whole
            lead = self.lead[i] / horizon
            at_least += size * lead
            terms.append((self.outage[i], size))
            if i in self.undone and self.lost[i]:
                terms.append((self.undone[i], size * lead))
        self.cut_rows.append((self.build.row(at_least, *terms), number, members))

    def _separate(self, solution: FloatTable) -> bool:
        """Adds the most violated set of each choice: a prefix in the order of O - q."""
        horizon, added = self.facts.instance.horizon, False
        for number, choice in enumerate(self.choices):
            key = {
                i: float(solution[self.outage[i]]) * horizon
                - self.lead[i] * (1.0 - float(solution[self.undone[i]]) if i in self.undone else 0.0)
                for i in choice.sizes
            }
            order = sorted(choice.sizes, key=lambda i: (key[i], i))
            waits = waits_of(order, choice.sizes, choice.curve, horizon)
            violated = best = 0.0
            members = 0
            for place, i in enumerate(order):
                violated += waits[i] - choice.sizes[i] * key[i]
                if violated > best:
                    best, members = violated, place + 1
            if best > 1e-4 * horizon * sum(choice.sizes.values()):
                self._cut(number, choice, order[:members])
                added = True
        return added

    def _read(self, solution: FloatTable, duals: FloatTable, objective: float) -> Relaxed:
        horizon = float(self.facts.instance.horizon)
        price = self.whole * horizon
        capacity = np.zeros(self.capacity.shape)
        for (g, r), row in self.capacity_rows.items():
            capacity[g, r] = max(0.0, duals[row]) * price / self.unit[r]
        fit = self._prices(self.fit_rows, duals, price)
        pools = self.facts.heads.pools
        undone = np.zeros(len(self.facts))
        for i, column in self.undone.items():
            undone[i] = solution[column]
        return Relaxed(
            objective=objective * price,
            arcs=np.maximum(0.0, duals[np.array(self.arc_rows, np.int64)]) * self.whole,
            capacity=capacity[self.group],
            fit={
                (s, p): fit[s, self.group[p]]
                for s, some in enumerate(pools)
                for p in some
                if (s, self.group[p]) in fit
            },
            site=self._prices(self.site_rows, duals, price),
            shares=tuple(self._shares(number, duals) for number in range(len(self.choices))),
            outage=solution[np.array(self.outage, np.int64)] * horizon,
            undone=undone,
        )

    def _prices(
        self, rows: dict[tuple[int, int], int], duals: FloatTable, price: float
    ) -> dict[tuple[int, int], float]:
        """Per replica: the columns are in shares of what a service needs."""
        services = len(self.facts.instance.services)
        found = {}
        for (s, part), row in rows.items():
            total = sum(self.need[i] for i in (s, services + s) if self._placed(i))
            if duals[row] > 0.0:
                found[s, part] = float(duals[row]) * price / total
        return found

    def _shares(self, number: int, duals: FloatTable) -> dict[int, float]:
        sizes = self.choices[number].sizes
        found = dict.fromkeys(sizes, 0.0)
        for row, chosen, members in self.cut_rows:
            if chosen == number and duals[row] > 0.0:
                whole = float(sum(sizes[i] for i in members))
                for i in members:
                    found[i] += float(duals[row]) * self.whole * sizes[i] / whole
        return found


def _solve(build: _Builder) -> tuple[FloatTable, FloatTable, float]:
    """Solution, duals of the rows, objective; single-threaded simplex, for repeatability."""
    import highspy

    # The plain class, because the other prints a banner before it can be silenced.
    module: Any = highspy
    solver = module._Highs()
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("solver", "simplex"),
        ("simplex_iteration_limit", _ITERATIONS),
    ):
        solver.setOptionValue(name, value)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(build.cost), len(build.row_lower)
    lp.col_cost_ = np.array(build.cost)
    lp.col_lower_, lp.col_upper_ = np.array(build.lower), np.array(build.upper)
    lp.row_lower_ = np.array(build.row_lower)
    lp.row_upper_ = np.full(len(build.row_lower), _INFINITE)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.array(build.starts, np.int32)
    lp.a_matrix_.index_ = np.array(build.index, np.int32)
    lp.a_matrix_.value_ = np.array(build.value)
    solver.passModel(lp)
    solver.run()
    solution, objective = solver.getSolution(), float(solver.getInfo().objective_function_value)
    columns = _finite(solution.col_value, len(build.cost))
    return columns, _finite(solution.row_dual, len(build.row_lower)), objective


def _finite(values: Sequence[float], count: int) -> FloatTable:
    """Values of a solver, or zeros where it has none: any multipliers are allowed, good or not."""
    found = np.array(values, np.float64)
    return np.nan_to_num(found) if len(found) == count else np.zeros(count)
