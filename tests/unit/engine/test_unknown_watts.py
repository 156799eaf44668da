"""Boots next to servers of unknown power: a run starts none of them before a person has approved the load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from evac import estate as estates
from evac.engine.runs.binding import Bound, bind
from evac.incident.timeline import told
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan as make_plan
from evac.run.replan import merging
from evac.run.values import Event
from evac.steps.load import BUDGETS_MOST, Load
from evac.steps.registry import kind_of
from evac.verify import check
from evac.views.decisions import decision_of
from evac.views.documents import RunShown
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
    folder: Path,
    kind: str = "silent",
    policy: str = "dark",
    budget: str = "power_budget: 1 kW",
    servers: str = ROWS,
    others: Mapping[str, str] = MappingProxyType({}),
) -> Estate:
    """others: what else to replace in the estate."""
    text = ESTATE.replace("POLICY", policy).replace("power_budget: 1 kW", budget)
    for old, new in others.items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "estate.yaml").write_text(text)
    rows = "".join(
        f"{line}\n" if line.count(",") > 3 else f"{line},serving,yes\n"
        for line in servers.format(kind=kind).splitlines()
    )
    (folder / "servers.csv").write_text(f"server,site,rack,class,state,bmc\n{rows}")
    (folder / "replicas.csv").write_text("service,target,count\nshop,s4,1\n")
    return estates.load(folder)


RESTORE = Scenario("restore", ("a",), "restore")


def bound_of(estate: Estate, scenario: Scenario = RESTORE, digest: str = "d") -> tuple[Plan, Bound]:
    made = make_plan(estate, scenario)
    assert check(estate, made).holds
    return made, bind(estate, made, RunPolicy(), run="r", incident="i", digest=digest)


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
        "load:a": "what a/f can still carry is unknown: check that it can carry 3 more servers"
    }
    assert behind(bound, "load:a") >= set(ALL)
    powered = {step.target for step in bound.spec.steps if kind_of(step.kind).gives_power}
    assert powered == {"a/f"}, "an approval gives no power"


@pytest.mark.parametrize(("kind", "budget"), [("known", "power_budget: 1 kW"), ("silent", "")])
def test_known_loads_and_unlimited_feeds_need_no_approval(tmp_path: Path, kind: str, budget: str) -> None:
    _, bound = bound_of(estate_of(tmp_path, kind, budget=budget))
    assert gates(bound) == {}
    assert performed(bound).done >= set(ALL)


def test_power_that_switches_on_servers_of_unknown_power_waits_too(tmp_path: Path) -> None:
    _, bound = bound_of(estate_of(tmp_path, policy="on"))
    assert list(gates(bound)) == ["load:a"]
    assert behind(bound, "load:a") >= {"power:a/f", "boot:s1", "boot:s2"}


@pytest.mark.parametrize("policy", ["dark", "on"])
def test_nothing_draws_power_before_the_approval_and_everything_after_it(tmp_path: Path, policy: str) -> None:
    _, bound = bound_of(estate_of(tmp_path, policy=policy))
    before = performed(bound)
    assert before.view.phase == "timed_out"
    assert not before.done & {*ALL, *(["power:a/f"] if policy == "on" else [])}
    after = performed(bound, "load:a")
    assert after.view.phase == "succeeded"
    assert after.done >= {str(step.id) for step in bound.spec.steps if step.kind in ("boot", "power")}


SILENT = "s1,a,a/h/r,silent\ns2,a,a/h/r,silent\ns3,a,a/h/r,silent\ns4,b,b/h/r,silent\n"
NO_BOOT = {"memory: 32 GiB, boot: 1 min, boot_odds: 100 %, power_on: on": "memory: 32 GiB, power_on: on"}


def test_a_plan_that_only_closes_feeds_asks_for_what_powers_on_with_them(tmp_path: Path) -> None:
    """No server is booted: all of them power on by themselves, and their class states no boot."""
    made, bound = bound_of(estate_of(tmp_path, policy="on", servers=SILENT, others=NO_BOOT))
    assert not [step for step in made.steps if step.kind == "boot"]
    assert gates(bound) == {
        "load:a": "what a/f can still carry is unknown: check that it can carry 3 more servers"
    }
    assert behind(bound, "load:a") >= {"power:a/f"}
    assert not performed(bound).done
    assert performed(bound, "load:a").done >= {"power:a/f"}


def test_a_rack_with_two_feeds_gets_power_from_neither_before_the_approval(tmp_path: Path) -> None:
    feeds = {"b/f: {}}": "a/g: {}, b/f: {}}", "feeds: [a/f]": "feeds: [a/f, a/g]"}
    _, bound = bound_of(estate_of(tmp_path, policy="on", servers=SILENT, others=feeds))
    assert behind(bound, "load:a") >= {"power:a/f", "power:a/g"}
    assert not performed(bound).done & {"power:a/f", "power:a/g"}


@pytest.mark.parametrize("policy", ["dark", "on"])
def test_another_plan_with_another_load_asks_again(tmp_path: Path, policy: str) -> None:
    """The approval of three servers is none for four; the same servers are not asked for twice."""
    _, first = bound_of(estate_of(tmp_path / "1", policy=policy, servers=SILENT))
    _, same = bound_of(estate_of(tmp_path / "2", policy=policy, servers=SILENT), digest="same")
    more = estate_of(tmp_path / "3", policy=policy, servers=f"{SILENT}s5,a,a/h/r,silent\n")
    _, larger = bound_of(more, digest="larger")
    lower = estate_of(tmp_path / "4", policy=policy, servers=SILENT, budget="power_budget: 500 W")
    _, tighter = bound_of(lower, digest="tighter")
    run = performed(first, "load:a").view
    old = {str(step.id): (step, "pending") for step in run.steps} | {
        "load:a": (run.steps[run.index["load:a"]], "succeeded")
    }
    renamed = {}
    for bound in (same, larger, tighter):
        parts, merged = merging(old, bound.spec, {"load:a": 1}), None  # type: ignore[arg-type]
        while merged is None:
            try:
                next(parts)
            except StopIteration as end:
                merged = end.value
        renamed[bound.spec.plan] = merged.renamed.get("load:a", "load:a")
        waits = {str(step.id) for step in merged.spec.steps if renamed[bound.spec.plan] in step.after}
        assert waits >= ({"power:a/f"} if policy == "on" else {"boot:s1", "boot:s2", "boot:s3"})
    assert renamed == {"same": "load:a", "larger": "load:a~2", "tighter": "load:a~2"}


def test_every_budget_in_doubt_is_named_with_what_it_would_carry_in_addition(tmp_path: Path) -> None:
    two = {
        "b/f: {}}": "a/g: {power_budget: 2 kW}, b/f: {}}",
        "racks: {": "racks: {a/h/q: {feeds: [a/g]}, ",
    }
    servers = "s1,a,a/h/r,silent\ns2,a,a/h/r,silent\ns3,a,a/h/q,silent\ns4,b,b/h/r,silent\n"
    _, bound = bound_of(estate_of(tmp_path, servers=servers, others=two))
    assert gates(bound) == {
        "load:a": "what 2 power budgets can still carry is unknown:"
        " check that they can carry 2 more servers on a/f, 1 more server on a/g"
    }
    many = Load().approval_of([(f"a/f{n}", n) for n in range(BUDGETS_MOST + 7)])
    assert many.endswith(
        f"{BUDGETS_MOST - 1} more servers on a/f{BUDGETS_MOST - 1}, and the servers behind 7 more"
    )


def test_servers_without_a_rack_count_on_every_feed_of_their_site(tmp_path: Path) -> None:
    servers = "s1,a,a/h/r,known\ns2,a,a/h/r,known\ns3,a,,known\ns4,b,b/h/r,silent\n"
    _, bound = bound_of(estate_of(tmp_path, servers=servers))
    assert gates(bound) == {
        "load:a": "what a/f can still carry is unknown: check that it can carry 3 more servers"
    }
    assert behind(bound, "load:a") >= set(ALL)


def test_boots_beside_a_pool_of_unknown_servers_wait(tmp_path: Path) -> None:
    pool = {"services:": "pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}}\nservices:"}
    _, bound = bound_of(estate_of(tmp_path, "known", others=pool))
    assert gates(bound) == {
        "load:a": "what a/f can still carry is unknown: check that it can carry 3 more servers"
    }
    assert behind(bound, "load:a") >= set(ALL)


def test_boots_at_the_surviving_site_of_a_loss_wait_for_its_load(tmp_path: Path) -> None:
    """The service of the lost site starts on a reserve behind a budget with a server of unknown power."""
    budget = {"b/f: {}": "b/f: {power_budget: 1 kW}", "silent: {cpu: 8 cores": "silent: {cpu: 0.5 cores"}
    servers = "s1,b,b/h/r,known,dark,yes\ns3,b,b/h/r,silent\ns4,a,a/h/r,known\n"
    _, bound = bound_of(estate_of(tmp_path, servers=servers, budget="", others=budget), lose("a"))
    assert gates(bound) == {
        "load:b": "what b/f can still carry is unknown: check that it can carry 1 more server"
    }
    assert behind(bound, "load:b") >= {"boot:s1"}


def test_the_approval_gives_no_power_and_says_so(tmp_path: Path) -> None:
    """On the page of the decision, and in the timeline of the incident."""
    _, bound = bound_of(estate_of(tmp_path))
    before = performed(bound).view
    gated = before.index[next(iter(gates(bound)))]
    step = before.steps[gated]
    assert decision_of(RunShown(before, "", 0), step.id, None).does == "approve an unknown load: a"
    assert told(Event("step_succeeded", 0, step.id, 1, {}), step) == (
        "approved",
        "the load of a was approved",
        "detail",
    )
    assert not kind_of(step.kind).powers
    assert not kind_of(step.kind).is_planned
