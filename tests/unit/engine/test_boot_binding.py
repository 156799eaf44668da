"""Boots and power steps of a plan as a run has them: watts, inrush, places, drivers, hands."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from evac import estate as estates
from evac.engine.boots.binding import in_time, longest_first
from evac.engine.runs.binding import Bound, bind, decode_bound, encode_bound
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan as make_plan
from evac.run.values import KEPT, RunLimit, RunStep

ESTATE = """evac: 1
horizon: 2 h
detection: 2 s
sites: {pangyo: {power_budget: 40 kW}, anyang: {}}
halls: {pangyo/h1: {power_budget: 9 kW, cooling: 8 kW, network_up: 30 s}}
feeds:
  pangyo/a: {power_budget: 5 kW, inrush_budget: 3 kW, close: 2 s}
  pangyo/b: {power_budget: 5 kW, inrush_budget: 3 kW, close: 2 s}
racks:
  pangyo/h1/r1: {hall: pangyo/h1, feeds: [pangyo/a, pangyo/b], power_budget: 3 kW}
  pangyo/h1/r2: {hall: pangyo/h1, feeds: [pangyo/a], power_budget: 3 kW}
classes:
  web: {cpu: 8 cores, memory: 8 GiB, disk: 1 GiB, accelerators: 0, watts: 300 W, boot: 100 s,
        inrush: 500 W, inrush_hold: 10 s, image: 100 Mbit/s, image_offset: 20 s, image_hold: 30 s,
        power_on: dark}
boot_servers: {pxe: {site: pangyo, boots_at_once: 3, image: 250 Mbit/s}}
limits: {hands_at_once: 2, power_margin: 10 %, manual: {boot: 10 min, power: 1 min}}
services:
  web:
    tier: 1
    people: 100
    demand: {cpu: 8 cores, memory: 4 GiB}
    replicas: {pangyo: 4, anyang: 1}
    share: 100 %
    start: 1 s
    verify: 1 s
endpoints:
  bmc: {for: pangyo, at: pangyo, driver: redfish, settings: {user: evac, password: "env:BMC"}}
  a: {for: pangyo/a, at: pangyo, driver: redfish,
      settings: {user: evac, password: "env:BMC", address: 10.9.9.1, circuit: /redfish/v1/Branches/A}}
