"""Forecasts of restores next to what they really take, with real tools on data of three sizes.

The forecast for each size uses what was measured of the smaller ones, with the code that plans use.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Table
from evac.drivers.pg_basebackup.driver import PgBasebackupDriver
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.port import Action
from evac.drivers.restic.driver import ResticDriver
from evac.model.backup import BackupFacts, CopySeen, MeasuredRestore
from evac.model.restore_times import measured_restores
from tests.contract.adapters.copy_folder import world
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.pgbackrest import sql, store
from tests.contract.adapters.restic import copies

LONG_S = 3_600.0
WITHIN = 20
"""Target: how far a forecast may be from the truth, in percent."""
FILLER = "CREATE TABLE IF NOT EXISTS filler (id bigint, body text)"
ROWS = (
    "INSERT INTO filler SELECT g, string_agg(md5(random()::text || g), '') "
    "FROM generate_series(1, {}) g, generate_series(1, 28) GROUP BY g"
)
ROW_BYTES = 960
Grow = Callable[[int], None]


def forecasts(table: Table, folder: Path, sizes: Sequence[int], times: int) -> None:
    """sizes: bytes, the smallest first."""
    for name, begin in (("restic", _restic), ("pg_basebackup", _base), ("pgBackRest", _pgbackrest)):
        table.section(f"{name}: forecast of a restore, and what it took")
        with ExitStack() as stack:
            below = folder / name
            below.mkdir(mode=0o755)
            driver, action, place, grow = begin(stack, below)
            _compare(table, name, _measured(driver, action, place, grow, sizes, times))


def _measured(
    driver: Any, action: Action, place: Path, grow: Grow, sizes: Sequence[int], times: int
) -> Iterator[tuple[int, MeasuredRestore]]:
    """For each size, the bytes that are listed before a restore, and the median of several restores."""

    async def once() -> tuple[int, int]:
        try:
            restored = await driver.restore(action, LONG_S, "", str(place), None)
            return restored.took_ms, restored.bytes
        finally:
            await driver.clean_up(action, LONG_S, str(place))

    for at, size in enumerate(sizes, 1):
        grow(size)
        asyncio.run(driver.take(action, LONG_S))
        listed = asyncio.run(driver.list_copies(action, LONG_S)).copies[-1].bytes
        found = [asyncio.run(once()) for _ in range(times)]
        took_ms = int(median(one for one, _ in found))
        yield listed, MeasuredRestore("db", "near", driver.name, found[-1][1], took_ms, at)


def _compare(table: Table, name: str, measured: Iterator[tuple[int, MeasuredRestore]]) -> None:
    before: list[MeasuredRestore] = []
    for listed, truth in measured:
        seen = CopySeen("db", "near", 1, 1, listed)
        found = measured_restores(BackupFacts((seen,), measured=tuple(before)))
        words = f"{listed >> 20:,} MiB: took {truth.took_ms / 1_000:.2f} s"
        if found:
            ((_, _, takes_ms),) = found
            off = 100 * (takes_ms / truth.took_ms - 1)
            words += f", forecast {takes_ms / 1_000:.2f} s ({off:+.0f} %)"
            # From one size alone nothing tells the start from the rate: then the forecast is in proportion.
            target = WITHIN if len(before) > 1 else None
            table.add(Figure(f"forecast-{name}-{len(before)}", words, abs(off), "%", target, "at most"))
        else:
            table.add(Figure(f"forecast-{name}-0", words, truth.took_ms / 1_000, "s"))
        before.append(truth)


def _restic(stack: ExitStack, folder: Path) -> tuple[Any, Action, Path, Grow]:
    made = stack.enter_context(copies(folder))

    def grow(size: int) -> None:
        shutil.rmtree(made.data)
        made.data.mkdir()
        chosen = random.Random(size)
        for number in range(max(1, size >> 20)):
            (made.data / f"file-{number}").write_bytes(chosen.randbytes(1 << 20))

    return ResticDriver(), made.action(), folder / "place", grow


def _rows_for(size: int, now: int) -> str:
    return ROWS.format(max(1, (size - now) // ROW_BYTES))


def _base(stack: ExitStack, folder: Path) -> tuple[Any, Action, Path, Grow]:
    made = stack.enter_context(world(folder, PostgresSource))
    server = made.source
    assert isinstance(server, PostgresSource)
    server.sql(FILLER)

    def grow(size: int) -> None:
        server.sql(_rows_for(size, int(server.sql("SELECT pg_total_relation_size('filler')"))))

    return PgBasebackupDriver(), made.action(), made.place, grow


def _pgbackrest(stack: ExitStack, folder: Path) -> tuple[Any, Action, Path, Grow]:
    made = stack.enter_context(store(folder, runs=True))
    sql(made.folder, made.port, FILLER)

    def grow(size: int) -> None:
        now = int(sql(made.folder, made.port, "SELECT pg_total_relation_size('filler')"))
        sql(made.folder, made.port, _rows_for(size, now))
        sql(made.folder, made.port, "CHECKPOINT")

    return PgbackrestDriver(), made.action(), made.places / "here", grow
