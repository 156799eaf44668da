"""The hard rule of tiers: nothing stays down for lack of room that strictly lower tiers hold.

Broken where a service does not fit as things stand, and would if every replica of a lower tier that
nobody alive needs were taken away. Counted generously, by rows and by sites each taken alone.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner, kernel
from evac.planning.evacuation.board import FAILED_TIME, HARD_USER, NEVER, STARTS, WAIT, Board
from evac.planning.evacuation.room import close_spread, open_spread
from evac.planning.evacuation.shedding import base_is_shed, is_dead


@inner
def _lacks_room(board: Board, service: int) -> bool:
    """Whether a service is down at the end though all it waits for is there."""
    record = board.service[service]
    if record.blocked:
        return False
    if base_is_shed(board, service) and not record.base_lost:
        return True
    if not record.base_lost or board.item[record.component].at < NEVER:
        return False
    if board.item[record.component].why == FAILED_TIME:
        return False
    first, last = (
        board.heap[board.base[WAIT] + record.component],
        board.heap[board.base[WAIT] + record.component + 1],
    )
    missing = 0
    for k in range(first, last):
        missing += board.item[board.heap[k]].at >= NEVER
    return missing == 0


@inner
def _may_leave(board: Board, service: int) -> bool:
    """Whether nobody alive hard-depends on a service."""
    first, last = board.heap[board.base[HARD_USER] + service], board.heap[board.base[HARD_USER] + service + 1]
    alive = 0
    for k in range(first, last):
        alive += not is_dead(board, board.heap[k])
    return alive == 0


@inner
def _spare_room(board: Board) -> None:
    """`spare` of every row: its room as things stand once every server that is brought up is on."""
    for row in board.row:
        for r in range(board.vector.shape[1]):
            row.spare[r] = row.free[r] if row.on_at >= 0 or row.rises else 0


@inner
def _add_leaving(board: Board, tier: int) -> None:
    """Add to `spare` what all of lower tiers that may leave hold."""
    width = board.vector.shape[1]
    for line in range(board.size[STARTS]):
        entry = board.started[line]
        service = board.service[entry.service]
        if service.tier > tier and service.leaves:
            for r in range(width):
                board.row[entry.row].spare[r] += service.demand[r]
    for entry in board.present:
        service = board.service[entry.service]
        if service.sheddable and service.tier > tier and service.leaves:
            for r in range(width):
                board.row[entry.row].spare[r] += entry.left * service.demand[r]


@inner
def _would_fit(board: Board, service: int, wanted: int) -> bool:
    """Whether `wanted` replicas would fit on the spare room of rows, spread taken level by level."""
    record = board.service[service]
    total, site_total = 0, 0
    open_spread(board, service)
    for place in board.place:
        place.fits = 0
    for row in board.row:
        if not board.eligible[service, row.pool]:
            continue
        most = wanted
        for r in range(board.vector.shape[1]):
            if record.demand[r] > 0:
                most = min(most, row.spare[r] // record.demand[r])
        if not row.is_pool:
            most = min(most, record.per_server - row.count)
            if row.rack >= 0:
                most = min(most, record.rack_cap - board.place[row.rack].rack)
            if row.feed >= 0:
                most = min(most, record.feed_cap - board.place[row.feed].feed)
        if most > 0:
            total += most
            if row.site >= 0:
                board.place[row.site].fits += most
            else:
                site_total += most
    for number in range(len(board.place)):
        place = board.place[number]
        site_total += max(0, min(place.fits, record.site_cap - place.site))
    close_spread(board)
    return min(total, site_total) >= wanted


@kernel
def breaks_tiers(board: Board) -> bool:
    """Whether the generation on the board leaves a service down that lower tiers should make way for."""
    return first_breach(board, 0) >= 0


@kernel
def first_breach(board: Board, since: int) -> int:
    """First service from `since` on that is down though lower tiers hold room for it; or -1."""
    marked = False
    for service in range(since, len(board.service)):
        if not _lacks_room(board, service):
            continue
        if not marked:
            marked = True
            for other in range(len(board.service)):
                board.service[other].leaves = 1 if _may_leave(board, other) else 0
        record = board.service[service]
        wanted = record.serves - record.left
        if wanted <= 0:
            continue
        _spare_room(board)
        if _would_fit(board, service, wanted):
            continue
        _add_leaving(board, record.tier)
        if _would_fit(board, service, wanted):
            return service
    return -1
