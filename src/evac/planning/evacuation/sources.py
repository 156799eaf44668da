"""Stocks of rows from which replicas start, and which of them is used first.

A source is a stock of rows with similar timing: rows that are on, rows with a planned boot, dark rows of one
boot kind, and rows freed by sheds.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.asked import EAGER, FAVOUR, TASTE, ask
from evac.planning.evacuation.board import NEVER, SOURCES, Board

ON, BOOTED, DARK, FREED = range(4)
"""Kinds of sources. A source record: kind, group or pool, tick of its next start, position in its stock."""

ON_FIRST, BOOTED_FIRST, SAVE_ON = range(3)
"""Tastes: which stock is used if several can start a replica at the same tick."""

MOVED = 2
"""The milestone of shed replicas that start again elsewhere, after base (0) and top (1)."""

LAST, VERY_LAST = NEVER - 2, NEVER - 1
"""Placeholder ticks of a source: used only if nothing else is left, and only if not even that is."""


@inner
def _rank(kind: int, taste: int) -> int:
    """Rank of a kind of source among those ready at the same tick."""
    if taste == 0:
        return kind
    if taste == 1:
        return (1, 0, 2, 3)[kind]
    return (2, 0, 1, 3)[kind]


@inner
def add(board: Board, kind: int, number: int, time: int) -> None:
    line = board.source[board.size[SOURCES]]
    line.kind, line.number, line.time, line.cursor = kind, number, time, -1
    board.size[SOURCES] += 1


@inner
def drop(board: Board, source: int) -> None:
    last = board.size[SOURCES] - 1
    here, end = board.source[source], board.source[last]
    here.kind, here.number, here.time, here.cursor = end.kind, end.number, end.time, end.cursor
    board.size[SOURCES] = last


@inner
def group_key(board: Board, source: int) -> int:
    """Pool of a source, by which an item may favour it."""
    line = board.source[source]
    if line.kind == BOOTED:
        return line.number
    return board.group[line.number].pool if line.kind != FREED else -1


@inner
def first_of(board: Board, taste: int, favour: int) -> int:
    """The source with the earliest tick; among those of the same tick, by favour and taste. -1 if there is
    none.
    """
    best, best_time, best_rank, kinds, pools = -1, NEVER, 9, 0, 0
    for source in range(board.size[SOURCES]):
        time, kind = board.source[source].time, board.source[source].kind
        key = group_key(board, source)
        rank = -1 if favour >= 0 and key == favour else _rank(kind, taste)
        if time < best_time:
            kinds, pools = 0, 0
        elif time == best_time and best >= 0 and kind != FREED and board.source[best].kind != FREED:
            kinds += kind != board.source[best].kind
            pools += key != group_key(board, best)
        if time < best_time or (time == best_time and rank < best_rank):
            best, best_time, best_rank = source, time, rank
    if kinds > 0:
        ask(board, TASTE)
    if pools > 0:
        ask(board, FAVOUR)
    return best


@inner
def ask_eager(board: Board, source: int, since: int) -> None:
    """Notes that sheds might have been used first, or last, instead of the source that is used now."""
    kind, time = board.source[source].kind, board.source[source].time
    if time > since if kind != FREED else board.size[SOURCES] > 1:
        ask(board, EAGER)
