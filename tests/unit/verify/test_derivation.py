"""Limits and power are derived by the checker itself: an error in what planner and checker share is found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench.random_estates import strange_estate
from evac.derive import energising, limits
from evac.derive.domains import domains, topology
from evac.derive.limits import LimitTable, PowerTable
from evac.derive.planning_instance import derive
from evac.derive.pools import pool_capacities
from evac.estate.examples import pangyo
from evac.model.estate import Estate, StoreMember
from evac.model.instance import Instance, Limit, Use
from evac.model.plan import Plan
from evac.model.scenario import Scenario, ScenarioKind, lose
from evac.planning.plan import plan
from evac.verify import check
from evac.verify.derivation import derived_again
from tests.unit.planning.dark import dark_site
from tests.unit.truth.written import servers, written

Patch = pytest.MonkeyPatch
KINDS: tuple[ScenarioKind, ...] = ("lose", "restore", "failback", "evacuate")
RESTORE = Scenario("restore", ("a",))


def tight(folder: Path, rack: int = 9_000, second: int = 9_000, image: int = 0, **facts: str) -> Estate:
    """A dark site, with watts for each rack and second feed, and seconds for which a boot loads its image.

    Two images at once, three boots and one inrush a feed are all that it stands; 10 % of power stay free.
    """
    usual = {"FEED": "inrush_budget: 1300 W, boots_at_once: 3", "LIMITS": "power_margin: 10 %"}
    estate = dark_site(folder, **{**usual, **facts})
    feeds = tuple(
        replace(one, power_budget_watts=second) if one.id.endswith("f2") else one for one in estate.feeds
    )
    classes = tuple(
        replace(one, image_mbps=100, image_offset_ms=5_000, image_hold_ms=image * 1_000)
        for one in estate.classes
    )
    return replace(
        estate,
        racks=tuple(replace(one, power_budget_watts=rack) for one in estate.racks),
        feeds=feeds,
        classes=classes,
        boot_servers=tuple(replace(one, image_mbps=250) for one in estate.boot_servers),
    )


def patched_limits(patch: Patch, change: Callable[[Limit], Limit | None]) -> None:
    """Every limit changed in the table that planner and checker share; None: left out."""
    right = limits.limits_of

    def wrong(estate: Estate, tick_ms: int) -> LimitTable:
        table = right(estate, tick_ms)
        rows = tuple(new for limit in table.limits if (new := change(limit)) is not None)
        number = {limit.id: row for row, limit in enumerate(rows)}
        hands, fences = ((Use(number[name], 1),) if name in number else () for name in ("hands", "fences"))
        return LimitTable(rows, number, fences, hands, tick_ms)

    patch.setattr("evac.derive.planning_instance.limits_of", wrong)


def patched_uses(patch: Patch, change: Callable[[str, Use], Use | None]) -> None:
    """What one boot holds changed, by the name of the limit; None: left out."""
    right = LimitTable.boot

    def wrong(self: LimitTable, *args: Any) -> tuple[Use, ...]:
        uses = ((self.limits[use.limit].id, use) for use in right(self, *args))
        return tuple(new for name, use in uses if (new := change(name, use)) is not None)

    patch.setattr(LimitTable, "boot", wrong)


def rack_budgets_doubled(patch: Patch) -> None:
    right = limits.stated_budgets
    patch.setattr(
        limits,
        "stated_budgets",
        lambda top: {
            name: watts * (2 if name in top.rack_index else 1) for name, watts in right(top).items()
        },
    )


def second_feed_dropped(patch: Patch) -> None:
    right = limits._table

    def wrong(*args: Any) -> PowerTable:
        table = right(*args)
        table.of_rack[:, 1] = -1
        return table

    patch.setattr(limits, "_table", wrong)


def margin_ignored(patch: Patch) -> None:
    patch.setattr(limits, "less_margin", lambda watts, margin: watts)


def inrush_ignored(patch: Patch) -> None:
    patched_uses(patch, lambda name, use: None if name.startswith("inrush:") else use)


def image_counted_twice(patch: Patch) -> None:
    patched_uses(patch, lambda name, use: replace(use, units=use.units * (1 + name.startswith("image:"))))


def image_held_too_short(patch: Patch) -> None:
    patched_uses(patch, lambda name, use: replace(use, hold=use.hold // 2) if "image:" in name else use)


def slots_of_the_boot_server_doubled(patch: Patch) -> None:
    patched_limits(patch, lambda one: replace(one, capacity=one.capacity * (1 + (one.id == "boots:a-boot"))))


def slots_of_feeds_forgotten(patch: Patch) -> None:
    patched_limits(patch, lambda one: None if one.id.startswith("boots:a/") else one)


def addresses_given_out_too_fast(patch: Patch) -> None:
    patched_limits(patch, lambda one: replace(one, window=one.window and one.window // 2))


def hands_ignored(patch: Patch) -> None:
    patched_limits(patch, lambda one: replace(one, capacity=99) if one.id == "hands" else one)


def network_forgotten(patch: Patch) -> None:
    right = energising._Energising._network
    patch.setattr(energising._Energising, "_network", lambda self: right(self) * 0)


def no_rack_is_refused(patch: Patch) -> None:
    patch.setattr(energising._Energising, "_breaks", lambda self, racks: None)


def nothing_comes_on_by_itself(patch: Patch) -> None:
    right = energising._Energising._by_itself
    patch.setattr(energising._Energising, "_by_itself", lambda self, *args: right(self, *args) & False)


NETWORK = {"HALL": "network_up: 4 min"}
ON = {"POLICY": "on", "FEED": "inrush_budget: 700 W"}
LAST = {"POLICY": "last"}
AMPLE = {"FEED": "inrush_budget: 9 kW"}
WRONG: list[tuple[Callable[[Patch], None], dict[str, Any], str]] = [
    (rack_budgets_doubled, {"rack": 1_000}, "F9"),
    (second_feed_dropped, {"second": 2_500}, "F9"),
    (margin_ignored, {"rack": 1_400}, "F9"),
    (inrush_ignored, {}, "F6"),
    (inrush_ignored, {}, "F3"),
    (image_counted_twice, {"image": 60}, "F3"),
    (image_held_too_short, {"image": 100, **AMPLE}, "F6"),
    (slots_of_the_boot_server_doubled, AMPLE, "F6"),
    (slots_of_feeds_forgotten, {}, "F3"),
    (addresses_given_out_too_fast, AMPLE, "F6"),
    (hands_ignored, {}, "F21"),
    (network_forgotten, NETWORK, "F21"),
    (no_rack_is_refused, ON, "F22"),
    (nothing_comes_on_by_itself, LAST, "F21"),
]


def planned(
    patch: Patch, folder: Path, plant: Callable[[Patch], None], facts: dict[str, Any]
) -> tuple[Estate, Plan]:
    """A plan made with a wrong derivation, which stays planted."""
    estate = tight(folder, **facts)
    assert check(estate, plan(estate, RESTORE)).holds
    plant(patch)
    return estate, plan(estate, RESTORE)


@pytest.mark.parametrize(("plant", "facts", "rule"), WRONG)
def test_a_wrong_derivation_is_found(
    plant: Callable[[Patch], None],
    facts: dict[str, Any],
    rule: str,
    monkeypatch: Patch,
    tmp_path: Path,
) -> None:
    estate, made = planned(monkeypatch, tmp_path, plant, facts)
    assert rule in {violation.rule for violation in check(estate, made).violations}


@pytest.mark.parametrize(("plant", "facts"), [wrong[:2] for wrong in WRONG])
def test_a_wrong_derivation_would_not_be_found_if_the_checker_shared_it(
    plant: Callable[[Patch], None], facts: dict[str, Any], monkeypatch: Patch, tmp_path: Path
) -> None:
    estate, made = planned(monkeypatch, tmp_path, plant, facts)
    monkeypatch.setattr(sys.modules["evac.verify.check"], "derived_again", lambda top, asked, shared: shared)
    assert check(estate, made).holds


def test_equal_feeds_are_closed_by_id_in_whatever_order_an_estate_lists_them(tmp_path: Path) -> None:
    estate = tight(tmp_path)
    turned = replace(estate, feeds=tuple(reversed(estate.feeds)))
    top = topology(turned)
    shared = derive(turned, RESTORE, top=top)
    again = derived_again(top, RESTORE, shared)
    assert again.power_steps == shared.power_steps
    assert [step.target for step in again.power_steps] == [
        step.target for step in derive(estate, RESTORE).power_steps
    ]


MACHINES = """
name: machines
sites: {a: {}, b: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB}}
pools:
  unknown: {site: a, cpu: 8 cores, memory: 64 GiB}
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
services:
  on-server: {tier: 0, people: 9, SHOP, start: 1 s, traffic: {kind: none},
              demand: {cpu: 5 cores, memory: 1 GiB}}
