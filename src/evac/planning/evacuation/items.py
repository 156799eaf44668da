"""Places one item on the board: stores, then starts, verify and shift of a base or a top, or nothing of it.

An item that does not fit or would not hold before the horizon is undone as a whole. Rows are chosen as
the item is scheduled, or were pinned before.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, Final

from evac.planning.compiled import inner
from evac.planning.evacuation.asked import ROWS, bar
from evac.planning.evacuation.board import (
    ASKER,
    BOOTS,
    CANDIDATE,
    CANDIDATE_FREE,
    CANDIDATE_LOSS,
    CANDIDATE_SENT,
    CANDIDATE_SET,
    CANDIDATE_TICKS,
    CANDIDATE_UNTIL,
    EVENTS,
    FAILED_ROOM,
    FAILED_TIME,
    FENCE,
    HELD,
    LEVELLED,
    MEMBER,
    NEED_STORE,
    NEED_UP,
    NEVER,
    PINNED,
    PROMOTE,
    RAN,
    RECOVERED,
    SHEDS,
    SHIFT,
    SPOILED,
    START_STORE,
    START_WAIT,
    STARTS,
    STORE_WAIT,
    UNKNOWN,
    VERIFY,
    WAIT,
    Board,
    Ints,
    close_spread,
    is_full,
    open_spread,
    survey,
    untake_to,
)
from evac.planning.evacuation.shedding import base_is_shed, delay_sheds_of, undo_sheds_to
from evac.planning.evacuation.starts import delay_starts, last_end, start_pinned, start_replicas
from evac.planning.evacuation.timing import (
    back_to_begun,
    begin_item,
    clear,
    draw_power,
    release_to,
    reserve,
    schedule,
    when,
)

PUT_OFF = 2
"""Value of `written_off` of what takes its turn after shed services have started again."""
IN_TURN, AGAIN = range(2)
"""Ways to run an item."""
AT_WORK: Final = 0
"""`at` of a component whose starts are being placed: it counts as alive, so what it needs stays."""


@inner
def reset(board: Board) -> None:
    """Clears the board."""
    clear(board)
    for place in range(LEVELLED):
        board.size[place] = 0
    board.size[ASKER], board.size[EVENTS] = UNKNOWN, 0
    bar(board, UNKNOWN, 0)
    for step in board.outset:
        reserve(board, step.uses, 0, step.ticks, 1, step.at)
    for budget in board.budget:
        budget.left = budget.capacity
    for row in board.row:
        row.on_at = UNKNOWN if row.dark else 0
        row.boot_at = UNKNOWN
        row.shed_end = 0
        for r in range(len(board.need)):
            row.free[r] = row.capacity[r]
            row.unshed[r] = row.capacity[r]
    for block in range(len(board.block)):
        survey(board, block)
    for entry in board.present:
        entry.left = entry.count
    for pool in board.pool:
        pool.booted_count = 0
    for item in board.item:
        item.done, item.at, item.why, item.ahead, item.asked = 0, UNKNOWN, 0, UNKNOWN, 0
    for store in board.store:
        store.primary_at, store.candidate, store.by = UNKNOWN, UNKNOWN, UNKNOWN
        store.until = UNKNOWN
    for service in board.service:
        _reset_service(service)
    _rewind(board)


@inner
def _reset_service(service: Any) -> None:
    service.head = UNKNOWN
    service.left = service.surviving
    service.base_at = NEVER if service.base_lost else 0
    service.top_at, service.top_own, service.top_done = UNKNOWN, UNKNOWN, 0
    service.verify_at[0] = service.verify_at[1] = service.shift_at = UNKNOWN
    service.moved = service.again = 0


@inner
def _rewind(board: Board) -> None:
    """Resets pointers that skip full or booted rows."""
    for pool in board.pool:
        pool.first_booted = 0
    for group in range(len(board.group)):
        board.group[group].first_open = board.group[group].first
        board.group[group].next_dark = board.group[group].first
        board.group[group].boot_bound = 0
        ready = board.group[group].ready
        board.group[group].boot_since, board.group[group].hand_since = ready, ready


@inner
def _advance(board: Board) -> None:
    """Moves pointers past rows that can take nothing more."""
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


@inner
def undo(board: Board, held: int, starts: int, sheds: int, boots: int) -> None:
    """Undoes holds, starts, sheds and boots beyond the given log lengths.

    Pointers over rows stay: they move only between items, and what is undone came later.
    """
    anew = board.size[BOOTS] > boots or (board.size[PINNED] == 0 and board.size[HELD] > held)
    release_to(board, held)
    if anew:
        back_to_begun(board)
    untake_to(board, starts)
    undo_sheds_to(board, sheds)
    while board.size[BOOTS] > boots:
        board.size[BOOTS] -= 1
        row = board.row[board.size[BOOTS]].boot_log
        draw_power(board, row, -1)
        board.row[row].on_at = UNKNOWN
        board.row[row].boot_at = UNKNOWN
        board.pool[board.row[row].pool].booted_count -= 1


@inner
def recover_store(board: Board, store: int, choice: int) -> int:
    """Fences and promotes a store; returns the tick when its primary is there. Equally fresh copies race,
    unless one of them is chosen (1: the first).
    """
    if board.store[store].primary_at != UNKNOWN:
        return board.store[store].primary_at
    ready, needs = 0, board.base[STORE_WAIT] + store
    for k in range(board.heap[needs], board.heap[needs + 1]):
        if board.item[board.heap[k]].at == UNKNOWN:
            return NEVER  # it is tried again once what it waits for is generated
        ready = max(ready, board.item[board.heap[k]].at)
    board.store[store].primary_at, board.store[store].by = NEVER, board.size[ASKER]
    board.store[board.size[RECOVERED]].recovered = store
    board.size[RECOVERED] += 1
    first, last = board.store[store].first_candidate, board.store[store].last_candidate
    if first == last or ready >= NEVER:
        return NEVER
    if board.store[store].elects:
        end = board.heap[board.base[CANDIDATE_TICKS] + first]
        if end > board.horizon:
            return NEVER
        board.store[store].candidate = board.heap[board.base[CANDIDATE] + first]
        board.store[store].primary_at = end
        return end
    held = board.size[HELD]
    since = board.store[store].backup
    at, fenced, by_hand = schedule(
        board, FENCE, board.store[store].fence_set, board.store[store].fence, since
    )
    if at >= NEVER:
        return NEVER
    ready = max(ready, fenced)
    best = _choose(board, store, ready, fenced, choice)
    if best == UNKNOWN:
        release_to(board, held)
        return NEVER
    begin, end, hand = schedule(
        board,
        PROMOTE,
        board.heap[board.base[CANDIDATE_SET] + best],
        board.heap[board.base[CANDIDATE_TICKS] + best],
        ready,
    )
    if end >= NEVER:
        # A fence without a promotion is useless: release its staff for others.
        release_to(board, held)
        return NEVER
    board.store[store].fence_at, board.store[store].fence_manual = at, by_hand
    board.store[store].promote_at, board.store[store].promote_manual = begin, hand
    board.store[store].candidate = board.heap[board.base[CANDIDATE] + best]
    board.store[store].until = fenced if board.store[store].is_fenced else begin
    board.store[store].primary_at = end
    return end


@inner
def _choose(board: Board, store: int, ready: int, fenced: int, choice: int) -> int:
    """The candidate that loses least, and of these the one that is there first; one that was chosen (1: the
    first) before all others. UNKNOWN if none can take over: what it lacks when writes stop, at the end of the
    fence or when it is promoted, may be too much.
    """
    best, best_end, freshest = UNKNOWN, NEVER, 4 * NEVER
    for k in range(board.store[store].first_candidate, board.store[store].last_candidate):
        begin, length, _ = when(
            board,
            PROMOTE,
            board.heap[board.base[CANDIDATE_SET] + k],
            board.heap[board.base[CANDIDATE_TICKS] + k],
            1,
            ready,
        )
        if begin >= NEVER:
            continue
        until_ms = board.tick_ms * (fenced if board.store[store].is_fenced else begin)
        fresh = _freshness(board, k, until_ms)
        if fresh > freshest and board.grace == 0:
            break
        if until_ms > board.heap[board.base[CANDIDATE_UNTIL] + k]:
            board.store[store].until = until_ms // board.tick_ms
            continue
        if fresh < freshest or (fresh == freshest and begin + length < best_end):
            best, best_end, freshest = k, begin + length, fresh
        if k == board.store[store].first_candidate + choice - 1:
            best, best_end, freshest = k, 0, -1
    return best


@inner
def _freshness(board: Board, candidate: int, until_ms: int) -> int:
    """Less is better: nothing waived, then the least loss, then a copy that is known to be up to date."""
    sent_ms, most = (
        board.heap[board.base[CANDIDATE_SENT] + candidate],
        board.heap[board.base[CANDIDATE_LOSS] + candidate],
    )
    waived = NEVER if until_ms > board.heap[board.base[CANDIDATE_FREE] + candidate] else 0
    if sent_ms == -NEVER:
        return waived + most
    lost_ms = max(0, min(most, until_ms - sent_ms))
    return waived + 2 * lost_ms + (1 if lost_ms > 0 else 0)


@inner
def _all_there(board: Board, component: int, waits: int, stores: int) -> int:
    """When everything is there that a component waits for by two tables (components and stores); generates
    the stores.
    """
    at = board.item[component].release
    for k in range(board.heap[board.base[waits] + component], board.heap[board.base[waits] + component + 1]):
        at = max(at, board.item[board.heap[k]].at)
    for k in range(
        board.heap[board.base[stores] + component], board.heap[board.base[stores] + component + 1]
    ):
        at = max(at, recover_store(board, board.heap[k], 0))
    return at


@inner
def ready_at(board: Board, component: int) -> int:
    """When everything is there that a component needs to serve."""
    return _all_there(board, component, WAIT, NEED_STORE)


@inner
def _startable_at(board: Board, component: int) -> int:
    """When everything is there that a component needs to start."""
    return _all_there(board, component, START_WAIT, START_STORE)


@inner
def start(board: Board, item: int, service: int, mile: int, count: int, since: int, options: Ints) -> bool:
    """Starts replicas on the rows pinned for the item, or on rows chosen now."""
    if board.size[PINNED]:
        return start_pinned(board, item, service, mile, since)
    open_spread(board, service)
    fits = start_replicas(board, service, mile, count, since, options[0], options[1], options[2])
    close_spread(board)
    return fits


@inner
def _start_members(board: Board, component: int, since: int, options: Ints) -> bool:
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        if board.service[service].base_starts == 0:
            continue
        fits = start(board, component, service, 0, board.service[service].base_starts, since, options)
        if not fits:
            return False
    return True


@inner
def _verify_members(board: Board, component: int, since: int, shift: int) -> int:
    """Verifies every member and (shift 1) moves its traffic; returns when the last is done."""
    end = since
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        at, then, by_hand = since, since + board.service[service].verify, 0
        if not board.service[service].alone:
            at, then, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, since)
        board.service[service].verify_at[0], board.service[service].verify_manual[0] = at, by_hand
        if shift and board.service[service].shift and then < NEVER:
            at, then, by_hand = schedule(
                board, SHIFT, board.service[service].shift_set, board.service[service].shift_ticks, then
            )
            board.service[service].shift_at, board.service[service].shift_manual = at, by_hand
        end = max(end, then)
    return end


@inner
def _is_out(board: Board, component: int) -> bool:
    """Whether a member can never return: its store does not, or its survivors or what it needs were shed."""
    for k in range(
        board.heap[board.base[NEED_UP] + component], board.heap[board.base[NEED_UP] + component + 1]
    ):
        other = board.service[board.heap[k]]
        # What may move never serves less: what moved of it was verified before it stopped.
        if other.left + (other.moved if other.movable else 0) < other.serves:
            return True
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        service = board.heap[k]
        if board.service[service].blocked or base_is_shed(board, service):
            return True
    return False


@inner
def _in_time(board: Board, component: int, end: int) -> bool:
    """Whether starts that end at a tick end while what they need still runs."""
    return board.item[component].start_by == 0 or end <= board.item[component].start_by


@inner
def _base(board: Board, component: int, options: Ints) -> None:
    """Generates the base of a component, or undoes all of it; what started ahead cannot be undone."""
    ahead = board.item[component].ahead if board.item[component].ahead < NEVER else UNKNOWN
    spoiled = board.size[SPOILED]
    board.item[component].at = NEVER
    board.size[SPOILED] = 1 if ahead > UNKNOWN else spoiled
    if _is_out(board, component):
        return
    ready = ready_at(board, component)
    if ready >= NEVER:
        return
    since = _startable_at(board, component)
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    end = NEVER
    board.item[component].at = AT_WORK
    board.item[component].why = FAILED_ROOM
    if ahead > UNKNOWN or _start_members(board, component, since, options):
        last = max(ahead, last_end(board, starts))
        started = max(ready, last)
        if _in_time(board, component, last):
            delay_starts(board, starts, started if _in_time(board, component, started) else last)
            delay_sheds_of(board, sheds, starts)
            end = _verify_members(board, component, started, 1)
        board.item[component].why = FAILED_TIME
    if end >= board.horizon:
        board.item[component].at = NEVER
        undo(board, held, starts, sheds, boots)
        for k in range(
            board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
        ):
            board.service[board.heap[k]].verify_at[0] = UNKNOWN
            board.service[board.heap[k]].shift_at = UNKNOWN
        return
    board.item[component].at = end
    board.size[SPOILED] = spoiled
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        board.service[board.heap[k]].base_at = end


@inner
def write_off(board: Board, component: int) -> int:
    """Whether a component is left for last: so that what it needs may make way for others, or put off until
    what was shed has started again (PUT_OFF).
    """
    written_off = 0
    for k in range(
        board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
    ):
        written_off = max(written_off, board.service[board.heap[k]].written_off)
    return written_off


@inner
def puts_off(board: Board) -> int:
    """1 if anything is put off until what was shed has started again, else 0."""
    found = 0
    for service in board.service:
        found = 1 if service.written_off == PUT_OFF else found
    return found


@inner
def run_ahead(board: Board, component: int, options: Ints) -> None:
    """Starts a component before what it needs only to serve is generated, unless that would shed."""
    board.item[component].ahead = NEVER
    board.size[ASKER] = board.components + len(board.service) + len(board.store) + component
    if _is_out(board, component) or write_off(board, component):
        return
    since = _startable_at(board, component)
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    board.item[component].at = AT_WORK
    bar(board, board.size[ASKER], options[ROWS])
    fits = since < NEVER and _start_members(board, component, since, options)
    fits = fits and _in_time(board, component, last_end(board, starts))
    if fits and board.size[SHEDS] == sheds:
        board.item[component].ahead = last_end(board, starts)
    else:
        board.item[component].at = UNKNOWN
        undo(board, held, starts, sheds, boots)
    _advance(board)


@inner
def start_late(board: Board, component: int, options: Ints) -> None:
    """Starts a component whose traffic cannot be moved before the horizon: it serves after that."""
    board.size[ASKER] = component
    ready, since = ready_at(board, component), _startable_at(board, component)
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    end = NEVER
    if ready < NEVER and _start_members(board, component, since, options):
        last = last_end(board, starts)
        if _in_time(board, component, last):
            end = _verify_members(board, component, max(ready, last), 0)
    if end > board.horizon or board.size[SHEDS] > sheds:
        undo(board, held, starts, sheds, boots)
        for k in range(
            board.heap[board.base[MEMBER] + component], board.heap[board.base[MEMBER] + component + 1]
        ):
            board.service[board.heap[k]].verify_at[0] = UNKNOWN


@inner
def _top(board: Board, service: int, options: Ints) -> None:
    """Generates the top of a service, or undoes all of it."""
    board.service[service].top_own = NEVER
    since = board.item[board.service[service].component].release
    ready = since
    if (
        board.service[service].base_at >= NEVER
        or board.service[service].left < board.service[service].surviving
    ):
        return
    if board.service[service].base_lost:
        ready = ready_at(board, board.service[service].component)
        since = _startable_at(board, board.service[service].component)
        if board.item[board.service[service].component].start_by > 0:
            since = max(since, board.service[service].base_at)
    held, starts = board.size[HELD], board.size[STARTS]
    sheds, boots = board.size[SHEDS], board.size[BOOTS]
    begin_item(board)
    item = board.components + service
    fits = start(board, item, service, 1, board.service[service].top_starts, since, options)
    end = NEVER
    if fits:
        started = max(ready, last_end(board, starts))
        delay_starts(
            board, starts, max(started, board.service[service].base_at - board.service[service].verify)
        )
        delay_sheds_of(board, sheds, starts)
        started = max(ready, last_end(board, starts))
        at, end, by_hand = schedule(board, VERIFY, 0, board.service[service].verify, started)
        board.service[service].verify_at[1], board.service[service].verify_manual[1] = at, by_hand
    if end >= board.horizon:
        undo(board, held, starts, sheds, boots)
        board.service[service].verify_at[1] = UNKNOWN
        return
    board.service[service].top_own = end
    board.service[service].top_done = True


@inner
def run_item(board: Board, item: int, options: Ints, again: int) -> None:
    """Generates one item whose needs are generated.

    IN_TURN: and records that it ran. AGAIN: a component that found no capacity in its turn may find some now.
    """
    board.size[ASKER] = item
    bar(board, UNKNOWN, 0)
    if again == IN_TURN:
        bar(board, item, options[ROWS])
        board.item[board.size[RAN]].ran = item
        board.size[RAN] += 1
    if item >= board.components:
        _top(board, item - board.components, options)
    elif again == IN_TURN and write_off(board, item):
        board.item[item].at = NEVER
    else:
        _base(board, item, options)
    if board.size[PINNED] == 0:
        _advance(board)


@inner
def set_mark(board: Board) -> None:
    """Records the state of the generation, to return to it."""
    for k in range(RECOVERED + 1):
        board.mark[k] = board.size[k]
    board.mark[EVENTS] = board.size[EVENTS]
    for group in board.group:
        group.boot_mark, group.hand_mark = group.boot_since, group.hand_since


@inner
def back_to_mark(board: Board) -> None:
    """Undoes every item since the mark, and the stores they restored."""
    board.size[EVENTS] = board.mark[EVENTS]
    undo(board, board.mark[HELD], board.mark[STARTS], board.mark[SHEDS], board.mark[BOOTS])
    for group in board.group:
        group.boot_since, group.hand_since = group.boot_mark, group.hand_mark
    while board.size[RECOVERED] > board.mark[RECOVERED]:
        board.size[RECOVERED] -= 1
        store = board.store[board.store[board.size[RECOVERED]].recovered]
        store.primary_at, store.candidate = UNKNOWN, UNKNOWN
    while board.size[RAN] > board.mark[RAN]:
        board.size[RAN] -= 1
        _forget(board, board.item[board.size[RAN]].ran)


@inner
def give_up(board: Board, component: int) -> None:
    """Counts a component that was undone as one that found no capacity."""
    _forget(board, component)
    board.item[component].done, board.item[component].at = 1, NEVER
    board.item[component].why = FAILED_ROOM


@inner
def _forget(board: Board, item: int) -> None:
    board.item[item].done, board.item[item].at, board.item[item].why = 0, UNKNOWN, 0
    if item >= board.components:
        service = board.service[item - board.components]
        service.top_own, service.top_done, service.verify_at[1] = UNKNOWN, 0, UNKNOWN
        return
    for k in range(board.heap[board.base[MEMBER] + item], board.heap[board.base[MEMBER] + item + 1]):
        service = board.service[board.heap[k]]
        service.base_at, service.verify_at[0], service.shift_at = NEVER, UNKNOWN, UNKNOWN
