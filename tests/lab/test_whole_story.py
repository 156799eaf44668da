"""A lab from up to down with evac's own controllers.

A site burns with the leader, comes back, and its primaries and its traffic with it. Then the lone synchronous
replica burns, and the next copy takes its place. Then the site of the primary is cut off for a moment, and
joined again while evac moves what it had. The next fire takes whoever is primary by then. At last the lab
loses its own record, and ends all the same. Each part begins where the one before has left the lab: so they
are one test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from evac.app import runs
from evac.cli import console
from evac.cli.main import run
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.store.port import Store
from evac.views.status_document import RunLine
from evac_lab import doctor, episodes, faults, restoring, status, world
from evac_lab import process as processes
from evac_lab.episodes import Fire, Patience
from evac_lab.site_servers import Ground
from evac_lab.state import LabError, LabFolder, living
from evac_lab.world import Options
from tests.lab.conftest import free_offset, lab_folder, need_servers, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]
LONGEST_S = 120.0
"""For a run that goes on by itself: how fast is not what is tried here."""


def test_from_up_to_down_with_four_losses_between(capsys: pytest.CaptureFixture[str]) -> None:
    need_servers()
    with lab_folder() as lab:
        comes_up_and_is_looked_at(lab, capsys)
        primaries_and_traffic_come_home_in_shares_and_nothing_is_lost(lab)
        the_next_copy_takes_the_place_of_a_lone_synchronous_replica(lab)
        a_site_that_is_joined_again_in_the_middle_of_its_evacuation_stops_nothing(lab)
        whoever_is_primary_burns_and_the_report_has_every_fire(lab, capsys)
        goes_down_without_a_trace_after_a_crash_that_wrote_nothing_down(lab)


def comes_up_and_is_looked_at(lab: LabFolder, capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[float] = []
    options = Options(offset=free_offset(), writers=6, pause_s=0.1, plans_s=180.0)
    state = world.up(options, lab, lambda share, words: steps.append(share))
    assert world.wait_for_plans(state.topology) == ()
    assert steps[-1] <= 1.0
    assert steps == sorted(steps)
    assert state.phase == "up"
    with pytest.raises(LabError) as raised:
        world.up(options, lab)
    assert (raised.value.code, raised.value.hint) == ("lab-up", "evac lab down")
    where = ["--folder", str(lab.path)]
    assert run(["lab", "status", "--output", "json", *where]) == console.DONE
    shown = json.loads(capsys.readouterr().out)
    assert [site["name"] for site in shown["sites"]] == ["pangyo", "anyang", "ansan"]
    assert shown["sites"][0]["postgres"] == "primary"
    assert shown["sites"][0]["copies"] == {"dc-anyang": "sync", "dc-ansan": "async"}
    assert run(["lab", "status", *where]) == console.DONE
    assert "writes/s acknowledged" in capsys.readouterr().out


def is_good(fire: Fire) -> None:
    """A fire that evac put out alone, seen by all of its clients."""
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert fire.clients_recovered == fire.clients
    found = [fire.seconds.get(name) for name in ("detected", "decided", "promoted", "ended")]
    assert None not in found
    assert found == sorted(found, key=lambda at: at or 0.0)
    assert fire.first_write_seconds is not None


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
    episodes.move(lab, "pangyo")
    assert status.leader_site(lab.need().topology, "ansan") == "pangyo"
    fire = episodes.burn(lab, "pangyo", Patience(45), reason="a test")
    is_good(fire)
    assert fire.leader_burnt
    assert sites(lab)["anyang"].postgres == "primary"

    back = restoring.restore(lab, "pangyo", failback=True, reason="a test")
    assert back.whole, back.as_text()
    assert "postgres" in back.started
    assert lab.need().burnt == {}
    found = sites(lab)
    assert found["pangyo"].postgres == "primary"
    assert (found["pangyo"].redis, found["anyang"].redis) == ("primary", "replica")
    assert found["anyang"].postgres == found["ansan"].postgres == "replica"
    assert "dc-anyang" in found["pangyo"].copies, "who was the primary follows again"
    at_home = {lab.need().topology.site("pangyo").host("haproxy")}
    assert until(lambda: named(lab) == at_home, 10.0), named(lab)
    view = last_run(lab)
    moved = [view.phases[i] for i, step in enumerate(view.steps) if step.paced]
    assert moved == ["succeeded"] * 3, "10 %, 50 %, then all"
    assert writes(lab) >= 5
    assert lost(lab) == []


def answer_of(lab: LabFolder, site: str) -> status.SiteStatus:
    """A look at which its store answers; on a busy machine it may take too long for one."""
    seen: list[status.SiteStatus] = []
    assert until(lambda: seen.append(sites(lab)[site]) or seen[-1].postgres, 10.0), f"{site} does not answer"
    return seen[-1]


def the_next_copy_takes_the_place_of_a_lone_synchronous_replica(lab: LabFolder) -> None:
    synchronous = "anyang" if answer_of(lab, "pangyo").copies.get("dc-anyang") == "sync" else "ansan"
    other = {"anyang": "ansan", "ansan": "anyang"}[synchronous]
    fire = episodes.burn(lab, synchronous, Patience(45), reason="a test")
    assert (fire.state, fire.lost, fire.double_primary_seconds) == ("succeeded", 0, 0.0)
    assert fire.clients_recovered == fire.clients
    now = answer_of(lab, "pangyo")
    assert (now.postgres, now.copies.get(f"dc-{other}")) == ("primary", "sync"), now
    assert lost(lab) == []


def a_site_that_is_joined_again_in_the_middle_of_its_evacuation_stops_nothing(lab: LabFolder) -> None:
    """Its primaries answer again before others took their place: they give their role up."""
    topology = lab.need().topology
    for site in [site.name for site in topology.sites if site.name in lab.need().burnt]:
        assert restoring.restore(lab, site, reason="a test").whole
    assert world.wait_for_plans(topology) == ()
    before = {line.run for line in runs_of(lab)}
    faults.cut(lab, "pangyo")

    def begun() -> set[str]:
        return {line.run for line in runs_of(lab)} - before

    assert until(begun, 20.0)
    faults.heal(lab, "pangyo")
    (name,) = begun()
    assert until(lambda: runs_of(lab)[-1].state == "succeeded", LONGEST_S), told(lab)
    assert name.startswith("pangyo-lost")
    assert writes(lab, within_s=15.0) >= 5
    assert lost(lab) == []
    assert restoring.restore(lab, "pangyo", reason="a test").whole
    primaries = [site for site in sites(lab) if answer_of(lab, site).postgres == "primary"]
    assert len(primaries) == 1
    assert "pangyo" not in primaries
    assert lost(lab) == []


def whoever_is_primary_burns_and_the_report_has_every_fire(
    lab: LabFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.wait_for_plans(lab.need().topology) == ()
    (primary,) = [name for name in sites(lab) if answer_of(lab, name).postgres == "primary"]
    last = episodes.burn(lab, primary, Patience(45))
    is_good(last)
    assert last.number == 3, "a cut is no fire"
    assert run(["lab", "report", "--output", "json", "--folder", str(lab.path)]) == console.DONE
    rows = json.loads(capsys.readouterr().out)["fires"]
    assert [(row["number"], row["lost"]) for row in rows] == [(1, 0), (2, 0), (3, 0)]
    assert (rows[0]["lost_site"], rows[-1]["lost_site"]) == ("pangyo", primary)


def goes_down_without_a_trace_after_a_crash_that_wrote_nothing_down(lab: LabFolder) -> None:
    state = lab.need()
    pids = living(state, lab)
    assert {one.pid for one in state.processes} & pids <= living(None, lab)
    (lab.path / "lab.json").write_text("{ torn")
    found = {one.subject: one for one in doctor.examine(lab).checkups}["old lab"]
    assert (found.verdict, found.cure) == ("missing", "evac lab down")
    assert world.down(lab) >= len({one.pid for one in state.processes} & pids) > 0
    assert not {pid for pid in pids if processes.started(pid)}
    assert doctor.taken_ports(state.topology) == ()
    assert {path.name for path in lab.path.iterdir()} <= {"lock", "fires"}
