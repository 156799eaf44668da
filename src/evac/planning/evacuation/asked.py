"""Which options a generation asked for: one that it never asked for can change without changing anything.

An option is asked for where another value of it could have led to another choice. `item.asked` has a bit for
each row that an item might have left alone but considered, and above those one for each other option.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

from evac.planning.compiled import inner
from evac.planning.evacuation.board import ASKER, BARRED, BARRED_BY, BARS, UNKNOWN, Board

TASTE, EAGER, FAVOUR, ROWS = range(4)
"""Columns of the options of an item: which stock first (of a store: which copy, 0 for the first to be
there), whether sheds compete, pool liked best (-1), and rows to leave alone.
"""
ROW_BITS: Final = (1 << BARS) - 1


@inner
def ask(board: Board, column: int) -> None:
    """Notes that an option of the item whose options are used was asked for."""
    if board.size[ASKER] >= 0:
        board.item[board.size[ASKER]].asked |= 1 << (BARS + column)


@inner
def bar(board: Board, item: int, rows: int) -> None:
    """Makes an item leave rows alone by its option; UNKNOWN and 0: none, whatever its option says."""
    board.size[BARRED_BY], board.size[BARRED] = item, rows


@inner
def bars(board: Board, row: int) -> bool:
    """Whether the item at work leaves a row alone that would do: notes that this was asked."""
    owner = board.size[BARRED_BY]
    if owner == UNKNOWN:
        return False
    board.item[owner].asked |= 1 << (row % BARS)
    return board.size[BARRED] >> (row % BARS) & 1 > 0


@inner
def was_asked(board: Board, item: int, column: int, old: int, new: int) -> bool:
    """Whether the generation that was kept asked for what makes `new` differ from `old`."""
    if column != ROWS:
        return old != new and board.item[item].had_asked >> (BARS + column) & 1 > 0
    changed = old ^ new
    return changed > ROW_BITS or board.item[item].had_asked & changed > 0
