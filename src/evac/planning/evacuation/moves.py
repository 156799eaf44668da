"""Starts shed services again on remaining capacity, at sites where they ran, so that their users find them.

The new replicas start as early as possible; the old ones go when their capacity is needed. So a service is
down from the shed that takes its base until its replacement is verified, or not at all.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from evac.planning.compiled import allocating_inner, inner
from evac.planning.evacuation.board import (
    ASKER,
    BOOTS,
    HARD_USER,
    HELD,
    KINDS,
    NEVER,
    PINNED,
    SHEDS,
    STARTS,
    TOOL,
    UNKNOWN,
    VERIFY,
    VICTIMS,
    Board,
    Ints,
)
from evac.planning.evacuation.idle_sheds import take_back_idle
from evac.planning.evacuation.items import start, undo
from evac.planning.evacuation.shedding import (
    base_is_shed,
    delay_sheds_of,
    keep_at_home,
    leave_home,
)
from evac.planning.evacuation.sources import MOVED
from evac.planning.evacuation.starts import last_end
from evac.planning.evacuation.timing import begin_item, schedule


@inner
def _mark_staying(board: Board) -> None:
    """A shed service stays away if it needs something that was shed as well, or if recovery needs the
    capacity.
    """
    for group in board.group:
        group.first_open = group.first  # too little for what was lost may be enough for this
    for pool in board.pool:
        pool.first_booted = 0
    for service in board.service:
        service.stays = service.base_lost
    first, last = board.base[TOOL], board.base[TOOL] + len(KINDS)
    for k in range(board.heap[first], board.heap[last]):
        board.service[board.heap[k]].stays = 1
    for service in range(len(board.service)):
        if base_is_shed(board, service):
            _users_stay(board, service)


@inner
def _users_stay(board: Board, service: int) -> None:
    """What needs a shed service stays away as well."""
    for k in range(
        board.heap[board.base[HARD_USER] + service], board.heap[board.base[HARD_USER] + service + 1]
    ):
        board.service[board.heap[k]].stays = 1


@inner
def _start_again(board: Board, service: int, count: int, options: Ints) -> bool:
    """Starts shed replicas on other rows and verifies them, or undoes all of it. Lower tiers make way for
    what it lacks to serve, if that fits nowhere else.
    """
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    item, end = board.components + service, NEVER
    board.size[ASKER] = item
    fits = not board.size[PINNED] or board.item[item].pinned_last - board.item[item].pinned_first == count
    served = board.service[service].left + count > board.service[service].serves
    board.service[service].moved = count  # it counts as alive, so what it needs stays
    fits = fits and start(board, item, service, MOVED, count, 0, options)
    if fits and (board.size[SHEDS] == sheds or not served):
        delay_sheds_of(board, sheds, starts)
        since = last_end(board, starts)
        at, end, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, since)
        board.service[service].verify_at[1], board.service[service].verify_manual[1] = at, by_hand
    if end >= board.horizon:
        undo(board, held, starts, sheds, boots)
        board.service[service].verify_at[1] = UNKNOWN
        board.service[service].moved = 0
        return False
    board.service[service].again = end
    for line in range(sheds, board.size[SHEDS]):
        victim = board.present[board.shed[line].entry].service
        if base_is_shed(board, victim):
            _users_stay(board, victim)
    return True


@inner
def restart_shed(board: Board, options: Ints) -> None:
    """Starts shed services elsewhere on remaining capacity, most valuable first: all of it, or as much as
    serves. The old replica goes when its capacity is needed, served or not; if nothing uses it, it stays.
    """
    take_back_idle(board)
    if board.size[SHEDS] == 0:
        return
    _mark_staying(board)
    for k in range(board.heap[board.base[VICTIMS] + 1] - 1, board.heap[board.base[VICTIMS]] - 1, -1):
        service = board.heap[k]
        wanted = board.service[service].surviving - board.service[service].left
        if wanted == 0 or board.service[service].moved > 0:
            continue
        if not board.service[service].stays:
            keep_at_home(board, service)
            while wanted > 0 and not _start_again(
                board, service, wanted, options[board.components + service]
            ):
                short = board.service[service].serves - board.service[service].left
                wanted = short if 0 < short < wanted else 0
            leave_home(board, service)
    take_back_idle(board)


@allocating_inner
def shed_times(board: Board) -> None:
    """When sheds take top and base away: the replica that goes below the floor decides the base. Restarted
    replicas restore them.
    """
    for service in board.service:
        service.top_shed_at = service.base_shed_at = NEVER
        service.base_since = service.base_grace if service.base_lost else NEVER
        service.top_since = service.top_grace if service.top_lost else NEVER
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
