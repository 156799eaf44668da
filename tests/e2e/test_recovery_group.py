"""Two stores of a recovery group, kept by two tools, come back to one moment in one run: what was written
after it is gone from both, and what was written before it is in both.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.pg_basebackup.driver import PgBasebackupDriver
from evac.drivers.port import Action
from tests.contract.adapters import copy_folder
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.pgbackrest import Store, sql, store
from tests.contract.conftest import open_folder
from tests.contract.drivers.test_pgbackrest import in_archive, next_second
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
        needs: [{{store: db}}, {{store: mail}}], start: 1 s, traffic: {{kind: dns, ttl: 1 s}}}}
stores:
  db: {{engine: postgresql, rpo: 2 h, fence: 1 s, members: [{{at: pangyo, mode: primary}}],
       backups: [{{at: anyang, size: 1 GiB, age: 1 h, restore: 1 Gbit/s, endpoint: db-copies}}]}}
  mail: {{engine: postgresql, rpo: 2 h, fence: 1 s, members: [{{at: pangyo, mode: primary}}],
         backups: [{{at: anyang, size: 1 GiB, age: 1 h, restore: 1 Gbit/s, endpoint: mail-copies}}]}}
recovery_groups: {{orders: {{stores: [db, mail]}}}}
endpoints:
  db-copies: {{for: db, at: anyang, driver: pgbackrest, settings: {db}}}
  mail-copies: {{for: mail, at: anyang, driver: pg_basebackup, settings: {mail}}}
"""
COUNT = "SELECT count(*) FROM messages"


@dataclass
class Pair:
    """Both stores. rows: of each, up to the moment."""

    db: Store
    mail: copy_folder.World
    moment: int = 0
    rows: tuple[str, str] = ("", "")

    def write(self) -> tuple[str, str]:
        """One more row in both; the number of rows of each."""
        source = self.mail.source
        assert isinstance(source, PostgresSource)
        sql(self.db.folder, self.db.port, "INSERT INTO messages VALUES (0)")
        source.change()
        return sql(self.db.folder, self.db.port, COUNT), source.sql(COUNT)

    def archive(self) -> None:
        """Everything so far is in both archives."""
        source = self.mail.source
        assert isinstance(source, PostgresSource)
        in_archive(
            self.db, sql(self.db.folder, self.db.port, "SELECT pg_walfile_name(pg_switch_wal())") + "-*"
        )
        name = source.sql("SELECT pg_walfile_name(pg_switch_wal())")
        deadline = time.monotonic() + 120.0
        while not (source.folder / "archive" / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        archive = str(self.mail.source.folder / "archive")
        return (
            dict(self.db.action(place=str(self.db.places / "db")).settings),
            dict(self.mail.action(place=str(self.mail.folder / "places" / "mail"), archive=archive).settings),
        )


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        folders = [stack.enter_context(open_folder()) for _ in range(2)]
        mail = stack.enter_context(copy_folder.world(folders[1], PostgresSource))
        made = Pair(stack.enter_context(store(folders[0], runs=True)), mail)
        taken = asyncio.run(PgBasebackupDriver().take(of_mail(mail.action()), 120.0))
        assert taken.copy.consistent_at is not None
        made.rows = made.write()
        while (moment := next_second()) < taken.copy.consistent_at:
            pass
        made.moment = moment
        made.write()  # the mistake, in both
        made.archive()
        made.write()  # a restore ends at the first commit after its moment
        made.archive()
        yield made


def of_mail(action: Action) -> Action:
    return replace(action, target="mail")


@pytest.fixture
def world(tmp_path: Path, pair: Pair) -> Iterator[World]:
    db, mail = map(json.dumps, pair.settings())
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE.format(db=db, mail=mail))
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "EVAC_WHO": "kim", "COLUMNS": "160"}
    env.pop("EVAC_STORE", None)
    made = World(tmp_path, env)
    yield made
    if Path(made.store.removeprefix("sqlite:")).exists() and (pid := made.controller()):
        os.kill(pid, signal.SIGTERM)


def test_two_real_stores_return_to_one_moment_in_one_run(world: World, pair: Pair) -> None:
    moment = datetime.fromtimestamp(pair.moment, UTC).isoformat()
    words = ("--lose", "pangyo", "--budget", "0s", "-o", str(world.folder / "p"))
    world.evac("plan", str(world.folder / "estate"), "--moment", f"orders={moment}", *words)
    run = apply(world)
    world.evac("approve", run, "--reason", "agreed")
    for name in ("db", "mail"):
        world.until(run, "running", f"fence:{name}")
        world.evac("run", "attest", run, f"fence:{name}", "--reason", "seen")
    for name in ("db", "mail"):
        world.until(run, "succeeded", f"fence:{name}")
        world.evac("approve", run, "--step", f"restore:{name}", "--reason", "what came after it is lost")
    for name in ("db", "mail"):
        world.until(run, "succeeded", f"restore:{name}")
    served = (pair.db.served, pair.mail.served)
    assert tuple(sql(Path("127.0.0.1"), port, COUNT) for port in served) == pair.rows
    shown = json.loads(world.evac("run", "show", run, "--output", "json", code=None))
    (group,) = shown["groups"]
    assert (group["group"], group["state"]) == ("orders", "together")
    assert {row["evidence"]["as_of"] for row in shown["steps"] if row["kind"] == "restore"} == {pair.moment}