"""
SERVERS = "server,rack,class,state,boot_server,bmc,bmc_address,serial,position\n" + "".join(
    f"s{n},pangyo/h1/r{1 + n // 4},web,serving,pxe,{'no' if n == 3 else 'yes'},"
    f"{'' if n in (2, 3) else f'10.0.0.{n + 1}'},SN{n},{10 + n}\n"
    for n in range(8)
)


@lru_cache
def estate() -> Estate:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    (folder / "estate.yaml").write_text(ESTATE)
    (folder / "servers.csv").write_text(SERVERS)
    return estates.load(folder)


def plan_of(of: Estate, extra: tuple[Step, ...] = ()) -> Plan:
    """Boots of all servers, as a plan that restores the site has them."""
    boots = tuple(
        Step(f"boot:s{n}", "boot", f"s{n}", 1_000 * n, 1_000 * n + 100_000, servers=((f"s{n}", 1),))
        for n in range(8)
    )
    made = make_plan(of, lose("anyang"))
    return replace(made, scenario=Scenario("restore", ("pangyo",), "restore"), steps=(*extra, *boots))


@lru_cache
def bound(fed: bool = True) -> Bound:
    of = estate()
    extra = (Step("power:pangyo/a", "power", "pangyo/a", 0, 2_000),) if fed else ()
    return bind(of, plan_of(of, extra), RunPolicy(), run="r", incident="i", digest="d")


def step(name: str, fed: bool = True) -> RunStep:
    return next(one for one in bound(fed).spec.steps if one.id == name)


def test_watts_are_kept_under_every_budget_and_inrush_is_timed() -> None:
    uses = {name: (units, hold) for name, units, hold in step("boot:s0").uses}
    for name in ("pangyo/a", "pangyo/b", "pangyo/h1", "pangyo/h1/r1", "pangyo"):
        assert uses[f"power:{name}"] == (300, KEPT)
    assert uses["inrush:pangyo/a"] == uses["inrush:pangyo/b"] == (500, 10_000)
    assert uses["boots:pxe"] == (1, 0)
    assert uses["image:pxe"] == (100, 30_000), "every image begins 20 s after its boot: nothing is lost by it"
    assert {name for name, _, _ in step("boot:s7").uses} >= {"power:pangyo/a", "power:pangyo/h1/r2"}
    assert "power:pangyo/b" not in {name for name, _, _ in step("boot:s7").uses}


def test_limits_are_the_planners_less_the_margin() -> None:
    limits = {limit.id: limit for limit in bound().spec.limits}
    assert limits["power:pangyo/a"].capacity == limits["power:pangyo/a"].whole == 4_500
    assert limits["power:pangyo/h1"].capacity == 7_200, "cooling carries less than power"
    assert limits["inrush:pangyo/a"].capacity == 2_700
    assert "power:anyang" not in limits


def test_a_plan_at_ninety_percent_begins_so_and_knows_the_whole() -> None:
    of = estate()
    made = plan_of(of)
    less = replace(made, scenario=replace(made.scenario, power=(("pangyo/a", 4_000),)))
    spec = bind(of, less, RunPolicy(), run="r", incident="i", digest="d").spec
    limit = next(limit for limit in spec.limits if limit.id == "power:pangyo/a")
    assert (limit.capacity, limit.whole) == (3_600, 4_500)


def test_a_driver_is_told_everything_of_a_server() -> None:
    (action,) = bound().actions["boot:s1"]
    assert (action.verb, action.driver, action.target, action.at) == ("boot", "redfish", "s1", "pangyo")
    assert dict(action.parameters) == {
        "server": "s1",
        "address": "10.0.0.2",
        "serial": "SN1",
        "position": "11",
        "network": "pangyo/h1",
        "rack": "pangyo/h1/r1",
        "boot_ms": 100_000,
    }


@pytest.mark.parametrize("server", ["s2", "s3"])
def test_what_no_controller_can_boot_a_person_boots_with_hands_as_a_limit(server: str) -> None:
    (action,) = bound().actions[f"boot:{server}"]
    assert action.driver == "manual"
    words = str(action.parameters["instructions"])
    assert "hall pangyo/h1, rack pangyo/h1/r1" in words
    assert f"serial SN{server[1:]}" in words
    assert step(f"boot:{server}").manual
    assert ("hands", 1, 0) in step(f"boot:{server}").uses


def test_feeds_are_closed_first_and_their_switches_have_time_to_come_up() -> None:
    (action,) = bound().actions["power:pangyo/a"]
    assert (action.verb, action.driver) == ("start", "redfish")
    assert action.parameters["address"] == "10.9.9.1"
    boot = step("boot:s7")
    assert boot.after == ("power:pangyo/a",)
    assert (boot.rack, boot.feeds, boot.boot_server) == ("pangyo/h1/r2", ("pangyo/a",), "pxe")
    assert set(step("boot:s0").after) == {"power:pangyo/a", "power:pangyo/b"}


def test_only_what_gets_its_power_from_the_plan_and_stays_off_then_is_known_to_have_been_off() -> None:
    assert step("boot:s7").cold
    assert not step("boot:s0").cold, "its other feed had power before"
    assert not step("boot:s7", False).cold
    for policy in ("last", "on"):
        of = replace(estate(), classes=tuple(replace(c, power_on=policy) for c in estate().classes))  # type: ignore[arg-type]
        made = plan_of(of, (Step("power:pangyo/a", "power", "pangyo/a", 0, 2_000),))
        found = bind(of, made, RunPolicy(), run="r", incident="i", digest="d")
        assert not any(one.cold for one in found.spec.steps)


def test_a_feed_that_has_power_has_a_step_that_is_done_at_once() -> None:
    (action,) = bound(False).actions["power:pangyo/b"]
    assert action.driver == "noop"
    assert step("power:pangyo/b", False).duration_ms == 0
    assert step("boot:s7", False).lag_ms == 0


def test_it_comes_back_from_the_store_as_it_was() -> None:
    one = bound()
    again = decode_bound(encode_bound(one))
    assert again.spec == one.spec
    assert dict(again.actions) == dict(one.actions)
    assert encode_bound(one).count(b"env:BMC") == 2, "settings stand once"


def test_boots_that_nothing_waits_for_begin_with_the_longest() -> None:
    def boot(name: str, start_ms: int, takes_ms: int) -> RunStep:
        return RunStep(f"boot:{name}", "boot", name, start_ms, takes_ms)

    steps = [boot("a", 0, 100), boot("b", 10, 300), boot("c", 20, 200), boot("d", 30, 900)]
    web = RunStep("start:web", "start", "web", 50, 10, ("boot:d",))
    found = {one.id: one.start_ms for one in longest_first([*steps, web])}
    assert found == {"boot:b": 0, "boot:c": 10, "boot:a": 20, "boot:d": 30, "start:web": 50}


def test_a_long_boot_that_would_end_last_begins_before_what_was_planned_earlier() -> None:
    def boot(name: str, start_ms: int, takes_ms: int) -> RunStep:
        return RunStep(f"boot:{name}", "boot", name, start_ms, takes_ms, (), (("inrush:a", 10, 20),))

    limits = (RunLimit("inrush:a", "slots", 10),)
    steps = [boot("a", 0, 100), boot("b", 20, 100), boot("c", 40, 400)]
    found = {one.id: one.start_ms for one in in_time(steps, limits, 420)}
    assert found == {"boot:a": 0, "boot:b": 20, "boot:c": 0}
    assert [one.start_ms for one in in_time(steps, limits, 9_000)] == [0, 20, 40], "there is time"
