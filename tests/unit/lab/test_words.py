"""What people and programs read of the lab: the contract of a fire, the timeline, the doctor, the links."""

import json
from dataclasses import replace
from pathlib import Path

from evac.cli import console
from evac_lab import doctor, episodes, faults, lab_command, lab_estate, status
from evac_lab.episodes import Fire
from evac_lab.faults import Struck
from evac_lab.namespaces import Links, read_links, write_links
from evac_lab.state import LabFolder
from evac_lab.status import (
    RunFacts,
    SiteStatus,
    Status,
    Watchers,
    facts,
    is_withdrawn,
    moved,
    site_in,
    together,
)

CONTRACT = {
    "lost_site",
    "leader_burnt",
    "detected_seconds",
    "decided_seconds",
    "promoted_seconds",
    "first_write_seconds",
    "last_client_seconds",
    "acknowledged",
    "lost",
    "double_primary_seconds",
}
FIRE = Fire(
    1,
    "burn",
    "pangyo",
    1_000.0,
    0,
    True,
    "demo",
    "run-1",
    "succeeded",
    {"detected": 1.75, "decided": 1.8, "fenced": 1.9, "promoted": 2.0, "shifted": 2.1, "ended": 3.0},
    2.2,
    2.9,
    20,
    20,
    4_321,
    17,
    0,
    (),
    2.2,
    0.0,
)


def test_the_contract_of_a_fire() -> None:
    (row,) = json.loads(episodes.as_json([FIRE]))["fires"]
    assert set(row) >= CONTRACT
    assert (row["lost_site"], row["leader_burnt"], row["detected_seconds"]) == ("pangyo", True, 1.75)
    assert (row["first_write_seconds"], row["lost"], row["fenced_seconds"]) == (2.2, 0, 1.9)


def test_a_timeline_is_in_the_order_of_time() -> None:
    lines = episodes.timeline(FIRE).splitlines()
    moments = [float(line.split()[0]) for line in lines if " s  " in line and line.split()[0][0].isdigit()]
    assert moments == sorted(moments)
    assert len(moments) == 8
    assert "evac's leader with it" in lines[0]
    assert lines[1] == "  why: demo"


def test_a_fence_that_no_store_needed_is_no_gap_of_a_run_that_is_whole() -> None:
    seconds = {**FIRE.seconds, "fenced": None, "shifted": None}
    told = episodes.timeline(replace(FIRE, seconds=seconds))
    assert "old primary fenced" not in told
    assert "traffic shifted: not seen" in told
    assert "old primary fenced: not seen" in episodes.timeline(
        replace(FIRE, seconds=seconds, state="not over")
    )


def test_a_fire_for_which_nothing_had_to_move_is_over_and_lacks_no_milestone(tmp_path: Path) -> None:
    fire = replace(FIRE, kind="half", run="", state="unharmed", seconds={"detected": 1.75})
    assert "not seen" not in episodes.timeline(fire)
    assert lab_command._show(fire, "json", LabFolder(tmp_path)) == console.DONE
    assert "detected: not seen" in episodes.timeline(replace(fire, seconds={}))
    assert lab_command._show(replace(fire, state="not over"), "json", LabFolder(tmp_path)) == console.FAILED


def test_what_was_not_seen_and_not_counted_is_said() -> None:
    text = episodes.timeline(replace(FIRE, seconds={}, lost=None, first_write_seconds=None))
    assert "detected: not seen" in text
    assert "not counted yet" in text


def test_medians_leave_out_what_did_not_happen() -> None:
    rows = [replace(FIRE, number=n, first_write_seconds=value) for n, value in enumerate((2.0, None, 4.0), 1)]
    assert "3.00 s" in episodes.table(rows).splitlines()[-1]


def test_fires_are_remembered_in_order(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path)
    for site in ("pangyo", "anyang"):
        episodes.begin(folder, Struck("burn", site, 5.0, 3), 0, leader_burnt=False)
    episodes.write(folder, replace(FIRE, number=11, lost_ids=("a", "b")))
    assert [(fire.number, fire.lost_site) for fire in episodes.read_all(folder)] == [
        (1, "pangyo"),
        (2, "anyang"),
        (11, "pangyo"),
    ]
    assert episodes.read_all(folder)[-1].lost_ids == ("a", "b")


def test_milestones_are_read_from_the_journal() -> None:
    events = [
        ["run_created", 101_800, "", 0, {}],
        ["step_succeeded", 101_900, "fence:messages", 1, {}],
        ["step_succeeded", 102_000, "promote:messages", 1, {}],
        ["step_succeeded", 102_100, "promote:presence", 1, {}],
        ["step_succeeded", 102_500, "shift:messenger", 1, {}],
        ["run_ended", 103_000, "", 0, {"phase": "succeeded"}],
    ]
    watched = [
        ["verdict", 99_000, "pangyo", "lost before", {"state": "lost"}],
        ["verdict", 101_200, "ansan", "another site", {"state": "lost"}],
        ["verdict", 101_500, "pangyo", "suspect", {"state": "suspect"}],
        ["verdict", 101_750, "pangyo", "lost", {"state": "lost"}],
        ["leader", 101_760, "anyang", "anyang leads", {"token": 3}],
    ]
    found = facts("r", events, watched, "pangyo", 100.0)
    assert found.phase == "succeeded"
    assert found.seconds == {
        "decided": 1.8,
        "fenced": 1.9,
        "promoted": 2.1,
        "shifted": 2.5,
        "ended": 3.0,
        "detected": 1.75,
    }


