"""The compiled sweep over all rows for one service: what fits where, and its sums."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import njit


@njit(cache=True)
def fill_fit(
    room,
    demand,
    eligible,
    pool,
    is_pool,
    dark,
    here,
    keeps_room,
    per_server,
    most,
    mark,
    rack_key,
    feed_key,
    fit,
    wanted,
    total,
    rack_total,
    rack_outside,
    feed_total,
    feed_outside,
):
    """Fills fit (V) and its sums by pool, (rack, pool) and (feed group, pool); all 64-bit integers.

    keeps_room: what stands here of the service is not in `room` and is added back; mark: note rows
    where something fits in `wanted`. Returns the sum over powered rows.
    """
    total[:] = 0
    rack_total[:] = 0
    rack_outside[:] = 0
    feed_total[:] = 0
    feed_outside[:] = 0
    powered = 0
    for v in range(len(fit)):
        found = here[v]
        if eligible[pool[v]]:
            found = max(
                found,
                _fit(
                    room[v],
                    demand,
                    here[v] if keeps_room else 0,
                    most if is_pool[v] else min(most, per_server),
                ),
            )
        fit[v] = found
        if found == 0:
            continue
        total[pool[v]] += found
        if not dark[v]:
            powered += found
        if mark:
            wanted[v] = True
        if rack_key[v] >= 0:
            rack_total[rack_key[v]] += found
        else:
            rack_outside[pool[v]] += found
        if feed_key[v] >= 0:
            feed_total[feed_key[v]] += found
        else:
            feed_outside[pool[v]] += found
    return powered


@njit(cache=True)
def _fit(room, demand, own, most):
    """Replicas a row can hold; divides only where a resource is short."""
    for r in range(len(demand)):
        free = room[r] + own * demand[r]
        if demand[r] > 0 and free < most * demand[r]:
            most = free // demand[r]
    return most
