"""Room on rows: how many replicas of a service fit, within spread, and taking or giving back room."""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.board import (
    BLOCK,
    CONFLICT,
    CONFLICTED,
    GIVEN,
    GROUP_ROW,
    LEAST,
    MARKED,
    NEVER,
    STARTS,
    Board,
)


@inner
def _count_on(board: Board, row: int, count: int) -> None:
    if board.row[row].count == 0:
        board.row[board.size[MARKED]].marked = row
        board.size[MARKED] += 1
    board.row[row].count += count
    site = board.row[row].site
    if site >= 0:
        board.place[site].site += count
    if not board.row[row].is_pool:
        if board.row[row].rack >= 0:
            board.place[board.row[row].rack].rack += count
        if board.row[row].feed >= 0:
            board.place[board.row[row].feed].feed += count


@inner
def _mark_conflict(board: Board, row: int) -> None:
    if not board.row[row].conflict_mark:
        board.row[row].conflict_mark = True
        board.row[board.size[CONFLICTED]].conflicted = row
        board.size[CONFLICTED] += 1


@inner
def open_spread(board: Board, service: int) -> None:
    """Count where replicas of a service stand, survivors and started ones, and mark its conflicts."""
    for k in range(board.service[service].first_present, board.service[service].last_present):
        if board.present[k].left > 0:
            _count_on(board, board.present[k].row, board.present[k].left)
    entry = board.service[service].head
    while entry >= 0:
        _count_on(board, board.started[entry].row, 1)
        entry = board.started[entry].next
    group = board.service[service].conflict
    if group < 0:
        return
    for c in range(board.heap[board.base[CONFLICT] + group], board.heap[board.base[CONFLICT] + group + 1]):
        other = board.heap[c]
        for k in range(board.service[other].first_present, board.service[other].last_present):
            if board.present[k].left > 0:
                _mark_conflict(board, board.present[k].row)
        entry = board.service[other].head
        while entry >= 0:
            _mark_conflict(board, board.started[entry].row)
            entry = board.started[entry].next


@inner
def close_spread(board: Board) -> None:
    """Forget the counts of `open_spread`."""
    for k in range(board.size[MARKED]):
        row = board.row[k].marked
        board.row[row].count = 0
        if board.row[row].site >= 0:
            board.place[board.row[row].site].site = 0
        if board.row[row].rack >= 0:
            board.place[board.row[row].rack].rack = 0
        if board.row[row].feed >= 0:
            board.place[board.row[row].feed].feed = 0
    for k in range(board.size[CONFLICTED]):
        board.row[board.row[k].conflicted].conflict_mark = False
    board.size[MARKED] = 0
    board.size[CONFLICTED] = 0


@inner
def within_spread(board: Board, service: int, row: int) -> int:
    """Most further replicas of the open service that spread allows on a row."""
    site = board.row[row].site
    most = board.service[service].site_cap - (board.place[site].site if site >= 0 else 0)
    if board.row[row].is_pool:
        return most
    if board.service[service].conflict >= 0:
        if board.row[row].conflict_mark:
            return 0
        most = min(most, 1)
    most = min(most, board.service[service].per_server - board.row[row].count)
    if board.row[row].rack >= 0:
        most = min(most, board.service[service].rack_cap - board.place[board.row[row].rack].rack)
    if board.row[row].feed >= 0:
        most = min(most, board.service[service].feed_cap - board.place[board.row[row].feed].feed)
    return most


@inner
def room_for(board: Board, service: int, row: int, waits: int) -> int:
    """Most replicas of a service a row has resources for; waits 1: with what sheds free."""
    most = NEVER
    room = board.row[row].free if waits else board.row[row].unshed
    for r in range(board.vector.shape[1]):
        need = board.service[service].demand[r]
        if need > 0:
            most = min(most, room[r] // need)
    return most


@inner
def take(board: Board, service: int, mile: int, row: int, at: int, by_hand: int, waits: int) -> int:
    """One replica starts on a row at a tick: take its room and note it. Returns its line of the log."""
    line = board.size[STARTS]
    entry = board.started[line]
    entry.service, entry.mile, entry.row, entry.at = service, mile, row, at
    entry.manual, entry.waits, entry.next = by_hand, waits, board.service[service].head
    board.service[service].head = line
    board.size[STARTS] = line + 1
    for r in range(board.vector.shape[1]):
        board.started[line].unshed[r] = board.row[row].unshed[r]
        board.row[row].free[r] -= board.service[service].demand[r]
        left = board.row[row].free[r]
        if waits == 0:
            left = min(left, board.row[row].unshed[r] - board.service[service].demand[r])
        board.row[row].unshed[r] = min(board.row[row].unshed[r], left)
    if board.size[GIVEN] == 0:
        _count_on(board, row, 1)
        if board.service[service].conflict >= 0 and not board.row[row].is_pool:
            _mark_conflict(board, row)
    return line


@inner
def untake_to(board: Board, mark: int) -> None:
    """Undo every start after the first `mark`, last first."""
    while board.size[STARTS] > mark:
        line = board.size[STARTS] - 1
        entry = board.started[line]
        service, row = entry.service, entry.row
        block = board.block[board.row[row].place // BLOCK]
        for r in range(board.vector.shape[1]):
            board.row[row].free[r] += board.service[service].demand[r]
            board.row[row].unshed[r] = board.started[line].unshed[r]
            block.most[r] = max(block.most[r], board.row[row].unshed[r])
        board.service[service].head = entry.next
        board.size[STARTS] = line


@inner
def survey(board: Board, block: int) -> None:
    """Bring the upper limit of room of a block up to date."""
    first = board.base[GROUP_ROW] + block * BLOCK
    most = board.block[block].most
    for r in range(board.vector.shape[1]):
        most[r] = 0
    for at in range(first, min(first + BLOCK, board.base[GROUP_ROW] + len(board.row))):
        unshed = board.row[board.heap[at]].unshed
        for r in range(board.vector.shape[1]):
            most[r] = max(most[r], unshed[r])


@inner
def may_fit(board: Board, service: int, block: int) -> bool:
    """Whether some row of a block may have room for a service; True is no promise."""
    short = 0
    for r in range(board.vector.shape[1]):
        short += board.service[service].demand[r] > board.block[block].most[r]
    return short == 0


@inner
def is_full(board: Board, row: int) -> bool:
    """Whether a row has less than any service needs of some resource."""
    full = False
    for r in range(board.vector.shape[1]):
        full |= board.row[row].free[r] < board.vector[LEAST, r]
    return full
