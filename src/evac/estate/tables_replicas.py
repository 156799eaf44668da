"""Where replicas run: the table `replicas` and the counts of the YAML files, as one set of columns.

Names are joined to indices by column; demands are added up by column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from evac.estate.problems import Problems, shown
from evac.estate.reading import Reader
from evac.estate.tables import Table, mask_of, text_of, whole_numbers
from evac.estate.tables_servers import ServerRows, lookup
from evac.model.diagnostic import Place
from evac.model.estate import Service
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, BoolColumn, Fleet, IndexColumn, IntColumn, Replicas
from evac.model.units import RESOURCE_WORDS

COLUMNS: Final = ("service", "target", "count")


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaRows:
    """Bindings, and for each the row of the table it was read from (-1: a YAML file)."""

    replicas: Replicas
    table: Table | None
    rows: IntColumn


def read_replicas(
    table: Table | None, values: dict[str, Any], servers: ServerRows, reader: Reader
) -> ReplicaRows:
    """Every binding, sorted by service, kind and target. Wrong rows are noted and left out."""
    parts = [_from_yaml(values, reader)]
    if table is not None and not reader.facts.is_expired("replicas"):
        parts.append(_from_table(table, values, servers.fleet, reader.problems))
        _stated_twice(parts, table, reader)
    joined = np.concatenate(parts, axis=1)
    key = (joined[0] * 3 + joined[1]) * (int(joined[2].max(initial=0)) + 1) + joined[2]
    service, kind, target, count, row = joined[:, np.argsort(key, kind="stable")]
    replicas = Replicas(service.astype(np.int32), kind.astype(np.uint8), target.astype(np.int32), count)
    return ReplicaRows(replicas, table, row)


def _from_yaml(values: dict[str, Any], reader: Reader) -> IntColumn:
    """(5, K) service, kind, target, count, -1 of the counts in YAML files."""
    services = {service.id: row for row, service in enumerate(values["services"])}
    targets = {site.id: (AT_SITE, row) for row, site in enumerate(values["sites"])}
    targets |= {pool.id: (ON_POOL, row) for row, pool in enumerate(values["pools"])}
    rows = [
        (services[p.service], *targets[p.target], p.count, -1)
        for p in reader.placements
        if p.service in services and p.target in targets
    ]
    return np.array(rows, np.int64).reshape(-1, 5).T


def _from_table(table: Table, values: dict[str, Any], fleet: Fleet, problems: Problems) -> IntColumn:
    """(5, K) service, kind, target, count, row of the table."""
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
    return np.stack([service[rows], kind[rows], target[rows], count[rows], rows]).astype(np.int64)


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
        near = problems.suggest(
            str(cells[int(np.flatnonzero(bad)[0])]), [n.decode() for n in known["name"].head(5_000)]
        )
        table.report(problems, bad, "target", "name-unknown", "no server, pool or site is named {}", near)
    return found["kind"].fill_null(-1).to_numpy(), found["row"].fill_null(-1).to_numpy()


def _named(names: list[bytes], kind: int) -> pl.DataFrame:
    count = len(names)
    columns = {"name": names, "kind": np.full(count, kind, np.int64), "row": np.arange(count, dtype=np.int64)}
    return pl.DataFrame(columns, schema={"name": pl.Binary, "kind": pl.Int64, "row": pl.Int64})


def _stated_twice(parts: list[IntColumn], table: Table, reader: Reader) -> None:
    both = np.isin(parts[1][0], parts[0][0])
    stated = np.zeros(len(table), np.bool_)
    stated[parts[1][4][both]] = True
    hint = "let the table say where, and write a plain number or nothing in YAML"
    message = "replicas of {} are placed in YAML too"
    table.report(reader.problems, stated, "service", "replicas-stated-twice", message, hint)


def with_counts(services: tuple[Service, ...], rows: ReplicaRows, reader: Reader) -> tuple[Service, ...]:
    """Services whose nominal count is filled in from the table; a count that differs is noted."""
    if rows.table is None:
        return services
    placed = _totals(rows.replicas, len(services))
    found = []
    for service, count in zip(services, placed.tolist(), strict=True):
        if service.replicas is None and count and f"services/{service.id}/replicas" not in reader.places:
            service = replace(service, replicas=count)
        elif count and service.replicas is not None and service.replicas != count:
            message = f"{shown(service.id)} has {service.replicas:,} replicas, but {count:,} are placed"
            place = Place(*reader.places[f"services/{service.id}/replicas"])
            reader.problems.add("replicas-do-not-add-up", message, place, "correct the number, or the table")
        found.append(service)
    return tuple(found)


def _totals(replicas: Replicas, services: int) -> IntColumn:
    return np.bincount(
        replicas.service, weights=replicas.count.astype(np.float64), minlength=services
    ).astype(np.int64)


def check_room(services: tuple[Service, ...], pools: tuple[Any, ...], servers: ServerRows, rows: ReplicaRows,
               reader: Reader) -> None:  # fmt: skip
    """Warn of servers and pools that hold more than they have, and of replicas too close together."""
    replicas = rows.replicas
    _check_spread(services, rows, reader.problems)
    demand = np.array([[amount or 0 for amount in s.demand] for s in services], np.float64).reshape(-1, 4)
    fleet = servers.fleet
    for resource, word in enumerate(RESOURCE_WORDS):
        on = replicas.kind == ON_SERVER
        used = _used(replicas, on, demand[:, resource], len(fleet))
        over = (used > fleet.capacity[:, resource]) & fleet.capacity_known[:, resource]
        if servers.table is not None and over.any():
            mask = np.zeros(len(servers.table), np.bool_)
            mask[servers.rows[over]] = True
            message = f"the replicas on {{}} demand more {word} than it has"
            servers.table.report(
                reader.problems, mask, "server", "server-over-committed", message, "move some of them"
            )
    for resource, word in enumerate(RESOURCE_WORDS):
        used = _used(replicas, replicas.kind == ON_POOL, demand[:, resource], len(pools))
        for pool, need in zip(pools, used.tolist(), strict=True):
            room = pool.capacity[resource]
            if room is not None and need * 1_000 > room * pool.quota_permille:
                message = f"the replicas in {shown(pool.id)} demand {need / max(room, 1):.0%} of its {word}"
                place = Place(*reader.places[f"pools/{pool.id}"])
                reader.problems.add(
                    "pool-over-committed", message, place, "raise the pool's totals, or correct the demands"
                )


def _used(replicas: Replicas, chosen: Any, demand: Any, targets: int) -> Any:
    weights = replicas.count[chosen].astype(np.float64) * demand[replicas.service[chosen]]
    return np.bincount(replicas.target[chosen], weights=weights, minlength=targets)


def _check_spread(services: tuple[Service, ...], rows: ReplicaRows, problems: Problems) -> None:
    if rows.table is None:
        return
    most = np.array([*(s.spread.per_server for s in services), 0], np.int64)
    replicas = rows.replicas
    close = (replicas.kind == ON_SERVER) & (replicas.count > most[replicas.service]) & (rows.rows >= 0)
    mask = np.zeros(len(rows.table), np.bool_)
    mask[rows.rows[close]] = True
    hint = "spread them out, or raise spread: {per_server: ...}"
    rows.table.report(
        problems,
        mask,
        "target",
        "replicas-exceed-servers",
        "more replicas on {} than their spread allows",
        hint,
    )
