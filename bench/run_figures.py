"""`python -m bench run`: every figure of the engine with its target, and the peers beside it.

--steps N (100,000): of a run of the engine; --peer-steps N (1,000): of each peer; --only PART,...: of
`engine`, `journal`, `simulator`, `peers`; --json FILE: all figures for programs. Exit status 1 where a target
is missed or was not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import bench_run, bench_store, peers
from bench.figures import Figure, Table, parts_of

PARTS = ("engine", "journal", "simulator", "peers")
SIMULATOR_SECONDS = 300.0
_RATE = re.compile(r"([\d][\d,.]*) fires/s")


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench run", description="Figures of the engine.")
    parser.add_argument("--steps", type=int, default=bench_run.STEPS)
    parser.add_argument("--peer-steps", type=int, default=peers.STEPS)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    parts = parts_of(given.only, PARTS, parser)
    table = Table(f"The engine: {given.steps:,} steps a run")
    table.open()
    ours = None
    if "engine" in parts:
        table.section("The whole engine: intent, fence check, check, execute, observe, result")
        for figure in bench_run.figures(given.steps):
            table.add(figure)
            ours = ours or figure.value
    if "journal" in parts:
        table.section("The journal alone: two records a step")
        for figure in bench_store.figures(given.steps * 20):
            table.add(figure)
    if "simulator" in parts:
        table.section("The simulator, one core")
        table.add(*_simulator(table))
    if "peers" in parts:
        table.section("Others, on this machine in this run, each at its best set-up; ours on SQLite")
        peers.compare(table, ours, given.peer_steps)
    return table.close(given.json)


def _simulator(table: Table) -> list[Figure]:
    """Simulated fires a second, as its own program prints them."""
    words = "simulated fires a second, one core"
    if importlib.util.find_spec("bench.bench_sim") is None:
        table.trouble("bench/bench_sim.py is not there")
        return [Figure("simulated_fires", words, None, "fires/s", 300)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.bench_sim"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SIMULATOR_SECONDS,
            cwd=Path(__file__).resolve().parents[1],
        )
    except subprocess.TimeoutExpired:
        table.trouble(f"bench/bench_sim.py did not end in {SIMULATOR_SECONDS:g} s")
        return [Figure("simulated_fires", words, None, "fires/s", 300)]
    found = _RATE.search(done.stdout)
    for line in done.stdout.splitlines():
        print(f"    {line}", flush=True)
    if found is None:
        table.trouble(f"bench/bench_sim.py said no rate: {(done.stdout + done.stderr)[-300:]}")
    value = float(found.group(1).replace(",", "")) if found is not None else None
    return [Figure("simulated_fires", words, value, "fires/s", 300, note="a quiet fire")]
