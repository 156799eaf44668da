"""`python -m bench lab`: fires, cuts, flaps and noise in the lab, and Patroni alone beside them.

--fires N: of each kind (5; FULL=1: 20); --minutes M: of noise under each profile (1; FULL=1: 10);
--patroni-fires N: with each set of timers (3); --world loopback or namespaces (root): of the fires;
--offset N: the first lab to try (50); --clients N (20); --only PART,...: of `fires`, `patroni`, `replica`,
`cuts`, `noise`, `wan`; --json FILE. Noise and `wan` take network namespaces where they can. Exit status 1
where a target is missed or was not measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bench import lab_cuts, lab_fires, lab_losses, lab_noise, lab_patroni, labs
from bench.figures import Table, parts_of
from evac_lab import doctor
from evac_lab.world import Options

PARTS = ("fires", "patroni", "replica", "cuts", "noise", "wan")
CLIENTS = 20


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    full = bool(os.environ.get("FULL"))
    parser = argparse.ArgumentParser(prog="python -m bench lab", description="Figures of the lab.")
    parser.add_argument("--fires", type=int, default=20 if full else 5)
    parser.add_argument("--minutes", type=float, default=10 if full else 1)
    parser.add_argument("--patroni-fires", type=int, default=3)
    parser.add_argument("--world", choices=("loopback", "namespaces"), default="loopback")
    parser.add_argument("--offset", type=int, default=50)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    parts = parts_of(given.only, PARTS, parser)
    table = Table(f"The lab: three real sites, {given.clients} clients, {given.world} world")
    table.open()
    if missing := doctor.missing_programs():
        names = ", ".join(one.program for one in missing)
        table.trouble(f"not installed here: {names}; see evac lab doctor")
        return table.close(given.json) or 1
    offset = labs.free_offset(given.offset) if given.world == "loopback" else given.offset
    options = Options(given.world, offset, given.clients)
    if "fires" in parts:
        lab_fires.primaries(table, options, given.fires)
    if "patroni" in parts:
        lab_patroni.compare(table, labs.free_offset(given.offset), given.patroni_fires)
    if "replica" in parts:
        lab_fires.replicas(table, options, max(1, given.fires // 4))
    if "cuts" in parts:
        lab_cuts.cuts(table, options, max(1, given.fires // 4))
        lab_cuts.flaps(table, options, max(1, given.fires // 2))
    if "noise" in parts:
        lab_noise.noise(table, options, given.minutes * 60)
    if "wan" in parts:
        lab_losses.measure(table, options)
    return table.close(given.json)
