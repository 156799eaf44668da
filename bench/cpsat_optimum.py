"""The true optimum of small planning instances, by constraint programming: the referee.

A full model of what a plan may do: candidates of stores, boots, sheds, placement of each replica, every limit
and dependency, and that no service stays down while lower tiers hold the capacity that it lacks. It knows
nothing of the planner. Needs OR-Tools 9.14 (9.15 calls some feasible models infeasible):

    pip install "ortools==9.14.*" numpy
    python bench/cpsat_optimum.py --seconds 60 -o tests/fixtures/bound_optima.json

What is shed may start again at a site where it ran. Left out, each of which could only raise the optimum:
conflict groups, that a running service is not shed for a lower tier, and that what starts again needs nothing
that was shed. Tiers bind here even where a service could not be back before the horizon.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "src")]

from ortools.sat.python import cp_model  # noqa: E402

from bench.small_instances import KINDS, small_instance  # noqa: E402
from bench.wild_instances import wild_instance  # noqa: E402
from evac.model.instance import WHOLE, Instance, Use  # noqa: E402
from tests.unit.planning.instances import random_variant, worked_example  # noqa: E402


@dataclass(frozen=True)
class Answer:
    """status: optimal, feasible or unknown; objective: best plan found; bound: proved by the solver."""

    status: str
    objective: int
    bound: int


@dataclass
class Model:
    """One instance as a constraint model. Times are ticks; `served[s]` is C of the base."""

    instance: Instance
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    held: dict[int, list[tuple[Any, int]]] = field(default_factory=lambda: defaultdict(list))
    on_row: dict[int, list[tuple[Any, int]]] = field(default_factory=lambda: defaultdict(list))
    """Row -> (interval, service) of what stands there."""
    placed: dict[int, list[tuple[int, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Service -> (row, literal) of every replica that is there in the end."""
    kept: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    shed_at: dict[int, list[tuple[Any, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Service -> (shed literal, start) of each survivor that stands on a row."""
    back: dict[int, Any] = field(default_factory=dict)
    """Service -> whether its base is served within the horizon."""
    served: dict[int, Any] = field(default_factory=dict)
    outage: dict[tuple[int, str], Any] = field(default_factory=dict)
    primary: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    booted: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    starts: dict[tuple[int, str], list[tuple[Any, Any]]] = field(default_factory=lambda: defaultdict(list))
    """(service, milestone) -> (literal, end) of its start actions."""

    def time(self, name: str) -> Any:
        return self.model.new_int_var(0, self.instance.horizon, name)

    def flag(self, name: str) -> Any:
        return self.model.new_bool_var(name)

    def hold(self, uses: tuple[Use, ...], start: Any, duration: Any, literal: Any, name: str) -> None:
        """Units held by one action if it is done."""
        for number, use in enumerate(uses):
            size = duration if use.hold == WHOLE else use.hold
            if use.units == 0 or (isinstance(size, int) and size == 0):
                continue
            end = self.model.new_int_var(0, 4 * self.instance.horizon + 10_000, "")
            begin = start + use.offset
            interval = self.model.new_optional_interval_var(begin, size, end, literal, f"{name}.use{number}")
            self.held[use.limit].append((interval, use.units))

    def action(
        self, kind: str, duration: int, uses: tuple[Use, ...], done: Any, name: str
    ) -> tuple[Any, Any]:
        """Start and end of a step that waits for its tools or is done by hand."""
        m, start, end = self.model, self.time(f"{name}.start"), self.time(f"{name}.end")
        need = self.instance.tools.get(kind)
        if need is None or not need.services:
            m.add(end == start + duration).only_enforce_if(done)
            self.hold(uses, start, duration, done, name)
            return start, end
        regular = self.flag(f"{name}.regular")
        for tool in need.services:
            m.add(start >= self.served[tool]).only_enforce_if(done, regular)
            m.add_implication(regular, self.back[tool])
        m.add(end == start + duration).only_enforce_if(done, regular)
        both = self._both(done, regular)
        self.hold(uses, start, duration, both, name)
        if need.manual is None:
            m.add_implication(done, regular)
        else:
            slow = max(duration, need.manual)
            m.add(end == start + slow).only_enforce_if(done, regular.negated())
            hand = self._both(done, regular.negated())
            self.hold((*uses, *need.manual_uses), start, slow, hand, f"{name}.hand")
        return start, end

    def _both(self, a: Any, b: Any) -> Any:
        both = self.flag("")
        self.model.add_bool_and([a, b]).only_enforce_if(both)
        self.model.add_bool_or([a.negated(), b.negated(), both])
        return both


def build(instance: Instance) -> Model:
    """The whole model, objective included."""
    m = Model(instance)
    services = instance.services
    for s in range(len(services)):
        if services.base_lost[s]:
            m.back[s], m.served[s] = m.flag(f"back{s}"), m.time(f"served{s}")
    _stores(m)
    _boots(m)
    for s in range(len(services)):
        _survivors(m, s)
    for s in range(len(services)):
        _new_replicas(m, s)
    for s in range(len(services)):
        _base(m, s)
    for s in range(len(services)):
        _top(m, s)
    _dependencies_of_running(m)
    _rooms(m)
    _spread(m)
    for s in range(len(services)):
        if services.base_lost[s] and not services.blocked[s]:
            _keep_tiers(m, s)
    for limit, uses in m.held.items():
        m.model.add_cumulative([i for i, _ in uses], [u for _, u in uses], instance.limits[limit].capacity)
    m.model.minimize(
        sum(int(services.base_weight[s]) * m.outage[s, "base"] for s in range(len(services)))
        + sum(int(services.top_weight[s]) * m.outage[s, "top"] for s in range(len(services)))
    )
    return m


def _stores(m: Model) -> None:
    for d, store in enumerate(m.instance.stores):
        done = m.flag(f"store{d}")
        ready = m.time(f"primary{d}")
        m.primary[d] = done, ready
        if not store.allowed:
            m.model.add(done == 0)
            continue
        _, fenced = m.action("fence", store.fence, store.fence_uses, done, f"fence{d}")
        chosen = []
        for c, candidate in enumerate(store.allowed):
            here = m.flag(f"promote{d}.{c}")
            start, end = m.action("promote", candidate.duration, candidate.uses, here, f"promote{d}.{c}")
            m.model.add(start >= fenced).only_enforce_if(here)
            m.model.add(ready >= end).only_enforce_if(here)
            chosen.append(here)
        m.model.add(sum(chosen) == done)


def _boots(m: Model) -> None:
    rows = m.instance.rows
    watts = defaultdict(list)
    for v in range(len(rows)):
        if rows.dark[v] and rows.boot_kind[v] >= 0:
            kind, done = m.instance.boot_kinds[int(rows.boot_kind[v])], m.flag(f"boot{v}")
            _, end = m.action("boot", kind.duration, kind.uses, done, f"boot{v}")
            m.booted[v] = done, end
            for budget in rows.power[v].tolist():
                if budget >= 0:
                    watts[budget].append(int(rows.watts[v]) * done)
    for budget, terms in watts.items():
        info = m.instance.power[budget]
        m.model.add(sum(terms) + info.on_watts <= info.watts)


def _survivors(m: Model, s: int) -> None:
    """Each survivor on a row stays, or is shed at some tick."""
    instance, services = m.instance, m.instance.services
    here = [i for i, service in enumerate(instance.present.service.tolist()) if service == s]
    for i in here:
        row = int(instance.present.row[i])
        for k in range(int(instance.present.count[i])):
            name = f"stand{s}.{row}.{k}"
            gone, start = m.flag(f"{name}.shed"), m.time(f"{name}.at")
            end, leaves = m.time(f"{name}.end"), m.time(f"{name}.leaves")
            duration = int(services.shed[s])
            if not services.sheddable[s]:
                m.model.add(gone == 0)
            else:
                pool = instance.pools[int(instance.rows.pool[row])]
                shed, ended = m.action("shed", duration, pool.shed_uses, gone, name)
                m.model.add(start == shed).only_enforce_if(gone)
                m.model.add(end == ended).only_enforce_if(gone)
            m.model.add(leaves == end).only_enforce_if(gone)
            m.model.add(leaves == instance.horizon).only_enforce_if(gone.negated())
            m.on_row[row].append((m.model.new_interval_var(0, leaves, leaves, name), s))
            m.placed[s].append((row, gone.negated()))
            m.kept[s].append(gone.negated())
            m.shed_at[s].append((gone, start))


def _new_replicas(m: Model, s: int) -> None:
    """As many possible starts as each milestone could ever need, each on one row or nowhere; of what runs, as
    many as may be shed.
    """
    services = m.instance.services
    counts = {"base": services.base_starts(s), "top": services.top_starts(s)}
    if not services.base_lost[s] and services.sheddable[s]:
        counts["base"] = len(m.kept[s])
    for milestone, count in counts.items():
        before = None
        for k in range(count):
            here, start = _new_replica(m, s, milestone, f"new{s}.{milestone}{k}")
            if before is not None:
                m.model.add_implication(here, before[0])
                m.model.add(start >= before[1]).only_enforce_if(here)
            before = here, start


def _new_replica(m: Model, s: int, milestone: str, name: str) -> tuple[Any, Any]:
    """One start: on some row from its start to the horizon, holding the uses of the row's pool."""
    instance, rows, model = m.instance, m.instance.rows, m.model
    here, duration = m.flag(name), int(instance.services.start[s])
    home = set(rows.site[instance.present.row[instance.present.service == s]].tolist())
    moves = milestone == "base" and not instance.services.base_lost[s]
    start, end, uses = m.time(f"{name}.start"), m.time(f"{name}.end"), defaultdict(list)
    for v in range(len(rows)):
        if not instance.eligible[s, rows.pool[v]] or (rows.dark[v] and v not in m.booted):
            continue
        if moves and int(rows.site[v]) not in home:
            continue
        on = m.flag(f"{name}.{v}")
        if v in m.booted:
            model.add_implication(on, m.booted[v][0])
            model.add(start >= m.booted[v][1]).only_enforce_if(on)
        size = m.time("")
        interval = model.new_optional_interval_var(start, size, instance.horizon, on, "")
        m.on_row[v].append((interval, s))
        m.placed[s].append((v, on))
        uses[instance.pools[int(rows.pool[v])].start_uses].append(on)
    model.add(sum(on for some in uses.values() for on in some) == here)
    for held, literals in uses.items():
        chosen = here if len(uses) == 1 else m.flag("")
        if len(uses) > 1:
            model.add(sum(literals) == chosen)
        begun, ended = m.action("start", duration, held, chosen, f"{name}.step")
        model.add(start == begun).only_enforce_if(chosen)
        model.add(end == ended).only_enforce_if(chosen)
    _wait(m, s, start, here, instance.services.hard_start, instance.services.start_stores)
    m.starts[s, milestone].append((here, end))
    return here, start


def _wait(
    m: Model,
    s: int,
    start: Any,
    here: Any,
    hard: tuple[tuple[int, ...], ...],
    stores: tuple[tuple[int, ...], ...],
) -> None:
    """What begins at `start` waits for what its component needs outside itself, and for stores."""
    services = m.instance.services
    inside = [k for k in range(len(services)) if services.component[k] == services.component[s]]
    for k in inside:
        for j in hard[k]:
            if j not in inside and services.base_lost[j]:
                m.model.add(start >= m.served[j]).only_enforce_if(here)
                m.model.add_implication(here, m.back[j])
        for d in stores[k]:
            done, ready = m.primary[d]
            m.model.add(start >= ready).only_enforce_if(here)
            m.model.add_implication(here, done)


def _count(m: Model, s: int, milestone: str) -> Any:
    return sum(here for here, _ in m.starts[s, milestone])


def _standing(m: Model, s: int) -> Any:
    """Survivors that stay: those on rows that are not shed, and those that stand elsewhere."""
    return sum(m.kept[s]) + int(m.instance.services.surviving[s]) - len(m.kept[s])


def _base(m: Model, s: int) -> None:
    services, model, horizon = m.instance.services, m.model, m.instance.horizon
    outage = m.outage[s, "base"] = m.time(f"outage{s}.base")
    if not services.base_lost[s]:
        _running(m, s, "base", int(services.m[s]), outage)
        return
    back, served = m.back[s], m.served[s]
    if services.blocked[s]:
        model.add(back == 0)
    inside = [k for k in range(len(services)) if services.component[k] == services.component[s]]
    _, verified = _verify(m, s, back, [e for k in inside for e in m.starts[k, "base"]], f"verify{s}")
    if services.shift[s]:
        shift, end = m.action(
            "shift", int(services.change[s] + services.settle[s]), services.shift_uses[s], back, f"shift{s}"
        )
        model.add(shift >= verified).only_enforce_if(back)
        model.add(served >= end).only_enforce_if(back)
    model.add(served >= verified).only_enforce_if(back)
    model.add(_standing(m, s) + _count(m, s, "base") >= int(services.m[s])).only_enforce_if(back)
    for k in inside:
        model.add_implication(back, m.back[k])
        model.add(served == m.served[k]).only_enforce_if(back)
    model.add(outage >= served - m.instance.grace).only_enforce_if(back)
    model.add(outage == horizon - m.instance.grace).only_enforce_if(back.negated())


def _verify(m: Model, s: int, done: Any, starts: list[tuple[Any, Any]], name: str) -> tuple[Any, Any]:
    """A verify after the starts it covers and after what the component waits for."""
    services = m.instance.services
    start, end = m.action("verify", int(services.verify[s]), (), done, name)
    for here, ended in starts:
        m.model.add(start >= ended).only_enforce_if(here, done)
    _wait(m, s, start, done, services.hard, services.lost_stores)
    return start, end


def _running(m: Model, s: int, milestone: str, threshold: int, outage: Any) -> None:
    """A running milestone costs from the shed that breaks it until restarts mend it, or for ever."""
    services, model, horizon = m.instance.services, m.model, m.instance.horizon
    broken, mended = m.flag(f"broken{s}.{milestone}"), m.flag(f"mended{s}.{milestone}")
    since, until = m.time(""), m.time("")
    spare, exempt = int(services.surviving[s]) - threshold, []
    for gone, at in m.shed_at[s]:
        free = m.flag("")
        exempt.append(free)
        model.add_bool_or([gone.negated(), free, broken])
        model.add(since <= at).only_enforce_if(gone, free.negated())
    model.add(sum(exempt) <= spare)
    milestones = ("base",) if milestone == "base" else ("base", "top")
    starts = [e for name in milestones for e in m.starts[s, name]]
    start, end = m.action("verify", int(services.verify[s]), (), mended, f"again{s}.{milestone}")
    for here, ended in starts:
        model.add(start >= ended).only_enforce_if(here, mended)
    new = sum(here for here, _ in starts)
    model.add(_standing(m, s) + new >= threshold).only_enforce_if(mended)
    model.add(until >= end).only_enforce_if(mended)
    model.add(until == horizon).only_enforce_if(mended.negated())
    model.add(outage >= until - since).only_enforce_if(broken)
    model.add_implication(mended, broken)


def _top(m: Model, s: int) -> None:
    services, model, horizon = m.instance.services, m.model, m.instance.horizon
    outage = m.outage[s, "top"] = m.time(f"outage{s}.top")
    if not services.top_lost[s]:
        _running(m, s, "top", int(services.n[s]), outage)
        model.add(outage >= m.outage[s, "base"])
        return
    full, at = m.flag(f"full{s}"), m.time(f"top{s}")
    if services.blocked[s]:
        model.add(full == 0)
    if services.base_lost[s]:
        model.add_implication(full, m.back[s])
        model.add(at >= m.served[s]).only_enforce_if(full)
    starts = m.starts[s, "base"] + m.starts[s, "top"]
    started = m.flag("")
    model.add_bool_or([h for h, _ in starts] or [started.negated()]).only_enforce_if(started)
    for here, _ in starts:
        model.add_implication(here, started)
    again = m._both(full, started)
    _, verified = _verify(m, s, again, starts, f"verify{s}.top")
    model.add(at >= verified).only_enforce_if(again)
    for j in services.soft[s]:
        if services.base_lost[j]:
            model.add_implication(full, m.back[j])
            model.add(at >= m.served[j]).only_enforce_if(full)
    new = _count(m, s, "base") + _count(m, s, "top")
    model.add(_standing(m, s) + new >= int(services.n[s])).only_enforce_if(full)
    model.add(outage >= at - m.instance.grace).only_enforce_if(full)
    model.add(outage == horizon - m.instance.grace).only_enforce_if(full.negated())
    model.add(outage >= m.outage[s, "base"])


def _dependencies_of_running(m: Model) -> None:
    services = m.instance.services
    for s in range(len(services)):
        if not services.base_lost[s] and not services.sheddable[s]:
            m.model.add(m.outage[s, "base"] == 0)
        for j in services.hard[s]:
            if not services.base_lost[j]:
                m.model.add(m.outage[s, "base"] >= m.outage[j, "base"])
        for j in services.soft[s]:
            if not services.base_lost[j]:
                m.model.add(m.outage[s, "top"] >= m.outage[j, "base"])


def _rooms(m: Model) -> None:
    rows, demand = m.instance.rows, m.instance.services.demand
    for v, standing in m.on_row.items():
        for r in range(demand.shape[1]):
            taken = [(i, int(demand[s, r])) for i, s in standing if demand[s, r] > 0]
            if taken:
                m.model.add_cumulative([i for i, _ in taken], [a for _, a in taken], int(rows.capacity[v, r]))


def _spread(m: Model) -> None:
    """Caps per server, rack, feed group and site; survivors above a cap stay where they are."""
    services, rows = m.instance.services, m.instance.rows
    standing = defaultdict(int)
    present = m.instance.present
    for s, v, k in zip(present.service.tolist(), present.row.tolist(), present.count.tolist(), strict=True):
        standing[s, v] = k
    for s, replicas in m.placed.items():
        parts = (
            (services.per_server, lambda v: -1 if rows.is_pool[v] else v),
            (services.rack_cap, lambda v: -1 if rows.is_pool[v] else int(rows.rack[v])),
            (services.feed_cap, lambda v: -1 if rows.is_pool[v] else int(rows.feed_group[v])),
            (services.site_cap, lambda v: int(rows.site[v])),
        )
        for caps, part_of in parts:
            inside = defaultdict(list)
            here: dict[int, int] = defaultdict(int)
            for v, literal in replicas:
                inside[part_of(v)].append(literal)
            for v in range(len(rows)):
                here[part_of(v)] += standing[s, v]
            for part, literals in inside.items():
                if part >= 0 and len(literals) > caps[s]:
                    m.model.add(sum(literals) <= max(int(caps[s]), here[part]))


def _keep_tiers(m: Model, s: int) -> None:
    """If a lost service stays down although all it needs is there, what it lacks does not fit: not even with
    all that lower tiers have in the end taken away, but for what it, or another living service, needs.
    """
    services, rows, model = m.instance.services, m.instance.rows, m.model
    broken = {j: m.flag(f"broken{s}.{j}") for j in range(len(services)) if not services.base_lost[j]}
    for j, flag in broken.items():
        model.add(m.outage[j, "base"] > 0).only_enforce_if(flag)
        model.add(m.outage[j, "base"] == 0).only_enforce_if(flag.negated())
    alive = {j: m.back[j] if services.base_lost[j] else broken[j].negated() for j in range(len(services))}
    needed, queue = set[int](), [s]
    while queue:
        found = set(services.hard[queue.pop()]) - needed
        needed |= found
        queue += found
    leaves: dict[int, Any] = {}
    for j in np.flatnonzero(services.tier > services.tier[s]).tolist():
        if j not in needed:
            leaves[j] = m.flag(f"leaves{s}.{j}")
            users = [alive[k] for k in range(len(services)) if j in services.hard[k]]
            model.add_bool_and([user.negated() for user in users]).only_enforce_if(leaves[j])
            model.add_bool_or([*users, leaves[j]])
    stays: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    anything = []
    for j, placed in m.placed.items():
        firm = len(m.kept[j]) if not services.sheddable[j] else 0
        for number, (row, there) in enumerate(placed):
            if j not in leaves or number < firm:
                stays[row].append((j, there))
                continue
            gone, kept = m._both(there, leaves[j]), m._both(there, leaves[j].negated())
            stays[row].append((j, kept))
            if m.instance.eligible[s, rows.pool[row]]:
                anything.append(gone)
    down = m.flag(f"down{s}")
    rest = [alive[j] for j in services.hard[s]]
    model.add_bool_or([m.back[s], down, *(one.negated() for one in rest)])
    fits = [fit for row in range(len(rows)) for fit in _fits(m, s, row, stays[row])]
    for gone in anything:
        model.add(sum(fits) + _standing(m, s) < int(services.m[s])).only_enforce_if(down, gone)


def _fits(m: Model, s: int, row: int, stays: list[tuple[int, Any]]) -> list[Any]:
    """Of 1, 2, ... replicas of a service on a row beside what stays: each true if so many fit."""
    services, rows, model = m.instance.services, m.instance.rows, m.model
    if not m.instance.eligible[s, rows.pool[row]] or (rows.dark[row] and row not in m.booted):
        return []
    found = []
    for count in range(1, min(services.base_starts(s), int(services.per_server[s])) + 1):
        fit, short = m.flag(""), []
        for r in np.flatnonzero(services.demand[s]).tolist():
            lacks = m.flag("")
            held = sum(int(services.demand[j, r]) * there for j, there in stays)
            model.add(held + count * int(services.demand[s, r]) > int(rows.capacity[row, r])).only_enforce_if(
                lacks
            )
            short.append(lacks)
        off = [m.booted[row][0].negated()] if row in m.booted else []
        model.add_bool_or([fit, *off, *short])
        found.append(fit)
    return found


def optimum(instance: Instance, seconds: float, workers: int = 1) -> Answer:
    """Solves one instance. The seed is fixed; with one worker the search is repeatable."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 1
    status = solver.solve(build(instance).model)
    word = {cp_model.OPTIMAL: "optimal", cp_model.FEASIBLE: "feasible"}.get(status, "unknown")
    if word == "unknown":
        return Answer(word, -1, max(0, round(solver.best_objective_bound)))
    return Answer(word, round(solver.objective_value), round(solver.best_objective_bound))


def _table(name: str, make: Callable[[int], Instance], count: int, args: argparse.Namespace) -> list[Any]:
    found = []
    for seed in range(args.first_seed, args.first_seed + count):
        answer = optimum(make(seed), args.seconds, args.workers)
        print(f"{name} {seed}: {answer.objective} {answer.status} (solver bound {answer.bound})", flush=True)
        found.append({"seed": seed, "status": answer.status, "objective": answer.objective})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=80)
    parser.add_argument("--wild", type=int, default=120)
    parser.add_argument(
        "--kinds", nargs="+", choices=(*KINDS, "variants", "wild"), default=["variants", "wild"]
    )
    parser.add_argument("--instances", type=int, help="of each kind, in place of --variants and --wild")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    answer = optimum(worked_example(), args.seconds, args.workers)
    print(f"worked example: {answer.objective} {answer.status}")
    tables: dict[str, Any] = {"made": "bench/cpsat_optimum.py, OR-Tools 9.14, by kind and seed"}
    makers = {"variants": random_variant, "wild": wild_instance}
    counts = {"variants": args.variants, "wild": args.wild}
    for kind in args.kinds:
        make = makers.get(kind) or partial(small_instance, kind)
        count = args.instances if args.instances is not None else counts.get(kind, args.wild)
        tables[kind] = _table(kind, make, count, args)
    if args.output is not None:
        args.output.write_text(json.dumps(tables, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
