"""Limits over time, and when an action can happen: with its tools, or by hand if that ends earlier.

Each limit has one column per tick with the units held, and counts the ticks of each stretch that cannot take
even its smallest use, so that a busy stretch is passed over. A set of uses is held by `count` unit actions
from the same tick; two sets may be held together (an action and the hands that do it).
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.board import (
    BEGUN,
    BOOT,
    BOOTS,
    BUDGETS,
    BUSY_PLACES,
    HELD,
    LIFTED,
    MANUAL_SET,
    MANUAL_TICKS,
    NEVER,
    RESERVED,
    SHED,
    STRETCH,
    TOOL,
    UNKNOWN,
    USES,
    Board,
)


@inner
def _open_tick(board: Board, limit: int, tick: int) -> int:
    """First tick from `tick` on with capacity for the smallest use of a limit."""
    top = board.limit[limit].cap - board.limit[limit].least
    used, full = board.used[limit], board.full[limit]
    last = board.width - 1
    while tick < last and used[tick] > top:
        tick += 1
        while tick % STRETCH == 0 and tick + STRETCH <= last and full[tick // STRETCH] == STRETCH:
            tick += STRETCH
    return tick


@inner
def _pushed(board: Board, uses: int, ticks: int, count: int, at: int) -> int:
    """The earliest possible start of an action wanted at `at`, considering a single clash."""
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        top = board.limit[limit].cap - count * use.units
        if top < 0:
            return NEVER
        hold = use.hold if use.hold >= 0 else ticks
        begin = at + use.offset
        used = board.used[limit]
        for tick in range(min(begin + hold, board.limit[limit].high) - 1, begin - 1, -1):
            if used[tick] > top:
                return _open_tick(board, limit, tick + 1) - use.offset
    return at


@inner
def earliest(board: Board, uses: int, hands: int, ticks: int, count: int, since: int) -> int:
    """Least tick >= since at which `count` actions fit and end within the horizon; NEVER if none."""
    at = since
    while at + ticks <= board.horizon:
        then = _pushed(board, uses, ticks, count, at)
        if then == at and hands > 0:
            then = _pushed(board, hands, ticks, count, at)
        if then == at:
            return at
        at = then
    return NEVER


@inner
def _still_held(board: Board, line: int) -> bool:
    """Whether all is still held that was when a line of `busy` was written."""
    busy = board.busy[line]
    if busy.lifted != board.size[LIFTED] or busy.length > board.size[HELD]:
        return False
    return busy.length == 0 or board.held[busy.length - 1].serial == busy.serial


@inner
def _is_of(board: Board, line: int, uses: int, hands: int, ticks: int, count: int) -> bool:
    """Whether a line of `busy` is about such actions, and still true."""
    busy = board.busy[line]
    same = busy.uses == uses and busy.hands == hands and busy.ticks == ticks and busy.count == count
    return same and _still_held(board, line)


@inner
def _copy_busy(board: Board, line: int, other: int) -> None:
    here, there = board.busy[line], board.busy[other]
    here.uses, here.hands, here.ticks, here.count = there.uses, there.hands, there.ticks, there.count
    here.since, here.until = there.since, there.until
    here.length, here.serial, here.lifted = there.length, there.serial, there.lifted


@inner
def soonest(board: Board, uses: int, hands: int, ticks: int, count: int, since: int) -> int:
    """Like `earliest`, but goes on where the same search ended before: what was busy then still is, while all
    that was held is.
    """
    if uses == 0 and hands == 0:
        return earliest(board, uses, hands, ticks, count, since)
    old = 2 * ((((uses * 31 + hands) * 31 + count) * 31 + ticks) % BUSY_PLACES)
    new = old + 1
    begin, is_old, is_new = since, False, False
    if _is_of(board, old, uses, hands, ticks, count):
        is_old = True
        if board.busy[old].since <= since <= board.busy[old].until:
            begin = max(begin, board.busy[old].until)
    if _is_of(board, new, uses, hands, ticks, count):
        is_new = True
        if board.busy[new].since <= since <= board.busy[new].until:
            begin = max(begin, board.busy[new].until)
    at = earliest(board, uses, hands, ticks, count, begin) if begin < NEVER else NEVER
    if begin > since and at == begin:
        return at
    if is_new and board.busy[new].length <= board.size[BEGUN]:
        _copy_busy(board, old, new)
        is_old, is_new = True, False
    line = new if is_old and board.size[HELD] > board.size[BEGUN] else old
    busy = board.busy[line]
    busy.uses, busy.hands, busy.ticks, busy.count = uses, hands, ticks, count
    busy.since, busy.until, busy.lifted = since, at, board.size[LIFTED]
    busy.length, busy.serial = board.size[HELD], 0
    if busy.length > 0:
        busy.serial = board.held[busy.length - 1].serial
    return at


@inner
def fits_at(board: Board, uses: int, hands: int, ticks: int, at: int) -> int:
    """How many actions fit at a tick."""
    most = NEVER
    for chosen in (uses, hands):
        for k in range(board.heap[board.base[USES] + chosen], board.heap[board.base[USES] + chosen + 1]):
            use = board.use[board.heap[k]]
            limit = use.limit
            hold = use.hold if use.hold >= 0 else ticks
            begin = at + use.offset
            busiest = 0
            used = board.used[limit]
            for tick in range(begin, min(begin + hold, board.limit[limit].high)):
                busiest = max(busiest, used[tick])
            most = min(most, (board.limit[limit].cap - busiest) // use.units)
    return most


@inner
def _clash_before(board: Board, uses: int, ticks: int, count: int, at: int) -> int:
    """Latest tick <= `at` at which an action may begin, considering a single clash."""
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        top = board.limit[limit].cap - count * use.units
        hold = use.hold if use.hold >= 0 else ticks
        begin = at + use.offset
        used = board.used[limit]
        for tick in range(begin, min(begin + hold, board.limit[limit].high)):
            if used[tick] > top:
                return tick - hold - use.offset
    return at


@inner
def latest(board: Board, uses: int, hands: int, ticks: int, count: int, since: int, until: int) -> int:
    """Greatest tick in [since, until] at which `count` actions fit; -1 if none."""
    at = until
    while at >= since:
        then = _clash_before(board, uses, ticks, count, at)
        if then == at and hands > 0:
            then = _clash_before(board, hands, ticks, count, at)
        if then == at:
            return at
        at = min(then, at - 1)
    return -1


@inner
def hold(board: Board, uses: int, ticks: int, count: int, at: int) -> None:
    """Holds (or with a negative count releases) a set of uses, and counts full ticks."""
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        units = count * use.units
        top = board.limit[limit].cap - board.limit[limit].least
        begin = at + use.offset
        end = begin + (use.hold if use.hold >= 0 else ticks)
        used, full = board.used[limit], board.full[limit]
        for tick in range(begin, end):
            before = used[tick] > top
            used[tick] += units
            after = used[tick] > top
            if after != before:
                full[tick // STRETCH] += 1 if after else -1
        board.limit[limit].high = max(board.limit[limit].high, end)


@inner
def reserve(board: Board, uses: int, hands: int, ticks: int, count: int, at: int) -> None:
    """Holds the uses of `count` actions from `at`, and logs it for undo."""
    hold(board, uses, ticks, count, at)
    hold(board, hands, ticks, count, at)
    if uses == 0 and hands == 0:
        return
    line = board.held[board.size[HELD]]
    line.uses, line.hands, line.ticks, line.count, line.at = uses, hands, ticks, count, at
    board.size[RESERVED] += 1
    line.serial = board.size[RESERVED]
    board.size[HELD] += 1


@inner
def release_to(board: Board, mark: int) -> None:
    """Undoes every reservation after the first `mark`."""
    while board.size[HELD] > mark:
        board.size[HELD] -= 1
        line = board.held[board.size[HELD]]
        hold(board, line.uses, line.ticks, -line.count, line.at)
        hold(board, line.hands, line.ticks, -line.count, line.at)


@inner
def lift(board: Board, uses: int, hands: int, ticks: int, count: int, at: int) -> None:
    """Removes one reservation from the log, to make it elsewhere."""
    if uses == 0 and hands == 0:
        return
    board.size[LIFTED] += 1
    for k in range(board.size[HELD] - 1, -1, -1):
        line = board.held[k]
        same = line.uses == uses and line.hands == hands and line.ticks == ticks
        if same and line.count == count and line.at == at:
            last = board.held[board.size[HELD] - 1]
            line.uses, line.hands, line.ticks = last.uses, last.hands, last.ticks
            line.count, line.at = last.count, last.at
            board.size[HELD] -= 1
            break
    hold(board, uses, ticks, -count, at)
    hold(board, hands, ticks, -count, at)


@inner
def clear(board: Board) -> None:
    """Releases everything; only the touched part of each limit is cleared."""
    for limit in range(len(board.limit)):
        top = min(board.limit[limit].high + 1, board.width)
        board.used[limit, :top] = 0
        board.full[limit, : top // STRETCH + 1] = 0
        board.limit[limit].high = 0
    board.size[HELD] = 0
    board.size[LIFTED] += 1


@inner
def tool_at(board: Board, kind: int) -> int:
    """Tick from which the tools of a kind serve; UNKNOWN while one of them is not scheduled yet."""
    at = 0
    for k in range(board.heap[board.base[TOOL] + kind], board.heap[board.base[TOOL] + kind + 1]):
        tool = board.heap[k]
        if board.item[board.service[tool].component].at == UNKNOWN:
            return UNKNOWN
        at = max(at, board.service[tool].base_at)
    return at


@inner
def when(board: Board, kind: int, uses: int, ticks: int, count: int, since: int) -> tuple[int, int, int]:
    """(tick, ticks it takes, done by hand) of `count` actions that end first; tick NEVER if none can."""
    return _best(board, kind, uses, ticks, count, since, since)


@inner
def _best(
    board: Board, kind: int, uses: int, ticks: int, count: int, since: int, by_hand_since: int
) -> tuple[int, int, int]:
    """Like `when`, with a separate first tick for people: a search may continue where it ended."""
    tools = tool_at(board, kind)
    at, by_hand, length = NEVER, 0, ticks
    if 0 <= tools < NEVER:
        at = soonest(board, uses, 0, ticks, count, max(since, tools))
    manual = board.heap[board.base[MANUAL_TICKS] + kind]
    if manual >= 0 and tools != 0:
        slow = max(ticks, manual)
        if at == NEVER or by_hand_since + slow < at + ticks:
            people = board.heap[board.base[MANUAL_SET] + kind]
            then = soonest(board, uses, people, slow, count, by_hand_since)
            if then < NEVER and (at == NEVER or then + slow < at + ticks):
                at, by_hand, length = then, 1, slow
    return at, length, by_hand


@inner
def begin_item(board: Board) -> None:
    """Records where boots are searched from, in case the item is undone."""
    board.size[BEGUN] = board.size[HELD]
    for group in board.group:
        group.boot_begun, group.hand_begun = group.boot_since, group.hand_since


@inner
def back_to_begun(board: Board) -> None:
    """After the item's holds are released, resumes the search for boots from where it was."""
    for group in board.group:
        group.boot_bound, group.boot_since, group.hand_since = 0, group.boot_begun, group.hand_begun


