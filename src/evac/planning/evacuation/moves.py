"""Starts shed services again on remaining capacity, at sites where they ran, so that their users find them.

The new replicas start as early as possible; the old ones go when their capacity is needed. So a service is
down from the shed that takes its base until its replacement is verified, or not at all.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from evac.planning.compiled import allocating_inner, inner, spliced
from evac.planning.evacuation.board import (
    BOOTS,
    HARD_USER,
    HELD,
    KINDS,
    NEVER,
    PINNED,
    SHEDS,
    STARTS,
    TOOL,
    TURN,
    UNKNOWN,
    VERIFY,
    VICTIMS,
    Board,
    Ints,
)
from evac.planning.evacuation.items import start, undo
from evac.planning.evacuation.shedding import base_is_shed
from evac.planning.evacuation.starts import MOVED, last_end
from evac.planning.evacuation.timing import begin_item, schedule


@inner
def _mark_staying(board: Board) -> None:
    """A shed service stays away if it needs something that was shed as well, or if recovery needs the
    capacity; while something waits for capacity, nothing of a lower tier takes it.
    """
    for group in board.group:
        group.first_open = group.first  # too little for what was lost may be enough for this
    for pool in board.pool:
        pool.waiting, pool.first_booted = board.last_tier, 0
    for service in board.service:
        service.stays = service.base_lost
    first, last = board.base[TOOL], board.base[TOOL] + len(KINDS)
    for k in range(board.heap[first], board.heap[last]):
        board.service[board.heap[k]].stays = 1
    for service in range(len(board.service)):
        if base_is_shed(board, service):
            for k in range(
                board.heap[board.base[HARD_USER] + service], board.heap[board.base[HARD_USER] + service + 1]
            ):
                board.service[board.heap[k]].stays = 1
        if board.service[service].base_lost and board.item[board.service[service].component].at >= NEVER:
            _wait_in_pools(board, service)


@inner
def _wait_in_pools(board: Board, service: int) -> None:
    """A down service waits for capacity wherever it may run."""
    for pool in range(len(board.pool)):
        if board.eligible[service, pool]:
            board.pool[pool].waiting = min(board.pool[pool].waiting, board.service[service].tier)


@inner
def _keep_at_home(board: Board, service: int) -> None:
    """Restricts a service to sites where it ran, so that its users find it, and where nothing of a higher
    tier waits for capacity.
    """
    board.size[TURN] += 1
    for k in range(board.service[service].first_present, board.service[service].last_present):
        site = board.row[board.present[k].row].site
        if site >= 0:
            board.place[site].fits = board.size[TURN]
    for pool in range(len(board.pool)):
        site = board.pool[pool].site
        at_home = site >= 0 and board.place[site].fits == board.size[TURN]
        at_home &= board.pool[pool].waiting >= board.service[service].tier
        board.pool[pool].eligible = board.eligible[service, pool]
        board.eligible[service, pool] = at_home and board.eligible[service, pool]


@spliced
def _start_again(board: Board, service: int, count: int, options: Ints) -> bool:
    """Starts shed replicas on other rows and verifies them, or undoes all of it."""
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    item, end = board.components + service, NEVER
    fits = not board.size[PINNED] or board.item[item].pinned_last - board.item[item].pinned_first == count
    if fits and start(board, item, service, MOVED, count, 0, options) and board.size[SHEDS] == sheds:
        since = last_end(board, starts)
        at, end, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, since)
        board.service[service].verify_at[1], board.service[service].verify_manual[1] = at, by_hand
    if end >= board.horizon:
        undo(board, held, starts, sheds, boots)
        board.service[service].verify_at[1] = UNKNOWN
        return False
    board.service[service].moved, board.service[service].again = count, end
    return True


@spliced
def restart_shed(board: Board, options: Ints) -> None:
    """Starts shed services elsewhere on remaining capacity, most valuable first: all of it, or as much as
    serves. The old replica goes when its capacity is needed, served or not.
    """
    if board.size[SHEDS] == 0:
        return
    _mark_staying(board)
    for k in range(board.heap[board.base[VICTIMS] + 1] - 1, board.heap[board.base[VICTIMS]] - 1, -1):
        service = board.heap[k]
        wanted = board.service[service].surviving - board.service[service].left
        if wanted == 0 or board.service[service].moved > 0:
            continue
        if not board.service[service].stays:
            _keep_at_home(board, service)
            while wanted > 0 and not _start_again(
                board, service, wanted, options[board.components + service]
            ):
                short = board.service[service].serves - board.service[service].left
                wanted = short if 0 < short < wanted else 0
            for pool in range(len(board.pool)):
                board.eligible[service, pool] = board.pool[pool].eligible > 0
        if base_is_shed(board, service):
            _wait_in_pools(board, service)


@allocating_inner
def shed_times(board: Board) -> None:
    """When sheds take top and base away: the replica that goes below the floor decides the base. Restarted
    replicas restore them.
    """
    for service in board.service:
        service.top_shed_at = service.base_shed_at = NEVER
        service.base_since = board.grace if service.base_lost else NEVER
        service.top_since = board.grace if service.top_lost else NEVER
        if not service.base_lost:
            service.base_at = 0
    count = board.size[SHEDS]
    if count == 0:
        return
    left = np.array([service.surviving for service in board.service], np.int64)
    at = np.array([board.shed[k].at for k in range(count)], np.int64)
    for line in np.argsort(at, kind="mergesort"):
        shed = board.shed[line]
        number = board.present[shed.entry].service
        service = board.service[number]
        left[number] -= shed.count
        there = left[number] + (service.moved if service.again <= shed.at else 0)
        if there < service.surviving:
            service.top_shed_at = min(service.top_shed_at, shed.at)
        if there < service.serves:
            service.base_shed_at = min(service.base_shed_at, shed.at)
    for service in board.service:
        if service.moved > 0 and service.base_shed_at < NEVER:
            service.base_since, service.base_at = service.base_shed_at, service.again
            service.base_shed_at = NEVER
