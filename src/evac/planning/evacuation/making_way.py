"""Moves running replicas of movable services out of the way: the last resort for what finds no capacity.

A replica starts on another server of a site where its service runs and is verified; only then does the old
one stop. So the service never has fewer replicas than before, and both places are taken in between.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

from evac.planning.compiled import inner
from evac.planning.evacuation.board import (
    BLOCK,
    BOOT_UNSURE,
    BOOTS,
    FAILED_ROOM,
    FAILED_TIME,
    GROUP_ROW,
    HELD,
    MEMBER,
    MOVER_ROWS,
    NEVER,
    PINNED,
    RAN,
    SHED_UNSURE,
    SHEDS,
    STARTS,
    TURN,
    UNKNOWN,
    VERIFY,
    Board,
    Ints,
    capacity_for,
    close_spread,
    may_fit,
    open_spread,
    survey,
    within_spread,
)
from evac.planning.evacuation.items import AGAIN, PUT_OFF, give_up, run_item, undo, write_off
from evac.planning.evacuation.shedding import do_sheds, keep_at_home, leave_home, movers_for, note_shed
from evac.planning.evacuation.sources import MOVED
from evac.planning.evacuation.starts import last_end, start_pinned, use_row
from evac.planning.evacuation.timing import schedule

MOST_ROWS: Final = 4
"""Servers that are cleared for one component at most."""


@inner
def _is_tried_again(board: Board, component: int, last: bool) -> bool:
    """Whether a component found no capacity. last: what is put off has its turn."""
    if not board.item[component].done or board.item[component].at < NEVER:
        return False
    return board.item[component].why != FAILED_TIME and (last or write_off(board, component) != PUT_OFF)


@inner
def _may_move(board: Board) -> int:
    """1 if anything on the board may move, and a server may have capacity for it; else 0."""
    rows = board.base[MOVER_ROWS]
    if board.heap[rows] == board.heap[rows + 1]:
        return 0
    if board.size[PINNED]:
        return 1
    for block in range(len(board.block)):
        short = 0
        for r in range(len(board.need)):
            short += board.least_mover[r] > board.block[block].most[r]
        if short == 0:
            return 1
    return 0


@inner
def place_failed(board: Board, options: Ints, last: bool) -> None:
    """Retries components that found no capacity. Then, in the order of the generation, lower tiers move out
    of the way of those that still find none. last: what is put off has its turn.
    """
    for clears in range(1 + _may_move(board)):
        for k in range(board.size[RAN] if clears else board.components):
            component = board.item[k].ran if clears else k
            if component < board.components and _is_tried_again(board, component, last):
                _place_again(board, component, options[component], clears)


@inner
def _place_again(board: Board, component: int, options: Ints, clears: int) -> None:
    """Runs a component that found no capacity again: as things are, then (clears 1) with lower tiers moved
    elsewhere.

    What moves without use for the component, or does not help, is undone.
    """
    way, ways = -1, _ways_to_clear(board, component) if clears else 0
    while way < ways:
        held, boots = board.size[HELD], board.size[BOOTS]  # stores that were restored before stay
        starts, sheds = board.size[STARTS], board.size[SHEDS]
        runs = way < 0 or _make_way(board, component, way)
        if runs:
            run_item(board, component, options, AGAIN)
            if board.item[component].at < NEVER and (board.size[PINNED] or not _is_idle(board, sheds)):
                return
        if way >= 0:
            _stays_put(board, starts)
            undo(board, held, starts, sheds, boots)
            give_up(board, component)
        if board.item[component].why != FAILED_ROOM:
            return
        # Where so many rows cannot be cleared for a member, more cannot either.
        way = way + 1 if runs else (way // MOST_ROWS + 1) * MOST_ROWS


@inner
def _ways_to_clear(board: Board, component: int) -> int:
    """How many ways `_make_way` may try for a component."""
    if board.size[PINNED]:
        return 1
    members = board.heap[board.base[MEMBER] + component + 1] - board.heap[board.base[MEMBER] + component]
    return members * MOST_ROWS


@inner
def _make_way(board: Board, component: int, way: int) -> bool:
    """Moves what runs on as many rows as way number `way` (from 0) clears, for one member of a component.

    False if that is impossible; what was done until then must be undone.
    """
    starts, sheds = board.size[STARTS], board.size[SHEDS]
    if board.size[PINNED]:
        return _start_pinned(board) and _verify(board, starts) and _stop_pinned(board, sheds)
    service = board.heap[board.heap[board.base[MEMBER] + component] + way // MOST_ROWS]
    rows = way % MOST_ROWS + 1
    if board.service[service].base_starts < rows:
        return False
    board.size[TURN] += 1
    mark, lines = -board.size[TURN], 0
    _bar_unsure(board, mark)
    for _ in range(rows):
        row = _best_row(board, service, sheds + lines, mark)
        if row < 0:
            return False
        board.refused[row] = mark
        more = movers_for(board, service, row, sheds + lines)
        if not _start_elsewhere(board, service, sheds + lines, more, mark):
            return False
        lines += more
    return _verify(board, starts) and _stop(board, sheds, lines)


@inner
def _bar_unsure(board: Board, mark: int) -> None:
    """Marks rows of which no one can say what fits there: those where something of unknown demand starts, and
    those that only tools which cannot be judged boot or free.
    """
    for line in range(board.size[STARTS]):
        row = board.started[line].row
        by_boot = board.row[row].boot_at >= 0 and board.group[board.row[row].group].unsure & BOOT_UNSURE > 0
        if by_boot or board.service[board.started[line].service].unsure:
            board.refused[row] = mark
    for line in range(board.size[SHEDS]):
        row = board.present[board.shed[line].entry].row
        if board.group[board.row[row].group].unsure & SHED_UNSURE:
            board.refused[row] = mark


@inner
def _best_row(board: Board, service: int, first: int, mark: int) -> int:
    """The row that the fewest replicas must leave so that one of a service fits; -1 if there is none. Uses
    the shed log from line `first` on; mark: of rows that are not to be cleared.
    """
    best, fewest = -1, NEVER
    open_spread(board, service)
    rows = board.base[MOVER_ROWS]
    for k in range(board.heap[rows], board.heap[rows + 1]):
        row = board.heap[k]
        if board.refused[row] == mark or not _may_clear(board, service, row):
            continue
        lines = movers_for(board, service, row, first)
        count = 0
        for line in range(first, first + max(lines, 0)):
            count += board.shed[line].count
        if 0 < count < fewest:
            best, fewest = row, count
        if fewest == 1:
            break
    close_spread(board)
    return best


@inner
def _may_clear(board: Board, service: int, row: int) -> bool:
    """Whether a row may take a replica of the open service."""
    if board.group[board.row[row].group].vague:
        return False
    return board.eligible[service, board.row[row].pool] and within_spread(board, service, row) > 0


@inner
def _start_elsewhere(board: Board, service: int, first: int, lines: int, mark: int) -> bool:
    """Starts what leaves a row, as lines of the shed log say, on other rows."""
    for line in range(first, first + lines):
        entry = board.present[board.shed[line].entry]
        victim, count = entry.service, board.shed[line].count
        keep_at_home(board, victim)
        open_spread(board, victim)
        done = 0
        while done < count:
            row = _row_for(board, victim, service, mark)
            if row < 0 or use_row(board, victim, MOVED, row, board.row[row].on_at, 0) == 0:
                break
            done += 1
        close_spread(board)
        leave_home(board, victim)
        board.service[victim].moved += done
        if done < count:
            return False
    return True


@inner
def _row_for(board: Board, victim: int, service: int, mark: int) -> int:
    """The row for one more replica of the open service `victim`: one that `service` cannot use, if any; -1 if
    none has capacity. Keeps off marked rows, and rows of which the capacity is unknown.
    """
    found, base = -1, board.base[GROUP_ROW]
    for block in range(len(board.block)):
        if not may_fit(board, victim, block):
            continue
        for at in range(base + block * BLOCK, min(base + (block + 1) * BLOCK, base + len(board.row))):
            row = board.heap[at]
            if board.refused[row] == mark or not _takes(board, victim, row):
                continue
            if not board.eligible[service, board.row[row].pool] or capacity_for(board, service, row, 1) == 0:
                return row
            found = row if found < 0 else found
        survey(board, block)
    return found


@inner
def _takes(board: Board, victim: int, row: int) -> bool:
    """Whether a row is on and has known capacity for one more replica of the open service."""
    entry = board.row[row]
    fits = entry.on_at >= 0 and board.eligible[victim, entry.pool] and board.group[entry.group].vague == 0
    return fits and capacity_for(board, victim, row, 0) > 0 and within_spread(board, victim, row) > 0


@inner
def _verify(board: Board, starts: int) -> bool:
    """Verifies what started since a line of the log elsewhere; False if that is too late."""
    since = last_end(board, starts)
    for line in range(starts, board.size[STARTS]):
        service = board.service[board.started[line].service]
        if service.again > 0:
            continue
        at, end, by_hand = schedule(board, VERIFY, 0, service.verify, since)
        if end >= board.horizon:
            return False
        service.verify_at[1], service.verify_manual[1], service.again = at, by_hand, max(end, 1)
    return True


@inner
def _stop(board: Board, first: int, lines: int) -> bool:
    """Stops what has moved, line by line; False if that is too late."""
    for _ in range(lines):
        row = board.present[board.shed[board.size[SHEDS]].entry].row
        before = board.size[SHEDS]
        if do_sheds(board, row, 1) >= NEVER or board.size[SHEDS] != before + 1:
            return False
    return board.size[SHEDS] == first + lines


@inner
def _start_pinned(board: Board) -> bool:
    """Starts what an earlier placement moved, where it did."""
    found = False
    for service in range(len(board.service)):
        record, item = board.service[service], board.components + service
        if not record.movable or record.moved > 0:
            continue
        count = board.item[item].pinned_last - board.item[item].pinned_first
        if count > 0:
            if not start_pinned(board, item, service, MOVED, 0):
                return False
            board.service[service].moved = count
            found = True
    return found


@inner
def _stop_pinned(board: Board, first: int) -> bool:
    """Stops what that placement moved."""
    for entry in range(len(board.present)):
        present = board.present[entry]
        if present.to_shed > 0 and board.service[present.service].movable and present.left == present.count:
            note_shed(board, board.size[SHEDS], entry, present.to_shed, present.service)
            if do_sheds(board, present.row, 1) >= NEVER:
                return False
    return board.size[SHEDS] > first


@inner
def _stays_put(board: Board, starts: int) -> None:
    """Forgets what moved since a line of the log of starts, before that is undone."""
    for line in range(starts, board.size[STARTS]):
        if board.started[line].mile == MOVED:
            service = board.service[board.started[line].service]
            service.moved, service.again, service.verify_at[1] = 0, 0, UNKNOWN


@inner
def _is_idle(board: Board, sheds: int) -> bool:
    """Whether something that moved, since a line of the shed log, could have stayed."""
    for line in range(sheds, board.size[SHEDS]):
        entry = board.present[board.shed[line].entry]
        if board.service[entry.service].movable and capacity_for(board, entry.service, entry.row, 1) > 0:
            return True
    return False
