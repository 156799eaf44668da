"""Limits over time: earliest and latest ticks at which unit actions fit, and their reservation.

Each limit has one column a tick with the units held. `jump` leads from a tick that cannot take even
the smallest use to a later one, so that a busy stretch is crossed once (union by path halving).
A set of uses is held by `count` unit actions from the same tick; two sets may be held together
(an action and the hands that do it).
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from numba import njit

from evac.planning.evacuation.board import HELD, JUMP, NEVER, USED, USES, Board


@njit(cache=True)
def _open_tick(board: Board, limit: int, tick: int) -> int:
    """First tick from `tick` on with room for the smallest use of a limit."""
    top = board.limit[limit].cap - board.limit[limit].least
    used, jump = board.ticks[USED, limit], board.ticks[JUMP, limit]
    last = board.width - 1
    while tick < last and used[tick] > top:
        to = jump[tick]
        if to <= tick:
            to = tick + 1
        elif to < last and used[to] > top and jump[to] > to:
            to = jump[to]
        jump[tick] = to
        tick = to
    return tick


@njit(cache=True)
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
        used = board.ticks[USED, limit]
        for tick in range(min(begin + hold, board.limit[limit].high) - 1, begin - 1, -1):
            if used[tick] > top:
                return _open_tick(board, limit, tick + 1) - use.offset
    return at


@njit(cache=True)
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


@njit(cache=True)
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
            used = board.ticks[USED, limit]
            for tick in range(begin, min(begin + hold, board.limit[limit].high)):
                busiest = max(busiest, used[tick])
            most = min(most, (board.limit[limit].cap - busiest) // use.units)
    return most


@njit(cache=True)
def _clash_before(board: Board, uses: int, ticks: int, count: int, at: int) -> int:
    """Latest tick <= `at` at which an action may begin as far as one clash tells."""
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        top = board.limit[limit].cap - count * use.units
        hold = use.hold if use.hold >= 0 else ticks
        begin = at + use.offset
        used = board.ticks[USED, limit]
        for tick in range(begin, min(begin + hold, board.limit[limit].high)):
            if used[tick] > top:
                return tick - hold - use.offset
    return at


@njit(cache=True)
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


@njit(cache=True)
def _hold(board: Board, uses: int, ticks: int, count: int, at: int) -> None:
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        units = count * use.units
        hold = use.hold if use.hold >= 0 else ticks
        begin = at + use.offset
        used = board.ticks[USED, limit]
        for tick in range(begin, begin + hold):
            used[tick] += units
        board.limit[limit].high = max(board.limit[limit].high, begin + hold)


@njit(cache=True)
def reserve(board: Board, uses: int, hands: int, ticks: int, count: int, at: int) -> None:
    """Hold the uses of `count` actions from `at`, and note it so that it can be undone."""
    _hold(board, uses, ticks, count, at)
    _hold(board, hands, ticks, count, at)
    if uses == 0 and hands == 0:
        return
    line = board.held[board.size[HELD]]
    line.uses, line.hands, line.ticks, line.count, line.at = uses, hands, ticks, count, at
    board.size[HELD] += 1


@njit(cache=True)
def _release_set(board: Board, uses: int, ticks: int, count: int, at: int) -> None:
    """Undo a hold. Ticks that were skipped as full may be open again, so their jumps are cut."""
    for k in range(board.heap[board.base[USES] + uses], board.heap[board.base[USES] + uses + 1]):
        use = board.use[board.heap[k]]
        limit = use.limit
        units = count * use.units
        hold = use.hold if use.hold >= 0 else ticks
        begin = at + use.offset
        used = board.ticks[USED, limit]
        for tick in range(begin, begin + hold):
            used[tick] -= units
        board.ticks[JUMP, limit, : board.limit[limit].high] = 0


@njit(cache=True)
def release_to(board: Board, mark: int) -> None:
    """Undo every reservation after the first `mark`."""
    while board.size[HELD] > mark:
        board.size[HELD] -= 1
        line = board.held[board.size[HELD]]
        _release_set(board, line.uses, line.ticks, line.count, line.at)
        _release_set(board, line.hands, line.ticks, line.count, line.at)


@njit(cache=True)
def lift(board: Board, uses: int, hands: int, ticks: int, count: int, at: int) -> None:
    """Take back one reservation of the log, to make it elsewhere; the log closes over it."""
    if uses == 0 and hands == 0:
        return
    for k in range(board.size[HELD] - 1, -1, -1):
        line = board.held[k]
        same = line.uses == uses and line.hands == hands and line.ticks == ticks
        if same and line.count == count and line.at == at:
            last = board.held[board.size[HELD] - 1]
            line.uses, line.hands, line.ticks = last.uses, last.hands, last.ticks
            line.count, line.at = last.count, last.at
            board.size[HELD] -= 1
            break
    _release_set(board, uses, ticks, count, at)
    _release_set(board, hands, ticks, count, at)


@njit(cache=True)
def clear(board: Board) -> None:
    """Nothing is held; only the touched part of each limit is wiped."""
    for limit in range(len(board.limit)):
        top = min(board.limit[limit].high + 1, board.width)
        board.ticks[USED, limit, :top] = 0
        board.ticks[JUMP, limit, :top] = 0
        board.limit[limit].high = 0
    board.size[HELD] = 0
