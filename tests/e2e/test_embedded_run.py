"""A plan applied on the embedded store as a user does it: proposed, approved, attested, held, proved."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from evac.app import runs
from evac.app.applying import ensure_controller
from evac.estate.codecs.bundle import open_bundle
from evac.run.view import RunView
from evac.store.opening import open_store
from evac.store.port import Put, Store

Answer = TypeVar("Answer")

ESTATE = """evac: 1
horizon: 1 h
sites: {pangyo: {}, anyang: {}}
pools:
  pangyo-units: {site: pangyo, cpu: 8 cores, memory: 8 GiB}
  anyang-units: {site: anyang, cpu: 8 cores, memory: 8 GiB}
services:
  web:
    tier: 0
    people: 10
    demand: {cpu: 1 cores, memory: 1 GiB}
    replicas: {pangyo-units: 1}
    needs: [{store: db}]
    start: 1 s
    traffic: {kind: dns, ttl: 1 s}
stores:
  db:
    engine: postgresql
    fence: 1 s
    promote: 1 s
    members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync, lag: 0 s}]
"""
PATIENCE_S = 300
pytestmark = [pytest.mark.slow]


@dataclass
class World:
    folder: Path
    env: dict[str, str]
    at: str = ""

    def evac(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "evac", *words],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @property
    def store(self) -> str:
        return self.at or f"sqlite:{self.folder}/state/evac/evac.sqlite"

    def ask(self, question: Callable[[Store], Awaitable[Answer]]) -> Answer:
        async def asked() -> Answer:
            store = open_store(self.store)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(asked())

    def run(self) -> str:
        rows = self.ask(runs.list_runs)
        return rows[-1].run if rows else ""

    def controller(self) -> int:
        """The pid of whoever leads, as its name says; 0 where nobody does."""
        leader = self.ask(runs.leader_of)
        return int(leader.split("/")[1]) if leader else 0

    def until(self, run: str, phase: str, step: str = "") -> RunView:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            view = self.ask(lambda store: runs.view_of(store, run))
            now = view.phases[view.number(step)] if step else view.phase
            if now == phase:
                return view
            assert time.monotonic() < deadline, f"{step or run} is {now}, not {phase}"
            time.sleep(0.1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE)
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "EVAC_WHO": "kim", "COLUMNS": "160"}
    env.pop("EVAC_STORE", None)
    made = World(tmp_path, env)
    made.evac(
        "plan", str(tmp_path / "estate"), "--lose", "pangyo", "--budget", "0s", "-o", str(tmp_path / "p")
    )
    yield made
    if Path(made.store.removeprefix("sqlite:")).exists() and (pid := made.controller()):
        with contextlib.suppress(ProcessLookupError):  # Killed by the test; its lease says so only later.
            os.kill(pid, signal.SIGTERM)


def apply(world: World, *more: str) -> str:
    world.evac(
        "apply",
        str(world.folder / "p"),
        str(world.folder / "estate"),
        "--execute",
        "--reason",
        "fire",
        "--incident",
        "inc-1",
        "--confirm",
        "pangyo",
        *more,
        code=13,
    )
    return world.run()


def test_from_proposal_to_proof(world: World) -> None:
    run = apply(world)
    assert run.startswith("inc-1-")
    assert "approving" in world.evac("approve", run, "--reason", "agreed")
    world.until(run, "running", "fence:db")
    world.evac("run", "attest", run, "fence:db", "--reason", "seen")
    world.until(run, "running", "promote:db")
    world.evac("hold", "--reason", "wait")
    begun = list(world.ask(lambda store: runs.view_of(store, run)).attempts)
    world.evac("run", "attest", run, "promote:db", "--reason", "seen")
    view = world.until(run, "succeeded", "promote:db")
    time.sleep(0.5)
    view = world.ask(lambda store: runs.view_of(store, run))
    assert view.held == "kim"
    assert list(view.attempts) == begun, "a hold lets nothing begin"
    world.evac("hold", "--release")
    deadline = time.monotonic() + PATIENCE_S
    while not (view := world.ask(lambda store: runs.view_of(store, run))).phase.startswith("succeeded"):
        assert time.monotonic() < deadline
        for i in sorted(view.manual_running):
            world.evac("run", "attest", run, view.steps[i].id, "--reason", "seen")
        time.sleep(0.1)
    assert view.phase == "succeeded"
    assert "whole" in world.evac("run", "verify", run, code=18)
    assert "run-over" in world.evac("run", "pause", run, "--reason", "late", code=1)
    lines = [json.loads(line) for line in world.evac("run", "events", run).splitlines()]
    assert [line["event"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["data"]["phase"] == "succeeded"
    shown = json.loads(world.evac("run", "show", run, "--output", "json"))
    assert {row["state"] for row in shown["steps"]} == {"succeeded"}
    assert all(row["evidence"]["attested_by"] == "kim" for row in shown["steps"])


def end_controller(world: World) -> None:
    """As it ends by itself once there is nothing left to do."""
    pid = world.controller()
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while world.controller() == pid != 0:
        time.sleep(0.1)


def test_two_persons_sign_and_the_run_may_be_named_by_its_incident(world: World) -> None:
    keys = {}
    for who in ("kim", "lee"):
        at = str(world.folder / who)
        keys[who] = world.evac("key", at).splitlines()[0]
    rows = "".join(f"  {who}: {key}\n" for who, key in keys.items())
    (world.folder / "estate" / "policy.yaml").write_text(f"approvals: 2\napprovers:\n{rows}")
    run = apply(world, "--who", "sam")
    assert world.ask(lambda store: runs.view_of(store, run)).proposer == "sam"
    words = ("--reason", "agreed", "--who")
    lees = str(world.folder / "lee")
    assert "the signature is not by kim" in world.evac("approve", run, *words, "kim", "--key", lees, code=10)
    kims = (*words, "kim", "--key", str(world.folder / "kim"))
    assert "not-left" in world.evac("approve", run, *kims, "--confirm", "anyang", code=2)
    assert "not started yet: needs approval by 1 more person" in world.evac("approve", "inc-1", *kims)
    world.evac("approve", "inc-1", *words, "kim", "--key", str(world.folder / "kim"))
    waits = json.loads(world.evac("run", "show", run, "--output", "json", code=13))["waits_for"]
    assert waits == ["needs approval by 1 more person"], "who agrees twice is one person"
    world.evac("approve", "inc-1", *words, "lee", "--key", lees)
    assert world.until(run, "running", "fence:db").approvals.given.keys() == {"kim", "lee"}
    world.evac("hold", "--reason", "wait")
    assert "on hold by kim" in world.evac("run", "show", run, code=13)
    signed = ("--who", "kim", "--key", str(world.folder / "kim"))
    end_controller(world)
    for refused, release in ((4, ()), (0, signed)):
        assert ("unproven" in world.evac("hold", "--release", *release, code=refused)) is bool(refused)
    world.evac("run", "cancel", run, "--reason", "a drill", *signed)
    world.until(run, "cancelled")
    clear = ("site", "clear", "pangyo", "--reason", "a drill")
    assert "unproven" in world.evac(*clear, code=4)
    assert "lost" in world.evac("status")
    end_controller(world)
    assert "pangyo is active again" in world.evac(*clear, *signed)
    assert "site-active" in world.evac(*clear, *signed, code=4)


def test_one_run_an_incident_and_names_must_be_typed(world: World) -> None:
    plan, estate = str(world.folder / "p"), str(world.folder / "estate")
    words = ("apply", plan, estate, "--execute", "--reason", "fire", "--incident", "inc-1")
    assert "not-confirmed" in world.evac(*words, code=2)
    assert "reason" in world.evac("apply", plan, estate, "--execute", code=2)
    assert "not-left" in world.evac(*words, "--confirm", "pangyo", "--confirm", "anyang", code=2)
    apply(world)
    refused = world.evac(*words, "--confirm", "pangyo", code=4)
    assert "site-left" in refused or "already" in refused


def test_a_controller_that_was_started_is_no_child_that_this_process_waits_for(world: World) -> None:
    """Python warns of a child that is left running, and a warning fails a test."""
    estate, log = world.folder / "estate", world.folder / "controller.log"
    Path(world.store.removeprefix("sqlite:")).parent.mkdir(parents=True)

    async def ensure(store: Store) -> str:
        return await ensure_controller(store, world.store, estate, None, log)

    leads = world.ask(ensure)
    assert leads == f"local/{world.controller()}/{leads.rpartition('/')[2]}"
    assert world.ask(ensure) == leads


def test_a_killed_controller_is_followed_by_another_that_goes_on(world: World) -> None:
    run = apply(world)
    world.evac("approve", run, "--reason", "agreed")
    token = world.until(run, "running", "fence:db").token
    os.kill(world.controller(), signal.SIGKILL)
    argv = [sys.executable, "-m", "evac", "serve", str(world.folder / "estate"), "--site", "local"]
    argv += ["--no-watch", "--store", world.store]
    with (world.folder / "second.log").open("wb") as log:
        second = subprocess.Popen(argv, env=world.env, stdout=log, stderr=log)
    try:
        world.evac("run", "attest", run, "fence:db", "--reason", "seen")
        view = world.until(run, "running", "promote:db")
        assert view.owner.startswith(f"local/{second.pid}/")
        assert view.token > token
        assert view.attempts[view.number("fence:db")] == 1, "what was begun is not begun again"
    finally:
        second.terminate()
        second.wait(10)


def test_whoever_watches_a_run_whose_controller_was_killed_has_it_started_again(world: World) -> None:
    """Nothing would ever happen: the run asks nobody, and only requests started one."""
    run = apply(world)
    world.evac("approve", run, "--reason", "agreed")
    world.until(run, "running", "fence:db")
    first = world.controller()
    os.kill(first, signal.SIGKILL)
    while world.controller() == first:
        time.sleep(0.1)
    world.evac("run", "watch", run, code=13)  # only work by hand is left
    assert world.controller() not in (0, first)
    view = world.until(run, "running", "fence:db")
    assert view.attempts[view.number("fence:db")] == 1, "what was begun is not begun again"


def test_a_controller_that_ended_while_a_run_waited_is_started_again_by_the_next_command(
    world: World,
) -> None:
    """It ends by itself once runs only wait for people. It had read a copy of the estate, gone by then."""
    run = apply(world)
    first = world.controller()
    assert f"started for a run of {world.folder / 'estate'}" in world.evac("status")
    os.kill(first, signal.SIGTERM)
    while world.controller() == first:
        time.sleep(0.1)
    world.evac("approve", run, "--reason", "agreed")
    assert world.until(run, "running", "fence:db").approvals.given.keys() == {"kim"}
    assert world.controller() not in (0, first)


def test_a_run_under_way_goes_on_from_a_bundle_once_somebody_looked(world: World) -> None:
    run, bundle = apply(world), str(world.folder / "b.bundle")
    world.evac("approve", run, "--reason", "agreed")
    token = world.until(run, "running", "fence:db").token
    begun = list(world.until(run, "running", "start:web:base:1").attempts)
    world.evac("bundle", str(world.folder / "estate"), "-o", bundle, "--store", world.store, "--budget", "0s")
    with open_bundle(Path(bundle)) as made:
        digest = made.digest
    os.kill(world.controller(), signal.SIGKILL)
    into = world.folder / "laptop"
    argv = [
        sys.executable,
        "-m",
        "evac",
        "serve",
        "--bundle",
        bundle,
        "--into",
        str(into),
        "--reason",
        "fire",
        "--digest",
        digest,
    ]
    with (world.folder / "laptop.log").open("wb") as log:
        laptop = subprocess.Popen(argv, env=world.env, stdout=log, stderr=log)
    try:
        here = World(world.folder, {**world.env, "EVAC_STORE": f"sqlite:{into}/evac.sqlite"})
        here.at = here.env["EVAC_STORE"]
        deadline = time.monotonic() + PATIENCE_S
        while not (into / "evac.sqlite").exists() or not here.controller():
            assert laptop.poll() is None, (world.folder / "laptop.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        here.evac("run", "attest", run, "fence:db", "--reason", "seen")
        view = here.until(run, "succeeded", "fence:db")
        assert view.owner.startswith(f"bundle/{laptop.pid}/")
        assert view.token > token
        assert view.token >> 40 == 1
        assert view.held == "kim", "it may have gone on since, so somebody looks first"
        assert list(view.attempts) == begun
        here.evac("hold", "--release")
        here.until(run, "running", "promote:db")
        assert "whole" in here.evac("run", "verify", run, code=18)
    finally:
        laptop.terminate()
        laptop.wait(10)


def test_a_journal_that_was_changed_is_found(world: World) -> None:
    run = apply(world)
    world.evac("approve", run, "--reason", "agreed")
    os.kill(world.controller(), signal.SIGTERM)
    while world.controller():
        time.sleep(0.1)
    key = f"journal/{run}/000000000001"
    entry = world.ask(lambda store: store.get(key))
    assert entry is not None
    changed = Put(key, entry.value.replace(b"fire", b"fine"))
    world.ask(lambda store: store.transact((), (changed,)))
    proved = world.evac("run", "verify", run, code=1)
    assert proved.startswith("- changed: segment")
    estate = str(world.folder / "estate")
    assert world.evac("run", "verify", run, "--estate", estate, code=1) == proved, "heads are asked for too"
    assert "store-corrupt" in world.evac("run", "show", run, code=1)
    assert f"next: evac run verify {run}" in world.evac("run", "list")
