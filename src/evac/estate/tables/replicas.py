"""The table `replicas`: names joined to indices, by column."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl

from evac.estate.format.problems import Problems
from evac.estate.tables.reading import Table, mask_of, text_of, whole_numbers
from evac.estate.tables.servers import lookup
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, BoolColumn, Fleet, IndexColumn, IntColumn

COLUMNS: Final = ("service", "target", "count")
_NAMES_COMPARED: Final = 5_000


def stated_in_table(
    table: Table, values: dict[str, Any], fleet: Fleet, in_yaml: IntColumn, problems: Problems
) -> IntColumn:
    """(5, K) service, kind, target, count, row of the table. Wrong rows are noted and left out.

    `in_yaml`: the same of the YAML files; a service may not be placed in both.
    """
    for column in ("service", "target", "count"):
        empty = mask_of(table.frame[column].is_null())
        table.report(
            problems, empty, column, "cell-missing", f"a row without {column}", "every row says all three"
        )
    service, _ = lookup(table, "service", [s.id for s in values["services"]], problems)
    kind, target = _targets(table, values, fleet, problems)
    count, known, _ = whole_numbers(table, "count", problems)
    later = _said_before(service, kind, target, len(fleet) + len(values["pools"]) + len(values["sites"]))
    table.report(
        problems, later, "target", "row-twice", "a second row for the same service on {}", "add them up"
    )
    usable = (service >= 0) & (target >= 0) & known & (count > 0) & ~later
    rows = np.flatnonzero(usable)
    placed = np.stack([service[rows], kind[rows], target[rows], count[rows], rows]).astype(np.int64)
    _note_stated_twice(table, placed, in_yaml, problems)
    return placed


def _said_before(service: IndexColumn, kind: IntColumn, target: IntColumn, targets: int) -> BoolColumn:
    """(V,) rows whose service and target an earlier row has; rows with a dangling name are left out."""
    named = np.flatnonzero((service >= 0) & (target >= 0))
    key = (service[named].astype(np.int64) * 3 + kind[named]) * max(targets, 1) + target[named]
    order = np.argsort(key, kind="stable")
    later = np.zeros(len(service), np.bool_)
    later[named[order[1:]]] = key[order[1:]] == key[order[:-1]]
    return later


def _targets(
    table: Table, values: dict[str, Any], fleet: Fleet, problems: Problems
) -> tuple[IntColumn, IntColumn]:
    """(V,) kind and index of each target; -1 and noted where nothing has the name."""
    pools = _named([pool.id.encode() for pool in values["pools"]], ON_POOL)
    sites = _named([site.id.encode() for site in values["sites"]], AT_SITE)
    known = pl.concat([_named(fleet.name.tolist(), ON_SERVER), pools, sites]).unique("name", keep="first")
    cells = text_of(table, "target")
    found = cells.cast(pl.Binary).to_frame("name").join(known, on="name", how="left", maintain_order="left")
    bad = mask_of(found["row"].is_null() & cells.is_not_null())
    if bad.any():
        names = [*sites["name"], *pools["name"], *fleet.name[:_NAMES_COMPARED].tolist()]
        first = str(cells[int(np.flatnonzero(bad)[0])])
        near = problems.suggest(first, [name.decode() for name in names])
        table.report(problems, bad, "target", "name-unknown", "no server, pool or site is named {}", near)
    return found["kind"].fill_null(-1).to_numpy(), found["row"].fill_null(-1).to_numpy()


def _named(names: list[bytes], kind: int) -> pl.DataFrame:
    count = len(names)
    columns = {"name": names, "kind": np.full(count, kind, np.int64), "row": np.arange(count, dtype=np.int64)}
    return pl.DataFrame(columns, schema={"name": pl.Binary, "kind": pl.Int64, "row": pl.Int64})


def _note_stated_twice(table: Table, placed: IntColumn, in_yaml: IntColumn, problems: Problems) -> None:
    stated = np.zeros(len(table), np.bool_)
    stated[placed[4][np.isin(placed[0], in_yaml[0])]] = True
    hint = "let the table say where, and write a plain number or nothing in YAML"
    message = "replicas of {} are placed in YAML too"
    table.report(problems, stated, "service", "replicas-stated-twice", message, hint)
