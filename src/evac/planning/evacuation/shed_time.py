"""How soon sheds could free what a service lacks, as the checker counts it: at least so many, one after the
other where limits allow no more, beside all steps that are not made for what makes way.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

import numpy as np

from evac.planning.compiled import allocating_inner, inner
from evac.planning.evacuation.board import (
    HELD,
    LIFTED,
    NEVER,
    ON_ROW,
    SHED,
    SHEDS,
    SHIFT,
    START,
    STARTS,
    VERIFY,
    Board,
    close_spread,
    open_spread,
)
from evac.planning.evacuation.timing import (
    fits_at,
    hands,
    hold,
    release_to,
    reserve,
    shed_length,
    step_length,
    when,
)

COUNTED: Final = 64
"""Replicas on one row whose sheds are counted; that more fit there costs nothing."""


@inner
def _takes(board: Board, service: int, number: int) -> int:
    """Replicas of the open service that a row would take on its spare capacity."""
    record, row, most = board.service[service], board.row[number], 2**31
    if not board.eligible[service, row.pool]:
        return 0
    for r in range(len(board.need)):
        if record.demand[r] > 0:
            most = min(most, row.spare[r] // record.demand[r])
    if not row.is_pool:
        most = min(most, record.per_server - row.count, 1 if record.conflict >= 0 else most)
    return max(most, 0)


@inner
def _makes_way(board: Board, service: int, other: int) -> bool:
    return board.service[other].tier > board.service[service].tier and board.service[other].leaves > 0


@inner
def _sheds_on(board: Board, service: int, number: int, replicas: int) -> int:
    """Fewest further sheds on a row after which so many replicas of a service fit there."""
    fewest = 0
    for r in range(len(board.need)):
        need = board.service[service].demand[r]
        left, most = board.row[number].spare[r], 1
        for k in range(
            board.heap[board.base[ON_ROW] + number] if need > 0 else 0,
            board.heap[board.base[ON_ROW] + number + 1] if need > 0 else 0,
        ):
            entry = board.present[board.heap[k]]
            if entry.left > 0 and _makes_way(board, service, entry.service):
                left -= entry.left * board.service[entry.service].demand[r]
                most = max(most, board.service[entry.service].demand[r])
        fewest = max(fewest, -(-max(0, replicas * need - left) // most))
    return fewest


@allocating_inner
def _fewest_sheds(board: Board, service: int, wanted: int) -> int:
    """Further sheds that `wanted` replicas of the open service take at least. Sets `cursor` of source p: the
    shortest shed of pool p that may help, NEVER if none does.
    """
    for pool in range(len(board.pool)):
        board.source[pool].cursor = NEVER
    counted, free = 0, 0
    for number in range(len(board.row)):
        most = _takes(board, service, number)
        if most <= 0:
            continue
        source = board.source[board.row[number].pool]
        for k in range(board.heap[board.base[ON_ROW] + number], board.heap[board.base[ON_ROW] + number + 1]):
            entry = board.present[board.heap[k]]
            if entry.left > 0 and _makes_way(board, service, entry.service):
                source.cursor = min(source.cursor, board.service[entry.service].shed)
        free += max(0, most - COUNTED)
        for replicas in range(1, min(most, wanted, COUNTED) + 1):
            counted += 1
            free += _sheds_on(board, service, number, replicas) == 0
    if free >= wanted:
        return 0
    each = np.zeros(counted, np.int64)
    line, uncounted = 0, 0
    for number in range(len(board.row)):
        most, before = _takes(board, service, number), 0
        uncounted += max(0, most - COUNTED)
        for replicas in range(1, min(most, wanted, COUNTED) + 1):
            sheds = _sheds_on(board, service, number, replicas)
            each[line], before = sheds - before, sheds
            line += 1
    total = 0
    for line in np.argsort(each, kind="mergesort")[: max(0, wanted - uncounted)]:
        total += each[line]
    return total


@inner
def _hold_step(board: Board, kind: int, uses: int, regular: int, by_hand: int, count: int, at: int) -> None:
    if 0 <= at < NEVER:
        length = step_length(board, kind, regular, by_hand)
        hold(board, uses, length, count, at)
        hold(board, hands(board, kind, by_hand), length, count, at)


@inner
def _hold_idle(board: Board, service: int, sign: int) -> None:
    """Holds (1) or releases (-1) what a plan would not have if all that makes way had never had its turn:
    steps of that, and sheds made only for it on rows that do not take the open service.
    """
    for line in range(board.size[STARTS]):
        entry = board.started[line]
        if _makes_way(board, service, entry.service):
            uses = board.pool[board.row[entry.row].pool].start_set
            ticks = board.service[entry.service].start
            _hold_step(board, START, uses, ticks, entry.manual, sign, entry.at)
    for number in range(len(board.service)):
        s = board.service[number]
        if _makes_way(board, service, number):
            _hold_step(board, SHIFT, s.shift_set, s.shift_ticks, s.shift_manual, sign, s.shift_at)
            for mile in range(2):
                _hold_step(board, VERIFY, 0, s.verify, s.verify_manual[mile], sign, s.verify_at[mile])
    for line in range(board.size[SHEDS]):
        shed = board.shed[line]
        entry = board.present[shed.entry]
        if _makes_way(board, service, shed.service) and _takes(board, service, entry.row) == 0:
            uses, by_hand = board.pool[board.row[entry.row].pool].shed_set, shed.manual
            length = shed_length(board, entry.service, by_hand)
            hold(board, uses, length, sign * shed.count, shed.at)
            hold(board, hands(board, SHED, by_hand), length, sign * shed.count, shed.at)
    board.size[LIFTED] += 1


@inner
def _all_shed(board: Board, count: int) -> int:
    """When so many further sheds could have ended, each as early as holds allow; NEVER if impossible."""
    over, held = 0, board.size[HELD]
    while count > 0 and board.size[HELD] + 3 < len(board.held):
        found, found_at, found_length, found_by_hand = -1, NEVER, 0, 0
        for pool in range(len(board.pool)):
            due = board.source[pool].cursor
            if due >= NEVER:
                continue
            at, length, by_hand = when(board, SHED, board.pool[pool].shed_set, due, 1, 0)
            if at < NEVER and (found < 0 or at + length < found_at + found_length):
                found, found_at, found_length, found_by_hand = pool, at, length, by_hand
        if found < 0:
            over = NEVER
            break
        uses, people = board.pool[found].shed_set, hands(board, SHED, found_by_hand)
        most = min(count, fits_at(board, uses, people, found_length, found_at))
        reserve(board, uses, people, found_length, most, found_at)
        over, count = found_at + found_length, count - most
    release_to(board, held)
    return over


@inner
def sheds_over(board: Board, service: int, wanted: int) -> int:
    """When as many sheds could have ended as `wanted` replicas of a service take at least, on the spare
    capacity of rows; 0 if none, NEVER if impossible.
    """
    open_spread(board, service)
    count, over = _fewest_sheds(board, service, wanted), 0
    if count > 0:
        _hold_idle(board, service, -1)
        over = _all_shed(board, count)
        _hold_idle(board, service, 1)
    close_spread(board)
    return over
