"""Serial schedule generation: milestones in an order of priority, each as early as it can be.

Whatever an item waits for is generated first, so every order is feasible. An item that does not fit or
would not hold before the horizon is undone as a whole. Rows are chosen as the item is scheduled.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from evac.planning.evacuation.board import (
    BOOTS,
    CANDIDATE,
    CANDIDATE_CLASS,
    CANDIDATE_SET,
    CANDIDATE_TICKS,
    FENCE,
    FLOOR,
    GIVEN,
    HELD,
    LEVELLED,
    MEMBER,
    NEED_STORE,
    NEVER,
    PROMOTE,
    SHEDS,
    SHIFT,
    SOFT,
    STARTS,
    UNKNOWN,
    VERIFY,
    WAIT,
    Board,
    Ints,
)
from evac.planning.evacuation.given import start_given
from evac.planning.evacuation.profile import clear, release_to
from evac.planning.evacuation.room import close_spread, is_full, open_spread, untake_to
from evac.planning.evacuation.shedding import delay_sheds_of, undo_sheds_to
from evac.planning.evacuation.sources import delay_starts, last_end, start_replicas
from evac.planning.evacuation.timing import draw_power, schedule, when

GRACE_FACTOR = 16
"""How much more a tick counts after the grace than before, where there is one."""


@njit(cache=True)
def reset(board: Board) -> None:
    """Nothing is scheduled."""
    clear(board)
    board.size[:LEVELLED] = 0
    for budget in board.budget:
        budget.left = budget.room
    for row in board.row:
        row.on_at = UNKNOWN if row.dark else 0
        row.boot_at = UNKNOWN
        row.shed_end = 0
        for r in range(board.vector.shape[1]):
            row.free[r] = row.room[r]
            row.unshed[r] = row.room[r]
    for entry in board.present:
        entry.left = entry.count
    for pool in board.pool:
        pool.booted_count = 0
    for item in board.item:
        item.done, item.at = 0, UNKNOWN
    for store in board.store:
        store.primary_at, store.candidate = UNKNOWN, UNKNOWN
    for service in board.service:
        _reset_service(service)
    _rewind(board)


@njit(cache=True)
def _reset_service(service: Any) -> None:
    service.head = UNKNOWN
    service.left = service.surviving
    service.base_at = NEVER if service.base_lost else 0
    service.top_at, service.top_own, service.top_done = UNKNOWN, UNKNOWN, 0
    service.verify_at[0] = service.verify_at[1] = service.shift_at = UNKNOWN


@njit(cache=True)
def _rewind(board: Board) -> None:
    """Pointers that skip what is full or booted stand at the beginning again."""
    for pool in board.pool:
        pool.first_booted = 0
    for group in range(len(board.group)):
        board.group[group].first_open = board.group[group].first
        board.group[group].next_dark = board.group[group].first
        board.group[group].boot_bound = 0


@njit(cache=True)
def _advance(board: Board) -> None:
    """Let pointers skip rows that can take nothing any more."""
    for group in range(len(board.group)):
        end = board.group[group].last
        if board.group[group].dark == 0:
            at = board.group[group].first_open
            while at < end and is_full(board, board.heap[at]):
                at += 1
            board.group[group].first_open = at
        else:
            at = board.group[group].next_dark
            while at < end and board.row[board.heap[at]].on_at >= 0:
                at += 1
            board.group[group].next_dark = at
    for pool in range(len(board.pool)):
        first, at = board.pool[pool].first_dark, board.pool[pool].first_booted
        while at < board.pool[pool].booted_count and is_full(board, board.row[first + at].booted):
            at += 1
        board.pool[pool].first_booted = at


@njit(cache=True)
def _undo(board: Board, held: int, starts: int, sheds: int, boots: int) -> None:
    """Back to the lengths the logs had: holds, starts, sheds and boots since then are undone."""
    release_to(board, held)
    untake_to(board, starts)
    undo_sheds_to(board, sheds)
    while board.size[BOOTS] > boots:
        board.size[BOOTS] -= 1
        row = board.row[board.size[BOOTS]].boot_log
        draw_power(board, row, -1)
        board.row[row].on_at = UNKNOWN
        board.row[row].boot_at = UNKNOWN
        board.pool[board.row[row].pool].booted_count -= 1
    _rewind(board)


@njit(cache=True)
def recover_store(board: Board, store: int) -> int:
    """Fence and promote a store; the tick its primary is there. Equally fresh copies race."""
    if board.store[store].primary_at != UNKNOWN:
        return board.store[store].primary_at
    board.store[store].primary_at = NEVER
    first, last = board.store[store].first_candidate, board.store[store].last_candidate
    if first == last:
        return NEVER
    at, fenced, by_hand = schedule(board, FENCE, board.store[store].fence_set, board.store[store].fence, 0)
    if at >= NEVER:
        return NEVER
    best, best_end = first, NEVER
    for k in range(first, last):
        if (
            board.heap[board.base[CANDIDATE_CLASS] + k] > board.heap[board.base[CANDIDATE_CLASS] + best]
            and best_end < NEVER
        ):
            break
        begin, length, _ = when(
            board,
            PROMOTE,
            board.heap[board.base[CANDIDATE_SET] + k],
            board.heap[board.base[CANDIDATE_TICKS] + k],
            1,
            fenced,
        )
        if begin < NEVER and begin + length < best_end:
            best, best_end = k, begin + length
    begin, end, hand = schedule(
        board,
        PROMOTE,
        board.heap[board.base[CANDIDATE_SET] + best],
        board.heap[board.base[CANDIDATE_TICKS] + best],
        fenced,
    )
    board.store[store].fence_at, board.store[store].fence_manual = at, by_hand
    board.store[store].promote_at, board.store[store].promote_manual = begin, hand
    board.store[store].candidate = board.heap[board.base[CANDIDATE] + best]
    board.store[store].primary_at = end
    return end


@njit(cache=True)
def ready_at(board: Board, component: int) -> int:
    """When all a component waits for is there: other components and stores. Generates the stores."""
    at = 0
    for k in range(board.heap[board.base[WAIT] + component], board.heap[board.base[WAIT] + component + 1]):
        at = max(at, board.item[board.heap[k]].at)
    for k in range(
        board.heap[board.base[NEED_STORE] + component], board.heap[board.base[NEED_STORE] + component + 1]
    ):
        at = max(at, recover_store(board, board.heap[k]))
    return at


@njit(cache=True)
def _start(board: Board, item: int, service: int, mile: int, count: int, since: int, options: Ints) -> bool:
    """Start replicas on the rows given for the item, or on rows chosen now."""
    if board.size[GIVEN]:
        return start_given(board, item, service, mile, since)
    return start_replicas(board, service, mile, count, since, options[0], options[1], options[2])


@njit(cache=True)
def _start_members(board: Board, component: int, since: int, options: Ints) -> bool:
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        if board.service[service].base_starts == 0:
            continue
        open_spread(board, service)
        fits = _start(board, component, service, 0, board.service[service].base_starts, since, options)
        close_spread(board)
        if not fits:
            return False
    return True


@njit(cache=True)
def _verify_members(board: Board, component: int, since: int) -> int:
    """Verify and shift every member; when the last of them serves."""
    end = since
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        at, then, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, since)
        board.service[service].verify_at[0], board.service[service].verify_manual[0] = at, by_hand
        if board.service[service].shift and then < NEVER:
            at, then, by_hand = schedule(
                board, SHIFT, board.service[service].shift_set, board.service[service].shift_ticks, then
            )
            board.service[service].shift_at, board.service[service].shift_manual = at, by_hand
        end = max(end, then)
    return end


@njit(cache=True)
def _is_out(board: Board, component: int) -> bool:
    """Whether a member can never return: its store does not, or its survivors were shed."""
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        if board.service[service].blocked or board.service[service].left < board.service[service].surviving:
            return True
    return False


@njit(cache=True)
def _base(board: Board, component: int, options: Ints) -> None:
    """Generate the base of a component, or undo all of it."""
    board.item[component].at = NEVER
    if _is_out(board, component):
        return
    since = ready_at(board, component)
    if since >= NEVER:
        return
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    end = NEVER
    if _start_members(board, component, since, options):
        started = max(since, last_end(board, starts))
        delay_starts(board, starts, started)
        delay_sheds_of(board, sheds, starts)
        end = _verify_members(board, component, started)
    if end >= board.horizon:
        _undo(board, held, starts, sheds, boots)
        for k in range(
            board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
        ):
            board.service[board.heap[k]].verify_at[0] = UNKNOWN
            board.service[board.heap[k]].shift_at = UNKNOWN
        return
    board.item[component].at = end
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        board.service[board.heap[k]].base_at = end


@njit(cache=True)
def _top(board: Board, service: int, options: Ints) -> None:
    """Generate the top of a service, or undo all of it."""
    board.service[service].top_own = NEVER
    since = 0
    if (
        board.service[service].base_at >= NEVER
        or board.service[service].left < board.service[service].surviving
    ):
        return
    if board.service[service].base_lost:
        since = ready_at(board, board.service[service].component)
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    open_spread(board, service)
    item = board.components + service
    fits = _start(board, item, service, 1, board.service[service].top_starts, since, options)
    close_spread(board)
    end = NEVER
    if fits:
        started = max(since, last_end(board, starts))
        delay_starts(
            board, starts, max(started, board.service[service].base_at - board.service[service].verify)
        )
        delay_sheds_of(board, sheds, starts)
        started = max(since, last_end(board, starts))
        at, end, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, started)
        board.service[service].verify_at[1], board.service[service].verify_manual[1] = at, by_hand
    if end >= board.horizon:
        _undo(board, held, starts, sheds, boots)
        board.service[service].verify_at[1] = UNKNOWN
        return
    board.service[service].top_own = end
    board.service[service].top_done = True


@njit(cache=True)
def _wants(board: Board, item: int) -> bool:
    """Whether an item needs generating: a component with a lost base, a top with starts."""
    components = board.components
    if item < components:
        return board.heap[board.base[MEMBER] + item + 1] > board.heap[board.base[MEMBER] + item]
    return board.service[item - components].top_starts > 0


@njit(cache=True)
def _push_needs(board: Board, item: int, depth: int) -> int:
    """Push what an item waits for and is not generated; the new depth of the stack."""
    components = board.components
    if item >= components:
        own = board.service[item - components].component
        if board.service[item - components].base_lost and not board.item[own].done:
            board.item[depth].stack = own
            depth += 1
        return depth
    for k in range(board.heap[board.base[WAIT] + item], board.heap[board.base[WAIT] + item + 1]):
        if not board.item[board.heap[k]].done and depth < len(board.item):
            board.item[depth].stack = board.heap[k]
            depth += 1
    return depth


@njit(cache=True)
def cost(board: Board, at: int) -> int:
    """What one unit of weight pays when its milestone holds from a tick on, as the search counts it."""
    until = min(at, board.horizon)
    if board.grace == 0:
        return until
    return GRACE_FACTOR * max(0, until - board.grace) + until


@njit(cache=True)
def _price(board: Board, item: int) -> int:
    """What an item adds to the objective at the least, now that it is generated."""
    components = board.components
    if item >= components:
        service = item - components
        return board.service[service].top_weight * cost(
            board, max(board.service[service].base_at, board.service[service].top_own)
        )
    total = 0
    for k in range(board.heap[board.base[MEMBER] + item], board.heap[board.base[MEMBER] + item + 1]):
        service = board.heap[k]
        total += board.service[service].base_weight * cost(board, board.service[service].base_at)
        if board.service[service].top_starts == 0:
            total += board.service[service].top_weight * cost(board, board.service[service].base_at)
    return total


@njit(cache=True)
def generate(board: Board, order: Ints, options: Ints, limit: int) -> int:
    """Generate all items in an order; the searched objective, or NEVER as soon as it exceeds `limit`.

    order: items by priority; options: (items, 3) taste, eager and favoured pool of each.
    """
    reset(board)
    paid, level, reached = 0, 0, 0
    for k in range(len(order)):
        depth = 1
        board.item[0].stack = order[k]
        while depth > 0:
            item = board.item[depth - 1].stack
            if board.item[item].done:
                depth -= 1
                continue
            deeper = _push_needs(board, item, depth)
            if deeper > depth:
                depth = deeper
                continue
            depth -= 1
            board.item[item].done = 1
            if not _wants(board, item):
                if item < board.components:
                    board.item[item].at = 0
                continue
            if board.size[LEVELLED] and board.item[item].level > level:
                level, board.size[FLOOR] = board.item[item].level, reached
            _run(board, item, options[item])
            reached = max(reached, _end(board, item))
            paid += _price(board, item)
            if paid > limit:
                return NEVER
    for store in range(len(board.store)):
        recover_store(board, store)
    return finish(board)


@njit(cache=True)
def _run(board: Board, item: int, options: Ints) -> None:
    components = board.components
    if item < components:
        _base(board, item, options)
    else:
        _top(board, item - components, options)
    _advance(board)


@njit(cache=True)
def _end(board: Board, item: int) -> int:
    """When an item is done; 0 where it never is."""
    top = item >= board.components
    at = board.service[item - board.components].top_own if top else board.item[item].at
    return at if at < NEVER else 0


@njit(cache=True)
def _shed_times(board: Board) -> None:
    """When sheds take top and base away: the replica in time that goes below the floor decides the base."""
    for service in board.service:
        service.top_shed_at = service.base_shed_at = NEVER
    count = board.size[SHEDS]
    if count == 0:
        return
    left = np.array([service.surviving for service in board.service], np.int64)
    at = np.array([board.shed[k].at for k in range(count)], np.int64)
    for line in np.argsort(at, kind="mergesort"):
        shed = board.shed[line]
        number = board.present[shed.entry].service
        service = board.service[number]
        left[number] -= shed.count
        service.top_shed_at = min(service.top_shed_at, shed.at)
        if left[number] < service.serves:
            service.base_shed_at = min(service.base_shed_at, shed.at)


@njit(cache=True)
def outage(board: Board, back: int, gone: int) -> int:
    """Ticks of [0, H) without a milestone that holds in [back, gone), counted from the grace on."""
    horizon = board.horizon
    late = max(0, min(back, horizon) - board.grace)
    return min(horizon, late + horizon - min(gone, horizon))


@njit(cache=True)
def finish(board: Board) -> int:
    """Times of tops, soft dependencies and sheds included; the objective as the search counts it."""
    _shed_times(board)
    total = 0
    for service in range(len(board.service)):
        top = max(board.service[service].base_at, board.service[service].top_own)
        if board.service[service].top_starts > 0 and board.service[service].top_own == UNKNOWN:
            top = NEVER
        gone = min(board.service[service].top_shed_at, board.service[service].base_shed_at)
        for k in range(board.heap[board.base[SOFT] + service], board.heap[board.base[SOFT] + service + 1]):
            other = board.heap[k]
            top = max(top, board.service[other].base_at)
            gone = min(gone, board.service[other].base_shed_at)
        board.service[service].top_at = top
        board.service[service].top_shed_at = gone
        total += board.service[service].base_weight * _value(
            board, board.service[service].base_at, board.service[service].base_shed_at
        )
        total += board.service[service].top_weight * _value(board, top, gone)
    return total


@njit(cache=True)
def _value(board: Board, back: int, gone: int) -> int:
    """Outage as the search counts it: ticks within the grace count a little."""
    if board.grace == 0:
        return outage(board, back, gone)
    horizon = board.horizon
    plain = min(horizon, min(back, horizon) + horizon - min(gone, horizon))
    return GRACE_FACTOR * outage(board, back, gone) + plain


@njit(cache=True)
def objective(board: Board) -> int:
    """Weighted person-ticks of a finished generation: the Z of the model."""
    total = 0
    for service in range(len(board.service)):
        base, top = board.service[service].base_shed_at, board.service[service].top_shed_at
        total += board.service[service].base_weight * outage(board, board.service[service].base_at, base)
        total += board.service[service].top_weight * outage(board, board.service[service].top_at, top)
    return total
