"""Sheds that turned out to be for nothing: what no start uses stays where it is."""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

import numpy as np

from evac.planning.compiled import allocating_inner, inner
from evac.planning.evacuation.board import SHED, SHEDS, STARTS, VERSION, Board, Ints
from evac.planning.evacuation.shedding import end_of, without_empty
from evac.planning.evacuation.timing import hands, lift, reserve, shed_length

SPAN: Final = 2**31
"""More than any tick of a step."""


@inner
def _spare(board: Board, line: int) -> int:
    """Replicas that a shed takes and whose capacity nothing uses at the end."""
    shed, most = board.shed[line], board.shed[line].count
    entry = board.present[shed.entry]
    for r in range(len(board.need)):
        if board.service[entry.service].demand[r] > 0:
            most = min(most, board.row[entry.row].free[r] // board.service[entry.service].demand[r])
    return 0 if board.service[entry.service].moved > 0 else max(0, most)


@inner
def take_back_idle(board: Board) -> int:
    """Undoes sheds of replicas whose capacity nothing uses, at the end or at any start on their row after the
    shed, most valuable first; returns how many replicas stay.
    """
    for line in range(board.size[SHEDS]):
        if _spare(board, line) > 0:
            return _take_back(board)
    return 0


@allocating_inner
def _take_back(board: Board) -> int:
    starts, low = _least_free(board)
    stay = 0
    for line in range(board.size[SHEDS] - 1, -1, -1):
        back = _spare(board, line)
        if back == 0:
            continue
        entry = board.present[board.shed[line].entry]
        number, demand = entry.row, board.service[entry.service].demand
        first = _first_start(board, starts, number, end_of(board, line))
        is_used = first < len(starts) and board.started[starts[first]].row == number
        for r in range(len(board.need)):
            if is_used and demand[r] > 0:
                back = min(back, max(0, low[first, r] // demand[r]))
        if back == 0:
            continue
        for k in range(_first_start(board, starts, number, 0), len(starts)):
            if board.started[starts[k]].row != number:
                break
            for r in range(len(board.need)):
                if k >= first:
                    low[k, r] -= back * demand[r]
                elif is_used:
                    low[k, r] = min(low[k, r], low[first, r] - back * demand[r])
        _give_back(board, line, back)
        stay += back
    if stay > 0:
        board.size[SHEDS] = without_empty(board, 0, board.size[SHEDS])
        board.size[VERSION] += 1
    return stay


@inner
def _give_back(board: Board, line: int, back: int) -> None:
    """Leaves some of the replicas of a shed where they are."""
    shed = board.shed[line]
    entry = board.present[shed.entry]
    row = board.row[entry.row]
    uses, by_hand = board.pool[row.pool].shed_set, hands(board, SHED, shed.manual)
    length = shed_length(board, entry.service, shed.manual)
    lift(board, uses, by_hand, length, shed.count, shed.at)
    shed.count -= back
    if shed.count > 0:
        reserve(board, uses, by_hand, length, shed.count, shed.at)
    entry.left += back
    board.service[entry.service].left += back
    for r in range(len(board.need)):
        row.free[r] -= back * board.service[entry.service].demand[r]
        row.unshed[r] = min(row.unshed[r], row.free[r])


@allocating_inner
def _least_free(board: Board) -> tuple[Ints, Ints]:
    """Lines of the log of starts by row and tick, and for each the least capacity that is free on its row at
    it or at a later start. Sorts starts and sheds once, so the work hardly grows faster than their number.
    """
    count, gone = board.size[STARTS], board.size[SHEDS]
    begun = np.array([board.started[k].row * SPAN + board.started[k].at for k in range(count)], np.int64)
    ended = np.array([_row_of(board, k) * SPAN + end_of(board, k) for k in range(gone)], np.int64)
    starts, sheds = np.argsort(begun, kind="mergesort"), np.argsort(ended, kind="mergesort")
    low = np.zeros((count, len(board.need)), np.int64)
    number, over = -1, 0
    for k in range(count):
        start = board.started[starts[k]]
        for r in range(len(board.need)):
            before = low[k - 1, r] if start.row == number else board.row[start.row].capacity[r]
            low[k, r] = before - board.service[start.service].demand[r]
        number = start.row
        while over < gone and ended[sheds[over]] <= begun[starts[k]]:
            shed = board.shed[sheds[over]]
            for r in range(len(board.need) if _row_of(board, sheds[over]) == number else 0):
                low[k, r] += shed.count * board.service[board.present[shed.entry].service].demand[r]
            over += 1
    for k in range(count - 2, -1, -1):
        if board.started[starts[k]].row == board.started[starts[k + 1]].row:
            for r in range(len(board.need)):
                low[k, r] = min(low[k, r], low[k + 1, r])
    return starts, low


@inner
def _row_of(board: Board, line: int) -> int:
    return board.present[board.shed[line].entry].row


@inner
def _first_start(board: Board, starts: Ints, row: int, since: int) -> int:
    """Place of the first of the sorted starts that is on a row at a tick or later, or on a later row."""
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        start = board.started[starts[middle]]
        if start.row < row or (start.row == row and start.at < since):
            low = middle + 1
        else:
            high = middle
    return low
