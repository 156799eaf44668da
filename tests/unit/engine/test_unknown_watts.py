"""Boots next to servers of unknown power: a run starts none of them before a person has approved the load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac import estate as estates
from evac.engine.runs.binding import Bound, bind
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario
from evac.planning.plan import plan as make_plan
from evac.verify import check
from tests.unit.run.world import World

ESTATE = """evac: 1
name: watts
horizon: 4 h
sites: {a: {}, b: {}}
halls: {a/h: {}, b/h: {}}
feeds: {a/f: {power_budget: 1 kW}, b/f: {}}
racks: {a/h/r: {feeds: [a/f]}, b/h/r: {feeds: [b/f]}}
classes:
  known: {cpu: 8 cores, memory: 32 GiB, watts: 300 W, boot: 1 min, boot_odds: 100 %, power_on: dark}
  silent: {cpu: 8 cores, memory: 32 GiB, boot: 1 min, boot_odds: 100 %, power_on: POLICY}
limits: {manual: {power: 1 min, boot: 5 min}}
services:
  shop: {tier: 1, people: 9, start: 1 s, verify: 1 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""
ROWS = "s1,a,a/h/r,known\ns2,a,a/h/r,known\ns3,a,a/h/r,{kind}\ns4,b,b/h/r,silent\n"
ALL = [f"boot:s{n}" for n in (1, 2, 3)]


def estate_of(
    folder: Path, kind: str = "silent", policy: str = "dark", budget: str = "power_budget: 1 kW"
) -> Estate:
    text = ESTATE.replace("POLICY", policy).replace("power_budget: 1 kW", budget)
    (folder / "estate.yaml").write_text(text)
    rows = "".join(f"{line},serving,yes\n" for line in ROWS.format(kind=kind).splitlines())
    (folder / "servers.csv").write_text(f"server,site,rack,class,state,bmc\n{rows}")
    (folder / "replicas.csv").write_text("service,target,count\nshop,s4,1\n")
    return estates.load(folder)


def bound_of(estate: Estate) -> tuple[Plan, Bound]:
    made = make_plan(estate, Scenario("restore", ("a",), "restore"))
    assert check(estate, made).holds
    return made, bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")


def performed(bound: Bound, approve: str = "") -> World:
    """The run to its end; what people do succeeds."""
    world = World(replace(bound.spec, approvals=0))
    world.begin()
    world.settle()
    if approve:
        world.say("gate_opened", approve, by="kim", reason="measured: 600 W are free")
    while world.step():
        for i in sorted(world.view.manual_running):
            step = world.view.steps[i]
            world.say("step_succeeded", str(step.id), world.view.attempts[i])
            world.done.add(str(step.id))
    return world


def gates(bound: Bound) -> dict[str, str]:
    return {str(step.id): step.gate for step in bound.spec.steps if step.gate}


def behind(bound: Bound, gate: str) -> set[str]:
    """Steps that wait for one, directly or through others."""
    found, before = {gate}, 0
    while len(found) > before:
        before = len(found)
        found |= {str(step.id) for step in bound.spec.steps if found & set(step.after)}
    return found - {gate}


def test_boots_behind_a_budget_with_an_unknown_load_wait_for_a_person(tmp_path: Path) -> None:
    """s3 may draw anything, so neither it nor its neighbours may start before someone has checked."""
    _, bound = bound_of(estate_of(tmp_path))
    assert gates(bound) == {
        "power:a": "what a/f can still carry is unknown: check that a has power for 3 more servers"
    }
    assert behind(bound, "power:a") >= set(ALL)


@pytest.mark.parametrize(("kind", "budget"), [("known", "power_budget: 1 kW"), ("silent", "")])
def test_known_loads_and_unlimited_feeds_need_no_approval(tmp_path: Path, kind: str, budget: str) -> None:
    _, bound = bound_of(estate_of(tmp_path, kind, budget=budget))
    assert gates(bound) == {}
    assert performed(bound).done >= set(ALL)


def test_power_that_switches_on_servers_of_unknown_power_waits_too(tmp_path: Path) -> None:
    _, bound = bound_of(estate_of(tmp_path, policy="on"))
    assert list(gates(bound)) == ["power:a"]
    assert behind(bound, "power:a") >= {"power:a/f", "boot:s1", "boot:s2"}


@pytest.mark.parametrize("policy", ["dark", "on"])
def test_nothing_draws_power_before_the_approval_and_everything_after_it(tmp_path: Path, policy: str) -> None:
    _, bound = bound_of(estate_of(tmp_path, policy=policy))
    before = performed(bound)
    assert before.view.phase == "timed_out"
    assert not before.done & {*ALL, *(["power:a/f"] if policy == "on" else [])}
    after = performed(bound, "power:a")
    assert after.view.phase == "succeeded"
    assert after.done >= {str(step.id) for step in bound.spec.steps if step.kind in ("boot", "power")}
