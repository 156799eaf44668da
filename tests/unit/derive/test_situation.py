"""What is now, after any sequence of complete runs: the next plan starts and shifts what is there."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from evac.app.planner.plans import make_plan
from evac.audit import audit
from evac.derive.domains import topology
from evac.derive.situation import Done, moved, of, promised, situation_after
from evac.model.digest import estate_digest
from evac.model.estate import (
    Dependency,
    Estate,
    Pool,
    Service,
    Site,
    Spread,
    Store,
    StoreMember,
    Traffic,
)
from evac.model.fleet import ON_POOL, Replicas
from evac.model.observation import MemberSeen, Observation, TrafficSeen, UnitsSeen
from evac.model.plan import Plan, Step
from evac.model.scenario import Scenario, lose
from evac.model.situation import Away, Cause, Counts, Effects, LostNow, Moved
from evac.verify import check
from evac.views.situation_view import next_of, service_words

SITES = ("east", "north", "west")


def estate_of(seed: int, sites: int = 3) -> Estate:
    """Pools at two or three sites, services that are each at one site, stores with a copy at each."""
    chance = random.Random(seed)
    names = SITES[:sites] if sites == 3 else ("east", "west")
    services, rows = [], []
    for number in range(chance.randint(1, 5)):
        replicas = chance.randint(1, 3)
        home = chance.choice(names)
        services.append(
            Service(
                f"s{number}",
                f"s{number}",
                tier=chance.randint(0, 2),
                people=1_000 * chance.randint(1, 9),
                demand=(1_000, 1_024, 0, None),
                replicas=replicas,
                share=Fraction(1, chance.randint(1, 2)),
                spread=Spread(per_server=9),
                sheddable=chance.random() < 0.5,
                needs=(Dependency(f"d{number % 2}", "store"),) if chance.random() < 0.6 else (),
                start_ms=10_000,
                verify_ms=1_000,
                traffic=Traffic(chance.choice(("dns", "load_balancer", "none")), 1_000, 1_000, 1_000),
            )
        )
        rows.append((number, ON_POOL, names.index(home), replicas))
    stores = tuple(
        Store(
            f"d{number}",
            f"d{number}",
            "postgres",
            tuple(
                StoreMember(name, mode, None if mode == "primary" else 0)
                for name, mode in zip(names, ("primary", "sync", "async"), strict=False)
            ),
            rpo_ms=0,
            fence_ms=1_000,
            promote_ms=2_000,
        )
        for number in range(2)
    )
    table = [np.array(column) for column in zip(*sorted(rows), strict=True)]
    return Estate(
        "small",
        sites=tuple(Site(name) for name in names),
        pools=tuple(Pool(f"{name}-pool", name, (20_000, 65_536, None, None)) for name in names),
        services=tuple(services),
        stores=stores,
        replicas=Replicas(
            table[0].astype(np.int32),
            table[1].astype(np.uint8),
            table[2].astype(np.int32),
            table[3].astype(np.int64),
        ),
    )


class World:
    """What systems and journals would say, while runs go by one after the other."""

    def __init__(self, estate: Estate) -> None:
        self.files = estate
        self.lost: dict[str, str] = {}
        self.moved: list[Moved] = []

    @property
    def seen(self) -> Observation:
        lost = tuple(LostNow(site, state) for site, state in sorted(self.lost.items()))
        return Observation(0, effects=Effects(lost, tuple(self.moved)))

    @property
    def now(self) -> Estate:
        return of(self.files, self.seen).estate

    def run(self, scenario: Scenario) -> Plan:
        """A plan of what is now, and the run of all of its steps."""
        before = self.now
        plan = make_plan(before, scenario, budget_ms=0).plan
        assert check(before, plan).holds, check(before, plan).violations
        self.moved.append(moved(before, scenario, promised(before, plan), run=f"run-{len(self.moved)}"))
        for site in scenario.domains:
            if scenario.kind in ("lose", "evacuate"):
                self.lost[site] = "lost" if scenario.kind == "lose" else "evacuated"
            else:
                self.lost.pop(site, None)
        assert placement(self.now) == placement(situation_after(before, plan).estate)
        assert roles(self.now) == roles(situation_after(before, plan).estate)
        return plan


def test_an_estate_that_came_home_is_that_of_its_files() -> None:
    """Whoever lost the journal carries on with a plan that was made while it was there."""
    home = 0
    for seed in range(40):
        world = World(estate_of(seed))
        for kind in ("lose", "restore", "failback"):
            world.run(Scenario(kind, ("east",)))  # type: ignore[arg-type]
        found = of(world.files, world.seen)
        away = found.services or found.stores or found.lost
        modes = [[m.mode for m in store.members] for store in found.estate.stores]
        same = modes == [[m.mode for m in store.members] for store in world.files.stores]
        if away or not same:
            continue
        home += bool(world.moved[0].placed)
        assert estate_digest(found.estate) == estate_digest(world.files), seed
        for site in SITES:
            plans = [make_plan(one, lose(site), budget_ms=0).plan for one in (found.estate, world.files)]
            assert plans[0] == plans[1], (seed, site)
    assert home > 5


def test_a_fire_under_way_is_why_nothing_runs_there_whatever_moved_it_before() -> None:
    named = 0
    for seed in range(20):
        world = World(estate_of(seed))
        for kind in ("lose", "restore", "failback"):
            world.run(Scenario(kind, ("east",)))  # type: ignore[arg-type]
        there = {name for (name, site), count in placement(world.now).items() if site == "east" and count}
        mark = (LostNow("east", "lost", 77, "fire"),)
        drill = Moved("fire", "lose", ("east",), 77, 78, "cancelled")
        for ended in ((), (drill,)):
            fire = Effects(mark, (*world.moved, *ended))
            for one in of(world.files, Observation(0, effects=fire)).services:
                assert (one.service in there) == (one.cause == Cause("run", "fire", at_ms=77)), one
                named += 1
                # Nobody looked whether it runs there: a drill marks the site and stops nothing.
                assert (one.service in there) == bool(one.in_lost)
                words = service_words(one, 99)
                assert "runs nowhere" not in words
                assert (f"east ({dict(one.in_lost).get('east')}), which is marked as lost" in words) == bool(
                    one.in_lost
                )
                assert not {"east"} & dict(one.now).keys()
    assert named


def placement(estate: Estate) -> dict[tuple[str, str], int]:
    """(service, site) -> replicas, of pools."""
    top, r = topology(estate), estate.replicas
    found: dict[tuple[str, str], int] = {}
    for service, kind, target, count in zip(
        r.service.tolist(), r.kind.tolist(), r.target.tolist(), r.count.tolist(), strict=True
    ):
        site = top.estate.pools[target].site if kind == ON_POOL else top.estate.sites[target].id
        key = (estate.services[service].id, site)
        found[key] = found.get(key, 0) + count
    return found


def roles(estate: Estate) -> dict[str, str]:
    return {store.id: "" if store.primary is None else store.primary.at for store in estate.stores}


def confirmed(estate: Estate) -> set[str]:
    """Stores of which a copy confirms commits."""
    return {store.id for store in estate.stores if any(member.mode == "sync" for member in store.members)}


@pytest.mark.parametrize("seed", range(12))
def test_after_fire_restore_and_failback_everything_is_home_and_the_next_fire_begins_there(seed: int) -> None:
    world = World(estate_of(seed))
    home, chance = placement(world.files), random.Random(seed)
    for _ in range(3):
        site = chance.choice(SITES)
        world.run(lose(site))
        assert all(where != site for (_, where) in placement(world.now)), "all of it fits elsewhere"
        world.run(Scenario("restore", (site,)))
        while away := sorted(
            {s for (service, s), n in home.items() if placement(world.now).get((service, s)) != n}
        ):
            world.run(Scenario("failback", (away[0],)))
        for store in of(world.files, world.seen).stores:
            world.run(Scenario("failback", (store.home,)))
        assert placement(world.now) == home
        assert roles(world.now) == roles(world.files)
        assert confirmed(world.files) <= confirmed(world.now), "people saw to it: no driver acts on a store"
        assert not of(world.files, world.seen).services


@pytest.mark.parametrize("seed", range(12))
def test_the_second_fire_starts_and_shifts_what_the_first_one_moved(seed: int) -> None:
    world = World(estate_of(seed, sites=2))
    first, second = random.Random(seed).sample(("east", "west"), 2)
    world.run(lose(first))
    world.run(Scenario("restore", (first,)))
    there = {service for (service, site), _ in placement(world.now).items() if site == second}
    plan = make_plan(world.now, lose(second), budget_ms=0).plan
    started = {step.target for step in plan.steps if step.kind == "start"}
    shifted = {step.target for step in plan.steps if step.kind == "shift"}
    assert started == there
    assert shifted == {s.id for s in world.files.services if s.id in there and s.traffic.kind != "none"}
    assert {step.target for step in plan.steps if step.kind == "promote"} == {
        store.id for store in world.now.stores if store.primary is not None and store.primary.at == second
    }


@pytest.mark.parametrize("seed", range(12))
def test_every_copy_of_a_restored_site_is_led_to_a_primary_that_moved_meanwhile(seed: int) -> None:
    """Fires without a way home between them: the old primary is not where the files have it."""
    world = World(estate_of(seed))
    chance = random.Random(f"copies {seed}")
    gone: list[str] = []
    for _ in range(6):
        before = roles(world.now)
        if gone and (len(gone) == 2 or chance.random() < 0.5):
            site = gone.pop(0)
            plan = world.run(Scenario("restore", (site,)))
            led = {step.target for step in plan.steps if step.kind == "reprotect" and step.candidate == site}
            assert led >= {store for store, at in before.items() if at and at != roles(world.files)[store]}
            assert not [s.id for s in world.now.stores for m in s.members if m.at == site and m.left]
        else:
            gone.append(chance.choice(sorted(set(SITES) - set(gone))))
            world.run(lose(gone[-1]))


def test_what_is_lost_holds_no_capacity_and_nothing_starts_there() -> None:
    world = World(estate_of(3))
    world.run(lose("east"))
    plan = make_plan(world.now, lose("west"), budget_ms=0).plan
    places = {name for step in plan.steps for name, _ in step.servers}
    assert places <= {"north-pool"}
    assert check(world.now, plan).holds


def test_an_evacuated_site_takes_nothing_until_it_is_failed_back_to() -> None:
    world = World(estate_of(5))
    world.run(Scenario("evacuate", ("west",), 3_600_000))
    assert all(site != "west" for (_, site) in placement(world.now))
    plan = make_plan(world.now, lose("north"), budget_ms=0).plan
    assert {name for step in plan.steps for name, _ in step.servers} <= {"east-pool"}


def test_a_run_that_was_cancelled_before_its_shift_leaves_the_traffic_where_it_was() -> None:
    world = World(estate_of(1, sites=2))
    scenario = lose("east")
    plan = make_plan(world.files, scenario, budget_ms=0).plan
    done = [one for one in promised(world.files, plan) if one.step.kind in ("fence", "promote", "start")]
    world.moved.append(moved(world.files, scenario, done, run="half", phase="cancelled"))
    world.lost["east"] = "lost"
    again = make_plan(world.now, scenario, budget_ms=0).plan
    shifts = {step.target for step in plan.steps if step.kind == "shift"}
    assert shifts
    assert {step.target for step in again.steps if step.kind == "shift"} == shifts
    assert not [step for step in again.steps if step.kind == "start"]


def test_users_that_a_drill_sent_away_from_one_of_two_sites_are_away_until_they_are_sent_back() -> None:
    """Though every replica is at home; a failback is at home, wherever name servers point by then."""
    base = estate_of(1, sites=2)
    both = (
        base.replicas.service[:0],
        base.replicas.kind[:0],
        base.replicas.target[:0],
        base.replicas.count[:0],
    )
    rows = [(0, ON_POOL, 0, 2), (0, ON_POOL, 1, 2)]
    columns = zip(both, zip(*rows, strict=True), strict=True)
    service = replace(base.services[0], replicas=4, share=Fraction(1, 2), needs=())
    service = replace(service, traffic=Traffic("load_balancer", 1_000, 1_000, 1_000))
    files = replace(
        base,
        services=(service,),
        replicas=Replicas(*(np.array(new, column.dtype) for column, new in columns)),
    )
    scenario = Scenario("evacuate", ("west",), 3_600_000)
    plan = make_plan(files, scenario, budget_ms=0).plan
    shifts = [one for one in promised(files, plan) if one.step.kind == "shift"]
    drill = moved(files, scenario, shifts, run="drill", phase="cancelled")
    assert drill.traffic == {"s0": ("east",)}
    seen = Observation(0, effects=Effects((), (drill,)))
    for sent in ((), (TrafficSeen("s0", ("east",), "haproxy", 7),)):
        now = of(files, replace(seen, traffic=sent))
        (away,) = now.services
        assert (away.now, away.cause.by) == (away.home, "drill")
        assert service_words(away, 9).endswith("; its users are routed only to east")
        assert next_of(now, "ESTATE") == "evac plan ESTATE --failback west"
    assert not of(files, replace(seen, traffic=(TrafficSeen("s0", SITES[::2], "haproxy", 7),))).services
    again = Done(Step("redirect:s0", "redirect", "s0", 0, 0), 8, ("west",))
    failback = Scenario("failback", ("west",))
    back = moved(of(files, seen).estate, failback, [again], run="back")
    assert back.traffic == {"s0": ("east", "west")}
    assert not of(files, Observation(0, effects=Effects((), (drill, back)))).services
    named = moved(of(files, seen).estate, failback, shifts, run="named")
    assert not of(files, Observation(0, effects=Effects((), (drill, named)))).services


def test_a_failback_that_ended_between_start_and_shift_is_completed_by_the_next() -> None:
    """Everything runs at home and elsewhere, and users are still sent elsewhere."""
    found = 0
    for seed in range(6):
        world = World(estate_of(seed, sites=2))
        world.run(lose("east"))
        world.run(Scenario("restore", ("east",)))
        home, before = Scenario("failback", ("east",)), world.now
        whole = make_plan(before, home, budget_ms=0).plan
        cut = [one for one in promised(before, whole) if one.step.kind not in ("shift", "stop")]
        world.moved.append(moved(before, home, cut, run="cut", phase="cancelled"))
        shifts, stops = (
            {step.target for step in whole.steps if step.kind == kind} for kind in ("shift", "stop")
        )
        rest = world.run(home)
        assert {step.target for step in rest.steps if step.kind == "shift"} == shifts
        assert not [step for step in rest.steps if step.kind == "start"]
        sent = {step.target for step in rest.steps if step.kind == "stop"}
        assert shifts <= sent <= stops
        assert not [one for one in of(world.files, world.seen).services if one.service in shifts]
        found += len(shifts)
    assert found


@pytest.mark.parametrize("kind", ["failback", "evacuate"])
def test_what_a_run_left_too_many_of_is_named_and_the_next_failback_stops_it(kind: str) -> None:
    """A failback that was cut between its shift and its stop; an evacuation that was cancelled before its
    shift.
    """
    found = 0
    for seed in range(8):
        world = World(estate_of(seed))
        files = world.files
        if kind == "failback":
            world.run(lose("east"))
            world.run(Scenario("restore", ("east",)))
            scenario, left_out = Scenario("failback", ("east",)), {"stop"}
        else:
            scenario, left_out = Scenario("evacuate", ("east",), 3_600_000), {"shift", "stop", "promote"}
        before = world.now
        whole = make_plan(before, scenario, budget_ms=0).plan
        cut = [one for one in promised(before, whole) if one.step.kind not in left_out]
        world.moved.append(moved(before, scenario, cut, run="cut", phase="cancelled"))
        now = of(files, world.seen)
        over = {one.service: one for one in now.services if one.surplus}
        assert set(over) == {step.target for step in whole.steps if step.kind == "stop"}
        for one in over.values():
            assert "; surplus: " in service_words(one, 9)
            assert set(now.estate.surplus) == set(over)
        if over:
            assert next_of(now, "ESTATE") == "evac plan ESTATE --failback east"
            assert estate_digest(now.estate) != estate_digest(before)
        rest = world.run(Scenario("failback", ("east",)))
        stops = {step.target: step.servers for step in rest.steps if step.kind == "stop"}
        assert set(stops) == set(over)
        assert not [step for step in rest.steps if step.kind in ("start", "shift")]
        assert not of(files, world.seen).services
        assert placement(world.now) == placement(files)
        found += len(stops)
    assert found


@pytest.mark.parametrize(
    ("now", "surplus"),
    [
        ((("b", 5),), (("b", 1),)),
        ((("b", 3), ("c", 2)), (("c", 1),)),
        ((("a", 2), ("b", 3), ("c", 2)), (("b", 1), ("c", 2))),
        ((("a", 1), ("b", 3)), ()),
    ],
)
def test_no_more_is_named_as_surplus_than_is_too_much_in_all(now: Counts, surplus: Counts) -> None:
    """What is missing at home is not too many elsewhere."""
    assert Away("wiki", (("a", 2), ("b", 2)), now, (), Cause()).surplus == surplus


def test_a_restore_or_a_loss_does_not_replace_the_surplus_that_a_cancelled_evacuation_left() -> None:
    """Enough serves elsewhere: users are sent there, and nothing starts."""
    found = 0
    for seed in range(6):
        for kind in ("lose", "restore"):
            world = World(estate_of(seed))
            away, before = Scenario("evacuate", ("east",), 3_600_000), world.now
            whole = make_plan(before, away, budget_ms=0).plan
            cut = [one for one in promised(before, whole) if one.step.kind not in ("shift", "stop")]
            world.moved.append(moved(before, away, cut, run="cut", phase="cancelled"))
            over = set(world.now.surplus)
            if kind == "restore":
                world.lost["east"] = "evacuated"
            plan = world.run(Scenario(kind, ("east",)))  # type: ignore[arg-type]
            started = {step.target for step in plan.steps if step.kind == "start"}
            assert not started & over, (seed, kind)
            if kind == "lose":
                world.run(Scenario("restore", ("east",)))
            for service in files_services(world.files, over):
                counts = {site: n for (name, site), n in placement(world.now).items() if name == service.id}
                assert sum(counts.values()) == service.replicas, (seed, kind)
                assert "east" not in counts, "what ran there before is not counted on"
            found += len(over)
    assert found


def files_services(estate: Estate, names: set[str]) -> list[Service]:
    return [service for service in estate.services if service.id in names]


def test_a_failback_leaves_alone_what_someone_else_scaled_at_home_and_stops_strays() -> None:
    """As an autoscaler does: a run has nothing to do with it. Strays are where the files declare none."""
    files = estate_of(1, sites=2)
    service = files.services[0].id
    ((_, home), count) = next(one for one in placement(files).items() if one[0][0] == service)
    other = next(site for site in ("east", "west") if site != home)
    failback = Scenario("failback", (home,))
    for site, many, stopped in ((home, count + 2, 0), (other, 2, 2)):
        seen = Observation(7, units=(UnitsSeen(service, site, many, "kubernetes", 7),), effects=Effects())
        now = of(files, seen)
        plan = make_plan(now.estate, failback, budget_ms=0).plan
        assert check(now.estate, plan).holds
        assert sum(step.count for step in plan.steps if step.kind == "stop") == stopped
        assert next_of(now, "ESTATE") == (f"evac plan ESTATE --failback {home}" if stopped else "")


def test_an_undone_start_is_no_effect_and_nothing_known_is_the_declared_estate() -> None:
    files = estate_of(2)
    assert of(files, Observation(0)).estate is files
    nothing = moved(files, lose("east"), [], run="undone", phase="cancelled")
    seen = Observation(0, effects=Effects((), (nothing,)))
    assert placement(of(files, seen).estate) == placement(files)


def test_a_driver_that_counts_replicas_goes_over_the_last_run() -> None:
    world = World(estate_of(0))
    service = world.files.services[0].id
    (_, site), count = next(item for item in placement(world.files).items() if item[0][0] == service)
    other = next(name for name in SITES if name != site)
    seen = Observation(
        7,
        units=(
            UnitsSeen(service, site, 0, "kubernetes", 7),
            UnitsSeen(service, other, count, "kubernetes", 7),
        ),
        traffic=(TrafficSeen(service, (other,), "dns", 7),),
        effects=Effects(),
    )
    situation = of(world.files, seen)
    assert placement(situation.estate) == {
        **{key: n for key, n in placement(world.files).items() if key[0] != service},
        (service, other): count,
    }
    (away,) = situation.services
    assert (away.service, away.now, away.traffic, away.cause.by) == (
        service,
        ((other, count),),
        (other,),
        "kubernetes",
    )


def test_roles_that_are_seen_go_over_those_that_a_run_left() -> None:
    world = World(estate_of(4))
    world.run(lose("east"))
    members = tuple(
        MemberSeen("d0", site, role)
        for site, role in (("east", "none"), ("north", "async"), ("west", "primary"))
    )
    situation = of(world.files, Observation(9, members, effects=world.seen.effects))
    assert roles(situation.estate)["d0"] == "west"
    assert {(one.store, one.home, one.now) for one in situation.stores} >= {("d0", "east", "west")}


def test_a_primary_is_away_because_of_the_run_that_moved_it_and_not_of_one_that_left_it_there() -> None:
    world = World(estate_of(4))
    world.run(lose("east"))
    before = {one.store: one.cause for one in of(world.files, world.seen).stores}
    world.run(Scenario("restore", ("east",)))
    assert "d0" in dict(world.moved[-1].roles), "the copy of the restored site follows again"
    assert {one.store: one.cause for one in of(world.files, world.seen).stores}["d0"] == before["d0"]
    other = ({"north", "west"} - {roles(world.now)["d0"]}).pop()
    by_hand = tuple(MemberSeen("d0", at, "primary" if at == other else "async") for at in SITES)
    now = of(world.files, Observation(9, by_hand, effects=world.seen.effects)).stores
    assert [one.cause.source for one in now if one.store == "d0"] == ["observed"]


def test_the_digest_changes_with_what_is_lost_and_with_where_things_are() -> None:
    files = estate_of(6)
    lost = of(files, Observation(0, effects=Effects((LostNow("west", "lost"),)))).estate
    assert len({estate_digest(files), estate_digest(lost)}) == 2


def test_what_the_files_do_not_have_any_more_is_left_out() -> None:
    files = estate_of(6)
    old = Moved("old", "lose", ("gone",), 0, 1, "succeeded", {"ghost": (("east-pool", 1),)})
    seen = Observation(0, effects=Effects((LostNow("gone", "lost"),), (old,)))
    assert placement(of(files, seen).estate) == placement(files)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_lost_is_in_no_table_of_losses_and_its_capacity_counts_for_nothing(seed: int) -> None:
    world = World(estate_of(seed))
    world.run(lose("east"))
    report = audit(world.now)
    assert {row.domain for row in report.rows} == {"north", "west"}
    for row in report.rows:
        for one in row.fates(report.services):
            assert one.fate != "unknown", one
    both = make_plan(world.now, lose("west"), budget_ms=0).plan
    assert both == make_plan(world.now, lose("east", "west"), budget_ms=0).plan or {
        step.pool for step in both.steps if step.pool
    } <= {"north-pool"}
