"""Rows given beforehand: a placement is kept and only its times are sought anew.

`remember` keeps the rows and sheds of the generation on the board; with `GIVEN` set, the next ones put
every replica where it was. No row is searched, so a generation costs a small part of a free one.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner, kernel, spliced
from evac.planning.evacuation.board import GIVEN, NEVER, ON_ROW, SHEDS, START, STARTS, Board
from evac.planning.evacuation.room import room_for, take
from evac.planning.evacuation.shedding import do_sheds, note_shed
from evac.planning.evacuation.timing import boot, fits_at, hands, reserve, when


@inner
def _item_of(board: Board, line: int) -> int:
    entry = board.started[line]
    if entry.mile == 1:
        return board.components + entry.service
    return board.service[entry.service].component


@kernel
def remember(board: Board) -> None:
    """Keep the rows of every start by item, in the order of the log, and the sheds of every row."""
    count = board.size[STARTS]
    for item in board.item:
        item.given_first, item.given_last = 0, 0
    for line in range(count):
        board.item[_item_of(board, line)].given_last += 1
    total = 0
    for item in board.item:
        item.given_first = total
        total += item.given_last
        item.given_last = item.given_first
    for line in range(count):
        item = board.item[_item_of(board, line)]
        board.given[item.given_last] = line
        item.given_last += 1
    for entry in board.present:
        entry.given = 0
    for line in range(board.size[SHEDS]):
        board.present[board.shed[line].entry].given += board.shed[line].count
    for k in range(count):
        line = board.given[k]
        board.given[k] = board.started[line].row * len(board.service) + board.started[line].service


@kernel
def keep_rows(board: Board, keep: int) -> None:
    """From now on rows are given (1) or chosen (0)."""
    board.size[GIVEN] = keep


@spliced
def _shed_given(board: Board, service: int, row: int) -> int:
    """Do what the placement sheds on a row and is not shed yet; when the last of it is over."""
    lines = 0
    for k in range(board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]):
        entry = board.heap[k]
        pending = board.present[entry].given - (board.present[entry].count - board.present[entry].left)
        if pending > 0:
            if board.size[SHEDS] + lines >= len(board.shed):
                return NEVER
            note_shed(board, board.size[SHEDS] + lines, entry, pending, service)
            lines += 1
    return do_sheds(board, row, lines)


@spliced
def _ready(board: Board, service: int, row: int, since: int) -> tuple[int, int]:
    """When a replica may start on its row: (tick, whether it waits for a shed)."""
    if board.row[row].on_at < 0 and not boot(board, row, board.row[row].group):
        return NEVER, 0
    ready, waits = max(since, board.row[row].on_at), 0
    if room_for(board, service, row, 0) < 1:
        waits = 1
        ready = max(ready, _shed_given(board, service, row))
        if room_for(board, service, row, 1) < 1:
            return NEVER, 0
    return ready, waits


@spliced
def _start_one(board: Board, service: int, mile: int, row: int, since: int) -> bool:
    ready, waits = _ready(board, service, row, since)
    if ready >= NEVER:
        return False
    uses = board.pool[board.row[row].pool].start_set
    at, length, by_hand = when(board, START, uses, board.service[service].start, 1, ready)
    if at >= NEVER:
        return False
    reserve(board, uses, hands(board, START, by_hand), length, 1, at)
    take(board, service, mile, row, at, by_hand, waits)
    return True


@inner
def _is_plain(board: Board, service: int, row: int) -> bool:
    """Whether a replica can start on a row at any time: on, and room without a shed."""
    return board.row[row].on_at == 0 and room_for(board, service, row, 0) > 0


@inner
def _flush(board: Board, service: int, pool: int, batch: int, at: int, length: int, by_hand: int) -> None:
    """Hold the uses of a batch of starts of one pool and tick."""
    if batch > 0:
        reserve(board, board.pool[pool].start_set, hands(board, START, by_hand), length, batch, at)


@inner
def start_given(board: Board, item: int, service: int, mile: int, since: int) -> bool:
    """Start the replicas of a service on the rows given for an item; False when one cannot."""
    services = len(board.service)
    at, most, length, by_hand, pool, batch, done = since, 0, 0, 0, -1, 0, 0
    for k in range(board.item[item].given_first, board.item[item].given_last):
        row, owner = board.given[k] // services, board.given[k] % services
        if owner != service:
            continue
        done += 1
        plain = _is_plain(board, service, row)
        if not plain or most == 0 or pool != board.row[row].pool:
            _flush(board, service, pool, batch, at, length, by_hand)
            batch, most = 0, 0
        if not plain:
            if not _start_one(board, service, mile, row, since):
                return False
            continue
        if pool != board.row[row].pool:
            pool, at = board.row[row].pool, since
        if most == 0:
            uses = board.pool[pool].start_set
            at, length, by_hand = when(board, START, uses, board.service[service].start, 1, at)
            if at >= NEVER:
                return False
            most = fits_at(board, uses, hands(board, START, by_hand), length, at)
        take(board, service, mile, row, at, by_hand, 0)
        batch += 1
        most -= 1
    _flush(board, service, pool, batch, at, length, by_hand)
    return done > 0
