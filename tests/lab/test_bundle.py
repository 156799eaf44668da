"""Two of three sites burn. A laptop outside goes on from the bundle; then the old quorum comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evac import estate as estates
from evac.cli import console
from evac.cli.main import run
from evac.drivers.port import Action, Driver, Order
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.process.client import peer_of
from evac.drivers.process.driver import ProcessDriver
from evac.model.errors import Permanent
from evac.store.generation import Newer, read_newer
from evac_lab import authorities, clients, faults, restoring, status
from evac_lab.state import LabFolder, store_url
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]

LOST = ("pangyo", "anyang")
CONFIRM = [word for site in LOST for word in ("--confirm", site)]
RUN = "both"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabFolder]:
    monkeypatch.delenv("EVAC_STORE", raising=False)
    monkeypatch.setenv("EVAC_WHO", "kim")
    with running_lab() as folder:
        for name, path in authorities.environment(folder.certificates).items():
            monkeypatch.setenv(name, path)
        yield folder


def until(what: Callable[[], object], within_s: float, words: str) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.1)


def make_bundle(lab: LabFolder, laptop: Path) -> Path:
    """Of the running lab; its secrets are under lock, and two of three people open them."""
    people = laptop / "people"
    people.mkdir(parents=True)
    store = store_url(lab.need().topology)
    told = ["bundle", str(lab.estate), "-o", str(laptop / "lab.bundle"), "--store", store, "--share", "2/3"]
    assert run([*told, "--shares-to", str(people), "--quiet"]) == console.DONE
    return laptop / "lab.bundle"


class Laptop:
    """A folder, and a process that stands in no site."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        argv = ["serve", "--bundle", str(bundle), "--into", str(folder / "evac"), *CONFIRM]
        for path in sorted((folder / "people").iterdir())[:2]:
            argv += ["--share", str(path)]
        # Nothing of what the sites have: all that is secret comes from under the lock.
        env = {name: value for name, value in os.environ.items() if not name.startswith("EVAC_AGENT_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evac", *argv, "--reason", "two sites burnt"],
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )

    @property
    def store(self) -> list[str]:
        return ["--store", f"sqlite:{self.folder / 'evac' / 'evac.sqlite'}"]

    def said(self, words: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return words in self.log.read_text()

    def ask(self, *words: str, ends: int = console.DONE) -> None:
        assert run([*words, *self.store, "--reason", "two sites burnt"]) == ends, words

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def recover(laptop: Laptop) -> None:
    """What a person does: the plan of the bundle, agreed to; the fence vouched for; the loss accepted."""
    plan, estate = laptop.folder / "evac/plans/anyang+pangyo.json", laptop.folder / "evac/estate"
    told = ["apply", str(plan), str(estate), "--execute", "--incident", RUN, *CONFIRM, "--detach"]
    laptop.ask(*told, ends=console.PAUSED)
    laptop.ask("approve", RUN, *CONFIRM)
    until(lambda: laptop.said(": began"), 10, "the run does not begin")
    laptop.ask("run", "attest", RUN, "fence:messages")
    until(lambda: laptop.said(": paused"), 10, "nobody is asked whether a second may be lost")
    laptop.ask("approve", RUN, "--step", "promote:messages")


def newer_in(lab: LabFolder) -> Newer | None:
    return status.ask(lab.need().topology, read_newer, "anyang")


def leads(lab: LabFolder) -> str:
    """Who leads the old store."""
    return status.leader_site(lab.need().topology, "anyang")


def test_a_laptop_goes_on_and_the_old_quorum_is_refused(
    lab: LabFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert writes(lab) >= 5
    bundle = make_bundle(lab, tmp_path)
    begun, offset = time.time(), clients.size(lab.ledger)
    for site in LOST:
        faults.burn(lab, site)
    laptop = Laptop(tmp_path, bundle)
    try:
        until(lambda: laptop.said(" leads"), 20, "the laptop does not lead")
        monkeypatch.setenv("EVAC_SECRETS", str(tmp_path / "evac" / "break-glass"))
        recover(laptop)
        until(lambda: writes(lab, within_s=0.5) >= 3, 15, "no write is acknowledged again")
        until(lambda: laptop.said(": ended"), 10, "the run does not end")

        estate = str(tmp_path / "evac" / "estate")
        assert run(["run", "verify", RUN, "--estate", estate, *laptop.store]) == console.DONE
        assert "heads kept elsewhere" in capsys.readouterr().out

        for site in LOST:
            restoring.start_site(lab, site)
        until(lambda: newer_in(lab) is not None, 10, "the old store does not know that its time is over")
        newer = newer_in(lab)
        assert newer is not None
        assert (newer.number, newer.by) == (1, "ansan")
        for site in ("pangyo", "anyang", "ansan"):
            log = lab.logs / f"{site}-controller.log"
            until(lambda log=log: "generation 1 was opened" in log.read_text(), 15, f"{site} says nothing")
        assert_nobody_obeys_the_old_quorum(lab)
        until(
            lambda: leads(lab) == "", 20, "somebody leads the old store"
        )  # a dead leader's lease runs out first
        assert writes(lab) >= 5
    finally:
        laptop.end()
    measured = clients.measure(clients.read_ledger(lab.ledger, offset), begun)
    assert measured.double_primary_seconds == 0.0
    roles = {site.name: site.postgres for site in status.look(lab, lab.need()).sites}
    assert roles["ansan"] == "primary"
    assert not any(roles[site] == "primary" for site in LOST)


def assert_nobody_obeys_the_old_quorum(lab: LabFolder) -> None:
    """However often it elects somebody: the agents of its own sites, told by now, and the new primary."""
    old = Order("old", "s", 1, 1 << 39, 1 << 20, "the old quorum is back", 5.0, "old/s")
    ends = {(end.driver, end.at): end for end in estates.load(lab.estate).endpoints}

    async def ask() -> None:
        units, databases = ProcessDriver(peer_of()), PostgresDriver()
        end = ends["postgres", "ansan"]
        demote = Action("demote", end.subject, "postgres", "ansan", end.settings, {})
        ordered: list[tuple[Driver, Action]] = [(databases, demote)]
        for site in LOST:
            end = ends["process", site]
            what = {"replicas": 2}
            ordered.append((units, Action("scale", end.subject, "process", site, end.settings, what)))
        for driver, action in ordered:
            with pytest.raises(Permanent) as refused:
                await driver.execute(action, old)
            assert refused.value.code == "superseded", action
        await units.close()
        await databases.close()

    until(lambda: _know(lab, LOST), 10, "the agents that came back are not told")
    asyncio.run(ask())


def _know(lab: LabFolder, sites: tuple[str, ...]) -> bool:
    """Whether the agents of these sites were told of the generation."""
    kept = [lab.data(site, "agent") / "state" / "token.json" for site in sites]
    return all(path.exists() and '"generation":1' in path.read_text() for path in kept)