@inner
def hands(board: Board, kind: int, by_hand: int) -> int:
    """The use set of the people who do a step; empty if tools do it."""
    return board.heap[board.base[MANUAL_SET] + kind] if by_hand else 0


@inner
def schedule(board: Board, kind: int, uses: int, ticks: int, since: int) -> tuple[int, int, int]:
    """Places one action at its best tick and holds its uses; returns (tick, end, done by hand)."""
    at, length, by_hand = when(board, kind, uses, ticks, 1, since)
    if at >= NEVER:
        return NEVER, NEVER, 0
    reserve(board, uses, hands(board, kind, by_hand), length, 1, at)
    return at, at + length, by_hand


@inner
def boot_end(board: Board, group: int) -> int:
    """When a server of a dark group could be on, if it were booted next."""
    at, length, _ = _boot_when(board, group)
    return at + length if at < NEVER else NEVER


@inner
def _boot_when(board: Board, group: int) -> tuple[int, int, int]:
    """The next boot of a group: holds only grow, so the search continues where the last one ended.

    A self-starting server comes on with its power, without staff. If only people can boot it, the group has
    their time and staff uses, and no tool is waited for.
    """
    line = board.group[group]
    if line.by_itself:
        late = line.ready + line.boot_ticks > board.horizon
        return (NEVER if late else line.ready), line.boot_ticks, 0
    if line.by_hand:
        at = earliest(board, line.boot_set, 0, line.boot_ticks, 1, line.boot_since)
        if at < NEVER:
            line.boot_since = at
        return at, line.boot_ticks, 1
    at, length, by_hand = _best(
        board, BOOT, line.boot_set, line.boot_ticks, 1, line.boot_since, line.hand_since
    )
    if by_hand and at < NEVER:
        line.hand_since = at
    elif at < NEVER:
        line.boot_since = at
    return at, length, by_hand


