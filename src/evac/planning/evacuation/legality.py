"""The hard rules of tiers and of sheds.

Nothing stays down for lack of capacity that strictly lower tiers hold. The rule is broken if a service that
is not back, or was shed and does not fit at the end, would fit once every lower-tier replica was removed that
neither it nor any live service needs. Counted generously, by racks, feeds and sites separately. If it could
not be started, verified and given its traffic before the horizon, alongside everything planned and after any
required shed, then time is short, not capacity.

Nothing is shed that could have stayed: that would fit on its own server at the end, because more was shed
there later for something else. And nothing goes below its base while a remaining service needs it.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

from evac.planning.compiled import inner, kernel
from evac.planning.evacuation.board import (
    HARD_USER,
    HELD,
    MEMBER,
    NEED_STORE,
    NEED_UP,
    NEVER,
    ON_ROW,
    SHED,
    SHEDS,
    SHIFT,
    START,
    START_STORE,
    START_WAIT,
    STARTS,
    TURN,
    VERIFY,
    WAIT,
    Board,
    Ints,
    close_spread,
    open_spread,
)
from evac.planning.evacuation.shed_time import sheds_over
from evac.planning.evacuation.shedding import base_is_shed, is_dead, keep_at_home, leave_home
from evac.planning.evacuation.timing import fits_at, hands, release_to, reserve, schedule, when

NOTHING: Final = -2
"""`spare` represents nothing known."""
BARE: Final = -1
"""`spare` is the present capacity; for a tier: as if everything below it that may leave were gone."""


@inner
def _lacks_capacity(board: Board, service: int) -> bool:
    """Whether a service is down at the end although everything it waits for is there."""
    record = board.service[service]
    if record.blocked or not _needs_stand(board, service):
        return False
    if base_is_shed(board, service) and not record.base_lost:
        return True
    if not record.base_lost or board.item[record.component].at < NEVER:
        return False
    first, last = (
        board.heap[board.base[WAIT] + record.component],
        board.heap[board.base[WAIT] + record.component + 1],
    )
    missing = 0
    for k in range(first, last):
        missing += board.item[board.heap[k]].at >= NEVER
    return missing == 0


@inner
def _needs_stand(board: Board, service: int) -> bool:
    """Whether all other running services that a service hard-depends on are still there."""
    component = board.service[service].component
    first, last = board.heap[board.base[NEED_UP] + component], board.heap[board.base[NEED_UP] + component + 1]
    gone = 0
    for k in range(first, last):
        gone += board.heap[k] != service and base_is_shed(board, board.heap[k])
    return gone == 0


@inner
def _may_leave(board: Board, service: int) -> bool:
    """Whether no live service hard-depends on a service."""
    first, last = board.heap[board.base[HARD_USER] + service], board.heap[board.base[HARD_USER] + service + 1]
    alive = 0
    for k in range(first, last):
        alive += not is_dead(board, board.heap[k])
    return alive == 0


@inner
def _spare_capacity(board: Board) -> None:
    """`spare` of every row: its capacity once every server that is brought up is on."""
    for row in board.row:
        for r in range(len(board.need)):
            row.spare[r] = row.free[r] if row.on_at >= 0 or row.rises else 0


@inner
def _hold_back(board: Board, first: int) -> int:
    """Keeps everything that a down component waits for; returns how many services that holds back."""
    turn = board.size[TURN] + 1
    board.size[TURN] = turn
    held_back, depth = 0, 1
    board.item[0].stack, board.item[first].seen = first, turn
    while depth > 0:
        depth -= 1
        component = board.item[depth].stack
        for k in range(
            board.heap[board.base[NEED_UP] + component], board.heap[board.base[NEED_UP] + component + 1]
        ):
            held_back += board.service[board.heap[k]].leaves
            board.service[board.heap[k]].leaves = 0
            other = board.service[board.heap[k]].component
            if board.item[other].seen != turn:
                board.item[other].seen = turn
                board.item[depth].stack = other
                depth += 1
        for k in range(
            board.heap[board.base[WAIT] + component], board.heap[board.base[WAIT] + component + 1]
        ):
            other = board.heap[k]
            if board.item[other].seen == turn:
                continue
            board.item[other].seen = turn
            board.item[depth].stack = other
            depth += 1
            for m in range(
                board.heap[board.base[MEMBER] + other], board.heap[board.base[MEMBER] + other + 1]
            ):
                held_back += board.service[board.heap[m]].leaves
                board.service[board.heap[m]].leaves = 0
    return held_back


@inner
def _sheds_can_be(board: Board) -> bool:
    """Whether anything can be shed: not if the tools for it are lost and people have no way."""
    at, _, _ = when(board, SHED, 0, 0, 1, 0)
    return at < NEVER


@inner
def _add_leaving(board: Board, tier: int) -> None:
    """Adds to `spare` everything held by lower tiers that may leave."""
    width = len(board.need)
    for line in range(board.size[STARTS]):
        entry = board.started[line]
        service = board.service[entry.service]
        if service.tier > tier and service.leaves:
            for r in range(width):
                board.row[entry.row].spare[r] += service.demand[r]
    if not _sheds_can_be(board):
        return
    for entry in board.present:
        service = board.service[entry.service]
        if service.sheddable and service.tier > tier and service.leaves:
            for r in range(width):
                board.row[entry.row].spare[r] += entry.left * service.demand[r]


@inner
def _lower_stands(board: Board, service: int) -> bool:
    """Whether a lower tier that may leave keeps or gets anything where a service may run."""
    tier = board.service[service].tier
    for line in range(board.size[STARTS]):
        entry = board.started[line]
        other = board.service[entry.service]
        lower = other.tier > tier and other.leaves
        if lower and board.eligible[service, board.row[entry.row].pool]:
            return True
    if not _sheds_can_be(board):
        return False
    for entry in board.present:
        other = board.service[entry.service]
        lower = other.sheddable and other.tier > tier and other.leaves and entry.left > 0
        if lower and board.eligible[service, board.row[entry.row].pool]:
            return True
    return False


@inner
def _fits_alone(board: Board, service: int, number: int, wanted: int) -> int:
    """Replicas of the open service that fit on a row's spare capacity by itself; at most `wanted`."""
    record, row, most = board.service[service], board.row[number], wanted
    if not board.eligible[service, row.pool]:
        return 0
    for r in range(len(board.need)):
        if record.demand[r] > 0:
            most = min(most, row.spare[r] // record.demand[r])
    if most > 0 and not row.is_pool:
        most = min(most, record.per_server - row.count, 1 if record.conflict >= 0 else wanted)
        if row.rack >= 0:
            most = min(most, record.rack_cap - board.place[row.rack].rack)
        if row.feed >= 0:
            most = min(most, record.feed_cap - board.place[row.feed].feed)
    return max(most, 0)


@inner
def _would_fit(board: Board, service: int, wanted: int) -> bool:
    """Whether `wanted` replicas would fit on the spare capacity of rows, checking each kind of spread
    separately.
    """
    record = board.service[service]
    open_spread(board, service)
    for place in board.place:
        place.fits = place.rack_fits = place.feed_fits = 0
    by_rack, by_feed, by_site = 0, 0, 0
    for number in range(len(board.row)):
        most = _fits_alone(board, service, number, wanted)
        if most <= 0:
            continue
        row = board.row[number]
        if row.rack >= 0 and not row.is_pool:
            board.place[row.rack].rack_fits += most
        else:
            by_rack += most
        if row.feed >= 0 and not row.is_pool:
            board.place[row.feed].feed_fits += most
        else:
            by_feed += most
        if row.site >= 0:
            board.place[row.site].fits += most
        else:
            by_site += most
    for number in range(len(board.place)):
        place = board.place[number]
        by_rack += max(0, min(place.rack_fits, record.rack_cap - place.rack))
        by_feed += max(0, min(place.feed_fits, record.feed_cap - place.feed))
        by_site += max(0, min(place.fits, record.site_cap - place.site))
    close_spread(board)
    return min(by_rack, by_feed, by_site) >= wanted


@inner
def _shed_ticks(board: Board, service: int, row: int) -> tuple[int, int]:
    """Least ticks of a shed that a replica needs on a row's spare capacity: (of one already done, unless what
    those free is taken; of one still to do); (0, 0) if no shed is needed, NEVER if there is no capacity.
    """
    first, last = board.heap[board.base[ON_ROW] + row], board.heap[board.base[ON_ROW] + row + 1]
    short, taken = 0, 0
    for r in range(len(board.need)):
        left = board.row[row].spare[r]
        freed = 0
        for k in range(first, last):
            entry = board.present[board.heap[k]]
            victim = board.service[entry.service]
            goes = victim.tier > board.service[service].tier and victim.leaves
            left -= entry.left * victim.demand[r] if goes else 0
            freed += (entry.count - entry.left) * victim.demand[r]
        taken += left < board.service[service].demand[r]
        short += left - freed < board.service[service].demand[r]
    if short == 0:
        return 0, 0
    done, due = NEVER, NEVER
    for k in range(first, last):
        entry = board.present[board.heap[k]]
        victim = board.service[entry.service]
        if entry.left < entry.count and taken == 0:
            done = min(done, victim.shed)
        if entry.left > 0 and victim.tier > board.service[service].tier and victim.leaves:
            due = min(due, victim.shed)
    return done, due


@inner
def _find_ready(board: Board, service: int) -> None:
    """Sets `time` of source p: the first tick at which a row of pool p with capacity is on and has freed it.

    `cursor` of source p is the shortest shed found in pool p: a longer one ends no earlier.
    """
    open_spread(board, service)
    for pool in range(len(board.pool)):
        board.source[pool].time, board.source[pool].cursor = NEVER, NEVER
    for number in range(len(board.row)):
        row = board.row[number]
        source = board.source[row.pool]
        if max(row.on_at, 0) >= source.time or _fits_alone(board, service, number, 1) <= 0:
            continue
        ready, due = _shed_ticks(board, service, number)
        if due < min(ready, source.cursor):
            source.cursor = due
            at, length, _ = when(board, SHED, board.pool[row.pool].shed_set, due, 1, 0)
            ready = min(ready, at + length)
        source.time = min(source.time, max(row.on_at, ready))
    close_spread(board)


@inner
def _needs_met(board: Board, service: int, waits: int, stores: int) -> int:
    """When the components and stores that a service waits for, by two tables, are there."""
    component = board.service[service].component
    at = board.item[component].release
    for k in range(board.heap[board.base[waits] + component], board.heap[board.base[waits] + component + 1]):
        at = max(at, board.item[board.heap[k]].at)
    for k in range(
        board.heap[board.base[stores] + component], board.heap[board.base[stores] + component + 1]
    ):
        at = max(at, board.store[board.heap[k]].primary_at)
    return at


@inner
def _next_start(board: Board, service: int, since: int) -> tuple[int, int, int, int]:
    """Pool, tick, length, by hand or not: the start on a row that `_find_ready` found which ends first."""
    found, found_at, found_length, found_by_hand = -1, NEVER, 0, 0
    for pool in range(len(board.pool)):
        ready = max(since, board.source[pool].time)
        if ready >= NEVER:
            continue
        uses = board.pool[pool].start_set
        at, length, by_hand = when(board, START, uses, board.service[service].start, 1, ready)
        if at < NEVER and (found < 0 or at + length < found_at + found_length):
            found, found_at, found_length, found_by_hand = pool, at, length, by_hand
    return found, found_at, found_length, found_by_hand


@inner
def _all_started(board: Board, service: int, wanted: int, since: int) -> int:
    """When `wanted` starts would have ended, each as early as holds allow; NEVER if impossible."""
    end = since
    while wanted > 0 and board.size[HELD] + 3 < len(board.held):
        pool, at, length, by_hand = _next_start(board, service, since)
        if pool < 0:
            return NEVER
        uses, people = board.pool[pool].start_set, hands(board, START, by_hand)
        count = min(wanted, fits_at(board, uses, people, length, at))
        reserve(board, uses, people, length, count, at)
        end = max(end, at + length)
        wanted -= count
    return end


@inner
def _has_time(board: Board, service: int, wanted: int) -> bool:
    """Whether a service that lacks `wanted` replicas could be back before the horizon. Ignores capacity, but
    for how many sheds it takes at least: the last start follows the last of them.
    """
    held = board.size[HELD]
    record = board.service[service]
    _find_ready(board, service)
    end = _all_started(board, service, wanted, _needs_met(board, service, START_WAIT, START_STORE))
    start_by = board.item[record.component].start_by
    end = NEVER if 0 < start_by < end else end
    if end < NEVER:
        over = sheds_over(board, service, wanted)
        end = max(end, over + record.start, _needs_met(board, service, WAIT, NEED_STORE))
    if end < NEVER:
        _, end, _ = schedule(board, VERIFY, 0, record.verify, end)
    if end < NEVER and record.shift:
        _, end, _ = schedule(board, SHIFT, record.shift_set, record.shift_ticks, end)
    release_to(board, held)
    return end < board.horizon


@inner
def _missing(board: Board, service: int) -> int:
    """Replicas that a down service lacks to serve."""
    record = board.service[service]
    missing = record.serves - record.left
    entry = record.head
    while entry >= 0:
        missing -= 1
        entry = board.started[entry].next
    return missing


@inner
def _mark_leaving(board: Board) -> None:
    for service in range(len(board.service)):
        may_leave = board.service[service].movable == 0 and _may_leave(board, service)
        board.service[service].leaves = 1 if may_leave else 0


@inner
def _capacity_without(board: Board, tier: int, known: int) -> int:
    """Sets `spare` as if everything below a tier that may leave were gone; known: its present meaning."""
    if known != tier:
        if known != BARE:
            _spare_capacity(board)
        _add_leaving(board, tier)
    return tier


@kernel
def lack_time(board: Board, services: Ints, flags: Ints) -> None:
    """Flags down services that could not be back before the horizon even with unlimited capacity."""
    _mark_leaving(board)
    known = NOTHING
    for k in range(len(services)):
        service = services[k]
        held_back = _hold_back(board, board.service[service].component)
        known = _capacity_without(board, board.service[service].tier, NOTHING if held_back else known)
        wanted = _missing(board, service)
        flags[k] = _would_fit(board, service, wanted) and not _has_time(board, service, wanted)
        if held_back:
            _mark_leaving(board)
            known = NOTHING


@kernel
def breaks_rules(board: Board) -> bool:
    """Whether the generation leaves a service down that lower tiers should make way for, or sheds what could
    have stayed or what is needed.
    """
    return first_idle_shed(board, 0) >= 0 or _sheds_what_is_needed(board) or breaches(board, 1) > 0


@inner
def _sheds_what_is_needed(board: Board) -> bool:
    """Whether the base of something was shed that a live service hard-depends on."""
    needed = 0
    for line in range(board.size[SHEDS]):
        victim = board.present[board.shed[line].entry].service
        needed += base_is_shed(board, victim) and not _may_leave(board, victim)
    return needed > 0


@kernel
def first_idle_shed(board: Board, since: int) -> int:
    """First line of the shed log from `since` on of which a replica could have stayed; or -1."""
    for line in range(since, board.size[SHEDS]):
        entry = board.present[board.shed[line].entry]
        row, fits = board.row[entry.row], 1
        for r in range(len(board.need)):
            fits = 0 if board.service[entry.service].demand[r] > row.free[r] else fits
        if fits and (row.on_at >= 0 or row.rises):
            return line
    return -1


@inner
def _is_breach(board: Board, service: int, wanted: int, known: int) -> tuple[bool, int]:
    """Whether a service that lacks `wanted` replicas would have its capacity if lower tiers made way, and
    time to use it; and the new meaning of `spare`.
    """
    runs = not board.service[service].base_lost
    if runs:
        keep_at_home(board, service)
    breach, fits = False, False
    if base_is_shed(board, service):
        if known != BARE:
            known = BARE
            _spare_capacity(board)
        fits = _would_fit(board, service, wanted)
    if not fits:
        breach, known = _lower_should_go(board, service, wanted, known)
    if runs:
        leave_home(board, service)
    return breach, known


@inner
def _lower_should_go(board: Board, service: int, wanted: int, known: int) -> tuple[bool, int]:
    """Like `_is_breach`, for replicas that do not fit beside everything."""
    breach, held_back = False, _hold_back(board, board.service[service].component)
    if _lower_stands(board, service):
        known = _capacity_without(board, board.service[service].tier, NOTHING if held_back else known)
        breach = _would_fit(board, service, wanted) and _has_time(board, service, wanted)
    if held_back:
        _mark_leaving(board)
        known = NOTHING
    return breach, known


@kernel
def breaches(board: Board, most: int) -> int:
    """Marks (`breach`) the first `most` services that are down although lower tiers hold capacity; returns
    how many.
    """
    for record in board.service:
        record.breach = 0
    count, marked, known = 0, False, NOTHING
    for service in range(len(board.service)):
        if count == most:
            break
        if not _lacks_capacity(board, service):
            continue
        if not marked:
            marked = True
            _mark_leaving(board)
        wanted = _missing(board, service)
        if wanted <= 0:
            continue
        breach, known = _is_breach(board, service, wanted, known)
        if breach:
            board.service[service].breach = 1
            count += 1
    return count
