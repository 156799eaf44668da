"""All the way home on real servers: a site burns, comes back, and its primaries and its traffic with it. Then
the lone synchronous replica burns, and the next copy takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evac.app import runs
from evac.lab import episodes, journal_facts, losses, restoring, status
from evac.lab.episodes import Patience
from evac.lab.site_servers import Ground
from evac.lab.state import LabFolder
from evac.run.view import RunView
from evac.store.port import Store
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabFolder]:
    with running_lab() as folder:
        yield folder


def last_run(lab: LabFolder) -> RunView:
    async def look(store: Store) -> RunView:
        return await runs.view_of(store, (await runs.list_runs(store))[-1]["run"])

    return journal_facts.ask(lab.need().topology, look, "anyang")


def sites(lab: LabFolder) -> dict[str, status.SiteStatus]:
    return {site.name: site for site in status.look(lab, lab.need()).sites}


def lost(lab: LabFolder) -> list[str]:
    return list(losses.lost_messages(lab, Ground(lab, lab.need().topology).database))


def test_primaries_and_traffic_come_home_in_shares_and_nothing_is_lost(lab: LabFolder) -> None:
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
    assert {names for site in found.values() for names in site.names} == {
        lab.need().topology.site("pangyo").host("haproxy")
    }
    view = last_run(lab)
    moved = [view.phases[i] for i, step in enumerate(view.steps) if step.paced]
    assert moved == ["succeeded"] * 3, "10 %, 50 %, then all"
    assert writes(lab) >= 5
    assert lost(lab) == []


def test_the_next_copy_takes_the_place_of_a_lone_synchronous_replica(lab: LabFolder) -> None:
    copies = sites(lab)["pangyo"].postgres
    synchronous = "anyang" if "dc-anyang sync" in copies else "ansan"
    other = {"anyang": "ansan", "ansan": "anyang"}[synchronous]
    fire = episodes.burn(lab, synchronous, Patience(45), reason="a test")
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert fire.clients_recovered == fire.clients
    now = sites(lab)["pangyo"].postgres
    assert now.startswith("primary")
    assert f"dc-{other} sync" in now
    assert lost(lab) == []
