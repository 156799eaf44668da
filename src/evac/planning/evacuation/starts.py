"""Where and when replicas start: chooses rows together with their start ticks.

The source whose next replica can start first is used; rows with unknown free capacity come last.

A placement can also be kept while only its times are searched: `remember` keeps the rows and sheds of the
generation on the board, and with `PINNED` set the next ones reuse them, at a fraction of the cost.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner, kernel
from evac.planning.evacuation.asked import EAGER, ask, bars
from evac.planning.evacuation.board import (
    BLOCK,
    BY_HAND_LAST,
    ENTRY,
    GROUP_ROW,
    LEVEL,
    MANUAL_TICKS,
    NEVER,
    ON_ROW,
    PINNED,
    SHEDS,
    SOURCES,
    START,
    STARTS,
    TURN,
    VERSION,
    VICTIM,
    VICTIMS,
    Board,
    capacity_for,
    may_fit,
    survey,
    take,
    within_spread,
)
from evac.planning.evacuation.shedding import (
    do_sheds,
    freed_capacity,
    last_level,
    next_shed_row,
    note_shed,
    sheds_end,
    sheds_for,
)
from evac.planning.evacuation.sources import (
    BOOTED,
    DARK,
    FREED,
    LAST,
    MOVED,
    ON,
    VERY_LAST,
    add,
    ask_eager,
    drop,
    first_of,
)
from evac.planning.evacuation.timing import (
    boot,
    boot_end,
    fits_at,
    hands,
    latest,
    lift,
    power_allows,
    reserve,
    when,
)


@inner
def _item_of(board: Board, line: int) -> int:
    entry = board.started[line]
    if entry.mile > 0:
        return board.components + entry.service
    return board.service[entry.service].component


@kernel
def remember(board: Board) -> None:
    """Remembers the rows of every start by item, in log order, and the sheds of every row."""
    count = board.size[STARTS]
    for item in board.item:
        item.pinned_first, item.pinned_last = 0, 0
    for line in range(count):
        board.item[_item_of(board, line)].pinned_last += 1
    total = 0
    for item in board.item:
        item.pinned_first = total
        total += item.pinned_last
        item.pinned_last = item.pinned_first
    for line in range(count):
        item = board.item[_item_of(board, line)]
        board.pinned[item.pinned_last] = line
        item.pinned_last += 1
    for entry in board.present:
        entry.to_shed = 0
    for line in range(board.size[SHEDS]):
        board.present[board.shed[line].entry].to_shed += board.shed[line].count
    for k in range(count):
        line = board.pinned[k]
        board.pinned[k] = board.started[line].row * len(board.service) + board.started[line].service


@kernel
def keep_rows(board: Board, keep: int) -> None:
    """Makes rows pinned (1) or chosen (0) from now on."""
    board.size[PINNED] = keep


@inner
def _shed_pinned(board: Board, service: int, row: int) -> int:
    """Sheds what the placement sheds of lower tiers on a row, but for what is; returns when the last ends."""
    lines = 0
    for k in range(board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]):
        entry, present = board.heap[k], board.present[board.heap[k]]
        pending = present.to_shed - (present.count - present.left)
        if pending > 0 and board.service[present.service].tier > board.service[service].tier:
            if board.size[SHEDS] + lines >= len(board.shed):
                return NEVER
            note_shed(board, board.size[SHEDS] + lines, entry, pending, service)
            lines += 1
    return do_sheds(board, row, lines)


@inner
def _ready(board: Board, service: int, row: int, since: int) -> tuple[int, int]:
    """When a replica may start on its row: (tick, whether it waits for a shed)."""
    if board.row[row].on_at < 0 and not boot(board, row, board.row[row].group):
        return NEVER, 0
    ready, waits = max(since, board.row[row].on_at), 0
    if capacity_for(board, service, row, 0) < 1:
        waits = 1
        ready = max(ready, _shed_pinned(board, service, row))
        if capacity_for(board, service, row, 1) < 1:
            return NEVER, 0
    return ready, waits


@inner
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
    """Whether a replica can start on a row at any time: on, with capacity, without a shed."""
    return board.row[row].on_at == 0 and capacity_for(board, service, row, 0) > 0


@inner
def _flush(board: Board, service: int, pool: int, batch: int, at: int, length: int, by_hand: int) -> None:
    """Holds the uses of a batch of starts of one pool and tick."""
    if batch > 0:
        reserve(board, board.pool[pool].start_set, hands(board, START, by_hand), length, batch, at)


@inner
def start_pinned(board: Board, item: int, service: int, mile: int, since: int) -> bool:
    """Starts the replicas of a service on the rows pinned for an item; False if one cannot."""
    services = len(board.service)
    at, most, length, by_hand, pool, batch, done = since, 0, 0, 0, -1, 0, 0
    for k in range(board.item[item].pinned_first, board.item[item].pinned_last):
        row, owner = board.pinned[k] // services, board.pinned[k] % services
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


@inner
def _is_vague(board: Board, service: int, group: int) -> bool:
    """Whether the free amount of something that a service needs is unknown on the rows of a group."""
    vague = board.group[group].vague
    for r in range(len(board.need) if vague else 0):
        if board.service[service].demand[r] > 0 and vague >> r & 1 > 0:
            return True
    return False


@inner
def _open_sources(board: Board, service: int, since: int, shed_level: int, eager: int) -> None:
    """Opens all stocks that a service may use; times are lower limits until examined."""
    board.size[SOURCES] = 0
    for group in range(len(board.group)):
        pool = board.group[group].pool
        if not board.eligible[service, pool]:
            continue
        if board.group[group].dark:
            add(board, DARK, group, max(since, board.group[group].boot_bound))
        else:
            add(board, ON, group, VERY_LAST if _is_vague(board, service, group) else since)
    for pool in range(len(board.pool)):
        if board.eligible[service, pool] and board.pool[pool].last_dark > board.pool[pool].first_dark:
            add(board, BOOTED, pool, since)
    if board.heap[board.base[VICTIMS] + 1] > board.heap[board.base[VICTIMS]]:
        board.size[LEVEL], board.size[VICTIM], board.size[ENTRY] = 0, 0, -1
        board.size[TURN] += 1
        board.size[VERSION] += 1
        add(board, FREED, shed_level, since if eager else LAST)


@inner
def _reopen_booted(board: Board, service: int, since: int) -> None:
    """Reopens servers with planned boots, which now include those that this item booted."""
    for pool in range(len(board.pool)):
        if board.eligible[service, pool] and board.pool[pool].booted_count > board.pool[pool].first_booted:
            add(board, BOOTED, pool, since)


@inner
def _fits_now(board: Board, service: int, row: int) -> bool:
    """Whether one replica fits on a row that is on and not avoided, without a shed."""
    return (
        capacity_for(board, service, row, 0) > 0
        and within_spread(board, service, row) > 0
        and not bars(board, row)
    )


@inner
def _next_on(board: Board, service: int, source: int) -> int:
    """Next row of an on-group with capacity, and the cursor on it; -1 if there is none."""
    line = board.source[source]
    group = line.number
    at, base = max(line.cursor, board.group[group].first_open), board.base[GROUP_ROW]
    while at < board.group[group].last:
        block = (at - base) // BLOCK
        whole = at == base + block * BLOCK
        end = min(base + (block + 1) * BLOCK, board.group[group].last)
        if not may_fit(board, service, block):
            at = end
            continue
        while at < end:
            row = board.heap[at]
            if _fits_now(board, service, row):
                line.cursor = at
                return row
            at += 1
        if whole:
            survey(board, block)
    line.cursor = at
    return -1


@inner
def _next_booted(board: Board, service: int, source: int) -> int:
    """Next row of a pool with a planned boot and capacity."""
    line = board.source[source]
    pool = line.number
    first = board.pool[pool].first_dark
    at = max(line.cursor, first + board.pool[pool].first_booted)
    while at < first + board.pool[pool].booted_count:
        row = board.row[at].booted
        if _fits_now(board, service, row):
            line.cursor = at
            return row
        at += 1
    line.cursor = at
    return -1


@inner
def _next_dark(board: Board, service: int, source: int) -> int:
    """Next dark row of a group that may be booted and would have capacity."""
    line = board.source[source]
    group = line.number
    at = max(line.cursor, board.group[group].next_dark)
    while at < board.group[group].last:
        row = board.heap[at]
        if board.row[row].on_at < 0 and _fits_now(board, service, row) and power_allows(board, row):
            line.cursor = at
            return row
        at += 1
    line.cursor = at
    return -1


@inner
def _start_when(board: Board, service: int, pool: int, since: int) -> tuple[int, int, int]:
    return when(board, START, board.pool[pool].start_set, board.service[service].start, 1, since)


@inner
def _look(board: Board, service: int, source: int, since: int) -> int:
    """Next row of a source, with its tick updated; -1 if the source is used up.

    If only people can boot it, and no one has to go there anyway, the row is for when nothing else is left;
    if its free amount is unknown, for when not even that is.
    """
    line = board.source[source]
    kind = line.kind
    ready = since
    row = -1
    last = False
    if kind == ON:
        row = _next_on(board, service, source)
    elif kind == BOOTED:
        row = _next_booted(board, service, source)
        if row >= 0:
            ready = max(since, board.row[row].on_at)
    elif kind == DARK:
        row = _next_dark(board, service, source)
        if row >= 0:
            end = boot_end(board, line.number)
            board.group[line.number].boot_bound = end
            ready = max(since, end)
            last = board.group[line.number].by_hand == BY_HAND_LAST
    else:
        return _look_freed(board, service, source, since)
    if row < 0 or ready >= NEVER:
        return -1
    at, _, _ = _start_when(board, service, board.row[row].pool, ready)
    if at >= NEVER:
        return -1
    if kind == ON and _is_vague(board, service, line.number):
        line.time = VERY_LAST
    else:
        line.time = LAST if last and board.size[SOURCES] > 1 else at
    return row


@inner
def _look_freed(board: Board, service: int, source: int, since: int) -> int:
    """Like `_look`, for rows freed by sheds; if they take turns, the row is for when nothing else is left."""
    line = board.source[source]
    row = next_shed_row(board, service, line.number)
    while row >= 0:
        ready, in_turns = _shed_ready(board, service, row)
        at = NEVER
        if ready < NEVER:
            at, _, _ = _start_when(board, service, board.row[row].pool, max(since, ready))
        if at < NEVER:
            line.time = LAST if in_turns and board.size[SOURCES] > 1 else at
            return row
        board.refused[row] = board.size[VERSION]
        row = next_shed_row(board, service, line.number)
    return -1


@inner
def _shed_ready(board: Board, service: int, row: int) -> tuple[int, bool]:
    if capacity_for(board, service, row, 0) > 0:
        return 0, False
    lines = sheds_for(board, service, row, board.size[LEVEL])
    return sheds_end(board, row, lines) if lines >= 0 else (NEVER, False)


@inner
def _first_source(board: Board, service: int, since: int, taste: int, favour: int) -> int:
    """The source that can start a replica first, examined; -1 if all are used up."""
    while board.size[SOURCES] > 0:
        best = first_of(board, taste, favour)
        if best < 0:
            return -1
        best_time = board.source[best].time
        if _look(board, service, best, since) < 0:
            drop(board, best)
        elif board.source[best].time <= best_time:
            return best
    return -1


@inner
def _use_on(board: Board, service: int, mile: int, source: int, count: int, since: int) -> int:
    """Starts replicas on rows of an on-group at the first possible tick; returns how many, at most
    `count`.
    """
    line = board.source[source]
    pool = board.group[line.number].pool
    uses, ticks = board.pool[pool].start_set, board.service[service].start
    at, length, by_hand = when(board, START, uses, ticks, 1, since if line.time == VERY_LAST else line.time)
    most = min(count, fits_at(board, uses, hands(board, START, by_hand), length, at))
    done = 0
    while done < most:
        row = _next_on(board, service, source)
        if row < 0:
            break
        here = min(capacity_for(board, service, row, 0), within_spread(board, service, row))
        for _ in range(min(here, most - done)):
            take(board, service, mile, row, at, by_hand, 0)
            done += 1
    if done > 0:
        reserve(board, uses, hands(board, START, by_hand), length, done, at)
    return done


@inner
def use_row(board: Board, service: int, mile: int, row: int, ready: int, waits: int) -> int:
    """Starts one replica on a row at the earliest tick from `ready` on; returns 1, or 0 if impossible."""
    uses = board.pool[board.row[row].pool].start_set
    at, length, by_hand = _start_when(board, service, board.row[row].pool, ready)
    if at >= NEVER:
        return 0
    reserve(board, uses, hands(board, START, by_hand), length, 1, at)
    take(board, service, mile, row, at, by_hand, waits)
    return 1


@inner
def _use_freed(board: Board, service: int, mile: int, row: int, since: int) -> int:
    if capacity_for(board, service, row, 0) > 0:
        return use_row(board, service, mile, row, since, 0)
    lines = sheds_for(board, service, row, board.size[LEVEL])
    if lines < 0:
        return 0
    end = do_sheds(board, row, lines)
    return 0 if end >= NEVER else use_row(board, service, mile, row, max(since, end), 1)


@inner
def _capacity_in_group(board: Board, service: int, group: int, wanted: int) -> int:
    """Replicas of the open service that rows of a group have capacity for, counting each row separately;
    stops at `wanted`.
    """
    total, base = 0, board.base[GROUP_ROW]
    at = board.group[group].first
    while at < board.group[group].last and total < wanted:
        block = (at - base) // BLOCK
        end = min(base + (block + 1) * BLOCK, board.group[group].last)
        if may_fit(board, service, block):
            for place in range(at, end):
                row = board.heap[place]
                here = capacity_for(board, service, row, 0)
                if here > 0 and (board.row[row].on_at >= 0 or power_allows(board, row)):
                    total += max(0, min(here, within_spread(board, service, row)))
        at = end
    return total


@inner
def enough_capacity(board: Board, service: int, wanted: int) -> bool:
    """Whether `wanted` replicas of the open service may fit without any shed; True is not a promise."""
    total = 0
    for group in range(len(board.group)):
        if total < wanted and board.eligible[service, board.group[group].pool]:
            total += _capacity_in_group(board, service, group, wanted - total)
    return total + freed_capacity(board, service, wanted) >= wanted


@inner
def start_replicas(
    board: Board,
    service: int,
    mile: int,
    count: int,
    since: int,
    taste: int,
    eager: int,
    favour: int,
) -> bool:
    """Starts `count` replicas of the open service at or after `since`; False if they do not all fit.

    taste, favour: which stock is used first if several are ready; eager 1: sheds compete with waiting for
    boots, and tops may shed too. What starts again elsewhere sheds only to serve, if it fits nowhere else.
    """
    level = last_level(board, service) if mile == 0 or eager == 1 else 0
    if mile == 1 and last_level(board, service) > 0:
        ask(board, EAGER)
    if mile == MOVED:
        serve = board.service[service].left + count <= board.service[service].serves
        level, eager = last_level(board, service) if serve else -1, 0
    if level <= 0 and not enough_capacity(board, service, count):
        return False
    _open_sources(board, service, since, level, eager)
    sheds = board.heap[board.base[VICTIMS] + 1] > board.heap[board.base[VICTIMS]]
    left, booted = count, False
    while left > 0:
        source = _first_source(board, service, since, taste, favour)
        if source < 0 and booted:
            booted = False
            _reopen_booted(board, service, since)
            continue
        if source < 0:
            return False
        if sheds and mile != MOVED:
            ask_eager(board, source, since)
        line = board.source[source]
        kind, cursor = line.kind, line.cursor
        if kind == ON:
            done = _use_on(board, service, mile, source, left, since)
        elif kind == BOOTED:
            row = board.row[cursor].booted
            done = use_row(board, service, mile, row, max(since, board.row[row].on_at), 0)
        elif kind == DARK:
            row = board.heap[cursor]
            done = 0
            if boot(board, row, line.number):
                done = use_row(board, service, mile, row, max(since, board.row[row].on_at), 0)
                booted = True
        else:
            done = _use_freed(board, service, mile, board.present[board.size[ENTRY]].row, since)
        if done == 0:
            return False
        left -= done
    return True


@inner
def last_end(board: Board, mark: int) -> int:
    """When the last start since `mark` of the log has ended."""
    end = 0
    for k in range(mark, board.size[STARTS]):
        entry = board.started[k]
        end = max(end, entry.at + start_length(board, entry.service, entry.manual))
    return end


@inner
def start_length(board: Board, service: int, by_hand: int) -> int:
    """Ticks a start takes."""
    slow = board.heap[board.base[MANUAL_TICKS] + START] if by_hand else 0
    return max(board.service[service].start, slow)


@inner
def delay_starts(board: Board, mark: int, end: int) -> None:
    """Delays starts that wait for sheds as long as they still end by `end`."""
    for k in range(board.size[STARTS] - 1, mark - 1, -1):
        entry = board.started[k]
        if entry.waits == 0:
            continue
        uses = board.pool[board.row[entry.row].pool].start_set
        by_hand = entry.manual
        length = start_length(board, entry.service, by_hand)
        manual = hands(board, START, by_hand)
        lift(board, uses, manual, length, 1, entry.at)
        at = latest(board, uses, manual, length, 1, entry.at, end - length)
        if at > entry.at:
            entry.at = at
        reserve(board, uses, manual, length, 1, entry.at)
