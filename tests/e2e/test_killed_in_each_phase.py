"""A controller is killed between a proposal and its run, before and after the effect of each step, and while
a person is waited for: the run ends as it would have without, nothing is done twice, and whoever looks
meanwhile is told one next step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evac.app import runs
from evac.run.values import ENDED
from tests.e2e.test_embedded_run import ESTATE, PATIENCE_S, World

pytestmark = [pytest.mark.slow]

SYSTEM = '''
"""Stores, services and traffic in one file: a line for each time that something was done."""

import json, os, signal, sqlite3, sys
from pathlib import Path

folder, done = Path(sys.argv[1]), Path(sys.argv[1]) / "done"
what, kind = os.environ["EVAC_WHAT"], os.environ.get("EVAC_STEP", "").partition(":")[0]
verb, site = os.environ["EVAC_VERB"], os.environ["EVAC_SITE"]
line = f"{verb} {os.environ['EVAC_TARGET']} {site}"
lines = done.read_text().splitlines() if done.exists() else []


def strike(when):
    """Kills the controller, once."""
    try:
        (folder / f"{when}-{kind}").rename(folder / f"struck-{when}-{kind}")
    except FileNotFoundError:
        return
    os.kill(os.getppid(), signal.SIGKILL)
    if when == "before":
        sys.exit(75)


def is_proposed():
    with sqlite3.connect(f"file:{folder}/state/evac/evac.sqlite?mode=ro", uri=True) as store:
        return store.execute("SELECT 1 FROM entry WHERE key LIKE 'proposal/%'").fetchone()


if what == "role":
    kind = "run"
    if (folder / "before-run").exists() and is_proposed():
        strike("before")
    if site == "pangyo" and (folder / "burnt").exists():
        sys.exit(1)
    primary = "anyang" if "promote db anyang" in lines else "pangyo"
    writes = site == primary or Path(os.environ["HOME"], "rival").exists()
    print(json.dumps({"role": "primary" if writes else "replica", "lag_ms": 0}))
elif what == "observe":
    sys.exit(0 if line in lines else 1)
elif what == "execute":
    strike("before")
    with done.open("a") as file:
        file.write(line + "\\n")
        os.fsync(file.fileno())
    strike("after")
'''
PHASES = {
    "lose": ("fence", "start", "promote", "verify", "shift"),
    "restore": ("reprotect", "redirect"),
}
DONE = {
    "lose": [
        "fence pangyo pangyo",
        "promote db anyang",
        "ready web anyang",
        "shift web anyang",
        "start web anyang",
        "verify web anyang",
    ],
    "restore": ["rejoin db pangyo", "shift web pangyo"],
}
"""What each run does, once."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    estate = tmp_path / "estate"
    estate.mkdir()
    (tmp_path / "system.py").write_text(SYSTEM)
    program = [sys.executable, str(tmp_path / "system.py"), str(tmp_path)]

    def endpoint(of: str, at: str, **settings: object) -> str:
        told = json.dumps({"argv": program, "observe_argv": program, **settings})
        return f"{{for: {of}, at: {at}, driver: command, settings: {told}}}"

    of_store = {"does": ["promote", "demote", "rejoin"], "role_argv": program}
    of_service = {"does": ["start", "scale", "stop", "shift", "drain", "ready", "verify"]}
    text = ESTATE.replace("{kind: dns, ttl: 1 s}", "{kind: load_balancer, change: 1 s}") + "endpoints:\n"
    for at in ("pangyo", "anyang"):
        text += (
            f"  db-{at}: {endpoint('db', at, **of_store)}\n  web-{at}: {endpoint('web', at, **of_service)}\n"
        )
    (estate / "estate.yaml").write_text(text + f"  gate: {endpoint('pangyo', 'pangyo', fence='network')}\n")
    (estate / "policy.yaml").write_text("stores: {db: {fence_proofs: [network]}}\n")
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "EVAC_WHO": "kim", "COLUMNS": "160"}
    env.pop("EVAC_STORE", None)
    return World(tmp_path, env)


@contextmanager
def controller(world: World) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "evac", "serve", str(world.folder / "estate"), "--site", "local"]
    with (world.folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [*argv, "--no-watch", "--store", world.store], env=world.env, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def next_steps(said: str) -> set[str]:
    return {line.partition("next:")[2].strip() for line in said.splitlines() if "next:" in line}


def assert_told_one_next_step(world: World, run: str, turn: int) -> None:
    """By one of those who may be asked, in turn: each of them takes a while."""
    estate, show = str(world.folder / "estate"), f"evac run show {run}"
    match turn % (3 if run.startswith("lose") else 2):
        case 0:
            assert next_steps(world.evac("status", estate)) == {show}
        case 1:
            listed = world.evac("run", "list")
            assert run in listed
            assert next_steps(listed) <= {show}
        case 2:
            said = world.evac("apply", str(world.folder / "first"), estate, code=4)
            assert next_steps(said) == {f"continue with that run: {show}"}


def to_its_end(world: World, run: str) -> None:
    """With another controller each time that one was killed."""
    deadline, killed = time.monotonic() + PATIENCE_S, 0
    while True:
        with controller(world) as process:
            while process.poll() is None:
                if world.ask(lambda store: runs.view_of(store, run)).phase in ENDED:
                    return
                assert time.monotonic() < deadline, world.evac("run", "show", run, code=None)
                time.sleep(0.1)
            assert process.returncode == -signal.SIGKILL
        killed += 1
        assert_told_one_next_step(world, run, killed)


def killed_all_along(world: World, question: str) -> None:
    estate, plan, done = str(world.folder / "estate"), str(world.folder / "p"), world.folder / "done"
    before = done.read_text().splitlines() if done.exists() else []
    world.evac("plan", estate, "--observe", "--budget", "0s", f"--{question}", "pangyo", "-o", plan)
    if question == "lose":
        (world.folder / "first").write_bytes(Path(plan).read_bytes())
    for kind in PHASES[question]:
        for when in ("before", "after"):
            (world.folder / f"{when}-{kind}").touch()
    (world.folder / "before-run").touch()
    confirm = ("--confirm", "pangyo") if question == "lose" else ()
    world.evac("apply", plan, estate, "--execute", "--reason", "fire", *confirm, code=13)
    assert not (world.folder / "before-run").exists(), "it was killed there, and another one made the run"
    run = world.run()
    os.kill(world.controller(), signal.SIGKILL)
    assert_told_one_next_step(world, run, 2)
    with controller(world):
        world.evac("approve", run, "--reason", "agreed")
    to_its_end(world, run)
    struck = {path.name for path in world.folder.glob("struck-*")}
    assert struck >= {f"struck-{when}-{kind}" for kind in PHASES[question] for when in ("before", "after")}
    view = world.ask(lambda store: runs.view_of(store, run))
    assert view.phase == "succeeded", view.end_why
    assert sorted(done.read_text().splitlines()[len(before) :]) == DONE[question]
    assert "whole" in world.evac("run", "verify", run, code=18)


def test_it_ends_as_it_would_have_and_nothing_is_done_twice(world: World) -> None:
    (world.folder / "burnt").touch()
    killed_all_along(world, "lose")
    (world.folder / "burnt").unlink()
    home = world.folder / "home"
    home.mkdir()
    (home / "rival").touch()
    asking = World(world.folder, {**world.env, "HOME": str(home)})
    (said,) = next_steps(asking.evac("observe", str(world.folder / "estate"), code=17))
    assert "the one in pangyo" in said
    assert said.endswith("--restore pangyo"), "what the run moved is known"
    killed_all_along(world, "restore")
