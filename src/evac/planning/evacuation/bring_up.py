"""The rest of a dark domain: servers that no service waits for boot in what the others leave of each limit.

Longest boots first, feeds in turn: what is short fills the gaps at the end, so that the last server is on
about as early as any order allows.
"""

from __future__ import annotations

import numpy as np

from evac.model.instance import Instance
from evac.planning.compiled import kernel
from evac.planning.evacuation.board import FAILED_ROOM, NEVER, Board, Ints
from evac.planning.evacuation.generate import finish
from evac.planning.evacuation.given import keep_rows
from evac.planning.evacuation.items import try_again
from evac.planning.evacuation.solve import default_options
from evac.planning.evacuation.timing import boot, power_allows


@kernel
def _boot_rows(board: Board, rows: Ints) -> int:
    """Boot rows one after the other, each as early as it can; how many there are."""
    done = 0
    for row in rows:
        if board.row[row].on_at < 0 and power_allows(board, row) and boot(board, row, board.row[row].group):
            done += 1
    return done


@kernel
def _use_room(board: Board, options: Ints) -> None:
    """Components that found no room when it was their turn are tried once more: now there is more of it."""
    for component in range(board.components):
        failed = board.item[component].done and board.item[component].at >= NEVER
        if failed and board.item[component].why == FAILED_ROOM:
            try_again(board, component, options[component])
    finish(board)


def bring_up_rest(instance: Instance, board: Board) -> int:
    """Boot every server of the restored domain that is not on yet and that power allows; how many."""
    rows = instance.brought_up.astype(np.int64)
    if not len(rows):
        return 0
    done = int(_boot_rows(board, rows[_order(board, rows)]))
    keep_rows(board, 0)
    _use_room(board, default_options(board, 0))
    return done


def _order(board: Board, rows: Ints) -> Ints:
    """Those that come on by themselves, as their watts are drawn anyway; then by length, groups in turn."""
    group = board.row["group"][rows]
    turn = np.empty(len(rows), np.int64)
    by_group = np.lexsort((board.row["place"][rows], group))
    first = np.flatnonzero(np.r_[True, group[by_group][1:] != group[by_group][:-1]])
    turn[by_group] = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    lines = board.group[group]
    return np.lexsort((group, turn, -lines["boot_ticks"], -lines["by_itself"]))