MORE
"""
TABLE = servers(
    "v1,a,a/h1/r,c,serving,", "v2,a,RACK,c,serving,", "p1,a,a/h1/r,c,serving,pa", "p2,a,a/h2/r,c,serving,pa"
)
ANYWHERE = """  calls: {tier: 0, people: 9, replicas: 2, sites: [a], start: 1 s, traffic: {kind: none},
          demand: {cpu: 3 cores, memory: 1 GiB}}
"""


def machines(folder: Path, shop: str = "", rack: str = "a/h2/r", more: str = "") -> Estate:
    """A service on a server or in a pool of two, next to a pool of unknown servers."""
    text = MACHINES.replace("SHOP, ", f"{shop}, " if shop else "").replace("MORE\n", more)
    if rack:
        text = text.replace("  unknown: {site: a, cpu: 8 cores, memory: 64 GiB}\n", "")
    places = "" if shop else "service,target,count\non-server,v1,1\n"
    tables = {"servers": TABLE.replace("RACK", rack)} | ({"replicas": places} if places else {})
    return written(folder, text, **tables)


def pools_doubled(patch: Patch) -> None:
    right = pool_capacities

    def wrong(*args: Any) -> Any:
        of_pools, of_servers = right(*args)
        return [[2 * amount for amount in one] for one in of_pools], of_servers

    patch.setattr("evac.derive.rows.pool_capacities", wrong)


def whole_pool_left(patch: Patch) -> None:
    patch.setattr("evac.derive.pools._lost_part", lambda fleet, rows, gone: (Fraction(0),) * 4)


def never_full(patch: Patch) -> None:
    patch.setattr("evac.derive.vague.may_be_full", lambda top, pool, capacity: False)


def no_server_in_doubt(patch: Patch) -> None:
    patch.setattr("evac.derive.vague._unsafe", lambda *args: iter(()))


IN_POOL = {"shop": "replicas: {pb: 1}"}
LOST: list[tuple[Callable[[Patch], None], dict[str, str], tuple[str, ...], str, str]] = [
    (pools_doubled, {"shop": "replicas: {pb: 2}"}, ("b",), "unplaced", "F8"),
    (whole_pool_left, IN_POOL, ("b", "a/h1"), "unplaced", "F8"),
    (never_full, {**IN_POOL, "more": ANYWHERE}, ("b",), "unknown", "F1"),
    (no_server_in_doubt, {"rack": ""}, ("a/h1",), "unknown", "F1"),
]


@pytest.mark.parametrize(("plant", "facts", "lost", "state", "rule"), LOST)
def test_a_wrong_capacity_after_a_loss_is_found(
    plant: Callable[[Patch], None],
    facts: dict[str, str],
    lost: tuple[str, ...],
    state: str,
    rule: str,
    monkeypatch: Patch,
    tmp_path: Path,
) -> None:
    estate = machines(tmp_path, **facts)
    right = plan(estate, lose(*lost))
    assert check(estate, right).violations == ()
    assert {one.service: one.state for one in right.outcomes}["on-server"] == state
    plant(monkeypatch)
    made = plan(estate, lose(*lost))
    assert {one.service: one.state for one in made.outcomes}["on-server"] == "restored"
    assert rule in {violation.rule for violation in check(estate, made).violations}
    monkeypatch.setattr(sys.modules["evac.verify.check"], "derived_again", lambda top, asked, shared: shared)
    assert check(estate, made).holds, "only the checker's own derivation finds it"


@pytest.mark.parametrize("rack", ["a/h2/r", ""])
def test_a_plan_that_judges_what_may_be_lost_is_refused(
    rack: str, monkeypatch: Patch, tmp_path: Path
) -> None:
    text = MACHINES.replace("SHOP, ", "").replace("MORE\n", "")
    table = "service,target,count\non-server,v2,1\n"
    estate = written(tmp_path, text, servers=TABLE.replace("RACK", rack), replicas=table)
    monkeypatch.setattr("evac.derive.planning_instance.unjudged", lambda *args: {})
    made = plan(estate, lose("a/h1"))
    assert [one.service for one in made.outcomes] == []
    found = {(one.rule, one.subject) for one in check(estate, made).violations}
    assert (("F1", "on-server") in found) == (not rack)


def uses(instance: Instance, held: tuple[Use, ...]) -> list[tuple[str, int, int, int]]:
    return sorted((instance.limits[use.limit].id, use.units, use.offset, use.hold) for use in held)


def figures(instance: Instance) -> dict[str, object]:
    """Everything about limits and power, by name where it is numbered."""
    rows, budgets = instance.rows, instance.power
    return {
        "limits": instance.limits,
        "budgets": sorted((one.id, one.watts, one.on_watts) for one in budgets),
        "budgets of rows": [sorted(budgets[n].id for n in set(row) - {-1}) for row in rows.power.tolist()],
        "watts": rows.watts.tolist(),
        "capacity": rows.capacity.tolist(),
        "unknown of rows": dict(instance.vague.rows),
        "kinds": rows.boot_kind.tolist(),
        "boots": [
            (
                kind.duration,
                uses(instance, kind.uses),
                kind.ready,
                kind.ready_least,
                kind.by_itself,
                kind.by_hand,
            )
            for kind in instance.boot_kinds
        ],
        "power steps": [replace(step, uses=()) for step in instance.power_steps],
        "held by power steps": [uses(instance, step.uses) for step in instance.power_steps],
        "powered by": instance.powered_by.tolist(),
        "comes up": instance.bring_up.tolist(),
        "left off": instance.left_off,
        "pools": [(uses(instance, p.start_uses), uses(instance, p.shed_uses)) for p in instance.pools],
        "shifts": [uses(instance, held) for held in instance.services.shift_uses],
        "stores": [
            (uses(instance, d.fence_uses), [uses(instance, way.uses) for way in d.candidates])
            for d in instance.stores
        ],
        "hands": {kind: uses(instance, need.manual_uses) for kind, need in instance.tools.items()},
    }


@pytest.mark.parametrize("seed", range(12))
def test_planner_and_checker_derive_the_same_of_what_strangers_write(seed: int) -> None:
    """Also after a first loss."""
    estate = strange_estate(seed)
    every = [one.id for one in domains(estate)]
    for first in ("", *every[:: max(1, len(every) // 3)]):
        now = replace(estate, lost=(first,)) if first else estate
        for name in every:
            assert_agree(now, lose(name))
            assert_agree(now, Scenario("evacuate", (name,)))


def assert_agree(estate: Estate, scenario: Scenario) -> None:
    shared = derive(estate, scenario)
    own = derived_again(topology(estate), scenario, shared)
    assert figures(own) == figures(shared)


POOL = {"OLD_POOL": "k", "POOLS": "pools: {k: {site: a, starts: 3 per 10 s}}\n"}
SITES: list[dict[str, str]] = [
    {},
    LAST,
    ON,
    NETWORK,
    POOL,
    {"POLICY": "on", "FEED": "inrush_budget: 1 kW"},
    {"OLD_BMC": "no"},
    {"MANUAL": "7 h"},
    {"POLICY": "unknown", "LIMITS": "fences_at_once: 1, starts: 9 per minute"},
]


@pytest.mark.parametrize("facts", SITES)
def test_planner_and_checker_derive_the_same_of_a_dark_site(facts: dict[str, str], tmp_path: Path) -> None:
    estate = dark_site(tmp_path, **facts)
    for kind in KINDS:
        assert_agree(estate, Scenario(kind, ("a",)))
    for some in (("a/h1",), ("a/h1/f1",), ("a/h1/r1", "a/h2/f1"), ("a/h1/f1", "a/h1/f2")):
        assert_agree(estate, Scenario("restore", some))
    assert_agree(estate, Scenario("restore", ("a",), None, (("a", 1_000), ("a/h1", 900))))
    assert_agree(estate, Scenario("restore", ("a",), None, (), ("a11w0", "a22x")))
    burnt = replace(estate, lost=("a/h1",))
    for scenario in (lose("a/h2"), Scenario("restore", ("a/h1",)), Scenario("restore", ("a/h2",))):
        assert_agree(burnt, scenario)


@pytest.mark.parametrize("mended", [False, True])
def test_planner_and_checker_derive_the_same_of_a_company(mended: bool) -> None:
    estate = pangyo(servers=1_000, mended=mended)
    for scenario in (
        lose("pangyo"),
        Scenario("restore", ("pangyo",)),
        Scenario("failback", ("pangyo",)),
        Scenario("restore", (estate.halls[0].id,)),
        lose(estate.feeds[0].id),
    ):
        assert_agree(estate, scenario)


@pytest.mark.parametrize("third", ["b1", "a/h1"])
def test_planner_and_checker_derive_the_same_of_a_store_with_votes(third: str, tmp_path: Path) -> None:
    """With a majority left nothing is fenced and no promotion is held; without one a cluster is forced."""
    estate = dark_site(tmp_path, LIMITS="fences_at_once: 1, promotions_at_once: 1")
    members = (StoreMember("a", "primary"), StoreMember("b", "sync"), StoreMember(third, "sync"))
    voting = replace(
        estate, stores=tuple(replace(one, quorum=True, members=members) for one in estate.stores)
    )
    for kind in KINDS:
        assert_agree(voting, Scenario(kind, ("a",)))
