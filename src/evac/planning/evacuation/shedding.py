"""What may be shed for which service, row by row: lowest tier first, surplus replicas first, no more than
needed.

Levels say how far shedding goes: 0 takes only what is no longer useful; then tier by tier from the lowest,
first replicas above the smallest count that serves, then whole services.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.asked import bars
from evac.planning.evacuation.board import (
    ENTRY,
    HARD_USER,
    HELD,
    LEFTOVERS,
    LEVEL,
    MOVERS,
    NEVER,
    ON_ROW,
    SHED,
    SHEDS,
    STARTS,
    TURN,
    VERSION,
    VICTIM,
    VICTIMS,
    Board,
    capacity_for,
    within_spread,
)
from evac.planning.evacuation.timing import hands, latest_shed, lift, release_to, reserve, shed_length, when


@inner
def base_is_shed(board: Board, service: int) -> bool:
    """Whether a shed has taken the base of a service for good. One that is down counts as gone with the first
    survivor that is shed; when leftovers are used, the other survivors serve if they are enough.
    """
    record = board.service[service]
    if record.base_lost:
        enough = min(record.surviving, record.serves) if board.size[LEFTOVERS] else record.surviving
        return record.left < enough
    return record.left + record.moved < record.serves


@inner
def is_dead(board: Board, service: int) -> bool:
    """Whether a service will not be there at the end, as far as known."""
    if board.service[service].base_lost:
        at = board.item[board.service[service].component].at
        if (
            board.service[service].blocked
            or at >= NEVER
            or (board.service[service].written_off == 1 and at < 0)
        ):
            return True
    return base_is_shed(board, service)


@inner
def keep_at_home(board: Board, service: int) -> None:
    """Restricts a running service to sites where it ran, so that its users find it, until `leave_home`."""
    board.size[TURN] += 1
    for k in range(board.service[service].first_present, board.service[service].last_present):
        site = board.row[board.present[k].row].site
        if site >= 0:
            board.place[site].fits = board.size[TURN]
    for pool in range(len(board.pool)):
        site = board.pool[pool].site
        at_home = site >= 0 and board.place[site].fits == board.size[TURN]
        board.pool[pool].eligible = board.eligible[service, pool]
        board.eligible[service, pool] = at_home and board.eligible[service, pool]


@inner
def leave_home(board: Board, service: int) -> None:
    """Allows a service again wherever it may run."""
    for pool in range(len(board.pool)):
        board.eligible[service, pool] = board.pool[pool].eligible > 0


@inner
def _is_needed(board: Board, service: int) -> bool:
    """Whether a live service hard-depends on it."""
    for k in range(
        board.heap[board.base[HARD_USER] + service], board.heap[board.base[HARD_USER] + service + 1]
    ):
        if not is_dead(board, board.heap[k]):
            return True
    return False


@inner
def last_level(board: Board, service: int) -> int:
    """The highest level allowed for a service: only strictly lower tiers are shed."""
    return 2 * (board.last_tier - board.service[service].tier)


@inner
def _may_shed(board: Board, entry: int, level: int) -> int:
    """Replicas of an entry of `present` that a level allows shedding."""
    service = board.present[entry].service
    here = board.present[entry].left - board.present[entry].kept
    if here <= 0:
        return 0
    if board.service[service].moved > 0:
        return 0
    tier_level = 1 + 2 * (board.last_tier - board.service[service].tier)
    waits = board.item[board.service[service].component].at < 0
    above = max(0, min(here, board.service[service].left - board.service[service].serves))
    if board.service[service].spared:
        free = not board.service[service].top_done and (waits or not board.service[service].base_lost)
        return above if free and level >= tier_level else 0
    if is_dead(board, service):
        return here
    if board.service[service].base_lost:
        return here if waits and level > tier_level and not _is_needed(board, service) else 0
    if board.service[service].top_done:
        return 0
    if level > tier_level and not _is_needed(board, service):
        return here
    touched = board.service[service].left < board.service[service].surviving
    return above if touched or level >= tier_level else 0


@inner
def _covered(board: Board) -> bool:
    short = 0
    for r in range(len(board.need)):
        short += board.need[r] > 0
    return short == 0


@inner
def _enough(board: Board, victim: int, most: int) -> int:
    """Replicas of a victim that cover the needed part of its resources, at most `most`."""
    count = 0
    for r in range(len(board.need)):
        demand = board.service[victim].demand[r]
        if board.need[r] > 0 and demand > 0:
            count = max(count, -(-board.need[r] // demand))
    return min(count, most)


@inner
def note_shed(board: Board, line: int, entry: int, count: int, service: int) -> None:
    """Writes a shed for a service into a line of the log; it is not executed yet."""
    shed = board.shed[line]
    shed.entry, shed.count, shed.service = entry, count, service
    for r in range(len(board.need)):
        board.need[r] -= count * board.service[board.present[entry].service].demand[r]


@inner
def _put_back(board: Board, first: int, last: int) -> int:
    """Drops unneeded sheds from lines first..last-1, most valuable first."""
    for line in range(last - 1, first - 1, -1):
        victim = board.present[board.shed[line].entry].service
        spare = NEVER
        for r in range(len(board.need)):
            if board.service[victim].demand[r] > 0:
                spare = min(spare, -board.need[r] // board.service[victim].demand[r])
        back = min(spare, board.shed[line].count)
        board.shed[line].count -= back
        for r in range(len(board.need)):
            board.need[r] += back * board.service[victim].demand[r]
    return without_empty(board, first, last)


@inner
def without_empty(board: Board, first: int, last: int) -> int:
    """Drops lines first..last-1 of the shed log that shed nothing; returns the line after the last kept."""
    kept = first
    for line in range(first, last):
        shed, here = board.shed[line], board.shed[kept]
        if shed.count > 0:
            here.entry, here.count, here.service = shed.entry, shed.count, shed.service
            here.at, here.manual, here.end_before = shed.at, shed.manual, shed.end_before
            kept += 1
    return kept


@inner
def _could_cover(board: Board, service: int, row: int) -> bool:
    """Whether a replica of a service would fit on a row if everything below its tier were shed."""
    first, last = board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]
    for r in range(len(board.need)):
        need = board.service[service].demand[r] - board.row[row].free[r]
        for k in range(first, last):
            if need <= 0:
                break
            entry = board.present[board.heap[k]]
            if board.service[entry.service].tier > board.service[service].tier:
                need -= entry.left * board.service[entry.service].demand[r]
        if need > 0:
            return False
    return True


@inner
def sheds_for(board: Board, service: int, row: int, level: int) -> int:
    """Fewest sheds on a row that let one replica of `service` fit; returns how many lines they take, -1 if
    impossible.

    They are written after the end of the shed log and are not executed yet. If they would go too late for
    the service, those that would are passed over; if that is still too late, the quickest are taken.
    """
    if not _could_cover(board, service, row):
        return -1
    lines = _least_sheds(board, service, row, level, False)
    if lines <= 0 or not _is_late(board, service, _end_in_turn(board, row, lines)):
        return lines
    lines = _least_sheds(board, service, row, level, True)
    if lines > 0 and not _is_late(board, service, _end_in_turn(board, row, lines)):
        return lines
    quick = _quickest_sheds(board, service, row, level)
    return quick if quick > 0 else _least_sheds(board, service, row, level, True)


@inner
def _is_late(board: Board, service: int, at: int) -> bool:
    """Whether a replica of a service that starts at a tick cannot serve before the horizon."""
    record = board.service[service]
    shift = record.shift_ticks if record.shift and record.base_at >= NEVER else 0
    return at + record.start + record.verify + shift >= board.horizon


@inner
def _least_sheds(board: Board, service: int, row: int, level: int, in_time: bool) -> int:
    """Like `sheds_for`, for a row where all lower tiers together would free capacity. in_time: passes over
    victims that would go too late.
    """
    for r in range(len(board.need)):
        board.need[r] = board.service[service].demand[r] - board.row[row].free[r]
    first = board.size[SHEDS]
    last = first
    for k in range(board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]):
        if _covered(board) or last + 1 >= len(board.shed):
            break
        entry = board.heap[k]
        victim = board.present[entry].service
        if board.service[victim].tier <= board.service[service].tier:
            continue
        count = _enough(board, victim, _may_shed(board, entry, level))
        if in_time and count > 0:
            at, length, _, _ = _shed_when(board, row, victim, 1)
            count = 0 if _is_late(board, service, at + length) else count
        if count > 0:
            note_shed(board, last, entry, count, service)
            last += 1
    if not _covered(board):
        return -1
    return _put_back(board, first, last) - first


@inner
def _quickest_sheds(board: Board, service: int, row: int, level: int) -> int:
    """Like `_least_sheds`, but takes first what covers the need in the least time, one after the other."""
    for r in range(len(board.need)):
        board.need[r] = board.service[service].demand[r] - board.row[row].free[r]
    first = board.size[SHEDS]
    last = first
    while not _covered(board) and last + 1 < len(board.shed):
        found, found_count, least = -1, 0, NEVER
        for k in range(board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]):
            entry = board.heap[k]
            victim = board.present[entry].service
            lower = board.service[victim].tier > board.service[service].tier
            most = _may_shed(board, entry, level) if lower else 0
            count = 0 if _is_noted(board, entry, first, last) else _enough(board, victim, most)
            ticks = count * (board.service[victim].shed + 1) * _times_over(board, victim, count)
            if count > 0 and ticks < least:
                found, found_count, least = entry, count, ticks
        if found < 0:
            return -1
        note_shed(board, last, found, found_count, service)
        last += 1
    return _put_back(board, first, last) - first


@inner
def _is_noted(board: Board, entry: int, first: int, last: int) -> bool:
    noted = 0
    for line in range(first, last):
        noted += board.shed[line].entry == entry
    return noted > 0


@inner
def _times_over(board: Board, victim: int, count: int) -> int:
    """How many times as much as so many replicas of a victim free is needed, at least 1."""
    times = 1
    for r in range(len(board.need)):
        demand = max(count, 1) * board.service[victim].demand[r]
        if board.need[r] > 0 and demand > 0:
            times = max(times, -(-board.need[r] // demand))
    return times


@inner
def movers_for(board: Board, service: int, row: int, first: int) -> int:
    """Fewest replicas of movable lower tiers that must leave a row to let one replica of `service` fit.
    Returns how many lines they take, -1 if that is not enough; 0 if it fits as it is.

    They are written from line `first` of the shed log on. What has moved already, and serves, stays.
    """
    for r in range(len(board.need)):
        board.need[r] = board.service[service].demand[r] - board.row[row].free[r]
    last = first
    for k in range(board.heap[board.base[MOVERS] + row], board.heap[board.base[MOVERS] + row + 1]):
        if _covered(board) or last + 1 >= len(board.shed):
            break
        entry = board.heap[k]
        victim = board.service[board.present[entry].service]
        settled = victim.moved > 0 and victim.again > 0
        here = board.present[entry].left - board.present[entry].kept
        if here > 0 and victim.tier > board.service[service].tier and not settled:
            count = _enough(board, board.present[entry].service, here)
            note_shed(board, last, entry, count, service)
            last += 1
    if not _covered(board):
        return -1
    return _put_back(board, first, last) - first


@inner
def _shed_when(board: Board, row: int, victim: int, count: int) -> tuple[int, int, int, int]:
    """(tick, ticks it takes, done by hand, replicas) of a shed of as many replicas at once as possible.

    If `count` can never go at once, because of staff or a small limit, it is halved until some can; tick
    NEVER if not even one can. What moved goes once its replacement serves.
    """
    uses, ticks = board.pool[board.row[row].pool].shed_set, board.service[victim].shed
    since = board.service[victim].again
    at, length, by_hand = when(board, SHED, uses, ticks, count, since)
    while at >= NEVER and count > 1:
        count = (count + 1) // 2
        at, length, by_hand = when(board, SHED, uses, ticks, count, since)
    return at, length, by_hand, count


@inner
def sheds_end(board: Board, row: int, lines: int) -> tuple[int, bool]:
    """When the sheds written by `sheds_for` could have ended, each by itself, and whether one is split."""
    end, in_turns = board.row[row].shed_end, False
    for line in range(board.size[SHEDS], board.size[SHEDS] + lines):
        victim = board.present[board.shed[line].entry].service
        at, length, _, count = _shed_when(board, row, victim, board.shed[line].count)
        if at >= NEVER:
            return NEVER, False
        end, in_turns = max(end, at + length), in_turns or count < board.shed[line].count
    return end, in_turns


@inner
def _end_in_turn(board: Board, row: int, lines: int) -> int:
    """When the sheds written by `sheds_for` would have ended if each of them was done in turn."""
    end, held = board.row[row].shed_end, board.size[HELD]
    uses = board.pool[board.row[row].pool].shed_set
    for line in range(board.size[SHEDS], board.size[SHEDS] + lines):
        left = board.shed[line].count
        while left > 0 and end < NEVER and board.size[HELD] + 1 < len(board.held):
            victim = board.present[board.shed[line].entry].service
            at, length, by_hand, count = _shed_when(board, row, victim, left)
            if at < NEVER:
                reserve(board, uses, hands(board, SHED, by_hand), length, count, at)
            end, left = max(end, at + length if at < NEVER else NEVER), left - count
    release_to(board, held)
    return end


@inner
def _split(board: Board, line: int, last: int, count: int) -> bool:
    """Leaves `count` replicas in a line and writes the rest after it, before those up to `last`."""
    if last >= len(board.shed):
        return False
    for k in range(last, line, -1):
        here, before = board.shed[k], board.shed[k - 1]
        here.entry, here.count, here.service = before.entry, before.count, before.service
    board.shed[line + 1].count -= count
    board.shed[line].count = count
    return True


@inner
def do_sheds(board: Board, row: int, lines: int) -> int:
    """Executes the sheds written by `sheds_for`, each as early as possible; returns when the last has ended.

    NEVER if one is impossible; earlier ones are executed then.
    """
    uses = board.pool[board.row[row].pool].shed_set
    board.size[VERSION] += 1
    line, last = board.size[SHEDS], board.size[SHEDS] + lines
    while line < last:
        entry = board.shed[line].entry
        victim = board.present[entry].service
        at, length, by_hand, count = _shed_when(board, row, victim, board.shed[line].count)
        if at >= NEVER:
            return NEVER
        if count < board.shed[line].count:
            if not _split(board, line, last, count):
                return NEVER
            last += 1
        reserve(board, uses, hands(board, SHED, by_hand), length, count, at)
        board.shed[line].at, board.shed[line].manual = at, by_hand
        line += 1
        board.size[SHEDS] = line
        board.shed[line - 1].end_before = board.row[row].shed_end
        board.present[entry].left -= count
        board.service[victim].left -= count
        for r in range(len(board.need)):
            board.row[row].free[r] += count * board.service[victim].demand[r]
        board.row[row].shed_end = max(board.row[row].shed_end, at + length)
    return board.row[row].shed_end


@inner
def end_of(board: Board, line: int) -> int:
    """When a shed has ended."""
    shed = board.shed[line]
    return shed.at + shed_length(board, board.present[shed.entry].service, shed.manual)


@inner
def delay_shed(board: Board, line: int, end: int) -> None:
    """Delays a shed as long as it still ends by `end`, because its outage counts from its start."""
    entry, count, by_hand = board.shed[line].entry, board.shed[line].count, board.shed[line].manual
    row, victim = board.present[entry].row, board.present[entry].service
    uses = board.pool[board.row[row].pool].shed_set
    length = shed_length(board, victim, by_hand)
    at = board.shed[line].at
    lift(board, uses, hands(board, SHED, by_hand), length, count, at)
    at = max(at, latest_shed(board, board.row[row].pool, victim, count, by_hand, at, end))
    reserve(board, uses, hands(board, SHED, by_hand), length, count, at)
    board.shed[line].at = at
    board.row[row].shed_end = max(board.row[row].shed_end, at + length)


@inner
def undo_sheds_to(board: Board, mark: int) -> None:
    """Undoes sheds after the first `mark` lines; their holds are undone with the log of holds."""
    while board.size[SHEDS] > mark:
        board.size[SHEDS] -= 1
        line = board.size[SHEDS]
        entry, count = board.shed[line].entry, board.shed[line].count
        row, victim = board.present[entry].row, board.present[entry].service
        board.present[entry].left += count
        board.row[row].shed_end = board.shed[line].end_before
        board.service[victim].left += count
        for r in range(len(board.need)):
            board.row[row].free[r] -= count * board.service[victim].demand[r]


@inner
def freed_capacity(board: Board, service: int, wanted: int) -> int:
    """Approximate number of replicas of a service that would fit in useless capacity of lower tiers, and in
    what sheds left over.
    """
    total = 0
    for line in range(board.size[SHEDS] if board.size[LEFTOVERS] else 0):
        row = board.present[board.shed[line].entry].row
        if board.eligible[service, board.row[row].pool]:
            total += min(wanted, capacity_for(board, service, row, 1))
    for k in range(board.heap[board.base[VICTIMS]], board.heap[board.base[VICTIMS] + 1]):
        victim = board.heap[k]
        record = board.service[victim]
        if record.tier <= board.service[service].tier:
            continue
        dead = is_dead(board, victim)
        if not dead and record.left == record.surviving:
            continue
        idle = record.left if dead else max(0, record.left - record.serves)
        share = NEVER
        for r in range(len(board.need)):
            need = board.service[service].demand[r]
            if need > 0:
                share = min(share, -(-idle * record.demand[r] // need))
        total += share if share < NEVER else 0
    return total


@inner
def next_shed_row(board: Board, service: int, level_end: int) -> int:
    """Next row, from the cursor on, where sheds of the cursor's level free capacity; -1 when there is none.

    The cursor is (level, place in victims, entry of present) and stays on the row that is found. A row is
    looked at once where several victims stand on it: `refused` has minus the turn where it cannot take the
    service whatever is shed, and the version where it cannot at this level after the sheds so far.
    """
    size = board.size
    first = board.heap[board.base[VICTIMS]]
    while size[LEVEL] <= level_end:
        tier_wanted = -1 if size[LEVEL] == 0 else board.last_tier - (size[LEVEL] - 1) // 2
        while first + size[VICTIM] < board.heap[board.base[VICTIMS] + 1]:
            victim = board.heap[first + size[VICTIM]]
            size[ENTRY] = max(size[ENTRY], board.service[victim].first_present)
            if _is_victim(board, service, victim, tier_wanted):
                row = _row_of_victim(board, service, victim)
                if row >= 0:
                    return row
            size[VICTIM] += 1
            size[ENTRY] = -1
        size[LEVEL] += 1
        size[VERSION] += 1
        size[VICTIM], size[ENTRY] = 0, -1
    return -1


@inner
def _is_victim(board: Board, service: int, victim: int, tier_wanted: int) -> bool:
    lower = board.service[victim].tier > board.service[service].tier
    stands = board.service[victim].left == board.service[victim].surviving
    if stands and board.service[victim].movable:
        return False  # nothing of it is shed, and it has left nothing
    if tier_wanted >= 0:
        return lower and board.service[victim].tier == tier_wanted
    if not stands:
        return lower or board.size[LEFTOVERS] > 0
    return lower and is_dead(board, victim)


@inner
def _row_of_victim(board: Board, service: int, victim: int) -> int:
    size = board.size
    never, not_now = -size[TURN], size[VERSION]
    entry, last = size[ENTRY], board.service[victim].last_present
    while entry < last:
        row = board.present[entry].row
        known_turn = board.refused[row]
        if known_turn != never and known_turn != not_now and board.row[row].on_at >= 0:
            if _is_hopeless(board, service, row):
                board.refused[row] = never
            elif (
                capacity_for(board, service, row, 1) > 0
                or _least_sheds(board, service, row, size[LEVEL], False) >= 0
            ):
                size[ENTRY] = entry
                return row
            else:
                board.refused[row] = not_now
        entry += 1
    size[ENTRY] = entry
    return -1


@inner
def _is_hopeless(board: Board, service: int, row: int) -> bool:
    """Whether a row can take no replica of the open service in this turn, whatever is shed."""
    if not board.eligible[service, board.row[row].pool] or within_spread(board, service, row) <= 0:
        return True
    return not _could_cover(board, service, row) or bars(board, row)


@inner
def delay_sheds_of(board: Board, shed_mark: int, start_mark: int) -> None:
    """Delays the sheds since `shed_mark` to end just before the first start since `start_mark` that needs
    them.
    """
    for line in range(shed_mark, board.size[SHEDS]):
        row = board.present[board.shed[line].entry].row
        first = NEVER
        for k in range(start_mark, board.size[STARTS]):
            if board.started[k].row == row and board.started[k].waits == 1:
                first = min(first, board.started[k].at)
        if first < NEVER:
            delay_shed(board, line, first)
