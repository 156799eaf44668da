"""Credits: a ledger computed and recomputed at three sizes, with its growth. `python -m bench credit`.

Accounts are generated, twelve services each. One row in five gets a credit, as an outage of three services
gives. Each size runs in a process of its own, so that its memory is its own. The target is 50 million
accounts in 40 s within 4 GiB on two cores; a size below that has its share of the 40 s as target.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import Table, median, peak_mib

SIZES: Final = (500_000, 1_000_000, 5_000_000)
SERVICES: Final = 12
FILE_ACCOUNTS: Final = 250_000
TARGET_ACCOUNTS: Final = 50_000_000
LEDGER_S: Final = 40.0
RECOMPUTED_S: Final = 60.0
MEMORY_GIB: Final = 4.0
_ALONE: Final = (
    "import json, sys; from pathlib import Path; from bench.bench_credit import measure; "
    "print(json.dumps(measure(Path(sys.argv[1]))))"
)
RULES: Final = """credit_rules: 1
id: bench
zone: "+09:00"
rules:
  - {id: ten-times, services: [s0, s1], paid: true, pro_rata: {times: 10, unit: 1 h}, rounding: up}
  - id: by-uptime
    services: [s2]
    paid: true
    tiers: [{uptime_below: 99.9 %, share: 10 %}, {uptime_below: 95 %, share: 30 %}]
  - {id: never-long-enough, services: [s3], paid: true, when: {continuous: 9 d}, fixed: 1000 KRW}
"""


@dataclass(slots=True)
class Clock:
    """Time by the wall and of all processors: a busy machine makes the first one long, and the second not."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def add(self, since: Clock) -> None:
        """What passed since then."""
        self.wall_s += time.perf_counter() - since.wall_s
        self.cpu_s += time.process_time() - since.cpu_s


def generate(folder: Path, accounts: int) -> None:
    """Parquet files with twelve rows an account; the same for the same number."""
    import polars as pl

    folder.mkdir(parents=True)
    services = pl.DataFrame({"service": [f"s{i}" for i in range(SERVICES)], "step": range(SERVICES)})
    for first in range(0, accounts, FILE_ACCOUNTS):
        ids = pl.int_range(first, min(accounts, first + FILE_ACCOUNTS), eager=True).alias("number")
        rows = pl.DataFrame(ids).join(services, how="cross")
        mixed = (pl.col("number") * 7_919 + pl.col("step") * 104_729) % 99_991
        rows.select(
            pl.format("a{}", pl.col("number").cast(pl.String).str.zfill(9)).alias("account"),
            "service",
            plan=pl.when(mixed % 3 == 0).then(pl.lit("plus")).otherwise(pl.lit("basic")),
            fee=pl.when(mixed % 5 == 0).then(0).otherwise(mixed + 900),
            currency=pl.lit("KRW"),
            cycle=pl.lit("2022-10"),
            tax_bp=pl.lit(1_000),
        ).write_parquet(folder / f"accounts-{first:012}.parquet", compression="lz4")


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of each stage, and the most memory of this process. folder: has `accounts` and `rules.yaml`."""
    from evac.app.credit import computing, intake
    from evac.app.credit.case import Case, load
    from evac.credit.windows import Window, Windows

    case, begin = Case(folder / "case"), 1_665_815_580_000
    windows = Windows(tuple(Window(f"w{i}", f"s{i}", begin, begin + (i + 1) * 5_340_000) for i in range(4)))
    recomputing = Clock()
    recompute = computing.recompute

    def timed(*given: Any) -> None:
        started = Clock.now()
        recompute(*given)
        recomputing.add(started)

    computing.recompute = timed
    with case.changing(create=True):
        started, taken_in, ledger = Clock.now(), Clock(), Clock()
        digest, partitions = intake.take_in(case, [folder / "accounts"])
        taken_in.add(started)
        rules = load(str(folder / "rules.yaml"))
        started = Clock.now()
        document = computing.compute(case, rules, windows, digest, partitions)
        ledger.add(started)
    return {
        "rows": document["accounts"]["rows"],
        "lines": document["lines"],
        "intake": [taken_in.wall_s, taken_in.cpu_s],
        "ledger": [ledger.wall_s - recomputing.wall_s, ledger.cpu_s - recomputing.cpu_s],
        "recomputed": [recomputing.wall_s, recomputing.cpu_s],
        "memory_gib": peak_mib() / 2**10,
    }


def _size(table: Table, accounts: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="evac-bench-credit-"))
    try:
        (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
        generate(folder / "accounts", accounts)
        command = [sys.executable, "-c", _ALONE, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    share = accounts / TARGET_ACCOUNTS
    note = f"{found['rows']:,} rows, {found['lines']:,} lines"
    for stage, words, target in (
        ("intake", "check and partition", None),
        ("ledger", "ledger", LEDGER_S * share),
        ("recomputed", "recomputed by the second engine", RECOMPUTED_S * share),
    ):
        wall_s, cpu_s = found[stage]
        about = f"{cpu_s:.2f} s of processor" + (f"; {note}" if stage == "ledger" else "")
        table.add(median(f"{stage}-{accounts}", words, [wall_s], "s", target, "at most", about))
    table.add(median(f"memory-{accounts}", "memory", [found["memory_gib"]], "GiB", MEMORY_GIB, "at most"))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench credit", description="Figures of credits.")
    parser.add_argument("--accounts", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    table = Table(
        f"Credits: {', '.join(f'{size:,}' for size in given.accounts)} accounts x {SERVICES} services"
    )
    table.open()
    found = []
    for size in given.accounts:
        table.section(f"{size:,} accounts")
        found.append((size, _size(table, size)))
    if len(found) > 1:
        table.section("growth")
        (small, few), (large, many) = found[0], found[-1]
        for stage in ("intake", "ledger", "recomputed"):
            times = many[stage][1] / few[stage][1] / (large / small)
            words = f"{stage}: processor for each account, largest to smallest"
            table.add(median(f"growth-{stage}", words, [times], "times"))
    return table.close(given.json)
