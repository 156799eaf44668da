"""Which milestones of a generation depend on an unknown fact, in kernels: the marks of `draft.doubt_of`."""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.board import (
    BOOT_UNSURE,
    DOUBTED_WITH,
    SHED_UNSURE,
    SHEDS,
    SOFT,
    STARTS,
    Board,
)
from evac.planning.evacuation.sources import MOVED


@inner
def mark_doubts(board: Board) -> None:
    """Marks every service whose base or top depends on an unknown fact: `base_doubt`, `top_doubt`."""
    for service in board.service:
        service.base_doubt, service.top_doubt, service.move_doubt = service.unjudged, 0, 0
    _mark_rows(board)
    for line in range(board.size[STARTS]):
        if not _is_unsure(board, line):
            continue
        service, mile = board.service[board.started[line].service], board.started[line].mile
        if mile == 0 or (mile == MOVED and service.left < service.serves):
            service.base_doubt = 1
        else:
            service.top_doubt = 1
    _mark_users(board)
    for number in range(len(board.service)):
        for k in range(board.heap[board.base[SOFT] + number], board.heap[board.base[SOFT] + number + 1]):
            if board.service[board.heap[k]].base_doubt:
                board.service[number].top_doubt = 1


@inner
def _is_unsure(board: Board, line: int) -> bool:
    """Whether no one knows if a start fits on its row."""
    service, row = board.service[board.started[line].service], board.row[board.started[line].row]
    unsure = service.unsure + row.doubt
    for r in range(len(board.need)):
        unsure += service.demand[r] > 0 and board.group[row.group].vague >> r & 1 > 0
    return unsure > 0


@inner
def _mark_rows(board: Board) -> None:
    """Marks rows (`doubt`) where nothing is sure to fit, whatever it needs: something of unknown demand
    starts there, tools that cannot be judged boot or free them, or something may be unable to leave them.
    """
    for row in board.row:
        row.doubt = 1 if row.boot_at >= 0 and board.group[row.group].unsure & BOOT_UNSURE > 0 else 0
    for line in range(board.size[SHEDS]):
        row = board.row[board.present[board.shed[line].entry].row]
        if board.group[row.group].unsure & SHED_UNSURE > 0:
            row.doubt = 1
    for line in range(board.size[STARTS]):
        if board.service[board.started[line].service].unsure:
            board.row[board.started[line].row].doubt = 1
    more = 1
    while more:
        more = 0
        for line in range(board.size[STARTS]):
            service = board.service[board.started[line].service]
            moves = board.started[line].mile == MOVED and service.movable and not service.move_doubt
            if moves and _is_unsure(board, line):
                service.move_doubt, more = 1, 1
        for line in range(board.size[SHEDS] if more else 0):
            entry = board.present[board.shed[line].entry]
            if board.service[entry.service].move_doubt:
                board.row[entry.row].doubt = 1


@inner
def _mark_users(board: Board) -> None:
    """Marks the base of what is down and waits for a base in doubt."""
    depth = 0
    for number in range(len(board.service)):
        if board.service[number].base_doubt:
            board.item[depth].stack = number
            depth += 1
    while depth > 0:
        depth -= 1
        at = board.base[DOUBTED_WITH] + board.item[depth].stack
        for k in range(board.heap[at], board.heap[at + 1]):
            if not board.service[board.heap[k]].base_doubt:
                board.service[board.heap[k]].base_doubt = 1
                board.item[depth].stack = board.heap[k]
                depth += 1