def test_two_runs_of_one_fire_are_one_story() -> None:
    evacuation = RunFacts("a", "succeeded", {"decided": 1.8, "promoted": 2.0, "ended": 3.0})
    protection = RunFacts("b", "", {"decided": 1.9, "promoted": 2.2})
    assert together([]) is None
    going = together([evacuation, protection])
    assert going == RunFacts("a, b", "", {"decided": 1.8, "promoted": 2.2})
    ended = RunFacts("b", "failed", {"ended": 4.0})
    found = together([evacuation, ended])
    assert found is not None
    assert (found.phase, found.seconds["ended"]) == ("failed", 4.0)


def test_a_run_that_evac_took_back_is_no_answer_to_a_fire() -> None:
    created = ["run_created", 1_000, "", 0, {}]
    assert is_withdrawn([created, ["cancelled", 2_000, "", 0, {"who": "evac", "reason": "they go on"}]])
    assert not is_withdrawn([created, ["cancelled", 2_000, "", 0, {"who": "kim", "reason": "wrong site"}]])
    assert not is_withdrawn([created])


def test_a_leader_whose_clock_is_ahead_is_read_as_a_true_clock_would_have_dated_it(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path)
    faults.clock_file(folder, "anyang").parent.mkdir(parents=True)
    faults.clock_file(folder, "anyang").write_text("+3600")
    assert faults.ahead(folder, ["pangyo", "anyang"]) == {"anyang": 3_600.0}
    events = moved([["run_created", 3_701_800, "", 0, {}]], 3_600_000)
    watched = moved([["verdict", 3_701_500, "pangyo", "lost", {"state": "lost"}]], 3_600_000)
    assert facts("r", events, watched, "pangyo", 100.0).seconds == {"decided": 1.8, "detected": 1.5}


def test_the_site_of_a_leader() -> None:
    assert [site_in(owner) for owner in ("pangyo", "anyang/host-7", "seoul", "pangyonara")] == [
        "pangyo",
        "anyang",
        "",
        "",
    ]


def test_the_doctor_ends_with_one_command() -> None:
    bad = doctor.Checkup("servers", "missing", "not installed: etcd, knotd", "sudo apt-get install x")
    text = doctor.as_text(
        doctor.Diagnosis((bad,), "sudo apt-get install --no-install-recommends etcd-server knot")
    )
    assert "this command installs what is missing: sudo apt-get install" in text
    assert "evac lab doctor" in text.splitlines()[-1]
    good = doctor.as_text(doctor.Diagnosis((doctor.Checkup("space", "good", "plenty"),), ""))
    assert "evac lab up" in good
    assert "this command" not in good


def test_links_drop_what_they_should_and_nothing_else(tmp_path: Path) -> None:
    links = Links(delay_ms=5, one_way=("pangyo>anyang",), loss={"anyang>ansan": 0.3}, delays={"ansan>": 50})
    assert links.drops("pangyo", "anyang", 0.99)
    assert not links.drops("anyang", "pangyo", 0.0)
    assert [links.drops("anyang", "ansan", chance) for chance in (0.29, 0.31)] == [True, False]
    assert (links.delay("ansan", ""), links.delay("pangyo", "anyang")) == (0.05, 0.005)
    cut = links.with_cut("ansan")
    assert cut.drops("ansan", "", 0.99)
    assert cut.drops("", "ansan", 0.99)
    assert not cut.drops("anyang", "pangyo", 0.99)
    healed = cut.without_cut("ansan")
    assert (healed.cut, healed.loss, healed.delays, healed.one_way) == ((), {}, {}, ("pangyo>anyang",))
    write_links(tmp_path / "links.json", healed)
    assert read_links(tmp_path / "links.json") == healed


def _status(watchers: Watchers | None) -> Status:
    servers = {"etcd": "up", "controller": "up"}
    names = ("pangyo", "anyang", "ansan")
    sites = tuple(SiteStatus(name, "up", servers, "replica", "replica", ("127.1.0.6",)) for name in names)
    return Status("loopback", "up", sites, 80.0, 0.0, 0.1, watchers)


def test_the_status_says_who_leads_and_for_which_loss_a_plan_lies_ready() -> None:
    seen = Watchers("anyang", ("pangyo",), {"ansan": "no room"}, ("run-7",))
    text = status.as_text(_status(seen), 80, colour=False)
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert rows["evac"].split()[1:] == ["watches", "leads", "watches"]
    assert rows["plan for it"].split()[3:] == ["ready", "being", "made", "none"]
    assert "in progress: run-7" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "no answer" in status.as_text(_status(None), 80, colour=False)


def test_the_status_lists_the_copies_of_a_primary_and_first_those_that_confirm() -> None:
    found = _status(None)
    copies = {"dc-a": "async", "dc-z": "sync"}
    first, *rest = found.sites
    shown = replace(found, sites=(replace(first, postgres="primary", copies=copies), *rest))
    lines = status.as_text(shown, 80, colour=False).splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == ["copies"])
    assert [lines[at].split(), lines[at + 1].split()] == [["copies", "dc-z", "sync"], ["dc-a", "async"]]
    assert not any("copies" in line for line in status.as_text(found, 80, colour=False).splitlines())
    assert [site["copies"] for site in shown.to_json()["sites"]] == [copies, {}, {}]


def test_over_long_links_a_probe_has_time_to_open_a_connection_and_to_ask() -> None:
    assert lab_estate.watch(0) == "{profile: lab}"
    assert lab_estate.watch(5) == "{profile: lab, deadline: 270 ms, period: 500 ms}"
    assert lab_estate.watch(100) == "{profile: lab, deadline: 650 ms, period: 650 ms}"
