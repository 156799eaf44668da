"""`python -m bench boot`: every figure of the cold start with its target, on a simulated fleet.

--servers N (32000); --only PART,...: of the parts below; --json FILE: all figures for programs. Targets of
time are for 32,000 servers; for fewer they shrink in proportion. Exit status 1 where one is missed or was not
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import boot_peers, boot_power_on, boot_replace, boot_wave
from bench.figures import Figure, Table, parts_of

SERVERS = 32_000
PARTS: Mapping[str, tuple[str, Callable[[int], Iterator[Figure]]]] = {
    "power-on": ("No limits but politeness to each controller", boot_power_on.figures),
    "wave": ("With power and boot limits", boot_wave.figures),
    "replaced": ("Another plan in the middle of the wave", boot_replace.figures),
    "peers": ("What people would script today, power-on alone", boot_peers.figures),
}


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench boot", description="Figures of the cold start.")
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    parts = parts_of(given.only, PARTS, parser)
    table = Table(f"The cold start: {given.servers:,} simulated servers")
    table.open()
    for part in parts:
        title, figures = PARTS[part]
        table.section(title)
        for figure in figures(given.servers):
            table.add(figure)
    return table.close(given.json)
