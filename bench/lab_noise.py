"""Noise that is no fire: packet loss, pauses, starved processors, one-way cuts. evac must stay where it is.

Under two profiles of watching: `cautious`, which any real estate has, with whole sites that stand still for
two seconds and sites cut off one way; and `lab`, which believes after a second and a half: there a whole site
that stands still for two seconds is a loss by definition, so only its parts do.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench import labs
from bench.figures import Figure, Table
from evac.model.errors import EvacError
from evac_lab import episodes, faults, namespaces, world
from evac_lab import process as processes
from evac_lab.process import Process
from evac_lab.site_servers import Ground
from evac_lab.state import NAMESPACE_OFFSETS, LabFolder, living

PAUSE_SECONDS = 2.0
LOSS = 0.3
LOSS_SECONDS = 8.0
ONE_WAY_SECONDS = 3.0
STARVE_SECONDS = 5.0
BURNERS_A_CORE = 4
REST_SECONDS = 2.0
AFTER_SECONDS = 5.0
_WATCHERS = ("controller", "agent")
_SERVERS = ("postgres", "redis", "haproxy", "dns", "etcd")
Trouble = Callable[[LabFolder, str, random.Random], None]


def noise(table: Table, options: world.Options, seconds: float) -> None:
    """Under both profiles, `seconds` each."""
    reason = namespaces.why_not()
    if reason:
        table.section("Noise")
        table.trouble(f"no packet loss and no one-way cuts, because {reason}")
    else:
        options = replace(options, world="namespaces", offset=options.offset % NAMESPACE_OFFSETS)
    for profile in ("cautious", "lab"):
        kinds = _kinds(profile, linked=not reason)
        table.section(f"Noise for {seconds:g} s, profile {profile}: {', '.join(name for name, _ in kinds)}")
        _one(table, options, profile, kinds, seconds)


def _kinds(profile: str, linked: bool) -> Sequence[tuple[str, Trouble]]:
    found: list[tuple[str, Trouble]] = [
        ("watchers pause 2 s", _pause_watchers),
        ("servers pause 2 s", _pause_server),
        ("processors starve", _starve),
        ("a site runs a fifth of the time", _slow),
    ]
    if linked:
        found.append(("30 % loss", _lose))
    if profile == "cautious":
        found.append(("sites pause 2 s", _pause_site))
        if linked:
            found.append(("one-way cuts", _one_way))
    return found


def _one(
    table: Table, options: world.Options, profile: str, kinds: Sequence[tuple[str, Trouble]], seconds: float
) -> None:
    change = None if profile == "lab" else lambda folder: _choose(folder, profile)
    runs, lost, double = None, None, None
    try:
        with labs.lab(options, change) as folder:
            labs.settle(folder)
            _make(folder, kinds, seconds)
            time.sleep(AFTER_SECONDS)
            runs = labs.runs_made(folder)
            double = labs.double_primary_seconds(folder)
            lost = len(episodes.lost_messages(folder, Ground(folder, folder.need().topology).database))
    except (labs.NotAtRest, EvacError) as error:
        table.trouble(f"noise, profile {profile}: {error}")
    table.add(
        Figure(
            f"false_evacuations_{profile}",
            f"false evacuations, profile {profile}",
            None if runs is None else len(runs),
            "",
            0,
            "at most",
            ", ".join(runs or ()),
        ),
        Figure(f"noise_lost_{profile}", "acknowledged messages lost", lost, "", 0, "at most"),
        Figure(f"noise_double_{profile}", "two primaries accepting writes", double, "s", 0, "at most"),
    )


def _choose(folder: LabFolder, profile: str) -> None:
    path = folder.estate / "policy.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("profile: lab", f"profile: {profile}"), encoding="utf-8")


def _make(folder: LabFolder, kinds: Sequence[tuple[str, Trouble]], seconds: float) -> None:
    """One kind after another, each in a site by chance, until time is over; each at least once."""
    chance = random.Random(7)
    sites = [site.name for site in folder.need().topology.sites]
    deadline = time.monotonic() + seconds
    turn = 0
    while turn < len(kinds) or time.monotonic() < deadline:
        name, trouble = kinds[turn % len(kinds)]
        site = chance.choice(sites)
        print(f"    {name}: {site}", flush=True)
        trouble(folder, site, chance)
        time.sleep(REST_SECONDS)
        turn += 1


def _pause(pids: set[int]) -> None:
    processes.pause(pids)
    try:
        time.sleep(PAUSE_SECONDS)
    finally:
        processes.resume(pids)


def _pause_watchers(folder: LabFolder, site: str, _: random.Random) -> None:
    rows = folder.need().of_site(site)
    _pause({one.pid for one in rows if one.role in _WATCHERS and one.alive})


def _pause_server(folder: LabFolder, site: str, chance: random.Random) -> None:
    role = chance.choice(_SERVERS)
    _pause(faults.family([one for one in folder.need().of_site(site) if one.role == role]))


def _pause_site(folder: LabFolder, site: str, _: random.Random) -> None:
    _pause(living(folder.need(), folder, site))


def _slow(folder: LabFolder, site: str, _: random.Random) -> None:
    faults.slow(folder, site, for_s=PAUSE_SECONDS)


def _starve(folder: LabFolder, _: str, __: random.Random) -> None:
    """More busy programs than processors, beside the whole lab."""
    count = BURNERS_A_CORE * _cores()
    argv = (sys.executable, "-c", "while True: pass")
    busy = [Process("busy", argv, Path("/dev/null")) for _ in range(count)]
    try:
        for one in busy:
            one.start()
        time.sleep(STARVE_SECONDS)
    finally:
        for one in busy:
            one.kill()


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _lose(folder: LabFolder, site: str, _: random.Random) -> None:
    _linked(folder, site, LOSS_SECONDS, loss=LOSS)


def _one_way(folder: LabFolder, site: str, chance: random.Random) -> None:
    _linked(folder, site, ONE_WAY_SECONDS, one_way=chance.choice(("in", "out")))


def _linked(folder: LabFolder, site: str, seconds: float, loss: float = 0.0, one_way: str = "") -> None:
    faults.disturb(folder, site, loss, 0.0, one_way)
    try:
        time.sleep(seconds)
    finally:
        faults.heal(folder, site)
