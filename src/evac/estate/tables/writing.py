"""The columns of an Estate to tables: servers, replicas and racks, as CSV or Parquet.

A cell is left empty where the reader comes to the same value by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from evac.estate.format.spec import hall_of
from evac.estate.tables.bmc import bmc_columns
from evac.estate.tables.reading import UNKNOWN
from evac.model.errors import InvalidInput
from evac.model.estate import Estate, Rack
from evac.model.fleet import (
    BMC_UNKNOWN,
    ON_POOL,
    ON_SERVER,
    SERVER_STATES,
    BoolColumn,
    IndexColumn,
    IntColumn,
    NameColumn,
)
from evac.model.units import RESOURCES

TableFormat = Literal["csv", "parquet"]


def write_table(frame: pl.DataFrame, path: Path, kind: TableFormat) -> None:
    """Write a table under `path`, whose ending is added."""
    if kind == "csv":
        frame.write_csv(path.with_suffix(".csv"), line_terminator="\n")
    else:
        frame.write_parquet(path.with_suffix(".parquet"), compression="zstd", statistics=False)


def servers_frame(estate: Estate) -> pl.DataFrame:
    """One row a server. Raises InvalidInput for a server whose site is not known."""
    fleet = estate.fleet
    if len(fleet) and int(fleet.site.min()) < 0:
        name = fleet.server_name(int(fleet.site.argmin()))
        raise InvalidInput("server-without-site", f"server {name} has no site", "give every server a site")
    columns = {
        "server": names_of(fleet.name),
        "site": _named(fleet.site, [s.id for s in estate.sites]),
        "rack": _named(fleet.rack, [r.id for r in estate.racks]),
        "class": _named(fleet.server_class, [c.id for c in estate.classes]),
        "state": _named(fleet.state.astype(np.int32), list(SERVER_STATES)),
        "pool": _named(fleet.pool, [p.id for p in estate.pools]),
    }
    for resource, name in enumerate(RESOURCES):
        of_class = [c.capacity[resource] for c in estate.classes]
        known = fleet.capacity_known[:, resource]
        columns[name] = _beside_class(fleet.capacity[:, resource], known, fleet.server_class, of_class)
    of_class = [c.watts for c in estate.classes]
    columns["watts"] = _beside_class(fleet.watts, fleet.watts_known, fleet.server_class, of_class)
    columns["boot_server"] = _named(fleet.boot_server, [b.id for b in estate.boot_servers])
    bmc = np.where(fleet.bmc == BMC_UNKNOWN, -1, fleet.bmc.astype(np.int32)).astype(np.int32)
    columns["bmc"] = _named(bmc, ["no", "yes"])
    for name, texts in bmc_columns(fleet).items():
        if texts.any():
            columns[name] = names_of(texts).replace("", None)
    return pl.DataFrame([series.alias(name) for name, series in columns.items()])


def names_of(names: NameColumn) -> pl.Series:
    """UTF-8 bytes as text."""
    return pl.Series(names.tolist(), dtype=pl.Binary).cast(pl.String)


def _named(rows: IndexColumn, names: list[str]) -> pl.Series:
    """Names for indices; null for -1."""
    table = pl.Series([*names, None], dtype=pl.String)
    return table.gather(np.where(rows < 0, len(names), rows).astype(np.uint32))


def _beside_class(
    values: IntColumn, known: BoolColumn, classes: IndexColumn, of_class: list[int | None]
) -> pl.Series:
    """Numbers that differ from the class's; `unknown` in words where the class would say one."""
    defaults = np.array([*(v or 0 for v in of_class), 0], np.int64)[classes]
    has_default = np.array([*(v is not None for v in of_class), False], np.bool_)[classes]
    stated = known & ~(has_default & (defaults == values))
    numbers = pl.DataFrame({"v": values, "k": stated}).select(pl.when("k").then("v")).to_series()
    unsaid = ~known & has_default
    if not unsaid.any():
        return numbers
    words = pl.DataFrame({"n": numbers.cast(pl.String), "u": unsaid})
    return words.select(pl.when("u").then(pl.lit(UNKNOWN)).otherwise("n")).to_series()


def replicas_frame(estate: Estate) -> pl.DataFrame:
    """One row a binding."""
    replicas = estate.replicas
    names = (
        names_of(estate.fleet.name),
        pl.Series([p.id for p in estate.pools], dtype=pl.String),
        pl.Series([s.id for s in estate.sites], dtype=pl.String),
    )
    starts = np.cumsum([0, len(names[0]), len(names[1])])
    offset = np.where(
        replicas.kind == ON_SERVER, starts[0], np.where(replicas.kind == ON_POOL, starts[1], starts[2])
    )
    targets = pl.concat(names).gather((replicas.target + offset).astype(np.uint32))
    services = _named(replicas.service, [s.id for s in estate.services])
    return pl.DataFrame(
        [services.alias("service"), targets.alias("target"), pl.Series("count", replicas.count)]
    )


def racks_frame(racks: tuple[Rack, ...]) -> pl.DataFrame:
    """One row a rack."""
    halls = [None if r.hall == hall_of(r.id) else (r.hall or UNKNOWN) for r in racks]
    columns = {
        "rack": [r.id for r in racks],
        "hall": halls,
        "feeds": ["+".join(r.feeds) or None for r in racks],
        "power_budget_watts": [r.power_budget_watts for r in racks],
    }
    kinds = {"rack": pl.String, "hall": pl.String, "feeds": pl.String, "power_budget_watts": pl.Int64}
    return pl.DataFrame(columns, schema=kinds)
