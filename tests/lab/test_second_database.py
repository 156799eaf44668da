"""A database with no live copy burns together with the way to its backups, and comes back at another site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from evac.app import runs
from evac.cli import console
from evac.cli.main import run
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.store.port import Store
from evac_lab import faults, receipts, restoring, status
from evac_lab.servers.postgres import PostgresServer
from evac_lab.site_servers import Ground
from evac_lab.state import PORTS, LabFolder, store_url, takes_connections
from evac_lab.world import Options
from tests.lab.conftest import free_offset, running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]
LONGEST_S = 120.0
ROWS = 500


@pytest.fixture
def lab() -> Iterator[LabFolder]:
    options = Options(offset=free_offset(), writers=4, pause_s=0.2, second=True)
    with running_lab(options) as folder:
        yield folder


T = TypeVar("T")


def until(what: Callable[[], T | None], words: str) -> T:
    deadline = time.monotonic() + LONGEST_S
    while True:
        if found := what():
            return found
        assert time.monotonic() < deadline, words
        time.sleep(0.1)


def database(lab: LabFolder, site: str) -> PostgresServer:
    ground = Ground(lab, lab.need().topology)
    host, folder = ground.topology.site(site).host(receipts.STORE), lab.data(site, receipts.STORE)
    return PostgresServer(site, host, PORTS[receipts.STORE], folder, ground.secrets.value("postgres"))


def serves(lab: LabFolder, site: str) -> bool:
    """Whether the server of the repository runs there."""
    host = lab.need().topology.site(site).host(receipts.REPOSITORY)
    return takes_connections(host, PORTS[receipts.REPOSITORY])


def archived(server: PostgresServer) -> bool:
    """Whether all of the log so far is in the repository."""
    segment = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    asked = f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"
    return until(lambda: server.sql(asked) == "t", f"{segment} is not archived")


def the_run(lab: LabFolder) -> RunView | None:
    """The run for the loss of the site."""

    async def asked(store: Store) -> RunView | None:
        of_site = [line.run for line in await runs.list_runs(store) if line.run.startswith(receipts.HOME)]
        return await runs.view_of(store, of_site[0]) if of_site else None

    return status.ask(lab.need().topology, asked, receipts.AWAY)


def phase(lab: LabFolder) -> str:
    view = the_run(lab)
    return "" if view is None else view.phase


def waits(lab: LabFolder, step: str) -> str:
    """What it waits for: a verb, such as `approve`."""
    view = the_run(lab)
    assert view is not None
    return next((wait.verbs[0] for wait in waiting(view) if wait.step == step), "")


def ask(lab: LabFolder, *words: str) -> None:
    store = ("--store", store_url(lab.need().topology, receipts.AWAY))
    assert run([*words, *store, "--who", "kim", "--reason", "the site burnt"]) == console.DONE, words


def test_a_burnt_database_and_its_repository_server_come_back(lab: LabFolder) -> None:
    before = database(lab, receipts.HOME)
    before.sql(f"INSERT INTO receipts SELECT 'r' || n FROM generate_series(1, {ROWS}) n")
    assert archived(before)
    assert serves(lab, receipts.HOME)
    assert not serves(lab, receipts.AWAY), "the way to the backups is at the site that burns"

    faults.burn(lab, receipts.HOME)
    until(lambda: the_run(lab), "no run began")
    until(lambda: writes(lab, within_s=0.5) >= 3, "what has a live copy waits for what has none")
    until(lambda: waits(lab, "fence:receipts") == "attest", "nobody is asked for the fence")
    view = until(lambda: the_run(lab), "the run is gone")
    ask(lab, "run", "attest", view.spec.run, "fence:receipts")
    until(lambda: waits(lab, "restore:receipts") == "approve", "nobody is asked to approve the loss")
    assert not (lab.data(receipts.AWAY, receipts.STORE) / "data").exists()
    ask(lab, "approve", view.spec.run, "--step", "restore:receipts")
    until(lambda: phase(lab) == "succeeded", f"the run does not succeed: {phase(lab)}")

    after = database(lab, receipts.AWAY)
    assert serves(lab, receipts.AWAY)
    assert after.sql("SELECT count(*) FROM receipts") == str(ROWS), "what was archived is lost"
    after.sql("INSERT INTO receipts VALUES ('after the fire')")
    assert archived(after), "the restored database is not backed up"

    restoring.start_site(lab, receipts.HOME)
    assert not before.answers(), "the old primary must not come back beside the new one"
