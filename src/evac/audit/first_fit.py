"""First fit over shapes: groups of equal servers that shrink and split while replicas are placed.

For many losses at once, where the thousands of servers of a company form a few thousand shapes. Respects
vector capacity, fragmentation, and caps per server and site; uses servers that are on, then empty ones, then
those that must be booted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.units import RESOURCE_COUNT, UNBOUNDED
from evac.planning.compiled import inner, kernel

STAGE_USED: Final = 0
STAGE_EMPTY: Final = 1
STAGE_BOOTED: Final = 2
STAGE_DARK: Final = 3
STAGES: Final = 4

BLOCK: Final = 8
"""Entries skipped together if none of them has enough of some resource."""


class Shapes(NamedTuple):
    """E entries, some in use and the rest spare for splits.

    free (E, R) on each of the `servers`; pool, site, stage, is_pool (E,); size: entries in use now and
    initially; boots (sites,): dark servers that are booted; bounds (stages, P, 2): initial contiguous range
    of each stage and pool. refused (K, sites + 1, R): demand that did not fit at a site, or anywhere (last
    row), by kind of service: a demand at least as large is not tried again. A pool is at one site. most (B,
    R): upper bound of the free amount on any server of a block; loose (B,): it may be too high.
    """

    free: IntColumn
    servers: IntColumn
    pool: IndexColumn
    site: IndexColumn
    stage: IndexColumn
    is_pool: BoolColumn
    size: IntColumn
    boots: IntColumn
    bounds: IntColumn
    refused: IntColumn
    most: IntColumn
    loose: BoolColumn


class Asking(NamedTuple):
    """Demand of a replica of each service, S rows: demand (S, R); known: whether it can be placed;
    per_server, site_cap; kinds (K, P): pools that a service may use, kind (S,): its row; order: in which
    services are placed.
    """

    demand: IntColumn
    known: BoolColumn
    per_server: IntColumn
    site_cap: IntColumn
    kinds: BoolColumn
    kind: IndexColumn
    order: IndexColumn


class Fitted(NamedTuple):
    """Placed replicas of each service, (S,)."""

    base: IntColumn
    top: IntColumn


def blocks_of(entries: int) -> int:
    """Number of blocks for this many entries."""
    return entries // BLOCK + 1


def splits_of(wanted: IntColumn, capped: BoolColumn, sites: int) -> int:
    """Maximum number of entries that placing adds: two for each service and pass, or for each service, site
    and pass if capped.
    """
    asked = wanted > 0
    return 4 * (int((asked & ~capped).sum()) + sites * int((asked & capped).sum()))


@kernel
def open_shapes(
    shapes: Shapes,
    left: IntColumn,
    free: IntColumn,
    pool: IndexColumn,
    site: IndexColumn,
    stage: IndexColumn,
    is_pool: BoolColumn,
) -> None:
    """Fill empty shapes with those (G,) that have servers left (G,); those of one stage and pool must be
    contiguous.
    """
    size = 0
    for shape in range(left.shape[0]):
        if left[shape] <= 0:
            continue
        for r in range(free.shape[1]):
            shapes.free[size, r] = free[shape, r]
            shapes.most[size // BLOCK, r] = max(shapes.most[size // BLOCK, r], free[shape, r])
        shapes.servers[size], shapes.pool[size] = left[shape], pool[shape]
        shapes.site[size], shapes.is_pool[size] = site[shape], is_pool[shape]
        at = stage[shape]
        shapes.stage[size] = at
        if shapes.bounds[at, pool[shape], 1] == 0:
            shapes.bounds[at, pool[shape], 0] = size
        size += 1
        shapes.bounds[at, pool[shape], 1] = size
    # Booted servers were dark, and stay in place.
    for number in range(shapes.bounds.shape[1]):
        shapes.bounds[STAGE_BOOTED, number, 0] = shapes.bounds[STAGE_DARK, number, 0]
        shapes.bounds[STAGE_BOOTED, number, 1] = shapes.bounds[STAGE_DARK, number, 1]
    shapes.size[0] = shapes.size[1] = size


@kernel
def count_shapes_of(
    rows: IndexColumn, start: IntColumn, server: IndexColumn, shape: IndexColumn, found: IntColumn
) -> None:
    """Add to found (G,) the servers of some rows by their shape; start, server: servers by row."""
    for row in rows:
        for place in range(start[row], start[row + 1]):
            found[shape[server[place]]] += 1


@kernel
def holds_any(
    asking: Asking, least: IntColumn, free: IntColumn, pool: IndexColumn, found: BoolColumn
) -> None:
    """Set found (G,) for shapes that fit a replica of any service; free (G, R), pool (G,).

    least (R,): a lower bound of the demand of every service.
    """
    for shape in range(free.shape[0]):
        enough = True
        for r in range(free.shape[1]):
            enough = enough and free[shape, r] >= least[r]
        if not enough:
            continue
        for service in range(asking.demand.shape[0]):
            if asking.kinds[asking.kind[service], pool[shape]] and _fits(asking, service, free, shape):
                found[shape] = True
                break


@kernel
def fitting_servers(
    asking: Asking,
    free: IntColumn,
    pool: IndexColumn,
    site: IndexColumn,
    servers: IntColumn,
    found: IntColumn,
) -> None:
    """Add to found (S, sites) the servers that could take one more replica of each service.

    servers (G,): how many of each shape count.
    """
    for service in range(found.shape[0]):
        mine = asking.kind[service]
        for shape in range(free.shape[0]):
            if (
                servers[shape] != 0
                and asking.kinds[mine, pool[shape]]
                and _fits(asking, service, free, shape)
            ):
                found[service, site[shape]] += servers[shape]


@kernel
def holding_servers(
    asking: Asking,
    free: IntColumn,
    pool: IndexColumn,
    service: IndexColumn,
    shape: IndexColumn,
    site: IndexColumn,
    found: IntColumn,
) -> None:
    """Subtract from found (S, sites) the servers that would fit one more but already run the service.

    service, shape (-1: none), site: of each binding.
    """
    for row in range(service.shape[0]):
        one, here = service[row], shape[row]
        if here >= 0 and asking.kinds[asking.kind[one], pool[here]] and _fits(asking, one, free, here):
            found[one, site[row]] -= 1


@kernel
def own_servers(
    order: IndexColumn,
    reach: IntColumn,
    start: IntColumn,
    loss: IndexColumn,
    wanted: IntColumn,
    left: IntColumn,
    slack: IntColumn,
) -> None:
    """Lower slack (L,) to the number of servers left when every replica has one of its own.

    order: services, those with the fewest reachable servers first; start: first (loss, wanted) pair of each
    service; left (L,): minus the servers that a loss takes; consumed.
    """
    for service in order:
        for row in range(start[service], start[service + 1]):
            left[loss[row]] -= wanted[row]
            slack[loss[row]] = min(slack[loss[row]], left[loss[row]] + reach[service])


@inner
def _fits(asking: Asking, service: int, free: IntColumn, shape: int) -> bool:
    for r in range(free.shape[1]):  # noqa: SIM110  (numba compiles the loop, not the generator)
        if free[shape, r] < asking.demand[service, r]:
            return False
    return True


@kernel
def first_fit(
    shapes: Shapes, asking: Asking, base: IntColumn, top: IntColumn, here: IntColumn, fitted: Fitted
) -> None:
    """Place base replicas (S,) of all services, then top ones of those whose base is complete.

    here (sites, S): replicas already at a site, updated for services with a cap.
    """
    for service in asking.order:
        if base[service] > 0 and asking.known[service]:
            fitted.base[service] = _place(shapes, asking, service, base[service], here)
    for service in asking.order:
        if top[service] > 0 and asking.known[service] and fitted.base[service] == base[service]:
            fitted.top[service] = _place(shapes, asking, service, top[service], here)


@inner
def _place(shapes: Shapes, asking: Asking, service: int, count: int, here: IntColumn) -> int:
    cap = asking.site_cap[service]
    if cap >= UNBOUNDED:
        return _take(shapes, asking, service, count, -1)
    placed = 0
    for site in range(here.shape[0]):
        share = min(count - placed, cap - here[site, service])
        if share > 0:
            found = _take(shapes, asking, service, share, site)
            here[site, service] += found
            placed += found
    return placed


@inner
def _take(shapes: Shapes, asking: Asking, service: int, count: int, site: int) -> int:
    """Place up to `count` replicas on entries in order of their stage; site: only there, -1 anywhere.

    Entries split off are used by the next service only. Written as one loop because a call passes all tables,
    which costs more than looking at an entry.
    """
    if _refused(shapes, asking, service, site):
        return 0
    size, left, mine, bounds = shapes.size[0], count, asking.kind[service], shapes.bounds
    most, free, demand = shapes.most, shapes.free, asking.demand
    pools = bounds.shape[1]
    for stage in range(STAGES):
        # Entries split off come after all pools, and none of them is empty or dark.
        ranges = pools + 1 if stage in (STAGE_USED, STAGE_BOOTED) else pools
        if left == 0 or (stage == STAGE_BOOTED and _none(shapes.boots)):
            continue
        for pool in range(ranges):
            entry, stop = shapes.size[1], size
            if pool < pools:
                entry = bounds[stage, pool, 0]
                looked_at = asking.kinds[mine, pool] and (site < 0 or shapes.site[entry] == site)
                stop = bounds[stage, pool, 1] * looked_at
            while entry < stop and left > 0:
                block = entry // BLOCK
                end = min(stop, (block + 1) * BLOCK)
                enough = True
                for r in range(RESOURCE_COUNT):
                    enough &= most[block, r] >= demand[service, r]
                if not enough:
                    entry = end
                    continue
                before = left
                while entry < end and left > 0:
                    fits = True
                    for r in range(RESOURCE_COUNT):
                        fits &= free[entry, r] >= demand[service, r]
                    if (
                        fits
                        and shapes.servers[entry] > 0
                        and shapes.stage[entry] == stage
                        and asking.kinds[mine, shapes.pool[entry]]
                        and (site < 0 or shapes.site[entry] == site)
                    ):
                        left = _put(shapes, asking, service, left, entry)
                    entry += 1
                if left == before and shapes.loose[block]:
                    _tighten(most, shapes.loose, free, shapes.size, block)
    if left == count:
        refused = shapes.refused[mine]
        for at in range(refused.shape[0]) if site < 0 else range(site, site + 1):
            for r in range(RESOURCE_COUNT):
                refused[at, r] = demand[service, r]
    return count - left


@inner
def _none(counts: IntColumn) -> bool:
    total = 0
    for k in range(len(counts)):
        total += counts[k]
    return total == 0


@inner
def _tighten(most: IntColumn, loose: BoolColumn, free: IntColumn, size: IntColumn, block: int) -> None:
    """Recompute the largest free amounts in a block."""
    most[block] = 0
    for entry in range(block * BLOCK, min((block + 1) * BLOCK, size[0])):
        for r in range(RESOURCE_COUNT):
            most[block, r] = max(most[block, r], free[entry, r])
    loose[block] = False


@inner
def _refused(shapes: Shapes, asking: Asking, service: int, site: int) -> bool:
    """Whether an equal or smaller demand was refused before at a site (-1: anywhere). Capacity only
    shrinks.
    """
    for r in range(shapes.free.shape[1]):
        if asking.demand[service, r] < shapes.refused[asking.kind[service], site, r]:
            return False
    return True


@inner
def _put(shapes: Shapes, asking: Asking, service: int, left: int, entry: int) -> int:
    """Use an entry on which the service fits; return how many replicas are left."""
    demand, stage = asking.demand, shapes.stage[entry]
    each = UNBOUNDED if shapes.is_pool[entry] else asking.per_server[service]
    if each > 1:
        for r in range(RESOURCE_COUNT):
            if demand[service, r] > 0:
                each = min(each, shapes.free[entry, r] // demand[service, r])
    shapes.loose[entry // BLOCK] = True
    rest: int = left - shapes.servers[entry] * each
    if rest < 0:
        rest = 0
        _split(shapes, demand, service, entry, left // each, each)
        _split(shapes, demand, service, entry, min(1, left % each), left % each)
    else:
        for r in range(RESOURCE_COUNT):
            shapes.free[entry, r] -= demand[service, r] * each
        if stage == STAGE_DARK:
            shapes.boots[shapes.site[entry]] += shapes.servers[entry]
            shapes.stage[entry] = STAGE_BOOTED
    return rest


@inner
def _split(shapes: Shapes, demand: IntColumn, service: int, entry: int, servers: int, replicas: int) -> None:
    """Split off some servers of an entry that take this many replicas each."""
    if servers == 0:
        return
    new, stage = shapes.size[0], shapes.stage[entry]
    shapes.size[0] = new + 1
    for r in range(RESOURCE_COUNT):
        left = shapes.free[entry, r] - demand[service, r] * replicas
        shapes.free[new, r] = left
        shapes.most[new // BLOCK, r] = max(shapes.most[new // BLOCK, r], left)
    shapes.servers[new] = servers
    shapes.servers[entry] -= servers
    shapes.pool[new], shapes.site[new] = shapes.pool[entry], shapes.site[entry]
    shapes.is_pool[new], shapes.stage[new] = shapes.is_pool[entry], stage
    if stage == STAGE_EMPTY:
        shapes.stage[new] = STAGE_USED
    elif stage == STAGE_DARK:
        shapes.boots[shapes.site[entry]] += servers
        shapes.stage[new] = STAGE_BOOTED
