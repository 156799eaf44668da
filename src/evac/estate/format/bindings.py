"""Where replicas run, as stated in YAML files or a table, and whether they fit.

Works on columns and imports no table library, because small estates have no tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evac.derive.pools import pools_off
from evac.estate.format.problems import Problems, shown
from evac.estate.format.reading import Reader
from evac.model.diagnostic import Place
from evac.model.estate import Service
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    DARK,
    ON_POOL,
    ON_SERVER,
    Fleet,
    IntColumn,
    NameColumn,
    Replicas,
    empty_fleet,
    np,
    pools_of,
)
from evac.model.records import dataclass
from evac.model.units import RESOURCE_WORDS

if TYPE_CHECKING:
    from evac.estate.tables.reading import Table


@dataclass(frozen=True, slots=True, eq=False)
class ServerNames:
    """Lookup of servers by name: sorted names as bytes."""

    names: NameColumn

    def has(self, name: str) -> bool:
        key = name.encode()
        if not len(self.names) or len(key) > self.names.dtype.itemsize:
            return False
        row = int(np.searchsorted(self.names, np.bytes_(key)))
        return row < len(self.names) and bytes(self.names[row]) == key


@dataclass(frozen=True, slots=True, eq=False)
class ServerRows:
    """A fleet, and the table row of each server."""

    fleet: Fleet
    table: Table | None
    rows: IntColumn


def no_servers() -> ServerRows:
    return ServerRows(empty_fleet(), None, np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaRows:
    """Bindings, and the table row of each (-1: a YAML file)."""

    replicas: Replicas
    table: Table | None
    rows: IntColumn


def stated_in_yaml(values: dict[str, Any], reader: Reader) -> IntColumn:
    """(5, K): service, kind, target, count and -1 for the counts in YAML files."""
    services = {service.id: row for row, service in enumerate(values["services"])}
    targets = {site.id: (AT_SITE, row) for row, site in enumerate(values["sites"])}
    targets |= {pool.id: (ON_POOL, row) for row, pool in enumerate(values["pools"])}
    rows = [
        (services[p.service], *targets[p.target], p.count, -1)
        for p in reader.placements
        if p.service in services and p.target in targets
    ]
    return np.array(rows, np.int64).reshape(-1, 5).T


def bindings(parts: list[IntColumn], table: Table | None) -> ReplicaRows:
    """Bindings sorted by service, kind and target. `parts` (5, K): service, kind, target, count, row."""
    joined = np.concatenate(parts, axis=1)
    key = (joined[0] * 3 + joined[1]) * (int(joined[2].max(initial=0)) + 1) + joined[2]
    service, kind, target, count, row = joined[:, np.argsort(key, kind="stable")]
    replicas = Replicas(service.astype(np.int32), kind.astype(np.uint8), target.astype(np.int32), count)
    return ReplicaRows(replicas, table, row)


def _check_servers_are_on(fleet: Fleet, rows: ReplicaRows, problems: Problems) -> None:
    if rows.table is None:
        return
    off = (rows.replicas.kind == ON_SERVER) & (rows.replicas.count > 0) & (rows.rows >= 0)
    off[off] = np.isin(fleet.state[rows.replicas.target[off]], (DARK, CONDEMNED))
    mask = np.zeros(len(rows.table), np.bool_)
    mask[rows.rows[off]] = True
    rows.table.report(
        problems,
        mask,
        "target",
        "replicas-on-dark-server",
        "{} is not on, so the replicas placed on it count as down",
        "correct the state of the server, or place the replicas where they run",
    )


def _check_pools_are_on(fleet: Fleet, rows: ReplicaRows, pools: tuple[Any, ...], reader: Reader) -> None:
    placed = rows.replicas.target[(rows.replicas.kind == ON_POOL) & (rows.replicas.count > 0)]
    off = pools_off(fleet, len(pools))
    for row in np.unique(placed[off[placed]]).tolist():
        reader.problems.add(
            "replicas-on-dark-server",
            f"no server of {shown(pools[row].id)} is on, so the replicas placed in it count as down",
            Place(*reader.places[f"pools/{pools[row].id}"]),
            "correct the state of its servers, or place the replicas where they run",
        )
    listed = np.bincount(fleet.pool[fleet.pool >= 0], minlength=len(pools))
    off[placed] = False
    for row in np.flatnonzero(off).tolist():
        reader.problems.add(
            "pool-is-off",
            f"{shown(pools[row].id)} has no capacity: {_none_on(int(listed[row]))}",
            Place(*reader.places[f"pools/{pools[row].id}"]),
            "list every server of the pool with its state, or none of them",
        )


def _none_on(servers: int) -> str:
    return "its only server is off" if servers == 1 else f"none of its {servers:,} servers is on"


def with_counts(services: tuple[Service, ...], rows: ReplicaRows, reader: Reader) -> tuple[Service, ...]:
    """Services with nominal counts filled in from the table; notes counts that differ."""
    if rows.table is None:
        return services
    placed = totals(rows.replicas, len(services))
    found = []
    for service, count in zip(services, placed.tolist(), strict=True):
        if service.replicas is None and count and f"services/{service.id}/replicas" not in reader.places:
            service = replace(service, replicas=count)
        elif count and service.replicas is not None and service.replicas != count:
            message = f"{shown(service.id)} has {service.replicas:,} replicas, but {count:,} are placed"
            place = Place(*reader.places[f"services/{service.id}/replicas"])
            reader.problems.add(
                "replicas-do-not-add-up", message, place, "correct either the number or the table"
            )
        found.append(service)
    return tuple(found)


def totals(replicas: Replicas, services: int) -> IntColumn:
    """(S,) replicas placed per service."""
    return np.bincount(
        replicas.service, weights=replicas.count.astype(np.float64), minlength=services
    ).astype(np.int64)


def check_room(
    services: tuple[Service, ...],
    pools: tuple[Any, ...],
    servers: ServerRows,
    rows: ReplicaRows,
    reader: Reader,
) -> None:
    """Warns about servers and pools beyond capacity, and replicas too close together or on servers that are
    off.
    """
    replicas = rows.replicas
    _check_servers_are_on(servers.fleet, rows, reader.problems)
    _check_pools_are_on(servers.fleet, rows, pools, reader)
    _check_spread(services, rows, reader.problems)
    demand = np.array([[amount or 0 for amount in s.demand] for s in services], np.float64).reshape(-1, 4)
    fleet = servers.fleet
    pool_of = pools_of(replicas, fleet)
    for resource, word in enumerate(RESOURCE_WORDS):
        on = replicas.kind == ON_SERVER
        used = _used(replicas, on, replicas.target, demand[:, resource], len(fleet))
        over = (used > fleet.capacity[:, resource]) & fleet.capacity_known[:, resource]
        if servers.table is not None and over.any():
            mask = np.zeros(len(servers.table), np.bool_)
            mask[servers.rows[over]] = True
            message = f"the replicas on {{}} demand more {word} than it has"
            servers.table.report(
                reader.problems, mask, "server", "server-over-committed", message, "move some of them"
            )
    for resource, word in enumerate(RESOURCE_WORDS):
        used = _used(replicas, pool_of >= 0, pool_of, demand[:, resource], len(pools))
        for pool, need in zip(pools, used.tolist(), strict=True):
            room = pool.capacity[resource]
            if room is not None and need * 1_000 > room * pool.quota_permille:
                message = f"the replicas in {shown(pool.id)} demand {need / max(room, 1):.0%} of its {word}"
                place = Place(*reader.places[f"pools/{pool.id}"])
                reader.problems.add(
                    "pool-over-committed", message, place, "raise the pool's totals, or correct the demands"
                )


def _used(replicas: Replicas, chosen: Any, target: Any, demand: Any, targets: int) -> Any:
    weights = replicas.count[chosen].astype(np.float64) * demand[replicas.service[chosen]]
    return np.bincount(target[chosen], weights=weights, minlength=targets)


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
        "{} has more replicas than their spread allows",
        hint,
    )