@inner
def power_allows(board: Board, row: int) -> bool:
    """Whether every budget of a row has its watts left."""
    place = board.base[BUDGETS] + board.row[row].budgets
    for k in range(board.heap[place], board.heap[place + 1]):
        if board.budget[board.heap[k]].left < board.row[row].watts:
            return False
    return True


@inner
def draw_power(board: Board, row: int, sign: int) -> None:
    """Takes (1) or returns (-1) the watts of a row from its budgets."""
    place = board.base[BUDGETS] + board.row[row].budgets
    for k in range(board.heap[place], board.heap[place + 1]):
        board.budget[board.heap[k]].left -= sign * board.row[row].watts


@inner
def boot(board: Board, row: int, group: int) -> bool:
    """Schedules the boot of a row of a dark group, and lists it with its pool."""
    at, length, by_hand = _boot_when(board, group)
    if at >= NEVER:
        return False
    end = at + length
    people = 0 if board.group[group].by_hand else hands(board, BOOT, by_hand)
    reserve(board, board.group[group].boot_set, people, length, 1, at)
    board.row[row].boot_at, board.row[row].on_at, board.row[row].boot_manual = at, end, by_hand
    draw_power(board, row, 1)
    pool = board.row[row].pool
    board.row[board.pool[pool].first_dark + board.pool[pool].booted_count].booted = row
    board.pool[pool].booted_count += 1
    board.row[board.size[BOOTS]].boot_log = row
    board.size[BOOTS] += 1
    return True


@inner
def step_length(board: Board, kind: int, regular: int, by_hand: int) -> int:
    """Ticks a step of a kind takes that takes `regular` ticks with tools."""
    return max(regular, board.heap[board.base[MANUAL_TICKS] + kind]) if by_hand else regular


@inner
def shed_length(board: Board, service: int, by_hand: int) -> int:
    """Ticks a shed takes."""
    return step_length(board, SHED, board.service[service].shed, by_hand)


@inner
def latest_shed(board: Board, pool: int, service: int, count: int, by_hand: int, since: int, end: int) -> int:
    """Last tick at which a shed can begin and still end by `end`; -1 if none."""
    length = shed_length(board, service, by_hand)
    manual = hands(board, SHED, by_hand)
    return latest(board, board.pool[pool].shed_set, manual, length, count, since, end - length)
