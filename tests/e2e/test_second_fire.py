"""The second fire is as good as the first: what a run moved is what the next plan begins with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from evac.app import runs
from evac.engine.runs import requests
from tests.e2e.test_embedded_run import PATIENCE_S, World, world  # noqa: F401

pytestmark = [pytest.mark.slow]


def carry_out(world: World, *question: str, code: int = 13, confirm: str = "") -> str:  # noqa: F811
    """Plans with what is now, runs the plan, and does by hand what it asks for; the words of the plan."""
    estate, plan = str(world.folder / "estate"), str(world.folder / f"plan-{time.time_ns()}")
    said = world.evac("plan", estate, "--observe", "--budget", "0s", *question, "-o", plan)
    words = ("--execute", "--reason", "fire", *(("--confirm", confirm) if confirm else ()))
    world.evac("apply", plan, estate, *words, code=code)
    run = world.run()
    world.evac("approve", run, "--reason", "agreed")
    deadline = time.monotonic() + PATIENCE_S
    while not (view := world.ask(lambda store: runs.view_of(store, run))).phase.startswith("succeeded"):
        assert time.monotonic() < deadline
        for i in sorted(view.manual_running):
            step = view.steps[i].id
            now_ms = time.time_ns() // 1_000_000
            one = requests.Request(runs.new_id(now_ms), "attest", "kim", "seen", step=step, at_ms=now_ms)
            world.ask(lambda store, one=one: runs.ask(store, run, one))  # type: ignore[misc]
        time.sleep(0.2)
    return said


def steps_of(world: World, *question: str) -> set[str]:  # noqa: F811
    """What a plan of what is now does."""
    path = world.folder / f"looked-{time.time_ns()}"
    world.evac(
        "plan", str(world.folder / "estate"), "--observe", "--budget", "0s", *question, "-o", str(path)
    )
    return {step["id"].rpartition(":")[0] or step["id"] for step in json.loads(path.read_text())["steps"]}


def test_fire_restore_failback_and_the_next_fire(world: World) -> None:  # noqa: F811
    estate = str(world.folder / "estate")
    carry_out(world, "--lose", "pangyo", confirm="pangyo")
    refused = world.evac("plan", estate, "--observe", "--failback", "pangyo", code=2)
    assert "failback-lost" in refused
    assert "evac site clear pangyo" in refused
    again, lose = str(world.folder / "again"), ("--lose", "pangyo", "-o")
    world.evac("plan", estate, "--observe", "--budget", "0s", *lose, again)
    refused = world.evac("apply", again, estate, code=4)
    assert f"nothing is left to move; once it is back: evac plan {estate} --restore pangyo" in refused
    said = carry_out(world, "--restore", "pangyo")
    assert "pangyo is lost since" in said
    assert "web runs in anyang (1) since" in said
    second = steps_of(world, "--lose", "anyang")
    assert {"start:web:base", "shift", "promote"} <= second, second
    stale = str(world.folder / "p")
    assert "web runs in anyang" in world.evac("apply", stale, estate, code=12)
    said = carry_out(world, "--failback", "pangyo")
    assert "web runs in anyang (1)" in said
    home = world.evac("plan", estate, "--observe", "--budget", "0s", "--lose", "pangyo", "-o", "/dev/null")
    assert "web runs in" not in home
    assert "is lost" not in home


def test_a_mark_that_a_drill_left_is_cleared_by_a_person(world: World) -> None:  # noqa: F811
    estate = str(world.folder / "estate")
    world.evac(
        "apply",
        str(world.folder / "p"),
        estate,
        "--execute",
        "--reason",
        "drill",
        "--confirm",
        "pangyo",
        code=13,
    )
    run = world.run()
    words = ("site", "clear", "pangyo", "--reason", "it was a drill")
    status = world.evac("status", estate)
    assert "pangyo is lost since" in status
    assert [line for line in status.splitlines() if "next:" in line] == [f"  next: evac run show {run}"]
    assert "site-in-run" in world.evac(*words, code=4)
    world.evac("run", "cancel", run, "--reason", "it was a drill")
    world.until(run, "cancelled")
    again = world.evac(
        "apply",
        str(world.folder / "p"),
        estate,
        "--execute",
        "--reason",
        "drill",
        "--confirm",
        "pangyo",
        code=4,
    )
    assert "evac site clear pangyo" in again
    deadline = time.monotonic() + PATIENCE_S
    while "pangyo is active again" not in (said := world.evac(*words, code=None)):
        assert time.monotonic() < deadline, said
    assert "site-active" in world.evac(*words, code=4)
    world.evac(
        "plan", estate, "--observe", "--budget", "0s", "--lose", "pangyo", "-o", str(world.folder / "q")
    )
    assert Path(world.folder / "q").exists()


def test_what_a_cancelled_evacuation_leaves_is_named_and_the_next_failback_stops_it(world: World) -> None:  # noqa: F811
    """And a plan that was made before that is refused afterwards, with what to do."""
    estate, plan = str(world.folder / "estate"), str(world.folder / "away")
    world.evac("plan", estate, "--observe", "--evacuate", "pangyo", "--budget", "0s", "-o", plan)
    world.evac("apply", plan, estate, "--execute", "--reason", "heat", "--confirm", "pangyo", code=13)
    run = world.run()
    world.evac("approve", run, "--reason", "agreed")
    world.until(run, "running", "start:web:base:1")
    world.evac("run", "attest", run, "start:web:base:1", "--reason", "it runs in anyang")
    world.until(run, "succeeded", "start:web:base:1")
    world.evac("run", "cancel", run, "--reason", "it is cool again")
    world.until(run, "cancelled")
    world.evac("site", "clear", "pangyo", "--reason", "it is cool again")
    status = world.evac("status", estate)
    assert "web runs in anyang (1), pangyo (1) since" in status
    assert f"run {run}; home: pangyo (1); surplus: anyang (1)" in status
    assert f"next: evac plan {estate} --failback pangyo" in status
    before = str(world.folder / "before")
    world.evac("plan", estate, "--observe", "--budget", "0s", "--lose", "anyang", "-o", before)
    home = str(world.folder / "home")
    world.evac("plan", estate, "--observe", "--budget", "0s", "--failback", "pangyo", "-o", home)
    carry_out(world, "--failback", "pangyo")
    status = world.evac("status", estate)
    assert "surplus" not in status
    assert "web runs in" not in status
    for old, site in ((before, "anyang"), (home, "pangyo")):
        for words in ((), ("--execute", "--reason", "fire", "--confirm", site)):
            refused = world.evac("apply", old, estate, *words, code=12)
            assert "[plan-stale]" in refused
            assert "evac plan ESTATE --observe" in refused.replace(estate, "ESTATE")
