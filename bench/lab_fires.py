"""Fires: the primary's site burns and comes back, again and again; then that of the synchronous replica."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import labs
from bench.figures import Figure, Table, median, worst
from evac.model.errors import EvacError
from evac_lab import episodes, world
from evac_lab.episodes import Fire
from evac_lab.site_servers import Ground
from evac_lab.state import LabFolder

MILESTONES = ("detected", "decided", "fenced", "promoted", "shifted")
LONGEST_SECONDS = 60.0
REST_SECONDS = 3.0
"""A new leader has to hear from all witnesses before it can judge."""
NEW_LABS = 3
"""How often a series may go on in a fresh lab after one that did not come back."""


@dataclass(slots=True)
class Series:
    """What a series of fires has found."""

    fires: list[Fire] = field(default_factory=list)
    lost: int = 0
    double_primary_seconds: float = 0.0

    def of(self, leader: bool) -> list[Fire]:
        return [fire for fire in self.fires if fire.leader_burnt == leader]


@dataclass(frozen=True, slots=True)
class Task:
    """One fire to light. what: `primary` or `replica`; leader: whether it shall burn with it."""

    what: str
    leader: bool


def burn_all(table: Table, options: world.Options, tasks: Sequence[Task]) -> Series:
    """Lights one fire after another in one lab; in a fresh one where a site did not come back."""
    found, todo = Series(), list(tasks)
    for _ in range(NEW_LABS):
        if not todo:
            break
        try:
            with labs.lab(options) as folder:
                try:
                    while todo:
                        site = _one(table, folder, todo.pop(0), found)
                        labs.bring_back(table, folder, site)
                finally:
                    _close(table, folder, found)
        except (labs.NotAtRest, EvacError) as error:
            table.trouble(f"a fresh lab, because: {error}")
    if todo:
        table.trouble(f"{len(todo)} fires were not lit")
    return found


def _one(table: Table, folder: LabFolder, task: Task, found: Series) -> str:
    """One fire; returns the site that burnt. Raises `NotAtRest`."""
    roles = labs.settle(folder)
    site = roles.primary if task.what == "primary" else roles.synchronous
    other = next(one.name for one in folder.need().topology.others(site))
    episodes.move(folder, site if task.leader else other)
    labs.settle(folder)
    time.sleep(REST_SECONDS)
    fire = episodes.burn(folder, site, episodes.Patience(LONGEST_SECONDS), reason="bench")
    found.fires.append(fire)
    print(f"    {_words(fire, task)}", flush=True)
    if fire.state not in ("succeeded", "succeeded_with_exceptions"):
        table.trouble(f"fire {fire.number} in {site}: {fire.state}, run {fire.run or 'none'}")
    return site


def _words(fire: Fire, task: Task) -> str:
    parts = [f"{name} {fire.seconds[name]:.2f}" for name in MILESTONES if fire.seconds.get(name) is not None]
    first, last = fire.first_write_seconds, fire.last_client_seconds
    parts += [f"first write {first:.2f}"] if first is not None else ["no write"]
    parts += [f"last client {last:.2f}"] if last is not None else []
    leader = " with the leader" if fire.leader_burnt else ""
    return f"{fire.lost_site} ({task.what}){leader}: {', '.join(parts)} s; lost {fire.lost}"


def _close(table: Table, folder: LabFolder, found: Series) -> None:
    """Over the whole life of the lab: what was acknowledged and is gone, and how long two took writes."""
    found.double_primary_seconds += labs.double_primary_seconds(folder)
    try:
        ground = Ground(folder, folder.need().topology)
        found.lost += len(episodes.lost_messages(folder, ground.database))
    except EvacError as error:
        table.trouble(f"the ledger could not be compared at the end: {error.message}")
        found.lost += sum(fire.lost or 0 for fire in found.fires)


def primaries(table: Table, options: world.Options, fires: int) -> Figure:
    """fires: without the leader, and as many with it. Returns the figure that Patroni is compared with."""
    table.section(f"{fires} fires of the primary's site without evac's leader, {fires} with it")
    tasks = [Task("primary", leader) for _ in range(fires) for leader in (False, True)]
    series = burn_all(table, options, tasks)
    first = _first_writes(series.of(False))
    figure = median("first_write", "fire to first acknowledged write", first, "s", 3, "at most")
    table.add(figure, worst("first_write_worst", "the same, worst", first, "s", 5))
    with_leader = _first_writes(series.of(True))
    words = "with evac's leader: fire to first write"
    table.add(
        median("leader_first_write", words, with_leader, "s", 8, "at most"),
        worst("leader_first_write_worst", "the same, worst", with_leader, "s", 10),
    )
    if first and with_leader:
        more = statistics.median(with_leader) - statistics.median(first)
        table.add(Figure("leader_adds", "what the leader's loss adds, medians", more, "s", 5, "at most"))
    _milestones(table, series.of(False), "")
    _milestones(table, series.of(True), "leader_")
    _safety(table, series, "fires")
    return figure


def replicas(table: Table, options: world.Options, fires: int) -> None:
    table.section(f"{fires} fires of the synchronous replica's site: writes hang until the next one protects")
    series = burn_all(table, options, [Task("replica", bool(turn % 2)) for turn in range(fires)])
    first = _first_writes(series.fires)
    table.add(
        median("replica_first_write", "fire to first acknowledged write", first, "s", 3, "at most"),
        worst("replica_first_write_worst", "the same, worst", first, "s", 10),
    )
    _safety(table, series, "replica_fires")


def _first_writes(fires: Sequence[Fire]) -> list[float]:
    return [fire.first_write_seconds for fire in fires if fire.first_write_seconds is not None]


def _milestones(table: Table, fires: Sequence[Fire], prefix: str) -> None:
    """Medians with the worst beside."""
    leader = "with the leader: " if prefix else ""
    for name in (*MILESTONES, "last client"):
        rows = [
            fire.last_client_seconds if name == "last client" else fire.seconds.get(name) for fire in fires
        ]
        found = [at for at in rows if at is not None]
        note = f"worst {max(found):.2f} s, {len(found)} of {len(fires)}" if found else "never seen"
        key = f"{prefix}{name.replace(' ', '_')}"
        table.add(median(key, f"  {leader}fire to {name}", found, "s", note=note))


def _safety(table: Table, series: Series, key: str) -> None:
    acknowledged = sum(fire.acknowledged for fire in series.fires)
    note = f"of {acknowledged:,} acknowledged during {len(series.fires)} fires, and all between"
    failed = sum(fire.first_write_seconds is None for fire in series.fires)
    table.add(
        Figure(f"{key}_unserved", "fires after which nobody could write", failed, "fires", 0, "at most"),
        Figure(f"{key}_lost", "acknowledged messages lost", series.lost, "", 0, "at most", note),
        Figure(
            f"{key}_double_primary",
            "two primaries accepting writes",
            series.double_primary_seconds,
            "s",
            0,
            "at most",
            "over the whole life of the labs",
        ),
    )
