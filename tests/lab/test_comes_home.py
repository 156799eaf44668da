"""All the way home on real servers: a site burns, comes back, and its primaries and its traffic with it. Then
the lone synchronous replica burns, and the next copy takes its place. At last the site of the primary is cut
off for a moment, and joined again while evac moves what it had. Each begins where the one before has left the
lab: so they are one test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from evac.app import runs
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.store.port import Store
from evac.views.status_document import RunLine
from evac_lab import episodes, faults, restoring, status, world
from evac_lab.episodes import Patience
from evac_lab.site_servers import Ground
from evac_lab.state import LabFolder
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


def test_all_the_way_home_and_the_next_losses() -> None:
    with running_lab() as lab:
        primaries_and_traffic_come_home_in_shares_and_nothing_is_lost(lab)
        the_next_copy_takes_the_place_of_a_lone_synchronous_replica(lab)
        a_site_that_is_joined_again_in_the_middle_of_its_evacuation_stops_nothing(lab)


def runs_of(lab: LabFolder) -> list[RunLine]:
    async def look(store: Store) -> list[RunLine]:
        return list(await runs.list_runs(store))

    return status.ask(lab.need().topology, look, "anyang")


def last_run(lab: LabFolder) -> RunView:
    async def look(store: Store) -> RunView:
        return await runs.view_of(store, (await runs.list_runs(store))[-1].run)

    return status.ask(lab.need().topology, look, "anyang")


def told(lab: LabFolder) -> str:
    view = last_run(lab)
    steps = {step.id: [view.phases[i], view.whys.get(i, "")] for i, step in enumerate(view.steps)}
    return json.dumps([view.phase, waiting(view), steps, view.failures, view.evidence], default=str)


def sites(lab: LabFolder) -> dict[str, status.SiteStatus]:
    return {site.name: site for site in status.look(lab, lab.need()).sites}


def named(lab: LabFolder) -> set[str]:
    """Where the name servers that answer send people; on a busy machine one may take too long for a look."""
    return {name for site in sites(lab).values() for name in site.names}


def until(happens: Callable[[], object], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (found := happens()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(found)


def lost(lab: LabFolder) -> list[str]:
    return list(episodes.lost_messages(lab, Ground(lab, lab.need().topology).database))


def primaries_and_traffic_come_home_in_shares_and_nothing_is_lost(lab: LabFolder) -> None:
    assert writes(lab) >= 5
    fire = episodes.burn(lab, "pangyo", Patience(45), reason="a test")
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert sites(lab)["anyang"].postgres.startswith("primary")

    back = restoring.restore(lab, "pangyo", failback=True, reason="a test")
    assert back.whole, back.as_text()
    found = sites(lab)
    assert found["pangyo"].postgres.startswith("primary")
    assert (found["pangyo"].redis, found["anyang"].redis) == ("primary", "replica")
    assert found["anyang"].postgres == found["ansan"].postgres == "replica"
    assert "dc-anyang" in found["pangyo"].postgres, "who was the primary follows again"
    at_home = {lab.need().topology.site("pangyo").host("haproxy")}
    assert until(lambda: named(lab) == at_home, 10.0), named(lab)
    view = last_run(lab)
    moved = [view.phases[i] for i, step in enumerate(view.steps) if step.paced]
    assert moved == ["succeeded"] * 3, "10 %, 50 %, then all"
    assert writes(lab) >= 5
    assert lost(lab) == []


def postgres_of(lab: LabFolder, site: str) -> str:
    """What its store says of itself; on a busy machine one may take too long for a look."""
    seen: list[str] = []
    assert until(lambda: seen.append(sites(lab)[site].postgres) or seen[-1], 10.0), f"{site} says nothing"
    return seen[-1]


def the_next_copy_takes_the_place_of_a_lone_synchronous_replica(lab: LabFolder) -> None:
    copies = postgres_of(lab, "pangyo")
    synchronous = "anyang" if "dc-anyang sync" in copies else "ansan"
    other = {"anyang": "ansan", "ansan": "anyang"}[synchronous]
    fire = episodes.burn(lab, synchronous, Patience(45), reason="a test")
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert fire.clients_recovered == fire.clients
    now = postgres_of(lab, "pangyo")
    assert now.startswith("primary"), now
    assert f"dc-{other} sync" in now
    assert lost(lab) == []


def a_site_that_is_joined_again_in_the_middle_of_its_evacuation_stops_nothing(lab: LabFolder) -> None:
    """Its primaries answer again before others took their place: they give their role up."""
    topology = lab.need().topology
    for site in [site.name for site in topology.sites if site.name in lab.need().burnt]:
        assert restoring.restore(lab, site, reason="a test").whole
    assert world.wait_for_plans(topology) == ()
    before = {run.run for run in runs_of(lab)}
    faults.cut(lab, "pangyo")

    def begun() -> set[str]:
        return {run.run for run in runs_of(lab)} - before

    assert until(begun, 20.0)
    faults.heal(lab, "pangyo")
    (run,) = begun()
    assert until(lambda: runs_of(lab)[-1].state == "succeeded", 30.0), told(lab)
    assert run.startswith("pangyo-lost")
    assert writes(lab, within_s=15.0) >= 5
    assert lost(lab) == []
    assert restoring.restore(lab, "pangyo", reason="a test").whole
    primaries = [name for name in sites(lab) if postgres_of(lab, name).startswith("primary")]
    assert len(primaries) == 1
    assert "pangyo" not in primaries
    assert lost(lab) == []
