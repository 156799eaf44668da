"""What is to be packed and where, and what came out. Values only: no kernel is loaded here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.errors import InvalidInput

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

UNBOUNDED: Final = 1 << 40
"""A spread cap that never binds; larger values are cut down to it."""
QUANTITY_MAX: Final = 1 << 48
"""Largest free room or demand of one row, so that sums and scaled shares stay within int64."""


def _no_rows() -> Int64Array:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PackingProblem:
    """S services, V rows (servers, or pools that schedule themselves), R resources, P pools.

    free (V, R): room left on a row in base units, may be negative where survivors fill it already.
    rack, feed, site (V): domain of a row, -1 none. pool (V): its group, site x class. is_pool (V):
    the row schedules itself, so spread by server, rack and feed and conflict groups do not bind on it,
    and what stands there counts for the cap of its site only.
    demand (S, R): of one replica. count (S): replicas wanted now. max_per_server, rack_cap,
    feed_cap, site_cap (S): at most so many replicas of the service in one such domain, those of
    present_* included. eligible (S, P). group (S): at most one replica of a conflict group stands
    on a server, -1 none. weight (S): worth of one replica. tier (S): 0 is served first.
    present_service, present_server, present_count: replicas that already stand (their demand is no
    longer in `free`) and count for spread and groups. They are never moved.
    """

    free: Int64Array
    rack: Int32Array
    feed: Int32Array
    site: Int32Array
    pool: Int32Array
    is_pool: BoolArray
    demand: Int64Array
    count: Int64Array
    max_per_server: Int64Array
    rack_cap: Int64Array
    feed_cap: Int64Array
    site_cap: Int64Array
    eligible: BoolArray
    group: Int32Array
    weight: Int64Array
    tier: Int64Array
    present_service: Int64Array = field(default_factory=_no_rows)
    present_server: Int64Array = field(default_factory=_no_rows)
    present_count: Int64Array = field(default_factory=_no_rows)

    @property
    def servers(self) -> int:
        return int(self.free.shape[0])

    @property
    def services(self) -> int:
        return int(self.demand.shape[0])

    @property
    def resources(self) -> int:
        return int(self.free.shape[1])

    @property
    def pools(self) -> int:
        return int(self.eligible.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Rows (service, server, count) sorted by service, then server; placed (S): replicas per service.

    work: units spent on improvement (a unit is a million tests of one service against one server).
    """

    service: Int32Array
    server: Int32Array
    count: Int64Array
    placed: Int64Array
    work: int = 0

    def weight(self, problem: PackingProblem) -> int:
        """Summed weight of what was placed."""
        return int((self.placed * problem.weight).sum())


def check_problem(problem: PackingProblem) -> None:
    """Raise InvalidInput (code packing-input) naming the first array that breaks the contract."""
    for name, shape in _shapes(problem).items():
        found = getattr(problem, name).shape
        _demand(found == shape, name, f"has shape {found}; expected {shape}")
    for name in ("rack", "feed", "site", "group"):
        _demand(bool((getattr(problem, name) >= -1).all()), name, "holds a number below -1")
    pool = problem.pool
    _demand(bool(((pool >= 0) & (pool < problem.pools)).all()), "pool", "names a pool that `eligible` lacks")
    for name in ("count", "max_per_server", "rack_cap", "feed_cap", "site_cap", "weight", "demand"):
        _demand(bool((getattr(problem, name) >= 0).all()), name, "holds a negative number")
    for name in ("free", "demand"):
        _demand(bool((np.abs(getattr(problem, name)) <= QUANTITY_MAX).all()), name, "exceeds 2^48 base units")
    _check_present(problem)


def _shapes(problem: PackingProblem) -> dict[str, tuple[int, ...]]:
    _demand(problem.free.ndim == 2, "free", "is not a table of servers x resources")
    _demand(problem.demand.ndim == 2, "demand", "is not a table of services x resources")
    _demand(problem.eligible.ndim == 2, "eligible", "is not a table of services x pools")
    services, servers = problem.services, problem.servers
    shapes: dict[str, tuple[int, ...]] = {
        "demand": (services, problem.resources),
        "eligible": (services, problem.pools),
    }
    shapes |= dict.fromkeys(("rack", "feed", "site", "pool", "is_pool"), (servers,))
    per_service = ("count", "max_per_server", "rack_cap", "feed_cap", "site_cap", "group", "weight", "tier")
    shapes |= dict.fromkeys(per_service, (services,))
    rows = problem.present_service.shape
    return shapes | dict.fromkeys(("present_server", "present_count"), rows)


def _check_present(problem: PackingProblem) -> None:
    if problem.present_service.size == 0:
        return
    for name, size in (("present_service", problem.services), ("present_server", problem.servers)):
        values = getattr(problem, name)
        _demand(bool(((values >= 0) & (values < size)).all()), name, "names a row that does not exist")
    _demand(bool((problem.present_count > 0).all()), "present_count", "holds a count below 1")


def _demand(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise InvalidInput("packing-input", f"packing problem: {name} {what}", f"correct the array `{name}`")
