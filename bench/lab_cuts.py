"""Sites that are cut off and live on, and sites that flap: never two primaries, no evacuation for a blink."""

from __future__ import annotations

import time

from bench import labs
from bench.figures import Figure, Table, median
from evac.model.errors import EvacError
from evac_lab import episodes, faults, world
from evac_lab.site_servers import Ground
from evac_lab.state import LabFolder

WATCH_SECONDS = 5.0
"""How long a joined site is watched for a second primary."""
FLAPS = 5
DOWN_SECONDS, UP_SECONDS = 0.7, 2.0
LONGEST_SECONDS = 60.0


def cuts(table: Table, options: world.Options, times: int) -> None:
    """The primary's site is cut off, evac moves on, the site comes back alive and believes it is primary."""
    table.section(f"{times} cuts of the primary's site, joined again while it still believes to be primary")
    firsts: list[float] = []
    lost, double, done = 0, 0.0, 0
    for turn in range(times):
        try:
            with labs.lab(options) as folder:
                first = _cut(table, folder, leader=bool(turn % 2))
                firsts += [first] if first is not None else []
                double += labs.double_primary_seconds(folder)
                ground = Ground(folder, folder.need().topology)
                lost += len(episodes.lost_messages(folder, ground.database))
                done += 1
        except (labs.NotAtRest, EvacError) as error:
            table.trouble(f"a cut could not be measured: {error}")
    table.add(
        median("cut_first_write", "cut to first acknowledged write", firsts, "s", note=f"{done} cuts"),
        Figure("cuts_lost", "acknowledged messages lost", lost if done else None, "", 0, "at most"),
        Figure(
            "cuts_double_primary",
            "two primaries accepting writes",
            double if done else None,
            "s",
            0,
            "at most",
        ),
    )


def _cut(table: Table, folder: LabFolder, leader: bool) -> float | None:
    site = labs.settle(folder).primary
    topology = folder.need().topology
    episodes.move(folder, site if leader else topology.others(site)[0].name)
    labs.settle(folder)
    fire = episodes.cut(folder, site, episodes.Patience(LONGEST_SECONDS), reason="bench")
    faults.heal(folder, site)
    time.sleep(WATCH_SECONDS)
    double = labs.double_primary_seconds(folder)
    first = (
        "no write" if fire.first_write_seconds is None else f"first write {fire.first_write_seconds:.2f} s"
    )
    with_leader = " with the leader" if fire.leader_burnt else ""
    print(f"    {site}{with_leader}: {fire.state}, {first}, two primaries {double:.2f} s", flush=True)
    if fire.state not in ("succeeded", "succeeded_with_exceptions"):
        table.trouble(f"cut of {site}: {fire.state}, run {fire.run or 'none'}")
    labs.rejoin(table, folder, site)
    return fire.first_write_seconds


def flaps(table: Table, options: world.Options, times: int) -> None:
    """Each site in turn is cut off again and again, shorter than the lab takes to believe in a loss."""
    table.section(f"{times} rounds of {FLAPS} flaps, {DOWN_SECONDS:g} s down, {UP_SECONDS:g} s up")
    made: set[str] = set()
    double, lost = 0.0, 0
    try:
        with labs.lab(options) as folder:
            for turn in range(times):
                labs.settle(folder)
                sites = folder.need().topology.sites
                faults.flap(folder, sites[turn % len(sites)].name, FLAPS, DOWN_SECONDS, UP_SECONDS)
                time.sleep(WATCH_SECONDS)
                if made := set(labs.runs_made(folder)):
                    table.trouble(f"flaps of {sites[turn % len(sites)].name}: {', '.join(sorted(made))}")
                    break
            double = labs.double_primary_seconds(folder)
            lost = len(episodes.lost_messages(folder, Ground(folder, folder.need().topology).database))
    except (labs.NotAtRest, EvacError) as error:
        table.trouble(f"flaps could not be measured to the end: {error}")
    table.add(
        Figure("flaps_evacuations", "evacuations because of flaps", len(made), "", 0, "at most"),
        Figure("flaps_lost", "acknowledged messages lost", lost, "", 0, "at most"),
        Figure("flaps_double_primary", "two primaries accepting writes", double, "s", 0, "at most"),
    )
