"""Limits over time: earliest and latest ticks at which unit actions fit, and their reservation.

Each limit has one column a tick with the units held, and counts the ticks of each stretch that cannot
take even its smallest use, so that a busy stretch is passed over.
A set of uses is held by `count` unit actions from the same tick; two sets may be held together
(an action and the hands that do it).
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from evac.planning.compiled import inner
from evac.planning.evacuation.board import HELD, NEVER, RELEASED, STRETCH, USES, Board


@inner
def _open_tick(board: Board, limit: int, tick: int) -> int:
    """First tick from `tick` on with room for the smallest use of a limit."""
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
    """Where an action that wants to begin at `at` may begin at the earliest as far as one clash tells."""
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
    """Latest tick <= `at` at which an action may begin as far as one clash tells."""
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
def _hold(board: Board, uses: int, ticks: int, count: int, at: int) -> None:
    """Hold (or with a negative count release) a set of uses, and keep count of full ticks."""
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
    """Hold the uses of `count` actions from `at`, and note it so that it can be undone."""
    _hold(board, uses, ticks, count, at)
    _hold(board, hands, ticks, count, at)
    if uses == 0 and hands == 0:
        return
    line = board.held[board.size[HELD]]
    line.uses, line.hands, line.ticks, line.count, line.at = uses, hands, ticks, count, at
    board.size[HELD] += 1


@inner
def release_to(board: Board, mark: int) -> None:
    """Undo every reservation after the first `mark`."""
    if board.size[HELD] > mark:
        board.size[RELEASED] += 1
    while board.size[HELD] > mark:
        board.size[HELD] -= 1
        line = board.held[board.size[HELD]]
        _hold(board, line.uses, line.ticks, -line.count, line.at)
        _hold(board, line.hands, line.ticks, -line.count, line.at)


@inner
def lift(board: Board, uses: int, hands: int, ticks: int, count: int, at: int) -> None:
    """Take back one reservation of the log, to make it elsewhere; the log closes over it."""
    if uses == 0 and hands == 0:
        return
    board.size[RELEASED] += 1
    for k in range(board.size[HELD] - 1, -1, -1):
        line = board.held[k]
        same = line.uses == uses and line.hands == hands and line.ticks == ticks
        if same and line.count == count and line.at == at:
            last = board.held[board.size[HELD] - 1]
            line.uses, line.hands, line.ticks = last.uses, last.hands, last.ticks
            line.count, line.at = last.count, last.at
            board.size[HELD] -= 1
            break
    _hold(board, uses, ticks, -count, at)
    _hold(board, hands, ticks, -count, at)


@inner
def clear(board: Board) -> None:
    """Nothing is held; only the touched part of each limit is wiped."""
    for limit in range(len(board.limit)):
        top = min(board.limit[limit].high + 1, board.width)
        board.used[limit, :top] = 0
        board.full[limit, : top // STRETCH + 1] = 0
        board.limit[limit].high = 0
    board.size[HELD] = 0
    board.size[RELEASED] += 1
