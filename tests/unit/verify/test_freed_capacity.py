"""Capacity that lower tiers would leave, for all rows at once, is what looking row by row finds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from bench.random_estates import random_estate
from bench.wild_instances import wild_instance
from evac.derive.planning_instance import derive
from evac.estate import load
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan, Step
from evac.model.scenario import lose
from evac.planning.plan import plan, plan_instance
from evac.verify import check
from evac.verify.capacity import NEVER, Bools, Displaced, EndState, FinalPlacement, final_state, free_capacity
from evac.verify.outcome import time_left
from evac.verify.reading import Reading, milestones, read
from tests.kernels import fastest


class Plain:
    """The same for one service, row by row."""

    def __init__(
        self, reading: Reading, final: FinalPlacement, may: Bools, sheddable: Bools, service: int
    ) -> None:
        self.reading, self.service = reading, service
        self.s, self.rows = reading.instance.services, reading.instance.rows
        self.mine: Counter[int] = Counter()
        self.rivals: Counter[int] = Counter()
        self.stood: list[tuple[int, int, int]] = []
        self.started: list[tuple[int, int, int]] = []
        self.free = free_capacity(reading.instance, final, reading)
        for victim, row, count, started in zip(
            *(column.tolist() for column in (final.service, final.row, final.count, final.started)),
            strict=True,
        ):
            if victim == service:
                self.mine[row] += count
            leaves = 0
            if self.s.tier[victim] > self.s.tier[service] and may[victim]:
                self.started.append((victim, row, min(started, count)))
                stands = max(count - started, 0) if sheddable[victim] else 0
                self.stood.append((victim, row, stands))
                leaves = min(started, count) + stands
            if self.s.conflict[victim] == self.s.conflict[service]:
                self.rivals[row] += count - leaves

    def may_run(self, row: int) -> bool:
        """What was not lost stays at sites where it ran."""
        instance, present = self.reading.instance, self.reading.instance.present
        home = {
            self.rows.site[at]
            for of, at in zip(present.service, present.row, strict=True)
            if of == self.service
        }
        at_home = self.s.base_lost[self.service] or self.rows.site[row] in home
        return bool(at_home and instance.eligible[self.service][self.rows.pool[row]])

    def anything(self) -> bool:
        return any(
            one + other > 0 and self.may_run(row)
            for (_, row, one), (_, _, other) in zip(self.stood, self.started, strict=True)
        )

    def capacity(self) -> list[list[int]]:
        """By row, with all that leaves."""
        capacity: list[list[int]] = self.free.tolist()
        for victim, row, count in (*self.stood, *self.started):
            for resource, demand in enumerate(self.s.demand[victim].tolist()):
                capacity[row][resource] += demand * count
        return capacity

    def fits(self, capacity: list[list[int]], row: int) -> int:
        if not self.may_run(row):
            return 0
        demand = self.s.demand[self.service].tolist()
        most = min([2**31, *(left // need for left, need in zip(capacity[row], demand, strict=True) if need)])
        if not self.rows.is_pool[row]:
            most = min(most, int(self.s.per_server[self.service]) - self.mine[row])
            most = min(most, 1 - self.rivals[row]) if self.s.conflict[self.service] >= 0 else most
        return max(most, 0)

    def ready(self, capacity: list[list[int]]) -> list[tuple[int, int, int, int]]:
        """(pool, on, done, due) of each row that would take a replica."""
        found = []
        for row in range(len(self.rows)):
            if self.fits(capacity, row):
                boot = self.reading.boots.get(row)
                on = boot.end if boot is not None else 0
                found.append((int(self.rows.pool[row]), on, *self.sheds(capacity[row], row)))
        return found

    def sheds(self, capacity: list[int], row: int) -> tuple[int, int]:
        demand, before, done, due = self.s.demand.tolist(), list(capacity), NEVER, NEVER
        for victim, steps in self.reading.sheds.items():
            for where, gone in (pair for timed in steps for pair in timed.rows):
                if where == row:
                    before = [left - gone * need for left, need in zip(before, demand[victim], strict=True)]
                    done = min(done, int(self.s.shed[victim]))
        for victim, where, count in self.stood:
            if where == row and count:
                before = [left - count * need for left, need in zip(before, demand[victim], strict=True)]
                due = min(due, int(self.s.shed[victim]))
        if any(
            left < need for left, need in zip(self.unshed(capacity, row), demand[self.service], strict=True)
        ):
            done = NEVER
        if all(left >= need for left, need in zip(before, demand[self.service], strict=True)):
            done = 0
        return done, due

    def unshed(self, capacity: list[int], row: int) -> list[int]:
        """What is left of it without any further shed."""
        for victim, where, count in self.stood:
            if where == row:
                takes = self.s.demand[victim].tolist()
                capacity = [left - count * need for left, need in zip(capacity, takes, strict=True)]
        return capacity

    def further(self, capacity: list[list[int]], missing: int) -> int:
        """Sheds that it takes at least for as many replicas more, if each frees the most of all."""
        each, demand = [], self.s.demand[self.service].tolist()
        for row in range(len(self.rows)):
            free, before = self.unshed(capacity[row], row), 0
            victims = [victim for victim, where, count in self.stood if where == row and count]
            most = [max((int(self.s.demand[v, r]) for v in victims), default=0) for r in range(len(demand))]
            for count in range(1, min(missing, self.fits(capacity, row)) + 1):
                lacks = [(max(0, count * d - f), m) for d, f, m in zip(demand, free, most, strict=True) if d]
                now = max([0, *(-(-lack // max(1, much)) for lack, much in lacks)])
                each, before = [*each, now - before], now
        return sum(sorted(each)[:missing])

    def most(self, capacity: list[list[int]]) -> int:
        """By racks, by feeds and by sites alone, and by one after the other."""
        s, rows, service = self.s, self.rows, self.service
        bare: list[Callable[[int], int]] = [
            lambda row: -1 if rows.is_pool[row] else int(rows.rack[row]),
            lambda row: -1 if rows.is_pool[row] else int(rows.feed_group[row]),
            lambda row: int(rows.site[row]),
        ]
        caps = [int(cap[service]) for cap in (s.rack_cap, s.feed_cap, s.site_cap)]
        fit = {row: self.fits(capacity, row) for row in range(len(rows))}
        left = [Counter[int]() for _ in caps]
        counts = [sum(fit.values())]
        for level, (place, cap) in enumerate(zip(bare, caps, strict=True)):
            for row in fit:
                left[level].setdefault(place(row), cap)
                left[level][place(row)] -= self.mine[row]
            total = Counter[int]()
            for row, count in fit.items():
                total[place(row)] += count
            counts.append(sum(n if p < 0 else min(n, max(left[level][p], 0)) for p, n in total.items()))
        chain = Counter[tuple[int, ...]]()
        for row, count in fit.items():
            chain[tuple(place(row) for place in bare)] += count
        for level in range(3):
            after = Counter[tuple[int, ...]]()
            for (first, *rest), count in chain.items():
                after[tuple(rest)] += count if first < 0 else min(count, max(left[level][first], 0))
            chain = after
        return min(*counts, sum(chain.values()))


def disturbed(instance: Instance, plan: Plan, rng: Random) -> Plan:
    """A plan that lacks some steps and has others twice, and sheds what stands there and what does not."""
    steps = [step for step in plan.steps for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2)))]
    for number in range(rng.randint(0, 12)):
        row, count = rng.choice(instance.row_names), rng.randint(1, 2)
        name = rng.choice(instance.services.id)
        one = Step(f"shed:{name}:{number}", "shed", name, 0, 1_000, count=count, servers=((row, count),))
        steps.append(one)
    return replace(plan, steps=tuple(steps))


@pytest.mark.parametrize("seed", range(60))
def test_what_would_fit_is_the_same(seed: int) -> None:
    instance, rng = replace(wild_instance(seed), tools={}), Random(seed)
    plan = plan_instance(instance, work=0)
    for one in (plan, *(disturbed(instance, plan, rng) for _ in range(3))):
        reading = read(instance, one)
        final = final_state(reading)
        end_state, count = EndState(reading, final), len(instance.services)
        for service in range(count):
            may, sheddable = (np.array([rng.random() < 0.8 for _ in range(count)], np.bool_) for _ in "ab")
            found = Displaced(end_state, may, sheddable, service)
            plain = Plain(reading, final, may, sheddable, service)
            assert end_state.standing(service) == sum(plain.mine.values())
            assert found.anything() == plain.anything()
            most, ready = found.capacity()
            capacity = plain.capacity()
            assert most == plain.most(capacity)
            columns = (column.tolist() for column in (ready.pool, ready.on, ready.done, ready.due))
            assert list(zip(*columns, strict=True)) == plain.ready(capacity)
            missing = rng.randint(1, 5)
            assert ready.sheds(instance.services.demand[service], missing) == plain.further(capacity, missing)


def test_a_place_of_unknown_site_is_nobodys_home() -> None:
    instance = wild_instance(4)
    rows = replace(instance.rows, site=np.full_like(instance.rows.site, -1))
    nowhere = replace(instance, rows=rows, pools=tuple(replace(pool, site=-1) for pool in instance.pools))
    with fastest():
        reading = read(nowhere, plan_instance(instance, work=0))
    end_state = EndState(reading, final_state(reading))
    running = np.flatnonzero(~instance.services.base_lost & (instance.services.surviving > 0)).tolist()
    assert running
    assert not any(end_state.may_use(service).any() for service in running)


@pytest.mark.parametrize("seed", [0, 29, 30, 77, 102, 107])
def test_no_lost_service_stays_down_that_fits_into_what_its_plan_leaves_free(seed: int) -> None:
    """What sheds leave over is there for any tier, and survivors that were left in place serve again."""
    estate = random_estate(seed)
    for site in estate.sites:
        made = plan(estate, lose(site.id))
        assert check(estate, made).holds
        reading = read(derive(estate, made.scenario, made.policy), made)
        s, times = reading.instance.services, milestones(reading)
        end_state, nobody = EndState(reading, final_state(reading)), np.zeros(len(s), np.bool_)
        for outcome in made.outcomes:
            service = s.id.index(outcome.service)
            if outcome.why is None or outcome.why.kind not in ("no-capacity", "capacity-not-found"):
                continue
            missing = int(s.m[service]) - end_state.standing(service)
            most, ready = Displaced(end_state, nobody, nobody, service).capacity()
            fits = most >= missing and time_left(reading, times, service, missing, ready)
            assert not fits, (site.id, outcome.service)


def test_a_second_replica_beside_its_own_conflict_group_is_not_capacity(tmp_path: Path) -> None:
    """`own` may share no server with its own group, so that `low` makes no way for it by leaving."""
    document = {
        "evac": 1,
        "name": "apart",
        "sites": {"a": {}, "b": {}},
        "classes": {"c": {"cpu": "4 cores", "memory": "64 GiB"}},
        "services": {
            name: {
                "tier": tier,
                "people": 10,
                "start": "5 s",
                "demand": {"cpu": "2 cores", "memory": "1 GiB"},
                "traffic": {"kind": "none"},
                "spread": {"per_server": 2},
                **more,
            }
            for name, tier, more in (
                ("own", 1, {"conflict_group": "right"}),
                ("low", 3, {"sheddable": True}),
            )
        },
    }
    table = "server,site,class,state\na0,a,c,serving\nb0,b,c,serving\n"
    (tmp_path / "estate.yaml").write_text(json.dumps(document), "utf-8")
    (tmp_path / "servers.csv").write_text(table, "utf-8")
    (tmp_path / "replicas.csv").write_text("service,target,count\nown,a0,1\nown,b0,1\nlow,a0,1\n", "utf-8")
    estate = load(tmp_path)
    made = plan(estate, lose("b"))
    assert [one.state for one in made.outcomes] == ["unplaced"]
    assert check(estate, made).violations == ()
    free = replace(estate, services=tuple(replace(one, conflict_group=None) for one in estate.services))
    left_out = replace(made, estate_digest=plan(free, lose("b")).estate_digest)
    assert "F17" in {one.rule for one in check(free, left_out).violations}


def full_estate(rng: Random, folder: Path) -> Estate:
    """Two sites whose servers are full of services that need each other; most may be shed."""
    servers = [f"{site}{number}" for site in "ab" for number in range(rng.randint(1, 3))]
    used, rows = Counter[str](), ["service,target,count"]
    services: dict[str, dict[str, object]] = {}
    for number in range(rng.randint(3, 6)):
        name, cores = f"x{rng.randint(0, 99)}-{number}", rng.randint(1, 4)
        for server in rng.sample(servers, rng.randint(1, min(2, len(servers)))):
            count = rng.randint(1, 3)
            used[server] += count * cores
            rows.append(f"{name},{server},{count}")
        services[name] = {
            "tier": rng.randint(1, 3),
            "people": rng.choice((1, 9, 900)),
            "start": "60 s",
            "demand": {"cpu": f"{cores} cores", "memory": "1 GiB"},
            "traffic": {"kind": "none"},
            "share": rng.choice(("1/3", "1/2", "100 %")),
            "sheddable": rng.random() < 0.7,
            "spread": {"per_server": 3},
            "needs": [other for other in services if rng.random() < 0.5],
        }
    document = {
        "evac": 1,
        "name": "full",
        "sites": {"a": {}, "b": {}},
        "classes": {f"c{n}": {"cpu": f"{n} cores", "memory": "64 GiB"} for n in {*used.values(), 1}},
        "services": services,
    }
    table = ["server,site,class,state", *(f"{s},{s[0]},c{used[s] or 1},serving" for s in servers)]
    (folder / "estate.yaml").write_text(json.dumps(document), "utf-8")
    (folder / "servers.csv").write_text("\n".join(table), "utf-8")
    (folder / "replicas.csv").write_text("\n".join(rows), "utf-8")
    return load(folder)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 44])
def test_every_plan_of_a_full_estate_is_accepted(seed: int, tmp_path: Path) -> None:
    """Also if a service that is down loses replicas to a shed and comes back with those that need it."""
    rng = Random(seed)
    with fastest():
        for _ in range(4):
            estate = full_estate(rng, tmp_path)
            for site in "ab":
                made = plan(estate, lose(site))
                assert check(estate, made).violations == (), site
