"""A store with no live copy comes back in a run: PostgreSQL restored by pgBackRest, although the controller
is killed while files come.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.adapters.pgbackrest import ROWS, Store, sql, store
from tests.contract.conftest import open_folder
from tests.contract.drivers.test_pgbackrest import program
from tests.e2e.test_embedded_run import World, apply

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.enable_socket]
ESTATE = """evac: 1
horizon: 1 h
sites: {{pangyo: {{}}, anyang: {{}}}}
pools:
  pangyo-units: {{site: pangyo, cpu: 8 cores, memory: 8 GiB}}
  anyang-units: {{site: anyang, cpu: 8 cores, memory: 8 GiB}}
services:
  web: {{tier: 0, people: 10, demand: {{cpu: 1 cores, memory: 1 GiB}}, replicas: {{pangyo-units: 1}},
        needs: [{{store: db}}], start: 1 s, traffic: {{kind: dns, ttl: 1 s}}}}
stores:
  db:
    engine: postgresql
    rpo: 2 h
    fence: 1 s
    members: [{{at: pangyo, mode: primary}}]
    backups: [{{at: anyang, size: 1 GiB, age: 1 h, restore: 1 Gbit/s, endpoint: db-copies}}]
endpoints:
  db-copies: {{for: db, at: anyang, driver: pgbackrest, settings: {settings}}}
"""


@pytest.fixture
def copies() -> Iterator[Store]:
    with open_folder() as folder, store(folder) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, copies: Store) -> Iterator[World]:
    first = "[ -e $(dirname $0)/begun ] || { touch $(dirname $0)/begun; sleep 2; }"
    slow = f'case "$*" in *restore*) {first};; esac'
    copies.folder.chmod(0o777)
    place = str(copies.places / "here")
    settings = dict(copies.action(place=place, program=program(copies, slow)).settings)
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE.format(settings=json.dumps(settings)))
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "EVAC_WHO": "kim", "COLUMNS": "160"}
    env.pop("EVAC_STORE", None)
    made = World(tmp_path, env)
    words = ("--lose", "pangyo", "--budget", "0s", "-o", str(tmp_path / "p"))
    made.evac("plan", str(tmp_path / "estate"), *words)
    yield made
    if Path(made.store.removeprefix("sqlite:")).exists() and (pid := made.controller()):
        os.kill(pid, signal.SIGTERM)


def test_a_store_without_a_live_copy_comes_back_by_itself(world: World, copies: Store) -> None:
    plan, estate = str(world.folder / "p"), str(world.folder / "estate")
    dry = world.evac("apply", plan, estate, code=None)
    assert "restore by pgbackrest at anyang" in dry
    assert "restoring db may lose its newest writes, up to 3600 s" in dry
    assert "would work now" in dry
    run = apply(world)
    world.evac("approve", run, "--reason", "agreed")
    world.until(run, "running", "fence:db")
    world.evac("run", "attest", run, "fence:db", "--reason", "seen")
    world.until(run, "succeeded", "fence:db")
    assert not copies.around(), "a person agrees first to what is lost"
    world.evac("approve", run, "--step", "restore:db", "--reason", "an hour of writes is lost")
    deadline = time.monotonic() + 60.0
    while not (copies.folder / "begun").exists():
        assert time.monotonic() < deadline, world.evac("run", "show", run, code=None)
        time.sleep(0.05)
    os.kill(world.controller(), signal.SIGKILL)
    assert not (copies.places / "here").exists()
    argv = [
        sys.executable,
        "-m",
        "evac",
        "serve",
        estate,
        "--site",
        "local",
        "--no-watch",
        "--store",
        world.store,
    ]
    with (world.folder / "second.log").open("wb") as log:
        second = subprocess.Popen(argv, env=world.env, stdout=log, stderr=log)
    try:
        view = world.until(run, "succeeded", "restore:db")
        assert sql(Path("127.0.0.1"), copies.served, "SELECT count(*) FROM messages") == str(ROWS)
        shown = json.loads(world.evac("run", "show", run, "--output", "json", code=None))
        (row,) = (row for row in shown["steps"] if row["id"] == "restore:db")
        assert row["evidence"]["started_over"] == 1
        assert row["evidence"]["place"] == str(copies.places / "here")
        assert view.attempts[view.number("restore:db")] == 2
    finally:
        second.terminate()
        second.wait(10)
